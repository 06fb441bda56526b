"""Projections of slices along straight rays: parallel and fan beam, static and time-sequential."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from imaging.errors import GeometryError
from imaging.operators.base import LinearOperator
from imaging.operators.grid import Grid
from imaging.operators.rays import (
    Rays,
    bin_width_m,
    check_source_outside,
    fan_rays,
    joseph_rows,
    parallel_rays,
)
from imaging.operators.sparse import SparseMatrix

#: Bytes that a stored matrix and its transpose may take.
MEMORY_LIMIT = 4 * 2**30
#: A bin is split into rays about a pixel apart, into this many at most.
MOST_RAYS = 8


class Projector(LinearOperator):
    """Line integrals of a stack of slices: y[p, k, j] = Σ_i R[(p, j), i] x[k, i], one sparse matrix R for all slices.

    x: (*batch, nz, ny, nx), 1/m; y: (*batch, n_view, nz, n_bin), unitless. Made by `ParallelBeam` and `FanBeam`.

    Args:
        rays: of all views.
        grid: voxels; each slice z is projected on a detector row of its own.
        memory_limit: bytes for the stored matrix and its transpose; above it the matrix is made anew, some views at a
            time, at every product (same result, several times slower).
        dtype: of x and y, real or complex; the matrix is real.
        device: where the matrix lives.
    """

    def __init__(
        self,
        rays: Rays,
        grid: Grid,
        *,
        memory_limit: int = MEMORY_LIMIT,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        n_z, n_y, n_x = grid.shape
        super().__init__(
            grid.shape,
            (rays.n_views, n_z, rays.n_bins),
            in_axes=("z", "y", "x"),
            out_axes=("projection", "detector_row", "detector_column"),
            dtype=dtype,
        )
        self.grid, self.n_views, self.n_bins, self.n_pixels = grid, rays.n_views, rays.n_bins, n_y * n_x
        self.per_bin = rays.per_bin
        self.register_buffer("points_m", rays.points_m.to(device))
        self.register_buffer("directions", rays.directions.to(device))
        self.matrix: SparseMatrix | None = None
        if self.estimated_bytes() <= memory_limit:
            self.matrix = SparseMatrix.of_rows(
                joseph_rows(self.rays, grid, real_dtype(dtype)), (self.n_views * self.n_bins, self.n_pixels)
            )

    points_m: Tensor
    directions: Tensor

    @property
    def rays(self) -> Rays:
        return Rays(self.points_m, self.directions, self.per_bin)

    def estimated_bytes(self) -> int:
        """What the stored matrix and its transpose take at most."""
        entries = self.n_views * self.n_bins * self.per_bin * 2 * max(self.grid.shape[1:])
        return 2 * entries * (4 + real_dtype(self.dtype).itemsize)

    def _forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.n_pixels)
        parts = [m.matmul(flat) for _, m in self.blocks()]
        y = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        y = y.reshape(*x.shape[:2], self.n_views, self.n_bins)
        return y.transpose(1, 2).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        batch, n_z = y.shape[0], y.shape[2]
        flat = y.transpose(1, 2).reshape(batch * n_z, self.n_views * self.n_bins)
        x = sum(m.rmatmul(flat[:, rows]) for rows, m in self.blocks())
        assert isinstance(x, Tensor)
        return x.reshape(batch, *self.in_shape)

    def blocks(self) -> Iterator[tuple[slice, SparseMatrix]]:
        """The matrix, whole where it is stored, else some views at a time: (its rows, the block)."""
        if self.matrix is not None:
            yield slice(0, self.n_views * self.n_bins), self.matrix
            return
        first = 0
        for block in joseph_rows(self.rays, self.grid, real_dtype(self.dtype)):
            n = len(block[0])
            yield slice(first, first + n), SparseMatrix.of_rows([block], (n, self.n_pixels), transpose=False)
            first += n

    def _apply(self, fn, recurse: bool = True) -> Self:  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        if self.matrix is not None:
            self.matrix = self.matrix.to(self.points_m.device)
        return self


class ParallelBeam(Projector):
    """Parallel-beam projections: at angle θ the detector coordinate of a point is u = x cos θ + y sin θ.

    Args:
        angles_rad: of the views, (n_view,), any order, repeated or not.
        columns_m: centres of the detector bins, (n_bin,), metres, increasing.
        grid: voxels; axes z, y, x.
        axis_offset_m: detector coordinate of the rotation axis, metres.
        tilt_rad: rotation of the detector about z against the beam's normal.
        per_bin: rays whose mean is a bin; None takes about one per pixel that a bin is wide.

    Raises:
        GeometryError: angles, columns or grid that make no scan.
    """

    def __init__(
        self,
        angles_rad: Tensor,
        columns_m: Tensor,
        grid: Grid,
        *,
        axis_offset_m: float = 0.0,
        tilt_rad: float = 0.0,
        per_bin: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        _check(angles_rad, columns_m, tilt_rad)
        n = _rays_per_bin(columns_m, grid, 1.0) if per_bin is None else per_bin
        rays = parallel_rays(angles_rad, columns_m, axis_offset_m=axis_offset_m, tilt_rad=tilt_rad, per_bin=n)
        super().__init__(rays, grid, memory_limit=memory_limit, dtype=dtype, device=device)
        self.angles_rad, self.columns_m = angles_rad.to(torch.float64), columns_m.to(torch.float64)
        self.axis_offset_m, self.tilt_rad = axis_offset_m, tilt_rad


class FanBeam(Projector):
    """Fan-beam projections on a flat detector; every slice is a fan of its own.

    At angle θ the source is at D_so (sin θ, -cos θ), the detector's foot at D_od (-sin θ, cos θ), its columns along
    (cos θ, sin θ).

    Args:
        angles_rad, columns_m, grid, per_bin: as in `ParallelBeam`; columns are metres on the detector.
        source_to_origin_m, origin_to_detector_m: D_so > 0 and D_od >= 0.
        axis_offset_m: detector coordinate of the foot of the central ray, metres.
        tilt_rad: rotation of the detector about z through its foot.

    Raises:
        GeometryError: as `ParallelBeam`; a source inside the grid.
    """

    def __init__(
        self,
        angles_rad: Tensor,
        columns_m: Tensor,
        grid: Grid,
        *,
        source_to_origin_m: float,
        origin_to_detector_m: float,
        axis_offset_m: float = 0.0,
        tilt_rad: float = 0.0,
        per_bin: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        _check(angles_rad, columns_m, tilt_rad)
        if not (source_to_origin_m > 0 and origin_to_detector_m >= 0):
            raise GeometryError(
                f"FanBeam: expected source_to_origin_m > 0 and origin_to_detector_m >= 0, got {source_to_origin_m:g} "
                f"and {origin_to_detector_m:g}"
            )
        check_source_outside(grid, source_to_origin_m)
        shrink = source_to_origin_m / (source_to_origin_m + origin_to_detector_m)
        n = _rays_per_bin(columns_m, grid, shrink) if per_bin is None else per_bin
        rays = fan_rays(
            angles_rad,
            columns_m,
            source_to_origin_m=source_to_origin_m,
            origin_to_detector_m=origin_to_detector_m,
            axis_offset_m=axis_offset_m,
            tilt_rad=tilt_rad,
            per_bin=n,
        )
        super().__init__(rays, grid, memory_limit=memory_limit, dtype=dtype, device=device)
        self.angles_rad, self.columns_m = angles_rad.to(torch.float64), columns_m.to(torch.float64)
        self.source_to_origin_m, self.origin_to_detector_m = source_to_origin_m, origin_to_detector_m
        self.axis_offset_m, self.tilt_rad = axis_offset_m, tilt_rad


class TimeSequential(LinearOperator):
    """Views of an object that moves: view p sees the frame it belongs to, y[p] = R_p x[frame_index[p]].

    x: (*batch, n_frame, nz, ny, nx); y: (*batch, n_view, nz, n_bin). The matrix is that of the static scan with columns
    moved to their frame, so that one sparse product projects the whole movie.

    Args:
        static: `ParallelBeam` or `FanBeam` of all views in the order of measurement.
        frame_index: frame of each view, (n_view,), 0 to n_frames - 1; any number of views per frame.
        n_frames: frames; None takes the largest index + 1.

    Raises:
        GeometryError: another length than the views, or an index outside the frames.

    Source: RP 1.1.
    """

    def __init__(self, static: Projector, frame_index: Tensor, n_frames: int | None = None) -> None:
        index = torch.as_tensor(frame_index, dtype=torch.int64)
        frames = int(index.max()) + 1 if n_frames is None else n_frames
        if index.shape != (static.n_views,) or bool((index < 0).any()) or int(index.max()) >= frames:
            raise GeometryError(
                f"TimeSequential frame_index: expected {static.n_views} numbers from 0 to {frames - 1}, one per view, "
                f"got {tuple(index.shape)} from {int(index.min())} to {int(index.max())}"
            )
        super().__init__(
            (frames, *static.in_shape),
            static.out_shape,
            in_axes=("frame", *static.in_axes),
            out_axes=static.out_axes,
            dtype=static.dtype,
        )
        self.static, self.n_frames = static, frames
        self.register_buffer("frame_index", index.to(static.device))
        self.matrix: SparseMatrix | None = None
        if static.matrix is not None:
            offset = (index.to(static.device) * static.n_pixels).repeat_interleave(static.n_bins)
            self.matrix = static.matrix.with_shifted_columns(offset, frames * static.n_pixels)

    frame_index: Tensor

    def project_basis(self, basis: Tensor) -> Tensor:
        """R applied to images that do not move, e.g. the spatial factors of a low-rank movie.

        Args:
            basis: (K, nz, ny, nx).

        Returns:
            (K, n_view, nz, n_bin): Σ_k ψ[frame_index[p], k] of it is the projection of Σ_k basis[k] ψ[:, k].
        """
        return self.static._forward(basis)

    def _forward(self, x: Tensor) -> Tensor:
        if self.matrix is None:
            return self._by_view(x)
        batch, _, n_z = x.shape[:3]
        flat = x.transpose(1, 2).reshape(batch * n_z, -1)
        y = self.matrix.matmul(flat).reshape(batch, n_z, self.static.n_views, self.static.n_bins)
        return y.transpose(1, 2).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.matrix is None:
            return self._by_view_adjoint(y)
        batch, n_z = y.shape[0], y.shape[2]
        flat = y.transpose(1, 2).reshape(batch * n_z, -1)
        x = self.matrix.rmatmul(flat).reshape(batch, n_z, self.n_frames, *self.in_shape[2:])
        return x.transpose(1, 2).contiguous()

    def _by_view(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], *self.out_shape)
        for views, m in self._view_blocks():
            for p in range(views.start, views.stop):
                rows = slice((p - views.start) * self.static.n_bins, (p - views.start + 1) * self.static.n_bins)
                image = x[:, int(self.frame_index[p])].reshape(-1, self.static.n_pixels)
                y[:, p] = m.rows(rows).matmul(image).reshape(x.shape[0], *self.out_shape[1:])
        return y

    def _by_view_adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(y.shape[0], *self.in_shape)
        for views, m in self._view_blocks():
            for p in range(views.start, views.stop):
                rows = slice((p - views.start) * self.static.n_bins, (p - views.start + 1) * self.static.n_bins)
                part = m.rows(rows).rmatmul(y[:, p].reshape(-1, self.static.n_bins))
                x[:, int(self.frame_index[p])] += part.reshape(y.shape[0], *self.in_shape[1:])
        return x

    def _view_blocks(self) -> Iterator[tuple[slice, SparseMatrix]]:
        for rows, block in self.static.blocks():
            yield slice(rows.start // self.static.n_bins, rows.stop // self.static.n_bins), block

    def _apply(self, fn, recurse: bool = True) -> Self:  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        if self.matrix is not None:
            self.matrix = self.matrix.to(self.frame_index.device)
        return self


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The real type of the same precision."""
    return dtype.to_real() if dtype.is_complex else dtype


def _rays_per_bin(columns_m: Tensor, grid: Grid, shrink: float) -> int:
    ratio = bin_width_m(columns_m) * shrink / min(grid.spacing_m[1:])
    return max(1, min(MOST_RAYS, math.ceil(ratio - 0.25)))


def _check(angles_rad: Tensor, columns_m: Tensor, tilt_rad: float) -> None:
    for name, value in (("angles_rad", angles_rad), ("columns_m", columns_m)):
        if value.ndim != 1 or len(value) == 0 or not bool(torch.isfinite(value).all()):
            raise GeometryError(f"{name}: expected finite numbers, one axis, got {tuple(value.shape)}")
    if len(columns_m) > 1 and not bool((torch.diff(columns_m) > 0).all()):
        raise GeometryError("columns_m: expected increasing detector columns; flip the detector axis and the data")
    if not abs(tilt_rad) < math.pi / 3:
        raise GeometryError(f"tilt_rad: expected within ±{math.pi / 3:.3g}, got {tilt_rad:g}")
