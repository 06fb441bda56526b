"""Denoisers made of a denoiser: scale equivariance, non-negativity, small batches, 2D slice by slice.

Each is called as ``(v, sigma)`` like the denoiser inside, keeps shape and dtype, and nests in any order that makes
sense: ``ScaleEquivariant(Tiled(network))``, ``SliceWise(Chunked(network_2d, 16), 0)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from denoisers.errors import DenoiserError
from imaging.priors.protocols import Denoiser

Sigma = float | Tensor  # a number, or (batch,) for a denoiser that declares takes_sigma_per_image = True


def takes_sigma_per_image(denoiser: object) -> bool:
    """Whether a denoiser accepts sigma as a tensor (batch,): it says so by an attribute of this name."""
    return getattr(denoiser, "takes_sigma_per_image", False) is True


def reach_of(denoiser: object) -> int | None:
    """How many voxels away in each direction a denoiser looks at most, if it says so by an attribute `reach`."""
    reach = getattr(denoiser, "reach", None)
    return reach if isinstance(reach, int) else None


def check_inner(who: str, inner: object) -> None:
    """Raises DenoiserError unless `inner` can be called."""
    if not callable(inner):
        raise DenoiserError(f"{who} inner: expected a denoiser called as (v, sigma), got {type(inner).__name__}")


def check_count(who: str, name: str, value: Any, least: int, hint: str = "") -> None:
    """Raises DenoiserError unless `value` is an integer >= least."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DenoiserError(f"{who} {name}: expected an integer >= {least}, got {value!r}{hint and '; ' + hint}")


def check_call(who: str, v: Tensor, sigma: Sigma, *, n_axes: Sequence[int] = (3, 4), per_image: bool = False) -> None:
    """Check the arguments of a denoiser.

    Args:
        who: begins the sentence.
        v: real, floating point, `n_axes` axes with the batch first.
        sigma: finite, >= 0; one number, or where `per_image` also a tensor (batch,).

    Raises:
        DenoiserError: the sentence says what was expected.
    """
    if not isinstance(v, Tensor) or not v.is_floating_point():
        got = v.dtype if isinstance(v, Tensor) else type(v).__name__
        raise DenoiserError(f"{who} input: expected a real floating-point tensor, got {got}; denoise magnitudes")
    if v.ndim not in n_axes:
        wanted = " or ".join({3: "(batch, ny, nx)", 4: "(batch, nz, ny, nx)"}[n] for n in n_axes)
        raise DenoiserError(f"{who} input: expected {wanted}, got {tuple(v.shape)}; v[None] adds the batch axis")
    if is_per_image(sigma):
        if not per_image:
            raise DenoiserError(
                f"{who} sigma: expected one number, got a tensor {tuple(sigma.shape)}; "
                "the denoiser inside does not declare takes_sigma_per_image = True"
            )
        if sigma.shape != v.shape[:1]:
            raise DenoiserError(
                f"{who} sigma: expected ({v.shape[0]},), one per image, got {tuple(sigma.shape)} for v {tuple(v.shape)}"
            )
        fine = bool((torch.isfinite(sigma) & (sigma >= 0)).all())
    else:
        fine = math.isfinite(sigma) and float(sigma) >= 0
    if not fine:
        raise DenoiserError(f"{who} sigma: expected finite and >= 0, got {sigma}; it is a standard deviation")


def call(who: str, inner: Any, v: Tensor, sigma: Sigma) -> Tensor:
    """inner(v, sigma), checked to keep shape and dtype. Raises DenoiserError."""
    out = inner(v, sigma)
    if not isinstance(out, Tensor):
        raise DenoiserError(f"{who} inner: expected a tensor back, got {type(out).__name__}")
    if out.shape != v.shape or out.dtype != v.dtype:
        raise DenoiserError(
            f"{who} inner: expected {tuple(v.shape)} {v.dtype} back, got {tuple(out.shape)} {out.dtype}; "
            "a denoiser keeps shape and dtype"
        )
    return out


def is_per_image(sigma: Sigma) -> TypeGuard[Tensor]:
    """Whether sigma is a tensor (batch,) rather than a number."""
    return isinstance(sigma, Tensor) and sigma.ndim > 0


