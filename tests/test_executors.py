"""Who does the jobs: what is tried again and what is not, shares of a job array, a cluster, two Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from batch_cases import cli, command, environment, process, scans, truncate

from data import DataFormatError, read_reconstruction
from imaging.errors import MemoryLimitError
from pipelines import batch, executors
from pipelines.batch import Options, parse_shard, plan, reconstruct_files
from pipelines.config import ConfigError
from pipelines.executors import Failure, InProcess, do, run_with_retries, visible_gpus
from pipelines.reconstruct import Done, reconstruct_file

BP = ("-m", "backprojection")
DONE = Done(status="complete", stop_reason="", n_iterations=0, seconds=0.1, metrics={})


def images(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: read_reconstruction(p).volume.data for p in sorted(folder.rglob("*_recon.h5"))}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


@pytest.fixture
def jobs(tmp_path):
    scans(tmp_path / "scans", 3)
    options = Options(inputs=(str(tmp_path / "scans"),), output=tmp_path / "out", method="backprojection")
    return plan(options).jobs


# -- tries --------------------------------------------------------------------------------------------------


class Scripted:
    """An executor whose outcomes are written down, file by file and try by try."""

    def __init__(self, script):
        self.script = {name: list(outcomes) for name, outcomes in script.items()}
        self.calls: list[list[str]] = []

    def run(self, jobs, on_progress):
        self.calls.append([job.source.name for job in jobs])
        for i in reversed(range(len(jobs))):
            on_progress(i, {})
            yield i, self.script[jobs[i].source.name].pop(0)


def test_what_may_pass_is_tried_again_and_bad_data_never(jobs, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(executors.time, "sleep", waits.append)
    died, full, bad = Failure("a", "worker", passing=True), Failure("b", "io"), Failure("c", "data")
    names = [job.source.name for job in jobs]
    scripted = Scripted({names[0]: [died, died, DONE], names[1]: [full], names[2]: [bad]})
    began: list[int] = []
    told: list[tuple[int, str]] = []
    outcomes = dict(
        run_with_retries(
            scripted,
            jobs,
            lambda index, row: began.append(index),
            retries=2,
            on_retry=lambda index, failure: told.append((index, failure.reason)),
        )
    )
    assert outcomes == {0: DONE, 1: full, 2: bad}
    assert scripted.calls == [names, names[:1], names[:1]]
    assert began == [2, 1, 0, 0, 0]
    assert told == [(0, "a"), (0, "a")]
    assert waits == [1.0, 2.0]


def test_the_last_try_counts(jobs, monkeypatch):
    monkeypatch.setattr(executors, "RETRY_WAIT_S", 0.0)
    last = Failure("second", "memory", passing=True)
    scripted = Scripted({jobs[0].source.name: [Failure("first", "memory", passing=True), last]})
    assert list(run_with_retries(scripted, jobs[:1], lambda i, row: None, retries=1)) == [(0, last)]


def test_a_worker_that_died_after_its_work_has_done_it(jobs):
    reconstruct_file(jobs[0])
    scripted = Scripted({jobs[0].source.name: [Failure("died", "worker", passing=True)]})
    ((_, outcome),) = run_with_retries(scripted, jobs[:1], lambda i, row: None, retries=2)
    assert isinstance(outcome, Done)
    assert outcome.metrics["measurement_residual"] > 0
    assert len(scripted.calls) == 1


def test_a_result_that_is_there_is_not_made_again(jobs):
    reconstruct_file(jobs[0])
    stamp = jobs[0].target.stat().st_mtime_ns
    assert isinstance(do(jobs[0], lambda row: None), Done)
    assert jobs[0].target.stat().st_mtime_ns == stamp


def _worded():
    try:
        raise OSError(errno.ESTALE, "Stale file handle")
    except OSError as error:
        raise DataFormatError("scan.h5: cannot be read") from error


@pytest.mark.parametrize(
    ("error", "kind", "passing"),
    [
        (OSError(errno.EIO, "Input/output error"), "io", True),
        (OSError(errno.ENOSPC, "No space left on device"), "io", False),
        (PermissionError(errno.EACCES, "Permission denied"), "io", False),
        (FileNotFoundError(errno.ENOENT, "No such file"), "io", False),
        (MemoryError(), "memory", True),
        (RuntimeError("[enforce fail] can't allocate memory: 1 PB"), "memory", True),
        (MemoryLimitError("expected a memory limit of at least 1 kB"), "memory", False),
        (None, "io", True),
        (KeyError("defect"), "unexpected", False),
    ],
    ids=str,
)
def test_which_failures_may_pass(jobs, monkeypatch, error, kind, passing):
    def failing(job, **_):
        if error is None:
            _worded()
        raise error

    monkeypatch.setattr("pipelines.reconstruct.reconstruct_file", failing)
    outcome = do(jobs[0], lambda row: None)
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.passing) == (kind, passing)


def test_an_error_that_passes_is_said_and_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "RETRY_WAIT_S", 0.0)
    files = scans(tmp_path / "scans", 2)
    failed: list[Path] = []

    def shaky(job, **_):
        if job.source == files[0] and not failed:
            failed.append(job.source)
            raise OSError(errno.EIO, "Input/output error", str(job.source))
        return reconstruct_file(job)

    monkeypatch.setattr("pipelines.reconstruct.reconstruct_file", shaky)
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *BP)
    assert done.status == 0, done.err
    assert f"will be tried again: {files[0]}: expected to read and write here, found: Input/output error" in done.err
    assert done.err.count("will be tried again") == 1


DEADLY = """
import os, signal
def denoise(v, sigma):
    try:
        os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return v
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("scheduler", [pytest.param("local", marks=pytest.mark.slow), "dask"])
def test_a_killed_worker_costs_nothing(tmp_path, scheduler, monkeypatch):
    pytest.importorskip("distributed")
    scans(tmp_path / "scans", 4)
    (tmp_path / "deadly.py").write_text(DEADLY.format(flag=str(tmp_path / "flag")))
    args = ("-m", "pnp", "-d", "deadly.py:denoise", "-s", "max_iter=2")
    done = process("reconstruct", "scans", "-o", "out", *args, "-j", "2", "--scheduler", scheduler, cwd=tmp_path)
    assert done.status == 0, done.err
    assert len(done.out.splitlines()) == 4
    assert "Traceback" not in done.err
    monkeypatch.chdir(tmp_path)
    alone = cli("reconstruct", "scans", "-o", "alone", *args)
    assert alone.status == 0, alone.err
    assert same(images(tmp_path / "out"), images(tmp_path / "alone"))
    assert not list((tmp_path / "out").glob(".*"))


