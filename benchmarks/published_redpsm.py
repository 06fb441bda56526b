"""The published RED-PSM algorithm for time-sequential tomography: the yardstick of `benchmarks/tomography.py`.

Written from the formulas of RP 2, 3.2, 5.1 and 6.1 alone. What makes it what it is:

* the factors of the movie, Λ and Z with Ψ = U Z, take 25 steps of Adam per outer iteration, all at once; the state of
  Adam lasts over the outer iterations;
* data term and penalties are means, the coupling is a norm that is not squared, and relu(Λ Ψᵀ) stands inside both
  (RP 6.1), so that the movie is not of low rank;
* the steps of f and of the dual variable are those of the squared coupling; f starts at 0;
* the outer iteration with the best PSNR against the truth is reported (RP 5.1).

Three choices the formulas leave open: the movie in the steps of f and γ is relu(Λ Ψᵀ), as in the coupling they belong
to; Λ has the pixels of the field of view alone, whose number is that of its mean; without a denoiser there is no f, and
the coupling is left out.

One view per instant with J bins is measured. The published data hold each view twice, the second time as its mirror
image with noise that is shifted by one bin, which lowers the noise by 3 dB and is worth 0.4 dB of PSNR at P = 128
(RP 1.1). Nothing here does that; give it as y the mean of both, and the loss differs by a constant.

The penalties' balance and Adam's step are tied to the published scale: pixels of unit length, and attenuation up to
0.068 per pixel. Scale data of another peak to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_laplace
from skimage.metrics import structural_similarity
from torch import Tensor

from imaging.operators import LinearOperator
from imaging.priors import Denoiser

#: Denoises a movie (P, ny, nx); the frames are independent.
MovieDenoiser = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of RP 3.2, by the number of instants in `PUBLISHED`.

    Args:
        rank: Kp, number of temporal functions.
        n_knots: d of U.
        lam, beta: weights of the denoiser and of the coupling.
        n_outer: outer iterations.
        n_inner: Adam steps in each; lr: their length.
        n_red: steps of f in each.
        xi, chi: weights of mean Ψ² and mean Λ².
        start_rank, n_harmonics: of ProSep, the ranks that worked best of RP 2.2.
    """

    rank: int
    n_knots: int
    lam: float
    beta: float
    n_outer: int
    start_rank: int
    n_harmonics: int
    n_inner: int = 25
    lr: float = 5e-3
    n_red: int = 1
    xi: float = 1e-6
    chi: float = 1e-6


#: P = 128 and 256 are published; P = 32 and 64 are the values that RP 3.2 found to work.
PUBLISHED = {
    32: Settings(rank=4, n_knots=4, lam=2e-4, beta=2e-4, n_outer=200, start_rank=2, n_harmonics=12),
    64: Settings(rank=6, n_knots=6, lam=2e-4, beta=4e-4, n_outer=120, start_rank=3, n_harmonics=12),
    128: Settings(rank=7, n_knots=9, lam=2e-4, beta=2e-4, n_outer=201, start_rank=4, n_harmonics=24),
    256: Settings(rank=11, n_knots=11, lam=5e-5, beta=1e-4, n_outer=101, start_rank=6, n_harmonics=30),
}


@dataclass(frozen=True)
class Start:
    """Factors to begin with: spatial (n_pixels of the mask, Kp), unit of the image; z (d, Kp)."""

    spatial: Tensor
    z: Tensor


@dataclass(frozen=True, kw_only=True)
class PublishedState:
    """State after an outer iteration.

    Args:
        iteration: from 1.
        f: the denoised movie, (P, ny, nx); without a denoiser the same as psm.
        psm: relu(Λ Ψᵀ), same shape.
        spatial: Λ, (n_pixels of the mask, Kp).
        z: (d, Kp).
        loss: of the last Adam step.
        elapsed_s: processor time that this outer iteration took.
    """

    iteration: int
    f: Tensor
    psm: Tensor
    spatial: Tensor
    z: Tensor
    loss: float
    elapsed_s: float


