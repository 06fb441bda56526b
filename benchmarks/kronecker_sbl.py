"""Kronecker-structured sparse Bayesian learning, Monte Carlo: every curve of KS 3, beside the published figures.

Trials are drawn from fixed seeds and estimated in batches. A finished cell (experiment, abscissa, method) is kept in
--folder, so that the same command goes on where it was stopped, and --trials can grow. Tables, CSV and a picture come
from what is there.

    python benchmarks/kronecker_sbl.py [--folder DIR] [-j N] [--trials N] [--experiment NAME]... [--markdown FILE]
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import json
import math
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kronecker_published as published
import kronecker_speed
import numpy as np
import torch
from torch import Tensor

from data.simulate import IrsMimoSimulation, irs_scene
from imaging import metrics, sbl
from imaging.operators import Kronecker
from imaging.operators.kronecker import mode_products
from imaging.operators.steering import array_coordinates, steering
from imaging.sbl import classical, combined, decomposed, greedy
from imaging.sbl.least_squares import oracle_least_squares
from imaging.sbl.offgrid import Steering, largest_peaks
from imaging.solvers.run import run_batch

SNRS = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
BLOCK_SNRS = (4.0, 8.0, 12.0, 16.0, 20.0)
#: Trials estimated at once.
BATCH = 25
#: A trial with a larger error has failed.
FAILED = 0.1
FIGURES = ("nmse", "srr", "ser", "iterations", "seconds", "noise")


@dataclass(frozen=True)
class Trials:
    """Problems of one cell: factors stacked or shared, samples, truth.

    Attributes:
        A, y, noise_var: of the batch, (n, ...).
        x: true coefficients.
        lift: matrices from coefficients to channels, None where NMSE is that of the coefficients.
        snr: as a factor, for symbols.
        delta: share of the largest coefficient from which on one counts as found.
        order: of the constellation.
    """

    A: Kronecker
    y: Tensor
    noise_var: Tensor
    x: Tensor
    lift: tuple[Tensor, ...] | None = None
    snr: float = 0.0
    delta: float = 1e-3
    order: int = 4

    def score(self, x: Tensor) -> dict[str, Tensor]:
        """Figures (n,) of an estimate."""
        srr = metrics.support_overlap(x, self.x, threshold=self.delta)
        if self.lift is None:
            return {"nmse": metrics.complex_nmse(x, self.x, dims=3), "srr": srr}
        # (n, config, tx, rx) to (n, config, rx, tx)
        estimate, truth = (mode_products(v, self.lift).transpose(2, 3) for v in (x, self.x))
        ser = metrics.symbol_error_rate(estimate, truth, self.snr, order=self.order).mean(-1)
        return {"nmse": metrics.complex_nmse(estimate, truth).mean(-1), "srr": srr, "ser": ser}


Estimate = Callable[[Trials], tuple[Tensor, Tensor, Tensor | None]]


# -- problems -----------------------------------------------------------------------------------------------


def synthetic(
    trials: range,
    *,
    snr_db: float,
    rows: int = 8,
    nonzeros: int = 3,
    generic: bool = False,
    reference: int | None = None,
) -> Trials:
    """KS 3.1: real Gaussian factors, 15 unknowns each, M = (rows, 12, 15); rows and supports are nested.

    The noise's variance follows from the power of the measurement with `reference` rows; None takes `rows`.
    """
    size, most = 15, 6
    factors: list[list[np.ndarray]] = [[], [], []]
    xs, ys, variances = [], [], []
    for trial in trials:
        g = np.random.default_rng([1, trial])
        full = [g.standard_normal((m, size)) for m in (14, 12, 15)]
        support = [g.permutation(size)[:nonzeros] for _ in range(3)]
        parts = [g.standard_normal(most)[:nonzeros] for _ in range(3)]
        values = g.standard_normal((most,) * 3)[:nonzeros, :nonzeros, :nonzeros]
        noise = g.standard_normal((14, 12, 15))
        x = np.zeros((size,) * 3)
        x[np.ix_(*support)] = values if generic else np.einsum("i,j,k->ijk", *parts)
        clean = np.einsum("ai,bj,ck,ijk->abc", *full, x, optimize=True)
        variance = float(np.mean(clean[: reference or rows] ** 2)) * 10 ** (-snr_db / 10)
        ys.append((clean + math.sqrt(variance) * noise)[:rows])
        xs.append(x)
        variances.append(variance)
        for store, a, m in zip(factors, full, (rows, 12, 15), strict=True):
            store.append(a[:m])
    A = Kronecker([torch.from_numpy(np.stack(f)) for f in factors])
    return Trials(
        A, torch.from_numpy(np.stack(ys)), torch.tensor(variances, dtype=torch.float64), torch.from_numpy(np.stack(xs))
    )


def surface(trials: range, *, snr_db: float, order: int = 4, **settings: Any) -> Trials:
    """KS 2: pilots over a surface, pilots and patterns drawn anew for each trial."""
    config = IrsMimoSimulation(new_training=True, snr_db=None, seed=3, **settings)
    scenes = [irs_scene(config, trial) for trial in trials]
    factors = [torch.from_numpy(np.stack([s.factors[i] for s in scenes])) for i in range(3)]
    lines = array_coordinates(torch.from_numpy(config.elements_m("tx")))
    transmit = steering(lines, torch.from_numpy(config.directions("tx")), config.wavelength_m).conj()
    clean = torch.from_numpy(np.stack([s.clean[0, 0] for s in scenes])).transpose(2, 3)
    variance = clean.abs().square().mean((1, 2, 3)) * 10 ** (-snr_db / 10)
    noise = torch.from_numpy(
        np.stack([np.random.default_rng([4, t]).standard_normal((*clean.shape[1:], 2)) for t in trials])
    )
    y = clean + (variance / 2).sqrt()[:, None, None, None] * torch.view_as_complex(noise)
    return Trials(
        A=Kronecker([*factors[:2], factors[2][0]]),
        y=y.contiguous(),
        noise_var=variance,
        x=torch.from_numpy(np.stack([s.coefficients[0, 0] for s in scenes])),  # type: ignore[index]
        lift=(factors[0], transmit, factors[2][0]),
        snr=10 ** (snr_db / 10),
        delta=1e-4,
        order=order,
    )


# -- methods ------------------------------------------------------------------------------------------------


def em(
    solver: Callable[..., Any], *, known: bool = True, max_iter: int = 150, tol: float = 1e-4, **options: Any
) -> Estimate:
    """An estimator with the published stopping rule, or with ours where `tol` is 0."""
    stop = sbl.gamma_change_below(tol) if tol else sbl.evidence_change_below(1e-6)

    def run(t: Trials) -> tuple[Tensor, Tensor, Tensor | None]:
        noise = {"noise_var": t.noise_var} if known else {}
        state, _, iterations = sbl.estimate(t.A, t.y, solver, stop=stop, max_iter=max_iter, **noise, **options)
        return state.x, iterations, None if known else state.noise_var / t.noise_var

    return run


def one_by_one(estimate: Estimate) -> Estimate:
    """Problem by problem: SBL drops the columns that no problem of its batch uses any more."""

    def run(t: Trials) -> tuple[Tensor, Tensor, Tensor | None]:
        found = []
        for i in range(len(t.y)):
            index = torch.tensor([i])
            found.append(
                estimate(dataclasses.replace(t, A=t.A.select(index), y=t.y[index], noise_var=t.noise_var[index]))
            )
        x, iterations, _ = zip(*found, strict=True)
        return torch.cat(x), torch.cat(iterations), None

    return run


def greedy_kronecker(t: Trials) -> tuple[Tensor, Tensor, Tensor | None]:
    state, _, iterations = run_batch(
        lambda i, start: greedy.komp(t.A.select(i), t.y[i], start=start), len(t.y), stop=greedy.finished, max_iter=30
    )
    return state.x, iterations, None


def greedy_plain(t: Trials) -> tuple[Tensor, Tensor, Tensor | None]:
    def solve(i: Tensor, start: Any) -> Iterator[greedy.GreedyState]:
        return greedy.omp(t.A.select(i), t.y[i], noise_var=t.noise_var[i], max_atoms=50, start=start)

    state, _, iterations = run_batch(solve, len(t.y), stop=greedy.finished, max_iter=50)
    return state.x, iterations, None


def oracle(t: Trials) -> tuple[Tensor, Tensor, Tensor | None]:
    power = t.x.abs()
    masks = [power.sum([k for k in (1, 2, 3) if k != i]) > 0 for i in (1, 2, 3)]
    return oracle_least_squares(t.A, t.y, masks), torch.zeros(len(t.y)), None


def rank_one_oracle(t: Trials) -> tuple[Tensor, Tensor, Tensor | None]:
    power = t.x.abs()
    masks = [power.sum([k for k in (1, 2, 3) if k != i]) > 0 for i in (1, 2, 3)]
    return decomposed.rank_one_polish(t.A, t.y, masks)[0], torch.zeros(len(t.y)), None


def ours(*, known: bool = True, check: bool = True, **options: Any) -> Estimate:
    """krosbl-mm as the command line has it."""

    def run(t: Trials) -> tuple[Tensor, Tensor, Tensor | None]:
        noise = {"noise_var": t.noise_var} if known else {}
        state, _, iterations = sbl.estimate(
            t.A, t.y, combined.svd_mm_krosbl, stop=combined.settled(), max_iter=300, **noise, **options
        )
        if check:
            state, _ = combined.polish(t.A, t.y, state)
        return state.x, iterations, None if known else state.noise_var / t.noise_var

    return run


def wide_svd(width: float = 100.0) -> Estimate:
    """krosbl-svd as the command line has it."""

    def run(t: Trials) -> tuple[Tensor, Tensor, Tensor | None]:
        state, _, iterations = sbl.estimate(t.A, t.y, sbl.svd_krosbl, noise_var=t.noise_var, width=width)
        return state.x, iterations, None

    return run


DEFAULT = {
    "krosbl-mm": ours(),
    "krosbl-mm, noise unknown": ours(known=False),
    "krosbl-mm, no polish": ours(check=False),
    "krosbl-mm, plain": em(sbl.mm_krosbl, tol=0.0, max_iter=300, prune=1e-3),
    "krosbl-svd, wide start": wide_svd(),
    "krosbl-svd, width 1": wide_svd(1.0),
}
ONE = {"start_var": 1.0}
#: Published thresholds of KS 1.8.
SYNTHETIC: dict[str, Estimate] = {
    "krosbl-am": em(sbl.am_krosbl, prune=1e-2, inner_tol=0.0, inner_atol=1e-5, **ONE),
    "krosbl-svd": em(sbl.svd_krosbl, prune=1e-3, **ONE),
    "ksbl": em(sbl.ksbl, prune=1e-2, **ONE),
    **DEFAULT,
    "krosbl-am, noise unknown": em(sbl.am_krosbl, known=False, prune=5e-3, inner_tol=0.0, inner_atol=1e-5, **ONE),
    "krosbl-svd, noise unknown": em(sbl.svd_krosbl, known=False, prune=5e-4, **ONE),
    "dsbl": em(decomposed.dsbl, known=False, tol=1e-5, max_iter=200),
    "komp": greedy_kronecker,
    "oracle": oracle,
    "oracle, rank one": rank_one_oracle,
}
CLASSICAL = {"sbl": one_by_one(em(classical.sbl, prune=1e-3, **ONE))}
IRS = {"prune_below": 1e-4, "start_var": 1.0}
SURFACE: dict[str, Estimate] = {
    "krosbl-svd": em(sbl.svd_krosbl, prune=0.0, **IRS),
    "krosbl-am": em(sbl.am_krosbl, prune=(1e-2, 1e-1, 1e-3), **IRS),
    "pckrosbl 0.8": em(sbl.pc_krosbl, coupling=(0.8, 0.0, 0.8), prune=(1e-2, 1e-1, 1e-2), **IRS),
    "pckrosbl 0.5": em(sbl.pc_krosbl, coupling=(0.5, 0.0, 0.5), prune=(1e-2, 1e-1, 1e-2), **IRS),
    "sbl": one_by_one(em(classical.sbl, prune=1e-4, start_var=1.0)),
    "pcsbl": em(classical.pcsbl),
    **DEFAULT,
    "krosbl-mm, coupling 0.5": ours(coupling=(0.5, 0.0, 0.5)),
    "krosbl-mm, plain 0.5": em(sbl.mm_krosbl, tol=0.0, max_iter=300, coupling=(0.5, 0.0, 0.5)),
    "krosbl-mm, plain 0.8": em(sbl.mm_krosbl, tol=0.0, max_iter=300, coupling=(0.8, 0.0, 0.8)),
    "dsbl": em(decomposed.dsbl, known=False, tol=1e-5, max_iter=200),
    "oracle": oracle,
    "oracle, rank one": rank_one_oracle,
}
#: The six of the published experiment.
SIX = ("krosbl-svd", "krosbl-am", "pckrosbl 0.8", "pckrosbl 0.5", "sbl", "pcsbl")


@dataclass(frozen=True)
class Experiment:
    """Curves over one abscissa."""

    title: str
    abscissa: str
    values: tuple[float, ...]
    trials: int
    problem: Callable[[range, float], Trials]
    methods: dict[str, Estimate]
    few: dict[str, int] = dataclasses.field(default_factory=dict)  # trials of slow methods


def _some(methods: dict[str, Estimate], *names: str) -> dict[str, Estimate]:
    return {name: methods[name] for name in names}


EXPERIMENTS: dict[str, Experiment] = {
    "blocks": Experiment(
        "block-sparse channel over a surface, 3 pilots, 6 patterns (KS 3.6)",
        "SNR (dB)",
        BLOCK_SNRS,
        50,
        lambda trials, v: surface(trials, snr_db=v),
        SURFACE,
    ),
    "snr": Experiment(
        "synthetic, 15 x 15 x 15, M = 8 x 12 x 15, K = 3, against the noise (KS 3.3)",
        "SNR (dB)",
        SNRS,
        200,
        lambda trials, v: synthetic(trials, snr_db=v),
        {**SYNTHETIC, **CLASSICAL},
        {"sbl": 3},
    ),
    "rows": Experiment(
        "synthetic, against the rows of factor 1, 25 dB (KS 3.3)",
        "rows of factor 1",
        (6, 8, 10, 12, 14),
        200,
        lambda trials, v: synthetic(trials, snr_db=25.0, rows=int(v), reference=14),
        {**SYNTHETIC, **CLASSICAL},
        {"sbl": 3},
    ),
    "nonzeros": Experiment(
        "synthetic, against the nonzeros of each factor, 25 dB (KS 3.3)",
        "nonzeros per factor",
        (2, 3, 4, 5, 6),
        200,
        lambda trials, v: synthetic(trials, snr_db=25.0, nonzeros=int(v)),
        {**SYNTHETIC, **CLASSICAL},
        {"sbl": 3},
    ),
    "generic": Experiment(
        "synthetic, independent values on a Kronecker support: not of rank one (KS 5.5)",
        "SNR (dB)",
        SNRS,
        100,
        lambda trials, v: synthetic(trials, snr_db=v, generic=True),
        _some(SYNTHETIC, "krosbl-am", "krosbl-svd", *DEFAULT, "dsbl", "oracle"),
    ),
    "clusters": Experiment(
        "channel over a surface, two departures from the mobile, 4 pilots, 10 patterns: not of rank one",
        "SNR (dB)",
        SNRS,
        50,
        lambda trials, v: surface(trials, snr_db=v, clusters=2, n_pilots=4, n_configs=10),
        _some(SURFACE, "krosbl-am", "krosbl-svd", *DEFAULT, "pckrosbl 0.8", "dsbl"),
    ),
    "decomposed": Experiment(
        "channel over a surface, 4 pilots, 10 patterns, 8-QAM (KS 3.8)",
        "SNR (dB)",
        SNRS,
        50,
        lambda trials, v: surface(trials, snr_db=v, order=8, n_pilots=4, n_configs=10),
        {
            **_some(SURFACE, "krosbl-svd", "krosbl-am", *DEFAULT, "dsbl", "oracle", "oracle, rank one", "sbl"),
            "omp": greedy_plain,
        },
        {"sbl": 10},
    ),
    **{
        f"patterns-{k}": Experiment(
            f"channel over a surface, 6 pilots, {k} patterns (KS 3.1, ICASSP 2023; no published values)",
            "SNR (dB)",
            SNRS,
            100,
            lambda trials, v, k=k: surface(trials, snr_db=v, n_pilots=6, n_configs=k),  # type: ignore[misc]
            {**_some(SURFACE, "krosbl-svd", "krosbl-am", "krosbl-mm", "krosbl-mm, plain"), "omp": greedy_plain},
        )
        for k in (4, 6, 8, 10)
    },
}


# -- running ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The smallest part that is kept: BATCH trials of one method at one abscissa."""

    experiment: str
    value: float
    method: str
    first: int
    n: int

    def path(self, folder: Path) -> Path:
        name = "".join(c if c.isalnum() or c in "-." else "_" for c in self.method)
        return folder / self.experiment / f"{name}-{self.value:g}-{self.first}-{self.n}.npz"


