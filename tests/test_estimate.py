"""Peak memory and time are predicted from shapes, and a limit on memory is kept."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import h5py
import pytest
from batch_cases import cli, scans, truncate

from data import read_measurement, read_measurement_head
from imaging.errors import MemoryLimitError
from pipelines import estimate
from pipelines.estimate import Estimate, duration, estimate_file, total
from pipelines.methods import METHODS, find_method
from pipelines.simulate import simulate_files

BENCHMARKS = str(Path(__file__).resolve().parent.parent / "benchmarks")
ALL = [f"{modality}:{m.name}" for m in METHODS for modality in m.modalities]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import estimates

    yield estimates
    sys.modules.pop("estimates", None)


def predicted(bench, name, path, run, **more):
    """For the speed that the machine had during the run."""
    method = find_method(name)
    there = json.loads(estimate.TABLE.read_text())["probe_seconds"]
    return estimate_file(path, method, method.config(), speed=run["probe"] / there, **more)


# -- as good as promised ------------------------------------------------------------------------------------


def check(bench, name, case, folder):
    path = bench.simulated(name.partition(":")[0], case, folder)
    run = bench.measure(path, name)
    found = predicted(bench, name, path, run)
    print(json.dumps({"case": case.name, **run, "memory": found.memory, "time": found.seconds}))
    assert found.memory == pytest.approx(run["peak"], rel=0.25)
    assert run["seconds"] / 2 < found.seconds < 2 * run["seconds"]


@pytest.mark.parametrize("name", ["mimo_radar:backprojection", "irs_mimo:ls"])
def test_predictions_of_two_methods(bench, name, tmp_path):
    check(bench, name, bench.cases_for(name, held_out=True)[0], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ALL)
def test_predictions_of_every_method_on_three_sizes(bench, name, tmp_path):
    for case in bench.cases_for(name, held_out=True)[:3]:
        check(bench, name, case, tmp_path)


# -- a limit ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "case", "share"),
    [
        ("mimo_radar:backprojection", "c", 0.75),
        ("mimo_radar:l1", "c", 0.75),
        ("mimo_radar:pnp", "d", 0.95),
        ("tomography:fbp", "d", 0.85),
        ("irs_mimo:krosbl-mm", "e", 0.95),
    ],
)
def test_a_limit_is_kept_by_smaller_blocks(bench, name, case, share, tmp_path):
    modality = name.partition(":")[0]
    (one,) = [c for c in bench.CASES[modality] if c.name == case]
    path = bench.simulated(modality, one, tmp_path)
    method = find_method(name)
    free = estimate_file(path, method, method.config(), speed=1.0)
    limit = int(share * free.memory)
    run = bench.measure(path, name, "--max-memory", str(limit))
    print(json.dumps({"free": free.memory, "limit": limit, **run}))
    assert run["peak"] <= 1.1 * limit


def test_blocks_are_chosen_to_fit_or_the_file_is_refused(tmp_path):
    (path,) = simulate_files(
        "mimo_radar",
        tmp_path,
        assignments=(
            *("array_parameters={n_tx=16, n_rx=15}", "n_frequencies=16", "target=points"),
            *("grid.origin_m=[0.35,-0.15,-0.15]", "grid.spacing_m=[0.01,0.01,0.011]", "grid.shape=[31,31,28]"),
        ),
    )
    method = find_method("backprojection")
    free = estimate_file(path, method, method.config(), speed=1.0)
    assert free.blocks is None
    tight = estimate_file(path, method, method.config(), speed=1.0, limit=free.memory)
    assert tight.blocks is not None
    assert tight.memory < 0.9 * free.memory
    assert tight.seconds >= free.seconds
    with pytest.raises(MemoryLimitError, match="expected a limit of at least .* MiB for one process"):
        estimate_file(path, method, method.config(), speed=1.0, limit=100e6)


def test_files_that_do_not_fit_are_refused_before_any_work_and_the_others_done(tmp_path):
    small, _ = scans(tmp_path / "scans", 2)
    big = tmp_path / "scans/mimo_radar_0001.h5"
    with h5py.File(big, "r+") as f:
        f["grid/shape"][...] = [300, 300, 300]
        f["grid/spacing"][...] = [1e-3, 1e-3, 1e-3]
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", "-m", "backprojection", "--max-memory", "1G")
    assert done.status == 3
    assert f"failed: {big}: --max-memory: expected a limit of at least" in done.err
    assert "for one process with method backprojection, found 1 GiB; raise it, use fewer -j" in done.err
    assert done.out.split() == [str(tmp_path / "out/mimo_radar_0000_recon.h5")]
    would = cli("reconstruct", small, big, "-o", tmp_path / "new", "-m", "backprojection", "--max-memory", "1G", "-n")
    assert would.status == 0
    assert "would reconstruct" in would.out.splitlines()[0]
    assert "would refuse" in would.out.splitlines()[1]


# -- from shapes alone --------------------------------------------------------------------------------------


def test_heads_have_the_shapes_of_what_is_read(tmp_path):
    small = {"mri": ("n=32", "calibration=8", "n_coils=3"), "tomography": ("n=16", "n_instants=8")}
    for modality in ("mimo_radar", "tomography", "mri", "irs_mimo"):
        settings = small.get(modality, ()) if modality != "mimo_radar" else ("n_frequencies=3",)
        (path,) = simulate_files(modality, tmp_path, assignments=settings)
        head, whole = read_measurement_head(path), read_measurement(path)
        assert (head.axes, head.data.shape, head.data.dtype) == (whole.axes, whole.data.shape, whole.data.dtype)
        assert head.data.strides == (0,) * head.data.ndim
        assert head.grid == whole.grid
        assert (head.ground_truth is None) == (whole.ground_truth is None)
        if head.ground_truth is not None:
            assert head.ground_truth.data.shape == whole.ground_truth.data.shape
            assert head.ground_truth.axes == whole.ground_truth.axes


@pytest.mark.parametrize("modality", ["mimo_radar", "tomography"])
def test_nothing_of_the_images_size_is_allocated(tmp_path, modality):
    settings = {"mimo_radar": ("n_frequencies=3",), "tomography": ("n=16", "n_instants=8")}
    (path,) = simulate_files(modality, tmp_path, assignments=settings[modality])
    with h5py.File(path, "r+") as f:
        f["grid/shape"][...] = [2000, 2000, 2000]
    clock, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in [n for n in ALL if n.startswith(modality) and not n.endswith("rangemigration")]:
        method = find_method(name)
        assert estimate_file(path, method, method.config(), speed=1.0).memory > 32e9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30e3  # kB
    assert time.monotonic() - clock < 5


def test_every_method_has_a_model_that_grows_with_the_file(bench, tmp_path):
    assert set(ALL) <= set(estimate.models())
    for modality in ("mimo_radar", "tomography", "mri", "irs_mimo"):
        settings = {
            "mimo_radar": ("n_frequencies=3", "array_parameters={n_tx=4, n_rx=3}"),
            "tomography": ("n=16", "n_instants=8"),
            "mri": ("n=32", "calibration=8", "n_coils=3"),
            "irs_mimo": ("n_rx=4", "grid_rx=6", "grid_tx=6", "grid_irs=6"),
        }
        more = {
            "mimo_radar": ("frames=40",),
            "tomography": ("n=64",),
            "mri": ("n=128",),
            "irs_mimo": ("n_frames=30",),
        }
        (small,) = simulate_files(modality, tmp_path / "a", assignments=settings[modality])
        (large,) = simulate_files(modality, tmp_path / "b", assignments=(*settings[modality], *more[modality]))
        for name in ALL:
            if name.startswith(modality):
                method = find_method(name)
                one, other = (estimate_file(p, method, method.config(), speed=1.0) for p in (small, large))
                assert 1e8 < one.memory <= other.memory, name
                assert 0 < one.seconds <= other.seconds, name


# -- the command --------------------------------------------------------------------------------------------


def test_the_command_tells_of_files_and_of_all(tmp_path):
    scans(tmp_path / "scans", 3)
    truncate(tmp_path / "scans/mimo_radar_0002.h5")
    done = cli("estimate", tmp_path / "scans", "-m", "l1", "-j", "2")
    assert done.status == 3
    bad, *good = sorted(done.out.splitlines(), key=lambda text: "no estimate" not in text)
    assert "mimo_radar_0002.h5: l1: no estimate:" in bad
    assert "truncated" in bad
    assert all(": l1: about " in text and "MiB, " in text for text in good)
    assert "2 files, -j 2: at most " in done.err
    values = json.loads(cli("estimate", tmp_path / "scans", "-m", "l1", "--json").out)
    assert {"file", "method", "peak_bytes", "seconds"} in [set(v) for v in values]


def test_a_dry_run_tells_it_too(tmp_path):
    (one,) = scans(tmp_path / "scans")
    done = cli("reconstruct", one, "-o", tmp_path / "out", "-m", "backprojection", "-n")
    assert done.status == 0
    assert f"would reconstruct: {one} -> " in done.out
    assert "(backprojection): about " in done.out
    assert "1 file, -j 1: at most " in done.err


def test_words():
    assert [duration(s) for s in (0.42, 7.2, 42, 240, 7800)] == ["0.42 s", "7.2 s", "42 s", "4 min", "2 h 10 min"]
    few = [Estimate(2**30, 60.0), Estimate(2**29, 60.0), Estimate(2**29, 60.0)]
    assert total(few, 2) == "3 files, -j 2: at most 1.5 GiB, about 90 s"
