"""Entries of napari's menu Layers > Visualize, on the selected layer: parts and errors that are shown on demand."""

from __future__ import annotations

from typing import Any

from data.measurement import Volume
from viewer.layers import error_layer, part_layers
from viewer.opening import layers_from
from viewer.scene import scene_layers
from viewer.settings import voxels_3d
from viewer.show import add
from viewer.source import Source, source_of, with_source


def add_parts() -> None:
    """Real and imaginary part of the selected result."""
    viewer, source, volume = _selected()
    if volume is not None:
        _add(viewer, source, lambda: part_layers(volume, name=source.name, voxels_3d=voxels_3d()))


def add_error() -> None:
    """The selected result minus its truth."""
    viewer, source, volume = _selected()
    if volume is not None:
        _add(viewer, source, lambda: [error_layer(volume, _truth(source), name=source.name)])


def add_scene() -> None:
    """Antennas and voxel box of the selected layer's measurement."""
    viewer, source, volume = _selected(result=False)
    if source is not None and source.measurement is not None:
        _add(viewer, source, lambda: scene_layers(source.measurement, volume, name=source.name))


def add_samples() -> None:
    """What was measured, for the selected result."""
    viewer, source, _ = _selected(result=False)
    if source is not None and source.measurement is not None:
        _add(viewer, source, lambda: layers_from(Source(name=source.name, measurement=source.measurement)))


def _truth(source: Source) -> Volume:
    if source.truth is None:
        raise ValueError(f"{source.name}: expected a truth for an error map, found none beside the result")
    return source.truth


def _selected(*, result: bool = True) -> tuple[Any, Any, Volume | None]:
    """The viewer, the selected layer's source and the volume of its result; a sentence where there is none."""
    import napari
    from napari.utils.notifications import show_error

    viewer = napari.current_viewer()
    layer = None if viewer is None else viewer.layers.selection.active
    source = None if layer is None else source_of(layer.metadata)
    if source is None or (result and source.result is None):
        show_error("select a layer of a reconstruction that this plugin opened")
        return viewer, source, None
    return viewer, source, None if source.result is None else source.result.volume


def _add(viewer: Any, source: Source, make: Any) -> None:
    from napari.utils.notifications import show_error

    try:
        for layer in with_source(make(), source):
            add(viewer, *layer)
    except (ValueError, OSError) as error:
        show_error(str(error))
