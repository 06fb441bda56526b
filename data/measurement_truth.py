"""/grid and /ground_truth of a measurement file."""

from __future__ import annotations

from data.hdf5 import attribute, find_group, problem
from data.inspector import Inspector
from data.measurement import GridSpec, NamedArray
from data.measurement_parts import MeasurementParts
from data.schema import NAMED_TRUTHS
from data.units import to_si
from data.values import as_names, cast, check_finite, check_kind, match_shape
from data.volume_io import read_volume, volume_layout


def read_grid(inspector: Inspector, parts: MeasurementParts) -> None:
    with inspector.collecting():
        if find_group(inspector.file, "/grid") is None:
            return
        numbers: dict[str, tuple[float, ...]] = {}
        for name, dtype in (("origin", "f8"), ("spacing", "f8"), ("shape", "i4")):
            path = f"/grid/{name}"
            stored = inspector.dataset(path, required=True, expected="three numbers, order z, y, x")
            if stored is None:
                return
            check_kind(stored, dtype)
            match_shape(stored, ((3,),), {})
            values = cast(stored.load().ravel(), dtype, path)
            if name != "shape":
                units = inspector.units(stored, ("m",))
                if units is None:
                    return
                values = to_si(values, units, wanted="m")[0]
            check_finite(values, path)
            if name != "origin" and not (values > 0).all():
                raise problem(
                    "BC505",
                    path,
                    expected="three numbers > 0",
                    found=str(values.tolist()),
                    fix="check the grid",
                )
            numbers[name] = tuple(values.tolist())
        o, d, n = numbers["origin"], numbers["spacing"], numbers["shape"]
        parts.grid = GridSpec((o[0], o[1], o[2]), (d[0], d[1], d[2]), (int(n[0]), int(n[1]), int(n[2])))


def read_ground_truth(inspector: Inspector, parts: MeasurementParts) -> None:
    with inspector.collecting():
        group = find_group(inspector.file, "/ground_truth")
        if group is None:
            return
        stored = inspector.dataset("/ground_truth/volume", required=False)
        if stored is not None:
            value = attribute(stored.attrs_of, "/ground_truth/volume", "axes")
            layout = volume_layout(inspector, value, "/ground_truth/volume@axes", len(stored.shape))
            if layout is not None:
                parts.ground_truth_shape = layout.shape(stored.shape)
                truth = read_volume(inspector, stored, layout, "/ground_truth", found_scales=parts.ground_truth_scales)
                if truth is not None:
                    check_finite(truth.data, "/ground_truth/volume", layout.axes)
                    if not truth.data.any():
                        inspector.warning(
                            "BC905",
                            "/ground_truth/volume",
                            expected="a truth other than zero",
                            found="only zeros",
                            fix="leave it out where there is none; figures of quality are not made of it",
                        )
                parts.ground_truth = truth
        for name in NAMED_TRUTHS:
            _read_extra_truth(inspector, parts, name)


def _read_extra_truth(inspector: Inspector, parts: MeasurementParts, name: str) -> None:
    path = f"/ground_truth/{name}"
    stored = inspector.dataset(path, required=False)
    if stored is None:
        return
    dtype, units = NAMED_TRUTHS[name]
    check_kind(stored, dtype)
    names = as_names(attribute(stored.attrs_of, path, "axes")) if stored.shape else ()
    if names is None or len(names) != len(stored.shape):
        raise problem(
            "BC302",
            f"{path}@axes",
            expected=f"{len(stored.shape)} axis names",
            found="no such attribute" if names is None else ", ".join(names),
            fix="name every dimension",
        )
    if inspector.deep:
        values = cast(stored.load(), dtype, path)
        check_finite(values, path, names)
        parts.extra_truth[name] = NamedArray(values=values, axes=names, units=units)
