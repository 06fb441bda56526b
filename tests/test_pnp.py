"""Plug-and-play with shipped weights: scale, noise level, batches, and that it beats what needs no training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from data.measurement import Measurement
from data.phantoms import sx
from data.simulate import MimoRadarSimulation, mimo_radar
from denoisers import Tiled, load_denoiser, shipped_names
from imaging.metrics import psnr
from imaging.operators import Grid
from imaging.priors import Magnitude
from imaging.priors.magnitude import BRIGHT, LEAST, running_scale
from pipelines.config import resolve
from pipelines.methods import Setting
from pipelines.radar_config import PnpConfig
from pipelines.reconstruct import reconstruct

RADAR = ["radar-3d-fast"]


def scan(**settings) -> Measurement:
    return mimo_radar(MimoRadarSimulation(**{"n_frequencies": 5, "snr_db": 30.0, "seed": 4, **settings}))


def config(*assignments: str) -> PnpConfig:
    return resolve(PnpConfig, [], list(assignments))


def setting(denoiser) -> Setting:
    return Setting(device=torch.device("cpu"), denoiser=denoiser)


class Seen:
    """A denoiser that remembers what it was given."""

    def __init__(self, noise_range=None):
        self.levels, self.largest = [], []
        if noise_range is not None:
            self.noise_range = noise_range

    def __call__(self, v, sigma):
        self.levels.append(sigma)
        self.largest.append(float(v.amax()))
        return v


# -- the scale ----------------------------------------------------------------------------------------------


def test_bright_scale_is_not_moved_by_one_speckle():
    v = torch.zeros(1, 20, 20, 20)
    v[:, 5:15, 5:15, 5:15] = 1
    before = running_scale(v, "bright")
    v[0, 10, 10, 10] = 1.5
    assert float(before) == pytest.approx(1)
    assert float(running_scale(v, "bright")) == pytest.approx(1 + 0.5 / round(BRIGHT * v.numel()))
    assert float(running_scale(v, "peak")) == 1.5


def test_bright_scale_of_a_lone_point_is_a_share_of_its_peak():
    v = torch.zeros(1, 20, 20, 20)
    v[0, 3, 3, 3] = 7
    assert float(running_scale(v, "bright")) == LEAST * 7


@pytest.mark.parametrize("relative", ["bright", "peak"])
def test_relative_prox_scales_with_its_input(relative):
    prior = Magnitude(lambda v, sigma: torch.relu(v - sigma), relative=relative)
    v = torch.randn(2, 6, 7, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    one = prior.prox(v, 0.01)
    for factor in (1e-6, 1e6):
        assert torch.allclose(prior.prox(v * factor, 0.01) / factor, one, rtol=1e-5, atol=1e-7)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="expected False, True, 'peak' or 'bright'"):
        Magnitude(lambda v, s: v, relative="loud")


# -- the noise level ----------------------------------------------------------------------------------------


def test_the_level_falls_and_stays_where_the_network_was_trained():
    denoiser = Seen(noise_range=(0.05, 0.1))
    m = scan()
    result = reconstruct(
        m, "pnp", config("alpha=0.04", "alpha_final=1e-4", "max_iter=6", "tol=0"), setting=setting(denoiser)
    )
    assert denoiser.levels[0] == pytest.approx(0.1)
    assert denoiser.levels[-1] == pytest.approx(0.05)
    assert all(a >= b for a, b in zip(denoiser.levels, denoiser.levels[1:], strict=False))
    assert "levels outside are held at its bounds" in str(result.provenance["notes"])


def test_no_word_about_levels_when_all_are_inside():
    result = reconstruct(scan(), "pnp", config("max_iter=2", "tol=0"), setting=setting(Seen(noise_range=(0.0, 0.2))))
    assert "denoiser:" not in str(result.provenance["notes"])


def test_defaults_stay_inside_the_range_of_the_shipped_weights():
    table = PnpConfig().solver
    for name in RADAR:
        low, high = load_denoiser(name).noise_range
        assert low**2 <= (table.alpha_final or table.alpha) <= table.alpha <= high**2


# -- when it stops ------------------------------------------------------------------------------------------


def test_the_iterate_closest_to_its_denoised_image_is_the_result():
    """A denoiser that goes astray after four calls: the run ends soon after, with an iterate from before."""
    calls = []

    def astray(v, sigma):
        calls.append(sigma)
        return torch.relu(v - sigma) if len(calls) <= 4 else torch.flip(v, (1, 2, 3))

    same = ["alpha=1e-4", "alpha_final=none", "tol=0"]
    m = scan()
    stopped = reconstruct(m, "pnp", config(*same, "patience=2", "max_iter=12"), setting=setting(astray))
    primal = stopped.convergence.columns["primal_residual"]
    best = int(np.argmin(primal)) + 1
    assert best <= 4
    assert len(primal) == best + 2
    sane = setting(lambda v, sigma: torch.relu(v - sigma))
    there = reconstruct(m, "pnp", config(*same, "patience=none", f"max_iter={best}"), setting=sane)
    assert np.array_equal(stopped.volume.data, there.volume.data)


# -- what it must not hide ----------------------------------------------------------------------------------


def test_a_denoiser_that_empties_the_scene_is_named():
    some = config("max_iter=2", "tol=0")
    emptied = reconstruct(scan(), "pnp", some, setting=setting(lambda v, sigma: 0.01 * v))
    assert "denoiser: it leaves next to nothing" in str(emptied.provenance["notes"])
    assert "try -m tv" in str(emptied.provenance["notes"])
    kept = reconstruct(scan(), "pnp", some, setting=setting(lambda v, sigma: v))
    assert "next to nothing" not in str(kept.provenance["notes"])


# -- with the shipped weights -------------------------------------------------------------------------------


def test_the_shipped_weights_are_there():
    assert set(shipped_names()) >= {*RADAR, "tomo-2d"}


def test_scaling_the_data_scales_the_image():
    """T17 of NF 11."""
    m = scan()
    denoiser = load_denoiser("radar-3d-fast")
    some = config("max_iter=4", "tol=0")
    one = reconstruct(m, "pnp", some, setting=setting(denoiser)).volume.data
    for factor in (1e-6, 1e6):
        assert m.noise_std is not None
        scaled = dataclasses.replace(m, data=m.data * np.float32(factor), noise_std=m.noise_std * factor)
        other = reconstruct(scaled, "pnp", some, setting=setting(denoiser)).volume.data
        assert np.abs(other / factor - one).max() <= 1e-4 * np.abs(one).max()


def test_pnp_beats_tv_and_l1_on_an_extended_target():
    m = scan(n_frequencies=10, seed=11)
    truth = torch.as_tensor(np.abs(m.ground_truth.data))
    scores = {
        name: float(psnr(torch.as_tensor(reconstruct(m, name).volume.data), truth, normalise="gain"))
        for name in ("pnp", "tv", "l1")
    }
    assert scores["pnp"] > max(scores["tv"], scores["l1"]) + 0.5, scores


def test_bfloat16_changes_the_image_by_less_than_a_tenth_of_a_decibel():
    m = scan(n_frequencies=10, seed=11)
    truth = torch.as_tensor(np.abs(m.ground_truth.data))
    full, half = (
        float(psnr(torch.as_tensor(reconstruct(m, "pnp", config(f'denoiser.precision="{p}"')).volume.data), truth))
        for p in ("float32", "bfloat16")
    )
    assert full != half
    assert abs(half - full) < 0.1


def test_frames_do_not_see_each_other():
    """T23 of NF 11: an image in a batch equals the image alone."""
    one, two = scan(seed=1, snr_db=None), scan(seed=2, snr_db=None)
    both = dataclasses.replace(
        one,
        data=np.concatenate([one.data, two.data]),
        scales={**one.scales, "frame": dataclasses.replace(one.scales["frame"], values=np.arange(2.0))},
        ground_truth=None,
    )
    some = config("max_iter=3", "tol=0", "noise.snr_db=30")
    denoiser = load_denoiser("radar-3d-fast")
    together = reconstruct(both, "pnp", some, setting=setting(denoiser)).volume.data
    for i, m in enumerate((one, two)):
        alone = reconstruct(
            dataclasses.replace(m, ground_truth=None), "pnp", some, setting=setting(denoiser)
        ).volume.data
        assert np.abs(together[i] - alone).max() <= 1e-4 * np.abs(alone).max()


def test_tiles_of_the_shipped_network_are_the_whole():
    """As far as the network looks, the neighbours' voxels are there; with less there is a seam."""
    generator = torch.Generator().manual_seed(0)
    v = torch.zeros(1, 20, 20, 180)
    v[:, 6:14, 6:14, 20:150] = 0.8
    v = v + 0.1 * torch.randn(v.shape, generator=generator)
    denoiser = load_denoiser("radar-3d-fast")
    whole = denoiser(v, 0.1)
    assert float((Tiled(denoiser, tile=48)(v, 0.1) - whole).abs().max()) <= 1e-5 * float(whole.max())
    assert float((Tiled(denoiser, tile=48, overlap=8)(v, 0.1) - whole).abs().max()) > 1e-3 * float(whole.max())


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["radar-3d-fast"])
def test_96_cubed_with_48_voxel_tiles(spec):
    """Show 7 of the denoisers: 1e-3 of the peak."""
    generator = torch.Generator().manual_seed(1)
    v = sx(np.random.default_rng(5), 1, Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), (96, 96, 96))).abs()
    v = v + 0.1 * torch.randn(v.shape, generator=generator)
    denoiser = load_denoiser(spec)
    whole = denoiser(v, 0.1)
    calls = []

    class Counted:
        reach = denoiser.reach

        def __call__(self, v, sigma):
            calls.append(v.shape)
            return denoiser(v, sigma)

    tiled = Tiled(Counted(), tile=48)(v, 0.1)
    assert len(calls) == 8
    assert float((tiled - whole).abs().max()) <= 1e-3 * float(whole.max())
