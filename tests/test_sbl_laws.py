"""Laws of the posterior, the evidence and the M-steps: KS 7 checks 1, 2, 8 to 10, 12 and 13.

Checks 3 to 7 and 24 are in test_sbl_reference.py, 11 in test_simulate_irs_mimo.py, 14 to 23 in test_irs_mimo_slow.py
and test_sbl_speed.py.
"""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_cases import crandn

from imaging.operators import Kronecker
from imaging.operators.kronecker import mode_products, outer
from imaging.operators.steering import steering, uniform_directions
from imaging.sbl import (
    am_krosbl,
    decompose,
    e_step,
    estimate,
    ksbl,
    mm_krosbl,
    omp,
    pc_krosbl,
    sbl,
    settled,
    svd_krosbl,
    svd_mm_krosbl,
)
from imaging.sbl.decomposed import rank_one_noise_var
from imaging.sbl.msteps import alternating_minimisation, coupling_matrix, mm_factor, normalise, rank_one_svd

DOUBLE = torch.float64
few = settings(max_examples=25, deadline=None, derandomize=True)


def drandn(*shape, seed):
    return crandn(*shape, seed=seed, dtype=DOUBLE)


def positive(*shape, seed):
    """Variances over about one decade: dense algebra loses digits where products of them spread further."""
    return (0.7 * drandn(*shape, seed=seed)).exp()


def dense(factors, gammas, y, noise_var):
    """μ, diag Σ, L and the EM update of σ² by the product matrix, of one problem."""
    h = functools.reduce(torch.kron, factors)
    gamma = functools.reduce(torch.kron, gammas)
    v = y.flatten()
    sigma_y = noise_var * torch.eye(len(v), dtype=h.dtype) + (h * gamma) @ h.mH
    gain = (gamma[:, None] * h.mH) @ torch.linalg.inv(sigma_y)
    mean, covariance = gain @ v, torch.diag(gamma.to(h.dtype)) - gain @ (h * gamma)
    fit = (v.conj() @ torch.linalg.solve(sigma_y, v)).real
    rest = (v - h @ mean).abs().square().sum()
    noise = (rest + torch.trace(h @ covariance @ h.mH).real) / len(v)
    return mean, covariance.diagonal().real, torch.linalg.slogdet(sigma_y)[1] + fit, noise


def relative(found, expected):
    return float((found.flatten() - expected.flatten()).norm() / expected.norm())


# -- the posterior ---------------------------------------------------------------------------------------------


@few
@given(
    sizes=st.lists(st.tuples(st.integers(2, 6), st.integers(2, 6)), min_size=1, max_size=3),
    seed=st.integers(0, 10_000),
    masked=st.booleans(),
    real=st.booleans(),
    noise_var=st.floats(0.03, 10),
)
def test_check_1_posterior_is_the_dense_one(sizes, seed, masked, real, noise_var):
    dtype = DOUBLE if real else torch.complex128
    factors = [crandn(m, n, seed=seed + i, dtype=dtype) for i, (m, n) in enumerate(sizes)]
    gammas = [positive(n, seed=seed + 10 + i) for i, (_, n) in enumerate(sizes)]
    if masked:
        for g in gammas:
            g[seed % (len(g) - 1)] = 0.0
    y = crandn(*(m for m, _ in sizes), seed=seed + 20, dtype=dtype)
    p = e_step(factors, y[None], [g[None] for g in gammas], torch.tensor([noise_var], dtype=DOUBLE))
    mean, variance, cost, noise = dense(factors, gammas, y, noise_var)
    assert relative(p.mean, mean) < 1e-10
    assert relative(p.variance, variance) < 1e-10
    assert abs(float(p.cost) - float(cost)) < 1e-10 * max(abs(float(cost)), y.numel())
    assert float(p.noise_var_next) == pytest.approx(float(noise), rel=1e-10)
    # KS 4, item 6
    prior = outer([g[None] for g in gammas])
    assert bool(((p.variance >= 0) & (p.variance <= prior * (1 + 1e-12))).all())
    assert 0 <= float(p.freedom) <= min(y.numel(), math.prod(n for _, n in sizes)) * (1 + 1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.8])
