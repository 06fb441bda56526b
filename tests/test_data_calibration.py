"""The calibration that a file carries is applied by the reader, in its order, once."""

import h5py
import numpy as np
import pytest
from data_cases import crandn, differences, radar, tomography

import data
from data import NamedArray

C = 299792458.0


def written(tmp_path, m, **options):
    data.write_measurement(tmp_path / "m.h5", m)
    assert data.validate(tmp_path / "m.h5", deep=True) == []
    return data.read_measurement(tmp_path / "m.h5", **options)


def test_order_background_gain_phase_range(tmp_path):
    m = radar(2)
    background = crandn(*m.data.shape, seed=5)
    gain, phase, offset = crandn(4, seed=6), np.linspace(0, 3, 5), 0.0375
    calibration = {
        "background": background,
        "gain": NamedArray(values=gain, axes=("rx",)),
        "phase": NamedArray(values=phase, axes=("frequency",), units="rad"),
        "range_offset": offset,
    }
    read = written(tmp_path, radar(2, calibration=calibration))
    k = 2 * np.pi * m.scale("frequency") / C
    expected = (m.data - background) * gain[:, None] * np.exp(1j * phase) * np.exp(2j * k * offset)
    np.testing.assert_allclose(read.data, expected, rtol=2e-6, atol=2e-6)
    assert read.data.dtype == np.complex64
    assert read.applied_calibration == ("background", "gain", "phase", "range_offset")


def test_raw_on_request(tmp_path):
    m = radar(calibration={"range_offset": 0.1})
    read = written(tmp_path, m, calibrate=False)
    assert differences(read.data, m.data) == []
    assert read.applied_calibration == ()


@pytest.mark.parametrize(("convention", "sign"), [("exp(-j*2*pi*f*tau)", -1), ("exp(+j*2*pi*f*tau)", 1)])
def test_range_offset_moves_an_echo_to_its_true_range(tmp_path, convention, sign):
    """An echo at R that cables make look as if at R + offset comes back to R."""
    m = radar()
    f, true_range, offset = m.scale("frequency"), 0.5, 0.2
    seen = np.exp(sign * 2j * np.pi * f * 2 * (true_range + offset) / C)
    acquisition = {**m.acquisition, "phase_convention": convention}
    y = np.broadcast_to(seen, m.data.shape).astype(np.complex64)
    read = written(tmp_path, radar(data=y, acquisition=acquisition, calibration={"range_offset": offset}))
    expected = np.exp(sign * 2j * np.pi * f * 2 * true_range / C)
    np.testing.assert_allclose(read.data[0, 1, 2], expected, atol=1e-5)


@pytest.mark.parametrize("axis", ["tx", "frame"])
def test_mean_over_an_axis_is_the_background(tmp_path, axis):
    m = radar(3, calibration={"mean_over": axis})
    read = written(tmp_path, m)
    i = m.axes.index(axis)
    np.testing.assert_allclose(read.data, m.data - m.data.mean(axis=i, keepdims=True), atol=1e-6)
    assert read.applied_calibration == ("background",)


def test_mean_over_channels_removes_a_leak_exactly(tmp_path):
    """A leak 1e4 times stronger than the echoes leaves no floor of its own."""
    m = radar(2, channel=True)
    leak = 1e4 * crandn(5, seed=9)
    read = written(tmp_path, radar(2, channel=True, data=m.data + leak, calibration={"mean_over": "channel"}))
    expected = m.data - m.data.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(read.data, expected, atol=5e-3)  # float32 of 1e4


def test_mean_over_written_on_the_background_itself(tmp_path):
    m = radar(3)
    data.write_measurement(tmp_path / "m.h5", m)
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        f["calibration/background"] = h5py.Empty("f4")
        f["calibration/background"].attrs["mean_over"] = "tx"
    read = data.read_measurement(tmp_path / "m.h5")
    np.testing.assert_allclose(read.data, m.data - m.data.mean(axis=1, keepdims=True), atol=1e-6)


def test_mean_over_an_unknown_axis(tmp_path):
    data.write_measurement(tmp_path / "m.h5", radar(3))
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        f.create_group("calibration").attrs["mean_over"] = "antenna"
    with pytest.raises(data.DataFormatError, match="/calibration@mean_over.*'antenna'"):
        data.read_measurement(tmp_path / "m.h5")


