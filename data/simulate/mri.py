"""MRI scans of a known object: k-space of several coils, Cartesian or along trajectories, with noise and truth."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.measurement import GridSpec, Measurement, Scale, Volume
from data.phantoms.errors import SimulationError
from data.simulate import mri_masks as masks
from data.simulate import mri_trajectories as trajectories
from data.simulate.motions import MOTIONS
from data.simulate.mri_coils import loop_sensitivities, unit_sum_of_squares
from data.simulate.mri_config import MRI_OBJECTS, MriSimulation
from imaging import __version__

Complex = NDArray[np.complex64]
Floats = NDArray[np.float32]

#: Voxels above this share of the peak belong to the object, whose mean the SNR refers to.
OBJECT = 0.05
#: Coil radius over half the distance of neighbours: they overlap by a quarter or so.
OVERLAP = 1.2
#: Samples of a trajectory that are summed at once.
SAMPLES_AT_ONCE = 1024
#: Waves along each axis of the off-resonance field.
WAVES = 1.5


def mri(config: MriSimulation, index: int = 0) -> Measurement:
    """Simulate file number `index` of the series that `config` describes.

    Equal (config, index) give equal measurements, whatever else was simulated before. Object, phase, masks and noise
    have random streams of their own.

    Args:
        config: object, motion, coils, sampling, noise.
        index: which file of the series, >= 0.

    Returns:
        A Measurement with `ground_truth` (complex: the object with its phase, coils combined with unit root sum of
        squares), `grid`, `noise_std`, coil maps where they are known, and `provenance` (config and seed).

    Raises:
        SimulationError: an object, motion or mask whose parameters make none.
        DataFormatError: a volume's file that cannot be read.
    """
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise SimulationError(f"simulation index: expected a whole number >= 0, got {index!r}")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence((config.seed, index)).spawn(4)]
    movie = _movie(config, streams[0])
    image = (movie * np.exp(1j * phase_map(config, streams[1]))).astype(np.complex64)
    maps = coil_maps(config, fine=True)
    sampled: dict[str, Any]
    if config.trajectory == "cartesian":
        data: NDArray[np.complexfloating] = np.stack([_cartesian(config, frame, maps) for frame in image])
        mask = make_masks(config, streams[2])
        sampled = {"mask": mask, "mask_axes": ("frame", "kz", "ky", "kx")}
    else:
        points = trajectory(config)
        data = _along(config, image, maps, points)
        sampled = {}
    level = noise_level(config, movie)
    data = data + _noise(config, data.shape, level, streams[3])
    if "mask" in sampled:
        data = data * sampled["mask"][:, None]
    return _measurement(config, index, data.astype(np.complex64), sampled, _coarse(image, config.oversampling), level)


def mri_series(config: MriSimulation, n: int) -> Iterator[Measurement]:
    """The first `n` files of a series, one after the other."""
    for index in range(n):
        yield mri(config, index)


def coil_maps(config: MriSimulation, *, fine: bool = False) -> Complex:
    """Sensitivities with unit root sum of squares: complex64 (coil, nz, n, n), on `oversampling` times finer pixels."""
    factor = config.oversampling if fine else 1
    n, d = config.n * factor, config.pixel_m / factor
    # A fine pixel's centre lies within its coarse pixel, whose index n // 2 is the origin.
    x = (np.arange(n) - (factor - 1) / 2 - factor * (config.n // 2)) * d
    z = (np.arange(config.n_slices) - config.n_slices // 2) * config.slice_m
    if config.n_coils == 1:
        return np.ones((1, config.n_slices, n, n), dtype=np.complex64)
    points = np.stack(np.broadcast_arrays(x[None, None, :], x[None, :, None], z[:, None, None]), axis=-1)
    half = config.n * config.pixel_m / 2
    per_ring = math.ceil(config.n_coils / math.ceil(config.n_coils / 8))
    radius = config.coil_radius
    if radius is None:
        radius = min(1.0, OVERLAP * config.coil_distance * math.sin(math.pi / max(per_ring, 3)))
    loops = loop_sensitivities(
        points,
        config.n_coils,
        distance_m=config.coil_distance * half,
        loop_radius_m=radius * half,
        row_pitch_m=1.5 * radius * half,
    )
    return unit_sum_of_squares(loops)


def phase_map(config: MriSimulation, generator: np.random.Generator) -> Floats:
    """2π · field · echo time, a few random waves over the field of view: float32 (nz, n, n) on the fine pixels, rad."""
    n = config.n * config.oversampling
    axes = np.meshgrid(*(np.linspace(-0.5, 0.5, m) for m in (config.n_slices, n, n)), indexing="ij")
    field = np.zeros((config.n_slices, n, n))
    for _ in range(6):
        wave = generator.uniform(-WAVES, WAVES, 3)
        field += generator.standard_normal() * np.cos(
            2 * np.pi * sum(k * a for k, a in zip(wave, axes, strict=True)) + generator.uniform(0, 2 * np.pi)
        )
    largest = np.abs(field).max()
    scale = 2 * np.pi * config.off_resonance_hz * config.echo_time_s / largest
    return np.asarray(scale * field, dtype=np.float32)


def make_masks(config: MriSimulation, generator: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 (frame, kz, ky, kx), 1 where measured; length 1 along axes that it does not thin out."""
    frames = config.n_frames
    if config.mask == "full":
        return np.ones((1, 1, 1, 1), dtype=np.uint8)
    if config.mask == "kt":
        drawn = masks.kt(frames, config.n, round(config.acceleration), config.centre[1])
    elif config.mask == "uniform":
        drawn = masks.uniform(config.mask_shape, round(config.acceleration), config.centre)[None]
    else:
        draw = masks.variable_density if config.mask == "variable_density" else masks.poisson_disc
        drawn = np.stack(
            [draw(generator, config.mask_shape, config.acceleration, config.centre) for _ in range(frames)]
        )
    first, second = drawn.shape[1:]
    shape = {"ky": (1, second, 1), "kx": (1, first, second)}
    return drawn.reshape(
        len(drawn), *((first, second, 1) if config.mask_axes[0] == "kz" else shape[config.mask_axes[1]])
    )


