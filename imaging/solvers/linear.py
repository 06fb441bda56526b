"""Linear solves that need only products with A and Aᴴ: conjugate gradients, and their reuse per penalty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.base import LinearOperator
from imaging.solvers._batch import dot, norm, over, ratio
from imaging.solvers.ellipsoid import CgEllipsoid, EllipsoidInfo, secular_root
from imaging.solvers.protocols import EllipsoidProjector, RegularisedSolver

__all__ = [
    "CgEllipsoid",
    "CgInfo",
    "CgSolver",
    "EllipsoidInfo",
    "EllipsoidProjector",
    "RegularisedSolver",
    "SolverCache",
    "cg",
    "secular_root",
]


@dataclass(frozen=True)
class CgInfo:
    """How each problem of a batch ended; every tensor is (*batch,).

    Args:
        iterations: products with the matrix after the starting residual, int64.
        residual: ‖b - Q x‖ / ‖b‖ by the recurrence, float64; 0 for b = 0.
        converged: reached the tolerance, bool.
    """

    iterations: Tensor
    residual: Tensor
    converged: Tensor


def cg(
    gram: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    x0: Tensor | None = None,
    tol: float = 1e-5,
    max_iter: int = 200,
    batch_ndim: int = 1,
    floor: Tensor | None = None,
) -> tuple[Tensor, CgInfo]:
    """Solve Q x = b by conjugate gradients, Q Hermitian positive definite; step and stopping per problem.

    Problems that have converged leave the batch: later products are taken of the others only.

    Args:
        gram: Q as a function of (m, *shape), any m >= 1: it must not depend on which problem is where.
        b: right-hand sides, (*batch, *shape), real or complex.
        x0: starting point, same shape; zero if None, which saves one product.
        tol: stop a problem when ‖b - Q x‖ <= tol ‖b‖.
        max_iter: iterations at most.
        batch_ndim: how many leading axes of b are batch.
        floor: stop a problem also when ‖b - Q x‖ <= floor, (*batch,): for right-hand sides that are rounding
            noise.

    Returns:
        x, and how each problem ended. A right-hand side of zero gives x = 0. One that is not finite gives x
        that is not finite, and converged = False.

    Source: Hestenes, Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    """
    if x0 is not None and x0.shape != b.shape:
        raise ShapeError(f"cg x0: expected the shape of b, {tuple(b.shape)}, got {tuple(x0.shape)}")
    batch = b.shape[:batch_ndim]
    b_ = b.reshape(-1, *b.shape[batch_ndim:])
    n = len(b_)
    size = norm(b_, 1)
    goal = tol * size
    if floor is not None:
        goal = torch.maximum(goal, floor.reshape(-1).to(goal))

    if x0 is None:
        x, r = torch.zeros_like(b_), b_.clone()
    else:
        x = x0.reshape(b_.shape).clone()
        r = b_ - gram(x)
        x[size == 0] = 0  # Q x = 0 has the solution 0 whatever the start
        r[size == 0] = 0
    rr = dot(r, r, 1)
    iterations = torch.zeros(n, dtype=torch.int64, device=b.device)
    residual = rr.sqrt()

    active = torch.nonzero(~(residual <= goal)).flatten()  # not <=: NaN stays in and shows in x
    x_out = x
    x, r, rr, goal_ = x[active], r[active], rr[active], goal[active]
    p = r.clone()
    for _ in range(max_iter):
        if len(active) == 0:
            break
        q = gram(p)
        curvature = dot(p, q, 1)
        step = rr / curvature
        x += over(step, x) * p
        r -= over(step, r) * q
        previous, rr = rr, dot(r, r, 1)
        iterations[active] += 1
        residual[active] = rr.sqrt()
        # curvature <= 0 or NaN: rounding or bad data has ended the recurrence, going on would only drift
        going = (rr.sqrt() > goal_) & (curvature > 0)
        if not bool(going.all()):
            x_out[active] = x
            active = active[going]
            x, r, p, rr, previous, goal_ = (t[going] for t in (x, r, p, rr, previous, goal_))
        p = r + over(rr / previous, p) * p
    if len(active) > 0:
        x_out[active] = x
    info = CgInfo(iterations.reshape(batch), ratio(residual, size).reshape(batch), (residual <= goal).reshape(batch))
    return x_out.reshape(b.shape), info


class CgSolver:
    """(AᴴA + rho I)⁻¹ by conjugate gradients for any operator; a `RegularisedSolver`.

    Args:
        A: any LinearOperator.
        rho: > 0.
        tol: relative residual of the normal equations at which a problem stops.
        max_iter: iterations at most; 5 gives the inexact update of NF 5.3.

    `info` is the `CgInfo` of the latest call.
    """

    method = "cg"

    def __init__(self, A: LinearOperator, rho: float, tol: float = 1e-5, max_iter: int = 200) -> None:
        if not rho > 0:
            raise ValueError(f"CgSolver rho: expected > 0, got {rho}; AᴴA alone need not be invertible")
        self.A, self.rho, self.tol, self.max_iter = A, rho, tol, max_iter
        self.info: CgInfo | None = None

    def _normal(self, v: Tensor) -> Tensor:
        return self.A.gram(v) + self.rho * v

    def __call__(self, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """x = (AᴴA + rho I)⁻¹ b, b (*batch, *A.in_shape); x0 is the starting point."""
        batch_ndim = b.ndim - len(self.A.in_shape)
        x, self.info = cg(self._normal, b, x0=x0, tol=self.tol, max_iter=self.max_iter, batch_ndim=batch_ndim)
        return x

    solve = __call__

    def prox(self, u: Tensor, w: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x, A x), x = argmin rho ‖x - u‖² + ‖A x - w‖²; u (*batch, *A.in_shape), w (*batch, *A.out_shape).

        Solved for the correction x - u, whose right-hand side Aᴴ(w - A u) shrinks as an outer iteration
        converges: the tolerance follows by itself, and x = u exactly where A u = w.
        """
        batch_ndim = u.ndim - len(self.A.in_shape)
        Au = self.A(u)
        b = self.A.adjoint(w - Au)
        noise = torch.finfo(u.dtype).eps * norm(b, batch_ndim)
        if x0 is None:
            start = None
        else:
            start = x0 - u
            # below this the difference x0 - u is rounding
            noise = noise + torch.finfo(u.dtype).eps * self.rho * norm(u, batch_ndim)
        d, self.info = cg(
            self._normal,
            b,
            x0=start,
            tol=self.tol,
            max_iter=self.max_iter,
            batch_ndim=batch_ndim,
            floor=noise,
        )
        return u + d, Au + self.A(d)


