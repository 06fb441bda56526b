"""Configuration of the channel estimators: one frozen dataclass per method and per TOML table."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipelines.config import STRICT

Strength = Annotated[float, Field(ge=0, le=1)]
Strengths = tuple[Strength, Strength, Strength]
Share = Annotated[float, Field(ge=0, lt=1)]
Paths = Annotated[int, Field(ge=1)]
Shares = tuple[Share, Share, Share]
PRUNE = (
    "variances below this share of the largest of their factor are 0 for good; one number, or three (surface, "
    "transmitter, receiver)"
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataTable:
    """[data]"""

    direct_path: Literal["absent", "removed"] = Field(
        default="absent",
        description="removed: take out what all reflection patterns have in common, for receivers that see the "
        "transmitter as well",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DictionaryTable:
    """[dictionary]: directions of a dictionary made from the positions; none takes the file's /dictionary."""

    n_irs: int | None = Field(default=None, ge=2, description="departure minus arrival at the surface")
    n_tx: int | None = Field(default=None, ge=2, description="departures from the transmitter")
    n_rx: int | None = Field(default=None, ge=2, description="arrivals at the receiver")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoiseTable:
    """[noise]: without any the file's noise_variance is taken, else it is estimated with the coefficients."""

    variance: float | None = Field(default=None, gt=0, description="of a complex sample, W")
    estimate: bool = Field(default=False, description="estimate it whatever the file says")

    def __post_init__(self) -> None:
        if self.variance is not None and self.estimate:
            raise ValueError("expected one of variance, estimate, found both")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StopTable:
    """[solver]"""

    tol: float = Field(default=1e-6, ge=0, description="stop when the log evidence per sample changes by less")
    max_iter: int = Field(default=300, ge=1, description="iterations at most")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SblSolverTable(StopTable):
    """[solver] of sbl, whose iterations are expensive."""

    max_iter: int = Field(default=150, ge=1, description="iterations at most")
    prune: Share = Field(default=1e-3, description="variances below this share of the largest are 0 for good")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KroneckerSolverTable(StopTable):
    """[solver] of Kronecker-structured SBL."""

    prune: Share | Shares = Field(default=1e-3, description=PRUNE)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AmSolverTable(KroneckerSolverTable):
    """[solver] of krosbl-am."""

    prune: Share | Shares = Field(default=(1e-2, 1e-1, 1e-3), description=PRUNE)
    inner_tol: float = Field(default=1e-4, gt=0, description="relative change of the variances that ends the M-step")
    max_sweeps: int = Field(default=100, ge=1, description="over the factors, per M-step")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SvdSolverTable(KroneckerSolverTable):
    """[solver] of krosbl-svd."""

    width: float = Field(
        default=100.0, gt=0, description="where variances start, over what explains the power of the data"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MmSolverTable(KroneckerSolverTable):
    """[solver] of krosbl-mm."""

    tol: float = Field(
        default=1e-5, ge=0, description="stop when the log evidence per sample changes by less, after `first`"
    )
    first: int = Field(
        default=30, ge=0, description="iterations of rank-one projections (krosbl-svd) that come first; 0 for none"
    )
    polish: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="rank-one least squares on the support that was found; auto: where the data can be of rank one",
    )

    coupling: Strengths = Field(
        default=(0.0, 0.0, 0.0),
        description="of neighbouring directions, per factor (surface, transmitter, receiver); 0.5 suits block-sparse "
        "channels",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PcSolverTable(KroneckerSolverTable):
    """[solver] of pckrosbl."""

    prune: Share | Shares = Field(default=(1e-2, 1e-1, 1e-2), description=PRUNE)
    coupling: Strengths = Field(default=(0.8, 0.0, 0.8), description="of neighbouring directions, per factor")
    max_sweeps: int = Field(default=9, ge=1, description="over the factors, per M-step")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OmpTable:
    """[omp]"""

    max_atoms: int = Field(default=50, ge=1, description="coefficients other than 0, at most")
    residual: float = Field(
        default=0.1, ge=0, lt=1, description="share of the data's norm at which it ends where the noise is not known"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KompTable:
    """[komp]"""

    max_per_factor: int = Field(default=10, ge=1, description="columns of each factor, at most")
    residual: float = Field(default=1e-2, ge=0, lt=1, description="share of the data's norm at which it ends")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PcSblTable:
    """[solver] of pcsbl."""

    tol: float = Field(default=1e-4, ge=0, description="stop when the coefficients change by a smaller share")
    max_iter: int = Field(default=150, ge=1, description="iterations at most")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DsblTable:
    """[solver] of dsbl."""

    tol: float = Field(default=1e-5, ge=0, description="stop when no factor's variances change by a larger share")
    max_iter: int = Field(default=200, ge=1, description="iterations at most")
    prune: Share = Field(default=5e-4, description="variances below this share of their factor's largest are 0")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OffgridTable:
    """[solver] of offgrid."""

    tol: float = Field(default=1e-4, ge=0, description="stop when no factor's variances change by a larger share")
    max_iter: int = Field(default=200, ge=1, description="iterations at most")
    n_paths: tuple[Paths, Paths, Paths] = Field(
        default=(5, 1, 5), description="directions that are refined: surface, transmitter, receiver"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OffgridDictionaryTable:
    """[dictionary] of offgrid: directions to start from."""

    n_irs: int = Field(default=180, ge=3, description="departure minus arrival at the surface")
    n_tx: int = Field(default=50, ge=3, description="departures from the transmitter")
    n_rx: int = Field(default=50, ge=3, description="arrivals at the receiver")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IrsConfig:
    """What every channel estimator takes."""

    precision: Literal["single", "double"] = Field(
        default="double", description="of data and coefficients; small matrices are always double"
    )
    seed: int = Field(default=0, ge=0, description="seed of everything random in the method")
    data: DataTable = DataTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OnGridConfig(IrsConfig):
    """What every method takes whose atoms stay."""

    dictionary: DictionaryTable = DictionaryTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LsConfig(OnGridConfig):
    """Least squares."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoisyConfig(OnGridConfig):
    """What every method takes that has to know the noise."""

    noise: NoiseTable = NoiseTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KroAmConfig(NoisyConfig):
    """Alternating minimisation."""

    solver: AmSolverTable = AmSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KroSvdConfig(NoisyConfig):
    """Rank-one SVD."""

    solver: SvdSolverTable = SvdSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KroMmConfig(NoisyConfig):
    """Majorise-minimise."""

    solver: MmSolverTable = MmSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PcKroConfig(NoisyConfig):
    """Pattern-coupled."""

    solver: PcSolverTable = PcSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SblConfig(NoisyConfig):
    """Classical SBL."""

    solver: SblSolverTable = SblSolverTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PcSblConfig(NoisyConfig):
    """Pattern-coupled SBL."""

    solver: PcSblTable = PcSblTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OmpConfig(NoisyConfig):
    """Orthogonal matching pursuit."""

    omp: OmpTable = OmpTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KompConfig(OnGridConfig):
    """Kronecker orthogonal matching pursuit."""

    komp: KompTable = KompTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DsblConfig(OnGridConfig):
    """Decomposed SBL."""

    solver: DsblTable = DsblTable()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OffgridConfig(IrsConfig):
    """Decomposed SBL off the grid."""

    dictionary: OffgridDictionaryTable = OffgridDictionaryTable()
    solver: OffgridTable = OffgridTable()
