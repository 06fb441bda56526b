"""The orthogonal wavelet prior: orthogonality for all lengths, vanishing moments, shifts that continue."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.priors import WaveletL1
from imaging.priors.wavelet import daubechies, inverse_wavelet_transform, split_lengths, wavelet_transform

SHAPES = [(1, 32, 32), (1, 23, 18), (9, 12, 7), (1, 3, 5)]


def randn(*shape: int, dtype: torch.dtype = torch.complex128, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("moments", [1, 2, 4, 10])
def test_filters_are_orthonormal_with_vanishing_moments(moments: int) -> None:
    h = np.array(daubechies(moments))
    for shift in range(moments):
        assert h[2 * shift :] @ h[: len(h) - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-11)
    g = h[::-1] * (-1) ** np.arange(len(h))
    for power in range(min(moments, 5)):
        assert g @ np.arange(len(h)) ** power == pytest.approx(0, abs=1e-8 * len(h) ** power)


def test_the_second_filter_is_the_published_one() -> None:  # Daubechies (1992), table 6.1
    root = np.sqrt(3)
    expected = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2))
    np.testing.assert_allclose(daubechies(2), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("moments", [1, 2, 4])
def test_the_transform_is_orthogonal(shape: tuple[int, ...], moments: int) -> None:
    x, y = randn(2, *shape), randn(2, *shape, seed=1)
    options = {"levels": 3, "moments": moments}
    c = wavelet_transform(x, **options)
    torch.testing.assert_close(inverse_wavelet_transform(c, **options), x, rtol=0, atol=1e-11)
    gap = torch.vdot(c.flatten(), y.flatten()) - torch.vdot(
        x.flatten(), inverse_wavelet_transform(y, **options).flatten()
    )
    assert float(gap.abs()) < 1e-10


def test_polynomials_have_no_details_away_from_the_border() -> None:
    ramp = (torch.arange(64, dtype=torch.float64) ** 3).reshape(1, 1, 64)
    c = wavelet_transform(ramp, levels=1, moments=4)
    assert float(c[0, 0, 32:61].abs().max()) < 1e-7 * float(ramp.max())


def test_axes_are_split_as_often_as_the_filter_fits() -> None:
    assert split_lengths(23, 4, 4) == [23, 12, 6]
    assert split_lengths(1, 4, 4) == [1]
    v = randn(1, 3, 5)
    assert torch.equal(WaveletL1(1.0).prox(v, 0.5), v)  # nothing to split, nothing to shrink


def test_shifts_move_on_and_continue() -> None:
    prior, v = WaveletL1(0.5, seed=3), randn(2, 1, 32, 32)
    first, memory = prior.prox_warm(v, 0.2, None)
    second, memory = prior.prox_warm(v, 0.2, memory)
    assert torch.equal(first, prior.prox(v, 0.2))
    assert not torch.allclose(first, second)
    assert memory.tolist() == [2, 2]
    mixed, _ = prior.prox_warm(v, 0.2, torch.tensor([0, 1]))
    torch.testing.assert_close(mixed, torch.stack((first[0], second[1])))
    assert prior.value(v) is None


def test_denoising_helps_and_bad_parameters_are_told() -> None:
    clean = torch.zeros(1, 64, 64, dtype=torch.complex128)
    clean[:, 20:40, 15:50] = 1j
    noisy = clean + 0.1 * randn(1, 64, 64)
    denoised = WaveletL1(1.0).prox(noisy, 0.25)
    assert float((denoised - clean).norm()) < 0.7 * float((noisy - clean).norm())
    with pytest.raises(ValueError, match="levels: expected >= 1"):
        WaveletL1(levels=0)
    with pytest.raises(ValueError, match="moments: expected 1 to 10"):
        WaveletL1(moments=11)
    with pytest.raises(ShapeError, match="WaveletL1 input"):
        WaveletL1().prox(clean[0], 0.1)
