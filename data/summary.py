"""What a file holds, in a table for people and a dict for programs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.convert.detect import Foreign, foreign
from data.findings import count_of
from data.hdf5 import FormatProblem, open_file
from data.head import format_of
from data.inspector import Inspector
from data.measurement import Array, Scale
from data.measurement_parts import MeasurementParts
from data.measurement_reader import inspect_measurement
from data.reconstruction_reader import ReconstructionParts, inspect_reconstruction
from data.schema import MEASUREMENT


def summarise(path: str | os.PathLike[str], *, allow_links: bool = False) -> dict[str, Any]:
    """The head of a file as plain JSON types; samples are not read, except to convert a foreign file.

    Returns:
        kind, path, file_bytes, modality, format_version, attrs, shape, axes (per axis: n, first, last, units),
        dtype, units, quantity, geometry, acquisition, grid, calibration, ground_truth, metrics, convergence,
        provenance, n_errors, n_warnings, findings, as far as the file has them.

    Raises:
        DataFormatError: the file cannot be opened, is of no format of ours or of a version that is not known.
    """
    other = foreign(Path(path), allow_links=allow_links)
    head: dict[str, Any] = {} if other is None else {"converted_from": other.kind}
    try:
        with _opened(Path(path), other, allow_links) as file:
            summary: dict[str, Any]
            if format_of(Inspector(file, deep=False)) == MEASUREMENT:
                inspector, parts = inspect_measurement(file, deep=False)
                summary = {"kind": "measurement", **_measurement(parts)}
            else:
                inspector, volume_parts = inspect_reconstruction(file, deep=False)
                summary = {"kind": "reconstruction", **_reconstruction(volume_parts)}
    except FormatProblem as e:
        raise e.finding.raised(path) from e
    errors = [f for f in inspector.findings if f.severity == "error"]
    if summary["modality"] is None and errors:
        raise errors[0].raised(path)  # without it nothing of the rest can be told
    return {
        "path": os.fspath(path),
        "file_bytes": Path(path).stat().st_size,
        **head,
        **summary,
        "n_errors": len(errors),
        "n_warnings": len(inspector.findings) - len(errors),
        "findings": [dataclasses.asdict(f) for f in inspector.findings],
    }


@contextlib.contextmanager
def _opened(path: Path, other: Foreign | None, allow_links: bool) -> Iterator[h5py.File]:
    """The file, a foreign one converted."""
    if other is None:
        with open_file(path, allow_links=allow_links) as file:
            yield file
    else:
        from data.convert.read import converted

        with converted(path, allow_links=allow_links) as (file, _):
            yield file


def _measurement(parts: MeasurementParts) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "modality": parts.modality.name if parts.modality else None,
        "format_version": parts.format_version,
        "attrs": parts.attrs,
        "shape": list(parts.shape) if parts.shape else None,
        "dtype": parts.stored.dtype_name if parts.stored else None,
        "units": parts.units,
        "quantity": parts.quantity,
        "axes": _axes(parts.scales),
        "geometry": _values(parts.geometry),
        "acquisition": _values(parts.acquisition),
        "calibration": {"present": sorted(parts.calibration_names), "applied": list(parts.applied)},
        "has_mask": parts.mask is not None,
    }
    if parts.noise_std is not None and not parts.noise_std.axes:
        summary["noise_std"] = float(parts.noise_std.values)
    if parts.grid is not None:
        last = [
            o + d * (n - 1) for o, d, n in zip(parts.grid.origin_m, parts.grid.spacing_m, parts.grid.shape, strict=True)
        ]
        summary["grid"] = {
            "order": ["z", "y", "x"],
            "origin_m": list(parts.grid.origin_m),
            "last_m": last,
            "spacing_m": list(parts.grid.spacing_m),
            "shape": list(parts.grid.shape),
        }
    if parts.ground_truth_shape is not None:
        summary["ground_truth"] = {"shape": list(parts.ground_truth_shape)}
    summary["provenance"] = parts.provenance
    return summary


def _reconstruction(parts: ReconstructionParts) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "modality": parts.modality,
        "format_version": parts.format_version,
        "attrs": parts.attrs,
        "shape": list(parts.shape) if parts.shape else None,
        "dtype": parts.stored.dtype_name if parts.stored else None,
        "units": parts.units,
        "quantity": parts.quantity,
        "axes": _axes(parts.scales),
    }
    if parts.convergence is not None:
        c = parts.convergence
        last = {name: _number(values[-1]) for name, values in c.columns.items() if len(values)}
        summary["convergence"] = {
            "stop_reason": c.stop_reason,
            "converged": c.converged,
            "n_iterations": c.n_iterations,
            "last": last,
        }
    summary["metrics"] = {name: {"value": _plain(m.value), "units": m.units} for name, m in parts.metrics.items()}
    summary["provenance"] = parts.provenance
    return summary


def _axes(scales: Mapping[str, Scale]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "n": len(scale.values),
            "first": _number(scale.values[0]),
            "last": _number(scale.values[-1]),
            "units": scale.units,
        }
        for name, scale in scales.items()
    }


def _values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Words and numbers as they are; of arrays the shape and the extent, of positions per coordinate."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        return None if isinstance(value, float) and not math.isfinite(value) else value
    return _extent(value)


def _extent(array: Array) -> dict[str, Any]:
    if array.dtype.kind == "c":
        return {"shape": list(array.shape), "max_modulus": float(np.abs(array).max())}
    if array.ndim >= 2 and array.shape[-1] == 3:
        flat = array.reshape(-1, 3)
        extent = {c: [_number(flat[:, i].min()), _number(flat[:, i].max())] for i, c in enumerate("xyz")}
        return {"shape": list(array.shape), "extent_m": extent}
    return {"shape": list(array.shape), "min": _number(array.min()), "max": _number(array.max())}


def _number(value: Any) -> float | int | None:
    """A JSON number; NaN and Inf have no spelling there."""
    number = value.item()
    return number if math.isfinite(number) else None


# -- for people -----------------------------------------------------------------------------------


def render_summary(summary: Mapping[str, Any]) -> str:
    """The dict of `summarise` as plain text."""
    s = summary
    lines = [f"{s['path']}  ({_bytes(s['file_bytes'])})"]
    title = s["attrs"].get("title")
    lines.append(f"  {s['kind']}, {s['modality']}, format {s['format_version']}" + (f": {title}" if title else ""))
    if s.get("converted_from"):
        lines.append(f"  read as      {s['converted_from']}, a foreign format; backcast convert writes what is below")
    if s["shape"]:
        shape = " x ".join(map(str, s["shape"]))
        lines.append(f"  data         {shape}  {s['dtype']}  {s['quantity']} [{s['units']}]")
    for name, axis in s["axes"].items():
        lines.append(f"    {name:<16} {_count(axis)}")
    for group in ("geometry", "acquisition"):
        lines += _section(group, s.get(group))
    if s.get("grid"):
        g = s["grid"]
        lines.append(f"  grid         {' x '.join(map(str, g['shape']))} voxels (z, y, x)")
        lines += [
            f"    {name:<16} {a:g} to {b:g} m, step {d:g} m"
            for name, a, b, d in zip(g["order"], g["origin_m"], g["last_m"], g["spacing_m"], strict=True)
        ]
    if s.get("calibration"):
        present, applied = s["calibration"]["present"], s["calibration"]["applied"]
        if present or applied:
            lines.append(f"  calibration  {', '.join(present) or 'none'}; applied: {', '.join(applied) or 'none'}")
    if s.get("noise_std") is not None:
        lines.append(f"  noise_std    {s['noise_std']:g} {s['units']}")
    if s.get("ground_truth"):
        lines.append(f"  ground truth {' x '.join(map(str, s['ground_truth']['shape']))}")
    if s.get("convergence"):
        c = s["convergence"]
        lines.append(f"  convergence  {c['n_iterations']} iterations, ended by {c['stop_reason']}")
    for name, metric in (s.get("metrics") or {}).items():
        value = metric["value"]
        text = f"{value:.6g}" if isinstance(value, (int, float)) else str(value)
        lines.append(f"    {name:<20} {text}" + ("" if metric["units"] == "1" else f" {metric['units']}"))
    origin = dict(s["provenance"])
    notes = str(origin.pop("notes", ""))
    lines += _section("provenance", {k: _short(v) for k, v in origin.items()})
    if notes:
        lines += ["  notes", *(f"    {line}" for line in notes.splitlines())]
    lines += _section("identity", {k: v for k, v in s["attrs"].items() if k != "title"})
    counts = f"{count_of(s['n_errors'], 'error')}, {count_of(s['n_warnings'], 'warning')}"
    lines.append(f"  checked      {counts} (samples not read)")
    lines += [
        f"    {f['severity']} {f['code']} {f['path']}: expected {f['expected']}, found {f['found']}; {f['fix']}"
        for f in s["findings"]
    ]
    return "\n".join(lines)


def _section(name: str, values: Mapping[str, Any] | None) -> list[str]:
    if not values:
        return []
    return [f"  {name}", *(f"    {key:<20} {_words(value)}" for key, value in values.items())]


def _words(value: Any) -> str:
    if isinstance(value, dict) and "extent_m" in value:
        extent = ", ".join(
            f"{c} {_g(a)} to {_g(b)}" if a != b else f"{c} {_g(a)}" for c, (a, b) in value["extent_m"].items()
        )
        return f"{' x '.join(map(str, value['shape']))}: {extent} m"
    if isinstance(value, dict) and "min" in value:
        return f"{' x '.join(map(str, value['shape']))}: {_g(value['min'])} to {_g(value['max'])}"
    if isinstance(value, dict) and "max_modulus" in value:
        return f"{' x '.join(map(str, value['shape']))}: modulus up to {_g(value['max_modulus'])}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _g(value) if isinstance(value, float) else str(value)


def _g(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.9g}"


def _count(axis: Mapping[str, Any]) -> str:
    units = "" if axis["units"] == "1" else f" {axis['units']}"
    if axis["n"] == 1:
        return f"1: {_g(axis['first'])}{units}"
    return f"{axis['n']}: {_g(axis['first'])} to {_g(axis['last'])}{units}"


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= 70 else value[:67] + "..."


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
