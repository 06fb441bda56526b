"""Mathematics on tensors: operators, priors, solvers, direct methods, metrics.

Importing any package of backcast imports this one first, and with it the guard against a
stranger's ``data.py`` or ``viewer/`` that hides ours. Nothing heavy is imported here:
``from imaging.operators import NearFieldMimo`` brings torch.
"""

from imaging._guard import ShadowedNameError, check_names
from imaging._version import __version__

check_names()

__all__ = ["ShadowedNameError", "__version__", "check_names"]
