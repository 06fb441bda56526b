"""What a file of MRI samples says: data ready for the solvers, coils, masks, voxels, and sentences on what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.measurement import Measurement, Scale
from imaging.calibration.coils import compression_matrix, whitening_matrix
from imaging.operators.base import LinearOperator
from pipelines.methods import Setting
from pipelines.mri_config import CoilsTable, MriConfig
from pipelines.mri_operator import cartesian_operator, density, estimate_maps, trajectory_operator
from pipelines.radar import MeasurementError

#: Pixels of a file without field of view, metres.
ASSUMED_PIXEL_M = 1e-3
#: Samples of a fully sampled centre that calibration needs along every encoded axis.
LEAST_CENTRE = 6


@dataclass(frozen=True)
class Scan:
    """A measurement as the methods take it.

    Attributes:
        A: of movies: (frame, [set,] z, y, x) -> (frame, coil, ...), with sensitivities, of whitened data.
        y: (1, *A.out_shape), 0 where nothing was measured.
        weights: area of k-space that each sample stands for, (frame, 1, readout, sample); None on a raster.
        n_frames, times: frames.
        together: axes of y along which samples tell of each other: coils, and along a readout.
        image_axes: of the voxels that are stored.
        stored: from (1, frame, [set,] z, y, x) to what is stored: sets combined, cut to recon_matrix.
        notes: sentences on what was assumed or done.
    """

    A: LinearOperator
    y: Tensor
    weights: Tensor | None
    n_frames: int
    together: tuple[int, ...]
    times: Scale | None
    image_axes: Mapping[str, Scale]
    stored: Callable[[Tensor], Tensor]
    notes: list[str]

    @property
    def moves(self) -> bool:
        return self.n_frames > 1


@dataclass
class Samples:
    """K-space of one file, prepared step by step.

    Attributes:
        data: complex (frame, coil, z or kz, ky, kx), or (frame, coil, readout, sample).
        mask: bool (frame, kz, ky, kx), or (frame, readout, sample); True where measured.
        by_slice: the third axis is slices, not kz.
        coils: of the file, those that are left.
        notes: as of the scan.
    """

    data: Tensor
    mask: Tensor
    by_slice: bool
    coils: list[int]
    notes: list[str]


def samples_of(m: Measurement, dtype: torch.dtype) -> Samples:
    """Samples with frames first, unmeasured ones 0, coils without a signal left out.

    Raises:
        MeasurementError: samples that are not finite, nothing measured.
    """
    notes: list[str] = []
    data = np.asarray(m.data)
    coil = m.axes.index("coil")
    by_slice = m.axes[0] == "slice"
    present = (data != 0).any(axis=coil)
    names = tuple(name for name in m.axes if name != "coil")
    if m.mask is None:
        measured = _reach_of_zeros(present, names, notes)
    else:
        over = np.broadcast_to(m.broadcast(m.mask, m.mask_axes), data.shape) != 0
        measured = over.any(axis=coil)
        if not measured.any():
            raise MeasurementError("/measurement/mask: expected measured samples, found none; the mask is all zero")
        outside = int((present & ~measured).sum())
        if outside:
            notes.append(f"data: {outside} samples outside of the mask are not used")
    data = np.where(np.expand_dims(measured, coil), data, 0)
    bad = ~np.isfinite(data)
    if bad.any():
        first = [int(i) for i in np.argwhere(bad)[0]]
        raise MeasurementError(
            f"/measurement/data: expected finite samples, found {int(bad.sum())} NaN or Inf of {data.size}, the first "
            f"at {first} ({', '.join(m.axes)}); mask them in /measurement/mask or measure again"
        )
    if not data.any():
        raise MeasurementError("/measurement/data: expected a signal, found only zeros where the mask says measured")
    values, seen = torch.as_tensor(data), torch.as_tensor(measured.copy())
    if by_slice:  # (slice, coil, ky, kx): one frame
        values, seen = values.transpose(0, 1)[None], seen[None]
    values = values.to(dtype)
    silent = [c for c in range(values.shape[1]) if not bool(values[:, c].any())]
    if silent:
        notes.append(f"data: no signal in coil {', '.join(map(str, silent))}, left out")
    coils = [c for c in range(values.shape[1]) if c not in silent]
    return Samples(values[:, coils].contiguous(), seen, by_slice, coils, notes)


def _reach_of_zeros(present: np.ndarray, names: tuple[str, ...], notes: list[str]) -> np.ndarray:
    """Without a mask: lines and points that are zero in all coils were not measured."""
    if bool(present.all()) or "readout" in names:
        return np.ones_like(present)
    share = float(present.mean())
    if share > 1 - 1e-3:  # a zero here and there is a sample
        return np.ones_like(present)
    notes.append(f"mask: none in the file; the {1 - share:.1%} of samples that are zero in all coils were not measured")
    return present


# -- the whole ----------------------------------------------------------------------------------------------


def read_scan(m: Measurement, config: MriConfig, setting: Setting, *, combine: bool = True, auto: str = "none") -> Scan:
    """The scan with its operator, whitened.

    Args:
        m, config, setting: as methods get them.
        auto: what `trajectory.weights` means where it is auto.
        combine: with sensitivities; else the operator takes the images of all coils, in place of sets.

    Raises:
        MeasurementError: samples, coils, trajectory or voxels that do not fit each other.
    """
    dtype = torch.complex128 if config.precision == "double" else torch.complex64
    samples = samples_of(m, dtype)
    notes = samples.notes
    voxels = voxels_of(m, samples, notes)
    points = _trajectory(m, samples)
    maps = _file_maps(m, samples, voxels, config.coils, notes) if combine else None
    for mixing in (_whitening, _compression):
        matrix = mixing(m, samples, config.coils, notes)
        if matrix is not None:
            samples.data = torch.einsum("dc,fc...->fd...", matrix, samples.data)
            maps = None if maps is None else torch.einsum("dc,sc...->sd...", matrix, maps)
    n_coils = samples.data.shape[1]
    if n_coils == 1 and maps is None:
        maps = maps_of_one(voxels, dtype)
    elif combine and maps is None:
        maps = _calibrated(m, samples, voxels, config.coils, points)
    area, root = None, None
    if points is not None:
        measured = samples.mask.to(torch.float32)
        area = density(points, voxels) * measured
        root = None if bool(samples.mask.all()) else measured
        chosen = config.trajectory.weights
        if (auto if chosen == "auto" else chosen) == "density":
            root = area.sqrt()
            notes.append("trajectory: samples weighted by the area of k-space that each stands for")
    if combine:
        assert maps is not None
        A = _operator(m, samples, voxels, points, maps, root)
    else:
        A = CoilImages(_operator(m, samples, voxels, points, maps_of_one(voxels, dtype), root), n_coils)
    A, y = A.to(setting.device), samples.data[None].to(setting.device)
    if root is not None:
        y = y * root[:, None].to(setting.device)
    n_frames = samples.data.shape[0]
    weights = None if area is None else area[:, None].to(setting.device)
    return Scan(
        A=A,
        y=y,
        weights=weights,
        n_frames=n_frames,
        together=(1, 4) if points is None else (1, 3),
        times=m.scales.get("frame"),
        image_axes=voxels.axes,
        stored=_storing(voxels, has_sets=len(A.in_shape) == 5),
        notes=notes,
    )


def check_centre(samples: Samples, *, centered: bool) -> None:
    """A fully sampled centre, of all frames together, that sensitivities can be estimated from.

    Raises:
        MeasurementError: fewer than `LEAST_CENTRE` samples of it along an encoded axis.
    """
    seen = samples.mask.any(0)
    seen = seen if centered else torch.fft.fftshift(seen, dim=(-2, -1) if samples.by_slice else (-3, -2, -1))
    seen = seen.all(0, keepdim=True) if samples.by_slice else seen
    names, sizes = ("kz", "ky", "kx"), [1, 1, 1]
    growing = [n > 1 for n in seen.shape]
    while any(growing):
        for i in range(3):
            if not growing[i]:
                continue
            wider = [k + (axis == i) for axis, k in enumerate(sizes)]
            block = seen[
                tuple(slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(seen.shape, wider, strict=True))
            ]
            growing[i] = bool(block.all()) and wider[i] <= seen.shape[i]
            sizes = wider if growing[i] else sizes
    for name, size, n in zip(names, sizes, seen.shape, strict=True):
        if n > 1 and size < min(LEAST_CENTRE, n):
            raise MeasurementError(
                f"/measurement/mask: expected a fully sampled centre of {LEAST_CENTRE} samples or more along {name}, "
                f"to estimate the coils' sensitivities from, found {size}; write /calibration/coil_sensitivities, or "
                "check that the zero frequency is where fft_centered says"
            )


def maps_of_one(voxels: Voxels, dtype: torch.dtype) -> Tensor:
    """One coil that is equally sensitive everywhere: (1, 1, z, y, x)."""
    return torch.ones(1, 1, *voxels.shape, dtype=dtype)


def _operator(
    m: Measurement, samples: Samples, voxels: Voxels, points: Tensor | None, maps: Tensor, root: Tensor | None
) -> LinearOperator:
    if points is not None:
        return trajectory_operator(maps, points, voxels, root)
    return cartesian_operator(maps, samples.mask, centered=_centered(m), by_slice=samples.by_slice)


def _centered(m: Measurement) -> bool:
    return bool(m.acquisition.get("fft_centered", True))


def _calibrated(m: Measurement, samples: Samples, voxels: Voxels, table: CoilsTable, points: Tensor | None) -> Tensor:
    if points is None:
        check_centre(samples, centered=_centered(m))
    return estimate_maps(samples, voxels, table, points, samples.notes, centered=_centered(m))


def operator_of(m: Measurement) -> LinearOperator:
    """The forward model of a measurement with coil maps, not whitened: (frame, z, y, x) -> (frame, coil, ...)."""
    config = MriConfig(coils=CoilsTable(whiten=False, maps="file"))
    return read_scan(m, config, Setting(device=torch.device("cpu"))).A


def estimated_maps(m: Measurement, table: CoilsTable | None = None) -> np.ndarray:
    """Coil maps by calibration: complex64 (coil, z, y, x)."""
    samples = samples_of(m, torch.complex64)
    voxels = voxels_of(m, samples, samples.notes)
    maps = _calibrated(m, samples, voxels, table or CoilsTable(), _trajectory(m, samples))
    return np.asarray(maps[0].numpy())


# -- coils --------------------------------------------------------------------------------------------------


def _file_maps(m: Measurement, samples: Samples, voxels: Voxels, table: CoilsTable, notes: list[str]) -> Tensor | None:
    """(1, coil, z, y, x) of the coils that have a signal; None where they are to be estimated."""
    given = m.calibration.get("coil_sensitivities")
    if given is None:
        if table.maps == "file":
            raise MeasurementError(
                "/calibration/coil_sensitivities: expected maps, since coils.maps is file, found none; set coils.maps "
                "to espirit"
            )
        return None
    if table.maps not in ("auto", "file"):
        return None
    maps = torch.as_tensor(np.asarray(given)).to(samples.data.dtype)
    maps = maps.transpose(0, 1) if samples.by_slice else maps
    if len(maps) != m.n("coil"):
        raise MeasurementError(
            f"/calibration/coil_sensitivities: expected {m.n('coil')} coils as the data have, found {len(maps)}"
        )
    if tuple(maps.shape[1:]) != voxels.shape:
        wanted, found = (" x ".join(map(str, s)) for s in (voxels.shape, maps.shape[1:]))
        raise MeasurementError(
            f"/calibration/coil_sensitivities: expected maps of {wanted} voxels (z, y, x), found {found}; resample "
            "them, or set coils.maps to espirit"
        )
    notes.append("coils: sensitivities from the file")
    return maps[samples.coils][None].contiguous()


def _whitening(m: Measurement, samples: Samples, table: CoilsTable, notes: list[str]) -> Tensor | None:
    """Matrix (coil, coil) after which the noise of all coils is alike and uncorrelated; the mean variance stays."""
    covariance = m.calibration.get("noise_covariance")
    if covariance is None or not table.whiten:
        return None
    full = torch.as_tensor(np.asarray(covariance)).to(torch.complex128)[samples.coils][:, samples.coils]
    try:
        matrix = whitening_matrix(full)
    except ValueError:
        raise MeasurementError(
            "/calibration/noise_covariance: expected a positive definite matrix, found one that is not; measure the "
            "noise of every coil, or set coils.whiten to false"
        ) from None
    notes.append("coils: whitened by the file's noise covariance")
    return matrix.to(samples.data.dtype)


def _compression(m: Measurement, samples: Samples, table: CoilsTable, notes: list[str]) -> Tensor | None:
    n_coils = samples.data.shape[1]
    if table.compress is None or table.compress >= n_coils:
        return None
    matrix, kept = compression_matrix(samples.data, table.compress)
    notes.append(f"coils: {n_coils} compressed to {table.compress}, which hold {kept:.2%} of the energy")
    return matrix


def _trajectory(m: Measurement, samples: Samples) -> Tensor | None:
    """(frame, readout, sample, D), 1/m, columns ky, kx or kz, ky, kx; None on a raster."""
    if "readout" not in m.axes:
        return None
    points = torch.as_tensor(np.asarray(m.acquisition["trajectory"], dtype=np.float32))
    if points.ndim == 3:
        points = points.expand(len(samples.data), *points.shape)
    if not bool(torch.isfinite(points).all()):
        raise MeasurementError("/acquisition/trajectory: expected finite numbers, found NaN or Inf; leave them out")
    return points


class CoilImages(LinearOperator):
    """Every coil by itself: images of all coils (frame, coil, z, y, x) -> (frame, coil, ...).

    Args:
        one: the operator of one uniform coil, (frame, z, y, x) -> (frame, 1, ...).
        n_coils: coils.
    """

    def __init__(self, one: LinearOperator, n_coils: int) -> None:
        frames, *spatial = one.in_shape
        super().__init__((frames, n_coils, *spatial), (frames, n_coils, *one.out_shape[2:]), dtype=one.dtype)
        self.one = one

    def _forward(self, x: Tensor) -> Tensor:
        y = self.one._forward(x.transpose(1, 2).flatten(0, 1).contiguous())
        return y.reshape(len(x), self.in_shape[1], *self.one.out_shape).transpose(1, 2)[:, :, :, 0].contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        x = self.one._adjoint(y.transpose(1, 2).flatten(0, 1).unsqueeze(2).contiguous())
        return x.reshape(len(y), self.in_shape[1], *self.one.in_shape).transpose(1, 2).contiguous()


# -- voxels -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voxels:
    """Where the image lies.

    Attributes:
        shape: of what is reconstructed, z, y, x.
        spacing_m: z, y, x.
        shift_m: of the voxels n // 2 from the origin, z, y, x; of trajectories, whose /grid may lie anywhere.
        axes: of what is stored.
        kept: of the reconstructed voxels, what is stored.
    """

    shape: tuple[int, int, int]
    spacing_m: tuple[float, float, float]
    shift_m: tuple[float, float, float]
    axes: Mapping[str, Scale]
    kept: tuple[slice, slice, slice]


def voxels_of(m: Measurement, samples: Samples, notes: list[str]) -> Voxels:
    """The raster of a Cartesian scan; of others that of /grid, or of field_of_view and recon_matrix.

    Voxel n // 2 of an axis is the origin, unless /grid has another. A smaller recon_matrix cuts the edges off.

    Raises:
        MeasurementError: a trajectory without field of view, voxels that do not fit the samples.
    """
    matrix = m.geometry.get("recon_matrix")
    fov = m.geometry.get("field_of_view")
    given = None if m.grid is None else m.grid.shape
    if "readout" in m.axes:
        if given is None and (matrix is None or fov is None):
            raise MeasurementError(
                "/geometry/field_of_view, recon_matrix: expected both for a trajectory, or /grid, found neither; they "
                "set the voxels"
            )
        wanted: Any = matrix if given is None else given
        shape = tuple(int(n) for n in wanted)
    else:
        shape = tuple(int(n) for n in samples.data.shape[2:])
    spacing: tuple[float, ...]
    if m.grid is not None and given == shape:
        spacing = m.grid.spacing_m
    elif fov is not None:
        spacing = tuple(float(length) / n for length, n in zip(fov, shape, strict=True))
    else:
        spacing = (ASSUMED_PIXEL_M,) * 3
        notes.append("voxels: no field_of_view in the file; voxels of 1 mm are assumed")
    kept, axes, shift = [], {}, [0.0, 0.0, 0.0]
    for i, name in enumerate(("z", "y", "x")):
        n = shape[i]
        keep = n if matrix is None else min(n, int(matrix[i]))
        first = n // 2 - keep // 2
        kept.append(slice(first, first + keep))
        centre = -(n // 2) * spacing[i]
        if m.grid is not None and given == shape:
            shift[i] = m.grid.origin_m[i] - centre if "readout" in m.axes else 0.0
            centre = m.grid.origin_m[i]
        values = centre + spacing[i] * np.arange(first, first + keep)
        axes[name] = Scale(values=np.asarray(values, np.float64), units="m", long_name=name)
    if any(k.stop - k.start < n for k, n in zip(kept, shape, strict=True)):
        notes.append(f"voxels: cut to the {' x '.join(str(k.stop - k.start) for k in kept)} of recon_matrix")
    return Voxels(
        shape=(shape[0], shape[1], shape[2]),
        spacing_m=(spacing[0], spacing[1], spacing[2]),
        shift_m=(shift[0], shift[1], shift[2]),
        axes=axes,
        kept=(kept[0], kept[1], kept[2]),
    )


def _storing(voxels: Voxels, *, has_sets: bool) -> Callable[[Tensor], Tensor]:
    """From (1, frame, [set,] z, y, x) to (1, frame, z, y, x) of the stored voxels.

    Sets of maps are combined by the root sum of squares, with the phase of the first.
    """

    def stored(x: Tensor) -> Tensor:
        if has_sets:
            first = x[:, :, 0]
            size = x.abs().square().sum(2).sqrt()
            x = torch.polar(size, first.angle())
        return x[(..., *voxels.kept)]

    return stored
