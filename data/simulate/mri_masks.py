"""Which samples of a Cartesian k-space are measured: masks over one or two phase-encoding axes.

Every function gives uint8 (n0, n1), 1 where measured, the centre fully sampled. One axis is n0 = 1. The zero frequency
is at n // 2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from data.phantoms.errors import SimulationError

Mask = NDArray[np.uint8]

#: Sampling density falls as (1 - r)^DENSITY_POWER with the distance r from the centre.
DENSITY_POWER = 3.0
#: Minimum distance at the edge over that at the centre, minus 1.
SPREAD = 2.0
#: Halvings of the search for a density that gives the wanted number.
HALVINGS = 24
#: A count within this share of the wanted one is close enough for Poisson discs.
CLOSE = 0.01


def uniform(shape: tuple[int, int], acceleration: int, centre: tuple[int, int], *, shift: int = 0) -> Mask:
    """A lattice: every so-manieth line, through the centre.

    Args:
        shape: (n0, n1).
        acceleration: a whole number; with two axes the product of their factors, the first the larger or equal one
            (4 is 2 x 2, 6 is 3 x 2).
        centre: of the block that is measured in full.
        shift: lines by which the lattice is moved along the last axis.
    """
    first, second = factors(shape, acceleration)
    mask = np.zeros(shape, dtype=np.uint8)
    row, column = shape[0] // 2 % first, (shape[1] // 2 + shift) % second
    mask[row::first, column::second] = 1
    return _with_centre(mask, centre)


def factors(shape: tuple[int, int], acceleration: int) -> tuple[int, int]:
    """Of the lattice along either axis."""
    if shape[0] == 1:
        return 1, acceleration
    second = max(k for k in range(1, math.isqrt(acceleration) + 1) if acceleration % k == 0)
    return acceleration // second, second


def variable_density(
    generator: np.random.Generator, shape: tuple[int, int], acceleration: float, centre: tuple[int, int]
) -> Mask:
    """Samples drawn one by one, likelier near the centre: density (1 - r)³ up to 1.

    Args:
        generator: draws.
        shape, centre: as `uniform`.
        acceleration: all samples over those measured, the centre included.

    Raises:
        SimulationError: a centre that holds more than that.

    Source: Lustig, Donoho, Pauly (2007), Sparse MRI.
    """
    base = _with_centre(np.zeros(shape, dtype=np.uint8), centre)
    wanted = _wanted(base, acceleration)
    weight = (1 - _distance(shape) / _distance(shape).max()).clip(0) ** DENSITY_POWER + 1e-3
    weight[base == 1] = 0
    chosen = generator.choice(weight.size, size=wanted, replace=False, p=(weight / weight.sum()).ravel())
    base.ravel()[chosen] = 1
    return base


def poisson_disc(
    generator: np.random.Generator, shape: tuple[int, int], acceleration: float, centre: tuple[int, int]
) -> Mask:
    """No two samples closer than a distance that grows from the centre outwards.

    Points are visited in random order and taken where none that was taken forbids it; the distance's scale is searched
    for the wanted number, to 1 % of it.

    Args: as `variable_density`.

    Raises:
        SimulationError: a centre that holds more than that.

    Source: Vasanawala et al. (2011), Practical parallel imaging compressed sensing MRI: variable-density Poisson discs.
    """
    base = _with_centre(np.zeros(shape, dtype=np.uint8), centre)
    wanted = _wanted(base, acceleration)
    order = generator.permutation(base.size)
    growth = 1 + SPREAD * _distance(shape)
    low, high = 0.0, float(max(shape))
    best = base
    for _ in range(HALVINGS):
        scale = (low + high) / 2
        mask = _thrown(order, scale * growth, base)
        found = int(mask.sum()) - int(base.sum())
        if abs(found - wanted) < abs(int(best.sum()) - int(base.sum()) - wanted) or best is base:
            best = mask
        if abs(found - wanted) <= CLOSE * wanted:
            break
        low, high = (scale, high) if found > wanted else (low, scale)
    return best


def _thrown(order: NDArray[np.int64], radius: NDArray[np.float64], base: Mask) -> Mask:
    """Points taken in `order` unless a taken one is nearer than the point's `radius`; `base` forbids nothing."""
    n0, n1 = base.shape
    mask, free = base.copy(), base == 0
    for index in order:
        i, j = divmod(int(index), n1)
        if not free[i, j]:
            continue
        mask[i, j] = 1
        r = radius[i, j]
        a, b = max(0, math.ceil(i - r)), min(n0, math.floor(i + r) + 1)
        c, d = max(0, math.ceil(j - r)), min(n1, math.floor(j + r) + 1)
        rows, columns = np.ogrid[a:b, c:d]
        free[a:b, c:d] &= (rows - i) ** 2 + (columns - j) ** 2 >= r * r
        free[i, j] = False
    return mask


def kt(n_frames: int, n: int, acceleration: int, centre: int) -> NDArray[np.uint8]:
    """A sheared lattice over ky and time: each frame's lines lie between those of the last; (n_frames, 1, n).

    Source: Tsao, Boesiger, Pruessmann (2003), k-t BLAST and k-t SENSE.
    """
    step = max(1, round(acceleration * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, acceleration) != 1:
        step += 1
    return np.stack([uniform((1, n), acceleration, (1, centre), shift=step * f) for f in range(n_frames)])


def _with_centre(mask: Mask, centre: tuple[int, int]) -> Mask:
    rows, columns = (
        slice(n // 2 - min(c, n) // 2, n // 2 - min(c, n) // 2 + min(c, n))
        for n, c in zip(mask.shape, centre, strict=True)
    )
    mask[rows, columns] = 1
    return mask


def _distance(shape: tuple[int, int]) -> NDArray[np.float64]:
    """From the centre, 1 at the middle of an edge."""
    axes = [(np.arange(n) - n // 2) / max(n / 2, 1) for n in shape]
    return np.asarray(np.hypot(*np.meshgrid(*axes, indexing="ij")), dtype=np.float64)


def _wanted(base: Mask, acceleration: float) -> int:
    """Samples beside the centre."""
    wanted = round(base.size / acceleration) - int(base.sum())
    if wanted < 0:
        raise SimulationError(
            f"simulation acceleration: expected at most {base.size / int(base.sum()):.3g} with {int(base.sum())} "
            f"samples in the fully sampled centre, got {acceleration:g}; lower one of them"
        )
    return wanted
