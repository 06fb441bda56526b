"""Every way in which a file can be wrong is one finding and one sentence."""

import contextlib
import os
import pickle
import re
import socket

import h5py
import numpy as np
import pytest
from data_cases import MEASUREMENTS, crandn, irs, mri, radar, reconstruction, tomography

import data
from data.findings import CODES


@pytest.fixture
def path(tmp_path):
    data.write_measurement(tmp_path / "scan.h5", radar(2))
    return tmp_path / "scan.h5"


def edit(path, change):
    with h5py.File(path, "r+") as f:
        change(f)


def replace(f, name, values, **attrs):
    """Another array under the same name; attributes stay unless given."""
    kept = {k: v for k, v in f[name].attrs.items() if k in ("units", "quantity", "axes")} | attrs
    del f[name]
    f[name] = values
    f[name].attrs.update(kept)


def refused(path, code, where, *words, read=data.read_measurement, deep=True):
    """Reading raises one sentence, validating finds the same; both name file, path, found, fix."""
    with pytest.raises(data.DataFormatError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: {where}")
    assert "expected" in text
    assert "found" in text
    for word in words:
        assert word in text
    assert (caught.value.finding.code, caught.value.finding.path) == (code, where)
    found = [(f.code, f.path, f.severity) for f in data.validate(path, deep=deep)]
    assert (code, where, "error") in found
    assert code in CODES
    return text


def warned(path, code, where):
    m = data.read_measurement(path)
    found = data.validate(path)
    assert [(f.code, f.path, f.severity) for f in found] == [(code, where, "warning")]
    assert m.warnings == (found[0].sentence(path),)


# -- the container --------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    refused(tmp_path / "none.h5", "BC101", "/", "no such file")


def test_folder(tmp_path):
    refused(tmp_path, "BC102", "/", "a folder")


def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "BC102", "/", "regular file")


def test_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("s")
        refused("s", "BC102", "/")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(path):
    path.chmod(0)
    refused(path, "BC103", "/", "Permission denied")


def test_unreadable_as_seen_by_anyone(path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    refused(path, "BC103", "/", "Permission denied")


def test_empty(tmp_path):
    (tmp_path / "e.h5").touch()
    refused(tmp_path / "e.h5", "BC104", "/", "empty file")


def test_not_hdf5(tmp_path):
    (tmp_path / "t.h5").write_text("frequency,real,imag\n" * 100)
    refused(tmp_path / "t.h5", "BC105", "/", "b'frequenc'", "write a measurement file")


@pytest.mark.parametrize("part", [0.999, 0.5, 0.1])
def test_truncated(path, part):
    os.truncate(path, int(path.stat().st_size * part))
    refused(path, "BC106", "/", "truncated")


def test_truncated_inside_a_text_heap(path):
    heap = path.read_bytes().index(b"GCOL")
    os.truncate(path, heap + 1000)
    refused(path, "BC106", "/", "truncated")


def test_truncated_inside_the_signature(path):
    os.truncate(path, 4)
    refused(path, "BC106", "/", "truncated")


def test_flipped_byte_in_the_samples(path):
    with h5py.File(path) as f:
        start = f["measurement/data"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[start + 17] ^= 1
    path.write_bytes(content)
    refused(path, "BC108", "/measurement/data", "checksum")
    assert data.validate(path) == []  # only a deep check reads samples


def test_no_flipped_byte_escapes_as_another_exception(tmp_path):
    """Any byte of the file may be wrong: reading answers with a sentence, or the byte did not matter."""
    data.write_measurement(tmp_path / "scan.h5", radar(ground_truth=None, grid=None))
    good = (tmp_path / "scan.h5").read_bytes()
    bad = tmp_path / "bad.h5"
    places = np.random.default_rng(0).choice(len(good), 300, replace=False)
    outcomes, sentences = set(), []
    for place in [*range(96), *places]:
        content = bytearray(good)
        content[place] ^= 0xFF
        bad.write_bytes(content)
        try:
            data.read_measurement(bad)
            outcomes.add("read")
        except data.DataFormatError as e:
            outcomes.add(e.finding.code)
            sentences.append(str(e))
        data.validate(bad, deep=True)
        with contextlib.suppress(data.DataFormatError):
            data.render_summary(data.summarise(bad))
    assert {"read", "BC107", "BC108"} <= outcomes
    assert not [s for s in sentences if "\n" in s]


def test_damaged_text_heap_is_found_before_the_library_hangs(path):
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 30] ^= 0x80  # the length of its first text
    path.write_bytes(content)
    refused(path, "BC107", "/", f"text heap at byte {heap}")


def test_attribute_of_another_type_is_not_read(path):
    edit(path, lambda f: f["geometry"].attrs.__setitem__("frame", f["geometry"].ref))
    refused(path, "BC203", "/geometry@frame", "reference")


def test_missing_filter(path, monkeypatch):
    def rewrite(f):
        replace(f, "measurement/frequency", f["measurement/frequency"][()])
        values = f["measurement/data"][()]
        kept = dict(f["measurement/data"].attrs)
        del f["measurement/data"]
        d = f["measurement"].create_dataset("data", data=values, chunks=values.shape, compression="lzf")
        d.attrs.update({k: kept[k] for k in ("units", "quantity")})

    edit(path, rewrite)
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda code: code != 32000)
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    refused(path, "BC109", "/measurement/data", "LZF", "hdf5plugin")


