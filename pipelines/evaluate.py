"""Figures of merit of reconstructions against the truth of their measurements."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import DataFormatError, open_kind, read_reconstruction
from data.convert.read import read
from data.measurement import Measurement, Volume
from data.reconstruction import Metric, Reconstruction
from imaging import metrics
from pipelines.channel_quality import HEADS as CHANNEL_HEADS
from pipelines.channel_quality import SHOWN as CHANNEL_SHOWN
from pipelines.channel_quality import channel_quality

#: Axes of a channel matrix for each pattern, which stay where they have length 1.
_MATRIX = ("config", "rx", "tx")
#: Columns of the table: short enough for a terminal, in this order.
SHOWN = ("psnr", "psnr_gain", "ssim", "ssim_2d", "nmse", "nmse_gain", "measurement_residual")
HEADS = ("PSNR peak", "PSNR gain", "SSIM 3D", "SSIM 2D", "NMSE peak", "NMSE gain", "residual")

#: Quantities whose values mean something by themselves: compared as they are, both over the truth's largest value.
ABSOLUTE = ("attenuation", "channel_coefficient")
_NORMALISED = {
    "none": "both divided by the truth's largest value over all frames",
    "peak": "each image divided by its own largest magnitude",
    "gain": "truth divided by its largest magnitude, estimate multiplied with its least-squares gain",
}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One reconstruction's figures.

    Attributes:
        path: the reconstruction file.
        method: from its provenance.
        truth: the file it was compared with; "" when none was found.
        metrics: by name, see `quality`; always with what the file itself says of the measurement residual.
        note: why there is no truth; "" when there is one.
        absolute: values were compared as they are, not peak-normalised.
        channel: of channels, see `channel_quality`.
    """

    path: Path
    method: str
    truth: str = ""
    metrics: dict[str, Metric] = field(default_factory=dict)
    note: str = ""
    absolute: bool = False
    channel: bool = False

    def value(self, name: str) -> float:
        """A metric's mean over frames; NaN when it is missing."""
        metric = self.metrics.get(name)
        return math.nan if metric is None else float(np.mean(metric.value))


def quality(estimate: Volume, truth: Volume, *, reference: str) -> dict[str, Metric]:
    """PSNR, SSIM and NMSE of magnitudes, with peak and with least-squares normalisation (NF 7.5).

    Of quantities with an absolute scale (attenuation) the values themselves are compared, signs included, as they
    are in place of peak-normalised.

    Args:
        estimate, truth: on the same grid; a truth without frames serves every frame.
        reference: where the truth comes from, for the metrics' record.

    Returns:
        Nothing for a truth that is zero everywhere, else
        `psnr`, `ssim` (3-D window), `ssim_2d` (x-y plane, averaged over z), `nmse` with peak normalisation,
        and the same names with `_gain`. SSIM is left out where its window of 11 voxels does not fit. Values
        are numbers, or float64 (frame,) for several frames.
    """
    if not truth.data.any():
        return {}
    absolute = truth.quantity in ABSOLUTE
    e, t = (torch.as_tensor(v.data if absolute else np.abs(v.data)).to(torch.float64) for v in (estimate, truth))
    several = estimate.axes[0] == "frame"
    e = e if several else e[None]
    t = (t if truth.axes[0] == "frame" else t[None]).expand(e.shape)
    peak = t.amax() if absolute else t.amax((-3, -2, -1), keepdim=True)
    t = t / torch.where(peak > 0, peak, torch.ones_like(peak))
    e = e / peak if absolute else e
    found: dict[str, Metric] = {}
    for normalise, suffix in (("none" if absolute else "peak", ""), ("gain", "_gain")):
        how = _NORMALISED[normalise]
        entries: dict[str, tuple[Any, str, float | None, str]] = {
            "psnr": (
                metrics.psnr(e, t, normalise=normalise),  # type: ignore[arg-type]
                "dB",
                1.0,
                "10 log10(1 / mean((|truth| - |estimate|)^2))",
            ),
            "nmse": (
                metrics.nmse(e, t, normalise=normalise),  # type: ignore[arg-type]
                "1",
                None,
                "sum((|truth| - |estimate|)^2) / sum(|truth|^2)",
            ),
        }
        for name, dims, window in (("ssim", 3, "3-D"), ("ssim_2d", 2, "x-y plane, mean over z")):
            if min(e.shape[-dims:]) >= metrics.WINDOW:
                value = metrics.ssim(e, t, dims=dims, normalise=normalise)  # type: ignore[arg-type]
                entries[name] = (value, "1", 1.0, f"SSIM of magnitudes, Gaussian window of 11, {window}")
        for name, (value, units, data_range, formula) in entries.items():
            numbers = value.cpu().numpy()
            found[name + suffix] = Metric(
                value=numbers if several else float(numbers[0]),
                units=units,
                data_range=data_range,
                reference=reference,
                definition=f"{formula}; {how}",
            )
    return found


