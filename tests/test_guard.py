"""A stranger's file that hides one of our packages gets a sentence, not a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest
from batch_cases import environment

from imaging._guard import PACKAGES, shadowing_file

STATEMENTS = [
    "import imaging",
    "from imaging.operators import Grid",
    "import denoisers",
    "from denoisers import load_denoiser",
    "import pipelines",
    "import pipelines.cli",
    "import viewer",
    "from viewer.layers import layers_of",
]


def run(script, folder):
    return subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_strangers_data_beside_a_script(tmp_path, statement):
    (tmp_path / "data.py").write_text("mine = 1\n")
    script = tmp_path / "train.py"
    script.write_text(f"{statement}\nprint('went on')\n")
    done = run(script, tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "data.py") in line
    assert "hides backcast's package 'data'" in line
    assert "rename" in line


@pytest.mark.parametrize("package", [p for p in PACKAGES if p != "imaging"])
def test_each_package_is_guarded_as_file_and_as_folder(tmp_path, package):
    script = tmp_path / "train.py"
    script.write_text("import imaging\n")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    done = run(script, tmp_path)
    assert f"'{package}'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_strangers_nothing_is_said(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import imaging, data, denoisers, pipelines, viewer\nprint('went on')\n")
    done = run(script, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_our_own_packages_are_ours():
    assert all(shadowing_file(package) is None for package in PACKAGES)
