"""What a batch says while it runs, on stderr: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pipelines.batch import Entry


class Progress(Protocol):
    """Told what happens."""

    def over(self, names: Sequence[str], *, total: int) -> contextlib.AbstractContextManager[None]:
        """The files that will be imaged, of `total` named ones; the display lasts as long as the context."""
        ...

    def iteration(self, index: int, row: Mapping[str, Any]) -> None:
        """A file has begun (empty row) or done an iteration."""
        ...

    def again(self, index: int, reason: str) -> None:
        """A file will be tried again."""
        ...

    def finished(self, index: int, entry: Entry) -> None:
        """A file has its outcome."""
        ...


def make_progress(kind: str) -> Progress:
    """The display of ``--progress auto|plain|none``."""
    if kind == "none":
        return Silent()
    if kind == "plain" or not sys.stderr.isatty():
        return Plain()
    return Live()


def line(entry: Entry) -> str:
    """What became of one file."""
    if entry.status != "done":
        return f"{entry.status}: {entry.reason}"
    figures = ", ".join(
        f"{label} {entry.metrics[name]:.3g}{unit}"
        for name, label, unit in (
            ("psnr", "PSNR", " dB"),
            ("nmse_db", "NMSE", " dB"),
            ("measurement_residual", "residual", ""),
        )
        if name in entry.metrics
    )
    return f"{entry.source}: done in {entry.seconds:.1f} s" + (f" ({figures})" if figures else "")


def _tell(text: str) -> None:
    """A line on stderr; a log that cannot be written (a full disk) must not end the batch."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _again(reason: str) -> str:
    return f"will be tried again: {reason}"


class Silent:
    """Failures only."""

    @contextlib.contextmanager
    def over(self, names: Sequence[str], *, total: int) -> Iterator[None]:
        yield

    def iteration(self, index: int, row: Mapping[str, Any]) -> None:
        return

    def again(self, index: int, reason: str) -> None:
        return

    def finished(self, index: int, entry: Entry) -> None:
        if entry.status != "done":
            _tell(line(entry))


def _unsaid(notes: Sequence[str], said: set[str]) -> list[str]:
    """Notes that no earlier file had; a batch from one scanner repeats itself."""
    new = [note for note in dict.fromkeys(notes) if note not in said]
    said.update(new)
    return new


class Plain:
    """A line per file, without control codes; a note when it is new."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._said: set[str] = set()

    @contextlib.contextmanager
    def over(self, names: Sequence[str], *, total: int) -> Iterator[None]:
        self._done, self._total = 0, len(names)
        yield

    def iteration(self, index: int, row: Mapping[str, Any]) -> None:
        return

    def again(self, index: int, reason: str) -> None:
        _tell(_again(reason))

    def finished(self, index: int, entry: Entry) -> None:
        self._done += 1
        _tell(f"[{self._done}/{self._total}] {line(entry)}")
        for note in _unsaid(entry.notes, self._said):
            _tell(f"    {note}")


class Live:
    """Bars of rich: one for the batch, one for each file at work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._display = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[int, TaskID] = {}
        self._said: set[str] = set()
        self._names: Sequence[str] = ()
        self._batch: TaskID | None = None

    @contextlib.contextmanager
    def over(self, names: Sequence[str], *, total: int) -> Iterator[None]:
        self._names = names
        with self._display:
            self._batch = self._display.add_task("files", total=len(names))
            yield

    def iteration(self, index: int, row: Mapping[str, Any]) -> None:
        if index not in self._tasks:
            name = self._names[index]
            name = name if len(name) <= 40 else "..." + name[-37:]
            self._tasks[index] = self._display.add_task(name, total=row.get("max_iter"))
        if row:
            self._display.update(self._tasks[index], completed=row["iteration"], total=row["max_iter"])

    def again(self, index: int, reason: str) -> None:
        self._console.print(_again(reason), markup=False, highlight=False, soft_wrap=True)

    def finished(self, index: int, entry: Entry) -> None:
        if index in self._tasks:
            self._display.remove_task(self._tasks.pop(index))
        if self._batch is not None:
            self._display.advance(self._batch)
        self._console.print(line(entry), markup=False, highlight=False, soft_wrap=True)
        for note in _unsaid(entry.notes, self._said):
            self._console.print(f"    {note}", markup=False, highlight=False, soft_wrap=True)
