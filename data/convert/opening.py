"""Foreign HDF5 files: opened as carefully as our own, numbers and words taken out one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.errors import DataFormatError
from data.hdf5 import DAMAGE, FormatProblem, attribute, get_object, open_file, short
from data.measurement import Array
from data.stored import check_readable, find_dataset
from data.units import UnitError, to_si


@contextlib.contextmanager
def open_foreign(source: Path, *, allow_links: bool = False) -> Iterator[h5py.File]:
    """Open for reading; whatever is wrong with the file, also later in the block, leaves as a DataFormatError.

    Raises:
        DataFormatError: missing, damaged, no HDF5, or with links out of the file although `allow_links` is False.
    """
    try:
        with open_file(source, allow_links=allow_links) as file:
            yield file
    except FormatProblem as e:
        raise e.finding.raised(source) from e
    except DataFormatError:
        raise
    except (*DAMAGE, UnicodeError) as e:
        raise DataFormatError(
            f"{source}: expected an intact HDF5 file, found damage ({short(e)}); copy it again from its source"
        ) from e


def numbers(file: h5py.File, path: str) -> Array | None:
    """The numbers at `path`, complex ones as one number each; None where there is nothing.

    Raises:
        FormatProblem: no numbers, more declared than stored, a checksum that is wrong.
    """
    stored = find_dataset(file, path)
    if stored is None or stored.kind == "str":
        return None
    check_readable(stored)
    return stored.load()


def in_si(source: Path, file: h5py.File, path: str, wanted: str, *, default: str | None = None) -> Array | None:
    """The numbers at `path` in the SI unit `wanted`, by their attribute `units`; None where there is nothing.

    Raises:
        DataFormatError: a unit of another kind, or none where there is no `default`.
    """
    values = numbers(file, path)
    if values is None:
        return None
    unit = attribute(file[path], path, "units") or default
    if not isinstance(unit, str):
        raise DataFormatError(f"{source}: {path}@units: expected a unit of {wanted!r}, found none")
    try:
        return np.asarray(to_si(np.asarray(values, np.float64), unit, wanted=wanted)[0])
    except UnitError as e:
        raise DataFormatError(f"{source}: {path}@units: expected a unit of {wanted!r}, found {e}") from e


def words(file: h5py.File, path: str) -> str | None:
    """The text at `path`, None where there is none that can be read."""
    found = get_object(file, path)
    if not isinstance(found, h5py.Dataset) or h5py.check_string_dtype(found.dtype) is None or found.size != 1:
        return None
    value: Any = np.ravel(found[()])[0]
    return value.decode("utf-8", "replace").rstrip("\x00") if isinstance(value, bytes) else str(value)


def groups_of_class(file: h5py.File, names: tuple[str, ...]) -> list[str]:
    """Paths of the groups at the top and one level below whose NX_class is one of `names`, sorted."""
    found = []
    for top in _groups(file["/"]):
        for path in (top, *(f"{top}/{name}" for name in _groups(file[top]))):
            with contextlib.suppress(FormatProblem):
                if attribute(file[path], path, "NX_class") in names:
                    found.append(path)
    return sorted(found)


def _groups(group: h5py.Group) -> list[str]:
    names = []
    for name in group:
        with contextlib.suppress(*DAMAGE):
            if isinstance(group.get(name, getlink=True), h5py.HardLink) and isinstance(group[name], h5py.Group):
                names.append(str(name))
    return names
