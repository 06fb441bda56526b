"""What napari shows of a reconstruction."""

import imaging  # noqa: F401  (the shadowing guard)