def test_external_link(path, tmp_path):
    def link(f):
        f.move("geometry/tx_positions", "moved")
        f["geometry/tx_positions"] = h5py.ExternalLink("other.h5", "/secret")

    edit(path, link)
    refused(path, "BC110", "/geometry/tx_positions", "external link", "'other.h5'")


def test_external_link_allowed(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["p"] = np.zeros((3, 3))
        f["p"].attrs["units"] = "m"

    def link(f):
        del f["geometry/tx_positions"]
        f["geometry/tx_positions"] = h5py.ExternalLink("other.h5", "/p")

    edit(path, link)
    assert (data.read_measurement(path, allow_links=True).geometry["tx_positions"] == 0).all()


def test_virtual_dataset(path, tmp_path):
    def link(f):
        del f["geometry/tx_positions"]
        layout = h5py.VirtualLayout((3, 3), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "p", (3, 3))
        f["geometry"].create_virtual_dataset("tx_positions", layout)
        f["geometry/tx_positions"].attrs["units"] = "m"

    edit(path, link)
    refused(path, "BC110", "/geometry/tx_positions", "virtual")


def test_external_storage(path, tmp_path):
    def link(f):
        del f["geometry/tx_positions"]
        d = f.create_dataset("geometry/tx_positions", (3, 3), "f8", external=[(str(tmp_path / "raw"), 0, 72)])
        d[:] = 0
        d.attrs["units"] = "m"

    edit(path, link)
    refused(path, "BC110", "/geometry/tx_positions", "other file")


def test_dangling_soft_link(path):
    def link(f):
        del f["geometry/tx_positions"]
        f["geometry/tx_positions"] = h5py.SoftLink("/nowhere")

    edit(path, link)
    refused(path, "BC201", "/geometry/tx_positions", "'/nowhere'")


def test_groups_in_a_circle_end(path):
    edit(path, lambda f: f["geometry"].__setitem__("loop", f["/"]))
    data.read_measurement(path)


def test_huge_declared_shape_is_not_allocated(path):
    def declare(f):
        kept = dict(f["measurement/data"].attrs)
        del f["measurement/data"]
        d = f["measurement"].create_dataset("data", (2, 3, 4, 2**40), "c8", chunks=(1, 3, 4, 1024))
        d.attrs.update({k: kept[k] for k in ("units", "quantity")})

    edit(path, declare)
    refused(path, "BC111", "/measurement/data", "0 bytes in the file")


def test_huge_scale_is_not_allocated(path):
    def declare(f):
        del f["measurement/frequency"]
        d = f["measurement"].create_dataset("frequency", (2**42,), "f8", chunks=(1024,), compression="gzip")
        d[0] = 1.0
        d.attrs["units"] = "Hz"

    edit(path, declare)
    refused(path, "BC111", "/measurement/frequency")


def test_not_enough_memory(path, monkeypatch):
    def full(self, args):
        raise MemoryError

    monkeypatch.setattr("h5py.Dataset.__getitem__", full)
    refused(path, "BC115", "/measurement/frame", "memory")


# -- names and words ------------------------------------------------------------------------------


def test_foreign_hdf5(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as f:
        f["unknown"] = np.zeros(3)
    refused(tmp_path / "f.h5", "BC112", "/@format", "no such attribute")
    with pytest.raises(data.DataFormatError, match="no such attribute"):
        data.open_kind(tmp_path / "f.h5")
    with pytest.raises(data.DataFormatError, match="no such attribute"):
        data.summarise(tmp_path / "f.h5")


@pytest.mark.parametrize("version", ["2.0", "0.9", "one", "²", "1.0.0", ""])
def test_unknown_version(path, version):
    edit(path, lambda f: f.attrs.__setitem__("format_version", version))
    refused(path, "BC113", "/@format_version", repr(version))


def test_missing_version(path):
    edit(path, lambda f: f.attrs.__delitem__("format_version"))
    refused(path, "BC202", "/@format_version")


def test_higher_minor_version_is_read(path):
    edit(path, lambda f: f.attrs.__setitem__("format_version", "1.7"))
    warned(path, "BC901", "/@format_version")


def test_the_other_kind_of_file(path, tmp_path):
    data.write_reconstruction(tmp_path / "r.h5", reconstruction())
    with pytest.raises(data.DataFormatError, match="name a measurement file"):
        data.read_measurement(tmp_path / "r.h5")
    with pytest.raises(data.DataFormatError, match="name a reconstruction file"):
        data.read_reconstruction(path)


def test_unknown_modality(path):
    edit(path, lambda f: f.attrs.__setitem__("modality", "mimo-radar"))
    refused(path, "BC203", "/@modality", "'mimo-radar'", "modality='mimo_radar'")


@pytest.mark.parametrize("name", ["modality", "uuid", "file_time", "creator", "creator_version"])
def test_missing_root_attribute(path, name):
    edit(path, lambda f: f.attrs.__delitem__(name))
    refused(path, "BC202", f"/@{name}")


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("acquisition", "phase_convention", "exp(-j*2*pi*f*t)"),
        ("acquisition", "waveform", "pulse"),
        ("acquisition", "amplitude_model", "1/R"),
        ("acquisition", "calibrated", "yes"),
        ("geometry", "downrange_axis", "depth"),
        ("geometry", "coordinates", ["z", "y", "x"]),
        ("measurement/data", "quantity", "total_field"),
    ],
)
def test_value_that_is_not_allowed(path, group, name, value):
    edit(path, lambda f: f[group].attrs.__setitem__(name, value))
    refused(path, "BC203", f"/{group}@{name}")


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("acquisition", "phase_convention"),
        ("acquisition", "waveform"),
        ("acquisition", "amplitude_model"),
        ("acquisition", "calibrated"),
        ("geometry", "downrange_axis"),
        ("measurement/data", "quantity"),
        ("measurement", "axes"),
    ],
)
def test_missing_attribute(path, group, name):
    edit(path, lambda f: f[group].attrs.__delitem__(name))
    refused(path, "BC202", f"/{group}@{name}")


