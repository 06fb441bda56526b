"""Simulated tomography: geometry, noise, view orders, objects, reproducibility, and one sentence per mistake."""

import json
import math

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from data import DataFormatError, read_measurement, validate, write_measurement
from data.calibrate import apply_calibration
from data.phantoms import discs, ellipses, polygons, shepp_logan, volume_slices, walnut
from data.simulate import (
    MOTIONS,
    OBJECTS,
    SimulationError,
    TomographySimulation,
    bit_reversed_order,
    largest_line_integral,
    make_movie,
    poisson_counts,
    scan_angles,
    tomography,
    tomography_operator,
    tomography_series,
    view_angles,
)
from imaging.operators import ParallelBeam
from pipelines.cli import app

SMALL = {"n": 32, "n_instants": 8, "object": "ellipses"}


def small(**changes):
    return TomographySimulation(**{**SMALL, **changes})


def one_disc(x, y, radius=0.2, **changes):
    """A disc at rest, noise-free: 1/m inside."""
    settings = {
        "object": "discs",
        "object_parameters": {"parts": [[x, y, radius, 1.0]]},
        "motion": "none",
        "noise": "none",
        "attenuation_per_m": 20.0,
        "n": 64,
        "n_instants": 2,
        "view_order": "given",
        "angles_rad": (0.0, math.pi / 2),
    }
    return tomography(TomographySimulation(**{**settings, **changes}))


def draw(name, n=64, seed=0, nz=1, **parameters):
    return OBJECTS[name]((nz, n, n), generator=np.random.default_rng(seed), **parameters)


# -- the default ------------------------------------------------------------------------------------------


def test_the_default_is_the_scan_of_rp():
    m = tomography(TomographySimulation())
    assert m.data.shape == (128, 1, 128)
    assert m.data.dtype == np.float32
    assert m.axes == ("projection", "detector_row", "detector_column")
    np.testing.assert_allclose(m.acquisition["angle"][:4], np.pi * np.array([0, 64, 32, 96]) / 128)
    assert m.acquisition["frame_index"].tolist() == list(range(128))
    assert m.acquisition["time"].tolist() == m.ground_truth.scale("frame").tolist() == list(range(128))
    truth = m.ground_truth
    assert (truth.axes, truth.units, truth.quantity) == (("frame", "z", "y", "x"), "1/m", "attenuation")
    assert truth.data.dtype == np.float32
    assert (m.quantity, m.units, m.geometry["type"]) == ("line_integral", "1", "parallel")
    assert (m.acquisition["sense"], m.acquisition["zero_ray"]) == ("ccw_from_+z", "+y")
    # As hard as RP's walnut (RP 7.4): rank 7 keeps 34.92 dB of the movie within 2 dB, and about 81 % is air.
    movie = truth.data.reshape(128, -1).astype(float)
    lost = np.linalg.eigvalsh(movie @ movie.T)[:-7].sum() / (128 * 12849)  # squared singular values, increasing
    assert 10 * math.log10(movie.max() ** 2 / lost) == pytest.approx(34.92, abs=2)
    assert (movie == 0).mean() == pytest.approx(0.81, abs=0.05)


def test_fewer_instants_are_every_so_many_of_more():  # RP 7.1
    few, many = make_movie(small(n_instants=4)), make_movie(small(n_instants=16))
    np.testing.assert_array_equal(few, many[::4])


# -- geometry ---------------------------------------------------------------------------------------------


def test_detector_coordinate_is_x_at_0_and_y_at_a_quarter():
    m = one_disc(0.5, -0.25)
    u = m.scale("detector_column")
    half = 32 * 0.5e-3
    for view, place in ((0, 0.5), (1, -0.25)):
        assert (m.data[view, 0] @ u) / m.data[view].sum() == pytest.approx(place * half, abs=1e-5)


@pytest.mark.parametrize(("radius", "limit"), [(0.625, 0.01), (0.39, 0.015), (0.234, 0.025)])
def test_a_disc_has_its_chords(radius, limit):  # after RP check 4
    m = one_disc(0.0, 0.0, radius, n=128, oversampling=4)
    u, r = m.scale("detector_column"), radius * 64 * 0.5e-3
    fine = u[:, None] + (np.arange(64) - 31.5) / 64 * 0.5e-3  # the mean over a bin
    chord = (2 * 20.0 * np.sqrt(np.maximum(r**2 - fine**2, 0))).mean(axis=1)
    for view in m.data[:, 0]:
        assert np.linalg.norm(view - chord) < limit * np.linalg.norm(chord)


