"""The widget *Channel*: angular spectra with standard deviations, and the evidence."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QFormLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from viewer.canvas import Plot, listen
from viewer.channels import spectra_of
from viewer.plots import draw_evidence, draw_spectra
from viewer.source import source_of


class ChannelWidget(QWidget):
    """Of the selected layer's channel: spectra of one frame and subcarrier, evidence over the iterations."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.words = QLabel("", wordWrap=True)
        self.spectra, self.evidence = Plot(height=380), Plot(height=160)
        self.choices: dict[str, QSpinBox] = {name: QSpinBox(minimum=0, maximum=0) for name in ("frame", "subcarrier")}
        layout = QVBoxLayout(self)
        layout.addWidget(self.words)
        top = QFormLayout()
        for name, box in self.choices.items():
            top.addRow(name, box)
            box.valueChanged.connect(self.refresh)
        layout.addLayout(top)
        layout.addWidget(self.spectra, 3)
        layout.addWidget(self.evidence, 1)
        listen(self, self.viewer.layers.selection.events.active, self.refresh)
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Look at the selected layer."""
        layer = self.viewer.layers.selection.active
        source = None if layer is None else source_of(layer.metadata)
        result = None if source is None else source.result
        if source is None or result is None or result.modality != "irs_mimo":
            self.words.setText("select a layer of an estimated channel")
            self.spectra.clear()
            self.evidence.clear()
            return
        axes = result.volume.axes
        for name, box in self.choices.items():
            box.blockSignals(True)
            box.setMaximum(result.volume.n(name) - 1 if name in axes else 0)
            box.setEnabled(name in axes)
            box.blockSignals(False)
        problem = tuple(self.choices[name].value() for name in axes if name in self.choices)
        self.spectra.put(draw_spectra, spectra_of(result, source.measurement, problem))
        figures = [
            f"{label} {float(result.metrics[name].value):.3g}{unit}"
            for name, label, unit in (("nmse_db", "NMSE", " dB"), ("support_recovery", "support recovery", ""))
            if name in result.metrics and not hasattr(result.metrics[name].value, "shape")
        ]
        self.words.setText(", ".join([source.name, *figures]))
        if result.convergence is None:
            self.evidence.clear()
        else:
            self.evidence.put(draw_evidence, result.convergence.columns)
