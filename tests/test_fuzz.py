"""No file brings the commands down: no traceback, no hang, no large allocation, nothing outside of the folders touched.

``make check-slow`` runs 2000 mutants; to see one of them again: python tests/test_fuzz.py NUMBER.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from batch_cases import ROOT, environment
from foreign_cases import CASES
from fuzz_cases import BYTES, mutant_hdf5, mutant_list, mutant_toml, seeds
from fuzz_worker import LIMIT_BYTES

from data import DataFormatError, read

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches the process through /proc and inotify")

SECONDS = 5.0
FEW, MANY = 100, 2000
STATUSES = (0, 1, 2, 3)
#: A method without a network for each kind of good file; back-projection for the others.
DIRECT = {
    **dict.fromkeys(("parallel", "fan", "cone", "vectors", "counts", "t", "d"), "fbp"),
    **dict.fromkeys(("mri", "f", "i"), "adjoint"),
    "irs": "ls",
}


class Worker:
    """The commands in a process that lives through many of them, and is started again when it does not."""

    def __init__(self, root: Path, warm: list[list[str]]) -> None:
        self.root, self.warm = root, warm
        self.started = 0
        self.start()

    def start(self) -> None:
        script = [sys.executable, str(ROOT / "tests" / "fuzz_worker.py"), str(self.root)]
        self.process = subprocess.Popen(
            [*script, *map(json.dumps, self.warm)],
            cwd=self.root / "good",
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.started += 1
        ready = self.answer(60)
        if ready != b"ready\n":
            self.process.kill()
            raise AssertionError(self.process.communicate()[1].decode())

    def answer(self, seconds: float) -> bytes | None:
        """A line; None when none comes in time, of the processor or ten times that of the clock; b"" at the end.

        Other processes may have the processor meanwhile.
        """
        deadline, used, line = time.monotonic() + 10 * seconds, self.processor_s(), b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], 0.5)
            if not ready:
                if time.monotonic() > deadline or self.processor_s() > used + seconds:
                    return None
                continue
            piece = os.read(self.process.stdout.fileno(), 2**16)
            if not piece:
                return b""
            line += piece
        return line

    def processor_s(self) -> float:
        """Seconds that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, arguments: list[str]) -> tuple[dict, list[str]]:
        """What a command did, and what was wrong with it."""
        self.process.stdin.write(json.dumps(arguments).encode() + b"\n")
        line = self.answer(SECONDS)
        if not line:
            what = f"hangs for {SECONDS:g} s" if line is None else "ends the process"
            self.stop()
            self.start()
            return {}, [what]
        ran = json.loads(line)
        wrong = []
        if ran["crash"] or "Traceback" in ran["err"]:
            wrong.append(f"traceback: {ran['crash'] or ran['err']}")
        if ran["status"] not in STATUSES:
            wrong.append(f"exit status {ran['status']}")
        if ran["status"] and not (ran["err"] + ran["out"]).strip():
            wrong.append(f"exit status {ran['status']} without a word")
        if ran["bytes"] > LIMIT_BYTES or "MemoryError" in ran["err"] or "BC115" in ran["out"] + ran["err"]:
            wrong.append(f"memory: {ran['bytes'] / 2**20:.0f} MiB, {ran['err'][:300]}")
        if ran["touched"]:
            wrong.append(f"touched {ran['touched']}")
        return ran, wrong

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


class Inotify:
    """Tells when anything in a folder was opened, also by a C library."""

    EVENTS = 0x20 | 0x1 | 0x2 | 0x100 | 0x200  # open, access, modify, create, delete

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.handle = libc.inotify_init1(os.O_NONBLOCK)
        if self.handle < 0 or libc.inotify_add_watch(self.handle, os.fsencode(folder), self.EVENTS) < 0:
            pytest.skip("inotify is not to be had here")

    def events(self) -> bytes:
        try:
            return os.read(self.handle, 2**16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self.handle)


def prepare(root: Path) -> tuple[list[Path], list[Path]]:
    """Good files, a folder for mutants, one for results, and one that nobody may look into."""
    hdf5, tomls = seeds(root / "good")
    for name in ("out", "mutants", "outside"):
        (root / name).mkdir()
    shutil.copy(root / "good" / "radar.h5", root / "outside" / "canary.h5")
    (root / "outside" / "canary.raw").write_bytes(bytes(2**16))
    return hdf5, tomls


def commands(number: int, root: Path, hdf5: list[Path], tomls: list[Path]) -> tuple[str, list[list[str]]]:
    """Mutant number `number`: what was done, and the commands that are to survive it."""
    g = np.random.default_rng((1, number))
    mutants, out = root / "mutants", ["-o", str(root / "out")]
    shutil.rmtree(mutants)
    mutants.mkdir()
    kind = number % 20
    if kind < 13:
        source = hdf5[int(g.integers(len(hdf5)))]
        target = mutants / f"m{number}{source.suffix}"
        words = mutant_hdf5(source, target, g)
        toml = source.with_name(source.name + ".toml")
        if toml.exists():
            shutil.copy(toml, target.with_name(target.name + ".toml"))
        deep = ["--deep"] if number % 2 else []
        name = str(target)
        # the default of most modalities is a network, which takes its time
        method = [] if number % 5 == 0 else ["-m", DIRECT.get(source.stem.partition("-")[0], "backprojection")]
        return f"{source.name}: {words}", [
            ["info", name],
            ["validate", *deep, name],
            ["reconstruct", "-n", name, *method, *out],
        ]
    if kind == 13:
        words = mutant_list(mutants / "list.txt", g)
        return f"list: {words}", [["reconstruct", "-n", f"@{mutants / 'list.txt'}", "-m", "backprojection", *out]]
    source = tomls[int(g.integers(len(tomls)))]
    if source.name.endswith((".npz.toml", ".mat.toml", ".cfl.toml")) or source.name == "mapping.toml":
        stem = {"mapping.toml": "s21.npy"}.get(source.name, source.name.removesuffix(".toml"))
        for path in source.parent.glob(f"{stem.partition('.')[0]}.*"):
            shutil.copy(path, mutants)
        words = mutant_toml(source, mutants / source.name, g)
        name = str(mutants / stem)
        return f"{source.name}: {words}", [["info", name], ["validate", name], ["reconstruct", "-n", name, *out]]
    words = mutant_toml(source, mutants / "config.toml", g)
    name = str(mutants / "config.toml")
    scan = str(root / "good" / "radar.h5")
    return f"{source.name}: {words}", [
        ["config", "check", name],
        ["config", "show", "-c", name],
        ["reconstruct", "-n", scan, "-c", name, *out],
    ]


