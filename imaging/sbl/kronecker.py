"""Kronecker-structured sparse Bayesian learning: one EM driver, and the estimators that differ in their M-step.

Source: He, Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery with application to
IRS-MIMO channel estimation, arXiv 2307.14719; KS 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imaging.operators.kronecker import Kronecker, outer
from imaging.sbl import msteps
from imaging.sbl._problem import Problem, check_noise_var, mean_power
from imaging.sbl.posterior import Posterior, e_step
from imaging.sbl.state import KroneckerSblState

Gammas = tuple[Tensor, ...]
Couplings = tuple[Tensor | None, ...]
#: From a posterior, its latent variances, what is kept and whether σ² is unknown to new latent variances and a new σ².
Step = Callable[[Posterior, Gammas, "Kept", bool], tuple[Gammas, Tensor]]
#: Size relative to the largest of its factor below which a variance is masked.
PRUNE = 1e-3
#: Where γ of rank-one projections starts, over what gives A x the power of y; 100 to 10⁴ are alike.
WIDTH = 100.0
#: Smallest share of the power of y that a start lays on A x.
SMALLEST_SHARE = 1e-2


def am_krosbl(
    A: Kronecker,
    y: Tensor,
    *,
    inner_tol: float = 1e-4,
    inner_atol: float = 0.0,
    max_sweeps: int = 100,
    **options: Any,
) -> Iterator[KroneckerSblState]:
    """Alternating minimisation (KS 1.4): L never increases.

    Args:
        A, y, options: see `em`.
        inner_tol, inner_atol, max_sweeps: see `msteps.alternating_minimisation`.
    """

    def step(p: Posterior, gammas: Gammas, kept: Kept, unknown: bool) -> tuple[Gammas, Tensor]:
        new = msteps.alternating_minimisation(
            p.second_moment, gammas, tol=inner_tol, atol=inner_atol, max_sweeps=max_sweeps
        )
        return new, next_noise_var(p, unknown)

    return em("am_krosbl", A, y, step, **options)


def ksbl(A: Kronecker, y: Tensor, **options: Any) -> Iterator[KroneckerSblState]:
    """The earlier Kronecker SBL, one sweep of alternating minimisation per iteration (KS 1.6): L never increases.

    Args:
        A, y, options: see `em`.
    """

    def step(p: Posterior, gammas: Gammas, kept: Kept, unknown: bool) -> tuple[Gammas, Tensor]:
        return msteps.alternating_minimisation(p.second_moment, gammas, max_sweeps=1), next_noise_var(p, unknown)

    return em("ksbl", A, y, step, **options)


def svd_krosbl(A: Kronecker, y: Tensor, *, width: float = WIDTH, **options: Any) -> Iterator[KroneckerSblState]:
    """Rank-one projection of |μ|² + diag Σ (KS 1.5): few iterations, but L may grow.

    From the bare power of y nine times as many supports are lost: starts are wide.

    Args:
        A, y, options: see `em`.
        width: see `em`.
    """

    def step(p: Posterior, gammas: Gammas, kept: Kept, unknown: bool) -> tuple[Gammas, Tensor]:
        return msteps.rank_one_svd(p.second_moment), next_noise_var(p, unknown)

    return em("svd_krosbl", A, y, step, width=width, **options)


def mm_krosbl(
    A: Kronecker, y: Tensor, *, sequential: bool = False, coupling: Sequence[float] = (), **options: Any
) -> Iterator[KroneckerSblState]:
    """Square-root majorise-minimise updates (KS 1.7), with a coupling the pattern-coupled ones (KS 5.5).

    Args:
        A, y, options: see `em`.
        sequential: an E-step before each factor, so that L never increases; else all factors from one E-step.
        coupling: strength β_i in [0, 1] per factor: γ_i = u_i + β_i (neighbours of u_i), for supports that come in
            blocks; empty for none.
    """
    couplings = coupling_matrices("mm_krosbl", A, coupling)

    def at_once(p: Posterior, u: Gammas, kept: Kept, unknown: bool) -> tuple[Gammas, Tensor]:
        new = [msteps.mm_factor(u[i], *p.slopes(i), kept.couplings[i]) for i in range(len(u))]
        return msteps.normalise(new), next_noise_var(p, unknown)

    def one_by_one(p: Posterior, u: Gammas, kept: Kept, unknown: bool) -> tuple[Gammas, Tensor]:
        new = list(u)
        for i in range(len(u)):
            new[i] = msteps.mm_factor(u[i], *p.slopes(i), kept.couplings[i])
            p = p.with_factor(i, msteps.couple(new[i], kept.couplings[i]))
        return msteps.normalise(new), next_noise_var(p, unknown)

    return em("mm_krosbl", A, y, one_by_one if sequential else at_once, couplings=couplings, **options)


def pc_krosbl(
    A: Kronecker,
    y: Tensor,
    *,
    coupling: Sequence[float],
    offset: float = 1e-5,
    inner_tol: float = 1e-4,
    max_sweeps: int = 9,
    **options: Any,
) -> Iterator[KroneckerSblState]:
    """Pattern-coupled alternating minimisation, the published form with non-negative least squares (KS 1.9).

    Args:
        A, y, options: see `em`.
        coupling: strength β_i in [0, 1] per factor, 0 for none.
        offset, inner_tol, max_sweeps: see `msteps.pattern_coupled`.
    """
    couplings = coupling_matrices("pc_krosbl", A, coupling)

    def step(p: Posterior, gammas: Gammas, kept: Kept, unknown: bool) -> tuple[Gammas, Tensor]:
        mine = [None if c is None else c[ix][:, ix] for c, ix in zip(couplings, kept.index, strict=True)]
        new = msteps.pattern_coupled(p.second_moment, gammas, mine, offset=offset, tol=inner_tol, max_sweeps=max_sweeps)
        return new, next_noise_var(p, unknown)

    ones = [torch.ones(1, n, dtype=torch.float64, device=A.device) for n in A.in_shape]
    shapes = [msteps.couple(one, c)[0] for one, c in zip(ones, couplings, strict=True)]
    return em("pc_krosbl", A, y, step, shapes=shapes, **options)


def em(
    name: str,
    A: Kronecker,
    y: Tensor,
    step: Step,
    *,
    noise_var: Tensor | float | None = None,
    prune: float | Sequence[float] = PRUNE,
    prune_below: float = 0.0,
    start_var: Tensor | float | None = None,
    width: float = 1.0,
    noise_start: Tensor | float | None = None,
    noise_floor: Tensor | float | None = None,
    couplings: Sequence[Tensor | None] = (),
    shapes: Sequence[Tensor] = (),
    start: KroneckerSblState | None = None,
) -> Iterator[KroneckerSblState]:
    """Expectation maximisation for y = A x + n, x ~ CN(0, diag(γ_1 ⊗ … ⊗ γ_I)), n ~ CN(0, σ² I) (real: N).

    One iteration masks what is negligible, then an E-step, an M-step and the noise update follow; the state holds the
    posterior of the new γ. Everything is done in double precision.

    Args:
        name: of the estimator, for messages.
        A: any number of factors.
        y: (*batch, *A.out_shape).
        step: the M-step and the noise update.
        noise_var: σ², one number or (*batch,), units of |y|²; None estimates it.
        prune: mask γ_i[n] < prune · max γ_i, one number or one per factor, in [0, 1).
        prune_below: mask also γ_i[n] < prune_below, the scale being in the last factor: depends on the units of y.
        start_var: γ to start from, the same for every coefficient, one number or (*batch,); None: `width` times what
            gives A x and n together the power of y.
        width: see above, > 0; a wide start loses fewer coefficients.
        noise_start: where an unknown σ² starts, one number or (*batch,); None: 0.1 of the variance of y.
        noise_floor: what an unknown σ² does not fall below, one number or (*batch,); None: 120 dB below y.
        couplings: C_i of γ_i = C_i u_i, or None, per factor; the step and the masks then act on u_i.
        shapes: what the start is multiplied by, (N_i,) per factor; 1 if empty.
        start: a state to go on from.

    Yields:
        KroneckerSblState, endlessly.
    """
    problem = Problem.of(name, A, y, noise_var)
    floor = problem.floor
    if noise_floor is not None:
        floor = torch.maximum(floor, check_noise_var(name, noise_floor, problem.batch, y.device, key="noise_floor"))
    thresholds = check_prune(name, prune, len(A.in_shape))
    couplings = tuple(couplings) or (None,) * len(A.in_shape)
    if start is None:
        sigma2, done = first_noise_var(name, problem, noise_start), 0
        c = first_var(name, A, problem, sigma2, start_var, width)
        latent = first_gammas(A, c, shapes)
    else:
        sigma2, done = start.noise_var.reshape(-1), start.iteration
        latent = _split(start.gamma if start.latent is None else start.latent, A.in_shape)
    kept = Kept.all(A, problem, couplings)
    latent, kept, _ = kept.without_zeros(latent)
    p = kept.posterior(latent, sigma2)
    for k in itertools.count(done + 1):
        before = Before(p)
        masked = mask(latent, thresholds, prune_below)
        if any(a is not b for a, b in zip(masked, latent, strict=True)):
            latent, kept, left = kept.without_zeros(masked)
            before.keep(left)
            p = kept.posterior(latent, sigma2)
        latent, sigma2 = step(p, latent, kept, problem.noise_var is None)
        if problem.noise_var is None:
            sigma2 = torch.maximum(sigma2, floor)
        p = kept.posterior(latent, sigma2)
        yield _state(k, A, y, problem, p, before, kept, latent)


@dataclass(frozen=True)
class Kept:
    """The columns of the factors that some problem of the batch still uses; the others would be products with 0.

    Args:
        factors: A_i[:, index_i].
        y: (n, M_1, …, M_I).
        couplings: C_i[index_i, index_i], or None.
        index: columns kept of each factor, int64.
        shape: (N_1, …, N_I) of all.
        flat: where the kept entries are in a flat x; None if all are kept.
    """

    factors: tuple[Tensor, ...]
    y: Tensor
    couplings: Couplings
    index: tuple[Tensor, ...]
    shape: tuple[int, ...]
    flat: Tensor | None

    @classmethod
    def all(cls, A: Kronecker, problem: Problem, couplings: Couplings) -> Kept:
        index = tuple(torch.arange(n, device=problem.y.device) for n in A.in_shape)
        return cls(problem.factors, problem.y, couplings, index, A.in_shape, None)

    def without_zeros(self, latent: Gammas) -> tuple[Gammas, Kept, list[Tensor]]:
        """What is left of latent variances and of this, and where it was, without columns that no problem uses."""
        used = [(msteps.couple(u, c) > 0).any(dim=0) for u, c in zip(latent, self.couplings, strict=True)]
        left = [torch.nonzero(u).flatten() for u in used]
        left = [rows if len(rows) else torch.zeros_like(self.index[i][:1]) for i, rows in enumerate(left)]
        if all(len(rows) == len(ix) for rows, ix in zip(left, self.index, strict=True)):
            return latent, self, left
        index = tuple(ix[rows] for ix, rows in zip(self.index, left, strict=True))
        flat = index[0]
        for n, ix in zip(self.shape[1:], index[1:], strict=True):
            flat = (flat[:, None] * n + ix).flatten()
        narrower = Kept(
            tuple(a[..., rows] for a, rows in zip(self.factors, left, strict=True)),
            self.y,
            tuple(None if c is None else c[rows][:, rows] for c, rows in zip(self.couplings, left, strict=True)),
            index,
            self.shape,
            flat,
        )
        return tuple(u[:, rows] for u, rows in zip(latent, left, strict=True)), narrower, left

    def posterior(self, latent: Gammas, noise_var: Tensor) -> Posterior:
        gammas = [msteps.couple(u, c) for u, c in zip(latent, self.couplings, strict=True)]
        return e_step(self.factors, self.y, gammas, noise_var)

    def spread(self, x: Tensor) -> Tensor:
        """(n, kept entries of each axis) -> (n, N_1 … N_I), 0 elsewhere."""
        if self.flat is None:
            return x.flatten(1)
        return x.new_zeros(len(x), math.prod(self.shape)).index_copy_(1, self.flat, x.flatten(1))

    def side_by_side(self, vectors: Gammas) -> Tensor:
        """(n, kept) of each factor -> (n, ΣN_i), 0 elsewhere."""
        if self.flat is None:
            return torch.cat(vectors, dim=1)
        return torch.cat(
            [
                v.new_zeros(len(v), n).index_copy_(1, ix, v)
                for v, n, ix in zip(vectors, self.shape, self.index, strict=True)
            ],
            dim=1,
        )


class Before:
    """What the changes of an iteration are measured against: |μ|, γ and L of the posterior before it."""

    def __init__(self, p: Posterior) -> None:
        self.values = [p.power.sqrt(), outer(p.gammas)]
        self.sizes = [v.flatten(1).square().sum(dim=1) for v in self.values]
        self.dropped = [torch.zeros_like(s) for s in self.sizes]
        self.cost = p.cost

    def keep(self, left: Sequence[Tensor]) -> None:
        """Only some of each axis; the others have become 0, and that is a change."""
        for axis, rows in enumerate(left, 1):
            self.values = [v.index_select(axis, rows) for v in self.values]
        remain = [v.flatten(1).square().sum(dim=1) for v in self.values]
        self.dropped = [(s - r).clamp_min(0) for s, r in zip(self.sizes, remain, strict=True)]

    def changes(self, p: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        """Relative changes of |μ| and of γ, and |ΔL| / M, (n,) each."""
        relative = []
        for now, old, size, dropped in zip(
            (p.power.sqrt(), outer(p.gammas)), self.values, self.sizes, self.dropped, strict=True
        ):
            change = (now - old).flatten(1).square().sum(dim=1) + dropped
            relative.append(torch.where(change > 0, (change / size).sqrt(), 0.0))
        return relative[0], relative[1], (p.cost - self.cost).abs() / math.prod(p.y.shape[1:])


def next_noise_var(p: Posterior, unknown: bool) -> Tensor:
    """σ² of the next iteration: the EM update of an unknown one."""
    return p.noise_var_next if unknown else p.noise_var


def mask(gammas: Gammas, thresholds: Sequence[float], below: float) -> Gammas:
    """Zeros where γ_i is below its threshold, relative to the factor's largest or absolute; nothing comes back."""
    kept = []
    for g, threshold in zip(gammas, thresholds, strict=True):
        negligible = (g > 0) & ((g < threshold * g.amax(dim=1, keepdim=True)) | (g < below))
        kept.append(g.masked_fill(negligible, 0.0) if bool(negligible.any()) else g)
    return tuple(kept)