def published_redpsm(
    A: LinearOperator,
    y: Tensor,
    start: Start,
    denoiser: MovieDenoiser | None,
    settings: Settings,
    *,
    mask: Tensor,
) -> Iterator[PublishedState]:
    """Factors by Adam, denoised movie, dual variable, in turn.

    Args:
        A: (P, 1, ny, nx) -> (P, 1, J), one view per instant: `TimeSequential` of any static projector.
        y: (P, 1, J).
        start: Λ and Z to begin with, say of `prosep_start`.
        denoiser: of a movie (P, ny, nx), its noise level fixed (see `at_level`); None is PSM alone.
        settings: say `PUBLISHED[P]`.
        mask: bool (ny, nx), pixels that are not 0.

    Yields:
        PublishedState per outer iteration, `settings.n_outer` of them.

    Source: RP 3.2, 6.1.
    """
    s = settings
    n_frames = A.in_shape[0]
    U = hermite_basis(s.n_knots, n_frames).to(y)
    spatial, z = (v.detach().to(y).clone().requires_grad_() for v in (start.spatial, start.z))
    optimiser = torch.optim.Adam([spatial, z], lr=s.lr)
    f = torch.zeros(n_frames, int(mask.sum()), dtype=y.dtype, device=y.device)
    gamma = torch.zeros_like(f)
    for i in range(1, s.n_outer + 1):
        begin = time.process_time()
        value = torch.zeros(())
        for _ in range(s.n_inner):
            optimiser.zero_grad()
            value = loss(A, y, U, spatial, z, f, gamma, s, mask, coupled=denoiser is not None)
            value.backward()
            optimiser.step()
        with torch.no_grad():
            psm = movie(U, spatial, z)
            if denoiser is None:
                f = psm
            else:
                for _ in range(s.n_red):
                    f = red_step(f, psm, gamma, s.lam, s.beta, lambda v: denoiser(embed(v, mask))[:, mask])
                gamma = gamma + psm - f
            last = float(value)
        yield PublishedState(
            iteration=i,
            f=embed(f, mask),
            psm=embed(psm, mask),
            spatial=spatial.detach().clone(),
            z=z.detach().clone(),
            loss=last,
            elapsed_s=time.process_time() - begin,
        )


def loss(
    A: LinearOperator,
    y: Tensor,
    U: Tensor,
    spatial: Tensor,
    z: Tensor,
    f: Tensor,
    gamma: Tensor,
    settings: Settings,
    mask: Tensor,
    *,
    coupled: bool = True,
) -> Tensor:
    """mean (R relu(Λ Ψᵀ) - y)² + (β / 2) ‖relu(Λ Ψᵀ) - f + γ‖ + ξ mean Ψ² + χ mean Λ², a number (RP 6.1).

    Args:
        A, y, mask, settings: as in `published_redpsm`.
        U: (P, d); spatial: (n, Kp); z: (d, Kp); f, gamma: (P, n), n pixels of the mask.
        coupled: with the second term.
    """
    x = movie(U, spatial, z)
    data = (A(embed(x, mask)[:, None]) - y).square().mean()
    coupling = settings.beta / 2 * torch.linalg.vector_norm(x - f + gamma) if coupled else 0.0
    return data + coupling + settings.xi * (U @ z).square().mean() + settings.chi * spatial.square().mean()


def movie(U: Tensor, spatial: Tensor, z: Tensor) -> Tensor:
    """relu(Λ Ψᵀ) frame by frame: (P, d), (n, Kp), (d, Kp) -> (P, n)."""
    return torch.relu((U @ z) @ spatial.T)


def red_step(f: Tensor, psm: Tensor, gamma: Tensor, lam: float, beta: float, denoiser: MovieDenoiser) -> Tensor:
    """(λ D(f) + β (Λ Ψᵀ + γ)) / (λ + β), any shape (RP 3.2, step 2)."""
    return (lam * denoiser(f) + beta * (psm + gamma)) / (lam + beta)


def embed(values: Tensor, mask: Tensor) -> Tensor:
    """(P, n) at the n pixels of the mask (ny, nx), 0 elsewhere: (P, ny, nx)."""
    x = values.new_zeros(len(values), *mask.shape)
    x[:, mask] = values
    return x


def at_level(denoiser: Denoiser, sigma: float, *, peak: float = 0.068, frames: int = 16) -> MovieDenoiser:
    """A denoiser of images with maximum about 1, told the same noise level always, for movies of another peak.

    Args:
        denoiser: called with (n, 1, ny, nx) and sigma.
        sigma: noise over peak.
        peak: of the movie; D(v) = peak · denoiser(v / peak, sigma).
        frames: that go through it at once.
    """

    def denoise(v: Tensor) -> Tensor:
        with torch.no_grad():
            return peak * torch.cat([denoiser(part[:, None] / peak, sigma)[:, 0] for part in v.split(frames)])

    return denoise


