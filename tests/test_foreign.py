"""Every foreign format is read as it is, converts, and gives the image of the measurement it was made from."""

import dataclasses
import importlib.util
import re
import shutil

import h5py
import numpy as np
import pytest
from batch_cases import ROOT, cli
from data_cases import crandn, differences
from foreign_cases import CASES, RADAR_GRID, ct_scan, matlab5, npy, npz, nxtomo, radar_mapping, radar_matlab, radar_scan
from scipy.io import loadmat, savemat

import data
from data import DataFormatError, read_measurement, read_reconstruction, write_measurement
from data.convert import ConvertOptions, convert, detect, foreign, read
from data.convert.mat5 import variable_names
from data.convert.matlab import read_mat
from data.convert.sidecar import read_sidecar
from data.hashing import sha256

NEEDS = {"ismrmrd": "ismrmrd", "matlab7.3": "hdf5storage"}


def made(name, folder):
    """The file, the measurement behind it, and its case."""
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    case = CASES[name]
    folder.mkdir(exist_ok=True)
    return *case.write(folder), case


def value_of(m, name):
    if name in m.scales:
        return m.scale(name), m.scales[name].units
    return {**m.geometry, **m.acquisition}[name], None


@pytest.mark.parametrize("name", CASES)
def test_a_foreign_file_is_read_converted_and_imaged(name, tmp_path):
    source, m, case = made(name, tmp_path / "in")
    assert detect(source) == case.kind

    found = read(source, calibrate=False)
    samples = found.data[-len(m.data) :] if case.kind == "nxtomo" else found.data
    np.testing.assert_allclose(samples.reshape(m.data.shape), m.data, rtol=1e-7)
    assert (found.units, found.quantity) == (m.units, m.quantity)
    for key in case.same:
        (got, unit), (wanted, wanted_unit) = value_of(found, key), value_of(m, key)
        assert unit == wanted_unit
        if isinstance(wanted, str):
            assert got == wanted
        else:
            got = got[-len(m.data) :] if key == "angle" else got
            np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-12)

    done = cli("convert", source, "-o", tmp_path / "m.h5")
    assert done.status == 0, done.err
    written = read_measurement(tmp_path / "m.h5", calibrate=False)
    for part in ("data", "axes", "scales", "geometry", "acquisition", "calibration", "mask", "noise_std", "grid"):
        assert differences(getattr(written, part), getattr(found, part)) == [], part
    assert data.validate(tmp_path / "m.h5", deep=True) == [] or name == "nxtomo"

    sets = [word for s in case.settings for word in ("-s", s)]
    write_measurement(tmp_path / "own.h5", dataclasses.replace(m, ground_truth=None, grid=None))
    volumes = []
    for path in (source, tmp_path / "m.h5", tmp_path / "own.h5"):
        done = cli("reconstruct", path, "-m", case.method, *sets, "-o", tmp_path / "out")
        assert done.status == 0, done.err
        volumes.append(read_reconstruction(tmp_path / "out" / f"{path.stem}_recon.h5").volume.data)
    np.testing.assert_array_equal(volumes[0], volumes[1])
    if case.method != "adjoint":  # simulated MRI has coil maps too
        np.testing.assert_allclose(volumes[0], volumes[2], atol=1e-5 * np.abs(volumes[2]).max())
    again = cli("reconstruct", source, "-m", case.method, *sets, "-o", tmp_path / "out")
    assert "1 already done" in again.err


def test_info_and_validate_take_foreign_files(tmp_path):
    source, _, _ = made("nxtomo", tmp_path)
    done = cli("info", source)
    assert (done.status, done.err) == (0, "")
    assert "nxtomo, a foreign format" in done.out
    assert "30 x 2 x 24" in done.out or "detector_column" in done.out
    assert cli("validate", "--deep", source).status == 0
    (tmp_path / "t.nxs.toml").unlink()
    done = cli("validate", "--deep", source)
    assert done.status == 0
    assert "BC906" in done.out
    assert "sense of rotation" in done.out