@pytest.mark.parametrize("name", ["frame", "coordinates"])
def test_recommended_attribute(path, name):
    edit(path, lambda f: f["geometry"].attrs.__delitem__(name))
    warned(path, "BC903", f"/geometry@{name}")


@pytest.mark.parametrize("name", ["measurement", "geometry", "acquisition"])
def test_missing_group(path, name):
    edit(path, lambda f: f.__delitem__(name))
    refused(path, "BC201", f"/{name}")


@pytest.mark.parametrize(
    "name", ["measurement/data", "measurement/frequency", "measurement/tx", "geometry/rx_positions"]
)
def test_missing_dataset(path, name):
    edit(path, lambda f: f.__delitem__(name))
    refused(path, "BC201", f"/{name}")


def test_group_for_a_dataset(path):
    def change(f):
        del f["geometry/tx_positions"]
        f.create_group("geometry/tx_positions")

    edit(path, change)
    refused(path, "BC204", "/geometry/tx_positions")


def test_dataset_for_a_group(path):
    def change(f):
        del f["geometry"]
        f["geometry"] = 1.0

    edit(path, change)
    refused(path, "BC204", "/geometry")


def test_unknown_name_is_pointed_out(path):
    def change(f):
        f["geometry/tx_position"] = np.zeros((3, 3))
        f["acquisition"].attrs["waveforms"] = "x"

    edit(path, change)
    found = {f.path: f for f in data.validate(path)}
    assert set(found) == {"/geometry/tx_position", "/acquisition@waveforms"}
    assert found["/geometry/tx_position"].expected == "'tx_positions'"
    assert all(f.severity == "warning" for f in found.values())


