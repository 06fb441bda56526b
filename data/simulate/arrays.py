"""Array families: where transmitters and receivers are."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data.phantoms.errors import SimulationError, unknown_name
from data.simulate.antennas import AntennaArray, Positions
from data.simulate.array_files import from_file

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def cross(*, n_tx: int = 12, n_rx: int = 13, aperture_m: float = 0.3, z_m: float = 0.0) -> AntennaArray:
    """Two crossed lines along the diagonals of a square of edge `aperture_m`, end points included.

    Transmitters from (-, +) to (+, -), receivers from (-, -) to (+, +). The defaults are the simulated system
    of NF 3.1.
    """
    tx, rx = _line(n_tx, aperture_m, "n_tx"), _line(n_rx, aperture_m, "n_rx")
    return AntennaArray(_plane(tx, -tx, z_m), _plane(rx, rx, z_m))


def mills_cross(*, n_tx: int = 16, n_rx: int = 16, aperture_m: float = 0.3, z_m: float = 0.0) -> AntennaArray:
    """Transmitters on a line along x, receivers on one along y, crossing in their middles.

    With two odd numbers the middle antennas share a place. Source: Mills and Little (1953).
    """
    tx, rx = _line(n_tx, aperture_m, "n_tx"), _line(n_rx, aperture_m, "n_rx")
    return AntennaArray(_plane(tx, 0 * tx, z_m), _plane(0 * rx, rx, z_m))


def rectangular_mimo(
    *,
    n_tx: int = 24,
    n_rx: int = 24,
    width_m: float = 0.3,
    height_m: float = 0.3,
    layout: str = "edges",
    z_m: float = 0.0,
) -> AntennaArray:
    """A rectangle: transmitters on its lower and upper edge, receivers on its left and right edge.

    Args:
        n_tx, n_rx: even numbers, half on each edge; or, in the layout "grid", square numbers.
        width_m, height_m: along x and y; antennas keep half their spacing from the corners.
        layout: "edges", or "grid": both kinds spread over the whole rectangle, each on its own square raster.
        z_m: of the plane.
    """
    if layout == "edges":
        if n_tx % 2 or n_rx % 2:
            raise SimulationError(f"rectangular_mimo n_tx, n_rx: expected even numbers (two edges), got {n_tx}, {n_rx}")
        along_x, along_y = _cells(n_tx // 2, width_m, "n_tx"), _cells(n_rx // 2, height_m, "n_rx")
        tx = [_plane(along_x, np.full(len(along_x), sign * height_m / 2), z_m) for sign in (-1, 1)]
        rx = [_plane(np.full(len(along_y), sign * width_m / 2), along_y, z_m) for sign in (-1, 1)]
        return AntennaArray(np.concatenate(tx), np.concatenate(rx))
    if layout == "grid":
        return AntennaArray(
            _raster(n_tx, width_m, height_m, z_m, "n_tx"), _raster(n_rx, width_m, height_m, z_m, "n_rx")
        )
    raise unknown_name("rectangular_mimo layout", layout, ("edges", "grid"))


def spiral(*, n_tx: int = 16, n_rx: int = 16, radius_m: float = 0.15, z_m: float = 0.0) -> AntennaArray:
    """A Fermat spiral at the golden angle: even density over the disc, no two baselines alike.

    Transmitters and receivers take turns along the spiral, in proportion to their numbers.
    Source: Vogel, Mathematical Biosciences 44:179 (1979).
    """
    _line(n_tx, radius_m, "n_tx"), _line(n_rx, radius_m, "n_rx")  # the same demands on numbers and lengths
    n = n_tx + n_rx
    i = np.arange(n)
    radius, angle = radius_m * np.sqrt((i + 0.5) / (n - 0.5)), i * GOLDEN_ANGLE
    place = _plane(radius * np.cos(angle), radius * np.sin(angle), z_m)
    is_tx = np.diff(np.floor(np.arange(n + 1) * n_tx / n)) > 0
    return AntennaArray(place[is_tx], place[~is_tx])


def planar_monostatic(*, n_x: int = 25, n_y: int = 25, step_m: float = 0.0125, z_m: float = 0.0) -> AntennaArray:
    """A transceiver moved over a raster centred on the axis: one channel a position, x fastest."""
    for name, n in (("n_x", n_x), ("n_y", n_y)):
        _count(f"planar_monostatic {name}", n)
    if not step_m > 0:
        raise SimulationError(f"planar_monostatic step_m: expected > 0, got {step_m}")
    x, y = ((np.arange(n) - (n - 1) / 2) * step_m for n in (n_x, n_y))
    yy, xx = np.meshgrid(y, x, indexing="ij")
    place = _plane(xx.ravel(), yy.ravel(), z_m)
    channels = np.arange(len(place), dtype=np.int32)
    return AntennaArray(place, place, channels, channels)


ARRAYS: Mapping[str, Callable[..., AntennaArray]] = {
    "cross": cross,
    "rectangular_mimo": rectangular_mimo,
    "mills_cross": mills_cross,
    "spiral": spiral,
    "planar_monostatic": planar_monostatic,
    "file": from_file,
}


def make_array(family: str, parameters: Mapping[str, Any] | None = None) -> AntennaArray:
    """The array of a family by its name, as a config has it.

    Args:
        family: a key of `ARRAYS`.
        parameters: keyword arguments of that function.

    Raises:
        SimulationError: unknown family or parameter (with the nearest known one), or an impossible value.
    """
    if family not in ARRAYS:
        raise unknown_name("array", family, ARRAYS)
    build = ARRAYS[family]
    known = inspect.signature(build).parameters
    for name in parameters or {}:
        if name not in known:
            raise unknown_name(f"array {family}, parameter", name, known)
    try:
        return build(**(parameters or {}))
    except TypeError as error:
        raise SimulationError(f"array {family}: a parameter has the wrong type ({error})") from error


# -- lines --------------------------------------------------------------------------------------


def _count(name: str, n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise SimulationError(f"{name}: expected a whole number >= 1, got {n!r}")


def _line(n: int, length_m: float, name: str) -> Positions:
    """`n` points from one end of a line to the other; one point lies in its middle."""
    _count(f"array {name}", n)
    if not (math.isfinite(length_m) and length_m > 0):
        raise SimulationError(f"array aperture: expected > 0 m, got {length_m}")
    return np.linspace(-length_m / 2, length_m / 2, n) if n > 1 else np.zeros(1)


def _cells(n: int, length_m: float, name: str) -> Positions:
    """The middles of `n` equal pieces of a line."""
    _line(n, length_m, name)
    return ((np.arange(n) + 0.5) / n - 0.5) * length_m


def _raster(n: int, width_m: float, height_m: float, z_m: float, name: str) -> Positions:
    side = math.isqrt(n) if n >= 0 else 0
    if side * side != n or n == 0:
        raise SimulationError(f"rectangular_mimo {name}: the layout 'grid' expects a square number, got {n}")
    yy, xx = np.meshgrid(_cells(side, height_m, name), _cells(side, width_m, name), indexing="ij")
    return _plane(xx.ravel(), yy.ravel(), z_m)


def _plane(x: Positions, y: Positions, z_m: float) -> Positions:
    return np.stack((x, y, np.full(len(x), z_m)), axis=-1)
