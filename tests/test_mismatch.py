"""Pairs from a solver's iterates: what is collected, stored and handed out."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
import torch

from imaging.priors.magnitude import running_scale
from pipelines import mismatch
from pipelines.config import ConfigError
from pipelines.mismatch import STORED, MismatchPairs, collect


def soft(v, sigma):
    return (v - sigma).clamp_min(0)


def write(path, shape=(6, 8, 7), n=3, seed=0):
    rng = np.random.default_rng(seed)
    clean = np.zeros((n, *shape), np.float16)
    clean[:, 2:4, 3:6, 2:5] = 1
    noisy = (clean + 0.05 * rng.random((n, *shape))).astype(np.float16)
    with h5py.File(path, "w") as file:
        file["noisy"], file["clean"], file["sigma"] = noisy, clean, np.linspace(0.1, 0.2, n, dtype=np.float32)
    return path


@pytest.mark.parametrize("scans", ["coarse", "fine"])
def test_runs_hand_out_iterates_with_their_truth(monkeypatch, scans):
    settings, mix, shape = mismatch.SETS[scans]
    few = ({**settings[0], "n_frequencies": 3},)
    monkeypatch.setitem(mismatch.SETS, scans, (few, {"sx": 1.0} if scans == "coarse" else mix, shape))
    parts = list(itertools.islice(collect(soft, scans, n_per_scan=2, seed=5), 2))
    for noisy, clean, sigma in parts:
        assert noisy.shape == clean.shape == (2, *STORED)
        assert sigma.shape == (2,)
        assert float(noisy.min()) >= 0
        assert bool((clean.amax((1, 2, 3)) >= 0.99).all())
        assert bool((clean.amax((1, 2, 3)) <= 2.01).all())  # a lone point is twice its bright scale
    assert float(parts[1][2][0]) < float(parts[0][2][0])  # the level falls
    again = next(collect(soft, scans, n_per_scan=2, seed=5))
    assert torch.equal(again[0], parts[0][0])


def test_pairs_are_a_function_of_their_number(tmp_path):
    file = write(tmp_path / "pairs.h5")
    pairs, other = (MismatchPairs([file], (4, 5, 6), seed=1) for _ in range(2))
    for i in (7, 0, 7):
        noisy, clean, sigma = pairs[i]
        assert noisy.shape == clean.shape == (4, 5, 6)
        assert noisy.dtype == torch.float32
        assert 0.1 <= sigma <= 0.2
        assert all(torch.equal(a, b) for a, b in zip(pairs[i][:2], other[i][:2], strict=True))
    assert any(not torch.equal(pairs[0][0], pairs[i][0]) for i in range(1, 5))


@pytest.mark.parametrize(("darker", "expected"), [(1.5, 1.0), (0.9, 0.9), (0.3, 0.75)])
def test_the_truth_takes_the_iterates_amplitude_within_bounds(tmp_path, darker, expected):
    clean = np.zeros((1, 4, 4, 4), np.float16)
    clean[0, 1:3, 1:3, 1:3] = 1
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["clean"], file["noisy"] = clean, (darker * clean).astype(np.float16)
        file["sigma"] = np.array([0.1], np.float32)
    _, truth, _ = MismatchPairs([tmp_path / "p.h5"], (4, 4, 4), seed=0)[0]
    assert float(truth.max()) == pytest.approx(expected, abs=1e-3)


def test_several_files_are_one_set(tmp_path):
    files = [write(tmp_path / "a.h5"), write(tmp_path / "b.h5", n=2, seed=1)]
    assert len(MismatchPairs(files, (4, 4, 4), seed=0)) == 5


def test_mistakes_are_sentences(tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ConfigError, match=r"expected /noisy, /clean and /sigma"):
        MismatchPairs([tmp_path / "text.h5"], (2, 2, 2), seed=0)
    small = write(tmp_path / "small.h5")
    with pytest.raises(ConfigError, match="expected volumes of at least"):
        MismatchPairs([small], (60, 2, 2), seed=0)
    with pytest.raises(ConfigError):
        MismatchPairs([small, write(tmp_path / "other.h5", shape=(9, 9, 9))], (2, 2, 2), seed=0)


def test_the_command_writes_what_the_pairs_read(tmp_path, monkeypatch):
    monkeypatch.setitem(mismatch.SETS, "coarse", (({"n_frequencies": 3},), {"sx": 1.0}, STORED))
    monkeypatch.setattr(mismatch, "N_ITERATIONS", 2)
    mismatch.main([str(tmp_path / "runs" / "pairs.h5"), "-d", "radar-3d-fast", "--scenes", "1", "--seed", "3"])
    pairs = MismatchPairs([tmp_path / "runs" / "pairs.h5"], (16, 16, 16), seed=0)
    assert len(pairs) == 2
    assert bool((running_scale(pairs.clean.float(), "bright") - 1).abs().max() < 1e-2)
    assert not list(tmp_path.glob("runs/.*part"))
