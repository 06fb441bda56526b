"""Reading a measurement file: one inspection serves `read_measurement`, `validate` and `summarise`."""

from __future__ import annotations

import os
import posixpath

import h5py
import numpy as np

from data.calibrate import apply_calibration
from data.errors import DataFormatError
from data.hdf5 import FormatProblem, names_in, open_file, problem
from data.head import read_head
from data.inspector import Inspector
from data.measurement import Array, Measurement, Volume
from data.measurement_checks import check_modality, check_noise_and_mask
from data.measurement_layout import read_layout, read_scales
from data.measurement_mri import check_samples
from data.measurement_named import calibration_steps, read_calibration, read_named
from data.measurement_parts import MeasurementParts
from data.measurement_truth import read_grid, read_ground_truth
from data.provenance import read_provenance
from data.schema import MEASUREMENT, MODALITIES, ROOT_ATTRS, Group
from data.units import to_si
from data.values import check_finite


def read_measurement(path: str | os.PathLike[str], *, calibrate: bool = True, allow_links: bool = False) -> Measurement:
    """Read one measurement file, check all of it, and apply its calibration.

    Args:
        path: a file of the format `backcast-measurement`, version 1.x.
        calibrate: apply what /calibration holds: dark and flat or background, gain, phase, range offset.
        allow_links: follow external links and virtual datasets.

    Returns:
        the Measurement, SI units, axes in the canonical order; complex64, or float32 (uint16 for raw counts)
        for tomography. Warnings are in its `warnings`.

    Raises:
        DataFormatError: the first error found, in one sentence. `validate` lists them all.
    """
    try:
        with open_file(path, allow_links=allow_links) as file:
            inspector, parts = inspect_measurement(file, deep=True)
            for finding in inspector.findings:
                if finding.severity == "error":
                    raise finding.raised(path)
            warnings = tuple(finding.sentence(path) for finding in inspector.findings)
            measurement = parts.measurement(warnings)
    except FormatProblem as e:
        raise e.finding.raised(path) from e
    if not calibrate:
        return measurement
    try:
        return apply_calibration(measurement)
    except DataFormatError as e:
        raise DataFormatError(f"{os.fspath(path)}: {e}") from e


def read_measurement_head(path: str | os.PathLike[str], *, allow_links: bool = False) -> Measurement:
    """A measurement's shapes, axes, geometry and grid; whatever has the size of the samples is a view of one zero.

    Arrays of /calibration are None under their names.

    Raises:
        DataFormatError: the first error found; samples are not looked at.
    """
    try:
        with open_file(path, allow_links=allow_links) as file:
            inspector, parts = inspect_measurement(file, deep=False)
            for finding in inspector.findings:
                if finding.severity == "error":
                    raise finding.raised(path)
    except FormatProblem as e:
        raise e.finding.raised(path) from e
    assert parts.modality is not None
    assert parts.shape is not None
    kind = np.float32 if parts.modality.data_kind == "real" else np.complex64
    parts.data = np.broadcast_to(kind(0), parts.shape)
    parts.calibration = {**dict.fromkeys(parts.calibration_names), **parts.calibration}
    truth, scales = parts.ground_truth_shape, parts.ground_truth_scales
    if truth is not None and len(scales) == len(truth):
        parts.ground_truth = Volume(data=np.broadcast_to(kind(0), truth), axes=tuple(scales), scales=scales)
    return parts.measurement(())


def inspect_measurement(file: h5py.File, *, deep: bool) -> tuple[Inspector, MeasurementParts]:
    """Check an open file; the findings are in the Inspector, what could be read in the parts.

    With `deep`, samples are read and checked too, the data last and only where the rest is right.
    """
    inspector = Inspector(file, deep=deep)
    parts = MeasurementParts()
    with inspector.collecting():
        name, parts.attrs = read_head(inspector, MEASUREMENT, ROOT_ATTRS)
        parts.format_version = parts.attrs.pop("format_version")
        if name is None:
            return inspector, parts
        parts.modality = MODALITIES[name]
        read_layout(inspector, parts)
        read_scales(inspector, parts)
        for group_name, group in parts.modality.groups.items():
            _read_table(inspector, parts, group_name, group)
        read_calibration(inspector, parts)
        parts.mask = read_named(inspector, parts, "/measurement/mask", "u1", None)
        parts.noise_std = read_named(inspector, parts, "/measurement/noise_std", "f4", parts.units)
        check_noise_and_mask(inspector, parts)
        read_grid(inspector, parts)
        read_ground_truth(inspector, parts)
        parts.provenance = read_provenance(inspector)
        _check_names(inspector, parts)
        check_modality(inspector, parts)
        if deep and not inspector.has_errors:
            _read_samples(inspector, parts)
    return inspector, parts


