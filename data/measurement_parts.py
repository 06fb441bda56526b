"""What the inspection of a measurement file has gathered so far; the data themselves may still be on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data.measurement import Array, GridSpec, Measurement, NamedArray, Scale, Volume
from data.schema import Modality
from data.stored import Stored


@dataclass
class Layout:
    """How the axes of the file lie in the canonical order.

    Args:
        axes: canonical names.
        file_axes: the names in the file's order.
    """

    axes: tuple[str, ...]
    file_axes: tuple[str, ...]

    def arrange(self, array: Array) -> Array:
        """From the file's order to the canonical one; an axis that the file left out gets length 1."""
        order = [self.file_axes.index(name) for name in self.axes if name in self.file_axes]
        moved = array.transpose(order)
        index = tuple(slice(None) if name in self.file_axes else None for name in self.axes)
        return moved[index]

    def shape(self, file_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The canonical shape of an array of the file."""
        lengths = dict(zip(self.file_axes, file_shape, strict=True))
        return tuple(lengths.get(name, 1) for name in self.axes)


@dataclass
class MeasurementParts:
    """Filled piece by piece; `measurement()` makes a Measurement of it once the data are there."""

    modality: Modality | None = None
    format_version: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)
    stored: Stored | None = None
    layout: Layout | None = None
    shape: tuple[int, ...] | None = None
    data: Array | None = None
    units: str = "1"
    data_factor_units: str = "1"
    quantity: str = ""
    long_name: str = ""
    scales: dict[str, Scale] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    geometry: dict[str, Any] = field(default_factory=dict)
    acquisition: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    dictionary: dict[str, Any] = field(default_factory=dict)
    applied: tuple[str, ...] = ()
    calibration_names: tuple[str, ...] = ()
    mask: NamedArray | None = None
    noise_std: NamedArray | None = None
    grid: GridSpec | None = None
    ground_truth: Volume | None = None
    ground_truth_shape: tuple[int, ...] | None = None
    ground_truth_scales: dict[str, Scale] = field(default_factory=dict)
    extra_truth: dict[str, NamedArray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def measurement(self, warnings: tuple[str, ...]) -> Measurement:
        """The Measurement; only after an inspection without errors that read the samples."""
        assert self.modality is not None
        assert self.layout is not None
        assert self.data is not None
        noise: Array | float | None = None
        if self.noise_std is not None:
            noise = self.noise_std.values if self.noise_std.axes else float(self.noise_std.values)
        return Measurement(
            modality=self.modality.name,
            data=self.data,
            axes=self.layout.axes,
            scales=self.scales,
            units=self.units,
            quantity=self.quantity,
            long_name=self.long_name,
            geometry=self.geometry,
            acquisition=self.acquisition,
            calibration=self.calibration,
            dictionary=self.dictionary,
            applied_calibration=self.applied,
            mask=None if self.mask is None else self.mask.values,
            mask_axes=() if self.mask is None else self.mask.axes,
            noise_std=noise,
            noise_std_axes=() if self.noise_std is None else self.noise_std.axes,
            grid=self.grid,
            ground_truth=self.ground_truth,
            extra_truth=self.extra_truth,
            provenance=self.provenance,
            attrs=self.attrs,
            warnings=warnings,
        )
