"""Training: noise and losses against closed forms, and an interrupted run that is the same as one that was not."""

from __future__ import annotations

import csv
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batch_cases import ROOT, environment
from torch import nn
from torch.utils.data import Dataset

import denoisers.training as training
from denoisers import DnCnn, GaussianNoise, NoisyPairs, TrainingOptions, UNet3d, train, validation_of
from denoisers.checkpoint import CheckpointError, load_checkpoint
from denoisers.losses import LOSSES, split, supervised, sure
from denoisers.noise import MixedPairs, generator_of
from denoisers.optimisers import make_optimiser, rate_factor
from denoisers.training import TrainingError, weights_sha256
from denoisers.weight_files import load_weights
from pipelines.config import ConfigError, resolve
from pipelines.train import clean_images, train_denoiser
from pipelines.train_config import DataTable, NetworkTable, NoiseConfig, TrainConfig, TrainingTable, ValidationTable

#: For processes that import this file.
SELF = {**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
TORCHRUN = Path(sys.executable).parent / "torchrun"


class Squares(Dataset):
    """A square somewhere in 10 x 10 pixels, by number."""

    def __getitem__(self, index):
        row, column = torch.randint(0, 5, (2,), generator=generator_of(5, index)).tolist()
        image = torch.zeros(10, 10)
        image[row : row + 5, column : column + 4] = 0.8
        return image


PAIRS = NoisyPairs(Squares(), GaussianNoise(0.05, 0.2), seed=1)
VALIDATE = validation_of({s: NoisyPairs(Squares(), GaussianNoise(s, s), seed=2) for s in (0.1, 0.2)}, n=4)


def network(seed=0):
    torch.manual_seed(seed)
    return DnCnn(n_layers=1, channels=4, noise_channel=True)


def options(**more):
    usual = {"steps": 12, "batch": 2, "warmup": 2, "validate_every": 4, "checkpoint_every": 3, "log_every": 2}
    return TrainingOptions(**{**usual, "ema": 0.9, **more})


def stop_after(step):
    """Asked once a step; True the `step`th time."""
    asked = iter(range(1, 10**9))
    return lambda: next(asked) >= step


def outcome(folder, result, net):
    """All that must not depend on interruptions."""
    return result, weights_sha256(net), (folder / "log.csv").read_bytes(), load_checkpoint(folder / "last.pt")


def rows_of(folder):
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def equal(a, b):
    """Nested plain values and tensors, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


# -- noise ----------------------------------------------------------------------------------------------------


def test_gaussian_noise_has_the_level_it_says():
    clean = torch.full((100, 100), 0.5)
    for index in range(20):
        noisy, sigma = GaussianNoise(0.05, 0.2)(clean, generator_of(0, index))
        noise, n = (noisy - clean).double(), clean.numel()
        assert 0.05 <= sigma <= 0.2
        assert abs(float(noise.mean())) < 4 * sigma / math.sqrt(n)
        assert float(noise.std()) == pytest.approx(sigma, rel=4 / math.sqrt(2 * n))
        assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 4 * sigma**2 / math.sqrt(n)
        assert float(noisy.min()) < 0.5 < float(noisy.max())


def test_noise_of_complex_images_has_its_level_in_each_part():
    clean = torch.zeros(64, 64, dtype=torch.complex64)
    noisy, sigma = GaussianNoise(0.1, 0.1)(clean, generator_of(0, 0))
    assert float(noisy.real.std()) == pytest.approx(sigma, rel=0.05)
    assert float(noisy.imag.std()) == pytest.approx(sigma, rel=0.05)
    assert abs(float((noisy.real * noisy.imag).mean())) < 1e-3


def test_noise_levels_are_uniform():
    clean, n = torch.zeros(1, 1), 2000
    levels = torch.tensor([GaussianNoise(0.1, 0.3)(clean, generator_of(3, i))[1] for i in range(n)]).double()
    assert float(levels.mean()) == pytest.approx(0.2, abs=3 * 0.2 / math.sqrt(12 * n))
    assert float(levels.std()) == pytest.approx(0.2 / math.sqrt(12), rel=0.05)


def test_a_pair_depends_on_seed_and_number_alone():
    other = NoisyPairs(Squares(), GaussianNoise(0.05, 0.2), seed=1)
    other[3], other[0]  # what was asked before must not matter
    for index in (7, 0, 7):
        assert equal(PAIRS[index], other[index])
    assert not torch.equal(PAIRS[7][0], PAIRS[8][0])
    assert not torch.equal(PAIRS[7][0], NoisyPairs(Squares(), GaussianNoise(0.05, 0.2), seed=2)[7][0])


def test_images_that_are_noisy_themselves_are_handed_out_as_they_are():
    noisy, clean, sigma = NoisyPairs(Squares(), GaussianNoise(), seed=0, known_sigma=0.07)[3]
    assert torch.equal(noisy, Squares()[3])
    assert torch.equal(clean, noisy)
    assert sigma == 0.07


def test_mixed_pairs_come_in_their_shares():
    other = NoisyPairs(Squares(), GaussianNoise(0.5, 0.5), seed=1)
    n = 1000
    share = sum(MixedPairs(PAIRS, other, fraction=0.3, seed=4)[i][2] == 0.5 for i in range(n)) / n
    assert share == pytest.approx(0.3, abs=3 * math.sqrt(0.3 * 0.7 / n))
    with pytest.raises(ValueError, match="expected 0 to 1"):
        MixedPairs(PAIRS, other, fraction=1.5, seed=0)


def test_noise_bounds_are_checked():
    with pytest.raises(ValueError, match="0 <= low <= high"):
        GaussianNoise(0.2, 0.1)


# -- losses ---------------------------------------------------------------------------------------------------


class Shrink(nn.Module):
    """D(v) = 0.7 v."""

    def forward(self, v, sigma):
        return 0.7 * v


class Same(nn.Module):
    """D(v) = v."""

    def forward(self, v, sigma):
        return v


class Soft(nn.Module):
    """Soft thresholding at sigma."""

    def forward(self, v, sigma):
        level = sigma.reshape(-1, *(1,) * (v.ndim - 1))
        return v.sign() * (v.abs() - level).clamp_min(0)


class Smooth(nn.Module):
    """A network with curvature."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).double()

    def forward(self, v, sigma):
        return self.layers(v)


@pytest.mark.parametrize("denoiser", [Shrink(), Soft(), Smooth()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize(("loss", "constant"), [(sure, 0.0), (split, 1 + 1 / 0.25)])
def test_without_clean_images_losses_are_the_supervised_one_in_expectation(loss, constant, denoiser):
    """Up to a known constant, σ² (1 + 1/a²) for splitting, which sees the level √(1 + a²) σ."""
    clean = torch.stack([Squares()[i] for i in range(50)])[:, None].double()
    sigma = torch.full((50,), 0.3, dtype=torch.float64)
    gaps, blank = [], torch.full_like(clean, torch.nan)  # the clean image is not looked at
    for draw in range(60):
        g = generator_of(11, draw)
        n, more = (0.3 * torch.randn(clean.shape, generator=g, dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            risk = float(loss(denoiser, clean + n, blank, sigma, g)) - constant * 0.3**2
            if loss is split:  # what it estimates: the error on y₁ = y + a n
                level = math.sqrt(1.25)
                truth = float(supervised(denoiser, clean + n + 0.5 * more, clean, level * sigma, g))
            else:
                truth = float(supervised(denoiser, clean + n, clean, sigma, g))
        gaps.append(risk - truth)
    gap = torch.tensor(gaps)
    assert abs(float(gap.mean())) < 3 * float(gap.std()) / math.sqrt(len(gaps))
    assert float(gap.std()) / math.sqrt(len(gaps)) < 0.02 * truth + 0.01 * constant * 0.3**2


def test_sure_of_a_linear_denoiser_is_its_formula():
    """(0.3)² y²/n - σ² + 2 σ² 0.7 bᵀb/n"""
    v, sigma = torch.randn(1, 1, 9, 9, generator=generator_of(0, 0)).double(), torch.tensor([0.2]).double()
    probe = torch.randn(v.shape, generator=generator_of(0, 1)).double()
    expected = 0.09 * v.square().mean() - 0.04 + 0.08 * 0.7 * probe.square().mean()
    torch.testing.assert_close(sure(Shrink(), v, v, sigma, generator_of(0, 1)), expected)


def test_losses_by_name():
    assert set(LOSSES) == {"supervised", "log_supervised", "sure", "split"}


def test_the_logarithm_of_the_error_is_its_formula():
    clean = torch.stack([Squares()[i] for i in range(2)])[:, None]
    v = clean + torch.tensor([0.01, 0.5]).reshape(2, 1, 1, 1)
    loss = LOSSES["log_supervised"](Same(), v, clean, torch.zeros(2), generator_of(0, 0))
    assert float(loss) == pytest.approx(1e-3 * (math.log(1.1) + math.log(251)) / 2, rel=1e-4)


# -- schedules and optimisers ---------------------------------------------------------------------------------


def test_schedules_are_closed_forms():
    steps = 40
    for step in range(steps):
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))
        rise = min(1.0, (step + 1) / 10)
        assert rate_factor("cosine", step, steps) == pytest.approx(cosine)
        assert rate_factor("cosine", step, steps, warmup=10) == pytest.approx(rise * cosine)
        assert rate_factor("constant", step, steps, warmup=10) == rate_factor("plateau", step, steps, warmup=10) == rise
    assert rate_factor("cosine", steps, steps) == pytest.approx(0.01)


def test_plateau_divides_the_rate_by_ten(tmp_path):
    """When as many validations as it waits were no better."""
    scores = iter([3.0, 2.0, 2.5, 2.0, 1.0, 1.5, 1.5, 1.5, 1.5])
    o = options(steps=9, schedule="plateau", plateau_patience=2, validate_every=1, warmup=0)
    result = train(network(), PAIRS, lambda net: (next(scores), {0.1: 1.0}), o, folder=tmp_path)
    rates = [float(r["learning_rate"]) / o.lr for r in rows_of(tmp_path)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert (result.best_step, result.best_mse) == (5, 1.0)


OPTIMISERS = ["Adam", "adamw", "SGD", "AdaBelief", "Adan", "Lion", "diffGrad", "EXAdam"]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_steps_and_resumes_exactly(tmp_path, name):
    o = options(steps=6, optimiser=name)
    whole = network()
    before = weights_sha256(whole)
    done = outcome(tmp_path / "a", train(whole, PAIRS, VALIDATE, o, folder=made(tmp_path / "a")), whole)
    assert done[1] != before
    parts = network()
    assert not train(parts, PAIRS, VALIDATE, o, folder=made(tmp_path / "b"), stop=stop_after(3)).finished
    parts = network(seed=9)
    again = train(parts, PAIRS, VALIDATE, o, folder=tmp_path / "b", resume=True)
    assert equal(list(outcome(tmp_path / "b", again, parts)), list(done))


def made(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("Adamm", {}, "did you mean adam?"),
        ("AdaBelieve", {}, "did you mean adabelief?"),
        ("LBFGS", {}, "steps on a dense gradient alone"),
        ("SparseAdam", {}, "steps on a dense gradient alone"),
        ("Adam", {"momentum": 0.9}, "unknown option momentum; it takes lr, betas"),
        ("Adam", {"betas": [2, 3]}, "optimiser Adam: Invalid beta"),
        ("Lion", {"betas": 3}, "optimiser Lion: "),
    ],
)
def test_an_optimiser_that_cannot_be_made_is_a_sentence(name, settings, words):
    with pytest.raises(ValueError, match=words):
        make_optimiser(name, network().parameters(), lr=1e-3, options=settings)


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ImportError, match=r'optimiser Lion: not in torch; for more .*pip install "backcast\[optim'):
        make_optimiser("Lion", network().parameters(), lr=1e-3)
    with pytest.raises(ImportError, match="did you mean Adam?"):
        make_optimiser("Adamm", network().parameters(), lr=1e-3)
    make_optimiser("adam", network().parameters(), lr=1e-3)


def test_options_of_an_optimiser_arrive():
    optimiser = make_optimiser("Adam", network().parameters(), lr=1e-3, options={"betas": [0.8, 0.9]})
    assert optimiser.param_groups[0]["betas"] == (0.8, 0.9)


# -- the loop -------------------------------------------------------------------------------------------------


def test_training_lowers_the_error_and_ends_with_the_best_weights(tmp_path):
    net, seen = network(), []
    o = options(steps=60, lr=1e-2, validate_every=20, log_every=10)
    start, _ = VALIDATE(net.eval())
    result = train(net, PAIRS, VALIDATE, o, folder=tmp_path, on_report=[lambda r, n: seen.append(r)])
    again, levels = VALIDATE(net)
    assert result.finished
    assert not net.training
    assert again == result.best_mse < start
    assert levels == result.per_level
    assert again == pytest.approx(sum(levels.values()) / 2)
    assert [r.step for r in seen] == [10, 20, 30, 40, 50, 60]
    assert [r.validation_mse is not None for r in seen] == [False, True] * 3
    assert min(r.validation_mse for r in seen[1::2]) == result.best_mse
    rows = rows_of(tmp_path)
    assert [int(r["step"]) for r in rows] == [10, 20, 30, 40, 50, 60]
    assert [float(r["train_loss"]) for r in rows] == [r.train_loss for r in seen]
    assert [r["validation_mse"] == "" for r in rows] == [True, False] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bfloat16"},
        {"ema": 0.0, "clip": None},
        {"loss": "sure"},
        {"loss": "split"},
        {"schedule": "plateau", "plateau_patience": 1, "validate_every": 2, "lr": 0.1},
        {"patience": 1, "validate_every": 2, "lr": 0.3, "optimiser": "SGD"},
    ],
    ids=str,
)
@pytest.mark.parametrize("step", [1, 5, 8])
def test_an_interrupted_run_is_the_same_as_one_that_was_not(tmp_path, settings, step):
    o, whole = options(**settings), network()
    done = outcome(tmp_path / "a", train(whole, PAIRS, VALIDATE, o, folder=made(tmp_path / "a")), whole)
    part = network()
    stopped = train(part, PAIRS, VALIDATE, o, folder=made(tmp_path / "b"), stop=stop_after(step))
    if done[0].step > step:
        assert (stopped.step, stopped.finished) == (step, False)
    torch.manual_seed(123)  # the global generator must not matter
    rest = network(seed=7)
    result = train(rest, PAIRS, VALIDATE, o, folder=tmp_path / "b", resume=True)
    assert equal(list(outcome(tmp_path / "b", result, rest)), list(done))


