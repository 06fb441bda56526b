"""The few exceptions of `imaging`; each is a builtin one too."""


class ShapeError(ValueError):
    """An array has another shape than the operator, prior or solver expects."""


class DtypeError(TypeError):
    """An array has another dtype than the operator expects; nothing is cast silently."""


class GeometryError(ValueError):
    """Antennas, frequencies or voxels that no physical measurement can have."""


class DivergedError(ArithmeticError):
    """A solver left the finite numbers."""


class MemoryLimitError(MemoryError):
    """The stated memory limit is too small for even the smallest block."""
