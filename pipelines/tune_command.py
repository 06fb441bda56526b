"""What ``backcast tune`` adds to `pipelines.tune`: files and configuration as typed, progress, the result's file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.atomic import write_text
from pipelines.batch import Options, _configure
from pipelines.config import ConfigError
from pipelines.inputs import find_inputs
from pipelines.methods import METHODS
from pipelines.reconstruct import resolve_device
from pipelines.tune import TuneInterrupted, TuneResult, score_text, tune, values_text
from pipelines.tune_score import ScoreName
from pipelines.tune_space import space_of
from pipelines.tune_study import Trial, import_optuna

Say = Callable[[str], None]


def run(
    inputs: Sequence[str],
    *,
    say: Say,
    method: str | None,
    config_files: Sequence[Path],
    assignments: Sequence[str],
    denoiser: str,
    parameters: Sequence[str],
    trials: int,
    score: ScoreName | None,
    jobs: int,
    study: Path | None,
    seed: int,
    output: Path | None,
    device: str,
    progress: str,
) -> str:
    """Tune, and write what was found to `output` where there is one.

    Returns:
        The configuration as TOML.

    Raises:
        TuneInterrupted: after the best so far was written; its result, if any, is still to be printed.
        ConfigError, DataFormatError, TuneError: see `pipelines.tune.tune`.
    """
    import_optuna()
    found = find_inputs(inputs)
    for stranger in found.strangers:
        say(f"{stranger}: passed over, no measurement file")
    modalities = sorted({i.modality for i in found.inputs if i.modality is not None})
    if len(modalities) > 1:
        raise ConfigError(f"{' '.join(inputs)}: expected files of one modality, found {' and '.join(modalities)}")
    files = [i.source for i in found.inputs]
    _check_output(output, study, [*files, *config_files])
    options = Options(
        inputs=tuple(inputs),
        output=Path(),
        method=method,
        config_files=tuple(config_files),
        assignments=tuple(assignments),
        denoiser=denoiser,
    )
    modality = modalities[0] if modalities else METHODS[0].modalities[0]  # reading will say what is wrong with it
    moving = any(i.moving for i in found.inputs)
    chosen, config, _, _ = _configure(options, modality, moving, str(resolve_device(device)))
    fixed = [text.partition("=")[0].strip() for text in assignments]
    space = space_of(chosen, config, parameters, fixed=fixed)
    display = _Live() if progress == "auto" and sys.stderr.isatty() else _Plain(silent=progress == "none")
    display.total = trials

    def begin(name: ScoreName, n_done: int) -> None:
        display.score = name
        if score is None and name == "heldout":
            say("no truth in every file: scored by held-out samples (--score heldout)")
        if n_done:
            say(f"{study}: goes on after {n_done} trials")
        display.begin(n_done)

    try:
        with display.open():
            result = tune(
                files,
                chosen,
                config=config,
                space=space,
                trials=trials,
                score=score,
                denoiser=denoiser,
                device=device,
                jobs=jobs,
                study=study,
                seed=seed,
                on_start=begin,
                on_trial=display.trial,
            )
    except TuneInterrupted as stopped:
        if stopped.result is not None:
            _conclude(stopped.result, output, say)
        raise
    _conclude(result, output, say)
    return result.toml()


def _conclude(result: TuneResult, output: Path | None, say: Say) -> None:
    if result.failed:
        say(f"{len(result.failed)} of {len(result.trials)} trials gave no score:")
        for trial in result.failed[:5]:
            say(f"    trial {trial.number} ({values_text(trial.values) or 'the start'}): {trial.reason}")
        if len(result.failed) > 5:
            say(f"    and {len(result.failed) - 5} more")
    start = result.start.score if result.start is not None else None
    say(
        f"best of {len(result.trials)}: {score_text(result.score, result.best.score)} in trial {result.best.number}, "
        f"before {score_text(result.score, start)}"
    )
    edges = at_edges(result)
    if edges:
        say(f"{', '.join(edges)}: at the edge of what was searched; a wider --parameter range may give more")
    if output is not None:
        write_text(output, result.toml())
        say(f"written: {output}")


def at_edges(result: TuneResult) -> list[str]:
    """Keys whose best value is within 2 % of an end of their range."""
    import math

    from pipelines.tune_space import Range

    found = []
    for name, value in result.best.values.items():
        domain = result.space[name]
        if isinstance(domain, Range):
            scale: Callable[[float], float] = math.log if domain.log else float
            low, high = scale(domain.low), scale(domain.high)
            place = (scale(value) - low) / (high - low)
            if not 0.02 <= place <= 0.98:
                found.append(name)
    return found


def _check_output(output: Path | None, study: Path | None, sources: Sequence[Path]) -> None:
    taken = {path.resolve() for path in sources}
    for option, path in (("--output", output), ("--study", study)):
        if path is None:
            continue
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigError(f"{option} {path}: expected a file in a folder that can be written; choose another")
        if path.resolve() in taken:
            raise ConfigError(f"{option} {path}: would be written over what is read; choose another")
        taken.add(path.resolve())


# -- progress -----------------------------------------------------------------------------------------------


class _Plain:
    """A line per trial."""

    def __init__(self, *, silent: bool = False) -> None:
        self.total = 0
        self.score: ScoreName = "psnr"
        self._done = 0
        self._silent = silent

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """The display lasts as long as the context."""
        yield

    def begin(self, n_done: int) -> None:
        """So many trials are done already."""
        self._done = n_done

    def trial(self, trial: Trial, best: Trial | None) -> None:
        """A trial has ended."""
        self._done += 1
        if not self._silent:
            self._tell(f"[{self._done}/{self.total}] {self._line(trial, best)}")

    def _line(self, trial: Trial, best: Trial | None) -> str:
        values = values_text(trial.values) or "the start"
        if trial.score is None:
            return f"trial {trial.number} failed: {trial.reason} ({values})"
        new = " best so far" if best is not None and best.number == trial.number else ""
        return f"{score_text(self.score, trial.score)} ({values}){new}"

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the search
            print(text, file=sys.stderr, flush=True)


class _Live(_Plain):
    """A bar of rich, and a line for what is better than all before, or failed."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._console = Console(stderr=True)
        columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        self._bar = Progress(*columns, TimeElapsedColumn(), Remaining(), console=self._console, transient=True)
        self._task = self._bar.add_task("trials")

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        with self._bar:
            yield

    def begin(self, n_done: int) -> None:
        super().begin(n_done)
        self._bar.update(self._task, completed=n_done, total=self.total)

    def trial(self, trial: Trial, best: Trial | None) -> None:
        self._done += 1
        if trial.score is None or (best is not None and best.number == trial.number):
            text = f"[{self._done}/{self.total}] {self._line(trial, best)}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        described = "trials" if best is None else f"best {score_text(self.score, best.score)}"
        self._bar.update(self._task, completed=self._done, description=described)
