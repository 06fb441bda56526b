"""Noise as solvers make it: what a plug-and-play run hands its denoiser, beside the truth.

White Gaussian noise is what a denoiser is trained on, aliasing is what it meets. These pairs are for a second
training stage: the magnitude |s - d1| that iteration k denoises, divided by its peak, with the true magnitude in the
same unit and the noise level the schedule gives.

    python -m pipelines.mismatch OUT.h5 -d radar-3d --volumes 64
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from denoisers.noise import Pair, generator_of
from pipelines.config import ConfigError


class MismatchPairs(Dataset[Pair]):
    """(iterate, truth, sigma) by number, crops of `shape`.

    Args:
        path: HDF5 with /noisy and /clean float16 (n, nz, ny, nx) and /sigma float32 (n,).
        shape: of the crops.
        seed: which crop of which pair a number is.

    Raises:
        ConfigError: no such file, or other contents.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], *, seed: int) -> None:
        import h5py

        try:
            with h5py.File(path) as file:
                self.noisy, self.clean = (torch.from_numpy(file[name][...]) for name in ("noisy", "clean"))
                self.sigma = torch.from_numpy(file["sigma"][...])
        except (OSError, KeyError) as error:
            raise ConfigError(
                f"{path}: expected /noisy, /clean and /sigma as 'python -m pipelines.mismatch' writes them: {error}"
            ) from error
        if any(n < s for n, s in zip(self.noisy.shape[1:], shape, strict=True)):
            raise ConfigError(f"{path}: expected volumes of at least {shape}, found {tuple(self.noisy.shape[1:])}")
        self.shape, self.seed = shape, seed

    def __len__(self) -> int:
        return len(self.noisy)

    def __getitem__(self, index: int) -> Pair:
        g = generator_of(self.seed + 31, index)
        i = int(torch.randint(len(self.noisy), (), generator=g))
        noisy, clean = self.noisy[i].float(), self.clean[i].float()
        occupied = torch.nonzero(clean > 0.1)
        low = []
        for axis, n in enumerate(self.shape):
            room = noisy.shape[axis] - n
            shift = int(torch.randint(n, (), generator=g))
            about = int(occupied[int(torch.randint(len(occupied), (), generator=g)), axis]) if len(occupied) else 0
            low.append(max(0, min(room, about - shift)))
        cut = tuple(slice(a, a + n) for a, n in zip(low, self.shape, strict=True))
        flips = [axis for axis in range(3) if float(torch.rand((), generator=g)) < 0.5]
        pair: list[Tensor] = [v[cut].flip(flips) for v in (noisy, clean)]
        return pair[0], pair[1], float(self.sigma[i])
