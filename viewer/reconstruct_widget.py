"""The widget *Reconstruct*: a method's form, a run that is seen while it goes on, and its result saved."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import GeneratorWorker

from data.measurement import Volume
from data.reconstruction import Reconstruction
from viewer.canvas import listen
from viewer.layers import limits_of, volume_layers
from viewer.opening import layers_from, load
from viewer.running import History, RunFailed, Update, live_methods, updates
from viewer.settings import update_every, voxels_3d
from viewer.show import add, arrange, prepare
from viewer.source import Source, role_of, source_of, with_source

#: Roles of layers that show what was measured, in counts of samples.
SAMPLED = ("samples", "samples phase", "pilots", "irs_reflection")


class ReconstructWidget(QWidget):
    """Choose a measurement and a method, run, watch, pause, cancel, save."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.live = live_methods()
        self.worker: GeneratorWorker | None = None
        self.source: Source | None = None  # of the run
        self.result: Source | None = None  # of the last run that ended
        self.layer: Any = None
        self.history = History()
        self._ready = threading.Event()
        self._known: list[Source] = []
        self._forms: list[Any] = []
        self._inputs: dict[str, tuple[QWidget, str]] = {}
        self._build()
        listen(self, self.viewer.layers.events.inserted, self._look)
        self._look()
        runs = self._runs = _Runs()
        self.destroyed.connect(lambda: runs.end())

    # -- what is on it --------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.measurements, self.methods = QComboBox(), QComboBox()
        self.open_button, self.samples_box = QPushButton("Open..."), QCheckBox("samples")
        self.samples_box.setToolTip("show what was measured in place of the scene")
        self.summary = QLabel(wordWrap=True)
        self.form = QFormLayout()
        inside = QWidget()
        inside.setLayout(self.form)
        scroll = QScrollArea(widgetResizable=True)
        scroll.setWidget(inside)
        scroll.setMinimumHeight(160)
        self.every = QSpinBox(minimum=1, maximum=1000, value=update_every())
        self.every.setToolTip("iterations between two updates of the layer")
        self.run_button, self.pause_button = QPushButton("Run"), QPushButton("Pause")
        self.cancel_button, self.save_button = QPushButton("Cancel"), QPushButton("Save...")
        self.bar, self.status = QProgressBar(), QLabel("", wordWrap=True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QVBoxLayout(self)
        head = QHBoxLayout()
        head.addWidget(self.measurements, 1)
        head.addWidget(self.open_button)
        head.addWidget(self.samples_box)
        layout.addLayout(head)
        top = QFormLayout()
        top.addRow("method", self.methods)
        layout.addLayout(top)
        layout.addWidget(self.summary)
        layout.addWidget(scroll, 1)
        below = QFormLayout()
        below.addRow("update every", self.every)
        layout.addLayout(below)
        buttons = QHBoxLayout()
        for button in (self.run_button, self.pause_button, self.cancel_button, self.save_button):
            buttons.addWidget(button)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        self.measurements.currentIndexChanged.connect(self._choose_measurement)
        self.methods.currentIndexChanged.connect(self._choose_method)
        self.open_button.clicked.connect(self._ask_open)
        self.samples_box.toggled.connect(self.show_samples)
        self.run_button.clicked.connect(self.run)
        self.pause_button.clicked.connect(self.pause)
        self.cancel_button.clicked.connect(self.cancel)
        self.save_button.clicked.connect(self._ask_save)
        self._enable()

    def _enable(self) -> None:
        busy = self.worker is not None
        self.run_button.setEnabled(not busy and self.measurements.count() > 0)
        self.pause_button.setEnabled(busy)
        self.cancel_button.setEnabled(busy)
        self.save_button.setEnabled(not busy and self.result is not None)
        self.pause_button.setText("Pause")

    def _look(self, event: Any = None) -> None:
        """Take in the measurements of layers that are new."""
        for layer in list(self.viewer.layers):
            source = source_of(layer.metadata)
            if source is not None and source.measurement is not None:
                self._take(source)

    def _take(self, source: Source) -> None:
        if any(s.measurement is source.measurement for s in self._known):
            return
        path = source.path
        if source.result is not None:  # the input of a result
            named = str(source.result.provenance.get("input_file", ""))
            path = path.parent / named if path is not None and named else None
        name = path.stem if path is not None else source.name
        self._known.append(Source(name=name, path=path, measurement=source.measurement))
        self.measurements.addItem(name)
        self._enable()

    def _chosen(self) -> Source | None:
        index = self.measurements.currentIndex()
        return self._known[index] if index >= 0 else None

    def _choose_measurement(self, index: int = 0) -> None:
        chosen = self._chosen()
        if chosen is None or chosen.measurement is None:
            return
        m = chosen.measurement
        moving = "frame" in m.axes and m.n("frame") > 1
        before = self.methods.currentText()
        self._forms = self.live.forms(m.modality, moving=moving)
        self.methods.blockSignals(True)
        self.methods.clear()
        self.methods.addItems([f.name for f in self._forms])
        names = [f.name for f in self._forms]
        default = next(i for i, f in enumerate(self._forms) if f.default)
        self.methods.setCurrentIndex(names.index(before) if before in names else default)
        self.methods.blockSignals(False)
        self._choose_method()
        self._enable()

    def _choose_method(self, index: int = 0) -> None:
        form = self._forms[self.methods.currentIndex()]
        self.summary.setText(f"{form.kind}: {form.summary}")
        while self.form.rowCount():
            self.form.removeRow(0)
        self._inputs = {}
        for field in form.fields:
            edit: QWidget
            if field.choices:
                edit = QComboBox()
                edit.addItems(field.choices)
                edit.setCurrentText(field.value)
            elif field.name == "denoiser.file":
                edit = QComboBox()
                edit.setEditable(True)
                edit.addItems(list(dict.fromkeys([field.value, *self.live.denoisers()])))
            else:
                edit = QLineEdit(field.value)
            edit.setToolTip(f"{field.doc} ({field.expected})")
            self._inputs[field.name] = edit, field.value
            self.form.addRow(field.name, edit)

    def value(self, name: str) -> str:
        """What the form says for a key."""
        edit = self._inputs[name][0]
        return str(edit.currentText() if isinstance(edit, QComboBox) else edit.text()).strip()

    def set_value(self, name: str, text: str) -> None:
        """Write a key's value into the form."""
        edit = self._inputs[name][0]
        if isinstance(edit, QComboBox):
            edit.setCurrentText(text)
        else:
            edit.setText(text)

    def assignments(self) -> list[str]:
        """What differs from the defaults, as ``-s`` takes it."""
        changed = ((name, self.value(name), default) for name, (_, default) in self._inputs.items())
        return [f"{name}={now}" for name, now, default in changed if now != default]

    # -- what it does ---------------------------------------------------------------------------------------

    def open(self, path: str) -> None:
        """Open a measurement: its samples become layers."""
        try:
            source = load(path)
            prepare(self.viewer)
            for layer in layers_from(source, voxels_3d=voxels_3d()):
                add(self.viewer, *layer)
        except (ValueError, OSError) as error:
            show_error(str(error))
            return
        index = next((i for i, s in enumerate(self._known) if s.measurement is source.measurement), None)
        if index is not None:
            self.measurements.setCurrentIndex(index)

    def show_samples(self, wanted: bool) -> None:
        """Add or remove the samples of the chosen measurement; the scale bar has a unit without them."""
        chosen = self._chosen()
        if chosen is None:
            return
        there = [
            layer
            for layer in self.viewer.layers
            if role_of(layer.metadata) in SAMPLED
            and (s := source_of(layer.metadata)) is not None
            and s.measurement is chosen.measurement
        ]
        if wanted and not there:
            for layer in layers_from(chosen):
                add(self.viewer, *layer)
        elif not wanted:
            for layer in there:
                self.viewer.layers.remove(layer)

    def run(self) -> None:
        """Start the method on the measurement."""
        chosen = self._chosen()
        if chosen is None or chosen.measurement is None or self.worker is not None:
            return
        method = self.methods.currentText()
        try:
            self.live.configuration(method, chosen.measurement.modality, self.assignments())
        except ValueError as error:
            show_error(str(error))
            return
        self.source, self.layer, self.history, self._done = chosen, None, History(), False
        self._cancelled = False
        self._ready.set()
        self._method = method
        source = chosen.path if chosen.path is not None and chosen.path.is_file() else None
        self.worker = GeneratorWorker(
            updates,
            self.live,
            chosen.measurement,
            method,
            self.assignments(),
            every=self.every.value(),
            source=source,
            ready=self._ready,
        )
        self.worker.yielded.connect(self._update)
        self.worker.returned.connect(self._returned)
        self.worker.errored.connect(self._errored)
        self.worker.aborted.connect(self._aborted)
        self.worker.finished.connect(self._finished)
        self._runs.worker = self.worker
        self.samples_box.setChecked(False)
        self.show_samples(False)
        self.bar.setRange(0, 0)
        self.status.setText(f"{method}: preparing")
        self._began = time.monotonic()
        self._enable()
        self.worker.start()

    def pause(self) -> None:
        """Wait after the iteration that is going on, or go on."""
        if self.worker is None:
            return
        resume = self.worker.is_paused
        self.worker.toggle_pause()
        self.pause_button.setText("Pause" if resume else "Resume")

    def cancel(self) -> None:
        """End after the iteration that is going on; the layer keeps the last image."""
        if self.worker is not None:
            self._cancelled = True
            self.status.setText("cancelling after this iteration")
            self._runs.end()

    def save(self, path: str) -> None:
        """Write the last result, with its provenance."""
        if self.result is None or self.result.result is None:
            return
        source = self.source.path if self.source is not None else None
        try:
            saved = self.live.save(Path(path), self.result.result, source)
        except (ValueError, OSError) as error:
            show_error(str(error))
            return
        self.result = Source(name=self.result.name, path=Path(path), measurement=self.result.measurement, result=saved)
        self.status.setText(f"saved {path}")

    # -- what the worker says -------------------------------------------------------------------------------

    def _update(self, update: Update) -> None:
        self.history.add(update.rows)
        self.bar.setRange(0, update.max_iter)
        self.bar.setValue(update.iteration)
        row = update.rows[0] if update.rows else {}
        fit = f", residual {row['data_fidelity']:.3g}" if "data_fidelity" in row else ""
        psnr = f", PSNR {row['psnr']:.1f} dB" if "psnr" in row else ""
        left = update.seconds_left
        self.status.setText(
            f"{self._method}: iteration {update.iteration} of at most {update.max_iter}{fit}{psnr}; at most "
            f"{left:.0f} s left"
        )
        if update.volume is not None:
            try:
                self._show(update.volume)
            finally:
                self._ready.set()

    def _show(self, volume: Volume) -> None:
        """The image so far in the run's layer; the first one makes it."""
        assert self.source is not None
        size = np.abs(volume.data).astype(np.float32) if np.iscomplexobj(volume.data) else volume.data
        if self.layer is not None and self.layer in self.viewer.layers and not self.layer.multiscale:
            self.layer.contrast_limits = limits_of(size)
            self.layer.data = size
            return
        name = f"{self.source.name} {self._method}"
        try:
            first = volume_layers(volume, name=name, voxels_3d=voxels_3d())[:1]
        except ValueError as error:
            show_error(str(error))
            return
        source = Source(name=name, measurement=self.source.measurement)
        (layer,) = with_source(first, source)
        layer[1]["metadata"]["backcast_history"] = self.history
        if self.layer is not None and self.layer in self.viewer.layers:
            self.viewer.layers.remove(self.layer)
        prepare(self.viewer)
        self.layer = add(self.viewer, *layer)
        arrange(self.viewer)

    def _returned(self, result: Reconstruction | None) -> None:
        if result is None or self.source is None:
            return
        self._done = True
        name = f"{self.source.name} {self._method}"
        self.result = Source(name=name, measurement=self.source.measurement, result=result)
        try:
            layers = layers_from(self.result, voxels_3d=voxels_3d())
        except ValueError as error:
            show_error(str(error))
            return
        was = self.layer
        if was is not None and was in self.viewer.layers:
            self.viewer.layers.remove(was)
        prepare(self.viewer)
        added = [add(self.viewer, *layer) for layer in layers]
        self.layer = next((a for a in added if role_of(a.metadata) == "magnitude"), added[0])
        if was is None or result.modality == "irs_mimo":  # spectra are flat, coefficients were not
            arrange(self.viewer)
        self.viewer.layers.selection.active = self.layer
        for note in result.warnings:
            show_info(note)
        c = result.convergence
        ended = f"{c.n_iterations} iterations, ended by {c.stop_reason}" if c is not None else "done"
        figures = ", ".join(
            f"{key} {float(np.mean(m.value)):.3g}{'' if m.units == '1' else ' ' + m.units}"
            for key, m in result.metrics.items()
            if key in ("measurement_residual", "psnr", "ssim", "nmse_db")
        )
        self.status.setText(f"{self._method}: {ended} in {time.monotonic() - self._began:.1f} s; {figures}")

    def _errored(self, error: Exception) -> None:
        text = str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}"
        self.status.setText(text)
        show_error(text)

    def _aborted(self) -> None:
        self.status.setText(f"{self._method}: cancelled; the layer keeps the last image")

    def _finished(self) -> None:
        self.worker = self._runs.worker = None
        self.bar.setRange(0, 1)
        self.bar.setValue(int(self._done))
        if self._cancelled and not self._done:
            self._aborted()  # a worker that had no more to do tells nothing
        self._enable()

    # -- dialogs --------------------------------------------------------------------------------------------

    def _ask_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a measurement", "", "HDF5 (*.h5 *.hdf5)")
        if path:
            self.open(path)

    def _ask_save(self) -> None:
        start = "" if self.source is None or self.source.path is None else str(self.source.path.with_name(""))
        name = f"{self.source.name if self.source else 'result'}_recon.h5"
        path, _ = QFileDialog.getSaveFileName(self, "Save the result", str(Path(start) / name), "HDF5 (*.h5)")
        if path:
            self.save(path)

    def closeEvent(self, event: Any) -> None:
        self._runs.end()
        super().closeEvent(event)


class _Runs:
    """Holds the worker, so that it can be ended after the widget has gone."""

    def __init__(self) -> None:
        self.worker: GeneratorWorker | None = None

    def end(self) -> None:
        if self.worker is not None:
            self.worker.resume()
            self.worker.quit()
