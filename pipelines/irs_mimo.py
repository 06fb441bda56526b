"""Channels over a reflecting surface: from pilots to operators, data and estimators. The only place where they meet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.measurement import Measurement, Scale, Volume
from imaging import sbl
from imaging.operators import Kronecker
from imaging.operators.kronecker import mode_products
from imaging.operators.steering import array_coordinates, steering, surface_atoms, uniform_directions
from imaging.sbl import classical, combined, decomposed, greedy
from imaging.sbl.least_squares import least_squares
from imaging.sbl.offgrid import Steering
from imaging.solvers.run import KeepBest
from imaging.solvers.state import State
from pipelines.irs_mimo_config import (
    DictionaryTable,
    DsblConfig,
    IrsConfig,
    KompConfig,
    KroAmConfig,
    KroMmConfig,
    KroSvdConfig,
    LsConfig,
    NoisyConfig,
    OffgridConfig,
    OffgridDictionaryTable,
    OmpConfig,
    OnGridConfig,
    PcKroConfig,
    PcSblConfig,
    SblConfig,
    StopTable,
)
from pipelines.methods import Part, Plan, Setting
from pipelines.radar import MeasurementError

SPEED_OF_LIGHT = 299_792_458.0
#: Bytes of the tensors of one batch; more problems are estimated one batch after the other.
BATCH_BYTES = 512 * 2**20
#: Tensors of the size of the coefficients that an estimator holds, in double precision.
COPIES = 8
#: Reflection coefficients above 1 by more than single precision rounds.
PASSIVE = 1 + 1e-5
#: Columns that differ in direction by less cannot be told apart: 1 - |cos|, above the rounding of complex64.
PARALLEL = 1e-9
#: Singular values below this share of the largest count as 0: factors are stored in single precision.
RANK = 1e-6
#: Directions whose variance is above this share of their factor's largest are reported.
STRONG = 1e-2
#: Share of the pilots' part of a dictionary that geometry must explain.
GEOMETRY = 1e-3


@dataclass(frozen=True)
class Factor:
    """One factor of the dictionary.

    Attributes:
        number: 1, 2 or 3, as in the file.
        side: "irs", "tx" or "rx".
        matrix: (M_i, N_i) complex128.
        directions: (N_i, d) direction sines, d = 2 for planar arrays.
    """

    number: int
    side: str
    matrix: Tensor
    directions: Tensor

    @property
    def axes(self) -> dict[str, Scale]:
        """The coordinates of the columns: two axes where they are a product of two."""
        name = f"grid_{self.number}"
        words = {
            "irs": "departure minus arrival at the surface",
            "tx": "departure from the transmitter",
            "rx": "arrival at the receiver",
        }[self.side]
        d = self.directions.numpy()
        if d.shape[1] == 1:
            return {name: Scale(values=d[:, 0], units="1", long_name=f"direction sine, {words}")}
        u, v = (np.unique(d[:, i]) for i in (0, 1))
        if np.array_equal(d, np.stack(np.meshgrid(u, v, indexing="ij"), axis=-1).reshape(-1, 2)):
            return {
                name: Scale(values=u, units="1", long_name=f"direction sine along rows, {words}"),
                f"{name}_v": Scale(values=v, units="1", long_name=f"direction sine across rows, {words}"),
            }
        return {name: Scale(values=np.arange(float(len(d))), units="1", long_name=f"column, {words}")}


@dataclass(frozen=True)
class Pilots:
    """A measurement as the estimators take it.

    Attributes:
        A: the factors that the data see, in the file's order.
        y: (problem, M_1, M_2, M_3), problems being frames and subcarriers, mean power 1.
        scale: what y and coefficients are multiplied with to be those of a transmit power of 1 W, (problem,).
        noise_var: of a sample of y, (problem,); None where it is to be estimated.
        power: transmit power in W.
        factors: of the dictionary, with all patterns.
        tx_steering: conj(A_T) (tx, N) for the channel at all transmit elements; None where nothing tells it.
        batch: the axes frame and subcarrier.
        kept: (n_config - 1, n_config), what is made of the patterns to take the direct path out; None to keep it.
        notes, facts: those of the plan.
        angles: of atoms that move, (problem, ΣN_i) in all; filled while parts are solved.
        batch_bytes: of the tensors of one batch.
    """

    A: Kronecker
    y: Tensor
    scale: Tensor
    noise_var: Tensor | None
    power: float
    factors: tuple[Factor, ...]
    tx_steering: Tensor | None
    batch: dict[str, Scale]
    kept: Tensor | None
    notes: list[str]
    facts: dict[str, Any]
    angles: list[Tensor]
    batch_bytes: int = BATCH_BYTES


# -- the methods --------------------------------------------------------------------------------------------


def ls(m: Measurement, config: LsConfig, setting: Setting) -> Plan:
    """The coefficients of least norm that fit best."""
    return _direct(m, config, setting, lambda pilots, y: (least_squares(pilots.A, y), None))


def omp(m: Measurement, config: OmpConfig, setting: Setting) -> Plan:
    """Orthogonal matching pursuit (KS 1.10), with the noise as its goal where that is known."""
    pilots = read_pilots(m, config, setting)
    table = config.omp
    if pilots.noise_var is None:
        pilots.notes.append(f"noise: not known, omp ends at a residual of {table.residual:g} of the data's norm")

    def solver(y: Tensor, noise_var: Tensor | None, start: Any) -> Iterator[State]:
        goal: dict[str, Any] = {"residual": table.residual} if noise_var is None else {"noise_var": noise_var}
        return greedy.omp(pilots.A, y, max_atoms=table.max_atoms, start=start, **goal)

    return _iterative(pilots, solver, stop=greedy.finished, max_iter=table.max_atoms)


def komp(m: Measurement, config: KompConfig, setting: Setting) -> Plan:
    """Kronecker orthogonal matching pursuit (KS 1.10)."""
    pilots = read_pilots(m, config, setting)
    table = config.komp

    def solver(y: Tensor, noise_var: Tensor | None, start: Any) -> Iterator[State]:
        return greedy.komp(pilots.A, y, residual=table.residual, max_per_factor=table.max_per_factor, start=start)

    return _iterative(pilots, solver, stop=greedy.finished, max_iter=3 * table.max_per_factor)


def classical_sbl(m: Measurement, config: SblConfig, setting: Setting) -> Plan:
    """SBL with a variance for each coefficient (KS 1.10)."""
    return _bayesian(m, config, setting, classical.sbl, {"prune": config.solver.prune})


def pcsbl(m: Measurement, config: PcSblConfig, setting: Setting) -> Plan:
    """Pattern-coupled SBL (KS 1.10), whose neighbours are those in the coefficients' row-major order."""
    pilots = read_pilots(m, config, setting)
    if pilots.noise_var is None:
        raise MeasurementError(
            "/acquisition/noise_variance: pcsbl has to know the noise, found nothing; write it, or set noise.variance"
        )

    def solver(y: Tensor, noise_var: Tensor | None, start: Any) -> Iterator[State]:
        assert noise_var is not None
        return classical.pcsbl(pilots.A, y, noise_var=noise_var, start=start)

    table = config.solver
    return _iterative(pilots, solver, stop=sbl.gamma_change_below(table.tol), max_iter=table.max_iter)


