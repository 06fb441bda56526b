"""Reading an image with named axes: the ground truth of a measurement, the volume of a reconstruction."""

from __future__ import annotations

from data.hdf5 import attribute, problem
from data.inspector import Inspector
from data.measurement import Scale, Volume
from data.measurement_parts import Layout
from data.schema import VOLUME_LAYOUTS, VOLUME_SCALES, ScaleRule
from data.stored import Stored
from data.units import UnitError, si_unit, to_si
from data.values import as_names, cast

_LOOSE = ScaleRule("1")


def volume_layout(inspector: Inspector, names: object, path: str, rank: int) -> Layout | None:
    """(frame,) z, y, x in any order become that order; other names stay as they are. None after a finding."""
    with inspector.collecting():
        axes = as_names(names)
        if axes is None:
            raise problem(
                "BC202",
                path,
                expected="the axis names in HDF5 (C) order, e.g. [z, y, x]",
                found="no such attribute" if names is None else repr(names),
                fix="write axes=['z', 'y', 'x']",
            )
        if len(axes) != rank or len(set(axes)) != len(axes):
            raise problem(
                "BC302",
                path,
                expected=f"{rank} different names, one per dimension",
                found=", ".join(axes),
                fix="name every dimension once",
            )
        for layout in VOLUME_LAYOUTS:
            if set(layout) == set(axes):
                return Layout(layout, axes)
        if {"z", "y", "x"} & set(axes):
            raise problem(
                "BC301",
                path,
                expected=" or ".join(f"[{', '.join(layout)}]" for layout in VOLUME_LAYOUTS),
                found=f"[{', '.join(axes)}]",
                fix="name all three space axes, and nothing else but frame",
            )
        return Layout(axes, axes)
    return None


def read_volume(
    inspector: Inspector,
    stored: Stored,
    layout: Layout,
    scales_in: str,
    *,
    quantities: tuple[str, ...] = (),
    found_scales: dict[str, Scale] | None = None,
) -> Volume | None:
    """The image `stored` with the scales of the group `scales_in`; None unless samples are read and right.

    `found_scales` receives the scales also where the samples are not read.
    """
    lengths = dict(zip(layout.file_axes, stored.shape, strict=True))
    scales: dict[str, Scale] = {} if found_scales is None else found_scales
    for name in layout.axes:
        rule = VOLUME_SCALES.get(name, _LOOSE)
        if rule is _LOOSE:
            rule = ScaleRule(_own_unit(inspector, f"{scales_in}/{name}"))
        scale = inspector.scale(f"{scales_in}/{name}", rule, lengths[name])
        if scale is not None:
            scales[name] = scale
    with inspector.collecting():
        if stored.kind not in ("complex", "float"):
            raise problem(
                "BC205",
                stored.path,
                expected="real or complex numbers",
                found=stored.dtype_name,
                fix="write float32",
            )
        text = attribute(stored.attrs_of, stored.path, "units")
        units = _any_si(inspector, stored, text)
        words = {}
        for name in ("quantity", "long_name"):
            value = attribute(stored.attrs_of, stored.path, name)
            words[name] = value if isinstance(value, str) else ""
        if quantities and words["quantity"] not in quantities:
            raise problem(
                "BC203" if words["quantity"] else "BC202",
                f"{stored.path}@quantity",
                expected=" or ".join(map(repr, quantities)),
                found=repr(words["quantity"]) if words["quantity"] else "no such attribute",
                fix="write what a voxel's value is",
            )
        if units is None or len(scales) != len(layout.axes) or not inspector.deep:
            return None
        data = cast(layout.arrange(stored.load()), "c8" if stored.kind == "complex" else "f4", stored.path)
        data = to_si(data, str(text), wanted=units)[0]
        return Volume(data=data, axes=layout.axes, scales=scales, units=units, **words)
    return None


def _any_si(inspector: Inspector, stored: Stored, text: object) -> str | None:
    try:
        wanted = si_unit(text) if isinstance(text, str) and text else "1"
    except UnitError:
        wanted = "1"  # `units` below reports what was found
    return wanted if inspector.units(stored, (wanted,)) is not None else None


def _own_unit(inspector: Inspector, path: str) -> str:
    """The SI unit that a scale with no fixed one carries; "1" when it carries none that is known."""
    with inspector.collecting():
        stored = inspector.dataset(path, required=False)
        text = attribute(stored.attrs_of, path, "units") if stored is not None else None
        try:
            return si_unit(text) if isinstance(text, str) and text else "1"
        except UnitError:
            return "1"
    return "1"
