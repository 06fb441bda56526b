"""MATLAB files, version 5 and 7.3: k-space in one variable, or anything by a mapping file."""

from __future__ import annotations

import posixpath
from pathlib import Path

import h5py
import numpy as np

from data.convert.mapping import from_mapping
from data.convert.mat5 import read_arrays
from data.convert.mri_parts import build, needed, per_metre
from data.convert.opening import numbers, open_foreign
from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.hdf5 import attribute, get_object, names_in, short
from data.measurement import Array, Measurement

#: Structures within structures beyond this depth are no data.
MOST_NESTED = 16


def from_matlab(source: Path, options: ConvertOptions) -> Measurement:
    """The variable --key, or the only complex array, its dimensions named by --axes in MATLAB's order.

    Trajectories are real (D, ...), columns kx, ky(, kz), or complex kx + i ky; --maps is (x, y, coil) or (x, y, z,
    coil); --mask has the k-space dimensions of the data, or fewer. Centring and sign must be given. With a mapping file
    the variables are what that says.
    """
    if options.mapping is not None:
        return from_mapping(source, read_mat(source, allow_links=options.allow_links, squeeze=False), options, "MATLAB")
    variables = read_mat(source, allow_links=options.allow_links)
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


def read_mat(source: Path, *, allow_links: bool = False, squeeze: bool = True) -> dict[str, Array]:
    """All numeric arrays, dimensions in MATLAB's order; those of structures as structure.field.

    Args:
        source: the file.
        allow_links: follow links out of a file of version 7.3.
        squeeze: drop dimensions of length 1.

    Raises:
        DataFormatError: no MATLAB file, or a damaged one.
    """
    if not source.is_file():
        raise DataFormatError(f"{source}: expected a file, found nothing there")
    if h5py.is_hdf5(source):
        with open_foreign(source, allow_links=allow_links) as file:
            found = _hdf5_arrays(file, "/", "", {hash(file["/"].id)})
    else:
        try:
            found = read_arrays(source)
        except (OSError, ValueError, MemoryError) as e:  # ValueError: also an empty file
            raise DataFormatError(
                f"{source}: expected a MATLAB file of version 5 or 7.3, found one that cannot be read ({short(e)})"
            ) from e
    return {name: np.squeeze(value) for name, value in found.items()} if squeeze else found


def _hdf5_arrays(file: h5py.File, path: str, prefix: str, seen: set[int]) -> dict[str, Array]:
    """MATLAB 7.3: HDF5 with reversed dimensions and complex numbers as {real, imag}; each group once."""
    found: dict[str, Array] = {}
    for name in names_in(file[path], path):
        here = posixpath.join(path, name)
        item = None if name.startswith("#") else get_object(file, here)
        if isinstance(item, h5py.Group):
            if hash(item.id) not in seen and here.count("/") <= MOST_NESTED:
                seen.add(hash(item.id))
                found |= _hdf5_arrays(file, here, f"{prefix}{name}.", seen)
        elif (
            isinstance(item, h5py.Dataset) and item.dtype.kind in "biufcV" and not attribute(item, here, "MATLAB_empty")
        ):
            values = numbers(file, here)
            if values is not None and values.size:
                found[prefix + name] = values.transpose()
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
