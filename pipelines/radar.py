"""Near-field radar: from a measurement to operators, data and solvers. The only place where they meet."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.measurement import GridSpec, Measurement, Scale
from denoisers.load import load_denoiser
from denoisers.wrappers import SelfEnsemble
from imaging.calibration.noise import estimate_noise
from imaging.direct.backprojection import backprojection as backproject
from imaging.direct.kirchhoff import kirchhoff as migrate
from imaging.direct.range_migration import range_migration
from imaging.operators.base import LinearOperator
from imaging.operators.grid import Grid
from imaging.operators.near_field import SPEED_OF_LIGHT, NearFieldMimo
from imaging.operators.planar_scan import PlanarScan, find_raster, near_field_operator
from imaging.operators.weighted import Weighted
from imaging.priors import L1, Magnitude, TotalVariation
from imaging.solvers import CgSolver, SolverCache, csalsa, csalsa_projected, relative_change_below, starting_image
from imaging.solvers.protocols import EllipsoidProjector, RegularisedSolver
from imaging.solvers.run import KeepBest
from imaging.solvers.state import State
from pipelines.methods import Part, Plan, Setting
from pipelines.radar_config import (
    BackprojectionConfig,
    KirchhoffConfig,
    L1Config,
    NoiseTable,
    PnpConfig,
    RadarConfig,
    RangeMigrationConfig,
    SolverTable,
    TvConfig,
)

#: Frames of a static array that are solved as one batch: enough to share the operator's factors.
FRAMES_AT_ONCE = 8
#: Linear solves that setting up an exact one is weighed against, at least: the same for every method, so that they
#: share it.
LEAST_SOLVES = 30
#: Largest magnitude of the data, and 1 over the smallest, whose weighted sums stay within single precision.
LARGEST = 1e20
#: Degrees of freedom that an estimate of the noise needs.
LEAST_FREEDOM = 10
#: What is assumed without: the published code's choice for measured scans, NF 2.4.
ASSUMED_SNR_DB = 10.0
#: Relative residual of an inner CG; the step count ends it first as a rule.
CG_TOLERANCE = 1e-2
#: A default grid gets at most this many voxels along an axis.
LONGEST_AXIS = 128

Radar = NearFieldMimo | PlanarScan
Direct = Callable[[Any, Tensor], Tensor]


class MeasurementError(ValueError):
    """A measurement that a method cannot image; the sentence names the file's key."""


# -- the methods --------------------------------------------------------------------------------------------


def backprojection(m: Measurement, config: BackprojectionConfig, setting: Setting) -> Plan:
    """Unit-weight back-projection, NF 7.1."""
    return _direct_plan(m, config, setting, backproject, "back-projection")


def kirchhoff(m: Measurement, config: KirchhoffConfig, setting: Setting) -> Plan:
    """Kirchhoff migration, NF 7.2."""
    compensate = config.kirchhoff.compensate
    return _direct_plan(m, config, setting, lambda A, y: migrate(A, y, compensate=compensate), "Kirchhoff migration")


def rangemigration(m: Measurement, config: RangeMigrationConfig, setting: Setting) -> Plan:
    """Range migration of a planar monostatic scan."""
    if "channel" not in m.axes:
        raise MeasurementError(
            "/measurement/data: rangemigration takes monostatic scans, axes frame, channel, frequency; "
            f"found {', '.join(m.axes)}; use backprojection or kirchhoff"
        )

    def image(A: Radar, y: Tensor) -> Tensor:
        tx, rx = _channel_positions(m, 0)
        apart = float(np.abs(tx - rx).max())
        if apart > 1e-9:
            raise MeasurementError(
                "/geometry: rangemigration takes monostatic scans, found a channel's antennas "
                f"{apart:g} m apart; use backprojection or kirchhoff"
            )
        return range_migration(
            y,
            torch.as_tensor(tx),
            A.frequencies_hz,
            A.grid,
            phase_convention=A.phase_convention,
            propagation_speed=A.propagation_speed,
        )

    return _direct_plan(m, config, setting, image, "range migration")


