"""What the data say about the instrument: noise level, rotation axis, bad pixels, rings, receive coils."""

from imaging.calibration.bad_pixels import BadPixels, find_bad_pixels, interpolate_bad_pixels
from imaging.calibration.coils import (
    calibration_region,
    compression_matrix,
    noise_covariance,
    whitening_matrix,
)
from imaging.calibration.counts import (
    DetectorNoise,
    LineIntegrals,
    estimate_sinogram_noise,
    line_integrals,
    line_integrals_from_transmission,
    photon_transfer,
)
from imaging.calibration.espirit import Espirit, espirit
from imaging.calibration.noise import NoiseEstimate, estimate_noise
from imaging.calibration.rings import damp_rings
from imaging.calibration.rotation_centre import (
    RotationCentre,
    axis_from_moments,
    axis_from_pairs,
    find_rotation_centre,
)
from imaging.calibration.walsh import walsh

__all__ = [
    "BadPixels",
    "DetectorNoise",
    "Espirit",
    "LineIntegrals",
    "NoiseEstimate",
    "RotationCentre",
    "axis_from_moments",
    "axis_from_pairs",
    "calibration_region",
    "compression_matrix",
    "damp_rings",
    "espirit",
    "estimate_noise",
    "estimate_sinogram_noise",
    "find_bad_pixels",
    "find_rotation_centre",
    "interpolate_bad_pixels",
    "line_integrals",
    "line_integrals_from_transmission",
    "noise_covariance",
    "photon_transfer",
    "walsh",
    "whitening_matrix",
]
