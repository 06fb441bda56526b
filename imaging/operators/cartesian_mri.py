"""MRI on a raster of k-space: any mask, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.coils import CoilOperator

#: Voxels that fold onto each other, times sets, up to which their equations are solved directly.
MOST_FOLDED = 64


class CartesianMri(CoilOperator):
    """Samples of a raster of k-space: y_fc[k] = mask_f[k] (1/√N) Σ_n Σ_s m_sc[n] x_fs[n] exp(-2πi (k - c)·(n - c)/N).

    c = N // 2 of every axis where `centered`, 0 otherwise: zero frequency and origin are then the first of each axis.

    Args:
        maps: sensitivities, complex (set, coil, z, y, x), unitless; a set of coils of 1 for one coil.
        mask: (frame, kz, ky, kx) or (kz, ky, kx) for one frame, bool, True where measured; axes of length 1 are
            repeated over z, y and x.
        centered: where zero frequency and origin are (`fft_centered` of the file).
        by_slice: the first spatial axis is slices: only y and x are transformed.

    x: (*batch, frame, [set,] z, y, x), y: (*batch, frame, coil, kz, ky, kx), dtype of the maps. ‖A‖ ≤ 1 where the
    sensitivities' sum of squares is at most 1.

    Raises:
        ShapeError: maps or mask of another shape.
        DtypeError: maps are not complex.
        ValueError: maps not finite, a mask that is not bool or has no sample in a frame.

    Source: Pruessmann et al. (1999), SENSE; the orthonormal transform of FORMATS (`fft_norm` = ortho, sign -1).
    """

    mask: Tensor
    image_phase: Tensor
    sample_phase: Tensor

    def __init__(self, maps: Tensor, mask: Tensor, *, centered: bool = True, by_slice: bool = False) -> None:
        spatial = tuple(maps.shape[-3:])
        mask = mask[None] if mask.ndim == 3 else mask
        if mask.dtype != torch.bool:
            raise ValueError(f"CartesianMri mask: expected bool, got {mask.dtype}; compare with 0")
        if mask.ndim != 4 or any(m not in (1, n) for m, n in zip(mask.shape[1:], spatial, strict=False)):
            wanted = ", ".join(map(str, spatial))
            raise ShapeError(f"CartesianMri mask: expected (frame, {wanted}) as the maps have, got {tuple(mask.shape)}")
        empty = [f for f in range(len(mask)) if not bool(mask[f].any())]
        if empty:
            raise ValueError(f"CartesianMri mask: expected a sample in every frame, found none in frame {empty[0]}")
        super().__init__(maps, len(mask), spatial, ("slice" if by_slice else "kz", "ky", "kx"))
        self.centered, self.by_slice = centered, by_slice
        self.axes = tuple(a for a in ((-2, -1) if by_slice else (-3, -2, -1)) if spatial[a] > 1)
        self.register_buffer("mask", mask.expand(len(mask), *spatial))
        image, samples = _phases(spatial, self.axes if centered else (), maps)
        self.register_buffer("image_phase", image)
        self.register_buffer("sample_phase", samples)
        # a transform there and back along an axis that the mask does not cut is the identity
        self._cut = tuple(a for a in self.axes if not bool((self.mask == self.mask.narrow(a, 0, 1)).all()))
        self._exact: FoldedGram | None = None

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M over all of k-space, measured or not: every sample takes all voxels with modulus 1/√N."""
        share = self.mask.double().mean((0, 2, 3) if self.by_slice else (0, 1, 2, 3))
        power = self.maps.abs().double().square().sum((0, 1, 3, 4))
        return float((share * power).sum()) / math.prod(self.out_shape[1:])

    def _transform(self, coils: Tensor, frame: int) -> Tensor:
        spectrum = torch.fft.fftn(coils * self.image_phase, dim=self.axes, norm="ortho") if self.axes else coils
        return spectrum * (self.sample_phase * self.mask[frame])

    def _transform_adjoint(self, samples: Tensor, frame: int) -> Tensor:
        samples = samples * (self.sample_phase.conj() * self.mask[frame])
        if not self.axes:
            return samples
        return torch.fft.ifftn(samples, dim=self.axes, norm="ortho") * self.image_phase.conj()

    def _transform_gram(self, coils: Tensor, frame: int) -> Tensor:
        if not self._cut:
            return coils * self.mask[frame]
        spectrum = torch.fft.fftn(coils * self.image_phase, dim=self._cut) * self.mask[frame]
        return torch.fft.ifftn(spectrum, dim=self._cut) * self.image_phase.conj()

    def point_spread(self, frame: int) -> Tensor:
        """See `CoilOperator`; where slices are not transformed it is 0 beyond them."""
        mask = self.mask[frame].to(torch.complex128)
        spread = torch.fft.ifftn(mask, dim=self.axes) if self.axes else mask
        if self.by_slice and len(mask) > 1:
            mean, spread = spread.mean(0, keepdim=True), torch.zeros_like(spread)
            spread[:1] = mean
        if self.centered:  # the phases turn lag n by exp(2πi c n / N)
            for a in self.axes:
                n = spread.shape[a]
                spread = spread * _turns(torch.arange(n) * -(n // 2), n).to(spread.device).reshape(-1, *(1,) * (-1 - a))
        for a in (-3, -2, -1):
            n = spread.shape[a]
            if n > 1:
                again = torch.zeros_like(spread) if self.by_slice and a == -3 else spread
                spread = torch.cat((spread, again), dim=a)
        return spread

    # -- exact solves ---------------------------------------------------------------------------

    def regularised_solver(self, rho: float, *, n_solves: int = 30) -> Any:
        """The cheapest exact solve, else conjugate gradients with a circulant preconditioner.

        Exact in Fourier space for one coil that is equally sensitive everywhere; exact voxel by voxel where every frame
        is sampled regularly (every R-th sample of an axis) and up to 64 voxels fold onto each other.
        """
        if len(self.maps) == 1 and self.n_coils == 1:
            power = self.maps.abs().square()
            if float(power.max() - power.min()) <= 1e-6 * float(power.max()):
                return FourierSolver(self, rho, float(power.mean()))
        if self._exact is None:
            lattice = regular(self.mask, self.axes)
            if lattice is not None and math.prod(lattice[0]) * len(self.maps) <= MOST_FOLDED:
                self._exact = FoldedGram(self, *lattice)
        if self._exact is not None:
            return FoldedSolver(self, self._exact, rho)
        return super().regularised_solver(rho, n_solves=n_solves)


def _phases(spatial: Sequence[int], axes: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """exp(2πi c n/N) and exp(2πi c (k - c)/N), which make a plain transform a centred one, without moving data."""
    image = torch.ones(1, 1, 1, dtype=torch.complex128)
    samples = image
    for a in axes:
        n, c, tail = spatial[a], spatial[a] // 2, (1,) * (-1 - a)
        at = torch.arange(n)
        image = image * _turns(c * at, n).reshape(-1, *tail)
        samples = samples * _turns(c * (at - c), n).reshape(-1, *tail)
    return image.to(like), samples.to(like)


def _turns(numerator: Tensor, n: int) -> Tensor:
    """exp(2πi numerator / n) of integers, complex128."""
    angle = 2 * math.pi * (numerator % n).double() / n
    return torch.polar(torch.ones_like(angle), angle)


def regular(mask: Tensor, axes: Sequence[int]) -> tuple[tuple[int, int, int], Tensor] | None:
    """Steps R (z, y, x) and first samples (frame, 3) where every frame is a lattice k = first + R m; else None.

    Args:
        mask: bool (frame, kz, ky, kx). axes: those that are transformed.
    """
    steps, firsts = [1, 1, 1], torch.zeros(len(mask), 3, dtype=torch.int64)
    lattice = torch.ones_like(mask)
    for a in (-3, -2, -1):
        line = mask.movedim(a, -1).flatten(1, 2).any(1)  # (frame, n)
        if bool(line.all()):
            continue
        first = line.int().argmax(-1)
        gaps = {int(n) for n in line.sum(-1)}
        n = line.shape[-1]
        if a not in axes or len(gaps) > 1 or n % (count := gaps.pop()):
            return None
        step = n // count
        steps[a + 3], firsts[:, a + 3] = step, first.cpu()
        at = torch.arange(n, device=mask.device)
        here = ((at - first[:, None]) % step == 0) & (at >= first[:, None])
        lattice = lattice & here.reshape(len(mask), *(1,) * (3 + a), n, *(1,) * (-1 - a))
    if not bool((lattice == mask).all()):
        return None
    return (steps[0], steps[1], steps[2]), firsts


class _Exact:
    """The prox that follows from a solve."""

    A: CartesianMri
    rho: float

    def _set(self, A: CartesianMri, rho: float) -> None:
        if not (rho > 0 and math.isfinite(rho)):
            raise ValueError(f"regularised_solver rho: expected a finite number > 0, got {rho}")
        self.A, self.rho = A, rho

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")

    def solve(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """x = (AᴴA + rho I)⁻¹ b, b (*batch, *A.in_shape)."""
        return self(b)

    def prox(self, u: Tensor, w: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x, A x), x = argmin rho ‖x - u‖² + ‖A x - w‖²; u (*batch, *A.in_shape), w (*batch, *A.out_shape)."""
        Au = self.A(u)
        d = self(self.A.adjoint(w - Au))
        return u + d, Au + self.A(d)


class FourierSolver(_Exact):
    """(AᴴA + rho I)⁻¹ of one coil of constant modulus |m|² = power, in Fourier space: 1 / (power · mask + rho)."""

    method = "fourier"

    def __init__(self, A: CartesianMri, rho: float, power: float) -> None:
        self._set(A, rho)
        self._turn = A.image_phase * A.maps[0, 0] / math.sqrt(power)
        self._factor = 1 / (power * A.mask.to(A.maps.real.dtype) + rho)

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """x = (AᴴA + rho I)⁻¹ b, b (*batch, *A.in_shape)."""
        if not self.A.axes:
            return b * self._factor
        spectrum = torch.fft.fftn(b * self._turn, dim=self.A.axes) * self._factor
        return torch.fft.ifftn(spectrum, dim=self.A.axes) * self._turn.conj()


class FoldedGram:
    """AᴴA of regular undersampling: voxels N/R apart fold onto each other, and no others meet.

    With k = o + R m the transform there and back is (1/R) Σ_l exp(2πi o l/R) x[n - l N/R], so AᴴA is one small matrix
    of (voxels folded · sets)² per place, the same for all frames but for the phases of o. Its eigendecomposition serves
    every rho.

    Source: Pruessmann et al. (1999), SENSE, section on regular undersampling.
    """

    def __init__(self, A: CartesianMri, steps: tuple[int, int, int], firsts: Tensor) -> None:
        self.A, self.steps = A, steps
        maps = A.maps.to(torch.complex128) * A.image_phase
        folded = self._fold(maps.transpose(0, 1))  # (coil, place, voxel, set)
        folded = folded.flatten(2).transpose(0, 1)  # (place, coil, voxel · set)
        gram = folded.mH @ folded / math.prod(steps)
        self.values, self.vectors = torch.linalg.eigh(gram)
        # voxel l of a fold is turned by exp(2πi o l / R) against the first
        turns = torch.ones(len(firsts), 1, 1, 1, dtype=torch.complex128)
        for i, (n, step) in enumerate(zip(maps.shape[-3:], steps, strict=True)):
            fold = torch.arange(n) // (n // step)
            turn = torch.stack([_turns(int(first) * fold, step) for first in firsts[:, i]])
            turns = turns * turn.reshape(len(firsts), *(n if k == i else 1 for k in range(3)))
        self.turns = turns.to(A.device)

    def _fold(self, x: Tensor) -> Tensor:
        """(..., set, z, y, x) -> (..., place, voxel, set)."""
        lead = x.shape[:-4]
        (rz, ry, rx), (nz, ny, nx) = self.steps, x.shape[-3:]
        parts = x.reshape(-1, x.shape[-4], rz, nz // rz, ry, ny // ry, rx, nx // rx)
        return parts.permute(0, 3, 5, 7, 2, 4, 6, 1).reshape(*lead, -1, rz * ry * rx, x.shape[-4])

    def _unfold(self, v: Tensor, spatial: Sequence[int]) -> Tensor:
        """The inverse of `_fold`."""
        lead, n_sets = v.shape[:-3], v.shape[-1]
        (rz, ry, rx), (nz, ny, nx) = self.steps, spatial
        parts = v.reshape(-1, nz // rz, ny // ry, nx // rx, rz, ry, rx, n_sets)
        return parts.permute(0, 7, 4, 1, 5, 2, 6, 3).reshape(*lead, n_sets, nz, ny, nx)

    def turn(self, x: Tensor, *, back: bool = False) -> Tensor:
        """Phases of each frame's first sample taken off (n, frame, set, z, y, x), or put back."""
        turns = self.turns[:, None].to(x.dtype)
        return x * (turns if back else turns.conj())


class FoldedSolver(_Exact):
    """(AᴴA + rho I)⁻¹ of regular undersampling, exactly, voxel by voxel; see `FoldedGram`."""

    method = "folded"

    def __init__(self, A: CartesianMri, gram: FoldedGram, rho: float) -> None:
        self._set(A, rho)
        self.gram = gram
        inverse = (gram.vectors / (gram.values + rho)[:, None]) @ gram.vectors.mH
        self._inverse = inverse.to(A.dtype)

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """x = (AᴴA + rho I)⁻¹ b, b (*batch, *A.in_shape)."""
        A, gram = self.A, self.gram
        flat = b.reshape(-1, A.in_shape[0], len(A.maps), *A.in_shape[-3:])
        folded = gram._fold(gram.turn(flat))
        solved = (self._inverse @ folded.flatten(-2)[..., None]).reshape(folded.shape)
        return gram.turn(gram._unfold(solved, A.in_shape[-3:]), back=True).reshape(b.shape)
