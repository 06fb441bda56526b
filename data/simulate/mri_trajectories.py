"""Where k-space is sampled: trajectories in 1/m, columns in the order kz, ky, kx (or ky, kx).

All have shape (frame, readout, sample, D) and stay within the Nyquist box |k| <= 1 / (2 voxel).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

#: Angle between successive spokes, radians: π times the golden ratio's fraction.
GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2
#: Steps of the two-dimensional golden means, roots of x³ + x² = 1 (Chan et al. 2009).
GOLDEN_MEANS = (0.46557123187676, 0.68232780382802)


def radial(n_frames: int, n_spokes: int, n_samples: int, k_max: float, *, golden: bool = False) -> Points:
    """Spokes through the centre: sample i at (i - n_samples // 2) / (n_samples / 2) k_max.

    Args:
        n_frames, n_spokes, n_samples: counts; spokes are per frame.
        k_max: 1 / (2 pixel), 1/m.
        golden: every spoke of the scan at the golden angle from the last; else evenly spread over half a turn within
            each frame, each frame's fan between those of the last ones.

    Returns:
        (n_frames, n_spokes, n_samples, 2).

    Source: Winkelmann et al. (2007), An optimal radial profile order based on the golden ratio.
    """
    if golden:
        angle = GOLDEN_ANGLE * np.arange(n_frames * n_spokes).reshape(n_frames, n_spokes)
    else:
        shift = np.arange(n_frames) * (math.sqrt(5) - 1) / 2 % 1
        angle = np.pi * (np.arange(n_spokes)[None, :] + shift[:, None]) / n_spokes
    r = (np.arange(n_samples) - n_samples // 2) / (n_samples / 2) * k_max
    return np.stack((np.sin(angle)[..., None] * r, np.cos(angle)[..., None] * r), axis=-1)


def spiral(
    n_frames: int, n_interleaves: int, n_samples: int, k_max: float, *, field_of_view_m: float, full: int
) -> Points:
    """Archimedean spirals from the centre to k_max, turned by the golden angle from each to the next.

    Args:
        n_frames, n_interleaves, n_samples: counts; interleaves are per frame.
        k_max: 1 / (2 pixel), 1/m.
        field_of_view_m: with `full` interleaves neighbouring turns are 1 / field_of_view_m apart.
        full: interleaves of a fully sampled frame; their number sets how often each turns.

    Returns:
        (n_frames, n_interleaves, n_samples, 2).

    Source: Ahn, Kim, Cho (1986), High-speed spiral-scan echo planar NMR imaging; samples at constant speed, roughly.
    """
    turns = k_max * field_of_view_m / full
    share = np.sqrt(np.arange(n_samples) / max(n_samples - 1, 1))
    start = 2 * GOLDEN_ANGLE * np.arange(n_frames * n_interleaves).reshape(n_frames, n_interleaves, 1)
    angle = start + 2 * np.pi * turns * share
    return np.stack((np.sin(angle) * share, np.cos(angle) * share), axis=-1) * k_max


def radial_3d(n_frames: int, n_spokes: int, n_samples: int, k_max: tuple[float, float, float]) -> Points:
    """Spokes through the centre of a ball (an ellipsoid where `k_max` differ), spread by two-dimensional golden means.

    Args:
        n_frames, n_spokes, n_samples: counts; spokes are per frame.
        k_max: 1 / (2 voxel) along z, y, x, 1/m.

    Returns:
        (n_frames, n_spokes, n_samples, 3).

    Source: Chan, Ramsay, Cunningham, Plewes (2009), Temporal stability of adaptive 3D radial MRI using multidimensional
        golden means.
    """
    index = np.arange(n_frames * n_spokes).reshape(n_frames, n_spokes)
    height = index * GOLDEN_MEANS[0] % 1
    angle = 2 * np.pi * (index * GOLDEN_MEANS[1] % 1)
    flat = np.sqrt(1 - height**2)
    direction = np.stack((height, flat * np.sin(angle), flat * np.cos(angle)), axis=-1)
    r = (np.arange(n_samples) - n_samples // 2) / (n_samples / 2)
    return direction[:, :, None, :] * r[:, None] * np.asarray(k_max)