def first_noise_var(name: str, problem: Problem, noise_start: Tensor | float | None) -> Tensor:
    """σ² of the first E-step, (n,)."""
    if problem.noise_var is not None:
        return problem.noise_var
    if noise_start is None:
        return problem.noise_start
    return check_noise_var(name, noise_start, problem.batch, problem.y.device, key="noise_start")


def first_var(
    name: str,
    A: Kronecker,
    problem: Problem,
    noise_var: Tensor,
    start_var: Tensor | float | None,
    width: float = 1.0,
) -> Tensor:
    """c of γ = c 1, (n,): `width` max(mean |y|² - σ², 1 % of mean |y|²) M / Σ_n ‖h_n‖² (KS 5.4), or what is given."""
    if not (width > 0 and math.isfinite(width)):
        raise ValueError(f"{name} width: expected a finite number > 0, got {width}")
    if start_var is not None:
        return check_noise_var(name, start_var, problem.batch, problem.y.device, key="start_var")
    power = mean_power(problem.y)
    signal = torch.maximum(power - noise_var, SMALLEST_SHARE * power)
    columns = torch.ones_like(power)
    for a in problem.factors:
        columns = columns * torch.linalg.matrix_norm(a).square()
    c = width * signal * math.prod(A.out_shape) / columns
    return torch.where(power > 0, c, 1.0)  # of a measurement that is 0 any start gives x = 0


