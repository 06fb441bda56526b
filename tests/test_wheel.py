"""The wheel holds the packages and nothing else."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from batch_cases import ROOT

PACKAGES = {"imaging", "denoisers", "data", "pipelines", "viewer"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("setuptools", minversion="77")
    build = pytest.importorskip("build")
    assert build
    source = tmp_path_factory.mktemp("source") / "backcast"
    # of a copy: building leaves folders behind
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv", "venv", "build", "*.egg-info", "__pycache__", ".*_cache"),
    )
    out = tmp_path_factory.mktemp("wheel")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        cwd=out,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def folders(wheel):
    return {name.split("/")[0] for name in wheel.namelist()}


def test_exactly_our_packages(wheel):
    info = {f for f in folders(wheel) if f.endswith(".dist-info")}
    assert len(info) == 1
    assert folders(wheel) - info == PACKAGES


def test_no_tests_docs_benchmarks_or_examples(wheel):
    for name in wheel.namelist():
        parts = name.split("/")
        assert not {"tests", "docs", "benchmarks", "examples", "test"} & set(parts[:-1]), name
        assert not parts[-1].startswith("test_"), name


def test_every_module_is_in(wheel):
    names = set(wheel.namelist())
    for package in PACKAGES:
        modules = (p.relative_to(ROOT).as_posix() for p in (ROOT / package).rglob("*.py"))
        missing = [m for m in modules if m not in names]
        assert not missing


def test_packages_are_typed(wheel):
    assert {f"{p}/py.typed" for p in PACKAGES} <= set(wheel.namelist())


def test_the_command_is_there(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    assert dict(parser["console_scripts"]) == {"backcast": "pipelines.cli:main"}


def test_napari_finds_the_plugin(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    assert dict(parser["napari.manifest"]) == {"backcast": "viewer:napari.yaml"}
    assert "viewer/napari.yaml" in wheel.namelist()


def test_packages_are_listed_in_full():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        p.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in PACKAGES
        for p in (ROOT / package).rglob("__init__.py")
    }
    assert listed == there


def test_the_weights_are_in_with_their_cards(wheel):
    inside = {name for name in wheel.namelist() if name.startswith("denoisers/weights/")}
    for name in ("radar-3d", "radar-3d-fast", "tomo-2d", "mri-2d", "mri-2d-complex"):
        assert {f"denoisers/weights/{name}.safetensors", f"denoisers/weights/{name}.json"} <= inside
