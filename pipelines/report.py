"""What a folder of results holds, on one page that needs nothing else: pictures, curves, figures, failures, origin."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from data import DataFormatError
from data.hdf5 import FormatProblem, open_file
from data.inspector import Inspector
from data.reconstruction import Convergence
from data.reconstruction_reader import ReconstructionParts, inspect_reconstruction
from imaging import __version__
from pipelines.atomic import write_text
from pipelines.config import ConfigError
from pipelines.inputs import RECONSTRUCTION, files_below, look

#: Longest side of a picture in pixels for up to FEW results; with more of them pictures shrink, the page does not grow.
LONGEST, SHORTEST, FEW = 144, 32, 100
#: Results with a picture and curves on the page; the tables and the CSV have all.
MOST_CARDS = 1000
#: Points of a curve.
POINTS = 80
#: A curve's axis spans at least this.
LEAST_DECADES, LEAST_DB = 0.05, 0.1
#: Voxels up to which an image without previews is read for its picture.
MOST_VOXELS = 2**24
#: Range of the stored previews (FORMATS: 0 to 40 dB below the peak).
RANGE_DB = 40.0
#: Modalities whose pictures are in decibels; the others' are linear.
IN_DECIBELS = ("mimo_radar", "irs_mimo")
UNITS_OF_METRICS = {"dB": " dB", "1": ""}
#: What the tables show, in this order; the CSV has every metric.
SHOWN = ("psnr", "psnr_gain", "ssim", "nmse_db", "nmse", "srr", "ser", "measurement_residual")
WORDS = {
    "done": "done",
    "skipped": "done before",
    "differs": "left alone",
    "failed": "failed",
    "pending": "not started",
}
Words = dict[str, str]


@dataclass(kw_only=True)
class Shown:
    """One measurement on the page.

    Attributes:
        name: of the result, below the folder.
        status: as in the summary.
        metrics: (value, units) by name, the mean over frames.
        facts: short lines for the card.
        pictures: (data URI, width, height, words).
        curves: drawn columns of the convergence.
        number, card: place on the page, and whether there is more than a line of the table.
    """

    name: str
    source: str = ""
    status: str = "done"
    reason: str = ""
    trace: str = ""
    seconds: float = math.nan
    method: str = ""
    modality: str = ""
    peak_memory: float = math.nan
    metrics: dict[str, tuple[float, str]] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provenance: Words = field(default_factory=dict)
    config: str = ""
    config_sha256: str = ""
    pictures: list[tuple[str, int, int, str]] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    iterations: int = 0
    number: int = 0
    card: bool = False


@dataclass(frozen=True)
class Curve:
    """A convergence plot in a box of 100 x 40 units.

    Attributes:
        label: what is drawn. points: of an SVG polyline. first, last: values in words. bottom, top: of the axis.
    """

    label: str
    points: str
    first: str
    last: str
    bottom: str
    top: str
    words: str


def write_report(folder: Path, page: Path | None = None) -> tuple[Path, Path]:
    """Write the page and the table of a folder of results.

    Args:
        folder: output of `reconstruct`, or any folder with reconstruction files.
        page: HTML file; None is report.html in the folder. The CSV stands beside it, with the same stem.

    Returns:
        HTML and CSV.

    Raises:
        ConfigError: no folder, or nothing in it to report.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder with results of reconstruct, found none")
    page = folder / "report.html" if page is None else page
    shown, runs = collect(folder)
    table = page.with_suffix(".csv")
    if table == page:
        raise ConfigError(f"--output {page}: expected a name for the HTML page, found that of the table; write .html")
    for target, text in ((table, as_csv(shown)), (page, as_html(folder, shown, runs))):
        write_text(target, text)
    return page, table


