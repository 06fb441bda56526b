"""Range migration: planar monostatic scans imaged in the wavenumber domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import finufft
import numpy as np
import scipy.fft
import torch
from torch import Tensor

from imaging.errors import DtypeError, GeometryError, ShapeError
from imaging.operators.grid import Grid
from imaging.operators.near_field import ADVANCE, DELAY, PHASE_CONVENTIONS, SPEED_OF_LIGHT

RASTER_TOLERANCE = 0.05  # of a step: how far a position may be from its raster point
PLANE_TOLERANCE = 0.02  # of the shortest wavelength: out-of-plane error, 14 degrees of two-way phase
PLANES_PER_NUFFT = 200  # range bins above which one 3-D NUFFT beats stepping through them, measured


@dataclass(frozen=True)
class Raster:
    """A planar scan sorted onto a regular raster.

    Args:
        first_m: (x, y) of raster point (0, 0), metres.
        step_m: (dx, dy), metres; 0 along an axis with one point.
        shape: (ny, nx), points.
        plane_m: z of the scan plane, metres.
        index: flat raster index y * nx + x of every position, int64 (n_position,).
    """

    first_m: tuple[float, float]
    step_m: tuple[float, float]
    shape: tuple[int, int]
    plane_m: float
    index: Tensor

    @property
    def n_missing(self) -> int:
        return math.prod(self.shape) - len(self.index)

    @classmethod
    def detect(cls, positions_m: Tensor, wavelength_m: float) -> Raster:
        """Find the raster of positions given in any order.

        Args:
            positions_m: (n, 3), columns x, y, z, metres.
            wavelength_m: the shortest, which says how plane is plane.

        Raises:
            GeometryError: positions out of one plane z = const, off a regular raster, or occurring twice.
        """
        p = positions_m.to(torch.float64).cpu()
        plane = float(p[:, 2].mean())
        out = float((p[:, 2] - plane).abs().max())
        if out > PLANE_TOLERANCE * wavelength_m:
            raise GeometryError(
                f"range_migration positions: expected one plane z = const, found a deviation of {out:.3g} m "
                f"({out / wavelength_m:.2g} wavelengths); use backprojection"
            )
        first, step, count, index = [], [], [], []
        for axis, name in enumerate("xy"):
            start, pitch, n, i = _regular(p[:, axis], name)
            first.append(start)
            step.append(pitch)
            count.append(n)
            index.append(i)
        flat = index[1] * count[0] + index[0]
        if len(torch.unique(flat)) < len(flat):
            values, times = torch.unique(flat, return_counts=True)
            row, column = divmod(int(values[times > 1][0]), count[0])
            raise GeometryError(
                f"range_migration positions: raster point x = {first[0] + column * step[0]:.4g} m, "
                f"y = {first[1] + row * step[1]:.4g} m occurs twice; average repeated measurements first"
            )
        return cls((first[0], first[1]), (step[0], step[1]), (count[1], count[0]), plane, flat)


def range_migration(
    y: Tensor,
    positions_m: Any,
    frequencies_hz: Any,
    grid: Grid,
    *,
    phase_convention: str = DELAY,
    propagation_speed: float = SPEED_OF_LIGHT,
    weight: Literal["wavenumber", "frequency"] = "wavenumber",
    missing: Literal["error", "zero"] = "error",
    transform: Literal["auto", "steps", "nufft"] = "auto",
) -> Tensor:
    """Image a planar monostatic stepped-frequency scan: FFT over the aperture, then exactly onto the grid.

    The spectrum Y(kx, ky, k) of data exp(-2jkR) belongs to the image wavenumber (kx, ky, kz) with
    kz² = 4k² - kx² - ky². Instead of interpolating it onto a regular kz (Stolt), the sum over the irregular
    kz is taken exactly: by stepping from range bin to range bin, or by one non-uniform FFT, whichever costs
    less. So the grid may have any pitch and offset. Evanescent components (kz imaginary) are left out. The
    aperture is padded with zeros to twice what aperture and grid cover together, against wrap-around. The
    constant phase of the plane-wave expansion is removed: a point with real reflectivity is focused to a real
    positive value. No amplitude is corrected for distance.

    Args:
        y: (*batch, n_position, n_freq), complex64 or complex128.
        positions_m: (n_position, 3), columns x, y, z, metres, in any order, on a regular raster in a plane z
            = const with the whole grid on one side. A scan of one row images a grid with ny = 1 at its y, and
            likewise nx.
        frequencies_hz: (n_freq,), strictly increasing, hertz; the steps may differ.
        grid: voxels.
        phase_convention: "exp(-j*2*pi*f*tau)" or "exp(+j*2*pi*f*tau)", tau = 2R / c.
        propagation_speed: m/s.
        weight: "wavenumber" weights each sample with the width of its cell in kz, the Jacobian of the Stolt
            mapping (a flat spectrum in kz); "frequency" gives each frequency its width in k, wherever it
            lands.
        missing: "error" refuses a raster with holes; "zero" takes what was not measured as zero.
        transform: "steps" or "nufft" to choose the transform along z oneself; equal to within 1e-5 in single
            precision.

    Returns:
        (*batch, nz, ny, nx), y's dtype and device, in units of y; not calibrated in amplitude.

    Raises:
        GeometryError: no plane, no regular raster, holes, repeated points, grid on both sides of the scan.
        ShapeError, DtypeError: y does not fit.

    Source: Sheen, McMakin, Hall (2001), Three-dimensional millimeter-wave imaging for concealed weapon
        detection; non-uniform transform in place of Stolt interpolation: Wang et al. (2020), IEEE TGRS
        58:4730.
    """
    positions, frequencies = _numbers(positions_m), _numbers(frequencies_hz)
    _check(y, positions, frequencies, phase_convention, weight, missing, transform)
    wavenumbers = 2 * math.pi * frequencies / propagation_speed
    raster = Raster.detect(positions, propagation_speed / float(frequencies[-1]))
    if raster.n_missing and missing == "error":
        raise GeometryError(
            f"range_migration positions: {raster.n_missing} of {math.prod(raster.shape)} raster points are "
            'missing; pass missing="zero" to take them as zero, or use backprojection'
        )
    side = _side(grid, raster)
    batch = y.shape[:-2]
    data = y.reshape(-1, *y.shape[-2:])
    data = data.conj() if phase_convention == ADVANCE else data

    spectrum, kx, ky = _aperture_spectrum(data, raster, grid)
    kz2 = 4 * wavenumbers[:, None, None] ** 2 - (kx**2)[None, None, :] - (ky**2)[None, :, None]
    spectrum *= _cell_widths(wavenumbers, kx, ky, weight).to(spectrum.device, spectrum.real.dtype)
    kz = kz2.clamp_min(0).sqrt()

    n_z = grid.shape[0]
    use_nufft = transform == "nufft" or (transform == "auto" and y.device.type == "cpu" and n_z > PLANES_PER_NUFFT)
    focus = _nufft if use_nufft else _steps
    image = focus(spectrum, kx, ky, kz, grid, raster, side)
    # exp(-2jkR) = j * (plane waves with positive weights), by stationary phase over both aperture axes
    rows = sum(n > 1 for n in raster.shape)
    image *= complex(math.cos(math.pi / 4 * rows), math.sin(math.pi / 4 * rows))
    image = image.conj().resolve_conj() if phase_convention == ADVANCE else image
    return image.reshape(*batch, *grid.shape)


def _steps(spectrum: Tensor, kx: Tensor, ky: Tensor, kz: Tensor, grid: Grid, raster: Raster, side: int) -> Tensor:
    """Sum over frequencies at every range bin, moving all phases by one bin at a time."""
    kind, device = spectrum.dtype, spectrum.device
    depth = side * (grid.origin_m[0] - raster.plane_m)
    wave = spectrum * _phase(kz * depth, kind, device)
    step = _phase(kz * (side * grid.spacing_m[0]), kind, device)
    planes = []
    for i in range(grid.shape[0]):
        if i:
            wave *= step
        planes.append(wave.sum(1))
    to_x = _phase(torch.outer(grid.axis_m("x") - raster.first_m[0], kx), kind, device)
    to_y = _phase(torch.outer(grid.axis_m("y") - raster.first_m[1], ky), kind, device)
    return to_y @ torch.stack(planes, 1) @ to_x.T


def _nufft(spectrum: Tensor, kx: Tensor, ky: Tensor, kz: Tensor, grid: Grid, raster: Raster, side: int) -> Tensor:
    """One 3-D non-uniform FFT (type 1) from all propagating (kz, ky, kx) to the voxels."""
    keep = kz > 0
    first = (raster.plane_m, raster.first_m[1], raster.first_m[0])
    wavenumbers = (side * kz, ky[None, :, None].expand_as(kz), kx[None, None, :].expand_as(kz))
    points, centre = [], torch.zeros_like(kz)
    for k, o, d, n, f in zip(wavenumbers, grid.origin_m, grid.spacing_m, grid.shape, first, strict=True):
        points.append(torch.remainder(k[keep] * d + math.pi, 2 * math.pi) - math.pi)
        centre = centre + k * (o + (n // 2) * d - f)  # mode 0 is voxel n // 2
    strengths = (spectrum * _phase(centre, spectrum.dtype, spectrum.device))[:, keep.to(spectrum.device)]
    single = spectrum.dtype == torch.complex64
    real = np.float32 if single else np.float64
    image = finufft.nufft3d1(
        *(p.numpy().astype(real) for p in points),
        np.ascontiguousarray(strengths.cpu().numpy()),
        grid.shape,
        eps=1e-6 if single else 1e-12,
        isign=1,
    )
    return torch.as_tensor(image).reshape(len(spectrum), *grid.shape).to(spectrum.device)


def _aperture_spectrum(data: Tensor, raster: Raster, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, n_freq, n_ky, n_kx) spectrum of the zero-padded aperture, kx and ky in rad/m (float64)."""
    batch, _, n_freq = data.shape
    field = data.new_zeros(batch, n_freq, math.prod(raster.shape))
    field[:, :, raster.index.to(data.device)] = data.transpose(1, 2)
    field = field.reshape(batch, n_freq, *raster.shape)
    sizes, wavenumbers = [], []
    for axis, name in enumerate("xy"):
        n, step, first = raster.shape[1 - axis], raster.step_m[axis], raster.first_m[axis]
        if n == 1:
            sizes.append(1)
            wavenumbers.append(torch.zeros(1, dtype=torch.float64))
            continue
        voxels = grid.axis_m(name)
        lowest = min(first, float(voxels[0]))
        highest = max(first + (n - 1) * step, float(voxels[-1]))
        padded = scipy.fft.next_fast_len(math.ceil(2 * (highest - lowest) / step) + 1)
        sizes.append(max(padded, n))
        wavenumbers.append(2 * math.pi * torch.fft.fftfreq(sizes[-1], d=step, dtype=torch.float64))
    spectrum = torch.fft.fft2(field, s=(sizes[1], sizes[0]))
    return spectrum / math.prod(sizes), wavenumbers[0], wavenumbers[1]


