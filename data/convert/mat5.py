"""MATLAB's files of version 5, as far as they hold numbers.

SciPy's reader takes the process down over some damaged files; this one believes no length before it has been compared
with what there is.
Source: MAT-File Format, The MathWorks, version 5: data elements, miMATRIX, miCOMPRESSED.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.measurement import Array

MAGIC = b"MATLAB 5.0 MAT-file"
_HEADER = 128
#: Types of elements that hold numbers, and of the others that are looked at.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
#: Classes of arrays.
_CELL, _STRUCT = 1, 2
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800
#: Structures within structures, dimensions, and what a compressed element may become: deflate's 1032 : 1 at most.
_MOST_NESTED, _MOST_DIMENSIONS, _MOST_INFLATED = 16, 32, 1032
#: Bytes of an array that hold its class, dimensions and name.
_HEAD_BYTES = 512


class DamageError(ValueError):
    """A length or type that cannot be."""


@dataclass(frozen=True)
class _Element:
    kind: int
    content: memoryview


def read_arrays(path: Path) -> dict[str, Array]:
    """All numeric arrays, dimensions in MATLAB's order; those of structures as structure.field.

    Cells, text, sparse matrices and objects are passed over.

    Raises:
        DamageError: another version, or damage.
        OSError: the file cannot be read.
    """
    view = _mapped(path)
    order = _order(view)
    found: dict[str, Array] = {}
    for element in _elements(view[_HEADER:], order):
        name, rest = _head(_inflated(element, order, None), order)
        _collect(name, rest, order, found, 0)
    return found


def variable_names(path: Path) -> set[str]:
    """Names of the variables; of compressed ones only the beginning is inflated.

    Raises:
        DamageError: another version, or damage.
        OSError: the file cannot be read.
    """
    view = _mapped(path)
    order = _order(view)
    return {_head(_inflated(element, order, _HEAD_BYTES), order)[0] for element in _elements(view[_HEADER:], order)}


def _mapped(path: Path) -> memoryview:
    """The file's bytes; those that nobody looks at are not read."""
    if path.stat().st_size == 0:
        raise DamageError("an empty file")
    return np.memmap(path, np.uint8, mode="r").data


def _order(view: memoryview) -> str:
    """Byte order of the file, "<" or ">"."""
    if len(view) < _HEADER or bytes(view[: len(MAGIC)]) != MAGIC:
        raise DamageError("expected a file of version 5")
    orders = {b"IM": "<", b"MI": ">"}
    mark = bytes(view[126:128])
    if mark not in orders:
        raise DamageError(f"expected IM or MI for the byte order, found {mark!r}")
    return orders[mark]


def _numbers_at(view: memoryview, order: str, n: int) -> list[int]:
    return [int(v) for v in np.frombuffer(view[: 4 * n], f"{order}u4")]


