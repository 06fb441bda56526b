"""``backcast train``: from a TOML to a denoiser's weights with their card, resumable at any time."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from data.training import Mixture, SyntheticImages, SyntheticVolumes, VolumeFiles, WithPhase
from denoisers.card import Card, card_path, read_card
from denoisers.errors import DenoiserError
from denoisers.losses import SPLIT
from denoisers.networks import build_network
from denoisers.noise import GaussianNoise, MixedPairs, NoisyPairs, Pair
from denoisers.optimisers import make_optimiser
from denoisers.training import (
    TrainingOptions,
    TrainingReport,
    TrainingResult,
    Validation,
    as_channels,
    processes,
    train,
    validation_of,
)
from denoisers.weight_files import check_hash, load_weights, save_weights
from imaging import __version__
from pipelines.atomic import write_text
from pipelines.config import ConfigError, as_dict, read_toml, resolve, to_toml
from pipelines.mismatch import MismatchPairs
from pipelines.reconstruct import git_commit
from pipelines.train_config import TrainConfig

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        weights: the .safetensors file; None when it was interrupted.
        result: where it ended.
    """

    weights: Path | None
    result: TrainingResult


def read_train_config(files: Sequence[Path], assignments: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a training.

    Raises:
        ConfigError: whatever is wrong with it, in one sentence.
    """
    tables = [(str(path), read_toml(path)) for path in files]
    return resolve(TrainConfig, tables, assignments, name="a training")


def train_denoiser(
    config: TrainConfig,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    say: Say = lambda text: None,
    progress: bool = False,
    command: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a denoiser; what an earlier, interrupted run of the same configuration has done is taken over.

    Args:
        config: see `TrainConfig`.
        folder: gets config.toml, last.pt, log.csv, samples/, NAME.safetensors and NAME.json.
        device: where the network is trained.
        overwrite: begin anew whatever is there.
        say: told what happens, a line at a time.
        progress: a live bar on stderr.
        command: for the card.
        stop: asked after every step; True ends with a checkpoint.

    Returns:
        The weights and the figures.

    Raises:
        ConfigError: a configuration that cannot be trained.
        CheckpointError: the folder holds another training.
        TrainingError: the loss left the finite numbers.
    """
    with processes() as (rank, world):
        first = rank == 0
        options = _options(config, world)
        network = _network(config)
        pairs, validation = training_pairs(config), validation_pairs(config)
        weights = folder / f"{config.name}.safetensors"
        watcher = _Watcher(config, folder, say, progress and first)
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            if overwrite:
                for name in ("last.pt", "log.csv", weights.name, weights.with_suffix(".json").name):
                    (folder / name).unlink(missing_ok=True)
                for name in ("samples", "tensorboard"):  # of the run that is given up
                    shutil.rmtree(folder / name, ignore_errors=True)
        with watcher:
            result = train(
                network,
                pairs,
                validation,
                options,
                folder=folder,
                resume=not overwrite,
                device=device,
                identity={k: v for k, v in as_dict(config).items() if k in ("network", "data", "noise", "validation")},
                on_start=watcher.start,
                on_report=[watcher.report] if first else [],
                stop=stop,
            )
        if not result.finished:
            return Trained(None, result)
        if first:
            card = _earlier_card(weights) if watcher.first_step == result.step else None
            card = card or _card(config, result, command, torch.device(device))
            card = replace(card, summary=config.summary, limits=config.limits, licence=config.licence)
            save_weights(weights, network, card)
        return Trained(weights, result)


# -- what is trained on -------------------------------------------------------------------------------------


def clean_images(config: TrainConfig, split: str, shape: tuple[int, ...], *, augment: bool) -> Any:
    """The clean images of a split, by number: float32 `shape`."""
    data = config.data
    parts: list[tuple[float, Any]] = []
    try:
        if data.mix:
            seed = data.seed
            common: dict[str, Any] = {"seed": seed, "split": split, "augment": augment}
            weights = {k: float(v) for k, v in data.mix.items()}
            if len(shape) == 3:
                synthetic: Any = SyntheticVolumes(
                    weights, shape, grid_shape=data.grid_shape, n_volumes=data.n_volumes, **common
                )
            else:
                synthetic = SyntheticImages(weights, shape, n_images=data.n_volumes, **common)
            parts.append((1.0, synthetic))
        if data.files:
            files = VolumeFiles(
                [_expanded(name) for name in data.files],
                shape,
                key=data.key or None,
                seed=data.seed,
                split=split,
                augment=augment,
                slices=data.slices if len(shape) == 2 else None,
                value_range=data.value_range,
            )
            parts.append((data.files_weight, files))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"[data] {error}") from error
    images = parts[0][1] if len(parts) == 1 else Mixture(parts, data.seed)
    return WithPhase(images, data.seed) if data.phase else images


def _expanded(name: str) -> Path:
    return Path(os.path.expandvars(name)).expanduser()


