"""Filtered back-projection: discs in closed form, any angles, measured scans."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from imaging.direct import (
    EXTENSIONS,
    WINDOWS,
    fan_redundancy,
    fbp,
    fbp_frames,
    filter_rows,
    offset_detector_shares,
    ramp_filter,
    view_weights,
)
from imaging.errors import DtypeError, GeometryError, ShapeError
from imaging.operators import FanBeam, Grid, ParallelBeam, TimeSequential

SHARED = (
    Path(os.environ.get("BACKCAST_SHARED", Path(__file__).resolve().parent.parent.parent / "shared")) / "data" / "ct"
)


def measured(test: Callable) -> Callable:
    """Slow, and skipped with a reason where the measured scans are not at hand."""
    reason = f"measured scans not found in {SHARED}; set BACKCAST_SHARED to the folder above data/"
    return pytest.mark.slow(pytest.mark.skipif(not SHARED.is_dir(), reason=reason)(test))


PI = math.pi
N, H = 96, 1e-4
EDGE = -(N - 1) / 2 * H
GRID = Grid((0.0, EDGE, EDGE), (1e-3, H, H), (1, N, N))
COLUMNS = (torch.arange(144, dtype=torch.float64) - 71.5) * H
FAN_COLUMNS = (torch.arange(180, dtype=torch.float64) - 89.5) * 1.1 * H
FAN = {"geometry": "fan", "source_to_origin_m": 0.03, "origin_to_detector_m": 0.015}
OPENING = 2 * math.atan(float(FAN_COLUMNS[-1]) / 0.045)
DISC = (1.2e-3, -1.5e-3, 1.6e-3)  # x, y, radius
MU = 50.0


def turn(n: int, span: float) -> Tensor:
    return torch.arange(n, dtype=torch.float64) * span / n


def fine_bins(columns: Tensor) -> Tensor:
    return columns[:, None] + (columns[1] - columns[0]) * ((torch.arange(16, dtype=torch.float64) + 0.5) / 16 - 0.5)


def parallel(angles: Tensor, columns: Tensor = COLUMNS, disc=DISC, offset: float = 0.0) -> Tensor:
    """Exact bin averages of a disc's chords, (n_view, 1, n_bin)."""
    x, y, r = disc
    u = fine_bins(columns) - offset - (x * torch.cos(angles) + y * torch.sin(angles))[:, None, None]
    return MU * 2 * (r**2 - u**2).clamp_min(0).sqrt().mean(-1)[:, None]


def fan(angles: Tensor, columns: Tensor = FAN_COLUMNS, disc=DISC, offset: float = 0.0) -> Tensor:
    x, y, r = disc
    far, whole = FAN["source_to_origin_m"], FAN["source_to_origin_m"] + FAN["origin_to_detector_m"]
    u, t = fine_bins(columns) - offset, angles[:, None, None]
    dx, dy = u * torch.cos(t) - whole * torch.sin(t), u * torch.sin(t) + whole * torch.cos(t)
    distance = ((x - far * torch.sin(t)) * dy - (y + far * torch.cos(t)) * dx) / torch.hypot(dx, dy)
    return MU * 2 * (r**2 - distance**2).clamp_min(0).sqrt().mean(-1)[:, None]


def place(grid: Grid = GRID) -> tuple[Tensor, Tensor]:
    axes = zip(grid.origin_m, grid.spacing_m, grid.shape, strict=True)
    at = [o + s * torch.arange(n, dtype=torch.float64) for o, s, n in axes]
    y, x = torch.meshgrid(at[1], at[2], indexing="ij")
    return y, x


