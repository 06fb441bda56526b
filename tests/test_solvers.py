"""Laws of ADMM and C-SALSA: closed forms, optimality, counts, scaling, batches, continuation."""

import itertools
import math

import pytest
import torch
from solver_cases import Dense, Exact, dense, problem, randn, relative, spots

from imaging.errors import ShapeError
from imaging.operators import LinearOperator
from imaging.priors import L1, Magnitude, TotalVariation
from imaging.solvers import (
    CgEllipsoid,
    CgSolver,
    Outcome,
    SolverCache,
    admm,
    csalsa,
    csalsa_projected,
    residuals_below,
    run,
    starting_image,
)
from imaging.solvers._batch import real_rows


class Multiple(LinearOperator):
    """y = c x: every problem has a closed form."""

    def __init__(self, c: complex, dtype: torch.dtype = torch.complex128) -> None:
        super().__init__((3, 4, 5), (3, 4, 5), dtype=dtype)
        self.c = c

    def _forward(self, x):
        return self.c * x

    def _adjoint(self, y):
        return complex(self.c).conjugate() * y if y.is_complex() else self.c * y


def tight(A):
    """Linear solves to rounding, so that only the outer iteration is seen."""
    if isinstance(A, Dense):
        return SolverCache(A, lambda rho: Exact(A, rho))
    return SolverCache(A, lambda rho: CgSolver(A, rho, tol=1e-13, max_iter=500))


def last(states, n):
    return next(itertools.islice(states, n - 1, None))


def soft_at_radius(y: torch.Tensor, epsilon: float) -> torch.Tensor:
    """argmin ‖x‖₁ s.t. ‖x - y‖ <= epsilon: the soft threshold whose residual has norm epsilon."""
    low, high = 0.0, float(y.abs().max())
    for _ in range(200):
        tau = (low + high) / 2
        if float(y.abs().clamp_max(tau).norm()) > epsilon:
            high = tau
        else:
            low = tau
    return L1().prox(y, tau)


# -- closed forms, counts, scaling ----------------------------------------------------------------


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0, 2j])
@pytest.mark.parametrize("solver", ["csalsa", "projected"])
def test_denoising_with_a_radius(c, solver):
    A = Multiple(c)
    y = abs(c) * randn(2, 3, 4, 5)
    epsilon = 0.4 * y.flatten(1).norm(dim=1)
    if solver == "csalsa":
        states = csalsa(A, y, L1(), epsilon=epsilon, kappa=abs(c) ** 2, alpha=0.3, solvers=tight(A))
    else:
        states = csalsa_projected(A, y, L1(), epsilon=epsilon, alpha=0.3, projector=CgEllipsoid(A, tol=1e-12))
    state, outcome = run(states, stop=residuals_below(1e-9), max_iter=500)
    assert outcome is Outcome.TOLERANCE
    expected = torch.stack([soft_at_radius(y[i] / c, float(epsilon[i]) / abs(c)) for i in range(2)])
    assert relative(state.x, expected) < 1e-7
    assert torch.allclose(state.objective, expected.abs().sum((1, 2, 3)), rtol=1e-7)
    assert torch.allclose(state.data_fidelity, epsilon, rtol=1e-7)
    # the count does not depend on the size of A, because kappa follows it; a wrong step would show here
    assert state.iteration == {"csalsa": 53, "projected": 21}[solver]


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0, 2j])
def test_denoising_with_a_weight(c):
    A = Multiple(c)
    y = abs(c) * randn(2, 3, 4, 5)
    weight = 0.5 * abs(c) ** 2
    state, outcome = run(
        admm(A, y, L1(weight), rho=abs(c) ** 2, solvers=tight(A)), stop=residuals_below(1e-10), max_iter=200
    )
    assert outcome is Outcome.TOLERANCE
    # argmin ½‖c x - y‖² + weight ‖x‖₁ = soft(y / c, weight / |c|²)
    assert relative(state.z, L1().prox(y / c, 0.5)) < 1e-9
    assert relative(state.x, state.z) < 1e-9
    assert state.iteration == 34


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("size", [0.1, 10.0])
def test_the_lasso_satisfies_its_optimality_conditions(size, dtype):
    A, _, y, _ = problem(size, dtype=dtype)
    weight = 0.1 * size**2
    states = admm(A, y, L1(weight), rho=0.1 * size**2, solvers=tight(A))
    state, outcome = run(states, stop=residuals_below(1e-9), max_iter=1000)
    assert outcome is Outcome.TOLERANCE
    gradient = A.adjoint(A(state.z) - y)
    on = state.z.abs() > 1e-8
    sign = state.z[on] / state.z[on].abs()
    assert torch.allclose(gradient[on], -weight * sign, atol=1e-6 * weight)
    assert float(gradient[~on].abs().max()) <= weight * (1 + 1e-6)
    expected = 0.5 * (A(state.z) - y).norm(dim=-1) ** 2 + weight * state.z.abs().sum((1, 2, 3))
    assert torch.allclose(state.objective, expected.to(torch.float64), rtol=1e-7)


