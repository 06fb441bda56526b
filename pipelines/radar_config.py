"""Configuration of the near-field radar methods: one frozen dataclass per method and per TOML table."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipelines.config import STRICT

Triple = tuple[float, float, float]
Spacing = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
Counts = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GridTable:
    """[grid]: what is not given comes from the file's /grid, else from aperture and bandwidth."""

    origin_m: Triple | None = Field(default=None, description="centre of the first voxel, z, y, x, metres")
    spacing_m: Spacing | None = Field(default=None, description="voxel spacing, z, y, x, metres")
    shape: Counts | None = Field(default=None, description="number of voxels, z, y, x")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoiseTable:
    """[noise]: at most one; without any the file's noise_std is taken, else the noise is estimated."""

    std: float | None = Field(default=None, ge=0, description="noise standard deviation per complex sample, data units")
    epsilon: float | None = Field(default=None, ge=0, description="radius of the data ellipsoid ‖Ax - y‖ of a frame")
    snr_db: float | None = Field(default=None, description="assumed ratio in dB: epsilon = ‖y‖ 10^(-snr_db/20)")

    def __post_init__(self) -> None:
        given = [k for k in ("std", "epsilon", "snr_db") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of std, epsilon, snr_db, found {' and '.join(given)}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SolverTable:
    """[solver]: constrained formulation min r(|x|) subject to ‖Ax - y‖ <= epsilon."""

    kind: Literal["auto", "projected", "csalsa"] = Field(
        default="auto",
        description="projected: single split, projection on the data ellipsoid; csalsa: two splits; "
        "auto: projected where the projection is exact, csalsa with a few CG steps otherwise",
    )
    alpha: float = Field(
        default=5e-2,
        gt=0,
        description="prior strength per iteration, relative to the image's running peak",
    )
    alpha_final: float | None = Field(
        default=None, gt=0, description="strength at max_iter, reached geometrically; none keeps alpha"
    )
    kappa_fraction: float = Field(
        default=0.158,
        gt=0,
        description="csalsa only: penalty kappa as a fraction of the mean eigenvalue of AAᴴ",
    )
    cg_steps: int = Field(
        default=10, ge=1, description="csalsa without an exact solve: CG steps per iteration at most, warm-started"
    )
    max_iter: int = Field(default=30, ge=1, description="iterations at most")
    tol: float = Field(
        default=4e-2,
        ge=0,
        description="stop when the image's relative change falls below; stopping early is part of the method",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TvSolverTable(SolverTable):
    """[solver] of tv: TV of a magnitude works by stopping early; see [tv] l1_weight."""

    max_iter: int = Field(default=50, ge=1, description="iterations at most; about 5 without the l1 term")
    tol: float = Field(default=4e-3, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PnpSolverTable(SolverTable):
    """[solver] of pnp: alpha is the variance of the noise that the denoiser is told to remove."""

    alpha: float = Field(default=1e-2, gt=0, description="denoiser's noise variance sigma² on a unit-peak image, first")
    alpha_final: float | None = Field(
        default=2e-3, gt=0, description="the same at max_iter, reached geometrically; none keeps alpha"
    )
    max_iter: int = Field(default=12, ge=1, description="iterations at most")
    tol: float = Field(default=5e-3, ge=0, description="stop when the image's relative change falls below")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after this many iterations in which denoised image and data did not come closer, and take "
        "the closest, for denoisers that drift; none takes the last iterate",
    )
    output: Literal["denoised", "consistent"] = Field(
        default="denoised", description="the denoiser's last result, or the image that fits the data to within epsilon"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TvTable:
    """[tv]"""

    l1_weight: float = Field(
        default=1.0,
        ge=0,
        description="l1 term against TV's 1; without it the magnitude flattens and the scene dissolves",
    )
    n_iter: int = Field(default=10, ge=1, description="inner iterations of the dual TV solver, warm-started")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KirchhoffTable:
    """[kirchhoff]"""

    compensate: bool = Field(default=False, description="amplify far voxels as a limited aperture sees them")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DenoiserTable:
    """[denoiser]"""

    file: str = Field(
        default="radar-3d-fast",
        description="a name of 'backcast denoisers', a .safetensors file with its card, module:attribute, "
        "path.py:attribute, or a TorchScript .pt / torch.export .pt2 file",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of a network's convolutions; bfloat16 is faster where the processor has it"
    )
    ensemble: Literal[1, 2, 4, 8] = Field(
        default=4,
        description="mirror images of the magnitude that are denoised and averaged, one call of the denoiser each; "
        "1 is fastest, more is better",
    )
    scale: Literal["bright", "peak", "none"] = Field(
        default="peak",
        description="what the magnitude is divided by before the denoiser and multiplied with after: the mean of its "
        "brightest thousandth, its peak, or nothing but the data's own scale",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RadarConfig:
    """What every radar method takes."""

    precision: Literal["single", "double"] = Field(default="single", description="complex64 or complex128 arithmetic")
    seed: int = Field(default=0, ge=0, description="seed of everything random in the method")
    grid: GridTable = GridTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BackprojectionConfig(RadarConfig):
    """Unit-weight back-projection."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KirchhoffConfig(RadarConfig):
    """Kirchhoff migration."""

    kirchhoff: KirchhoffTable = KirchhoffTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RangeMigrationConfig(RadarConfig):
    """Range migration of planar monostatic scans."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class L1Config(RadarConfig):
    """Sparse magnitude."""

    noise: NoiseTable = NoiseTable()
    solver: SolverTable = SolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TvConfig(RadarConfig):
    """Piecewise constant magnitude."""

    noise: NoiseTable = NoiseTable()
    solver: TvSolverTable = TvSolverTable()
    tv: TvTable = TvTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PnpConfig(RadarConfig):
    """Magnitude denoised by a network."""

    noise: NoiseTable = NoiseTable()
    solver: PnpSolverTable = PnpSolverTable()
    denoiser: DenoiserTable = DenoiserTable()
