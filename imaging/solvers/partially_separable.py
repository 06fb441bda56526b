"""Movies of low rank: partially separable models, alone (PSM) and regularised by denoising (RED-PSM).

The movie is F = Λ Ψᵀ, f_t = Σ_k Λ_k ψ_k(t), with Ψ = U Z in the span of splines of few latent values (RP 2.1); where
values are not negative, relu(Λ Ψᵀ) (RP 6.1), which is worth several dB where each frame has one view.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from imaging.errors import ShapeError
from imaging.operators.base import LinearOperator
from imaging.priors.protocols import Denoiser
from imaging.solvers._batch import gap, magnitude_change, norm, wide
from imaging.solvers.linear import cg
from imaging.solvers.state import State

#: Numbers of knots that `choose_knots` compares, as far as there are frames.
KNOTS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 22, 32, 45, 64)
#: Share of the samples that it holds out, conjugate-gradient steps per iteration of its fits, and their iterations.
HELD_OUT, FIT_STEPS, FITS = 0.1, 4, 4
#: One knot stays unless more explain the held-out samples better by this factor of their error.
CLEARLY = 0.995
#: Ridge on the spatial factors against their scale: keeps what no view sees from drifting.
RIDGE = 1e-6
#: Axes that are reversed, by the iteration modulo 4.
MIRRORS = ((), (-1,), (-2,), (-2, -1))


class MovieOperator(Protocol):
    """What the temporal step asks of an operator beside its products: `TimeSequential` has it."""

    frame_index: Tensor

    def project_basis(self, basis: Tensor) -> Tensor:
        """Images that do not move, (n, *spatial), seen by every view: (n, n_view, ...)."""
        ...


@dataclass(frozen=True, kw_only=True)
class PsmState(State):
    """State of `psm`; x is the movie Λ Ψᵀ.

    Args:
        spatial: Λ, (1, K, *spatial).
        latent: Z, (1, d, K), real.
    """

    spatial: Tensor
    latent: Tensor


@dataclass(frozen=True, kw_only=True)
class RedPsmState(PsmState):
    """State of `red_psm`; x is the movie Λ Ψᵀ, `primal` ‖Λ Ψᵀ - f‖ and `dual` ‖f - f_previous‖, both relative.

    Args:
        split: f, the movie on which the denoiser acts, (1, n_frame, *spatial).
        gamma: scaled dual of f = Λ Ψᵀ, shape of f.
        dual_change: ‖gamma - gamma_previous‖ / ‖f‖, (1,), float64: falls to 0 where RP 3.3's theorem holds.
    """

    split: Tensor
    gamma: Tensor
    dual_change: Tensor


def spline_basis(n_frames: int, n_knots: int) -> Tensor:
    """U: cubic Hermite interpolation of n_knots uniform latent values at n_frames uniform instants.

    Tangents are the mean of the adjacent slopes, one-sided at the ends; one knot is a constant, two a line.

    Args:
        n_frames: >= 1.
        n_knots: 1 to n_frames.

    Returns:
        float64 (n_frames, n_knots); rows sum to 1.

    Source: RP 2.1.
    """
    if not 1 <= n_knots <= n_frames:
        raise ValueError(f"spline_basis: expected 1 to {n_frames} knots for {n_frames} frames, got {n_knots}")
    if n_knots == 1:
        return torch.ones(n_frames, 1, dtype=torch.float64)
    values = torch.eye(n_knots, dtype=torch.float64)
    slopes = values.diff(dim=0)
    tangents = torch.cat((slopes[:1], (slopes[1:] + slopes[:-1]) / 2, slopes[-1:]))
    at = torch.linspace(0, n_knots - 1, n_frames, dtype=torch.float64)
    left = at.floor().clamp(max=n_knots - 2).to(torch.int64)
    t = (at - left)[:, None]
    return (
        (1 - 3 * t**2 + 2 * t**3) * values[left]
        + (t - 2 * t**2 + t**3) * tangents[left]
        + (3 * t**2 - 2 * t**3) * values[left + 1]
        + (t**3 - t**2) * tangents[left + 1]
    )


def psm(
    A: LinearOperator,
    y: Tensor,
    basis: Tensor,
    *,
    rank: int | None = None,
    n_cg: int = 4,
    nonnegative: bool = False,
    start: PsmState | None = None,
) -> Iterator[PsmState]:
    """Minimise ½‖A(Λ Ψᵀ) - y‖² with Ψ = U Z: a movie of rank K without a spatial prior.

    With as many functions as knots Z is square and Ψ spans U whatever it is: a linear problem, solved by conjugate
    gradients, `n_cg` steps per iteration. With fewer, a temporal step by least squares follows each (RP 6.3, 4).
    Few iterations regularise: the error rises again once noise is fitted. With `nonnegative` the movie is relu(Λ Ψᵀ),
    its active voxels frozen within a step (Gauss-Newton).

    Args:
        A: of movies: in_shape (n_frame, *spatial); with rank < d a `MovieOperator` (`TimeSequential`).
        y: (1, *A.out_shape), one movie, real or complex.
        basis: U, (n_frame, d), full column rank.
        rank: K; None takes d.
        n_cg: conjugate-gradient steps per iteration.
        nonnegative: see above; for real movies.
        start: a state to go on from.

    Yields:
        PsmState, endlessly; `primal` is the relative residual ‖A x - y‖/‖y‖, `objective` the minimised one.

    Source: RP 2.1, 6.3; Haldar, Liang (2010), Spatiotemporal imaging with partially separable functions.
    """
    problem = _Problem(A, y, basis, rank, nonnegative)
    spatial, latent = problem.begin() if start is None else (start.spatial, start.latent)
    x = problem.movie(spatial, latent)
    for k in itertools.count(1 if start is None else start.iteration + 1):
        before = x
        spatial = problem.spatial_step(spatial, latent, n_cg=n_cg)
        spatial, latent = problem.temporal_step(spatial, latent)
        x = problem.movie(spatial, latent)
        fidelity = norm(A(x) - y, 1)
        yield PsmState(
            iteration=k,
            x=x,
            primal=fidelity / norm(y, 1).clamp_min(torch.finfo(wide(y.device)).tiny),
            dual=gap(before, x, 1),
            relative_change=magnitude_change(x, before, 1),
            data_fidelity=fidelity,
            objective=0.5 * fidelity**2,
            spatial=spatial,
            latent=latent,
        )


def red_psm(
    A: LinearOperator,
    y: Tensor,
    basis: Tensor,
    denoiser: Denoiser,
    *,
    beta: float,
    weight: float,
    sigma: float | Callable[[int], float],
    rank: int | None = None,
    n_cg: int = 10,
    n_red: int = 1,
    relaxation: float = 1.6,
    mirrored: bool = False,
    nonnegative: bool = True,
    start: RedPsmState | None = None,
) -> Iterator[RedPsmState]:
    """Regularisation by denoising of a partially separable movie:

        min ½‖A f - y‖² + weight Σ_t ½ f_tᵀ(f_t - D(f_t))   subject to f = Λ Ψᵀ, Ψ = U Z

    by ADMM with scaled dual gamma and penalty beta (RP 3.2):

        Λ, Z  <-  argmin ½‖A(Λ Ψᵀ) - y‖² + beta/2 ‖Λ Ψᵀ - f + gamma‖²
        x     <-  relaxation Λ Ψᵀ + (1 - relaxation) f
        f     <-  (weight D(f) + beta v) / (weight + beta),  v = x + gamma,  n_red times, the first from f = v
        gamma <-  v - f

    With `nonnegative` relu(Λ Ψᵀ) stands for Λ Ψᵀ, its active voxels frozen within a step (Gauss-Newton, RP 6.3), and f
    is cut at 0.

    Departures from the published code: the first step is solved as least squares with the squared coupling, by warm
    conjugate gradients, instead of 25 Adam steps; the fixed-point step starts at v, not at the previous f, which needs
    a third of the iterations; the denoiser is told a noise level, which may fall.

    Args:
        A, y, basis, rank, n_cg: as in `psm`.
        denoiser: called with frames as batch, real (n, nz, ny, nx); for complex movies with real and imaginary parts
            as two images (RP 3.5), unless it takes complex ones (`ComplexImages`).
        beta: penalty, > 0, units of A².
        weight: lambda, > 0, units of A²; against beta it sets how much of the denoiser's change is taken.
        sigma: noise level told to the denoiser, units of x; or a function of the iteration, from 1.
        n_red: fixed-point steps per iteration.
        relaxation: over-relaxation of the ADMM, 1 for none.
        mirrored: the denoiser is shown frames as they are, mirrored in x, in y and in both, in turn (Terris et al.):
            what it prefers in one orientation averages out over the iterations.
        nonnegative: see above; for real movies.
        start: a state to go on from instead.

    Yields:
        RedPsmState, endlessly.

    Source: RP 3.1, 3.2 (Iskender, Klasky, Bresler, RED-PSM), 6.3; `mirrored`: Terris, Moreau, Pustelnik, Tachella
        (2024), Equivariant plug-and-play image reconstruction, CVPR.
    """
    if not (beta > 0 and weight > 0):
        raise ValueError(f"red_psm beta, weight: expected > 0, got {beta} and {weight}")
    if not 0 < relaxation < 2:
        raise ValueError(f"red_psm relaxation: expected between 0 and 2, got {relaxation}; 1 is none, 1.6 usual")
    problem = _Problem(A, y, basis, rank, nonnegative)
    level: Callable[[int], float] = sigma if callable(sigma) else lambda k: sigma
    share = weight / (weight + beta)
    if start is None:
        lam, latent = problem.begin()
        lam = problem.spatial_step(lam, latent, n_cg=n_cg)
        f = problem.movie(lam, latent)
        gamma, done = torch.zeros_like(f), 0
    else:
        lam, latent, f, gamma, done = start.spatial, start.latent, start.split, start.gamma, start.iteration
    for k in itertools.count(done + 1):
        f_old, gamma_old, target = f, gamma, f - gamma
        lam = problem.spatial_step(lam, latent, n_cg=n_cg, beta=beta, target=target)
        lam, latent = problem.temporal_step(lam, latent, beta=beta, target=target)
        del target
        x = problem.movie(lam, latent)
        v = relaxation * x + (1 - relaxation) * f_old + gamma
        f = v
        axes = MIRRORS[k % 4] if mirrored else ()
        for _ in range(n_red):
            seen = denoise_frames(denoiser, f.flip(axes) if axes else f, level(k))
            f = share * (seen.flip(axes) if axes else seen) + (1 - share) * v
        f = f.clamp_min(0) if nonnegative else f
        gamma = v - f
        del v
        yield RedPsmState(
            iteration=k,
            x=x,
            primal=gap(x, f, 1),
            dual=gap(f_old, f, 1),
            relative_change=magnitude_change(f, f_old, 1),
            data_fidelity=norm(A(x) - y, 1),
            rho=torch.full((1,), beta, dtype=wide(y.device), device=y.device),
            sigma=level(k),
            spatial=lam,
            latent=latent,
            split=f,
            gamma=gamma,
            dual_change=norm(gamma - gamma_old, 1) / norm(f, 1).clamp_min(torch.finfo(wide(y.device)).tiny),
        )


def choose_knots(
    A: LinearOperator, y: Tensor, *, nonnegative: bool = False, together: Sequence[int] = (), seed: int = 0
) -> int:
    """The number of spline knots d whose low-rank fit (K = d) predicts samples best that were held out.

    From few knots up, a tenth of the samples left out at random, until two in a row have predicted worse than the
    best. It is what the data support without a prior; with one, about twice as many do better.

    Args:
        A: of movies.
        y: (1, *A.out_shape).
        nonnegative: as in `psm`.
        together: axes of A.out_shape along which samples are held out together: coils that see the same sample, or
            the samples of a readout, tell of each other.
        seed: of the samples.
    """
    from imaging.operators.weighted import Weighted

    generator = torch.Generator().manual_seed(seed)
    drawn = [1 if axis in together else n for axis, n in enumerate(A.out_shape)]
    kept = (torch.rand(drawn, generator=generator) >= HELD_OUT).to(y.device)
    real = y.real.dtype if y.is_complex() else y.dtype
    B, seen = Weighted(A, kept.to(real)), y * kept
    best, chosen, worse = float("inf"), 1, 0
    n_frames = A.in_shape[0]
    for d in [k for k in KNOTS if k <= n_frames]:
        states = psm(B, seen, spline_basis(n_frames, d), n_cg=FIT_STEPS, nonnegative=nonnegative)
        state = next(itertools.islice(states, FITS - 1, None))
        error = float(norm((A(state.x) - y) * ~kept, 1))
        if error < (best if chosen > 1 else CLEARLY * best):
            best, chosen, worse = error, d, 0
        else:
            worse += 1
        if worse == 2:
            break
    return chosen


def denoise_frames(denoiser: Denoiser, movie: Tensor, sigma: float) -> Tensor:
    """Every frame denoised on its own: (*batch, n_frame, nz, ny, nx), real or complex.

    Complex frames are two real images each, unless the denoiser takes complex ones (`takes_complex`).
    """
    if movie.is_complex() and not getattr(denoiser, "takes_complex", False):
        parts = torch.view_as_real(movie).movedim(-1, 0)
        real, imaginary = denoise_frames(denoiser, parts.contiguous(), sigma)
        return torch.complex(real, imaginary)
    frames = movie.reshape(-1, *movie.shape[-3:])
    return denoiser(frames, sigma).reshape(movie.shape)


class _Problem:
    """The bilinear least-squares problem: movies from factors, and one step for each factor."""

    def __init__(
        self, A: LinearOperator, y: Tensor, basis: Tensor, rank: int | None, nonnegative: bool = False
    ) -> None:
        if nonnegative and y.is_complex():
            raise ValueError("psm nonnegative: expected False for complex movies")
        self.nonnegative = nonnegative
        if tuple(y.shape) != (1, *A.out_shape):
            wanted = ", ".join(str(n) for n in A.out_shape)
            raise ShapeError(f"psm y: expected (1, {wanted}), one movie at a time, got {tuple(y.shape)}")
        if basis.ndim != 2 or basis.shape[0] != A.in_shape[0]:
            raise ShapeError(f"psm basis: expected ({A.in_shape[0]}, d), one row per frame, got {tuple(basis.shape)}")
        self.n_knots = basis.shape[1]
        self.rank = self.n_knots if rank is None else rank
        if not 1 <= self.rank <= self.n_knots:
            raise ValueError(f"psm rank: expected 1 to {self.n_knots}, the columns of the basis, got {rank}")
        self.A, self.y = A, y
        real = y.real.dtype if y.is_complex() else y.dtype
        self.basis = basis.to(device=y.device, dtype=real)
        self.spatial_shape = A.in_shape[1:]
        self.aty = A.adjoint(y)
        # ‖A‖_F²/n of a frame's voxels sets the scale of the ridge
        self.ridge = RIDGE * A.mean_eigenvalue()

    def begin(self) -> tuple[Tensor, Tensor]:
        """Λ = 0, and Z of the smoothest K orthonormal functions in the span of U."""
        q, r = torch.linalg.qr(self.basis.to(torch.float64))
        # directions of the span from smooth to rough: small second differences first
        bend = q.diff(dim=0).diff(dim=0) if len(q) > 2 else q.new_zeros(0, q.shape[1])
        _, vectors = torch.linalg.eigh(bend.T @ bend)
        z = torch.linalg.solve_triangular(r, vectors[:, : self.rank], upper=True).to(self.basis.dtype)
        return self.y.new_zeros(1, self.rank, *self.spatial_shape), z[None]

    def psi(self, latent: Tensor) -> Tensor:
        return self.basis @ latent

    def movie(self, spatial: Tensor, latent: Tensor) -> Tensor:
        """Λ Ψᵀ, or relu of it, (1, n_frame, *spatial)."""
        x = self._mix(self.psi(latent), spatial)
        return x.clamp_min_(0) if self.nonnegative else x

    def active(self, spatial: Tensor, latent: Tensor) -> Tensor | None:
        """Where relu(Λ Ψᵀ) has a slope: bool like the movie; None where every voxel has."""
        if not self.nonnegative or not bool(spatial.any()):
            return None
        return self._mix(self.psi(latent), spatial) > 0

    def _mix(self, weights: Tensor, images: Tensor) -> Tensor:
        """Σ_k weights[:, t, k] images[:, k, *spatial]."""
        mixed = weights.to(images.dtype) @ images.flatten(2)
        return mixed.reshape(*mixed.shape[:2], *self.spatial_shape)

    def spatial_step(
        self, spatial: Tensor, latent: Tensor, *, n_cg: int, beta: float = 0.0, target: Tensor | None = None
    ) -> Tensor:
        """Λ of the least squares with Ψ fixed, n_cg warm conjugate-gradient steps; Ψ must be orthonormal.

        (Ψᵀ M (AᴴA + beta) M Ψ + ridge I) Λ = Ψᵀ M (Aᴴ y + beta target),  M the active voxels
        """
        psi = self.psi(latent)
        active = self.active(spatial, latent)

        def masked(v: Tensor) -> Tensor:
            return v if active is None else v.mul_(active)

        b = self._mix(psi.mT, masked(self.aty.clone() if target is None else self.aty + beta * target))

        def gram(v: Tensor) -> Tensor:
            movie = masked(self._mix(psi, v))
            image = self.A.gram(movie)
            image = image.add_(movie, alpha=beta) if beta else image
            return self._mix(psi.mT, masked(image)).add_(v, alpha=self.ridge)

        return cg(gram, b, x0=spatial, tol=1e-6, max_iter=n_cg)[0]

    def temporal_step(
        self, spatial: Tensor, latent: Tensor, *, beta: float = 0.0, target: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Z of the least squares with Λ fixed, exactly, then Ψ made orthonormal again; nothing to do for K = d.

        With B_p = R_p Λ and u_p row p of U, the d·K normal equations of RP 6.3, 4:
        H = Σ_p u_p u_pᵀ ⊗ Re(B_pᴴ B_p) + beta Σ_t u_t u_tᵀ ⊗ Re(Λᴴ Λ).
        """
        if self.rank == self.n_knots:
            return spatial, latent
        if not hasattr(self.A, "project_basis"):
            raise TypeError(f"psm rank < d: expected an operator with project_basis, got {type(self.A).__name__}")
        movie: MovieOperator = self.A  # type: ignore[assignment]
        y = self.y[0]
        wider = torch.complex128 if y.is_complex() else torch.float64
        u = self.basis.to(torch.float64)
        K, d = self.rank, self.n_knots
        active = self.active(spatial, latent)
        if active is None:
            seen = movie.project_basis(spatial[0])
        else:
            seen = torch.stack([self.A(active[0] * image) for image in spatial[0]])
        seen = seen.to(wider).flatten(2)  # B_p: (K, view, sample)
        per_view = u[movie.frame_index.to(u.device)]  # (view, d)
        gram = torch.einsum("kps,lps->pkl", seen.conj(), seen).real
        H = torch.einsum("pi,pj,pkl->ikjl", per_view, per_view, gram)
        c = torch.einsum("pi,kps,ps->ik", per_view.to(wider), seen.conj(), y.to(wider).flatten(1)).real
        if target is not None:
            lam, wanted = spatial.reshape(K, -1).to(wider), target.reshape(len(u), -1).to(wider)
            gram = (lam.conj() @ lam.T).real.expand(len(u), K, K)
            if active is not None:
                on = active.reshape(len(u), -1)
                gram = torch.stack([(lam[:, a] @ lam[:, a].T) for a in on])
                wanted = wanted * on
            H = H + beta * torch.einsum("ti,tj,tkl->ikjl", u, u, gram)
            c = c + beta * u.T @ (wanted @ lam.mH).real
        H = H.reshape(d * K, d * K)
        H = H + 1e-12 * torch.trace(H) / (d * K) * torch.eye(d * K, dtype=torch.float64, device=H.device)
        z = torch.linalg.solve(H, c.reshape(-1)).reshape(d, K)
        _, r = torch.linalg.qr(u @ z)
        z = torch.linalg.solve_triangular(r, z, upper=True, left=False)
        rotated = (r.to(wider) @ spatial.reshape(K, -1).to(wider)).to(spatial.dtype)
        return rotated.reshape(spatial.shape), z.to(self.basis.dtype)[None]
