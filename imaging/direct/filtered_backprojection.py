"""Filtered back-projection of parallel and fan beams, any angles, on a flat detector."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from imaging.direct.ramp_filter import EXTENSIONS, Extension, Window, check_window, filter_rows
from imaging.direct.view_weights import Coverage, fan_redundancy, offset_detector_shares, view_weights
from imaging.errors import DtypeError, GeometryError, ShapeError
from imaging.operators.grid import Grid
from imaging.operators.rays import check_source_outside

Geometry = Literal["parallel", "fan"]
#: Samples of the image that one block of views makes at once; small blocks stay in the cache.
BLOCK = 2**20
#: Columns may lie this far off a regular grid, as a fraction of their distance.
UNEVEN = 0.01


def fbp(
    y: Tensor,
    angles_rad: Tensor,
    columns_m: Tensor,
    grid: Grid,
    *,
    geometry: Geometry = "parallel",
    source_to_origin_m: float | None = None,
    origin_to_detector_m: float | None = None,
    axis_offset_m: float = 0.0,
    window: Window = "ram-lak",
    cutoff: float = 1.0,
    extension: Extension = "zero",
    offset_detector: bool = False,
) -> Tensor:
    """Filtered back-projection, slice by slice: the inverse of `ParallelBeam` and `FanBeam`, same conventions.

    With s the detector coordinate brought to the rotation axis and w the weight of a view,

        parallel  f(x, y) = Σ_θ w_θ q_θ(x cos θ + y sin θ),                     q_θ = y_θ * ramp
        fan       f(x, y) = Σ_θ w_θ U⁻² q_θ((x cos θ + y sin θ) / U),           q_θ = (y_θ share D / √(D² + s²)) * ramp

    U = (D - x sin θ + y cos θ) / D, D = source_to_origin_m. The weights w are quadrature weights of the actual angles,
    over π (parallel; opposite views count as the same) or 2π (fan); the shares divide a line among the rays of the fan
    that measure it, for full, short (π plus the opening of the fan) and longer scans alike. See `view_weights` and
    `fan_redundancy`, also for limited ranges: what was not measured is left out, not invented.

    A pixel counts only the views whose detector saw it (linear interpolation, falling to zero one bin outside), so
    pixels outside the field of view come out too low. A tilted detector is not treated.

    Args:
        y: line integrals, (*batch, n_view, nz, n_bin), unitless, real or complex.
        angles_rad: of the views, (n_view,), any order, irregular, repeated.
        columns_m: centres of the detector bins, (n_bin,), metres, increasing, evenly spaced; at least two.
        grid: voxels; nz as in y.
        geometry: "parallel", or "fan" with a flat detector.
        source_to_origin_m, origin_to_detector_m: of the fan, > 0 and >= 0, metres.
        axis_offset_m: detector coordinate of the rotation axis (fan: of the foot of the central ray), metres.
        window, cutoff: see `ramp_filter`.
        extension: beyond the detector's ends, "zero", "constant" or "smooth"; see `filter_rows`. For truncated
            projections.
        offset_detector: the detector reaches farther to one side, on purpose, to see an object wider than itself in a
            scan over 2π; lines seen twice are then shared smoothly (Wang's weights).

    Returns:
        (*batch, nz, ny, nx), 1/m, y's dtype and device.

    Raises:
        ShapeError: y does not fit the angles, the columns or the grid.
        DtypeError: y is not floating.
        GeometryError: no scan, or one that this method does not fit.
        ValueError: an unknown geometry, window or extension; NaN or Inf in y.

    Source: Kak & Slaney (1988), Principles of Computerized Tomographic Imaging, chapter 3: 3.3 (parallel), 3.4.2
        (fan, flat detector), filter (61). We differ in the weights: theirs are equal.
    """
    scan = checked_scan(
        y, angles_rad, columns_m, grid, geometry, source_to_origin_m, origin_to_detector_m, axis_offset_m
    )
    check_window(window, cutoff)
    if extension not in EXTENSIONS:
        raise ValueError(f"extension: expected one of {', '.join(EXTENSIONS)}, got {extension!r}")
    if y.is_complex():
        both = torch.stack((y.real, y.imag))
        return torch.complex(*_fbp(both, scan, grid, window, cutoff, extension, offset_detector))
    return _fbp(y, scan, grid, window, cutoff, extension, offset_detector)


@dataclass(frozen=True)
class _Scan:
    """Detector brought to the rotation axis: `first_m` + j `step_m` is the coordinate s of column j."""

    angles_rad: Tensor
    n_bins: int
    first_m: float
    step_m: float
    far_m: float | None

    def coordinates_m(self) -> Tensor:
        return self.first_m + self.step_m * torch.arange(self.n_bins, dtype=torch.float64)


def _fbp(
    y: Tensor, scan: _Scan, grid: Grid, window: Window, cutoff: float, extension: Extension, offset_detector: bool
) -> Tensor:
    n_z, n_y, n_x = grid.shape
    flat = y.reshape(-1, *y.shape[-3:]).transpose(1, 2).reshape(-1, y.shape[-3], scan.n_bins)  # (batch nz, view, bin)
    weights = _ray_weights(scan, offset_detector)  # (n_view, n_bin)
    added = (0, 0)
    if offset_detector:  # what the filter spreads beyond the short side counts too
        scan, added = _evened(scan)
        weights = pad(weights, added)
    weights = weights.to(y.device, y.dtype)
    x_m = (grid.origin_m[2] + grid.spacing_m[2] * torch.arange(n_x, dtype=torch.float64)).to(y.device, y.dtype)
    y_m = (grid.origin_m[1] + grid.spacing_m[1] * torch.arange(n_y, dtype=torch.float64)).to(y.device, y.dtype)
    angles = scan.angles_rad.to(y.device, torch.float64)
    cos, sin = torch.cos(angles).to(y.dtype), torch.sin(angles).to(y.dtype)
    image = torch.zeros(len(flat), n_y, n_x, dtype=y.dtype, device=y.device)
    step = max(1, BLOCK // max(len(flat) * n_y * n_x, 1))
    for first in range(0, y.shape[-3], step):
        views = slice(first, first + step)
        q = filter_rows(
            pad(flat[:, views], added) * weights[views], scan.step_m, window, cutoff=cutoff, extension=extension
        )
        c, s = cos[views, None, None], sin[views, None, None]
        at = c * x_m + s * y_m[:, None]  # (view, ny, nx)
        u: Tensor | float = 1.0
        if scan.far_m is not None:
            u = 1 + (c * y_m[:, None] - s * x_m) / scan.far_m
            at = at / u
        # grid_sample wants -1 at the first and +1 at the last column.
        place = (at - scan.first_m) * (2 / (scan.step_m * (scan.n_bins - 1))) - 1
        place = torch.stack((place, torch.zeros_like(place)), dim=-1)
        seen = grid_sample(q.transpose(0, 1)[:, :, None, :], place, align_corners=True, padding_mode="zeros")
        if isinstance(u, Tensor):
            seen = seen / u.square()[:, None]
        image = image + seen.sum(0)
    return image.reshape(*y.shape[:-3], n_z, n_y, n_x)


def _ray_weights(scan: _Scan, offset_detector: bool) -> Tensor:
    """View weight, share among rays of the same line and, in a fan, D / √(D² + s²): float64 (n_view, n_bin)."""
    s = scan.coordinates_m()
    fan = scan.far_m is not None
    coverage = view_weights(scan.angles_rad, 2 * math.pi if fan or offset_detector else math.pi)
    weights = coverage.weights_rad[:, None].expand(-1, scan.n_bins)
    gamma = torch.atan(s / scan.far_m) if scan.far_m is not None else s
    if offset_detector:
        weights = weights * _offset_shares(gamma, coverage)
    elif fan:
        weights = weights * fan_redundancy(scan.angles_rad.cpu(), gamma, coverage)
    return weights * torch.cos(gamma) if fan else weights


def _offset_shares(gamma: Tensor, coverage: Coverage) -> Tensor:
    if not coverage.complete:
        raise GeometryError(
            f"fbp offset_detector: expected views over 2π, got {math.degrees(float(coverage.weights_rad.sum())):.1f} "
            "degrees; the other side of the object is seen from opposite views only"
        )
    overlap = min(-float(gamma[0]), float(gamma[-1]))
    if overlap <= 0:
        raise GeometryError(
            "fbp offset_detector: expected the rotation axis on the detector, found it outside; check axis_offset_m"
        )
    return offset_detector_shares(gamma, overlap)


def _evened(scan: _Scan) -> tuple[_Scan, tuple[int, int]]:
    """The scan with as many columns on the short side as on the long one, and how many were added left and right."""
    s = scan.coordinates_m()
    missing = round(float(s[-1] + s[0]) / scan.step_m)
    left, right = max(missing, 0), max(-missing, 0)
    evened = replace(scan, n_bins=scan.n_bins + left + right, first_m=scan.first_m - left * scan.step_m)
    return evened, (left, right)


def checked_scan(
    y: Tensor,
    angles_rad: Tensor,
    columns_m: Tensor,
    grid: Grid,
    geometry: str,
    source_to_origin_m: float | None,
    origin_to_detector_m: float | None,
    axis_offset_m: float,
) -> _Scan:
    """The detector of a scan that fits the data and the grid; see `fbp`."""
    if geometry not in get_args(Geometry):
        raise ValueError(f"fbp geometry: expected one of {', '.join(get_args(Geometry))}, got {geometry!r}")
    for name, value in (("angles_rad", angles_rad), ("columns_m", columns_m)):
        if value.ndim != 1 or len(value) == 0 or not bool(torch.isfinite(value).all()):
            raise GeometryError(f"fbp {name}: expected finite numbers, one axis, got shape {tuple(value.shape)}")
    expected = (len(angles_rad), grid.shape[0], len(columns_m))
    if tuple(y.shape[-3:]) != expected:
        raise ShapeError(
            f"fbp y: expected (..., {expected[0]}, {expected[1]}, {expected[2]}), got {tuple(y.shape)}; axes are "
            "projection, detector_row (one per slice of the grid), detector_column"
        )
    if not (y.is_floating_point() or y.is_complex()):
        raise DtypeError(f"fbp y: expected line integrals as floating numbers, got {y.dtype}; counts need -log first")
    if not bool(torch.isfinite(y).all()):
        raise ValueError(
            "fbp y: expected finite line integrals, found NaN or Inf; interpolate bad pixels and views first"
        )
    columns = columns_m.detach().to("cpu", torch.float64)
    step = float(columns[-1] - columns[0]) / max(len(columns) - 1, 1)
    if not step > 0 or float((torch.diff(columns) - step).abs().max()) > UNEVEN * step:
        raise GeometryError(
            "fbp columns_m: expected at least two increasing, evenly spaced columns; resample the detector axis"
        )
    if not math.isfinite(axis_offset_m):
        raise GeometryError(f"fbp axis_offset_m: expected a finite number of metres, got {axis_offset_m}")
    first = float(columns[0]) - axis_offset_m
    if geometry == "parallel":
        if source_to_origin_m is not None or origin_to_detector_m is not None:
            raise GeometryError("fbp: expected no source or detector distance with geometry='parallel'; choose 'fan'")
        return _Scan(angles_rad, len(columns), first, step, None)
    if source_to_origin_m is None or origin_to_detector_m is None:
        raise GeometryError("fbp: expected source_to_origin_m and origin_to_detector_m with geometry='fan', got none")
    if not (0 < source_to_origin_m < math.inf and 0 <= origin_to_detector_m < math.inf):
        raise GeometryError(
            f"fbp: expected source_to_origin_m > 0 and origin_to_detector_m >= 0, got {source_to_origin_m:g} and "
            f"{origin_to_detector_m:g}"
        )
    check_source_outside(grid, source_to_origin_m)
    shrink = source_to_origin_m / (source_to_origin_m + origin_to_detector_m)
    return _Scan(angles_rad, len(columns), first * shrink, step * shrink, source_to_origin_m)
