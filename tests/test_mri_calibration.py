"""Coil sensitivities, noise and compression: against known coils, and the laws that define them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from data.simulate.mri_coils import loop_sensitivities, unit_sum_of_squares
from imaging.calibration import (
    calibration_region,
    compression_matrix,
    espirit,
    noise_covariance,
    walsh,
    whitening_matrix,
)
from imaging.calibration.coils import centre_of, centre_of_trajectory, coarse_images
from imaging.calibration.espirit import leading_eigenvectors, noise_edge
from imaging.errors import ShapeError
from imaging.operators import CartesianMri, NonCartesianMri

N, PIXEL = 48, 5e-3


def coils(shape: tuple[int, int, int], n: int = 8) -> Tensor:
    """Loops around the field of view, Σ|m|² = 1: complex128 (coil, z, y, x)."""
    z, y, x = ((torch.arange(k) - k // 2).double() * PIXEL for k in shape)
    points = torch.stack(torch.broadcast_tensors(x, y[:, None], z[:, None, None]), dim=-1)
    half = N * PIXEL / 2
    maps = loop_sensitivities(points.numpy(), n, distance_m=1.3 * half, loop_radius_m=0.6 * half)
    return torch.as_tensor(unit_sum_of_squares(maps)).to(torch.complex128)


def ellipsoid(shape: tuple[int, int, int]) -> Tensor:
    """A textured object with a smooth phase: complex128 (z, y, x)."""
    z, y, x = torch.meshgrid(*((torch.arange(k) - k // 2).double() / max(k, 2) for k in shape), indexing="ij")
    inside = (z / 0.4) ** 2 + (y / 0.42) ** 2 + (x / 0.35) ** 2 < 1
    return inside * (1 + 0.5 * torch.sin(30 * x) * torch.cos(25 * y)) * torch.exp(1j * (3 * x + 5 * x * y))


def full_scan(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """(samples (coil, kz, ky, kx), maps, object)."""
    maps, image = coils(shape), ellipsoid(shape)
    A = CartesianMri(maps[None], torch.ones(1, *shape, dtype=torch.bool))
    return A(image[None])[0], maps, image


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Between the coil vectors in every voxel, rad: (z, y, x)."""
    inner = (a.conj() * b).sum(0).abs()
    size = torch.linalg.vector_norm(a, dim=0) * torch.linalg.vector_norm(b, dim=0)
    return torch.acos((inner / size.clamp_min(1e-12)).clamp(max=1))


def noisy(samples: Tensor, share: float) -> Tensor:
    """White noise of that share of the samples' rms."""
    g = torch.Generator().manual_seed(5)
    level = share * samples.abs().square().mean().sqrt()
    return samples + level * torch.randn(samples.shape, dtype=samples.dtype, generator=g)


SHAPES = [(1, N, N), (12, 20, 20)]


@pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])
@pytest.mark.parametrize(("noise", "limit"), [(0.0, 0.01), (0.05, 0.02)])
def test_espirit_finds_the_coils(shape: tuple[int, int, int], noise: float, limit: float) -> None:
    samples, maps, image = full_scan(shape)
    widths = [min(n, 20 if n > 12 else 12) for n in shape]
    found = espirit(centre_of(noisy(samples, noise), widths), shape)
    inside = image.abs() > 0
    assert float(angle(found.maps[0], maps)[inside].quantile(0.95)) < limit
    size = torch.linalg.vector_norm(found.maps[0], dim=0)
    assert float((size[inside] - 1).abs().max()) < 1e-6
    assert float((found.eigenvalues[0][inside] - 1).abs().max()) < 0.02
    assert float(found.eigenvalues.max()) < 1 + 1e-6


def test_maps_of_a_real_object_reproduce_its_coil_images() -> None:
    samples, maps, image = full_scan((1, N, N))
    found = espirit(centre_of(samples, (1, 20, 20)), (1, N, N)).maps[0]
    images = image * maps
    seen = (found.conj() * images).sum(0)
    assert (found * seen - images).norm() < 0.01 * images.norm()


def test_the_phase_is_that_of_the_first_principal_component() -> None:
    samples, _, _ = full_scan((1, N, N))
    found = espirit(centre_of(samples, (1, 20, 20)), (1, N, N)).maps[0]
    flat = centre_of(samples, (1, 20, 20)).flatten(1)
    first = torch.linalg.eigh(flat @ flat.mH)[1][:, -1]
    seen = torch.einsum("c,czyx->zyx", first.conj(), found)
    assert float(seen.imag.abs().max()) < 1e-10
    assert float(seen.real.min()) >= -1e-10