def assert_disc(image: Tensor, disc=DISC, *, tol: float = 0.01, noise: float = 0.03) -> None:
    """Value within 1 %, centre within a tenth of a pixel, nothing far away."""
    y, x = place()
    cx, cy, r = disc
    away = torch.hypot(x - cx, y - cy)
    image = image[0].double()
    assert float(image[away < 0.8 * r].mean()) == pytest.approx(MU, rel=tol)
    assert float(image[away < 0.8 * r].std()) < noise * MU
    outside = (away > 1.4 * r) & (torch.hypot(x, y) < 0.95 * N / 2 * H)
    assert abs(float(image[outside].mean())) < tol * MU
    assert float(image[outside].std()) < noise * MU
    mass = image.clamp_min(0) * (away < 1.3 * r)
    assert float((mass * x).sum() / mass.sum()) == pytest.approx(cx, abs=0.1 * H)
    assert float((mass * y).sum() / mass.sum()) == pytest.approx(cy, abs=0.1 * H)


# -- absolute value and place -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("span", [PI, 2 * PI], ids=["pi", "2pi"])
def test_a_disc_comes_back_from_parallel_rays(span: float, dtype: torch.dtype) -> None:
    angles = turn(301, span)
    image = fbp(parallel(angles).to(dtype), angles, COLUMNS, GRID)
    assert image.dtype == dtype
    assert image.shape == GRID.shape
    assert_disc(image, noise=0.02)


@pytest.mark.parametrize("span", [2 * PI, PI + OPENING, PI + 1.5 * OPENING, 1.6 * PI], ids=str)
def test_a_disc_comes_back_from_a_fan(span: float) -> None:
    """Full and short scans."""
    angles = turn(math.ceil(span / (PI / 300)), span) + 0.4
    assert_disc(fbp(fan(angles), angles, FAN_COLUMNS, GRID, **FAN), noise=0.02)


def test_fan_and_parallel_give_the_same_image() -> None:
    angles = turn(600, 2 * PI)
    one = fbp(parallel(angles), angles, COLUMNS, GRID, window="hann", cutoff=0.5)
    other = fbp(fan(angles), angles, FAN_COLUMNS, GRID, window="hann", cutoff=0.5 * 1.1 / 1.5, **FAN)  # same blur
    assert float((one - other).norm() / one.norm()) < 0.03


def test_a_very_distant_source_is_a_parallel_beam() -> None:
    angles = turn(240, 2 * PI)
    y = parallel(angles)
    distant = fbp(y, angles, COLUMNS, GRID, geometry="fan", source_to_origin_m=1e4, origin_to_detector_m=0.0)
    near = fbp(y, angles, COLUMNS, GRID)
    assert float((distant - near).norm() / near.norm()) < 1e-6


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_the_operators_are_inverted(geometry: str) -> None:
    """Same conventions, offset of the axis included, on an object without symmetry."""
    y, x = place()
    blobs = ((1e-3, 2e-3, 7e-4, 30.0), (-2e-3, 5e-4, 5e-4, 60.0), (0.0, -2.2e-3, 9e-4, 20.0))
    image = sum(m * torch.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s**2)) for a, b, s, m in blobs)[None]
    angles = turn(400, 2 * PI)
    kind = {"axis_offset_m": 7.3e-4}
    if geometry == "parallel":
        A = ParallelBeam(angles, COLUMNS, GRID, dtype=torch.float64, **kind)
        back = fbp(A(image), angles, COLUMNS, GRID, **kind)
    else:
        distances = {key: FAN[key] for key in ("source_to_origin_m", "origin_to_detector_m")}
        A = FanBeam(angles, FAN_COLUMNS, GRID, dtype=torch.float64, **distances, **kind)
        back = fbp(A(image), angles, FAN_COLUMNS, GRID, **FAN, **kind)
    assert float((back - image).norm() / image.norm()) < 0.01


