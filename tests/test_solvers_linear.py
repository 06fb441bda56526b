"""Laws of conjugate gradients and of the projection on the data ellipsoid."""

import pytest
import torch
from solver_cases import Dense, dense, randn, relative

from imaging.errors import ShapeError
from imaging.solvers import (
    CgEllipsoid,
    CgSolver,
    EllipsoidProjector,
    RegularisedSolver,
    SolverCache,
    cg,
    secular_root,
)

DTYPES = [torch.float64, torch.complex128]


def spd(values: torch.Tensor, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """A Hermitian matrix with these eigenvalues."""
    q, _ = torch.linalg.qr(randn(len(values), len(values), dtype=dtype, seed=seed))
    return (q * values.to(dtype)) @ q.mH


# -- cg -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_cg_takes_as_many_steps_as_there_are_eigenvalues(dtype, size):
    values = size * torch.tensor([1.0] * 10 + [3.0] * 10 + [7.0] * 10 + [20.0] * 10, dtype=torch.float64)
    q = spd(values, dtype)
    b = randn(2, 3, 40, dtype=dtype, seed=1)
    x, info = cg(lambda v: v @ q.T, b, tol=1e-10, batch_ndim=2)
    assert relative(x.reshape(6, 40), torch.linalg.solve(q, b.reshape(6, 40).T).T) < 1e-9
    assert torch.equal(info.iterations, torch.full((2, 3), 4))
    assert bool(info.converged.all())
    assert float(info.residual.max()) <= 1e-10


def test_each_problem_stops_by_itself_and_then_costs_nothing():
    values = torch.logspace(0, 3, 50, dtype=torch.float64)
    easy = torch.zeros(50, dtype=torch.complex128)
    easy[10] = 1j  # an eigenvector: one step
    b = torch.stack((easy, randn(50, seed=1), torch.zeros_like(easy), 1e8 * randn(50, seed=2)))
    rows = 0

    def gram(v):
        nonlocal rows
        rows += len(v)
        return v * values

    x, info = cg(gram, b, tol=1e-8)
    assert info.iterations.tolist()[0] == 1
    assert info.iterations.tolist()[2] == 0
    assert rows == int(info.iterations.sum())
    assert torch.equal(x[2], torch.zeros_like(x[2]))
    for i in range(4):
        alone, alone_info = cg(gram, b[i], tol=1e-8, batch_ndim=0)
        assert int(alone_info.iterations) == int(info.iterations[i])
        assert torch.equal(alone, x[i])
    residual = (b - x * values).norm(dim=1)
    assert bool((residual <= 1.01e-8 * b.norm(dim=1)).all())


def test_cg_starts_where_it_is_told():
    q = spd(torch.logspace(0, 2, 50, dtype=torch.float64), torch.complex128)
    exact = randn(2, 50, seed=1)
    b = exact @ q.T
    _, there = cg(lambda v: v @ q.T, b, x0=exact, tol=1e-8)
    assert there.iterations.tolist() == [0, 0]
    _, near = cg(lambda v: v @ q.T, b, x0=exact + 1e-4 * randn(2, 50, seed=2), tol=1e-8)
    _, cold = cg(lambda v: v @ q.T, b, tol=1e-8)
    assert bool((near.iterations < cold.iterations).all())
    x, _ = cg(lambda v: v @ q.T, torch.zeros_like(b), x0=exact)
    assert torch.equal(x, torch.zeros_like(b))


def test_cg_stops_at_the_limit_and_says_so():
    q = spd(torch.logspace(0, 6, 50, dtype=torch.float64), torch.complex128)
    _, info = cg(lambda v: v @ q.T, randn(2, 50, seed=1), tol=1e-12, max_iter=5)
    assert info.iterations.tolist() == [5, 5]
    assert not bool(info.converged.any())


def test_bad_numbers_stay_in_their_problem():
    q = spd(torch.logspace(0, 2, 50, dtype=torch.float64), torch.complex128)
    b = randn(2, 50, seed=1)
    b[0, 3] = torch.nan
    x, info = cg(lambda v: v @ q.T, b)
    assert info.converged.tolist() == [False, True]
    assert not bool(torch.isfinite(x[0]).all())
    assert bool(torch.isfinite(x[1]).all())
    with pytest.raises(ShapeError, match="expected the shape of b"):
        cg(lambda v: v @ q.T, b, x0=b[0])


def test_inner_products_of_single_precision_accumulate_in_double():
    # 10^7 ones and a large number: a float32 sum would lose the ones
    b = torch.ones(1, 2**24 + 3)
    _, info = cg(lambda v: 2 * v, b, tol=1e-6)
    assert info.iterations.tolist() == [1]
    assert float(info.residual) < 1e-7


# -- regularised solve ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.1, 10.0])
def test_cg_solver_solves_and_minimises(dtype, size):
    A = dense(size, dtype=dtype)
    rho = 0.05 * size**2
    solver = CgSolver(A, rho, tol=1e-12)
    assert isinstance(solver, RegularisedSolver)
    b = randn(2, 2, 3, 4, 5, dtype=dtype, seed=1)
    x = solver(b)
    assert torch.allclose(A.gram(x) + rho * x, b, atol=1e-9 * float(b.abs().max()))
    assert solver.info.iterations.shape == (2, 2)
    assert torch.allclose(solver.solve(b), x)

    u, w = randn(2, 3, 4, 5, dtype=dtype, seed=2), randn(2, 40, dtype=dtype, seed=3)
    x, Ax = solver.prox(u, w)
    assert torch.allclose(Ax, A(x))
    # NF (5.1): c = (rho I + A Aᴴ)⁻¹ (w - A u), x = u + Aᴴ c, A x = w - rho c
    G = A.m @ A.m.mH + rho * torch.eye(40, dtype=dtype)
    c = torch.linalg.solve(G, (w - A(u)).T).T
    assert relative(x, u + A.adjoint(c)) < 1e-6
    assert relative(Ax, w - rho * c) < 1e-6
    warm, _ = solver.prox(u, w, x0=x)
    assert relative(warm, x) < 1e-9
    assert int(solver.info.iterations.max()) <= 1


def test_prox_of_a_consistent_pair_changes_nothing():
    A = dense()
    u = randn(2, 3, 4, 5, seed=2)
    for x0, allowed in ((None, 0.0), (u, 0.0), (3 * u, 1e-7)):
        x, Ax = CgSolver(A, 0.1, tol=1e-8).prox(u, A(u), x0)
        assert relative(x, u) <= allowed
        assert torch.allclose(Ax, A(x))


def test_a_penalty_must_be_positive():
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="rho: expected > 0"):
            CgSolver(dense(), bad)