def training_pairs(config: TrainConfig) -> Dataset[Pair]:
    """What the training sees: (noisy, clean, sigma) by number."""
    clean = clean_images(config, "train", config.data.shape, augment=True)
    noise, seed = GaussianNoise(config.noise.low, config.noise.high), config.data.seed
    pairs: Dataset[Pair] = NoisyPairs(clean, noise, seed=seed, known_sigma=config.data.known_sigma)
    if config.noise.mismatch_files:
        iterates = MismatchPairs([_expanded(f) for f in config.noise.mismatch_files], config.data.shape, seed=seed)
        pairs = MixedPairs(pairs, iterates, fraction=config.noise.mismatch_fraction, seed=seed)
    return pairs


def noise_levels(config: TrainConfig) -> list[float]:
    """Noise levels in the middle of equal parts of the range: their mean stands for the mean over the range."""
    low, high, n = config.noise.low, config.noise.high, config.validation.levels
    return [low + (high - low) * (i + 0.5) / n for i in range(n)]


def validation_pairs(config: TrainConfig) -> Validation:
    """Validation images at every level: the same images and noise each time."""
    shape = config.data.validation_shape or config.data.shape
    clean = clean_images(config, "validation", shape, augment=False)
    levels = noise_levels(config)
    by_level: dict[float, Dataset[Pair]] = {
        level: NoisyPairs(clean, GaussianNoise(level, level), seed=config.data.seed + 1_000_003 * (i + 1))
        for i, level in enumerate(levels)
    }
    return validation_of(by_level, config.validation.n)


def _options(config: TrainConfig, world: int) -> TrainingOptions:
    table = config.training
    try:
        make_optimiser(table.optimiser, [nn.Parameter(torch.zeros(2, 2))], lr=table.lr, options=table.optimiser_options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"[training] {error}") from error
    if table.batch % world:
        raise ConfigError(f"[training] batch: expected a multiple of the {world} processes, found {table.batch}")
    return TrainingOptions(**asdict(table))


def _network(config: TrainConfig) -> nn.Module:
    table = config.network
    torch.manual_seed(table.seed)
    try:
        network = build_network(table.kind, table.options)
    except ValueError as error:
        raise ConfigError(f"[network] {error}") from error
    n_dims = int(getattr(network, "n_dims", 3))
    if n_dims != len(config.data.shape):
        raise ConfigError(
            f"[data] shape: expected {n_dims} numbers for network {table.kind}, found {len(config.data.shape)}"
        )
    parts = getattr(network, "n_parts", 1)
    if parts != (2 if config.data.phase else 1):
        raise ConfigError(
            f"[data] phase: expected {str(parts == 2).lower()} for a network with n_parts = {parts}, "
            f"found {str(config.data.phase).lower()}"
        )
    if table.start:
        other, card = load_weights(table.start)
        if {k: tuple(v) for k, v in _shapes(other).items()} != _shapes(network):
            raise ConfigError(
                f"[network] start: expected weights of {table.kind} with these options, found {card.name}"
            )
        network.load_state_dict(other.state_dict())
    layout = torch.channels_last_3d if n_dims == 3 else torch.channels_last
    return network.to(memory_format=layout)  # type: ignore[call-overload]


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in network.state_dict().items()}


def _earlier_card(weights: Path) -> Card | None:
    """What the run that trained these weights wrote of itself; None when the files are missing or damaged."""
    try:
        card = read_card(card_path(weights))
        check_hash(weights, card)
    except (DenoiserError, OSError):
        return None
    return card


# -- the card -----------------------------------------------------------------------------------------------


