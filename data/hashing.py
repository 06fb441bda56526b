"""The fingerprint of an input."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def sha256(path: str | os.PathLike[str], *, block_bytes: int = 2**20) -> str:
    """SHA-256 of a file's bytes, hexadecimal; read in blocks, never whole.

    Of a foreign file with others that belong to it (the second of BART's pair, the TOML beside it) it is the hash of
    all their hashes.

    Raises:
        OSError: a file cannot be read.
    """
    from data.convert.detect import companions

    own = _digest(path, block_bytes)
    others = companions(Path(path))
    if not others:
        return own
    return hashlib.sha256("\n".join([own, *(_digest(p, block_bytes) for p in others)]).encode()).hexdigest()


def _digest(path: str | os.PathLike[str], block_bytes: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while block := f.read(block_bytes):
            digest.update(block)
    return digest.hexdigest()
