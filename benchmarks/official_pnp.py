"""The published plug-and-play algorithm, its arithmetic included: the yardstick of `benchmarks/pnp.py`.

Written from the description in NF 5.1 to 5.3, 5.6 and 9.2. What makes it what it is, in each of which
`imaging.solvers.csalsa_projected` with `Magnitude` departs from it:

* a dense complex128 matrix; two splits with kappa = 500;
* (kappa I + AᴴA) s = b by at most five warm-started steps of conjugate gradients: 7 forward and 7 adjoint products an
  outer iteration (1 for the right-hand side, 6 AᴴA, 1 for A s);
* in a batch, conjugate gradients end when all images have settled, images that are done stay frozen, and the forward
  product of the v2 step runs on all of them;
* the denoiser is always told sqrt(0.039) = 0.1975, computes in float32, and its output is not clamped at 0, so that
  a negative output turns a voxel's phase by pi.

The products are written as matrix products that a BLAS does without copying the matrix, which is kinder than the
published six-index contraction: its adjoint is several times slower (NF 9.2, 7). Ratios of speed are against this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.priors import Denoiser

ALPHA = 3.9e-2  # sigma = 0.1975
KAPPA = 500.0
MAX_ITER = 30
TOL = 5e-4
CG_STEPS = 5
CG_TOL = 1e-5


@dataclass(frozen=True, kw_only=True)
class OfficialState:
    """State after an outer iteration.

    Args:
        iteration: from 1.
        x: s, complex128 (b, nz, ny, nx); the published output is |s| / max |s|.
        v1: the denoised split, same shape.
        relative_change: of |s|, float64 (b,).
        data_fidelity: ‖A s - y‖, float64 (b,).
        active: bool (b,), the images that this iteration updated.
        cg_steps: that conjugate gradients took.
    """

    iteration: int
    x: Tensor
    v1: Tensor
    relative_change: Tensor
    data_fidelity: Tensor
    active: Tensor
    cg_steps: int


def official_pnp(
    A: Tensor,
    y: Tensor,
    denoiser: Denoiser,
    *,
    shape: tuple[int, int, int],
    epsilon: Tensor | float,
    alpha: float = ALPHA,
    kappa: float = KAPPA,
    max_iter: int = MAX_ITER,
    tol: float = TOL,
    cg_steps: int = CG_STEPS,
    cg_tol: float = CG_TOL,
    scale_invariant: bool = False,
    inside: torch.dtype = torch.float32,
) -> Iterator[OfficialState]:
    """Minimise R(|s|) subject to ‖A s - y‖ <= epsilon with the splits v1 = s, v2 = A s.

    Args:
        A: complex128 (M, N), dense.
        y: complex128 (b, M), rows of A in the same order.
        denoiser: called with (b, nz, ny, nx) of dtype `inside` and sigma = sqrt(alpha); nothing is done to its output.
        shape: nz, ny, nx with product N.
        epsilon: radius, sigma_w sqrt(M) in simulations; one number or (b,).
        alpha, kappa, max_iter, tol, cg_steps, cg_tol: NF 5.2.
        scale_invariant: divide |z| by its peak per image before the denoiser and multiply back after (NF 5.7); the
            published code does so for measured data.
        inside: dtype of the denoiser's input.

    Yields:
        OfficialState per outer iteration; ends when all images have changed by less than `tol`, or after `max_iter`.

    Source: NF 5.1-5.3, (4.2)-(4.5), the solver of Oral and Oktem, IEEE Trans. Computational Imaging 10:762-773 (2024).
    """
    n = len(y)
    radius = torch.as_tensor(epsilon, dtype=torch.float64).expand(n)
    sigma = alpha**0.5

    s = _adjoint(A, y)
    s = s / s.abs().amax(1, keepdim=True)
    v1, v2 = s.clone(), _forward(A, s)
    d1, d2 = torch.zeros_like(v1), torch.zeros_like(v2)
    active = torch.ones(n, dtype=torch.bool)
    change = torch.full((n,), torch.inf, dtype=torch.float64)
    for i in range(1, max_iter + 1):
        k = active
        s_old = s
        s = s.clone()
        b = kappa * (v1[k] + d1[k]) + _adjoint(A, v2[k] + d2[k])
        s[k], steps = _conjugate_gradients(A, kappa, b, s_old[k], cg_steps, cg_tol)  # (4.2)
        v1[k] = _prox(denoiser, s[k] - d1[k], sigma, shape, scale_invariant, inside)  # (4.3)
        As = _forward(A, s)
        v2[k] = (y + _ball(As - d2 - y, radius))[k]  # (4.4)
        d1[k] -= s[k] - v1[k]  # (4.5)
        d2[k] -= As[k] - v2[k]
        change = torch.where(k, _norm(s.abs() - s_old.abs()) / _norm(s_old), change)
        yield OfficialState(
            iteration=i,
            x=s.reshape(n, *shape),
            v1=v1.reshape(n, *shape).clone(),
            relative_change=change,
            data_fidelity=_norm(As - y),
            active=k,
            cg_steps=steps,
        )
        if i > 1:
            active = k & (change >= tol)
            if not bool(active.any()):
                return


def _prox(
    denoiser: Denoiser, z: Tensor, sigma: float, shape: tuple[int, int, int], relative: bool, inside: torch.dtype
) -> Tensor:
    """D(|z|, sigma) exp(j angle z), NF 5.1."""
    size = z.abs()
    peak = size.amax(1, keepdim=True) if relative else torch.ones(len(z), 1, dtype=size.dtype)
    with torch.no_grad():
        m = denoiser((size / peak).to(inside).reshape(-1, *shape), sigma)
    return m.reshape(z.shape).to(torch.float64) * peak * torch.exp(1j * z.angle())


def _conjugate_gradients(A: Tensor, kappa: float, b: Tensor, x: Tensor, n_steps: int, tol: float) -> tuple[Tensor, int]:
    """(kappa I + AᴴA) x = b; ends when ‖step‖ / ‖x‖ < tol for all images together. Returns x and the steps taken."""

    def Q(v: Tensor) -> Tensor:
        return kappa * v + _adjoint(A, _forward(A, v))

    r = b - Q(x)
    p, rr = r, _norm(r) ** 2
    for n in range(1, n_steps + 1):
        Qp = Q(p)
        length = _ratio(rr, torch.linalg.vecdot(p, Qp).real)[:, None]
        settled = _norm(length * p) < tol * _norm(x)
        x = x + length * p
        if bool(settled.all()):
            return x, n
        r = r - length * Qp
        rr_old, rr = rr, _norm(r) ** 2
        p = r + _ratio(rr, rr_old)[:, None] * p
    return x, n_steps


def _forward(A: Tensor, s: Tensor) -> Tensor:
    """A s for a batch of rows, (b, N) -> (b, M)."""
    return (A @ s[0])[None] if len(s) == 1 else s @ A.T


def _adjoint(A: Tensor, y: Tensor) -> Tensor:
    """Aᴴy for a batch of rows, (b, M) -> (b, N); conjugates the vectors and not the matrix."""
    conjugate = y.conj().resolve_conj()
    product = (conjugate[0] @ A)[None] if len(y) == 1 else conjugate @ A
    return product.conj().resolve_conj()


def _ball(u: Tensor, radius: Tensor) -> Tensor:
    """u min(1, radius / ‖u‖) per image."""
    size = _norm(u)
    return torch.where(size > radius, _ratio(radius, size), torch.ones_like(size))[:, None] * u


def _norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b = 0: a solve that is exact already makes no step."""
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, torch.ones_like(b), b))


def psnr_curve(states: Iterator[OfficialState], score: Callable[[Tensor], Tensor]) -> tuple[OfficialState, Tensor]:
    """Drive the algorithm to its end.

    Args:
        states: of `official_pnp`.
        score: of an image batch, (b, nz, ny, nx) -> (b,); say the PSNR against the truth.

    Returns:
        The last state, and the scores of all iterations, (iterations, b).
    """
    last, curve = None, []
    for last in states:
        curve.append(score(last.x))
    if last is None:
        raise ValueError("official_pnp: expected at least one iteration, got max_iter = 0")
    return last, torch.stack(curve)