def test_batch_normalisation_resumes_too(tmp_path):
    class Volumes(Squares):
        def __getitem__(self, index):
            return super().__getitem__(index)[:8, :8].expand(4, 8, 8).clone()

    pairs = NoisyPairs(Volumes(), GaussianNoise(0.1, 0.1), seed=0)
    validate, o = validation_of({0.1: pairs}, n=2), options(steps=6, validate_every=3)
    torch.manual_seed(0)
    whole, rest = UNet3d(2), UNet3d(2)
    start = {k: v.clone() for k, v in whole.state_dict().items()}
    done = outcome(tmp_path / "a", train(whole, pairs, validate, o, folder=made(tmp_path / "a")), whole)
    rest.load_state_dict(start)
    train(rest, pairs, validate, o, folder=made(tmp_path / "b"), stop=stop_after(2))
    result = train(rest, pairs, validate, o, folder=tmp_path / "b", resume=True)
    assert equal(list(outcome(tmp_path / "b", result, rest)), list(done))


def test_early_stopping_waits_for_as_many_validations(tmp_path):
    scores = iter([3.0, 2.0, 2.0, 2.5, 1.0])
    o = options(steps=50, patience=2, validate_every=2)
    result = train(network(), PAIRS, lambda net: (next(scores), {0.1: 1.0}), o, folder=tmp_path)
    assert (result.step, result.best_step, result.best_mse, result.finished) == (8, 4, 2.0, True)
    again = train(network(), PAIRS, lambda net: (math.nan, {}), o, folder=tmp_path, resume=True)
    assert again == result  # nothing is left to do


