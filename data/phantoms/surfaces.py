"""Random closed surfaces, voxelised as meshes are: none of them is a file."""

from __future__ import annotations

import numpy as np
from skimage.measure import marching_cubes
from torch import Tensor

from data.phantoms.mesh import voxelise_filled, voxelise_surface
from data.phantoms.scatter import grid_centre_m, grid_extent_m
from data.phantoms.soften import finished, random_rotation
from imaging.operators import Grid

CELLS = 15  # of the implicit field per axis: meshes of some 500 to 1000 faces
SAMPLES_PER_VOXEL = 4


def surfaces(grid: Grid, generator: np.random.Generator, *, random_phase: bool = True) -> Tensor:
    """A random body's surface: metaballs, superellipsoids, tori or their union, meshed and voxelised.

    The field lives on 15³ points, marching cubes gives the mesh. Random size, place and orientation. With probability
    0.2 the body is filled, with 0.15 a half space is cut off the shell (an open surface). See `soften`.

    Args:
        grid: where it lives; the mesh is isotropic in metres.
        generator: where all randomness comes from.
        random_phase: False leaves the phase at 0 and draws none.

    Returns:
        complex64 (nz, ny, nx), peak 1.
    """
    vertices, faces = random_mesh(generator)
    vertices = vertices @ random_rotation(generator).T
    low, high = vertices.min(0), vertices.max(0)
    room = np.asarray(grid_extent_m(grid))
    scale = generator.uniform(0.4, 0.9) * float(np.min(room / (high - low)))
    slack = (room - scale * (high - low)) / 2
    centre = np.asarray(grid_centre_m(grid)) + generator.uniform(-0.9, 0.9, 3) * slack
    placed = (vertices - (low + high) / 2) * scale + centre
    kind = generator.random()
    if kind < 0.15:
        normal = generator.normal(size=3)
        depth = (vertices[faces].mean(axis=1) - (low + high) / 2) @ normal
        faces = faces[depth <= np.quantile(depth, generator.uniform(0.5, 0.9))]
    occupied = voxelise_surface(placed, faces, grid, samples_per_voxel=SAMPLES_PER_VOXEL)
    if kind > 0.8:
        occupied |= voxelise_filled(placed, faces, grid)
    return finished(occupied.astype(np.float32), generator, random_phase)


def random_mesh(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A closed random mesh within [-1, 1]³: vertices float64 (n, 3), x, y, z, unitless, and faces int (m, 3)."""
    axis = np.linspace(-1, 1, CELLS)
    p = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    field = np.full(p.shape[:3], -1.0)
    for _ in range(generator.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
        part = (_metaballs, _superellipsoid, _torus)[int(generator.integers(3))](p, generator)
        np.maximum(field, part, out=field)
    # closed at the border of the box
    for side in (0, -1):
        field[side], field[:, side], field[:, :, side] = -1.0, -1.0, -1.0
    if not field.max() > 0:
        field = 0.6 - np.linalg.norm(p, axis=-1)
    vertices, faces, _, _ = marching_cubes(field, 0.0)
    return vertices.astype(np.float64) * (2 / (CELLS - 1)) - 1, faces


def _metaballs(p: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    field = np.zeros(p.shape[:3])
    for _ in range(generator.integers(2, 6)):
        centre, radius = generator.uniform(-0.5, 0.5, 3), generator.uniform(0.2, 0.4)
        field += np.exp(1 - np.sum((p - centre) ** 2, axis=-1) / radius**2)
    return np.minimum(field, 2.0) - 1.0


def _superellipsoid(p: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    q = np.abs((p - generator.uniform(-0.3, 0.3, 3)) @ random_rotation(generator).T)
    q = q / generator.uniform(0.2, 0.7, 3)
    power = generator.choice([1.0, 2.0, 4.0, 8.0])
    return 1.0 - np.minimum(np.sum(q**power, axis=-1) ** (1 / power), 2.0)


def _torus(p: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    q = (p - generator.uniform(-0.2, 0.2, 3)) @ random_rotation(generator).T
    ring, tube = generator.uniform(0.35, 0.6), generator.uniform(0.15, 0.28)
    return tube - np.hypot(np.hypot(q[..., 0], q[..., 1]) - ring, q[..., 2])
