"""Receive coils: noise, whitening, compression, and the centre of k-space that sensitivities are taken from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.cartesian_mri import CartesianMri
from imaging.operators.noncartesian_mri import NonCartesianMri, density_compensation

#: Widest centre that sensitivities are taken from: they are smooth, and more only costs time.
WIDEST = 32
#: Conjugate-gradient steps of an image of the centre.
CENTRE_STEPS = 8


def noise_covariance(noise: Tensor) -> Tensor:
    """Sample covariance of the coils' noise.

    Args:
        noise: complex (coil, n) or (coil, ...), samples without a signal, n at least the number of coils.

    Returns:
        complex128 (coil, coil), units of the data squared.

    Source: Pruessmann et al. (2001), Advances in sensitivity encoding, appendix.
    """
    flat = noise.flatten(1).to(torch.complex128)
    n_coils, n = flat.shape
    if n < n_coils:
        raise ShapeError(f"noise_covariance noise: expected at least {n_coils} samples, one per coil, got {n}")
    if not bool(torch.isfinite(torch.view_as_real(flat)).all()):
        raise ValueError("noise_covariance noise: expected finite samples, found NaN or Inf")
    return flat @ flat.mH / n


def whitening_matrix(covariance: Tensor) -> Tensor:
    """Matrix after which the noise of all coils is uncorrelated and alike; the mean variance stays.

    Args:
        covariance: Hermitian positive definite (coil, coil).

    Returns:
        complex128 (coil, coil), lower triangular: L⁻¹ √(trace / C) with L Lᴴ the covariance.

    Raises:
        ValueError: not positive definite.

    Source: Pruessmann et al. (2001), appendix A.
    """
    full = covariance.to(torch.complex128)
    root, failed = torch.linalg.cholesky_ex((full + full.mH) / 2)
    if int(failed):
        raise ValueError("whitening_matrix covariance: expected a positive definite matrix, found one that is not")
    level = full.diagonal().real.mean().sqrt()
    return torch.linalg.solve_triangular(root, level * torch.eye(len(full), dtype=full.dtype), upper=False)


def compression_matrix(data: Tensor, n: int) -> tuple[Tensor, float]:
    """To the n virtual coils that hold most energy, (n, coil), and the share of it that they hold.

    Args:
        data: complex (frame, coil, ...).
        n: 1 to the number of coils.

    Raises:
        ValueError: n out of range.

    Source: Buehrer et al. (2007), Array compression for MRI with large coil arrays.
    """
    if not 1 <= n <= data.shape[1]:
        raise ValueError(f"compression_matrix n: expected 1 to {data.shape[1]}, the coils, got {n}")
    rows = data.transpose(0, 1).flatten(1).to(torch.complex128)
    values, vectors = torch.linalg.eigh(rows @ rows.mH)
    return vectors[:, -n:].mH.to(data.dtype), float(values[-n:].sum() / values.sum())


def calibration_region(mask: Tensor, widest: int = WIDEST) -> tuple[int, int, int]:
    """Widths of the largest fully sampled block in the middle of k-space, along kz, ky, kx.

    Args:
        mask: bool (kz, ky, kx), zero frequency at n // 2.
        widest: along any axis.

    Returns:
        (0, 0, 0) where not even the zero frequency was measured.
    """
    sizes = [1, 1, 1]

    def full(widths: Sequence[int]) -> bool:
        where = tuple(slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(mask.shape, widths, strict=True))
        return bool(mask[where].all())

    if not full(sizes):
        return 0, 0, 0
    growing = [True, True, True]
    while any(growing):
        for i, n in enumerate(mask.shape):
            if growing[i]:
                wider = [w + (k == i) for k, w in enumerate(sizes)]
                growing[i] = wider[i] <= min(n, widest) and full(wider)
                sizes = wider if growing[i] else sizes
    return sizes[0], sizes[1], sizes[2]


def centre_of(samples: Tensor, widths: Sequence[int]) -> Tensor:
    """The middle block of (coil, kz, ky, kx)."""
    where = tuple(slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(samples.shape[1:], widths, strict=True))
    return samples[(slice(None), *where)]


def centre_of_trajectory(
    samples: Tensor, points: Tensor, spacing_m: Sequence[float], shape: Sequence[int], width: int = WIDEST
) -> Tensor:
    """The centre of k-space on its raster, from samples along a trajectory.

    A coarse image of every coil, of the whole field of view, by weighted conjugate gradients; its transform.

    Args:
        samples: complex (coil, readout, sample). points: (readout, sample, D), 1/m. spacing_m, shape: of the voxels.
        width: of the centre along every encoded axis, at most that of the image.

    Returns:
        complex (coil, kz, ky, kx), zero frequency at n // 2.

    Raises:
        ValueError: fewer samples in the centre than it has points.
    """
    from imaging.solvers.linear import cg

    n_dims = points.shape[-1]
    coarse = tuple(1 if i < 3 - n_dims else min(int(n), width) for i, n in enumerate(shape))
    spacing = tuple(d * n / c for d, n, c in zip(spacing_m, shape, coarse, strict=True))
    limit = torch.as_tensor([0.5 / d for d in spacing[-n_dims:]], device=points.device)
    inside = (points.abs() <= limit).all(-1).flatten()
    if int(inside.sum()) < math.prod(coarse):
        raise ValueError(
            f"centre of k-space: expected at least {math.prod(coarse)} samples within {width} points of the centre, "
            f"found {int(inside.sum())}; lower coils.calibration, or write coil_sensitivities"
        )
    at = points.flatten(0, 1)[inside][None, None]
    weights = density_compensation(at, spacing, coarse).sqrt()
    one = torch.ones(1, 1, *coarse, dtype=samples.dtype, device=samples.device)
    A = NonCartesianMri(one, at, spacing, weights=weights)
    y = samples.flatten(1)[:, inside][:, None, None, None] * weights
    images = cg(A.gram, A.adjoint(y), max_iter=CENTRE_STEPS)[0][:, 0]
    raster = CartesianMri(one, torch.ones(1, *coarse, dtype=torch.bool, device=samples.device))
    return raster(images[:, None])[:, 0, 0]


def coarse_images(centre: Tensor, shape: Sequence[int]) -> Tensor:
    """Images of the centre of k-space, tapered against ringing: (coil, kz, ky, kx) -> (coil, z, y, x)."""
    for axis, n in zip((-3, -2, -1), centre.shape[1:], strict=True):
        if n > 1:
            taper = torch.hann_window(n + 2, periodic=False, dtype=torch.float64, device=centre.device)[1:-1]
            centre = centre * taper.to(centre.real.dtype).reshape(-1, *(1,) * (-1 - axis))
    whole = centre.new_zeros(len(centre), *shape)
    where = tuple(slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(shape, centre.shape[1:], strict=True))
    whole[(slice(None), *where)] = centre
    one = torch.ones(1, 1, *shape, dtype=centre.dtype, device=centre.device)
    full = CartesianMri(one, torch.ones(1, *shape, dtype=torch.bool, device=centre.device))
    return full.adjoint(whole[:, None, None])[:, 0]
