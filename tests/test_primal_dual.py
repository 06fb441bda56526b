"""Total variation in space and time: closed forms, adjoints, continuation."""

from __future__ import annotations

import itertools

import pytest
import torch
from operator_cases import crandn
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators import LinearOperator
from imaging.priors import TotalVariation
from imaging.solvers import load_state, save_state, tv_primal_dual
from imaging.solvers.primal_dual import (
    spatial_gradient,
    spatial_gradient_adjoint,
    temporal_gradient,
    temporal_gradient_adjoint,
)

DOUBLE = torch.float64


class Gain(LinearOperator):
    """A = c · identity."""

    def __init__(self, shape: tuple[int, ...], c: float = 1.0, dtype: torch.dtype = DOUBLE) -> None:
        super().__init__(shape, shape, dtype=dtype)
        self.c = c

    def _forward(self, x: Tensor) -> Tensor:
        return self.c * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.c * y


def at(states, k: int):
    return next(itertools.islice(states, k - 1, None))


def test_gradients_have_their_adjoints() -> None:
    x = crandn(2, 4, 3, 5, 6)
    for forward, back in ((spatial_gradient, spatial_gradient_adjoint), (temporal_gradient, temporal_gradient_adjoint)):
        g = crandn(*forward(x).shape, seed=1)
        gap = torch.vdot(forward(x).flatten(), g.flatten()) - torch.vdot(x.flatten(), back(g).flatten())
        assert float(gap.abs()) < 1e-10


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_denoising_agrees_with_the_proximal_map(c: float) -> None:
    v = torch.rand(1, 1, 12, 12, dtype=DOUBLE) + (torch.arange(12) > 5)
    state = at(tv_primal_dual(Gain((1, 12, 12), c), c * v, weight=0.2, ratio=1.0, nonnegative=False), 800)
    expected = TotalVariation(weight=0.2, n_iter=500).prox(v, 1.0)
    assert float((state.x - expected).norm() / expected.norm()) < 1e-4


def test_two_frames_move_towards_each_other() -> None:
    """min ½(a - p)² + ½(b - q)² + w|a - b|: each moves by w, or both to the mean."""
    y = torch.tensor([0.0, 1.0, 5.0, 5.2], dtype=DOUBLE).reshape(1, 2, 1, 1, 2).clone()
    y[0, 0, 0, 0], y[0, 1, 0, 0] = torch.tensor([1.0, 5.0]), torch.tensor([2.0, 5.2])
    state = at(
        tv_primal_dual(Gain((2, 1, 1, 2)), y, weight=0.0, temporal_weight=0.25, ratio=1.0, nonnegative=False), 400
    )
    expected = torch.tensor([[1.25, 5.1], [1.75, 5.1]], dtype=DOUBLE)
    torch.testing.assert_close(state.x.reshape(2, 2), expected, rtol=1e-5, atol=1e-5)


def test_the_objective_falls_and_negative_values_are_cut() -> None:
    y = crandn(1, 1, 10, 10, dtype=DOUBLE)
    values = [float(s.objective) for s in itertools.islice(tv_primal_dual(Gain((1, 10, 10)), y, weight=0.1), 300)]
    assert values[-1] <= values[0]
    assert values[-1] <= min(values) * (1 + 1e-6)
    state = at(tv_primal_dual(Gain((1, 10, 10)), y, weight=0.1, ratio=1.0), 300)
    assert float(state.x.min()) > -1e-6


def test_a_continued_run_equals_an_uninterrupted_one(tmp_path) -> None:
    A, y = Gain((3, 1, 6, 6)), torch.rand(1, 3, 1, 6, 6, dtype=DOUBLE)
    options = {"weight": 0.1, "temporal_weight": 0.05}
    whole = at(tv_primal_dual(A, y, **options), 10)
    save_state(at(tv_primal_dual(A, y, **options), 5), tmp_path / "s")
    second = at(tv_primal_dual(A, y, start=load_state(tmp_path / "s"), **options), 5)
    assert second.iteration == 10
    torch.testing.assert_close(whole.x, second.x, rtol=0, atol=1e-13)


def test_what_does_not_fit_is_refused() -> None:
    y = torch.zeros(1, 1, 4, 4, dtype=DOUBLE)
    with pytest.raises(ShapeError, match="expected a movie"):
        next(tv_primal_dual(Gain((1, 4, 4)), y, weight=0.1, temporal_weight=0.1))
    with pytest.raises(ValueError, match=">= 0"):
        next(tv_primal_dual(Gain((1, 4, 4)), y, weight=-0.1))
    with pytest.raises(ValueError, match="complex"):
        next(tv_primal_dual(Gain((1, 4, 4), dtype=torch.complex128), y.to(torch.complex128), weight=0.1))
