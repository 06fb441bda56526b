"""Files as other programs write them: complex layouts, MATLAB's habits, other units and orders."""

import h5py
import numpy as np
import pytest
from data_cases import crandn, differences, radar, tomography

import data

NATIVE = hasattr(h5py.h5t, "COMPLEX_IEEE_F32LE")


@pytest.fixture
def path(tmp_path):
    data.write_measurement(tmp_path / "scan.h5", radar(2))
    return tmp_path / "scan.h5"


def store(path, write):
    """Write the samples again, in another layout, and read them."""
    with h5py.File(path, "r+") as f:
        values = f["measurement/data"][()]
        del f["measurement/data"]
        dataset = write(f["measurement"], values)
        dataset.attrs.update({"units": "1", "quantity": "scattered_field"})
    return values, data.read_measurement(path)


def pairs(values, dtype, names=("real", "imag")):
    out = np.zeros(values.shape, [(names[0], dtype), (names[1], dtype)])
    out[names[0]], out[names[1]] = values.real, values.imag
    return out


LAYOUTS = {
    "r, i": lambda g, y: g.create_dataset("data", data=y),
    "r, i in chunks": lambda g, y: g.create_dataset("data", data=y, chunks=True, compression="gzip"),
    "r, i big-endian": lambda g, y: g.create_dataset("data", data=y.astype(">c8")),
    "r, i double": lambda g, y: g.create_dataset("data", data=y.astype("c16")),
    "real, imag": lambda g, y: g.create_dataset("data", data=pairs(y, "<f4")),
    "real, imag double": lambda g, y: g.create_dataset("data", data=pairs(y, "<f8")),
    "real, imag big-endian": lambda g, y: g.create_dataset("data", data=pairs(y, ">f4")),
    "imag, real": lambda g, y: g.create_dataset("data", data=pairs(y, "<f4")[["imag", "real"]].copy()),
    "Real, Imag": lambda g, y: g.create_dataset("data", data=pairs(y, "<f4", ("Real", "Imag"))),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_compound_layouts(name, path):
    values, m = store(path, LAYOUTS[name])
    assert differences(values, m.data) == []


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_interleaved(path, dtype):
    def write(g, y):
        d = g.create_dataset("data", data=np.stack([y.real, y.imag], -1).astype(dtype))
        d.attrs["complex_layout"] = "interleaved"
        return d

    values, m = store(path, write)
    assert differences(values, m.data) == []


def test_pair(path):
    def write(g, y):
        g["data_imag"] = y.imag
        g["data_real"] = y.real
        return g["data_real"]

    values, m = store(path, write)
    assert differences(values, m.data) == []
    assert data.validate(path) == []


@pytest.mark.skipif(not NATIVE, reason="this h5py has no native complex type")
def test_native_complex_of_hdf5_2(path):
    def write(g, y):
        space = h5py.h5s.create_simple(y.shape)
        d = h5py.h5d.create(g.id, b"data", h5py.h5t.COMPLEX_IEEE_F32LE, space)
        d.write(h5py.h5s.ALL, h5py.h5s.ALL, y, mtype=h5py.h5t.COMPLEX_IEEE_F32LE)
        return h5py.Dataset(d)

    values, m = store(path, write)
    assert differences(values, m.data) == []


def test_integer_iq_samples(path):
    def write(g, y):
        return g.create_dataset("data", data=pairs(np.round(100 * y), "<i2"))

    values, m = store(path, write)
    np.testing.assert_array_equal(m.data, np.round(100 * values))


def test_views_where_possible(path):
    """{real, imag} and interleaved floats become complex without a copy."""
    from data.stored import _view_compound

    values = pairs(crandn(3, 4), "<f4")
    assert np.shares_memory(_view_compound(values), values)


def test_h5py_globals_stay(path):
    before = h5py.get_config().complex_names
    store(path, LAYOUTS["real, imag"])
    assert h5py.get_config().complex_names == before


def test_matlab_file(tmp_path):
    """MATLAB stores column-major: dimensions arrive reversed, numbers as double, vectors as (n, 1), text as bytes."""
    m = radar(2, noise_std=None, ground_truth=None, grid=None, provenance={}, attrs={})
    with h5py.File(tmp_path / "matlab.h5", "w") as f:
        # In MATLAB y is (tx, rx, frequency, frame); h5write reverses: HDF5 sees (frame, frequency, rx, tx).
        f["measurement/data"] = pairs(m.data.transpose(0, 3, 2, 1).astype("c16"), "<f8")
        f["measurement"].attrs["axes"] = np.array([b"frame", b"frequency", b"rx", b"tx"])
        f["measurement/data"].attrs.update({"units": np.bytes_("1"), "quantity": np.array([b"scattered_field"])})
        for name, units in (("frame", "s"), ("tx", "1"), ("rx", "1"), ("frequency", "GHz")):
            values = m.scale(name).astype("f8")[:, None] / (1e9 if units == "GHz" else 1)
            f[f"measurement/{name}"] = values
            f[f"measurement/{name}"].attrs["units"] = np.bytes_(units)
        for name in ("tx_positions", "rx_positions"):
            f[f"geometry/{name}"] = 1e3 * m.geometry[name]
            f[f"geometry/{name}"].attrs["units"] = "mm"
        f["geometry"].attrs.update(
            {"frame": np.bytes_(m.geometry["frame"]), "coordinates": "x,y,z", "downrange_axis": "z"}
        )
        f["acquisition/propagation_speed"] = np.array([[299792458.0]])
        f["acquisition/propagation_speed"].attrs["units"] = "m/s"
        f["acquisition"].attrs.update(
            {
                "waveform": "stepped_frequency",
                "phase_convention": "exp(-1i*2*pi*f*tau)".replace("1i", "i"),
                "amplitude_model": np.bytes_("1/(4*pi*Rt*Rr)"),
                "calibrated": np.uint8(1),
            }
        )
        f.attrs.update(
            {
                "format": np.bytes_("backcast-measurement"),
                "format_version": "1.0",
                "modality": np.array([b"mimo_radar"]),
                "file_time": "2026-11-23T12:00:00+00:00",
                "creator": "MATLAB",
                "creator_version": "R2026a",
                "uuid": "u",
            }
        )
    read = data.read_measurement(tmp_path / "matlab.h5")
    assert read.axes == m.axes
    assert differences(read.data, m.data) == []
    assert read.acquisition == m.acquisition
    for name in m.axes:
        np.testing.assert_allclose(read.scale(name), m.scale(name), rtol=1e-15)
    np.testing.assert_allclose(read.geometry["tx_positions"], m.geometry["tx_positions"], rtol=1e-15)


def test_frame_axis_may_be_left_out(tmp_path):
    m = radar(1)
    data.write_measurement(tmp_path / "m.h5", m)
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        del f["measurement/data"], f["measurement/frame"]
        f["measurement/data"] = m.data[0].transpose(2, 0, 1)
        f["measurement/data"].attrs.update({"units": "1", "quantity": "scattered_field", "long_name": "S21"})
        f["measurement"].attrs["axes"] = "frequency:tx:rx"
    assert differences(m, data.read_measurement(tmp_path / "m.h5")) == []


LENGTHS = [("mm", 1e3), ("cm", 1e2), ("um", 1e6), ("µm", 1e6), ("inch", 1 / 0.0254)]


@pytest.mark.parametrize(("units", "factor"), LENGTHS)
def test_lengths(path, units, factor):
    before = data.read_measurement(path)
    with h5py.File(path, "r+") as f:
        for name in ("geometry/tx_positions", "grid/origin", "ground_truth/z"):
            f[name][...] = f[name][()] * factor
            f[name].attrs["units"] = units
    m = data.read_measurement(path)
    np.testing.assert_allclose(m.geometry["tx_positions"], before.geometry["tx_positions"], rtol=1e-14)
    np.testing.assert_allclose(m.grid.origin_m, before.grid.origin_m, rtol=1e-14)
    np.testing.assert_allclose(m.ground_truth.scale("z"), before.ground_truth.scale("z"), rtol=1e-14)
    assert m.ground_truth.scales["z"].units == "m"


def test_samples_in_millivolt(path):
    before = data.read_measurement(path)
    with h5py.File(path, "r+") as f:
        f["measurement/data"].attrs["units"] = "mV"
        f["measurement/noise_std"].attrs["units"] = "uV"
    m = data.read_measurement(path)
    np.testing.assert_allclose(m.data, before.data / 1000, rtol=1e-6)
    assert m.noise_std == pytest.approx(before.noise_std / 1e6)
    assert m.units == "V"


def test_degrees_and_the_other_sense_of_rotation(tmp_path):
    m = tomography()
    data.write_measurement(tmp_path / "m.h5", m)
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        f["acquisition/angle"][...] = np.rad2deg(m.acquisition["angle"])
        f["acquisition/angle"].attrs.update({"units": "deg", "sense": "cw_from_+z"})
    read = data.read_measurement(tmp_path / "m.h5")
    np.testing.assert_allclose(read.acquisition["angle"], -m.acquisition["angle"], rtol=1e-14)
    assert read.acquisition["sense"] == "ccw_from_+z"


def test_tomography_in_another_order_without_rows(tmp_path):
    m = tomography()
    data.write_measurement(tmp_path / "m.h5", m)
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        del f["measurement/data"], f["measurement/detector_row"]
        f["measurement/data"] = m.data[:, 0].T.astype("f8")
        f["measurement/data"].attrs.update({"units": "1", "quantity": "line_integral"})
        f["measurement"].attrs["axes"] = ["detector_column", "projection"]
    read = data.read_measurement(tmp_path / "m.h5")
    assert differences(read.data, np.ascontiguousarray(m.data[:, :1])) == []


def test_mask_in_another_order(tmp_path):
    mask = np.arange(12).reshape(3, 4) % 2
    m = radar(2, mask=mask.astype("u1"), mask_axes=("tx", "rx"))
    data.write_measurement(tmp_path / "m.h5", m)
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        del f["measurement/mask"]
        f["measurement/mask"] = mask.T.astype(bool)
        f["measurement/mask"].attrs["axes"] = ["rx", "tx"]
    assert differences(m, data.read_measurement(tmp_path / "m.h5")) == []
    assert m.broadcast(m.mask, m.mask_axes).shape == (1, 3, 4, 1)


def test_noise_per_receiver(tmp_path):
    m = radar(2, noise_std=np.arange(1, 5, dtype=np.float32), noise_std_axes=("rx",))
    data.write_measurement(tmp_path / "m.h5", m)
    assert differences(m, data.read_measurement(tmp_path / "m.h5")) == []


def test_broadcast_refuses_strangers():
    m = radar()
    with pytest.raises(ValueError, match="coil"):
        m.broadcast(np.ones(3), ("coil",))


def test_one_antenna_as_a_vector(tmp_path):
    m = radar(channel=True)
    geometry = {**m.geometry, "tx_positions": np.array([[0.1, 0.2, 0.0]]), "channel_tx": np.zeros(6, np.int32)}
    data.write_measurement(tmp_path / "m.h5", radar(channel=True, geometry=geometry))
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        del f["geometry/tx_positions"]
        f["geometry/tx_positions"] = [0.1, 0.2, 0.0]
        f["geometry/tx_positions"].attrs["units"] = "m"
    read = data.read_measurement(tmp_path / "m.h5")
    assert differences(read.geometry["tx_positions"], geometry["tx_positions"]) == []


def test_three_antennas_are_no_vector(path):
    with h5py.File(path, "r+") as f:
        del f["geometry/tx_positions"]
        f["geometry/tx_positions"] = [0.1, 0.2, 0.0]
        f["geometry/tx_positions"].attrs["units"] = "m"
    with pytest.raises(data.DataFormatError, match=r"/geometry/tx_positions: expected shape \(tx=3, 3\)"):
        data.read_measurement(path)


def test_attributes_without_a_value(path):
    """MATLAB's empty text is a null dataspace, Python's [] an array of no elements."""
    with h5py.File(path, "r+") as f:
        f.attrs["title"] = h5py.Empty("S1")
        f["measurement/data"].attrs["long_name"] = h5py.Empty("S1")
        f["measurement/noise_std"].attrs["axes"] = []
        f["calibration/range_offset"] = 0.0
        f["calibration/range_offset"].attrs.update({"units": "m", "axes": h5py.Empty("S1")})
        f["calibration"].attrs["applied"] = []
        f["calibration"].attrs["mean_over"] = h5py.Empty("S1")
    assert data.validate(path, deep=True) == []
    m = data.read_measurement(path)
    assert (m.noise_std, m.long_name, m.applied_calibration) == (0.125, "", ("range_offset",))
    assert "title" not in m.attrs


@pytest.mark.parametrize("empty", [h5py.Empty("S1"), []])
def test_empty_attribute_counts_as_missing(path, empty):
    with h5py.File(path, "r+") as f:
        f["measurement/frequency"].attrs["units"] = empty
        f["acquisition"].attrs["waveform"] = empty
    assert {f.code for f in data.validate(path)} == {"BC401", "BC202"}
