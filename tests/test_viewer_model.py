"""The plugin in napari's viewer model, without Qt and without a display."""

from __future__ import annotations

import importlib
import importlib.util
import resource
import shutil
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from viewer_cases import QUIET, import_napari, make_files

from data import DataFormatError, read_reconstruction, write_reconstruction
from data.measurement import Scale, Volume
from data.reconstruction import Reconstruction
from viewer.lazy import open_result
from viewer.reader import get_reader, prefer, read, write
from viewer.show import ORIENTATION, show
from viewer.source import role_of, source_of

pytestmark = QUIET


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("viewer"))


@pytest.fixture
def viewer():
    import_napari()
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def told(monkeypatch):
    """Notifications, as text."""
    import_napari()
    said = []
    monkeypatch.setattr("napari.utils.notifications.show_info", said.append)
    monkeypatch.setattr("napari.utils.notifications.show_error", said.append)
    return said


def roles(viewer):
    return [role_of(layer.metadata) for layer in viewer.layers]


def units(viewer):
    return None if viewer.layers.extent.units is None else tuple(map(str, viewer.layers.extent.units))


def test_the_manifest_is_valid_and_everything_it_names_is_there():
    import_napari()
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("backcast")
    named = [c.python_name for c in manifest.contributions.commands]
    for name in (*named, manifest.on_activate):
        module, _, attribute = str(name).partition(":")
        if "widget" in module and not has_qt():
            continue
        assert callable(getattr(importlib.import_module(module), attribute)), name
    done = subprocess.run([sys.executable, "-m", "npe2", "validate", "backcast"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def has_qt():
    return any(importlib.util.find_spec(qt) for qt in ("PyQt6", "PySide6", "PyQt5", "PySide2"))


# -- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        ("mimo_radar", ["samples", "samples phase"]),
        ("tomography", ["samples"]),
        ("mri", ["samples", "samples phase"]),
        ("irs_mimo", ["samples", "samples phase", "pilots", "irs_reflection"]),
    ],
)
def test_a_measurement_opens_as_its_samples(viewer, files, modality, expected):
    viewer.open(files[modality][0], plugin="backcast")
    assert roles(viewer) == expected


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        ("mimo_radar", ["truth", "magnitude", "decibels", "phase", "tx", "rx", "box"]),
        ("tomography", ["truth", "magnitude", "box"]),
        ("mri", ["truth", "magnitude", "decibels", "phase", "box"]),
    ],
)
def test_a_result_opens_with_its_truth_and_scene_in_millimetres(viewer, files, modality, expected):
    viewer.open(files[modality][1], plugin="backcast")
    assert roles(viewer) == expected
    assert units(viewer)[-3:] == ("millimeter",) * 3
    result = read_reconstruction(files[modality][1])
    z, y, x = (1e3 * result.volume.scale(a) for a in "zyx")
    image = next(a for a in viewer.layers if role_of(a.metadata) == "magnitude")
    corner = image.data_to_world((0,) * image.ndim)[-3:]
    far = image.data_to_world(tuple(n - 1 for n in image.data.shape))[-3:]
    np.testing.assert_allclose(corner, [z[0], y[0], x[0]], atol=1e-9)
    np.testing.assert_allclose(far, [z[-1], y[-1], x[-1]], rtol=1e-9, atol=1e-9)


def test_time_is_a_slider_in_seconds(viewer, files):
    viewer.open(files["tomography"][1], plugin="backcast")
    assert viewer.dims.axis_labels[0] == "frame"
    assert units(viewer)[0] == "second"
    assert viewer.dims.nsteps[0] == 6


def test_a_channel_opens_as_spectra(viewer, files):
    viewer.open(files["irs_mimo"][1], plugin="backcast")
    assert [role_of(a.metadata) for a in viewer.layers if a.visible] == ["spectra", "spectra labels"]
    assert "uncertainty" in roles(viewer)


@pytest.mark.parametrize("sample", ["mimo_radar", "tomography", "mri", "irs_mimo"])
def test_a_sample_of_every_modality(viewer, sample):
    viewer.open_sample("backcast", sample)
    assert roles(viewer)[0] == "samples"
    assert source_of(viewer.layers[0].metadata).measurement.modality == sample


def test_files_are_known_by_their_content(files, tmp_path):
    other = tmp_path / "scan.dat"
    shutil.copy(files["mri"][0], other)
    assert get_reader(str(other)) is not None
    assert get_reader([str(other), str(files["mri"][1])]) is not None
    (tmp_path / "text.h5").write_text("no HDF5")
    assert get_reader(str(tmp_path / "text.h5")) is None
    assert get_reader([str(other), str(tmp_path / "text.h5")]) is None
    assert get_reader(str(tmp_path)) is None


