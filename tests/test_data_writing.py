"""A file is there, whole, or not there at all."""

import os
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
from data_cases import COLUMNS, FIXED, radar, reconstruction, tomography, volume

import data
from data import atomic
from data.atomic import remove_part, write_hdf5
from data.hdf5_write import chunk_shape
from data.simulate import MimoRadarSimulation, mimo_radar


def no_trace(folder):
    assert [p.name for p in folder.iterdir()] == []


@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("shape", [(1,), (7, 25, 25, 15), (3, 49, 25, 25), (2, 2000, 2000), (1, 1, 10**7)])
def test_chunks_are_about_a_mebibyte(shape, frames):
    chunks = chunk_shape(shape, 8, frames=frames)
    assert np.prod(chunks) * 8 <= 2**20
    assert all(1 <= c <= n for c, n in zip(chunks, shape, strict=True))
    if frames and len(shape) > 1:
        assert chunks[0] == 1
    assert np.prod(chunks) * 8 >= min(2**19, np.prod(shape[frames:]) * 8)


@pytest.mark.parametrize(
    ("write", "make"), [(data.write_measurement, radar), (data.write_reconstruction, reconstruction)]
)
def test_missing_folder(write, make, tmp_path):
    target = tmp_path / "none" / "m.h5"
    with pytest.raises(data.DataWriteError, match=r"none/m\.h5: expected an existing folder .* create it"):
        write(target, make())


