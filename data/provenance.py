"""/provenance, the same in both files."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any

import h5py

from data.errors import DataFormatError
from data.hdf5 import attribute, attribute_names, find_group, names_in
from data.hdf5_write import storable
from data.inspector import Inspector
from data.schema import PROVENANCE_UNITS
from data.units import to_si
from data.values import match_shape, read_text


def read_provenance(inspector: Inspector) -> dict[str, Any]:
    """Everything under /provenance: text, numbers (SI) and attributes; empty when there is none."""
    found: dict[str, Any] = {}
    with inspector.collecting():
        group = find_group(inspector.file, "/provenance")
        if group is None:
            return found
        for name in attribute_names(group, "/provenance"):
            if name not in ("NX_class", "default"):
                found[name] = attribute(group, "/provenance", name)
        for name in names_in(group, "/provenance"):
            with inspector.collecting():
                value = _read_one(inspector, posixpath.join("/provenance", name), PROVENANCE_UNITS.get(name))
                if value is not None:
                    found[name] = value
    return found


def _read_one(inspector: Inspector, path: str, si: str | None) -> Any:
    stored = inspector.dataset(path, required=False)
    if stored is None:
        return None
    if stored.kind == "str":
        return read_text(stored)
    shape = match_shape(stored, ((), ("n",)), {})
    value = stored.load().reshape(shape)
    if si is not None:
        units = inspector.units(stored, (si,))
        value = to_si(value, units or si, wanted=si)[0]
    return value if shape else value.item()


def write_provenance(group: h5py.Group, values: Mapping[str, Any]) -> None:
    """Write `values` as scalar datasets: text, numbers, and JSON for lists and tables.

    Raises:
        DataFormatError: a value that is none of these, or text with a null character.
    """
    group.attrs["NX_class"] = "NXprocess"
    for name in sorted(values):
        value = values[name]
        if value is None:
            continue
        if isinstance(value, (Mapping, list, tuple)):
            value = json.dumps(value, sort_keys=True)
        if isinstance(value, str):
            value = storable(value, f"/provenance/{name}")
        if not isinstance(value, (str, bool, int, float)):
            raise DataFormatError(
                f"/provenance/{name}: expected text, a number, or a table of these, "
                f"got {type(value).__name__}; convert it with str()"
            )
        group[name] = value
        if name in PROVENANCE_UNITS:
            group[name].attrs["units"] = PROVENANCE_UNITS[name]
