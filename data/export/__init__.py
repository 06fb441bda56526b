"""Results for other programs: NIfTI, MRC, TIFF stacks, MATLAB and VTK images, with voxel sizes and units."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import imaging  # noqa: F401  (the shadowing guard)
from data.atomic import replacing
from data.errors import DataFormatError
from data.export.image import PARTS, Image, chosen, image_of
from data.export.writers import write_matlab, write_mrc, write_nifti, write_tiff, write_vtk
from data.reconstruction import Reconstruction

__all__ = ["PARTS", "SUFFIXES", "export"]

_WRITERS: Mapping[str, tuple[str, Callable[[Path, Image, str], None]]] = {
    ".nii": ("NIfTI", write_nifti),
    ".nii.gz": ("NIfTI", write_nifti),
    ".mrc": ("MRC", write_mrc),
    ".tif": ("TIFF", write_tiff),
    ".tiff": ("TIFF", write_tiff),
    ".vti": ("VTK", write_vtk),
}
#: Endings that `export` knows.
SUFFIXES = (*_WRITERS, ".mat")


def export(
    result: Reconstruction,
    path: str | os.PathLike[str],
    *,
    part: str | None = None,
    frame: int | None = None,
    title: str = "",
) -> tuple[str, ...]:
    """Write a result in the format of the file's ending, atomically; an old file of that name is replaced.

    Args:
        result: as `data.read_reconstruction` gives it.
        path: ending in one of `SUFFIXES`.
        part: of complex volumes: "magnitude", "phase" (rad), "real", "imag"; None and "complex" keep them as they are.
        frame: one of several, from 0; None writes all.
        title: for the file and messages; its name when empty.

    Returns:
        Sentences on what had to be assumed.

    Raises:
        DataFormatError: another ending, axes or steps that the format cannot hold, a package that is missing.
        DataWriteError: the file cannot be written; nothing is left behind.
    """
    target = Path(path)
    name = target.name.lower()
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), None)
    if suffix is None:
        raise DataFormatError(f"{target}: expected an ending of {', '.join(SUFFIXES)}, found {target.suffix or 'none'}")
    result = chosen(result, part, frame)
    title = title or target.name.removesuffix(suffix)
    if suffix == ".mat":
        with replacing(target) as file:
            write_matlab(file, result, title)
        return ()
    what, write = _WRITERS[suffix]
    image = image_of(result, title, what)
    with replacing(target) as file:
        write(file, image, name)
    return image.notes
