"""Memory and time of every method on many sizes, and the models that `backcast estimate` predicts them with.

    python benchmarks/estimates.py                        # measure what is missing, fit, write the table
    python benchmarks/estimates.py --only mri:pnp --again # some methods anew
    python benchmarks/estimates.py --fit                  # fit to the measured runs that are there

Every run is a process of its own on one thread: `backcast reconstruct` on a simulated file, its peak resident memory
as the system counts it, and the processor's seconds. Runs are kept in `benchmarks/estimates.csv`; three sizes and more
of each method are fitted, others show how far predictions are off, in `benchmarks/estimates.md`. The coefficients go
into `pipelines/estimates.json`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "benchmarks" / "estimates.csv"
PAGE = ROOT / "benchmarks" / "estimates.md"
TABLE = ROOT / "pipelines" / "estimates.json"


@dataclasses.dataclass(frozen=True)
class Case:
    """A simulated file.

    Attributes:
        name: of the file.
        settings: of the simulation.
        kind: what methods it is for: "any", "raster" (radar), "movie" or "still" (MRI), "many" (channels).
        held_out: not fitted.
        blocks: bytes that the operator may keep, as `--max-memory` sets them.
        scan: name of the case whose file it is, where that is another one's.
    """

    name: str
    settings: tuple[str, ...]
    kind: str = "any"
    held_out: bool = False
    blocks: int | None = None
    scan: str = ""


def radar(name: str, tx: int, rx: int, k: int, shape: tuple[int, int, int], *more: str, **known: Any) -> Case:
    spacing = [0.3 / (n - 1) for n in shape]
    return Case(
        name,
        (
            f"array_parameters={{n_tx={tx}, n_rx={rx}}}",
            f"n_frequencies={k}",
            "grid.origin_m=[0.35,-0.15,-0.15]",
            f"grid.spacing_m={spacing}",
            f"grid.shape={list(shape)}",
            *more,
        ),
        **known,
    )


def raster(name: str, n: int, k: int, depth: int, *more: str, **known: Any) -> Case:
    step = 0.3 / (n - 1)
    return Case(
        name,
        (
            "array=planar_monostatic",
            f"array_parameters={{n_x={n}, n_y={n}, step_m={step}}}",
            f"n_frequencies={k}",
            "grid.origin_m=[0.35,-0.15,-0.15]",
            f"grid.spacing_m=[{0.3 / (depth - 1)},{step},{step}]",
            f"grid.shape=[{depth},{n},{n}]",
            *more,
        ),
        kind="raster",
        **known,
    )


def of(name: str, text: str, **known: Any) -> Case:
    return Case(name, tuple(text.split()), **known)


CASES: dict[str, list[Case]] = {
    "mimo_radar": [
        radar("a", 6, 6, 8, (33, 33, 33)),
        radar("b", 12, 13, 20, (49, 25, 25)),
        radar("c", 14, 14, 16, (65, 45, 41)),
        radar("d", 8, 7, 10, (41, 41, 31), "frames=3"),
        raster("e", 41, 16, 48),
        raster("f", 25, 10, 32, "frames=4"),
        raster("g", 61, 24, 64),
        Case("h", (), scan="c", blocks=12 * 2**20),
        Case("i", (), scan="d", blocks=2 * 2**20),
        radar("p", 9, 9, 12, (45, 33, 31), held_out=True),
        radar("q", 10, 11, 14, (57, 41, 41), "frames=2", held_out=True),
        raster("r", 33, 12, 40, held_out=True),
        raster("s", 51, 20, 50, held_out=True),
        raster("t", 29, 16, 64, "frames=2", held_out=True),
    ],
    "tomography": [
        of("a", "n=48 n_instants=32"),
        of("b", "n=96 n_instants=48"),
        of("c", "n=64 n_instants=128"),
        of("d", "n=192 n_instants=1 views_per_instant=90 motion=none"),
        of("e", "n=64 n_instants=32 n_slices=4"),
        of("f", "n=128 n_instants=64"),
        Case("h", (), scan="a", blocks=0),
        of("p", "n=80 n_instants=64", held_out=True),
        of("q", "n=112 n_instants=40", held_out=True),
        of("r", "n=128 n_instants=1 views_per_instant=60 motion=none n_slices=2", held_out=True),
    ],
    "mri": [
        of("a", "n=64 n_coils=6", kind="still"),
        of("b", "n=128 n_coils=8", kind="still"),
        of("c", "n=192 n_coils=12 n_slices=2", kind="still"),
        of("d", "n=96 n_coils=6 trajectory=radial n_readouts=48", kind="still"),
        of("e", "n=160 n_coils=8 trajectory=radial n_readouts=80", kind="still"),
        of("f", "n=256 n_coils=8", kind="still"),
        of("g", "n=64 n_coils=4 n_frames=12 motion=beating object=heart", kind="movie"),
        of("h", "n=48 n_coils=6 n_frames=16 motion=beating object=heart", kind="movie"),
        of("i", "n=80 n_coils=6 n_frames=8 motion=beating object=heart", kind="movie"),
        of("j", "n=64 n_coils=4 n_frames=24 motion=beating object=heart", kind="movie"),
        of("p", "n=160 n_coils=8", kind="still", held_out=True),
        of("q", "n=224 n_coils=10", kind="still", held_out=True),
        of("r", "n=128 n_coils=6 trajectory=radial n_readouts=64", kind="still", held_out=True),
        of("s", "n=64 n_coils=6 n_frames=12 motion=beating object=heart", kind="movie", held_out=True),
        of("t", "n=48 n_coils=4 n_frames=24 motion=beating object=heart", kind="movie", held_out=True),
        of("u", "n=72 n_coils=4 n_frames=10 motion=beating object=heart", kind="movie", held_out=True),
    ],
    "irs_mimo": [
        of("a", "grid_irs=10 grid_tx=10 grid_rx=10 n_rx=8 n_configs=4"),
        of("b", "grid_irs=14 grid_tx=14 grid_rx=14 n_rx=12"),
        of("c", "grid_irs=12 grid_tx=12 grid_rx=12 n_rx=8 n_configs=4 n_frames=6", kind="many"),
        of("d", "grid_irs=18 grid_tx=18 grid_rx=18 n_rx=8"),
        of("e", "grid_irs=10 grid_tx=10 grid_rx=10 n_rx=8 n_configs=4 n_subcarriers=16", kind="many"),
        of("f", "grid_irs=16 grid_tx=16 grid_rx=16 n_rx=10 n_frames=2", kind="many"),
        Case("g", (), kind="many", scan="e", blocks=2**19),
        of("p", "grid_irs=12 grid_tx=12 grid_rx=12 n_rx=8", held_out=True),
        of("q", "grid_irs=15 grid_tx=15 grid_rx=15 n_rx=8 n_configs=4 n_frames=3", held_out=True),
        of("r", "grid_irs=18 grid_tx=18 grid_rx=18 n_rx=10", held_out=True),
    ],
}
#: What methods are measured on, where that is not every case.
FOR = {
    "mimo_radar:rangemigration": ("raster",),
    "irs_mimo:offgrid": ("any",),  # its dictionary is large whatever the file's is
    "mri:adjoint": ("still",),
    "mri:sense": ("still",),
    "mri:l1wavelet": ("still",),
    "mri:pnp": ("still",),
    "mri:psm": ("movie",),
    "mri:lps": ("movie",),
    "mri:redpsm": ("movie",),
}


def environment() -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, "1"), "PYTHONPATH": str(ROOT)}


def methods() -> list[str]:
    """MODALITY:METHOD of all methods."""
    from pipelines.methods import METHODS

    return [f"{modality}:{m.name}" for m in METHODS for modality in m.modalities]


def cases_for(full_name: str, *, held_out: bool) -> list[Case]:
    kinds = FOR.get(full_name)
    found = [c for c in CASES[full_name.partition(":")[0]] if c.held_out == held_out]
    return [c for c in found if kinds is None or c.kind in kinds]


def simulated(modality: str, case: Case, folder: Path) -> Path:
    """The case's file, made when it is not there."""
    place = folder / modality / (case.scan or case.name)
    if not place.exists():
        settings = [part for setting in case.settings for part in ("-s", setting)]
        command = [sys.executable, "-m", "pipelines.cli", "simulate", modality, "-o", str(place), "--seed", "1"]
        subprocess.run([*command, *settings], env=environment(), check=True, capture_output=True, cwd=ROOT)
    return next(place.glob("*.h5"))


