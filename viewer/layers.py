"""A reconstruction as napari layers: one pure function, without napari."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.reconstruction import Reconstruction

LayerData = tuple[NDArray[Any], dict[str, Any], str]


def layers_of(result: Reconstruction, *, name: str = "") -> list[LayerData]:
    """napari layer data tuples ``(data, keywords, type)`` of a reconstruction.

    A complex image gives two layers, its magnitude and, hidden, its phase; a real one gives one.

    Args:
        result: as `data.read_reconstruction` gives it.
        name: put before the layers' names, e.g. the file's stem.

    Returns:
        "image" layers, float32, axes as in the volume ((frame,) z, y, x). `scale` is the voxel spacing and
        `translate` the first voxel's centre, in `units` (metres, frames in seconds); the magnitude's contrast goes
        from 0 to its largest value, the phase from -π to π rad. The magnitude's `metadata` holds units, quantity,
        status, metrics and provenance.

    Raises:
        ValueError: an axis whose coordinates are not evenly spaced, which napari cannot show to scale.
    """
    volume = result.volume
    spacing = [_spacing(axis, np.asarray(volume.scale(axis), dtype=float)) for axis in volume.axes]
    common: dict[str, Any] = {
        "scale": tuple(spacing),
        "translate": tuple(float(volume.scale(axis)[0]) for axis in volume.axes),
        "axis_labels": volume.axes,
        "units": tuple(volume.scales[axis].units for axis in volume.axes),
    }
    prefix = f"{name} " if name else ""
    size = np.abs(volume.data).astype(np.float32) if np.iscomplexobj(volume.data) else volume.data.astype(np.float32)
    finite = size[np.isfinite(size)]
    low = float(min(0.0, finite.min())) if finite.size else 0.0
    high = float(finite.max()) if finite.size else 0.0
    metadata = {
        "units": volume.units,
        "quantity": volume.quantity,
        "status": result.status,
        "metrics": {key: np.asarray(metric.value).tolist() for key, metric in result.metrics.items()},
        "provenance": dict(result.provenance),
    }
    shown = {
        **common,
        "name": f"{prefix}{'magnitude' if np.iscomplexobj(volume.data) else volume.quantity or 'value'}",
        "colormap": "magma",
        "contrast_limits": (low, high if high > low else low + 1.0),
        "blending": "additive",
        "metadata": metadata,
    }
    layers: list[LayerData] = [(size, shown, "image")]
    if np.iscomplexobj(volume.data):
        phase = {
            **common,
            "name": f"{prefix}phase",
            "colormap": "twilight",
            "contrast_limits": (-np.pi, np.pi),
            "visible": False,
            "metadata": {"units": "rad"},
        }
        layers.append((np.angle(volume.data).astype(np.float32), phase, "image"))
    return layers


def _spacing(axis: str, values: NDArray[Any]) -> float:
    if len(values) < 2:
        return 1.0
    step = float(values[-1] - values[0]) / (len(values) - 1)
    even = values[0] + step * np.arange(len(values))
    if step <= 0 or float(np.abs(values - even).max()) > 1e-3 * step:
        raise ValueError(f"volume axis {axis}: expected evenly spaced, increasing coordinates, found others")
    return step
