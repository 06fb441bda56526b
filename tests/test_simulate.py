"""Simulated measurements: noise, reproducibility, arrays, provenance, and one sentence per mistake."""

import json
import math

import h5py
import numpy as np
import pytest
import torch

from data import read_measurement, validate, write_measurement
from data.phantoms import Sphere, sx
from data.simulate import (
    ARRAYS,
    AntennaArray,
    MimoRadarSimulation,
    SimulationError,
    circular_noise,
    from_file,
    make_array,
    mimo_radar,
    mimo_radar_series,
    noise_std,
    radar_operator,
)
from imaging.operators import Grid

SMALL_GRID = Grid.spanning((0.40, -0.06, -0.06), (0.52, 0.06, 0.06), (9, 9, 9))
SMALL = {"grid": SMALL_GRID, "n_frequencies": 3, "array_parameters": {"n_tx": 3, "n_rx": 4}}


def small(**changes):
    return MimoRadarSimulation(**{**SMALL, **changes})


# -- noise --------------------------------------------------------------------------------------


def test_realised_snr():  # T15
    system = MimoRadarSimulation()
    operator = radar_operator(system)
    scenes = sx(np.random.default_rng(2), 100, system.grid)
    clean = np.concatenate([operator(part).numpy() for part in scenes.split(20)])
    m = clean[0].size
    for snr_db in (30.0, 10.0, 0.0):
        realised = []
        for index in range(100):
            sigma = noise_std(clean[index], snr_db)
            noise = sigma * circular_noise(np.random.default_rng((7, index)), clean[index].shape)
            realised.append(10 * math.log10(np.mean(np.abs(clean[index]) ** 2) / np.mean(np.abs(noise) ** 2)))
            ratio = np.linalg.norm(noise) / (sigma * math.sqrt(m))
            assert abs(ratio - 1) <= 3 / math.sqrt(2 * m)
        assert np.mean(realised) == pytest.approx(snr_db, abs=0.05)


def test_the_measurement_holds_that_noise():
    """The same law through the public function: data minus the noise-free data of the same file."""
    quiet = mimo_radar(small(snr_db=None))
    for snr_db in (30.0, 0.0):
        noisy = mimo_radar(small(snr_db=snr_db, frames=200))
        noise = noisy.data - quiet.data
        assert noisy.noise_std == pytest.approx(np.sqrt(np.mean(np.abs(noise) ** 2)), rel=0.02)
        power = np.mean(np.abs(quiet.data) ** 2)
        assert noisy.noise_std**2 == pytest.approx(power * 10 ** (-snr_db / 10), rel=1e-5)
        assert abs(np.mean(noise**2)) < 0.05 * np.mean(np.abs(noise) ** 2)  # circular
    assert quiet.noise_std is None


def test_noise_and_target_have_streams_of_their_own():
    a, b = mimo_radar(small(snr_db=30.0)), mimo_radar(small(snr_db=10.0))
    assert np.array_equal(a.ground_truth.data, b.ground_truth.data)
    quiet = mimo_radar(small(snr_db=None)).data
    np.testing.assert_allclose((b.data - quiet) / b.noise_std, (a.data - quiet) / a.noise_std, atol=1e-3)
    c, d = mimo_radar(small(target="letters")), mimo_radar(small())
    quiet_letters = mimo_radar(small(target="letters", snr_db=None)).data
    np.testing.assert_allclose((c.data - quiet_letters) / c.noise_std, (d.data - quiet) / d.noise_std, atol=1e-3)


# -- reproducibility ----------------------------------------------------------------------------


def test_a_file_depends_on_seed_and_index_alone():
    series = list(mimo_radar_series(small(seed=4), 3))
    again = mimo_radar(small(seed=4), 2)
    assert np.array_equal(series[2].data, again.data)
    assert series[2].attrs["uuid"] == again.attrs["uuid"]
    others = [series[0], series[1], mimo_radar(small(seed=5), 2)]
    assert all(not np.array_equal(o.ground_truth.data, again.ground_truth.data) for o in others)
    assert len({m.attrs["uuid"] for m in [*series, others[2]]}) == 4


def test_provenance_repeats_the_simulation():
    config = small(
        seed=3,
        target="solids",
        target_parameters={"parts": [Sphere(center_m=(0.0, 0.0, 0.46), diameter_m=0.05)]},
        frames=2,
    )
    m = mimo_radar(config, 1)
    assert m.provenance["seed"] == 3
    again = mimo_radar(MimoRadarSimulation.from_dict(json.loads(m.provenance["config"])), m.provenance["index"])
    assert np.array_equal(again.data, m.data)
    assert again.provenance == m.provenance


