"""A look at the text heaps of an HDF5 file before the library reads them.

HDF5 keeps text of variable length in global heap collections, without a checksum. One wrong byte in the sizes
there makes the library (2.0 and before) loop for ever, and no error reaches Python. So they are walked here first.
Source: HDF5 File Format Specification 3.0, section III.E.
"""

from __future__ import annotations

import mmap
from pathlib import Path

_START = b"GCOL\x01\x00\x00\x00"  # signature, version 1, three reserved bytes
_HEADER = 16
# Heaps lie among the groups and attributes; in large files that is the beginning or the end.
_WHOLE_BYTES = 2**28
_END_BYTES = 2**26


def damaged_heap(path: Path) -> int | None:
    """Byte offset of the first text heap whose sizes cannot be right; None when all are well formed."""
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        n = len(content)
        parts = [(0, n)] if n <= _WHOLE_BYTES else [(0, _END_BYTES), (n - _END_BYTES, n)]
        for first, last in parts:
            at = content.find(_START, first, last)
            while at >= 0:
                if not _well_formed(content, at):
                    return at
                at = content.find(_START, at + 8, last)
    return None


def _well_formed(content: mmap.mmap, at: int) -> bool:
    size = int.from_bytes(content[at + 8 : at + 16], "little")
    end = at + size
    if size < _HEADER or end > len(content):
        return False
    here = at + _HEADER
    while here + 16 <= end:
        index = int.from_bytes(content[here : here + 2], "little")
        length = int.from_bytes(content[here + 8 : here + 16], "little")
        # Index 0 is free space, whose length counts its own header; a length of 0 would be read for ever.
        step = length if index == 0 else 16 + (length + 7) // 8 * 8
        if not 0 < step <= end - here:
            return False
        here += step
    return True
