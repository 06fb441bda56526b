"""An adjoint test that a user can call on an operator of their own."""

from __future__ import annotations

import torch

from imaging.operators.base import LinearOperator


def check_adjoint(operator: LinearOperator, *, tol: float | None = None, seed: int = 0) -> float:
    """Compare ⟨A x, y⟩ with ⟨x, Aᴴ y⟩ for random x and y, batch of two.

    Args:
        operator: any LinearOperator.
        tol: largest relative gap allowed; None picks 1e-12 in double and 1e-5 in single precision.
        seed: of the random numbers.

    Returns:
        |⟨Ax, y⟩ - ⟨x, Aᴴy⟩| / (‖Ax‖ ‖y‖), the larger of the two problems.

    Raises:
        AssertionError: the gap is above `tol`, with the gap and both inner products.
    """
    if tol is None:
        tol = 1e-12 if operator.dtype in (torch.float64, torch.complex128) else 1e-5
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, *operator.in_shape, dtype=operator.dtype, generator=generator).to(operator.device)
    y = torch.randn(2, *operator.out_shape, dtype=operator.dtype, generator=generator).to(operator.device)
    with torch.no_grad():
        ax, aty = operator(x), operator.adjoint(y)
    double = torch.complex128 if operator.dtype.is_complex else torch.float64
    worst = 0.0
    for i in range(2):
        left = torch.vdot(ax[i].flatten().to(double), y[i].flatten().to(double))
        right = torch.vdot(x[i].flatten().to(double), aty[i].flatten().to(double))
        scale = float(torch.linalg.vector_norm(ax[i]) * torch.linalg.vector_norm(y[i]))
        gap = float((left - right).abs()) / max(scale, torch.finfo(torch.float32).tiny)
        worst = max(worst, gap)
        if not gap <= tol:
            raise AssertionError(
                f"{type(operator).__name__}: adjoint and forward disagree: <Ax, y> = {complex(left):.6g}, "
                f"<x, A^H y> = {complex(right):.6g}, relative gap {gap:.2e} > {tol:.0e}"
            )
    return worst
