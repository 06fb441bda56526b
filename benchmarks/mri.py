"""MRI: speed of the operators beside others, and coil maps beside a peer's.

**nufft**: milliseconds of a forward and an adjoint transform of one frame, 12 coils, 256 x 256 pixels, 34 golden-angle
spokes of 512 samples, the fastest of several rounds that take turns, on one thread unless `--threads` says otherwise;
the error is against finufft at 1e-12 in double precision. The operator includes sensitivities; the others are the
transform.

**normal**: AᴴA of the same scan.

**sense**: conjugate gradients of a 12-coil radial movie, by number of frames, with the peak memory of the process.

**redpsm**: seconds per frame and iteration of `redpsm` on the same movies.

**espirit**: the brain's maps beside sigpy's: angle between the coil vectors, and the error of `sense` with either.

sigpy and torchkbnufft take part where they can be imported.

    python benchmarks/mri.py [--part nufft] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import finufft
import numpy as np
import torch
from denoising import run_parts
from near_field import best
from torch import Tensor

from imaging.operators import CartesianMri, NonCartesianMri
from imaging.operators.coils import CirculantCgSolver
from imaging.solvers import CgSolver

N, COILS, SPOKES, SAMPLES = 256, 12, 34, 512
PIXEL_M = 1e-3


def spokes(n_frames: int = 1) -> Tensor:
    """Golden-angle spokes, 1/m: (frame, spoke, sample, 2), columns ky, kx."""
    angles = np.arange(n_frames * SPOKES) * np.pi * (math.sqrt(5) - 1) / 2
    radius = (np.arange(SAMPLES) - SAMPLES // 2) / (SAMPLES * PIXEL_M)
    points = np.stack((radius * np.sin(angles)[:, None], radius * np.cos(angles)[:, None]), axis=-1)
    return torch.as_tensor(points.reshape(n_frames, SPOKES, SAMPLES, 2))


def sensitivities(n: int = N) -> Tensor:
    """Smooth coils, Σ|m|² = 1: complex64 (1, coil, 1, n, n)."""
    at = (torch.arange(n) - n // 2) / n
    turn = 2 * math.pi * torch.arange(COILS) / COILS
    x, y = at - 0.8 * turn.cos()[:, None, None], at[:, None] - 0.8 * turn.sin()[:, None, None]
    maps = torch.exp(-(x**2 + y**2) / 0.5) * torch.exp(1j * (2 * x + y + turn[:, None, None]))
    return (maps / maps.abs().square().sum(0).sqrt())[None, :, None].to(torch.complex64)


def operator(n_frames: int = 1) -> NonCartesianMri:
    return NonCartesianMri(sensitivities(), spokes(n_frames), (PIXEL_M,) * 3)


def have(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


Transform = Callable[[np.ndarray], np.ndarray]


def plans(**options: Any) -> tuple[Transform, Transform]:
    """finufft's plans, made once: (coil, y, x) -> (coil, sample), and its adjoint."""
    ky, kx = (2 * np.pi * PIXEL_M * spokes()[0].flatten(0, 1).numpy().T).astype(np.float32)
    threads = torch.get_num_threads()
    made = []
    for kind, sign in ((2, -1), (1, 1)):
        plan = finufft.Plan(kind, (N, N), COILS, isign=sign, dtype="complex64", nthreads=threads, **options)
        plan.setpts(np.ascontiguousarray(ky), np.ascontiguousarray(kx))
        made.append(plan)
    return made[0].execute, made[1].execute


def rivals() -> Iterator[tuple[str, Transform, Transform]]:
    yield "finufft, defaults, 1e-5", *plans(eps=1e-5)
    yield "finufft, tuned, 2e-5", *plans(eps=2e-5, upsampfac=1.25, fftw=0)
    coord = (N * PIXEL_M * spokes()[0].flatten(0, 1).numpy()).astype(np.float32)
    if have("sigpy"):
        import sigpy

        for words, options in (("defaults", {}), ("width 7, oversampling 2", {"oversamp": 2.0, "width": 7})):
            op = sigpy.linop.NUFFT((COILS, N, N), coord, **options)
            yield f"sigpy, {words}", lambda x, op=op: N * op(x), lambda y, op=op: N * op.H(y)
    if have("torchkbnufft"):
        import torchkbnufft

        omega = torch.as_tensor(2 * np.pi * PIXEL_M * spokes()[0].flatten(0, 1).numpy().T).float()
        for width in (6, 8):
            there = torchkbnufft.KbNufft((N, N), numpoints=width)
            back = torchkbnufft.KbNufftAdjoint((N, N), numpoints=width)
            yield (
                f"torchkbnufft, {width} neighbours",
                lambda x, op=there: op(torch.as_tensor(x)[None], omega)[0].numpy(),
                lambda y, op=back: op(torch.as_tensor(y)[None], omega)[0].numpy(),
            )


