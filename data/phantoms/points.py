"""Point scatterers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.phantoms.errors import SimulationError
from data.phantoms.scatter import nearest_voxel, reflectivity
from imaging.operators import Grid


def points(
    grid: Grid,
    positions_m: Sequence[Sequence[float]] | Tensor | None = None,
    *,
    amplitudes: Sequence[float] | None = None,
    n_points: int = 5,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Isolated point scatterers, each in the voxel nearest to it.

    Args:
        grid: where they live.
        positions_m: (n, 3), columns x, y, z in metres; None draws `n_points` different voxels at random.
        amplitudes: n magnitudes > 0; None means 1 each. Scaled so that the largest is 1.
        n_points: how many to draw when `positions_m` is None.
        generator: random positions and phases; None: phase 0, and positions from seed 0.

    Returns:
        complex64 (nz, ny, nx), peak 1.

    Raises:
        SimulationError: a position outside the grid, or amplitudes that do not fit.
    """
    if positions_m is None:
        if not 1 <= n_points <= grid.n_voxels:
            raise SimulationError(f"points n_points: expected 1 to {grid.n_voxels} (voxels), got {n_points}")
        draws = generator if generator is not None else np.random.default_rng(0)
        flat = torch.from_numpy(draws.choice(grid.n_voxels, n_points, replace=False))
    else:
        p = torch.as_tensor(positions_m, dtype=torch.float64)
        if p.ndim != 2 or p.shape[1] != 3 or len(p) == 0 or not bool(torch.isfinite(p).all()):
            raise SimulationError(f"points positions_m: expected finite (n, 3) x, y, z, got shape {tuple(p.shape)}")
        outside = ~grid.contains_m(p)
        if bool(outside.any()):
            worst = tuple(round(float(v), 4) for v in p[outside][0])
            raise SimulationError(
                f"points positions_m: {worst} m (x, y, z) lies outside the grid, whose outermost voxel "
                f"centres are {grid.origin_m} and {grid.last_m} (z, y, x)"
            )
        # A point on the outermost voxel face rounds to the voxel beyond it.
        index = torch.minimum(nearest_voxel(p, grid).clamp_min(0), torch.tensor(grid.shape) - 1)
        flat = (index[:, 0] * grid.shape[1] + index[:, 1]) * grid.shape[2] + index[:, 2]
    strength = torch.ones(len(flat)) if amplitudes is None else torch.as_tensor(amplitudes, dtype=torch.float32)
    if strength.shape != flat.shape or not bool((strength > 0).all()):
        raise SimulationError(f"points amplitudes: expected {len(flat)} numbers > 0, got {amplitudes}")
    magnitude = torch.zeros(grid.n_voxels).index_add_(0, flat, strength.to(torch.float32))
    return reflectivity(magnitude.reshape(grid.shape), generator)
