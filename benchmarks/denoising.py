"""Mean squared error and time of the denoisers: tables by noise level.

**Error.** White Gaussian noise is added to magnitudes with peak 1 on 49 x 25 x 25 voxels; every denoiser is told its
level, and its output is clamped at 0 as the wrappers do. Columns: the mean squared error over voxels and volumes at
ten levels, the middles of ten equal parts of [0, 0.2]; their mean, that over a level uniform in that range;
and -10 log10 of it ("dB"). The first row is the noisy input as it is. All denoisers see the same noise. Sets:

* `sx, seed 1` and `sx, seed 2`: the validation and the test volumes of the SX set (NF 6.3). Neither is trained on:
  `data.training` seeds its volumes with four numbers (seed, split, 100 + kind, chunk) and numpy gives an independent
  stream for every such list. `default_rng(1)` is the list (1, 0, 0, 0), whose third number is never 100 or more.
  Defaults of reconstruction methods were chosen on seed 1, nothing on seed 2.
* `meshes`: surfaces of six scanned objects, turned at random, 0.12 to 0.27 m large, voxels 0 or 1. Training saw
  surfaces of bodies that are drawn at random, no mesh file. Skipped where $BACKCAST_SHARED (../shared) has none.
* `letters`: text of `data.phantoms.HELD_OUT_CHARACTERS`, which no training target shows.

BM4D is a yardstick where the package `bm4d` is installed; its licence allows no other use, so that backcast does not
bring it. It gets the first `--bm4d-volumes` volumes alone; rows below it show the others on the same few.

**Time.** Milliseconds of a call, the best of several: float32 without and with channels innermost ("channels last",
what `NetworkDenoiser` uses), bfloat16, and the largest difference of bfloat16's output from float32's over the largest
output. `official network`: `UNet3d`, the architecture of NF 6.1 with random weights, a measure of time only.

    python benchmarks/denoising.py [--markdown FILE] [--part error|time] [--volumes N] [--threads N]
    python benchmarks/denoising.py --radar-weights runs/radar-3d/radar-3d.safetensors --radar-weights radar-3d-fast
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from near_field import best
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from data.phantoms import HELD_OUT_CHARACTERS, letters, mesh, sx
from denoisers.classical import CLASSICAL
from denoisers.errors import DenoiserError
from denoisers.network_denoiser import NetworkDenoiser
from denoisers.networks import UNet3d, gated_unet, unet3d
from denoisers.weight_files import load_weights
from imaging.operators import Grid
from imaging.priors import Denoiser

CUBE = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), (49, 25, 25))
SHARED = Path(os.environ.get("BACKCAST_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
MESHES = ("bunny00", "armadillo", "ChineseDragon-10kv", "lion-head", "elephant", "femur")
RADAR_WEIGHTS = ("radar-3d", "radar-3d-fast")
LEVELS = [0.2 * (i + 0.5) / 10 for i in range(10)]
AT_ONCE = 8
SIZES: dict[str, tuple[int, ...]] = {
    "49 x 25 x 25": (1, 49, 25, 25),
    "64 x 64 x 64": (1, 64, 64, 64),
    "8 of 49 x 25 x 25": (8, 49, 25, 25),
}


# -- volumes ------------------------------------------------------------------------------------------------


def sx_volumes(seed: int, n: int) -> Tensor:
    """The first `n` SX magnitudes of a seed, float32 (n, nz, ny, nx)."""
    return sx(np.random.default_rng(seed), n, CUBE, random_phase=False).abs()


def mesh_volumes(n: int, grid: Grid = CUBE) -> Tensor:
    """Surfaces of the scanned objects in turn, turned and scaled at random."""
    file = SHARED / "data" / "volumes" / "meshes.npz"
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found; set BACKCAST_SHARED to the folder above data/")
    rng = np.random.default_rng(11)
    volumes = []
    for i in range(n):
        x, y, z = Rotation.random(rng=rng).as_euler("xyz", degrees=True)
        size = float(rng.uniform(0.12, 0.27))
        room = max(0.0, 0.15 - size * 3**0.5 / 2)
        shift_x, shift_y, shift_z = rng.uniform(-room, room, 3)
        volumes.append(
            mesh(
                grid,
                file,
                name=MESHES[i % len(MESHES)],
                size_m=size,
                rotation_deg=(float(x), float(y), float(z)),
                center_m=(float(shift_x), float(shift_y), float(shift_z) + 0.5),
            ).abs()
        )
    return torch.stack(volumes)


def letter_volumes(n: int, grid: Grid = CUBE) -> Tensor:
    """One to four held-out characters on a plane somewhere across z, one or three layers thick."""
    rng = np.random.default_rng(12)
    volumes = []
    for _ in range(n):
        text = "".join(rng.choice(sorted(HELD_OUT_CHARACTERS), int(rng.integers(1, 5))))
        thickness = float(rng.choice([0.0, 2 * grid.spacing_m[0]]))
        volumes.append(letters(grid, text, z_m=float(rng.uniform(0.40, 0.60)), thickness_m=thickness).abs())
    return torch.stack(volumes)


SETS: dict[str, Callable[[int], Tensor]] = {
    "sx, seed 1": lambda n: sx_volumes(1, n),
    "sx, seed 2": lambda n: sx_volumes(2, n),
    "meshes": mesh_volumes,
    "letters": letter_volumes,
}


# -- denoisers ----------------------------------------------------------------------------------------------


def networks(names: list[str]) -> dict[str, nn.Module]:
    """The networks that there are, by name; says why others are left out."""
    found = {}
    for name in names:
        try:
            network, card = load_weights(name)
        except DenoiserError as error:
            print(f"{name} left out: {error}", flush=True)
        else:
            found[card.name if card.name not in found else name] = network
    return found


def bm4d() -> Denoiser:
    """BM4D, Maggioni et al., IEEE TIP 22:119 (2013), from the package of its authors.

    Raises:
        ImportError: it is not installed.
    """
    from bm4d import bm4d as function

    def denoise(v: Tensor, sigma: float) -> Tensor:
        return torch.stack([torch.as_tensor(function(x.double().numpy(), sigma)).reshape(x.shape) for x in v]).to(v)

    return denoise


# -- tables -------------------------------------------------------------------------------------------------


def errors(volumes: Tensor, denoiser: Denoiser | None) -> list[float]:
    """Mean squared error at every level; of the noisy input when there is no denoiser."""
    result = []
    for i, sigma in enumerate(LEVELS):
        noise = torch.from_numpy(np.random.default_rng([21, i]).standard_normal(tuple(volumes.shape), dtype=np.float32))
        total = 0.0
        for clean, noisy in zip(volumes.split(AT_ONCE), (volumes + sigma * noise).split(AT_ONCE), strict=True):
            out = noisy if denoiser is None else denoiser(noisy, sigma).clamp_min(0)
            total += float((out - clean).double().square().sum())
        result.append(total / volumes.numel())
    return result


def error_row(name: str, values: list[float]) -> str:
    mean = sum(values) / len(values)
    numbers = " | ".join(f"{v:.2e}" for v in [*values, mean])
    return f"| {name} | {numbers} | {-10 * np.log10(mean):.2f} |"


def error_tables(given: argparse.Namespace) -> Iterator[str]:
    """Lines of the error tables as they get ready."""
    ways: dict[str, Denoiser] = {name: NetworkDenoiser(net) for name, net in networks(given.radar_weights).items()}
    ways |= {name: make() for name, make in CLASSICAL.items()}
    for title, make in SETS.items():
        try:
            volumes = make(given.volumes)
        except FileNotFoundError as error:
            yield f"{title}: skipped, {error}\n"
            continue
        yield f"Mean squared error, {title}, {len(volumes)} volumes\n"
        yield "| denoiser | " + " | ".join(f"{s:.2f}" for s in LEVELS) + " | mean | dB |"
        yield "|---" * (len(LEVELS) + 3) + "|"
        yield error_row("noisy input", errors(volumes, None))
        for name, denoiser in ways.items():
            yield error_row(name, errors(volumes, denoiser))
        few = volumes[: given.bm4d_volumes]
        if len(few):
            try:
                values = errors(few, bm4d())
            except ImportError as error:
                yield f"\nBM4D left out: {error}; pip install bm4d, for non-commercial use only"
            else:
                yield error_row(f"BM4D, first {len(few)}", values)
                for name in ways if len(few) < len(volumes) else ():
                    yield error_row(f"{name}, first {len(few)}", errors(few, ways[name]))
        yield ""


@contextlib.contextmanager
def as_torch_lays_it_out(network: nn.Module) -> Iterator[None]:
    """The network without channels innermost: neither its weights nor what flows through it."""
    network.to(memory_format=torch.contiguous_format)
    with contextlib.ExitStack() as stack:
        for module in (gated_unet, unet3d):
            stack.enter_context(mock.patch.object(module, "channels_last", lambda x: x.contiguous()))
        yield
    network.to(memory_format=torch.channels_last_3d)


def time_table(given: argparse.Namespace) -> Iterator[str]:
    """Lines of the time table as they get ready."""
    torch.manual_seed(0)
    nets: dict[str, nn.Module] = networks(given.radar_weights) | {"official network": UNet3d()}
    yield f"Milliseconds of a call, {torch.get_num_threads()} threads\n"
    yield "| network | volumes | float32 | float32, channels last | bfloat16 | bfloat16, largest error |"
    yield "|---|---|---|---|---|---|"
    for name, network in nets.items():
        wide = NetworkDenoiser(network, nonnegative=False)  # random weights may give negative images alone
        narrow = NetworkDenoiser(network, precision="bfloat16", nonnegative=False)
        for size, shape in SIZES.items():
            rng = np.random.default_rng(31)
            clean = sx_volumes(1, shape[0])
            v = torch.zeros(shape)
            v[:, : clean.shape[1], : clean.shape[2], : clean.shape[3]] = clean
            v = (v + 0.1 * torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))).abs()
            with as_torch_lays_it_out(network):
                plain_ms = best(lambda wide=wide, v=v: wide(v, 0.1), repeats=given.repeats)[0]
            innermost_ms, half_ms = best(
                lambda wide=wide, v=v: wide(v, 0.1), lambda narrow=narrow, v=v: narrow(v, 0.1), repeats=given.repeats
            )
            exact = wide(v, 0.1)
            error = float((narrow(v, 0.1) - exact).abs().max() / exact.abs().max().clamp_min(1e-30))
            yield f"| {name} | {size} | {plain_ms:.1f} | {innermost_ms:.1f} | {half_ms:.1f} | {error:.1e} |"
    yield ""


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {"error": error_tables, "time": time_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one of the two; both without")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--radar-weights", action="append", help="name or .safetensors file; repeatable")
    parser.add_argument("--volumes", type=int, default=16, help="of each set")
    parser.add_argument("--bm4d-volumes", type=int, default=2, help="0 leaves BM4D out")
    parser.add_argument("--repeats", type=int, default=7, help="of timed calls")
    parser.add_argument("--threads", type=int)
    run_parts(parser, PARTS)


def run_parts(
    parser: argparse.ArgumentParser, parts: Mapping[str, Callable[[argparse.Namespace], Iterator[str]]]
) -> None:
    """Print the lines of the parts asked for, all without ``--part``, as they come; write them to ``--markdown``."""
    given = parser.parse_args()
    given.radar_weights = given.radar_weights or list(RADAR_WEIGHTS)
    if given.threads:
        torch.set_num_threads(given.threads)
    lines = []
    for part in [given.part] if given.part else parts:
        for line in parts[part](given):
            lines.append(line)
            print(line, flush=True)
    if given.markdown:
        given.markdown.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
