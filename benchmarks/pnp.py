"""Plug-and-play against the published algorithm: image quality, targets unlike the training's, speed.

Method `pnp` runs with its defaults through `pipelines.reconstruct`. The published algorithm is `official_pnp`, with the
same weights in the same process, told the exact noise level as ours; it gets the network without the clamp at 0.

**quality**: the ten SX test volumes and the scenarios of `benchmarks/quality.py`; nothing was trained or tuned on them.
Means over the volumes:

* PSNR peak, PSNR gain, SSIM 3-D: of the final image, as in `benchmarks/quality.py`;
* overlap: intersection over union of the voxels above half of each image's peak (`imaging.metrics.support_overlap`),
  and the Dice coefficient 2 i / (1 + i) of every volume;
* best PSNR: PSNR peak of each volume's best iterate, which takes the truth to know, and the iteration it was at. Its
  distance from PSNR peak is what stopping costs;
* iterations: outer ones that ran.

**unlike**: scanned meshes (surfaces) and letters (three voxels thick) that training never showed, seen by 16 x 16
antennas on the edges of a square, 20 frequencies, 30 dB, on 61 x 41 x 41 voxels of the same cube; `pnp` and `tv` with
their defaults. Columns as above, an image of zeros for comparison, since surfaces are thin; seconds, which for a
method's first target include setting up its solves.

**speed**, all at 20 frequencies and 49 x 25 x 25 voxels, times as seconds or milliseconds of wall clock:

* an outer iteration outside the network: ours (factored complex64, exact projection) and the published arithmetic
  (dense complex128, five CG steps), both with a soft threshold in the network's place, in turn, the fastest of several;
  the network's call beside it; set-up (ours: operator and eigendecomposition; theirs: the matrix);
* one volume, y to image: ours with its default iterations, the published one with its 30, network included, set-up not;
* file to volume: read, image, write. *fresh process*: `backcast reconstruct` from its start to its end, imports
  included; *warm, new scanner*: a process that has done it before, but not for this geometry; *warm, same scanner*: the
  next file of a batch, which shares factors and solves;
* eight scenes in one file (one batch) against eight files one after the other, in memory, set-up not counted. The file
  has one noise level: with one per frame, frames are solved one by one.

    python benchmarks/pnp.py [--part quality|unlike|speed] [--markdown FILE] [--radar-weights PATH]... [--threads N]
    python benchmarks/pnp.py --part quality --volumes 2 --scenario 20,30
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from denoising import MESHES, SHARED, run_parts
from near_field import best, dense_matrix
from official_pnp import OfficialState, official_pnp, psnr_curve
from quality import CUBE, SCENARIOS, measurements
from scipy.spatial.transform import Rotation
from torch import Tensor

import pipelines.radar
from data import write_measurement
from data.measurement import Measurement, Scale
from data.simulate import MimoRadarSimulation, mimo_radar
from denoisers.errors import DenoiserError
from denoisers.load import load_denoiser
from denoisers.network_denoiser import NetworkDenoiser
from denoisers.weight_files import load_weights
from imaging.metrics import psnr, ssim, support_overlap
from imaging.operators import Grid, NearFieldMimo
from imaging.priors import Denoiser, Magnitude
from imaging.solvers import csalsa_projected
from pipelines.methods import Setting, find_method
from pipelines.reconstruct import Job, identity, reconstruct, reconstruct_file

FINE = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), (61, 41, 41))
TEXTS = ("MIMO", "RAD", "NO")  # characters of data.phantoms.HELD_OUT_CHARACTERS
CPU = torch.device("cpu")
FIGURES = "PSNR peak | PSNR gain | SSIM 3-D | overlap IoU (Dice)"


def weights(given: argparse.Namespace) -> dict[str, str]:
    """What there is of the weights, by the card's name; says why others are left out."""
    found = {}
    for spec in given.radar_weights:
        try:
            name = load_weights(spec)[1].name
        except DenoiserError as error:
            print(f"{spec} left out: {error}", flush=True)
        else:
            found[name if name not in found else spec] = spec
    return found


