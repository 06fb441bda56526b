"""What every estimator is given, checked and with exactly one batch axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imaging.errors import DtypeError, ShapeError
from imaging.operators.kronecker import Kronecker

#: Smallest noise variance that an estimate may reach, of the mean |y|²: 120 dB below it.
NOISE_FLOOR = 1e-12
#: Where an unknown noise variance starts, of the variance of y (KS 1.8).
NOISE_START = 0.1


@dataclass(frozen=True)
class Problem:
    """y = A x + n of a batch with one axis, in double precision: the matrices are small, and sums must be exact.

    Args:
        factors: of A, (M_i, N_i) or (n, M_i, N_i), complex128 or float64.
        y: (n, M_1, …, M_I), the same dtype.
        batch: the batch axes of the caller.
        noise_var: (n,), float64; None where unknown.
        floor: smallest noise variance, (n,).
    """

    factors: tuple[Tensor, ...]
    y: Tensor
    batch: tuple[int, ...]
    noise_var: Tensor | None
    floor: Tensor

    @classmethod
    def of(cls, name: str, A: Kronecker, y: Tensor, noise_var: Tensor | float | None = None) -> Problem:
        """Check what the estimator `name` is given."""
        check_data(name, A, y)
        rank = len(A.out_shape)
        batch = tuple(y.shape[: y.ndim - rank])
        double = torch.complex128 if y.is_complex() else torch.float64
        flat = y.reshape(-1, *A.out_shape).to(double)
        factors = tuple(a.to(double) for a in A.factors)
        power = mean_power(flat)
        if noise_var is None:
            if bool((power == 0).any()):
                raise ValueError(
                    f"{name} y: {_problem(batch, power == 0)}0 throughout, which says nothing about the noise; "
                    "pass noise_var, or leave it out"
                )
            return cls(factors, flat, batch, None, NOISE_FLOOR * power)
        return cls(factors, flat, batch, check_noise_var(name, noise_var, batch, y.device), NOISE_FLOOR * power)

    @property
    def noise_start(self) -> Tensor:
        """Where an unknown noise variance starts: 0.1 var(y), (n,)."""
        rows = self.y.flatten(1)
        m = rows.shape[1]
        if m == 1:
            return NOISE_START * mean_power(self.y)
        centred = rows - rows.mean(dim=1, keepdim=True)
        variance = abs2(centred).sum(dim=1, dtype=torch.float64) / (m - 1)
        return torch.maximum(NOISE_START * variance, self.floor)


def check_data(name: str, A: Any, y: Tensor) -> None:
    """Refuse what no estimator can work with.

    Raises:
        TypeError: A is no `Kronecker` operator.
        ShapeError, DtypeError: y does not fit A.
        ValueError: y is not finite.
    """
    if not isinstance(A, Kronecker):
        raise TypeError(f"{name} A: expected a Kronecker operator, got {type(A).__name__}; one factor is enough")
    rank = len(A.out_shape)
    if y.ndim < rank or tuple(y.shape[y.ndim - rank :]) != A.out_shape:
        wanted = ", ".join(str(n) for n in A.out_shape)
        raise ShapeError(f"{name} y: expected (..., {wanted}), one axis per factor of A, got {tuple(y.shape)}")
    if y.dtype != A.dtype or y.device != A.device:
        raise DtypeError(
            f"{name} y: expected {A.dtype} on {A.device} like A, got {y.dtype} on {y.device}; convert one of them"
        )
    batch = tuple(y.shape[: y.ndim - rank])
    if A.n_problem is not None and batch != (A.n_problem,):
        raise ShapeError(
            f"{name} y: expected a batch of {A.n_problem}, one for each matrix of the stack, got batch axes {batch}"
        )
    bad = ~torch.isfinite(y.reshape(math.prod(batch), -1)).all(dim=1)
    if bool(bad.any()):
        raise ValueError(f"{name} y: {_problem(batch, bad)}not finite; leave measurements that are missing out")


def check_noise_var(
    name: str, noise_var: Tensor | float, batch: tuple[int, ...], device: torch.device, *, key: str = "noise_var"
) -> Tensor:
    """A variance per problem, (n,), float64."""
    value = torch.as_tensor(noise_var, dtype=torch.float64, device=device)
    if value.ndim and tuple(value.shape) != batch:
        raise ShapeError(f"{name} {key}: expected one number or {batch}, one per problem, got {tuple(value.shape)}")
    flat = value.expand(batch).reshape(-1)
    bad = ~(torch.isfinite(flat) & (flat > 0))
    if bool(bad.any()):
        raise ValueError(
            f"{name} {key}: expected finite numbers > 0, found {float(flat[bad][0]):g}; None takes one from the data"
        )
    return flat


def abs2(x: Tensor) -> Tensor:
    """|x|², real."""
    return (x * x.conj()).real if x.is_complex() else x * x


def mean_power(y: Tensor) -> Tensor:
    """Mean |y|² per problem, (n,), float64."""
    return abs2(y).flatten(1).mean(dim=1, dtype=torch.float64)


def _problem(batch: tuple[int, ...], bad: Tensor) -> str:
    return f"problem {int(torch.nonzero(bad)[0])} of the batch is " if batch else "expected finite numbers, is "
