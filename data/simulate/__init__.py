"""Simulators: measurements of known scenes. Imports torch, which `import data` does not."""

import imaging  # noqa: F401  (the shadowing guard)
from data.phantoms.errors import SimulationError
from data.simulate.antennas import AntennaArray
from data.simulate.array_files import from_file
from data.simulate.arrays import (
    ARRAYS,
    cross,
    make_array,
    mills_cross,
    planar_monostatic,
    rectangular_mimo,
    spiral,
)
from data.simulate.irs_mimo import IrsScene, irs_mimo, irs_mimo_series, irs_scene
from data.simulate.irs_mimo_config import IrsMimoSimulation
from data.simulate.mimo_radar import (
    circular_noise,
    make_target,
    mimo_radar,
    mimo_radar_series,
    noise_std,
    radar_operator,
)
from data.simulate.mimo_radar_config import TARGETS, MimoRadarSimulation
from data.simulate.motions import MOTIONS
from data.simulate.mri import coil_maps, mri, mri_series
from data.simulate.mri_config import MRI_OBJECTS, MriSimulation
from data.simulate.tomography import (
    largest_line_integral,
    make_movie,
    poisson_counts,
    scan_angles,
    tomography,
    tomography_operator,
    tomography_series,
)
from data.simulate.tomography_config import OBJECTS, TomographySimulation
from data.simulate.views import VIEW_ORDERS, bit_reversed_order, view_angles

__all__ = [
    "ARRAYS",
    "MOTIONS",
    "MRI_OBJECTS",
    "OBJECTS",
    "TARGETS",
    "VIEW_ORDERS",
    "AntennaArray",
    "IrsMimoSimulation",
    "IrsScene",
    "MimoRadarSimulation",
    "MriSimulation",
    "SimulationError",
    "TomographySimulation",
    "bit_reversed_order",
    "circular_noise",
    "coil_maps",
    "cross",
    "from_file",
    "irs_mimo",
    "irs_mimo_series",
    "irs_scene",
    "largest_line_integral",
    "make_array",
    "make_movie",
    "make_target",
    "mills_cross",
    "mimo_radar",
    "mimo_radar_series",
    "mri",
    "mri_series",
    "noise_std",
    "planar_monostatic",
    "poisson_counts",
    "radar_operator",
    "rectangular_mimo",
    "scan_angles",
    "spiral",
    "tomography",
    "tomography_operator",
    "tomography_series",
    "view_angles",
]
