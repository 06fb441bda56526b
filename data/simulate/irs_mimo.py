"""Pilots received over a reflecting surface from known channels, and the synthetic Kronecker problem; noise, truth."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.measurement import Measurement, NamedArray, Scale
from data.phantoms.errors import SimulationError
from data.simulate.irs_mimo_config import IrsMimoSimulation
from imaging import __version__
from imaging.operators.steering import array_coordinates, steering, surface_atoms

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]
ORDER = "A = kron(factor_1, kron(factor_2, factor_3))"
#: A pattern whose channel has a smaller share of the most that any could have is drawn again (KS 2.1).
VANISHING = 1e-8
#: Draws of one pattern before the simulation gives up.
MOST_DRAWS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class IrsScene:
    """Everything that a file is made of, complex128; see KS 2 for the symbols.

    Attributes:
        pilots: X, (tx, pilot).
        reflection: the patterns ψ_k, (config, irs element).
        factors: Φ_1 = Ψᵀ C (config, N_1), Φ_2 = Xᵀ conj(A_T) (pilot, N_2), A_R (rx, N_3).
        directions: grids of the factors, (N_i, 1), or (N_i, 2) of planar arrays.
        coefficients: x, (frame, subcarrier, N_1, N_2, N_3); None off the grid.
        channel: H_2 diag(ψ_k) H_1, (frame, subcarrier, config, rx, tx); None of the synthetic problem.
        direct: direct channel, (frame, subcarrier, rx, tx); None without one.
        clean: noiseless samples for a transmit power of 1, (frame, subcarrier, config, rx, pilot).
        angles: direction sines of the paths by name, with the names of their axes.
    """

    pilots: Complex
    reflection: Complex
    factors: tuple[Complex, Complex, Complex]
    directions: tuple[Floats, Floats, Floats]
    coefficients: Complex | None
    channel: Complex | None
    direct: Complex | None
    clean: Complex
    angles: Mapping[str, tuple[Floats, tuple[str, ...]]] = field(default_factory=dict)


def irs_mimo(config: IrsMimoSimulation, index: int = 0) -> Measurement:
    """Simulate file number `index` of the series that `config` describes.

    Equal (config, index) give equal measurements, whatever else was simulated before. Directions and gains do not
    depend on the noise.

    Args:
        config: arrays, paths, training, noise.
        index: which file of the series, >= 0.

    Returns:
        A Measurement with the dictionary, and the truth in `extra_truth`: coefficients, channel, directions, noise
        variance.

    Raises:
        SimulationError: a channel that no pattern lets through.
    """
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise SimulationError(f"simulation index: expected a whole number >= 0, got {index!r}")
    scene = irs_scene(config, index)
    generator = _streams(config, index)["noise"]
    clean = math.sqrt(config.transmit_power_w) * scene.clean
    variance = 0.0
    if config.snr_db is not None:
        power = float(np.mean(np.abs(clean) ** 2))
        if not power > 0:
            raise SimulationError("simulation snr_db: nothing is received, so no noise level gives that ratio")
        variance = power * 10 ** (-config.snr_db / 10)
    return _measurement(config, index, scene, clean + _noise(config, clean.shape, variance, generator), variance)


def irs_mimo_series(config: IrsMimoSimulation, n: int) -> Iterator[Measurement]:
    """The first `n` files of a series, one after the other."""
    for index in range(n):
        yield irs_mimo(config, index)


def irs_scene(config: IrsMimoSimulation, index: int = 0) -> IrsScene:
    """The noiseless file number `index` in double precision."""
    return _synthetic(config, index) if config.model == "synthetic" else _channel(config, index)


# -- the uplink of KS 2 -------------------------------------------------------------------------------------


def _channel(config: IrsMimoSimulation, index: int) -> IrsScene:
    streams = _streams(config, index)
    paths = _paths(config, streams["paths"])
    arrays = {side: array_coordinates(torch.from_numpy(config.elements_m(side))) for side in ("irs", "tx", "rx")}

    def toward(side: str, directions: Floats) -> Complex:
        flat = torch.from_numpy(directions.reshape(-1, directions.shape[-1]))
        return np.asarray(steering(arrays[side], flat, config.wavelength_m).numpy())

    alpha, beta = _gains(config, streams["gains"])
    t, r, n = config.n_tx, config.n_rx, config.n_irs
    alpha = alpha * math.sqrt(t * n / (config.paths_irs * config.clusters))
    beta = beta * math.sqrt(r * n / config.paths_rx)
    arrive = toward("irs", paths.arrive).reshape(n, config.clusters, config.paths_irs)
    first = np.einsum("lcp,fscp,tc->fslt", arrive, alpha, toward("tx", paths.leave).conj())
    second = np.einsum("rp,fsp,l->fsrl", toward("rx", paths.reach), beta, toward("irs", paths.depart)[:, 0].conj())
    pilots = _pilots(config, streams["training"])
    reflection, channel = _patterns(config, streams, first, second)
    clean = channel @ pilots
    direct = None
    if config.direct_path:
        direct = _direct(config, streams["direct"], toward, channel)
        clean = clean + (direct @ pilots)[:, :, None]
    grids = tuple(config.directions(side) for side in ("irs", "tx", "rx"))
    atoms = surface_atoms(arrays["irs"], torch.from_numpy(grids[0]), config.wavelength_m).numpy()
    factors = (reflection @ atoms, pilots.T @ toward("tx", grids[1]).conj(), toward("rx", grids[2]))
    return IrsScene(
        pilots=pilots,
        reflection=reflection,
        factors=factors,
        directions=(grids[0], grids[1], grids[2]),
        coefficients=paths.coefficients(alpha, beta, [len(g) for g in grids]),
        channel=channel,
        direct=direct,
        clean=clean,
        angles={
            "irs_arrival": (paths.arrive, ("cluster", "path", "axis")),
            "irs_departure": (paths.depart, ("path", "axis")),
            "tx_departure": (paths.leave, ("cluster", "axis")),
            "rx_arrival": (paths.reach, ("path", "axis")),
        },
    )


@dataclass(frozen=True)
class _Paths:
    """Direction sines, (..., d), and where the path pairs are in the dictionary; None off the grid."""

    arrive: Floats  # (cluster, path, d)
    depart: Floats  # (1, d)
    leave: Floats  # (cluster, d)
    reach: Floats  # (path, d)
    index: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None

    def coefficients(self, alpha: Complex, beta: Complex, lengths: list[int]) -> Complex | None:
        """x (frame, subcarrier, N_1, N_2, N_3) with α β at [(d - a) mod G, t, b]; KS 2.2, counted from 0."""
        if self.index is None:
            return None
        pair, leave, reach = self.index
        x = np.zeros((*alpha.shape[:2], *lengths), dtype=np.complex128)
        for c in range(alpha.shape[2]):
            for p in range(alpha.shape[3]):
                for b, at in enumerate(reach):
                    x[:, :, pair[c, p], leave[c], at] += alpha[:, :, c, p] * beta[:, :, b]
        return x


def _paths(config: IrsMimoSimulation, generator: np.random.Generator) -> _Paths:
    clusters = config.clusters
    planar = {side: getattr(config, f"{side}_rows") > 1 for side in ("irs", "tx", "rx")}

    def draw(side: str, count: int, spread: bool) -> Floats:
        """`count` places on the circle of directions, in steps of the grid: (count, d)."""
        n = getattr(config, f"grid_{side}")
        if config.angles == "on_grid":
            u = (
                generator.integers(n - count + 1) + np.arange(count)
                if spread
                else generator.choice(n, count, replace=False)
            ).astype(float)
        elif spread:
            u = np.sort(generator.uniform(0, n - count if n > count else n) + generator.uniform(0, count, count))
        else:
            u = generator.uniform(0, n, count)
        if not planar[side]:
            return u[:, None]
        v = generator.integers(n) if config.angles == "on_grid" else generator.uniform(0, n)
        return np.stack((u, np.full(count, float(v))), axis=1)

    arrive = np.stack([draw("irs", config.paths_irs, config.angular_spread) for _ in range(clusters)])
    reach = draw("rx", config.paths_rx, config.angular_spread)
    leave = draw("tx", clusters, False)
    depart = draw("irs", 1, False)
    grid = {side: getattr(config, f"grid_{side}") for side in ("irs", "tx", "rx")}

    def sines(steps: Floats, side: str) -> Floats:
        return np.asarray(-1 + 2 * steps / grid[side])

    def flat(steps: Floats, side: str) -> NDArray[np.int64]:
        whole = np.rint(steps).astype(np.int64)
        return whole[..., 0] if whole.shape[-1] == 1 else whole[..., 0] * grid[side] + whole[..., 1]

    index = None
    if config.angles == "on_grid":
        index = (flat((depart[0] - arrive) % grid["irs"], "irs"), flat(leave, "tx"), flat(reach, "rx"))
    return _Paths(sines(arrive, "irs"), sines(depart, "irs"), sines(leave, "tx"), sines(reach, "rx"), index)


def _gains(config: IrsMimoSimulation, generator: np.random.Generator) -> tuple[Complex, Complex]:
    """CN(0, 1) per path and frame, turned by the path's delay over the subcarriers: (frame, subcarrier, path)."""
    shapes = ((config.clusters, config.paths_irs), (config.paths_rx,))
    gains = []
    for shape in shapes:
        delays = generator.exponential(1.0, shape) * config.delay_spread_s
        turn = np.exp(-2j * np.pi * np.multiply.outer(config.subcarriers_hz, delays))
        gains.append(_circular(generator, (config.n_frames, *shape))[:, None] * turn)
    return gains[0], gains[1]