def test_a_quadratic_prior_gives_tikhonov():
    class Ridge:
        def prox(self, v, step):
            return v / (1 + step)

    A, _, y, _ = problem()
    state, _ = run(admm(A, y, Ridge(), rho=1.0, solvers=tight(A)), stop=residuals_below(1e-12), max_iter=500)
    m = A.m
    expected = torch.linalg.solve(m.mH @ m + torch.eye(60, dtype=m.dtype), m.mH @ y.T).T.reshape(state.z.shape)
    assert relative(state.z, expected) < 1e-9
    assert state.objective is None
    assert state.sigma is None


@pytest.mark.parametrize("size", [0.1, 10.0])
def test_the_limit_of_l1_depends_on_neither_penalty_nor_splitting(size):
    A, truth, y, epsilon = problem(size)
    limits = []
    for kappa, alpha in ((0.02, 0.02), (0.2, 0.02), (0.5, 0.01), (0.05, 0.05)):
        states = csalsa(A, y, L1(), epsilon=epsilon, kappa=kappa * size**2, alpha=alpha, solvers=tight(A))
        state, outcome = run(states, stop=residuals_below(1e-7), max_iter=1000)
        assert outcome is Outcome.TOLERANCE
        limits.append(state.x)
        assert torch.allclose(state.data_fidelity, epsilon, rtol=1e-4)
    states = csalsa_projected(A, y, L1(), epsilon=epsilon, alpha=0.05, projector=CgEllipsoid(A, tol=1e-11))
    limits.append(run(states, stop=residuals_below(1e-6), max_iter=1000)[0].x)
    assert max(relative(x, limits[0]) for x in limits) < 1e-5
    # it is the minimum: no feasible mixture with the truth or with zero noise is sparser
    values = limits[0].abs().sum((1, 2, 3))
    mixed = 0.99 * limits[0] + 0.01 * truth  # the truth is feasible: its residual is the noise
    assert bool((mixed.abs().sum((1, 2, 3)) >= values - 1e-6).all())


def test_scaling_the_operator_and_kappa_changes_nothing():
    runs = []
    for size in (0.1, 10.0):
        A, _, y, epsilon = problem(size)
        states = csalsa(A, y, L1(), epsilon=epsilon, kappa=0.2 * size**2, alpha=0.05, solvers=tight(A))
        runs.append(run(states, stop=residuals_below(1e-6), max_iter=2000)[0])
    assert runs[0].iteration == runs[1].iteration
    assert relative(runs[0].x, runs[1].x) < 1e-9


def test_every_projected_iterate_fits_the_data():
    A, _, y, epsilon = problem()
    states = csalsa_projected(A, y, Magnitude(TotalVariation()), epsilon=epsilon, alpha=0.02)
    for state in itertools.islice(states, 8):
        assert bool((state.data_fidelity <= epsilon * (1 + 1e-6)).all())
        assert torch.allclose((A(state.x) - y).norm(dim=-1), state.data_fidelity)


def test_an_unreachable_radius_shows_in_the_data_fidelity():
    A = dense(n_data=80)
    y = randn(2, 80, seed=3)
    state = last(csalsa_projected(A, y, L1(), epsilon=1e-6, alpha=0.1), 3)
    assert bool((state.data_fidelity > 0.1).all())
    assert bool(torch.isfinite(state.mu).all())


# -- the starting rule and scale (T16, T17) -------------------------------------------------------


def test_the_starting_image_fits_best_and_scales_with_the_data():
    A, _, y, _ = problem()
    s = starting_image(A, y)
    fit = (A(s) - y).norm(dim=-1)
    for factor in (0.99, 1.01, 1 + 0.01j):
        assert bool(((factor * A(s) - y).norm(dim=-1) > fit).all())
    assert torch.allclose(starting_image(A, 1e-6 * y), 1e-6 * s)
    assert torch.equal(starting_image(A, 0 * y), 0 * s)


