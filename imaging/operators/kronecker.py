"""Separable sensing: y = (A_1 ⊗ A_2 ⊗ … ⊗ A_I) x, axis by axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from imaging.errors import DtypeError, ShapeError
from imaging.operators.base import LinearOperator

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Kronecker(LinearOperator):
    """y = (A_1 ⊗ … ⊗ A_I) x; the product matrix, prod(M) x prod(N), is never formed.

    Args:
        factors: A_i, (M_i, N_i), one real or complex dtype, unitless; any number of them. A factor may be a stack
            (n_problem, M_i, N_i): then every problem of a batch has its own, and x and y have exactly that batch.

    x: (*batch, N_1, …, N_I); y: (*batch, M_1, …, M_I): x[n_1, …, n_I] is entry n_1 N_2 … N_I + … + n_I of the vector
    that the product matrix multiplies (row-major, the first factor varies slowest).

    Raises:
        ShapeError: a factor is no matrix, is empty, or stacks differ in length.
        DtypeError: factors differ in dtype or device.
        ValueError: a factor is not finite, or 0 throughout.

    Source: Van Loan (2000), The ubiquitous Kronecker product; KS 1.1.
    """

    def __init__(self, factors: Sequence[Tensor]) -> None:
        factors = tuple(factors)
        n_problem = _check(factors)
        super().__init__(
            tuple(a.shape[-1] for a in factors), tuple(a.shape[-2] for a in factors), dtype=factors[0].dtype
        )
        self.n_problem = n_problem
        for i, a in enumerate(factors, 1):
            self.register_buffer(f"factor_{i}", a)  # moves with A.to(device)

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """A_1, …, A_I."""
        return tuple(getattr(self, f"factor_{i}") for i in range(1, len(self.in_shape) + 1))

    def select(self, index: Tensor) -> Kronecker:
        """The operator of some problems of a batch, int64 (n,); itself where all problems share the factors."""
        if self.n_problem is None:
            return self
        return Kronecker([a[index] if a.ndim == 3 else a for a in self.factors])

    def norm(self) -> float:
        """‖A‖₂ = Π ‖A_i‖₂; of a stack the largest."""
        size = torch.ones(1, dtype=torch.float64, device=self.device)
        for a in self.factors:
            size = size * torch.linalg.matrix_norm(_double(a), 2)
        return float(size.max())

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M, of a stack the mean."""
        power = torch.ones(1, dtype=torch.float64, device=self.device)
        for a in self.factors:
            power = power * _double(a).abs().square().sum(dim=(-2, -1))
        return float(power.mean()) / math.prod(self.out_shape)

    def regularised_solver(self, rho: float, *, n_solves: int = 30) -> KroneckerSolver:
        """(AᴴA + rho I)⁻¹ exactly, by an eigendecomposition of each A_iᴴA_i."""
        return KroneckerSolver(self, rho)

    def _forward(self, x: Tensor) -> Tensor:
        self._check_batch(x)
        return mode_products(x, self.factors)

    def _adjoint(self, y: Tensor) -> Tensor:
        self._check_batch(y)
        return mode_products(y, [a.mH for a in self.factors])

    def _check_batch(self, value: Tensor) -> None:
        if self.n_problem not in (None, len(value)):
            raise ShapeError(
                f"Kronecker: expected a batch of {self.n_problem}, one for each matrix of the stack, got {len(value)}"
            )