def test_check_2_tight_frames_have_repeated_eigenvalues(strength):
    """A general eigensolver, or unsymmetrised matrices, lose up to 500 % here (KS 5.2)."""
    frames = [
        steering(torch.arange(m, dtype=DOUBLE)[:, None] / 2, uniform_directions(n), 1.0)
        for m, n in ((4, 6), (3, 6), (5, 6))
    ]
    ones = torch.ones(6, dtype=DOUBLE)
    gammas = [coupling_matrix(6, strength) @ ones, ones, coupling_matrix(6, strength) @ ones]
    y = crandn(4, 3, 5, seed=1)
    p = e_step(frames, y[None], [g[None] for g in gammas], torch.tensor([0.1], dtype=DOUBLE))
    mean, variance, cost, _ = dense(frames, gammas, y, 0.1)
    assert relative(p.mean, mean) < 1e-10
    assert relative(p.variance, variance) < 1e-10
    assert float(p.cost) == pytest.approx(float(cost), rel=1e-10)


def test_check_13_gradient_of_the_evidence():
    factors = [crandn(m, n, seed=m) for m, n in ((3, 4), (4, 4), (5, 6))]
    gammas = [positive(1, a.shape[1], seed=i) for i, a in enumerate(factors)]
    y, noise_var, step = crandn(1, 3, 4, 5, seed=9), torch.tensor([0.2], dtype=DOUBLE), 1e-5
    p = e_step(factors, y, gammas, noise_var)
    for i, g in enumerate(gammas):
        fit, load = p.slopes(i)
        slope = (g * (load - fit))[0]
        for n in range(g.shape[1]):
            away = []
            for sign in (1, -1):
                moved = g.clone()
                moved[0, n] *= math.exp(sign * step)
                away.append(float(e_step(factors, y, [*gammas[:i], moved, *gammas[i + 1 :]], noise_var).cost))
            numeric = (away[0] - away[1]) / (2 * step)
            assert abs(numeric - float(slope[n])) < 1e-6 * max(1.0, float(slope.abs().max()))
        # the sums over the other factors, as KS 1.7 writes them
        others = [k for k in range(1, 4) if k != i + 1]
        prior = outer(gammas)
        torch.testing.assert_close(fit * g, (p.power / prior).sum(others))
        torch.testing.assert_close(load * g, (1 - p.variance / prior).sum(others))


# -- M-steps ---------------------------------------------------------------------------------------------------


def q(d, gammas):
    gamma = outer(gammas)
    return float((gamma.log() + d / gamma).sum())


@few
@given(sizes=st.lists(st.integers(2, 6), min_size=2, max_size=4), seed=st.integers(0, 10_000))
def test_check_8_alternating_minimisation(sizes, seed):
    d = positive(1, *sizes, seed=seed)
    costs, fixed = [], []
    for attempt in range(5):  # starts spread over six decades
        start = [10 ** (3 * torch.rand(1, n, generator=generator(seed + attempt), dtype=DOUBLE)) for n in sizes]
        gammas = start
        for _ in range(10):
            before = q(d, gammas)
            gammas = alternating_minimisation(d, gammas, max_sweeps=1)
            assert q(d, gammas) <= before + 1e-12 * abs(before)
            assert abs(float((d / outer(gammas)).mean()) - 1) < 1e-12
        gammas = alternating_minimisation(d, gammas, tol=1e-15, max_sweeps=4000)
        costs.append(q(d, gammas))
        fixed.append(outer(gammas))
        ratio = d / fixed[-1]
        for i in range(1, len(sizes) + 1):
            means = ratio.mean([k for k in range(1, len(sizes) + 1) if k != i])
            assert float((means - 1).abs().max()) < 1e-10
    for other in fixed[1:]:
        assert relative(other, fixed[0]) < 1e-10


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_rank_one_projection_keeps_what_is_of_rank_one():
    gammas = normalise([positive(3, n, seed=n) for n in (4, 5, 6)])
    for found, expected in zip(rank_one_svd(outer(gammas)), gammas, strict=True):
        torch.testing.assert_close(found, expected)


FIXED = {
    "am": (am_krosbl, {"prune": 0.05}),  # what is to go to 0 takes thousands of iterations
    "ksbl": (ksbl, {"prune": 0.05}),
    "mm": (mm_krosbl, {}),
    "mm, one by one": (mm_krosbl, {"sequential": True}),
    "mm, coupled": (mm_krosbl, {"coupling": (0.5, 0.0, 0.5)}),
}


@pytest.mark.parametrize("name", FIXED)
def test_where_an_update_stays_the_evidence_is_stationary(name):
    """∂L/∂γ_i = load - fit is 0 for every γ_i that is not masked."""
    solver, options = FIXED[name]
    A, y, _, noise_var = problem(rank_one=False, seed=3)
    state = last(solver(A, y, noise_var=noise_var, **options), 300)
    p = e_step(A.factors, y, state.gammas, noise_var)
    couplings = [coupling_matrix(n, b) for n, b in zip(A.in_shape, options.get("coupling", (0.0,) * 3), strict=True)]
    latent = state.gammas if state.latent is None else state.latent.split(list(A.in_shape), dim=-1)
    for i, (u, c) in enumerate(zip(latent, couplings, strict=True)):
        fit, load = (v @ c for v in p.slopes(i))
        assert bool((u > 0).any())
        torch.testing.assert_close(fit[u > 0], load[u > 0], rtol=1e-6, atol=0)
        torch.testing.assert_close(mm_factor(u, *p.slopes(i), c), u, rtol=1e-6, atol=0)