def test_workers_make_the_same_samples():
    code = """
import test_training as t
net = t.network()
t.train(net, t.PAIRS, t.VALIDATE, t.options(steps=6, workers=2))
print(t.weights_sha256(net))
"""
    ran = subprocess.run([sys.executable, "-c", code], env=SELF, capture_output=True, text=True, timeout=120)
    net = network()
    train(net, PAIRS, VALIDATE, options(steps=6))
    assert ran.stdout == f"{weights_sha256(net)}\n", ran.stderr


def test_a_killed_run_is_the_same_as_one_that_was_not(tmp_path):
    """kill -9 in step 8; what goes on from the last checkpoint, of step 6, ends as if nothing had been."""
    folder, steps = made(tmp_path / "b"), []
    code = """
import itertools, sys, time
from pathlib import Path
import test_training as t
steps = itertools.count(1)
def stop():
    print(step := next(steps), flush=True)
    time.sleep(60 * (step == 8))
    return False
t.train(t.network(), t.PAIRS, t.VALIDATE, t.options(), folder=Path(sys.argv[1]), stop=stop)
"""
    running = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=SELF, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    with running.stdout as printed:
        assert [next(printed) for _ in range(8)] == [f"{step}\n" for step in range(1, 9)]
        running.kill()
    assert running.wait() == -signal.SIGKILL
    rest, whole = network(seed=3), network()
    result = train(rest, PAIRS, VALIDATE, options(), folder=folder, resume=True, on_start=steps.append)
    done = train(whole, PAIRS, VALIDATE, options(), folder=made(tmp_path / "a"))
    assert steps == [6]
    assert equal(list(outcome(folder, result, rest)), list(outcome(tmp_path / "a", done, whole)))


