"""Foreign files in the layouts of their own programs, all made from simulated measurements."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import savemat

from data import Measurement
from data.simulate import MimoRadarSimulation, MriSimulation, TomographySimulation, mimo_radar, mri, tomography

RADAR_GRID = ("grid.origin_m=[0.4,-0.06,-0.06]", "grid.spacing_m=[0.012,0.012,0.012]", "grid.shape=[11,11,11]")


def radar_scan() -> Measurement:
    return mimo_radar(
        MimoRadarSimulation(
            n_frequencies=6,
            target="points",
            array_parameters={"n_tx": 4, "n_rx": 3},
            seed=1,
        )
    )


def ct_scan(noise: str = "poisson") -> Measurement:
    config = TomographySimulation(
        n=16, n_slices=2, n_instants=24, motion="none", noise=noise, n_flats=3, dark_counts=20.0, axis_offset_m=0.7e-3
    )
    m = tomography(dataclasses.replace(config, angular_range_deg=180.0))
    acquisition = {k: v for k, v in m.acquisition.items() if k not in ("time", "frame_index")}  # a still object
    return dataclasses.replace(m, acquisition=acquisition)


def mri_scan(**more: Any) -> Measurement:
    return mri(MriSimulation(n=16, n_coils=3, acceleration=1.0, calibration=8, seed=2, **more))


def mri_header(m: Measurement) -> str:
    """The XML header that fastMRI and ISMRMRD carry; x is the read-out: the columns of ISMRMRD, the rows of fastMRI."""
    fz, fy, fx = 1e3 * m.geometry["field_of_view"]
    ny, nx = m.data.shape[-2:]
    size = "<matrixSize><x>{}</x><y>{}</y><z>1</z></matrixSize>"
    space = f"<fieldOfView_mm><x>{fx!r}</x><y>{fy!r}</y><z>{fz!r}</z></fieldOfView_mm>"
    spaces = "".join(f"<{s}>{size.format(nx, ny)}{space}</{s}>" for s in ("encodedSpace", "reconSpace"))
    return (
        (
            '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>'
            "<H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
            f"{spaces}<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{ny - 1}</maximum>"
            f"<center>{ny // 2}</center></kspace_encoding_step_1></encodingLimits>"
            "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
        )
        .replace("np.float64(", "")
        .replace(")", "")
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """One format.

    Attributes:
        write: makes the file in a folder, and what belongs to it; its path and the measurement it was made from.
        kind: as `detect` names it.
        method: that images it.
        settings: of the method.
        same: parts of the measurement that the file carries, beside the samples.
    """

    write: Callable[[Path], tuple[Path, Measurement]]
    kind: str
    method: str
    settings: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


# -- MRI -----------------------------------------------------------------------------------------------------


def fastmri(folder: Path) -> tuple[Path, Measurement]:
    """/kspace (slice, coil, row, column), as the public loaders read it."""
    m = mri_scan()
    fz, fy, fx = m.geometry["field_of_view"]
    turned = dataclasses.replace(m, geometry={**m.geometry, "field_of_view": np.array([fz, fx, fy])})
    with h5py.File(folder / "f.h5", "w") as f:
        f["kspace"] = m.data
        f["ismrmrd_header"] = mri_header(turned)
        f.attrs.update(acquisition="AXT2", patient_id="0", norm=1.0, max=1.0)
    return folder / "f.h5", m


def ismrmrd(folder: Path) -> tuple[Path, Measurement]:
    """By the reference library."""
    import ismrmrd as library

    m = mri_scan()
    dataset = library.Dataset(str(folder / "i.mrd"), "dataset", create_if_needed=True)
    dataset.write_xml_header(mri_header(m).encode())
    for y in range(m.data.shape[2]):
        a = library.Acquisition.from_array(np.ascontiguousarray(m.data[0, :, y]))
        a.center_sample = m.data.shape[3] // 2
        a.idx.kspace_encode_step_1 = y
        dataset.append_acquisition(a)
    dataset.close()
    return folder / "i.mrd", m


def bart(folder: Path) -> tuple[Path, Measurement]:
    """A text of dimensions and complex64 with the first one fastest: READ, PHS1, PHS2, COIL."""
    m = mri_scan()
    values = m.data[0].transpose(2, 1, 0)[:, :, None]
    (folder / "k.hdr").write_text("# Dimensions\n" + " ".join(map(str, values.shape)) + " 1" * 12 + "\n")
    values.ravel(order="F").tofile(folder / "k.cfl")
    fov = m.geometry["field_of_view"].tolist()
    (folder / "k.cfl.toml").write_text(f"[options]\nfield_of_view = {fov}\n")
    return folder / "k.cfl", m


def matlab_mri(folder: Path) -> tuple[Path, Measurement]:
    """MATLAB 5: one variable, its conventions in the TOML."""
    m = mri_scan()
    savemat(folder / "km.mat", {"k": m.data[0].transpose(2, 1, 0)})
    (folder / "km.mat.toml").write_text(
        '[options]\nkey = "k"\naxes = ["kx", "ky", "coil"]\nfft_centered = true\nfft_sign = -1\n'
        f"field_of_view = {m.geometry['field_of_view'].tolist()}\n"
    )
    return folder / "km.mat", m


# -- tomography ----------------------------------------------------------------------------------------------


def nxtomo(folder: Path) -> tuple[Path, Measurement]:
    """By the application definition: projections, flats and darks in one stack, told apart by image_key."""
    m = ct_scan()
    flat, dark = (m.calibration[k].astype(m.data.dtype) for k in ("flat", "dark"))
    key = np.repeat([2, 1, 0], [len(dark), len(flat), len(m.data)])
    angle = np.concatenate((np.zeros(len(dark) + len(flat)), np.rad2deg(m.acquisition["angle"])))
    row, column = (float(np.diff(m.scale(f"detector_{k}"))[0]) for k in ("row", "column"))
    with h5py.File(folder / "t.nxs", "w") as f:
        entry = group(f, "entry", "NXentry")
        entry["definition"], entry["title"], entry["start_time"] = "NXtomo", "walnut", "2026-11-23T12:00:00+00:00"
        instrument = group(entry, "instrument", "NXinstrument")
        detector = group(instrument, "detector", "NXdetector")
        detector["data"], detector["image_key"] = np.concatenate((dark, flat, m.data)), key
        for name, size in (("x_pixel_size", column), ("y_pixel_size", row)):
            detector[name] = size * 1e3
            detector[name].attrs["units"] = "mm"
        sample = group(entry, "sample", "NXsample")
        sample["rotation_angle"] = angle
        sample["rotation_angle"].attrs["units"] = "degree"
        shown = group(entry, "data", "NXdata")
        shown.attrs["signal"] = "data"
        shown["data"], shown["image_key"] = h5py.SoftLink("/entry/instrument/detector/data"), detector["image_key"]
    axis = (m.data.shape[2] - 1) / 2 + m.geometry["rotation_axis_offset"] / column
    (folder / "t.nxs.toml").write_text(f'[options]\nsense = "ccw"\ncenter = {axis!r}\n')
    return folder / "t.nxs", m


def data_exchange(folder: Path) -> tuple[Path, Measurement]:
    """By the published scheme: /exchange with data, white and dark fields, theta in degrees, the axis in /process."""
    m = ct_scan()
    row, column = (float(np.diff(m.scale(f"detector_{k}"))[0]) for k in ("row", "column"))
    axis = (m.data.shape[2] - 1) / 2 + m.geometry["rotation_axis_offset"] / column
    with h5py.File(folder / "d.h5", "w") as f:
        f["implements"] = "exchange:measurement:process"
        f["exchange/title"] = "raw absorption tomography"
        f["exchange/data"] = m.data.transpose(1, 0, 2)
        f["exchange/data"].attrs["axes"] = "y:theta:x"
        f["exchange/data_white"], f["exchange/data_dark"] = m.calibration["flat"], m.calibration["dark"]
        f["exchange/theta"] = np.rad2deg(m.acquisition["angle"])
        f["exchange/theta"].attrs["units"] = "deg"
        for name, size in (("pixel_size_x", column), ("pixel_size_y", row)):
            f[f"measurement/instrument/detector/{name}"] = size * 1e6
            f[f"measurement/instrument/detector/{name}"].attrs["units"] = "microns"
        f["process/recon/rotation_axis"] = axis
    (folder / "d.h5.toml").write_text('[options]\nsense = "ccw"\n')
    return folder / "d.h5", m


def npz(folder: Path) -> tuple[Path, Measurement]:
    """NumPy arrays under anybody's names."""
    m = ct_scan("gaussian")
    column = m.scale("detector_column")
    np.savez(folder / "sino.npz", sino=m.data, theta=np.rad2deg(m.acquisition["angle"]), u=column * 1e3)
    row = float(np.diff(m.scale("detector_row"))[0])
    (folder / "sino.npz.toml").write_text(f"""\
modality = "tomography"
title = "a sinogram"
[data]
from = "sino"
axes = ["projection", "detector_row", "detector_column"]
units = "1"
quantity = "line_integral"
[scales]
detector_row = {{ step = {row!r}, units = "m" }}
detector_column = {{ from = "u", units = "mm" }}
[geometry]
type = "parallel"
frame = "the object rotates about z"
coordinates = ["x", "y", "z"]
rotation_axis_offset = {{ value = {m.geometry["rotation_axis_offset"] * 1e3!r}, units = "mm" }}
[acquisition]
angle = {{ from = "theta", units = "deg", sense = "ccw_from_+z", zero_ray = "+y" }}
[noise_std]
value = {m.noise_std!r}
units = "1"
""")
    return folder / "sino.npz", m