def test_two_sets_where_the_object_folds_onto_itself() -> None:
    """A field of view of 5/8 of the object: folded voxels need two sets, and with both nothing is left over."""
    shape, small = (1, 64, 48), (1, 40, 48)
    maps = coils(shape)
    y, x = torch.meshgrid((torch.arange(64) - 32.0) / 28, (torch.arange(48) - 24.0) / 20, indexing="ij")
    image = ((y**2 + x**2 < 1) * (1 + 0.3 * torch.sin(20 * y) * torch.cos(17 * x))).to(torch.complex128)[None]
    images = image * maps
    folded = images[:, :, 12:52].clone()  # rows 12 to 51 stay, the others wrap around
    folded[:, :, 28:40] += images[:, :, :12]
    folded[:, :, :12] += images[:, :, 52:]
    A = CartesianMri(torch.ones(1, 1, *small, dtype=torch.complex128), torch.ones(1, *small, dtype=torch.bool))
    samples = A(folded[:, None])[:, 0, 0]
    found = espirit(centre_of(samples, (1, 24, 24)), small, n_sets=2)
    left = []
    for n_sets in (1, 2):
        m = found.maps[:n_sets]
        seen = torch.einsum("sczyx,czyx->szyx", m.conj(), folded)
        left.append(float((folded - torch.einsum("sczyx,szyx->czyx", m, seen)).norm() / folded.norm()))
    assert left[1] < 0.02
    assert left[0] > 5 * left[1]
    both = (found.eigenvalues[1] > 0.9)[0]
    double = torch.zeros_like(both)
    double[:12] = ((image[0, :12].abs() > 0) & (image[0, 40:52].abs() > 0)) | (
        (image[0, 12:24].abs() > 0) & (image[0, 52:].abs() > 0)
    )
    assert float(both[:12][double[:12]].float().mean()) > 0.9
    assert not bool(both[16:24, 20:28].any())  # the middle is not folded


def test_a_higher_threshold_keeps_fewer_components() -> None:
    samples, _, _ = full_scan((1, N, N))
    centre = centre_of(noisy(samples, 0.05), (1, 20, 20))
    few, many = (espirit(centre, (1, N, N), threshold=t).n_kernels for t in (0.1, 0.01))
    assert few < many


