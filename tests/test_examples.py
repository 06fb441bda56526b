"""The examples run: shrunk on synthetic inputs, and on the measured sets where these exist."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data import read_measurement, validate
from imaging.operators import Grid, near_field_operator

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SHARED = Path(os.environ.get("BACKCAST_SHARED", ROOT.parent / "shared")) / "data" / "radar"
SPEED = 299_792_458.0

measured = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"measured sets not found in {SHARED}; set BACKCAST_SHARED to their folder"
)


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name, *arguments):
    """As `python examples/NAME.py ...` does."""
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv = before


def back_project(path):
    """|Aᴴ y| (nz, ny, nx) of the calibrated samples on the file's own grid."""
    m = read_measurement(path)
    grid = Grid(m.grid.origin_m, m.grid.spacing_m, m.grid.shape)
    A = near_field_operator(
        torch.from_numpy(m.geometry["tx_positions"]),
        torch.from_numpy(m.geometry["rx_positions"]),
        torch.from_numpy(m.scale("frequency")),
        grid,
        channel_tx=torch.from_numpy(m.geometry["channel_tx"]),
        channel_rx=torch.from_numpy(m.geometry["channel_rx"]),
        amplitude=m.acquisition["amplitude_model"],
        phase_convention=m.acquisition["phase_convention"],
    )
    return A.adjoint(torch.from_numpy(m.data[0])).abs().numpy(), grid, m


def peak_m(image, grid):
    """Position (x, y, z) of the brightest voxel, metres."""
    index = np.unravel_index(image.argmax(), image.shape)
    z, y, x = (float(grid.axis_m(a)[i]) for a, i in zip("zyx", index, strict=True))
    return x, y, z


def surface_scan(path):
    """A surface like OpenRIS's that only steers, seen by few receivers at few frequencies, with 1 % noise."""
    module, rng = example("openris_prediction"), np.random.default_rng(0)
    angles, targets = np.arange(30.0, 151.0, 24.0), np.arange(30.0, 151.0, 20.0)
    frequency = 3.51e9 + 10e6 * np.arange(14)
    transmitter = module.antenna(120.0, 8.3)
    patterns = np.stack([module.states(transmitter, module.antenna(t, 8.3)) for t in targets])
    seen = patterns @ module.steered(transmitter, [module.antenna(a, 8.3) for a in angles], module.DESIGN_HZ)
    y = seen[:, :, None] * np.exp(-2j * np.pi * frequency * 60e-9)
    size = np.sqrt(np.mean(np.abs(y) ** 2))
    noise = 0.1 * size * (rng.standard_normal((2, *y.shape)) + 1j * rng.standard_normal((2, *y.shape))) / np.sqrt(2)
    np.savez(
        path,
        s34=(y + noise[0]).astype("c8"),
        s43=(y + noise[1]).astype("c8"),
        freq_hz=frequency,
        rx_angle_deg=angles,
        tx_angle_deg=120.0,
        target_angle_deg=targets,
        distance_m=8.3,
    )


# -- shrunk -------------------------------------------------------------------------------------


def test_openris_prediction(tmp_path, capsys):
    surface_scan(tmp_path / "scan.npz")
    run_script("openris_prediction", tmp_path / "scan.npz", "--picture", tmp_path / "scan.png")
    assert (tmp_path / "scan.png").stat().st_size > 10_000
    rows = {line[:31].strip(): line[31:].split() for line in capsys.readouterr().out.splitlines()[3:]}
    own = rows["krosbl-mm, own direction"]
    assert float(own[0]) < 0.03  # one percent is noise
    assert float(own[-1]) > 0.3  # with the states of other configurations
    assert float(rows["mean of the others"][0]) > 0.3
    assert float(rows["noise and drift"][0]) == pytest.approx(0.01, rel=0.2)


def test_foam_scan(tmp_path):
    """A point behind a strong leak and an unknown delay: found where it is."""
    nx, ny, step = 21, 17, 0.003
    frequency = np.linspace(22.2e9, 26.2e9, 11)
    k = 2 * np.pi * frequency[:, None, None] / SPEED
    x, y = (np.arange(nx) - 10) * step, (np.arange(ny) - 8) * step
    place = np.array([x[14], y[5], 0.090])
    r = np.sqrt((x[:, None] - place[0]) ** 2 + (y - place[1]) ** 2 + place[2] ** 2)
    delay = np.linspace(0.3, 5.0, 11)
    counts = 30000 + 2000j + 400 * np.exp(-2j * k * r - 1j * delay[:, None, None])
    np.savez(
        tmp_path / "scan.npz",
        iq_counts=np.stack([-counts.imag + 30000, counts.real]).round().astype(np.uint16),
        freq_hz=frequency,
        phase_cal_rad=delay,
        step_m=[step, step],
    )
    run_script("puf_foam_scan", tmp_path / "scan.npz", tmp_path / "foam.h5")
    assert validate(tmp_path / "foam.h5", deep=True) == []
    image, grid, m = back_project(tmp_path / "foam.h5")
    assert m.applied_calibration == ("background", "phase")
    assert m.data.shape == (1, nx * ny, 11)
    assert peak_m(image, grid)[:2] == pytest.approx(place[:2], abs=1e-9)
    assert peak_m(image, grid)[2] == pytest.approx(place[2], abs=0.0051)
    raw = read_measurement(tmp_path / "foam.h5", calibrate=False)
    assert np.abs(raw.data).mean() > 25000  # the script has not touched the samples