def nufft_table(given: argparse.Namespace) -> Iterator[str]:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((COILS, N, N)) + 1j * rng.standard_normal((COILS, N, N))).astype(np.complex64)
    points = 2 * np.pi * PIXEL_M * spokes()[0].flatten(0, 1).numpy().T
    exact = finufft.nufft2d2(*map(np.ascontiguousarray, points), x.astype(complex), eps=1e-12, isign=-1)
    y = exact.astype(np.complex64)
    back = finufft.nufft2d1(*map(np.ascontiguousarray, points), exact, (N, N), eps=1e-12, isign=1)

    def gap(value: np.ndarray, wanted: np.ndarray) -> str:
        return f"{np.linalg.norm(np.asarray(value) - wanted) / np.linalg.norm(wanted):.0e}"

    yield f"NUFFT, {N} x {N}, {COILS} coils, {SPOKES} spokes x {SAMPLES}, {torch.get_num_threads()} thread(s)"
    yield ""
    yield "| transform | forward ms | error | adjoint ms | error |"
    yield "|---|---|---|---|---|"
    A = operator()
    image = torch.randn(1, 1, N, N, dtype=torch.complex64)
    samples = A(image)
    own = A.nufft

    def type2(v: np.ndarray) -> np.ndarray:
        return own.type2(A.points[0], torch.as_tensor(v), key=0).numpy()

    def type1(f: np.ndarray) -> np.ndarray:
        return own.type1(A.points[0], torch.as_tensor(f), key=0).numpy()

    rows = [("ours, the transform alone", type2, type1), *rivals()]
    times = best(
        *[lambda op=r[1]: op(x) for r in rows],
        *[lambda op=r[2]: op(y) for r in rows],
        lambda: A(image),
        lambda: A.adjoint(samples),
        repeats=given.repeats,
    )
    k = len(rows)
    yield f"| **ours, with sensitivities** | {times[-2]:.1f} | | {times[-1]:.1f} | |"
    for i, (name, there, again) in enumerate(rows):
        yield f"| {name} | {times[i]:.1f} | {gap(there(x), exact)} | {times[k + i]:.1f} | {gap(again(y), back)} |"
    yield ""


def normal_table(given: argparse.Namespace) -> Iterator[str]:
    A = operator()
    x = torch.randn(1, 1, N, N, dtype=torch.complex64)
    rows: list[tuple[str, Callable[[], Any]]] = [
        ("ours, Toeplitz, with sensitivities", lambda: A.gram(x)),
        ("ours, forward and adjoint", lambda: A.adjoint(A(x))),
    ]
    if have("torchkbnufft"):
        import torchkbnufft

        omega = torch.as_tensor(2 * np.pi * PIXEL_M * spokes()[0].flatten(0, 1).numpy().T).float()
        kernel = torchkbnufft.calc_toeplitz_kernel(omega, (N, N))
        toeplitz = torchkbnufft.ToepNufft()
        maps = sensitivities()[:, :, 0]
        rows.append(("torchkbnufft, Toeplitz, with sensitivities", lambda: toeplitz(x, kernel, smaps=maps)))
    times = best(*[r[1] for r in rows], repeats=given.repeats)
    yield "AᴴA of the same scan"
    yield ""
    yield "| product | ms |"
    yield "|---|---|"
    for (name, _), ms in zip(rows, times, strict=True):
        yield f"| {name} | {ms:.1f} |"
    yield ""


def sense_table(given: argparse.Namespace) -> Iterator[str]:
    """Each row in a process of its own, for its memory."""
    yield f"CG-SENSE of a radial movie, {COILS} coils, {SPOKES} spokes per frame, weight 0.01 ‖A‖², to 1e-4"
    yield ""
    yield "| frames | steps, plain | s | steps, preconditioned | s | memory above the import, MiB | data, MiB |"
    yield "|---|---|---|---|---|---|---|"
    for n_frames in (1, 5, 20):
        done = subprocess.run(
            [sys.executable, __file__, "--sense-frames", str(n_frames)], capture_output=True, text=True, check=True
        )
        yield done.stdout.strip()
    yield ""


def sense_row(n_frames: int) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    A = operator(n_frames)
    y = A(torch.randn(1, n_frames, 1, N, N, dtype=torch.complex64))
    b = A.adjoint(y)
    rho = 0.01 * A.norm() ** 2
    cells = []
    for solver in (CgSolver(A, rho, tol=1e-4), CirculantCgSolver(A, rho, tol=1e-4)):
        A.gram(b)  # the kernel is made
        clock = time.perf_counter()
        solver(b)
        assert solver.info is not None
        cells += [str(int(solver.info.iterations)), f"{time.perf_counter() - clock:.2f}"]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"| {n_frames} | {' | '.join(cells)} | {peak:.0f} | {y.numel() * 8 / 2**20:.0f} |"


