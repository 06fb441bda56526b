"""What the solvers ask of a linear solve and of a projection, however they are done."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class RegularisedSolver(Protocol):
    """Solves with AᴴA + rho I, rho > 0 fixed."""

    method: str  # "cg", "cholesky", "eigen", ...: for the provenance
    rho: float

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """x = (AᴴA + rho I)⁻¹ b.

        Args:
            b: right-hand side, (*batch, *A.in_shape).
            x0: starting point of an iterative method, same shape; exact ones ignore it.
        """
        ...

    def prox(self, u: Tensor, w: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x, A x) with x = argmin rho ‖x - u‖² + ‖A x - w‖².

        Args:
            u: (*batch, *A.in_shape).
            w: (*batch, *A.out_shape).
            x0: starting point of an iterative method; exact ones ignore it.
        """
        ...


@runtime_checkable
class EllipsoidProjector(Protocol):
    """Projects on the data ellipsoid {x : ‖A x - y‖ <= epsilon}."""

    def __call__(
        self, u: Tensor, y: Tensor, epsilon: Tensor | float, mu0: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x, A x, mu) with x = argmin ‖x - u‖ subject to ‖A x - y‖ <= epsilon, per problem.

        Args:
            u: (*batch, *A.in_shape).
            y: (*batch, *A.out_shape).
            epsilon: radius, units of y, one number or (*batch,).
            mu0: multipliers of an earlier call as starting points, (*batch,).

        Returns:
            x, A x, and the multiplier mu (*batch,), float64, with y - A x = mu c, x = u + Aᴴc: inf where u
            was inside already, the smallest one tried where no x reaches epsilon (then x is the nearest that
            can be done, and ‖A x - y‖ > epsilon).
        """
        ...