def hermite_basis(n_knots: int, n_frames: int) -> Tensor:
    """U: cubic Hermite interpolation from d uniform knots to P instants, both ends included.

    Tangents are means of the two slopes beside a knot, one slope at the ends; no C² spline.

    Returns:
        float64 (P, d); rows sum to 1, linear functions are kept.

    Source: RP 2.1.
    """
    if n_knots < 2:
        raise ValueError(f"hermite_basis n_knots: expected at least 2, got {n_knots}")
    difference = torch.diff(torch.eye(n_knots, dtype=torch.float64), dim=0)  # slopes times the knots' distance
    tangent = torch.cat([difference[:1], (difference[1:] + difference[:-1]) / 2, difference[-1:]])
    s = torch.linspace(0, 1, n_frames, dtype=torch.float64) * (n_knots - 1)
    i = s.floor().long().clamp(max=n_knots - 2)
    t = (s - i)[:, None]
    knot = torch.eye(n_knots, dtype=torch.float64)
    return (
        (1 - 3 * t**2 + 2 * t**3) * knot[i]
        + (t - 2 * t**2 + t**3) * tangent[i]
        + (3 * t**2 - 2 * t**3) * knot[i + 1]
        + (t**3 - t**2) * tangent[i + 1]
    )


# -- start: separable model of the projections ----------------------------------------------------------------


@dataclass(frozen=True)
class ProSep:
    """What `prosep` found.

    Args:
        movie: by filtered backprojection, may be negative, (P, ny, nx).
        z: (d, K), K temporal functions U z.
        misfit: mean square of the data it leaves.
    """

    movie: Tensor
    z: Tensor
    misfit: float


def prosep(
    A: LinearOperator,
    y: Tensor,
    angles_rad: Tensor,
    *,
    rank: int,
    n_harmonics: int,
    mask: Tensor,
    n_knots: int | None = None,
    n_steps: int = 300,
    lr: float = 1e-2,
    axis_bin: int | None = None,
) -> ProSep:
    """A movie from the separable model of its projections, by variable projection; no truth is used.

    Every bin's g(s, θ, t) is a sum of harmonics n of the angle, |n| <= Nh, with coefficients Σ_k η_nk(s) ψ_k(t). η is
    eliminated, Z found by Adam, then all views are synthesised at all instants and backprojected.

    Args:
        A: as in `published_redpsm`; parallel beam, pixels and bins of unit length.
        y: one view per instant, (P, 1, J).
        angles_rad: of the views, (P,), spread over half a turn.
        rank: K; n_harmonics: Nh; 2 P >= (2 Nh + 1) K at least, better well above.
        mask: bool (ny, nx), where the movie is not 0.
        n_knots: d; None takes rank, where the span of U z does not depend on z.
        n_steps, lr: of Adam; the last iterate counts.
        axis_bin: bin that the axis of rotation projects to, J // 2 by default. Bin j of the view half a turn on is bin
            2 axis_bin - j; beyond the detector nothing is seen.

    Source: RP 2.2. Harmonics are real sines and cosines, whose least-squares fit to real data is that of the complex
    ones; normal equations with a Tikhonov term of 1e-9 of the mean diagonal take the pseudo-inverse's place.
    """
    n_views, n_bins = y.shape[0], y.shape[-1]
    d = rank if n_knots is None else n_knots
    if 2 * n_views < (2 * n_harmonics + 1) * rank:
        raise ValueError(
            f"prosep: expected at most 2 P = {2 * n_views} coefficients, got (2 · {n_harmonics} + 1) · {rank}; "
            "take fewer harmonics or functions"
        )
    theta = angles_rad.to(torch.float64).cpu()
    g = y[:, 0].detach().to(torch.float64).cpu()
    axis = n_bins // 2 if axis_bin is None else axis_bin
    partner = 2 * axis - torch.arange(n_bins)
    seen = (partner >= 0) & (partner < n_bins)
    mirrored = torch.where(seen, g[:, partner.clamp(0, n_bins - 1)], 0.0)
    both = torch.cat([g, mirrored])
    H = torch.cat([harmonics(theta, n_harmonics), harmonics(theta - torch.pi, n_harmonics)])
    U = hermite_basis(d, n_views)

    def model(psi: Tensor) -> Tensor:
        return (H[:, :, None] * torch.cat([psi, psi])[:, None, :]).flatten(1)

    def fit(psi: Tensor) -> tuple[Tensor, Tensor]:
        L = model(psi)
        gram = L.T @ L
        gram = gram + 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        eta = torch.cholesky_solve(L.T @ both, torch.linalg.cholesky(gram))
        return eta, (L @ eta - both).square().mean()

    z = _smooth_start(U, rank).requires_grad_()
    optimiser = torch.optim.Adam([z], lr=lr)
    for _ in range(n_steps if d > rank else 0):  # a square z changes nothing
        optimiser.zero_grad()
        gauge = (z.T @ z - torch.eye(rank, dtype=z.dtype)).square().mean()
        (fit(U @ z)[1] + 1e-10 * gauge).backward()
        optimiser.step()
    z = z.detach()
    psi = U @ z
    eta, misfit = fit(psi)
    eta = eta.reshape(H.shape[1], rank, n_bins)
    basis = torch.einsum("qn,nkj->kqj", H[:n_views], eta)  # each function's sinogram at all views
    flat = fbp(A, basis[:, :, None].to(y))[:, mask]  # linear: K images and not P
    return ProSep(embed(psi.to(y) @ flat, mask), z, float(misfit))


