"""Networks: modules called as ``network(v, sigma)`` with v (batch, 1 or 2, *spatial) and sigma (batch,)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from denoisers.networks.dncnn import DnCnn
from denoisers.networks.gated_unet import GatedUNet
from denoisers.networks.unet3d import UNet3d

__all__ = ["NETWORKS", "DnCnn", "GatedUNet", "UNet3d", "build_network"]

#: By the name that configurations and cards use.
NETWORKS: dict[str, type[nn.Module]] = {"unet3d": UNet3d, "gated_unet": GatedUNet, "dncnn": DnCnn}


def build_network(kind: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The network of that name.

    Args:
        kind: a key of `NETWORKS`.
        options: keyword arguments of its class; lists stand for tuples.

    Raises:
        ValueError: an unknown name or option, or a value that the network refuses.
    """
    if kind not in NETWORKS:
        raise ValueError(f"network kind: expected one of {', '.join(NETWORKS)}, got {kind!r}")
    known = inspect.signature(NETWORKS[kind]).parameters
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in (options or {}).items()}
    for name in given:
        if name not in known:
            raise ValueError(f"network {kind}: unknown option {name}; it takes {', '.join(known)}")
    try:
        network = NETWORKS[kind](**given)
    except ValueError as error:
        raise ValueError(f"network {kind}: {error}") from error
    except (TypeError, RuntimeError, ArithmeticError) as error:  # torch's words for wrong types, sizes below 1
        raise ValueError(f"network {kind}: cannot be built with {given}: {error}") from error
    if any(p.numel() == 0 for p in network.parameters()):
        raise ValueError(f"network {kind}: expected channels >= 1, got {given}")
    return network
