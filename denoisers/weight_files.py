"""Weight files: written, read and verified. The shipped ones lie in denoisers/weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from denoisers.card import Card, card_path, file_sha256, read_card
from denoisers.checkpoint import write_atomically
from denoisers.errors import DenoiserError
from denoisers.networks import build_network
from denoisers.shipped import shipped_file


def save_weights(path: Path, network: nn.Module, card: Card) -> Card:
    """Write the weights as float32 safetensors and the card beside them, each whole or not at all.

    Args:
        path: ends in .safetensors.
        network: what to save.
        card: its sha256 and n_parameters are filled in.

    Returns:
        The card as written.
    """
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    content = save(tensors, metadata={"name": card.name})
    write_atomically(path, lambda part: _write(part, content))
    count = sum(p.numel() for p in network.parameters())
    card = dataclasses.replace(card, sha256=file_sha256(path), n_parameters=count)
    write_atomically(card_path(path), lambda part: _write(part, card.to_json().encode()))
    return card


def load_weights(
    name_or_path: str | Path, *, device: torch.device | str = "cpu", verify: bool = True
) -> tuple[nn.Module, Card]:
    """The network of a shipped name or of a .safetensors file with its card.

    Args:
        name_or_path: "radar-3d", or a path.
        device: where the weights go.
        verify: compare the file's hash with the card's, when the card has one.

    Raises:
        DenoiserError: no such name or file, no card, another hash, or weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = shipped_file(str(name_or_path)) or Path(name_or_path)
    if not path.is_file():
        raise DenoiserError(f"denoiser {path}: expected a .safetensors file, found none; check the path")
    card = read_card(card_path(path))
    if verify:
        check_hash(path, card)
    try:
        network = build_network(str(card.network["kind"]), card.network.get("options"))
    except ValueError as error:
        raise DenoiserError(f"{card_path(path)}: network: {error}") from error
    if (n_dims := getattr(network, "n_dims", card.n_dims)) != card.n_dims:
        raise DenoiserError(f"{card_path(path)}: n_dims: expected {n_dims} as its network has, found {card.n_dims}")
    try:
        tensors = load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise DenoiserError(
            f"{path}: expected weights in safetensors format, found something else or a damaged file: {error}"
        ) from error
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    if expected != found:
        raise DenoiserError(f"{path}: expected the weights of {card.network['kind']}, {_mismatch(expected, found)}")
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DenoiserError(f"{path}: {key}: expected finite weights, found NaN or Inf; the file is damaged")
    network.load_state_dict(tensors)
    return network.to(device).eval(), card


def check_hash(path: Path, card: Card) -> None:
    """Refuse a file that is not the one its card describes.

    Raises:
        DenoiserError: the hashes differ.
    """
    if card.sha256 and (found := file_sha256(path)) != card.sha256:
        raise DenoiserError(
            f"{path}: expected sha256 {card.sha256[:12]}... as its card says, found {found[:12]}...; the file is "
            "damaged, or the card belongs to another; get both again"
        )


def _mismatch(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    for key in expected:
        if key not in found:
            return f"found no {key}; the file belongs to another network"
        if expected[key] != found[key]:
            return (
                f"found {key} of shape {found[key]} instead of {expected[key]}; the card's options are not the file's"
            )
    return f"found {next(k for k in found if k not in expected)} besides; the file belongs to another network"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
