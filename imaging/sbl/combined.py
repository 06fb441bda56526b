"""Two estimators one after the other, and a last look at the rank: what measures best on channels and synthetic data.

Rank-one projections (`svd_krosbl`) find the right supports of rank-one signals more often than majorise-minimise
steps, which in turn go on where a signal is not of rank one, and lower L. So the first iterations are of the one, all
others of the other. Our own combination; the parts are of KS 1.5, 1.7 and 5.5.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from imaging.operators.kronecker import Kronecker, outer
from imaging.sbl._problem import Problem, abs2
from imaging.sbl.decomposed import RANK_ONE_SLACK, decompose, rank_one_excess, rank_one_noise_var, rank_one_polish
from imaging.sbl.kronecker import PRUNE, WIDTH, mm_krosbl, svd_krosbl
from imaging.sbl.state import KroneckerSblState, SblState

#: Iterations of rank-one projections: enough for supports to settle.
FIRST = 30
#: Change of L per measurement at which the second phase has settled; 1e-6 takes a third more iterations to the same
#: errors.
SETTLED = 1e-5


def svd_mm_krosbl(
    A: Kronecker,
    y: Tensor,
    *,
    first: int = FIRST,
    coupling: Sequence[float] = (),
    noise_var: Tensor | float | None = None,
    prune: float | Sequence[float] = PRUNE,
    width: float = WIDTH,
    start: KroneckerSblState | None = None,
) -> Iterator[KroneckerSblState]:
    """`first` iterations of `svd_krosbl`, then `mm_krosbl`, from a wide start.

    L falls from iteration `first` on but for rounding; stop with `settled`. Maximum likelihood takes some noise for
    signal: where y can be of rank one, an unknown σ² does not fall below what the best rank-one approximation leaves.

    Args:
        A, y, noise_var, prune: see `em`.
        first: iterations of rank-one projections, >= 0.
        coupling: of `mm_krosbl`.
        width: see `em`.
        start: a state to go on from, of either phase.

    Yields:
        KroneckerSblState, endlessly.
    """
    options: dict[str, Any] = {"noise_var": noise_var, "prune": prune, "width": width}
    if noise_var is None:
        problem = Problem.of("svd_mm_krosbl", A, y)
        floor = torch.maximum(rank_one_noise_var(problem.y), problem.floor)
        options["noise_floor"] = floor.reshape(problem.batch)
    done = 0 if start is None else start.iteration
    if done < first:
        for state in itertools.islice(svd_krosbl(A, y, start=start, **options), first - done):
            yield state
            start = state
    yield from mm_krosbl(A, y, coupling=coupling, start=start, **options)


def settled(tol: float = SETTLED, first: int = FIRST) -> Callable[[SblState], Tensor]:
    """Stop once L changes by less than tol per measurement, in the second phase of `svd_mm_krosbl`."""

    def rule(state: SblState) -> Tensor:
        return (state.dual < tol) & (state.iteration > first)

    return rule


def polish(
    A: Kronecker, y: Tensor, state: KroneckerSblState, *, check: bool = True
) -> tuple[KroneckerSblState, Tensor]:
    """Rank-one least squares on the support of an estimate, where the measurement can be of rank one.

    A column of a factor belongs to the support when the coefficients of its slice have more power than their posterior
    variance. With `check` an estimate stays as it is unless y can be of rank one (`rank_one_excess`), and what the
    polished one leaves is no more than noise.

    Args:
        A: any number of factors.
        y: (*batch, *A.out_shape).
        state: of y.
        check: see above; else every problem is polished.

    Returns:
        The state with another x and `data_fidelity`, its variances as they were, and which problems were polished,
        bool (*batch,).

    Source: KS 5.5, with a support that follows the noise.
    """
    problem = Problem.of("polish", A, y, 1.0)
    n, m, rank = len(problem.y), math.prod(A.out_shape), len(A.in_shape)
    x, variance = state.x.reshape(n, *A.in_shape), state.variance.reshape(n, *A.in_shape)
    power, masks = abs2(x), []
    for i in range(1, rank + 1):
        others = [k for k in range(1, rank + 1) if k != i]
        signal, spread = (v.sum(others) if others else v for v in (power, variance))
        masks.append((signal > spread) | (signal == signal.amax(-1, keepdim=True)))
    better, _ = rank_one_polish(A.select(torch.arange(n)), y.reshape(n, *A.out_shape), masks)
    left = (problem.y - A(better)).flatten(1).norm(dim=1).to(torch.float64)
    was, noise = state.data_fidelity.reshape(n), state.noise_var.reshape(n)
    chosen = torch.ones(n, dtype=torch.bool, device=y.device)
    if check:
        chosen = rank_one_excess(problem.y, outer(decompose(problem.y))) <= RANK_ONE_SLACK
        chosen &= left.square() <= torch.maximum(was.square(), noise * (m + 3 * math.sqrt(m)))
    x = torch.where(chosen.reshape(-1, *(1,) * rank), better, x)
    polished = dataclasses.replace(
        state,
        x=x.reshape(state.x.shape),
        data_fidelity=torch.where(chosen, left, was).reshape(state.data_fidelity.shape),
    )
    return polished, chosen.reshape(state.noise_var.shape)