def l1(m: Measurement, config: L1Config, setting: Setting) -> Plan:
    """Sparse magnitude: C-SALSA with soft thresholding, NF 4 and 5.

    The threshold follows the image's running peak, so that one default serves every scale; the constrained minimum
    does not depend on it. Early-stopped l1 is closer to extended scenes than converged l1 (NF 8.2).
    """
    return _iterative_plan(m, config, config.noise, config.solver, setting, Magnitude(L1(weight=1.0), relative=True))


def tv(m: Measurement, config: TvConfig, setting: Setting) -> Plan:
    """Total variation of the magnitude with an l1 term: an early-stopped heuristic, NF 7.3.

    TV(|x|) alone is not convex in x and degenerate: with free phases a flat small magnitude fits the data, and the
    scene dissolves within a few iterations. The l1 term removes that, and the stopping rule ends the run where the
    image has settled. With l1_weight = 0 it is plain TV: then stop after about five iterations.
    """
    table = config.tv
    inner = TotalVariation(weight=1.0, n_iter=table.n_iter, nonnegative=table.l1_weight > 0, l1_weight=table.l1_weight)
    return _iterative_plan(m, config, config.noise, config.solver, setting, Magnitude(inner, relative=True))


def pnp(m: Measurement, config: PnpConfig, setting: Setting) -> Plan:
    """Plug-and-play: the magnitude goes through a denoiser whose noise level falls, NF 5."""
    denoiser: Any = setting.denoiser
    if denoiser is None:
        if not config.denoiser.file:
            raise MeasurementError("pnp needs a denoiser; give -d a name of 'backcast denoisers', or your own")
        denoiser = load_denoiser(config.denoiser.file, device=setting.device, precision=config.denoiser.precision)
    alpha, notes = _trained_strength(config.solver, getattr(denoiser, "noise_range", None))
    if getattr(denoiser, "n_dims", 3) == 2:
        notes = [*notes, "denoiser: a 2D network, which takes the volume layer by layer along z"]
    if config.denoiser.ensemble > 1:
        denoiser = SelfEnsemble(denoiser, config.denoiser.ensemble)
    prior = Magnitude(denoiser, relative=False if config.denoiser.scale == "none" else config.denoiser.scale)
    solver = config.solver
    plan = _iterative_plan(m, config, config.noise, solver, setting, prior, alpha=alpha, notes=notes)
    return dataclasses.replace(
        plan,
        image=denoised if solver.output == "denoised" else None,
        keep_best=None if solver.patience is None else KeepBest(distance, solver.patience),
    )


def denoised(state: State) -> Tensor:
    """The split on which the denoiser acts: a clean background, and close to the image that fits the data."""
    split: Tensor = state.v1  # type: ignore[attr-defined]
    return split


def distance(state: State) -> Tensor:
    """‖x - v1‖/‖v1‖ between the image that fits the data and the denoised one.

    It falls while the two find each other. When a denoiser drifts off, they part, while the fit of x stays what it is:
    the closest iterate is near the best one, which nothing else that is known without the truth tells.
    """
    return state.primal


def _trained_strength(
    table: SolverTable, noise_range: tuple[float, float] | None
) -> tuple[Callable[[int], float], list[str]]:
    """alpha by iteration, held within the levels that the denoiser was trained on, and a note where that changes it."""
    wanted = strength(table)
    schedule: Callable[[int], float] = wanted if callable(wanted) else lambda k: float(wanted)
    if noise_range is None:
        return schedule, []
    low, high = noise_range

    def held(k: int) -> float:
        return min(max(schedule(k), low**2), high**2)

    levels = [math.sqrt(schedule(k)) for k in range(1, table.max_iter + 1)]
    least, most = min(levels), max(levels)
    if low <= least and most <= high:
        return schedule, []
    note = (
        f"denoiser: alpha asks for noise levels {least:.3g} to {most:.3g}, the denoiser was trained on {low:g} to "
        f"{high:g}; levels outside are held at its bounds"
    )
    return held, [note]


# -- what a measurement says --------------------------------------------------------------------------------


