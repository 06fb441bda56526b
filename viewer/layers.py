"""A volume as napari layers, to scale and in millimetres: pure functions, without napari."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.measurement import Volume
from data.reconstruction import Reconstruction
from viewer.overview import VOXELS_3D, pyramid
from viewer.source import ABSOLUTE, ROLE, LayerData, gain_of

#: What is shown of a magnitude in dB lies between its peak and this many dB below.
RANGE_DB = 40.0
#: A phase is shown where the magnitude is above this share of its peak (-30 dB).
PHASE_FLOOR = 10 ** (-30 / 20)
#: Of magnitudes and values; others have magma.
COLORMAPS = {"attenuation": "gray", "magnetisation": "gray"}
#: File unit -> (the unit shown, its factor).
SHOWN_UNITS = {"m": ("mm", 1e3), "s": ("s", 1.0), "Hz": ("GHz", 1e-9), "rad": ("rad", 1.0), "1/m": ("1/m", 1.0)}
#: A frame's coordinates may be off an even spacing by this share of the step.
EVEN = 1e-3


def layers_of(result: Reconstruction, *, name: str = "", voxels_3d: int = VOXELS_3D) -> list[LayerData]:
    """napari layer data tuples ``(data, keywords, type)`` of a reconstruction.

    A complex image gives its magnitude, linear and (hidden) in dB, and its phase (hidden); a real one itself.

    Args:
        result: as `data.read_reconstruction` or `viewer.lazy.open_result` gives it.
        name: put before the layers' names, e.g. the file's stem.
        voxels_3d: larger volumes get a coarse level for 3D, see `viewer.overview`.

    Returns:
        "image" layers, float32, axes as in the volume ((frame,) z, y, x). `scale` is the voxel spacing and `translate`
        the first voxel's centre in `units` (millimetres, frames in seconds). Contrast goes from 0 (the least value
        where some are negative) to the largest, the phase from -π to π. `metadata` holds what the file says.

    Raises:
        ValueError: a space axis whose coordinates are not evenly spaced, which napari cannot show to scale.
    """
    volume = result.volume
    facts = {
        "status": result.status,
        "metrics": {key: np.asarray(metric.value).tolist() for key, metric in result.metrics.items()},
        "provenance": dict(result.provenance),
    }
    layers = volume_layers(volume, name=name, voxels_3d=voxels_3d, metadata=facts)
    if result.uncertainty is not None:
        data, limits = pyramid(result.uncertainty, volume.axes, voxels_3d=voxels_3d)
        layers.append(
            image(volume, data, f"{name} standard deviation", "uncertainty", limits, "viridis", visible=False)
        )
    return layers


def volume_layers(
    volume: Volume,
    *,
    name: str = "",
    voxels_3d: int = VOXELS_3D,
    visible: bool = True,
    metadata: dict[str, Any] | None = None,
    role: str = "magnitude",
) -> list[LayerData]:
    """Magnitude, magnitude in dB and phase of a complex volume, the values of a real one; as `layers_of`."""
    about = {"units": volume.units, "quantity": volume.quantity, **(metadata or {})}
    is_complex = np.iscomplexobj(volume.data)
    size = np.abs(volume.data).astype(np.float32) if is_complex else volume.data.astype(np.float32)
    data, limits = pyramid(size, volume.axes, voxels_3d=voxels_3d)
    word = "magnitude" if is_complex else volume.quantity or "value"
    word = word if role == "magnitude" else role
    colormap = COLORMAPS.get(volume.quantity, "magma")
    layers = [image(volume, data, f"{name} {word}", role, limits, colormap, visible=visible, metadata=about)]
    if not is_complex:
        return layers
    layers.append(decibel_layer(volume, data, limits[1], name=f"{name} {word}"))
    layers.append(phase_layer(volume, limits[1], name=name, voxels_3d=voxels_3d))
    return layers


def decibel_layer(volume: Volume, size: Any, peak: float, *, name: str) -> LayerData:
    """20 log10(magnitude / peak), from -RANGE_DB to 0; `size` as `pyramid` gives it."""
    floor = 10 ** (-RANGE_DB / 20)

    def level(values: Any) -> Any:
        return (20 * np.log10(np.maximum(values / np.float32(peak), np.float32(floor)))).astype(np.float32)

    data = [level(part) for part in size] if isinstance(size, list) else level(size)
    about = {"units": "dB", "reference": f"peak {peak:g} {volume.units}"}
    limits = (-RANGE_DB, 0.0)
    return image(volume, data, f"{name} (dB)", "decibels", limits, "magma", visible=False, metadata=about)


def phase_layer(volume: Volume, peak: float, *, name: str, voxels_3d: int = VOXELS_3D) -> LayerData:
    """The angle in rad on a cyclic map, NaN (transparent) where the magnitude is below PHASE_FLOOR of the peak."""
    values = volume.data
    angle = np.where(np.abs(values) >= PHASE_FLOOR * peak, np.arctan2(values.imag, values.real), np.float32(np.nan))
    data, _ = pyramid(angle.astype(np.float32), volume.axes, voxels_3d=voxels_3d, largest=False)
    limits = (-math.pi, math.pi)
    about = {"units": "rad", "masked": f"below {20 * math.log10(PHASE_FLOOR):.0f} dB of the peak"}
    layer = image(volume, data, f"{name} phase", "phase", limits, "twilight", visible=False, metadata=about)
    layer[1]["rendering"] = "translucent"
    return layer


def part_layers(volume: Volume, *, name: str = "", voxels_3d: int = VOXELS_3D) -> list[LayerData]:
    """Real and imaginary part, on the same limits, symmetric about 0.

    Raises:
        ValueError: a real volume.
    """
    if not np.iscomplexobj(volume.data):
        raise ValueError(f"{name}: expected a complex volume for real and imaginary part, found a real one")
    layers = []
    for word, part in (("real part", volume.data.real), ("imaginary part", volume.data.imag)):
        data, limits = pyramid(part.astype(np.float32), volume.axes, voxels_3d=voxels_3d, largest=False)
        layers.append((word, data, limits))
    top = max(abs(v) for _, _, limits in layers for v in limits)
    both = (-top, top)
    return [
        image(volume, data, f"{name} {word}", word, both, "RdBu", metadata={"units": volume.units})
        for word, data, _ in layers
    ]


def truth_layer(truth: Volume, *, name: str = "", voxels_3d: int = VOXELS_3D) -> LayerData:
    """The truth's magnitude or values (hidden); see `shared_limits`."""
    return volume_layers(truth, name=name, voxels_3d=voxels_3d, visible=False, role="truth")[0]


