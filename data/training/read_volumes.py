"""Volumes out of files of several kinds, for training: arrays only, no geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataFormatError
from data.schema import MEASUREMENT, RECONSTRUCTION

SUFFIXES = (".h5", ".hdf5", ".npy", ".npz", ".nii", ".nii.gz")
DEFAULT_KEYS = ("volumes", "volume")


def find_files(paths: str | Path | list[str | Path] | tuple[str | Path, ...]) -> list[Path]:
    """Files as they are named, folders by the readable files below them, sorted.

    Raises:
        DataFormatError: a path that does not exist, of another kind, or a folder without a readable file.
    """
    files: list[Path] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and suffix(p) in SUFFIXES)
            if not found:
                raise DataFormatError(f"{path}: expected files {', '.join(SUFFIXES)} in this folder, found none")
            files += found
        elif not path.exists():
            raise DataFormatError(f"{path}: expected a file or folder, found nothing; check the path")
        elif suffix(path) not in SUFFIXES:
            raise DataFormatError(f"{path}: expected one of {', '.join(SUFFIXES)}, found '{path.suffix}'; convert it")
        else:
            files.append(path)
    if not files:
        raise DataFormatError("VolumeFiles paths: expected at least one file or folder, found none; name one")
    return files


def suffix(path: Path) -> str:
    """The suffix in lower case, .nii.gz as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def read_volumes(path: Path, key: str | None) -> tuple[str, NDArray[Any]]:
    """All volumes of a file as real numbers: where they were, and float32 (n, nz, ny, nx).

    Magnitudes of complex data. A (nz, ny, nx) array is one volume, a (ny, nx) array a volume of one slice.

    Raises:
        DataFormatError: unreadable, no such key, not numeric, not 2 to 4 axes, empty, or not finite.
    """
    kind = suffix(path)
    if kind in (".h5", ".hdf5"):
        where, values = _hdf5(path, key)
    elif kind == ".npz":
        where, values = _npz(path, key)
    elif kind == ".npy":
        where, values = "", _load(path)
    else:
        where, values = "", _nifti(path)
    name = f"{path}: {where}" if where else str(path)
    if values.dtype.kind not in "biufc":
        raise DataFormatError(f"{name}: expected numbers, found {values.dtype}; choose another array with key")
    if not 2 <= values.ndim <= 4 or values.size == 0:
        raise DataFormatError(
            f"{name}: expected (n, nz, ny, nx), (nz, ny, nx) or (ny, nx), none of them 0, found {values.shape}; "
            "reshape it or choose another array with key"
        )
    values = np.abs(values) if values.dtype.kind == "c" else values
    values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise DataFormatError(f"{name}: expected finite values, found NaN or infinity; replace them")
    return where, values.reshape((1,) * (4 - values.ndim) + values.shape)


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataFormatError(f"{path}: expected a numpy file of plain numbers, found {e}; save it again") from e


def _npz(path: Path, key: str | None) -> tuple[str, NDArray[Any]]:
    arrays = _load(path)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise DataFormatError(f"{path}: expected a .npz archive, found a single array; name it .npy")
    with arrays:
        names = arrays.files
        if key is None and len(names) != 1:
            raise DataFormatError(
                f"{path}: expected a single array, found {', '.join(names) or 'none'}; choose one with key"
            )
        wanted = names[0] if key is None else key
        if wanted not in names:
            raise DataFormatError(f"{path}: expected an array '{key}', found {', '.join(names)}; choose one with key")
        try:
            return wanted, arrays[wanted]
        except ValueError as e:
            raise DataFormatError(f"{path}: {wanted}: expected plain numbers, found {e}; save it again") from e


def _hdf5(path: Path, key: str | None) -> tuple[str, NDArray[Any]]:
    import h5py  # `data` imports it when a file needs it

    try:
        file = h5py.File(path)
    except OSError as e:
        raise DataFormatError(f"{path}: expected an HDF5 file, found {e}") from e
    with file:
        known = file.attrs.get("format")
        if key is None and known in (MEASUREMENT, RECONSTRUCTION):
            return _backcast(path, str(known))
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        wanted = key.strip("/") if key is not None else next((k for k in DEFAULT_KEYS if k in names), None)
        if wanted not in names:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            expected = f"a dataset '{key}'" if key is not None else "a dataset 'volumes' or 'volume'"
            raise DataFormatError(f"{path}: expected {expected}, found {shown or 'none'}; choose one with key")
        return wanted, np.asarray(file[wanted][()])


def _backcast(path: Path, known: str) -> tuple[str, NDArray[Any]]:
    from data.measurement_reader import read_measurement
    from data.reconstruction_reader import read_reconstruction

    if known == RECONSTRUCTION:
        return "/volume", read_reconstruction(path).volume.data
    truth = read_measurement(path, calibrate=False).ground_truth
    if truth is None:
        raise DataFormatError(
            f"{path}: /ground_truth/volume: expected the true volume of a simulated measurement, found none; "
            "take reconstructions or simulated measurements"
        )
    return "/ground_truth/volume", truth.data


def _nifti(path: Path) -> NDArray[Any]:
    try:
        import nibabel
    except ImportError as e:
        raise DataFormatError(
            f"{path}: expected the package nibabel to read NIfTI, found none; pip install 'backcast[nifti]'"
        ) from e
    try:
        image: Any = nibabel.load(path)
        return np.asarray(image.dataobj).T  # x, y, z (, frame) in the file
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as e:
        raise DataFormatError(f"{path}: expected a NIfTI image, found {e}") from e