def collect(folder: Path) -> tuple[list[Shown], list[dict[str, Any]]]:
    """Every measurement that the folder or its summaries know of, and the summaries."""
    paths = [p for p in files_below(folder) if look(p)[0] == RECONSTRUCTION]
    runs = _summaries(folder)
    if not paths and not runs:
        raise ConfigError(f"{folder}: expected reconstruction files or a summary.json, found neither")
    edge = max(SHORTEST, int(LONGEST * min(1.0, math.sqrt(FEW / max(1, len(paths))))))
    found = {}
    for number, path in enumerate(paths):
        name = path.relative_to(folder).as_posix()
        found[name] = _of_result(path, name, edge if number < MOST_CARDS else 0)
    for run in runs:  # oldest first: the last word counts
        for entry in run["files"]:
            name = _below(entry["result"], run.get("folder", ""))
            _tell(found.setdefault(name, Shown(name=name)), entry)
    shown = [found[name] for name in sorted(found)]
    cards = 0
    for number, one in enumerate(shown, start=1):
        one.number = number
        one.card = bool(one.provenance) and cards < MOST_CARDS
        cards += one.card
    return shown, runs


def as_csv(shown: Sequence[Shown]) -> str:
    """One line per measurement, all metrics."""
    names = sorted({name for one in shown for name in one.metrics})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["result", "source", "status", "reason", "modality", "method", "seconds", "peak_memory_bytes", "iterations"]
    writer.writerow([*head, "config_sha256", *names])
    for one in shown:
        values = [one.metrics.get(n, (math.nan, ""))[0] for n in names]
        writer.writerow(
            [
                *(one.name, one.source, one.status, one.reason, one.modality, one.method),
                *(_exact(one.seconds), _exact(one.peak_memory), one.iterations or "", one.config_sha256),
                *(_exact(v) for v in values),
            ]
        )
    return out.getvalue()


def as_html(folder: Path, shown: Sequence[Shown], runs: Sequence[dict[str, Any]]) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"seconds": seconds, "bytes": in_bytes, "figure": _figure, "label": _label}
    template = environment.from_string((files("pipelines") / "report.html").read_text(encoding="utf-8"))
    units = {name: u for one in shown for name, (_, u) in one.metrics.items()}
    columns = [n for n in SHOWN if n in units]
    if all("nmse_db" in one.metrics for one in shown if "nmse" in one.metrics) and "nmse" in columns:
        columns.remove("nmse")
    configs = {one.config_sha256: (one.method, one.config) for one in shown if one.config}
    last = runs[-1] if runs else {}
    return template.render(
        title=f"Backcast: {folder.resolve().name}",
        folder=folder.resolve().name,
        version=__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        run=last,
        command=str(last.get("command_line", "")),
        interrupted=bool(last.get("interrupted", False)),
        shown=shown,
        most=MOST_CARDS,
        counts=[(s, WORDS.get(s, s), n) for s, n in sorted(Counter(one.status for one in shown).items())],
        words=WORDS,
        bad=[one for one in shown if one.status not in ("done", "skipped")],
        columns=columns,
        units={n: UNITS_OF_METRICS.get(units[n], f" {units[n]}") for n in columns},
        overview=_overview(shown, columns),
        configs=configs,
        total=sum(one.seconds for one in shown if math.isfinite(one.seconds)),
    )


# -- what the files say -------------------------------------------------------------------------------------


