"""States of the sparse Bayesian estimators, and when to stop them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.solvers.state import State


@dataclass(frozen=True, kw_only=True)
class SblState(State):
    """The posterior after an iteration; x is its mean.

    `objective` is L = log det Σ_y + yᴴ Σ_y⁻¹ y, the negative logarithm of the evidence but for a constant; `primal` is
    ‖γ - γ_previous‖ / ‖γ_previous‖ and `dual` |L - L_previous| / M: other units of y add a constant to L, so that its
    change has none and its size is arbitrary.

    Args:
        variance: posterior variance of every coefficient, (*batch, *A.in_shape), float64, units of |x|².
        gamma: prior variances, (*batch, *A.in_shape), float64, units of |x|²; 0 masks a coefficient for good.
        noise_var: noise variance, given or the present estimate, (*batch,), float64, units of |y|².
    """

    variance: Tensor
    gamma: Tensor
    noise_var: Tensor

    @property
    def mean(self) -> Tensor:
        """x."""
        return self.x

    @property
    def std(self) -> Tensor:
        """Posterior standard deviation of every coefficient, units of |x|."""
        return self.variance.sqrt()

    @property
    def active(self) -> Tensor:
        """Which prior variances are not masked, bool like `gamma`."""
        return self.gamma > 0


@dataclass(frozen=True, kw_only=True)
class KroneckerSblState(SblState):
    """State with γ = γ_1 ⊗ … ⊗ γ_I; `gamma` holds the factors side by side, (*batch, ΣN_i).

    All but the last factor have unit norm.

    Args:
        latent: u_i of a pattern-coupled γ_i = C_i u_i, side by side like `gamma`; None without coupling.
    """

    latent: Tensor | None = None

    @property
    def gammas(self) -> tuple[Tensor, ...]:
        """γ_1, …, γ_I, (*batch, N_i) each."""
        return self.gamma.split(self.variance.shape[self.primal.ndim :], dim=-1)


def evidence_change_below(tol: float) -> Callable[[SblState], Tensor]:
    """Stop when L has changed by less than tol per measurement; the evidence comes with every iteration."""

    def rule(state: SblState) -> Tensor:
        return state.dual < tol

    return rule


def gamma_change_below(tol: float) -> Callable[[SblState], Tensor]:
    """Stop when ‖γ - γ_previous‖ <= tol ‖γ_previous‖, the published rule (KS 1.8)."""

    def rule(state: SblState) -> Tensor:
        return state.primal <= tol

    return rule


def relative_change(now: Tensor, before: Tensor) -> Tensor:
    """‖now - before‖ / ‖before‖ of (n, ...), (n,); 0 for 0 / 0."""
    change = (now - before).flatten(1).norm(dim=1)
    return torch.where(change > 0, change / before.flatten(1).norm(dim=1), 0.0)
