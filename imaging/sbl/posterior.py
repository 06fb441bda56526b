"""The exact E-step in measurement space: small eigendecompositions and mode products, nothing dense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from imaging.operators.kronecker import hermitian_eigen, mode_products, outer
from imaging.sbl._problem import abs2


@dataclass(frozen=True)
class Posterior:
    """p(x | y) for x ~ CN(0, diag(γ_1 ⊗ … ⊗ γ_I)), y = (A_1 ⊗ … ⊗ A_I) x + n, n ~ CN(0, σ² I).

    With S_i = A_i diag(γ_i) A_iᴴ = U_i diag(λ_i) U_iᴴ, Λ = λ_1 ⊗ … ⊗ λ_I and W = (y ×_i U_iᴴ) / (σ² + Λ),
    everything follows from W, Λ and P_i = A_iᴴ U_i. Each quantity is computed when asked for.

    Args:
        factors: A_i, (M_i, N_i) or (n, M_i, N_i), complex128 or float64.
        y: (n, M_1, …, M_I), the same dtype.
        gammas: γ_i >= 0, (n, N_i), float64; 0 masks a coefficient.
        noise_var: σ² > 0, (n,), float64.
        spectra: λ_i, (n, M_i), and U_i, (n, M_i, M_i).

    Source: KS 1.3.
    """

    factors: tuple[Tensor, ...]
    y: Tensor
    gammas: tuple[Tensor, ...]
    noise_var: Tensor
    spectra: tuple[tuple[Tensor, Tensor], ...]

    @cached_property
    def total(self) -> Tensor:
        """σ² + Λ, the eigenvalues of Σ_y, (n, M_1, …, M_I)."""
        return self._noise + outer([values for values, _ in self.spectra])

    @cached_property
    def weighted(self) -> Tensor:
        """W, (n, M_1, …, M_I)."""
        return mode_products(self.y, [u.mH for _, u in self.spectra]) / self.total

    @cached_property
    def projected(self) -> tuple[Tensor, ...]:
        """P_i = A_iᴴ U_i, (n, N_i, M_i)."""
        return tuple(a.mH @ u for a, (_, u) in zip(self.factors, self.spectra, strict=True))

    @cached_property
    def mean(self) -> Tensor:
        """μ, (n, N_1, …, N_I)."""
        back = [g[..., None] * p for g, p in zip(self.gammas, self.projected, strict=True)]
        return mode_products(self.weighted, back)

    @cached_property
    def power(self) -> Tensor:
        """|μ|², real."""
        return abs2(self.mean)

    @cached_property
    def explained(self) -> Tensor:
        """γ - diag Σ, what the data take from the prior's variance; a sum of terms >= 0."""
        squares = [g[..., None].square() * s for g, s in zip(self.gammas, self._squares, strict=True)]
        return mode_products(1 / self.total, squares)

    @cached_property
    def variance(self) -> Tensor:
        """diag Σ, (n, N_1, …, N_I), real, between 0 and γ."""
        # the difference of two numbers of the size of γ: rounding may leave it a little below 0
        return (outer(self.gammas) - self.explained).clamp_min(0)

    @cached_property
    def second_moment(self) -> Tensor:
        """d = |μ|² + diag Σ, real."""
        return self.power + self.variance

    @cached_property
    def cost(self) -> Tensor:
        """L = log det Σ_y + yᴴ Σ_y⁻¹ y, (n,): -log p(y) without its constant, M log π."""
        return (self.total.log() + self.total * self._data).flatten(1).sum(dim=1)

    @cached_property
    def residual(self) -> Tensor:
        """‖y - A μ‖², (n,)."""
        return self.noise_var.square() * self._data.flatten(1).sum(dim=1)

    @cached_property
    def freedom(self) -> Tensor:
        """Effective number of coefficients that the data determine, Σ_n (1 - Σ_nn / γ_n), (n,)."""
        return (1 - self._noise / self.total).flatten(1).sum(dim=1)

    @cached_property
    def noise_var_next(self) -> Tensor:
        """The EM update of σ², (n,)."""
        return (self.residual + self.noise_var * self.freedom) / math.prod(self.total.shape[1:])

    def slopes(self, i: int) -> tuple[Tensor, Tensor]:
        """(Σ_others |μ|²/γ, Σ_others (1 - diag Σ/γ)) / γ_i for factor i, each (n, N_i).

        γ_i times (second minus first) is the gradient of L with respect to log γ_i. Summed in measurement space, since
        Σ_{n_j} γ_j |h_{n_j}ᴴ u_m|² = λ_j[m]: no tensor of the size of x appears.
        """
        values = [v for v, _ in self.spectra]
        values[i] = torch.ones_like(values[i])
        weight = outer(values)
        rows = (self.weighted * weight.sqrt()).movedim(i + 1, 1).flatten(2)
        fit = abs2(self.projected[i] @ rows).sum(dim=2)
        share = (weight / self.total).movedim(i + 1, 1).flatten(2).sum(dim=2, keepdim=True)
        return fit, (self._squares[i] @ share).squeeze(2)

    def with_factor(self, i: int, gamma: Tensor) -> Posterior:
        """The posterior for another γ_i: one eigendecomposition."""
        spectra = (*self.spectra[:i], spectrum(self.factors[i], gamma), *self.spectra[i + 1 :])
        return Posterior(
            self.factors, self.y, (*self.gammas[:i], gamma, *self.gammas[i + 1 :]), self.noise_var, spectra
        )

    def with_noise_var(self, noise_var: Tensor) -> Posterior:
        """The posterior for another σ²: no eigendecomposition."""
        return Posterior(self.factors, self.y, self.gammas, noise_var, self.spectra)

    @cached_property
    def _squares(self) -> list[Tensor]:
        return [abs2(p) for p in self.projected]

    @cached_property
    def _data(self) -> Tensor:
        return abs2(self.weighted)

    @property
    def _noise(self) -> Tensor:
        return self.noise_var.reshape(-1, *(1,) * (self.y.ndim - 1))


def e_step(factors: Sequence[Tensor], y: Tensor, gammas: Sequence[Tensor], noise_var: Tensor) -> Posterior:
    """The posterior of a batch of problems with one batch axis; see `Posterior` for shapes."""
    spectra = tuple(spectrum(a, g) for a, g in zip(factors, gammas, strict=True))
    return Posterior(tuple(factors), y, tuple(gammas), noise_var, spectra)


def spectrum(factor: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """λ_i (n, M_i) and U_i (n, M_i, M_i) of A_i diag(γ_i) A_iᴴ."""
    half = factor * gamma.sqrt().unsqueeze(1)
    return hermitian_eigen(half @ half.mH)
