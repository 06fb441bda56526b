"""Where files, methods and denoisers meet: configurations, registry, reconstruction, batches, the command.

Importing this package brings neither torch nor h5py; `backcast --help` stays quick.
"""

import imaging  # noqa: F401  (the shadowing guard)