def on_same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes have the same voxels (to a millionth of the spacing) and matching frames."""
    if [n for n in a.axes if n != "frame"] != [n for n in b.axes if n != "frame"]:
        return False
    for name in (n for n in a.axes if n != "frame"):
        one, other = np.asarray(a.scale(name)), np.asarray(b.scale(name))
        if one.shape != other.shape:
            return False
        step = float(abs(one[1] - one[0])) if len(one) > 1 else 1.0
        if np.abs(one - other).max() > 1e-6 * step:
            return False
    frames = [v.n("frame") if "frame" in v.axes else None for v in (a, b)]
    return frames[1] is None or frames[1] == (frames[0] or 1)


class TruthFinder:
    """Finds the file with the truth of a reconstruction.

    Args:
        against: a measurement file with a ground truth, a reconstruction file to serve as reference, or a
            folder with the measurement files (found by their uuid); None looks where the provenance points.
    """

    def __init__(self, against: Path | None = None) -> None:
        self._against = against
        self._by_uuid = _by_uuid(against) if against is not None and against.is_dir() else None

    @property
    def missing(self) -> str:
        """What to say when there is none."""
        if self._by_uuid is not None:
            return f"no measurement in {self._against} has the uuid of its input; name the file or its folder"
        return "its measurement file was not found; name it with --against"

    def __call__(self, path: Path, result: Reconstruction) -> Path | None:
        """The file for the reconstruction `result` read from `path`; None when there is none."""
        if self._by_uuid is not None:
            return self._by_uuid.get(str(result.attrs.get("input_uuid", "")))
        if self._against is not None:
            return self._against
        named = str(result.provenance.get("input_file", ""))
        source = path.parent / named
        return source if named and source.is_file() else None


def evaluate(path: Path, finder: TruthFinder) -> Evaluation:
    """Compare a reconstruction file with the truth.

    Raises:
        DataFormatError: a file that cannot be read, or a truth on another grid.
    """
    result = read_reconstruction(path)
    method = method_of(result)
    own = {n: m for n, m in result.metrics.items() if n == "measurement_residual"}
    channel = result.modality == "irs_mimo"
    source = finder(path, result)
    if source is None:
        note = f"no truth: {finder.missing}"
        return Evaluation(path=path, method=method, metrics=own, note=note, channel=channel)
    if channel:
        return _evaluate_channel(path, method, result, source, own)
    truth = _truth_in(source)
    if truth is None:
        return Evaluation(path=path, method=method, metrics=own, note=f"no truth: {source} has no /ground_truth")
    if not truth.data.any():
        return Evaluation(path=path, method=method, metrics=own, note=f"no truth: that in {source} is zero everywhere")
    if not on_same_grid(result.volume, truth):
        raise DataFormatError(
            f"{path}: /volume: expected the grid of the truth in {source} "
            f"({_grid_words(truth)}), found another ({_grid_words(result.volume)}); reconstruct on that grid"
        )
    figures = quality(result.volume, truth, reference=source.name)
    absolute = truth.quantity in ABSOLUTE
    return Evaluation(path=path, method=method, truth=str(source), metrics=own | figures, absolute=absolute)


def _evaluate_channel(
    path: Path, method: str, result: Reconstruction, source: Path, own: dict[str, Metric]
) -> Evaluation:
    if open_kind(source) != "measurement":
        raise DataFormatError(f"{source}: expected the measurement with the true channel, found a reconstruction")
    m = read(source)
    if m.modality != "irs_mimo":
        raise DataFormatError(f"{source}: expected a measurement of channels (irs_mimo), found {m.modality}")
    _same_channel(path, result, source, m)
    figures = channel_quality(result.volume, result.channel, m, reference=source.name)
    note = "" if figures else f"no truth: {source} has none for these coefficients"
    truth = str(source) if figures else ""
    return Evaluation(path=path, method=method, truth=truth, metrics=own | figures, note=note, channel=True)


def _same_channel(path: Path, result: Reconstruction, source: Path, m: Measurement) -> None:
    """The result has the measurement's frames, subcarriers, patterns and antennas."""
    truth = m.extra_truth.get("channel")
    if truth is None or result.channel is None:
        return
    wanted = tuple(n for n, name in zip(truth.values.shape, truth.axes, strict=True) if n > 1 or name in _MATRIX)
    if result.channel.data.shape != wanted:
        raise DataFormatError(
            f"{path}: /channel/data: expected the shape of the truth in {source}, {wanted}, found "
            f"{result.channel.data.shape}; name the measurement that it was made from"
        )


