"""Sparsity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.priors._check import check_step, check_weight, total


@dataclass(frozen=True)
class L1:
    """weight · Σ|x_n| for real or complex x: soft threshold of the modulus, sign or phase kept.

    Args:
        weight: > = 0, inverse units of x.

    The last three axes are one problem, the others batch.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_weight("L1", self.weight)

    def prox(self, v: Tensor, step: float) -> Tensor:
        """v max(1 - weight step / |v|, 0), shape and dtype kept; step >= 0."""
        check_step("L1", step)
        threshold = self.weight * step
        if v.is_complex():
            size = v.abs()
            # |v| <= threshold gives 0 / something; the clamp only guards 0 / 0
            shrunk = (size - threshold).clamp_min_(0).div_(size.clamp_min(torch.finfo(size.dtype).tiny))
            return v * shrunk
        return torch.nn.functional.softshrink(v, threshold)

    def value(self, v: Tensor) -> Tensor:
        """weight · Σ|v| per problem, (*batch,), float64."""
        return self.weight * total(v.abs())