def grid_of(m: Measurement, config: RadarConfig) -> tuple[Grid, str]:
    """The voxel grid and a sentence on where it comes from.

    The file's /grid, else the grid of its ground truth, else one from aperture and bandwidth; what the
    configuration gives replaces it. A new spacing or a new shape alone keeps the extent.

    Raises:
        MeasurementError: no grid can be derived.
    """
    table = config.grid
    given = [name for name in ("origin_m", "spacing_m", "shape") if getattr(table, name) is not None]
    if len(given) == 3:
        return Grid(table.origin_m, table.spacing_m, table.shape), "grid: from the configuration"  # type: ignore[arg-type]
    if m.grid is not None:
        base, source = Grid(m.grid.origin_m, m.grid.spacing_m, m.grid.shape), "from the file's /grid"
    elif (truth := truth_grid(m)) is not None:
        base, source = Grid(truth.origin_m, truth.spacing_m, truth.shape), "that of /ground_truth/volume"
    else:
        base = _default_grid(m)
        source = "from aperture and bandwidth, since the file has no /grid; set [grid] to choose another"
    origin = table.origin_m or base.origin_m
    spacing, shape = base.spacing_m, base.shape
    extent = [d * (n - 1) for d, n in zip(base.spacing_m, base.shape, strict=True)]
    if table.spacing_m is not None:
        spacing = table.spacing_m
        n_z, n_y, n_x = (round(e / d) + 1 for e, d in zip(extent, spacing, strict=True))
        shape = (n_z, n_y, n_x)
    elif table.shape is not None:
        shape = table.shape
        z, y, x = (e / (n - 1) if n > 1 and e > 0 else d for e, n, d in zip(extent, shape, base.spacing_m, strict=True))
        spacing = (z, y, x)
    changed = f"; {' and '.join(given)} from the configuration" if given else ""
    return Grid(origin, spacing, shape), f"grid: {source}{changed}"


def _check_fits(grid: Grid, config: RadarConfig, setting: Setting, *, copies: int) -> None:
    """Refuse a grid whose images alone (`copies` at least, operator not counted) exceed the device's memory.

    Systems that promise more memory than they have end the process later, without a word.
    """
    total = _memory_of(setting.device)
    needed = grid.n_voxels * _dtype(config).itemsize * copies
    if total is not None and needed > total:
        raise MeasurementError(
            f"/grid/shape: expected an image that fits into {total / 2**30:.3g} GiB of memory, found "
            f"{' x '.join(map(str, grid.shape))} voxels, which need {needed / 2**30:.3g} GiB; set grid.shape or "
            "grid.spacing_m to have fewer"
        )


