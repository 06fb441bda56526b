"""Drive a solver: stopping, callbacks, time limit, interruption, divergence, best iterate."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import torch
from torch import Tensor

from imaging.errors import DivergedError
from imaging.solvers.state import State

S = TypeVar("S", bound=State)
R = TypeVar("R")
Rule = Callable[[S], Tensor | bool]


class Outcome(StrEnum):
    """Why a run ended; the values are the `stop_reason` of a reconstruction file."""

    TOLERANCE = "tolerance"
    MAX_ITERATIONS = "max_iterations"
    TIME_LIMIT = "time_limit"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"


class SolverDivergedError(DivergedError):
    """A solver left the finite numbers; `state` is the last state that was finite, or None."""

    def __init__(self, message: str, state: State | None) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True)
class KeepBest:
    """Return the best iterate when a tracked quantity grows, for each problem of a batch its own in `run_batch`.

    Args:
        track: number to be small, of a state; in `run` a tensor (*batch,) is averaged over the batch.
        patience: end after this many iterations in a row without a new best and return the best; None never does.
        growth: end as diverged, with the best iterate, once the quantity exceeds its best by this factor; None never
            does. With `patience` None the last iterate is returned otherwise: a guard against blowing up alone.
    """

    track: Callable[[State], Tensor | float]
    patience: int | None = 5
    growth: float | None = None

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"KeepBest patience: expected >= 1 iterations, got {self.patience}")
        if self.growth is not None and not self.growth > 1:
            raise ValueError(f"KeepBest growth: expected a factor > 1, got {self.growth}")


@dataclass(frozen=True, kw_only=True)
class BatchRun:
    """`run_batch` between two iterations: what it takes to go on as if nothing had happened.

    Args:
        active: problems still at work, int64 (m,).
        state: theirs.
        final: of all problems so far.
        outcomes: of all problems; those at work have `MAX_ITERATIONS`.
        iterations: int64 (n,).
        best, best_value, since: of `KeepBest`, per problem; None without it.
    """

    active: Tensor
    state: State
    final: State
    outcomes: tuple[Outcome, ...]
    iterations: Tensor
    best: State | None = None
    best_value: Tensor | None = None
    since: Tensor | None = None


class _Tracker:
    """The best state of every problem, and which problems have got worse for too long or by too much."""

    def __init__(self, keep: KeepBest) -> None:
        self.keep = keep
        self.best: Any = None
        self.value = torch.empty(0)
        self.since = torch.empty(0, dtype=torch.int64)

    def see(self, state: State, active: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(out of patience, grown), bool (m,), for the problems `active` of the batch, values (m,)."""
        values = torch.where(torch.isnan(values), torch.inf, values.cpu().to(torch.float64))
        if self.best is None:
            self.best, self.value, self.since = state, values.clone(), torch.zeros(len(values), dtype=torch.int64)
            return torch.zeros_like(values, dtype=torch.bool), torch.zeros_like(values, dtype=torch.bool)
        before = self.value[active]
        # without patience the last of equals counts: a constrained solver keeps the quantity constant
        better = values <= before if self.keep.patience is None else values < before
        self.value[active] = torch.where(better, values, before)
        self.since[active] = torch.where(better, 0, self.since[active] + 1)
        if bool(better.all()) and len(active) == len(self.value):
            self.best = state
        elif bool(better.any()):
            where = better.nonzero().flatten().to(state.x.device)
            self.best = self.best.put(active.to(where.device)[where], state.select(where))
        patience, growth = self.keep.patience, self.keep.growth
        tired = self.since[active] >= patience if patience is not None else torch.zeros_like(better)
        grown = values > growth * self.value[active] if growth is not None else torch.zeros_like(better)
        return tired, grown


def relative_change_below(tol: float) -> Callable[[State], Tensor]:
    """Stop when ‖|x| - |x_previous|‖ / ‖|x_previous|‖ < tol, from the second iteration on.

    The first iteration of C-SALSA returns its starting point (NF 5.1): it must not count as converged.
    """

    def rule(state: State) -> Tensor:
        return (state.relative_change < tol) & (state.iteration > 1)

    return rule


def residuals_below(tol: float) -> Callable[[State], Tensor]:
    """Stop when the relative primal and dual residuals are both below tol, from the second iteration on."""

    def rule(state: State) -> Tensor:
        return (state.primal < tol) & (state.dual < tol) & (state.iteration > 1)

    return rule


def any_rule(*rules: Callable[[State], Tensor | bool]) -> Callable[[State], Tensor]:
    """Stop a problem as soon as one of the rules does."""

    def rule(state: State) -> Tensor:
        return torch.stack([_per_problem(r(state), state) for r in rules]).any(dim=0)

    return rule


def never(state: State) -> bool:
    """Never stop: the iteration or time limit does."""
    return False


