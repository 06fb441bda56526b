"""Synthetic volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from data.phantoms import layered, plates, random_letters, random_points, random_solids, surfaces, sx, wires
from data.training.sampling import Floats, Synthetic
from imaging.operators import Grid

SX_CHUNK = 16  # SX volumes made together
CUBE_M = 0.3

BUILDERS: Mapping[str, Callable[..., Tensor]] = {
    "layered": layered,
    "letters": random_letters,
    "mesh": surfaces,
    "plates": plates,
    "points": random_points,
    "solids": random_solids,
    "wires": wires,
}
KINDS: Mapping[str, int] = {
    "empty": 0,
    "sx": 1,
    "mesh": 2,
    "letters": 3,
    "plates": 4,
    "wires": 5,
    "layered": 6,
    "points": 7,
    "solids": 8,
}


class SyntheticVolumes(Synthetic):
    """Random crops of synthetic volumes, magnitudes in [0, 1].

    Item `i` >= 0 depends on (settings, seed, split, i) alone: a kind drawn by its weight, one of `n_volumes` volumes of
    that kind, then

    - train: a crop in which an occupied voxel (over 0.1 of the peak) lies somewhere, with probability 0.15 a crop from
      anywhere; with `augment`, before it, y and x exchanged at random (square crops) or, for kinds without a depth axis
      (plates, wires, points, solids), any order of axes into which the crop fits; after it, each axis flipped at random
      and, with probability 0.3, the amplitude times U(0.5, 1).
    - validation: volume i modulo `n_volumes` of the drawn kind, an occupied voxel in the middle, no augmentation; the
      whole volume when `shape` is `grid_shape`.

    Where the crop is larger than the volume, zeros surround the volume.
    Volumes are made when first needed and kept as float16, 61 kB each for 49 x 25 x 25, in every worker.

    Args:
        mix: weight >= 0 of each kind: sx, mesh (random bodies' surfaces), letters (random text without
            `data.phantoms.HELD_OUT_CHARACTERS`), plates, wires, layered, points, solids, empty (zeros).
        shape: of a crop, nz, ny, nx.
        seed: >= 0.
        split: "train" or "validation"; their volumes differ.
        grid_shape: of a whole volume, nz, ny, nx; it spans a cube of 0.3 m, so voxels are as anisotropic as its shape.
        n_volumes: per kind; also `len`, which limits no index.
        augment: see above; no effect on validation.

    Returns:
        item: float32 of `shape`, in [0, 1], unitless; the peak of a crop may be below 1.

    Raises:
        SimulationError: unknown kind or split, a negative weight or seed, or a shape without three counts >= 1.
    """

    code = KINDS
    tied = frozenset({"empty", "sx", "mesh", "letters", "layered"})

    def __init__(
        self,
        mix: Mapping[str, float],
        shape: Sequence[int],
        *,
        seed: int,
        split: str = "train",
        grid_shape: Sequence[int] = (49, 25, 25),
        n_volumes: int = 4096,
        augment: bool = True,
    ) -> None:
        super().__init__(
            mix, shape, seed=seed, split=split, full_shape=grid_shape, n_targets=n_volumes, augment=augment
        )
        nz, ny, nx = self.full_shape
        half = CUBE_M / 2
        self.grid = Grid.spanning((0.5 - half, -half, -half), (0.5 + half, half, half), (nz, ny, nx))

    def make(self, kind: str, number: int) -> Mapping[int, Floats]:
        if kind == "empty":
            return {number: np.zeros(self.full_shape, dtype=np.float32)}
        if kind == "sx":
            chunk = number // SX_CHUNK
            volumes = sx(self.rng(kind, chunk), SX_CHUNK, self.grid, random_phase=False)
            return {chunk * SX_CHUNK + i: v.abs().numpy() for i, v in enumerate(volumes)}
        return {number: BUILDERS[kind](self.grid, self.rng(kind, number), random_phase=False).abs().numpy()}
