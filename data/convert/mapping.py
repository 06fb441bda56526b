"""A mapping file says where a measurement's parts lie among the variables of a foreign file.

It is a TOML with the groups of the measurement file; every value is a word, a number, or a table that names a variable:

    modality = "mimo_radar"

    [data]
    from = "S21"                                # a variable; of structures as scan.data
    axes = ["tx", "rx", "frequency"]            # its dimensions as the program counts them, the first index first
    units = "1"
    quantity = "scattered_field"

    [scales]
    frequency = { from = "f", units = "GHz" }

    [geometry]
    downrange_axis = "z"
    tx_positions = { from = "tx", units = "mm" }

What it describes is written as a measurement file in memory and read like any other, so that units, axes and every
mistake are treated as there.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.hdf5 import DAMAGE, FormatProblem, short
from data.hdf5_write import storable
from data.measurement import Array, Measurement
from data.measurement_reader import inspect_measurement
from data.schema import FORMAT_VERSION, MEASUREMENT, MODALITIES, ROOT_ATTRS, Modality

#: Tables of a mapping file, beside the words at its top.
TABLES = (
    "data",
    "scales",
    "mask",
    "noise_std",
    "geometry",
    "acquisition",
    "calibration",
    "dictionary",
    "grid",
    "ground_truth",
)
#: What a table that stands for an array may say; further keys become its attributes.
_SOURCES = ("from", "imag", "value", "first", "step")
#: Bytes of attributes an array may have.
_MOST_ATTRS = 32


def from_mapping(source: Path, variables: Mapping[str, Array], options: ConvertOptions, program: str) -> Measurement:
    """The measurement that `options.mapping` describes.

    Args:
        source: for messages and the title.
        variables: by name, dimensions as the program counts them.
        options: with the mapping.
        program: for the provenance.

    Raises:
        DataFormatError: a mistake in the mapping, a variable that is not there, or what any measurement file may have
            wrong, in one sentence.
    """
    tables = options.mapping
    assert tables is not None
    with memory_file() as file:
        try:
            _fill(source, file, variables, tables, program)
            inspector, parts = inspect_measurement(file, deep=True)
            for finding in inspector.findings:
                if finding.severity == "error":
                    raise finding.raised(source)
            return parts.measurement(tuple(finding.sentence(source) for finding in inspector.findings))
        except FormatProblem as e:
            raise e.finding.raised(source) from e
        except DataFormatError:
            raise
        except (*DAMAGE, UnicodeError) as e:  # values that HDF5 cannot hold
            raise DataFormatError(
                f"{source}: mapping: expected values that HDF5 can hold, got others ({short(e)})"
            ) from e


@contextlib.contextmanager
def memory_file() -> Iterator[h5py.File]:
    """An HDF5 file that no disk ever sees."""
    file = h5py.File(f"backcast-{uuid.uuid4()}", "w", driver="core", backing_store=False)
    try:
        yield file
    finally:
        file.close()


def _fill(
    source: Path, file: h5py.File, variables: Mapping[str, Array], tables: Mapping[str, Any], program: str
) -> None:
    name = tables.get("modality")
    if name not in MODALITIES:
        raise DataFormatError(f"{source}: mapping: modality: expected one of {', '.join(MODALITIES)}, got {name!r}")
    modality = MODALITIES[name]
    words = [rule.name for rule in ROOT_ATTRS]
    for key, value in tables.items():
        if key not in (*TABLES, *words, "modality", "format", "options"):
            raise _unknown(source, "", key, (*TABLES, *words, "modality", "format", "options"))
        if key in TABLES and not isinstance(value, Mapping):
            raise DataFormatError(f"{source}: mapping: {key}: expected a table [{key}], got {value!r}")
        if key in words and not isinstance(value, str):
            raise DataFormatError(f"{source}: mapping: {key}: expected text, got {value!r}")
    stamp = datetime.datetime.fromtimestamp(source.stat().st_mtime, datetime.UTC).isoformat(timespec="seconds")
    file.attrs.update(
        {
            "format": MEASUREMENT,
            "format_version": FORMAT_VERSION,
            "modality": name,
            "file_time": stamp,
            "creator": "backcast",
            "creator_version": "mapping",
            "uuid": str(uuid.uuid4()),
            "title": source.name,
            **{key: storable(tables[key], f"mapping: {key}") for key in words if key in tables},
        }
    )
    put = _Writer(source, file, variables)
    _data(put, modality, tables)
    for table in TABLES:
        if table in ("data", "scales", "mask", "noise_std") or table not in tables:
            continue
        for key, value in tables[table].items():
            if not key.isidentifier():
                raise DataFormatError(
                    f"{source}: mapping: {table}: expected names of letters, digits and _, got {key!r}"
                )
            put.anything(f"/{table}/{key}", value, f"{table}.{key}")
    file.require_group("geometry")
    file.require_group("acquisition")
    file.create_group("provenance").attrs["program"] = f"backcast convert ({program}, mapping)"


def _data(put: _Writer, modality: Modality, tables: Mapping[str, Any]) -> None:
    table = tables.get("data")
    if not isinstance(table, Mapping):
        raise DataFormatError(f"{put.source}: mapping: expected a table [data] with from, axes and units, found none")
    axes = table.get("axes")
    if not isinstance(axes, list) or not axes or not all(isinstance(a, str) for a in axes):
        raise DataFormatError(f"{put.source}: mapping: data.axes: expected a list of names, got {axes!r}")
    values = _with_axes(put, put.values(table, "data"), axes)
    rest = {key: value for key, value in table.items() if key != "axes"}
    group = put.file.create_group("measurement")
    group.attrs["axes"] = [storable(a, "mapping: data.axes") for a in axes]
    put.array("/measurement/data", values, rest, "data")
    scales = tables.get("scales", {})
    for key in scales:
        if key not in axes:
            raise _unknown(put.source, "scales.", key, tuple(axes))
    for axis, n in zip(axes, values.shape, strict=True):
        rule = modality.scales.get(axis)
        value = scales.get(axis)
        if value is None and rule is not None and rule.index:
            value = {"value": list(range(n)), "units": "1"}
        if isinstance(value, Mapping) and "step" in value and "first" not in value:
            value = {**value, "first": -_number(put, value["step"], f"scales.{axis}.step") * (n - 1) / 2}
        if value is not None:
            put.anything(f"/measurement/{axis}", value, f"scales.{axis}", n)
    for name in ("mask", "noise_std"):
        if name in tables:
            put.anything(f"/measurement/{name}", tables[name], name)


def _with_axes(put: _Writer, values: Array, axes: list[str]) -> Array:
    """MATLAB drops trailing dimensions of length 1, and makes a vector a table."""
    if values.ndim < len(axes):
        values = values.reshape(*values.shape, *(1,) * (len(axes) - values.ndim))
    if values.ndim > len(axes):
        squeezed = np.squeeze(values)
        if squeezed.ndim == len(axes):
            return squeezed
        raise DataFormatError(
            f"{put.source}: mapping: data.axes: expected {values.ndim} names for dimensions {values.shape}, got "
            f"{', '.join(axes)}"
        )
    return values


def _number(put: _Writer, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataFormatError(f"{put.source}: mapping: {where}: expected a number, got {value!r}")
    return float(value)


def _unknown(source: Path, where: str, name: str, known: tuple[str, ...]) -> DataFormatError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return DataFormatError(f"{source}: mapping: {where}{name}: expected one of {', '.join(known)}{hint}")


class _Writer:
    """Puts values of a mapping into a measurement file.

    Args:
        source: for messages.
        file: to be filled.
        variables: of the foreign file.
    """

    def __init__(self, source: Path, file: h5py.File, variables: Mapping[str, Array]) -> None:
        self.source, self.file, self.variables = source, file, variables

    def anything(self, path: str, value: Any, where: str, n: int | None = None) -> None:
        """A table as a dataset, a bare number too where the format has one there, all else as an attribute."""
        group, _, name = path.rpartition("/")
        if isinstance(value, Mapping):
            self.array(path, self.values(value, where, n), value, where)
        elif isinstance(value, (str, bool)) or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            words = [storable(v, where) for v in value] if isinstance(value, list) else value
            self.file.require_group(group).attrs[name] = storable(words, where) if isinstance(words, str) else words
        elif name in ("field_strength", "fft_sign"):
            self.file.require_group(group).attrs[name] = _number(self, value, where)
        else:
            self.array(path, self._literal(value, where), {}, where)

    def array(self, path: str, values: Array, table: Mapping[str, Any], where: str) -> None:
        """A dataset with the rest of its table as attributes."""
        if values.dtype.kind not in "biufc":
            raise DataFormatError(f"{self.source}: mapping: {where}: expected numbers, found {values.dtype}")
        dataset = self.file.create_dataset(path, data=values)
        rest = {key: value for key, value in table.items() if key not in _SOURCES and key != "one_based"}
        if len(rest) > _MOST_ATTRS:
            raise DataFormatError(f"{self.source}: mapping: {where}: expected a few keys, found {len(rest)}")
        for key, value in rest.items():
            listed = value if isinstance(value, list) else [value]
            if not listed or not all(isinstance(v, (str, bool, int, float)) for v in listed):
                raise DataFormatError(
                    f"{self.source}: mapping: {where}.{key}: expected a word or number, got {value!r}"
                )
            if len({isinstance(v, str) for v in listed}) > 1:
                raise DataFormatError(f"{self.source}: mapping: {where}.{key}: expected words or numbers, got both")
            plain = [storable(v, f"{where}.{key}") if isinstance(v, str) else v for v in listed]
            dataset.attrs[key] = plain if isinstance(value, list) else plain[0]

    def values(self, table: Mapping[str, Any], where: str, n: int | None = None) -> Array:
        """The array that a table stands for: a variable, with an imaginary part, or a value, or first and step."""
        if "from" in table:
            values = self._variable(table["from"], f"{where}.from")
            if "imag" in table:
                imag = self._variable(table["imag"], f"{where}.imag")
                if imag.shape != values.shape:
                    raise DataFormatError(
                        f"{self.source}: mapping: {where}.imag: expected shape {values.shape}, found {imag.shape}"
                    )
                values = values + 1j * imag
        elif "value" in table:
            values = self._literal(table["value"], f"{where}.value")
        elif "step" in table and n is not None:
            first, step = (_number(self, table[key], f"{where}.{key}") for key in ("first", "step"))
            values = first + step * np.arange(n)
        else:
            raise DataFormatError(
                f"{self.source}: mapping: {where}: expected from = a variable, or value = a number or list, got "
                f"{', '.join(table) or 'nothing'}"
            )
        if table.get("one_based") is True:
            values = values - 1
        return values

    def _variable(self, name: Any, where: str) -> Array:
        if not isinstance(name, str) or name not in self.variables:
            known = ", ".join(self.variables) or "none"
            raise DataFormatError(f"{self.source}: mapping: {where}: expected a variable ({known}), got {name!r}")
        return self.variables[name]

    def _literal(self, value: Any, where: str) -> Array:
        try:
            values = np.asarray(value)
        except (ValueError, OverflowError):
            values = np.asarray(None)
        if values.dtype.kind not in "biuf" or values.dtype == object or values.size == 0:
            raise DataFormatError(f"{self.source}: mapping: {where}: expected numbers, got {str(value)[:80]}")
        return values
