"""Training checkpoints: one file, there whole or not at all, readable without running any code of its own."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

SCHEMA = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill ``.NAME.part`` beside `path`, flush it to the disk, rename it; nothing is left on failure."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values; `load_checkpoint` reads them back equal."""
    write_atomically(path, lambda part: torch.save({"schema": SCHEMA, **content}, part))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU; loads data only (``weights_only=True``).

    Raises:
        CheckpointError: not a checkpoint, damaged, or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch compares no checksums
        if damaged is not None:
            raise CheckpointError(f"{path}: expected a training checkpoint, found a damaged one ({damaged})")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError, zipfile.error) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: expected a training checkpoint, found something else: {first}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected a training checkpoint with schema {SCHEMA}, found {found}")
    return content