def test_a_report_that_fails_costs_no_step(tmp_path):
    def fails(report, network):
        if report.step == 6:
            raise OSError("no space for a picture")

    folder, steps = made(tmp_path / "b"), []
    with pytest.raises(OSError, match="picture"):
        train(network(), PAIRS, VALIDATE, options(), folder=folder, on_report=[fails])
    (folder / "log.csv").unlink()  # as if killed before it was written
    rest, whole = network(seed=3), network()
    result = train(rest, PAIRS, VALIDATE, options(), folder=folder, resume=True, on_start=steps.append)
    done = train(whole, PAIRS, VALIDATE, options(), folder=made(tmp_path / "a"))
    assert steps == [6]
    assert equal(list(outcome(folder, result, rest)), list(outcome(tmp_path / "a", done, whole)))


def test_a_finished_run_writes_its_log_again(tmp_path):
    train(network(), PAIRS, VALIDATE, options(), folder=made(tmp_path / "a"))
    log = tmp_path / "a" / "log.csv"
    before = log.read_bytes()
    log.unlink()
    train(network(), PAIRS, VALIDATE, options(), folder=tmp_path / "a", resume=True)
    assert log.read_bytes() == before


def test_no_average_takes_the_weights():
    net, seen = network(), []
    o = options(ema=0.0, validate_every=1, steps=3)

    def validate(average):
        seen.append(weights_sha256(average))
        return 1.0 / len(seen), {0.1: 0.0}

    train(net, PAIRS, validate, o)
    plain = network()
    optimiser = make_optimiser("AdamW", plain.parameters(), lr=o.lr)
    for step in range(3):
        items = [PAIRS[i] for i in range(2 * step, 2 * step + 2)]
        v, clean = (torch.stack([item[k] for item in items])[:, None] for k in (0, 1))
        loss = supervised(plain, v, clean, torch.tensor([item[2] for item in items]), torch.Generator())
        for group in optimiser.param_groups:
            group["lr"] = o.lr * rate_factor("cosine", step, 3, warmup=2)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimiser.step()
        assert weights_sha256(plain) == seen[step]
    assert weights_sha256(net) == weights_sha256(plain)


