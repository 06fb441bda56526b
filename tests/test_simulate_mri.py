"""Simulated MRI: k-space of known objects, coils, masks, trajectories, noise, and one sentence per mistake."""

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from data import read_measurement, validate, write_measurement
from data.phantoms import heart
from data.simulate import MOTIONS, MriSimulation, SimulationError, coil_maps, mri, mri_series
from data.simulate import mri_masks as masks
from data.simulate import mri_trajectories as trajectories
from data.simulate.mri_coils import loop_sensitivities
from pipelines.cli import app

SMALL = {"n": 32, "n_coils": 4, "calibration": 8}


def small(**changes):
    return MriSimulation(**{**SMALL, **changes})


def images(m, axes=(-2, -1)):
    """Coil images of Cartesian data by the convention of the file."""
    k = np.fft.ifftshift(m.data, axes=axes)
    return np.fft.fftshift(np.fft.ifftn(k, axes=axes, norm="ortho"), axes=axes)


# -- the default, and the model ------------------------------------------------------------------------------


def test_the_default_is_a_slice_of_a_head_with_eight_coils():
    m = mri(MriSimulation())
    assert (m.data.shape, m.data.dtype, m.axes) == ((1, 8, 128, 128), np.complex64, ("slice", "coil", "ky", "kx"))
    assert m.mask.shape == (128, 1)
    assert (m.mask[:, 0].sum(), m.mask[64, 0]) == (59, 1)  # every third, and 24 in the centre
    assert not m.data[0][:, m.mask[:, 0] == 0].any()
    assert dict(m.acquisition) == {"fft_norm": "ortho", "fft_centered": True, "fft_sign": -1.0}
    truth = m.ground_truth
    assert (truth.axes, truth.quantity, truth.data.dtype) == (("z", "y", "x"), "magnetisation", np.complex64)
    assert truth.scale("y")[64] == 0
    assert np.abs(np.angle(truth.data[np.abs(truth.data) > 0.1])).max() > 0.5
    assert m.calibration == {}


@pytest.mark.parametrize("changes", [{}, {"encoding": "3d", "n_slices": 6}, {"n_frames": 3, "motion": "breathing"}])
def test_data_are_the_fourier_transform_of_coil_images(changes):
    config = small(mask="full", snr_db=None, **changes)
    m = mri(config)
    axes = (-3, -2, -1) if config.encoding == "3d" else (-2, -1)
    truth = m.ground_truth.data if config.n_frames > 1 else m.ground_truth.data[None]
    expected = coil_maps(config) * truth[:, None]
    found = images(m, axes)
    found = found.swapaxes(0, 1)[None] if config.by_slice else found
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("factor", [2, 3])
def test_finer_pixels_are_band_limited_and_in_place(n, factor):
    """A wide blob is the same object whatever the pixels."""
    blob = {"object": "discs", "object_parameters": {"parts": [[0.3, -0.2, 0.4, 1.0]]}, "off_resonance_hz": 0.0}
    options = {"n_coils": 1, "n": n, "mask": "full", "snr_db": None, **blob}
    plain, fine = (images(mri(small(oversampling=k, **options)))[0, 0] for k in (1, factor))
    y, x = np.mgrid[:n, :n]
    for axis in (y, x):
        centres = [(axis * np.abs(image) ** 2).sum() / (np.abs(image) ** 2).sum() for image in (plain, fine)]
        assert centres[0] == pytest.approx(centres[1], abs=0.06)  # a raster out of place would be a quarter off
    assert np.linalg.norm(plain - fine) < 0.15 * np.linalg.norm(plain)
    assert np.abs(fine.sum()) == pytest.approx(np.abs(plain.sum()), rel=5e-3)