def test_the_first_iteration_returns_its_starting_point():
    A, _, y, epsilon = problem()
    for x0 in (None, randn(3, 3, 4, 5, seed=9)):
        state = next(csalsa(A, y, L1(), epsilon=epsilon, kappa=0.2, alpha=0.05, x0=x0))
        assert relative(state.x, starting_image(A, y) if x0 is None else x0) <= 1e-12
        assert float(state.relative_change.max()) <= 1e-12


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_relative_prior_makes_the_solver_scale_with_its_data(scale):
    A, _, y, epsilon = problem()
    prior = Magnitude(lambda m, sigma: m / (1 + sigma**2), relative=True)
    for make in (
        lambda y, e: csalsa(A, y, prior, epsilon=e, kappa=0.2, alpha=0.05),
        lambda y, e: csalsa_projected(A, y, prior, epsilon=e, alpha=0.05),
    ):
        one, other = last(make(y, epsilon), 10), last(make(scale * y, scale * epsilon), 10)
        assert relative(other.x / scale, one.x) <= 1e-4
        assert torch.allclose(other.relative_change, one.relative_change, rtol=1e-3)


def test_a_zero_measurement_gives_a_zero_image():
    A = dense()
    y = torch.zeros(2, 40, dtype=torch.complex128)
    for states in (
        csalsa(A, y, Magnitude(TotalVariation()), epsilon=0.0, kappa=0.2, alpha=0.05),
        csalsa_projected(A, y, L1(), epsilon=0.1, alpha=0.05),
        admm(A, y, L1(), rho=1.0),
    ):
        state, outcome = run(states, stop=residuals_below(1e-6), max_iter=5)
        assert outcome is Outcome.TOLERANCE
        assert torch.equal(state.x, torch.zeros_like(state.x))


# -- parameters -----------------------------------------------------------------------------------


def test_alpha_may_be_a_number_a_sequence_or_a_function():
    A, _, y, epsilon = problem()
    prior = Magnitude(lambda m, sigma: m / (1 + sigma**2))

    def sigmas(alpha):
        states = csalsa(A, y, prior, epsilon=epsilon, kappa=0.2, alpha=alpha)
        return [state.sigma for state in itertools.islice(states, 4)]

    assert sigmas(0.04) == pytest.approx([0.2] * 4)
    assert sigmas([0.16, 0.09, 0.04]) == pytest.approx([0.4, 0.3, 0.2, 0.2])
    assert sigmas(lambda k: 0.01 * k**2) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_schedule_goes_on_where_a_run_was_interrupted():
    A, _, y, epsilon = problem()

    def solve(start=None):
        return csalsa(A, y, L1(), epsilon=epsilon, kappa=0.2, alpha=[0.1 * 0.9**k for k in range(20)], start=start)

    whole = last(solve(), 20)
    half = last(solve(), 10)
    assert torch.equal(last(solve(half), 10).x, whole.x)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_balancing_repairs_a_bad_penalty(factor):
    A, _, y, epsilon = problem()

    def csalsa_run(balance):
        states = csalsa(A, y, L1(), epsilon=epsilon, kappa=0.2 * factor, alpha=0.05, balance=balance, solvers=tight(A))
        return run(states, stop=residuals_below(1e-5), max_iter=1000)[0]

    def admm_run(balance):
        states = admm(A, y, L1(0.05), rho=0.1 * factor, balance=balance, solvers=tight(A))
        return run(states, stop=residuals_below(1e-5), max_iter=1000)[0]

    for solve, good in (
        (csalsa_run, last(csalsa(A, y, L1(), epsilon=epsilon, kappa=0.2, alpha=0.05, solvers=tight(A)), 500)),
        (admm_run, last(admm(A, y, L1(0.05), rho=0.1, solvers=tight(A)), 500)),
    ):
        fixed, balanced = solve(False), solve(True)
        assert balanced.iteration < 0.5 * fixed.iteration
        assert relative(balanced.x, good.x) < 1e-2
        ratio = torch.log2(balanced.rho / (0.2 * factor if solve is csalsa_run else 0.1 * factor))
        assert torch.equal(ratio, ratio.round())  # only factors of two