def npy(folder: Path) -> tuple[Path, Measurement]:
    """A single array, all else in the mapping of its folder."""
    m = radar_scan()
    np.save(folder / "s21.npy", m.data[0])
    (folder / "mapping.toml").write_text(radar_mapping(m, "data", ["tx", "rx", "frequency"], literal=True))
    return folder / "s21.npy", m


# -- radar ---------------------------------------------------------------------------------------------------


def radar_matlab(folder: Path) -> tuple[Path, Measurement]:
    """The layout of NF 3.2: receiver x transmitter x frequency, antennas in the x-z plane, y the range."""
    m = radar_scan()
    sides = {}
    for side, name in (("Transmitter", "tx"), ("Receiver", "rx")):
        x, y, z = m.geometry[f"{name}_positions"].T
        sides[side] = {"X": x, "Y": z, "Z": y}
    values = m.data[0].transpose(1, 0, 2)
    savemat(
        folder / "gun.mat",
        {"EMData": {"Values": values}, "MIMOArray": sides, "OperateFreq": m.scale("frequency")[None]},
    )
    return folder / "gun.mat", m


def radar_mapping(m: Measurement, name: str, axes: list[str], *, literal: bool = False) -> str:
    """A mapping of antennas in millimetres and frequencies in gigahertz."""
    tx, rx = ((m.geometry[f"{side}_positions"] * 1e3).tolist() for side in ("tx", "rx"))
    f = (m.scale("frequency") / 1e9).tolist()
    where = {"tx": f"value = {tx}", "rx": f"value = {rx}", "f": f"value = {f}"}
    if not literal:
        where = {"tx": 'from = "array.tx"', "rx": 'from = "array.rx"', "f": 'from = "f"'}
    return f"""\
modality = "mimo_radar"
[data]
from = {json.dumps(name)}
axes = {json.dumps(axes)}
units = "1"
quantity = "scattered_field"
[scales]
frequency = {{ {where["f"]}, units = "GHz" }}
[geometry]
downrange_axis = "z"
frame = "right-handed, z into the scene"
coordinates = ["x", "y", "z"]
tx_positions = {{ {where["tx"]}, units = "mm" }}
rx_positions = {{ {where["rx"]}, units = "mm" }}
[acquisition]
waveform = "stepped_frequency"
phase_convention = "exp(-j*2*pi*f*tau)"
amplitude_model = "1/(4*pi*Rt*Rr)"
calibrated = true
"""


