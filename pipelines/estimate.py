"""Peak memory and time of imaging a file by a method, from shapes alone: nothing of the data's size is allocated.

Both are sums of terms with a meaning (copies of the image, stored factors, products with the operator, ...), whose
coefficients `benchmarks/estimates.py` fits to measured runs and keeps in `estimates.json`.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len

from data import read_measurement_head
from data.convert.detect import foreign
from data.measurement import Measurement
from imaging.errors import MemoryLimitError
from imaging.operators.exact import Flops
from imaging.operators.near_field import BLOCK
from imaging.operators.planar_scan import find_raster, same_pitch
from imaging.operators.rays import BLOCK as RAY_BLOCK
from imaging.operators.symmetry import symmetry_order
from imaging.operators.tomography import MEMORY_LIMIT as MATRIX_BYTES
from imaging.operators.tomography import MOST_RAYS
from pipelines.irs_mimo import BATCH_BYTES, COPIES
from pipelines.methods import Method
from pipelines.mri_config import MriConfig
from pipelines.radar import FRAMES_AT_ONCE, LEAST_SOLVES, grid_of
from pipelines.radar_config import RadarConfig
from pipelines.tomography import usual_rank

TABLE = Path(__file__).with_name("estimates.json")
#: What an operator of radar stores at most when nothing limits it.
FACTOR_BYTES = 2 * 2**30
#: Share of a limit that is planned with: what is predicted is true to a few per cent.
MARGIN = 0.9
#: Voxels of the smallest block that factors are generated for.
SMALLEST_BLOCK = 8
#: Antennas above which no symmetry is looked for.
MOST_ANTENNAS = 4096

#: Terms of a model: bytes by name, and operations by name.
Terms = tuple[dict[str, float], dict[str, float]]


@dataclass(frozen=True)
class Estimate:
    """What a run will need.

    Attributes:
        memory: bytes of the process at its highest point, interpreter and libraries included.
        seconds: wall time of the file, on this machine with torch's present number of threads.
        blocks: bytes that the operator may keep, as `Setting.memory_limit` says it; None leaves it to the operator.
    """

    memory: float
    seconds: float
    blocks: int | None = None


def estimate_file(
    path: str | Path, method: Method, config: Any, *, limit: float | None = None, speed: float | None = None
) -> Estimate:
    """As `estimate`, of a file; only its head is read.

    Raises:
        ValueError, OSError: a file that cannot be imaged, as far as its head tells.
        MemoryLimitError: as `estimate`.
    """
    if foreign(Path(path)) is not None:
        raise ValueError(f"{path}: expected a measurement file to estimate from, found a foreign one; convert it first")
    m = read_measurement_head(path)
    if m.modality not in method.modalities:
        raise ValueError(
            f"{path}: modality: method {method.name} takes {', '.join(method.modalities)}, found {m.modality}"
        )
    return estimate(m, method, config, limit=limit, speed=speed)


def estimate(
    m: Measurement, method: Method, config: Any, *, limit: float | None = None, speed: float | None = None
) -> Estimate:
    """Memory and time of one run on the CPU.

    Args:
        m: a measurement, or the head of one; its samples are not looked at.
        method, config: as a run would take them.
        limit: bytes that the process may take: the largest blocks are chosen that keep below it.
        speed: time of this machine over that of the table; None measures it.

    Raises:
        MemoryLimitError: even the smallest blocks need more than `limit`.
    """
    model = models().get(f"{m.modality}:{method.name}")
    if model is None:
        raise ValueError(
            f"method {method.name} for {m.modality}: expected it in {TABLE.name}, found none; see benchmarks/"
        )
    factor = machine_speed() if speed is None else speed
    found: Estimate | None = None
    for blocks in (None,) if limit is None else _choices(m, config):
        memory, work = terms(m, method, config, blocks=blocks, iterations=model["iterations"])
        found = Estimate(
            memory=_sum(model["memory"], memory), seconds=factor * _sum(model["seconds"], work), blocks=blocks
        )
        if limit is None or found.memory <= MARGIN * limit:
            return found
    assert found is not None
    least = found.memory / MARGIN
    raise MemoryLimitError(
        f"expected a limit of at least {_size(least)} for one process with method {method.name}, found "
        f"{_size(limit or 0)}; raise it, use fewer -j, or choose fewer voxels or another method"
    )


def _sum(coefficients: Mapping[str, float], values: Mapping[str, float]) -> float:
    return sum(c * values.get(name, 0.0) for name, c in coefficients.items())


@functools.cache
def models() -> dict[str, dict[str, Any]]:
    """By MODALITY:METHOD: coefficients of memory and seconds, and the iterations that runs take by default."""
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))["methods"]
    return table


def probe(clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a fixed piece of work, of the kinds that reconstructions consist of; the best of a few times."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(160, 160, dtype=torch.complex64, generator=generator)
    v = torch.randn(1, 8, 96, 96, generator=generator)
    w = torch.randn(8, 8, 3, 3, generator=generator)

    def work() -> float:
        start = clock()
        (a @ a).abs().sum()
        torch.fft.fft2(v).abs().sum()
        torch.nn.functional.conv2d(v, w)
        return clock() - start

    work()
    return min(work() for _ in range(20))


@functools.cache
def machine_speed(threads: int | None = None) -> float:
    """Time of `probe` here, with so many threads, over that of the machine whose runs the table holds."""
    there = float(json.loads(TABLE.read_text(encoding="utf-8"))["probe_seconds"])
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return probe() / there
    finally:
        torch.set_num_threads(before)


# -- terms --------------------------------------------------------------------------------------------------


def terms(m: Measurement, method: Method, config: Any, *, blocks: int | None, iterations: float) -> Terms:
    """What memory and time of a run are made of.

    Args:
        m, method, config: as `estimate` takes them.
        blocks: as `Setting.memory_limit`.
        iterations: that runs with default settings take; fewer where `config` allows fewer.

    Returns:
        bytes, and operations (or voxels, or samples) by name; "base" is 1.
    """
    of = {"mimo_radar": _radar, "tomography": _tomography, "mri": _mri, "irs_mimo": _irs}[m.modality]
    table = _solver_table(config)
    most = getattr(table, "max_iter", getattr(table, "max_atoms", getattr(table, "max_per_factor", None)))
    memory, work = of(m, config, blocks, min(iterations, most or iterations))
    return {"base": 1.0, **memory}, {"base": 1.0, **work}


def _solver_table(config: Any) -> Any:
    tables = (getattr(config, name, None) for name in ("solver", "omp", "komp", "sense"))
    return next((t for t in tables if t is not None), None)


def _choices(m: Measurement, config: Any) -> Iterator[int | None]:
    """Bytes that an operator may keep, from none given to the smallest that it can work with."""
    yield None
    if m.modality == "mimo_radar":
        scan = _scan(m, config)
        if scan.kernels:
            return
        sizes = {scan.factor_bytes, scan.flops.gram_bytes}
        yield from (int(s) for s in sorted(sizes, reverse=True) if s < FACTOR_BYTES)
        for voxels in (BLOCK, BLOCK // 8, SMALLEST_BLOCK):
            if 3 * scan.per_voxel * voxels < min(sizes):
                yield int(3 * scan.per_voxel * voxels)
    elif m.modality == "tomography":
        yield 0
    elif m.modality == "irs_mimo":
        n, rows = _irs_sizes(m, config)
        each = COPIES * 16 * max(math.prod(n), math.prod(rows))
        batch = min(BATCH_BYTES, m.data.shape[0] * m.data.shape[1] * each)
        while batch > each:
            batch = max(each, batch // 2)
            yield batch


@dataclass(frozen=True)
class _RadarScan:
    """What decides how radar is computed: a raster by FFT (`kernels` > 0), or factors."""

    shape: tuple[int, int, int]
    order: int
    pairs: int
    per_voxel: float
    factor_bytes: float
    kernels: float
    plane: int
    flops: Flops


def _scan(m: Measurement, config: RadarConfig) -> _RadarScan:
    grid, _ = grid_of(m, config)
    item = 16 if config.precision == "double" else 8
    n_freq = m.n("frequency")
    tx, rx = (torch.as_tensor(np.asarray(m.geometry[k], dtype=float)) for k in ("tx_positions", "rx_positions"))
    tx, rx = (p[0] if p.ndim == 3 else p for p in (tx, rx))
    kernels, plane, order = 0.0, 0, 1
    n_tx, n_rx = len(tx), len(rx)
    if "channel" in m.axes:
        tx = tx[torch.as_tensor(np.asarray(m.geometry["channel_tx"]), dtype=torch.int64)]
        rx = rx[torch.as_tensor(np.asarray(m.geometry["channel_rx"]), dtype=torch.int64)]
        n_tx, n_rx = (len(torch.unique(p, dim=0)) for p in (tx, rx))
        raster = find_raster(tx) if bool((tx - rx).abs().max() == 0) else None
        if raster is not None and same_pitch(raster, grid):
            padded = [int(next_fast_len(a + b - 1)) for a, b in zip(raster.shape, grid.shape[1:], strict=True)]
            plane = math.prod(padded)
            kernels = float(n_freq * grid.shape[0] * plane * item)
    elif max(n_tx, n_rx) <= MOST_ANTENNAS:
        order = symmetry_order(tx, rx, grid)
    per_voxel = float((n_tx + n_rx) * n_freq * item)
    return _RadarScan(
        shape=grid.shape,
        order=order,
        pairs=n_tx * n_rx * n_freq,
        per_voxel=per_voxel,
        factor_bytes=per_voxel * grid.n_voxels / order,
        kernels=kernels,
        plane=plane,
        flops=Flops(math.prod(m.data.shape[1:]), grid.n_voxels, order),
    )


def _radar(m: Measurement, config: RadarConfig, blocks: int | None, iterations: float) -> Terms:
    scan = _scan(m, config)
    voxels = float(math.prod(scan.shape))
    frames = len(m.data)
    moves = any(np.ndim(m.geometry[name]) == 3 for name in ("tx_positions", "rx_positions"))
    at_once = 1 if moves else min(FRAMES_AT_ONCE, frames)
    item = 16 if config.precision == "double" else 8
    samples = float(math.prod(m.data.shape[1:]))
    limit = FACTOR_BYTES if blocks is None else blocks
    stored = scan.factor_bytes <= limit
    table = getattr(config, "solver", None)
    n_solves = max(LEAST_SOLVES, (table.max_iter if table else 0) * (1 if moves else frames))
    exact = False
    if table is not None and not scan.kernels:
        pays = scan.flops.eigendecomposition_pays(n_solves, limit)
        exact = pays if table.kind == "auto" else table.kind == "projected"
    setups = frames if moves else 1
    memory = {
        "image": voxels * item * at_once,
        "images": voxels * 8 * frames,
        "samples": samples * item * frames,
        "gram": scan.flops.gram_bytes if exact else 0.0,
    }
    inner = 1 if exact or table is None else table.cg_steps + 1
    products = frames * (1 + iterations * inner if table is not None else 2)
    work = {
        "setup": setups * (scan.flops.gram + scan.flops.eigh) if exact else 0.0,
        "solves": frames * iterations * scan.flops.exact_solve if exact else 0.0,
        "voxels": frames * voxels * (1 + iterations),
        "samples": frames * samples,
    }
    if scan.kernels:
        memory["kernels"] = scan.kernels
        memory["planes"] = float(scan.shape[0] * scan.plane * item)
        layers = scan.shape[0] + m.n("frequency")
        work["transforms"] = products * layers * scan.plane * math.log2(scan.plane)
        work["kernels"] = (products + setups) * scan.kernels
    else:
        memory["factors"] = scan.factor_bytes if stored else 0.0
        memory["blocks"] = 3 * scan.per_voxel * min(BLOCK, voxels, limit // (3 * scan.per_voxel))
        memory["symmetry"] = voxels * 8 * scan.order
        work["products"] = products * 8 * scan.pairs * voxels / scan.order
        work["factors"] = scan.factor_bytes * (setups if stored else products * 2)
    if hasattr(config, "denoiser"):
        memory["network"] = voxels * 4 * at_once
        work["network"] = frames * iterations * voxels * config.denoiser.ensemble
    if hasattr(config, "tv"):
        work["proximal"] = frames * iterations * voxels * config.tv.n_iter
    return memory, work


def _tomography(m: Measurement, config: Any, blocks: int | None, iterations: float) -> Terms:
    views, columns = m.n("projection"), m.n("detector_column")
    rows = m.n("detector_row") if "detector_row" in m.axes else 1
    item = 8 if config.precision == "double" else 4
    shape = config.grid.shape or (m.grid.shape if m.grid is not None else None)
    truth = m.ground_truth
    if shape is None and truth is not None and tuple(truth.axes[-3:]) == ("z", "y", "x"):
        shape = tuple(truth.data.shape[-3:])
    n_z, n_y, n_x = shape or (rows, columns, columns)
    index = m.acquisition.get("frame_index")
    frames = 1 if index is None else int(np.max(index)) + 1
    voxels = float(n_z * n_y * n_x)
    per_bin = 1.0
    if m.grid is not None and not config.grid.shape:
        bins = float(np.ptp(m.scale("detector_column"))) / max(1, columns - 1)
        per_bin = float(min(MOST_RAYS, max(1, round(bins / min(m.grid.spacing_m[1:])))))
    entries = float(views * columns * 2 * max(n_y, n_x)) * per_bin
    matrix = 2 * entries * (4 + item)
    stored = matrix <= (MATRIX_BYTES if blocks is None else blocks // 2)
    table = _solver_table(config)
    steps = iterations * (1 + getattr(table, "cg_steps", 1))
    rank = float(min(frames, usual_rank(frames) + 4)) if frames > 1 else 1.0
    memory = {
        "samples": float(views * rows * columns) * 8,
        "image": voxels * item,
        "movie": frames * voxels * item,
        "factors": rank * voxels * item,
        "matrix": matrix if stored else 0.0,
        "blocks": float(min(RAY_BLOCK, entries)) * 8,
        "network": min(frames * voxels, 4e6) * 4 if hasattr(config, "denoiser") else 0.0,
    }
    product = entries * rows
    work = {
        "matrix": entries * (1 if stored else 1 + 2 * steps),
        "products": product * steps if table is not None else 0.0,
        "movie": frames * voxels * (1 + iterations),
        "basis": rank * frames * voxels * steps if hasattr(config, "model") and frames > 1 else 0.0,
        "search": (product + rank * frames * voxels) * math.log2(frames) if frames > 1 else 0.0,
        "network": frames * voxels * iterations if hasattr(config, "denoiser") else 0.0,
        "backprojection": float(views * n_y * n_x * n_z) * (32 if frames > 1 else 1) if table is None else 0.0,
        "samples": float(views * rows * columns),
    }
    return memory, work


def _mri(m: Measurement, config: MriConfig, blocks: int | None, iterations: float) -> Terms:
    item = 16 if config.precision == "double" else 8
    coils = m.n("coil")
    used = min(coils, config.coils.compress or coils)
    frames = m.n("frame") if "frame" in m.axes else 1
    trajectory = "readout" in m.axes
    if trajectory:
        shape: Sequence[Any] = m.grid.shape if m.grid is not None else m.geometry.get("recon_matrix", (1, 1, 1))
    else:
        slices = m.n("slice") if m.axes[0] == "slice" else m.n("kz") if "kz" in m.axes else 1
        shape = (slices, m.n("ky"), m.n("kx"))
    voxels = float(math.prod(int(n) for n in shape))
    samples = float(m.data.size) / coils
    maps = config.coils.sets if config.coils.maps == "espirit" else 1
    known = "coil_sensitivities" in m.calibration and config.coils.maps in ("auto", "file")
    estimated = coils > 1 and not known
    table = _solver_table(config)
    steps = iterations * (1 + getattr(table, "cg_steps", 1))
    movie = frames * voxels
    memory = {
        "samples": samples * coils * item,
        "coils": used * voxels * item * maps,
        "movie": movie * item * maps,
        "calibration": used * used * voxels * 16 if estimated else 0.0,
        "grid": used * voxels * 4 * item if trajectory else 0.0,
        "network": min(movie * 2, 4e6) * 4 if hasattr(config, "denoiser") else 0.0,
    }
    coil_movie = used * movie
    work = {
        "calibration": used * used * voxels if estimated else 0.0,
        "transforms": coil_movie * math.log2(max(2.0, voxels)) * steps,
        "gridding": used * samples * (1 + steps) if trajectory else 0.0,
        "trajectory": float(frames) if trajectory else 0.0,
        "search": coil_movie * math.log2(frames) if frames > 1 and hasattr(config, "model") else 0.0,
        "movie": movie * (1 + iterations),
        "rank": movie * frames * iterations if frames > 1 else 0.0,
        "network": movie * iterations if hasattr(config, "denoiser") else 0.0,
        "samples": samples * coils,
    }
    return memory, work


def _irs_sizes(m: Measurement, config: Any) -> tuple[list[int], list[int]]:
    """Columns and rows of the dictionary's factors."""
    table = config.dictionary
    asked = [getattr(table, f"n_{side}") for side in ("irs", "tx", "rx")]
    columns = []
    for i, n in enumerate(asked, 1):
        stored = m.dictionary.get(f"grid_{i}")
        columns.append(n or (len(np.atleast_1d(stored)) if stored is not None else 18))
    rows = [m.n("config"), m.n("pilot"), m.n("rx")]
    if config.data.direct_path == "removed":
        rows[0] = max(1, rows[0] - 1)
    return columns, rows


