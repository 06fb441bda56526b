"""Real sparse matrices with a stored transpose, for products with many columns at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

#: Entries per row, their columns, their values.
Rows = tuple[Tensor, Tensor, Tensor]


class SparseMatrix:
    """A real sparse matrix in compressed rows, and its transpose where it is stored.

    Args:
        starts, columns, values: compressed rows; shape: (rows, columns).
        transpose: the same of the transpose; None computes with the rows, which is slower.
    """

    def __init__(
        self,
        starts: Tensor,
        columns: Tensor,
        values: Tensor,
        shape: tuple[int, int],
        transpose: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        self.starts, self.columns, self.values, self.shape = starts, columns, values, shape
        self.transpose = transpose
        self._csr = _csr(starts, columns, values, shape)
        self._csr_t = None if transpose is None else _csr(*transpose, (shape[1], shape[0]))

    @classmethod
    def of_rows(
        cls,
        blocks: Iterable[Rows],
        shape: tuple[int, int],
        *,
        transpose: bool = True,
    ) -> SparseMatrix:
        """From (entries per row, columns, values) of consecutive rows."""
        parts = list(blocks)
        counts, columns, values = (torch.cat([part[i] for part in parts]) for i in range(3))
        del parts
        starts = torch.zeros(shape[0] + 1, dtype=torch.int64, device=counts.device)
        torch.cumsum(counts, 0, out=starts[1:])
        if int(starts[-1]) < 2**31:
            starts = starts.to(torch.int32)
        else:
            columns = columns.to(torch.int64)
        return cls(starts, columns, values, shape, _transposed(starts, columns, values, shape) if transpose else None)

    @property
    def nnz(self) -> int:
        return len(self.values)

    def with_shifted_columns(self, offset: Tensor, n_columns: int) -> SparseMatrix:
        """Row r's columns moved by offset[r], in a matrix of n_columns columns."""
        counts = (self.starts[1:] - self.starts[:-1]).to(torch.int64)
        columns = self.columns.to(torch.int64) + offset.repeat_interleave(counts)
        kind = torch.int32 if n_columns < 2**31 and self.starts.dtype == torch.int32 else torch.int64
        starts, columns, shape = self.starts.to(kind), columns.to(kind), (self.shape[0], n_columns)
        return SparseMatrix(starts, columns, self.values, shape, _transposed(starts, columns, self.values, shape))

    def rows(self, rows: slice) -> SparseMatrix:
        """Consecutive rows, without a transpose."""
        first, last = int(self.starts[rows.start]), int(self.starts[rows.stop])
        starts = self.starts[rows.start : rows.stop + 1] - first
        return SparseMatrix(
            starts, self.columns[first:last], self.values[first:last], (rows.stop - rows.start, self.shape[1])
        )

    def row_energy(self) -> Tensor:
        """Sum of the squares of each row, (rows,), float64; entries that fall on the same column are one."""
        values, columns, starts = (t.cpu().numpy() for t in (self.values, self.columns, self.starts))
        matrix = csr_matrix((values.astype(np.float64), columns.copy(), starts.copy()), shape=self.shape)
        matrix.sum_duplicates()
        energy = np.asarray(matrix.multiply(matrix).sum(axis=1), dtype=np.float64).ravel()
        return torch.from_numpy(energy).to(self.values.device)

    def to(self, device: torch.device) -> SparseMatrix:
        """The same on another device."""
        if self.values.device == device:
            return self
        moved = None if self.transpose is None else tuple(t.to(device) for t in self.transpose)
        return SparseMatrix(
            self.starts.to(device),
            self.columns.to(device),
            self.values.to(device),
            self.shape,
            moved,  # type: ignore[arg-type]
        )

    def matmul(self, x: Tensor) -> Tensor:
        """x (n, columns) -> (n, rows), real or complex."""
        return _product(self._csr, x)

    def rmatmul(self, y: Tensor) -> Tensor:
        """y (n, rows) -> (n, columns): the transpose's product."""
        return _product(self._csr.t() if self._csr_t is None else self._csr_t, y)


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    if x.is_complex():
        pair = torch.view_as_real(x).movedim(-1, 0).reshape(-1, x.shape[1])
        real, imaginary = _product(matrix, pair).chunk(2)
        return torch.complex(real, imaginary)
    if x.shape[0] == 1:
        return (matrix @ x[0])[None]
    return (matrix @ x.T.contiguous()).T


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "sparse CSR is in beta"
        return torch.sparse_csr_tensor(starts, columns, values, size=shape, check_invariants=False)


def _transposed(
    starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    device = values.device
    matrix = csr_matrix((values.cpu().numpy(), columns.cpu().numpy(), starts.cpu().numpy()), shape=shape)
    t = matrix.tocsc()
    return tuple(torch.from_numpy(np.asarray(a)).to(device) for a in (t.indptr, t.indices, t.data))  # type: ignore[return-value]