class SolverCache:
    """Regularised solves for penalties that differ per problem and change now and then.

    Solvers ask it instead of the operator, so that a penalty that comes back (they change by factors of two)
    is not set up again, and a batch with two penalties is solved in two parts.

    Args:
        A: the operator.
        make: ``make(rho)`` gives a RegularisedSolver; None takes `A.regularised_solver`.
    """

    def __init__(self, A: LinearOperator, make: Callable[[float], RegularisedSolver] | None = None) -> None:
        self.A = A
        self.make: Callable[[float], RegularisedSolver] = A.regularised_solver if make is None else make
        self._solvers: dict[float, RegularisedSolver] = {}

    def solver(self, rho: float) -> RegularisedSolver:
        """The solver for one penalty."""
        if rho not in self._solvers:
            self._solvers[rho] = self.make(rho)
        return self._solvers[rho]

    def prox(self, rho: Tensor, u: Tensor, w: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`RegularisedSolver.prox` with rho (*batch,), u (*batch, *in_shape), w (*batch, *out_shape)."""
        values = torch.unique(rho).tolist()
        if len(values) == 1:
            return self.solver(values[0]).prox(u, w, x0)
        x, Ax = torch.empty_like(u), torch.empty_like(w)
        for value in values:
            mine = rho == value
            x[mine], Ax[mine] = self.solver(value).prox(u[mine], w[mine], None if x0 is None else x0[mine])
        return x, Ax
