"""fastMRI's HDF5 files: /kspace (slice, coil, row, column), or without coils, with an ISMRMRD header."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from data.convert.mri_parts import build
from data.convert.opening import numbers, open_foreign, words
from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.measurement import Array, Measurement, Scale, Volume


def from_fastmri(source: Path, options: ConvertOptions) -> Measurement:
    """A volume of fastMRI; centred, orthonormal, exponent -1. Rows (read-out) become ky, columns kx.

    The mask runs along the columns: that of the file, else where samples are zero in all coils and slices. The
    root-sum-of-squares or emulated-single-coil image becomes the ground truth.
    """
    with open_foreign(source, allow_links=options.allow_links) as file:
        data = numbers(file, "/kspace")
        if data is None:
            raise DataFormatError(f"{source}: expected numbers in /kspace, found {', '.join(file) or 'nothing'}")
        header, mask = words(file, "/ismrmrd_header"), numbers(file, "/mask")
        found = [numbers(file, f"/{name}") for name in ("reconstruction_rss", "reconstruction_esc")]
        truths = [image for image in found if image is not None and image.dtype.kind in "iuf"]
    if data.ndim == 3:
        data = data[:, None]
    if data.ndim != 4 or not np.iscomplexobj(data):
        raise DataFormatError(
            f"{source}: /kspace: expected complex (slice, coil, row, column), found {data.shape} {data.dtype}"
        )
    fov, matrix = _geometry(source, header, len(data))
    fov = options.field_of_view_m or fov
    matrix = options.matrix or matrix
    if mask is None:
        present = data.any(axis=(0, 1, 2))
        mask = None if bool(present.all()) else np.asarray(present)
    elif mask.shape != data.shape[3:]:
        raise DataFormatError(f"{source}: /mask: expected {data.shape[3]} columns as /kspace, found shape {mask.shape}")
    more: dict[str, Any] = {}
    if truths and fov is not None and matrix is not None and truths[0].shape == tuple(matrix):
        more["ground_truth"] = _truth(truths[0], fov, data.shape[2:])
    return build(
        source,
        data,
        ("slice", "coil", "ky", "kx"),
        program="fastMRI",
        centered=True,
        sign=-1,
        field_of_view_m=fov,
        matrix=matrix,
        mask=None if mask is None else (np.asarray(mask), ("kx",)),
        acquisition={} if header is None else {"ismrmrd_header": header},
        **more,
    )


def _geometry(
    source: Path, header: str | None, n_slices: int
) -> tuple[tuple[float, float, float] | None, tuple[int, int, int] | None]:
    """Field of view of all slices and samples, and voxels of the final image, z, y, x; x of the header is our y."""
    if header is None:
        return None, None
    try:
        root = ElementTree.fromstring(header)
    except ElementTree.ParseError as error:
        raise DataFormatError(f"{source}: /ismrmrd_header: expected XML, found text that is none ({error})") from error
    spaces: dict[str, dict[str, float]] = {}
    for space in ("encodedSpace", "reconSpace"):
        for what in ("matrixSize", "fieldOfView_mm"):
            for axis in "xyz":
                found = root.find(f".//{{*}}encoding/{{*}}{space}/{{*}}{what}/{{*}}{axis}")
                if found is None or found.text is None:
                    return None, None
                spaces.setdefault(space, {})[what[0] + axis] = float(found.text)
    encoded, recon = spaces["encodedSpace"], spaces["reconSpace"]
    fov = (n_slices * encoded["fz"] * 1e-3, encoded["fx"] * 1e-3, encoded["fy"] * 1e-3)
    return fov, (n_slices, int(recon["mx"]), int(recon["my"]))


def _truth(image: Array, fov: tuple[float, float, float], shape: tuple[int, int]) -> Volume:
    """The reference on the voxels of the uncropped image's centre."""
    scales = {}
    for name, n, length, full in zip("zyx", image.shape, fov, (image.shape[0], *shape), strict=True):
        scales[name] = Scale(values=(np.arange(n) - n // 2) * (length / full), units="m")
    return Volume(
        data=np.asarray(image, np.float32),
        axes=("z", "y", "x"),
        scales=scales,
        units="1",
        quantity="magnetisation",
        long_name="root sum of squares of the fully sampled scan",
    )
