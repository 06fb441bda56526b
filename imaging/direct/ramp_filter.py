"""The ramp filter of filtered back-projection, exact for samples, with the usual windows."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Window = Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"]
Extension = Literal["zero", "constant", "smooth"]

WINDOWS: tuple[str, ...] = get_args(Window)
EXTENSIONS: tuple[str, ...] = get_args(Extension)
#: Outermost columns whose mean is the edge value of an extension: one noisy column must not be repeated n times.
EDGE_COLUMNS = 5


def ramp_filter(
    n: int, spacing_m: float, window: Window = "ram-lak", cutoff: float = 1.0, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Frequency response |f| W(f) of a circular ramp filter, 1/m, for a real FFT of length n.

    The response is the transform of the band-limited kernel h(0) = 1/4τ², h(k) = -1/(π k τ)² for odd k, 0 for even k,
    not |f| sampled: the sampled ramp is zero at f = 0 and lowers the mean of the image. W is 1 at f = 0:

        ram-lak      1                       cosine    cos(π r / 2)
        shepp-logan  sin(π r / 2) / (π r/2)  hamming   0.54 + 0.46 cos(π r)
        hann         0.5 + 0.5 cos(π r)      with r = f / (cutoff · Nyquist), and 0 for r > 1.

    Args:
        n: FFT length, at least twice the data, so that nothing wraps around.
        spacing_m: τ, distance of the samples, metres.
        window: a name of `WINDOWS`.
        cutoff: the frequency where the window ends, as a fraction of Nyquist, in (0, 1].

    Returns:
        (n // 2 + 1,), `dtype`.

    Raises:
        ValueError: an unknown window, or a cutoff outside (0, 1].

    Source: Kak & Slaney (1988), Principles of Computerized Tomographic Imaging, chapter 3, (61).
    """
    check_window(window, cutoff)
    lag = torch.arange(n, dtype=torch.float64)
    lag = torch.minimum(lag, n - lag)  # the kernel is even
    odd = lag.remainder(2) == 1
    kernel = torch.where(odd, -1 / (math.pi * lag.clamp_min(1) * spacing_m) ** 2, 0.0)
    kernel[0] = 1 / (2 * spacing_m) ** 2
    response = torch.fft.rfft(kernel).real * spacing_m
    r = torch.arange(n // 2 + 1, dtype=torch.float64) / (n / 2) / cutoff
    return torch.where(r <= 1 + 1e-9, response * _window(r, window), 0.0).to(dtype)


def filter_rows(
    y: Tensor, spacing_m: float, window: Window = "ram-lak", *, cutoff: float = 1.0, extension: Extension = "zero"
) -> Tensor:
    """Ramp-filter the last axis of y: q[j] = τ Σ_k h(j - k) y[k], by FFT without wrap-around.

    Args:
        y: (*batch, n_bin), float32 or float64.
        spacing_m: distance of the bins, metres.
        window, cutoff: see `ramp_filter`.
        extension: what the detector would have seen beyond its ends, over half its width on either side: "zero" (the
            object ends inside), "constant" (the edge value) or "smooth" (the edge value falling to zero as cos²). The
            last two are for truncated projections: they remove the bright rim, not the error of missing data, and
            the absolute value inside stays uncertain. The edge value is the mean of the 5 outermost bins.

    Returns:
        as y, in units of y / m.

    Raises:
        ValueError: an unknown window or extension, a cutoff outside (0, 1].
    """
    if extension not in EXTENSIONS:
        raise ValueError(f"extension: expected one of {', '.join(EXTENSIONS)}, got {extension!r}")
    n = y.shape[-1]
    outside = 0 if extension == "zero" else (n + 1) // 2
    wide = y if outside == 0 else _extended(y, outside, extension)
    length = fast_length(2 * (n + outside))
    response = ramp_filter(length, spacing_m, window, cutoff, dtype=y.dtype).to(y.device)
    filtered = torch.fft.irfft(torch.fft.rfft(wide, length) * response, length)
    return filtered[..., outside : outside + n]


def check_window(window: str, cutoff: float) -> None:
    """Raise `ValueError` unless `ramp_filter` knows them."""
    if window not in WINDOWS:
        raise ValueError(f"window: expected one of {', '.join(WINDOWS)}, got {window!r}")
    if not 0 < cutoff <= 1:
        raise ValueError(f"cutoff: expected a fraction of Nyquist in (0, 1], got {cutoff:g}")


def fast_length(n: int) -> int:
    """The smallest even 2^a 3^b 5^c >= n: lengths that an FFT is fast at."""
    m = n + n % 2
    while True:
        rest = m
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return m
        m += 2


def _window(r: Tensor, window: str) -> Tensor:
    if window == "shepp-logan":
        return torch.sinc(r / 2)
    if window == "cosine":
        return torch.cos(math.pi * r / 2)
    if window == "hamming":
        return 0.54 + 0.46 * torch.cos(math.pi * r)
    if window == "hann":
        return 0.5 + 0.5 * torch.cos(math.pi * r)
    return torch.ones_like(r)


def _extended(y: Tensor, outside: int, extension: str) -> Tensor:
    edge = min(EDGE_COLUMNS, y.shape[-1])
    fall = torch.ones(outside, dtype=y.dtype, device=y.device)
    if extension == "smooth":
        step = (torch.arange(outside, dtype=y.dtype, device=y.device) + 1) / (outside + 1)
        fall = torch.cos(math.pi / 2 * step) ** 2
    left = y[..., :edge].mean(-1, keepdim=True) * fall.flip(0)
    right = y[..., -edge:].mean(-1, keepdim=True) * fall
    return torch.cat((left, y, right), dim=-1)