def test_file_for_a_folder(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(data.DataWriteError, match="found a file"):
        data.write_measurement(tmp_path / "f" / "m.h5", radar())


def test_folder_for_a_file(tmp_path):
    (tmp_path / "m.h5").mkdir()
    with pytest.raises(data.DataWriteError, match="found a folder"):
        data.write_measurement(tmp_path / "m.h5", radar())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(data.DataWriteError, match="Permission denied"):
        data.write_measurement(tmp_path / "m.h5", radar())


def test_unwritable_folder_as_seen_by_anyone(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", forbidden)
    with pytest.raises(data.DataWriteError, match=r"m\.h5: expected to write it, found: Permission denied; free"):
        data.write_measurement(tmp_path / "m.h5", radar())


@pytest.mark.parametrize("limit", [100, 5_000, 40_000])
def test_full_disk(limit, tmp_path):
    """HDF5 cannot close a file on a full disk and crashes at exit: ours ends in a sentence, without a trace."""
    code = f"""
        import resource, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from data_cases import radar
        import data
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            data.write_measurement({str(tmp_path / "m.h5")!r}, radar(3))
        except data.DataWriteError as e:
            print(e)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'm.h5'}: expected to write it, found: File too large; free some space")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    no_trace(tmp_path)


def test_old_file_stays_when_writing_fails(tmp_path):
    data.write_measurement(tmp_path / "m.h5", radar())
    before = (tmp_path / "m.h5").read_bytes()
    bad = radar(acquisition={"waveform": "pulse"})
    with pytest.raises(data.DataFormatError):
        data.write_measurement(tmp_path / "m.h5", bad)
    assert (tmp_path / "m.h5").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.h5"]


def test_interrupt_leaves_nothing(tmp_path):
    def fill(file):
        file["x"] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hdf5(tmp_path / "m.h5", fill)
    no_trace(tmp_path)


def test_killed_writer_leaves_a_part_and_the_next_one_replaces_it(tmp_path):
    code = f"""
        import os
        from data.atomic import write_hdf5
        def fill(file):
            file["x"] = list(range(1000))
            file.flush()
            os._exit(9)
        write_hdf5({str(tmp_path / "m.h5")!r}, fill)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 9
    assert [p.name for p in tmp_path.iterdir()] == [".m.h5.part"]
    data.write_measurement(tmp_path / "m.h5", radar())
    assert [p.name for p in tmp_path.iterdir()] == ["m.h5"]
    assert data.validate(tmp_path / "m.h5", deep=True) == []


def test_second_writer_is_told(tmp_path):
    def fill(file):
        file["x"] = 1
        with pytest.raises(data.DataWriteError, match="another process at work"):
            write_hdf5(tmp_path / "m.h5", lambda file: None)

    write_hdf5(tmp_path / "m.h5", fill)
    with h5py.File(tmp_path / "m.h5") as f:
        assert f["x"][()] == 1


def test_second_writer_is_told_while_the_part_is_checked(tmp_path):
    def check(part):
        with pytest.raises(data.DataWriteError, match="another process at work"):
            write_hdf5(tmp_path / "m.h5", lambda file: None)
        with h5py.File(part) as f:  # a reader may look
            assert f["x"][()] == 1

    write_hdf5(tmp_path / "m.h5", lambda file: file.create_dataset("x", data=1), check)
    with h5py.File(tmp_path / "m.h5") as f:
        assert f["x"][()] == 1


def test_cleaning_up_leaves_the_part_that_is_checked(tmp_path):
    write_hdf5(
        tmp_path / "m.h5",
        lambda file: file.create_dataset("x", data=1),
        lambda part: remove_part(tmp_path / "m.h5"),
    )
    assert [p.name for p in tmp_path.iterdir()] == ["m.h5"]


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be renamed there")
@pytest.mark.parametrize("second", ["writer", "clean-up"])
def test_file_renamed_between_open_and_lock_stays_whole(second, tmp_path, monkeypatch):
    part, target = tmp_path / ".m.h5.part", tmp_path / "m.h5"
    part.write_bytes(b"finished")
    lock, third = atomic._lock, []

    def late(handle, path):
        if not target.exists():
            os.replace(part, target)  # the first writer ends here
            if second == "clean-up":
                third.append(atomic._Sink(part))  # and another one begins
        lock(handle, path)

    monkeypatch.setattr(atomic, "_lock", late)
    if second == "writer":
        atomic._Sink(part).close()
    else:
        remove_part(target)
    assert target.read_bytes() == b"finished"
    assert part.exists()
    for sink in third:
        sink.close()


def test_library_version_is_the_default(tmp_path):
    data.write_measurement(tmp_path / "m.h5", radar())
    assert (tmp_path / "m.h5").read_bytes()[8] == 0  # superblock version 0: HDF5 1.8 reads it


# -- what is not written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"modality": "sonar"}, "modality: expected one of mimo_radar"),
        ({"axes": ("frame", "tx", "rx")}, "/measurement/data: expected 3 dimensions"),
        ({"axes": ("frame", "tx", "rx", "channel")}, "/measurement/channel: expected a Scale"),
        ({"data": np.ones((1, 3, 4, 5))}, r"/measurement/data: expected complex64, got float64; convert"),
        ({"data": np.ones((1, 3, 4, 6), "c8")}, "/measurement/frequency: expected 6 values"),
        ({"units": "furlong"}, "/measurement/data@units"),
        ({"quantity": ""}, "/measurement/data@quantity"),
        ({"geometry": {"tx_position": 1}}, r"/geometry: expected names of .*did you mean 'tx_positions'\?"),
        ({"dictionary": {"factor_1": 1}}, "/dictionary: expected nothing for mimo_radar"),
        ({"calibration": {"offset": 1}}, "/calibration: expected names of"),
        ({"attrs": {"author": "me"}}, "attrs: expected names of"),
        ({"provenance": {"seed": object()}}, "/provenance/seed: expected text"),
        ({"provenance": {"input_file": "a\x00b"}}, "/provenance/input_file: expected text without null characters"),
        ({"attrs": {"title": "a\x00b"}}, "/@title: expected text without null characters"),
        ({"attrs": {"title": 3}}, "/@title: expected text, got 3"),
        ({"attrs": {"file_time": "yesterday"}}, "/@file_time: expected ISO 8601 with offset, got 'yesterday'"),
        ({"attrs": {"file_time": "2026-11-23T12:00:00"}}, "/@file_time: expected ISO 8601 with offset"),
        ({"mask": np.ones((0,), "u1"), "mask_axes": ("rx",)}, "/measurement/mask: expected length 4 or 1 along rx"),
        ({"calibration": {"mean_over": "t\x00x"}}, "/calibration@mean_over: expected text without null characters"),
        ({"geometry": {"downrange_axis": "x"}}, "/geometry@frame: expected the coordinate frame in words"),
        ({"acquisition": {"calibrated": "yes"}}, "/acquisition@calibrated: expected True or False"),
        ({"acquisition": {"waveform": 3}}, "/acquisition@waveform: expected text"),
        ({"mask": np.ones(3, "u1"), "mask_axes": ("rx",)}, "/measurement/mask"),
    ],
)
def test_measurement_that_breaks_the_format(changes, sentence, tmp_path):
    with pytest.raises(data.DataFormatError, match=sentence) as caught:
        data.write_measurement(tmp_path / "m.h5", radar(**changes))
    assert str(caught.value).startswith(str(tmp_path / "m.h5"))
    no_trace(tmp_path)


