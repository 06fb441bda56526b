"""Near-field MIMO radar: the Born model, factored per frequency, never dense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from imaging.errors import GeometryError, MemoryLimitError
from imaging.operators.base import LinearOperator
from imaging.operators.exact import (
    MeasurementSpace,
    eigendecomposition_pays,
    ellipsoid_projector,
    regularised_solver,
)
from imaging.operators.grid import Grid
from imaging.operators.symmetry import find_symmetry, no_symmetry

SPEED_OF_LIGHT = 299_792_458.0  # m/s
DELAY = "exp(-j*2*pi*f*tau)"
ADVANCE = "exp(+j*2*pi*f*tau)"
PHASE_CONVENTIONS = (DELAY, ADVANCE)
BORN = "1/(4*pi*Rt*Rr)"
AMPLITUDES = (BORN, "none", "kirchhoff", "kirchhoff-compensated")

BLOCK = 1024  # voxels per GEMM on a CPU: both factors and their product stay in cache
ACCELERATOR_BLOCK = 65536  # on a GPU: few, large kernels
RESEED = 8  # frequencies between exact phases when stepping; keeps complex64 within 1e-6
PAIR_WASTE = 4  # form the full tx x rx product for a channel list unless it is this much larger
MAX_PAIR_ELEMENTS = 4_000_000  # of the channel-wise product formed at a time


@dataclass(frozen=True)
class Channels:
    """Which (transmitter, receiver) pairs were measured: two int64 index tensors of length n_channel."""

    tx: Tensor
    rx: Tensor


@dataclass(frozen=True)
class Block:
    """Symmetrised factors of some voxel orbits: per character, (K, n_a, n) for transmitters and receivers."""

    part: slice
    tx: list[Tensor]
    rx: list[Tensor]

    def pairs(self) -> Iterator[tuple[int, tuple[slice, Tensor], tuple[slice, Tensor]]]:
        """(character of the voxels, (transmitter rows, factor), (receiver rows, factor)) of every product."""
        for a, (t, g_t) in enumerate(_enumerate_rows(self.tx)):
            for b, (r, g_r) in enumerate(_enumerate_rows(self.rx)):
                if g_t.shape[1] and g_r.shape[1]:
                    yield a ^ b, (t, g_t), (r, g_r)  # characters multiply as their indices' exclusive or


class NearFieldMimo(LinearOperator):
    """Born scattering seen by arbitrary transmitters and receivers, stepped frequency.

    y[t, r, k] = p_k Σ_n x_n exp(∓j k_k (R_T + R_R)) a(R_T, R_R), with k_k = 2π f_k / c.

    Per frequency the matrix is a column-wise Kronecker (Khatri-Rao) product of a transmitter and a receiver
    factor, so both directions are matrix products (NF 2.2); the dense matrix is never formed. Where the factors
    do not fit in `memory_limit` they are generated for a block of voxels at a time by phase stepping. Where array
    and grid share mirror symmetries, both are done in symmetrised coordinates with 2 or 4 times less work.

    Args:
        tx_m, rx_m: antenna positions (n_tx, 3), (n_rx, 3), columns x, y, z, metres.
        frequencies_hz: (n_freq,), strictly increasing, hertz.
        grid: the voxels; no antenna may lie inside it.
        amplitude: "1/(4*pi*Rt*Rr)" (Born), "none", or the migration weights "kirchhoff" and
            "kirchhoff-compensated" whose *adjoint* is Kirchhoff migration (see `imaging.direct.kirchhoff`).
        phase_convention: "exp(-j*2*pi*f*tau)" (time factor exp(+jωt)) or its conjugate "exp(+j*2*pi*f*tau)".
        spectrum: pulse spectrum p (n_freq,), complex; None is flat.
        propagation_speed: m/s.
        dtype: torch.complex64 or torch.complex128. Phases are always reduced in float64.
        memory_limit: bytes the stored factors may take.
        device: where factors live; None is the CPU.
        use_symmetry: False ignores mirror symmetries (for comparison).

    x: (*batch, nz, ny, nx), reflectivity with the voxel volume absorbed, unitless.
    y: (*batch, n_tx, n_rx, n_freq), or (*batch, n_channel, n_freq) for `from_channels`.

    Raises:
        GeometryError: positions, frequencies or grid that cannot be.
        MemoryLimitError: `memory_limit` is too small for the smallest block.

    Source: Born model and factorisation, NF (2.2)-(2.4); Oral and Oktem, IEEE TCI 10:762 (2024).
    """

    tx_m: Tensor
    rx_m: Tensor
    frequencies_hz: Tensor
    spectrum: Tensor
    _expand_tx: Tensor
    _expand_rx: Tensor
    grid: Grid

    def __init__(
        self,
        tx_m: Any,
        rx_m: Any,
        frequencies_hz: Any,
        grid: Grid,
        *,
        amplitude: str = BORN,
        phase_convention: str = DELAY,
        spectrum: Any = None,
        propagation_speed: float = SPEED_OF_LIGHT,
        dtype: torch.dtype = torch.complex64,
        memory_limit: int = 2 * 2**30,
        device: torch.device | str | None = None,
        channels: Channels | None = None,
        use_symmetry: bool = True,
    ) -> None:
        tx = _positions("tx_m", tx_m)
        rx = _positions("rx_m", rx_m)
        frequencies = _frequencies(frequencies_hz)
        _choose("amplitude", amplitude, AMPLITUDES)
        _choose("phase_convention", phase_convention, PHASE_CONVENTIONS)
        if dtype not in (torch.complex64, torch.complex128):
            raise GeometryError(f"NearFieldMimo dtype: expected torch.complex64 or complex128, got {dtype}")
        if not (math.isfinite(propagation_speed) and propagation_speed > 0):
            raise GeometryError(f"NearFieldMimo propagation_speed: expected > 0 m/s, got {propagation_speed}")
        for name, positions in (("transmitter", tx), ("receiver", rx)):
            inside = grid.contains_m(positions)
            if bool(inside.any()):
                i = int(inside.nonzero()[0])
                x, y, z = positions[i].tolist()
                raise GeometryError(
                    f"{name} {i} at (x, y, z) = ({x:g}, {y:g}, {z:g}) m lies inside the voxel grid; "
                    "move the grid away from the antennas"
                )
        k = len(frequencies)
        out_shape = (len(tx), len(rx), k) if channels is None else (len(channels.tx), k)
        out_axes = ("tx", "rx", "frequency") if channels is None else ("channel", "frequency")
        super().__init__(grid.shape, out_shape, in_axes=("z", "y", "x"), out_axes=out_axes, dtype=dtype)
        self.grid = grid
        self.amplitude = amplitude
        self.phase_convention = phase_convention
        self.propagation_speed = propagation_speed
        self.memory_limit = memory_limit
        self._sign = -1.0 if phase_convention == DELAY else 1.0
        self.register_buffer("tx_m", tx.to(device))
        self.register_buffer("rx_m", rx.to(device))
        self.register_buffer("frequencies_hz", frequencies.to(device))
        self.register_buffer("spectrum", _spectrum(spectrum, k, dtype).to(device))
        if channels is None:
            self.channels = None
        else:
            self.channels = Channels(channels.tx.to(device), channels.rx.to(device))
        if channels is None and use_symmetry:
            self.symmetry = find_symmetry(self.tx_m, self.rx_m, grid)
        else:
            self.symmetry = no_symmetry(grid.n_voxels, len(tx), len(rx), self.device)
        real = torch.float32 if dtype == torch.complex64 else torch.float64
        self.register_buffer("_expand_tx", self.symmetry.expansion(self.symmetry.tx_rows, real).to(dtype))
        self.register_buffer("_expand_rx", self.symmetry.expansion(self.symmetry.rx_rows, real).to(dtype))
        self._space: MeasurementSpace | None = None
        self._mean_eigenvalue: float | None = None
        self._block = self._block_size(memory_limit)
        self._stored: list[Block] | None = None
        if self.factor_bytes <= memory_limit:
            self._stored = list(self._generate(exact=True))

    @classmethod
    def from_channels(cls, tx_m: Any, rx_m: Any, frequencies_hz: Any, grid: Grid, **options: Any) -> NearFieldMimo:
        """The operator of a list of (transmitter, receiver) pairs, as incomplete arrays and raster scans have.

        Args:
            tx_m, rx_m: (n_channel, 3), the antennas of each channel; repeated positions are shared.
            frequencies_hz, grid, options: as for NearFieldMimo.

        y: (*batch, n_channel, n_freq).

        Raises:
            GeometryError: the two lists differ in length, or as for NearFieldMimo.
        """
        tx, rx = _positions("tx_m", tx_m), _positions("rx_m", rx_m)
        if len(tx) != len(rx):
            raise GeometryError(f"from_channels: expected one receiver per transmitter, got {len(tx)} and {len(rx)}")
        tx_unique, tx_index = torch.unique(tx, dim=0, return_inverse=True)
        rx_unique, rx_index = torch.unique(rx, dim=0, return_inverse=True)
        return cls(tx_unique, rx_unique, frequencies_hz, grid, channels=Channels(tx_index, rx_index), **options)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.symmetry = self.symmetry.to(self.device)
        if self.channels is not None:
            self.channels = Channels(fn(self.channels.tx), fn(self.channels.rx))
        if self._stored is not None:
            self._stored = [Block(b.part, [fn(g) for g in b.tx], [fn(g) for g in b.rx]) for b in self._stored]
        self._space = None  # set up again where the operator is now
        return self

    # -- size -----------------------------------------------------------------------------------

    @property
    def factor_bytes(self) -> int:
        """Bytes of all factors when stored."""
        return self._bytes_per_voxel() * len(self.symmetry.voxel_orbits.representatives)

    @property
    def stored(self) -> bool:
        """Whether the factors are kept, or generated block by block."""
        return self._stored is not None

    @property
    def n_measurements(self) -> int:
        return math.prod(self.out_shape)

    def _bytes_per_voxel(self) -> int:
        return (len(self.tx_m) + len(self.rx_m)) * len(self.frequencies_hz) * self.dtype.itemsize

    def _block_size(self, memory_limit: int) -> int:
        # three arrays of a block's size live at once: the factors, their product, and a phase array
        per_voxel = 3 * self._bytes_per_voxel()
        if memory_limit < 8 * per_voxel:
            raise MemoryLimitError(
                f"expected a memory limit of at least {8 * per_voxel} bytes for the smallest block of 8 voxels, "
                f"found {memory_limit}; raise it"
            )
        return min(BLOCK if self.device.type == "cpu" else ACCELERATOR_BLOCK, memory_limit // per_voxel)

    # -- factors --------------------------------------------------------------------------------

    def _blocks(self) -> Iterator[Block]:
        """Symmetrised factors over one voxel per orbit, all voxels when there is no symmetry."""
        return iter(self._stored) if self._stored is not None else self._generate(exact=False)

    def _generate(self, *, exact: bool) -> Iterator[Block]:
        for part, g_t, g_r in self._orbit_factors(exact=exact):
            yield Block(
                part,
                _symmetrised(g_t, self.symmetry.tx_rows, self.symmetry.characters),
                _symmetrised(g_r, self.symmetry.rx_rows, self.symmetry.characters),
            )

    def _orbit_factors(self, *, exact: bool) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(orbits, G_T (K, n_tx, n), G_R (K, n_rx, n)) at one voxel per orbit, some at a time."""
        points = self.grid.points_m().to(self.device)[self.symmetry.voxel_orbits.representatives]
        for first in range(0, len(points), self._block):
            part = slice(first, min(first + self._block, len(points)))
            yield part, *self.factors(points[part], exact=exact)

    def factors(self, points_m: Tensor, *, exact: bool = True) -> tuple[Tensor, Tensor]:
        """G_T (K, n_tx, n) and G_R (K, n_rx, n) at arbitrary points (n, 3; x, y, z in metres), NF 2.2.

        `exact` computes every phase in float64; otherwise phases are stepped in frequency and re-seeded.
        """
        rx_scale = 1 / (4 * math.pi) if self.amplitude == BORN else 1.0
        return (
            self._factor(self.tx_m, points_m, 1.0, exact),
            self._factor(self.rx_m, points_m, rx_scale, exact),
        )

    def _factor(self, antennas_m: Tensor, points_m: Tensor, scale: float, exact: bool) -> Tensor:
        offset = points_m[None, :, :] - antennas_m[:, None, :]
        distance = torch.linalg.vector_norm(offset, dim=-1)
        phases = self._phases(distance, exact)
        constant, per_k = self._weights(distance, offset[..., 2])
        if constant is None:
            return phases
        real = torch.float32 if self.dtype == torch.complex64 else torch.float64
        if per_k is None:
            phases *= (scale * constant).to(real)
            return phases
        wavenumber = 2 * math.pi * self.frequencies_hz / self.propagation_speed
        for k, value in enumerate(wavenumber):
            phases[k] *= torch.complex(constant, self._sign * value * per_k).to(self.dtype)
        return phases

    def _weights(self, distance: Tensor, depth: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """(w0, w1) of the factor's weight w0 ± j k w1; NF 2.2 for the Born model, NF 7.2 for migration."""
        if self.amplitude == "none":
            return None, None
        if self.amplitude == BORN:
            return 1 / distance, None
        cosine = depth / distance
        if self.amplitude == "kirchhoff":
            return cosine / distance, cosine
        return 2 * cosine, 2 * depth

    def _phases(self, distance: Tensor, exact: bool) -> Tensor:
        """exp(∓jkR) (K, n_antenna, n); phases are reduced modulo one turn in float64 before rounding."""
        turns = self._sign * self.frequencies_hz / self.propagation_speed
        out = torch.empty(len(turns), *distance.shape, dtype=self.dtype, device=distance.device)
        steps = torch.diff(turns)
        uniform = len(steps) > 1 and bool((steps - steps[0]).abs().max() <= 1e-12 * turns.abs().max())
        step = None if exact or not uniform else self._exponential(steps[0] * distance)
        for k in range(len(turns)):
            if step is None or k % RESEED == 0:
                out[k] = self._exponential(turns[k] * distance)
            else:
                torch.mul(out[k - 1], step, out=out[k])
        return out

    def _exponential(self, turns: Tensor) -> Tensor:
        angle = 2 * math.pi * (turns - turns.round())
        angle = angle.to(torch.float32 if self.dtype == torch.complex64 else torch.float64)
        return torch.polar(torch.ones_like(angle), angle)

    # -- products -------------------------------------------------------------------------------

    def _forward(self, x: Tensor) -> Tensor:
        s = self.symmetry.symmetrise(x.flatten(1))
        n_freq = len(self.frequencies_hz)
        if self._pairwise:
            y = s.new_zeros(len(s), n_freq, self.out_shape[0])
            for block in self._blocks():
                for some, rows in self._pair_rows(block):
                    y[:, :, some] += (rows @ s[:, 0, block.part].T).permute(2, 0, 1)
        else:
            y = s.new_zeros(len(s), n_freq, len(self.tx_m), len(self.rx_m))
            room = self._product_room(s)
            for block in self._blocks():
                for c, (t, g_t), (r, g_r) in block.pairs():
                    g_r_transposed = g_r.transpose(1, 2)  # plain transpose, not Hermitian: NF (2.3)
                    scaled = room[: g_t.numel()].view(g_t.shape)
                    for b in range(len(s)):
                        torch.mul(g_t, s[b, c, block.part], out=scaled)
                        y[b, :, t, r] += scaled @ g_r_transposed
            if self.symmetry.order > 1:
                y = self._expand_tx @ y @ self._expand_rx.T
            if self.channels is not None:
                y = y[:, :, self.channels.tx, self.channels.rx]
        return y.movedim(1, -1) * self.spectrum

    def _adjoint(self, y: Tensor) -> Tensor:
        # conj(Aᴴ y) = Aᵀ conj(y): conjugating the small arrays leaves the factors untouched
        y = (y * self.spectrum.conj()).conj().resolve_conj().movedim(-1, 1).contiguous()
        n_orbits = len(self.symmetry.voxel_orbits.representatives)
        s = y.new_zeros(len(y), self.symmetry.order, n_orbits)
        if self._pairwise:
            for block in self._blocks():
                for some, rows in self._pair_rows(block):
                    s[:, 0, block.part] += torch.einsum("bkc,kcn->bn", y[:, :, some], rows)
        else:
            if self.channels is not None:
                full = y.new_zeros(len(y), y.shape[1], len(self.tx_m), len(self.rx_m))
                index = self.channels.tx * len(self.rx_m) + self.channels.rx
                full.flatten(2).index_add_(2, index, y)
                y = full
            if self.symmetry.order > 1:
                y = self._expand_tx.T @ y @ self._expand_rx
            room = self._product_room(y)
            for block in self._blocks():
                for c, (t, g_t), (r, g_r) in block.pairs():
                    product = room[: g_t.numel()].view(g_t.shape)
                    for b in range(len(y)):
                        torch.bmm(y[b, :, t, r], g_r, out=product).mul_(g_t)  # NF (2.4)
                        s[b, c, block.part] += product.sum((0, 1))
        return self.symmetry.symmetrise_adjoint(s).conj().resolve_conj().reshape(len(y), *self.in_shape)

    def _product_room(self, like: Tensor) -> Tensor:
        """Memory for the product with one block's transmitter factor.

        Taken once per call: freshly allocated for every block, it can cost as much in page faults as the product.
        """
        return like.new_empty(len(self.frequencies_hz) * len(self.tx_m) * self._block)

    @property
    def _pairwise(self) -> bool:
        """Whether channels are few enough that forming each beats the full tx x rx product."""
        return self.channels is not None and len(self.tx_m) * len(self.rx_m) > PAIR_WASTE * len(self.channels.tx)

    def _pair_rows(self, block: Block) -> Iterator[tuple[slice, Tensor]]:
        """(channels, rows (K, n, voxels) of the matrix), some channels at a time."""
        assert self.channels is not None
        (g_t,), (g_r,) = block.tx, block.rx
        n_channels = len(self.channels.tx)
        step = max(1, MAX_PAIR_ELEMENTS // (g_t.shape[0] * g_t.shape[2]))
        for first in range(0, n_channels, step):
            c = slice(first, min(first + step, n_channels))
            yield c, g_t[:, self.channels.tx[c]] * g_r[:, self.channels.rx[c]]

    # -- exact solves ---------------------------------------------------------------------------

    def measurement_space(self) -> MeasurementSpace:
        """The Gram matrix AAᴴ and its factorisations, set up when first needed and kept."""
        if self._space is None:
            self._space = MeasurementSpace(self)
        return self._space

    def regularised_solver(self, rho: float, *, n_solves: int = 30) -> Any:
        """(AᴴA + rho I)^-1, exactly in measurement space where that is cheaper over `n_solves` solves, else CG."""
        return regularised_solver(self, rho, n_solves)

    def projects_exactly(self, *, n_solves: int = 30) -> bool:
        """Whether `ellipsoid_projector` would answer with the eigendecomposition; sets nothing up."""
        return eigendecomposition_pays(self, n_solves)

    def ellipsoid_projector(self, *, n_solves: int = 30) -> Any:
        """Projection on {x : ‖Ax - y‖ <= epsilon}, exact where that is cheaper over `n_solves` projections."""
        return ellipsoid_projector(self, n_solves)

    # -- facts ----------------------------------------------------------------------------------

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M exactly, from the factors."""
        if self._mean_eigenvalue is None:
            power = self.spectrum.abs().to(torch.float64) ** 2
            multiplicity = self.symmetry.order / self.symmetry.voxel_orbits.stabiliser.to(torch.float64)
            total = 0.0
            for part, g_t, g_r in self._orbit_factors(exact=False):
                t, r = (torch.view_as_real(g).square().sum(-1).to(torch.float64) for g in (g_t, g_r))
                if self.channels is None:
                    energy = t.sum(1) * r.sum(1)
                else:
                    energy = torch.stack(
                        [(a[self.channels.tx] * b[self.channels.rx]).sum(0) for a, b in zip(t, r, strict=True)]
                    )
                total += float(power @ energy @ multiplicity[part])
            self._mean_eigenvalue = total / self.n_measurements
        return self._mean_eigenvalue

    def with_amplitude(self, amplitude: str) -> NearFieldMimo:
        """The same scan and grid with another amplitude model and a flat spectrum, as migration takes them."""
        return NearFieldMimo(
            self.tx_m,
            self.rx_m,
            self.frequencies_hz,
            self.grid,
            amplitude=amplitude,
            phase_convention=self.phase_convention,
            propagation_speed=self.propagation_speed,
            dtype=self.dtype,
            memory_limit=self.memory_limit,
            device=self.device,
            channels=self.channels,
        )


def _enumerate_rows(factors: list[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    first = 0
    for factor in factors:
        yield slice(first, first + factor.shape[1]), factor
        first += factor.shape[1]


def _symmetrised(factor: Tensor, rows: list[Tensor], characters: Tensor) -> list[Tensor]:
    """G^a[t', f] = (1/g) Σ_γ χ_a(γ) G[γ t', f] per character a."""
    if len(rows) == 1:
        return [factor]
    result = []
    for character, index in zip(characters.tolist(), rows, strict=True):
        total = torch.zeros_like(factor[:, : index.shape[1]])
        for sign, moved in zip(character, index, strict=True):
            total.add_(factor[:, moved], alpha=sign / len(rows))
        result.append(total)
    return result


def _positions(name: str, value: Any) -> Tensor:
    positions = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value).to(torch.float64)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise GeometryError(f"{name}: expected (n, 3), columns x, y, z in metres, got {tuple(positions.shape)}")
    if len(positions) == 0:
        raise GeometryError(f"{name}: the aperture is empty; at least one antenna is needed")
    if not bool(torch.isfinite(positions).all()):
        raise GeometryError(f"{name}: expected finite metres, got NaN or infinity")
    return positions


def _frequencies(value: Any) -> Tensor:
    frequencies = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value).to(torch.float64)
    if frequencies.ndim != 1 or len(frequencies) == 0:
        raise GeometryError(f"frequencies_hz: expected (n_freq,) with n_freq >= 1, got {tuple(frequencies.shape)}")
    if not bool(torch.isfinite(frequencies).all()) or float(frequencies.min()) <= 0:
        raise GeometryError("frequencies_hz: expected finite values > 0 Hz")
    if len(frequencies) > 1 and float(torch.diff(frequencies).min()) <= 0:
        raise GeometryError("frequencies_hz: expected strictly increasing values; sort the data and drop duplicates")
    return frequencies


def _spectrum(value: Any, n_freq: int, dtype: torch.dtype) -> Tensor:
    if value is None:
        return torch.ones(n_freq, dtype=dtype)
    spectrum = torch.as_tensor(value)
    if tuple(spectrum.shape) != (n_freq,):
        raise GeometryError(f"spectrum: expected ({n_freq},), one value per frequency, got {tuple(spectrum.shape)}")
    return spectrum.to(dtype)


def _choose(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise GeometryError(f"NearFieldMimo {name}: expected one of {', '.join(known)}, got {value!r}")