def test_solver_cache_solves_each_problem_with_its_own_penalty():
    A = dense()
    made = []

    def make(rho):
        made.append(rho)
        return CgSolver(A, rho, tol=1e-12)

    cache = SolverCache(A, make)
    u, w = randn(3, 3, 4, 5, seed=2), randn(3, 40, seed=3)
    rho = torch.tensor([0.1, 0.4, 0.1], dtype=torch.float64)
    for _ in range(2):
        x, Ax = cache.prox(rho, u, w, u)
    assert made == [0.1, 0.4]
    for i in range(3):
        alone, alone_Ax = CgSolver(A, float(rho[i]), tol=1e-12).prox(u[i], w[i])
        assert torch.allclose(x[i], alone)
        assert torch.allclose(Ax[i], alone_Ax)
    same, _ = SolverCache(A).prox(rho[:1].expand(3), u, w)
    assert relative(same[[0, 2]], x[[0, 2]]) < 1e-4


# -- projection on the ellipsoid (T12) ------------------------------------------------------------


def by_eigenvectors(A: Dense, u, y, epsilon):
    """NF (5.2) for one problem, bisection on the dense eigendecomposition."""
    values, vectors = torch.linalg.eigh(A.m @ A.m.mH)
    r = vectors.mH @ (y - A(u))
    low, high = -40.0, 40.0
    for _ in range(200):
        middle = (low + high) / 2
        mu = 2.718281828459045**middle
        if float((mu / (mu + values) * r.abs()).norm()) < epsilon:
            low = middle
        else:
            high = middle
    return u + A.adjoint(vectors @ (r / (mu + values))), mu


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.1, 10.0])
def test_projection_on_the_ellipsoid(dtype, size):
    A = dense(size, dtype=dtype)
    project = CgEllipsoid(A, tol=1e-10)
    assert isinstance(project, EllipsoidProjector)
    u, y = randn(4, 3, 4, 5, dtype=dtype, seed=2), size * randn(4, 40, dtype=dtype, seed=3)
    start = (A(u) - y).norm(dim=-1).to(torch.float64)
    epsilon = start * torch.tensor([0.9, 0.3, 0.03, 1.1], dtype=torch.float64)
    x, Ax, mu = project(u, y, epsilon)
    assert torch.allclose(Ax, A(x))
    assert bool(project.info.converged.all())
    assert bool(project.info.feasible.all())

    distance = (Ax - y).norm(dim=-1)
    assert torch.allclose(distance[:3] / epsilon[:3], torch.ones(3, dtype=torch.float64), atol=1e-6)
    # inside already: unchanged
    assert torch.equal(x[3], u[3])
    assert float(mu[3]) == float("inf")
    assert int(project.info.steps[3]) == 0
    # optimal: x - u = Aᴴ c with mu c = y - A x
    c = (y - Ax)[:3] / mu[:3].unsqueeze(-1)
    assert relative((x - u)[:3], A.adjoint(c.to(dtype))) < 1e-6
    for i in range(3):
        expected, expected_mu = by_eigenvectors(A, u[i], y[i], float(epsilon[i]))
        assert float((x[i] - expected).norm() / expected.norm()) < 1e-6
        assert float(mu[i]) == pytest.approx(expected_mu, rel=1e-5)
    # idempotent
    again, _, _ = project(x, y, epsilon * (1 + 1e-9), mu)
    assert relative(again, x) < 1e-6
    # one at a time, and with two batch axes
    for i in range(4):
        assert torch.allclose(project(u[i], y[i], epsilon[i])[0], x[i], rtol=1e-8)
    square, _, _ = project(u.reshape(2, 2, 3, 4, 5), y.reshape(2, 2, 40), epsilon.reshape(2, 2))
    assert torch.allclose(square.reshape(u.shape), x, rtol=1e-8)


