"""MRI operators and calibration as `pipelines.mri_scan` asks for them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imaging.operators.base import LinearOperator
from pipelines.mri_config import CoilsTable

if TYPE_CHECKING:
    from pipelines.mri_scan import Samples, Voxels


def _imaging(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"imaging.{module}"), name)


def cartesian_operator(maps: Tensor, mask: Tensor, *, centered: bool, by_slice: bool) -> LinearOperator:
    """Movies (frame, [set,] z, y, x) to samples (frame, coil, kz, ky, kx) of a raster.

    Args:
        maps: (set, coil, z, y, x).
        mask: bool (frame, kz, ky, kx).
        centered: whether zero frequency and origin are in the middle.
        by_slice: the first spatial axis is slices and not transformed.
    """
    operator: LinearOperator = _imaging("operators.cartesian_mri", "CartesianMri")(
        maps, mask, centered=centered, by_slice=by_slice
    )
    return operator


def trajectory_operator(maps: Tensor, points: Tensor, voxels: Voxels) -> LinearOperator:
    """Movies (frame, [set,] z, y, x) to samples (frame, coil, readout, sample) along a trajectory.

    Args:
        maps: (set, coil, z, y, x).
        points: (frame, readout, sample, D), 1/m, columns (kz,) ky, kx.
        voxels: their size.
    """
    operator: LinearOperator = _imaging("operators.noncartesian_mri", "NonCartesianMri")(maps, points, voxels.spacing_m)
    return operator


def estimate_maps(
    samples: Samples, voxels: Voxels, table: CoilsTable, points: Tensor | None, notes: list[str]
) -> Tensor:
    """Sensitivities by calibration, (set, coil, z, y, x); a sentence on how goes to `notes`."""
    maps: Tensor = _imaging("calibration", "coil_maps")(samples, voxels, table, points, notes)
    return maps


def density(points: Tensor, voxels: Voxels) -> Tensor:
    """Area of k-space that each sample stands for, (frame, readout, sample)."""
    weights: Tensor = _imaging("operators.noncartesian_mri", "density_compensation")(points, voxels.spacing_m)
    return weights


def compression_matrix(data: Tensor, n: int) -> tuple[Tensor, float]:
    """To the n virtual coils that hold most energy, (n, coil), and the share of it that they hold.

    Args:
        data: (frame, coil, ...).

    Source: Buehrer et al. (2007), Array compression for MRI with large coil arrays.
    """
    rows = data.transpose(0, 1).flatten(1).to(torch.complex128)
    values, vectors = torch.linalg.eigh(rows @ rows.mH)
    return vectors[:, -n:].mH.to(data.dtype), float(values[-n:].sum() / values.sum())