def test_real_samples_where_complex_are_expected(path):
    edit(path, lambda f: replace(f, "measurement/data", f["measurement/data"][()].real))
    refused(path, "BC205", "/measurement/data", "complex")


def test_text_for_positions(path):
    edit(path, lambda f: replace(f, "geometry/tx_positions", "here"))
    refused(path, "BC205", "/geometry/tx_positions")


def test_fractional_index(path):
    edit(path, lambda f: replace(f, "measurement/tx", [0.0, 1.5, 2.0]))
    refused(path, "BC205", "/measurement/tx", "1.5")


def test_compound_that_is_no_complex_number(path):
    values = np.zeros((2, 3, 4, 5), [("mag", "f4"), ("phase", "f4")])
    edit(path, lambda f: replace(f, "measurement/data", values))
    refused(path, "BC206", "/measurement/data", "mag")


def test_complex_layout_that_is_not_known(path):
    edit(path, lambda f: replace(f, "measurement/data", np.zeros((2, 3, 4, 5)), complex_layout="planar"))
    refused(path, "BC206", "/measurement/data@complex_layout", "'planar'")


def test_half_of_a_pair(path):
    def change(f):
        f["measurement/data_real"] = f["measurement/data"][()].real
        del f["measurement/data"]

    edit(path, change)
    refused(path, "BC206", "/measurement/data", "data_imag")


# -- axes and shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axes",
    [
        ["frame", "tx", "rx", "freq"],
        ["frame", "tx", "tx", "frequency"],
        ["tx", "rx"],
        ["frame", "channel", "rx", "frequency"],
    ],
)
def test_wrong_axis_names(path, axes):
    edit(path, lambda f: f["measurement"].attrs.__setitem__("axes", axes))
    refused(path, "BC301", "/measurement@axes", ", ".join(axes))


def test_axis_that_is_not_named(path):
    edit(path, lambda f: replace(f, "measurement/data", crandn(2, 3, 4, 5, 1)))
    refused(path, "BC302", "/measurement/data", "(2, 3, 4, 5, 1)")


def test_interleaved_without_saying_so(path):
    edit(path, lambda f: replace(f, "measurement/data", np.zeros((2, 3, 4, 5, 2), "f4")))
    found = [f for f in data.validate(path) if f.code == "BC302"]
    assert "complex_layout='interleaved'" in found[0].fix


def test_scale_of_another_length(path):
    edit(path, lambda f: replace(f, "measurement/frequency", [1e9, 2e9]))
    refused(path, "BC303", "/measurement/frequency", "found 2")


def test_scale_of_two_dimensions(path):
    edit(path, lambda f: replace(f, "measurement/frequency", np.ones((2, 2))))
    refused(path, "BC304", "/measurement/frequency", "(2, 2)")


@pytest.mark.parametrize("shape", [(3, 2), (4, 3), (3, 3, 3), (3,)])
def test_wrong_shape_of_positions(path, shape):
    edit(path, lambda f: replace(f, "geometry/tx_positions", np.zeros(shape)))
    refused(path, "BC304", "/geometry/tx_positions", str(shape))


def test_empty_aperture(path):
    def change(f):
        replace(f, "measurement/data", np.zeros((2, 0, 4, 5), "c8"))
        replace(f, "measurement/tx", np.zeros(0, "i4"))
        replace(f, "geometry/tx_positions", np.zeros((0, 3)))

    edit(path, change)
    refused(path, "BC305", "/measurement/data", "none along tx")
    assert ("BC305", "/geometry/tx_positions") in [(f.code, f.path) for f in data.validate(path)]


@pytest.mark.parametrize(
    ("values", "axes", "code"),
    [
        (np.ones(7, "u1"), ["rx"], "BC304"),
        (np.ones(4, "u1"), ["rx", "tx"], "BC302"),
        (np.ones(4, "u1"), None, "BC302"),
        (np.ones(4, "u1"), ["receiver"], "BC301"),
        (np.full(4, 2, "u1"), ["rx"], "BC505"),
    ],
)
def test_bad_mask(path, values, axes, code):
    def change(f):
        f["measurement/mask"] = values
        if axes is not None:
            f["measurement/mask"].attrs["axes"] = axes

    edit(path, change)
    where = "/measurement/mask@axes" if code in ("BC301", "BC302") else "/measurement/mask"
    refused(path, code, where)


