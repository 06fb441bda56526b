"""A long solve that was killed goes on where it was, and ends with the image it would have had."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest
from batch_cases import cli, command, environment, process, scans

from data import read_reconstruction
from pipelines import batch, checkpoint, irs_mimo
from pipelines.config import resolve
from pipelines.methods import METHODS
from pipelines.reconstruct import Job, identity, reconstruct_file
from pipelines.simulate import simulate_files

SMALL = {
    "mimo_radar": (
        *("array_parameters={n_tx=4, n_rx=3}", "n_frequencies=4", "target=points", "frames=10"),
        *("grid.origin_m=[0.4,-0.06,-0.06]", "grid.spacing_m=[0.012,0.012,0.012]", "grid.shape=[11,11,11]"),
    ),
    "tomography": ("n=24", "n_instants=12"),
    "mri": ("n=32", "n_coils=3", "n_frames=6", "object=heart", "motion=beating", "calibration=8"),
    "irs_mimo": (
        *("grid_irs=6", "grid_tx=6", "grid_rx=6", "n_rx=6", "n_irs=16", "n_frames=5"),
        *("paths_rx=1", "paths_irs=1", "snr_db=20"),
    ),
}
#: Settings that make them short.
SHORT = {
    "solver": ("solver.max_iter=6", "solver.tol=1e-30"),
    "omp": ("omp.max_atoms=4",),
    "komp": ("komp.max_per_factor=2",),
}
ITERATIVE = [(k, m) for m in METHODS for k in m.modalities if m.kind != "direct"]
QUICK = {
    ("mimo_radar", "l1"),
    ("tomography", "psm"),
    ("mri", "lps"),
    ("irs_mimo", "krosbl-mm"),
    ("irs_mimo", "offgrid"),
}


class Killed(Exception):
    """As good as kill -9: nothing after it is done."""


def job_of(method, source, target, **more):
    names = [name for name in SHORT if hasattr(method.config(), name)]
    assignments = [a for name in names for a in SHORT[name]]
    if method.name == "krosbl-mm":
        assignments.append("solver.first=2")
    if method.name == "offgrid":
        assignments += ["dictionary.n_irs=8", "dictionary.n_tx=6", "dictionary.n_rx=6"]
    config = resolve(method.config, [], assignments, name=method.name)
    text, sha = identity(method, config)
    spec = config.denoiser.file if method.takes_denoiser else ""
    return Job(
        source=source,
        target=target,
        method=method,
        config=config,
        config_json=text,
        config_sha256=sha,
        denoiser=spec,
        checkpoint_s=0.0,
        **more,
    )


def lines(target):
    rows = [json.loads(t) for t in target.with_name(f"{target.stem}.log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "elapsed"} for row in rows]


@pytest.mark.parametrize(
    ("modality", "method"),
    [
        pytest.param(k, m, id=f"{k}-{m.name}", marks=() if (k, m.name) in QUICK else pytest.mark.slow)
        for k, m in ITERATIVE
    ],
)
def test_a_killed_solve_ends_as_if_it_had_not_been(tmp_path, monkeypatch, modality, method):
    monkeypatch.setattr(irs_mimo, "BATCH_BYTES", 2 * irs_mimo.COPIES * 16 * 6**3)  # several parts
    (source,) = simulate_files(modality, tmp_path / "in", seed=3, assignments=SMALL[modality])
    whole = job_of(method, source, tmp_path / "whole.h5")
    reconstruct_file(whole)
    wanted = read_reconstruction(whole.target)
    n_rows = len(lines(whole.target))
    assert n_rows > 2
    for share in (0.3, 0.75):
        cut = job_of(method, source, tmp_path / f"cut{share}.h5")
        said = 0

        def kill(row, share=share):
            nonlocal said
            said += 1
            if said > share * n_rows:
                raise Killed

        with pytest.raises(Killed):
            reconstruct_file(cut, on_iteration=[kill])
        assert not cut.target.exists()
        begun = checkpoint.place_of(cut.target).exists()
        again = []
        reconstruct_file(job_of(method, source, cut.target, resume=True), on_iteration=[again.append])
        assert len(again) < n_rows or not begun
        found = read_reconstruction(cut.target)
        np.testing.assert_array_equal(found.volume.data, wanted.volume.data)
        for name in ("uncertainty", "channel"):
            one, other = getattr(found, name), getattr(wanted, name)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(getattr(one, "data", one), getattr(other, "data", other))
        assert lines(cut.target) == lines(whole.target)
        assert {k: m.value.tolist() if hasattr(m.value, "tolist") else m.value for k, m in found.metrics.items()} == {
            k: m.value.tolist() if hasattr(m.value, "tolist") else m.value for k, m in wanted.metrics.items()
        }
        assert not checkpoint.place_of(cut.target).exists()


PNP = ("-m", "pnp", "-s", "ensemble=1", "-s", "max_iter=8", "-s", "tol=1e-9", "-s", "patience=none")


def denoiser_file(folder, *, seconds=0.0, fails_at=99):
    """A denoiser that takes its time, or fails."""
    file = folder / "own.py"
    file.write_text(
        "import time\n\nn = 0\n\n\ndef denoise(v, sigma):\n    global n\n    n += 1\n"
        f"    if n == {fails_at}:\n        raise ZeroDivisionError('no')\n"
        f"    time.sleep({seconds})\n    return v * 0.99\n"
    )
    return f"{file}:denoise"


@pytest.fixture
def begun(tmp_path):
    """Arguments of a run that was killed after four of eight iterations, and its result."""
    scans(tmp_path / "scans")
    arguments = ("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *PNP, "-d", denoiser_file(tmp_path))
    options = batch.Options(
        inputs=(str(tmp_path / "scans"),),
        output=tmp_path / "out",
        method="pnp",
        assignments=PNP[3::2],
        denoiser=denoiser_file(tmp_path),
        checkpoint_s=0.0,
    )
    (one,) = batch.plan(options).jobs

    def kill(row):
        if row["iteration"] > 4:
            raise Killed

    with pytest.raises(Killed):
        reconstruct_file(one, on_iteration=[kill])
    return arguments, one.target


def test_another_configuration_is_refused_unless_told(begun):
    arguments, target = begun
    with h5py.File(checkpoint.place_of(target)) as file:  # no pickle: numbers and JSON
        assert file.attrs["format"] == checkpoint.FORMAT
        assert json.loads(file["words"][()].tobytes())["rows"]
    other = cli(*arguments, "--resume", "-s", "alpha=0.02")
    assert other.status == 1
    assert "expected a checkpoint to go on from that is of this configuration, found one of another" in other.err
    assert checkpoint.place_of(target).exists()
    told = cli(*arguments, "--resume", "--overwrite", "-s", "alpha=0.02")
    assert told.status == 0, told.err
    assert "interrupted run" not in read_reconstruction(target).provenance["notes"]
    assert not list(target.parent.glob(".*"))


def test_another_input_is_refused(tmp_path, begun):
    arguments, target = begun
    (scan,) = (tmp_path / "scans").iterdir()
    with h5py.File(scan, "r+") as file:
        file.attrs["title"] = "another"
    other = cli(*arguments, "--resume")
    assert "is of this input, found one of another" in other.err
    assert cli(*arguments).status == 0  # without --resume nothing of it is used
    assert "interrupted run" not in read_reconstruction(target).provenance["notes"]


def test_a_damaged_checkpoint_is_said_and_the_file_begun_anew(begun):
    arguments, target = begun
    with h5py.File(checkpoint.place_of(target), "r+") as file:
        del file["run/state"]
    again = cli(*arguments, "--resume")
    assert again.status == 0, again.err
    assert "checkpoint: damaged, so the file was begun anew" in again.err
    assert len(lines(target)) == 8


def test_files_that_fail_leave_no_checkpoint(tmp_path):
    (one,) = scans(tmp_path / "scans")
    arguments = (*PNP, "-d", denoiser_file(tmp_path, fails_at=4), "--checkpoint", "0")
    done = cli("reconstruct", one, "-o", tmp_path / "out", *arguments)
    assert done.status == 1
    assert "unexpected ZeroDivisionError" in done.err
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_killed_in_the_middle_then_resumed(tmp_path, sent):
    scans(tmp_path / "scans")
    denoiser = denoiser_file(tmp_path, seconds=0.3)
    arguments = ("reconstruct", "scans", "-o", "out", *PNP, "-d", denoiser, "--checkpoint", "0")
    target = tmp_path / "out/mimo_radar_0000_recon.h5"
    place = checkpoint.place_of(target)
    running = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not place.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(sent)
    running.wait(timeout=60)
    assert place.exists()
    again = process(*arguments, "--resume", cwd=tmp_path)
    assert again.status == 0, again.err
    result = read_reconstruction(target)
    assert "of an interrupted run" in result.provenance["notes"]
    assert [row["iteration"] for row in lines(target)] == list(range(1, 9))
    assert not list(target.parent.glob(".*"))
    whole = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "whole", *PNP, "-d", denoiser)
    assert whole.status == 0
    wanted = read_reconstruction(tmp_path / "whole/mimo_radar_0000_recon.h5")
    np.testing.assert_allclose(
        result.volume.data, wanted.volume.data, rtol=1e-5, atol=1e-6 * np.abs(wanted.volume.data).max()
    )