def setting(spec: str) -> Setting:
    return Setting(device=CPU, denoiser=load_denoiser(spec))


def truth_of(m: Measurement) -> Tensor:
    """|truth| (1, nz, ny, nx)."""
    assert m.ground_truth is not None
    return torch.as_tensor(np.asarray(m.ground_truth.data)).reshape(1, *m.ground_truth.data.shape[-3:]).abs()


def figures(images: Tensor, truth: Tensor) -> str:
    """Means over the batch: PSNR peak, gain, SSIM, overlap."""
    iou = support_overlap(images, truth)
    return (
        f"{float(psnr(images, truth).mean()):.2f} | {float(psnr(images, truth, normalise='gain').mean()):.2f} | "
        f"{float(ssim(images, truth, dims=3).mean()):.3f} | "
        f"{float(iou.mean()):.3f} ({float((2 * iou / (1 + iou)).mean()):.3f})"
    )


def ours(m: Measurement, method: str, spec: str | None = None) -> tuple[Tensor, np.ndarray]:
    """The image (1, nz, ny, nx) of a method with its defaults, and its PSNR by iteration."""
    result = reconstruct(m, method, setting=None if spec is None else setting(spec))
    assert result.convergence is not None
    image = torch.as_tensor(np.asarray(result.volume.data))
    return image.reshape(1, *image.shape[-3:]), np.asarray(result.convergence.columns["psnr"])


def operator(m: Measurement, dtype: torch.dtype = torch.complex64) -> NearFieldMimo:
    antennas = [torch.as_tensor(np.asarray(m.geometry[k])) for k in ("tx_positions", "rx_positions")]
    return NearFieldMimo(*antennas, torch.as_tensor(np.asarray(m.scale("frequency"))), CUBE, dtype=dtype)


def matrix(m: Measurement) -> Tensor:
    """The dense complex128 (M, N) of the simulated system, rows in the order (k, t, r)."""
    return dense_matrix(operator(m, torch.complex128))


def rows(files: list[Measurement]) -> Tensor:
    """The data of some measurements, complex128 (b, M), in the order of the matrix."""
    y = torch.as_tensor(np.concatenate([m.data for m in files])).to(torch.complex128)
    return y.movedim(-1, 1).flatten(1)


def official(A: Tensor, files: list[Measurement], denoiser: Denoiser) -> Iterator[OfficialState]:
    y = rows(files)
    epsilon = torch.tensor([float(m.noise_std) * math.sqrt(y.shape[1]) for m in files], dtype=torch.float64)  # type: ignore[arg-type]
    return official_pnp(A, y, denoiser, shape=CUBE.shape, epsilon=epsilon)


def unclamped(spec: str) -> Denoiser:
    network, card = load_weights(spec)
    return NetworkDenoiser(network, n_dims=card.n_dims, nonnegative=False)


# -- quality ------------------------------------------------------------------------------------------------


def quality_part(given: argparse.Namespace) -> Iterator[str]:
    specs = weights(given)
    yield f"Plug-and-play on {given.volumes} SX test volumes\n"
    yield f"| frequencies | SNR dB | algorithm | network | {FIGURES} | best PSNR (iteration) | iterations |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for n_freq, snr_db in given.scenario or SCENARIOS:
        files = measurements(n_freq, snr_db, given.volumes)
        truth = torch.cat([truth_of(m) for m in files])
        results: dict[tuple[str, str], tuple[Tensor, list[np.ndarray]]] = {}
        for name, spec in specs.items():
            images, curves = zip(*(ours(m, "pnp", spec) for m in files), strict=True)
            results["pnp", name] = torch.cat(images), list(curves)
            yield quality_row(n_freq, snr_db, "pnp", name, *results["pnp", name], truth)
        A = matrix(files[0]) if specs and not given.ours_only else None
        for name, spec in specs.items() if A is not None else ():
            assert A is not None
            # the batch of the published code; all images run on as long as one does not settle
            state, curve = psnr_curve(official(A, files, unclamped(spec)), lambda x, t=truth: psnr(x, t))
            yield quality_row(n_freq, snr_db, "published", name, state.x, list(curve.T.numpy()), truth)
        del A
    yield ""


