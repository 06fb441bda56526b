"""Letters, points and solids drawn at random."""

from __future__ import annotations

import string

import numpy as np
import torch
from torch import Tensor

from data.phantoms.letters import _cover, _polygons
from data.phantoms.scatter import grid_centre_m, grid_extent_m
from data.phantoms.soften import finished, random_rotation
from data.phantoms.solids import Box, Cylinder, Sphere
from imaging.operators import Grid

HELD_OUT_CHARACTERS = frozenset("MIORADN" + "MIORADN".lower() + "0")  # no training target shows them: tests do
LOOKALIKES = frozenset("WwZzubpqQl")  # one of those when turned or mirrored, which augmentation does: left out too
CHARACTERS = "".join(
    c for c in string.ascii_letters + string.digits if c not in HELD_OUT_CHARACTERS and c not in LOOKALIKES
)
FONTS = ("DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif")  # matplotlib ships them


def random_text(generator: np.random.Generator) -> str:
    """One to five characters on one or two lines; never one of HELD_OUT_CHARACTERS or LOOKALIKES."""
    text = "".join(generator.choice(list(CHARACTERS), int(generator.integers(1, 6))))
    return f"{text[: len(text) // 2]}\n{text[len(text) // 2 :]}" if len(text) > 2 and generator.random() < 0.4 else text


def random_letters(grid: Grid, generator: np.random.Generator, *, random_phase: bool = True) -> Tensor:
    """Flat random text (`random_text`) on a plane across z, 1 to 3 layers thick, sometimes turned in its plane.

    DejaVu Sans, Mono or Serif, bold or regular; the text's width or height fills 0.4 to 0.95 of the grid. Voxels
    that an edge cuts get the fraction of their area inside; see `soften`.

    Args:
        grid: where they live.
        generator: where all randomness comes from.
        random_phase: False leaves the phase at 0 and draws none.

    Returns:
        complex64 (nz, ny, nx), peak 1.
    """
    text, font = random_text(generator), str(generator.choice(FONTS))
    outline = _polygons(text, font, "bold" if generator.random() < 0.7 else "normal")
    if generator.random() < 0.3:
        angle = generator.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        outline = [p @ turn.T for p in outline]
    low, high = np.min([p.min(0) for p in outline], axis=0), np.max([p.max(0) for p in outline], axis=0)
    room = np.array(grid_extent_m(grid)[:2])
    scale = generator.uniform(0.4, 0.95) * float(np.min(room / (high - low)))
    middle = np.array(grid_centre_m(grid)[:2]) + generator.uniform(-0.5, 0.5, 2) * (room - scale * (high - low))
    plane = _cover([(p - (low + high) / 2) * scale + middle for p in outline], grid).numpy()
    nz = grid.shape[0]
    thickness = min(int(generator.integers(1, 4)), nz)
    first = int(generator.integers(0, nz - thickness + 1))
    magnitude = np.zeros(grid.shape, dtype=np.float32)
    magnitude[first : first + thickness] = plane
    return finished(magnitude, generator, random_phase)


def random_points(grid: Grid, generator: np.random.Generator, *, random_phase: bool = True) -> Tensor:
    """A cloud of 1 to 40 points, spread over the grid or clustered, amplitudes ~ U(0.2, 1).

    Half of the clouds sit on voxel centres, half between them and share their amplitude among the eight neighbours
    (trilinear). See `soften`.

    Args:
        grid: where they live; only its shape counts.
        generator: where all randomness comes from.
        random_phase: False leaves the phase at 0 and draws none.

    Returns:
        complex64 (nz, ny, nx), peak 1.
    """
    n = int(np.exp(generator.uniform(0, np.log(41))))
    last = np.array(grid.shape) - 1.0
    if generator.random() < 0.5:
        where = generator.uniform(0, 1, (n, 3)) * last
    else:
        where = (
            generator.uniform(0.2, 0.8, 3) * last + generator.normal(size=(n, 3)) * generator.uniform(0.05, 0.2) * last
        )
    where = np.clip(where, 0, last)
    if generator.random() < 0.5:
        where = np.rint(where)
    strength = generator.uniform(0.2, 1.0, n)
    base = np.minimum(np.floor(where), np.maximum(last - 1, 0)).astype(np.int64)
    magnitude = np.zeros(grid.shape, dtype=np.float32)
    for corner in np.ndindex(2, 2, 2):
        index = np.minimum(base + corner, np.array(grid.shape) - 1)
        weight = np.prod(np.where(corner, where - base, 1 - (where - base)), axis=1)
        np.add.at(magnitude, tuple(index.T), (strength * weight).astype(np.float32))
    return finished(magnitude, generator, random_phase)


def random_solids(grid: Grid, generator: np.random.Generator, *, random_phase: bool = True) -> Tensor:
    """One to four spheres, boxes and cylinders, solid or hollow, turned at random, amplitude ~ U(0.3, 1) each.

    Where two overlap the stronger one counts. Partial volume at the edges; see `soften`.

    Args:
        grid: where they live.
        generator: where all randomness comes from.
        random_phase: False leaves the phase at 0 and draws none.

    Returns:
        complex64 (nz, ny, nx), peak 1.
    """
    points_m = grid.points_m().to(torch.float32)
    room, centre = np.array(grid_extent_m(grid)), np.array(grid_centre_m(grid))
    width, voxel = float(room.min()), float(np.prod(grid.spacing_m)) ** (1 / 3)
    magnitude = torch.zeros(grid.n_voxels)
    for _ in range(generator.integers(1, 5)):
        middle = torch.from_numpy((centre + generator.uniform(-0.3, 0.3, 3) * room).astype(np.float32))
        turn = np.eye(3) if generator.random() < 0.5 else random_rotation(generator)
        p = (points_m - middle) @ torch.from_numpy(turn.astype(np.float32))
        a, b, c = (float(s) for s in np.maximum(generator.uniform(0.1, 0.5, 3) * width, 2 * voxel))
        origin = (0.0, 0.0, 0.0)
        body = (
            Sphere(center_m=origin, diameter_m=a),
            Box(center_m=origin, size_m=(a, b, c)),
            Cylinder(center_m=origin, diameter_m=a, length_m=b),
        )[int(generator.integers(3))]
        distance = body.signed_distance_m(p) / voxel
        if generator.random() < 0.4:
            distance = torch.maximum(distance, -distance - generator.uniform(1.0, 2.0))
        amplitude = generator.uniform(0.3, 1.0)
        magnitude = torch.maximum(magnitude, amplitude * (0.5 - distance).clamp(0, 1))
    return finished(magnitude.reshape(grid.shape).numpy(), generator, random_phase)