def first_gammas(A: Kronecker, c: Tensor, shapes: Sequence[Tensor] = ()) -> Gammas:
    """γ = c (s_1 ⊗ … ⊗ s_I), c (n,)."""
    rows = tuple(shapes) or tuple(c.new_ones(n) for n in A.in_shape)
    gammas = [row.expand(len(c), -1) for row in rows]
    return msteps.normalise([*gammas[:-1], gammas[-1] * c[:, None]])


def check_prune(name: str, prune: float | Sequence[float], n_factor: int) -> tuple[float, ...]:
    """One threshold per factor."""
    values = (prune,) * n_factor if isinstance(prune, int | float) else tuple(prune)
    if len(values) != n_factor or not all(0 <= v < 1 for v in values):
        raise ValueError(f"{name} prune: expected one number or {n_factor}, each in [0, 1), got {prune}")
    return values


def coupling_matrices(name: str, A: Kronecker, coupling: Sequence[float]) -> tuple[Tensor | None, ...]:
    """C_i per factor, None where the strength is 0."""
    strengths = tuple(coupling) or (0.0,) * len(A.in_shape)
    if len(strengths) != len(A.in_shape) or not all(0 <= s <= 1 for s in strengths):
        raise ValueError(
            f"{name} coupling: expected {len(A.in_shape)} strengths in [0, 1], one per factor, got {tuple(coupling)}"
        )
    return tuple(
        msteps.coupling_matrix(n, s, device=A.device) if s > 0 else None
        for n, s in zip(A.in_shape, strengths, strict=True)
    )


def _split(side_by_side: Tensor, lengths: Sequence[int]) -> Gammas:
    return side_by_side.reshape(-1, sum(lengths)).split(list(lengths), dim=1)


def _state(
    k: int, A: Kronecker, y: Tensor, problem: Problem, p: Posterior, before: Before, kept: Kept, latent: Gammas
) -> KroneckerSblState:
    batch = problem.batch
    of_mean, of_gamma, of_cost = before.changes(p)
    coupled = any(c is not None for c in kept.couplings)
    return KroneckerSblState(
        iteration=k,
        x=kept.spread(p.mean).to(y.dtype).reshape(*batch, *A.in_shape),
        primal=of_gamma.reshape(batch),
        dual=of_cost.reshape(batch),
        relative_change=of_mean.reshape(batch),
        data_fidelity=p.residual.sqrt().reshape(batch),
        objective=p.cost.reshape(batch),
        variance=kept.spread(p.variance).reshape(*batch, *A.in_shape),
        gamma=kept.side_by_side(p.gammas).reshape(*batch, -1),
        noise_var=p.noise_var.reshape(batch),
        latent=kept.side_by_side(latent).reshape(*batch, -1) if coupled else None,
    )
