"""Write, read, equal: every modality, every layout, both files."""

import dataclasses
import json
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from data_cases import (
    COLUMNS,
    FIXED,
    MEASUREMENTS,
    crandn,
    differences,
    index,
    radar,
    real,
    reconstruction,
    tomography,
    volume,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_measurement_written_and_read_is_equal(name, tmp_path):
    m = MEASUREMENTS[name]()
    data.write_measurement(tmp_path / "m.h5", m)
    assert data.validate(tmp_path / "m.h5", deep=True) == []
    assert differences(m, data.read_measurement(tmp_path / "m.h5", calibrate=False)) == []


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_calibrated_measurement_is_not_calibrated_twice(name, tmp_path):
    data.write_measurement(tmp_path / "a.h5", MEASUREMENTS[name]())
    once = data.read_measurement(tmp_path / "a.h5")
    data.write_measurement(tmp_path / "b.h5", once)
    twice = data.read_measurement(tmp_path / "b.h5")
    assert differences(once.data, twice.data) == []
    assert twice.applied_calibration == once.applied_calibration


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_reconstruction_written_and_read_is_equal(frames, tmp_path):
    r = reconstruction(frames)
    data.write_reconstruction(tmp_path / "r.h5", r)
    assert data.validate(tmp_path / "r.h5", deep=True) == []
    assert differences(r, data.read_reconstruction(tmp_path / "r.h5")) == []


def test_direct_reconstruction_without_convergence(tmp_path):
    r = reconstruction(convergence=None, metrics={}, previews={}, uncertainty=None, provenance={})
    data.write_reconstruction(tmp_path / "r.h5", r)
    assert differences(r, data.read_reconstruction(tmp_path / "r.h5")) == []


def test_reconstruction_over_dictionary_axes(tmp_path):
    image = data.Volume(
        data=volume().data,
        axes=("angle_1", "angle_2", "angle_3"),
        scales={
            "angle_1": real(np.linspace(-1, 1, 3), "1"),
            "angle_2": real(np.linspace(-1, 1, 4), "rad"),
            "angle_3": real(np.linspace(-1, 1, 5), "1"),
        },
        quantity="channel_coefficient",
    )
    r = reconstruction(modality="irs_mimo", volume=image, uncertainty=None)
    data.write_reconstruction(tmp_path / "r.h5", r)
    assert differences(r, data.read_reconstruction(tmp_path / "r.h5")) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*(st.integers(1, 4) for _ in range(4))),
    seed=st.integers(0, 2**31),
    order=st.permutations(range(4)),
    start=st.floats(1e6, 1e11),
)
def test_any_shape_in_any_axis_order(tmp_path, shape, seed, order, start):
    rng = np.random.default_rng(seed)
    y = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    m = radar(
        data=y,
        scales={
            "frame": real(np.arange(shape[0]), "s"),
            "tx": index(shape[1]),
            "rx": index(shape[2]),
            "frequency": real(start * (1 + np.arange(shape[3])), "Hz"),
        },
        geometry={
            "frame": "any",
            "coordinates": ("x", "y", "z"),
            "downrange_axis": "z",
            "tx_positions": np.zeros((shape[1], 3)),
            "rx_positions": np.zeros((shape[2], 3)),
        },
    )
    path = tmp_path / "m.h5"
    data.write_measurement(path, m)
    assert differences(m, data.read_measurement(path)) == []
    with h5py.File(path, "r+") as f:  # the same samples, dimensions in another order
        names = [m.axes[i] for i in order]
        attrs = dict(f["measurement/data"].attrs)
        del f["measurement/data"]
        f["measurement/data"] = y.transpose(order)
        f["measurement/data"].attrs.update({k: attrs[k] for k in ("units", "quantity", "long_name")})
        f["measurement"].attrs["axes"] = names
    assert differences(m, data.read_measurement(path)) == []


@pytest.mark.parametrize(
    ("write", "make"), [(data.write_measurement, radar), (data.write_reconstruction, reconstruction)]
)
def test_same_content_same_bytes(write, make, tmp_path):
    write(tmp_path / "a.h5", make())
    time.sleep(1.1)  # HDF5 keeps times in whole seconds
    write(tmp_path / "b.h5", make())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert data.sha256(tmp_path / "a.h5") == data.sha256(tmp_path / "b.h5")


def test_made_up_identity_differs(tmp_path):
    for name in "ab":
        data.write_measurement(tmp_path / f"{name}.h5", radar(attrs={}))
    a, b = (data.read_measurement(tmp_path / f"{name}.h5") for name in "ab")
    assert a.attrs["uuid"] != b.attrs["uuid"]
    assert a.attrs["creator"] == "backcast"


def test_layout_of_the_written_measurement(tmp_path):
    data.write_measurement(tmp_path / "m.h5", radar(3))
    with h5py.File(tmp_path / "m.h5") as f:
        d = f["measurement/data"]
        assert (d.chunks, d.fletcher32, d.compression) == ((1, 3, 4, 5), True, None)
        assert [dim.label for dim in d.dims] == list(f["measurement"].attrs["axes"])
        assert [dim[0].name for dim in d.dims] == [f"/measurement/{n}" for n in ("frame", "tx", "rx", "frequency")]
        assert f["measurement"].attrs["NX_class"] == "NXdata"
        assert f["measurement"].attrs["signal"] == "data"
        assert (f.attrs["NX_class"], f.attrs["default"]) == ("NXroot", "measurement")
        assert f["geometry/tx_positions"].attrs["units"] == "m"
        assert f["measurement/tx"].dtype == np.int32
        assert f["grid/shape"].dtype == np.int32


