"""Parameters of a method chosen by Bayesian optimisation, with a truth or without one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data import sha256
from data.convert.read import read
from data.measurement import Measurement
from pipelines.batch import _interruptible
from pipelines.config import ConfigError, to_toml
from pipelines.methods import METHODS, Method, find_method
from pipelines.reconstruct import identity, resolve_device
from pipelines.tune_score import HIGHER_IS_BETTER, SCORES, ScoreName, Task, replaced, split
from pipelines.tune_space import Domain, Space, check_domain, space_of
from pipelines.tune_study import Study, Trial, import_optuna
from pipelines.tune_workers import scored_here, scored_in_processes

#: Trials when nothing else is asked for.
TRIALS = 40
WORDS = {"psnr": "PSNR", "nmse": "NMSE", "ssim": "SSIM", "heldout": "held-out error"}
#: Files that are named in the result.
NAMED = 10


class TuneError(ValueError):
    """A search without a result: files that cannot be scored, or no trial that gave a score."""


class TuneInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM during a search.

    Attributes:
        result: what was found so far; None when no trial had ended with a score.
    """

    def __init__(self, result: TuneResult | None, *, kept: bool) -> None:
        super().__init__("" if kept else "the trials are lost; with --study FILE the same command would go on")
        self.result = result


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What a search found.

    Attributes:
        method: whose parameters were tuned.
        config: the best configuration; never worse than the one to start from on the files it was tuned on.
        best, start: the best trial, and trial 0 with the configuration to start from; None when interrupted before
            it ended.
        trials: all of them, by number.
        score: what was measured: "psnr" (dB, higher is better), "nmse", "ssim" (higher), "heldout"; mean over files.
        space: what was searched.
        files: that it was tuned on.
        seed: of sampler and split.
    """

    method: Method
    config: Any
    best: Trial
    start: Trial | None
    trials: tuple[Trial, ...]
    score: ScoreName
    space: Space
    files: tuple[Path, ...]
    seed: int

    @property
    def failed(self) -> tuple[Trial, ...]:
        """Trials that gave no score."""
        return tuple(t for t in self.trials if t.score is None)

    def toml(self) -> str:
        """The best configuration for ``reconstruct -c``, headed by where it comes from."""
        start = self.start.score if self.start is not None else None
        names = [f'"{_plain(path.name)}"' for path in self.files[:NAMED]]
        more = f" and {len(self.files) - NAMED} more" if len(self.files) > NAMED else ""
        failed = f", {len(self.failed)} of them without a score" if self.failed else ""
        head = [
            "backcast reconstruct INPUTS -o FOLDER -c THIS_FILE",
            f"tuned: {score_text(self.score, self.best.score)}, before {score_text(self.score, start)}",
            *(f"    {name}: {_value_of(self.config, name)}, searched {domain}" for name, domain in self.space.items()),
            f"by {len(self.trials)} trials{failed}, seed {self.seed}",
            f"on {', '.join(names)}{more}",
        ]
        return "".join(f"# {line}\n" for line in head) + "\n" + to_toml(self.config, head={"method": self.method.name})


def tune(
    files: Sequence[Path],
    method: str | Method | None = None,
    *,
    config: Any = None,
    space: Mapping[str, Domain] | None = None,
    trials: int = TRIALS,
    score: ScoreName | None = None,
    denoiser: str = "",
    device: str = "cpu",
    jobs: int = 1,
    study: Path | None = None,
    seed: int = 0,
    on_start: Callable[[ScoreName, int], None] = lambda score, n_done: None,
    on_trial: Callable[[Trial, Trial | None], None] = lambda trial, best: None,
) -> TuneResult:
    """Search the configuration of a method that images some files best.

    Tree-structured Parzen estimators (Bergstra et al. 2011, as in optuna) propose, `pipelines.reconstruct` answers.
    Trial 0 is the configuration to start from.

    Args:
        files: measurement files of one modality; all of them are imaged in every trial, and stay in memory.
        method: a name of ``backcast methods``, None for the modality's default.
        config: the configuration to start from, which also holds what is not tuned; None takes the defaults.
        space: dotted keys and their `Range` or `Choices`; None takes what is suggested for the method.
        trials: in all, those of an earlier run of the same study included.
        score: "psnr", "nmse", "ssim" against the truth in the files; "heldout": the relative error with which the image
            from nine tenths of the frequencies predicts the others, for files without a truth. None: psnr where all
            files have a truth, else heldout. Channels have nmse alone.
        denoiser: for a method that takes one, as after ``-d``.
        device: "cpu", "cuda:1", "auto".
        jobs: processes. With one, equal seeds give equal results.
        study: file that keeps the trials: a search that was killed goes on, one with more trials too.
        seed: of the sampler and of what is held out.
        on_start: told the score that was chosen and the number of trials that the study holds already.
        on_trial: told every trial that ended, and the best so far.

    Returns:
        The best configuration, with the trials.

    Raises:
        ConfigError: whatever is found wrong before the first trial; optuna that is not installed.
        DataFormatError: a file that cannot be read.
        TuneError: files that cannot be scored, or no trial gave a score.
        TuneInterrupted: Ctrl-C; holds the best so far.
    """
    import_optuna()
    for name, value in (("trials", trials), ("jobs", jobs)):
        if value < 1:
            raise ConfigError(f"--{name} {value}: expected 1 or more")
    if not files:
        raise ConfigError("tune: expected measurement files, found none")
    files = tuple(Path(f) for f in files)
    method, score = _inspected(files, method, score, seed)
    config = method.config() if config is None else config
    if space is None:
        space = space_of(method, config)
    for key, domain in space.items():
        check_domain(method, key, domain, source="space")
    denoiser, denoiser_sha256 = _denoiser(method, config, denoiser, device)
    task = Task(
        files=files,
        method=method,
        config=config,
        score=score,
        seed=seed,
        denoiser=denoiser,
        device=str(resolve_device(device)),
    )
    kept = Study(
        study,
        identity={
            "method": method.name,
            "config": _identity(method, config),
            "space": {name: repr(domain) for name, domain in space.items()},
            "score": score,
            "seed": seed,
            "files": [sha256(path) for path in files],
            "denoiser": denoiser_sha256 or Path(denoiser).name,
        },
        method=method,
        start=config,
        space=dict(space),
        seed=seed,
        maximise=score in HIGHER_IS_BETTER,
    )

    def result() -> TuneResult | None:
        best = kept.best()
        if best is None:
            return None
        return TuneResult(
            method=method,
            config=replaced(config, best.values),
            best=best,
            start=kept.trials.get(0),
            trials=tuple(trial for _, trial in sorted(kept.trials.items())),
            score=score,
            space=dict(space),
            files=files,
            seed=seed,
        )

    with contextlib.closing(kept):
        on_start(score, len(kept.trials))
        try:
            with _interruptible() as interrupted:
                n_left = trials - len(kept.trials)
                outcomes = (
                    scored_here(task, lambda: kept.ask(trials))
                    if min(jobs, n_left) <= 1
                    else scored_in_processes(task, lambda: kept.ask(trials), min(jobs, n_left))
                )
                with contextlib.closing(outcomes):  # type: ignore[type-var]
                    for number, outcome in outcomes:
                        if number == 0 and outcome.hopeless:
                            raise TuneError(outcome.reason)
                        on_trial(kept.tell(number, outcome), kept.best())
                        interrupted()
        except KeyboardInterrupt:
            raise TuneInterrupted(result(), kept=study is not None) from None
    found = result()
    if found is None:
        raise TuneError(f"none of {len(kept.trials)} trials gave a score; the first: {kept.trials[0].reason}")
    return found


def score_text(name: ScoreName, value: float | None) -> str:
    """ "PSNR 24.31 dB", "held-out error 0.0603"."""
    if value is None or not math.isfinite(value):
        return f"{WORDS[name]} none"
    return f"{WORDS[name]} {value:.2f} dB" if name == "psnr" else f"{WORDS[name]} {value:.4g}"


def values_text(values: Mapping[str, Any]) -> str:
    """ "solver.alpha 0.03, solver.tol 0.004"."""
    return ", ".join(f"{name} {_value_text(value)}" for name, value in values.items())


# -- inside -------------------------------------------------------------------------------------------------


def _inspected(
    files: Sequence[Path], method: str | Method | None, score: ScoreName | None, seed: int
) -> tuple[Method, ScoreName]:
    """Method and score, once every file has been seen to fit them."""
    if score is not None and score not in SCORES:
        raise ConfigError(f"--score {score}: expected one of {', '.join(SCORES)}")
    chosen: Method | None = None
    without: list[Path] = []
    for path in files:
        m = read(path)
        if chosen is None:
            chosen = find_method(method, m.modality) if method is None or isinstance(method, str) else method
        if m.modality not in chosen.modalities:
            takes = ", ".join(chosen.modalities)
            raise ConfigError(f"{path}: modality: method {chosen.name} takes {takes}, found {m.modality}; leave it out")
        if m.modality == "irs_mimo":
            _check_channels(path, m, score)
        elif m.ground_truth is None or not m.ground_truth.data.any():
            without.append(path)
            if score not in (None, "heldout"):
                raise ConfigError(
                    f"--score {score}: expected a truth in every file, {path} has none; use --score heldout"
                )
        if score == "heldout" or (score is None and without):
            try:
                split(m, seed)
            except ValueError as error:
                raise TuneError(f"{path}: {error}") from error
    assert chosen is not None
    return chosen, score or ("nmse" if chosen.modalities == ("irs_mimo",) else "heldout" if without else "psnr")


def _check_channels(path: Path, m: Measurement, score: ScoreName | None) -> None:
    """Channels are scored by their NMSE, which needs the true ones."""
    if score not in (None, "nmse"):
        raise ConfigError(f"--score {score}: expected nmse, the one score of channels, for {path}; leave it out")
    truths = [np.asarray(m.extra_truth[k].values) for k in ("channel", "coefficients") if k in m.extra_truth]
    if not any(t.any() for t in truths):
        raise ConfigError(
            f"{path}: expected a true channel to tune against, found none; tune on files of backcast simulate irs_mimo "
            "with the arrays, pilots and noise of yours"
        )


def _denoiser(method: Method, config: Any, denoiser: str, device: str) -> tuple[str, str]:
    """What to load, and its SHA-256."""
    if not method.takes_denoiser:
        if denoiser:
            takers = ", ".join(sorted({m.name for m in METHODS if m.takes_denoiser}))
            raise ConfigError(f"--denoiser {denoiser}: method {method.name} takes none; use -m {takers}")
        return "", ""
    denoiser = denoiser or str(config.denoiser.file)
    if not denoiser:
        raise ConfigError(
            f"method {method.name} needs a denoiser: give -d module:attribute, -d path.py:attribute, or "
            "a .pt or .pt2 file"
        )
    from denoisers.load import DenoiserError, load_denoiser

    try:
        return denoiser, load_denoiser(denoiser, device=str(resolve_device(device))).sha256
    except DenoiserError as error:
        raise ConfigError(str(error)) from error


def _identity(method: Method, config: Any) -> str:
    if method.takes_denoiser:  # it is named by its hash; where it lies changes nothing
        config = replaced(config, {"denoiser.file": ""})
    return identity(method, config)[0]


def _value_of(config: Any, name: str) -> str:
    for part in name.split("."):
        config = getattr(config, part)
    return _value_text(config)


def _value_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(name: str) -> str:
    """A file name on one line."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else "?" for c in name)
