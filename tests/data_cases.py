"""Small valid measurements and reconstructions of every kind, for the tests of `data`."""

from __future__ import annotations

from typing import Any

import numpy as np

from data import Convergence, GridSpec, Measurement, Metric, NamedArray, Reconstruction, Scale, Volume

FIXED = {
    "uuid": "00000000-0000-4000-8000-000000000001",
    "file_time": "2026-11-23T12:00:00+00:00",
    "creator": "tests",
    "creator_version": "1",
}
COLUMNS = ("objective", "data_fidelity", "dual_residual", "relative_change", "sigma", "step_size")
FRAME = {"frame": "right-handed, z into the scene", "coordinates": ("x", "y", "z")}


def crandn(*shape: int, seed: int = 0) -> np.ndarray:
    """Seeded complex64 noise."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    """Seeded float64 noise."""
    return np.random.default_rng(seed).standard_normal(shape)


def index(n: int) -> Scale:
    return Scale(values=np.arange(n, dtype=np.int32), units="1")


def real(values: Any, units: str, long_name: str = "") -> Scale:
    return Scale(values=np.asarray(values, np.float64), units=units, long_name=long_name)


def volume(frames: int = 0, dtype: str = "complex64", quantity: str = "reflectivity") -> Volume:
    shape = (*((frames,) if frames else ()), 3, 4, 5)
    data = crandn(*shape) if dtype == "complex64" else randn(*shape).astype(np.float32)
    scales = {
        "z": real(np.linspace(0.35, 0.65, 3), "m"),
        "y": real(np.linspace(-0.15, 0.15, 4), "m"),
        "x": real(np.linspace(-0.15, 0.15, 5), "m"),
    }
    axes: tuple[str, ...] = ("z", "y", "x")
    if frames:
        axes = ("frame", *axes)
        scales["frame"] = real(np.arange(frames) * 0.5, "s")
    return Volume(data=data, axes=axes, scales=scales, units="1", quantity=quantity, long_name="scene")


def radar(frames: int = 1, *, channel: bool = False, moving: bool = False, **changes: Any) -> Measurement:
    n_tx, n_rx, n_freq = 3, 4, 5
    frequency = real(np.linspace(4e9, 16e9, n_freq), "Hz", "frequency")
    tx, rx = (randn(*((frames,) if moving else ()), n, 3, seed=n) for n in (n_tx, n_rx))
    tx[..., 2], rx[..., 2] = 0.0, 0.0
    scales = {"frame": real(np.arange(frames) * 0.1, "s"), "frequency": frequency}
    geometry: dict[str, Any] = {**FRAME, "downrange_axis": "z", "tx_positions": tx, "rx_positions": rx}
    if channel:
        n_channel = 6
        axes: tuple[str, ...] = ("frame", "channel", "frequency")
        scales["channel"] = index(n_channel)
        geometry["channel_tx"] = np.array([0, 0, 1, 1, 2, 2], np.int32)
        geometry["channel_rx"] = np.array([0, 1, 1, 2, 2, 3], np.int32)
        data = crandn(frames, n_channel, n_freq)
    else:
        axes = ("frame", "tx", "rx", "frequency")
        scales |= {"tx": index(n_tx), "rx": index(n_rx)}
        data = crandn(frames, n_tx, n_rx, n_freq)
    values: dict[str, Any] = {
        "modality": "mimo_radar",
        "data": data,
        "axes": axes,
        "scales": scales,
        "quantity": "scattered_field",
        "long_name": "S21",
        "geometry": geometry,
        "acquisition": {
            "propagation_speed": 299792458.0,
            "waveform": "stepped_frequency",
            "phase_convention": "exp(-j*2*pi*f*tau)",
            "amplitude_model": "1/(4*pi*Rt*Rr)",
            "calibrated": True,
        },
        "noise_std": 0.125,
        "grid": GridSpec((0.35, -0.15, -0.15), (0.15, 0.1, 0.075), (3, 4, 5)),
        "ground_truth": volume(),
        "provenance": {
            "program": "tests",
            "date": FIXED["file_time"],
            "config": '{"a": 1}',
            "seed": 7,
            "wall_time": 1.5,
        },
        "attrs": {**FIXED, "title": "a scan", "license": "CC0"},
    }
    return Measurement(**{**values, **changes})


def tomography(kind: str = "parallel", *, quantity: str = "line_integral", **changes: Any) -> Measurement:
    n = 6
    geometry: dict[str, Any] = {**FRAME, "type": kind, "rotation_axis_offset": 0.001}
    if kind in ("fan", "cone"):
        geometry |= {"source_to_origin": 0.4, "origin_to_detector": 0.15}
    if kind == "vectors":
        geometry["vectors"] = randn(n, 12)
    data = np.abs(randn(n, 2, 7)).astype(np.float32)
    calibration: dict[str, Any] = {}
    if quantity == "counts":
        data = (1000 * data).astype(np.uint16)
        calibration = {
            "flat": np.full((2, 2, 7), 4000, np.float32),
            "dark": np.full((3, 2, 7), 10, np.float32),
        }
    values: dict[str, Any] = {
        "modality": "tomography",
        "data": data,
        "axes": ("projection", "detector_row", "detector_column"),
        "scales": {
            "projection": index(n),
            "detector_row": real([0.0, 0.001], "m"),
            "detector_column": real(np.arange(7) * 0.001, "m"),
        },
        "quantity": quantity,
        "geometry": geometry,
        "acquisition": {
            "angle": np.linspace(0, 3, n),
            "sense": "ccw_from_+z",
            "zero_ray": "+y",
            "time": np.arange(n) * 0.5,
            "frame_index": np.array([0, 0, 1, 1, 2, 2], np.int32),
        },
        "calibration": calibration,
        "attrs": FIXED,
    }
    return Measurement(**{**values, **changes})


def mri(kind: str = "slices", **changes: Any) -> Measurement:
    acquisition: dict[str, Any] = {"fft_norm": "ortho", "fft_centered": True, "fft_sign": -1.0, "field_strength": 1.5}
    calibration: dict[str, Any] = {"noise_covariance": np.eye(2, dtype=np.complex64)}
    mask, mask_axes = None, ()
    if kind == "slices":
        axes: tuple[str, ...] = ("slice", "coil", "ky", "kx")
        shape: tuple[int, ...] = (2, 2, 4, 5)
        acquisition["ismrmrd_header"] = "<xml/>"
        calibration["coil_sensitivities"] = crandn(2, 2, 4, 5)
        mask, mask_axes = np.array([1, 0, 1, 1], np.uint8), ("ky",)
    elif kind == "frames":
        axes, shape = ("frame", "coil", "kz", "ky", "kx"), (3, 2, 2, 4, 5)
        calibration["coil_sensitivities"] = crandn(2, 2, 4, 5)
        mask, mask_axes = np.ones((3, 4), np.uint8), ("frame", "ky")
    else:
        axes, shape = ("frame", "coil", "readout", "sample"), (3, 2, 4, 5)
        acquisition |= {"trajectory": randn(4, 5, 2).astype(np.float32), "order": ("ky", "kx")}
    scales = {name: index(n) for name, n in zip(axes, shape, strict=True)}
    if axes[0] == "frame":
        scales["frame"] = real(np.arange(shape[0]) * 0.04, "s")
    values: dict[str, Any] = {
        "modality": "mri",
        "data": crandn(*shape),
        "axes": axes,
        "scales": scales,
        "quantity": "kspace",
        "geometry": {
            **FRAME,
            "field_of_view": np.array([0.1, 0.2, 0.2]),
            "recon_matrix": np.array([1, 4, 5], np.int32),
        },
        "acquisition": acquisition,
        "calibration": calibration,
        "mask": mask,
        "mask_axes": mask_axes,
        "attrs": FIXED,
    }
    return Measurement(**{**values, **changes})


def irs(**changes: Any) -> Measurement:
    axes = ("frame", "subcarrier", "config", "rx", "pilot")
    shape = (2, 3, 4, 2, 5)
    scales = {name: index(n) for name, n in zip(axes, shape, strict=True)}
    scales["frame"] = real([0.0, 0.1], "s")
    scales["subcarrier"] = real([-1e5, 0.0, 1e5], "Hz")
    order = "A = kron(factor_1, kron(factor_2, factor_3))"
    values: dict[str, Any] = {
        "modality": "irs_mimo",
        "data": crandn(*shape),
        "axes": axes,
        "scales": scales,
        "units": "V",
        "quantity": "received_pilots",
        "geometry": {**FRAME, "tx_positions": randn(2, 3), "rx_positions": randn(2, 3), "irs_positions": randn(6, 3)},
        "acquisition": {
            "pilots": crandn(2, 5),
            "irs_reflection": np.exp(1j * randn(4, 6)).astype(np.complex64),
            "carrier_frequency": 28e9,
            "noise_variance": 1e-9,
            "transmit_power": 0.1,
        },
        "dictionary": {
            **{f"factor_{i}": crandn(m, 2 + i) for i, m in ((1, 4), (2, 5), (3, 2))},
            **{f"grid_{i}": np.linspace(-1, 1, 2 + i) for i in (1, 2, 3)},
            "grid_1_units": "1",
            "grid_2_units": "rad",
            "grid_3_units": "1",
            "order": order,
        },
        "extra_truth": {"coefficients": NamedArray(values=crandn(3, 4, 5), axes=("n1", "n2", "n3"))},
        "attrs": FIXED,
    }
    return Measurement(**{**values, **changes})


MEASUREMENTS = {
    "radar": radar,
    "radar-frames": lambda: radar(3),
    "radar-channel": lambda: radar(2, channel=True),
    "radar-moving": lambda: radar(2, moving=True),
    "radar-channel-moving": lambda: radar(2, channel=True, moving=True),
    "parallel": tomography,
    "fan": lambda: tomography("fan"),
    "cone": lambda: tomography("cone", quantity="transmission"),
    "vectors": lambda: tomography("vectors"),
    "counts": lambda: tomography(quantity="counts"),
    "mri-slices": mri,
    "mri-frames": lambda: mri("frames"),
    "mri-readout": lambda: mri("readout"),
    "irs": irs,
}


def reconstruction(frames: int = 0, **changes: Any) -> Reconstruction:
    n = 4
    image = volume(frames)
    values: dict[str, Any] = {
        "modality": "mimo_radar",
        "volume": image,
        "uncertainty": np.abs(image.data),
        "convergence": Convergence(
            columns={
                **{name: np.full(n, np.nan) for name in COLUMNS},
                "iteration": np.arange(1, n + 1, dtype=np.int32),
                "primal_residual": np.array([1.0, 0.5, 0.2, 0.1]),
                "rho": np.full(n, np.nan),
                "elapsed": np.arange(n) * 0.5,
                "psnr": np.linspace(20, 25, n),
            },
            stop_reason="tolerance",
            converged=True,
            n_iterations=n,
        ),
        "metrics": {
            "psnr": Metric(value=25.5, units="dB", data_range=1.0, reference="/ground_truth/volume", definition="peak"),
            "measurement_residual": Metric(value=0.1, definition="|Ax - y| / |y|"),
        },
        "provenance": {"program": "backcast", "config": "{}", "wall_time": 2.0, "peak_memory": 1024.0},
        "previews": {"mip_z": np.arange(20, dtype=np.uint8).reshape(4, 5)},
        "attrs": {**FIXED, "input_uuid": FIXED["uuid"]},
    }
    if frames:
        values["metrics"] = {"nmse": Metric(value=np.linspace(0.1, 0.2, frames))}
    return Reconstruction(**{**values, **changes})


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested values differ, in type, dtype, shape or any bit; NaN equals NaN."""
    if type(a) is not type(b):
        return [f"{path}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return [] if same else [f"{path}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"]
    if isinstance(a, dict):
        if set(a) != set(b):
            return [f"{path}: keys {sorted(a)} and {sorted(b)}"]
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if hasattr(a, "__dataclass_fields__"):
        return [
            d for key in a.__dataclass_fields__ for d in differences(getattr(a, key), getattr(b, key), f"{path}.{key}")
        ]
    return [] if a == b else [f"{path}: {a!r} and {b!r}"]
