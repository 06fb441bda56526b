"""Coil sensitivities from images: the adaptive combination of Walsh, the fast choice."""

from __future__ import annotations

import torch
from torch import Tensor

from imaging.calibration.espirit import coil_phase, leading_eigenvectors
from imaging.errors import ShapeError

#: Smoothing of the coils' covariance, share of each axis.
SMOOTHING = 1 / 16


def walsh(images: Tensor, *, width: int | None = None) -> Tensor:
    """Sensitivities as the leading eigenvectors of the coils' covariance around every voxel.

    Args:
        images: of every coil, complex (coil, z, y, x); of low resolution they are less noisy.
        width: of the neighbourhood, voxels; None is a sixteenth of each axis, at least three.

    Returns:
        complex (1, coil, z, y, x), Σ_c |m|² = 1, phase as in `espirit`; also where there is no signal.

    Raises:
        ShapeError: not 4-D. ValueError: no signal, NaN.

    Source: Walsh, Gmitro, Marcellin (2000), Adaptive reconstruction of phased array MR imagery.
    """
    if images.ndim != 4:
        raise ShapeError(f"walsh images: expected (coil, z, y, x), got {tuple(images.shape)}")
    if not bool(torch.isfinite(torch.view_as_real(images)).all()):
        raise ValueError("walsh images: expected finite numbers, found NaN or Inf")
    if not bool(images.any()):
        raise ValueError("walsh images: expected a signal, found only zeros")
    spatial = images.shape[1:]
    sizes = [1 if n == 1 else min(n, 2 * ((width or max(3, round(SMOOTHING * n))) // 2) + 1) for n in spatial]
    images = images / images.abs().max()
    covariance = images.new_empty(*spatial, len(images), len(images))
    for c, one in enumerate(images):  # one row at a time: C images of products
        covariance[..., c, :] = _smooth(one * images.conj(), sizes).movedim(0, -1)
    vectors = leading_eigenvectors(covariance, 1)[1][..., 0].movedim(-1, 0)
    size = torch.linalg.vector_norm(vectors, dim=0)
    # without any signal all coils are alike: maps have unit length everywhere
    vectors = torch.where(size > 0.5, vectors, torch.full_like(vectors, len(images) ** -0.5))
    return coil_phase(vectors / torch.linalg.vector_norm(vectors, dim=0), images)[None]


def _smooth(x: Tensor, sizes: list[int]) -> Tensor:
    """Box filter along z, y, x, by cumulative sums; edges repeat."""
    for axis, w in zip((-3, -2, -1), sizes, strict=True):
        if w == 1:
            continue
        n, half = x.shape[axis], w // 2
        total = torch.cat((torch.zeros_like(x.narrow(axis, 0, 1)), x), dim=axis).to(torch.complex128).cumsum(axis)
        at = torch.arange(n, device=x.device)
        high, low = (at + half + 1).clamp_max(n), (at - half).clamp_min(0)
        count = (high - low).to(x.real.dtype).reshape(-1, *(1,) * (-1 - axis))
        x = (total.index_select(axis, high) - total.index_select(axis, low)).to(x.dtype) / count
    return x