def _pilots(config: IrsMimoSimulation, generator: np.random.Generator) -> Complex:
    """(tx, pilot), columns of unit power."""
    t, k = config.n_tx, config.n_pilots
    if config.pilots == "orthogonal":
        return np.exp(-2j * np.pi * np.outer(np.arange(t), np.arange(k)) / k) / math.sqrt(t)
    return np.exp(1j * np.pi / 2 * (generator.integers(4, size=(t, k)) + 0.5)) / math.sqrt(t)


def _patterns(
    config: IrsMimoSimulation, streams: Mapping[str, np.random.Generator], first: Complex, second: Complex
) -> tuple[Complex, Complex]:
    """Reflection patterns (config, element), and the channels they give (frame, subcarrier, config, rx, tx)."""
    n, k = config.n_irs, config.n_configs
    modulus = 1 / math.sqrt(n) if config.reflection_modulus is None else config.reflection_modulus
    phase = streams["training"].uniform(0, 2 * np.pi, (k, n))
    reflection = modulus * np.exp(1j * _quantised(phase, config.phase_bits))

    def channel(patterns: Complex) -> Complex:
        return np.asarray(np.einsum("fsrl,kl,fslt->fskrt", second, patterns, first, optimize=True))

    found = channel(reflection)
    least = VANISHING * modulus * np.linalg.norm(first, axis=(-2, -1)) * np.linalg.norm(second, axis=(-2, -1))
    for _ in range(MOST_DRAWS):
        vanishing = (np.linalg.norm(found, axis=(-2, -1)) < least[..., None]).any(axis=(0, 1))
        if not vanishing.any():
            return reflection, found
        fresh = streams["paths"].uniform(0, 2 * np.pi, (int(vanishing.sum()), n))
        reflection[vanishing] = modulus * np.exp(1j * _quantised(fresh, config.phase_bits))
        found = channel(reflection)
    raise SimulationError(
        f"simulation n_irs: no pattern lets the channel through in {MOST_DRAWS} draws; use more elements or "
        "another seed"
    )


