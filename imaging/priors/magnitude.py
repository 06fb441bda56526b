"""Regularise the magnitude, keep the phase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imaging.priors._check import check_step, check_weight
from imaging.priors.protocols import Denoiser, Prior


@dataclass(frozen=True)
class Magnitude:
    """r(|x|) for complex x: the real prior or denoiser `inner` acts on |v|, and v's phase is put back.

    Exact for every functional of the magnitude that `inner` minimises over non-negative images (NF 4.2). The
    result of `inner` is clamped at 0: a negative output would turn the phase by π.

    Args:
        inner: a Prior (has `prox`), or a Denoiser, called with sigma = √(weight · step).
        weight: multiplies the prior or the denoiser's noise variance; >= 0.
        relative: divide |v| by its maximum per problem before `inner` and multiply after it (NF 5.7). The
            result then scales with v, and weight · step is relative to the peak. It is no longer the prox of
            one function.

    Source: NF 4.2 (4.6); Venkatakrishnan et al. (2013) for the denoiser in place of a prox.
    """

    inner: Prior | Denoiser
    weight: float = 1.0
    relative: bool = False

    def __post_init__(self) -> None:
        check_weight("Magnitude", self.weight)
        if not hasattr(self.inner, "prox") and not callable(self.inner):
            raise TypeError(
                f"Magnitude inner: expected a prior with prox(v, step) or a denoiser called as (v, sigma), "
                f"got {type(self.inner).__name__}"
            )

    def prox(self, v: Tensor, step: float) -> Tensor:
        """The prox of r(|·|) at v (*batch, nz, ny, nx), real or complex; shape and dtype kept."""
        return self.prox_warm(v, step, None)[0]

    def prox_warm(self, v: Tensor, step: float, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`prox` with the memory of `inner`, if it keeps one."""
        check_step("Magnitude", step)
        tiny = torch.finfo(v.dtype).tiny
        size = v.abs()
        peak = size.amax(dim=(-3, -2, -1), keepdim=True).clamp_min(tiny) if self.relative else None
        m, memory = self._denoise(size if peak is None else size / peak, step, memory)
        m = m.clamp_min(0) if peak is None else m.clamp_min(0) * peak
        return v * (m / size.clamp_min(tiny)), memory  # phase 0 / tiny = 0 where v = 0

    def value(self, v: Tensor) -> Tensor | None:
        """r(|v|) per problem; None for a denoiser and for a relative prior, which have no objective."""
        method: Any = getattr(self.inner, "value", None)
        if method is None or self.relative:
            return None
        inner = method(v.abs())
        return None if inner is None else self.weight * inner

    def noise_level(self, step: float) -> float | None:
        """√(weight · step) for a denoiser; for a prior what it says itself, None as a rule."""
        if hasattr(self.inner, "prox"):
            method: Any = getattr(self.inner, "noise_level", None)
            return None if method is None else method(self.weight * step)
        return math.sqrt(self.weight * step)

    def _denoise(self, size: Tensor, step: float, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        inner: Any = self.inner
        if hasattr(inner, "prox_warm"):
            m, kept = inner.prox_warm(size, self.weight * step, memory)
            return m, kept
        if hasattr(inner, "prox"):
            return inner.prox(size, self.weight * step), None
        flat = size.reshape(-1, *size.shape[-3:])  # a denoiser is promised exactly one batch axis
        return inner(flat, math.sqrt(self.weight * step)).reshape(size.shape), None
