"""A denoiser on overlapping patches of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.priors.protocols import Denoiser

#: Pixels that go through the denoiser at once at most.
AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Patches:
    """D_patch(v) = W⁻¹ Σ_i E_iᵀ D(E_i v), W = Σ_i E_iᵀ E_i: the mean of all patches that see a pixel.

    E_i cuts patch i out of a slice; the last one along an axis ends at its edge. Memory of D is that of a few patches,
    whatever the image's size, and D may be one that takes images of one size alone.

    Args:
        inner: called with patches as batch, (n, 1, size, size), and sigma; smaller along an axis that is shorter.
        size: side of the patches in pixels.
        stride: between their beginnings, 1 to size.

    Source: RP 3.4.
    """

    inner: Denoiser
    size: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise ValueError(
                f"Patches: expected a stride of 1 to size, which leaves no gaps, got {self.stride} and size {self.size}"
            )

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        """v: real (n, nz, ny, nx), every slice cut into patches."""
        if v.ndim != 4:
            raise ShapeError(f"Patches input: expected (n, nz, ny, nx), got {tuple(v.shape)}")
        slices = v.reshape(-1, 1, *v.shape[2:])
        tall, wide = (min(self.size, n) for n in v.shape[2:])
        total, count = torch.zeros_like(slices), torch.zeros_like(slices[0, 0])
        at_once = max(1, AT_ONCE // (tall * wide))
        for top in starts(v.shape[2], tall, self.stride):
            for left in starts(v.shape[3], wide, self.stride):
                rows, columns = slice(top, top + tall), slice(left, left + wide)
                for first in range(0, len(slices), at_once):
                    some = slice(first, first + at_once)
                    total[some, :, rows, columns] += self.inner(slices[some, :, rows, columns].contiguous(), sigma)
                count[rows, columns] += 1
        return (total / count).reshape(v.shape)


def starts(n: int, size: int, stride: int) -> list[int]:
    """Beginnings of patches that cover n pixels; the last one ends at n."""
    return [*range(0, n - size, stride), n - size]
