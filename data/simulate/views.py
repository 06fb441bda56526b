"""Angles of views in the order in which they are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from data.phantoms.errors import SimulationError, unknown_name

Floats = NDArray[np.float64]

GOLDEN = 2 / (1 + math.sqrt(5))


def bit_reversed_order(n: int) -> NDArray[np.int64]:
    """The numbers 0 to n - 1 in bit-reversed order, for any n: int64 (n,), a permutation.

    Entry i is the rank of the van der Corput number Σ_j b_j 2^(-j-1), i = Σ_j b_j 2^j, among those of 0 to n - 1. For
    n = 2^k this is the reversal of k bits: 0, 16, 8, 24, 4, ... for n = 32 (RP 1.1). For another n every beginning of
    the sequence is still spread over the whole range, and no place is taken twice or left out.
    """
    bits = max(1, (n - 1).bit_length())
    i = np.arange(n)
    reverse = sum(((i >> j) & 1) << (bits - 1 - j) for j in range(bits))
    return np.argsort(np.argsort(reverse)).astype(np.int64)


def _linear(n: int, per_instant: int, generator: np.random.Generator) -> Floats:
    return np.arange(n) / n


def _bit_reversed(n: int, per_instant: int, generator: np.random.Generator) -> Floats:
    return bit_reversed_order(n) / n


def _golden_angle(n: int, per_instant: int, generator: np.random.Generator) -> Floats:
    return np.asarray((np.arange(n) * GOLDEN) % 1.0, dtype=np.float64)


def _random(n: int, per_instant: int, generator: np.random.Generator) -> Floats:
    return generator.random(n)


def _interleaved(n: int, per_instant: int, generator: np.random.Generator) -> Floats:
    instants = n // per_instant
    offset = bit_reversed_order(instants) / instants
    return ((np.arange(per_instant)[None] + offset[:, None]) / per_instant).ravel()


#: (views, views per instant, generator) -> angles as shares of the range, float64 (views,), in [0, 1).
VIEW_ORDERS: Mapping[str, Callable[[int, int, np.random.Generator], Floats]] = {
    "bit_reversed": _bit_reversed,
    "golden_angle": _golden_angle,
    "linear": _linear,
    "interleaved": _interleaved,
    "random": _random,
}


def view_angles(
    order: str,
    n_instants: int,
    views_per_instant: int = 1,
    *,
    range_rad: float = math.pi,
    period: int | None = None,
    generator: np.random.Generator | None = None,
) -> Floats:
    """Angles of all views, those of one instant next to each other.

    With n = n_instants · views_per_instant views (or `period`, whose pattern is repeated), view i = 0 ... n - 1 is at
    `range_rad` times

        linear          i / n
        bit_reversed    bit_reversed_order(n)[i] / n                    RP 1.1
        golden_angle    frac(i · 0.618...), 111.246 degrees for pi      Winkelmann et al. (2007)
        interleaved     (j + bit_reversed_order(n_instants)[p] / n_instants) / views_per_instant: every instant p has
                        views j evenly over the range, between those of the others, as in Mohan et al. (2015), TIMBIR
        random          independent, uniform in [0, 1)

    Args:
        order: one of `VIEW_ORDERS`.
        n_instants: P, >= 1.
        views_per_instant: >= 1.
        range_rad: pi, 2 pi, or less for a limited angle.
        period: views after which the angles repeat; a multiple of `views_per_instant`. None: not at all.
        generator: of the random order.

    Returns:
        float64 (n_instants · views_per_instant,), radians, in [0, range_rad).

    Raises:
        SimulationError: an unknown order, or a period that does not fit.
    """
    if order not in VIEW_ORDERS:
        raise unknown_name("simulation view_order", order, VIEW_ORDERS)
    n = n_instants * views_per_instant
    length = n if period is None else period
    if not 1 <= length <= n or length % views_per_instant:
        raise SimulationError(
            f"simulation view_period: expected a multiple of views_per_instant = {views_per_instant} up to {n} views, "
            f"got {length}"
        )
    rng = np.random.default_rng(0) if generator is None else generator
    shares = VIEW_ORDERS[order](length, views_per_instant, rng)
    return np.resize(shares, n) * range_rad
