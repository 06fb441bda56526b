"""Direct methods: one pass over the data, no iteration."""

from imaging.direct.backprojection import backprojection
from imaging.direct.kirchhoff import kirchhoff
from imaging.direct.range_migration import range_migration

__all__ = ["backprojection", "kirchhoff", "range_migration"]
