"""Foreign MRI files, made here in their own conventions, become measurements that say the same."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat
from typer.testing import CliRunner

from data import DataFormatError, read_measurement, validate
from data.convert import ConvertOptions, convert, detect
from data.convert.bart import read_cfl
from data.convert.mri_parts import reverse
from pipelines.cli import app

SHARED = (
    Path(os.environ.get("BACKCAST_SHARED", Path(__file__).resolve().parent.parent.parent / "shared")) / "data" / "mri"
)
FOV = (0.005, 0.24, 0.2)
HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>{rx}</x><y>{ry}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>5</z></fieldOfView_mm></reconSpace>
  <encodingLimits>
   <kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center></kspace_encoding_step_1>
  </encodingLimits>
  <trajectory>{kind}</trajectory>
 </encoding>
</ismrmrdHeader>
"""


def header(x, y, *, kind="cartesian", rx=None, ry=None):
    sizes = {"x": x, "y": y, "rx": rx or x, "ry": ry or y, "fx": 200, "fy": 240}
    return HEADER.format(**sizes, last=y - 1, centre=y // 2, kind=kind)


def crandn(*shape, seed=0):
    g = np.random.default_rng(seed)
    return (g.standard_normal(shape) + 1j * g.standard_normal(shape)).astype(np.complex64)


def image_of(m):
    k = np.fft.ifftshift(m.data, axes=(-2, -1))
    return np.fft.fftshift(np.fft.ifftn(k, axes=(-2, -1), norm="ortho"), axes=(-2, -1))


def kspace_of(image, *, centered=True, sign=-1):
    transform = np.fft.fftn if sign == -1 else np.fft.ifftn
    shifted = np.fft.ifftshift(image, axes=(-2, -1))
    k = transform(shifted, axes=(-2, -1), norm="ortho")
    return np.fft.fftshift(k, axes=(-2, -1)) if centered else k


def command(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


# -- BART ------------------------------------------------------------------------------------------------


def write_cfl(stem: Path, values, dims=None):
    values = np.asarray(values, np.complex64)
    dims = values.shape if dims is None else dims
    stem.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + " \n")
    values.reshape(dims).ravel(order="F").tofile(stem.with_suffix(".cfl"))
    return stem.with_suffix(".cfl")


def test_bart_slices(tmp_path):
    k = crandn(10, 8, 1, 3)  # READ, PHS1, PHS2, COIL
    source = write_cfl(tmp_path / "k", k)
    m = convert(source, ConvertOptions(field_of_view_m=FOV))
    assert (m.axes, m.data.shape) == (("slice", "coil", "ky", "kx"), (1, 3, 8, 10))
    np.testing.assert_array_equal(m.data[0], k[:, :, 0].transpose(2, 1, 0))
    assert (m.acquisition["fft_centered"], m.acquisition["fft_sign"]) == (True, -1)
    assert m.geometry["field_of_view"].tolist() == list(FOV)
    assert m.mask is None


def test_bart_two_encoded_axes_frames_and_zeros(tmp_path):
    k = crandn(1, 10, 8, 3)
    k[:, 1::2] = 0
    m = convert(write_cfl(tmp_path / "k", k))
    assert m.data.shape == (1, 3, 10, 8)
    assert (m.mask_axes, m.mask.tolist()) == (("ky",), [1, 0] * 5)
    movie = crandn(6, 5, 1, 2, 1, 1, 1, 1, 1, 1, 4)
    m = convert(write_cfl(tmp_path / "movie", movie), ConvertOptions(frame_interval_s=0.05))
    assert (m.axes, m.data.shape) == (("frame", "coil", "kz", "ky", "kx"), (4, 2, 1, 5, 6))
    np.testing.assert_array_equal(m.data[3, 1, 0], movie[:, :, 0, 1, 0, 0, 0, 0, 0, 0, 3].T)
    assert m.scale("frame").tolist() == pytest.approx([0, 0.05, 0.1, 0.15])


def test_bart_trajectory_maps_and_the_command(tmp_path):
    data, maps = crandn(1, 12, 7, 2), crandn(8, 8, 1, 2)
    points = np.random.default_rng(0).uniform(-4, 4, (3, 12, 7))
    points[2] = 0
    source = write_cfl(tmp_path / "k", data)
    write_cfl(tmp_path / "t", points)
    write_cfl(tmp_path / "maps", maps)
    result = command(
        *(tmp_path / "k", "-o", tmp_path / "m.h5", "--trajectory", tmp_path / "t", "--maps", tmp_path / "maps"),
        *("--field-of-view", "0.005,0.2,0.2", "--matrix", "1,8,8"),
    )
    assert result.exit_code == 0, result.output
    m = read_measurement(tmp_path / "m.h5")
    assert (m.axes, m.data.shape) == (("frame", "coil", "readout", "sample"), (1, 2, 7, 12))
    np.testing.assert_array_equal(m.data[0, 1], data[0, :, :, 1].T)
    assert m.acquisition["order"] == ("ky", "kx")
    np.testing.assert_allclose(m.acquisition["trajectory"][3, 5], points[1::-1, 5, 3] / 0.2, rtol=1e-6)
    np.testing.assert_array_equal(m.calibration["coil_sensitivities"][1, 0], maps[:, :, 0, 1].T)
    again = command(source, "-o", tmp_path / "m.h5")
    assert again.exit_code == 1
    assert "use --overwrite" in str(again.exception)


# -- fastMRI ---------------------------------------------------------------------------------------------


def write_fastmri(path, k, **more):
    with h5py.File(path, "w") as f:
        f["kspace"] = k
        for name, value in more.items():
            f[name] = value
    return path


def test_fastmri_with_header_mask_and_reference(tmp_path):
    image = crandn(2, 3, 12, 10)
    k, mask = kspace_of(image), np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1], bool)
    rss = np.sqrt((np.abs(image) ** 2).sum(1))[:, 3:9]
    source = write_fastmri(
        tmp_path / "f.h5",
        k * mask,
        mask=mask,
        ismrmrd_header=header(12, 10, rx=6, ry=10),
        reconstruction_rss=rss.astype(np.float32),
    )
    result = command(source, "-o", tmp_path / "m.h5")
    assert result.exit_code == 0, result.output
    m = read_measurement(tmp_path / "m.h5")
    np.testing.assert_array_equal(m.data, (k * mask).astype(np.complex64))
    assert (m.mask_axes, m.mask.tolist()) == (("kx",), mask.astype(int).tolist())
    np.testing.assert_allclose(m.geometry["field_of_view"], [0.01, 0.2, 0.24])
    assert m.geometry["recon_matrix"].tolist() == [2, 6, 10]
    assert m.ground_truth.data.shape == (2, 6, 10)
    assert m.ground_truth.scale("y")[3] == 0
    assert "ismrmrd" in m.acquisition["ismrmrd_header"]
    with h5py.File(tmp_path / "m.h5") as f:
        assert f["kspace"].shape == k.shape  # fastMRI's loader reads what it wrote


