"""MATLAB files, version 5 and 7.3, with k-space in one variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.convert.mri_parts import ConvertOptions, build, needed, per_metre
from data.errors import DataFormatError
from data.measurement import Array, Measurement


def from_matlab(source: Path, options: ConvertOptions) -> Measurement:
    """The variable --key, or the only complex array, its dimensions named by --axes in MATLAB's order.

    Trajectories are real (D, ...), columns kx, ky(, kz), or complex kx + i ky; --maps is (x, y, coil) or (x, y, z,
    coil); --mask has the k-space dimensions of the data, or fewer. Centring and sign must be given.
    """
    variables = read_mat(source)
    name, data = _samples(source, variables, options.key)
    if options.axes is None:
        raise DataFormatError(
            f"{source}: {name}: expected names for its dimensions {data.shape}; give --axes, for example kx,ky,coil"
        )
    centered, sign = needed(source, options) if options.trajectory is None else (True, options.fft_sign or -1)
    if len(options.axes) != data.ndim:
        raise DataFormatError(
            f"{source}: {name}: expected {data.ndim} names in --axes for {data.shape}, got {len(options.axes)}"
        )
    trajectory, order = None, ["ky", "kx"]
    if options.trajectory is not None:
        points = _variable(source, variables, options.trajectory, "--trajectory")
        trajectory, order = _trajectory(source, points, options)
    maps = None
    if options.maps is not None:
        maps = _variable(source, variables, options.maps, "--maps")
        if maps.ndim not in (3, 4):
            raise DataFormatError(
                f"{source}: {options.maps}: expected (x, y, coil) or (x, y, z, coil), got {maps.shape}"
            )
        maps = (maps[:, :, None] if maps.ndim == 3 else maps).transpose(3, 2, 1, 0)
    mask = None
    if options.mask is not None:
        values = _variable(source, variables, options.mask, "--mask")
        mask = values, _mask_axes(source, values, data, options)
    return build(
        source,
        data,
        options.axes,
        program="MATLAB",
        centered=centered,
        sign=sign,
        field_of_view_m=options.field_of_view_m,
        matrix=options.matrix,
        trajectory=trajectory,
        order=order,
        maps=maps,
        mask=mask,
        frame_interval_s=options.frame_interval_s,
    )


def read_mat(source: Path) -> dict[str, Array]:
    """All numeric arrays, dimensions in MATLAB's order; those of structures as structure.field.

    Raises:
        DataFormatError: no MATLAB file, or a damaged one.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not source.is_file():
        raise DataFormatError(f"{source}: expected a file, found nothing there")
    try:
        if h5py.is_hdf5(source):
            with h5py.File(source) as file:
                return _hdf5_arrays(file, "")
        found: dict[str, Array] = {}
        for name, value in loadmat(source, squeeze_me=True).items():
            if not name.startswith("__"):
                _collect(name, value, found)
        return found
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise DataFormatError(f"{source}: expected a MATLAB file, found one that cannot be read ({error})") from error


def _collect(name: str, value: Any, found: dict[str, Array]) -> None:
    value = np.asarray(value)
    if value.dtype.names:
        if value.ndim == 0:
            for field in value.dtype.names:
                _collect(f"{name}.{field}", value[field].item(), found)
    elif value.dtype.kind in "biufc" and value.size:
        found[name] = value


def _hdf5_arrays(group: h5py.Group, prefix: str) -> dict[str, Array]:
    """MATLAB 7.3: HDF5 with reversed dimensions and complex numbers as {real, imag}."""
    found: dict[str, Array] = {}
    for name, item in group.items():
        if name.startswith("#"):
            continue
        if isinstance(item, h5py.Group):
            found |= _hdf5_arrays(item, f"{prefix}{name}.")
            continue
        values = item[()]
        if values.dtype.names and set(values.dtype.names) == {"real", "imag"}:
            values = values["real"] + 1j * values["imag"]
        if values.dtype.kind in "biufc" and values.size:
            found[prefix + name] = np.squeeze(values.transpose())
    return found


def _samples(source: Path, variables: dict[str, Array], key: str | None) -> tuple[str, Array]:
    if key is not None:
        return key, _variable(source, variables, key, "--key")
    arrays = [name for name, v in variables.items() if np.iscomplexobj(v) and v.ndim > 1]
    if len(arrays) != 1:
        listed = ", ".join(f"{n} {v.shape}" for n, v in variables.items()) or "nothing"
        raise DataFormatError(f"{source}: expected one complex array, found {len(arrays)} in {listed}; give --key")
    return arrays[0], variables[arrays[0]]


def _variable(source: Path, variables: dict[str, Array], name: str, option: str) -> Array:
    if name not in variables:
        raise DataFormatError(f"{source}: {option}: expected one of {', '.join(variables) or 'none'}, got {name!r}")
    return variables[name]


def _trajectory(source: Path, points: Array, options: ConvertOptions) -> tuple[Array, list[str]]:
    axes = [name for name in options.axes or () if name in ("sample", "readout")]
    if np.iscomplexobj(points):
        points = np.stack((points.real, points.imag))
    if points.ndim != 1 + len(axes) or points.shape[0] not in (2, 3) or len(axes) != 2:
        raise DataFormatError(
            f"{source}: {options.trajectory}: expected complex (sample, readout) or real (2 or 3, sample, readout) in "
            f"the order of --axes, got {points.shape}"
        )
    order = ["kz", "ky", "kx"][3 - len(points) :]
    points = points[::-1]  # columns kx, ky, kz become kz, ky, kx
    points = points.transpose(1 + axes.index("readout"), 1 + axes.index("sample"), 0)
    return per_metre(source, points, options.trajectory_unit, order, options, usual=None), order


def _mask_axes(source: Path, values: Array, data: Array, options: ConvertOptions) -> tuple[str, ...]:
    """The k axes and frames of the data whose lengths the mask has, in order."""
    free = [(n, size) for n, size in zip(options.axes or (), data.shape, strict=True) if n != "coil"]
    names = []
    for size in values.shape:
        while free and free[0][1] != size:
            free.pop(0)
        if not free:
            raise DataFormatError(
                f"{source}: {options.mask}: expected dimensions of the data {data.shape} without coils, got "
                f"{values.shape}"
            )
        names.append(free.pop(0)[0])
    return tuple(names)
