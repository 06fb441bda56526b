"""Simulated pilots over a reflecting surface: the model of KS 2, its files, and one sentence per mistake."""

import json
import math

import numpy as np
import pytest
import torch

from data import read_measurement, validate, write_measurement
from data.simulate import IrsMimoSimulation, SimulationError, irs_mimo, irs_mimo_series, irs_scene
from imaging.errors import GeometryError
from imaging.operators.steering import array_coordinates, steering, surface_atoms, uniform_directions

VARIANTS = {
    "block": {},
    "planar": {"rx_rows": 4, "irs_rows": 16, "grid_rx": 6, "grid_irs": 6},
    "clusters": {"clusters": 2, "n_subcarriers": 3, "n_frames": 2, "phase_bits": 2, "reflection_modulus": 1.0},
    "scattered": {"angular_spread": False, "pilots": "orthogonal", "n_pilots": 6, "phase_bits": None},
    "synthetic": {"model": "synthetic"},
    "generic": {"model": "synthetic", "values": "generic"},
}


def small(**changes):
    return IrsMimoSimulation(
        **{"n_irs": 16, "n_rx": 4, "n_tx": 3, "grid_irs": 8, "grid_rx": 8, "grid_tx": 8, "n_pilots": 2, **changes}
    )


def product(scene):
    """A x as (frame, subcarrier, config, rx, pilot): KS 2.2."""
    return np.einsum("ai,bj,ck,fsijk->fsacb", *scene.factors, scene.coefficients, optimize=True)


# -- the model, KS 7 check 11 --------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_dictionary_is_the_system(changes):
    """The three factors and the index rule k = ((d - a) mod G) + 1 reproduce H_2 diag(ψ) H_1 X."""
    scene = irs_scene(IrsMimoSimulation(**changes))
    assert np.linalg.norm(product(scene) - scene.clean) < 1e-12 * np.linalg.norm(scene.clean)


def test_the_default_is_the_published_block_sparse_experiment():
    scene = irs_scene(IrsMimoSimulation())
    assert [f.shape for f in scene.factors] == [(6, 18), (3, 18), (16, 18)]
    a_r = scene.factors[2]
    np.testing.assert_allclose(a_r @ a_r.conj().T, 18 / 16 * np.eye(16), atol=1e-13)
    elements = array_coordinates(torch.from_numpy(IrsMimoSimulation().elements_m("irs")))
    atoms = surface_atoms(elements, uniform_directions(18, start=0.0), IrsMimoSimulation().wavelength_m).numpy()
    np.testing.assert_allclose(np.abs(atoms), 1 / 256, rtol=1e-12)
    assert len(np.unique(np.round(atoms * 256, 9), axis=1).T) == 18  # distinct columns
    np.testing.assert_allclose(atoms[:, 4], np.exp(-1j * np.pi * np.arange(256) * 2 * 4 / 18) / 256, atol=1e-12)
    x = scene.coefficients[0, 0]
    assert np.count_nonzero(x) == 9
    assert np.linalg.matrix_rank(x.reshape(18, -1)) == 1
    assert set(np.round(np.unique(scene.reflection.real), 12)) == {-1 / 16, 1 / 16}
    assert np.abs(scene.reflection.imag).max() < 1e-12
    np.testing.assert_allclose(np.abs(scene.pilots), 1 / math.sqrt(6))


def test_all_pairs_of_the_cascade_have_as_many_distinct_columns_as_the_grid():
    elements, wavelength = array_coordinates(torch.from_numpy(IrsMimoSimulation().elements_m("irs"))), SPACING * 2
    a = steering(elements / elements[1] * SPACING, uniform_directions(18), wavelength)
    pairs = (a[:, :, None] * a[:, None].conj()).reshape(256, -1).T.numpy() * 256
    assert len(np.unique(np.round(pairs, 6) + 0, axis=0)) == 18


SPACING = 0.005


def test_blocks_are_neighbours_and_scattered_paths_are_not_bound_to_be():
    for index in range(5):
        angles = irs_scene(IrsMimoSimulation(), index).angles
        for name in ("irs_arrival", "rx_arrival"):
            sines = angles[name][0].reshape(-1)
            np.testing.assert_allclose(np.diff(sines), 2 / 18, atol=1e-12)
            assert sines.min() >= -1
            assert sines.max() < 1
    scattered = [irs_scene(IrsMimoSimulation(angular_spread=False), i).angles["rx_arrival"][0] for i in range(5)]
    assert any(np.abs(np.diff(np.sort(s.reshape(-1)))).max() > 2.5 / 18 for s in scattered)


