"""Writing a reconstruction file."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

from data.atomic import write_hdf5
from data.errors import DataFormatError
from data.hdf5 import FormatProblem, open_file
from data.hdf5_write import attach_scales, exact, write_array
from data.measurement_writer import raise_first, write_root, write_volume
from data.provenance import write_provenance
from data.reconstruction import STATUSES, STOP_REASONS, Convergence, Metric, Reconstruction
from data.reconstruction_reader import inspect_reconstruction
from data.schema import CONVERGENCE_UNITS, MODALITIES, PREVIEWS, RECONSTRUCTION, RECONSTRUCTION_ATTRS


def write_reconstruction(path: str | os.PathLike[str], reconstruction: Reconstruction) -> None:
    """Write one reconstruction file, atomically; an old file of that name is replaced.

    `attrs` may fix `uuid` and `file_time`; with both fixed, the same content gives the same bytes. The
    written file is checked like any other before it gets its name, except for the samples themselves.

    Raises:
        DataFormatError: the reconstruction breaks the format; nothing is written.
        DataWriteError: the folder is missing or unwritable, or the disk full; nothing is left behind.
    """
    r = reconstruction
    try:
        if r.modality not in MODALITIES:
            raise DataFormatError(
                f"modality: expected one of {', '.join(MODALITIES)}, got {r.modality!r}; choose one of these"
            )
        if r.status not in STATUSES:
            raise DataFormatError(
                f"status: expected one of {', '.join(STATUSES)}, got {r.status!r}; choose one of these"
            )
        write_hdf5(path, lambda file: _fill(file, r), lambda part: _check_written(part, path))
    except DataFormatError as e:
        if e.finding is not None:
            raise
        raise DataFormatError(f"{os.fspath(path)}: {e}") from e


def _check_written(part: Path, path: str | os.PathLike[str]) -> None:
    try:
        with open_file(part) as file:
            inspector, _ = inspect_reconstruction(file, deep=False)
    except FormatProblem as e:
        raise e.finding.raised(path) from e
    raise_first(inspector.findings, path)


def _fill(file: h5py.File, r: Reconstruction) -> None:
    write_root(file, RECONSTRUCTION, r.modality, r.attrs, RECONSTRUCTION_ATTRS, default="volume")
    file.attrs["status"] = r.status
    group = file.create_group("volume")
    group.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": list(r.volume.axes)})
    write_volume(group, "data", r.volume)
    if r.uncertainty is not None:
        if r.uncertainty.shape != r.volume.data.shape:
            raise DataFormatError(
                f"/volume/uncertainty: expected shape {r.volume.data.shape} as the volume, "
                f"got {r.uncertainty.shape}; give one value per voxel"
            )
        values = exact(r.uncertainty, "f4", "/volume/uncertainty")
        frames = r.volume.axes[0] == "frame"
        written = write_array(group, "uncertainty", values, units=r.volume.units, frames=frames, compressed=True)
        attach_scales(group, written, r.volume.axes)
    if r.channel is not None:
        channel = file.create_group("channel")
        channel.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": list(r.channel.axes)})
        write_volume(channel, "data", r.channel)
    if r.convergence is not None:
        _write_convergence(file.create_group("convergence"), r.convergence)
    if r.metrics:
        metrics = file.create_group("metrics")
        for name in sorted(r.metrics):
            _write_metric(metrics, name, r.metrics[name])
    if r.provenance:
        write_provenance(file.create_group("provenance"), r.provenance)
    if r.previews:
        _write_previews(file.create_group("preview"), r)


def _write_convergence(group: h5py.Group, convergence: Convergence) -> None:
    if convergence.stop_reason not in STOP_REASONS:
        raise DataFormatError(
            f"/convergence@stop_reason: expected one of {', '.join(STOP_REASONS)}, "
            f"got {convergence.stop_reason!r}; choose one of these"
        )
    columns = dict(convergence.columns)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataFormatError(
            f"/convergence: expected columns of one length, got {lengths}; write NaN where there is no value"
        )
    unknown = sorted(set(columns) - {"iteration", *CONVERGENCE_UNITS})
    if unknown:
        raise DataFormatError(
            f"/convergence/{unknown[0]}: expected a column of iteration, {', '.join(CONVERGENCE_UNITS)}; rename it"
        )
    n = next(iter(lengths.values()), 0)
    iteration = exact(columns.pop("iteration", np.arange(1, n + 1)), "i4", "/convergence/iteration")
    for name in CONVERGENCE_UNITS:
        if name not in ("dual_change", "psnr", "nmse"):  # of RED-PSM alone, and only with a truth
            columns.setdefault(name, np.full(n, np.nan))
    group.attrs["NX_class"] = "NXdata"
    group.attrs["signal"] = "primal_residual"
    group.attrs["auxiliary_signals"] = [
        name for name in CONVERGENCE_UNITS if name in columns and name != "primal_residual"
    ]
    group.attrs["axes"] = ["iteration"]
    group.attrs["stop_reason"] = convergence.stop_reason
    group.attrs["converged"] = bool(convergence.converged)
    group.attrs["n_iterations"] = int(convergence.n_iterations)
    write_array(group, "iteration", iteration, units="1").make_scale("iteration")
    for name in CONVERGENCE_UNITS:
        if name in columns:
            values = exact(columns[name], "f8", f"/convergence/{name}")
            written = write_array(group, name, values, units=CONVERGENCE_UNITS[name][0])
            attach_scales(group, written, ("iteration",))


def _write_metric(group: h5py.Group, name: str, metric: Metric) -> None:
    write_array(
        group,
        name,
        exact(metric.value, "f8", f"/metrics/{name}"),
        units=metric.units,
        data_range=metric.data_range,
        reference=metric.reference,
        definition=metric.definition,
    )


def _write_previews(group: h5py.Group, r: Reconstruction) -> None:
    for name, picture in sorted(r.previews.items()):
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.ndim != 2 or name not in PREVIEWS:
            raise DataFormatError(
                f"/preview/{name}: expected {', '.join(PREVIEWS)} as uint8 pictures of two dimensions, "
                f"got {array.dtype} {array.shape}; convert it first"
            )
        write_array(group, name, array)
