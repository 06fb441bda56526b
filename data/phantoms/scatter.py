"""From magnitudes on a grid to a complex reflectivity."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from data.phantoms.errors import SimulationError
from imaging.operators import Grid


def reflectivity(magnitude: Tensor, generator: np.random.Generator | None = None) -> Tensor:
    """Peak 1, and a phase: the last step of every phantom.

    Args:
        magnitude: real, >= 0, (nz, ny, nx).
        generator: draws an independent phase ~ U(0, 2 pi) for each voxel; None leaves the phase at 0.

    Returns:
        complex64, same shape, max |x| = 1, unitless.

    Raises:
        SimulationError: no voxel is occupied.
    """
    peak = float(magnitude.max())
    if not peak > 0.0:
        raise SimulationError(
            "target: expected at least one occupied voxel, found none; move it into the grid, make it larger "
            "or its walls thicker than a voxel"
        )
    scaled = (magnitude / peak).to(torch.float32)
    if generator is None:
        return scaled.to(torch.complex64)
    phase = torch.from_numpy(generator.uniform(0.0, 2 * math.pi, tuple(scaled.shape)))
    return torch.polar(scaled, phase.to(torch.float32))


def nearest_voxel(points_m: Tensor, grid: Grid) -> Tensor:
    """Index (z, y, x) of the voxel whose centre is nearest: (n, 3; x, y, z in metres) -> int64 (n, 3).

    Points outside the grid get indices outside its shape; callers clip or refuse.
    """
    origin = torch.tensor(grid.origin_m, dtype=torch.float64)
    spacing = torch.tensor(grid.spacing_m, dtype=torch.float64)
    return torch.round((points_m.to(torch.float64).flip(-1) - origin) / spacing).to(torch.int64)


def grid_centre_m(grid: Grid) -> tuple[float, float, float]:
    """Centre of the grid, metres, order x, y, z (the order of positions)."""
    z, y, x = ((a + b) / 2 for a, b in zip(grid.origin_m, grid.last_m, strict=True))
    return x, y, z


def grid_extent_m(grid: Grid) -> tuple[float, float, float]:
    """Distance of the outermost voxel faces, metres, order x, y, z."""
    z, y, x = (n * d for n, d in zip(grid.shape, grid.spacing_m, strict=True))
    return x, y, z
