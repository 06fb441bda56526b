"""MRI operators: against sums written out, exact solves, preconditioning, trajectories, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from operator_cases import DOUBLE, VOXEL, crandn, lattice, mri_operators, trajectory
from torch import Tensor

from imaging.errors import DtypeError, ShapeError
from imaging.operators import CartesianMri, LinearOperator, NonCartesianMri, density_compensation
from imaging.operators.cartesian_mri import regular
from imaging.operators.coils import CirculantCgSolver
from imaging.operators.nufft import Gridding, make_nufft
from imaging.solvers import CgSolver

MRI = mri_operators()


@pytest.fixture(params=MRI, ids=str)
def A(request: pytest.FixtureRequest) -> LinearOperator:
    return MRI[request.param]


def matrix_of(A: LinearOperator) -> Tensor:
    n = math.prod(A.in_shape)
    return A.gram(torch.eye(n, dtype=A.dtype).reshape(n, *A.in_shape)).reshape(n, n).T


def dft(n: int, *, centered: bool) -> Tensor:
    """The matrix exp(-2πi (k - c)(n - c)/N)/√N of one axis."""
    at = torch.arange(n, dtype=torch.float64) - (n // 2 if centered else 0)
    return torch.exp(-2j * math.pi * at[:, None] * at / n) / math.sqrt(n)


# -- the sums -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("by_slice", [True, False])
def test_a_raster_is_the_sum_written_out(centered: bool, by_slice: bool) -> None:
    maps, x = crandn(2, 3, 4, 6, 5, seed=1), crandn(2, 2, 4, 6, 5, seed=2)
    mask = torch.rand(2, 4, 6, 5, generator=torch.Generator().manual_seed(3)) > 0.4
    z = torch.eye(4, dtype=DOUBLE) if by_slice else dft(4, centered=centered)
    y, x_ = dft(6, centered=centered), dft(5, centered=centered)
    wanted = torch.einsum("az,by,cx,sdzyx,fszyx->fdabc", z, y, x_, maps, x) * mask[:, None]
    A = CartesianMri(maps, mask, centered=centered, by_slice=by_slice)
    torch.testing.assert_close(A(x), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(1, 7, 6), (4, 5, 6)])
def test_a_trajectory_is_the_sum_written_out(shape: tuple[int, int, int]) -> None:
    n_dims = 2 if shape[0] == 1 else 3
    maps, x = crandn(2, 3, *shape, seed=1), crandn(2, 2, *shape, seed=2)
    k, shift = trajectory(2, 4, 5, n_dims), (1e-3, 2e-3, 3e-3)
    lines = [
        (torch.arange(n, dtype=torch.float64) - n // 2) * d + s for n, d, s in zip(shape, VOXEL, shift, strict=True)
    ]
    r = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)[..., -n_dims:]
    waves = torch.exp(-2j * math.pi * torch.einsum("frnd,zyxd->frnzyx", k, r)) / math.sqrt(math.prod(shape))
    wanted = torch.einsum("frnzyx,sczyx,fszyx->fcrn", waves, maps, x)
    single = NonCartesianMri(maps.to(torch.complex64), k, VOXEL, shift_m=shift)
    double = NonCartesianMri(maps, k, VOXEL, shift_m=shift)
    assert (double(x) - wanted).norm() <= 1e-11 * wanted.norm()
    assert (single(x.to(torch.complex64)) - wanted).norm() <= 4e-5 * wanted.norm()


@pytest.mark.parametrize("shape", [(1, 8, 7), (4, 5, 6)])
def test_a_trajectory_on_the_raster_is_the_raster(shape: tuple[int, int, int]) -> None:
    maps, x = crandn(1, 2, *shape, seed=1), crandn(1, *shape, seed=2)
    lines = [(torch.arange(n, dtype=torch.float64) - n // 2) / (n * d) for n, d in zip(shape, VOXEL, strict=True)]
    n_dims = 2 if shape[0] == 1 else 3
    k = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)[..., -n_dims:].reshape(-1, shape[-1], n_dims)
    raster = CartesianMri(maps, torch.ones(1, *shape, dtype=torch.bool))
    along = NonCartesianMri(maps, k, VOXEL)
    torch.testing.assert_close(along(x).reshape(raster.out_shape), raster(x), rtol=0, atol=1e-10)


def test_toeplitz_in_single_precision_is_forward_and_adjoint_in_double() -> None:
    maps, k = crandn(1, 4, 1, 48, 40), trajectory(2, 20, 60, 2)
    single, double = NonCartesianMri(maps.to(torch.complex64), k, VOXEL), NonCartesianMri(maps, k, VOXEL)
    x = crandn(*double.in_shape)
    both = double.adjoint(double(x))
    assert (single.gram(x.to(torch.complex64)) - both).norm() <= 1e-6 * both.norm()


@pytest.mark.parametrize("shape", [(9, 8), (6, 5, 7)])
@pytest.mark.parametrize("accuracy", [1e-3, 1e-6, 1e-9])
def test_gridding_agrees_with_finufft_and_is_its_own_adjoint(shape: tuple[int, ...], accuracy: float) -> None:
    theta = 2 * math.pi * (torch.rand(len(shape), 40, dtype=torch.float64) - 0.5)
    exact = make_nufft(shape, 1e-13, DOUBLE, torch.device("cpu"))
    ours = Gridding(shape, accuracy, DOUBLE, torch.device("cpu"))
    v, f = crandn(3, *shape), crandn(3, 40, seed=1)
    fv, vf = exact.type2(theta, v, key=0), exact.type1(theta, f, key=0)
    assert (ours.type2(theta, v, key=0) - fv).norm() <= 3 * accuracy * fv.norm()
    assert (ours.type1(theta, f, key=0) - vf).norm() <= 3 * accuracy * vf.norm()
    gap = torch.vdot(ours.type2(theta, v, key=0).flatten(), f.flatten()) - torch.vdot(
        v.flatten(), ours.type1(theta, f, key=0).flatten()
    )
    assert abs(gap) <= 1e-12 * fv.norm() * f.norm()


def test_points_change_from_frame_to_frame() -> None:
    """One plan serves all frames: the points of the last one must not be taken for those of the next."""
    maps, k = crandn(1, 2, 1, 6, 5), trajectory(3, 2, 4, 2)
    A = NonCartesianMri(maps, k, VOXEL)
    x = crandn(3, 1, 6, 5)
    for _ in range(2):
        y = A(x)
        for f in range(3):
            torch.testing.assert_close(y[f], NonCartesianMri(maps, k[f], VOXEL)(x[f][None])[0])


def test_norm_of_a_full_scan_is_one() -> None:
    maps = crandn(1, 3, 1, 8, 8)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    assert CartesianMri(maps, torch.ones(1, 8, 8, dtype=torch.bool)).norm() == pytest.approx(1, abs=1e-12)


# -- solves -------------------------------------------------------------------------------------------------


def test_solves_agree_with_the_matrix(A: LinearOperator) -> None:
    rho = 0.3
    b = crandn(2, *A.in_shape, seed=3)
    Q = matrix_of(A) + rho * torch.eye(math.prod(A.in_shape), dtype=DOUBLE)
    wanted = torch.linalg.solve(Q, b.reshape(2, -1).T).T.reshape(b.shape)
    solver = A.regularised_solver(rho)
    if solver.method == "pcg":
        solver = CirculantCgSolver(A, rho, tol=1e-12)
    tolerance = 1e-10 if solver.method == "pcg" else 1e-12
    assert (solver(b) - wanted).norm() <= tolerance * wanted.norm()
    u, w = crandn(2, *A.in_shape, seed=4), crandn(2, *A.out_shape, seed=5)
    x, Ax = solver.prox(u, w)
    right = (rho * u + A.adjoint(w)).reshape(2, -1).T
    wanted = torch.linalg.solve(Q, right).T.reshape(u.shape)
    assert (x - wanted).norm() <= tolerance * wanted.norm()
    assert (Ax - A(x)).norm() <= 1e-12 * Ax.norm()


def test_solves_are_exact_where_the_structure_allows() -> None:
    assert MRI["CartesianMri-one-coil"].regularised_solver(0.1).method == "fourier"
    assert MRI["CartesianMri-folded"].regularised_solver(0.1).method == "folded"
    assert MRI["CartesianMri-lines"].regularised_solver(0.1).method == "pcg"


@pytest.mark.parametrize("steps", [(1, 2, 1), (1, 4, 3), (2, 2, 3)])
def test_folding_of_three_axes(steps: tuple[int, int, int]) -> None:
    shape = (4, 8, 6)
    A = CartesianMri(crandn(1, 8, *shape), lattice(2, shape, steps), centered=False)
    solver = A.regularised_solver(0.2)
    assert solver.method == "folded"
    b = crandn(1, *A.in_shape)
    x = solver(b)
    assert (A.gram(x) + 0.2 * x - b).norm() <= 1e-12 * b.norm()


def test_what_is_regular() -> None:
    mask = lattice(3, (1, 12, 10), (1, 4, 2))
    steps, firsts = regular(mask, (-2, -1)) or ((), None)
    assert steps == (1, 4, 2)
    assert firsts.tolist() == [[0, 0, 0], [0, 1, 1], [0, 2, 0]]
    mask[0, 0, 6, 4] = True
    assert regular(mask, (-2, -1)) is None
    assert regular(lattice(1, (2, 4, 4), (2, 1, 1)), (-2, -1)) is None  # slices are not transformed


def test_the_preconditioner_is_the_nearest_circulant_matrix() -> None:
    for name in ("CartesianMri", "CartesianMri-zero-first", "CartesianMri-sets", "NonCartesianMri-3d-sets"):
        A = MRI[name]
        n, sets = math.prod(A.in_shape[-3:]), len(A.maps)
        gram = matrix_of(A).reshape(2, sets, n, 2, sets, n)
        waves = torch.fft.fftn(torch.eye(n, dtype=DOUBLE).reshape(n, *A.in_shape[-3:]), dim=(1, 2, 3), norm="ortho")
        waves = waves.reshape(n, n).T
        for f in range(2):
            for s in range(sets):
                wanted = torch.diagonal(waves @ gram[f, s, :, f, s] @ waves.mH).real
                torch.testing.assert_close(A.circulant()[f, s].flatten(), wanted, rtol=0, atol=1e-12)


def test_preconditioning_saves_steps_on_radial_spokes() -> None:
    n, n_spokes = 32, 50
    at = torch.arange(n_spokes, dtype=torch.float64)[:, None] * math.pi / n_spokes
    radius = (torch.arange(2 * n, dtype=torch.float64) - n) / (2 * n * VOXEL[1])
    k = torch.stack((radius * at.sin(), radius * at.cos()), dim=-1)
    maps = torch.ones(1, 1, 1, n, n, dtype=DOUBLE)
    A = NonCartesianMri(maps, k, (VOXEL[0], VOXEL[1], VOXEL[1]))
    rho = 1e-2 * A.norm() ** 2
    b = A.adjoint(A(crandn(*A.in_shape)))
    ours, plain = A.regularised_solver(rho), CgSolver(A, rho)
    torch.testing.assert_close(ours(b), plain(b), rtol=0, atol=1e-3 * float(b.abs().max()) / rho)
    assert int(ours.info.iterations) <= 0.6 * int(plain.info.iterations)


# -- density ------------------------------------------------------------------------------------------------


def test_density_of_spokes_is_their_radius() -> None:
    n, n_spokes = 64, 101
    at = torch.arange(n_spokes, dtype=torch.float64)[:, None] * math.pi / n_spokes
    turns = (torch.arange(2 * n, dtype=torch.float64) - n + 0.5) / (2 * n)
    k = torch.stack((turns * at.sin(), turns * at.cos()), dim=-1)[None] / 1e-3
    w = density_compensation(k, (1e-3, 1e-3, 1e-3), (1, n, n))[0].double()
    ring = math.pi / n_spokes / (2 * n) * n * n * turns.abs()
    middle = (turns.abs() > 0.05) & (turns.abs() < 0.4)
    torch.testing.assert_close(w[:, middle], ring[middle].expand(n_spokes, -1), rtol=0.1, atol=0)
    assert float(w.sum()) == pytest.approx(math.pi / 4 * n * n, rel=0.05)


def test_weighted_adjoint_of_a_full_trajectory_is_the_image() -> None:
    n, n_spokes = 48, 120
    at = torch.arange(n_spokes, dtype=torch.float64)[:, None] * math.pi / n_spokes
    turns = (torch.arange(2 * n, dtype=torch.float64) - n) / (2 * n)
    k = torch.stack((turns * at.sin(), turns * at.cos()), dim=-1)[None] / 1e-3
    y, x = torch.meshgrid(torch.arange(n) - n // 2, torch.arange(n) - n // 2, indexing="ij")
    image = torch.exp(-((x - 4.0) ** 2 + (y + 6.0) ** 2) / 50).to(DOUBLE)[None, None]
    A = NonCartesianMri(torch.ones(1, 1, 1, n, n, dtype=DOUBLE), k, (1e-3, 1e-3, 1e-3))
    w = density_compensation(k, (1e-3, 1e-3, 1e-3), (1, n, n))
    back = A.adjoint(A(image) * w[:, None])
    assert (back - image).norm() <= 0.03 * image.norm()


# -- what is refused ----------------------------------------------------------------------------------------

MAPS, MASK = crandn(1, 2, 1, 6, 5), torch.ones(1, 1, 6, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("maps", "mask", "error", "message"),
    [
        (MAPS[0], MASK, ShapeError, "maps: expected .set, coil, z, y, x., got"),
        (MAPS.real, MASK, DtypeError, "maps: expected complex64 or complex128, got torch.float64"),
        (MAPS * float("nan"), MASK, ValueError, "maps: expected finite numbers"),
        (MAPS, MASK.double(), ValueError, "mask: expected bool, got torch.float64"),
        (MAPS, torch.ones(1, 1, 6, 4, dtype=torch.bool), ShapeError, r"mask: expected .frame, 1, 6, 5. as the maps"),
        (MAPS, torch.stack((MASK[0], ~MASK[0])), ValueError, "expected a sample in every frame, found none in frame 1"),
    ],
)
def test_rasters_that_do_not_fit(maps: Tensor, mask: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CartesianMri(maps, mask)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"points": trajectory(1, 2, 3, 2)[0, 0]}, ShapeError, "points: expected .frame, readout, sample, 2 or 3."),
        ({"points": 6.28 * trajectory(1, 9, 9, 2)}, ValueError, r"must be in 1/m .not rad/m"),
        ({"points": trajectory(1, 2, 3, 2) * float("nan")}, ValueError, "points: expected finite numbers"),
        ({"maps": crandn(1, 2, 3, 6, 5)}, ShapeError, "expected one voxel along z"),
        ({"accuracy": 1e-17}, ValueError, "accuracy: expected 4.4e-16 to 1 in torch.complex128, got 1e-17"),
        ({"weights": torch.ones(2, 3)}, ShapeError, "weights: expected .1, 2, 3., got .2, 3."),
    ],
)
def test_trajectories_that_do_not_fit(change: dict, error: type[Exception], message: str) -> None:
    given = {"maps": MAPS, "points": trajectory(1, 2, 3, 2), "spacing_m": VOXEL, **change}
    with pytest.raises(error, match=message):
        NonCartesianMri(**given)


@pytest.mark.parametrize("rho", [0.0, -1.0, float("inf")])
def test_a_penalty_that_is_none(A: LinearOperator, rho: float) -> None:
    with pytest.raises(ValueError, match="rho: expected a finite number > 0"):
        A.regularised_solver(rho)
