"""Tomography: from a measurement to operators, data and solvers. The only place where they meet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.calibrate import apply_calibration
from data.measurement import Measurement, Scale
from denoisers.load import load_denoiser
from imaging.calibration import damp_rings, find_rotation_centre, interpolate_bad_pixels
from imaging.direct.feldkamp import fdk
from imaging.direct.filtered_backprojection import fbp as filtered_backprojection
from imaging.operators import ConeBeam, FanBeam, Grid, LinearOperator, ParallelBeam, TimeSequential, Weighted
from imaging.priors import Patches
from imaging.priors.magnitude import running_scale
from imaging.solvers import psm as solve_psm
from imaging.solvers import red_psm, relative_change_below, spline_basis, tv_primal_dual
from imaging.solvers.partially_separable import choose_knots
from imaging.solvers.state import State
from pipelines.methods import Part, Plan, Setting
from pipelines.radar import MeasurementError, truth_grid
from pipelines.tomography_config import (
    DataTable,
    FbpConfig,
    ModelTable,
    PnpConfig,
    PsmConfig,
    RedPsmConfig,
    RedSolverTable,
    TomographyConfig,
    TvConfig,
)

#: Radians within which plausible angles lie; degrees given as radians leave it.
WIDEST_RANGE = 100.0
#: Radians that views around the object span when radians were given as degrees: a turn at most.
NARROW_RANGE = 1.01 * 2 * math.pi * math.pi / 180
#: Views from which on the two above, and stuck pixels, can be told.
MANY_VIEWS = 9
#: Fewer views in all are worth a note.
HARDLY_VIEWS = 8
#: Transmission that neither noise nor a flat field a little old explains, and its share of the samples worth a note.
BRIGHTER, BRIGHTER_SHARE = 1.1, 1e-3
#: Pixels that do not change with the view are stuck when they are so few.
STUCK_SHARE = 0.05
#: Detector bins at the axis over voxels, or the reverse, from which on one of them is likely in another unit.
UNLIKE = 20.0
#: A projection whose ends exceed this share of its largest value is cut off by the detector.
CUT_OFF = 0.05
#: Views per frame below which fbp borrows from the neighbours, and how many it then takes.
FEW_VIEWS, BORROWED_VIEWS = 16, 32
#: Share of samples that may be missing.
MOST_MISSING = 0.5
#: Last noise level that the denoiser is told, and views of a movie below which it is higher in inverse proportion.
FINAL, ENOUGH_VIEWS = 0.06, 64
#: Temporal weight of tv, and frames below which it is lower in proportion.
TEMPORAL, TEMPORAL_FRAMES = 3e-3, 32
#: Penalty of redpsm, and views of a movie beyond which it falls with their square root, to half of it.
BETA, BETA_VIEWS = 0.022, 32
#: Iterations of the first image, which sets the scale.
FIRST_STEPS = 6


@dataclass(frozen=True)
class Scan:
    """A measurement as the methods take it.

    Attributes:
        y: line integrals, (view, row, column), 0 where `weights` is 0 for iterative methods' sake.
        filled: the same with missing samples interpolated, for direct methods.
        weights: statistical weights (view, row, column), mean 1 where measured; None when all are equal.
        angles_rad, columns_m, rows_m: of views, columns and rows.
        frame_index: of each view, 0 to n_frames - 1.
        seen: whether any sample of a view was measured.
        times: of the frames.
        notes: sentences on what was assumed or done.
    """

    y: Tensor
    filled: Tensor
    weights: Tensor | None
    angles_rad: Tensor
    columns_m: Tensor
    rows_m: Tensor
    frame_index: Tensor
    n_frames: int
    seen: Tensor
    times: Scale
    grid: Grid
    axis_offset_m: float
    notes: list[str]

    @property
    def moves(self) -> bool:
        return self.n_frames > 1


# -- the methods --------------------------------------------------------------------------------------------


def fbp(m: Measurement, config: FbpConfig, setting: Setting) -> Plan:
    """Filtered back-projection, each frame from its own views."""
    if config.data.weights == "statistical":
        raise MeasurementError("[data] weights: fbp weighs all samples alike; use tv, psm, pnp or redpsm")
    unweighted = dataclasses.replace(config, data=dataclasses.replace(config.data, weights="none"))
    scan = read_scan(m, unweighted, setting)
    table = config.fbp
    kind = str(m.geometry["type"])
    far: dict[str, Any] = _distances(m)
    if config.geometry.tilt_deg:
        raise MeasurementError("[geometry] tilt_deg: fbp treats no tilted detector; use tv, pnp or redpsm")

    n_views, n_seen = table.n_views, int(scan.seen.sum())
    if n_views is None and scan.moves and n_seen < FEW_VIEWS * scan.n_frames:
        n_views = BORROWED_VIEWS
    if n_views is not None:
        n_views = min(n_views, n_seen) if scan.moves else None

    options: dict[str, Any] = {
        "axis_offset_m": scan.axis_offset_m,
        "window": table.window,
        "cutoff": table.cutoff,
        "extension": table.extension,
        **far,
    }

    def one(views: Tensor) -> Tensor:
        y, angles = scan.filled[views], scan.angles_rad[views]
        if kind == "cone":
            return fdk(y, angles, scan.columns_m, scan.rows_m, scan.grid, **options)
        return filtered_backprojection(y, angles, scan.columns_m, scan.grid, geometry=kind, **options)  # type: ignore[arg-type]

    def image() -> Tensor:
        movie = torch.stack([one(_views_of(scan, frame, n_views)) for frame in range(scan.n_frames)])
        return movie[None] if scan.moves else movie

    notes = list(scan.notes)
    if table.extension == "zero" and _cut_off(scan.filled):
        notes.append("fbp: extension = smooth lessens the bright rim of projections that are cut off")
    if table.n_views is not None and not scan.moves:
        notes.append("fbp: n_views means nothing for one frame, which is made of all views")
    if n_views is not None:
        notes.append(f"fbp: each frame is made of the {n_views} views nearest in time; what moves meanwhile is blurred")
    return _plan(m, scan, _operator(m, config, setting, scan), notes=notes, direct=image)


def _views_of(scan: Scan, frame: int, n_views: int | None) -> Tensor:
    """The frame's own views, or those nearest in time, in the order of measurement."""
    own = torch.nonzero((scan.frame_index == frame) & scan.seen).flatten()
    if n_views is None and len(own):
        return own
    away = torch.where(scan.seen, (scan.frame_index - frame).abs(), scan.n_frames)
    return torch.argsort(away, stable=True)[: n_views or 1].sort().values