# -- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["measurement/data", "measurement/frequency", "measurement/frame", "geometry/tx_positions", "grid/origin"],
)
def test_missing_units(path, name):
    edit(path, lambda f: f[name].attrs.__delitem__("units"))
    refused(path, "BC401", f"/{name}@units", "no units")


def test_missing_units_of_an_index(path):
    edit(path, lambda f: f["measurement/tx"].attrs.__delitem__("units"))
    warned(path, "BC903", "/measurement/tx@units")


def test_unknown_units(path):
    edit(path, lambda f: f["measurement/frequency"].attrs.__setitem__("units", "ghz"))
    refused(path, "BC402", "/measurement/frequency@units", "'ghz'", "'GHz'")


def test_units_of_another_kind(path):
    edit(path, lambda f: f["measurement/frequency"].attrs.__setitem__("units", "mm"))
    refused(path, "BC403", "/measurement/frequency@units", "'mm'")


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, -np.inf)])
def test_samples_not_finite(path, value):
    def change(f):
        f["measurement/data"][1, 2, 3, 4] = value
        f["measurement/data"][1, 0, 3, 2] = value

    edit(path, change)
    refused(path, "BC501", "/measurement/data", "2 of 120", "frame 1, tx 0, rx 3, frequency 2")
    assert data.validate(path) == []


def test_samples_too_large_for_single_precision(path):
    values = np.full((2, 3, 4, 5), 1e300 + 0j)
    edit(path, lambda f: replace(f, "measurement/data", values))
    refused(path, "BC501", "/measurement/data")


@pytest.mark.parametrize("name", ["geometry/tx_positions", "measurement/frequency", "acquisition/propagation_speed"])
def test_geometry_not_finite(path, name):
    edit(path, lambda f: replace(f, name, np.asarray(f[name][()]) * np.nan))
    refused(path, "BC501", f"/{name}")


def test_duplicated_frequency(path):
    edit(path, lambda f: replace(f, "measurement/frequency", [1e9, 2e9, 2e9, 3e9, 4e9]))
    refused(path, "BC502", "/measurement/frequency", "duplicate 2e+09 Hz at index 2")


def test_unsorted_frequencies(path):
    edit(path, lambda f: replace(f, "measurement/frequency", [1e9, 3e9, 2e9, 4e9, 5e9]))
    refused(path, "BC502", "/measurement/frequency", "step back to 2e+09 Hz at index 2")


def test_frequency_not_positive(path):
    edit(path, lambda f: replace(f, "measurement/frequency", [0, 1e9, 2e9, 4e9, 5e9]))
    refused(path, "BC505", "/measurement/frequency", "0 Hz at index 0")


def test_speed_not_positive(path):
    edit(path, lambda f: replace(f, "acquisition/propagation_speed", -1.0))
    refused(path, "BC505", "/acquisition/propagation_speed")


def test_zero_signal(path):
    edit(path, lambda f: replace(f, "measurement/data", np.zeros((2, 3, 4, 5), "c8")))
    refused(path, "BC503", "/measurement/data", "120 zeros")


def test_antenna_inside_the_grid(path):
    edit(path, lambda f: replace(f, "geometry/rx_positions", [[0, 0, 0], [0, 0, -1], [0.01, 0.02, 0.5], [1, 1, 1]]))
    refused(path, "BC504", "/geometry/rx_positions", "1 inside", "index 2", "(0.01, 0.02, 0.5) m")


@pytest.mark.parametrize(("name", "values"), [("spacing", [0, 1, 1]), ("shape", [3, 0, 3])])
def test_grid_without_extent(path, name, values):
    edit(path, lambda f: replace(f, f"grid/{name}", values))
    refused(path, "BC505", f"/grid/{name}")


def test_channel_index_out_of_range(tmp_path):
    path = tmp_path / "c.h5"
    data.write_measurement(path, radar(channel=True))
    edit(path, lambda f: replace(f, "geometry/channel_tx", [1, 1, 2, 2, 3, 3]))
    refused(path, "BC506", "/geometry/channel_tx", "count from 0")
    edit(path, lambda f: replace(f, "geometry/channel_tx", [-1, 1, 2, 2, 9, 3]))
    refused(path, "BC506", "/geometry/channel_tx", "-1 at channel 0")