def test_fastmri_single_coil_and_mistakes(tmp_path):
    m = convert(write_fastmri(tmp_path / "a.h5", crandn(2, 6, 5)))
    assert m.data.shape == (2, 1, 6, 5)
    assert "field_of_view" not in m.geometry
    for name, more, words in (
        ("b.h5", {"mask": np.ones(4)}, "/mask: expected 5 columns"),
        ("c.h5", {"ismrmrd_header": "no xml"}, "expected XML"),
    ):
        with pytest.raises(DataFormatError, match=words):
            convert(write_fastmri(tmp_path / name, crandn(2, 6, 5), **more))
    with pytest.raises(DataFormatError, match="expected complex"):
        convert(write_fastmri(tmp_path / "d.h5", np.ones((2, 6, 5))))


# -- MATLAB ----------------------------------------------------------------------------------------------


def save_mat73(path, variables):
    """As MATLAB writes it: dimensions reversed, complex numbers in two fields."""
    with h5py.File(path, "w", userblock_size=512) as f:
        for name, value in variables.items():
            value = np.asarray(value).T
            if np.iscomplexobj(value):
                pair = np.empty(value.shape, dtype=[("real", "<f8"), ("imag", "<f8")])
                pair["real"], pair["imag"] = value.real, value.imag
                value = pair
            f[name] = value


