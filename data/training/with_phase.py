"""Complex images out of magnitudes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data.training.sampling import TAG_PHASE, Floats, Samples, check_index, check_seed, generator

WAVES = 4
#: Periods of a wave over the image, at most.
PERIODS = 1.5


class WithPhase(Samples):
    """Item i is item i of the magnitudes times exp(jφ), φ some slow waves up to ±π and an offset, drawn anew.

    Args:
        magnitudes: float32 images, in [0, 1], by number.
        seed: >= 0.

    Returns:
        item: complex64 of the same shape.

    Raises:
        SimulationError: a negative seed.
    """

    def __init__(self, magnitudes: Samples, seed: int) -> None:
        self.magnitudes, self.seed = magnitudes, check_seed("WithPhase", seed)

    def __len__(self) -> int:
        return len(self.magnitudes)

    def __getitem__(self, index: int) -> Tensor:
        image = self.magnitudes[index]
        rng = generator(self.seed, TAG_PHASE, check_index("WithPhase", index))
        return torch.polar(image, torch.from_numpy(phase(tuple(image.shape), rng)))


def phase(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """φ, float32 of `shape`, radian."""
    axes = np.meshgrid(*(np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    total = np.zeros(shape, dtype=np.float32)
    for _ in range(WAVES):
        k = rng.uniform(-PERIODS, PERIODS, len(shape))
        angle = sum(np.float32(2 * np.pi * w) * a for w, a in zip(k, axes, strict=True))
        total += np.float32(rng.normal()) * np.cos(angle + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.asarray(total * (np.pi / np.abs(total).max()) + rng.uniform(0, 2 * np.pi), dtype=np.float32)
