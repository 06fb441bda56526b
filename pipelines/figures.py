"""Pictures of volumes: orthogonal maximum-intensity projections in metres. Needs matplotlib, no display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.atomic import write_bytes

if TYPE_CHECKING:
    from data.measurement import Volume

#: (axis looked along, horizontal axis, vertical axis).
VIEWS = (("z", "x", "y"), ("y", "x", "z"), ("x", "z", "y"))


def projections_png(
    path: Path,
    volumes: Mapping[str, Volume],
    *,
    title: str = "",
    captions: Mapping[str, str] | None = None,
    range_db: float = 25.0,
) -> None:
    """Three maximum-intensity projections of each volume, one column per volume, on common axes and colours.

    Args:
        path: PNG to write, atomically.
        volumes: by name, in the order of the columns; the first frame of several is drawn.
        title: above all.
        captions: a second line below a volume's name.
        range_db: the colours go from each volume's own peak, 0 dB, down to -range_db.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = next(iter(volumes.values()))
    extent = {name: _edges_m(first, name) for name in ("z", "y", "x")}
    size = {name: hi - lo for name, (lo, hi) in extent.items()}
    columns = len(volumes)
    # all panels at one scale: the widest gets 2.4 inches
    inches_per_m = 2.4 / max(size[h] for _, h, _ in VIEWS)
    heights = [size[v] * inches_per_m for _, _, v in VIEWS]
    width, gap_x, gap_y, left, right, top, bottom = 2.4, 0.32, 0.62, 0.95, 1.0, 0.85, 0.55
    fig_width = left + columns * width + (columns - 1) * gap_x + right
    fig_height = top + sum(heights) + 2 * gap_y + bottom
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(fig_width, fig_height), dpi=160)
        FigureCanvasAgg(figure)
        image = None
        for c, (name, volume) in enumerate(volumes.items()):
            level = _level_db(volume, range_db)
            y = fig_height - top
            for r, (along, h, v) in enumerate(VIEWS):
                w = size[h] * inches_per_m
                y -= heights[r]
                x = left + c * (width + gap_x)
                box = (x / fig_width, y / fig_height, w / fig_width, heights[r] / fig_height)
                axes = figure.add_axes(box)
                picture = level.max(axis=("z", "y", "x").index(along))
                kept = [n for n in ("z", "y", "x") if n != along]
                picture = picture if kept == [v, h] else picture.T
                image = axes.imshow(
                    picture,
                    extent=(*_edges_m(volume, h), *_edges_m(volume, v)),
                    origin="lower",
                    cmap="magma",
                    vmin=-range_db,
                    vmax=0,
                    interpolation="nearest",
                    aspect="equal",
                )
                axes.set_xlim(*extent[h])
                axes.set_ylim(*extent[v])
                axes.tick_params(length=2, width=0.6, labelleft=c == 0)
                axes.set_xlabel(f"{h} (m)", labelpad=1)
                if c == 0:
                    middle = (y + heights[r] / 2) / fig_height
                    figure.text(0.14 / fig_width, middle, f"along {along}", rotation=90, va="center", ha="center")
                    axes.set_ylabel(f"{v} (m)", labelpad=2)
                if r == 0:
                    caption = (captions or {}).get(name, "")
                    axes.set_title(f"{name}\n{caption}" if captions else name, pad=5)
                y -= gap_y
        bar_x = left + columns * width + (columns - 1) * gap_x + 0.18
        bar = figure.add_axes(
            (bar_x / fig_width, bottom / fig_height, 0.14 / fig_width, 1 - (top + bottom) / fig_height)
        )
        assert image is not None
        figure.colorbar(image, cax=bar, label="magnitude (dB below each image's peak)")
        if title:
            figure.suptitle(title, x=left / fig_width, y=1 - 0.12 / fig_height, ha="left", va="top", fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "backcast"})
    write_bytes(path, buffer.getvalue())


def _level_db(volume: Volume, range_db: float) -> np.ndarray:
    """Magnitude in dB below the peak, (z, y, x), cut at -range_db; a zero volume lies at the bottom."""
    size = np.abs(volume.data if volume.axes[0] != "frame" else volume.data[0])
    peak = float(size.max())
    floor = 10 ** (-range_db / 20)
    return 20 * np.log10(np.maximum(size / peak if peak > 0 else size, floor))


def _edges_m(volume: Volume, name: str) -> tuple[float, float]:
    """Outer faces of the first and last voxel, metres."""
    values = np.asarray(volume.scale(name), dtype=float)
    step = (values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else 0.01
    return float(values[0] - step / 2), float(values[-1] + step / 2)
