"""Laws of `run`, `run_batch` and saved states."""

import dataclasses
import itertools
import json
import math
import os
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from solver_cases import dense, problem, randn, relative

from imaging.errors import DivergedError
from imaging.priors import L1, Magnitude, TotalVariation
from imaging.solvers import (
    KeepBest,
    Outcome,
    SolverDivergedError,
    State,
    StateFileError,
    admm,
    any_rule,
    csalsa,
    csalsa_projected,
    load_state,
    never,
    relative_change_below,
    residuals_below,
    run,
    run_batch,
    save_state,
)


@dataclass(frozen=True, kw_only=True)
class CountingState(State):
    """A made-up state: x is the iteration."""


def counting(values=None, n=1, start=0):
    """States whose primal residual runs through `values`, then 1 / iteration."""
    for k in itertools.count(start + 1):
        value = values[k - 1] if values is not None and k <= len(values) else 1 / k
        number = torch.full((n,), value, dtype=torch.float64)
        yield CountingState(
            iteration=k,
            x=torch.full((n, 1, 1, 1), float(k), dtype=torch.float64),
            primal=number,
            dual=number,
            relative_change=number,
            data_fidelity=number,
        )


# -- run ------------------------------------------------------------------------------------------


def test_the_outcomes_are_the_stop_reasons_of_the_file_format():
    assert [o.value for o in Outcome] == [
        "tolerance",
        "max_iterations",
        "time_limit",
        "diverged",
        "interrupted",
    ]


def test_run_stops_at_the_tolerance_or_the_limit():
    state, outcome = run(counting(), stop=residuals_below(0.11), max_iter=50)
    assert (state.iteration, outcome) == (10, Outcome.TOLERANCE)
    state, outcome = run(counting(), stop=residuals_below(0.11), max_iter=7)
    assert (state.iteration, outcome) == (7, Outcome.MAX_ITERATIONS)
    state, outcome = run(counting(), max_iter=3)
    assert (state.iteration, outcome) == (3, Outcome.MAX_ITERATIONS)
    with pytest.raises(ValueError, match="max_iter: expected >= 1"):
        run(counting(), max_iter=0)


def test_the_first_iteration_never_counts_as_converged():
    for rule in (relative_change_below(0.5), residuals_below(0.5)):
        state, _ = run(counting([0.0, 0.0]), stop=rule, max_iter=9)
        assert state.iteration == 2


def test_rules_combine_and_wait_for_the_whole_batch():
    either = any_rule(residuals_below(1e-9), lambda s: s.iteration >= 4)
    assert run(counting(n=3), stop=either, max_iter=9)[0].iteration == 4
    half = lambda s: torch.tensor([True, s.iteration >= 6])  # noqa: E731
    assert run(counting(n=2), stop=half, max_iter=9)[0].iteration == 6
    assert run(counting(), stop=never, max_iter=9)[1] is Outcome.MAX_ITERATIONS


def test_callbacks_see_every_state_before_the_stopping_test():
    seen = []
    run(counting(), stop=lambda s: s.iteration == 3, max_iter=9, callbacks=[lambda s: seen.append(s.iteration)])
    assert seen == [1, 2, 3]


def test_the_time_limit_is_tested_after_every_iteration(monkeypatch):
    now = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr(sys.modules["imaging.solvers.run"], "time", clock)
    state, outcome = run(counting(), max_iter=50, time_limit=5.0)
    assert (state.iteration, outcome) == (5, Outcome.TIME_LIMIT)