@pytest.mark.parametrize("save", [savemat, save_mat73])
@pytest.mark.parametrize(("centered", "sign"), [(True, -1), (True, 1), (False, -1), (False, 1)])
@pytest.mark.parametrize("n", [6, 7])
def test_matlab_in_every_convention_gives_the_image(tmp_path, save, centered, sign, n):
    image = crandn(2, n, 8)
    k = kspace_of(image, centered=centered, sign=sign)
    variables = {"k": k.transpose(2, 1, 0), "mask": np.ones((8, n)), "maps": crandn(8, n, 2)}  # x, y, coil
    save(tmp_path / "k.mat", variables)
    options = ConvertOptions(
        key="k", axes=("kx", "ky", "coil"), fft_centered=centered, fft_sign=sign, mask="mask", maps="maps"
    )
    m = convert(tmp_path / "k.mat", options)
    data = m.data if centered else np.fft.fftshift(m.data, axes=(-2, -1))
    k = np.fft.ifftshift(data[0], axes=(-2, -1))
    found = np.fft.fftshift(np.fft.ifftn(k, axes=(-2, -1), norm="ortho"), axes=(-2, -1))
    np.testing.assert_allclose(found, image, atol=1e-6)
    assert m.acquisition["fft_centered"] is centered
    np.testing.assert_allclose(m.calibration["coil_sensitivities"][0, 1], variables["maps"][:, :, 1].T, rtol=1e-6)
    assert m.mask.shape == (n, 8)


def test_matlab_trajectory_of_a_structure(tmp_path):
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (12, 5, 2)) @ np.array([1, 1j])
    data = crandn(12, 5, 3)
    savemat(tmp_path / "s.mat", {"scan": {"k": points, "data": data}, "w": np.ones(3)})
    options = ["--key", "scan.data", "--axes", "sample,readout,coil", "--trajectory", "scan.k"]
    options += ["--trajectory-unit", "cycles/pixel", "--field-of-view", "0.005,0.2,0.2", "--matrix", "1,64,64"]
    result = command(tmp_path / "s.mat", "-o", tmp_path / "m.h5", *options)
    assert result.exit_code == 0, result.output
    m = read_measurement(tmp_path / "m.h5")
    np.testing.assert_array_equal(m.data[0, 2], data[:, :, 2].T)
    expected = np.array([points[7, 3].imag, points[7, 3].real]) * 64 / 0.2
    np.testing.assert_allclose(m.acquisition["trajectory"][3, 7], expected, rtol=1e-5)


MISTAKES = [
    ({}, "give --axes"),
    ({"axes": ("kx", "ky", "coil")}, "give --fft-centered or --fft-uncentered"),
    ({"key": "q"}, "expected one of k, real, got 'q'"),
    ({"axes": ("kx", "ky"), "fft_centered": True, "fft_sign": -1}, "expected 3 names"),
    ({"axes": ("kx", "kx", "coil"), "fft_centered": True, "fft_sign": -1}, "3 different names"),
    ({"axes": ("frame", "slice", "coil"), "fft_centered": True, "fft_sign": -1}, "found slice"),
    ({"axes": ("kx", "ky", "coil"), "fft_centered": True, "fft_sign": -1, "mask": "real"}, "expected dimensions of"),
    ({"axes": ("sample", "readout", "coil"), "trajectory": "real"}, "expected complex .sample, readout."),
    ({"axes": ("sample", "readout", "coil")}, "fft_centered"),
]


@pytest.mark.parametrize(("given", "words"), MISTAKES)
def test_what_matlab_leaves_open_must_be_said(tmp_path, given, words):
    savemat(tmp_path / "k.mat", {"k": crandn(6, 5, 3), "real": np.ones((4, 2))})
    with pytest.raises(DataFormatError, match=words):
        convert(tmp_path / "k.mat", ConvertOptions(**given))


# -- ISMRMRD ---------------------------------------------------------------------------------------------


def write_ismrmrd(path, xml, readouts):
    """readouts: (data (coil, sample), trajectory or None, flags, ky, repetition)."""
    ismrmrd = pytest.importorskip("ismrmrd")
    dataset = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    dataset.write_xml_header(xml.encode())
    for data, points, flags, ky, repetition in readouts:
        a = ismrmrd.Acquisition.from_array(
            np.ascontiguousarray(data), np.zeros((data.shape[1], 0), np.float32) if points is None else points
        )
        a.center_sample = data.shape[1] // 2
        for flag in flags:
            a.set_flag(getattr(ismrmrd, flag))
        a.idx.kspace_encode_step_1, a.idx.repetition = ky, repetition
        dataset.append_acquisition(a)
    dataset.close()
    return path


