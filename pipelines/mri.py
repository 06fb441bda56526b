"""MRI: from a measurement to operators, data and solvers. The only place where they meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from data.measurement import Measurement
from denoisers.load import load_denoiser
from imaging.operators.base import LinearOperator
from imaging.operators.coils import CirculantCgSolver, CoilOperator
from imaging.priors import Magnitude, TotalVariation, WaveletL1
from imaging.priors.complex_images import ComplexImages
from imaging.priors.magnitude import running_scale
from imaging.solvers import (
    admm,
    cg,
    low_rank_sparse,
    red_psm,
    relative_change_below,
    spline_basis,
    tv_primal_dual,
)
from imaging.solvers import psm as solve_psm
from imaging.solvers.partially_separable import choose_knots
from imaging.solvers.state import State
from pipelines.methods import Part, Plan, Setting
from pipelines.mri_config import (
    AdjointConfig,
    LpsConfig,
    ModelTable,
    MriConfig,
    PnpConfig,
    PsmConfig,
    RedPsmConfig,
    RedSolverTable,
    SenseConfig,
    TrajectoryTable,
    TvConfig,
    WaveletConfig,
)
from pipelines.mri_scan import Scan, read_scan
from pipelines.radar import MeasurementError

#: Conjugate-gradient steps of the first image, which sets the scale.
FIRST_STEPS = 6
#: Weight of `sense` on a raster, and along trajectories.
SENSE_WEIGHTS = (1e-2, 1e-1)
#: Times that readouts are held out; the middle of the numbers of knots counts.
DRAWS = 3
#: Knots that a prior carries beyond those that predict held-out readouts best.
MORE_KNOTS = 2


# -- the methods --------------------------------------------------------------------------------------------


def adjoint(m: Measurement, config: AdjointConfig, setting: Setting) -> Plan:
    """Zero-filled or gridded image: coil images combined with their sensitivities, or root sum of squares."""
    alike = dataclasses.replace(config, trajectory=TrajectoryTable(weights="none"))  # weighted here, and once
    scan = read_scan(m, alike, setting, combine=config.adjoint.combine == "maps")
    notes = list(scan.notes)
    if scan.weights is not None:
        notes.append("adjoint: samples weighted by the area of k-space that each stands for")
    weighted = scan.y if scan.weights is None else scan.y * scan.weights
    return _plan(scan, notes=notes, direct=lambda: scan.A.adjoint(weighted))


def sense(m: Measurement, config: SenseConfig, setting: Setting) -> Plan:
    """Least squares by conjugate gradients from zero, few steps; Pruessmann et al. (2001).

    Along trajectories with the circulant preconditioner: where the centre is sampled densely, plain steps come to the
    edge of k-space late.
    """
    scan = read_scan(m, config, setting)
    table = config.sense
    facts: dict[str, Any] = {}

    def image() -> Tensor:
        along = scan.weights is not None
        ridge = _size(scan.A) * (SENSE_WEIGHTS[along] if table.weight is None else table.weight)
        b = scan.A.adjoint(scan.y)
        if not along:
            x, info = cg(lambda v: scan.A.gram(v) + ridge * v, b, tol=table.tol, max_iter=table.max_iter)
            facts["cg_iterations"] = int(info.iterations.max())
            return x
        assert isinstance(scan.A, CoilOperator)
        solver = CirculantCgSolver(scan.A, ridge, tol=table.tol, max_iter=table.max_iter)
        x = solver(b)
        facts["cg_iterations"] = int(solver.info.iterations.max()) if solver.info else 0
        return x

    return _plan(scan, notes=list(scan.notes), facts=facts, direct=image)


def l1wavelet(m: Measurement, config: WaveletConfig, setting: Setting) -> Plan:
    """Sparse details of an orthogonal wavelet transform with random shifts, by ADMM; Lustig et al. (2007)."""
    scan = read_scan(m, config, setting)
    table = config.solver

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        size = _size(problem.A)
        inner = WaveletL1(table.weight * size, levels=table.levels, moments=table.moments, seed=config.seed)
        prior = inner if table.on == "complex" else Magnitude(inner)
        return admm(problem.A, problem.y, prior, rho=table.rho_fraction * size, x0=problem.first, start=start)

    plan = _iterative(scan, solve, max_iter=table.max_iter, tol=table.tol)
    return dataclasses.replace(plan, image=lambda state: state.z)  # type: ignore[attr-defined]


def tv(m: Measurement, config: TvConfig, setting: Setting) -> Plan:
    """Total variation of complex images in space and time (primal-dual), or of magnitudes in space (ADMM)."""
    scan = read_scan(m, config, setting, auto="density" if config.solver.on == "complex" else "none")
    table = config.solver

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        if table.on == "complex":
            return tv_primal_dual(
                problem.A,
                problem.y,
                weight=table.weight,
                temporal_weight=table.temporal_weight if scan.moves else 0.0,
                nonnegative=False,
                x0=problem.first,
                start=start,
            )
        size = _size(problem.A)
        prior = Magnitude(TotalVariation(table.weight * size))
        return admm(problem.A, problem.y, prior, rho=table.rho_fraction * size, x0=problem.first, start=start)

    return _iterative(scan, solve, max_iter=table.max_iter, tol=table.tol)


def psm(m: Measurement, config: PsmConfig, setting: Setting) -> Plan:
    """Partially separable movie without a spatial prior, RP 2 and 3.5."""
    scan = read_scan(m, config, setting)
    table = config.solver

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        basis = _temporal_basis(scan, problem, config.model, more=0)
        return solve_psm(problem.A, problem.y, basis, n_cg=table.cg_steps, start=start)

    return _iterative(scan, solve, max_iter=table.max_iter, tol=table.tol)


def lps(m: Measurement, config: LpsConfig, setting: Setting) -> Plan:
    """Low rank plus sparse in temporal frequency; Otazo et al. (2015)."""
    scan = read_scan(m, config, setting, auto="density")
    table = config.solver

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        size = problem.A.norm() ** 2
        largest = float(torch.linalg.svdvals(problem.A.adjoint(problem.y)[0].flatten(1))[0]) / size
        return low_rank_sparse(
            problem.A,
            problem.y,
            low_rank_weight=table.low_rank_fraction * largest,
            sparse_weight=table.sparse_weight,
            start=start,
        )

    return _iterative(scan, solve, max_iter=table.max_iter, tol=table.tol)


def redpsm(m: Measurement, config: RedPsmConfig, setting: Setting) -> Plan:
    """Regularisation by denoising of a partially separable movie, RP 3 with 3.5."""
    scan = read_scan(m, config, setting)
    denoiser = _denoiser(config, setting)

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        basis = _temporal_basis(scan, problem, config.model, more=MORE_KNOTS)
        return _red(problem, basis, denoiser, config.solver, start)

    return _red_plan(scan, config.solver, solve)


def pnp(m: Measurement, config: PnpConfig, setting: Setting) -> Plan:
    """Each frame, or slice, regularised by the denoiser on its own: RED with a falling noise level."""
    scan = read_scan(m, config, setting)
    denoiser = _denoiser(config, setting)

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        return _red(problem, torch.eye(scan.n_frames), denoiser, config.solver, start)

    return _red_plan(scan, config.solver, solve)


# -- what they share ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """What a solver is given: one movie, data scaled so that the bright parts of its image are about 1.

    Attributes:
        A: of movies; y: (1, *A.out_shape).
        first: a first image, (1, *A.in_shape).
        notes, facts: those of the plan.
    """

    A: LinearOperator
    y: Tensor
    first: Tensor
    notes: list[str]
    facts: dict[str, Any]


Solve = Callable[[_Problem, Any], Iterator[State]]


def _size(A: LinearOperator) -> float:
    """max Σ_c |S_c|²: the largest eigenvalue of AᴴA if every sample of a raster were measured once."""
    assert isinstance(A, CoilOperator)
    return float(A.maps.abs().square().sum(1).max())


def _denoiser(config: RedPsmConfig | PnpConfig, setting: Setting) -> ComplexImages:
    inner: Any = setting.denoiser
    if inner is None:
        if not config.denoiser.file:
            raise MeasurementError("[denoiser] file: expected a denoiser; give -d a name of 'backcast denoisers'")
        inner = load_denoiser(config.denoiser.file, device=setting.device, precision=config.denoiser.precision)
    joint = config.solver.on == "joint"
    if joint != bool(getattr(inner, "takes_complex", False)):
        name = getattr(inner, "name", type(inner).__name__)
        wanted, use = ("complex images", "-d mri-2d-complex") if joint else ("real images", "-s solver.on=joint")
        raise MeasurementError(
            f"[solver] on: {config.solver.on} expects a denoiser of {wanted}, found {name}; use {use}"
        )
    return ComplexImages(inner, config.solver.on)


@dataclass(frozen=True)
class _Seen:
    """A denoiser of complex images, and 0 in voxels that no coil sees: there the data hold nothing back.

    Attributes:
        inner: of (n, z, y, x).
        seen: 1 or 0, (set, z, y, x).
    """

    inner: ComplexImages
    seen: Tensor

    takes_complex: ClassVar[bool] = True

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        return (self.inner(v, sigma).reshape(-1, *self.seen.shape) * self.seen).reshape(v.shape)


def _red(
    problem: _Problem, basis: Tensor, denoiser: ComplexImages, table: RedSolverTable, start: Any
) -> Iterator[State]:
    A = problem.A
    assert isinstance(A, CoilOperator)
    seen = (A.maps != 0).any(1).to(A.maps.real.dtype)
    # tr(AᴴA)/n, from tr(AAᴴ)/m
    mean = A.mean_eigenvalue() * problem.y[0].numel() / problem.first[0].numel()
    beta = table.beta_fraction * mean
    problem.facts["beta"] = beta

    def sigma(k: int) -> float:
        done = min(1.0, (k - 1) / table.sigma_iter)
        return float(table.sigma * (table.sigma_final / table.sigma) ** done)

    return red_psm(
        A,
        problem.y,
        basis,
        _Seen(denoiser, seen),
        beta=beta,
        weight=table.weight_ratio * beta,
        sigma=sigma,
        n_cg=table.cg_steps,
        relaxation=table.relaxation,
        nonnegative=False,
        start=start,
    )


def _red_plan(scan: Scan, table: RedSolverTable, solve: Solve) -> Plan:
    plan = _iterative(scan, solve, max_iter=table.max_iter, tol=table.tol)
    return dataclasses.replace(plan, image=lambda state: state.split)  # type: ignore[attr-defined]


def _temporal_basis(scan: Scan, problem: _Problem, table: ModelTable, *, more: int) -> Tensor:
    """Splines of as many knots as are given, else as predict held-out readouts best, and `more`."""
    knots = table.knots
    if knots is not None and knots > scan.n_frames:
        raise MeasurementError(
            f"[model] knots: expected at most {scan.n_frames}, the frames of the scan, found {table.knots}"
        )
    if knots is None and not scan.moves:
        knots = 1
    if knots is None:
        found = sorted(choose_knots(problem.A, problem.y, together=scan.together, seed=k) for k in range(DRAWS))
        middle = found[DRAWS // 2]
        knots = min(scan.n_frames, middle + more)
        note = f"model: {knots} knot{'s' if knots > 1 else ''} in time, since {middle} predict held-out readouts best"
        if note not in problem.notes:
            problem.notes.append(note)
    problem.facts["knots"] = knots
    return spline_basis(scan.n_frames, knots)


def _iterative(scan: Scan, solve: Solve, *, max_iter: int, tol: float) -> Plan:
    notes, facts = list(scan.notes), {}
    first = first_image(scan)
    bright = float(running_scale(first.abs(), "bright").max())
    if not bright > 0:
        raise MeasurementError("/measurement/data: expected a signal, found samples whose image is zero")
    facts["data_scale"] = bright
    problem = _Problem(scan.A, scan.y / bright, first / bright, notes, facts)

    def states(index: Tensor, start: Any) -> Iterator[State]:
        del index  # one problem
        return solve(problem, start)

    part = Part(
        frames=tuple(range(scan.n_frames)),
        operator=scan.A,
        y=problem.y,
        scale=torch.tensor([bright], dtype=torch.float64),
        solve=states,
        movie=True,
        stored=scan.stored,
    )
    return _plan(scan, notes=notes, facts=facts, part=part, stop=relative_change_below(tol), max_iter=max_iter)


def first_image(scan: Scan) -> Tensor:
    """A few conjugate-gradient steps, of what does not move where frames have few samples: (1, *A.in_shape)."""
    if scan.moves:
        return next(solve_psm(scan.A, scan.y, spline_basis(scan.n_frames, 1), n_cg=FIRST_STEPS)).x
    return cg(scan.A.gram, scan.A.adjoint(scan.y), max_iter=FIRST_STEPS)[0]


def _plan(
    scan: Scan,
    *,
    notes: list[str],
    facts: dict[str, Any] | None = None,
    part: Part | None = None,
    direct: Callable[[], Tensor] | None = None,
    **more: Any,
) -> Plan:
    if part is None:
        part = Part(
            frames=tuple(range(scan.n_frames)),
            operator=scan.A,
            y=scan.y,
            scale=torch.ones(1, dtype=torch.float64),
            direct=direct,
            movie=True,
            stored=scan.stored,
        )
    return Plan(
        parts=iter([part]),
        n_frames=scan.n_frames,
        image_axes=scan.image_axes,
        quantity="magnetisation",
        units="1",
        long_name="transverse magnetisation",
        frame_scale=scan.times,
        notes=notes,
        facts=facts or {},
        **more,
    )


__all__ = ["MriConfig", "adjoint", "first_image", "l1wavelet", "lps", "pnp", "psm", "redpsm", "sense", "tv"]
