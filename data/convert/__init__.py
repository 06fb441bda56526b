"""Foreign files become measurements: fastMRI, ISMRMRD, BART, NXtomo, Data Exchange, MATLAB, NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

import imaging  # noqa: F401  (the shadowing guard)
from data.convert.bart import from_bart
from data.convert.data_exchange import from_data_exchange
from data.convert.detect import foreign
from data.convert.fastmri import from_fastmri
from data.convert.ismrmrd_file import from_ismrmrd
from data.convert.matlab import from_matlab
from data.convert.numpy_file import from_numpy
from data.convert.nxtomo import from_nxtomo
from data.convert.options import TRAJECTORY_UNITS, ConvertOptions
from data.convert.radar_matlab import from_radar_matlab
from data.convert.read import read
from data.convert.sidecar import merged, read_sidecar, sidecar_of
from data.errors import DataFormatError
from data.measurement import Measurement

__all__ = ["FORMATS", "TRAJECTORY_UNITS", "ConvertOptions", "convert", "detect", "foreign", "read"]

#: Converters by name.
FORMATS: Mapping[str, Callable[[Path, ConvertOptions], Measurement]] = {
    "bart": from_bart,
    "data_exchange": from_data_exchange,
    "fastmri": from_fastmri,
    "ismrmrd": from_ismrmrd,
    "matlab": from_matlab,
    "numpy": from_numpy,
    "nxtomo": from_nxtomo,
    "radar_matlab": from_radar_matlab,
}


def convert(
    source: Path, options: ConvertOptions | None = None, *, kind: str | None = None, mapping: Path | None = None
) -> Measurement:
    """Read a foreign file.

    Args:
        source: the file; of BART's pair either one, or their common name.
        options: what the file does not say, on top of the TOML.
        kind: a name of `FORMATS`; None looks at the TOML and the file.
        mapping: the TOML; None takes the one beside the file, if any.

    Raises:
        DataFormatError: a file that is none of these, is damaged, or leaves something open; one sentence.
    """
    toml = sidecar_of(source) if mapping is None else mapping
    named, values = (None, {}) if toml is None else read_sidecar(toml)
    given = merged(values, options)
    name = kind or named or detect(source, allow_links=given.allow_links)
    if name not in FORMATS:
        raise DataFormatError(f"--from {name}: expected one of {', '.join(FORMATS)}, got another")
    if name == "radar_matlab" and given.mapping is not None:
        name = "matlab"  # a mapping wins over the layout
    if given.mapping is not None and name not in ("matlab", "numpy"):
        raise DataFormatError(
            f"{toml or source}: a mapping is for MATLAB and NumPy files, not for {name}; leave it out"
        )
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found by whoever reads the result
        return FORMATS[name](source, given)


def detect(source: Path, *, allow_links: bool = False) -> str:
    """Which of `FORMATS` a file is, by its contents (BART: by its name).

    Raises:
        DataFormatError: none of them, and why.
    """
    found = foreign(source, allow_links=allow_links)
    if found is not None:
        return found.kind
    if not source.is_file():
        raise DataFormatError(f"{source}: expected a file, found nothing there")
    if source.suffix == ".mat":
        return "matlab"  # reading tells what is wrong with it
    import h5py

    if h5py.is_hdf5(source):
        from data.hdf5 import FormatProblem, open_file
        from data.head import open_kind

        try:
            with open_file(source, allow_links=allow_links):
                pass
        except FormatProblem as e:
            raise e.finding.raised(source) from e
        try:
            ours = open_kind(source)
        except DataFormatError:
            ours = ""
        if ours:
            raise DataFormatError(f"{source}: is a {ours} file already")
    raise DataFormatError(
        f"{source}: expected BART (.cfl with .hdr), fastMRI, ISMRMRD, NXtomo or Scientific Data Exchange (HDF5), "
        "MATLAB (.mat) or NumPy (.npy, .npz), found none of them; name the format with --from"
    )
