"""The settings of a simulated near-field MIMO radar, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.phantoms import Box, Cylinder, Sphere, letters, mesh, points, solids, sx
from data.phantoms.errors import SimulationError, unknown_name
from data.simulate.arrays import AntennaArray, make_array
from imaging.operators import Grid

SPEED_OF_LIGHT = 299_792_458.0
AMPLITUDE_MODELS = ("1/(4*pi*Rt*Rr)", "none")
PHASE_CONVENTIONS = ("exp(-j*2*pi*f*tau)", "exp(+j*2*pi*f*tau)")
#: The voxel grid of NF 3.1.
DEFAULT_GRID = Grid((0.35, -0.15, -0.15), (0.00625, 0.0125, 0.0125), (49, 25, 25))


def _one_sx(grid: Grid, *, generator: np.random.Generator) -> Tensor:
    return sx(generator, 1, grid)[0]


#: Targets by name: functions (grid, ..., generator) -> complex64 (nz, ny, nx); see `data.phantoms`.
TARGETS: Mapping[str, Callable[..., Tensor]] = {
    "sx": _one_sx,
    "points": points,
    "letters": letters,
    "solids": solids,
    "mesh": mesh,
}


@dataclass(frozen=True, kw_only=True)
class MimoRadarSimulation:
    """What is simulated. The defaults are the simulated system of NF 3.1 with 20 frequencies.

    Args:
        array: a family of `data.simulate.ARRAYS`: cross, rectangular_mimo, mills_cross, spiral,
            planar_monostatic, file.
        array_parameters: keyword arguments of that family.
        f_min_hz, f_max_hz, n_frequencies: linear, both ends included.
        grid: the voxels of the scene and of /ground_truth.
        target: sx, points, letters, solids or mesh, see `data.phantoms`.
        target_parameters: keyword arguments of that target.
        random_phase: reflectivity with an independent phase ~ U(0, 2 pi) per voxel; else real.
        snr_db: 10 log10(mean |A x|² / sigma²), the mean over all samples of one frame and sigma² the total
            variance of a complex sample (NF 2.4); None adds no noise.
        seed: of everything random; file `index` of a series has its own streams for target and noise.
        frames: how often the scene is measured; it rests, the noise is new each time.
        frame_interval_s: time between frames.
        amplitude_model: "1/(4*pi*Rt*Rr)" or "none".
        phase_convention: "exp(-j*2*pi*f*tau)" or its conjugate "exp(+j*2*pi*f*tau)".
        propagation_speed: m/s.

    Raises:
        SimulationError: for everything that cannot be simulated, at construction.
    """

    array: str = "cross"
    array_parameters: Mapping[str, Any] = field(default_factory=dict)
    f_min_hz: float = 4e9
    f_max_hz: float = 16e9
    n_frequencies: int = 20
    grid: Grid = DEFAULT_GRID
    target: str = "sx"
    target_parameters: Mapping[str, Any] = field(default_factory=dict)
    random_phase: bool = True
    snr_db: float | None = 30.0
    seed: int = 0
    frames: int = 1
    frame_interval_s: float = 1.0
    amplitude_model: str = AMPLITUDE_MODELS[0]
    phase_convention: str = PHASE_CONVENTIONS[0]
    propagation_speed: float = SPEED_OF_LIGHT

    def __post_init__(self) -> None:
        for name in ("f_min_hz", "f_max_hz", "frame_interval_s", "propagation_speed"):
            self._number(name, above=0.0)
        for name, least in (("n_frequencies", 1), ("frames", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SimulationError(f"simulation {name}: expected a whole number >= {least}, got {value!r}")
        if self.snr_db is not None:
            self._number("snr_db")
        if self.n_frequencies > 1 and not self.f_max_hz > self.f_min_hz:
            raise SimulationError(
                f"simulation f_max_hz: expected above f_min_hz = {self.f_min_hz:g} Hz, got {self.f_max_hz:g}"
            )
        if not isinstance(self.random_phase, bool):
            raise SimulationError(f"simulation random_phase: expected true or false, got {self.random_phase!r}")
        if not isinstance(self.grid, Grid):
            raise SimulationError(f"simulation grid: expected a Grid, got {type(self.grid).__name__}")
        for name in ("array_parameters", "target_parameters"):
            if not isinstance(getattr(self, name), Mapping):
                raise SimulationError(f"simulation {name}: expected a table, got {getattr(self, name)!r}")
        for name, known in (
            ("target", tuple(TARGETS)),
            ("amplitude_model", AMPLITUDE_MODELS),
            ("phase_convention", PHASE_CONVENTIONS),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(f"simulation {name}", getattr(self, name), known)
        known_parameters = list(inspect.signature(TARGETS[self.target]).parameters)[1:]
        known_parameters.remove("generator")
        for name in self.target_parameters:
            if name not in known_parameters:
                raise unknown_name(f"simulation target {self.target}, parameter", name, known_parameters)
        self._check_clearance()

    def _number(self, name: str, above: float = -math.inf) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SimulationError(f"simulation {name}: expected a finite number, got {value!r}")
        if not value > above:
            raise SimulationError(f"simulation {name}: expected > {above:g}, got {value!r}")

    def _check_clearance(self) -> None:
        for name, positions in (("transmitter", self.antennas.tx_m), ("receiver", self.antennas.rx_m)):
            inside = self.grid.contains_m(torch.from_numpy(positions))
            if bool(inside.any()):
                x, y, z = positions[int(inside.nonzero()[0])]
                raise SimulationError(
                    f"simulation grid: {name} at (x, y, z) = ({x:g}, {y:g}, {z:g}) m lies inside the voxel grid; "
                    "move the grid or the array"
                )

    @functools.cached_property
    def antennas(self) -> AntennaArray:
        """The array that `array` and `array_parameters` describe."""
        return make_array(self.array, self.array_parameters)

    @property
    def frequencies_hz(self) -> NDArray[np.float64]:
        """float64 (n_frequencies,)."""
        return np.linspace(self.f_min_hz, self.f_max_hz, self.n_frequencies)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MimoRadarSimulation:
        """From plain values, as a TOML file or /provenance/config has them: the inverse of `to_dict`.

        ``grid`` is a table of origin_m, spacing_m and shape, each z, y, x; ``snr_db = "none"`` means no noise.

        Raises:
            SimulationError: unknown key, with the nearest known one, or a value that does not fit.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        values = dict(settings)
        for key in values:
            if key not in known:
                raise unknown_name("simulation, key", key, known)
        if isinstance(values.get("grid"), Mapping):
            values["grid"] = _grid(values["grid"])
        if values.get("snr_db") == "none":
            values["snr_db"] = None
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain: dict[str, Any] = json.loads(json.dumps(values, default=_plain))
        return plain


def _grid(table: Mapping[str, Any]) -> Grid:
    known = ("origin_m", "spacing_m", "shape")
    for key in table:
        if key not in known:
            raise unknown_name("simulation grid, key", key, known)
    default = dataclasses.asdict(DEFAULT_GRID)
    try:
        return Grid(**{key: tuple(table.get(key, default[key])) for key in known})
    except (TypeError, ValueError) as error:
        raise SimulationError(f"simulation grid: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Grid):
        return dataclasses.asdict(value)
    if isinstance(value, Sphere | Box | Cylinder):
        return {"shape": type(value).__name__.lower(), **dataclasses.asdict(value)}
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
