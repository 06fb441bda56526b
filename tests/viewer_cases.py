"""What the tests of the viewer share: napari without its warnings, windows, and time for Qt to work."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from data import write_measurement, write_reconstruction
from data.simulate import (
    IrsMimoSimulation,
    MimoRadarSimulation,
    MriSimulation,
    TomographySimulation,
    irs_mimo,
    mimo_radar,
    mri,
    tomography,
)
from imaging.operators import Grid
from pipelines.reconstruct import reconstruct

#: napari and its libraries use what Python and numpy deprecate; warnings of our own stay errors.
QUIET = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning", "ignore:.*:PendingDeprecationWarning"
)


def import_napari():
    """napari with the plugin found, its settings in a folder of their own; skips where it is not installed."""
    if importlib.util.find_spec("napari") is None:
        pytest.skip('napari is not installed: pip install "backcast[viewer]"')
    if "napari" not in sys.modules:
        os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import napari
        from napari.components import ViewerModel
        from npe2 import PluginManager

        assert ViewerModel
        manager = PluginManager.instance()
        if "backcast" not in manager:
            manager.discover()
        if "backcast" not in manager:
            pytest.skip("the plugin is not installed: pip install -e .")
    return napari


def why_no_window():
    """The reason why no window can be opened here; "" where one can."""
    if importlib.util.find_spec("napari") is None:
        return 'napari is not installed: pip install "backcast[viewer-qt]"'
    if not any(importlib.util.find_spec(qt) for qt in ("PyQt6", "PySide6", "PyQt5", "PySide2")):
        return 'Qt is not installed: pip install "backcast[viewer-qt]"'
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no display: run under xvfb-run -a"
    if os.environ.get("QT_QPA_PLATFORM") == "offscreen":
        return "QT_QPA_PLATFORM=offscreen draws nothing: run under xvfb-run -a"
    return ""


def wait(condition, seconds=30.0):
    """Let Qt work until `condition()` holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came in time"
        QApplication.processEvents()
        time.sleep(0.005)


def picture(viewer):
    """The canvas as float (rows, columns, 3), 0 to 1."""
    for _ in range(3):
        wait(lambda: True)
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(float) / 255


def lit(viewer):
    """Share of the canvas's pixels that are not nearly black."""
    return float((picture(viewer).max(axis=-1) > 0.15).mean())


def radar_scan(**changes):
    grid = Grid((0.42, -0.1, -0.1), (0.02, 0.0125, 0.0125), (6, 17, 17))
    values = {
        "target": "letters",
        "target_parameters": {"text": "R", "thickness_m": 0.03},
        "grid": grid,
        "n_frequencies": 6,
        **changes,
    }
    return mimo_radar(MimoRadarSimulation(**values))


SCANS = {
    "mimo_radar": radar_scan,
    "tomography": lambda: tomography(TomographySimulation(n=24, n_instants=6, views_per_instant=4)),
    "mri": lambda: mri(MriSimulation(n=32, n_coils=2)),
    "irs_mimo": lambda: irs_mimo(
        IrsMimoSimulation(n_irs=64, n_rx=8, n_tx=4, grid_irs=8, grid_tx=6, grid_rx=8, n_configs=8, n_pilots=4)
    ),
}
FAST = {"mimo_radar": "backprojection", "tomography": "fbp", "mri": "sense", "irs_mimo": "krosbl-svd"}


def make_files(folder):
    """A measurement and a result of each modality: {modality: (scan, result)}."""
    made = {}
    for modality, scan in SCANS.items():
        m = scan()
        source, target = folder / f"{modality}.h5", folder / f"{modality}_recon.h5"
        write_measurement(source, m)
        write_reconstruction(target, reconstruct(m, FAST[modality], provenance={"input_file": source.name}))
        made[modality] = (source, target)
    return made


def shades(array):
    """Normalised to mean 0 and norm 1, for correlations."""
    array = np.asarray(array, dtype=float)
    array = array - array.mean()
    return array / np.linalg.norm(array)
