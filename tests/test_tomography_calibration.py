"""Rotation axis, rings, bad pixels, counts: closed forms, statistics, measured scans."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from imaging.calibration import (
    DetectorNoise,
    axis_from_moments,
    axis_from_pairs,
    damp_rings,
    estimate_sinogram_noise,
    find_bad_pixels,
    find_rotation_centre,
    interpolate_bad_pixels,
    line_integrals,
    line_integrals_from_transmission,
    photon_transfer,
)
from imaging.direct import fbp
from imaging.errors import DtypeError, GeometryError, ShapeError
from imaging.operators import Grid

SHARED = (
    Path(os.environ.get("BACKCAST_SHARED", Path(__file__).resolve().parent.parent.parent / "shared")) / "data" / "ct"
)


def measured(test: Callable) -> Callable:
    """Slow, and skipped with a reason where the measured scans are not at hand."""
    reason = f"measured scans not found in {SHARED}; set BACKCAST_SHARED to the folder above data/"
    return pytest.mark.slow(pytest.mark.skipif(not SHARED.is_dir(), reason=reason)(test))


PI = math.pi
DISCS = ((0.0, 0.0, 50.0, 0.02), (15.0, -20.0, 20.0, 0.05), (-25.0, 10.0, 10.0, 0.08), (10.0, 28.0, 6.0, 0.1))
COLUMNS = torch.arange(192, dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turn(n: int, span: float) -> Tensor:
    return torch.arange(n, dtype=torch.float64) * span / n


def discs(angles: Tensor, axis: float, columns: Tensor = COLUMNS) -> Tensor:
    """Chords of four discs, bin averages, (n_view, 1, n_bin)."""
    fine = columns[:, None] + (torch.arange(8, dtype=torch.float64) + 0.5) / 8 - 0.5 - axis
    total = torch.zeros(len(angles), len(columns), dtype=torch.float64)
    for x, y, r, value in DISCS:
        u = fine - (x * torch.cos(angles) + y * torch.sin(angles))[:, None, None]
        total += value * 2 * (r**2 - u**2).clamp_min(0).sqrt().mean(-1)
    return total[:, None]


# -- rotation axis ------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [95.5, 98.8, 75.13, 112.4])
@pytest.mark.parametrize("span", [PI, 2 * PI], ids=["pi", "2pi"])
def test_the_axis_is_found(axis: float, span: float) -> None:
    angles = turn(180, span)
    found = find_rotation_centre(discs(angles, axis), angles, COLUMNS)
    assert found.axis_column == pytest.approx(axis, abs=0.05)
    assert found.axis_offset_m == pytest.approx(found.axis_column)
    assert set(found.starts_m) == {"pairs", "moments"}


@pytest.mark.parametrize("span", [PI, 2 * PI], ids=["pi", "2pi"])
def test_the_axis_in_noise_is_within_half_a_bin(span: float) -> None:
    """Noise of 5 % of the largest projection."""
    angles = turn(180, span)
    for seed in range(3):
        y = discs(angles, 88.3)
        y = y + 0.05 * y.max() * torch.randn(y.shape, dtype=y.dtype, generator=generator(seed))
        found = find_rotation_centre(y.float(), angles, COLUMNS)
        assert found.axis_column == pytest.approx(88.3, abs=0.5)


def test_the_axis_is_in_metres_and_needs_no_order_of_views() -> None:
    angles = turn(181, PI)
    order = torch.randperm(181, generator=generator())
    columns = (COLUMNS - 95.5) * 2e-5
    found = find_rotation_centre(discs(angles, 101.5)[order], angles[order], columns)
    assert found.axis_offset_m == pytest.approx(6 * 2e-5, abs=0.05 * 2e-5)
    assert found.scores.argmin() not in (0, len(found.scores) - 1)
    assert float((found.offsets_m[1:] - found.offsets_m[:-1]).max()) == pytest.approx(0.25 * 2e-5)


def test_truncated_projections_leave_the_pairs() -> None:
    angles, narrow = turn(180, 2 * PI), torch.arange(60, 140, dtype=torch.float64)
    found = find_rotation_centre(discs(angles, 98.8, narrow), angles, narrow)
    assert found.axis_offset_m == pytest.approx(98.8, abs=0.2)
    assert "opposite views" in found.method
    half = find_rotation_centre(discs(angles / 2, 98.8, narrow), angles / 2, narrow)
    assert half.axis_offset_m == pytest.approx(98.8, abs=0.3)
    assert "check the image" in half.method
    with pytest.raises(GeometryError, match="give the axis by hand"):
        find_rotation_centre(discs(angles[:85], 98.8, narrow), angles[:85], narrow)


def test_direct_estimates() -> None:
    angles = turn(50, PI)
    assert axis_from_moments(discs(angles, 90.2), angles) == pytest.approx(90.2, abs=1e-3)
    third = angles * 0.6
    assert axis_from_moments(discs(third, 90.2), third) == pytest.approx(90.2, abs=0.02)
    assert axis_from_pairs(discs(third, 90.2), third) is None
    two = torch.tensor([0.3, 0.3 + PI])
    assert axis_from_pairs(discs(two, 90.2), two) == pytest.approx(90.2, abs=0.02)
    assert axis_from_moments(torch.zeros(50, 1, 192), angles) is None


def test_what_has_no_axis_is_an_error() -> None:
    angles = turn(60, 0.5 * PI)
    with pytest.raises(GeometryError, match="found 90 degrees"):
        find_rotation_centre(discs(angles, 90), angles, COLUMNS)
    with pytest.raises(ShapeError, match="expected \\(60, nz, 192\\)"):
        find_rotation_centre(discs(angles, 90)[1:], angles, COLUMNS)


def tooth() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with h5py.File(SHARED / "tooth.h5") as f:
        data, white, dark, theta = (
            torch.tensor(f[f"exchange/{name}"][()], dtype=torch.float64)
            for name in ("data", "data_white", "data_dark", "theta")
        )
    return data, white, dark, torch.deg2rad(theta)


@measured
def test_the_axis_of_the_tooth_is_found() -> None:
    """Synchrotron scan, 0 to 179 degrees; the axis is known to lie between columns 295.5 and 296."""
    data, white, dark, angles = tooth()
    y = line_integrals(data, white, dark).values
    columns = torch.arange(640, dtype=torch.float64)
    for part in (slice(None), slice(0, 1), slice(1, 2)):
        assert find_rotation_centre(y[:, part], angles, columns).axis_offset_m == pytest.approx(295.75, abs=0.3)
    assert find_rotation_centre(y[::2], angles[::2], columns).axis_offset_m == pytest.approx(295.75, abs=0.5)
    cut = find_rotation_centre(y[:, :, 200:420], angles, columns[200:420])
    assert cut.axis_offset_m == pytest.approx(295.75, abs=1)


# -- rings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "left"), [("offset", 0.5), ("sorting", 0.4)])
def test_stripes_are_damped(method: str, left: float) -> None:
    """Their mean over the views, against what it was; "offset" leaves those fainter than the object's slopes."""
    angles = turn(180, PI)
    clean = discs(angles, 95.5)
    stripes = torch.zeros(192, dtype=torch.float64)
    stripes[[40, 41, 77, 90, 120, 150]] = torch.tensor([0.1, 0.12, -0.15, 0.08, 0.1, -0.1], dtype=torch.float64)
    noise = 0.01 * torch.randn(clean.shape, dtype=clean.dtype, generator=generator())
    damped = damp_rings(clean + noise + stripes, method=method)
    assert float((damped - clean - noise).mean(0).norm() / stripes.norm()) < left


