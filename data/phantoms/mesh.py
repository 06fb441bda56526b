"""Triangle meshes on a voxel grid: surface shell or filled body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from data.phantoms.errors import SimulationError
from data.phantoms.mesh_files import read_mesh
from data.phantoms.scatter import grid_centre_m, grid_extent_m, reflectivity
from imaging.operators import Grid

CHUNK = 2_000_000  # rays or samples held at once
SAMPLES_PER_VOXEL = 16  # along an edge of a triangle


def mesh(
    grid: Grid,
    source: Path | str | tuple[np.ndarray, np.ndarray] | None = None,
    *,
    name: str | None = None,
    fill: bool = False,
    size_m: float | None = None,
    center_m: tuple[float, float, float] | None = None,
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0),
    generator: np.random.Generator | None = None,
) -> Tensor:
    """A triangle mesh, centred, turned and scaled into the grid.

    Args:
        grid: where it lives.
        source: a file (.npz with NAME_v and NAME_f, .ply, .obj, .stl) or (vertices (n, 3), faces (m, 3)).
        name: which mesh of an .npz with several.
        fill: True marks the inside too; False only the voxels that the surface passes.
        size_m: largest edge of the bounding box after turning, metres; None fits 80 % of the grid.
        center_m: where the middle of the bounding box goes, x, y, z in metres; None is the grid's middle.
        rotation_deg: turns about x, then y, then z (fixed axes, right-handed), degrees.
        generator: random phase per voxel; None: phase 0.

    Returns:
        complex64 (nz, ny, nx), peak 1.

    Raises:
        SimulationError: an unreadable mesh, or one that lies outside the grid.
    """
    if source is None:
        raise SimulationError("mesh source: expected a .npz, .ply, .obj or .stl file, got nothing; set source")
    vertices, faces = read_mesh(source, name) if isinstance(source, str | Path) else source
    vertices = _turn(np.asarray(vertices, dtype=np.float64), rotation_deg)
    low, high = vertices.min(0), vertices.max(0)
    extent = high - low
    if not extent.max() > 0:
        raise SimulationError("mesh: expected vertices that span a volume, all lie in one point")
    room = np.asarray(grid_extent_m(grid))
    if size_m is None:
        scale = 0.8 * float(np.min(room[extent > 0] / extent[extent > 0]))
    elif size_m > 0:
        scale = size_m / float(extent.max())
    else:
        raise SimulationError(f"mesh size_m: expected > 0, got {size_m}")
    target = np.asarray(grid_centre_m(grid) if center_m is None else center_m, dtype=np.float64)
    placed = (vertices - (low + high) / 2) * scale + target
    occupied = voxelise_surface(placed, faces, grid)
    if fill:
        occupied |= voxelise_filled(placed, faces, grid)
    return reflectivity(torch.from_numpy(occupied.astype(np.float32)), generator)


def voxelise_surface(
    vertices_m: np.ndarray, faces: np.ndarray, grid: Grid, *, samples_per_voxel: int = SAMPLES_PER_VOXEL
) -> np.ndarray:
    """Voxels that the surface passes through: bool (nz, ny, nx).

    Each triangle is sampled on a lattice of a sixteenth of a voxel, so that a voxel of which the surface cuts off less
    than that at a corner may be missed; parts outside the grid are left out.

    Args:
        vertices_m: (n, 3), x, y, z in metres.
        faces: (m, 3) integer, vertex numbers from 0.
        samples_per_voxel: lattice points per voxel along an edge; the time grows with its square.
    """
    corners = _index_space(vertices_m, grid)[np.asarray(faces)]  # (m, 3, 3), in voxels
    edges = corners - np.roll(corners, 1, axis=1)
    pieces = np.maximum(np.ceil(samples_per_voxel * np.abs(edges).max(axis=(1, 2))), 1).astype(np.int64)
    occupied = np.zeros(grid.shape, dtype=bool)
    for n in np.unique(pieces):
        i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        keep = i + j <= n
        weights = np.stack((i[keep], j[keep], n - i[keep] - j[keep]), axis=-1) / n
        same = corners[pieces == n]
        for part in np.array_split(same, max(1, len(same) * len(weights) // CHUNK)):
            index = np.rint(np.einsum("wc,mca->mwa", weights, part).reshape(-1, 3)).astype(np.int64)
            index = index[((index >= 0) & (index < grid.shape)).all(axis=1)]
            occupied[tuple(index.T)] = True
    return occupied


def voxelise_filled(vertices_m: np.ndarray, faces: np.ndarray, grid: Grid) -> np.ndarray:
    """Voxels whose centre lies inside the surface, by the parity of its crossings along z: bool (nz, ny, nx).

    Each hole is closed first, by triangles from its rim to the rim's mean point. The orientation of the faces
    does not matter.

    Args:
        vertices_m: (n, 3), x, y, z in metres.
        faces: (m, 3) integer, vertex numbers from 0; neighbours share vertices.
    """
    vertices, faces = close_holes(np.asarray(vertices_m, dtype=np.float64), np.asarray(faces))
    return _parity(_index_space(vertices, grid)[faces], grid.shape)


def close_holes(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with a cone over every hole: vertices (n + holes, 3) and faces (m + rim edges, 3).

    Edges with an odd number of triangles form closed rims (the boundary of anything is a cycle), so a cone
    over each connected rim leaves no odd edge.
    """
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, count = np.unique(edges, axis=0, return_counts=True)
    rim = edges[count % 2 == 1]
    if len(rim) == 0:
        return vertices, faces
    n = len(vertices)
    graph = coo_array((np.ones(len(rim)), (rim[:, 0], rim[:, 1])), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    holes, hole = np.unique(label[rim[:, 0]], return_inverse=True)
    tips = [vertices[np.unique(rim[hole == i])].mean(axis=0) for i in range(len(holes))]
    return np.vstack([vertices, tips]), np.vstack([faces, np.column_stack([rim, n + hole])])


def _parity(corners: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Odd number of triangles (m, 3, 3; voxel units z, y, x) crossed along z: bool (nz, ny, nx)."""
    # Rays a hair off the voxel centres: none then meets an edge or a vertex placed on a round number. A
    # shared edge gives its two triangles the same product with opposite sign: no ray slips between them.
    depth, flat = corners[:, :, 0] - 3.1e-7, corners[:, :, 1:] - (1.7e-7, 2.9e-7)
    nz, ny, nx = shape
    first = np.maximum(np.ceil(flat.min(axis=1)), 0).astype(np.int64)
    last = np.minimum(np.floor(flat.max(axis=1)), [ny - 1, nx - 1]).astype(np.int64)
    counts = np.maximum(last - first + 1, 0)
    n_rays = counts.prod(axis=1)
    flips = np.zeros((nz + 1, ny * nx), dtype=np.int64)
    hit = np.flatnonzero(n_rays)
    for part in np.array_split(hit, 1 + int(n_rays.sum()) // CHUNK):
        triangle = np.repeat(part, n_rays[part])
        local = np.arange(len(triangle)) - np.repeat(np.cumsum(n_rays[part]) - n_rays[part], n_rays[part])
        iy = first[triangle, 0] + local // counts[triangle, 1]
        ix = first[triangle, 1] + local % counts[triangle, 1]
        a, b, c = (flat[triangle, k] - np.stack((iy, ix), axis=-1) for k in range(3))
        weights = np.stack((_cross(b, c), _cross(c, a), _cross(a, b)), axis=-1)
        inside = (weights > 0).all(axis=1) | (weights < 0).all(axis=1)
        weights = weights[inside]
        crossing = (weights * depth[triangle[inside]]).sum(axis=-1) / weights.sum(axis=-1)
        # Voxel centres at or beyond the crossing change side.
        iz = np.clip(np.ceil(crossing), 0, nz).astype(np.int64)
        np.add.at(flips, (iz, iy[inside] * nx + ix[inside]), 1)
    return (np.cumsum(flips[:nz], axis=0) % 2).astype(bool).reshape(shape)


def _cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]


def _index_space(vertices_m: np.ndarray, grid: Grid) -> np.ndarray:
    """Metres (x, y, z) to voxel units (z, y, x)."""
    return (np.asarray(vertices_m, dtype=np.float64)[:, ::-1] - grid.origin_m) / grid.spacing_m


def _turn(vertices: np.ndarray, rotation_deg: tuple[float, float, float]) -> np.ndarray:
    for axis, angle in enumerate(np.deg2rad(rotation_deg)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        rotation = np.eye(3)
        rotation[i, i] = rotation[j, j] = np.cos(angle)
        rotation[j, i] = np.sin(angle)
        rotation[i, j] = -rotation[j, i]
        vertices = vertices @ rotation.T
    return vertices
