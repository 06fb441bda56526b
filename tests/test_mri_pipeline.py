"""MRI files to images: every method, coils, voxels, defaults, and one sentence per mistake."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from data import Measurement, read_reconstruction, write_measurement
from data.simulate import MriSimulation, mri
from pipelines.cli import app
from pipelines.config import resolve
from pipelines.methods import Setting, find_method
from pipelines.mri_scan import CoilImages, read_scan
from pipelines.radar import MeasurementError
from pipelines.reconstruct import reconstruct

STATIC = ("adjoint", "sense", "l1wavelet", "tv", "pnp")
DYNAMIC = ("psm", "lps", "redpsm")
#: Any denoiser will do where none is measured.
SETTING = Setting(device=torch.device("cpu"), denoiser=lambda v, sigma: torch.nn.functional.avg_pool2d(v, 3, 1, 1))


def scan(**changes) -> Measurement:
    return mri(MriSimulation(**{"n": 32, "n_coils": 4, "calibration": 12, "maps_known": True, **changes}))


def beating(**changes) -> Measurement:
    options = {"n_frames": 5, "object": "heart", "motion": "beating", "mask": "variable_density", "calibration": 4}
    return scan(**{**options, **changes})


def image(m: Measurement, method: str, *settings: str, setting: Setting = SETTING):
    entry = find_method(method, "mri")
    return reconstruct(m, entry, resolve(entry.config, assignments=settings), setting=setting)


def psnr(result) -> float:
    return float(np.mean(result.metrics["psnr_gain"].value))


def plan_scan(m: Measurement, *settings: str, **options):
    config = resolve(find_method("sense", "mri").config, assignments=settings)
    return read_scan(m, config, Setting(device=torch.device("cpu")), **options)


# -- every method ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", STATIC)
def test_static_methods_image_a_slice(method):
    result = image(scan(), method)
    volume = result.volume
    assert (volume.axes, volume.data.shape, volume.data.dtype) == (("z", "y", "x"), (1, 32, 32), np.complex64)
    assert volume.quantity == "magnetisation"
    assert volume.scale("y")[16] == 0
    assert "coils: sensitivities from the file" in result.warnings
    assert np.isfinite(psnr(result))


def test_more_work_gives_better_images():
    m = scan(acceleration=4, n=64, object="ellipses")
    real = Setting(device=torch.device("cpu"))
    found = {name: psnr(image(m, name, setting=real)) for name in STATIC}
    assert found["adjoint"] < found["sense"] < min(found["l1wavelet"], found["tv"])
    assert found["pnp"] > found["sense"] + 3


@pytest.mark.parametrize("method", [*STATIC, *DYNAMIC])
def test_movies_come_back_as_movies(method):
    result = image(beating(), method)
    assert result.volume.axes == ("frame", "z", "y", "x")
    assert result.volume.data.shape == (5, 1, 32, 32)
    np.testing.assert_allclose(result.volume.scale("frame"), np.arange(5) * 0.04)
    assert np.isfinite(psnr(result))


def test_low_rank_methods_join_frames():
    m = beating(acceleration=6, n=48, n_frames=8)
    real = Setting(device=torch.device("cpu"))
    found = {name: psnr(image(m, name, setting=real)) for name in ("sense", "psm", "lps", "redpsm")}
    assert min(found["psm"], found["lps"]) > found["sense"] + 1
    assert found["redpsm"] > max(found["psm"], found["lps"])


@pytest.mark.parametrize("way", ["parts", "magnitude", "demodulated"])
def test_ways_of_denoising(way):
    assert psnr(image(scan(), "pnp", f"solver.on={way}")) > 15


@pytest.mark.parametrize("on", ["complex", "magnitude"])
@pytest.mark.parametrize("method", ["l1wavelet", "tv"])
def test_priors_on_complex_images_and_magnitudes(method, on):
    assert psnr(image(scan(), method, f"solver.on={on}")) > 15


@pytest.mark.parametrize("method", ["l1wavelet", "tv", "lps", "pnp", "redpsm"])
def test_scaling_the_data_scales_the_image(method):
    m = beating()
    one = image(m, method, "solver.max_iter=3", "solver.tol=0").volume.data
    many = image(dataclasses.replace(m, data=1000 * m.data), method, "solver.max_iter=3", "solver.tol=0").volume.data
    np.testing.assert_allclose(many, 1000 * one, rtol=1e-3, atol=1e-3 * np.abs(many).max())


def test_pnp_is_redpsm_of_one_frame():
    m = scan()
    np.testing.assert_array_equal(image(m, "pnp").volume.data, image(m, "redpsm").volume.data)


# -- samples, coils, voxels ----------------------------------------------------------------------------------


def test_slices_are_imaged_on_their_own():
    m = scan(n_slices=3, snr_db=None)
    both = image(m, "sense").volume.data
    alone = dataclasses.replace(
        m,
        data=m.data[1:2],
        scales={**m.scales, "slice": dataclasses.replace(m.scales["slice"], values=m.scales["slice"].values[:1])},
        calibration={"coil_sensitivities": m.calibration["coil_sensitivities"][1:2]},
        grid=None,
        ground_truth=None,
    )
    np.testing.assert_allclose(image(alone, "sense").volume.data[0], both[1], atol=2e-3 * np.abs(both).max())


def test_volumes_are_transformed_along_z():
    m = scan(encoding="3d", n_slices=8, mask="poisson_disc", phase_axes=2, calibration=4, acceleration=2, snr_db=None)
    assert psnr(image(m, "sense")) > psnr(image(m, "adjoint")) + 3


@pytest.mark.parametrize("sampling", ["radial", "golden_angle", "spiral"])
def test_trajectories(sampling):
    m = scan(trajectory=sampling, n_readouts=20, full_readouts=20, snr_db=None)
    assert psnr(image(m, "sense")) > 25
    assert any("area of k-space" in note for note in image(m, "adjoint").warnings)


def test_zeros_without_a_mask_are_not_measured():
    m = scan()
    without = dataclasses.replace(m, mask=None, mask_axes=())
    a, b = image(m, "sense"), image(without, "sense")
    np.testing.assert_allclose(a.volume.data, b.volume.data, atol=1e-5)
    assert any("mask: none in the file" in note for note in b.warnings)


def test_samples_outside_of_the_mask_are_not_used():
    m = scan(mask="full")
    mask = np.zeros((32, 1), np.uint8)
    mask[::2] = 1
    cut = dataclasses.replace(m, data=m.data * mask, mask=mask)
    more = dataclasses.replace(m, mask=mask)
    np.testing.assert_array_equal(image(cut, "sense").volume.data, image(more, "sense").volume.data)
    assert any("outside of the mask" in note for note in image(more, "sense").warnings)


def test_noise_is_whitened():
    m = scan(noise_correlation=0.8, mask="full")
    covariance = m.calibration["noise_covariance"].astype(complex)
    s = plan_scan(m)
    assert "coils: whitened by the file's noise covariance" in s.notes
    noise = np.random.default_rng(0).standard_normal((4, 20000)) + 1j * np.random.default_rng(1).standard_normal(
        (4, 20000)
    )
    coloured = np.linalg.cholesky(covariance) @ noise / np.sqrt(2)
    data = m.data.copy()
    data[:] = 0
    data[0].reshape(4, -1)[:, :] = coloured[:, :1024]
    white = plan_scan(dataclasses.replace(m, data=data.astype(np.complex64), mask=None, mask_axes=())).y
    found = np.cov(white.reshape(4, -1).numpy())
    level = np.mean(np.diag(covariance).real)
    np.testing.assert_allclose(found / level, np.eye(4), atol=0.15)
    assert "whitened" not in str(plan_scan(m, "coils.whiten=false").notes)


def test_coils_are_compressed():
    m = scan(n_coils=8, snr_db=None)
    s = plan_scan(m, "coils.compress=4")
    assert s.y.shape[2] == 4
    assert any("8 compressed to 4" in note for note in s.notes)
    assert psnr(image(m, "sense", "coils.compress=6")) > psnr(image(m, "sense")) - 3


def test_a_silent_coil_is_left_out():
    m = scan()
    data = m.data.copy()
    data[:, 2] = 0
    result = image(dataclasses.replace(m, data=data), "sense")
    assert "data: no signal in coil 2, left out" in result.warnings
    assert psnr(result) > 20


def test_recon_matrix_cuts_the_edges_off():
    m = scan()
    cut = dataclasses.replace(m, geometry={**m.geometry, "recon_matrix": np.array([1, 20, 32], np.int32)}, grid=None)
    whole, part = image(m, "sense").volume, image(cut, "sense").volume
    np.testing.assert_array_equal(part.data, whole.data[:, 6:26])
    np.testing.assert_allclose(part.scale("y"), whole.scale("y")[6:26])


def test_without_field_of_view_pixels_are_assumed():
    m = scan()
    geometry = {k: v for k, v in m.geometry.items() if k not in ("field_of_view", "recon_matrix")}
    result = image(dataclasses.replace(m, geometry=geometry, grid=None, ground_truth=None), "sense")
    assert "voxels: no field_of_view in the file; voxels of 1 mm are assumed" in result.warnings
    np.testing.assert_allclose(np.diff(result.volume.scale("x")), 1e-3)


def test_coil_images_are_one_operator():
    s = plan_scan(beating(), combine=False)
    assert isinstance(s.A, CoilImages)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, *s.A.in_shape, dtype=torch.complex64, generator=g)
    y = torch.randn(2, *s.A.out_shape, dtype=torch.complex64, generator=g)
    gap = torch.vdot(s.A(x).flatten(), y.flatten()) - torch.vdot(x.flatten(), s.A.adjoint(y).flatten())
    assert float(gap.abs()) < 1e-5 * float(s.A(x).norm() * y.norm())
    rss = image(scan(mask="full", snr_db=None), "adjoint", "adjoint.combine=rss")
    assert psnr(rss) > 60  # the maps' root sum of squares is 1


# -- defaults and mistakes -----------------------------------------------------------------------------------


def test_the_command_takes_pnp_for_slices_and_redpsm_for_movies(tmp_path):
    write_measurement(tmp_path / "still.h5", scan())
    write_measurement(tmp_path / "moves.h5", beating())
    result = CliRunner().invoke(app, ["reconstruct", str(tmp_path), "-o", str(tmp_path / "out"), "-n"])
    assert result.exit_code == 0, result.output
    moves, still = sorted(line for line in result.stdout.splitlines() if line.startswith("would reconstruct"))
    assert "(redpsm)" in moves
    assert "(pnp)" in still


def test_the_whole_way_on_the_command_line(tmp_path):
    write_measurement(tmp_path / "m.h5", scan())
    arguments = ["reconstruct", str(tmp_path / "m.h5"), "-o", str(tmp_path), "-s", "solver.max_iter=3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = read_reconstruction(tmp_path / "m_recon.h5")
    assert found.provenance["denoiser"] == "mri-2d"
    assert found.convergence.n_iterations == 3


def with_maps(maps) -> Measurement:
    return dataclasses.replace(scan(), calibration={"coil_sensitivities": maps.astype(np.complex64)})


def spoiled() -> Measurement:
    m = scan()
    data = m.data.copy()
    data[0, 1, 16, 3] = np.nan
    return dataclasses.replace(m, data=data)


MISTAKES = [
    (lambda: with_maps(np.ones((1, 3, 32, 32))), (), "expected 4 coils as the data have, found 3"),
    (lambda: with_maps(np.ones((1, 4, 30, 32))), (), "expected maps of 1 x 32 x 32 voxels"),
    (spoiled, (), "the first at [0, 1, 16, 3] (slice, coil, ky, kx)"),
    (lambda: dataclasses.replace(scan(), data=np.zeros((1, 4, 32, 32), np.complex64), mask=None), (), "only zeros"),
    (lambda: dataclasses.replace(scan(), mask=np.zeros((32, 1), np.uint8)), (), "the mask is all zero"),
    (
        lambda: scan(maps_known=False, calibration=0),
        (),
        "expected a fully sampled centre of 6 samples or more along ky",
    ),
    (lambda: scan(maps_known=False), ("coils.maps=file",), "set coils.maps to espirit"),
    (
        lambda: dataclasses.replace(
            scan(), calibration={**scan().calibration, "noise_covariance": -np.eye(4, dtype=np.complex64)}
        ),
        (),
        "expected a positive definite matrix",
    ),
    (
        lambda: dataclasses.replace(
            scan(trajectory="radial"), grid=None, geometry={"frame": "", "coordinates": ["x", "y", "z"]}
        ),
        (),
        "expected both for a trajectory, or /grid",
    ),
]


@pytest.mark.parametrize(("make", "settings", "words"), MISTAKES)
def test_what_cannot_be_imaged_is_told(make, settings, words):
    with pytest.raises(MeasurementError) as caught:
        image(make(), "sense", *settings)
    assert words in str(caught.value)


def test_knots_beyond_the_frames_are_told():
    with pytest.raises(MeasurementError, match="knots: expected at most 5"):
        image(beating(), "psm", "model.knots=6")


def test_iterations_continue():
    m = beating()
    entry = find_method("redpsm", "mri")
    config = resolve(entry.config, assignments=["model.knots=3", "solver.cg_steps=3"])
    (part,) = entry.plan(m, config, SETTING).parts
    index = torch.zeros(1, dtype=torch.int64)
    through = next(itertools.islice(part.solve(index, None), 5, None))
    half = next(itertools.islice(part.solve(index, None), 2, None))
    again = next(itertools.islice(part.solve(index, half), 2, None))
    torch.testing.assert_close(again.split, through.split)