def test_every_view_holds_the_mass():  # RP check 5
    config = small(noise="none", n=64)
    m = tomography(config)
    mass = m.data.sum(axis=(1, 2)) * 0.5e-3
    np.testing.assert_allclose(mass, m.ground_truth.data.sum(axis=(1, 2, 3)) * 0.5e-3**2, rtol=2e-3)


@pytest.mark.parametrize(
    "changes", [{}, {"geometry": "fan"}, {"views_per_instant": 3, "n_slices": 2}, {"axis_offset_m": 2e-3}]
)
def test_data_are_the_operator_on_the_truth(changes):
    config = small(noise="none", **changes)
    m = tomography(config)
    y = tomography_operator(config)(torch.from_numpy(m.ground_truth.data))
    np.testing.assert_array_equal(m.data, y.numpy())


def test_a_fan_sees_the_whole_circle_and_enlarges():
    m = one_disc(0.5, 0.0, geometry="fan", source_to_origin_m=0.1, origin_to_detector_m=0.15)
    u = m.scale("detector_column")
    assert (m.data[0, 0] @ u) / m.data[0].sum() == pytest.approx(2.5 * 0.5 * 16e-3, rel=0.01)
    assert (m.geometry["source_to_origin"], m.geometry["origin_to_detector"]) == (0.1, 0.15)
    edge = 2.5 * 16e-3 / math.sqrt(1 - 0.16**2)
    assert u[-1] >= edge - 2.5 * 0.5e-3
    assert u[-1] <= edge + 2.5 * 0.5e-3
    full = one_disc(0.0, 0.0, radius=0.99, geometry="fan", source_to_origin_m=0.1, origin_to_detector_m=0.15)
    assert full.data[:, :, [0, -1]].max() < 0.25 * full.data.max()


def test_fewer_columns_cut_projections_off():
    whole, part = one_disc(0.0, 0.0, 0.8), one_disc(0.0, 0.0, 0.8, detector_columns=20)
    np.testing.assert_array_equal(part.data, whole.data[:, :, 22:42])
    np.testing.assert_allclose(part.scale("detector_column"), whole.scale("detector_column")[22:42], atol=1e-15)


def test_the_axis_may_be_off_and_unknown():
    known = one_disc(0.0, 0.0, axis_offset_m=2e-3)
    u = known.scale("detector_column")
    assert (known.data[0, 0] @ u) / known.data[0].sum() == pytest.approx(2e-3, abs=1e-6)
    assert known.geometry["rotation_axis_offset"] == 2e-3
    unknown = one_disc(0.0, 0.0, axis_offset_m=2e-3, axis_known=False)
    assert "rotation_axis_offset" not in unknown.geometry
    np.testing.assert_array_equal(unknown.data, known.data)


def test_oversampling_changes_the_data_a_little_and_the_truth_less():
    plain, fine = (tomography(small(n=64, noise="none", motion="none", oversampling=s)) for s in (1, 3))
    assert fine.ground_truth.data.shape == plain.ground_truth.data.shape
    assert fine.grid == plain.grid
    for a, b, least, most in (
        (plain.data, fine.data, 1e-4, 0.02),
        (plain.ground_truth.data, fine.ground_truth.data, 0, 0.03),
    ):
        assert least < np.linalg.norm(a - b) / np.linalg.norm(a) < most


def test_several_views_of_a_moment_share_its_time():
    m = tomography(small(views_per_instant=3, instant_interval_s=0.25))
    assert m.acquisition["frame_index"].tolist() == np.repeat(range(8), 3).tolist()
    assert m.acquisition["time"].tolist() == np.repeat(np.arange(8) * 0.25, 3).tolist()
    assert m.ground_truth.n("frame") == 8


def test_one_moment_has_a_truth_without_frames():
    m = tomography(small(n_instants=1, views_per_instant=10, n_slices=2))
    assert m.ground_truth.axes == ("z", "y", "x")
    assert m.ground_truth.data.shape == (2, 32, 32)


