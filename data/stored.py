"""Datasets as the format sees them: one complex number however it is stored, nothing allocated unchecked."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from data.hdf5 import DAMAGE, attribute, damaged, get_object, problem, short
from data.measurement import Array

# No lossless filter in use beats deflate's 1032 : 1 by much, except on constant data.
_MAX_COMPRESSION = 2000
_SMALL_BYTES = 2**26

_FILTERS = {
    307: "bzip2",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "Bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32017: "SZ",
    32024: "SZ3",
    32026: "Blosc2",
    4: "SZIP",
}


@dataclass(frozen=True)
class Stored:
    """A dataset as the format sees it: complex numbers are one number, however they are stored.

    Args:
        path: HDF5 path, for messages (of the first part, when there are two).
        shape: logical shape, without the axis of 2 of an interleaved layout.
        kind: "complex", "float", "int", "bool" or "str".
        layout: "plain", "compound", "interleaved" or "pair".
        parts: the one or two datasets.
    """

    path: str
    shape: tuple[int, ...]
    kind: str
    layout: str
    parts: tuple[h5py.Dataset, ...]

    @property
    def attrs_of(self) -> h5py.Dataset:
        """The dataset that carries the attributes."""
        return self.parts[0]

    @property
    def dtype_name(self) -> str:
        """How the numbers are stored, for people: "complex64", "{real, imag} float32"."""
        dtype = self.parts[0].dtype
        if self.kind == "str":
            return "text"
        if self.layout == "compound":
            return "{" + ", ".join(dtype.names) + "} " + str(dtype[0])
        words = {"plain": "", "interleaved": " in an interleaved complex layout", "pair": " pair"}
        return dtype.newbyteorder("=").name + words[self.layout]

    @property
    def storage_bytes(self) -> int:
        """Bytes in the file, after compression."""
        return sum(int(part.id.get_storage_size()) for part in self.parts)

    def load(self) -> Array:
        """All samples, in the layout's natural type: complex64 stays complex64, by view where possible.

        Raises:
            FormatProblem: samples never written, too many for memory, checksum wrong, filter missing.
        """
        arrays = [_read_all(part, _path_of(part, self.path)) for part in self.parts]
        first = arrays[0]
        if self.layout == "pair":
            return _join(arrays[0], arrays[1])
        if self.layout == "interleaved":
            if first.dtype.kind == "f" and first.dtype.itemsize in (4, 8):
                native = np.ascontiguousarray(first, dtype=first.dtype.newbyteorder("="))
                return native.view(np.complex64 if native.itemsize == 4 else np.complex128)[..., 0]
            return _join(first[..., 0], first[..., 1])
        if self.layout == "compound":
            return _view_compound(first)
        if first.dtype.kind in "fciu" and not first.dtype.isnative:
            return first.astype(first.dtype.newbyteorder("="))
        return first


def _path_of(dataset: h5py.Dataset, fallback: str) -> str:
    return dataset.name or fallback


def _join(real: Array, imag: Array) -> Array:
    double = max(real.dtype.itemsize, imag.dtype.itemsize) > 4
    out = np.empty(real.shape, np.complex128 if double else np.complex64)
    out.real, out.imag = real, imag
    return out


def _view_compound(array: Array) -> Array:
    real, imag = _complex_fields(array.dtype) or ("r", "i")
    item = array.dtype[real]
    packed = np.dtype([(real, item), (imag, item)])
    if array.dtype == packed and item.isnative and item.kind == "f" and item.itemsize in (4, 8):
        return array.view(np.complex64 if item.itemsize == 4 else np.complex128)
    return _join(array[real], array[imag])


def _complex_fields(dtype: np.dtype[Any]) -> tuple[str, str] | None:
    by_lower = {name.lower(): name for name in dtype.names or ()}
    for real, imag in (("r", "i"), ("real", "imag"), ("re", "im")):
        if set(by_lower) == {real, imag}:
            return by_lower[real], by_lower[imag]
    return None


def find_dataset(file: h5py.File, path: str) -> Stored | None:
    """The dataset at `path`, or the pair `path`_real and `path`_imag; None when there is neither.

    Raises:
        FormatProblem: a group there, a half of a pair, a dangling link, a layout that is not understood.
    """
    whole = get_object(file, path)
    if whole is not None:
        if not isinstance(whole, h5py.Dataset):
            raise problem(
                "BC204",
                path,
                expected="a dataset",
                found="a group",
                fix="store the array under this very name",
            )
        return _describe(whole, path)
    real, imag = get_object(file, path + "_real"), get_object(file, path + "_imag")
    if real is None and imag is None:
        return None
    if not isinstance(real, h5py.Dataset) or not isinstance(imag, h5py.Dataset):
        raise problem(
            "BC206",
            path,
            expected=f"both {path}_real and {path}_imag",
            found="one of the two",
            fix="write the other half too",
        )
    one, other = _describe(real, path + "_real"), _describe(imag, path + "_imag")
    if one.shape != other.shape or one.kind not in ("float", "int") or other.kind not in ("float", "int"):
        raise problem(
            "BC206",
            path,
            expected="real and imaginary parts of one shape, real numbers",
            found=f"{one.shape} {one.dtype_name} and {other.shape} {other.dtype_name}",
            fix="write both halves from one array",
        )
    return Stored(path + "_real", one.shape, "complex", "pair", (real, imag))


def _is_native_complex(dataset: h5py.Dataset) -> bool:
    with contextlib.suppress(*DAMAGE):
        return bool(dataset.id.get_type().get_class() == getattr(h5py.h5t, "COMPLEX", None))  # HDF5 2.0
    return False


def _describe(dataset: h5py.Dataset, path: str) -> Stored:
    try:
        shape, dtype = dataset.shape, dataset.dtype
        is_string = h5py.check_string_dtype(dtype) is not None
    except (*DAMAGE, UnicodeError) as e:
        if _is_native_complex(dataset):
            raise problem(
                "BC206",
                path,
                expected="complex numbers of single or double precision",
                found=f"native complex numbers of another precision ({short(e)})",
                fix="write complex64",
            ) from e
        raise damaged(path, e) from e
    if shape is None:
        raise problem(
            "BC304",
            path,
            expected="an array",
            found="an empty dataspace",
            fix="write the values, or leave it out",
        )
    if is_string:
        return Stored(path, shape, "str", "plain", (dataset,))
    if dtype.kind == "V" and dtype.names:
        fields = _complex_fields(dtype)
        if fields is None or any(dtype[name].kind not in "fiu" for name in fields):
            raise problem(
                "BC206",
                path,
                expected="complex numbers as {r, i} or {real, imag}",
                found="a compound of " + ", ".join(f"{name} {dtype[name]}" for name in dtype.names),
                fix="name the two fields r and i, both floating point",
            )
        return Stored(path, shape, "complex", "compound", (dataset,))
    layout = attribute(dataset, path, "complex_layout")
    if layout not in (None, "", []):
        if layout != "interleaved" or not shape or shape[-1] != 2 or dtype.kind not in "fiu":
            raise problem(
                "BC206",
                f"{path}@complex_layout",
                expected="'interleaved' on real numbers whose last dimension is 2",
                found=f"{layout!r} on shape {shape}, {dtype}",
                fix="put real and imaginary part last (in MATLAB: first), or remove the attribute",
            )
        return Stored(path, shape[:-1], "complex", "interleaved", (dataset,))
    kinds = {"c": "complex", "f": "float", "i": "int", "u": "int", "b": "bool"}
    if dtype.kind not in kinds:
        raise problem("BC205", path, expected="numbers or text", found=str(dtype), fix="store plain numbers")
    return Stored(path, shape, kinds[dtype.kind], "plain", (dataset,))


def check_readable(stored: Stored) -> None:
    """Filters are there and the samples too, without reading any.

    Raises:
        FormatProblem: a filter is missing, or more is declared than can be stored.
    """
    for part in stored.parts:
        path = _path_of(part, stored.path)
        try:
            _check_filters(part, path)
            _check_extent(part, path)
        except (*DAMAGE, UnicodeError) as e:
            raise damaged(path, e) from e


def _check_filters(dataset: h5py.Dataset, path: str) -> None:
    plist = dataset.id.get_create_plist()
    for i in range(plist.get_nfilters()):
        code, _, _, raw_name = plist.get_filter(i)
        if h5py.h5z.filter_avail(code):
            continue
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # registers its filters with the HDF5 library
        if not h5py.h5z.filter_avail(code):
            name = _FILTERS.get(code) or raw_name.decode("utf-8", "replace") or "unnamed"
            raise problem(
                "BC109",
                path,
                expected="samples that this machine can decompress",
                found=f"the filter {name} (number {code}), which is not installed",
                fix="pip install hdf5plugin, or rewrite the file with h5repack -f GZIP=4",
            )


def _check_extent(dataset: h5py.Dataset, path: str) -> None:
    declared = int(dataset.size) * dataset.dtype.itemsize
    if declared == 0:
        return
    plist = dataset.id.get_create_plist()
    stored = int(dataset.id.get_storage_size())
    lossless = plist.get_nfilters() > 0 and not all(
        plist.get_filter(i)[0] in (2, 3) for i in range(plist.get_nfilters())
    )
    enough = stored * _MAX_COMPRESSION + _SMALL_BYTES if lossless and stored else stored
    if dataset.is_virtual or dataset.external:
        return
    if declared > enough:
        raise problem(
            "BC111",
            path,
            expected=f"{declared} bytes of samples, as its shape {dataset.shape} declares",
            found=f"{stored} bytes in the file",
            fix="write all samples, or shrink the dataset to what was recorded",
        )


def _read_all(dataset: h5py.Dataset, path: str) -> Array:
    try:
        out: Array = dataset[()]
    except MemoryError as e:
        size = int(dataset.size) * dataset.dtype.itemsize
        raise problem(
            "BC115",
            path,
            expected="samples that fit into memory",
            found=f"{size} bytes",
            fix="use a machine with more memory, or write fewer frames per file",
        ) from e
    except (*DAMAGE, UnicodeError) as e:
        raise problem(
            "BC108",
            path,
            expected="samples that agree with their checksum",
            found=f"samples that cannot be read ({short(e)})",
            fix="copy the file again from its source, or record it again",
        ) from e
    return np.asarray(out)
