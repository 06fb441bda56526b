"""A reconstruction as a generator of updates, for napari's generator worker: pause and cancel come with it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.measurement import Measurement, Volume
from data.reconstruction import Reconstruction


class LiveMethods(Protocol):
    """What runs methods; the command `backcast.live` of napari.yaml gives it."""

    def forms(self, modality: str, *, moving: bool = False) -> list[Any]: ...

    def denoisers(self) -> list[str]: ...

    def configuration(self, method: str, modality: str, assignments: Sequence[str]) -> Any: ...

    def steps(
        self,
        measurement: Measurement,
        method: str,
        assignments: Sequence[str] = (),
        *,
        device: str = "auto",
        source: Path | None = None,
        program: str = "backcast",
    ) -> Generator[Any, None, Reconstruction]: ...

    def save(self, path: Path, result: Reconstruction, source: Path | None) -> Reconstruction: ...


def live_methods() -> LiveMethods:
    """The methods of this installation, found through the plugin's manifest."""
    from npe2 import PluginManager

    manager = PluginManager.instance()
    if "backcast" not in manager:
        manager.discover()
    found: LiveMethods = manager.commands.execute("backcast.live")
    return found


class RunFailed(Exception):
    """A run that ended in an error, in one sentence. No RuntimeError: the worker would take that for its own end."""


@dataclass(frozen=True, eq=False)
class Update:
    """News of a run.

    Args:
        iteration, max_iter: where it is.
        rows: new rows of the convergence log, one per frame at work.
        volume: the image as it is now; None between updates.
    """

    iteration: int
    max_iter: int
    rows: Sequence[Mapping[str, Any]]
    volume: Volume | None

    @property
    def seconds_left(self) -> float:
        """If all iterations are done, at the speed so far."""
        elapsed = float(self.rows[0]["elapsed"]) if self.rows else 0.0
        return elapsed / max(self.iteration, 1) * (self.max_iter - self.iteration)


def updates(
    live: LiveMethods,
    measurement: Measurement,
    method: str,
    assignments: Sequence[str],
    *,
    every: int = 1,
    source: Path | None = None,
    ready: threading.Event | None = None,
) -> Generator[Update, None, Reconstruction]:
    """Run a method; every `every`-th update, and the first, has the image.

    Args:
        live: what runs methods.
        measurement, method, assignments, source: as `LiveMethods.steps`.
        every: iterations between two images.
        ready: set by who has shown an image, cleared here with each; while it is not set there are no images, so that
            a window slower than the method does not fall behind. None waits for nobody.

    Raises:
        RunFailed: whatever went wrong, in one sentence.
    """
    steps = live.steps(measurement, method, assignments, source=source, program=f"napari: {method}")
    while True:
        try:
            step = next(steps)
            due = step.iteration == 1 or step.iteration % every == 0
            volume = step.image() if due and (ready is None or ready.is_set()) else None
        except StopIteration as end:
            result: Reconstruction = end.value
            return result
        except (ValueError, OSError, ArithmeticError, MemoryError) as error:
            raise RunFailed(str(error) or f"{method}: not enough memory; take a smaller grid") from error
        except Exception as error:  # anything else is a defect, but the window must go on
            first = (str(error).strip().splitlines() or [""])[0]
            raise RunFailed(f"{method} failed: {type(error).__name__}: {first}") from error
        if volume is not None and ready is not None:
            ready.clear()
        yield Update(step.iteration, step.max_iter, step.rows, volume)


class History:
    """The convergence log of a run while it grows, the worst frame of every iteration."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Mapping[str, Any]]] = {}

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._rows.setdefault(int(row["iteration"]), []).append(row)

    @property
    def columns(self) -> dict[str, Any]:
        """As those of a `data.Convergence`."""
        at = sorted(self._rows)
        names = {name for rows in self._rows.values() for row in rows for name in row} - {"frame", "max_iter"}
        columns: dict[str, Any] = {}
        for name in names:
            worst = np.nanmean if name == "psnr" else np.nanmax
            found = [[float(r[name]) for r in self._rows[k] if name in r] for k in at]
            columns[name] = np.array([worst(v) if np.isfinite(v).any() else np.nan for v in found])
        columns["iteration"] = np.array(at, dtype=np.int32)
        return columns
