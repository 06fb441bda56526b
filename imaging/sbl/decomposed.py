"""The decomposed estimator: a rank-one measurement falls apart into one small problem per factor.

If x = x_1 ⊗ … ⊗ x_I then A x = A_1 x_1 ⊗ … ⊗ A_I x_I, and each A_i x_i is known from a rank-one approximation of y.
Whether y is of rank one must be checked: on anything else the estimate is wrong. Off-grid refinement moves the atoms.

Source: He, Joseph (2023), arXiv 2310.07869, and (2024), arXiv 2412.00310; KS 5.5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.kronecker import Kronecker, mode_products, outer
from imaging.sbl._problem import Problem, abs2, check_noise_var, mean_power
from imaging.sbl.kronecker import check_prune, mask
from imaging.sbl.least_squares import masked_pinv, support_masks
from imaging.sbl.offgrid import Steering, refine
from imaging.sbl.posterior import e_step
from imaging.sbl.state import SblState, relative_change

#: How far the residual's largest singular value may exceed that of noise, squared, before y counts as not rank one.
RANK_ONE_SLACK = 1.5
#: A residual below this share of y is rounding.
ROUNDING = 1e-10


class NotRankOneError(ValueError):
    """A rank-one method was given a measurement that is not of rank one."""


@dataclass(frozen=True, kw_only=True)
class DecomposedState(SblState):
    """x is the outer product of the factors' means; `gamma` holds the factors' variances side by side, (*batch, ΣN_i).

    `objective` is the sum of the factors' L, `primal` and `dual` are the largest of the factors', and
    `noise_var` is ‖y - A x‖² / M.

    Args:
        means: x_1, …, x_I side by side, (*batch, ΣN_i); only their product is determined.
        noise_vars: of the factors' problems, (*batch, I).
        changes: of the factors' γ, (*batch, I).
        excess: largest singular value, squared, of what the rank-one approximation of y leaves, over what noise would
            have, (*batch,); far above 1 where y is not of rank one.
        angles: of the atoms of the factors with a steering vector, side by side, (*batch, ΣN_i), units of
            `Steering.grid`; NaN for factors without; None if there are none.
    """

    means: Tensor
    noise_vars: Tensor
    changes: Tensor
    excess: Tensor
    angles: Tensor | None = None

    @property
    def rank_one(self) -> Tensor:
        """Whether y can be of rank one but for noise, bool (*batch,)."""
        return self.excess <= RANK_ONE_SLACK


def check_rank_one(state: DecomposedState) -> None:
    """Raise `NotRankOneError` unless every measurement of the batch can be of rank one but for noise."""
    worst = float(state.excess.max())
    if worst > RANK_ONE_SLACK:
        raise NotRankOneError(
            f"dsbl y: expected a measurement of rank one, found a residual {worst:.3g} times as structured as noise in "
            f"{int((~state.rank_one).sum())} of {state.excess.numel()} problems; use krosbl-mm, which needs no rank one"
        )


def dsbl(
    A: Kronecker,
    y: Tensor,
    *,
    prune: float = 5e-4,
    freeze: float = 1e-5,
    start_var: Tensor | float | None = None,
    noise_share: float = 0.1,
    steering: Sequence[Steering | None] = (),
    n_paths: Sequence[int] = (),
    start: DecomposedState | None = None,
) -> Iterator[DecomposedState]:
    """Sparse Bayesian learning of each factor of a rank-one measurement, with unknown noise variances.

    Args:
        A: any number of factors; those with a steering vector are replaced by its atoms, which move.
        y: (*batch, *A.out_shape), of rank one but for noise: see `check_rank_one`.
        prune: mask γ_i[n] < prune · max γ_i, in [0, 1); factors that move are not masked.
        freeze: a factor is left alone once its γ changes by less than this, relative.
        start_var: γ to start from, in every factor, one number or (*batch,); None: so that A_i x_i has the power of
            its part of y.
        noise_share: σ_i² starts at noise_share ‖y_i‖ / M_i; with a steering vector at 0.1 var(y_i).
        steering: off-grid refinement, per factor, None for those on the grid; empty for none.
        n_paths: per factor, how many peaks of γ_i are refined; as long as `steering`.
        start: a state to go on from.

    Yields:
        DecomposedState, endlessly.
    """
    problem = Problem.of("dsbl", A, y, 1.0)
    check_prune("dsbl", prune, 1)
    if start_var is not None:
        start_var = check_noise_var("dsbl", start_var, problem.batch, y.device, key="start_var")
    n, rank = len(problem.y), len(A.in_shape)
    rays = _check_steering(A, steering, n_paths)
    parts = decompose(problem.y)
    excess = rank_one_excess(problem.y, outer(parts))
    if start is None:
        factors = [_Factor.begin(problem, parts, i, ray, start_var, noise_share) for i, (ray, _) in enumerate(rays)]
        done = 0
    else:
        gammas = start.gamma.reshape(n, -1).split(list(A.in_shape), dim=1)
        angles = [None] * rank if start.angles is None else start.angles.reshape(n, -1).split(list(A.in_shape), dim=1)
        noise = start.noise_vars.reshape(n, rank)
        changes = start.changes.reshape(n, rank)
        factors = [
            _Factor.go_on(problem, parts, i, ray, gammas[i], noise[:, i], changes[:, i], angles[i])
            for i, (ray, _) in enumerate(rays)
        ]
        done = start.iteration
    x = outer([f.mean for f in factors])
    for k in itertools.count(done + 1):
        before = x
        for f, (_, paths) in zip(factors, rays, strict=True):
            f.iterate(prune, freeze, paths)
        x = outer([f.mean for f in factors])
        yield _state(k, A, y, problem, factors, excess, x, before)


class _Factor:
    """One factor's problem y_i = H_i x_i + e_i; γ ← |μ|² + diag Σ, then the atoms move."""

    def __init__(self, H: Tensor, y: Tensor, gamma: Tensor, noise_var: Tensor, change: Tensor) -> None:
        self.H, self.y, self.gamma, self.noise_var, self.change = H, y, gamma, noise_var, change
        self.ray: Steering | None = None
        self.angles: Tensor | None = None
        self.cost_change = torch.full_like(noise_var, torch.inf)
        self.posterior = e_step((H,), y, (gamma,), noise_var)

    @classmethod
    def begin(
        cls,
        problem: Problem,
        parts: Sequence[Tensor],
        i: int,
        ray: Steering | None,
        start_var: Tensor | None,
        noise_share: float,
    ) -> _Factor:
        y, m = parts[i], parts[i].shape[1]
        H = problem.factors[i] if ray is None else ray.atoms(ray.grid.expand(len(y), -1))
        c = mean_power(y) * m / torch.linalg.matrix_norm(H).square() if start_var is None else start_var
        gamma = c[:, None].expand(-1, H.shape[-1])
        if ray is None:
            noise = noise_share * y.norm(dim=1) / m
        else:
            noise = 0.1 * abs2(y - y.mean(dim=1, keepdim=True)).sum(dim=1) / max(m - 1, 1)
        factor = cls(H, y, gamma, torch.maximum(noise, _floor(y)), torch.full_like(noise, torch.inf))
        factor.ray, factor.angles = ray, None if ray is None else ray.grid.expand(len(y), -1)
        return factor

    @classmethod
    def go_on(
        cls,
        problem: Problem,
        parts: Sequence[Tensor],
        i: int,
        ray: Steering | None,
        gamma: Tensor,
        noise_var: Tensor,
        change: Tensor,
        angles: Tensor | None,
    ) -> _Factor:
        H = problem.factors[i] if ray is None or angles is None else ray.atoms(angles)
        factor = cls(H, parts[i], gamma, noise_var, change)
        factor.ray, factor.angles = ray, None if ray is None else angles
        return factor

    @property
    def mean(self) -> Tensor:
        return self.posterior.mean

    def iterate(self, prune: float, freeze: float, paths: int) -> None:
        going = self.change > freeze
        if not bool(going.any()):
            return
        p, old = self.posterior, self.gamma
        if self.ray is None:
            (kept,) = mask((self.gamma,), (prune,), 0.0)
            if kept is not self.gamma:
                p = e_step((self.H,), self.y, (kept,), self.noise_var)
        gamma = p.second_moment
        noise = torch.maximum(p.noise_var_next, _floor(self.y))
        if self.ray is not None and self.angles is not None:
            angles = refine(self.ray, self.angles, self.H, self.y, p, gamma, paths)
            self.angles = torch.where(going[:, None], angles, self.angles)
            self.H = self.ray.atoms(self.angles)
            rest = self.y - (self.H @ p.mean[..., None]).squeeze(-1)  # the new atoms with the old mean
            noise = (abs2(rest).sum(dim=1) + p.noise_var * p.freedom) / self.y.shape[1]
            noise = torch.maximum(noise, _floor(self.y))
        self.gamma = torch.where(going[:, None], gamma, old)
        self.noise_var = torch.where(going, noise, self.noise_var)
        cost = self.posterior.cost
        self.posterior = e_step((self.H,), self.y, (self.gamma,), self.noise_var)
        self.change = torch.where(going, relative_change(self.gamma, old), self.change)
        self.cost_change = (self.posterior.cost - cost).abs() / self.y.shape[1]


