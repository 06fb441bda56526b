"""Volumes from files as training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data.errors import DataFormatError
from data.phantoms.errors import SimulationError
from data.training.read_volumes import find_files, read_volumes
from data.training.sampling import (
    SPLITS,
    TAG_FILES,
    Halves,
    Samples,
    as_tensor,
    check_index,
    check_seed,
    check_shape,
    check_split,
    flip_and_scale,
    generator,
    permute,
    window,
)

WHOLE_VOLUMES = 10  # from so many on, the splits share no volume
PERCENTILES = (0.1, 99.9)


class VolumeFiles(Samples):
    """Random crops of volumes, or of their slices, read from files into memory as float16.

    Files: Backcast reconstructions (/volume) and simulated measurements (/ground_truth/volume); other HDF5 with
    `volumes` (n, nz, ny, nx) or `volume`, or the dataset `key`; .npy; .npz with one array, or `key`; NIfTI (.nii,
    .nii.gz; needs nibabel), whose x, y, z become z, y, x. A fourth axis in front counts volumes; magnitudes are taken
    of complex values.

    Each volume is scaled to [0, 1] and clipped: from `value_range`, when given; else from its percentiles 0.1 and 99.9,
    when it has negative values (CT in HU); else from 0 to its maximum. `facts` says what was done to which.

    Validation takes the last `validation_fraction` of the volumes (order of `paths`, folders sorted) if there are ten
    or more, else the last fraction of every volume's slices along z; training crops never touch those. Item i >= 0
    depends on (files, settings, seed, split, i) alone: a volume, a slice if `slices`, and a crop, each drawn uniformly;
    zeros surround a volume that is smaller than the crop.

    Args:
        paths: a file, a folder, or several of them.
        shape: of a crop: nz, ny, nx, or ny, nx with `slices`.
        key: dataset of HDF5, array of .npz.
        seed: >= 0.
        split: "train" or "validation".
        validation_fraction: 0 < f < 1.
        augment: y and x exchanged at random (square crops), random flips, and with probability 0.3 the amplitude times
            U(0.5, 1); training only.
        slices: cut 2-D images perpendicular to axis 0, 1 or 2 (z, y, x), the other axes in order; None: volumes.
        value_range: (low, high) that become 0 and 1, in the files' units.

    Returns:
        item: float32 of `shape`, in [0, 1], unitless.

    Raises:
        DataFormatError: a file that cannot be read as volumes: which, key, expected, found, what to do.
        SimulationError: a setting out of its range, or a split without slices.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        shape: Sequence[int],
        *,
        key: str | None = None,
        seed: int,
        split: str = "train",
        validation_fraction: float = 0.1,
        augment: bool = True,
        slices: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        if slices not in (None, 0, 1, 2):
            raise SimulationError(f"VolumeFiles slices: expected 0, 1, 2 (z, y, x) or None, got {slices}")
        if not 0 < validation_fraction < 1:
            raise SimulationError(
                f"VolumeFiles validation_fraction: expected more than 0 and less than 1, got {validation_fraction}"
            )
        if value_range is not None and not value_range[0] < value_range[1]:
            raise SimulationError(f"VolumeFiles value_range: expected low < high, got {value_range}")
        self.shape = check_shape("VolumeFiles shape", shape, 3 if slices is None else 2)
        self.seed, self.split = check_seed("VolumeFiles", seed), check_split("VolumeFiles", split)
        self.key, self.slices, self.augment = key, slices, bool(augment)
        self.validation_fraction, self.value_range = float(validation_fraction), value_range
        self.files = find_files(paths if isinstance(paths, str | Path) else list(paths))
        self._read()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_volumes", "facts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._read()  # a spawned worker reads the files instead of being sent their content

    def __len__(self) -> int:
        """Slices of this split along `slices` (along z for volumes); nominal, as any index >= 0 has an item."""
        return sum(v.shape[self.slices or 0] for v in self._volumes)

    def __getitem__(self, index: int) -> Tensor:
        rng = generator(self.seed, SPLITS[self.split], TAG_FILES, check_index("VolumeFiles", index))
        target: np.ndarray = self._volumes[int(rng.integers(len(self._volumes)))]
        if self.slices is not None:
            target = target.take(int(rng.integers(target.shape[self.slices])), axis=self.slices)
        augment = self.augment and self.split == "train"
        if augment:
            target = permute(target, self.shape, rng, free=False)
        rooms = [n - s for n, s in zip(target.shape, self.shape, strict=True)]
        crop = window(target, [int(rng.integers(min(0, r), max(0, r) + 1)) for r in rooms], self.shape)
        return as_tensor(flip_and_scale(crop, rng) if augment else crop)

    def _read(self) -> None:
        found: list[tuple[Halves, dict[str, Any]]] = []
        for path in self.files:
            where, volumes = read_volumes(path, self.key)
            for i, volume in enumerate(volumes):
                if self.slices is None and volume.shape[0] == 1 and self.shape[0] > 1:
                    raise DataFormatError(
                        f"{path}: {where or 'array'}: expected (nz, ny, nx) for crops of {self.shape}, found a single "
                        f"slice {volume.shape[1:]}; set slices = 0 and a shape (ny, nx)"
                    )
                scaled, scaling = _scaled(volume, self.value_range)
                found.append((scaled, {"file": str(path), "key": where, "number": i, "shape": volume.shape, **scaling}))
        whole = len(found) >= WHOLE_VOLUMES
        keep = [(0, v.shape[0]) for v, _ in found]
        if whole:
            parts = self._part(len(found), "volumes")
            found, keep = found[slice(*parts)], keep[slice(*parts)]
        else:
            keep = [self._part(v.shape[0], f"{f['file']}: slices along z") for v, f in found]
        self._volumes: list[Halves] = [
            np.ascontiguousarray(v[slice(*k)]) for (v, _), k in zip(found, keep, strict=True)
        ]
        self.facts: Mapping[str, Any] = {
            "split": self.split,
            "split_by": "volumes" if whole else "slices along z",
            "validation_fraction": self.validation_fraction,
            "volumes": [{**f, "z_slices": list(k)} for (_, f), k in zip(found, keep, strict=True)],
        }

    def _part(self, n: int, what: str) -> tuple[int, int]:
        """Which of n belong to this split: first, and one past the last."""
        cut = n - max(1, round(self.validation_fraction * n))
        if cut < 1:
            raise SimulationError(
                f"VolumeFiles, {what}: expected at least 2 to split into training and validation, found {n}; give "
                f"{WHOLE_VOLUMES} volumes or more, or a smaller validation_fraction"
            )
        return (0, cut) if self.split == "train" else (cut, n)


def _scaled(volume: np.ndarray, value_range: tuple[float, float] | None) -> tuple[Halves, dict[str, Any]]:
    """The volume in [0, 1], and how it got there."""
    if value_range is not None:
        (low, high), rule = value_range, "value_range"
    elif volume.min() < 0:
        (low, high), rule = np.percentile(volume, PERCENTILES), f"percentiles {PERCENTILES[0]} to {PERCENTILES[1]}"
    else:
        low, high, rule = 0.0, volume.max(), "0 to maximum"
    span = float(high) - float(low)
    scaled = (volume - float(low)) / (span if span > 0 else 1.0)
    facts = {"low": float(low), "high": float(high), "scaling": rule}
    return np.clip(scaled, 0.0, 1.0).astype(np.float16), facts
