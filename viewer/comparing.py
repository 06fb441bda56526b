"""Two images of one grid compared: difference, profile along a line, figures in a region. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewer.source import gain_of

#: A line so near to a plane of voxels, in voxels, lies on it.
ON_A_VOXEL = 1e-3


@dataclass(frozen=True, eq=False)
class Shown:
    """What a layer shows, and where.

    Args:
        name: of the layer.
        data: real, (..., rows, columns) or a volume; indices are those of `scale`.
        scale, translate: of every axis, in `units`.
        units: one per axis, as words.
        value_units: of the data.
    """

    name: str
    data: Any
    scale: tuple[float, ...]
    translate: tuple[float, ...]
    units: tuple[str, ...]
    value_units: str = "1"


def shown(layer: Any) -> Shown:
    """Of a napari image layer, its finest level."""
    data = layer.data[0] if layer.multiscale else layer.data
    return Shown(
        name=layer.name,
        data=data,
        scale=tuple(float(s) for s in layer.scale),
        translate=tuple(float(t) for t in layer.translate),
        units=tuple(f"{u:~}" if hasattr(u, "dimensionality") else str(u) for u in layer.units),
        value_units=str(layer.metadata.get("units", "1")),
    )


def same_grid(a: Shown, b: Shown) -> None:
    """Nothing, for two images of one grid.

    Raises:
        ValueError: other shapes, spacings or places.
    """
    if a.data.shape != b.data.shape:
        raise ValueError(
            f"{a.name} and {b.name}: expected images of one shape, found {_times(a.data.shape)} and "
            f"{_times(b.data.shape)}; reconstruct on one grid"
        )
    near = np.allclose(a.scale, b.scale, rtol=1e-6) and np.allclose(
        a.translate, b.translate, rtol=0, atol=1e-3 * min(a.scale)
    )
    if not near:
        raise ValueError(f"{a.name} and {b.name}: expected images of one grid, found them at different places")


def difference(a: Shown, b: Shown, *, fit_gain: bool) -> tuple[NDArray[np.float32], float]:
    """a - g b, and g: with `fit_gain` the factor that brings b nearest to a, else 1.

    Raises:
        ValueError: other grids.
    """
    same_grid(a, b)
    one, other = np.asarray(a.data, dtype=np.float32), np.asarray(b.data, dtype=np.float32)
    gain = gain_of(other, one) if fit_gain else 1.0
    return one - np.float32(gain) * other, gain


def profile(image: Shown, start: Sequence[float], end: Sequence[float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values along a line, interpolated linearly, and the distance from its start in the image's units.

    Args:
        image: any rank.
        start, end: world coordinates, one per axis of the image.

    Returns:
        float64 (n,) each, n about one per voxel; NaN outside of the image.
    """
    from scipy.ndimage import map_coordinates

    first, last = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    one, other = ((p - image.translate) / image.scale for p in (first, last))
    n = max(2, int(np.ceil(np.linalg.norm(other - one))) + 1)
    along = np.linspace(0, 1, n)
    at = one + along[:, None] * (other - one)
    at = np.where(np.abs(at - np.round(at)) < ON_A_VOXEL, np.round(at), at)
    shape = np.asarray(image.data.shape)
    inside = ((at >= -0.5) & (at <= shape - 0.5)).all(axis=1)
    low = np.clip(np.floor(at.min(axis=0)).astype(int), 0, shape - 1)
    high = np.clip(np.ceil(at.max(axis=0)).astype(int), 0, shape - 1)
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    part = np.asarray(image.data[box], dtype=float)  # of a file, only this is read
    values = map_coordinates(part, (at - low).T, order=1, mode="nearest")
    return along * float(np.linalg.norm(last - first)), np.where(inside, values, np.nan)


def region_figures(a: Shown, b: Shown, low: Sequence[float], high: Sequence[float]) -> dict[str, float]:
    """Figures of merit of `a` against `b` in a box.

    Args:
        a, b: estimate and reference, of one grid.
        low, high: opposite corners in world coordinates, one per axis; both ends included.

    Returns:
        `voxels`, means and standard deviations of both, and `nmse`, `nmse_db`, `psnr` (dB over the reference's range
        from 0 to its largest in the box); NaN where a reference of zeros has none.

    Raises:
        ValueError: other grids, or a box without voxels.
    """
    same_grid(a, b)
    slices = []
    for axis, n in enumerate(a.data.shape):
        ends = sorted((float(v[axis]) - a.translate[axis]) / a.scale[axis] for v in (low, high))
        first, last = max(0, int(np.ceil(ends[0] - 0.5))), min(n - 1, int(np.floor(ends[1] + 0.5)))
        if first > last:
            raise ValueError(f"region: expected voxels of {a.name} inside, found none; draw it over the image")
        slices.append(slice(first, last + 1))
    one, other = (np.asarray(s.data[tuple(slices)], dtype=float) for s in (a, b))
    error, power, top = float(np.square(one - other).sum()), float(np.square(other).sum()), float(np.abs(other).max())
    nmse = error / power if power > 0 else float("nan")
    with np.errstate(divide="ignore"):
        return {
            "voxels": float(one.size),
            "mean": float(one.mean()),
            "std": float(one.std()),
            "reference mean": float(other.mean()),
            "reference std": float(other.std()),
            "nmse": nmse,
            "nmse_db": float(10 * np.log10(nmse)) if power > 0 else float("nan"),
            "psnr": float(10 * np.log10(top**2 * one.size / error)) if error > 0 and top > 0 else float("nan"),
        }


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
