"""Rank-one projections, then majorise-minimise steps, then a look at the rank."""

import itertools

import pytest
import torch

from imaging.operators import Kronecker
from imaging.sbl import estimate
from imaging.sbl.combined import polish, settled, svd_mm_krosbl
from imaging.sbl.kronecker import mm_krosbl, svd_krosbl


def problems(n=6, *, rank_one=True, snr=30.0, seed=0, dtype=torch.complex128):
    """y = A x + n with 2 nonzeros of 8 in each factor."""
    g = torch.Generator().manual_seed(seed)
    A = Kronecker([torch.randn(m, 8, dtype=dtype, generator=g) for m in (5, 6, 7)])
    parts = [torch.zeros(n, 8, dtype=dtype) for _ in range(3)]
    for part in parts:
        for row in part:
            row[torch.randperm(8, generator=g)[:2]] = torch.randn(2, dtype=dtype, generator=g)
    x = torch.einsum("ni,nj,nk->nijk", *parts)
    if not rank_one:
        x = torch.where(x != 0, torch.randn(x.shape, dtype=dtype, generator=g), 0)
    clean = A(x)
    variance = clean.abs().square().mean((1, 2, 3)) / snr
    y = clean + variance.sqrt()[:, None, None, None] * torch.randn(clean.shape, dtype=dtype, generator=g)
    return A, y, x, variance


def error(x, truth):
    return (x - truth).abs().square().flatten(1).sum(1) / truth.abs().square().flatten(1).sum(1)


def test_the_phases_are_the_two_estimators():
    A, y, _, variance = problems()
    states = list(itertools.islice(svd_mm_krosbl(A, y, first=4, noise_var=variance), 7))
    first = list(itertools.islice(svd_krosbl(A, y, noise_var=variance), 4))
    then = list(itertools.islice(mm_krosbl(A, y, noise_var=variance, start=first[-1]), 3))
    assert [s.iteration for s in states] == list(range(1, 8))
    for one, other in zip(states, first + then, strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=1e-12, atol=1e-14)
    cold = next(svd_mm_krosbl(A, y, first=0, noise_var=variance))
    torch.testing.assert_close(cold.x, next(mm_krosbl(A, y, noise_var=variance, width=100.0)).x)


@pytest.mark.parametrize("at", [2, 4, 6])
def test_a_continued_run_is_an_uninterrupted_one(at):
    A, y, _, variance = problems()
    whole = list(itertools.islice(svd_mm_krosbl(A, y, first=4, noise_var=variance), 8))
    rest = itertools.islice(svd_mm_krosbl(A, y, first=4, noise_var=variance, start=whole[at - 1]), 8 - at)
    for one, other in zip(whole[at:], rest, strict=True):
        assert one.iteration == other.iteration
        torch.testing.assert_close(one.x, other.x, rtol=1e-9, atol=1e-12)


def test_every_problem_stops_by_itself_in_the_second_phase():
    A, y, x, variance = problems()
    state, outcomes, iterations = estimate(A, y, svd_mm_krosbl, stop=settled(), noise_var=variance)
    assert {o.value for o in outcomes} == {"tolerance"}
    assert int(iterations.min()) > 30
    assert float(error(state.x, x).median()) < 0.02
    alone, _, _ = estimate(A, y[2:3], svd_mm_krosbl, stop=settled(), noise_var=variance[2:3])
    torch.testing.assert_close(alone.x[0], state.x[2], rtol=1e-6, atol=1e-8)


def test_units_change_nothing():
    A, y, _, variance = problems()
    one, other = (
        next(itertools.islice(svd_mm_krosbl(A, s * y, noise_var=s**2 * variance), 40, None)) for s in (1.0, 1e4)
    )
    torch.testing.assert_close(other.x, 1e4 * one.x, rtol=1e-6, atol=1e-4)
    with pytest.raises(ValueError, match="width: expected a finite number > 0"):
        next(svd_mm_krosbl(A, y, width=0.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_rank_one_is_polished_and_nothing_else(dtype):
    A, y, x, variance = problems(n=24, dtype=dtype)
    state, _, _ = estimate(A, y, svd_mm_krosbl, stop=settled(), noise_var=variance)
    better, polished = polish(A, y, state)
    assert polished.double().mean() > 0.9
    assert float(error(better.x, x).median()) < 0.7 * float(error(state.x, x).median())
    torch.testing.assert_close(better.data_fidelity, (y - A(better.x)).flatten(1).norm(dim=1))
    torch.testing.assert_close(better.variance, state.variance)
    B, z, w, noise = problems(n=24, rank_one=False, dtype=dtype)
    state, _, _ = estimate(B, z, svd_mm_krosbl, stop=settled(), noise_var=noise)
    same, polished = polish(B, z, state)
    assert polished.double().mean() < 0.2
    kept = ~polished
    torch.testing.assert_close(same.x[kept], state.x[kept], rtol=0, atol=0)
    forced, everything = polish(B, z, state, check=False)
    assert bool(everything.all())
    assert float(error(forced.x, w).median()) > 10 * float(error(state.x, w).median())
