"""Noise as solvers make it: what a plug-and-play run hands its denoiser, beside the truth.

White Gaussian noise is what a denoiser is trained on, aliasing is what it meets. These pairs are for a second
training stage: the magnitude |s - d1| that iteration k denoises with the true magnitude, each divided by the mean of
its brightest thousandth, and the noise level the schedule gives.

    python -m pipelines.mismatch runs/pairs.h5 -d runs/radar-3d-start/radar-3d-start.safetensors
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.simulate import MimoRadarSimulation, circular_noise, mimo_radar, noise_std
from data.training import SyntheticVolumes
from denoisers.checkpoint import write_atomically
from denoisers.load import load_denoiser
from denoisers.noise import Pair, generator_of
from imaging.operators import Grid, NearFieldMimo
from imaging.priors import Denoiser
from imaging.priors.magnitude import Scale, running_scale
from imaging.solvers import csalsa_projected
from pipelines.config import ConfigError

#: Scenes of the runs; as the training sets mix them.
MIX = {"sx": 0.74, "mesh": 0.06, "letters": 0.06, "plates": 0.04, "wires": 0.03, "solids": 0.04, "points": 0.03}
#: Arrays and numbers of frequencies of the runs: those that alias more come more often.
SCANS: tuple[Mapping[str, Any], ...] = (
    {"n_frequencies": 5},
    {"n_frequencies": 5},
    {"n_frequencies": 7},
    {"n_frequencies": 10},
    {"n_frequencies": 10},
    {"n_frequencies": 14},
    {"n_frequencies": 20},
    {"n_frequencies": 20},
    {"n_frequencies": 8, "array": "rectangular_mimo", "array_parameters": {"n_tx": 8, "n_rx": 8}},
)
#: Finer voxels and rectangular arrays, with more of the thin targets.
FINE_MIX = {"sx": 0.4, "mesh": 0.2, "letters": 0.2, "plates": 0.08, "wires": 0.04, "solids": 0.08}
FINE_SCANS: tuple[Mapping[str, Any], ...] = (
    {"n_frequencies": 12, "array": "rectangular_mimo", "array_parameters": {"n_tx": 12, "n_rx": 12}},
    {"n_frequencies": 8, "array": "rectangular_mimo", "array_parameters": {"n_tx": 14, "n_rx": 14}},
    {"n_frequencies": 15},
)
#: What method pnp is compared on, with its own schedule and scale.
DEFAULT_SCANS: tuple[Mapping[str, Any], ...] = (
    {"n_frequencies": 5},
    {"n_frequencies": 8},
    {"n_frequencies": 10},
    {"n_frequencies": 14},
    {"n_frequencies": 20},
    {"n_frequencies": 28},
    {"n_frequencies": 40},
    {"n_frequencies": 12, "array": "rectangular_mimo", "array_parameters": {"n_tx": 8, "n_rx": 8}},
)
SETS = {
    "coarse": (SCANS, MIX, (49, 25, 25)),
    "fine": (FINE_SCANS, FINE_MIX, (61, 41, 41)),
    "default": (DEFAULT_SCANS, MIX, (49, 25, 25)),
}
#: What is stored of a volume: all of the coarse ones, a part around the target of the fine ones.
STORED = (49, 25, 25)
N_ITERATIONS, N_FALLING = 14, 10
#: The runs of "default": first and last alpha about those of method pnp, which stops after eight iterations.
DEFAULT_ITERATIONS, DEFAULT_FIRST, DEFAULT_LAST = 10, (5e-3, 2e-2), (1.5e-3, 1e-2)


def collect(denoiser: Denoiser, scans: str, *, n_per_scan: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Run plug-and-play on simulated scans and hand out what its denoiser was given.

    Args:
        denoiser: of the runs.
        scans: a key of `SETS`.
        n_per_scan: scenes per scan; SNR ~ U(0, 35) dB, alpha falling from 0.005..0.04
            to 0.0001..0.002; with "default" about the defaults of method `pnp`.
        seed: of scenes, noise and schedules.

    Yields:
        (noisy (n, nz, ny, nx), clean, sigma (n,)) of one iteration of one scan: |s - d1| and the true magnitude, each
        divided by its own bright scale, and the noise level of the schedule.
    """
    settings, mix, shape = SETS[scans]
    grid = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), shape)
    scenes = SyntheticVolumes(mix, shape, seed=seed, split="train", grid_shape=shape, augment=False)
    for number, scan in enumerate(settings):
        rng = np.random.default_rng([seed, number])
        base = mimo_radar(MimoRadarSimulation(**scan, snr_db=None, seed=0))
        A = NearFieldMimo(
            torch.as_tensor(base.geometry["tx_positions"]),
            torch.as_tensor(base.geometry["rx_positions"]),
            torch.as_tensor(base.scale("frequency")),
            grid,
        )
        clean = torch.stack([scenes[number * n_per_scan + i] for i in range(n_per_scan)])
        clean = clean / running_scale(clean, "bright")
        phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, tuple(clean.shape))).to(torch.float32)
        y, epsilon = [], []
        for signal in A(torch.polar(clean, phase)):
            level = noise_std(signal.numpy(), float(rng.uniform(0, 35)))
            y.append(signal + level * torch.from_numpy(circular_noise(rng, tuple(signal.shape))).to(signal.dtype))
            epsilon.append(level * signal.numel() ** 0.5)
        data = torch.stack(y)
        alphas, n_iterations, scale = _schedule(rng, scans)
        prior = _Recorder(denoiser, scale)
        states = csalsa_projected(A, data, prior, epsilon=torch.tensor(epsilon), alpha=alphas)
        for state in itertools.islice(states, n_iterations):
            assert state.sigma is not None
            parts = [_part(v, clean) for v in (prior.seen, clean)]
            yield parts[0], parts[1], torch.full((len(clean),), state.sigma)