def trajectory(config: MriSimulation) -> NDArray[np.float64]:
    """(frame, readout, sample, D), 1/m; columns kz, ky, kx, or ky, kx."""
    k_z, k_max = (1 / (2 * d) for d in config.spacing_m[:2])
    counts = config.n_frames, config.n_readouts, config.samples
    if config.trajectory == "radial_3d":
        return trajectories.radial_3d(*counts, (k_z if config.n_slices > 1 else 0.0, k_max, k_max))
    if config.trajectory == "spiral":
        return trajectories.spiral(*counts, k_max, field_of_view_m=config.n * config.pixel_m, full=config.full_readouts)
    return trajectories.radial(*counts, k_max, golden=config.trajectory == "golden_angle")


def noise_level(config: MriSimulation, movie: Floats) -> float:
    """Standard deviation of the noise of a complex sample; 0 without noise."""
    if config.snr_db is None:
        return 0.0
    return float(movie[movie > OBJECT * movie.max()].mean() * 10 ** (-config.snr_db / 20))


def noise_covariance(config: MriSimulation, level: float) -> Complex:
    """(coil, coil): level² times the correlation to the power of the distance of two coils around the ring."""
    place = np.arange(config.n_coils)
    apart = np.abs(place[:, None] - place)
    apart = np.minimum(apart, config.n_coils - apart)
    return np.asarray(level**2 * config.noise_correlation**apart, dtype=np.complex64)


# -- inside -------------------------------------------------------------------------------------------------


