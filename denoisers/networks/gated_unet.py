"""A fast denoiser in two and three dimensions: a U-Net after space-to-depth, full size at the end, a gated output."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.networks.layers import (
    channels_last,
    conv,
    crop_to,
    depth_to_space,
    noise_map,
    pad_to_multiple,
    space_to_depth,
)

#: Bound of the offset: images have a peak of about 1, and training stays stable.
LARGEST = 2.0


class GatedUNet(nn.Module):
    """D(v) = v + s(sigma) · (g · v + h - v), gate 0 < g < 1 and offset |h| < 2 per voxel, s(0) = 0 and s(∞) = 1.

    Images whose objects stand in an empty field: a direct output has to repeat what it sees where there is something, a
    residual one has to repeat the noise where there is nothing; with a gate each is one number (0 or 1), which small
    networks learn in a tenth of the steps. All convolutions but the last two run on an eighth (2D: a quarter) of the
    voxels or fewer; those two, with few channels at full size, sharpen edges and leave no trace of the coarse raster.
    Without noise the image stays as it is, by construction. There is no normalisation, so an image's result does not
    depend on its batch.

    Args:
        channels: of each level, the first on half-size images, each further one on half of that.
        blocks: residual blocks of each level; those of all levels but the last run twice, on the way down and up.
        fine: channels at full size.
        n_dims: 2 or 3.
        noise_unit: noise levels are told in units of this; about the largest that is trained.
        quiet: noise level, in the same units, at which the change of the image is scaled by 1/√2. Below it a
            background of zeros can no longer be cleaned, so keep it under the levels that matter.
        n_parts: images denoised together, as channels: 2 for real and imaginary part.

    Source: own design. Space-to-depth with a noise channel: Zhang, Zuo, Zhang (2018), FFDNet; residual blocks
    without normalisation on U-Net levels: Zhang et al. (2021), DRUNet.
    """

    conditioned = True

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64),
        blocks: tuple[int, ...] = (1, 2),
        fine: int = 8,
        n_dims: int = 3,
        noise_unit: float = 0.2,
        quiet: float = 0.01,
        n_parts: int = 1,
    ) -> None:
        super().__init__()
        if n_dims not in (2, 3):
            raise ValueError(f"GatedUNet n_dims: expected 2 or 3, got {n_dims}")
        if not channels or len(channels) != len(blocks):
            raise ValueError(f"GatedUNet: expected as many blocks as channels, got {blocks} and {channels}")
        if not (noise_unit > 0 and quiet > 0):
            raise ValueError(f"GatedUNet noise_unit, quiet: expected > 0, got {noise_unit} and {quiet}")
        if n_parts not in (1, 2):
            raise ValueError(f"GatedUNet n_parts: expected 1, or 2 for complex images, got {n_parts}")
        self.n_dims, self.noise_unit, self.quiet, self.n_parts = n_dims, noise_unit, quiet, n_parts
        convolution, up = conv(n_dims), nn.ConvTranspose2d if n_dims == 2 else nn.ConvTranspose3d
        pairs = list(itertools.pairwise(channels))
        corners = 2**n_dims
        self.head = convolution(corners * n_parts + 1, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(_residuals(n_dims, c, n) for c, n in zip(channels[:-1], blocks[:-1], strict=True))
        self.down = nn.ModuleList(convolution(c, below, 2, 2) for c, below in pairs)
        self.bottom = _residuals(n_dims, channels[-1], blocks[-1])
        self.up = nn.ModuleList(up(below, c, 2, 2) for c, below in pairs)
        self.decoder = nn.ModuleList(_residuals(n_dims, c, n) for c, n in zip(channels[:-1], blocks[:-1], strict=True))
        self.tail = convolution(channels[0], corners * fine, 3, padding=1)
        self.fine = convolution(fine + n_parts, fine, 3, padding=1)
        self.last = convolution(fine, 2 * n_parts, 3, padding=1)
        self.multiple = 2 ** len(channels)
        passes = [4 * n for n in blocks[:-1]] + [2 * blocks[-1]]  # convolutions of a level's blocks, way up included
        passes[0] += 2  # head and tail
        #: Voxels away that an output depends on at most: convolutions, and the coarsest raster.
        self.reach = 2 + sum(n * 2 ** (i + 1) for i, n in enumerate(passes)) + self.multiple - 1

    def forward(self, v: Tensor, sigma: Tensor) -> Tensor:
        """v (b, n_parts, *spatial), sigma (b,) in v's units; same shape back."""
        padded = pad_to_multiple(v, self.multiple)
        level = sigma.to(v.dtype) / self.noise_unit
        z = space_to_depth(padded)
        z = self.head(channels_last(torch.cat([z, noise_map(level, z)], dim=1)))
        skipped = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            z = blocks(z)
            skipped.append(z)
            z = down(z)
        z = self.bottom(z)
        for blocks, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            z = blocks(skipped.pop() + up(z))
        z = F.relu(depth_to_space(self.tail(z)))
        z = F.relu(self.fine(channels_last(torch.cat([z, padded.to(z.dtype)], dim=1))))
        gate, offset = self.last(z).to(v.dtype).split(self.n_parts, dim=1)
        share = (level / (level.square() + self.quiet**2).sqrt()).reshape(-1, 1, *(1,) * self.n_dims)
        change = LARGEST * torch.tanh(offset / LARGEST) - torch.sigmoid(-gate) * padded
        return crop_to(padded + share * change, v.shape[2:])


def _residuals(n_dims: int, channels: int, n: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(n_dims, channels) for _ in range(n)))


class _Residual(nn.Module):
    """x + conv(relu(conv(x))), the identity at the start."""

    def __init__(self, n_dims: int, channels: int) -> None:
        super().__init__()
        self.first = conv(n_dims)(channels, channels, 3, padding=1)
        self.second = conv(n_dims)(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))