def prosep_start(
    A: LinearOperator,
    y: Tensor,
    angles_rad: Tensor,
    settings: Settings,
    *,
    mask: Tensor,
    seed: int = 0,
    cg_steps: int = 15,
) -> tuple[Start, ProSep]:
    """Λ and Z to begin with: ProSep, its singular vectors, the rest of Ψ random, Λ by conjugate gradients.

    Args:
        A, y, mask, settings: as in `published_redpsm`; angles_rad: as in `prosep`.
        seed: of the random functions; cg_steps: for Λ.

    Returns:
        The start and ProSep's result.

    Source: RP 2.3, the verified recipe.
    """
    s = settings
    first = prosep(A, y, angles_rad, rank=s.start_rank, n_harmonics=s.n_harmonics, mask=mask)
    flat = first.movie[:, mask].to(torch.float64)
    r = min(s.start_rank, s.rank)
    psi = torch.linalg.eigh(flat @ flat.T)[1].flip(1)[:, :r].cpu()  # right singular vectors of the movie
    random = torch.randn(len(psi), s.rank - r, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    random = torch.linalg.qr(random - psi @ (psi.T @ random))[0]
    U = hermite_basis(s.n_knots, len(psi))
    z = torch.linalg.lstsq(U, torch.cat([psi, random], dim=1)).solution
    psi = (U @ z[:, :r]).to(y)

    def forward(spatial: Tensor) -> Tensor:
        return A(embed(psi @ spatial.T, mask)[:, None])

    def adjoint(data: Tensor) -> Tensor:
        return A.adjoint(data)[:, 0][:, mask].T @ psi

    spatial = torch.zeros(int(mask.sum()), r, dtype=y.dtype, device=y.device)
    residual = adjoint(y)
    direction, size = residual, residual.square().sum()
    for _ in range(cg_steps):
        product = forward(direction)
        step = size / product.square().sum()
        spatial = spatial + step * direction
        residual = residual - step * adjoint(product)
        before, size = size, residual.square().sum()
        direction = residual + size / before * direction
    rest = torch.zeros(len(spatial), s.rank - r, dtype=y.dtype, device=y.device)
    return Start(torch.cat([spatial, rest], dim=1), z), first


def harmonics(angles_rad: Tensor, n: int) -> Tensor:
    """1, cos θ, sin θ, ..., cos nθ, sin nθ: (P,) -> (P, 2 n + 1)."""
    phase = angles_rad[:, None] * torch.arange(1, n + 1, dtype=angles_rad.dtype)
    waves = torch.stack([torch.cos(phase), torch.sin(phase)], dim=2).flatten(1)
    return torch.cat([torch.ones_like(angles_rad)[:, None], waves], dim=1)


def fbp(A: LinearOperator, y: Tensor) -> Tensor:
    """Filtered backprojection of still objects, views spread evenly over half a turn, pixels and bins of unit length.

    Args:
        A: (P, 1, ny, nx) -> (P, 1, J), view p of frame p. Its adjoint, divided by that of ones, interpolates each view;
            the adjoint alone weighs neighbouring pixels up to 18 % apart where it rotates and sums.
        y: (n, P, 1, J).

    Returns:
        (n, ny, nx); of use inside the field of view, which all views see.

    Source: Kak and Slaney (1988), section 3.3: the band-limited ramp, 1/4 at 0 and -1 / (π k)² at odd k.
    """
    n_bins = y.shape[-1]
    size = 2 ** math.ceil(math.log2(2 * n_bins))
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    ramp = torch.where(k % 2 == 1, -1 / (torch.pi * torch.where(k == 0, 1.0, k)) ** 2, 0.0)
    ramp[0] = 0.25
    filtered = torch.fft.irfft(torch.fft.rfft(y, size) * torch.fft.rfft(ramp).real.to(y), size)[..., :n_bins]
    weight = A.adjoint(torch.ones_like(y[0]))
    weight = torch.where(weight > 0.1, weight, torch.inf)  # beyond the detector
    return torch.stack([(A.adjoint(v.contiguous()) / weight).mean((0, 1)) * torch.pi for v in filtered])


def _smooth_start(U: Tensor, rank: int) -> Tensor:
    """z whose functions U z are the polynomials of degree below rank, orthonormal, as well as U knows them."""
    t = torch.linspace(-1, 1, len(U), dtype=U.dtype)
    powers = t[:, None] ** torch.arange(rank, dtype=U.dtype)
    return torch.linalg.lstsq(U, torch.linalg.qr(powers)[0]).solution


# -- figures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """psnr in dB; ssim; mae, unit of the image; hfen, not normalised (RP 5.1)."""

    psnr: float
    ssim: float
    mae: float
    hfen: float

    def __str__(self) -> str:
        return f"{self.psnr:.2f} / {self.ssim:.3f} / {self.mae:.2e} / {self.hfen:.3f}"


def psnr(estimate: Tensor, truth: Tensor) -> float:
    """20 log10 of the truth's range over the RMS error of the whole movie, dB; (P, ny, nx) both (RP 5.1)."""
    error = float((estimate.to(torch.float64) - truth).square().mean().sqrt())
    return 20 * math.log10(float(truth.max() - truth.min()) / error)


def figures(estimate: Tensor, truth: Tensor) -> Figures:
    """PSNR, SSIM, MAE and HFEN of movies (P, ny, nx).

    Source: RP 5.1: SSIM in windows of 7 x 7 x 7 with the range of the *estimate*; HFEN is the norm of the frame-wise
    Laplacian of Gaussian, sigma 1.5 pixels, of the error.
    """
    a, b = (v.detach().cpu().to(torch.float64).numpy() for v in (estimate, truth))
    similarity = structural_similarity(a, b, win_size=7, data_range=float(a.max() - a.min()))
    edges = np.stack([gaussian_laplace(frame, 1.5) for frame in a - b])
    return Figures(psnr(estimate, truth), float(similarity), float(np.abs(a - b).mean()), float(np.linalg.norm(edges)))


@dataclass(frozen=True)
class Record:
    """A run followed to its end.

    Args:
        psnrs: of f at each outer iteration, dB.
        seconds: that each took.
        best, last: figures of the iteration with the highest PSNR, which takes the truth to know, and of the last.
        best_iteration: from 1.
        best_movie, last_movie: (P, ny, nx).
    """

    psnrs: list[float]
    seconds: list[float]
    best: Figures
    last: Figures
    best_iteration: int
    best_movie: Tensor
    last_movie: Tensor

    def at(self, iteration: int) -> float:
        """PSNR in dB after an outer iteration, from 1."""
        return self.psnrs[iteration - 1]


def follow(
    states: Iterator[PublishedState], truth: Tensor, *, report: Callable[[PublishedState, float], None] | None = None
) -> Record:
    """Drive the algorithm to its end; (P, ny, nx) truth; report is called with each state and its PSNR."""
    psnrs: list[float] = []
    seconds: list[float] = []
    best_movie = last_movie = None
    for state in states:
        value = psnr(state.f, truth)
        if not math.isfinite(value):
            raise ValueError(f"published_redpsm: iteration {state.iteration} is not finite")
        if best_movie is None or value > max(psnrs):
            best_movie = state.f
        last_movie = state.f
        psnrs.append(value)
        seconds.append(state.elapsed_s)
        if report is not None:
            report(state, value)
    if best_movie is None or last_movie is None:
        raise ValueError("published_redpsm: expected at least one iteration, got n_outer = 0")
    best = figures(best_movie, truth)
    last = figures(last_movie, truth)
    return Record(psnrs, seconds, best, last, 1 + psnrs.index(max(psnrs)), best_movie, last_movie)
