"""The rays of two-dimensional tomographic scans, and their weights on a pixel grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import GeometryError
from imaging.operators.grid import Grid

#: Candidate entries of the matrix that are computed at a time: small enough to stay in caches.
BLOCK = 2**19


@dataclass(frozen=True)
class Rays:
    """Straight lines in the plane z = const, one or more per detector bin.

    Args:
        points_m: a point on each line, float64 (n_view, n_ray, 2), columns x and y, metres.
        directions: of each line, unit length, float64 (n_view, n_ray, 2).
        per_bin: neighbouring rays whose mean is one bin; n_ray = n_bin · per_bin.
    """

    points_m: Tensor
    directions: Tensor
    per_bin: int = 1

    @property
    def n_views(self) -> int:
        return int(self.points_m.shape[0])

    @property
    def n_bins(self) -> int:
        return int(self.points_m.shape[1]) // self.per_bin

    def select(self, views: slice) -> Rays:
        """Some of the views."""
        return Rays(self.points_m[views], self.directions[views], self.per_bin)


def parallel_rays(
    angles_rad: Tensor, columns_m: Tensor, *, axis_offset_m: float, tilt_rad: float, per_bin: int
) -> Rays:
    """Rays of a parallel beam: at angle θ a point's detector coordinate is u = x cos θ + y sin θ.

    The bin at column c sees u = (c - axis_offset_m) cos(tilt). Rays run along (-sin θ, cos θ).
    """
    angles = angles_rad.to(torch.float64)
    u = (split_bins(columns_m, per_bin) - axis_offset_m) * math.cos(tilt_rad)
    across = torch.stack((torch.cos(angles), torch.sin(angles)), dim=-1)
    along = torch.stack((-torch.sin(angles), torch.cos(angles)), dim=-1)
    points = u[None, :, None] * across[:, None, :]
    return Rays(points, along[:, None, :].expand(points.shape).contiguous(), per_bin)


def fan_rays(
    angles_rad: Tensor,
    columns_m: Tensor,
    *,
    source_to_origin_m: float,
    origin_to_detector_m: float,
    axis_offset_m: float,
    tilt_rad: float,
    per_bin: int,
) -> Rays:
    """Rays of a fan beam with a flat detector.

    At angle θ the source is at D_so (sin θ, -cos θ) and the detector's foot at D_od (-sin θ, cos θ). The bin at column
    c lies c - axis_offset_m from the foot, along (cos θ, sin θ) turned by the tilt about the foot.
    """
    angles = angles_rad.to(torch.float64)
    u = split_bins(columns_m, per_bin) - axis_offset_m
    along = torch.stack((-torch.sin(angles), torch.cos(angles)), dim=-1)
    turned = angles + tilt_rad
    across = torch.stack((torch.cos(turned), torch.sin(turned)), dim=-1)
    source = (-source_to_origin_m * along)[:, None, :]
    bins = origin_to_detector_m * along[:, None, :] + u[None, :, None] * across[:, None, :]
    direction = bins - source
    direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    return Rays(source.expand(direction.shape).contiguous(), direction, per_bin)


def split_bins(columns_m: Tensor, per_bin: int) -> Tensor:
    """Centres of `per_bin` equal parts of every detector bin, float64 (n_bin · per_bin,)."""
    c = columns_m.to(torch.float64)
    if per_bin == 1:
        return c
    width = torch.gradient(c)[0] if len(c) > 1 else torch.zeros_like(c)
    part = (torch.arange(per_bin, dtype=torch.float64) + 0.5) / per_bin - 0.5
    return (c[:, None] + width[:, None] * part).reshape(-1)


def bin_width_m(columns_m: Tensor) -> float:
    """Mean distance of neighbouring columns; 0 for a single one."""
    return float((columns_m[-1] - columns_m[0]).abs()) / (len(columns_m) - 1) if len(columns_m) > 1 else 0.0


def joseph_rows(rays: Rays, grid: Grid, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The system matrix, some views at a time, in compressed rows.

    A ray crosses the pixel rows (or columns, whichever it crosses at the steeper angle) one by one; in each it takes
    the linear interpolation of the two nearest pixels times the length of its way through.

    Args:
        rays: of all views.
        grid: its y and x axes; pixels (row y, column x) are numbered row by row.
        dtype: of the weights, which are lengths in metres.

    Yields:
        (entries per bin int64 (n_view · n_bin,), pixel numbers int32 (nnz,), weights (nnz,)).

    Source: Joseph (1982), An improved algorithm for reprojecting rays through pixel images.
    """
    n_y, n_x = grid.shape[1:]
    step = max(1, BLOCK // (int(rays.points_m.shape[1]) * max(n_y, n_x) * 2))
    for first in range(0, rays.n_views, step):
        yield _block(rays.select(slice(first, first + step)), grid, dtype)


def _block(rays: Rays, grid: Grid, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    (o_y, o_x), (s_y, s_x), (n_y, n_x) = grid.origin_m[1:], grid.spacing_m[1:], grid.shape[1:]
    # In index units: position = (point - origin) / spacing, so that the two cases differ by an exchange of axes alone.
    device = rays.points_m.device
    spacing = torch.tensor((s_x, s_y), dtype=torch.float64, device=device)
    origin = torch.tensor((o_x, o_y), dtype=torch.float64, device=device)
    p = ((rays.points_m - origin) / spacing).reshape(-1, 2)
    d = (rays.directions / spacing).reshape(-1, 2)
    steep = d[:, 1].abs() >= d[:, 0].abs()
    main, other = torch.where(steep, d[:, 1], d[:, 0]), torch.where(steep, d[:, 0], d[:, 1])
    start, beside = torch.where(steep, p[:, 1], p[:, 0]), torch.where(steep, p[:, 0], p[:, 1])
    slope = other / main
    steps = torch.arange(max(n_y, n_x), device=device, dtype=torch.float64)
    at = torch.addcmul((beside - slope * start)[:, None], slope[:, None], steps[None, :])  # (ray, step)
    low = at.floor()
    share = (at - low).to(dtype)
    low = low.to(torch.int32)
    length = (1 / (main.abs() * rays.per_bin)).to(dtype)[:, None]
    index = torch.stack((low, low + 1), dim=-1)
    weight = torch.stack((length * (1 - share), length * share), dim=-1)
    n_main = torch.where(steep, n_y, n_x).to(torch.int32)[:, None, None]
    n_other = torch.where(steep, n_x, n_y).to(torch.int32)[:, None, None]
    k = torch.arange(max(n_y, n_x), device=device, dtype=torch.int32)[None, :, None]
    inside = (index >= 0) & (index < n_other) & (weight > 0)
    if n_y != n_x:
        inside &= k < n_main
    up = torch.where(steep, n_x, 1).to(torch.int32)[:, None, None]
    beside_step = torch.where(steep, 1, n_x).to(torch.int32)[:, None, None]
    pixel = torch.addcmul(k * up, index, beside_step)
    counts = inside.reshape(rays.n_views * rays.n_bins, -1).sum(1)
    return counts, pixel[inside], weight[inside]


def check_source_outside(grid: Grid, source_to_origin_m: float) -> None:
    """A source inside the object sees rays that end nowhere."""
    corners = [math.hypot(x, y) for x in (grid.origin_m[2], grid.last_m[2]) for y in (grid.origin_m[1], grid.last_m[1])]
    if source_to_origin_m <= max(corners):
        raise GeometryError(
            f"fan beam: expected the source outside the grid, whose corners are up to {max(corners):g} m from the "
            f"rotation axis, got source_to_origin {source_to_origin_m:g} m; check its units, or take a smaller grid"
        )