def test_background_that_is_everything(tmp_path):
    """The mean over an axis of one is the data: that leaves nothing, and is said."""
    data.write_measurement(tmp_path / "m.h5", radar(1, calibration={"mean_over": "frame"}))
    with pytest.raises(
        data.DataFormatError, match=r"m\.h5: /calibration/background: expected a signal after background"
    ):
        data.read_measurement(tmp_path / "m.h5")
    assert [f.path for f in data.validate(tmp_path / "m.h5", deep=True)] == ["/calibration"]


def test_background_in_the_order_of_the_file(tmp_path):
    m = radar(2, calibration={"background": crandn(2, 3, 4, 5, seed=3)})
    expected = written(tmp_path, m).data
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        for name, words in (("measurement/data", {"quantity": "scattered_field"}), ("calibration/background", {})):
            values = f[name][()].transpose(3, 2, 1, 0)
            del f[name]
            f[name] = values
            f[name].attrs.update({"units": "1", **words})
        f["measurement"].attrs["axes"] = list(reversed(m.axes))
    assert differences(data.read_measurement(tmp_path / "m.h5").data, expected) == []


def test_phase_in_degrees(tmp_path):
    m = radar()
    data.write_measurement(tmp_path / "m.h5", m)
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        f["calibration/phase"] = np.full(5, 90.0)
        f["calibration/phase"].attrs.update({"units": "deg", "axes": ["frequency"]})
    np.testing.assert_allclose(data.read_measurement(tmp_path / "m.h5").data, 1j * m.data, atol=1e-6)


def test_noise_follows_the_gain(tmp_path):
    m = written(tmp_path, radar(noise_std=0.5, calibration={"gain": np.complex64(2j)}))
    assert m.noise_std == 1.0
    gain = np.array([1, 2, 3, 4j], np.complex64)
    m = written(tmp_path, radar(noise_std=0.5, calibration={"gain": NamedArray(values=gain, axes=("rx",))}))
    np.testing.assert_allclose(m.broadcast(m.noise_std, m.noise_std_axes)[0, 0, :, 0], [0.5, 1, 1.5, 2])


def test_calibration_that_is_applied_is_named_in_the_file(tmp_path):
    m = written(tmp_path, radar(3, calibration={"mean_over": "tx", "range_offset": 0.1}))
    again = written(tmp_path, m)
    assert again.applied_calibration == ("background", "range_offset")
    assert again.calibration == {}
    assert data.summarise(tmp_path / "m.h5")["calibration"]["applied"] == ["background", "range_offset"]


def test_dark_and_flat(tmp_path):
    m = tomography(quantity="counts")
    read = written(tmp_path, m)
    np.testing.assert_allclose(read.data, (m.data.astype(float) - 10) / 3990, rtol=1e-6)
    assert (read.quantity, read.data.dtype) == ("transmission", np.float32)
    assert read.applied_calibration == ("dark and flat",)


def test_image_key_separates_projections_from_flats_and_darks(tmp_path):
    m = tomography(quantity="counts", calibration={})
    counts = np.stack([np.full((2, 7), v, np.uint16) for v in (100, 1100, 1100, 600, 350, 7)])
    key = np.array([2, 1, 1, 0, 0, 3], np.uint8)
    read = written(
        tmp_path,
        tomography(quantity="counts", data=counts, calibration={}, acquisition={**m.acquisition, "image_key": key}),
    )
    np.testing.assert_allclose(read.data[:, 0, 0], [0.5, 0.25])
    np.testing.assert_array_equal(read.acquisition["angle"], m.acquisition["angle"][3:5])
    np.testing.assert_array_equal(read.scale("projection"), [3, 4])


def test_dead_pixels_are_masked(tmp_path):
    m = tomography(quantity="counts")
    flat = m.calibration["flat"].copy()
    flat[:, 1, 3] = 0
    read = written(tmp_path, tomography(quantity="counts", calibration={**m.calibration, "flat": flat}))
    assert read.mask_axes == ("detector_row", "detector_column")
    assert read.mask.sum() == 13
    assert read.mask[1, 3] == 0
    assert "1 detector pixels" in read.warnings[0]


def test_applying_twice_changes_nothing():
    m = radar(3, calibration={"mean_over": "tx", "range_offset": 0.1})
    once = data.apply_calibration(m)
    assert data.apply_calibration(once) is once


def test_calibration_of_the_wrong_shape_is_not_written(tmp_path):
    m = radar(calibration={"background": np.zeros(5, np.complex64)})
    with pytest.raises(data.DataFormatError, match=r"m\.h5: /calibration/background: expected shape"):
        data.write_measurement(tmp_path / "m.h5", m)
    assert list(tmp_path.iterdir()) == []