# -- the measurement ----------------------------------------------------------------------------


def test_full_array_measurement():
    config = small(frames=2, frame_interval_s=0.5, phase_convention="exp(+j*2*pi*f*tau)", amplitude_model="none")
    m = mimo_radar(config)
    assert m.axes == ("frame", "tx", "rx", "frequency")
    assert m.data.shape == (2, 3, 4, 3)
    assert m.data.dtype == np.complex64
    assert m.scale("frame").tolist() == [0.0, 0.5]
    assert m.scale("frequency").tolist() == [4e9, 10e9, 16e9]
    assert m.acquisition["phase_convention"] == "exp(+j*2*pi*f*tau)"
    assert m.ground_truth.axes == ("frame", "z", "y", "x")
    assert m.ground_truth.data.shape == (2, 9, 9, 9)
    assert m.grid.shape == SMALL_GRID.shape
    assert {s.units for s in m.scales.values()} == {"s", "1", "Hz"}


def test_data_are_the_operator_on_the_truth():
    config = small(snr_db=None)
    m = mimo_radar(config)
    y = radar_operator(config)(torch.from_numpy(m.ground_truth.data))
    np.testing.assert_array_equal(m.data[0], y.numpy())


@pytest.mark.parametrize("pitch", [0.015, 0.02], ids=["own pitch", "the scan's pitch"])
def test_monostatic_scan_has_a_channel_axis(pitch):
    """Both operators that a raster scan can get agree with the sum over the scatterer."""
    grid = Grid((0.3, -0.04, -0.04), (0.02, pitch, pitch), (3, 5, 5))
    config = MimoRadarSimulation(
        array="planar_monostatic",
        array_parameters={"n_x": 4, "n_y": 3, "step_m": 0.02},
        n_frequencies=2,
        grid=grid,
        target="points",
        target_parameters={"positions_m": [[0.5 * pitch - 0.04, pitch - 0.04, 0.32]]},
        random_phase=False,
        snr_db=None,
    )
    m = mimo_radar(config)
    assert m.axes == ("frame", "channel", "frequency")
    assert m.data.shape == (1, 12, 2)
    z, y, x = np.argwhere(m.ground_truth.data)[0]
    place = np.array([-0.04 + x * pitch, -0.04 + y * pitch, 0.3 + z * 0.02])
    r = np.linalg.norm(m.geometry["tx_positions"] - place, axis=1)[:, None]
    k = 2 * np.pi * m.scale("frequency") / m.acquisition["propagation_speed"]
    np.testing.assert_allclose(m.data[0], np.exp(-2j * k * r) / (4 * np.pi * r**2), rtol=2e-4)
    assert np.array_equal(m.geometry["channel_tx"], np.arange(12))


@pytest.mark.parametrize("target", ["sx", "points", "letters", "solids"])
def test_targets_without_phase_are_real(target):
    m = mimo_radar(small(target=target, random_phase=False))
    assert float(np.abs(m.ground_truth.data.imag).max()) == 0.0
    assert float(np.abs(m.ground_truth.data).max()) == pytest.approx(1.0)


# -- arrays -------------------------------------------------------------------------------------


def test_cross_is_the_published_system():
    a = make_array("cross")
    np.testing.assert_allclose(a.tx_m[[0, -1]], [[-0.15, 0.15, 0], [0.15, -0.15, 0]])
    np.testing.assert_allclose(a.rx_m[[0, 6, -1]], [[-0.15, -0.15, 0], [0, 0, 0], [0.15, 0.15, 0]], atol=1e-17)
    assert (len(a.tx_m), len(a.rx_m), a.n_channels) == (12, 13, 156)
    np.testing.assert_allclose(np.linalg.norm(np.diff(a.tx_m, axis=0), axis=1), 0.03857, atol=1e-5)


@pytest.mark.parametrize("family", [name for name in ARRAYS if name != "file"])
def test_every_family_is_planar_centred_and_moves_with_z(family):
    a, moved = make_array(family), make_array(family, {"z_m": -0.02})
    for name in ("tx_m", "rx_m"):
        np.testing.assert_allclose(getattr(a, name)[:, 2], 0.0)
        shift = getattr(moved, name) - getattr(a, name)
        np.testing.assert_allclose(shift, np.broadcast_to([0, 0, -0.02], shift.shape))
    together = np.concatenate([a.tx_m, a.rx_m])
    assert np.abs(together.mean(axis=0)).max() < 0.01
    assert np.abs(together[:, :2]).max() == pytest.approx(0.15, rel=0.15)