def test_off_the_grid_there_are_angles_and_no_coefficients():
    scene = irs_scene(IrsMimoSimulation(angles="off_grid"))
    assert scene.coefficients is None
    sines = scene.angles["irs_arrival"][0].reshape(-1)
    assert np.ptp(sines) <= 3 * 2 / 18
    assert np.abs(np.rint(9 * (sines + 1)) - 9 * (sines + 1)).max() > 1e-3
    m = irs_mimo(IrsMimoSimulation(angles="off_grid"))
    assert "coefficients" not in m.extra_truth
    np.testing.assert_array_equal(m.extra_truth["irs_arrival"].values.reshape(-1), sines)


def test_clusters_raise_the_rank():
    x = irs_scene(IrsMimoSimulation(clusters=2)).coefficients[0, 0]
    assert np.linalg.matrix_rank(x.reshape(18, -1)) == 2


def test_the_direct_path_adds_a_part_that_no_pattern_changes():
    with_it, without = (irs_scene(small(direct_path=d, direct_gain_db=3.0)) for d in (True, False))
    np.testing.assert_array_equal(with_it.channel, without.channel)
    difference = with_it.clean - without.clean
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :, :1], difference.shape), atol=1e-9)
    np.testing.assert_allclose(difference[0, 0, 0], with_it.direct[0, 0] @ with_it.pilots, atol=1e-9)


def test_phases_are_quantised_and_of_the_modulus_asked_for():
    reflection = irs_scene(small(phase_bits=2, reflection_modulus=0.9)).reflection
    np.testing.assert_allclose(np.abs(reflection), 0.9)
    steps = np.angle(reflection) / (np.pi / 2)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-12)
    assert len(np.unique(np.rint(steps) % 4)) == 4
    free = irs_scene(small(phase_bits=None)).reflection
    assert len(np.unique(np.round(np.angle(free), 9))) == free.size


def test_subcarriers_turn_gains_and_leave_directions():
    config = small(n_subcarriers=4, n_frames=2)
    x = irs_scene(config).coefficients
    support = x[0, 0] != 0
    assert all(((x[f, s] != 0) == support).all() for f in range(2) for s in range(4))
    np.testing.assert_allclose(np.abs(x[:, :, support]), np.abs(x[:, :1, support]) * np.ones((1, 4, 1)), rtol=1e-9)
    assert np.abs(np.angle(x[0, 1, support] / x[0, 0, support])).max() > 0.01
    assert np.abs(np.abs(x[0]) - np.abs(x[1])).max() > 0.1


# -- series, noise, files -------------------------------------------------------------------------------------


def test_a_series_shares_the_training_unless_it_is_drawn_anew():
    one, other = irs_mimo_series(small(), 2)
    np.testing.assert_array_equal(one.acquisition["irs_reflection"], other.acquisition["irs_reflection"])
    np.testing.assert_array_equal(one.acquisition["pilots"], other.acquisition["pilots"])
    assert not np.allclose(one.data, other.data)
    assert not np.allclose(*(irs_scene(small(new_training=True), i).reflection for i in range(2)))
    again = irs_mimo(small(), 1)
    np.testing.assert_array_equal(again.data, other.data)
    assert again.attrs["uuid"] == other.attrs["uuid"] != one.attrs["uuid"]


@pytest.mark.parametrize("changes", [{}, {"model": "synthetic"}, {"transmit_power_w": 0.25}])
def test_noise_has_the_variance_of_its_ratio(changes):
    config = IrsMimoSimulation(**{"snr_db": 3.0, "n_configs": 40, "n_pilots": 12, **changes})
    m, clean = irs_mimo(config), math.sqrt(config.transmit_power_w) * irs_scene(config).clean
    variance = m.acquisition["noise_variance"]
    assert variance == pytest.approx(np.mean(np.abs(clean) ** 2) / 10**0.3, rel=1e-6)
    noise = m.data - clean
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(variance, rel=0.1)
    assert (np.abs(noise.imag).max() == 0) == (config.model == "synthetic")


def test_the_channels_do_not_depend_on_the_noise():
    one, other = (irs_mimo(small(snr_db=s)) for s in (0.0, 30.0))
    np.testing.assert_array_equal(one.extra_truth["channel"].values, other.extra_truth["channel"].values)


def test_a_file_holds_no_secret_outside_its_truth():
    m = irs_mimo(small(noise_known=False, direct_path=True))
    assert set(m.acquisition) == {"pilots", "irs_reflection", "transmit_power", "carrier_frequency"}
    assert set(m.extra_truth) == {
        "coefficients",
        "channel",
        "direct_channel",
        "noise_variance",
        "irs_arrival",
        "irs_departure",
        "tx_departure",
        "rx_arrival",
    }
    assert m.noise_std is None
    assert "noise_variance" not in irs_mimo(small(snr_db=None)).acquisition


