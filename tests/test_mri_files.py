"""MRI files that do not agree with themselves: one sentence each, from validate and from reading."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_cases import mri as any_mri

from data import DataFormatError, Measurement, read_measurement, validate, write_measurement
from data.simulate import MriSimulation, mri


def scan(**changes) -> Measurement:
    return mri(MriSimulation(**{"n": 24, "n_coils": 3, "calibration": 8, "maps_known": True, **changes}))


def written(folder: Path, m: Measurement, change: Callable[[h5py.File], None]) -> Path:
    path = folder / "m.h5"
    write_measurement(path, m)
    with h5py.File(path, "r+") as f:
        change(f)
    return path


def replace(f: h5py.File, name: str, values: np.ndarray) -> None:
    attrs = dict(f[name].attrs)
    scales = [list(d.values()) for d in f[name].dims]
    del f[name]
    f[name] = values
    for key, value in attrs.items():
        if key not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME"):
            f[name].attrs[key] = value
    for i, found in enumerate(scales):
        for s in found:
            if s.shape == (values.shape[i],):
                f[name].dims[i].attach_scale(s)


def told(path: Path, code: str, where: str, *words: str) -> None:
    """An error: in validate, and as the sentence of reading."""
    findings = [f for f in validate(path, deep=True) if f.severity == "error"]
    assert [(f.code, f.path) for f in findings] == [(code, where)]
    with pytest.raises(DataFormatError) as caught:
        read_measurement(path)
    for word in words:
        assert word in str(caught.value)


def warned(path: Path, *words: str) -> None:
    """A warning: in validate, and with the measurement."""
    (finding,) = validate(path, deep=True)
    assert finding.severity == "warning"
    (sentence,) = read_measurement(path).warnings
    for word in words:
        assert word in sentence


def rolled(f: h5py.File) -> None:
    mask = f["measurement/mask"][:]
    replace(f, "measurement/mask", np.roll(mask, 12))


def test_a_mask_that_is_shifted_disagrees_with_the_data(tmp_path):
    path = written(tmp_path, scan(), rolled)
    told(path, "BC505", "/measurement/mask", "that are zero in all coils", "shift or transpose the mask")


def test_a_mask_on_full_data_is_fine(tmp_path):
    m = scan(mask="full")
    some = np.zeros(24, np.uint8)
    some[::2] = 1
    m = dataclasses.replace(m, mask=some, mask_axes=("ky",))
    path = written(tmp_path, m, lambda f: None)
    assert [f.code for f in validate(path, deep=True) if f.severity == "error"] == []


def test_maps_of_another_size_and_number(tmp_path):
    small = np.ones((1, 3, 20, 24), np.complex64)
    path = written(tmp_path, scan(), lambda f: replace(f, "calibration/coil_sensitivities", small))
    told(path, "BC304", "/calibration/coil_sensitivities", "maps of 24 x 24 voxels", "found 20 x 24")
    few = np.ones((1, 2, 24, 24), np.complex64)
    path = written(tmp_path, scan(), lambda f: replace(f, "calibration/coil_sensitivities", few))
    told(path, "BC304", "/calibration/coil_sensitivities", "3", "2")


def radial(points: np.ndarray) -> Measurement:
    m = any_mri("readout")
    return Measurement(
        **{
            **{k: getattr(m, k) for k in m.__dataclass_fields__},
            "acquisition": {**m.acquisition, "trajectory": points.astype(np.float32)},
        }
    )


#: 4 x 5 voxels in 0.2 m: the box ends at 10 and 12.5 1/m.
INSIDE = np.linspace(-10, 9.5, 40).reshape(4, 5, 2)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (2 * np.pi, "not rad/m or 1/mm"),
        (1.3, "make the voxels of /grid finer, or cut the readouts"),
        (1e-3, "cycles per pixel are divided by the pixel's size, 1/mm is multiplied by 1000"),
    ],
)
def test_a_trajectory_outside_its_box_or_in_another_unit(tmp_path, factor, words):
    write_measurement(tmp_path / "good.h5", radial(INSIDE))
    assert validate(tmp_path / "good.h5", deep=True) == []
    path = written(
        tmp_path, radial(INSIDE), lambda f: replace(f, "acquisition/trajectory", (factor * INSIDE).astype("f4"))
    )
    told(path, "BC505", "/acquisition/trajectory", "Nyquist box of the voxels, 10 1/m", words)


def test_a_trajectory_per_frame(tmp_path):
    points = np.stack([INSIDE, -INSIDE, 0.5 * INSIDE])
    write_measurement(tmp_path / "m.h5", radial(points))
    assert read_measurement(tmp_path / "m.h5").acquisition["trajectory"].shape == (3, 4, 5, 2)
    short = written(tmp_path, radial(points), lambda f: replace(f, "acquisition/trajectory", points[:2].astype("f4")))
    told(short, "BC304", "/acquisition/trajectory")


@pytest.mark.parametrize("name", ["fft_sign", "fft_centered", "fft_norm"])
def test_sign_centring_and_norm_are_needed(tmp_path, name):
    path = written(tmp_path, scan(), lambda f: f["acquisition"].attrs.__delitem__(name))
    told(path, "BC202", f"/acquisition@{name}", "no such attribute")


def test_a_nan_is_told_with_its_place(tmp_path):
    def spoil(f: h5py.File) -> None:
        f["measurement/data"][0, 1, 12, 5] = np.nan

    told(written(tmp_path, scan(), spoil), "BC501", "/measurement/data", "12")


def test_a_coil_without_signal_is_a_warning(tmp_path):
    def silence(f: h5py.File) -> None:
        f["measurement/data"][:, 2] = 0

    warned(written(tmp_path, scan(), silence), "only zeros in coil 2", "it is left out")


def test_half_fourier_is_a_warning(tmp_path):
    def cut(f: h5py.File) -> None:
        f["measurement/data"][:, :, :8] = 0
        mask = f["measurement/mask"][:]
        mask[:8] = 0
        f["measurement/mask"][:] = mask

    warned(written(tmp_path, scan(), cut), "rows 0 to 7 of 24 not measured (half-Fourier)")