def run(
    states: Iterator[S],
    *,
    stop: Callable[[S], Tensor | bool] = never,
    max_iter: int,
    callbacks: Sequence[Callable[[S], None]] = (),
    time_limit: float | None = None,
    keep_best: KeepBest | None = None,
) -> tuple[S, Outcome]:
    """Drive a solver; return its last state and why it ended.

    Args:
        states: a solver, e.g. `csalsa(...)`.
        stop: True ends the run; a tensor (*batch,) ends it when all problems have stopped.
        max_iter: iterations of this run; a continued solver counts anew.
        callbacks: called with every state before the stopping test; progress, logs and checkpoints.
        time_limit: seconds; tested after every iteration.
        keep_best: return the best iterate by a tracked quantity instead of the last one, and end the run when
            that quantity has not improved for `patience` iterations (outcome `tolerance`) or has grown by the factor
            `growth` (outcome `diverged`).

    Returns:
        The state and the outcome. Ctrl-C gives the last complete state and `Outcome.INTERRUPTED`.

    Raises:
        SolverDivergedError: a problem is no longer finite; `error.state` is the last state in which all were.
        KeyboardInterrupt: before the first iteration was complete, so that there is nothing to return.
    """
    if max_iter < 1:
        raise ValueError(f"run max_iter: expected >= 1 iterations, got {max_iter}")
    clock = time.monotonic()
    last: S | None = None
    tracker = None if keep_best is None else _Tracker(keep_best)
    outcome = Outcome.MAX_ITERATIONS
    try:
        for _ in range(max_iter):
            state = next(states)
            if not bool(state.is_finite().all()):
                raise SolverDivergedError(
                    f"iteration {state.iteration}: expected finite numbers, found a residual of "
                    f"{float(state.primal.max()):g}; step too long, or data not finite?",
                    tracker.best if tracker is not None and tracker.best is not None else last,
                )
            last = state
            for callback in callbacks:
                callback(state)
            if tracker is not None:
                value = torch.as_tensor(tracker.keep.track(state), dtype=torch.float64).mean().reshape(1)
                tired, grown = tracker.see(state, torch.zeros(1, dtype=torch.int64), value)  # the batch as one problem
                if bool(tired | grown):
                    outcome = Outcome.DIVERGED if grown else Outcome.TOLERANCE
                    break
            if bool(torch.as_tensor(stop(state)).all()):
                outcome = Outcome.TOLERANCE
                break
            if time_limit is not None and time.monotonic() - clock >= time_limit:
                outcome = Outcome.TIME_LIMIT
                break
    except KeyboardInterrupt:
        if last is None:
            raise
        outcome = Outcome.INTERRUPTED
    assert last is not None  # max_iter >= 1
    if tracker is not None and (tracker.keep.patience is not None or outcome is Outcome.DIVERGED):
        return tracker.best, outcome
    return last, outcome


