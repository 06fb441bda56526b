"""How an object moves: functions of a static volume and of time.

Each takes real (nz, ny, nx) and the time as a share of the scan, 0 to 1, and returns the moved volume, same shape
and dtype. Motions act alike in every slice. The output at a point is the static volume at the source point of the
docstring's equation, bilinear, zero outside. Coordinates X, Y are in half-widths from the middle of the slice, unless
said otherwise. At time 0 each is the identity (`piecewise_affine` only without its squeeze).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from data.phantoms.errors import SimulationError

Floats = NDArray[np.float32]
Points = NDArray[np.float64]

#: How the 19 x 19 cells between RP's control points are cut, a number per column c of cells, bit 18 - r for row r: 1
#: from corner (c, r) to (c + 1, r + 1), 0 from (c + 1, r) to (c, r + 1). Qhull's choice for 128 pixels, which is that
#: of scikit-image's PiecewiseAffineTransform; written down so that no library and no size changes it.
CUTS = (
    0x48CB5,
    0x3754E,
    0x54AB5,
    0x2BD4A,
    0x312AD,
    0x2CC72,
    0x5DBB1,
    0x333C9,
    0x50B36,
    0x2E4B1,
    0x5D294,
    0x54EAB,
    0x43142,
    0x32939,
    0x4E6E6,
    0x31292,
    0x6AA6D,
    0x16592,
    0x5556A,
)


def none(volume: Floats, time: float) -> Floats:
    """An object at rest: source = point."""
    return volume


def piecewise_affine(
    volume: Floats,
    time: float,
    *,
    amplitude: float = 6.0,
    periods: float = 1.5,
    squeeze: bool = True,
    control_points: int = 20,
) -> Floats:
    """The walnut warp of RP 7.1: a squeeze along y and a sinusoidal displacement along y that grows with time.

    On m x m control points at linspace(0, n, m) pixels, point (column c, row r) has the source column x and the
    source row

        y_in = 1.5 (y - D sin(2π · periods · i / (m² - 1))) - 24 n / 128,   D = amplitude · time · n / 64 pixels,

    i = m c + r; without the squeeze y_in = y - D sin(...). Between the control points the map is affine in triangles.
    How cells are cut is up to a library (Delaunay's choice is not unique on a lattice); here 20 x 20 points have the
    cuts of the published data, `CUTS`, and other numbers cut every cell from its corner (c, r) to (c + 1, r + 1). At
    time p / P and amplitude 6 this is RP's C_t = 6 p / P.

    Args:
        volume: (nz, n, n).
        time: 0 to 1.
        amplitude: C at time 1; the displacement reaches amplitude · n / 64 pixels.
        periods: of the sine over the width; 1.5 gives RP's sin(3π i / 399).
        squeeze: by 1.5 about row 48 n / 128 along y, present from time 0 on.
        control_points: m, >= 2.

    Returns:
        (nz, n, n).

    Raises:
        SimulationError: slices that are not square, a parameter that is no number, fewer than 2 control points.

    Source: RP 7.1.
    """
    n, m = volume.shape[-1], control_points
    if volume.shape[-2] != n:
        raise SimulationError(f"motion piecewise_affine: expected square slices, got {volume.shape}")
    if isinstance(m, bool) or not isinstance(m, int) or m < 2:
        raise SimulationError(f"motion control_points: expected a whole number >= 2, got {m!r}")
    _numbers(amplitude=amplitude, periods=periods)
    _truth_value(squeeze=squeeze)
    column, row = np.meshgrid(np.arange(m), np.arange(m))
    lattice = np.linspace(0, n, m)
    push = amplitude * time * n / 64 * np.sin(2 * np.pi * periods * (m * column + row) / (m**2 - 1))
    source = lattice[row] - push  # (row, column)
    if squeeze:
        source = 1.5 * source - 24 * n / 128
    y, x = np.meshgrid(np.arange(n, dtype=float), np.arange(n, dtype=float), indexing="ij")
    cuts = np.ones((m - 1, m - 1), dtype=bool)
    if m == 20:
        cuts = (np.array(CUTS)[None, :] >> np.arange(m - 2, -1, -1)[:, None]) % 2 == 1
    return _sample(volume, _between(source, cuts, y * (m - 1) / n, x * (m - 1) / n), x)


def rigid(
    volume: Floats, time: float, *, rotation_deg: float = 30.0, shift_x: float = 0.1, shift_y: float = 0.0
) -> Floats:
    """Rotation about z with constant speed, and a translation: source = R(-α) (point - s), α = rotation · time,
    s = (shift_x, shift_y) · time.

    Args:
        volume: (nz, ny, nx).
        time: 0 to 1.
        rotation_deg: angle at time 1, counter-clockwise seen from +z.
        shift_x, shift_y: displacement at time 1, half-widths.
    """
    _numbers(rotation_deg=rotation_deg, shift_x=shift_x, shift_y=shift_y)
    a = math.radians(rotation_deg) * time
    x, y = _plane(volume)
    x, y = x - shift_x * time, y - shift_y * time
    return _sample_plane(volume, math.cos(a) * x + math.sin(a) * y, -math.sin(a) * x + math.cos(a) * y)


def breathing(
    volume: Floats,
    time: float,
    *,
    amplitude: float = 0.15,
    cycles: float = 4.0,
    direction: str = "radial",
    conserve_mass: bool = False,
) -> Floats:
    """Periodic scaling: source = point / s, s = 1 - amplitude (1 - cos(2π · cycles · time)) / 2.

    Args:
        volume: (nz, ny, nx).
        time: 0 to 1.
        amplitude: largest contraction, below 1; negative ones expand.
        cycles: periods in the scan.
        direction: radial (x and y), or vertical (y alone).
        conserve_mass: values times 1 / s² (radial) or 1 / s, so that what contracts gets denser.

    Raises:
        SimulationError: an amplitude of 1 or more, an unknown direction, no truth value.
    """
    _numbers(amplitude=amplitude, cycles=cycles)
    if direction not in ("radial", "vertical"):
        raise SimulationError(f"motion direction: expected radial or vertical, got {direction!r}")
    if not amplitude < 1:
        raise SimulationError(f"motion amplitude: expected below 1, got {amplitude!r}")
    s = 1 - amplitude * (1 - math.cos(2 * math.pi * cycles * time)) / 2
    return _scaled(volume, s if direction == "radial" else 1.0, s, conserve_mass)


def beating(
    volume: Floats,
    time: float,
    *,
    contraction: float = 0.6,
    beats: float = 1.0,
    centre_x: float = 0.07,
    centre_y: float = 0.0,
    radius: float = 0.45,
) -> Floats:
    """A heart: what is in a circle contracts towards its centre and comes back, the rest is still.

    source = C + (point - C)(1 + a (1 - q)²), q = (|point - C| / radius)² < 1, a = contraction (1 - cos(2π · beats ·
    time)) / 2; source = point outside of the circle.

    Args:
        volume: (nz, ny, nx).
        time: 0 to 1.
        contraction: the middle shrinks to 1 / (1 + contraction); 0 to 1.
        beats: in the scan.
        centre_x, centre_y: C. radius: of the circle.

    Raises:
        SimulationError: a contraction outside of 0 to 1, a radius of 0.
    """
    _numbers(contraction=contraction, beats=beats, centre_x=centre_x, centre_y=centre_y, radius=radius)
    if not 0 <= contraction < 1:
        raise SimulationError(f"motion contraction: expected 0 to below 1, got {contraction!r}")
    if not radius > 0:
        raise SimulationError(f"motion radius: expected > 0, got {radius!r}")
    x, y = _plane(volume)
    dx, dy = x - centre_x, y - centre_y
    q = np.minimum((dx**2 + dy**2) / radius**2, 1)
    stretch = 1 + contraction * (1 - math.cos(2 * math.pi * beats * time)) / 2 * (1 - q) ** 2
    return _sample_plane(volume, centre_x + dx * stretch, centre_y + dy * stretch)


def growth(volume: Floats, time: float, *, rate: float = 0.2, conserve_mass: bool = False) -> Floats:
    """Radial scaling, linear in time: source = point / s, s = 1 + rate · time.

    Args:
        volume: (nz, ny, nx).
        time: 0 to 1.
        rate: growth of every length at time 1, above -1; negative ones shrink.
        conserve_mass: values times 1 / s².

    Raises:
        SimulationError: a rate of -1 or less, no truth value.
    """
    _numbers(rate=rate)
    if not rate > -1:
        raise SimulationError(f"motion rate: expected above -1, got {rate!r}")
    s = 1 + rate * time
    return _scaled(volume, s, s, conserve_mass)


def compression(volume: Floats, time: float, *, strain: float = 0.3) -> Floats:
    """Pressed along y, bulging along x, areas kept: source = (X / e, Y e), e = 1 + strain · time.

    Args:
        volume: (nz, ny, nx).
        time: 0 to 1.
        strain: at time 1, above -1.

    Raises:
        SimulationError: a strain of -1 or less.

    Source: RP 7.4 (6).
    """
    _numbers(strain=strain)
    if not strain > -1:
        raise SimulationError(f"motion strain: expected above -1, got {strain!r}")
    e = 1 + strain * time
    return _scaled(volume, e, 1 / e, False)


def flow(volume: Floats, time: float, *, speed: float = 0.5, cells: int = 2, steps: int = 8) -> Floats:
    """An incompressible flow in cells that turn against each other: areas are kept, nothing leaves the slice.

    The source is the point carried backwards for the time by the steady velocity v = (∂ψ/∂Y, -∂ψ/∂X),

        ψ = (2 speed / (π cells)) sin(π cells (X + 1) / 2) sin(π cells (Y + 1) / 2),

    with classical Runge-Kutta steps.

    Args:
        volume: (nz, ny, nx).
        time: 0 to 1.
        speed: largest speed, half-widths per scan.
        cells: of the flow along each axis.
        steps: Runge-Kutta steps per scan.

    Raises:
        SimulationError: cells or steps that are no count.
    """
    _numbers(speed=speed)
    for name, value in (("cells", cells), ("steps", steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SimulationError(f"motion {name}: expected a whole number >= 1, got {value!r}")
    k = math.pi * cells / 2

    def backwards(p: Points) -> Points:
        x, y = k * (p[0] + 1), k * (p[1] + 1)
        return speed * np.stack((-np.sin(x) * np.cos(y), np.cos(x) * np.sin(y)))

    p = np.stack(np.broadcast_arrays(*_plane(volume)))
    n = max(1, math.ceil(steps * time))
    h = time / n
    for _ in range(n):
        a = backwards(p)
        b = backwards(p + h / 2 * a)
        c = backwards(p + h / 2 * b)
        p = p + h / 6 * (a + 2 * b + 2 * c + backwards(p + h * c))
    return _sample_plane(volume, p[0], p[1])


#: Motions by name: functions (volume, time, ...) -> volume.
MOTIONS: Mapping[str, Callable[..., Floats]] = {
    "none": none,
    "piecewise_affine": piecewise_affine,
    "rigid": rigid,
    "breathing": breathing,
    "beating": beating,
    "growth": growth,
    "compression": compression,
    "flow": flow,
}


# -- inside -------------------------------------------------------------------------------------------------


def _between(values: Points, cuts: NDArray[np.bool_], v: Points, u: Points) -> Points:
    """A function given on a lattice, (row, column), affine in triangles, at row v and column u of the lattice.

    `cuts`, (row, column) of cells: True from the corner with the smaller row and column to that with the larger ones.
    """
    m = len(values)
    r, c = (np.clip(np.floor(w).astype(int), 0, m - 2) for w in (v, u))
    v, u = v - r, u - c
    near, far = values[r, c], values[r + 1, c + 1]
    right, below = values[r, c + 1], values[r + 1, c]
    falling = np.where(
        u >= v,
        near + u * (right - near) + v * (far - right),
        near + v * (below - near) + u * (far - below),
    )
    rising = np.where(
        u + v <= 1,
        near + u * (right - near) + v * (below - near),
        far + (1 - u) * (below - far) + (1 - v) * (right - far),
    )
    return np.where(cuts[r, c], falling, rising)


def _scaled(volume: Floats, scale_x: float, scale_y: float, conserve_mass: bool) -> Floats:
    _truth_value(conserve_mass=conserve_mass)
    x, y = _plane(volume)
    moved = _sample_plane(volume, x / scale_x, y / scale_y)
    return moved / np.float32(scale_x * scale_y) if conserve_mass else moved


def _plane(volume: Floats) -> tuple[Points, Points]:
    """X (1, nx) and Y (ny, 1) of the pixel centres."""
    ny, nx = volume.shape[-2:]
    return ((2 * np.arange(nx) + 1) / nx - 1)[None, :], ((2 * np.arange(ny) + 1) / ny - 1)[:, None]


def _sample_plane(volume: Floats, x: Points, y: Points) -> Floats:
    ny, nx = volume.shape[-2:]
    return _sample(volume, ((y + 1) * ny - 1) / 2, ((x + 1) * nx - 1) / 2)


def _sample(volume: Floats, row: Points, column: Points) -> Floats:
    """Every slice at (row, column), in pixels: bilinear, zero outside."""
    where = np.stack(np.broadcast_arrays(row, column))
    # Rounding of a source that is a pixel's centre must not mix neighbours.
    nearest = np.round(where)
    where = np.where(np.abs(where - nearest) < 1e-9, nearest, where)
    moved = [map_coordinates(image, where, order=1, mode="grid-constant", cval=0.0) for image in volume]
    return np.stack(moved).astype(volume.dtype, copy=False)


def _numbers(**values: object) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SimulationError(f"motion {name}: expected a finite number, got {value!r}")


def _truth_value(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, bool):
            raise SimulationError(f"motion {name}: expected true or false, got {value!r}")
