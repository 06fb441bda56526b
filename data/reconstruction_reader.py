"""Reading a reconstruction file: one inspection serves `read_reconstruction`, `validate` and `summarise`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from data.hdf5 import FormatProblem, attribute, find_group, names_in, open_file, problem
from data.head import read_head
from data.inspector import Inspector
from data.measurement import Array, Scale, Volume
from data.measurement_parts import Layout
from data.provenance import read_provenance
from data.reconstruction import STATUSES, STOP_REASONS, Convergence, Metric, Reconstruction
from data.schema import (
    CONVERGENCE_UNITS,
    RECONSTRUCTION,
    RECONSTRUCTION_ATTRS,
    VOLUME_QUANTITIES,
    Attr,
)
from data.stored import Stored
from data.units import UnitError, si_unit, to_si
from data.values import cast, check_finite, check_kind, match_shape
from data.volume_io import read_volume, volume_layout

_CONVERGENCE_ATTRS = (
    Attr("stop_reason", allowed=STOP_REASONS),
    Attr("converged", kind="bool"),
    Attr("n_iterations", kind="float"),
)


@dataclass
class ReconstructionParts:
    """Filled piece by piece during the inspection."""

    modality: str | None = None
    format_version: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)
    stored: Stored | None = None
    layout: Layout | None = None
    shape: tuple[int, ...] | None = None
    scales: dict[str, Scale] = field(default_factory=dict)
    volume: Volume | None = None
    quantity: str = ""
    units: str = ""
    uncertainty: Array | None = None
    channel: Volume | None = None
    convergence: Convergence | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    previews: dict[str, Array] = field(default_factory=dict)


def read_reconstruction(path: str | os.PathLike[str], *, allow_links: bool = False) -> Reconstruction:
    """Read one reconstruction file and check all of it.

    Args:
        path: a file of the format `backcast-reconstruction`, version 1.x.
        allow_links: follow external links and virtual datasets.

    Returns:
        the Reconstruction, SI units, axes (frame,) z, y, x (or the dictionary axes as stored).

    Raises:
        DataFormatError: the first error found, in one sentence. `validate` lists them all.
    """
    try:
        with open_file(path, allow_links=allow_links) as file:
            inspector, parts = inspect_reconstruction(file, deep=True)
    except FormatProblem as e:
        raise e.finding.raised(path) from e
    for finding in inspector.findings:
        if finding.severity == "error":
            raise finding.raised(path)
    assert parts.modality is not None
    assert parts.volume is not None
    return Reconstruction(
        modality=parts.modality,
        volume=parts.volume,
        uncertainty=parts.uncertainty,
        channel=parts.channel,
        convergence=parts.convergence,
        metrics=parts.metrics,
        provenance=parts.provenance,
        status=parts.attrs["status"],
        previews=parts.previews,
        attrs={name: value for name, value in parts.attrs.items() if name != "status"},
        warnings=tuple(finding.sentence(path) for finding in inspector.findings),
    )


def inspect_reconstruction(file: h5py.File, *, deep: bool) -> tuple[Inspector, ReconstructionParts]:
    """Check an open file; the findings are in the Inspector, what could be read in the parts."""
    inspector = Inspector(file, deep=deep)
    parts = ReconstructionParts()
    with inspector.collecting():
        rules = (*RECONSTRUCTION_ATTRS, Attr("status", allowed=STATUSES))
        parts.modality, parts.attrs = read_head(inspector, RECONSTRUCTION, rules)
        parts.format_version = parts.attrs.pop("format_version")
        _read_convergence(inspector, parts)
        _read_metrics(inspector, parts)
        parts.provenance = read_provenance(inspector)
        _read_previews(inspector, parts)
        _read_volume(inspector, parts)
        _read_channel(inspector, parts)
    return inspector, parts


def _read_volume(inspector: Inspector, parts: ReconstructionParts) -> None:
    group = inspector.group("/volume", required=True)
    if group is None:
        return
    stored = inspector.dataset("/volume/data", required=True, expected="the image, (frame,) z, y, x")
    if stored is None:
        return
    parts.stored = stored
    with inspector.collecting():
        names = attribute(group, "/volume", "axes")
        parts.layout = volume_layout(inspector, names, "/volume@axes", len(stored.shape))
    if parts.layout is None:
        return
    parts.shape = parts.layout.shape(stored.shape)
    if 0 in parts.shape:
        inspector.error(
            "BC305", "/volume/data", expected="at least one voxel", found=f"shape {parts.shape}", fix="check the grid"
        )
        return
    parts.volume = read_volume(
        inspector, stored, parts.layout, "/volume", quantities=VOLUME_QUANTITIES, found_scales=parts.scales
    )
    with inspector.collecting():
        parts.quantity = str(attribute(stored.attrs_of, "/volume/data", "quantity") or "")
        parts.units = str(attribute(stored.attrs_of, "/volume/data", "units") or "")
    if parts.volume is not None:
        _check_samples(inspector, parts.volume.data, parts.layout.axes, parts.attrs.get("status"))
    uncertainty = inspector.dataset("/volume/uncertainty", required=False)
    if uncertainty is not None:
        with inspector.collecting():
            check_kind(uncertainty, "f4")
            if uncertainty.shape != stored.shape:
                raise problem(
                    "BC304",
                    "/volume/uncertainty",
                    expected=f"shape {stored.shape} as the volume",
                    found=str(uncertainty.shape),
                    fix="write one value per voxel",
                )
            wanted = _si_of(parts.units)
            units = inspector.units(uncertainty, (wanted,))
            if inspector.deep and units is not None:
                values = cast(parts.layout.arrange(uncertainty.load()), "f4", "/volume/uncertainty")
                parts.uncertainty = to_si(values, units, wanted=wanted)[0]
    inspector.unknown_names("/volume", {"data", "uncertainty", *parts.layout.axes})


def _read_channel(inspector: Inspector, parts: ReconstructionParts) -> None:
    with inspector.collecting():
        group = find_group(inspector.file, "/channel")
        if group is None:
            return
        stored = inspector.dataset("/channel/data", required=True, expected="the channel, config, rx, tx")
        if stored is None:
            return
        layout = volume_layout(inspector, attribute(group, "/channel", "axes"), "/channel@axes", len(stored.shape))
        if layout is not None:
            parts.channel = read_volume(inspector, stored, layout, "/channel")
        if parts.channel is not None:
            check_finite(parts.channel.data, "/channel/data", parts.channel.axes)


def _si_of(units: str) -> str:
    try:
        return si_unit(units)
    except UnitError:  # reported with the volume
        return "1"


def _check_samples(inspector: Inspector, data: Array, axes: tuple[str, ...], status: object) -> None:
    """NaN in a volume is an error, unless the file itself says that the method diverged."""
    try:
        check_finite(data, "/volume/data", axes)
    except FormatProblem as e:
        if status == "diverged":
            f = e.finding
            inspector.warning(
                "BC905", f.path, expected=f.expected, found=f.found, fix="the method diverged; run it anew"
            )
        else:
            inspector.findings.append(e.finding)


def _read_convergence(inspector: Inspector, parts: ReconstructionParts) -> None:
    with inspector.collecting():
        group = find_group(inspector.file, "/convergence")
        if group is None:
            return
        words = {rule.name: inspector.attr(group, "/convergence", rule) for rule in _CONVERGENCE_ATTRS}
        columns: dict[str, Array] = {}
        n: int | None = None
        for name in names_in(group, "/convergence"):
            units = CONVERGENCE_UNITS.get(name)
            if units is None and name != "iteration":
                continue
            column = _read_column(inspector, f"/convergence/{name}", units)
            if column is None:
                continue
            n = len(column) if n is None else n
            if len(column) != n:
                raise problem(
                    "BC304",
                    f"/convergence/{name}",
                    expected=f"{n} values as the other columns",
                    found=str(len(column)),
                    fix="write NaN where an algorithm has no value",
                )
            columns[name] = column
        if "iteration" not in columns:
            raise problem(
                "BC201", "/convergence/iteration", expected="the iteration numbers", found="nothing", fix="write them"
            )
        inspector.unknown_names("/convergence", {"iteration", *CONVERGENCE_UNITS}, [r.name for r in _CONVERGENCE_ATTRS])
        if None not in words.values():
            parts.convergence = Convergence(
                columns=columns,
                stop_reason=words["stop_reason"],
                converged=words["converged"],
                n_iterations=int(words["n_iterations"]),
            )


def _read_column(inspector: Inspector, path: str, units: tuple[str, ...] | None) -> Array | None:
    stored = inspector.dataset(path, required=False)
    if stored is None:
        return None
    check_kind(stored, "f8")
    # A direct method has no iterations: an empty column is allowed here and nowhere else.
    if stored.shape == (0,):
        return np.zeros(0, np.float64 if units else np.int32)
    shape = match_shape(stored, (("n",),), {})
    if units is not None and inspector.units(stored, units) is None:
        return None
    return cast(stored.load().reshape(shape), "f8" if units else "i4", path)


def _read_metrics(inspector: Inspector, parts: ReconstructionParts) -> None:
    with inspector.collecting():
        group = find_group(inspector.file, "/metrics")
        if group is None:
            return
        for name in names_in(group, "/metrics"):
            with inspector.collecting():
                parts.metrics[name] = _read_metric(inspector, f"/metrics/{name}")


def _read_metric(inspector: Inspector, path: str) -> Metric:
    stored = inspector.dataset(path, required=True)
    if stored is None:
        raise problem("BC201", path, expected="a number", found="nothing", fix="write it, or remove its name")
    check_kind(stored, "f8")
    shape = match_shape(stored, (("frame",), ()), {})
    units = inspector.units(stored, ("1", "dB"))
    values = cast(stored.load().reshape(shape), "f8", path)
    data_range = attribute(stored.attrs_of, path, "data_range")
    words = {}
    for name in ("reference", "definition"):
        value = attribute(stored.attrs_of, path, name)
        words[name] = value if isinstance(value, str) else ""
    return Metric(
        value=values if shape else float(values),
        units=si_unit(units) if units else "1",
        data_range=float(data_range) if isinstance(data_range, (int, float)) else None,
        **words,
    )


def _read_previews(inspector: Inspector, parts: ReconstructionParts) -> None:
    with inspector.collecting():
        group = find_group(inspector.file, "/preview")
        if group is None:
            return
        for name in names_in(group, "/preview"):
            stored = inspector.dataset(f"/preview/{name}", required=False)
            if stored is None:
                continue
            with inspector.collecting():
                match_shape(stored, (("rows", "columns"),), {})
                check_kind(stored, "u1")
                if inspector.deep:
                    parts.previews[name] = cast(stored.load(), "u1", stored.path)