def test_the_average_is_the_closed_form():
    """w̄ ← w̄ + (1 - d)(w - w̄), d = min(decay, (1 + n)/(10 + n))"""

    class Steady(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(1))

        def forward(self, v, sigma):
            return v * 0 + self.a

    net, found = Steady(), []
    o = options(steps=8, ema=0.2, optimiser="SGD", lr=1.0, clip=None, schedule="constant", warmup=0, validate_every=1)
    one = NoisyPairs([torch.ones(2, 2)] * 99, GaussianNoise(0, 0), seed=0)

    def validate(average):
        found.append(float(average.a.detach()))
        return 1.0 / len(found), {}

    train(net, one, validate, o)
    weight, average = 0.0, 0.0
    for n in range(8):
        weight += 2 * (1 - weight)  # of the gradient of (a - 1)²: 0, 2, 0, 2, ...
        decay = min(0.2, (1 + n) / (10 + n))
        average = weight if n == 0 else average + (1 - decay) * (weight - average)
        assert found[n] == pytest.approx(average, abs=1e-6)


def test_the_gradient_is_clipped():
    moved = []
    for clip in (None, 1e-3):
        net = network()
        before = torch.cat([p.detach().clone().flatten() for p in net.parameters()])
        o = options(steps=1, clip=clip, optimiser="SGD", lr=1.0, schedule="constant", warmup=0, ema=0.0)
        train(net, PAIRS, VALIDATE, o)
        moved.append(float((torch.cat([p.detach().flatten() for p in net.parameters()]) - before).norm()))
    assert moved[1] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0] > 2e-3


