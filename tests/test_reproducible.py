"""The same input, configuration, seed and device give the same bytes; a result knows its configuration."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from batch_cases import cli, scans

from pipelines.simulate import simulate_files

#: What says when, how long and how: everything else has to be equal.
STAMPS = {"date", "file_time", "wall_time", "peak_memory", "elapsed", "command_line", "config_file"}


def contents(path):
    """Every attribute and dataset as bytes."""
    found = {}

    def add(name, obj):
        for key, value in obj.attrs.items():
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST") and key not in STAMPS:
                found[f"{name}@{key}"] = repr(np.asarray(value).tolist()).encode()
        if isinstance(obj, h5py.Dataset) and name.rpartition("/")[2] not in STAMPS:
            value = obj[()]
            found[name] = repr(value).encode() if np.asarray(value).dtype.kind in "OSU" else np.asarray(value).tobytes()

    with h5py.File(path) as file:
        add("", file)
        file.visititems(add)
    return found


@pytest.mark.parametrize(
    ("modality", "arguments", "settings"),
    [
        ("mimo_radar", ("-m", "l1", "-s", "max_iter=4"), None),
        ("mimo_radar", ("-m", "pnp", "-s", "max_iter=2", "-s", "alpha=0.008"), None),
        ("tomography", ("-m", "psm", "-s", "solver.max_iter=2"), ("n=16", "n_instants=8")),
        ("mri", ("-m", "l1wavelet", "-s", "max_iter=3", "--seed", "5"), ("n=32", "n_coils=3", "calibration=8")),
        ("irs_mimo", ("-m", "krosbl-svd", "-s", "max_iter=5"), ("grid_irs=6", "grid_tx=6", "grid_rx=6", "n_rx=6")),
    ],
)
def test_twice_the_same_bytes_and_its_configuration_makes_it_again(tmp_path, modality, arguments, settings):
    if settings is None:
        scans(tmp_path / "scans")
    else:
        list(simulate_files(modality, tmp_path / "scans", assignments=settings))
    for out in ("a", "b"):
        done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / out, *arguments)
        assert done.status == 0, done.err
    name = f"{modality}_0000_recon.h5"
    one, other = contents(tmp_path / "a" / name), contents(tmp_path / "b" / name)
    assert one.keys() == other.keys()
    assert [key for key in one if one[key] != other[key]] == []
    assert len(one) > 30

    shown = cli("config", "show", tmp_path / "a" / name)
    assert shown.status == 0
    (tmp_path / "again.toml").write_text(shown.out)
    assert cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "a", "-c", tmp_path / "again.toml").status == 0
    again = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "c", "-c", tmp_path / "again.toml")
    assert again.status == 0
    third = contents(tmp_path / "c" / name)
    assert [key for key in one if one[key] != third[key]] == []
