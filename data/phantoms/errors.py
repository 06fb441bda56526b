"""What phantoms and simulators raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SimulationError(ValueError):
    """A scene, array or simulation setting that cannot be simulated; one sentence says which and why."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> SimulationError:
    """The error for a name outside `known`, with the nearest known one."""
    names = sorted(known)
    if not names:
        return SimulationError(f"{what}: expected none, got '{name}'; take it out")
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return SimulationError(f"{what}: expected one of {', '.join(names)}, got '{name}'{hint}")
