"""Phantoms: targets on a voxel grid, complex reflectivity with peak 1.

Every target is a function of a `Grid`, and of a `numpy.random.Generator` where randomness enters.
Imports torch, which `import data` does not.
"""

import imaging  # noqa: F401  (the shadowing guard)
from data.phantoms.errors import SimulationError
from data.phantoms.layered import layered
from data.phantoms.letters import letters
from data.phantoms.mesh import mesh, voxelise_filled, voxelise_surface
from data.phantoms.mesh_files import read_mesh
from data.phantoms.plates import plates
from data.phantoms.points import points
from data.phantoms.random_scenes import HELD_OUT_CHARACTERS, random_letters, random_points, random_solids
from data.phantoms.scatter import reflectivity
from data.phantoms.solids import Box, Cylinder, Sphere, solids
from data.phantoms.surfaces import surfaces
from data.phantoms.sx import sx
from data.phantoms.wires import wires

__all__ = [
    "HELD_OUT_CHARACTERS",
    "Box",
    "Cylinder",
    "SimulationError",
    "Sphere",
    "layered",
    "letters",
    "mesh",
    "plates",
    "points",
    "random_letters",
    "random_points",
    "random_solids",
    "read_mesh",
    "reflectivity",
    "solids",
    "surfaces",
    "sx",
    "voxelise_filled",
    "voxelise_surface",
    "wires",
]
