"""The widget *Compare*: two images side by side, their difference, a profile along a line, figures in a region."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from viewer.canvas import Plot, listen
from viewer.comparing import difference, profile, region_figures, same_grid, shown
from viewer.plots import draw_profiles
from viewer.show import fit
from viewer.source import ABSOLUTE, ROLE

LINE, REGION = "profile line", "region"


class CompareWidget(QWidget):
    """Compare two image layers of one grid."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.first, self.second = QComboBox(), QComboBox()
        self.gain = QCheckBox("least-squares gain")
        self.gain.setToolTip(
            "multiply the second with what brings it nearest to the first, as reflectivity has no unit"
        )
        self.side = QPushButton("Side by side", checkable=True)
        self.subtract, self.line, self.region = QPushButton("Difference"), QPushButton("Line"), QPushButton("Region")
        self.line.setToolTip("draw a line; its profile is shown below")
        self.region.setToolTip("draw a rectangle; figures of the first against the second are shown below")
        self.plot, self.words = Plot(), QLabel("", wordWrap=True)
        layout = QVBoxLayout(self)
        top = QFormLayout()
        top.addRow("first", self.first)
        top.addRow("second (reference)", self.second)
        top.addRow("", self.gain)
        layout.addLayout(top)
        grid = QGridLayout()
        for i, button in enumerate((self.side, self.subtract, self.line, self.region)):
            grid.addWidget(button, i // 2, i % 2)
        layout.addLayout(grid)
        layout.addWidget(self.plot, 1)
        layout.addWidget(self.words)
        self.side.toggled.connect(self.side_by_side)
        self.subtract.clicked.connect(self.show_difference)
        self.line.clicked.connect(lambda: self.draw(LINE, "line"))
        self.region.clicked.connect(lambda: self.draw(REGION, "rectangle"))
        self._before: dict[Any, bool] = {}
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            listen(self, event, self.refresh)
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Offer the image layers there are."""
        names = [layer.name for layer in self.viewer.layers if type(layer).__name__ == "Image"]
        for at, box in enumerate((self.first, self.second)):
            kept = box.currentText()
            box.clear()
            box.addItems(names)
            if kept in names:
                box.setCurrentText(kept)
            elif len(names) > at:
                box.setCurrentIndex(len(names) - 1 - at)

    def chosen(self) -> tuple[Any, Any]:
        """The two layers.

        Raises:
            ValueError: fewer than two.
        """
        names = self.first.currentText(), self.second.currentText()
        if not all(names) or names[0] == names[1]:
            raise ValueError("compare: expected two different image layers; open another result")
        return self.viewer.layers[names[0]], self.viewer.layers[names[1]]

    def side_by_side(self, wanted: bool) -> None:
        """Both in a grid, everything else hidden, on limits of one range; or as it was."""
        if not wanted:
            self.viewer.canvas.grid.enabled = False
            for layer, visible in self._before.items():
                if layer in self.viewer.layers:
                    layer.visible = visible
            return
        try:
            pair = self.chosen()
        except ValueError as error:
            show_error(str(error))
            self.side.setChecked(False)
            return
        self._before = {layer: layer.visible for layer in self.viewer.layers}
        for layer in self.viewer.layers:
            layer.visible = layer in pair
        if not self.gain.isChecked():
            limits = [layer.contrast_limits for layer in pair]
            both = [min(l[0] for l in limits), max(l[1] for l in limits)]
            for layer in pair:
                layer.contrast_limits = both
        for layer in pair:
            layer.name_overlay.visible = True
        self.viewer.canvas.grid.stride = 1
        self.viewer.canvas.grid.enabled = True
        fit(self.viewer)

    def show_difference(self) -> None:
        """First minus second as a layer."""
        try:
            a, b = self.chosen()
            one, other = shown(a), shown(b)
            absolute = a.metadata.get("quantity") in ABSOLUTE
            data, gain = difference(one, other, fit_gain=self.gain.isChecked() and not absolute)
        except (ValueError, OSError) as error:
            show_error(str(error))
            return
        top = float(np.nanmax(np.abs(data))) or 1.0
        name = f"{a.name} minus {b.name}" if gain == 1 else f"{a.name} minus {gain:.3g} x {b.name}"
        self.viewer.add_image(
            data,
            name=name,
            scale=a.scale,
            translate=a.translate,
            units=a.units,
            axis_labels=a.axis_labels,
            colormap="RdBu",
            contrast_limits=(-top, top),
            blending="translucent_no_depth",
            metadata={ROLE: "difference", "units": one.value_units},
        )

    def draw(self, name: str, kind: str) -> None:
        """A shapes layer in which a line or a rectangle is drawn; what is drawn last counts."""
        try:
            self.chosen()
        except ValueError as error:
            show_error(str(error))
            return
        if name not in self.viewer.layers:
            a, _ = self.chosen()
            width = 0.005 * float(np.ptp(np.asarray(a.extent.world), axis=0)[-2:].max() or 1.0)
            layer = self.viewer.add_shapes(
                name=name,
                ndim=a.ndim,
                units=a.units,
                axis_labels=a.axis_labels,
                edge_color="#4ecdc4",
                face_color="transparent",
                edge_width=width,
                metadata={ROLE: name},
            )
            update = self.update_profile if name == LINE else self.update_region
            layer.events.data.connect(update)
        layer = self.viewer.layers[name]
        self.viewer.layers.selection.active = layer
        self.viewer.dims.ndisplay = 2
        layer.mode = f"add_{kind}"

    def update_profile(self, event: Any = None) -> None:
        """The profiles of both along the line drawn last."""
        corners = self._drawn(LINE)
        if corners is None:
            return
        try:
            a, b = (shown(layer) for layer in self.chosen())
            same_grid(a, b)
            distance, one = profile(a, corners[0], corners[-1])
            _, other = profile(b, corners[0], corners[-1])
        except (ValueError, OSError) as error:
            self.words.setText(str(error))
            return
        values = {a.name: one, b.name: other}
        self.plot.put(draw_profiles, distance, values, along=a.units[-1], units=a.value_units)

    def update_region(self, event: Any = None) -> None:
        """Figures of the first against the second in the rectangle drawn last."""
        corners = self._drawn(REGION)
        if corners is None:
            return
        try:
            a, b = (shown(layer) for layer in self.chosen())
            figures = region_figures(a, b, corners.min(axis=0), corners.max(axis=0))
        except (ValueError, OSError) as error:
            self.words.setText(str(error))
            return
        self.words.setText(
            f"{figures['voxels']:.0f} voxels: NMSE {figures['nmse']:.3g} ({figures['nmse_db']:.1f} dB), PSNR "
            f"{figures['psnr']:.1f} dB; mean {figures['mean']:.4g} ± {figures['std']:.2g}, reference "
            f"{figures['reference mean']:.4g} ± {figures['reference std']:.2g}"
        )

    def _drawn(self, name: str) -> Any:
        """World coordinates (corners, axes) of the last shape of a layer; None without any."""
        if name not in self.viewer.layers or not self.viewer.layers[name].data:
            return None
        layer = self.viewer.layers[name]
        return np.asarray([layer.data_to_world(corner) for corner in layer.data[-1]])
