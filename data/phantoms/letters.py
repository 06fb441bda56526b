"""Text as a target: flat letters on a plane that faces the array."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data.phantoms.errors import SimulationError
from data.phantoms.scatter import grid_centre_m, grid_extent_m, reflectivity
from imaging.operators import Grid

SUBSAMPLES = 4


def letters(
    grid: Grid,
    text: str = "MIMO",
    *,
    height_m: float | None = None,
    z_m: float | None = None,
    thickness_m: float = 0.0,
    center_m: tuple[float, float] | None = None,
    font: str = "DejaVu Sans",
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Letters cut out of a plate perpendicular to z; they read left to right where x is right and y is up.

    Voxels that an edge cuts get the fraction of their area inside (4 x 4 samples).

    Args:
        grid: where they live.
        text: what to write; line breaks start new lines.
        height_m: height of the whole text, metres; None fills 70 % of the grid in x or y, whichever binds.
        z_m: middle of the plate; None is the middle of the grid. Metres.
        thickness_m: along z; the voxel layer nearest to `z_m` is always filled. Metres.
        center_m: middle of the text, x and y in metres; None is the middle of the grid.
        font: family known to matplotlib; DejaVu Sans, bold, comes with it.
        generator: random phase per voxel; None: phase 0.

    Returns:
        complex64 (nz, ny, nx), peak 1.

    Raises:
        SimulationError: nothing to draw, a plate outside the grid, or a thickness below 0.
    """
    outline = _polygons(text, font)
    low, high = np.min([p.min(0) for p in outline], axis=0), np.max([p.max(0) for p in outline], axis=0)
    size = high - low
    middle_x, middle_y, middle_z = grid_centre_m(grid)
    width, depth, _ = grid_extent_m(grid)
    scale = height_m / size[1] if height_m is not None else 0.7 * min(width / size[0], depth / size[1])
    middle = (middle_x, middle_y) if center_m is None else center_m
    if not scale > 0 or thickness_m < 0:
        raise SimulationError(f"letters: expected height_m > 0 and thickness_m >= 0, got {height_m} and {thickness_m}")
    plane = _cover([(p - (low + high) / 2) * scale + middle for p in outline], grid)

    z = grid.axis_m("z")
    z_m = middle_z if z_m is None else z_m
    nearest = (z - z_m).abs()
    if float(nearest.min()) > grid.spacing_m[0] / 2 * (1 + 1e-9):
        raise SimulationError(
            f"letters z_m: expected {grid.origin_m[0]:g} to {grid.last_m[0]:g} m (the grid), got {z_m:g}"
        )
    layer = (nearest <= thickness_m / 2 + 1e-9).to(torch.float32)
    layer[int(nearest.argmin())] = 1.0
    return reflectivity(layer[:, None, None] * plane, generator)


def _polygons(text: str, font: str, weight: str = "bold") -> list[np.ndarray]:
    """Closed outlines (n, 2) of the text, arbitrary units, y up."""
    from matplotlib.font_manager import FontProperties  # slow to import, and only letters need it
    from matplotlib.textpath import TextPath

    outline: list[np.ndarray] = []
    for i, line in enumerate(text.splitlines()):
        if line.strip():
            path = TextPath((0, -14.0 * i), line, size=10, prop=FontProperties(family=font, weight=weight))
            outline += [p for p in map(np.asarray, path.to_polygons()) if len(p) > 3]
    if not outline:
        raise SimulationError(f"letters text: expected something to draw, got {text!r}")
    return outline


def _cover(outline: list[np.ndarray], grid: Grid) -> Tensor:
    """Fraction of each voxel's (y, x) area inside the outlines, even-odd rule: float32 (ny, nx)."""
    from matplotlib.path import Path

    offsets = (np.arange(SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5
    x = (grid.axis_m("x").numpy()[:, None] + grid.spacing_m[2] * offsets).ravel()
    y = (grid.axis_m("y").numpy()[:, None] + grid.spacing_m[1] * offsets).ravel()
    samples = np.stack(np.meshgrid(x, y, indexing="xy"), axis=-1).reshape(-1, 2)
    inside = np.zeros(len(samples), dtype=bool)
    for polygon in outline:
        inside ^= Path(polygon).contains_points(samples)
    ny, nx = grid.shape[1:]
    return torch.from_numpy(inside.reshape(ny, SUBSAMPLES, nx, SUBSAMPLES).mean(axis=(1, 3), dtype=np.float32))
