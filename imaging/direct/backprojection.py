"""Back-projection: sum the data along the hyperbolas, unit weights."""

from __future__ import annotations

from torch import Tensor

from imaging.operators.near_field import NearFieldMimo


def backprojection(A: NearFieldMimo, y: Tensor) -> Tensor:
    """Σ_{k,t,r} exp(±jk(R_T + R_R)) y[t, r, k] at every voxel, whatever amplitude model A has.

    Args:
        A: the scan and the grid; only their geometry and phase convention are used.
        y: (*batch, *A.out_shape), complex.

    Returns:
        (*batch, nz, ny, nx), y's dtype, in units of y.

    Source: NF 7.1.
    """
    return A.with_amplitude("none").adjoint(y)
