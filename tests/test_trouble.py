"""Full and read-only disks, inputs that vanish, may not be read or are damaged: a sentence, and the rest is done."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import pytest
from batch_cases import ROOT, cli, command, environment, process, scans

from pipelines import batch
from pipelines.progress import Silent

BP = ("-m", "backprojection")


def test_an_input_that_vanishes(tmp_path, capsys):
    files = scans(tmp_path / "scans", 3)
    options = batch.Options(inputs=(str(tmp_path / "scans"),), output=tmp_path / "out", method="backprojection")
    planned = batch.plan(options)
    files[1].unlink()
    assert batch.run(planned, options, Silent()) == 3
    assert [e.status for e in planned.entries] == ["done", "failed", "done"]
    said = capsys.readouterr().err
    assert str(files[1]) in said
    assert "Traceback" not in said


def test_a_damaged_chunk(tmp_path):
    files = scans(tmp_path / "scans", 3)
    with h5py.File(files[1], "r+") as f:
        data = f["measurement/data"]
        values, attrs = data[()], {k: v for k, v in data.attrs.items() if k not in ("DIMENSION_LIST",)}
        del f["measurement/data"]
        new = f.create_dataset("measurement/data", data=values, chunks=values.shape, compression=4, fletcher32=True)
        new.attrs.update(attrs)
        place = new.id.get_chunk_info(0)
    with files[1].open("r+b") as f:
        f.seek(place.byte_offset + place.size // 2)
        f.write(b"\xff" * 16)
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *BP)
    assert done.status == 3
    assert f"{files[1]}: /measurement/data: expected" in done.err
    assert len(done.out.split()) == 2


def test_a_permission_that_is_missing_is_not_tried_again(tmp_path, monkeypatch):
    """Simulated: root may read everything; see the slow test for the real thing."""
    files = scans(tmp_path / "scans", 2)
    import data.hdf5

    inner = data.hdf5.h5py.File

    def refusing(name, *rest, **more):
        if Path(os.fspath(name)).name == files[0].name if isinstance(name, str | os.PathLike) else False:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(name))
        return inner(name, *rest, **more)

    options = batch.Options(inputs=(str(tmp_path / "scans"),), output=tmp_path / "out", method="backprojection")
    planned = batch.plan(options)
    monkeypatch.setattr(data.hdf5.h5py, "File", refusing)
    assert batch.run(planned, options, Silent()) == 3
    assert [e.status for e in planned.entries] == ["failed", "done"]
    assert str(files[0]) in planned.entries[0].reason
    assert "Traceback" not in planned.entries[0].trace


def test_a_summary_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    scans(tmp_path / "scans", 2)
    inner = batch.write_text

    def full(path, text):
        if "summary" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        inner(path, text)

    monkeypatch.setattr(batch, "write_text", full)
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *BP)
    assert done.status == 3
    assert "summary.csv: expected to read and write here, found: No space left on device; free some space" in done.err
    assert len(done.out.split()) == 2


# -- real ones ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk in memory of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk takes root on Linux")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("-j", "1"), ("-j", "2"), ("-j", "2", "--scheduler", "dask")])
def test_a_disk_that_gets_full_and_is_made_larger(tmp_path, small_disk, more):
    scans(tmp_path / "scans", 12)
    arguments = ("reconstruct", "scans", "-o", "disk/out", *BP, *more)
    full = process(*arguments, cwd=tmp_path)
    assert full.status == 3, full.err
    assert "No space left on device; free some space" in full.err
    assert "Traceback" not in full.err
    there = {p.name: p.stat().st_mtime_ns for p in small_disk.rglob("*_recon.h5")}
    assert 0 < len(there) < 12
    assert not list(small_disk.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    again = process(*arguments, cwd=tmp_path)
    assert again.status == 0, again.err
    after = {p.name: p.stat().st_mtime_ns for p in small_disk.rglob("*_recon.h5")}
    assert len(after) == 12
    assert there.items() <= after.items()


@pytest.mark.slow
def test_an_output_that_is_read_only(tmp_path, small_disk):
    scans(tmp_path / "scans", 2)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    before = process("reconstruct", "scans", "-o", "disk/out", *BP, cwd=tmp_path)
    assert before.status == 2
    assert "expected a folder that can be written" in before.err


@pytest.mark.slow
def test_an_output_that_becomes_read_only(tmp_path, small_disk):
    scans(tmp_path / "scans", 100)
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    running = subprocess.Popen(
        command("reconstruct", "scans", "-o", "disk/out", *BP),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # refused while a file is open for writing
    while (
        not list(small_disk.rglob("*_recon.h5"))
        or subprocess.run(["mount", "-o", "remount,ro", small_disk], capture_output=True).returncode
    ):
        assert running.poll() is None
    _, said = running.communicate(timeout=300)
    assert running.returncode == 3, said
    assert "Read-only file system; check it and its folder" in said
    assert "summary: " in said
    assert "; summary in" not in said
    assert "Traceback" not in said
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    again = process("reconstruct", "scans", "-o", "disk/out", *BP, cwd=tmp_path)
    assert again.status == 0, again.err
    assert "already done" in again.err


@pytest.mark.slow
def test_a_file_that_may_not_be_read():
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o777)
        files = scans(folder / "scans", 3)
        files[1].chmod(0o600)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        known = {**environment(), "HOME": str(folder), "PYTHONPATH": str(ROOT)}
        arguments = command("reconstruct", "scans", "-o", "out", *BP)
        try:
            probe = subprocess.run([sys.executable, "-c", "import pipelines.cli"], env=known, user=65534, cwd=folder)
        except PermissionError:
            pytest.skip("another user may not run this Python")
        if probe.returncode:
            pytest.skip("another user may not import this checkout")
        done = subprocess.run(arguments, cwd=folder, env=known, user=65534, capture_output=True, text=True)
        assert done.returncode == 3, done.stderr
        assert "Permission denied" in done.stderr
        assert files[1].name in done.stderr
        assert len(done.stdout.split()) == 2
    finally:
        shutil.rmtree(folder)
