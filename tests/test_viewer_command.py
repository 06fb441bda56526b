"""`backcast view`: what it looks for first, and its pictures."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from viewer_cases import SCANS, why_no_window

from data import write_measurement, write_reconstruction
from pipelines import view
from pipelines.cli import guarded
from pipelines.config import ConfigError
from pipelines.reconstruct import reconstruct


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    made = {}
    for modality, method in (("mimo_radar", "backprojection"), ("tomography", "psm")):
        m = SCANS[modality]()
        write_measurement(folder / f"{modality}.h5", m)
        made[modality] = folder / f"{modality}_recon.h5"
        write_reconstruction(made[modality], reconstruct(m, method, provenance={"input_file": f"{modality}.h5"}))
    return made


def without(monkeypatch, *names):
    found = importlib.util.find_spec
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda n, *a: None if n in names else found(n, *a))


def refused(*arguments, **keywords):
    with pytest.raises(ConfigError) as error:
        view.view_files(*arguments, **keywords)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_is_missing_is_told_with_what_to_install(monkeypatch, files):
    path = [str(files["mimo_radar"])]
    without(monkeypatch, "napari")
    assert refused(path) == 'view: expected napari, found it missing; pip install "backcast[viewer-qt]"'
    monkeypatch.undo()
    pytest.importorskip("napari", reason='napari is not installed: pip install "backcast[viewer]"')
    without(monkeypatch, *view.QTS)
    assert refused(path).startswith("view: expected Qt (PyQt6, PySide6, PyQt5, PySide2), found none; pip install")


def test_mp4_needs_its_encoder(monkeypatch, files, tmp_path):
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda n, *a: None if n == "imageio_ffmpeg" else object())
    assert "MP4 needs imageio-ffmpeg" in refused([str(files["mimo_radar"])], animate=tmp_path / "a.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_without_a_display(monkeypatch, files, tmp_path):
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda n, *a: object())
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv(view.INSIDE, raising=False)
    path = [str(files["mimo_radar"])]
    for display in ("", ":987"):  # none, and one where nothing answers
        monkeypatch.setenv("DISPLAY", display)
        assert "expected a display, found none" in refused(path)
    monkeypatch.setattr(view.shutil, "which", lambda name: None)
    assert "install xvfb" in refused(path, screenshot=tmp_path / "a.png")


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"screenshot": "a.jpg"}, "expected a name that ends in .png"),
        ({"animate": "a.avi"}, "expected a name that ends in .mp4 or .gif"),
        ({"screenshot": "none/a.png"}, "expected an existing folder"),
    ],
)
def test_names_that_cannot_be_written(files, tmp_path, keywords, words):
    assert words in refused([str(files["mimo_radar"])], **{k: tmp_path / v for k, v in keywords.items()})


def test_a_file_that_is_not_there(tmp_path):
    assert "found nothing there" in refused([str(tmp_path / "no.h5")])
    assert guarded(lambda: view.view_files([str(tmp_path / "no.h5")])) == 2


NO_PICTURES = "" if shutil.which("xvfb-run") else why_no_window()
windowed = pytest.mark.skipif(bool(NO_PICTURES), reason=NO_PICTURES or "windows can be opened")


def run(*arguments, display=False):
    environment = {k: v for k, v in os.environ.items() if display or k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "pipelines.cli", "view", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)


@windowed
@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="imageio-ffmpeg is not installed")
def test_a_volume_as_a_picture_and_a_movie_without_a_display(files, tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("PyQt6", reason="Qt is not installed")
    done = run(files["mimo_radar"], "--screenshot", tmp_path / "a.png", "--animate", tmp_path / "a.mp4")
    assert done.returncode == 0, done.stderr
    picture = imageio.imread(tmp_path / "a.png")
    assert (picture.max(axis=-1) > 40).mean() > 0.02
    assert (tmp_path / "a.mp4").stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "a.png"]


@windowed
def test_frames_as_a_gif_and_a_damaged_file(files, tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("PyQt6", reason="Qt is not installed")
    done = run(files["tomography"], "--animate", tmp_path / "a.gif")
    assert done.returncode == 0, done.stderr
    frames = imageio.imread(tmp_path / "a.gif")
    assert len(frames) == 6
    assert np.abs(frames[0].astype(float) - frames[5]).max() > 50  # it moves
    bad = tmp_path / "bad_recon.h5"
    bad.write_bytes(files["tomography"].read_bytes()[:3000])
    done = run(bad, "--screenshot", tmp_path / "b.png")
    assert done.returncode == 1
    assert "expected a complete HDF5 file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b.png").exists()
