"""Every finding about a file, not only the first."""

from __future__ import annotations

import os

from data.calibrate import apply_calibration
from data.errors import DataFormatError
from data.findings import Finding, error
from data.hdf5 import FormatProblem, open_file
from data.head import format_of
from data.inspector import Inspector
from data.measurement_reader import inspect_measurement
from data.reconstruction_reader import inspect_reconstruction
from data.schema import MEASUREMENT


def validate(path: str | os.PathLike[str], *, deep: bool = False, allow_links: bool = False) -> list[Finding]:
    """Check a measurement or reconstruction file.

    Args:
        path: the file.
        deep: read all samples too: checksums, NaN and Inf, zero signal, calibration.
        allow_links: accept external links and virtual datasets.

    Returns:
        all findings in the order in which they were met; empty when there are none. Nothing is raised:
        a missing or broken file is a finding as well.
    """
    try:
        with open_file(path, allow_links=allow_links) as file:
            if format_of(Inspector(file, deep=False)) == MEASUREMENT:
                inspector, parts = inspect_measurement(file, deep=deep)
                if deep and not inspector.has_errors:
                    try:
                        apply_calibration(parts.measurement(()))
                    except DataFormatError as e:
                        inspector.findings.append(_calibration_finding(e))
                return inspector.findings
            return inspect_reconstruction(file, deep=deep)[0].findings
    except FormatProblem as e:
        return [e.finding]


def _calibration_finding(e: DataFormatError) -> Finding:
    return error(
        "BC505",
        "/calibration",
        expected="a calibration that fits the data and leaves a signal",
        found=str(e),
        fix="correct /calibration, or read with calibrate=False",
    )