def test_a_folder_of_all_of_them(tmp_path):
    """Found by content; MATLAB, NumPy and BART files by the TOML beside them."""
    names = [n for n in CASES if n not in NEEDS or importlib.util.find_spec(NEEDS[n]) is not None]
    for name in names:
        made(name, tmp_path / "in")
    (tmp_path / "in" / "mapping.toml").rename(tmp_path / "in" / "s21.npy.toml")
    np.save(tmp_path / "in" / "other.npy", np.zeros(3))  # without a word on what it is
    with h5py.File(tmp_path / "in" / "other.h5", "w") as f:
        f["x"] = 1
    done = cli("reconstruct", tmp_path / "in", "-n", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert done.out.count("would reconstruct") == len(names)
    assert "other.h5: passed over" in done.err
    assert "other.npy" not in done.err + done.out


def test_the_hash_of_an_input_covers_what_belongs_to_it(tmp_path):
    source, _ = npz(tmp_path)
    before = sha256(source)
    toml = tmp_path / "sino.npz.toml"
    toml.write_text(toml.read_text().replace("walnut", "x") + "\n")
    assert sha256(source) != before
    k, _ = CASES["bart"].write(tmp_path)
    before = sha256(k)
    (tmp_path / "k.hdr").write_text((tmp_path / "k.hdr").read_text() + "\n")
    assert sha256(k) != before
    assert sha256(tmp_path / "sino.npz.toml") == __import__("hashlib").sha256(toml.read_bytes()).hexdigest()


def test_equal_files_are_equal_measurements(tmp_path):
    source, _ = matlab5(tmp_path)
    assert read(source).attrs["uuid"] == read(source).attrs["uuid"]


# -- fastMRI, read by others -----------------------------------------------------------------------------------


def test_a_file_of_ours_is_a_fastmri_file(tmp_path):
    """As the public loaders do it: names, shapes, type, and the header's fields, with h5py and an XML reader alone."""
    from xml.etree import ElementTree

    source, m = CASES["fastmri"].write(tmp_path)
    assert cli("convert", source, "-o", tmp_path / "m.h5").status == 0
    with h5py.File(tmp_path / "m.h5") as f:
        kspace = f["kspace"]
        assert (kspace.shape, kspace.dtype) == ((1, 3, 16, 16), np.complex64)  # slices, coils, height, width
        np.testing.assert_array_equal(kspace[0], m.data[0])
        header = f["ismrmrd_header"][()]
        root = ElementTree.fromstring(header)
        space = {"m": "http://www.ismrm.org/ISMRMRD"}
        recon = root.find("./m:encoding/m:reconSpace/m:matrixSize", space)
        assert [int(recon.find(f"m:{a}", space).text) for a in "xyz"] == [16, 16, 1]
        limits = root.find("./m:encoding/m:encodingLimits/m:kspace_encoding_step_1", space)
        assert [int(limits.find(f"m:{a}", space).text) for a in ("center", "maximum")] == [8, 15]
    library = pytest.importorskip("ismrmrd")
    parsed = library.xsd.CreateFromDocument(header)
    fov = parsed.encoding[0].encodedSpace.fieldOfView_mm
    np.testing.assert_allclose([fov.z, fov.x, fov.y], 1e3 * m.geometry["field_of_view"])


def test_fastmris_own_loader_reads_a_file_of_ours(tmp_path):
    pytest.importorskip("fastmri", reason="fastmri is not installed")
    from fastmri.data import SliceDataset

    source, m = CASES["fastmri"].write(tmp_path)
    (tmp_path / "set").mkdir()
    assert cli("convert", source, "-o", tmp_path / "set" / "m.h5").status == 0
    loaded = SliceDataset(root=tmp_path / "set", challenge="multicoil")
    assert len(loaded) == 1
    kspace, _, _, attributes, name, index = loaded[0]
    np.testing.assert_array_equal(kspace, m.data[0])
    assert (name, index, attributes["recon_size"]) == ("m.h5", 0, (16, 16, 1))


# -- NXtomo ----------------------------------------------------------------------------------------------------


def test_nxtomo_by_the_library_of_its_users(tmp_path):
    pytest.importorskip("nxtomo", reason="nxtomo is not installed")
    pint = pytest.importorskip("pint")
    from nxtomo.application.nxtomo import NXtomo

    unit = pint.get_application_registry()
    made = NXtomo()
    made.title = "scan"
    detector = made.instrument.detector
    m = ct_scan()
    detector.data = np.concatenate((m.calibration["flat"][:2], m.data)).astype(np.float32)
    detector.image_key_control = np.array([1] * 2 + [0] * len(m.data), np.uint8)
    detector.x_pixel_size = detector.y_pixel_size = 0.5 * unit.mm
    made.sample.rotation_angle = np.concatenate((np.zeros(2), np.rad2deg(m.acquisition["angle"]))) * unit.degree
    made.save(str(tmp_path / "scan.nx"), data_path="entry0000")
    found = read(tmp_path / "scan.nx", calibrate=False)
    np.testing.assert_array_equal(found.data[2:], m.data.astype(np.float32))
    np.testing.assert_allclose(found.acquisition["angle"][2:], m.acquisition["angle"], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(np.diff(found.scale("detector_column")), 0.5e-3)
    assert found.attrs["title"] == "scan"


def edit(path, change):
    with h5py.File(path, "r+") as f:
        change(f)


def drop(name, attr=None):
    def change(f):
        if attr is None:
            del f[name]
        else:
            del f[name].attrs[attr]

    return change


DETECTOR = "entry/instrument/detector"
WRONG = [
    ("nxtomo", drop("entry/sample/rotation_angle"), {}, "rotation_angle: expected numbers, found none"),
    ("nxtomo", drop("entry/sample/rotation_angle", "units"), {}, "give --angle-unit"),
    ("nxtomo", drop(f"{DETECTOR}/x_pixel_size"), {}, "give --pixel-size ROW,COLUMN"),
    ("nxtomo", drop(f"{DETECTOR}/x_pixel_size", "units"), {}, "expected a unit of 'm', found none"),
    ("nxtomo", drop(DETECTOR), {}, "expected a detector"),
    ("nxtomo", lambda f: f.copy("entry", "entry2"), {}, "choose one with --key"),
    ("nxtomo", lambda f: f[f"{DETECTOR}/image_key"].write_direct(np.full(len(f[f"{DETECTOR}/data"]), 7)), {}, "0 to 3"),
    ("data_exchange", drop("exchange/theta"), {}, "expected the angles, found none"),
    ("data_exchange", drop("exchange/data_white"), {}, "--quantity transmission or line_integral"),
    ("data_exchange", lambda f: f.__setitem__("process/center", 3.0), {}, "expected one rotation axis"),
    ("data_exchange", lambda f: f["exchange/data"].attrs.__setitem__("axes", "a:b:c"), {}, "theta:y:x in some order"),
    ("data_exchange", lambda f: None, {"quantity": "volume"}, "--quantity: expected one of"),
    ("data_exchange", lambda f: None, {"source_to_origin_m": 1.0}, "expected both or neither"),
]


@pytest.mark.parametrize(("name", "change", "options", "words"), WRONG)
def test_what_tomography_files_lack_is_said(name, change, options, words, tmp_path):
    source, _, _ = made(name, tmp_path)
    edit(source, change)
    with pytest.raises(DataFormatError, match=words) as caught:
        convert(source, ConvertOptions(**options))
    assert "\n" not in str(caught.value)


def test_options_win_over_the_file(tmp_path):
    source, m = nxtomo(tmp_path)
    found = convert(source, ConvertOptions(center=3.5, pixel_size_m=(1e-3, 2e-3), sense="cw"))
    width = m.data.shape[2]
    assert found.geometry["rotation_axis_offset"] == pytest.approx((3.5 - (width - 1) / 2) * 2e-3)
    assert found.acquisition["sense"] == "cw_from_+z"
    fan = convert(source, ConvertOptions(source_to_origin_m=0.3, origin_to_detector_m=0.2))
    assert (fan.geometry["type"], fan.geometry["source_to_origin"]) == ("cone", 0.3)
    (tmp_path / "t.nxs.toml").unlink()
    bare = convert(source)
    assert "rotation_axis_offset" not in bare.geometry
    assert any("counter-clockwise about +z is taken" in w for w in bare.warnings)


def test_theta_beyond_a_turn_is_in_degrees(tmp_path):
    source, m, _ = made("data_exchange", tmp_path)
    edit(source, drop("exchange/theta", "units"))
    found = convert(source)
    np.testing.assert_allclose(found.acquisition["angle"], m.acquisition["angle"], rtol=1e-7, atol=1e-12)
    assert any("taken as degrees" in w for w in found.warnings)


def test_links_out_of_a_file_only_when_allowed(tmp_path):
    source, _ = nxtomo(tmp_path)
    shutil.copy(source, tmp_path / "raw.nxs")
    edit(source, drop(f"{DETECTOR}/data"))
    edit(source, lambda f: f.__setitem__(f"{DETECTOR}/data", h5py.ExternalLink("raw.nxs", f"/{DETECTOR}/data")))
    with pytest.raises(DataFormatError, match="external link"):
        convert(source)
    assert convert(source, ConvertOptions(allow_links=True)).data.any()
    done = cli("reconstruct", source, "-m", "fbp", "-o", tmp_path / "out")
    assert done.status == 1
    assert "BC110" in done.err
    assert cli("convert", source, "--allow-links", "-o", tmp_path / "m.h5").status == 0


# -- the radar's MATLAB layout ---------------------------------------------------------------------------------


def radar_file(path, **changes):
    m = radar_scan()
    x, y, z = m.geometry["tx_positions"].T
    u, v, w = m.geometry["rx_positions"].T
    values = {
        "EMData": m.data[0].transpose(1, 0, 2),
        "MIMOArray": {"Transmitter": {"TX": x, "TY": y, "TZ": z}, "Receiver": {"TX": u, "TY": v, "TZ": w}},
        "OperatingFreq": m.scale("frequency"),
    }
    savemat(path, {**values, **changes})
    return path, m


def test_the_synthetic_variant_and_falling_frequencies(tmp_path):
    source, m = radar_file(tmp_path / "syn.mat")
    assert detect(source) == "radar_matlab"
    found = convert(source)
    np.testing.assert_array_equal(found.data, m.data)
    np.testing.assert_array_equal(found.geometry["tx_positions"], m.geometry["tx_positions"])
    falling = {
        "OperatingFreq": m.scale("frequency")[::-1],
        "EMData": m.data[0].transpose(1, 0, 2)[..., ::-1],
    }
    source, _ = radar_file(tmp_path / "down.mat", **falling)
    np.testing.assert_array_equal(convert(source).data, m.data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"OperatingFreq": np.linspace(4, 16, 6)}, "expected hertz, found 4 to 16"),
        ({"EMData": np.ones((2, 2, 6)) * 1j}, "expected .3, 4, 6. samples .receiver, transmitter, frequency."),
        ({"EMData": np.ones((3, 4, 6))}, "expected complex samples"),
        ({"MIMOArray": {"Transmitter": {"TX": [0.0]}}}, "MIMOArray.Transmitter.Y or"),
        (
            {
                "MIMOArray": {
                    s: {f"T{a}": np.arange(4.0) + i for i, a in enumerate("XYZ")} for s in ("Transmitter", "Receiver")
                }
            },
            "in a plane",
        ),
    ],
)
def test_radar_files_that_make_no_sense(changes, words, tmp_path):
    source, _ = radar_file(tmp_path / "bad.mat", **changes)
    with pytest.raises(DataFormatError, match=words):
        convert(source)