def _irs(m: Measurement, config: Any, blocks: int | None, iterations: float) -> Terms:
    columns, rows = _irs_sizes(m, config)
    n, k = float(math.prod(columns)), float(math.prod(rows))
    problems = m.data.shape[0] * m.data.shape[1]
    each = COPIES * 16 * max(n, k)
    batch = min(problems, max(1, int((BATCH_BYTES if blocks is None else min(BATCH_BYTES, blocks)) // each)))
    tx, rx = len(m.geometry.get("tx_positions", ())), m.n("rx")
    memory = {
        "batch": batch * n * 16,
        "images": problems * n * 8,
        "samples": problems * k * 16,
        "dictionary": n * k * 16,
        "covariance": batch * k * k * 16,
        "channel": float(problems * m.n("config") * rx * tx) * 16,
    }
    runs = problems * (1 + iterations)
    work = {
        "coefficients": runs * n,
        "products": runs * n * k,
        "covariance": runs * n * k * k,
        "inverse": runs * k**3,
        "factors": runs * float(sum(c**3 + r**3 for c, r in zip(columns, rows, strict=True))),
        "modes": runs * float(sum(c * r for c, r in zip(columns, rows, strict=True))) * max(columns),
        "iterations": 1 + iterations,
        "problems": float(problems),
    }
    return memory, work


# -- words --------------------------------------------------------------------------------------------------


def phrase(found: Estimate) -> str:
    """ "about 560 MiB, 7 s"."""
    return f"about {_size(found.memory)}, {duration(found.seconds)}"


def total(found: Sequence[Estimate], jobs: int) -> str:
    """ "12 files, -j 2: at most 1.1 GiB, about 4 min": memory of the largest at the same time, time of all."""
    largest = sum(sorted(one.memory for one in found)[-jobs:])
    seconds = max(sum(one.seconds for one in found) / jobs, max(one.seconds for one in found))
    n = f"{len(found)} file{'s' if len(found) > 1 else ''}"
    return f"{n}, -j {jobs}: at most {_size(largest)}, about {duration(seconds)}"


def _size(value: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """ "7.2 s", "3 min", "2 h 10 min"."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
