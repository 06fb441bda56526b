"""Parameters chosen by optimisation: never worse than the start, repeatable, resumable, honest about failures."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import tomllib

import h5py
import numpy as np
import pytest
from batch_cases import cli, command, environment, scans, spoil

from data import read_measurement
from imaging.errors import DivergedError
from pipelines import tune_score
from pipelines.config import ConfigError
from pipelines.methods import METHODS, find_method
from pipelines.reconstruct import reconstruct
from pipelines.tune import TuneError, TuneInterrupted, tune
from pipelines.tune_score import replaced, split
from pipelines.tune_space import SUGGESTED, Choices, Range, contains, space_of

optuna = pytest.importorskip("optuna")

SPACE = {"solver.alpha": Range(1e-3, 3e-1, log=True), "solver.max_iter": Range(3, 12)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("scans"), 2, "n_frequencies=5", "seed=1")


@pytest.fixture
def blind(tmp_path):
    """A file without truth."""
    (path,) = scans(tmp_path / "blind", 1, "n_frequencies=6")
    with h5py.File(path, "r+") as f:
        del f["ground_truth"]
    return path


def outcomes(result):
    return [(t.number, t.values, t.score) for t in result.trials]


# -- the search ---------------------------------------------------------------------------------------------


def test_the_result_is_that_of_reconstruct_and_not_worse_than_the_start(files):
    seen = []
    result = tune(files, "l1", space=SPACE, trials=6, on_trial=lambda trial, best: seen.append(trial.number))
    assert seen == [0, 1, 2, 3, 4, 5]
    assert result.score == "psnr"
    start, best = (
        np.mean([reconstruct(read_measurement(f), "l1", c).metrics["psnr"].value for f in files])
        for c in (find_method("l1").config(), result.config)
    )
    assert result.start.score == pytest.approx(start)
    assert result.best.score == pytest.approx(best)
    assert best >= start
    assert outcomes(tune(files, "l1", space=SPACE, trials=6)) == outcomes(result)
    assert outcomes(tune(files, "l1", space=SPACE, trials=3, seed=1))[1:] != outcomes(result)[1:3]


def test_the_start_wins_where_nothing_is_better(files):
    hopeless = {"solver.alpha": Range(1e-6, 2e-6)}
    result = tune(files[:1], "l1", space=hopeless, trials=3)
    assert result.best.number == 0
    assert result.config == find_method("l1").config()
    assert tune(files[:1], "l1", space=hopeless, trials=3, score="nmse").best.number == 0


def test_an_interrupted_search_goes_on_and_ends_like_one_that_was_not(files, tmp_path):
    whole = tune(files[:1], "l1", space=SPACE, trials=14)

    def stop(trial, best):
        if trial.number == 2:
            raise KeyboardInterrupt

    study = tmp_path / "s.study"
    with pytest.raises(TuneInterrupted) as stopped:
        tune(files[:1], "l1", space=SPACE, trials=14, study=study, on_trial=stop)
    assert outcomes(stopped.value.result) == outcomes(whole)[:3]
    with study.open("ab") as f:
        f.write(b'{"op_code":4,"work')  # killed as it wrote
    (tmp_path / "s.study.lock").touch()
    assert outcomes(tune(files[:1], "l1", space=SPACE, trials=14, study=study)) == outcomes(whole)
    assert len(tune(files[:1], "l1", space=SPACE, trials=4, study=study).trials) == 14


def test_a_trial_that_was_killed_is_done_again(files, tmp_path, monkeypatch):
    whole = tune(files[:1], "l1", space=SPACE, trials=4)
    image, calls = tune_score.reconstruct, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) in (1, 4):
            raise KeyboardInterrupt
        return image(*arguments, **options)

    monkeypatch.setattr(tune_score, "reconstruct", killed)
    study = tmp_path / "s.study"
    for _ in range(2):
        with pytest.raises(TuneInterrupted):
            tune(files[:1], "l1", space=SPACE, trials=4, study=study)
    assert outcomes(tune(files[:1], "l1", space=SPACE, trials=4, study=study)) == outcomes(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": {"solver.alpha": Range(1e-2, 3e-1)}}, "other parameters or ranges"),
        ({"seed": 5}, "another seed"),
        ({"score": "nmse"}, "another score"),
        ({"method": "tv"}, "another method and another configuration"),
        ({"files": 2}, "other files"),
    ],
)
def test_another_search_is_refused(files, tmp_path, change, words):
    study = tmp_path / "s.study"
    arguments = {"files": 1, "method": "l1", "space": SPACE, "trials": 1, "study": study}
    tune(files[:1], **{k: v for k, v in arguments.items() if k != "files"})
    arguments |= change
    kept = study.read_bytes()
    with pytest.raises(ConfigError, match=f"s.study: expected a study of the same search, found one with {words}"):
        tune(files[: arguments.pop("files")], **arguments)
    assert study.read_bytes().startswith(kept)


def test_a_file_of_something_else_is_no_study(files, tmp_path):
    study = tmp_path / "notes.txt"
    for content in (b"hello", b"hello\nworld\n"):
        study.write_bytes(content)
        with pytest.raises(ConfigError, match="expected a study of backcast tune, found something else"):
            tune(files[:1], "l1", space=SPACE, trials=1, study=study)
        assert study.read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_two_searches_do_not_share_a_study(files, tmp_path):
    import fcntl

    study = tmp_path / "s.study"
    with study.open("wb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another backcast tune is at work on it"):
            tune(files[:1], "l1", space=SPACE, trials=1, study=study)


def test_in_parallel(files, tmp_path):
    result = tune(files[:1], "l1", space=SPACE, trials=5, jobs=2, study=tmp_path / "s.study")
    assert [t.number for t in result.trials] == [0, 1, 2, 3, 4]
    alone = tune(files[:1], "l1", space=SPACE, trials=1)
    assert result.start.score == pytest.approx(alone.start.score, abs=1e-3)
    assert result.best.score >= result.start.score


def test_bad_trials_are_counted_and_named(files, monkeypatch):
    image, calls = tune_score.reconstruct, []

    def bad(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise DivergedError("iteration 3: left the finite numbers")
        if len(calls) == 3:
            raise tune_score.MeasurementError("/grid/shape: expected an image that fits")
        result = image(*arguments, **options)
        return dataclasses.replace(result, status="diverged") if len(calls) == 4 else result

    monkeypatch.setattr(tune_score, "reconstruct", bad)
    monkeypatch.setattr(tune_score, "_is_a_defect", lambda error: False)  # raised here, not in our packages
    result = tune(files[:1], "l1", space=SPACE, trials=5)
    assert [t.number for t in result.failed] == [1, 2, 3]
    assert all(str(files[0]) in t.reason for t in result.failed)
    assert "by 5 trials, 3 of them without a score" in result.toml()


def test_a_defect_is_not_a_bad_trial(files, monkeypatch):
    monkeypatch.setattr(tune_score, "reconstruct", lambda *a, **o: int("no number"))
    with pytest.raises(ValueError, match="no number"):
        tune(files[:1], "l1", space=SPACE, trials=2)


def test_no_score_at_all_is_a_sentence(files, monkeypatch):
    def bad(*arguments, **options):
        raise DivergedError("iteration 3")

    monkeypatch.setattr(tune_score, "reconstruct", bad)
    with pytest.raises(TuneError, match="none of 2 trials gave a score; the first: .*iteration 3"):
        tune(files[:1], "l1", space=SPACE, trials=2)


# -- held out -----------------------------------------------------------------------------------------------


def test_without_truth_held_out_samples_score(blind):
    result = tune([blind], "l1", space=SPACE, trials=4)
    assert result.score == "heldout"
    assert result.best.score <= result.start.score
    assert outcomes(tune([blind], "l1", space=SPACE, trials=4)) == outcomes(result)
    direct = tune([blind], "kirchhoff", trials=2)
    assert direct.best.score < 1  # after the best gain


def test_held_out_samples_are_whole_frequencies_inside_the_band(blind):
    m = read_measurement(blind)
    seen, held_out = split(m, 0)
    assert seen.n("frequency") == m.n("frequency") - 1
    assert held_out.n("frequency") == 1
    (f,) = held_out.scale("frequency")
    assert f not in seen.scale("frequency")
    assert m.scale("frequency")[0] < f < m.scale("frequency")[-1]
    (i,) = np.flatnonzero(m.scale("frequency") == f)
    assert np.array_equal(held_out.data[..., 0], m.data[..., i])
    assert np.array_equal(split(m, 0)[0].data, seen.data)
    assert len({split(m, seed)[1].scale("frequency")[0] for seed in range(20)}) == m.n("frequency") - 2


def test_with_few_frequencies_antennas_are_held_out(tmp_path):
    (path,) = scans(tmp_path, 1, "n_frequencies=2")
    m = read_measurement(path)
    mask = np.ones((m.n("tx"), m.n("frequency")), np.uint8)
    m = dataclasses.replace(m, mask=mask, mask_axes=("tx", "frequency"))
    seen, held_out = split(m, 0)
    assert (seen.n("tx"), held_out.n("tx")) == (3, 1)
    assert seen.geometry["tx_positions"].shape == (3, 3)
    assert seen.mask.shape == (3, 2)
    assert tune([path], "l1", space=SPACE, trials=1, score="heldout").best.score < 2
    (tiny,) = scans(tmp_path / "tiny", 1, "n_frequencies=2", "array_parameters.n_tx=2")
    with pytest.raises(TuneError, match="needs an axis of 4 frequencies, antennas or channels"):
        tune([tiny], "l1", space=SPACE, trials=1, score="heldout")


# -- the space ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in METHODS if m.name in SUGGESTED], ids=lambda m: m.name)
def test_suggested_ranges_hold_the_defaults(method):
    config = method.config()
    space = space_of(method, config)
    assert space
    for name, domain in space.items():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        assert value is None or contains(domain, value), name
        for end in domain.values if isinstance(domain, Choices) else (domain.low, domain.high):
            replaced(config, {name: end})


def test_suggestions_follow_the_configuration():
    method = find_method("l1")
    csalsa = replaced(method.config(), {"solver.kind": "csalsa"})
    assert "solver.kappa_fraction" in space_of(method, csalsa)
    assert "solver.kappa_fraction" not in space_of(method, method.config())
    assert "solver.alpha" not in space_of(method, method.config(), fixed=["alpha"])


def test_parameters_as_typed():
    method = find_method("tv")
    typed = ["alpha=1e-3:0.1:log", "tv.n_iter=5:20", "l1_weight=0,0.5,1", "kind=auto,csalsa", "alpha_final=none,0.01"]
    typed.append("solver.tol")
    assert space_of(method, method.config(), typed) == {
        "solver.alpha": Range(1e-3, 0.1, log=True),
        "tv.n_iter": Range(5, 20),
        "tv.l1_weight": Choices((0, 0.5, 1)),
        "solver.kind": Choices(("auto", "csalsa")),
        "solver.alpha_final": Choices((None, 0.01)),
        "solver.tol": Range(1e-3, 1e-1, log=True),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("solver.alhpa=0.1:1", "unknown key solver.alhpa for method l1; did you mean solver.alpha?"),
        ("nonsense", "unknown key nonsense for method l1"),
        ("solver.cg_steps", "expected KEY=LOW:HIGH"),
        ("solver.alpha=0:1", "solver.alpha: expected a number > 0, found 0"),
        ("solver.alpha=1:0.1", "expected LOW below HIGH, found 1 and 0.1"),
        ("solver.tol=0:1:log", "expected LOW > 0 for a logarithmic range"),
        ("solver.alpha=a:b", "expected KEY=LOW:HIGH"),
        ("solver.alpha=0.1:1:ln", "expected KEY=LOW:HIGH"),
        ("solver.alpha=0.1:inf", "expected KEY=LOW:HIGH"),
        ("solver.alpha=0.1", "expected two different values or more"),
        ("solver.max_iter=1.5:3", "solver.max_iter: expected a whole number >= 1, found 1.5"),
        ("solver.kind=auto,best", "expected one of 'auto', 'projected', 'csalsa', found 'best'"),
        ("solver=1,2", "solver: expected a table [solver]"),
    ],
)
def test_parameters_that_are_refused(files, text, words):
    done = cli("tune", files[0], "-m", "l1", "--trials", 1, "--parameter", text)
    assert done.status == 2
    assert done.err.startswith(f"backcast: --parameter {text}: ")
    assert words in done.err


def test_a_start_outside_the_space_and_values_without_order(files):
    space = {"solver.alpha": Range(0.1, 0.3), "solver.alpha_final": Range(0.01, 0.1), "solver.kind": Choices(("auto",))}
    with pytest.raises(ConfigError, match="space: solver.kind: expected two different values"):
        tune(files[:1], "l1", space=space, trials=1)
    space["solver.kind"] = Choices(("auto", "csalsa"))
    space["solver.max_iter"] = Range(3, 8)
    result = tune(files[:1], "l1", space=space, trials=12)
    assert result.start.values == {}
    assert len({t.values["solver.alpha"] for t in result.trials[1:]}) == 11
    assert {t.values["solver.kind"] for t in result.trials[1:]} <= {"auto", "csalsa"}


# -- the command --------------------------------------------------------------------------------------------


def test_the_command_writes_what_reconstruct_takes(files, tmp_path):
    output = tmp_path / "tuned.toml"
    done = cli("tune", *files, "-m", "l1", "-s", "max_iter=6", "--trials", 3, "-o", output)
    assert done.status == 0, done.err
    assert done.out == output.read_text()
    head, values = done.out.split("\n\n", 1)
    assert "# tuned: PSNR " in head
    assert "before PSNR " in head
    assert "# by 3 trials, seed 0" in head
    assert '"mimo_radar_0000.h5", "mimo_radar_0001.h5"' in head
    assert tomllib.loads(values)["solver"]["max_iter"] == 6  # fixed by -s
    assert [line[:5] for line in done.err.splitlines()[:3]] == ["[1/3]", "[2/3]", "[3/3]"]
    assert "best of 3: PSNR" in done.err
    made = cli("reconstruct", files[0], "-c", output, "-o", tmp_path / "out")
    assert made.status == 0, made.err
    assert {p.name for p in tmp_path.iterdir()} == {"tuned.toml", "out"}


def test_held_out_by_default_is_said(blind):
    done = cli("tune", blind, "-m", "l1", "--trials", 1, "--progress", "none")
    assert done.status == 0
    assert done.err.startswith("no truth in every file: scored by held-out samples (--score heldout)\n")


def test_a_denoiser_is_tuned_for(files, tmp_path):
    code = tmp_path / "soft.py"
    code.write_text("def soft(v, sigma):\n    return (v - sigma).clamp_min(0)\n")
    arguments = ["tune", files[0], "-m", "pnp", "--trials", 2, "-s", "max_iter=4"]
    done = cli(*arguments, "-d", f"{code}:soft", "--study", tmp_path / "s.study")
    assert done.status == 0, done.err
    assert tomllib.loads(done.out)["denoiser"]["file"] == f"{code}:soft"
    assert "needs a denoiser" in cli(*arguments, "-s", "denoiser.file=").err
    code.write_text("def soft(v, sigma):\n    return v\n")
    other = cli(*arguments, "-d", f"{code}:soft", "--study", tmp_path / "s.study")
    assert "found one with another denoiser" in other.err


def test_a_worker_that_dies_at_the_start_ends_the_search(files, tmp_path):
    code = tmp_path / "deadly.py"
    code.write_text("import os\n\n\ndef deadly(v, sigma):\n    os._exit(7)\n")
    done = cli("tune", files[0], "-m", "pnp", "-d", f"{code}:deadly", "--trials", 4, "-j", 2)
    assert done.status == 1
    assert "its worker process ended with status 7; too little memory? try fewer -j" in done.err.splitlines()[-1]


def test_what_is_refused_before_any_trial(files, blind, tmp_path):
    def refused(*arguments, status=2):
        done = cli("tune", *arguments)
        assert done.status == status
        assert done.out == ""
        assert len(done.err.splitlines()) == 1
        return done.err

    one = files[0]
    assert "expected parameters to tune, none is suggested" in refused(one, "-m", "backprojection")
    assert f"expected a truth in every file, {blind} has none" in refused(one, blind, "--score", "psnr")
    assert "would be written over what is read" in refused(one, "-o", one)
    assert "expected a file in a folder" in refused(one, "-o", tmp_path / "none" / "x.toml")
    assert "expected a file in a folder" in refused(one, "--study", tmp_path)
    assert "method l1 takes none" in refused(one, "-m", "l1", "-d", "x:y")
    assert "leave [grid] to the file" in refused(one, "-m", "l1", "-s", "grid.shape=[5,5,5]", status=1)
    assert "window of 11" in refused(*scans(tmp_path / "flat", 1, "grid.shape=[5,11,11]"), "--score", "ssim", status=1)
    spoil(blind)
    assert "(BC501)" in refused(blind, "--progress", "none", "--score", "heldout", status=1)


def test_without_optuna_it_is_a_sentence(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = cli("tune", files[0])
    assert done.status == 2
    assert done.err == 'backcast: tune needs optuna, which is not installed: pip install "backcast[tune]"\n'


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_prints_the_best_so_far(files, tmp_path, jobs):
    study = [] if jobs == 1 else ["--study", tmp_path / "s.study"]
    typed = command("tune", files[0], "-m", "l1", "--trials", 500, "-j", jobs, *study)
    with subprocess.Popen(
        typed, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith("[3/"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert tomllib.loads(out)["method"] == "l1"
    assert "best of " in err
    last = err.splitlines()[-1]
    assert last.startswith("backcast: interrupted; ")
    assert ("the trials are lost" in last) == (jobs == 1)
    if study:
        assert "goes on after" in cli("tune", files[0], "-m", "l1", "--trials", 3, *study).err
