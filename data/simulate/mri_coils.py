"""Receive coils around an object: sensitivities of circular loops by the law of Biot and Savart."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Straight pieces that a loop is made of.
SEGMENTS = 48


def loop_sensitivities(
    points_m: NDArray[np.float64], n_coils: int, *, distance_m: float, loop_radius_m: float, row_pitch_m: float = 0.0
) -> NDArray[np.complex128]:
    """Sensitivities B_x - j B_y of loops on a cylinder about z, their axes towards it, for one ampere in each.

    The main field points along z, so that the receiver sees the transverse field alone. Up to eight coils are one ring
    at z = 0; more make several rings, `row_pitch_m` apart, each turned by half a coil against the last.

    Args:
        points_m: (..., 3), columns x, y, z.
        n_coils: loops.
        distance_m: of the loops' centres from the z axis.
        loop_radius_m: of each loop.
        row_pitch_m: distance of rings along z.

    Returns:
        (n_coils, ...), in units of mu_0 / 4π tesla per ampere.

    Source: Roemer et al. (1990), The NMR phased array; Biot-Savart with midpoints of straight segments.
    """
    flat = points_m.reshape(-1, 3)
    maps = np.empty((n_coils, len(flat)), dtype=np.complex128)
    turn = (np.arange(SEGMENTS) + 0.5) * 2 * np.pi / SEGMENTS
    n_rings = math.ceil(n_coils / 8)
    per_ring = math.ceil(n_coils / n_rings)
    length = 2 * loop_radius_m * math.tan(np.pi / SEGMENTS)
    for coil in range(n_coils):
        ring, place = divmod(coil, per_ring)
        phi = 2 * np.pi * (place + 0.5 * (ring % 2)) / per_ring
        outward = np.array([math.cos(phi), math.sin(phi), 0.0])
        around = np.array([-math.sin(phi), math.cos(phi), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        centre = distance_m * outward + (ring - (n_rings - 1) / 2) * row_pitch_m * up
        where = centre + loop_radius_m * (np.cos(turn)[:, None] * around + np.sin(turn)[:, None] * up)
        along = length * (-np.sin(turn)[:, None] * around + np.cos(turn)[:, None] * up)
        field = np.zeros((len(flat), 3))
        for source, step in zip(where, along, strict=True):
            away = flat - source
            field += np.cross(step, away) / np.linalg.norm(away, axis=1, keepdims=True) ** 3
        maps[coil] = field[:, 0] - 1j * field[:, 1]
    return maps.reshape(n_coils, *points_m.shape[:-1])


def unit_sum_of_squares(maps: NDArray[np.complex128]) -> NDArray[np.complex64]:
    """Maps (coil, ...) over their root sum of squares, as calibration gives them: the image then has no shading."""
    return np.asarray(maps / np.sqrt((np.abs(maps) ** 2).sum(axis=0)), dtype=np.complex64)
