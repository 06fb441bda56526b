"""Tomography through `reconstruct` and the command: bad input, every method, every quantity, the result file."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from batch_cases import cli

from data import read_measurement, read_reconstruction, validate, write_measurement
from data.measurement import GridSpec, Measurement, Scale
from data.reconstruction import Reconstruction
from data.simulate import TomographySimulation, tomography
from pipelines.config import resolve
from pipelines.methods import Setting, find_method
from pipelines.radar import MeasurementError
from pipelines.reconstruct import reconstruct
from pipelines.tomography import read_scan

N = 24
METHODS = ("fbp", "tv", "psm", "pnp", "redpsm")


@functools.cache
def scan(**settings: Any) -> Measurement:
    """Three still discs in 24 x 24 pixels from 36 views without noise, unless `settings` say otherwise."""
    usual = {"object": "discs", "n": N, "n_instants": 1, "views_per_instant": 36, "noise": "none", "seed": 3}
    return tomography(TomographySimulation(**{**usual, **settings}))


def moving(**settings: Any) -> Measurement:
    """Discs that turn while 32 views are taken, one per instant, noise 0.5 %."""
    usual = {"n_instants": 32, "views_per_instant": 1, "motion": "rigid", "noise": "gaussian"}
    return scan(**{**usual, **settings})


def changed(m: Measurement, **changes: Any) -> Measurement:
    """With other entries of `acquisition` or `geometry` (None takes one out), or other fields."""
    for name in ("acquisition", "geometry", "calibration"):
        if name in changes:
            merged = {**getattr(m, name), **changes[name]}
            changes[name] = {k: v for k, v in merged.items() if v is not None}
    return dataclasses.replace(m, **changes)


def made(m: Measurement, method: str = "tv", *settings: str) -> Reconstruction:
    """Imaged with the method's defaults, other `settings` as after -s."""
    one = find_method(method, "tomography")
    return reconstruct(m, one, resolve(one.config, [], settings, name=method))


def image(r: Reconstruction) -> np.ndarray:
    return r.volume.data


def notes(r: Reconstruction) -> str:
    return "\n".join(r.warnings)


def error(r: Reconstruction, m: Measurement) -> float:
    """‖image - truth‖ / ‖truth‖ over all frames."""
    assert m.ground_truth is not None
    truth = np.broadcast_to(m.ground_truth.data, image(r).shape)
    return float(np.linalg.norm(image(r) - truth) / np.linalg.norm(truth))


# -- what cannot be imaged, in one sentence -----------------------------------------------------------------


def turned(m: Measurement, factor: float) -> Measurement:
    return changed(m, acquisition={"angle": np.asarray(m.acquisition["angle"]) * factor})


def with_data(m: Measurement, change: Any) -> Measurement:
    values = np.array(m.data)
    change(values)
    return changed(m, data=values)


