"""Projectors against analytic projections, other implementations and their own matrix-free form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from imaging.errors import GeometryError
from imaging.operators import ConeBeam, FanBeam, Grid, LinearOperator, ParallelBeam, TimeSequential, Weighted

N = 128
UNIT = Grid((0.0, -N / 2, -N / 2), (1.0, 1.0, 1.0), (1, N, N))  # the rotation axis on pixel 64, as scikit-image has it
COLUMNS = torch.arange(N, dtype=torch.float64) - N / 2
ANGLES = torch.arange(90, dtype=torch.float64) * math.pi / 90


def disc(radius: float, x: float = 0.0, y: float = 0.0) -> Tensor:
    """A disc of value 1 averaged over the pixels of `UNIT`, float64 (1, N, N)."""
    fine = (torch.arange(8 * N, dtype=torch.float64) + 0.5) / 8 - 0.5 - N / 2
    inside = (fine[:, None] - y) ** 2 + (fine[None, :] - x) ** 2 <= radius**2
    return inside.double().reshape(N, 8, N, 8).mean((1, 3))[None]


def disc_projection(u: Tensor, radius: float) -> Tensor:
    """Chords of a disc averaged over bins of width 1."""
    fine = u[..., None] + (torch.arange(32, dtype=torch.float64) + 0.5) / 32 - 0.5
    return (2 * (radius**2 - fine**2).clamp_min(0).sqrt()).mean(-1)


@pytest.mark.parametrize(("radius", "tol"), [(40, 0.004), (25, 0.007), (15, 0.012)])
def test_a_disc_has_its_analytic_projections(radius: float, tol: float) -> None:
    A = ParallelBeam(ANGLES, COLUMNS, UNIT, dtype=torch.float64)
    expected = disc_projection(COLUMNS, radius).expand(len(ANGLES), N)
    y = A(disc(radius))[:, 0]
    assert float((y - expected).norm() / expected.norm()) <= tol  # RP 8, check 4
    assert float((y.sum(1) / (math.pi * radius**2) - 1).abs().max()) < 2e-3


def test_an_off_centre_disc_lies_where_the_format_says() -> None:
    A = ParallelBeam(ANGLES, COLUMNS, UNIT, axis_offset_m=-1.5, dtype=torch.float64)
    u = COLUMNS[None, :] + 1.5 - (20 * torch.cos(ANGLES) - 13 * torch.sin(ANGLES))[:, None]
    expected = disc_projection(u, 15)
    y = A(disc(15, x=20, y=-13))[:, 0]
    assert float((y - expected).norm() / expected.norm()) < 0.015


def test_a_gaussian_has_gaussian_projections_in_a_fan() -> None:
    """Along every ray the integral of exp(-r²/2s²) is √(2π) s exp(-d²/2s²), d the ray's distance from the centre."""
    s, x0, y0, far, behind = 9.0, 12.0, -7.0, 300.0, 100.0
    y, x = torch.meshgrid(COLUMNS, COLUMNS, indexing="ij")
    image = torch.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * s**2))[None]
    A = FanBeam(
        4 * ANGLES,
        1.3 * COLUMNS,
        UNIT,
        source_to_origin_m=far,
        origin_to_detector_m=behind,
        per_bin=1,
        dtype=torch.float64,
        axis_offset_m=2.0,
        tilt_rad=0.1,
    )
    for p, angle in enumerate((4 * ANGLES).tolist()):
        source = np.array((far * math.sin(angle), -far * math.cos(angle)))
        foot = behind * np.array((-math.sin(angle), math.cos(angle)))
        across = np.array((math.cos(angle + 0.1), math.sin(angle + 0.1)))
        bins = foot + (1.3 * COLUMNS.numpy() - 2.0)[:, None] * across
        way = (bins - source) / np.linalg.norm(bins - source, axis=1, keepdims=True)
        to = np.array((x0, y0)) - source
        distance = way[:, 0] * to[1] - way[:, 1] * to[0]
        expected = math.sqrt(2 * math.pi) * s * np.exp(-(distance**2) / (2 * s**2))
        if p % 10 == 0:
            assert np.abs(A(image)[p, 0].numpy() - expected).max() < 2e-3 * expected.max()


def ball_scan(**more: object) -> tuple[Grid, dict[str, Tensor], dict[str, object]]:
    """32 x 36 x 36 voxels of 1 m; detector columns and rows of 1.5 m; views and distances."""
    grid = Grid((-15.5, -17.5, -17.5), (1.0, 1.0, 1.0), (32, 36, 36))
    detector = {
        "angles_rad": torch.arange(5, dtype=torch.float64) * 1.3,
        "columns_m": 1.5 * torch.arange(40, dtype=torch.float64) - 29.0,
        "rows_m": 1.5 * torch.arange(26, dtype=torch.float64) - 19.0,
    }
    far = {"source_to_origin_m": 90.0, "origin_to_detector_m": 40.0, "dtype": torch.float64, **more}
    return grid, detector, far


