"""Cone beams: the direct method in closed form, every method through `reconstruct`, volumes that move."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data.measurement import Measurement, Scale, Volume
from data.reconstruction import Reconstruction
from imaging.direct import fdk
from imaging.errors import GeometryError
from imaging.operators import ConeBeam, Grid, TimeSequential
from pipelines.config import resolve
from pipelines.methods import find_method
from pipelines.reconstruct import reconstruct

H = 1e-3
GRID = Grid((-7.5 * H, -9.5 * H, -9.5 * H), (H, H, H), (16, 20, 20))
COLUMNS = 1.5 * H * (torch.arange(28, dtype=torch.float64) - 13.5)
ROWS = 1.5 * H * (torch.arange(20, dtype=torch.float64) - 9.5)
FAR = {"source_to_origin_m": 0.09, "origin_to_detector_m": 0.04}
METHODS = ("fbp", "tv", "psm", "pnp", "redpsm")


def turn(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64) * 2 * math.pi / n


def ball(x: float = 2 * H, y: float = -1 * H, z: float = 0.0, radius: float = 5 * H, value: float = 100.0) -> Tensor:
    """Averaged over the voxels, 1/m."""
    k = 4
    fine = [o + s * ((torch.arange(k * n) + 0.5) / k - 0.5) for o, s, n in zip(*_axes(), strict=True)]
    zz, yy, xx = torch.meshgrid(*fine, indexing="ij")
    inside = ((xx - x) ** 2 + (yy - y) ** 2 + (zz - z) ** 2 <= radius**2).double()
    n_z, n_y, n_x = GRID.shape
    return value * inside.reshape(n_z, k, n_y, k, n_x, k).mean((1, 3, 5))


def _axes() -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    return GRID.origin_m, GRID.spacing_m, GRID.shape


def chords(angles: Tensor, x: float, y: float, z: float, radius: float, value: float) -> Tensor:
    """Exact line integrals of a ball through the bins' centres, (n_view, n_row, n_column)."""
    views = []
    for angle in angles.tolist():
        along = torch.tensor((-math.sin(angle), math.cos(angle), 0.0), dtype=torch.float64)
        across = torch.tensor((math.cos(angle), math.sin(angle), 0.0), dtype=torch.float64)
        source = -FAR["source_to_origin_m"] * along
        up = torch.tensor((0.0, 0.0, 1.0), dtype=torch.float64)
        bins = FAR["origin_to_detector_m"] * along + COLUMNS[None, :, None] * across + ROWS[:, None, None] * up
        way = bins - source
        way = way / way.norm(dim=-1, keepdim=True)
        to = torch.tensor((x, y, z), dtype=torch.float64) - source
        squared = to.square().sum() - (way @ to).square()
        views.append(2 * value * (radius**2 - squared).clamp_min(0).sqrt())
    return torch.stack(views)


# -- fdk ------------------------------------------------------------------------------------------------------


def test_a_ball_comes_back_from_exact_projections() -> None:
    angles = turn(120)
    where = {"x": 2 * H, "y": -1 * H, "z": 1 * H, "radius": 5 * H, "value": 100.0}
    image = fdk(chords(angles, **where), angles, COLUMNS, ROWS, GRID, **FAR)
    zz, yy, xx = (v.reshape(GRID.shape) for v in GRID.points_m().flip(1).T)
    away = ((xx - 2 * H) ** 2 + (yy + H) ** 2 + (zz - H) ** 2).sqrt()
    inside, outside = image[away < 4 * H], image[(away > 6.5 * H) & (torch.hypot(xx, yy) < 9 * H)]
    assert float(inside.mean()) == pytest.approx(100, rel=0.02)
    assert float(inside.std()) < 5
    assert abs(float(outside.mean())) < 2
    mass = image.clamp_min(0) * (away < 6 * H)
    for axis, centre in ((xx, 2 * H), (yy, -H), (zz, H)):
        assert float((mass * axis).sum() / mass.sum()) == pytest.approx(centre, abs=0.1 * H)


def test_an_object_that_does_not_change_along_z_has_the_image_of_a_fan() -> None:
    """Rays in the mid-plane see a fan; `fbp` of the middle row is the mid-plane of `fdk`."""
    from imaging.direct import fbp

    angles = turn(40)
    y = torch.rand(40, 1, len(COLUMNS), dtype=torch.float64).expand(40, 3, len(COLUMNS)).contiguous()
    rows = torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)  # far away: the middle one alone is seen
    flat = Grid((0.0, *GRID.origin_m[1:]), GRID.spacing_m, (1, 20, 20))
    options = {"axis_offset_m": 0.4 * H, "window": "hann", **FAR}
    expected = fbp(y[:, :1], angles, COLUMNS, flat, geometry="fan", **options)
    torch.testing.assert_close(fdk(y, angles, COLUMNS, rows, flat, **options), expected)


