"""RED-PSM on moving objects, beside the published arithmetic and PSM, with one denoiser in one process.

Objects, motion, views and noise are those of `dynamic_objects` (RP 1.1, 7.1, 7.4), data from the published projector;
everything is reconstructed with our `ParallelBeam`. Ours runs as ``backcast reconstruct`` does, with its defaults: the
time is that from the measurement to the movie, set-up and choice of the model included, tracking of errors not, in
processor seconds, which other work on the machine does not change: those of one thread on an idle one. The published
arithmetic (`published_redpsm`) starts from ProSep, takes the same denoiser at one noise level, runs its whole
number of outer iterations and is stopped at its best iterate, which takes the truth to know. Figures as RP 5.1.

**quality**: PSM (ours, its best iterate; the published arithmetic without denoiser, its best), RED-PSM (ours: last and
best; published: best and last), the time of both, and that which ours needs to reach the published best.

**td_dip**: the time-dependent deep image prior on the same scans, its last and its best checkpoint; takes hours.

**growth**: seconds and peak memory of `redpsm` over image size and instants, a few iterations in a process each.

**volume**: a walnut of 64 x 96 x 96 voxels that moves while 64 projections are taken, one per instant (3D+t), by `psm`
and `redpsm`; with `--figure` a picture.

    python benchmarks/redpsm.py [--part quality|td_dip|growth|volume] [--objects mouse,tooth,head]
        [--views 32,64,128,256] [--published all|psm|none] [--sigma 0.05] [--set solver.sigma_final=0.08]
        [--markdown FILE] [--figure FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from denoising import run_parts
from dynamic_objects import PEAK, DynamicScan, dynamic_scan
from matplotlib.figure import Figure
from published_redpsm import PUBLISHED, Figures, at_level, figures, follow, prosep_start, psnr, published_redpsm
from td_dip import td_dip

from data.measurement import GridSpec, Measurement, Scale
from data.simulate import TomographySimulation, tomography
from denoisers.load import load_denoiser
from pipelines.config import resolve
from pipelines.methods import Setting, find_method
from pipelines.reconstruct import reconstruct

PIXEL_M = 1e-3
#: Iterations of a run of `growth`.
GROWTH_ITERATIONS = 4
#: Slices, pixels along a side and instants of the volume that moves.
VOLUME = {"n_slices": 64, "n": 96, "n_instants": 64}


def measurement(scan: DynamicScan) -> Measurement:
    """The scan as a file would give it: pixels of 1 mm, attenuation in 1/m, no truth and no noise level."""
    n_views, _, n = scan.y.shape
    columns = (np.arange(n) - n // 2) * PIXEL_M
    index = np.arange(n_views)
    return Measurement(
        modality="tomography",
        data=scan.y.numpy().astype(np.float32),
        axes=("projection", "detector_row", "detector_column"),
        scales={
            "projection": Scale(values=index.astype(np.int32), units="1"),
            "detector_row": Scale(values=np.zeros(1), units="m"),
            "detector_column": Scale(values=columns, units="m"),
        },
        quantity="line_integral",
        geometry={"type": "parallel", "rotation_axis_offset": -float(columns[0] + columns[-1]) / 2},
        acquisition={
            "angle": -scan.angles_rad.numpy(),
            "time": index.astype(float),
            "frame_index": index.astype(np.int32),
            "sense": "ccw_from_+z",
        },
        grid=GridSpec((0.0, columns[0], columns[0]), (PIXEL_M,) * 3, (1, n, n)),
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """Figures of the last and the best iterate, PSNR and processor seconds since the start of each, what was chosen."""

    last: Figures
    best: Figures
    psnrs: list[float]
    seconds: list[float]
    facts: dict[str, float]


def ours(name: str, scan: DynamicScan, denoiser: object | None = None, settings: Sequence[str] = ()) -> Run:
    """A method of ours with its defaults or other settings, its error followed; the clock stands still meanwhile."""
    method = find_method(name, "tomography")
    m = measurement(scan)
    begin, idle = time.process_time(), 0.0
    setting = Setting(device=torch.device("cpu"), denoiser=denoiser)  # type: ignore[arg-type]
    plan = method.plan(m, resolve(method.config, [], settings, name=name), setting)
    (part,) = list(plan.parts)
    assert part.solve is not None
    assert plan.stop is not None
    psnrs: list[float] = []
    seconds: list[float] = []
    best, last = torch.empty(0), torch.empty(0)
    for state in itertools.islice(part.solve(torch.tensor([0]), None), plan.max_iter):
        pause = time.process_time()
        image = state.x if plan.image is None else plan.image(state)
        last = image[0, :, 0] * float(part.scale) * PIXEL_M  # per pixel, as the truth is
        value = psnr(last, scan.truth)
        if not psnrs or value > max(psnrs):
            best = last
        psnrs.append(value)
        seconds.append(pause - begin - idle)
        stopped = bool(plan.stop(state).all())
        idle += time.process_time() - pause
        if stopped:
            break
    return Run(figures(last, scan.truth), figures(best, scan.truth), psnrs, seconds, dict(plan.facts))


def quality(given: argparse.Namespace) -> Iterator[str]:
    """Tables of PSNR, SSIM, MAE, HFEN and seconds."""
    network = load_denoiser(given.denoiser, precision="bfloat16")
    threads = torch.get_num_threads()
    yield f"denoiser {network.name}; published arithmetic at sigma {given.sigma:g} of the peak; threads: {threads}"
    yield ""
    yield "| object | P | method | PSNR / SSIM / MAE / HFEN, last | best (iteration) | s | s to the published best |"
    yield "|---|---|---|---|---|---|---|"
    for name, n_views in itertools.product(given.objects.split(","), map(int, given.views.split(","))):
        scan = dynamic_scan(name, n_views, model="joseph", data="rotate")
        head = f"| {name} | {n_views} |"
        plain = ours("psm", scan)
        yield f"{head} PSM, ours | {plain.last} | {plain.best} ({_where(plain)}) | {plain.seconds[-1]:.1f} | |"
        run = ours("redpsm", scan, network, given.set)
        goal = float("inf")
        lines = []
        if given.published != "none":
            settings = PUBLISHED[n_views]
            begin = time.process_time()
            start, _ = prosep_start(scan.A, scan.y, scan.angles_rad, settings, mask=scan.mask)
            set_up = time.process_time() - begin
            few = dataclasses.replace(settings, n_outer=12)
            record = follow(published_redpsm(scan.A, scan.y, start, None, few, mask=scan.mask), scan.truth)
            lines.append(_published(head, "PSM, published", record, set_up))
            if given.published == "all":
                denoiser = at_level(network, given.sigma, peak=PEAK)
                states = published_redpsm(scan.A, scan.y, start, denoiser, settings, mask=scan.mask)
                record = follow(states, scan.truth)
                goal = record.best.psnr
                lines.append(_published(head, "RED-PSM, published", record, set_up))
        reached = next((s for p, s in zip(run.psnrs, run.seconds, strict=True) if p >= goal), None)
        when = "" if goal == float("inf") else ("not reached" if reached is None else f"{reached:.1f}")
        yield f"{head} **RED-PSM, ours** | {run.last} | {run.best} ({_where(run)}) | {run.seconds[-1]:.1f} | {when} |"
        yield from lines
    yield ""


def _where(run: Run) -> str:
    return f"{1 + run.psnrs.index(max(run.psnrs))} of {len(run.psnrs)}"


def _published(head: str, name: str, record, set_up: float) -> str:  # type: ignore[no-untyped-def]
    total = set_up + sum(record.seconds)
    where = f"{record.best_iteration} of {len(record.psnrs)}"
    return f"{head} {name} | {record.last} | {record.best} ({where}) | {total:.1f} | |"


def deep_image_prior(given: argparse.Namespace) -> Iterator[str]:
    """Figures of TD-DIP after `--steps` Adam steps, and seconds."""
    yield f"{given.steps} steps; threads: {torch.get_num_threads()}"
    yield ""
    yield "| object | P | method | PSNR / SSIM / MAE / HFEN, last | best (step) | s |"
    yield "|---|---|---|---|---|---|"
    for name, n_views in itertools.product(given.objects.split(","), map(int, given.views.split(","))):
        scan = dynamic_scan(name, n_views, model="joseph", data="rotate")
        seconds, best, last = 0.0, None, None
        states = td_dip(scan.A, scan.y, mask=scan.mask, peak=PEAK, n_steps=given.steps, every=max(1, given.steps // 20))
        for state in states:
            seconds += state.elapsed_s
            last = figures(state.x, scan.truth)
            if best is None or last.psnr > best[0].psnr:
                best = last, state.step
        assert best is not None
        yield f"| {name} | {n_views} | TD-DIP | {last} | {best[0]} ({best[1]}) | {seconds:.1f} |"
    yield ""


def growth(given: argparse.Namespace) -> Iterator[str]:
    """Seconds of set-up and of an iteration, and peak memory, of redpsm, each in a process of its own."""
    yield "| pixels | instants | data, MiB | set-up, s | an iteration, s | peak memory, MiB |"
    yield "|---|---|---|---|---|---|"
    for size, n_views in ((64, 64), (128, 64), (128, 128), (128, 256), (256, 128), (256, 256), (256, 512)):
        command = [sys.executable, __file__, "--one", f"{size},{n_views}", "--denoiser", given.denoiser]
        command += [a for s in (*given.set, f"solver.max_iter={GROWTH_ITERATIONS}") for a in ("--set", s)]
        done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        each = (done["seconds"][-1] - done["seconds"][0]) / (len(done["seconds"]) - 1)
        yield (
            f"| {size} x {size} | {n_views} | {size * n_views * 4 / 2**20:.2f} | {done['seconds'][0] - each:.1f} "
            f"| {each:.2f} | {done['mib']:.0f} |"
        )
    yield ""


def one(text: str, denoiser: str, settings: Sequence[str]) -> None:
    """A run of redpsm on the mouse, as a line of JSON: processor seconds at every iteration, peak MiB."""
    size, n_views = map(int, text.split(","))
    scan = dynamic_scan("mouse", n_views, model="joseph", data="joseph", size=size)
    network = load_denoiser(denoiser, precision="bfloat16")
    scan = dataclasses.replace(scan, A=None, clean=torch.empty(0))  # type: ignore[arg-type]
    run = ours("redpsm", scan, network, settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": run.seconds, "mib": peak}))


def volume(given: argparse.Namespace) -> Iterator[str]:
    """Figures, seconds and peak memory of a volume that moves; its data take 2.25 MiB, its movie 144 MiB."""
    m = tomography(TomographySimulation(**VOLUME, seed=1))  # type: ignore[arg-type]
    assert m.ground_truth is not None
    truth = torch.as_tensor(m.ground_truth.data)
    yield "| method | PSNR, dB | of the worst frame | seconds | peak memory, MiB |"
    yield "|---|---|---|---|---|"
    movies = {"truth": truth}
    for name in ("psm", "redpsm"):
        method = find_method(name, "tomography")
        settings = [f'denoiser.file="{given.denoiser}"', *given.set] if name == "redpsm" else []
        begin = time.process_time()
        r = reconstruct(m, method, resolve(method.config, [], settings, name=name))
        seconds = time.process_time() - begin
        x = movies[name] = torch.as_tensor(r.volume.data)
        span = truth.max() - truth.min()
        worst = min(
            float(20 * torch.log10(span / (a - b).square().mean().sqrt())) for a, b in zip(x, truth, strict=True)
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield f"| {name} | {psnr(x, truth):.2f} | {worst:.2f} | {seconds:.1f} | {peak:.0f} |"
    if given.figure:
        volume_figure(movies, given.figure)
    yield ""


def volume_figure(movies: dict[str, torch.Tensor], path: Path) -> None:
    """A horizontal and an upright section of every movie at three instants."""
    n_frames, n_z, n_y, _ = movies["truth"].shape
    peak = float(movies["truth"].max())
    instants = (0, n_frames // 2, n_frames - 1)
    figure = Figure(figsize=(11, 2.9 * len(movies)), layout="constrained")
    axes = figure.subplots(len(movies), 6)
    for row, (name, movie) in zip(axes, movies.items(), strict=True):
        sections = [movie[t, n_z // 2] for t in instants] + [movie[t, :, n_y // 2] for t in instants]
        titles = [f"{kind}, instant {t}" for kind in ("horizontal", "upright") for t in instants]
        for axis, section, title in zip(row, sections, titles, strict=True):
            axis.imshow(section.numpy(), cmap="gray", vmin=0, vmax=peak, origin="lower")
            axis.set_title(f"{name}: {title}", fontsize=8)
            axis.set_axis_off()
    figure.savefig(path, dpi=90)


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "quality": quality,
    "td_dip": deep_image_prior,
    "growth": growth,
    "volume": volume,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one of them; all without")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--figure", type=Path, help="volume: write a picture there, too")
    parser.add_argument("--objects", default="mouse,tooth,head")
    parser.add_argument("--views", default="32,64,128,256", help="instants")
    parser.add_argument("--published", choices=("all", "psm", "none"), default="all")
    parser.add_argument("--sigma", type=float, default=0.05, help="noise level of the published arithmetic's denoiser")
    parser.add_argument("--steps", type=int, default=10_000, help="td_dip: of Adam")
    parser.add_argument("--denoiser", default="tomo-2d")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of our redpsm, as after -s")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.set_defaults(radar_weights=None)
    given, _ = parser.parse_known_args()
    if given.one:
        one(given.one, given.denoiser, given.set)
        return
    run_parts(parser, PARTS)


if __name__ == "__main__":
    main()
