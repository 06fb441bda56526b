"""Projections along straight rays: parallel, fan and cone beam, static and time-sequential."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from imaging.errors import GeometryError
from imaging.operators.base import LinearOperator
from imaging.operators.cone_rays import cone_rays, joseph_volume_rows
from imaging.operators.grid import Grid
from imaging.operators.rays import (
    Rays,
    bin_width_m,
    check_source_outside,
    fan_rays,
    joseph_rows,
    parallel_rays,
)
from imaging.operators.sparse import Rows, SparseMatrix

#: Bytes that a stored matrix and its transpose may take.
MEMORY_LIMIT = 4 * 2**30
#: A bin is split into rays about a pixel apart, into this many at most.
MOST_RAYS = 8


class Projector(LinearOperator):
    """Line integrals as one sparse matrix R, which acts on a stack of images: y[p, k, j] = Σ_i R[(p, j), i] x[k, i].

    The images are the slices of `ParallelBeam` and `FanBeam`, or the one volume of `ConeBeam`.

    x: (*batch, nz, ny, nx), 1/m; y: (*batch, n_view, n_row, n_column), unitless.

    Args:
        grid: voxels.
        out_shape: (n_view, n_row, n_column).
        n_stack: images that the matrix acts on alike.
        entries: of the matrix, at most.
        memory_limit: bytes for the stored matrix and its transpose; above it the matrix is made anew, some rays at a
            time, at every product (same result, several times slower).
        dtype: of x and y, real or complex; the matrix is real.
        device: where the matrix lives.
    """

    def __init__(
        self,
        grid: Grid,
        out_shape: tuple[int, int, int],
        *,
        n_stack: int,
        entries: int,
        memory_limit: int,
        dtype: torch.dtype,
        device: torch.device | str,
        **buffers: Tensor,
    ) -> None:
        super().__init__(
            grid.shape,
            out_shape,
            in_axes=("z", "y", "x"),
            out_axes=("projection", "detector_row", "detector_column"),
            dtype=dtype,
        )
        self.grid, self.n_views, self.n_stack = grid, out_shape[0], n_stack
        self.n_bins = out_shape[1] * out_shape[2] // n_stack
        self.n_pixels = grid.n_voxels // n_stack
        self.entries = entries
        self._energy: Tensor | None = None
        for name, value in buffers.items():
            self.register_buffer(name, value.to(device))
        self.matrix: SparseMatrix | None = None
        if self.estimated_bytes() <= memory_limit:
            self.matrix = SparseMatrix.of_rows(self._rows(), (self.n_views * self.n_bins, self.n_pixels))

    def _rows(self) -> Iterator[Rows]:
        """The matrix in compressed rows, some at a time."""
        raise NotImplementedError(f"{type(self).__name__} defines no _rows")

    def row_energy(self) -> Tensor:
        """Σ_i R[(p, j), i]² of every sample, float64 (n_view, n_row, n_column); computed once."""
        if self._energy is None:
            energy = torch.cat([m.row_energy() for _, m in self.blocks()])
            self._energy = energy.reshape(self.n_views, -1, self.n_bins).expand(-1, self.n_stack, -1)
        return self._energy.reshape(self.out_shape)

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M from the matrix."""
        return float(self.row_energy().mean())

    def estimated_bytes(self) -> int:
        """What the stored matrix and its transpose take at most."""
        return 2 * self.entries * (4 + real_dtype(self.dtype).itemsize)

    def _forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.n_pixels)
        parts = [m.matmul(flat) for _, m in self.blocks()]
        y = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        y = y.reshape(len(x), self.n_stack, self.n_views, self.n_bins)
        return y.transpose(1, 2).reshape(len(x), *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        flat = y.reshape(len(y), self.n_views, self.n_stack, self.n_bins).transpose(1, 2)
        flat = flat.reshape(len(y) * self.n_stack, self.n_views * self.n_bins)
        x = sum(m.rmatmul(flat[:, rows]) for rows, m in self.blocks())
        assert isinstance(x, Tensor)
        return x.reshape(len(y), *self.in_shape)

    def blocks(self) -> Iterator[tuple[slice, SparseMatrix]]:
        """The matrix, whole where it is stored, else some rays at a time: (its rows, the block)."""
        if self.matrix is not None:
            yield slice(0, self.n_views * self.n_bins), self.matrix
            return
        first = 0
        for block in self._rows():
            n = len(block[0])
            yield slice(first, first + n), SparseMatrix.of_rows([block], (n, self.n_pixels), transpose=False)
            first += n

    def _apply(self, fn, recurse: bool = True) -> Self:  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        if self.matrix is not None:
            self.matrix = self.matrix.to(self.device)
        return self


class SliceProjector(Projector):
    """Each slice z is projected on a detector row of its own.

    Args:
        rays: of all views, in the plane.
        grid, memory_limit, dtype, device: as in `Projector`.
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
        self.per_bin = rays.per_bin
        super().__init__(
            grid,
            (rays.n_views, grid.shape[0], rays.n_bins),
            n_stack=grid.shape[0],
            entries=rays.n_views * rays.n_bins * rays.per_bin * 2 * max(grid.shape[1:]),
            memory_limit=memory_limit,
            dtype=dtype,
            device=device,
            points_m=rays.points_m,
            directions=rays.directions,
        )

    points_m: Tensor
    directions: Tensor

    @property
    def rays(self) -> Rays:
        return Rays(self.points_m, self.directions, self.per_bin)

    def _rows(self) -> Iterator[Rows]:
        return joseph_rows(self.rays, self.grid, real_dtype(self.dtype))


class ParallelBeam(SliceProjector):
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


class FanBeam(SliceProjector):
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
        _check_distances("FanBeam", grid, source_to_origin_m, origin_to_detector_m)
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


class ConeBeam(Projector):
    """Cone-beam projections of a volume on a flat detector that is parallel to the rotation axis.

    At angle θ the source is at D_so (sin θ, -cos θ), the detector's foot at D_od (-sin θ, cos θ), its columns along
    (cos θ, sin θ), its rows along z.

    x: (*batch, nz, ny, nx), 1/m; y: (*batch, n_view, n_row, n_column), unitless.

    Args:
        angles_rad, columns_m, grid, axis_offset_m: as in `FanBeam`.
        rows_m: centres of the detector's rows, (n_row,), metres, increasing; the central ray meets row 0 m.
        source_to_origin_m, origin_to_detector_m: D_so > 0 and D_od >= 0.
        tilt_rad: rotation of the detector about its vertical axis through the foot.
        split: rays along either side of a bin, whose mean it is; None takes about one per voxel that a bin is wide.

    Raises:
        GeometryError: as `FanBeam`.
    """

    def __init__(
        self,
        angles_rad: Tensor,
        columns_m: Tensor,
        rows_m: Tensor,
        grid: Grid,
        *,
        source_to_origin_m: float,
        origin_to_detector_m: float,
        axis_offset_m: float = 0.0,
        tilt_rad: float = 0.0,
        split: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        _check(angles_rad, columns_m, tilt_rad)
        _check(angles_rad, rows_m, tilt_rad, "rows_m")
        _check_distances("ConeBeam", grid, source_to_origin_m, origin_to_detector_m)
        shrink = source_to_origin_m / (source_to_origin_m + origin_to_detector_m)
        if split is None:
            split = max(_rays_per_bin(axis, grid, shrink) for axis in (columns_m, rows_m))
        self.rays = cone_rays(
            angles_rad,
            columns_m,
            rows_m,
            source_to_origin_m=source_to_origin_m,
            origin_to_detector_m=origin_to_detector_m,
            axis_offset_m=axis_offset_m,
            tilt_rad=tilt_rad,
            split=split,
        )
        super().__init__(
            grid,
            (len(angles_rad), len(rows_m), len(columns_m)),
            n_stack=1,
            entries=len(angles_rad) * len(rows_m) * len(columns_m) * split**2 * 4 * max(grid.shape),
            memory_limit=memory_limit,
            dtype=dtype,
            device=device,
            angles_rad=angles_rad.to(torch.float64),
        )

    angles_rad: Tensor

    def _rows(self) -> Iterator[Rows]:
        return joseph_volume_rows(self.rays, self.grid, real_dtype(self.dtype), self.device)


class TimeSequential(LinearOperator):
    """Views of an object that moves: view p sees the frame it belongs to, y[p] = R_p x[frame_index[p]].

    x: (*batch, n_frame, nz, ny, nx); y: (*batch, n_view, n_row, n_column). The matrix is that of the static scan with
    columns moved to their frame, so that one sparse product projects the whole movie.

    Args:
        static: `ParallelBeam`, `FanBeam` or `ConeBeam` of all views in the order of measurement.
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
            (K, n_view, n_row, n_column): Σ_k ψ[frame_index[p], k] of it is the projection of Σ_k basis[k] ψ[:, k].
        """
        return self.static._forward(basis)

    def row_energy(self) -> Tensor:
        """That of the static scan: a view sees one frame."""
        return self.static.row_energy()

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M, that of the static scan."""
        return self.static.mean_eigenvalue()

    def _forward(self, x: Tensor) -> Tensor:
        static, batch = self.static, len(x)
        if self.matrix is None:
            return self._by_view(x)
        flat = x.reshape(batch, self.n_frames, static.n_stack, static.n_pixels).transpose(1, 2)
        y = self.matrix.matmul(flat.reshape(batch * static.n_stack, -1))
        y = y.reshape(batch, static.n_stack, static.n_views, static.n_bins)
        return y.transpose(1, 2).reshape(batch, *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        static, batch = self.static, len(y)
        if self.matrix is None:
            return self._by_view_adjoint(y)
        flat = y.reshape(batch, static.n_views, static.n_stack, static.n_bins).transpose(1, 2)
        x = self.matrix.rmatmul(flat.reshape(batch * static.n_stack, -1))
        x = x.reshape(batch, static.n_stack, self.n_frames, static.n_pixels)
        return x.transpose(1, 2).reshape(batch, *self.in_shape)

    def _by_view(self, x: Tensor) -> Tensor:
        static, batch = self.static, len(x)
        y = x.new_zeros(batch, static.n_views, static.n_stack, static.n_bins)
        for view, bins, m in self._view_blocks():
            image = x[:, int(self.frame_index[view])].reshape(-1, static.n_pixels)
            y[:, view, :, bins] = m.matmul(image).reshape(batch, static.n_stack, -1)
        return y.reshape(batch, *self.out_shape)

    def _by_view_adjoint(self, y: Tensor) -> Tensor:
        static, batch = self.static, len(y)
        y = y.reshape(batch, static.n_views, static.n_stack, static.n_bins)
        x = y.new_zeros(batch, *self.in_shape)
        for view, bins, m in self._view_blocks():
            part = m.rmatmul(y[:, view, :, bins].reshape(batch * static.n_stack, -1))
            x[:, int(self.frame_index[view])] += part.reshape(batch, *self.in_shape[1:])
        return x

    def _view_blocks(self) -> Iterator[tuple[int, slice, SparseMatrix]]:
        """The static matrix in parts of one view each: (view, its bins, the part)."""
        n = self.static.n_bins
        for rows, block in self.static.blocks():
            for view in range(rows.start // n, -(-rows.stop // n)):
                first, last = max(rows.start, view * n), min(rows.stop, (view + 1) * n)
                part = block.rows(slice(first - rows.start, last - rows.start))
                yield view, slice(first - view * n, last - view * n), part

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


def _check_distances(name: str, grid: Grid, source_to_origin_m: float, origin_to_detector_m: float) -> None:
    if not (source_to_origin_m > 0 and origin_to_detector_m >= 0):
        raise GeometryError(
            f"{name}: expected source_to_origin_m > 0 and origin_to_detector_m >= 0, got {source_to_origin_m:g} "
            f"and {origin_to_detector_m:g}"
        )
    check_source_outside(grid, source_to_origin_m)


def _check(angles_rad: Tensor, bins_m: Tensor, tilt_rad: float, axis: str = "columns_m") -> None:
    for name, value in (("angles_rad", angles_rad), (axis, bins_m)):
        if value.ndim != 1 or len(value) == 0 or not bool(torch.isfinite(value).all()):
            raise GeometryError(f"{name}: expected finite numbers, one axis, got {tuple(value.shape)}")
    if len(bins_m) > 1 and not bool((torch.diff(bins_m) > 0).all()):
        raise GeometryError(f"{axis}: expected increasing detector {axis[:-2]}; flip the detector axis and the data")
    if not abs(tilt_rad) < math.pi / 3:
        raise GeometryError(f"tilt_rad: expected within ±{math.pi / 3:.3g}, got {tilt_rad:g}")
