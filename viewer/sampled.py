"""What was measured, as napari layers: one view per modality, in counts of samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.measurement import Measurement
from viewer.layers import RANGE_DB, limits_of
from viewer.source import ROLE, LayerData

#: k-space is shown down to this many dB below its peak.
KSPACE_DB = 80.0
#: An image longer than so many times its width is drawn wider, by a whole number.
NARROW = 2
#: Points of a trajectory at most; of more every second, third, ... readout is shown.
MOST_POINTS = 60_000


def sample_layers(m: Measurement, *, name: str = "") -> list[LayerData]:
    """The measured data of a measurement of any modality.

    - mimo_radar: magnitude in dB and phase over (frame,) channel, frequency; a channel is a pair of antennas.
    - tomography: the sinogram (detector_row, projection, detector_column).
    - mri: k-space in dB over (slice or frame, coil, ... ky, kx), transparent where nothing was measured; along a
      trajectory the samples as points at their k, in cycles per field of view.
    - irs_mimo: received pilots in dB and phase over (frame, subcarrier,) pattern, receiver and pilot; the pilots and
      reflection patterns that were sent.

    Axes of length 1 in front are left out. Coordinates count samples, but along the short side of a strip, which is
    stretched (`scale`); the axis labels say what they stand for.
    """
    return _VIEWS[m.modality](m, name)


def _radar(m: Measurement, name: str) -> list[LayerData]:
    data = np.asarray(m.data)
    if "tx" in m.axes:
        n_frame, n_tx, n_rx, n_frequency = data.shape
        data = data.reshape(n_frame, n_tx * n_rx, n_frequency)
        channel = "channel (tx, rx)"
    else:
        channel = "channel"
    f = np.asarray(m.scale("frequency"), dtype=float) / 1e9
    labels = ("frame", channel, f"frequency ({f[0]:g} to {f[-1]:g} GHz)")
    if m.mask is not None:
        measured = np.broadcast_to(m.broadcast(m.mask, m.mask_axes), m.data.shape).reshape(data.shape) != 0
        data = np.where(measured, data, np.complex64(np.nan))
    return _complex(data, labels, name, RANGE_DB)


def _tomography(m: Measurement, name: str) -> list[LayerData]:
    data = np.moveaxis(np.asarray(m.data, dtype=np.float32), 1, 0)
    angle = np.degrees(np.asarray(m.acquisition["angle"], dtype=float)) if "angle" in m.acquisition else None
    over = "projection" if angle is None else f"projection ({angle.min():.4g} to {angle.max():.4g} deg)"
    about = {"units": m.units, "quantity": m.quantity}
    labels = ("detector row", over, "detector column")
    return [_layer(data, labels, f"{name} sinogram", "samples", limits_of(data), "gray", metadata=about)]


def _mri(m: Measurement, name: str) -> list[LayerData]:
    data = np.asarray(m.data)
    if "readout" in m.axes:
        return _trajectory(m, data, name)
    if m.mask is not None:
        measured = np.broadcast_to(m.broadcast(m.mask, m.mask_axes), data.shape) != 0
    else:
        measured = np.broadcast_to((data != 0).any(axis=m.axes.index("coil"), keepdims=True), data.shape)
    data = np.where(measured, data, np.complex64(np.nan))
    return _complex(data, m.axes, f"{name} k-space", KSPACE_DB)


def _trajectory(m: Measurement, data: NDArray[Any], name: str) -> list[LayerData]:
    """Frames and coils of non-Cartesian k-space: the first coil of the strongest signal as points, all as readouts."""
    layers = _complex(data, m.axes, f"{name} readouts", KSPACE_DB)
    for _, readouts, _ in layers:
        readouts["visible"] = False
    points = np.asarray(m.acquisition["trajectory"], dtype=float)
    order = tuple(m.acquisition.get("order", ("kz", "ky", "kx")[-points.shape[-1] :]))
    field = dict(zip(("kz", "ky", "kx"), np.asarray(m.geometry["field_of_view"], dtype=float), strict=True))
    strongest = int(np.argmax((np.abs(data) ** 2).sum(axis=(0, 2, 3))))
    size = np.abs(data[:, strongest])  # frame, readout, sample
    every = max(1, math.ceil(size.size / MOST_POINTS))
    moving = points.ndim == 4
    rows, levels = [], []
    for frame in range(size.shape[0]):
        k = points[frame] if moving else points
        where = k[::every].reshape(-1, len(order)) * [field[o] for o in order]
        rows.append(np.column_stack([np.full(len(where), frame), where]) if size.shape[0] > 1 else where)
        levels.append(size[frame, ::every].ravel())
    level = _decibels(np.concatenate(levels), KSPACE_DB)
    labels = tuple(f"{o} (cycles per field of view)" for o in order)
    keywords: dict[str, Any] = {
        "name": f"{name} k-space along the trajectory (dB)",
        "features": {"dB": level},
        "face_color": "dB",
        "face_colormap": "magma",
        "face_contrast_limits": (-KSPACE_DB, 0.0),
        "border_width": 0,
        "size": 0.7,
        "axis_labels": ("frame", *labels) if size.shape[0] > 1 else labels,
        "units": ("dimensionless",) * rows[0].shape[1],
        "metadata": {ROLE: "samples", "coil": strongest, "shown": f"every {every}. readout"},
    }
    return [(np.concatenate(rows), keywords, "points"), *layers]


def _pilots(m: Measurement, name: str) -> list[LayerData]:
    data = np.asarray(m.data)
    data = data.reshape(*data.shape[:3], -1)
    labels = ("frame", "subcarrier", "reflection pattern", f"receiver and pilot ({m.n('rx')} x {m.n('pilot')})")
    layers = _complex(data, labels, f"{name} received pilots", RANGE_DB)
    for key, axes, word in (
        ("pilots", ("transmitter", "pilot"), "pilots sent, phase"),
        ("irs_reflection", ("reflection pattern", "surface element"), "reflection patterns, phase"),
    ):
        if m.acquisition.get(key) is not None:
            sent = np.angle(np.asarray(m.acquisition[key])).astype(np.float32)
            around = (-math.pi, math.pi)
            layers.append(_layer(sent, axes, f"{name} {word}", key, around, "twilight", visible=False))
    return layers


def _complex(data: NDArray[Any], labels: tuple[str, ...], name: str, range_db: float) -> list[LayerData]:
    """Magnitude in dB below the largest, and phase (hidden)."""
    about = {"units": "dB"}
    level = _decibels(np.abs(data), range_db)
    angle = np.angle(data).astype(np.float32)
    around = (-math.pi, math.pi)
    limits = (-range_db, 0.0)
    return [
        _layer(level, labels, f"{name} magnitude (dB)", "samples", limits, "magma", metadata=about),
        _layer(
            angle,
            labels,
            f"{name} phase",
            "samples phase",
            around,
            "twilight",
            visible=False,
            metadata={"units": "rad"},
        ),
    ]


def _decibels(size: NDArray[Any], range_db: float) -> NDArray[np.float32]:
    """20 log10 below the largest, not below -range_db; NaN stays."""
    top = float(np.nanmax(size)) if np.isfinite(size).any() else 0.0
    floor = 10 ** (-range_db / 20)
    return (20 * np.log10(np.maximum(size / (top if top > 0 else 1.0), floor))).astype(np.float32)


def _layer(
    data: NDArray[Any],
    labels: tuple[str, ...],
    name: str,
    role: str,
    limits: tuple[float, float],
    colormap: str,
    *,
    visible: bool = True,
    metadata: dict[str, Any] | None = None,
) -> LayerData:
    kept = [i for i, n in enumerate(data.shape) if n > 1 or i >= data.ndim - 2]
    rows, columns = data.shape[-2:]
    stretch = (max(1, columns // (NARROW * rows)), max(1, rows // (NARROW * columns)))
    keywords: dict[str, Any] = {
        "name": name.strip(),
        "axis_labels": tuple(labels[i] for i in kept),
        "units": ("dimensionless",) * len(kept),
        "scale": (1.0,) * (len(kept) - 2) + tuple(map(float, stretch)),
        "colormap": colormap,
        "contrast_limits": limits,
        "visible": visible,
        "metadata": {**(metadata or {}), ROLE: role},
    }
    return data.reshape([data.shape[i] for i in kept]), keywords, "image"


_VIEWS: dict[str, Callable[[Measurement, str], list[LayerData]]] = {
    "mimo_radar": _radar,
    "tomography": _tomography,
    "mri": _mri,
    "irs_mimo": _pilots,
}
