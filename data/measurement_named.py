"""Arrays that broadcast over the samples by axis names: calibration, mask, noise."""

from __future__ import annotations

import numpy as np

from data.hdf5 import attribute, find_group, get_object, names_in, problem
from data.inspector import Inspector
from data.measurement import NamedArray
from data.measurement_parts import Layout, MeasurementParts
from data.schema import CALIBRATION_STEPS, Modality
from data.stored import Stored
from data.units import to_si
from data.values import as_names, cast, check_finite, check_kind

# Steps of the calibration that broadcast by named axes: dtype in memory and unit.
STEP_TYPES: dict[str, dict[str, tuple[str, str | None]]] = {
    "complex": {"background": ("c8", None), "gain": ("c8", "1"), "phase": ("f8", "rad"), "range_offset": ("f8", "m")},
    "real": {"background": ("f4", None), "gain": ("f4", "1")},
}


def read_calibration(inspector: Inspector, parts: MeasurementParts) -> None:
    with inspector.collecting():
        group = find_group(inspector.file, "/calibration")
        if group is None or parts.layout is None or parts.modality is None:
            return
        mean_over = attribute(group, "/calibration", "mean_over") or None
        words = [] if mean_over is None else ["mean_over"]
        parts.calibration_names = (*names_in(group, "/calibration"), *words)
        applied = as_names_of_steps(attribute(group, "/calibration", "applied"))
        if applied:
            parts.applied = applied
        background = get_object(inspector.file, "/calibration/background")
        if mean_over is None and background is not None:
            mean_over = attribute(background, "/calibration/background", "mean_over") or None
        if mean_over is not None:
            _check_mean_over(mean_over, parts.layout)
            parts.calibration["mean_over"] = mean_over
    assert parts.modality is not None
    for name in calibration_steps(parts.modality):
        if name == "background" and "mean_over" in parts.calibration:
            continue
        dtype, units = STEP_TYPES[parts.modality.data_kind][name]
        value = read_named(inspector, parts, f"/calibration/{name}", dtype, units or parts.units)
        if value is not None:
            parts.calibration[name] = float(value.values) if name == "range_offset" and not value.axes else value


def calibration_steps(modality: Modality) -> tuple[str, ...]:
    """The steps that a modality can take: a phase needs complex samples, a range offset frequencies."""
    known = [name for name in CALIBRATION_STEPS if name in STEP_TYPES[modality.data_kind]]
    return tuple(name for name in known if name != "range_offset" or modality.name == "mimo_radar")


def as_names_of_steps(value: object) -> tuple[str, ...]:
    """The attribute `applied`: steps that the samples have been through already."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(v) for v in value) if isinstance(value, list) else ()


def _check_mean_over(value: object, layout: Layout) -> None:
    if value not in layout.axes:
        raise problem(
            "BC301",
            "/calibration@mean_over",
            expected=" or ".join(map(repr, layout.axes)),
            found=repr(value),
            fix="name the axis whose mean is the background",
        )


def read_named(
    inspector: Inspector, parts: MeasurementParts, path: str, dtype: str, units: str | None
) -> NamedArray | None:
    """An array that broadcasts over the data by its attribute `axes`; read only when samples are."""
    layout, shape = parts.layout, parts.shape
    stored = inspector.dataset(path, required=False)
    if stored is None or layout is None or shape is None or parts.stored is None:
        return None
    with inspector.collecting():
        check_kind(stored, dtype)
        names = _axes_of(stored, path, layout, parts.stored.shape)
        own = Layout(tuple(name for name in layout.axes if name in names), names)
        lengths = dict(zip(names, stored.shape, strict=False)) if names else {}
        for name, n in lengths.items():
            if n not in (1, parts.sizes[name]):
                raise problem(
                    "BC304",
                    path,
                    expected=f"length {parts.sizes[name]} or 1 along {name}, as the data",
                    found=f"shape {stored.shape} for axes [{', '.join(names)}]",
                    fix="name its own axes in the attribute `axes`, in HDF5 (C) order",
                )
        text = inspector.units(stored, (units,), required=units != "1") if units is not None else "1"
        if text is None or (names and not inspector.deep):
            return None
        loaded = stored.load()
        array = own.arrange(loaded) if names else loaded.reshape(())
        values = cast(array, dtype, path)
        if units is not None:
            values = to_si(values, text, wanted=units)[0]
        check_finite(values, path, own.axes)
        if dtype == "u1" and not np.isin(values, (0, 1)).all():
            raise problem(
                "BC505",
                path,
                expected="0 or 1",
                found=f"{int(values.max())}",
                fix="write 1 where a sample was measured",
            )
        return NamedArray(values=values, axes=own.axes, units=units or "1")
    return None


def _axes_of(stored: Stored, path: str, layout: Layout, data_shape: tuple[int, ...]) -> tuple[str, ...]:
    value = attribute(stored.attrs_of, path, "axes")
    names = as_names(value)
    if value in (None, "", []):
        if stored.shape == data_shape:
            return layout.file_axes
        if int(np.prod(stored.shape)) == 1:
            return ()
    if names is None or len(names) != len(stored.shape) or len(set(names)) != len(names):
        raise problem(
            "BC302",
            f"{path}@axes",
            expected=f"one name of [{', '.join(layout.axes)}] per dimension",
            found="no such attribute" if value is None else repr(value),
            fix="name the axes that this array has, in HDF5 (C) order",
        )
    strangers = [name for name in names if name not in layout.axes]
    if strangers:
        raise problem(
            "BC301",
            f"{path}@axes",
            expected=f"names of [{', '.join(layout.axes)}]",
            found=f"[{', '.join(names)}]",
            fix="use the names of the data's axes",
        )
    return names
