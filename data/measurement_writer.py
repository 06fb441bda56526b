"""Writing a measurement file."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import imaging
from data.atomic import write_hdf5
from data.errors import DataFormatError
from data.findings import Finding
from data.hdf5 import FormatProblem, open_file
from data.hdf5_write import attach_scales, exact, storable, write_array, write_scales
from data.head import has_offset
from data.measurement import Measurement, NamedArray, Volume, broadcast_by_name
from data.measurement_named import STEP_TYPES, calibration_steps
from data.measurement_reader import inspect_measurement
from data.provenance import write_provenance
from data.schema import (
    FORMAT_VERSION,
    MEASUREMENT,
    MODALITIES,
    NAMED_TRUTHS,
    ROOT_ATTRS,
    SPEED_OF_LIGHT,
    Attr,
    Entry,
    Modality,
)

_FRAME = "right-handed, z into the scene"


def write_measurement(path: str | os.PathLike[str], measurement: Measurement) -> None:
    """Write one measurement file, atomically; an old file of that name is replaced.

    `attrs` may fix `uuid` and `file_time`; with both fixed, the same measurement gives the same bytes.
    Missing ones are made up, `creator` and `creator_version` too; a provenance without `date` gets the
    `file_time`, a radar without `coordinates` or `propagation_speed` those of the format. Calibration that is
    already in the data (`applied_calibration`) is recorded by name and its arrays are left out: no reader applies
    it twice.

    The written file is checked like any other before it gets its name, except for the samples themselves:
    NaN, Inf and zero signal are found on reading.

    Raises:
        DataFormatError: the measurement breaks the format; nothing is written.
        DataWriteError: the folder is missing or unwritable, or the disk full; nothing is left behind.
    """
    m = measurement
    try:
        modality = _check(m)
        m = _completed(m)
        write_hdf5(path, lambda file: _fill(file, m, modality), lambda part: _check_written(part, path))
    except DataFormatError as e:
        if e.finding is not None:
            raise
        raise DataFormatError(f"{os.fspath(path)}: {e}") from e


def fill_measurement(file: h5py.File, measurement: Measurement) -> None:
    """Write a measurement into an open, empty file, completed as `write_measurement` does.

    Raises:
        DataFormatError: the measurement breaks the format.
    """
    modality = _check(measurement)
    _fill(file, _completed(measurement), modality)


def _check(m: Measurement) -> Modality:
    """What must hold before a single byte can be written; the rest is found in the written part."""
    if m.modality not in MODALITIES:
        raise DataFormatError(
            f"modality: expected one of {', '.join(MODALITIES)}, got {m.modality!r}; choose one of these"
        )
    if len(m.axes) != np.ndim(m.data):
        raise DataFormatError(
            f"/measurement/data: expected {len(m.axes)} dimensions for axes {', '.join(m.axes)}, "
            f"got shape {np.shape(m.data)}; name every dimension once"
        )
    missing = [name for name in m.axes if name not in m.scales]
    if missing:
        raise DataFormatError(f"/measurement/{missing[0]}: expected a Scale for this axis, got none; add it to scales")
    allowed = ("complex64",) if MODALITIES[m.modality].data_kind == "complex" else ("float32", "uint16")
    if m.data.dtype.name not in allowed:
        raise DataFormatError(
            f"/measurement/data: expected {' or '.join(allowed)}, got {m.data.dtype}; "
            f"convert with .astype({allowed[0]!r})"
        )
    return MODALITIES[m.modality]


def _completed(m: Measurement) -> Measurement:
    """`m` with what the format requires and the caller may leave out."""
    attrs = {**m.attrs, "file_time": m.attrs.get("file_time") or _now()}
    provenance = m.provenance
    if provenance and provenance.get("date") is None:
        provenance = {**provenance, "date": attrs["file_time"]}
    geometry, acquisition = dict(m.geometry), dict(m.acquisition)
    if m.modality == "mimo_radar":
        if acquisition.get("propagation_speed") is None:
            acquisition["propagation_speed"] = SPEED_OF_LIGHT
        if geometry.get("coordinates") is None:
            geometry["coordinates"] = ["x", "y", "z"]
        downrange = geometry.get("downrange_axis")
        if not geometry.get("frame") and downrange == "z":
            geometry["frame"] = _FRAME
        elif not geometry.get("frame") and downrange is not None:
            raise DataFormatError(
                f"/geometry@frame: expected the coordinate frame in words for downrange_axis={downrange!r}, "
                "got none; write for example 'right-handed, x into the scene'"
            )
    return dataclasses.replace(m, attrs=attrs, provenance=provenance, geometry=geometry, acquisition=acquisition)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _check_written(part: Path, path: str | os.PathLike[str]) -> None:
    try:
        with open_file(part) as file:
            inspector, _ = inspect_measurement(file, deep=False)
    except FormatProblem as e:
        raise e.finding.raised(path) from e
    raise_first(inspector.findings, path)


def raise_first(findings: Iterable[Finding], path: str | os.PathLike[str]) -> None:
    """Raise the first error among the findings; `path` is the name that the message gives."""
    for finding in findings:
        if finding.severity == "error":
            raise finding.raised(path)


def _fill(file: h5py.File, m: Measurement, modality: Modality) -> None:
    write_root(file, MEASUREMENT, m.modality, m.attrs, ROOT_ATTRS, default="measurement")
    group = file.create_group("measurement")
    group.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": list(m.axes)})
    data = write_array(
        group,
        "data",
        m.data.astype(m.data.dtype.newbyteorder("<"), copy=False),
        units=m.units,
        frames=m.axes[0] in ("frame", "slice"),
        quantity=m.quantity,
        long_name=m.long_name,
    )
    write_scales(group, data, m.axes, m.scales, index=[name for name, rule in modality.scales.items() if rule.index])
    if m.mask is not None:
        _write_named(group, "mask", np.asarray(m.mask, "u1"), m.mask_axes, m)
    if m.noise_std is not None:
        _write_named(group, "noise_std", np.asarray(m.noise_std, "<f4"), m.noise_std_axes, m, units=m.units)
    for name, values in (
        ("geometry", m.geometry),
        ("acquisition", m.acquisition),
        ("dictionary", m.dictionary),
    ):
        if name in modality.groups:
            _write_table(file, name, values, modality, m.axes)
        elif values:
            raise DataFormatError(f"/{name}: expected nothing for {m.modality}, got {', '.join(values)}; leave it out")
    _write_calibration(file, m, modality)
    if m.grid is not None:
        grid = file.create_group("grid")
        write_array(grid, "origin", np.array(m.grid.origin_m, "<f8"), units="m")
        write_array(grid, "spacing", np.array(m.grid.spacing_m, "<f8"), units="m")
        write_array(grid, "shape", np.array(m.grid.shape, "<i4"))
    if m.ground_truth is not None or m.extra_truth:
        _write_truth(file.create_group("ground_truth"), m)
    if m.provenance:
        write_provenance(file.create_group("provenance"), m.provenance)
    if m.modality == "mri":
        _link_for_fastmri(file, m)


def _write_named(
    group: h5py.Group, name: str, values: Any, axes: tuple[str, ...], m: Measurement, units: str | None = None
) -> None:
    """An array over axes of the data, in their order; `axes` () means all of them.

    An axis along which the array only repeats (length 1, the data are longer) is left out: its scale would
    not fit. Scales are attached beside the data only: xarray does not open a group with those of another.
    Axes that do not fit at all are written as they are, and the check of the part tells.
    """
    axes = axes or m.axes
    fits = len(axes) == values.ndim and len(set(axes)) == len(axes) and set(axes) <= set(m.axes)
    if fits:
        lengths = dict(zip(axes, values.shape, strict=True))
        kept = tuple(a for a in m.axes if a in axes and (lengths[a] != 1 or m.n(a) == 1))
        values = broadcast_by_name(values, axes, m.axes).reshape([lengths[a] for a in kept])
        fits = all(lengths[a] == m.n(a) for a in kept)
        axes = kept
    dataset = write_array(group, name, values, units=units, axes=list(axes) if values.ndim else None)
    if fits and group.name == "/measurement":
        attach_scales(group, dataset, axes)


def write_root(
    file: h5py.File,
    kind: str,
    modality: str,
    attrs: Mapping[str, Any],
    rules: tuple[Attr, ...],
    *,
    default: str,
) -> None:
    """The root attributes of both files; identity and time are made up where `attrs` has none."""
    known = [rule.name for rule in rules]
    for name in attrs:
        if name not in known:
            raise _unknown("attrs", name, known)
    values = {
        "format": kind,
        "format_version": FORMAT_VERSION,
        "modality": modality,
        "file_time": _now(),
        "creator": "backcast",
        "creator_version": imaging.__version__,
        "uuid": str(uuid.uuid4()),
        "NX_class": "NXroot",
        "default": default,
    }
    values.update({name: attrs[name] for name in known if attrs.get(name)})
    for name, value in values.items():
        file.attrs[name] = _attr_value(value, Attr(name), f"/@{name}")
    if not has_offset(values["file_time"]):
        raise DataFormatError(
            f"/@file_time: expected ISO 8601 with offset, got {values['file_time']!r}; "
            "write it as '2026-11-23T12:00:00+00:00'"
        )


def _unknown(where: str, name: str, known: Iterable[str]) -> DataFormatError:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "leave it out"
    return DataFormatError(f"{where}: expected names of {', '.join(known) or '(none)'}, got {name!r}; {hint}")


def _write_table(
    file: h5py.File, name: str, values: Mapping[str, Any], modality: Modality, axes: tuple[str, ...]
) -> None:
    table = modality.groups[name]
    if not values and not table.required:
        return
    group = file.require_group(name)
    group_attrs = {rule.name: rule for rule in table.attrs}
    entries = {entry.name: entry for entry in table.entries if entry.applies(axes)}
    own_attrs = {rule.name for entry in entries.values() for rule in entry.attrs}
    own_attrs |= {f"{entry.name}_units" for entry in entries.values() if len(entry.units) > 1}
    given = {key: value for key, value in values.items() if value is not None}
    for key in given:
        if key not in {*group_attrs, *entries, *own_attrs}:
            raise _unknown(f"/{name}", key, {*group_attrs, *entries, *own_attrs})
    # In the order of the table, not the caller's: the same content gives the same bytes.
    for key, rule in group_attrs.items():
        if key in given:
            group.attrs[key] = _attr_value(given[key], rule, f"/{name}@{key}")
    for key, entry in entries.items():
        if key in given:
            _write_entry(group, entry, given[key], given)


def _write_entry(group: h5py.Group, entry: Entry, value: Any, siblings: Mapping[str, Any]) -> None:
    path = f"{group.name}/{entry.name}"
    if entry.dtype == "str":
        if not isinstance(value, str):
            raise DataFormatError(f"{path}: expected text, got {type(value).__name__}; convert it with str()")
        dataset = group.create_dataset(entry.name, data=storable(value, path))
    else:
        units = siblings.get(f"{entry.name}_units", entry.units[0]) if entry.units else None
        dataset = write_array(group, entry.name, exact(value, entry.dtype, path), units=units)
    for rule in entry.attrs:
        if siblings.get(rule.name) is not None:
            dataset.attrs[rule.name] = _attr_value(siblings[rule.name], rule, f"{path}@{rule.name}")


def _attr_value(value: Any, rule: Attr, path: str) -> Any:
    if rule.kind == "strs":
        return [storable(str(v), path) for v in value]
    if rule.kind == "bool":
        if not isinstance(value, (bool, np.bool_)):
            raise DataFormatError(f"{path}: expected True or False, got {value!r}; write a bool")
        return bool(value)
    if rule.kind == "float":
        return float(value)
    if not isinstance(value, str):
        raise DataFormatError(f"{path}: expected text, got {value!r}; write a str")
    return storable(value, path)


# -- calibration ----------------------------------------------------------------------------------


def _write_calibration(file: h5py.File, m: Measurement, modality: Modality) -> None:
    applied = set(m.applied_calibration)
    steps = calibration_steps(modality)
    tables = {entry.name for entry in modality.groups["calibration"].entries}
    skipped = applied | ({"mean_over"} if "background" in applied else set())
    skipped |= {"dark", "flat"} if "dark and flat" in applied else set()
    rest = {name: value for name, value in m.calibration.items() if name not in skipped and value is not None}
    if not rest and not applied:
        return
    group = file.create_group("calibration")
    if applied:
        group.attrs["applied"] = list(m.applied_calibration)
    for name in rest:
        if name not in {*steps, *tables, "mean_over"}:
            raise _unknown("/calibration", name, {*steps, *tables, "mean_over"})
    if "mean_over" in rest:
        group.attrs["mean_over"] = storable(str(rest["mean_over"]), "/calibration@mean_over")
    for name in steps:
        if name in rest:
            _write_step(group, name, rest[name], m, modality)
    _write_table(file, "calibration", {k: v for k, v in rest.items() if k in tables}, modality, m.axes)


def _write_step(group: h5py.Group, name: str, value: Any, m: Measurement, modality: Modality) -> None:
    dtype, units = STEP_TYPES[modality.data_kind][name]
    path = f"/calibration/{name}"
    if isinstance(value, NamedArray):
        array, axes = exact(value.values, dtype, path), value.axes
    else:
        array = exact(value, dtype, path)
        axes = m.axes
        if array.ndim and array.shape != m.data.shape:
            raise DataFormatError(
                f"{path}: expected shape {m.data.shape} as the data, or a NamedArray with axes, "
                f"got {array.shape}; name its axes"
            )
    _write_named(group, name, array, axes, m, units=units or m.units)


# -- truth and links ------------------------------------------------------------------------------


def _write_truth(group: h5py.Group, m: Measurement) -> None:
    if m.ground_truth is not None:
        group.attrs.update({"NX_class": "NXdata", "signal": "volume", "axes": list(m.ground_truth.axes)})
        write_volume(group, "volume", m.ground_truth, axes=list(m.ground_truth.axes))
    for name in m.extra_truth:
        if name not in NAMED_TRUTHS:
            raise _unknown("/ground_truth", name, NAMED_TRUTHS)
    for name in sorted(m.extra_truth):
        value, (dtype, units) = m.extra_truth[name], NAMED_TRUTHS[name]
        array = exact(value.values, dtype, f"/ground_truth/{name}")
        write_array(group, name, array, units=units, axes=list(value.axes) if value.axes else None)


def write_volume(group: h5py.Group, name: str, volume: Volume, **attrs: Any) -> h5py.Dataset:
    """An image and its scales: gzip 4, shuffle, fletcher32, slabs of about 1 MiB, never across frames."""
    path = f"{group.name}/{name}"
    if volume.data.dtype.name not in ("complex64", "float32"):
        raise DataFormatError(f"{path}: expected complex64 or float32, got {volume.data.dtype}; convert it first")
    if len(volume.axes) != volume.data.ndim:
        raise DataFormatError(
            f"{path}: expected {len(volume.axes)} dimensions for axes {', '.join(volume.axes)}, "
            f"got shape {volume.data.shape}; name every dimension once"
        )
    missing = [axis for axis in volume.axes if axis not in volume.scales]
    if missing:
        raise DataFormatError(f"{path}: expected a Scale for axis {missing[0]}, got none; add it to scales")
    dataset = write_array(
        group,
        name,
        volume.data.astype(volume.data.dtype.newbyteorder("<"), copy=False),
        units=volume.units,
        frames=volume.axes[0] == "frame",
        compressed=True,
        quantity=volume.quantity,
        long_name=volume.long_name,
        **attrs,
    )
    write_scales(group, dataset, volume.axes, volume.scales)
    return dataset


def _link_for_fastmri(file: h5py.File, m: Measurement) -> None:
    """fastMRI's loader looks for /kspace and /ismrmrd_header at the root."""
    if m.axes == ("slice", "coil", "ky", "kx"):
        file["kspace"] = h5py.SoftLink("/measurement/data")
        if "ismrmrd_header" in m.acquisition:
            file["ismrmrd_header"] = h5py.SoftLink("/acquisition/ismrmrd_header")