def _read_table(inspector: Inspector, parts: MeasurementParts, name: str, group: Group) -> None:
    path = f"/{name}"
    found = inspector.group(path, required=group.required)
    if found is None:
        return
    values = getattr(parts, name)
    for rule in group.attrs:
        value = inspector.attr(found, path, rule)
        if value is not None:
            values[rule.name] = value
    axes = parts.layout.axes if parts.layout is not None else ()
    for entry in group.entries:
        if not entry.applies(axes):
            continue
        value, attrs = inspector.entry(path, entry, parts.sizes)
        if value is not None:
            values[entry.name] = value
        values.update(attrs)


def _check_names(inspector: Inspector, parts: MeasurementParts) -> None:
    modality = parts.modality
    assert modality is not None
    if parts.layout is not None:
        inspector.unknown_names("/measurement", {"data", "mask", "noise_std", *parts.layout.axes})
    for name, group in modality.groups.items():
        extra = set(calibration_steps(modality)) if name == "calibration" else set()
        attrs = {"applied", "mean_over"} if name == "calibration" else set()
        # /ground_truth is anyone's: simulators keep their own truths there.
        inspector.unknown_names(
            posixpath.join("/", name),
            extra | {entry.name for entry in group.entries},
            attrs | {rule.name for rule in group.attrs} | {a.name for e in group.entries for a in e.attrs},
        )
    inspector.unknown_names("/grid", {"origin", "spacing", "shape"}, {"units"})
    with inspector.collecting():
        root_words = {
            "measurement",
            "geometry",
            "acquisition",
            "calibration",
            "grid",
            "ground_truth",
            "provenance",
        }
        lowered = {name.lower(): name for name in names_in(inspector.file, "/")}
        for word in root_words:
            if word in lowered and lowered[word] != word:
                inspector.warning(
                    "BC902",
                    f"/{lowered[word]}",
                    expected=repr(word),
                    found=f"{lowered[word]!r}, which is ignored",
                    fix="names are lower case",
                )


# -- samples --------------------------------------------------------------------------------------


def _read_samples(inspector: Inspector, parts: MeasurementParts) -> None:
    stored, layout, modality = parts.stored, parts.layout, parts.modality
    assert stored is not None
    assert layout is not None
    assert modality is not None
    raw = stored.load()
    dtype = _sample_dtype(raw, modality.data_kind)
    if raw.dtype.itemsize > dtype.itemsize and raw.dtype.kind in "fc":
        inspector.warning(
            "BC904",
            stored.path,
            expected=dtype.name,
            found=raw.dtype.name,
            fix="nothing to do; samples are rounded",
        )
    with np.errstate(over="ignore"):  # overflow becomes Inf, and is reported as such
        data = np.ascontiguousarray(layout.arrange(raw), dtype=dtype)
    del raw
    check_finite(data, stored.path, layout.axes)
    if not data.any():
        raise problem(
            "BC503",
            stored.path,
            expected="samples other than zero",
            found=f"{data.size} zeros",
            fix="check that the receiver was on and that the samples were written",
        )
    if dtype.kind != "u":
        data = to_si(data, parts.data_factor_units, wanted=parts.units)[0]
    if modality.name == "mri":
        check_samples(inspector, parts, data)
    parts.data = data


def _sample_dtype(raw: Array, kind: str) -> np.dtype[np.generic]:
    if kind == "complex":
        return np.dtype(np.complex64)
    return np.dtype(np.uint16) if raw.dtype == np.uint16 else np.dtype(np.float32)
