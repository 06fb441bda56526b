"""M-steps: new variances γ_i of the factors. Plain functions of one batch axis, with masks: 0 stays 0.

Every one returns the factors with unit norm but for the last, which holds the scale (KS 1.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from imaging.operators.kronecker import outer

Gammas = tuple[Tensor, ...]


def normalise(gammas: Sequence[Tensor]) -> Gammas:
    """The same γ_1 ⊗ … ⊗ γ_I with ‖γ_i‖ = 1 for all but the last factor."""
    result, scale = [], torch.ones_like(gammas[0][:, :1])
    for g in gammas[:-1]:
        size = torch.linalg.vector_norm(g, dim=1, keepdim=True)
        result.append(torch.where(size > 0, g / size, 0.0))
        scale = scale * size
    return (*result, gammas[-1] * scale)


def alternating_minimisation(
    d: Tensor, gammas: Sequence[Tensor], *, tol: float = 1e-4, atol: float = 0.0, max_sweeps: int = 100
) -> Gammas:
    """Minimise Σ_n log γ_n + d_n / γ_n over γ = γ_1 ⊗ … ⊗ γ_I by exact minimisation in one factor after the other.

    Args:
        d: |μ|² + diag Σ, (n, N_1, …, N_I), >= 0.
        gammas: where to start, (n, N_i); their zeros are masked.
        tol, atol: a problem stops when the norm of the change of γ is <= atol + tol times that of γ.
        max_sweeps: over all factors; 1 is the earlier Kronecker SBL (KS 1.6).

    Source: KS 1.4.
    """
    factors = list(gammas)
    counts = [(g > 0).sum(dim=1, keepdim=True).to(g.dtype) for g in factors]
    whole = torch.stack(counts).prod(dim=0)
    others = [(whole / c.clamp_min(1)).clamp_min(1) for c in counts]
    going = torch.ones_like(counts[0], dtype=torch.bool)
    before = None
    for sweep in range(max_sweeps):
        inverse = [_inverse(g) for g in factors]
        swept, left = [], d
        for i in range(len(factors)):
            part = left
            for w in reversed(inverse[i + 1 :]):  # from the last axis to the one after i
                part = (part @ w.reshape(len(w), *(1,) * (part.ndim - 3), -1, 1)).squeeze(-1)
            g = torch.where(factors[i] > 0, part / others[i], 0.0)
            swept.append(g)
            if i + 1 < len(factors):
                left = (_inverse(g).unsqueeze(1) @ left.flatten(2)).reshape(len(d), *left.shape[2:])
        if max_sweeps == 1:
            return normalise(swept)
        before = outer(factors) if before is None else before
        now = outer(swept)
        change = (now - before).flatten(1).norm(dim=1, keepdim=True)
        size = before.flatten(1).norm(dim=1, keepdim=True)
        factors = [torch.where(going, new, old) for new, old in zip(swept, factors, strict=True)]
        going = going & (change > atol + tol * size)
        if sweep + 1 == max_sweeps or not bool(going.any()):
            break
        before = now
    return normalise(factors)


def rank_one_svd(d: Tensor) -> Gammas:
    """The sequential rank-one approximation of d = |μ|² + diag Σ, (n, N_1, …, N_I). Source: KS 1.5."""
    gammas, rest = [], d
    for _ in range(d.ndim - 2):
        matrix = rest.flatten(2)
        _, vectors = torch.linalg.eigh(matrix @ matrix.mT)
        u = vectors[..., -1].abs()  # the Perron vector: of one sign
        gammas.append(torch.where(matrix.any(dim=2), u, 0.0))  # a masked row is 0 exactly
        rest = (u.unsqueeze(1) @ matrix).reshape(len(d), *rest.shape[2:])
    return (*gammas, rest)


def mm_factor(gamma: Tensor, fit: Tensor, load: Tensor, coupling: Tensor | None = None) -> Tensor:
    """One factor of the square-root majorise-minimise update: γ_i ∘ sqrt(fit / load).

    Args:
        gamma: γ_i, or u_i >= 0 of γ_i = C_i u_i with a coupling, (n, N_i).
        fit, load: `Posterior.slopes(i)`, (n, N_i).
        coupling: C_i, (N_i, N_i), entries >= 0.

    Source: KS 1.7; with a coupling KS 5.5.
    """
    if coupling is not None:
        fit, load = fit @ coupling, load @ coupling
    return gamma * torch.where(load > 0, fit / load, 0.0).sqrt()


def coupling_matrix(n: int, strength: float, *, device: torch.device | str = "cpu") -> Tensor:
    """C = I + strength (E₊ + E₋), E± the first off-diagonals; float64 (n, n). Source: KS 1.9."""
    c = torch.eye(n, dtype=torch.float64, device=device)
    c.diagonal(1).fill_(strength)
    c.diagonal(-1).fill_(strength)
    return c


def couple(u: Tensor, coupling: Tensor | None) -> Tensor:
    """γ_i = C_i u_i, (n, N_i); u_i without a coupling."""
    return u if coupling is None else u @ coupling.mT


def pattern_coupled(
    d: Tensor,
    gammas: Sequence[Tensor],
    couplings: Sequence[Tensor | None],
    *,
    offset: float = 1e-5,
    tol: float = 1e-4,
    max_sweeps: int = 9,
) -> Gammas:
    """Alternating minimisation in which γ_i = offset + C_i g_i, g_i >= 0 fitted by least squares.

    Args:
        d: (n, N_1, …, N_I).
        gammas: (n, N_i); their zeros are masked, and their rows and columns of C_i with them.
        couplings: C_i, or None where a factor is not coupled.
        offset: added before the factors get unit norm: the method depends on the units of y.
        tol, max_sweeps: of the sweeps.

    Source: KS 1.9, the published form.
    """
    problems = []
    for p in range(len(d)):
        keep = [g[p] > 0 for g in gammas]
        part = d[p]
        for axis, mask in enumerate(keep):
            part = part.index_select(axis, torch.nonzero(mask).flatten())
        small = [g[p][mask].cpu().numpy() for g, mask in zip(gammas, keep, strict=True)]
        cut = [None if c is None else c[mask][:, mask].cpu().numpy() for c, mask in zip(couplings, keep, strict=True)]
        fitted = _pattern_coupled(part.cpu().numpy(), small, cut, offset, tol, max_sweeps)
        full = []
        for g, mask, value in zip(gammas, keep, fitted, strict=True):
            row = torch.zeros_like(g[p])
            row[mask] = torch.from_numpy(value).to(row)
            full.append(row)
        problems.append(full)
    return tuple(torch.stack(rows) for rows in zip(*problems, strict=True))


def _pattern_coupled(
    d: np.ndarray,
    gammas: list[np.ndarray],
    couplings: list[np.ndarray | None],
    offset: float,
    tol: float,
    max_sweeps: int,
) -> list[np.ndarray]:
    def product(factors: list[np.ndarray]) -> np.ndarray:
        whole = factors[0]
        for f in factors[1:]:
            whole = np.multiply.outer(whole, f)
        return whole

    rank = d.ndim
    before = product(gammas)
    for _ in range(max_sweeps):
        for i in range(rank):
            part = np.moveaxis(d, i, 0)
            for j in reversed([j for j in range(rank) if j != i]):
                part = part @ (1 / gammas[j]) / len(gammas[j])
            c = couplings[i]
            gammas[i] = part if c is None else offset + c @ nnls(c, part)[0]
        for i in range(rank - 1):
            size = np.linalg.norm(gammas[i])
            gammas[i], gammas[-1] = gammas[i] / size, gammas[-1] * size
        now = product(gammas)
        if np.linalg.norm(now - before) <= tol * np.linalg.norm(before):
            break
        before = now
    return gammas


def _inverse(g: Tensor) -> Tensor:
    return torch.where(g > 0, 1 / g, 0.0)
