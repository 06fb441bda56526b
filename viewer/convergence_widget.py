"""The widget *Convergence and metrics*: how the selected result, or a run that goes on, came about."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtWidgets import QLabel, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from viewer.canvas import Plot, listen
from viewer.plots import draw_convergence
from viewer.source import source_of


class ConvergenceWidget(QWidget):
    """Residuals, objective, PSNR, stop reason and figures of merit of the selected layer's result."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.plot = Plot(height=260)
        self.words = QLabel("", wordWrap=True)
        self.table = QTableWidget(0, 4)
        self.table.setHorizontalHeaderLabels(["figure", "value", "unit", "definition"])
        self.table.horizontalHeader().setStretchLastSection(True)
        layout = QVBoxLayout(self)
        layout.addWidget(self.words)
        layout.addWidget(self.plot, 2)
        layout.addWidget(self.table, 1)
        self._followed: Any = None
        self.destroyed.connect(lambda: self._follow(None))
        listen(self, self.viewer.layers.selection.events.active, self.refresh)
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Look at the selected layer, and follow it while it changes."""
        layer = self.viewer.layers.selection.active
        self._follow(layer)
        source = None if layer is None else source_of(layer.metadata)
        history = None if layer is None else layer.metadata.get("backcast_history")
        result = None if source is None else source.result
        self.table.setRowCount(0)
        if result is None:
            if history is not None and source is not None:
                self.words.setText(f"{source.name}: going on")
                self.plot.put(draw_convergence, history.columns, evidence=_is_channel(source))
            else:
                self.words.setText("select a layer of a result")
                self.plot.clear()
            return
        assert source is not None
        c = result.convergence
        if c is None:
            self.words.setText(f"{source.name}: a direct method, without iterations")
            self.plot.clear()
        else:
            reached = "tolerance reached" if c.converged else "tolerance not reached"
            self.words.setText(
                f"{source.name}: {result.status}, {c.n_iterations} iterations, ended by {c.stop_reason} ({reached})"
            )
            self.plot.put(draw_convergence, c.columns, evidence=_is_channel(source))
        for name, metric in sorted(result.metrics.items()):
            value = np.atleast_1d(np.asarray(metric.value, dtype=float))
            text = f"{value.mean():.4g}" + (f" (mean of {value.size} frames)" if value.size > 1 else "")
            self._row(name, text, metric.units, metric.definition)
        for name in ("device", "precision", "wall_time", "denoiser", "command_line"):
            if name in result.provenance:
                self._row(name, str(result.provenance[name]), "s" if name == "wall_time" else "", "provenance")
        self.table.resizeColumnsToContents()

    def _follow(self, layer: Any) -> None:
        """Listen to the data of `layer` in place of those of the layer before."""
        if self._followed is layer:
            return
        if self._followed is not None:
            self._followed.events.data.disconnect(self.refresh)
        if layer is not None:
            layer.events.data.connect(self.refresh)
        self._followed = layer

    def _row(self, *cells: str) -> None:
        at = self.table.rowCount()
        self.table.insertRow(at)
        for column, cell in enumerate(cells):
            item = QTableWidgetItem(cell)
            item.setToolTip(cell)
            self.table.setItem(at, column, item)


def _is_channel(source: Any) -> bool:
    """Whether an objective is minus the log evidence: of channels estimated by sparse Bayesian learning."""
    result = source.result
    if result is None:
        return source.measurement is not None and source.measurement.modality == "irs_mimo"
    return result.modality == "irs_mimo" and "sbl" in source.method