def cells(names: Sequence[str], most: int | None) -> Iterator[Cell]:
    for name in names:
        e = EXPERIMENTS[name]
        for method, value in itertools.product(e.methods, e.values):
            n = min(e.few.get(method, e.trials), most or e.trials)
            for first in range(0, n, BATCH):
                yield Cell(name, value, method, first, min(BATCH, n - first))


def run_cell(cell: Cell, folder: Path) -> None:
    torch.set_num_threads(1)
    e = EXPERIMENTS[cell.experiment]
    trials = e.problem(range(cell.first, cell.first + cell.n), cell.value)
    clock = time.perf_counter()
    x, iterations, noise = e.methods[cell.method](trials)
    seconds = (time.perf_counter() - clock) / cell.n
    scores = trials.score(x)
    scores |= {"iterations": iterations.to(torch.float64), "seconds": torch.full((cell.n,), seconds)}
    if noise is not None:
        scores["noise"] = noise
    path = cell.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as f:
        np.savez(f, **{k: v.numpy() for k, v in scores.items()})
    part.replace(path)


def run(todo: Sequence[Cell], folder: Path, jobs: int) -> None:
    missing = [cell for cell in todo if not cell.path(folder).exists()]
    missing.sort(key=lambda cell: cell.method in EXPERIMENTS[cell.experiment].few)  # the slowest last
    print(f"{len(todo) - len(missing)} of {len(todo)} cells are there", flush=True)
    clock = time.perf_counter()

    def tell(i: int, cell: Cell) -> None:
        spent = time.perf_counter() - clock
        print(f"[{i}/{len(missing)}] {spent:.0f} s: {cell.experiment} {cell.value:g} {cell.method}", flush=True)

    if jobs == 1:
        for i, cell in enumerate(missing, 1):
            run_cell(cell, folder)
            tell(i, cell)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for i, (cell, _) in enumerate(
            zip(missing, pool.map(run_cell, missing, [folder] * len(missing)), strict=True), 1
        ):
            tell(i, cell)