def tv(m: Measurement, config: TvConfig, setting: Setting) -> Plan:
    """Total variation of every frame, and of time between frames (anisotropic in time, isotropic in space)."""
    scan = read_scan(m, config, setting)
    table = config.solver
    temporal = table.temporal_weight
    if temporal is None:  # the same motion in fewer frames varies as much in all, beside fewer frames' data
        temporal = TEMPORAL * min(1.0, scan.n_frames / TEMPORAL_FRAMES)

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        return tv_primal_dual(
            problem.A,
            problem.y,
            weight=table.weight,
            temporal_weight=temporal if scan.moves else 0.0,
            nonnegative=table.nonnegative,
            x0=problem.first,
            start=start,
        )

    return _iterative(m, config, setting, scan, solve, max_iter=table.max_iter, tol=table.tol)


def psm(m: Measurement, config: PsmConfig, setting: Setting) -> Plan:
    """Partially separable movie without a spatial prior, RP 2."""
    scan = read_scan(m, config, setting)
    table = config.solver

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        basis, rank = _temporal_basis(scan, problem, config.model, config.solver.nonnegative, prior=False)
        return solve_psm(
            problem.A, problem.y, basis, rank=rank, n_cg=table.cg_steps, nonnegative=table.nonnegative, start=start
        )

    return _iterative(m, config, setting, scan, solve, max_iter=table.max_iter, tol=table.tol, as_movie=True)


def redpsm(m: Measurement, config: RedPsmConfig, setting: Setting) -> Plan:
    """Regularisation by denoising of a partially separable movie, RP 3."""
    scan = read_scan(m, config, setting)
    denoiser = _denoiser(config, setting)

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        basis, rank = _temporal_basis(scan, problem, config.model, config.solver.nonnegative, prior=True)
        return _red(scan, problem, basis, rank, denoiser, config.solver, start)

    return _red_plan(m, config, setting, scan, solve)


