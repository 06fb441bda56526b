"""Phantoms: what simulated measurements see.

Targets of radar are functions of a `Grid`, complex reflectivity with peak 1; objects of tomography functions of a shape
(nz, n, n), real with peak 1. Randomness enters as a `numpy.random.Generator`.
Imports torch, which `import data` does not.
"""

import imaging  # noqa: F401  (the shadowing guard)
from data.phantoms.errors import SimulationError
from data.phantoms.heart import heart
from data.phantoms.layered import layered
from data.phantoms.letters import letters
from data.phantoms.mesh import mesh, voxelise_filled, voxelise_surface
from data.phantoms.mesh_files import read_mesh
from data.phantoms.plates import plates
from data.phantoms.points import points
from data.phantoms.random_scenes import HELD_OUT_CHARACTERS, random_letters, random_points, random_solids
from data.phantoms.scatter import reflectivity
from data.phantoms.shepp_logan import shepp_logan
from data.phantoms.slices import discs, ellipses, polygons
from data.phantoms.solids import Box, Cylinder, Sphere, solids
from data.phantoms.surfaces import surfaces
from data.phantoms.sx import sx
from data.phantoms.volume_slices import volume_slices
from data.phantoms.walnut import walnut
from data.phantoms.wires import wires

__all__ = [
    "HELD_OUT_CHARACTERS",
    "Box",
    "Cylinder",
    "SimulationError",
    "Sphere",
    "discs",
    "ellipses",
    "heart",
    "layered",
    "letters",
    "mesh",
    "plates",
    "points",
    "polygons",
    "random_letters",
    "random_points",
    "random_solids",
    "read_mesh",
    "reflectivity",
    "shepp_logan",
    "solids",
    "surfaces",
    "sx",
    "volume_slices",
    "voxelise_filled",
    "voxelise_surface",
    "walnut",
    "wires",
]