def _quantised(phase: Floats, bits: int | None) -> Floats:
    if bits is None:
        return phase
    step = 2 * np.pi / 2**bits
    return np.asarray(np.rint(phase / step) * step)


def _direct(config: IrsMimoSimulation, generator: np.random.Generator, toward: Any, channel: Complex) -> Complex:
    """One path between mobile and base station, (frame, subcarrier, rx, tx), scaled to the mean channel's power."""
    ways = {}
    for side in ("rx", "tx"):
        grid = config.directions(side)
        on_grid = grid[[int(generator.integers(len(grid)))]]
        off_grid = generator.uniform(-1, 1, on_grid.shape)
        ways[side] = toward(side, on_grid if config.angles == "on_grid" else off_grid)[:, 0]
    gain = _circular(generator, (config.n_frames,))
    turn = np.exp(-2j * np.pi * config.subcarriers_hz * generator.exponential(1.0) * config.delay_spread_s)
    path = np.einsum("f,s,r,t->fsrt", gain, turn, ways["rx"], ways["tx"].conj())
    power = np.mean(np.sum(np.abs(channel) ** 2, axis=(-2, -1))) * 10 ** (config.direct_gain_db / 10)
    return np.asarray(path * math.sqrt(power))


# -- the synthetic problem of KS 3.1 ------------------------------------------------------------------------


def _synthetic(config: IrsMimoSimulation, index: int) -> IrsScene:
    streams = _streams(config, index)
    factors = [streams["training"].standard_normal((m, n)) for m, n in zip(config.rows, config.unknowns, strict=True)]
    support = [
        streams["paths"].choice(n, k, replace=False) for n, k in zip(config.unknowns, config.nonzeros, strict=True)
    ]
    x = np.zeros(config.unknowns)
    if config.values == "rank_one":
        parts = [streams["gains"].standard_normal(k) for k in config.nonzeros]
        x[np.ix_(*support)] = np.einsum("i,j,k->ijk", *parts)
    else:
        x[np.ix_(*support)] = streams["gains"].standard_normal(config.nonzeros)
    clean = np.einsum("ai,bj,ck,ijk->acb", *factors, x, optimize=True)[None, None]
    a, b, c = (f.astype(np.complex128) for f in factors)
    return IrsScene(
        pilots=b.T.copy(),
        reflection=a / np.abs(a).max(),
        factors=(a, b, c),
        directions=tuple(np.arange(float(n))[:, None] for n in config.unknowns),  # type: ignore[arg-type]
        coefficients=x[None, None].astype(np.complex128),
        channel=None,
        direct=None,
        clean=clean.astype(np.complex128),
    )


