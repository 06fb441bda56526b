"""Denoisers on complex images: three ways of splitting one into real images, and a denoiser of complex ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from imaging.errors import DtypeError
from imaging.priors.magnitude import running_scale
from imaging.priors.protocols import Denoiser

Way = Literal["magnitude", "parts", "demodulated", "joint"]
#: Standard deviation, in pixels, of the Gaussian that finds the smooth phase.
SMOOTH = 3.0


@dataclass(frozen=True)
class ComplexImages:
    """A denoiser of images of one size as a denoiser of complex ones.

    magnitude: D(|v|) with the phase of v. Noise of a magnitude is not Gaussian where there is little signal, but a
    denoiser that leaves backgrounds at 0 clears it.

    parts: real and imaginary part as two images (RP 3.5 (i)). Parts are negative too: each is moved and scaled from
    [-s, s] to [0, 1], s the image's brightness, and its noise level with it.

    demodulated: parts of v exp(-jφ), φ the phase of v smoothed: where the image's phase is smooth the real part holds
    the signal and the imaginary part noise, at the price of trusting φ.

    joint: a denoiser of complex images, on v divided by its brightness.

    Args:
        inner: called as (v, sigma), v (batch, nz, ny, nx): real, and not negative; complex for joint.
        way: one of the four.
    """

    inner: Denoiser
    way: Way = "magnitude"

    takes_complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.way not in get_args(Way):
            raise ValueError(f"ComplexImages way: expected one of {', '.join(get_args(Way))}, got {self.way!r}")

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        """v: complex (batch, nz, ny, nx); sigma: standard deviation of the real, and of the imaginary, part's noise."""
        if not v.is_complex():
            raise DtypeError(f"ComplexImages input: expected complex images, got {v.dtype}")
        if self.way == "magnitude":
            size = v.abs()
            return v * (self.inner(size, sigma).clamp_min(0) / size.clamp_min(torch.finfo(size.dtype).tiny))
        if self.way == "joint":
            scale = float(running_scale(v.abs(), "peak").max())
            return self.inner(v / scale, sigma / scale) * scale
        if self.way == "parts":
            return self._parts(v, sigma)
        phase = smooth_phase(v)
        return self._parts(v * phase.conj(), sigma) * phase

    def _parts(self, v: Tensor, sigma: float) -> Tensor:
        scale = float(running_scale(v.abs(), "peak").max())
        parts = torch.cat((v.real, v.imag)) / (2 * scale) + 0.5
        real, imaginary = ((self.inner(parts, sigma / (2 * scale)) - 0.5) * (2 * scale)).chunk(2)
        return torch.complex(real.contiguous(), imaginary.contiguous())


def smooth_phase(v: Tensor) -> Tensor:
    """exp(jφ) of v smoothed by a Gaussian of 3 pixels along y and x, modulus 1 everywhere; shape and dtype kept."""
    ny, nx = v.shape[-2:]
    windows = [
        torch.exp(-2 * (math.pi * SMOOTH * torch.fft.fftfreq(n, dtype=torch.float64)) ** 2).to(v.real) for n in (ny, nx)
    ]
    low = torch.fft.ifft2(torch.fft.fft2(v) * windows[0][:, None] * windows[1])
    size = low.abs()
    one = torch.ones((), dtype=v.dtype, device=v.device)
    return torch.where(size > 0, low / torch.where(size > 0, size, 1.0), one)
