"""Exact regularised solves and projections in measurement space, for near-field radar (NF 5.4, 5.5).

With fewer measurements than voxels, everything that a solver needs of (AᴴA + rho I)^-1 follows from the M x M
Gram matrix G = AAᴴ, which is set up once per geometry and is block diagonal when the geometry is symmetric.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from scipy.linalg import blas
from torch import Tensor

from imaging.operators.symmetry import surviving_orbits

if TYPE_CHECKING:
    from imaging.operators.near_field import NearFieldMimo

GRAM_CHUNK_BYTES = 64 * 2**20
CG_STEPS = 50  # to a relative residual of 1e-5 at rho = 0.158 of the mean eigenvalue, measured
SOLVES_PER_PROJECTION = 2  # that a CG-based projection needs to find its multiplier, warm-started
THREADS_PAY = 1500  # rows from which factorisations use all threads
SINGLE_PRECISION_RHO = 1e-4  # of the mean eigenvalue: below, AAᴴ in complex64 is too coarse to be inverted
EIGH_SLOWNESS = 4  # of an eigendecomposition's flops against those of a matrix product, measured


class MeasurementSpace:
    """G = AAᴴ in symmetrised coordinates, one Hermitian block per character of the geometry's reflections."""

    def __init__(self, operator: NearFieldMimo) -> None:
        self.operator = operator
        self.symmetry = operator.symmetry
        g = self.symmetry.order
        self._rows = [
            (images, 1 / torch.sqrt(g * stabiliser.to(torch.float64)))
            for images, stabiliser in surviving_orbits(self._channel_permutations(), self.symmetry.characters)
        ]
        self._gram: list[Tensor] | None = None
        self._eigen: list[tuple[Tensor, Tensor]] | None = None

    def _channel_permutations(self) -> Tensor:
        operator = self.operator
        if operator.channels is not None:
            return torch.arange(len(operator.channels.tx), device=operator.device)[None]
        symmetry, n_rx = self.symmetry, len(operator.rx_m)
        return (symmetry.tx[:, :, None] * n_rx + symmetry.rx[:, None, :]).flatten(1)

    # -- coordinates ----------------------------------------------------------------------------

    def to_blocks(self, y: Tensor) -> list[Tensor]:
        """y (batch, *out_shape) -> one (batch, m_c) per character; together an isometry."""
        flat = y.reshape(len(y), -1, y.shape[-1]).transpose(1, 2)
        blocks = []
        for character, (rows, weight) in zip(self.symmetry.characters, self._rows, strict=True):
            block = sum(sign * flat[:, :, index] for sign, index in zip(character.tolist(), rows, strict=True))
            blocks.append((block * weight.to(y.real.dtype)).flatten(1))
        return blocks

    def from_blocks(self, blocks: list[Tensor]) -> Tensor:
        """The inverse of `to_blocks`."""
        operator = self.operator
        n_freq = operator.out_shape[-1]
        n_channels = operator.n_measurements // n_freq
        flat = blocks[0].new_zeros(len(blocks[0]), n_freq, n_channels)
        for character, (rows, weight), block in zip(self.symmetry.characters, self._rows, blocks, strict=True):
            value = block.reshape(len(block), n_freq, -1) * weight.to(block.real.dtype)
            for sign, index in zip(character.tolist(), rows, strict=True):
                flat.index_add_(2, index, sign * value)
        return flat.transpose(1, 2).reshape(len(flat), *operator.out_shape)

    # -- the Gram matrix ------------------------------------------------------------------------

    def gram(self) -> list[Tensor]:
        """The Hermitian blocks of AAᴴ, complex128 (m_c, m_c); built once by rank updates over voxels."""
        if self._gram is None:
            self._gram = self._build_gram()
        return self._gram

    def _build_gram(self) -> list[Tensor]:
        operator, symmetry = self.operator, self.symmetry
        stabiliser = symmetry.voxel_orbits.stabiliser
        points = operator.grid.points_m().to(operator.device)[symmetry.voxel_orbits.representatives]
        updates = [_RankUpdate(len(w) * operator.out_shape[-1], operator) for _, w in self._rows]
        row_bytes = operator.n_measurements * operator.dtype.itemsize
        chunk = max(8, GRAM_CHUNK_BYTES // row_bytes)
        for first in range(0, len(points), chunk):
            part = slice(first, first + chunk)
            matrix = self._dense(points[part])
            scale = (1 / stabiliser[part].to(torch.float64).sqrt()).to(matrix.real.dtype)
            for update, character, (rows, weight) in zip(updates, symmetry.characters, self._rows, strict=True):
                block = sum(s * matrix[:, i] for s, i in zip(character.tolist(), rows, strict=True))
                # 1/sqrt(|stab o| |stab f|): the weight holds 1/sqrt(g |stab o|)
                block *= (weight * math.sqrt(symmetry.order)).to(scale.dtype)[:, None]
                block *= scale
                update.add(block.flatten(0, 1))
        return [update.result() for update in updates]

    def _dense(self, points_m: Tensor) -> Tensor:
        """The matrix at a few points: (n_freq, n_channel, n_points)."""
        operator = self.operator
        g_t, g_r = operator.factors(points_m)
        g_t = g_t * operator.spectrum[:, None, None]
        if operator.channels is not None:
            return g_t[:, operator.channels.tx] * g_r[:, operator.channels.rx]
        return (g_t[:, :, None, :] * g_r[:, None, :, :]).flatten(1, 2)

    def eigen(self) -> list[tuple[Tensor, Tensor]]:
        """(eigenvalues float64 (m_c,), eigenvectors (m_c, m_c) in the operator's dtype) of each block."""
        if self._eigen is None:
            self._eigen = []
            for block in self.gram():
                with _one_thread(len(block)):
                    values, vectors = torch.linalg.eigh(block)
                self._eigen.append((values.clamp_min(0), vectors.to(self.operator.dtype)))
        return self._eigen

    def eigenvalues(self) -> Tensor:
        """All eigenvalues of AAᴴ, block after block: float64 (M,)."""
        return torch.cat([values for values, _ in self.eigen()])


@contextlib.contextmanager
def _one_thread(size: int) -> Iterator[None]:
    """Keep a factorisation of a small matrix on one thread.

    Its many barriers gain little from more, and cost up to 30 times the run time when another process holds a core.
    """
    before = torch.get_num_threads()
    if size < THREADS_PAY:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _RankUpdate:
    """G += B Bᴴ; on the CPU only one triangle is computed (BLAS herk)."""

    def __init__(self, size: int, operator: NearFieldMimo) -> None:
        self.on_cpu = operator.device.type == "cpu"
        self.total = torch.zeros(size, size, dtype=operator.dtype, device=operator.device)
        self.herk = blas.cherk if operator.dtype == torch.complex64 else blas.zherk

    def add(self, matrix: Tensor) -> None:
        if not self.on_cpu:
            self.total.addmm_(matrix, matrix.mH)
        elif len(matrix):
            # the transposed view is Fortran-ordered, as is the total's: BLAS gets conj(G) without a copy
            self.herk(1.0, matrix.numpy().T, beta=1.0, c=self.total.numpy().T, trans=2, overwrite_c=1)

    def result(self) -> Tensor:
        total = self.total.to(torch.complex128)
        if not self.on_cpu:
            return total
        # herk filled the upper triangle of the transpose, the lower one of ours
        lower = torch.tril(total)
        return lower + torch.tril(lower, -1).mH


class CholeskySolver:
    """(AᴴA + rho I)^-1 for one rho, exactly, from the Cholesky factor of G + rho I. Source: NF (5.1)."""

    method = "cholesky"

    def __init__(self, operator: NearFieldMimo, space: MeasurementSpace, rho: float) -> None:
        _check_rho(operator, rho)
        self.operator, self.space, self.rho = operator, space, rho
        self._inverse = []
        for block in space.gram():
            shifted = block + rho * torch.eye(len(block), dtype=block.dtype, device=block.device)
            with _one_thread(len(block)):
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
            self._inverse.append(inverse.to(operator.dtype))

    def _solve(self, r: Tensor) -> Tensor:
        """(G + rho I)^-1 r."""
        blocks = self.space.to_blocks(r)
        # r @ conj(inverse) = r @ inverse.T: the matrix is Hermitian, and a row times a matrix is the fast order
        return self.space.from_blocks(
            [(b.conj() @ inverse).conj() for b, inverse in zip(blocks, self._inverse, strict=True)]
        )

    def prox(self, u: Tensor, w: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x, Ax) with x = argmin rho‖x - u‖² + ‖Ax - w‖²; one forward and one adjoint product."""
        return _batched(self.operator, self._prox, u, w)

    def _prox(self, u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        c = self._solve(w - self.operator(u))
        return u + self.operator.adjoint(c), w - self.rho * c

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """x with (AᴴA + rho I) x = b, b (*batch, *in_shape)."""
        flat = b.reshape(-1, *self.operator.in_shape)
        x = (flat - self.operator.adjoint(self._solve(self.operator(flat)))) / self.rho
        return x.reshape(b.shape)


class EighSolver(CholeskySolver):
    """(AᴴA + rho I)^-1 for any rho, from the eigendecomposition of G. Source: NF 5.4."""

    method = "eigh"

    def __init__(self, operator: NearFieldMimo, space: MeasurementSpace, rho: float) -> None:
        _check_rho(operator, rho)
        self.operator, self.space, self.rho = operator, space, rho
        space.eigen()

    def _solve(self, r: Tensor) -> Tensor:
        result = []
        for block, (values, vectors) in zip(self.space.to_blocks(r), self.space.eigen(), strict=True):
            spectral = (block.conj() @ vectors).conj() / (values + self.rho).to(block.real.dtype)
            result.append(spectral @ vectors.T)
        return self.space.from_blocks(result)


class EighEllipsoid:
    """Exact projection on {x : ‖Ax - y‖ <= epsilon}. Source: NF (5.2)."""

    method = "eigh"

    def __init__(self, operator: NearFieldMimo, space: MeasurementSpace) -> None:
        self.operator, self.space = operator, space
        self.info: Any = None
        space.eigen()

    def spectral(self, r: Tensor) -> list[Tensor]:
        """Uᴴ r per block, for r (batch, *out_shape), in the order of `space.eigenvalues()`."""
        return [
            (block.conj() @ vectors).conj()
            for block, (_, vectors) in zip(self.space.to_blocks(r), self.space.eigen(), strict=True)
        ]

    def __call__(
        self, u: Tensor, y: Tensor, epsilon: Tensor | float, mu0: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x, Ax, mu): the point of the ellipsoid nearest to u, and the multiplier.

        Args:
            u: (*batch, *in_shape). y: (*batch, *out_shape). epsilon: number or (*batch,), >= 0.

        Returns:
            x like u, Ax like y, mu float64 (*batch,); mu is infinite where u already lies inside (x = u), and the
            smallest that the dtype's rounding allows where no x reaches epsilon: then x is close to the nearest
            least-squares point. `info` (an `EllipsoidInfo`) says which problems were feasible.
        """
        # solvers build on operators, not the other way round
        from imaging.solvers.ellipsoid import EllipsoidInfo, secular_root, smallest_multiplier

        operator = self.operator
        batch = u.shape[: u.ndim - len(operator.in_shape)]
        u1, y1 = u.reshape(-1, *operator.in_shape), y.reshape(-1, *operator.out_shape)
        radius = torch.as_tensor(epsilon, dtype=torch.float64, device=u.device).expand(batch).reshape(-1)
        r = y1 - operator(u1)
        spectral = self.spectral(r)
        values = self.space.eigenvalues()
        power = torch.cat([s.abs().to(torch.float64) ** 2 for s in spectral], dim=1)
        start = None if mu0 is None else mu0.reshape(-1)
        mu, feasible = secular_root(values, power, radius, start, floor=smallest_multiplier(u.dtype))
        steps = torch.zeros_like(mu, dtype=torch.int64)
        self.info = EllipsoidInfo(
            steps.reshape(batch), feasible.reshape(batch), torch.ones_like(feasible).reshape(batch)
        )
        outside = torch.isfinite(mu)
        shift = torch.where(outside, mu, 1.0)
        c = self.space.from_blocks(
            [
                (s / (shift[:, None] + lam).to(s.real.dtype)) @ vectors.T
                for s, (lam, vectors) in zip(spectral, self.space.eigen(), strict=True)
            ]
        )
        c = c * outside.to(c.real.dtype).reshape(-1, *[1] * len(operator.out_shape))
        x = u1 + operator.adjoint(c)
        inside = ~outside.reshape(-1, *[1] * len(operator.out_shape))
        # A x = y - mu c: the forward product comes for free
        ax = torch.where(inside, y1 - r, y1 - shift.to(c.real.dtype).reshape(inside.shape) * c)
        return x.reshape(u.shape), ax.reshape(y.shape), mu.reshape(batch)


def regularised_solver(operator: NearFieldMimo, rho: float, n_solves: int) -> Any:
    """The cheapest of Cholesky and CG for `n_solves` solves (the eigendecomposition when it is there already).

    CG as well where rho is too small for an exact solve in the operator's precision.
    """
    from imaging.solvers.linear import CgSolver

    if not rho > 0:
        raise ValueError(f"regularised_solver rho: expected > 0, got {rho}")
    if rho < _smallest_rho(operator):
        return CgSolver(operator, rho)
    space = operator.measurement_space()
    if space._eigen is not None:
        return EighSolver(operator, space, rho)
    flops = Flops.of(operator, space.symmetry.order)
    exact = flops.gram + flops.cholesky + n_solves * flops.exact_solve
    if exact <= n_solves * flops.cg_solve and flops.gram_bytes <= operator.memory_limit:
        return CholeskySolver(operator, space, rho)
    return CgSolver(operator, rho)


def _smallest_rho(operator: NearFieldMimo) -> float:
    return SINGLE_PRECISION_RHO * operator.mean_eigenvalue() if operator.dtype == torch.complex64 else 0.0


def _check_rho(operator: NearFieldMimo, rho: float) -> None:
    smallest = _smallest_rho(operator)
    if not (rho > 0 and rho >= smallest):
        raise ValueError(
            f"exact solve, rho: expected > 0 and, in complex64, at least {smallest:.3g} ({SINGLE_PRECISION_RHO:g} of "
            f"the mean eigenvalue), got {rho:.3g}; build the operator with dtype=torch.complex128, or use CgSolver"
        )


def ellipsoid_projector(operator: NearFieldMimo, n_solves: int) -> Any:
    """The cheaper of the eigendecomposition and CG for `n_solves` projections."""
    from imaging.solvers.linear import CgEllipsoid

    if eigendecomposition_pays(operator, n_solves):
        return EighEllipsoid(operator, operator.measurement_space())
    return CgEllipsoid(operator)


def eigendecomposition_pays(operator: NearFieldMimo, n_solves: int) -> bool:
    """Whether setting up the eigendecomposition of AAᴴ costs less than `n_solves` projections by CG, and fits."""
    return Flops.of(operator, operator.symmetry.order).eigendecomposition_pays(n_solves, operator.memory_limit)


class Flops:
    """What the ways of solving cost, in floating-point operations (NF 9.3) and bytes."""

    def __init__(self, n_measurements: int, n_voxels: int, order: int) -> None:
        m, n, g = float(n_measurements), float(n_voxels), float(order)
        self.gram = 4 * m * m * n / g**2
        self.cholesky = 2 * 4 * m**3 / g**2  # factor and inverse, in double precision
        self.eigh = EIGH_SLOWNESS * 2 * 36 * m**3 / g**2
        self.exact_solve = 16 * m * n + 16 * m * m / g
        self.cg_solve = CG_STEPS * 16 * m * n
        self.gram_bytes = 3 * 16 * m * m / g

    @classmethod
    def of(cls, operator: NearFieldMimo, order: int) -> Flops:
        return cls(operator.n_measurements, operator.grid.n_voxels, order)

    def eigendecomposition_pays(self, n_solves: int, memory_limit: int) -> bool:
        """Whether it costs less than `n_solves` projections by CG, and fits."""
        exact = self.gram + self.eigh + n_solves * self.exact_solve
        iterative = n_solves * SOLVES_PER_PROJECTION * self.cg_solve
        return exact <= iterative and self.gram_bytes <= memory_limit


def _batched(operator: NearFieldMimo, function: Any, u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    x, ax = function(u.reshape(-1, *operator.in_shape), w.reshape(-1, *operator.out_shape))
    return x.reshape(u.shape), ax.reshape(w.shape)