def test_a_gaussian_ball_has_gaussian_projections_in_a_cone() -> None:
    """Along every ray √(2π) s exp(-d²/2s²), d the ray's distance from the centre; rays written down by hand.

    Bilinear interpolation lowers the peak by up to 1/(4 s²).
    """
    s, centre = 4.0, np.array((4.0, -3.0, 2.5))
    grid, detector, far = ball_scan(axis_offset_m=1.2, tilt_rad=0.15, split=1)
    z, y, x = torch.meshgrid(*(grid.axis_m(a) for a in "zyx"), indexing="ij")
    ball = torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / (2 * s**2))
    found = ConeBeam(**detector, grid=grid, **far)(ball).numpy()
    for p, angle in enumerate(detector["angles_rad"].tolist()):
        source = np.array((90 * math.sin(angle), -90 * math.cos(angle), 0.0))
        foot = 40 * np.array((-math.sin(angle), math.cos(angle), 0.0))
        across = np.array((math.cos(angle + 0.15), math.sin(angle + 0.15), 0.0))
        u, v = detector["columns_m"].numpy() - 1.2, detector["rows_m"].numpy()
        way = foot + u[None, :, None] * across + v[:, None, None] * np.array((0, 0, 1.0)) - source
        way /= np.linalg.norm(way, axis=-1, keepdims=True)
        distance = np.linalg.norm(np.cross(way, centre - source), axis=-1)
        expected = math.sqrt(2 * math.pi) * s * np.exp(-(distance**2) / (2 * s**2))
        assert np.abs(found[p] - expected).max() < 1.05 / (4 * s**2) * expected.max()


def test_the_middle_row_of_a_cone_is_a_fan() -> None:
    grid, detector, far = ball_scan(axis_offset_m=1.2, tilt_rad=0.15)
    flat = Grid((0.0, *grid.origin_m[1:]), grid.spacing_m, (1, *grid.shape[1:]))
    image = torch.rand(flat.shape, dtype=torch.float64)
    fan = FanBeam(detector["angles_rad"], detector["columns_m"], flat, per_bin=2, **far)  # type: ignore[arg-type]
    detector["rows_m"] = torch.zeros(1, dtype=torch.float64)
    volume = image.expand(grid.shape).contiguous()
    cone = ConeBeam(**detector, grid=grid, split=2, **far)  # type: ignore[arg-type]
    torch.testing.assert_close(cone(volume), fan(image))


def test_wide_bins_of_a_cone_average_their_rays() -> None:
    grid, detector, far = ball_scan()
    x = torch.rand(grid.shape, dtype=torch.float64)
    fine = ConeBeam(**detector, grid=grid, split=1, **far)  # type: ignore[arg-type]
    pairs = {k: (v.reshape(-1, 2).mean(1) if k != "angles_rad" else v) for k, v in detector.items()}
    wide = ConeBeam(**pairs, grid=grid, split=2, **far)  # type: ignore[arg-type]
    torch.testing.assert_close(wide(x), fine(x).reshape(5, 13, 2, 20, 2).mean((2, 4)))
    assert ConeBeam(**pairs, grid=grid, **far).rays.split == 2  # type: ignore[arg-type]


def test_wide_bins_average_their_rays() -> None:
    wide = torch.arange(32, dtype=torch.float64) * 4 - 62.5
    A = ParallelBeam(ANGLES, wide, UNIT, dtype=torch.float64)
    fine = ParallelBeam(ANGLES, torch.arange(128, dtype=torch.float64) - 64, UNIT, dtype=torch.float64)
    assert A.per_bin == 4
    x = disc(25, x=7, y=3)
    mean = fine(x).reshape(90, 1, 32, 4).mean(-1)
    assert float((A(x) - mean).norm() / mean.norm()) < 1e-12


def test_scikit_image_agrees() -> None:
    from skimage.transform import radon

    image = disc(25, x=10, y=-6)[0] + 0.5 * disc(12, x=-20, y=15)[0]
    theirs = radon(image.numpy(), theta=np.rad2deg(ANGLES.numpy()), circle=True).T
    # its rows count downwards, so its y is ours mirrored: u = x cos θ - row sin θ
    ours = ParallelBeam(-ANGLES, COLUMNS, UNIT, dtype=torch.float64)(image[None])[:, 0].numpy()
    assert np.linalg.norm(ours - theirs) < 0.005 * np.linalg.norm(theirs)