# -- what both share ----------------------------------------------------------------------------------------


def _streams(config: IrsMimoSimulation, index: int) -> dict[str, np.random.Generator]:
    """A stream for everything that is random; that of the training is the series' own unless it is drawn anew."""
    names = ("paths", "gains", "noise", "direct", "training")
    seeds = np.random.SeedSequence((config.seed, index)).spawn(len(names))
    streams = {name: np.random.default_rng(seed) for name, seed in zip(names, seeds, strict=True)}
    if not config.new_training:
        streams["training"] = np.random.default_rng(np.random.SeedSequence(config.seed))
    return streams


def _circular(generator: np.random.Generator, shape: tuple[int, ...]) -> Complex:
    """CN(0, 1)."""
    pairs = generator.standard_normal(shape) + 1j * generator.standard_normal(shape)
    return np.asarray(pairs / math.sqrt(2), dtype=np.complex128)


def _noise(
    config: IrsMimoSimulation, shape: tuple[int, ...], variance: float, generator: np.random.Generator
) -> Complex:
    """Of that variance per sample: circular, real for the synthetic problem, which is real."""
    if config.model == "synthetic":
        return np.asarray(math.sqrt(variance) * generator.standard_normal(shape), dtype=np.complex128)
    return np.asarray(math.sqrt(variance) * _circular(generator, shape))


def _measurement(config: IrsMimoSimulation, index: int, scene: IrsScene, data: Complex, variance: float) -> Measurement:
    axes = ("frame", "subcarrier", "config", "rx", "pilot")
    scales = {
        name: Scale(values=np.arange(n, dtype=np.int32), units="1") for name, n in zip(axes, data.shape, strict=True)
    }
    scales["frame"] = Scale(values=np.arange(config.n_frames) * config.frame_interval_s, units="s")
    scales["subcarrier"] = Scale(values=config.subcarriers_hz, units="Hz", long_name="offset from the carrier")
    geometry: dict[str, Any] = {"frame": "right-handed, z up", "coordinates": ["x", "y", "z"]}
    acquisition: dict[str, Any] = {
        "pilots": scene.pilots.astype(np.complex64),
        "irs_reflection": scene.reflection.astype(np.complex64),
        "transmit_power": config.transmit_power_w,
    }
    if config.model == "channel":
        geometry |= {f"{side}_positions": config.positions_m(side) for side in ("tx", "rx", "irs")}
        acquisition["carrier_frequency"] = config.carrier_frequency_hz
    if variance > 0 and config.noise_known:
        acquisition["noise_variance"] = variance
    text = json.dumps(config.to_dict(), sort_keys=True)
    words = "synthetic Kronecker problem" if config.model == "synthetic" else f"pilots over a surface, {config.angles}"
    return Measurement(
        modality="irs_mimo",
        data=data.astype(np.complex64),
        axes=axes,
        scales=scales,
        units="V",
        quantity="received_pilots",
        long_name="simulated received pilots, over 1 ohm",
        geometry=geometry,
        acquisition=acquisition,
        dictionary=_dictionary(scene),
        extra_truth=_truth(scene, variance),
        provenance={
            "program": "backcast simulate irs_mimo",
            "version": __version__,
            "sequence_index": 1,
            "config": text,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "seed": config.seed,
            "index": index,
        },
        attrs={
            # The same scene keeps its identity when it is simulated again.
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"backcast-irs_mimo/{index}/{text}")),
            "title": f"simulated {words}, file {index}",
        },
    )


def _dictionary(scene: IrsScene) -> dict[str, Any]:
    table: dict[str, Any] = {"order": ORDER}
    for i, (factor, grid) in enumerate(zip(scene.factors, scene.directions, strict=True), 1):
        table[f"factor_{i}"] = factor.astype(np.complex64)
        table[f"grid_{i}"] = grid[:, 0].copy()
        table[f"grid_{i}_units"] = "1"
        if grid.shape[1] == 2:
            table[f"grid_{i}_v"] = grid[:, 1].copy()
    return table


def _truth(scene: IrsScene, variance: float) -> dict[str, NamedArray]:
    truth = {"noise_variance": NamedArray(values=np.array(variance), axes=(), units="W")}
    batch = ("frame", "subcarrier")
    for name, values, axes in (
        ("coefficients", scene.coefficients, (*batch, "grid_1", "grid_2", "grid_3")),
        ("channel", scene.channel, (*batch, "config", "rx", "tx")),
        ("direct_channel", scene.direct, (*batch, "rx", "tx")),
    ):
        if values is not None:
            truth[name] = NamedArray(values=values.astype(np.complex64), axes=axes)
    for name, (sines, names) in scene.angles.items():
        truth[name] = NamedArray(values=sines, axes=names)
    return truth
