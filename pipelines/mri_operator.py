"""MRI operators and calibration as `pipelines.mri_scan` asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imaging.calibration.coils import WIDEST, calibration_region, centre_of, centre_of_trajectory, coarse_images
from imaging.calibration.espirit import espirit
from imaging.calibration.walsh import walsh
from imaging.errors import ShapeError
from imaging.operators import CartesianMri, NonCartesianMri, density_compensation
from pipelines.mri_config import CoilsTable
from pipelines.radar import MeasurementError

if TYPE_CHECKING:
    from pipelines.mri_scan import Samples, Voxels


def cartesian_operator(maps: Tensor, mask: Tensor, *, centered: bool, by_slice: bool) -> CartesianMri:
    """Movies (frame, [set,] z, y, x) to samples (frame, coil, kz, ky, kx) of a raster.

    Args:
        maps: (set, coil, z, y, x).
        mask: bool (frame, kz, ky, kx).
        centered: whether zero frequency and origin are in the middle.
        by_slice: the first spatial axis is slices and not transformed.
    """
    return CartesianMri(maps, mask, centered=centered, by_slice=by_slice)


def trajectory_operator(maps: Tensor, points: Tensor, voxels: Voxels, weights: Tensor | None = None) -> NonCartesianMri:
    """Movies (frame, [set,] z, y, x) to samples (frame, coil, readout, sample) along a trajectory.

    Args:
        maps: (set, coil, z, y, x).
        points: (frame, readout, sample, D), 1/m, columns (kz,) ky, kx.
        voxels: their size, and where they lie.
        weights: square roots of the samples' weights, (frame, readout, sample).

    Raises:
        MeasurementError: points outside of the Nyquist box.
    """
    try:
        return NonCartesianMri(maps, points, voxels.spacing_m, shift_m=voxels.shift_m, weights=weights)
    except ValueError as error:
        raise MeasurementError(f"/acquisition/trajectory: {str(error).removeprefix('NonCartesianMri ')}") from None


def estimate_maps(
    samples: Samples, voxels: Voxels, table: CoilsTable, points: Tensor | None, notes: list[str], *, centered: bool
) -> Tensor:
    """Sensitivities by calibration, (set, coil, z, y, x); a sentence on how goes to `notes`.

    All frames together make the centre of k-space.

    Raises:
        MeasurementError: a centre that is too small.
    """
    if points is None:
        centres = _centres(samples, table, centered=centered)
    else:
        flat = samples.data.transpose(0, 1).flatten(1, 2)  # (coil, frame · readout, sample)
        measured = samples.mask.flatten(0, 1)
        width = table.calibration or WIDEST
        at = points.flatten(0, 1)[measured][None]
        try:
            centres = [
                centre_of_trajectory(flat[:, measured][:, None], at, voxels.spacing_m, voxels.shape, width=width)
            ]
        except ValueError as error:
            raise MeasurementError(f"/acquisition/trajectory: {error}") from None
    found = [_maps(c, _slice_shape(voxels, len(centres)), table) for c in centres]
    size = " x ".join(str(n) for n in centres[0].shape[1:] if n > 1)
    how = {"walsh": "adaptive combination"}.get(table.maps, f"ESPIRiT, {table.sets} set{'s' * (table.sets > 1)}")
    notes.append(f"coils: sensitivities by {how} from the {size} centre of k-space")
    return torch.cat(found, dim=2)


def _maps(centre: Tensor, shape: tuple[int, int, int], table: CoilsTable) -> Tensor:
    try:
        if table.maps == "walsh":
            return walsh(coarse_images(centre, shape))
        return espirit(centre, shape, n_sets=min(table.sets, len(centre))).maps
    except (ValueError, ShapeError) as error:
        raise MeasurementError(f"/measurement/data: {error}") from None


def _slice_shape(voxels: Voxels, n_centres: int) -> tuple[int, int, int]:
    nz, ny, nx = voxels.shape
    return nz // n_centres, ny, nx


def _centres(samples: Samples, table: CoilsTable, *, centered: bool) -> list[Tensor]:
    """Centres of k-space, (coil, kz, ky, kx): one, or one per slice."""
    count = samples.mask.sum(0)
    k = samples.data.sum(0) / count.clamp_min(1)  # a mean of the frames that measured a sample
    seen = count > 0
    if not centered:
        axes = (-2, -1) if samples.by_slice else (-3, -2, -1)
        k, seen = _to_centre(k, axes), torch.fft.fftshift(seen, dim=axes)
    widest = table.calibration or WIDEST
    if not samples.by_slice:
        return [centre_of(k, calibration_region(seen, widest))]
    widths = calibration_region(seen.all(0, keepdim=True), widest)
    return [centre_of(k[:, z : z + 1], widths) for z in range(k.shape[1])]


def _to_centre(k: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Samples with zero frequency and origin first, as if both had been in the middle."""
    image = torch.fft.ifftn(k, dim=axes)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(image, dim=axes), dim=axes), dim=axes)


def density(points: Tensor, voxels: Voxels) -> Tensor:
    """Area of k-space that each sample stands for, (frame, readout, sample)."""
    try:
        return density_compensation(points, voxels.spacing_m, voxels.shape)
    except ValueError as error:
        raise MeasurementError(f"/acquisition/trajectory: {str(error).removeprefix('density_compensation ')}") from None