def krosbl_am(m: Measurement, config: KroAmConfig, setting: Setting) -> Plan:
    """Kronecker-structured SBL, alternating minimisation (KS 1.4)."""
    t = config.solver
    options = {"prune": t.prune, "inner_tol": t.inner_tol, "max_sweeps": t.max_sweeps}
    return _bayesian(m, config, setting, sbl.am_krosbl, options)


def krosbl_svd(m: Measurement, config: KroSvdConfig, setting: Setting) -> Plan:
    """Kronecker-structured SBL, rank-one projection (KS 1.5), from a wide start."""
    t = config.solver
    return _bayesian(m, config, setting, sbl.svd_krosbl, {"prune": t.prune, "width": t.width})


def krosbl_mm(m: Measurement, config: KroMmConfig, setting: Setting) -> Plan:
    """Kronecker-structured SBL, square-root majorise-minimise updates (KS 1.7, 5.5) after some rank-one projections."""
    t = config.solver
    pilots = read_pilots(m, config, setting)
    if t.first >= t.max_iter:
        raise MeasurementError(f"[solver] first: expected below max_iter = {t.max_iter}, found {t.first}; lower it")

    def solver(y: Tensor, noise_var: Tensor | None, start: Any) -> Iterator[State]:
        return combined.svd_mm_krosbl(
            pilots.A,
            y,
            first=t.first,
            coupling=t.coupling if any(t.coupling) else (),
            noise_var=noise_var,
            prune=t.prune,
            start=start,
        )

    def finish(y: Tensor, state: Any) -> State:
        state, polished = combined.polish(pilots.A, y, state, check=t.polish == "auto")
        pilots.facts.setdefault("rank_one", []).extend(polished.tolist())
        return state

    last = None if t.polish == "never" else finish
    return _iterative(pilots, solver, stop=combined.settled(t.tol, t.first), max_iter=t.max_iter, finish=last)


