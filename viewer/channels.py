"""Estimated channels as napari layers: angular spectra with standard deviations, coefficients, channel matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.angular import Floats, spectrum
from data.measurement import Measurement, Volume
from data.reconstruction import Reconstruction
from viewer.layers import RANGE_DB, image, limits_of, volume_layers
from viewer.sampled import _decibels
from viewer.source import ROLE, LayerData

#: What the axes of a dictionary stand for.
SIDES = ("departure minus arrival at the surface", "departure from the mobile", "arrival at the base station")
#: Width and height of a drawn spectrum, and the gap to the next below.
WIDE, HIGH, GAP = 3.0, 0.7, 0.45


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The angular spectrum along one axis of a dictionary.

    Args:
        side: what its directions are.
        directions: direction sines (N,).
        amplitude: root power of the coefficients of each, over the largest of truth and estimate.
        deviation: standard deviation, same unit; None where the method has none.
        truth: amplitude of the true coefficients; None where they are not known.
    """

    side: str
    directions: Floats
    amplitude: Floats
    deviation: Floats | None
    truth: Floats | None


def spectra_of(
    result: Reconstruction, measurement: Measurement | None = None, problem: tuple[int, ...] = ()
) -> list[Spectrum]:
    """Angular spectra of a channel, one per axis of its dictionary.

    Args:
        result: of irs_mimo.
        measurement: its input, for the true coefficients.
        problem: indices of the axes in front of the dictionary's (frame, subcarrier); () takes the first.
    """
    volume = result.volume
    axes = [a for a in volume.axes if a not in ("frame", "subcarrier")]
    n_front = len(volume.axes) - len(axes)
    where = problem or (0,) * n_front
    x = np.asarray(volume.data[where])
    deviation = None if result.uncertainty is None else np.asarray(result.uncertainty[where])
    true = None if measurement is None else measurement.extra_truth.get("coefficients")
    true_x = None if true is None else np.asarray(true.values)
    if true_x is not None and true_x.ndim > x.ndim:
        true_x = true_x[(0,) * (true_x.ndim - x.ndim) if not problem else (*problem, 0, 0)[: true_x.ndim - x.ndim]]
    if true_x is not None and (true_x.shape != x.shape or not true_x.any()):
        true_x = None
    found = []
    for i, axis in enumerate(axes):
        amplitude, spread = spectrum(x, deviation, i)
        truth = None if true_x is None else spectrum(true_x, None, i)[0]
        top = float(max(amplitude.max(), truth.max() if truth is not None else 0.0)) or 1.0
        number = int(axis.split("_")[1]) if axis.startswith("grid_") and axis.split("_")[1].isdigit() else i + 1
        side = SIDES[number - 1] if 1 <= number <= 3 else axis
        found.append(
            Spectrum(
                f"{side}, across" if axis.endswith("_v") else side,
                np.asarray(volume.scale(axis), dtype=float),
                amplitude / top,
                None if spread is None else spread / top,
                None if truth is None else truth / top,
            )
        )
    return found


def channel_layers(
    result: Reconstruction, measurement: Measurement | None = None, *, name: str = ""
) -> list[LayerData]:
    """Angular spectra (shown), coefficients and their standard deviations, and channels in dB (hidden)."""
    layers = spectrum_layers(spectra_of(result, measurement), name=name)
    hidden = volume_layers(result.volume, name=f"{name} coefficient", visible=False)
    if result.uncertainty is not None:
        spread = np.asarray(result.uncertainty)
        limits = limits_of(spread)
        word = f"{name} coefficient standard deviation"
        hidden.append(image(result.volume, spread, word, "uncertainty", limits, "viridis", visible=False))
    for channel, word in ((result.channel, "channel"), (_true_channel(measurement), "true channel")):
        if channel is not None:
            level = _decibels(np.abs(channel.data), RANGE_DB)
            limits = (-RANGE_DB, 0.0)
            about = {"units": "dB"}
            text = f"{name} {word} (dB)"
            hidden.append(image(channel, level, text, word, limits, "magma", visible=False, metadata=about))
    return [*hidden, *layers]