def test_ring_free_data_come_to_no_harm() -> None:
    """Exactly none by "offset" without noise, a tenth of the grain with it; "sorting" costs a few per cent."""
    angles, axis = turn(180, PI), {"axis_offset_m": 95.5}
    clean = discs(angles, 95.5)
    grid = Grid((0.0, -70.0, -70.0), (1.0, 1.0, 1.0), (1, 141, 141))
    noise = 0.02 * torch.randn(clean.shape, dtype=clean.dtype, generator=generator())
    assert torch.equal(damp_rings(clean), clean)
    base, grain = (fbp(v, angles, COLUMNS, grid, **axis) for v in (clean, noise))
    harm = fbp(damp_rings(clean + noise) - noise, angles, COLUMNS, grid, **axis) - base
    assert float(harm.norm()) < 0.1 * float(grain.norm())
    harm = fbp(damp_rings(clean, method="sorting"), angles, COLUMNS, grid, **axis) - base
    assert float(harm.norm()) < 0.06 * float(base.norm())


def test_a_batch_is_damped_row_by_row() -> None:
    y = torch.randn(2, 30, 3, 64, generator=generator())
    for method in ("sorting", "offset"):
        assert torch.equal(damp_rings(y, method=method)[1, :, 2:], damp_rings(y[1, :, 2:], method=method))


