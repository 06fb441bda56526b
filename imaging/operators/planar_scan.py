"""Monostatic raster scans as convolutions: the Born model by fast Fourier transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from imaging.errors import GeometryError, MemoryLimitError
from imaging.operators.base import LinearOperator
from imaging.operators.grid import Grid
from imaging.operators.near_field import BORN, DELAY, SPEED_OF_LIGHT, NearFieldMimo

TOLERANCE = 1e-4  # of the scan step; 1e-7 m at a millimetre, far below any wavelength


@dataclass(frozen=True)
class Raster:
    """Positions on a regular x-y raster at one height.

    Args:
        origin_m, step_m: first point and step, (x, y), metres. z_m: the common height.
        shape: points per axis (ny, nx).
        row, column: int64 (n,), where each position lies.
    """

    origin_m: tuple[float, float]
    step_m: tuple[float, float]
    z_m: float
    shape: tuple[int, int]
    row: Tensor
    column: Tensor


def find_raster(positions_m: Tensor) -> Raster | None:
    """The raster that holds all positions (n, 3), each point at most once; None when there is none."""
    p = positions_m.to(torch.float64)
    if len(p) < 4 or float(p[:, 2].max() - p[:, 2].min()) > 1e-9:
        return None
    origin, step, index = [], [], []
    for column in (p[:, 0], p[:, 1]):
        values = torch.unique(column)
        gaps = torch.diff(values)
        gaps = gaps[gaps > 1e-9]
        if len(gaps) == 0:
            return None
        smallest = float(gaps.min())
        count = round(float(values[-1] - values[0]) / smallest)
        exact = float(values[-1] - values[0]) / count
        position = (column - values[0]) / exact
        if bool((position - position.round()).abs().max() > TOLERANCE):
            return None
        origin.append(float(values[0]))
        step.append(exact)
        index.append(position.round().to(torch.int64))
    shape = (int(index[1].max()) + 1, int(index[0].max()) + 1)
    occupied = index[1] * shape[1] + index[0]
    if len(torch.unique(occupied)) != len(p) or 2 * len(p) < shape[0] * shape[1]:
        return None
    return Raster((origin[0], origin[1]), (step[0], step[1]), float(p[0, 2]), shape, index[1], index[0])


class PlanarScan(LinearOperator):
    """A transceiver moved over a plane, voxels of the scan's own pitch: y_k = Σ_z h_kz ∗ x_z, by FFT.

    The same model and result as `NearFieldMimo.from_channels` for coincident antennas, at the cost of n_z + n_freq
    transforms of the padded plane instead of n_channel · n_voxel products.

    Args:
        positions_m: (n_channel, 3) on a raster at one height (points may be missing), metres.
        frequencies_hz: (n_freq,), hertz.
        grid: voxels with the raster's pitch along x and y, any offset.
        amplitude, phase_convention, propagation_speed, dtype, device: as for NearFieldMimo.
        memory_limit: bytes the transformed kernels may take.

    x: (*batch, nz, ny, nx). y: (*batch, n_channel, n_freq).

    Raises:
        GeometryError: positions that are no raster, or another pitch than the grid's.
        MemoryLimitError: the kernels of one frequency exceed the limit.
    """

    def __init__(
        self,
        positions_m: Tensor,
        frequencies_hz: Tensor,
        grid: Grid,
        *,
        amplitude: str = BORN,
        phase_convention: str = DELAY,
        spectrum: Any = None,
        propagation_speed: float = SPEED_OF_LIGHT,
        dtype: torch.dtype = torch.complex64,
        memory_limit: int = 2 * 2**30,
        device: torch.device | str | None = None,
    ) -> None:
        positions = torch.as_tensor(positions_m, dtype=torch.float64)
        raster = find_raster(positions)
        if raster is None:
            raise GeometryError("PlanarScan positions_m: expected a regular x-y raster at one height, each point once")
        if not same_pitch(raster, grid):
            raise GeometryError(
                f"PlanarScan grid: expected the scan's pitch {raster.step_m[0]:g} m along x and {raster.step_m[1]:g} m "
                f"along y, got {grid.spacing_m[2]:g} and {grid.spacing_m[1]:g} m"
            )
        frequencies = torch.as_tensor(frequencies_hz, dtype=torch.float64)
        super().__init__(
            grid.shape,
            (len(positions), len(frequencies)),
            in_axes=("z", "y", "x"),
            out_axes=("channel", "frequency"),
            dtype=dtype,
        )
        self.grid, self.raster = grid, raster
        self.amplitude, self.phase_convention = amplitude, phase_convention
        self.propagation_speed, self.memory_limit = propagation_speed, memory_limit
        self._mean_eigenvalue: float | None = None
        self._options = {
            "phase_convention": phase_convention,
            "spectrum": spectrum,
            "propagation_speed": propagation_speed,
            "dtype": dtype,
            "memory_limit": memory_limit,
            "device": device,
        }
        nz, ny, nx = grid.shape
        rows, columns = raster.shape
        self._padded = (int(next_fast_len(rows + ny - 1)), int(next_fast_len(columns + nx - 1)))
        kernel_bytes = len(frequencies) * nz * self._padded[0] * self._padded[1] * dtype.itemsize
        if kernel_bytes > memory_limit:
            raise MemoryLimitError(
                f"expected a memory limit of at least {kernel_bytes} bytes for the kernels, found {memory_limit}; "
                "raise it"
            )
        self.register_buffer("positions_m", positions.to(device))
        self.register_buffer("frequencies_hz", frequencies.to(device))
        self.register_buffer("_row", raster.row.to(device))
        self.register_buffer("_column", raster.column.to(device))
        self.register_buffer("_kernel", self._transformed_kernel())

    positions_m: Tensor
    frequencies_hz: Tensor
    _row: Tensor
    _column: Tensor
    _kernel: Tensor

    @property
    def tx_m(self) -> Tensor:
        return self.positions_m

    @property
    def rx_m(self) -> Tensor:
        return self.positions_m

    @property
    def n_measurements(self) -> int:
        return self.out_shape[0] * self.out_shape[1]

    def _transformed_kernel(self) -> Tensor:
        """FFT of h_kz over the plane, (n_freq, nz, *padded): the response to a voxel at every scan offset."""
        nz, ny, nx = self.grid.shape
        rows, columns = self.raster.shape
        (oz, oy, ox), (dz, dy, dx) = self.grid.origin_m, self.grid.spacing_m
        # offsets scan - voxel run from -(n_voxel - 1) to n_scan - 1; seen from a transceiver at the origin, the voxel
        # lies at minus the offset, so the axes are reversed on the way in
        first_x = self.raster.origin_m[0] - ox - (nx - 1) * dx
        first_y = self.raster.origin_m[1] - oy - (ny - 1) * dy
        kernel = torch.zeros(*(len(self.frequencies_hz), nz, *self._padded), dtype=self.dtype, device=self.device)
        y = -(first_y + dy * torch.arange(rows + ny - 1, dtype=torch.float64, device=self.device))
        x = -(first_x + dx * torch.arange(columns + nx - 1, dtype=torch.float64, device=self.device))
        outside = Grid((oz, float(y.max()) + 2 * dy, float(x.max()) + 2 * dx), (dz, dy, dx), (nz, 1, 1))
        transceiver = torch.tensor([[0.0, 0.0, self.raster.z_m]], dtype=torch.float64, device=self.device)
        probe = NearFieldMimo(
            transceiver, transceiver, self.frequencies_hz, outside, amplitude=self.amplitude, **self._options
        )
        for i in range(nz):
            depth = torch.full((len(y), len(x)), oz + i * dz, dtype=torch.float64, device=self.device)
            points = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x)), depth), dim=-1).reshape(-1, 3)
            g_t, g_r = probe.factors(points)
            h = (g_t * g_r)[:, 0] * probe.spectrum[:, None]
            kernel[:, i, : len(y), : len(x)] = h.reshape(-1, len(y), len(x))
        for k in range(len(kernel)):
            kernel[k] = torch.fft.fft2(kernel[k])
        return kernel

    def _window(self) -> tuple[slice, slice]:
        """Where the scan lies in the full convolution."""
        _, ny, nx = self.grid.shape
        rows, columns = self.raster.shape
        return slice(ny - 1, ny - 1 + rows), slice(nx - 1, nx - 1 + columns)

    def _forward(self, x: Tensor) -> Tensor:
        y = x.new_empty(len(x), *self.out_shape)
        rows, columns = self._window()
        for b in range(len(x)):
            spectrum = torch.fft.fft2(x[b], s=self._padded)
            for k in range(self.out_shape[1]):
                field = torch.fft.ifft2((self._kernel[k] * spectrum).sum(0))[rows, columns]
                y[b, :, k] = field[self._row, self._column]
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), *self.in_shape)
        _, ny, nx = self.grid.shape
        rows, columns = self._window()
        for b in range(len(y)):
            total = y.new_zeros(self.grid.shape[0], *self._padded)
            plane = y.new_zeros(*self._padded)
            for k in range(self.out_shape[1]):
                plane.zero_()
                plane[rows, columns][self._row, self._column] = y[b, :, k]
                # conj(Σ K conj(F)) = Σ conj(K) F without conjugating the stored kernels
                total.addcmul_(self._kernel[k], torch.fft.fft2(plane).conj().resolve_conj())
            x[b] = torch.fft.ifft2(total.conj().resolve_conj())[:, :ny, :nx]
        return x

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M exactly: |h|² convolved with a plane of ones, summed over the scan."""
        if self._mean_eigenvalue is None:
            ones = torch.zeros(self._padded, dtype=torch.float64, device=self.device)
            ones[: self.grid.shape[1], : self.grid.shape[2]] = 1
            covered = torch.fft.fft2(ones)
            rows, columns = self._window()
            total = 0.0
            for kernel in self._kernel:
                energy = (torch.fft.ifft2(kernel).abs() ** 2).sum(0, dtype=torch.float64)
                field = torch.fft.ifft2(torch.fft.fft2(energy) * covered).real[rows, columns]
                total += float(field[self._row, self._column].sum())
            self._mean_eigenvalue = total / self.n_measurements
        return self._mean_eigenvalue

    def with_amplitude(self, amplitude: str) -> PlanarScan:
        """The same scan and grid with another amplitude model and a flat spectrum, as migration takes them."""
        options = {**self._options, "spectrum": None}
        return PlanarScan(self.positions_m, self.frequencies_hz, self.grid, amplitude=amplitude, **options)


