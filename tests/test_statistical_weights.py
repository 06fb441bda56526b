"""Weights of line integrals: the same noise, told in different ways, gives the same weights."""

from __future__ import annotations

import numpy as np
import torch

from data.measurement import Measurement, Scale
from pipelines.methods import Setting
from pipelines.tomography import read_scan
from pipelines.tomography_config import TvConfig

AXES = ("projection", "detector_row", "detector_column")


def weights(data: np.ndarray, quantity: str, noise_std: np.ndarray | None = None) -> torch.Tensor:
    n_views, _, n = data.shape
    m = Measurement(
        modality="tomography",
        data=data,
        axes=AXES,
        scales={
            "projection": Scale(values=np.arange(n_views, dtype=np.int32), units="1"),
            "detector_row": Scale(values=np.zeros(1), units="m"),
            "detector_column": Scale(values=np.arange(n) - (n - 1) / 2, units="m"),
        },
        quantity=quantity,
        geometry={"type": "parallel"},
        acquisition={"angle": np.arange(n_views) * np.pi / n_views},
        noise_std=noise_std,
        noise_std_axes=() if noise_std is None else AXES,
    )
    found = read_scan(m, TvConfig(), Setting(device=torch.device("cpu"))).weights
    assert found is not None
    return found


def test_photon_noise_weighs_alike_however_it_is_told() -> None:
    """N photons of an even beam: as transmission, with its noise, or as line integrals with theirs."""
    photons = np.random.default_rng(0).integers(5, 1000, (8, 1, 16)).astype(float)
    beam = 2000.0
    expected = torch.as_tensor(photons / photons.mean(), dtype=torch.float32)
    T = photons / beam
    torch.testing.assert_close(weights(T, "transmission"), expected)
    torch.testing.assert_close(weights(T, "transmission", np.sqrt(photons) / beam), expected)
    torch.testing.assert_close(weights(-np.log(T), "line_integral", 1 / np.sqrt(photons)), expected)
