"""A coarse level of large volumes, so that 3D never sends more to the graphics card than it can take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Voxels that 3D shows at most (64 MiB of float32).
VOXELS_3D = 2**24
#: Bytes that are read of a file, at most, to make a coarse level.
READ_BYTES = 2**28
#: Planes that are read at a time.
GROUP = 16


def factors(shape: tuple[int, ...], itemsize: int, *, voxels_3d: int = VOXELS_3D, in_file: bool) -> tuple[int, ...]:
    """By how much z, y, x are thinned out to at most `voxels_3d`; of a file, z further until READ_BYTES are enough."""
    size = math.prod(shape)
    if size <= voxels_3d:
        return (1, 1, 1)
    step = max(2, math.ceil((size / voxels_3d) ** (1 / 3)))
    while math.prod(math.ceil(n / min(step, n)) for n in shape) > voxels_3d:
        step += 1
    along_z = max(step, math.ceil(size * itemsize / READ_BYTES)) if in_file else step
    return tuple(min(s, n) for s, n in zip((along_z, step, step), shape, strict=True))


def pyramid(
    data: Any, axes: tuple[str, ...], *, voxels_3d: int = VOXELS_3D, largest: bool = True
) -> tuple[Any, tuple[float, float]]:
    """The data as a layer takes them, and their limits.

    Args:
        data: real array ((frame,) z, y, x), or other axes; numpy or dask.
        axes: their names.
        voxels_3d: a frame of more voxels gets a coarse level.
        largest: the coarse level has the largest of y and x neighbours; else one of them. Planes between are left out.

    Returns:
        The array, or [array, coarse]: napari shows the coarse one in 3D and far away. The limits, from 0 or the least
        value to the largest, are of the whole array, or of the coarse level of its first frame.
    """
    from viewer.layers import limits_of

    in_file = not isinstance(data, np.ndarray)
    space = tuple(data.shape[-3:])
    if axes[-3:] != ("z", "y", "x"):
        return data, limits_of(np.asarray(data))
    thin = factors(space, 8, voxels_3d=voxels_3d, in_file=in_file)
    if thin == (1, 1, 1):
        if not in_file:
            return data, limits_of(data)
        first = np.asarray(data[0] if data.ndim == 4 else data)
        return data, limits_of(first)
    if not largest:
        z, y, x = thin
        return [data, data[..., ::z, ::y, ::x]], (-1.0, 1.0) if in_file else limits_of(data)
    frames = [data] if data.ndim == 3 else [data[i] for i in range(data.shape[0])]
    first = coarse(frames[0], thin)
    if data.ndim == 3:
        return [data, first], limits_of(first)
    import dask
    import dask.array as da

    later = [da.from_delayed(dask.delayed(coarse)(f, thin), first.shape, first.dtype) for f in frames[1:]]
    return [data, da.stack([da.from_array(first), *later])], limits_of(first)


def coarse(frame: Any, thin: tuple[int, ...]) -> NDArray[np.float32]:
    """Every `thin[0]`-th plane of a frame (z, y, x), the largest of `thin[1]` x `thin[2]` neighbours in it."""
    planes = []
    for first in range(0, frame.shape[0], GROUP * thin[0]):
        group = np.asarray(frame[first : first + GROUP * thin[0] : thin[0]], dtype=np.float32)
        planes.append(_largest(_largest(group, thin[2], axis=2), thin[1], axis=1))
    return np.concatenate(planes)


def _largest(values: NDArray[np.float32], step: int, axis: int) -> NDArray[np.float32]:
    """The largest of every `step` neighbours along an axis; the last group may have fewer."""
    along = np.moveaxis(values, axis, 0)
    found = along[::step].copy()
    for k in range(1, step):
        shifted = along[k::step]
        np.maximum(found[: len(shifted)], shifted, out=found[: len(shifted)])
    return np.ascontiguousarray(np.moveaxis(found, 0, axis))


def notice(name: str, shape: tuple[int, ...], itemsize: int, *, in_file: bool, voxels_3d: int = VOXELS_3D) -> str:
    """A sentence on what 3D leaves out; "" where it shows every voxel."""
    thin = factors(tuple(shape[-3:]), itemsize, voxels_3d=voxels_3d, in_file=in_file)
    if thin == (1, 1, 1):
        return ""
    size = " x ".join(map(str, shape[-3:]))
    return (
        f"{name}: 3D shows every {thin[0]}. plane of {size} voxels, in it the largest of {thin[1]} x {thin[2]} "
        "neighbours; 2D shows every voxel"
    )
