"""The settings of a simulated uplink over a reflecting surface, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.phantoms.errors import SimulationError, unknown_name

MODELS = ("channel", "synthetic")
ANGLES = ("on_grid", "off_grid")
PILOTS = ("qpsk", "orthogonal")
VALUES = ("rank_one", "generic")
PLACES_M = {"rx": (0.0, 0.0, 10.0), "tx": (40.0, 10.0, 1.5), "irs": (40.0, -10.0, 10.0)}
SPEED_OF_LIGHT = 299_792_458.0
#: Most entries of a coefficient tensor that are simulated.
LARGEST = 2**26


@dataclass(frozen=True, kw_only=True)
class IrsMimoSimulation:
    """What is simulated. The defaults are the block-sparse experiment of KS 3.6 at 12 dB.

    Args:
        model: channel (a mobile's pilots over a reflecting surface, KS 2), or synthetic (y = (A_1 ⊗ A_2 ⊗ A_3) x with
            real Gaussian factors, KS 3.1), for which only unknowns, rows, nonzeros, values, snr_db and seed count.
        n_rx, n_tx, n_irs: elements of base station, mobile and surface, half a wavelength apart.
        rx_rows, tx_rows, irs_rows: rows of a planar array; 1 is a line.
        grid_rx, grid_tx, grid_irs: directions of the dictionary, along each axis of an array.
        paths_rx, paths_irs: paths that arrive at the base station, and of each cluster at the surface.
        clusters: departures from the mobile, each with paths of its own; more than one make coefficients of higher
            rank.
        angular_spread: paths are neighbours on the grid, or within as wide a window off it; else they come from
            anywhere.
        angles: on_grid, or off_grid, for which no coefficients are true.
        n_pilots: slots for which each reflection pattern is held.
        pilots: qpsk (random), or orthogonal (columns of a DFT matrix, n_pilots >= n_tx); unit power in all.
        n_configs: reflection patterns, of random phases.
        phase_bits: of the surface's phase shifters: 1 has signs, 2 quarter turns; none has any phase.
        reflection_modulus: of a surface element, at most 1; none takes 1/√n_irs, which the published experiments have.
        new_training: pilots and patterns (synthetic: the factors) drawn anew for each file; else a series shares them.
        direct_path: whether the base station sees the mobile as well.
        direct_gain_db: power of the direct channel over the mean of those over the surface.
        n_subcarriers, subcarrier_spacing_hz, delay_spread_s: paths have delays, exponentially distributed; directions
            are the same on all subcarriers, gains are not.
        n_frames, frame_interval_s: gains are drawn anew for every frame, directions stay.
        carrier_frequency_hz: sets the spacing of the elements.
        transmit_power_w: y = √power · A x + n, pilots of unit power.
        snr_db: mean |y - n|² over the noise variance of a complex sample (KS 2.3), over all samples of the file; none
            adds no noise.
        noise_known: whether the file has the noise variance.
        unknowns, rows, nonzeros: of each factor, synthetic.
        values: rank_one (x = x_1 ⊗ x_2 ⊗ x_3), or generic (independent on a Kronecker support), synthetic.
        seed: of everything random; file `index` of a series has its own streams for directions, gains and noise.

    Raises:
        SimulationError: for everything that cannot be simulated, at construction.
    """

    model: str = "channel"
    n_rx: int = 16
    n_tx: int = 6
    n_irs: int = 256
    rx_rows: int = 1
    tx_rows: int = 1
    irs_rows: int = 1
    grid_rx: int = 18
    grid_tx: int = 18
    grid_irs: int = 18
    paths_rx: int = 3
    paths_irs: int = 3
    clusters: int = 1
    angular_spread: bool = True
    angles: str = "on_grid"
    n_pilots: int = 3
    pilots: str = "qpsk"
    n_configs: int = 6
    phase_bits: int | None = 1
    reflection_modulus: float | None = None
    new_training: bool = False
    direct_path: bool = False
    direct_gain_db: float = 0.0
    n_subcarriers: int = 1
    subcarrier_spacing_hz: float = 240e3
    delay_spread_s: float = 1e-7
    n_frames: int = 1
    frame_interval_s: float = 1e-3
    carrier_frequency_hz: float = 28e9
    transmit_power_w: float = 1.0
    snr_db: float | None = 12.0
    noise_known: bool = True
    unknowns: tuple[int, int, int] = (15, 15, 15)
    rows: tuple[int, int, int] = (8, 12, 15)
    nonzeros: tuple[int, int, int] = (3, 3, 3)
    values: str = "rank_one"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("model", MODELS),
            ("angles", ANGLES),
            ("pilots", PILOTS),
            ("values", VALUES),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(f"simulation {name}", getattr(self, name), known)
        for name in ("n_rx", "n_tx", "n_irs", "rx_rows", "tx_rows", "irs_rows", "grid_rx", "grid_tx", "grid_irs"):
            self._whole(name, 1)
        for name in ("paths_rx", "paths_irs", "clusters", "n_pilots", "n_configs", "n_subcarriers", "n_frames"):
            self._whole(name, 1)
        self._whole("seed", 0)
        if self.phase_bits is not None:
            self._whole("phase_bits", 1)
        for name in ("subcarrier_spacing_hz", "frame_interval_s", "carrier_frequency_hz", "transmit_power_w"):
            self._number(name, above=0.0)
        self._number("delay_spread_s", least=0.0)
        self._number("direct_gain_db")
        if self.snr_db is not None:
            self._number("snr_db")
        for name in ("angular_spread", "new_training", "direct_path", "noise_known"):
            if not isinstance(getattr(self, name), bool):
                raise SimulationError(f"simulation {name}: expected true or false, got {getattr(self, name)!r}")
        if self.reflection_modulus is not None:
            self._number("reflection_modulus", above=0.0)
            if self.reflection_modulus > 1:
                raise SimulationError(
                    f"simulation reflection_modulus: expected at most 1, the surface is passive, got "
                    f"{self.reflection_modulus!r}"
                )
        self._check_synthetic() if self.model == "synthetic" else self._check_channel()

    def _check_channel(self) -> None:
        for side in ("rx", "tx", "irs"):
            n, rows = getattr(self, f"n_{side}"), getattr(self, f"{side}_rows")
            if n % rows or (rows > 1 and n == rows):
                raise SimulationError(
                    f"simulation {side}_rows: expected rows of equal length, two elements or more, for {n} elements, "
                    f"got {rows}"
                )
        for name, grid in (("paths_irs", "grid_irs"), ("paths_rx", "grid_rx")):
            if self.angles == "on_grid" and getattr(self, name) > getattr(self, grid):
                raise SimulationError(
                    f"simulation {name}: expected at most {grid} = {getattr(self, grid)} paths on the grid, got "
                    f"{getattr(self, name)}"
                )
        if self.angles == "on_grid" and self.clusters > self.grid_tx:
            raise SimulationError(
                f"simulation clusters: expected at most grid_tx = {self.grid_tx} on the grid, got {self.clusters}"
            )
        if self.pilots == "orthogonal" and self.n_pilots < self.n_tx:
            raise SimulationError(
                f"simulation n_pilots: expected at least n_tx = {self.n_tx} for orthogonal pilots, else some "
                f"directions are never lit; got {self.n_pilots}"
            )
        size = math.prod(len(self.directions(side)) for side in ("irs", "tx", "rx"))
        if size * self.n_frames * self.n_subcarriers > LARGEST:
            raise SimulationError(
                f"simulation grid_irs, grid_tx, grid_rx: expected at most {LARGEST} coefficients in a file, got "
                f"{size * self.n_frames * self.n_subcarriers}; choose fewer directions, frames or subcarriers"
            )

    def _check_synthetic(self) -> None:
        for name in ("unknowns", "rows", "nonzeros"):
            value = getattr(self, name)
            whole = isinstance(value, tuple | list) and len(value) == 3
            if not whole or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in value):
                raise SimulationError(f"simulation {name}: expected three whole numbers >= 1, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        if any(k > n for k, n in zip(self.nonzeros, self.unknowns, strict=True)):
            raise SimulationError(
                f"simulation nonzeros: expected at most unknowns = {list(self.unknowns)}, got {list(self.nonzeros)}"
            )
        if math.prod(self.unknowns) > LARGEST:
            raise SimulationError(
                f"simulation unknowns: expected at most {LARGEST} coefficients, got {math.prod(self.unknowns)}"
            )
        if self.direct_path or self.n_frames > 1 or self.n_subcarriers > 1:
            raise SimulationError(
                "simulation model synthetic: expected one frame, one subcarrier and no direct path, found others"
            )

    def _number(self, name: str, above: float = -math.inf, least: float = -math.inf) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SimulationError(f"simulation {name}: expected a finite number, got {value!r}")
        if not value > above:
            raise SimulationError(f"simulation {name}: expected > {above:g}, got {value!r}")
        if not value >= least:
            raise SimulationError(f"simulation {name}: expected >= {least:g}, got {value!r}")

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SimulationError(f"simulation {name}: expected a whole number >= {least}, got {value!r}")

    # -- what follows from the settings ---------------------------------------------------------------------

    @property
    def wavelength_m(self) -> float:
        """Of the carrier."""
        return SPEED_OF_LIGHT / self.carrier_frequency_hz

    @property
    def subcarriers_hz(self) -> NDArray[np.float64]:
        """Offsets from the carrier: float64 (n_subcarriers,)."""
        n = self.n_subcarriers
        return np.asarray((np.arange(n) - (n - 1) / 2) * self.subcarrier_spacing_hz, dtype=np.float64)

    def elements_m(self, side: str) -> NDArray[np.float64]:
        """Elements of "rx", "tx" or "irs" seen from the first: float64 (n, 3); lines along y, rows along z."""
        n, rows = getattr(self, f"n_{side}"), getattr(self, f"{side}_rows")
        row, column = np.divmod(np.arange(n), n // rows)
        return np.asarray(np.stack((np.zeros(n), column, row), axis=1) * self.wavelength_m / 2, dtype=np.float64)

    def positions_m(self, side: str) -> NDArray[np.float64]:
        """The same in their place; far apart, whatever the directions that are drawn: float64 (n, 3)."""
        return self.elements_m(side) + np.array(PLACES_M[side])

    def directions(self, side: str) -> NDArray[np.float64]:
        """Grid of "rx" and "tx": direction sines (N, d); of "irs": departure minus arrival, from 0 (KS 2.2)."""
        from imaging.operators.steering import uniform_directions

        planar = getattr(self, f"{side}_rows") > 1
        start = 0.0 if side == "irs" else -1.0
        return np.asarray(uniform_directions(getattr(self, f"grid_{side}"), 1 + planar, start=start).numpy())

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> IrsMimoSimulation:
        """From plain values, as a TOML file or /provenance/config has them: the inverse of `to_dict`.

        Raises:
            SimulationError: unknown key, with the nearest known one, or a value that does not fit.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in settings:
            if key not in known:
                raise unknown_name("simulation, key", key, known)
        values: dict[str, Any] = {}
        for key, value in settings.items():
            values[key] = tuple(value) if isinstance(value, list) else None if value == "none" else value
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        plain: dict[str, Any] = json.loads(
            json.dumps({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        )
        return plain