def pnp(m: Measurement, config: PnpConfig, setting: Setting) -> Plan:
    """Each frame regularised by the denoiser on its own: RED-PSM with the identity for temporal basis."""
    scan = read_scan(m, config, setting)
    denoiser = _denoiser(config, setting)

    def solve(problem: _Problem, start: Any) -> Iterator[State]:
        return _red(scan, problem, torch.eye(scan.n_frames), None, denoiser, config.solver, start)

    plan = _red_plan(m, config, setting, scan, solve)
    if scan.moves and len(scan.angles_rad) < FEW_VIEWS * scan.n_frames:
        plan.notes.append(
            f"pnp: each of {scan.n_frames} frames is made of its own views alone, {len(scan.angles_rad)} in all; "
            "redpsm and tv join frames in time"
        )
    return plan


# -- what they share ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """What a solver is given: one movie, data scaled so that its bright parts are about 1.

    Attributes:
        A: of movies, weighted; y: (1, *A.out_shape).
        first: the best image that does not move, (1, *A.in_shape).
        notes, facts: those of the plan.
    """

    A: LinearOperator
    y: Tensor
    first: Tensor
    notes: list[str]
    facts: dict[str, Any]


Solve = Callable[[_Problem, Any], Iterator[State]]


def _denoiser(config: RedPsmConfig | PnpConfig, setting: Setting) -> Any:
    table = config.denoiser
    denoiser = setting.denoiser
    if denoiser is None:
        if not table.file:
            raise MeasurementError("[denoiser] file: expected a denoiser; give -d a name of 'backcast denoisers'")
        denoiser = load_denoiser(table.file, device=setting.device, precision=table.precision)
    return denoiser if table.patch is None else Patches(denoiser, table.patch, table.patch // 2)


def _red(
    scan: Scan, problem: _Problem, basis: Tensor, rank: int | None, denoiser: Any, table: RedSolverTable, start: Any
) -> Iterator[State]:
    per_frame = len(scan.angles_rad) / scan.n_frames
    beta = _beta_fraction(scan, table) * problem.A.mean_eigenvalue() * per_frame
    final = _sigma_final(scan, table)
    problem.facts.update(beta=beta, sigma_final=final)

    def sigma(k: int) -> float:
        done = min(1.0, (k - 1) / table.sigma_iter)
        return float(table.sigma * (final / table.sigma) ** done)

    return red_psm(
        problem.A,
        problem.y,
        basis,
        denoiser,
        beta=beta,
        weight=table.weight_ratio * beta,
        sigma=sigma,
        rank=rank,
        n_cg=table.cg_steps,
        relaxation=table.relaxation,
        mirrored=table.mirrored,
        nonnegative=table.nonnegative,
        start=start,
    )


def _beta_fraction(scan: Scan, table: RedSolverTable) -> float:
    """As given; else BETA, less where a movie has many views: what they measure the denoiser need not tell."""
    given: float | None = table.beta_fraction
    if given is not None:
        return given
    return BETA * min(1.0, max(0.5, math.sqrt(BETA_VIEWS / len(scan.angles_rad)))) if scan.moves else BETA


def _sigma_final(scan: Scan, table: RedSolverTable) -> float:
    """As given; else FINAL, more where a movie has few views: they leave more to the denoiser, and to overfit."""
    if table.sigma_final is not None:
        return table.sigma_final
    few = FINAL * ENOUGH_VIEWS / len(scan.angles_rad) if scan.moves else FINAL
    return min(max(FINAL, few), max(FINAL, table.sigma))


def _red_plan(m: Measurement, config: RedPsmConfig | PnpConfig, setting: Setting, scan: Scan, solve: Solve) -> Plan:
    table = config.solver
    plan = _iterative(m, config, setting, scan, solve, max_iter=table.max_iter, tol=table.tol, as_movie=True)
    return dataclasses.replace(plan, image=_split)


def _split(state: State) -> Tensor:
    """The movie on which the denoiser acts: f of RP 3.2."""
    split: Tensor = state.split  # type: ignore[attr-defined]
    return split


def _temporal_basis(
    scan: Scan, problem: _Problem, table: ModelTable, nonnegative: bool, *, prior: bool
) -> tuple[Tensor, int | None]:
    """U and K. Without knots given: half as many again as predict held-out samples best.

    With a prior, which carries more: twice as many, and two more than `usual_rank` at least; two fewer functions than
    knots. A single knot that predicts best means that nothing moves.
    """
    knots = table.knots
    if knots is not None and knots > scan.n_frames:
        raise MeasurementError(
            f"[model] knots: expected at most {scan.n_frames}, the frames of the scan, found {table.knots}"
        )
    if knots is None and not scan.moves:
        knots = 1
    rank = table.rank
    if knots is None:
        found = choose_knots(problem.A, problem.y, nonnegative=nonnegative)
        if found == 1:
            knots = 1
        elif prior:
            knots = min(scan.n_frames, max(2 * found, usual_rank(scan.n_frames) + 2))
            rank = max(1, knots - 2) if rank is None else rank
        else:
            knots = min(scan.n_frames, found + (found + 1) // 2)
        note = f"model: {knots} knot{'s' if knots > 1 else ''} in time, since {found} predict held-out samples best"
        if found == 1:
            note += "; nothing moves as far as the data tell"
        if note not in problem.notes:
            problem.notes.append(note)
    problem.facts["knots"] = knots
    if rank is not None and rank > knots:
        raise MeasurementError(f"[model] rank: expected at most {knots}, the knots, found {rank}")
    problem.facts["rank"] = knots if rank is None else rank
    return spline_basis(scan.n_frames, knots), rank


def usual_rank(n_frames: int) -> int:
    """4, 8, 11, 14 for 32, 64, 128, 256 frames; RP chooses 4, 6, 7, 11 for movies of one slow motion."""
    return max(2, round(3.2 * math.log2(n_frames / 8)) - 2)


def _iterative(
    m: Measurement,
    config: TomographyConfig,
    setting: Setting,
    scan: Scan,
    solve: Solve,
    *,
    max_iter: int,
    tol: float,
    as_movie: bool = False,
) -> Plan:
    notes, facts = list(scan.notes), {}
    A = _operator(m, config, setting, scan, movie=as_movie)
    y = scan.y
    if scan.weights is not None:
        root = scan.weights.sqrt()
        A, y = Weighted(A, root), y * root
    y = y[None]
    first = static_image(A, y, scan, as_movie or scan.moves)
    bright = float(running_scale(first[:, :1].abs() if as_movie or scan.moves else first.abs(), "bright").max())
    if not bright > 0:
        raise MeasurementError("/measurement/data: expected a signal, found line integrals whose image is zero")
    facts["data_scale"] = bright
    problem = _Problem(A, y / bright, first / bright, notes, facts)

    def states(index: Tensor, start: Any) -> Iterator[State]:
        del index  # one problem
        return solve(problem, start)

    part = Part(
        frames=tuple(range(scan.n_frames)),
        operator=A,
        y=problem.y,
        scale=torch.tensor([bright], dtype=torch.float64),
        solve=states,
        movie=as_movie or scan.moves,
    )
    return _plan(m, scan, A, notes=notes, facts=facts, part=part, stop=relative_change_below(tol), max_iter=max_iter)


def static_image(A: LinearOperator, y: Tensor, scan: Scan, movie: bool) -> Tensor:
    """A few conjugate-gradient steps to the image that fits best if nothing moves, negative values cut: (1, *in)."""
    if not movie:
        from imaging.solvers.linear import cg

        x, _ = cg(A.gram, A.adjoint(y), max_iter=FIRST_STEPS)
        return x.clamp_min(0)
    states = solve_psm(A, y, spline_basis(scan.n_frames, 1), n_cg=FIRST_STEPS)
    return next(states).x.clamp_min(0)


def _plan(
    m: Measurement,
    scan: Scan,
    A: LinearOperator,
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
            operator=A,
            y=scan.filled[None],
            scale=torch.ones(1, dtype=torch.float64),
            direct=direct,
            movie=scan.moves,
        )
    axes = {n: Scale(values=scan.grid.axis_m(n).numpy(), units="m", long_name=n) for n in ("z", "y", "x")}
    return Plan(
        parts=iter([part]),
        n_frames=scan.n_frames,
        image_axes=axes,
        quantity="attenuation",
        units="1/m",
        long_name="attenuation",
        frame_scale=scan.times,
        notes=notes,
        facts={} if facts is None else facts,
        **more,
    )


def _operator(
    m: Measurement, config: TomographyConfig, setting: Setting, scan: Scan, *, movie: bool = False
) -> LinearOperator:
    options: dict[str, Any] = {
        "axis_offset_m": scan.axis_offset_m,
        "tilt_rad": math.radians(config.geometry.tilt_deg),
        "dtype": _dtype(config),
        "device": setting.device,
    }
    if setting.memory_limit is not None:
        options["memory_limit"] = setting.memory_limit // 2
    options |= _distances(m)
    static: ParallelBeam | FanBeam | ConeBeam
    if m.geometry["type"] == "cone":
        static = ConeBeam(scan.angles_rad, scan.columns_m, scan.rows_m, scan.grid, **options)
    elif m.geometry["type"] == "fan":
        static = FanBeam(scan.angles_rad, scan.columns_m, scan.grid, **options)
    else:
        static = ParallelBeam(scan.angles_rad, scan.columns_m, scan.grid, **options)
    if scan.moves or movie:
        return TimeSequential(static, scan.frame_index, scan.n_frames)
    return static


def _distances(m: Measurement) -> dict[str, float]:
    """Of source and detector from the axis; none for parallel rays."""
    if m.geometry["type"] == "parallel":
        return {}
    return {f"{name}_m": float(m.geometry[name]) for name in ("source_to_origin", "origin_to_detector")}


def _dtype(config: TomographyConfig) -> torch.dtype:
    return torch.float64 if config.precision == "double" else torch.float32


# -- what a measurement says --------------------------------------------------------------------------------


def read_scan(m: Measurement, config: TomographyConfig, setting: Setting) -> Scan:
    """Line integrals, weights, geometry, frames and grid of a measurement.

    Raises:
        MeasurementError: what cannot be imaged, with the file's key.
    """
    kind = str(m.geometry.get("type", ""))
    if kind not in ("parallel", "fan", "cone"):
        raise MeasurementError(
            f"/geometry type: these methods take parallel, fan and cone beams, found {kind!r}; rebin the data "
            "to one of them"
        )
    notes: list[str] = []
    if m.quantity == "counts":  # files come with it done
        said = m.warnings
        m = apply_calibration(m)
        notes += m.warnings[len(said) :]
    columns = _detector_axis(m, "detector_column")
    if len(columns) < 2:
        raise MeasurementError("/measurement/detector_column: expected two columns or more, found one")
    rows = _detector_axis(m, "detector_row") if "detector_row" in m.axes else torch.zeros(1, dtype=torch.float64)
    angles = _angles(m, notes)
    y, weights = _line_integrals(m, config.data, notes)
    missing = weights == 0 if weights is not None else torch.zeros_like(y, dtype=torch.bool)
    filled = _filled(y, missing)
    if config.data.rings != "none":
        filled = damp_rings(filled, method=config.data.rings, size=config.data.ring_size)
        y = torch.where(missing, y, filled)
        notes.append(f"data: rings damped by {config.data.rings}")
    frame_index, n_frames, times = _frames(m, notes)
    offset = _axis_offset(m, config, kind, filled, angles, columns, notes)
    grid, how = _grid(m, config, kind, columns, rows)
    notes.append(how)
    if _cut_off(filled):
        notes.append("projections are cut off by the detector: the object is larger than what it sees")
    if weights is not None and bool((weights == weights[0, 0, 0]).all()):
        weights = None
    dtype = _dtype(config)
    y, filled = y.to(dtype).to(setting.device), filled.to(dtype).to(setting.device)
    return Scan(
        y=torch.where(missing.to(y.device), 0.0, y),
        filled=filled,
        weights=None if weights is None else weights.to(dtype).to(setting.device),
        angles_rad=angles,
        columns_m=columns,
        rows_m=rows,
        frame_index=frame_index,
        n_frames=n_frames,
        seen=~missing.all(-1).all(-1),
        times=times,
        grid=grid,
        axis_offset_m=offset,
        notes=notes,
    )


def _detector_axis(m: Measurement, name: str) -> Tensor:
    """Centres of the detector's columns or rows, metres; rows of slices may lie anyhow, each is imaged on its own."""
    centres = torch.tensor(np.asarray(m.scale(name), dtype=float).tolist(), dtype=torch.float64)
    if len(centres) < 2 or (name == "detector_row" and m.geometry["type"] != "cone"):
        return centres
    steps = torch.diff(centres)
    if not bool((steps > 0).all()):
        raise MeasurementError(
            f"/measurement/{name}: expected increasing {name[9:]}s, found others; flip the detector axis and the data "
            "with it"
        )
    if float(steps.max() - steps.min()) > 1e-3 * float(steps.mean()):
        raise MeasurementError(
            f"/measurement/{name}: expected evenly spaced {name[9:]}s, found steps from {float(steps.min()):.4g} "
            f"to {float(steps.max()):.4g} m; resample the detector axis"
        )
    return centres