def nan_columns(values: np.ndarray) -> None:
    values[:, :, : N // 2 + 2] = np.nan


REFUSED = {
    "missing angles": (
        lambda: changed(scan(), acquisition={"angle": None}),
        "/acquisition/angle: expected the angle of every projection, found nothing; write it",
    ),
    "angles that are NaN": (
        lambda: changed(scan(), acquisition={"angle": np.full(36, np.nan)}),
        "/acquisition/angle: expected finite angles, found NaN or Inf; leave these views out",
    ),
    "degrees as radians": (
        lambda: turned(scan(), 180 / np.pi),
        r"/acquisition/angle: expected radians, found a range of 175 rad, .* turns; these look like degrees: set its "
        "units to 'deg'",
    ),
    "radians as degrees": (
        lambda: turned(scan(), np.pi / 180),
        "/acquisition/angle: expected views around the object, found 36 within 3.05 degrees; these look like radians "
        "given as 'deg': set its units to 'rad'",
    ),
    "vectors": (
        lambda: changed(scan(), geometry={"type": "vectors"}),
        "/geometry type: these methods take parallel, fan and cone beams, found 'vectors'; rebin the data to one of",
    ),
    "NaN in more than half of the columns": (
        lambda: with_data(scan(), nan_columns),
        "/measurement/data: expected measured samples, found 504 of 864 masked, NaN or without a photon; too little "
        "is left",
    ),
    "nothing but zeros": (
        lambda: with_data(scan(), lambda v: v.fill(0)),
        "/measurement/data: expected a signal, found line integrals that are all zero",
    ),
    "the wrong sign": (
        lambda: changed(scan(), data=-scan().data),
        "/measurement/data: expected line integrals >= 0, found most of them negative; change their sign",
    ),
    "transmission without its flat": (
        lambda: changed(scan(), quantity="transmission", data=(900 * np.exp(-scan().data)).astype(np.float32)),
        "found most of them negative; the samples are brighter than the flat field, so give it, or the counts",
    ),
    "columns from right to left": (
        lambda: changed(scan(), scales={**scan().scales, "detector_column": _columns(scan(), lambda c: c[::-1])}),
        "/measurement/detector_column: expected increasing columns, found others; flip the detector axis and the data",
    ),
    "columns that are not even": (
        lambda: changed(scan(), scales={**scan().scales, "detector_column": _columns(scan(), lambda c: c + 9 * c**2)}),
        "/measurement/detector_column: expected evenly spaced columns, found steps from .* m; resample",
    ),
    "one column": (
        lambda: changed(
            scan(),
            data=scan().data[..., :1],
            scales={**scan().scales, "detector_column": _columns(scan(), lambda c: c[:1])},
        ),
        "/measurement/detector_column: expected two columns or more, found one",
    ),
    "frames that are numbered from 1000": (
        lambda: changed(scan(), acquisition={"frame_index": np.arange(36) + 1000}),
        "/acquisition/frame_index: expected frames with views, found numbers up to 1035 for 36 views; number the "
        "frames from 0 without gaps",
    ),
    "negative frames": (
        lambda: changed(scan(), acquisition={"frame_index": np.arange(36) - 1}),
        "/acquisition/frame_index: expected numbers from 0, found -1",
    ),
    "a grid with other slices": (
        lambda: changed(scan(), grid=GridSpec((0, 0, 0), (1e-3,) * 3, (2, N, N))),
        "/grid/shape: expected 1 slices, one per detector row, found 2",
    ),
    "noise of zero per sample": (
        lambda: changed(scan(), noise_std=np.zeros(36, np.float32), noise_std_axes=("projection",)),
        "/measurement/noise_std: expected numbers > 0, found others",
    ),
    "a flat of zeros": (
        lambda: counted(flat=lambda f: f.fill(0)),
        "calibration: expected flat > dark, found no such pixel; check that /calibration/flat and dark are not "
        "exchanged",
    ),
    "counts of a longer exposure than the flat": (
        lambda: counted(flat=lambda f: np.multiply(f, 0.5, out=f)),
        "the samples are brighter than the flat field: measure it anew, with the projections. exposure",
    ),
    "no flat": (
        lambda: changed(counted(), calibration={"flat": None}),
        "calibration: expected a flat field for quantity='counts', found none; write /calibration/flat",
    ),
}


def _columns(m: Measurement, change: Any) -> Scale:
    return Scale(values=change(np.asarray(m.scale("detector_column"))), units="m")


def counted(flat: Any = None, data: Any = None) -> Measurement:
    """Counts of a bright scan, with changes made in their flats or in the samples."""
    m = scan(noise="poisson", photons=2e4)
    values, fields = np.array(m.data), np.array(m.calibration["flat"])
    if data is not None:
        data(values)
    if flat is not None:
        flat(fields)
    return changed(m, data=values, calibration={"flat": fields})


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case: str) -> None:
    build, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence) as info:
        made(build())
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("settings", "method", "sentence"),
    [
        (("model.knots=40",), "redpsm", r"\[model\] knots: expected at most 32, the frames of the scan, found 40"),
        (("model.knots=4", "model.rank=5"), "psm", r"\[model\] rank: expected at most 4, the knots, found 5"),
        (("data.weights=statistical",), "tv", r"\[data\] weights: statistical weights need counts, transmission or a"),
        (("data.weights=statistical",), "fbp", r"\[data\] weights: fbp weighs all samples alike; use tv, psm, pnp or"),
        (("geometry.tilt_deg=3.0",), "fbp", r"\[geometry\] tilt_deg: fbp treats no tilted detector; use tv, pnp or"),
        (("geometry.find_axis=true", "geometry.axis_offset_m=0.0"), "tv", "expected axis_offset_m or find_axis, found"),
        (("grid.shape=[3,24,24]",), "tv", r"\[grid\] shape: expected 1 slices, one per detector row, found 3"),
        (('denoiser.file=""',), "pnp", r"\[denoiser\] file: expected a denoiser; give -d a name of"),
    ],
)
def test_settings_that_the_data_do_not_allow(settings: tuple[str, ...], method: str, sentence: str) -> None:
    with pytest.raises(MeasurementError, match=sentence):
        made(moving(), method, *settings)