# -- MATLAB 5, compared with SciPy -------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab5_says_what_scipy_says(compressed, tmp_path):
    g = np.random.default_rng(0)
    content = {
        **{
            f"n{t}": (100 * g.random((3, 4, 2))).astype(t)
            for t in ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
        },
        "big": np.arange(2**40, 2**40 + 5),
        "c8": crandn(2, 3),
        "c16": crandn(4).astype(complex),
        "flag": np.array([True, False]),
        "one": 3.0,
        "none": np.zeros((0, 3)),
        "text": "words",
        "cell": np.array([1, "a"], dtype=object),
        "s": {"a": np.arange(6.0).reshape(2, 3), "deep": {"b": 1j, "long_name_of_a_field": np.int16(7)}, "t": "x"},
    }
    savemat(tmp_path / "m.mat", content, do_compression=compressed)
    found = read_mat(tmp_path / "m.mat", squeeze=False)
    assert variable_names(tmp_path / "m.mat") == set(content)
    theirs = loadmat(tmp_path / "m.mat")
    for name in content:
        if name in ("none", "text", "cell", "s"):
            assert name not in found
        else:
            np.testing.assert_array_equal(found[name], theirs[name])
            assert found[name].dtype.kind in theirs[name].dtype.kind + "u"
    np.testing.assert_array_equal(found["s.a"], content["s"]["a"])
    assert (found["s.deep.b"].item(), found["s.deep.long_name_of_a_field"].item()) == (1j, 7)
    assert set(found) == set(content) - {"none", "text", "cell", "s"} | {
        "s.a",
        "s.deep.b",
        "s.deep.long_name_of_a_field",
    }