def _angles(m: Measurement, notes: list[str]) -> Tensor:
    if "angle" not in m.acquisition:
        raise MeasurementError("/acquisition/angle: expected the angle of every projection, found nothing; write it")
    angles = torch.as_tensor(np.asarray(m.acquisition["angle"], dtype=float))
    if not bool(torch.isfinite(angles).all()):
        raise MeasurementError("/acquisition/angle: expected finite angles, found NaN or Inf; leave these views out")
    span = float(angles.max() - angles.min())
    if span > WIDEST_RANGE:
        raise MeasurementError(
            f"/acquisition/angle: expected radians, found a range of {span:.4g} rad, {span / (2 * math.pi):.3g} turns; "
            "these look like degrees: set its units to 'deg'"
        )
    if len(angles) >= MANY_VIEWS and 0 < span < NARROW_RANGE:
        raise MeasurementError(
            f"/acquisition/angle: expected views around the object, found {len(angles)} within "
            f"{math.degrees(span):.3g} degrees; these look like radians given as 'deg': set its units to 'rad'"
        )
    frames = torch.as_tensor(np.asarray(m.acquisition.get("frame_index", np.zeros(len(angles)))), dtype=torch.float64)
    repeated = len(angles) - len(torch.unique(torch.stack((torch.round(angles * 1e9), frames)), dim=1).T)
    if repeated:
        words = "views repeat an angle of their frame" if bool(frames.any()) else "views repeat an angle"
        notes.append(f"{repeated} {words}; they count as often as they were measured")
    if len(angles) < HARDLY_VIEWS:
        notes.append(
            f"only {len(angles)} view{'s' if len(angles) > 1 else ''} in all: the image follows from the prior"
        )
    return angles


