"""A fast 3D denoiser for sparse scenes: space-to-depth, residual blocks on two levels, a gated output."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.networks.layers import (
    Conv3d,
    channels_last,
    crop_to,
    depth_to_space,
    noise_map,
    pad_to_multiple,
    space_to_depth,
)

#: The noise channel is in units of this, so that it is of the order of 1.
SIGMA_UNIT = 0.2
#: Bound of the offset: images have a peak of about 1, and training stays stable.
LARGEST = 2.0


class GatedUNet3d(nn.Module):
    """D(v) = g · v + h, gate 0 < g < 1 and offset |h| < 2 per voxel from a small U-Net on the space-to-depth volume.

    Radar scenes are mostly empty. A direct output has to repeat what it sees where there is something, a residual
    one has to repeat the noise where there is nothing; with a gate each is one number (0 or 1), which small
    networks learn in a tenth of the steps. All convolutions run on an eighth of the voxels or fewer; there is
    no normalisation, so an image's result does not depend on its batch.

    Args:
        channels: of each level, the first on half-size volumes, each further one on half of that.
        blocks: residual blocks of each level; those of all levels but the last run twice, on the way down and up.

    Source: own design. Space-to-depth with a noise channel: Zhang, Zuo, Zhang (2018), FFDNet; residual blocks
    without normalisation on U-Net levels: Zhang et al. (2021), DRUNet.
    """

    n_dims = 3
    conditioned = True

    def __init__(self, channels: tuple[int, ...] = (32, 64), blocks: tuple[int, ...] = (1, 2)) -> None:
        super().__init__()
        if not channels or len(channels) != len(blocks):
            raise ValueError(f"GatedUNet3d: expected as many blocks as channels, got {blocks} and {channels}")
        pairs = list(itertools.pairwise(channels))
        self.head = Conv3d(8 + 1, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(_residuals(c, n) for c, n in zip(channels[:-1], blocks[:-1], strict=True))
        self.down = nn.ModuleList(Conv3d(c, below, 2, 2) for c, below in pairs)
        self.bottom = _residuals(channels[-1], blocks[-1])
        self.up = nn.ModuleList(nn.ConvTranspose3d(below, c, 2, 2) for c, below in pairs)
        self.decoder = nn.ModuleList(_residuals(c, n) for c, n in zip(channels[:-1], blocks[:-1], strict=True))
        self.tail = Conv3d(channels[0], 2 * 8, 3, padding=1)
        self.multiple = 2 ** len(channels)

    def forward(self, v: Tensor, sigma: Tensor) -> Tensor:
        """v (b, 1, nz, ny, nx), sigma (b,) in v's units; same shape back."""
        padded = pad_to_multiple(v, self.multiple)
        z = space_to_depth(padded)
        z = self.head(channels_last(torch.cat([z, noise_map(sigma / SIGMA_UNIT, z)], dim=1)))
        skipped = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            z = blocks(z)
            skipped.append(z)
            z = down(z)
        z = self.bottom(z)
        for blocks, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            z = blocks(skipped.pop() + up(z))
        gate, offset = depth_to_space(self.tail(z)).to(v.dtype).split(1, dim=1)
        return crop_to(torch.sigmoid(gate) * padded + LARGEST * torch.tanh(offset / LARGEST), v.shape[2:])


def _residuals(channels: int, n: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(channels) for _ in range(n)))


class _Residual(nn.Module):
    """x + conv(relu(conv(x))), the identity at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Conv3d(channels, channels, 3, padding=1)
        self.second = Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))