# -- shards -------------------------------------------------------------------------------------------------


def test_shards_share_the_files_and_none_is_done_twice(tmp_path):
    scans(tmp_path / "scans", 5)
    out = tmp_path / "out"
    seen: list[str] = []
    for i in (1, 2, 3):
        done = cli("reconstruct", tmp_path / "scans", "-o", out, *BP, "--shard", f"{i}/3")
        assert done.status == 0, done.err
        seen += done.out.split()
        listed = json.loads((out / f"summary.{i}-of-3.json").read_text())["files"]
        assert [entry["result"] for entry in listed] == done.out.split()
    assert sorted(seen) == sorted(str(p) for p in out.glob("*_recon.h5"))
    assert len(seen) == 5
    whole = cli("reconstruct", tmp_path / "scans", "-o", out, *BP)
    assert "5 already done" in whole.err
    (out / "summary.json").unlink()
    assert cli("report", out).status == 0
    assert (out / "report.csv").read_text().count(",done,") == 5


def test_a_shard_may_be_empty(tmp_path):
    (one,) = scans(tmp_path / "scans")
    done = cli("reconstruct", one, "-o", tmp_path / "out", *BP, "--shard", "2/2")
    assert done.status == 0
    assert "no files here" in done.err


@pytest.mark.parametrize(
    ("array", "task", "shard"),
    [
        ((1, 8, 8), 3, (3, 8)),
        ((0, 7, 8), 7, (8, 8)),
        ((0, 14, 8), 4, (3, 8)),
        ((5, 5, 1), 5, (1, 1)),
        ((1, 8, 3), 4, None),
    ],
)
def test_the_shard_of_a_slurm_array(monkeypatch, array, task, shard):
    for name, value in zip(("MIN", "MAX", "COUNT", "ID"), (*array, task), strict=True):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    if shard is None:
        with pytest.raises(ConfigError, match="equal steps"):
            parse_shard("slurm")
    else:
        assert parse_shard("slurm") == shard


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "a/b", "3", "", "-1/3", "1/2/3", "slurm"])
def test_no_shard(monkeypatch, text):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(ConfigError, match="--shard"):
        parse_shard(text)


# -- a cluster ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """Two workers that are threads of this process."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_any_client_gives_what_one_process_gives(tmp_path, client, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truncate(scans(Path("scans"), 5)[2])
    options = {"assignments": ("max_iter=3",)}
    entries = reconstruct_files(["scans"], "out", "l1", client=client, **options)
    assert [entry.status for entry in entries] == ["done", "done", "failed", "done", "done"]
    assert "truncated" in entries[2].reason
    reconstruct_files(["scans"], "alone", "l1", **options)
    assert same(images(Path("out")), images(Path("alone")))
    assert [e.status for e in reconstruct_files(["scans"], "out", "l1", client=client, **options)].count("skipped") == 4


