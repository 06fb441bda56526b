"""Atoms that move: angles between the points of a grid, refined by the expected misfit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.sbl.posterior import Posterior

#: Points of the first scan of a cell, its inset, halving stages, sweeps over the atoms, change of angle that ends them.
SCAN, INSET, STAGES, SWEEPS, SMALL = 10, 0.05, 9, 9, 1e-4


@dataclass(frozen=True)
class Steering:
    """Atoms h(θ) = scale · mixing exp(jπ positions θ).

    Args:
        mixing: (M, n_element), complex128: what pilots or reflection patterns make of the array's elements.
        positions: (n_element,), float64, half wavelengths; negative for the conjugate of a steering vector.
        grid: (N,), float64, increasing, direction cosines where the atoms start.
        scale: 1 / sqrt(n_element) for a steering vector of unit norm.
    """

    mixing: Tensor
    positions: Tensor
    grid: Tensor
    scale: float

    def __post_init__(self) -> None:
        if self.mixing.ndim != 2 or tuple(self.positions.shape) != (self.mixing.shape[1],):
            raise ShapeError(
                f"Steering: expected mixing (M, n_element) and positions (n_element,), got {tuple(self.mixing.shape)} "
                f"and {tuple(self.positions.shape)}"
            )
        if self.grid.ndim != 1 or len(self.grid) < 3 or not bool((self.grid.diff() > 0).all()):
            raise ShapeError("Steering grid: expected at least 3 increasing direction cosines")

    def atoms(self, angles: Tensor) -> Tensor:
        """h(θ) as columns: (n, N) -> (n, M, N)."""
        phase = torch.pi * self.positions[:, None] * angles.unsqueeze(1)
        return self.scale * (self.mixing @ torch.polar(torch.ones_like(phase), phase))


def largest_peaks(gamma: Tensor, n: int) -> Tensor:
    """Indices of the n largest local maxima of (batch, N), or of other entries where peaks are fewer: (batch, n)."""
    wall = gamma.new_full((len(gamma), 1), -torch.inf)
    left, right = torch.cat((wall, gamma[:, :-1]), dim=1), torch.cat((gamma[:, 1:], wall), dim=1)
    peak = (gamma >= left) & (gamma > right)
    order = torch.where(peak, gamma, gamma - gamma.amax(dim=1, keepdim=True) - 1)  # others rank below every peak
    return order.topk(n, dim=1).indices


def refine(ray: Steering, angles: Tensor, H: Tensor, y: Tensor, p: Posterior, gamma: Tensor, n_paths: int) -> Tensor:
    """Angles that lower E‖y - H(θ) x‖² in the atoms of the n_paths largest peaks, one atom after the other.

    With S = E[x xᴴ] restricted to these atoms, atom j minimises ½ S_jj ‖h(θ)‖² + Re{(Σ_{k≠j} S_jk h_k - conj(μ_j) y)ᴴ
    h(θ)} between the midpoints to its neighbours; the other atoms are left out.

    Args:
        ray: the steering vector.
        angles: of all atoms, (n, N). H: its atoms, (n, M, N). y: (n, M).
        p: posterior with one factor, H.
        gamma: whose peaks are refined, (n, N).
        n_paths: how many.

    Returns:
        angles, (n, N).

    Source: KS 5.5.
    """
    rows = torch.arange(len(y), device=y.device)[:, None]
    index = largest_peaks(gamma, n_paths)
    low, high = _cells(angles)
    low, high = low[rows, index], high[rows, index]
    theta = angles[rows, index]
    h = H.mT[rows, index]  # (n, R, M)
    mean = p.mean[rows, index]
    prior, (values, _) = p.gammas[0][rows, index], p.spectra[0]
    back = prior[..., None] * p.projected[0][rows, index]
    covariance = torch.diag_embed(prior).to(y.dtype) - (back / (p.noise_var[:, None] + values)[:, None]) @ back.mH
    S = covariance + mean[..., :, None] * mean[..., None, :].conj()
    for _ in range(SWEEPS):
        before = theta
        for j in range(n_paths):
            others = S[:, j].clone()
            others[:, j] = 0
            # row vector c with Re{c h(θ)} the linear term: E[x_j x_k*] h_kᴴ - μ_j yᴴ
            c = (others.unsqueeze(1) @ h.conj()).squeeze(1) - mean[:, j, None] * y.conj()
            best = _minimise(ray, S[:, j, j].real, c, low[:, j], high[:, j], theta[:, j])
            theta = torch.cat((theta[:, :j], best[:, None], theta[:, j + 1 :]), dim=1)
            h = torch.cat((h[:, :j], ray.atoms(best[:, None]).mT, h[:, j + 1 :]), dim=1)
        if bool(((theta - before).norm(dim=1) <= SMALL).all()):
            break
    moved = angles.clone()
    moved[rows, index] = theta
    return moved


def _cells(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Midpoints to the neighbours below and above, in the order of the angles; half a neighbour's cell at the ends."""
    order = angles.argsort(dim=1)
    sorted_angles = angles.gather(1, order)
    middle = 0.5 * (sorted_angles[:, 1:] + sorted_angles[:, :-1])
    first = 2 * sorted_angles[:, :1] - middle[:, :1]
    last = 2 * sorted_angles[:, -1:] - middle[:, -1:]
    low = torch.empty_like(angles).scatter(1, order, torch.cat((first, middle), dim=1))
    high = torch.empty_like(angles).scatter(1, order, torch.cat((middle, last), dim=1))
    return low, high


def _minimise(ray: Steering, s: Tensor, c: Tensor, low: Tensor, high: Tensor, now: Tensor) -> Tensor:
    """The best of a scan of each cell, then of ever smaller intervals around it, and never worse than `now`: (n,)."""

    def value(theta: Tensor) -> Tensor:
        atoms = ray.atoms(theta)
        return 0.5 * s[:, None] * atoms.abs().square().sum(dim=1) + (c.unsqueeze(1) @ atoms).squeeze(1).real

    share = torch.linspace(INSET, 1 - INSET, SCAN, dtype=low.dtype, device=low.device)
    points = torch.cat((low[:, None] + (high - low)[:, None] * share, now[:, None]), dim=1)
    seen = value(points)
    width = (1 - 2 * INSET) / (SCAN - 1) * (high - low)
    for _ in range(STAGES):
        least, at = seen.min(dim=1, keepdim=True)
        best = points.gather(1, at)
        width = 0.5 * width
        pair = torch.cat((best - width[:, None], best + width[:, None]), dim=1)
        pair = torch.minimum(torch.maximum(pair, low[:, None]), high[:, None])
        points, seen = torch.cat((best, pair), dim=1), torch.cat((least, value(pair)), dim=1)
    return points.gather(1, seen.argmin(dim=1, keepdim=True)).squeeze(1)
