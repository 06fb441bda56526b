"""Slices of a volume that is in a file: measured or simulated elsewhere."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from data.phantoms.errors import SimulationError
from data.phantoms.slices import Floats, fraction, number, peak_one, whole

_AXES = ("z", "y", "x")
#: Share of the peak from which a pixel counts as content when slices are fitted into their circle.
CONTENT = 0.05


def volume_slices(
    shape: tuple[int, int, int],
    *,
    generator: np.random.Generator,
    path: str = "",
    key: str | None = None,
    number_in_file: int = 0,
    axis: str = "z",
    first: int | None = None,
    zero_level: float = 0.0,
    threshold: float | None = None,
    pixel_ratio: float = 1.0,
    radius: float | None = 0.85,
) -> Floats:
    """Neighbouring slices of a volume, resized to n x n with antialiasing.

    Complex volumes count with their magnitude. With f the file's pixels per pixel of the result, along each axis, the
    slice is blurred by a Gaussian of (f - 1) / 2 pixels where f > 1, and interpolated bilinearly, zero outside.

    Args:
        shape: nz, n, n.
        generator: not used; every object takes one.
        path: .npy, .npz, .h5 or .nii(.gz), as training reads them: (nz, ny, nx), (ny, nx), or several volumes.
        key: of the array in .npz and HDF5 files with several.
        number_in_file: which volume, where the file has several.
        axis: the slices' normal: z, y or x.
        first: first slice along `axis`; None takes those in the middle.
        zero_level: the file's value of air, which becomes 0: -1000 for Hounsfield units.
        threshold: share of the peak below which a pixel is set to 0, against a noisy background; None sets none.
        pixel_ratio: distance of rows over distance of columns in the slice.
        radius: of the circle, half-widths, into which all content (pixels above 5 % of the peak) is moved and
            scaled; None scales the whole slice to the square.

    Returns:
        float32 of `shape`, peak 1, unitless.

    Raises:
        DataFormatError: a file that cannot be read.
        SimulationError: no path, no such volume or slice, nothing above `zero_level`, a parameter out of range.
    """
    if not path:
        raise SimulationError("object volume, path: expected a .npy, .npz, .h5 or .nii file, got none; name one")
    if axis not in _AXES:
        raise SimulationError(f"object volume, axis: expected z, y or x, got {axis!r}")
    slices = _read(path, key, whole("number_in_file", number_in_file, least=0), axis, shape[0], first)
    slices = peak_one(slices - number("zero_level", zero_level))
    if threshold is not None:
        slices = np.where(slices < fraction("threshold", threshold), np.float32(0), slices)
    return peak_one(_fitted(slices, shape[-1], number("pixel_ratio", pixel_ratio, above=0.0), radius))


def _read(path: str, key: str | None, which: int, axis: str, n: int, first: int | None) -> Floats:
    from pathlib import Path

    from data.training.read_volumes import find_files, read_volumes

    file = find_files(path)
    if len(file) != 1 or Path(path).is_dir():
        raise SimulationError(f"object volume, path: expected one file, got the folder {path}")
    volumes = read_volumes(file[0], key)[1]
    if which >= len(volumes):
        raise SimulationError(f"{path}: number_in_file: expected up to {len(volumes) - 1}, got {which}")
    volume = np.moveaxis(volumes[which], _AXES.index(axis), 0)
    if first is not None:
        whole("first", first, least=0)
    start = (len(volume) - n) // 2 if first is None else first
    if start < 0 or start + n > len(volume):
        raise SimulationError(
            f"{path}: expected {n} slices along {axis}{'' if first is None else f' from {first}'}, found "
            f"{len(volume)}; lower n_slices or first"
        )
    return volume[start : start + n]


def _fitted(slices: Floats, n: int, ratio: float, radius: float | None) -> Floats:
    """The content of all slices in one circle; the same scale and place for all."""
    ny, nx = slices.shape[-2:]
    if radius is None:
        middle_y, middle_x = (ny - 1) / 2, (nx - 1) / 2
        half = max(ny * ratio, nx) / 2  # half-width of the result, in the file's columns
    else:
        rows, columns = np.nonzero(slices.max(axis=0) > CONTENT)
        middle_y, middle_x = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
        reach = np.hypot(np.abs(rows - middle_y) + 0.5, (np.abs(columns - middle_x) + 0.5) / ratio)
        half = float(reach.max()) * ratio / fraction("radius", radius)
    step_x = 2 * half / n
    step_y = step_x / ratio
    place = (2 * np.arange(n) + 1 - n) / 2
    where = np.meshgrid(middle_y + place * step_y, middle_x + place * step_x, indexing="ij")
    blur = [max((step - 1) / 2, 0.0) for step in (step_y, step_x)]
    return np.stack(
        [
            map_coordinates(gaussian_filter(image, blur, mode="nearest"), where, order=1, mode="grid-constant")
            for image in slices
        ]
    )
