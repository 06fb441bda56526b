"""What all converters of MRI files share: axes in order, one sign, trajectories in 1/m."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.convert.options import TRAJECTORY_UNITS, ConvertOptions
from data.errors import DataFormatError
from data.measurement import Array, Measurement, Scale

#: The layouts of the format.
SLICES = ("slice", "coil", "ky", "kx")
FRAMES = ("frame", "coil", "kz", "ky", "kx")
READOUTS = ("frame", "coil", "readout", "sample")


def build(
    source: Path,
    data: Array,
    axes: Sequence[str],
    *,
    program: str,
    centered: bool,
    sign: int,
    field_of_view_m: Sequence[float] | None,
    matrix: Sequence[int] | None = None,
    trajectory: Array | None = None,
    order: Sequence[str] = ("ky", "kx"),
    maps: Array | None = None,
    mask: tuple[Array, tuple[str, ...]] | None = None,
    noise_covariance: Array | None = None,
    frame_interval_s: float = 1.0,
    acquisition: Mapping[str, Any] | None = None,
    **more: Any,
) -> Measurement:
    """A Measurement of samples whose dimensions have names.

    Args:
        source: for messages and the title.
        data: complex; axes of length 1 may be left out.
        axes: a name of `data.convert.options.MRI_AXES` per dimension.
        program: for the provenance.
        centered: whether the zero frequency is at n // 2, else at 0.
        sign: of the exponent from image to k-space; k is reversed where it is 1.
        field_of_view_m, matrix: z, y, x; None leaves them out.
        trajectory: ((frame,) readout, sample, D), 1/m, columns as `order`.
        maps: complex (coil, z, y, x).
        mask: uint8 with the names of its axes.
        noise_covariance: (coil, coil).
        frame_interval_s: time between frames.
        acquisition: further entries there.
        more: further fields of the Measurement.

    Raises:
        DataFormatError: dimensions that make no layout of the format.
    """
    if len(set(axes)) != data.ndim or len(axes) != data.ndim:
        raise DataFormatError(
            f"{source}: axes: expected {data.ndim} different names, one per dimension of {data.shape}, got "
            f"{', '.join(axes) or 'none'}"
        )
    sizes = dict(zip(axes, data.shape, strict=True))
    layout = _layout(source, sizes)
    data = _arranged(data, axes, layout)
    words: dict[str, Any] = {"fft_norm": "ortho", "fft_centered": centered, "fft_sign": -1.0, **(acquisition or {})}
    if sign == 1:
        for i, name in enumerate(layout):
            if name in ("kz", "ky", "kx"):
                data = reverse(data, i, centered=centered)
        trajectory = None if trajectory is None else -trajectory
    if mask is not None:
        values, names = _mask(source, mask, layout, dict(zip(layout, data.shape, strict=True)))
        if sign == 1:
            for i, name in enumerate(names):
                values = reverse(values, i, centered=centered) if name in ("kz", "ky", "kx") else values
        more |= {"mask": values, "mask_axes": names}
    if layout == READOUTS:
        if trajectory is None:
            raise DataFormatError(f"{source}: trajectory: expected one for axes readout, sample; give --trajectory")
        if trajectory.shape[-3:-1] != data.shape[-2:]:
            raise DataFormatError(
                f"{source}: trajectory: expected {data.shape[-2]} readouts of {data.shape[-1]} samples as the data, "
                f"got {trajectory.shape[-3]} of {trajectory.shape[-2]}"
            )
        words |= {"trajectory": np.asarray(trajectory, np.float32), "order": list(order)}
    calibration: dict[str, Any] = {}
    if maps is not None:
        if maps.ndim != 4 or len(maps) != data.shape[1]:
            raise DataFormatError(f"{source}: maps: expected {data.shape[1]} coils as the data, got shape {maps.shape}")
        maps = np.asarray(maps, np.complex64)
        calibration["coil_sensitivities"] = np.ascontiguousarray(maps.swapaxes(0, 1)) if layout == SLICES else maps
    if noise_covariance is not None:
        calibration["noise_covariance"] = np.asarray(noise_covariance, np.complex64)
    geometry: dict[str, Any] = {"frame": "as in the source file", "coordinates": ["x", "y", "z"]}
    if field_of_view_m is not None:
        geometry["field_of_view"] = np.asarray(field_of_view_m, np.float64)
    if matrix is not None:
        geometry["recon_matrix"] = np.asarray(matrix, np.int32)
    return Measurement(
        modality="mri",
        data=np.ascontiguousarray(data, np.complex64),
        axes=layout,
        scales={name: _scale(name, n, frame_interval_s) for name, n in zip(layout, data.shape, strict=True)},
        units="1",
        quantity="kspace",
        long_name="k-space",
        geometry=geometry,
        acquisition=words,
        calibration=calibration,
        provenance={"program": f"backcast convert ({program})"},
        attrs={"title": source.name},
        **more,
    )


def _scale(name: str, n: int, interval_s: float) -> Scale:
    if name == "frame":
        return Scale(values=np.arange(n) * interval_s, units="s")
    return Scale(values=np.arange(n, dtype=np.int32), units="1")


def _layout(source: Path, sizes: Mapping[str, int]) -> tuple[str, ...]:
    if "readout" in sizes or "sample" in sizes:
        layout: tuple[str, ...] = READOUTS
    elif sizes.get("kz", 1) > 1 or sizes.get("frame", 1) > 1:
        layout = FRAMES
    else:
        layout = SLICES
    lost = [f"{name} ({n})" for name, n in sizes.items() if name not in layout and n > 1]
    if lost:
        raise DataFormatError(
            f"{source}: axes: expected those of one of [{', '.join(SLICES)}], [{', '.join(FRAMES)}], "
            f"[{', '.join(READOUTS)}], found {', '.join(lost)} beside {', '.join(n for n in sizes if n in layout)}; "
            "convert one index of it at a time"
        )
    return layout


def _arranged(data: Array, axes: Sequence[str], layout: tuple[str, ...]) -> Array:
    """The dimensions in the order of the layout, those that are missing with length 1."""
    index = tuple(slice(None) if name in layout else 0 for name in axes)
    data, kept = data[index], tuple(name for name in axes if name in layout)
    data = data.transpose([kept.index(name) for name in layout if name in kept])
    return data[tuple(slice(None) if name in kept else None for name in layout)]


def _mask(
    source: Path, mask: tuple[Array, tuple[str, ...]], layout: tuple[str, ...], sizes: Mapping[str, int]
) -> tuple[Array, tuple[str, ...]]:
    values, names = mask
    kept = tuple(name for name, n in zip(names, values.shape, strict=True) if name in layout and n > 1)
    for name, n in zip(names, values.shape, strict=True):
        if n not in (1, sizes.get(name, 1)):
            raise DataFormatError(f"{source}: mask: expected {sizes.get(name, 1)} along {name} as the data, got {n}")
    values = values.reshape([n for name, n in zip(names, values.shape, strict=True) if name in kept])
    order = sorted(range(len(kept)), key=lambda i: layout.index(kept[i]))
    return np.asarray(values.transpose(order) != 0, np.uint8), tuple(kept[i] for i in order)


def reverse(values: Array, axis: int, *, centered: bool) -> Array:
    """k to -k along an axis; the zero frequency, at n // 2 or at 0, stays where it is."""
    n = values.shape[axis]
    zero = n // 2 if centered else 0
    return values.take((2 * zero - np.arange(n)) % n, axis=axis)


