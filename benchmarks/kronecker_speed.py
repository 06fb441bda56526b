"""Speed and memory of Kronecker-structured SBL, one process and one thread: `make bench`.

    python benchmarks/kronecker_speed.py

The least processor time of several runs counts. The dense forms are those of KS 1.2 with the product matrix H: what the
published programs compute, the covariance of all coefficients, and the same without what nobody reads.
"""

from __future__ import annotations

import ctypes
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.simulate import IrsMimoSimulation, irs_scene
from imaging import sbl
from imaging.operators import Kronecker

Problem = tuple[Kronecker, Tensor, list[Tensor], Tensor]


def problem(n: Sequence[int], m: Sequence[int], dtype: torch.dtype) -> Problem:
    """A, y (1, *m), variances γ_i and σ² of a rank-one signal with three nonzeros per factor."""
    g = torch.Generator().manual_seed(0)
    A = Kronecker([torch.randn(a, b, dtype=dtype, generator=g) for a, b in zip(m, n, strict=True)])
    x = torch.zeros(1, *n, dtype=dtype)
    x[0, :3, :3, :3] = torch.randn(3, 3, 3, dtype=dtype, generator=g)
    y = A(x) + 0.1 * torch.randn(1, *m, dtype=dtype, generator=g)
    return A, y, [torch.rand(1, k, dtype=torch.float64, generator=g) for k in n], torch.tensor([0.01]).double()


def e_step(p: Problem) -> tuple[Tensor, ...]:
    """Posterior mean, variances, evidence and noise update."""
    A, y, gammas, noise_var = p
    found = sbl.e_step(A.factors, y, gammas, noise_var)
    return found.mean, found.variance, found.cost, found.noise_var_next


def dense(p: Problem, h: Tensor, *, covariance: bool) -> tuple[Tensor, ...]:
    """The same by H, (M, N); with the whole covariance, N x N, or its diagonal alone."""
    _, y, gammas, noise_var = p
    gamma = functools.reduce(torch.kron, [g[0] for g in gammas])
    v = y.flatten()
    half = h * gamma
    sigma_y = half @ h.mH
    sigma_y.diagonal().add_(noise_var[0])
    factor = torch.linalg.cholesky(sigma_y)
    gain = torch.cholesky_solve(half, factor)  # Σ_y⁻¹ H Γ
    mean = gain.mH @ v
    if covariance:
        whole = -(half.mH @ gain)
        whole.diagonal().add_(gamma)
        variance = whole.diagonal().real
    else:
        variance = gamma - (half.conj() * gain).sum(dim=0).real
    residual = v - h @ mean
    cost = 2 * factor.diagonal().real.log().sum() + torch.vdot(residual, v).real / noise_var[0]
    freedom = (1 - variance / gamma).sum()
    return mean, variance, cost, (residual.abs().square().sum() + noise_var[0] * freedom) / len(v)


def least(run: Callable[[], object], times: int) -> float:
    """Milliseconds of processor time of the fastest run."""
    best = math.inf
    for _ in range(times):
        clock = time.process_time()
        run()
        best = min(best, time.process_time() - clock)
    return 1e3 * best


def e_steps() -> list[tuple[str, float, float, float]]:
    """Problem, ms of the E-step, of the dense form, and of the dense form without the covariance."""
    rows = []
    for name, n, m, dtype in (
        ("15 x 15 x 15 from 8 x 12 x 15, float64", (15,) * 3, (8, 12, 15), torch.float64),
        ("18 x 18 x 18 from 6 x 3 x 16, complex128", (18,) * 3, (6, 3, 16), torch.complex128),
    ):
        p = problem(n, m, dtype)
        h = functools.reduce(torch.kron, p[0].factors)
        fast = least(functools.partial(e_step, p), 200)
        times = [least(functools.partial(dense, p, h, covariance=c), 2) for c in (True, False)]
        for found, expected in zip(e_step(p), dense(p, h, covariance=False), strict=True):
            torch.testing.assert_close(found.flatten(), expected.flatten(), rtol=1e-6, atol=1e-9)
        rows.append((name, fast, *times))
    return rows


