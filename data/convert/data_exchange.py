"""Scientific Data Exchange: /exchange with data, data_white, data_dark, theta.

Source: De Carlo et al. (2014), J. Synchrotron Rad. 21, 1224: a scheme for raw and analysed data in HDF5.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import h5py
import numpy as np

from data.convert.opening import in_si, numbers, open_foreign, words
from data.convert.options import ConvertOptions
from data.convert.tomography_parts import build
from data.errors import DataFormatError
from data.hdf5 import DAMAGE, FormatProblem, attribute, get_object
from data.measurement import Array, Measurement
from data.units import UnitError, si_unit

#: Where beamlines write the height and width of a pixel.
_PIXELS = (
    (
        "/measurement/instrument/detector/pixel_size_y",
        "/measurement/instrument/detector/pixel_size_x",
    ),
    ("/measurement/instrument/detector/pixel_size",) * 2,
    ("/measurement/instrument/detection_system/objective/resolution",) * 2,
)
#: What the column of the rotation axis is called, in groups of /process, /exchange and /measurement.
_CENTRES = ("rotation_axis", "rotation_axis_location", "rotation_center", "rotation_centre", "center", "centre")
#: A full turn in radians, with a little room: larger angles are degrees.
_TURN = 6.3


def from_data_exchange(source: Path, options: ConvertOptions) -> Measurement:
    """/exchange with its white and dark fields; a parallel beam unless told otherwise.

    Pixels come from the scales x and y, else from the detector's `pixel_size`; the rotation axis from the only dataset
    of a known name (`rotation_axis`, `rotation_center`, ...) below /process, /exchange or /measurement.
    """
    with open_foreign(source, allow_links=options.allow_links) as file:
        data = _ordered(source, file, "/exchange/data", "theta")
        if data is None:
            raise DataFormatError(f"{source}: /exchange/data: expected projections, found none")
        flat = _ordered(source, file, "/exchange/data_white", "theta_white")
        dark = _ordered(source, file, "/exchange/data_dark", "theta_dark")
        notes: list[str] = []
        angle = _theta(source, file, options, notes)
        center = _center(source, file, data.shape[2], notes) if options.center is None else None
        return build(
            source,
            data,
            angle,
            options,
            program="Scientific Data Exchange",
            pixel_m=None if options.pixel_size_m else _pixel(source, file),
            flat=flat,
            dark=dark,
            center=center,
            attrs={"title": words(file, "/exchange/title") or source.name},
            warnings=tuple(notes),
        )


def _ordered(source: Path, file: h5py.File, path: str, first: str) -> Array | None:
    """(projection, row, column), by the attribute `axes` where there is one."""
    values = numbers(file, path)
    if values is None:
        return None
    axes = attribute(file[path], path, "axes")
    if isinstance(axes, str) and axes.strip():
        names = [name.strip() for name in axes.split(":")]
        wanted = (first if first in names else "theta", "y", "x")
        if sorted(names) != sorted(wanted) or values.ndim != 3:
            raise DataFormatError(
                f"{source}: {path}@axes: expected {first}:y:x in some order for shape {values.shape}, found {axes!r}"
            )
        values = values.transpose([names.index(name) for name in wanted])
    return values[None] if values.ndim == 2 and first != "theta" else values


def _theta(source: Path, file: h5py.File, options: ConvertOptions, notes: list[str]) -> Array:
    path = "/exchange/theta"
    values = numbers(file, path)
    if values is None:
        raise DataFormatError(f"{source}: {path}: expected the angles, found none; write one per projection")
    unit = options.angle_unit or attribute(file[path], path, "units")
    if not unit:
        if not (np.abs(np.asarray(values, np.float64)) > _TURN).any():
            raise DataFormatError(f"{source}: {path}@units: expected deg or rad, found none; give --angle-unit")
        notes.append(f"{source.name}: {path} has no units; beyond {_TURN} it is taken as degrees")
        unit = "deg"
    if options.angle_unit is not None:
        return np.deg2rad(values) if unit == "deg" else np.asarray(values, np.float64)
    found = in_si(source, file, path, "rad", default=str(unit))
    assert found is not None
    return found


def _pixel(source: Path, file: h5py.File) -> tuple[float, float] | None:
    steps = []
    for name in "yx":
        values = in_si(source, file, f"/exchange/{name}", "m", default="m") if _has_length(file, name) else None
        if values is not None and values.ndim == 1 and len(values) > 1:
            steps.append(float(values[1] - values[0]))
    if len(steps) == 2 and min(steps) > 0:
        return steps[0], steps[1]
    for paths in _PIXELS:
        sizes = [in_si(source, file, path, "m", default="m") for path in paths]  # SI where the file has no unit
        if all(size is not None and size.size == 1 and size > 0 for size in sizes):
            row, column = (float(np.ravel(size)[0]) for size in sizes)  # type: ignore[arg-type]
            return row, column
    return None


def _has_length(file: h5py.File, name: str) -> bool:
    """Whether the scale is one of metres; without a unit it counts pixels."""
    path = f"/exchange/{name}"
    found = get_object(file, path)
    unit = attribute(found, path, "units") if isinstance(found, h5py.Dataset) else None
    with contextlib.suppress(UnitError):
        return isinstance(unit, str) and bool(unit) and si_unit(unit) == "m"
    return False


def _center(source: Path, file: h5py.File, n_column: int, notes: list[str]) -> float | None:
    found: dict[str, float] = {}

    def visit(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and path.rpartition("/")[2] in _CENTRES:
            with contextlib.suppress(FormatProblem, *DAMAGE):
                values = numbers(file, f"/{path}")
                if values is not None and values.size == 1 and 0 <= float(np.ravel(values)[0]) < n_column:
                    found[f"/{path}"] = float(np.ravel(values)[0])

    for name in ("process", "exchange", "measurement"):
        group = get_object(file, f"/{name}")
        if isinstance(group, h5py.Group):
            group.visititems(lambda path, item, name=name: visit(f"{name}/{path}", item))
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{path} = {value:g}" for path, value in found.items())
        raise DataFormatError(f"{source}: expected one rotation axis, found {listed}; give --center PIXELS")
    if not found:
        return None
    path, value = next(iter(found.items()))
    notes.append(f"{source.name}: rotation axis at column {value:g}, from {path}")
    return value
