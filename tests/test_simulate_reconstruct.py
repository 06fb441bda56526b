"""Simulated tomography files are what the methods read: from the simulator through a file to a movie."""

import numpy as np
import pytest

from data import read_measurement, write_measurement
from data.simulate import TomographySimulation, tomography
from pipelines.reconstruct import reconstruct

SMALL = {"n": 24, "n_instants": 16}


def psnr(result):
    return float(np.mean(result.metrics["psnr"].value))


def test_a_simulated_movie_is_reconstructed_in_memory():
    m = tomography(TomographySimulation(**SMALL))
    result = reconstruct(m, "psm")
    assert result.volume.axes == m.ground_truth.axes
    assert result.volume.data.shape == m.ground_truth.data.shape
    assert (result.volume.units, result.volume.quantity) == ("1/m", "attenuation")
    np.testing.assert_allclose(result.volume.scale("frame"), m.ground_truth.scale("frame"))
    assert psnr(result) > 20  # with its frames in reverse order 18, with its angles mirrored 13


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({"noise": "poisson", "photons": 1e5}, 20),
        ({"geometry": "fan"}, 18),
        ({"axis_offset_m": 1e-3, "detector_columns": 32}, 20),
        ({"n_slices": 2, "views_per_instant": 2, "view_order": "golden_angle"}, 23),
        ({"motion": "flow", "angular_range_deg": 360.0, "view_order": "interleaved", "views_per_instant": 4}, 18),
    ],
    ids=["counts", "fan", "axis off the middle", "slices", "flow"],
)
def test_a_simulated_file_is_reconstructed(tmp_path, changes, least):
    """Geometry, angles, frames and counts mean the same to writer and reader."""
    path = tmp_path / "scan.h5"
    write_measurement(path, tomography(TomographySimulation(**SMALL, **changes)))
    assert psnr(reconstruct(read_measurement(path), "psm")) > least


def test_an_object_at_rest_is_one_image(tmp_path):
    path = tmp_path / "scan.h5"
    resting = TomographySimulation(n=24, motion="none", n_instants=1, views_per_instant=40)
    write_measurement(path, tomography(resting))
    result = reconstruct(read_measurement(path), "fbp")
    assert result.volume.axes == ("z", "y", "x")
    assert psnr(result) > 20