@pytest.mark.parametrize("changes", [*VARIANTS.values(), {"angles": "off_grid", "direct_path": True}])
def test_files_are_read_back_without_findings(tmp_path, changes):
    m = irs_mimo(IrsMimoSimulation(**changes), 3)
    path = tmp_path / "irs.h5"
    write_measurement(path, m)
    assert validate(path, deep=True) == []
    back = read_measurement(path)
    np.testing.assert_array_equal(back.data, m.data)
    for name in ("factor_1", "factor_2", "factor_3", "grid_1", "grid_2", "grid_3"):
        np.testing.assert_array_equal(back.dictionary[name], m.dictionary[name])
    assert set(back.extra_truth) == set(m.extra_truth)
    for name, truth in m.extra_truth.items():
        np.testing.assert_array_equal(back.extra_truth[name].values, truth.values)
        assert back.extra_truth[name].axes == truth.axes
    assert IrsMimoSimulation.from_dict(json.loads(back.provenance["config"])) == IrsMimoSimulation(**changes)


# -- arrays -------------------------------------------------------------------------------------------------


def test_an_array_is_seen_along_its_own_axes():
    line = torch.tensor([[1.0, 2, 3], [1, 2, 5], [1, 2, 4]], dtype=torch.float64)
    np.testing.assert_allclose(array_coordinates(line), [[0], [2], [1]])
    plane = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, -2], [0, 1, -2]], dtype=torch.float64)
    np.testing.assert_allclose(array_coordinates(plane), [[0, 0], [1, 0], [0, 2], [1, 2]], atol=1e-15)
    turned = plane @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0] + 7
    np.testing.assert_allclose(array_coordinates(turned), array_coordinates(plane), atol=1e-12)
    np.testing.assert_allclose(array_coordinates(plane[:1]), [[0]])
    with pytest.raises(GeometryError, match="in three dimensions"):
        array_coordinates(torch.cat((plane, torch.tensor([[5.0, 0, 0]], dtype=torch.float64))))
    with pytest.raises(GeometryError, match="the first two in one"):
        array_coordinates(torch.zeros(2, 3), name="tx_positions")
    with pytest.raises(GeometryError, match="columns x, y, z"):
        array_coordinates(torch.zeros(2, 2))
    with pytest.raises(GeometryError, match="expected 2 direction sines each"):
        steering(array_coordinates(plane), uniform_directions(4), 1.0)


# -- settings that cannot be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "sparse"}, "model: unknown|expected|synthetic"),
        ({"n_rx": 0}, "n_rx: expected a whole number >= 1, got 0"),
        ({"n_rx": 2.0}, "n_rx: expected a whole number"),
        ({"rx_rows": 5}, "rx_rows: expected rows of equal length.*16 elements, got 5"),
        ({"reflection_modulus": 1.5}, "reflection_modulus: expected at most 1.*passive"),
        ({"reflection_modulus": 0.0}, "reflection_modulus: expected > 0"),
        ({"phase_bits": 0}, "phase_bits: expected a whole number >= 1"),
        ({"snr_db": float("nan")}, "snr_db: expected a finite number"),
        ({"paths_irs": 19}, "paths_irs: expected at most grid_irs = 18"),
        ({"clusters": 19}, "clusters: expected at most grid_tx = 18"),
        ({"pilots": "orthogonal"}, "n_pilots: expected at least n_tx = 6"),
        ({"transmit_power_w": 0.0}, "transmit_power_w: expected > 0"),
        ({"delay_spread_s": -1.0}, "delay_spread_s: expected >= 0"),
        ({"direct_path": 1}, "direct_path: expected true or false"),
        ({"irs_rows": 16, "rx_rows": 4, "grid_irs": 64, "grid_rx": 64}, "coefficients in a file"),
        ({"model": "synthetic", "rows": (8, 12)}, "rows: expected three whole numbers"),
        ({"model": "synthetic", "nonzeros": (16, 1, 1)}, "nonzeros: expected at most unknowns"),
        ({"model": "synthetic", "unknowns": (2000, 2000, 2000)}, "unknowns: expected at most"),
        ({"model": "synthetic", "n_frames": 2}, "model synthetic: expected one frame"),
        ({"seed": -1}, "seed: expected a whole number >= 0"),
    ],
)
def test_settings_that_cannot_be(changes, words):
    with pytest.raises(SimulationError, match=words):
        IrsMimoSimulation(**changes)


def test_unknown_keys_and_wrong_indices():
    with pytest.raises(SimulationError, match="n_pilot"):
        IrsMimoSimulation.from_dict({"n_pilot": 3})
    with pytest.raises(SimulationError, match="index: expected a whole number >= 0"):
        irs_mimo(small(), -1)
