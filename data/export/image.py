"""What every export starts from: an image on a regular grid, and which part of its complex values goes out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import DataFormatError
from data.measurement import Array, Scale, Volume
from data.reconstruction import Reconstruction

PARTS = ("complex", "magnitude", "phase", "real", "imag")
#: Voxels are evenly spaced when no step differs from their mean by more.
_EVEN = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One image, or a movie, with even steps.

    Args:
        values: complex64 or float32, (z, y, x) or (frame, z, y, x).
        origin_m, spacing_m: z, y, x: centre of the first voxel, distance of neighbouring ones.
        times_s: of the frames; None for one image.
        units, quantity: of a voxel.
        title: of the file.
        notes: sentences on what had to be assumed.
    """

    values: Array
    origin_m: tuple[float, float, float]
    spacing_m: tuple[float, float, float]
    times_s: Array | None
    units: str
    quantity: str
    title: str
    notes: tuple[str, ...] = ()

    @property
    def interval_s(self) -> float:
        """Between frames, their mean; 1 where there is one."""
        return float(np.diff(self.times_s).mean()) if self.times_s is not None and len(self.times_s) > 1 else 1.0


def chosen(result: Reconstruction, part: str | None, frame: int | None) -> Reconstruction:
    """A result with one frame, or one part of its complex values.

    Raises:
        DataFormatError: a part or frame that is not there.
    """
    if part is not None and part not in PARTS:
        raise DataFormatError(f"--part: expected one of {', '.join(PARTS)}, got {part!r}")
    volume = result.volume
    uncertainty = result.uncertainty
    if frame is not None:
        n = volume.n("frame") if "frame" in volume.axes else 1
        if not 0 <= frame < n:
            raise DataFormatError(f"--frame {frame}: expected 0 to {n - 1}, the frames of the result")
        if "frame" in volume.axes:
            i = volume.axes.index("frame")
            scales = {name: s for name, s in volume.scales.items() if name != "frame"}
            uncertainty = None if uncertainty is None else uncertainty.take(frame, axis=i)
            axes = tuple(name for name in volume.axes if name != "frame")
            volume = dataclasses.replace(volume, data=volume.data.take(frame, axis=i), axes=axes, scales=scales)
    if part not in (None, "complex"):
        volume = _part(volume, str(part))
    elif part == "complex" and not np.iscomplexobj(volume.data):
        raise DataFormatError("--part complex: expected a complex volume, found a real one; leave it out")
    return dataclasses.replace(result, volume=volume, uncertainty=uncertainty)


def _part(volume: Volume, part: str) -> Volume:
    take: Any = {"magnitude": np.abs, "phase": np.angle, "real": np.real, "imag": np.imag}[part]
    units = "rad" if part == "phase" else volume.units
    return dataclasses.replace(volume, data=np.asarray(take(volume.data), np.float32), units=units)


def image_of(result: Reconstruction, title: str, what: str) -> Image:
    """A result's volume on its grid.

    Raises:
        DataFormatError: axes that are no space, or uneven steps; `what` names the format.
    """
    volume = result.volume
    if volume.axes not in (("z", "y", "x"), ("frame", "z", "y", "x")):
        raise DataFormatError(
            f"{title}: /volume: expected axes z, y, x for {what}, found {', '.join(volume.axes)}; export to .mat"
        )
    steps = {name: _step(volume.scales[name], name, title, what) for name in ("z", "y", "x")}
    known = [step for step in steps.values() if step is not None]
    notes = []
    for name, step in steps.items():
        if step is None:
            steps[name] = min(known) if known else 1e-3
            notes.append(
                f"{title}: one voxel along {name}, whose size the result does not tell; {steps[name]:g} m is written"
            )
    origin = tuple(float(volume.scale(name)[0]) for name in ("z", "y", "x"))
    return Image(
        values=np.ascontiguousarray(volume.data),
        origin_m=(origin[0], origin[1], origin[2]),
        spacing_m=(float(steps["z"] or 0), float(steps["y"] or 0), float(steps["x"] or 0)),
        times_s=volume.scale("frame") if volume.axes[0] == "frame" else None,
        units=volume.units,
        quantity=volume.quantity,
        title=title,
        notes=tuple(notes),
    )


def _step(scale: Scale, name: str, title: str, what: str) -> float | None:
    """The distance of voxel centres along an axis; None of a single one."""
    if len(scale.values) < 2:
        return None
    steps = np.diff(scale.values)
    mean = float(scale.values[-1] - scale.values[0]) / len(steps)
    if np.abs(steps - mean).max() > _EVEN * abs(mean):
        raise DataFormatError(
            f"{title}: /volume/{name}: expected evenly spaced voxels for {what}, found steps from {steps.min():g} to "
            f"{steps.max():g} m; export to .mat"
        )
    return mean
