"""Smooth random fields, blur and amplitude modulation: what turns a cut-out into a plausible target."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from data.phantoms.scatter import reflectivity
from imaging.operators import Grid

Floats = NDArray[np.float32]

BLUR_PROBABILITY = 0.3
BLUR_VOXELS = (0.4, 1.0)
MODULATION_PROBABILITY = 0.3
MODULATION = (0.5, 1.0)
FAINTEST = 0.05  # peak below which nothing was drawn


def smooth_field(generator: np.random.Generator, shape: tuple[int, ...], knots: int) -> Floats:
    """Uniform noise on `knots` points per axis, interpolated smoothly: float32 of `shape`, from 0 to 1, unitless."""
    field = generator.random((knots,) * len(shape), dtype=np.float32)
    for axis, n in enumerate(shape):
        where = np.linspace(0, knots - 1, n)
        weights = np.exp(-(((where[:, None] - np.arange(knots)) / 0.7) ** 2))  # a smooth partition of unity
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    low, high = float(field.min()), float(field.max())
    return np.ascontiguousarray((field - low) / max(high - low, 1e-12))


def soften(magnitude: Floats, generator: np.random.Generator) -> Floats:
    """Some targets are blurred, some fade from place to place.

    With probability 0.3 a Gaussian blur, sigma ~ U(0.4, 1) voxel, zero outside; with probability 0.3 a smooth random
    factor that runs from 0.5 to 1 over the grid. Both may happen.

    Args:
        magnitude: real, >= 0, any shape, unitless.
        generator: draws whether and how much.

    Returns:
        float32, same shape, >= 0; the peak is not 1 any more.
    """
    soft = np.asarray(magnitude, dtype=np.float32)
    if generator.random() < BLUR_PROBABILITY:
        soft = gaussian_filter(soft, generator.uniform(*BLUR_VOXELS), mode="constant", truncate=3.0)
    if generator.random() < MODULATION_PROBABILITY:
        low, high = MODULATION
        soft = soft * (low + (high - low) * smooth_field(generator, soft.shape, int(generator.integers(2, 6))))
    return soft


def finished(magnitude: Floats, generator: np.random.Generator, random_phase: bool) -> Tensor:
    """`soften`, then peak 1 and a phase: complex64 of the same shape.

    A draw that left nothing on the grid (a hole where the plate was, a body between voxels) becomes one point, so that
    every draw is a target.
    """
    if not magnitude.max() > FAINTEST:
        magnitude = np.zeros_like(magnitude)
        magnitude[tuple(generator.integers(magnitude.shape))] = 1.0
    soft = torch.from_numpy(np.ascontiguousarray(soften(magnitude, generator)))
    return reflectivity(soft, generator if random_phase else None)


def voxel_indices(grid: Grid) -> Floats:
    """Index coordinates of all voxels: float32 (nz, ny, nx, 3), columns z, y, x."""
    return np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in grid.shape), indexing="ij"), axis=-1)


def random_rotation(generator: np.random.Generator) -> NDArray[np.float64]:
    """A rotation or reflection, uniform over all: float64 (3, 3), orthogonal."""
    q, r = np.linalg.qr(generator.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


def cover(distance: Floats) -> Floats:
    """Partial volume of a voxel at a signed distance (voxels, negative inside) of a surface: in [0, 1]."""
    return np.clip(0.5 - distance, 0.0, 1.0)
