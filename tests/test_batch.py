"""Many files: what is done is skipped, what fails is isolated, nothing is ever half there."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
from batch_cases import RASTER, cli, command, environment, process, scans, silence, spoil, truncate

from data import open_kind, read_reconstruction, validate
from pipelines import batch, executors
from pipelines.config import ConfigError
from pipelines.executors import Failure
from pipelines.inputs import find_inputs, targets
from pipelines.methods import Setting
from pipelines.progress import Silent
from pipelines.reconstruct import Done, reconstruct_file

BP = ("-m", "backprojection")


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def statuses(folder: Path) -> list[str]:
    return [entry["status"] for entry in summary(folder)["files"]]


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*_recon.h5")}


# -- what a command line means ------------------------------------------------------------------------------


def test_results_keep_the_places_of_their_scans(tmp_path):
    for place in ("scans/a", "scans/b/c"):
        scans(tmp_path / place)
    found = find_inputs([str(tmp_path / "scans")]).inputs
    out = targets(found, Path("out"))
    assert out == [Path("out/a/mimo_radar_0000_recon.h5"), Path("out/b/c/mimo_radar_0000_recon.h5")]


def test_a_glob_keeps_the_folders_behind_its_fixed_part(tmp_path):
    scans(tmp_path / "scans/a")
    (found,) = find_inputs([str(tmp_path / "scans/**/*.h5")]).inputs
    assert found.relative == Path("a/mimo_radar_0000.h5")


def test_lists_name_files_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scans(Path("a"), 2)
    scans(Path("b"))
    Path("list.txt").write_text("# mine\n\na/mimo_radar_0001.h5\nb\n")
    assert [str(i.source) for i in find_inputs(["@list.txt"]).inputs] == [
        "a/mimo_radar_0001.h5",
        "b/mimo_radar_0000.h5",
    ]


def test_no_file_twice(tmp_path):
    (one,) = scans(tmp_path)
    assert len(find_inputs([str(one), str(tmp_path), str(one)]).inputs) == 1


def test_folders_pass_over_results_hidden_files_and_strangers(tmp_path):
    (one,) = scans(tmp_path)
    (tmp_path / ".hidden.h5").write_bytes(one.read_bytes())
    (tmp_path / ".x.h5.part").write_bytes(b"")
    cli("reconstruct", one, "-o", tmp_path, *BP)
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["x"] = 1
    (tmp_path / "broken.hdf5").write_bytes(b"no HDF5")
    found = find_inputs([str(tmp_path)])
    assert [i.source.name for i in found.inputs] == ["broken.hdf5", "mimo_radar_0000.h5"]
    assert [p.name for p in found.strangers] == ["other.h5"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.h5"], "none.h5: expected a file, folder"),
        (["*.h5"], "*.h5: expected files that match, found none"),
        (["."], "expected measurement files"),
        (["@none.txt"], "@none.txt: expected a text file"),
        (["@list.txt"], "@list.txt line 2: gone.h5: expected a file"),
        (["@loop.txt"], "a list names no other list"),
    ],
)
def test_inputs_that_are_not_there(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("# one\ngone.h5\n")
    Path("loop.txt").write_text("@list.txt\n")
    with pytest.raises(ConfigError) as caught:
        find_inputs(arguments)
    assert words in str(caught.value)
    done = cli("reconstruct", *arguments, "-o", "out")
    assert done.status == 2
    assert not Path("out").exists()


def test_two_inputs_for_one_result_are_found_before_any_work(tmp_path):
    a, b = scans(tmp_path / "a") + scans(tmp_path / "b")
    done = cli("reconstruct", a, b, "-o", tmp_path / "out")
    assert done.status == 2
    assert f"{a} and {b} would both write" in done.err
    assert not (tmp_path / "out").exists()


# -- a batch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_files_are_isolated_named_and_the_only_ones_done_again(tmp_path, jobs):
    files = scans(tmp_path / "scans", 8)
    out = tmp_path / "out"
    assert cli("reconstruct", *files[6:], "-o", out, *BP).status == 0
    truncate(files[1])
    spoil(files[4])
    first = cli("reconstruct", tmp_path / "scans", "-o", out, *BP, "-j", jobs)
    assert first.status == 3
    assert len(first.out.splitlines()) == 6
    assert "4 done, 2 already done, 2 failed" in first.err
    assert statuses(out) == ["done", "failed", "done", "done", "failed", "done", "skipped", "skipped"]
    reasons = [e["reason"] for e in summary(out)["files"] if e["status"] == "failed"]
    assert str(files[1]) in reasons[0]
    assert "truncated" in reasons[0]
    assert str(files[4]) in reasons[1]
    assert "NaN" in reasons[1]
    rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    assert [r["status"] for r in rows] == statuses(out)
    assert float(rows[0]["measurement_residual"]) > 0
    assert all(not [f for f in validate(p, deep=True) if f.severity == "error"] for p in out.glob("*_recon.h5"))

    before = stamps(out)
    again = cli("reconstruct", tmp_path / "scans", "-o", out, *BP, "-j", jobs)
    assert again.status == 3
    assert stamps(out) == before
    assert "6 already done, 2 failed" in again.err
    assert not list(out.glob(".*"))


def test_all_failed_is_1(tmp_path):
    (one,) = scans(tmp_path)
    truncate(one)
    assert cli("reconstruct", one, "-o", tmp_path / "out", *BP).status == 1


def test_a_result_of_another_configuration_is_left_alone_and_named(tmp_path):
    (one,) = scans(tmp_path)
    out = tmp_path / "out"
    assert cli("reconstruct", one, "-o", out, *BP).status == 0
    before = stamps(out)
    other = cli("reconstruct", one, "-o", out, "-m", "kirchhoff")
    assert other.status == 1
    assert "made from another configuration" in other.err
    assert "--overwrite" in other.err
    assert stamps(out) == before
    replaced = cli("reconstruct", one, "-o", out, "-m", "kirchhoff", "--overwrite")
    assert replaced.status == 0
    assert stamps(out) != before


def test_a_result_of_another_input_is_left_alone(tmp_path):
    (one,) = scans(tmp_path)
    out = tmp_path / "out"
    assert cli("reconstruct", one, "-o", out, *BP).status == 0
    one.unlink()
    scans(tmp_path, 1, "seed=5")
    done = cli("reconstruct", one, "-o", out, *BP)
    assert done.status == 1
    assert "made from another input" in done.err


def test_a_strangers_file_in_the_way_is_left_alone(tmp_path):
    (one,) = scans(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    stranger = out / "mimo_radar_0000_recon.h5"
    stranger.write_text("mine")
    assert cli("reconstruct", one, "-o", out, *BP).status == 1
    assert stranger.read_text() == "mine"


def test_dry_run_writes_nothing(tmp_path):
    files = scans(tmp_path / "scans", 2)
    out = tmp_path / "out"
    done = cli("reconstruct", tmp_path / "scans", "-o", out, "-n")
    assert done.status == 0
    assert [line.startswith(f"would reconstruct: {f}") for line, f in zip(done.out.splitlines(), files, strict=True)]
    assert not out.exists()


def test_fail_fast_leaves_the_rest(tmp_path):
    files = scans(tmp_path / "scans", 3)
    truncate(files[0])
    out = tmp_path / "out"
    done = cli("reconstruct", tmp_path / "scans", "-o", out, *BP, "--fail-fast")
    assert done.status == 1
    assert statuses(out) == ["failed", "pending", "pending"]


def test_the_configuration_beside_the_results_makes_them_again(tmp_path):
    (one,) = scans(tmp_path)
    out = tmp_path / "out"
    assert cli("reconstruct", one, "-o", out, "-m", "l1", "-s", "max_iter=2").status == 0
    assert tomllib.loads((out / "config.toml").read_text())["solver"]["max_iter"] == 2
    again = cli("reconstruct", one, "-o", out, "-c", out / "config.toml")
    assert "1 already done" in again.err
    shown = tomllib.loads(cli("config", "show", out / "mimo_radar_0000_recon.h5").out)
    assert (shown["method"], shown["solver"]["max_iter"]) == ("l1", 2)


def test_same_input_and_configuration_give_the_same_image(tmp_path):
    files = scans(tmp_path, 2)
    args = ("-m", "tv", "-s", "max_iter=3")
    for name, which in (("a", files), ("b", files[1:])):
        assert cli("reconstruct", *which, "-o", tmp_path / name, *args).status == 0
    one, other = (read_reconstruction(tmp_path / n / "mimo_radar_0001_recon.h5") for n in ("a", "b"))
    assert np.array_equal(one.volume.data, other.volume.data)


def test_plain_lines_without_a_terminal(tmp_path):
    scans(tmp_path / "scans", 2)
    done = process("reconstruct", "scans", "-o", "out", *BP, cwd=tmp_path)
    assert done.status == 0
    assert done.out.splitlines() == ["out/mimo_radar_0000_recon.h5", "out/mimo_radar_0001_recon.h5"]
    assert "\x1b" not in done.err
    assert "\r" not in done.err
    assert "[2/2] scans/mimo_radar_0001.h5: done" in done.err


def test_progress_none_says_only_failures(tmp_path):
    files = scans(tmp_path / "scans", 2)
    truncate(files[0])
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *BP, "--progress", "none")
    lines = done.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("failed: ")


# -- what a result holds ------------------------------------------------------------------------------------


def test_a_result_tells_how_it_was_made(tmp_path):
    (one,) = scans(tmp_path / "scans")
    out = tmp_path / "out"
    assert cli("reconstruct", one, "-o", out, "-m", "l1", "-s", "max_iter=4", "-s", "tol=0").status == 0
    result = read_reconstruction(out / "mimo_radar_0000_recon.h5")
    assert result.status == "complete"
    assert result.volume.axes == ("z", "y", "x")
    assert result.volume.data.dtype == np.complex64
    origin = result.provenance
    assert origin["input_file"] == "../scans/mimo_radar_0000.h5"
    assert json.loads(origin["config"])["solver"]["max_iter"] == 4
    assert origin["wall_time"] > 0
    assert origin["peak_memory"] > 1e7
    assert "torch" in json.loads(origin["packages"])
    assert {"measurement_residual", "psnr", "psnr_gain", "ssim", "nmse"} <= set(result.metrics)
    log = result.convergence
    assert log is not None
    assert (log.n_iterations, log.stop_reason, log.converged) == (4, "max_iterations", False)
    assert np.all(np.isfinite(log.columns["psnr"]))
    assert np.all(np.diff(log.columns["elapsed"]) >= 0)
    lines = [json.loads(line) for line in (out / "mimo_radar_0000_recon.log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    home = str(Path.home())
    with h5py.File(out / "mimo_radar_0000_recon.h5") as f:
        assert all(home not in str(f["provenance"][k][()]) for k in ("command_line", "input_file", "config"))


def test_frames_are_imaged_one_by_one_and_together_alike(tmp_path):
    (one,) = scans(tmp_path, 1, "frames=3")
    assert cli("reconstruct", one, "-o", tmp_path / "out", "-m", "l1", "-s", "max_iter=3", "-s", "tol=0").status == 0
    together = read_reconstruction(tmp_path / "out/mimo_radar_0000_recon.h5")
    assert together.volume.axes == ("frame", "z", "y", "x")
    assert np.asarray(together.metrics["psnr"].value).shape == (3,)
    with h5py.File(one, "r+") as f:  # the same array, said to move: one operator per frame
        for name in ("tx_positions", "rx_positions"):
            positions = f[f"geometry/{name}"][()]
            attributes = dict(f[f"geometry/{name}"].attrs)
            del f[f"geometry/{name}"]
            f[f"geometry/{name}"] = np.repeat(positions[None], 3, axis=0)
            f[f"geometry/{name}"].attrs.update(attributes)
    assert cli("reconstruct", one, "-o", tmp_path / "m", "-m", "l1", "-s", "max_iter=3", "-s", "tol=0").status == 0
    alone = read_reconstruction(tmp_path / "m/mimo_radar_0000_recon.h5")
    assert np.allclose(together.volume.data, alone.volume.data, atol=2e-4 * np.abs(alone.volume.data).max())


def test_scaled_data_give_a_scaled_image(tmp_path):
    (one,) = scans(tmp_path)
    args = ("-m", "l1", "-s", "max_iter=3")
    assert cli("reconstruct", one, "-o", tmp_path / "a", *args).status == 0
    with h5py.File(one, "r+") as f:
        f["measurement/data"][...] = 1e3 * f["measurement/data"][()]
        f["measurement/noise_std"][...] = 1e3 * f["measurement/noise_std"][()]
    assert cli("reconstruct", one, "-o", tmp_path / "b", *args).status == 0
    a, b = (read_reconstruction(tmp_path / n / "mimo_radar_0000_recon.h5").volume.data for n in ("a", "b"))
    assert np.allclose(b, 1e3 * a, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize(("method", "more"), [("kirchhoff", ()), ("l1", ("-s", "max_iter=1"))])
def test_masked_samples_play_no_part(tmp_path, method, more):
    (one,) = scans(tmp_path)
    with h5py.File(one, "r+") as f:
        mask = np.ones(f["measurement/data"].shape[1:], np.uint8)
        mask[0, 1, 2] = 0
        f["measurement/mask"] = mask
        f["measurement/mask"].attrs["axes"] = ["tx", "rx", "frequency"]
    args = ("-m", method, *more)
    assert cli("reconstruct", one, "-o", tmp_path / "a", *args).status == 0
    with h5py.File(one, "r+") as f:
        data = f["measurement/data"][()]
        data[:, 0, 1, 2] = 1e3
        f["measurement/data"][...] = data
    assert cli("reconstruct", one, "-o", tmp_path / "b", *args).status == 0
    a, b = (read_reconstruction(tmp_path / n / "mimo_radar_0000_recon.h5").volume.data for n in ("a", "b"))
    assert np.array_equal(a, b)


@pytest.mark.parametrize("method", ["backprojection", "kirchhoff", "rangemigration", "l1", "tv"])
def test_raster_scans_go_through_every_method(tmp_path, method):
    (one,) = scans(tmp_path, array=RASTER)
    few = ("-s", "max_iter=2") if method in ("l1", "tv") else ()
    done = cli("reconstruct", one, "-o", tmp_path / "out", "-m", method, *few)
    assert done.status == 0, done.err
    assert read_reconstruction(tmp_path / "out/mimo_radar_0000_recon.h5").metrics["psnr"].value > 10


def test_too_few_samples_to_estimate_noise_from_is_said(tmp_path):
    (one,) = scans(tmp_path, array=("array_parameters.n_tx=3", "array_parameters.n_rx=2"))
    with h5py.File(one, "r+") as f:
        del f["measurement/noise_std"]
    done = cli("reconstruct", one, "-o", tmp_path / "out", "-m", "l1")
    assert done.status == 0, done.err
    assert "noise: 10 dB assumed, since the file has no noise_std and the scan too few samples" in done.err
    result = read_reconstruction(tmp_path / "out/mimo_radar_0000_recon.h5")
    assert result.metrics["measurement_residual"].value == pytest.approx(10**-0.5, rel=0.05)


@pytest.mark.parametrize("kind", ["projected", "csalsa"])
def test_a_noise_level_set_too_low_is_said_and_blows_nothing_up(tmp_path, kind):
    (one,) = scans(tmp_path, 1, "snr_db=5", "n_frequencies=12", array=("array_parameters.n_tx=8",))
    with h5py.File(one, "r+") as f:
        f["measurement/noise_std"][...] = 0.01 * f["measurement/noise_std"][()]
    done = cli("reconstruct", one, "-o", tmp_path / "out", "-m", "l1", "-s", f"kind={kind}")
    assert done.status == 0, done.err
    assert "fits the data as closely as the noise level asks" in done.err
    result = read_reconstruction(tmp_path / "out/mimo_radar_0000_recon.h5")
    assert result.metrics["measurement_residual"].value < 1
    assert "noise level asks" in result.provenance["notes"]


def test_the_calibration_that_was_applied_is_recorded(tmp_path):
    (one,) = scans(tmp_path)
    with h5py.File(one, "r+") as f:
        f.require_group("calibration").attrs["mean_over"] = "tx"
        f["calibration/range_offset"] = 0.01
        f["calibration/range_offset"].attrs["units"] = "m"
    assert cli("reconstruct", one, "-o", tmp_path / "out", *BP).status == 0
    origin = read_reconstruction(tmp_path / "out/mimo_radar_0000_recon.h5").provenance
    assert json.loads(origin["calibration_applied"]) == ["background", "range_offset"]


@pytest.mark.parametrize("scale", [1e36, 1e-36])
@pytest.mark.parametrize("method", ["backprojection", "kirchhoff", "l1"])
def test_data_beyond_single_precision_are_refused(tmp_path, scale, method):
    (one,) = scans(tmp_path)
    with h5py.File(one, "r+") as f:
        f["measurement/data"][...] = f["measurement/data"][()].astype("c16") * scale
    done = cli("reconstruct", one, "-o", tmp_path / "out", "-m", method)
    assert done.status == 1
    assert str(one) in done.err
    assert "/measurement/data: expected a largest magnitude between 1e-20 and 1e+20" in done.err
    assert not list((tmp_path / "out").glob("*_recon.h5"))


@pytest.mark.parametrize("scale", [1e18, 1e-18])
@pytest.mark.parametrize("method", ["backprojection", "kirchhoff", "l1", "tv"])
def test_data_in_any_reasonable_unit_are_imaged(tmp_path, scale, method):
    (one,) = scans(tmp_path)
    few = ("-s", "max_iter=3") if method in ("l1", "tv") else ()
    assert cli("reconstruct", one, "-o", tmp_path / "a", "-m", method, *few).status == 0
    with h5py.File(one, "r+") as f:
        f["measurement/data"][...] = f["measurement/data"][()].astype("c16") * scale
        f["measurement/noise_std"][...] = f["measurement/noise_std"][()].astype(float) * scale
    done = cli("reconstruct", one, "-o", tmp_path / "b", "-m", method, *few)
    assert done.status == 0, done.err
    a, b = (read_reconstruction(tmp_path / n / "mimo_radar_0000_recon.h5").metrics["psnr"].value for n in ("a", "b"))
    assert b == pytest.approx(a, abs=0.01)


def test_a_truth_that_is_no_truth(tmp_path):
    one, two = scans(tmp_path / "scans", 2)
    for path, value in ((one, 0), (two, np.nan)):
        with h5py.File(path, "r+") as f:
            f["ground_truth/volume"][...] = np.full_like(f["ground_truth/volume"][()], value)
    done = cli("reconstruct", one, two, "-o", tmp_path / "out", *BP)
    assert done.status == 3
    assert "PSNR" not in done.err
    assert f"{two}: /ground_truth/volume: expected finite" in done.err
    assert "only zeros" in done.err
    judged = cli("evaluate", tmp_path / "out", "--json")
    assert "zero everywhere" in json.loads(judged.out)[0]["note"]


def test_a_log_that_cannot_be_written_does_not_end_the_batch(tmp_path):
    scans(tmp_path / "scans", 2)
    run = [*map(str, command("reconstruct", "scans", "-o", "out", *BP))]
    with open("/dev/full", "w") as full:
        done = subprocess.run(run, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=full)
    assert len(done.stdout.splitlines()) == 2
    assert statuses(tmp_path / "out") == ["done", "done"]


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams(tmp_path, closed):
    scans(tmp_path / "scans")
    line = " ".join(command("reconstruct", "scans", "-o", "out", *BP))
    done = subprocess.run(
        f"{line} {closed}", shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert statuses(tmp_path / "out") == ["done"]


@pytest.mark.parametrize("arguments", [("", "-o", "out"), ("scans", "-o", ""), ("@", "-o", "out")])
def test_an_empty_argument_is_not_the_current_folder(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    scans(tmp_path / "scans")
    done = cli("reconstruct", *arguments, *BP)
    assert done.status == 2
    assert "found '" in done.err or "found an empty text" in done.err
    assert not list(tmp_path.rglob("*_recon.h5"))


def test_a_broken_link_is_reported(tmp_path):
    scans(tmp_path / "scans")
    (tmp_path / "scans/gone.h5").symlink_to("/nowhere.h5")
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *BP)
    assert done.status == 3
    assert "gone.h5" in done.err


def test_an_output_that_cannot_be_made_is_found_before_any_work(tmp_path):
    scans(tmp_path / "scans")
    for args in (("reconstruct", tmp_path / "scans", *BP), ("simulate", "mimo_radar")):
        done = cli(*args, "-o", "/proc/nowhere")
        assert done.status == 2, done.err
        assert "/proc/nowhere: expected a folder that can be made" in done.err


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_a_file_name_that_is_no_text(tmp_path):
    (one,) = scans(tmp_path / "scans")
    odd = one.with_name(os.fsdecode(b"b\xff.h5"))
    odd.write_bytes(one.read_bytes())
    run = command("reconstruct", "scans", "-o", "out", *BP)
    done = subprocess.run(run, cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"out/b\xff_recon.h5\n" in done.stdout
    assert statuses(tmp_path / "out") == ["done", "done"]
    assert "b\\xff.h5" in (tmp_path / "out/summary.csv").read_text()
    assert subprocess.run(run, cwd=tmp_path, env=environment(), capture_output=True).returncode == 0
    assert statuses(tmp_path / "out") == ["skipped", "skipped"]


def test_the_noise_and_the_grid_are_found_and_said(tmp_path):
    (one,) = scans(tmp_path, 1, "n_frequencies=12", array=("array_parameters.n_tx=8",))
    with h5py.File(one, "r+") as f:
        del f["measurement/noise_std"], f["grid"], f["ground_truth"]
    done = cli("reconstruct", one, "-o", tmp_path / "out", "-m", "l1", "-s", "max_iter=2", "-s", "shape=[7,7,7]")
    assert done.status == 0, done.err
    assert "grid: from aperture and bandwidth, since the file has no /grid" in done.err
    assert "noise: estimated, std" in done.err
    assert "psnr" not in read_reconstruction(tmp_path / "out/mimo_radar_0000_recon.h5").metrics


# -- bad input ----------------------------------------------------------------------------------------------


def change(key, function):
    """Damage that rewrites one dataset, its attributes kept."""

    def damage(path):
        with h5py.File(path, "r+") as f:
            old, attributes = f[key][()], dict(f[key].attrs)
            attributes = {k: v for k, v in attributes.items() if k not in ("REFERENCE_LIST", "DIMENSION_LIST", "CLASS")}
            del f[key]
            f[key] = function(old)
            f[key].attrs.update(attributes)

    return damage


def attribute(key, name, value):
    """Damage that sets or (None) removes an attribute."""

    def damage(path):
        with h5py.File(path, "r+") as f:
            if value is None:
                del f[key].attrs[name]
            else:
                f[key].attrs[name] = value

    return damage


def flip_a_byte(path):
    """One bit of the samples, as a bad disk gives it back."""
    with h5py.File(path) as f:
        offset = f["measurement/data"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(offset + 11)
        byte = file.read(1)[0]
        file.seek(offset + 11)
        file.write(bytes([byte ^ 16]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change("measurement/data", lambda d: d[..., :-1]), "/measurement/"),
        (attribute("measurement", "axes", ["frame", "tx", "rx", "freq"]), "/measurement@axes"),
        (attribute("measurement/frequency", "units", None), "units"),
        (attribute("/", "format_version", "2.0"), "version"),
        (change("measurement/frequency", lambda f: f[[0, 1, 1, 3]]), "strictly increasing"),
        (change("measurement/frequency", lambda f: f[::-1]), "strictly increasing"),
        (change("geometry/tx_positions", lambda p: p[:0]), "/geometry/tx_positions"),
        (change("geometry/tx_positions", lambda p: np.add(p, (0, 0, 0.45))), "inside"),
        (flip_a_byte, "checksum"),
        (truncate, "truncated"),
        (spoil, "NaN"),
        (lambda p: spoil(p, complex("inf")), "Inf"),
        (silence, "/measurement/data"),
        (lambda p: p.write_bytes(b"text"), "expected an HDF5 file"),
        (lambda p: p.write_bytes(b""), "an empty file"),
    ],
    ids=[
        *("shape", "axis", "units", "version", "twice", "unsorted", "no-antenna", "inside", "flipped"),
        *("truncated", "nan", "inf", "zero", "no-hdf5", "empty"),
    ],
)
def test_bad_files_end_in_a_sentence(tmp_path, damage, words):
    (one,) = scans(tmp_path)
    damage(one)
    done = cli("reconstruct", one, "-o", tmp_path / "out", *BP)
    assert done.status == 1
    (entry,) = summary(tmp_path / "out")["files"]
    assert str(one) in entry["reason"]
    assert words in entry["reason"]
    assert "unexpected" not in entry["reason"]
    assert "Traceback" not in done.err
    assert not list((tmp_path / "out").glob("*.h5"))


def test_an_antenna_inside_the_grid(tmp_path):
    (one,) = scans(tmp_path)
    done = cli("reconstruct", one, "-o", tmp_path / "out", *BP, "-s", "grid.origin_m=[-0.01,-0.06,-0.06]")
    assert done.status == 1
    assert "inside the voxel grid" in done.err


def test_a_memory_limit_that_is_too_small(tmp_path):
    (one,) = scans(tmp_path)
    done = cli("reconstruct", one, "-o", tmp_path / "out", *BP, "--max-memory", "100")
    assert done.status == 1
    assert f"failed: {one}: --max-memory: expected a limit of at least" in done.err
    assert "for one process with method backprojection, found 100 B" in done.err
    assert statuses(tmp_path / "out") == ["failed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "tvv"], "unknown method tvv; did you mean tv"),
        (["-s", "alpa=1"], "did you mean solver.alpha"),
        (["-s", "alpha=many"], "solver.alpha: expected a number > 0, found 'many'"),
        (["-c", "none.toml"], "none.toml: cannot be read"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--device", "quantum"], "expected auto, cpu, cuda"),
        (["-m", "pnp", "-s", "denoiser.file="], "needs a denoiser"),
        (["-m", "pnp", "-d", "nowhere:f"], "no module nowhere"),
        (["-m", "tv", "-d", "x:f"], "method tv takes none"),
        (["--max-memory", "lots"], "memory size"),
        (["-j", "0"], "-j"),
        (["--precision", "half"], "--precision"),
    ],
)
def test_wrong_usage_is_found_before_any_work(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    scans(Path("scans"))
    done = cli("reconstruct", "scans", "-o", "out", *arguments)
    assert done.status == 2, done.err
    assert words in done.err
    assert not Path("out").exists()


def test_a_file_in_place_of_the_output_folder(tmp_path):
    (one,) = scans(tmp_path)
    (tmp_path / "out").write_text("")
    done = cli("reconstruct", one, "-o", tmp_path / "out")
    assert done.status == 2
    assert "expected a folder, found the file" in done.err
    inside = cli("reconstruct", one, "-o", tmp_path / "out" / "deeper")
    assert inside.status == 2


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    files = scans(tmp_path / "scans", 2)

    def full(path, result):
        if "0000" in path.name:
            raise OSError(28, "No space left on device", str(path))
        from data import write_reconstruction

        write_reconstruction(path, result)

    monkeypatch.setattr("pipelines.reconstruct.write_reconstruction", full)
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *BP)
    assert done.status == 3
    assert str(files[0]) in done.err
    assert "No space left on device; free some space" in done.err
    assert statuses(tmp_path / "out") == ["failed", "done"]


def test_a_grid_beyond_the_memory_is_a_sentence(tmp_path):
    scans(tmp_path / "scans", 1)
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *BP, "-s", "grid.shape=[20000, 20000, 20000]")
    assert done.status == 1
    assert "/grid/shape: expected an image that fits into" in done.err
    assert "set grid.shape or grid.spacing_m" in done.err


def test_a_defect_is_isolated_and_kept_with_its_traceback(tmp_path, monkeypatch):
    files = scans(tmp_path / "scans", 2)

    def broken(job, **_):
        if job.source == files[0]:
            raise KeyError("a defect")
        return reconstruct_file(job)

    monkeypatch.setattr("pipelines.reconstruct.reconstruct_file", broken)
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", *BP)
    assert done.status == 3
    assert "unexpected KeyError" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in summary(tmp_path / "out")["files"][0]["traceback"]


# -- killed -------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_denoiser(tmp_path):
    """A denoiser that takes a second, so that there is time to kill."""
    file = tmp_path / "slow.py"
    file.write_text("import time\n\ndef denoise(v, sigma):\n    time.sleep(0.5)\n    return v\n")
    return f"{file}:denoise"


def test_a_killed_worker_costs_its_file_alone(tmp_path):
    files = scans(tmp_path / "scans", 4)
    denoiser = tmp_path / "deadly.py"
    # the first worker to get there kills itself once
    denoiser.write_text(
        "import os, signal\n"
        f"flag = {str(tmp_path / 'flag')!r}\n"
        "def denoise(v, sigma):\n"
        "    try:\n"
        "        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))\n"
        "    except FileExistsError:\n"
        "        return v\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    args = ("reconstruct", "scans", "-o", "out", "-m", "pnp", "-d", "deadly.py:denoise", "-s", "max_iter=2", "-j", "2")
    done = process(*args, "--retries", "0", cwd=tmp_path)
    assert done.status == 3, done.err
    assert sorted(statuses(tmp_path / "out")) == ["done", "done", "done", "failed"]
    assert "was killed by SIGKILL" in done.err
    again = process(*args, cwd=tmp_path)
    assert again.status == 0, again.err
    assert "1 done, 3 already done" in again.err
    assert len(files) == len(list((tmp_path / "out").glob("*_recon.h5")))


def _wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.parametrize("jobs", [1, 2])
def test_kill_9_in_the_middle_then_again(tmp_path, slow_denoiser, jobs):
    scans(tmp_path / "scans", 4)
    out = tmp_path / "out"
    args = ("reconstruct", "scans", "-o", "out", "-m", "pnp", "-d", slow_denoiser, "-s", "max_iter=3", "-j", jobs)
    running = subprocess.Popen(
        command(*args), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait_for(lambda: len(list(out.glob("*_recon.h5"))) >= 1)
    running.kill()
    running.wait()
    time.sleep(1.0)  # workers notice that their parent has gone
    finished = stamps(out)
    assert 1 <= len(finished) < 4
    assert all(open_kind(out / name) == "reconstruction" for name in finished)
    part = out / ".mimo_radar_0003_recon.h5.part"
    part.write_bytes(b"half")  # as a process killed while writing leaves it
    again = process(*args, cwd=tmp_path)
    assert again.status == 0, again.err
    after = stamps(out)
    assert len(after) == 4
    assert {n: after[n] for n in finished} == finished
    assert not list(out.glob(".*"))
    assert all(not [f for f in validate(p, deep=True) if f.severity == "error"] for p in out.glob("*_recon.h5"))


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_is_130_and_leaves_nothing_half_written(tmp_path, slow_denoiser, jobs, sent):
    scans(tmp_path / "scans", 4)
    out = tmp_path / "out"
    args = ("reconstruct", "scans", "-o", "out", "-m", "pnp", "-d", slow_denoiser, "-s", "max_iter=3", "-j", jobs)
    running = subprocess.Popen(
        command(*args),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _wait_for(lambda: len(list(out.glob("*_recon.h5"))) >= 1)
    os.killpg(running.pid, sent) if sent == signal.SIGINT else running.send_signal(sent)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "interrupted" in err
    # what the interpreter says by itself when Ctrl-C comes within a callback of its own
    ours = re.sub(r"Exception ignored in: .*?\nKeyboardInterrupt:? ?\n", "", err, flags=re.DOTALL)
    assert "Traceback" not in ours
    assert not list(out.glob(".*"))
    assert summary(out)["interrupted"]
    assert {"done", "pending"} <= set(statuses(out))
    assert all(open_kind(p) == "reconstruction" for p in out.glob("*_recon.h5"))


def test_a_result_that_came_with_the_interruption_is_counted(tmp_path):
    scans(tmp_path / "scans", 2)
    options = batch.Options(inputs=(str(tmp_path / "scans"),), output=tmp_path / "out", method="backprojection")
    planned = batch.plan(options)

    class Interrupting(Silent):
        def iteration(self, index, row):
            reconstruct_file(planned.jobs[0])  # the result is there, its word not yet
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch.run(planned, options, Interrupting())
    assert statuses(tmp_path / "out") == ["done", "pending"]
    assert summary(tmp_path / "out")["interrupted"]


def test_an_interruption_in_a_destructor_is_neither_lost_nor_printed(monkeypatch):
    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)

    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    class Broken:
        def __del__(self):
            raise ArithmeticError

    with batch._interruptible() as check:
        Interrupted()
        Broken()
        with pytest.raises(KeyboardInterrupt):
            check()
    assert [type(p.exc_value) for p in printed] == [ArithmeticError]


# -- details ------------------------------------------------------------------------------------------------


def test_outcomes_of_a_job_travel_between_processes():
    import pickle

    for outcome in (
        Failure("a.h5: no", "data"),
        Done(status="complete", stop_reason="", n_iterations=0, seconds=1.0, metrics={}),
    ):
        assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_threads_are_shared_among_processes(monkeypatch):
    monkeypatch.setattr(executors, "cpu_count", lambda: 8)
    assert executors.ProcessPool(4).threads == 2
    assert executors.ProcessPool(16).threads == 1


def test_a_setting_needs_only_a_device():
    import torch

    assert Setting(device=torch.device("cpu")).memory_limit is None


@pytest.mark.slow
def test_hundred_files(tmp_path):
    files = scans(tmp_path / "scans", 100)
    out = tmp_path / "out"
    assert cli("reconstruct", *files[:2], "-o", out, "-m", "l1", "-s", "max_iter=3").status == 0
    truncate(files[50])
    spoil(files[70])
    args = ("reconstruct", "scans", "-o", "out", "-m", "l1", "-s", "max_iter=3", "-j", "2")
    done = process(*args, cwd=tmp_path)
    assert done.status == 3
    assert len(list(out.glob("*_recon.h5"))) == 98
    failed = [Path(e["file"]).name for e in summary(out)["files"] if e["status"] == "failed"]
    assert failed == [files[50].name, files[70].name]
    before = stamps(out)
    again = process(*args, cwd=tmp_path)
    assert again.status == 3
    assert stamps(out) == before
    assert "98 already done, 2 failed" in again.err