def _cell_widths(wavenumbers: Tensor, kx: Tensor, ky: Tensor, weight: str) -> Tensor:
    """Share of each sample in the integral over kz (or k), evanescent ones 0: (n_freq, n_ky, n_kx),
    float64."""
    k = 2 * wavenumbers
    edges = torch.cat((k[:1], (k[1:] + k[:-1]) / 2, k[-1:]))
    if len(k) > 1:  # the outer cells reach half a step out, as the inner ones do
        edges[0], edges[-1] = k[0] - (k[1] - k[0]) / 2, k[-1] + (k[-1] - k[-2]) / 2
    lateral2 = (kx**2)[None, None, :] + (ky**2)[None, :, None]
    propagating = (k**2)[:, None, None] > lateral2
    if len(k) == 1:
        return propagating.to(torch.float64)
    span = edges[-1] - edges[0]
    if weight == "frequency":
        return propagating * ((edges[1:] - edges[:-1]) / span)[:, None, None]
    kz_edges = ((edges.clamp_min(0) ** 2)[:, None, None] - lateral2).clamp_min(0).sqrt()
    return propagating * (kz_edges[1:] - kz_edges[:-1]) / span


def _numbers(values: Any) -> Tensor:
    values = values.cpu() if isinstance(values, Tensor) else values
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def _phase(angle: Tensor, kind: torch.dtype, device: torch.device) -> Tensor:
    """exp(j angle); the angle is reduced in float64."""
    return torch.polar(torch.ones_like(angle), angle).to(kind).to(device)


