"""Far-field steering vectors of linear and planar arrays, and the factors of a channel over a reflecting surface.

Directions are direction sines along the axes of an array: u along the line from its first to its second element, and
for planar arrays v across it, towards the other elements.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imaging.errors import GeometryError

#: Elements off their line or plane by this share of the array's size are elsewhere.
FLAT = 1e-6


def array_coordinates(positions_m: Tensor, *, name: str = "positions") -> Tensor:
    """Coordinates along the array's own axes, seen from its first element, metres.

    Args:
        positions_m: x, y, z of the elements, float64 (n, 3).
        name: of the array, for messages.

    Returns:
        float64 (n, 1) for elements on a line, (n, 2) for elements in a plane.

    Raises:
        GeometryError: elements that fill a volume, or the first two in one place.
    """
    p = positions_m.to(torch.float64)
    if p.ndim != 2 or p.shape[1] != 3 or len(p) == 0:
        raise GeometryError(f"{name}: expected elements (n, 3), columns x, y, z, got {tuple(p.shape)}")
    p = p - p[0]
    if len(p) == 1:
        return torch.zeros(1, 1, dtype=torch.float64)
    size = float(p.abs().max())
    if not float(p[1].norm()) > 0:
        raise GeometryError(f"{name}: expected elements in different places, found the first two in one")
    u = p[1] / p[1].norm()
    off = p - (p @ u)[:, None] * u
    distance = off.norm(dim=1)
    if float(distance.max()) <= FLAT * size:
        return (p @ u)[:, None]
    first = int(torch.nonzero(distance > FLAT * size)[0])
    v = off[first] / distance[first]
    out = off - (off @ v)[:, None] * v
    if float(out.norm(dim=1).max()) > FLAT * size:
        raise GeometryError(f"{name}: expected elements on a line or in a plane, found them in three dimensions")
    return torch.stack((p @ u, p @ v), dim=1)


def steering(coordinates_m: Tensor, directions: Tensor, wavelength_m: float) -> Tensor:
    """n^(-1/2) exp(+j 2π/λ p·φ) for elements p and directions φ, complex128 (n, N), columns of unit norm.

    Args:
        coordinates_m: (n, d), see `array_coordinates`.
        directions: direction sines (N, d), unitless.
        wavelength_m: λ.

    Source: KS 2.1, which has uniform linear arrays of half a wavelength.
    """
    if coordinates_m.shape[1] != directions.shape[1]:
        raise GeometryError(
            f"steering directions: expected {coordinates_m.shape[1]} direction sines each, one per axis of the array, "
            f"got {directions.shape[1]}"
        )
    phase = 2 * torch.pi / wavelength_m * (coordinates_m.to(torch.float64) @ directions.to(torch.float64).mT)
    return torch.polar(torch.full_like(phase, len(coordinates_m) ** -0.5), phase)


def surface_atoms(coordinates_m: Tensor, differences: Tensor, wavelength_m: float) -> Tensor:
    """a(φ_a) ∘ conj(a(φ_d)) of a surface, which depends on φ_d - φ_a alone: complex128 (n, N), entries of modulus 1/n.

    Args:
        coordinates_m: (n, d).
        differences: φ_d - φ_a of departure and arrival, (N, d); modulo λ over the spacing of the elements.
        wavelength_m: λ.

    Source: KS 2.2, the matrix C.
    """
    return steering(coordinates_m, differences, wavelength_m).conj() * len(coordinates_m) ** -0.5


def uniform_directions(n: int, n_axes: int = 1, *, start: float = -1.0) -> Tensor:
    """n direction sines from `start`, 2/n apart, along each axis: float64 (n, 1) or (n², 2), v fastest (KS 2.1)."""
    line = start + 2.0 * torch.arange(n, dtype=torch.float64) / n
    return line[:, None] if n_axes == 1 else torch.cartesian_prod(line, line)
