"""Exports, read back by the libraries of their formats: values, voxel sizes, origin and units."""

from __future__ import annotations

import dataclasses
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from batch_cases import cli
from data_cases import crandn, real, reconstruction
from scipy.io import loadmat

from data import DataFormatError, DataWriteError, write_reconstruction
from data.export import SUFFIXES, export

DZ, DY, DX = 0.15, 0.1, 0.075  # metres, of the cases


@pytest.fixture
def still(tmp_path):
    write_reconstruction(tmp_path / "still_recon.h5", reconstruction())
    return tmp_path / "still_recon.h5"


@pytest.fixture
def movie(tmp_path):
    write_reconstruction(tmp_path / "movie_recon.h5", reconstruction(3))
    return tmp_path / "movie_recon.h5"


def exported(source, name, *options):
    target = source.parent / name
    done = cli("export", source, "-o", target, *options)
    assert (done.status, done.out.strip()) == (0, str(target)), done.err
    assert not list(source.parent.glob(".*.part"))
    return target


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_nifti(name, still, movie):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    image = nibabel.load(exported(still, name))
    v = reconstruction().volume
    assert image.header.get_data_dtype() == np.complex64
    np.testing.assert_array_equal(np.asarray(image.dataobj), v.data.T)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(image.header.get_zooms(), [1e3 * DX, 1e3 * DY, 1e3 * DZ], rtol=1e-7)
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], [-150, -150, 350, 1], rtol=1e-7)
    np.testing.assert_allclose(image.affine @ [4, 3, 2, 1], [150, 150, 650, 1], rtol=1e-7, atol=1e-5)
    assert image.header["descrip"].item() == b"reflectivity [1]"
    image = nibabel.load(exported(movie, name, "--overwrite"))
    assert image.shape == (5, 4, 3, 3)
    assert image.header.get_zooms()[3] == 0.5
    np.testing.assert_array_equal(np.asarray(image.dataobj), reconstruction(3).volume.data.T)


def test_equal_results_are_equal_bytes(still):
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    a, b = exported(still, "a.nii.gz"), exported(still, "b.nii.gz")
    assert a.read_bytes() == b.read_bytes()


def test_mrc(still, movie):
    mrcfile = pytest.importorskip("mrcfile", reason="mrcfile is not installed")
    path = exported(still, "x.mrc")
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, reconstruction().volume.data)
        assert (mrc.header.mode, mrc.is_volume()) == (4, True)
        size = mrc.voxel_size
        np.testing.assert_allclose([size.z, size.y, size.x], [DZ * 1e10, DY * 1e10, DX * 1e10], rtol=1e-6)
        origin = mrc.header.origin
        np.testing.assert_allclose([origin.z, origin.y, origin.x], [0.35e10, -0.15e10, -0.15e10], rtol=1e-6)
        assert "reflectivity [1]" in mrc.get_labels()[0]
    with mrcfile.open(exported(movie, "m.mrc", "--part", "magnitude")) as mrc:
        assert mrc.is_volume_stack()
        np.testing.assert_array_equal(mrc.data, np.abs(reconstruction(3).volume.data))


def test_tiff(still, movie):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(exported(still, "x.tif")) as tif:
        np.testing.assert_array_equal(tif.asarray(), reconstruction().volume.data)
        pixels = ET.fromstring(tif.ome_metadata).find(".//{*}Pixels")
        sizes = [float(pixels.get(f"PhysicalSize{a}")) for a in "ZYX"]
        assert [pixels.get(f"PhysicalSize{a}Unit") for a in "ZYX"] == ["m", "m", "m"]
        np.testing.assert_allclose(sizes, [DZ, DY, DX], rtol=1e-12)
        planes = pixels.findall("{*}Plane")
        np.testing.assert_allclose([float(p.get("PositionZ")) for p in planes], [0.35, 0.5, 0.65])
        assert tif.pages[0].tags["ResolutionUnit"].value == 3  # centimetres
    with tifffile.TiffFile(exported(movie, "m.ome.tiff", "--part", "magnitude")) as tif:
        assert tif.series[0].axes == "TZYX"
        np.testing.assert_array_equal(tif.asarray(), np.abs(reconstruction(3).volume.data))
        pixels = ET.fromstring(tif.ome_metadata).find(".//{*}Pixels")
        assert (float(pixels.get("TimeIncrement")), pixels.get("TimeIncrementUnit")) == (0.5, "s")


def test_matlab(still, movie):
    found = loadmat(exported(still, "x.mat"), squeeze_me=True)
    np.testing.assert_array_equal(found["volume"], reconstruction().volume.data.T)
    assert (found["axes"], found["quantity"], found["units"]["volume"].item()) == ("x y z", "reflectivity", "1")
    assert found["units"]["x"].item() == "m"
    np.testing.assert_array_equal(found["z"], np.linspace(0.35, 0.65, 3))
    np.testing.assert_array_equal(found["uncertainty"], np.abs(reconstruction().volume.data.T))
    found = loadmat(exported(movie, "m.mat", "--frame", "1"), squeeze_me=True)
    np.testing.assert_array_equal(found["volume"], reconstruction(3).volume.data[1].T)


def read_vti(path):
    """By the words of the format alone."""
    content = path.read_bytes()
    head, _, rest = content.partition(b'<AppendedData encoding="raw">\n_')
    root = ET.fromstring(head + b"</VTKFile>")
    image = root.find("ImageData")
    shape = [int(n) + 1 for n in image.get("WholeExtent").split()[1::2]][::-1]
    arrays = {}
    for array in image.findall("Piece/PointData/DataArray"):
        at = int(array.get("offset"))
        n = int.from_bytes(rest[at : at + 8], "little")
        arrays[array.get("Name")] = np.frombuffer(rest[at + 8 : at + 8 + n], "<f4").reshape(shape)
    words = {
        a.get("Name"): bytes(int(w) for w in a.text.split()).rstrip(b"\0").decode()
        for a in image.findall("FieldData/DataArray")
    }
    place = {key: [float(w) for w in image.get(key).split()] for key in ("Origin", "Spacing")}
    return arrays, place, words