def _schedule(rng: np.random.Generator, scans: str) -> tuple[list[float], int, Scale]:
    """alpha by iteration, its last value going on; the number of iterations; what the magnitude is divided by."""
    if scans == "default":
        first, last = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (DEFAULT_FIRST, DEFAULT_LAST))
        return np.geomspace(first, min(first, last), DEFAULT_ITERATIONS - 2).tolist(), DEFAULT_ITERATIONS, "peak"
    first = 10 ** rng.uniform(np.log10(5e-3), np.log10(4e-2))
    return np.geomspace(first, 10 ** rng.uniform(-4, -2.7), N_FALLING).tolist(), N_ITERATIONS, "bright"


def _part(v: Tensor, clean: Tensor) -> Tensor:
    """Of each volume the part of shape `STORED` around the middle of the bright voxels of `clean`."""
    found = []
    for volume, truth in zip(v, clean, strict=True):
        middle = torch.nonzero(truth > 0.5 * truth.amax()).double().mean(0)
        low = [
            max(0, min(n - s, round(float(m)) - s // 2)) for n, s, m in zip(v.shape[1:], STORED, middle, strict=True)
        ]
        found.append(volume[tuple(slice(a, a + s) for a, s in zip(low, STORED, strict=True))])
    return torch.stack(found)


class _Recorder:
    """`Magnitude(denoiser, relative=scale)` that keeps what the denoiser was given."""

    def __init__(self, denoiser: Denoiser, relative: Scale) -> None:
        self.denoiser, self.relative = denoiser, relative
        self.seen = self.scale = torch.empty(0)

    def prox(self, v: Tensor, step: float) -> Tensor:
        size = v.abs()
        self.scale = running_scale(size, self.relative)
        self.seen = size / self.scale
        m = self.denoiser(self.seen, step**0.5).clamp_min(0) * self.scale
        return v * (m / size.clamp_min(torch.finfo(size.dtype).tiny))

    def noise_level(self, step: float) -> float:
        return step**0.5


class MismatchPairs(Dataset[Pair]):
    """(iterate, truth, sigma) by number, crops of `shape`.

    Args:
        paths: HDF5 with /noisy and /clean float16 (n, nz, ny, nx) and /sigma float32 (n,).
        shape: of the crops.
        seed: which crop of which pair a number is.

    Raises:
        ConfigError: no such file, or other contents.
    """

    def __init__(self, paths: Sequence[Path], shape: tuple[int, ...], *, seed: int) -> None:
        import h5py

        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        shapes: list[torch.Size] = []
        for path in paths:
            try:
                with h5py.File(path) as file:
                    noisy, clean, sigma = (torch.from_numpy(file[name][...]) for name in ("noisy", "clean", "sigma"))
            except (OSError, KeyError) as error:
                raise ConfigError(
                    f"{path}: expected /noisy, /clean and /sigma as 'python -m pipelines.mismatch' writes them: {error}"
                ) from error
            if noisy.ndim != 4 or any(n < s for n, s in zip(noisy.shape[1:], shape, strict=True)):
                raise ConfigError(f"{path}: expected volumes of at least {shape}, found {tuple(noisy.shape[1:])}")
            shapes.append(noisy.shape[1:])
            if clean.shape != noisy.shape or sigma.shape != noisy.shape[:1] or noisy.shape[1:] != shapes[0]:
                raise ConfigError(
                    f"{path}: expected /noisy and /clean (n, {', '.join(map(str, shapes[0]))}) and /sigma (n,), found "
                    f"{tuple(noisy.shape)}, {tuple(clean.shape)} and {tuple(sigma.shape)}"
                )
            parts.append((noisy, clean, sigma))
        self.noisy, self.clean, self.sigma = (torch.cat(column) for column in zip(*parts, strict=True))
        self.shape, self.seed = shape, seed

    def __len__(self) -> int:
        return len(self.noisy)

    def __getitem__(self, index: int) -> Pair:
        g = generator_of(self.seed + 31, index)
        i = int(torch.randint(len(self.noisy), (), generator=g))
        noisy, clean = self.noisy[i].float(), self.clean[i].float()
        clean = clean * _amplitude(noisy, clean)
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


def _amplitude(noisy: Tensor, clean: Tensor) -> float:
    """The factor that fits the truth to the iterate, from 0.75 to 1.

    An early iterate is darker than the truth where it should be bright; a denoiser that restores more speeds the run
    up. At convergence it must leave the amplitude alone, or it would work against the data for ever.
    """
    energy = float(clean.square().sum())
    return min(1.0, max(0.75, float((noisy * clean).sum()) / energy)) if energy > 0 else 1.0


def main(arguments: list[str] | None = None) -> None:
    """Write the pairs of many runs to one file."""
    import h5py

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("-d", "--denoiser", required=True, help="of the runs, as after -d of reconstruct")
    parser.add_argument("--scans", choices=list(SETS), default="coarse", help="voxels and arrays")
    parser.add_argument("--scenes", type=int, default=32, help="per scan")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    denoiser = load_denoiser(given.denoiser, precision="bfloat16")
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in collect(denoiser, given.scans, n_per_scan=given.scenes, seed=given.seed):
        parts.append((part[0].half(), part[1].half(), part[2]))
        error = float((part[0] - part[1]).square().mean())
        print(f"scan iteration {len(parts)}: mean squared error {error:.2e}", flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        with h5py.File(part, "w") as file:
            for name, column in zip(("noisy", "clean", "sigma"), zip(*parts, strict=True), strict=True):
                file[name] = torch.cat(column).numpy()
            file.attrs["denoiser"] = denoiser.name
            file.attrs["denoiser_sha256"] = denoiser.sha256
            file.attrs["seed"] = given.seed

    write_atomically(given.output, write)


if __name__ == "__main__":
    main()