# -- view orders ------------------------------------------------------------------------------------------


def test_bit_reversed_order():  # RP check 1
    assert bit_reversed_order(32)[:8].tolist() == [0, 16, 8, 24, 4, 20, 12, 28]
    for n in (1, 2, 3, 7, 32, 100, 127):
        order = bit_reversed_order(n)
        assert sorted(order) == list(range(n))
    assert bit_reversed_order(6).tolist() == [0, 3, 2, 5, 1, 4]


@pytest.mark.parametrize("n", [12, 45, 100])
def test_beginnings_of_the_bit_reversed_order_are_spread(n):
    order = bit_reversed_order(n)
    for k in range(2, n):
        seen = np.sort(order[:k])
        gaps = np.diff(np.append(seen, seen[0] + n))
        assert gaps.max() <= 4 * n / k


def test_orders_as_documented():
    golden = view_angles("golden_angle", 5)
    np.testing.assert_allclose(np.degrees(golden), (np.arange(5) * 111.24611797) % 180, atol=1e-6)
    np.testing.assert_allclose(view_angles("linear", 4, range_rad=2 * math.pi), np.arange(4) * math.pi / 2)
    interleaved = view_angles("interleaved", 4, 3)
    assert sorted(np.round(interleaved * 12 / math.pi).astype(int)) == list(range(12))
    np.testing.assert_allclose(np.diff(interleaved.reshape(4, 3), axis=1), math.pi / 3)
    np.testing.assert_array_equal(view_angles("interleaved", 8), view_angles("bit_reversed", 8))
    repeated = view_angles("bit_reversed", 12, period=4)
    np.testing.assert_array_equal(repeated, np.tile(view_angles("bit_reversed", 4), 3))
    drawn = view_angles("random", 1000, generator=np.random.default_rng(0))
    assert 0 <= drawn.min() < 0.02
    assert math.pi - 0.02 < drawn.max() < math.pi


def test_ranges():
    assert scan_angles(small(view_order="linear", angular_range_deg=90))[-1] == pytest.approx(math.pi / 2 * 7 / 8)
    assert scan_angles(small(view_order="linear", geometry="fan"))[-1] == pytest.approx(2 * math.pi * 7 / 8)
    given = tuple(np.linspace(-1, 5, 8))
    assert tomography(small(view_order="given", angles_rad=given)).acquisition["angle"].tolist() == list(given)


# -- noise ------------------------------------------------------------------------------------------------


def test_gaussian_noise_is_as_asked():
    config = small(n=64, n_instants=64, n_slices=8, motion="rigid", noise_fraction=0.02)
    m, quiet = tomography(config), tomography(small(n=64, n_instants=64, n_slices=8, motion="rigid", noise="none"))
    noise = m.data - quiet.data
    assert noise.std() == pytest.approx(m.noise_std, rel=0.02)
    assert abs(noise.mean()) < 4 * m.noise_std / math.sqrt(noise.size)
    np.testing.assert_array_equal(m.ground_truth.data, quiet.ground_truth.data)
    assert quiet.noise_std is None
    assert tomography(small(noise_fraction=0.0)).noise_std is None


def test_its_level_is_relative_to_all_frames_at_all_angles():
    config = small(n_instants=5, noise_fraction=0.1)
    movie = make_movie(config)
    static = ParallelBeam(torch.from_numpy(scan_angles(config)), torch.from_numpy(config.columns_m), config.grid)
    largest = max(float(static(torch.from_numpy(frame)).max()) for frame in movie)
    m = tomography(config)
    assert m.noise_std == pytest.approx(0.1 * largest, rel=1e-6)
    assert largest > tomography(small(n_instants=5, noise="none")).data.max()
    assert largest_line_integral(tomography_operator(config), movie) == pytest.approx(largest, rel=1e-6)
    rest = small(motion="none", noise_fraction=0.1)
    expected = largest_line_integral(tomography_operator(rest), make_movie(rest)[:1])
    assert tomography(rest).noise_std == pytest.approx(0.1 * expected, rel=1e-6)


