"""Arranging a viewer: the right way up, a scale bar, 3D for volumes, a grid for several methods of one scan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from viewer.source import KEY, Source, role_of, source_of

if TYPE_CHECKING:
    from napari.components import ViewerModel

#: x to the right, y upwards, z towards the eye: right-handed, as the files' coordinates are.
ORIENTATION = ("towards", "up", "right")
#: Where 3D views look from: a little from the right and above (Euler angles in degrees).
ANGLES = (0.0, -30.0, 15.0)
#: Share of the canvas that is left free around everything.
MARGIN = 0.08


def prepare(viewer: ViewerModel | None = None) -> None:
    """Turn the current viewer the right way up and show its scale bar; nothing where there is none, or others' layers.

    napari's own orientation has y downwards, which mirrors right-handed coordinates.
    """
    if viewer is None:
        import napari

        viewer = napari.current_viewer()
    if viewer is None or any(source_of(layer.metadata) is None for layer in viewer.layers):
        return
    viewer.scene.camera.orientation = ORIENTATION
    viewer.canvas.overlays.scale_bar.visible = True


def show(viewer: ViewerModel, paths: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """Open files in a viewer and arrange it.

    One result: its image, in 3D where it has depth. Several results of one grid: side by side, the truth first, on the
    same limits. Measurements alone: their samples; beside results: their antennas.

    Raises:
        DataFormatError: a file that cannot be read.
    """
    from viewer.opening import layers_from, load
    from viewer.reader import tell
    from viewer.settings import voxels_3d

    sources = [load(path) for path in paths]
    for source in sources:
        tell(source)
    prepare(viewer)
    results = [s for s in sources if s.result is not None]
    if len(results) > 1:
        _side_by_side(viewer, results)
    else:
        for source in results or sources:
            for data, keywords, kind in layers_from(source, voxels_3d=voxels_3d()):
                add(viewer, data, keywords, kind)
    arrange(viewer)
    return sources


def add(viewer: ViewerModel, data: Any, keywords: dict[str, Any], kind: str) -> Any:
    """Add one layer data tuple."""
    return getattr(viewer, f"add_{kind}")(data, **keywords)


def arrange(viewer: ViewerModel) -> None:
    """3D where the shown images are volumes of more than one plane; the first frame; everything in view."""
    deep = any(
        layer.visible
        and role_of(layer.metadata) in ("magnitude", "truth")
        and tuple(layer.axis_labels[-3:]) == ("z", "y", "x")
        and min((layer.data[0] if layer.multiscale else layer.data).shape[-3:]) > 1
        for layer in viewer.layers
        if type(layer).__name__ == "Image"
    )
    viewer.dims.ndisplay = 3 if deep else 2
    if viewer.dims.ndim > viewer.dims.ndisplay:
        for axis in range(viewer.dims.ndim - viewer.dims.ndisplay):
            if viewer.dims.axis_labels[axis] == "frame":
                viewer.dims.set_current_step(axis, 0)
    if deep:
        viewer.scene.camera.angles = ANGLES
    fit(viewer)
    lengths = [str(u) for layer in viewer.layers if layer.visible for u in layer.units[-2:]]
    viewer.canvas.overlays.scale_bar.visible = "millimeter" in lengths
    viewer.canvas.overlays.current_slice.visible = "frame" in viewer.dims.axis_labels
    for layer in viewer.layers:
        if layer.visible and role_of(layer.metadata) in ("magnitude", "spectra"):
            viewer.layers.selection.active = layer


def fit(viewer: ViewerModel, margin: float = MARGIN) -> None:
    """Bring what is visible into view; napari's own looks at what is hidden too."""
    layers = [layer for layer in viewer.layers if layer.visible]
    if not layers:
        return
    if max(layer.ndim for layer in layers) == viewer.dims.ndim:
        viewer.fit_to_view(layers=layers, margin=margin)
        return
    # napari cannot fit to layers of fewer axes than others have
    shown = viewer.dims.ndisplay
    low, high = (
        np.array(
            [f([layer.extent.world[side][-k] for layer in layers if layer.ndim >= k]) for k in range(shown, 0, -1)]
        )
        for side, f in ((0, min), (1, max))
    )
    viewer.scene.camera.center = (0.0,) * (3 - shown) + tuple(float(v) for v in (low + high) / 2)
    size = np.maximum(high - low, 1e-9)[-2:]
    viewer.scene.camera.zoom = float((np.asarray(viewer.canvas.size) / size).min()) * (1 - 2 * margin)


def _side_by_side(viewer: ViewerModel, results: list[Source]) -> None:
    """One cell per result in a grid, the truth before them, all under limits that make equal values look equal.

    Cells are named after the methods where these differ, else after the files.
    """
    from viewer.layers import layers_of, shared_limits, truth_layer
    from viewer.settings import voxels_3d

    first = next((s for s in results if s.truth is not None), None)
    truth = None if first is None else first.truth
    layers = []
    if truth is not None and first is not None:
        data, keywords, kind = truth_layer(truth, voxels_3d=voxels_3d())
        keywords |= {"visible": True, "name": "truth"}
        keywords["metadata"] = {**keywords["metadata"], KEY: first}
        layers.append((data, keywords, kind))
    methods = [s.method for s in results]
    by_method = all(methods) and len(set(methods)) == len(methods)
    for source in results:
        assert source.result is not None
        volume = source.result.volume
        data, keywords, kind = layers_of(source.result, name=source.name, voxels_3d=voxels_3d())[0]
        keywords["name"] = source.method if by_method else source.name
        if truth is not None and truth.data.shape == volume.data.shape and not isinstance(data, list):
            keywords["contrast_limits"] = shared_limits(volume, truth)[0]
        keywords["metadata"] = {**keywords["metadata"], KEY: source}
        layers.append((data, keywords, kind))
    for data, keywords, kind in layers:
        add(viewer, data, keywords, kind).name_overlay.visible = True
    viewer.canvas.grid.enabled = True
    viewer.canvas.grid.stride = 1
