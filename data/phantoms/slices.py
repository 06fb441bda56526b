"""Slices for tomography: discs, ellipses and polygons, drawn in half-widths and averaged over each pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from data.phantoms.errors import SimulationError

Floats = NDArray[np.float32]
Draw = Callable[[Floats, Floats], Floats]

#: Points per pixel and axis whose mean is the pixel's value.
SUPERSAMPLING = 4
#: Half-height of a body in half-widths of the slice.
HEIGHT = 1.5
_ATTEMPTS = 1000


def stacked(shape: tuple[int, int, int], draw: Draw, *, height: float | None) -> Floats:
    """A body whose section at z = 0 is `draw`: pixel means of ``draw(x / s, y / s)``, s = sqrt(1 - (z / height)²).

    Args:
        shape: nz, n, n.
        draw: values at points (x, y), in half-widths of the slice, -1 to 1; arrays broadcast.
        height: half-height of the body in half-widths, beyond which slices are empty; None makes all slices equal.

    Returns:
        float32 of `shape`, peak 1, unitless.

    Raises:
        SimulationError: a height or a radius that leaves nothing.
    """
    nz, n, _ = shape
    if height is not None:
        number("height", height, above=0.0)
    fine = ((2 * np.arange(n * SUPERSAMPLING) + 1) / (n * SUPERSAMPLING) - 1).astype(np.float32)
    volume = np.zeros(shape, dtype=np.float32)
    for k in range(nz):
        z = (2 * k + 1 - nz) / n
        if height is None and k:
            volume[k] = volume[0]
            continue
        shrink = 1.0 if height is None else math.sqrt(max(1 - (z / height) ** 2, 0.0))
        if shrink > 0:
            values = draw(fine[None, :] / np.float32(shrink), fine[:, None] / np.float32(shrink))
            blocks = np.broadcast_to(values, (n * SUPERSAMPLING,) * 2).reshape(n, SUPERSAMPLING, n, SUPERSAMPLING)
            volume[k] = blocks.mean(axis=(1, 3))
    return peak_one(volume)


def peak_one(volume: NDArray[np.floating]) -> Floats:
    """The volume over its largest value.

    Raises:
        SimulationError: no value above 0.
    """
    peak = float(volume.max())
    if not peak > 0:
        raise SimulationError("object: expected values above 0 in the slices, found none; choose other parameters")
    return np.asarray(volume / peak, dtype=np.float32)


def discs(
    shape: tuple[int, int, int],
    *,
    generator: np.random.Generator,
    count: int = 7,
    parts: Sequence[Sequence[float]] | None = None,
    radius: float = 0.85,
    height: float | None = HEIGHT,
) -> Floats:
    """Discs that do not overlap, or those that are given, the later on top of the earlier.

    Args:
        shape: nz, n, n.
        generator: draws places, radii and values.
        count: discs to draw.
        parts: in place of drawn ones, (x, y, radius, value) of each, in half-widths of the slice.
        radius: of the circle that holds all drawn discs, half-widths.
        height: see `stacked`.

    Returns:
        float32 of `shape`, peak 1, unitless.

    Raises:
        SimulationError: a part without four numbers or with no radius, more discs than fit.
    """
    chosen = _draw_discs(generator, whole("count", count), fraction("radius", radius)) if parts is None else parts
    for part in chosen:
        if len(part) != 4 or not all(math.isfinite(v) for v in part) or not part[2] > 0:
            raise SimulationError(f"object discs, parts: expected x, y, radius > 0, value of each, got {list(part)}")

    def draw(x: Floats, y: Floats) -> Floats:
        image = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
        for x0, y0, r, value in chosen:
            image[(x - x0) ** 2 + (y - y0) ** 2 < r**2] = value
        return image

    return stacked(shape, draw, height=height)


def ellipses(
    shape: tuple[int, int, int],
    *,
    generator: np.random.Generator,
    count: int = 10,
    radius: float = 0.85,
    height: float | None = HEIGHT,
) -> Floats:
    """Random ellipses in one large ellipse, the later on top of the earlier.

    Args:
        shape: nz, n, n.
        generator: draws places, semi-axes, directions and values.
        count: ellipses inside the large one.
        radius: of the circle that holds all, half-widths.
        height: see `stacked`.

    Returns:
        float32 of `shape`, peak 1, unitless.

    Raises:
        SimulationError: a count below 0 or a radius outside (0, 1].
    """
    whole("count", count, least=0)
    outer = fraction("radius", radius)
    chosen = [(0.0, 0.0, outer, outer * generator.uniform(0.6, 0.95), generator.uniform(0, np.pi), 0.5)]
    for _ in range(count):
        long = outer * math.exp(generator.uniform(math.log(0.08), math.log(0.4)))
        r, phi = (outer * 0.6 - long / 2) * math.sqrt(generator.random()), generator.uniform(0, 2 * np.pi)
        ratio, turn, value = generator.uniform(0.35, 1), generator.uniform(0, np.pi), generator.uniform(0.1, 1)
        chosen.append((r * math.cos(phi), r * math.sin(phi), long, long * ratio, turn, value))
    return stacked(shape, lambda x, y: paint_ellipses(x, y, chosen), height=height)


def polygons(
    shape: tuple[int, int, int],
    *,
    generator: np.random.Generator,
    count: int = 6,
    radius: float = 0.85,
    height: float | None = HEIGHT,
) -> Floats:
    """Random convex polygons with 3 to 7 corners, the later on top of the earlier.

    Args:
        shape: nz, n, n.
        generator: draws places, corners and values.
        count: polygons.
        radius: of the circle that holds all, half-widths.
        height: see `stacked`.

    Returns:
        float32 of `shape`, peak 1, unitless.

    Raises:
        SimulationError: a count below 1 or a radius outside (0, 1].
    """
    whole("count", count)
    outer = fraction("radius", radius)
    chosen = []
    for _ in range(count):
        n = int(generator.integers(3, 8))
        size = outer * math.exp(generator.uniform(math.log(0.15), math.log(0.6)))
        r, phi = (outer - size) * math.sqrt(generator.random()), generator.uniform(0, 2 * np.pi)
        angle = 2 * np.pi * (np.arange(n) + generator.uniform(-0.3, 0.3, n)) / n + generator.uniform(0, 2 * np.pi)
        corners = np.stack((r * math.cos(phi) + size * np.cos(angle), r * math.sin(phi) + size * np.sin(angle)), axis=1)
        chosen.append((corners, generator.uniform(0.2, 1.0)))

    def draw(x: Floats, y: Floats) -> Floats:
        image = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
        for corners, value in chosen:  # counter-clockwise: a point is inside when it is left of every side
            inside = np.ones_like(image, dtype=bool)
            for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
            image[inside] = value
        return image

    return stacked(shape, draw, height=height)


def paint_ellipses(x: Floats, y: Floats, parts: Sequence[Sequence[float]], *, add: bool = False) -> Floats:
    """Ellipses (x0, y0, semi-axis, semi-axis, angle of the first, value) at points (x, y): set, or added up."""
    image = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    for x0, y0, a, b, turn, value in parts:
        c, s = math.cos(turn), math.sin(turn)
        u, v = c * (x - x0) + s * (y - y0), -s * (x - x0) + c * (y - y0)
        inside = (u / a) ** 2 + (v / b) ** 2 < 1
        image[inside] = image[inside] + value if add else value
    return image


# -- checks -------------------------------------------------------------------------------------------------


def number(name: str, value: object, above: float = -math.inf) -> float:
    """`value` as a finite float above a bound, or the sentence that says what it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not value > above:
        bound = f" > {above:g}" if above > -math.inf else ""
        raise SimulationError(f"object {name}: expected a finite number{bound}, got {value!r}")
    return float(value)


