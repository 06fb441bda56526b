"""A matplotlib figure inside a Qt widget."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure

from viewer.plots import BACK


class Plot(FigureCanvasQTAgg):
    """A figure that is drawn anew by `put`."""

    def __init__(self, *, height: int = 220) -> None:
        super().__init__(Figure(figsize=(4, 3), layout="constrained", facecolor=BACK))
        self.setMinimumHeight(height)

    def put(self, draw: Any, *args: Any, **keywords: Any) -> None:
        """Call ``draw(figure, ...)`` and repaint."""
        draw(self.figure, *args, **keywords)
        self.draw_idle()

    def clear(self) -> None:
        """An empty figure."""
        self.figure.clear()
        self.draw_idle()
