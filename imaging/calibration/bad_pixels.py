"""Detector pixels that cannot be trusted: found from flats, darks and data, then bridged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.calibration.rings import running_median
from imaging.errors import ShapeError

#: Columns whose median is what a pixel is compared with.
NEIGHBOURS = 11


@dataclass(frozen=True)
class BadPixels:
    """Which pixels are bad, and why; a pixel may have several reasons.

    Args:
        mask: True where bad, bool (nz, n_bin).
        reasons: "dead" (no response), "response" (far from its neighbours'), "hot" (dark signal), "saturated",
            "stuck" (the same value in every view): bool (nz, n_bin) each.
    """

    mask: Tensor
    reasons: Mapping[str, Tensor]

    def __str__(self) -> str:
        found = [f"{int(where.sum())} {name}" for name, where in self.reasons.items() if bool(where.any())]
        bad = int(self.mask.sum())
        return f"{bad} of {self.mask.numel()} detector pixels are bad" + (f": {', '.join(found)}" if found else "")


def find_bad_pixels(
    data: Tensor,
    flat: Tensor | None = None,
    dark: Tensor | None = None,
    *,
    saturation: float | None = None,
    tolerance: float = 0.5,
    threshold: float = 8.0,
) -> BadPixels:
    """Find bad pixels; whatever is not given is not tested.

    dead       mean flat <= mean dark, or (without a flat) a mean over the views <= mean dark
    response   flat - dark off the median of 11 columns around by more than `tolerance` of it
    hot        mean dark above the median of all pixels by more than `threshold` robust standard deviations (one count
               at least)
    saturated  a view or a flat at `saturation` or above
    stuck      no variation at all over three views or more, while most pixels vary

    Args:
        data: counts, (n_view, nz, n_bin).
        flat, dark: frames, (n, nz, n_bin), or their mean, (nz, n_bin); counts.
        saturation: the largest value that the detector gives, e.g. 65535; None tests none.

    Raises:
        ShapeError: shapes that do not fit together.
    """
    if data.ndim != 3:
        raise ShapeError(f"find_bad_pixels data: expected (n_view, nz, n_bin), got {tuple(data.shape)}")
    shape = tuple(data.shape[1:])
    bright = mean_frame(flat, shape, "flat") if flat is not None else None
    black = mean_frame(dark, shape, "dark") if dark is not None else torch.zeros(shape, dtype=torch.float64)
    black = black.to(data.device)
    values = data.to(torch.float64)
    signal = (bright.to(data.device) if bright is not None else values.mean(0)) - black
    reasons = {"dead": signal <= 0}
    if bright is not None:
        usual = running_median(signal, min(NEIGHBOURS, (shape[1] - 1) // 2 * 2 + 1))
        reasons["response"] = (signal > 0) & ((signal - usual).abs() > tolerance * usual.abs())
    if dark is not None:
        spread = 1.4826 * float((black - black.median()).abs().median())
        reasons["hot"] = black > black.median() + max(threshold * spread, 1.0)
    if saturation is not None:
        reasons["saturated"] = (values >= saturation).any(0)
        if flat is not None:
            frames = flat.to(data.device).reshape(-1, *shape)
            reasons["saturated"] = reasons["saturated"] | (frames >= saturation).any(0)
    if len(data) >= 3:
        still = values.amax(0) == values.amin(0)
        reasons["stuck"] = still & (still.double().mean() < 0.5)
    return BadPixels(torch.stack(list(reasons.values())).any(0), reasons)


def interpolate_bad_pixels(y: Tensor, bad: Tensor) -> Tensor:
    """Replace bad pixels by linear interpolation between the nearest good columns of their row, in every view.

    Beyond the outermost good column its value is repeated. The result is no measurement: methods that take weights do
    better to give these pixels the weight zero (`~bad`).

    Args:
        y: (*batch, n_view, nz, n_bin), floating; line integrals or transmission.
        bad: bool (nz, n_bin), True where bad.

    Returns:
        as y; y itself where nothing is bad.

    Raises:
        ShapeError: the mask has another shape.
        ValueError: a row without a good pixel; integer y.
    """
    if bad.shape != y.shape[-2:] or bad.dtype != torch.bool:
        raise ShapeError(
            f"interpolate_bad_pixels bad: expected bool {tuple(y.shape[-2:])}, the detector of y, got {bad.dtype} "
            f"{tuple(bad.shape)}"
        )
    if not y.is_floating_point():
        raise ValueError(f"interpolate_bad_pixels y: expected floating values, got {y.dtype}; normalise counts first")
    if not bool(bad.any()):
        return y
    if bool(bad.all(dim=-1).any()):
        rows = torch.nonzero(bad.all(dim=-1))[:, 0].tolist()
        raise ValueError(
            f"interpolate_bad_pixels: expected a good pixel in every detector row, found none in rows {rows[:10]}; "
            "leave these rows out"
        )
    n = bad.shape[-1]
    column = torch.arange(n, device=bad.device).expand(bad.shape)
    left = torch.where(bad, -1, column).cummax(dim=-1).values
    right = torch.where(bad, n, column).flip(-1).cummin(dim=-1).values.flip(-1)
    left, right = torch.where(left < 0, right, left), torch.where(right >= n, left, right)
    share = ((column - left) / (right - left).clamp_min(1)).to(y.dtype).to(y.device)
    shape = y.shape
    low = y.gather(-1, left.to(y.device).expand(shape))
    high = y.gather(-1, right.to(y.device).expand(shape))
    return torch.where(bad.to(y.device), torch.lerp(low, high, share.expand(shape)), y)


def mean_frame(frames: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Mean of frames (n, *shape), or the frame (*shape) itself, float64.

    Raises:
        ShapeError: another shape.
    """
    if tuple(frames.shape) == shape:
        return frames.to(torch.float64)
    if frames.ndim == len(shape) + 1 and tuple(frames.shape[1:]) == shape and len(frames):
        return frames.to(torch.float64).mean(0)
    raise ShapeError(
        f"{name}: expected frames (n, {', '.join(map(str, shape))}) or their mean, got {tuple(frames.shape)}"
    )
