"""A nut: a shell, a gap, a wrinkled kernel in two halves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.phantoms.errors import SimulationError
from data.phantoms.slices import HEIGHT, Floats, fraction, number, stacked

#: Kernel over shell, as in the scan of RP 7.2.
KERNEL = 0.65


def walnut(
    shape: tuple[int, int, int],
    *,
    generator: np.random.Generator,
    radius: float = 0.75,
    aspect: float = 1.25,
    shell: float = 0.09,
    height: float | None = HEIGHT,
) -> Floats:
    """A synthetic walnut, drawn anew from `generator`: free of the licence that measured ones carry.

    In polar coordinates (r, φ), with the outer contour at r = c(φ): the shell, value 1, is c - shell < r < c; the
    kernel, value 0.65 with a faint texture, r < k(φ) without a wavy septum along y; c and k are 1 plus a few cosines
    of φ, up to order 5 and 17.

    Args:
        shape: nz, n, n.
        generator: draws contours, septum and texture.
        radius: half the nut's length along y, half-widths of the slice; RP's fits 0.73 before its warp.
        aspect: length over width.
        shell: thickness, as a share of the nut's half-width.
        height: see `data.phantoms.slices.stacked`.

    Returns:
        float32 of `shape`, peak 1, unitless.

    Raises:
        SimulationError: a radius outside (0, 1], a width beyond the slice, a shell of more than half.

    Source: RP 7.2, 7.4 for sizes and contrast; the shapes are ours.
    """
    long = fraction("radius", radius)
    wide = long / number("aspect", aspect, above=0.0)
    thick = number("shell", shell, above=0.0)
    if not wide <= 1 or not thick <= 0.5:
        raise SimulationError(
            f"object walnut: expected radius / aspect <= 1 and shell <= 0.5, got {wide:g} and {thick:g}"
        )
    outer = _wave(generator, range(2, 6), 0.02)
    wall = _wave(generator, range(2, 9), 0.10)
    inner = _wave(generator, range(3, 18), 0.05)
    septum, width = _wave(generator, range(1, 4), 0.05), 0.05 + 0.03 * generator.random()
    texture = [(*generator.normal(0, 9, 2), generator.uniform(0, 2 * np.pi)) for _ in range(6)]
    room = 1 - thick

    def draw(x: Floats, y: Floats) -> Floats:
        u, v = x / np.float32(wide), y / np.float32(long)
        phi = np.arctan2(v, u)
        r = np.hypot(u, v) * (1 + 0.05) / (1 + outer(phi))  # the cosines of `outer` sum to 0.04 at most
        image = np.zeros(r.shape, dtype=np.float32)
        image[(r < 1) & (r > 1 - thick * (1 + wall(phi)))] = 1.0
        split = np.abs(u - septum(3 * v)) < width * (1 + 2 * v**2)
        kernel = (r < room * 0.86 * (1 + inner(phi))) & ~split & (r < room * 0.97)
        grain = sum(np.cos(a * u + b * v + p) for a, b, p in texture)
        image[kernel] = KERNEL * (1 + 0.02 * np.broadcast_to(grain, r.shape)[kernel])
        return image

    return stacked(shape, draw, height=height)


def _wave(generator: np.random.Generator, orders: range, size: float) -> Callable[[Floats], Floats]:
    """Σ_m a_m cos(m φ + p_m) with random a_m <= size / sqrt(number of terms) and random p_m."""
    weights = generator.uniform(0.3, 1.0, len(orders)) * size / np.sqrt(len(orders))
    terms = list(zip(orders, weights, generator.uniform(0, 2 * np.pi, len(orders)), strict=True))

    def wave(phi: Floats) -> Floats:
        total = np.zeros_like(phi)
        for m, a, p in terms:
            total += np.float32(a) * np.cos(m * phi + np.float32(p))
        return total

    return wave
