"""Our RED-PSM against the acceptance checks of its method note; numbers in the names are those of RP 8.

Elsewhere: 1 to 5, 9, 12 to 14, 16, 19, 20 and 25 of the published arithmetic and its projector in
test_published_redpsm.py, 4 of ours in test_tomography_operators.py, 9 in test_partially_separable.py, 10 in
test_published_redpsm.py. Left out: 6, 7, 8 and 11 examine the authors' files, which nothing here may hold; 7 is done on
our own data, and 12, 17 to 22 on our own objects, with the shipped network, against the same thresholds.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from denoisers.load import load_denoiser
from imaging.operators import Grid, ParallelBeam, TimeSequential
from imaging.solvers import red_psm, spline_basis
from imaging.solvers.partially_separable import _Problem

DOUBLE = torch.float64
ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("BACKCAST_SHARED", ROOT.parent / "shared")) / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} not found; set BACKCAST_SHARED")
MODULES = ("redpsm", "denoising", "rotate_and_sum", "dynamic_objects", "published_redpsm")


@pytest.fixture(scope="module", autouse=True)
def _benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield
    for name in MODULES:
        sys.modules.pop(name, None)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def small(n_frames: int = 10, *, dtype: torch.dtype = DOUBLE) -> TimeSequential:
    """Two views of 9 x 9 pixels per frame."""
    angles = torch.arange(2 * n_frames, dtype=DOUBLE) * 2.4
    grid = Grid((0.0, -4.0, -4.0), (1.0, 1.0, 1.0), (1, 9, 9))
    static = ParallelBeam(angles, torch.arange(13, dtype=DOUBLE) - 6, grid, dtype=dtype)
    return TimeSequential(static, torch.arange(n_frames).repeat_interleave(2))


# -- operators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-12), (torch.float32, 1e-5)])
def test_3_adjoint(dtype: torch.dtype, tolerance: float) -> None:
    A = small(dtype=dtype)
    x, y = randn(*A.in_shape).to(dtype), randn(*A.out_shape, seed=1).to(dtype)
    gap = torch.vdot(A(x).flatten(), y.flatten()) - torch.vdot(x.flatten(), A.adjoint(y).flatten())
    assert float(gap.abs()) <= tolerance * float(A(x).norm() * y.norm())


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("n_views", [32, 64, 128, 256])
def test_7_noise_level(n_views: int) -> None:
    """0.5 % of the largest value of all frames at all angles, 0.0150 to 0.0153 of the published object."""
    from dynamic_objects import dynamic_scan

    s = dynamic_scan("mouse", n_views)
    assert float((s.y - s.clean).std()) == pytest.approx(s.noise_std, rel=0.02)
    assert s.noise_std >= 0.005 * float(s.clean.max())


def test_5_every_view_keeps_the_mass() -> None:
    """Of the published kind of object; a small disc with sharp edges takes two rays a bin, rotate-and-sum errs more."""
    from rotate_and_sum import RotateAndSum
    from test_published_redpsm import phantom
    from test_tomography_operators import ANGLES, COLUMNS, UNIT, disc

    def off(A: Any, image: Tensor) -> float:
        return float((A(image[None]).sum((1, 2)) / image.sum() - 1).abs().max())

    one, two = (ParallelBeam(ANGLES, COLUMNS, UNIT, per_bin=k, dtype=DOUBLE) for k in (1, 2))
    assert off(one, torch.as_tensor(phantom(128))) < 5e-4
    assert off(one, disc(40)[0]) < 5e-4
    assert (
        off(two, disc(15)[0]) < 5e-4 < off(one, disc(15)[0]) < off(RotateAndSum(128, ANGLES, dtype=DOUBLE), disc(15)[0])
    )


# -- steps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.1])
def test_12_no_image_from_nothing(sigma: float) -> None:
    """5e-4 where the peak is 0.068."""
    network = load_denoiser("tomo-2d")
    assert float(network(torch.zeros(1, 1, 64, 64), sigma).abs().max()) < 5e-4 / 0.068


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("level", "wanted"), [(0.05, 37.3), (0.02, 42.5)])
def test_12_shipped_network_denoises_as_well_as_the_published_one(level: float, wanted: float) -> None:
    from dynamic_objects import PEAK, dynamic_scan
    from published_redpsm import psnr

    truth = dynamic_scan("mouse", 32).truth[::4] / PEAK
    noisy = truth + level * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    denoised = load_denoiser("tomo-2d")(noisy[:, None], level)[:, 0]
    assert psnr(denoised, truth) > wanted


class Curved:
    """D(v) = 0.9 tanh v, not linear, smooth."""

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        return 0.9 * torch.tanh(v)


class Identity:
    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        return v


def one_iteration(denoiser: Any, *, weight: float, n_red: int = 1) -> tuple[Any, Tensor]:
    """The state after an iteration from random f and gamma without over-relaxation, and v = Λ Ψᵀ + gamma_before."""
    A, U = small(), spline_basis(10, 4)
    y = A(randn(1, *A.in_shape))
    options = {"beta": 0.4, "sigma": 0.1, "relaxation": 1.0, "nonnegative": False, "n_cg": 5}
    first = next(red_psm(A, y, U, Identity(), weight=1.0, **options))
    f, gamma = randn(*first.split.shape, seed=2), randn(*first.split.shape, seed=3)
    begin = dataclasses.replace(first, split=f, gamma=gamma)
    state = next(red_psm(A, y, U, denoiser, weight=weight, n_red=n_red, start=begin, **options))
    return state, state.x + gamma


def test_13_f_step_without_denoiser_is_psm_plus_gamma() -> None:
    state, v = one_iteration(Curved(), weight=1e-14)
    torch.testing.assert_close(state.split, v)
    state, v = one_iteration(Identity(), weight=3.0)  # the convex combination of v with itself
    torch.testing.assert_close(state.split, v)
    assert float(state.gamma.abs().max()) < 1e-12


def test_13_fixed_point_of_the_f_step() -> None:
    state, v = one_iteration(Curved(), weight=0.3, n_red=200)
    left, right = 0.3 * (state.split - 0.9 * torch.tanh(state.split)), 0.4 * state.gamma
    assert float((left - right).norm() / right.norm()) < 1e-5
    torch.testing.assert_close(state.gamma, v - state.split)


def block_problem(rank: int, *, seed: int = 0) -> tuple[_Problem, Tensor, Tensor, Tensor]:
    """A problem with relu, factors in the middle of nowhere, and a target of the coupling."""
    A, U = small(), spline_basis(10, 5)
    y = A(randn(1, *A.in_shape, seed=seed).clamp_min(0)) + 0.1 * randn(1, *A.out_shape, seed=seed + 1)
    problem = _Problem(A, y, U, rank, nonnegative=True)
    _, latent = problem.begin()
    spatial = randn(1, rank, 1, 9, 9, seed=seed + 2)
    return problem, spatial, latent, randn(1, 10, 1, 9, 9, seed=seed + 3)


def objective(
    problem: _Problem, spatial: Tensor, latent: Tensor, active: Tensor, beta: float, target: Tensor, ridge: bool = True
) -> float:
    """½‖A M Λ Ψᵀ - y‖² + beta/2 ‖M Λ Ψᵀ - target‖² with the active voxels M frozen, and the ridge."""
    x = active * problem._mix(problem.psi(latent), spatial)
    value = 0.5 * (problem.A(x) - problem.y).square().sum() + 0.5 * beta * (x - active * target).square().sum()
    return float(value + (0.5 * problem.ridge * spatial.square().sum() if ridge else 0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_cg", [1, 4, 10])
def test_15_spatial_step_never_increases_its_objective(seed: int, n_cg: int) -> None:
    problem, spatial, latent, target = block_problem(5, seed=seed)
    for _ in range(4):
        active = problem.active(spatial, latent)
        assert active is not None
        before = objective(problem, spatial, latent, active, 0.3, target)
        spatial = problem.spatial_step(spatial, latent, n_cg=n_cg, beta=0.3, target=target)
        assert objective(problem, spatial, latent, active, 0.3, target) <= before * (1 + 1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_15_temporal_step_never_increases_its_objective(seed: int) -> None:
    problem, spatial, latent, target = block_problem(3, seed=seed)
    for _ in range(4):
        active = problem.active(spatial, latent)
        assert active is not None
        before = objective(problem, spatial, latent, active, 0.3, target, ridge=False)
        new, z = problem.temporal_step(spatial, latent, beta=0.3, target=target)
        after = objective(problem, new, z, active, 0.3, target, ridge=False)
        assert after <= before * (1 + 1e-8)
        spatial = problem.spatial_step(new, z, n_cg=5, beta=0.3, target=target)
        latent = z


def test_15_temporal_functions_of_full_rank_have_nothing_to_gain() -> None:
    """K = d: with Λ converged a least-squares step of Z changes the objective by less than 0.1 %; it is left out."""
    problem, spatial, latent, target = block_problem(5)
    active = torch.ones_like(target, dtype=torch.bool)
    problem.nonnegative = False
    spatial = problem.spatial_step(spatial, latent, n_cg=400, beta=0.3, target=target)
    before = objective(problem, spatial, latent, active, 0.3, target, ridge=False)

    def residual(z: Tensor) -> Tensor:
        x = problem._mix(problem.psi(z.reshape(1, 5, 5)), spatial)
        fit, coupling = problem.A(x) - problem.y, 0.3**0.5 * (x - target)
        return torch.cat((fit.flatten(), coupling.flatten()))

    matrix = torch.stack([residual(e) - residual(torch.zeros(25, dtype=DOUBLE)) for e in torch.eye(25, dtype=DOUBLE)])
    z = torch.linalg.lstsq(matrix.T, -residual(torch.zeros(25, dtype=DOUBLE))[:, None]).solution[:, 0]
    after = objective(problem, spatial, z.reshape(1, 5, 5), active, 0.3, target, ridge=False)
    assert before * (1 - 1e-3) < after <= before * (1 + 1e-8)
    same, kept = problem.temporal_step(spatial, latent, beta=0.3, target=target)
    assert same is spatial
    assert kept is latent


def test_16_gauge() -> None:
    problem, spatial, latent, _ = block_problem(5)
    Q = randn(5, 5, seed=9)
    turned = torch.einsum("jk,bjzyx->bkzyx", torch.linalg.inv(Q).T, spatial)
    other, movie = problem.movie(turned, latent @ Q), problem.movie(spatial, latent)
    assert float((other - movie).norm() / movie.norm()) < 1e-6


# -- whole runs -----------------------------------------------------------------------------------------------


def test_25_same_numbers_twice() -> None:
    A, U = small(), spline_basis(10, 4)
    y = A(randn(1, *A.in_shape).clamp_min(0))
    options = {"beta": 0.4, "weight": 1.0, "sigma": 0.1}
    runs = [[s.split for s in itertools.islice(red_psm(A, y, U, Curved(), **options), 5)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@functools.cache
def scan(name: str, n_views: int) -> Any:
    from dynamic_objects import dynamic_scan

    return dynamic_scan(name, n_views, model="joseph", data="rotate")


@functools.cache
def ran(method: str, name: str, n_views: int, *settings: str, precision: str = "bfloat16") -> Any:
    """A method on an object with its defaults and other settings: `redpsm.Run`."""
    from redpsm import ours

    network = load_denoiser("tomo-2d", precision=precision) if method == "redpsm" else None  # type: ignore[arg-type]
    return ours(method, scan(name, n_views), network, settings)


#: dB above PSM, ours, its best iterate; by instants.
GAIN = {32: 0.0, 64: 1.0, 128: 2.5, 256: 3.0}
#: PSNR of RP 8, 18 and 20: of RED-PSM and of ProSep.
LEAST = {32: (22.4, 18.5), 64: (26.5, 21.0), 128: (30.0, 23.7), 256: (33.5, 26.0)}
OBJECTS = ("mouse", "tooth", "head")


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("n_views", [32, 64, 128, 256])
def test_18_19_end_to_end(name: str, n_views: int) -> None:
    run, plain = ran("redpsm", name, n_views), ran("psm", name, n_views)
    assert run.best.psnr - run.last.psnr < 0.15
    assert run.last.psnr >= LEAST[n_views][0]
    assert run.last.psnr - plain.best.psnr >= GAIN[n_views]
    assert run.last.ssim > plain.best.ssim
    assert run.last.mae < plain.best.mae
    assert run.last.hfen < plain.best.hfen


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("n_views", [32, 64, 128, 256])
def test_20_prosep_and_the_mean_frame(n_views: int) -> None:
    from published_redpsm import PUBLISHED, prosep_start, psnr

    s = scan("mouse", n_views)
    _, first = prosep_start(s.A, s.y, s.angles_rad, PUBLISHED[n_views], mask=s.mask)
    assert psnr(first.movie.clamp(min=0), s.truth) >= LEAST[n_views][1]
    assert ran("redpsm", "mouse", n_views).last.psnr > psnr(s.truth.mean(0).expand_as(s.truth), s.truth)


@needs_data
@pytest.mark.slow
def test_17_21_beside_the_published_arithmetic() -> None:
    """64 instants: a healthy ADMM there; ours reaches its best, found with the truth, in an eighth of its time."""
    from dynamic_objects import PEAK
    from published_redpsm import PUBLISHED, at_level, prosep_start, psnr, published_redpsm

    s = scan("mouse", 64)
    settings = dataclasses.replace(PUBLISHED[64], n_outer=100)
    start, _ = prosep_start(s.A, s.y, s.angles_rad, settings, mask=s.mask)
    denoiser = at_level(load_denoiser("tomo-2d", precision="bfloat16"), 0.05, peak=PEAK)
    states = list(published_redpsm(s.A, s.y, start, denoiser, settings, mask=s.mask))
    last, best = states[-1], max(psnr(state.f, s.truth) for state in states)
    assert float((last.psm - last.f).norm() / last.f.norm()) < 4e-3
    assert psnr(last.f, s.truth) - psnr(last.psm, s.truth) < 0.05

    run = ran("redpsm", "mouse", 64)
    assert run.last.psnr >= best
    reached = next(t for p, t in zip(run.psnrs, run.seconds, strict=True) if p >= best)
    assert reached <= sum(state.elapsed_s for state in states) / 8


@needs_data
@pytest.mark.slow
def test_22_relu_in_the_model_is_worth_half_a_decibel() -> None:
    without = ran("redpsm", "mouse", 128, "solver.nonnegative=false")
    assert ran("redpsm", "mouse", 128).best.psnr - without.best.psnr > 0.5


@needs_data
@pytest.mark.slow
def test_23_time_and_memory() -> None:
    """1.5 s of two cores an iteration, below 1 GiB, no dense matrix (4.3 GB in float64)."""
    command = [sys.executable, str(ROOT / "benchmarks" / "redpsm.py"), "--one", "128,128"]
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert done["mib"] < 1024
    assert done["seconds"][-1] / len(done["seconds"]) < 2 * 1.5


@needs_data
@pytest.mark.slow
def test_24_bfloat16_changes_nothing_to_speak_of() -> None:
    half, single = (ran("redpsm", "mouse", 64, precision=p) for p in ("bfloat16", "float32"))
    assert abs(half.last.psnr - single.last.psnr) < 0.05


@pytest.mark.slow
def test_a_volume_that_moves() -> None:
    """64 x 96 x 96 voxels over 64 instants, one projection each: better than without denoiser, in 4 GiB."""
    command = [sys.executable, str(ROOT / "benchmarks" / "redpsm.py"), "--part", "volume"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:] if line]
    (psm, _, _, _), (redpsm, _, _, peak_mib) = ([float(c) for c in row[1:]] for row in cells)
    assert redpsm > psm + 1
    assert peak_mib < 4096