def sigma_of(sigma: Sigma, images: slice) -> Sigma:
    """The part of sigma that belongs to some images of the batch."""
    return sigma[images] if is_per_image(sigma) else sigma


@dataclass(frozen=True)
class ScaleEquivariant:
    """D(v, sigma) = peak · inner(v / peak, sigma / peak), peak = max|v| per image: D(c v, c sigma) = c D(v, sigma).

    For networks that saw images of peak 1 in training; sigma stays in v's units. In `imaging.priors.Magnitude`,
    ``relative=True`` means something else: there sigma itself is relative to the peak, and does not grow with v.
    Images that are 0 everywhere come back unchanged.

    Args:
        inner: called with images of peak 1. One that declares ``takes_sigma_per_image = True`` gets the batch in
            one call and sigma as a tensor (batch,) in v's dtype; any other is called image by image.

    v: real (batch, nz, ny, nx) or (batch, ny, nx); sigma: in v's units, a number or (batch,).

    Raises:
        DenoiserError: of the arguments, or inner changed shape or dtype.
    """

    inner: Denoiser
    takes_sigma_per_image = True  # not a field: no annotation

    def __post_init__(self) -> None:
        check_inner("ScaleEquivariant", self.inner)

    def __call__(self, v: Tensor, sigma: Sigma) -> Tensor:
        check_call("ScaleEquivariant", v, sigma, per_image=True)
        peak = v.abs().flatten(1).amax(1)
        lit = (peak != 0).nonzero()[:, 0]  # NaN too: it is for inner to refuse
        sigmas = torch.as_tensor(sigma, dtype=torch.float64, device=v.device).expand(len(v))
        level = sigmas / peak.double()
        out = v.clone()
        if len(lit) == 0:
            return out
        for i in lit.split(len(lit) if takes_sigma_per_image(self.inner) else 1):
            scale = peak[i].view(-1, *(1,) * (v.ndim - 1))
            told: Sigma = level[i].to(v.dtype) if takes_sigma_per_image(self.inner) else float(level[i])
            out[i] = call("ScaleEquivariant", self.inner, v[i] / scale, told) * scale
        return out


@dataclass(frozen=True)
class NonNegative:
    """max(inner(v, sigma), 0), for images that are magnitudes or densities.

    v: real (batch, nz, ny, nx) or (batch, ny, nx); sigma: in v's units.

    Raises:
        DenoiserError: of the arguments, or inner changed shape or dtype.
    """

    inner: Denoiser

    def __post_init__(self) -> None:
        check_inner("NonNegative", self.inner)

    @property
    def reach(self) -> int | None:
        return reach_of(self.inner)

    @property
    def takes_sigma_per_image(self) -> bool:
        return takes_sigma_per_image(self.inner)

    def __call__(self, v: Tensor, sigma: Sigma) -> Tensor:
        check_call("NonNegative", v, sigma, per_image=self.takes_sigma_per_image)
        return call("NonNegative", self.inner, v, sigma).clamp_min(0)


@dataclass(frozen=True)
class Chunked:
    """inner on at most `size` images at a time, so that its memory does not grow with the batch.

    Args:
        inner: a denoiser that treats the images of a batch independently.
        size: images per call, >= 1.

    v: real (batch, nz, ny, nx) or (batch, ny, nx); sigma: in v's units.

    Raises:
        DenoiserError: of the arguments, or inner changed shape or dtype.
    """

    inner: Denoiser
    size: int

    def __post_init__(self) -> None:
        check_inner("Chunked", self.inner)
        check_count("Chunked", "size", self.size, 1, "it counts images per call")

    @property
    def reach(self) -> int | None:
        return reach_of(self.inner)

    @property
    def takes_sigma_per_image(self) -> bool:
        return takes_sigma_per_image(self.inner)

    def __call__(self, v: Tensor, sigma: Sigma) -> Tensor:
        check_call("Chunked", v, sigma, per_image=self.takes_sigma_per_image)
        if len(v) <= self.size:
            return call("Chunked", self.inner, v, sigma)
        chunks = [slice(i, i + self.size) for i in range(0, len(v), self.size)]
        return torch.cat([call("Chunked", self.inner, v[i], sigma_of(sigma, i)) for i in chunks])