def shared_limits(estimate: Volume, truth: Volume) -> tuple[tuple[float, float], tuple[float, float]]:
    """Contrast limits of estimate and truth under which equal values look equal.

    Quantities with an absolute scale share one range; of others the estimate's range is the truth's over the gain that
    brings the two together best, since reflectivity has no unit. It ends at the estimate's own peak, where an estimate
    unlike the truth would be black.
    """
    low, high = limits_of(np.abs(truth.data) if np.iscomplexobj(truth.data) else truth.data)
    if truth.quantity not in ABSOLUTE and truth.data.shape == estimate.data.shape:
        gain = gain_of(np.asarray(estimate.data), truth.data)
        peak = limits_of(np.abs(np.asarray(estimate.data)))[1]
        return (low / gain, min(high / gain, peak)), (low, high)
    return (low, high), (low, high)


def error_layer(estimate: Volume, truth: Volume, *, name: str = "") -> LayerData:
    """Estimate minus truth (of magnitudes where they are complex), symmetric about 0.

    An estimate without an absolute scale is first multiplied with its least-squares gain, which the metadata names.

    Raises:
        ValueError: another grid than the truth's.
    """
    if estimate.data.shape[-3:] != truth.data.shape[-3:] or len(truth.axes) > len(estimate.axes):
        raise ValueError(
            f"{name}: expected the truth's {_times(truth.data.shape)} voxels for an error map, found "
            f"{_times(estimate.data.shape)}; reconstruct on that grid"
        )
    t = np.broadcast_to(truth.data, estimate.data.shape)
    e = np.asarray(estimate.data)
    gain = 1.0 if truth.quantity in ABSOLUTE else gain_of(e, t)
    complex_ones = np.iscomplexobj(e) or np.iscomplexobj(t)
    difference = (gain * np.abs(e) - np.abs(t) if complex_ones else gain * e - t).astype(np.float32)
    top = limits_of(np.abs(difference))[1]
    about = {"units": estimate.units, "gain": gain}
    return image(estimate, difference, f"{name} error", "error", (-top, top), "RdBu", metadata=about)


