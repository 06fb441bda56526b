"""Low rank plus sparse: closed forms of both steps, the minimiser, scale, continuation."""

from __future__ import annotations

import itertools

import pytest
import torch
from operator_cases import crandn
from test_primal_dual import Gain

from imaging.errors import ShapeError
from imaging.solvers import load_state, low_rank_sparse, save_state
from imaging.solvers.low_rank_sparse import shrink_frequencies, shrink_singular_values

COMPLEX = torch.complex128


def at(states, k: int):
    return next(itertools.islice(states, k - 1, None))


def test_singular_values_are_shrunk() -> None:
    movie = crandn(1, 5, 1, 4, 6)
    shrunk, nuclear = shrink_singular_values(movie, 0.7)
    before, after = (torch.linalg.svdvals(m.reshape(5, -1)) for m in (movie, shrunk))
    torch.testing.assert_close(after, (before - 0.7).clamp_min(0))
    assert float(nuclear) == pytest.approx(float(after.sum()))
    assert not shrink_singular_values(movie, 1e3)[0].any()


def test_what_repeats_in_time_is_a_few_frequencies() -> None:
    times = torch.arange(8, dtype=torch.float64)
    movie = (torch.cos(2 * torch.pi * times / 4)[None, :, None, None, None] * torch.ones(1, 1, 1, 2, 2)).to(COMPLEX)
    shrunk, l1 = shrink_frequencies(movie, 0.5)
    full = 8**0.5 / 2  # two frequencies
    torch.testing.assert_close(shrunk, movie * (1 - 0.5 / full))
    assert float(l1) == pytest.approx(2 * 4 * (full - 0.5))
    assert not shrink_frequencies(movie.real, 0.5)[0].is_complex()


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_no_nearby_pair_is_better(c: float) -> None:
    y = c * crandn(1, 4, 1, 3, 3)
    weights = {"low_rank_weight": 0.5, "sparse_weight": 0.4}
    state = at(low_rank_sparse(Gain((4, 1, 3, 3), c, COMPLEX), y, **weights), 400)

    def objective(low, sparse):
        nuclear = torch.linalg.svdvals(low.reshape(4, -1)).sum()
        l1 = torch.fft.fft(sparse, dim=1, norm="ortho").abs().sum()
        return float(0.5 * (low + sparse - y / c).norm() ** 2 + 0.5 * nuclear + 0.4 * l1)

    best = objective(state.low_rank, state.sparse)
    assert best == pytest.approx(float(state.objective), rel=1e-9)
    for i, size in itertools.product(range(20), (1e-1, 1e-2, 1e-3)):
        move = size * crandn(2, 1, 4, 1, 3, 3, seed=i)
        assert objective(state.low_rank + move[0], state.sparse + move[1]) >= best - 1e-7


def test_acceleration_converges_within_few_iterations() -> None:
    states = low_rank_sparse(
        Gain((4, 1, 3, 3), 1.0, COMPLEX), crandn(1, 4, 1, 3, 3), low_rank_weight=0.3, sparse_weight=0.2
    )
    seen = list(itertools.islice(states, 60))
    assert float(seen[59].relative_change) < 1e-4
    assert float(seen[59].objective) <= float(seen[9].objective)


def test_ten_and_ten_iterations_are_twenty(tmp_path) -> None:
    A, y = Gain((4, 1, 3, 3), 2.0, COMPLEX), crandn(1, 4, 1, 3, 3)
    weights = {"low_rank_weight": 0.3, "sparse_weight": 0.2}
    save_state(at(low_rank_sparse(A, y, **weights), 10), tmp_path / "s")
    on = at(low_rank_sparse(A, y, **weights, start=load_state(tmp_path / "s")), 10)
    through = at(low_rank_sparse(A, y, **weights), 20)
    assert on.iteration == 20
    assert torch.equal(on.x, through.x)


def test_bad_arguments_are_told() -> None:
    A, y = Gain((4, 1, 3, 3), 1.0, COMPLEX), crandn(1, 4, 1, 3, 3)
    with pytest.raises(ValueError, match="weights: expected >= 0"):
        next(low_rank_sparse(A, y, low_rank_weight=-1, sparse_weight=0))
    with pytest.raises(ShapeError, match="one movie|of a movie operator"):
        next(low_rank_sparse(A, y[0], low_rank_weight=1, sparse_weight=0))