def test_channel_table_is_needed(tmp_path):
    path = tmp_path / "c.h5"
    data.write_measurement(path, radar(channel=True))
    edit(path, lambda f: f.__delitem__("geometry/channel_rx"))
    refused(path, "BC201", "/geometry/channel_rx", "channel")


def test_double_precision_is_rounded_and_said_so(path):
    edit(path, lambda f: replace(f, "measurement/data", f["measurement/data"][()].astype("c16")))
    m = data.read_measurement(path)
    assert m.data.dtype == np.complex64
    assert [w for w in m.warnings if "BC904" in w]


# -- the other modalities -------------------------------------------------------------------------


def written(tmp_path, m, change):
    data.write_measurement(tmp_path / "m.h5", m)
    edit(tmp_path / "m.h5", change)
    return tmp_path / "m.h5"


@pytest.mark.parametrize("name", ["source_to_origin", "origin_to_detector"])
def test_cone_needs_its_distances(tmp_path, name):
    path = written(tmp_path, tomography("cone"), lambda f: f.__delitem__(f"geometry/{name}"))
    refused(path, "BC201", f"/geometry/{name}", "cone")


def test_vectors_are_needed(tmp_path):
    path = written(tmp_path, tomography("vectors"), lambda f: f.__delitem__("geometry/vectors"))
    refused(path, "BC201", "/geometry/vectors")


def test_angles_are_needed(tmp_path):
    path = written(tmp_path, tomography(), lambda f: f.__delitem__("acquisition/angle"))
    refused(path, "BC201", "/acquisition/angle")


def test_sense_of_rotation_is_needed(tmp_path):
    path = written(tmp_path, tomography(), lambda f: f["acquisition/angle"].attrs.__delitem__("sense"))
    refused(path, "BC202", "/acquisition/angle@sense")


@pytest.mark.parametrize("name", ["flat", "dark"])
def test_counts_need_flat_and_dark(tmp_path, name):
    path = written(tmp_path, tomography(quantity="counts"), lambda f: f.__delitem__(f"calibration/{name}"))
    refused(path, "BC201", f"/calibration/{name}")


def test_image_key_out_of_range(tmp_path):
    path = written(tmp_path, tomography(), lambda f: f.__setitem__("acquisition/image_key", [0, 0, 0, 1, 2, 9]))
    refused(path, "BC505", "/acquisition/image_key", "9")


def test_complex_projections(tmp_path):
    path = written(tmp_path, tomography(), lambda f: replace(f, "measurement/data", crandn(6, 2, 7)))
    refused(path, "BC205", "/measurement/data", "real")


@pytest.mark.parametrize("name", ["fft_norm", "fft_centered", "fft_sign"])
def test_fourier_convention_is_needed(tmp_path, name):
    path = written(tmp_path, mri(), lambda f: f["acquisition"].attrs.__delitem__(name))
    refused(path, "BC202", f"/acquisition@{name}")


def test_trajectory_is_needed(tmp_path):
    path = written(tmp_path, mri("readout"), lambda f: f.__delitem__("acquisition/trajectory"))
    refused(path, "BC201", "/acquisition/trajectory")


def test_order_of_the_trajectory(tmp_path):
    path = written(
        tmp_path, mri("readout"), lambda f: f["acquisition/trajectory"].attrs.__setitem__("order", ["kz", "ky", "kx"])
    )
    refused(path, "BC304", "/acquisition/trajectory")


def test_active_surface(tmp_path):
    path = written(tmp_path, irs(), lambda f: replace(f, "acquisition/irs_reflection", 2 * np.ones((4, 6), "c8")))
    refused(path, "BC505", "/acquisition/irs_reflection", "passive")


def test_number_of_surface_elements(tmp_path):
    path = written(tmp_path, irs(), lambda f: replace(f, "acquisition/irs_reflection", np.ones((4, 7), "c8")))
    refused(path, "BC304", "/acquisition/irs_reflection", "(4, 7)")


# -- reconstruction -------------------------------------------------------------------------------