# -- the evidence ----------------------------------------------------------------------------------------------


def problem(
    n=1, *, rank_one=True, snr=100.0, seed=0, dtype=torch.complex128, repeated=False, shapes=((5, 8), (6, 8), (7, 8))
):
    """y = A x + n, two nonzeros in each factor; `repeated`: tight frames and repeated columns."""
    g = generator(seed)
    factors = [torch.randn(*s, dtype=dtype, generator=g) for s in shapes]
    if repeated:
        factors[0] = torch.linalg.qr(factors[0].mH)[0].mH  # A Aᴴ = I
        factors[1] = torch.cat((factors[1][:, :4], factors[1][:, :4]), dim=1)
    A = Kronecker(factors)
    parts = [torch.zeros(n, k, dtype=dtype) for k in A.in_shape]
    for part in parts:
        for row in part:
            row[torch.randperm(len(row), generator=g)[:2]] = torch.randn(2, dtype=dtype, generator=g)
    x = outer(parts)
    if not rank_one:
        x = torch.where(x != 0, torch.randn(x.shape, dtype=dtype, generator=g), 0)
    clean = A(x)
    noise_var = clean.abs().square().flatten(1).mean(1) / snr
    scale = noise_var.sqrt().reshape(-1, *(1,) * (clean.ndim - 1))
    return A, clean + scale * torch.randn(clean.shape, dtype=dtype, generator=g), x, noise_var


def last(states, n):
    return next(itertools.islice(states, n - 1, None))


MONOTONE = {
    "am": (am_krosbl, {}),
    "ksbl": (ksbl, {}),
    "mm": (mm_krosbl, {"sequential": True}),
    "mm, coupled": (mm_krosbl, {"sequential": True, "coupling": (0.5, 0.0, 0.5)}),
    "sbl": (sbl, {}),
}


@pytest.mark.parametrize("known", [True, False], ids=["noise known", "noise unknown"])
@pytest.mark.parametrize("name", MONOTONE)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    repeated=st.booleans(),
    rank_one=st.booleans(),
    real=st.booleans(),
    snr=st.sampled_from([2.0, 30.0, 1e4]),
)
def test_check_9_evidence_never_falls(name, known, seed, repeated, rank_one, real, snr):
    solver, options = MONOTONE[name]
    dtype = DOUBLE if real else torch.complex128
    A, y, _, noise_var = problem(
        rank_one=rank_one, snr=snr, seed=seed, dtype=dtype, repeated=repeated, shapes=((3, 8), (4, 8), (5, 6))
    )
    noise = {"noise_var": noise_var} if known else {}
    costs = [float(s.objective) for s in itertools.islice(solver(A, y, prune=0.0, **noise, **options), 60)]
    assert all(b <= a + 1e-9 * abs(a) for a, b in itertools.pairwise(costs))
    assert costs[-1] < costs[0]


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["noise known", "noise unknown"])
@pytest.mark.parametrize("name", MONOTONE)
def test_check_9_evidence_never_falls_in_300_iterations(name, known):
    solver, options = MONOTONE[name]
    for seed in range(6):
        A, y, _, noise_var = problem(seed=seed, rank_one=seed % 2 == 0, repeated=seed > 3)
        noise = {"noise_var": noise_var} if known else {}
        costs = [float(s.objective) for s in itertools.islice(solver(A, y, prune=0.0, **noise, **options), 300)]
        assert all(b <= a + 1e-9 * abs(a) for a, b in itertools.pairwise(costs))


def test_the_default_lowers_the_cost_after_its_first_phase():
    A, y, _, noise_var = problem(6, seed=4, rank_one=False)
    states = itertools.islice(svd_mm_krosbl(A, y, first=10, prune=0.0, noise_var=noise_var), 10, 150)
    costs = torch.stack([s.objective for s in states])
    assert bool((costs.diff(dim=0) <= 1e-9 * costs[:-1].abs()).all())


# -- invariances, check 10 ------------------------------------------------------------------------------------


