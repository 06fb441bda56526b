"""Motions: the identity at rest, mass, periods, directions, the warp of RP 7.1, and one sentence per mistake."""

import numpy as np
import pytest
from skimage.transform import PiecewiseAffineTransform, warp

from data.phantoms import SimulationError, ellipses
from data.simulate import MOTIONS
from data.simulate.motions import breathing, compression, flow, growth, none, piecewise_affine, rigid

MOVING = [name for name in MOTIONS if name != "none"]


def blob(n=64, x=0.0, y=0.0, width=0.2):
    """A smooth bump, so that interpolation costs next to nothing: (1, n, n)."""
    c = (2 * np.arange(n) + 1) / n - 1
    return np.exp(-((c[None] - x) ** 2 + (c[:, None] - y) ** 2) / (2 * width**2))[None].astype(np.float32)


def centre(volume):
    n = volume.shape[-1]
    c = (2 * np.arange(n) + 1) / n - 1
    image = volume[0].astype(float)
    return (image.sum(0) @ c) / image.sum(), (image.sum(1) @ c) / image.sum()


def volume(nz=2, n=48):
    return ellipses((nz, n, n), generator=np.random.default_rng(3), radius=0.7)


@pytest.mark.parametrize("name", MOTIONS)
def test_nothing_has_moved_at_time_0(name):
    still = {"squeeze": False} if name == "piecewise_affine" else {}
    v = volume()
    np.testing.assert_array_equal(MOTIONS[name](v, 0.0, **still), v)


@pytest.mark.parametrize("name", MOVING)
def test_shape_type_and_slices_are_kept(name):
    v = volume()
    moved = MOTIONS[name](v, 0.4)
    assert moved.shape == v.shape
    assert moved.dtype == np.float32
    assert np.linalg.norm(moved - v) > 0.05 * np.linalg.norm(v)
    np.testing.assert_array_equal(MOTIONS[name](v[1:], 0.4), moved[1:])
    assert moved.min() >= v.min()
    assert moved.max() <= v.max() * (1 + 1e-6)  # interpolation overshoots nowhere
    assert none(v, 0.4) is v


@pytest.mark.parametrize(
    ("motion", "parameters"),
    [
        (rigid, {}),
        (flow, {}),
        (compression, {}),
        (breathing, {"conserve_mass": True}),
        (breathing, {"conserve_mass": True, "direction": "vertical"}),
        (growth, {"conserve_mass": True}),
    ],
)
def test_mass_is_kept(motion, parameters):
    v = blob()
    for time in (0.1, 0.6, 1.0):
        assert motion(v, time, **parameters).sum() == pytest.approx(v.sum(), rel=2e-3)


def test_scalings_change_the_mass_by_their_area():
    v = blob()
    assert growth(v, 0.5, rate=0.4).sum() == pytest.approx(1.2**2 * v.sum(), rel=2e-3)
    at = 1 / 8  # half a period of four
    assert breathing(v, at, amplitude=0.2).sum() == pytest.approx(0.8**2 * v.sum(), rel=2e-3)
    assert breathing(v, at, amplitude=0.2, direction="vertical").sum() == pytest.approx(0.8 * v.sum(), rel=2e-3)


def test_breathing_is_periodic():
    v = volume()
    np.testing.assert_allclose(breathing(v, 0.25, cycles=4), v, atol=1e-6)
    np.testing.assert_allclose(breathing(v, 0.07, cycles=4), breathing(v, 0.82, cycles=4), atol=1e-5)


def test_rotation_is_counter_clockwise_from_plus_z():
    v = volume()
    quarter = rigid(v, 1.0, rotation_deg=90, shift_x=0.0)
    np.testing.assert_allclose(quarter, np.rot90(v, axes=(2, 1)), atol=1e-6)  # x, column, towards y, row
    x, y = centre(rigid(blob(x=0.4), 0.5, rotation_deg=90, shift_x=0.0))
    assert (x, y) == pytest.approx((0.4 * np.cos(np.pi / 4), 0.4 * np.sin(np.pi / 4)), abs=2e-3)


def test_translation_by_whole_pixels_is_exact():
    v = volume(n=48)
    moved = rigid(v, 0.5, rotation_deg=0, shift_x=4 / 24, shift_y=-8 / 24)  # 2 columns forward, 4 rows back
    np.testing.assert_allclose(moved, np.roll(v, (-4, 2), axis=(1, 2)), atol=1e-6)


def test_compression_bulges():
    v = blob(width=0.15)
    pressed = compression(v, 1.0, strain=0.3)
    c = (2 * np.arange(64) + 1) / 64 - 1

    def widths(image):
        return np.sqrt((image.sum(0) @ c**2) / image.sum()), np.sqrt((image.sum(1) @ c**2) / image.sum())

    (before_x, before_y), (x, y) = widths(v[0]), widths(pressed[0])
    assert x / before_x == pytest.approx(1.3, rel=0.02)
    assert before_y / y == pytest.approx(1.3, rel=0.02)