def per_metre(
    source: Path, points: Array, unit: str | None, order: Sequence[str], options: ConvertOptions, *, usual: str | None
) -> Array:
    """A trajectory in 1/m.

    Args:
        points: (..., D), columns as `order`.
        unit: as given; None takes `usual`.
        usual: the format's own; None where it has none.
    """
    unit = unit or usual
    if unit is None:
        known = ", ".join(TRAJECTORY_UNITS)
        raise DataFormatError(
            f"{source}: trajectory: its unit is not in the file; give --trajectory-unit, one of {known}"
        )
    if unit == "1/m":
        return points
    if options.field_of_view_m is None:
        raise DataFormatError(f"{source}: trajectory in {unit}: expected the field of view; give --field-of-view z,y,x")
    fov = np.array([options.field_of_view_m["zyx".index(name[1])] for name in order])
    if unit == "cycles/fov":
        return points / fov
    if options.matrix is None:
        raise DataFormatError(f"{source}: trajectory in {unit}: expected the image's voxels; give --matrix z,y,x")
    counts = np.array([options.matrix["zyx".index(name[1])] for name in order])
    factor = TRAJECTORY_UNITS[unit]
    assert factor is not None
    return points * (factor * counts / fov)


def needed(source: Path, options: ConvertOptions) -> tuple[bool, int]:
    """Centring and sign, where a format does not say: nothing is assumed."""
    if options.fft_centered is None or options.fft_sign is None:
        raise DataFormatError(
            f"{source}: fft_centered, fft_sign: not in the file; give --fft-centered or --fft-uncentered, and "
            "--fft-sign -1 or 1"
        )
    return options.fft_centered, options.fft_sign
