"""How far an image is from the truth, or from its data.

Image metrics compare volume by volume and return float64 of the batch shape: magnitudes of complex images, values of
real ones, signs included. `normalise` says what is done to the estimate e first, with t the truth:

* ``"peak"``: e / max e, the convention of the near-field literature (NF 7.5); it punishes speckled images;
* ``"gain"``: ⟨t, e⟩ / ⟨e, e⟩ · e, the least-squares gain;
* ``"none"``: e as it is.

Nothing is done to the truth. An estimate that is zero everywhere stays zero under every normalisation.

Channel metrics compare complex matrices (*batch, n_rx, n_tx), phases included.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.base import LinearOperator

Normalise = Literal["peak", "gain", "none"]

#: Levels in phase and in quadrature, by the order of the constellation.
CONSTELLATIONS = {4: (2, 2), 8: (4, 2), 16: (4, 4), 64: (8, 8)}
WINDOW = 11  # samples of the Gaussian window, sigma 1.5 cut at 3.5 sigma


def gain(estimate: Tensor, truth: Tensor) -> Tensor:
    """The least-squares gain ⟨t, e⟩ / ⟨e, e⟩ of the magnitudes, (*batch,), float64; 0 for a zero estimate.

    Args:
        estimate, truth: real or complex, (*batch, nz, ny, nx), same units.
    """
    e, t = _magnitudes(estimate, truth)
    return _ratio((t * e).sum((-3, -2, -1)), (e * e).sum((-3, -2, -1)))


def psnr(estimate: Tensor, truth: Tensor, *, normalise: Normalise = "peak") -> Tensor:
    """Peak signal-to-noise ratio 10 log10((max t)² / mean (t - e)²) in dB, (*batch,), float64.

    Args:
        estimate, truth: real or complex, (*batch, nz, ny, nx).
        normalise: see the module.

    Returns:
        inf for equal images; -inf for a truth that is zero everywhere and an estimate that is not.

    Source: NF 7.5.
    """
    e, t = _normalised(estimate, truth, normalise)
    peak = t.amax((-3, -2, -1)) ** 2
    error = ((t - e) ** 2).mean((-3, -2, -1))
    equal = error == 0
    value = 10 * torch.log10(peak / torch.where(equal, torch.ones_like(error), error))
    return torch.where(equal, torch.inf, value)


def nmse(estimate: Tensor, truth: Tensor, *, normalise: Normalise = "gain") -> Tensor:
    """Normalised mean squared error ‖t - e‖² / ‖t‖² of the magnitudes, (*batch,), float64, unitless.

    Args:
        estimate, truth: real or complex, (*batch, nz, ny, nx).
        normalise: see the module.

    Returns:
        0 for equal images; inf for a truth that is zero everywhere and an estimate that is not.
    """
    e, t = _normalised(estimate, truth, normalise)
    error, size = ((t - e) ** 2).sum((-3, -2, -1)), (t**2).sum((-3, -2, -1))
    empty = torch.where(error == 0, torch.zeros_like(error), torch.full_like(error, torch.inf))
    return torch.where(size == 0, empty, error / torch.where(size == 0, torch.ones_like(size), size))


def ssim(estimate: Tensor, truth: Tensor, *, dims: Literal[2, 3] = 3, normalise: Normalise = "peak") -> Tensor:
    """Structural similarity of the magnitudes with data range 1, (*batch,), float64.

    Gaussian window of 11 samples and sigma 1.5, k1 = 0.01, k2 = 0.03, population covariances; the border
    where the window does not fit (5 voxels) is left out of the mean.

    Args:
        estimate, truth: real or complex, (*batch, nz, ny, nx); the truth's magnitudes within [0, 1].
        dims: 3 for a window in space; 2 for one in the x-y plane, averaged over the range bins z (the two
            conventions of NF 7.5). A two-dimensional image (nz = 1) has only the second.
        normalise: see the module.

    Raises:
        ShapeError: an axis under the window has fewer than 11 voxels.

    Source: Wang, Bovik, Sheikh, Simoncelli (2004); computed by scikit-image.
    """
    if dims not in (2, 3):
        raise ValueError(f"ssim dims: expected 2 (x-y plane) or 3, got {dims}")
    e, t = _normalised(estimate, truth, normalise)
    for name, n in zip(("z", "y", "x")[3 - dims :], e.shape[-dims:], strict=True):
        if n < WINDOW:
            raise ShapeError(
                f"ssim input: the window needs {WINDOW} voxels, axis {name} has {n}"
                + ("; use dims=2" if name == "z" else "")
            )
    shape = e.shape[-3:]
    values = []
    pairs = zip(e.reshape(-1, *shape).cpu().numpy(), t.reshape(-1, *shape).cpu().numpy(), strict=True)
    for one, reference in pairs:
        values.append(
            structural_similarity(
                # range bins as channels: scikit-image averages the channels' means
                one if dims == 3 else one.transpose(1, 2, 0),
                reference if dims == 3 else reference.transpose(1, 2, 0),
                channel_axis=None if dims == 3 else 2,
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
    return torch.tensor(values, dtype=torch.float64, device=e.device).reshape(e.shape[:-3])


def measurement_residual(A: LinearOperator, x: Tensor, y: Tensor) -> Tensor:
    """‖A x - y‖ / ‖y‖ per problem, (*batch,), float64, unitless; 0 for y = 0 and x = 0.

    Args:
        x: (*batch, *A.in_shape), complex: not a magnitude.
        y: (*batch, *A.out_shape).
    """
    rank = len(A.out_shape)
    if y.ndim < rank or x.shape[: x.ndim - len(A.in_shape)] != y.shape[: y.ndim - rank]:
        raise ShapeError(
            f"measurement_residual: batch axes of x {tuple(x.shape)} and y {tuple(y.shape)} differ; "
            f"expected (*batch, {A.in_shape}) and (*batch, {A.out_shape})"
        )
    batch = y.shape[: y.ndim - rank]
    error = torch.linalg.vector_norm((A(x) - y).reshape(*batch, -1), dim=-1).to(_wide(y))
    size = torch.linalg.vector_norm(y.reshape(*batch, -1), dim=-1).to(_wide(y))
    return torch.where((size == 0) & (error > 0), torch.inf, _ratio(error, size))


def support_overlap(estimate: Tensor, truth: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the voxels above a share of the peak, (*batch,), float64, in [0, 1].

    Args:
        estimate, truth: real or complex, (*batch, nz, ny, nx).
        threshold: share of each image's own largest magnitude, in (0, 1].

    Returns:
        1 when both supports are empty (both images zero).
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"support_overlap threshold: expected a share in (0, 1], got {threshold}")
    e, t = _magnitudes(estimate, truth)
    inside = [(v >= threshold * v.amax((-3, -2, -1), keepdim=True)) & (v > 0) for v in (e, t)]
    both = (inside[0] & inside[1]).sum((-3, -2, -1)).to(e.dtype)
    either = (inside[0] | inside[1]).sum((-3, -2, -1)).to(e.dtype)
    return torch.where(either == 0, torch.ones_like(both), both / either.clamp_min(1))


def complex_nmse(estimate: Tensor, truth: Tensor, *, dims: int = 2) -> Tensor:
    """‖t - e‖² / ‖t‖² over the last axes, phases and scale included, (*batch,), float64, unitless.

    Args:
        estimate, truth: real or complex, (*batch, ...), same units.
        dims: axes to sum over: 2 for channel matrices, 3 for tensors of coefficients.

    Returns:
        inf for a truth that is zero everywhere and an estimate that is not, 0 where both are.

    Source: KS 2.3.
    """
    e, t = _channels(estimate, truth, dims)
    error = (t - e).abs().square().flatten(-dims).sum(-1)
    return torch.where(error == 0, 0.0, error / t.abs().square().flatten(-dims).sum(-1))


def symbol_error_rate(estimate: Tensor, truth: Tensor, snr: Tensor | float, *, order: int = 4) -> Tensor:
    """Share of wrong symbols over the strongest beam of the estimated channel, (*batch,), float64.

    With Ĥ = U S Vᴴ a symbol s is sent along v_1 and received along u_1: y = u_1ᴴ H v_1 s + n, and decided as the s
    that makes |y - u_1ᴴ Ĥ v_1 s| least. The noise's power is that of the received signal over `snr`, so that a beam
    which points elsewhere costs nothing; see `spectral_efficiency` for that. No symbols are drawn: this is what
    infinitely many give.

    Args:
        estimate, truth: complex, (*batch, n_rx, n_tx).
        snr: received power over noise power, a number or (*batch,), > 0, may be infinite.
        order: of a rectangular constellation with equal distances: 4 (QPSK), 8 (4 x 2), 16 or 64.

    Returns:
        1 - 1 / order where the estimate, or the gain of its beam, is 0: any symbol is a guess.

    Source: KS 2.3, where symbols are drawn.
    """
    if order not in CONSTELLATIONS:
        raise ValueError(f"symbol_error_rate order: expected one of {', '.join(map(str, CONSTELLATIONS))}, got {order}")
    e, t = _channels(estimate, truth, 2)
    snr = _positive("symbol_error_rate", snr, t)
    expected, gain = _beam_gains(e, t)
    blind = (expected.abs() == 0) | (gain.abs() == 0)
    ratio = torch.where(blind, 1.0, gain / torch.where(blind, 1.0, expected))
    spread = (ratio.abs() / (2 * snr).sqrt()).clamp_min(torch.finfo(torch.float64).tiny)
    n_i, n_q = CONSTELLATIONS[order]
    unit = (3 / (n_i**2 + n_q**2 - 2)) ** 0.5
    right = torch.zeros_like(spread)
    for i in range(1 - n_i, n_i, 2):
        for q in range(1 - n_q, n_q, 2):
            seen = ratio * complex(i, q) * unit
            right += _within(seen.real, i, n_i, unit, spread) * _within(seen.imag, q, n_q, unit, spread)
    return torch.where(blind, 1 - 1 / order, (1 - right / order).clamp_min(0))


def spectral_efficiency(estimate: Tensor, truth: Tensor, snr: Tensor | float) -> Tensor:
    """log2(1 + snr |u_1ᴴ H v_1|²) in bit/s/Hz with the strongest beam u_1, v_1 of the estimated channel, float64.

    One stream, whose receiver knows the gain of its beam; what the pilots cost is not counted. The estimate equal to
    the truth gives log2(1 + snr σ_1²), the most that one stream can have.

    Args:
        estimate, truth: complex, (*batch, n_rx, n_tx).
        snr: transmit power over noise power of an antenna, a number or (*batch,), > 0.

    Returns:
        (*batch,); 0 for an estimate of 0, which has no beam.
    """
    e, t = _channels(estimate, truth, 2)
    snr = _positive("spectral_efficiency", snr, t)
    expected, gain = _beam_gains(e, t)
    return torch.where(expected == 0, 0.0, torch.log2(1 + snr * gain.abs().square()))


def _beam_gains(e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """u_1ᴴ Ĥ v_1 and u_1ᴴ H v_1, (*batch,)."""
    u, _, vh = torch.linalg.svd(e, full_matrices=False)
    left, right = u[..., :1].mH, vh[..., :1, :].mH
    return (left @ e @ right)[..., 0, 0], (left @ t @ right)[..., 0, 0]


def _within(seen: Tensor, level: int, n: int, unit: float, spread: Tensor) -> Tensor:
    """Probability that `seen` plus noise lies in the cell of a level; the outermost cells are open."""
    high = torch.inf if level == n - 1 else (level + 1) * unit
    low = -torch.inf if level == 1 - n else (level - 1) * unit
    return torch.special.ndtr((high - seen) / spread) - torch.special.ndtr((low - seen) / spread)


def _positive(name: str, snr: Tensor | float, like: Tensor) -> Tensor:
    value = torch.as_tensor(snr, dtype=torch.float64, device=like.device)
    if not bool((value > 0).all()):
        raise ValueError(f"{name} snr: expected numbers > 0, got {float(value.min()):g}")
    return value


def _channels(estimate: Tensor, truth: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    if estimate.shape != truth.shape or estimate.ndim < dims or dims < 1:
        raise ShapeError(
            f"metrics: expected two arrays of one shape and {dims} axes or more, got {tuple(estimate.shape)} and "
            f"{tuple(truth.shape)}"
        )
    return estimate.to(torch.complex128), truth.to(torch.complex128)


def _normalised(estimate: Tensor, truth: Tensor, normalise: Normalise) -> tuple[Tensor, Tensor]:
    if normalise not in get_args(Normalise):
        raise ValueError(f"normalise: expected one of {', '.join(get_args(Normalise))}, got {normalise!r}")
    e, t = _magnitudes(estimate, truth)
    if normalise == "peak":
        e = _ratio(e, e.amax((-3, -2, -1), keepdim=True))
    elif normalise == "gain":
        factor = _ratio((t * e).sum((-3, -2, -1), keepdim=True), (e * e).sum((-3, -2, -1), keepdim=True))
        e = factor * e
    return e, t


def _magnitudes(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if estimate.shape != truth.shape or estimate.ndim < 3:
        raise ShapeError(
            f"metrics: expected two volumes (..., nz, ny, nx) of one shape, got {tuple(estimate.shape)} "
            f"and {tuple(truth.shape)}"
        )
    e, t = (v.abs() if v.is_complex() else v for v in (estimate, truth))
    return e.to(_wide(e)), t.to(_wide(t))


def _wide(v: Tensor) -> torch.dtype:
    return torch.float32 if v.device.type == "mps" else torch.float64  # mps has no float64


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b = 0."""
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, torch.ones_like(b), b))
