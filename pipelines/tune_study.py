"""The memory of a search: optuna's study, in a file or not, that goes on where it was killed."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pipelines.config import ConfigError
from pipelines.methods import Method
from pipelines.tune_score import Outcome
from pipelines.tune_space import Choices, Space, contains, is_whole

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

NAME = "backcast tune"
WORDS = {
    "method": "another method",
    "config": "another configuration to start from",
    "space": "other parameters or ranges",
    "score": "another score",
    "seed": "another seed",
    "files": "other files",
    "denoiser": "another denoiser",
}


@dataclass(frozen=True)
class Trial:
    """A configuration that was tried.

    Attributes:
        number: 0 is the configuration to start from.
        values: of the tuned keys; empty for number 0.
        score: None when it gave none.
        reason: why it gave none.
    """

    number: int
    values: Mapping[str, Any]
    score: float | None
    reason: str = ""


def import_optuna() -> ModuleType:
    """optuna, an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError('tune needs optuna, which is not installed: pip install "backcast[tune]"') from error
    return optuna


class Study:
    """Which trials were done, and which is next.

    One process asks and tells; it alone writes the file, whoever computes the scores. Trials have numbers of their
    own, 0 to total - 1: those that were interrupted get the same number again, and with it the same random numbers,
    so that a search that was killed and went on ends like one that was not.

    Args:
        path: a journal of optuna, made when missing; None keeps the study in memory.
        identity: what trials must share to be comparable, plain values.
        method, start: the method and the configuration of trial 0.
        space: what is searched.
        seed: of the sampler.
        maximise: whether more is better.

    Raises:
        ConfigError: the file holds something else, or a study of another identity, or is in use.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        identity: Mapping[str, Any],
        method: Method,
        start: Any,
        space: Space,
        seed: int,
        maximise: bool,
    ) -> None:
        self._optuna = import_optuna()
        self._space, self._seed = space, seed
        self._sign = 1 if maximise else -1
        self._open: dict[int, optuna.trial.Trial] = {}
        self._distributions = {name: self._distribution(method, name) for name in space}
        self._start = self._parameters(start)
        self._handle: IO[bytes] | None = None if path is None else _claimed(path)
        self.trials: dict[int, Trial] = {}
        with self._quiet():
            storage = None if path is None else self._storage(path)
            direction = "maximize" if maximise else "minimize"
            self._study: optuna.Study = self._optuna.create_study(
                study_name=NAME, storage=storage, direction=direction, load_if_exists=True
            )
            try:
                self._take_up(path, json.loads(json.dumps(identity)))
            except BaseException:
                self.close()
                raise

    def ask(self, total: int) -> tuple[int, dict[str, Any]] | None:
        """Number and values of the next trial; None when `total` are done or under way."""
        number = next(n for n in itertools.count() if n not in self.trials and n not in self._open)
        if number >= total:
            return None
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
        with self._quiet():
            if number == 0:
                waiting = self._optuna.trial.TrialState.WAITING
                if self._start is not None and not self._study.get_trials(deepcopy=False, states=(waiting,)):
                    self._study.enqueue_trial(self._start)
                trial = self._study.ask(self._distributions if self._start is not None else {})
            else:
                trial = self._study.ask(self._distributions)
            trial.set_user_attr("number", number)
        self._open[number] = trial
        return number, {} if number == 0 else self._values(trial.params)

    def tell(self, number: int, outcome: Outcome) -> Trial:
        """Keep the outcome of a trial."""
        trial = self._open.pop(number)
        values = {} if number == 0 else self._values(trial.params)
        self.trials[number] = Trial(number, values, outcome.score, outcome.reason)
        state = self._optuna.trial.TrialState
        with self._quiet():
            trial.set_user_attr("outcome", {"score": outcome.score, "reason": outcome.reason})
            if not trial.params:  # outside the space: nothing to learn from
                self._study.tell(trial, state=state.FAIL)
            elif outcome.score is None:  # worse than all others
                self._study.tell(trial, state=state.PRUNED)
            else:
                self._study.tell(trial, outcome.score)
        return self.trials[number]

    def best(self) -> Trial | None:
        """The first of the best trials; None when none gave a score."""
        scored = [t for _, t in sorted(self.trials.items()) if t.score is not None]
        return max(scored, key=lambda t: self._sign * (t.score or 0.0), default=None)

    def close(self) -> None:
        """Let others have the file."""
        if self._handle is not None:
            self._handle.close()

    # -- inside ---------------------------------------------------------------------------------------------

    def _storage(self, path: Path) -> Any:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))

    def _take_up(self, path: Path | None, identity: dict[str, Any]) -> None:
        """Check that the study is the one that is meant; forget what was interrupted."""
        found = self._study.user_attrs.get("identity")
        if found is None:
            self._study.set_user_attr("identity", identity)
        elif found != identity:
            what = " and ".join(WORDS.get(k, k) for k in identity if found.get(k) != identity[k])
            raise ConfigError(
                f"--study {path}: expected a study of the same search, found one with {what or 'another format'}; "
                "name another file, or delete it"
            )
        state = self._optuna.trial.TrialState
        for frozen in self._study.get_trials(deepcopy=False):
            outcome = frozen.user_attrs.get("outcome")
            if outcome is not None:
                number = int(frozen.user_attrs["number"])
                values = {} if number == 0 else self._values(frozen.params)
                self.trials[number] = Trial(number, values, outcome["score"], outcome["reason"])
            if frozen.state == state.RUNNING:
                self._study.tell(frozen.number, state=state.FAIL)

    def _distribution(self, method: Method, name: str) -> BaseDistribution:
        kinds, domain = self._optuna.distributions, self._space[name]
        if isinstance(domain, Choices):
            return kinds.CategoricalDistribution([json.dumps(v) for v in domain.values])
        if is_whole(method, name):
            return kinds.IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        return kinds.FloatDistribution(domain.low, domain.high, log=domain.log)

    def _parameters(self, config: Any) -> dict[str, Any] | None:
        """optuna's parameters of a configuration; None for one outside the space."""
        found = {}
        for name, domain in self._space.items():
            value = config
            for part in name.split("."):
                value = getattr(value, part)
            if not contains(domain, value):
                return None
            found[name] = json.dumps(value) if isinstance(domain, Choices) else value
        return found

    def _values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, domain in self._space.items():
            value = parameters[name]
            if isinstance(domain, Choices):
                value = next(v for v in domain.values if json.dumps(v) == value)
            found[name] = value
        return found

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """optuna reports on a log of its own; the caller tells more."""
        level = self._optuna.logging.get_verbosity()
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        try:
            yield
        finally:
            self._optuna.logging.set_verbosity(level)


def _claimed(path: Path) -> IO[bytes]:
    """The study's file, kept from others for as long as the handle is open, and without a half-written last line."""
    try:
        handle = path.open("a+b")
    except OSError as error:
        raise ConfigError(f"--study {path}: expected a file that can be written, found: {error.strerror}") from error
    try:
        _lock(handle, path)
        handle.seek(0)
        content = handle.read()
        if content and not _is_journal(content):
            raise ConfigError(f"--study {path}: expected a study of backcast tune, found something else; name another")
        handle.truncate(content.rfind(b"\n") + 1)
    except BaseException:
        handle.close()
        raise
    return handle


def _lock(handle: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two searches in one file are the user's to avoid
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"--study {path}: another backcast tune is at work on it; wait, or name another") from error
    except OSError:  # a file system without locks
        return
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a process that was killed as it wrote


def _is_journal(content: bytes) -> bool:
    start = b'{"op_code":'
    return content[: len(start)] == start[: len(content)]
