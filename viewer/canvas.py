"""What the widgets share: a matplotlib figure inside Qt, and listening to a viewer for as long as a widget lives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def listen(widget: Any, emitter: Any, callback: Callable[..., None]) -> None:
    """Connect `callback` to an event of napari until the widget is closed: napari's events know nothing of Qt's."""
    emitter.connect(callback)
    stop = partial(_stop, emitter, callback)
    widget.destroyed.connect(lambda: stop())


def _stop(emitter: Any, callback: Callable[..., None]) -> None:
    if callback in emitter.callbacks or any(callback == c for c in emitter.callbacks):
        emitter.disconnect(callback)
