"""From a measurement to a reconstruction, in memory and for one file."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from data import sha256, write_reconstruction
from data.convert.read import read
from data.measurement import Measurement, Volume
from data.reconstruction import Convergence, Metric, Reconstruction
from imaging import __version__, metrics
from imaging.operators.base import LinearOperator
from imaging.solvers.run import BatchRun, KeepBest, Outcome, batch_steps, drain
from imaging.solvers.state import State
from pipelines.channel_quality import channel_quality
from pipelines.checkpoint import EVERY_S, Checkpoint, Saved
from pipelines.config import ConfigError, as_dict, as_json, sha256_of
from pipelines.evaluate import ABSOLUTE, on_same_grid, quality
from pipelines.methods import Method, Part, Plan, Setting, find_method

PACKAGES = ("numpy", "scipy", "torch", "h5py", "scikit-image", "finufft")

#: Worst first: what a file's reason is when its frames ended differently.
SEVERITY = (
    Outcome.DIVERGED,
    Outcome.INTERRUPTED,
    Outcome.TIME_LIMIT,
    Outcome.MAX_ITERATIONS,
    Outcome.TOLERANCE,
)
COLUMNS = (
    "objective",
    "data_fidelity",
    "primal_residual",
    "dual_residual",
    "relative_change",
    "rho",
    "sigma",
    "step_size",
)
#: Columns that are left out where there is nothing to say: of RED-PSM alone, of measurements with a truth.
SOME = ("dual_change", "psnr", "nmse")

#: A solver whose residual has grown by this factor over its best has diverged; its best iterate is kept.
GROWTH = 10.0
#: Residuals below this share of the data's norm count as equal: rounding comes near.
FLAT = 1e-3
#: A denoised image that leaves this share of the data's norm has lost the scene.
EMPTIED = 0.9
#: A residual of more than this times epsilon is worth a note.
UNREACHED = 1.2

Row = dict[str, float]
OnIteration = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One file to be imaged: everything a worker process needs, in plain values.

    Attributes:
        source, target: measurement file and reconstruction file.
        method, config: the method and its resolved configuration.
        config_json, config_sha256: what goes into the provenance and decides whether a result is current.
        denoiser: as typed after ``-d``; "" for none.
        device: "cpu", "cuda", "cuda:1"; already resolved.
        memory_limit: bytes, None for the method's own.
        command_line: for the provenance.
        resume: go on from the checkpoint of an earlier run, where there is one of this input and configuration.
        checkpoint_s: seconds between checkpoints of a solve.
    """

    source: Path
    target: Path
    method: Method
    config: Any
    config_json: str
    config_sha256: str
    denoiser: str = ""
    device: str = "cpu"
    memory_limit: int | None = None
    command_line: str = ""
    resume: bool = False
    checkpoint_s: float = EVERY_S


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came out of a job.

    Attributes:
        status: of the reconstruction: "complete", "stopped" or "diverged".
        stop_reason: why the method ended; "" for a direct one.
        n_iterations: 0 for a direct method.
        seconds: wall time.
        metrics: by name, the mean over frames.
        notes: what was assumed, and what the reader had to say.
    """

    status: str
    stop_reason: str
    n_iterations: int
    seconds: float
    metrics: dict[str, float]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """Where a reconstruction is, after an iteration.

    Attributes:
        iteration, max_iter: of the frames that are being imaged.
        rows: the new rows of the convergence log, one per problem at work, as `on_iteration` gets them.
        image: makes the image as it is now, as the result will have it; frames not yet begun are 0.
    """

    iteration: int
    max_iter: int
    rows: Sequence[Mapping[str, Any]]
    image: Callable[[], Volume]


Steps = Generator[Step, None, Reconstruction]


def identity(method: Method, config: Any, denoiser_sha256: str = "") -> tuple[str, str]:
    """The canonical JSON of a run and its SHA-256: equal ones give the same image from the same file."""
    values: dict[str, Any] = {"method": method.name, **as_dict(config)}
    if denoiser_sha256:
        values["denoiser_sha256"] = denoiser_sha256
    return as_json(values), sha256_of(values)


def resolve_device(name: str) -> torch.device:
    """The device of ``--device``; "auto" takes CUDA where there is one, else the CPU.

    Raises:
        ConfigError: an unknown name, or a device that this machine has not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N, found one without double precision")
    n_cuda = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_cuda:
        found = f"{n_cuda} CUDA device{'s' if n_cuda != 1 else ''}" if n_cuda else "no CUDA device"
        raise ConfigError(f"--device {name}: found {found}; use --device cpu, or see backcast doctor")
    return device