def test_rings_errors() -> None:
    y = torch.zeros(5, 1, 16)
    with pytest.raises(ShapeError, match="smaller size"):
        damp_rings(y, size=21)
    with pytest.raises(ValueError, match="odd number"):
        damp_rings(y, size=4)
    with pytest.raises(ValueError, match="expected one of sorting, offset"):
        damp_rings(y, method="wavelet", size=5)


@measured
def test_rings_of_the_tooth() -> None:
    """The mean over circles is smoother, in the air around the tooth and in it, and the tooth is as it was."""
    data, white, dark, angles = tooth()
    y = line_integrals(data, white, dark).values
    grid = Grid((0.0, -255.5, -255.5), (1.0, 1.0, 1.0), (2, 512, 512))
    row, column = np.mgrid[:512, :512] - 255.5
    radius = np.hypot(row, column).astype(int)
    images, ripple = [], []
    for v in (y, damp_rings(y), damp_rings(y, method="sorting")):
        image = fbp(v, angles, torch.arange(640, dtype=torch.float64), grid, axis_offset_m=295.75)[0].numpy()
        profile = np.bincount(radius.ravel(), image.ravel()) / np.bincount(radius.ravel())
        images.append(image[120:380, 140:400])
        ripple.append((np.diff(profile[170:250]).std(), np.diff(profile[10:60]).std()))
    (air, inner), offset, sorting = ripple
    assert offset[0] < air / 3
    assert offset[1] < inner / 1.2
    assert sorting[0] < air / 3
    assert sorting[1] < inner / 2
    for image in images[1:]:
        assert np.corrcoef(images[0].ravel(), image.ravel())[0, 1] > 0.99


# -- bad pixels ---------------------------------------------------------------------------------


def test_bad_pixels_are_found_and_named() -> None:
    g = generator()
    dark = 100 + 3 * torch.randn(10, 2, 60, generator=g)
    flat = 5000 + 20 * torch.randn(10, 2, 60, generator=g)
    data = 3000 + 50 * torch.randn(40, 2, 60, generator=g)
    flat[:, 0, 5], data[:, 0, 5] = 90.0, 90.0  # dead, and stuck
    dark[:, 0, 20] += 400
    flat[:, 1, 30] = 12000.0
    data[7, 1, 45] = 65535.0
    found = find_bad_pixels(data, flat, dark, saturation=65535)
    where = {name: torch.nonzero(mask).tolist() for name, mask in found.reasons.items()}
    assert where == {
        "dead": [[0, 5]],
        "response": [[1, 30]],
        "hot": [[0, 20]],
        "saturated": [[1, 45]],
        "stuck": [[0, 5]],
    }
    assert str(found) == "4 of 120 detector pixels are bad: 1 dead, 1 response, 1 hot, 1 saturated, 1 stuck"
    good = find_bad_pixels(data[:, 1:, :30], flat[:, 1:, :30], dark[:, 1:, :30])
    assert str(good) == "0 of 30 detector pixels are bad"
    only = find_bad_pixels(data)
    assert torch.nonzero(only.mask).tolist() == [[0, 5]]
    with pytest.raises(ShapeError, match="flat: expected frames \\(n, 2, 60\\)"):
        find_bad_pixels(data, flat[:, :1])


