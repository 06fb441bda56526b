"""Spheres, boxes and cylinders, solid or hollow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.phantoms.errors import SimulationError, unknown_name
from data.phantoms.scatter import grid_centre_m, grid_extent_m, reflectivity
from imaging.operators import Grid

TOUCHING_M = 1e-9  # a voxel centre on the surface belongs to the body, whatever rounding says


@dataclass(frozen=True, kw_only=True)
class _Solid:
    """What all solids share.

    Args:
        center_m: x, y, z, metres.
        shell_m: wall thickness of a hollow body, inwards from its surface; None is solid. Metres.
        amplitude: magnitude of its voxels, relative to the other parts.
    """

    center_m: tuple[float, float, float]
    shell_m: float | None = None
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if len(self.center_m) != 3:
            raise SimulationError(f"{type(self).__name__} center_m: expected x, y, z, got {self.center_m}")
        lengths = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in ("center_m", "axis")]
        for name, value in lengths:
            numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
            if not (name == "shell_m" and value is None) and not all(
                isinstance(v, int | float) and v > 0 for v in numbers
            ):
                raise SimulationError(f"{type(self).__name__} {name}: expected > 0, got {value!r}")

    def signed_distance_m(self, p: Tensor) -> Tensor:
        """Distance to the surface, negative inside: p (n, 3) x, y, z relative to the centre -> (n,)."""
        raise NotImplementedError(f"{type(self).__name__} defines no signed_distance_m")

    def contains(self, points_m: Tensor) -> Tensor:
        """Which of the points (n, 3; x, y, z in metres) lie in the body or its wall: bool (n,)."""
        distance = self.signed_distance_m(points_m - torch.tensor(self.center_m, dtype=points_m.dtype))
        inside = distance <= TOUCHING_M
        return inside if self.shell_m is None else inside & (distance >= -self.shell_m - TOUCHING_M)


@dataclass(frozen=True, kw_only=True)
class Sphere(_Solid):
    """A ball of `diameter_m`."""

    diameter_m: float

    def signed_distance_m(self, p: Tensor) -> Tensor:
        return torch.linalg.vector_norm(p, dim=-1) - self.diameter_m / 2


@dataclass(frozen=True, kw_only=True)
class Box(_Solid):
    """A box with edges `size_m` along x, y, z."""

    size_m: tuple[float, float, float]

    def signed_distance_m(self, p: Tensor) -> Tensor:
        q = p.abs() - torch.tensor(self.size_m, dtype=p.dtype) / 2
        return torch.linalg.vector_norm(q.clamp_min(0), dim=-1) + q.amax(-1).clamp_max(0)


@dataclass(frozen=True, kw_only=True)
class Cylinder(_Solid):
    """A cylinder of `diameter_m` and `length_m` along `axis` ("x", "y" or "z")."""

    diameter_m: float
    length_m: float
    axis: str = "y"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis not in ("x", "y", "z"):
            raise SimulationError(f"Cylinder axis: expected x, y or z, got {self.axis!r}")

    def signed_distance_m(self, p: Tensor) -> Tensor:
        i = "xyz".index(self.axis)
        radius = torch.linalg.vector_norm(p[:, [j for j in range(3) if j != i]], dim=-1)
        q = torch.stack((radius - self.diameter_m / 2, p[:, i].abs() - self.length_m / 2), dim=-1)
        return torch.linalg.vector_norm(q.clamp_min(0), dim=-1) + q.amax(-1).clamp_max(0)


SHAPES: dict[str, type[_Solid]] = {"sphere": Sphere, "box": Box, "cylinder": Cylinder}


def solids(
    grid: Grid,
    parts: Sequence[_Solid | Mapping[str, Any]] | None = None,
    *,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Solid or hollow bodies; where two overlap the stronger one counts.

    Args:
        grid: where they live; a voxel belongs to a body when its centre does.
        parts: Sphere, Box, Cylinder, or mappings as a config file has them
            (``{shape = "sphere", center_m = [0, 0, 0.5], diameter_m = 0.1, shell_m = 0.02}``);
            None: a ball, a hollow box and a cylinder that fit the grid.
        generator: random phase per voxel; None: phase 0.

    Returns:
        complex64 (nz, ny, nx), peak 1.

    Raises:
        SimulationError: unknown shape or key, a length that is not positive, or no voxel centre inside.
    """
    bodies = _default_scene(grid) if parts is None else [_solid(part) for part in parts]
    points_m = grid.points_m()
    magnitude = torch.zeros(grid.n_voxels)
    for body in bodies:
        magnitude = torch.maximum(magnitude, body.amplitude * body.contains(points_m).to(magnitude.dtype))
    return reflectivity(magnitude.reshape(grid.shape), generator)


def _solid(part: _Solid | Mapping[str, Any]) -> _Solid:
    if isinstance(part, _Solid):
        return part
    settings = dict(part)
    shape = str(settings.pop("shape", ""))
    if shape not in SHAPES:
        raise unknown_name("solids shape", shape, SHAPES)
    kind = SHAPES[shape]
    names = [f.name for f in fields(kind)]
    for key in settings:
        if key not in names:
            raise unknown_name(f"solids {shape}, key", key, names)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    try:
        return kind(**settings)
    except TypeError as error:
        missing = [n for n in ("center_m", "diameter_m", "size_m", "length_m") if n in names and n not in settings]
        raise SimulationError(f"solids {shape}: {', '.join(missing) or error} missing; keys are {names}") from None


def _default_scene(grid: Grid) -> list[_Solid]:
    x, y, z = grid_centre_m(grid)
    wx, wy, wz = grid_extent_m(grid)
    w = min(wx, wy)
    wall = 1.01 * max(grid.spacing_m)
    return [
        Sphere(center_m=(x - 0.22 * wx, y - 0.2 * wy, z - 0.1 * wz), diameter_m=0.3 * w),
        Box(center_m=(x + 0.2 * wx, y - 0.2 * wy, z), size_m=(0.3 * w, 0.3 * w, 0.3 * wz), shell_m=wall),
        Cylinder(center_m=(x, y + 0.25 * wy, z + 0.1 * wz), diameter_m=0.2 * w, length_m=0.6 * wx, axis="x"),
    ]
