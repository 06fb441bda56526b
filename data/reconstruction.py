"""A reconstruction in memory: volume, convergence, metrics, provenance. No file, no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.measurement import Array, Volume

STATUSES = ("complete", "stopped", "diverged")
STOP_REASONS = ("tolerance", "max_iterations", "time_limit", "diverged", "interrupted")


@dataclass(frozen=True, kw_only=True, eq=False)
class Convergence:
    """What an iterative method logged.

    Args:
        columns: float64 (n,) per quantity: iteration (int32), objective, data_fidelity, primal_residual,
            dual_residual, dual_change, relative_change, rho, sigma, step_size, psnr, nmse, elapsed (s); NaN where
            the algorithm has none.
        stop_reason: one of STOP_REASONS.
        converged: whether the tolerance was reached.
        n_iterations: iterations done.
    """

    columns: Mapping[str, Array]
    stop_reason: str
    converged: bool
    n_iterations: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """One figure of merit.

    Args:
        value: a number, or float64 (frame,).
        units: "dB" or "1".
        data_range: the range that a PSNR or SSIM refers to; None when it has none.
        reference: what it was compared with, e.g. "/ground_truth/volume".
        definition: the formula, in words.
    """

    value: float | Array
    units: str = "1"
    data_range: float | None = None
    reference: str = ""
    definition: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """What one reconstruction file says, in SI units; axes (frame,) z, y, x, or dictionary axes.

    Args:
        modality: of the measurement.
        volume: the image, complex64 when the unknown is complex, else float32.
        uncertainty: standard deviations, float32, shape of the volume.
        channel: of irs_mimo, what the coefficients say of the channel for each reflection pattern: complex64, axes
            (frame, subcarrier,) config, rx, tx.
        convergence: None for direct methods.
        metrics: by name: nmse, psnr, ssim, measurement_residual, ...
        provenance: program, version, date, command_line, config, config_sha256, input_file, input_sha256,
            denoiser, seed, device, precision, wall_time (s), peak_memory (bytes), ...
        status: one of STATUSES.
        previews: uint8 2-D thumbnails: mip_z, mip_y, mip_x.
        attrs: root attributes: uuid, input_uuid, creator, creator_version, file_time, title, ...
        warnings: sentences the reader has for the user.
    """

    modality: str
    volume: Volume
    uncertainty: Array | None = None
    channel: Volume | None = None
    convergence: Convergence | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    status: str = "complete"
    previews: Mapping[str, Array] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
