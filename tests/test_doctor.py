"""The doctor finds what is wrong, says what to do, and never dies of it."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from pathlib import Path

import pytest
from batch_cases import cli

from pipelines import doctor
from pipelines.doctor import Check, examine, report


def status_of(checks, name):
    return next(c for c in checks if c.name == name).status


def test_a_healthy_installation(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    done = cli("doctor")
    assert done.status == 0, done.out
    assert "all is well" in done.out
    names = {c["name"] for c in json.loads(cli("doctor", "--json").out)}
    assert {"backcast", "python", "torch", "h5py", "device cpu", "names", "packages", "temporary folder"} <= names


def test_a_name_that_two_distributions_own(monkeypatch):
    owners = {"denoisers": ["backcast", "denoisers"], "numpy": ["numpy"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    done = cli("doctor")
    assert done.status == 1
    assert "owned by backcast and denoisers" in done.out
    assert "pip uninstall denoisers" in done.out


def test_a_file_that_hides_a_package(monkeypatch):
    monkeypatch.setattr(doctor, "shadowing_file", lambda p: Path("/home/me/data.py") if p == "data" else None)
    (wrong,) = (c for c in examine() if c.name == "package data")
    assert wrong.status == "wrong"
    assert "/home/me/data.py" in wrong.found


def test_a_missing_and_a_broken_dependency(monkeypatch):
    def version(name):
        if name == "finufft":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    def load(name):
        if name == "scipy":
            raise OSError("libfoo.so: no such file")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor.importlib, "import_module", load)
    checks = doctor._versions()
    assert status_of(checks, "finufft") == "wrong"
    assert status_of(checks, "scipy") == "wrong"
    assert status_of(checks, "numpy") == "good"


def test_a_temporary_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "gone"))
    assert status_of(doctor._writing(), "temporary folder") == "wrong"


@pytest.mark.parametrize("name", ["_versions", "_devices", "_owners", "_writing", "_shadowing"])
def test_it_never_crashes(monkeypatch, name):
    def broken():
        raise RuntimeError("what now")

    broken.__name__ = name
    monkeypatch.setattr(doctor, name, broken)
    checks = examine()
    assert any(c.status == "wrong" and "what now" in c.found for c in checks)
    assert "what now" in report(checks)


def test_report_puts_the_fix_below():
    text = report([Check("a", "good", "1"), Check("bb", "wrong", "2", "do this")])
    assert text.splitlines() == ["good   a   1", "wrong  bb  2", "           -> do this", "", "1 wrong"]
