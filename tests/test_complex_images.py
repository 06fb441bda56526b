"""Denoisers on complex images: what each way keeps, and that noise goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from imaging.errors import DtypeError
from imaging.priors.complex_images import ComplexImages, smooth_phase
from imaging.solvers.partially_separable import denoise_frames

WAYS = ["magnitude", "parts", "demodulated"]


class Seen:
    """Blurs by a known kernel, and remembers."""

    def __init__(self, c: float = 1.0) -> None:
        self.c, self.images, self.sigmas = c, [], []

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        assert v.ndim == 4
        assert not v.is_complex()
        self.images.append(v)
        self.sigmas.append(sigma)
        return self.c * v


def image(n: int = 2, *, noise: float = 0.0) -> Tensor:
    """A square with a smooth phase, complex128."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    size = ((y.abs() < 0.6) & (x.abs() < 0.5)).double()
    clean = torch.polar(size, (1.5 * x - y + 0.4).double()).expand(n, 1, 32, 32)
    g = torch.Generator().manual_seed(0)
    return clean + noise * torch.randn(n, 1, 32, 32, dtype=torch.complex128, generator=g)


@pytest.mark.parametrize("way", WAYS)
def test_the_identity_stays_the_identity(way: str) -> None:
    v = image(noise=0.1)
    torch.testing.assert_close(ComplexImages(Seen(), way)(v, 0.1), v)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
def test_the_denoiser_sees_real_images_from_0_to_1_in_place(way: str) -> None:
    inner, v = Seen(), 3.0 * image()
    ComplexImages(inner, way)(v, 0.3)  # type: ignore[arg-type]
    seen = inner.images[0]
    if way == "magnitude":
        torch.testing.assert_close(seen, v.abs())
        assert inner.sigmas == [0.3]
        return
    assert seen.shape == (4, 1, 32, 32)
    assert 0 <= float(seen.min()) < float(seen.max()) <= 1
    assert float(seen[0, 0, 0, 0]) == pytest.approx(0.5, abs=0.1)  # background
    assert inner.sigmas == [pytest.approx(0.3 / 6.0, rel=1e-6)]  # scaled as the values are


def test_joint_takes_complex_images_of_brightness_1() -> None:
    seen = []

    def inner(v: Tensor, sigma: float) -> Tensor:
        seen.append((v, sigma))
        return 0.5 * v

    v = 3.0 * image()
    torch.testing.assert_close(ComplexImages(inner, "joint")(v, 0.3), 0.5 * v)
    torch.testing.assert_close(seen[0][0], v / 3, rtol=0.05, atol=0)
    assert seen[0][1] == pytest.approx(0.1, rel=0.05)


def test_magnitude_keeps_the_phase_and_cuts_negative_output() -> None:
    v = image(noise=0.1)
    out = ComplexImages(Seen(0.5), "magnitude")(v, 0.1)
    torch.testing.assert_close(out.angle(), v.angle())
    assert not ComplexImages(Seen(-1.0), "magnitude")(v, 0.1).any()


def test_demodulation_puts_the_signal_into_the_real_part() -> None:
    v = image()
    inside = v.abs() > 0
    phase = smooth_phase(v)
    torch.testing.assert_close(phase.abs(), torch.ones_like(phase.real))
    turned = (v * phase.conj())[inside]
    assert float(turned.imag.square().mean().sqrt()) < 0.15
    assert float(turned.real.mean()) > 0.97
    assert torch.equal(smooth_phase(torch.zeros_like(v)), torch.ones_like(v))


def test_frames_of_a_movie_go_through_as_complex_images() -> None:
    movie = torch.stack((image(3), image(3)))
    inner = Seen()
    denoise_frames(ComplexImages(inner, "parts"), movie, 0.1)
    assert inner.images[0].shape == (12, 1, 32, 32)
    plain = Seen()
    denoise_frames(plain, movie, 0.1)
    assert float(plain.images[0].min()) < 0  # real and imaginary parts, as they are


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="way: expected one of magnitude, parts, demodulated"):
        ComplexImages(Seen(), "phase")  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="expected complex images"):
        ComplexImages(Seen())(image().real, 0.1)
