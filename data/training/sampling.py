"""What the datasets share: seeds, mixes, crops and augmentation."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.phantoms.errors import SimulationError, unknown_name

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

SPLITS: Mapping[str, int] = {"train": 0, "validation": 1}
TAG_SAMPLE, TAG_MIXTURE, TAG_FILES, TAG_PHASE, TAG_VOLUME = 0, 1, 2, 3, 100  # a kind's volumes: TAG_VOLUME + its code

OCCUPIED = 0.1  # of the peak
UNIFORM_PROBABILITY = 0.15  # a crop from anywhere
SCALE_PROBABILITY = 0.3
SCALE = (0.5, 1.0)


class Samples(Dataset[Tensor]):
    """A dataset whose item `i` is a pure function of its settings and i, for any i >= 0; `len` is nominal."""

    @abstractmethod
    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} defines no __len__")

    @abstractmethod
    def __getitem__(self, index: int) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__")

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))  # by itself iteration would not end: no index is too large


class Synthetic(Samples):
    """Random crops of a finite series of synthetic targets; see `SyntheticVolumes` and `SyntheticImages`."""

    code: Mapping[str, int]  # of each kind, never to change: seeds hang on it
    tied: frozenset[str]  # kinds whose axes are not interchangeable

    def __init__(
        self,
        mix: Mapping[str, float],
        shape: Sequence[int],
        *,
        seed: int,
        split: str,
        full_shape: Sequence[int],
        n_targets: int,
        augment: bool,
    ) -> None:
        name, rank = type(self).__name__, len(tuple(full_shape))
        self.kinds, self.weights = check_mix(name, mix, self.code)
        self.shape = check_shape(f"{name} shape", shape, rank)
        self.full_shape = check_shape(f"{name} full shape", full_shape, rank)
        self.seed, self.split = check_seed(name, seed), check_split(name, split)
        if n_targets < 1:
            raise SimulationError(f"{name}: expected at least one target per kind, got {n_targets}")
        self.n_targets, self.augment = int(n_targets), bool(augment)
        self._memo: dict[tuple[str, int], Halves] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memo": {}}  # a spawned worker fills its own

    def __len__(self) -> int:
        return self.n_targets

    def __getitem__(self, index: int) -> Tensor:
        rng = generator(self.seed, SPLITS[self.split], TAG_SAMPLE, check_index(type(self).__name__, index))
        kind = self.kinds[int(rng.choice(len(self.kinds), p=self.weights))]
        training = self.split == "train"
        number = int(rng.integers(self.n_targets)) if training else index % self.n_targets
        target = self.target(kind, number)
        if training and self.augment:
            target = permute(target, self.shape, rng, free=kind not in self.tied)
        crop = crop_occupied(target, self.shape, rng, centred=not training)
        if training and self.augment:
            crop = flip_and_scale(crop, rng)
        return as_tensor(crop)

    def target(self, kind: str, number: int) -> Halves:
        """Target `number` of `kind`, whole: float16 of `full_shape`, in [0, 1]; made when first asked for."""
        key = (kind, number)
        if key not in self._memo:
            for i, made in self.make(kind, number).items():
                self._memo[kind, i] = np.clip(made, 0.0, 1.0).astype(np.float16)
        return self._memo[key]

    def rng(self, kind: str, number: int) -> np.random.Generator:
        """The randomness of target `number` of `kind`."""
        return generator(self.seed, SPLITS[self.split], TAG_VOLUME + self.code[kind], number)

    @abstractmethod
    def make(self, kind: str, number: int) -> Mapping[int, Floats]:
        """Generate target `number`, and others that come with it: by number, in [0, 1], `full_shape`."""
        raise NotImplementedError(f"{type(self).__name__} defines no make")


def generator(*key: int) -> np.random.Generator:
    """An independent stream for each key of non-negative integers."""
    return np.random.default_rng(list(key))


def as_tensor(crop: NDArray[Any]) -> Tensor:
    """A copy of its own: float32, contiguous."""
    return torch.from_numpy(np.array(crop, dtype=np.float32, order="C"))


def permute(target: NDArray[Any], shape: Sequence[int], rng: np.random.Generator, *, free: bool) -> NDArray[Any]:
    """Exchange axes at random: any when `free`, else the last two where the crop is square in them.

    Where a crop of `shape` fits into the target, only orders count into which it still fits.
    """
    rank = target.ndim
    identity = tuple(range(rank))
    swapped = (*identity[:-2], rank - 1, rank - 2)
    orders = list(itertools.permutations(identity)) if free else [identity]
    if not free and shape[-1] == shape[-2]:
        orders.append(swapped)
    fits = [o for o in orders if all(target.shape[a] >= n for a, n in zip(o, shape, strict=True))]
    orders = fits or orders
    return target.transpose(orders[int(rng.integers(len(orders)))])


def crop_occupied(
    target: NDArray[Any], shape: Sequence[int], rng: np.random.Generator, *, centred: bool = False
) -> NDArray[Any]:
    """Cut out `shape` so that an occupied voxel (over 0.1 of the peak) lies in it, at a place drawn uniformly.

    With probability 0.15, or where nothing is occupied, the crop comes from anywhere. The crop stays within the
    target; along an axis where it is larger than the target, the target lies somewhere in it, zeros around.

    Args:
        target: real, >= 0, any rank, unitless.
        shape: of the crop.
        rng: draws the voxel and its place.
        centred: put that voxel in the middle instead, as far as the border allows; no crops from anywhere.
    """
    anywhere = rng.random() < UNIFORM_PROBABILITY and not centred
    if not anywhere and all(s >= n for s, n in zip(shape, target.shape, strict=True)):
        anywhere = not centred  # nothing to choose
    occupied = np.empty(0, dtype=np.int64) if anywhere else np.flatnonzero(target > OCCUPIED * target.max())
    draw, flat = rng.random(), -1
    if len(occupied):
        flat = int(occupied[int(draw * len(occupied))])
    voxel = np.unravel_index(flat, target.shape) if flat >= 0 else None
    start = []
    for axis, (s, n) in enumerate(zip(shape, target.shape, strict=True)):
        low, high = min(0, n - s), max(0, n - s)
        place = rng.random()
        if centred:
            middle = (n - s) // 2 if voxel is None or s >= n else int(voxel[axis]) - s // 2
            start.append(min(max(middle, low), high))
            continue
        if voxel is not None and s < n:
            low, high = max(low, int(voxel[axis]) - s + 1), min(high, int(voxel[axis]))
        start.append(low + int(place * (high - low + 1)))
    return window(target, start, shape)


def window(target: NDArray[Any], start: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
    """target[start : start + shape], zeros where that lies outside."""
    inside = tuple(slice(max(a, 0), max(min(a + s, n), 0)) for a, s, n in zip(start, shape, target.shape, strict=True))
    cut = target[inside]
    if cut.shape == tuple(shape):
        return cut
    padded = np.zeros(shape, dtype=target.dtype)
    padded[tuple(slice(max(-a, 0), max(-a, 0) + n) for a, n in zip(start, cut.shape, strict=True))] = cut
    return padded


def flip_and_scale(crop: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Flip each axis with probability 1/2; with probability 0.3 multiply by U(0.5, 1)."""
    flips = rng.random(crop.ndim) < 0.5
    crop = crop[tuple(slice(None, None, -1) if f else slice(None) for f in flips)]
    scaled = rng.random() < SCALE_PROBABILITY
    factor = rng.uniform(*SCALE)
    return crop.astype(np.float32) * np.float32(factor) if scaled else crop