# -- the documented right thing -----------------------------------------------------------------------------


def test_repeated_angles_count_as_often_as_measured() -> None:
    m = scan()
    twice = changed(
        m,
        data=np.concatenate((m.data, m.data[:6])),
        acquisition={
            k: np.concatenate((m.acquisition[k], m.acquisition[k][:6])) for k in ("angle", "time", "frame_index")
        },
        scales={**m.scales, "projection": Scale(values=np.arange(42, dtype=np.int32), units="1")},
    )
    for method in ("fbp", "tv"):
        r = made(twice, method)
        assert "6 views repeat an angle; they count as often as they were measured" in notes(r)
        assert error(r, m) < error(made(m, method), m) + 0.02
    assert "repeat" not in notes(made(moving(view_period=8), "psm"))  # of another moment each


def test_a_detector_smaller_than_the_object_is_said() -> None:
    m = scan(detector_columns=12)
    for method in ("fbp", "tv"):
        said = notes(made(m, method))
        assert "projections are cut off by the detector: the object is larger than what it sees" in said
    assert "fbp: extension = smooth lessens the bright rim" in notes(made(m, "fbp"))
    assert "cut off" not in notes(made(scan(), "tv"))


def test_flats_of_zero_in_a_pixel_are_dead_pixels() -> None:
    def dead(f: np.ndarray) -> None:
        f[:, 0, 10] = 0

    r, whole = made(counted(flat=dead)), made(counted())
    assert "1 detector pixels with flat <= dark are masked out" in notes(r)
    assert error(r, scan()) < error(whole, scan()) + 0.05


@pytest.mark.parametrize("value", [0, 65535])
def test_dead_and_saturated_pixels_are_not_measured(value: int) -> None:
    def stuck(v: np.ndarray) -> None:
        v[:, 0, 10] = value

    r, whole = made(counted(data=stuck)), made(counted())
    assert ("without any photon" if value == 0 else "36 saturated samples (65535 counts) are masked out") in notes(r)
    assert error(r, scan()) < error(whole, scan()) + 0.05
    direct = made(counted(data=stuck), "fbp")  # bridged
    assert error(direct, scan()) < error(made(counted(), "fbp"), scan()) + 0.1


def test_pixels_that_never_change_are_stuck() -> None:
    def stuck(v: np.ndarray) -> None:
        v[:, 0, 10] = 0.7

    r = made(with_data(scan(), stuck))
    assert "data: 1 pixels show one value in all views, dead or saturated; not measured" in notes(r)
    assert error(r, scan()) < error(made(scan()), scan()) + 0.02


def test_counts_above_the_flat_are_said() -> None:
    def drift(v: np.ndarray) -> None:
        v[::6] = (v[::6] * 1.3).astype(v.dtype)

    said = notes(made(counted(data=drift)))
    assert "samples are brighter than the flat field by more than a tenth; a drifting source" in said
    assert "brighter" not in notes(made(counted()))


def test_nan_columns_are_not_measured() -> None:
    def spoil(v: np.ndarray) -> None:
        v[:, :, 9] = np.nan

    for method in METHODS:
        r = made(with_data(scan(), spoil), method)
        assert "data: 36 samples are NaN or Inf (1 whole column); they count as not measured" in notes(r)
        assert np.isfinite(image(r)).all()
        assert error(r, scan()) < error(made(scan(), method), scan()) + 0.1


def test_one_instant_only() -> None:
    m = moving(n_instants=1)
    for method in METHODS:
        r = made(m, method)
        assert image(r).shape == (1, N, N)
        assert r.volume.axes == ("z", "y", "x")
        assert "only 1 view in all: the image follows from the prior" in notes(r)


def test_no_motion_at_all_is_a_movie_of_one_image() -> None:
    still = moving(motion="none")
    r = made(still, "redpsm")
    assert r.provenance["knots"] == 1
    assert r.provenance["rank"] == 1
    assert "nothing moves as far as the data tell" in notes(r)
    spread = np.abs(image(r) - image(r).mean(0)).max() / image(r).max()
    assert spread < 0.01  # the split variable of every frame is denoised alike
    assert made(moving(), "redpsm").provenance["knots"] > 1