def test_numbers_and_sizes_are_as_asked():
    a = make_array("rectangular_mimo", {"n_tx": 6, "n_rx": 4, "width_m": 0.6, "height_m": 0.4})
    assert sorted(set(np.round(a.tx_m[:, 1], 9))) == [-0.2, 0.2]
    assert sorted(set(np.round(a.rx_m[:, 0], 9))) == [-0.3, 0.3]
    assert (len(a.tx_m), len(a.rx_m)) == (6, 4)
    grid = make_array("rectangular_mimo", {"n_tx": 9, "n_rx": 16, "layout": "grid"})
    assert (len(grid.tx_m), len(grid.rx_m)) == (9, 16)
    s = make_array("spiral", {"n_tx": 7, "n_rx": 12, "radius_m": 0.2})
    assert (len(s.tx_m), len(s.rx_m)) == (7, 12)
    assert np.linalg.norm(np.concatenate([s.tx_m, s.rx_m]), axis=1).max() == pytest.approx(0.2)
    m = make_array("mills_cross", {"n_tx": 5, "n_rx": 7})
    assert (np.ptp(m.tx_m, axis=0) > 0).tolist() == [True, False, False]
    assert (np.ptp(m.rx_m, axis=0) > 0).tolist() == [False, True, False]


def test_arrays_from_files(tmp_path):
    tx, rx = np.array([[0.0, 0.1, 0.0]]), np.array([[0.1, 0.0, 0.0], [0.2, 0.0, 0.0]])
    (tmp_path / "a.csv").write_text("# metres\nkind, x, y, z\ntx,0,0.1,0\nrx,0.1,0,0\nrx,0.2,0,0\n")
    np.savez(tmp_path / "a.npz", tx_m=tx, rx_m=rx, channel_tx=[0], channel_rx=[1])
    with h5py.File(tmp_path / "a.h5", "w") as f:
        for name, xyz in (("tx", tx), ("rx", rx)):
            f.create_dataset(f"geometry/{name}_positions", data=xyz).attrs["units"] = "m"
    for name in ("a.csv", "a.npz", "a.h5"):
        a = from_file(path=str(tmp_path / name))
        np.testing.assert_array_equal(a.tx_m, tx)
        np.testing.assert_array_equal(a.rx_m, rx)
        assert (a.channel_rx is not None) == (name == "a.npz")
    m = mimo_radar(small(array="file", array_parameters={"path": str(tmp_path / "a.npz")}))
    assert m.data.shape == (1, 1, 3)


# -- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"array": "spirall"}, "array: expected one of .*'spirall'; did you mean 'spiral'"),
        ({"array_parameters": {"n_tz": 3}}, "did you mean 'n_tx'"),
        ({"array_parameters": {"n_tx": 0}}, "n_tx: expected a whole number >= 1"),
        ({"array_parameters": {"n_tx": "many"}}, "n_tx: expected a whole number"),
        ({"array_parameters": {"aperture_m": -1.0}}, "aperture: expected > 0"),
        ({"array": "rectangular_mimo", "array_parameters": {"n_tx": 3}}, "even numbers"),
        ({"array": "rectangular_mimo", "array_parameters": {"layout": "edge"}}, "did you mean 'edges'"),
        ({"array": "planar_monostatic", "array_parameters": {"step_m": 0.0}}, "step_m: expected > 0"),
        ({"array": "file", "array_parameters": {}}, "expected .csv, .npz or .h5"),
        ({"array": "file", "array_parameters": {"path": "nothing.csv"}}, "no such array file"),
        ({"snr_db": math.nan}, "snr_db: expected a finite number"),
        ({"snr_db": math.inf}, "snr_db: expected a finite number"),
        ({"n_frequencies": 2.5}, "n_frequencies: expected a whole number >= 1"),
        ({"f_max_hz": 1e9}, "f_max_hz: expected above f_min_hz = 4e\\+09 Hz"),
        ({"f_min_hz": -1.0}, "f_min_hz: expected > 0"),
        ({"frames": 0}, "frames: expected a whole number >= 1"),
        ({"seed": -1}, "seed: expected a whole number >= 0"),
        ({"random_phase": 1}, "random_phase: expected true or false"),
        ({"amplitude_model": "1/R"}, "amplitude_model: expected one of"),
        ({"phase_convention": "exp(-j2pi f tau)"}, "phase_convention: expected one of"),
        ({"target": "leters"}, "did you mean 'letters'"),
        ({"target": "letters", "target_parameters": {"txt": "A"}}, "did you mean 'text'"),
        ({"target": "sx", "target_parameters": {"n": 3}}, "target sx, parameter: expected none, got 'n'"),
        ({"target_parameters": [1]}, "expected a table"),
        (
            {"grid": Grid((-0.1, -0.2, -0.2), (0.1, 0.1, 0.1), (5, 5, 5))},
            "transmitter at .* lies inside the voxel grid",
        ),
        ({"grid": 5}, "expected a Grid"),
    ],
)
def test_one_sentence(settings, message):
    with pytest.raises(SimulationError, match=message) as error:
        small(**{"array_parameters": {}, **settings}).antennas  # noqa: B018  (arrays are built at construction)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arrray": "cross"}, "did you mean 'array'"),
        ({"grid": {"origin": [0, 0, 0]}}, "did you mean 'origin_m'"),
        ({"grid": {"shape": [0, 3, 3]}}, "grid: .*shape"),
    ],
)
def test_one_sentence_from_plain_values(settings, message):
    with pytest.raises(SimulationError, match=message):
        MimoRadarSimulation.from_dict(settings)


