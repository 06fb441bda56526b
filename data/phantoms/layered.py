"""Random layered media."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from data.phantoms.soften import Floats, cover, finished, random_rotation, smooth_field, voxel_indices
from imaging.operators import Grid


def layered(grid: Grid, generator: np.random.Generator, *, random_phase: bool = True) -> Tensor:
    """Two to five interfaces across the grid, stacked along z and gently undulating, with some inclusions.

    Half of the scenes are thin bright interfaces (1 to 2 voxels), half are slabs that fill the space between them;
    each has an amplitude ~ U(0.2, 1). With probability 0.5, one to three ellipsoids, filled or void, lie among them.
    Partial volume at the edges; see `soften`.

    Args:
        grid: where they live; only its shape counts, lengths are in voxels.
        generator: where all randomness comes from.
        random_phase: False leaves the phase at 0 and draws none.

    Returns:
        complex64 (nz, ny, nx), peak 1.
    """
    nz, ny, nx = grid.shape
    n = int(generator.integers(2, 6))
    undulation = generator.uniform(0, 0.06) * nz
    common = smooth_field(generator, (ny, nx), 4) - 0.5
    own = [smooth_field(generator, (ny, nx), int(generator.integers(2, 5))) - 0.5 for _ in range(n)]
    tilt_y, tilt_x = generator.uniform(-0.06, 0.06, 2) * nz
    plane = tilt_y * np.linspace(-1, 1, ny)[:, None] + tilt_x * np.linspace(-1, 1, nx)
    depth = np.sort(generator.uniform(0.08, 0.92, n)) * (nz - 1)
    surfaces = [d + plane + undulation * (2 * common + f) for d, f in zip(depth, own, strict=True)]
    amplitudes = generator.uniform(0.2, 1.0, n)

    z = np.arange(nz, dtype=np.float32)[:, None, None]
    magnitude = np.zeros(grid.shape, dtype=np.float32)
    if generator.random() < 0.5:
        for surface, amplitude in zip(surfaces, amplitudes, strict=True):
            line = amplitude * cover(np.abs(z - surface) - generator.uniform(0.5, 1.0))
            np.maximum(magnitude, line, out=magnitude, casting="same_kind")
    else:
        amplitudes[-1] *= generator.random() < 0.5  # the lowest slab reaches the bottom, or is empty
        for surface, amplitude in zip(surfaces, amplitudes, strict=True):
            below = cover(surface - z)
            magnitude += (below * (amplitude - magnitude)).astype(np.float32)
    if generator.random() < 0.5:
        magnitude = _include(magnitude, grid, generator)
    return finished(magnitude, generator, random_phase)


def _include(magnitude: Floats, grid: Grid, generator: np.random.Generator) -> Floats:
    """One to three ellipsoids that replace what was there."""
    index = voxel_indices(grid)
    size = float(min(grid.shape))
    for _ in range(generator.integers(1, 4)):
        centre = (generator.uniform(0.15, 0.85, 3) * np.array(grid.shape)).astype(np.float32)
        radii = np.maximum(generator.uniform(0.06, 0.22, 3) * size, 1.0)
        turn = (random_rotation(generator) / radii[:, None]).astype(np.float32)
        distance = (np.linalg.norm((index - centre) @ turn.T, axis=-1) - 1) * radii.min()
        amplitude = 0.0 if generator.random() < 0.3 else generator.uniform(0.2, 1.0)
        magnitude = magnitude + cover(distance) * np.float32(amplitude - magnitude)
    return magnitude.astype(np.float32)
