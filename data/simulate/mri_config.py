"""The settings of a simulated MRI scan, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.phantoms.errors import SimulationError, unknown_name
from data.phantoms.heart import heart
from data.simulate.motions import MOTIONS
from data.simulate.tomography_config import OBJECTS

#: Objects by name: functions (shape, ..., generator) -> float32 (nz, n, n), peak 1.
MRI_OBJECTS: Mapping[str, Callable[..., NDArray[np.float32]]] = {**OBJECTS, "heart": heart}
TRAJECTORIES = ("cartesian", "radial", "golden_angle", "spiral", "radial_3d")
MASKS = ("full", "uniform", "variable_density", "poisson_disc", "kt")
ENCODINGS = ("2d", "3d")


@dataclass(frozen=True, kw_only=True)
class MriSimulation:
    """What is simulated. The defaults are one slice of a head, eight coils, every third line and 24 in the centre.

    Args:
        object: shepp_logan, heart, walnut, discs, ellipses, polygons or volume (a file), see `data.phantoms`.
        object_parameters: keyword arguments of that object; the text "none" stands for none.
        motion: none, beating, breathing, rigid, ..., see `data.simulate.motions`.
        motion_parameters: keyword arguments of that motion.
        n: pixels along each side of a square slice.
        n_slices: slices.
        pixel_m, slice_m: size of a pixel and distance of slices, metres.
        oversampling: object, coils and phase are computed on pixels so many times finer than those of the truth, whose
            values are means of them; 1 makes data by the very model that reconstructions invert.
        encoding: 2d (each slice on its own), or 3d (phase-encoded along z).
        n_frames: moments at which the object is seen; it rests during each. More than one need 2d with one slice, or
            3d.
        frame_interval_s: time between moments, seconds.
        n_coils: loops around the object; 1 is one coil that is equally sensitive everywhere.
        coil_distance: of the loops' centres from the middle, half field of views.
        coil_radius: of a loop, half field of views; none lets neighbours overlap a little.
        maps_known: whether the file has the sensitivities; false leaves them to calibration.
        trajectory: cartesian, radial, golden_angle, spiral, or radial_3d (3d encoding).
        mask: of Cartesian scans: full, uniform, variable_density, poisson_disc or kt (a lattice sheared in time).
            Random ones are drawn for each frame.
        acceleration: all samples over those measured; the random masks count the centre in, lattices do not.
        phase_axes: encoded axes that the mask thins out: 1 is ky; 2 adds kx (2d), or is kz and ky (3d).
        calibration: lines (samples along each thinned axis) in the fully sampled centre.
        n_readouts: spokes or interleaves per frame.
        n_samples: along each; none takes twice n for spokes and n²/ `full_readouts` for spirals.
        full_readouts: interleaves of a fully sampled frame; sets how often a spiral turns.
        off_resonance_hz: largest of a smooth random field; the image's phase is 2π · field · echo_time_s.
        echo_time_s: see there.
        snr_db: mean magnitude of the object over the standard deviation of the noise of a complex sample, as both are
            in an image of unit sensitivity (orthonormal FFT); none adds no noise.
        noise_correlation: between neighbouring coils, 0 to below 1; above 0 the file has the covariance.
        seed: of everything random; file `index` of a series has its own streams for object, masks, phase and noise.

    Raises:
        SimulationError: for everything that cannot be simulated, at construction.
    """

    object: str = "shepp_logan"
    object_parameters: Mapping[str, Any] = field(default_factory=dict)
    motion: str = "none"
    motion_parameters: Mapping[str, Any] = field(default_factory=dict)
    n: int = 128
    n_slices: int = 1
    pixel_m: float = 2e-3
    slice_m: float = 5e-3
    oversampling: int = 1
    encoding: str = "2d"
    n_frames: int = 1
    frame_interval_s: float = 0.04
    n_coils: int = 8
    coil_distance: float = 1.3
    coil_radius: float | None = None
    maps_known: bool = False
    trajectory: str = "cartesian"
    mask: str = "uniform"
    acceleration: float = 3.0
    phase_axes: int = 1
    calibration: int = 24
    n_readouts: int = 32
    n_samples: int | None = None
    full_readouts: int = 32
    off_resonance_hz: float = 60.0
    echo_time_s: float = 4e-3
    snr_db: float | None = 30.0
    noise_correlation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pixel_m", "slice_m", "frame_interval_s", "coil_distance", "acceleration"):
            self._number(name, above=0.0)
        for name in ("off_resonance_hz", "echo_time_s", "noise_correlation"):
            self._number(name, least=0.0)
        for name in ("coil_radius", "snr_db"):
            if getattr(self, name) is not None:
                self._number(name, above=0.0 if name == "coil_radius" else -math.inf)
        for name, least in (
            ("n", 8),
            ("n_slices", 1),
            ("oversampling", 1),
            ("n_frames", 1),
            ("n_coils", 1),
            ("phase_axes", 1),
            ("calibration", 0),
            ("n_readouts", 1),
            ("full_readouts", 1),
            ("seed", 0),
        ):
            self._whole(name, least)
        if self.n_samples is not None:
            self._whole("n_samples", 2)
        if not isinstance(self.maps_known, bool):
            raise SimulationError(f"simulation maps_known: expected true or false, got {self.maps_known!r}")
        for name, known in (
            ("object", tuple(MRI_OBJECTS)),
            ("motion", tuple(MOTIONS)),
            ("encoding", ENCODINGS),
            ("trajectory", TRAJECTORIES),
            ("mask", MASKS),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(f"simulation {name}", getattr(self, name), known)
        self._parameters("object", MRI_OBJECTS[self.object], ("shape", "generator"))
        self._parameters("motion", MOTIONS[self.motion], ("volume", "time"))
        self._check_sampling()
        if not self.noise_correlation < 1:
            raise SimulationError(f"simulation noise_correlation: expected below 1, got {self.noise_correlation!r}")
        if not self.coil_distance > 1:
            raise SimulationError(
                "simulation coil_distance: expected loops outside of the field of view, above 1 half of it, got "
                f"{self.coil_distance!r}"
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

    def _parameters(self, what: str, function: Callable[..., Any], own: Sequence[str]) -> None:
        given = getattr(self, f"{what}_parameters")
        if not isinstance(given, Mapping):
            raise SimulationError(f"simulation {what}_parameters: expected a table, got {given!r}")
        known = [name for name in inspect.signature(function).parameters if name not in own]
        for name in given:
            if name not in known:
                raise unknown_name(f"simulation {what} {getattr(self, what)}, parameter", name, known)

    def _check_sampling(self) -> None:
        if self.n_frames > 1 and self.encoding == "2d" and self.n_slices > 1:
            raise SimulationError(
                f"simulation n_slices: expected 1 for several frames with 2d encoding, got {self.n_slices}; take "
                "encoding 3d"
            )
        if self.phase_axes > 2:
            raise SimulationError(f"simulation phase_axes: expected 1 or 2, got {self.phase_axes}")
        if (self.trajectory == "radial_3d") != (self.encoding == "3d") and self.trajectory != "cartesian":
            raise SimulationError(
                f"simulation trajectory {self.trajectory}: expected encoding "
                f"{'3d' if self.trajectory == 'radial_3d' else '2d'}, got {self.encoding}"
            )
        if self.trajectory in ("radial", "golden_angle", "spiral") and self.n_slices > 1:
            raise SimulationError(
                f"simulation n_slices: expected 1 for trajectory {self.trajectory}, got {self.n_slices}"
            )
        if self.trajectory != "cartesian":
            return
        if not self.acceleration >= 1:
            raise SimulationError(f"simulation acceleration: expected >= 1, got {self.acceleration!r}")
        if self.mask in ("uniform", "kt") and self.acceleration != round(self.acceleration):
            raise SimulationError(
                f"simulation acceleration: expected a whole number for mask {self.mask}, got {self.acceleration!r}"
            )
        if self.mask == "kt" and (self.phase_axes > 1 or self.n_slices > 1):
            raise SimulationError(
                "simulation mask kt: expected phase_axes 1 and n_slices 1, a lattice over ky and time"
            )
        if self.mask == "poisson_disc" and self.phase_axes == 1:
            raise SimulationError("simulation mask poisson_disc: expected phase_axes 2, got 1")
        if self.mask == "full":
            return
        size, centre = math.prod(self.mask_shape), math.prod(self.centre)
        if self.mask in ("variable_density", "poisson_disc") and size / self.acceleration < centre:
            raise SimulationError(
                f"simulation acceleration: expected at most {size / centre:.3g} with a fully sampled centre of "
                f"{centre} of {size} samples, got {self.acceleration:g}; lower calibration or acceleration"
            )

    # -- what follows from the settings ---------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the truth, z, y, x."""
        return self.n_slices, self.n, self.n

    @property
    def spacing_m(self) -> tuple[float, float, float]:
        """Of the truth's voxels, z, y, x, metres."""
        return self.slice_m, self.pixel_m, self.pixel_m

    @property
    def by_slice(self) -> bool:
        """Whether the file has the axes slice, coil, ky, kx."""
        return self.encoding == "2d" and self.n_frames == 1 and self.trajectory == "cartesian"

    @property
    def mask_axes(self) -> tuple[str, str]:
        """The axes that a mask thins out, the first perhaps alone with length 1."""
        if self.phase_axes == 1:
            return ("", "ky")
        return ("ky", "kx") if self.encoding == "2d" else ("kz", "ky")

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Samples along `mask_axes`."""
        if self.phase_axes == 1:
            return 1, self.n
        return (self.n, self.n) if self.encoding == "2d" else (self.n_slices, self.n)

    @property
    def centre(self) -> tuple[int, int]:
        """Samples of the fully sampled centre along `mask_axes`."""
        first, second = self.mask_shape
        return min(max(self.calibration, 1), first) if self.calibration else 0, min(self.calibration, second)

    @property
    def samples(self) -> int:
        """Along a readout of a trajectory."""
        if self.n_samples is not None:
            return self.n_samples
        return 2 * self.n if self.trajectory != "spiral" else math.ceil(self.n**2 / self.full_readouts)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Of the frames, seconds: float64 (n_frames,)."""
        return np.asarray(np.arange(self.n_frames) * self.frame_interval_s, dtype=np.float64)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MriSimulation:
        """From plain values, as a TOML file or /provenance/config has them: the inverse of `to_dict`.

        Raises:
            SimulationError: unknown key, with the nearest known one, or a value that does not fit.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in settings:
            if key not in known:
                raise unknown_name("simulation, key", key, known)
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain: dict[str, Any] = json.loads(json.dumps(values, default=_plain))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
