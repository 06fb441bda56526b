"""Estimates of a whole batch, every problem stopping by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from imaging.operators.kronecker import Kronecker
from imaging.sbl import kronecker
from imaging.sbl._problem import check_data, check_noise_var
from imaging.sbl.greedy import GreedyState, finished
from imaging.sbl.state import SblState, evidence_change_below
from imaging.solvers.run import Outcome, run_batch
from imaging.solvers.state import State

#: Change of L per measurement at which a problem counts as converged.
TOLERANCE = 1e-6
MAX_ITERATIONS = 300

Solver = Callable[..., Iterator[Any]]
METHODS: Mapping[str, Solver] = {
    "krosbl-am": kronecker.am_krosbl,
    "krosbl-svd": kronecker.svd_krosbl,
    "krosbl-mm": kronecker.mm_krosbl,
    "pckrosbl": kronecker.pc_krosbl,
    "ksbl": kronecker.ksbl,
}
PER_PROBLEM = ("noise_var", "noise_start", "start_var", "residual")


def estimate(
    A: Kronecker,
    y: Tensor,
    solver: Solver,
    *,
    stop: Callable[[Any], Tensor | bool] | None = None,
    max_iter: int = MAX_ITERATIONS,
    **options: Any,
) -> tuple[Any, list[Outcome], Tensor]:
    """Run an estimator on a batch; a problem that has stopped costs nothing any more.

    Args:
        A: any number of factors, shared or one per problem.
        y: (*batch, *A.out_shape).
        solver: a generator of states such as `mm_krosbl` or `omp`.
        stop: rule per problem; None: L changes by less than 1e-6 per measurement, or nothing more is to be added to
            what a greedy solver has chosen.
        max_iter: iterations at most.
        options: of the solver; `noise_var`, `noise_start`, `start_var` and `residual` may be tensors (*batch,).

    Returns:
        The final state with the batch axes of y; the outcome of each problem and its iterations, (n,), in row-major
        order of the batch.
    """
    name = getattr(solver, "__name__", "estimate")
    check_data(name, A, y)
    batch = tuple(y.shape[: y.ndim - len(A.out_shape)])
    n = math.prod(batch)
    flat = y.reshape(n, *A.out_shape)
    own = {
        key: check_noise_var(name, options.pop(key), batch, y.device, key=key)
        for key in PER_PROBLEM
        if options.get(key) is not None
    }

    def solve(index: Tensor, start: State | None) -> Iterator[Any]:
        mine = {key: value[index.to(value.device)] for key, value in own.items()}
        return solver(A.select(index), flat[index.to(flat.device)], start=start, **mine, **options)

    with torch.inference_mode():  # small matrices: a quarter of the time goes into what autograd would keep
        state, outcomes, iterations = run_batch(solve, n, stop=_converged if stop is None else stop, max_iter=max_iter)
    ordinary = state.select(torch.arange(n, device=state.x.device))
    return ordinary.with_batch(batch), outcomes, iterations


def _converged(state: SblState | GreedyState) -> Tensor:
    return finished(state) if isinstance(state, GreedyState) else evidence_change_below(TOLERANCE)(state)
