"""What docs/formats.md tells a user to write, Backcast reads."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_cases import differences, reconstruction

import data
from data.findings import CODES
from data.schema import MODALITIES

PAGE = (Path(__file__).parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_writer_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks("python")[0], names)  # the page's own code, in an empty folder
    assert data.validate("scan.h5", deep=True) == []
    m = data.read_measurement("scan.h5")
    assert differences(m.data, names["y"].astype("c8")) == []
    assert m.warnings == ()
    assert m.attrs["uuid"] == names["my_uuid"]
    data.write_measurement("again.h5", m)
    assert differences(data.read_measurement("again.h5"), m) == []


def test_the_python_reader_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    r = reconstruction()
    data.write_reconstruction("scan_recon.h5", r)
    names = {}
    exec(blocks("python")[1], names)
    assert differences(names["volume"], r.volume.data) == []
    assert differences(names["z"], r.volume.scale("z")) == []


def run_matlab(code, folder, variables):
    """What the MATLAB block does, line by line: every array arrives with its dimensions reversed."""
    with h5py.File(folder / "scan.h5", "w") as f:
        for line in code.splitlines():
            line = line.split("%")[0].strip()
            if m := re.match(r"put\('([^']+)', (.+?), '([^']+)'(?:, (.+))?\);", line):
                values = np.asarray(variables[m[2]], float)
                size = variables[m[4]] if m[4] else (values.size,)
                f[m[1]] = values.ravel(order="F").reshape(size, order="F").T
                f[m[1]].attrs["units"] = np.bytes_(m[3])
            elif m := re.match(r"h5writeatt\(f, '([^']+)', '([^']+)', '([^']+)'\);", line):
                f[m[1]].attrs[m[2]] = np.bytes_(m[3])
            elif m := re.match(r"h5writeatt\(f, '([^']+)', '([^']+)', uint8\((\d)\)\);", line):
                f[m[1]].attrs[m[2]] = np.array([int(m[3])], np.uint8)
            elif "randomUUID" in line:
                f.attrs["uuid"] = "some-uuid"
            elif line.startswith("function"):
                break
            else:
                assert line in ("", "f = 'scan.h5';", "n = [size(y,1) size(y,2) size(y,3)];"), line


@pytest.mark.parametrize("n_tx", [3, 1])
def test_the_matlab_writer_of_the_page(n_tx, tmp_path):
    rng = np.random.default_rng(0)
    y = (rng.standard_normal((n_tx, 4, 5)) + 1j * rng.standard_normal((n_tx, 4, 5))).astype("c8")  # Ntx x Nrx x Nfreq
    tx, rx = rng.standard_normal((n_tx, 3)), rng.standard_normal((4, 3))
    freqs = np.linspace(4e9, 16e9, 5)
    variables = {
        "real(y)": y.real,
        "imag(y)": y.imag,
        "0:size(y,1)-1": np.arange(n_tx),
        "n": y.shape,
        "[3 size(y,1)]": (3, n_tx),
        "[3 size(y,2)]": (3, 4),
        "0:size(y,2)-1": np.arange(4),
        "freqs / 1e9": freqs / 1e9,
        "tx.'": tx.T,
        "rx.'": rx.T,
        "299792458": np.array([299792458.0]),
    }
    run_matlab(blocks("matlab")[0], tmp_path, variables)
    m = data.read_measurement(tmp_path / "scan.h5")
    assert m.axes == ("frame", "tx", "rx", "frequency")
    assert differences(m.data[0], y) == []
    assert differences(m.geometry["tx_positions"], tx) == []
    np.testing.assert_allclose(m.scale("frequency"), freqs)
    assert m.acquisition["calibrated"] is True
    assert [f for f in data.validate(tmp_path / "scan.h5", deep=True) if f.severity == "error"] == []


def test_every_code_and_every_dataset_is_on_the_page():
    for code, meaning in CODES.items():
        assert f"| {code} | {meaning} |" in PAGE
    for modality in MODALITIES.values():
        for group in modality.groups.values():
            for entry in group.entries:
                if entry.name not in ("factor_2", "grid_2"):
                    assert entry.name in PAGE
            for rule in group.attrs:
                assert rule.name in PAGE
