"""What a check of a file has found: a code that stays, a path, expected, found, and a fix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import DataFormatError

CODES = {
    # the container
    "BC101": "no such file",
    "BC102": "not a regular file",
    "BC103": "unreadable: permission, or a lock held by a writer",
    "BC104": "empty file",
    "BC105": "not HDF5",
    "BC106": "truncated",
    "BC107": "damaged structure",
    "BC108": "samples fail their checksum or cannot be decoded",
    "BC109": "compression filter missing",
    "BC110": "link out of the file: external link, virtual or external dataset",
    "BC111": "samples declared but not stored",
    "BC112": "not in a format of backcast",
    "BC113": "version not supported",
    "BC114": "the other kind of file",
    "BC115": "does not fit into memory",
    "BC116": "foreign file that cannot be converted",
    # names and types
    "BC201": "missing group or dataset",
    "BC202": "missing attribute",
    "BC203": "attribute with a value that is not allowed",
    "BC204": "group where a dataset belongs, or the reverse",
    "BC205": "wrong kind of numbers",
    "BC206": "complex layout not understood",
    # axes and shapes
    "BC301": "wrong axis names",
    "BC302": "as many axis names as dimensions are needed",
    "BC303": "scale of another length than its axis",
    "BC304": "wrong shape",
    "BC305": "empty axis: no antennas, no frequencies, no samples",
    # units
    "BC401": "units missing",
    "BC402": "units not known",
    "BC403": "units of another kind",
    # values
    "BC501": "NaN or Inf",
    "BC502": "not strictly increasing",
    "BC503": "zero signal",
    "BC504": "antenna inside the voxel grid",
    "BC505": "value out of range",
    "BC506": "index out of range",
    # warnings
    "BC901": "written by a newer minor version",
    "BC902": "name not known, ignored",
    "BC903": "recommended, but missing",
    "BC904": "precision reduced on reading",
    "BC905": "unusual, but readable",
    "BC906": "not said by a foreign file",
}


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Args:
        code: stable, one of CODES.
        severity: "error" (the file is refused) or "warning".
        path: HDF5 path; "/group@name" is an attribute, "/" the file itself.
        expected, found, fix: words; `fix` says what to do.
    """

    code: str
    severity: str
    path: str
    expected: str
    found: str
    fix: str

    def sentence(self, file: str | os.PathLike[str]) -> str:
        """All of it in one sentence that names the file."""
        what = f"{self.path}: expected {self.expected}, found {self.found}"
        return f"{os.fspath(file)}: {what}; {self.fix} ({self.code})"

    def raised(self, file: str | os.PathLike[str]) -> DataFormatError:
        """The finding as the error to raise."""
        return DataFormatError(self.sentence(file), self)


def error(code: str, path: str, *, expected: str, found: str, fix: str) -> Finding:
    """A Finding of severity "error"."""
    return Finding(code, "error", path, expected, found, fix)


def warning(code: str, path: str, *, expected: str, found: str, fix: str) -> Finding:
    """A Finding of severity "warning"."""
    return Finding(code, "warning", path, expected, found, fix)


def render_findings(findings: Sequence[Finding]) -> str:
    """Findings as plain text, errors first, four lines each; "no findings" when there are none."""
    if not findings:
        return "no findings"
    ordered = sorted(findings, key=lambda f: f.severity != "error")
    blocks = [
        f"{f.severity} {f.code}  {f.path}\n  expected  {f.expected}\n  found     {f.found}\n  fix       {f.fix}"
        for f in ordered
    ]
    n_errors = sum(f.severity == "error" for f in findings)
    return "\n".join([*blocks, f"{count_of(n_errors, 'error')}, {count_of(len(findings) - n_errors, 'warning')}"])


def count_of(n: int, word: str) -> str:
    """ "1 error", "2 errors"."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
