"""Phantoms: targets on a voxel grid, complex reflectivity with peak 1.

Every target is a function of a `Grid`, and of a `numpy.random.Generator` where randomness enters.
Imports torch, which `import data` does not.
"""

import imaging  # noqa: F401  (the shadowing guard)
from data.phantoms.errors import SimulationError
from data.phantoms.letters import letters
from data.phantoms.mesh import mesh, voxelise_filled, voxelise_surface
from data.phantoms.mesh_files import read_mesh
from data.phantoms.points import points
from data.phantoms.scatter import reflectivity
from data.phantoms.solids import Box, Cylinder, Sphere, solids
from data.phantoms.sx import sx

__all__ = [
    "Box",
    "Cylinder",
    "SimulationError",
    "Sphere",
    "letters",
    "mesh",
    "points",
    "read_mesh",
    "reflectivity",
    "solids",
    "sx",
    "voxelise_filled",
    "voxelise_surface",
]
