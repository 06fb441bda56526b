"""Trainings of minutes: what a small network learns on simulated radar scenes, with clean images and without."""

from __future__ import annotations

import math

import pytest

from pipelines.train import train_denoiser
from pipelines.train_config import DataTable, NetworkTable, TrainConfig, TrainingTable, ValidationTable

pytestmark = pytest.mark.slow


def gain_db(folder, **training):
    """How far a training on SX volumes takes the validation error below that of the noisy input."""
    config = TrainConfig(
        name="small",
        network=NetworkTable(options={"channels": (16, 32), "blocks": (1, 1)}),
        data=DataTable(mix={"sx": 1.0}, n_volumes=1024, shape=(16, 16, 16)),
        validation=ValidationTable(n=16),
        training=TrainingTable(batch=8, lr=2e-3, warmup=50, clip=0.02, ema=0.995, validate_every=250, **training),
    )
    result = train_denoiser(config, folder, say=print).result
    noisy = sum(level**2 for level in result.per_level) / len(result.per_level)
    gain = 10 * math.log10(noisy / result.best_mse)
    print(f"{training}: {gain:.2f} dB below the noisy input")
    return gain


def test_five_minutes_on_sx_take_ten_db_off_the_error(tmp_path):
    """Of one thread."""
    assert gain_db(tmp_path, steps=6000) > 10


def test_without_clean_images_the_error_is_about_the_same(tmp_path):
    """Trainings of as many steps, a minute each: SURE and splitting come within 1.5 dB."""
    with_clean = gain_db(tmp_path / "supervised", steps=1500)
    assert with_clean > 10
    for loss in ("sure", "split"):
        assert gain_db(tmp_path / loss, steps=1500, loss=loss) > with_clean - 1.5