@pytest.mark.parametrize("phase", [False, True])
def test_cylinders(tmp_path, phase):
    radius, frequency = 1.67, np.linspace(2e9, 10e9, 9)
    tx = np.arange(0, 360, 45.0)
    rx = (tx[:, None] + 60 + np.arange(0, 241)).astype(np.int16)
    k = 2 * np.pi * frequency / SPEED
    place = np.array([0.05, -0.02])

    def ring(angle):
        a = np.deg2rad(angle)
        return radius * np.stack([np.cos(a), np.sin(a)], axis=-1)

    source = np.exp(1j * np.linspace(0, 4, 9)) if phase else np.ones(9)
    apart = np.linalg.norm(ring(rx) - ring(tx)[:, None], axis=-1)
    incident = source * np.exp(1j * k * apart[..., None])
    path = np.linalg.norm(ring(tx) - place, axis=-1)[:, None] + np.linalg.norm(ring(rx) - place, axis=-1)
    total = incident + 0.1 * source * np.exp(1j * k * path[..., None])
    np.savez(
        tmp_path / "set.npz",
        total=total.astype("c8"),
        incident=incident.astype("c8"),
        tx_angle_deg=tx,
        rx_angle_deg=rx,
        freq_hz=frequency,
        radius_m=radius,
    )
    run_script("fresnel_cylinders", tmp_path / "set.npz", tmp_path / "out.h5", *(["phase"] if phase else []))
    assert validate(tmp_path / "out.h5", deep=True) == []
    image, grid, m = back_project(tmp_path / "out.h5")
    assert m.applied_calibration == (("background", "gain") if phase else ("background",))
    assert peak_m(image, grid)[:2] == pytest.approx(place, abs=1e-9)
    assert image.max() == pytest.approx(0.1 * m.data.size, rel=1e-3)  # all samples in phase


def test_your_own_operator():
    before, after = example("your_own_operator").main(shape=(12, 12, 12), max_iter=40)
    assert after > before + 3


def test_your_own_denoiser():
    denoise = example("your_own_denoiser").denoise
    generator = torch.Generator().manual_seed(0)
    clean = torch.zeros(2, 16, 16, 16)
    clean[:, 4:12, 4:12, 4:12] = 1.0
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    assert float((denoise(noisy, 0.1) - clean).norm()) < 0.6 * float((noisy - clean).norm())
    torch.testing.assert_close(denoise(noisy[:1], 0.1), denoise(noisy, 0.1)[:1])


def test_train_denoiser(tmp_path, monkeypatch, capsys):
    """As a script, shrunk; a second run finds nothing left to do."""
    from denoisers import load_denoiser

    monkeypatch.chdir(tmp_path)
    run_script("train_denoiser", 8)
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines()] == ["step 2", "step 4", "step 6", "step 8"]
    weights = (tmp_path / "trained" / "small.safetensors").read_bytes()
    denoise = load_denoiser("trained/small.safetensors")
    assert denoise(torch.rand(1, 9, 8, 7), 0.1).shape == (1, 9, 8, 7)
    run_script("train_denoiser", 8)
    assert capsys.readouterr().out == ""
    assert (tmp_path / "trained" / "small.safetensors").read_bytes() == weights


# -- measured -----------------------------------------------------------------------------------


@pytest.mark.slow
@measured
@pytest.mark.parametrize(("name", "x_m"), [("Ext", 0.056), ("Int", 0.007)])
def test_measured_cylinders(tmp_path, name, x_m):
    source = SHARED / f"fresnel_FoamDiel{name}TM.npz"
    run_script("fresnel_cylinders", source, tmp_path / "out.h5")
    image, grid, _ = back_project(tmp_path / "out.h5")
    assert peak_m(image, grid)[:2] == pytest.approx((x_m, 0.0), abs=0.005)


@pytest.mark.slow
@measured
def test_measured_foam(tmp_path):
    """The insert's rim is dark all around at 0.085 and 0.090 m, where the angular-spectrum recipe shows it."""
    run_script("puf_foam_scan", SHARED / "puf_planar_22-26GHz.npz", tmp_path / "foam.h5")
    assert validate(tmp_path / "foam.h5", deep=True) == []
    image, grid, _ = back_project(tmp_path / "foam.h5")
    x, y = grid.axis_m("x").numpy(), grid.axis_m("y").numpy()
    for layer in image[[7, 8]]:
        along_x, along_y = layer[68:82].mean(axis=0), layer[:, 62:78].mean(axis=1)
        for profile, axis, rims_m in ((along_x, x, (-0.107, -0.036)), (along_y, y, (-0.030, 0.045))):
            background = np.median(profile[40:110])
            for rim_m in rims_m:
                near = np.abs(axis - rim_m) <= 0.0075
                assert profile[near].min() < 0.82 * background
