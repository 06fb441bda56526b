"""Non-uniform Fourier transforms: finufft on the CPU, sparse Kaiser-Bessel gridding in torch on other devices.

Both take points θ, (D, n_points) in radians per voxel, and voxels n - N // 2 along every axis:

    type 2: f_j = Σ_n v_n exp(-i θ_j·n)        type 1, its adjoint: v_n = Σ_j f_j exp(+i θ_j·n)

`key` names the points: a plan that was given the same points last does not sort them again.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

#: Accuracy down to which the small oversampled grid of finufft serves.
COARSE = {torch.complex64: 2e-5, torch.complex128: 1e-9}
#: Numbers of all images from which on threads gain more than they cost where another process holds a core.
THREADS_PAY = 2**22
#: Gridding: oversampling, and bytes of interpolation matrices that are kept.
OVERSAMPLING, KEPT_BYTES = 2.0, 2**29


class Nufft(Protocol):
    """A pair of transforms of one image shape."""

    device: torch.device

    def type2(self, points: Tensor, v: Tensor, *, key: Hashable) -> Tensor:
        """(n, *shape) -> (n, n_points)."""
        ...

    def type1(self, points: Tensor, f: Tensor, *, key: Hashable) -> Tensor:
        """(n, n_points) -> (n, *shape)."""
        ...


def make_nufft(shape: Sequence[int], accuracy: float, dtype: torch.dtype, device: torch.device) -> Nufft:
    """The transform for a device.

    Args:
        shape: of the image, D axes. accuracy: relative. dtype: complex64 or complex128.
    """
    if device.type == "cpu":
        return Finufft(shape, accuracy, dtype)
    return Gridding(shape, accuracy, dtype, device)


class Finufft:
    """Plans of finufft, one for each number of images at once; only their points change from frame to frame.

    Source: Barnett, Magland, af Klinteberg (2019), A parallel nonuniform fast Fourier transform library.
    """

    device = torch.device("cpu")

    def __init__(self, shape: Sequence[int], accuracy: float, dtype: torch.dtype) -> None:
        self.shape, self.accuracy, self.dtype = tuple(shape), accuracy, dtype
        self._plans: dict[tuple[int, int, int], list[Any]] = {}

    def type2(self, points: Tensor, v: Tensor, *, key: Hashable) -> Tensor:
        """(n, *shape) -> (n, n_points)."""
        return self._run(2, points, v, key).reshape(len(v), -1)

    def type1(self, points: Tensor, f: Tensor, *, key: Hashable) -> Tensor:
        """(n, n_points) -> (n, *shape)."""
        return self._run(1, points, f, key).reshape(len(f), *self.shape)

    def _run(self, kind: int, points: Tensor, values: Tensor, key: Hashable) -> Tensor:
        import finufft

        n = len(values)
        threads = torch.get_num_threads() if n * math.prod(self.shape) >= THREADS_PAY else 1
        held = self._plans.get((kind, n, threads))
        if held is None:
            plan = finufft.Plan(
                kind,
                self.shape,
                n,
                eps=self.accuracy,
                isign=-1 if kind == 2 else 1,
                dtype="complex64" if self.dtype == torch.complex64 else "complex128",
                upsampfac=1.25 if self.accuracy >= COARSE[self.dtype] else 2.0,
                fftw=0,  # measured: what FFTW estimates is up to seven times slower
                nthreads=threads,
            )
            held = self._plans[kind, n, threads] = [plan, None]
        plan, known = held
        if known != key:
            real = torch.float32 if self.dtype == torch.complex64 else torch.float64
            plan.setpts(*(p.detach().to(real).numpy() for p in points))
            held[1] = key
        data = values.detach().contiguous().resolve_conj().numpy()
        return torch.from_numpy(plan.execute(data if n > 1 else data[0]))


class Gridding:
    """Kaiser-Bessel interpolation on an oversampled grid, as one sparse matrix per set of points, and an FFT.

    Source: Beatty, Nishimura, Pauly (2005), Rapid gridding reconstruction with a minimal oversampling ratio.
    """

    def __init__(self, shape: Sequence[int], accuracy: float, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self.width = max(3, min(16, math.ceil(-math.log10(accuracy)) + 1))
        self.grid = tuple(_even(OVERSAMPLING * n) if n > 1 else 1 for n in shape)
        ratio = self.width / OVERSAMPLING
        self.beta = math.pi * math.sqrt(max(ratio**2 * (OVERSAMPLING - 0.5) ** 2 - 0.8, 1.0))
        self._deapodise = torch.ones((), dtype=torch.float64, device=device)
        for n, g in zip(self.shape, self.grid, strict=True):
            self._deapodise = self._deapodise[..., None] * self._window(n, g)
        self._deapodise = self._deapodise.to(torch.float32 if dtype == torch.complex64 else torch.float64)
        self._matrices: OrderedDict[Hashable, tuple[Tensor, Tensor]] = OrderedDict()

    def type2(self, points: Tensor, v: Tensor, *, key: Hashable) -> Tensor:
        """(n, *shape) -> (n, n_points)."""
        axes = tuple(range(-len(self.shape), 0))
        grid = v.new_zeros(len(v), *self.grid)
        grid[(slice(None), *self._where())] = v * self._deapodise
        spectrum = torch.fft.fftn(torch.fft.ifftshift(grid, dim=axes), dim=axes)
        matrix, _ = self._matrix(points, key)
        return _real_times_complex(matrix, spectrum.reshape(len(v), -1).T).T

    def type1(self, points: Tensor, f: Tensor, *, key: Hashable) -> Tensor:
        """(n, n_points) -> (n, *shape)."""
        axes = tuple(range(-len(self.shape), 0))
        _, transposed = self._matrix(points, key)
        spectrum = _real_times_complex(transposed, f.T).T.reshape(len(f), *self.grid)
        image = torch.fft.fftshift(torch.fft.ifftn(spectrum, dim=axes, norm="forward"), dim=axes)
        return image[(slice(None), *self._where())] * self._deapodise

    def _where(self) -> tuple[slice, ...]:
        return tuple(slice(g // 2 - n // 2, g // 2 - n // 2 + n) for n, g in zip(self.shape, self.grid, strict=True))

    def _window(self, n: int, g: int) -> Tensor:
        """1 / the transform of the kernel at voxels -N // 2 ... of an axis, float64 (n,)."""
        if g == 1:
            return torch.ones(1, dtype=torch.float64, device=self.device)
        at = (torch.arange(n, dtype=torch.float64, device=self.device) - n // 2) / g
        inside = torch.sqrt(torch.complex(self.beta**2 - (math.pi * self.width * at) ** 2, torch.zeros_like(at)))
        return (inside / torch.sinh(inside)).real / self.width * float(torch.special.i0(_double(self.beta)))

    def _matrix(self, points: Tensor, key: Hashable) -> tuple[Tensor, Tensor]:
        """The interpolation (n_points, grid) and its transpose, sparse CSR."""
        if key in self._matrices:
            self._matrices.move_to_end(key)
            return self._matrices[key]
        real = torch.float32 if self.dtype == torch.complex64 else torch.float64
        n_points = points.shape[1]
        index = torch.zeros(n_points, 1, dtype=torch.int64, device=self.device)
        value = torch.ones(n_points, 1, dtype=torch.float64, device=self.device)
        for theta, g in zip(points.double(), self.grid, strict=True):
            if g == 1:
                continue
            at = theta * (g / (2 * math.pi))
            first = torch.ceil(at - self.width / 2)
            near = first[:, None] + torch.arange(self.width, device=self.device)
            off = 2 * (near - at[:, None]) / self.width
            kernel = torch.special.i0(self.beta * (1 - off.square()).clamp_min(0).sqrt()) / torch.special.i0(
                _double(self.beta).to(self.device)
            )
            index = (index[:, :, None] * g + (near.long() % g)[:, None]).flatten(1)
            value = (value[:, :, None] * kernel[:, None]).flatten(1)
        rows = torch.arange(n_points, device=self.device).repeat_interleave(index.shape[1])
        size = (n_points, math.prod(self.grid))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "sparse CSR is in beta"
            coo = torch.sparse_coo_tensor(torch.stack((rows, index.flatten())), value.flatten().to(real), size)
            coo = coo.coalesce()
            pair = coo.to_sparse_csr(), coo.t().coalesce().to_sparse_csr()
        each = 2 * coo._nnz() * (real.itemsize + 8)
        while self._matrices and (len(self._matrices) + 1) * each > KEPT_BYTES:
            self._matrices.popitem(last=False)
        self._matrices[key] = pair
        return pair


def _double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _even(value: float) -> int:
    """The next even size whose only prime factors are 2, 3 and 5."""
    n = 2 * math.ceil(value / 2)
    while True:
        rest = n
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 2


def _real_times_complex(matrix: Tensor, dense: Tensor) -> Tensor:
    """A real sparse matrix times complex columns, real and imaginary parts side by side."""
    parts = torch.view_as_real(dense.contiguous()).flatten(1)
    return torch.view_as_complex((matrix @ parts).reshape(matrix.shape[0], -1, 2))
