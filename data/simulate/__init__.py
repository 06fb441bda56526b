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
from data.simulate.mimo_radar import (
    circular_noise,
    make_target,
    mimo_radar,
    mimo_radar_series,
    noise_std,
    radar_operator,
)
from data.simulate.mimo_radar_config import TARGETS, MimoRadarSimulation

__all__ = [
    "ARRAYS",
    "TARGETS",
    "AntennaArray",
    "MimoRadarSimulation",
    "SimulationError",
    "circular_noise",
    "cross",
    "from_file",
    "make_array",
    "make_target",
    "mills_cross",
    "mimo_radar",
    "mimo_radar_series",
    "noise_std",
    "planar_monostatic",
    "radar_operator",
    "rectangular_mimo",
    "spiral",
]
