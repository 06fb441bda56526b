"""What a file of MRI samples must agree on beyond the tables: trajectory and voxels, maps, mask and samples."""

from __future__ import annotations

import numpy as np

from data.inspector import Inspector
from data.measurement import Array, NamedArray, broadcast_by_name
from data.measurement_parts import MeasurementParts

#: A trajectory may leave the Nyquist box by this share of it: rounding, and ramps at the ends of readouts.
BEYOND = 0.05
#: A trajectory that reaches less than this share of the box is likely in another unit.
SHORT = 0.02
#: Share of the samples that a mask calls measured and that are zero in all coils, above which the two disagree.
DISAGREE = 0.01
#: Rows at one edge of ky that were not measured, as a share of all, from which on the scan is called half-Fourier.
ONE_SIDED = 0.05


def check_geometry(inspector: Inspector, parts: MeasurementParts) -> None:
    """Columns and reach of a trajectory; the size of coil maps."""
    order, n_dims = parts.acquisition.get("order"), parts.sizes.get("n_dims")
    if order is not None and n_dims is not None and len(order) != n_dims:
        inspector.error(
            "BC304",
            "/acquisition/trajectory",
            expected=f"a last dimension of {len(order)}, as its order [{', '.join(order)}] says",
            found=str(n_dims),
            fix="name every column of the trajectory in `order`",
        )
        return
    points = parts.acquisition.get("trajectory")
    spacing = voxel_spacing(parts)
    if points is not None and order is not None and spacing is not None:
        _check_reach(inspector, np.asarray(points), order, spacing)
    maps = parts.calibration.get("coil_sensitivities")
    if maps is not None and parts.layout is not None and "kx" in parts.layout.axes:
        wanted = tuple(parts.sizes[name] for name in parts.layout.axes if name in ("kz", "ky", "kx"))
        if maps.shape[-len(wanted) :] != wanted:
            inspector.error(
                "BC304",
                "/calibration/coil_sensitivities",
                expected=f"maps of {_times(wanted)} voxels, as many as samples of k-space",
                found=_times(maps.shape[-len(wanted) :]),
                fix="resample the maps, or leave them out to have them estimated",
            )


def voxel_spacing(parts: MeasurementParts) -> tuple[float, float, float] | None:
    """Of the voxels that /grid, or field_of_view and recon_matrix, suggest: z, y, x, metres; None without."""
    if parts.grid is not None:
        return parts.grid.spacing_m
    fov, matrix = parts.geometry.get("field_of_view"), parts.geometry.get("recon_matrix")
    if fov is None or matrix is None:
        return None
    z, y, x = (float(a) / int(n) for a, n in zip(fov, matrix, strict=True))
    return z, y, x


def _check_reach(inspector: Inspector, points: Array, order: list[str], spacing: tuple[float, float, float]) -> None:
    reach = np.abs(points).reshape(-1, points.shape[-1]).max(axis=0) if points.size else np.zeros(len(order))
    box = [1 / (2 * spacing["zyx".index(name[1])]) for name in order]
    share = max((float(r) / b for r, b in zip(reach, box, strict=True)), default=0.0)
    worst = max(range(len(order)), key=lambda i: float(reach[i]) / box[i])
    found = f"{float(reach[worst]):.4g} 1/m along {order[worst]}"
    expected = f"|k| up to the Nyquist box of the voxels, {box[worst]:.4g} 1/m along {order[worst]}"
    if share > 1 + BEYOND:
        inspector.error(
            "BC505",
            "/acquisition/trajectory",
            expected=expected,
            found=found,
            fix="write 1/m, not rad/m or 1/mm" if share > 2 else "make the voxels of /grid finer, or cut the readouts",
        )
    elif share < SHORT:
        inspector.error(
            "BC505",
            "/acquisition/trajectory",
            expected=expected,
            found=f"{found}, {share:.2g} of it",
            fix="write 1/m: cycles per pixel are divided by the pixel's size, 1/mm is multiplied by 1000",
        )


def check_samples(inspector: Inspector, parts: MeasurementParts, data: Array) -> None:
    """Coils without signal, a mask that disagrees with the samples, k-space measured on one side only."""
    assert parts.layout is not None
    axes = parts.layout.axes
    coil = axes.index("coil")
    silent = [c for c in range(data.shape[coil]) if not data.take(c, axis=coil).any()]
    if silent:
        inspector.warning(
            "BC905",
            "/measurement/data",
            expected="a signal in every coil",
            found=f"only zeros in coil{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}",
            fix="nothing to do; it is left out",
        )
    present = (data != 0).any(axis=coil)
    names = tuple(name for name in axes if name != "coil")
    if parts.mask is not None and not _agrees(inspector, parts.mask, present, names):
        return
    measured = present if parts.mask is None else present & _over(parts.mask, names, present.shape)
    if "ky" in names:
        _check_one_sided(inspector, measured.any(axis=tuple(i for i, n in enumerate(names) if n != "ky")))


def _over(mask: NamedArray, names: tuple[str, ...], shape: tuple[int, ...]) -> Array:
    """The mask over the samples of all coils: bool of `shape`."""
    values, axes = mask.values, mask.axes
    if "coil" in axes:
        values = np.asarray(values.any(axis=axes.index("coil")))
        axes = tuple(name for name in axes if name != "coil")
    return np.broadcast_to(broadcast_by_name(values, axes, names), shape) != 0


def _agrees(inspector: Inspector, mask: NamedArray, present: Array, names: tuple[str, ...]) -> bool:
    measured = _over(mask, names, present.shape)
    claimed, empty = int(measured.sum()), int((measured & ~present).sum())
    if empty <= DISAGREE * claimed:
        return True
    outside = int((present & ~measured).sum())
    inspector.error(
        "BC505",
        "/measurement/mask",
        expected="1 where samples were measured",
        found=f"1 for {empty} of {claimed} that are zero in all coils, and 0 for {outside} that are not",
        fix="shift or transpose the mask as k-space is (fft_centered, axes), or leave it out if zeros are not measured",
    )
    return False


def _check_one_sided(inspector: Inspector, rows: Array) -> None:
    """rows: whether anything was measured, bool (ky,)."""
    n = len(rows)
    seen = np.flatnonzero(rows)
    if not len(seen):
        return
    before, after = int(seen[0]), n - 1 - int(seen[-1])
    inside = int(np.diff(seen).max(initial=1)) - 1  # rows that a lattice leaves out
    if max(before, after) > inside and abs(before - after) > max(1, ONE_SIDED * n):
        where = f"0 to {before - 1}" if before > after else f"{n - after} to {n - 1}"
        inspector.warning(
            "BC905",
            "/measurement/data",
            expected="both halves of k-space along ky",
            found=f"rows {where} of {n} not measured (half-Fourier)",
            fix="nothing to do; they are inferred from coils and prior, not by conjugate symmetry",
        )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
