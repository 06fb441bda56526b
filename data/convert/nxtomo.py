"""NXtomo, the NeXus application definition of raw tomography.

Source: NeXus definitions, NXtomo: instrument/detector/{data, image_key, x_pixel_size, y_pixel_size},
    sample/rotation_angle, control/data. x is the detector's fast axis.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from data.convert.opening import groups_of_class, in_si, numbers, open_foreign, words
from data.convert.options import ConvertOptions
from data.convert.tomography_parts import build
from data.errors import DataFormatError
from data.hdf5 import attribute, get_object
from data.head import has_offset
from data.measurement import Measurement


def entries(file: h5py.File) -> list[str]:
    """Paths of the entries whose definition is NXtomo."""
    found = groups_of_class(file, ("NXentry", "NXsubentry"))
    return [path for path in found if words(file, f"{path}/definition") == "NXtomo"]


def from_nxtomo(source: Path, options: ConvertOptions) -> Measurement:
    """One entry's frames, flats and darks among them as `image_key` says; the beam is parallel unless told otherwise.

    Pixels are those of /sample where it has any (magnified), else those of the detector. The rotation axis comes from
    --center alone: programs disagree on where `x_rotation_axis_pixel_position` counts from.
    """
    with open_foreign(source, allow_links=options.allow_links) as file:
        found = entries(file)
        if options.key is not None:
            found = [path for path in found if path.strip("/") == options.key.strip("/")]
        if len(found) != 1:
            raise DataFormatError(
                f"{source}: expected one entry of the definition NXtomo, found {len(found)}"
                + (f" ({', '.join(found)}); choose one with --key" if found else "")
            )
        entry = found[0]
        detector = _detector(source, file, entry)
        data = numbers(file, f"{detector}/data")
        angle = _angle(source, file, f"{entry}/sample/rotation_angle", options)
        key = numbers(file, f"{detector}/image_key")
        if data is None or angle is None or key is None:
            missing = {
                f"{detector}/data": data,
                f"{entry}/sample/rotation_angle": angle,
                f"{detector}/image_key": key,
            }
            name = next(name for name, value in missing.items() if value is None)
            raise DataFormatError(f"{source}: {name}: expected numbers, found none")
        if key.dtype.kind not in "iu" or not np.isin(key, (0, 1, 2, 3)).all():
            raise DataFormatError(f"{source}: {detector}/image_key: expected 0 to 3, found {key.min()} to {key.max()}")
        notes = []
        if numbers(file, f"{entry}/control/data") is not None:
            notes.append(f"{source.name}: {entry}/control/data (the beam's monitor) is not applied")
        if get_object(file, f"{detector}/transformations") is not None:
            notes.append(f"{source.name}: {detector}/transformations (flips) are not applied")
        axis = numbers(file, f"{detector}/x_rotation_axis_pixel_position")
        if axis is not None and options.center is None:
            notes.append(
                f"{source.name}: x_rotation_axis_pixel_position = {float(np.ravel(axis)[0]):g} is not used, programs "
                "disagree on where it counts from; give --center PIXELS, 0 for the centre of the first column"
            )
        started = words(file, f"{entry}/start_time") or ""
        attrs = {"title": words(file, f"{entry}/title") or source.name}
        if has_offset(started):
            attrs["file_time"] = started
        return build(
            source,
            data,
            angle,
            options,
            program="NXtomo",
            pixel_m=None if options.pixel_size_m else _pixel(source, file, entry, detector),
            image_key=key,
            attrs=attrs,
            warnings=tuple(notes),
        )


def _detector(source: Path, file: h5py.File, entry: str) -> str:
    instrument = get_object(file, f"{entry}/instrument")
    if isinstance(instrument, h5py.Group):
        for name in ("detector", *sorted(instrument)):
            path = f"{entry}/instrument/{name}"
            group = get_object(file, path)
            if isinstance(group, h5py.Group) and attribute(group, path, "NX_class") == "NXdetector":
                return path
    raise DataFormatError(f"{source}: {entry}/instrument: expected a detector (NXdetector), found none")


def _angle(source: Path, file: h5py.File, path: str, options: ConvertOptions) -> np.ndarray | None:
    found = get_object(file, path)
    if found is not None and attribute(found, path, "units") in (None, "") and options.angle_unit is None:
        raise DataFormatError(f"{source}: {path}@units: expected deg or rad, found none; give --angle-unit")
    return in_si(source, file, path, "rad", default=options.angle_unit)


def _pixel(source: Path, file: h5py.File, entry: str, detector: str) -> tuple[float, float] | None:
    for group in (f"{entry}/sample", detector):
        sizes = [in_si(source, file, f"{group}/{axis}_pixel_size", "m") for axis in "yx"]
        if all(size is not None and size.size == 1 for size in sizes):
            row, column = (float(np.ravel(size)[0]) for size in sizes)  # type: ignore[arg-type]
            if row > 0 and column > 0:
                return row, column
    return None