def _regular(values: Tensor, name: str) -> tuple[float, float, int, Tensor]:
    """first, step, count and index of coordinates that lie on a regular raster."""
    ordered = torch.unique(values)
    span = float(ordered[-1] - ordered[0])
    gaps = ordered.diff()
    # positions of one raster column agree up to rounding; real steps are much larger
    real = gaps[gaps > 1e-3 * float(gaps.max())] if len(gaps) else gaps
    if span == 0 or len(real) == 0:
        return float(ordered[0]), 0.0, 1, torch.zeros(len(values), dtype=torch.int64)
    step = float(real.median())
    count = round(span / step) + 1
    step = span / (count - 1)
    index = ((values - ordered[0]) / step).round()
    off = float((values - ordered[0] - index * step).abs().max())
    if off > RASTER_TOLERANCE * step:
        raise GeometryError(
            f"range_migration positions: expected a regular raster, found {name} {off:.3g} m away from one "
            f"of step {step:.3g} m; use backprojection"
        )
    return float(ordered[0]), step, count, index.to(torch.int64)


def _side(grid: Grid, raster: Raster) -> int:
    """+1 for a grid at larger z than the scan plane, -1 for one at smaller z; checks what a line scan can
    image."""
    depths = [grid.origin_m[0] - raster.plane_m, grid.last_m[0] - raster.plane_m]
    if min(depths) <= 0 <= max(depths):
        raise GeometryError(
            f"range_migration grid: expected all z on one side of the scan at z = {raster.plane_m:.4g} m, "
            f"got {grid.origin_m[0]:.4g} to {grid.last_m[0]:.4g} m"
        )
    for axis, name in ((0, "x"), (1, "y")):
        if raster.shape[1 - axis] == 1 and grid.shape[2 - axis] > 1:
            raise GeometryError(
                f"range_migration grid: the scan has one point along {name} and cannot resolve it; expected "
                f"n{name} = 1, got {grid.shape[2 - axis]}"
            )
    return 1 if depths[0] > 0 else -1