def test_vtk(still, movie):
    path = exported(still, "x.vti")
    arrays, place, words = read_vti(path)
    v = reconstruction().volume.data
    np.testing.assert_array_equal(arrays["reflectivity_real"] + 1j * arrays["reflectivity_imag"], v)
    np.testing.assert_array_equal(arrays["reflectivity_magnitude"], np.abs(v))
    np.testing.assert_allclose(place["Spacing"], [DX, DY, DZ], rtol=1e-12)
    np.testing.assert_allclose(place["Origin"], [-0.15, -0.15, 0.35], rtol=1e-12)
    assert words == {"quantity": "reflectivity", "units": "1", "length_units": "m"}
    done = cli("export", movie, "-o", movie.parent / "m.vti")
    assert done.status == 1
    assert "choose one with --frame" in done.err
    assert not (movie.parent / "m.vti").exists()
    arrays, _, _ = read_vti(exported(movie, "m.vti", "--frame", "2", "--part", "phase"))
    np.testing.assert_array_equal(arrays["reflectivity"], np.angle(reconstruction(3).volume.data[2]))


def test_vtk_by_vtk_itself(still):
    pytest.importorskip("vtk", reason="vtk is not installed")
    from vtk import vtkXMLImageDataReader
    from vtk.util.numpy_support import vtk_to_numpy

    reader = vtkXMLImageDataReader()
    reader.SetFileName(str(exported(still, "x.vti")))
    reader.Update()
    image = reader.GetOutput()
    assert image.GetDimensions() == (5, 4, 3)
    np.testing.assert_allclose(image.GetSpacing(), (DX, DY, DZ))
    np.testing.assert_allclose(image.GetOrigin(), (-0.15, -0.15, 0.35))
    found = vtk_to_numpy(image.GetPointData().GetArray("reflectivity_magnitude")).reshape(3, 4, 5)
    np.testing.assert_array_equal(found, np.abs(reconstruction().volume.data))
    assert image.GetFieldData().GetAbstractArray("units").GetValue(0) == "1"


def changed(**scales):
    r = reconstruction()
    v = r.volume
    return dataclasses.replace(r, volume=dataclasses.replace(v, scales={**v.scales, **scales}))


def test_what_a_format_cannot_hold(tmp_path):
    uneven = changed(x=real([0.0, 0.1, 0.2, 0.3, 0.5], "m"))
    for suffix in (".mrc", ".tif", ".vti"):
        with pytest.raises(DataFormatError, match="/volume/x: expected evenly spaced voxels"):
            export(uneven, tmp_path / f"u{suffix}")
    export(uneven, tmp_path / "u.mat")
    v = reconstruction().volume
    grid = dict(zip(("grid_1", "grid_2", "grid_3"), v.scales.values(), strict=True))
    channel = dataclasses.replace(
        reconstruction(), volume=dataclasses.replace(v, axes=tuple(grid), scales=grid), uncertainty=None
    )
    with pytest.raises(DataFormatError, match="expected axes z, y, x for TIFF, found grid_1"):
        export(channel, tmp_path / "c.tif")
    export(channel, tmp_path / "c.mat")
    assert loadmat(tmp_path / "c.mat")["volume"].shape == (5, 4, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.mat", "u.mat"]


def test_a_single_slice_has_no_thickness(tmp_path):
    r = reconstruction()
    v = r.volume
    flat = dataclasses.replace(v, data=crandn(1, 4, 5), scales={**v.scales, "z": real([0.5], "m")})
    notes = export(dataclasses.replace(r, volume=flat, uncertainty=None), tmp_path / "f.tif")
    assert "one voxel along z" in notes[0]


def test_mistakes_are_said(still, tmp_path):
    result = reconstruction()
    for options, words in (
        ({"part": "half"}, "--part: expected one of complex"),
        ({"frame": 1}, "--frame 1: expected 0 to 0"),
    ):
        with pytest.raises(DataFormatError, match=words):
            export(result, tmp_path / "x.tif", **options)
    with pytest.raises(DataFormatError, match="expected an ending of .nii"):
        export(result, tmp_path / "x.png")
    with pytest.raises(DataWriteError, match="expected an existing folder"):
        export(result, tmp_path / "no" / "x.mat")
    (tmp_path / "old.mat").write_text("old")
    done = cli("export", still, "-o", tmp_path / "old.mat")
    assert (done.status, (tmp_path / "old.mat").read_text()) == (2, "old")
    assert "use --overwrite" in done.err
    assert set(SUFFIXES) == {".nii", ".nii.gz", ".mrc", ".tif", ".tiff", ".vti", ".mat"}


@pytest.mark.parametrize(("name", "package"), [("x.nii", "nibabel"), ("x.mrc", "mrcfile")])
def test_a_package_that_is_missing(name, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataFormatError, match=r"pip install 'backcast\[export\]'"):
        export(reconstruction(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_leaves_the_old_file(monkeypatch, tmp_path):
    (tmp_path / "x.vti").write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataWriteError, match="No space left"):
        export(reconstruction(), tmp_path / "x.vti")
    assert [p.name for p in tmp_path.iterdir()] == ["x.vti"]
    assert (tmp_path / "x.vti").read_text() == "old"
