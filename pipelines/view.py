"""What ``backcast view`` does: look for napari, Qt and a display, then open files in a window or make pictures of them.

The viewer is reached through napari and the plugin's manifest, never imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.config import ConfigError
from pipelines.doctor import QTS

INSTALL = 'pip install "backcast[viewer-qt]"'
#: Of the window, and so about of the pictures, pixels.
WIDTH, HEIGHT = 1280, 900
#: Pictures of a turn about a static volume, and pictures per second.
TURN, FPS = 48, 12
#: Set for the process that runs under xvfb-run.
INSIDE = "BACKCAST_UNDER_XVFB"


def view_files(
    files: Sequence[str], *, screenshot: Path | None = None, animate: Path | None = None, arguments: Sequence[str] = ()
) -> int:
    """Open files in napari; with a picture to make, make it and end.

    Args:
        files: measurement and reconstruction files.
        screenshot: PNG of the canvas.
        animate: MP4 or GIF: of several frames one after the other, of a volume a turn about it.
        arguments: of this command, to run it again under xvfb-run where there is no display.

    Returns:
        The exit status.

    Raises:
        ConfigError: something to be installed, named or changed first.
        DataFormatError: a file that cannot be read.
    """
    _check(files, screenshot, animate)
    pictures = screenshot is not None or animate is not None
    if not _display():
        if pictures and INSIDE not in os.environ:
            return _under_xvfb(arguments)
        raise ConfigError(
            "view: expected a display, found none (DISPLAY is not set, or nothing answers there); run it on a desktop, "
            "through ssh -X, or ask for a picture by --screenshot FILE.png"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of napari's and its libraries' own
        import napari
        from npe2 import PluginManager

        viewer = napari.Viewer(title="backcast", show=True)
        try:
            viewer.window._qt_window.resize(WIDTH, HEIGHT)
            _work(0.2)
            manager = PluginManager.instance()
            if "backcast" not in manager:
                raise ConfigError(
                    "view: expected napari to know the plugin, found it missing; pip install backcast anew"
                )
            sources = manager.commands.execute("backcast.show", args=(viewer, [str(f) for f in files]))
            if not pictures:
                _docks(viewer, sources)
                napari.run()
                return 0
            if screenshot is not None:
                _write_png(screenshot, _picture(viewer))
            if animate is not None:
                _write_animation(animate, _frames(viewer))
        finally:
            if pictures:
                viewer.close()
    return 0


# -- before -------------------------------------------------------------------------------------------------


def _check(files: Sequence[str], screenshot: Path | None, animate: Path | None) -> None:
    for file in files:
        if not Path(file).is_file():
            raise ConfigError(f"{file}: expected a measurement or reconstruction file, found nothing there")
    for option, path, kinds in (("--screenshot", screenshot, (".png",)), ("--animate", animate, (".mp4", ".gif"))):
        if path is not None and path.suffix.lower() not in kinds:
            raise ConfigError(f"{option} {path}: expected a name that ends in {' or '.join(kinds)}")
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{option} {path}: expected an existing folder, found none; make it first")
    if importlib.util.find_spec("napari") is None:
        raise ConfigError(f"view: expected napari, found it missing; {INSTALL}")
    if not any(importlib.util.find_spec(qt) for qt in QTS):
        raise ConfigError(f"view: expected Qt ({', '.join(QTS)}), found none; {INSTALL}")
    if animate is not None and animate.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            f"--animate {animate}: MP4 needs imageio-ffmpeg, found it missing; {INSTALL}, or ask for a .gif"
        )


def _display() -> bool:
    """Whether a window can be opened: always, but on a Linux without an X server or a Wayland compositor."""
    if not sys.platform.startswith("linux") or os.environ.get("WAYLAND_DISPLAY"):
        return True
    display = os.environ.get("DISPLAY", "")
    host, _, number = display.partition(":")
    if not number:
        return False
    if host not in ("", "unix"):
        return True  # another machine's, through ssh -X: Qt will say
    name = f"/tmp/.X11-unix/X{number.partition('.')[0]}"
    for address in (name, "\0" + name):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
            s.connect(address)
            return True
    return False


def _under_xvfb(arguments: Sequence[str]) -> int:
    """This command again, on a display in memory."""
    if shutil.which("xvfb-run") is None:
        raise ConfigError(
            "view: expected a display, found none, and no xvfb-run to make one in memory; install xvfb (Debian, "
            "Ubuntu: apt install xvfb libgl1-mesa-dri), or run it on a desktop"
        )
    command = ["xvfb-run", "-a", "-s", "-screen 0 1920x1200x24", sys.executable, "-m", "pipelines.cli", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "QT_QPA_PLATFORM"}  # offscreen draws nothing
    return subprocess.run(command, env={**environment, INSIDE: "1"}, check=False).returncode


def _docks(viewer: Any, sources: Sequence[Any]) -> None:
    """The widget that comes next: of a measurement *Reconstruct*, of a channel *Channel*."""
    results = [s.result for s in sources if s.result is not None]
    name = "Reconstruct" if not results else "Convergence and metrics"
    if any(r.modality == "irs_mimo" for r in results):
        name = "Channel"
    viewer.window.add_plugin_dock_widget("backcast", name)


# -- pictures -----------------------------------------------------------------------------------------------


def _work(seconds: float) -> None:
    """Let Qt work."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def _picture(viewer: Any) -> Any:
    _work(0.03)
    picture = viewer.screenshot(canvas_only=True, flash=False)
    if int(picture[..., :3].max()) == int(picture[..., :3].min()):
        raise ConfigError(
            "view: expected OpenGL to draw, found an empty picture; install Mesa (Debian, Ubuntu: apt install "
            "libgl1-mesa-dri), or unset QT_QPA_PLATFORM"
        )
    return picture


def _frames(viewer: Any) -> Iterator[Any]:
    """The canvas at every frame of a movie, or all around a volume."""
    labels = list(viewer.dims.axis_labels)
    if "frame" in labels and viewer.dims.nsteps[labels.index("frame")] > 1:
        axis = labels.index("frame")
        for step in range(viewer.dims.nsteps[axis]):
            viewer.dims.set_current_step(axis, step)
            yield _picture(viewer)
        return
    if viewer.dims.ndisplay != 3:
        raise ConfigError("--animate: expected several frames or a volume, found one slice; take --screenshot")
    camera = viewer.scene.camera
    first, second, third = camera.angles
    for k in range(TURN):
        # there and back: a turn by 360 degrees would show the volume from behind, and mirrored letters
        camera.angles = (first, second + 40 * math.sin(2 * math.pi * k / TURN), third)
        yield _picture(viewer)


def _write_png(path: Path, picture: Any) -> None:
    import io

    import imageio.v3 as imageio

    from pipelines.atomic import write_bytes

    buffer = io.BytesIO()
    imageio.imwrite(buffer, picture[..., :3], extension=".png")
    write_bytes(path, buffer.getvalue())


def _write_animation(path: Path, pictures: Iterator[Any]) -> None:
    import imageio.v2 as imageio

    part = path.with_name(f".{path.stem}.part{path.suffix.lower()}")
    options: dict[str, Any] = (
        {"fps": FPS, "macro_block_size": 2}
        if part.suffix == ".mp4"
        else {
            "duration": 1000 / FPS,
            "loop": 0,
        }
    )
    try:
        writer: Any = imageio.get_writer(part, **options)
        with contextlib.closing(writer):
            for picture in pictures:
                writer.append_data(picture[..., :3])
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
