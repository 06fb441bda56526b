"""Pictures of estimated channels: angular spectra with error bars, and channel matrices. Needs matplotlib alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.angular import Floats, spectrum
from data.measurement import Measurement, Volume
from data.reconstruction import Reconstruction
from pipelines.atomic import write_bytes

SIDES = ("departure minus arrival at the surface", "departure from the mobile", "arrival at the base station")
#: Spectra of more methods than this would hide each other.
MOST_SPECTRA = 3


def channel_png(
    path: Path,
    truth: Measurement,
    results: Mapping[str, Reconstruction],
    *,
    title: str = "",
    captions: Mapping[str, str] | None = None,
    spectra: tuple[str, ...] = (),
) -> None:
    """Angular spectra above, the channel of one reflection pattern below, its truth first.

    A spectrum is the root of the power of all coefficients with one direction; its error bars are one standard
    deviation of the estimate, where it has some. The channels share one colour scale in dB below the truth's largest
    entry.

    Args:
        path: PNG to write, atomically.
        truth: measurement with the true coefficients and channel; its first frame and subcarrier are drawn.
        results: by name, linear arrays.
        title: above all.
        captions: a second line below a channel's name.
        spectra: names of the results whose spectra are drawn, at most three; () for the first three.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(results)
    drawn = spectra or tuple(names[:MOST_SPECTRA])
    true_x = np.asarray(truth.extra_truth["coefficients"].values)[0, 0]
    true_h = np.asarray(truth.extra_truth["channel"].values)[0, 0]
    pattern = int(np.argmax(np.linalg.norm(true_h, axis=(-2, -1))))
    unit = [np.sqrt((np.abs(true_x) ** 2).sum(axis=tuple(k for k in range(3) if k != i)).max()) for i in range(3)]
    columns = 1 + len(names)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(max(9.6, 1.75 * columns), 6.0), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.25]))
        for i, axes in enumerate(np.atleast_1d(upper.subplots(1, 3))):
            grid = np.asarray(truth.dictionary[f"grid_{i + 1}"], dtype=float)
            height, _ = spectrum(true_x, None, i)
            axes.bar(grid, height / unit[i], width=0.8 * np.diff(grid).mean(), color="0.8", label="truth")
            step = np.diff(grid).mean() / (len(drawn) + 1)
            for k, name in enumerate(drawn):
                x, deviation = _first(results[name])
                size, error = spectrum(x, deviation, i)
                axes.errorbar(
                    grid + (k - (len(drawn) - 1) / 2) * step,
                    size / unit[i],
                    None if error is None else error / unit[i],
                    fmt="o",
                    ms=2.5,
                    lw=0.9,
                    capsize=1.5,
                    color=f"C{k}",
                    label=name,
                )
            axes.set_xlabel(f"direction sine, {SIDES[i]}")
            axes.set_ylim(0, 1.45)
            axes.tick_params(length=2, width=0.6)
            axes.grid(alpha=0.25, lw=0.5)
            if i == 0:
                axes.set_ylabel("amplitude (truth's largest = 1)")
                axes.legend(fontsize=7, ncols=2, loc="upper left", framealpha=0.8, borderaxespad=0.3)
        panels = np.atleast_1d(lower.subplots(1, columns, sharey=True))
        peak = float(np.abs(true_h[pattern]).max())
        image = None
        for axes, name in zip(panels, ("truth", *names), strict=True):
            h = true_h if name == "truth" else _channel(results[name].channel)
            level = 20 * np.log10(np.maximum(np.abs(h[pattern]) / peak, 1e-3))
            image = axes.imshow(level, vmin=-25, vmax=0, cmap="magma", aspect="auto", interpolation="nearest")
            caption = (captions or {}).get(name, "")
            axes.set_title(f"{name}\n{caption}" if captions else name, pad=4)
            axes.set_xlabel("transmit antenna")
            axes.tick_params(length=2, width=0.6)
        panels[0].set_ylabel("receive antenna")
        assert image is not None
        lower.colorbar(image, ax=list(panels), label="|H| (dB below the truth's peak)", pad=0.01, aspect=30)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "backcast"})
    write_bytes(path, buffer.getvalue())


def _first(result: Reconstruction) -> tuple[NDArray[np.complexfloating], Floats | None]:
    """Coefficients and deviations of the first frame and subcarrier."""
    skip = (0,) * (result.volume.data.ndim - 3)
    return result.volume.data[skip], None if result.uncertainty is None else result.uncertainty[skip]


def _channel(channel: Volume | None) -> NDArray[np.complexfloating]:
    assert channel is not None
    return np.asarray(channel.data[(0,) * (channel.data.ndim - 3)])