def test_flow_twice_for_half_the_time_is_the_flow_and_backwards_undoes_it():
    v = blob(n=128, x=0.3, y=0.2)
    whole = flow(v, 1.0)
    assert np.linalg.norm(flow(flow(v, 0.5), 0.5) - whole) < 0.01 * np.linalg.norm(v)
    assert np.linalg.norm(flow(whole, 1.0, speed=-0.5) - v) < 0.02 * np.linalg.norm(v)
    # the start's velocity is that of the stream function
    k = np.pi
    expected = 0.5 * np.array([np.sin(k * 1.3) * np.cos(k * 1.2), -np.cos(k * 1.3) * np.sin(k * 1.2)])
    small = blob(n=128, x=0.3, y=0.2, width=0.03)
    moved = (np.array(centre(flow(small, 0.05))) - centre(small)) / 0.05
    np.testing.assert_allclose(moved, expected, atol=0.02)


# -- the warp of RP 7.1 -----------------------------------------------------------------------------------


def test_the_warp_at_its_control_points():
    """On a ramp along y the moved image is y_in itself; with n = 38 every control point is a pixel."""
    n, time = 38, 0.6
    ramp = np.broadcast_to(1.0 + np.arange(n)[:, None], (1, n, n)).astype(np.float32)
    moved = piecewise_affine(ramp, time)[0]
    column, row = np.meshgrid(np.arange(19), np.arange(19))
    c_t = 6 * time
    y_in = 1.5 * (2.0 * row - c_t * n / 64 * np.sin(3 * np.pi * (20 * column + row) / 399)) - 1.5 * 8 * n / 64
    inside = (y_in > 0) & (y_in < n - 1)
    assert inside.sum() > 150
    np.testing.assert_allclose(moved[::2, ::2][inside], 1 + y_in[inside], atol=1e-4)
    outside = (y_in < -1) | (y_in > n)
    assert np.all(moved[::2, ::2][outside] == 0)


def test_the_warp_is_that_of_skimage():
    n, time = 128, 0.8
    v = ellipses((1, n, n), generator=np.random.default_rng(1)).astype(np.float64)
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(0, n, 20), np.linspace(0, n, 20), indexing="ij"))
    i = np.arange(400)  # column-major
    y_in = 1.5 * (y - 6 * time * n / 64 * np.sin(3 * np.pi * i / 399)) - 1.5 * 8 * n / 64
    transform = PiecewiseAffineTransform.from_estimate(np.stack((x, y), 1), np.stack((x, y_in), 1))
    expected = warp(v[0], transform, order=1, mode="constant", cval=0.0)
    np.testing.assert_allclose(piecewise_affine(v, time)[0], expected, atol=1e-9)


def test_the_squeeze_alone_on_another_lattice():
    v = blob(n=64)
    fine = piecewise_affine(v, 0.7, periods=0.0, control_points=33)  # no displacement
    row = 1.5 * np.arange(64) - 12
    expected = np.stack([np.interp(row, np.arange(64), column, left=0, right=0) for column in v[0].T], axis=1)
    inside = (row >= 0) & (row <= 63)
    np.testing.assert_allclose(fine[0][inside], expected[inside], atol=1e-6)


def test_the_warp_without_squeeze_moves_along_y_alone():
    v = blob(n=128, x=-0.62, y=0.0, width=0.05)  # where the sine is near its first crest, i = 133 / 2
    x, y = centre(piecewise_affine(v, 1.0, squeeze=False))
    assert x == pytest.approx(-0.62, abs=0.02)
    assert y == pytest.approx(12 / 64, abs=0.02)  # "almost 12 pixels"


# -- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("motion", "parameters", "message"),
    [
        (piecewise_affine, {"control_points": 1}, "control_points: expected a whole number >= 2, got 1"),
        (piecewise_affine, {"amplitude": np.nan}, "amplitude: expected a finite number, got nan"),
        (piecewise_affine, {"squeeze": 1}, "squeeze: expected true or false, got 1"),
        (rigid, {"rotation_deg": "far"}, "rotation_deg: expected a finite number, got 'far'"),
        (breathing, {"amplitude": 1.0}, "amplitude: expected below 1, got 1.0"),
        (breathing, {"direction": "up"}, "direction: expected radial or vertical, got 'up'"),
        (breathing, {"conserve_mass": 1}, "conserve_mass: expected true or false"),
        (growth, {"rate": -1.0}, "rate: expected above -1, got -1.0"),
        (compression, {"strain": -2.0}, "strain: expected above -1, got -2.0"),
        (flow, {"cells": 0}, "cells: expected a whole number >= 1, got 0"),
        (flow, {"steps": 2.5}, "steps: expected a whole number >= 1, got 2.5"),
    ],
)
def test_one_sentence(motion, parameters, message):
    with pytest.raises(SimulationError, match=message):
        motion(volume(), 0.5, **parameters)


def test_the_warp_is_for_squares():
    with pytest.raises(SimulationError, match="expected square slices, got"):
        piecewise_affine(np.zeros((1, 4, 5), np.float32), 0.5)