def test_frequency_dependent_gain_needs_its_axes(tmp_path):
    data.write_measurement(tmp_path / "m.h5", radar())
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        f["calibration/gain"] = np.ones(5, "c8")
        f["calibration/gain"].attrs["units"] = "1"
    with pytest.raises(data.DataFormatError, match="/calibration/gain@axes"):
        data.read_measurement(tmp_path / "m.h5")


def test_mean_over_counts_measured_samples_only(tmp_path):
    y = np.broadcast_to(np.arange(1, 6, dtype=np.complex64), (2, 3, 4, 5)).copy()
    y[:, 0] = 0  # never measured
    y[1] *= 2
    y[1, 2, 3, 4] = 100
    mask = np.ones((2, 3, 4, 5), np.uint8)
    mask[:, 0] = 0
    mask[1, :, 0] = 0  # no transmitter at all
    m = radar(2, data=y, mask=mask, mask_axes=("frame", "tx", "rx", "frequency"), calibration={"mean_over": "tx"})
    read = written(tmp_path, m).data
    np.testing.assert_allclose(read[0, 1:], 0, atol=1e-6)
    np.testing.assert_array_equal(read[1, :, 0], y[1, :, 0])
    np.testing.assert_allclose(read[1, 1:, 3, 4], [-45, 45])


@pytest.mark.parametrize("in_key", ["flat", "dark"])
def test_one_field_in_image_key_and_the_other_in_calibration(tmp_path, in_key):
    m = tomography(quantity="counts")
    counts = np.stack([np.full((2, 7), v, np.uint16) for v in (1100 if in_key == "flat" else 100, *[600] * 5)])
    key = np.array([1 if in_key == "flat" else 2, 0, 0, 0, 0, 0], np.uint8)
    fields = {"flat": np.full((1, 2, 7), 1100, np.float32), "dark": np.full((1, 2, 7), 100, np.float32)}
    del fields[in_key]
    changes = {"data": counts, "calibration": fields, "acquisition": {**m.acquisition, "image_key": key}}
    read = written(tmp_path, tomography(quantity="counts", **changes))
    np.testing.assert_allclose(read.data, 0.5)
    assert read.data.shape == (5, 2, 7)


def test_noise_of_counts_becomes_that_of_the_transmission(tmp_path):
    m = tomography(quantity="counts")
    flat = m.calibration["flat"].copy()
    flat[:, :, 0] = 2010
    changed = {"calibration": {**m.calibration, "flat": flat}, "noise_std": 8.0}
    read = written(tmp_path, tomography(quantity="counts", **changed))
    assert read.noise_std_axes == ("detector_row", "detector_column")
    np.testing.assert_allclose(read.noise_std[:, 0], 8 / 2000, rtol=1e-6)
    np.testing.assert_allclose(read.noise_std[:, 1:], 8 / 3990, rtol=1e-6)
    spread = np.arange(1, 7, dtype=np.float32)
    each = data.apply_calibration(
        tomography(quantity="counts", noise_std=spread, noise_std_axes=("projection",), calibration=m.calibration)
    )
    np.testing.assert_allclose(each.noise_std[:, 1, 2], spread / 3990, rtol=1e-6)


def test_saturated_samples_are_masked(tmp_path):
    m = tomography(quantity="counts")
    counts = m.data.copy()
    counts[4, 1, 2] = 65535
    mask = np.ones(7, np.uint8)
    mask[6] = 0
    read = written(tmp_path, tomography(quantity="counts", data=counts, mask=mask, mask_axes=("detector_column",)))
    assert read.mask_axes == read.axes
    assert read.mask[4, 1, 2] == 0
    assert read.mask.sum() == 6 * 2 * 6 - 1
    assert "1 saturated sample" in read.warnings[0]


def test_mean_fields_stay_with_calibrated_counts(tmp_path):
    m = tomography(quantity="counts")
    key = np.array([2, 1, 1, 0, 0, 0], np.uint8)
    counts = np.stack([np.full((2, 7), v, np.uint16) for v in (100, 1000, 1200, 600, 350, 700)])
    read = data.apply_calibration(
        tomography(quantity="counts", data=counts, calibration={}, acquisition={**m.acquisition, "image_key": key})
    )
    np.testing.assert_allclose(read.calibration["flat"], np.full((1, 2, 7), 1100))
    np.testing.assert_allclose(read.calibration["dark"], np.full((1, 2, 7), 100))
