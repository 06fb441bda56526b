"""How far a long solve has got, kept beside its result, so that a killed run goes on inside the file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from data.atomic import remove_part, write_hdf5
from data.errors import DataWriteError
from imaging.solvers.run import BatchRun, Outcome
from imaging.solvers.state import State, StateFileError

FORMAT = "backcast-checkpoint"
#: Seconds between two of them.
EVERY_S = 60.0
#: An interrupted run keeps what took longer.
WORTH_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A reconstruction between two iterations of one of its parts.

    Attributes:
        part: its number; those before it are finished.
        run: the solver's.
        images, spreads, residuals: of the finished parts, as they will be stored.
        carried: `Plan.carried`.
        rows: of the convergence log, by iteration.
        outcomes: of the problems of finished parts.
        facts, notes: of the plan.
        elapsed: seconds spent.
    """

    part: int
    run: BatchRun
    images: list[np.ndarray]
    spreads: list[np.ndarray]
    residuals: list[np.ndarray]
    carried: list[Tensor]
    rows: dict[int, list[dict[str, float]]]
    outcomes: list[Outcome]
    facts: dict[str, Any]
    notes: list[str]
    elapsed: float

    @property
    def n_rows(self) -> int:
        """Lines of the log file so far."""
        return sum(len(rows) for rows in self.rows.values())


def place_of(target: Path) -> Path:
    """The file that keeps how far the result `target` has got; hidden, in the same folder."""
    return target.with_name(f".{target.name}.checkpoint")


def remove(target: Path) -> None:
    """Remove a result's checkpoint, and what a killed writer left of one."""
    place = place_of(target)
    remove_part(place)
    place.unlink(missing_ok=True)


class Checkpoint:
    """Written now and then while a file is imaged, and gone when its result is there.

    Args:
        target: the result.
        key: what must be the same to go on: hashes of input and configuration, the version.
        every_s: seconds between two; 0 is after every iteration.
        resume: go on from what is there, as far as its key is this one.
        device: where states live.
    """

    def __init__(
        self, target: Path, key: Mapping[str, str], *, every_s: float, resume: bool, device: torch.device
    ) -> None:
        self.target, self.key, self.every_s = target, dict(key), every_s
        self.saved: Saved | None = None
        self.trouble = ""
        self._latest: Callable[[], Saved] | None = None
        self._last = time.monotonic()
        if resume and key_of(target) == self.key:
            try:
                self.saved = _read(place_of(target), device)
            except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
                words = (str(error).splitlines() or [type(error).__name__])[0]
                self.trouble = f"checkpoint: damaged, so the file was begun anew ({words})"
        else:
            remove(target)

    def offer(self, make: Callable[[], Saved]) -> None:
        """Say how to go on from here; it is written when it is time."""
        self._latest = make
        if time.monotonic() - self._last >= self.every_s:
            self._write(make())

    def interrupted(self) -> None:
        """Write what was offered last, when it is worth it."""
        if self._latest is not None and time.monotonic() - self._last > min(WORTH_S, self.every_s):
            self._write(self._latest())

    def finished(self) -> None:
        """The result is there."""
        self._latest = None
        remove(self.target)

    def _write(self, saved: Saved) -> None:
        try:
            write_hdf5(place_of(self.target), lambda file: _fill(file, saved, self.key))
        except DataWriteError as error:  # the result may fit all the same
            self.trouble = f"checkpoint: could not be written ({error})"
        self._last = time.monotonic()


def key_of(target: Path) -> dict[str, str] | None:
    """What the checkpoint of a result belongs to; None where there is none that can be read."""
    try:
        with h5py.File(place_of(target), "r") as file:
            if file.attrs.get("format") != FORMAT:
                return None
            key: dict[str, str] = json.loads(file.attrs["key"])
            return key
    except (OSError, KeyError, ValueError, RuntimeError, TypeError):
        return None


# -- the file -----------------------------------------------------------------------------------------------


def _fill(file: h5py.File, saved: Saved, key: Mapping[str, str]) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["key"] = json.dumps(dict(key))
    words = {
        "part": saved.part,
        "rows": saved.rows,
        "outcomes": saved.outcomes,
        "run_outcomes": saved.run.outcomes,
        "facts": saved.facts,
        "notes": saved.notes,
        "elapsed": saved.elapsed,
    }
    file.create_dataset("words", data=np.frombuffer(json.dumps(words).encode(), np.uint8), fletcher32=True)
    for name in ("images", "spreads", "residuals"):
        group = file.create_group(name)
        for i, array in enumerate(getattr(saved, name)):
            _store(group, str(i), array)
    carried = file.create_group("carried")
    for i, tensor in enumerate(saved.carried):
        _store(carried, str(i), tensor)
    run = file.create_group("run")
    for name in ("active", "iterations", "best_value", "since"):
        value = getattr(saved.run, name)
        if value is not None:
            _store(run, name, value)
    written: list[tuple[str, State]] = []
    for name in ("state", "final", "best"):
        state = getattr(saved.run, name)
        same = next((n for n, s in written if s is state), None)
        if same is not None:
            run.attrs[name] = same
        elif state is not None:
            _store_state(run.create_group(name), state)
            written.append((name, state))


def _store_state(group: h5py.Group, state: State) -> None:
    tensors, values = state.parts()
    group.attrs["class"] = type(state).__name__
    group.attrs["values"] = json.dumps(values)
    for name, tensor in tensors.items():
        _store(group, name, tensor)


def _store(group: h5py.Group, name: str, value: Tensor | np.ndarray) -> None:
    array = value.detach().resolve_conj().cpu().numpy() if isinstance(value, Tensor) else value
    checked = {"fletcher32": True} if array.size and array.ndim else {}
    group.create_dataset(name, data=array, **checked)


def _read(path: Path, device: torch.device) -> Saved:
    with h5py.File(path, "r") as file:
        words = json.loads(file["words"][()].tobytes())
        run = file["run"]
        states: dict[str, State] = {}
        for name in ("state", "final", "best"):
            if name in run.attrs:
                states[name] = states[run.attrs[name]]
            elif name in run:
                states[name] = _load_state(run[name], device)
        given: dict[str, Any] = {**states, **{n: _load(run[n]) for n in ("best_value", "since") if n in run}}
        return Saved(
            part=words["part"],
            run=BatchRun(
                active=_load(run["active"]),
                iterations=_load(run["iterations"]),
                outcomes=tuple(Outcome(o) for o in words["run_outcomes"]),
                **given,
            ),
            carried=[_load(file["carried"][str(i)]) for i in range(len(file["carried"]))],
            rows={int(k): rows for k, rows in words["rows"].items()},
            outcomes=[Outcome(o) for o in words["outcomes"]],
            facts=words["facts"],
            notes=words["notes"],
            elapsed=words["elapsed"],
            **{n: [file[n][str(i)][()] for i in range(len(file[n]))] for n in ("images", "spreads", "residuals")},
        )


def _load(dataset: h5py.Dataset) -> Tensor:
    return torch.from_numpy(np.asarray(dataset[()]))


def _load_state(group: h5py.Group, device: torch.device) -> State:
    kind = str(group.attrs["class"])
    if kind not in State.kinds:
        raise StateFileError(f"no solver here has a state {kind}")
    tensors = {name: _load(value).to(device) for name, value in group.items()}
    return State.from_parts(kind, tensors, json.loads(group.attrs["values"]))
