"""Volumes, measurements and channels as layers: to scale, in millimetres, without napari."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from data_cases import irs, mri, radar, tomography

from data.measurement import NamedArray, Scale, Volume
from data.reconstruction import Metric, Reconstruction
from viewer.channels import channel_layers, spectra_of
from viewer.layers import coordinates, error_layer, layers_of, part_layers, shared_limits
from viewer.overview import READ_BYTES, coarse, factors, notice, pyramid
from viewer.sampled import KSPACE_DB, MOST_POINTS, sample_layers
from viewer.scene import scene_layers
from viewer.source import gain_of

FIRST = {"frame": 10.0, "z": 0.35, "y": -0.15, "x": -0.1}
STEP = {"frame": 0.5, "z": 0.00625, "y": 0.0125, "x": 0.02}


def volume(data, axes=("z", "y", "x"), quantity="reflectivity", **scales):
    made = {
        name: Scale(values=FIRST[name] + STEP[name] * np.arange(n), units="s" if name == "frame" else "m")
        for name, n in zip(axes, data.shape, strict=True)
    }
    return Volume(data=data, axes=axes, scales={**made, **scales}, units="1", quantity=quantity)


def reconstruction(data, axes=("z", "y", "x"), **scales):
    return Reconstruction(
        modality="mimo_radar",
        volume=volume(data, axes, **scales),
        metrics={"psnr": Metric(value=20.0, units="dB")},
        provenance={"config": "{}"},
    )


def test_a_complex_volume_gives_magnitude_decibels_and_phase():
    data = np.zeros((4, 5, 6), np.complex64)
    data[1, 2, 3], data[0, 0, 0], data[3, 3, 3] = 3j, 0.3, 1e-3
    (size, shown, kind), (level, db, _), (phase, hidden, other) = layers_of(reconstruction(data), name="scan")
    assert (kind, other) == ("image", "image")
    assert size.dtype == level.dtype == phase.dtype == np.float32
    assert size[1, 2, 3] == 3
    assert level[1, 2, 3] == 0
    assert level[0, 0, 0] == pytest.approx(-20)
    assert level[2, 2, 2] == pytest.approx(-40)
    assert phase[1, 2, 3] == pytest.approx(np.pi / 2)
    assert math.isnan(phase[3, 3, 3])  # too small to have one
    assert (shown["name"], db["name"], hidden["name"]) == ("scan magnitude", "scan magnitude (dB)", "scan phase")
    assert shown["contrast_limits"] == (0.0, 3.0)
    assert hidden["contrast_limits"] == (-math.pi, math.pi)
    assert hidden["colormap"] == "twilight"  # cyclic
    assert (shown["visible"], db["visible"], hidden["visible"]) == (True, False, False)
    assert shown["metadata"]["metrics"] == {"psnr": 20.0}
    for keywords in (shown, db, hidden):
        assert keywords["scale"] == pytest.approx((6.25, 12.5, 20))
        assert keywords["translate"] == pytest.approx((350, -150, -100))
        assert keywords["units"] == ("mm", "mm", "mm")
        assert keywords["axis_labels"] == ("z", "y", "x")


def test_frames_are_in_seconds():
    data = np.ones((3, 4, 5, 6), np.complex64)
    shown = layers_of(reconstruction(data, ("frame", "z", "y", "x")))[0][1]
    assert shown["scale"][0] == pytest.approx(0.5)
    assert shown["translate"][0] == pytest.approx(10.0)
    assert shown["units"] == ("s", "mm", "mm", "mm")


def test_a_real_volume_gives_one_layer_with_its_own_range():
    ((data, shown, _),) = layers_of(reconstruction(np.linspace(-1, 2, 24, dtype=np.float32).reshape(2, 3, 4)))
    assert shown["name"] == "reflectivity"
    assert shown["contrast_limits"] == (-1.0, 2.0)
    assert data.shape == (2, 3, 4)


@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_a_constant_volume_has_limits_that_differ(value):
    ((_, shown, _),) = layers_of(reconstruction(np.full((2, 3, 4), value, np.float32)))
    low, high = shown["contrast_limits"]
    assert low < high


def test_a_volume_of_one_voxel():
    shown = layers_of(reconstruction(np.zeros((1, 1, 1), np.complex64)))[0][1]
    assert shown["contrast_limits"] == (0.0, 1.0)
    assert shown["scale"] == (1.0, 1.0, 1.0)


def test_an_axis_of_one_voxel_is_as_thick_as_the_finest_other():
    assert coordinates(volume(np.zeros((1, 5, 6))))["scale"] == pytest.approx((12.5, 12.5, 20))


def test_nan_is_left_to_be_transparent():
    data = np.ones((2, 3, 4), np.float32)
    data[0, 0, 0] = np.nan
    ((shown_data, shown, _),) = layers_of(reconstruction(data))
    assert math.isnan(shown_data[0, 0, 0])
    assert shown["contrast_limits"] == (0.0, 1.0)


def test_uneven_voxels_are_refused_and_uneven_frames_counted():
    data = np.zeros((3, 2, 2), np.complex64)
    bad = reconstruction(data, z=Scale(values=np.array([0.0, 1.0, 3.0]), units="m"))
    with pytest.raises(ValueError, match="axis z: expected evenly spaced"):
        layers_of(bad)
    moving = volume(
        np.zeros((3, 2, 2, 2)), ("frame", "z", "y", "x"), frame=Scale(values=np.array([0.0, 1.0, 3.0]), units="s")
    )
    found = coordinates(moving)
    assert (found["scale"][0], found["units"][0]) == (1.0, "dimensionless")


def test_real_and_imaginary_part_share_symmetric_limits():
    data = np.array([[[1 - 2j, 0.5]]], np.complex64)
    (real, one, _), (imaginary, other, _) = part_layers(volume(data))
    assert one["contrast_limits"] == other["contrast_limits"] == (-2.0, 2.0)
    assert real[0, 0, 0] == 1
    assert imaginary[0, 0, 0] == -2
    with pytest.raises(ValueError, match="expected a complex volume"):
        part_layers(volume(data.real))


def test_truth_and_estimate_on_limits_under_which_equal_looks_equal():
    true = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    estimate = volume((0.25 * true).astype(np.complex64))
    (_, high), (_, top) = shared_limits(estimate, volume(true))
    assert top == pytest.approx(true.max())
    assert high == pytest.approx(top / 4)
    unlike = np.zeros_like(true)
    unlike[0, 0, 0], true[0, 0, 0] = 0.3, 1e-3
    assert shared_limits(volume(unlike), volume(true))[0] == (0, pytest.approx(0.3))  # and not black
    same, other = shared_limits(volume(0.5 * true, quantity="attenuation"), volume(true, quantity="attenuation"))
    assert same == other  # an attenuation half as large is to look darker


def test_the_error_map_of_a_multiple_is_zero():
    true = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    data, keywords, _ = error_layer(volume((3j * true).astype(np.complex64)), volume(true))
    assert np.abs(data).max() < 1e-6
    assert keywords["metadata"]["gain"] == pytest.approx(1 / 3)
    low, high = keywords["contrast_limits"]
    assert low == -high
    data, _, _ = error_layer(volume(true - 0.5, quantity="attenuation"), volume(true, quantity="attenuation"))
    np.testing.assert_allclose(data, -0.5, rtol=1e-6)
    with pytest.raises(ValueError, match="expected the truth's 3 x 4 x 5 voxels"):
        error_layer(volume(true[:2]), volume(true))


def test_the_gain_of_nothing_is_one():
    assert gain_of(np.zeros(3), np.ones(3)) == 1
    assert gain_of(np.ones(3), np.zeros(3)) == 1


# -- large volumes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(10, 10, 10), (400, 300, 500), (1, 5000, 5000), (4096, 64, 64)])
def test_the_coarse_level_fits(shape):
    thin = factors(shape, 8, voxels_3d=2**20, in_file=False)
    assert math.prod(math.ceil(n / s) for n, s in zip(shape, thin, strict=True)) <= 2**20


def test_a_file_is_read_in_part_only():
    thin = factors((2048, 1024, 1024), 8, in_file=True)
    assert 2048 * 1024 * 1024 * 8 / thin[0] <= READ_BYTES


def test_the_coarse_level_keeps_what_is_bright():
    data = np.zeros((9, 10, 11), np.float32)
    data[4, 7, 9] = 5
    low = coarse(data, (2, 3, 4))
    assert low.shape == (5, 4, 3)
    assert low[2, 2, 2] == 5
    assert low.sum() == 5


def test_a_pyramid_of_frames_is_computed_frame_by_frame():
    data = np.random.default_rng(0).random((3, 8, 8, 8)).astype(np.float32)
    (fine, low), limits = pyramid(data, ("frame", "z", "y", "x"), voxels_3d=100)
    assert fine is data
    assert low.shape[0] == 3
    assert math.prod(low.shape[1:]) <= 100
    np.testing.assert_array_equal(np.asarray(low[2]), coarse(data[2], factors((8, 8, 8), 8, voxels_3d=100, in_file=0)))
    assert limits[1] == np.asarray(low[0]).max()


def test_a_notice_says_what_3d_leaves_out():
    assert notice("scan", (10, 10, 10), 8, in_file=False) == ""
    assert "3D shows every" in notice("scan", (1000, 1000, 1000), 8, in_file=True)


# -- measurements -------------------------------------------------------------------------------------------


def test_radar_samples_over_channel_and_frequency():
    m = radar(2)
    (level, shown, _), (phase, hidden, _) = sample_layers(m, name="scan")
    assert level.shape == phase.shape == (2, 12, 5)
    assert level.max() == 0
    assert phase[1, 6, 3] == pytest.approx(np.angle(m.data[1, 1, 2, 3]))
    assert shown["axis_labels"] == ("frame", "channel (tx, rx)", "frequency (4 to 16 GHz)")
    assert shown["scale"] == (1, 1, 1)
    assert (shown["visible"], hidden["visible"]) == (True, False)
    assert sample_layers(radar(channel=True))[0][0].shape == (6, 5)


def test_a_strip_is_drawn_wider():
    m = radar(channel=True)
    long = radar(channel=True, data=np.tile(m.data, (1, 10, 1)))
    assert sample_layers(long)[0][1]["scale"] == (1, 6)  # 60 channels, 5 frequencies


def test_what_was_not_measured_is_transparent():
    m = radar(mask=np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]], np.uint8), mask_axes=("tx", "rx"))
    level = sample_layers(m)[0][0]
    assert np.isnan(level[3]).all()
    assert np.isfinite(level[4]).all()


def test_a_sinogram():
    m = tomography()
    ((data, shown, _),) = sample_layers(m)
    assert data.shape == (2, 6, 7)
    np.testing.assert_array_equal(data[1], m.data[:, 1])
    assert shown["axis_labels"][0] == "detector row"


def test_k_space_in_decibels_and_empty_where_nothing_was_measured():
    (level, shown, _), _ = sample_layers(mri())
    assert level.shape == (2, 2, 4, 5)
    assert np.isnan(level[:, :, 1]).all()
    assert np.nanmin(level) >= -KSPACE_DB
    assert shown["contrast_limits"] == (-KSPACE_DB, 0)


def test_a_trajectory_in_cycles_per_field_of_view():
    m = mri("readout")
    (points, shown, kind), (readouts, hidden, _), _ = sample_layers(m)
    assert kind == "points"
    assert points.shape == (3 * 20, 3)  # frame, ky, kx
    k = m.acquisition["trajectory"][1, 2] * m.geometry["field_of_view"][1:]
    np.testing.assert_allclose(points[20 + 7, 1:], k, rtol=1e-6)
    assert len(shown["features"]["dB"]) == len(points) <= MOST_POINTS
    assert readouts.shape == (3, 2, 4, 5)
    assert hidden["visible"] is False


def test_pilots_and_what_was_sent():
    layers = sample_layers(irs())
    assert [k["name"] for _, k, _ in layers] == [
        "received pilots magnitude (dB)",
        "received pilots phase",
        "pilots sent, phase",
        "reflection patterns, phase",
    ]
    assert layers[0][0].shape == (2, 3, 4, 10)


# -- the scene ----------------------------------------------------------------------------------------------


def test_antennas_and_box_in_the_volume_s_millimetres():
    m = radar()
    tx, rx, box = scene_layers(m)
    np.testing.assert_allclose(tx[0], 1e3 * m.geometry["tx_positions"][:, ::-1])
    assert rx[0].shape == (4, 3)
    assert len(box[0]) == 6
    corners = np.concatenate(box[0])
    np.testing.assert_allclose(corners.min(axis=0), [275, -200, -187.5])
    np.testing.assert_allclose(corners.max(axis=0), [725, 200, 187.5])
    for _, keywords, _ in (tx, rx, box):
        assert keywords["units"] == ("mm", "mm", "mm")
    of_result = scene_layers(m, volume(np.zeros((4, 5, 6))))[-1]
    np.testing.assert_allclose(np.concatenate(of_result[0]).min(axis=0), [350 - 3.125, -150 - 6.25, -110])


def test_antennas_that_move_go_with_the_frames():
    m = radar(2, moving=True)
    points = scene_layers(m)[0][0]
    assert points.shape == (6, 4)
    np.testing.assert_allclose(points[:, 0], [0, 0, 0, 0.1, 0.1, 0.1])


# -- channels -----------------------------------------------------------------------------------------------


def channel_case():
    x = np.zeros((3, 4, 5), np.complex64)
    x[1, 2, 3] = 2j
    scales = {f"grid_{i + 1}": Scale(values=np.linspace(-1, 0.9, n), units="1") for i, n in enumerate(x.shape)}
    image = Volume(data=x, axes=tuple(scales), scales=scales, units="1", quantity="channel_coefficient")
    spread = np.full(x.shape, 0.1, np.float32)
    result = Reconstruction(modality="irs_mimo", volume=image, uncertainty=spread)
    truth = {"coefficients": NamedArray(values=x[None, None] / 2, axes=("frame", "subcarrier", "n1", "n2", "n3"))}
    return result, irs(extra_truth=truth)


def test_angular_spectra_with_standard_deviations():
    result, m = channel_case()
    spectra = spectra_of(result, m)
    assert [len(s.directions) for s in spectra] == [3, 4, 5]
    np.testing.assert_allclose(spectra[0].amplitude, [0, 1, 0])
    np.testing.assert_allclose(spectra[1].truth, [0, 0, 0.5, 0])
    assert spectra[0].deviation[1] == pytest.approx(0.05)  # 0.1 over the largest amplitude, 2
    assert spectra[0].deviation[0] == pytest.approx(math.sqrt(20) * 0.05)


def test_a_channel_s_layers():
    result, m = channel_case()
    layers = channel_layers(result, m, name="pilots")
    names = {k["name"]: (data, k, kind) for data, k, kind in layers}
    assert [n for n, (_, k, _) in names.items() if k.get("visible", True)] == [
        "pilots angular spectra",
        "pilots labels",
    ]
    shapes, drawn, _ = names["pilots angular spectra"]
    assert len(shapes) == len(drawn["shape_type"]) == len(drawn["edge_color"])
    assert "pilots coefficient standard deviation" in names


def test_no_napari_no_qt_no_torch_and_no_wait():
    code = (
        "import sys, time; start = time.perf_counter(); import viewer, viewer.reader;"
        "took = time.perf_counter() - start;"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('napari', 'PyQt6', 'PySide6', 'qtpy', 'torch', 'dask')];"
        "print(took, bad)"
    )
    took, _, bad = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.partition(" ")
    assert bad.strip() == "[]"
    assert float(took) < 0.5