def same_pitch(raster: Raster, grid: Grid) -> bool:
    """Whether the grid's x and y spacing equal the raster's steps (accumulated error below 1e-4 of a step)."""
    return all(
        abs(spacing - step) * max(n, 1) <= TOLERANCE * step
        for spacing, step, n in zip(
            (grid.spacing_m[2], grid.spacing_m[1]), raster.step_m, (grid.shape[2], grid.shape[1]), strict=True
        )
    )


def near_field_operator(
    tx_m: Tensor,
    rx_m: Tensor,
    frequencies_hz: Tensor,
    grid: Grid,
    *,
    channel_tx: Tensor | None = None,
    channel_rx: Tensor | None = None,
    **options: Any,
) -> NearFieldMimo | PlanarScan:
    """The fastest exact operator for a scan: FFT-based for raster scans, factored otherwise.

    Args:
        tx_m, rx_m: (n, 3) antenna positions, metres.
        channel_tx, channel_rx: int (n_channel,), which pairs were measured; None for a full array.
        frequencies_hz, grid, options: as for NearFieldMimo.
    """
    if channel_tx is None or channel_rx is None:
        return NearFieldMimo(tx_m, rx_m, frequencies_hz, grid, **options)
    tx = torch.as_tensor(tx_m, dtype=torch.float64)[torch.as_tensor(channel_tx, dtype=torch.int64)]
    rx = torch.as_tensor(rx_m, dtype=torch.float64)[torch.as_tensor(channel_rx, dtype=torch.int64)]
    if bool((tx - rx).abs().max() == 0):
        raster = find_raster(tx)
        if raster is not None and same_pitch(raster, grid) and not bool(grid.contains_m(tx).any()):
            return PlanarScan(tx, frequencies_hz, grid, **options)
    return NearFieldMimo.from_channels(tx, rx, frequencies_hz, grid, **options)
