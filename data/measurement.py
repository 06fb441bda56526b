"""A measurement in memory: arrays with named axes, units and geometry. No file, no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """The coordinates along one axis.

    Args:
        values: 1-D; float64, or int32 for an index axis.
        units: SI, as in the file: "s", "Hz", "m", "1".
        long_name: words for a plot's axis; may be empty.
    """

    values: Array
    units: str
    long_name: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedArray:
    """An array that broadcasts against the data by axis names.

    Args:
        values: rank = len(axes).
        axes: names of the data's axes (or, in tomography's flats, of its own), in the data's order.
        units: SI.
    """

    values: Array
    axes: tuple[str, ...]
    units: str = "1"


@dataclass(frozen=True)
class GridSpec:
    """A suggested voxel grid, plain numbers; order z, y, x.

    Args:
        origin_m: centre of voxel (0, 0, 0), metres.
        spacing_m: distance of neighbouring voxel centres, metres.
        shape: number of voxels.
    """

    origin_m: tuple[float, float, float]
    spacing_m: tuple[float, float, float]
    shape: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """An image with named axes.

    Args:
        data: complex64 or float32, rank = len(axes).
        axes: ("z", "y", "x"), ("frame", "z", "y", "x"), or dictionary axes.
        scales: the coordinates, one per axis.
        units, quantity, long_name: what a voxel's value is, e.g. "1", "reflectivity".
    """

    data: Array
    axes: tuple[str, ...]
    scales: Mapping[str, Scale]
    units: str = "1"
    quantity: str = ""
    long_name: str = ""

    def scale(self, name: str) -> Array:
        """Coordinates along axis `name`, SI."""
        return self.scales[name].values

    def n(self, axis: str) -> int:
        """Length of `axis`."""
        return int(self.data.shape[self.axes.index(axis)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What one measurement file says, in SI units and the canonical axis order of its modality.

    Args:
        modality: "mimo_radar", "tomography", "mri" or "irs_mimo".
        data: complex64; float32 or uint16 for tomography; rank = len(axes).
        axes: e.g. ("frame", "tx", "rx", "frequency") or ("frame", "channel", "frequency").
        scales: the coordinates, one per axis.
        units, quantity, long_name: what a sample is, e.g. "1", "scattered_field".
        geometry: arrays and words of /geometry under their names: `tx_positions` float64 (n, 3) or
            (frame, n, 3), columns x, y, z in metres; `channel_tx`, `channel_rx` int32 (channel,);
            `frame`, `coordinates`, `downrange_axis`.
        acquisition: arrays, numbers and words of /acquisition: `propagation_speed` in m/s, `waveform`,
            `phase_convention`, `amplitude_model`, `calibrated`.
        calibration: what /calibration holds: `background` (array like the data), `mean_over` (an axis
            name), `gain` and `phase` (NamedArray), `range_offset` (metres), `dark`, `flat`, ...
        dictionary: /dictionary (irs_mimo): factors and their grids.
        applied_calibration: the steps that are already in `data`, in the order in which they were applied.
        mask: uint8, 1 = measured, with its `mask_axes`; see `broadcast`.
        noise_std: standard deviation of the noise per sample (complex: of the whole complex number, so
            E|n|² = noise_std²), in the data's units; a number, or an array with `noise_std_axes`.
        grid: suggested reconstruction grid.
        ground_truth: the simulated scene; `extra_truth` holds further named truths (IRS: coefficients).
        provenance: program, version, date, config, seed, ...
        attrs: root attributes: uuid, title, description, license, doi, creator, creator_version, file_time.
        warnings: sentences the reader has for the user.
    """

    modality: str
    data: Array
    axes: tuple[str, ...]
    scales: Mapping[str, Scale]
    units: str = "1"
    quantity: str = ""
    long_name: str = ""
    geometry: Mapping[str, Any] = field(default_factory=dict)
    acquisition: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    dictionary: Mapping[str, Any] = field(default_factory=dict)
    applied_calibration: tuple[str, ...] = ()
    mask: Array | None = None
    mask_axes: tuple[str, ...] = ()
    noise_std: Array | float | None = None
    noise_std_axes: tuple[str, ...] = ()
    grid: GridSpec | None = None
    ground_truth: Volume | None = None
    extra_truth: Mapping[str, NamedArray] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def scale(self, name: str) -> Array:
        """Coordinates along axis `name`, SI."""
        return self.scales[name].values

    def n(self, axis: str) -> int:
        """Length of `axis`."""
        return int(self.data.shape[self.axes.index(axis)])

    def broadcast(self, values: Array | float, axes: tuple[str, ...]) -> Array:
        """`values` over the named `axes`, reshaped so that it broadcasts against `data`."""
        return broadcast_by_name(np.asarray(values), axes, self.axes)


def broadcast_by_name(values: Array, axes: tuple[str, ...], target: tuple[str, ...]) -> Array:
    """Reshape `values` (rank = len(axes)) to rank len(target), length 1 where a target axis is not named.

    Raises:
        ValueError: an axis that is not among `target`, or a rank that is not len(axes).
    """
    strangers = [name for name in axes if name not in target]
    if strangers or values.ndim != len(axes) or len(set(axes)) != len(axes):
        raise ValueError(
            f"broadcast: expected one axis name of {', '.join(target)} per dimension, "
            f"got axes {', '.join(axes) or '(none)'} for shape {values.shape}"
        )
    order = sorted(range(len(axes)), key=lambda i: target.index(axes[i]))
    lengths = dict(zip(axes, values.shape, strict=True))
    return values.transpose(order).reshape(tuple(lengths.get(name, 1) for name in target))
