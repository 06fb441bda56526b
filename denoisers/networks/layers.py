"""Convolutions, padding and space-to-depth that the networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` that always takes oneDNN for inference in float32 on a CPU.

    torch leaves oneDNN out for small batches of small volumes, which costs a factor of up to ten there; the result
    is the same to rounding.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if (
            input.device.type == "cpu"
            and input.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and isinstance(self.padding, tuple)
            and torch.backends.mkldnn.is_available()
            and not torch.compiler.is_compiling()
        ):
            return torch.mkldnn_convolution(input, weight, bias, self.padding, self.stride, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias)


def conv(n_dims: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    """The convolution of 2 or 3 dimensions."""
    return nn.Conv2d if n_dims == 2 else Conv3d


def channels_last(x: Tensor) -> Tensor:
    """The same tensor with the channels innermost, which convolutions on a CPU are fastest with."""
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


def pad_to_multiple(v: Tensor, multiple: int) -> Tensor:
    """Zeros at the end of every spatial axis until its length is a multiple: (b, c, *spatial).

    That is what a padded convolution sees beyond a volume anyway; repeated voxels would look like an object.
    """
    short = [-n % multiple for n in v.shape[2:]]
    if not any(short):
        return v
    return F.pad(v, [p for s in reversed(short) for p in (0, s)])


def crop_to(v: Tensor, size: torch.Size) -> Tensor:
    """The first `size` voxels of the spatial axes."""
    for axis, n in enumerate(size, start=v.ndim - len(size)):
        v = v.narrow(axis, 0, n)
    return v


def space_to_depth(v: Tensor) -> Tensor:
    """Every 2 x 2 (x 2) voxels become channels: (b, c, 2d, 2h, 2w) -> (b, 8c, d, h, w), likewise in two dimensions."""
    b, c, *size = v.shape
    n = len(size)
    v = v.reshape(b, c, *(k for s in size for k in (s // 2, 2)))
    v = v.permute(0, 1, *range(3, 2 * n + 2, 2), *range(2, 2 * n + 2, 2))
    return v.reshape(b, c * 2**n, *(s // 2 for s in size))


def depth_to_space(v: Tensor) -> Tensor:
    """Inverse of `space_to_depth`."""
    b, c, *size = v.shape
    n = len(size)
    v = v.reshape(b, c // 2**n, *(2,) * n, *size)
    v = v.permute(0, 1, *(k for i in range(n) for k in (n + 2 + i, 2 + i)))
    return v.reshape(b, c // 2**n, *(2 * s for s in size))


def noise_map(sigma: Tensor, like: Tensor) -> Tensor:
    """Noise level per image, (b,), as a constant channel (b, 1, *spatial of `like`)."""
    column = sigma.to(like.dtype).reshape(-1, 1, *(1,) * (like.ndim - 2))
    return column.expand(len(like), 1, *like.shape[2:])
