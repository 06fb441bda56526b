"""Denoisers: anything called as ``denoiser(v, sigma)``, shipped, trained here, or loaded by name or from a file.

Importing this package brings no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

import imaging  # noqa: F401  (the shadowing guard)
from denoisers.errors import DenoiserError
from denoisers.shipped import shipped_names

if TYPE_CHECKING:
    from denoisers.card import Card, read_card
    from denoisers.classical import NonLocalMeans, TvChambolle, Wavelet
    from denoisers.load import LoadedDenoiser, load_denoiser
    from denoisers.network_denoiser import NetworkDenoiser
    from denoisers.networks import DnCnn, GatedUNet, UNet3d, build_network
    from denoisers.noise import GaussianNoise, NoisyPairs
    from denoisers.tiled import Tiled
    from denoisers.training import TrainingOptions, train, validation_of
    from denoisers.weight_files import load_weights, save_weights
    from denoisers.wrappers import Chunked, NonNegative, ScaleEquivariant, SelfEnsemble, SliceWise

_HOMES = {
    "Card": "card",
    "read_card": "card",
    "NonLocalMeans": "classical",
    "TvChambolle": "classical",
    "Wavelet": "classical",
    "LoadedDenoiser": "load",
    "load_denoiser": "load",
    "NetworkDenoiser": "network_denoiser",
    "DnCnn": "networks",
    "GatedUNet": "networks",
    "UNet3d": "networks",
    "build_network": "networks",
    "GaussianNoise": "noise",
    "NoisyPairs": "noise",
    "Tiled": "tiled",
    "TrainingOptions": "training",
    "train": "training",
    "validation_of": "training",
    "load_weights": "weight_files",
    "save_weights": "weight_files",
    "Chunked": "wrappers",
    "NonNegative": "wrappers",
    "ScaleEquivariant": "wrappers",
    "SelfEnsemble": "wrappers",
    "SliceWise": "wrappers",
}

__all__ = [
    "Card",
    "Chunked",
    "DenoiserError",
    "DnCnn",
    "GatedUNet",
    "GaussianNoise",
    "LoadedDenoiser",
    "NetworkDenoiser",
    "NoisyPairs",
    "NonLocalMeans",
    "NonNegative",
    "ScaleEquivariant",
    "SelfEnsemble",
    "SliceWise",
    "Tiled",
    "TrainingOptions",
    "TvChambolle",
    "UNet3d",
    "Wavelet",
    "build_network",
    "load_denoiser",
    "load_weights",
    "read_card",
    "save_weights",
    "shipped_names",
    "train",
    "validation_of",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"denoisers.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'denoisers' has no attribute '{name}'")