def _memory_of(device: torch.device) -> int | None:
    """Bytes that the device has; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def truth_grid(m: Measurement) -> GridSpec | None:
    """The regular grid of the ground truth; None when there is no truth, or it lies on none."""
    truth = m.ground_truth
    if truth is None or tuple(truth.axes[-3:]) != ("z", "y", "x"):
        return None
    origin, spacing, shape = [], [], []
    for name in ("z", "y", "x"):
        values = np.asarray(truth.scale(name), dtype=float)
        step = (values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else 1.0
        regular = values[0] + step * np.arange(len(values))
        if step <= 0 or np.abs(values - regular).max() > 1e-6 * step:
            return None
        origin.append(float(values[0]))
        spacing.append(float(step))
        shape.append(len(values))
    return GridSpec(
        (origin[0], origin[1], origin[2]),
        (spacing[0], spacing[1], spacing[2]),
        (shape[0], shape[1], shape[2]),
    )


def _default_grid(m: Measurement) -> Grid:
    """In front of the aperture, as deep as ranges are unambiguous, at half the resolution."""
    axis = str(m.geometry.get("downrange_axis", "z")).strip("+")
    if axis != "z":
        raise MeasurementError(
            f"/geometry downrange_axis: a default grid needs z, found {axis}; give origin_m, spacing_m and "
            "shape under [grid]"
        )
    f = np.asarray(m.scale("frequency"), dtype=float)
    speed = _speed(m)
    if len(f) < 2:
        raise MeasurementError(
            "/measurement/frequency: a default grid needs two frequencies or more, found one; give "
            "origin_m, spacing_m and shape under [grid]"
        )
    antennas = [np.asarray(m.geometry[k], dtype=float).reshape(-1, 3) for k in ("tx_positions", "rx_positions")]
    both = np.concatenate(antennas)
    low, high = both.min(0), both.max(0)
    centre = (low + high) / 2
    width = float(max(high[0] - low[0], high[1] - low[1]))
    if width <= 0:
        raise MeasurementError(
            "/geometry: a default grid needs an aperture, found all antennas in one place; give origin_m, "
            "spacing_m and shape under [grid]"
        )
    near = float(high[2]) + width / 4
    deep = min(speed / (2 * float(np.diff(f).min())), 2 * width)
    wavelength = speed / float(f.mean())
    fine_z = speed / (2 * (f[-1] - f[0])) / 2
    n_z = min(LONGEST_AXIS, max(2, math.ceil(deep / fine_z) + 1))
    raster = find_raster(torch.as_tensor(antennas[0])) if "channel" in m.axes else None
    if raster is not None and max(raster.shape) <= LONGEST_AXIS:  # the scan's own pitch allows FFTs
        (x, y), (dx, dy), (n_y, n_x) = raster.origin_m, raster.step_m, raster.shape
        return Grid((near, y, x), (deep / (n_z - 1), dy, dx), (n_z, n_y, n_x))
    apertures = sum(float(np.ptp(a[:, :2], axis=0).max()) for a in antennas)
    fine_xy = wavelength * (near - float(high[2]) + deep / 2) / apertures / 2
    n_xy = min(LONGEST_AXIS, max(2, math.ceil(width / fine_xy) + 1))
    half = width / 2
    return Grid.spanning(
        (near, float(centre[1]) - half, float(centre[0]) - half),
        (near + deep, float(centre[1]) + half, float(centre[0]) + half),
        (n_z, n_xy, n_xy),
    )


def operator_of(m: Measurement, frame: int, grid: Grid, dtype: torch.dtype, setting: Setting) -> Radar:
    """The forward model of one frame; for a static array that of all frames."""
    options: dict[str, Any] = {
        "amplitude": str(m.acquisition["amplitude_model"]),
        "phase_convention": str(m.acquisition["phase_convention"]),
        "propagation_speed": _speed(m),
        "dtype": dtype,
        "device": setting.device,
    }
    if setting.memory_limit is not None:
        options["memory_limit"] = setting.memory_limit
    pairs: dict[str, Any] = {}
    if "channel" in m.axes:
        pairs = {k: torch.as_tensor(np.asarray(m.geometry[k])) for k in ("channel_tx", "channel_rx")}
    return near_field_operator(
        torch.as_tensor(_positions(m, "tx_positions", frame)),
        torch.as_tensor(_positions(m, "rx_positions", frame)),
        torch.as_tensor(np.asarray(m.scale("frequency"), dtype=float)),
        grid,
        **pairs,
        **options,
    )


def _speed(m: Measurement) -> float:
    return float(m.acquisition.get("propagation_speed", SPEED_OF_LIGHT))  # measurements made in memory may omit it


def _positions(m: Measurement, name: str, frame: int) -> np.ndarray:
    positions = np.asarray(m.geometry[name], dtype=float)
    return positions[frame] if positions.ndim == 3 else positions


def _channel_positions(m: Measurement, frame: int) -> tuple[np.ndarray, np.ndarray]:
    tx, rx = _positions(m, "tx_positions", frame), _positions(m, "rx_positions", frame)
    return tx[np.asarray(m.geometry["channel_tx"])], rx[np.asarray(m.geometry["channel_rx"])]


def _moves(m: Measurement) -> bool:
    return any(np.asarray(m.geometry[name]).ndim == 3 for name in ("tx_positions", "rx_positions"))


def _weights(m: Measurement) -> tuple[np.ndarray | None, float | None]:
    """Weights (frame, ...) for every sample, None when all are 1; and the noise's std after weighting."""
    shape = m.data.shape
    weights: np.ndarray | None = None
    std: float | None = None
    if m.mask is not None and not np.all(m.mask):
        weights = np.broadcast_to(m.broadcast(m.mask, m.mask_axes), shape).astype(float)
        if not weights.any():
            raise MeasurementError("/measurement/mask: expected measured samples, found none; the mask is all zero")
    if m.noise_std is not None:
        noise = np.asarray(m.noise_std, dtype=float)
        if noise.size == 1:
            std = float(noise.reshape(()))
        else:
            spread = np.broadcast_to(m.broadcast(noise, m.noise_std_axes), shape)
            if not np.all(np.isfinite(spread) & (spread > 0)):
                raise MeasurementError("/measurement/noise_std: expected numbers > 0, found others")
            std = float(np.sqrt(np.mean(spread**2)))
            weights = std / spread * (1.0 if weights is None else weights)
    return weights, std


