"""A real window, driven as a person would; under xvfb where there is no screen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from viewer_cases import QUIET, import_napari, lit, make_files, picture, radar_scan, shades, wait, why_no_window

from data import read_reconstruction, write_measurement, write_reconstruction
from data.measurement import Scale, Volume
from data.reconstruction import Reconstruction
from pipelines.reconstruct import reconstruct
from viewer.show import MARGIN, fit, show

pytestmark = [QUIET, pytest.mark.skipif(bool(why_no_window()), reason=why_no_window())]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("window"))


@pytest.fixture(scope="module")
def window():
    napari = import_napari()
    from qtpy.QtCore import QThreadPool

    made = napari.Viewer(show=True)
    made.window._qt_window.resize(900, 640)  # software draws every pixel
    yield made
    made.close()
    assert QThreadPool.globalInstance().waitForDone(20_000)  # no worker is left behind


@pytest.fixture
def viewer(window):
    """The window, empty."""
    yield window
    window.window.remove_dock_widget("all")
    window.layers.clear()
    window.canvas.grid.enabled = False
    window.dims.ndisplay = 2
    wait_a_little()


@pytest.fixture
def errors(monkeypatch):
    """Sentences of error notifications."""
    import_napari()
    said = []
    for module in ("viewer.reconstruct_widget", "viewer.compare_widget", "napari.utils.notifications"):
        monkeypatch.setattr(f"{module}.show_error", said.append)
    return said


def widget(viewer, name):
    return viewer.window.add_plugin_dock_widget("backcast", name)[1]


# -- reconstruct --------------------------------------------------------------------------------------------


def test_open_choose_run_watch_pause_cancel_change_run_save_and_open_again(viewer, files, tmp_path, errors):
    curves = widget(viewer, "Convergence and metrics")
    form = widget(viewer, "Reconstruct")
    form.open(str(files["mimo_radar"][0]))
    wait(lambda: len(viewer.layers) == 2)
    assert lit(viewer) > 0.02
    form.methods.setCurrentText("tv")
    form.set_value("solver.max_iter", "400")
    form.set_value("solver.tol", "0")
    form.run_button.click()
    wait(lambda: form.layer is not None)
    assert [layer.name for layer in viewer.layers] == ["mimo_radar tv magnitude"]  # the samples have made room
    first = form.layer.data.copy()
    wait(lambda: form.bar.value() >= 4)
    wait(lambda: np.abs(form.layer.data - first).max() > 1e-3)
    assert "going on" in curves.words.text()
    assert len(curves.plot.figure.axes[0].lines[0].get_xdata()) >= 2
    assert lit(viewer) > 0.02

    form.pause_button.click()
    wait(lambda: form.worker.is_paused)
    at = form.bar.value()
    wait_a_little()
    assert form.bar.value() <= at + 1
    form.pause_button.click()
    wait(lambda: form.bar.value() >= at + 2)
    form.cancel_button.click()
    wait(lambda: form.worker is None)
    assert "cancelled" in form.status.text()
    assert form.result is None

    form.set_value("solver.max_iter", "6")
    assert form.assignments() == ["solver.max_iter=6", "solver.tol=0"]
    form.run_button.click()
    wait(lambda: form.result is not None)
    wait(lambda: form.worker is None)
    result = form.result.result
    assert result.convergence.n_iterations == 6
    np.testing.assert_allclose(form.layer.data, np.abs(result.volume.data), rtol=1e-6)
    assert lit(viewer) > 0.02

    target = tmp_path / "saved_recon.h5"
    form.save(str(target))
    saved = read_reconstruction(target)
    np.testing.assert_array_equal(saved.volume.data, result.volume.data)
    assert (target.parent / saved.provenance["input_file"]).samefile(files["mimo_radar"][0])
    assert saved.provenance["command_line"] == "napari: tv"
    assert '"max_iter":6' in saved.provenance["config"]
    viewer.layers.clear()
    viewer.open(target, plugin="backcast")
    image = viewer.layers["saved magnitude"]
    np.testing.assert_array_equal(image.data, np.abs(result.volume.data))
    assert lit(viewer) > 0.02
    assert errors == []


def wait_a_little():
    import time

    end = time.monotonic() + 0.3
    wait(lambda: time.monotonic() > end)


@pytest.mark.parametrize("modality", ["tomography", "mri", "irs_mimo"])
def test_every_modality_runs(viewer, files, modality, errors):
    form = widget(viewer, "Reconstruct")
    form.open(str(files[modality][0]))
    form.methods.setCurrentText({"tomography": "psm", "mri": "tv", "irs_mimo": "krosbl-svd"}[modality])
    if modality != "irs_mimo":
        form.set_value("solver.max_iter", "5")
    form.every.setValue(20)
    form.run()
    wait(lambda: form.result is not None)
    wait(lambda: form.worker is None)
    assert lit(viewer) > 0.01
    assert errors == []


def test_a_wrong_value_and_a_failing_run_are_told_in_one_sentence(viewer, tmp_path, errors):
    bad = tmp_path / "bad.h5"
    m = radar_scan()
    write_measurement(bad, dataclasses.replace(m, ground_truth=None, grid=None, noise_std=None))
    form = widget(viewer, "Reconstruct")
    form.open(str(bad))
    form.methods.setCurrentText("tv")
    form.set_value("solver.max_iter", "none at all")
    form.run()
    assert form.worker is None
    assert len(errors) == 1
    assert errors[0].startswith("--set solver.max_iter=none at all: solver.max_iter: expected a whole number")
    form.methods.setCurrentText("rangemigration")  # needs a planar monostatic scan
    form.run()
    wait(lambda: form.worker is None)
    assert len(errors) == 2
    assert "\n" not in errors[1]
    assert errors[1] == form.status.text()
    form.methods.setCurrentText("backprojection")  # and it goes on
    form.run()
    wait(lambda: form.result is not None)


def test_files_that_cannot_be_read_are_told_by_the_widget(viewer, files, tmp_path, errors):
    form = widget(viewer, "Reconstruct")
    half = tmp_path / "half.h5"
    half.write_bytes(files["mri"][0].read_bytes()[:2000])
    form.open(str(half))
    form.open(str(tmp_path / "none.h5"))
    assert len(errors) == 2
    assert len(viewer.layers) == 0


def test_closing_the_window_during_a_run_leaves_no_worker(files):
    napari = import_napari()
    from qtpy.QtCore import QThreadPool

    viewer = napari.Viewer(show=True)
    form = widget(viewer, "Reconstruct")
    form.open(str(files["mimo_radar"][0]))
    form.methods.setCurrentText("tv")
    form.set_value("solver.max_iter", "100000")
    form.set_value("solver.tol", "0")
    form.run()
    wait(lambda: form.layer is not None)
    form.pause()  # even one that waits
    viewer.close()
    assert QThreadPool.globalInstance().waitForDone(20_000)
    wait_a_little()


def test_a_deleted_layer_comes_back_and_others_stay(viewer, files, errors):
    form = widget(viewer, "Reconstruct")
    form.open(str(files["mimo_radar"][0]))
    form.methods.setCurrentText("l1")
    form.set_value("solver.max_iter", "5")
    form.set_value("solver.tol", "0")
    form.run()
    wait(lambda: form.layer is not None)
    viewer.layers.clear()
    wait(lambda: form.result is not None)
    assert form.layer in viewer.layers
    assert errors == []


def test_a_closed_widget_hears_nothing_any_more(viewer, files, errors):
    for name in ("Reconstruct", "Convergence and metrics", "Compare", "Channel"):
        widget(viewer, name)
    viewer.window.remove_dock_widget("all")
    wait_a_little()
    viewer.open(files["mri"][1], plugin="backcast")
    viewer.layers.selection.active = viewer.layers[0]
    viewer.layers.clear()
    assert errors == []


# -- the other widgets --------------------------------------------------------------------------------------


def test_convergence_and_metrics_follow_the_selected_layer(viewer, files):
    shown = widget(viewer, "Convergence and metrics")
    assert "select a layer" in shown.words.text()
    viewer.open(files["irs_mimo"][1], plugin="backcast")
    viewer.layers.selection.active = viewer.layers[0]
    assert "iterations, ended by" in shown.words.text()
    names = [shown.table.item(i, 0).text() for i in range(shown.table.rowCount())]
    assert {"nmse_db", "measurement_residual"} <= set(names)
    assert [a.get_ylabel() for a in shown.plot.figure.axes] == ["residuals", "log evidence"]
    viewer.open(files["mri"][1], plugin="backcast")
    viewer.layers.selection.active = viewer.layers[-1]
    assert "a direct method" in shown.words.text()


def test_a_channel_with_its_spectra(viewer, files):
    shown = widget(viewer, "Channel")
    viewer.open(files["irs_mimo"][1], plugin="backcast")
    viewer.layers.selection.active = viewer.layers[0]
    assert len(shown.spectra.figure.axes) == 3
    assert shown.evidence.figure.axes[0].get_ylabel() == "log evidence"
    assert "NMSE" in shown.words.text()


def test_compare_side_by_side_difference_profile_and_region(viewer, files, tmp_path, errors):
    scaled = tmp_path / "half_recon.h5"
    result = read_reconstruction(files["tomography"][1])
    half = dataclasses.replace(result.volume, data=result.volume.data / 2)
    write_reconstruction(scaled, dataclasses.replace(result, volume=half, provenance={}))
    viewer.open(files["tomography"][1], plugin="backcast")
    viewer.open(scaled, plugin="backcast")
    shown = widget(viewer, "Compare")
    shown.first.setCurrentText("half attenuation")
    shown.second.setCurrentText("tomography attenuation")

    shown.side.setChecked(True)
    assert viewer.canvas.grid.enabled
    assert {a.name for a in viewer.layers if a.visible} == {"half attenuation", "tomography attenuation"}
    assert len({tuple(a.contrast_limits) for a in viewer.layers if a.visible}) == 1
    assert lit(viewer) > 0.05
    shown.side.setChecked(False)
    assert not viewer.canvas.grid.enabled

    shown.subtract.click()
    difference = viewer.layers["half attenuation minus tomography attenuation"]
    np.testing.assert_allclose(difference.data, -result.volume.data / 2, atol=1e-5)

    shown.line.click()
    x = 1e3 * result.volume.scale("x")
    ends = [[2.0, 0.0, 0.0, x[0]], [2.0, 0.0, 0.0, x[-1]]]
    viewer.layers["profile line"].add(np.array(ends), shape_type="line")
    (axes,) = shown.plot.figure.axes
    assert axes.get_xlabel() == "distance along the line (mm)"
    distance, values = axes.lines[0].get_data()
    assert distance[-1] == pytest.approx(x[-1] - x[0])
    row = 0.5 * (result.volume.data[2, 0, 11] + result.volume.data[2, 0, 12]) / 2  # y = 0 lies between two rows
    np.testing.assert_allclose(values[[0, -1]], row[[0, -1]], rtol=1e-4, atol=1e-4)

    shown.region.click()
    corners = [[2.0, 0.0, y, x_] for y, x_ in ((-3, -3), (-3, 3), (3, 3), (3, -3))]
    viewer.layers["region"].add(np.array(corners), shape_type="rectangle")
    assert "NMSE 0.25 (-6.0 dB)" in shown.words.text()
    assert errors == []


def test_images_of_other_grids_are_not_compared(viewer, files, errors):
    viewer.open(files["tomography"][1], plugin="backcast")
    viewer.open(files["mri"][1], plugin="backcast")
    shown = widget(viewer, "Compare")
    shown.first.setCurrentText("mri magnitude")
    shown.second.setCurrentText("tomography attenuation")
    shown.subtract.click()
    assert "expected images of one shape" in errors[0]


def test_the_menu_has_parts_and_errors_on_demand(viewer, files):
    from napari._app_model import get_app_model

    run = get_app_model().commands.execute_command
    viewer.open(files["mimo_radar"][1], plugin="backcast")
    viewer.layers.selection.active = viewer.layers["mimo_radar magnitude"]
    run("backcast.parts")
    run("backcast.error")
    names = [a.name for a in viewer.layers]
    assert {"mimo_radar real part", "mimo_radar imaginary part", "mimo_radar error"} <= set(names)


# -- which way up -------------------------------------------------------------------------------------------

#: A letter per face of a cube, 7 x 7, as it is to be read from outside.
LETTERS = {
    "F": ["#####..", "#......", "#......", "####...", "#......", "#......", "#......"],
    "R": ["####...", "#...#..", "#...#..", "####...", "#.#....", "#..#...", "#...#.."],
    "L": ["#......", "#......", "#......", "#......", "#......", "#......", "#####.."],
}


def bitmap(letter):
    return np.array([[c == "#" for c in row] for row in LETTERS[letter]], dtype=np.float32)


def cube():
    """(z, y, x) with F on the face z = high, R on x = high, L on y = high, read from outside; x, y, z right-handed.

    F: x to the right, y up. R: z to the left, y up. L: x to the right, z down.
    """
    n = 9
    data = np.zeros((n, n, n), np.float32)
    up = slice(1, 8)
    data[-1, up, up] = bitmap("F")[::-1]  # rows downwards become y upwards
    data[up, up, -1] = np.maximum(data[up, up, -1], bitmap("R")[::-1, ::-1].T)  # (z, y): columns are -z
    data[up, -1, up] = np.maximum(data[up, -1, up], bitmap("L"))  # (z, x): rows downwards are z upwards
    return data


FACES = {"F": ((0, 0, 1), (0, 1, 0)), "R": ((1, 0, 0), (0, 1, 0)), "L": ((0, 1, 0), (0, 0, -1))}


@pytest.mark.parametrize(
    ("modality", "quantity", "units"),
    [("mimo_radar", "reflectivity", "1"), ("tomography", "attenuation", "1/m"), ("mri", "magnetisation", "1")],
)
def test_letters_on_three_faces_read_from_outside(viewer, tmp_path, modality, quantity, units):
    data = cube()
    scales = {a: Scale(values=5e-3 * (np.arange(9) - 4.0), units="m") for a in "zyx"}
    kept = data if modality == "tomography" else data.astype(np.complex64)
    path = tmp_path / "cube_recon.h5"
    volume = Volume(data=kept, axes=("z", "y", "x"), scales=scales, quantity=quantity, units=units)
    write_reconstruction(path, Reconstruction(modality=modality, volume=volume))
    show(viewer, [path])
    image = viewer.layers[0]
    image.rendering, image.interpolation3d = "mip", "nearest"
    viewer.canvas.overlays.scale_bar.visible = False
    for letter, (looks_from, up) in FACES.items():
        # only the face in question: the others would shine through a maximum-intensity projection
        face = {"F": np.s_[-1, :, :], "R": np.s_[:, :, -1], "L": np.s_[:, -1, :]}[letter]
        alone = np.zeros_like(data)
        alone[face] = data[face]
        image.data = alone
        direction = tuple(-v for v in looks_from[::-1])
        viewer.scene.camera.set_view_direction(view_direction=direction, up_direction=up[::-1])
        right, mirrored = likeness(picture(viewer).mean(axis=-1), bitmap(letter))
        assert right > 0.9, letter
        assert right > mirrored + 0.15, letter


def test_a_reconstructed_letter_reads_from_the_front(viewer, tmp_path):
    """From the scan through the method to the pixels: an L in front of the array, seen along z."""
    m = radar_scan(target_parameters={"text": "L", "thickness_m": 0.03})
    path = tmp_path / "letter_recon.h5"
    write_reconstruction(path, reconstruct(m, "l1"))
    show(viewer, [path])
    viewer.canvas.overlays.scale_bar.visible = False
    viewer.scene.camera.angles = (0, 0, 0)
    fit(viewer)
    seen = picture(viewer).mean(axis=-1)
    truth = np.abs(m.ground_truth.data).max(axis=0)[::-1]  # y upwards
    # the volume's box in the picture: it is square and fills the height but for the margin
    side = round(seen.shape[0] * (1 - 2 * MARGIN)) if seen.shape[0] < seen.shape[1] else None
    side = side or round(seen.shape[1] * (1 - 2 * MARGIN))
    top, left = (seen.shape[0] - side) // 2, (seen.shape[1] - side) // 2
    at = ((np.arange(17) + 0.5) * side / 17).astype(int)
    sampled = shades(seen[np.ix_(top + at, left + at)])
    found = [float((sampled * shades(t)).sum()) for t in (truth, truth[::-1], truth[:, ::-1], truth[::-1, ::-1])]
    assert found[0] > 0.6
    assert found[0] > max(found[1:]) + 0.1


def likeness(seen, letter):
    """Correlation of what is lit with a letter, and the best one with its mirror images."""
    rows, columns = np.where(seen > 0.3)
    filled = np.argwhere(letter)
    (top, left), (bottom, right) = filled.min(axis=0), filled.max(axis=0) + 1
    tight = letter[top:bottom, left:right]
    crop = seen[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    at = [
        np.clip(((np.arange(m) + 0.5) * n / m).astype(int), 0, n - 1)
        for m, n in zip(tight.shape, crop.shape, strict=True)
    ]
    sampled = shades(crop[np.ix_(*at)])
    found = [float((sampled * shades(t)).sum()) for t in (tight, tight[::-1], tight[:, ::-1], tight[::-1, ::-1])]
    return found[0], max(found[1:])


def test_a_slice_in_2d_has_x_to_the_right_and_y_up(viewer, tmp_path):
    data = np.zeros((1, 9, 9), np.float32)
    data[0, 1:8, 1:8] = bitmap("F")[::-1]
    scales = {"z": Scale(values=np.zeros(1), units="m")}
    scales |= {a: Scale(values=5e-3 * (np.arange(9) - 4.0), units="m") for a in "yx"}
    volume = Volume(data=data, axes=("z", "y", "x"), scales=scales, quantity="attenuation", units="1/m")
    path = tmp_path / "slice_recon.h5"
    write_reconstruction(path, Reconstruction(modality="tomography", volume=volume))
    show(viewer, [path])
    viewer.canvas.overlays.scale_bar.visible = False
    seen = picture(viewer).mean(axis=-1)
    rows, columns = np.where(seen > 0.3)
    crop = seen[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert crop[: crop.shape[0] // 7, : crop.shape[1] * 4 // 5].mean() > 0.3  # the F's upper bar, from the left
    assert crop[-crop.shape[0] // 7 :, crop.shape[1] // 2 :].max() < 0.1


def test_a_dropped_file_turns_the_viewer_the_right_way_up(viewer, files):
    from npe2 import PluginManager

    PluginManager.instance().activate("backcast")  # as any use of the plugin does
    viewer.window._qt_viewer._qt_open([str(files["mimo_radar"][1])], stack=False)
    assert viewer.canvas.overlays.scale_bar.visible
    assert [str(v) for v in viewer.scene.camera.orientation] == ["towards", "up", "right"]
    assert viewer.layers[0].name.startswith("mimo_radar")


def test_a_broken_file_that_is_dropped_is_a_notification(viewer, files, tmp_path, errors):
    from npe2 import PluginManager

    PluginManager.instance().activate("backcast")
    half = tmp_path / "half.h5"
    half.write_bytes(files["mri"][1].read_bytes()[:2000])
    viewer.window._qt_viewer._qt_open([str(half)], stack=False)
    assert len(viewer.layers) == 0
    assert len(errors) == 1
    assert errors[0].startswith(f"{half}: /: expected a complete HDF5 file")
    viewer.window._qt_viewer._qt_open([str(files["mri"][1])], stack=False)
    assert len(viewer.layers) > 0