#: Peak bytes, seconds of the processor (on one thread those of the clock, were no other process there), iterations,
#: and seconds of `pipelines.estimate.probe` just before.
FIGURES = ("peak", "seconds", "iterations", "probe")


def measure(path: Path, full_name: str, *more: str, blocks: int | None = None) -> dict[str, float]:
    """`FIGURES` of the method on one thread, with further arguments of `backcast reconstruct`."""
    with tempfile.TemporaryDirectory() as out:
        arguments = ["reconstruct", str(path), "-o", out, "-m", full_name, "--device", "cpu", *more]
        run = [sys.executable, __file__, "--run", json.dumps([blocks, arguments])]
        done = subprocess.run(run, env=environment(), cwd=ROOT, capture_output=True, text=True)
    said = json.loads(done.stdout) if done.returncode == 0 else done.stderr
    if not isinstance(said, dict):
        raise RuntimeError(f"{full_name} on {path}: {said}")
    return said


def _measured(blocks: int | None, arguments: list[str]) -> dict[str, float] | str:
    """In a process of its own."""
    import contextlib
    import io
    import time

    import pipelines.reconstruct as reconstruct
    from pipelines.cli import app, guarded
    from pipelines.estimate import probe

    found: dict[str, float] = {"probe": probe(time.process_time)}
    inner = reconstruct.reconstruct_file

    def timed(job: Any, **more: Any) -> Any:
        job = job if blocks is None else dataclasses.replace(job, memory_limit=blocks)
        clock = time.process_time()
        done = inner(job, **more)
        found.update(seconds=time.process_time() - clock, iterations=done.n_iterations)
        return done

    reconstruct.reconstruct_file = timed
    reconstruct._reset_peak_memory = lambda device: None  # that would leave out what reading the file took
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = guarded(lambda: app(args=arguments, standalone_mode=False))
    peak = next(t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith("VmHWM:"))
    found["peak"] = int(peak.split()[1]) * 1024.0
    return said.getvalue()[-2000:] if status or "seconds" not in found else found


