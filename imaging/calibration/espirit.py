"""Coil sensitivities from the centre of k-space: ESPIRiT, with several sets of maps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.coils import CHUNK

#: Width of the kernel along an axis, in two dimensions and in three.
KERNEL, KERNEL_3D = 6, 5
#: Least singular value, over the largest, that is not numerical noise.
LEAST_SINGULAR = 2e-3
#: The same for one set of maps: weaker components, which several sets need, make object of its surroundings.
LEAST_OF_ONE = 2e-2
#: Eigenvalue below which a voxel holds no signal: 1 where the maps explain the calibration data.
CROP = 0.8
#: Steps of orthogonal iteration with the fourth power of the matrix.
POWERS = 10


@dataclass(frozen=True)
class Espirit:
    """Maps and what they rest on.

    Attributes:
        maps: complex (set, coil, z, y, x); Σ_c |m|² = 1 in a voxel of a set, 0 where its eigenvalue is below the crop.
        eigenvalues: real (set, z, y, x), 1 where the set explains the calibration data, not cropped.
        n_kernels: signal components of the calibration matrix that were kept.
        threshold: singular value, over the largest, above which they were.
    """

    maps: Tensor
    eigenvalues: Tensor
    n_kernels: int
    threshold: float


def espirit(
    calibration: Tensor,
    shape: Sequence[int],
    *,
    n_sets: int = 1,
    kernel: int | None = None,
    threshold: float | None = None,
    crop: float = CROP,
) -> Espirit:
    """Sensitivities as eigenvectors, to the eigenvalue 1, of what the centre of k-space reproduces.

    Every window of kernel³ samples of all coils lies in the row space of the calibration matrix. Projecting all windows
    on it and averaging is a convolution in k-space, so one C x C matrix per voxel; the true sensitivities are its
    eigenvectors to the eigenvalue 1. Several sets belong to voxels in which the object folds onto itself.

    Args:
        calibration: centre of k-space, complex (coil, kz, ky, kx), zero frequency at n // 2; axes of 1 are not encoded.
        shape: of the image, z, y, x.
        n_sets: sets of maps.
        kernel: width of the windows along every encoded axis; None is 6 in 2D and 5 in 3D.
        threshold: singular values below this share of the largest are noise; None takes them from the noise itself,
            and for one set no less than 0.02.
        crop: eigenvalue below which maps are 0.

    Raises:
        ShapeError: the centre is narrower than the kernel, or not 4-D.
        ValueError: no signal, NaN, or a parameter outside of its range.

    The phase of a map is such that the coils' first principal component is real and positive.

    Source: Uecker et al. (2014), ESPIRiT, section Theory; kernels' products as in its appendix.
    """
    if calibration.ndim != 4:
        raise ShapeError(f"espirit calibration: expected (coil, kz, ky, kx), got {tuple(calibration.shape)}")
    if not bool(torch.isfinite(torch.view_as_real(calibration)).all()):
        raise ValueError("espirit calibration: expected finite samples, found NaN or Inf; leave them out of the mask")
    if not bool(calibration.any()):
        raise ValueError("espirit calibration: expected a signal in the centre of k-space, found only zeros")
    n_coils, encoded = len(calibration), [n > 1 for n in calibration.shape[1:]]
    if not 1 <= n_sets <= n_coils:
        raise ValueError(f"espirit n_sets: expected 1 to {n_coils}, the coils, got {n_sets}")
    width = kernel or (KERNEL_3D if all(encoded) else KERNEL)
    window = [width if e else 1 for e in encoded]
    if any(w > n for w, n in zip(window, calibration.shape[1:], strict=True)):
        raise ShapeError(
            f"espirit calibration: expected at least {width} samples along every encoded axis, got "
            f"{tuple(calibration.shape[1:])}; a smaller kernel needs fewer"
        )
    rows = _windows(calibration.to(torch.complex128), window)
    values, vectors = torch.linalg.eigh(rows.mH @ rows)
    singular = values.clamp_min(0).sqrt() / values[-1].sqrt()
    least = threshold
    if least is None:
        least = max(noise_edge(values, len(rows)), LEAST_OF_ONE if n_sets == 1 else 0.0)
    kept = vectors[:, singular >= least]
    # a row of the matrix is a window itself, not its conjugate
    products = _lag_products((kept @ kept.mH).conj(), n_coils, window)
    maps, eigenvalues = _eigenmaps(products, shape, n_sets, calibration.dtype, math.prod(window))
    maps = torch.stack([coil_phase(one, calibration) for one in maps])
    inside = eigenvalues >= crop
    return Espirit(maps * inside[:, None], eigenvalues, kept.shape[1], float(least))


def noise_edge(values: Tensor, n_rows: int) -> float:
    """Singular value, over the largest, above which a component is no noise.

    The lower quartile of the eigenvalues is taken for noise, whose upper edge follows from the law of Marchenko and
    Pastur; windows overlap, which makes the edge wider than independent ones would, hence the factor 2.

    Args:
        values: eigenvalues of AᴴA, ascending. n_rows: of A.
    """
    n = len(values)
    ratio = n / n_rows
    if ratio >= 1:  # fewer windows than samples in one: the smallest eigenvalues are 0 whatever the noise
        return 0.02
    low = float(values[: max(1, n // 4)].mean().clamp_min(0))
    edge = torch.linspace((1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2, 2000, dtype=torch.float64)
    density = ((edge - edge[0]) * (edge[-1] - edge)).clamp_min(0).sqrt() / edge
    share = density.cumsum(0) / density.sum()
    quarter = share <= 0.25
    mean = float((density * edge)[quarter].sum() / density[quarter].sum())
    top = low / mean * float(edge[-1]) * 2
    return max(LEAST_SINGULAR, min(0.1, math.sqrt(top / float(values[-1]))))


def _windows(samples: Tensor, window: Sequence[int]) -> Tensor:
    """Every window of all coils: (n, coil · kz · ky · kx)."""
    for axis, w in enumerate(window, 1):
        samples = samples.unfold(axis, w, 1)
    return samples.permute(1, 2, 3, 0, 4, 5, 6).flatten(3).flatten(0, 2)


def _lag_products(projection: Tensor, n_coils: int, window: Sequence[int]) -> Tensor:
    """Σ over samples a of a window of P[(c, a + lag), (d, a)].

    Returns:
        (coil, coil, 2wz - 1, 2wy - 1, 2wx - 1), lag 0 in the middle.
    """
    wz, wy, wx = window
    blocks = projection.reshape(n_coils, wz, wy, wx, n_coils, wz, wy, wx).permute(0, 4, 1, 2, 3, 5, 6, 7)
    out = projection.new_zeros(n_coils, n_coils, 2 * wz - 1, 2 * wy - 1, 2 * wx - 1)
    for z, y, x in itertools.product(range(wz), range(wy), range(wx)):  # column (z, y, x): lags from -z to wz - 1 - z
        out[..., wz - 1 - z : 2 * wz - 1 - z, wy - 1 - y : 2 * wy - 1 - y, wx - 1 - x : 2 * wx - 1 - x] += blocks[
            ..., z, y, x
        ]
    return out


def _eigenmaps(
    products: Tensor, shape: Sequence[int], n_sets: int, dtype: torch.dtype, n_window: int
) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors of the matrix in every voxel, and their eigenvalues; slice by slice along z."""
    n_coils, (nz, ny, nx), device = len(products), shape, products.device
    maps = torch.empty(n_sets, n_coils, nz, ny, nx, dtype=dtype, device=device)
    eigenvalues = torch.empty(n_sets, nz, ny, nx, dtype=maps.real.dtype, device=device)
    # F^H of the lags at voxels n - N // 2, axis by axis: they are few, so a product with a matrix
    waves = [_waves(n, k, device) for n, k in zip(shape, products.shape[-3:], strict=True)]
    along_z = torch.einsum("zk,cdkyx->zcdyx", waves[0], products) / n_window
    rows = max(1, CHUNK // (n_coils * n_coils * nx))
    for z in range(nz):
        along_x = torch.einsum("xk,cdyk->cdyx", waves[2], along_z[z])
        for top in range(0, ny, rows):
            part = slice(top, top + rows)
            matrix = torch.einsum("yk,cdkx->yxcd", waves[1][part], along_x).to(dtype)
            values, vectors = leading_eigenvectors(matrix, n_sets)
            maps[:, :, z, part] = vectors.permute(3, 2, 0, 1)
            eigenvalues[:, z, part] = values.permute(2, 0, 1)
    return maps, eigenvalues


def _waves(n: int, n_lags: int, device: torch.device) -> Tensor:
    """exp(2πi lag · (n - N // 2) / N), complex128 (n, lag)."""
    lag = torch.arange(n_lags, dtype=torch.float64, device=device) - n_lags // 2
    at = torch.arange(n, dtype=torch.float64, device=device) - n // 2
    return torch.exp(2j * math.pi * at[:, None] * lag / n)


def leading_eigenvectors(matrix: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Of many small Hermitian matrices at once, by squaring, then Rayleigh and Ritz.

    Args:
        matrix: positive semidefinite, (*batch, c, c).
        n: how many.

    Returns:
        eigenvalues, real (*batch, n), descending, and orthonormal eigenvectors (*batch, c, n).
    """
    size = matrix.shape[-1]
    if n + 1 >= size:
        values, vectors = torch.linalg.eigh(matrix)
        return values.flip(-1)[..., :n], vectors.flip(-1)[..., :n]
    tiny = torch.finfo(matrix.real.dtype).tiny
    power = matrix / matrix.diagonal(dim1=-2, dim2=-1).real.sum(-1).clamp_min(tiny)[..., None, None]
    power = power @ power
    power = power @ power
    order = matrix.abs().square().sum(-2).argsort(-1, descending=True)[..., : n + 1]
    basis = torch.gather(matrix, -1, order[..., None, :].expand(*matrix.shape[:-1], n + 1))
    for _ in range(POWERS):
        basis = power @ _orthonormal(basis)
    basis = _orthonormal(basis)
    values, vectors = torch.linalg.eigh(basis.mH @ matrix @ basis)
    return values.flip(-1)[..., :n], (basis @ vectors).flip(-1)[..., :n]


def _orthonormal(x: Tensor) -> Tensor:
    """Columns by Gram and Schmidt, each twice; one that is 0 stays 0."""
    tiny = torch.finfo(x.real.dtype).tiny
    columns: list[Tensor] = []
    for v in x.unbind(-1):
        for _ in range(2):
            v = v / v.abs().amax(-1, keepdim=True).clamp_min(tiny)
            for c in columns:
                v = v - c * (c.conj() * v).sum(-1, keepdim=True)
        columns.append(v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(tiny))
    return torch.stack(columns, dim=-1)


def coil_phase(maps: Tensor, samples: Tensor) -> Tensor:
    """Maps (coil, ...) turned so that the coils' first principal component, of samples (coil, ...), is real and ≥ 0."""
    flat = samples.flatten(1).to(torch.complex128)
    first = torch.linalg.eigh(flat @ flat.mH)[1][:, -1].to(maps.dtype)
    seen = torch.einsum("c,c...->...", first.conj(), maps)
    return maps * torch.polar(torch.ones_like(seen.real), -seen.angle())
