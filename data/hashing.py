"""The fingerprint of a file."""

from __future__ import annotations

import hashlib
import os


def sha256(path: str | os.PathLike[str], *, block_bytes: int = 2**20) -> str:
    """SHA-256 of a file's bytes, hexadecimal; read in blocks, never whole.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while block := f.read(block_bytes):
            digest.update(block)
    return digest.hexdigest()
