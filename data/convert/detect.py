"""Which foreign format a file has, by its contents, and what can be told of it without its samples."""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from data.convert.bart import read_header
from data.convert.mat5 import MAGIC, variable_names
from data.convert.nxtomo import entries
from data.convert.opening import words
from data.convert.radar_matlab import has_layout
from data.convert.sidecar import read_sidecar, sidecar_of
from data.errors import DataFormatError
from data.hdf5 import DAMAGE, FormatProblem, attribute, get_object, names_in, open_file
from data.schema import MEASUREMENT, RECONSTRUCTION

_MATLAB_73 = b"MATLAB 7.3 MAT-file"


@dataclass(frozen=True)
class Foreign:
    """What a foreign file is.

    Attributes:
        kind: a name of `data.convert.FORMATS`.
        modality: what it becomes, None where the file and its TOML do not say.
        moving: whether it has several frames, as far as that can be told.
    """

    kind: str
    modality: str | None
    moving: bool = False


def foreign(source: Path, *, allow_links: bool = False) -> Foreign | None:
    """What a file is; None for our own files, and for what is none of the formats that are known.

    Raises:
        DataFormatError: the TOML beside it is wrong.
    """
    sidecar = sidecar_of(source)
    kind, options = (None, {}) if sidecar is None else read_sidecar(sidecar)
    found = _foreign(source, allow_links=allow_links or bool(options.get("allow_links")))
    if found is None and kind is None:
        return None
    kind = kind or (found.kind if found is not None else "")
    if options.get("mapping") is not None and kind in ("matlab", "radar_matlab", "numpy"):
        tables = options["mapping"]
        axes = tables.get("data", {}).get("axes") if isinstance(tables.get("data"), dict) else None
        modality = tables.get("modality")
        moving = isinstance(axes, list) and "frame" in axes
        return Foreign(
            "matlab" if kind == "radar_matlab" else kind, modality if isinstance(modality, str) else None, moving
        )
    axes = options.get("axes") or ()
    moving = (found is not None and found.moving) or "frame" in axes
    return Foreign(kind, found.modality if found is not None else None, moving)


def _foreign(source: Path, *, allow_links: bool) -> Foreign | None:
    if source.suffix in (".cfl", ".hdr") or (not source.suffix and source.with_suffix(".cfl").is_file()):
        return Foreign("bart", "mri", _bart_frames(source) > 1)
    if not source.is_file():
        return None
    try:
        with source.open("rb") as stream:
            start = stream.read(128)
    except OSError:
        return None
    if start.startswith(b"\x93NUMPY"):
        return Foreign("numpy", None)
    if start.startswith(b"PK\x03\x04"):
        return Foreign("numpy", None) if _has_arrays(source) else None
    if start.startswith(MAGIC):
        return _matlab(_matlab5_names(source))
    with contextlib.suppress(FormatProblem, *DAMAGE, UnicodeError):
        return _hdf5_kind(source, start, allow_links)
    return None


def _hdf5_kind(source: Path, start: bytes, allow_links: bool) -> Foreign | None:
    with open_file(source, links_looked_at=False) as file:
        if attribute(file["/"], "/", "format") in (MEASUREMENT, RECONSTRUCTION):
            return None
    with open_file(source, allow_links=allow_links) as file:
        if start.startswith(_MATLAB_73):
            return _matlab(set(names_in(file["/"], "/")))
        return _hdf5(file)


def _hdf5(file: h5py.File) -> Foreign | None:
    if isinstance(get_object(file, "/kspace"), h5py.Dataset):
        return Foreign("fastmri", "mri")
    if entries(file):
        return Foreign("nxtomo", "tomography")
    if isinstance(get_object(file, "/exchange/data"), h5py.Dataset):
        return Foreign("data_exchange", "tomography")
    for name in names_in(file["/"], "/"):
        if isinstance(get_object(file, f"/{name}"), h5py.Group) and words(file, f"/{name}/xml") is not None:
            data = get_object(file, f"/{name}/data")
            if isinstance(data, h5py.Dataset) and data.dtype.names and "head" in data.dtype.names:
                return Foreign("ismrmrd", "mri", _ismrmrd_frames(data) > 1)
    return None


def _matlab(names: set[str]) -> Foreign:
    return Foreign("radar_matlab", "mimo_radar") if has_layout(names) else Foreign("matlab", "mri")


def _matlab5_names(source: Path) -> set[str]:
    try:
        return variable_names(source)
    except (OSError, ValueError):
        return set()  # reading will tell


def _has_arrays(source: Path) -> bool:
    try:
        with zipfile.ZipFile(source) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False


def _bart_frames(source: Path) -> int:
    with contextlib.suppress(DataFormatError, OSError):
        dims = read_header(source)
        return dims[10] if len(dims) > 10 else 1
    return 1


def _ismrmrd_frames(data: h5py.Dataset) -> int:
    """Phases, or repetitions, of all acquisitions; only their heads are read."""
    with contextlib.suppress(*DAMAGE, MemoryError):
        index = data.fields("head")[()]["idx"]
        counts = [len(np.unique(index[name])) for name in ("phase", "repetition")]
        return max(counts)
    return 1


def companions(source: Path) -> list[Path]:
    """Files that belong to an input beside itself: BART's other half, the TOML, and what that names; sorted."""
    found = []
    if source.suffix in (".cfl", ".hdr"):
        found += [source.with_suffix(s) for s in (".cfl", ".hdr")]
    sidecar = sidecar_of(source)
    if sidecar is not None:
        found.append(sidecar)
        with contextlib.suppress(DataFormatError):
            _, options = read_sidecar(sidecar)
            for name in ("trajectory", "maps", "mask"):
                stem = Path(options.get(name) or "")
                if stem.name:
                    found += [stem.with_name(stem.name + s) for s in ("", ".cfl", ".hdr")]
                    found += [stem.with_suffix(s) for s in (".cfl", ".hdr")]
    return sorted({path for path in found if path.is_file() and path != source})