def test_a_user_s_choice_of_another_reader_stays(viewer):
    from napari.settings import get_settings

    plugins = get_settings().plugins
    before = dict(plugins.extension2reader)
    plugins.extension2reader = {"*.h5": "other"}
    prefer()
    assert plugins.extension2reader == {"*.h5": "other", "*.hdf5": "backcast"}
    plugins.extension2reader = before


def test_what_was_opened_is_saved_again(viewer, files, tmp_path):
    viewer.open(files["mimo_radar"][1], plugin="backcast")
    target = tmp_path / "again.h5"
    assert viewer.layers.save(str(target), plugin="backcast") == [str(target)]
    one, other = (read_reconstruction(p) for p in (files["mimo_radar"][1], target))
    np.testing.assert_array_equal(one.volume.data, other.volume.data)
    assert one.provenance == other.provenance


def test_layers_of_no_result_are_not_saved(viewer, tmp_path):
    viewer.add_image(np.zeros((3, 4)))
    with pytest.raises(DataFormatError, match="expected layers of one reconstruction"):
        write(str(tmp_path / "a.h5"), [layer.as_layer_data_tuple() for layer in viewer.layers])


# -- bad input ----------------------------------------------------------------------------------------------


def of_another_program(path, target):
    with h5py.File(target, "w") as f:
        f["a"] = 1


def newer(path, target):
    shutil.copy(path, target)
    with h5py.File(target, "r+") as f:
        f.attrs["format_version"] = "2.0"


def half(path, target):
    target.write_bytes(path.read_bytes()[:3000])


def with_nan(path, target):
    shutil.copy(path, target)
    with h5py.File(target, "r+") as f:
        f["volume/data"][0, 0, 0] = np.nan


