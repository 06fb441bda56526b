"""The settings of a simulated tomography scan, checked before anything is computed."""

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
from data.phantoms.shepp_logan import shepp_logan
from data.phantoms.slices import discs, ellipses, polygons
from data.phantoms.volume_slices import volume_slices
from data.phantoms.walnut import walnut
from data.simulate.motions import MOTIONS
from data.simulate.views import VIEW_ORDERS, view_angles
from imaging.operators import Grid

#: Objects by name: functions (shape, ..., generator) -> float32 (nz, n, n), peak 1.
OBJECTS: Mapping[str, Callable[..., NDArray[np.float32]]] = {
    "walnut": walnut,
    "shepp_logan": shepp_logan,
    "discs": discs,
    "ellipses": ellipses,
    "polygons": polygons,
    "volume": volume_slices,
}
GEOMETRIES = ("parallel", "fan")
NOISES = ("gaussian", "poisson", "none")
#: The view order of angles that are given one by one.
GIVEN = "given"


@dataclass(frozen=True, kw_only=True)
class TomographySimulation:
    """What is simulated. The defaults are the time-sequential scan of RP 1.1 with P = 128 of a walnut of our own.

    Args:
        object: walnut, shepp_logan, discs, ellipses, polygons or volume (a file), see `data.phantoms`.
        object_parameters: keyword arguments of that object; the text "none" stands for none.
        motion: none, piecewise_affine (RP 7.1), rigid, breathing, growth, compression or flow, see
            `data.simulate.motions`.
        motion_parameters: keyword arguments of that motion.
        n: pixels along each side of a square slice.
        n_slices: slices, one detector row each.
        pixel_m: side of a cubic voxel, metres.
        attenuation_per_m: largest attenuation coefficient of the object at rest, 1/m; 136 is 0.068 per pixel (RP 7.4).
        oversampling: object and rays are computed on pixels so many times finer than those of the truth, whose
            values are means of them; 1 makes data by the very model that reconstructions invert.
        geometry: parallel, or fan (flat detector, one fan per slice).
        source_to_origin_m, origin_to_detector_m: of the fan, metres.
        detector_columns: fewer than the object needs cut projections off; none: n for parallel beams (RP 1.1), for
            fans as many as see the circle in the slice.
        detector_pitch_m: distance of detector columns; none: a pixel, for fans magnified.
        axis_offset_m: detector coordinate of the rotation axis (fan: of the central ray's foot), metres.
        axis_known: whether the file says so; false leaves it to be found.
        n_instants: P, moments at which the object is seen, which are the frames of the truth; it rests during each.
        views_per_instant: projections of each moment.
        instant_interval_s: time between moments, seconds.
        view_order: bit_reversed, golden_angle, linear, interleaved or random, see `data.simulate.view_angles`; given
            takes `angles_rad`.
        angles_rad: all n_instants · views_per_instant angles in the order of measurement, for view_order given.
        view_period: views after which the angles repeat; none: not at all.
        angular_range_deg: 180, 360, or less for a limited angle; none: 180 for parallel beams, 360 for fans.
        noise: gaussian (line integrals), poisson (counts, with flat and dark fields) or none (line integrals).
        noise_fraction: standard deviation of the Gaussian noise over the largest noise-free line integral of every
            frame seen at every angle of the scan, P · n_views views, not just those measured (RP 1.1).
        photons: mean count per bin without object, for poisson.
        dark_counts: mean count per bin without photons, for poisson.
        n_flats: flat fields, and dark fields, in the file, each with noise of its own, for poisson.
        seed: of everything random; file `index` of a series has its own streams for object, angles and noise.

    Raises:
        SimulationError: for everything that cannot be simulated, at construction.
    """

    object: str = "walnut"
    object_parameters: Mapping[str, Any] = field(default_factory=dict)
    motion: str = "piecewise_affine"
    motion_parameters: Mapping[str, Any] = field(default_factory=dict)
    n: int = 128
    n_slices: int = 1
    pixel_m: float = 0.5e-3
    attenuation_per_m: float = 136.0
    oversampling: int = 1
    geometry: str = "parallel"
    source_to_origin_m: float = 0.25
    origin_to_detector_m: float = 0.25
    detector_columns: int | None = None
    detector_pitch_m: float | None = None
    axis_offset_m: float = 0.0
    axis_known: bool = True
    n_instants: int = 128
    views_per_instant: int = 1
    instant_interval_s: float = 1.0
    view_order: str = "bit_reversed"
    angles_rad: tuple[float, ...] | None = None
    view_period: int | None = None
    angular_range_deg: float | None = None
    noise: str = "gaussian"
    noise_fraction: float = 0.005
    photons: float = 1e4
    dark_counts: float = 0.0
    n_flats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pixel_m", "attenuation_per_m", "instant_interval_s", "source_to_origin_m", "photons"):
            self._number(name, above=0.0)
        for name in ("origin_to_detector_m", "noise_fraction", "dark_counts"):
            self._number(name, least=0.0)
        self._number("axis_offset_m")
        for name, least in (
            ("n", 2),
            ("n_slices", 1),
            ("oversampling", 1),
            ("n_instants", 1),
            ("views_per_instant", 1),
            ("n_flats", 1),
            ("seed", 0),
        ):
            self._whole(name, least)
        if self.detector_columns is not None:
            self._whole("detector_columns", 2)
        if self.view_period is not None:
            self._whole("view_period", 1)
        if self.detector_pitch_m is not None:
            self._number("detector_pitch_m", above=0.0)
        if self.angular_range_deg is not None:
            self._number("angular_range_deg", above=0.0)
            if self.angular_range_deg > 360:
                raise SimulationError(
                    f"simulation angular_range_deg: expected at most 360, got {self.angular_range_deg:g}"
                )
        if not isinstance(self.axis_known, bool):
            raise SimulationError(f"simulation axis_known: expected true or false, got {self.axis_known!r}")
        for name, known in (
            ("object", tuple(OBJECTS)),
            ("motion", tuple(MOTIONS)),
            ("geometry", GEOMETRIES),
            ("noise", NOISES),
            ("view_order", (*VIEW_ORDERS, GIVEN)),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(f"simulation {name}", getattr(self, name), known)
        self._parameters("object", OBJECTS[self.object], ("shape", "generator"))
        self._parameters("motion", MOTIONS[self.motion], ("volume", "time"))
        self._check_fan()
        self._check_angles()

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

    def _check_fan(self) -> None:
        corner = self.n * self.pixel_m / math.sqrt(2)
        if self.geometry == "fan" and not self.source_to_origin_m > corner:
            raise SimulationError(
                f"simulation source_to_origin_m: expected a source outside the slices, beyond {corner:g} m, got "
                f"{self.source_to_origin_m:g}"
            )

    def _check_angles(self) -> None:
        if self.view_order != GIVEN:
            if self.angles_rad is not None:
                raise SimulationError("simulation angles_rad: expected none unless view_order is given, got angles")
            self.view_angles()
            return
        if self.view_period is not None or self.angular_range_deg is not None:
            raise SimulationError("simulation view_order given: expected no view_period and no angular_range_deg")
        angles = self.angles_rad
        if not isinstance(angles, Sequence) or len(angles) != self.n_views:
            found = "none" if angles is None else len(angles) if isinstance(angles, Sequence) else repr(angles)
            raise SimulationError(
                f"simulation angles_rad: expected n_instants x views_per_instant = {self.n_views} angles, got {found}"
            )
        for angle in angles:
            if isinstance(angle, bool) or not isinstance(angle, int | float) or not math.isfinite(angle):
                raise SimulationError(f"simulation angles_rad: expected finite numbers, got {angle!r}")
        object.__setattr__(self, "angles_rad", tuple(float(a) for a in angles))

    # -- what follows from the settings ---------------------------------------------------------------------

    @property
    def n_views(self) -> int:
        """Projections in the file."""
        return self.n_instants * self.views_per_instant

    @property
    def grid(self) -> Grid:
        """The voxels of the truth: (n_slices, n, n), centred on the rotation axis."""
        return _centred((self.n_slices, self.n, self.n), (self.pixel_m,) * 3)

    @property
    def fine_grid(self) -> Grid:
        """The voxels that object and rays are computed on."""
        fine, n = self.pixel_m / self.oversampling, self.n * self.oversampling
        return _centred((self.n_slices, n, n), (self.pixel_m, fine, fine))

    @property
    def columns_m(self) -> NDArray[np.float64]:
        """Centres of the detector columns, metres from the detector's middle: float64 (columns,)."""
        enlarged = 1.0
        if self.geometry == "fan":
            enlarged = (self.source_to_origin_m + self.origin_to_detector_m) / self.source_to_origin_m
        pitch = self.pixel_m * enlarged if self.detector_pitch_m is None else self.detector_pitch_m
        count = self.detector_columns
        if count is None and self.geometry == "parallel":
            count = self.n
        elif count is None:
            reach = self.n * self.pixel_m / 2
            edge = enlarged * reach / math.sqrt(1 - (reach / self.source_to_origin_m) ** 2)
            count = 2 * math.ceil((edge + abs(self.axis_offset_m)) / pitch)
        return np.asarray((np.arange(count) - (count - 1) / 2) * pitch, dtype=np.float64)

    @property
    def frame_index(self) -> NDArray[np.int32]:
        """The moment of each view: int32 (n_views,)."""
        return np.repeat(np.arange(self.n_instants, dtype=np.int32), self.views_per_instant)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Of the moments, seconds: float64 (n_instants,)."""
        return np.asarray(np.arange(self.n_instants) * self.instant_interval_s, dtype=np.float64)

    def view_angles(self, generator: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Of all views in the order of measurement, radians: float64 (n_views,); `generator` serves random ones."""
        if self.angles_rad is not None:
            return np.array(self.angles_rad)
        degrees = self.angular_range_deg
        if degrees is None:
            degrees = 180.0 if self.geometry == "parallel" else 360.0
        return view_angles(
            self.view_order,
            self.n_instants,
            self.views_per_instant,
            range_rad=math.radians(degrees),
            period=self.view_period,
            generator=generator,
        )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TomographySimulation:
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


def _centred(shape: tuple[int, int, int], spacing_m: tuple[float, float, float]) -> Grid:
    z, y, x = (-(n - 1) / 2 * d for n, d in zip(shape, spacing_m, strict=True))
    return Grid((z, y, x), spacing_m, shape)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
