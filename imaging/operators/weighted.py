"""Operators whose samples count more or less."""

from __future__ import annotations

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.base import LinearOperator


class Weighted(LinearOperator):
    """diag(w) A: w is 0 where nothing was measured, and evens out noise that differs between samples.

    Args:
        A: any operator.
        weights: real, broadcastable to A.out_shape; square roots of statistical weights.
    """

    weights: Tensor

    def __init__(self, A: LinearOperator, weights: Tensor) -> None:
        try:
            fits = torch.broadcast_shapes(weights.shape, A.out_shape) == A.out_shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ShapeError(f"Weighted weights: expected what broadcasts to {A.out_shape}, got {tuple(weights.shape)}")
        super().__init__(A.in_shape, A.out_shape, in_axes=A.in_axes, out_axes=A.out_axes, dtype=A.dtype)
        self.inner = A
        self.register_buffer("weights", weights)

    def _forward(self, x: Tensor) -> Tensor:
        return self.inner._forward(x) * self.weights

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner._adjoint(y * self.weights)

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M, from the inner operator's rows where it knows their energy."""
        if not hasattr(self.inner, "row_energy"):
            return super().mean_eigenvalue()
        energy: Tensor = self.inner.row_energy()  # type: ignore[operator]
        return float((energy * self.weights.square()).mean())

    @property
    def frame_index(self) -> Tensor:
        """Of a weighted `TimeSequential`."""
        index: Tensor = self.inner.frame_index  # type: ignore[assignment]
        return index

    def project_basis(self, basis: Tensor) -> Tensor:
        """Of a weighted `TimeSequential`."""
        projected: Tensor = self.inner.project_basis(basis) * self.weights  # type: ignore[operator]
        return projected