def test_the_threshold_follows_the_noise() -> None:
    samples, _, _ = full_scan((1, N, N))
    centres = [centre_of(noisy(samples, s), (1, 26, 26)) for s in (0.0, 0.05, 0.3)]
    thresholds = [espirit(c, (1, N, N), n_sets=2).threshold for c in centres]
    assert thresholds[0] < thresholds[1] < thresholds[2]
    assert espirit(centres[0], (1, N, N)).threshold == 0.02
    white = torch.randn(4000, 100, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.eigvalsh(white.mH @ white)
    values[-1] *= 1e4  # one signal
    edge = noise_edge(values, 4000)
    assert int((values.sqrt() / values[-1].sqrt() >= edge).sum()) == 1


def test_walsh_is_close() -> None:
    samples, maps, image = full_scan((1, N, N))
    found = walsh(coarse_images(centre_of(samples, (1, 24, 24)), (1, N, N)))
    inside = image.abs() > 0
    assert tuple(found.shape) == (1, 8, 1, N, N)
    assert float(angle(found[0], maps)[inside].quantile(0.95)) < 0.15
    torch.testing.assert_close(torch.linalg.vector_norm(found[0], dim=0), torch.ones(1, N, N, dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_leading_eigenvectors_of_many_matrices(n: int) -> None:
    m = torch.randn(50, 8, 8, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    m = m @ torch.diag(torch.tensor([3.0, 1.5, 0.7, 0.3, 0.1, 0.05, 0.01, 0.001]).to(m)) @ m.mH
    values, vectors = leading_eigenvectors(m, n)
    wanted = torch.linalg.eigvalsh(m).flip(-1)[:, :n]
    torch.testing.assert_close(values, wanted, rtol=1e-6, atol=1e-9)
    left = m @ vectors - vectors * values[:, None]
    assert float(left.abs().max()) < 1e-3 * float(values.max())
    torch.testing.assert_close(vectors.mH @ vectors, torch.eye(n, dtype=m.dtype).expand(50, n, n))
    zeros = leading_eigenvectors(torch.zeros(3, 8, 8, dtype=torch.complex64), n)
    assert bool(torch.isfinite(torch.view_as_real(zeros[1])).all())


def test_whitening_makes_noise_white() -> None:
    g = torch.Generator().manual_seed(2)
    mixing = torch.randn(4, 4, dtype=torch.complex128, generator=g)
    noise = mixing @ torch.randn(4, 20000, dtype=torch.complex128, generator=g)
    covariance = noise_covariance(noise)
    white = noise_covariance(whitening_matrix(covariance) @ noise)
    level = float(covariance.diagonal().real.mean())
    torch.testing.assert_close(white, level * torch.eye(4, dtype=white.dtype), rtol=0, atol=1e-10 * level)


def test_compression_keeps_what_lies_in_few_directions() -> None:
    g = torch.Generator().manual_seed(3)
    data = torch.einsum(
        "cd,fdn->fcn",
        torch.randn(6, 2, dtype=torch.complex128, generator=g),
        torch.randn(3, 2, 50, dtype=torch.complex128, generator=g),
    )
    matrix, kept = compression_matrix(data, 2)
    assert kept == pytest.approx(1)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(2, dtype=matrix.dtype))
    assert float((matrix @ data).norm()) == pytest.approx(float(data.norm()))


def test_the_calibration_region_is_the_largest_full_block() -> None:
    mask = torch.zeros(1, 20, 21, dtype=torch.bool)
    mask[:, ::2] = True
    mask[:, 7:14] = True
    assert calibration_region(mask) == (1, 9, 21)  # the next lines on both sides are measured, too
    assert calibration_region(mask, widest=6) == (1, 6, 6)
    assert calibration_region(torch.zeros(1, 5, 5, dtype=torch.bool)) == (0, 0, 0)


def test_the_centre_of_a_trajectory_is_that_of_the_raster() -> None:
    shape, spacing = (1, N, N), (PIXEL, PIXEL, PIXEL)
    maps, image = coils(shape, 4), ellipsoid(shape)
    at = torch.arange(90, dtype=torch.float64)[:, None] * math.pi / 90
    radius = (torch.arange(2 * N, dtype=torch.float64) - N) / (2 * N * PIXEL)
    points = torch.stack((radius * at.sin(), radius * at.cos()), dim=-1)
    samples = NonCartesianMri(maps[None], points, spacing)(image[None])[0]
    found = centre_of_trajectory(samples, points, spacing, shape, width=16)
    wanted = centre_of(CartesianMri(maps[None], torch.ones(1, *shape, dtype=torch.bool))(image[None])[0], (1, 16, 16))
    scale = torch.vdot(found.flatten(), wanted.flatten()) / found.norm() ** 2
    inner = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    assert float((scale * found - wanted)[inner].norm() / wanted[inner].norm()) < 0.05
    maps_found = espirit(found, shape).maps[0]
    assert float(angle(maps_found, maps)[image.abs() > 0].quantile(0.95)) < 0.05


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: espirit(torch.zeros(2, 9, 9, dtype=torch.complex64), (1, 9, 9)), ShapeError, "expected .coil, kz, ky"),
        (lambda: espirit(torch.zeros(2, 1, 9, 9, dtype=torch.complex64), (1, 9, 9)), ValueError, "found only zeros"),
        (lambda: espirit(torch.full((2, 1, 9, 9), complex("nan")), (1, 9, 9)), ValueError, "found NaN or Inf"),
        (lambda: espirit(torch.ones(2, 1, 5, 9) + 0j, (1, 9, 9)), ShapeError, "at least 6 samples along every encoded"),
        (lambda: espirit(torch.ones(2, 1, 9, 9) + 0j, (1, 9, 9), n_sets=3), ValueError, "expected 1 to 2, the coils"),
        (lambda: walsh(torch.zeros(2, 1, 9, 9) + 0j), ValueError, "walsh images: expected a signal"),
        (lambda: walsh(torch.zeros(9, 9) + 0j), ShapeError, "walsh images: expected .coil, z, y, x."),
        (lambda: whitening_matrix(torch.diag(torch.tensor([1.0, -1.0]))), ValueError, "positive definite"),
        (
            lambda: noise_covariance(torch.ones(4, 3) + 0j),
            ShapeError,
            "expected at least 4 samples, one per coil, got 3",
        ),
        (lambda: compression_matrix(torch.ones(1, 4, 3) + 0j, 5), ValueError, "expected 1 to 4, the coils, got 5"),
    ],
)
def test_what_cannot_be_calibrated(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_opposite_loops_see_mirrored_fields() -> None:
    """The coils that these tests rest on are what they say."""
    maps = coils((1, 33, 33), 8).numpy()[:, 0]
    np.testing.assert_allclose(np.abs(maps[0]), np.abs(maps[4][::-1, ::-1]), atol=1e-6)
