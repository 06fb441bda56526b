"""Tomography scans of a known, moving object, with noise, geometry, truth and provenance."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.measurement import GridSpec, Measurement, Scale, Volume
from data.phantoms.errors import SimulationError
from data.simulate.motions import MOTIONS
from data.simulate.tomography_config import OBJECTS, TomographySimulation
from imaging import __version__
from imaging.operators import FanBeam, Grid, ParallelBeam, TimeSequential

Floats = NDArray[np.float32]

#: Largest number that a detector of 16 bits counts; brighter scans are stored as float32.
UINT16_MAX = 65535
#: Bytes of projections that are made at once.
BLOCK_BYTES = 2**26


def tomography(config: TomographySimulation, index: int = 0, *, operator: TimeSequential | None = None) -> Measurement:
    """Simulate file number `index` of the series that `config` describes.

    Equal (config, index) give equal measurements, whatever else was simulated before. Object, angles and noise have
    random streams of their own.

    Args:
        config: object, motion, geometry, views, noise.
        index: which file of the series, >= 0.
        operator: `tomography_operator(config, index, fine=True)`, to share it over a series whose views are not
            random; None builds it.

    Returns:
        A Measurement with `ground_truth` (attenuation, 1/m; its frames are the instants), `grid`, `noise_std` (Gaussian
        noise; that of counts follows from the counts) and `provenance` (config and seed).

    Raises:
        SimulationError: an object or motion whose parameters make none.
        DataFormatError: a volume's file that cannot be read.
    """
    _check_index(index)
    A = tomography_operator(config, index, fine=True) if operator is None else operator
    x = make_movie(config, index)
    with torch.no_grad():
        clean = A(torch.from_numpy(x)).numpy()
    noise = np.random.default_rng(_streams(config, index)[2])
    return _measurement(config, index, _observed(config, A, x, clean, noise), _coarse(x, config.oversampling))


def tomography_series(config: TomographySimulation, n: int) -> Iterator[Measurement]:
    """The first `n` files of a series, one after the other; one operator, unless views are random."""
    operator = None if config.view_order == "random" else tomography_operator(config, fine=True)
    for index in range(n):
        yield tomography(config, index, operator=operator)


def tomography_operator(
    config: TomographySimulation,
    index: int = 0,
    *,
    fine: bool = False,
    dtype: torch.dtype = torch.float32,
    memory_limit: int = 2 * 2**30,
) -> TimeSequential:
    """The forward model of `config`: x (..., n_instants, nz, n, n) in 1/m -> y (..., n_views, nz, columns).

    Args:
        config: geometry, views, grid.
        index: which file of the series; matters where views are random.
        fine: on `config.fine_grid` rather than `config.grid`; the same without oversampling.
        dtype: of x and y.
        memory_limit: bytes for the stored matrix.
    """
    angles = torch.from_numpy(scan_angles(config, index))
    columns = torch.from_numpy(config.columns_m)
    grid: Grid = config.fine_grid if fine else config.grid
    common: dict[str, Any] = {
        "axis_offset_m": config.axis_offset_m,
        "dtype": dtype,
        "memory_limit": memory_limit,
    }
    static: ParallelBeam | FanBeam
    if config.geometry == "parallel":
        static = ParallelBeam(angles, columns, grid, **common)
    else:
        static = FanBeam(
            angles,
            columns,
            grid,
            source_to_origin_m=config.source_to_origin_m,
            origin_to_detector_m=config.origin_to_detector_m,
            **common,
        )
    return TimeSequential(static, torch.from_numpy(config.frame_index), config.n_instants)


def scan_angles(config: TomographySimulation, index: int = 0) -> NDArray[np.float64]:
    """Angles of file `index` in the order of measurement, radians: float64 (n_views,)."""
    return config.view_angles(np.random.default_rng(_streams(config, index)[1]))


def make_movie(config: TomographySimulation, index: int = 0) -> Floats:
    """The object of file `index` at every instant p, that is at time p / P: float32 (P, nz, n, n) on `fine_grid`, 1/m.

    Raises:
        SimulationError, DataFormatError: as `tomography`.
    """
    generator = np.random.default_rng(_streams(config, index)[0])
    try:
        rest = OBJECTS[config.object](
            config.fine_grid.shape, generator=generator, **_keywords(config.object_parameters)
        )
    except TypeError as error:
        raise SimulationError(f"object {config.object}: a parameter has the wrong type ({error})") from error
    rest = rest * np.float32(config.attenuation_per_m)
    move, parameters, p = MOTIONS[config.motion], _keywords(config.motion_parameters), config.n_instants
    try:
        frames = [move(rest, t / p, **parameters) for t in range(p)]
    except TypeError as error:
        raise SimulationError(f"motion {config.motion}: a parameter has the wrong type ({error})") from error
    movie = np.stack(frames)
    if not movie.any():
        raise SimulationError(f"motion {config.motion}: expected an object in the slices, found that none is left")
    return movie


def largest_line_integral(A: TimeSequential, movie: Floats) -> float:
    """The maximum of R_p x_t over all views p and all frames t, measured together or not (RP 1.1).

    Args:
        A: the scan.
        movie: float32 (n_frames, nz, ny, nx), 1/m.
    """
    static = A.static
    size = 4 * int(np.prod(static.out_shape))
    block = max(1, BLOCK_BYTES // size)
    with torch.no_grad():
        frames = torch.from_numpy(movie)
        return max(float(static(part).max()) for part in frames.split(block))


def poisson_counts(
    generator: np.random.Generator, line_integrals: Floats, *, photons: float, dark_counts: float = 0.0
) -> NDArray[np.int64]:
    """Counts with mean and variance photons · exp(-line integral) + dark_counts: int64, same shape."""
    return generator.poisson(photons * np.exp(-line_integrals.astype(np.float64)) + dark_counts)


# -- inside -------------------------------------------------------------------------------------------------


def _check_index(index: object) -> None:
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise SimulationError(f"simulation index: expected a whole number >= 0, got {index!r}")


def _keywords(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no none: the text "none" stands for it."""
    return {name: None if value == "none" else value for name, value in table.items()}


