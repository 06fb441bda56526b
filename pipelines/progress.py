"""What a batch says while it runs, on stderr: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipelines.batch import Entry


class Progress(Protocol):
    """Told what happens."""

    def over(self, names: Sequence[str], *, total: int) -> contextlib.AbstractContextManager[None]:
        """The files that will be imaged, of `total` named ones; the display lasts as long as the context."""
        ...

    def iteration(self, index: int, row: Mapping[str, Any]) -> None:
        """A file has begun (empty row) or done an iteration."""
        ...

    def say(self, text: str) -> None:
        """Something about no file at work."""
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

    def say(self, text: str) -> None:
        _tell(text)

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

    def say(self, text: str) -> None:
        _tell(text)

    def again(self, index: int, reason: str) -> None:
        _tell(_again(reason))

    def finished(self, index: int, entry: Entry) -> None:
        self._done += 1
        _tell(f"[{self._done}/{self._total}] {line(entry)}")
        for note in _unsaid(entry.notes, self._said):
            _tell(f"    {note}")


@dataclass
class _Work:
    """A file at work: when it began, and its last row."""

    since: float
    row: Mapping[str, Any]

    @property
    def share(self) -> float:
        """Of it that is done, at most."""
        return min(1.0, self.row["iteration"] / self.row["max_iter"]) if self.row else 0.0


class Live:
    """A table of rich: a row for each file at work, and below how many are done, how fast, and how long it takes yet.

    Args:
        clock: seconds.
        console: where to; None is stderr.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, console: Console | None = None) -> None:
        from rich.console import Console

        self._clock = clock
        self._console = console or Console(stderr=True)
        self._work: dict[int, _Work] = {}
        self._counts: Counter[str] = Counter()
        self._said: set[str] = set()
        self._names: Sequence[str] = ()
        self._since = 0.0

    @contextlib.contextmanager
    def over(self, names: Sequence[str], *, total: int) -> Iterator[None]:
        from rich.live import Live as Display

        self._names, self._since = names, self._clock()
        self._work.clear()
        self._counts.clear()
        with Display(
            console=self._console,
            get_renderable=self.table,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        ):
            yield

    def table(self) -> Table:
        """What is shown now."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_footer=True)
        names = ("file", "iteration", "change", "time", "left")
        for name, footer in zip(names, self._footer(), strict=True):
            table.add_column(
                name,
                footer=Text(footer),
                justify="left" if name == "file" else "right",
                no_wrap=True,
                footer_style="bold",
            )
        now = self._clock()
        for index, work in sorted(self._work.items()):
            name = self._names[index]
            spent = now - work.since
            left = spent * (1 - work.share) / work.share if work.share else math.nan
            at = f"{work.row['iteration']}/{work.row['max_iter']}" if work.row else ""
            change = f"{work.row.get('relative_change', math.nan):.1e}" if work.row else ""
            table.add_row(
                Text(name if len(name) <= 40 else "..." + name[-37:]), at, change, _clock(spent), _clock(left)
            )
        return table

    def _footer(self) -> tuple[str, ...]:
        done, n = sum(self._counts.values()), len(self._names)
        failed = f", {self._counts['failed']} failed" if self._counts["failed"] else ""
        spent = self._clock() - self._since
        shares = done + sum(work.share for work in self._work.values())
        rate = f"{60 * done / spent:.3g}/min" if done and spent > 0 else ""
        left = spent * (n - shares) / shares if shares else math.nan
        return f"{done} of {n}{failed}", "", rate, _clock(spent), _clock(left)

    def iteration(self, index: int, row: Mapping[str, Any]) -> None:
        if index not in self._work or not row:
            self._work[index] = _Work(self._clock(), row)
        else:
            self._work[index].row = row

    def again(self, index: int, reason: str) -> None:
        self._work.pop(index, None)
        self.say(_again(reason))

    def finished(self, index: int, entry: Entry) -> None:
        self._work.pop(index, None)
        self._counts[entry.status] += 1
        self.say(line(entry))
        for note in _unsaid(entry.notes, self._said):
            self.say(f"    {note}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """ "0:07", "12:30", "3:05:00"; "" for what is not known."""
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
