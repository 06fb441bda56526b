"""Counts to line integrals, with what is known of their noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.calibration.bad_pixels import mean_frame
from imaging.calibration.noise import NoiseEstimate
from imaging.errors import DtypeError, ShapeError


@dataclass(frozen=True)
class DetectorNoise:
    """Noise of a detector: variance of a sample of mean signal s (dark subtracted) is gain · s + read_std².

    Args:
        gain: counts per detected photon; 1 for a photon counter.
        read_std: counts; what is left in the dark.
    """

    gain: float = 1.0
    read_std: float = 0.0


@dataclass(frozen=True)
class LineIntegrals:
    """Line integrals of a scan and their statistics.

    Args:
        values: -log of the transmission, unitless, (n_view, nz, n_bin), floating.
        variance: of each value, by the delta method; same shape. `weights` is its inverse.
        floored: True where the net counts were below the floor, so that the value is a lower bound, not a
            measurement; bool, same shape.
        n_above_flat: samples with more counts than the flat: their line integral is negative. They are noise (or a
            drifting source) and kept, for cutting them off would bias the mean.
    """

    values: Tensor
    variance: Tensor
    floored: Tensor
    n_above_flat: int

    @property
    def weights(self) -> Tensor:
        """Statistical weights 1 / variance, 0 where floored: of ½ Σ w (Ax - y)²."""
        return torch.where(self.floored, 0.0, 1 / self.variance)

    def __str__(self) -> str:
        n = self.values.numel()
        return (
            f"{int(self.floored.sum())} of {n} samples below the floor of counts (weight 0), "
            f"{self.n_above_flat} above the flat field (kept)"
        )


def line_integrals(
    counts: Tensor,
    flat: Tensor,
    dark: Tensor | None = None,
    *,
    noise: DetectorNoise | None = None,
    floor_counts: float = 0.5,
    flat_per_view: bool = False,
    field_noise: bool = True,
) -> LineIntegrals:
    """log((F - D) / (N - D)) and its variance, from counts N, mean flat F and mean dark D.

    Net counts N - D below the floor, zero and negative ones among them, have no logarithm to speak of: they are set to
    the floor and marked in `floored`. By the delta method the variance is

        var N / (N - D)²  +  var F / (F - D)²  +  var D (1/(N - D) - 1/(F - D))²,

    var N = gain (N - D) + read_std², var F = (gain (F - D) + read_std²) / n_flat, var D = read_std² / n_dark. It takes
    the measured N for its mean, which at fewer than about 10 photons understates the variance of upward outliers.

    Args:
        counts: (n_view, nz, n_bin), any real dtype.
        flat, dark: frames (n, nz, n_bin), or a mean (nz, n_bin), taken as free of noise; no dark: no dark signal.
        noise: of the detector; None takes a photon counter (gain 1) with the spread of the dark frames as read noise.
        floor_counts: > 0, in net counts; half a photon by default.
        flat_per_view: the flat is a blank scan, (n_view, nz, n_bin), one frame for each view.
        field_noise: False leaves out the flat's and the dark's own noise, which is common to all views (it makes rings,
            not grain).

    Returns:
        LineIntegrals, float64 if counts are, else float32.

    Raises:
        ShapeError: shapes that do not fit.
        ValueError: flat <= dark somewhere (bad pixels: `find_bad_pixels`), a floor that is not positive.
    """
    if counts.ndim != 3:
        raise ShapeError(f"line_integrals counts: expected (n_view, nz, n_bin), got {tuple(counts.shape)}")
    if not floor_counts > 0:
        raise ValueError(f"line_integrals floor_counts: expected > 0, got {floor_counts:g}; 0.5 is half a photon")
    shape = tuple(counts.shape[1:])
    if flat_per_view and flat.shape != counts.shape:
        raise ShapeError(
            f"line_integrals flat: expected one frame per view, {tuple(counts.shape)}, got {tuple(flat.shape)}"
        )
    bright = flat.to(torch.float64) if flat_per_view else mean_frame(flat, shape, "line_integrals flat")
    black = torch.zeros(shape, dtype=torch.float64) if dark is None else mean_frame(dark, shape, "line_integrals dark")
    black = black.to(counts.device)
    span = bright.to(counts.device) - black
    if bool((span <= 0).any()):
        raise ValueError(
            f"line_integrals: expected flat > dark everywhere, found {int((span <= 0).sum())} of {span.numel()} pixels "
            "otherwise; find them with find_bad_pixels and interpolate or leave them out, or exchange flat and dark"
        )
    detector = DetectorNoise(1.0, _frame_spread(dark)) if noise is None else noise
    net = counts.to(torch.float64) - black
    floored = net < floor_counts
    safe = net.clamp_min(floor_counts)
    read = detector.read_std**2
    variance = (detector.gain * safe + read) / safe**2
    if field_noise:
        if flat.ndim == 3:
            variance = variance + (detector.gain * span + read) / (1 if flat_per_view else len(flat)) / span**2
        if dark is not None and dark.ndim == 3:
            variance = variance + read / len(dark) * (1 / safe - 1 / span) ** 2
    dtype = torch.float64 if counts.dtype == torch.float64 else torch.float32
    return LineIntegrals(torch.log(span / safe).to(dtype), variance.to(dtype), floored, int((net > span).sum()))


def line_integrals_from_transmission(transmission: Tensor, *, floor: float | None = None) -> Tensor:
    """-log of the transmission.

    Transmission above 1 gives negative line integrals, which are kept. Zero or less has no logarithm: without a floor
    that is an error, with one it is set to the floor.

    Args:
        transmission: (n_view, nz, n_bin) or any shape, floating.
        floor: > 0, the least transmission that counts as measured, e.g. half a photon over the flat's counts.

    Returns:
        as transmission, unitless.

    Raises:
        DtypeError: not floating. ValueError: non-positive transmission without a floor, or a floor <= 0.
    """
    if not transmission.is_floating_point():
        raise DtypeError(
            f"line_integrals_from_transmission: expected floating transmission, got {transmission.dtype}; counts with "
            "flats go to line_integrals"
        )
    if floor is not None and not floor > 0:
        raise ValueError(f"line_integrals_from_transmission floor: expected > 0, got {floor:g}")
    low = 0.0 if floor is None else floor
    bad = int((transmission <= 0).sum())
    if bad and floor is None:
        raise ValueError(
            f"line_integrals_from_transmission: expected transmission > 0, found {bad} of {transmission.numel()} "
            "samples at zero or below; give a floor (half a photon over the flat's counts), or start from the counts"
        )
    return -torch.log(transmission.clamp_min(low) if low else transmission)


def photon_transfer(flat: Tensor, dark: Tensor | None = None) -> DetectorNoise:
    """Gain and read noise from repeated flats and darks: gain = (var F - var D) / (mean F - mean D), pooled.

    Variances are those of differences of frames that follow each other, each scaled to the same total, so that a slow
    drift of the lamp does not count.

    Args:
        flat: (n, nz, n_bin), n >= 2, counts. dark: likewise, or None: no dark signal, no read noise.

    Raises:
        ShapeError: fewer than two flat frames. ValueError: no signal, or a variance that gives no gain.

    Source: Janesick (2007), Photon Transfer, SPIE, the shot-noise slope.
    """
    if flat.ndim != 3 or len(flat) < 2:
        raise ShapeError(f"photon_transfer flat: expected two frames or more (n, nz, n_bin), got {tuple(flat.shape)}")
    black = torch.zeros(flat.shape[1:], dtype=torch.float64, device=flat.device)
    black = black if dark is None else mean_frame(dark, tuple(flat.shape[1:]), "photon_transfer dark").to(flat.device)
    read = _frame_spread(dark)
    net = flat.to(torch.float64) - black
    signal = float(net.mean())
    if not signal > 0:
        raise ValueError(f"photon_transfer: expected flat > dark on average, found {signal:g}; exchange flat and dark")
    level = net.mean((1, 2), keepdim=True)
    steady = net * (signal / level)
    variance = float(torch.diff(steady, dim=0).square().mean()) / 2
    gain = (variance - read**2) / signal
    if not gain > 0:
        raise ValueError(
            f"photon_transfer: expected more noise in the flats than in the darks, found variances {variance:g} and "
            f"{read**2:g}; are the frames averages or copies of one?"
        )
    return DetectorNoise(gain, read)


def estimate_sinogram_noise(y: Tensor) -> NoiseEstimate:
    """Standard deviation of white Gaussian noise in a sinogram, when nothing else is known.

    From the median of |d|, d the second difference along the columns of the second difference along the views:
    sinograms are smooth in both, so d is noise with a standard deviation of 6 σ. Noise that is correlated between
    neighbours (detector blur, binning of a scintillator) is understated, and few views, far apart, overstate it.

    Args:
        y: (*batch, n_view, nz, n_bin), real; views in the order of their angles, 3 or more, 3 bins or more.

    Returns:
        NoiseEstimate, `std` (*batch), float64, units of y.

    Raises:
        ShapeError: too few views or bins.

    Source: Immerkaer (1996), Comput. Vis. Image Underst. 64, 300, the mask (3); a median in place of his mean, which
        edges raise.
    """
    if y.ndim < 3 or y.shape[-3] < 3 or y.shape[-1] < 3:
        raise ShapeError(
            f"estimate_sinogram_noise y: expected (..., n_view >= 3, nz, n_bin >= 3), got {tuple(y.shape)}"
        )
    d = torch.diff(torch.diff(y.to(torch.float64), n=2, dim=-1), n=2, dim=-3).flatten(-3)
    std = d.abs().median(dim=-1).values / (6 * 0.674489750196)
    # Neighbouring d share noise: Σ r² = 1.94² of them say as much as one; a median says 0.37 of a mean square.
    return NoiseEstimate(std, 0.37 * d.shape[-1] / 1.94**2, "median of second differences along columns and views")


def _frame_spread(frames: Tensor | None) -> float:
    """Standard deviation of one frame about the next, pooled over pixels; 0 for fewer than two frames."""
    if frames is None or frames.ndim != 3 or len(frames) < 2:
        return 0.0
    return math.sqrt(float(torch.diff(frames.to(torch.float64), dim=0).square().mean()) / 2)