def image(
    volume: Volume,
    data: Any,
    name: str,
    role: str,
    limits: tuple[float, float],
    colormap: str,
    *,
    visible: bool = True,
    metadata: dict[str, Any] | None = None,
) -> LayerData:
    """One image layer on the grid of `volume`; a list of arrays is a pyramid."""
    several = isinstance(data, list)
    keywords: dict[str, Any] = {
        **coordinates(volume),
        "name": name.strip(),
        "colormap": colormap,
        "contrast_limits": limits,
        "blending": "translucent_no_depth",
        "rendering": "attenuated_mip" if colormap in ("magma", "gray") else "mip",
        "visible": visible,
        "multiscale": several,
        "metadata": {**(metadata or {}), ROLE: role},
    }
    if not isinstance(data[0] if several else data, np.ndarray):
        keywords["cache"] = False  # napari's own would take a tenth of the memory
    return data, keywords, "image"


def coordinates(volume: Volume) -> dict[str, Any]:
    """`scale`, `translate`, `units` and `axis_labels` of a volume's axes.

    An axis of one voxel is as thick as the finest of the others. Frames or directions that are not evenly spaced count
    1, 2, 3, ...

    Raises:
        ValueError: a space axis that is not evenly spaced.
    """
    scale, translate, units = [], [], []
    for axis in volume.axes:
        values = np.asarray(volume.scale(axis), dtype=float)
        unit, factor = SHOWN_UNITS.get(volume.scales[axis].units, ("dimensionless", 1.0))
        step = _spacing(values)
        if step is None:
            if axis in ("z", "y", "x"):
                raise ValueError(f"volume axis {axis}: expected evenly spaced, increasing coordinates, found others")
            values, unit, factor, step = np.arange(len(values), dtype=float), "dimensionless", 1.0, 1.0
        scale.append(step * factor)
        translate.append(float(values[0]) * factor)
        units.append(unit)
    for i, axis in enumerate(volume.axes):
        if len(volume.scale(axis)) == 1:
            near = [
                s
                for s, u, other in zip(scale, units, volume.axes, strict=True)
                if u == units[i] and len(volume.scale(other)) > 1
            ]
            scale[i] = min(near, default=1.0)
    return {
        "scale": tuple(scale),
        "translate": tuple(translate),
        "units": tuple(units),
        "axis_labels": volume.axes,
    }


def limits_of(values: NDArray[Any]) -> tuple[float, float]:
    """Contrast limits: 0, or the least value where some are negative, to the largest; never one value twice."""
    finite = values[np.isfinite(values)]
    low = float(min(0.0, finite.min())) if finite.size else 0.0
    high = float(finite.max()) if finite.size else 0.0
    return low, high if high > low else low + 1.0


def _spacing(values: NDArray[Any]) -> float | None:
    """The step of even, increasing coordinates; None for others."""
    if len(values) < 2:
        return 1.0
    step = float(values[-1] - values[0]) / (len(values) - 1)
    even = values[0] + step * np.arange(len(values))
    if step <= 0 or float(np.abs(values - even).max()) > EVEN * step:
        return None
    return step


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