def test_batch_and_slices_are_done_one_by_one() -> None:
    angles, grid = turn(20, PI), Grid((0.0, EDGE, EDGE), (1e-3, H, H), (3, N, N))
    y = torch.randn(2, 2, 20, 3, 144, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    image = fbp(y, angles, COLUMNS, grid)
    assert image.shape == (2, 2, 3, N, N)
    one = fbp(y[1, 0, :, 2:], angles, COLUMNS, GRID)
    assert torch.allclose(image[1, 0, 2:], one, rtol=1e-10, atol=1e-10 * float(one.abs().max()))
    both = fbp(torch.complex(y[0, 0], y[1, 1]), angles, COLUMNS, grid)
    assert torch.allclose(both.real, image[0, 0], rtol=1e-10, atol=1e-8)
    assert torch.allclose(both.imag, image[1, 1], rtol=1e-10, atol=1e-8)


def test_gradient_is_that_of_a_linear_map() -> None:
    """<fbp(y), x> = <y, grad>, exactly."""
    angles, generator = turn(8, PI), torch.Generator().manual_seed(1)
    y = torch.randn(8, 1, 144, dtype=torch.float64, generator=generator, requires_grad=True)
    x = torch.randn(1, N, N, dtype=torch.float64, generator=generator)
    value = (fbp(y, angles, COLUMNS, GRID) * x).sum()
    value.backward()
    assert float((y.grad * y.detach()).sum()) == pytest.approx(float(value.detach()), rel=1e-10)


# -- angles -------------------------------------------------------------------------------------


def test_order_and_repetition_of_views_change_nothing() -> None:
    angles = turn(90, PI)
    y = parallel(angles)
    expected = fbp(y, angles, COLUMNS, GRID)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    mixed = torch.cat((order, torch.tensor([3, 3, 50])))
    again = fbp(y[mixed], angles[mixed], COLUMNS, GRID)
    assert float((again - expected).norm() / expected.norm()) < 1e-12
    opposite = torch.where(torch.arange(90) % 3 == 0, angles + PI, angles)
    assert_disc(fbp(parallel(opposite), opposite, COLUMNS, GRID), noise=0.06)


@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_irregular_angles_equal_regular_ones(kind: str) -> None:
    """Jittered and dense-then-sparse views; equal weights would be off by far more."""
    period = PI if kind == "parallel" else 2 * PI
    n = 500
    generator = torch.Generator().manual_seed(2)
    t = (torch.arange(n, dtype=torch.float64) + torch.rand(n, dtype=torch.float64, generator=generator)) / n
    angles = (t + 0.1 * torch.sin(2 * PI * t)) * period  # density varies by more than four
    data, columns, options = (parallel, COLUMNS, {}) if kind == "parallel" else (fan, FAN_COLUMNS, FAN)
    image = fbp(data(angles), angles, columns, GRID, window="hann", **options)
    even = turn(n, period)
    expected = fbp(data(even), even, columns, GRID, window="hann", **options)
    assert_disc(image)
    assert float((image - expected).norm() / expected.norm()) < 0.02


def test_weights_are_the_way_to_the_neighbours() -> None:
    weights = view_weights(torch.tensor([0.0, 0.5, 0.9, 2.0, 0.5 + PI]), PI).weights_rad
    expected = [(0.5 + PI - 2.0) / 2, 0.45 / 2, 0.75, (PI - 2.0 + 1.1) / 2, 0.45 / 2]
    assert weights.tolist() == pytest.approx(expected)
    assert view_weights(torch.tensor([1.0]), PI).weights_rad.tolist() == pytest.approx([PI])
    nearly = view_weights(torch.tensor([0.0, PI - 1e-12, 1.0, PI], dtype=torch.float64), PI).weights_rad
    assert nearly.tolist() == pytest.approx([PI / 6, PI / 6, PI / 2, PI / 6])


@pytest.mark.parametrize("n", [5, 60, 400])
def test_weights_of_random_angles_sum_to_the_period(n: int) -> None:
    for seed in range(20):
        angles = 20 * torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 10
        coverage = view_weights(angles, PI)
        if coverage.complete:
            assert float(coverage.weights_rad.sum()) == pytest.approx(PI)
        else:  # chance gaps are rare
            assert seed != 0


def test_a_limited_range_is_left_limited() -> None:
    """120 of 180 degrees: weights stay one step each, and two thirds of the value come back."""
    angles = turn(240, 2 * PI / 3)
    coverage = view_weights(angles, PI)
    assert not coverage.complete
    assert coverage.weights_rad.tolist() == pytest.approx([PI / 360] * 240)
    image = fbp(parallel(angles), angles, COLUMNS, GRID)
    y, x = place()
    inside = torch.hypot(x - DISC[0], y - DISC[1]) < 0.5 * DISC[2]
    assert float(image[0][inside].mean()) == pytest.approx(2 / 3 * MU, rel=0.02)


def test_few_evenly_spread_views_are_complete() -> None:
    for n in (1, 2, 3, 8, 20):
        assert view_weights(turn(n, PI), PI).complete
    golden = torch.arange(34, dtype=torch.float64) * PI * (math.sqrt(5) - 1) / 2
    assert view_weights(golden, PI).complete


@pytest.mark.parametrize("span", [0.8 * PI, PI + 0.5 * OPENING, PI + OPENING, 1.7 * PI, 2 * PI], ids=str)
def test_opposite_rays_share_their_line(span: float) -> None:
    """Shares of a ray and its opposite sum to 1, whatever the range."""
    angles = turn(360, span)
    coverage = view_weights(angles, 2 * PI)
    gamma = torch.linspace(-OPENING / 2, OPENING / 2, 21, dtype=torch.float64)
    share = fan_redundancy(angles, gamma, coverage)
    assert float(share.min()) >= 0
    assert float(share.max()) <= 1
    for k in (0, 7, 20):
        other = fan_redundancy(angles + PI - 2 * gamma[k], gamma, coverage)[:, 20 - k]
        seen_twice = torch.ones(360, dtype=torch.bool)
        if not coverage.complete:
            (first, last), own = coverage.arcs_rad[0], angles + PI - 2 * gamma[k]
            seen_twice = (own - first).remainder(2 * PI) < last - first
        assert torch.allclose((share[:, k] + other)[seen_twice], torch.ones(1, dtype=torch.float64))
        assert torch.allclose(share[:, k][~seen_twice], torch.ones(1, dtype=torch.float64))


def test_frames_are_their_own_scans() -> None:
    """A disc that jumps: each frame from interleaved views."""
    angles = turn(360, PI)
    frame = torch.arange(360) % 2
    other = (-1.5e-3, 1e-3, 1.2e-3)
    y = torch.where((frame == 0)[:, None, None], parallel(angles), parallel(angles, disc=other))
    movie = fbp_frames(y, angles, COLUMNS, GRID, frame)
    assert movie.shape == (2, *GRID.shape)
    assert_disc(movie[0], noise=0.06)
    assert_disc(movie[1], other, noise=0.06)
    A = TimeSequential(ParallelBeam(angles, COLUMNS, GRID, dtype=torch.float64), frame)
    again = fbp_frames(A(movie.clamp_min(0))[None], angles, COLUMNS, GRID, frame, window="hann")
    assert again.shape == (1, 2, *GRID.shape)
    with pytest.raises(GeometryError, match="frames \\[2\\] empty"):
        fbp_frames(y, angles, COLUMNS, GRID, frame, 3)
    with pytest.raises(GeometryError, match="one per view"):
        fbp_frames(y, angles, COLUMNS, GRID, frame[:-1])


# -- filter -------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
def test_every_window_keeps_the_value(window: str) -> None:
    angles = turn(300, PI)
    assert_disc(fbp(parallel(angles), angles, COLUMNS, GRID, window=window))
    assert_disc(fbp(parallel(angles), angles, COLUMNS, GRID, window=window, cutoff=0.6), noise=0.04)


def test_windows_in_closed_form() -> None:
    n, spacing = 4096, 0.5
    ramp = ramp_filter(n, spacing)
    f = torch.arange(n // 2 + 1, dtype=torch.float64) / (n * spacing)
    assert float((ramp - f).abs().max()) < 2e-3 * float(f[-1])
    assert 0 < float(ramp[0]) < 1e-3 * float(f[-1])  # not zero: the mean of the image is right
    at_nyquist = {"ram-lak": 1.0, "shepp-logan": 2 / PI, "cosine": 0.0, "hamming": 0.08, "hann": 0.0}
    half = {
        "ram-lak": 1.0,
        "shepp-logan": math.sin(PI / 4) * 4 / PI,
        "cosine": math.sqrt(0.5),
        "hamming": 0.54,
        "hann": 0.5,
    }
    for window in WINDOWS:
        ratio = ramp_filter(n, spacing, window) / ramp
        assert float(ratio[-1]) == pytest.approx(at_nyquist[window], abs=1e-12)
        assert float(ratio[n // 4]) == pytest.approx(half[window])
        narrow = ramp_filter(n, spacing, window, 0.5) / ramp
        assert torch.allclose(narrow[: n // 4], ratio[: n // 2 : 2])
        assert float(narrow[n // 4 + 1 :].abs().max()) == 0


def test_the_filter_is_the_convolution_without_wrap_around() -> None:
    y = torch.randn(3, 41, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lag = (torch.arange(41)[:, None] - torch.arange(41)[None, :]).double()
    kernel = torch.where(lag.remainder(2) == 1, -1 / (PI * lag * 0.2) ** 2, 0.0)
    kernel[lag == 0] = 1 / (4 * 0.2**2)
    assert torch.allclose(filter_rows(y, 0.2), 0.2 * y @ kernel.T, rtol=1e-10, atol=1e-10)


def test_noise_in_the_image_is_as_theory_says() -> None:
    """White noise σ: variance (π / n_view) ∫ |f|² W² df / τ ... = π² σ² / (12 n_view τ²) at a pixel on a column."""
    n_view, sigma = 200, 0.3
    angles = turn(n_view, PI)
    generator = torch.Generator().manual_seed(0)
    y = sigma * torch.randn(400, n_view, 1, 33, dtype=torch.float64, generator=generator)
    grid = Grid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1, 1, 1))
    std = float(fbp(y, angles, torch.arange(33, dtype=torch.float64) - 16, grid).std())
    assert std == pytest.approx(PI * sigma / math.sqrt(12 * n_view), rel=0.1)


def test_truncated_projections_lose_their_rim_by_extension() -> None:
    """A disc wider than the detector: the bright rim goes, the plateau is flat."""
    angles, disc = turn(240, PI), (0.0, 0.0, 4.4e-3)
    narrow = COLUMNS[42:-42]
    y = parallel(angles, narrow, disc)
    row, x = place()
    r = torch.hypot(row, x)
    spread, value = {}, {}
    for extension in EXTENSIONS:
        image = fbp(y, angles, narrow, GRID, window="hann", extension=extension)[0]
        spread[extension] = float(image[r < 2.7e-3].std()) / MU
        value[extension] = float(image[r < 2.7e-3].mean()) / MU
    assert spread["zero"] > 0.1
    assert spread["smooth"] < spread["zero"] / 4
    assert spread["constant"] < spread["zero"] / 2
    assert abs(value["smooth"] - 1) < 0.12


@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_an_offset_detector_sees_the_whole_object(kind: str) -> None:
    """The object is wider than the short side; without the shares its value is wrong."""
    angles = turn(720, 2 * PI)
    narrow = (torch.arange(90, dtype=torch.float64) - 25) * H
    columns, data, options = (narrow, parallel, {}) if kind == "parallel" else (1.5 * narrow, fan, FAN)
    y = data(angles, columns)
    assert_disc(fbp(y, angles, columns, GRID, offset_detector=True, **options), noise=0.02)
    with pytest.raises(AssertionError):
        assert_disc(fbp(y, angles, columns, GRID, **options), noise=0.02)
    mirrored = data(angles, -columns.flip(0))
    assert_disc(fbp(mirrored, angles, -columns.flip(0), GRID, offset_detector=True, **options), noise=0.02)
    with pytest.raises(GeometryError, match="expected views over 2π"):
        fbp(y[:400], angles[:400], columns, GRID, offset_detector=True, **options)
    share = offset_detector_shares(torch.linspace(-1, 1, 9), 0.7)
    assert torch.allclose(share + share.flip(0), torch.ones(9, dtype=torch.float64))


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"y": torch.zeros(9, 1, 144)}, ShapeError, "expected \\(..., 10, 1, 144\\)"),
        ({"y": torch.zeros(10, 1, 144, dtype=torch.int32)}, DtypeError, "counts need -log first"),
        ({"y": torch.full((10, 1, 144), math.nan)}, ValueError, "NaN or Inf"),
        ({"angles_rad": torch.full((10,), math.inf)}, GeometryError, "angles_rad: expected finite"),
        ({"columns_m": COLUMNS.flip(0)}, GeometryError, "increasing, evenly spaced"),
        ({"columns_m": COLUMNS**3}, GeometryError, "evenly spaced"),
        ({"geometry": "cone"}, ValueError, "expected one of parallel, fan, got 'cone'"),
        ({"geometry": "fan"}, GeometryError, "expected source_to_origin_m and origin_to_detector_m"),
        ({"source_to_origin_m": 1.0}, GeometryError, "choose 'fan'"),
        ({**FAN, "source_to_origin_m": -1.0}, GeometryError, "source_to_origin_m > 0"),
        ({**FAN, "source_to_origin_m": 1e-3}, GeometryError, "source outside the grid"),
        ({"window": "parzen"}, ValueError, "expected one of ram-lak"),
        ({"cutoff": 0.0}, ValueError, "fraction of Nyquist"),
        ({"extension": "mirror"}, ValueError, "expected one of zero"),
        ({"axis_offset_m": math.nan}, GeometryError, "axis_offset_m"),
        ({"axis_offset_m": 1.0, "offset_detector": True, "angles_rad": turn(10, 2 * PI)}, GeometryError, "outside"),
    ],
)
def test_one_sentence_for_what_cannot_be(change, error, match: str) -> None:
    arguments = {"y": torch.zeros(10, 1, 144), "angles_rad": turn(10, PI), "columns_m": COLUMNS, "grid": GRID} | change
    with pytest.raises(error, match=match):
        fbp(**arguments)


# -- measured scans -----------------------------------------------------------------------------


def square(n: int, spacing_m: float, n_z: int = 1) -> Grid:
    edge = -(n - 1) / 2 * spacing_m
    return Grid((0.0, edge, edge), (1.0, spacing_m, spacing_m), (n_z, n, n))


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def htc() -> tuple[Tensor, Tensor, Tensor]:
    """Sinogram, angles and columns; the file's frame is left-handed: columns are flipped, θ = π - angle."""
    from scipy.io import loadmat

    scan = loadmat(SHARED / "htc2022_ta_full.mat", squeeze_me=True, struct_as_record=False)["CtDataFull"]
    y = torch.tensor(scan.sinogram[:-1], dtype=torch.float32)[:, None].flip(-1)  # the last view repeats the first
    angles = PI - torch.deg2rad(torch.tensor(np.asarray(scan.parameters.angles)[:-1], dtype=torch.float64))
    return y, angles, (torch.arange(560, dtype=torch.float64) - 279.5) * 0.2e-3


HTC = {"geometry": "fan", "source_to_origin_m": 0.41066, "origin_to_detector_m": 0.55374 - 0.41066}


@measured
def test_htc_disc_is_the_published_one() -> None:
    """Helsinki Tomography Challenge 2022: correlation and absolute value, full and short scan."""
    from scipy.io import loadmat

    pixel = 0.14832e-3
    published = loadmat(SHARED / "htc2022_ta_full_recon_fbp.mat")["reconFullFbp"] / pixel
    y, angles, columns = htc()
    image = fbp(y, angles, columns, square(512, pixel), **HTC)[0].numpy()
    assert correlation(image, published) > 0.9999
    assert np.polyfit(published.ravel(), image.ravel(), 1)[0] == pytest.approx(1, abs=2e-3)
    short = fbp(y[:400], angles[:400], columns, square(512, pixel), **HTC)[0].numpy()  # 200 degrees
    assert correlation(short, published) > 0.99
    assert np.polyfit(published.ravel(), short.ravel(), 1)[0] == pytest.approx(1, abs=0.02)


@measured
def test_pet_thorax_shows_lungs() -> None:
    """Photon-starved: body attenuates as water does at 511 keV relative to the lungs, air is zero."""
    from scipy.io import loadmat

    from imaging.calibration import line_integrals

    scan = torch.tensor(loadmat(SHARED / "pet_transmission_thorax_scan.mat")["test"].astype(float).T.copy())
    blank = torch.tensor(loadmat(SHARED / "pet_transmission_thorax_blank.mat")["test"].astype(float).T.copy())
    y = line_integrals(scan[:, None], blank[:, None], flat_per_view=True).values
    columns = torch.arange(160, dtype=torch.float64) - 79.5
    image = fbp(y, turn(192, PI), columns, square(160, 1.0), window="hann", cutoff=0.5)[0].numpy()
    air, body = image[5:25, 60:100].mean(), image[90:100, 74:80].mean()
    lungs = (image[70:85, 53:65].mean(), image[70:90, 103:115].mean())
    assert abs(air) < 0.1 * body
    for lung in lungs:
        assert 0.1 * body < lung < 0.7 * body


@measured
def test_haadf_needle_with_its_missing_wedge() -> None:
    """152 degrees: the wedge is seen as such, the needle is a filled disc and projects back onto the data."""
    scan = np.load(SHARED / "haadf_tilt_series_crop.npz")
    y = torch.tensor(scan["projections"].astype(np.float32).transpose(0, 2, 1))
    angles = torch.deg2rad(torch.tensor(scan["tilt_deg"], dtype=torch.float64))
    coverage = view_weights(angles, PI)
    assert math.degrees(float(coverage.weights_rad.sum())) == pytest.approx(154)
    columns, grid = torch.arange(256, dtype=torch.float64) - 127.5, square(256, 1.0, 64)
    image = fbp(y, angles, columns, grid)
    middle = image[32].numpy()
    assert middle[115:140, 115:140].min() > 4 * abs(middle[:40].mean())
    again = ParallelBeam(angles, columns, grid)(image.clamp_min(0))
    assert correlation(again[:, 32].numpy(), y[:, 32].numpy()) > 0.98


@measured
def test_mouse_gates() -> None:
    """About 125 views at irregular angles and a sixth of the dose per gate; the fan of the HTC convention."""
    from scipy.io import loadmat

    truth = loadmat(SHARED / "mouse_4gate_highdose.mat")["uTarget"].astype(float)
    sinogram = loadmat(SHARED / "mouse_4gate_lowdose_sinogram.mat")["dataAll"]
    view, gate = np.nonzero(np.abs(sinogram).sum(0) > 0)
    y = torch.tensor(sinogram[:, view, gate].T.copy(), dtype=torch.float32)[:, None].flip(-1)
    angles = PI - torch.deg2rad(torch.tensor(view, dtype=torch.float64))
    columns = (torch.arange(350, dtype=torch.float64) - 174.5) * 0.02e-2
    kind = {"geometry": "fan", "source_to_origin_m": 0.22, "origin_to_detector_m": 0.132}
    movie = fbp_frames(
        y, angles, columns, square(350, 0.0125e-2), torch.tensor(gate), window="hann", cutoff=0.5, **kind
    )
    images = [np.rot90(frame[0].numpy(), 3) for frame in movie]
    for k in range(4):
        assert correlation(images[k], truth[..., k]) > 0.92
    plain = fbp(y[gate == 0], angles[gate == 0], columns, square(350, 0.0125e-2), **kind)[0].numpy()
    assert correlation(np.rot90(plain, 3), truth[..., 0]) > 0.6