def test_bad_pixels_are_bridged_along_the_row() -> None:
    y = (torch.arange(12, dtype=torch.float64) * 2 + 1).expand(3, 4, 2, 12).clone()
    bad = torch.zeros(2, 12, dtype=torch.bool)
    bad[0, [3, 6, 7, 8]] = True
    bad[1, [0, 1, 11]] = True
    broken = torch.where(bad, 1e6, y)
    fixed = interpolate_bad_pixels(broken, bad)
    expected = y.clone()
    expected[..., 1, :2], expected[..., 1, 11] = y[0, 0, 1, 2], y[0, 0, 1, 10]
    assert torch.allclose(fixed, expected)
    assert interpolate_bad_pixels(y, torch.zeros_like(bad)) is y
    bad[1] = True
    with pytest.raises(ValueError, match="found none in rows \\[1\\]"):
        interpolate_bad_pixels(y, bad)
    with pytest.raises(ShapeError, match="expected bool \\(2, 12\\)"):
        interpolate_bad_pixels(y, bad[:1])
    with pytest.raises(ValueError, match="normalise counts first"):
        interpolate_bad_pixels(y.int(), bad)


# -- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_frames", [2, 20])
@pytest.mark.parametrize(("gain", "read"), [(1.0, 0.0), (2.5, 12.0)])
def test_variance_is_that_of_a_monte_carlo(gain: float, read: float, n_frames: int) -> None:
    """Counts, flats and darks drawn anew 4000 times; the mean of the stated variances against the measured one."""
    photons, open_beam, dark_level = torch.tensor([100.0, 300.0, 1000.0, 2500.0]), 3000.0, 100.0
    g, draws = generator(), 4000

    def detect(mean: Tensor) -> Tensor:
        noise = read * torch.randn(mean.shape, generator=g)
        return (gain * torch.poisson(mean, generator=g) + dark_level + noise).double()

    values, stated = [], []
    for _ in range(draws // 10):
        # ten detector rows are ten independent draws
        flat = detect(torch.full((n_frames, 10, 4), open_beam))
        dark = detect(torch.zeros(n_frames, 10, 4))
        scan = detect(photons.expand(1, 10, 4))
        found = line_integrals(scan, flat, dark, noise=DetectorNoise(gain, read))
        values.append(found.values[0])
        stated.append(found.variance[0])
    values, stated = torch.cat(values), torch.cat(stated)
    expected = torch.log(open_beam / photons.double())
    assert float((values.mean(0) - expected).abs().max()) < 0.015
    assert torch.allclose(values.var(0), stated.mean(0), rtol=0.1)
    # weighting with them is as good as it gets: chi² per sample is one
    assert float(((values - expected) ** 2 / stated).mean()) == pytest.approx(1, abs=0.1)


def test_weights_are_the_counts_of_a_photon_counter() -> None:
    counts = torch.tensor([10.0, 100.0, 1e4]).reshape(1, 1, 3)
    found = line_integrals(counts, torch.full((1, 3), 2e4))
    assert torch.allclose(found.weights, counts)
    assert torch.allclose(found.values, torch.log(2e4 / counts))


def test_zero_negative_and_excess_counts() -> None:
    counts = torch.tensor([0.0, -3.0, 0.4, 5.0, 120.0]).reshape(1, 1, 5)
    found = line_integrals(counts, torch.full((1, 5), 100.0))
    assert found.floored.flatten().tolist() == [True, True, True, False, False]
    assert found.values.flatten()[:3].tolist() == pytest.approx([math.log(200)] * 3)
    assert float(found.values[0, 0, 4]) == pytest.approx(-math.log(1.2))
    assert found.weights.flatten().tolist() == pytest.approx([0, 0, 0, 5, 120])
    assert str(found) == "3 of 5 samples below the floor of counts (weight 0), 1 above the flat field (kept)"
    with pytest.raises(ValueError, match="1 of 5 pixels otherwise"):
        line_integrals(counts, torch.tensor([[100.0, 100, 0, 100, 100]]))
    with pytest.raises(ValueError, match="half a photon"):
        line_integrals(counts, torch.full((1, 5), 100.0), floor_counts=0)
    with pytest.raises(ShapeError, match="one frame per view"):
        line_integrals(counts, torch.full((1, 5), 100.0), flat_per_view=True)


def test_transmission_without_counts() -> None:
    t = torch.tensor([1.0, 0.5, 1.1])
    assert torch.allclose(line_integrals_from_transmission(t), -t.log())
    with pytest.raises(ValueError, match="found 2 of 3 samples at zero or below"):
        line_integrals_from_transmission(torch.tensor([0.0, -0.1, 1.0]))
    floored = line_integrals_from_transmission(torch.tensor([0.0, -0.1, 1.0]), floor=1e-3)
    assert floored.tolist() == pytest.approx([math.log(1000)] * 2 + [0])
    with pytest.raises(DtypeError, match="line_integrals"):
        line_integrals_from_transmission(torch.ones(3, dtype=torch.int32))


def test_gain_and_read_noise_by_photon_transfer() -> None:
    """With a lamp that drifts by 20 %."""
    g = generator()
    lamp = torch.linspace(0.9, 1.1, 12)[:, None, None]
    flat = (
        1.7 * torch.poisson((3000 * lamp).expand(12, 20, 100), generator=g)
        + 200
        + 15 * torch.randn(12, 20, 100, generator=g)
    )
    dark = 200 + 15 * torch.randn(12, 20, 100, generator=g)
    found = photon_transfer(flat, dark)
    assert found.gain == pytest.approx(1.7, rel=0.03)
    assert found.read_std == pytest.approx(15, rel=0.02)
    with pytest.raises(ShapeError, match="two frames"):
        photon_transfer(flat[:1])
    with pytest.raises(ValueError, match="copies of one"):
        photon_transfer(torch.full((4, 2, 5), 100.0))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_noise_of_a_sinogram(sigma: float) -> None:
    """Largest projection 8.5: from a thousandth of it upwards within 5 %; a batch is a loop."""
    angles = turn(360, PI)
    y = discs(angles, 95.5).expand(2, -1, -1, -1)
    noise = torch.randn(y.shape, dtype=y.dtype, generator=generator())
    found = estimate_sinogram_noise(y + sigma * noise)
    assert found.std.shape == (2,)
    assert found.std.tolist() == pytest.approx([sigma, sigma], rel=0.05)
    assert float(estimate_sinogram_noise((y + sigma * noise)[1]).std) == float(found.std[1])
    spread = torch.stack(
        [estimate_sinogram_noise(torch.randn(40, 1, 50, generator=generator(k))).std for k in range(60)]
    )
    freedom = estimate_sinogram_noise(torch.zeros(40, 1, 50)).degrees_of_freedom
    assert float(spread.std()) == pytest.approx(1 / math.sqrt(2 * freedom), rel=0.3)
    with pytest.raises(ShapeError, match="n_view >= 3"):
        estimate_sinogram_noise(torch.zeros(2, 1, 50))


@measured
def test_statistics_of_the_tooth() -> None:
    """The noise that the flats foretell is what the sinogram shows."""
    data, white, dark, _ = tooth()
    detector = photon_transfer(white, dark)
    assert not bool(find_bad_pixels(data, white, dark).mask.any())
    found = line_integrals(data, white, dark, noise=detector)
    foretold = float(found.variance.sqrt().median())
    assert float(estimate_sinogram_noise(found.values).std) == pytest.approx(foretold, rel=0.2)
    assert not bool(found.floored.any())


@measured
def test_counts_of_a_photon_starved_scan() -> None:
    """PET transmission: zeros are set to the floor and get no weight."""
    from scipy.io import loadmat

    scan = torch.tensor(loadmat(SHARED / "pet_transmission_thorax_scan.mat")["test"].astype(float).T.copy())
    blank = torch.tensor(loadmat(SHARED / "pet_transmission_thorax_blank.mat")["test"].astype(float).T.copy())
    found = line_integrals(scan[:, None], blank[:, None], flat_per_view=True)
    assert int(found.floored.sum()) == int((scan == 0).sum()) == 134
    assert bool((found.weights[found.floored] == 0).all())
    axis = find_rotation_centre(found.values.float(), turn(192, PI), torch.arange(160, dtype=torch.float64))
    assert axis.axis_offset_m == pytest.approx(79.5, abs=0.7)
