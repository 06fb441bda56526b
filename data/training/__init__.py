"""Clean images and volumes to train denoisers on: synthetic ones, and ones from files.

All are map-style datasets whose item `i` depends on (settings, seed, split, i) alone, for any i >= 0, so runs repeat
whatever the number of workers. Imports torch, which `import data` does not.
"""

import imaging  # noqa: F401  (the shadowing guard)
from data.training.images import IMAGE_KINDS, SyntheticImages
from data.training.mixture import Mixture
from data.training.sampling import SPLITS
from data.training.volume_files import VolumeFiles
from data.training.volumes import KINDS, SyntheticVolumes
from data.training.with_phase import WithPhase

__all__ = [
    "IMAGE_KINDS",
    "KINDS",
    "SPLITS",
    "Mixture",
    "SyntheticImages",
    "SyntheticVolumes",
    "VolumeFiles",
    "WithPhase",
]
