"""One function per format, each through the library that its users trust."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from data.errors import DataFormatError
from data.export.image import Image
from data.measurement import Volume
from data.reconstruction import Reconstruction

#: NIfTI-1 counts voxels in 16 bits.
_NIFTI1_MOST = 32767
_ANGSTROM = 1e10


def missing(name: str, extra: str, error: ImportError) -> DataFormatError:
    """The sentence on a package that is not installed."""
    return DataFormatError(f"{name} needs a package that is not installed ({error}): pip install 'backcast[{extra}]'")


def write_nifti(part: Path, image: Image, name: str) -> None:
    """NIfTI: (x, y, z(, t)), millimetres and seconds, complex64 or float32; the axes of the result, no anatomy.

    A compressed file has no time in it: equal images are equal bytes.
    """
    try:
        import nibabel
    except ImportError as e:
        raise missing("NIfTI", "export", e) from e
    affine = np.diag([1e3 * s for s in image.spacing_m[::-1]] + [1.0])
    affine[:3, 3] = [1e3 * o for o in image.origin_m[::-1]]
    values = image.values.T  # x, y, z, t
    kind = nibabel.Nifti1Image if max(values.shape) <= _NIFTI1_MOST else nibabel.Nifti2Image
    made = kind(values, affine)
    header = made.header
    header.set_xyzt_units("mm", "sec")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    if image.times_s is not None:
        header["pixdim"][4] = image.interval_s
        header["toffset"] = float(image.times_s[0])
    header["descrip"] = f"{image.quantity} [{image.units}]".encode("ascii", "replace")[:79]
    content = made.to_bytes()
    part.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


def write_mrc(part: Path, image: Image, name: str) -> None:
    """MRC2014: mode 2 or, of complex volumes, 4; voxels and origin in angstrom; movies as a stack of volumes."""
    del name
    try:
        import mrcfile
    except ImportError as e:
        raise missing("MRC", "export", e) from e
    with mrcfile.new(part, overwrite=True) as mrc:
        mrc.set_data(image.values)
        if image.times_s is None:
            mrc.set_volume()  # a single slice is no image stack
        mrc.voxel_size = tuple(s * _ANGSTROM for s in image.spacing_m[::-1])
        for axis, origin in zip("zyx", image.origin_m, strict=True):
            mrc.header.origin[axis] = origin * _ANGSTROM
        mrc.header.label[0] = f"Backcast: {image.quantity} [{image.units}]".encode("ascii", "replace")[:80]
        mrc.header.nlabl = 1


def write_tiff(part: Path, image: Image, name: str) -> None:
    """A stack of layers as OME-TIFF: voxel sizes, positions of the layers and times with their units."""
    del name
    import tifffile  # scikit-image brings it

    z, y, x = image.spacing_m
    n_z = image.values.shape[-3]
    n_t = 1 if image.times_s is None else len(image.times_s)
    layers = [image.origin_m[0] + i * z for i in range(n_z)] * n_t
    metadata: dict[str, Any] = {
        "axes": "ZYX" if image.times_s is None else "TZYX",
        "Name": image.title,
        "Description": f"{image.quantity} [{image.units}]",
        **{f"PhysicalSize{a}": s for a, s in zip("XYZ", (x, y, z), strict=True)},
        **dict.fromkeys(("PhysicalSizeXUnit", "PhysicalSizeYUnit", "PhysicalSizeZUnit"), "m"),
        "Plane": {
            "PositionX": [image.origin_m[2]] * len(layers),
            "PositionY": [image.origin_m[1]] * len(layers),
            "PositionZ": layers,
            **dict.fromkeys(("PositionXUnit", "PositionYUnit", "PositionZUnit"), ["m"] * len(layers)),
        },
    }
    if image.times_s is not None:
        metadata |= {"TimeIncrement": image.interval_s, "TimeIncrementUnit": "s"}
        metadata["Plane"] |= {
            "DeltaT": [float(t) for t in image.times_s for _ in range(n_z)],
            "DeltaTUnit": ["s"] * len(layers),
        }
    tifffile.imwrite(
        part,
        image.values,
        ome=True,
        photometric="minisblack",
        resolution=(1e-2 / x, 1e-2 / y),
        resolutionunit="CENTIMETER",
        metadata=metadata,
        software="backcast",
    )


def write_vtk(part: Path, image: Image, name: str) -> None:
    """VTK image data (.vti), metres, appended raw; complex values as magnitude, real and imaginary part.

    Source: VTK file formats, XML, ImageData.
    """
    del name
    if image.times_s is not None:
        raise DataFormatError(
            f"{image.title}: .vti holds one image, found {len(image.values)} frames; choose one with --frame"
        )
    quantity = image.quantity or "volume"
    arrays = {quantity: image.values}
    if np.iscomplexobj(image.values):
        arrays = {
            f"{quantity}_{word}": np.ascontiguousarray(take(image.values))
            for word, take in (("magnitude", np.abs), ("real", np.real), ("imag", np.imag))
        }
    extent = " ".join(f"0 {n - 1}" for n in image.values.shape[::-1])
    place = {
        "Origin": " ".join(repr(o) for o in image.origin_m[::-1]),
        "Spacing": " ".join(repr(s) for s in image.spacing_m[::-1]),
    }
    data, offset = "", 0
    blocks = []
    for label, values in arrays.items():
        content = np.ascontiguousarray(values, "<f4").tobytes()
        data += f'<DataArray type="Float32" Name={quoteattr(label)} format="appended" offset="{offset}"/>\n'
        blocks += [len(content).to_bytes(8, "little"), content]
        offset += 8 + len(content)
    words = "".join(
        f'<DataArray type="String" Name="{key}" NumberOfTuples="1" format="ascii">'
        f"{' '.join(str(b) for b in text.encode() + bytes(1))}</DataArray>\n"
        for key, text in (("quantity", image.quantity), ("units", image.units), ("length_units", "m"))
    )
    head = (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n'
        f'<ImageData WholeExtent="{extent}" Origin="{place["Origin"]}" Spacing="{place["Spacing"]}">\n'
        f"<FieldData>\n{words}</FieldData>\n"
        f'<Piece Extent="{extent}">\n<PointData Scalars={quoteattr(next(iter(arrays)))}>\n{data}</PointData>\n'
        '</Piece>\n</ImageData>\n<AppendedData encoding="raw">\n_'
    )
    with part.open("wb") as stream:
        stream.write(head.encode())
        for block in blocks:
            stream.write(block)
        stream.write(b"\n</AppendedData>\n</VTKFile>\n")


def write_matlab(part: Path, result: Reconstruction, title: str) -> None:
    """MATLAB 5: `volume` with dimensions (x, y, z(, frame)), or those of the result reversed, its axes and units."""
    from scipy.io import savemat
    from scipy.io.matlab import MatWriteError

    def variables(volume: Volume) -> dict[str, Any]:
        return {
            **{name: scale.values.astype(np.float64) for name, scale in volume.scales.items()},
            "units": {name: scale.units for name, scale in volume.scales.items()},
        }

    v = result.volume
    content: dict[str, Any] = variables(v)
    content["units"] |= {"volume": v.units}
    content |= {
        "volume": v.data.T,
        "axes": " ".join(reversed(v.axes)),
        "quantity": v.quantity,
        "title": title,
        "modality": result.modality,
    }
    if result.uncertainty is not None:
        content["uncertainty"] = result.uncertainty.T
    if result.channel is not None:
        c = result.channel
        content["channel"] = {**variables(c), "data": c.data.T, "axes": " ".join(reversed(c.axes))}
    with contextlib.suppress(AttributeError):
        content["metrics"] = {name: np.asarray(m.value, np.float64) for name, m in result.metrics.items()}
    try:
        savemat(part, content, appendmat=False, do_compression=True, oned_as="column", long_field_names=True)
    except (MatWriteError, OverflowError, ValueError) as e:
        raise DataFormatError(
            f"{title}: expected a volume that MATLAB's format 5 can hold (4 GiB), found {v.data.nbytes} bytes ({e}); "
            "read the result with h5read"
        ) from e
