"""What the data say about the instrument: noise level."""

from imaging.calibration.noise import NoiseEstimate, estimate_noise

__all__ = ["NoiseEstimate", "estimate_noise"]
