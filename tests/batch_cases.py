"""Tiny radar scans and the command run in this process, for the tests of the pipelines."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import h5py
import numpy as np

from pipelines.cli import app, guarded
from pipelines.simulate import simulate_files

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "grid.origin_m=[0.4,-0.06,-0.06]",
    "grid.spacing_m=[0.012,0.012,0.012]",
    "grid.shape=[11,11,11]",
    "n_frequencies=4",
    "target=points",
)
CROSS = ("array_parameters.n_tx=4", "array_parameters.n_rx=3")
RASTER = ("array=planar_monostatic", "array_parameters={n_x=11, n_y=11, step_m=0.012}", "n_frequencies=6")


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


def cli(*arguments: object) -> Ran:
    """The command in this process, which also is what sys.argv says."""
    out, err = io.StringIO(), io.StringIO()
    typed = [str(a) for a in arguments]
    argv = mock.patch.object(sys, "argv", ["backcast", *typed])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), argv:
        status = guarded(lambda: app(args=typed, standalone_mode=False))
    return Ran(status, out.getvalue(), err.getvalue())


def command(*arguments: object) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "pipelines.cli", *(str(a) for a in arguments)]


def environment() -> dict[str, str]:
    """One thread, our packages first."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def process(*arguments: object, cwd: Path) -> Ran:
    """The command in a process of its own."""
    done = subprocess.run(command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)
    return Ran(done.returncode, done.stdout, done.stderr)


def scans(folder: Path, count: int = 1, *more: str, array: tuple[str, ...] = CROSS) -> list[Path]:
    """Tiny simulated files."""
    return list(simulate_files("mimo_radar", folder, count=count, assignments=[*TINY, *array, *more]))


def truncate(path: Path) -> None:
    """Cut a file in half, as an interrupted copy does."""
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size // 2)


def spoil(path: Path, value: complex = complex("nan")) -> None:
    """Put a value among the samples."""
    with h5py.File(path, "r+") as f:
        data = f["measurement/data"][()]
        data.flat[5] = value
        f["measurement/data"][...] = data


def silence(path: Path) -> None:
    """A measurement of nothing."""
    with h5py.File(path, "r+") as f:
        f["measurement/data"][...] = np.zeros_like(f["measurement/data"][()])
