"""Near-field MIMO radar measurements of a known scene, with noise, geometry, truth and provenance."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.measurement import GridSpec, Measurement, Scale, Volume
from data.phantoms.errors import SimulationError
from data.simulate.mimo_radar_config import TARGETS, MimoRadarSimulation
from imaging import __version__
from imaging.operators import LinearOperator, near_field_operator

Complex64 = NDArray[np.complex64]


def mimo_radar(config: MimoRadarSimulation, index: int = 0, *, operator: LinearOperator | None = None) -> Measurement:
    """Simulate file number `index` of the series that `config` describes.

    Equal (config, index) give equal measurements, whatever else was simulated before. The target does not depend
    on the noise level, nor the noise on the target.

    Args:
        config: array, band, scene, noise.
        index: which file of the series, >= 0.
        operator: `radar_operator(config)`, to share it over a series; None builds it.

    Returns:
        A Measurement with `ground_truth`, `grid`, `noise_std` and `provenance` (config and seed). Several frames
        share one truth with a frame axis of its own.

    Raises:
        SimulationError: a target without any voxel, or whose echo vanishes.
    """
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise SimulationError(f"simulation index: expected a whole number >= 0, got {index!r}")
    for_target, for_noise = (np.random.default_rng(s) for s in np.random.SeedSequence((config.seed, index)).spawn(2))
    x = make_target(config, for_target)
    A = radar_operator(config) if operator is None else operator
    with torch.no_grad():
        clean = A(x).numpy()
    frames = np.repeat(clean[None], config.frames, axis=0)
    sigma = None if config.snr_db is None else noise_std(clean, config.snr_db)
    if sigma is not None:
        frames = frames + sigma * circular_noise(for_noise, frames.shape)
    return _measurement(config, index, frames, sigma, x.numpy())


def mimo_radar_series(config: MimoRadarSimulation, n: int) -> Iterator[Measurement]:
    """The first `n` files of a series, one after the other, with one operator."""
    operator = radar_operator(config)
    for index in range(n):
        yield mimo_radar(config, index, operator=operator)


def radar_operator(
    config: MimoRadarSimulation, *, dtype: torch.dtype = torch.complex64, memory_limit: int = 2 * 2**30
) -> LinearOperator:
    """The forward model of `config`: x (..., nz, ny, nx) -> y without its frame axis.

    Args:
        config: array, band, grid, conventions.
        dtype: of x and y.
        memory_limit: bytes for stored factors.
    """
    antennas = config.antennas
    channels = {}
    if antennas.channel_tx is not None and antennas.channel_rx is not None:
        channels = {
            "channel_tx": torch.from_numpy(antennas.channel_tx),
            "channel_rx": torch.from_numpy(antennas.channel_rx),
        }
    return near_field_operator(
        torch.from_numpy(antennas.tx_m),
        torch.from_numpy(antennas.rx_m),
        torch.from_numpy(config.frequencies_hz),
        config.grid,
        **channels,
        amplitude=config.amplitude_model,
        phase_convention=config.phase_convention,
        propagation_speed=config.propagation_speed,
        dtype=dtype,
        memory_limit=memory_limit,
    )


def make_target(config: MimoRadarSimulation, generator: np.random.Generator) -> Tensor:
    """The scene of `config`: complex64 (nz, ny, nx), peak 1."""
    try:
        x = TARGETS[config.target](config.grid, **config.target_parameters, generator=generator)
    except TypeError as error:
        raise SimulationError(f"target {config.target}: a parameter has the wrong type ({error})") from error
    return x if config.random_phase else x.abs().to(torch.complex64)


def noise_std(clean: Complex64, snr_db: float) -> float:
    """sigma with sigma² = mean |clean|² 10^(-snr_db / 10), the total variance of a complex sample (NF 2.4).

    Raises:
        SimulationError: the echo is zero, so no noise level gives that ratio.
    """
    power = float(np.mean(np.abs(clean.astype(np.complex128)) ** 2))
    if not power > 0.0:
        raise SimulationError("simulation snr_db: the target gives no echo; set snr_db to none or change the scene")
    return math.sqrt(power * 10 ** (-snr_db / 10))


def circular_noise(generator: np.random.Generator, shape: tuple[int, ...]) -> Complex64:
    """Circular complex white Gaussian noise, total variance 1: complex64."""
    pairs = generator.standard_normal((*shape, 2))
    return (math.sqrt(0.5) * pairs.view(np.complex128)[..., 0]).astype(np.complex64)


# -- inside -------------------------------------------------------------------------------------


def _measurement(
    config: MimoRadarSimulation, index: int, frames: Complex64, sigma: float | None, truth: Complex64
) -> Measurement:
    antennas = config.antennas
    full = antennas.channel_tx is None
    axes = ("frame", "tx", "rx", "frequency") if full else ("frame", "channel", "frequency")
    scales = {
        name: Scale(values=np.arange(n, dtype=np.int32), units="1") for name, n in zip(axes, frames.shape, strict=True)
    }
    times = Scale(values=np.arange(config.frames) * config.frame_interval_s, units="s")
    scales["frame"] = times
    scales["frequency"] = Scale(values=config.frequencies_hz, units="Hz")
    geometry: dict[str, Any] = {
        "tx_positions": antennas.tx_m,
        "rx_positions": antennas.rx_m,
        "frame": "right-handed; the array looks along +z",
        "coordinates": ["x", "y", "z"],
        "downrange_axis": "z",
    }
    if not full:
        geometry |= {"channel_tx": antennas.channel_tx, "channel_rx": antennas.channel_rx}
    text = json.dumps(config.to_dict(), sort_keys=True)
    return Measurement(
        modality="mimo_radar",
        data=frames.astype(np.complex64),
        axes=axes,
        scales=scales,
        units="1",
        quantity="scattered_field",
        long_name="simulated scattered field",
        geometry=geometry,
        acquisition={
            "propagation_speed": config.propagation_speed,
            "waveform": "stepped_frequency",
            "phase_convention": config.phase_convention,
            "amplitude_model": config.amplitude_model,
            "calibrated": True,
        },
        noise_std=sigma,
        grid=GridSpec(config.grid.origin_m, config.grid.spacing_m, config.grid.shape),
        ground_truth=_truth(config, truth, times),
        provenance={
            "program": "backcast simulate mimo_radar",
            "version": __version__,
            "sequence_index": 1,
            "config": text,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "seed": config.seed,
            "index": index,
        },
        attrs={
            # The same scene keeps its identity when it is simulated again.
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"backcast-mimo_radar/{index}/{text}")),
            "title": f"simulated {config.target} target, {config.array} array, file {index}",
        },
    )


def _truth(config: MimoRadarSimulation, truth: Complex64, times: Scale) -> Volume:
    scales = {axis: Scale(values=config.grid.axis_m(axis).numpy(), units="m") for axis in ("z", "y", "x")}
    axes: tuple[str, ...] = ("z", "y", "x")
    if config.frames > 1:
        truth = np.repeat(truth[None], config.frames, axis=0)
        axes, scales = ("frame", *axes), {"frame": times, **scales}
    return Volume(data=truth, axes=axes, scales=scales, units="1", quantity="reflectivity")
