"""Cards: what a weight file is, was trained on and is good for; JSON beside the .safetensors file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from denoisers.errors import DenoiserError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a weight file.

    Args:
        name: of the denoiser.
        summary: one line.
        network: kind and options, as `denoisers.networks.build_network` takes them.
        n_dims: 2 or 3.
        noise_range: standard deviations that it was trained on, in units of the image.
        value_range: values of the clean training images; a peak of 1 as a rule.
        sha256: of the .safetensors file.
        n_parameters: trainable numbers.
        data: what it was trained on, in words.
        validation: mean squared error by noise level on what set, plain values.
        training: command, configuration, seed, steps, versions.
        limits: what it is not good for, in words.
        licence: of the weights.
    """

    name: str
    summary: str
    network: Mapping[str, Any]
    n_dims: int
    noise_range: tuple[float, float]
    value_range: tuple[float, float] = (0.0, 1.0)
    sha256: str = ""
    n_parameters: int = 0
    data: str = ""
    validation: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    limits: str = ""
    licence: str = ""

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=2, ensure_ascii=False) + "\n"


def card_path(weights: Path) -> Path:
    """Where the card of a weight file is: the same name with .json."""
    return weights.with_suffix(".json")


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        DenoiserError: missing, not JSON, or without what is needed to use the weights.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DenoiserError(
            f"{path}: expected the card of the weights beside them, found none; copy it along, or write one "
            "with name, summary, network, n_dims, noise_range and sha256"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DenoiserError(f"{path}: expected a card in JSON, found a mistake: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise DenoiserError(f"{path}: schema: expected {SCHEMA}, found {found}; the card is of another version or kind")
    fields = dataclasses.fields(Card)
    missing = [f.name for f in fields if f.name not in content and _is_required(f)]
    if missing:
        raise DenoiserError(f"{path}: expected {', '.join(missing)}, found none; see a card in denoisers/weights")
    values = {k: v for k, v in content.items() if k in {f.name for f in fields}}
    for name in ("noise_range", "value_range"):
        if name in values:
            values[name] = _pair(values[name], name, path)
    if values["n_dims"] not in (2, 3):
        raise DenoiserError(f"{path}: n_dims: expected 2 or 3, found {values['n_dims']!r}")
    for name, kind in _PLAIN.items():
        if not isinstance(values.get(name, kind()), kind):
            raise DenoiserError(f"{path}: {name}: expected {_WORDS[kind]}, found {values[name]!r}")
    options = values["network"].get("options", {})
    if "kind" not in values["network"] or not isinstance(options, dict):
        raise DenoiserError(f"{path}: network: expected an object with kind and options, found {values['network']!r}")
    return Card(**values)


_WORDS: Mapping[type, str] = {str: "a text", dict: "an object", int: "a whole number"}
_PLAIN: Mapping[str, type] = {
    **dict.fromkeys(("name", "summary", "sha256", "data", "limits", "licence"), str),
    **dict.fromkeys(("network", "validation", "training"), dict),
    "n_parameters": int,
}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _pair(value: Any, name: str, path: Path) -> tuple[float, float]:
    numbers = isinstance(value, list) and len(value) == 2 and all(isinstance(x, int | float) for x in value)
    if not numbers or not value[0] <= value[1] or (name == "noise_range" and value[0] < 0):
        raise DenoiserError(f"{path}: {name}: expected two numbers, low and high, found {value!r}")
    return float(value[0]), float(value[1])


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
