"""The root attributes that both files share, and which of the two a file is."""

from __future__ import annotations

import datetime
import difflib
import os
from pathlib import Path
from typing import Any

from data.hdf5 import FormatProblem, attribute, open_file, problem
from data.inspector import Inspector
from data.schema import FORMAT_VERSION, MEASUREMENT, MODALITIES, RECONSTRUCTION, Attr

_KINDS = {MEASUREMENT: "measurement", RECONSTRUCTION: "reconstruction"}


def open_kind(path: str | os.PathLike[str]) -> str:
    """Which of the two files `path` is: "measurement", foreign ones included, or "reconstruction".

    Raises:
        DataFormatError: not readable, not HDF5, or neither of the two.
    """
    from data.convert.detect import foreign

    if foreign(Path(path)) is not None:
        return "measurement"
    try:
        # Links are not followed here; whoever reads on decides about them.
        with open_file(path, allow_links=True) as file:
            return _KINDS[format_of(Inspector(file, deep=False))]
    except FormatProblem as e:
        raise e.finding.raised(path) from e


def format_of(inspector: Inspector) -> str:
    """The value of the root attribute `format`.

    Raises:
        FormatProblem: none of the two.
    """
    value = attribute(inspector.file, "/", "format")
    if not isinstance(value, str) or value not in _KINDS:
        raise problem(
            "BC112",
            "/@format",
            expected=f"{MEASUREMENT!r} or {RECONSTRUCTION!r}",
            found="no such attribute" if value is None else repr(value),
            fix="write the root attributes of docs/formats.md; a foreign file needs a converter of its own",
        )
    return value


def read_head(inspector: Inspector, wanted: str, rules: tuple[Attr, ...]) -> tuple[str | None, dict[str, Any]]:
    """Check format, version and modality and read the other root attributes.

    Returns:
        the modality, None when it is missing or unknown, and the attributes that are there.

    Raises:
        FormatProblem: another format or a version that cannot be read: nothing else in the file has a
            known meaning then.
    """
    found = format_of(inspector)
    if found != wanted:
        raise problem(
            "BC114",
            "/@format",
            expected=repr(wanted),
            found=repr(found),
            fix="name a measurement file" if wanted == MEASUREMENT else "name a reconstruction file",
        )
    version = attribute(inspector.file, "/", "format_version")
    if version is None:
        raise problem(
            "BC202",
            "/@format_version",
            expected=repr(FORMAT_VERSION),
            found="no such attribute",
            fix=f"write format_version={FORMAT_VERSION!r}",
        )
    inspector.check_version(str(version))
    modality = None
    with inspector.collecting():
        value = attribute(inspector.file, "/", "modality")
        if value not in MODALITIES:
            near = difflib.get_close_matches(str(value), MODALITIES, n=1)
            raise problem(
                "BC202" if value is None else "BC203",
                "/@modality",
                expected=" or ".join(map(repr, MODALITIES)),
                found="no such attribute" if value is None else repr(value),
                fix=f"write modality={near[0]!r} if that is meant" if near else "write one of the expected names",
            )
        modality = str(value)
    attrs = {rule.name: inspector.attr(inspector.file, "/", rule) for rule in rules}
    attrs = {name: value for name, value in attrs.items() if value is not None}
    if "file_time" in attrs and not has_offset(attrs["file_time"]):
        inspector.warning(
            "BC905",
            "/@file_time",
            expected="ISO 8601 with offset, e.g. '2026-11-23T12:00:00+00:00'",
            found=repr(attrs["file_time"]),
            fix="write the offset from UTC too",
        )
    return modality, {"format_version": str(version), **attrs}


def has_offset(time: str) -> bool:
    """Whether `time` is ISO 8601 with an offset from UTC."""
    try:
        return datetime.datetime.fromisoformat(time).tzinfo is not None
    except ValueError:
        return False
