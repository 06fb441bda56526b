"""Filtered back-projection of cone beams on a circle."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from imaging.direct.filtered_backprojection import UNEVEN, checked_scan
from imaging.direct.ramp_filter import Extension, Window, check_window, filter_rows
from imaging.direct.view_weights import fan_redundancy, view_weights
from imaging.errors import GeometryError
from imaging.operators.grid import Grid


def fdk(
    y: Tensor,
    angles_rad: Tensor,
    columns_m: Tensor,
    rows_m: Tensor,
    grid: Grid,
    *,
    source_to_origin_m: float,
    origin_to_detector_m: float,
    axis_offset_m: float = 0.0,
    window: Window = "ram-lak",
    cutoff: float = 1.0,
    extension: Extension = "zero",
) -> Tensor:
    """Feldkamp, Davis and Kress: the approximate inverse of `ConeBeam`, same conventions.

    With s and v the detector coordinates brought to the rotation axis, D = source_to_origin_m,

        f(x, y, z) = Σ_θ w_θ U⁻² q_θ((x cos θ + y sin θ) / U, z / U),    q_θ = (y_θ share D / √(D² + s² + v²)) * ramp

    U = (D - x sin θ + y cos θ) / D, filtered along the rows; weights and shares as in `fbp` of a fan. Exact in the
    plane z = 0 and for objects that do not change along z; elsewhere values fall off with the cone angle, since a
    circle does not measure them. A voxel counts only the views whose detector saw it.

    Args:
        y: line integrals, (*batch, n_view, n_row, n_column), real.
        rows_m: of the detector, increasing, evenly spaced, two at least; the central ray meets row 0 m.
        angles_rad, columns_m, grid, others: as in `fbp`.

    Returns:
        (*batch, nz, ny, nx), 1/m.

    Raises:
        ShapeError, DtypeError, GeometryError, ValueError: as `fbp`.

    Source: Feldkamp, Davis, Kress (1984), Practical cone-beam algorithm, J. Opt. Soc. Am. A 1, 612, (28).
    """
    rows = rows_m.to("cpu", torch.float64)
    if rows.ndim != 1 or len(rows) < 2:
        raise GeometryError(f"fdk rows_m: expected two rows or more, got shape {tuple(rows.shape)}; take one as a fan")
    pitch = float(rows[-1] - rows[0]) / (len(rows) - 1)
    if not pitch > 0 or float((torch.diff(rows) - pitch).abs().max()) > UNEVEN * pitch:
        raise GeometryError("fdk rows_m: expected increasing, evenly spaced rows; resample the detector axis")
    n_z, n_y, n_x = grid.shape
    scan = checked_scan(
        y,
        angles_rad,
        columns_m,
        dataclasses.replace(grid, shape=(len(rows), n_y, n_x)),
        "fan",
        source_to_origin_m,
        origin_to_detector_m,
        axis_offset_m,
    )
    check_window(window, cutoff)
    shrink = source_to_origin_m / (source_to_origin_m + origin_to_detector_m)
    s, v = scan.coordinates_m(), rows * shrink
    coverage = view_weights(angles_rad, 2 * math.pi)
    share = coverage.weights_rad[:, None] * fan_redundancy(
        angles_rad.cpu(), torch.atan(s / source_to_origin_m), coverage
    )
    oblique = source_to_origin_m / (source_to_origin_m**2 + s**2 + v[:, None] ** 2).sqrt()
    weights = (share[:, None, :] * oblique).to(y.device, y.dtype)  # (view, row, column)

    flat = y.reshape(-1, *y.shape[-3:])
    z_m, y_m, x_m = (grid.axis_m(name).to(y.device, y.dtype) for name in ("z", "y", "x"))
    volume = y.new_zeros(len(flat), *grid.shape)
    for p, angle in enumerate(angles_rad.tolist()):
        q = filter_rows(flat[:, p] * weights[p], scan.step_m, window, cutoff=cutoff, extension=extension)
        c, sine = math.cos(angle), math.sin(angle)
        u = 1 + (c * y_m[:, None] - sine * x_m) / source_to_origin_m
        at = (c * x_m + sine * y_m[:, None]) / u  # (ny, nx)
        up = z_m[:, None, None] / u
        # grid_sample wants -1 at the first and +1 at the last column or row
        column = (at - scan.first_m) * (2 / (scan.step_m * (scan.n_bins - 1))) - 1
        row = (up - v[0].item()) * (2 / (pitch * shrink * (len(rows) - 1))) - 1
        place = torch.stack((column.expand(n_z, n_y, n_x), row), dim=-1).reshape(1, n_z, n_y * n_x, 2)
        seen = grid_sample(q[:, None], place.expand(len(q), -1, -1, -1), align_corners=True, padding_mode="zeros")
        volume += seen.reshape(len(q), n_z, n_y, n_x) / u.square()
    return volume.reshape(*y.shape[:-3], *grid.shape)
