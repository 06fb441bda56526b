"""Noise models: what training adds to clean images, each sample a pure function of a seed and its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Pair = tuple[Tensor, Tensor, float]


class CleanImages(Protocol):
    """Clean images by number: a pure function of it."""

    def __getitem__(self, index: int) -> Tensor:
        """Float32 (nz, ny, nx) or (ny, nx), values in [0, 1]; or complex64, its magnitude in [0, 1]."""
        ...


NoiseModel = Callable[[Tensor, torch.Generator], tuple[Tensor, float]]


@dataclass(frozen=True)
class GaussianNoise:
    """White Gaussian noise, its level drawn per sample: real on magnitudes (NF 4.2, 6.2), complex on complex images.

    Real, because a prior on the magnitude of a complex image is a real denoising problem with variance alpha, not a
    Rician one (NF 4.6).

    Args:
        low, high: bounds of the standard deviation, drawn uniformly, in units of the image; 0 <= low <= high. Of
            complex images that of the real, and of the imaginary, part.
    """

    low: float = 0.0
    high: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"noise: expected 0 <= low <= high, got {self.low} and {self.high}")

    def __call__(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        sigma = self.low + (self.high - self.low) * float(torch.rand((), generator=generator))
        noise = torch.randn(clean.shape, generator=generator)
        if clean.is_complex():
            noise = torch.complex(noise, torch.randn(clean.shape, generator=generator))
        return clean + sigma * noise, sigma


class NoisyPairs(Dataset[Pair]):
    """(noisy, clean, sigma) by number, from clean images and a noise model.

    Args:
        clean: images by number.
        noise: called with a clean image and a `torch.Generator`.
        seed: of the noise.
        known_sigma: given when `clean` are themselves the noisy images one has: they are then handed out as they
            are, with this as their noise level.
    """

    def __init__(
        self,
        clean: CleanImages,
        noise: NoiseModel,
        *,
        seed: int,
        known_sigma: float | None = None,
    ) -> None:
        self.clean, self.noise, self.seed, self.known_sigma = clean, noise, seed, known_sigma

    def __getitem__(self, index: int) -> Pair:
        clean = self.clean[index]
        if self.known_sigma is not None:
            return clean, clean, self.known_sigma
        noisy, sigma = self.noise(clean, generator_of(self.seed, index))
        return noisy, clean, sigma


class MixedPairs(Dataset[Pair]):
    """Pairs of two kinds: with probability `fraction` of `second`, else of `first`; which, depends on the number."""

    def __init__(self, first: Dataset[Pair], second: Dataset[Pair], *, fraction: float, seed: int) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"pairs fraction: expected 0 to 1, got {fraction}")
        self.first, self.second, self.fraction, self.seed = first, second, fraction, seed

    def __getitem__(self, index: int) -> Pair:
        draw = float(torch.rand((), generator=generator_of(self.seed + 7919, index)))
        chosen: Any = self.second if draw < self.fraction else self.first
        pair: Pair = chosen[index]
        return pair


def generator_of(seed: int, index: int) -> torch.Generator:
    """The random stream of one sample, independent of that of its neighbours."""
    state = np.random.SeedSequence([seed, index]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
