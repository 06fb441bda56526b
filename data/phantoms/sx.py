"""SX: random smooth extended targets, the set behind the reference figures."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imaging.operators import Grid

Floats = NDArray[np.float64]

N_POINTS = 15
STEP_M = 0.016
BLUR_M = (0.010, 0.020)
CUBE_M = 0.300
CHUNK = 16  # volumes blurred at a time


def sx(generator: np.random.Generator, n: int, grid: Grid, *, random_phase: bool = True) -> Tensor:
    """Draw `n` extended targets: a blurred random walk through a saturating non-linearity, with random phase.

    Per volume: a start c ~ U over the inner part of the grid (0.6 of x and y, 2/3 of z); 15 points, the first
    at c, by steps ~ N(0, (16 mm)²) per axis; 1 added at the voxel nearest to each (clipped to the grid);
    Gaussian blur with one sigma ~ U(10, 20) mm for the three axes, zero outside the grid, kernel cut at
    4 sigma; divided by its maximum, g; m = 1 / (1 + exp(-20 (g - 0.3))), zero below 0.01, divided by its
    maximum. All magnitudes first, then all phases ~ U(0, 2 pi), so the magnitudes of a longer series begin
    with those of a shorter one. The lengths hold for a grid spanning 0.3 m and scale with its smallest span
    (axes of one voxel not counted).

    ``sx(np.random.default_rng(2), 10, grid)`` on the 0.3 m cube of 49 x 25 x 25 voxels is the test set of the
    reference figures: direct methods reproduce them to 0.01 dB apart from the noise.

    Args:
        generator: where all randomness comes from.
        n: number of volumes.
        grid: where the targets live.
        random_phase: False leaves the phase at 0 and draws none.

    Returns:
        complex64 (n, nz, ny, nx), max |x| = 1 in every volume.

    Source: NF 6.3 (the SX set), a stand-in for the unpublished generator of Oral and Oktem, IEEE Trans.
    Computational Imaging 10:762-773 (2024).
    """
    walks, sigmas_m = _walks(generator, n, grid)
    volumes = torch.empty((n, *grid.shape), dtype=torch.complex64)
    for first in range(0, n, CHUNK):
        part = slice(first, first + CHUNK)
        volumes[part] = _saturate(_blur(_counts(walks[part], grid), sigmas_m[part], grid))
    for volume in volumes if random_phase else ():
        # Drawn in the order x, y, z of the reference set, z fastest.
        phase = generator.uniform(0.0, 2 * math.pi, grid.shape[::-1]).transpose()
        volume *= torch.from_numpy(np.exp(1j * phase).astype(np.complex64))
    return volumes


def _walks(generator: np.random.Generator, n: int, grid: Grid) -> tuple[Floats, Floats]:
    """Points (n, 15, 3; x, y, z in metres) and blur sigmas (n,; metres)."""
    span = np.array([d * (k - 1) for d, k in zip(grid.spacing_m, grid.shape, strict=True)])[::-1]
    middle = np.array(grid.origin_m)[::-1] + span / 2
    scale = float(min(span[span > 0], default=CUBE_M)) / CUBE_M
    half = span * (0.3, 0.3, 1 / 3)
    walks, sigmas = np.empty((n, N_POINTS, 3)), np.empty(n)
    for i in range(n):
        walks[i, 0] = generator.uniform(middle - half, middle + half)
        walks[i, 1:] = walks[i, 0] + generator.normal(0.0, STEP_M * scale, (N_POINTS - 1, 3)).cumsum(axis=0)
        sigmas[i] = scale * generator.uniform(*BLUR_M)
    return walks, sigmas


def _counts(walks: Floats, grid: Grid) -> Tensor:
    """Points per nearest voxel, clipped to the grid: (n, 15, 3) -> float64 (n, nz, ny, nx)."""
    index = np.rint((walks[..., ::-1] - grid.origin_m) / grid.spacing_m).astype(np.int64)
    index = np.clip(index, 0, np.array(grid.shape) - 1)
    counts = np.zeros((len(walks), *grid.shape))
    for volume, points in zip(counts, index, strict=True):
        np.add.at(volume, tuple(points.T), 1.0)
    return torch.from_numpy(counts)


def _blur(counts: Tensor, sigmas_m: Floats, grid: Grid) -> Tensor:
    """Separable Gaussian blur of (n, nz, ny, nx), each volume with its own sigma; cut at 4 sigma."""
    for axis, equation in enumerate(("nab,nbyx->nayx", "nab,nzbx->nzax", "nab,nzyb->nzya")):
        index = torch.arange(grid.shape[axis])
        distance = (index[:, None] - index).abs()
        sigma = torch.from_numpy(sigmas_m)[:, None, None] / grid.spacing_m[axis]
        kernel = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= torch.floor(4 * sigma + 0.5))
        counts = torch.einsum(equation, kernel, counts)
    return counts


def _saturate(g: Tensor) -> Tensor:
    """Sigmoid edge at 0.3 of the peak, faint tail removed, peak 1."""
    g = g / g.amax((1, 2, 3), keepdim=True)
    m = torch.sigmoid(20.0 * (g - 0.30))
    m = torch.where(m < 0.01, 0.0, m)
    return m / m.amax((1, 2, 3), keepdim=True)
