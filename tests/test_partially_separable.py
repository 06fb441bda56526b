"""Low-rank movies: closed forms, laws of each block step, continuation."""

from __future__ import annotations

import itertools

import pytest
import torch
from operator_cases import Dense, crandn
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators import Grid, LinearOperator, ParallelBeam, TimeSequential, Weighted
from imaging.solvers import load_state, psm, red_psm, save_state, spline_basis
from imaging.solvers.partially_separable import choose_knots, denoise_frames

DOUBLE = torch.float64
SMALL = Grid((0.0, -4.0, -4.0), (1.0, 1.0, 1.0), (1, 9, 9))


def scan(n_frames: int, *, views: int = 6, scale: float = 1.0, dtype: torch.dtype = DOUBLE) -> TimeSequential:
    """Few views of a small image per frame."""
    angles = torch.arange(n_frames * views, dtype=DOUBLE) * 2.4
    grid = Grid((0.0, -4.0 * scale, -4.0 * scale), (1.0, scale, scale), (1, 9, 9))
    static = ParallelBeam(angles, scale * (torch.arange(13, dtype=DOUBLE) - 6), grid, dtype=dtype)
    return TimeSequential(static, torch.arange(n_frames).repeat_interleave(views))


def low_rank(n_frames: int, n_knots: int, rank: int, seed: int = 0) -> Tensor:
    """A movie (1, n_frames, 1, 9, 9) of that rank with functions in the span of the splines."""
    g = torch.Generator().manual_seed(seed)
    psi = spline_basis(n_frames, n_knots) @ torch.randn(n_knots, rank, dtype=DOUBLE, generator=g)
    images = torch.randn(rank, 81, dtype=DOUBLE, generator=g)
    return (psi @ images).reshape(1, n_frames, 1, 9, 9)


def at(states, k: int):
    return next(itertools.islice(states, k - 1, None))


@pytest.mark.parametrize(("n", "d", "cond"), [(128, 9, 1.857), (256, 11, 1.893)])
def test_splines_are_those_of_the_paper(n: int, d: int, cond: float) -> None:
    U = spline_basis(n, d)
    torch.testing.assert_close(U.sum(1), torch.ones(n, dtype=DOUBLE), rtol=0, atol=1e-12)
    line = U @ torch.linspace(0, 1, d, dtype=DOUBLE)
    torch.testing.assert_close(line, torch.linspace(0, 1, n, dtype=DOUBLE), rtol=0, atol=1e-12)
    assert abs(float(torch.linalg.cond(U)) - cond) < 1e-3  # RP 8, check 9


def test_one_knot_is_constant_and_impossible_ones_are_refused() -> None:
    assert torch.equal(spline_basis(5, 1), torch.ones(5, 1, dtype=DOUBLE))
    assert torch.allclose(spline_basis(5, 5), torch.eye(5, dtype=DOUBLE))
    with pytest.raises(ValueError, match="1 to 5 knots"):
        spline_basis(5, 6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_psm_with_as_many_functions_as_knots_is_least_squares(scale: float) -> None:
    """A movie in the span is found exactly, from data that determine it."""
    A, U, movie = scan(8, scale=scale), spline_basis(8, 3), low_rank(8, 3, 3)
    state = at(psm(A, A(movie), U, n_cg=60), 6)
    assert float((state.x - movie).norm() / movie.norm()) < 1e-3
    assert float(state.primal) < 1e-4


def test_psm_of_lower_rank_alternates_to_the_movie() -> None:
    A, U, movie = scan(12), spline_basis(12, 5), low_rank(12, 5, 2)
    y = A(movie)
    residuals = [float(s.data_fidelity / y.norm()) for s in itertools.islice(psm(A, y, U, rank=2, n_cg=25), 60)]
    assert residuals[-1] < 1e-3
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(residuals))  # RP 8, check 15


def test_temporal_functions_stay_orthonormal() -> None:
    A, U, movie = scan(12), spline_basis(12, 5), low_rank(12, 5, 3)
    state = at(psm(A, A(movie), U, rank=3), 4)
    psi = U @ state.latent[0]
    torch.testing.assert_close(psi.T @ psi, torch.eye(3, dtype=DOUBLE), rtol=0, atol=1e-9)
    again = torch.einsum("tk,kzyx->tzyx", psi, state.spatial[0])
    torch.testing.assert_close(again, state.x[0])


