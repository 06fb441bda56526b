"""The 3D U-Net of the plug-and-play radar paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.networks.layers import Conv3d, channels_last, crop_to, noise_map


class UNet3d(nn.Module):
    """Three-level 3D U-Net with batch normalisation; noise level as a second input channel.

    With 32 channels it has 1 357 505 parameters. No residual connection and no output activation: a denoiser around
    it clamps at 0.

    Args:
        channels: of the first level; each level below has twice as many.

    Source: NF 6.1, the network of Oral and Oktem, IEEE Trans. Computational Imaging 10:762-773 (2024).
    """

    n_dims = 3
    conditioned = True  # it is told the noise level
    reach = 4 * 1 + 4 * 2 + 2 * 4 + 3  # voxels away that an output depends on: convolutions, and the coarsest raster

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        c = channels
        self.enc0, self.enc1, self.bottom = _twice(2, c), _twice(c, 2 * c), _twice(2 * c, 4 * c)
        self.up1, self.up0 = nn.ConvTranspose3d(4 * c, 2 * c, 2, 2), nn.ConvTranspose3d(2 * c, c, 2, 2)
        self.dec1, self.dec0 = _twice(4 * c, 2 * c), _twice(2 * c, c)
        self.out = Conv3d(c, 1, 1)

    def forward(self, v: Tensor, sigma: Tensor) -> Tensor:
        """v (b, 1, nz, ny, nx), sigma (b,) in v's units; same shape back."""
        size = v.shape[2:]
        short = [max(0, 4 - n) for n in size]  # two poolings leave nothing of less
        if any(short):
            v = F.pad(v, [p for s in reversed(short) for p in (0, s)], mode="replicate")
        e0 = self.enc0(channels_last(torch.cat([v, noise_map(sigma, v)], dim=1)))
        e1 = self.enc1(F.max_pool3d(e0, 2))
        bottom = self.bottom(F.max_pool3d(e1, 2))
        d1 = self.dec1(torch.cat([_padded_as(self.up1(bottom), e1), e1], dim=1))
        d0 = self.dec0(torch.cat([_padded_as(self.up0(d1), e0), e0], dim=1))
        return crop_to(self.out(d0), size)


def _cbr(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU())


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_cbr(inputs, outputs), _cbr(outputs, outputs))


def _padded_as(v: Tensor, like: Tensor) -> Tensor:
    """Zeros at the end of every axis that is short."""
    return F.pad(v, [p for n, m in zip(v.shape[:1:-1], like.shape[:1:-1], strict=True) for p in (0, m - n)])
