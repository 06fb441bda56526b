"""Foreign files become measurements: fastMRI, BART, ISMRMRD, MATLAB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import imaging  # noqa: F401  (the shadowing guard)
from data.convert.bart import from_bart
from data.convert.fastmri import from_fastmri
from data.convert.ismrmrd_file import from_ismrmrd
from data.convert.matlab import from_matlab
from data.convert.mri_parts import TRAJECTORY_UNITS, ConvertOptions
from data.errors import DataFormatError
from data.measurement import Measurement

__all__ = ["FORMATS", "TRAJECTORY_UNITS", "ConvertOptions", "convert", "detect"]

#: Converters by name.
FORMATS: Mapping[str, Callable[[Path, ConvertOptions], Measurement]] = {
    "bart": from_bart,
    "fastmri": from_fastmri,
    "ismrmrd": from_ismrmrd,
    "matlab": from_matlab,
}


def convert(source: Path, options: ConvertOptions | None = None, *, kind: str | None = None) -> Measurement:
    """Read a foreign file.

    Args:
        source: the file; of BART's pair either one, or their common name.
        options: what the file does not say.
        kind: a name of `FORMATS`; None looks at the file.

    Raises:
        DataFormatError: a file that is none of these, is damaged, or leaves something open; one sentence.
    """
    name = detect(source) if kind is None else kind
    if name not in FORMATS:
        raise DataFormatError(f"--from {name}: expected one of {', '.join(FORMATS)}, got another")
    return FORMATS[name](source, ConvertOptions() if options is None else options)


def detect(source: Path) -> str:
    """Which of `FORMATS` a file is, by its name and, for HDF5, its contents.

    Raises:
        DataFormatError: none of them.
    """
    if source.suffix in (".cfl", ".hdr") or (not source.suffix and source.with_suffix(".cfl").is_file()):
        return "bart"
    if not source.is_file():
        raise DataFormatError(f"{source}: expected a file, found nothing there")
    if source.suffix == ".mat":
        return "matlab"
    import h5py

    if h5py.is_hdf5(source):
        with h5py.File(source) as file:
            if file.attrs.get("format") == "backcast-measurement":
                raise DataFormatError(f"{source}: is a measurement file already")
            if "kspace" in file:
                return "fastmri"
            if any(isinstance(g, h5py.Group) and "xml" in g and "data" in g for g in file.values()):
                return "ismrmrd"
    raise DataFormatError(
        f"{source}: expected BART (.cfl with .hdr), fastMRI (HDF5 with kspace), ISMRMRD (HDF5) or MATLAB (.mat), found "
        "none of them; name the format with --from"
    )
