"""Acceptance checks T11 to T18, T22 and T23 of the near-field method note that concern solvers and priors."""

import itertools

import numpy as np
import pytest
import torch
from operator_cases import CUBE, cross
from solver_cases import randn, relative

from data.phantoms import sx
from imaging.metrics import psnr
from imaging.priors import L1, Magnitude, TotalVariation
from imaging.solvers import (
    CgEllipsoid,
    CgSolver,
    Outcome,
    SolverCache,
    csalsa,
    csalsa_projected,
    relative_change_below,
    run,
    starting_image,
)

KAPPA = 500.0


def scene(n_freq: int, n: int, *, snr_db: float = 30.0, dtype: torch.dtype = torch.complex128):
    """(A, truth, y, epsilon) of the simulated system with n SX targets; epsilon = noise std √M (NF 2.4)."""
    A = cross(n_freq, dtype=dtype)
    truth = torch.as_tensor(np.asarray(sx(np.random.default_rng(2), n, CUBE))).to(dtype)
    clean = A(truth)
    axes = (-3, -2, -1)
    std = (clean.abs().square().mean(axes) * 10 ** (-snr_db / 10)).sqrt()
    noise = randn(*clean.shape, dtype=dtype, seed=5)  # circular, variance 1
    m = clean[0].numel()
    return A, truth, clean + std.reshape(-1, 1, 1, 1) * noise, (std * m**0.5).to(torch.float64)


def last(states, n):
    return next(itertools.islice(states, n - 1, None))


def test_t11_conjugate_gradients_agree_with_the_exact_solve():
    A, _, y, _ = scene(5, 2)
    exact = A.regularised_solver(KAPPA)
    assert exact.method != "cg"
    u = randn(2, *A.in_shape, seed=1)
    x, Ax = CgSolver(A, KAPPA, tol=1e-9, max_iter=200).prox(u, y)
    expected, expected_Ax = exact.prox(u, y)
    assert relative(x, expected) <= 1e-6
    assert relative(Ax, expected_Ax) <= 1e-6
    assert relative(CgSolver(A, KAPPA, tol=1e-9)(u), exact(u)) <= 1e-6


def test_t12_krylov_projection_agrees_with_the_exact_one():
    A, _, y, epsilon = scene(5, 2)
    u = starting_image(A, y)
    expected, _, expected_mu = A.ellipsoid_projector()(u, y, epsilon)
    project = CgEllipsoid(A, tol=1e-9, max_iter=400)
    x, Ax, mu = project(u, y, epsilon)
    assert bool(project.info.converged.all())
    assert torch.allclose((A(x) - y).flatten(1).norm(dim=1) / epsilon, torch.ones(2).double(), atol=1e-6)
    assert torch.allclose(Ax, A(x), atol=1e-8 * float(Ax.abs().max()))
    assert relative(x, expected) <= 1e-6
    assert torch.allclose(mu, expected_mu, rtol=1e-6)
    # x - u in the range of Aᴴ, with the multiplier's residual
    c = (y - Ax) / mu.reshape(-1, 1, 1, 1)
    assert relative(x - u, A.adjoint(c)) <= 1e-6
    again, _, _ = project(x, y, epsilon)
    assert relative(again, x) <= 1e-6
    inside, _, _ = project(u, y, 2 * (A(u) - y).flatten(1).norm(dim=1))
    assert torch.equal(inside, u)


@pytest.mark.parametrize("exact", [True, False])
def test_t16_the_first_iteration_leaves_the_image(exact):
    A, _, y, epsilon = scene(5, 2)
    solvers = SolverCache(A, None if exact else lambda rho: CgSolver(A, rho))
    states = csalsa(A, y, Magnitude(L1()), epsilon=epsilon, kappa=KAPPA, alpha=0.01, solvers=solvers)
    assert relative(next(states).x, starting_image(A, y)) <= 1e-12


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_t17_data_scale_goes_through(scale):
    A, _, y, epsilon = scene(5, 1, dtype=torch.complex64)
    # nonlinear in the magnitude, as a network is; sees peak one
    prior = Magnitude(lambda m, sigma: m**2 / (m + sigma), relative=True)

    def image(factor):
        return last(csalsa(A, factor * y, prior, epsilon=factor * epsilon, kappa=KAPPA, alpha=0.01), 10).x

    assert relative(image(scale) / scale, image(1.0)) <= 1e-4


