"""Batch bookkeeping shared by the solvers; inner products accumulate in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wide(device: torch.device) -> torch.dtype:
    """The widest real dtype of a device: float64, but float32 on Apple's mps, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def real_rows(v: Tensor, batch_ndim: int) -> Tensor:
    """v as real numbers, (*batch, n): a complex number is two of them. No copy for contiguous tensors."""
    v = v.resolve_conj()
    if v.is_complex():
        v = torch.view_as_real(v)
    return v.reshape(*v.shape[:batch_ndim], math.prod(v.shape[batch_ndim:]))


def dot(a: Tensor, b: Tensor, batch_ndim: int) -> Tensor:
    """Re⟨a, b⟩ per problem, (*batch,), accumulated in float64."""
    kind = wide(a.device)
    return torch.linalg.vecdot(real_rows(a, batch_ndim).to(kind), real_rows(b, batch_ndim).to(kind))


def norm(a: Tensor, batch_ndim: int) -> Tensor:
    """‖a‖ per problem, (*batch,), accumulated in float64."""
    return torch.linalg.vector_norm(real_rows(a, batch_ndim), dim=-1, dtype=wide(a.device))


def over(scalars: Tensor, like: Tensor) -> Tensor:
    """Per-problem numbers (*batch,) shaped and cast to multiply `like` (*batch, ...)."""
    real = like.real.dtype if like.is_complex() else like.dtype
    return scalars.to(real).reshape(*scalars.shape, *(1,) * (like.ndim - scalars.ndim))


def tiny(device: torch.device) -> float:
    """Smallest denominator: guards 0 / 0 without touching any real signal."""
    return torch.finfo(wide(device)).tiny


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b per problem, with 0 / 0 = 0."""
    return a / b.clamp_min(tiny(b.device))


def gap(a: Tensor, b: Tensor, batch_ndim: int) -> Tensor:
    """‖a - b‖ / max(‖a‖, ‖b‖) per problem, 0 for a = b = 0."""
    return ratio(norm(a - b, batch_ndim), torch.maximum(norm(a, batch_ndim), norm(b, batch_ndim)))


def magnitude_change(a: Tensor, b: Tensor, batch_ndim: int) -> Tensor:
    """‖|a| - |b|‖ / ‖b‖ per problem."""
    return ratio(norm(a.abs() - b.abs(), batch_ndim), norm(b, batch_ndim))