def test_wrong_arguments_are_told():
    A, _, y, epsilon = problem()
    with pytest.raises(ShapeError, match=r"C-SALSA y: expected \(..., 40\) as Dense gives, got \(3, 39\)"):
        next(csalsa(A, y[:, 1:], L1(), epsilon=epsilon, kappa=1, alpha=1))
    with pytest.raises(ShapeError, match="epsilon: expected one number or shape"):
        next(csalsa(A, y, L1(), epsilon=epsilon[:2], kappa=1, alpha=1))
    with pytest.raises(ValueError, match="epsilon: expected >= 0"):
        next(csalsa_projected(A, y, L1(), epsilon=-epsilon, alpha=1))
    with pytest.raises(ValueError, match="alpha: expected numbers > 0"):
        next(csalsa(A, y, L1(), epsilon=epsilon, kappa=1, alpha=[0.1, -1]))
    with pytest.raises(ValueError, match="kappa: expected > 0"):
        next(csalsa(A, y, L1(), epsilon=epsilon, kappa=0, alpha=1))
    with pytest.raises(ShapeError, match="admm y"):
        next(admm(A, y[0, 1:], L1(), rho=1))
    with pytest.raises(ValueError, match="rho: expected > 0"):
        next(admm(A, y, L1(), rho=math.nan))


# -- batches (T23) --------------------------------------------------------------------------------

SOLVERS = {
    "csalsa": lambda A, y, e, p, **k: csalsa(A, y, p, epsilon=e, kappa=0.2, alpha=0.05, **k),
    "csalsa balanced": lambda A, y, e, p, **k: csalsa(A, y, p, epsilon=e, kappa=20.0, alpha=0.05, balance=True, **k),
    "projected": lambda A, y, e, p, **k: csalsa_projected(A, y, p, epsilon=e, alpha=0.05, **k),
    "admm": lambda A, y, e, p, **k: admm(A, y, p, rho=0.2, **k),
    "admm balanced": lambda A, y, e, p, **k: admm(A, y, p, rho=20.0, balance=True, **k),
}
CASES = [
    (name, prior_name, prior)
    for name in SOLVERS
    for prior_name, prior in (
        ("l1", L1(0.1)),
        ("tv", Magnitude(TotalVariation(0.1))),
        ("denoiser", Magnitude(lambda m, sigma: m / (1 + sigma**2), relative=True)),
    )
]


@pytest.mark.parametrize(("name", "prior_name", "prior"), CASES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_problem_alone_is_the_problem_in_a_batch(name, prior_name, prior, dtype):
    A, _, y, epsilon = problem(n=8, dtype=dtype)
    together = last(SOLVERS[name](A, y, epsilon, prior), 12)
    square = last(SOLVERS[name](A, y.reshape(2, 4, 40), epsilon.reshape(2, 4), prior), 12)
    assert square.primal.shape == (2, 4)
    assert relative(square.x.reshape(together.x.shape), together.x) <= 1e-5
    for i in (0, 5, 7):
        alone = last(SOLVERS[name](A, y[i], epsilon[i], prior), 12)
        assert alone.x.shape == (3, 4, 5)
        assert alone.primal.shape == ()
        assert float((alone.x - together.x[i]).norm() / together.x[i].norm()) <= 1e-5
        assert torch.allclose(alone.data_fidelity, together.data_fidelity[i], rtol=1e-4)


# -- continuation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "prior_name", "prior"), CASES)
def test_ten_and_ten_iterations_are_twenty(name, prior_name, prior):
    A, _, y, epsilon = problem(dtype=torch.complex64)
    whole = last(SOLVERS[name](A, y, epsilon, prior), 20)
    half = last(SOLVERS[name](A, y, epsilon, prior), 10)
    rest = last(SOLVERS[name](A, y, epsilon, prior, start=half), 10)
    assert rest.iteration == whole.iteration == 20
    for field, value in vars(whole).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(real_rows(getattr(rest, field), 0), real_rows(value, 0)), field
        else:
            assert getattr(rest, field) == value


def test_the_truth_is_found():
    A, truth, y, epsilon = problem(noise=0.005)
    state, _ = run(
        csalsa(A, y, Magnitude(L1()), epsilon=epsilon, kappa=0.2, alpha=0.05),
        stop=residuals_below(1e-5),
        max_iter=1000,
    )
    assert torch.equal(spots(3), truth)
    assert relative(state.x, truth) < 0.1