def test_an_ellipsoid_out_of_reach_gives_the_nearest_fit():
    A = dense(n_data=80)  # more data than voxels: most y cannot be reached
    u, y = randn(2, 3, 4, 5, seed=2), randn(2, 80, seed=3)
    project = CgEllipsoid(A, tol=1e-10)
    x, Ax, mu = project(u, y, 1e-3)
    assert project.info.feasible.tolist() == [False, False]
    best = torch.linalg.lstsq(A.m, y.T).solution.T.reshape(x.shape)
    assert relative(x, best) < 1e-6
    assert bool(torch.isfinite(mu).all())
    assert torch.allclose((Ax - y).norm(dim=-1), (A(best) - y).norm(dim=-1))


def test_single_precision_projections_are_feasible():
    A = dense(10.0, dtype=torch.complex64)
    u, y = randn(2, 3, 4, 5, dtype=torch.complex64, seed=2), 10 * randn(2, 40, dtype=torch.complex64, seed=3)
    epsilon = 0.2 * (A(u) - y).norm(dim=-1).to(torch.float64)
    project = CgEllipsoid(A, tol=1e-5)
    x, _, _ = project(u, y, epsilon)
    assert x.dtype == torch.complex64
    assert torch.allclose((A(x) - y).norm(dim=-1).to(torch.float64) / epsilon, torch.ones(2).double(), atol=1e-5)


