"""Several datasets as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from data.phantoms.errors import SimulationError
from data.training.sampling import TAG_MIXTURE, Samples, check_index, check_seed, generator


class Mixture(Samples):
    """Item i is item i of one of the datasets, drawn by its weight; pure as they are.

    Args:
        parts: (weight > 0, dataset) pairs; the datasets give items of one shape for any index >= 0.
        seed: >= 0.

    Raises:
        SimulationError: no parts, a weight that is not positive, or a negative seed.
    """

    def __init__(self, parts: Sequence[tuple[float, Samples]], seed: int) -> None:
        if not parts:
            raise SimulationError("Mixture: expected at least one (weight, dataset), got none")
        for weight, dataset in parts:
            if not (math.isfinite(weight) and weight > 0):
                raise SimulationError(f"Mixture, {type(dataset).__name__}: expected a weight > 0, got {weight}")
        self.datasets = [dataset for _, dataset in parts]
        weights = np.array([weight for weight, _ in parts], dtype=np.float64)
        self.weights = weights / weights.sum()
        self.seed = check_seed("Mixture", seed)

    def __len__(self) -> int:
        """The parts' lengths added up; nominal."""
        return sum(len(dataset) for dataset in self.datasets)

    def __getitem__(self, index: int) -> Tensor:
        rng = generator(self.seed, TAG_MIXTURE, check_index("Mixture", index))
        return self.datasets[int(rng.choice(len(self.datasets), p=self.weights))][index]
