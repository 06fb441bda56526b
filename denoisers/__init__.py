"""Denoisers: anything called as ``denoiser(v, sigma)``, loaded by name or from a file.

Importing this package brings no torch.
"""

from typing import TYPE_CHECKING, Any

import imaging  # noqa: F401  (the shadowing guard)

if TYPE_CHECKING:
    from denoisers.load import DenoiserError, LoadedDenoiser, load_denoiser

__all__ = ["DenoiserError", "LoadedDenoiser", "load_denoiser"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        import denoisers.load

        return getattr(denoisers.load, name)
    raise AttributeError(f"module 'denoisers' has no attribute '{name}'")
