"""How good a configuration is: against the truth, or by what it predicts of samples that it never saw."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data.convert.read import read
from data.measurement import GridSpec, Measurement, Scale
from imaging.operators.base import LinearOperator
from pipelines.config import ConfigError
from pipelines.executors import _is_a_defect
from pipelines.methods import METHODS, Method, Setting
from pipelines.radar import MeasurementError, grid_of
from pipelines.radar_config import RadarConfig
from pipelines.reconstruct import reconstruct

ScoreName = Literal["psnr", "nmse", "ssim", "heldout"]
SCORES: tuple[ScoreName, ...] = ("psnr", "nmse", "ssim", "heldout")
HIGHER_IS_BETTER = ("psnr", "ssim")
#: Share of the frequencies, or of the antennas, that is held out.
HELD_OUT = 0.1
#: An axis with fewer entries is not split.
LEAST_TO_SPLIT = 4


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that scoring a trial needs, in plain values: it goes to other processes.

    Attributes:
        files: measurement files.
        method, config: the method and the configuration to start from.
        score: what is measured.
        seed: of the split into seen and held-out samples.
        denoiser: as typed after ``-d``; "" for none.
        device: "cpu", "cuda", "cuda:1"; resolved.
    """

    files: tuple[Path, ...]
    method: Method
    config: Any
    score: ScoreName
    seed: int = 0
    denoiser: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        score: mean over the files; None for a trial that gave none.
        reason: why it gave none, one sentence.
        hopeless: whether another configuration would hardly do better: the measurement or the truth does not fit.
    """

    score: float | None
    reason: str = ""
    hopeless: bool = False


class Bad(ArithmeticError):
    """A trial whose image is none: it diverged, or its score is no number."""


class Scorer:
    """Scores configurations; the files are read once and stay in memory."""

    def __init__(self, task: Task) -> None:
        self.task = task
        denoiser = None
        if task.denoiser:
            from denoisers.load import load_denoiser

            denoiser = load_denoiser(task.denoiser, device=task.device)
        self._setting = Setting(device=torch.device(task.device), denoiser=denoiser)
        self._files: dict[Path, Callable[[Any], float]] = {}

    def __call__(self, values: Mapping[str, Any]) -> Outcome:
        """The outcome of one trial; defects go through.

        Args:
            values: of the tuned keys, dotted.
        """
        path, scores = self.task.files[0], []
        try:
            config = replaced(self.task.config, values)
            for path in self.task.files:
                if path not in self._files:
                    self._files[path] = self._scorer_of(read(path))
                scores.append(self._files[path](config))
                if not math.isfinite(scores[-1]):
                    raise Bad(f"expected a finite score, found {scores[-1]}")
        except (ArithmeticError, torch.linalg.LinAlgError) as error:
            return Outcome(None, _named(path, error))
        except (ValueError, MemoryError) as error:
            if isinstance(error, ValueError) and _is_a_defect(error):
                raise
            return Outcome(None, _named(path, error), hopeless=True)
        except RuntimeError as error:
            if "out of memory" in str(error) or "can't allocate memory" in str(error):
                return Outcome(None, _named(path, error), hopeless=True)
            raise
        return Outcome(float(np.mean(scores)))

    def _scorer_of(self, m: Measurement) -> Callable[[Any], float]:
        if self.task.score == "heldout":
            seen, held_out = split(m, self.task.seed)
            truth = Prediction(held_out, self._setting, fit_gain=self.task.method.kind == "direct")
            return lambda config: truth.error(self._image(seen, config).volume.data, config)
        return lambda config: self._figure(m, config)

    def _image(self, m: Measurement, config: Any) -> Any:
        result = reconstruct(m, self.task.method, config, setting=self._setting)
        if result.status == "diverged":
            raise Bad("the solver diverged")
        return result

    def _figure(self, m: Measurement, config: Any) -> float:
        result, name = self._image(m, config), self.task.score
        if name not in result.metrics:
            if m.ground_truth is None or not m.ground_truth.data.any():
                reason = "has none" if m.ground_truth is None else "has one that is zero everywhere"
            elif "psnr" in result.metrics:
                reason = "has fewer voxels than SSIM's window of 11 along an axis"
            else:
                reason = "has one on another grid than the image; leave [grid] to the file"
            raise ConfigError(f"--score {name}: expected a truth to compare with, the file {reason}")
        return float(np.mean(result.metrics[name].value))


class Prediction:
    """‖Ax - y‖ / ‖y‖ of samples that were held out, mean over frames.

    Args:
        held_out: the samples.
        fit_gain: multiply Ax with the gain that fits best, for images without a scale of their own.
    """

    def __init__(self, held_out: Measurement, setting: Setting, *, fit_gain: bool) -> None:
        self._m, self._setting, self._fit_gain = held_out, setting, fit_gain
        self._key = ""
        self._parts: list[tuple[tuple[int, ...], LinearOperator, Tensor]] = []

    def error(self, image: np.ndarray, config: Any) -> float:
        """The error of an image (z, y, x) or (frame, z, y, x) that a configuration gave."""
        x = torch.as_tensor(image).to(self._setting.device)
        x = x if x.ndim == 4 else x[None]
        errors = []
        for frames, A, y in self._operators(config):
            ax, y = A(x[list(frames)].to(A.dtype)).flatten(1).to(torch.complex128), y.flatten(1).to(torch.complex128)
            if self._fit_gain:
                energy = torch.linalg.vecdot(ax, ax).real.clamp_min(torch.finfo(torch.float64).tiny)
                ax = ax * (torch.linalg.vecdot(ax, y) / energy)[:, None]
            errors += (torch.linalg.vector_norm(ax - y, dim=1) / torch.linalg.vector_norm(y, dim=1)).tolist()
        return float(np.mean(errors))

    def _operators(self, config: Any) -> list[tuple[tuple[int, ...], LinearOperator, Tensor]]:
        """Frames, operator and data; made anew only when the grid or the arithmetic changes."""
        key = repr((config.grid, config.precision))
        if key != self._key:
            # A direct method's plan sets up an operator and nothing else.
            direct = next(m for m in METHODS if m.kind == "direct" and self._m.modality in m.modalities)
            plan = direct.plan(self._m, direct.config(grid=config.grid, precision=config.precision), self._setting)
            self._parts = [(part.frames, part.operator, part.y) for part in plan.parts]
            self._key = key
        return self._parts


def split(m: Measurement, seed: int) -> tuple[Measurement, Measurement]:
    """A measurement without some of its frequencies, and these alone.

    About a tenth of the frequencies, never the first or the last, so that bandwidth and grid stay; of a scan with
    fewer than four frequencies, receivers, transmitters or channels instead. They are taken out, not masked: whole
    frequencies leave the operator its structure, so that what is tuned is the solver that will be used. A mask would
    turn an exact projection into another, iterative one, whose best parameters are others.

    Raises:
        MeasurementError: no axis is long enough.
    """
    axis = next((a for a in ("frequency", "rx", "tx", "channel") if a in m.axes and m.n(a) >= LEAST_TO_SPLIT), None)
    if axis is None:
        shape = ", ".join(f"{n} {a}" for a, n in zip(m.axes, m.data.shape, strict=True))
        raise MeasurementError(
            f"/measurement/data: holding out samples needs an axis of {LEAST_TO_SPLIT} frequencies, antennas or "
            f"channels or more, found {shape}; tune on files with a truth"
        )
    n = m.n(axis)
    inner = np.arange(1, n - 1) if axis == "frequency" else np.arange(n)
    chosen = np.sort(np.random.default_rng(seed).choice(inner, max(1, round(HELD_OUT * n)), replace=False))
    m = _with_grid(m)
    return _taken(m, axis, np.setdiff1d(np.arange(n), chosen)), _taken(m, axis, chosen)


def replaced(config: Any, values: Mapping[str, Any]) -> Any:
    """A configuration with other values of dotted keys.

    Raises:
        ConfigError: values that do not go together.
    """
    for name, value in values.items():
        config = _replaced(config, name.split("."), value)
    return config


# -- inside -------------------------------------------------------------------------------------------------


def _replaced(config: Any, path: Sequence[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replaced(getattr(config, path[0]), path[1:], value)
    try:
        return dataclasses.replace(config, **{path[0]: value})
    except ValueError as error:  # pydantic's are long
        raise ConfigError(f"{path[0]} = {value!r}: {_first_line(error, line=2)}") from error


def _with_grid(m: Measurement) -> Measurement:
    """With the grid that the whole measurement suggests: half of one might suggest another."""
    if m.grid is not None:
        return m
    try:
        grid, _ = grid_of(m, RadarConfig())
    except MeasurementError:
        return m  # then the configuration has to say
    return dataclasses.replace(m, grid=GridSpec(grid.origin_m, grid.spacing_m, grid.shape))


def _taken(m: Measurement, axis: str, index: np.ndarray) -> Measurement:
    """The entries `index` along an axis of everything that has this axis."""

    def take(values: Any, axes: Sequence[str]) -> Any:
        return np.take(values, index, axis=list(axes).index(axis)) if axis in axes else values

    geometry = dict(m.geometry)
    for name in {"rx": ("rx_positions",), "tx": ("tx_positions",), "channel": ("channel_tx", "channel_rx")}.get(
        axis, ()
    ):
        values = np.asarray(geometry[name])
        geometry[name] = np.take(values, index, axis=0 if values.ndim < 3 else 1)
    scale = m.scales[axis]
    return dataclasses.replace(
        m,
        data=take(m.data, m.axes),
        scales={**m.scales, axis: Scale(values=scale.values[index], units=scale.units, long_name=scale.long_name)},
        geometry=geometry,
        mask=None if m.mask is None else take(m.mask, m.mask_axes),
        noise_std=None if m.noise_std is None else take(m.noise_std, m.noise_std_axes),
    )


def _first_line(error: BaseException, line: int = 0) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[min(line, len(lines) - 1)].strip()


def _named(path: Path, error: BaseException) -> str:
    text = _first_line(error) or "no more memory"
    return text if str(path) in text else f"{path}: {text}"