def _line_integrals(m: Measurement, table: DataTable, notes: list[str]) -> tuple[Tensor, Tensor | None]:
    """-log of the transmission, and weights with 0 for what is missing; None when all samples are equal."""
    values = torch.as_tensor(np.asarray(m.data, dtype=np.float64))
    weights, said = None, ""
    measured = torch.isfinite(values)
    if m.mask is not None:
        shown = np.broadcast_to(m.broadcast(m.mask, m.mask_axes), m.data.shape) != 0
        measured &= torch.as_tensor(shown.copy())
    n_bad = int((~torch.isfinite(values)).sum())
    if n_bad:
        columns = int((~torch.isfinite(values)).all(0).all(0).sum())
        notes.append(
            f"data: {n_bad} samples are NaN or Inf"
            + (f" ({columns} whole column{'s' if columns > 1 else ''})" if columns else "")
            + "; they count as not measured"
        )
    if m.quantity == "transmission":
        dark = measured & (values <= 0)
        above = int((measured & (values > BRIGHTER)).sum())
        if bool(dark.any()):
            notes.append(f"data: {int(dark.sum())} samples without any photon have no line integral; not measured")
        if above > BRIGHTER_SHARE * values.numel():
            notes.append(
                f"data: {above} samples are brighter than the flat field by more than a tenth; a drifting source, or "
                "saturated pixels"
            )
        measured &= ~dark
        weights = torch.where(measured, values, 0.0)  # photons, up to a factor: var(-log T) = 1/(T · flat)
        if "dark and flat" in m.applied_calibration and {"flat", "dark"} <= m.calibration.keys():
            flat, dark = (np.asarray(m.calibration[k], np.float64).mean(0) for k in ("flat", "dark"))
            weights = weights * torch.as_tensor(np.maximum(flat - dark, 0.0))
        said = "photons"
        values = -torch.log(torch.where(measured, values, 1.0))
    stuck = _stuck(values, measured)
    if bool(stuck.any()):
        notes.append(f"data: {int(stuck.sum())} pixels show one value in all views, dead or saturated; not measured")
        measured &= ~stuck
    if m.noise_std is not None and (np.asarray(m.noise_std).size > 1 or m.quantity == "transmission"):
        spread = np.broadcast_to(m.broadcast(m.noise_std, m.noise_std_axes), m.data.shape)
        if not np.all(np.isfinite(spread) & (spread > 0)):
            raise MeasurementError("/measurement/noise_std: expected numbers > 0, found others")
        weights = torch.as_tensor(1 / spread.astype(float) ** 2)
        if m.quantity == "transmission":
            weights = weights * torch.exp(-2 * values)  # std(-log T) = std(T) / T
        said = "noise_std"
    if float((~measured).double().mean()) > MOST_MISSING:
        raise MeasurementError(
            f"/measurement/data: expected measured samples, found {int((~measured).sum())} of {values.numel()} "
            "masked, NaN or without a photon; too little is left"
        )
    if not bool(values[measured].any()):
        raise MeasurementError("/measurement/data: expected a signal, found line integrals that are all zero")
    if float(values[measured].sum()) < -0.5 * float(values[measured].abs().sum()):
        raise MeasurementError(
            "/measurement/data: expected line integrals >= 0, found most of them negative; "
            + (
                "change their sign: they are -log(I / I0)"
                if m.quantity == "line_integral"
                else "the samples are brighter than the flat field: measure it anew, with the projections' exposure"
                if "dark and flat" in m.applied_calibration
                else "the samples are brighter than the flat field, so give it, or the counts with it"
            )
        )
    statistical = table.weights == "statistical" or (table.weights == "auto" and weights is not None)
    if table.weights == "statistical" and weights is None:
        raise MeasurementError(
            "[data] weights: statistical weights need counts, transmission or a noise_std per sample, found "
            f"{m.quantity}; set data.weights to none"
        )
    if not statistical:
        weights = None
    if weights is not None:
        weights = torch.where(measured, weights, 0.0)
        weights = weights / weights[measured].mean()
        notes.append(f"data: samples weighted by their {said}")
    elif not bool(measured.all()):
        weights = measured.double()
    return torch.where(measured, values, 0.0), weights


