"""/measurement: which axes the samples have, in which order, and their coordinates."""

from __future__ import annotations

import numpy as np

from data.hdf5 import attribute, problem
from data.inspector import Inspector
from data.measurement import Scale
from data.measurement_parts import Layout, MeasurementParts
from data.stored import Stored
from data.units import to_si
from data.values import as_names


def read_layout(inspector: Inspector, parts: MeasurementParts) -> None:
    modality = parts.modality
    assert modality is not None
    group = inspector.group("/measurement", required=True)
    if group is None:
        return
    layouts = " or ".join(f"[{', '.join(layout)}]" for layout in modality.layouts)
    layout = None
    with inspector.collecting():
        value = attribute(group, "/measurement", "axes")
        names = as_names(value)
        if names is None:
            raise problem(
                "BC202",
                "/measurement@axes",
                expected=layouts,
                found="no such attribute" if value is None else repr(value),
                fix="write the axis names of /measurement/data in HDF5 (C) order",
            )
        layout = _match_layout(names, modality.layouts, modality.droppable)
        if layout is None:
            raise problem(
                "BC301",
                "/measurement@axes",
                expected=f"{layouts}, in any order",
                found=f"[{', '.join(names)}]",
                fix="use these names; the order is that of the dimensions in the file",
            )
    stored = inspector.dataset("/measurement/data", required=True, expected=f"the samples, {layouts}")
    if stored is None:
        return
    parts.stored = stored
    _read_words(inspector, parts, stored)
    with inspector.collecting():
        _check_data_kind(stored, modality.data_kind)
    if layout is None:
        return
    with inspector.collecting():
        _check_rank(stored, layout)
        parts.layout = layout
        parts.shape = layout.shape(stored.shape)
        parts.sizes.update(zip(layout.axes, parts.shape, strict=True))
        if 0 in parts.shape:
            empty = layout.axes[parts.shape.index(0)]
            raise problem(
                "BC305",
                "/measurement/data",
                expected="at least one sample along every axis",
                found=f"none along {empty}",
                fix="record something, or delete the file",
            )


def _match_layout(
    names: tuple[str, ...], layouts: tuple[tuple[str, ...], ...], droppable: tuple[str, ...]
) -> Layout | None:
    if len(set(names)) != len(names):
        return None
    for layout in layouts:
        if set(layout) == set(names):
            return Layout(layout, names)
    for layout in layouts:
        missing = set(layout) - set(names)
        if len(missing) == 1 and missing <= set(droppable) and set(names) < set(layout):
            return Layout(layout, names)
    return None


def _read_words(inspector: Inspector, parts: MeasurementParts, stored: Stored) -> None:
    modality = parts.modality
    assert modality is not None
    units = inspector.units(stored, modality.data_units)
    if units is not None:
        parts.data_factor_units = units
        parts.units = to_si(0.0, units, wanted=modality.data_units)[1]
    with inspector.collecting():
        value = attribute(stored.attrs_of, "/measurement/data", "quantity")
        if value not in modality.quantities:
            raise problem(
                "BC202" if value is None else "BC203",
                "/measurement/data@quantity",
                expected=" or ".join(map(repr, modality.quantities)),
                found="no such attribute" if value is None else repr(value),
                fix="write what a sample is",
            )
        parts.quantity = str(value)
    with inspector.collecting():
        value = attribute(stored.attrs_of, "/measurement/data", "long_name")
        parts.long_name = value if isinstance(value, str) else ""


def _check_data_kind(stored: Stored, kind: str) -> None:
    if kind == "complex" and stored.kind != "complex":
        raise problem(
            "BC205",
            stored.path,
            expected="complex samples",
            found=stored.dtype_name,
            fix="write complex64, {real, imag}, data_real and data_imag, or complex_layout='interleaved'",
        )
    if kind == "real" and stored.kind not in ("float", "int"):
        raise problem(
            "BC205",
            stored.path,
            expected="real samples",
            found=stored.dtype_name,
            fix="write float32 or uint16",
        )


def _check_rank(stored: Stored, layout: Layout) -> None:
    if len(stored.shape) == len(layout.file_axes):
        return
    pairs = len(stored.shape) == len(layout.file_axes) + 1 and stored.shape[-1] == 2
    raise problem(
        "BC302",
        "/measurement/data",
        expected=f"{len(layout.file_axes)} dimensions, one per name in axes [{', '.join(layout.file_axes)}]",
        found=f"shape {stored.shape}",
        fix="write complex_layout='interleaved' if the last dimension is real and imaginary part"
        if pairs
        else "write every axis, also those of length 1",
    )


def read_scales(inspector: Inspector, parts: MeasurementParts) -> None:
    if parts.modality is None or parts.layout is None:
        return
    for name in parts.layout.axes:
        rule = parts.modality.scales[name]
        if name in parts.layout.file_axes:
            scale = inspector.scale(f"/measurement/{name}", rule, parts.sizes.get(name))
            if scale is not None:
                parts.scales[name] = scale
        else:  # left out by the file: length 1, at the origin
            zero = np.zeros(1, np.int32 if rule.index else np.float64)
            parts.scales[name] = Scale(values=zero, units=rule.units)