def _card(config: TrainConfig, result: TrainingResult, command: str, device: torch.device) -> Card:
    network = build_network(config.network.kind, config.network.options)
    return Card(
        name=config.name,
        summary=config.summary,
        network={"kind": config.network.kind, "options": as_dict(config)["network"]["options"]},
        n_dims=len(config.data.shape),
        noise_range=_trained_levels(config),
        data=_data_in_words(config),
        validation={
            "images": f"{config.validation.n} of the validation split, never trained on",
            "shape": list(config.data.validation_shape or config.data.shape),
            "mse": result.best_mse,
            "mse_by_noise_level": {f"{level:.4g}": mse for level, mse in result.per_level.items()},
        },
        training={
            "command": command,
            "config": as_dict(config),
            "steps": result.step,
            "best_step": result.best_step,
            "device": device.type,
            "backcast": __version__,
            "git_commit": git_commit() or "",
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        limits=config.limits,
        licence=config.licence,
        n_parameters=sum(p.numel() for p in network.parameters()),
    )


def _trained_levels(config: TrainConfig) -> tuple[float, float]:
    """Noise levels that the network was told in training: with known_sigma one alone; split raises them."""
    known = config.data.known_sigma
    low, high = (config.noise.low, config.noise.high) if known is None else (known, known)
    factor = math.sqrt(1 + SPLIT**2) if config.training.loss == "split" else 1.0
    return factor * low, factor * high


def _data_in_words(config: TrainConfig) -> str:
    data = config.data
    parts = []
    if data.mix:
        total = sum(float(v) for v in data.mix.values())
        kinds = ", ".join(f"{k} {float(v) / total:.0%}" for k, v in data.mix.items())
        parts.append(f"synthetic: {kinds}; {data.n_volumes} different ones per kind")
    if data.phase:
        parts.append("all times exp(jφ), φ smooth and random")
    if data.files:
        parts.append(f"files: {', '.join(Path(f).name for f in data.files)}")
    if data.known_sigma is not None:
        parts.append(f"noisy images of level {data.known_sigma:g}, no clean ones")
    if config.noise.mismatch_files:
        files = ", ".join(Path(f).name for f in config.noise.mismatch_files)
        parts.append(f"{config.noise.mismatch_fraction:.0%} iterates of a solver ({files})")
    return "; ".join(parts)


# -- what the user sees -------------------------------------------------------------------------------------


class _Watcher(contextlib.AbstractContextManager["_Watcher"]):
    """Lines, a bar, pictures and TensorBoard events, from the reports of the loop."""

    def __init__(self, config: TrainConfig, folder: Path, say: Say, progress: bool) -> None:
        self.config, self.folder, self.say = config, folder, say
        self.first_step = 0
        self.bar: Any = None
        self.writer: Any = None
        if progress and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn(config.name),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task("train", total=config.training.steps, loss="")
        if config.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    'tensorboard: expected the package tensorboard, found none; pip install "backcast[tensorboard]"'
                ) from error
            self.open_writer: Callable[..., Any] = SummaryWriter

    def __enter__(self) -> _Watcher:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def start(self, step: int) -> None:
        self.first_step = step
        write_text(self.folder / "config.toml", to_toml(self.config))  # not before: a refused one must leave the old
        if self.config.tensorboard:  # on the first process alone, without the events of steps that are done again
            self.writer = self.open_writer(str(self.folder / "tensorboard"), purge_step=step + 1 if step else None)
        if step:
            self.say(f"{self.folder}: {step} of {self.config.training.steps} steps are done; --overwrite begins anew")

    def report(self, r: TrainingReport, network: nn.Module) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=r.step, loss=f"{r.train_loss:.3g}")
        if self.writer is not None:
            self.writer.add_scalar("train/loss", r.train_loss, r.step)
            self.writer.add_scalar("train/learning_rate", r.learning_rate, r.step)
        if r.validation_mse is None:
            return
        levels = ", ".join(f"{level:.3g}: {mse:.2e}" for level, mse in r.per_level.items())
        self.say(
            f"step {r.step} of {r.steps}: training loss {r.train_loss:.3g}, validation MSE {r.validation_mse:.3g} "
            f"({levels}), best {r.best:.3g}, {_duration(r.seconds_left)} left"
        )
        if self.writer is not None:
            self.writer.add_scalar("validation/mse", r.validation_mse, r.step)
        draw_samples(self.config, network, self.folder / "samples" / f"step_{r.step:07d}.png")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def draw_samples(config: TrainConfig, network: nn.Module, path: Path, *, n: int = 4) -> None:
    """A picture of validation images: noisy, denoised, clean; one noise level per row, volumes by their projection."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shape = config.data.validation_shape or config.data.shape
    clean = clean_images(config, "validation", shape, augment=False)
    levels = np.linspace(config.noise.low, config.noise.high, n + 1)[1:]
    figure = Figure(figsize=(6.5, 2.1 * n), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n, 3)
    place = next(network.parameters()).device
    was_training = network.training
    network.eval()
    for i, level in enumerate(levels):
        noisy, truth, _ = NoisyPairs(clean, GaussianNoise(level, level), seed=17)[i]
        with torch.no_grad():
            out = network(as_channels(noisy[None]).to(place), torch.full((1,), float(level), device=place)).cpu()
        found = torch.complex(out[0, 0], out[0, 1]) if out.shape[1] == 2 else out[0, 0].clamp_min(0)
        for ax, image, title in zip(axes[i], (noisy, found, truth), ("noisy", "denoised", "clean"), strict=True):
            ax.imshow(_flat(image), cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest")
            ax.set_axis_off()
            if i == 0:
                ax.set_title(title, fontsize=9)
        error = float((found - truth).abs().square().mean())
        axes[i][0].text(
            0, -0.02, f"sigma {level:.3g}, MSE {error:.2e}", transform=axes[i][0].transAxes, fontsize=7, va="top"
        )
    network.train(was_training)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _flat(image: Tensor) -> np.ndarray:
    """A volume's largest values along z; an image as it is; magnitudes."""
    image = image.abs() if image.is_complex() else image
    return np.asarray((image.amax(0) if image.ndim == 3 else image).numpy())


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the training after the current step, with a checkpoint; a second Ctrl-C ends at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
