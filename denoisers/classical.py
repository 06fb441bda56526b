"""Denoisers that need no training: non-local means, total variation, wavelet shrinkage, from scikit-image.

``-d denoisers.classical:NonLocalMeans`` names one on the command line, `CLASSICAL` lists them. All are told sigma,
work image by image on the CPU in float64 on v / sigma, so that D(c v, c sigma) = c D(v, sigma), and return v's shape,
dtype and device. sigma = 0 returns v unchanged. Axes of one voxel are left out of the computation.

The figures below are MSE after / MSE before, on six Gaussian blobs or six balls of peak 0.4 to 1 in 24³ and 64²
voxels at sigma 0.05 to 0.2; the defaults are compromises between the four.
"""

from __future__ import annotations

import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoisers.errors import DenoiserError
from denoisers.wrappers import Sigma, check_call, check_count
from imaging.priors.protocols import Denoiser

Array = np.ndarray[Any, np.dtype[np.float64]]


class _PerImage(ABC):
    """From a function of one array with unit noise to a denoiser of batches."""

    takes_sigma_per_image = True
    _least_axes = 1  # what the library needs

    def __call__(self, v: Tensor, sigma: Sigma) -> Tensor:
        """v: real (batch, nz, ny, nx) or (batch, ny, nx); sigma: in v's units, a number or (batch,).

        Raises:
            DenoiserError: of the arguments.
        """
        check_call(type(self).__name__, v, sigma, per_image=True)
        sigmas = torch.as_tensor(sigma, dtype=torch.float64).cpu().expand(len(v)).tolist()
        out = v.clone()
        for i, level in enumerate(sigmas):
            if level > 0 and v[i].numel() > 0:
                image = v[i].detach().to("cpu", torch.float64).numpy() / level
                out[i] = torch.from_numpy(self._thick(image) * level).to(v)
        return out

    def _thick(self, image: Array) -> Array:
        """`_denoise` without the axes of one voxel."""
        thin = [axis for axis, n in enumerate(image.shape) if n == 1]
        left_out = tuple(thin[: max(image.ndim - self._least_axes, 0)])
        return self._denoise(np.squeeze(image, left_out)).reshape(image.shape)

    @abstractmethod
    def _denoise(self, image: Array) -> Array:
        """One image whose noise has standard deviation 1."""


@dataclass(frozen=True)
class NonLocalMeans(_PerImage):
    """Average of the voxels whose surroundings look alike, up to noise.

    Args:
        patch: side of the compared surroundings, voxels; odd suits.
        search: how far to look for them, voxels to each side; time grows with (2 search + 1)^axes.
        h: decay of the weights with the patches' distance, as a fraction of sigma; larger is smoother.

    v, sigma: as for every denoiser here. MSE to 5 to 18 %; h = 0.6 suits volumes, 1.0 images. A volume of 96³
    takes some seven seconds.

    Raises:
        DenoiserError: of the arguments.

    Source: Buades, Coll, Morel, IPOL 1:208 (2011), with sigma known; fast variant, Darbon et al., ISBI (2008).
    """

    patch: int = 3
    search: int = 3
    h: float = 0.6
    _least_axes = 2

    def __post_init__(self) -> None:
        check_count("NonLocalMeans", "patch", self.patch, 1, "it is a side in voxels")
        check_count("NonLocalMeans", "search", self.search, 1, "it is a distance in voxels")
        _check_fraction("NonLocalMeans", "h", self.h, 0.6)

    def _denoise(self, image: Array) -> Array:
        from skimage.restoration import denoise_nl_means

        out: Array = denoise_nl_means(
            image,
            patch_size=self.patch,
            patch_distance=self.search,
            h=self.h,
            sigma=1.0,
            fast_mode=True,
            preserve_range=True,
        )
        return out