def read_runs() -> dict[tuple[str, str], dict[str, float]]:
    if not RUNS.exists():
        return {}
    with RUNS.open() as file:
        return {(r["method"], r["case"]): {k: float(r[k]) for k in FIGURES} for r in csv.DictReader(file)}


def write_runs(runs: dict[tuple[str, str], dict[str, float]]) -> None:
    with RUNS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "case", *FIGURES])
        for (method, case), run in sorted(runs.items()):
            writer.writerow([method, case, *(f"{run[name]:.6g}" for name in FIGURES)])


def measure_all(wanted: list[str], folder: Path, *, again: bool) -> None:
    runs = read_runs()
    for held_out in (False, True):
        for name in wanted:
            for case in cases_for(name, held_out=held_out):
                key = (name, case.name)
                if key in runs and not again:
                    continue
                path = simulated(name.partition(":")[0], case, folder)
                try:
                    run = runs[key] = measure(path, name, blocks=case.blocks)
                except RuntimeError as error:
                    print(error, file=sys.stderr)
                    continue
                print(f"{name} {case.name}: {run['peak'] / 2**20:.0f} MiB, {run['seconds']:.2f} s", flush=True)
                write_runs(runs)


def fitted(rows: list[dict[str, float]], values: list[float]) -> dict[str, float]:
    """Coefficients >= 0 of the terms that occur, with the least squares of the logarithms' first order."""
    import numpy as np
    from scipy.optimize import nnls

    names = [n for n in dict.fromkeys(name for row in rows for name in row) if any(row.get(n) for row in rows)]
    a = np.array([[row.get(n, 0.0) for n in names] for row in rows])
    scale = a.max(0)
    y = np.array(values)
    weight = 1 / y
    for _ in range(30):
        x, _ = nnls(a / scale * weight[:, None], y * weight)
        weight = 1 / np.sqrt(y * np.maximum(a / scale @ x, 0.2 * y))  # the logarithm's slope between the two
    return {n: float(f"{c / s:.4g}") for n, c, s in zip(names, x, scale, strict=True) if c > 0}