def decompose(y: Tensor) -> tuple[Tensor, ...]:
    """Vectors y_i whose outer product is the sequential rank-one approximation of y, the scale in the last.

    Args:
        y: (n, M_1, …, M_I).

    Returns:
        (n, M_i) each; all but the last have unit norm.
    """
    parts, rest = [], y
    for _ in range(y.ndim - 2):
        matrix = rest.flatten(2)
        gram = matrix @ matrix.mH
        _, vectors = torch.linalg.eigh(0.5 * (gram + gram.mH))
        u = vectors[..., -1]
        parts.append(u)
        rest = (u.conj().unsqueeze(1) @ matrix).reshape(len(y), *rest.shape[2:])
    return (*parts, rest)


def rank_one_excess(y: Tensor, fitted: Tensor) -> Tensor:
    """Largest singular value of y - fitted, squared, over its expectation for noise of the same power, (n,).

    Of all unfoldings the largest; an M_i x K matrix of noise has (√M_i + √K)² σ² (Marchenko, Pastur).
    """
    rest = y - fitted
    shape = y.shape[1:]
    m = math.prod(shape)
    freedom = max(m - sum(shape) + len(shape) - 1, 1)
    power = abs2(rest).flatten(1).sum(dim=1)
    excess = torch.zeros_like(power)
    for i, k in enumerate(shape):
        if k == 1 or k == m:
            continue
        rows = rest.movedim(i + 1, 1).flatten(2)
        largest = torch.linalg.matrix_norm(rows, 2).square()
        edge = (math.sqrt(k) + math.sqrt(m / k)) ** 2 / freedom * power
        excess = torch.maximum(excess, torch.where(power > 0, largest / edge, 0.0))
    significant = power > ROUNDING**2 * abs2(y).flatten(1).sum(dim=1)
    return torch.where(significant, excess, 0.0)