# -- convergence, off-grid directions, growth: one table each -----------------------------------------------


#: Solvers of the convergence experiments, most iterations and options.
COURSES: dict[str, tuple[Callable[..., Any], int, dict[str, float]]] = {
    "krosbl-am": (sbl.am_krosbl, 2048, {"inner_tol": 0.0, "inner_atol": 1e-10}),
    "krosbl-svd": (sbl.svd_krosbl, 512, {}),
    "ksbl": (sbl.ksbl, 2048, {}),
    "krosbl-mm, plain": (sbl.mm_krosbl, 512, {}),
    "sbl": (classical.sbl, 64, {}),
}


def convergence(*, generic: bool, known: bool) -> dict[str, list[float]]:
    """KS 3.5: NMSE after every iteration, one instance, 14 rows, 4 nonzeros, 30 dB, no pruning."""
    t = synthetic(range(1), snr_db=30.0, rows=14, nonzeros=4, generic=generic)
    noise = {"noise_var": t.noise_var} if known else {}
    curves = {}
    for name, (solver, most, options) in COURSES.items():
        if generic and name == "sbl":
            continue
        states = solver(t.A, t.y, prune=0.0, start_var=1.0, **noise, **options)
        curves[name] = [float(metrics.complex_nmse(s.x, t.x, dims=3)) for s in itertools.islice(states, most)]
    return curves


