"""Angular spectra of channels over a Kronecker dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def spectrum(x: NDArray[Any], deviation: NDArray[Any] | None, i: int) -> tuple[Floats, Floats | None]:
    """Root power of the coefficients of each direction of axis i, and its standard deviation to first order.

    Args:
        x: complex coefficients, one axis per set of directions.
        deviation: standard deviations of x, same shape; None without.
        i: the axis that stays.

    Returns:
        float64 (N_i,) each; where a slice is all zero its deviation is the root of the summed variances.
    """
    others = tuple(k for k in range(x.ndim) if k != i)
    power = np.abs(x).astype(float) ** 2
    total = power.sum(axis=others)
    if deviation is None:
        return np.sqrt(total), None
    variance = deviation.astype(float) ** 2
    weighted = (power * variance).sum(axis=others)
    spread = np.where(total > 0, weighted / np.where(total > 0, total, 1), variance.sum(axis=others))
    return np.sqrt(total), np.sqrt(spread)
