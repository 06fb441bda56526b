"""What a foreign file may leave open."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.errors import DataFormatError

#: Names that --axes takes: those of the layouts of MRI.
MRI_AXES = ("frame", "slice", "coil", "kz", "ky", "kx", "readout", "sample")

#: Units of a trajectory, as factors to cycles per pixel; those of None need the pixel's size.
TRAJECTORY_UNITS: Mapping[str, float | None] = {
    "1/m": None,
    "cycles/pixel": 1.0,
    "rad/pixel": 1 / (2 * math.pi),
    "cycles/fov": None,
}
_SENSES = ("ccw", "cw")
_ANGLE_UNITS = ("deg", "rad")
_QUANTITIES = ("counts", "transmission", "line_integral")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a foreign file may leave open; an option that a format has no use for is not looked at.

    Args:
        key: variable with the samples (MATLAB), group (ISMRMRD) or entry (NXtomo).
        axes: names of its dimensions, in the order in which the program that wrote it counts them (MATLAB: the first
            index first).
        field_of_view_m: z, y, x, metres.
        matrix: voxels z, y, x of the image; needed for trajectories, else as many as samples.
        trajectory: file or variable with the trajectory.
        trajectory_unit: a name of `TRAJECTORY_UNITS`.
        maps, mask: file or variable with coil sensitivities, and with 1 where samples were measured.
        fft_centered: whether the zero frequency is in the middle; needed where the format does not say.
        fft_sign: of the exponent from image to k-space, -1 or 1; needed where the format does not say.
        frame_interval_s: time between frames.
        pixel_size_m: of the detector, row and column, metres; wins over the file's.
        center: column of the rotation axis, pixels, 0 for the centre of the first column; wins over the file's.
        angle_unit: "deg" or "rad", where the file has none.
        sense: "ccw" or "cw" about +z; None takes ccw, and says so.
        quantity: of projections without flat fields: "counts", "transmission" or "line_integral".
        source_to_origin_m, origin_to_detector_m: of a divergent beam; without them it is parallel.
        mapping: tables of a mapping file, where MATLAB and NumPy variables are; see `data.convert.mapping`.
        allow_links: follow external links and virtual datasets of HDF5 files.
    """

    key: str | None = None
    axes: tuple[str, ...] | None = None
    field_of_view_m: tuple[float, float, float] | None = None
    matrix: tuple[int, int, int] | None = None
    trajectory: str | None = None
    trajectory_unit: str | None = None
    maps: str | None = None
    mask: str | None = None
    fft_centered: bool | None = None
    fft_sign: int | None = None
    frame_interval_s: float = 1.0
    pixel_size_m: tuple[float, float] | None = None
    center: float | None = None
    angle_unit: str | None = None
    sense: str | None = None
    quantity: str | None = None
    source_to_origin_m: float | None = None
    origin_to_detector_m: float | None = None
    mapping: Mapping[str, Any] | None = None
    allow_links: bool = False

    def __post_init__(self) -> None:
        self._one_of("trajectory_unit", tuple(TRAJECTORY_UNITS))
        self._one_of("sense", _SENSES)
        self._one_of("angle_unit", _ANGLE_UNITS)
        self._one_of("quantity", _QUANTITIES)
        if self.fft_sign not in (None, -1, 1):
            raise DataFormatError(f"--fft-sign: expected -1 or 1, got {self.fft_sign!r}")
        for name in self.axes or ():
            if name not in MRI_AXES:
                raise DataFormatError(f"--axes: expected names of {', '.join(MRI_AXES)}, got {name!r}")
        for option, values, words in (
            ("field-of-view", self.field_of_view_m, "three numbers > 0 (z, y, x)"),
            ("matrix", self.matrix, "three numbers > 0 (z, y, x)"),
            ("pixel-size", self.pixel_size_m, "two numbers > 0 (row, column)"),
        ):
            if values is not None and not all(math.isfinite(v) and v > 0 for v in values):
                raise DataFormatError(f"--{option}: expected {words}, got {values}")
        if not (math.isfinite(self.frame_interval_s) and self.frame_interval_s > 0):
            raise DataFormatError(f"--frame-interval: expected seconds > 0, got {self.frame_interval_s!r}")
        if self.center is not None and not math.isfinite(self.center):
            raise DataFormatError(f"--center: expected a column number, got {self.center!r}")
        distances = [d for d in (self.source_to_origin_m, self.origin_to_detector_m) if d is not None]
        if len(distances) == 1:
            raise DataFormatError("--source-to-origin, --origin-to-detector: expected both or neither, got one")
        if not all(math.isfinite(d) and d > 0 for d in distances):
            raise DataFormatError(f"--source-to-origin, --origin-to-detector: expected metres > 0, got {distances}")

    def _one_of(self, name: str, known: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value is not None and value not in known:
            option = name.replace("_", "-")
            raise DataFormatError(f"--{option}: expected one of {', '.join(known)}, got {value!r}")


#: Options under their names in a mapping file: as on the command line, with _ for -.
OPTION_NAMES: Mapping[str, str] = {
    field.name.removesuffix("_m").removesuffix("_s"): field.name
    for field in dataclasses.fields(ConvertOptions)
    if field.name != "mapping"
}