#: Name of a file, title, options of `convergence`.
CONVERGENCE: tuple[tuple[str, str, dict[str, bool]], ...] = (
    ("rank-one", "rank one, noise known", {"generic": False, "known": True}),
    ("known", "independent values, noise known", {"generic": True, "known": True}),
    ("unknown", "independent values, noise unknown", {"generic": True, "known": False}),
)


def courses(folder: Path) -> list[tuple[str, dict[str, list[float]]]]:
    return [
        (title, kept(folder / f"convergence-{name}.json", functools.partial(convergence, **options)))
        for name, title, options in CONVERGENCE
    ]


def draw_convergence(path: Path, folder: Path) -> None:
    """NMSE against iterations; dashes: where the published curves end (KS 3.5, another instance)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    first = None
    for k, (title, curves) in enumerate(courses(folder)):
        axes = figure.add_subplot(1, 3, k + 1, sharey=first)
        first = first or axes
        for n, (name, values) in enumerate(curves.items()):
            axes.loglog(range(1, len(values) + 1), values, label=name, color=f"C{n}", lw=1.2)
            end = published.CONVERGED[k].get(name)
            if end is not None:
                axes.axhline(end, ls="--", color=f"C{n}", lw=0.7)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    assert first is not None
    first.set_ylabel("NMSE")
    figure.savefig(path, metadata={"Software": "backcast"})


def noiseless_rank() -> dict[str, list[float]]:
    """KS 3.1: second over first singular value of |μ|² + diag Σ, 15 x 225, after 1, 2, 4, ... iterations at 120 dB."""
    t = synthetic(range(1), snr_db=120.0, rows=14, nonzeros=4)
    curves = {}
    for name, solver in (("krosbl-am", sbl.am_krosbl), ("krosbl-svd", sbl.svd_krosbl), ("krosbl-mm", sbl.mm_krosbl)):
        ratios = []
        for state in itertools.islice(solver(t.A, t.y, noise_var=t.noise_var, prune=0.0, start_var=1.0), 150):  # type: ignore[operator]
            if state.iteration & (state.iteration - 1) == 0:
                values = torch.linalg.svdvals((state.x.square() + state.variance)[0].flatten(1))
                ratios.append(float(values[1] / values[0]))
        curves[name] = ratios
    return curves


def directions(n_sources: int, n_patterns: int, snr_db: float, trials: int) -> tuple[float, float]:
    """KS 3.9: one factor, 256 elements, 180 directions to start from: mean squared error, and detection (below 1e-6).

    Sources are uniform in [-0.9, 0.9], at least 0.1 apart, with circular Gaussian amplitudes; as many of the largest
    peaks are taken as there are sources. One draw of patterns serves all trials.
    """
    n = 256
    g = np.random.default_rng([9, n_sources, n_patterns, int(snr_db)])
    grid = torch.linspace(-1, 1, 181, dtype=torch.float64)[:-1]
    mixing = torch.from_numpy(np.exp(2j * np.pi * g.uniform(size=(n_patterns, n))) / math.sqrt(n))
    ray = Steering(mixing, torch.arange(n, dtype=torch.float64), grid, n**-0.5)
    rows = []
    while len(rows) < trials:
        row = np.sort(g.uniform(-0.9, 0.9, n_sources))
        if np.diff(row).min() > 0.1:
            rows.append(row)
    theta = torch.from_numpy(np.stack(rows))
    gains = torch.view_as_complex(torch.from_numpy(g.standard_normal((trials, n_sources, 2)))) / math.sqrt(2)
    clean = (ray.atoms(theta) @ gains[..., None]).squeeze(-1)
    variance = clean.abs().square().mean(1, keepdim=True) * 10 ** (-snr_db / 10)
    noise = torch.view_as_complex(torch.from_numpy(g.standard_normal((trials, n_patterns, 2))))
    state, _, _ = sbl.estimate(
        Kronecker([ray.atoms(grid[None])[0]]),
        clean + (variance / 2).sqrt() * noise,
        decomposed.dsbl,
        stop=sbl.gamma_change_below(1e-4),
        max_iter=200,
        steering=[ray],
        n_paths=[8],
    )
    power = state.x.abs().square() + state.variance
    order = state.angles.argsort(dim=1)
    peaks = largest_peaks(power.gather(1, order), n_sources)
    found = state.angles.gather(1, order).gather(1, peaks).sort(dim=1).values
    error = (found - theta).square().mean(1).clamp_max(1.0)
    return float(error.mean()), float((error < 1e-6).double().mean())


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, from a JSON file once it is there."""
    if not path.exists():
        found = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.replace(path)
        print(path.stem, flush=True)
    return json.loads(path.read_text())


