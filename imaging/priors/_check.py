"""Messages and sums shared by the priors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imaging.errors import DtypeError, ShapeError


def check_weight(who: str, weight: float) -> None:
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{who} weight: expected a finite number >= 0, got {weight}")


def check_step(who: str, step: float) -> None:
    if not (math.isfinite(step) and step >= 0):
        raise ValueError(f"{who} step: expected a finite number >= 0, got {step}")


def check_volume(who: str, v: Tensor) -> None:
    if v.ndim < 3:
        raise ShapeError(f"{who} input: expected (..., nz, ny, nx), got {tuple(v.shape)}; a slice has nz = 1")
    if v.is_complex():
        raise DtypeError(f"{who} input: expected a real volume, got {v.dtype}; Magnitude({who}(...)) acts on |v|")
    if not v.is_floating_point():
        raise DtypeError(f"{who} input: expected a floating-point volume, got {v.dtype}")


def total(v: Tensor) -> Tensor:
    """Sum over the last three axes, accumulated in float64 (float32 on mps)."""
    kind = torch.float32 if v.device.type == "mps" else torch.float64
    return v.sum(dim=(-3, -2, -1), dtype=kind)