def _checked_data(m: Measurement, weights: np.ndarray | None) -> np.ndarray:
    """The data with unmeasured samples at 0; refuses what is not finite, and frames without signal."""
    y = np.asarray(m.data)
    if weights is not None:
        y = np.where(weights > 0, y, 0)
    bad = ~np.isfinite(y)
    if bad.any():
        first = [int(i) for i in np.argwhere(bad)[0]]
        raise MeasurementError(
            f"/measurement/data: expected finite samples, found {int(bad.sum())} NaN or Inf of {y.size}, "
            f"the first at {first} ({', '.join(m.axes)}); mask them in /measurement/mask or measure again"
        )
    for frame in range(len(y)):
        if not y[frame].any():
            raise MeasurementError(
                f"/measurement/data: expected a signal, found only zeros in frame {frame}; measure again"
            )
        largest = float(np.abs(y[frame]).max())
        if not 1 / LARGEST <= largest <= LARGEST:
            raise MeasurementError(
                f"/measurement/data: expected a largest magnitude between {1 / LARGEST:g} and {LARGEST:g}, so that "
                f"sums stay within single precision, found {largest:.3g} in frame {frame}; write the data "
                "in another unit"
            )
    return y


# -- plans --------------------------------------------------------------------------------------------------


def _dtype(config: RadarConfig) -> torch.dtype:
    return torch.complex128 if config.precision == "double" else torch.complex64


class _Model:
    """The forward model of some frames, with the set-up solves that they share."""

    def __init__(self, plain: Radar, weights: Tensor | None, n_solves: int) -> None:
        self.plain = plain
        self.n_solves = n_solves
        self.A: LinearOperator = plain if weights is None else Weighted(plain, weights)
        self.weights = weights

    @functools.cached_property
    def projector(self) -> EllipsoidProjector:
        projector: EllipsoidProjector = self.A.ellipsoid_projector(n_solves=self.n_solves)
        return projector

    @functools.cached_property
    def mean_eigenvalue(self) -> float:
        return self.A.mean_eigenvalue()


_last_model: tuple[str, _Model] | None = None


def _model(
    m: Measurement, frame: int, grid: Grid, dtype: torch.dtype, setting: Setting, w: Tensor | None, n_solves: int
) -> _Model:
    """The model of a frame; the last one again when nothing it depends on has changed.

    The files of a batch come from one scanner as a rule, and setting up its solves costs more than using them.
    """
    global _last_model
    key = hashlib.sha256(repr((grid, dtype, str(setting.device), setting.memory_limit, n_solves)).encode())
    key.update(repr((m.acquisition["amplitude_model"], m.acquisition["phase_convention"], _speed(m))).encode())
    arrays = [_positions(m, "tx_positions", frame), _positions(m, "rx_positions", frame), m.scale("frequency")]
    arrays += [m.geometry[k] for k in ("channel_tx", "channel_rx") if "channel" in m.axes]
    arrays += [] if w is None else [w.cpu().numpy()]
    for array in arrays:
        key.update(repr(np.shape(array)).encode() + np.ascontiguousarray(array).tobytes())
    if _last_model is not None and _last_model[0] == key.hexdigest():
        return _last_model[1]
    _last_model = None  # the old factors go before the new ones come
    model = _Model(operator_of(m, frame, grid, dtype, setting), w, n_solves)
    _last_model = (key.hexdigest(), model)
    return model


