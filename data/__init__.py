"""The files and what they hold: measurements, reconstructions, checks, phantoms, simulators.

Only numpy and h5py are imported here, and those when the first name is used; `data.simulate` and
`data.phantoms` bring torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import imaging  # noqa: F401  (the shadowing guard)

if TYPE_CHECKING:
    from data.calibrate import apply_calibration
    from data.convert.read import read
    from data.errors import DataFormatError, DataWriteError
    from data.findings import CODES, Finding, render_findings
    from data.hashing import sha256
    from data.head import open_kind
    from data.measurement import GridSpec, Measurement, NamedArray, Scale, Volume
    from data.measurement_reader import read_measurement, read_measurement_head
    from data.measurement_writer import write_measurement
    from data.reconstruction import Convergence, Metric, Reconstruction
    from data.reconstruction_reader import read_reconstruction
    from data.reconstruction_writer import write_reconstruction
    from data.summary import render_summary, summarise
    from data.validation import validate

_HOMES = {
    "CODES": "findings",
    "Convergence": "reconstruction",
    "DataFormatError": "errors",
    "DataWriteError": "errors",
    "Finding": "findings",
    "GridSpec": "measurement",
    "Measurement": "measurement",
    "Metric": "reconstruction",
    "NamedArray": "measurement",
    "Reconstruction": "reconstruction",
    "Scale": "measurement",
    "Volume": "measurement",
    "apply_calibration": "calibrate",
    "open_kind": "head",
    "read": "convert.read",
    "read_measurement": "measurement_reader",
    "read_measurement_head": "measurement_reader",
    "read_reconstruction": "reconstruction_reader",
    "render_findings": "findings",
    "render_summary": "summary",
    "sha256": "hashing",
    "summarise": "summary",
    "validate": "validation",
    "write_measurement": "measurement_writer",
    "write_reconstruction": "reconstruction_writer",
}

__all__ = [
    "CODES",
    "Convergence",
    "DataFormatError",
    "DataWriteError",
    "Finding",
    "GridSpec",
    "Measurement",
    "Metric",
    "NamedArray",
    "Reconstruction",
    "Scale",
    "Volume",
    "apply_calibration",
    "open_kind",
    "read",
    "read_measurement",
    "read_measurement_head",
    "read_reconstruction",
    "render_findings",
    "render_summary",
    "sha256",
    "summarise",
    "validate",
    "write_measurement",
    "write_reconstruction",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"data.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