def rank_one_noise_var(y: Tensor, *, slack: float = RANK_ONE_SLACK) -> Tensor:
    """σ² from what a rank-one approximation of y leaves, where y can be of rank one but for noise; else 0: (n,).

    ‖y - y_1 ⊗ … ⊗ y_I‖² over the degrees of freedom that are left, M - ΣM_i + I - 1 (KS 4, item 7).

    Args:
        y: (n, M_1, …, M_I).
        slack: how structured the residual may be, see `rank_one_excess`.
    """
    fitted = outer(decompose(y))
    shape = y.shape[1:]
    freedom = math.prod(shape) - sum(shape) + len(shape) - 1
    if freedom < 1:
        return y.new_zeros(len(y), dtype=torch.float64)
    left = abs2(y - fitted).flatten(1).sum(dim=1) / freedom
    return torch.where(rank_one_excess(y, fitted) <= slack, left, 0.0)


def rank_one_polish(
    A: Kronecker, y: Tensor, support: Sequence[Tensor], *, max_sweeps: int = 50, tol: float = 1e-8
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Minimise ‖y - A (x_1 ⊗ … ⊗ x_I)‖ over x_i on a support, by least squares in one factor after the other.

    Args:
        A: any number of factors.
        y: (*batch, *A.out_shape).
        support: per factor, bool (N_i,) or (*batch, N_i), e.g. ``g > 1e-3 * g.amax(-1, keepdim=True)``.
        max_sweeps: over all factors.
        tol: relative change of the fit at which the sweeps end.

    Returns:
        x, (*batch, *A.in_shape), dtype of y, and x_1, …, x_I, (*batch, N_i), all but the last with ‖A_i x_i‖ = 1.
        Meant for an x of rank one: another x is projected to the nearest.
    """
    problem = Problem.of("rank_one_polish", A, y, 1.0)
    masks = support_masks("rank_one_polish", A, problem, support)
    inverses = [masked_pinv(a, m) for a, m in zip(problem.factors, masks, strict=True)]
    spans = [a @ inverse for a, inverse in zip(problem.factors, inverses, strict=True)]
    inside = mode_products(problem.y, spans)
    parts = list(decompose(inside))
    rank, size = len(parts), problem.y.flatten(1).norm(dim=1)
    scale = parts[-1].norm(dim=1)
    for _ in range(max_sweeps):
        for i in range(rank):
            others = [j for j in range(rank) if j != i]
            v = inside.movedim(i + 1, 1)
            for j in reversed(others):
                unit = parts[j] / parts[j].norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
                v = (v @ unit.conj().reshape(len(unit), *(1,) * (v.ndim - 3), -1, 1)).squeeze(-1)
            parts[i] = v
        now = parts[-1].norm(dim=1)
        if bool(((now - scale).abs() <= tol * size).all()):
            break
        scale = now
    units = [v / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny) for v in parts[:-1]]
    vectors = [(inverse @ v[..., None]).squeeze(-1) for inverse, v in zip(inverses, (*units, parts[-1]), strict=True)]
    x = outer(vectors).to(y.dtype).reshape(*problem.batch, *A.in_shape)
    return x, tuple(v.to(y.dtype).reshape(*problem.batch, -1) for v in vectors)


def _floor(y: Tensor) -> Tensor:
    # of a part that is 0 any noise variance gives x_i = 0
    return (1e-12 * mean_power(y)).clamp_min(torch.finfo(torch.float64).tiny ** 0.5)


def _check_steering(
    A: Kronecker, steering: Sequence[Steering | None], n_paths: Sequence[int]
) -> list[tuple[Steering | None, int]]:
    rank = len(A.in_shape)
    rays = tuple(steering) or (None,) * rank
    paths = tuple(n_paths) or (0,) * rank
    if len(rays) != rank or len(paths) != rank:
        raise ShapeError(
            f"dsbl steering, n_paths: expected {rank} each, one per factor, got {len(rays)} and {len(paths)}"
        )
    for i, (ray, r, m, n) in enumerate(zip(rays, paths, A.out_shape, A.in_shape, strict=True), 1):
        if ray is None:
            continue
        if (ray.mixing.shape[-2], len(ray.grid)) != (m, n):
            raise ShapeError(
                f"dsbl steering {i}: expected {m} measurements and {n} atoms like factor {i}, got "
                f"{ray.mixing.shape[-2]} and {len(ray.grid)}"
            )
        if not 1 <= r <= n:
            raise ValueError(f"dsbl n_paths {i}: expected 1 to {n} paths, got {r}")
    return list(zip(rays, paths, strict=True))


def _state(
    k: int,
    A: Kronecker,
    y: Tensor,
    problem: Problem,
    factors: Sequence[_Factor],
    excess: Tensor,
    x: Tensor,
    before: Tensor,
) -> DecomposedState:
    batch = problem.batch
    powers = [abs2(f.mean) for f in factors]
    moments = [f.posterior.second_moment for f in factors]
    image = outer([(f.H @ f.mean[..., None]).squeeze(-1) for f in factors])
    residual = (problem.y - image).flatten(1).norm(dim=1)
    angles = [torch.full_like(f.gamma, torch.nan) if f.angles is None else f.angles for f in factors]
    moving = any(f.angles is not None for f in factors)
    changes = torch.stack([f.change for f in factors], dim=1)
    return DecomposedState(
        iteration=k,
        x=x.to(y.dtype).reshape(*batch, *A.in_shape),
        primal=changes.amax(dim=1).reshape(batch),
        dual=torch.stack([f.cost_change for f in factors], dim=1).amax(dim=1).reshape(batch),
        relative_change=relative_change(x.abs(), before.abs()).reshape(batch),
        data_fidelity=residual.reshape(batch),
        objective=torch.stack([f.posterior.cost for f in factors]).sum(dim=0).reshape(batch),
        # of a product of independent factors
        variance=(outer(moments) - outer(powers)).clamp_min(0).reshape(*batch, *A.in_shape),
        gamma=torch.cat([f.gamma for f in factors], dim=1).reshape(*batch, -1),
        noise_var=(residual.square() / math.prod(A.out_shape)).reshape(batch),
        means=torch.cat([f.mean for f in factors], dim=1).to(y.dtype).reshape(*batch, -1),
        noise_vars=torch.stack([f.noise_var for f in factors], dim=1).reshape(*batch, -1),
        changes=changes.reshape(*batch, -1),
        excess=excess.reshape(batch),
        angles=torch.cat(angles, dim=1).reshape(*batch, -1) if moving else None,
    )