def test_frames_without_views_follow_from_their_neighbours() -> None:
    m = moving()
    gap = changed(m, acquisition={"frame_index": np.where(np.arange(32) < 16, np.arange(32), np.arange(32) + 2)})
    for method in METHODS:
        r = made(dataclasses.replace(gap, ground_truth=None, grid=m.grid), method)
        assert image(r).shape == (34, 1, N, N)
        assert "2 of 34 frames have no view; they follow from their neighbours in time" in notes(r)
        if method in ("fbp", "psm", "redpsm"):
            between = image(r)[16].ravel()
            assert np.corrcoef(between, image(r)[15].ravel())[0, 1] > 0.8
        times = r.volume.scale("frame")
        assert np.all(np.diff(times) > 0)


def test_units_of_the_grid_are_compared_with_the_detector() -> None:
    m = scan()
    far = changed(m, grid=GridSpec((0, -12, -12), (1.0, 1.0, 1.0), (1, N, N)), ground_truth=None)
    assert "so check the units of both" in notes(made(far, "fbp"))


def test_the_axis_is_found_where_it_is() -> None:
    m = scan(axis_offset_m=1.1e-3, axis_known=False, detector_columns=32)
    r = made(m, "tv", "geometry.find_axis=true")
    assert "rotation axis at" in notes(r)
    assert error(r, m) < 0.5 * error(made(m), m)


# -- every method -------------------------------------------------------------------------------------------

#: ‖image - truth‖ / ‖truth‖ that a method must stay below, of the still and of the moving discs.
STILL = {"fbp": 0.4, "tv": 0.1, "psm": 0.2, "pnp": 0.15, "redpsm": 0.15}
MOVING = {"fbp": 0.6, "tv": 0.3, "psm": 0.25, "pnp": 0.95, "redpsm": 0.3}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_a_still_object(method: str, geometry: str) -> None:
    m = scan(geometry=geometry)
    r = made(m, method)
    assert image(r).shape == (1, N, N)
    assert error(r, m) < STILL[method]
    if method != "fbp":
        assert image(r).min() >= 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_a_moving_object(method: str, geometry: str) -> None:
    m = moving(geometry=geometry)
    r = made(m, method)
    assert image(r).shape == (32, 1, N, N)
    assert error(r, m) < MOVING[method]


def test_patches_of_slices_are_denoised_nearly_alike() -> None:
    m = moving(n=32)
    whole, patches = (made(m, "redpsm", "solver.max_iter=5", *more) for more in ((), ("denoiser.patch=16",)))
    assert error(patches, m) < 1.1 * error(whole, m)
    assert not np.array_equal(image(whole), image(patches))


def test_redpsm_is_the_best_of_a_moving_object() -> None:
    m = moving(object="walnut", n=32, motion="piecewise_affine")
    errors = {method: error(made(m, method), m) for method in METHODS}
    assert min(errors, key=lambda name: errors[name]) == "redpsm"
    assert errors["redpsm"] < 0.9 * errors["psm"]


@pytest.mark.parametrize("method", METHODS)
def test_line_integrals_transmission_and_counts_agree(method: str) -> None:
    m = scan()
    transmission = changed(m, quantity="transmission", data=np.exp(-m.data))
    counts = changed(
        m,
        quantity="counts",
        data=(100 + 1e6 * np.exp(-m.data.astype(float))).astype(np.float32),
        calibration={"flat": np.full((1, 1, N), 1e6 + 100.0), "dark": np.full((1, 1, N), 100.0)},
    )
    unweighted = ["data.weights=none"]
    if method in ("pnp", "redpsm"):
        unweighted.append("denoiser.precision=float32")
    expected = image(made(m, method, *unweighted))
    for other in (transmission, counts):
        found = image(made(other, method, *unweighted))
        assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def test_weights_are_photons() -> None:
    m = counted()
    assert "data: samples weighted by their photons" in notes(made(m))
    assert "weighted" not in notes(made(m, "tv", "data.weights=none"))
    assert "weighted" not in notes(made(m, "fbp"))
    named = changed(scan(), noise_std=np.linspace(0.01, 0.02, 36), noise_std_axes=("projection",))
    assert "data: samples weighted by their noise_std" in notes(made(named))


