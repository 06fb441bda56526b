"""What a layer was made from: kept in the layer's metadata, so that widgets and the writer find it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.measurement import Measurement, Volume
from data.reconstruction import Reconstruction

LayerData = tuple[Any, dict[str, Any], str]

#: The key of a Source in a layer's metadata, and that of the layer's part in it.
KEY, ROLE = "backcast", "backcast_role"
#: Quantities whose values mean something by themselves: truth and estimate are compared as they are.
ABSOLUTE = ("attenuation", "channel_coefficient")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One opened file, or what a sample or a run left in memory.

    Args:
        name: shown before the names of its layers.
        path: the file; None for what is in no file.
        measurement: of a measurement, or the input of a result where it was found.
        result: of a reconstruction; its volume's data may be a dask array that stays in the file.
        notes: sentences for the user.
    """

    name: str
    path: Path | None = None
    measurement: Measurement | None = None
    result: Reconstruction | None = None
    notes: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The method of a result, from its provenance; "" where it does not say."""
        if self.result is None:
            return ""
        try:
            return str(json.loads(str(self.result.provenance.get("config", "{}"))).get("method", ""))
        except (json.JSONDecodeError, AttributeError):
            return ""

    @property
    def truth(self) -> Volume | None:
        """The ground truth on its grid, None where there is none or only zeros."""
        truth = None if self.measurement is None else self.measurement.ground_truth
        return truth if truth is not None and truth.data.any() else None


def source_of(metadata: Mapping[str, Any]) -> Source | None:
    """The Source in a layer's metadata, None for layers of others."""
    found = metadata.get(KEY)
    return found if isinstance(found, Source) else None


def role_of(metadata: Mapping[str, Any]) -> str:
    """Which part of its source a layer shows: "magnitude", "truth", "samples", ...; "" for layers of others."""
    return str(metadata.get(ROLE, "")) if source_of(metadata) is not None else ""


def with_source(layers: list[LayerData], source: Source) -> list[LayerData]:
    """The layers with `source` in their metadata."""
    for _, keywords, _ in layers:
        keywords["metadata"] = {**keywords.get("metadata", {}), KEY: source}
    return layers


def gain_of(estimate: NDArray[Any], truth: NDArray[Any]) -> float:
    """The factor g > 0 with the least ‖g |estimate| - |truth|‖; 1 for an estimate of zeros."""
    e, t = np.abs(estimate).astype(float).ravel(), np.abs(truth).astype(float).ravel()
    power = float(e @ e)
    gain = float(e @ t) / power if power > 0 else 1.0
    return gain if gain > 0 else 1.0
