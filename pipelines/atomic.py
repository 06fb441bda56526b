"""Small files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with plain line ends; bytes of a file name that are no text become \\xNN. See `write_bytes`."""
    write_bytes(path, text.encode(errors="surrogateescape").decode(errors="backslashreplace").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write by way of ``.NAME.part`` in the same folder, flushed to the disk, then renamed.

    Raises:
        OSError: the folder cannot be written or is full; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
        raise


def in_words(error: OSError, place: Path | str) -> str:
    """A system's error as the sentence of all others; `place` where it names no file."""
    if error.errno is None or not error.strerror:
        return str(error)
    fix = "free some space, or choose another folder" if error.errno == errno.ENOSPC else "check it and its folder"
    return f"{error.filename or place}: expected to read and write here, found: {error.strerror}; {fix}"
