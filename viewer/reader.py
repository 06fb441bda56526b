"""What napari calls to open and to save files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from viewer.source import LayerData, Source

Reader = Callable[[Any], list[LayerData]]


def prefer(context: Any = None) -> None:
    """Make this the reader of HDF5 in napari's preferences, unless the user or another plugin has a claim.

    Called when the plugin is first used. napari's own reader lists these endings too, so it would ask at every drop.
    """
    from napari.settings import get_settings
    from npe2 import PluginManager

    chosen = get_settings().plugins.extension2reader
    new = {}
    for pattern in ("*.h5", "*.hdf5"):
        readers = PluginManager.instance().iter_compatible_readers([pattern.replace("*", "scan")])
        if pattern not in chosen and {r.plugin_name for r in readers} <= {"napari", "backcast"}:
            new[pattern] = "backcast"
    if new:
        get_settings().plugins.extension2reader = {**chosen, **new}


def get_reader(path: str | list[str]) -> Reader | None:
    """A reader for HDF5 files by their content, None for all others.

    Of a file of another program, or a half-written one, the reader says what is wrong with it.
    """
    import h5py

    for one in [path] if isinstance(path, str) else path:
        try:
            with open(one, "rb") as f:
                begins = f.read(8) == b"\x89HDF\r\n\x1a\n"
        except OSError:
            return None
        if not begins and not h5py.is_hdf5(one):
            return None
    return read


def read(path: str | list[str]) -> list[LayerData]:
    """Layers of one or several files; in a window a file that cannot be read is a notification, and no layer.

    Raises:
        DataFormatError: without a window, in one sentence.
    """
    import napari
    from napari.utils.notifications import show_error

    from viewer.opening import layers_from, load
    from viewer.settings import voxels_3d
    from viewer.show import prepare

    layers: list[LayerData] = []
    for one in [path] if isinstance(path, str) else path:
        try:
            source = load(one)
            found = layers_from(source, voxels_3d=voxels_3d())
        except (ValueError, OSError) as error:
            if napari.current_viewer() is None:
                raise
            show_error(str(error))  # raised, napari would say no more than that the plugin failed
            continue
        tell(source)
        layers += found
    prepare()
    return layers or [(None,)]  # type: ignore[list-item]  # napari's word for no layers


def tell(source: Source) -> None:
    """A source's notes as notifications."""
    from napari.utils.notifications import show_info

    for note in source.notes:
        show_info(note)


def write(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Save the reconstruction that the layers show, all of it, with its provenance.

    Raises:
        DataFormatError: layers of no reconstruction, or of several.
        DataWriteError: the file cannot be written.
    """
    from data import DataFormatError, write_reconstruction
    from viewer.source import source_of

    found = {id(s): s for _, keywords, _ in layers if (s := source_of(keywords.get("metadata", {}))) is not None}
    sources = [s for s in found.values() if s.result is not None]
    if len(sources) != 1:
        raise DataFormatError(
            f"{path}: expected layers of one reconstruction to save, found those of {len(sources)}; select one of its "
            "layers (other images are saved as .tif)"
        )
    result = sources[0].result
    assert result is not None
    if not hasattr(result.volume.data, "flags"):
        raise DataFormatError(
            f"{path}: expected a reconstruction in memory, found one that stays in {sources[0].path}; copy that file"
        )
    write_reconstruction(Path(path), result)
    return [path]
