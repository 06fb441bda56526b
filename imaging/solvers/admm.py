"""ADMM for an unconstrained data term."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.base import LinearOperator
from imaging.priors.protocols import Prior, noise_level, prox, value
from imaging.solvers._batch import gap, magnitude_change, norm, over, ratio, wide
from imaging.solvers.balance import balanced_penalty
from imaging.solvers.linear import SolverCache
from imaging.solvers.state import State


@dataclass(frozen=True, kw_only=True)
class AdmmState(State):
    """State of `admm`; `objective` is ½‖A x - y‖² + r(z).

    Args:
        z: the split on which the prior acts, (*batch, *A.in_shape).
        u: its scaled dual.
    """

    z: Tensor
    u: Tensor


def admm(
    A: LinearOperator,
    y: Tensor,
    prior: Prior,
    *,
    rho: float,
    x0: Tensor | None = None,
    start: AdmmState | None = None,
    balance: bool = False,
    solvers: SolverCache | None = None,
) -> Iterator[AdmmState]:
    """Minimise ½‖A x - y‖² + r(x) with the split x = z.

    Args:
        A: any LinearOperator; it chooses how (AᴴA + rho I) is solved.
        y: measurements, (*batch, *A.out_shape).
        prior: acts on z with step 1 / rho.
        rho: penalty, > 0, units of A squared. For convex r it sets the speed only; for a denoiser 1 / rho is
            the noise variance, so that it is part of the model.
        x0: start of z, (*batch, *A.in_shape); zero if None.
        start: a state to go on from instead; 10 iterations and 10 more equal 20.
        balance: every few iterations, double or halve rho of a problem whose relative residuals differ by
            more than ten times (u rescaled).
        solvers: shares set-up solves between runs.

    Yields:
        AdmmState, endlessly.

    Source: Boyd et al. (2011), (3.5)-(3.7) and 3.4.1, complex variables as pairs of reals.
    """
    rank = len(A.out_shape)
    if y.ndim < rank or tuple(y.shape[y.ndim - rank :]) != A.out_shape:
        wanted = ", ".join(str(n) for n in A.out_shape)
        raise ShapeError(f"admm y: expected (..., {wanted}) as {type(A).__name__} gives, got {tuple(y.shape)}")
    if not rho > 0:
        raise ValueError(f"admm rho: expected > 0, got {rho}; 0.158 * A.mean_eigenvalue() is a good start")
    batch_ndim = y.ndim - rank
    batch = y.shape[:batch_ndim]
    cache = SolverCache(A) if solvers is None else solvers
    memory: Tensor | None
    if start is None:
        z = y.new_zeros(*batch, *A.in_shape) if x0 is None else x0
        x, u = z, torch.zeros_like(z)
        penalty = torch.full(batch, rho, dtype=wide(y.device), device=y.device)
        memory, done = None, 0
    else:
        x, z, u, memory, done = start.x, start.z, start.u, start.memory, start.iteration
        assert start.rho is not None  # admm always sets it
        penalty = start.rho

    for k in itertools.count(done + 1):
        x_old, z_old = x, z
        x, Ax = cache.prox(penalty, z - u, y, x)  # (3.5)
        z, memory = _prox_each(prior, x + u, 1 / penalty, memory)  # (3.6)
        u = u + x - z  # (3.7)
        primal, dual = gap(x, z, batch_ndim), gap(z_old, z, batch_ndim)
        fidelity = norm(Ax - y, batch_ndim)
        r = value(prior, z)
        if r is not None and r.ndim > batch_ndim:  # a movie is one problem of many images
            r = r.flatten(batch_ndim).sum(-1)
        sigma = noise_level(prior, 1 / float(penalty.reshape(-1)[0]))
        if balance:
            dual_rel = ratio(norm(z - z_old, batch_ndim), norm(u, batch_ndim))
            changed = balanced_penalty(penalty, primal, dual_rel, k, rho)
            u = over(penalty / changed, u) * u  # the unscaled dual rho u stays
            penalty = changed
        yield AdmmState(
            iteration=k,
            x=x,
            primal=primal,
            dual=dual,
            relative_change=magnitude_change(x, x_old, batch_ndim),
            data_fidelity=fidelity,
            objective=None if r is None else 0.5 * fidelity**2 + r,
            rho=penalty,
            sigma=sigma,
            memory=memory,
            z=z,
            u=u,
        )


def _prox_each(prior: Prior, v: Tensor, steps: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`prox` with one step per problem, (*batch,); few different ones occur."""
    values = torch.unique(steps).tolist()
    if len(values) == 1:
        return prox(prior, v, values[0], memory)
    result, kept = torch.empty_like(v), None
    for step in values:
        mine = steps == step
        result[mine], part = prox(prior, v[mine], step, None if memory is None else memory[mine])
        if part is not None:
            kept = part.new_empty(*steps.shape, *part.shape[1:]) if kept is None else kept
            kept[mine] = part
    return result, kept
