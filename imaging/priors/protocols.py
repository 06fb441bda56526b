"""What solvers ask of a prior or a denoiser. Classes fit by their methods and inherit nothing."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Prior(Protocol):
    """A regulariser r, known by its proximal map.

    A prior may also have

    * ``value(v) -> Tensor | None``: r(v) per problem, (*batch,), float64; None where there is none;
    * ``prox_warm(v, step, memory) -> (x, memory)``: as prox, starting from what the last call left; memory is
      None or a tensor with the batch axes in front, and prox_warm(v, step, None) equals a cold start;
    * ``noise_level(step) -> float | None``: the standard deviation that a denoiser inside is told.
    """

    def prox(self, v: Tensor, step: float) -> Tensor:
        """argmin_x r(x) + ‖x - v‖² / (2 step), shape and dtype kept; v (*batch, nz, ny, nx)."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """Removes white noise; a network fits by its signature."""

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        """v: real (batch, nz, ny, nx); sigma: noise standard deviation in v's units. Same shape back."""
        ...


def prox(prior: Prior, v: Tensor, step: float, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(prox, memory) of a prior, warm-started where it can be."""
    warm: Any = getattr(prior, "prox_warm", None)
    if warm is None:
        return prior.prox(v, step), None
    x, kept = warm(v, step, memory)
    return x, kept


def value(prior: Prior, v: Tensor) -> Tensor | None:
    """r(v) per problem, or None where the prior defines none."""
    method: Any = getattr(prior, "value", None)
    return None if method is None else method(v)


def noise_level(prior: Prior, step: float) -> float | None:
    """The noise standard deviation handed to the denoiser inside, or None."""
    method: Any = getattr(prior, "noise_level", None)
    return None if method is None else method(step)