def _check(
    y: Tensor,
    positions: Tensor,
    frequencies: Tensor,
    phase_convention: str,
    weight: str,
    missing: str,
    transform: str,
) -> None:
    if positions.ndim != 2 or positions.shape[1] != 3 or not len(positions):
        raise ShapeError(
            f"range_migration positions: expected (n_position, 3), columns x, y, z, got {tuple(positions.shape)}"
        )
    if not bool(torch.isfinite(positions).all()):
        raise GeometryError("range_migration positions: expected finite metres, found NaN or Inf")
    if frequencies.ndim != 1 or not len(frequencies) or not bool((frequencies > 0).all()):
        raise GeometryError(f"range_migration frequencies: expected (n_freq,) > 0 Hz, got {frequencies}")
    if not bool((frequencies.diff() > 0).all()):
        raise GeometryError("range_migration frequencies: expected strictly increasing ones; sort the data")
    expected = (len(positions), len(frequencies))
    if tuple(y.shape[-2:]) != expected:
        raise ShapeError(
            f"range_migration y: expected (..., {expected[0]}, {expected[1]}), got {tuple(y.shape)}; "
            "axes are position, frequency"
        )
    if y.dtype not in (torch.complex64, torch.complex128):
        raise DtypeError(f"range_migration y: expected complex64 or complex128, got {y.dtype}")
    for name, value, known in (
        ("phase_convention", phase_convention, PHASE_CONVENTIONS),
        ("weight", weight, ("wavenumber", "frequency")),
        ("missing", missing, ("error", "zero")),
        ("transform", transform, ("auto", "steps", "nufft")),
    ):
        if value not in known:
            raise ValueError(f"range_migration {name}: expected one of {', '.join(known)}, got {value!r}")