def test_fractional_index_is_not_rounded(tmp_path):
    m = radar(channel=True)
    geometry = {**m.geometry, "channel_tx": np.full(6, 0.5)}
    with pytest.raises(data.DataFormatError, match="/geometry/channel_tx: expected whole numbers"):
        data.write_measurement(tmp_path / "m.h5", radar(channel=True, geometry=geometry))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "fine"}, "status: expected one of complete"),
        ({"modality": "sonar"}, "modality: expected one of"),
        ({"uncertainty": np.zeros(3, "f4")}, "/volume/uncertainty: expected shape"),
        ({"metrics": {"psnr": data.Metric(value=np.zeros((2, 2)))}}, "/metrics/psnr"),
        ({"previews": {"mip_z": np.zeros((2, 2))}}, "/preview/mip_z: expected .* uint8"),
        (
            {"convergence": data.Convergence(columns={}, stop_reason="bored", converged=True, n_iterations=0)},
            "stop_reason: expected one of",
        ),
        (
            {
                "convergence": data.Convergence(
                    columns={"rho": np.ones(2), "sigma": np.ones(3)},
                    stop_reason="tolerance",
                    converged=True,
                    n_iterations=2,
                )
            },
            "/convergence: expected columns of one length",
        ),
        (
            {
                "convergence": data.Convergence(
                    columns={"speed": np.ones(2)}, stop_reason="tolerance", converged=True, n_iterations=2
                )
            },
            "/convergence/speed: expected a column of",
        ),
    ],
)
def test_reconstruction_that_breaks_the_format(changes, sentence, tmp_path):
    with pytest.raises(data.DataFormatError, match=sentence) as caught:
        data.write_reconstruction(tmp_path / "r.h5", reconstruction(**changes))
    assert str(caught.value).startswith(str(tmp_path / "r.h5"))
    no_trace(tmp_path)


def test_double_volume_is_not_cast(tmp_path):
    image = volume()
    double = data.Volume(data=image.data.astype("c16"), axes=image.axes, scales=image.scales, quantity=image.quantity)
    with pytest.raises(data.DataFormatError, match="expected complex64 or float32, got complex128"):
        data.write_reconstruction(tmp_path / "r.h5", reconstruction(volume=double))


def test_raw_counts_stay_integers(tmp_path):
    data.write_measurement(tmp_path / "m.h5", tomography(quantity="counts"))
    with h5py.File(tmp_path / "m.h5") as f:
        assert f["measurement/data"].dtype == np.uint16


def test_a_file_name_that_is_no_text(tmp_path):
    name = os.fsdecode(b"scans/b\xff.h5")
    m = radar(provenance={"input_file": name, "config": {"title": name}}, attrs={"title": name})
    data.write_measurement(tmp_path / "m.h5", m)
    read = data.read_measurement(tmp_path / "m.h5")
    assert read.provenance["input_file"] == read.attrs["title"] == "scans/b\\udcff.h5"


# -- what is filled in ----------------------------------------------------------------------------


def test_radar_geometry_gets_its_words(tmp_path):
    m = radar()
    geometry = {name: value for name, value in m.geometry.items() if name not in ("frame", "coordinates")}
    data.write_measurement(tmp_path / "m.h5", radar(geometry=geometry))
    assert data.validate(tmp_path / "m.h5") == []
    read = data.read_measurement(tmp_path / "m.h5").geometry
    assert (read["frame"], read["coordinates"]) == ("right-handed, z into the scene", ("x", "y", "z"))


def test_provenance_gets_a_date(tmp_path):
    data.write_measurement(tmp_path / "m.h5", radar(provenance={"program": "p"}))
    assert data.read_measurement(tmp_path / "m.h5").provenance["date"] == FIXED["file_time"]


def test_simulated_file_has_date_and_sequence_index(tmp_path):
    m = radar()
    simulated = mimo_radar(MimoRadarSimulation())
    assert simulated.provenance["sequence_index"] == 1
    data.write_measurement(tmp_path / "m.h5", radar(provenance=simulated.provenance))
    with h5py.File(tmp_path / "m.h5") as f:
        assert f["provenance/date"].asstr()[()] == m.attrs["file_time"]
        assert f["provenance/sequence_index"][()] == 1


def test_noise_without_axes_has_those_of_the_data(tmp_path):
    noise = np.full((1, 3, 4, 5), 0.5, np.float32)
    data.write_measurement(tmp_path / "m.h5", radar(noise_std=noise))
    read = data.read_measurement(tmp_path / "m.h5")
    assert (read.noise_std_axes, read.noise_std.shape) == (read.axes, noise.shape)


def test_convergence_has_every_standard_column(tmp_path):
    log = data.Convergence(
        columns={"objective": np.arange(3.0)}, stop_reason="tolerance", converged=True, n_iterations=3
    )
    data.write_reconstruction(tmp_path / "r.h5", reconstruction(convergence=log))
    with h5py.File(tmp_path / "r.h5") as f:
        group = f["convergence"]
        assert group.attrs["signal"] == "primal_residual"
        assert set(group) == {*COLUMNS, "iteration", "primal_residual", "rho", "elapsed"}
        assert np.isnan(group["primal_residual"][()]).all()
        np.testing.assert_array_equal(group["objective"], [0, 1, 2])


def test_frame_index_has_units(tmp_path):
    data.write_measurement(tmp_path / "m.h5", tomography())
    with h5py.File(tmp_path / "m.h5", "r+") as f:
        assert f["acquisition/frame_index"].attrs["units"] == "1"
        del f["acquisition/frame_index"].attrs["units"]
    assert len(data.read_measurement(tmp_path / "m.h5").acquisition["frame_index"]) == 6