def test_noise_has_its_level_and_covariance():
    options = {"mask": "full", "object": "heart", "snr_db": 10.0, "noise_correlation": 0.5, "n": 64}
    noisy, clean = mri(small(**options)), mri(small(**{**options, "snr_db": None}))
    noise = (noisy.data - clean.data)[0].reshape(4, -1)
    assert noise.std() == pytest.approx(noisy.noise_std, rel=0.02)
    given = noisy.calibration["noise_covariance"]
    np.testing.assert_allclose(noise @ noise.conj().T / noise.shape[1], given, atol=0.05 * noisy.noise_std**2)
    assert given[0, 1].real == pytest.approx(0.5 * noisy.noise_std**2, rel=1e-5)
    size = np.abs(clean.ground_truth.data)
    assert 20 * math.log10(size[size > 0.05 * size.max()].mean() / noisy.noise_std) == pytest.approx(10, abs=1e-3)


def test_files_of_a_series_repeat_and_differ():
    config = small(mask="variable_density")
    first, second = mri_series(config, 2)
    again = mri(config, 1)
    np.testing.assert_array_equal(second.data, again.data)
    assert second.attrs["uuid"] == again.attrs["uuid"] != first.attrs["uuid"]
    assert (first.mask != second.mask).any()
    assert MriSimulation.from_dict(config.to_dict()) == config


def test_frames_see_the_motion():
    m = mri(small(n_frames=4, object="heart", motion="beating", mask="kt", acceleration=4))
    assert (m.data.shape, m.mask.shape) == ((4, 4, 1, 32, 32), (4, 1, 32, 1))
    assert m.scale("frame").tolist() == pytest.approx([0, 0.04, 0.08, 0.12])
    size = np.abs(m.ground_truth.data)
    assert np.abs(size[2] - size[0]).max() > 0.2
    assert len({tuple(f.ravel()) for f in m.mask}) == 4


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"encoding": "3d", "n_slices": 6, "trajectory": "radial_3d"}])
def test_trajectories_sample_the_same_k_space(changes, factor):
    """A spoke along kx is a row of the Cartesian k-space."""
    common = {"snr_db": None, "oversampling": factor, "off_resonance_hz": 20.0, "n_samples": 32}
    raster = mri(small(**{**common, **changes, "trajectory": "cartesian", "mask": "full"}))
    config = small(**{**common, "trajectory": "radial", "n_readouts": 2, **changes})
    m = mri(config)
    points = m.acquisition["trajectory"].reshape(-1, len(m.acquisition["order"]))
    spacing = 1 / (32 * 2e-3)
    on = np.flatnonzero((np.abs(points[:, :-1]) < 1e-3).all(1) & (np.abs(points[:, -1]) < 249))
    rows = raster.data[0, :, 16] if config.trajectory == "radial" else raster.data[0, :, 3, 16]
    assert len(on) >= 1
    for i in on:
        expected = rows[:, 16 + round(float(points[i, -1]) / spacing)]
        np.testing.assert_allclose(m.data[0].reshape(4, -1)[:, i], expected, atol=2e-4 * np.abs(rows).max())


def test_a_trajectory_per_frame_is_written(tmp_path):
    m = mri(small(trajectory="golden_angle", n_frames=3, object="heart", motion="beating", n_readouts=5))
    assert (m.data.shape, m.acquisition["trajectory"].shape) == ((3, 4, 5, 64), (3, 5, 64, 2))
    write_measurement(tmp_path / "m.h5", m)
    assert validate(tmp_path / "m.h5", deep=True) == []
    still = mri(small(trajectory="spiral", n_readouts=4, full_readouts=4))
    assert (still.data.shape, still.acquisition["trajectory"].shape) == ((1, 4, 4, 256), (4, 256, 2))


# -- coils ---------------------------------------------------------------------------------------------------


def test_a_loop_has_the_field_of_the_textbook_on_its_axis():
    x = np.array([0.0, 0.05, 0.1])
    maps = loop_sensitivities(np.stack((x, 0 * x, 0 * x), axis=-1), 1, distance_m=0.2, loop_radius_m=0.06)
    # 2π R² / (R² + d²)^(3/2) along the axis, which points along x
    np.testing.assert_allclose(np.abs(maps[0]), 2 * np.pi * 0.06**2 / (0.06**2 + (0.2 - x) ** 2) ** 1.5, rtol=5e-3)
    np.testing.assert_allclose(np.abs(maps[0].imag), 0, atol=1e-12)