class Shrink:
    """D(v) = c v: RED with it is ridge regression, weight (1 - c)/2 ‖f‖²."""

    def __init__(self, c: float) -> None:
        self.c, self.seen = c, []

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        assert v.ndim == 4
        self.seen.append((tuple(v.shape), sigma))
        return self.c * v


def ridge(A: LinearOperator, y: Tensor, strength: float) -> Tensor:
    """argmin ½‖A f - y‖² + strength/2 ‖f‖², by a dense solve."""
    n = 1
    for k in A.in_shape:
        n *= k
    matrix = A(torch.eye(n, dtype=A.dtype).reshape(n, *A.in_shape)).reshape(n, -1).T
    f = torch.linalg.solve(matrix.mH @ matrix + strength * torch.eye(n, dtype=A.dtype), matrix.mH @ y.reshape(-1))
    return f.reshape(1, *A.in_shape)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_red_with_a_linear_denoiser_is_ridge_regression(scale: float) -> None:
    A = scan(3, scale=scale)
    y = A(torch.rand(1, *A.in_shape, dtype=DOUBLE)) + 0.1 * scale * crandn(1, *A.out_shape, dtype=DOUBLE)
    beta = 0.5 * A.mean_eigenvalue()
    weight = 2 * beta
    denoiser = Shrink(0.6)
    states = red_psm(
        A, y, torch.eye(3), denoiser, beta=beta, weight=weight, sigma=0.1, n_cg=60, n_red=20, nonnegative=False
    )
    state = at(states, 60)
    expected = ridge(A, y, 0.4 * weight)
    assert float((state.split - expected).norm() / expected.norm()) < 2e-3
    # the fixed point of RP 8, check 13: weight (f - D f) = beta gamma
    gap = weight * (state.split - 0.6 * state.split) - beta * state.gamma
    assert float(gap.norm() / (beta * state.gamma).norm()) < 1e-3
    assert float(state.primal) < 1e-3
    assert float(state.dual_change) < 1e-3
    assert denoiser.seen[0] == ((3, 1, 9, 9), 0.1)


def test_red_with_the_identity_is_psm() -> None:
    A, U, movie = scan(8), spline_basis(8, 3), low_rank(8, 3, 3)
    state = at(red_psm(A, A(movie), U, Shrink(1.0), beta=0.01, weight=3.0, sigma=0.1, n_cg=60, nonnegative=False), 15)
    assert float((state.split - movie).norm() / movie.norm()) < 1e-2


