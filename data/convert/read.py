"""Any file as a measurement: our own, or a foreign one as the converted file would read."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import h5py

from data.calibrate import apply_calibration
from data.convert.detect import foreign
from data.convert.mapping import memory_file
from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.hashing import sha256
from data.hdf5 import FormatProblem
from data.measurement import Measurement
from data.measurement_reader import inspect_measurement, read_measurement
from data.measurement_writer import fill_measurement


def read(
    path: str | os.PathLike[str],
    *,
    options: ConvertOptions | None = None,
    calibrate: bool = True,
    allow_links: bool = False,
) -> Measurement:
    """Read a measurement file, or a foreign file as if it had been converted before.

    Args:
        path: the file; what a foreign one leaves open is in the TOML beside it (docs/formats.md).
        options: what it leaves open, on top of that TOML.
        calibrate: apply what /calibration holds.
        allow_links: follow external links and virtual datasets.

    Raises:
        DataFormatError: a file that cannot be read or converted, in one sentence.
    """
    source = Path(path)
    kind = foreign(source, allow_links=allow_links)
    if kind is None:
        return read_measurement(path, calibrate=calibrate, allow_links=allow_links)
    with converted(source, kind.kind, options, allow_links=allow_links) as (file, warnings):
        inspector, parts = inspect_measurement(file, deep=True)
        for finding in inspector.findings:
            if finding.severity == "error":
                raise finding.raised(source)
        found = tuple(finding.sentence(source) for finding in inspector.findings)
        m = parts.measurement((*warnings, *found))
    if not calibrate:
        return m
    try:
        return apply_calibration(m)
    except DataFormatError as e:
        raise DataFormatError(f"{source}: {e}") from e


@contextlib.contextmanager
def converted(
    source: Path, kind: str | None = None, options: ConvertOptions | None = None, *, allow_links: bool = False
) -> Iterator[tuple[h5py.File, tuple[str, ...]]]:
    """A foreign file as a measurement file in memory, and what the converter has to say."""
    from data.convert import convert

    if allow_links:
        options = dataclasses.replace(options or ConvertOptions(), allow_links=True)
    m = convert(source, options, kind=kind)
    # Equal files are equal measurements.
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"backcast-foreign/{sha256(source)}"))
    m = dataclasses.replace(m, attrs={**m.attrs, "uuid": identity})
    with memory_file() as file:
        try:
            fill_measurement(file, m)
            warnings = m.warnings
            del m  # the samples are in memory once, and once more when they are read
            yield file, warnings
        except FormatProblem as e:
            raise e.finding.raised(source) from e
