"""Regularise the magnitude, keep the phase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from imaging.priors._check import check_step, check_weight
from imaging.priors.protocols import Denoiser, Prior

Scale = Literal["peak", "bright"]
#: Share of the voxels whose mean is the "bright" scale, and the least share of the peak that it may be.
BRIGHT, LEAST = 1e-3, 0.5


def running_scale(size: Tensor, kind: Scale) -> Tensor:
    """What magnitudes (*batch, nz, ny, nx) are divided by, (*batch, 1, 1, 1), > 0.

    "peak": the largest. "bright": the mean of the brightest thousandth, at least half the peak. Where phases are
    random a reconstruction's largest voxel is a speckle, up to 1.5 times the object's brightness, and a denoiser that
    was trained on objects of peak 1 is then told the wrong amplitude; the mean of many is not moved by one.
    """
    tiny = torch.finfo(size.dtype).tiny
    peak = size.amax(dim=(-3, -2, -1), keepdim=True).clamp_min(tiny)
    if kind == "peak":
        return peak
    flat = size.flatten(-3)
    bright = flat.topk(max(1, round(BRIGHT * flat.shape[-1]))).values.mean(-1)
    return torch.maximum(bright.reshape(peak.shape), LEAST * peak)


@dataclass(frozen=True)
class Magnitude:
    """r(|x|) for complex x: the real prior or denoiser `inner` acts on |v|, and v's phase is put back.

    Exact for every functional of the magnitude that `inner` minimises over non-negative images (NF 4.2). The
    result of `inner` is clamped at 0: a negative output would turn the phase by π.

    Args:
        inner: a Prior (has `prox`), or a Denoiser, called with sigma = √(weight · step).
        weight: multiplies the prior or the denoiser's noise variance; >= 0.
        relative: divide |v| by its scale per problem before `inner` and multiply after it (NF 5.7): "peak" (or True)
            or "bright", see `running_scale`. The result then scales with v, and weight · step is relative to that
            scale. It is no longer the prox of one function.

    Source: NF 4.2 (4.6); Venkatakrishnan et al. (2013) for the denoiser in place of a prox.
    """

    inner: Prior | Denoiser
    weight: float = 1.0
    relative: bool | Scale = False

    def __post_init__(self) -> None:
        check_weight("Magnitude", self.weight)
        if self.relative not in (False, True, "peak", "bright"):
            raise ValueError(f"Magnitude relative: expected False, True, 'peak' or 'bright', got {self.relative!r}")
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
        scale = running_scale(size, "bright" if self.relative == "bright" else "peak") if self.relative else None
        m, memory = self._denoise(size if scale is None else size / scale, step, memory)
        m = m.clamp_min(0) if scale is None else m.clamp_min(0) * scale
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