class Leaning:
    """D pulls every row to the right: half of each pixel moves one to the right."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        self.seen.append(v.clone())
        return 0.5 * v + 0.5 * v.roll(1, -1)


def test_mirrored_frames_are_seen_in_turn_and_turned_back() -> None:
    A, U = scan(6), spline_basis(6, 3)
    y = A(torch.rand(1, *A.in_shape, dtype=DOUBLE))
    options = {"beta": 1.0, "weight": 2.0, "sigma": 0.1, "relaxation": 1.0, "mirrored": True}
    denoiser = Leaning()
    states = list(itertools.islice(red_psm(A, y, U, denoiser, **options), 5))
    gamma = torch.zeros_like(states[0].gamma)
    for state, seen, axes in zip(states, denoiser.seen, ((-1,), (-2,), (-2, -1), (), (-1,)), strict=True):
        v = state.x + gamma
        torch.testing.assert_close(seen, v[0].flip(axes) if axes else v[0])
        shown = Leaning()(v[0].flip(axes) if axes else v[0], 0.1)
        expected = (2 * (shown.flip(axes) if axes else shown) + v[0]) / 3
        torch.testing.assert_close(state.split[0], expected.clamp_min(0))
        gamma = state.gamma


def test_noise_level_follows_the_schedule_and_frames_are_a_batch() -> None:
    A = scan(4)
    denoiser = Shrink(0.9)
    states = red_psm(
        A,
        A(torch.rand(1, *A.in_shape, dtype=DOUBLE)),
        spline_basis(4, 2),
        denoiser,
        beta=1.0,
        weight=1.0,
        sigma=lambda k: 0.1 / k,
    )
    levels = [s.sigma for s in itertools.islice(states, 3)]
    assert levels == pytest.approx([0.1, 0.05, 0.1 / 3])
    assert [s for _, s in denoiser.seen] == pytest.approx(levels)


def test_a_continued_run_equals_an_uninterrupted_one(tmp_path) -> None:
    A, U = scan(6), spline_basis(6, 3)
    y = A(torch.rand(1, *A.in_shape, dtype=DOUBLE))
    options = {"beta": 1.0, "weight": 2.0, "sigma": lambda k: 0.2 / k, "rank": 2}
    whole = at(red_psm(A, y, U, Shrink(0.8), **options), 6)
    save_state(at(red_psm(A, y, U, Shrink(0.8), **options), 3), tmp_path / "state")
    second = at(red_psm(A, y, U, Shrink(0.8), start=load_state(tmp_path / "state"), **options), 3)
    assert second.iteration == 6
    assert torch.equal(whole.split, second.split)
    assert torch.equal(whole.latent, second.latent)


def test_complex_movies_go_through_real_denoisers_in_two_parts() -> None:
    A = scan(3, dtype=torch.complex128)
    y = A(crandn(1, *A.in_shape))
    denoiser = Shrink(0.5)
    state = at(red_psm(A, y, spline_basis(3, 2), denoiser, beta=1.0, weight=1.0, sigma=0.1, nonnegative=False), 2)
    assert state.split.is_complex()
    assert denoiser.seen[0][0] == (6, 1, 9, 9)  # real and imaginary parts of three frames
    v = crandn(1, 3, 1, 9, 9)
    torch.testing.assert_close(denoise_frames(Shrink(0.5), v, 0.1), 0.5 * v)
    lower = at(psm(A, y, spline_basis(3, 3), rank=2, n_cg=40), 30)
    assert not lower.latent.is_complex()


def test_weights_take_samples_out() -> None:
    A, U, movie = scan(8), spline_basis(8, 3), low_rank(8, 3, 3)
    keep = torch.ones(A.out_shape, dtype=DOUBLE)
    keep[5] = 0
    y = A(movie)
    y[:, 5] = 1e3
    state = at(psm(Weighted(A, keep), y * keep, U, rank=2, n_cg=5), 2)
    other = at(psm(Weighted(A, keep), (A(movie) * keep), U, rank=2, n_cg=5), 2)
    torch.testing.assert_close(state.x, other.x)


def test_knots_are_chosen_by_what_they_predict() -> None:
    A = scan(24, views=1)
    still = torch.rand(1, 1, 1, 9, 9, dtype=DOUBLE).expand(1, 24, 1, 9, 9)
    noise = 0.02 * crandn(1, *A.out_shape, dtype=DOUBLE)
    assert choose_knots(A, A(still.contiguous()) + noise) == 1
    many = scan(24, views=12)
    moving = low_rank(24, 4, 4)
    assert choose_knots(many, many(moving)) >= 4


class Copies(LinearOperator):
    """Every sample eight times, with the same noise: the copies tell of each other."""

    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A.in_shape, (8, *A.out_shape), dtype=A.dtype)
        self.A = A

    def _forward(self, x: Tensor) -> Tensor:
        return torch.stack((self.A._forward(x),) * 8, dim=1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.A._adjoint(y.sum(1))


def test_copies_are_held_out_together() -> None:
    A = scan(24, views=1)
    still = torch.rand(1, 1, 1, 9, 9, dtype=DOUBLE).expand(1, 24, 1, 9, 9)
    y = A(still.contiguous())
    y = y + y.std() * crandn(1, *A.out_shape, dtype=DOUBLE)
    copies = torch.stack((y,) * 8, dim=1)
    assert choose_knots(Copies(A), copies, together=(0,)) == choose_knots(A, y) == 1
    assert choose_knots(Copies(A), copies) > 1  # the noise is foreseen, too


def test_what_does_not_fit_is_refused() -> None:
    A, U = scan(6), spline_basis(6, 3)
    y = torch.zeros(1, *A.out_shape, dtype=DOUBLE)
    with pytest.raises(ShapeError, match="one movie at a time"):
        next(psm(A, y[0], U))
    with pytest.raises(ShapeError, match="one row per frame"):
        next(psm(A, y, spline_basis(5, 3)))
    with pytest.raises(ValueError, match="rank: expected 1 to 3"):
        next(psm(A, y, U, rank=4))
    with pytest.raises(ValueError, match="expected > 0"):
        next(red_psm(A, y, U, Shrink(1.0), beta=0.0, weight=1.0, sigma=0.1))
    dense = Dense(crandn(5, 6, dtype=DOUBLE))
    with pytest.raises(ShapeError):
        next(psm(dense, torch.zeros(1, 5, dtype=DOUBLE), U[:5]))