# -- in memory ----------------------------------------------------------------------------------------------


def reconstruct(
    measurement: Measurement,
    method: str | Method | None = None,
    config: Any = None,
    *,
    setting: Setting | None = None,
    on_iteration: Sequence[OnIteration] = (),
    provenance: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Reconstruction:
    """Image a measurement.

    Args:
        measurement: as `data.read_measurement` gives it.
        method: a name of ``backcast methods``; None takes the modality's default.
        config: the method's configuration; None takes its defaults.
        setting: device, memory limit, denoiser; None is the CPU.
        on_iteration: called with every row of the convergence log: frames, iteration, elapsed (s), residuals.
        provenance: further entries, e.g. the input file.
        checkpoint: is offered how far it has got, and where to go on from; None keeps nothing.

    Returns:
        The image with convergence, metrics and provenance. `status` is "diverged" when a frame left the
        finite numbers; it then keeps its best state.

    Raises:
        ConfigError: unknown method, or one that does not take the modality.
        ValueError, MemoryError, ArithmeticError: a measurement that cannot be imaged, in one sentence.
    """
    return drain(
        reconstruct_steps(
            measurement,
            method,
            config,
            setting=setting,
            on_iteration=on_iteration,
            provenance=provenance,
            checkpoint=checkpoint,
        )
    )


def reconstruct_steps(
    measurement: Measurement,
    method: str | Method | None = None,
    config: Any = None,
    *,
    setting: Setting | None = None,
    on_iteration: Sequence[OnIteration] = (),
    provenance: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Steps:
    """`reconstruct` step by step, for who wants to see images on the way, to wait, or to end it (by `close`).

    Arguments, errors and what is returned in the end are those of `reconstruct`. A direct method yields nothing.
    """
    if method is None or isinstance(method, str):
        moving = "frame" in measurement.axes and measurement.n("frame") > 1
        method = find_method(method, measurement.modality, moving=moving)
    config = method.config() if config is None else config
    setting = Setting(device=torch.device("cpu")) if setting is None else setting
    saved = None if checkpoint is None else checkpoint.saved
    clock = time.monotonic() - (0.0 if saved is None else saved.elapsed)
    _reset_peak_memory(setting.device)
    torch.manual_seed(config.seed)
    plan = method.plan(measurement, config, setting)
    image, spread, log, residual = yield from _image(plan, measurement, on_iteration, clock, checkpoint)
    volume = _volume(plan, measurement, image)
    uncertainty = None if spread is None else _volume(plan, measurement, spread).data
    channel = None if plan.channel is None else plan.channel(image)
    gained = plan.max_iter == 0 and plan.quantity not in ABSOLUTE
    scores = {"measurement_residual": _residual_metric(residual, direct=gained)}
    if measurement.modality == "irs_mimo":
        scores |= channel_quality(volume, channel, measurement, reference="/ground_truth")
    elif measurement.ground_truth is not None:
        if on_same_grid(volume, measurement.ground_truth):
            scores |= quality(volume, measurement.ground_truth, reference="/ground_truth/volume")
        else:
            plan.notes.append("metrics: none against the ground truth, whose grid is another one")
    text, digest = identity(method, config)
    entries = {
        "program": "backcast",
        "version": __version__,
        "date": _now(),
        "sequence_index": 1,
        "config": text,
        "config_sha256": digest,
        "seed": config.seed,
        "device": str(setting.device),
        "precision": config.precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "python": platform.python_version(),
        "packages": json.dumps(package_versions(), sort_keys=True),
        "wall_time": time.monotonic() - clock,
        "peak_memory": float(_peak_memory(setting.device)),
        **{name: _number_or_list(value) for name, value in plan.facts.items()},
        **(provenance or {}),
    }
    if measurement.applied_calibration:
        entries["calibration_applied"] = json.dumps(measurement.applied_calibration)
    if notes := [*measurement.warnings, *plan.notes]:
        entries["notes"] = "\n".join(notes)
    if (commit := git_commit()) is not None:
        entries.setdefault("git_commit", commit)
    outcome = log.outcome
    status = {Outcome.DIVERGED: "diverged", Outcome.INTERRUPTED: "stopped", Outcome.TIME_LIMIT: "stopped"}
    return Reconstruction(
        modality=measurement.modality,
        volume=volume,
        uncertainty=uncertainty,
        channel=channel,
        convergence=log.convergence() if plan.max_iter else None,
        metrics=scores,
        provenance=entries,
        status="complete" if outcome is None else status.get(outcome, "complete"),
        previews=_previews(volume),
        attrs={
            "uuid": _uuid(entries),
            "input_uuid": str(measurement.attrs.get("uuid", "")),
            "creator": "backcast",
            "creator_version": __version__,
            "file_time": _now(),
        },
        warnings=tuple(notes),
    )


def _uuid(entries: Mapping[str, Any]) -> str:
    """The same for the same input, configuration and version, which give the same image; else a new one."""
    if "input_sha256" not in entries:
        return str(uuid.uuid4())
    names = ("input_sha256", "config_sha256", "version", "device")
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "backcast " + " ".join(str(entries[n]) for n in names)))