def _elements(view: memoryview, order: str) -> Iterator[_Element]:
    """The elements that lie one after the other; the last one may be cut only behind its content."""
    at = 0
    while at + 8 <= len(view):
        kind, n = _numbers_at(view[at:], order, 2)
        if kind >> 16:  # small: up to four bytes within the tag
            kind, n = kind & 0xFFFF, kind >> 16
            if n > 4:
                raise DamageError(f"expected at most 4 bytes in a small element, found {n}")
            yield _Element(kind, view[at + 4 : at + 4 + n])
            at += 8
            continue
        if n > len(view) - at - 8:
            raise DamageError(f"expected {n} bytes of content, found {len(view) - at - 8}")
        yield _Element(kind, view[at + 8 : at + 8 + n])
        at += 8 + (n if kind == _COMPRESSED else (n + 7) // 8 * 8)


def _inflated(element: _Element, order: str, most: int | None) -> memoryview:
    """The content of a matrix at the top, inflated; with `most` only its first bytes."""
    if element.kind == _MATRIX:
        return element.content
    if element.kind != _COMPRESSED:
        raise DamageError(f"expected variables, found an element of type {element.kind}")
    limit = most or _MOST_INFLATED * len(element.content) + _HEAD_BYTES
    try:
        inflater = zlib.decompressobj()
        content = memoryview(inflater.decompress(element.content, limit))
    except zlib.error as e:
        raise DamageError(f"compressed data that cannot be inflated ({e})") from e
    if len(content) < 8:
        raise DamageError("expected a variable in compressed data, found nothing")
    kind, n = _numbers_at(content, order, 2)
    if kind != _MATRIX or (most is None and n > len(content) - 8):
        raise DamageError(f"expected {n} bytes of a variable in compressed data, found {len(content) - 8}")
    return content[8 : 8 + n]


@dataclass(frozen=True)
class _Rest:
    """A matrix behind its name."""

    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    elements: Iterator[_Element]


def _next(elements: Iterator[_Element], what: str, kinds: tuple[int, ...]) -> memoryview:
    element = next(elements, None)
    if element is None or element.kind not in kinds:
        raise DamageError(f"expected {what}, found {'nothing' if element is None else f'type {element.kind}'}")
    return element.content


def _head(matrix: memoryview, order: str) -> tuple[str, _Rest]:
    """Name, class and dimensions of a matrix."""
    elements = _elements(matrix, order)
    flags = _next(elements, "flags of an array", (_UINT32,))
    if len(flags) != 8:
        raise DamageError(f"expected 8 bytes of flags, found {len(flags)}")
    word = _numbers_at(flags, order, 1)[0]
    kind = word & 0xFF
    if kind == 17:  # an object without dimensions
        return "", _Rest(kind, False, (), iter(()))
    sizes = _next(elements, "dimensions of an array", (_INT32,))
    if not 2 <= len(sizes) // 4 <= _MOST_DIMENSIONS or len(sizes) % 4:
        raise DamageError(f"expected 2 to {_MOST_DIMENSIONS} dimensions, found {len(sizes)} bytes of them")
    shape = tuple(int(n) for n in np.frombuffer(sizes, f"{order}i4"))
    if min(shape) < 0:
        raise DamageError(f"expected dimensions >= 0, found {shape}")
    name = bytes(_next(elements, "the name of an array", (1, 2, 16))).decode("utf-8", "replace").rstrip("\x00")
    return name, _Rest(kind, bool(word & _COMPLEX), shape, elements)


def _collect(name: str, rest: _Rest, order: str, found: dict[str, Array], depth: int) -> None:
    if rest.kind in _CLASSES:
        values = _array(name, rest, order)
        if values.size and name:
            found[name] = values
    elif rest.kind == _STRUCT and math.prod(rest.shape) == 1 and depth < _MOST_NESTED:
        width = _next(rest.elements, "the length of field names", (_INT32,))
        labels = _next(rest.elements, "field names", (1, 2))
        n = _numbers_at(width, order, 1)[0] if len(width) == 4 else 0
        if n < 1 or len(labels) % n:
            raise DamageError(f"{name}: expected field names of equal length, found {len(labels)} bytes of length {n}")
        for at in range(0, len(labels), n):
            label = bytes(labels[at : at + n]).partition(b"\0")[0].decode("utf-8", "replace")
            matrix = _next(rest.elements, f"field {name}.{label}", (_MATRIX,))
            if len(matrix):  # a field that was never set is empty
                _, inner = _head(matrix, order)
                _collect(f"{name}.{label}", inner, order, found, depth + 1)


def _array(name: str, rest: _Rest, order: str) -> Array:
    """Numbers, which MATLAB stores in the smallest type that holds them."""
    parts = []
    for part in ("real", "imaginary")[: 1 + rest.is_complex]:
        element = next(rest.elements, None)
        if element is None or element.kind not in _NUMBERS:
            raise DamageError(f"{name}: expected the {part} part, found {element.kind if element else 'nothing'}")
        stored = np.dtype(order + _NUMBERS[element.kind])
        if len(element.content) != math.prod(rest.shape) * stored.itemsize:
            raise DamageError(
                f"{name}: expected numbers for {' x '.join(map(str, rest.shape))}, found {len(element.content)} bytes"
            )
        parts.append(np.frombuffer(element.content, stored).astype(_CLASSES[rest.kind]).reshape(rest.shape, order="F"))
    if not rest.is_complex:
        return parts[0]
    values = np.empty(rest.shape, np.complex64 if rest.kind == 7 else np.complex128, order="F")
    values.real, values.imag = parts
    return values
