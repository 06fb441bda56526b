"""What ``backcast train`` reads: the TOML of one training. Needs torch only for what it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipelines.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NetworkTable:
    """[network]"""

    kind: Literal["unet3d", "gated_unet", "dncnn"] = Field(default="gated_unet", description="architecture")
    options: Mapping[str, Any] = Field(default_factory=dict, description="[network.options]: its keyword arguments")
    start: str = Field(default="", description="weights to start from: a shipped name or a .safetensors file")
    seed: int = Field(default=0, ge=0, description="of the random start")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataTable:
    """[data]: synthetic images, files, or both."""

    mix: Mapping[str, Any] = Field(
        default_factory=dict, description="[data.mix]: kinds of synthetic images and their weights"
    )
    n_volumes: int = Field(default=4096, ge=1, description="different synthetic volumes per kind")
    grid_shape: tuple[int, int, int] = Field(default=(49, 25, 25), description="voxels of a synthetic volume, z, y, x")
    files: tuple[str, ...] = Field(
        default=(), description="HDF5, NumPy or NIfTI files or folders; ~ and $NAME are expanded"
    )
    files_weight: float = Field(default=1.0, gt=0, description="of the files against 1 for the synthetic images")
    key: str = Field(default="", description="dataset inside the files, where there are several")
    value_range: tuple[float, float] | None = Field(
        default=None,
        description="values that become 0 and 1, clipped; none takes 0 to the maximum, or percentiles 0.1 and 99.9 "
        "where values are negative",
    )
    slices: Literal[0, 1, 2] = Field(default=0, description="2D: cut files perpendicular to this axis (z, y, x)")
    phase: bool = Field(
        default=False, description="multiply images with exp(jφ), φ smooth and random, for a network of complex images"
    )
    shape: tuple[int, ...] = Field(default=(24, 16, 16), description="of a training crop, (z,) y, x")
    validation_shape: tuple[int, ...] = Field(default=(), description="of a validation image; empty: as shape")
    known_sigma: float | None = Field(
        default=None, gt=0, description="the images are noisy themselves, with this level; for loss sure or split"
    )
    seed: int = Field(default=0, ge=0, description="of images and noise")

    def __post_init__(self) -> None:
        if not self.mix and not self.files:
            raise ValueError("expected kinds under [data.mix] or files, found neither")
        if len(self.shape) not in (2, 3):
            raise ValueError(f"shape: expected 2 or 3 numbers, found {len(self.shape)}")
        if self.validation_shape and len(self.validation_shape) != len(self.shape):
            raise ValueError(
                f"validation_shape: expected {len(self.shape)} numbers as shape has, found {len(self.validation_shape)}"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoiseConfig:
    """[noise]: real white Gaussian noise, its standard deviation drawn per sample; the image's peak is 1."""

    low: float = Field(default=0.0, ge=0, description="smallest standard deviation")
    high: float = Field(default=0.2, gt=0, description="largest standard deviation")
    mismatch_files: tuple[str, ...] = Field(
        default=(), description="pairs from a solver's iterates, as 'python -m pipelines.mismatch' writes them"
    )
    mismatch_fraction: float = Field(default=0.5, ge=0, le=1, description="share of those pairs, when there is a file")

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"expected low <= high, found {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ValidationTable:
    """[validation]: against clean images; with known_sigma against the noisy ones there are, plus more noise."""

    n: int = Field(default=32, ge=1, description="images per noise level")
    levels: int = Field(default=5, ge=1, description="noise levels, in the middle of equal parts of the range")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingTable:
    """[training], see `denoisers.training.TrainingOptions`."""

    steps: int = Field(ge=1, description="gradient steps in all")
    batch: int = Field(default=16, ge=1, description="samples per step, over all processes")
    loss: Literal["supervised", "log_supervised", "sure", "split"] = Field(
        default="supervised", description="sure and split need no clean images, only the noise level"
    )
    optimiser: str = Field(default="AdamW", description="of torch.optim, or of pytorch_optimizer (extra optimizers)")
    optimiser_options: Mapping[str, Any] = Field(
        default_factory=dict, description="[training.optimiser_options]: its keyword arguments"
    )
    lr: float = Field(default=1e-3, gt=0, description="learning rate")
    schedule: Literal["constant", "cosine", "plateau"] = Field(
        default="cosine", description="cosine falls to a hundredth; plateau divides by ten when validation stalls"
    )
    warmup: int = Field(default=100, ge=0, description="steps over which the learning rate rises")
    plateau_patience: int = Field(default=25, ge=1, description="validations that plateau waits")
    clip: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the average of the weights; 0 is none")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="bfloat16: mixed precision")
    validate_every: int = Field(default=500, ge=1, description="steps between validations")
    checkpoint_every: int = Field(default=500, ge=1, description="steps between checkpoints")
    log_every: int = Field(default=50, ge=1, description="steps between rows of log.csv; every validation adds one")
    patience: int | None = Field(default=None, ge=1, description="validations without a better one that end it")
    seed: int = Field(default=0, ge=0, description="of the loss's own randomness")
    workers: int = Field(default=0, ge=0, description="processes that make samples")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """One training of a denoiser."""

    name: str = Field(description="of the denoiser, and of its files")
    summary: str = Field(default="", description="one line for the card")
    limits: str = Field(default="", description="what it is not good for, for the card")
    licence: str = Field(default="", description="of the weights, for the card")
    tensorboard: bool = Field(default=False, description="write TensorBoard events too (extra tensorboard)")
    network: NetworkTable = NetworkTable()
    data: DataTable
    noise: NoiseConfig = NoiseConfig()
    validation: ValidationTable = ValidationTable()
    training: TrainingTable

    def __post_init__(self) -> None:
        if not self.name or {"/", "\\"} & set(self.name) or self.name.startswith("."):
            raise ValueError(f"name: expected a file name without folders, found {self.name!r}")
        if self.data.known_sigma is not None and self.data.mix:
            raise ValueError(
                "[data] known_sigma: expected noisy images from files alone, found [data.mix] too, whose "
                "images are clean"
            )
        if self.training.loss == "sure" and self.training.precision == "bfloat16":
            raise ValueError(
                "[training] precision: expected float32 with loss sure, found bfloat16: its divergence is a "
                "difference of 1e-3"
            )
        if self.data.known_sigma is not None and self.training.loss not in ("sure", "split"):
            found = self.training.loss
            raise ValueError(f"[data] known_sigma: expected loss sure or split, found {found}: nothing is clean")
        if self.noise.mismatch_files and len(self.data.shape) != 3:
            raise ValueError("[noise] mismatch_files: expected a shape of 3 numbers, found 2: iterates are volumes")
        if self.noise.mismatch_files and self.training.loss in ("sure", "split"):
            raise ValueError(
                f"[noise] mismatch_files: expected loss supervised or log_supervised, found {self.training.loss}, "
                "which takes noise as white"
            )
