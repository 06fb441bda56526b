"""Denoising in patches: covers everything, averages, and is what the definition says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from denoisers.load import load_denoiser
from imaging.errors import ShapeError
from imaging.priors import Patches
from imaging.priors.patches import starts


class Recorder:
    def __init__(self, function) -> None:
        self.function, self.shapes = function, []

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        self.shapes.append(tuple(v.shape))
        return self.function(v, sigma)


@pytest.mark.parametrize(("n", "size", "stride"), [(20, 8, 4), (21, 8, 4), (8, 8, 8), (9, 8, 8), (30, 7, 5)])
def test_patches_cover_every_pixel(n: int, size: int, stride: int) -> None:
    seen = torch.zeros(n)
    for first in starts(n, size, stride):
        seen[first : first + size] += 1
    assert starts(n, size, stride)[-1] + size == n
    assert bool((seen > 0).all())


def test_the_identity_stays_the_identity() -> None:
    v = torch.rand(2, 3, 21, 17)
    inner = Recorder(lambda v, sigma: v)
    torch.testing.assert_close(Patches(inner, 8, 3)(v, 0.1), v)
    assert set(inner.shapes) == {(6, 1, 8, 8)}
    small = Recorder(lambda v, sigma: v)
    torch.testing.assert_close(Patches(small, 32, 16)(v, 0.1), v)  # larger than the slices: one patch, the slice
    assert small.shapes == [(6, 1, 21, 17)]


def test_it_is_the_mean_over_patches() -> None:
    """W⁻¹ Σ E_iᵀ D(E_i v) with explicit matrices; D reverses a patch and adds sigma."""
    v = torch.rand(1, 1, 1, 11, dtype=torch.float64)
    expected, count = torch.zeros(11, dtype=torch.float64), torch.zeros(11, dtype=torch.float64)
    for first in (0, 3, 6, 7):
        E = torch.eye(11, dtype=torch.float64)[first : first + 4]
        expected += E.T @ (E @ v.flatten()).flip(0) + 0.5 * E.sum(0)
        count += E.sum(0)
    found = Patches(lambda u, sigma: u.flip(-1) + sigma, 4, 3)(v, 0.5)
    torch.testing.assert_close(found.flatten(), expected / count)


def test_a_network_on_patches_is_nearly_the_network() -> None:
    """As good against the truth to a fifth of its error."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    truth = ((x - 50) ** 2 / 900 + (y - 45) ** 2 / 400 < 1).float()[None, None]
    noisy = truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    network = load_denoiser("tomo-2d")
    whole = (network(noisy, 0.05) - truth).norm()
    patches = (Patches(network, 48, 24)(noisy, 0.05) - truth).norm()
    assert float(patches) < 1.2 * float(whole) < 0.3 * float((noisy - truth).norm())


def test_gaps_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="stride of 1 to size, which leaves no gaps, got 9 and size 8"):
        Patches(lambda v, s: v, 8, 9)
    with pytest.raises(ShapeError, match="expected"):
        Patches(lambda v, s: v, 8, 4)(torch.rand(5, 5), 0.1)
