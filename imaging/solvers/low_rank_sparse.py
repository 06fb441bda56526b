"""Movies as a sum of a low-rank and a sparse part: what stays, and what changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.base import LinearOperator
from imaging.solvers._batch import gap, magnitude_change, norm, wide
from imaging.solvers.state import State


@dataclass(frozen=True, kw_only=True)
class LowRankSparseState(State):
    """State of `low_rank_sparse`; x is L + S, `primal` and `dual` are the relative changes of L and of S.

    Args:
        low_rank: L, (1, n_frame, *spatial).
        sparse: S, same shape.
        ahead: both extrapolated, from which the next iteration starts, (1, 2, n_frame, *spatial).
        speed: t of the extrapolation, (1,), float64.
    """

    low_rank: Tensor
    sparse: Tensor
    ahead: Tensor
    speed: Tensor


def low_rank_sparse(
    A: LinearOperator,
    y: Tensor,
    *,
    low_rank_weight: float,
    sparse_weight: float,
    x0: Tensor | None = None,
    start: LowRankSparseState | None = None,
) -> Iterator[LowRankSparseState]:
    """Minimise ½‖A (L + S) - y‖² / ‖A‖² + low_rank_weight ‖L‖_* + sparse_weight ‖T S‖₁.

    T is the Fourier transform in time, orthonormal, and L a matrix of frames (n_frame, pixels). Accelerated proximal
    gradients with step ½, since ‖[A A]‖² = 2‖A‖², the extrapolation restarted when the objective grows.

    Args:
        A: of movies, in_shape (n_frame, *spatial).
        y: (1, *A.out_shape), one movie.
        low_rank_weight: >= 0, units of a singular value of the movie.
        sparse_weight: >= 0, units of x.
        x0: L to start from; zero if None.
        start: a state to go on from.

    Yields:
        LowRankSparseState, endlessly; `objective` is the minimised one.

    Source: Otazo, Candès, Sodickson (2015), Low-rank plus sparse matrix decomposition for accelerated dynamic MRI, (5);
        acceleration after Lin, Fessler (2019), Efficient dynamic parallel MRI reconstruction for the low-rank plus
        sparse model; restart after O'Donoghue, Candès (2015).
    """
    if min(low_rank_weight, sparse_weight) < 0:
        raise ValueError(f"low_rank_sparse weights: expected >= 0, got {low_rank_weight} and {sparse_weight}")
    if len(A.in_shape) < 2 or tuple(y.shape) != (1, *A.out_shape):
        wanted = ", ".join(str(n) for n in A.out_shape)
        raise ShapeError(f"low_rank_sparse y: expected (1, {wanted}) of a movie operator, got {tuple(y.shape)}")
    size = A.norm()
    y_ = y / size
    if start is None:
        low = y.new_zeros(1, *A.in_shape) if x0 is None else x0
        sparse = torch.zeros_like(low)
        ahead, t, done = torch.stack((low, sparse), dim=1), 1.0, 0
        best = math.inf
    else:
        low, sparse, ahead = start.low_rank, start.sparse, start.ahead
        t, done = float(start.speed), start.iteration
        assert start.objective is not None  # this solver always sets it
        best = float(start.objective)
    for k in itertools.count(done + 1):
        low_old, sparse_old = low, sparse
        gradient = A.adjoint(A(ahead.sum(1)) / size - y_) / size
        low, nuclear = shrink_singular_values(ahead[:, 0] - 0.5 * gradient, 0.5 * low_rank_weight)
        sparse, l1 = shrink_frequencies(ahead[:, 1] - 0.5 * gradient, 0.5 * sparse_weight)
        x = low + sparse
        fidelity = norm(A(x) / size - y_, 1)
        objective = 0.5 * fidelity**2 + low_rank_weight * nuclear + sparse_weight * l1
        if float(objective) > best:
            t = 1.0
        best = float(objective)
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        push = (t - 1) / t_next
        ahead = torch.stack((low + push * (low - low_old), sparse + push * (sparse - sparse_old)), dim=1)
        t = t_next
        yield LowRankSparseState(
            iteration=k,
            x=x,
            primal=gap(low_old, low, 1),
            dual=gap(sparse_old, sparse, 1),
            relative_change=magnitude_change(x, low_old + sparse_old, 1),
            data_fidelity=fidelity * size,
            objective=objective,
            low_rank=low,
            sparse=sparse,
            ahead=ahead,
            speed=torch.full((1,), t, dtype=wide(y.device), device=y.device),
        )


def shrink_singular_values(movie: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Soft threshold of the singular values of (1, n_frame, *spatial); with the sum of what is left, (1,), float64.

    By the eigenvectors of the small n_frame x n_frame Gram matrix, in double precision.
    """
    m = movie.flatten(2)
    gram = (m @ m.mH).to(torch.complex128 if movie.is_complex() else torch.float64)
    values, vectors = torch.linalg.eigh(gram)
    sigma = values.clamp_min(0).sqrt()
    left = (sigma - threshold).clamp_min(0)
    factor = torch.where(sigma > 0, left / torch.where(sigma > 0, sigma, 1.0), 0.0)
    turn = (vectors * factor[:, None, :].to(vectors.dtype)) @ vectors.mH
    return (turn.to(m.dtype) @ m).reshape(movie.shape), left.sum(1)


def shrink_frequencies(movie: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Soft threshold of the temporal Fourier transform of (1, n_frame, *spatial); with the l1 norm of what is left."""
    f = torch.fft.fft(movie, dim=1, norm="ortho")
    size = f.abs()
    left = (size - threshold).clamp_min(0)
    f = f * (left / size.clamp_min(torch.finfo(size.dtype).tiny))
    x = torch.fft.ifft(f, dim=1, norm="ortho")
    total = left.sum(dim=tuple(range(1, left.ndim)), dtype=wide(movie.device))
    return x if movie.is_complex() else x.real, total