def test_coils_see_best_what_is_near_and_add_up_to_one():
    maps = coil_maps(small(n_coils=8))
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, rtol=1e-5)
    peaks = [np.unravel_index(np.abs(c[0]).argmax(), (32, 32)) for c in maps]
    angles = [math.atan2(y - 16, x - 16) % (2 * math.pi) for y, x in peaks]
    np.testing.assert_allclose(np.diff(angles), math.pi / 4, atol=0.35)
    assert coil_maps(small(n_coils=1)).tolist() == np.ones((1, 1, 32, 32)).tolist()
    rings = coil_maps(small(n_coils=16, n_slices=9, slice_m=8e-3))
    heights = [np.abs(c).sum((1, 2)).argmax() for c in rings]
    assert max(heights[:8]) < min(heights[8:])


# -- masks and trajectories ------------------------------------------------------------------------------------


def test_lattices_go_through_the_centre():
    assert masks.uniform((1, 12), 3, (1, 0))[0].tolist() == [1, 0, 0] * 4
    both = masks.uniform((12, 12), 6, (0, 0))
    assert both.sum() == 24
    assert both[6, 6] == 1
    assert masks.factors((9, 9), 6) == (3, 2)
    assert masks.factors((9, 9), 4) == (2, 2)
    assert masks.factors((9, 9), 7) == (7, 1)


@pytest.mark.parametrize("draw", [masks.variable_density, masks.poisson_disc])
def test_random_masks_have_their_number_and_centre(draw):
    mask = draw(np.random.default_rng(0), (60, 48), 6.0, (8, 8))
    assert mask.mean() == pytest.approx(1 / 6, rel=0.02)
    assert mask[26:34, 20:28].all()
    inner, outer = mask[15:45, 12:36].mean(), mask[:8].mean()
    assert inner > 1.5 * outer > 0


def test_poisson_discs_keep_their_distance():
    mask = masks.poisson_disc(np.random.default_rng(0), (40, 40), 8.0, (0, 0))
    rows, columns = np.nonzero(mask)
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns) + 99 * np.eye(len(rows))
    away = np.hypot(rows - 20, columns - 20)
    assert apart[away > 15].min() >= 2
    assert apart[away > 15].min() > apart.min()


def test_a_sheared_lattice_covers_all_lines_in_time():
    mask = masks.kt(6, 24, 6, 0)
    assert mask.sum(axis=(1, 2)).tolist() == [4] * 6
    assert mask.any(axis=0).all()


def test_spokes_and_spirals_stay_within_their_box_and_turn():
    k_max = 250.0
    uniform = trajectories.radial(2, 8, 16, k_max)
    golden = trajectories.radial(2, 8, 16, k_max, golden=True)
    spiral = trajectories.spiral(2, 4, 200, k_max, field_of_view_m=0.064, full=8)
    ball = trajectories.radial_3d(1, 64, 16, (100.0, k_max, k_max))
    for points in (uniform, golden, spiral, ball):
        assert np.abs(points).max() <= k_max * (1 + 1e-12)
    assert not uniform[:, :, 8].any()
    assert not golden[:, :, 8].any()
    angle = np.arctan2(golden[..., 0, 0], golden[..., 0, 1]).ravel() % np.pi
    np.testing.assert_allclose(np.diff(angle) % np.pi, trajectories.GOLDEN_ANGLE % np.pi, atol=1e-9)
    # an interleave's next turn is 8 / field of view further out: eight of them fill the gaps
    turn = np.unwrap(np.arctan2(spiral[0, 0, 1:, 0], spiral[0, 0, 1:, 1]))
    r = np.hypot(*spiral[0, 0, 1:].T)
    assert np.polyfit(turn, r, 1)[0] * 2 * np.pi == pytest.approx(8 / 0.064, rel=1e-6)
    # directions fill the half ball evenly: the mean height is a half, those of both halves of x alike
    direction = ball[0, :, -1] / np.array([100.0, k_max, k_max])
    assert direction[:, 0].mean() == pytest.approx(0.5 * 7 / 8, abs=0.02)
    assert abs(direction[:, 2].mean()) < 0.05


# -- objects, files, mistakes ----------------------------------------------------------------------------------


