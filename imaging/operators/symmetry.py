"""Reflections that map an antenna array and a voxel grid onto themselves.

Cross, rectangular, square and many other arrays are mirror-symmetric about the axes or the diagonals of the grid.
Then A is block diagonal in symmetrised coordinates: one block per character of the reflection group, so that the
Gram matrix and its factorisations cost 4 to 16 times less (NF 2.3, stated there for one array; here for any).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from imaging.operators.grid import Grid

TOLERANCE_M = 1e-10  # a phase error of 1e-7 rad at 100 GHz


@dataclass(frozen=True)
class Symmetry:
    """A group of g commuting reflections (g = 1, 2 or 4; the identity comes first), as permutations.

    Args:
        voxels: int64 (g, n_voxels); voxel n is mapped to voxels[i, n].
        tx, rx: int64 (g, n_tx), (g, n_rx), likewise; G_T[tx[i, t], voxels[i, n]] = G_T[t, n].
        characters: float64 (g, g) of ±1, one row per character.
    """

    voxels: Tensor
    tx: Tensor
    rx: Tensor
    characters: Tensor

    @property
    def order(self) -> int:
        return len(self.voxels)

    def to(self, device: torch.device) -> Symmetry:
        """The same group on another device."""
        return Symmetry(*(p.to(device) for p in (self.voxels, self.tx, self.rx, self.characters)))

    def symmetrise(self, s: Tensor) -> Tensor:
        """s^c_f = Σ_γ χ_c(γ) s[γ f] / |stab f| at one voxel f per orbit: (batch, n_voxels) -> (batch, g, n_orbits)."""
        if self.order == 1:
            return s[:, None]
        images = torch.stack([s[:, index] for index in self.voxels[:, self.voxel_orbits.representatives]], dim=1)
        images /= self.voxel_orbits.stabiliser.to(s.real.dtype)
        return torch.einsum("cg,bgf->bcf", self.characters.to(s.dtype), images)

    def symmetrise_adjoint(self, v: Tensor) -> Tensor:
        """The adjoint of `symmetrise`: (batch, g, n_orbits) -> (batch, n_voxels)."""
        if self.order == 1:
            return v[:, 0]
        images = torch.einsum("cg,bcf->bgf", self.characters.to(v.dtype), v)
        images /= self.voxel_orbits.stabiliser.to(v.real.dtype)
        out = v.new_zeros(len(v), self.voxels.shape[1])
        for i, index in enumerate(self.voxels[:, self.voxel_orbits.representatives]):
            out.index_add_(1, index, images[:, i])
        return out

    @cached_property
    def voxel_orbits(self) -> Orbits:
        return orbits(self.voxels)

    @cached_property
    def tx_rows(self) -> list[Tensor]:
        """Per character a, int64 (g, n_a): the transmitters γ t' of each orbit t' on which χ_a does not cancel."""
        return [moved for moved, _ in surviving_orbits(self.tx, self.characters)]

    @cached_property
    def rx_rows(self) -> list[Tensor]:
        return [moved for moved, _ in surviving_orbits(self.rx, self.characters)]

    def expansion(self, rows: list[Tensor], dtype: torch.dtype) -> Tensor:
        """E (n, n) that takes symmetrised antennas (a, t') back to antennas t: E[γ t', (a, t')] = χ_a(γ)."""
        n = sum(index.shape[1] for index in rows)
        matrix = torch.zeros(n, n, dtype=dtype, device=self.voxels.device)
        column = 0
        for character, index in zip(self.characters, rows, strict=True):
            columns = torch.arange(column, column + index.shape[1], device=index.device)
            for sign, moved in zip(character, index, strict=True):
                matrix[moved, columns] = sign.to(dtype)
            column += index.shape[1]
        return matrix


@dataclass(frozen=True)
class Orbits:
    """One representative per orbit, and the order of its stabiliser."""

    representatives: Tensor
    stabiliser: Tensor


def surviving_orbits(permutations: Tensor, characters: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Per character: images (g, n_c) of the orbits on whose stabiliser it is one, and their stabilisers' orders."""
    all_orbits = orbits(permutations)
    images = permutations[:, all_orbits.representatives]
    fixed = images == all_orbits.representatives
    survivors = []
    for character in characters:
        allowed = ((character[:, None] > 0) | ~fixed).all(0)
        survivors.append((images[:, allowed], all_orbits.stabiliser[allowed]))
    return survivors


def orbits(permutations: Tensor) -> Orbits:
    """The orbits of a group given as permutations (g, n)."""
    identity = torch.arange(permutations.shape[1], device=permutations.device)
    representatives = identity[permutations.min(dim=0).values == identity]
    stabiliser = (permutations[:, representatives] == representatives).sum(0)
    return Orbits(representatives, stabiliser)


def find_symmetry(tx_m: Tensor, rx_m: Tensor, grid: Grid) -> Symmetry:
    """The largest group of commuting x-y reflections that leaves transmitters, receivers and grid in place.

    Args:
        tx_m, rx_m: float64 (n, 3), metres.
        grid: the voxels.

    Returns:
        a Symmetry; of order 1 when there is none.
    """
    elements: list[tuple[Tensor, ...]] = [
        tuple(torch.arange(n, device=tx_m.device) for n in (grid.n_voxels, len(tx_m), len(rx_m)))
    ]
    for name, tx, rx in _reflections(tx_m, rx_m, grid):
        elements.append((_voxel_permutation(name, grid.shape, tx.device), tx, rx))
    return _symmetry(elements)


def symmetry_order(tx_m: Tensor, rx_m: Tensor, grid: Grid) -> int:
    """The order of `find_symmetry`'s group, without anything of the grid's size."""
    return 1 + len(_reflections(tx_m, rx_m, grid))


def _reflections(tx_m: Tensor, rx_m: Tensor, grid: Grid) -> list[tuple[str, Tensor, Tensor]]:
    """The group's elements other than the identity: name, and how they permute transmitters and receivers."""
    centre_y = (grid.origin_m[1] + grid.last_m[1]) / 2
    centre_x = (grid.origin_m[2] + grid.last_m[2]) / 2
    _, ny, nx = grid.shape
    square = ny == nx and abs(grid.spacing_m[1] - grid.spacing_m[2]) <= TOLERANCE_M / max(nx, 1)

    def about_centre(points: Tensor, move: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        x, y = move(points[:, 0] - centre_x, points[:, 1] - centre_y)
        return torch.stack((x + centre_x, y + centre_y, points[:, 2]), dim=1)

    moves: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
        "flip_x": lambda x, y: (-x, y),
        "flip_y": lambda x, y: (x, -y),
        "rotate": lambda x, y: (-x, -y),
    }
    if square:
        moves |= {"swap": lambda x, y: (y, x), "antiswap": lambda x, y: (-y, -x)}
    found: dict[str, tuple[str, Tensor, Tensor]] = {}
    for name, move in moves.items():
        tx = _matching(about_centre(tx_m, move), tx_m)
        rx = _matching(about_centre(rx_m, move), rx_m)
        if tx is not None and rx is not None:
            found[name] = (name, tx, rx)
    for group in (("flip_x", "flip_y", "rotate"), ("swap", "antiswap", "rotate")):
        if all(name in found for name in group):
            return [found[name] for name in group]
    return list(found.values())[:1]


def _symmetry(elements: Sequence[tuple[Tensor, ...]]) -> Symmetry:
    voxels, tx, rx = (torch.stack(permutations) for permutations in zip(*elements, strict=True))
    sign = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    # with four elements the last is the product of the second and third, as in the Kronecker table
    table = {1: torch.ones(1, 1, dtype=torch.float64), 2: sign, 4: torch.kron(sign, sign)}[len(elements)]
    return Symmetry(voxels, tx, rx, table.to(voxels.device))


def no_symmetry(n_voxels: int, n_tx: int, n_rx: int, device: torch.device) -> Symmetry:
    """The trivial group."""
    return _symmetry([tuple(torch.arange(n, device=device) for n in (n_voxels, n_tx, n_rx))])


def _matching(moved_m: Tensor, antennas_m: Tensor) -> Tensor | None:
    """Index of the antenna at each moved position; None when one has no partner."""
    distance = torch.cdist(moved_m, antennas_m, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, index = distance.min(dim=1)
    if bool((nearest > TOLERANCE_M).any()) or len(torch.unique(index)) != len(index):
        return None
    return index


def _voxel_permutation(name: str, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    index = torch.arange(shape[0] * shape[1] * shape[2], device=device).reshape(shape)
    moved = {
        "flip_x": lambda: index.flip(2),
        "flip_y": lambda: index.flip(1),
        "rotate": lambda: index.flip(1, 2),
        "swap": lambda: index.transpose(1, 2),
        "antiswap": lambda: index.transpose(1, 2).flip(1, 2),
    }[name]()
    return moved.flatten()