class KroneckerSolver:
    """(AᴴA + rho I)⁻¹ of a `Kronecker` operator, exactly; a `RegularisedSolver`.

    With A_iᴴA_i = Q_i diag(l_i) Q_iᴴ the inverse is (⊗Q_i) diag(1 / (⊗l_i + rho)) (⊗Q_i)ᴴ.

    Args:
        A: the operator.
        rho: > 0.
    """

    method = "eigen"

    def __init__(self, A: Kronecker, rho: float) -> None:
        if not (rho > 0 and math.isfinite(rho)):
            raise ValueError(f"regularised_solver rho: expected a finite number > 0, got {rho}")
        self.A, self.rho = A, rho
        pairs = [hermitian_eigen(a.mH @ a) for a in map(_double, A.factors)]
        values = [v.reshape(-1, v.shape[-1]) for v, _ in pairs]
        self._vectors = [q.to(A.dtype) for _, q in pairs]
        self._scale = (1 / (outer(values) + rho)).to(real_of(A.dtype))

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """x = (AᴴA + rho I)⁻¹ b, b (*batch, *A.in_shape)."""
        flat = b.reshape(-1, *self.A.in_shape)
        self.A._check_batch(flat)
        spectral = mode_products(flat, [q.mH for q in self._vectors]) * self._scale
        return mode_products(spectral, self._vectors).reshape(b.shape)

    solve = __call__

    def prox(self, u: Tensor, w: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x, A x), x = argmin rho ‖x - u‖² + ‖A x - w‖²; u (*batch, *A.in_shape), w (*batch, *A.out_shape)."""
        x = u + self(self.A.adjoint(w - self.A(u)))
        return x, self.A(x)


def mode_products(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """x ×_1 B_1 ×_2 B_2 … ×_I B_I.

    Args:
        x: (batch, n_1, …, n_I).
        matrices: B_i, (m_i, n_i) or one per problem (batch, m_i, n_i).

    Returns:
        (batch, m_1, …, m_I).
    """
    batch, shape = len(x), tuple(x.shape[1:])
    for b in matrices:
        # the first axis is multiplied and goes to the end: after I products the order is the old one
        x = x.reshape(batch, shape[0], math.prod(shape[1:])).transpose(1, 2) @ b.transpose(-2, -1)
        shape = (*shape[1:], b.shape[-2])
    return x.reshape(batch, *shape)


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """v_1 ⊗ … ⊗ v_I as a tensor: (batch, n_i) each -> (batch, n_1, …, n_I)."""
    product = vectors[0]
    for v in vectors[1:]:
        product = product.unsqueeze(-1) * v.reshape(len(v), *(1,) * (product.ndim - 1), v.shape[-1])
    return product


def hermitian_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues >= 0, float64 (*batch, n), and orthonormal eigenvectors of a positive semidefinite matrix.

    The matrix is made Hermitian to the last bit first: a general solver loses the orthogonality of eigenvectors of
    repeated eigenvalues (KS 5.2).
    """
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mH))
    return values.clamp_min(0), vectors


def real_of(dtype: torch.dtype) -> torch.dtype:
    """float64 of complex128, float32 of complex64; a real dtype itself."""
    return {torch.complex128: torch.float64, torch.complex64: torch.float32}.get(dtype, dtype)


def _double(a: Tensor) -> Tensor:
    return a.to(torch.complex128 if a.is_complex() else torch.float64)


def _check(factors: Sequence[Any]) -> int | None:
    """The length of stacked factors, None without any."""
    if not factors:
        raise ShapeError("Kronecker factors: expected at least one matrix, got none")
    n_problem: int | None = None
    for i, a in enumerate(factors, 1):
        name = f"Kronecker factor {i}"
        if not isinstance(a, Tensor) or a.ndim not in (2, 3) or 0 in a.shape:
            found = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
            raise ShapeError(f"{name}: expected a matrix (M, N), or one per problem (n_problem, M, N), got {found}")
        if a.dtype not in DTYPES or a.dtype != factors[0].dtype or a.device != factors[0].device:
            raise DtypeError(
                f"{name}: expected real or complex floating-point numbers like those of factor 1, "
                f"{factors[0].dtype} on {factors[0].device}, got {a.dtype} on {a.device}; convert one"
            )
        if a.ndim == 3:
            if n_problem not in (None, len(a)):
                raise ShapeError(f"{name}: expected {n_problem} matrices like the other stack, got {len(a)}")
            n_problem = len(a)
        if not bool(torch.isfinite(a).all()):
            raise ValueError(f"{name}: expected finite numbers, found NaN or infinity")
        if bool((a.abs().amax(dim=(-2, -1)) == 0).any()):
            raise ValueError(f"{name}: expected a matrix that is not 0 throughout; y would not depend on x")
    return n_problem
