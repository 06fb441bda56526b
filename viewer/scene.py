"""Antennas and the voxel box of a measurement as napari layers, in the millimetres of its volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.measurement import GridSpec, Measurement, Volume
from viewer.source import ROLE, LayerData

MM = 1e3
COLORS = {"tx": "#ff8c42", "rx": "#4ecdc4", "irs": "#c792ea"}
WORDS = {"tx": "transmitters", "rx": "receivers", "irs": "surface elements"}
SYMBOLS = {"tx": "cross", "rx": "disc", "irs": "square"}


def scene_layers(m: Measurement, grid: Volume | None = None, *, name: str = "") -> list[LayerData]:
    """Antennas as points and the box of voxels as shapes; nothing for what the file does not say.

    Args:
        m: of any modality.
        grid: the volume whose box is drawn; None takes the measurement's /grid, else its truth.
        name: put before the layers' names.

    Returns:
        "points" (n, 3) in z, y, x, or (frame · n, 4) in seconds and millimetres for antennas that move; "shapes".
    """
    layers = [
        _points(m, kind, np.asarray(m.geometry[f"{kind}_positions"], dtype=float), name)
        for kind in ("tx", "rx", "irs")
        if m.geometry.get(f"{kind}_positions") is not None
    ]
    edges = _edges(grid) if grid is not None else _edges_of(m)
    if edges is not None:
        layers.append(box_layer(edges, name=name))
    return layers


def box_layer(edges_m: Mapping[str, tuple[float, float]], *, name: str = "") -> LayerData:
    """The six outer faces of a voxel grid.

    Args:
        edges_m: outer faces of the first and the last voxel by axis, metres.
        name: put before the layer's name.
    """
    low, high = ([edges_m[axis][i] * MM for axis in ("z", "y", "x")] for i in (0, 1))
    faces = []
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        for side in (low[axis], high[axis]):
            corners = np.empty((4, 3))
            corners[:, axis] = side
            corners[:, others[0]] = [low[others[0]], low[others[0]], high[others[0]], high[others[0]]]
            corners[:, others[1]] = [low[others[1]], high[others[1]], high[others[1]], low[others[1]]]
            faces.append(corners)
    width = 0.004 * max(h - l for l, h in zip(low, high, strict=True))
    keywords: dict[str, Any] = {
        "name": f"{name} box".strip(),
        "shape_type": "polygon",
        "edge_color": "#8899aa",
        "face_color": "transparent",
        "edge_width": width,
        "opacity": 0.7,
        "units": ("mm",) * 3,
        "axis_labels": ("z", "y", "x"),
        "metadata": {ROLE: "box"},
    }
    return faces, keywords, "shapes"


def _points(m: Measurement, kind: str, positions: NDArray[Any], name: str) -> LayerData:
    units: tuple[str, ...] = ("mm",) * 3
    labels: tuple[str, ...] = ("z", "y", "x")
    size = _size(positions)
    if positions.ndim == 3:  # the array moves
        frames, n = positions.shape[:2]
        times = np.repeat(np.asarray(m.scale("frame"), dtype=float), n)
        points = np.column_stack([times, positions[..., ::-1].reshape(frames * n, 3) * MM])
        units, labels = ("s", *units), ("frame", *labels)
    else:
        points = positions[:, ::-1] * MM
    keywords: dict[str, Any] = {
        "name": f"{name} {WORDS[kind]}".strip(),
        "face_color": COLORS[kind],
        "border_color": "white",
        "border_width": 0.05,
        "symbol": SYMBOLS[kind],
        "size": size,
        "units": units,
        "axis_labels": labels,
        "metadata": {ROLE: kind},
    }
    return points, keywords, "points"


def _size(positions: NDArray[Any]) -> float:
    """Of a marker: three quarters of the typical distance of neighbours, between 1 and 20 mm."""
    flat = positions.reshape(-1, 3)
    if len(flat) < 2:
        return 10.0
    extent = float(np.linalg.norm(flat.max(axis=0) - flat.min(axis=0))) * MM
    return float(np.clip(0.75 * extent / max(len(flat) - 1, 1), 1.0, 20.0)) if extent else 10.0


def _edges(volume: Volume) -> dict[str, tuple[float, float]] | None:
    if volume.axes[-3:] != ("z", "y", "x"):
        return None
    found = {}
    finest = min((_step(volume.scale(a)) for a in ("z", "y", "x") if volume.n(a) > 1), default=1e-3)
    for axis in ("z", "y", "x"):
        values = np.asarray(volume.scale(axis), dtype=float)
        half = (_step(values) if len(values) > 1 else finest) / 2
        found[axis] = (float(values[0] - half), float(values[-1] + half))
    return found


def _step(values: NDArray[Any]) -> float:
    return float(values[-1] - values[0]) / (len(values) - 1)


def _edges_of(m: Measurement) -> dict[str, tuple[float, float]] | None:
    if m.grid is not None:
        return _grid_edges(m.grid)
    return _edges(m.ground_truth) if m.ground_truth is not None else None


def _grid_edges(grid: GridSpec) -> dict[str, tuple[float, float]]:
    return {
        axis: (first - step / 2, first + (n - 0.5) * step)
        for axis, first, step, n in zip(("z", "y", "x"), grid.origin_m, grid.spacing_m, grid.shape, strict=True)
    }