def quality_row(
    n_freq: int, snr_db: float, how: str, name: str, images: Tensor, curves: list[np.ndarray], truth: Tensor
) -> str:
    best = statistics.fmean(float(np.max(c)) for c in curves)
    where = statistics.fmean(int(np.argmax(c)) + 1 for c in curves)
    count = statistics.fmean(len(c) for c in curves)
    return (
        f"| {n_freq} | {snr_db:g} | {how} | {name} | {figures(images, truth)} | {best:.2f} ({where:.1f}) | {count:g} |"
    )


# -- unlike targets -----------------------------------------------------------------------------------------


def unlike_targets() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Title, target and its parameters."""
    file = SHARED / "data" / "volumes" / "meshes.npz"
    rng = np.random.default_rng(5)
    for name in MESHES:
        x, y, z = Rotation.random(rng=rng).as_euler("xyz", degrees=True)
        turn = (float(x), float(y), float(z))
        if file.is_file():
            yield name, "mesh", {"source": str(file), "name": name, "rotation_deg": turn, "size_m": 0.22}
        else:
            print(f"{name} left out: {file} not found; set BACKCAST_SHARED to the folder above data/", flush=True)
    for text in TEXTS:
        yield f"letters {text}", "letters", {"text": text, "thickness_m": 0.01}


def unlike_part(given: argparse.Namespace) -> Iterator[str]:
    specs = weights(given)
    yield "Targets unlike the training's, 16 x 16 antennas on a square, 61 x 41 x 41 voxels, 20 frequencies, 30 dB\n"
    yield f"| target | method | {FIGURES} | best PSNR (iteration) | iterations | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    scenes = []
    for title, target, parameters in unlike_targets():
        if given.target and title not in given.target:
            continue
        config = MimoRadarSimulation(
            array="rectangular_mimo",
            array_parameters={"n_tx": 16, "n_rx": 16},
            n_frequencies=20,
            grid=FINE,
            target=target,
            target_parameters=parameters,
        )
        scenes.append((title, mimo_radar(config)))
    lines: dict[str, list[str]] = {}
    for title, m in scenes:
        truth = truth_of(m)
        empty = float(10 * torch.log10(truth.amax() ** 2 / truth.square().mean()))
        lines[title] = [f"| {title} | (an image of zeros) | {empty:.2f} | {empty:.2f} | | | | | |"]
    for name, method, spec in [("tv", "tv", None)] + [(f"pnp, {name}", "pnp", spec) for name, spec in specs.items()]:
        for title, m in scenes:  # in this order a method sets its solves up once
            start = time.perf_counter()
            image, curve = ours(m, method, spec)
            seconds = time.perf_counter() - start
            lines[title].append(
                f"| {title} | {name} | {figures(image, truth_of(m))} | {float(curve.max()):.2f} "
                f"({int(curve.argmax()) + 1}) | {len(curve)} | {seconds:.1f} |"
            )
            print(f"done: {lines[title][-1]}", flush=True)
    yield from itertools.chain.from_iterable(lines.values())
    yield ""


# -- speed --------------------------------------------------------------------------------------------------


def speed_part(given: argparse.Namespace) -> Iterator[str]:
    specs = weights(given)
    files = measurements(given.frequencies, 30.0, 8)
    yield f"Speed, {given.frequencies} frequencies, 49 x 25 x 25 voxels, {torch.get_num_threads()} threads\n"
    yield "| what | ours | published arithmetic | ratio |"
    yield "|---|---|---|---|"
    yield from iteration_rows(files[0], specs, given.repeats)
    yield ""
    for name, spec in specs.items():
        if given.file_weights and name != given.file_weights and spec != given.file_weights:
            continue
        yield f"File to volume, pnp with {name}\n"
        yield "| process | seconds |"
        yield "|---|---|"
        yield from file_rows(files, spec)
        yield ""
        yield f"Eight scenes, pnp with {name}\n"
        yield "| how | seconds | a scene |"
        yield "|---|---|---|"
        yield from batch_rows(files, spec, given.repeats)
        yield ""


def threshold(v: Tensor, sigma: float) -> Tensor:
    """In the network's place: costs next to nothing and does not settle within a few iterations."""
    return (v - sigma**2).clamp_min(0)