@dataclass(frozen=True)
class TvChambolle(_PerImage):
    """argmin_x ½‖x - v‖² + weight · sigma · TV(x), isotropic.

    Args:
        weight: λ / sigma, unitless. The best is 0.6 in volumes and 1.0 in images; at 0.8 the MSE falls to 5 to
            15 % in both.
        max_iter: of Chambolle's iteration; it ends before when the objective changes by less than 1e-5 of its start.

    v, sigma: as for every denoiser here. `imaging.priors.TotalVariation` is the prior for solvers; this is the
    yardstick behind a denoiser's call.

    Raises:
        DenoiserError: of the arguments.

    Source: Chambolle, J. Math. Imaging Vis. 20:89 (2004).
    """

    weight: float = 0.8
    max_iter: int = 100

    def __post_init__(self) -> None:
        _check_fraction("TvChambolle", "weight", self.weight, 0.8)
        check_count("TvChambolle", "max_iter", self.max_iter, 1)

    def _denoise(self, image: Array) -> Array:
        from skimage.restoration import denoise_tv_chambolle

        out: Array = denoise_tv_chambolle(image, weight=self.weight, eps=1e-5, max_num_iter=self.max_iter)
        return out


@dataclass(frozen=True)
class Wavelet(_PerImage):
    """Soft thresholding of orthogonal wavelet coefficients, averaged over shifts of the grid.

    Each sub-band has its BayesShrink threshold, sigma² / its clean standard deviation. The shifts wrap around, so
    that opposite borders touch.

    Args:
        wavelet: an orthogonal one of PyWavelets' names.
        levels: scales at most; small images have fewer.
        shifts: the grid moves by 0 to `shifts` voxels along every axis; time grows with (shifts + 1)^axes. 0 leaves
            blocks behind and about doubles the error that is left.

    v, sigma: as for every denoiser here. MSE to 4 to 9 % for blobs, whose edges are soft, but only to 12 to 46 %
    for balls: sharp edges are for the other two.

    Raises:
        DenoiserError: of the arguments, or PyWavelets is missing.

    Source: Chang, Yu, Vetterli, IEEE TIP 9:1532 (2000); Coifman, Donoho (1995) for the shifts.
    """

    wavelet: str = "db2"
    levels: int = 3
    shifts: int = 1

    def __post_init__(self) -> None:
        check_count("Wavelet", "levels", self.levels, 1)
        check_count("Wavelet", "shifts", self.shifts, 0)
        pywt = _pywt()
        if self.wavelet not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(self.wavelet).orthogonal:
            raise DenoiserError(
                f"Wavelet wavelet: expected an orthogonal one, as haar, db2, sym4 or coif1, got {self.wavelet!r}"
            )

    def _denoise(self, image: Array) -> Array:
        from skimage.restoration import denoise_wavelet

        axes = tuple(range(image.ndim))
        most = int(_pywt().dwtn_max_level(image.shape, self.wavelet))
        out = np.zeros_like(image)
        with warnings.catch_warnings():  # images smaller than the filter still get one level
            warnings.filterwarnings("ignore", message="Level value of 1 is too high", category=UserWarning)
            for shift in itertools.product(*(range(min(self.shifts, n - 1) + 1) for n in image.shape)):
                moved = denoise_wavelet(
                    np.roll(image, shift, axes),
                    sigma=1.0,
                    wavelet=self.wavelet,
                    wavelet_levels=max(1, min(self.levels, most)),
                    method="BayesShrink",
                    mode="soft",
                    rescale_sigma=False,
                )
                out += np.roll(moved, tuple(-s for s in shift), axes)
        return out / math.prod(min(self.shifts, n - 1) + 1 for n in image.shape)


CLASSICAL: dict[str, Callable[[], Denoiser]] = {"nlm": NonLocalMeans, "tv": TvChambolle, "wavelet": Wavelet}


def _pywt() -> Any:
    try:
        import pywt
    except ImportError as error:
        raise DenoiserError(
            "Wavelet: expected the package PyWavelets, found none; pip install 'backcast[wavelet]' brings it"
        ) from error
    return pywt


def _check_fraction(who: str, name: str, value: float, usual: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise DenoiserError(f"{who} {name}: expected > 0, as a fraction of sigma, got {value}; {usual} is usual")