def test_a_cluster_tells_of_iterations(tmp_path, client):
    from pipelines.dask_executor import Dask

    scans(tmp_path / "scans", 2)
    options = Options(
        inputs=(str(tmp_path / "scans"),), output=tmp_path / "out", method="l1", assignments=("max_iter=3",)
    )
    (tmp_path / "out").mkdir()
    rows: list[tuple[int, int]] = []
    outcomes = Dask(client).run(plan(options).jobs, lambda i, row: rows.append((i, row.get("iteration", 0))))
    assert {i for i, _ in outcomes} == {0, 1}
    assert {(0, 0), (1, 0)} <= set(rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--scheduler-address", "tcp://127.0.0.1:9"), "--scheduler-address tcp://127.0.0.1:9: expected a dask"),
        (("--scheduler-address", "nonsense://x"), "--scheduler-address nonsense://x: expected a dask"),
        (("--shard", "5/4"), "--shard 5/4"),
        (("--retries", "-1"), "--retries"),
    ],
)
def test_schedulers_that_are_not_there(tmp_path, monkeypatch, arguments, words):
    pytest.importorskip("distributed")
    monkeypatch.setattr("pipelines.dask_executor.CONNECT_S", 0.3)
    (one,) = scans(tmp_path / "scans")
    done = cli("reconstruct", one, "-o", tmp_path / "out", *BP, *arguments)
    assert done.status == 2
    assert words in done.err


@pytest.mark.slow
def test_a_scheduler_that_goes_leaves_a_folder_to_go_on_with(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    scans(tmp_path / "scans", 4)
    (tmp_path / "slow.py").write_text("import time\ndef denoise(v, sigma):\n    time.sleep(0.7)\n    return v\n")
    module = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    where = {"cwd": tmp_path, "env": environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*module, "--port", "18786", "--no-dashboard"], **where)
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", "tcp://127.0.0.1:18786", "--nthreads", "1", "--no-nanny"],
        **where,
    )
    args = ("reconstruct", "scans", "-o", "out", "-m", "pnp", "-d", "slow.py:denoise", "-s", "max_iter=3")
    try:
        running = subprocess.Popen(
            command(*args, "--scheduler-address", "tcp://127.0.0.1:18786"),
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        end = time.monotonic() + 60
        while not list((tmp_path / "out").glob("*_recon.h5")):
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.05)
        scheduler.kill()
        _, err = running.communicate(timeout=120)
    finally:
        for one in (scheduler, worker):
            one.kill()
            one.wait()
    assert running.returncode == 3, err
    assert "scheduler has gone" in err
    again = process(*args, cwd=tmp_path)
    assert again.status == 0, again.err
    assert "already done" in again.err
    assert not list((tmp_path / "out").glob(".*"))


# -- stopping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_second_ctrl_c_stops_at_once(tmp_path, jobs):
    scans(tmp_path / "scans", 2)
    (tmp_path / "deaf.py").write_text(
        "import time\n"
        "def denoise(v, sigma):\n"
        f"    open({str(tmp_path / 'begun')!r}, 'w').close()\n"
        "    end = time.monotonic() + 60\n"
        "    while time.monotonic() < end:\n"
        "        try:\n"
        "            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n"
        f"            open({str(tmp_path / 'asked')!r}, 'w').close()\n"
        "    return v\n"
    )
    args = ("reconstruct", "scans", "-o", "out", "-m", "pnp", "-d", "deaf.py:denoise", "-s", "max_iter=2", "-j", jobs)
    with subprocess.Popen(
        command(*args), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            _until((tmp_path / "begun").exists)
            running.send_signal(signal.SIGINT)
            _until((tmp_path / "asked").exists, 4.0)
            clock = time.monotonic()
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 130
    assert time.monotonic() - clock < 2
    assert "Traceback" not in err


def _until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_every_worker_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7")
    gpus = visible_gpus()
    assert gpus == ["3", "GPU-7"]
    assert [executors._turn(gpus, i) for i in range(3)] == ["3", "GPU-7", "3"]
    with executors._environment(2, "GPU-7"):
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]) == ("GPU-7", "2")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3, GPU-7"
    with executors._environment(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3, GPU-7"


def test_the_executor_that_the_options_say(tmp_path):
    options = Options(inputs=(), output=tmp_path, jobs=3)
    with batch._executor(options, 2, None) as pool:
        assert isinstance(pool, executors.ProcessPool)
        assert pool.n_workers == 2
    with batch._executor(options, 0, None) as here:
        assert isinstance(here, InProcess)