def pckrosbl(m: Measurement, config: PcKroConfig, setting: Setting) -> Plan:
    """Pattern-coupled Kronecker-structured SBL as published (KS 1.9)."""
    t = config.solver
    options = {"prune": t.prune, "coupling": t.coupling, "max_sweeps": t.max_sweeps}
    return _bayesian(m, config, setting, sbl.pc_krosbl, options)


def dsbl(m: Measurement, config: DsblConfig, setting: Setting) -> Plan:
    """Decomposed SBL: each factor on its own, for channels of rank one (KS 5.5)."""
    pilots = read_pilots(m, config, setting)
    table = config.solver

    def solver(y: Tensor, noise_var: Tensor | None, start: Any) -> Iterator[State]:
        return decomposed.dsbl(pilots.A, y, prune=table.prune, start=start)

    return _iterative(pilots, solver, stop=sbl.gamma_change_below(table.tol), max_iter=table.max_iter)


def offgrid(m: Measurement, config: OffgridConfig, setting: Setting) -> Plan:
    """Decomposed SBL whose atoms move to the directions of the paths (KS 5.5)."""
    pilots = read_pilots(m, config, setting)
    table = config.solver
    rays = [_ray(m, factor, pilots) for factor in pilots.factors]

    def solver(y: Tensor, noise_var: Tensor | None, start: Any) -> Iterator[State]:
        seen = [seen for seen, _ in rays]
        return decomposed.dsbl(pilots.A, y, steering=seen, n_paths=table.n_paths, start=start)

    plan = _iterative(pilots, solver, stop=sbl.gamma_change_below(table.tol), max_iter=table.max_iter)
    whole = [ray for _, ray in rays]
    return dataclasses.replace(plan, channel=lambda x: channel_volume(pilots, x, _moved(pilots, whole)), moving=True)


def _ray(m: Measurement, factor: Factor, pilots: Pilots) -> tuple[Steering, Steering]:
    """The atoms that the data see, and those of all patterns and antennas."""
    coordinates, wavelength = geometry_of(m, factor.side)
    if coordinates.shape[1] != 1:
        raise MeasurementError(
            f"/geometry/{factor.side}_positions: offgrid takes elements on a line, found some in a plane; use krosbl-mm"
        )
    positions = coordinates[:, 0] * 2 / wavelength
    n = len(positions)
    mixing = torch.eye(n, dtype=torch.complex128)
    sign, scale, seen = 1.0, n**-0.5, mixing
    if factor.side == "irs":
        mixing = torch.as_tensor(np.asarray(m.acquisition["irs_reflection"], dtype=np.complex128))
        sign, scale = -1.0, 1 / n
        seen = mixing if pilots.kept is None else pilots.kept @ mixing
    elif factor.side == "tx":
        sign = -1.0
        seen = torch.as_tensor(np.asarray(m.acquisition["pilots"], dtype=np.complex128)).mT
    device, grid = pilots.y.device, factor.directions[:, 0]
    return (
        Steering(seen.to(device), sign * positions.to(device), grid.to(device), scale),
        Steering(mixing, sign * positions, grid, scale),
    )


def _moved(pilots: Pilots, whole: list[Steering]) -> list[Tensor]:
    """Matrices (problem, rows, N) of the channel for the directions that were found."""
    angles = torch.cat(pilots.angles).split([len(ray.grid) for ray in whole], dim=1)
    return [ray.atoms(theta) for ray, theta in zip(whole, angles, strict=True)]


# -- plans --------------------------------------------------------------------------------------------------


def _bayesian(
    m: Measurement,
    config: Any,
    setting: Setting,
    estimator: Callable[..., Iterator[Any]],
    options: Mapping[str, Any],
) -> Plan:
    """An estimator that may learn the noise, and stops by the evidence."""
    pilots = read_pilots(m, config, setting)
    table: StopTable = config.solver

    def solver(y: Tensor, noise_var: Tensor | None, start: Any) -> Iterator[State]:
        return estimator(pilots.A, y, noise_var=noise_var, start=start, **options)

    return _iterative(pilots, solver, stop=sbl.evidence_change_below(table.tol), max_iter=table.max_iter)