def batch_steps(
    solve: Callable[[Tensor, S | None], Iterator[S]],
    n: int,
    *,
    stop: Callable[[S], Tensor | bool] = never,
    max_iter: int,
    callbacks: Sequence[Callable[[S, Tensor], None]] = (),
    time_limit: float | None = None,
    keep_best: KeepBest | None = None,
    between: Callable[[BatchRun], None] | None = None,
    resume: BatchRun | None = None,
) -> Generator[S, None, tuple[S, list[Outcome], Tensor]]:
    """Drive a batch whose problems stop one by one (NF 5.6); those that have stopped cost nothing any more.

    Whenever problems stop, the solver is started again from the states of the others: a continued solver
    equals an uninterrupted one, so each problem ends as if it had been alone.

    Args:
        solve: ``solve(index, start)`` gives the solver of the problems `index`, int64 (m,), from `start`,
            e.g. ``lambda i, start: csalsa(A, y[i], prior, epsilon=epsilon[i], ..., start=start)``.
        n: number of problems, the only batch axis.
        stop: per problem, bool (m,); one bool counts for all.
        max_iter: iterations at most.
        callbacks: called with every state and its index.
        time_limit: seconds for the whole batch.
        keep_best: as in `run`, but every problem has its own best iterate, and ends on its own.
        between: told after every iteration that is not the last how to go on from there.
        resume: what `between` was told, to go on from; iterations count on.

    Yields:
        After every iteration the state of all problems, those that have stopped as they were then. A caller that wants
        no more closes the generator.

    Returns:
        The final state of all problems, the outcome of each, and the iterations each took, int64 (n,). The
        state's `iteration` is the largest of them. A problem that diverges keeps its best state with `keep_best`,
        else its last finite one.

    Raises:
        SolverDivergedError: a problem is not finite after its very first iteration.
        KeyboardInterrupt: before the first iteration was complete.
    """
    if max_iter < 1:
        raise ValueError(f"run_batch max_iter: expected >= 1 iterations, got {max_iter}")
    clock = time.monotonic()
    outcomes = [Outcome.MAX_ITERATIONS] * n
    iterations = torch.zeros(n, dtype=torch.int64)
    active = torch.arange(n)
    start: Any = None
    final: Any = None
    tracker = None if keep_best is None else _Tracker(keep_best)
    if resume is not None:
        outcomes, iterations, active = list(resume.outcomes), resume.iterations.clone(), resume.active
        start, final = resume.state, resume.final
        if tracker is not None and resume.best_value is not None and resume.since is not None:
            tracker.best, tracker.value, tracker.since = resume.best, resume.best_value.clone(), resume.since.clone()
    states = solve(active, start)
    try:
        for k in range(1 if start is None else start.iteration + 1, max_iter + 1):
            state = next(states)
            finite = state.is_finite().cpu()
            if final is None:
                if not bool(finite.all()):
                    bad = int(torch.nonzero(~finite)[0])
                    raise SolverDivergedError(
                        f"problem {bad} of the batch is not finite after its first iteration; check its data",
                        None,
                    )
                final = state
            elif len(active) == n and bool(finite.all()):
                final = state
            else:
                good = torch.nonzero(finite).flatten()
                chosen = active[good].to(state.x.device)
                final = final.put(chosen, state.select(good.to(state.x.device)))
            iterations[active[finite]] = k
            for callback in callbacks:
                callback(state, active)
            yield final
            stopped = _per_problem(stop(state), state).cpu() & finite
            diverged = ~finite
            if tracker is not None:
                values = torch.as_tensor(tracker.keep.track(state), dtype=torch.float64).cpu().expand(len(active))
                tired, grown = tracker.see(state, active, torch.where(finite, values, torch.inf))
                stopped, diverged = stopped | (tired & finite), diverged | grown
            for i in active[stopped].tolist():
                outcomes[i] = Outcome.TOLERANCE
            for i in active[diverged].tolist():
                outcomes[i] = Outcome.DIVERGED
            going = torch.nonzero(~stopped & ~diverged).flatten()
            if len(going) == 0:
                break
            if time_limit is not None and time.monotonic() - clock >= time_limit:
                for i in active[going].tolist():
                    outcomes[i] = Outcome.TIME_LIMIT
                break
            if len(going) < len(active):
                active, state = active[going], state.select(going.to(state.x.device))
                states = solve(active, state)
            if between is not None and k < max_iter:
                between(_pause(active, state, final, outcomes, iterations, tracker))
    except KeyboardInterrupt:
        if final is None:
            raise
        for i in active.tolist():
            outcomes[i] = Outcome.INTERRUPTED
    assert final is not None  # max_iter >= 1
    if tracker is not None:
        wanted = [tracker.keep.patience is not None or o is Outcome.DIVERGED for o in outcomes]
        index = torch.tensor(wanted).nonzero().flatten().to(final.x.device)
        if len(index):
            last = final.iteration
            final = dataclasses.replace(final.put(index, tracker.best.select(index)), iteration=last)
    return final, outcomes, iterations


def run_batch(
    solve: Callable[[Tensor, S | None], Iterator[S]],
    n: int,
    *,
    stop: Callable[[S], Tensor | bool] = never,
    max_iter: int,
    callbacks: Sequence[Callable[[S, Tensor], None]] = (),
    time_limit: float | None = None,
    keep_best: KeepBest | None = None,
    between: Callable[[BatchRun], None] | None = None,
    resume: BatchRun | None = None,
) -> tuple[S, list[Outcome], Tensor]:
    """`batch_steps` to its end; arguments, result and errors are its own."""
    return drain(
        batch_steps(
            solve,
            n,
            stop=stop,
            max_iter=max_iter,
            callbacks=callbacks,
            time_limit=time_limit,
            keep_best=keep_best,
            between=between,
            resume=resume,
        )
    )


def drain(steps: Generator[Any, None, R]) -> R:
    """What a generator returns, its steps passed over."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: R = end.value
            return result


def _pause(
    active: Tensor, state: State, final: State, outcomes: list[Outcome], iterations: Tensor, tracker: _Tracker | None
) -> BatchRun:
    kept: dict[str, Any] = {}
    if tracker is not None:
        kept = {"best": tracker.best, "best_value": tracker.value.clone(), "since": tracker.since.clone()}
    return BatchRun(
        active=active, state=state, final=final, outcomes=tuple(outcomes), iterations=iterations.clone(), **kept
    )


def _per_problem(stopped: Tensor | bool, state: State) -> Tensor:
    return torch.as_tensor(stopped, device=state.primal.device).expand(state.primal.shape)