# -- what comes out -----------------------------------------------------------------------------------------


def gathered(
    names: Sequence[str], folder: Path, most: int | None
) -> dict[tuple[str, str, float], dict[str, np.ndarray]]:
    found: dict[tuple[str, str, float], list[dict[str, np.ndarray]]] = {}
    for cell in cells(names, most):
        path = cell.path(folder)
        if path.exists():
            with np.load(path) as f:
                found.setdefault((cell.experiment, cell.method, cell.value), []).append({k: f[k] for k in f.files})
    return {key: {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} for key, parts in found.items()}


def write_csv(path: Path, table: dict[tuple[str, str, float], dict[str, np.ndarray]]) -> None:
    with path.open("w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        head = ["experiment", "method", "abscissa", "trials", "nmse_mean", "nmse_median", "nmse_standard_error"]
        head += ["error_mean_unsquared", "failed", "srr_mean", "ser_mean", "iterations_mean", "seconds", "noise_median"]
        out.writerow(head)
        for (experiment, method, value), v in table.items():
            nmse = v["nmse"]
            mean = {k: f"{v[k].mean():.4g}" if k in v else "" for k in FIGURES}
            row = [experiment, method, f"{value:g}", len(nmse), f"{nmse.mean():.4g}", f"{np.median(nmse):.4g}"]
            row += [
                f"{nmse.std() / math.sqrt(len(nmse)):.2g}",
                f"{np.sqrt(nmse).mean():.4g}",
                int((nmse > FAILED).sum()),
            ]
            row += [mean["srr"], mean["ser"], mean["iterations"], mean["seconds"]]
            out.writerow([*row, f"{np.median(v['noise']):.4g}" if "noise" in v else ""])


def _g(value: float) -> str:
    return f"{value:.2g}" if value else "0"


def _line(name: str, values: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(values) + " |"


def section(name: str, table: dict[tuple[str, str, float], dict[str, np.ndarray]]) -> list[str]:
    """A markdown section of one experiment: mean (median) NMSE, failures, SER; published lines in italics."""
    e = EXPERIMENTS[name]
    methods = [m for m in e.methods if all((name, m, v) in table for v in e.values)]
    if not methods:
        return []
    counts = sorted({len(table[name, m, e.values[0]]["nmse"]) for m in methods})
    absent = [m for m in e.methods if m not in methods]
    trials = f"{counts[-1]} trials" + (f" ({counts[0]} of the slowest method)" if len(counts) > 1 else "")
    missing = f" Not run to the end: {', '.join(absent)}." if absent else ""
    lines = [f"## {name}: {e.title}", "", f"{trials}.{missing} Mean (median) NMSE over {e.abscissa}:", ""]
    head = [f"{v:g}" for v in e.values]
    lines += [_line("method", [*head, "ms per solve"]), "|---" * (len(head) + 2) + "|"]

    def cell(m: str, v: float) -> dict[str, np.ndarray]:
        return table[name, m, v]

    for m in methods:
        values = [f"{_g(cell(m, v)['nmse'].mean())} ({_g(float(np.median(cell(m, v)['nmse'])))})" for v in e.values]
        times = [1e3 * float(cell(m, v)["seconds"].mean()) for v in e.values]
        lines.append(_line(m, [*values, f"{min(times):.2g} to {max(times):.2g}"]))
    for words, source in _references(name):
        lines += [_line(f"*{m}, {words}*", [*map(_g, values), ""]) for m, values in source.items() if m in e.methods]
    lines += ["", f"Trials with an NMSE above {FAILED:g}:", "", _line("method", head), "|---" * (len(head) + 1) + "|"]
    lines += [_line(m, [str(int((cell(m, v)["nmse"] > FAILED).sum())) for v in e.values]) for m in methods]
    if "ser" in cell(methods[0], e.values[0]):
        lines += ["", "Symbol error rate, mean:", "", _line("method", head), "|---" * (len(head) + 1) + "|"]
        lines += [_line(m, [_g(float(cell(m, v)["ser"].mean())) for v in e.values]) for m in methods]
        if name == "blocks":
            lines += [_line(f"*{m}, published*", [*map(_g, v[2])]) for m, v in published.BLOCKS.items()]
    if (name, "krosbl-svd") in published.UNSQUARED:
        lines += [
            "",
            "Mean unsquared error, comparable with the published figures, and mean support recovery rate:",
            "",
        ]
        lines += [_line("method", head), "|---" * (len(head) + 1) + "|"]
        for m in methods:
            lines.append(_line(m, [_g(float(np.sqrt(cell(m, v)["nmse"]).mean())) for v in e.values]))
            if (name, m) in published.UNSQUARED:
                lines.append(_line(f"*{m}, published*", [*map(_g, published.UNSQUARED[name, m])]))
        for m in methods:
            lines.append(_line(f"SRR {m}", [f"{cell(m, v)['srr'].mean():.3f}" for v in e.values]))
            if (name, m) in published.SUPPORT:
                lines.append(_line(f"*SRR {m}, published*", [f"{v:.3f}" for v in published.SUPPORT[name, m]]))
    return [*lines, ""]


def _references(name: str) -> list[tuple[str, dict[str, tuple[float, ...]]]]:
    if name == "blocks":
        means = {m: v[0] for m, v in published.BLOCKS.items()}
        return [("published mean", means), ("exact arithmetic, KS 3.7, mean", published.BLOCKS_EXACT)]
    if name == "decomposed":
        return [("published mean", published.DECOMPOSED)]
    medians = {m: v for (e, m), v in published.MEDIAN.items() if e == name}
    return [("exact arithmetic, KS 3.3, median", medians)] if medians else []


def _direction_lines(folder: Path, trials: int) -> list[str]:
    def found(s: int, k: int, snr: float) -> tuple[float, float]:
        error, detected = kept(
            folder / f"directions-{s}-{k}-{snr:g}-{trials}.json", lambda: directions(s, k, snr, trials)
        )
        return error, detected

    lines = ["", f"## Off-grid directions, one factor, {trials} trials (KS 3.9)", ""]
    lines += ["Mean squared error against SNR, 50 patterns, and share of trials below 1e-6:", ""]
    lines += [_line("sources", [f"{s:g} dB" for s in SNRS]), "|---" * 7 + "|"]
    for s in (2, 4, 6):
        against = [found(s, 50, snr) for snr in SNRS]
        lines.append(_line(f"{s}, error", [_g(e) for e, _ in against]))
        lines.append(_line(f"*{s}, published*", [*map(_g, published.DIRECTIONS[s])]))
        lines.append(_line(f"{s}, detected", [f"{d:.2f}" for _, d in against]))
    patterns = range(20, 51, 5)
    lines += ["", "Share of trials below 1e-6 against patterns, 30 dB:", ""]
    lines += [_line("sources", [str(k) for k in patterns]), "|---" * 8 + "|"]
    for s in (2, 4, 6):
        lines.append(_line(str(s), [f"{found(s, k, 30.0)[1]:.2f}" for k in patterns]))
        lines.append(_line(f"*{s}, published*", [f"{v:.2f}" for v in published.DETECTION[s]]))
    return lines


def extras(folder: Path, trials: int) -> list[str]:
    """Sections of what is not a cell."""
    lines = ["## Convergence: one instance, M = 14 x 12 x 15, K = 4, 30 dB, no pruning (KS 3.5)", ""]
    lines += ["![NMSE against iterations](kronecker_convergence.png)", ""]
    lines += ["Unsquared error; published end values, of another instance, in italics:", ""]
    wanted = [2**k for k in range(12)]
    for k, (title, curves) in enumerate(courses(folder)):
        lines += [_line(f"{title}: iteration", [*map(str, wanted), "*published*"]), "|---" * 14 + "|"]
        for name, values in curves.items():
            end = published.CONVERGED[k].get(name)
            row = [_g(math.sqrt(values[i - 1])) if i <= len(values) else "" for i in wanted]
            lines.append(_line(name, [*row, "" if end is None else f"*{_g(math.sqrt(end))}*"]))
        lines.append("")
    heads = [str(i) for i in wanted]
    lines += ["Noise-free: second over first singular value of the second moments after so many iterations:", ""]
    lines += [_line("method, iteration", heads[:8]), "|---" * 9 + "|"]
    lines += [_line(m, [*map(_g, values)]) for m, values in kept(folder / "noiseless.json", noiseless_rank).items()]
    if trials:
        lines += _direction_lines(folder, trials)
    return [*lines, "", *kronecker_speed.lines()]


def draw(path: Path, table: dict[tuple[str, str, float], dict[str, np.ndarray]]) -> None:
    """Median NMSE (mean for channels) of every experiment, and of the published ones in dashes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [n for n in EXPERIMENTS if any(key[0] == n for key in table)]
    columns = 3
    height = math.ceil(len(names) / columns)
    colours = [*mpl.color_sequences["tab20"]]  # type: ignore[attr-defined]
    order = list(dict.fromkeys(m for n in names for m in EXPERIMENTS[n].methods))
    with mpl.rc_context({"font.size": 8, "axes.titlesize": 8}):
        figure = Figure(figsize=(4.6 * columns, 3.6 * height), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        for k, name in enumerate(names):
            e = EXPERIMENTS[name]
            axes = figure.add_subplot(height, columns, k + 1)
            mean = "surface" in e.title
            for m in e.methods:
                points = [(v, table[name, m, v]["nmse"]) for v in e.values if (name, m, v) in table]
                if points:
                    values = [float(np.mean(p) if mean else np.median(p)) for _, p in points]
                    axes.semilogy(
                        [v for v, _ in points], values, ".-", label=m, color=colours[order.index(m) % 20], lw=1
                    )
            for _, source in _references(name)[:1]:
                for m, values in source.items():
                    if m in e.methods:
                        axes.semilogy(e.values, values, "--", color=colours[order.index(m) % 20], lw=0.8)
            axes.set_title("\n".join(textwrap.wrap(e.title.split(" (KS")[0], 56)))
            axes.set_xlabel(e.abscissa)
            axes.set_ylabel(f"{'mean' if mean else 'median'} NMSE")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=5.5, ncols=2)
        figure.savefig(path, metadata={"Software": "backcast"})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/kronecker_sbl"), help="finished cells")
    parser.add_argument("-j", "--jobs", type=int, default=1)
    parser.add_argument("--trials", type=int, help="at most, of every cell")
    parser.add_argument(
        "--direction-trials", type=int, default=200, help="of the off-grid directions; 0 leaves them out"
    )
    parser.add_argument("--experiment", action="append", choices=list(EXPERIMENTS), help="repeatable; all without")
    parser.add_argument("--tables", action="store_true", help="run nothing, make tables of what is there")
    parser.add_argument(
        "--six", action="store_true", help="time the published experiment: blocks, six methods; no tables"
    )
    parser.add_argument("--markdown", type=Path, help="write the tables there, a CSV and a PNG beside it")
    given = parser.parse_args()
    names = given.experiment or list(EXPERIMENTS)
    todo = list(cells(names, given.trials))
    if given.six:
        todo = [c for c in cells(["blocks"], given.trials) if c.method in SIX]
    clock = time.perf_counter()
    if not given.tables:
        run(todo, given.folder, given.jobs)
    print(f"{time.perf_counter() - clock:.0f} s with {given.jobs} processes", flush=True)
    if given.six:
        return
    table = gathered(names, given.folder, given.trials)
    lines = [line for name in names for line in section(name, table)]
    print("\n".join(lines))
    if given.markdown:
        head = [
            "# Kronecker-structured sparse Bayesian learning beside the published figures",
            "",
            "Made by `make bench-sbl`, which goes on where it was stopped. Lines in italics are published figures",
            "of arXiv 2307.14719, 2310.07869 and 2412.00310, or the same experiments recomputed in exact arithmetic",
            "(KS, the method note). A few failed trials rule the means: compare medians too. `krosbl-mm` is what",
            "the command line does; `plain` leaves out the rank-one projections, the wide start and the polishing;",
            "`krosbl-svd, wide start` is what the command line does under that name, `width 1` the same from the",
            "power of the data; all else has the published starts, thresholds and stopping rule. Times are wall",
            "clock per solve in batches of 25, one thread of a machine that had other work.",
        ]
        given.markdown.write_text("\n".join([*head, "", *lines, *extras(given.folder, given.direction_trials)]) + "\n")
        write_csv(given.markdown.with_suffix(".csv"), table)
        draw(given.markdown.with_suffix(".png"), table)
        draw_convergence(given.markdown.with_name("kronecker_convergence.png"), given.folder)


if __name__ == "__main__":
    main()
