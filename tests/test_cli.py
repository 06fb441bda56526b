"""The command: quick help, honest exit statuses, results on stdout and words on stderr."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from batch_cases import ROOT, cli, environment, process, scans, truncate

from data import read_measurement, read_reconstruction
from imaging import __version__
from pipelines.cli import app
from pipelines.methods import METHODS

HEAVY = ("torch", "h5py", "numpy", "scipy", "matplotlib", "rich", "skimage")


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("arguments", [["--help"], ["reconstruct", "--help"], ["config", "--help"], ["--version"]])
def test_help_imports_nothing_heavy_and_is_quick(arguments, tmp_path):
    code = f"""
import json, sys, time
from pipelines.cli import app, guarded
status = guarded(lambda: app(args={arguments!r}, standalone_mode=False))
heavy = [m for m in {HEAVY!r} if m in sys.modules]
print(json.dumps([status, heavy, time.process_time()]), file=sys.stderr)
"""
    done = python(code, tmp_path)
    status, heavy, seconds = json.loads(done.stderr.splitlines()[-1])
    assert status == 0
    assert heavy == []
    assert seconds < 0.5
    assert done.stdout


def test_version():
    assert cli("--version").out == f"backcast {__version__}\n"


def test_every_command_has_help():
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert set(names) == {
        "simulate",
        "info",
        "validate",
        "convert",
        "export",
        "estimate",
        "view",
        "reconstruct",
        "evaluate",
        "tune",
        "methods",
        "demo",
        "doctor",
        "report",
        "train",
    }
    for name in (
        *names,
        "config",
        "config init",
        "config show",
        "config check",
        *(f"denoisers {c}" for c in ("list", "info", "verify")),
        "denoisers",
    ):
        done = cli(*name.split(), "--help")
        assert done.status == 0
        assert "Usage:" in done.out


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["reconstruct"], ["reconstruct", "x"], ["simulate", "sonar", "-o", "x"], ["info"], ["--what"]],
)
def test_wrong_usage_is_2(arguments):
    done = cli(*arguments)
    assert done.status == 2
    assert done.err
    assert not done.out


def test_simulate_writes_a_series_with_its_configuration(tmp_path):
    files = scans(tmp_path, 2, "seed=7")
    assert [f.name for f in files] == ["mimo_radar_0000.h5", "mimo_radar_0001.h5"]
    one, other = (read_measurement(f) for f in files)
    assert not np.array_equal(one.data, other.data)
    assert json.loads(str(one.provenance["config"]))["seed"] == 7
    again = cli("simulate", "mimo_radar", "-o", tmp_path)
    assert again.status == 2
    assert "--overwrite" in again.err


def test_simulate_is_reproducible_down_to_the_samples(tmp_path):
    a, b = (scans(tmp_path / n, 2)[1] for n in "ab")
    assert np.array_equal(read_measurement(a).data, read_measurement(b).data)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("target=teapot", "expected one of"),
        ("n_frequencies=0", "n_frequencies"),
        ("n_freqencies=3", "did you mean n_frequencies"),
        ("snr_db=loud", "snr_db"),
    ],
)
def test_simulate_refuses_before_writing(tmp_path, setting, words):
    done = cli("simulate", "mimo_radar", "-o", tmp_path / "out", "-s", setting)
    assert done.status == 2
    assert words in done.err
    assert not (tmp_path / "out").exists()


def test_info_says_what_is_in_a_file(tmp_path):
    (one,) = scans(tmp_path)
    done = cli("info", one)
    assert done.status == 0
    assert "mimo_radar" in done.out
    (plain,) = json.loads(cli("info", one, "--json").out)
    assert plain["file"] == str(one)
    assert plain["modality"] == "mimo_radar"


def test_info_of_a_bad_file_goes_on_with_the_next(tmp_path):
    files = scans(tmp_path, 2)
    truncate(files[0])
    done = cli("info", *files, "--json")
    assert done.status == 3
    first, second = json.loads(done.out)
    assert "truncated" in first["error"]
    assert second["modality"] == "mimo_radar"
    assert cli("info", files[0]).status == 1


def test_info_of_a_result_tells_where_grid_and_noise_come_from(tmp_path):
    files = scans(tmp_path, 1)
    assert cli("reconstruct", files[0], "-o", tmp_path / "out", "-m", "l1").status == 0
    result = tmp_path / "out" / "mimo_radar_0000_recon.h5"
    origin = read_reconstruction(result).provenance
    assert origin["notes"].splitlines() == ["grid: from the file's /grid", "noise: from the file's noise_std"]
    assert origin["epsilon"] > 0
    assert origin["data_scale"] > 0
    assert origin["solver"] in ("projected", "csalsa")
    assert "  notes\n    grid: from the file's /grid\n    noise: from the file's noise_std\n" in cli("info", result).out


def test_a_scene_that_cannot_be_simulated_is_a_sentence(tmp_path):
    done = cli("simulate", "mimo_radar", "-o", tmp_path, "-s", "target=mesh")
    assert done.status == 2
    assert done.err == ("backcast: mesh source: expected a .npz, .ply, .obj or .stl file, got nothing; set source\n")
    assert list(tmp_path.iterdir()) == []


def test_the_systems_errors_name_the_file(tmp_path, monkeypatch):
    files = scans(tmp_path, 1)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.atomic.os.fsync", full)
    done = cli("reconstruct", files[0], "-o", tmp_path / "out", "-m", "backprojection")
    assert done.status == 1
    place = tmp_path / "out" / "config.toml"
    assert done.err.startswith(f"backcast: {place}: expected to read and write here, found: No space left on device;")
    assert list((tmp_path / "out").iterdir()) == []


def test_validate_gives_findings_and_1_on_errors(tmp_path):
    files = scans(tmp_path, 2)
    assert cli("validate", tmp_path).status == 0
    with h5py.File(files[1], "r+") as f:
        del f["measurement/frequency"].attrs["units"]
    done = cli("validate", tmp_path, "--json", "--deep")
    assert done.status == 1
    good, bad = json.loads(done.out)
    assert good["findings"] == []
    (finding,) = (f for f in bad["findings"] if f["severity"] == "error")
    assert finding["path"].startswith("/measurement/frequency")
    assert finding["code"]
    assert finding["fix"]


def test_evaluate_finds_the_truth_by_itself(tmp_path):
    files = scans(tmp_path / "scans", 2)
    out = tmp_path / "out"
    assert cli("reconstruct", tmp_path / "scans", "-o", out, "-m", "backprojection").status == 0
    table = cli("evaluate", out)
    assert table.status == 0
    heads = "file method PSNR peak PSNR gain SSIM 3D SSIM 2D NMSE peak NMSE gain residual"
    assert table.out.splitlines()[0].split() == heads.split()
    assert len(table.out.splitlines()) == 3
    found = json.loads(cli("evaluate", out, "--json").out)
    own = read_reconstruction(out / "mimo_radar_0000_recon.h5").metrics
    for name in ("psnr", "psnr_gain", "ssim", "ssim_2d", "nmse", "measurement_residual"):
        assert found[0]["metrics"][name]["value"] == pytest.approx(own[name].value)
    rows = list(csv.DictReader(io.StringIO(cli("evaluate", out, "--csv").out)))
    assert [Path(r["file"]).name for r in rows] == ["mimo_radar_0000_recon.h5", "mimo_radar_0001_recon.h5"]
    assert float(rows[0]["psnr"]) == pytest.approx(own["psnr"].value)
    moved = tmp_path / "elsewhere"
    (tmp_path / "scans").rename(moved)
    lost = cli("evaluate", out)
    assert lost.status == 0
    assert "name it with --against" in lost.out
    assert "no truth" not in cli("evaluate", out, "--against", moved).out
    one = out / "mimo_radar_0000_recon.h5"
    assert "no truth" not in cli("evaluate", one, "--against", moved / files[0].name).out
    itself = json.loads(cli("evaluate", one, "--against", one, "--json").out)
    assert itself[0]["metrics"]["nmse"]["value"] == pytest.approx(0.0, abs=1e-12)


def test_evaluate_on_another_grid_is_a_sentence(tmp_path):
    (one,) = scans(tmp_path)
    out = tmp_path / "out"
    cli("reconstruct", one, "-o", out, "-m", "backprojection", "-s", "grid.shape=[5,5,5]")
    done = cli("evaluate", out)
    assert done.status == 1
    assert "expected the grid of the truth" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.h5"], "expected a reconstruction file or a folder"),
        (["."], "expected reconstruction files below it"),
        (["x.h5", "--json", "--csv"], "expected one of them"),
        (["x.h5", "--against", "none"], "--against none"),
    ],
)
def test_evaluate_refuses(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = cli("evaluate", *arguments)
    assert done.status == 2
    assert words in done.err


def test_evaluate_a_measurement_is_a_sentence(tmp_path):
    (one,) = scans(tmp_path)
    done = cli("evaluate", one)
    assert done.status == 1
    assert str(one) in done.err


def test_methods_are_listed_with_their_parameters():
    text = cli("methods").out
    listed = {(*m["modalities"], m["name"]): m for m in json.loads(cli("methods", "--json").out)}
    assert set(listed) == {(*m.modalities, m.name) for m in METHODS}
    for method in METHODS:
        assert method.name in text
        assert method.summary in text
        assert f"\n{method.full_name}:\n" in text
    assert {(modality, m["name"]) for m in listed.values() for modality in m["default_for"]} == {
        ("mimo_radar", "pnp"),
        ("tomography", "redpsm"),
        ("mri", "pnp"),
        ("irs_mimo", "krosbl-mm"),
    }
    starred = [line.split()[:2] for line in text.splitlines() if line.split() and line.split()[0][1:].endswith("*")]
    assert starred == [
        ["pnp*", "mimo_radar"],
        ["redpsm*", "tomography"],
        ["pnp*", "mri"],
        ["krosbl-mm*", "irs_mimo"],
    ]
    radar, other = listed["mimo_radar", "tv"], listed["tomography", "tv"]
    assert {p["key"] for p in radar["parameters"]} >= {"solver.alpha", "tv.n_iter", "grid.shape"}
    assert {p["key"] for p in other["parameters"]} >= {"solver.weight", "geometry.tilt_deg", "grid.shape"}


def test_json_goes_to_stdout_alone(tmp_path):
    done = process("methods", "--json", cwd=tmp_path)
    json.loads(done.out)
    assert done.err == ""


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m pipelines.cli methods | head -1",
        shell=True,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.slow
def test_demo_makes_a_picture_and_a_table(tmp_path):
    import matplotlib.image

    done = process("demo", "-o", "demo", cwd=tmp_path)
    assert done.status == 0, done.err
    assert [line.split()[1] for line in done.out.splitlines()[:4]] == ["method", "backprojection", "l1", "tv"]
    assert done.out.splitlines()[-1] == "demo/mimo_radar.png"
    picture = matplotlib.image.imread(tmp_path / "demo/mimo_radar.png")
    assert picture.shape[1] > 1000


def test_modules_run_from_anywhere(tmp_path):
    assert process("--version", cwd=tmp_path).out == f"backcast {__version__}\n"
    assert (ROOT / "pipelines" / "cli.py").is_file()


def test_info_says_what_it_cannot_read_on_stderr(tmp_path):
    (good,) = scans(tmp_path)
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"no")
    ran = cli("info", bad, good)
    assert ran.status == 3
    assert "bad.h5" not in ran.out
    assert str(bad) in ran.err
    assert cli("info", bad).out == ""


def test_a_result_and_options_are_not_shown_together(tmp_path):
    (scan,) = scans(tmp_path)
    assert cli("reconstruct", scan, "-o", tmp_path / "out", "-m", "backprojection").status == 0
    shown = cli("config", "show", tmp_path / "out/mimo_radar_0000_recon.h5", "-s", "nonsense=3")
    assert shown.status == 2
    assert "expected a result or options" in shown.err


def test_a_simulation_file_fits(tmp_path):
    file = tmp_path / "sim.toml"
    file.write_text(cli("config", "init", "mimo_radar").out)
    assert cli("config", "check", file).out == f"{file}: fits the simulation of mimo_radar\n"
    assert "simulations: mimo_radar" in cli("config", "init", "nope").err
    file.write_text("nonsense = 1\n")
    assert "unknown key nonsense for method mimo_radar:pnp" in cli("config", "check", file).err


def test_figures_without_end_are_null_in_json(tmp_path):
    (scan,) = scans(tmp_path)
    assert cli("reconstruct", scan, "-o", tmp_path / "out", "-m", "backprojection").status == 0
    result = tmp_path / "out/mimo_radar_0000_recon.h5"

    def refuse(constant):
        raise AssertionError(constant)

    against = tmp_path / "same.h5"
    against.write_bytes(result.read_bytes())
    with h5py.File(against, "r+") as f:
        peak = np.abs(f["volume/data"][()]).max()
        f["volume/data"][...] = f["volume/data"][()] / peak
    figures = json.loads(cli("evaluate", against, "--against", against, "--json").out, parse_constant=refuse)
    assert figures[0]["metrics"]["psnr"]["value"] is None or figures[0]["metrics"]["psnr"]["value"] > 100
    assert "no measurement in" in cli("evaluate", result, "--against", tmp_path / "out").out
