"""The TOML beside a foreign file that says what the file itself leaves open.

`scan.mat.toml` belongs to `scan.mat`; `mapping.toml` to all MATLAB and NumPy files of its folder that have none of
their own. It holds a mapping (`data.convert.mapping`), or a table [options] with the options of ``backcast convert``,
or both.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.convert.options import OPTION_NAMES, ConvertOptions
from data.errors import DataFormatError

#: The file that serves a whole folder, and whom.
FOLDER_MAPPING = "mapping.toml"
MAPPED = (".mat", ".npy", ".npz")
#: Options that name further files (BART), which must lie below the folder of the TOML.
_FILES = ("trajectory", "maps", "mask")
#: A mapping is a page of text.
_MOST_BYTES = 2**20


def sidecar_of(source: Path) -> Path | None:
    """The TOML that belongs to a file, None where there is none."""
    own = source.with_name(source.name + ".toml")
    if own.is_file():
        return own
    shared = source.with_name(FOLDER_MAPPING)
    return shared if source.suffix in MAPPED and shared.is_file() else None


def read_sidecar(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Format (None where it is not named) and options of a TOML.

    Raises:
        DataFormatError: unreadable, no TOML, or keys that are none.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataFormatError(f"{path}: expected a mapping of at most {_MOST_BYTES} bytes")
        with path.open("rb") as stream:
            tables = tomllib.load(stream)
    except OSError as e:
        raise DataFormatError(f"{path}: expected a mapping file, found: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, RecursionError) as e:
        raise DataFormatError(f"{path}: expected TOML, found a mistake: {str(e).splitlines()[0][:160]}") from e
    kind = tables.get("format")
    if kind is not None and not isinstance(kind, str):
        raise DataFormatError(f"{path}: format: expected a text, got {kind!r}")
    given = tables.get("options", {})
    if not isinstance(given, dict):
        raise DataFormatError(f"{path}: options: expected a table [options], got {given!r}")
    options = {OPTION_NAMES[name]: _value(path, name, value) for name, value in _known(path, given)}
    for name in _FILES if kind == "bart" or not tables.get("modality") else ():
        if name in options:
            options[name] = _inside(path, name, options[name])
    if "modality" in tables:
        options["mapping"] = tables
    elif strangers := sorted(set(tables) - {"format", "options"}):
        raise DataFormatError(
            f"{path}: {strangers[0]}: expected format and [options], or a mapping; add modality for a mapping"
        )
    return kind, options


def merged(options: Mapping[str, Any], given: ConvertOptions | None) -> ConvertOptions:
    """Options of a TOML, those given in a call on top.

    Raises:
        DataFormatError: a value that makes no sense.
    """
    values = dict(options)
    if given is not None:
        for field in dataclasses.fields(given):
            value = getattr(given, field.name)
            if value != field.default:
                values[field.name] = value
    return ConvertOptions(**values)


def _known(path: Path, given: dict[str, Any]) -> list[tuple[str, Any]]:
    for name in given:
        if name not in OPTION_NAMES:
            raise DataFormatError(f"{path}: options.{name}: expected one of {', '.join(OPTION_NAMES)}")
    return list(given.items())


def _value(path: Path, name: str, value: Any) -> Any:
    """Of the type that the option has."""
    numbers = {"field_of_view": 3, "matrix": 3, "pixel_size": 2}
    if name in numbers:
        kind = int if name == "matrix" else (int, float)
        fits = isinstance(value, list) and len(value) == numbers[name]
        if not fits or not all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
            raise DataFormatError(f"{path}: options.{name}: expected {numbers[name]} numbers, got {value!r}")
        return tuple(value)
    if name == "axes":
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise DataFormatError(f"{path}: options.axes: expected a list of names, got {value!r}")
        return tuple(value)
    wanted: Any = {
        **dict.fromkeys(("fft_centered", "allow_links"), bool),
        "fft_sign": int,
        **dict.fromkeys(("frame_interval", "center", "source_to_origin", "origin_to_detector"), (int, float)),
    }.get(name, str)
    if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
        words = {str: "a text", bool: "true or false", int: "a whole number"}.get(wanted, "a number")
        raise DataFormatError(f"{path}: options.{name}: expected {words}, got {value!r}")
    return float(value) if isinstance(wanted, tuple) else value


def _inside(path: Path, name: str, value: str) -> str:
    """A file below the TOML's folder; the name as it is where it is a variable."""
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise DataFormatError(
            f"{path}: options.{name}: expected a file below the folder of this TOML, got {value!r}; copy it there"
        )
    there = path.parent / value
    if any(there.with_name(there.name + suffix).is_file() for suffix in ("", ".cfl")):
        if not there.resolve().is_relative_to(path.parent.resolve()):
            raise DataFormatError(f"{path}: options.{name}: expected a file below this folder, found a link out of it")
        return str(there)
    return value