#: Axes (z, y, x as 1, 2, 3) that each mirror image turns round, in sets that are groups.
_MIRRORS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((),),
    2: ((), (1, 2, 3)),
    4: ((), (1, 2), (1, 3), (2, 3)),
    8: ((), (1, 2), (1, 3), (2, 3), (1,), (2,), (3,), (1, 2, 3)),
}


@dataclass(frozen=True)
class SelfEnsemble:
    """The mean of inner over mirror images, each turned back: as good in one direction as in the other.

    A trained network prefers nothing by design, but treats an object and its mirror image slightly differently. Inside
    an iteration such errors repeat and grow; averaged over mirror images they mostly cancel, which also lowers the
    error of a single call.

    Args:
        inner: a denoiser of volumes.
        n: mirror images, 1, 2 (the volume, and turned round in all axes), 4 or 8; inner is called as often.

    v: real (batch, nz, ny, nx); sigma: in v's units.

    Source: geometric self-ensemble, Lim et al. (2017), EDSR; in plug-and-play, Terris et al. (2024), Equivariant
    plug-and-play image reconstruction.

    Raises:
        DenoiserError: of the arguments, or inner changed shape or dtype.
    """

    inner: Denoiser
    n: int = 4

    def __post_init__(self) -> None:
        check_inner("SelfEnsemble", self.inner)
        if self.n not in _MIRRORS:
            raise DenoiserError(f"SelfEnsemble n: expected 1, 2, 4 or 8 mirror images, got {self.n!r}")

    @property
    def reach(self) -> int | None:
        return reach_of(self.inner)

    @property
    def takes_sigma_per_image(self) -> bool:
        return takes_sigma_per_image(self.inner)

    def __call__(self, v: Tensor, sigma: Sigma) -> Tensor:
        check_call("SelfEnsemble", v, sigma, n_axes=(4,), per_image=self.takes_sigma_per_image)
        out = call("SelfEnsemble", self.inner, v, sigma)
        for axes in _MIRRORS[self.n][1:]:
            out = out + call("SelfEnsemble", self.inner, v.flip(axes), sigma).flip(axes)
        return out / self.n


@dataclass(frozen=True)
class SliceWise:
    """A 2D denoiser on the slices of volumes; the slices of all volumes form one batch.

    Args:
        inner: 2D denoiser, called with (slices, rows, columns), the two axes in the order z, y, x. All slices come
            in one call; ``Chunked(inner, 16)`` bounds it.
        axis: the slices are perpendicular to it: 0 = z, 1 = y, 2 = x. None averages over the three directions,
            which removes streaks between slices and costs three times as much; directions whose slices would be
            one voxel thin are left out, unless all are.

    v: real (batch, nz, ny, nx); sigma: in v's units.

    Raises:
        DenoiserError: of the arguments, or inner changed shape or dtype.
    """

    inner: Denoiser
    axis: int | None = 0

    def __post_init__(self) -> None:
        check_inner("SliceWise", self.inner)
        if self.axis is not None and (isinstance(self.axis, bool) or self.axis not in (0, 1, 2)):
            raise DenoiserError(f"SliceWise axis: expected 0 (z), 1 (y), 2 (x) or None (all three), got {self.axis!r}")

    @property
    def takes_sigma_per_image(self) -> bool:
        return takes_sigma_per_image(self.inner)

    def __call__(self, v: Tensor, sigma: Sigma) -> Tensor:
        check_call("SliceWise", v, sigma, n_axes=(4,), per_image=self.takes_sigma_per_image)
        if self.axis is not None:
            return self._along(self.axis, v, sigma)
        thick = [axis for axis in range(3) if min(v.shape[1 + other] for other in {0, 1, 2} - {axis}) > 1]
        axes = thick or [0, 1, 2]
        out = self._along(axes[0], v, sigma)
        for axis in axes[1:]:
            out = out + self._along(axis, v, sigma)
        return out / len(axes)

    def _along(self, axis: int, v: Tensor, sigma: Sigma) -> Tensor:
        slices = v.movedim(axis + 1, 1)
        told = sigma.repeat_interleave(slices.shape[1]) if is_per_image(sigma) else sigma
        out = call("SliceWise", self.inner, slices.flatten(0, 1), told)
        return out.view_as(slices).movedim(1, axis + 1).contiguous()