def matlab5(folder: Path) -> tuple[Path, Measurement]:
    m = radar_scan()
    savemat(folder / "five.mat", _radar_variables(m))
    (folder / "five.mat.toml").write_text(radar_mapping(m, "S", ["frequency", "tx", "rx"]))
    return folder / "five.mat", m


def matlab73(folder: Path) -> tuple[Path, Measurement]:
    """By a library that writes MATLAB's files of version 7.3."""
    import hdf5storage

    m = radar_scan()
    hdf5storage.savemat(str(folder / "seven.mat"), _radar_variables(m), format="7.3", oned_as="column")
    (folder / "seven.mat.toml").write_text(radar_mapping(m, "S", ["frequency", "tx", "rx"]))
    return folder / "seven.mat", m


def _radar_variables(m: Measurement) -> dict[str, Any]:
    array = {side: m.geometry[f"{side}_positions"] * 1e3 for side in ("tx", "rx")}
    return {"S": m.data[0].transpose(2, 0, 1), "f": m.scale("frequency") / 1e9, "array": array}


def group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    """A NeXus group."""
    made = parent.create_group(name)
    made.attrs["NX_class"] = kind
    return made


RADAR = ("tx_positions", "rx_positions", "frequency", "phase_convention")
CT = ("angle", "rotation_axis_offset", "detector_row", "detector_column", "type")
MRI = ("field_of_view", "fft_sign", "fft_centered")
CASES = {
    "fastmri": Case(fastmri, "fastmri", "adjoint", same=MRI),
    "ismrmrd": Case(ismrmrd, "ismrmrd", "adjoint", same=MRI),
    "bart": Case(bart, "bart", "adjoint", same=MRI),
    "matlab5-kspace": Case(matlab_mri, "matlab", "adjoint", same=MRI),
    "nxtomo": Case(nxtomo, "nxtomo", "fbp", same=CT),
    "data_exchange": Case(data_exchange, "data_exchange", "fbp", same=CT),
    "npz": Case(npz, "numpy", "fbp", same=CT),
    "npy": Case(npy, "numpy", "backprojection", RADAR_GRID, RADAR),
    "ieee-dataport": Case(radar_matlab, "radar_matlab", "backprojection", RADAR_GRID, RADAR),
    "matlab5": Case(matlab5, "matlab", "backprojection", RADAR_GRID, RADAR),
    "matlab7.3": Case(matlab73, "matlab", "backprojection", RADAR_GRID, RADAR),
}