def test_poisson_mean_and_variance():
    line_integrals = np.repeat(np.array([0.0, 0.5, 2.0, 6.0], np.float32)[:, None], 40000, axis=1)
    counts = poisson_counts(np.random.default_rng(0), line_integrals, photons=500.0, dark_counts=3.0)
    expected = 500 * np.exp(-np.array([0.0, 0.5, 2.0, 6.0])) + 3
    np.testing.assert_allclose(counts.mean(axis=1), expected, rtol=0.01)
    np.testing.assert_allclose(counts.var(axis=1), expected, rtol=0.03)


def test_counts_of_a_scan():
    repeats = {"n_instants": 1, "views_per_instant": 4000, "angles_rad": (0.3,) * 4000, "n": 16}
    quiet = one_disc(0.0, 0.0, 0.6, attenuation_per_m=200.0, **repeats)
    m = one_disc(
        0.0, 0.0, 0.6, attenuation_per_m=200.0, noise="poisson", photons=400.0, dark_counts=5.0, n_flats=2000, **repeats
    )
    expected = 400 * np.exp(-quiet.data[0, 0]) + 5
    np.testing.assert_allclose(m.data[:, 0].astype(float).mean(axis=0), expected, rtol=0.01)
    np.testing.assert_allclose(m.data[:, 0].astype(float).var(axis=0), expected, rtol=0.1)
    assert (m.quantity, m.data.dtype, m.noise_std) == ("counts", np.uint16, None)
    assert m.calibration["flat"].shape == m.calibration["dark"].shape == (2000, 1, 16)
    assert m.calibration["flat"].mean() == pytest.approx(405, rel=0.01)
    assert m.calibration["flat"].var() == pytest.approx(405, rel=0.03)
    assert m.calibration["dark"].var() == pytest.approx(5, rel=0.03)
    transmission = apply_calibration(m)
    np.testing.assert_allclose(transmission.data[:, 0].mean(axis=0), np.exp(-quiet.data[0, 0]), rtol=0.02)


def test_bright_scans_are_stored_as_float():
    assert tomography(small(noise="poisson", photons=6e4)).data.dtype == np.uint16
    bright = tomography(small(noise="poisson", photons=1e6)).data
    assert bright.dtype == np.float32
    assert bright.max() > 65535


# -- reproducibility --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["bit_reversed", "random"])
def test_a_file_depends_on_seed_and_index_alone(order):
    series = list(tomography_series(small(seed=4, view_order=order), 3))
    again = tomography(small(seed=4, view_order=order), 2)
    assert np.array_equal(series[2].data, again.data)
    assert np.array_equal(series[2].acquisition["angle"], again.acquisition["angle"])
    assert series[2].attrs["uuid"] == again.attrs["uuid"]
    others = [series[0], series[1], tomography(small(seed=5, view_order=order), 2)]
    assert all(not np.array_equal(o.ground_truth.data, again.ground_truth.data) for o in others)
    assert len({m.attrs["uuid"] for m in [*series, others[2]]}) == 4


def test_object_angles_and_noise_have_streams_of_their_own():
    a, b = tomography(small(view_order="random")), tomography(small(view_order="random", object="discs"))
    assert np.array_equal(a.acquisition["angle"], b.acquisition["angle"])
    loud, quiet = tomography(small(noise_fraction=0.1)), tomography(small(noise_fraction=0.01))
    assert np.array_equal(loud.ground_truth.data, quiet.ground_truth.data)
    clean = tomography(small(noise="none")).data
    np.testing.assert_allclose((loud.data - clean) / loud.noise_std, (quiet.data - clean) / quiet.noise_std, atol=1e-3)


def test_provenance_repeats_the_simulation():
    config = small(seed=3, motion="flow", motion_parameters={"speed": 0.2}, view_order="given", angles_rad=(0.1,) * 8)
    m = tomography(config, 1)
    back = TomographySimulation.from_dict(json.loads(m.provenance["config"]))
    again = tomography(back, m.provenance["index"])
    assert np.array_equal(again.data, m.data)
    assert again.provenance == m.provenance


