"""What the converters of tomography files share: counts, fields, angles, the detector in metres."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.measurement import Array, Measurement, Scale

#: float32 holds whole numbers up to here.
_EXACT = 2**24


def build(
    source: Path,
    data: Array,
    angle_rad: Array,
    options: ConvertOptions,
    *,
    program: str,
    pixel_m: tuple[float, float] | None = None,
    image_key: Array | None = None,
    flat: Array | None = None,
    dark: Array | None = None,
    center: float | None = None,
    attrs: Mapping[str, Any] | None = None,
    warnings: tuple[str, ...] = (),
) -> Measurement:
    """A Measurement of projections.

    Args:
        source: for messages and the title.
        data: real (projection, row, column), flats and darks included where `image_key` marks them.
        angle_rad: float64 (projection,).
        options: pixel size, centre, sense, quantity, distances.
        program: for the provenance.
        pixel_m: height and width of a pixel, metres; the options win.
        image_key: uint8 (projection,), 0 projection, 1 flat, 2 dark, 3 invalid.
        flat, dark: (n, row, column).
        center: column of the rotation axis, 0 for the centre of the first one; the options win.
        attrs, warnings: of the Measurement.

    Raises:
        DataFormatError: sizes that do not fit, or something that neither the file nor the options say.
    """
    if data.ndim != 3 or data.dtype.kind not in "iuf" or 0 in data.shape:
        raise DataFormatError(
            f"{source}: expected projections as real numbers (projection, row, column), found {data.shape} {data.dtype}"
        )
    for name, values in (("angles", angle_rad), ("image_key", image_key)):
        if values is not None and values.shape != data.shape[:1]:
            raise DataFormatError(
                f"{source}: {name}: expected {len(data)} values, one per projection, found shape {values.shape}"
            )
    pixel_m = options.pixel_size_m or pixel_m
    if pixel_m is None:
        raise DataFormatError(f"{source}: pixel size: not in the file; give --pixel-size ROW,COLUMN in metres")
    notes = list(warnings)
    if options.sense is None:
        notes.append(
            f"{source.name}: the sense of rotation is not in the file, counter-clockwise about +z is taken; the image "
            "is mirrored if it was clockwise: --sense cw"
        )
    n_row, n_column = data.shape[1:]
    geometry: dict[str, Any] = {
        "frame": "right-handed; the object rotates about z, detector rows lie along z in the order of the file",
        "coordinates": ["x", "y", "z"],
        "type": "parallel",
    }
    if options.source_to_origin_m is not None:
        geometry |= {
            "type": "cone" if n_row > 1 else "fan",
            "source_to_origin": options.source_to_origin_m,
            "origin_to_detector": options.origin_to_detector_m,
        }
    center = center if options.center is None else options.center
    if center is not None:
        geometry["rotation_axis_offset"] = (center - (n_column - 1) / 2) * pixel_m[1]
    acquisition: dict[str, Any] = {
        "angle": np.asarray(angle_rad, np.float64),
        "sense": "cw_from_+z" if options.sense == "cw" else "ccw_from_+z",
        "zero_ray": "+y",
    }
    if image_key is not None:
        acquisition["image_key"] = np.asarray(image_key, np.uint8)
    calibration: dict[str, Any] = {}
    for name, field in (("flat", flat), ("dark", dark)):
        if field is not None:
            field = field[None] if field.ndim == 2 else field
            if field.shape[1:] != data.shape[1:] or field.dtype.kind not in "iuf":
                raise DataFormatError(
                    f"{source}: {name}: expected real numbers (n, {n_row}, {n_column}) as the projections, found "
                    f"{field.shape} {field.dtype}"
                )
            calibration[name] = _narrow(source, name, field, notes).astype(np.float32)
    samples = _narrow(source, "data", data, notes)
    quantity = _quantity(source, options, flat is not None or (image_key is not None and (image_key == 1).any()))
    if quantity == "counts" and dark is None and not (image_key is not None and (image_key == 2).any()):
        notes.append(f"{source.name}: no dark field, it is taken as zero")
        calibration["dark"] = np.zeros((1, n_row, n_column), np.float32)
    return Measurement(
        modality="tomography",
        data=samples,
        axes=("projection", "detector_row", "detector_column"),
        scales={
            "projection": Scale(values=np.arange(len(data), dtype=np.int32), units="1"),
            "detector_row": Scale(values=_centred(n_row, pixel_m[0]), units="m"),
            "detector_column": Scale(values=_centred(n_column, pixel_m[1]), units="m"),
        },
        units="1",
        quantity=quantity,
        long_name={"counts": "detector counts", "line_integral": "line integral"}.get(quantity, quantity),
        geometry=geometry,
        acquisition=acquisition,
        calibration=calibration,
        provenance={"program": f"backcast convert ({program})"},
        attrs={"title": source.name, **(attrs or {})},
        warnings=tuple(notes),
    )


def _centred(n: int, step_m: float) -> Array:
    return (np.arange(n) - (n - 1) / 2) * step_m


def _quantity(source: Path, options: ConvertOptions, has_flat: bool) -> str:
    if options.quantity == "counts" and not has_flat:
        raise DataFormatError(
            f"{source}: expected flat fields for --quantity counts, found none; give transmission or line_integral"
        )
    quantity = options.quantity or ("counts" if has_flat else None)
    if quantity is None:
        raise DataFormatError(
            f"{source}: expected flat fields, found none; say what the projections are by --quantity transmission or "
            "line_integral"
        )
    return quantity


def _narrow(source: Path, name: str, values: Array, notes: list[str]) -> Array:
    """uint16 where that is exact, else float32; a note on whole numbers that float32 rounds."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values.astype(np.uint16)
    if values.dtype.kind in "iu" and max(abs(int(values.max())), abs(int(values.min()))) > _EXACT:
        notes.append(f"{source.name}: {name}: counts above {_EXACT} are rounded to float32, 6e-8 of their value")
    return values.astype(np.float32)