def test_a_heart_beats_and_the_chest_does_not():
    rest = heart((1, 64, 64), generator=np.random.default_rng(0))
    assert rest.max() == 1
    np.testing.assert_array_equal(MOTIONS["beating"](rest, 0.0), rest)
    systole = MOTIONS["beating"](rest, 0.5)
    changed = np.abs(systole - rest)[0] > 0.05
    y, x = (np.mgrid[:64, :64] + 0.5) / 32 - 1
    assert changed.any()
    assert np.hypot(x - 0.07, y)[changed].max() < 0.47
    assert (systole > 0.95).sum() < 0.75 * (rest > 0.95).sum()  # blood is squeezed out
    np.testing.assert_allclose(MOTIONS["beating"](rest, 1.0), rest, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"maps_known": True, "noise_correlation": 0.3},
        {"n_frames": 2, "object": "heart", "motion": "beating"},
        {"n_slices": 3},
        {"encoding": "3d", "n_slices": 8, "phase_axes": 2, "mask": "poisson_disc", "calibration": 4},
    ],
)
def test_files_are_valid_and_come_back(tmp_path, changes):
    m = mri(small(**changes))
    write_measurement(tmp_path / "m.h5", m)
    assert validate(tmp_path / "m.h5", deep=True) == []
    back = read_measurement(tmp_path / "m.h5")
    np.testing.assert_array_equal(back.data, m.data)
    np.testing.assert_array_equal(back.ground_truth.data, m.ground_truth.data)
    assert back.calibration.keys() == m.calibration.keys()


def test_the_command_writes_a_series(tmp_path):
    arguments = ["simulate", "mri", "-o", str(tmp_path), "-n", "2", "--seed", "3", "-s", "n=16", "-s", "calibration=6"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["mri_0000.h5", "mri_0001.h5"]
    assert read_measurement(tmp_path / "mri_0001.h5").provenance["seed"] == 3


BAD = [
    ({"n": 4}, "n: expected a whole number >= 8"),
    ({"object": "hart"}, "did you mean 'heart'"),
    ({"object": "heart", "object_parameters": {"raduis": 1}}, "did you mean 'radius'"),
    ({"motion_parameters": {"beats": 2}}, "motion none, parameter"),
    ({"n_frames": 2, "n_slices": 2}, "take encoding 3d"),
    ({"phase_axes": 3}, "phase_axes: expected 1 or 2"),
    ({"trajectory": "radial_3d"}, "expected encoding 3d"),
    ({"trajectory": "spiral", "encoding": "3d"}, "expected encoding 2d"),
    ({"trajectory": "radial", "n_slices": 3}, "n_slices: expected 1 for trajectory radial"),
    ({"acceleration": 0.5}, "acceleration: expected >= 1"),
    ({"acceleration": 2.5}, "expected a whole number for mask uniform"),
    ({"mask": "kt", "phase_axes": 2}, "a lattice over ky and time"),
    ({"mask": "poisson_disc"}, "expected phase_axes 2"),
    ({"mask": "variable_density", "acceleration": 8.0}, "expected at most 4 with a fully sampled centre"),
    ({"coil_distance": 0.8}, "loops outside of the field of view"),
    ({"noise_correlation": 1.0}, "noise_correlation: expected below 1"),
    ({"snr_db": math.nan}, "snr_db: expected a finite number"),
    ({"maps_known": 1}, "maps_known: expected true or false"),
]


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_settings_that_cannot_be_simulated_are_told(changes, words):
    with pytest.raises(SimulationError) as caught:
        small(**changes)
    assert words in str(caught.value)


def test_more_mistakes():
    with pytest.raises(SimulationError, match="did you mean 'n_coils'"):
        MriSimulation.from_dict({"n_coil": 3})
    with pytest.raises(SimulationError, match="index: expected a whole number"):
        mri(small(), -1)
    with pytest.raises(SimulationError, match="contraction: expected 0 to below 1"):
        mri(small(n_frames=2, motion="beating", motion_parameters={"contraction": 1.5}))
    with pytest.raises(SimulationError, match="a parameter has the wrong type"):
        mri(small(object="discs", object_parameters={"parts": 3}))