# -- the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"geometry": "fan", "axis_offset_m": 1e-3},
        {"noise": "poisson", "n_slices": 3, "views_per_instant": 2},
        {"noise": "poisson", "photons": 1e6},
        {"noise": "none", "n_instants": 1, "views_per_instant": 12, "axis_known": False},
        {"motion": "none", "object": "shepp_logan", "view_order": "random"},
    ],
    ids=["default", "fan", "counts", "bright counts", "static", "at rest"],
)
def test_a_simulated_file_is_valid_and_reads_back(tmp_path, changes):
    m = tomography(small(**changes), 2)
    path = tmp_path / "scan.h5"
    write_measurement(path, m)
    assert validate(path, deep=True) == []
    back = read_measurement(path, calibrate=False)
    assert np.array_equal(back.data, m.data)
    assert back.data.dtype == m.data.dtype
    assert back.axes == m.axes
    assert back.quantity == m.quantity
    for name, scale in m.scales.items():
        assert np.array_equal(back.scale(name), scale.values)
    for table in ("acquisition", "geometry", "calibration"):
        ours, theirs = getattr(m, table), getattr(back, table)
        assert set(theirs) == set(ours)
        for name, value in ours.items():
            assert np.array_equal(np.asarray(theirs[name]), np.asarray(value)), name
    assert np.array_equal(back.ground_truth.data, m.ground_truth.data)
    assert back.ground_truth.axes == m.ground_truth.axes
    assert (back.ground_truth.units, back.ground_truth.quantity) == ("1/m", "attenuation")
    assert back.grid == m.grid
    assert back.noise_std == (None if m.noise_std is None else pytest.approx(m.noise_std, rel=1e-6))
    assert back.attrs["uuid"] == m.attrs["uuid"]
    assert TomographySimulation.from_dict(json.loads(back.provenance["config"])) == small(**changes)


def test_the_command(tmp_path):
    arguments = ["simulate", "tomography", "-o", str(tmp_path), "-n", "2", "--seed", "5"]
    settings = ["n=24", "n_instants=6", "object=discs", "object_parameters.count=3", "motion=rigid"]
    done = CliRunner().invoke(app, arguments + [part for s in settings for part in ("-s", s)])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tomography_0000.h5", "tomography_0001.h5"]
    expected = tomography(
        TomographySimulation(
            n=24, n_instants=6, object="discs", object_parameters={"count": 3}, motion="rigid", seed=5
        ),
        1,
    )
    assert np.array_equal(read_measurement(tmp_path / "tomography_0001.h5").data, expected.data)


def test_none_in_a_table_of_parameters(tmp_path):
    """TOML has no none; the text stands for it."""
    np.save(tmp_path / "a.npy", stored_volume())
    parameters = {"path": str(tmp_path / "a.npy"), "radius": "none", "key": "none"}
    movie = make_movie(small(object="volume", object_parameters=parameters, motion="none", attenuation_per_m=1.0))
    expected = draw("volume", n=32, path=str(tmp_path / "a.npy"), radius=None)
    np.testing.assert_array_equal(movie[0], expected)


def test_the_settings_as_toml(tmp_path):
    template = CliRunner().invoke(app, ["config", "init", "tomography"])
    assert template.exit_code == 0
    assert 'view_order = "bit_reversed"' in template.stdout
    (tmp_path / "scan.toml").write_text(template.stdout)
    fits = CliRunner().invoke(app, ["config", "check", str(tmp_path / "scan.toml")])
    assert "fits the simulation of tomography" in fits.stdout


# -- objects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OBJECTS if name != "volume"])
def test_objects_have_peak_1_and_stay_in_their_circle(name):
    x = draw(name, n=96, nz=3, radius=0.6)
    assert x.shape == (3, 96, 96)
    assert x.dtype == np.float32
    assert x.max() == 1
    assert x.min() >= 0
    c = (2 * np.arange(96) + 1) / 96 - 1
    outside = np.hypot(c[None], c[:, None]) > 0.6 + 2 / 96
    assert np.all(x[:, outside] == 0)
    assert (x[1] > 0).sum() >= 0.99 * (x[0] > 0).sum()  # sections are largest in the middle