def empty(path, target):
    shutil.copy(path, target)
    with h5py.File(target, "r+") as f:
        attrs = dict(f["volume/data"].attrs)
        del f["volume/data"]
        f["volume"].create_dataset("data", data=np.zeros((0, 17, 17), np.complex64)).attrs["units"] = attrs["units"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (of_another_program, "expected 'backcast-measurement' or 'backcast-reconstruction', found no such attribute"),
        (newer, "format_version"),
        (half, "expected a complete HDF5 file, found a truncated one"),
        (with_nan, "found .*NaN"),
        (empty, "found"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence_and_the_viewer_goes_on(viewer, files, tmp_path, spoil, sentence):
    target = tmp_path / "bad.h5"
    spoil(files["mimo_radar"][1], target)
    with pytest.raises(DataFormatError, match=sentence) as error:
        viewer.open(target, plugin="backcast")
    assert "\n" not in str(error.value)
    assert str(target) in str(error.value)
    viewer.open(files["mri"][1], plugin="backcast")
    assert len(viewer.layers) == 5


def test_a_result_whose_input_is_gone_opens_without_truth(files, tmp_path, told):
    target = tmp_path / "mimo_radar_recon.h5"
    shutil.copy(files["mimo_radar"][1], target)
    layers = read(str(target))
    assert [k["metadata"]["backcast_role"] for _, k, _ in layers] == ["magnitude", "decibels", "phase"]
    assert told == ["mimo_radar_recon.h5: its measurement mimo_radar.h5 is not there; truth and antennas are not shown"]


def test_a_result_whose_input_is_another_now(files, tmp_path, told):
    shutil.copy(files["mimo_radar"][1], tmp_path / "a_recon.h5")
    shutil.copy(files["mimo_radar"][0], tmp_path / "mimo_radar.h5")
    with h5py.File(tmp_path / "mimo_radar.h5", "r+") as f:
        f.attrs["uuid"] = "00000000-0000-4000-8000-00000000000f"
    read(str(tmp_path / "a_recon.h5"))
    assert "is now another measurement" in told[0]


def test_constant_one_voxel_and_diverged_volumes_open(viewer, tmp_path):
    scales = {a: Scale(values=np.array([0.0]), units="m") for a in "zyx"}
    image = Volume(
        data=np.full((1, 1, 1), np.nan, np.float32), axes=("z", "y", "x"), scales=scales, quantity="reflectivity"
    )
    write_reconstruction(tmp_path / "one.h5", Reconstruction(modality="mimo_radar", volume=image, status="diverged"))
    viewer.open(tmp_path / "one.h5", plugin="backcast")
    viewer.dims.ndisplay = 3
    assert viewer.layers[0].contrast_limits == [0.0, 1.0]


# -- arranging ----------------------------------------------------------------------------------------------


def test_show_arranges_a_volume_in_3d_the_right_way_up(viewer, files):
    show(viewer, [files["mimo_radar"][1]])
    assert viewer.dims.ndisplay == 3
    assert tuple(map(str, viewer.scene.camera.orientation)) == ORIENTATION
    assert viewer.canvas.overlays.scale_bar.visible
    assert viewer.scene.camera.handedness.value == "left"  # of napari's axes z, y, x: right-handed in x, y, z


def test_show_has_slices_in_2d(viewer, files):
    show(viewer, [files["mri"][1]])
    assert viewer.dims.ndisplay == 2
    show(viewer, [files["tomography"][1]])
    assert viewer.dims.current_step[0] == 0


def test_several_results_of_one_scan_make_a_grid_with_the_truth_first(viewer, files, tmp_path):
    other = files["tomography"][1].with_name("other_recon.h5")
    shutil.copy(files["tomography"][1], other)
    show(viewer, [files["tomography"][1], other])
    assert [a.name for a in viewer.layers] == ["truth", "tomography", "other"]
    assert viewer.canvas.grid.enabled
    assert len({tuple(a.contrast_limits) for a in viewer.layers}) == 1


# -- large files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """6 x 96 x 96 voxels in 4 frames, one bright."""
    data = np.random.default_rng(0).random((4, 6, 96, 96)).astype(np.float32) + 0j
    data[0, 3, 50, 70] = 5j
    axes = ("frame", "z", "y", "x")
    scales = {
        a: Scale(values=np.arange(n) * 1e-3, units="s" if a == "frame" else "m")
        for a, n in zip(axes, data.shape, strict=True)
    }
    path = tmp_path_factory.mktemp("large") / "large_recon.h5"
    volume = Volume(data=data.astype(np.complex64), axes=axes, scales=scales, quantity="reflectivity")
    write_reconstruction(path, Reconstruction(modality="mimo_radar", volume=volume))
    return path, data


def test_a_volume_that_stays_in_its_file_has_the_same_values(large):
    path, data = large
    result = open_result(path, memory_bytes=1000)
    assert not isinstance(result.volume.data, np.ndarray)
    np.testing.assert_allclose(np.asarray(result.volume.data[2]), data[2].astype(np.complex64))


def test_a_volume_beyond_the_limit_is_thinned_out_in_3d_and_whole_in_2d(viewer, large, monkeypatch):
    path, data = large
    monkeypatch.setattr("viewer.lazy.MEMORY_BYTES", 1000)
    monkeypatch.setattr(open_result, "__kwdefaults__", {"memory_bytes": 1000})
    monkeypatch.setattr("viewer.settings.voxels_3d", lambda: 5000)
    viewer.open(path, plugin="backcast")
    image = viewer.layers[0]
    assert image.multiscale
    assert image.data[0].shape == data.shape
    assert np.prod(image.data[1].shape[1:]) <= 5000
    assert image.contrast_limits[1] == pytest.approx(5)
    viewer.dims.ndisplay = 3
    assert image.data_level == 1
    np.testing.assert_allclose(np.asarray(image.data[0][1, 3, 50]), np.abs(data[1, 3, 50]), rtol=1e-6)


def test_a_file_that_disappears_is_told(large, tmp_path):
    path = tmp_path / "gone.h5"
    shutil.copy(large[0], path)
    result = open_result(path, memory_bytes=1000)
    path.unlink()
    with pytest.raises(OSError, match="can no longer be read; open the file again"):
        np.asarray(result.volume.data[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_two_gibibytes_open_in_five_seconds_and_one_gibibyte(viewer, tmp_path):
    path = tmp_path / "big_recon.h5"
    n = (512, 512, 1024)
    with h5py.File(path, "w") as f:
        f.attrs.update(
            format="backcast-reconstruction", format_version="1.0", modality="mimo_radar", creator="tests",
            creator_version="1", file_time="2026-11-25T00:00:00+00:00", uuid="u", input_uuid="v", status="complete",
        )  # fmt: skip
        g = f.create_group("volume")
        g.attrs.update(signal="data", axes=["z", "y", "x"])
        options = {"chunks": (1, 128, 1024), "compression": "gzip", "compression_opts": 1, "shuffle": True}
        d = g.create_dataset("data", n, np.complex64, fletcher32=True, **options)
        d.attrs.update(units="1", quantity="reflectivity")
        rng = np.random.default_rng(0)
        plane = (rng.standard_normal(n[1:]) + 1j * rng.standard_normal(n[1:])).astype(np.complex64)
        for z in range(n[0]):
            d[z] = np.roll(plane, 7 * z, axis=1)
        for name, m in zip("zyx", n, strict=True):
            g[name] = np.arange(m) * 1e-3
            g[name].attrs["units"] = "m"
    viewer.add_image(np.zeros((2, 2)), units=("mm", "mm"))  # napari at work, its libraries loaded
    viewer.layers.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    show(viewer, [path])
    viewer.layers[0].refresh()
    took = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    assert viewer.dims.ndisplay == 3
    assert took < 5
    assert grown < 1