def test_check_10_ambiguity_of_scale():
    factors = [crandn(m, 5, seed=m) for m in (3, 4, 6)]
    gammas = [positive(1, 5, seed=i) for i in range(3)]
    y, noise_var = crandn(1, 3, 4, 6, seed=7), torch.tensor([0.3], dtype=DOUBLE)
    p = e_step(factors, y, gammas, noise_var)
    moved = e_step(factors, y, [7.0 * gammas[0], gammas[1], gammas[2] / 7.0], noise_var)
    c = 1e5
    scaled = e_step(factors, c**0.5 * y, [gammas[0], c * gammas[1], gammas[2]], c * noise_var)
    assert relative(moved.mean, p.mean) < 1e-10
    assert relative(moved.variance, p.variance) < 1e-10
    assert float(moved.cost) == pytest.approx(float(p.cost), rel=1e-10)
    assert relative(scaled.mean, c**0.5 * p.mean) < 1e-10
    assert relative(scaled.variance, c * p.variance) < 1e-10
    assert float(scaled.cost) == pytest.approx(float(p.cost) + 72 * math.log(c), rel=1e-10)
    nothing = e_step(factors, y, gammas, torch.tensor([1e14], dtype=DOUBLE))
    assert float(nothing.mean.abs().max()) < 1e-9
    assert relative(nothing.variance, outer(gammas)) < 1e-9


