"""Greedy pursuit: orthogonal matching pursuit, atom by atom, and with Kronecker supports."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.operators.kronecker import Kronecker, mode_products
from imaging.sbl._problem import Problem, abs2
from imaging.sbl.least_squares import masked_pinv
from imaging.sbl.state import relative_change
from imaging.solvers.state import State


@dataclass(frozen=True, kw_only=True)
class GreedyState(State):
    """The least-squares fit on the atoms chosen so far; `primal` is ‖y - A x‖ / ‖y‖, `dual` its change.

    Args:
        chosen: bool, (*batch, *A.in_shape) of `omp`, (*batch, ΣN_i) of `komp`, the factors side by side.
        finished: nothing more is to be added, bool (*batch,).
    """

    chosen: Tensor
    finished: Tensor


def finished(state: GreedyState) -> Tensor:
    """Stop a problem that has reached its residual or its number of atoms."""
    return state.finished


def omp(
    A: Kronecker,
    y: Tensor,
    *,
    noise_var: Tensor | float | None = None,
    residual: Tensor | float | None = None,
    max_atoms: int = 50,
    normalise: bool = True,
    start: GreedyState | None = None,
) -> Iterator[GreedyState]:
    """Orthogonal matching pursuit: each iteration adds the atom of the largest correlation and fits all again.

    Args:
        A: any number of factors.
        y: (*batch, *A.out_shape).
        noise_var: σ²; a problem is finished when ‖y - A x‖ <= sqrt(σ² M).
        residual: or, without a noise variance, when ‖y - A x‖ <= residual ‖y‖; None adds max_atoms.
        max_atoms: most atoms, >= 1; never more than measurements.
        normalise: correlate with atoms of unit norm; the synthetic experiment of KS 1.10 does not.
        start: a state to go on from.

    Yields:
        GreedyState, endlessly: a finished problem stays as it is.

    Source: Pati, Rezaiifar, Krishnaprasad (1993), Orthogonal matching pursuit.
    """
    if max_atoms < 1:
        raise ValueError(f"omp max_atoms: expected >= 1, got {max_atoms}")
    problem = Problem.of("omp", A, y, 1.0 if noise_var is None else noise_var)
    n, m = len(problem.y), math.prod(A.out_shape)
    size = problem.y.flatten(1).norm(dim=1)
    goal = _goal(problem, size, noise_var, residual)
    adjoint = [a.mH for a in problem.factors]
    length = _atom_norms(problem) if normalise else torch.ones(1, *A.in_shape, dtype=torch.float64, device=y.device)
    limit = min(max_atoms, m)
    if start is None:
        chosen, done = torch.zeros(n, *A.in_shape, dtype=torch.bool, device=y.device), 0
    else:
        chosen, done = start.chosen.reshape(n, *A.in_shape), start.iteration
    x, rest = _fit(problem, chosen)
    left = rest.flatten(1).norm(dim=1)
    for k in itertools.count(done + 1):
        before, left_before = x, left
        count = chosen.flatten(1).sum(dim=1)
        correlation = mode_products(rest, adjoint).abs() / length
        correlation = correlation.masked_fill(chosen | (length == 0), -1.0).flatten(1)
        best = correlation.argmax(dim=1)
        adds = (left > goal) & (count < limit) & (correlation.amax(dim=1) > 0)
        if bool(adds.any()):
            chosen = chosen.clone()
            chosen.flatten(1)[adds, best[adds]] = True
            x, rest = _fit(problem, chosen)
            left = rest.flatten(1).norm(dim=1)
        over = (left <= goal) | (chosen.flatten(1).sum(dim=1) >= limit) | ~adds
        yield _state(k, A, y, problem, x, before, left, left_before, size, chosen, over)


def komp(
    A: Kronecker,
    y: Tensor,
    *,
    residual: float = 1e-2,
    max_per_factor: int = 10,
    start: GreedyState | None = None,
) -> Iterator[GreedyState]:
    """Kronecker OMP: each iteration adds the indices of the largest correlation to the supports of the factors.

    Args:
        A: any number of factors; atoms are not normalised.
        y: (*batch, *A.out_shape).
        residual: a problem is finished when ‖y - A x‖ <= residual ‖y‖.
        max_per_factor: most indices of a factor, >= 1.
        start: a state to go on from.

    Yields:
        GreedyState, endlessly: a finished problem stays as it is.

    Source: Caiafa, Cichocki (2013), Computing sparse representations of multidimensional signals using Kronecker
        bases; KS 1.10.
    """
    if max_per_factor < 1:
        raise ValueError(f"komp max_per_factor: expected >= 1, got {max_per_factor}")
    problem = Problem.of("komp", A, y, 1.0)
    n = len(problem.y)
    size = problem.y.flatten(1).norm(dim=1)
    goal = _goal(problem, size, None, residual)
    adjoint = [a.mH for a in problem.factors]
    if start is None:
        masks, done = [torch.zeros(n, k, dtype=torch.bool, device=y.device) for k in A.in_shape], 0
    else:
        masks = [m.clone() for m in start.chosen.reshape(n, -1).split(list(A.in_shape), dim=1)]
        done = start.iteration
    x, rest = _kronecker_fit(problem, masks)
    left = rest.flatten(1).norm(dim=1)
    problems = torch.arange(n, device=y.device)
    for k in itertools.count(done + 1):
        before, left_before = x, left
        correlation = mode_products(rest, adjoint).abs()
        best = torch.unravel_index(correlation.flatten(1).argmax(dim=1), A.in_shape)
        grows = torch.zeros(n, dtype=torch.bool, device=y.device)
        new = []
        for mask, index in zip(masks, best, strict=True):
            adds = (left > goal) & ~mask[problems, index] & (mask.sum(dim=1) < max_per_factor)
            wider = mask.clone()
            wider[problems[adds], index[adds]] = True
            new.append(wider)
            grows |= adds
        if bool(grows.any()):
            masks = new
            x, rest = _kronecker_fit(problem, masks)
            left = rest.flatten(1).norm(dim=1)
        full = torch.stack([mask.sum(dim=1) >= min(max_per_factor, mask.shape[1]) for mask in masks]).all(dim=0)
        over = (left <= goal) | full | ~grows
        yield _state(k, A, y, problem, x, before, left, left_before, size, torch.cat(masks, dim=1), over)


def _goal(problem: Problem, size: Tensor, noise_var: Tensor | float | None, residual: Tensor | float | None) -> Tensor:
    if noise_var is not None:
        assert problem.noise_var is not None
        return (problem.noise_var * math.prod(problem.y.shape[1:])).sqrt()
    if residual is None:
        return torch.zeros_like(size)
    share = torch.as_tensor(residual, dtype=torch.float64, device=size.device)
    if not bool(((share >= 0) & (share < 1)).all()):
        raise ValueError(f"omp residual: expected a share of ‖y‖ in [0, 1), got {residual}")
    return share.expand(problem.batch).reshape(-1) * size if share.ndim else share * size


def _atom_norms(problem: Problem) -> Tensor:
    from imaging.operators.kronecker import outer

    lengths = [a.norm(dim=-2) for a in problem.factors]
    return outer([v.reshape(-1, v.shape[-1]) for v in lengths])


def _fit(problem: Problem, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """x and y - A x of the least squares on the atoms chosen, each problem by its own."""
    y, flat = problem.y, chosen.flatten(1)
    x = torch.zeros(chosen.shape, dtype=y.dtype, device=y.device)
    rest = y.clone()
    for i in range(len(y)):
        index = torch.nonzero(flat[i]).flatten()
        if len(index) == 0:
            continue
        where = torch.unravel_index(index, chosen.shape[1:])
        atoms = torch.ones(1, len(index), dtype=y.dtype, device=y.device)
        for a, columns in zip(problem.factors, where, strict=True):
            mine = (a if a.ndim == 2 else a[i])[:, columns]
            atoms = (atoms.unsqueeze(1) * mine).flatten(0, 1)
        value = torch.linalg.pinv(atoms) @ y[i].flatten()
        x[i].view(-1)[index] = value
        rest[i] = y[i] - (atoms @ value).reshape(y.shape[1:])
    return x, rest


def _kronecker_fit(problem: Problem, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
    x = mode_products(problem.y, [masked_pinv(a, mask) for a, mask in zip(problem.factors, masks, strict=True)])
    return x, problem.y - mode_products(x, problem.factors)


def _state(
    k: int,
    A: Kronecker,
    y: Tensor,
    problem: Problem,
    x: Tensor,
    before: Tensor,
    left: Tensor,
    left_before: Tensor,
    size: Tensor,
    chosen: Tensor,
    over: Tensor,
) -> GreedyState:
    batch = problem.batch
    share, share_before = (torch.where(size > 0, v / size, 0.0) for v in (left, left_before))
    return GreedyState(
        iteration=k,
        x=x.to(y.dtype).reshape(*batch, *A.in_shape),
        primal=share.reshape(batch),
        dual=(share_before - share).reshape(batch),
        relative_change=relative_change(x.abs(), before.abs()).nan_to_num(posinf=1.0).reshape(batch),
        data_fidelity=left.reshape(batch),
        objective=abs2(left).reshape(batch),
        chosen=chosen.reshape(*batch, *chosen.shape[1:]),
        finished=over.reshape(batch),
    )
