"""Every finding about a file, not only the first."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from data.calibrate import apply_calibration
from data.convert.detect import foreign
from data.errors import DataFormatError
from data.findings import Finding, error, warning
from data.hdf5 import FormatProblem, open_file
from data.head import format_of
from data.inspector import Inspector
from data.measurement_reader import inspect_measurement
from data.reconstruction_reader import inspect_reconstruction
from data.schema import MEASUREMENT


def validate(path: str | os.PathLike[str], *, deep: bool = False, allow_links: bool = False) -> list[Finding]:
    """Check a measurement or reconstruction file, or what a foreign file becomes.

    Args:
        path: the file.
        deep: read all samples too: checksums, NaN and Inf, zero signal, calibration.
        allow_links: accept external links and virtual datasets.

    Returns:
        all findings in the order in which they were met; empty when there are none. Nothing is raised:
        a missing or broken file is a finding as well.
    """
    try:
        if foreign(Path(path), allow_links=allow_links) is not None:
            return _validate_foreign(Path(path), deep=deep, allow_links=allow_links)
        with open_file(path, allow_links=allow_links) as file:
            if format_of(Inspector(file, deep=False)) == MEASUREMENT:
                return _measurement(file, deep)
            return inspect_reconstruction(file, deep=deep)[0].findings
    except FormatProblem as e:
        return [e.finding]
    except DataFormatError as e:
        return [e.finding or _conversion_finding(e)]


def _measurement(file: h5py.File, deep: bool) -> list[Finding]:
    inspector, parts = inspect_measurement(file, deep=deep)
    if deep and not inspector.has_errors:
        try:
            apply_calibration(parts.measurement(()))
        except DataFormatError as e:
            inspector.findings.append(_calibration_finding(e))
    return inspector.findings


def _validate_foreign(path: Path, *, deep: bool, allow_links: bool) -> list[Finding]:
    """The findings on what a foreign file becomes, and what its converter has to say."""
    from data.convert.read import converted

    with converted(path, allow_links=allow_links) as (file, notes):
        said = [
            warning(
                "BC906",
                "/",
                expected="all of a measurement",
                found=note.removeprefix(f"{path.name}: "),
                fix="see docs/formats.md on foreign files",
            )
            for note in notes
        ]
        return said + _measurement(file, deep)


def _conversion_finding(e: DataFormatError) -> Finding:
    return error(
        "BC116",
        "/",
        expected="a foreign file that can be converted",
        found=str(e),
        fix="give what is missing in a TOML beside the file; see docs/formats.md on foreign files",
    )


def _calibration_finding(e: DataFormatError) -> Finding:
    return error(
        "BC505",
        "/calibration",
        expected="a calibration that fits the data and leaves a signal",
        found=str(e),
        fix="correct /calibration, or read with calibrate=False",
    )
