"""The published algorithm that the benchmarks measure against, on small dense problems."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from solver_cases import problem, randn, relative

from imaging.operators import Grid
from imaging.priors import Magnitude
from imaging.solvers import csalsa

FOLDER = str(Path(__file__).resolve().parent.parent / "benchmarks")
ALPHA, KAPPA = 0.02, 0.1


@pytest.fixture
def official(monkeypatch):
    """A function of (problem, further arguments), and the problem that all tests share."""
    monkeypatch.syspath_prepend(FOLDER)
    from official_pnp import official_pnp

    A, _, y, epsilon = problem(n=3)

    def states(n=slice(None), denoiser=threshold, **more):
        known = {"alpha": ALPHA, "kappa": KAPPA, "tol": 0.0, "inside": torch.float64}
        return official_pnp(A.m, y[n], denoiser, shape=A.in_shape, epsilon=epsilon[n], **known | more)

    yield states, A, y, epsilon
    for name in ("official_pnp", "near_field"):
        sys.modules.pop(name, None)


def threshold(v, sigma):
    return (v - sigma**2).clamp_min(0)


def last(states):
    *_, state = states
    return state


def test_many_cg_steps_agree_with_csalsa_and_its_exact_solve(official):
    """Also that the dense matrix of the near-field radar has its rows in the order of the data."""
    from near_field import dense_matrix, radar
    from official_pnp import official_pnp

    grid = Grid.spanning((0.4, -0.05, -0.05), (0.6, 0.05, 0.05), (6, 5, 4))
    A = radar(3, 5, grid, dtype=torch.complex128)
    kappa = 0.158 * A.mean_eigenvalue()
    assert A.regularised_solver(kappa).method != "cg"
    x = torch.zeros(2, *grid.shape, dtype=torch.complex128)
    x[0, 1, 2, 3], x[1, 4, 1, 1], x[1, 2, 3, 0] = 1, 1j, 0.6
    noise = randn(2, *A.out_shape, seed=3)
    y = A(x) + 0.05 * A(x).abs().amax() * noise
    epsilon = (y - A(x)).flatten(1).norm(dim=1)
    start = A.adjoint(y) / A.adjoint(y).abs().amax((1, 2, 3), keepdim=True)
    ours = csalsa(A, y, Magnitude(threshold), epsilon=epsilon, kappa=kappa, alpha=ALPHA, x0=start)
    rows = y.movedim(-1, 1).flatten(1)
    more = {"tol": 0.0, "inside": torch.float64, "cg_steps": 200, "cg_tol": 0.0, "max_iter": 15}
    theirs = official_pnp(
        dense_matrix(A), rows, threshold, shape=grid.shape, epsilon=epsilon, alpha=ALPHA, kappa=kappa, **more
    )
    for expected, found in zip(ours, theirs, strict=False):
        assert relative(found.x, expected.x) <= 1e-9, found.iteration
        assert relative(found.v1, expected.v1) <= 1e-9, found.iteration
        assert torch.allclose(found.data_fidelity, expected.data_fidelity, rtol=1e-8)
    assert found.iteration == 15


def test_float32_inside_changes_next_to_nothing(official):
    states, *_ = official
    assert 0 < relative(last(states(max_iter=10, inside=torch.float32)).x, last(states(max_iter=10)).x) < 1e-5


def test_t16_first_iteration_leaves_s_unchanged(official):
    states, A, y, _ = official
    start = A.adjoint(y) / A.adjoint(y).abs().amax((1, 2, 3), keepdim=True)
    assert relative(next(states()).x, start) <= 1e-12


def test_five_cg_steps_are_seven_forward_and_seven_adjoint_products(official, monkeypatch):
    states, *_ = official
    import official_pnp

    counts = {"_forward": 0, "_adjoint": 0}
    for name in counts:

        def counted(*given, name=name, plain=getattr(official_pnp, name)):
            counts[name] += 1
            return plain(*given)

        monkeypatch.setattr(official_pnp, name, counted)
    run = states()
    next(itertools.islice(run, 2, None))  # the first iteration settles at once
    before = dict(counts)
    assert next(run).cg_steps == 5
    assert {k: counts[k] - before[k] for k in counts} == {"_forward": 7, "_adjoint": 7}


def test_denoiser_gets_float32_and_the_same_sigma_and_is_not_clamped(official):
    states, *_ = official
    calls = []

    def negative(v, sigma):
        calls.append((v.dtype, tuple(v.shape), sigma))
        return -v

    state = next(states(denoiser=negative, alpha=3.9e-2, inside=torch.float32))
    assert calls == [(torch.float32, (3, 3, 4, 5), pytest.approx(0.1975, abs=1e-4))]
    assert relative(state.v1, -state.x) <= 1e-6  # the phase has turned by pi


def test_settled_image_stays_while_the_others_go_on(official):
    states, *_ = official
    tol = 2e-3
    seen = list(states(max_iter=2000, tol=tol))
    done = torch.stack([s.active for s in seen]).sum(0)
    assert len(set(done.tolist())) > 1  # the three settle at different times
    assert seen[-1].iteration == int(done.max()) < 2000
    early = int(done.argmin())
    assert torch.equal(seen[int(done[early]) - 1].x[early], seen[-1].x[early])
    assert bool((seen[-1].relative_change < tol).all())


def test_scale_invariant_scales_with_z(official):
    """With the peak divided out, the denoised magnitude scales with z; a plain one does not."""
    states, *_ = official
    import official_pnp

    z = next(states()).x.flatten(1)
    for relative_to_peak, expected in ((True, True), (False, False)):
        one, ten = (
            official_pnp._prox(threshold, factor * z, 0.1, (3, 4, 5), relative_to_peak, torch.float64)
            for factor in (1, 10)
        )
        assert torch.allclose(10 * one, ten) == expected
