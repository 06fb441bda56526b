"""NumPy's .npy and .npz, whose arrays a mapping file names. Nothing is unpickled."""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from data.convert.mapping import from_mapping
from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.hdf5 import short
from data.measurement import Array, Measurement

#: The name of the only array of an .npy file.
ONLY = "data"


def from_numpy(source: Path, options: ConvertOptions) -> Measurement:
    """The arrays by the mapping file, dimensions in NumPy's order; that of an .npy file is called `data`."""
    if options.mapping is None:
        raise DataFormatError(
            f"{source}: NumPy arrays need a mapping file, which says what each is; write {source.name}.toml beside it, "
            "or give --mapping (docs/formats.md)"
        )
    return from_mapping(source, read_numpy(source), options, "NumPy")


def read_numpy(source: Path) -> dict[str, Array]:
    """The arrays of an .npy or .npz file.

    Raises:
        DataFormatError: neither of them, damaged, or arrays of Python objects.
    """
    try:
        if not zipfile.is_zipfile(source):
            with source.open("rb") as stream:
                return {ONLY: _array(stream, source.stat().st_size)}
        with zipfile.ZipFile(source) as archive:
            found = {}
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    with archive.open(info) as member:
                        found[info.filename.removesuffix(".npy")] = _array(member, info.file_size)
            return found
    except (
        *(OSError, ValueError, EOFError, NotImplementedError, RuntimeError, MemoryError),  # also encrypted ones
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    ) as e:
        raise DataFormatError(f"{source}: expected NumPy arrays, found something else ({short(e)})") from e


def _array(stream: IO[bytes], n_bytes: int) -> Array:
    """One array; no more is allocated than there is."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array header of version {version}")
    try:
        shape, fortran, dtype = read(stream)
    except Exception as e:  # it is a line of Python, and answers damage as Python's parser does
        raise ValueError(f"an array header that cannot be read: {short(e)}") from e
    if dtype.kind not in "biufc":
        raise ValueError(f"an array of {dtype}")
    wanted = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or wanted > n_bytes:
        raise ValueError(f"shape {shape} declared, {n_bytes} bytes stored")
    content = stream.read(wanted)
    if len(content) != wanted:
        raise ValueError(f"shape {shape} declared, {len(content)} bytes stored")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