def _groups(
    m: Measurement,
    config: RadarConfig,
    setting: Setting,
    grid: Grid,
    y: np.ndarray,
    weights: np.ndarray | None,
    max_iter: int = 0,
) -> Iterator[tuple[tuple[int, ...], _Model, Tensor]]:
    """Frames, their model and their weighted data, a group at a time."""
    dtype = _dtype(config)
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    static = not _moves(m) and (weights is None or bool(np.all(weights == weights[:1])))
    size = FRAMES_AT_ONCE if static else 1
    for first in range(0, len(y), size):
        frames = tuple(range(first, min(first + size, len(y))))
        w = None if weights is None else torch.as_tensor(weights[first]).to(real).to(setting.device)
        n_solves = max(LEAST_SOLVES, max_iter * (len(y) if static else 1))
        model = _model(m, first, grid, dtype, setting, w, n_solves)
        data = torch.as_tensor(y[list(frames)]).to(dtype).to(setting.device)
        yield frames, model, data if model.weights is None else data * model.weights
        del model, data  # so that the next model finds their memory free


def _plan(m: Measurement, config: RadarConfig, parts: Iterator[Part], grid: Grid, **more: Any) -> Plan:
    axes = {name: Scale(values=grid.axis_m(name).numpy(), units="m", long_name=name) for name in ("z", "y", "x")}
    return Plan(parts=parts, n_frames=m.n("frame"), image_axes=axes, quantity="reflectivity", units="1", **more)


def _direct_plan(m: Measurement, config: RadarConfig, setting: Setting, image: Direct, name: str) -> Plan:
    grid, note = grid_of(m, config)
    _check_fits(grid, config, setting, copies=2)
    weights, _ = _weights(m)
    y = _checked_data(m, weights)

    def part(frames: tuple[int, ...], model: _Model, data: Tensor) -> Part:
        return Part(
            frames=frames,
            operator=model.A,
            y=data,
            scale=torch.ones(len(frames), dtype=torch.float64, device=data.device),
            direct=lambda: image(model.plain, data),
        )

    groups = _groups(m, config, setting, grid, y, weights)
    parts = itertools.starmap(part, groups)
    return _plan(m, config, parts, grid, long_name=f"reflectivity by {name}", notes=[note])


