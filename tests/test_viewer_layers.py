"""A reconstruction as layers: to scale, in metres, without napari."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from data.measurement import Scale, Volume
from data.reconstruction import Metric, Reconstruction
from viewer.layers import layers_of


def reconstruction(data, axes=("z", "y", "x"), **scales):
    first = {"frame": 10.0, "z": 0.35, "y": -0.15, "x": -0.1}
    step = {"frame": 0.5, "z": 0.00625, "y": 0.0125, "x": 0.02}
    made = {
        name: Scale(values=first[name] + step[name] * np.arange(n), units="s" if name == "frame" else "m")
        for name, n in zip(axes, data.shape, strict=True)
    }
    volume = Volume(data=data, axes=axes, scales={**made, **scales}, units="1", quantity="reflectivity")
    return Reconstruction(
        modality="mimo_radar",
        volume=volume,
        metrics={"psnr": Metric(value=20.0, units="dB")},
        provenance={"config": "{}"},
    )


def test_a_complex_volume_gives_magnitude_and_phase():
    data = np.zeros((4, 5, 6), np.complex64)
    data[1, 2, 3] = 3j
    (size, shown, kind), (phase, hidden, other) = layers_of(reconstruction(data), name="scan")
    assert (kind, other) == ("image", "image")
    assert size.dtype == np.float32
    assert size[1, 2, 3] == 3
    assert phase[1, 2, 3] == pytest.approx(np.pi / 2)
    assert (shown["name"], hidden["name"]) == ("scan magnitude", "scan phase")
    assert shown["contrast_limits"] == (0.0, 3.0)
    assert hidden["visible"] is False
    assert shown["metadata"]["metrics"] == {"psnr": 20.0}
    for keywords in (shown, hidden):
        assert keywords["scale"] == pytest.approx((0.00625, 0.0125, 0.02))
        assert keywords["translate"] == pytest.approx((0.35, -0.15, -0.1))
        assert keywords["units"] == ("m", "m", "m")
        assert keywords["axis_labels"] == ("z", "y", "x")


def test_frames_are_in_seconds():
    data = np.ones((3, 4, 5, 6), np.complex64)
    (_, shown, _), _ = layers_of(reconstruction(data, ("frame", "z", "y", "x")))
    assert shown["scale"][0] == pytest.approx(0.5)
    assert shown["translate"][0] == pytest.approx(10.0)
    assert shown["units"] == ("s", "m", "m", "m")


def test_a_real_volume_gives_one_layer_with_its_own_range():
    ((data, shown, _),) = layers_of(reconstruction(np.linspace(-1, 2, 24, dtype=np.float32).reshape(2, 3, 4)))
    assert shown["name"] == "reflectivity"
    assert shown["contrast_limits"] == (-1.0, 2.0)
    assert data.shape == (2, 3, 4)


def test_an_empty_volume_and_one_of_a_single_voxel():
    ((_, shown, _), _) = layers_of(reconstruction(np.zeros((1, 1, 1), np.complex64)))
    assert shown["contrast_limits"] == (0.0, 1.0)
    assert shown["scale"] == (1.0, 1.0, 1.0)


def test_uneven_coordinates_are_refused():
    data = np.zeros((3, 2, 2), np.complex64)
    bad = reconstruction(data, z=Scale(values=np.array([0.0, 1.0, 3.0]), units="m"))
    with pytest.raises(ValueError, match="axis z: expected evenly spaced"):
        layers_of(bad)


def test_no_napari_is_imported():
    assert "napari" not in sys.modules
