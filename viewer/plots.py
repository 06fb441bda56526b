"""Curves beside the canvas: convergence, angular spectra, profiles. matplotlib alone, no Qt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from viewer.channels import Spectrum

#: napari's dark theme.
BACK, FORE, FAINT = "#262930", "#d0d3da", "#4b5160"
COLORS = ("#ff8c42", "#4ecdc4", "#c792ea", "#f4d35e", "#7aa6ff")
#: Columns of a convergence log that are drawn together, and their words.
RESIDUALS = {
    "data_fidelity": "‖Ax − y‖ / ‖y‖",
    "primal_residual": "primal residual",
    "dual_residual": "dual residual",
    "relative_change": "relative change",
}


def draw_convergence(figure: Figure, columns: Mapping[str, NDArray[Any]], *, evidence: bool = False) -> None:
    """Residuals on a logarithmic axis; below the objective (of channels: the evidence), and PSNR if there is a truth.

    Args:
        figure: cleared first.
        columns: of a convergence log, float (n,), with `iteration`.
        evidence: the objective is minus the log evidence but for a constant, and drawn with its sign turned.
    """
    figure.clear()
    at = np.asarray(columns.get("iteration", ()), dtype=float)
    further = [name for name in ("objective", "psnr") if _has(columns, name)]
    panels = figure.subplots(1 + len(further), 1, sharex=True, squeeze=False)[:, 0]
    for color, (name, words) in zip(COLORS, RESIDUALS.items(), strict=False):
        if _has(columns, name):
            values = np.asarray(columns[name], dtype=float)
            panels[0].plot(at, np.where(values > 0, values, np.nan), ".-", ms=3, lw=1, color=color, label=words)
    panels[0].set_yscale("log")
    panels[0].set_ylabel("residuals")
    if panels[0].lines:
        panels[0].legend(fontsize=7, facecolor=BACK, edgecolor=FAINT, labelcolor=FORE)
    for axes, name in zip(panels[1:], further, strict=True):
        values = np.asarray(columns[name], dtype=float)
        turned = evidence and name == "objective"
        axes.plot(at, -values if turned else values, ".-", ms=3, lw=1, color=COLORS[0])
        axes.set_ylabel("log evidence" if turned else {"objective": "objective", "psnr": "PSNR (dB)"}[name])
    panels[-1].set_xlabel("iteration")
    _finish(figure)


def draw_evidence(figure: Figure, columns: Mapping[str, NDArray[Any]]) -> None:
    """The log evidence over the iterations, but for a constant; nothing where a method has none."""
    figure.clear()
    if _has(columns, "objective"):
        axes = figure.subplots()
        at = np.asarray(columns["iteration"], dtype=float)
        axes.plot(at, -np.asarray(columns["objective"], dtype=float), ".-", ms=3, lw=1, color=COLORS[0])
        axes.set_xlabel("iteration")
        axes.set_ylabel("log evidence")
    _finish(figure)


def draw_spectra(figure: Figure, spectra: Sequence[Spectrum]) -> None:
    """One panel per axis of the dictionary: the truth as bars, the estimate as points with one standard deviation."""
    figure.clear()
    panels = figure.subplots(len(spectra), 1, squeeze=False)[:, 0]
    for axes, s in zip(panels, spectra, strict=True):
        step = float(np.diff(s.directions).mean()) if len(s.directions) > 1 else 1.0
        if s.truth is not None:
            axes.bar(s.directions, s.truth, width=0.8 * step, color=FAINT, label="truth")
        axes.errorbar(
            s.directions,
            s.amplitude,
            s.deviation,
            fmt="o",
            ms=3,
            lw=1,
            capsize=2,
            color=COLORS[0],
            ecolor=COLORS[1],
            label="estimate, 1 standard deviation" if s.deviation is not None else "estimate",
        )
        axes.set_xlabel(f"direction sine, {s.side}")
        axes.set_ylim(0, None)
    panels[len(panels) // 2].set_ylabel("amplitude (largest = 1)")
    panels[0].legend(fontsize=7, facecolor=BACK, edgecolor=FAINT, labelcolor=FORE)
    _finish(figure)


def draw_profiles(
    figure: Figure, distance: NDArray[Any], profiles: Mapping[str, NDArray[Any]], *, along: str, units: str
) -> None:
    """Values along a line; `along` is the unit of the distance, `units` that of the values."""
    figure.clear()
    axes = figure.subplots()
    for color, (name, values) in zip(COLORS, profiles.items(), strict=False):
        axes.plot(distance, values, lw=1.2, color=color, label=name)
    axes.set_xlabel(f"distance along the line ({along})")
    axes.set_ylabel(f"value ({units})" if units not in ("", "1") else "value")
    if profiles:
        axes.legend(fontsize=7, facecolor=BACK, edgecolor=FAINT, labelcolor=FORE)
    _finish(figure)


def _has(columns: Mapping[str, NDArray[Any]], name: str) -> bool:
    values = columns.get(name)
    return values is not None and bool(np.isfinite(np.asarray(values, dtype=float)).any())


def _finish(figure: Figure) -> None:
    figure.set_facecolor(BACK)
    for axes in figure.axes:
        _darken(axes)


def _darken(axes: Axes) -> None:
    axes.set_facecolor(BACK)
    axes.tick_params(colors=FORE, labelsize=7, length=2, width=0.6)
    axes.grid(color=FAINT, lw=0.4, alpha=0.6)
    for word in (axes.xaxis.label, axes.yaxis.label, axes.title):
        word.set_color(FORE)
        word.set_fontsize(8)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
