"""What training minimises: with clean images, or without."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Share a of the noise that `split` adds; the network is told √(1 + a²) of the level.
SPLIT = 0.5
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor, torch.Generator], Tensor]


def supervised(network: nn.Module, noisy: Tensor, clean: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error against the clean image.

    Args:
        network: called as (v, sigma).
        noisy, clean: (b, 1, *spatial).
        sigma: noise level of each image, (b,).
        generator: unused here; the self-supervised losses draw from it.
    """
    return (network(noisy, sigma) - clean).square().mean()


def log_supervised(
    network: nn.Module, noisy: Tensor, clean: Tensor, sigma: Tensor, generator: torch.Generator, *, floor: float = 1e-3
) -> Tensor:
    """Mean over images of floor · log(1 + e/floor), e the mean squared error of one image.

    For images far easier than others, as white noise beside aliasing: those with e << floor count as in `supervised`,
    those with e >> floor by their ratio, so that neither kind is drowned by the other.
    """
    error = (network(noisy, sigma) - clean).square().flatten(1).mean(1)
    return floor * torch.log1p(error / floor).mean()


def sure(
    network: nn.Module, noisy: Tensor, clean: Tensor, sigma: Tensor, generator: torch.Generator, *, step: float = 1e-3
) -> Tensor:
    """Stein's unbiased risk estimate of the mean squared error; the clean image is not looked at.

        ‖D(y) - y‖²/n - σ² + 2σ²/n div D(y),   div D(y) ≈ bᵀ(D(y + τb) - D(y))/τ,  b ~ N(0, I)

    The divergence by one random probe and a finite difference, τ = step.

    Source: Ramani, Blu, Unser (2008), Monte-Carlo SURE; Soltanayev, Chun (2018) for training with it.
    """
    variance = sigma.square().reshape(-1, *(1,) * (noisy.ndim - 1))
    probe = torch.randn(noisy.shape, generator=generator).to(noisy)
    denoised = network(noisy, sigma)
    divergence = probe * (network(noisy + step * probe, sigma) - denoised) / step
    return ((denoised - noisy).square() - variance + 2 * variance * divergence).mean()


def split(
    network: nn.Module, noisy: Tensor, clean: Tensor, sigma: Tensor, generator: torch.Generator, *, a: float = SPLIT
) -> Tensor:
    """Noise splitting: two images with independent noise made from one, one in, the other out.

        y₁ = y + a n,  y₂ = y - n/a,  n ~ N(0, σ²):  E‖D(y₁) - y₂‖² = E‖D(y₁) - x‖² + const

    The network sees the noise level √(1 + a²) σ of y₁.

    Source: Pang et al. (2021), Recorrupted-to-Recorrupted, for white noise of known level; the clean image is not
    looked at.
    """
    n = sigma.reshape(-1, *(1,) * (noisy.ndim - 1)) * torch.randn(noisy.shape, generator=generator).to(noisy)
    return (network(noisy + a * n, sigma * (1 + a * a) ** 0.5) - (noisy - n / a)).square().mean()


LOSSES: dict[str, Loss] = {
    "supervised": supervised,
    "log_supervised": log_supervised,
    "sure": sure,
    "split": split,
}
