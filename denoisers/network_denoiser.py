"""A network as a denoiser: clamped, chunked, tiled, in the precision that is asked for."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from denoisers.errors import DenoiserError
from denoisers.tiled import Tiled
from denoisers.training import as_channels
from denoisers.wrappers import check_call

Precision = Literal["float32", "bfloat16"]

#: Voxels that go through a network at once at most; its activations take some 200 bytes a voxel.
VOXELS_AT_ONCE = 4_000_000
#: Edge of what the tiles of larger volumes give; they see as far beyond as the network looks.
TILE = 96


class NoiseLevelWarning(UserWarning):
    """A network is told a noise level that it was not trained on."""


class NetworkDenoiser:
    """A `Denoiser` around a network.

    Args:
        network: called as (v (b, 1, *spatial), sigma (b,)); one with `n_parts` = 2 denoises complex images, as
            (b, 2, *spatial).
        n_dims: of the network; a 2D one takes a volume slice by slice along its first axis.
        noise_range: what it was trained on; outside it warns once.
        precision: "bfloat16" runs convolutions in bfloat16 (input, output and gate stay float32).
        nonnegative: clamp the output at 0, as magnitudes need (NF 4.2); complex images are left as they are.
        voxels_at_once: images go through in chunks of no more, larger volumes in tiles.
    """

    takes_sigma_per_image = True

    def __init__(
        self,
        network: nn.Module,
        *,
        n_dims: int = 3,
        noise_range: tuple[float, float] | None = None,
        precision: Precision = "float32",
        nonnegative: bool = True,
        voxels_at_once: int = VOXELS_AT_ONCE,
    ) -> None:
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"denoiser precision: expected float32 or bfloat16, got {precision}")
        layout = torch.channels_last_3d if n_dims == 3 else torch.channels_last
        self.network = network.eval().to(memory_format=layout)  # type: ignore[call-overload]
        self.n_dims, self.noise_range = n_dims, noise_range
        self.precision, self.nonnegative, self.voxels_at_once = precision, nonnegative, voxels_at_once
        align = max(8, int(getattr(network, "multiple", 8)))  # of its poolings
        reach = self.reach
        self._tiled = Tiled(
            self._chunk,
            tile=-(-TILE // align) * align,
            overlap=None if reach is None else 2 * reach,
            align=align,
            margin=reach,
        )
        self._warned = False

    @property
    def takes_complex(self) -> bool:
        """Whether it denoises complex images, real and imaginary part together."""
        return getattr(self.network, "n_parts", 1) == 2

    @property
    def reach(self) -> int | None:
        """How many voxels away in each direction the network looks at most, if it says so; in its own axes only."""
        reach = getattr(self.network, "reach", None)
        return reach if isinstance(reach, int) else None

    def __call__(self, v: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise.

        Args:
            v: real, or complex if `takes_complex`: (batch, nz, ny, nx), or (batch, ny, nx) for a 2D network.
            sigma: noise standard deviation in v's units, one number or (batch,); of complex images that of each part.

        Returns:
            Same shape and dtype; computed in single precision.

        Raises:
            DenoiserError: of the arguments.
        """
        if self.takes_complex and not v.is_complex():
            raise DenoiserError(f"NetworkDenoiser input: expected complex images, as in training, got {v.dtype}")
        check_call(
            "NetworkDenoiser",
            v.real if self.takes_complex else v,
            sigma,
            n_axes=(3, 4) if self.n_dims == 2 else (4,),
            per_image=True,
        )
        if v.numel() == 0:
            return v.clone()
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=v.device).expand(len(v))
        self._check(levels)
        flat = v
        if self.n_dims == 2 and v.ndim == 4:
            flat, levels = v.flatten(0, 1), levels.repeat_interleave(v.shape[1])
        flat = flat.to(torch.complex64 if self.takes_complex else torch.float32)
        per_image = flat[0].numel()
        if per_image > self.voxels_at_once and self.n_dims == 3:
            out = torch.cat([self._tiled(x[None], float(s)) for x, s in zip(flat, levels, strict=True)])
        else:
            size = max(1, self.voxels_at_once // max(1, per_image))
            parts = zip(flat.split(size), levels.split(size), strict=True)
            out = torch.cat([self._chunk(x, s) for x, s in parts])
        return out.reshape(v.shape).to(v.dtype)

    def _chunk(self, v: Tensor, sigma: float | Tensor) -> Tensor:
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=v.device).expand(len(v))
        half = self.precision == "bfloat16"
        with torch.no_grad(), torch.autocast(v.device.type, torch.bfloat16, enabled=half):
            out = self.network(as_channels(v), levels).to(torch.float32)
        if self.takes_complex:
            return torch.complex(out[:, 0], out[:, 1])
        out = out[:, 0]
        return out.clamp_min(0) if self.nonnegative else out

    def _check(self, levels: Tensor) -> None:
        if self._warned or self.noise_range is None or len(levels) == 0:
            return
        low, high = self.noise_range
        least, most = float(levels.min()), float(levels.max())
        if least < low * (1 - 1e-6) or most > high * (1 + 1e-6):
            self._warned = True
            warnings.warn(
                f"noise level {most if most > high else least:g} is outside {low:g} to {high:g}, which the network was "
                "trained on; what it does there is not known",
                NoiseLevelWarning,
                stacklevel=3,
            )
