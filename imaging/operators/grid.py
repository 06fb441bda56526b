"""The voxel grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import GeometryError

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Grid:
    """A regular voxel grid.

    Args:
        origin_m: centre of voxel (0, 0, 0), metres, order z, y, x.
        spacing_m: distance of neighbouring voxel centres, metres, order z, y, x, all > 0.
        shape: number of voxels, order z, y, x, all >= 1.

    Raises:
        GeometryError: for anything else than three finite numbers, or a spacing or count that is not positive.
    """

    origin_m: tuple[float, float, float]
    spacing_m: tuple[float, float, float]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name in ("origin_m", "spacing_m", "shape"):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(float(v)) for v in values):
                raise GeometryError(f"Grid {name}: expected three finite numbers (z, y, x), got {tuple(values)}")
        if any(int(n) != n or n < 1 for n in self.shape):
            raise GeometryError(f"Grid shape: expected three counts >= 1 (z, y, x), got {tuple(self.shape)}")
        if any(d <= 0 for d in self.spacing_m):
            raise GeometryError(f"Grid spacing_m: expected > 0 on every axis (z, y, x), got {tuple(self.spacing_m)}")
        object.__setattr__(self, "origin_m", tuple(float(v) for v in self.origin_m))
        object.__setattr__(self, "spacing_m", tuple(float(v) for v in self.spacing_m))
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @classmethod
    def spanning(
        cls,
        first_m: tuple[float, float, float],
        last_m: tuple[float, float, float],
        shape: tuple[int, int, int],
    ) -> Grid:
        """The grid whose outermost voxel centres are `first_m` and `last_m` (z, y, x, metres)."""
        spacing = [(b - a) / (n - 1) if n > 1 else 1.0 for a, b, n in zip(first_m, last_m, shape, strict=True)]
        return cls(first_m, (spacing[0], spacing[1], spacing[2]), shape)

    @property
    def n_voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def last_m(self) -> tuple[float, float, float]:
        """Centre of the last voxel, metres, z, y, x."""
        z, y, x = (o + d * (n - 1) for o, d, n in zip(self.origin_m, self.spacing_m, self.shape, strict=True))
        return z, y, x

    def axis_m(self, name: str) -> Tensor:
        """Voxel centres along "z", "y" or "x": float64 (n,), metres."""
        i = AXES.index(name)
        return self.origin_m[i] + self.spacing_m[i] * torch.arange(self.shape[i], dtype=torch.float64)

    def points_m(self) -> Tensor:
        """All voxel centres: float64 (n_voxels, 3), columns x, y, z in metres; z varies slowest, x fastest."""
        z, y, x = torch.meshgrid(*(self.axis_m(a) for a in AXES), indexing="ij")
        return torch.stack((x, y, z), dim=-1).reshape(-1, 3)

    def contains_m(self, points_m: Tensor) -> Tensor:
        """Which points (n, 3; x, y, z in metres) lie inside the outermost voxel faces: bool (n,)."""
        half = torch.tensor(self.spacing_m, dtype=torch.float64) * (0.5 + 1e-9)  # the faces themselves are rounded
        lower = (torch.tensor(self.origin_m, dtype=torch.float64) - half).flip(0)
        upper = (torch.tensor(self.last_m, dtype=torch.float64) + half).flip(0)
        p = points_m.to(torch.float64)
        return ((p >= lower) & (p <= upper)).all(dim=-1)
