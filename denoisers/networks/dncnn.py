"""DnCNN in two and three dimensions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.networks.layers import channels_last, conv, noise_map


class DnCnn(nn.Module):
    """Plain stack of 3 x 3 (x 3) convolutions with ReLU and biases, no normalisation.

    With the defaults and `noise_channel` off it is the network of RED-PSM: 8 convolutions, 222 785 parameters,
    receptive field 17 x 17.

    Args:
        n_dims: 2 or 3.
        n_layers: hidden layers; two more convolutions lead in and out.
        channels: of the hidden layers.
        output: "residual": the input minus what the layers give; "direct": what they give.
        noise_channel: tell it the noise level by a second input channel; without it is blind.

    Source: Zhang et al. (2017), DnCNN; layers as in RP 4 (Iskender, Klasky, Bresler, RED-PSM).
    """

    def __init__(
        self,
        n_dims: int = 2,
        n_layers: int = 6,
        channels: int = 64,
        output: Literal["residual", "direct"] = "residual",
        noise_channel: bool = False,
    ) -> None:
        super().__init__()
        if n_dims not in (2, 3):
            raise ValueError(f"DnCnn n_dims: expected 2 or 3, got {n_dims}")
        if output not in ("residual", "direct"):
            raise ValueError(f"DnCnn output: expected residual or direct, got {output}")
        self.n_dims = n_dims
        self.conditioned = noise_channel
        self.reach = n_layers + 2
        self.output = output
        kind = conv(n_dims)
        self.first = kind(1 + noise_channel, channels, 3, padding=1)
        self.hidden = nn.ModuleList(kind(channels, channels, 3, padding=1) for _ in range(n_layers))
        self.last = kind(channels, 1, 3, padding=1)

    def forward(self, v: Tensor, sigma: Tensor) -> Tensor:
        """v (b, 1, *spatial), sigma (b,) in v's units; same shape back."""
        z = torch.cat([v, noise_map(sigma / 0.05, v)], dim=1) if self.conditioned else v
        z = F.relu(self.first(channels_last(z)))
        for layer in self.hidden:
            z = F.relu(layer(z))
        z = self.last(z).to(v.dtype)
        return v - z if self.output == "residual" else z