class Broken(NoisyPairs):
    """NaN from sample 14 on, in step 8."""

    def __getitem__(self, index):
        noisy, clean, sigma = super().__getitem__(index)
        return noisy * (math.nan if index >= 14 else 1.0), clean, sigma


class Cliff(DnCnn):
    """A finite loss whose gradient is not, from the eighth training pass on."""

    passes = 0

    def forward(self, v, sigma):
        out = super().forward(v, sigma)
        self.passes += self.training
        return out + (0 * self.last.weight.sum()).abs().sqrt() if self.training and self.passes >= 8 else out


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path):
    broken = Broken(Squares(), GaussianNoise(0.05, 0.2), seed=1)
    with pytest.raises(TrainingError, match=r"training step 8: expected a finite loss, found nan; take a smaller lr"):
        train(network(), broken, VALIDATE, options(), folder=tmp_path)
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert checkpoint["step"] == 6
    assert all(bool(torch.isfinite(v).all()) for v in checkpoint["network"].values())
    net, whole = network(seed=3), network()
    train(net, PAIRS, VALIDATE, options(), folder=tmp_path, resume=True)  # once the data are mended it goes on
    train(whole, PAIRS, VALIDATE, options())
    assert weights_sha256(net) == weights_sha256(whole)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_not_stepped_on(tmp_path, clip):
    torch.manual_seed(0)
    o = options(checkpoint_every=1, clip=clip)
    with pytest.raises(TrainingError, match="training step 8: expected a finite gradient"):
        train(Cliff(n_layers=1, channels=4), PAIRS, VALIDATE, o, folder=tmp_path)
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert checkpoint["step"] == 7
    assert all(bool(torch.isfinite(v).all()) for v in checkpoint["network"].values())