def test_ctrl_c_returns_the_last_complete_state():
    def interrupted():
        yield from itertools.islice(counting(), 4)
        raise KeyboardInterrupt

    state, outcome = run(interrupted(), max_iter=9)
    assert (state.iteration, outcome) == (4, Outcome.INTERRUPTED)

    def callback(state):
        if state.iteration == 2:
            raise KeyboardInterrupt

    state, outcome = run(counting(), max_iter=9, callbacks=[callback])
    assert (state.iteration, outcome) == (2, Outcome.INTERRUPTED)

    def at_once():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        run(at_once(), max_iter=9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_brings_the_last_good_state(bad):
    with pytest.raises(SolverDivergedError, match="iteration 4: expected finite numbers") as caught:
        run(counting([1.0, 0.5, 0.3, bad]), max_iter=9)
    assert isinstance(caught.value, DivergedError)
    assert caught.value.state.iteration == 3
    with pytest.raises(SolverDivergedError) as caught:
        run(counting([bad]), max_iter=9)
    assert caught.value.state is None


def test_data_that_are_not_finite_are_a_divergence():
    A, _, y, epsilon = problem()
    y[1, 3] = torch.nan
    with pytest.raises(SolverDivergedError, match="data not finite"):
        run(csalsa_projected(A, y, L1(), epsilon=epsilon, alpha=0.1), max_iter=3)


def test_the_best_iterate_is_kept_on_growth():
    values = [5.0, 3.0, 2.0, 2.5, 2.2, 2.1, 4.0, 1.0]
    keep = KeepBest(lambda s: s.primal, patience=3)
    state, outcome = run(counting(values), max_iter=50, keep_best=keep)
    assert (state.iteration, outcome) == (3, Outcome.TOLERANCE)
    patient = KeepBest(lambda s: float(s.primal), patience=5)
    assert run(counting(values), max_iter=8, keep_best=patient)[0].iteration == 8
    assert run(counting(values), max_iter=5, keep_best=patient)[0].iteration == 3
    with pytest.raises(ValueError, match="patience: expected >= 1"):
        KeepBest(lambda s: 0.0, patience=0)


def test_the_best_iterate_is_not_the_one_with_a_value_that_is_no_number():
    values = [math.nan, 3.0, 2.0, 4.0]
    keep = KeepBest(lambda s: torch.where(s.primal > 9, math.nan, s.primal), patience=3)
    shown = [99.0 if math.isnan(v) else v for v in values]
    assert run(counting(shown), max_iter=4, keep_best=keep)[0].iteration == 3


def test_growth_alone_ends_a_run_with_its_best_iterate():
    guard = KeepBest(lambda s: s.primal, patience=None, growth=3.0)
    state, outcome = run(counting([5.0, 2.0, 4.0, 5.9, 6.1, 1.0]), max_iter=6, keep_best=guard)
    assert (state.iteration, outcome) == (2, Outcome.DIVERGED)
    state, outcome = run(counting([5.0, 2.0, 4.0, 5.9, 2.5]), max_iter=5, keep_best=guard)
    assert (state.iteration, outcome) == (5, Outcome.MAX_ITERATIONS)  # nothing blew up: the last one
    with pytest.raises(ValueError, match="growth: expected a factor > 1"):
        KeepBest(lambda s: 0.0, growth=0.5)


def test_each_problem_of_a_batch_keeps_its_own_best_iterate():
    curves = torch.tensor([[5.0, 2.0, 4.0, 7.0, 9.0], [5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])

    def solve(index, start):
        done = 0 if start is None else start.iteration
        for k in range(done, curves.shape[1]):
            values = curves[index, k].double()
            state = next(counting([1.0], n=len(index)))
            yield dataclasses.replace(state, iteration=k + 1, primal=values, x=values)

    guard = KeepBest(lambda s: s.primal, patience=None, growth=3.0)
    state, outcomes, iterations = run_batch(solve, 3, max_iter=5, keep_best=guard)
    assert outcomes == [Outcome.DIVERGED, Outcome.MAX_ITERATIONS, Outcome.MAX_ITERATIONS]
    assert state.x.tolist() == [2.0, 1.0, 1.0]
    assert iterations.tolist() == [4, 5, 5]
    state, outcomes, _ = run_batch(solve, 3, max_iter=5, keep_best=KeepBest(lambda s: s.primal, patience=2))
    assert outcomes == [Outcome.TOLERANCE, Outcome.MAX_ITERATIONS, Outcome.TOLERANCE]
    assert state.x.tolist() == [2.0, 1.0, 1.0]


# -- run_batch ------------------------------------------------------------------------------------


def test_problems_of_a_batch_stop_one_by_one_as_if_alone():
    A, _, y, epsilon = problem(n=6, dtype=torch.complex128)
    rule = relative_change_below(1e-3)

    def solve(index, start):
        sizes.append(len(index))
        return csalsa(A, y[index], Magnitude(L1()), epsilon=epsilon[index], kappa=0.2, alpha=0.05, start=start)

    sizes: list[int] = []
    state, outcomes, iterations = run_batch(solve, 6, stop=rule, max_iter=60)
    assert len(sizes) == len(set(sizes)) > 2  # the batch shrank, several times
    assert sizes == sorted(sizes, reverse=True)
    for i in range(6):
        alone, outcome = run(solve(torch.tensor([i]), None), stop=rule, max_iter=60)
        assert outcomes[i] is outcome
        assert int(iterations[i]) == alone.iteration
        assert relative(alone.x, state.x[i : i + 1]) <= 1e-5
    assert state.iteration == int(iterations.max())


def test_a_stopped_problem_costs_no_products():
    A, _, y, epsilon = problem(n=4)

    def solve(index, start):
        return csalsa(A, y[index], L1(), epsilon=epsilon[index], kappa=0.2, alpha=0.05, start=start)

    work = []

    def callback(state, index):
        work.append((len(index), A.products))
        A.products = 0

    run_batch(solve, 4, stop=lambda s: torch.arange(len(s.x)) == 0, max_iter=10, callbacks=[callback])
    assert [n for n, _ in work] == [4, 3, 2, 1]
    assert work[3][1] < 0.5 * work[1][1]


def test_one_bad_problem_does_not_stop_the_others():
    def states(index, start):
        first = 0 if start is None else start.iteration
        for state in counting(n=len(index), start=first):
            primal = state.primal.clone()
            if state.iteration == 3 and 1 in index.tolist():
                primal[index.tolist().index(1)] = math.nan
            yield dataclasses.replace(state, primal=primal)

    state, outcomes, iterations = run_batch(states, 3, stop=residuals_below(0.21), max_iter=20)
    assert outcomes == [Outcome.TOLERANCE, Outcome.DIVERGED, Outcome.TOLERANCE]
    assert iterations.tolist() == [5, 2, 5]
    assert state.x.flatten().tolist() == [5.0, 2.0, 5.0]  # the last finite one
    with pytest.raises(SolverDivergedError, match="problem 0 of the batch"):
        run_batch(lambda i, s: counting([math.nan], n=2), 2, max_iter=3)


def test_a_batch_can_run_out_of_time_or_be_interrupted(monkeypatch):
    def late(state):
        return torch.arange(len(state.primal)) < (state.iteration == 2)

    def interrupt(state, index):
        if state.iteration == 3:
            raise KeyboardInterrupt

    def solve(index, start):
        return counting(n=len(index), start=0 if start is None else start.iteration)

    _, outcomes, iterations = run_batch(solve, 2, stop=late, max_iter=9, callbacks=[interrupt])
    assert outcomes == [Outcome.TOLERANCE, Outcome.INTERRUPTED]
    assert iterations.tolist() == [2, 3]
    now = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr(sys.modules["imaging.solvers.run"], "time", clock)
    _, outcomes, _ = run_batch(solve, 2, stop=late, max_iter=9, time_limit=4.0)
    assert outcomes == [Outcome.TOLERANCE, Outcome.TIME_LIMIT]


# -- saved states ---------------------------------------------------------------------------------


def some_state(kind, dtype=torch.complex64):
    A, _, y, epsilon = problem(dtype=dtype)
    prior = Magnitude(TotalVariation(0.1))
    makers = {
        "csalsa": lambda s: csalsa(A, y, prior, epsilon=epsilon, kappa=0.2, alpha=0.1 / 3, start=s),
        "projected": lambda s: csalsa_projected(A, y, prior, epsilon=epsilon, alpha=0.1 / 3, start=s),
        "admm": lambda s: admm(A, y, prior, rho=0.1, start=s),
        "denoiser": lambda s: csalsa(
            A, y, Magnitude(lambda v, sigma: v * 0.9), epsilon=epsilon, kappa=0.2, alpha=0.1 / 3, start=s
        ),
    }
    return makers[kind]


def assert_equal_states(a, b):
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype, field.name
            assert left.device == right.device
            assert torch.equal(left, right), field.name
        else:
            assert left == right, field.name


@pytest.mark.parametrize("kind", ["csalsa", "projected", "admm", "denoiser"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_saved_state_comes_back_and_goes_on(tmp_path, kind, dtype):
    make = some_state(kind, dtype)
    whole, _ = run(make(None), max_iter=8)
    half, _ = run(make(None), max_iter=4)
    path = tmp_path / "half.safetensors"
    save_state(half, path)
    loaded = load_state(path)
    assert_equal_states(loaded, half)
    assert_equal_states(run(make(loaded), max_iter=4)[0], whole)
    assert os.listdir(tmp_path) == ["half.safetensors"]  # nothing half-written
    assert_equal_states(load_state(path, device="cpu"), half)


def test_saving_replaces_and_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    make = some_state("admm")
    first, second = list(itertools.islice(make(None), 2))
    path = tmp_path / "state.safetensors"
    save_state(first, path)
    save_state(second, path)
    assert load_state(path).iteration == 2

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr("imaging.solvers.state.os.replace", full)
    with pytest.raises(OSError, match="no space"):
        save_state(first, path)
    assert os.listdir(tmp_path) == ["state.safetensors"]
    assert load_state(path).iteration == 2


def test_a_damaged_or_foreign_file_is_told(tmp_path):
    path = tmp_path / "state.safetensors"
    state = next(some_state("csalsa")(None))
    save_state(state, path)
    good = path.read_bytes()

    path.write_bytes(good[:100])
    with pytest.raises(StateFileError, match="expected a solver state"):
        load_state(path)
    path.write_bytes(b"")
    with pytest.raises(StateFileError, match="expected a solver state"):
        load_state(path)
    flipped = bytearray(good)
    flipped[-5] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(StateFileError, match="checksum does not match"):
        load_state(path)
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(StateFileError, match="key 'format'"):
        load_state(path)
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none")

    def with_header(**changed):
        size = int.from_bytes(good[:8], "little")
        header = json.loads(good[8 : 8 + size])
        header["__metadata__"] |= changed
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + good[8 + size :])

    with_header(version="99")
    with pytest.raises(StateFileError, match="key 'version': expected 1, found 99"):
        load_state(path)
    with_header(**{"class": "OtherState"})
    with pytest.raises(StateFileError, match="key 'class': expected one of"):
        load_state(path)
    with_header(**{"class": "ProjectedState"})
    with pytest.raises(StateFileError, match="do not fit ProjectedState"):
        load_state(path)
    with_header(device="cuda:7")
    with pytest.raises(StateFileError, match='pass device="cpu"'):
        load_state(path)
    assert_equal_states(load_state(path, device="cpu"), state)


def test_states_are_selected_and_put_back():
    A = dense()
    y = randn(4, 40, seed=3)
    state = next(csalsa(A, y, Magnitude(TotalVariation()), epsilon=0.1, kappa=0.2, alpha=0.05))
    part = state.select(torch.tensor([2, 0]))
    assert torch.equal(part.v1, state.v1[[2, 0]])
    assert torch.equal(part.memory, state.memory[[2, 0]])
    assert torch.equal(state.select(torch.tensor([False, True, False, True])).x, state.x[[1, 3]])
    assert_equal_states(state.put(torch.tensor([2, 0]), part), state)
    assert_equal_states(state.to("cpu"), state)
