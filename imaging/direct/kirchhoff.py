"""Kirchhoff migration for planar arrays in z = const, factored per frequency."""

from __future__ import annotations

from torch import Tensor

from imaging.operators.near_field import NearFieldMimo


def kirchhoff(A: NearFieldMimo, y: Tensor, *, compensate: bool = False) -> Tensor:
    """Kirchhoff migration: the boundary integral of the wave equation over the aperture, discretised.

    With cosines c_T, c_R of the angles from the array's normal, each sample is weighted by
    [c_T (jk + 1/R_T) e^{jkR_T}] [c_R (jk + 1/R_R) e^{jkR_R}], so one matrix product per frequency does it.

    Args:
        A: the scan and the grid; only their geometry and phase convention are used.
        y: (*batch, *A.out_shape), complex.
        compensate: multiply each sample by 4 R_T R_R, which compensates the spreading on a limited aperture.

    Returns:
        (*batch, nz, ny, nx), y's dtype. The focused value carries a phase near π, from (jk)² = -k².

    Source: NF 7.2.
    """
    return A.with_amplitude("kirchhoff-compensated" if compensate else "kirchhoff").adjoint(y)
