"""Arrays from .csv, .npz and measurement files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.phantoms.errors import SimulationError
from data.simulate.antennas import AntennaArray


def from_file(*, path: str = "") -> AntennaArray:
    """An array as somebody measured or drew it.

    Args:
        path: one of
            .csv with the columns ``kind, x, y, z`` (kind "tx" or "rx", metres; "#" starts a comment);
            .npz with ``tx_m``, ``rx_m`` and, for incomplete arrays, ``channel_tx``, ``channel_rx``;
            .h5, .hdf5: a measurement file, whose /geometry is taken.

    Raises:
        SimulationError: missing, unreadable or incomplete file.
    """
    file = Path(path)
    readers = {".csv": _from_csv, ".npz": _from_npz, ".h5": _from_hdf5, ".hdf5": _from_hdf5}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise SimulationError(
            f"array file: expected .csv, .npz or .h5, got '{path}'; set array_parameters.path to the file"
        )
    if not file.is_file():
        raise SimulationError(f"{file}: no such array file")
    try:
        return reader(file)
    except SimulationError as error:
        raise SimulationError(f"{file}: {error}") from None
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise SimulationError(f"{file}: not a readable array file ({error})") from error


def _from_csv(path: Path) -> AntennaArray:
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.split("#")[0].strip()]
    rows = csv.DictReader(lines, skipinitialspace=True)
    if not {"kind", "x", "y", "z"} <= set(rows.fieldnames or ()):
        raise SimulationError(f"expected the columns kind, x, y, z, found {', '.join(rows.fieldnames or ())}")
    places: dict[str, list[list[float]]] = {"tx": [], "rx": []}
    for row in rows:
        kind = (row["kind"] or "").strip().lower()
        if kind not in places:
            raise SimulationError(f"kind: expected tx or rx, found '{row['kind']}'")
        places[kind].append([float(row[axis]) for axis in "xyz"])
    return AntennaArray(*(np.array(places[kind]).reshape(-1, 3) for kind in ("tx", "rx")))


def _from_npz(path: Path) -> AntennaArray:
    with np.load(path, allow_pickle=False) as file:
        if not {"tx_m", "rx_m"} <= set(file.files):
            raise SimulationError(f"expected the arrays tx_m and rx_m, found {', '.join(file.files) or 'none'}")
        return AntennaArray(file["tx_m"], file["rx_m"], file.get("channel_tx"), file.get("channel_rx"))


def _from_hdf5(path: Path) -> AntennaArray:
    with h5py.File(path) as file:
        found: dict[str, Any] = {}
        for name in ("tx_positions", "rx_positions", "channel_tx", "channel_rx"):
            dataset = file.get(f"geometry/{name}")
            if dataset is None and name.endswith("positions"):
                raise SimulationError(f"/geometry/{name}: expected antenna positions (n, 3), found nothing")
            found[name] = None if dataset is None else dataset[()]
            if dataset is not None and name.endswith("positions"):
                units = dataset.attrs.get("units", "m")
                if units != "m":
                    raise SimulationError(f"/geometry/{name}: expected units m, found {units}")
    return AntennaArray(*found.values())
