"""Total variation in space and time by a primal-dual method: products with A and Aᴴ alone, no inner solve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.base import LinearOperator
from imaging.solvers._batch import gap, magnitude_change, norm
from imaging.solvers.state import State

#: Largest eigenvalue of ∇ᵀ∇ along one axis.
LARGEST = 4.0
#: Over-relaxation of Condat (2013), below 2.
RELAXATION = 1.8
#: Product of the two step lengths against its bound.
SAFE = 0.99


@dataclass(frozen=True, kw_only=True)
class PrimalDualState(State):
    """State of `tv_primal_dual`; `primal` and `dual` are the relative changes of x and of the data's dual.

    Args:
        relaxed: the over-relaxed image, from which the next iteration starts; x is the one before relaxation, which
            keeps the constraint. Shape of x.
        dual_data: dual of the data term, (*batch, *A.out_shape).
        dual_space: duals of the spatial differences, (*batch, 3, *A.in_shape).
        dual_time: dual of the temporal differences, (*batch, *A.in_shape); None without a temporal term.
    """

    relaxed: Tensor
    dual_data: Tensor
    dual_space: Tensor
    dual_time: Tensor | None = None


def tv_primal_dual(
    A: LinearOperator,
    y: Tensor,
    *,
    weight: float,
    temporal_weight: float = 0.0,
    nonnegative: bool = True,
    ratio: float = 200.0,
    x0: Tensor | None = None,
    start: PrimalDualState | None = None,
) -> Iterator[PrimalDualState]:
    """Minimise ½‖A x - y‖² / ‖A‖² + weight Σ ‖(∇x)_n‖₂ + temporal_weight Σ |x_{t+1} - x_t|, x >= 0 on request.

    ∇ are forward differences along the last three axes; the data term is divided by ‖A‖², so that weights depend on
    the image's values alone.

    Args:
        A: real or complex; in_shape (nz, ny, nx), or (n_frame, nz, ny, nx) of a movie.
        y: (*batch, *A.out_shape).
        weight: >= 0, of the isotropic spatial variation of every frame, units of x.
        temporal_weight: >= 0, of the variation along the frame axis, units of x; needs a movie.
        nonnegative: x >= 0; for real images.
        ratio: of primal to dual step, > 0; sets the speed only.
        x0: image to start from; zero if None.
        start: a state to go on from.

    Yields:
        PrimalDualState, endlessly; `objective` is the minimised one.

    Source: Chambolle, Pock (2011), Algorithm 1; over-relaxed as in Condat (2013), Algorithm 3.2.
    """
    if min(weight, temporal_weight) < 0:
        raise ValueError(f"tv_primal_dual weights: expected >= 0, got {weight} and {temporal_weight}")
    if temporal_weight > 0 and len(A.in_shape) != 4:
        raise ShapeError(f"tv_primal_dual temporal_weight: expected a movie (frame, nz, ny, nx), got {A.in_shape}")
    if nonnegative and A.dtype.is_complex:
        raise ValueError("tv_primal_dual nonnegative: expected False for complex images")
    rank = len(A.out_shape)
    batch_ndim = y.ndim - rank
    batch = y.shape[:batch_ndim]
    size = A.norm()
    bound = 1.0 + LARGEST * (sum(n > 1 for n in A.in_shape[-3:]) + (temporal_weight > 0))
    tau, sigma = math.sqrt(SAFE / bound * ratio), math.sqrt(SAFE / bound / ratio)
    y_ = y / size
    if start is None:
        x = image = y.new_zeros(*batch, *A.in_shape) if x0 is None else x0
        p, q = torch.zeros_like(y_), torch.zeros_like(spatial_gradient(x))
        r = torch.zeros_like(x) if temporal_weight > 0 else None
        done = 0
    else:
        x, p, q, r = start.relaxed, start.dual_data, start.dual_space.movedim(batch_ndim, 0), start.dual_time
        image, done = start.x, start.iteration
    Ax = A(x) / size
    for k in itertools.count(done + 1):
        force = A.adjoint(p) / size + spatial_gradient_adjoint(q)
        if r is not None:
            force = force + temporal_gradient_adjoint(r)
        step = x - tau * force
        step = step.clamp_min(0) if nonnegative else step
        ahead = 2 * step - x
        A_step = A(step) / size  # A(2 step - x) is 2 A step - A x: one product less
        p_new = (p + sigma * (2 * A_step - Ax - y_)) / (1 + sigma)
        q_new = _project(q + sigma * spatial_gradient(ahead), weight)
        r_new = None if r is None else _clip(r + sigma * temporal_gradient(ahead), temporal_weight)
        before, p_before, image = image, p, step
        x, Ax = x + RELAXATION * (step - x), Ax + RELAXATION * (A_step - Ax)
        p = p + RELAXATION * (p_new - p)
        q = q + RELAXATION * (q_new - q)
        if r is not None and r_new is not None:
            r = r + RELAXATION * (r_new - r)
        fidelity = norm(A_step - y_, batch_ndim)
        dims = tuple(range(batch_ndim, step.ndim))
        objective = 0.5 * fidelity**2 + weight * spatial_gradient(step).abs().square().sum(0).sqrt().sum(dims)
        if temporal_weight > 0:
            objective = objective + temporal_weight * temporal_gradient(step).abs().sum(dims)
        yield PrimalDualState(
            iteration=k,
            x=image,
            primal=gap(before, image, batch_ndim),
            dual=gap(p_before, p, batch_ndim),
            relative_change=magnitude_change(image, before, batch_ndim),
            data_fidelity=fidelity * size,
            objective=objective,
            relaxed=x,
            dual_data=p,
            dual_space=q.movedim(0, batch_ndim),
            dual_time=r,
        )


def spatial_gradient(x: Tensor) -> Tensor:
    """Forward differences along z, y, x, 0 across the border: (*batch, [frame,] nz, ny, nx) -> a component axis.

    The component axis comes first of all, so that batch axes need not be known: (3, *x.shape).
    """
    g = x.new_zeros(3, *x.shape)
    for i, axis in enumerate((-3, -2, -1)):
        n = x.shape[axis]
        if n > 1:
            g[i].narrow(axis, 0, n - 1).copy_(x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1))
    return g


def spatial_gradient_adjoint(g: Tensor) -> Tensor:
    """Adjoint of `spatial_gradient`."""
    x = torch.zeros_like(g[0])
    for i, axis in enumerate((-3, -2, -1)):
        n = x.shape[axis]
        if n > 1:
            part = g[i].narrow(axis, 0, n - 1)
            x.narrow(axis, 1, n - 1).add_(part)
            x.narrow(axis, 0, n - 1).sub_(part)
    return x


def temporal_gradient(x: Tensor) -> Tensor:
    """Forward differences along the frame axis, the fourth from the end; 0 after the last frame."""
    g = torch.zeros_like(x)
    n = x.shape[-4]
    g.narrow(-4, 0, n - 1).copy_(x.narrow(-4, 1, n - 1) - x.narrow(-4, 0, n - 1))
    return g


def temporal_gradient_adjoint(g: Tensor) -> Tensor:
    """Adjoint of `temporal_gradient`."""
    n = g.shape[-4]
    x = torch.zeros_like(g)
    part = g.narrow(-4, 0, n - 1)
    x.narrow(-4, 1, n - 1).add_(part)
    x.narrow(-4, 0, n - 1).sub_(part)
    return x


def _project(q: Tensor, radius: float) -> Tensor:
    """On vectors (first axis) of length at most `radius`."""
    length = q.abs().square().sum(0).sqrt()
    return q * (radius / length.clamp_min(max(radius, torch.finfo(length.dtype).tiny)))


def _clip(r: Tensor, radius: float) -> Tensor:
    return r * (radius / r.abs().clamp_min(max(radius, torch.finfo(r.real.dtype).tiny)))
