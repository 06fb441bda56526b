"""Sparsity in an orthogonal wavelet basis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.priors._check import check_step, check_volume, check_weight, total


@cache
def daubechies(moments: int) -> tuple[float, ...]:
    """Low-pass filter of length 2 · moments, norm 1, sum √2, extremal phase; moments = 1 is Haar's.

    Source: Daubechies (1992), Ten Lectures on Wavelets, 6.1: the spectral factor with roots inside the unit circle.
    """
    if not 1 <= moments <= 10:
        raise ValueError(f"daubechies moments: expected 1 to 10, got {moments}")
    # P(w) = Σ_k C(moments - 1 + k, k) w^k with w = (2 - z - 1/z) / 4, of which each root w gives z and 1/z
    polynomial = [math.comb(moments - 1 + k, k) for k in range(moments)]
    taps = np.array([1.0 + 0j])
    for w in np.roots(polynomial[::-1]):
        b = 1 - 2 * w
        z = b + np.sqrt(b * b - 1)
        taps = np.convolve(taps, [1, -(z if abs(z) < 1 else 1 / z)])
    for _ in range(moments):
        taps = np.convolve(taps, [1, 1])
    real = taps.real
    return tuple((real * math.sqrt(2) / real.sum()).tolist())


def wavelet_transform(v: Tensor, *, levels: int, moments: int = 4) -> Tensor:
    """Orthogonal, periodic wavelet transform of the last three axes, shape and dtype kept.

    At each level the approximation lies first along every axis, then the detail. An axis of odd length keeps its last
    sample in the approximation as it is, so that the transform stays orthogonal whatever the lengths; one that is
    shorter than the filter is not split.

    Args:
        v: (*batch, nz, ny, nx), real or complex.
        levels: at most; see `split_lengths`.
        moments: vanishing moments of Daubechies' wavelet.
    """
    return _each_level(v, levels, moments, inverse=False)


def inverse_wavelet_transform(c: Tensor, *, levels: int, moments: int = 4) -> Tensor:
    """Inverse, and adjoint, of `wavelet_transform`."""
    return _each_level(c, levels, moments, inverse=True)


def split_lengths(n: int, levels: int, moments: int) -> list[int]:
    """Lengths of the approximation along an axis, from n down."""
    lengths = [n]
    while len(lengths) <= levels and lengths[-1] >= 2 * moments:
        lengths.append((lengths[-1] + 1) // 2)
    return lengths


@dataclass(frozen=True)
class WaveletL1:
    """weight · Σ|(W x)_n| over the details of an orthogonal wavelet transform W, for real or complex x.

    The approximation of the coarsest level is left alone. With random shifts each prox of a run moves the image against
    the basis, which removes the blocking of an orthogonal basis as averaging over all shifts would; a single prox is
    exact for its own shift.

    Args:
        weight: >= 0, inverse units of x.
        levels: of the decomposition, at most.
        moments: vanishing moments of Daubechies' wavelet, 1 to 10.
        shifts: whether the basis moves from call to call of `prox_warm`.
        seed: of the shifts.

    The last three axes are one problem, the others batch.

    Source: Figueiredo, Nowak (2003), An EM algorithm for wavelet-based image restoration, for the random shifts.
    """

    weight: float = 1.0
    levels: int = 4
    moments: int = 4
    shifts: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_weight("WaveletL1", self.weight)
        if self.levels < 1:
            raise ValueError(f"WaveletL1 levels: expected >= 1, got {self.levels}")
        daubechies(self.moments)

    def prox(self, v: Tensor, step: float) -> Tensor:
        """Soft threshold of the details by weight · step, shape and dtype kept; the first shift of a run."""
        return self.prox_warm(v, step, None)[0]

    def prox_warm(self, v: Tensor, step: float, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """`prox` with the next shift of a run.

        Args:
            v: (*batch, nz, ny, nx).
            step: >= 0.
            memory: int64 (*batch,), calls so far; None is the first.
        """
        if v.ndim < 3:
            raise ShapeError(f"WaveletL1 input: expected (..., nz, ny, nx), got {tuple(v.shape)}")
        check_step("WaveletL1", step)
        if memory is None:
            memory = torch.zeros(v.shape[:-3], dtype=torch.int64, device=v.device)
        calls = torch.unique(memory).tolist()
        if len(calls) == 1:
            return self._shrunk(v, step, calls[0]), memory + 1
        x = torch.empty_like(v)
        for call in calls:
            mine = memory == call
            x[mine] = self._shrunk(v[mine], step, call)
        return x, memory + 1

    def value(self, v: Tensor) -> Tensor | None:
        """weight · Σ|details| per problem, (*batch,), float64; None with random shifts, which have no one objective."""
        if self.shifts:
            return None
        c = wavelet_transform(v, levels=self.levels, moments=self.moments)
        c = torch.where(self._details(c), c, torch.zeros((), dtype=c.dtype, device=c.device))
        return self.weight * total(c.abs())

    def _shrunk(self, v: Tensor, step: float, call: int) -> Tensor:
        by = self._shift(v, call)
        c = wavelet_transform(torch.roll(v, by, (-3, -2, -1)), levels=self.levels, moments=self.moments)
        size = c.abs()
        shrunk = (size - self.weight * step).clamp_min_(0).div_(size.clamp_min(torch.finfo(size.dtype).tiny))
        c = torch.where(self._details(c), c * shrunk, c)
        x = inverse_wavelet_transform(c, levels=self.levels, moments=self.moments)
        return torch.roll(x, [-b for b in by], (-3, -2, -1))

    def _shift(self, v: Tensor, call: int) -> list[int]:
        if not self.shifts:
            return [0, 0, 0]
        generator = torch.Generator().manual_seed(self.seed + 7919 * call)
        reach = [2 ** (len(split_lengths(n, self.levels, self.moments)) - 1) for n in v.shape[-3:]]
        return [int(torch.randint(r, (1,), generator=generator)) for r in reach]

    def _details(self, c: Tensor) -> Tensor:
        """Bool (nz, ny, nx): all but the coarsest approximation."""
        details = torch.ones(c.shape[-3:], dtype=torch.bool, device=c.device)
        last = [split_lengths(n, self.levels, self.moments) for n in c.shape[-3:]]
        if all(len(lengths) == 1 for lengths in last):
            return ~details  # nothing was split
        z, y, x = (lengths[-1] for lengths in last)
        details[:z, :y, :x] = False
        return details


def _each_level(v: Tensor, levels: int, moments: int, *, inverse: bool) -> Tensor:
    if v.is_complex():
        parts = torch.view_as_real(v).movedim(-1, 0)
        real, imaginary = _each_level(parts.contiguous(), levels, moments, inverse=inverse)
        return torch.complex(real, imaginary)
    check_volume("wavelet", v)
    low = torch.tensor(daubechies(moments), dtype=torch.float64)
    high = low.flip(0) * torch.tensor([(-1.0) ** j for j in range(len(low))], dtype=torch.float64)
    filters = torch.stack((low, high))[:, None].to(v)
    steps = [list(pairwise(split_lengths(n, levels, moments))) for n in v.shape[-3:]]
    deepest = max(len(s) for s in steps)
    c = v.clone()
    for level in range(deepest)[:: -1 if inverse else 1]:
        # what this level works on: the approximation of the last, along axes that are split no further all of it
        size = [
            s[level][0] if level < len(s) else (s[-1][1] if s else n) for s, n in zip(steps, v.shape[-3:], strict=True)
        ]
        block = c[..., : size[0], : size[1], : size[2]]
        for axis in (-3, -2, -1):
            if level < len(steps[axis]):
                block = _merge(block, axis, filters) if inverse else _split(block, axis, filters)
        c[..., : size[0], : size[1], : size[2]] = block
    return c


def _split(v: Tensor, axis: int, filters: Tensor) -> Tensor:
    """Approximation, then detail, along one axis."""
    rows = v.movedim(axis, -1)
    n = rows.shape[-1] // 2 * 2
    flat = rows[..., :n].reshape(-1, 1, n)
    wrapped = torch.cat((flat, flat[..., : filters.shape[-1] - 2]), dim=-1)
    both = torch.nn.functional.conv1d(wrapped, filters, stride=2).reshape(*rows.shape[:-1], 2, n // 2)
    return torch.cat((both[..., 0, :], rows[..., n:], both[..., 1, :]), dim=-1).movedim(-1, axis)


def _merge(c: Tensor, axis: int, filters: Tensor) -> Tensor:
    """Adjoint of `_split`, which is its inverse."""
    rows = c.movedim(axis, -1)
    length = rows.shape[-1]
    half = length // 2
    odd = length - 2 * half
    both = torch.stack((rows[..., :half], rows[..., half + odd :]), dim=-2).reshape(-1, 2, half)
    spread = torch.nn.functional.conv_transpose1d(both, filters, stride=2)
    n = 2 * half
    over = spread.shape[-1] - n
    v = spread[..., :n].clone()
    v[..., :over] += spread[..., n:]
    v = v.reshape(*rows.shape[:-1], n)
    return torch.cat((v, rows[..., half : half + odd]), dim=-1).movedim(-1, axis)