def test_uneven_flats_weigh_by_counts() -> None:
    """A dim half of the detector: its samples count as much as their photons, not as their transmission."""
    m = scan(noise="poisson", photons=2e4)
    counts, flat = np.array(m.data, np.float32), np.array(m.calibration["flat"], np.float32)
    counts[..., : N // 2] /= 4
    flat[..., : N // 2] /= 4
    config = find_method("tv", "tomography").config()
    setting = Setting(device=torch.device("cpu"))
    dim = read_scan(changed(m, data=counts, calibration={"flat": flat}), config, setting).weights
    even = read_scan(m, config, setting).weights
    assert dim is not None
    assert even is not None
    ratio = (dim / even)[..., : N // 2].mean() / (dim / even)[..., N // 2 :].mean()
    assert float(ratio) == pytest.approx(0.25, rel=1e-4)


# -- the result file and the command ------------------------------------------------------------------------

SMALL = ("n=24", "n_instants=16", "object=discs", "motion=rigid")


def test_from_simulation_to_figures(tmp_path) -> None:
    settings = [a for s in SMALL for a in ("-s", s)]
    assert cli("simulate", "tomography", "-o", tmp_path / "scans", "-n", 2, "--seed", 4, *settings).status == 0
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", "--progress", "none")
    assert done.status == 0, done.err
    path = tmp_path / "out" / "tomography_0000_recon.h5"
    assert not [f for f in validate(path, deep=True) if f.severity == "error"]
    r = read_reconstruction(path)
    assert r.volume.axes == ("frame", "z", "y", "x")
    assert (r.volume.units, r.volume.quantity) == ("1/m", "attenuation")
    assert r.volume.data.dtype == np.float32
    np.testing.assert_allclose(r.volume.scale("frame"), np.arange(16))
    truth = read_measurement(tmp_path / "scans" / "tomography_0000.h5").ground_truth
    np.testing.assert_allclose(r.volume.scale("x"), truth.scale("x"))
    p = r.provenance
    assert json.loads(p["config"])["method"] == "redpsm"
    assert p["denoiser"] == "tomo-2d"
    assert len(p["denoiser_sha256"]) == 64
    assert p["input_file"].endswith("tomography_0000.h5")
    assert p["data_scale"] == pytest.approx(136, rel=0.4)
    assert p["rank"] <= p["knots"]
    assert "model:" in p["notes"]
    assert "grid:" in p["notes"]
    columns = r.convergence.columns
    n = r.convergence.n_iterations
    assert r.convergence.stop_reason in ("max_iterations", "tolerance")
    for name in ("primal_residual", "dual_residual", "dual_change", "relative_change", "psnr", "sigma", "rho"):
        assert len(columns[name]) == n
        assert np.isfinite(columns[name]).all(), name
    assert columns["dual_change"][-1] < columns["dual_change"][0]
    assert columns["psnr"][-1] > columns["psnr"][0]
    lines = (tmp_path / "out" / "tomography_0000_recon.log.jsonl").read_text().splitlines()
    assert len(lines) == n
    assert "dual_change" in json.loads(lines[-1])
    table = cli("evaluate", tmp_path / "out")
    assert table.status == 0
    heads = "file method PSNR PSNR gain SSIM 3D SSIM 2D NMSE NMSE gain residual"
    assert table.out.splitlines()[0].split() == heads.split()
    found = json.loads(cli("evaluate", tmp_path / "out", "--json").out)
    assert found[0]["metrics"]["psnr"]["definition"].endswith("largest value over all frames")


def test_a_direct_result_has_no_convergence(tmp_path) -> None:
    write_measurement(tmp_path / "scan.h5", scan())
    assert cli("reconstruct", tmp_path / "scan.h5", "-o", tmp_path / "out", "-m", "fbp").status == 0
    r = read_reconstruction(tmp_path / "out" / "scan_recon.h5")
    assert r.convergence is None
    assert float(r.metrics["measurement_residual"].value) < 0.2


@pytest.mark.parametrize("case", ["degrees as radians", "missing angles", "a flat of zeros"])
def test_the_command_says_it_too(case: str, tmp_path) -> None:
    path = tmp_path / "scan.h5"
    write_measurement(path, scan() if case != "a flat of zeros" else counted())
    with h5py.File(path, "r+") as f:
        if case == "degrees as radians":
            f["acquisition/angle"][...] *= 180 / np.pi
        elif case == "missing angles":
            del f["acquisition/angle"]
        else:
            f["calibration/flat"][...] = 0
    done = cli("reconstruct", path, "-o", tmp_path / "out", "-m", "tv", "--progress", "none")
    assert done.status == 1
    words = {
        "degrees as radians": "set its units to 'deg'",
        "missing angles": "/acquisition/angle",
        "a flat of zeros": "flat > dark",
    }
    assert words[case] in done.err
    assert "Traceback" not in done.err
    assert not list((tmp_path / "out").glob("*.h5"))