def fraction(name: str, value: object) -> float:
    """`value` as a number in (0, 1], a share of the slice's half-width."""
    if number(name, value, above=0.0) > 1:
        raise SimulationError(f"object {name}: expected at most 1, the half-width of the slice, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def whole(name: str, value: object, least: int = 1) -> int:
    """`value` as a count."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SimulationError(f"object {name}: expected a whole number >= {least}, got {value!r}")
    return value


def _draw_discs(generator: np.random.Generator, count: int, outer: float) -> list[tuple[float, float, float, float]]:
    chosen: list[tuple[float, float, float, float]] = []
    failed = 0  # in a row
    while len(chosen) < count and failed < 2 * _ATTEMPTS:
        largest = 0.35 if failed < _ATTEMPTS else 0.08  # where large ones find no room
        size = outer * math.exp(generator.uniform(math.log(0.05), math.log(largest)))
        r, phi = (outer - size) * math.sqrt(generator.random()), generator.uniform(0, 2 * np.pi)
        x, y = r * math.cos(phi), r * math.sin(phi)
        value = generator.uniform(0.3, 1.0)
        free = all(math.hypot(x - x0, y - y0) > size + r0 for x0, y0, r0, _ in chosen)
        if free:
            chosen.append((x, y, size, value))
        failed = 0 if free else failed + 1
    if len(chosen) < count:
        raise SimulationError(f"object discs, count: expected no more discs than fit, got {count}; {len(chosen)} fit")
    return chosen