@pytest.fixture
def recon(tmp_path):
    data.write_reconstruction(tmp_path / "r.h5", reconstruction(2))
    return tmp_path / "r.h5"


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        (lambda f: f.__delitem__("volume"), "BC201", "/volume"),
        (lambda f: f.__delitem__("volume/data"), "BC201", "/volume/data"),
        (lambda f: f.__delitem__("volume/z"), "BC201", "/volume/z"),
        (lambda f: f["volume"].attrs.__delitem__("axes"), "BC202", "/volume@axes"),
        (lambda f: f["volume"].attrs.__setitem__("axes", ["a", "b"]), "BC302", "/volume@axes"),
        (lambda f: f["volume"].attrs.__setitem__("axes", ["t", "z", "y", "x"]), "BC301", "/volume@axes"),
        (lambda f: f["volume/z"].attrs.__delitem__("units"), "BC401", "/volume/z@units"),
        (lambda f: f["volume/data"].attrs.__delitem__("units"), "BC401", "/volume/data@units"),
        (lambda f: f["volume/data"].attrs.__setitem__("quantity", "density"), "BC203", "/volume/data@quantity"),
        (lambda f: f["volume/data"].attrs.__delitem__("quantity"), "BC202", "/volume/data@quantity"),
        (lambda f: f["volume/data"].__setitem__((1, 2, 3, 4), np.nan), "BC501", "/volume/data"),
        (lambda f: replace(f, "volume/uncertainty", np.zeros((2, 2))), "BC304", "/volume/uncertainty"),
        (lambda f: f.attrs.__setitem__("status", "fine"), "BC203", "/@status"),
        (lambda f: f["convergence"].attrs.__setitem__("stop_reason", "bored"), "BC203", "/convergence@stop_reason"),
        (lambda f: f.__delitem__("convergence/iteration"), "BC201", "/convergence/iteration"),
        (lambda f: replace(f, "convergence/rho", [1.0]), "BC304", "/convergence/rho"),
        (lambda f: f["metrics/nmse"].attrs.__delitem__("units"), "BC401", "/metrics/nmse@units"),
        (lambda f: replace(f, "preview/mip_z", np.zeros(3, "u1")), "BC304", "/preview/mip_z"),
    ],
)
def test_bad_reconstruction(recon, change, code, where):
    edit(recon, change)
    refused(recon, code, where, read=data.read_reconstruction)


def test_diverged_volume_may_hold_nan(recon):
    edit(recon, lambda f: f["volume/data"].__setitem__((1, 2, 3, 4), np.nan))
    edit(recon, lambda f: f.attrs.__setitem__("status", "diverged"))
    assert [w for w in data.read_reconstruction(recon).warnings if "NaN" in w]


# -- all findings at once -------------------------------------------------------------------------


def test_validate_reports_everything(path):
    def change(f):
        del f.attrs["uuid"]
        del f["geometry/tx_positions"].attrs["units"]
        replace(f, "measurement/frequency", [1e9, 3e9, 2e9, 4e9, 5e9])
        f["acquisition"].attrs["phase_convention"] = "minus"
        replace(f, "geometry/rx_positions", np.zeros((9, 3)))

    edit(path, change)
    findings = data.validate(path)
    assert {f.code for f in findings} == {"BC202", "BC401", "BC502", "BC203", "BC304"}
    text = data.render_findings(findings)
    assert "5 errors, 0 warnings" in text
    for f in findings:
        assert f.path in text
        assert f.fix in text
    assert data.render_findings([]) == "no findings"


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_code_is_documented_and_good_files_have_none(name, tmp_path):
    data.write_measurement(tmp_path / "m.h5", MEASUREMENTS[name]())
    assert data.validate(tmp_path / "m.h5") == []
    assert all(re.fullmatch(r"BC\d{3}", code) for code in CODES)


def test_errors_survive_a_process_boundary(tmp_path):
    with pytest.raises(data.DataFormatError) as caught:
        data.read_measurement(tmp_path / "none.h5")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.finding) == (str(caught.value), caught.value.finding)


# -- what one number can spoil ---------------------------------------------------------------------


@pytest.mark.parametrize("values", [np.float32(-1), np.full((1, 1, 1, 1), -1, np.float32)])
def test_negative_noise(path, values):
    def change(f):
        f["measurement/noise_std"] = values
        f["measurement/noise_std"].attrs["units"] = "1"

    data.write_measurement(path, radar(2, noise_std=None))
    edit(path, change)
    refused(path, "BC505", "/measurement/noise_std", ">= 0", "-1")