def _iterative(
    pilots: Pilots,
    solver: Callable[[Tensor, Tensor | None, Any], Iterator[State]],
    *,
    stop: Callable[[Any], Tensor],
    max_iter: int,
    finish: Callable[[Tensor, Any], State] | None = None,
) -> Plan:
    def part(index: Tensor) -> Part:
        y = pilots.y[index]
        noise_var = None if pilots.noise_var is None else pilots.noise_var[index]

        def solve(some: Tensor, start: Any) -> Iterator[State]:
            some = some.to(y.device)
            return solver(y[some], None if noise_var is None else noise_var[some], start)

        def spread(state: Any) -> Tensor | None:
            if not isinstance(state, sbl.SblState):
                return None
            _note_noise(pilots, state.noise_var * pilots.scale[index].square())
            if isinstance(state, decomposed.DecomposedState):
                _note_decomposition(pilots, state)
            return state.std

        return _part(
            pilots,
            index,
            solve=solve,
            finish=None if finish is None else lambda state: finish(y, state),
            spread=spread,
        )

    return _plan(
        pilots,
        part,
        stop=stop,
        max_iter=max_iter,
        keep_best=KeepBest(lambda s: s.dual, patience=None),  # the last one: no residual has to fall
    )


def _direct(
    m: Measurement,
    config: OnGridConfig,
    setting: Setting,
    estimate: Callable[[Pilots, Tensor], tuple[Tensor, Tensor | None]],
) -> Plan:
    """A method that gives coefficients, and deviations where it has some, at once."""
    pilots = read_pilots(m, config, setting)

    def part(index: Tensor) -> Part:
        y = pilots.y[index]
        found: list[Tensor | None] = []

        def direct() -> Tensor:
            x, deviation = estimate(pilots, y)
            found.append(deviation)
            return x

        return _part(pilots, index, direct=direct, spread=lambda state: found.pop())

    return _plan(pilots, part)


def _part(pilots: Pilots, index: Tensor, **more: Any) -> Part:
    return Part(
        frames=tuple(index.tolist()),
        operator=pilots.A,
        y=pilots.y[index],
        scale=pilots.scale[index],
        **more,
    )


