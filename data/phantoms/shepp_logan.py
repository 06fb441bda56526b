"""The Shepp-Logan head."""

from __future__ import annotations

import math

import numpy as np

from data.phantoms.slices import HEIGHT, Floats, fraction, paint_ellipses, stacked

#: x, y, semi-axes, degrees, value with the contrast of Toft (1996).
_ELLIPSES = (
    (0.0, 0.0, 0.69, 0.92, 0.0, 1.0),
    (0.0, -0.0184, 0.6624, 0.874, 0.0, -0.8),
    (0.22, 0.0, 0.11, 0.31, -18.0, -0.2),
    (-0.22, 0.0, 0.16, 0.41, 18.0, -0.2),
    (0.0, 0.35, 0.21, 0.25, 0.0, 0.1),
    (0.0, 0.1, 0.046, 0.046, 0.0, 0.1),
    (0.0, -0.1, 0.046, 0.046, 0.0, 0.1),
    (-0.08, -0.605, 0.046, 0.023, 0.0, 0.1),
    (0.0, -0.606, 0.023, 0.023, 0.0, 0.1),
    (0.06, -0.605, 0.023, 0.046, 0.0, 0.1),
)


def shepp_logan(
    shape: tuple[int, int, int],
    *,
    generator: np.random.Generator,
    radius: float = 0.9,
    height: float | None = HEIGHT,
) -> Floats:
    """Ten ellipses that stand for a head; nothing is random.

    Args:
        shape: nz, n, n.
        generator: not used; every object takes one.
        radius: half the head's length in half-widths of the slice (0.92 in the source).
        height: see `data.phantoms.slices.stacked`.

    Returns:
        float32 of `shape`, peak 1, unitless.

    Raises:
        SimulationError: a radius outside (0, 1].

    Source: Shepp, Logan (1974), The Fourier reconstruction of a head section; values of Toft (1996), The Radon
        transform.
    """
    scale = np.float32(0.92 / fraction("radius", radius))
    # In tenths, whose sums are exact: the background of the head is 0, not a rounding error below it.
    parts = [(x, y, a, b, math.radians(turn), round(10 * value)) for x, y, a, b, turn, value in _ELLIPSES]
    return stacked(shape, lambda x, y: paint_ellipses(x * scale, y * scale, parts, add=True), height=height)