def _stuck(values: Tensor, measured: Tensor) -> Tensor:
    """Pixels (row, column) with one and the same line integral, not 0, in all views, where they are exceptions."""
    if len(values) < MANY_VIEWS:
        return torch.zeros_like(measured[0])
    stuck = (values == values[0]).all(0) & measured.all(0) & (values[0] != 0)
    return stuck if float(stuck.double().mean()) <= STUCK_SHARE else torch.zeros_like(stuck)


def _filled(y: Tensor, missing: Tensor) -> Tensor:
    """Missing samples interpolated along the columns; views without any sample stay 0."""
    if not bool(missing.any()):
        return y
    filled = y.clone()
    for p in torch.nonzero(missing.any(-1).any(-1)).flatten().tolist():
        bad = missing[p]
        rows = ~bad.all(-1)
        if bool(rows.any()):
            filled[p, rows] = interpolate_bad_pixels(y[p : p + 1, rows], bad[rows])[0]
    return filled


def _frames(m: Measurement, notes: list[str]) -> tuple[Tensor, int, Scale]:
    n = m.n("projection")
    time = m.acquisition.get("time")
    if "frame_index" not in m.acquisition:
        if time is not None and len(np.unique(time)) > 1:
            notes.append("no frame_index in the file: all views are taken as one object that does not move")
        moment = float(np.mean(time)) if time is not None else 0.0
        return torch.zeros(n, dtype=torch.int64), 1, Scale(values=np.array([moment]), units="s")
    index = np.asarray(m.acquisition["frame_index"], dtype=np.int64)
    if index.min() < 0:
        raise MeasurementError(f"/acquisition/frame_index: expected numbers from 0, found {int(index.min())}")
    n_frames = int(index.max()) + 1
    if n_frames > 4 * n:
        raise MeasurementError(
            f"/acquisition/frame_index: expected frames with views, found numbers up to {n_frames - 1} for {n} views; "
            "number the frames from 0 without gaps"
        )
    seen = np.bincount(index, minlength=n_frames)
    empty = int((seen == 0).sum())
    if empty:
        notes.append(f"{empty} of {n_frames} frames have no view; they follow from their neighbours in time")
    values = np.arange(n_frames, dtype=float)
    if time is not None:
        mean = np.bincount(index, weights=np.asarray(time, dtype=float), minlength=n_frames) / np.maximum(seen, 1)
        known = np.flatnonzero(seen)
        values_ = np.interp(np.arange(n_frames), known, mean[known])
        if np.all(np.diff(values_) > 0):
            values = values_
        else:
            notes.append("times of the frames do not increase: frames are numbered instead, one second apart")
    elif n_frames > 1:
        notes.append("no /acquisition/time in the file: frames are numbered, one second apart")
    return torch.as_tensor(index), n_frames, Scale(values=values, units="s")