def _plan(pilots: Pilots, part: Callable[[Tensor], Part], **more: Any) -> Plan:
    n = len(pilots.y)
    each = COPIES * 16 * max(math.prod(pilots.A.in_shape), math.prod(pilots.A.out_shape))
    size = max(1, pilots.batch_bytes // each)
    axes = {name: scale for factor in pilots.factors for name, scale in factor.axes.items()}
    return Plan(
        parts=(part(torch.arange(first, min(first + size, n))) for first in range(0, n, size)),
        n_frames=n,
        image_axes=axes,
        batch_axes=pilots.batch,
        quantity="channel_coefficient",
        units="1",
        long_name="coefficients of the dictionary",
        channel=None if pilots.tx_steering is None else lambda x: channel_volume(pilots, x),
        notes=pilots.notes,
        facts=pilots.facts,
        carried=pilots.angles,
        **more,
    )


def _note_noise(pilots: Pilots, noise_var: Tensor) -> None:
    """The noise variance goes into the provenance, of every problem where it was estimated."""
    values = (noise_var.reshape(-1) * pilots.power).tolist()
    if pilots.noise_var is not None:
        pilots.facts["noise_variance"] = values[0]
        return
    pilots.facts.setdefault("noise_variance", []).extend(values)
    if len(pilots.facts["noise_variance"]) == len(pilots.y):
        shown = ", ".join(f"{v:.3g}" for v in pilots.facts["noise_variance"][:3])
        more = ", ..." if len(pilots.y) > 3 else ""
        pilots.notes.append(f"noise: estimated, variance {shown}{more} W")


def _note_decomposition(pilots: Pilots, state: decomposed.DecomposedState) -> None:
    """Whether the measurement was of rank one, and where the atoms are."""
    wrong = int((~state.rank_one).sum())
    if wrong:
        pilots.notes.append(
            f"rank: what the best rank-one approximation leaves is up to {float(state.excess.max()):.3g} times as "
            f"structured as noise, in {wrong} of {state.excess.numel()} problems; the channel is not of rank one and "
            "this estimate of it is wrong, use krosbl-mm"
        )
    if state.angles is None:
        return
    pilots.angles.append(state.angles.cpu())
    lengths = list(pilots.A.in_shape)
    for factor, theta, gamma in zip(
        pilots.factors, state.angles.split(lengths, dim=1), state.gamma.split(lengths, dim=1), strict=True
    ):
        kept = gamma > STRONG * gamma.amax(dim=1, keepdim=True)
        rows = [theta[i, kept[i]].tolist() for i in range(len(theta))]
        pilots.facts.setdefault(f"directions_{factor.side}", []).extend(rows)


def channel_volume(pilots: Pilots, x: np.ndarray, moved: list[Tensor] | None = None) -> Volume:
    """The channel over the surface for each pattern of the file.

    Args:
        pilots: what was measured.
        x: coefficients (problem, N_1, N_2, N_3).
        moved: matrices of the factors, one per problem, where they are not those of the dictionary.

    Returns:
        complex64 (frame, subcarrier, config, rx, tx), the first two only where they are longer than 1: Ψᵀ C, A_R and
        conj(A_T) times x, KS 2.3.
    """
    sides = [f.side for f in pilots.factors]
    matrices = moved
    if matrices is None:
        assert pilots.tx_steering is not None
        matrices = [pilots.tx_steering if f.side == "tx" else f.matrix for f in pilots.factors]
    tensor = mode_products(torch.as_tensor(x).to(torch.complex128), matrices)
    order = [1 + sides.index(side) for side in ("irs", "rx", "tx")]
    values = tensor.permute(0, *order).numpy()
    scales = {k: s for k, s in pilots.batch.items() if len(s.values) > 1}
    lengths = [len(s.values) for s in scales.values()]
    for name, n in zip(("config", "rx", "tx"), values.shape[1:], strict=True):
        scales[name] = Scale(values=np.arange(float(n)), units="1")
    return Volume(
        data=np.ascontiguousarray(values.reshape(*lengths, *values.shape[1:]), dtype=np.complex64),
        axes=tuple(scales),
        scales=scales,
        units="1",
        quantity="channel",
        long_name="channel over the surface, for each reflection pattern",
    )


# -- what a measurement says --------------------------------------------------------------------------------


def read_pilots(m: Measurement, config: OnGridConfig | OffgridConfig, setting: Setting) -> Pilots:
    """Operator and data of the estimators.

    Raises:
        MeasurementError: the file cannot be used, in one sentence that names its key.
    """
    notes: list[str] = []
    data = _checked_data(m)
    reflection, training = _checked_training(m)
    factors = _dictionary(m, config.dictionary, reflection, training, notes)
    sides = [f.side for f in factors]
    _look_at(factors, {"irs": reflection.shape[1], "tx": training.shape[0], "rx": data.shape[3]}, notes)
    power = _power(m, notes)
    n_config, n_rx, n_pilot = data.shape[2:]
    y = torch.as_tensor(data.astype(np.complex128)).reshape(-1, n_config, n_rx, n_pilot) / math.sqrt(power)
    if sides[1] == "tx":  # columns of the received matrices one below the other, KS 2.2
        y = y.transpose(2, 3)
    seen, rest = [f.matrix for f in factors], None
    if config.data.direct_path == "removed":
        if n_config < 2:
            raise MeasurementError(
                "/measurement/data: direct_path = removed takes out what patterns have in common and needs two or "
                "more, found one; set data.direct_path=absent"
            )
        rest = torch.from_numpy(_without_mean(n_config)).to(torch.complex128)
        y = torch.einsum("ka,nabc->nkbc", rest, y)
        seen[0] = rest @ seen[0]
        notes.append("data: what all patterns have in common is taken out, the direct path with it")
    dtype = torch.complex128 if config.precision == "double" else torch.complex64
    scale = y.abs().square().flatten(1).mean(1).sqrt()
    if not bool((scale > 0).all()):
        raise MeasurementError(
            "/measurement/data: expected samples that differ between patterns, found all alike; nothing is left when "
            "the direct path is taken out"
        )
    variance, how = _noise_variance(m, config)
    noise_var = None if variance is None else (variance / power / scale.square()).to(setting.device)
    if how:
        notes.append(how)
    return Pilots(
        A=_operator(seen, dtype, setting.device, factors),
        y=(y / scale[:, None, None, None]).to(dtype).to(setting.device).contiguous(),
        scale=scale.to(setting.device),
        noise_var=noise_var,
        power=power,
        factors=factors,
        tx_steering=_tx_steering(m, factors[sides.index("tx")], training, notes),
        batch={name: m.scales[name] for name in ("frame", "subcarrier")},
        kept=rest,
        notes=notes,
        facts={},
        angles=[],
        batch_bytes=BATCH_BYTES if setting.memory_limit is None else min(BATCH_BYTES, setting.memory_limit),
    )


def _checked_data(m: Measurement) -> np.ndarray:
    y = np.asarray(m.data)
    if m.mask is not None and not np.all(m.mask):
        raise MeasurementError(
            "/measurement/mask: expected all samples measured, found some that are not; leave the pilots or receivers "
            "out of the file instead"
        )
    bad = ~np.isfinite(y)
    if bad.any():
        first = [int(i) for i in np.argwhere(bad)[0]]
        raise MeasurementError(
            f"/measurement/data: expected finite samples, found {int(bad.sum())} NaN or Inf of {y.size}, the first at "
            f"{first} ({', '.join(m.axes)}); measure again"
        )
    for frame, subcarrier in np.ndindex(y.shape[:2]):
        if not y[frame, subcarrier].any():
            raise MeasurementError(
                f"/measurement/data: expected a signal, found only zeros in frame {frame}, subcarrier {subcarrier}; "
                "measure again"
            )
    return y


def _checked_training(m: Measurement) -> tuple[Tensor, Tensor]:
    """Patterns (config, element) and pilots (tx, pilot), complex128."""
    found = []
    for name, axis, where in (("irs_reflection", "config", 0), ("pilots", "pilot", 1)):
        path, value = f"/acquisition/{name}", m.acquisition.get(name)
        if value is None:
            raise MeasurementError(f"{path}: expected what was sent, found nothing; write it")
        array = np.asarray(value)
        if array.ndim != 2 or array.shape[where] != m.n(axis):
            raise MeasurementError(
                f"{path}: expected {m.n(axis)} along {axis}, as the data have, found shape {array.shape}; "
                "write what was sent, all of it"
            )
        if not np.isfinite(array).all():
            raise MeasurementError(f"{path}: expected finite numbers, found NaN or Inf; write what was sent")
        if not array.any():
            raise MeasurementError(f"{path}: expected something that was sent, found only zeros; check the file")
        found.append(torch.as_tensor(array.astype(np.complex128)))
    modulus = float(found[0].abs().max())
    if modulus > PASSIVE:
        raise MeasurementError(
            f"/acquisition/irs_reflection: expected a modulus of at most 1: the surface is passive, found {modulus:g}; "
            "power belongs into transmit_power"
        )
    return found[0], found[1]


def _power(m: Measurement, notes: list[str]) -> float:
    value = m.acquisition.get("transmit_power")
    if value is None:
        notes.append("power: 1 W assumed, since the file has no transmit_power; coefficients are relative to it")
        return 1.0
    if not (math.isfinite(value) and value > 0):
        raise MeasurementError(f"/acquisition/transmit_power: expected W > 0, found {value:g}; write the power")
    return float(value)


def _noise_variance(m: Measurement, config: IrsConfig) -> tuple[float | None, str]:
    """In W, and a sentence on where it comes from."""
    if not isinstance(config, NoisyConfig):
        return None, ""
    table = config.noise
    if table.variance is not None:
        return table.variance, "noise: variance from the configuration"
    if table.estimate:
        return None, ""
    value = m.acquisition.get("noise_variance")
    if value is not None:
        if not (math.isfinite(value) and value > 0):
            raise MeasurementError(
                f"/acquisition/noise_variance: expected W > 0, found {value:g}; leave it out to have it estimated"
            )
        return float(value), "noise: from the file's noise_variance"
    if m.noise_std is not None:
        if np.ndim(m.noise_std) or not float(m.noise_std) > 0:
            raise MeasurementError(
                "/measurement/noise_std: expected one number > 0, found others; write /acquisition/noise_variance"
            )
        return float(m.noise_std) ** 2, "noise: from the file's noise_std"
    return None, ""


def _without_mean(n: int) -> np.ndarray:
    """(n - 1, n), orthonormal rows with sum 0."""
    rows = np.zeros((n - 1, n))
    for k in range(1, n):
        rows[k - 1, :k], rows[k - 1, k] = 1.0, -float(k)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _operator(
    matrices: list[Tensor], dtype: torch.dtype, device: torch.device, factors: tuple[Factor, ...]
) -> Kronecker:
    for matrix, factor in zip(matrices, factors, strict=True):
        if not bool(matrix.abs().max() > 0):
            raise MeasurementError(
                f"/dictionary/factor_{factor.number}: expected columns that the data can tell apart, found only zeros; "
                "the samples do not depend on the coefficients"
            )
    return Kronecker([a.to(dtype).to(device) for a in matrices])


# -- dictionaries -------------------------------------------------------------------------------------------


def _dictionary(
    m: Measurement,
    table: DictionaryTable | OffgridDictionaryTable,
    reflection: Tensor,
    training: Tensor,
    notes: list[str],
) -> tuple[Factor, ...]:
    asked = {side: getattr(table, f"n_{side}") for side in ("irs", "tx", "rx")}
    stored = [m.dictionary.get(f"factor_{i}") for i in (1, 2, 3)]
    if all(a is not None for a in stored) and not any(asked.values()):
        return _stored_dictionary(m, [np.asarray(a) for a in stored])
    if not any(asked.values()) and any(a is not None for a in stored):
        missing = next(i for i, a in enumerate(stored, 1) if a is None)
        raise MeasurementError(
            f"/dictionary/factor_{missing}: expected three factors, found nothing there; write it, or set "
            "dictionary.n_irs, n_tx and n_rx to have the dictionary made from the positions"
        )
    if not any(asked.values()):
        notes.append("dictionary: made from the positions, since the file has none")
    made = []
    for number, side in ((1, "irs"), (2, "tx"), (3, "rx")):
        coordinates, wavelength = geometry_of(m, side)
        n = asked[side] or (18 if coordinates.shape[1] == 1 else 8)
        directions = uniform_directions(n, coordinates.shape[1], start=0.0 if side == "irs" else -1.0)
        made.append(
            Factor(number, side, steered(side, coordinates, directions, wavelength, reflection, training), directions)
        )
    return tuple(made)


def steered(
    side: str, coordinates: Tensor, directions: Tensor, wavelength: float, reflection: Tensor, training: Tensor
) -> Tensor:
    """Φ_1 = Ψᵀ C, Φ_2 = Xᵀ conj(A_T) or A_R for directions (N, d): (M_i, N), KS 2.2."""
    if side == "irs":
        return reflection @ surface_atoms(coordinates, directions, wavelength)
    vectors = steering(coordinates, directions, wavelength)
    return training.mT @ vectors.conj() if side == "tx" else vectors


def geometry_of(m: Measurement, side: str) -> tuple[Tensor, float]:
    """Elements along the array's own axes, metres, and the wavelength.

    Raises:
        MeasurementError: the file does not say where they are, or at which frequency.
    """
    positions, carrier = m.geometry.get(f"{side}_positions"), m.acquisition.get("carrier_frequency")
    for path, value in ((f"/geometry/{side}_positions", positions), ("/acquisition/carrier_frequency", carrier)):
        if value is None:
            raise MeasurementError(
                f"{path}: expected it for steering vectors, since they are to be made, found nothing; write it, or "
                "write /dictionary"
            )
    wanted = {"irs": m.acquisition["irs_reflection"].shape[1], "tx": m.acquisition["pilots"].shape[0], "rx": m.n("rx")}
    if len(np.asarray(positions)) != wanted[side]:
        raise MeasurementError(
            f"/geometry/{side}_positions: expected {wanted[side]} elements, found {len(np.asarray(positions))}; write "
            "one position for each"
        )
    assert carrier is not None
    name = f"/geometry/{side}_positions"
    return array_coordinates(torch.as_tensor(np.asarray(positions)), name=name), SPEED_OF_LIGHT / float(carrier)


def _stored_dictionary(m: Measurement, stored: list[np.ndarray]) -> tuple[Factor, ...]:
    n_config, n_rx, n_pilot = m.n("config"), m.n("rx"), m.n("pilot")
    for i, a in enumerate(stored, 1):
        if a.ndim != 2 or 0 in a.shape:
            raise MeasurementError(f"/dictionary/factor_{i}: expected a matrix, found shape {a.shape}; write (M, N)")
        if not np.isfinite(a).all():
            raise MeasurementError(f"/dictionary/factor_{i}: expected finite numbers, found NaN or Inf; write it anew")
        if not a.any():
            raise MeasurementError(
                f"/dictionary/factor_{i}: expected a matrix that is not 0 throughout, found only zeros; the samples "
                "would not depend on the coefficients"
            )
    rows = tuple(a.shape[0] for a in stored)
    if rows == (n_config, n_pilot, n_rx):
        sides = ("irs", "tx", "rx")
    elif rows == (n_config, n_rx, n_pilot):
        sides = ("irs", "rx", "tx")
    else:
        raise MeasurementError(
            f"/dictionary/factor_1: expected factors of {n_config}, {n_pilot} and {n_rx} rows, the data's configs, "
            f"pilots and rx, found {rows[0]}, {rows[1]} and {rows[2]}, {math.prod(rows)} rows in all; write the "
            "factors of A in that order, or leave /dictionary out"
        )
    factors = []
    for i, (a, side) in enumerate(zip(stored, sides, strict=True), 1):
        factors.append(Factor(i, side, torch.as_tensor(a.astype(np.complex128)), _stored_grid(m, i, a.shape[1])))
    return tuple(factors)


def _stored_grid(m: Measurement, i: int, n: int) -> Tensor:
    """Direction sines (N, d); column numbers where the file has no grid."""
    found = []
    for name in (f"grid_{i}", f"grid_{i}_v"):
        value = m.dictionary.get(name)
        if value is None:
            continue
        values = np.asarray(value, dtype=float)
        if values.shape != (n,):
            raise MeasurementError(
                f"/dictionary/{name}: expected {n} values, one per column of factor_{i}, found shape {values.shape}"
            )
        if m.dictionary.get(f"{name}_units", "1") == "rad":
            values = np.sin(values)
        found.append(torch.as_tensor(values))
    return torch.stack(found, dim=1) if found else torch.arange(float(n), dtype=torch.float64)[:, None]


def _look_at(factors: tuple[Factor, ...], n_elements: Mapping[str, int], notes: list[str]) -> None:
    """What the factors cannot tell apart, said once; their rank is at most the elements of their array."""
    for factor in factors:
        a, name = factor.matrix, f"dictionary: factor_{factor.number}"
        norms = torch.linalg.vector_norm(a, dim=0)
        zero = norms <= RANK * norms.max()
        if bool(zero.any()):
            notes.append(
                f"{name} has {int(zero.sum())} columns of zeros, whose coefficients are not measured and stay 0"
            )
        unit = a[:, ~zero] / norms[~zero]
        alike = torch.triu(1 - (unit.mH @ unit).abs() < PARALLEL, diagonal=1).nonzero()
        if len(alike):
            kept = torch.nonzero(~zero).flatten()
            i, j = (int(kept[k]) for k in alike[0])
            notes.append(
                f"{name} has {len(alike)} pairs of columns of one direction, the first {i} and {j}; their "
                "coefficients cannot be told apart and share what they explain together"
            )
        values = torch.linalg.svdvals(a)
        rank = int((values > RANK * values[0]).sum())
        if rank < min(a.shape[0], int((~zero).sum()), n_elements[factor.side]):
            notes.append(
                f"{name} has rank {rank}, less than its {a.shape[0]} rows and {a.shape[1]} columns; some of the "
                f"{'patterns' if factor.side == 'irs' else 'pilots' if factor.side == 'tx' else 'receivers'} say "
                "nothing new"
            )


def _tx_steering(m: Measurement, factor: Factor, training: Tensor, notes: list[str]) -> Tensor | None:
    """conj(A_T), (tx, N): from geometry, or from pilots that light every element, where it gives back Xᵀ conj(A_T)."""
    ways = []
    n_tx, n_pilot = training.shape
    if m.geometry.get("tx_positions") is not None and m.acquisition.get("carrier_frequency") is not None:
        coordinates, wavelength = geometry_of(m, "tx")
        if coordinates.shape[1] == factor.directions.shape[1]:
            ways.append(steering(coordinates, factor.directions, wavelength).conj())
    if n_pilot >= n_tx and int(torch.linalg.matrix_rank(training, rtol=RANK)) == n_tx:
        ways.append(torch.linalg.lstsq(training.mT, factor.matrix, driver="gelsd").solution)
    for way in ways:
        if float((training.mT @ way - factor.matrix).norm()) <= GEOMETRY * float(factor.matrix.norm()):
            return way
    notes.append(
        f"channel: none in the result, since neither positions and grid nor the pilots explain factor_{factor.number} "
        "as pilots times steering vectors; coefficients are not affected"
    )
    return None