def test_one_sentence_for_what_is_no_cone() -> None:
    angles, y = turn(8), torch.zeros(8, len(ROWS), len(COLUMNS))
    with pytest.raises(GeometryError, match="two rows or more"):
        fdk(y[:, :1], angles, COLUMNS, ROWS[:1], GRID, **FAR)
    with pytest.raises(GeometryError, match="increasing, evenly spaced rows"):
        fdk(y, angles, COLUMNS, ROWS.flip(0), GRID, **FAR)
    with pytest.raises(GeometryError, match="source outside the grid"):
        fdk(y, angles, COLUMNS, ROWS, GRID, source_to_origin_m=0.005, origin_to_detector_m=0.0)


# -- reconstruct ----------------------------------------------------------------------------------------------


@functools.cache
def scan(n_frames: int, views: int) -> Measurement:
    """A ball that rises and moves aside, `views` views per frame in golden-angle order, noise 0.5 %."""
    p = torch.arange(n_frames * views)
    angles = 2 * math.pi * (0.6180339887 * p.double() % 1)
    frames = p // views
    t = torch.arange(n_frames) / max(1, n_frames)
    truth = torch.stack([ball(z=float(2 * H * s), x=float(2 * H - 3 * H * s)) for s in t])[:, None].transpose(0, 1)[0]
    A = TimeSequential(ConeBeam(angles, COLUMNS, ROWS, GRID, dtype=torch.float64, **FAR), frames, n_frames)
    y = A(truth)
    y = y + 0.005 * y.max() * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
    scales = {n: Scale(values=GRID.axis_m(n).numpy(), units="m") for n in ("z", "y", "x")}
    movie = {"frame": Scale(values=np.arange(n_frames, dtype=float), units="s")} if n_frames > 1 else {}
    return Measurement(
        modality="tomography",
        data=y.numpy().astype(np.float32),
        axes=("projection", "detector_row", "detector_column"),
        scales={
            "projection": Scale(values=np.arange(len(p), dtype=np.int32), units="1"),
            "detector_row": Scale(values=ROWS.numpy(), units="m"),
            "detector_column": Scale(values=COLUMNS.numpy(), units="m"),
        },
        quantity="line_integral",
        geometry={"type": "cone", "rotation_axis_offset": 0.0, "source_to_origin": 0.09, "origin_to_detector": 0.04},
        acquisition={
            "angle": angles.numpy(),
            "time": p.double().numpy(),
            "frame_index": frames.numpy().astype(np.int32),
        },
        ground_truth=Volume(
            data=(truth if n_frames > 1 else truth[0]).numpy().astype(np.float32),
            axes=(*movie, "z", "y", "x"),
            scales={**movie, **scales},
            units="1/m",
            quantity="attenuation",
        ),
    )


def made(m: Measurement, method: str, *settings: str) -> Reconstruction:
    one = find_method(method, "tomography")
    return reconstruct(m, one, resolve(one.config, [], settings, name=method))


def error(r: Reconstruction, m: Measurement) -> float:
    assert m.ground_truth is not None
    truth = m.ground_truth.data
    return float(np.linalg.norm(r.volume.data - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize(
    ("method", "limit"), [("fbp", 0.35), ("tv", 0.1), ("psm", 0.2), ("pnp", 0.15), ("redpsm", 0.15)]
)
def test_a_still_ball_from_36_views(method: str, limit: float) -> None:
    m = scan(1, 36)
    r = made(m, method)
    assert r.volume.data.shape == GRID.shape
    assert error(r, m) < limit


#: Iterations that suffice here.
FEWER = {"tv": ("solver.max_iter=100",), "redpsm": ("solver.max_iter=10",)}


@pytest.mark.parametrize(("method", "limit"), [("fbp", 0.6), ("tv", 0.4), ("psm", 0.3), ("redpsm", 0.25)])
def test_a_moving_ball_from_two_views_at_a_time(method: str, limit: float) -> None:
    m = scan(16, 2)
    r = made(m, method, *FEWER.get(method, ()))
    assert r.volume.axes == ("frame", "z", "y", "x")
    assert error(r, m) < limit


def test_rows_are_checked_and_the_grid_is_free() -> None:
    m = scan(1, 36)
    turned = {**m.scales, "detector_row": Scale(values=np.asarray(m.scale("detector_row"))[::-1], units="m")}
    with pytest.raises(
        ValueError, match="/measurement/detector_row: expected increasing rows, found others; flip the detector"
    ):
        made(replace(m, scales=turned), "tv")
    r = made(replace(m, ground_truth=None), "tv", "grid.shape=[8,10,10]", "grid.spacing_m=[2e-3,2e-3,2e-3]")
    assert r.volume.data.shape == (8, 10, 10)
    without = made(replace(m, ground_truth=None), "fbp")
    assert without.volume.data.shape == (20, 28, 28)
    assert np.diff(without.volume.scale("z"))[0] == pytest.approx(1.5 * H * 0.09 / 0.13)
    assert without.volume.scale("z").mean() == pytest.approx(0, abs=1e-9)
