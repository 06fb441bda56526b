"""Walks one open file along the tables of `data.schema` and collects what is wrong."""

from __future__ import annotations

import difflib
import math
import posixpath
from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

from data import findings as _findings
from data.findings import Finding
from data.hdf5 import FormatProblem, attribute, attribute_names, find_group, names_in, problem
from data.measurement import Array, Scale
from data.schema import FORMAT_VERSION, Attr, Entry, ScaleRule
from data.stored import Stored, check_readable, find_dataset
from data.units import UnitError, si_unit, to_si
from data.values import as_kind, cast, check_finite, check_kind, describe, match_shape, quoted, read_text

# Attributes that belong to HDF5, NeXus or the layout and are read elsewhere.
_STRUCTURAL = {
    "NX_class",
    "signal",
    "axes",
    "default",
    "auxiliary_signals",
    "CLASS",
    "NAME",
    "DIMENSION_LIST",
    "DIMENSION_LABELS",
    "REFERENCE_LIST",
    "units",
    "long_name",
    "description",
    "complex_layout",
    "target",
}


class _Collecting:
    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, e: BaseException | None, trace: object) -> bool:
        if not isinstance(e, FormatProblem):
            return False
        self.findings.append(e.finding)
        return True


class Inspector:
    """Collects findings while it reads one file.

    Args:
        file: open for reading.
        deep: read samples as well, not only shapes, units and geometry.
    """

    def __init__(self, file: h5py.File, *, deep: bool) -> None:
        self.file = file
        self.deep = deep
        self.findings: list[Finding] = []

    # -- reporting ------------------------------------------------------------------------------

    def error(self, code: str, path: str, *, expected: str, found: str, fix: str) -> None:
        """Report an error and go on."""
        self.findings.append(_findings.error(code, path, expected=expected, found=found, fix=fix))

    def warning(self, code: str, path: str, *, expected: str, found: str, fix: str) -> None:
        """Report a warning."""
        self.findings.append(_findings.warning(code, path, expected=expected, found=found, fix=fix))

    @property
    def has_errors(self) -> bool:
        """Whether any error was found so far."""
        return any(f.severity == "error" for f in self.findings)

    def collecting(self) -> _Collecting:
        """A block whose FormatProblem becomes a finding; the code goes on behind it."""
        return _Collecting(self.findings)

    # -- groups and attributes ------------------------------------------------------------------

    def group(self, path: str, *, required: bool) -> h5py.Group | None:
        """The group at `path`; None (and an error when `required`) where there is none."""
        with self.collecting():
            found = find_group(self.file, path)
            if found is None and required:
                raise problem(
                    "BC201",
                    path,
                    expected="a group",
                    found="nothing",
                    fix=f"write the group {path} (see docs/formats.md)",
                )
            return found
        return None

    def attr(self, obj: h5py.Group | h5py.Dataset, path: str, rule: Attr) -> Any:
        """The attribute's value after all checks; None where it is missing or wrong."""
        with self.collecting():
            return self._checked_attr(obj, path, rule)
        return None

    def _checked_attr(self, obj: h5py.Group | h5py.Dataset, path: str, rule: Attr) -> Any:
        here = f"{path}@{rule.name}"
        value = attribute(obj, path, rule.name)
        expected = " or ".join(quoted(v) for v in rule.allowed) or {"strs": "a list of names"}.get(rule.kind, rule.kind)
        if value in (None, "", []):
            if rule.required == "yes":
                raise problem("BC202", here, expected=expected, found="no such attribute", fix=f"write {here}")
            if rule.required == "should":
                self.warning("BC903", here, expected=expected, found="no such attribute", fix=f"write {here}")
            return None
        value = dict(rule.aliases).get(value, value) if isinstance(value, str) else value
        converted = as_kind(value, rule.kind)
        if converted is None or (rule.allowed and converted not in rule.allowed):
            near = difflib.get_close_matches(str(value), [str(v) for v in rule.allowed], n=1)
            fix = f"write {near[0]!r} if that is meant" if near else "write one of the expected values"
            raise problem(
                "BC203",
                here,
                expected=expected,
                found=quoted(value),
                fix=fix if rule.allowed else f"write a {rule.kind}",
            )
        return converted

    def unknown_names(self, path: str, known: Iterable[str], known_attrs: Iterable[str] = ()) -> None:
        """Warn of members and attributes that the format does not know: they are most often typing errors."""
        with self.collecting():
            group = find_group(self.file, path)
            if group is None:
                return
            stored = {name.removesuffix(end) for name in known for end in ("", "_real", "_imag")} | set(known)
            for found, allowed, mark in (
                (names_in(group, path), stored, "/"),
                (attribute_names(group, path), set(known_attrs) | _STRUCTURAL, "@"),
            ):
                for name in found:
                    base = name.removesuffix("_real").removesuffix("_imag")
                    if name in allowed or base in allowed:
                        continue
                    near = difflib.get_close_matches(name, allowed - _STRUCTURAL, n=1)
                    self.warning(
                        "BC902",
                        posixpath.join(path, name) if mark == "/" else f"{path}@{name}",
                        expected=f"{near[0]!r}" if near else "a name of the format",
                        found=f"{name!r}, which is ignored",
                        fix="rename it if that is meant, or put your own things into a group of your own",
                    )

    # -- the head of a file ---------------------------------------------------------------------

    def check_version(self, version: str) -> None:
        """Refuse a higher major version, accept a higher minor one with a warning."""
        major, _, minor = version.partition(".")
        supported = [int(part) for part in FORMAT_VERSION.split(".")]
        if not (major.isdecimal() and (minor or "0").isdecimal()):
            raise problem(
                "BC113",
                "/@format_version",
                expected=f"a version like {FORMAT_VERSION!r}",
                found=repr(version),
                fix=f"write format_version={FORMAT_VERSION!r}",
            )
        if int(major) != supported[0]:
            raise problem(
                "BC113",
                "/@format_version",
                expected=f"version {supported[0]}.x",
                found=repr(version),
                fix="upgrade backcast to read this file" if int(major) > supported[0] else "write the file again",
            )
        if int(minor or 0) > supported[1]:
            self.warning(
                "BC901",
                "/@format_version",
                expected=f"at most {FORMAT_VERSION!r}",
                found=repr(version),
                fix="upgrade backcast to see everything that this file holds",
            )

    # -- arrays ---------------------------------------------------------------------------------

    def dataset(self, path: str, *, required: bool, expected: str = "a dataset") -> Stored | None:
        """The dataset at `path`, with its filters and extent checked; None after a finding."""
        with self.collecting():
            stored = find_dataset(self.file, path)
            if stored is None:
                if required:
                    raise problem("BC201", path, expected=expected, found="nothing", fix=f"write {path}")
                return None
            check_readable(stored)
            return stored
        return None

    def units(self, stored: Stored, wanted: tuple[str, ...], *, required: bool = True) -> str | None:
        """The units attribute as written, checked against `wanted`; None where it is missing or wrong.

        Where units are not `required` (a number without a dimension), missing ones are "1", with a warning.
        """
        path = f"{stored.path}@units"
        with self.collecting():
            text = attribute(stored.attrs_of, stored.path, "units")
            expected = "units of " + " or ".join(repr(u) for u in wanted)
            if text in (None, "", []):
                if required:
                    raise problem("BC401", path, expected=expected, found="no units", fix=f"write units={wanted[0]!r}")
                self.warning(
                    "BC903",
                    path,
                    expected=expected,
                    found="no units, taken as '1'",
                    fix=f"write units={wanted[0]!r}",
                )
                return "1"
            if not isinstance(text, str):
                raise problem("BC402", path, expected=expected, found=repr(text), fix="write units as text")
            try:
                to_si(0.0, text, wanted=wanted)
            except UnitError as e:
                fits = e.nearest is not None and si_unit(e.nearest) in wanted
                hint = f"write {e.nearest!r} if that is meant" if fits else f"convert to {wanted[0]!r}"
                raise problem(
                    "BC403" if e.known else "BC402", path, expected=expected, found=repr(text), fix=hint
                ) from e
            return text
        return None

    def scale(self, path: str, rule: ScaleRule, length: int | None) -> Scale | None:
        """The coordinates of one axis; `length` is what the data have, None when that is unknown."""
        stored = self.dataset(path, required=True, expected=f"the coordinates of that axis in {rule.units!r}")
        if stored is None:
            return None
        units = self.units(stored, (rule.units,), required=not rule.index)
        with self.collecting():
            # MATLAB has no vectors: (n, 1) and (1, n) are meant as n values.
            if math.prod(stored.shape) != max(stored.shape, default=1) or stored.kind not in ("float", "int"):
                raise problem(
                    "BC304",
                    path,
                    expected="a one-dimensional array of real numbers",
                    found=f"{stored.shape} {stored.dtype_name}",
                    fix="write one value per sample along the axis",
                )
            n = math.prod(stored.shape)
            if length is not None and n != length:
                raise problem(
                    "BC303",
                    path,
                    expected=f"{length} values, as the data have along this axis",
                    found=str(n),
                    fix="check `axes`: it names the dimensions in HDF5 (C) order, which MATLAB reverses",
                )
            if n == 0:
                raise problem("BC305", path, expected="at least one value", found="none", fix="record some samples")
            values = to_si(stored.load().ravel(), units or rule.units, wanted=rule.units)[0]
            values = cast(values, "i4" if rule.index else "f8", path)
            self._check_values(values, path, rule)
            long_name = attribute(stored.attrs_of, path, "long_name")
            return Scale(values=values, units=rule.units, long_name=long_name if isinstance(long_name, str) else "")
        return None

    def _check_values(self, values: Array, path: str, rule: ScaleRule) -> None:
        check_finite(values, path)
        if rule.positive and not (values > 0).all():
            i = int(np.flatnonzero(~(values > 0))[0])
            raise problem(
                "BC505",
                path,
                expected="values > 0",
                found=f"{values[i]:g} {rule.units} at index {i}",
                fix="check the values and their units",
            )
        if rule.increasing and values.size > 1:
            steps = np.diff(values)
            if not (steps > 0).all():
                i = int(np.flatnonzero(~(steps > 0))[0])
                word = "the duplicate" if steps[i] == 0 else "the step back to"
                raise problem(
                    "BC502",
                    path,
                    expected="strictly increasing values",
                    found=f"{word} {values[i + 1]:.9g} {rule.units} at index {i + 1}",
                    fix="sort this axis and the data along it, and keep each value once",
                )

    def entry(
        self, group: str, entry: Entry, sizes: dict[str, int]
    ) -> tuple[Array | str | float | None, dict[str, Any]]:
        """One dataset of a table: its value in SI and its attributes; (None, {}) where missing or wrong.

        `sizes` holds the lengths known so far and is extended by what this shape tells.
        """
        path = f"{group}/{entry.name}"
        stored = self.dataset(path, required=entry.required, expected=describe(entry))
        if stored is None:
            return None, {}
        attrs = {rule.name: self.attr(stored.attrs_of, path, rule) for rule in entry.attrs}
        attrs = {name: value for name, value in attrs.items() if value is not None}
        with self.collecting():
            if entry.dtype == "str":
                return read_text(stored), attrs
            check_kind(stored, entry.dtype)
            shape = match_shape(stored, entry.shapes, sizes)
            units = self.units(stored, entry.units, required=entry.units != ("1",)) if entry.units else "1"
            if entry.heavy and not self.deep:
                return None, attrs
            values = cast(stored.load().reshape(shape), entry.dtype, path)
            if units is None:
                return None, attrs
            if entry.units:
                values, si = to_si(values, units, wanted=entry.units)
                if len(entry.units) > 1:
                    attrs[f"{entry.name}_units"] = si
            check_finite(values, path)
            if entry.positive and not (values > 0).all():
                raise problem(
                    "BC505",
                    path,
                    expected="values > 0",
                    found=f"{values.min():g}",
                    fix="check the value and its units",
                )
            return (values if shape else values.item()), attrs
        return None, attrs