@pytest.mark.parametrize("function", [discs, ellipses, polygons, walnut])
def test_objects_follow_their_generator(function):
    a, b, c = (function((1, 32, 32), generator=np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_bodies_shrink_towards_their_ends():
    x = draw("discs", n=64, nz=33, parts=[[0, 0, 0.5, 1]], height=0.5)
    area = (x > 0.5).sum(axis=(1, 2)) * (2 / 64) ** 2
    z = (2 * np.arange(33) + 1 - 33) / 64
    np.testing.assert_allclose(area, np.pi * 0.25 * np.maximum(1 - (z / 0.5) ** 2, 0), atol=0.03)
    same = draw("discs", nz=3, height=None)
    assert np.array_equal(same[0], same[2])


def test_pixels_are_means():
    x = draw("discs", n=32, parts=[[0.1, 0.0, 0.5, 1]])
    assert x.sum() * (2 / 32) ** 2 == pytest.approx(np.pi * 0.25, rel=0.005)


def test_shepp_logan_is_the_one_of_skimage():
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    reference = resize(shepp_logan_phantom(), (100, 100), anti_aliasing=True)
    ours = shepp_logan((1, 100, 100), generator=np.random.default_rng(0), radius=0.92)[0]
    assert np.corrcoef(ours[::-1].ravel(), reference.ravel())[0, 1] > 0.95  # its rows go down, ours along +y


def test_discs_do_not_overlap_and_are_counted():
    x = draw("discs", n=128, count=5)[0]
    from scipy.ndimage import label

    assert label(x > 0.05)[1] == 5


# -- objects from files -----------------------------------------------------------------------------------


def stored_volume():
    v = np.zeros((5, 40, 60), np.float32)
    for k in range(5):
        v[k, 5:15, 8:28] = 100 * (k + 1)
    return v


def test_the_same_slices_from_every_kind_of_file(tmp_path):
    v = stored_volume()
    np.save(tmp_path / "a.npy", v)
    np.savez(tmp_path / "b.npz", other=np.zeros(3), scan=v)
    with h5py.File(tmp_path / "c.h5", "w") as f:
        f["group/scan"] = v
    settings = {"a.npy": {}, "b.npz": {"key": "scan"}, "c.h5": {"key": "group/scan"}}
    found = [
        draw("volume", path=str(tmp_path / name), nz=2, first=1, **parameters) for name, parameters in settings.items()
    ]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert found[0].max() == 1
    assert found[0][0].max() == pytest.approx(2 / 3, rel=0.01)
    m = tomography(small(object="volume", object_parameters={"path": str(tmp_path / "a.npy")}, motion="none"))
    assert m.ground_truth.data.max() == pytest.approx(136.0, rel=1e-6)


def test_nifti_files(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    v = stored_volume()
    nibabel.save(nibabel.Nifti1Image(v.T, np.eye(4)), tmp_path / "d.nii.gz")
    np.save(tmp_path / "d.npy", v)
    a, b = (draw("volume", path=str(tmp_path / name)) for name in ("d.nii.gz", "d.npy"))
    assert np.array_equal(a, b)


def test_content_is_centred_and_reaches_the_circle(tmp_path):
    np.save(tmp_path / "a.npy", stored_volume())
    x = draw("volume", n=96, path=str(tmp_path / "a.npy"), radius=0.8)[0]
    rows, columns = np.nonzero(x > 0.5)
    c = (2 * np.arange(96) + 1) / 96 - 1
    assert abs(c[rows].mean()) < 0.02
    assert abs(c[columns].mean()) < 0.02
    assert np.hypot(c[rows], c[columns]).max() == pytest.approx(0.8, abs=0.03)
    assert np.ptp(c[columns]) / np.ptp(c[rows]) == pytest.approx(2, rel=0.06)
    whole = draw("volume", n=60, path=str(tmp_path / "a.npy"), radius=None)[0]
    np.testing.assert_allclose(whole[10:50], stored_volume()[2] / 300, atol=1e-6)  # pixel by pixel
    stretched = draw("volume", n=96, path=str(tmp_path / "a.npy"), pixel_ratio=2.0)[0]
    rows, columns = np.nonzero(stretched > 0.5)
    assert np.ptp(columns) == pytest.approx(np.ptp(rows), abs=2)


def test_other_directions_and_levels(tmp_path):
    v = stored_volume()
    np.save(tmp_path / "a.npy", v)
    np.save(tmp_path / "even.npy", v[:4])
    side = draw("volume", n=60, path=str(tmp_path / "even.npy"), axis="y", first=10, radius=None)[0]
    np.testing.assert_allclose(side[28:32], v[:4, 10] / 400, atol=1e-6)  # 4 rows of 60 in the middle
    np.save(tmp_path / "hounsfield.npy", v - 1000)
    a = draw("volume", path=str(tmp_path / "hounsfield.npy"), zero_level=-1000.0)
    np.testing.assert_allclose(a, draw("volume", path=str(tmp_path / "a.npy")), atol=1e-4)
    noisy = v + np.random.default_rng(0).normal(0, 8, v.shape)
    np.save(tmp_path / "noisy.npy", noisy)
    kept = draw("volume", path=str(tmp_path / "noisy.npy"), threshold=0.2)
    assert (kept == 0).mean() > 0.5


def test_a_large_slice_is_not_aliased(tmp_path):
    stripes = np.zeros((1, 256, 256), np.float32)
    stripes[:, :, ::2] = 1
    np.save(tmp_path / "a.npy", stripes)
    x = draw("volume", n=48, path=str(tmp_path / "a.npy"), radius=None)[0]
    assert np.ptp(x[8:-8, 8:-8]) < 0.1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"path": ""}, "path: expected a .npy, .npz, .h5 or .nii file, got none"),
        ({"axis": "w"}, "axis: expected z, y or x, got 'w'"),
        ({"number_in_file": 1}, "number_in_file: expected up to 0, got 1"),
        ({"first": 5}, "expected 1 slices along z from 5, found 5"),
        ({"first": -1}, "first: expected a whole number >= 0"),
        ({"zero_level": 1000.0}, "expected values above 0 in the slices, found none"),
        ({"threshold": 1.5}, "threshold: expected at most 1"),
        ({"pixel_ratio": 0.0}, "pixel_ratio: expected a finite number > 0"),
        ({"radius": 2.0}, "radius: expected at most 1"),
    ],
)
def test_a_volume_that_cannot_be_taken_is_a_sentence(tmp_path, parameters, message):
    np.save(tmp_path / "a.npy", stored_volume())
    with pytest.raises(SimulationError, match=message):
        volume_slices((1, 8, 8), generator=np.random.default_rng(0), **{"path": str(tmp_path / "a.npy"), **parameters})


