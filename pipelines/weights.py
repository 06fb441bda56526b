"""``backcast denoisers``: the shipped weights, their cards and hashes. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

from denoisers.card import Card, card_path, file_sha256, read_card
from denoisers.errors import DenoiserError
from denoisers.shipped import shipped_file, shipped_names

CLASSICAL = {
    "nlm": "non-local means, any size, no training (scikit-image)",
    "tv": "total variation, any size, no training (scikit-image)",
    "wavelet": "wavelet shrinkage, any size, no training (scikit-image, PyWavelets)",
}


def find_weights(name: str) -> Path:
    """The .safetensors file of a shipped name or path.

    Raises:
        DenoiserError: there is none.
    """
    path = shipped_file(name) or Path(name)
    if not path.is_file() or path.suffix != ".safetensors":
        raise DenoiserError(
            f"{name}: expected a .safetensors file or one of {', '.join(shipped_names()) or 'none'}, found neither"
        )
    return path


def list_text() -> str:
    """A line per denoiser: name, dimensions, noise range, validation error, parameters, what it is."""
    head = ("denoiser", "dims", "noise", "mean squared error", "parameters", "what it is for")
    rows = [head]
    for name in shipped_names():
        card = read_card(card_path(find_weights(name)))
        low, high = card.noise_range
        error = card.validation.get("mse")
        rows.append(
            (
                name,
                str(card.n_dims),
                f"{low:g} to {high:g}",
                f"{error:.2e}" if isinstance(error, float) else "not given",
                f"{card.n_parameters:,}".replace(",", " "),
                card.summary,
            )
        )
    rows += [(name, "2, 3", "any", "", "", what) for name, what in CLASSICAL.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:-1], widths, strict=True)), row[-1]]) for row in rows
    )


def list_json() -> str:
    """The cards for programs."""
    cards = [read_card(card_path(find_weights(name))) for name in shipped_names()]
    return json.dumps([json.loads(card.to_json()) for card in cards], indent=2, ensure_ascii=False)


def info_text(name: str) -> str:
    """A card in words."""
    card = read_card(card_path(find_weights(name)))
    lines = [
        f"{card.name}: {card.summary}",
        f"  network      {card.network['kind']} {json.dumps(card.network.get('options', {}))}, "
        f"{card.n_parameters} parameters, {card.n_dims}D",
        f"  noise        standard deviation {card.noise_range[0]:g} to {card.noise_range[1]:g} "
        f"on values {card.value_range[0]:g} to {card.value_range[1]:g}",
        f"  data         {card.data}",
        f"  limits       {card.limits or 'not given'}",
        f"  licence      {card.licence or 'not given'}",
        f"  sha256       {card.sha256}",
        f"  training     {card.training.get('command', 'not given')} "
        f"({card.training.get('steps', '?')} steps, backcast {card.training.get('backcast', '?')}, "
        f"torch {card.training.get('torch', '?')})",
        f"  validation   mean squared error {_number(card.validation.get('mse'))}, {card.validation.get('images', '')}",
    ]
    levels = card.validation.get("mse_by_noise_level", {})
    lines += [f"    sigma {level:>6}   {_number(mse)}" for level, mse in levels.items()]
    return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "not given"


def verify(names: list[str]) -> tuple[list[str], int]:
    """Compare files with the hashes on their cards: a line each, and how many are wrong."""
    lines, wrong = [], 0
    for name in names or shipped_names():
        try:
            path = find_weights(name)
            _check(path, read_card(card_path(path)))
            lines.append(f"{name}: as its card says")
        except (DenoiserError, OSError) as error:
            wrong += 1
            lines.append(f"{name}: {error}")
    return lines, wrong


def _check(path: Path, card: Card) -> None:
    found = file_sha256(path)
    if card.name != path.stem:
        raise DenoiserError(f"{card_path(path)}: name: expected {path.stem} as the file's, found {card.name}")
    if not card.sha256:
        raise DenoiserError(f"{card_path(path)}: sha256: expected a hash, found none; the file is {found}")
    if found != card.sha256:
        raise DenoiserError(
            f"{path}: expected sha256 {card.sha256[:12]}... as its card says, found {found[:12]}...; install it again"
        )