def test_projections_of_exhausted_krylov_spaces():
    # y - A u along one singular vector: one step is all there is
    A = dense()
    left, values, right = torch.linalg.svd(A.m, full_matrices=False)
    u = torch.zeros(1, 3, 4, 5, dtype=torch.complex128)
    y = left[:, 3].unsqueeze(0)
    project = CgEllipsoid(A)
    x, _, mu = project(u, y, 0.5)
    # mu / (mu + s²) = 0.5
    s = float(values[3])
    assert float(mu) == pytest.approx(s**2, rel=1e-6)
    assert torch.allclose(x.flatten(), 0.5 / s * right[3].conj(), atol=1e-9)
    zero, _, _ = project(u, torch.zeros_like(y), 0.0)
    assert torch.equal(zero, u)
    # nothing of y can be reached: x stays
    blind = Dense(torch.zeros(40, 60, dtype=torch.complex128), (3, 4, 5))
    project = CgEllipsoid(blind)
    x, _, _ = project(u + 1, y, 0.5)
    assert torch.equal(x, u + 1)
    assert project.info.feasible.tolist() == [False]


def test_a_projection_costs_about_one_cg_solve():
    A = dense(10.0)
    u, y = randn(1, 3, 4, 5, seed=2), 10 * randn(1, 40, seed=3)
    epsilon = 0.3 * (A(u) - y).norm(dim=-1).to(torch.float64)
    A.products = 0
    _, _, mu = CgEllipsoid(A, tol=1e-6, check_every=1)(u, y, epsilon)
    projection, A.products = A.products, 0
    CgSolver(A, float(mu), tol=1e-6).prox(u, y)
    assert projection <= A.products + 4


def test_secular_root_of_one_eigenvalue():
    # (mu / (mu + λ))² p = ε² has mu = λ ε / (√p - ε)
    lam = torch.tensor([2.0, 1e-6, 1e8], dtype=torch.float64)
    epsilon = torch.tensor([0.5, 1e-3, 0.999], dtype=torch.float64)
    power = torch.ones(3, 1, dtype=torch.float64)
    mu, feasible = secular_root(lam.unsqueeze(1), power, epsilon)
    assert torch.allclose(mu, lam * epsilon / (1 - epsilon), rtol=1e-10)
    assert bool(feasible.all())
    for mu0 in (mu, 1e6 * mu, torch.tensor([float("inf"), 0.0, float("nan")])):
        again, _ = secular_root(lam.unsqueeze(1), power, epsilon, mu0)
        assert torch.allclose(again, mu, rtol=1e-10)


def test_secular_root_at_the_ends():
    lam = torch.tensor([0.0, 1.0], dtype=torch.float64)
    power = torch.tensor([[0.04, 1.0]] * 3, dtype=torch.float64)
    mu, feasible = secular_root(lam, power, torch.tensor([0.1, 2.0, 0.2001], dtype=torch.float64))
    assert feasible.tolist() == [False, True, True]
    assert float(mu[1]) == float("inf")
    assert float(mu[0]) == pytest.approx(1e-12)
    left = ((mu[2] / (mu[2] + lam)) ** 2 * power[2]).sum().sqrt()
    assert float(left) == pytest.approx(0.2001, rel=1e-9)


def test_secular_root_of_a_wide_spectrum_in_few_steps():
    lam = torch.logspace(-12, 4, 300, dtype=torch.float64)
    power = randn(20, 300, dtype=torch.float64).square()
    norm = power.sum(-1).sqrt()
    epsilon = norm * torch.linspace(0.75, 0.999, 20, dtype=torch.float64)
    mu, feasible = secular_root(lam, power, epsilon, max_iter=15)
    assert bool(feasible.all())
    left = ((mu.unsqueeze(1) / (mu.unsqueeze(1) + lam)) ** 2 * power).sum(-1).sqrt()
    assert torch.allclose(left, epsilon, rtol=1e-10)