def test_a_validation_that_is_not_finite_ends_it(tmp_path):
    scores = iter([1.0, math.nan])
    with pytest.raises(TrainingError, match="training step 8: expected a finite validation error, found nan"):
        train(network(), PAIRS, lambda net: (next(scores), {}), options(), folder=tmp_path)
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 6


# -- checkpoints ----------------------------------------------------------------------------------------------


def started(folder, **more):
    train(network(), PAIRS, VALIDATE, options(), folder=folder, stop=stop_after(5), **more)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"lr": 0.1}, "lr: 0.001 then, 0.1 now"), ({"loss": "sure"}, "loss: supervised then, sure now")],
)
def test_another_configuration_is_refused_in_a_sentence(tmp_path, changed, words):
    started(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(CheckpointError, match=rf"last.pt: expected a checkpoint of this configuration.*\({words}\)"):
        train(network(), PAIRS, VALIDATE, replace(options(), **changed), folder=tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_other_data_and_other_networks_are_refused(tmp_path):
    started(tmp_path, identity={"data": {"seed": 1}})
    again = {"folder": tmp_path, "resume": True}
    with pytest.raises(CheckpointError, match=r"data: {'seed': 1} then, {'seed': 2} now"):
        train(network(), PAIRS, VALIDATE, options(), identity={"data": {"seed": 2}}, **again)
    with pytest.raises(CheckpointError, match="expected a checkpoint of this network and optimiser"):
        train(DnCnn(n_layers=2), PAIRS, VALIDATE, options(), identity={"data": {"seed": 1}}, **again)


def test_what_does_not_change_the_weights_may_change(tmp_path):
    started(tmp_path)
    o = replace(options(), checkpoint_every=1, log_every=7)
    assert train(network(), PAIRS, VALIDATE, o, folder=tmp_path, resume=True).finished


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty", "other", "schema"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    started(tmp_path)
    last = tmp_path / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":  # among the weights, where torch itself does not notice
        weights = next(iter(load_checkpoint(last)["network"].values())).numpy().tobytes()
        content[content.find(weights) + len(weights) // 2] ^= 1
    elif damage in ("text", "empty"):
        content = bytearray(b"hello" if damage == "text" else b"")
    elif damage == "other":
        torch.save([1, 2], last)
    else:
        torch.save({"schema": 99}, last)
    if damage not in ("other", "schema"):
        last.write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a training checkpoint"):
        train(network(), PAIRS, VALIDATE, options(), folder=tmp_path, resume=True)


def test_a_checkpoint_holds_data_only_and_nothing_is_left_beside_it(tmp_path):
    started(tmp_path)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["step"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "log.csv"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    started(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("denoisers.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(network(), PAIRS, VALIDATE, options(), folder=tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "log.csv"]


def test_without_resume_it_begins_anew(tmp_path):
    started(tmp_path)
    steps = []
    net, fresh = network(), network()
    train(net, PAIRS, VALIDATE, options(), folder=tmp_path, on_start=steps.append)
    train(fresh, PAIRS, VALIDATE, options())
    assert steps == [0]
    assert weights_sha256(net) == weights_sha256(fresh)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps: expected >= 1"),
        ({"log_every": 0}, "log_every: expected >= 1"),
        ({"lr": 0.0}, "lr: expected > 0"),
        ({"ema": 1.0}, "0 <= ema < 1"),
        ({"clip": 0.0}, "clip: expected > 0"),
        ({"patience": 0}, "patience: expected >= 1"),
        ({"loss": "l1"}, "loss: expected one of supervised, log_supervised, sure, split, got 'l1'"),
        ({"schedule": "step"}, "schedule: expected one of constant, cosine, plateau"),
        ({"precision": "float16"}, "precision: expected one of float32, bfloat16"),
    ],
)
def test_options_are_checked(wrong, words):
    with pytest.raises(ValueError, match=words):
        options(**wrong)


def test_validation_needs_something():
    with pytest.raises(ValueError, match="at least one image and one noise level"):
        validation_of({}, n=4)


# -- as the command does it -----------------------------------------------------------------------------------


def config(**more):
    return TrainConfig(
        name="tiny",
        network=NetworkTable(options={"channels": (4,), "blocks": (1,)}),
        data=DataTable(mix={"points": 1.0}, n_volumes=8, shape=(8, 8, 8), grid_shape=(10, 10, 10)),
        noise=NoiseConfig(high=0.2),
        validation=ValidationTable(n=2, levels=2),
        training=TrainingTable(**{"steps": 20, "batch": 4, "warmup": 2, "validate_every": 10, "log_every": 1, **more}),
    )


def test_a_network_of_complex_images_trains_on_complex_images(tmp_path):
    settings = {"kind": "gated_unet", "options": {"n_dims": 2, "channels": [8, 8], "blocks": [1, 1], "n_parts": 2}}
    data = {"mix": {"ellipses": 1.0}, "n_volumes": 8, "shape": (16, 16), "phase": True}
    table = {"steps": 2, "batch": 2, "validate_every": 1, "warmup": 0}
    c = resolve(
        TrainConfig,
        [("here", {"name": "both", "network": settings, "data": data, "validation": {"n": 2}, "training": table})],
        (),
        name="a training",
    )
    trained = train_denoiser(c, tmp_path)
    network, card = load_weights(trained.weights)
    assert network.n_parts == 2
    assert "exp(jφ)" in card.data
    assert (tmp_path / "samples" / "step_0000002.png").exists()
    with pytest.raises(ConfigError, match="phase: expected true for a network with n_parts = 2, found false"):
        train_denoiser(replace(c, data=replace(c.data, phase=False)), tmp_path / "other")


def test_the_training_data_are_pure_and_apart_from_validation():
    one, two = (clean_images(config(), "train", (8, 8, 8), augment=True) for _ in range(2))
    held = clean_images(config(), "validation", (8, 8, 8), augment=False)
    assert torch.equal(one[5], two[5])
    assert all(not torch.equal(one[i], held[j]) for i in range(8) for j in range(4))


def test_two_processes_give_the_loss_curve_of_one(tmp_path):
    """Every step of the first 20, to 1e-4; one voice on stdout; the weights are those of one process, nearly."""
    alone = train_denoiser(config(), tmp_path / "one")
    file = tmp_path / "config.toml"
    file.write_bytes((tmp_path / "one" / "config.toml").read_bytes())
    line = [str(TORCHRUN), "--standalone", "--nproc-per-node", "2", "-m", "pipelines.cli", "train", str(file)]
    ran = subprocess.run(
        [*line, "-o", str(tmp_path / "two")],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [str(tmp_path / "two" / "tiny.safetensors")]
    curves = [rows_of(tmp_path / n) for n in ("one", "two")]
    assert [int(row["step"]) for row in curves[1]] == list(range(1, 21))
    for one, two in zip(*curves, strict=True):
        assert float(two["train_loss"]) == pytest.approx(float(one["train_loss"]), rel=1e-4)
    assert float(curves[1][-1]["validation_mse"]) == pytest.approx(alone.result.best_mse, rel=1e-4)


def test_a_batch_that_processes_cannot_share_is_a_sentence(monkeypatch):
    monkeypatch.setattr(training, "_process", lambda: (0, 3))
    with pytest.raises(ValueError, match="expected a multiple of the 3 processes, got 2"):
        train(network(), PAIRS, VALIDATE, options())


def test_every_field_of_the_options_can_be_set_by_file():
    assert TrainingOptions.__dataclass_fields__.keys() == TrainingTable.__dataclass_fields__.keys()
    for name, field in TrainingTable.__dataclass_fields__.items():
        if name not in ("steps", "optimiser_options"):
            assert getattr(TrainingTable(steps=1), name) == getattr(TrainingOptions(steps=1), name), field
