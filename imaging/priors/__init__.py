"""Priors: regularisers known by their proximal maps."""

from imaging.priors.l1 import L1
from imaging.priors.magnitude import Magnitude
from imaging.priors.patches import Patches
from imaging.priors.protocols import Denoiser, Prior
from imaging.priors.total_variation import TotalVariation
from imaging.priors.wavelet import WaveletL1

__all__ = ["L1", "Denoiser", "Magnitude", "Patches", "Prior", "TotalVariation", "WaveletL1"]