def fit(folder: Path) -> None:
    import statistics

    from data import read_measurement_head
    from pipelines import estimate
    from pipelines.methods import find_method

    runs = read_runs()
    probes = [run["probe"] for run in runs.values()]
    reference = min(probes)
    table: dict[str, Any] = {}
    if TABLE.exists():
        table = json.loads(TABLE.read_text())["methods"]
    lines = []
    for name in methods():
        known = [c for c in CASES[name.partition(":")[0]] if (name, c.name) in runs]
        if not any(not c.held_out for c in known):
            continue
        modality = name.partition(":")[0]
        method = find_method(name, modality)
        config = method.config()
        iterations = statistics.median(runs[name, c.name]["iterations"] for c in known if not c.held_out)
        found = {}
        for case in known:
            head = read_measurement_head(simulated(modality, case, folder))
            found[case] = estimate.terms(head, method, config, blocks=case.blocks, iterations=iterations)
        used = [c for c in known if not c.held_out]

        def seconds(case: Case, name: str = name) -> float:
            run = runs[name, case.name]
            return run["seconds"] * reference / run["probe"]

        memory = fitted([found[c][0] for c in used], [runs[name, c.name]["peak"] for c in used])
        work = fitted([found[c][1] for c in used], [seconds(c) for c in used])
        table[name] = {"iterations": iterations, "memory": memory, "seconds": work}
        for case in known:
            predicted = [
                sum(c * f.get(n, 0) for n, c in k.items()) for k, f in zip((memory, work), found[case], strict=True)
            ]
            peak, spent = runs[name, case.name]["peak"], seconds(case)
            lines.append((name, case, peak, predicted[0], spent, predicted[1]))
    content = {"probe_seconds": float(f"{reference:.4g}"), "methods": dict(sorted(table.items()))}
    TABLE.write_text(json.dumps(content, indent=1) + "\n")
    PAGE.write_text(page(lines))


def page(lines: list[tuple[str, Case, float, float, float, float]]) -> str:
    """The table of held-out sizes, and the worst of both kinds."""
    out = [
        "# Predicted memory and time",
        "",
        "Sizes that were not fitted; `python benchmarks/estimates.py`. Memory is the peak of the process, interpreter",
        "and libraries included; time is that of one thread, over the machine's speed at that moment.",
        "",
        "| method | size | measured MiB | predicted | measured s | predicted |",
        "|---|---|---|---|---|---|",
    ]
    for name, case, peak, predicted, spent, guessed in lines:
        if case.held_out:
            a, b = (round(v / 2**20) for v in (peak, predicted))
            out.append(f"| {name} | {case.name} | {a} | {b} ({b / a - 1:+.0%}) | {spent:.2f} | {guessed:.2f} |")
    out.append("")
    for held_out in (False, True):
        some = [line for line in lines if line[1].held_out == held_out]
        if some:
            memory = max(some, key=lambda r: abs(r[3] / r[2] - 1))
            times = max(some, key=lambda r: max(r[5] / r[4], r[4] / r[5]))
            kind = "held out" if held_out else "fitted"
            out.append(
                f"Worst of {len(some)} {kind}: memory {memory[3] / memory[2] - 1:+.0%} ({memory[0]} {memory[1].name}), "
                f"time by a factor {max(times[5] / times[4], times[4] / times[5]):.2f} ({times[0]} {times[1].name})."
            )
    return "\n".join([*out, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="MODALITY:METHOD")
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    parser.add_argument("--fit", action="store_true", help="fit only")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help="folder of the simulated files, kept")
    known = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if known.run:
        print(json.dumps(_measured(*json.loads(known.run))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = known.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not known.fit:
            measure_all(known.only or methods(), folder, again=known.again)
        fit(folder)
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
