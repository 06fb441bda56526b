"""Configuration of the tomography methods: one frozen dataclass per method and per TOML table."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipelines.config import STRICT
from pipelines.radar_config import GridTable


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GeometryTable:
    """[geometry]: what is not given comes from the file."""

    axis_offset_m: float | None = Field(
        default=None, description="detector coordinate of the rotation axis (fan: of the central ray's foot), metres"
    )
    find_axis: bool = Field(
        default=False, description="search the rotation axis of a parallel scan, whatever the file says"
    )
    tilt_deg: float = Field(default=0.0, gt=-60, lt=60, description="detector turned about z against the beam's normal")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataTable:
    """[data]: from the file's samples to line integrals and their weights."""

    weights: Literal["auto", "statistical", "none"] = Field(
        default="auto",
        description="samples weighted by their photons (iterative methods); auto: where the file has counts or "
        "transmission",
    )
    rings: Literal["none", "sorting", "offset"] = Field(
        default="none", description="damping of stripes, see damp_rings"
    )
    ring_size: int | None = Field(
        default=None, ge=3, description="columns of its running median, odd; none takes a few per cent of the detector"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DenoiserTable:
    """[denoiser]"""

    file: str = Field(
        default="tomo-2d",
        description="a name of 'backcast denoisers', a .safetensors file with its card, module:attribute, "
        "path.py:attribute, or a TorchScript .pt / torch.export .pt2 file",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="of a network's convolutions; bfloat16 is faster where the processor has it"
    )
    patch: int | None = Field(
        default=None,
        ge=8,
        description="side in pixels of patches, half of it apart, that slices are denoised in and whose mean is taken; "
        "none denoises whole slices",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FbpTable:
    """[fbp]"""

    n_views: int | None = Field(
        default=None,
        ge=1,
        description="views nearest in time that each frame is made of; none takes its own, and 32 where they are fewer "
        "than 16",
    )
    window: Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"] = Field(
        default="ram-lak", description="of the ramp filter"
    )
    cutoff: float = Field(default=1.0, gt=0, le=1, description="of the window, share of the Nyquist frequency")
    extension: Literal["zero", "constant", "smooth"] = Field(
        default="zero", description="of truncated projections beyond the detector"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TvSolverTable:
    """[solver] of tv; weights are against an image whose bright parts are 1, and 1 for the data over ‖A‖²."""

    weight: float = Field(default=3e-4, ge=0, description="of the total variation of each frame")
    temporal_weight: float | None = Field(
        default=None,
        ge=0,
        description="of the variation in time, for moving objects; none takes 3e-3, for fewer than 32 frames less in "
        "proportion",
    )
    nonnegative: bool = Field(default=True, description="attenuation is not negative")
    max_iter: int = Field(default=300, ge=1, description="iterations at most")
    tol: float = Field(default=2e-4, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelTable:
    """[model]: the movie's temporal functions."""

    knots: int | None = Field(
        default=None, ge=1, description="latent values d of the splines in time; none chooses by held-out samples"
    )
    rank: int | None = Field(default=None, ge=1, description="functions K <= knots; none takes as many as knots")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PsmSolverTable:
    """[solver] of psm: few steps regularise."""

    cg_steps: int = Field(default=4, ge=1, description="conjugate-gradient steps per iteration")
    nonnegative: bool = Field(default=True, description="attenuation is not negative")
    max_iter: int = Field(default=10, ge=1, description="iterations at most; more fit noise")
    tol: float = Field(default=1e-3, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RedSolverTable:
    """[solver] of redpsm and pnp."""

    beta_fraction: float = Field(
        default=0.022,
        gt=0,
        description="penalty beta as a fraction of the mean eigenvalue of AAᴴ, times the views per frame",
    )
    weight_ratio: float = Field(
        default=19.0, gt=0, description="lambda over beta: how far an iteration goes to the denoised image"
    )
    sigma: float = Field(default=0.1, gt=0, description="noise level told to the denoiser, first; bright parts are 1")
    sigma_final: float | None = Field(
        default=None,
        gt=0,
        description="the same from iteration sigma_iter on, geometrically; none takes 0.06, and for movies of fewer "
        "than 64 views up to 0.1 at 38",
    )
    sigma_iter: int = Field(default=12, ge=1, description="iterations over which the level falls")
    cg_steps: int = Field(default=10, ge=1, description="conjugate-gradient steps per iteration, warm-started")
    nonnegative: bool = Field(default=True, description="attenuation is not negative")
    relaxation: float = Field(default=1.6, gt=0, lt=2, description="over-relaxation of the ADMM")
    mirrored: bool = Field(
        default=False, description="the denoiser sees slices as they are, mirrored in x, in y and in both, in turn"
    )
    max_iter: int = Field(default=30, ge=1, description="iterations at most")
    tol: float = Field(default=1.5e-3, ge=0, description="stop when the image's relative change falls below")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RedPsmSolverTable(RedSolverTable):
    """[solver] of redpsm, whose model regularises, too."""

    beta_fraction: float | None = Field(  # type: ignore[assignment]
        default=None,
        gt=0,
        description="penalty beta as a fraction of the mean eigenvalue of AAᴴ, times the views per frame; none takes "
        "0.022, and less for movies of more than 32 views, 0.011 from 128 on",
    )
    mirrored: bool = Field(
        default=True, description="the denoiser sees slices as they are, mirrored in x, in y and in both, in turn"
    )
    max_iter: int = Field(default=15, ge=1, description="iterations at most")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TomographyConfig:
    """What every tomography method takes."""

    precision: Literal["single", "double"] = Field(default="single", description="float32 or float64 arithmetic")
    seed: int = Field(default=0, ge=0, description="seed of everything random in the method")
    grid: GridTable = GridTable()
    geometry: GeometryTable = GeometryTable()
    data: DataTable = DataTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FbpConfig(TomographyConfig):
    """Filtered back-projection."""

    fbp: FbpTable = FbpTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TvConfig(TomographyConfig):
    """Total variation."""

    solver: TvSolverTable = TvSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PsmConfig(TomographyConfig):
    """Partially separable movie."""

    model: ModelTable = ModelTable()
    solver: PsmSolverTable = PsmSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PnpConfig(TomographyConfig):
    """Frames regularised by a denoiser, each on its own."""

    solver: RedSolverTable = RedSolverTable()
    denoiser: DenoiserTable = DenoiserTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RedPsmConfig(TomographyConfig):
    """Partially separable movie regularised by a denoiser."""

    model: ModelTable = ModelTable()
    solver: RedPsmSolverTable = RedPsmSolverTable()
    denoiser: DenoiserTable = DenoiserTable()
