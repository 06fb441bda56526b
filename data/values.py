"""Checks and conversions of single values; what is wrong leaves as a FormatProblem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.hdf5 import problem
from data.measurement import Array
from data.schema import Entry, Shape
from data.stored import Stored

_DTYPES = {"f8": np.float64, "f4": np.float32, "i4": np.int32, "u1": np.uint8, "c8": np.complex64}


def describe(entry: Entry) -> str:
    """An entry in words: "real (tx, 3) in 'm'"."""
    shapes = " or ".join(f"({', '.join(map(str, shape))})" if shape else "a number" for shape in entry.shapes)
    return shapes + (f" in {entry.units[0]!r}" if entry.units else "")


def check_kind(stored: Stored, dtype: str) -> None:
    """Numbers of a kind that goes into `dtype`."""
    allowed = {
        "c8": ("complex", "float", "int"),
        "f8": ("float", "int"),
        "f4": ("float", "int"),
        "i4": ("int", "float"),
        "u1": ("int", "bool", "float"),
    }[dtype]
    if stored.kind not in allowed:
        raise problem(
            "BC205",
            stored.path,
            expected=f"numbers that {np.dtype(_DTYPES[dtype]).name} can hold",
            found=stored.dtype_name,
            fix="convert them before writing",
        )


def match_shape(stored: Stored, shapes: tuple[Shape, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape to give the array, when one of `shapes` fits; extends `sizes`."""
    for wanted in shapes:
        shape = stored.shape
        if len(wanted) == 0 and math.prod(shape) == 1:
            return ()
        if len(wanted) == 1 and math.prod(shape) == max(shape, default=0):
            shape = (math.prod(shape),)  # MATLAB's (n, 1) and (1, n)
        if len(wanted) == 2 and shape == wanted[1:]:
            shape = (1, *shape)  # one antenna, written as a vector
        bound = _bind(shape, wanted, sizes)
        if bound is not None:
            sizes.update(bound)
            return shape
    words = " or ".join(
        "(" + ", ".join(str(n) if isinstance(n, int) else f"{n}={sizes.get(n, 'any')}" for n in wanted) + ")"
        for wanted in shapes
    )
    empty = 0 in stored.shape
    raise problem(
        "BC305" if empty else "BC304",
        stored.path,
        expected=f"shape {words}" if words != "()" else "a single number",
        found=str(stored.shape),
        fix="write at least one row" if empty else "check the order of the dimensions, which MATLAB reverses",
    )


def _bind(shape: tuple[int, ...], wanted: Shape, sizes: Mapping[str, int]) -> dict[str, int] | None:
    """The lengths that `wanted`'s names get from `shape`; None when it does not fit or is empty."""
    if len(shape) != len(wanted) or 0 in shape:
        return None
    bound: dict[str, int] = {}
    for n, name in zip(shape, wanted, strict=True):
        if isinstance(name, int):
            if n != name:
                return None
        elif bound.setdefault(name, sizes.get(name, n)) != n:
            return None
    return bound


def cast(values: Array, dtype: str, path: str) -> Array:
    """To the dtype of the format; integers must be whole and fit, the rest only loses precision."""
    target = np.dtype(_DTYPES[dtype])
    if values.dtype == target:
        return values
    if target.kind in "iu":
        check_finite(values, path)
        limits = np.iinfo(target.name)
        bad = (values != np.round(values)) | (values < limits.min) | (values > limits.max)
        if bad.any():
            raise problem(
                "BC205",
                path,
                expected=f"whole numbers that {target.name} can hold",
                found=f"{values[bad].ravel()[0]}",
                fix="write indices as integers",
            )
    with np.errstate(over="ignore"):  # what overflows becomes Inf, which the check of the samples reports
        return values.astype(target)


def check_finite(values: Array, path: str, axes: tuple[str, ...] = ()) -> None:
    """Raise for NaN and Inf, with their number and the first index."""
    if values.dtype.kind not in "fc":
        return
    finite = np.isfinite(values)
    if finite.all():
        return
    bad = np.argwhere(~finite) if finite.ndim else np.zeros((1, 0), int)
    first = tuple(int(i) for i in bad[0])
    where = ", ".join(f"{name} {i}" for name, i in zip(axes, first, strict=True)) if axes else str(first)
    raise problem(
        "BC501",
        path,
        expected="finite numbers",
        found=f"{len(bad)} of {values.size} NaN or Inf, the first at {where}",
        fix="record those samples again, or write 0 there and mark them in /measurement/mask"
        if path.startswith("/measurement/data")
        else "write numbers there",
    )


def read_text(stored: Stored) -> str:
    """The text of a dataset of one string."""
    if stored.kind != "str" or math.prod(stored.shape) != 1:
        raise problem(
            "BC205",
            stored.path,
            expected="one text",
            found=f"{stored.dtype_name} {stored.shape}",
            fix="write one string",
        )
    value = stored.load().ravel()[0]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8").rstrip("\x00")
        except UnicodeError as e:
            raise problem(
                "BC205",
                stored.path,
                expected="UTF-8 text",
                found="other bytes",
                fix="write the text as UTF-8",
            ) from e
    return str(value)


def as_names(value: Any) -> tuple[str, ...] | None:
    """A list of names: a list of str, or one str with names between commas, colons or blanks; else None."""
    if isinstance(value, str):
        return tuple(value.replace(",", " ").replace(":", " ").split())
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(v.strip() for v in value)
    return None


def as_kind(value: Any, kind: str) -> Any:
    """`value` as str, bool, float or tuple of str; None when it is something else."""
    if kind == "bool":
        return bool(value) if value in (True, False, 0, 1) else None
    if kind == "float":
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if kind == "strs":
        return as_names(value)
    return value if isinstance(value, str) else None


def quoted(value: object) -> str:
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, (tuple, list)) else repr(value)