def iteration_rows(m: Measurement, specs: dict[str, str], repeats: int) -> Iterator[str]:
    start = time.perf_counter()
    A = operator(m)
    projector = A.ellipsoid_projector(n_solves=30)
    y = torch.as_tensor(m.data)
    epsilon = float(m.noise_std) * math.sqrt(y[0].numel())  # type: ignore[arg-type]
    config = find_method("pnp").config()
    prior = Magnitude(threshold, relative=False if config.denoiser.scale == "none" else config.denoiser.scale)
    alpha = config.solver.alpha
    states = csalsa_projected(A, y, prior, epsilon=epsilon, alpha=alpha, projector=projector)
    next(states)  # an eigendecomposition may wait for its first use
    ours_setup = time.perf_counter() - start
    start = time.perf_counter()
    D = matrix(m)
    their_setup = time.perf_counter() - start
    yield f"| set-up, s | {ours_setup:.2f} | {their_setup:.2f} | |"
    theirs = official(D, [m], threshold)
    next(theirs), next(theirs)
    steps = set()
    least = [math.inf, math.inf]
    for _ in range(min(repeats, 25)):  # the published one ends after 30
        for i, each in enumerate((states, theirs)):
            start = time.perf_counter()
            state = next(each)
            least[i] = min(least[i], 1e3 * (time.perf_counter() - start))
        steps.add(state.cg_steps)  # type: ignore[attr-defined]
    taken = ", ".join(map(str, sorted(steps)))
    yield (
        f"| outer iteration outside the network, ms | {least[0]:.1f} | {least[1]:.1f} ({taken} CG steps) | "
        f"{least[1] / least[0]:.1f} |"
    )
    for name, spec in specs.items():
        denoiser, v = load_denoiser(spec), truth_of(m)
        network = best(lambda d=denoiser, v=v: d(v, 0.1), repeats=repeats)[0]
        yield f"| call of {name}, ms | {network:.1f} | {network:.1f} | |"
        yield (
            f"| outer iteration with {name}, ms | {least[0] + network:.1f} | {least[1] + network:.1f} | "
            f"{(least[1] + network) / (least[0] + network):.1f} |"
        )
    bare = dataclasses.replace(m, ground_truth=None)  # no PSNR on the way
    for name, spec in specs.items():
        use = setting(spec)
        reconstruct(bare, "pnp", setting=use)
        start = time.perf_counter()
        result = reconstruct(bare, "pnp", setting=use)
        ours_s = time.perf_counter() - start
        start = time.perf_counter()
        *_, state = official(D, [m], unclamped(spec))
        their_s = time.perf_counter() - start
        image = torch.as_tensor(np.asarray(result.volume.data))[None]
        assert result.convergence is not None
        dbs = [float(psnr(x, truth_of(m))[0]) for x in (image, state.x)]
        iterations = (result.convergence.n_iterations, state.iteration)
        cells = [
            f"{s:.2f} ({n} iterations, {db:.2f} dB)"
            for s, n, db in zip((ours_s, their_s), iterations, dbs, strict=True)
        ]
        yield f"| one volume with {name}, s | {cells[0]} | {cells[1]} | {their_s / ours_s:.1f} |"


