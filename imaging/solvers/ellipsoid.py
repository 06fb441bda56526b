"""Projection on the data ellipsoid {x : ‖A x - y‖ <= epsilon} with products of A and Aᴴ only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.operators.base import LinearOperator
from imaging.solvers._batch import norm, over, wide

MU_RANGE = 1e-12  # 1 over the largest multiplier tried, in units of the largest eigenvalue of AAᴴ


def smallest_multiplier(dtype: torch.dtype) -> float:
    """Smallest multiplier tried, relative to the largest eigenvalue of AAᴴ.

    Eigenvalues below about ten roundings of the largest are rounding themselves, and dividing by them would blow up
    the image: 1e-6 in single, 1e-12 in double precision.
    """
    return 1e-6 if dtype in (torch.complex64, torch.float32) else 1e-12


def secular_root(
    eigenvalues: Tensor,
    power: Tensor,
    epsilon: Tensor,
    mu0: Tensor | None = None,
    *,
    floor: float = 1e-12,
    tol: float = 1e-13,
    max_iter: int = 100,
) -> tuple[Tensor, Tensor]:
    """The multiplier mu with  Σ_i (mu / (mu + λ_i))² power_i = epsilon²  (NF 5.2), per problem.

    Newton on log mu, kept inside a bracket that every step shrinks (bisection where Newton leaves it).

    Args:
        eigenvalues: λ of AAᴴ, float64, (n_eigen,) or (*batch, n_eigen), >= 0.
        power: |r̂_i|² of the residual r = y - A u in the eigenbasis, float64 (*batch, n_eigen).
        epsilon: > = 0, float64 (*batch,).
        mu0: starting point, (*batch,); entries that are not finite and positive are ignored.
        floor: smallest mu tried over the largest λ; see `smallest_multiplier`.
        tol: relative accuracy of the sum.

    Returns:
        mu (*batch,), float64: inf where ‖r‖ <= epsilon, the smallest value tried where no mu from there on reaches
        epsilon; and which problems are feasible, bool (*batch,).
    """
    kind = power.dtype
    lam = eigenvalues.to(kind).expand(power.shape)
    top = lam.amax(dim=-1).clamp_min(torch.finfo(kind).tiny ** 0.5)
    target = epsilon.to(kind) ** 2

    def left(t: Tensor) -> tuple[Tensor, Tensor]:
        mu = t.exp().unsqueeze(-1)
        g = mu / (mu + lam)
        f = (g**2 * power).sum(-1)
        slope = 2 * (g**2 * (1 - g) * power).sum(-1)
        return f, slope

    low = (top * floor).log()
    high = (top / MU_RANGE).log()
    f_low, _ = left(low)
    inside = power.sum(-1) <= target
    feasible = (f_low <= target) | inside
    t = 0.5 * (low + high)
    if mu0 is not None:
        guess = mu0.to(kind)
        usable = torch.isfinite(guess) & (guess > 0)
        t = torch.where(usable, guess.clamp_min(1e-300).log().clamp(low, high), t)
    lower, upper = low.clone(), high.clone()
    for _ in range(max_iter):
        f, slope = left(t)
        below = f < target
        lower = torch.where(below, t, lower)
        upper = torch.where(below, upper, t)
        settled = (f - target).abs() <= tol * target
        if bool((settled | inside | ~feasible).all()):
            break
        # Newton on log f against t: f is close to a power of mu at both ends, so this is nearly straight
        step = torch.log(target.clamp_min(1e-300) / f.clamp_min(1e-300)) * f / slope.clamp_min(1e-300)
        newton = t + step
        ok = (newton > lower) & (newton < upper)
        t = torch.where(settled, t, torch.where(ok, newton, 0.5 * (lower + upper)))
        if bool(((upper - lower) <= 4 * torch.finfo(kind).eps * t.abs()).all()):
            break
    mu = t.exp()
    mu = torch.where(feasible, mu, low.exp())
    return torch.where(inside, torch.inf, mu), feasible


@dataclass(frozen=True)
class EllipsoidInfo:
    """How each projection of a batch ended; every tensor is (*batch,).

    Args:
        steps: Krylov steps (one product with A and one with Aᴴ each), int64; 0 where u was inside or none was needed.
        feasible: epsilon could be reached, bool.
        converged: the optimality residual is below the tolerance, bool.
    """

    steps: Tensor
    feasible: Tensor
    converged: Tensor


class CgEllipsoid:
    """Projection on {x : ‖A x - y‖ <= epsilon} for any operator, without a factorisation of A Aᴴ.

    The systems (mu + AᴴA) d = Aᴴ(y - A u) of all mu live in one Krylov space. It is built once per projection
    (Golub-Kahan bidiagonalisation from y - A u, mathematically conjugate gradients), and mu is found by
    Newton's method on the small projected problem. So a projection costs about one CG solve, and ‖A x - y‖ =
    epsilon holds at every step, not only at convergence. Vectors are kept, k (N + M) numbers per problem.

    Args:
        A: any LinearOperator.
        tol: stop a problem when ‖Aᴴ(y - A x) - mu (x - u)‖ <= tol ‖Aᴴ(y - A u)‖.
        max_iter: Krylov steps at most.
        check_every: steps between two root searches, more of them later on.

    `info` is the `EllipsoidInfo` of the latest call.

    Source: Golub, von Matt (1991), Quadratically constrained least squares and quadratic problems; Paige,
        Saunders (1982), LSQR; Simon, Zha (2000) for orthogonalising one side.
    """

    method = "krylov"

    def __init__(self, A: LinearOperator, tol: float = 1e-6, max_iter: int = 200, check_every: int = 4) -> None:
        self.A, self.tol, self.max_iter, self.check_every = A, tol, max_iter, check_every
        self.info: EllipsoidInfo | None = None

    def __call__(
        self, u: Tensor, y: Tensor, epsilon: Tensor | float, mu0: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x, A x, mu): see `EllipsoidProjector`."""
        batch = u.shape[: u.ndim - len(self.A.in_shape)]
        u_ = u.reshape(-1, *self.A.in_shape)
        n, kind = len(u_), wide(u.device)
        Au = self.A(u_)
        r = y.reshape(-1, *self.A.out_shape) - Au
        radius = torch.as_tensor(epsilon, dtype=kind, device=u.device).expand(batch).reshape(-1)
        start = None if mu0 is None else mu0.to(u.device, kind).reshape(-1)

        beta = norm(r, 1)
        x, Ax = u_.clone(), Au.clone()
        mu = torch.full((n,), torch.inf, dtype=kind, device=u.device)
        steps = torch.zeros(n, dtype=torch.int64, device=u.device)
        feasible = torch.ones(n, dtype=torch.bool, device=u.device)
        converged = torch.ones(n, dtype=torch.bool, device=u.device)
        outside = torch.nonzero(beta > radius).flatten()
        if len(outside) > 0:
            part = self._krylov(r[outside], beta[outside], radius[outside], None if start is None else start[outside])
            d, Ad, mu[outside], steps[outside], feasible[outside], converged[outside] = part
            x[outside] += d
            Ax[outside] += Ad
        self.info = EllipsoidInfo(steps.reshape(batch), feasible.reshape(batch), converged.reshape(batch))
        return x.reshape(u.shape), Ax.reshape(y.shape), mu.reshape(batch)

    def _krylov(
        self, r: Tensor, beta: Tensor, radius: Tensor, mu0: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """d, A d, mu, steps, feasible, converged for (mu + AᴴA) d = Aᴴ r, ‖r - A d‖ = radius < ‖r‖ = beta."""
        A, n = self.A, len(r)
        d_all = r.new_zeros(n, *A.in_shape)
        Ad_all = torch.zeros_like(r)
        mu_all = torch.zeros_like(beta)
        steps_all = torch.zeros(n, dtype=torch.int64, device=r.device)
        feasible_all = torch.zeros(n, dtype=torch.bool, device=r.device)
        converged_all = torch.zeros(n, dtype=torch.bool, device=r.device)

        active = torch.arange(n, device=r.device)
        left = _Basis(r / over(beta, r))  # u_1, u_2, ...: orthonormal in measurement space
        first = A.adjoint(left.last)
        alpha = norm(first, 1)
        right = _Basis(_unit(first, alpha))  # v_1, v_2, ... in image space
        # One orthonormal side keeps the other nearly so (Simon, Zha); the image space is the large one as a
        # rule,
        # and where it is not, its end is reached and must be seen.
        both = math.prod(A.in_shape) <= math.prod(A.out_shape)
        alphas, betas = [alpha], [beta]  # B is lower bidiagonal: alphas on, betas[1:] below the diagonal
        for k in range(1, self.max_iter + 1):
            # A v_k = alpha_k u_k + beta_{k+1} u_{k+1};  Aᴴ u_{k+1} = beta_{k+1} v_k + alpha_{k+1} v_{k+1}
            p = left.orthogonalise(A(right.last) - over(alphas[-1], left.last) * left.last)
            betas.append(_length(p, alphas[-1]))
            left.append(_unit(p, betas[-1]))
            q = A.adjoint(left.last) - over(betas[-1], right.last) * right.last
            q = right.orthogonalise(q) if both else q
            alphas.append(_length(q, betas[-1]))
            exhausted = (betas[-1] == 0) | (alphas[-1] == 0)
            every = max(self.check_every, k // 8 if self.check_every > 1 else 1)
            if k % every and k < self.max_iter and not bool(exhausted.all()):
                right.append(_unit(q, alphas[-1]))
                continue
            z, t, mu, feasible = _projected(
                torch.stack(alphas[:k], -1), torch.stack(betas, -1), radius, mu0, smallest_multiplier(r.dtype)
            )
            # Aᴴ(r - A d) - mu d = alpha_{k+1} t_{k+1} v_{k+1}: the gap costs nothing to know
            gap = alphas[-1] * t[..., -1].abs()
            done = (gap <= self.tol * alphas[0] * betas[0]) | exhausted
            leave = torch.ones_like(done) if k == self.max_iter else done
            if bool(leave.any()):
                out = active[leave]
                d_all[out] = right.combine(z)[leave]
                Ad_all[out] = r[leave] - left.combine(t)[leave]
                mu_all[out], steps_all[out] = mu[leave], k
                feasible_all[out], converged_all[out] = feasible[leave], done[leave]
            if bool(leave.all()):
                break
            right.append(_unit(q, alphas[-1]))
            if bool(leave.any()):
                stay = ~leave
                active, radius, r = active[stay], radius[stay], r[stay]
                mu0 = None if mu0 is None else mu0[stay]
                left.keep(stay)
                right.keep(stay)
                alphas, betas = [v[stay] for v in alphas], [v[stay] for v in betas]
        return d_all, Ad_all, mu_all, steps_all, feasible_all, converged_all


class _Basis:
    """Orthonormal vectors per problem, (n, k, *shape), in a buffer that doubles when it is full."""

    def __init__(self, first: Tensor) -> None:
        self.shape = first.shape[1:]
        self.size = 1
        self.buffer = first.new_empty(len(first), 16, first[0].numel())
        self.buffer[:, 0] = first.flatten(1)

    @property
    def last(self) -> Tensor:
        return self.buffer[:, self.size - 1].reshape(-1, *self.shape)

    def append(self, v: Tensor) -> None:
        if self.size == self.buffer.shape[1]:
            self.buffer = torch.cat((self.buffer, torch.empty_like(self.buffer)), 1)
        self.buffer[:, self.size] = v.flatten(1)
        self.size += 1

    def orthogonalise(self, v: Tensor) -> Tensor:
        """v without its parts along the basis: rounding brings them back, and ‖U t‖ = ‖t‖ needs them gone."""
        u, flat = self.buffer[:, : self.size], v.flatten(1).unsqueeze(1)
        part = flat.conj() @ u.mT  # conj⟨u, v⟩, so that no copy of the basis is conjugated
        return (flat - part.conj() @ u).reshape(v.shape)

    def combine(self, t: Tensor) -> Tensor:
        """Σ_i t_i u_i for t (n, k)."""
        u = self.buffer[:, : self.size]
        return (t.to(u.dtype).unsqueeze(1) @ u).reshape(-1, *self.shape)

    def keep(self, which: Tensor) -> None:
        self.buffer = self.buffer[which]


def _projected(
    alphas: Tensor, betas: Tensor, radius: Tensor, mu0: Tensor | None, floor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z (n, k), t = beta_1 e_1 - B z (n, k + 1), mu, feasible of the projected problem."""
    n, k = alphas.shape
    B = alphas.new_zeros(n, k + 1, k)
    index = torch.arange(k)
    B[:, index, index] = alphas
    B[:, index + 1, index] = betas[:, 1:]
    P, s, Qh = torch.linalg.svd(B)
    c = betas[:, :1] * P[:, 0, :]  # Pᵀ (beta_1 e_1)
    lam = torch.nn.functional.pad(s**2, (0, 1))  # the last direction is what A V_k cannot reach
    mu, feasible = secular_root(lam, c**2, radius, mu0, floor=floor)
    m = mu.unsqueeze(-1)
    t = torch.einsum("nij,nj->ni", P, c * (m / (m + lam)))
    z = torch.einsum("nji,nj->ni", Qh, c[:, :k] * s / (m + s**2))
    return z, t, mu, feasible


def _length(v: Tensor, scale: Tensor) -> Tensor:
    """‖v‖, or 0 where it is rounding against `scale`: the Krylov space is exhausted."""
    size = norm(v, 1)
    return torch.where(size <= 10 * torch.finfo(v.dtype).eps * scale, torch.zeros_like(size), size)


def _unit(v: Tensor, size: Tensor) -> Tensor:
    return torch.where(over(size, v) == 0, torch.zeros_like(v), v / over(size.clamp_min(1e-300), v))