def _axis_offset(
    m: Measurement,
    config: TomographyConfig,
    kind: str,
    y: Tensor,
    angles: Tensor,
    columns: Tensor,
    notes: list[str],
) -> float:
    given = config.geometry.axis_offset_m
    if given is not None:
        if config.geometry.find_axis:
            raise MeasurementError("[geometry]: expected axis_offset_m or find_axis, found both")
        return given
    if config.geometry.find_axis:
        if kind != "parallel":
            raise MeasurementError("[geometry] find_axis: searches the axis of parallel scans; give axis_offset_m")
        found = find_rotation_centre(y, angles, columns)
        notes.append(f"rotation axis at {found.axis_offset_m:.6g} m, column {found.axis_column:.2f}, by {found.method}")
        return found.axis_offset_m
    # the file's offset counts from the detector's centre
    centre = float(columns[0] + columns[-1]) / 2
    if "rotation_axis_offset" in m.geometry:
        return centre + float(m.geometry["rotation_axis_offset"])
    if not float(columns[0]) < 0 < float(columns[-1]):
        notes.append("no rotation_axis_offset in the file: the axis is taken in the middle of the detector")
        return centre
    return 0.0


def _grid(m: Measurement, config: TomographyConfig, kind: str, columns: Tensor, rows: Tensor) -> tuple[Grid, str]:
    """The voxels and where they come from: the file's /grid, its truth's, else pixels as wide as bins at the axis."""
    table = config.grid
    if m.grid is not None:
        base, source = Grid(m.grid.origin_m, m.grid.spacing_m, m.grid.shape), "from the file's /grid"
    elif (truth := truth_grid(m)) is not None:
        base, source = Grid(truth.origin_m, truth.spacing_m, truth.shape), "that of /ground_truth/volume"
    else:
        n = len(columns)
        pitch = float(columns[-1] - columns[0]) / (n - 1) * _at_axis(m, kind)
        shrink = _at_axis(m, kind) if kind == "cone" else 1.0
        dz = float(torch.diff(rows).mean()) * shrink if len(rows) > 1 else pitch
        half = pitch * (n - 1) / 2
        base = Grid((float(rows[0]) * shrink, -half, -half), (dz, pitch, pitch), (len(rows), n, n))
        source = "pixels as wide as a detector bin at the axis, since the file has no /grid"
    given = [name for name in ("origin_m", "spacing_m", "shape") if getattr(table, name) is not None]
    if given:
        origin, spacing, shape = (
            getattr(base, n) if getattr(table, n) is None else getattr(table, n)
            for n in ("origin_m", "spacing_m", "shape")
        )
        if table.origin_m is None:  # a new spacing or shape keeps the centre
            origin = tuple(
                o + d * (n - 1) / 2 - e * (k - 1) / 2
                for o, d, n, e, k in zip(base.origin_m, base.spacing_m, base.shape, spacing, shape, strict=True)
            )
        base, source = Grid(origin, spacing, shape), f"{source}; {' and '.join(given)} from the configuration"
    if kind != "cone" and base.shape[0] != len(rows):
        raise MeasurementError(
            f"{'[grid] shape' if table.shape is not None else '/grid/shape'}: expected {len(rows)} slices, one per "
            f"detector row, found {base.shape[0]}; parallel and fan beams are imaged row by row"
        )
    how = f"grid: {source}"
    bins = float(columns[-1] - columns[0]) / (len(columns) - 1) * _at_axis(m, kind)
    if not 1 / UNLIKE < bins / min(base.spacing_m[1:]) < UNLIKE:
        how += (
            f"; its voxels of {min(base.spacing_m[1:]):.3g} m are far from the detector's bins of {bins:.3g} m at the "
            "axis, so check the units of both"
        )
    return base, how


def _at_axis(m: Measurement, kind: str) -> float:
    """What a length on the detector is at the rotation axis, as a factor."""
    if kind == "parallel":
        return 1.0
    near, behind = float(m.geometry["source_to_origin"]), float(m.geometry["origin_to_detector"])
    return near / (near + behind)


def _cut_off(y: Tensor) -> bool:
    """Whether the projections do not fall to zero at the detector's ends."""
    ends = torch.stack((y[..., :2].mean(-1), y[..., -2:].mean(-1))).mean((1, 2))
    return bool((ends > CUT_OFF * y.mean((0, 1)).max()).any())
