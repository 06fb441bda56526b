"""Small dense problems for the solver tests."""

import torch
from torch import Tensor

from imaging.operators import LinearOperator


class Dense(LinearOperator):
    """y = m x for x (nz, ny, nx) and y (n_data,); counts the problems it multiplies."""

    def __init__(self, m: Tensor, in_shape: tuple[int, int, int]) -> None:
        super().__init__(in_shape, (len(m),), dtype=m.dtype)
        self.register_buffer("m", m)
        self.products = 0

    def _forward(self, x: Tensor) -> Tensor:
        self.products += len(x)
        return x.reshape(len(x), -1) @ self.m.T

    def _adjoint(self, y: Tensor) -> Tensor:
        self.products += len(y)
        return (y @ self.m.conj()).reshape(len(y), *self.in_shape)


def randn(*shape: int, dtype: torch.dtype = torch.complex128, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dense(size: float = 1.0, n_data: int = 40, dtype: torch.dtype = torch.complex128, seed: int = 0) -> Dense:
    """A random operator of spectral norm `size` on (3, 4, 5) voxels."""
    m = randn(n_data, 60, dtype=dtype, seed=seed)
    return Dense(m * (size / torch.linalg.matrix_norm(m, 2)), (3, 4, 5))


def spots(*batch: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    """Two bright voxels per problem, at places that differ."""
    flat = torch.zeros(*batch, 60, dtype=dtype).reshape(-1, 60)
    for i, row in enumerate(flat):
        row[(7 + 11 * i) % 60] = 1.0
        row[(31 + 5 * i) % 60] = 1j if dtype.is_complex else -0.7
    return flat.reshape(*batch, 3, 4, 5)


def problem(size: float = 1.0, n: int = 3, noise: float = 0.02, dtype: torch.dtype = torch.complex128):
    """(A, truth, y, epsilon): n problems with noise of differing strength and exactly known radius."""
    A = dense(size, dtype=dtype)
    x = spots(n, dtype=dtype)
    clean = A(x)
    w = randn(*clean.shape, dtype=dtype, seed=1)
    w = w * (noise * (1 + torch.arange(n)) * clean.norm(dim=-1) / w.norm(dim=-1)).unsqueeze(-1)
    return A, x, clean + w, w.norm(dim=-1).to(torch.float64)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest relative difference of the problems of a batch."""
    gap = (a - b).reshape(len(a), -1).norm(dim=1) / b.reshape(len(b), -1).norm(dim=1)
    return float(gap.max())


class Exact:
    """(AᴴA + rho I)⁻¹ of a Dense operator by its inverse; a `RegularisedSolver`."""

    method = "inverse"

    def __init__(self, A: Dense, rho: float) -> None:
        self.A, self.rho = A, rho
        n = A.m.shape[1]
        self.inverse = torch.linalg.inv(A.m.mH @ A.m + rho * torch.eye(n, dtype=A.m.dtype))

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        flat = b.reshape(*b.shape[:-3], -1)
        return (flat @ self.inverse.T).reshape(b.shape)

    def prox(self, u: Tensor, w: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = u + self(self.A.adjoint(w - self.A(u)))
        return x, self.A(x)
