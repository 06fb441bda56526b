"""Least squares, with and without a known support, factor by factor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.kronecker import Kronecker, mode_products
from imaging.sbl._problem import Problem

#: Singular values of a factor below this, relative to its largest, count as 0.
RCOND = 1e-10


def least_squares(A: Kronecker, y: Tensor) -> Tensor:
    """The x of smallest norm among those that minimise ‖A x - y‖: y ×_i A_i⁺.

    Args:
        A: any number of factors, of any rank.
        y: (*batch, *A.out_shape).

    Returns:
        (*batch, *A.in_shape), dtype of y.
    """
    problem = Problem.of("least_squares", A, y, 1.0)
    x = mode_products(problem.y, [torch.linalg.pinv(a, rtol=RCOND) for a in problem.factors])
    return x.to(y.dtype).reshape(*problem.batch, *A.in_shape)


def oracle_least_squares(A: Kronecker, y: Tensor, support: Sequence[Tensor]) -> Tensor:
    """Least squares on a known Kronecker support, 0 elsewhere: what no estimator without the support can be sure of.

    Args:
        A: any number of factors.
        y: (*batch, *A.out_shape).
        support: per factor, bool (N_i,) or (*batch, N_i).

    Returns:
        (*batch, *A.in_shape), dtype of y.
    """
    problem = Problem.of("oracle_least_squares", A, y, 1.0)
    masks = support_masks("oracle_least_squares", A, problem, support)
    inverses = [masked_pinv(a, mask) for a, mask in zip(problem.factors, masks, strict=True)]
    return mode_products(problem.y, inverses).to(y.dtype).reshape(*problem.batch, *A.in_shape)


def masked_pinv(factor: Tensor, mask: Tensor) -> Tensor:
    """Pseudo-inverse of the columns of a factor in `mask`, (n, N_i), with rows of 0 elsewhere: (n, N_i, M_i)."""
    inverse = torch.linalg.pinv(factor * mask.unsqueeze(1), rtol=RCOND)
    return inverse * mask.unsqueeze(2)


def support_masks(name: str, A: Kronecker, problem: Problem, support: Sequence[Tensor]) -> list[Tensor]:
    """Per factor, bool (n, N_i)."""
    if len(support) != len(A.in_shape):
        raise ShapeError(f"{name} support: expected {len(A.in_shape)} masks, one per factor, got {len(support)}")
    masks = []
    for i, (mask, n) in enumerate(zip(support, A.in_shape, strict=True), 1):
        if mask.dtype != torch.bool or tuple(mask.shape) not in ((n,), (*problem.batch, n)):
            raise ShapeError(
                f"{name} support {i}: expected bool ({n},) or {(*problem.batch, n)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        masks.append(mask.expand(*problem.batch, n).reshape(-1, n))
    return masks