def _streams(config: TomographySimulation, index: int) -> list[np.random.SeedSequence]:
    """Of the object, the angles and the noise."""
    return np.random.SeedSequence((config.seed, index)).spawn(3)


def _coarse(movie: Floats, factor: int) -> Floats:
    """Means over factor x factor pixels."""
    if factor == 1:
        return movie
    p, nz, ny, nx = movie.shape
    return movie.reshape(p, nz, ny // factor, factor, nx // factor, factor).mean(axis=(3, 5), dtype=np.float32)


def _observed(
    config: TomographySimulation, A: TimeSequential, x: Floats, clean: Floats, generator: np.random.Generator
) -> dict[str, Any]:
    """What depends on the kind of noise: data, quantity, noise_std, calibration."""
    if config.noise == "poisson":
        return _counted(config, clean, generator)
    line_integrals = {"quantity": "line_integral", "long_name": "simulated line integral"}
    sigma = 0.0
    if config.noise == "gaussian" and config.noise_fraction > 0:
        # An object at rest has been seen at every angle.
        at_rest = config.motion == "none" or config.n_instants == 1
        sigma = config.noise_fraction * (float(clean.max()) if at_rest else largest_line_integral(A, x))
    if not sigma > 0:
        return {"data": clean, **line_integrals}
    noisy = clean + sigma * generator.standard_normal(clean.shape)
    return {"data": noisy.astype(np.float32), "noise_std": sigma, **line_integrals}


def _counted(config: TomographySimulation, clean: Floats, generator: np.random.Generator) -> dict[str, Any]:
    photons, dark = config.photons, config.dark_counts
    counts = poisson_counts(generator, clean, photons=photons, dark_counts=dark)
    shape = (config.n_flats, *clean.shape[1:])
    flat = generator.poisson(photons + dark, shape)
    # By the settings, not by what was drawn: all files of a series have one type.
    brightest = photons + dark + 10 * np.sqrt(photons + dark)
    return {
        "data": counts.astype(np.uint16 if brightest < UINT16_MAX else np.float32),
        "quantity": "counts",
        "long_name": "simulated counts",
        "calibration": {
            "flat": flat.astype(np.float32),
            "dark": generator.poisson(dark, shape).astype(np.float32),
        },
    }


def _measurement(config: TomographySimulation, index: int, observed: dict[str, Any], truth: Floats) -> Measurement:
    grid, times = config.grid, Scale(values=config.times_s, units="s")
    geometry: dict[str, Any] = {
        "type": config.geometry,
        "frame": "right-handed; the object rotates about z, detector rows lie along z",
        "coordinates": ["x", "y", "z"],
    }
    if config.geometry == "fan":
        geometry |= {
            "source_to_origin": config.source_to_origin_m,
            "origin_to_detector": config.origin_to_detector_m,
        }
    if config.axis_known:
        geometry["rotation_axis_offset"] = config.axis_offset_m
    frame_index = config.frame_index
    text = json.dumps(config.to_dict(), sort_keys=True)
    return Measurement(
        modality="tomography",
        axes=("projection", "detector_row", "detector_column"),
        scales={
            "projection": Scale(values=np.arange(config.n_views, dtype=np.int32), units="1"),
            "detector_row": Scale(values=grid.axis_m("z").numpy(), units="m"),
            "detector_column": Scale(values=config.columns_m, units="m"),
        },
        units="1",
        geometry=geometry,
        acquisition={
            "angle": scan_angles(config, index),
            "sense": "ccw_from_+z",
            "zero_ray": "+y",
            "time": config.times_s[frame_index],
            "frame_index": frame_index,
        },
        grid=GridSpec(grid.origin_m, grid.spacing_m, grid.shape),
        ground_truth=_truth(config, truth, times),
        provenance={
            "program": "backcast simulate tomography",
            "version": __version__,
            "sequence_index": 1,
            "config": text,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "seed": config.seed,
            "index": index,
        },
        attrs={
            # The same scan keeps its identity when it is simulated again.
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"backcast-tomography/{index}/{text}")),
            "title": f"simulated {config.object}, motion {config.motion}, {config.geometry} beam, file {index}",
        },
        **observed,
    )


def _truth(config: TomographySimulation, truth: Floats, times: Scale) -> Volume:
    scales = {axis: Scale(values=config.grid.axis_m(axis).numpy(), units="m") for axis in ("z", "y", "x")}
    axes: tuple[str, ...] = ("z", "y", "x")
    if config.n_instants > 1:
        axes, scales = ("frame", *axes), {"frame": times, **scales}
    else:
        truth = truth[0]
    return Volume(
        data=truth,
        axes=axes,
        scales=scales,
        units="1/m",
        quantity="attenuation",
        long_name="attenuation coefficient",
    )