def file_rows(files: list[Measurement], spec: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = []
        for i, m in enumerate(files[:3]):
            sources.append(folder / f"scan{i}.h5")
            write_measurement(sources[-1], dataclasses.replace(m, ground_truth=None))
        absolute = str(Path(spec).resolve()) if Path(spec).is_file() else spec
        command = [sys.executable, "-m", "pipelines.cli", "reconstruct", str(sources[0]), "-m", "pnp", "-d", absolute]
        seconds = []
        for i in range(3):
            start = time.perf_counter()
            subprocess.run([*command, "-o", str(folder / f"fresh{i}")], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        yield f"| fresh process, best of {len(seconds)} | {min(seconds):.2f} |"
        method = find_method("pnp")
        config = method.config()
        text, digest = identity(method, config, load_denoiser(absolute).sha256)

        def once(source: Path) -> float:
            start = time.perf_counter()
            job = Job(
                source=source,
                target=folder / f"{source.stem}_recon.h5",
                method=method,
                config=config,
                config_json=text,
                config_sha256=digest,
                denoiser=absolute,
            )
            reconstruct_file(job)
            return time.perf_counter() - start

        once(sources[0])
        pipelines.radar._last_model = None  # as for a file of another scanner
        yield f"| warm, new scanner | {once(sources[0]):.2f} |"
        yield f"| warm, same scanner | {min(once(s) for s in sources[1:]):.2f} |"


def batch_rows(files: list[Measurement], spec: str, repeats: int) -> Iterator[str]:
    noise = math.sqrt(statistics.fmean(float(m.noise_std) ** 2 for m in files))  # type: ignore[arg-type]
    singles = [dataclasses.replace(m, ground_truth=None, noise_std=noise) for m in files]
    times = Scale(values=np.arange(len(files), dtype=float), units="s")
    together = dataclasses.replace(
        singles[0],
        data=np.concatenate([m.data for m in singles]),
        scales={**singles[0].scales, "frame": times},
    )
    use = setting(spec)

    def one_by_one() -> list[np.ndarray]:
        return [np.asarray(reconstruct(m, "pnp", setting=use).volume.data) for m in singles]

    def at_once() -> np.ndarray:
        return np.asarray(reconstruct(together, "pnp", setting=use).volume.data)

    seconds = []
    images = []
    for run in (one_by_one, at_once):  # each with its own solves set up, which the first call does
        images.append(np.stack(run()))
        seconds.append(best(run, repeats=min(repeats, 3))[0] / 1e3)
    gap = float(np.abs(images[0] - images[1]).max() / np.abs(images[0]).max())
    n = len(files)
    yield f"| {n} files with one frame | {seconds[0]:.2f} | {seconds[0] / n:.3f} |"
    yield f"| one file with {n} frames | {seconds[1]:.2f} | {seconds[1] / n:.3f} |"
    yield f"| ratio; largest difference of the images over the peak | {seconds[0] / seconds[1]:.2f} | {gap:.1e} |"


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "quality": quality_part,
    "unlike": unlike_part,
    "speed": speed_part,
}


def scenario(text: str) -> tuple[int, float]:
    n_freq, snr_db = text.split(",")
    return int(n_freq), float(snr_db)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one of the three; all without")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--radar-weights", action="append", help="name or .safetensors file; repeatable")
    parser.add_argument("--volumes", type=int, default=10, help="quality: how many of the ten")
    parser.add_argument("--scenario", type=scenario, action="append", help="quality: FREQUENCIES,SNR_DB; repeatable")
    parser.add_argument("--ours-only", action="store_true", help="quality: without the published algorithm")
    parser.add_argument("--target", action="append", help="unlike: one of the first column's names; repeatable")
    parser.add_argument("--frequencies", type=int, default=20, help="speed")
    parser.add_argument("--file-weights", default="radar-3d-fast", help="speed: weights of the last two tables; '' all")
    parser.add_argument("--repeats", type=int, default=7, help="speed: of timed calls")
    parser.add_argument("--threads", type=int)
    run_parts(parser, PARTS)


if __name__ == "__main__":
    main()
