"""The weights that come with the package. Needs no torch."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "weights"


def shipped_names() -> list[str]:
    """Names of the shipped weights, as typed after ``-d``."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def shipped_file(name: str) -> Path | None:
    """The file of a shipped name; None when there is none of that name."""
    return FOLDER / f"{name}.safetensors" if name in shipped_names() else None
