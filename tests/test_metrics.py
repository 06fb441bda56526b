"""Laws of the metrics."""

import math

import numpy as np
import pytest
import torch

from imaging.errors import ShapeError
from imaging.metrics import (
    complex_nmse,
    gain,
    measurement_residual,
    nmse,
    psnr,
    spectral_efficiency,
    ssim,
    support_overlap,
    symbol_error_rate,
)
from imaging.operators import LinearOperator


def volume(*batch: int, seed: int = 0, shape: tuple[int, int, int] = (12, 13, 14)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    v = torch.rand(*batch, *shape, dtype=torch.float64, generator=generator)
    return v / v.amax((-3, -2, -1), keepdim=True)


class Twice(LinearOperator):
    def __init__(self) -> None:
        super().__init__((12, 13, 14), (12, 13, 14), dtype=torch.float64)

    def _forward(self, x):
        return 2 * x

    def _adjoint(self, y):
        return 2 * y


def test_psnr_is_its_definition():
    t, e = volume(seed=1), volume(seed=2)
    expected = 10 * math.log10(float(t.max()) ** 2 / float(((t - e) ** 2).mean()))
    assert float(psnr(e, t, normalise="none")) == pytest.approx(expected, abs=1e-12)


def test_psnr_of_a_zero_image_is_that_of_the_truths_power():
    t = volume(3)
    for normalise in ("peak", "gain", "none"):
        value = psnr(torch.zeros_like(t), t, normalise=normalise)
        assert torch.allclose(value, -10 * torch.log10((t**2).mean((-3, -2, -1))), atol=1e-12)


@pytest.mark.parametrize("metric", [psnr, nmse, ssim])
@pytest.mark.parametrize("normalise", ["peak", "gain"])
def test_normalised_metrics_do_not_see_the_scale_of_the_estimate(metric, normalise):
    t, e = volume(2, seed=1), volume(2, seed=2)
    assert torch.allclose(metric(1e5 * e, t, normalise=normalise), metric(e, t, normalise=normalise))


@pytest.mark.parametrize("metric", [psnr, nmse, ssim, gain, support_overlap])
def test_only_magnitudes_count(metric):
    t, e = volume(seed=1), volume(seed=2)
    phase = torch.exp(2j * math.pi * volume(seed=3))
    assert torch.allclose(metric(e * phase, t), metric(e, t))


@pytest.mark.parametrize("metric", [psnr, nmse, ssim, gain, support_overlap])
def test_a_batch_is_a_loop(metric):
    t, e = volume(2, 3, seed=1), volume(2, 3, seed=2)
    loop = torch.stack([torch.stack([metric(e[i, j], t[i, j]) for j in range(3)]) for i in range(2)])
    assert metric(e, t).shape == (2, 3)
    assert torch.allclose(metric(e, t), loop)


def test_the_gain_minimises_the_error():
    t, e = volume(seed=1), volume(seed=2)
    best = float(gain(e, t))
    least = float(nmse(e, t, normalise="gain"))
    assert float(((t - best * e) ** 2).sum() / (t**2).sum()) == pytest.approx(least)
    for nearby in (0.99 * best, 1.01 * best):
        assert float(((t - nearby * e) ** 2).sum() / (t**2).sum()) > least


def test_gain_psnr_is_at_least_peak_psnr():
    t, e = volume(4, seed=1), volume(4, seed=2) ** 3
    assert bool((psnr(e, t, normalise="gain") >= psnr(e, t, normalise="peak")).all())


def test_equal_images():
    t = volume(2)
    assert bool((psnr(t, t, normalise="none") == math.inf).all())
    assert torch.equal(nmse(t, t, normalise="none"), torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(ssim(t, t), torch.ones(2, dtype=torch.float64))
    assert torch.equal(support_overlap(t, t), torch.ones(2, dtype=torch.float64))


def test_an_empty_truth():
    zero, e = torch.zeros(12, 12, 12), torch.ones(12, 12, 12)
    assert float(psnr(e, zero, normalise="none")) == -math.inf
    assert float(nmse(e, zero, normalise="none")) == math.inf
    assert float(nmse(zero, zero, normalise="none")) == 0
    assert float(support_overlap(zero, zero)) == 1


def reference_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM map from its formula with an explicit 11-tap Gaussian, valid part, any dimension."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def blur(v):
        for axis in range(v.ndim):
            v = np.apply_along_axis(np.convolve, axis, v, taps, mode="valid")
        return v

    mx, my = blur(x), blur(y)
    vx, vy, cxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def test_ssim_is_its_formula_in_three_and_two_dimensions():
    t, e = volume(seed=1), volume(seed=2)
    three = reference_ssim(e.numpy(), t.numpy()).mean()
    two = np.mean([reference_ssim(a, b).mean() for a, b in zip(e.numpy(), t.numpy(), strict=True)])
    assert float(ssim(e, t, normalise="none")) == pytest.approx(three, abs=1e-10)
    assert float(ssim(e, t, normalise="none", dims=2)) == pytest.approx(two, abs=1e-10)


def test_ssim_of_a_slice_needs_two_dimensions():
    t = volume(shape=(1, 20, 20))
    assert float(ssim(t, t, dims=2)) == pytest.approx(1)
    with pytest.raises(ShapeError, match="axis z has 1; use dims=2"):
        ssim(t, t)
    with pytest.raises(ShapeError, match="11 voxels, axis x has 9"):
        ssim(t[..., :9], t[..., :9], dims=2)


def test_support_overlap_counts_voxels():
    e, t = torch.zeros(3, 3, 3), torch.zeros(3, 3, 3)
    e[0, 0, :2], t[0, 0, 1:] = 2.0, 1.0
    e[2, 2, 2] = 0.9  # below half of the peak 2
    assert float(support_overlap(e, t)) == pytest.approx(1 / 3)


def test_measurement_residual():
    A, x = Twice(), volume(3)
    assert torch.allclose(measurement_residual(A, x, 2 * x), torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(measurement_residual(A, 0 * x, x), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(measurement_residual(A, 0 * x, 0 * x), torch.zeros(3, dtype=torch.float64))
    assert bool((measurement_residual(A, x, 0 * x) == math.inf).all())
    with pytest.raises(ShapeError, match="batch axes"):
        measurement_residual(A, x, x[:2])


def test_wrong_arguments_are_told():
    t = volume()
    with pytest.raises(ShapeError, match="one shape"):
        psnr(t, t[:-1])
    with pytest.raises(ValueError, match="normalise: expected one of peak, gain, none, got 'max'"):
        psnr(t, t, normalise="max")
    with pytest.raises(ValueError, match="dims: expected 2"):
        ssim(t, t, dims=1)
    with pytest.raises(ValueError, match="threshold"):
        support_overlap(t, t, threshold=0)


# -- channels ------------------------------------------------------------------------------------------------


def channels(*batch, n=(5, 3), seed=0):
    return torch.randn(*batch, *n, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def test_complex_nmse_sees_phases_and_scale():
    t = channels(4)
    assert torch.allclose(complex_nmse(t * 1j, t), torch.full((4,), 2.0, dtype=torch.float64))
    assert torch.allclose(complex_nmse(0.9 * t, t), torch.full((4,), 0.01, dtype=torch.float64))
    assert complex_nmse(t, t, dims=3).shape == ()
    assert torch.equal(complex_nmse(0 * t, 0 * t), torch.zeros(4, dtype=torch.float64))
    assert bool(torch.isinf(complex_nmse(t, 0 * t)).all())
    with pytest.raises(ShapeError, match="of one shape and 2 axes or more"):
        complex_nmse(t, t[:2])


@pytest.mark.parametrize("order", [4, 8, 16, 64])
def test_symbol_error_rate_is_that_of_drawn_symbols(order):
    """The closed form against a hundred thousand drawn symbols, with an estimate that is off in phase and size."""
    truth = channels(3)
    estimate = truth * torch.polar(torch.tensor(1.1), torch.tensor(0.2)) + 0.3 * channels(3, seed=1)
    n_i, n_q = {4: (2, 2), 8: (4, 2), 16: (4, 4), 64: (8, 8)}[order]
    points = torch.tensor([complex(i, q) for i in range(1 - n_i, n_i, 2) for q in range(1 - n_q, n_q, 2)])
    points = (points / points.abs().square().mean().sqrt()).to(torch.complex128)
    generator = torch.Generator().manual_seed(2)
    for snr in (4.0, 30.0):
        rates = symbol_error_rate(estimate, truth, snr, order=order)
        for k in range(3):
            u, _, vh = torch.linalg.svd(estimate[k])
            gain, expected = (u[:, 0].conj() @ h @ vh[0].conj() for h in (truth[k], estimate[k]))
            sent = torch.randint(order, (100_000,), generator=generator)
            noise = torch.randn(100_000, dtype=torch.complex128, generator=generator) * gain.abs() / snr**0.5
            received = gain * points[sent] + noise
            decided = (received[:, None] - expected * points).abs().argmin(1)
            drawn = float((decided != sent).double().mean())
            assert float(rates[k]) == pytest.approx(drawn, abs=5e-3)  # three standard deviations


def test_symbol_error_rate_at_its_ends():
    t = channels()
    q = 0.5 * math.erfc(math.sqrt(10 / 2))  # of each of two bits
    assert float(symbol_error_rate(t, t, 10.0)) == pytest.approx(1 - (1 - q) ** 2, rel=1e-9)
    assert float(symbol_error_rate(2.5 * t, t, 10.0)) == pytest.approx(1 - (1 - q) ** 2, rel=1e-9)  # QPSK: phase alone
    assert float(symbol_error_rate(t, t, math.inf)) == 0
    assert float(symbol_error_rate(-t, t, math.inf)) == 1
    assert float(symbol_error_rate(0 * t, t, 10.0)) == 0.75
    assert float(symbol_error_rate(t, 0 * t, 10.0, order=16)) == 15 / 16
    with pytest.raises(ValueError, match="order: expected one of 4, 8, 16, 64, got 5"):
        symbol_error_rate(t, t, 1.0, order=5)
    with pytest.raises(ValueError, match="snr: expected numbers > 0"):
        symbol_error_rate(t, t, 0.0)


def test_spectral_efficiency_is_that_of_the_beam():
    t = channels(2)
    largest = torch.linalg.matrix_norm(t, 2).square()
    assert torch.allclose(spectral_efficiency(t, t, 3.0), torch.log2(1 + 3 * largest))
    assert torch.allclose(spectral_efficiency(1j * t, t, 3.0), torch.log2(1 + 3 * largest))
    estimate = t + channels(2, seed=3)
    assert bool((spectral_efficiency(estimate, t, 3.0) < spectral_efficiency(t, t, 3.0)).all())
    assert torch.equal(spectral_efficiency(0 * t, t, 3.0), torch.zeros(2, dtype=torch.float64))