def surface_estimates() -> list[tuple[float, float, float, float]]:
    """SNR (dB), ms of an estimate by krosbl-mm alone, on average and the slowest, and MB that it takes at most.

    Processor time; 20 block-sparse channels of KS 3.6, 18 x 18 x 18 unknowns, each estimated three times.
    """
    rows = []
    for snr_db in (4.0, 12.0, 20.0):
        times, most = [], 0.0
        for trial in range(-1, 20):  # the first is not counted: it warms up
            scene = irs_scene(IrsMimoSimulation(new_training=True, snr_db=None, seed=3), max(trial, 0))
            A = Kronecker([torch.from_numpy(scene.factors[i]) for i in (0, 1)] + [torch.from_numpy(scene.factors[2])])
            clean = torch.from_numpy(scene.clean[0]).transpose(2, 3)
            noise_var = clean.abs().square().mean() * 10 ** (-snr_db / 10)
            g = torch.Generator().manual_seed(trial + 1)
            y = (clean + noise_var.sqrt() * torch.randn(clean.shape, dtype=clean.dtype, generator=g)).contiguous()
            run = functools.partial(estimate, A, y, float(noise_var))
            milliseconds, used = least(run, 3), peak(run)
            if trial >= 0:
                times.append(milliseconds)
                most = max(most, used)
        rows.append((snr_db, sum(times) / len(times), max(times), most))
    return rows


def estimate(A: Kronecker, y: Tensor, noise_var: float) -> Tensor:
    """krosbl-mm."""
    state, _, _ = sbl.estimate(A, y, sbl.svd_mm_krosbl, stop=sbl.settled(), noise_var=noise_var)
    return sbl.polish(A, y, state)[0].x


def growth() -> list[tuple[str, int, int, float, float]]:
    """Unknowns, N, M, ms of an iteration of krosbl-mm (E-step and M-step), MB that it takes at most; complex128."""
    sizes = ((8, (4, 6, 8)), (15, (8, 12, 15)), (18, (6, 3, 16)), (32, (16, 24, 32)), (48, (24, 36, 48)))
    rows = []
    for k, m in (*sizes, (64, (32, 48, 64))):
        A, y, _, noise_var = problem((k,) * 3, m, torch.complex128)
        states = sbl.mm_krosbl(A, y, noise_var=noise_var)
        for _ in range(3):
            next(states)
        run = functools.partial(next, states)
        rows.append((f"{k} x {k} x {k}", k**3, math.prod(m), least(run, 20), peak(run)))
    return rows


def peak(run: Callable[[], object]) -> float:
    """MB that a run takes at most, above what was there; Linux with glibc."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs have left would serve this one
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of what follows
    run()
    return max(0.0, memory("VmHWM") - before)


def memory(name: str) -> float:
    """MB of this process, of /proc/self/status."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def lines() -> list[str]:
    """Sections of speed, as markdown."""
    torch.set_num_threads(1)
    text = [
        "## Speed: one process, one thread",
        "",
        "Processor time, the least of several runs. E-step: mean, variances, evidence and noise update.",
    ]
    text += ["Dense: by the product matrix, with the covariance of all coefficients as published, or its diagonal.", ""]
    text += ["| problem | E-step, ms | dense, ms | ratio | dense, diagonal, ms | ratio |", "|---" * 6 + "|"]
    for name, fast, whole, diagonal in e_steps():
        ratios = f"{whole / fast:.0f} | {diagonal:.0f} | {diagonal / fast:.0f}"
        text.append(f"| {name} | {fast:.2f} | {whole:.0f} | {ratios} |")
    text += ["", "An estimate by krosbl-mm alone, block-sparse channel (KS 3.6), 20 channels:", ""]
    text += ["| SNR, dB | ms on average | ms at most | MB at most |", "|---" * 4 + "|"]
    text += [f"| {snr:g} | {mean:.0f} | {most:.0f} | {mb:.1f} |" for snr, mean, most, mb in surface_estimates()]
    text += ["", "## Growth: one iteration of krosbl-mm, one thread, complex128", ""]
    text += ["| unknowns | N | M | ms | MB at most |", "|---" * 5 + "|"]
    text += [f"| {n} | {size} | {m} | {ms:.3g} | {mb:.2g} |" for n, size, m, ms, mb in growth()]
    return [*text, ""]


if __name__ == "__main__":
    print("\n".join(lines()))
