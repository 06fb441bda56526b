"""TD-DIP, a time-dependent deep image prior, for tomography: one network that maps each instant to a frame.

The published one is for MRI with two output channels; this one has one channel and fits each instant's view. Source:
RP 5.3, Yoo et al., IEEE Trans. Medical Imaging 40 (2021), arXiv 1910.01684. What RP does not settle: the final
convolution is 3 x 3 and without activation; frames are shown with the batch normalisation of that one frame, as in
training; the movie is 0 outside the mask.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imaging.operators import TimeSequential
from imaging.operators.sparse import SparseMatrix

#: Side of the image that MapNet draws; four doublings lead to the frame.
SEED_SIDE = 8


@dataclass(frozen=True, kw_only=True)
class TdDipState:
    """State after `every` steps.

    Args:
        step: Adam steps so far.
        x: the movie, (P, ny, nx).
        loss: mean square of the last frame's residual.
        elapsed_s: processor time since the state before, without drawing x.
    """

    step: int
    x: Tensor
    loss: float
    elapsed_s: float


def td_dip(
    A: TimeSequential,
    y: Tensor,
    *,
    mask: Tensor,
    latent: Literal["helix", "line"] = "helix",
    cycles: float = 1.0,
    peak: float = 0.068,
    n_steps: int = 10_000,
    every: int = 500,
    lr: float = 1e-3,
    halve_every: int = 2000,
    channels: int = 128,
    seed: int = 0,
) -> Iterator[TdDipState]:
    """Fit a network's movie to one view per instant, one random frame a step.

    Args:
        A: (P, 1, 128, 128) -> (P, 1, J), one view per instant in order, its matrix stored.
        y: (P, 1, J).
        mask: bool (ny, nx), where the movie is not 0.
        latent: "helix" (cos, sin, z) with `cycles` turns, or "line" (0, 0, z).
        peak: of the object; the network's output is multiplied by it, and the loss is that of y / peak.
        n_steps: Adam steps; every: steps between states; lr is halved every `halve_every`.
        channels: of the convolutions.
        seed: of weights and frames.

    Yields:
        TdDipState every `every` steps. The published code keeps the checkpoint that is closest to the truth.

    Raises:
        ValueError: an image of another side than 8 · 2⁴, or an operator without stored matrix.
    """
    n_frames, _, n_y, n_x = A.in_shape
    if (n_y, n_x) != (16 * SEED_SIDE, 16 * SEED_SIDE):
        raise ValueError(f"td_dip: expected {16 * SEED_SIDE} x {16 * SEED_SIDE} pixels, got {n_y} x {n_x}")
    matrix = A.static.matrix
    if matrix is None:
        raise ValueError("td_dip: expected an operator with a stored matrix; raise its memory_limit")
    n_bins = y.shape[-1]
    views = [matrix.rows(slice(p * n_bins, (p + 1) * n_bins)) for p in range(n_frames)]
    z = latent_curve(n_frames, latent, cycles).to(y)
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TdDipNetwork(channels).to(y.device, y.dtype)
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, halve_every, 0.5)
    scaled = y[:, 0] / peak
    begin = time.process_time()
    for step in range(1, n_steps + 1):
        p = int(torch.randint(n_frames, (1,), generator=draw))
        optimiser.zero_grad()
        image = network(z[p : p + 1])[0, 0] * mask
        value = (_View.apply(image.flatten(), views[p]) - scaled[p]).square().mean()
        value.backward()
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == n_steps:
            elapsed = time.process_time() - begin
            with torch.no_grad():
                x = peak * torch.cat([network(z[p : p + 1])[:, 0] for p in range(n_frames)]) * mask
            yield TdDipState(step=step, x=x, loss=float(value.detach()), elapsed_s=elapsed)
            begin = time.process_time()


class TdDipNetwork(nn.Module):
    """MapNet 3 -> 512 -> 64, drawn as 8 x 8, then convolutions and four doublings: (b, 3) -> (b, 1, 128, 128).

    With 128 channels 1.33 million parameters in the convolutions and 35 thousand in MapNet (RP 5.3).
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(3, 512), nn.ReLU(), nn.Linear(512, SEED_SIDE**2))
        layers = [*_conv(1, channels), *_conv(channels, channels)]
        for _ in range(4):
            layers += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                *_conv(channels, channels),
                *_conv(channels, channels),
            ]
        self.net = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1, bias=False))

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.net(self.map(z).reshape(-1, 1, SEED_SIDE, SEED_SIDE))
        return image


def latent_curve(n_frames: int, kind: Literal["helix", "line"], cycles: float = 1.0) -> Tensor:
    """Points of the latent space, float64 (P, 3): cos 2π c t, sin 2π c t, t over 0 to 1; a line has 0, 0, t."""
    t = torch.linspace(0, 1, n_frames, dtype=torch.float64)
    if kind == "line":
        return torch.stack([torch.zeros_like(t), torch.zeros_like(t), t], dim=1)
    if kind != "helix":
        raise ValueError(f"td_dip latent: expected helix or line, got {kind}")
    phase = 2 * torch.pi * cycles * t
    return torch.stack([torch.cos(phase), torch.sin(phase), t], dim=1)


class _View(torch.autograd.Function):
    """One view of one image, (n_pixels,) -> (J,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, view: SparseMatrix) -> Tensor:
        ctx.view = view
        return view.matmul(x[None])[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.view.rmatmul(gradients[0][None])[0], None


def _conv(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
