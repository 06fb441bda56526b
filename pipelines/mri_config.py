"""Configuration of the MRI methods: one frozen dataclass per method and per TOML table."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipelines.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CoilsTable:
    """[coils]: sensitivities, noise and their treatment."""

    maps: Literal["auto", "file", "espirit", "walsh"] = Field(
        default="auto",
        description="where sensitivities come from; auto: the file's, else espirit; walsh is the fast choice",
    )
    sets: Literal[1, 2] = Field(
        default=1, description="espirit: maps per coil; two where the field of view is smaller than the object"
    )
    calibration: int | None = Field(
        default=None, ge=4, description="samples along each axis of the centre that espirit is made of; none finds it"
    )
    whiten: bool = Field(default=True, description="use the file's noise covariance, where it has one")
    compress: int | None = Field(
        default=None, ge=1, description="virtual coils that the data are compressed to; none keeps them all"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrajectoryTable:
    """[trajectory]: of scans that are not on a raster."""

    weights: Literal["auto", "density", "none"] = Field(
        default="auto",
        description="iterative methods: samples weighted by the area of k-space that each stands for, or alike; auto: "
        "weighted by tv and lps, whose plain gradient steps would not get to the edge of k-space, else alike",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdjointTable:
    """[adjoint]"""

    combine: Literal["maps", "rss"] = Field(
        default="maps", description="coil images combined with the sensitivities, or as root of the sum of squares"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SenseTable:
    """[sense]: min ½‖Ax - y‖² + weight/2 s ‖x‖², s the largest sum of the coils' squared sensitivities."""

    weight: float | None = Field(
        default=None,
        gt=0,
        description="of the image's energy, against s; none is 0.01 on a raster, where few steps regularise too, 0.1 "
        "along trajectories",
    )
    max_iter: int = Field(default=20, ge=1, description="conjugate-gradient steps at most; more amplify noise")
    tol: float = Field(default=1e-4, ge=0, description="stop when the residual falls below this share of its start")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WaveletSolverTable:
    """[solver] of l1wavelet; the weight is against an image whose bright parts are 1, and s as in [sense]."""

    weight: float = Field(default=2e-3, ge=0, description="of the wavelet details' l1 norm")
    on: Literal["complex", "magnitude"] = Field(default="complex", description="what is sparse")
    levels: int = Field(default=4, ge=1, description="of the decomposition, at most")
    moments: int = Field(default=4, ge=1, le=10, description="vanishing moments of Daubechies' wavelet")
    rho_fraction: float = Field(default=0.1, gt=0, description="penalty of the ADMM over s; sets the speed only")
    max_iter: int = Field(default=40, ge=1, description="iterations at most")
    tol: float = Field(default=1e-3, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TvSolverTable:
    """[solver] of tv; weights are against an image whose bright parts are 1, and ‖A‖² for the data."""

    weight: float = Field(default=2e-3, ge=0, description="of the total variation of each frame")
    temporal_weight: float = Field(default=4e-3, ge=0, description="of the variation in time, complex images only")
    on: Literal["complex", "magnitude"] = Field(default="complex", description="whose variation it is")
    rho_fraction: float = Field(default=0.1, gt=0, description="magnitude: penalty of the ADMM over s")
    max_iter: int = Field(default=150, ge=1, description="iterations at most")
    tol: float = Field(default=5e-4, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelTable:
    """[model]: the movie's temporal functions."""

    knots: int | None = Field(
        default=None, ge=1, description="latent values of the splines in time; none chooses by held-out samples"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PsmSolverTable:
    """[solver] of psm: few steps regularise."""

    cg_steps: int = Field(default=4, ge=1, description="conjugate-gradient steps per iteration")
    max_iter: int = Field(default=10, ge=1, description="iterations at most; more fit noise")
    tol: float = Field(default=1e-3, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LpsSolverTable:
    """[solver] of lps; weights are against an image whose bright parts are 1, and ‖A‖² for the data."""

    low_rank_fraction: float = Field(
        default=5e-3, ge=0, description="weight of the nuclear norm over the first image's largest singular value"
    )
    sparse_weight: float = Field(default=1e-2, ge=0, description="of the l1 norm of the temporal frequencies")
    max_iter: int = Field(default=60, ge=1, description="iterations at most")
    tol: float = Field(default=5e-4, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RedSolverTable:
    """[solver] of pnp and redpsm."""

    on: Literal["parts", "magnitude", "demodulated", "joint"] = Field(
        default="parts",
        description="what is denoised: real and imaginary part; the magnitude, the phase kept; the parts after a "
        "smooth phase is taken off; or both parts together, by a denoiser of complex images such as mri-2d-complex",
    )
    beta_fraction: float = Field(default=0.5, gt=0, description="penalty beta over the mean eigenvalue of AᴴA")
    weight_ratio: float = Field(
        default=19.0, gt=0, description="lambda over beta: how far an iteration goes to the denoised image"
    )
    sigma: float = Field(default=0.1, gt=0, description="noise level told to the denoiser, first; bright parts are 1")
    sigma_final: float = Field(default=0.03, gt=0, description="the same from iteration sigma_iter on, geometrically")
    sigma_iter: int = Field(default=12, ge=1, description="iterations over which the level falls")
    cg_steps: int = Field(default=10, ge=1, description="conjugate-gradient steps per iteration, warm-started")
    relaxation: float = Field(default=1.6, gt=0, lt=2, description="over-relaxation of the ADMM")
    max_iter: int = Field(default=24, ge=1, description="iterations at most")
    tol: float = Field(default=1.5e-3, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DenoiserTable:
    """[denoiser]"""

    file: str = Field(
        default="mri-2d",
        description="a name of 'backcast denoisers', a .safetensors file with its card, module:attribute, "
        "path.py:attribute, or a TorchScript .pt / torch.export .pt2 file",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="of a network's convolutions; bfloat16 is faster where the processor has it"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MriConfig:
    """What every MRI method takes."""

    precision: Literal["single", "double"] = Field(default="single", description="complex64 or complex128 arithmetic")
    seed: int = Field(default=0, ge=0, description="seed of everything random in the method")
    coils: CoilsTable = CoilsTable()
    trajectory: TrajectoryTable = TrajectoryTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdjointConfig(MriConfig):
    """Zero-filled, or gridded, image."""

    adjoint: AdjointTable = AdjointTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SenseConfig(MriConfig):
    """SENSE by conjugate gradients."""

    sense: SenseTable = SenseTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WaveletConfig(MriConfig):
    """Sparse wavelet coefficients."""

    solver: WaveletSolverTable = WaveletSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TvConfig(MriConfig):
    """Total variation."""

    solver: TvSolverTable = TvSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PsmConfig(MriConfig):
    """Partially separable movie."""

    model: ModelTable = ModelTable()
    solver: PsmSolverTable = PsmSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LpsConfig(MriConfig):
    """Low rank plus sparse."""

    solver: LpsSolverTable = LpsSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PnpConfig(MriConfig):
    """Frames regularised by a denoiser, each on its own."""

    solver: RedSolverTable = RedSolverTable()
    denoiser: DenoiserTable = DenoiserTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RedPsmConfig(MriConfig):
    """Partially separable movie regularised by a denoiser."""

    model: ModelTable = ModelTable()
    solver: RedSolverTable = RedSolverTable()
    denoiser: DenoiserTable = DenoiserTable()