def fuzz(root: Path, numbers: range) -> tuple[list[str], dict[str, float]]:
    """What was wrong, and figures."""
    hdf5, tomls = prepare(root)
    good, out = str(root / "good" / "radar.h5"), str(root / "out")
    warm = [["info", good], ["validate", "--deep", good], ["reconstruct", "-n", good, "-o", out]]
    warm += [["info", str(path)] for path in hdf5 if path.stem in ("i", "f", "seven")]
    warm += [["config", "check", str(tomls[0])], ["reconstruct", "-n", str(root / "good"), "-o", out]]
    worker, watch = Worker(root, warm), Inotify(root / "outside")
    failures, slowest, most = [], 0.0, 0
    statuses: Counter[object] = Counter()
    watch.events()
    began = time.monotonic()
    try:
        for number in numbers:
            words, run = commands(number, root, hdf5, tomls)
            watch.events()  # making the mutant may have looked there
            for arguments in run:
                ran, wrong = worker.run(arguments)
                if watch.events():
                    wrong.append("opened a file of outside/")
                failures += [f"mutant {number} ({words}), {arguments[0]}: {one}" for one in wrong]
                statuses[ran.get("status")] += 1
                slowest, most = max(slowest, ran.get("seconds", 0)), max(most, ran.get("bytes", 0))
                if arguments[0] == "reconstruct" and ran:
                    targets = [line.partition(" -> ")[2].partition(" (")[0] for line in ran["out"].splitlines()]
                    failures += [
                        f"mutant {number} ({words}): would write {target}"
                        for target in targets
                        if target and not Path(os.path.realpath(target)).is_relative_to(root / "out")
                    ]
    finally:
        worker.stop()
        watch.close()
    figures = {
        "mutants": len(numbers),
        "commands": sum(statuses.values()),
        "refused": sum(n for status, n in statuses.items() if status),
        "slowest_s": round(slowest, 3),
        "most_mib": round(most / 2**20, 1),
        "seconds": round(time.monotonic() - began, 1),
        "workers": worker.started,
    }
    assert list((root / "out").iterdir()) == []  # dry runs
    return failures, figures


def test_few_mutants(tmp_path):
    failures, figures = fuzz(tmp_path, range(FEW))
    assert not failures, "\n".join(failures)
    assert figures["refused"] > FEW


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutants(tmp_path):
    failures, figures = fuzz(tmp_path, range(MANY))
    print(json.dumps(figures))
    assert not failures, f"{len(failures)}:\n" + "\n".join(failures)


@pytest.mark.parametrize(
    ("number", "seed"), [(60, 1), pytest.param(2000, 2, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize("name", ["matlab5", "ieee-dataport", "matlab5-kspace", "npz", "npy", "bart"])
def test_other_files_with_wrong_bytes(name, number, seed, tmp_path):
    """They are read, or refused in one sentence; readers that would take the process down are not used."""
    source, _ = CASES[name].write(tmp_path)
    files = [source, *([source.with_suffix(".hdr")] if name == "bart" else [])]
    refused = 0
    for i in range(number):
        g = np.random.default_rng((seed, i))
        target = files[i % len(files)]
        good = target.read_bytes()
        content = bytearray(good)
        for _ in range(int(g.integers(1, 3))):
            content = BYTES[int(g.integers(len(BYTES)))](content, g) if content else content
        target.write_bytes(content)
        with contextlib.suppress(DataFormatError):
            read(source)
            refused -= 1
        refused += 1
        target.write_bytes(good)
    assert refused > number / 10


def test_the_watchers_see(tmp_path):
    """Else the tests above would pass for want of eyes."""
    hdf5, _ = prepare(tmp_path)
    watch = Inotify(tmp_path / "outside")
    with h5py.File(tmp_path / "outside" / "canary.h5"):
        pass
    assert watch.events()
    watch.close()
    worker = Worker(tmp_path, [["info", str(hdf5[0])]])
    _, wrong = worker.run(["info", str(tmp_path / "outside" / "canary.h5")])
    assert any("touched" in w for w in wrong), wrong
    ran, wrong = worker.run(["convert", str(tmp_path / "good" / "f.h5"), "-o", str(tmp_path / "elsewhere.h5")])
    worker.stop()
    assert any("elsewhere" in w for w in wrong), (ran, wrong)


if __name__ == "__main__":
    import tempfile

    for wanted in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            print(*fuzz(Path(folder).resolve(), range(wanted, wanted + 1)), sep="\n")
