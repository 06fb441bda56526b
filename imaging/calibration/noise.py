"""Noise level from the data alone: what no image could explain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.operators.base import LinearOperator
from imaging.operators.exact import EighEllipsoid
from imaging.solvers.linear import CgSolver

EXACT_RIDGE = 1e-4  # of the mean eigenvalue of AAᴴ
ITERATIVE_RIDGE = 1e-1  # larger, so that CG converges
ITERATIVE_TOLERANCE = 1e-2


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise standard deviation per complex sample (sqrt of the total variance), in units of y.

    Args:
        std: float64, one per problem of the batch.
        degrees_of_freedom: how many measurements' worth of noise it was seen in; below about ten it means nothing,
            for then every direction of the data is explained by some image.
        method: how it was found, in words for the log and the result file.
    """

    std: Tensor
    degrees_of_freedom: float
    method: str


def estimate_noise(A: LinearOperator, y: Tensor) -> NoiseEstimate:
    """Estimate the white noise in y from the part that lies outside, or almost outside, the range of A.

    The ridge residual r = mu (mu + AAᴴ)^-1 y keeps only weakly observable directions. White noise of variance σ²
    leaves E‖r‖² = σ² Σ (mu / (mu + λ_i))² there, the scene almost nothing, so the ratio estimates σ². Whatever the
    model does not describe (multiple scattering, clutter outside the grid) counts as noise, as it should when the
    figure becomes the radius of the data constraint. The scene's leakage makes it an over-estimate.

    Args:
        A: the operator. y: (*batch, *A.out_shape).

    Returns:
        NoiseEstimate; exact eigenvalues are used where the operator has them, one random probe and CG otherwise.
    """
    flat = y.reshape(-1, *A.out_shape)
    projector = A.ellipsoid_projector(n_solves=100)
    mean = A.mean_eigenvalue()
    if isinstance(projector, EighEllipsoid):
        mu = EXACT_RIDGE * mean
        power = torch.cat([b.abs().to(torch.float64) ** 2 for b in projector.spectral(flat)], dim=1)
        filtered = (mu / (mu + projector.space.eigenvalues())) ** 2
        freedom = float(filtered.sum())
        variance = (power * filtered).sum(1) / max(freedom, torch.finfo(torch.float64).tiny)
        method = "residual outside the operator's range (eigendecomposition)"
    else:
        mu = ITERATIVE_RIDGE * mean
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(1, *A.out_shape, dtype=A.dtype, generator=generator).to(A.device)
        both = torch.cat((flat, probe))
        solver = CgSolver(A, mu, tol=ITERATIVE_TOLERANCE)
        _, ax = solver.prox(torch.zeros(len(both), *A.in_shape, dtype=A.dtype, device=A.device), both)
        residual = (both - ax).flatten(1).abs().to(torch.float64).square().sum(1)
        probe_power = probe.abs().to(torch.float64).square().mean()
        freedom = float(residual[-1] / probe_power)
        variance = residual[:-1] / max(freedom, torch.finfo(torch.float64).tiny)
        method = "residual outside the operator's range (conjugate gradients)"
    return NoiseEstimate(variance.sqrt().reshape(y.shape[: y.ndim - len(A.out_shape)]), freedom, method)