def test_layout_of_the_written_volume(tmp_path):
    axes, n = ("frame", "z", "y", "x"), (2, 40, 100, 100)  # 400 000 voxels of 8 bytes: four slabs a frame
    image = data.Volume(
        data=np.ones(n, np.complex64),
        axes=axes,
        scales={a: real(np.arange(k), "s" if a == "frame" else "m") for a, k in zip(axes, n, strict=True)},
        quantity="reflectivity",
    )
    data.write_reconstruction(tmp_path / "r.h5", reconstruction(volume=image, uncertainty=None, metrics={}))
    with h5py.File(tmp_path / "r.h5") as f:
        d = f["volume/data"]
        assert d.chunks == (1, 13, 100, 100)
        assert (d.compression, d.compression_opts, d.shuffle, d.fletcher32) == ("gzip", 4, True, True)
        assert set(f["convergence"].attrs["auxiliary_signals"]) == {*COLUMNS, "rho", "psnr", "elapsed"}
        assert f["convergence"].attrs["signal"] == "primal_residual"


def test_fastmri_finds_its_names(tmp_path):
    data.write_measurement(tmp_path / "m.h5", MEASUREMENTS["mri-slices"]())
    with h5py.File(tmp_path / "m.h5") as f:
        assert f["kspace"].shape == (2, 2, 4, 5)
        assert f["ismrmrd_header"][()] == b"<xml/>"


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_summary_is_json_and_text(name, tmp_path):
    data.write_measurement(tmp_path / "m.h5", MEASUREMENTS[name]())
    summary = data.summarise(tmp_path / "m.h5")
    assert summary == json.loads(json.dumps(summary, allow_nan=False))
    assert summary["attrs"]["uuid"] == FIXED["uuid"]
    assert summary["n_errors"] == 0
    text = data.render_summary(summary)
    assert summary["modality"] in text
    assert str(tmp_path / "m.h5") in text


def test_summary_of_a_reconstruction(tmp_path):
    data.write_reconstruction(tmp_path / "r.h5", reconstruction(2))
    summary = data.summarise(tmp_path / "r.h5")
    assert summary == json.loads(json.dumps(summary, allow_nan=False))
    assert summary["convergence"]["last"]["psnr"] == 25
    assert summary["axes"]["z"] == {"n": 3, "first": 0.35, "last": 0.65, "units": "m"}
    assert "tolerance" in data.render_summary(summary)


def test_open_kind(tmp_path):
    data.write_measurement(tmp_path / "m.h5", tomography())
    data.write_reconstruction(tmp_path / "r.h5", reconstruction())
    assert data.open_kind(tmp_path / "m.h5") == "measurement"
    assert data.open_kind(tmp_path / "r.h5") == "reconstruction"


def test_importing_data_is_cheap_and_its_names_are_there():
    code = (
        "import sys, data; assert not {'torch', 'h5py'} & set(sys.modules), 'eager'; "
        "[getattr(data, name) for name in data.__all__]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def backwards(m):
    """The same content, every table in another order."""
    names = ("geometry", "acquisition", "calibration", "dictionary", "extra_truth", "provenance", "attrs", "scales")
    return dataclasses.replace(m, **{name: dict(reversed(getattr(m, name).items())) for name in names})


@pytest.mark.parametrize("name", [*MEASUREMENTS, "radar-calibrated"])
def test_same_content_in_another_order_and_read_again_gives_the_same_bytes(name, tmp_path):
    m = calibrated_radar() if name == "radar-calibrated" else MEASUREMENTS[name]()
    data.write_measurement(tmp_path / "a.h5", m)
    data.write_measurement(tmp_path / "b.h5", backwards(m))
    data.write_measurement(tmp_path / "c.h5", data.read_measurement(tmp_path / "a.h5", calibrate=False))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "c.h5").read_bytes()


def calibrated_radar():
    m = radar()
    scales = {**m.scales, "tx": data.Scale(values=np.arange(3), units="1")}  # int64, as numpy makes it
    acquisition = {name: value for name, value in m.acquisition.items() if name != "propagation_speed"}
    calibration = {
        "range_offset": 0.1,
        "phase": data.NamedArray(values=np.ones((5, 4)), axes=("frequency", "rx")),
        "gain": data.NamedArray(values=np.ones((1, 3, 1, 1), "c8"), axes=m.axes),
        "background": crandn(1, 3, 4, 5, seed=2),
    }
    words = {"mask": np.ones((1, 3, 1, 5), "u1"), "noise_std": np.ones((5, 4), "f4")}
    axes = {"mask_axes": m.axes, "noise_std_axes": ("frequency", "rx")}
    return radar(scales=scales, acquisition=acquisition, calibration=calibration, **words, **axes)


def test_mask_and_noise_carry_the_scales_of_their_axes(tmp_path):
    """As many receivers as transmitters: only the scales tell which axis is meant."""
    m = calibrated_radar()
    data.write_measurement(tmp_path / "m.h5", m)
    with h5py.File(tmp_path / "m.h5") as f:
        for name, axes in (("mask", ["frame", "tx", "frequency"]), ("noise_std", ["rx", "frequency"])):
            dataset = f["measurement"][name]
            assert [dim.label for dim in dataset.dims] == axes
            assert [dim[0].name for dim in dataset.dims] == [f"/measurement/{axis}" for axis in axes]
            assert list(dataset.attrs["axes"]) == axes
    read = data.read_measurement(tmp_path / "m.h5", calibrate=False)
    assert read.broadcast(read.mask, read.mask_axes).shape == (1, 3, 1, 5)
