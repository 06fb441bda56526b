"""Sparse Bayesian learning with a variance of its own for every coefficient: classical and pattern-coupled.

The Kronecker structure of A still serves: Σ_y and h_nᴴ Σ_y⁻¹ h_n are mode products with the matrices of all
h_i h_iᴴ, so that M x M is the largest matrix, and the cost of an iteration is that of its Cholesky factor.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from imaging.errors import DivergedError
from imaging.operators.kronecker import Kronecker, mode_products
from imaging.sbl._problem import Problem, abs2
from imaging.sbl.kronecker import PRUNE, check_prune, first_noise_var, first_var
from imaging.sbl.state import SblState, relative_change

#: Constants of pattern-coupled SBL: shape and rate of the precisions' prior, and the coupling (KS 1.10).
SHAPE, RATE, COUPLING = 0.5, 1e-4, 0.9
#: A precision above LARGEST times the smallest becomes HUGE: the coefficient is practically 0.
LARGEST, HUGE = 1e3, 1e10


def sbl(
    A: Kronecker,
    y: Tensor,
    *,
    noise_var: Tensor | float | None = None,
    prune: float = PRUNE,
    start_var: Tensor | float | None = None,
    noise_start: Tensor | float | None = None,
    start: SblState | None = None,
) -> Iterator[SblState]:
    """Classical SBL: x ~ CN(0, diag(γ)), each γ_n free; γ ← |μ|² + diag Σ.

    Args:
        A: any number of factors.
        y: (*batch, *A.out_shape).
        noise_var: σ², one number or (*batch,), units of |y|²; None estimates it.
        prune: mask γ_n < prune · max γ, in [0, 1).
        start_var, noise_start: see `em`.
        start: a state to go on from.

    Yields:
        SblState, endlessly.

    Source: Tipping (2001), Sparse Bayesian learning and the relevance vector machine; KS 1.10.
    """
    problem = Problem.of("sbl", A, y, noise_var)
    (threshold,) = check_prune("sbl", prune, 1)
    if start is None:
        sigma2, done = first_noise_var("sbl", problem, noise_start), 0
        c = first_var("sbl", A, problem, sigma2, start_var)
        gamma = c.reshape(-1, *(1,) * len(A.in_shape)).expand(-1, *A.in_shape)
    else:
        sigma2, done = start.noise_var.reshape(-1), start.iteration
        gamma = start.gamma.reshape(-1, *A.in_shape)
    p = FreePosterior(problem, gamma, sigma2)
    for k in itertools.count(done + 1):
        before = p
        negligible = (gamma > 0) & (
            gamma < threshold * gamma.flatten(1).amax(dim=1).reshape(-1, *(1,) * len(A.in_shape))
        )
        if bool(negligible.any()):
            gamma = gamma.masked_fill(negligible, 0.0)
            p = FreePosterior(problem, gamma, sigma2)
        gamma = abs2(p.mean) + p.variance
        if problem.noise_var is None:
            sigma2 = torch.maximum(p.noise_var_next, problem.floor)
        p = FreePosterior(problem, gamma, sigma2)
        yield _state(k, A, y, problem, p, before)


def pcsbl(A: Kronecker, y: Tensor, *, noise_var: Tensor | float, start: SblState | None = None) -> Iterator[SblState]:
    """Pattern-coupled SBL: the precision of a coefficient shares in those of its neighbours in the vector x.

    Args:
        A: any number of factors; neighbours are those in the row-major order of its input.
        y: (*batch, *A.out_shape); the method depends on its units, since the rate of its prior has them.
        noise_var: σ², one number or (*batch,), units of |y|².
        start: a state to go on from.

    Yields:
        SblState, endlessly; `gamma` is 1 / precision, and `primal` ‖μ - μ_previous‖ / ‖μ_previous‖, the published rule.

    Source: Fang et al. (2015), Pattern-coupled sparse Bayesian learning for recovery of block-sparse signals; KS 1.10.
    """
    problem = Problem.of("pcsbl", A, y, noise_var)
    assert problem.noise_var is not None  # an argument without a default
    sigma2 = problem.noise_var
    if start is None:
        gamma, done = torch.ones(len(sigma2), *A.in_shape, dtype=torch.float64, device=y.device), 0
    else:
        gamma, done = start.gamma.reshape(-1, *A.in_shape), start.iteration
    p = FreePosterior(problem, gamma, sigma2)
    for k in itertools.count(done + 1):
        before = p
        e = (abs2(p.mean) + p.variance).flatten(1)
        alpha = (SHAPE + 0.5) / (0.5 * _with_neighbours(e) + RATE)
        alpha = torch.where(alpha > LARGEST * alpha.amin(dim=1, keepdim=True), HUGE, alpha)
        gamma = (1 / _with_neighbours(alpha)).reshape(gamma.shape)
        p = FreePosterior(problem, gamma, sigma2)
        state = _state(k, A, y, problem, p, before)
        yield dataclasses.replace(state, primal=relative_change(p.mean, before.mean).reshape(problem.batch))


def _with_neighbours(v: Tensor) -> Tensor:
    """v_n + η (v_{n-1} + v_{n+1}), 0 outside, for v (n, N)."""
    total = v.clone()
    total[:, 1:] += COUPLING * v[:, :-1]
    total[:, :-1] += COUPLING * v[:, 1:]
    return total


class FreePosterior:
    """p(x | y) for variances γ (n, N_1, …, N_I) without structure; see `Posterior` for the names.

    Args:
        problem: what is given.
        gamma: (n, N_1, …, N_I), float64.
        noise_var: (n,), float64.
    """

    def __init__(self, problem: Problem, gamma: Tensor, noise_var: Tensor) -> None:
        y, m = problem.y, math.prod(problem.y.shape[1:])
        self.gamma, self.noise_var = gamma, noise_var
        # (M_i², N_i): column n is h_n h_nᴴ
        pairs = [(a.unsqueeze(-2) * a.conj().unsqueeze(-3)).flatten(-3, -2) for a in problem.factors]
        sigma_y = _to_matrix(mode_products(gamma.to(y.dtype), pairs), y.shape[1:])
        sigma_y = sigma_y + noise_var[:, None, None] * torch.eye(m, dtype=y.dtype, device=y.device)
        factor, failed = torch.linalg.cholesky_ex(sigma_y)
        if bool(failed.any()):
            raise DivergedError(
                f"sbl: Σ_y of problem {int(torch.nonzero(failed)[0])} is not positive definite to rounding; its noise "
                "variance is too small beside the power of y, give a larger noise_var"
            )
        inverse = torch.cholesky_inverse(factor)
        flat = y.reshape(len(y), m, 1)
        weighted = inverse @ flat
        back = mode_products(weighted.reshape(y.shape), [a.mH for a in problem.factors])
        self.mean = gamma * back
        spread = mode_products(_to_tensor(inverse, y.shape[1:]), [p.mH for p in pairs])
        share = gamma * (spread.real if spread.is_complex() else spread)  # 1 - diag Σ / γ
        self.variance = (gamma * (1 - share)).clamp_min(0)  # rounding may leave it a little below 0
        logdet = 2 * factor.diagonal(dim1=1, dim2=2).real.log().sum(dim=1)
        product = (flat.conj() * weighted).sum(dim=(1, 2))
        self.cost = logdet + (product.real if product.is_complex() else product)
        self.residual = noise_var.square() * abs2(weighted).sum(dim=(1, 2))
        self.noise_var_next = (self.residual + noise_var * share.flatten(1).sum(dim=1)) / m


def _to_matrix(t: Tensor, shape: Sequence[int]) -> Tensor:
    """(n, M_1², …, M_I²) -> (n, M, M)."""
    rank, m = len(shape), math.prod(shape)
    t = t.reshape(len(t), *(k for s in shape for k in (s, s)))
    rows, columns = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    return t.permute(0, *rows, *columns).reshape(len(t), m, m)


def _to_tensor(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """(n, M, M) -> (n, M_1², …, M_I²)."""
    rank = len(shape)
    t = matrix.reshape(len(matrix), *shape, *shape)
    order = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
    return t.permute(0, *order).reshape(len(matrix), *(s * s for s in shape))


def _state(k: int, A: Kronecker, y: Tensor, problem: Problem, p: FreePosterior, before: FreePosterior) -> SblState:
    batch = problem.batch
    return SblState(
        iteration=k,
        x=p.mean.to(y.dtype).reshape(*batch, *A.in_shape),
        primal=relative_change(p.gamma, before.gamma).reshape(batch),
        dual=((p.cost - before.cost).abs() / math.prod(A.out_shape)).reshape(batch),
        relative_change=relative_change(p.mean.abs(), before.mean.abs()).reshape(batch),
        data_fidelity=p.residual.sqrt().reshape(batch),
        objective=p.cost.reshape(batch),
        variance=p.variance.reshape(*batch, *A.in_shape),
        gamma=p.gamma.reshape(*batch, *A.in_shape),
        noise_var=p.noise_var.reshape(batch),
    )