def spectrum_layers(spectra: list[Spectrum], *, name: str = "") -> list[LayerData]:
    """Each spectrum as points with error bars, one below the other, the truth behind as bars; 1 is HIGH."""
    shapes: list[NDArray[Any]] = []
    kinds: list[str] = []
    colors: list[str] = []
    widths: list[float] = []

    def draw(kind: str, points: Any, color: str, width: float) -> None:
        shapes.append(np.asarray(points, dtype=float))
        kinds.append(kind)
        colors.append(color)
        widths.append(width)

    labels, places = [], []
    for k, s in enumerate(spectra):
        foot = -k * (HIGH + GAP)
        span = float(s.directions[-1] - s.directions[0]) or 1.0
        x = WIDE * (s.directions - s.directions[0]) / span
        step = WIDE / max(len(x) - 1, 1)
        if s.truth is not None:
            for at, value in zip(x, s.truth, strict=True):
                if value > 0:
                    draw("line", [[foot, at], [foot + HIGH * value, at]], "#5a6b80", 0.5 * step)
        draw("path", [[foot + HIGH, -0.05], [foot, -0.05], [foot, WIDE + 0.05]], "#aaaaaa", 0.008)
        for at, value in zip(x, s.amplitude, strict=True):
            half = 0.012
            level = foot + HIGH * value
            draw("line", [[level, at - half], [level, at + half]], "#ff8c42", 0.03)
        for at, value, spread in zip(x, s.amplitude, s.deviation if s.deviation is not None else (), strict=False):
            low, high = foot + HIGH * max(value - spread, 0.0), foot + HIGH * (value + spread)
            draw("line", [[low, at], [high, at]], "#4ecdc4", 0.01)
            for end in (low, high):
                draw("line", [[end, at - 0.025], [end, at + 0.025]], "#4ecdc4", 0.01)
        labels += [s.side, f"{s.directions[0]:.3g}", f"{s.directions[-1]:.3g}", "1"]
        places += [[foot + HIGH + 0.1, WIDE / 2], [foot - 0.08, 0.0], [foot - 0.08, WIDE], [foot + HIGH, -0.15]]
    drawn: dict[str, Any] = {
        "name": f"{name} angular spectra".strip(),
        "shape_type": kinds,
        "edge_color": colors,
        "edge_width": widths,
        "face_color": "transparent",
        "opacity": 1.0,
        "units": ("dimensionless",) * 2,
        "axis_labels": ("amplitude", "direction sine"),
        "metadata": {ROLE: "spectra", "spectra": spectra},
    }
    written: dict[str, Any] = {
        "name": f"{name} labels".strip(),
        "features": {"label": labels},
        "text": {"string": "{label}", "size": 10, "color": "white"},
        "size": 0.001,
        "opacity": 1.0,
        "face_color": "transparent",
        "border_color": "transparent",
        "units": ("dimensionless",) * 2,
        "axis_labels": ("amplitude", "direction sine"),
        "metadata": {ROLE: "spectra labels"},
    }
    return [(shapes, drawn, "shapes"), (np.asarray(places), written, "points")]


def _true_channel(m: Measurement | None) -> Volume | None:
    from data.measurement import Scale

    truth = None if m is None else m.extra_truth.get("channel")
    if truth is None or not np.any(truth.values):
        return None
    values = np.asarray(truth.values)
    kept = [i for i, (n, a) in enumerate(zip(values.shape, truth.axes, strict=True)) if n > 1 or a in _MATRIX]
    axes = tuple(truth.axes[i] for i in kept)
    values = values.reshape([values.shape[i] for i in kept])
    scales = {a: Scale(values=np.arange(n, dtype=np.int32), units="1") for a, n in zip(axes, values.shape, strict=True)}
    return Volume(data=values, axes=axes, scales=scales)


_MATRIX = ("config", "rx", "tx")