def redpsm_table(given: argparse.Namespace) -> Iterator[str]:
    from data.simulate import MriSimulation, mri
    from pipelines.reconstruct import reconstruct

    del given
    yield "`redpsm`, radial movie of the simulated heart, 128 x 128, 8 coils, 16 spokes per frame"
    yield ""
    yield "| frames | iterations | seconds | ms per frame and iteration |"
    yield "|---|---|---|---|"
    for n_frames in (8, 24):
        m = mri(
            MriSimulation(
                object="heart",
                motion="beating",
                n=128,
                n_frames=n_frames,
                n_coils=8,
                trajectory="golden_angle",
                n_readouts=16,
                maps_known=True,
            )
        )
        clock = time.perf_counter()
        result = reconstruct(m, "redpsm")
        seconds = time.perf_counter() - clock
        n = len(result.convergence.columns["iteration"]) if result.convergence else 0
        yield f"| {n_frames} | {n} | {seconds:.1f} | {1e3 * seconds / n / n_frames:.0f} |"
    yield ""


def espirit_table(given: argparse.Namespace) -> Iterator[str]:
    from real_mri import brain, nmse_db, run, thinned

    from imaging.calibration import espirit
    from imaging.calibration.coils import centre_of
    from imaging.solvers import cg

    del given
    if not have("sigpy"):
        yield "ESPIRiT beside sigpy left out: No module named 'sigpy'; pip install sigpy"
        return
    import sigpy.mri.app

    full = torch.as_tensor(np.asarray(brain().data[0]))  # (coil, y, x)
    n_coils, ny, nx = full.shape
    clock = time.perf_counter()
    ours = espirit(centre_of(full[:, None], (1, 24, 24)), (1, ny, nx)).maps[0]
    ours_s = time.perf_counter() - clock
    clock = time.perf_counter()
    app = sigpy.mri.app.EspiritCalib(full.numpy(), calib_width=24, crop=0.8, show_pbar=False)
    theirs = torch.as_tensor(app.run())[:, None]
    theirs_s = time.perf_counter() - clock
    truth = run(brain(), "adjoint").image
    inside = torch.as_tensor(np.abs(truth)).reshape(1, ny, nx) > 0.05 * float(np.abs(truth).max())
    inner = (ours.conj() * theirs).sum(0).abs()
    size = torch.linalg.vector_norm(ours, dim=0) * torch.linalg.vector_norm(theirs, dim=0)
    angle = torch.acos((inner / size.clamp_min(1e-12)).clamp(max=1))[inside]
    yield f"ESPIRiT maps of the brain, {n_coils} coils, {ny} x {nx}, centre 24 x 24, beside sigpy's"
    yield ""
    yield (
        f"Angle between the coil vectors: median {float(angle.median()):.3f} rad, 95 % of the object below "
        f"{float(angle.quantile(0.95)):.3f} rad. Ours in {ours_s:.2f} s, sigpy's in {theirs_s:.1f} s."
    )
    yield ""
    yield "| samples | residual of the full data, ours | sigpy's | NMSE of sense, dB, ours | sigpy's |"
    yield "|---|---|---|---|---|"
    rss = np.sqrt((np.abs(images_of(full)) ** 2).sum(0))
    for kind, acceleration in (("lattice", 4), ("poisson", 6)):
        mask = torch.as_tensor(thinned(kind, acceleration, (ny, nx)) != 0)  # type: ignore[arg-type]
        cells, errors = [], []
        for maps in (ours, theirs):
            whole = CartesianMri(maps[None], torch.ones(1, 1, ny, nx, dtype=torch.bool))
            y = full[None, None, :, None]
            x = whole.regularised_solver(1e-6)(whole.adjoint(y))
            cells.append(f"{float((whole(x) - y).norm() / y.norm()):.4f}")
            A = CartesianMri(maps[None], mask[None, None])
            y = y * mask
            ridge = 1e-2 * A.norm() ** 2
            x = cg(lambda v, A=A, r=ridge: A.gram(v) + r * v, A.adjoint(y), tol=1e-4, max_iter=20)[0]
            errors.append(f"{nmse_db(x[0, 0].numpy() * inside.numpy(), rss[None] * inside.numpy()):.2f}")
        yield f"| {kind} {acceleration} | {' | '.join(cells)} | {' | '.join(errors)} |"
    yield ""


def images_of(kspace: Tensor) -> np.ndarray:
    """Coil images: (coil, y, x)."""
    one = torch.ones(1, 1, 1, *kspace.shape[1:], dtype=kspace.dtype)
    A = CartesianMri(one, torch.ones(1, 1, *kspace.shape[1:], dtype=torch.bool))
    return np.asarray(A.adjoint(kspace[:, None, None, None])[:, 0, 0].numpy())


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "nufft": nufft_table,
    "normal": normal_table,
    "sense": sense_table,
    "redpsm": redpsm_table,
    "espirit": espirit_table,
}


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--sense-frames":
        torch.set_num_threads(1)
        print(sense_row(int(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one of them; all without")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--repeats", type=int, default=15, help="of timed calls")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(radar_weights=None)
    run_parts(parser, PARTS)


if __name__ == "__main__":
    main()
