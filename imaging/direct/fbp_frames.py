"""Filtered back-projection of each frame of a time-sequential scan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imaging.direct.filtered_backprojection import fbp
from imaging.errors import GeometryError, ShapeError
from imaging.operators.grid import Grid


def fbp_frames(
    y: Tensor,
    angles_rad: Tensor,
    columns_m: Tensor,
    grid: Grid,
    frame_index: Tensor,
    n_frames: int | None = None,
    **options: Any,
) -> Tensor:
    """`fbp` of each time frame from its own views alone.

    Args:
        y: (*batch, n_view, nz, n_bin), all views in the order of measurement.
        frame_index: frame of each view, (n_view,), 0 to n_frames - 1.
        n_frames: None takes the largest index + 1.
        options: of `fbp`.

    Returns:
        (*batch, n_frame, nz, ny, nx), 1/m.

    Raises:
        GeometryError: a frame without views, or indices that do not fit; else as `fbp`.
    """
    index = torch.as_tensor(frame_index, dtype=torch.int64).to("cpu")
    if index.shape != angles_rad.shape or bool((index < 0).any()):
        raise GeometryError(
            f"fbp_frames frame_index: expected {len(angles_rad)} numbers >= 0, one per view, got {tuple(index.shape)} "
            f"from {int(index.min())}"
        )
    frames = int(index.max()) + 1 if n_frames is None else n_frames
    counts = torch.bincount(index, minlength=frames)
    if len(counts) > frames or bool((counts == 0).any()):
        empty = torch.nonzero(counts == 0)[:, 0].tolist()
        raise GeometryError(
            f"fbp_frames: expected views in each of {frames} frames and no frame beyond, got indices up to "
            f"{int(index.max())} and frames {empty[:10]} empty; choose other frames or a method that shares views"
        )
    if y.ndim < 3 or y.shape[-3] != len(index):
        raise ShapeError(f"fbp_frames y: expected (..., {len(index)}, nz, n_bin), got {tuple(y.shape)}")
    images = []
    for k in range(frames):
        views = torch.nonzero(index == k)[:, 0]
        part = y.index_select(-3, views.to(y.device))
        images.append(fbp(part, angles_rad[views.to(angles_rad.device)], columns_m, grid, **options))
    return torch.stack(images, dim=-4)
