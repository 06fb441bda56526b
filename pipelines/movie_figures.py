"""Pictures of movies and slices: side by side with their errors, and an animation. Needs matplotlib, no display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.atomic import write_bytes

if TYPE_CHECKING:
    from data.measurement import Volume

#: Frames drawn, as shares of the movie.
SHOWN = (0.0, 0.5, 1.0)
SECONDS_PER_LOOP = 6.0
MOST_FRAMES = 64


def movie_png(
    path: Path,
    movies: Mapping[str, Volume],
    errors: Mapping[str, np.ndarray],
    *,
    title: str = "",
    captions: Mapping[str, str] | None = None,
) -> None:
    """First, middle and last frame of each movie, one column per movie, above their errors over time.

    Args:
        path: PNG to write, atomically.
        movies: by name, in the order of the columns; axes frame, z, y, x; the middle slice is drawn. The first sets the
            colours, 0 to its largest value.
        errors: PSNR of every frame, dB, (frame,), by name.
        title: above all. captions: a second line below a movie's name.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = next(iter(movies.values()))
    times = np.asarray(first.scale("frame"), dtype=float)
    shown = [round(share * (len(times) - 1)) for share in SHOWN]
    top = _top(first)
    n = len(movies)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(2.3 * n + 1.3, 2.2 * len(shown) + 3.1), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(len(shown) + 1, n, height_ratios=[1.0] * len(shown) + [1.15])
        image: Any = None
        panels = []
        for c, (name, movie) in enumerate(movies.items()):
            for r, frame in enumerate(shown):
                axes = figure.add_subplot(grid[r, c])
                image = axes.imshow(_slice(movie, frame), **_drawing(movie, top))
                panels.append(axes)
                if r == 0:
                    more = (captions or {}).get(name, "")
                    axes.set_title(f"{name}\n{more}" if more else name)
                if c == 0:
                    axes.set_ylabel(f"t = {times[frame]:.4g} s\ny (mm)")
                else:
                    axes.set_yticklabels([])
                if r == len(shown) - 1:
                    axes.set_xlabel("x (mm)")
                else:
                    axes.set_xticklabels([])
        figure.colorbar(image, ax=panels, label=_label(first), shrink=0.6, pad=0.01)
        axes = figure.add_subplot(grid[-1, :])
        for name, values in errors.items():
            axes.plot(times, values, label=name, linewidth=1.2)
        axes.set_xlabel("time (s)")
        axes.set_ylabel("PSNR of the frame (dB)")
        axes.grid(alpha=0.3)
        axes.legend(ncols=len(errors), loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)
        if title:
            figure.suptitle(title, fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def movie_gif(path: Path, movies: Mapping[str, Volume], *, pixels: int = 256) -> None:
    """The movies side by side, animated: grey from 0 to the largest value of the first, names above.

    Args:
        path: GIF to write, atomically.
        movies: as in `movie_png`.
        pixels: width of one movie.
    """
    from PIL import Image, ImageDraw

    first = next(iter(movies.values()))
    top = _top(first)
    n_frames = first.n("frame")
    chosen = np.unique(np.linspace(0, n_frames - 1, min(n_frames, MOST_FRAMES)).round().astype(int))
    head = 18
    frames = []
    for frame in chosen.tolist():
        canvas = Image.new("L", (len(movies) * (pixels + 4) - 4, pixels + head), 255)
        draw = ImageDraw.Draw(canvas)
        for c, (name, movie) in enumerate(movies.items()):
            grey = np.clip(_slice(movie, frame)[::-1] / top, 0, 1)
            panel = Image.fromarray(np.round(255 * grey).astype(np.uint8))
            canvas.paste(panel.resize((pixels, pixels), Image.Resampling.NEAREST), (c * (pixels + 4), head))
            draw.text((c * (pixels + 4) + 2, 3), name, fill=0)
        frames.append(canvas)
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=1000 * SECONDS_PER_LOOP / len(frames),
        loop=0,
    )
    write_bytes(path, buffer.getvalue())


def slices_png(
    path: Path, volumes: Mapping[str, Volume], *, title: str = "", captions: Mapping[str, str] | None = None
) -> None:
    """The middle slice of each volume, above its difference from the first.

    Args:
        path: PNG to write, atomically.
        volumes: by name, in the order of the columns; magnitudes of complex ones. The first sets the colours, 0 to its
            largest value; differences are shown up to a fifth of it.
        title: above all. captions: a second line below a volume's name.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = next(iter(volumes.values()))
    top, n = _top(first), len(volumes)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(2.3 * n + 1.3, 6.0), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(2, n, squeeze=False)
        image: Any = None
        difference: Any = None
        for c, (name, volume) in enumerate(volumes.items()):
            image = rows[0, c].imshow(_slice(volume, 0), **_drawing(volume, top))
            more = (captions or {}).get(name, "")
            rows[0, c].set_title(f"{name}\n{more}" if more else name)
            if c == 0:
                rows[0, 0].set_xlabel("x (mm)")
                rows[0, 0].set_ylabel("y (mm)")
                rows[1, 0].set_axis_off()
                continue
            options = {**_drawing(volume, top), "cmap": "RdBu_r", "vmin": -top / 5, "vmax": top / 5}
            difference = rows[1, c].imshow(_slice(volume, 0) - _slice(first, 0), **options)
            rows[0, c].set(xticklabels=[], yticklabels=[])
            rows[1, c].set_xlabel("x (mm)")
            if c > 1:
                rows[1, c].set_yticklabels([])
        figure.colorbar(image, ax=rows[0].tolist(), label=_label(first), shrink=0.8, pad=0.01)
        if difference is not None:
            figure.colorbar(difference, ax=rows[1].tolist(), label="difference", shrink=0.8, pad=0.01)
        if title:
            figure.suptitle(title, fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def _top(volume: Volume) -> float:
    data = np.asarray(volume.data)
    return float((np.abs(data) if np.iscomplexobj(data) else data).max())


def _label(volume: Volume) -> str:
    return "attenuation (1/m)" if volume.quantity == "attenuation" else "magnitude"


def _slice(movie: Volume, frame: int) -> np.ndarray:
    data = np.asarray(movie.data)
    data = np.abs(data) if np.iscomplexobj(data) else data
    data = data if movie.axes[0] == "frame" else data[None]
    return np.asarray(data[min(frame, len(data) - 1), data.shape[1] // 2])


def _drawing(movie: Volume, top: float) -> dict[str, Any]:
    """Keywords of imshow: millimetres, y upwards."""
    extent = []
    for name in ("x", "y"):
        values = 1e3 * np.asarray(movie.scale(name), dtype=float)
        half = (values[1] - values[0]) / 2 if len(values) > 1 else 0.5
        extent += [values[0] - half, values[-1] + half]
    return {"cmap": "gray", "vmin": 0.0, "vmax": top, "origin": "lower", "extent": extent, "interpolation": "nearest"}
