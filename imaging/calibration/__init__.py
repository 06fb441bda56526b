"""What the data say about the instrument: noise level, rotation axis, bad pixels, rings."""

from imaging.calibration.bad_pixels import BadPixels, find_bad_pixels, interpolate_bad_pixels
from imaging.calibration.counts import (
    DetectorNoise,
    LineIntegrals,
    estimate_sinogram_noise,
    line_integrals,
    line_integrals_from_transmission,
    photon_transfer,
)
from imaging.calibration.noise import NoiseEstimate, estimate_noise
from imaging.calibration.rings import damp_rings
from imaging.calibration.rotation_centre import (
    RotationCentre,
    axis_from_moments,
    axis_from_pairs,
    find_rotation_centre,
)

__all__ = [
    "BadPixels",
    "DetectorNoise",
    "LineIntegrals",
    "NoiseEstimate",
    "RotationCentre",
    "axis_from_moments",
    "axis_from_pairs",
    "damp_rings",
    "estimate_noise",
    "estimate_sinogram_noise",
    "find_bad_pixels",
    "find_rotation_centre",
    "interpolate_bad_pixels",
    "line_integrals",
    "line_integrals_from_transmission",
    "photon_transfer",
]
