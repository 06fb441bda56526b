"""C-SALSA: minimise r(x) subject to ‖A x - y‖ <= epsilon, with two splits or one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.base import LinearOperator
from imaging.priors.protocols import Prior, noise_level, prox, value
from imaging.solvers._batch import dot, gap, magnitude_change, norm, over, ratio, wide
from imaging.solvers.balance import balanced_penalty
from imaging.solvers.linear import SolverCache
from imaging.solvers.protocols import EllipsoidProjector
from imaging.solvers.state import State

Schedule = float | Sequence[float] | Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class CsalsaState(State):
    """State of `csalsa`; x is s of NF 5.1, primal and dual are the larger ones of the two splits.

    Args:
        v1: the split on which the prior acts, (*batch, *A.in_shape); `objective` is r(v1).
        v2: the split inside the data ball, (*batch, *A.out_shape).
        d1, d2: scaled duals of v1 and v2.
    """

    v1: Tensor
    v2: Tensor
    d1: Tensor
    d2: Tensor


@dataclass(frozen=True, kw_only=True)
class ProjectedState(State):
    """State of `csalsa_projected`; x fits the data to within epsilon at every iteration.

    Args:
        v1: the split on which the prior acts, (*batch, *A.in_shape); `objective` is r(v1).
        d1: its scaled dual.
        mu: multiplier of the projection, (*batch,), float64; inf where the constraint was inactive.
    """

    v1: Tensor
    d1: Tensor
    mu: Tensor


def starting_image(A: LinearOperator, y: Tensor) -> Tensor:
    """γ Aᴴy with γ = ⟨A Aᴴy, y⟩ / ‖A Aᴴy‖²: the multiple of Aᴴy that fits y best, scaling like y.

    Args:
        y: (*batch, *A.out_shape).

    Returns:
        (*batch, *A.in_shape); zero for a zero measurement. Source: NF 5.7.
    """
    batch_ndim = _batch_ndim(A, y)
    aty = A.adjoint(y)
    aaty = A(aty)
    gain = ratio(dot(aaty, y, batch_ndim), norm(aaty, batch_ndim) ** 2)
    return over(gain, aty) * aty


def csalsa(
    A: LinearOperator,
    y: Tensor,
    prior: Prior,
    *,
    epsilon: Tensor | float,
    kappa: float,
    alpha: Schedule,
    x0: Tensor | None = None,
    start: CsalsaState | None = None,
    balance: bool = False,
    solvers: SolverCache | None = None,
) -> Iterator[CsalsaState]:
    """Minimise r(s) subject to ‖A s - y‖ <= epsilon with the splits v1 = s, v2 = A s.

    The first iteration returns s = x0 unchanged (NF 5.1). For convex r the limit depends on neither kappa nor
    alpha; for a denoiser alpha is the strength of the prior (noise variance). For priors on the magnitude
    that are not convex in s, total variation above all, stop early: see `TotalVariation`.

    Args:
        A: any LinearOperator; it chooses how (kappa I + AᴴA) is solved.
        y: measurements, (*batch, *A.out_shape).
        prior: acts on v1 with step alpha.
        epsilon: radius of the data ball, units of y, > = 0; one number or (*batch,).
        kappa: mu1 / mu2, units of A squared, > 0; 0.158 ‖A‖_F² / M suits near-field radar (NF 2.5).
        alpha: weight of r over mu1, > 0: a number, a sequence (its last entry holds on), or a function of the
            iteration 1, 2, ...
        x0: starting image, (*batch, *A.in_shape); None takes `starting_image(A, y)`.
        start: a state to go on from instead; 10 iterations and 10 more equal 20.
        balance: every few iterations, double or halve kappa of a problem whose data split has one relative
            residual ten times the other (d2 rescaled); alpha stays, it belongs to the prior.
        solvers: shares set-up solves between runs.

    Yields:
        CsalsaState, endlessly.

    Source: Afonso, Bioucas-Dias, Figueiredo (2011), C-SALSA, in the scaling and signs of NF (4.2)-(4.5).
        Penalty
        balance: Boyd et al. (2011) 3.4.1 with the relative residuals of Wohlberg (2017).
    """
    batch_ndim = _batch_ndim(A, y)
    batch = y.shape[:batch_ndim]
    radius = _radius(epsilon, y, batch)
    schedule = _schedule(alpha)
    if not kappa > 0:
        raise ValueError(f"csalsa kappa: expected > 0, got {kappa}; 0.158 * A.mean_eigenvalue() is a good start")
    cache = SolverCache(A) if solvers is None else solvers

    if start is None:
        s = starting_image(A, y) if x0 is None else x0
        v1, v2 = s, A(s)
        d1, d2 = torch.zeros_like(v1), torch.zeros_like(v2)
        rho = torch.full(batch, kappa, dtype=wide(y.device), device=y.device)
        memory, done = None, 0
    else:
        s, v1, v2, d1, d2 = start.x, start.v1, start.v2, start.d1, start.d2
        assert start.rho is not None  # csalsa always sets it
        rho, memory, done = start.rho, start.memory, start.iteration

    for k in itertools.count(done + 1):
        step = schedule(k)
        s_old, v1_old, v2_old = s, v1, v2
        s, As = cache.prox(rho, v1 + d1, v2 + d2, s)  # (4.2)
        v1, memory = prox(prior, s - d1, step, memory)  # (4.3)
        v2 = y + _ball(As - d2 - y, radius, batch_ndim)  # (4.4)
        d1 = d1 - (s - v1)  # (4.5)
        d2 = d2 - (As - v2)
        primal2 = gap(As, v2, batch_ndim)
        if balance:
            dual2 = ratio(norm(v2 - v2_old, batch_ndim), norm(d2, batch_ndim))
            weaker = balanced_penalty(1 / rho, primal2, dual2, k, 1 / kappa)  # 1 / kappa is the weight of v2 = A s
            d2 = over(1 / (rho * weaker), d2) * d2  # the unscaled dual stays
            rho = 1 / weaker
        yield CsalsaState(
            iteration=k,
            x=s,
            primal=torch.maximum(gap(s, v1, batch_ndim), primal2),
            dual=torch.maximum(gap(v1_old, v1, batch_ndim), gap(v2_old, v2, batch_ndim)),
            relative_change=magnitude_change(s, s_old, batch_ndim),
            data_fidelity=norm(As - y, batch_ndim),
            objective=value(prior, v1),
            rho=rho,
            sigma=noise_level(prior, step),
            memory=memory,
            v1=v1,
            v2=v2,
            d1=d1,
            d2=d2,
        )


def csalsa_projected(
    A: LinearOperator,
    y: Tensor,
    prior: Prior,
    *,
    epsilon: Tensor | float,
    alpha: Schedule,
    x0: Tensor | None = None,
    start: ProjectedState | None = None,
    projector: EllipsoidProjector | None = None,
) -> Iterator[ProjectedState]:
    """Minimise r(s) subject to ‖A s - y‖ <= epsilon with the split v1 = s alone and no kappa.

    The data step projects on the ellipsoid, so that every iterate fits the data to within epsilon (where
    epsilon can be reached at all; else mu is the smallest tried and data_fidelity tells).

    Args:
        A: any LinearOperator; it chooses the projector.
        y: measurements, (*batch, *A.out_shape).
        prior: acts on v1 with step alpha.
        epsilon: radius, units of y, >= 0; one number or (*batch,).
        alpha: as in `csalsa`.
        x0: starting image, (*batch, *A.in_shape); None takes `starting_image(A, y)`.
        start: a state to go on from instead; 10 iterations and 10 more equal 20.
        projector: shares a set-up projection between runs; None takes `A.ellipsoid_projector()`.

    Yields:
        ProjectedState, endlessly.

    Source: NF 5.5; ADMM with one split (Boyd et al. 2011, section 5).
    """
    batch_ndim = _batch_ndim(A, y)
    radius = _radius(epsilon, y, y.shape[:batch_ndim])
    schedule = _schedule(alpha)
    project = A.ellipsoid_projector() if projector is None else projector

    mu: Tensor | None
    if start is None:
        s = starting_image(A, y) if x0 is None else x0
        v1, d1 = s, torch.zeros_like(s)
        mu, memory, done = None, None, 0
    else:
        s, v1, d1, mu = start.x, start.v1, start.d1, start.mu
        memory, done = start.memory, start.iteration

    for k in itertools.count(done + 1):
        step = schedule(k)
        s_old, v1_old = s, v1
        s, As, mu = project(v1 + d1, y, radius, mu)  # NF (5.2)
        v1, memory = prox(prior, s - d1, step, memory)  # (4.3)
        d1 = d1 - (s - v1)  # (4.5)
        yield ProjectedState(
            iteration=k,
            x=s,
            primal=gap(s, v1, batch_ndim),
            dual=gap(v1_old, v1, batch_ndim),
            relative_change=magnitude_change(s, s_old, batch_ndim),
            data_fidelity=norm(As - y, batch_ndim),
            objective=value(prior, v1),
            sigma=noise_level(prior, step),
            memory=memory,
            v1=v1,
            d1=d1,
            mu=mu,
        )


def _ball(u: Tensor, radius: Tensor, batch_ndim: int) -> Tensor:
    """u min(1, radius / ‖u‖) per problem."""
    return over(ratio(radius, norm(u, batch_ndim)).clamp_max(1.0), u) * u


def _batch_ndim(A: LinearOperator, y: Tensor) -> int:
    rank = len(A.out_shape)
    if y.ndim < rank or tuple(y.shape[y.ndim - rank :]) != A.out_shape:
        wanted = ", ".join(str(n) for n in A.out_shape)
        raise ShapeError(f"C-SALSA y: expected (..., {wanted}) as {type(A).__name__} gives, got {tuple(y.shape)}")
    return y.ndim - rank


def _radius(epsilon: Tensor | float, y: Tensor, batch: torch.Size) -> Tensor:
    radius = torch.as_tensor(epsilon, dtype=wide(y.device), device=y.device)
    if radius.ndim > 0 and radius.shape != batch:
        raise ShapeError(f"C-SALSA epsilon: expected one number or shape {tuple(batch)}, got {tuple(radius.shape)}")
    if not bool((radius >= 0).all()):
        raise ValueError(f"C-SALSA epsilon: expected >= 0, got {float(radius.min())}; it is noise std * sqrt(M)")
    return radius.expand(batch)


def _schedule(alpha: Schedule) -> Callable[[int], float]:
    if callable(alpha):
        return alpha
    values = (float(alpha),) if isinstance(alpha, int | float) else tuple(float(a) for a in alpha)
    if not values or not all(a > 0 for a in values):
        raise ValueError(f"C-SALSA alpha: expected numbers > 0, got {alpha}")
    return lambda k: values[min(k, len(values)) - 1]
