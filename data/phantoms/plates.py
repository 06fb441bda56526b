"""Random thin plates."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from data.phantoms.soften import Floats, cover, finished, random_rotation, voxel_indices
from imaging.operators import Grid


def plates(grid: Grid, generator: np.random.Generator, *, random_phase: bool = True) -> Tensor:
    """One to three thin plates, flat or gently curved, some with holes, in random positions and orientations.

    Thickness 1 to 2 voxels, outline a rectangle, an ellipse or a convex polygon, amplitude ~ U(0.4, 1) per plate;
    half of the scenes keep their plates along the axes of the grid. Edges cut voxels into fractions; see `soften`.

    Args:
        grid: where they live; only its shape counts, lengths are in voxels.
        generator: where all randomness comes from.
        random_phase: False leaves the phase at 0 and draws none.

    Returns:
        complex64 (nz, ny, nx), peak 1.
    """
    index = voxel_indices(grid)
    magnitude = np.zeros(grid.shape, dtype=np.float32)
    aligned = generator.random() < 0.5
    for _ in range(generator.integers(1, 4)):
        turn = np.eye(3)[generator.permutation(3)] if aligned else random_rotation(generator)
        centre = generator.uniform(0.25, 0.75, 3) * (np.array(grid.shape) - 1)
        u, v, height = np.moveaxis((index - centre.astype(np.float32)) @ turn.T.astype(np.float32), -1, 0)
        room = np.abs(turn[:2]) @ np.array(grid.shape)  # what the grid offers along u and v, voxels
        half = np.maximum(generator.uniform(0.15, 0.45, 2) * room, 2.0)
        if generator.random() < 0.4:
            bend, twist = generator.uniform(-0.35, 0.35, 2)
            height = height - (bend * (u / half[0]) ** 2 + twist * u * v / (half[0] * half[1])) * min(half)
        plate = cover(np.maximum(_outline(u, v, half, generator), np.abs(height) - generator.uniform(0.5, 1.0)))
        np.maximum(magnitude, generator.uniform(0.4, 1.0) * plate, out=magnitude)
    return finished(magnitude, generator, random_phase)


def _outline(u: Floats, v: Floats, half: np.ndarray, generator: np.random.Generator) -> Floats:
    """Distance to the edge of the plate within its plane, negative on it, voxels."""
    shape = generator.integers(3)
    if shape == 0:
        distance = np.maximum(np.abs(u) - half[0], np.abs(v) - half[1])
    elif shape == 1:
        distance = (np.hypot(u / half[0], v / half[1]) - 1) * min(half)
    else:
        n = int(generator.integers(3, 8))
        angles = 2 * np.pi * (np.arange(n) + generator.uniform(-0.25, 0.25, n)) / n + generator.uniform(0, 2 * np.pi)
        sides = generator.uniform(0.6, 1.0, n) * min(half)
        distance = np.max([np.cos(a) * u + np.sin(a) * v - d for a, d in zip(angles, sides, strict=True)], axis=0)
    if generator.random() < 0.35:
        for _ in range(generator.integers(1, 4)):
            a, b = generator.uniform(-0.6, 0.6, 2) * half
            distance = np.maximum(distance, generator.uniform(0.15, 0.35) * min(half) - np.hypot(u - a, v - b))
    return distance.astype(np.float32)