def _number_or_list(value: Any) -> Any:
    """One number for one frame: easier to read in the file than a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


@dataclass
class _Log:
    """The convergence of all frames; an iteration's row is its worst frame, for PSNR the mean."""

    rows: dict[int, list[Row]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome | None:
        return next((o for o in SEVERITY if o in self.outcomes), None)

    def convergence(self) -> Convergence:
        last = max(self.rows)
        columns: dict[str, Any] = {"iteration": np.arange(1, last + 1, dtype=np.int32)}
        present = {name for rows in self.rows.values() for row in rows for name in row}
        for name in (*COLUMNS, *SOME, "elapsed"):
            if name in SOME and name not in present:
                continue
            columns[name] = np.array([self._one(self.rows.get(k, []), name) for k in range(1, last + 1)])
        outcome = self.outcome or Outcome.MAX_ITERATIONS
        return Convergence(
            columns=columns,
            stop_reason=outcome.value,
            converged=outcome == Outcome.TOLERANCE,
            n_iterations=last,
        )

    @staticmethod
    def _one(rows: list[Row], name: str) -> float:
        values = [row[name] for row in rows if name in row]
        if not values:
            return math.nan
        return float(np.mean(values)) if name == "psnr" else float(np.max(values))


def _image(
    plan: Plan, m: Measurement, on_iteration: Sequence[OnIteration], clock: float, checkpoint: Checkpoint | None
) -> Generator[Step, None, tuple[np.ndarray, np.ndarray | None, _Log, np.ndarray]]:
    """All frames' images (frame, ...), their standard deviations, the log, and the relative residual of each frame."""
    log = _Log()
    images: list[np.ndarray] = []
    spreads: list[np.ndarray] = []
    residuals: list[np.ndarray] = []
    truth = _truth(m, plan)
    saved = None if checkpoint is None else checkpoint.saved
    if saved is not None:
        images, spreads, residuals = saved.images, saved.spreads, saved.residuals
        log = _Log(saved.rows, saved.outcomes)
        plan.carried[:] = saved.carried
    for number, part in enumerate(plan.parts):
        start = None
        if saved is not None and number <= saved.part:
            if number < saved.part:
                del part
                continue
            start = saved.run
            plan.facts.update(saved.facts)
            plan.notes[:] = [*saved.notes, f"resumed after iteration {start.state.iteration} of an interrupted run"]

        def between(run: BatchRun, number: int = number) -> None:
            assert checkpoint is not None

            def now() -> Saved:
                return Saved(
                    part=number,
                    run=run,
                    images=images,
                    spreads=spreads,
                    residuals=residuals,
                    carried=plan.carried,
                    rows=log.rows,
                    outcomes=log.outcomes,
                    facts=plan.facts,
                    notes=plan.notes,
                    elapsed=time.monotonic() - clock,
                )

            checkpoint.offer(now)

        if part.direct is not None:
            x, state = part.direct(), None
            residual = _relative_residual(part.operator, x, part.y, fit_gain=plan.quantity not in ABSOLUTE)
        else:
            going_on = (start, None if checkpoint is None else between)
            try:
                x, state = yield from _iterate(
                    plan, part, log, truth, on_iteration, clock, _so_far(plan, m, images), going_on
                )
            except KeyboardInterrupt:
                if checkpoint is not None:
                    checkpoint.interrupted()
                raise
            if plan.moving:
                residual = state.data_fidelity / torch.linalg.vector_norm(part.y.flatten(1), dim=1)
            else:
                residual = _relative_residual(part.operator, x, part.y, fit_gain=False)
        image, scale = _kept(part, x)
        if not np.isfinite(image).all():
            raise ArithmeticError(
                f"/measurement/data: expected numbers whose image single precision can hold, found NaN or Inf in "
                f"the image of frames {part.frames[0]} to {part.frames[-1]}; write the data in another unit"
            )
        images.append(image)
        residuals.append(residual.cpu().numpy())
        spread = None if part.spread is None else part.spread(state)
        if spread is not None:
            spreads.append((spread * scale.to(spread.dtype)).cpu().numpy())
        del part, x, state, spread  # one operator at a time
    return np.concatenate(images), np.concatenate(spreads) if spreads else None, log, np.concatenate(residuals)


def _kept(part: Part, x: Tensor) -> tuple[np.ndarray, Tensor]:
    """What is kept of a part's image (frame, ...), and the scale that it was multiplied with."""
    x = x if part.stored is None else part.stored(x)
    scale = part.scale.to(x.real.dtype if x.is_complex() else x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
    image = (x * scale).cpu().numpy()
    return image[0] if part.movie else image, scale


def _so_far(plan: Plan, m: Measurement, images: list[np.ndarray]) -> Callable[[Part, State], Volume]:
    """Makes the image of all frames of a part's state and of the parts before it."""

    def image(part: Part, state: State) -> Volume:
        now, _ = _kept(part, state.x if plan.image is None else plan.image(state))
        done = sum(len(i) for i in images)
        rest = np.zeros((plan.n_frames - done - len(now), *now.shape[1:]), now.dtype)
        return _volume(plan, m, np.concatenate([*images, now, rest]))

    return image


def _iterate(
    plan: Plan,
    part: Part,
    log: _Log,
    truth_and_unit: tuple[Tensor | None, float],
    on_iteration: Sequence[OnIteration],
    clock: float,
    so_far: Callable[[Part, State], Volume],
    going_on: tuple[BatchRun | None, Callable[[BatchRun], None] | None] = (None, None),
) -> Generator[Step, None, tuple[Tensor, State]]:
    """The image, and the last state."""
    assert part.solve is not None
    assert plan.stop is not None
    y_norm = torch.linalg.vector_norm(part.y.flatten(1).to(torch.complex128), dim=1)
    problems = part.problems
    truth, unit = truth_and_unit
    how: metrics.Normalise = "none" if plan.quantity in ABSOLUTE else "peak"
    latest: list[Mapping[str, Any]] = []

    def record(state: State, active: Tensor) -> None:
        elapsed = time.monotonic() - clock
        here = active.to(y_norm.device)
        rows = _rows(state, y_norm[here], part.scale[here], elapsed)
        if truth is not None:
            estimate = state.x if plan.image is None else plan.image(state)
            estimate = estimate if part.stored is None else part.stored(estimate)
            for i, row, image in zip(active.tolist(), rows, estimate, strict=True):
                reference = truth[problems[i]].to(image.device)
                values = image if part.movie else image[None]
                values = values if plan.quantity in ABSOLUTE else values.abs()
                values = values.to(reference.dtype) * float(part.scale[i] / unit)
                row.update(
                    psnr=float(metrics.psnr(values, reference, normalise=how).mean()),
                    nmse=float(metrics.nmse(values, reference, normalise=how).mean()),
                )
        log.rows.setdefault(state.iteration, []).extend(rows)
        latest[:] = [
            {"frame": problems[i][0], "iteration": state.iteration, "max_iter": plan.max_iter, **row}
            for i, row in zip(active.tolist(), rows, strict=True)
        ]
        for told in latest:
            for callback in on_iteration:
                callback(told)

    def step(state: State) -> Step:
        number = int(latest[0]["iteration"])
        image = functools.partial(so_far, part, state)
        return Step(iteration=number, max_iter=plan.max_iter, rows=tuple(latest), image=image)

    floor = FLAT * float(y_norm.max())
    solving = batch_steps(
        part.solve,
        len(problems),
        stop=plan.stop,
        max_iter=plan.max_iter,
        callbacks=[record],
        keep_best=plan.keep_best or KeepBest(lambda s: s.data_fidelity.clamp_min(floor), patience=None, growth=GROWTH),
        resume=going_on[0],
        between=going_on[1],
    )
    state, outcomes, _ = yield from _each(solving, step)
    log.outcomes.extend(outcomes)
    state = state if part.finish is None else part.finish(state)
    if Outcome.INTERRUPTED in outcomes:
        raise KeyboardInterrupt  # a half-solved image is no result
    if part.epsilon is not None:
        missed = float((state.data_fidelity / part.epsilon.clamp_min(floor)).max())
        if missed > UNREACHED:
            plan.notes.append(
                f"noise: no image within the grid fits the data as closely as the noise level asks, the residual is "
                f"{missed:.3g} times epsilon; the noise level may be set too low, or the model miss something"
            )
    if plan.image is None:
        return state.x, state
    image = plan.image(state)
    left = _relative_residual(part.operator, image, part.y, fit_gain=False)
    if bool(((left > EMPTIED) & (left > 1.5 * state.data_fidelity.to(left.device) / y_norm.to(left.device))).any()):
        plan.notes.append(
            f"denoiser: it leaves next to nothing, {float(left.max()):.0%} of the data's norm is not explained; the "
            "scene is unlike what it was trained on, as scenes that fill the grid are; try -m tv or a direct method"
        )
    return image, state


def _each(solving: Generator[Any, None, Any], step: Callable[[Any], Step]) -> Generator[Step, None, Any]:
    """The solver's states as steps; returns what the solver returns."""
    while True:
        try:
            state = next(solving)
        except StopIteration as end:
            return end.value
        yield step(state)


def _rows(state: State, y_norm: Tensor, scale: Tensor, elapsed: float) -> list[Row]:
    columns: dict[str, list[float]] = {
        "data_fidelity": (state.data_fidelity.to(y_norm.device) / y_norm).tolist(),
        "primal_residual": state.primal.tolist(),
        "dual_residual": state.dual.tolist(),
        "relative_change": state.relative_change.tolist(),
    }
    if state.objective is not None:
        columns["objective"] = state.objective.tolist()
    if state.rho is not None:
        columns["rho"] = torch.as_tensor(state.rho).expand(state.primal.shape).tolist()
    change = getattr(state, "dual_change", None)
    if change is not None:
        columns["dual_change"] = change.tolist()
    noise_var = getattr(state, "noise_var", None)
    if noise_var is not None:
        columns["sigma"] = (noise_var.sqrt() * scale).tolist()  # of the samples: a noise that is learnt
    if state.sigma is not None:
        columns["sigma"] = [state.sigma] * len(y_norm)
    return [
        {name: float(values[i]) for name, values in columns.items()} | {"elapsed": elapsed} for i in range(len(y_norm))
    ]


def _relative_residual(A: LinearOperator, x: Tensor, y: Tensor, *, fit_gain: bool) -> Tensor:
    """‖Ax - y‖ / ‖y‖ per problem; with `fit_gain` of the image's best multiple, for images without absolute scale."""
    ax, y = A(x).flatten(1).to(torch.complex128), y.flatten(1).to(torch.complex128)
    if fit_gain:
        energy = torch.linalg.vecdot(ax, ax).real.clamp_min(torch.finfo(torch.float64).tiny)
        ax = ax * (torch.linalg.vecdot(ax, y) / energy)[:, None]
    return torch.linalg.vector_norm(ax - y, dim=1) / torch.linalg.vector_norm(y, dim=1)


def _truth(m: Measurement, plan: Plan) -> tuple[Tensor | None, float]:
    """Truth (frame, z, y, x) on the image's grid for the convergence log, and its unit; None when there is none.

    Where absolute values count the unit is the truth's peak over all frames; else the truth is the magnitude, each
    frame's peak 1, and the unit 1.
    """
    truth = m.ground_truth
    shape = (plan.n_frames, *(len(scale.values) for scale in plan.image_axes.values()))
    if (
        truth is None
        or not truth.data.any()
        or not on_same_grid(_volume(plan, m, np.broadcast_to(np.float32(0), shape)), truth)
    ):
        return None, 1.0
    if plan.quantity in ABSOLUTE:
        values = torch.as_tensor(truth.data).to(torch.float32)
        unit = float(values.abs().max())
        return ((values if truth.axes[0] == "frame" else values[None]) / unit).expand(shape), unit
    size = torch.as_tensor(np.abs(truth.data))
    size = (size if truth.axes[0] == "frame" else size[None]).expand(shape)
    peak = size.amax((-3, -2, -1), keepdim=True)
    return size / torch.where(peak > 0, peak, torch.ones_like(peak)), 1.0


def _volume(plan: Plan, m: Measurement, image: np.ndarray) -> Volume:
    scales = dict(plan.image_axes)
    axes = tuple(scales)
    narrow = np.complex64 if np.iscomplexobj(image) else np.float32
    image = image.astype(narrow, copy=False)  # the file's type, whatever precision the method computed in
    if plan.batch_axes is not None:
        scales = {name: s for name, s in plan.batch_axes.items() if len(s.values) > 1} | scales
        axes, image = tuple(scales), image.reshape([len(s.values) for s in scales.values()])
    elif plan.n_frames == 1:
        image = image[0]
    else:
        times = m.scales["frame"] if plan.frame_scale is None else plan.frame_scale
        axes, scales = ("frame", *axes), {"frame": times, **scales}
    return Volume(
        data=image,
        axes=axes,
        scales=scales,
        units=plan.units,
        quantity=plan.quantity,
        long_name=plan.long_name,
    )


def _residual_metric(values: np.ndarray, *, direct: bool) -> Metric:
    gain = " after the least-squares complex gain" if direct else ""
    return Metric(
        value=float(values[0]) if len(values) == 1 else values.astype(float),
        units="1",
        reference="/measurement/data",
        definition=f"norm(A x - y) / norm(y){gain}",
    )


def _previews(volume: Volume) -> dict[str, np.ndarray]:
    """Maximum-intensity projections along z, y, x, 0 to 40 dB below the peak; the first frame of several."""
    if volume.axes[-3:] != ("z", "y", "x"):
        return {}
    size = np.abs(volume.data if volume.axes[0] != "frame" else volume.data[0])
    peak = float(size.max())
    if peak == 0 or not math.isfinite(peak):
        return {}
    level = 20 * np.log10(np.maximum(size / peak, 1e-2))
    picture = np.round(255 * (level + 40) / 40).astype(np.uint8)
    return {f"mip_{name}": picture.max(axis=i) for i, name in enumerate(("z", "y", "x"))}


# -- one file -----------------------------------------------------------------------------------------------


def reconstruct_file(job: Job, *, on_iteration: Sequence[OnIteration] = ()) -> Done:
    """Read, image, write; beside the result a log with one line per iteration.

    Raises:
        ValueError, OSError, MemoryError, ArithmeticError: in one sentence; errors of the file itself name it.
    """
    clock = time.monotonic()
    denoiser = None
    extra: dict[str, Any] = {
        "command_line": job.command_line,
        "config": job.config_json,
        "config_sha256": job.config_sha256,
    }
    if job.denoiser:
        from denoisers.load import load_denoiser

        precision = job.config.denoiser.precision
        denoiser = load_denoiser(job.denoiser, device=job.device, precision=precision)
        extra |= {
            "denoiser": denoiser.name,
            "denoiser_version": denoiser.version,
            "denoiser_sha256": denoiser.sha256,
        }
    setting = Setting(device=torch.device(job.device), memory_limit=job.memory_limit, denoiser=denoiser)
    measurement = read(job.source)
    if measurement.modality not in job.method.modalities:
        raise ConfigError(
            f"{job.source}: modality: method {job.method.name} takes {', '.join(job.method.modalities)}, "
            f"found {measurement.modality}; choose another with -m"
        )
    extra |= {
        "input_file": reference_to(job.source, job.target.parent),
        "input_sha256": sha256(job.source),
    }
    log = job.target.with_name(f"{job.target.stem}.log.jsonl")
    job.target.parent.mkdir(parents=True, exist_ok=True)
    key = checkpoint_key(job, extra["input_sha256"])
    device = torch.device(job.device)
    checkpoint = Checkpoint(job.target, key, every_s=job.checkpoint_s, resume=job.resume, device=device)
    kept = 0 if checkpoint.saved is None else checkpoint.saved.n_rows
    with _json_lines(log, kept) as write:
        result = reconstruct(
            measurement,
            job.method,
            job.config,
            setting=setting,
            on_iteration=[write, *on_iteration],
            provenance=extra,
            checkpoint=checkpoint,
        )
    write_reconstruction(job.target, result)
    checkpoint.finished()
    return Done(
        status=result.status,
        stop_reason=result.convergence.stop_reason if result.convergence is not None else "",
        n_iterations=result.convergence.n_iterations if result.convergence is not None else 0,
        seconds=time.monotonic() - clock,
        metrics={name: float(np.mean(metric.value)) for name, metric in result.metrics.items()},
        notes=[*result.warnings, *([checkpoint.trouble] if checkpoint.trouble else [])],
    )


def checkpoint_key(job: Job, input_sha256: str) -> dict[str, str]:
    """What a checkpoint has to be of, so that the job can go on from it."""
    return {"config_sha256": job.config_sha256, "input_sha256": input_sha256, "version": __version__}


@contextlib.contextmanager
def _json_lines(path: Path, kept: int = 0) -> Iterator[OnIteration]:
    """A log that holds one line per iteration while the method runs; `kept` lines of an earlier run stay."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:kept] if kept and path.exists() else []
    path.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        file: TextIO | None = None  # made with the first iteration: a direct method has none

        def write(row: Mapping[str, Any]) -> None:
            nonlocal file
            if file is None:
                file = stack.enter_context(path.open("w", encoding="utf-8"))
                file.writelines(lines)
            plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            file.write(json.dumps(plain) + "\n")
            file.flush()

        yield write


def reference_to(path: Path, folder: Path) -> str:
    """`path` seen from `folder`; the bare name where the way there would tell the user's name."""
    with contextlib.suppress(ValueError):  # another drive on Windows
        relative = Path(os.path.relpath(path.resolve(), folder.resolve()))
        home = Path.home()
        if home.name not in relative.parts or home.name == "":
            return relative.as_posix()
    return path.name


def command_line(arguments: Sequence[str]) -> str:
    """What was typed, the home folder written as ~."""
    import shlex

    home = str(Path.home())
    typed = [a.replace(home, "~") if len(home) > 1 else a for a in arguments]
    return shlex.join(["backcast", *typed])


# -- provenance ---------------------------------------------------------------------------------------------


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of what computes the image."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout this code runs from, with "+" when files differ; None when installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _reset_peak_memory(device: torch.device) -> None:
    """Make the peak that of this run where the system can; elsewhere it is that of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    """Bytes of memory at the highest point, the device's own included."""
    peak = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = int(line.split()[1]) * 1024
    if not peak:
        with contextlib.suppress(ImportError):  # Windows has no resource module
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if device.type == "cuda":
        peak += torch.cuda.max_memory_allocated(device)
    return peak
