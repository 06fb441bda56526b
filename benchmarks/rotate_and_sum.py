"""The projector behind the published RED-PSM data: rotate the image with bilinear interpolation, sum its columns.

It is `skimage.transform.radon(image, circle=True)` as a sparse matrix, which has an exact adjoint. Lengths are in
pixels and the axis of rotation is pixel (size // 2, size // 2), half a pixel off the image's centre for an even size.
Source: RP 1.1; checks RP 8, numbers 2, 3 and 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from imaging.operators import Grid, LinearOperator, ParallelBeam
from imaging.operators.sparse import SparseMatrix


def rotate_and_sum_matrix(size: int, angles_rad: np.ndarray, *, inside: bool = False) -> csr_array:
    """The matrix of `radon(circle=True)`.

    Args:
        size: side of the image and number of bins, N.
        angles_rad: of the views, (P,), radians.
        inside: keep only the columns of pixels in the field of view, zero elsewhere (same shape).

    Returns:
        float64 (P N, N²), rows by view and bin, columns by image row and column.

    Source: RP 1.1: output pixel (x, y) reads x_s = c (x - a) + s (y - a) + a, y_s = -s (x - a) + c (y - a) + a with
    a = N // 2; bin x is the sum over y. Outside the image it reads 0.
    """
    centre = size // 2
    y, x = np.mgrid[:size, :size] - float(centre)
    rows, columns, values = [], [], []
    for p, angle in enumerate(np.asarray(angles_rad, dtype=np.float64)):
        c, s = np.cos(angle), np.sin(angle)
        x_s, y_s = c * x + s * y + centre, -s * x + c * y + centre
        left, top = np.floor(x_s).astype(np.int64), np.floor(y_s).astype(np.int64)
        across, down = x_s - left, y_s - top
        for i, j, weight in (
            (top, left, (1 - down) * (1 - across)),
            (top, left + 1, (1 - down) * across),
            (top + 1, left, down * (1 - across)),
            (top + 1, left + 1, down * across),
        ):
            use = (i >= 0) & (i < size) & (j >= 0) & (j < size) & (weight != 0)
            rows.append((p * size + np.arange(size))[None].repeat(size, 0)[use])
            columns.append((i * size + j)[use])
            values.append(weight[use])
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    matrix = csr_array(entries, shape=(len(angles_rad) * size, size * size))
    matrix.sum_duplicates()
    if inside:
        matrix = csr_array(matrix.multiply(field_of_view(size).ravel()[None].astype(np.float64)))
        matrix.eliminate_zeros()
    return matrix


def field_of_view(size: int) -> np.ndarray:
    """bool (size, size): pixel (i, j) with (i - a)² + (j - a)² < a², a = size // 2 (RP 1.1)."""
    a = size // 2
    i, j = np.mgrid[:size, :size] - a
    return i**2 + j**2 < a**2


class RotateAndSum(LinearOperator):
    """The matrix as an operator like `ParallelBeam`; `TimeSequential` takes it as its static scan.

    Args:
        size: N; angles_rad: (P,), radians; dtype: real.

    x: (*batch, 1, N, N), per pixel; y: (*batch, P, 1, N), pixel lengths times x's unit.
    """

    def __init__(self, size: int, angles_rad: Tensor, *, dtype: torch.dtype = torch.float32) -> None:
        n = len(angles_rad)
        super().__init__(
            (1, size, size),
            (n, 1, size),
            in_axes=("z", "y", "x"),
            out_axes=("projection", "detector_row", "detector_column"),
            dtype=dtype,
        )
        self.n_views, self.n_stack, self.n_bins, self.n_pixels = n, 1, size, size * size
        self.register_buffer("angles_rad", torch.as_tensor(angles_rad, dtype=torch.float64))
        m = rotate_and_sum_matrix(size, self.angles_rad.numpy())
        block = (torch.as_tensor(np.diff(m.indptr)), torch.as_tensor(m.indices), torch.as_tensor(m.data).to(dtype))
        self.matrix = SparseMatrix.of_rows([block], m.shape)

    angles_rad: Tensor

    def _forward(self, x: Tensor) -> Tensor:
        y = self.matrix.matmul(x.reshape(-1, self.n_pixels))
        return y.reshape(len(x), self.n_views, 1, self.n_bins)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.matrix.rmatmul(y.reshape(len(y), -1)).reshape(len(y), *self.in_shape)

    def row_energy(self) -> Tensor:
        """As `Projector.row_energy`."""
        return self.matrix.row_energy().reshape(self.out_shape)

    def blocks(self) -> Iterator[tuple[slice, SparseMatrix]]:
        """As `Projector.blocks`."""
        yield slice(0, self.n_views * self.n_bins), self.matrix

    def _apply(self, fn, recurse: bool = True) -> Self:  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.matrix = self.matrix.to(self.angles_rad.device)
        return self


def matching_parallel_beam(size: int, angles_rad: Tensor, **options: object) -> ParallelBeam:
    """`ParallelBeam` of the same scan: pixels of unit length, the same axis, the published sense of rotation.

    The published x - a = c X - s Y grows with y's index downwards, so that ours sees the angle -θ.
    """
    a = float(size // 2)
    grid = Grid((0.0, -a, -a), (1.0, 1.0, 1.0), (1, size, size))
    columns = torch.arange(size, dtype=torch.float64) - a
    return ParallelBeam(-torch.as_tensor(angles_rad, dtype=torch.float64), columns, grid, **options)  # type: ignore[arg-type]
