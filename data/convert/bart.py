"""BART's pairs of .cfl (complex64, first dimension fastest) and .hdr (text)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from data.convert.mri_parts import build, per_metre
from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.measurement import Array, Measurement

#: Its dimensions, by index.
READ, PHS1, PHS2, COIL, MAPS, TIME, SLICE = 0, 1, 2, 3, 4, 10, 13
_NAMES = {READ: "kx", PHS1: "ky", PHS2: "kz", COIL: "coil", TIME: "frame", SLICE: "slice"}
_ALL = 16
#: A header is a few lines; its dimensions come first.
_HEADER_BYTES = 2**16


def from_bart(source: Path, options: ConvertOptions) -> Measurement:
    """K-space in BART's dimensions; centred, exponent -1, as its tools write it.

    With one sample along READ and two encoded axes these become ky and kx. With --trajectory, (3, sample, readout) in
    cycles per field of view, samples lie along PHS1 and readouts along PHS2. Further dimensions are refused.
    """
    data = read_cfl(source)
    extra = [f"{i} ({data.shape[i]})" for i in range(_ALL) if i not in _NAMES and data.shape[i] > 1]
    if extra:
        raise DataFormatError(
            f"{source}: expected dimensions READ, PHS1, PHS2, COIL, TIME and SLICE, found {', '.join(extra)}; take one "
            "index of them with 'bart slice'"
        )
    names = dict(_NAMES)
    trajectory, order = None, ["ky", "kx"]
    if options.trajectory is not None:
        names |= {PHS1: "sample", PHS2: "readout", READ: "kx"}
        trajectory, order = _trajectory(Path(options.trajectory), options)
    elif data.shape[READ] == 1 and min(data.shape[PHS1], data.shape[PHS2]) > 1:
        names |= {PHS1: "ky", PHS2: "kx", READ: "kz"}
    used = sorted(names)
    data = data.reshape([data.shape[i] for i in used])
    axes = [names[i] for i in used]
    maps = None if options.maps is None else _maps(Path(options.maps), names)
    mask = None
    if options.mask is not None:
        pattern = read_cfl(Path(options.mask))
        if pattern.shape[COIL] > 1:
            pattern = pattern[:, :, :, :1]
        mask = pattern.real.reshape([pattern.shape[i] for i in used]), tuple(axes)
    elif trajectory is None:
        mask = _where(data, axes)
    return build(
        source,
        data,
        axes,
        program="BART",
        centered=True,
        sign=-1,
        field_of_view_m=options.field_of_view_m,
        matrix=options.matrix,
        trajectory=trajectory,
        order=order,
        maps=maps,
        mask=mask,
        frame_interval_s=options.frame_interval_s,
    )


def read_cfl(source: Path) -> Array:
    """complex64 with BART's 16 dimensions.

    Raises:
        DataFormatError: a file of the pair that is missing, a header without dimensions, samples of another number.
    """
    dims = read_header(source)
    samples = _stem(source).with_name(_stem(source).name + ".cfl")
    if not samples.is_file():
        raise DataFormatError(f"{samples}: expected a file beside its partner, found nothing there")
    wanted, found = math.prod(dims), samples.stat().st_size / 8
    if wanted != found:
        raise DataFormatError(f"{samples}: expected {wanted} complex64 samples as the header says, found {found:g}")
    values = np.fromfile(samples, "<c8").reshape(dims, order="F")
    return values.reshape([*dims, *[1] * (_ALL - len(dims))])


def _stem(source: Path) -> Path:
    return source.with_suffix("") if source.suffix in (".cfl", ".hdr") else source


def read_header(source: Path) -> list[int]:
    """The dimensions that the .hdr of a pair states.

    Raises:
        DataFormatError: no header, or one without dimensions.
    """
    header = _stem(source).with_name(_stem(source).name + ".hdr")
    if not header.is_file():
        raise DataFormatError(f"{header}: expected a file beside its partner, found nothing there")
    with header.open("rb") as stream:
        lines = stream.read(_HEADER_BYTES).decode("utf-8", "replace").splitlines()
    try:
        at = [line.strip() for line in lines].index("# Dimensions")
        dims = [int(word) for word in lines[at + 1].split()]
    except (ValueError, IndexError):
        dims = []
    if not dims or min(dims) < 1 or len(dims) > _ALL:
        raise DataFormatError(f"{header}: expected a line '# Dimensions' and up to {_ALL} counts below it, found none")
    return dims


def _where(data: Array, axes: list[str]) -> tuple[Array, tuple[str, ...]] | None:
    """A mask of what is not zero in any coil; None when all is there. BART has no masks: it writes zeros."""
    coil = axes.index("coil")
    present = (data != 0).any(axis=coil)
    names = tuple(name for name in axes if name != "coil")
    if bool(present.all()):
        return None
    for i in range(present.ndim):  # axes along which the pattern repeats
        first = present.take([0], axis=i)
        present = first if bool((present == first).all()) else present
    return present, names


def _trajectory(path: Path, options: ConvertOptions) -> tuple[Array, list[str]]:
    points = read_cfl(path)
    if points.shape[0] != 3:
        raise DataFormatError(
            f"{path}: expected a trajectory with first dimension 3 (x, y, z), found {points.shape[0]}"
        )
    # (3, sample, readout, ..., time) -> (frame, readout, sample, z y x)
    frames = np.moveaxis(points.real, TIME, -1).reshape(3, *points.shape[1:3], points.shape[TIME]).transpose(3, 2, 1, 0)
    frames = frames[..., ::-1]
    order = ["kz", "ky", "kx"]
    if not frames[..., 0].any():
        frames, order = frames[..., 1:], order[1:]
    frames = per_metre(path, frames, options.trajectory_unit, order, options, usual="cycles/fov")
    return (frames[0] if len(frames) == 1 else frames), order


def _maps(path: Path, names: dict[int, str]) -> Array:
    maps = read_cfl(path)
    if maps.shape[MAPS] > 1:
        raise DataFormatError(
            f"{path}: expected one set of maps, found {maps.shape[MAPS]}; leave them out to estimate them"
        )
    x, y, z, coil = maps.shape[:4]
    volume = maps.reshape(x, y, z, coil, order="F") if maps.size == x * y * z * coil else None
    if volume is None:
        raise DataFormatError(f"{path}: expected maps of READ, PHS1, PHS2 and COIL, found further dimensions")
    if names[READ] == "kz":  # encoded axes became ky and kx
        return volume.transpose(3, 0, 1, 2)
    return volume.transpose(3, 2, 1, 0)
