"""Opening a reconstruction that may be larger than memory: its volume stays in the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from data import DataFormatError, read_reconstruction
from data.hdf5 import DAMAGE, FormatProblem, open_file
from data.measurement import Volume
from data.reconstruction import Reconstruction
from data.reconstruction_reader import ReconstructionParts, inspect_reconstruction
from data.units import to_si

#: Volumes of more bytes stay in the file.
MEMORY_BYTES = 2**28


class InFile:
    """A dataset read piece by piece; the file is open only while one is read.

    Raises:
        OSError: on reading, when the file has gone or is damaged there, naming it.
    """

    def __init__(self, path: Path, name: str, dataset: h5py.Dataset) -> None:
        self.path, self.name = path, name
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        try:
            with h5py.File(self.path, "r") as file:
                values: NDArray[Any] = file[self.name][key]
                return values
        except DAMAGE as e:
            raise OSError(f"{self.path}: {self.name} can no longer be read; open the file again ({e})") from e


def open_result(path: str | os.PathLike[str], *, memory_bytes: int = MEMORY_BYTES) -> Reconstruction:
    """A reconstruction file; one of more than `memory_bytes` with a dask array as its volume's data.

    What stays in the file is checked for its layout, units and checksums as it is read, not for NaN.

    Raises:
        DataFormatError: the first error found, in one sentence.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            inspector, parts = inspect_reconstruction(file, deep=False)
            for finding in inspector.findings:
                if finding.severity == "error":
                    raise finding.raised(path)
            stored = parts.stored
            assert stored is not None
            if int(np.prod(stored.shape)) * stored.parts[0].dtype.itemsize <= memory_bytes or stored.layout != "plain":
                whole = True
            else:
                whole, data = False, InFile(path, stored.path, stored.parts[0])
    except FormatProblem as e:
        raise e.finding.raised(path) from e
    if whole:
        return read_reconstruction(path)
    warnings = tuple(finding.sentence(path) for finding in inspector.findings)
    return _in_file(path, parts, data, warnings)


def _in_file(path: Path, parts: ReconstructionParts, data: InFile, warnings: tuple[str, ...]) -> Reconstruction:
    import dask.array as da

    layout = parts.layout
    if layout is None or parts.modality is None or len(parts.scales) != len(layout.axes):
        raise DataFormatError(f"{path}: /volume: expected axes with their coordinates, found others; see validate")
    block = tuple(n if axis in ("y", "x") else 1 for axis, n in zip(layout.file_axes, data.shape, strict=True))
    array = da.from_array(data, chunks=block, lock=True, asarray=True)
    if layout.axes != layout.file_axes:
        array = array.transpose([layout.file_axes.index(name) for name in layout.axes])
    factor, units = to_si(1.0, parts.units, wanted=("1", "1/m", "m", "s", "V", "W", "Hz"))
    array = (array * np.float32(factor) if float(factor) != 1 else array).astype(
        np.complex64 if data.dtype.kind == "c" else np.float32
    )
    volume = Volume(data=array, axes=layout.axes, scales=parts.scales, units=units, quantity=parts.quantity)
    return Reconstruction(
        modality=parts.modality,
        volume=volume,
        convergence=parts.convergence,
        metrics=parts.metrics,
        provenance=parts.provenance,
        status=parts.attrs.get("status", "complete"),
        attrs={name: value for name, value in parts.attrs.items() if name != "status"},
        warnings=warnings,
    )
