"""A short-axis slice through a chest, for cine imaging."""

from __future__ import annotations

import math

import numpy as np

from data.phantoms.slices import Floats, fraction, paint_ellipses, stacked

#: x, y, semi-axes, degrees, value as in balanced steady-state free precession; the later on top of the earlier.
_CHEST = (
    (0.0, 0.0, 1.0, 0.72, 0.0, 0.75),  # subcutaneous fat
    (0.0, 0.0, 0.95, 0.665, 0.0, 0.35),  # muscle
    (-0.45, 0.03, 0.38, 0.5, 8.0, 0.06),  # lungs
    (0.5, 0.05, 0.33, 0.48, -8.0, 0.06),
    (0.02, -0.52, 0.13, 0.1, 0.0, 0.5),  # vertebra
    (0.22, -0.4, 0.055, 0.055, 0.0, 0.95),  # aorta
    (-0.05, 0.5, 0.14, 0.05, 0.0, 0.5),  # sternum
    (0.02, 0.04, 0.37, 0.31, 20.0, 0.7),  # fat around the heart
    (-0.12, 0.08, 0.2, 0.22, 25.0, 0.38),  # right ventricle: wall, blood
    (-0.12, 0.08, 0.18, 0.2, 25.0, 0.92),
    (0.08, 0.0, 0.235, 0.225, 0.0, 0.4),  # left ventricle: wall, blood, papillary muscles
    (0.08, 0.0, 0.15, 0.145, 0.0, 1.0),
    (0.0, -0.05, 0.03, 0.025, 30.0, 0.42),
    (0.14, -0.075, 0.025, 0.03, 0.0, 0.42),
)
#: Vessels in the lungs: x, y, radius.
_VESSELS = (
    (-0.5, 0.2, 0.028),
    (-0.38, 0.3, 0.018),
    (-0.6, 0.02, 0.02),
    (-0.45, -0.15, 0.024),
    (-0.32, -0.26, 0.016),
    (0.55, 0.22, 0.026),
    (0.64, 0.0, 0.018),
    (0.5, -0.2, 0.022),
    (0.42, 0.36, 0.016),
)


def heart(
    shape: tuple[int, int, int],
    *,
    generator: np.random.Generator,
    radius: float = 0.9,
    height: float | None = None,
) -> Floats:
    """Chest wall, lungs with vessels, and both ventricles in short axis; nothing is random.

    Args:
        shape: nz, n, n.
        generator: not used; every object takes one.
        radius: half the chest's width in half-widths of the slice.
        height: see `data.phantoms.slices.stacked`.

    Returns:
        float32 of `shape`, peak 1, unitless.

    Raises:
        SimulationError: a radius outside (0, 1].
    """
    scale = fraction("radius", radius)
    parts = [*_CHEST, *((x, y, r, r, 0.0, 0.6) for x, y, r in _VESSELS)]
    parts = [(x * scale, y * scale, a * scale, b * scale, math.radians(deg), value) for x, y, a, b, deg, value in parts]
    return stacked(shape, lambda x, y: paint_ellipses(x, y, parts), height=height)
