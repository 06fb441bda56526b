"""The training loop: any network, pairs by number, exact resume, one process or several under torchrun."""

from __future__ import annotations

import contextlib
import csv
import gc
import hashlib
import io
import json
import math
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from denoisers.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, write_atomically
from denoisers.losses import LOSSES
from denoisers.noise import Pair, generator_of
from denoisers.optimisers import SCHEDULES, Schedule, make_optimiser, rate_factor

#: Numbers of the samples that losses draw from, apart from those of the pairs.
LOSS_STREAM = 104_729
COLUMNS = ("step", "train_loss", "validation_mse", "learning_rate")
PRECISIONS = ("float32", "bfloat16")


class TrainingError(ArithmeticError):
    """Training that left the finite numbers."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a network is trained.

    Args:
        steps: gradient steps in all.
        batch: samples per step, over all processes.
        loss: supervised (mean squared error), log_supervised (its logarithm per image above 1e-3, for images of very
            different difficulty), or sure or split, which need no clean images, only the noise level.
        optimiser: a name of torch.optim or, with the extra optimizers, of pytorch_optimizer.
        optimiser_options: further keyword arguments of the optimiser.
        lr: learning rate.
        schedule: cosine falls to a hundredth over the steps; plateau divides by ten after plateau_patience
            validations without a better one; constant.
        warmup: steps over which the learning rate rises to lr.
        plateau_patience: validations that plateau waits.
        clip: largest norm of the gradient; none does not clip.
        ema: decay of the exponential moving average of the weights that is validated and saved; 0 takes the weights.
        precision: float32, or bfloat16 for autocast (weights and optimiser stay float32).
        validate_every: steps between validations, which also write a checkpoint.
        checkpoint_every: steps between checkpoints.
        log_every: steps between rows of the log; every validation adds one.
        patience: validations without a better one that end the training; none goes on to the last step.
        seed: of the loss's own randomness; networks and data have their own.
        workers: processes that make samples beside the training; 0 makes them in line.
    """

    steps: int
    batch: int = 16
    loss: Literal["supervised", "log_supervised", "sure", "split"] = "supervised"
    optimiser: str = "AdamW"
    optimiser_options: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 1e-3
    schedule: Schedule = "cosine"
    warmup: int = 100
    plateau_patience: int = 25
    clip: float | None = 1.0
    ema: float = 0.999
    precision: Literal["float32", "bfloat16"] = "float32"
    validate_every: int = 500
    checkpoint_every: int = 500
    log_every: int = 50
    patience: int | None = None
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every", "checkpoint_every", "log_every", "plateau_patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"training {name}: expected >= 1, got {getattr(self, name)}")
        for name in ("warmup", "seed", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"training {name}: expected >= 0, got {getattr(self, name)}")
        for name, known in (("loss", LOSSES), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"training {name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not self.lr > 0:
            raise ValueError(f"training lr: expected > 0, got {self.lr}; 1e-3 suits Adam")
        if not 0 <= self.ema < 1:
            raise ValueError(f"training ema: expected 0 <= ema < 1, got {self.ema}; 0.999 is usual, 0 is none")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"training clip: expected > 0 or none, got {self.clip}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"training patience: expected >= 1 or none, got {self.patience}")


class Validation(Protocol):
    """Scores a network: its mean squared error, and the same per noise level."""

    def __call__(self, network: nn.Module) -> tuple[float, dict[float, float]]: ...


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What is known after a step that is reported.

    Attributes:
        step: steps done; steps: in all.
        train_loss: mean since the last report.
        validation_mse: of the averaged weights; None between validations. per_level: by noise level.
        best: the smallest validation_mse so far.
        learning_rate: of this step.
        seconds_left: estimate at the pace of this run.
    """

    step: int
    steps: int
    train_loss: float
    learning_rate: float
    validation_mse: float | None = None
    per_level: Mapping[float, float] = field(default_factory=dict)
    best: float = math.inf
    seconds_left: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Where training ended.

    Attributes:
        step: steps done.
        best_step, best_mse: of the best validation; `network` holds its weights.
        per_level: validation error by noise level of the best.
        finished: False when it was interrupted; the checkpoint goes on from there.
    """

    step: int
    best_step: int
    best_mse: float
    per_level: Mapping[float, float]
    finished: bool


def validation_of(pairs_by_level: Mapping[float, Dataset[Pair]], n: int, *, batch: int = 8) -> Validation:
    """A `Validation`: n images at each noise level, output of magnitudes clamped at 0, mean over levels.

    Args:
        pairs_by_level: for each noise level pairs whose noise has that level.
        n: images, numbers 0 to n - 1.
        batch: images at a time.
    """
    if n < 1 or not pairs_by_level:
        raise ValueError(
            f"validation: expected at least one image and one noise level, got {n} and {len(pairs_by_level)}"
        )

    @torch.no_grad()
    def score(network: nn.Module) -> tuple[float, dict[float, float]]:
        place = next(network.parameters())
        errors = {}
        for level, pairs in pairs_by_level.items():
            total = 0.0
            for first in range(0, n, batch):
                noisy, clean, sigma = _collate([pairs[i] for i in range(first, min(first + batch, n))])
                out = network(noisy.to(place.device), sigma.to(place.device))
                out = out.clamp_min(0) if out.shape[1] == 1 else out  # parts of complex images have either sign
                total += float((out.to(torch.float64) - clean.to(place.device)).square().flatten(1).mean(1).sum())
            errors[level] = total / n
        return sum(errors.values()) / len(errors), errors

    return score


def train(
    network: nn.Module,
    pairs: Dataset[Pair],
    validate: Validation,
    options: TrainingOptions,
    *,
    folder: Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    identity: Mapping[str, Any] | None = None,
    on_start: Callable[[int], None] = lambda step: None,
    on_report: Sequence[Callable[[TrainingReport, nn.Module], None]] = (),
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train `network` in place; it ends with the best averaged weights.

    Sample number k of the run goes into step k // batch whatever the number of processes, and everything random is a
    function of seeds and numbers. A run that was interrupted and resumed has therefore the same weights, bit for bit
    on a CPU, as one that was not, and the same best and log.

    Under torchrun each process takes its share of every batch and gradients are averaged, so that the loss curve is
    that of one process to rounding. Batch normalisation is an exception, which sees a process's share, and so are the
    draws of sure and split, which each process makes for its share.

    Args:
        network: called as (v (b, 1, *spatial), sigma (b,)).
        pairs: (noisy, clean, sigma) by number, see `denoisers.noise`.
        validate: scores a network; see `validation_of`.
        options: everything else.
        folder: where last.pt (checkpoint) and log.csv go; None writes nothing.
        resume: go on from folder/last.pt where there is one.
        device: where the network lives.
        identity: plain values that must agree with the checkpoint's, e.g. the configuration.
        on_start: told on the first process how many steps are done, once the checkpoint is found to fit.
        on_report: called every `log_every` steps and after every validation, on the first process.
        stop: asked after every step; True ends with a checkpoint.

    Raises:
        CheckpointError: last.pt is damaged, or of another run.
        TrainingError: the loss, its gradient or the validation error is no longer finite; last.pt is the last good one.
        ValueError, ImportError: of the optimiser, or a batch that the processes cannot share.
    """
    rank, world = _process()
    if options.batch % world:
        raise ValueError(f"training batch: expected a multiple of the {world} processes, got {options.batch}")
    network = network.to(device)
    average = AveragedModel(network, multi_avg_fn=_moving_average(options.ema), use_buffers=True)
    optimiser = make_optimiser(
        options.optimiser, network.parameters(), lr=options.lr, options=options.optimiser_options
    )
    run = _Run(network, average, optimiser, options, json.dumps(dict(identity or {}), sort_keys=True))
    last = None if folder is None else folder / "last.pt"
    if resume and last is not None and last.exists():
        run.restore(load_checkpoint(last), last)
        if rank == 0:  # a kill may have come between the two files
            _write_log(last, run)
    if rank == 0:
        on_start(run.step)
    first_step, clock = run.step, time.monotonic()
    model: nn.Module = network
    if world > 1:
        model = nn.parallel.DistributedDataParallel(network)
    loss_of = LOSSES[options.loss]
    autocast = options.precision == "bfloat16"
    kind = torch.device(device).type
    network.train()
    finished = run.step >= options.steps or run.tired()

    with contextlib.closing(_batches(pairs, options, run.step, rank, world)) as batches:
        while not finished:
            noisy, clean, sigma = (t.to(device) for t in next(batches))
            rate = (
                options.lr * run.plateau * rate_factor(options.schedule, run.step, options.steps, warmup=options.warmup)
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            generator = generator_of(options.seed + LOSS_STREAM, run.step * world + rank)
            with torch.autocast(kind, torch.bfloat16, enabled=autocast):
                loss = loss_of(model, noisy, clean, sigma, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip or math.inf)  # inf only measures
            value = float(_mean_over_processes(loss.detach().float()))
            _check_finite(run.step + 1, "loss", value)
            _check_finite(run.step + 1, "gradient", float(norm))
            optimiser.step()
            average.update_parameters(network)
            run.count(value)

            validating = run.step % options.validate_every == 0 or run.step == options.steps
            if validating:
                run.validated(validate)
            finished = run.step >= options.steps or run.tired()
            stopping = _any_process(stop())
            report = None
            if validating or run.step % options.log_every == 0:
                pace = (time.monotonic() - clock) / (run.step - first_step)
                report = run.report(rate, pace * (options.steps - run.step), validating)
                run.log.append(run.row(rate))
                run.losses = []
            saving = validating or stopping or finished or run.step % options.checkpoint_every == 0
            if saving and last is not None and rank == 0:
                save_checkpoint(last, run.content())
                _write_log(last, run)
            if report is not None and rank == 0:  # once all is saved: a callback that fails costs no step
                for callback in on_report:
                    callback(report, average.module)
            if stopping:
                break

    network.load_state_dict(run.best_weights or average.module.state_dict())
    network.eval()
    return TrainingResult(
        step=run.step,
        best_step=run.best_step,
        best_mse=run.best,
        per_level=run.best_levels,
        finished=finished,
    )


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential average with the decay rising from 2/11 to its value, so that the random start is soon forgotten."""

    @torch.no_grad()
    def update(average: Any, current: Any, n: Tensor | int) -> None:
        count = float(n)
        now = min(decay, (1 + count) / (10 + count))
        for old, new in zip(average, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new.to(old.dtype), 1 - now)
            else:
                old.copy_(new)

    return update


class _Run:
    """Everything that a checkpoint holds."""

    def __init__(
        self,
        network: nn.Module,
        average: AveragedModel,
        optimiser: torch.optim.Optimizer,
        options: TrainingOptions,
        identity: str,
    ) -> None:
        self.network, self.average, self.optimiser, self.options = network, average, optimiser, options
        self.identity = identity
        self.step = 0
        self.losses: list[float] = []
        self.log: list[dict[str, float | None]] = []
        self.validation: float | None = None
        self.levels: dict[float, float] = {}
        self.best, self.best_step = math.inf, 0
        self.best_levels: dict[float, float] = {}
        self.best_weights: dict[str, Tensor] = {}
        self.since_best, self.plateau, self.since_drop = 0, 1.0, 0

    def count(self, loss: float) -> None:
        self.step += 1
        self.losses.append(loss)
        self.validation = None

    def validated(self, validate: Validation) -> None:
        """Score the averaged weights; remember the best; lower the plateau's factor."""
        self.average.module.eval()
        with torch.no_grad():
            mse, self.levels = validate(self.average.module)
        self.average.module.train()
        self.validation = _of_first_process(mse)  # all end, and lower their rate, together
        _check_finite(self.step, "validation error", self.validation)
        if self.validation < self.best:
            self.best, self.best_step, self.best_levels = self.validation, self.step, dict(self.levels)
            self.best_weights = {k: v.detach().clone() for k, v in self.average.module.state_dict().items()}
            self.since_best = self.since_drop = 0
            return
        self.since_best += 1
        self.since_drop += 1
        if self.options.schedule == "plateau" and self.since_drop >= self.options.plateau_patience:
            self.plateau, self.since_drop = self.plateau / 10, 0

    def tired(self) -> bool:
        return self.options.patience is not None and self.since_best >= self.options.patience

    def row(self, rate: float) -> dict[str, float | None]:
        return {
            "step": self.step,
            "train_loss": sum(self.losses) / max(1, len(self.losses)),
            "validation_mse": self.validation,
            "learning_rate": rate,
        }

    def report(self, rate: float, seconds_left: float, validated: bool) -> TrainingReport:
        return TrainingReport(
            step=self.step,
            steps=self.options.steps,
            train_loss=sum(self.losses) / max(1, len(self.losses)),
            learning_rate=rate,
            validation_mse=self.validation if validated else None,
            per_level=dict(self.levels) if validated else {},
            best=self.best,
            seconds_left=seconds_left,
        )

    def content(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "options": json.dumps(_plain(self.options), sort_keys=True),
            "step": self.step,
            "losses": self.losses,
            "log": self.log,
            "best": self.best,
            "best_step": self.best_step,
            "best_levels": self.best_levels,
            "best_weights": self.best_weights,
            "since_best": self.since_best,
            "since_drop": self.since_drop,
            "plateau": self.plateau,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, content: Mapping[str, Any], path: Path) -> None:
        options = json.dumps(_plain(self.options), sort_keys=True)
        if content["identity"] != self.identity or content["options"] != options:
            raise CheckpointError(
                f"{path}: expected a checkpoint of this configuration, found one of another "
                f"({_difference(content, self.identity, options)}); take the old configuration, or another folder"
            )
        for name in ("step", "losses", "log", "best", "best_step", "best_levels", "best_weights", "since_best"):
            setattr(self, name, content[name])
        self.since_drop, self.plateau = content["since_drop"], content["plateau"]
        try:
            self.network.load_state_dict(content["network"])
            self.average.load_state_dict(content["average"])
            self.optimiser.load_state_dict(content["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path}: expected a checkpoint of this network and optimiser, found others; take another folder"
            ) from error


def _plain(options: TrainingOptions) -> dict[str, Any]:
    """What decides the weights: the intervals of checkpoints and of the log and the number of workers do not."""
    return {k: v for k, v in asdict(options).items() if k not in ("checkpoint_every", "log_every", "workers")}


def _check_finite(step: int, what: str, value: float) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"training step {step}: expected a finite {what}, found {value}; take a smaller lr or clip, and see that "
            "the data are finite"
        )


def _difference(content: Mapping[str, Any], identity: str, options: str) -> str:
    for old, new in ((content["options"], options), (content["identity"], identity)):
        before, now = json.loads(old), json.loads(new)
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                return f"{key}: {before.get(key)} then, {now.get(key)} now"
    return "written differently"


def _batches(
    pairs: Dataset[Pair], options: TrainingOptions, first_step: int, rank: int, world: int
) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
    """This process's share of every step's batch, from `first_step` on."""
    share = options.batch // world

    def numbers() -> Iterator[list[int]]:
        for step in range(first_step, options.steps):
            start = step * options.batch + rank * share
            yield list(range(start, start + share))

    loader: DataLoader[Any] = DataLoader(
        pairs,
        batch_sampler=_Numbers(numbers),
        num_workers=options.workers,
        collate_fn=_collate,
        prefetch_factor=4 if options.workers else None,
        worker_init_fn=_leave_signals_to_the_training,
    )
    yield from loader


def _leave_signals_to_the_training(worker: int) -> None:
    """Ctrl-C reaches a terminal's whole group: a worker that died of it would end the step that is to be saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Numbers:
    """A batch sampler that starts where a run goes on."""

    def __init__(self, make: Callable[[], Iterator[list[int]]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[list[int]]:
        return self.make()


def _collate(items: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """(b, 1, *spatial) twice, or (b, 2, *spatial) of complex images, and (b,)."""
    noisy, clean = (as_channels(torch.stack(images)) for images in ([a for a, _, _ in items], [b for _, b, _ in items]))
    return noisy, clean, torch.tensor([item[2] for item in items], dtype=noisy.dtype)


def as_channels(images: Tensor) -> Tensor:
    """Real (b, *spatial) as (b, 1, *spatial); complex ones as real and imaginary part, (b, 2, *spatial)."""
    return torch.view_as_real(images).movedim(-1, 1) if images.is_complex() else images[:, None]


def _write_log(checkpoint: Path, run: _Run) -> None:
    write_atomically(checkpoint.with_name("log.csv"), lambda part: _write_csv(part, run))


def _write_csv(path: Path, run: _Run) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else repr(v) for k, v in row.items()} for row in run.log)
    path.write_text(text.getvalue())


# -- several processes ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started, if it did: (rank, number of processes)."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())  # "cuda" is this one
    # gloo beside nccl: losses on the GPU, but the flag that ends a run is on the CPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        gc.collect()  # a DDP module is a cycle; one that outlives its group aborts the process as it ends
        dist.destroy_process_group()


def _process() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _mean_over_processes(value: Tensor) -> Tensor:
    _, world = _process()
    if world > 1:
        value = value.clone()
        dist.all_reduce(value)
        value = value / world
    return value


def _of_first_process(number: float) -> float:
    _, world = _process()
    if world == 1:
        return number
    value = torch.tensor([number], dtype=torch.float64)
    dist.broadcast(value, src=0)
    return float(value.item())


def _any_process(flag: bool) -> bool:
    _, world = _process()
    if world == 1:
        return flag
    value = torch.tensor([float(flag)])
    dist.all_reduce(value)
    return bool(value.item() > 0)


def weights_sha256(network: nn.Module) -> str:
    """A hash of all weights, to tell two trainings apart."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