def test_a_mask_of_zeros(path):
    def change(f):
        f["measurement/mask"] = np.zeros(f["measurement/data"].shape, np.uint8)

    data.write_measurement(path, radar(2, mask=None, mask_axes=()))
    edit(path, change)
    refused(path, "BC505", "/measurement/mask", "only zeros")


def test_without_a_propagation_speed_it_is_that_of_light(path):
    edit(path, lambda f: f["acquisition"].__delitem__("propagation_speed"))
    assert data.read_measurement(path).acquisition["propagation_speed"] == 299792458.0
    assert data.validate(path, deep=True) == []


def test_a_unit_of_another_kind_is_not_suggested(path):
    edit(path, lambda f: f["measurement/frequency"].attrs.modify("units", "parsec"))
    assert (
        "sec'"
        not in refused(path, "BC402", "/measurement/frequency@units", "convert to 'Hz'").split("found 'parsec'")[1]
    )


def test_the_summary_names_what_is_wrong(path):
    edit(path, lambda f: f["measurement/frequency"].attrs.__delitem__("units"))
    text = data.render_summary(data.summarise(path))
    assert "1 error, 0 warnings" in text
    assert "error BC401 /measurement/frequency@units: expected units of 'Hz', found no units; write" in text


def test_no_summary_of_an_unknown_version(path):
    edit(path, lambda f: f.attrs.modify("format_version", "2.0"))
    with pytest.raises(data.DataFormatError, match="expected version 1.x, found '2.0'"):
        data.summarise(path)


@pytest.mark.skipif(not hasattr(h5py.h5t, "COMPLEX_IEEE_F16LE"), reason="this h5py has no native complex type")
def test_native_complex_of_half_precision(path):
    def change(f):
        shape = f["measurement/data"].shape
        del f["measurement/data"]
        space = h5py.h5s.create_simple(shape)
        h5py.h5d.create(f["measurement"].id, b"data", h5py.h5t.COMPLEX_IEEE_F16LE, space)

    edit(path, change)
    refused(path, "BC206", "/measurement/data", "write complex64")


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: tomography(quantity="counts"), ["/calibration/flat", "/calibration/dark"]),
        (mri, ["/calibration/coil_sensitivities", "/calibration/noise_covariance"]),
        (irs, ["/dictionary/factor_1", "/dictionary/factor_2", "/dictionary/factor_3"]),
        (
            lambda: radar(calibration={"gain": data.NamedArray(values=crandn(4), axes=("rx",))}),
            ["/calibration/gain"],
        ),
    ],
)
def test_number_without_dimension_may_lack_units(tmp_path, make, names):
    data.write_measurement(tmp_path / "m.h5", make())
    good = data.read_measurement(tmp_path / "m.h5")

    def change(f):
        for name in names:
            del f[name].attrs["units"]

    edit(tmp_path / "m.h5", change)
    found = data.validate(tmp_path / "m.h5", deep=True)
    assert [(f.code, f.path) for f in found] == [("BC903", f"{name}@units") for name in names]
    assert all("taken as '1'" in f.found for f in found)
    assert np.array_equal(data.read_measurement(tmp_path / "m.h5").data, good.data)


@pytest.mark.parametrize("time", ["yesterday", "2026-11-23", "2026-11-23T12:00:00"])
def test_file_time_without_offset(path, time):
    edit(path, lambda f: f.attrs.__setitem__("file_time", time))
    warned(path, "BC905", "/@file_time")


def test_uncertainty_is_in_the_units_of_the_volume(tmp_path):
    path = tmp_path / "r.h5"
    r = reconstruction()
    data.write_reconstruction(path, r)

    def change(f):
        f["volume/data"].attrs["units"] = "1/cm"
        f["volume/uncertainty"].attrs["units"] = "1/mm"

    edit(path, change)
    read = data.read_reconstruction(path)
    np.testing.assert_allclose(read.volume.data, 100 * r.volume.data, rtol=1e-6)
    np.testing.assert_allclose(read.uncertainty, 1000 * r.uncertainty, rtol=1e-6)
    edit(path, lambda f: f["volume/uncertainty"].attrs.__setitem__("units", "V"))
    refused(path, "BC403", "/volume/uncertainty@units", read=data.read_reconstruction)
    edit(path, lambda f: f["volume/uncertainty"].attrs.__delitem__("units"))
    refused(path, "BC401", "/volume/uncertainty@units", read=data.read_reconstruction)
