"""Datasets as the format wants them: chunked, checksummed, with units and scales, always the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from data.measurement import Scale

CHUNK_BYTES = 2**20


def chunk_shape(shape: tuple[int, ...], itemsize: int, *, frames: bool) -> tuple[int, ...]:
    """Chunks of about 1 MiB of whole trailing axes; with `frames`, never across the first axis."""
    room = max(1, CHUNK_BYTES // itemsize)
    chunks = [1] * len(shape)
    for i in range(len(shape) - 1, -1, -1):
        if i == 0 and frames:
            break
        chunks[i] = min(shape[i], max(1, room))
        room //= chunks[i]
    return tuple(chunks)


def write_array(
    group: h5py.Group,
    name: str,
    values: Any,
    *,
    units: str | None = None,
    frames: bool = False,
    compressed: bool = False,
    **attrs: Any,
) -> h5py.Dataset:
    """One dataset; arrays get a checksum, scalars cannot have one."""
    array = np.asarray(values)
    options: dict[str, Any] = {}
    if array.ndim and array.size:
        options = {"chunks": chunk_shape(array.shape, array.itemsize, frames=frames), "fletcher32": True}
        if compressed:
            options.update(compression="gzip", compression_opts=4, shuffle=True)
    dataset = group.create_dataset(name, data=array, track_times=False, **options)
    if units is not None:
        dataset.attrs["units"] = units
    for key, value in attrs.items():
        if value is not None and value != "":
            dataset.attrs[key] = value
    return dataset


def write_scales(group: h5py.Group, dataset: h5py.Dataset, axes: tuple[str, ...], scales: Mapping[str, Scale]) -> None:
    """The coordinates of `dataset` beside it in `group`, attached as dimension scales and labels."""
    for i, name in enumerate(axes):
        scale = scales[name]
        written = write_array(group, name, scale.values, units=scale.units, long_name=scale.long_name)
        written.make_scale(name)
        dataset.dims[i].attach_scale(written)
        dataset.dims[i].label = name