def _summaries(folder: Path) -> list[dict[str, Any]]:
    """Contents of summary.json, and of those of shards, oldest first."""
    found = []
    for path in sorted(folder.glob("summary*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["files"][:0] = []
            when = str(content["date"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: expected a summary of reconstruct, found something else; remove it") from error
        found.append((when, path.name, content))
    return [content for _, _, content in sorted(found, key=lambda one: one[:2])]


def _below(result: str, folder: str) -> str:
    """The place of a result below the output folder of its run."""
    path = Path(result)
    try:
        return path.relative_to(folder).as_posix() if folder else path.name
    except ValueError:
        return path.name


def _tell(one: Shown, entry: dict[str, Any]) -> None:
    """What the summary adds to what the file says."""
    one.source = str(entry.get("file", one.source))
    status = str(entry.get("status", one.status))
    one.status, one.reason = status, str(entry.get("reason", ""))
    one.trace = str(entry.get("traceback", ""))
    one.notes = one.notes or [str(note) for note in entry.get("notes", [])]
    if status == "done":
        one.seconds = float(entry.get("seconds") or math.nan)


def _of_result(path: Path, name: str, edge: int) -> Shown:
    """A reconstruction file without its volume."""
    one = Shown(name=name)
    try:
        with open_file(path) as file:
            inspector, parts = inspect_reconstruction(file, deep=False)
            if edge:
                one.pictures = _pictures(inspector, parts, edge)
    except (FormatProblem, DataFormatError, OSError) as error:
        sentence = error.finding.sentence(path) if isinstance(error, FormatProblem) else str(error)
        return Shown(name=name, status="failed", reason=sentence)
    origin = parts.provenance
    one.modality = parts.modality or ""
    one.source = str(origin.get("input_file", ""))
    one.seconds = _number(origin.get("wall_time"))
    one.peak_memory = _number(origin.get("peak_memory"))
    one.metrics = {n: (float(np.mean(m.value)), m.units) for n, m in parts.metrics.items()}
    one.config, one.method = _config(str(origin.get("config", "")))
    one.config_sha256 = str(origin.get("config_sha256", ""))
    one.notes = str(origin.get("notes", "")).splitlines()
    if (status := parts.attrs.get("status")) != "complete":
        one.status, one.reason = "failed", f"{name}: {status}, its best image is kept"
    left_out = ("config", "notes", "config_sha256", "wall_time", "peak_memory", "sequence_index")
    one.provenance = {k: _plain(v) for k, v in sorted(origin.items()) if k not in left_out}
    one.provenance |= {k: str(parts.attrs[k]) for k in ("uuid", "input_uuid", "file_time") if parts.attrs.get(k)}
    if parts.shape:
        scales = list(parts.scales) if parts.scales else []
        sizes = " × ".join(str(n) for n in parts.shape)
        one.facts.append(f"{', '.join(scales)}: {sizes}" if scales else sizes)
    one.facts += [f"{parts.quantity} ({parts.units})" if parts.units not in ("", "1") else parts.quantity]
    if one.pictures:
        how = "0 to -40 dB" if parts.modality in IN_DECIBELS else "linear from 0"
        one.facts.append(f"pictures: largest magnitude along an axis, {how}")
    c = parts.convergence
    if c is not None and c.n_iterations:
        one.iterations = c.n_iterations
        one.facts.append(f"{c.n_iterations} iterations, ended by {c.stop_reason.replace('_', ' ')}")
        one.curves = _curves(c) if edge else []
    return one


def _config(text: str) -> tuple[str, str]:
    """Indented configuration and the method's name."""
    try:
        values = json.loads(text)
        return json.dumps(values, indent=2), str(values.get("method", ""))
    except (ValueError, AttributeError):
        return text, ""


def _plain(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    text = str(value)
    return text if len(text) <= 400 else text[:400] + " ..."


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


# -- pictures -----------------------------------------------------------------------------------------------


def _pictures(inspector: Inspector, parts: ReconstructionParts, edge: int) -> list[tuple[str, int, int, str]]:
    """Projections as PNG in the page: decibels for radar and channels, linear grey for the others."""
    decibels = parts.modality in IN_DECIBELS
    found = []
    for axis in ("z", "y", "x"):
        stored = inspector.dataset(f"/preview/mip_{axis}", required=False)
        if stored is not None and stored.dtype_name == "uint8" and len(stored.shape) == 2:
            found.append((np.asarray(stored.load()), f"along {axis}"))
    if not found and parts.stored is not None and parts.shape and math.prod(parts.shape) <= MOST_VOXELS:
        found = _of_coefficients(parts)
    thick = [(levels, words) for levels, words in found if min(levels.shape) > 1] or found  # slices have one to show
    return [_picture(levels, edge, words, decibels=decibels) for levels, words in thick]


def _of_coefficients(parts: ReconstructionParts) -> list[tuple[np.ndarray, str]]:
    """Largest magnitudes over one dictionary axis, of the first problem."""
    assert parts.stored is not None
    assert parts.layout is not None
    size = np.abs(parts.layout.arrange(parts.stored.load()))
    names = list(parts.layout.axes)
    while size.ndim > 3:
        size, names = size[0], names[1:]
    peak = float(size.max()) if size.size else 0.0
    if peak == 0 or not math.isfinite(peak):
        return []
    level = np.round(255 * (20 * np.log10(np.maximum(size / peak, 10 ** (-RANGE_DB / 20))) / RANGE_DB + 1))
    if level.ndim < 3:
        return [(np.atleast_2d(level).astype(np.uint8), " by ".join(names))]
    return [(level.max(axis=i).astype(np.uint8), f"along {n.replace('_', ' ')}") for i, n in enumerate(names)]


def _picture(levels: np.ndarray, edge: int, words: str, *, decibels: bool) -> tuple[str, int, int, str]:
    """Levels 0 to 255, 40 dB in all, as a PNG with a palette; the second axis upwards."""
    from matplotlib import colormaps
    from PIL import Image

    image = Image.fromarray(levels[::-1])
    factor = edge / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if factor < 1:
        image = image.resize(size, Image.Resampling.BOX)
    steps = np.arange(256) / 255
    if decibels:
        palette = colormaps["magma"](steps)[:, :3]
    else:
        linear = 10 ** (RANGE_DB * (steps - 1) / 20)
        palette = np.repeat(((linear - linear[0]) / (1 - linear[0]))[:, None], 3, axis=1)
    image.putpalette(np.round(255 * palette).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return uri, *size, words


def _curves(c: Convergence) -> list[Curve]:
    """Data fidelity, change and PSNR over the iterations, where there are at least two of them."""
    names = (
        ("data_fidelity", "data fidelity", True),
        ("relative_change", "relative change", True),
        ("psnr", "PSNR (dB)", False),
    )
    drawn = (_curve(np.asarray(c.columns[n], float), label, log=log) for n, label, log in names if n in c.columns)
    return [curve for curve in drawn if curve is not None]


def _curve(values: np.ndarray, label: str, *, log: bool) -> Curve | None:
    good = np.isfinite(values) & ((values > 0) if log else True)
    where = np.flatnonzero(good)
    if len(where) < 2:
        return None
    where = where[np.unique(np.linspace(0, len(where) - 1, min(len(where), POINTS)).round().astype(int))]
    heights = np.log10(values[where]) if log else values[where]
    low, high = float(heights.min()), float(heights.max())
    least = LEAST_DECADES if log else LEAST_DB
    if high - low < least:  # rounding is no course
        low, high = (low + high - least) / 2, (low + high + least) / 2
    x = 100 * where / max(1, len(values) - 1)
    y = 40 * (1 - (heights - low) / (high - low))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    bottom, top = (10**low, 10**high) if log else (low, high)
    first, last = _figure(values[where[0]]), _figure(values[where[-1]])
    words = f"{label} over {len(values)} iterations, from {first} to {last}{', logarithmic' if log else ''}"
    return Curve(label, points, first, last, _figure(bottom), _figure(top), words)


# -- figures ------------------------------------------------------------------------------------------------


def _overview(shown: Sequence[Shown], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Per method: how many results, time, and median with extent of every metric."""
    rows = []
    done = [one for one in shown if one.method]
    for modality, method in sorted({(one.modality, one.method) for one in done}):
        those = [one for one in done if (one.modality, one.method) == (modality, method)]
        spread = {}
        for name in columns:
            values = np.array([one.metrics[name][0] for one in those if name in one.metrics], float)
            values = values[np.isfinite(values)]
            if len(values):
                spread[name] = (np.median(values), values.min(), values.max())
        times = np.array([one.seconds for one in those if math.isfinite(one.seconds)])
        peaks = [one.peak_memory for one in those if math.isfinite(one.peak_memory)]
        rows.append(
            {
                "method": method,
                "modality": modality,
                "n": len(those),
                "spread": spread,
                "seconds": float(np.median(times)) if len(times) else math.nan,
                "peak": max(peaks, default=math.nan),
            }
        )
    return rows


def seconds(value: float) -> str:
    """A time for people: 0.42 s, 3 min 5 s, 2 h 10 min."""
    if not math.isfinite(value):
        return "–"
    if value < 100:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def in_bytes(value: float) -> str:
    """A size for people: 812 MiB, 3.2 GiB."""
    if not math.isfinite(value):
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.2f}" if 1 <= abs(value) < 1000 else f"{value:#.3g}" if 1e-3 < abs(value) < 1 else f"{value:.3g}"


def _label(name: str) -> str:
    return name.removesuffix("_db").replace("_", " ")


def _exact(value: float) -> str:
    return "" if not math.isfinite(value) else repr(float(value))