def test_matlab4_is_refused(tmp_path):
    savemat(tmp_path / "m.mat", {"x": np.ones(3)}, format="4")
    with pytest.raises(DataFormatError, match="expected a MATLAB file of version 5 or 7.3"):
        convert(tmp_path / "m.mat")


# -- mappings --------------------------------------------------------------------------------------------------


def test_a_mapping_on_the_command_line(tmp_path):
    source, m = matlab5(tmp_path)
    (tmp_path / "five.mat.toml").rename(tmp_path / "any.toml")
    done = cli("convert", source, "--mapping", tmp_path / "any.toml", "-o", tmp_path / "m.h5")
    assert done.status == 0, done.err
    np.testing.assert_array_equal(read_measurement(tmp_path / "m.h5").data, m.data)


def test_two_real_arrays_one_based_channels_and_a_mask(tmp_path):
    m = radar_scan()
    channels = m.data[0].reshape(12, 6)
    tx, rx = np.divmod(np.arange(12), 3)
    mask = np.ones(12, np.uint8)
    mask[5] = 0
    np.savez(tmp_path / "c.npz", re=channels.real, im=channels.imag, tx=tx + 1, rx=rx + 1, mask=mask)
    text = radar_mapping(m, "re", ["channel", "frequency"], literal=True)
    text = text.replace('from = "re"\n', 'from = "re"\nimag = "im"\n')
    text = text.replace(
        "[geometry]\n",
        '[mask]\nfrom = "mask"\naxes = ["channel"]\n[geometry]\n'
        'channel_tx = { from = "tx", one_based = true }\nchannel_rx = { from = "rx", one_based = true }\n',
    )
    (tmp_path / "c.npz.toml").write_text(text)
    found = read(tmp_path / "c.npz")
    np.testing.assert_array_equal(found.data[0], channels)
    assert found.geometry["channel_rx"].tolist() == rx.tolist()
    assert (found.mask_axes, found.mask.tolist()) == (("channel",), mask.tolist())