def _movie(config: MriSimulation, generator: np.random.Generator) -> Floats:
    """The object at every frame f, that is at time f / n_frames: float32 (frame, nz, n, n) on the fine pixels."""
    n = config.n * config.oversampling
    keywords = [
        {name: None if value == "none" else value for name, value in table.items()}
        for table in (config.object_parameters, config.motion_parameters)
    ]
    try:
        rest = MRI_OBJECTS[config.object]((config.n_slices, n, n), generator=generator, **keywords[0])
    except TypeError as error:
        raise SimulationError(f"object {config.object}: a parameter has the wrong type ({error})") from error
    move = MOTIONS[config.motion]
    try:
        frames = [move(rest, f / config.n_frames, **keywords[1]) for f in range(config.n_frames)]
    except TypeError as error:
        raise SimulationError(f"motion {config.motion}: a parameter has the wrong type ({error})") from error
    movie = np.stack(frames)
    if not movie.any():
        raise SimulationError(f"motion {config.motion}: expected an object in the slices, found that none is left")
    return movie


def _coarse(image: Complex, factor: int) -> Complex:
    """Means over factor x factor pixels."""
    if factor == 1:
        return image
    frames, nz, ny, nx = image.shape
    return image.reshape(frames, nz, ny // factor, factor, nx // factor, factor).mean(axis=(3, 5), dtype=np.complex64)


def _cartesian(config: MriSimulation, image: Complex, maps: Complex) -> Complex:
    """Orthonormal, centred k-space of one frame: (coil, kz, ky, kx), kz in place of slices with 2d encoding."""
    axes = (-2, -1) if config.encoding == "2d" else (-3, -2, -1)
    seen = np.fft.ifftshift(maps * image, axes=axes)
    k = np.fft.fftshift(np.fft.fftn(seen, axes=axes, norm="ortho"), axes=axes)
    factor, n = config.oversampling, config.n
    if factor == 1:
        return k.astype(np.complex64)
    start = k.shape[-1] // 2 - n // 2
    k = k[..., start : start + n, start : start + n] / factor
    ramp = np.exp(2j * np.pi * (np.arange(n) - n // 2) / n * _shift(config))
    return (k * ramp[:, None] * ramp).astype(np.complex64)


def _shift(config: MriSimulation) -> float:
    """Coarse pixels by which the fine raster's origin lies before the coarse one's."""
    factor, n = config.oversampling, config.n
    return (factor * (n // 2) + (factor - 1) / 2 - (n * factor) // 2) / factor


def _along(config: MriSimulation, image: Complex, maps: Complex, points: NDArray[np.float64]) -> Complex:
    """Samples along a trajectory, (frame, coil, readout, sample), by the sums themselves: no gridding error."""
    factor = config.oversampling
    n, d = config.n * factor, config.pixel_m / factor
    x = (np.arange(n) - (factor - 1) / 2 - factor * (config.n // 2)) * d
    z = (np.arange(config.n_slices) - config.n_slices // 2) * config.slice_m
    scale = 1 / (factor * math.sqrt(math.prod(config.shape)) * factor)
    frames = []
    for frame, k in zip(image, points, strict=True):
        seen = maps * frame
        flat = k.reshape(-1, k.shape[-1])
        parts = []
        for block in np.array_split(flat, max(1, len(flat) // SAMPLES_AT_ONCE)):
            waves = [
                np.exp(-2j * np.pi * np.outer(block[:, -1 - axis], where)).astype(np.complex64)
                for axis, where in enumerate((x, x, z)[: block.shape[1]])
            ]
            along_y = np.einsum("czym,my->czm", seen @ waves[0].T, waves[1])
            parts.append(np.einsum("czm,mz->cm", along_y, waves[2]) if len(waves) > 2 else along_y[:, 0])
        frames.append(np.concatenate(parts, axis=1).reshape(len(maps), *k.shape[:2]))
    return np.asarray(scale * np.stack(frames), dtype=np.complex64)


def _noise(
    config: MriSimulation, shape: tuple[int, ...], level: float, generator: np.random.Generator
) -> NDArray[np.complex128]:
    """Complex Gaussian noise, axis 1 the coils, with the covariance of `noise_covariance`."""
    white = (generator.standard_normal(shape) + 1j * generator.standard_normal(shape)) / math.sqrt(2)
    if config.noise_correlation == 0 or level == 0:
        return np.asarray(level * white, dtype=np.complex128)
    root = np.linalg.cholesky(noise_covariance(config, level).astype(np.complex128))
    return np.asarray(np.moveaxis(np.tensordot(root, white, axes=(1, 1)), 0, 1), dtype=np.complex128)


def _measurement(
    config: MriSimulation, index: int, data: Complex, sampled: Mapping[str, Any], truth: Complex, level: float
) -> Measurement:
    spacing, shape = config.spacing_m, config.shape
    origin = tuple(-(n // 2) * d for n, d in zip(shape, spacing, strict=True))
    grid = GridSpec((origin[0], origin[1], origin[2]), spacing, shape)
    frames = Scale(values=config.times_s, units="s")
    axes: tuple[str, ...] = ("frame", "coil", "kz", "ky", "kx")
    acquisition: dict[str, Any] = {"fft_norm": "ortho", "fft_centered": True, "fft_sign": -1.0}
    calibration: dict[str, Any] = {}
    if config.trajectory != "cartesian":
        axes = ("frame", "coil", "readout", "sample")
        points = trajectory(config).astype(np.float32)
        acquisition["trajectory"] = points[0] if config.n_frames == 1 else points
        acquisition["order"] = ["kz", "ky", "kx"][3 - points.shape[-1] :]
    if config.maps_known:
        maps = coil_maps(config)
        calibration["coil_sensitivities"] = maps.swapaxes(0, 1) if config.by_slice else maps
    if level > 0 and config.noise_correlation > 0:
        calibration["noise_covariance"] = noise_covariance(config, level)
    sampled = dict(sampled)
    if config.by_slice:
        axes = ("slice", "coil", "ky", "kx")
        data = data[0].swapaxes(0, 1)
        sampled["mask"] = sampled["mask"][0, 0]
        sampled["mask_axes"] = ("ky", "kx")
    scales = {
        name: frames if name == "frame" else Scale(values=np.arange(k, dtype=np.int32), units="1")
        for name, k in zip(axes, data.shape, strict=True)
    }
    text = json.dumps(config.to_dict(), sort_keys=True)
    return Measurement(
        modality="mri",
        data=data,
        axes=axes,
        scales=scales,
        units="1",
        quantity="kspace",
        long_name="simulated k-space",
        geometry={
            "frame": "right-handed; the middle of the field of view is the origin",
            "coordinates": ["x", "y", "z"],
            "field_of_view": np.array([n * d for n, d in zip(shape, spacing, strict=True)]),
            "recon_matrix": np.array(shape, dtype=np.int32),
        },
        acquisition=acquisition,
        calibration=calibration,
        grid=grid,
        noise_std=level if level > 0 else None,
        ground_truth=_truth(config, truth, grid, frames),
        provenance={
            "program": "backcast simulate mri",
            "version": __version__,
            "sequence_index": 1,
            "config": text,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "seed": config.seed,
            "index": index,
        },
        attrs={
            # The same scan keeps its identity when it is simulated again.
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"backcast-mri/{index}/{text}")),
            "title": f"simulated {config.object}, motion {config.motion}, {config.trajectory}, file {index}",
        },
        **sampled,
    )


def _truth(config: MriSimulation, truth: Complex, grid: GridSpec, frames: Scale) -> Volume:
    scales = {
        name: Scale(values=o + d * np.arange(n), units="m")
        for name, o, d, n in zip(("z", "y", "x"), grid.origin_m, grid.spacing_m, grid.shape, strict=True)
    }
    axes: tuple[str, ...] = ("z", "y", "x")
    if config.n_frames > 1:
        axes, scales = ("frame", *axes), {"frame": frames, **scales}
    else:
        truth = truth[0]
    return Volume(
        data=truth,
        axes=axes,
        scales=scales,
        units="1",
        quantity="magnetisation",
        long_name="transverse magnetisation",
    )
