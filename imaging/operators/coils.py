"""What Cartesian and non-Cartesian MRI share: coil sensitivities around a Fourier operator, and circulant solves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imaging.errors import DtypeError, ShapeError
from imaging.operators.base import LinearOperator

if TYPE_CHECKING:
    from imaging.solvers.linear import CgInfo

#: Complex numbers of coil images that are held at once; more than a cache's worth gains nothing.
CHUNK = 2**21


def check_maps(name: str, maps: Tensor) -> None:
    """Sensitivities (set, coil, z, y, x), complex and finite."""
    if maps.ndim != 5 or 0 in maps.shape:
        raise ShapeError(f"{name} maps: expected (set, coil, z, y, x), got {tuple(maps.shape)}")
    if not maps.is_complex():
        raise DtypeError(f"{name} maps: expected complex64 or complex128, got {maps.dtype}; convert with .to(...)")
    if not bool(torch.isfinite(torch.view_as_real(maps)).all()):
        raise ValueError(f"{name} maps: expected finite numbers, found NaN or Inf; set voxels without a signal to 0")


class CoilOperator(LinearOperator):
    """Images times sensitivities, then a Fourier operator of every frame: y_fc = F_f Σ_s (m_sc · x_fs).

    A subclass writes `_transform`, `_transform_adjoint` and `_transform_gram` of coil images of one frame.

    Args:
        maps: complex (set, coil, z, y, x), unitless; with one set the image has no axis of sets (soft SENSE otherwise).
        n_frames: frames.
        samples: shape of one coil's samples of one frame.
        sample_axes: their names.

    Source: Pruessmann et al. (2001); several sets: Uecker et al. (2014), ESPIRiT.
    """

    maps: Tensor

    def __init__(self, maps: Tensor, n_frames: int, samples: Sequence[int], sample_axes: Sequence[str]) -> None:
        check_maps(type(self).__name__, maps)
        n_sets, n_coils, *spatial = maps.shape
        sets = (n_sets,) if n_sets > 1 else ()
        super().__init__(
            (n_frames, *sets, *spatial),
            (n_frames, n_coils, *samples),
            in_axes=("frame", *(("set",) if sets else ()), "z", "y", "x"),
            out_axes=("frame", "coil", *sample_axes),
            dtype=maps.dtype,
        )
        self.register_buffer("maps", maps)

    @property
    def n_coils(self) -> int:
        return int(self.maps.shape[1])

    # -- what a subclass writes -----------------------------------------------------------------

    def _transform(self, coils: Tensor, frame: int) -> Tensor:
        """(n, coil, z, y, x) -> (n, coil, *samples)."""
        raise NotImplementedError(f"{type(self).__name__} defines no _transform")

    def _transform_adjoint(self, samples: Tensor, frame: int) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no _transform_adjoint")

    def _transform_gram(self, coils: Tensor, frame: int) -> Tensor:
        return self._transform_adjoint(self._transform(coils, frame), frame)

    def point_spread(self, frame: int) -> Tensor:
        """t[n], FᴴF of a unit impulse in one frame at lags -N ≤ n < N, lag 0 first: (2z, 2y, 2x), complex128.

        An axis of one voxel has one lag.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no point_spread")

    # -- products -------------------------------------------------------------------------------

    def _forward(self, x: Tensor) -> Tensor:
        x = x if self._has_sets else x.unsqueeze(2)
        y = x.new_empty(len(x), *self.out_shape)
        for f in range(self.out_shape[0]):
            for c in self._coil_parts(len(x)):
                y[:, f, c] = self._transform(self._to_coils(x[:, f], c), f)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_empty(len(y), self.out_shape[0], *self.maps.shape[:1], *self.maps.shape[2:])
        for f in range(self.out_shape[0]):
            x[:, f] = 0
            for c in self._coil_parts(len(y)):
                x[:, f] += self._from_coils(self._transform_adjoint(y[:, f, c], f), c)
        return x if self._has_sets else x.squeeze(2)

    def _gram(self, x: Tensor) -> Tensor:
        x = x if self._has_sets else x.unsqueeze(2)
        out = torch.zeros_like(x)
        for f in range(self.out_shape[0]):
            for c in self._coil_parts(len(x)):
                out[:, f] += self._from_coils(self._transform_gram(self._to_coils(x[:, f], c), f), c)
        return out if self._has_sets else out.squeeze(2)

    @property
    def _has_sets(self) -> bool:
        return len(self.maps) > 1

    def _coil_parts(self, n: int) -> list[slice]:
        """Coils in groups whose images of n problems stay within `CHUNK`."""
        each = max(1, CHUNK // (n * math.prod(self.maps.shape[2:])))
        return [slice(first, first + each) for first in range(0, self.n_coils, each)]

    def _to_coils(self, x: Tensor, c: slice) -> Tensor:
        """(n, set, z, y, x) -> (n, coil, z, y, x)."""
        maps = self.maps[:, c]
        coils = x[:, 0, None] * maps[0]
        for s in range(1, len(maps)):
            coils += x[:, s, None] * maps[s]
        return coils

    def _from_coils(self, coils: Tensor, c: slice) -> Tensor:
        """(n, coil, z, y, x) -> (n, set, z, y, x)."""
        return torch.stack([(coils * m.conj()).sum(1) for m in self.maps[:, c]], dim=1)

    # -- solves ---------------------------------------------------------------------------------

    def regularised_solver(self, rho: float, *, n_solves: int = 30) -> Any:
        """(AᴴA + rho I)⁻¹ by conjugate gradients with the best circulant preconditioner."""
        return CirculantCgSolver(self, rho)

    def circulant(self) -> Tensor:
        """Eigenvalues of the circulant matrix nearest to AᴴA in the Frobenius norm, set by set.

        Its lag n has the mean of AᴴA over all pairs of voxels n apart: the point spread times the aperiodic
        autocorrelation of the sensitivities, folded.

        Returns:
            real ≥ 0, (frame, set, z, y, x), in the order of torch.fft.

        Source: T. Chan (1988), An optimal circulant preconditioner for Toeplitz systems.
        """
        axes, n = (-3, -2, -1), self.maps.shape[2:]
        twice = tuple(2 * k if k > 1 else 1 for k in n)
        spectrum = torch.fft.fftn(self.maps.to(torch.complex128), s=twice, dim=axes)
        correlation = torch.fft.ifftn(spectrum.abs().square().sum(1), dim=axes).conj()  # (set, lags)
        values = self.maps.real.new_empty(self.out_shape[0], len(self.maps), *n)
        for frame in range(len(values)):
            lags = self.point_spread(frame) * correlation
            for axis, k in zip(axes, n, strict=True):
                if k > 1:
                    lags = lags.narrow(axis, 0, k) + lags.narrow(axis, k, k)
            values[frame] = torch.fft.fftn(lags / math.prod(n), dim=axes).real.clamp_min(0)
        return values


class CirculantCgSolver:
    """(AᴴA + rho I)⁻¹ by conjugate gradients on C (AᴴA + rho I) C, C the inverse root of a circulant matrix.

    A `RegularisedSolver`. The tolerance is that of the residual multiplied by C.

    Args:
        A: an operator with coils.
        rho: > 0.
        tol, max_iter: as of `imaging.solvers.CgSolver`.
    """

    method = "pcg"

    def __init__(self, A: CoilOperator, rho: float, tol: float = 1e-5, max_iter: int = 200) -> None:
        if not (rho > 0 and math.isfinite(rho)):
            raise ValueError(f"regularised_solver rho: expected a finite number > 0, got {rho}")
        self.A, self.rho, self.tol, self.max_iter = A, rho, tol, max_iter
        values = A.circulant()
        values = values if A._has_sets else values.squeeze(1)
        self._root = (values + rho).sqrt()
        self.info: CgInfo | None = None

    def _circulant(self, x: Tensor, factor: Tensor) -> Tensor:
        axes = (-3, -2, -1)
        return torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * factor, dim=axes)

    def _normal(self, z: Tensor) -> Tensor:
        x = self._circulant(z, 1 / self._root)
        return self._circulant(self.A.gram(x) + self.rho * x, 1 / self._root)

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """x = (AᴴA + rho I)⁻¹ b, b (*batch, *A.in_shape); x0 is the starting point."""
        return self._solve(b, x0, 0.0)

    solve = __call__

    def _solve(self, b: Tensor, x0: Tensor | None, noise: Tensor | float) -> Tensor:
        from imaging.solvers.linear import cg  # solvers build on operators, not the other way round

        batch_ndim = b.ndim - len(self.A.in_shape)
        z, self.info = cg(
            self._normal,
            self._circulant(b, 1 / self._root),
            x0=None if x0 is None else self._circulant(x0, self._root),
            tol=self.tol,
            max_iter=self.max_iter,
            batch_ndim=batch_ndim,
            floor=torch.as_tensor(noise, dtype=torch.float64, device=b.device).expand(b.shape[:batch_ndim]),
        )
        return self._circulant(z, 1 / self._root)

    def prox(self, u: Tensor, w: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x, A x), x = argmin rho ‖x - u‖² + ‖A x - w‖²; solved for x - u, as `imaging.solvers.CgSolver` does."""
        axes = tuple(range(u.ndim - len(self.A.in_shape), u.ndim))
        Au = self.A(u)
        # below this the difference x0 - u is rounding
        noise = torch.finfo(u.dtype).eps * math.sqrt(self.rho) * torch.linalg.vector_norm(u, dim=axes).double()
        d = self._solve(self.A.adjoint(w - Au), None if x0 is None else x0 - u, 0.0 if x0 is None else noise)
        return u + d, Au + self.A(d)