GOOD = 'modality = "mimo_radar"\n'
MISTAKES = [
    ('modality = "sonar"', "modality: expected one of mimo_radar"),
    (GOOD, "expected a table \\[data\\]"),
    (GOOD + "[data]\nfrom = 'nothing'\naxes = ['tx', 'rx', 'frequency']", "data.from: expected a variable"),
    (GOOD + "[data]\naxes = 3", "data.axes: expected a list of names"),
    (GOOD + "[data]\nfrom = 'data'\naxes = ['tx']", "expected 3 names for dimensions"),
    (GOOD + "[data]\nfrom = 'data'\naxes = ['tx', 'rx', 'range']\nunits = '1'", "/measurement@axes"),
    (GOOD + "[data]\nvalue = 'x'\naxes = ['tx']", "data.value: expected numbers"),
    (GOOD + "[data]\nfrom = 'data'\naxes = ['tx', 'rx', 'frequency']\nunits = 'furlong'", "furlong"),
    (GOOD + "[dta]\nfrom = 'data'", "did you mean 'data'"),
    (GOOD + "data = 3", "expected a table \\[data\\], got 3"),
    (GOOD + "title = 3", "title: expected text"),
    (GOOD + "[data]\nfrom = 'data'\naxes = ['tx', 'rx', 'frequency']\n[scales]\nrange = 1", "scales.range"),
    (GOOD + "[data]\nfrom = 'data'\naxes = ['tx', 'rx', 'frequency']\n[geometry]\n'a/b' = 1", "names of letters"),
    (
        GOOD + "[data]\nfrom = 'data'\naxes = ['tx', 'rx', 'frequency']\n[geometry]\nx = {value = [[1], [2, 3]]}",
        "numbers",
    ),
    ("modality = ", "expected TOML, found a mistake"),
    ("[options]\nfield_of_vew = 1", "options.field_of_vew: expected one of"),
    ("[options]\nfield_of_view = [1, 2]", "expected 3 numbers"),
    ("[options]\ncenter = 'left'", "expected a number"),
    ("[options]\ntrajectory = '../t'", "expected a file below the folder of this TOML"),
    ("[options]\nmaps = '/etc/passwd'", "expected a file below the folder of this TOML"),
    ("format = 3", "format: expected a text"),
    ("colour = 'red'", "colour: expected format and"),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_a_mapping_with_a_mistake(text, words, tmp_path):
    source, _ = npy(tmp_path)
    (tmp_path / "mapping.toml").write_text(text)
    with pytest.raises(DataFormatError, match=words) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    assert cli("info", source).status == 1
    assert cli("validate", source).status == 1


def test_a_wrong_mapping_does_not_stop_the_others(tmp_path):
    npy(tmp_path)
    (tmp_path / "s21.npy.toml").write_text("modality = ")
    write_measurement(tmp_path / "good.h5", radar_scan())
    done = cli("reconstruct", tmp_path, "-m", "backprojection", "-s", RADAR_GRID[2], "-o", tmp_path / "out")
    assert done.status == 3
    assert "s21.npy.toml: expected TOML, found a mistake" in done.err


def test_numpy_files_without_a_mapping_or_of_other_things(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataFormatError, match="need a mapping file"):
        read(tmp_path / "a.npy")
    m = radar_scan()
    (tmp_path / "mapping.toml").write_text(radar_mapping(m, "data", ["tx", "rx", "frequency"], literal=True))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    huge = (
        np.lib.format.magic(1, 0)
        + b"\x76\x00"
        + b"{'descr': '<c16', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117)
        + b"\n"
    )
    (tmp_path / "h.npy").write_bytes(huge)
    for name, words in (("o.npy", "array of object"), ("h.npy", "declared, .* bytes stored")):
        with pytest.raises(DataFormatError, match=words):
            read(tmp_path / name)
    assert foreign(tmp_path / "mapping.toml") is None


def test_the_mapping_of_the_page(tmp_path):
    """docs/formats.md shows one."""
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    options, mapping = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    m = radar_scan()
    array = {side: m.geometry[f"{side}_positions"] * 1e3 for side in ("tx", "rx")}
    savemat(tmp_path / "s.mat", {"S21": m.data[0], "f": m.scale("frequency") / 1e9, "array": array})
    (tmp_path / "s.mat.toml").write_text(mapping)
    found = read(tmp_path / "s.mat")
    np.testing.assert_array_equal(found.data, m.data)
    assert (found.warnings, found.attrs["title"]) == ((), "two plates")
    (tmp_path / "k.toml").write_text(options)
    kind, given = read_sidecar(tmp_path / "k.toml")
    assert (kind, given["field_of_view_m"]) == ("bart", (0.005, 0.23, 0.18))


def test_a_mapping_wins_over_the_radar_layout(tmp_path):
    source, m = radar_matlab(tmp_path)
    text = radar_mapping(m, "EMData.Values", ["rx", "tx", "frequency"], literal=True)
    (tmp_path / "gun.mat.toml").write_text(text)
    np.testing.assert_array_equal(read(source).data, m.data)
    assert read(source).acquisition["calibrated"] is True
