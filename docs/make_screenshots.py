"""The pictures of docs/viewer.md: napari with simulated scans of each modality.

Run ``make docs-screenshots``, or ``python docs/make_screenshots.py`` from the project's root with the extra viewer-qt
installed; where there is no display, under ``xvfb-run -a -s "-screen 0 1920x1200x24"``.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from pipelines import batch
from pipelines.demo import SCENE
from pipelines.progress import Plain
from pipelines.simulate import simulate_files
from viewer.show import arrange, fit

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of napari's libraries
        with tempfile.TemporaryDirectory() as folder:
            for draw in (radar, tomography, mri, channel):
                draw(Path(folder))


def radar(folder: Path) -> None:
    """The whole window: a letter reconstructed by the widget, with its antennas."""
    viewer = window(1500, 940)
    scan = simulated("mimo_radar", folder, SCENE)
    form = viewer.window.add_plugin_dock_widget("backcast", "Reconstruct")[1]
    form.open(str(scan))
    form.methods.setCurrentText("tv")
    form.run()
    wait(lambda: form.result is not None and form.worker is None)
    wait(lambda: True, 0.5)
    arrange(viewer)
    save(viewer, "viewer_radar.png", canvas_only=False)


def tomography(folder: Path) -> None:
    """Truth and movie at two times."""
    viewer = window(1150, 620)
    scan = simulated("tomography", folder, ("n=96", "n_instants=64"))
    opened(viewer, [reconstructed(scan, "psm", folder)], "truth")
    rows = []
    for step in (6, 50):
        viewer.dims.set_current_step(0, step)
        rows.append(picture(viewer))
    write("viewer_tomography.png", np.concatenate(rows, axis=0))


def mri(folder: Path) -> None:
    """Magnitude and phase."""
    viewer = window(1150, 620)
    scan = simulated("mri", folder, ("n=128", "n_coils=8"))
    opened(viewer, [reconstructed(scan, "l1wavelet", folder)], "phase")
    save(viewer, "viewer_mri.png")


def channel(folder: Path) -> None:
    """The whole window: spectra with standard deviations, as layers and in the widget."""
    viewer = window(1500, 940)
    scan = simulated("irs_mimo", folder, ("snr_db=8", "n_configs=8"))
    opened(viewer, [reconstructed(scan, "krosbl-svd", folder)])
    viewer.window.add_plugin_dock_widget("backcast", "Channel")
    wait(lambda: True, 0.5)
    arrange(viewer)
    save(viewer, "viewer_channel.png", canvas_only=False)


# -- helpers ------------------------------------------------------------------------------------------------


def simulated(modality: str, folder: Path, settings: tuple[str, ...]) -> Path:
    (path,) = simulate_files(modality, folder / "scans", seed=1, assignments=settings)
    return path


def reconstructed(scan: Path, method: str, folder: Path) -> Path:
    options = batch.Options(inputs=(str(scan),), output=folder / "volumes", method=method, overwrite=True)
    planned = batch.plan(options)
    assert not batch.run(planned, options, Plain()), planned.entries[0].reason
    return Path(planned.entries[0].result)


def window(width: int, height: int):
    """An empty window, the plugin known."""
    import napari

    viewer = napari.Viewer(title="backcast", show=True)
    viewer.window._qt_window.resize(width, height)
    wait(lambda: True, 0.3)
    return viewer


def opened(viewer, files: list[Path], beside: str = "") -> None:
    """Open files, and show the layer of a role beside the magnitude."""
    from npe2 import PluginManager

    PluginManager.instance().commands.execute("backcast.show", args=(viewer, files))
    if not beside:
        return
    for layer in viewer.layers:
        layer.visible = layer.metadata.get("backcast_role") in ("magnitude", beside)
        layer.name_overlay.visible = layer.visible
    viewer.canvas.grid.enabled = True
    viewer.canvas.grid.stride = 1
    viewer.canvas.grid.shape = (1, 2)
    wait(lambda: True, 0.3)
    fit(viewer, 0.02)


def wait(condition, seconds: float = 0.0) -> None:
    """Let Qt work until the condition holds, and for some seconds."""
    from qtpy.QtWidgets import QApplication

    start = time.monotonic()
    while not condition() or time.monotonic() - start < seconds:
        assert time.monotonic() - start < 600, "nothing came in time"
        QApplication.processEvents()
        time.sleep(0.005)


def picture(viewer, *, canvas_only: bool = True) -> np.ndarray:
    from napari._qt.dialogs.qt_notification import NapariQtNotification

    for notice in viewer.window._qt_window.findChildren(NapariQtNotification):
        notice.close()  # they would hide the scale bar
    wait(lambda: True, 0.3)
    shot = viewer.screenshot(canvas_only=canvas_only, flash=False)[..., :3]
    assert (shot.max(axis=-1) > 40).mean() > 0.02, "nothing is drawn: is there OpenGL?"
    return shot


def save(viewer, name: str, *, canvas_only: bool = True) -> None:
    shot = picture(viewer, canvas_only=canvas_only)
    write(name, shot)
    viewer.close()


def write(name: str, shot: np.ndarray) -> None:
    imageio.imwrite(IMAGES / name, shot, optimize=True)
    print(IMAGES / name, shot.shape)


if __name__ == "__main__":
    main()