def test_a_missing_file_is_a_sentence():
    with pytest.raises(DataFormatError, match=r"nothing.npy: expected a file or folder, found nothing"):
        tomography(small(object="volume", object_parameters={"path": "nothing.npy"}))


# -- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"object": "walnutt"}, "object: expected one of .*'walnutt'; did you mean 'walnut'"),
        ({"object_parameters": {"cuont": 3}}, "object ellipses, parameter: .*did you mean 'count'"),
        ({"object_parameters": [1]}, "object_parameters: expected a table, got"),
        ({"motion": "ridgid"}, "did you mean 'rigid'"),
        ({"motion": "rigid", "motion_parameters": {"angle": 3}}, "motion rigid, parameter: expected one of"),
        ({"motion": "none", "motion_parameters": {"a": 3}}, "motion none, parameter: expected none, got 'a'"),
        ({"n": 1}, "n: expected a whole number >= 2, got 1"),
        ({"n": 2.5}, "n: expected a whole number >= 2, got 2.5"),
        ({"n_slices": 0}, "n_slices: expected a whole number >= 1"),
        ({"oversampling": True}, "oversampling: expected a whole number >= 1, got True"),
        ({"pixel_m": 0.0}, "pixel_m: expected > 0, got 0.0"),
        ({"attenuation_per_m": -1.0}, "attenuation_per_m: expected > 0"),
        ({"attenuation_per_m": math.inf}, "attenuation_per_m: expected a finite number"),
        ({"geometry": "cone"}, "geometry: expected one of fan, parallel"),
        ({"geometry": "fan", "source_to_origin_m": 0.01}, "expected a source outside the slices, beyond 0.0113137 m"),
        ({"origin_to_detector_m": -0.1}, "origin_to_detector_m: expected >= 0"),
        ({"detector_columns": 1}, "detector_columns: expected a whole number >= 2"),
        ({"detector_pitch_m": 0.0}, "detector_pitch_m: expected > 0"),
        ({"axis_offset_m": math.nan}, "axis_offset_m: expected a finite number"),
        ({"axis_known": 1}, "axis_known: expected true or false"),
        ({"n_instants": 0}, "n_instants: expected a whole number >= 1"),
        ({"views_per_instant": 0}, "views_per_instant: expected a whole number >= 1"),
        ({"instant_interval_s": 0.0}, "instant_interval_s: expected > 0"),
        ({"view_order": "golden"}, "view_order: .*did you mean 'golden_angle'"),
        ({"view_order": "given"}, "angles_rad: expected n_instants x views_per_instant = 8 angles, got none"),
        ({"view_order": "given", "angles_rad": (0.0,)}, "= 8 angles, got 1"),
        ({"view_order": "given", "angles_rad": (math.nan,) * 8}, "angles_rad: expected finite numbers, got nan"),
        ({"view_order": "given", "angles_rad": (0.0,) * 8, "view_period": 2}, "expected no view_period"),
        ({"angles_rad": (0.0,) * 8}, "angles_rad: expected none unless view_order is given"),
        ({"view_period": 9}, "view_period: expected a multiple of views_per_instant = 1 up to 8 views, got 9"),
        ({"views_per_instant": 2, "view_period": 3}, "expected a multiple of views_per_instant = 2 up to 16 views"),
        ({"angular_range_deg": 361.0}, "angular_range_deg: expected at most 360, got 361"),
        ({"angular_range_deg": 0.0}, "angular_range_deg: expected > 0"),
        ({"noise": "gauss"}, "noise: .*did you mean 'gaussian'"),
        ({"noise_fraction": -0.1}, "noise_fraction: expected >= 0"),
        ({"photons": 0.0}, "photons: expected > 0"),
        ({"dark_counts": -1.0}, "dark_counts: expected >= 0"),
        ({"n_flats": 0}, "n_flats: expected a whole number >= 1"),
        ({"seed": -1}, "seed: expected a whole number >= 0"),
    ],
)
def test_one_sentence(settings, message):
    with pytest.raises(SimulationError, match=message) as error:
        small(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"object_parameters": {"count": -1}}, "object count: expected a whole number >= 0, got -1"),
        ({"object_parameters": {"radius": 1.5}}, "object radius: expected at most 1"),
        ({"object_parameters": {"height": 0.0}}, "object height: expected a finite number > 0, got 0.0"),
        ({"object_parameters": {"height": "tall"}}, "object height: expected a finite number > 0, got 'tall'"),
        ({"object": "discs", "object_parameters": {"count": 10**4}}, "expected no more discs than fit, got 10000"),
        ({"object": "discs", "object_parameters": {"parts": [[0, 0, 1]]}}, "expected x, y, radius > 0, value of each"),
        ({"object": "discs", "object_parameters": {"parts": 3}}, "object discs: a parameter has the wrong type"),
        ({"object": "walnut", "object_parameters": {"shell": 0.7}}, "radius / aspect <= 1 and shell <= 0.5"),
        ({"motion_parameters": {"amplitude": "far"}}, "motion amplitude: expected a finite number, got 'far'"),
    ],
)
def test_one_sentence_when_it_is_made(settings, message):
    with pytest.raises(SimulationError, match=message):
        tomography(small(**settings))


def test_plain_values():
    given = {"view_order": "given", "angles_rad": [0.0] * 4, "n_instants": 4}
    config = TomographySimulation.from_dict({"n": 16, "seed": 3, **given})
    assert (config.n, config.seed, config.angles_rad) == (16, 3, (0.0,) * 4)
    assert TomographySimulation.from_dict(config.to_dict()) == config
    with pytest.raises(SimulationError, match="did you mean 'n_slices'"):
        TomographySimulation.from_dict({"n_slice": 3})


def test_index_must_be_a_count():
    with pytest.raises(SimulationError, match="index: expected a whole number >= 0"):
        tomography(small(), -1)


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_makes_a_scan(motion):
    m = tomography(small(motion=motion))
    assert np.isfinite(m.data).all()
    moved = m.ground_truth.data
    assert np.array_equal(moved[0], moved[-1]) == (motion == "none")