SOLVERS = {
    "am": (am_krosbl, {}),
    "ksbl": (ksbl, {}),
    "svd": (svd_krosbl, {}),
    "mm": (mm_krosbl, {}),
    "mm, one by one": (mm_krosbl, {"sequential": True}),
    "svd, then mm": (svd_mm_krosbl, {"first": 5}),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_check_10_columns_may_be_turned_and_exchanged(name):
    solver, options = SOLVERS[name]
    A, y, _, noise_var = problem(seed=5)
    order = [torch.randperm(8, generator=generator(i)) for i in range(3)]
    turned = [
        (a * torch.exp(2j * torch.pi * torch.rand(8, dtype=DOUBLE, generator=generator(i))))[:, ix]
        for i, (a, ix) in enumerate(zip(A.factors, order, strict=True))
    ]
    one = last(solver(A, y, noise_var=noise_var, **options), 12)
    other = last(solver(Kronecker(turned), y, noise_var=noise_var, **options), 12)
    for g, h, ix in zip(one.gammas, other.gammas, order, strict=True):
        torch.testing.assert_close(h, g[:, ix], rtol=1e-8, atol=1e-12 * float(g.max()))
    back = other.variance[:, :, :, order[2].argsort()][:, :, order[1].argsort()][:, order[0].argsort()]
    assert relative(back, one.variance) < 1e-8


@pytest.mark.parametrize("name", ["am", "mm"])
def test_check_10_factors_may_be_exchanged(name):
    solver, options = SOLVERS[name]
    options = {"inner_tol": 1e-14, "max_sweeps": 1000} if name == "am" else options  # the order is that of the sweeps
    A, y, _, noise_var = problem(seed=6)
    one = last(solver(A, y, noise_var=noise_var, **options), 8)
    swapped = Kronecker([A.factors[2], A.factors[0], A.factors[1]])
    other = last(solver(swapped, y.permute(0, 3, 1, 2).contiguous(), noise_var=noise_var, **options), 8)
    assert relative(other.x.permute(0, 2, 3, 1), one.x) < 1e-8


@pytest.mark.parametrize("known", [True, False], ids=["noise known", "noise unknown"])
@pytest.mark.parametrize("scale", [1e-6, 1e5])
@pytest.mark.parametrize("name", SOLVERS)
def test_units_of_the_data_change_nothing_not_even_when_it_stops(name, scale, known):
    solver, options = SOLVERS[name]
    A, y, _, noise_var = problem(3, seed=7)
    stop = settled(1e-6, 5) if name == "svd, then mm" else None
    noise = ({"noise_var": noise_var}, {"noise_var": scale**2 * noise_var}) if known else ({}, {})
    (one, _, n_one), (other, _, n_other) = (
        estimate(A, s * y, solver, stop=stop, **given, **options) for s, given in zip((1.0, scale), noise, strict=True)
    )
    assert n_one.tolist() == n_other.tolist()
    assert relative(other.x, scale * one.x) < 1e-6
    assert relative(other.variance, scale**2 * one.variance) < 1e-6
    assert float((other.dual - one.dual).abs().max()) < 1e-9


@pytest.mark.parametrize("real", [True, False])
def test_one_factor_makes_all_estimators_classical(real):
    """KS 4, item 9."""
    dtype = DOUBLE if real else torch.complex128
    A = Kronecker([crandn(8, 20, dtype=dtype)])
    y = crandn(1, 8, seed=2, dtype=dtype)
    options = {"noise_var": 0.1, "prune": 0.0, "start_var": 1.0}
    expected = last(sbl(A, y, **options), 20)
    for solver in (am_krosbl, ksbl, svd_krosbl):
        assert relative(last(solver(A, y, **options), 20).x, expected.x) < 1e-9


def test_minima_are_sparse():
    """KS 4, item 3: without noise and pruning no factor keeps more columns than rows."""
    A, _, x, _ = problem(seed=8, shapes=((3, 8), (4, 8), (5, 8)))
    state = last(mm_krosbl(A, A(x), noise_var=1e-6, prune=0.0), 500)
    for g, m in zip(state.gammas, A.out_shape, strict=True):
        assert int((g > 1e-6 * g.amax()).sum()) <= m


# -- rank one --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr_db", [10.0, 20.0, 30.0])
def test_check_12_rank_one_denoising(snr_db):
    """An error of σ² (ΣM_i - 2) is left of σ² M; of noise that is found from the residual the mean is σ²."""
    n, shape = 200, (8, 12, 15)
    clean = outer([crandn(n, m, seed=m) for m in shape])
    noise_var = clean.abs().square().flatten(1).mean(1) * 10 ** (-snr_db / 10)
    y = clean + noise_var.sqrt().reshape(-1, 1, 1, 1) * crandn(n, *shape, seed=1)
    error = (outer(decompose(y)) - clean).abs().square().flatten(1).sum(1) / noise_var
    assert float(error.mean()) == pytest.approx(33, abs=1)
    found = rank_one_noise_var(y) / noise_var
    assert float(found.mean()) == pytest.approx(1, abs=0.01)
    assert float(found.std()) == pytest.approx(1 / math.sqrt(1440 - 33), rel=0.2)


def test_noise_is_not_found_where_the_rank_is_higher():
    y = outer([crandn(5, m, seed=m) for m in (8, 12, 15)]) + outer([crandn(5, m, seed=m + 50) for m in (8, 12, 15)])
    assert float(rank_one_noise_var(y).abs().max()) == 0
    assert float(rank_one_noise_var(crandn(2, 3)).abs().max()) == 0  # nothing is left of a vector


def test_a_floor_holds_an_unknown_noise_variance_up():
    A, y, _, noise_var = problem(3, seed=9)
    high = last(mm_krosbl(A, y, noise_floor=10 * noise_var), 30)
    assert bool((high.noise_var >= 10 * noise_var * (1 - 1e-12)).all())
    low = last(mm_krosbl(A, y), 30)
    torch.testing.assert_close(last(mm_krosbl(A, y, noise_floor=1e-9), 30).x, low.x)
    with pytest.raises(ValueError, match="noise_floor: expected finite numbers > 0"):
        next(mm_krosbl(A, y, noise_floor=0.0))


# -- a whole batch ---------------------------------------------------------------------------------------------


def test_greedy_solvers_are_estimated_like_all_others():
    A, y, x, noise_var = problem(4, snr=1e4)
    batch = y.reshape(2, 2, *A.out_shape)
    state, outcomes, iterations = estimate(A, batch, omp, noise_var=noise_var.reshape(2, 2))
    assert state.x.shape == (2, 2, *A.in_shape)
    assert bool(state.finished.all())
    assert {o.value for o in outcomes} == {"tolerance"}
    assert int(iterations.max()) <= 50
    alone, _, _ = estimate(A, y[1], omp, noise_var=noise_var[1])
    torch.testing.assert_close(alone.x, state.x[0, 1])
    share, _, _ = estimate(A, y, omp, residual=torch.tensor([0.5, 0.1, 0.5, 0.1]))
    assert bool((share.primal <= torch.tensor([0.5, 0.1, 0.5, 0.1])).all())
    truth = (y - mode_products(x, A.factors)).flatten(1).norm(dim=1)
    assert bool((state.data_fidelity.flatten() <= 1.2 * truth).all())


def test_the_published_pattern_coupling_runs_in_a_batch():
    A, y, _, noise_var = problem(3, seed=2)
    state, _, _ = estimate(A, y, pc_krosbl, noise_var=noise_var, coupling=(0.5, 0.0, 0.5), max_iter=20)
    alone, _, _ = estimate(A, y[1:2], pc_krosbl, noise_var=noise_var[1:2], coupling=(0.5, 0.0, 0.5), max_iter=20)
    torch.testing.assert_close(alone.x[0], state.x[1], rtol=1e-6, atol=1e-9)