def test_ismrmrd_cartesian(tmp_path):
    k = crandn(2, 3, 10, 12)  # frame, coil, ky, kx
    noise = 0.1 * crandn(3, 4000, seed=1)
    rows = [(k[f, :, y], None, (), y, f) for f in range(2) for y in range(10) if (y + f) % 2 == 0]
    flagged = [
        (noise, None, ("ACQ_IS_NOISE_MEASUREMENT",), 0, 0),
        (k[0, :, 1], None, ("ACQ_IS_NAVIGATION_DATA",), 1, 0),
    ]
    source = write_ismrmrd(tmp_path / "i.h5", header(12, 10), [*flagged, *rows])
    assert detect(source) == "ismrmrd"
    result = command(source, "-o", tmp_path / "m.h5")
    assert result.exit_code == 0, result.output
    m = read_measurement(tmp_path / "m.h5")
    assert (m.axes, m.data.shape) == (("frame", "coil", "kz", "ky", "kx"), (2, 3, 1, 10, 12))
    np.testing.assert_array_equal(m.data[1, :, 0, 1::2], k[1, :, 1::2])
    assert not m.data[1, :, 0, ::2].any()
    mask = m.broadcast(m.mask, m.mask_axes)
    assert mask[0, 0, 0, :, 0].tolist() == [1, 0] * 5
    np.testing.assert_allclose(m.calibration["noise_covariance"], 0.02 * np.eye(3), atol=2e-3)
    np.testing.assert_allclose(m.geometry["field_of_view"], [0.005, 0.24, 0.2])


def test_ismrmrd_radial(tmp_path):
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 16, 2)).astype(np.float32)  # kx, ky
    data = crandn(5, 3, 16)
    rows = [(data[i], points[i], (), i, 0) for i in range(5)]
    source = write_ismrmrd(tmp_path / "r.h5", header(16, 16, kind="radial"), rows)
    with pytest.raises(DataFormatError, match="give --trajectory-unit"):
        convert(source)
    m = convert(source, ConvertOptions(trajectory_unit="cycles/pixel"))
    np.testing.assert_array_equal(m.data[0, :, 2], data[2])
    np.testing.assert_allclose(m.acquisition["trajectory"][2, 7, 0], points[2, 7, 1] * 16 / 0.24, rtol=1e-5)


# -- whatever else ---------------------------------------------------------------------------------------


def test_reversal_keeps_the_zero_frequency():
    for n in (6, 7):
        k = np.arange(n)
        assert reverse(k, 0, centered=True)[n // 2] == n // 2
        assert reverse(k, 0, centered=False)[0] == 0
        assert reverse(reverse(k, 0, centered=True), 0, centered=True).tolist() == k.tolist()


def test_files_that_are_none_of_these(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    for path, words in ((tmp_path / "a.txt", "none of them"), (tmp_path / "b.h5", "found nothing there")):
        with pytest.raises(DataFormatError, match=words):
            convert(path)
    with pytest.raises(DataFormatError, match="expected one of bart"):
        convert(tmp_path / "a.txt", kind="dicom")
    (tmp_path / "bad.mat").write_bytes(b"x" * 300)
    with pytest.raises(DataFormatError, match="expected a MATLAB file"):
        convert(tmp_path / "bad.mat")
    (tmp_path / "k.hdr").write_text("# Dimensions\n4 5 1 2\n")
    with pytest.raises(DataFormatError, match="expected a file beside its partner"):
        read_cfl(tmp_path / "k.cfl")
    (tmp_path / "k.cfl").write_bytes(b"\0" * 80)
    with pytest.raises(DataFormatError, match="expected 40 complex64 samples as the header says, found 10"):
        convert(tmp_path / "k.hdr")
    (tmp_path / "k.hdr").write_text("nothing\n")
    with pytest.raises(DataFormatError, match="expected a line '# Dimensions'"):
        convert(tmp_path / "k.cfl")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trajectory_unit": "1/mm"}, "--trajectory-unit: expected one of 1/m"),
        ({"fft_sign": 2}, "--fft-sign: expected -1 or 1"),
        ({"axes": ("x", "y")}, "--axes: expected names of"),
        ({"field_of_view_m": (0.0, 1.0, 1.0)}, "--field-of-view: expected three numbers > 0"),
        ({"frame_interval_s": 0.0}, "--frame-interval: expected seconds > 0"),
    ],
)
def test_options_that_make_no_sense(given, words):
    with pytest.raises(DataFormatError, match=words):
        ConvertOptions(**given)


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"measured MRI not found in {SHARED}; set BACKCAST_SHARED to the folder above data/"
)
def test_measured_files_convert_in_one_command(tmp_path):
    source = SHARED / "brain_8ch_full.cfl"
    assert command(source, "-o", tmp_path / "brain.h5", "--field-of-view", "0.005,0.23,0.18").exit_code == 0
    assert validate(tmp_path / "brain.h5", deep=True) == []
    m = read_measurement(tmp_path / "brain.h5")
    assert m.data.shape == (1, 8, 230, 180)
    assert np.unravel_index(np.abs(m.data[0]).sum(0).argmax(), (230, 180)) == (116, 89)