def table(evaluations: Sequence[Evaluation]) -> str:
    """The figures as plain text tables, one of images and one of channels."""
    kinds = ([e for e in evaluations if e.channel is channel] for channel in (False, True))
    return "\n\n".join(_table(kind) for kind in kinds if kind)


def _table(evaluations: Sequence[Evaluation]) -> str:
    """Right-aligned numbers, a note below where there is no truth.

    PSNR is in dB; "peak" and "gain" are the two normalisations of `quality`. A plain "PSNR" compares attenuation as it
    is (and reflectivity, in a table of both, peak-normalised).
    """
    plain = any(e.absolute for e in evaluations)
    heads = tuple(head.removesuffix(" peak") for head in HEADS) if plain else HEADS
    shown, heads = (CHANNEL_SHOWN, CHANNEL_HEADS) if evaluations[0].channel else (SHOWN, heads)
    names = [e.path.name for e in evaluations]
    rows = [[e.method, *(_shown(e.value(name), name) for name in shown)] for e in evaluations]
    columns = list(zip(("method", *heads), *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    first = max(len("file"), *(len(name) for name in names)) if names else 4
    lines = [
        "  ".join(
            [
                label.ljust(first),
                cells[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)),
            ]
        )
        for label, cells in zip(("file", *names), (["method", *heads], *rows), strict=True)
    ]
    notes = [f"{e.path.name}: {e.note}" for e in evaluations if e.note]
    return "\n".join([line.rstrip() for line in lines] + notes)


def as_json(evaluations: Sequence[Evaluation]) -> str:
    """The figures with units, ranges, references and definitions."""
    return json.dumps(
        [
            {
                "file": str(e.path),
                "method": e.method,
                "truth": e.truth or None,
                "note": e.note or None,
                "metrics": {name: _plain(metric) for name, metric in sorted(e.metrics.items())},
            }
            for e in evaluations
        ],
        indent=2,
        allow_nan=False,
    )


def as_csv(evaluations: Sequence[Evaluation]) -> str:
    """One line per file, one column per metric; empty where a metric is missing."""
    names = [n for n in dict.fromkeys((*SHOWN, *CHANNEL_SHOWN)) if any(n in e.metrics for e in evaluations)]
    names += sorted({n for e in evaluations for n in e.metrics} - set(names))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "method", *names])
    for e in evaluations:
        values = [e.value(n) for n in names]
        writer.writerow([e.path, e.method, *("" if math.isnan(v) else repr(v) for v in values)])
    return out.getvalue()


# -- inside -------------------------------------------------------------------------------------------------


def method_of(result: Reconstruction) -> str:
    """The method's name from a result's provenance; "" when it does not say."""
    try:
        return str(json.loads(str(result.provenance.get("config", "{}"))).get("method", ""))
    except (json.JSONDecodeError, AttributeError):
        return ""


def _truth_in(path: Path) -> Volume | None:
    if open_kind(path) == "reconstruction":
        return read_reconstruction(path).volume
    return read(path).ground_truth


def _by_uuid(folder: Path) -> dict[str, Path]:
    """Measurement files of a folder by their uuid; files that cannot be read are none of them."""
    import h5py

    found: dict[str, Path] = {}
    for path in sorted(p for suffix in ("*.h5", "*.hdf5") for p in folder.rglob(suffix)):
        try:
            with h5py.File(path, "r") as f:
                if f.attrs.get("format") == "backcast-measurement":
                    found[str(f.attrs.get("uuid", ""))] = path
        except OSError:
            continue
    return found


def _grid_words(volume: Volume) -> str:
    return ", ".join(
        f"{n} {len(volume.scale(n))} from {volume.scale(n)[0]:g} to {volume.scale(n)[-1]:g} m"
        for n in volume.axes
        if n != "frame"
    )


def _shown(value: float, name: str) -> str:
    if math.isnan(value):
        return "-"
    if name in ("nmse", "symbol_error_rate") and 0 < value < 1e-2:
        return f"{value:.1e}"
    return f"{value:.2f}" if name.startswith(("psnr", "nmse_db", "spectral")) else f"{value:.3f}"


def _plain(metric: Metric) -> dict[str, Any]:
    values = [v if math.isfinite(v) else None for v in np.atleast_1d(metric.value).astype(float).tolist()]
    return {
        "value": values if np.ndim(metric.value) else values[0],  # JSON has no infinity
        "units": metric.units,
        "data_range": metric.data_range,
        "reference": metric.reference,
        "definition": metric.definition,
    }
