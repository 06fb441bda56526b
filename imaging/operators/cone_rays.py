"""The rays of cone-beam scans, and their weights on a voxel grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.operators.grid import Grid
from imaging.operators.rays import split_bins

#: Candidate entries of the matrix that are computed at a time.
BLOCK = 2**21


@dataclass(frozen=True)
class ConeRays:
    """A source and a flat detector that turn about the z axis, float64.

    At angle θ the source is at D_so (sin θ, -cos θ, 0), the detector's foot at D_od (-sin θ, cos θ, 0), its columns
    along (cos θ, sin θ, 0) turned by the tilt about its own z axis, its rows along z.

    Args:
        angles_rad: (n_view,).
        columns_m, rows_m: detector coordinates from the foot of the central ray, each bin in `split` equal parts.
        source_to_origin_m, origin_to_detector_m: D_so, D_od.
        tilt_rad: of the detector.
        split: rays along either side of a bin; their mean is the bin.
    """

    angles_rad: Tensor
    columns_m: Tensor
    rows_m: Tensor
    source_to_origin_m: float
    origin_to_detector_m: float
    tilt_rad: float
    split: int

    @property
    def n_columns(self) -> int:
        return len(self.columns_m) // self.split

    @property
    def n_rows(self) -> int:
        return len(self.rows_m) // self.split

    def of(self, view: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Of a view and some detector rows: source (3,) and unit directions (n_row · n_column · split², 3); x, y, z."""
        angle = float(self.angles_rad[view])
        along = torch.tensor((-math.sin(angle), math.cos(angle), 0.0), dtype=torch.float64)
        turned = angle + self.tilt_rad
        across = torch.tensor((math.cos(turned), math.sin(turned), 0.0), dtype=torch.float64)
        source = -self.source_to_origin_m * along
        k = self.split
        v = self.rows_m[rows.start * k : rows.stop * k].reshape(-1, 1, k, 1)
        u = self.columns_m.reshape(1, -1, 1, k)
        u, v = (w.flatten() for w in torch.broadcast_tensors(u, v))
        up = torch.tensor((0.0, 0.0, 1.0), dtype=torch.float64)
        way = self.origin_to_detector_m * along - source + u[:, None] * across + v[:, None] * up
        return source, way / torch.linalg.vector_norm(way, dim=1, keepdim=True)


def cone_rays(
    angles_rad: Tensor,
    columns_m: Tensor,
    rows_m: Tensor,
    *,
    source_to_origin_m: float,
    origin_to_detector_m: float,
    axis_offset_m: float,
    tilt_rad: float,
    split: int,
) -> ConeRays:
    """Of a detector with bins at columns_m and rows_m, the foot of the central ray at column axis_offset_m, row 0."""
    return ConeRays(
        angles_rad.to("cpu", torch.float64),
        split_bins(columns_m.to("cpu"), split) - axis_offset_m,
        split_bins(rows_m.to("cpu"), split),
        source_to_origin_m,
        origin_to_detector_m,
        tilt_rad,
        split,
    )


def joseph_volume_rows(
    rays: ConeRays, grid: Grid, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The system matrix, whole detector rows of a view at a time, in compressed rows.

    A ray crosses the planes of voxels across its steepest axis one by one; in each it takes the bilinear interpolation
    of the four nearest voxels times the length of its way through.

    Args:
        rays: of all views.
        grid: voxels, numbered z slowest, x fastest.
        dtype: of the weights, which are lengths in metres.

    Yields:
        (entries per bin int64, voxel numbers int64, weights), bins in the order view, row, column.

    Source: Joseph (1982), An improved algorithm for reprojecting rays through pixel images, in three dimensions.
    """
    per_row = rays.n_columns * rays.split**2 * max(grid.shape) * 4
    step = max(1, BLOCK // per_row)
    for view in range(len(rays.angles_rad)):
        for first in range(0, rays.n_rows, step):
            rows = slice(first, min(first + step, rays.n_rows))
            source, directions = rays.of(view, rows)
            yield _block(source.to(device), directions.to(device), grid, rays.split**2, dtype)


def _block(
    source: Tensor, directions: Tensor, grid: Grid, per_bin: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    device = source.device
    spacing, origin = (
        torch.tensor(v[::-1], dtype=torch.float64, device=device) for v in (grid.spacing_m, grid.origin_m)
    )
    counts = torch.tensor(grid.shape[::-1], device=device)  # x, y, z, as everything here
    strides = torch.tensor((1, grid.shape[2], grid.shape[1] * grid.shape[2]), device=device)
    start = ((source - origin) / spacing).expand_as(directions)
    d = directions / spacing
    main = d.abs().argmax(1, keepdim=True)
    others = ((main + 1) % 3, (main + 2) % 3)
    steepest = d.gather(1, main)
    planes = torch.arange(max(grid.shape), device=device)
    inside = (planes < counts[main])[:, :, None]
    weight = (1 / (steepest.abs() * per_bin)).to(dtype)[:, :, None]
    voxel = (planes * strides[main])[:, :, None]
    for axis in others:
        slope = d.gather(1, axis) / steepest
        at = start.gather(1, axis) + slope * (planes - start.gather(1, main))  # (ray, plane)
        low = at.floor()
        share = (at - low).to(dtype)
        # far outside the grid: any number that is outside
        low = low.clamp(-2, max(grid.shape) + 1).to(torch.int64)
        index = torch.stack((low, low + 1), dim=-1)
        within = (index >= 0) & (index < counts[axis][:, :, None])
        pair = torch.stack((1 - share, share), dim=-1)
        weight = (weight[..., None] * pair[..., None, :]).flatten(2)
        inside = (inside[..., None] & within[..., None, :]).flatten(2)
        voxel = (voxel[..., None] + (index * strides[axis][:, :, None])[..., None, :]).flatten(2)
    inside &= weight > 0
    return inside.reshape(len(directions) // per_bin, -1).sum(1), voxel[inside], weight[inside]
