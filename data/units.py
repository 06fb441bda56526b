"""Unit spellings that UDunits and pint share, and their SI values."""

from __future__ import annotations

import difflib
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A factor is kept as (numerator, denominator): 85 mm / 1000 is the double nearest to 0.085, 85 * 1e-3 is not.
_Factor = tuple[float, float]

_PREFIXES: dict[str, tuple[str, _Factor]] = {
    "": ("", (1, 1)),
    "p": ("pico", (1, 1e12)),
    "n": ("nano", (1, 1e9)),
    "u": ("micro", (1, 1e6)),
    "µ": ("micro", (1, 1e6)),  # U+00B5, the micro sign
    "μ": ("micro", (1, 1e6)),  # U+03BC, the Greek letter
    "m": ("milli", (1, 1e3)),
    "c": ("centi", (1, 1e2)),
    "k": ("kilo", (1e3, 1)),
    "M": ("mega", (1e6, 1)),
    "G": ("giga", (1e9, 1)),
    "T": ("tera", (1e12, 1)),
}
_BASES: dict[str, tuple[str, ...]] = {
    "m": ("meter", "metre", "meters", "metres"),
    "s": ("second", "seconds", "sec"),
    "Hz": ("hertz",),
    "V": ("volt", "volts"),
    "W": ("watt", "watts"),
    "T": ("tesla",),
    "rad": ("radian", "radians"),
    "B": ("byte", "bytes"),
}
_OTHERS: dict[str, tuple[str, _Factor]] = {
    **dict.fromkeys(("1", "dimensionless", "count", "counts"), ("1", (1, 1))),
    **dict.fromkeys(("deg", "degree", "degrees", "°", "arc_degree", "angular_degree"), ("rad", (math.pi, 180))),
    **dict.fromkeys(("dB", "decibel", "decibels"), ("dB", (1, 1))),
    **dict.fromkeys(("in", "inch", "inches"), ("m", (0.0254, 1))),
    **dict.fromkeys(("micron", "microns"), ("m", (1, 1e6))),
    **dict.fromkeys(("min", "minute", "minutes"), ("s", (60, 1))),
    **dict.fromkeys(("h", "hr", "hour", "hours"), ("s", (3600, 1))),
    **dict.fromkeys(("KiB", "kibibyte"), ("B", (2**10, 1))),
    **dict.fromkeys(("MiB", "mebibyte"), ("B", (2**20, 1))),
    **dict.fromkeys(("GiB", "gibibyte"), ("B", (2**30, 1))),
}


def _table() -> dict[str, tuple[str, _Factor]]:
    table: dict[str, tuple[str, _Factor]] = {}
    for base, long_names in _BASES.items():
        for short, (long, factor) in _PREFIXES.items():
            table[short + base] = (base, factor)
            table.update({long + name: (base, factor) for name in long_names})
    table.update(_OTHERS)
    return table


_TABLE = _table()


class UnitError(ValueError):
    """A unit that is not known (`nearest` may name one that is), or one of another kind."""

    def __init__(self, message: str, *, known: bool, nearest: str | None = None) -> None:
        super().__init__(message)
        self.known = known
        self.nearest = nearest


def si_unit(units: str) -> str:
    """The SI unit of the same kind: "mm" -> "m", "MHz" -> "Hz", "deg" -> "rad", "1" -> "1".

    Raises:
        UnitError: a spelling that is not known.
    """
    return _look_up(units)[0]


def to_si(values: Any, units: str, *, wanted: str | tuple[str, ...]) -> tuple[NDArray[Any], str]:
    """Convert `values` from `units` to SI.

    Args:
        values: numbers; float32 stays float32, integers become float64 unless the factor is 1.
        units: a spelling of UDunits or pint: "mm", "GHz", "degrees", "m s-1", "1/cm".
        wanted: the SI unit that is expected, or several that are allowed.

    Returns:
        the converted values (the same array when the factor is 1) and the SI unit.

    Raises:
        UnitError: a spelling that is not known, or a unit of another kind than `wanted`.
    """
    si, (top, bottom) = _look_up(units)
    allowed = (wanted,) if isinstance(wanted, str) else wanted
    if si not in allowed:
        raise UnitError(f"{units!r} is a unit of {si!r}, not of {' or '.join(map(repr, allowed))}", known=True)
    array = np.asarray(values)
    if top == bottom:
        return array, si
    # Python floats leave float32 arrays float32.
    return (array * float(top) if top != 1 else array) / float(bottom), si


_NAME = r"([^\W\d_]+|°)"
_INVERSE = re.compile(rf"(?:1\s*/\s*{_NAME}|{_NAME}\s*(?:\^|\*\*)?\s*-1)")
_RATIO = re.compile(rf"{_NAME}(?:\s*/\s*{_NAME}|\s*[ .*]\s*{_NAME}\s*(?:\^|\*\*)?\s*-1)")
_INVERSES = {"m": "1/m", "s": "Hz"}


def _look_up(units: str) -> tuple[str, _Factor]:
    name = units.strip()
    if name in _TABLE:
        return _TABLE[name]
    if match := _INVERSE.fullmatch(name):
        si, (top, bottom) = _TABLE.get(match[1] or match[2], ("", (1, 1)))
        if si in _INVERSES:
            return _INVERSES[si], (bottom, top)
    if match := _RATIO.fullmatch(name):
        si, (top, bottom) = _TABLE.get(match[1], ("", (1, 1)))
        per, (per_top, per_bottom) = _TABLE.get(match[2] or match[3], ("", (1, 1)))
        if (si, per) == ("m", "s"):
            return "m/s", (top * per_bottom, bottom * per_top)
    lowered = {known.lower(): known for known in reversed(_TABLE)}
    near = difflib.get_close_matches(name, _TABLE, n=1, cutoff=0.5)
    nearest = lowered.get(name.lower()) or (near[0] if near else None)
    raise UnitError(f"{units!r} is not a known unit", known=False, nearest=nearest)
