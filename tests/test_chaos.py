"""Two hundred files while workers and parents are killed: all done, each once, as a quiet run would have done them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from batch_cases import cli, command, environment, scans

from data import read_reconstruction
from pipelines import batch, executors
from pipelines.executors import ProcessPool
from pipelines.progress import Silent
from pipelines.reconstruct import Done

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
N_FILES = 200
METHOD = ("-m", "l1", "-s", "max_iter=3", "-s", "tol=1e-9")


class Watch(threading.Thread):
    """Notes the stamp of every result when it first sees it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.first, self.done = folder, dict[str, tuple[int, int]](), threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.05):
            for name, stamp in stamps(self.folder).items():
                self.first.setdefault(name, stamp)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.glob("*_recon.h5"):
        state = path.stat()
        found[path.name] = (state.st_mtime_ns, state.st_ino)
    return found


def workers_of(pid: int) -> list[int]:
    psutil = pytest.importorskip("psutil")
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [c.pid for c in children if any("spawn_main" in word for word in c.cmdline())]
    except psutil.Error:
        return []


def killing(running: list[subprocess.Popen], draw: random.Random) -> int:
    """Kill one worker of one of the commands; how many."""
    found = [pid for one in running if one.poll() is None for pid in workers_of(one.pid)]
    if not found:
        return 0
    try:
        os.kill(draw.choice(found), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def start(arguments, cwd: Path) -> subprocess.Popen:
    with (cwd / "log.txt").open("a") as log:
        return subprocess.Popen(command(*arguments), cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=log)


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([("--scheduler", "dask", "-j", "4")], id="dask"),
        pytest.param([("-j", "4")], id="pool"),
        pytest.param([("--shard", "1/2", "-j", "2"), ("--shard", "2/2", "-j", "2")], id="shards"),
    ],
)
def test_chaos(tmp_path, shares):
    if "dask" in shares[0]:
        pytest.importorskip("distributed")
    scans(tmp_path / "scans", N_FILES)
    out = tmp_path / "out"
    base = ("reconstruct", "scans", "-o", "out", *METHOD, "--progress", "plain", "--retries", "5")
    draw, killed, parents, there = random.Random(0), 0, 0, 0
    watch = Watch(out)
    watch.start()
    running = [start((*base, *more), tmp_path) for more in shares]
    clock = time.monotonic()
    codes: list[int | None] = [None] * len(shares)
    while None in codes:
        assert time.monotonic() - clock < 2400, (tmp_path / "log.txt").read_text()[-3000:]
        time.sleep(draw.uniform(4, 9))
        # workers are at work, and a last one is not hunted down: where none lives for seconds, nothing is done
        if there < len(stamps(out)) < N_FILES - 6:
            killed += killing(running, draw)
        if not parents and len(stamps(out)) > N_FILES // 3:
            running[0].kill()
            running[0].wait()
            parents, there = 1, len(stamps(out))
            running[0] = start((*base, *shares[0]), tmp_path)
        codes = [one.poll() for one in running]
    watch.done.set()
    watch.join()
    log = (tmp_path / "log.txt").read_text()
    print(
        json.dumps(
            {
                "workers killed": killed,
                "parents": parents,
                "s": time.monotonic() - clock,
                "retries": log.count("tried again"),
            }
        )
    )
    assert parents == 1
    assert killed >= 3
    assert codes == [0] * len(shares), log[-3000:]
    assert len(stamps(out)) == N_FILES
    assert stamps(out) == watch.first  # none was written twice
    assert not list(out.glob("*.part"))
    assert not list(out.glob(".*"))
    assert "Traceback" not in log
    serial = tmp_path / "serial"
    assert cli("reconstruct", tmp_path / "scans", "-o", serial, *METHOD).status == 0
    for path in serial.glob("*_recon.h5"):
        one, other = read_reconstruction(path), read_reconstruction(out / path.name)
        np.testing.assert_array_equal(one.volume.data, other.volume.data)
        assert one.provenance["input_sha256"] == other.provenance["input_sha256"]


# -- how many and how fast ----------------------------------------------------------------------------------


def own_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Instant:
    """Does nothing, at once."""

    def run(self, jobs, on_progress):
        for i in range(len(jobs)):
            on_progress(i, {})
            yield i, Done(status="complete", stop_reason="", n_iterations=0, seconds=0.0, metrics={"psnr": 20.0})


def test_ten_thousand_files_add_little_to_the_parent(tmp_path):
    (one,) = scans(tmp_path / "one")
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(10_000):
        os.link(one, folder / f"{i:05d}.h5")
    options = batch.Options(inputs=(str(folder),), output=tmp_path / "out", method="backprojection")
    batch.run(batch.plan(batch.Options(inputs=(str(one),), output=tmp_path / "warm", method="l1")), options, Silent())
    before, clock = own_memory(), time.monotonic()
    planned = batch.plan(options)
    assert batch.run(planned, options, Silent(), Instant()) == 0
    grown = own_memory() - before
    spent = (time.monotonic() - clock) / 10_000
    print(json.dumps({"MB": grown / 1e6, "ms per file": 1e3 * spent}))
    assert len(planned.entries) == 10_000
    assert grown < 100e6


def test_memory_is_flat_over_files(tmp_path):
    scans(tmp_path / "scans", 60)
    assert cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *METHOD).status == 0
    peaks = [read_reconstruction(p).provenance["peak_memory"] for p in sorted((tmp_path / "out").glob("*_recon.h5"))]
    print(json.dumps({"MB": [round(p / 1e6) for p in peaks[::10]]}))
    assert max(peaks[50:]) < 1.03 * max(peaks[5:15])


def test_two_processes_do_nearly_twice_as_much(tmp_path, monkeypatch):
    """Of work on one thread, which a denoiser does by counting, so that the memory's speed plays no part."""
    if executors.cpu_count() < 2 or os.getloadavg()[0] > 0.7:
        pytest.skip("needs two cores that nothing else uses")
    monkeypatch.chdir(tmp_path)
    scans(tmp_path / "scans", 24)
    (tmp_path / "own.py").write_text(
        "import time\n\n\ndef denoise(v, sigma):\n    end = time.thread_time() + 0.25\n"
        "    while time.thread_time() < end:\n        sum(range(10000))\n    return v\n"
    )
    spent = {}
    for n in (1, 2):
        options = batch.Options(
            inputs=("scans",),
            output=tmp_path / f"out{n}",
            method="pnp",
            denoiser="own.py:denoise",
            assignments=("ensemble=1", "max_iter=4", "tol=1e-9", "patience=none"),
        )
        planned = batch.plan(options)
        times: list[float] = []

        class Timed(Silent):
            def finished(self, index, entry, times=times):
                times.append(time.monotonic())

        assert batch.run(planned, options, Timed(), ProcessPool(n, threads=1)) == 0
        work = sum(e.seconds for e in planned.entries) / len(planned.entries)
        spent[n] = (times[-1] - times[3]) / (len(times) - 4)  # from when all workers are at work
        print(json.dumps({"processes": n, "s per file": spent[n], "overhead ms": 1e3 * (n * spent[n] - work)}))
        if n == 1:
            assert spent[1] - work < 0.05
    print(json.dumps({"throughput": spent[1] / spent[2]}))
    assert spent[1] / spent[2] > 1.7
