"""The plugin's preferences, as napari keeps them (Preferences > Plugins)."""

from __future__ import annotations

from typing import Any

from viewer.overview import VOXELS_3D

PLUGIN = "backcast"


def _value(group: str, name: str, default: Any) -> Any:
    """A preference; the default where napari does not know the plugin (not installed, or switched off)."""
    from napari.settings import get_plugin_settings

    try:
        return getattr(getattr(get_plugin_settings(PLUGIN), group), name)
    except (KeyError, AttributeError):
        return default


def voxels_3d() -> int:
    """Voxels that 3D shows at most; larger volumes are thinned out."""
    return int(_value("volumes", "memory_3d", VOXELS_3D * 4 // 2**20)) * 2**20 // 4


def update_every() -> int:
    """Iterations between two updates of a running reconstruction's layer."""
    return max(1, int(_value("reconstruct", "update_every", 1)))
