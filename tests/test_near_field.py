"""Acceptance checks T1 to T10, T12 and T21 of the near-field method note, at its tolerances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from operator_cases import CUBE, DOUBLE, SMALL, antennas, crandn, cross, frame_array, frequencies, raster
from torch import Tensor

from data.phantoms import sx
from imaging.calibration import estimate_noise
from imaging.direct import backprojection, kirchhoff
from imaging.metrics import psnr
from imaging.operators import Grid, NearFieldMimo, PlanarScan, check_adjoint, near_field_operator
from imaging.operators.exact import CholeskySolver, EighEllipsoid, EighSolver
from imaging.operators.near_field import SPEED_OF_LIGHT
from imaging.solvers import CgEllipsoid


def dense(A: NearFieldMimo) -> Tensor:
    """The matrix of NF (2.2), written out: (n_tx, n_rx, n_freq, n_voxel)."""
    points = A.grid.points_m()
    r_t = torch.linalg.vector_norm(points - A.tx_m[:, None], dim=-1)[:, None, None]
    r_r = torch.linalg.vector_norm(points - A.rx_m[:, None], dim=-1)[None, :, None]
    k = (2 * math.pi * A.frequencies_hz / SPEED_OF_LIGHT)[None, None, :, None]
    return torch.exp(-1j * k * (r_t + r_r)) / (4 * math.pi * r_t * r_r)


def unit_voxel(x: int, y: int, z: int) -> Tensor:
    s = torch.zeros(CUBE.shape, dtype=DOUBLE)
    s[z, y, x] = 1
    return s


def peak(image: Tensor) -> tuple[int, ...]:
    """Brightest voxel, (x, y, z)."""
    return tuple(int(i) for i in torch.unravel_index(image.abs().argmax(), image.shape))[::-1]


@pytest.mark.parametrize(("dtype", "tol"), [(DOUBLE, 1e-12), (torch.complex64, 1e-5)])
def test_t1_adjoint(dtype: torch.dtype, tol: float) -> None:
    A = cross(20, dtype=dtype)
    assert check_adjoint(A) <= tol
    for seed in range(3):
        x, y = crandn(*A.in_shape, seed=seed, dtype=dtype), crandn(*A.out_shape, seed=seed + 10, dtype=dtype)
        left, right = (
            torch.vdot(a.flatten().to(DOUBLE), b.flatten().to(DOUBLE)) for a, b in ((A(x), y), (x, A.adjoint(y)))
        )
        assert abs(left - right) <= tol * abs(left)  # of the inner product itself, not of the norms


def test_an_empty_batch_gives_an_empty_batch() -> None:
    A = cross(2, SMALL)
    for function, given, wanted in ((A, A.in_shape, A.out_shape), (A.adjoint, A.out_shape, A.in_shape)):
        assert function(torch.zeros(0, *given, dtype=DOUBLE)).shape == (0, *wanted)
    assert A.gram(torch.zeros(2, 0, *A.in_shape, dtype=DOUBLE)).shape == (2, 0, *A.in_shape)


def test_migration_takes_a_flat_spectrum() -> None:
    f, p = frequencies(4), crandn(4, seed=9)
    scan, grid = raster(6, 5, 0.01), Grid((0.1, 0, 0), (0.02, 0.01, 0.01), (3, 5, 6))
    arrays = [NearFieldMimo(antennas(4, 1), antennas(5, 2), f, SMALL, dtype=DOUBLE, spectrum=s) for s in (p, None)]
    scans = [PlanarScan(scan, f, grid, dtype=DOUBLE, spectrum=s) for s in (p, None)]
    for pulsed, flat in (arrays, scans):
        y = crandn(*flat.out_shape)
        for migrate in (backprojection, kirchhoff):
            assert torch.equal(migrate(pulsed, y), migrate(flat, y))


def test_t2_factored_equals_dense() -> None:
    for A in (
        cross(3, SMALL),
        NearFieldMimo(antennas(4, 1), antennas(5, 2), frequencies(3), SMALL, dtype=DOUBLE),
    ):
        x = crandn(*SMALL.shape)
        y = (dense(A) * x.flatten()).sum(-1)
        assert (A(x) - y).norm() <= 1e-13 * y.norm()


def test_t3_single_precision() -> None:
    x = crandn(*CUBE.shape)
    y = cross(20)(x)
    for memory_limit in (2**31, 20 * 2**20):  # stored factors, and blocks by phase stepping
        A = cross(20, dtype=torch.complex64, memory_limit=memory_limit)
        assert A.stored == (memory_limit == 2**31)
        assert (A(x.to(torch.complex64)) - y).norm() <= 1e-6 * y.norm()


def test_t4_phase_sign_and_modulus() -> None:
    A = cross(5)
    y = A(unit_voxel(12, 12, 24))[:, 6]  # the receiver at the origin
    r_t = torch.linalg.vector_norm(A.tx_m - torch.tensor([0, 0, 0.5], dtype=torch.float64), dim=1)[:, None]
    k = 2 * math.pi * A.frequencies_hz / SPEED_OF_LIGHT
    assert (y * torch.exp(1j * k * (r_t + 0.5))).angle().abs().max() <= 1e-9
    assert (y.abs() * (4 * math.pi * r_t * 0.5) - 1).abs().max() <= 1e-12
    assert abs(float(A.adjoint(A(unit_voxel(12, 12, 24)))[24, 12, 12].angle())) <= 1e-9


@pytest.mark.parametrize("n_freq", [20, 40])
def test_t5_point_targets(n_freq: int) -> None:
    A = cross(n_freq)
    for voxel in ((12, 12, 24), (6, 17, 12), (20, 12, 40)):
        y = A(unit_voxel(*voxel))
        assert peak(A.adjoint(y)) == voxel
        assert peak(backprojection(A, y)) == voxel
        assert peak(kirchhoff(A, y)) == voxel


def test_t5_range_alias_of_the_adjoint() -> None:
    A = cross(5)
    for voxel, alias in (((12, 12, 24), (12, 12, 16)), ((20, 12, 40), (19, 12, 32)), ((6, 17, 12), None)):
        y = A(unit_voxel(*voxel))
        assert peak(A.adjoint(y)) == (alias or voxel)
        assert peak(backprojection(A, y)) == voxel
        assert peak(kirchhoff(A, y)) == voxel


def test_t6_kirchhoff_phase() -> None:
    A = cross(20)
    y = A(unit_voxel(12, 12, 24))
    assert abs(float(kirchhoff(A, y)[24, 12, 12].angle()) - 3.125) <= 0.01
    assert abs(float(A.adjoint(y)[24, 12, 12].angle())) <= 1e-9
    assert abs(float(backprojection(A, y)[24, 12, 12].angle())) <= 1e-9


@pytest.mark.parametrize(
    ("direction", "width_cm"),
    [((1, 0, 0), 3.02), ((0, 1, 0), 3.02), ((0.5**0.5, 0.5**0.5, 0), 2.94), ((0, 0, 1), 1.09)],
    ids=["x", "y", "diagonal", "z"],
)
def test_t7_resolution(direction: tuple[float, float, float], width_cm: float) -> None:
    A = cross(20)
    y = A(unit_voxel(12, 12, 24))
    offset = 0.125e-3 * torch.arange(-240, 241, dtype=torch.float64)
    points = torch.tensor([0, 0, 0.5], dtype=torch.float64) + offset[:, None] * torch.tensor(
        direction, dtype=torch.float64
    )
    g_t, g_r = A.with_amplitude("none").factors(points)
    profile = torch.einsum("trk,ktn,krn->n", y, g_t.conj(), g_r.conj()).abs()
    above = offset[profile >= profile.max() / 2**0.5]
    width = float(above.max() - above.min() + 0.125e-3) * 100
    assert abs(width - width_cm) <= 0.02 * width_cm


def test_t8_spectrum() -> None:
    for n_freq, largest in ((5, 3.694e4), (10, 3.753e4), (20, 4.401e4)):
        A = cross(n_freq, dtype=torch.complex64)
        assert A.mean_eigenvalue() == pytest.approx(3171.63, rel=1e-3)
        assert float(A.measurement_space().eigenvalues().max()) == pytest.approx(largest, rel=1e-3)
    # ‖A‖_F² = N mean(diag AᴴA) = M mean(eigenvalue)
    assert A.mean_eigenvalue() * A.n_measurements / CUBE.n_voxels == pytest.approx(323.12, rel=1e-3)
    assert cross(5).norm() ** 2 == pytest.approx(3.694e4, rel=1e-3)


def test_t9_symmetry_of_the_factors() -> None:
    A = cross(3)
    g_t, g_r = A.factors(CUBE.points_m())
    shape = (3, -1, *CUBE.shape)
    swapped = g_t.reshape(shape).transpose(-1, -2).flip(1)  # (x, y) -> (y, x), t -> N_T - 1 - t
    assert (swapped - g_t.reshape(shape)).abs().max() <= 1e-12 * g_t.abs().max()
    assert (g_r.reshape(shape).transpose(-1, -2) - g_r.reshape(shape)).abs().max() <= 1e-12 * g_r.abs().max()
    antiswapped = g_r.reshape(shape).transpose(-1, -2).flip(-1, -2).flip(1)
    assert (antiswapped - g_r.reshape(shape)).abs().max() <= 1e-12 * g_r.abs().max()
    turned = g_t.reshape(shape).transpose(-1, -2).flip(-1, -2)  # (x, y) -> (-y, -x) leaves every transmitter
    assert (turned - g_t.reshape(shape)).abs().max() <= 1e-12 * g_t.abs().max()


@pytest.mark.parametrize("n_edge", [3, 4])
def test_t9_symmetrised_products_equal_plain_ones(n_edge: int) -> None:
    tx, rx = frame_array(n_edge)
    half = tx[: 2 * n_edge - 1]  # one transmitter short: at most one reflection is left
    for array, order in (((tx, rx), 4), ((half, rx), 1)):
        A = NearFieldMimo(*array, frequencies(3), SMALL, dtype=DOUBLE)
        assert A.symmetry.order == order
        plain = NearFieldMimo(*array, frequencies(3), SMALL, dtype=DOUBLE, use_symmetry=False)
        assert plain.symmetry.order == 1
        x, y = crandn(2, *A.in_shape), crandn(2, *A.out_shape)
        assert (A(x) - plain(x)).norm() <= 1e-13 * plain(x).norm()
        assert (A.adjoint(y) - plain.adjoint(y)).norm() <= 1e-13 * plain.adjoint(y).norm()
    A, plain = cross(2), cross(2, use_symmetry=False)
    assert A.symmetry.order == 4
    assert len(A.symmetry.voxel_orbits.representatives) == 8281  # NF 2.3
    x = crandn(*CUBE.shape)
    assert (A(x) - plain(x)).norm() <= 1e-13 * plain(x).norm()


def test_one_reflection_alone_is_used() -> None:
    tx = antennas(3, 1)
    tx = torch.cat((tx, tx * torch.tensor([-1.0, 1.0, 1.0])))
    A = NearFieldMimo(tx, tx, frequencies(2), SMALL, dtype=DOUBLE)
    plain = NearFieldMimo(tx, tx, frequencies(2), SMALL, dtype=DOUBLE, use_symmetry=False)
    assert A.symmetry.order == 2
    x = crandn(*SMALL.shape)
    assert (A(x) - plain(x)).norm() <= 1e-13 * plain(x).norm()


@pytest.mark.parametrize("use_symmetry", [True, False])
@pytest.mark.parametrize(("dtype", "tol"), [(DOUBLE, 1e-12), (torch.complex64, 1e-4)])
def test_t10_exact_regularised_solve(use_symmetry: bool, dtype: torch.dtype, tol: float) -> None:
    A = cross(5, dtype=dtype, use_symmetry=use_symmetry)
    u, w = crandn(2, *CUBE.shape, dtype=dtype), A(crandn(2, *CUBE.shape, seed=1, dtype=dtype))
    rho = 500.0
    b = rho * u + A.adjoint(w)
    for solver in (CholeskySolver(A, A.measurement_space(), rho), EighSolver(A, A.measurement_space(), rho)):
        s, a_s = solver.prox(u, w)
        assert (rho * s + A.gram(s) - b).norm() <= tol * b.norm()
        assert (A(s) - a_s).norm() <= tol * a_s.norm()
        assert (solver(b) - s).norm() <= 10 * tol * s.norm()


def test_t10_exact_solve_of_an_incomplete_array() -> None:
    pairs = torch.tensor([[0, 0], [0, 1], [2, 1], [3, 4], [1, 2], [3, 0]])
    A = NearFieldMimo.from_channels(
        antennas(4, 1)[pairs[:, 0]], antennas(5, 2)[pairs[:, 1]], frequencies(3), SMALL, dtype=DOUBLE
    )
    u, w = crandn(*SMALL.shape), crandn(*A.out_shape)
    s, a_s = CholeskySolver(A, A.measurement_space(), 30.0).prox(u, w)
    b = 30.0 * u + A.adjoint(w)
    assert (30.0 * s + A.gram(s) - b).norm() <= 1e-12 * b.norm()
    assert (A(s) - a_s).norm() <= 1e-12 * a_s.norm()


def test_exact_solves_know_the_limit_of_single_precision() -> None:
    A = cross(5, dtype=torch.complex64)
    space = A.measurement_space()
    rho = 1e-8 * A.mean_eigenvalue()
    for solver in (CholeskySolver, EighSolver):
        with pytest.raises(ValueError, match="in complex64, at least .*complex128"):
            solver(A, space, rho)
    assert A.regularised_solver(rho).method == "cg"
    u, w = crandn(*CUBE.shape, dtype=torch.complex64), A(crandn(*CUBE.shape, seed=1, dtype=torch.complex64))
    smallest = CholeskySolver(A, space, 1.01e-4 * A.mean_eigenvalue())
    s, a_s = smallest.prox(u, w)
    assert (A(s) - a_s).norm() <= 0.01 * a_s.norm()
    EighSolver(double := cross(5), double.measurement_space(), rho)  # double precision takes it


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.3])
def test_t12_an_ellipsoid_out_of_reach_in_single_precision(exact: bool, share: float) -> None:
    """NF 5.5: take the smallest multiplier and report; what is claimed of A x must hold, and x stay bounded."""
    A = cross(5, dtype=torch.complex64)
    truth = sx(np.random.default_rng(2), 2, CUBE)
    clean = A(truth)
    std = (clean.abs() ** 2).mean((1, 2, 3)).sqrt() * 10 ** (-10 / 20)
    y = clean + std[:, None, None, None] * crandn(*clean.shape, seed=3, dtype=torch.complex64)
    epsilon = share * std.to(torch.float64) * A.n_measurements**0.5
    project = EighEllipsoid(A, A.measurement_space()) if exact else CgEllipsoid(A, max_iter=300)
    s, a_s, mu = project(torch.zeros(2, *CUBE.shape, dtype=torch.complex64), y, epsilon)
    claimed, real = ((v - y).flatten(1).norm(dim=1) for v in (a_s, A(s)))
    assert (claimed / real - 1).abs().max() <= 0.02
    assert s.abs().max() <= 10  # the truth's peak is 1
    assert bool((mu >= 0.9e-6 * A.norm() ** 2).all())
    if share < 0.3:
        assert not bool(project.info.feasible.any())


@pytest.mark.parametrize("use_symmetry", [True, False])
def test_t12_projection_on_the_data_ellipsoid(use_symmetry: bool) -> None:
    A = cross(5, use_symmetry=use_symmetry)
    project = EighEllipsoid(A, A.measurement_space())
    u, y = crandn(2, *CUBE.shape), A(crandn(2, *CUBE.shape, seed=1))
    epsilon = torch.tensor([0.05, 0.2], dtype=torch.float64) * torch.linalg.vector_norm(y.flatten(1), dim=1)
    s, a_s, mu = project(u, y, epsilon)
    residual = torch.linalg.vector_norm((A(s) - y).flatten(1), dim=1)
    assert (residual / epsilon - 1).abs().max() <= 1e-6
    assert (A(s) - a_s).norm() <= 1e-9 * a_s.norm()
    # s - u = Aᴴ c with A s = y - mu c
    c = (y - a_s) / mu[:, None, None, None]
    assert (s - u - A.adjoint(c)).norm() <= 1e-6 * (s - u).norm()
    assert bool(project.info.feasible.all())
    assert (project(s, y, epsilon)[0] - s).norm() <= 1e-6 * s.norm()
    again, _, mu_again = project(s, y, epsilon * (1 + 1e-9))
    assert (again - s).norm() <= 1e-6 * s.norm()
    assert bool(torch.isinf(mu_again).all())
    inside, _, _ = project(u, A(u), epsilon)
    assert torch.equal(inside, u)


def test_the_cheapest_solver_is_chosen() -> None:
    small = cross(5, dtype=torch.complex64)
    assert small.regularised_solver(500.0, n_solves=30).method == "cholesky"
    assert small.regularised_solver(500.0, n_solves=1).method in {"cholesky", "cg"}
    small.ellipsoid_projector()
    assert small.regularised_solver(500.0).method == "eigh"  # it is there already
    large = cross(40, dtype=torch.complex64, use_symmetry=False)
    assert large.regularised_solver(500.0, n_solves=2).method == "cg"
    assert cross(5, memory_limit=3 * 2**20).regularised_solver(500.0).method == "cg"


def test_planar_scan_equals_the_factored_operator() -> None:
    positions = raster(6, 5, 0.01)[torch.randperm(30, generator=torch.Generator().manual_seed(0))[:25]]
    grid = Grid((0.1, -0.013, 0.004), (0.02, 0.01, 0.01), (3, 7, 4))
    for amplitude in ("none", "1/(4*pi*Rt*Rr)", "kirchhoff"):
        options = {"amplitude": amplitude, "dtype": DOUBLE, "spectrum": crandn(4)}
        fast = PlanarScan(positions, frequencies(4), grid, **options)
        slow = NearFieldMimo.from_channels(positions, positions, frequencies(4), grid, **options)
        x, y = crandn(2, *grid.shape), crandn(2, *fast.out_shape)
        assert (fast(x) - slow(x)).norm() <= 1e-12 * slow(x).norm()
        assert (fast.adjoint(y) - slow.adjoint(y)).norm() <= 1e-12 * slow.adjoint(y).norm()
        assert fast.mean_eigenvalue() == pytest.approx(slow.mean_eigenvalue(), rel=1e-9)


def test_the_fastest_operator_is_chosen() -> None:
    scan = raster(6, 5, 0.01)
    index = torch.arange(30)
    fitting = Grid((0.1, 0.0, 0.0), (0.02, 0.01, 0.01), (3, 5, 6))
    finer = Grid((0.1, 0.0, 0.0), (0.02, 0.005, 0.01), (3, 5, 6))
    f = frequencies(2)
    assert isinstance(near_field_operator(scan, scan, f, fitting, channel_tx=index, channel_rx=index), PlanarScan)
    assert isinstance(near_field_operator(scan, scan, f, finer, channel_tx=index, channel_rx=index), NearFieldMimo)
    assert near_field_operator(scan, scan, f, fitting).out_shape == (30, 30, 2)


# NF 8.2: mean PSNR in dB over 10 SX volumes, max-normalised
DIRECT = {
    (5, 30): (19.15, 17.67, 19.17, 18.26),
    (10, 30): (21.19, 20.04, 20.92, 19.87),
    (20, 30): (23.71, 23.30, 24.06, 22.63),
    (20, 10): (23.54, 23.14, 23.74, 22.29),
    (20, 0): (22.44, 22.10, 21.68, 20.24),
}


@pytest.mark.parametrize(("n_freq", "snr_db"), DIRECT)
def test_t21_direct_methods_reach_the_reference(n_freq: int, snr_db: int) -> None:
    truth = sx(np.random.default_rng(2), 10, CUBE)
    A = cross(n_freq, dtype=torch.complex64)
    y = A(truth)
    sigma = (y.abs() ** 2).mean((1, 2, 3), keepdim=True).sqrt() * 10 ** (-snr_db / 20)
    y = y + sigma * crandn(*y.shape, seed=3, dtype=torch.complex64)
    images = (A.adjoint(y), backprojection(A, y), kirchhoff(A, y), kirchhoff(A, y, compensate=True))
    figures = [float(psnr(image, truth).mean()) for image in images]
    assert figures == pytest.approx(DIRECT[n_freq, snr_db], abs=0.5)


@pytest.mark.parametrize("snr_db", [30, 10, 0])
def test_noise_is_estimated_from_the_data(snr_db: int) -> None:
    A = cross(5, dtype=torch.complex64)
    y = A(sx(np.random.default_rng(4), 4, CUBE))
    sigma = (y.abs() ** 2).mean((1, 2, 3)).sqrt() * 10 ** (-snr_db / 20)
    y = y + sigma[:, None, None, None] * crandn(*y.shape, seed=3, dtype=torch.complex64)
    estimate = estimate_noise(A, y)
    exact = estimate.std
    assert estimate.degrees_of_freedom > 50
    assert (exact / sigma - 1).abs().max() <= 0.15


@pytest.mark.parametrize("memory_limit", [2**31, 10 * 2**10])
def test_noise_that_every_image_explains_has_no_degrees_of_freedom(memory_limit: int) -> None:
    A = NearFieldMimo(antennas(4, 1), antennas(4, 2), frequencies(3), CUBE, memory_limit=memory_limit)
    y = A(sx(np.random.default_rng(4), 1, CUBE))
    estimate = estimate_noise(A, y)
    assert ("conjugate" in estimate.method) == (memory_limit < 2**20)
    assert estimate.degrees_of_freedom < 10


def test_noise_is_estimated_without_eigenvalues_too() -> None:
    A = cross(5, dtype=torch.complex64, memory_limit=6 * 2**20)
    y = A(sx(np.random.default_rng(4), 1, CUBE))
    sigma = float((y.abs() ** 2).mean().sqrt()) * 10 ** (-10 / 20)
    estimate = estimate_noise(A, y + sigma * crandn(*y.shape, seed=3, dtype=torch.complex64))
    assert "conjugate gradients" in estimate.method
    assert 0.85 <= float(estimate.std) / sigma <= 1.3
