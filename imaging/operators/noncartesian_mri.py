"""MRI along a trajectory: non-uniform Fourier transforms of coil images, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.coils import CoilOperator
from imaging.operators.nufft import make_nufft

#: Samples may lie this much outside of the Nyquist box: trajectories are measured, and rounded.
NYQUIST_SLACK = 1.001
#: Relative accuracy of the transform in single precision, where the points' rounding leaves 1e-5, and in double.
ACCURACY = {torch.complex64: 2e-5, torch.complex128: 1e-12}
DENSITY_STEPS = 20
#: Voxels whose Toeplitz products are taken at once on a CPU: more leave the cache.
FEW = 2**16


class NonCartesianMri(CoilOperator):
    """Samples along a trajectory: y_fc[j] = w_fj (1/√N) Σ_n Σ_s m_sc[n] x_fs[n] exp(-2πi k_fj·r_n).

    r_n = (n - N // 2) · spacing + shift. AᴴA is an exact Toeplitz product: two transforms on twice the voxels.

    Args:
        maps: sensitivities, complex (set, coil, z, y, x), unitless.
        points: k, real (frame, readout, sample, D) or (readout, sample, D) for one frame, 1/m; the columns are ky, kx
            (D = 2, then z has one voxel) or kz, ky, kx.
        spacing_m: of the voxels, z, y, x, metres.
        shift_m: of the field of view, z, y, x, metres.
        weights: square roots of the samples' weights, real ≥ 0, (frame, readout, sample); None is 1.
        accuracy: of the transform, relative; None is 2e-5 for complex64 and 1e-12 for complex128.

    x: (*batch, frame, [set,] z, y, x), y: (*batch, frame, coil, readout, sample), dtype of the maps.

    Raises:
        ShapeError: maps, points or weights of another shape.
        DtypeError: maps are not complex.
        ValueError: points that are not finite, or outside of the Nyquist box |k| ≤ 1/(2 spacing).

    Source: Fessler, Sutton (2003), Nonuniform fast Fourier transforms; Fessler et al. (2005), Toeplitz-based.
    """

    points: Tensor
    phase: Tensor
    weights: Tensor

    def __init__(
        self,
        maps: Tensor,
        points: Tensor,
        spacing_m: Sequence[float],
        *,
        shift_m: Sequence[float] = (0.0, 0.0, 0.0),
        weights: Tensor | None = None,
        accuracy: float | None = None,
    ) -> None:
        name = "NonCartesianMri"
        points = points[None] if points.ndim == 3 else points
        if points.ndim != 4 or points.shape[-1] not in (2, 3) or 0 in points.shape:
            raise ShapeError(
                f"{name} points: expected (frame, readout, sample, 2 or 3), columns (kz,) ky, kx, got "
                f"{tuple(points.shape)}"
            )
        super().__init__(maps, len(points), points.shape[1:3], ("readout", "sample"))
        n_dims = points.shape[-1]
        if n_dims == 2 and maps.shape[2] != 1:
            raise ShapeError(
                f"{name} maps: expected one voxel along z, since the points have two columns, got {maps.shape[2]}; "
                "image slice by slice, or give kz, ky, kx"
            )
        spacing = torch.as_tensor(list(spacing_m), dtype=torch.float64)[-n_dims:]
        turns = _turns(name, points.detach().cpu().double(), spacing)
        self.shape = tuple(int(n) for n in maps.shape[-n_dims:])
        self.accuracy = ACCURACY[maps.dtype] if accuracy is None else float(accuracy)
        least = 2 * torch.finfo(maps.dtype).eps
        if not least <= self.accuracy < 1:
            raise ValueError(f"{name} accuracy: expected {least:.1e} to 1 in {maps.dtype}, got {accuracy}")
        self.register_buffer("points", (2 * math.pi * turns).flatten(1, 2).transpose(1, 2).contiguous())
        shift = torch.as_tensor(list(shift_m), dtype=torch.float64)[-n_dims:]
        angle = -2 * math.pi * ((turns * (shift / spacing)).sum(-1) % 1.0)
        phase = torch.polar(torch.ones_like(angle), angle) / math.sqrt(math.prod(self.shape))
        self.register_buffer("phase", phase.flatten(1).to(maps))
        if weights is not None and tuple(weights.shape) != tuple(points.shape[:3]):
            raise ShapeError(f"{name} weights: expected {tuple(points.shape[:3])}, got {tuple(weights.shape)}")
        weights = torch.ones(points.shape[:3]) if weights is None else weights
        self.register_buffer("weights", weights.flatten(1).to(maps.real))
        self._kernel: Tensor | None = None
        self._nufft: Any = None
        self._fine: Any = None

    @property
    def nufft(self) -> Any:
        """The transform on this device; one plan for all frames."""
        if self._nufft is None or self._nufft.device != self.device:
            self._nufft = make_nufft(self.shape, self.accuracy, self.dtype, self.device)
        return self._nufft

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M, exactly: every sample takes all voxels with modulus w/√N."""
        power = float(self.maps.abs().double().square().sum()) / math.prod(self.shape)
        return float(self.weights.double().square().mean()) * power / self.n_coils

    def _transform(self, coils: Tensor, frame: int) -> Tensor:
        samples = self.nufft.type2(self.points[frame], coils.reshape(-1, *self.shape), key=frame)
        samples = samples * (self.phase[frame] * self.weights[frame])
        return samples.reshape(*coils.shape[:2], *self.out_shape[2:])

    def _transform_adjoint(self, samples: Tensor, frame: int) -> Tensor:
        flat = samples.flatten(0, 1).flatten(1) * (self.phase[frame].conj() * self.weights[frame])
        image = self.nufft.type1(self.points[frame], flat, key=frame)
        return image.reshape(*samples.shape[:2], *self.maps.shape[2:])

    # -- the normal operator --------------------------------------------------------------------

    def point_spread(self, frame: int) -> Tensor:
        """See `CoilOperator`: the adjoint transform of the weights, on twice the voxels."""
        twice = tuple(2 * n if n > 1 else 1 for n in self.shape)
        if self._fine is None or self._fine.device != self.device:
            accuracy = 1e-9 if self.dtype == torch.complex64 else 1e-14
            self._fine = make_nufft(twice, accuracy, torch.complex128, self.device)
        weights = self.weights[frame].square().to(torch.complex128)
        spread = self._fine.type1(self.points[frame], weights[None], key=frame)[0] / math.prod(self.shape)
        for axis in range(-len(self.shape), 0):  # centred: lag -N first; no pair of voxels is N apart
            if spread.shape[axis] > 1:
                spread.select(axis, 0).zero_()
                spread = torch.fft.ifftshift(spread, dim=axis)
        return spread.reshape(*(1,) * (3 - len(self.shape)), *twice)

    def toeplitz_kernel(self) -> Tensor:
        """Eigenvalues of the circulant matrix of twice the size that holds AᴴA of a uniform coil.

        Returns:
            real (frame, *twice), in the order of torch.fft, axes rotated as `_transform_gram` leaves them: (x, y) in 2D
            and (y, x, z) in 3D; made at the first use.
        """
        if self._kernel is None or self._kernel.device != self.device:
            kernels = []
            for frame in range(len(self.points)):
                spread = self.point_spread(frame).reshape(*(2 * n if n > 1 else 1 for n in self.shape))
                kernel = torch.fft.fftn(spread).real
                for _ in self.shape[1:]:
                    kernel = kernel.movedim(-1, 0)
                kernels.append(kernel.to(self.maps.real.dtype))
            self._kernel = torch.stack(kernels)
            self._fine = None  # its grid is large
        return self._kernel

    def _transform_gram(self, coils: Tensor, frame: int) -> Tensor:
        """Axis by axis, always the last one: padded, transformed, moved to the front; no zeros are transformed."""
        kernel, n_dims = self.toeplitz_kernel()[frame], len(self.shape)
        images = coils.reshape(-1, *self.shape)
        out = torch.empty_like(images)
        each = max(1, FEW // math.prod(self.shape)) if images.device.type == "cpu" else len(images)
        for first in range(0, len(images), each):
            v = images[first : first + each]
            for i, n in enumerate(reversed(self.shape)):
                v = v if i == 0 else v.movedim(-1, -n_dims)
                v = torch.fft.fft(v, n=2 * n) if n > 1 else v
            v = v * kernel
            for i, n in enumerate(self.shape):
                v = torch.fft.ifft(v)[..., :n] if n > 1 else v
                v = v if i == n_dims - 1 else v.movedim(-n_dims, -1)
            out[first : first + each] = v
        return out.reshape(coils.shape)


def _turns(name: str, points: Tensor, spacing: Tensor) -> Tensor:
    """k · spacing, turns per voxel, float64.

    Raises:
        ValueError: not finite, or beyond half a turn.
    """
    if not bool(torch.isfinite(points).all()):
        raise ValueError(f"{name} points: expected finite numbers, found NaN or Inf; leave those samples out")
    turns = points * spacing
    most = float(turns.abs().max())
    if most > 0.5 * NYQUIST_SLACK:
        raise ValueError(
            f"{name} points: expected |k| of at most 1/(2 spacing), found {most / 0.5:.3g} times that; the trajectory "
            "must be in 1/m (not rad/m, nor 1/mm, nor a fraction of the field of view), or the voxels are too large"
        )
    return turns


def density_compensation(
    points: Tensor, spacing_m: Sequence[float], shape: Sequence[int], *, n_iter: int = DENSITY_STEPS
) -> Tensor:
    """Area of k-space that each sample stands for, by iterating w ← w / (C * w).

    C is the Fourier transform of Π (1 - |n|/N) over lags |n| < N, which is ≥ 0 and as wide as the field of view
    resolves; at the fixed point every sample sees a density of 1.

    Args:
        points: 1/m, (frame, readout, sample, D), as `NonCartesianMri` takes them.
        spacing_m, shape: of the voxels, z, y, x; of them the last D are used.
        n_iter: iterations.

    Returns:
        float32 (frame, readout, sample) > 0, in voxels of k-space: their sum is N times the share of the Nyquist box
        that is sampled, and the adjoint of weighted samples gives the image back where the sampling is dense enough.

    Raises:
        ValueError: points that are not finite, or outside of the Nyquist box.

    Source: Pipe, Menon (1999), Sampling density compensation in MRI.
    """
    n_dims = points.shape[-1]
    spacing = torch.as_tensor(list(spacing_m), dtype=torch.float64)[-n_dims:]
    turns = _turns("density_compensation", points.detach().double().cpu(), spacing).to(points.device)
    shape = tuple(int(n) for n in shape[-n_dims:])
    twice = tuple(2 * n if n > 1 else 1 for n in shape)
    window = torch.ones((), dtype=torch.float64, device=points.device)
    for n, m in zip(shape, twice, strict=True):
        lag = (torch.arange(m, device=points.device) - m // 2).abs()
        window = window[..., None] * (1 - lag.double() / n).clamp_min(0)
    nufft = make_nufft(twice, 1e-4, torch.complex64, points.device)
    weights = torch.empty(points.shape[:3], dtype=torch.float32, device=points.device)
    for f, frame in enumerate(turns):
        at = (2 * math.pi * frame).flatten(0, 1).T.contiguous()
        w = torch.ones(1, at.shape[1], dtype=torch.complex64, device=points.device)
        for _ in range(n_iter):
            seen = nufft.type2(at, nufft.type1(at, w, key=f) * window.to(torch.float32), key=f)
            w = w / seen.real.clamp_min(torch.finfo(torch.float32).tiny)
        weights[f] = w.real.reshape(points.shape[1:3]) * math.prod(shape)
    return weights