def check_mix(name: str, mix: Mapping[str, float], known: Mapping[str, int]) -> tuple[list[str], Floats]:
    """Kinds with a weight above 0, sorted, and their probabilities.

    Raises:
        SimulationError: an unknown kind, a weight that is negative or no number, or nothing in the mix.
    """
    for kind, weight in mix.items():
        if kind not in known:
            raise unknown_name(f"{name} mix, kind", kind, known)
        if not (math.isfinite(weight) and weight >= 0):
            raise SimulationError(f"{name} mix, {kind}: expected a weight >= 0, got {weight}")
    kinds = sorted(kind for kind, weight in mix.items() if weight > 0)
    if not kinds:
        raise SimulationError(f"{name} mix: expected at least one kind of {', '.join(sorted(known))}, got none")
    weights = np.array([mix[kind] for kind in kinds], dtype=np.float64)
    return kinds, weights / weights.sum()


def check_shape(what: str, shape: Sequence[int], rank: int) -> tuple[int, ...]:
    """`shape` as a tuple of `rank` counts >= 1, or a SimulationError."""
    axes = ("nz, ny, nx", "ny, nx")[3 - rank]
    if len(shape) != rank or any(int(n) != n or n < 1 for n in shape):
        raise SimulationError(f"{what}: expected {rank} counts >= 1 ({axes}), got {tuple(shape)}")
    return tuple(int(n) for n in shape)


def check_seed(name: str, seed: int) -> int:
    """`seed`, or a SimulationError when it is negative."""
    if seed < 0:
        raise SimulationError(f"{name} seed: expected an integer >= 0, got {seed}")
    return int(seed)


def check_split(name: str, split: str) -> str:
    """`split`, or a SimulationError that lists the known ones."""
    if split not in SPLITS:
        raise unknown_name(f"{name} split", split, SPLITS)
    return split


def check_index(name: str, index: int) -> int:
    """`index`, or an IndexError when it is negative."""
    if index < 0:
        raise IndexError(f"{name}: expected an index >= 0, got {index}")
    return int(index)
