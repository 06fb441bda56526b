"""Random thin wires."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline
from torch import Tensor

from data.phantoms.soften import Floats, cover, finished
from imaging.operators import Grid

STEP_VOXELS = 0.4  # between the points at which a wire is drawn
REACH = 2  # voxels around such a point: a radius of 1 and the edge fit


def wires(grid: Grid, generator: np.random.Generator, *, random_phase: bool = True) -> Tensor:
    """One to six wires: straight, bent, or closed loops, 1 to 2 voxels thick, amplitude ~ U(0.4, 1) each.

    Partial volume at the edges; see `soften`.

    Args:
        grid: where they live; only its shape counts, lengths are in voxels.
        generator: where all randomness comes from.
        random_phase: False leaves the phase at 0 and draws none.

    Returns:
        complex64 (nz, ny, nx), peak 1.
    """
    magnitude = np.zeros(grid.shape, dtype=np.float32)
    last = np.array(grid.shape) - 1.0
    for _ in range(generator.integers(1, 7)):
        shape = generator.integers(3)
        if shape == 0:
            knots = generator.uniform(0.05, 0.95, (2, 3)) * last
            if generator.random() < 0.4:  # along an axis
                keep = generator.permutation(3)[:2]
                knots[1, keep] = knots[0, keep]
        elif shape == 1:
            knots = generator.uniform(0.1, 0.9, (int(generator.integers(3, 6)), 3)) * last
        else:
            n = int(generator.integers(4, 8))
            a, b = np.linalg.qr(generator.normal(size=(3, 2)))[0].T
            angle = np.arange(n)[:, None] * 2 * np.pi / n
            wobble = 1 + generator.uniform(-0.25, 0.25, (n, 1))
            size = generator.uniform(0.12, 0.4) * last
            knots = generator.uniform(0.3, 0.7, 3) * last + wobble * (np.cos(angle) * a + np.sin(angle) * b) * size
            knots = np.vstack([knots, knots[:1]])
        curve = _curve(knots, closed=shape == 2)
        _draw(magnitude, curve, generator.uniform(0.5, 1.0), generator.uniform(0.4, 1.0))
    return finished(magnitude, generator, random_phase)


def _curve(knots: np.ndarray, closed: bool) -> np.ndarray:
    """Points 0.4 voxels apart or less on a smooth curve through `knots`: (n, 3), voxels."""
    t = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1) + 1e-3)])
    fine = np.linspace(0, t[-1], 2 + int(1.2 * t[-1] / STEP_VOXELS))
    if len(knots) == 2:
        return knots[0] + (knots[1] - knots[0]) * fine[:, None] / t[-1]
    return CubicSpline(t, knots, bc_type="periodic" if closed else "natural")(fine)


def _draw(magnitude: Floats, curve: np.ndarray, radius: float, amplitude: float) -> None:
    """Raise `magnitude` to the partial volume of a tube along `curve` (n, 3; voxels), in place."""
    reach = np.arange(-REACH, REACH + 1)
    offsets = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), axis=-1).reshape(-1, 3)
    curve = np.clip(curve, 0, np.array(magnitude.shape) - 1)
    voxels = np.rint(curve).astype(np.int64)[:, None] + offsets
    value = amplitude * cover(np.linalg.norm(voxels - curve[:, None], axis=-1) - radius)
    keep = (value > 0) & ((voxels >= 0) & (voxels < magnitude.shape)).all(axis=-1)
    np.maximum.at(magnitude, tuple(voxels[keep].T), value[keep].astype(np.float32))