def test_t18_the_limit_of_l1_lies_on_the_ellipsoid_and_ignores_kappa():
    A, truth, y, epsilon = scene(5, 1, dtype=torch.complex64)
    images = []
    for kappa in (50.0, 500.0, 5000.0):
        states = csalsa(A, y, Magnitude(L1()), epsilon=epsilon, kappa=kappa, alpha=0.02)
        state, outcome = run(states, stop=relative_change_below(1e-3), max_iter=450)
        assert outcome is Outcome.TOLERANCE
        assert 0.99 <= float(state.data_fidelity / epsilon) <= 1.01
        images.append(state.x)
    states = csalsa_projected(A, y, Magnitude(L1()), epsilon=epsilon, alpha=0.02)
    images.append(run(states, stop=relative_change_below(1e-3), max_iter=450)[0].x)
    values = [float(psnr(image, truth, normalise="none")) for image in images]
    assert max(values) - min(values) <= 0.1
    assert max(relative(image, images[0]) for image in images) <= 0.03


def test_t22_ten_warm_started_tv_iterations_are_accurate():
    A, _, y, epsilon = scene(20, 2, dtype=torch.complex64)
    alpha = 2e-3  # what NF 7.3 recommends
    prior, v1, memory, mu = Magnitude(TotalVariation(n_iter=10)), starting_image(A, y), None, None
    d1, project = torch.zeros_like(v1), A.ellipsoid_projector()
    for _ in range(10):  # csalsa_projected, with its intermediate images in view
        s, _, mu = project(v1 + d1, y, epsilon, mu)
        v1, memory = prior.prox_warm(s - d1, alpha, memory)
        image, d1 = s - d1, d1 - (s - v1)
    reference = TotalVariation(n_iter=1000, method="fgp").prox(image.abs(), alpha)
    assert relative(v1.abs(), reference) <= 1e-3


def test_t22_tv_of_the_magnitude_falls_below_that_of_the_truth():
    # the degeneracy that makes TV on a magnitude a heuristic to be stopped early
    A, truth, y, epsilon = scene(5, 2, dtype=torch.complex64)
    variation = TotalVariation()
    states = csalsa_projected(A, y, Magnitude(variation), epsilon=epsilon, alpha=2e-2)
    seen = []
    for state in itertools.islice(states, 20):
        assert bool((state.data_fidelity <= 1.001 * epsilon).all())
        seen.append((variation.value(state.x.abs()), psnr(state.x, truth)))
    assert bool((seen[-1][0] < 0.5 * variation.value(truth.abs())).all())
    assert bool((seen[-1][1] < torch.stack([p for _, p in seen]).amax(0) - 3).all())  # and the image is lost


@pytest.mark.parametrize("n_freq", [5, 20])
def test_tv_with_l1_beats_both_and_does_not_degenerate(n_freq):
    A, truth, y, epsilon = scene(n_freq, 6, dtype=torch.complex64)
    curves = {}
    for name, prior, alpha in (  # alpha and weight of the first: chosen on other targets (SX seed 1)
        ("both", TotalVariation(nonnegative=True, l1_weight=1.0), 2e-2),
        ("tv", TotalVariation(), 2e-3),
        ("l1", L1(), 2e-2),
    ):
        states = csalsa_projected(A, y, Magnitude(prior), epsilon=epsilon, alpha=alpha)
        curves[name] = [float(psnr(s.x, truth).mean()) for s in itertools.islice(states, 30)]
    both = curves["both"]
    assert both[-1] > max(curves["tv"] + curves["l1"])  # even against the others' best iterates
    assert both[-1] > max(both) - 0.1


SOLVERS = {
    "csalsa": lambda A, y, e, p: csalsa(A, y, p, epsilon=e, kappa=KAPPA, alpha=0.01),
    "projected": lambda A, y, e, p: csalsa_projected(A, y, p, epsilon=e, alpha=0.01),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("inner", [L1(), TotalVariation(0.2)], ids=["l1", "tv"])
def test_t23_an_image_alone_is_the_image_in_a_batch_of_eight(name, inner):
    A, _, y, epsilon = scene(5, 8, dtype=torch.complex64)
    together = last(SOLVERS[name](A, y, epsilon, Magnitude(inner)), 6).x
    for i in range(8):
        alone = last(SOLVERS[name](A, y[i], epsilon[i], Magnitude(inner)), 6).x
        assert relative(alone.unsqueeze(0), together[i : i + 1]) <= 1e-5