def _iterative_plan(
    m: Measurement,
    config: RadarConfig,
    noise: NoiseTable,
    solver: SolverTable,
    setting: Setting,
    prior: Any,
    *,
    alpha: float | Callable[[int], float] | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    grid, note = grid_of(m, config)
    _check_fits(grid, config, setting, copies=6)
    weights, file_std = _weights(m)
    y = _checked_data(m, weights)
    notes = [note, *notes]
    facts: dict[str, Any] = {}

    def part(frames: tuple[int, ...], model: _Model, data: Tensor) -> Part:
        measured = data[0].numel() if weights is None else int(np.count_nonzero(weights[frames[0]]))
        epsilon, how = _epsilon(model.A, data, noise, file_std, measured)
        scale = data_scale(model.A, data)
        facts.setdefault("epsilon", []).extend(epsilon.tolist())
        facts.setdefault("data_scale", []).extend(scale.tolist())
        facts["solver"] = "projected" if _projects(model, solver) else "csalsa"
        if how not in notes:
            notes.append(how)
        scaled = data / scale.to(data.real.dtype).reshape(-1, *(1,) * (data.ndim - 1))
        solve = _solver(model, scaled, epsilon / scale, prior, solver, strength(solver) if alpha is None else alpha)
        return Part(frames=frames, operator=model.A, y=scaled, scale=scale, epsilon=epsilon / scale, solve=solve)

    groups = _groups(m, config, setting, grid, y, weights, solver.max_iter)
    return _plan(
        m,
        config,
        itertools.starmap(part, groups),
        grid,
        long_name="reflectivity",
        notes=notes,
        facts=facts,
        stop=relative_change_below(solver.tol),
        max_iter=solver.max_iter,
    )


def data_scale(A: LinearOperator, y: Tensor) -> Tensor:
    """Per frame, the peak of the multiple of Aᴴy that fits y best (NF 5.7); y divided by it starts at peak 1.

    Args:
        y: (frame, *A.out_shape), no frame zero.

    Returns:
        float64 (frame,), on y's device.
    """
    return starting_image(A, y).abs().flatten(1).amax(1).to(torch.float64)


def _epsilon(
    A: LinearOperator, y: Tensor, noise: NoiseTable, file_std: float | None, measured: int
) -> tuple[Tensor, str]:
    """Radius of the data ellipsoid per frame, float64 (frame,), and a sentence on where it comes from."""
    norm = torch.linalg.vector_norm(torch.view_as_real(y).flatten(1), dim=1, dtype=torch.float64)
    if noise.epsilon is not None:
        return torch.full_like(norm, noise.epsilon), "noise: epsilon from the configuration"
    if noise.snr_db is not None:
        return norm * 10 ** (-noise.snr_db / 20), f"noise: {noise.snr_db:g} dB assumed by the configuration"
    if noise.std is not None:
        return torch.full_like(norm, noise.std * math.sqrt(measured)), "noise: std from the configuration"
    if file_std is not None:
        return torch.full_like(norm, file_std * math.sqrt(measured)), "noise: from the file's noise_std"
    estimates = [estimate_noise(A, frame) for frame in y]
    freedom = min(e.degrees_of_freedom for e in estimates)
    if freedom < LEAST_FREEDOM:
        return norm * 10 ** (-ASSUMED_SNR_DB / 20), (
            f"noise: {ASSUMED_SNR_DB:g} dB assumed, since the file has no noise_std and the scan too few samples to "
            "estimate it from; set noise.std or noise.snr_db"
        )
    stds = torch.tensor([float(e.std) for e in estimates], dtype=torch.float64, device=y.device)
    shown = ", ".join(f"{float(s):.3g}" for s in stds[:3]) + (", ..." if len(stds) > 3 else "")
    how = f"noise: estimated, std {shown} ({estimates[0].method}), since the file has no noise_std"
    return stds * math.sqrt(measured), how


def _solver(
    model: _Model,
    y: Tensor,
    epsilon: Tensor,
    prior: Any,
    table: SolverTable,
    alpha: float | Callable[[int], float],
) -> Callable[[Tensor, Any], Iterator[State]]:
    projected = _projects(model, table)
    solvers = SolverCache(model.A, functools.partial(_inner_solver, model.A, table.cg_steps))

    def solve(index: Tensor, start: Any) -> Iterator[State]:
        index = index.to(y.device)
        if projected:
            return csalsa_projected(
                model.A,
                y[index],
                prior,
                epsilon=epsilon[index],
                alpha=alpha,
                start=start,
                projector=model.projector,
            )
        kappa = table.kappa_fraction * model.mean_eigenvalue
        return csalsa(
            model.A,
            y[index],
            prior,
            epsilon=epsilon[index],
            kappa=kappa,
            alpha=alpha,
            start=start,
            solvers=solvers,
        )

    return solve


def _projects(model: _Model, table: SolverTable) -> bool:
    """Whether the single split with its projection is taken: on request, or where the projection is exact."""
    if table.kind == "auto":
        return isinstance(model.A, NearFieldMimo) and model.A.projects_exactly(n_solves=model.n_solves)
    return table.kind == "projected"


def _inner_solver(A: LinearOperator, cg_steps: int, rho: float) -> RegularisedSolver:
    """The operator's own solver; where that is CG, a few steps, since every outer iteration warm-starts the next."""
    solver: RegularisedSolver = A.regularised_solver(rho)
    return CgSolver(A, rho, tol=CG_TOLERANCE, max_iter=cg_steps) if isinstance(solver, CgSolver) else solver


def strength(table: SolverTable) -> float | Callable[[int], float]:
    """alpha of the configuration: a number, or a function of the iteration (from 1) going to alpha_final."""
    if table.alpha_final is None or table.max_iter == 1:
        return table.alpha
    ratio = table.alpha_final / table.alpha

    def alpha(iteration: int) -> float:
        done = min(1.0, (iteration - 1) / (table.max_iter - 1))
        return float(table.alpha * ratio**done)

    return alpha