def test_a_matrix_made_in_blocks_gives_the_same() -> None:
    stored = ParallelBeam(ANGLES, COLUMNS, UNIT)
    free = ParallelBeam(ANGLES, COLUMNS, UNIT, memory_limit=0)
    assert stored.matrix is not None
    assert free.matrix is None
    x, y = torch.rand(2, 1, N, N), torch.rand(2, 90, 1, N)
    assert torch.equal(stored(x), free(x))
    torch.testing.assert_close(stored.adjoint(y), free.adjoint(y), rtol=1e-5, atol=1e-4)


def test_slices_are_projected_one_by_one() -> None:
    stack = Grid((0.0, -N / 2, -N / 2), (1.0, 1.0, 1.0), (3, N, N))
    A, one = ParallelBeam(ANGLES, COLUMNS, stack), ParallelBeam(ANGLES, COLUMNS, UNIT)
    x = torch.rand(2, 3, N, N)
    for k in range(3):
        torch.testing.assert_close(A(x)[:, :, k], one(x[:, k : k + 1])[:, :, 0])


@pytest.mark.parametrize("memory_limit", [2**32, 0])
def test_every_view_sees_its_frame(memory_limit: int) -> None:
    small = Grid((0.0, -8.0, -8.0), (1.0, 1.0, 1.0), (2, 16, 16))
    A = ParallelBeam(ANGLES[:6], COLUMNS[56:72], small, memory_limit=memory_limit, dtype=torch.float64)
    index = torch.tensor([3, 0, 0, 1, 3, 1])  # frame 2 is never seen
    T = TimeSequential(A, index, 4)
    x = torch.rand(4, 2, 16, 16, dtype=torch.float64)
    y = T(x)
    for p, frame in enumerate(index.tolist()):
        torch.testing.assert_close(y[p], A(x[frame])[p])
    assert not T.adjoint(y)[2].any()
    basis, psi = torch.rand(3, 2, 16, 16, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    movie = torch.einsum("fk,kzyx->fzyx", psi, basis)
    torch.testing.assert_close(T(movie), torch.einsum("pk,kpzj->pzj", psi[index], T.project_basis(basis)))


@pytest.mark.parametrize("kind", ["parallel", "fan", "cone", "moving", "weighted"])
@pytest.mark.parametrize("memory_limit", [2**32, 0])
def test_mean_eigenvalue_is_that_of_the_matrix(kind: str, memory_limit: int) -> None:
    grid = Grid((0.0, -3.0, -2.5), (1.0, 1.0, 1.2), (2, 7, 6))
    angles, columns, far = ANGLES[::20], COLUMNS[::4][13:20], {"source_to_origin_m": 20.0, "origin_to_detector_m": 9.0}
    more = {"memory_limit": memory_limit, "dtype": torch.float64}
    A: LinearOperator = ParallelBeam(angles, columns, grid, **more)
    if kind == "fan":
        A = FanBeam(angles, columns, grid, **far, **more)
    elif kind == "cone":
        A = ConeBeam(angles, columns, columns[2:5], grid, **far, **more)
    elif kind != "parallel":
        A = TimeSequential(A, torch.tensor([0, 1, 1, 2, 0]))  # type: ignore[arg-type]
    if kind == "weighted":
        A = Weighted(A, torch.rand(A.out_shape, dtype=torch.float64))
    n = math.prod(A.in_shape)
    matrix = A(torch.eye(n, dtype=torch.float64).reshape(n, *A.in_shape))
    expected = float(matrix.square().sum()) / math.prod(A.out_shape)
    assert A.mean_eigenvalue() == pytest.approx(expected, rel=1e-10)


def test_impossible_scans_are_refused() -> None:
    with pytest.raises(GeometryError, match="increasing detector columns"):
        ParallelBeam(ANGLES, COLUMNS.flip(0), UNIT)
    with pytest.raises(GeometryError, match="source outside the grid"):
        FanBeam(ANGLES, COLUMNS, UNIT, source_to_origin_m=80, origin_to_detector_m=10)
    grid, detector, far = ball_scan()
    with pytest.raises(GeometryError, match="rows_m: expected increasing detector rows"):
        ConeBeam(**{**detector, "rows_m": -detector["rows_m"]}, grid=grid, **far)  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match="source outside the grid"):
        ConeBeam(**detector, grid=grid, **{**far, "source_to_origin_m": 20.0})  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match="one per view"):
        TimeSequential(ParallelBeam(ANGLES[:3], COLUMNS, UNIT), torch.tensor([0, 1]))
    with pytest.raises(GeometryError, match="from 0 to 1"):
        TimeSequential(ParallelBeam(ANGLES[:3], COLUMNS, UNIT), torch.tensor([0, 1, 2]), 2)
    with pytest.raises(GeometryError, match="finite numbers"):
        ParallelBeam(torch.tensor([0.0, math.nan]), COLUMNS, UNIT)
