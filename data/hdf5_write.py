"""Datasets as the format wants them: chunked, checksummed, with units and scales, always the same bytes."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import h5py
import numpy as np

from data.errors import DataFormatError
from data.measurement import Scale

CHUNK_BYTES = 2**20
_NUMPY = {"f8": "<f8", "f4": "<f4", "i4": "<i4", "u1": "u1", "c8": "<c8"}


def exact(value: Any, dtype: str, path: str) -> Any:
    """`value` in the dtype of the format; only precision may be lost, never a digit of an integer.

    Raises:
        DataFormatError: other numbers.
    """
    array = np.asarray(value)
    target = np.dtype(_NUMPY[dtype])
    if array.dtype.kind not in "fciub" or (array.dtype.kind == "c" and target.kind != "c"):
        raise DataFormatError(f"{path}: expected {target.name}, got {array.dtype}; convert it first")
    converted = array.astype(target)
    if target.kind in "iu" and not (converted == array).all():
        raise DataFormatError(f"{path}: expected whole numbers that {target.name} holds, got others; round them first")
    return converted


def storable(text: str, path: str) -> str:
    """`text` as HDF5 can keep it: bytes of a file name that are no UTF-8 become backslashes and digits.

    Raises:
        DataFormatError: a null character, which ends a text in HDF5.
    """
    if "\x00" in text:
        raise DataFormatError(f"{path}: expected text without null characters, got {text[:80]!r}; remove them")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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
    for key, value in {"units": units, **attrs}.items():
        if value is not None and value != "":
            dataset.attrs[key] = storable(value, f"{dataset.name}@{key}") if isinstance(value, str) else value
    return dataset


def write_scales(
    group: h5py.Group,
    dataset: h5py.Dataset,
    axes: tuple[str, ...],
    scales: Mapping[str, Scale],
    *,
    index: Container[str] = (),
) -> None:
    """The coordinates of `dataset` beside it in `group`, attached as dimension scales; int32 for `index` axes."""
    for name in axes:
        scale = scales[name]
        values = exact(scale.values, "i4" if name in index else "f8", f"{group.name}/{name}")
        write_array(group, name, values, units=scale.units, long_name=scale.long_name).make_scale(name)
    attach_scales(group, dataset, axes)


def attach_scales(group: h5py.Group, dataset: h5py.Dataset, axes: tuple[str, ...]) -> None:
    """Label the dimensions of `dataset` and give them the scales of those names in `group`."""
    for i, name in enumerate(axes):
        dataset.dims[i].attach_scale(group[name])
        dataset.dims[i].label = name
