"""The output folder is the ledger: whether a result is there, whole, and of this input and configuration."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.reconstruct import Job


def previous(path: Path) -> dict[str, Any] | None:
    """What decides whether a result is current: hashes, status, metrics; None for a file that is no reconstruction."""
    import h5py

    def text(value: Any) -> str:
        value = value[()] if isinstance(value, h5py.Dataset) else value
        return value.decode() if isinstance(value, bytes) else str(value)

    try:
        with h5py.File(path, "r") as f:
            if text(f.attrs.get("format", "")) != "backcast-reconstruction":
                return None
            origin = f["provenance"]
            found: dict[str, Any] = {
                name: text(origin[name] if name in origin else origin.attrs[name])
                for name in ("config", "config_sha256", "input_sha256")
            }
            found["status"] = text(f.attrs.get("status", ""))
            found["metrics"] = {
                name: float(value[()].mean()) for name, value in f.get("metrics", {}).items() if value.size
            }
            return found
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError, TypeError):
        return None


def finished(job: Job) -> dict[str, float] | None:
    """The metrics of a job's result when that is there, complete and current; None when there is work to do."""
    from data import sha256

    found = previous(job.target) if job.target.exists() else None
    with contextlib.suppress(OSError):
        if (
            found is not None
            and found["status"] == "complete"
            and found["config_sha256"] == job.config_sha256
            and found["input_sha256"] == sha256(job.source)
        ):
            metrics: dict[str, float] = found["metrics"]
            return metrics
    return None