def test_plain_values():
    config = MimoRadarSimulation.from_dict({"snr_db": "none", "grid": {"shape": [9, 5, 5]}, "seed": 3})
    assert (config.snr_db, config.grid.shape, config.seed) == (None, (9, 5, 5), 3)
    assert MimoRadarSimulation.from_dict(config.to_dict()) == config


def test_a_target_parameter_of_a_wrong_type_is_named():
    with pytest.raises(SimulationError, match="target letters: a parameter has the wrong type"):
        mimo_radar(small(target="letters", target_parameters={"height_m": "tall"}))


def test_index_must_be_a_count():
    with pytest.raises(SimulationError, match="index: expected a whole number >= 0"):
        mimo_radar(small(), -1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y\n1,2\n", "columns kind, x, y, z"),
        ("a.csv", "kind,x,y,z\nantenna,1,2,3\n", "kind: expected tx or rx"),
        ("a.csv", "kind,x,y,z\ntx,1,2,far\n", "not a readable array file"),
        ("a.csv", "kind,x,y,z\ntx,1,2,3\n", r"rx_m: expected \(n, 3\)"),
        ("a.npz", "not a zip", "not a readable array file"),
        ("a.h5", "not hdf5", "not a readable array file"),
    ],
)
def test_broken_array_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SimulationError, match=message) as error:
        from_file(path=str(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)


def test_an_array_checks_itself():
    place = np.zeros((2, 3))
    with pytest.raises(SimulationError, match="finite positions"):
        AntennaArray(place, np.full((1, 3), np.nan))
    with pytest.raises(SimulationError, match="both or neither"):
        AntennaArray(place, place, channel_tx=np.array([0]))
    with pytest.raises(SimulationError, match="antenna numbers 0 to 1"):
        AntennaArray(place, place, np.array([0]), np.array([2]))
    with pytest.raises(SimulationError, match="equal lengths"):
        AntennaArray(place, place, np.array([0, 1]), np.array([1]))


# -- the file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"frames": 3}, {"snr_db": None}, {"array": "planar_monostatic", "array_parameters": {"n_x": 3, "n_y": 2}}],
    ids=["full", "frames", "no noise", "channels"],
)
def test_a_simulated_file_is_valid_and_reads_back(tmp_path, changes):
    m = mimo_radar(small(**changes), 2)
    path = tmp_path / "scan.h5"
    write_measurement(path, m)
    assert validate(path, deep=True) == []
    back = read_measurement(path)
    assert np.array_equal(back.data, m.data)
    assert back.axes == m.axes
    assert np.array_equal(back.ground_truth.data, m.ground_truth.data)
    assert back.ground_truth.axes == m.ground_truth.axes
    assert back.grid == m.grid
    assert back.noise_std == (None if m.noise_std is None else pytest.approx(m.noise_std, rel=1e-6))
    assert back.attrs["uuid"] == m.attrs["uuid"]
    assert MimoRadarSimulation.from_dict(json.loads(back.provenance["config"])) == small(**changes)
    for name in ("tx_positions", "rx_positions"):
        assert np.array_equal(back.geometry[name], m.geometry[name])
