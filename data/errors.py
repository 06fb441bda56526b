"""The exceptions of `data`; each is a builtin one too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.findings import Finding


class DataFormatError(ValueError):
    """A file or a measurement that breaks the format: which file, which key, expected, found, what to do.

    `finding` carries the same in parts, when the error comes from a check of a file.
    """

    def __init__(self, message: str, finding: Finding | None = None) -> None:
        super().__init__(message)
        self.finding = finding

    def __reduce__(self) -> tuple[object, tuple[str, Finding | None]]:
        return type(self), (str(self), self.finding)  # so that it survives the way out of a worker process


class DataWriteError(OSError):
    """A file could not be written: folder missing or unwritable, disk full, another writer at work."""
