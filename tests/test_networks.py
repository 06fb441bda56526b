"""Networks: counts from the papers, shapes, shifts, one batch overfits; and the denoiser around a network."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import denoisers.network_denoiser as network_denoiser
from denoisers import DenoiserError, DnCnn, NetworkDenoiser, UNet3d, build_network
from denoisers.losses import sure
from denoisers.network_denoiser import NoiseLevelWarning
from denoisers.networks import NETWORKS
from denoisers.networks.gated_unet import LARGEST
from denoisers.networks.layers import (
    Conv3d,
    channels_last,
    crop_to,
    depth_to_space,
    noise_map,
    pad_to_multiple,
    space_to_depth,
)
from denoisers.optimisers import rate_factor

SIZES = [(25, 25, 49), (61, 61, 61), (24, 24, 48), (1, 9, 9), (9, 1, 1), (1, 1, 1), (2, 3, 5), (7, 11, 13)]


def small(kind, **options):
    """A tiny network of every kind, all its parts lively, in eval mode."""
    torch.manual_seed(0)
    sizes = {
        "unet3d": {"channels": 2},
        "gated_unet": {"channels": (4, 8), "blocks": (1, 1)},
        "dncnn": {"n_dims": 3, "n_layers": 1, "channels": 4, "noise_channel": True},
    }[kind]
    network = build_network(kind, {**sizes, **options})
    for p in network.parameters():  # blocks start as the identity, which would hide their receptive field
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    for m in network.modules():
        if isinstance(m, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(m.running_var, 0.5, 2)
            torch.nn.init.normal_(m.running_mean, std=0.1)
    return network.eval()


def noisy(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def count(network):
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


# -- architectures --------------------------------------------------------------------------------------------


def test_the_papers_counts():
    assert count(UNet3d()) == 1_357_505
    assert count(DnCnn()) == 222_785


def test_every_network_has_a_test():
    assert set(NETWORKS) == {"unet3d", "gated_unet", "dncnn"}  # `small` above knows each


def test_dncnn_sees_17_by_17_pixels():
    network = DnCnn().double()
    v = noisy(1, 1, 31, 31).double()
    other = v.clone()
    other[0, 0, 15, 15] += 1.0
    with torch.no_grad():
        sigma = torch.zeros(1).double()
        seen = (network(v, sigma) - network(other, sigma))[0, 0].abs() > 0
    rows, columns = seen.nonzero().T
    assert (int(rows.min()), int(rows.max())) == (7, 23)
    assert (int(columns.min()), int(columns.max())) == (7, 23)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("unet3d", {"channels": 2}),
        ("dncnn", {"n_dims": 2, "n_layers": 3, "channels": 4}),
        ("gated_unet", {"n_dims": 2, "channels": (4,), "blocks": (2,), "fine": 2}),
        ("gated_unet", {"n_dims": 2, "channels": (4, 4), "blocks": (1, 2), "fine": 2}),
        ("gated_unet", {"n_dims": 3, "channels": (2, 2), "blocks": (1, 2), "fine": 2}),
    ],
)
def test_a_network_looks_no_further_than_it_says(kind, options):
    """And hardly less far, so that tiles are no larger than needed."""
    network = build_network(kind, options).double().eval()
    with torch.no_grad():
        for p in network.parameters():  # positive: nothing cancels, no ReLU is off
            p.abs_().clamp_(1e-3, 0.1)
    reach, furthest = network.reach, 0
    n = 2 * reach + 17
    for at in range(reach, reach + 8):
        v = torch.full((1, 1, n) + (9,) * (network.n_dims - 1), 0.5, dtype=torch.float64, requires_grad=True)
        network(v, torch.tensor([0.1], dtype=torch.float64))[0, 0, at].sum().backward()
        seen = torch.nonzero(v.grad[0, 0].abs().flatten(1).sum(1)).flatten()
        furthest = max(furthest, at - int(seen[0]), int(seen[-1]) - at)
    assert reach - 4 <= furthest <= reach


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_output_has_the_inputs_size(kind, size):
    with torch.no_grad():
        out = small(kind)(noisy(1, 1, *size), torch.tensor([0.1]))
    assert out.shape == (1, 1, *size)
    assert bool(torch.isfinite(out).all())


def test_a_2d_network_takes_any_image():
    network = DnCnn(n_layers=1, channels=4)
    for size in [(25, 49), (1, 7), (1, 1)]:
        assert network(noisy(2, 1, *size), torch.full((2,), 0.1)).shape == (2, 1, *size)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("kind", "step"), [("unet3d", 4), ("gated_unet", 4), ("dncnn", 1)])
def test_a_shifted_input_gives_a_shifted_output(kind, step, axis):
    """By a multiple of the pooling, and out of the borders' reach."""
    network = small(kind).double()
    reach, inner = 28, 8
    n = 2 * reach + inner
    v, sigma = noisy(n + step, 7, 9).double().movedim(0, axis)[None, None], torch.tensor([0.1]).double()
    with torch.no_grad():
        one, other = (network(v.narrow(2 + axis, start, n), sigma) for start in (0, step))
    gap = one.narrow(2 + axis, reach + step, inner - step) - other.narrow(2 + axis, reach, inner - step)
    assert float(gap.abs().max()) < 1e-12
    if step > 1:
        wrong = one.narrow(2 + axis, reach + 1, inner - step) - other.narrow(2 + axis, reach - step + 1, inner - step)
        assert float(wrong.abs().max()) < 1e-12


def test_a_residual_network_gives_the_input_minus_what_a_direct_one_gives():
    torch.manual_seed(1)
    residual, direct = DnCnn(n_layers=2, channels=4), DnCnn(n_layers=2, channels=4, output="direct")
    direct.load_state_dict(residual.state_dict())
    v, sigma = noisy(2, 1, 9, 9), torch.full((2,), 0.1)
    torch.testing.assert_close(residual(v, sigma), v - direct(v, sigma))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_told_the_noise_level(kind):
    network, v = small(kind), noisy(1, 1, 8, 8, 8)
    with torch.no_grad():
        a, b = (network(v, torch.tensor([s])) for s in (0.05, 0.2))
    assert network.conditioned
    assert float((a - b).abs().max()) > 1e-4


def test_a_blind_network_is_not():
    network, v = DnCnn(3, 1, 4), noisy(1, 1, 8, 8, 8)
    assert not network.conditioned
    assert torch.equal(network(v, torch.tensor([0.05])), network(v, torch.tensor([0.2])))


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_image_does_not_depend_on_its_batch(kind):
    network, v, sigma = small(kind).double(), noisy(3, 1, 8, 9, 10).double(), torch.tensor([0.02, 0.1, 0.2]).double()
    with torch.no_grad():
        together = network(v, sigma)
        alone = torch.cat([network(v[i : i + 1], sigma[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gated_unet", "dncnn"])
def test_without_normalisation_training_mode_changes_nothing(kind):
    network, v, sigma = small(kind).double(), noisy(2, 1, 8, 8, 8).double(), torch.full((2,), 0.1).double()
    assert not list(network.buffers())
    torch.testing.assert_close(network(v, sigma), network.train()(v, sigma), rtol=0, atol=1e-12)


def test_a_call_in_eval_mode_changes_no_state():
    network = small("unet3d")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        one, two = (network(noisy(1, 1, 8, 8, 8), torch.tensor([0.1])) for _ in range(2))
    assert torch.equal(one, two)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("n_dims", [2, 3])
def test_the_gate_mixes_input_and_offset(n_dims):
    """A gate of one and no offset give the input back, a gate of zero the offset, at every border."""
    network = small("gated_unet", n_dims=n_dims)
    v = noisy(2, 1, *(7, 9, 11)[-n_dims:])
    loud = torch.full((2,), 1e6)
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.copy_(torch.tensor([30.0, 0.0]))
        torch.testing.assert_close(network(v, loud), v)
        network.last.bias.copy_(torch.tensor([-30.0, 0.25]))
        bounded = LARGEST * math.tanh(0.25 / LARGEST)
        torch.testing.assert_close(network(v, loud), torch.full_like(v, bounded))


def test_without_noise_the_gated_network_changes_nothing():
    network, v = small("gated_unet"), noisy(2, 1, 7, 9, 11)
    with torch.no_grad():
        assert torch.equal(network(v, torch.tensor([0.0, 0.0])), v)
        far = float((network(v, torch.full((2,), 1e6)) - v).norm())
        some = float((network(v, torch.full((2,), network.quiet * network.noise_unit)) - v).norm())
    assert 0 < some < far


@pytest.mark.parametrize("kind", NETWORKS)
def test_one_batch_overfits(kind):
    wide = {"unet3d": {"channels": 4}, "gated_unet": {}, "dncnn": {"n_layers": 2, "channels": 24}}[kind]
    network = small(kind, **wide).train()
    clean = torch.zeros(2, 1, 4, 6, 5)
    clean[0, 0, 1:3, 2:5, 2:4], clean[1, 0, :2, 3:, 2:5] = 1.0, 0.6
    sigma = torch.full((2,), 0.2)
    v = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    first, steps = math.nan, 200
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * rate_factor("cosine", step, steps)
        loss = (network(v, sigma) - clean).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first = float(loss.detach()) if step == 0 else first
    assert float(loss.detach()) < first / 20


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("unet", {}, "network kind: expected one of unet3d, gated_unet, dncnn, got 'unet'"),
        ("dncnn", {"depth": 3}, "network dncnn: unknown option depth; it takes n_dims, n_layers"),
        ("dncnn", {"n_dims": 4}, "expected 2 or 3, got 4"),
        ("dncnn", {"output": "both"}, "expected residual or direct, got both"),
        ("gated_unet", {"channels": [8], "blocks": [1, 1]}, "as many blocks as channels"),
        ("gated_unet", {"channels": [-3], "blocks": [1]}, "cannot be built with"),
        ("gated_unet", {"channels": ["a"], "blocks": [1]}, "cannot be built with"),
        ("gated_unet", {"channels": 3}, "cannot be built with"),
        ("unet3d", {"channels": "x"}, "cannot be built with"),
    ],
)
def test_a_network_that_cannot_be_built_is_a_sentence(kind, options, words):
    with pytest.raises(ValueError, match=words):
        build_network(kind, options)


def test_a_network_without_channels_is_a_sentence():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about weights of no elements
        with pytest.raises(ValueError, match="expected channels >= 1"):
            build_network("dncnn", {"channels": 0})


# -- layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (2, 2, 0), (1, 1, 0)])
@pytest.mark.parametrize("last", [False, True])
def test_fast_inference_is_the_same_convolution(kernel, stride, padding, last):
    torch.manual_seed(0)
    layer = Conv3d(5, 7, kernel, stride, padding)
    x = noisy(2, 5, 8, 9, 10)
    x = channels_last(x) if last else x
    with torch.no_grad():
        fast = layer(x)
    torch.testing.assert_close(fast, layer(x).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_fast_inference_gives_the_same_image(kind):
    network, v, sigma = small(kind), noisy(1, 1, 12, 13, 14), torch.tensor([0.1])
    with torch.no_grad():
        fast = network(v, sigma)
    torch.testing.assert_close(fast, network(v, sigma).detach(), rtol=0, atol=1e-5)


def test_space_to_depth_and_back():
    v = noisy(2, 3, 4, 6, 8)
    packed = space_to_depth(v)
    assert packed.shape == (2, 24, 2, 3, 4)
    assert torch.equal(depth_to_space(packed), v)
    assert torch.equal(packed[:, :8, 1, 2, 3], v[:, 0, 2:4, 4:6, 6:8].flatten(1))


def test_padding_is_zero_and_is_cut_off_again():
    v = noisy(1, 1, 3, 4, 5)
    padded = pad_to_multiple(v, 4)
    assert padded.shape == (1, 1, 4, 4, 8)
    assert not padded[..., 3, :, :].any()
    assert not padded[..., 5:].any()
    assert torch.equal(crop_to(padded, v.shape[2:]), v)
    assert pad_to_multiple(padded, 4) is padded


def test_the_noise_map_is_constant_per_image():
    level = noise_map(torch.tensor([0.1, 0.2]), torch.zeros(2, 1, 3, 4))
    assert level.shape == (2, 1, 3, 4)
    assert torch.equal(level[1], torch.full((1, 3, 4), 0.2))


# -- the denoiser around a network ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_denoiser_keeps_shape_and_dtype_and_gives_no_negative_values(dtype):
    denoise = NetworkDenoiser(small("gated_unet"))
    v = torch.randn(2, 7, 8, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = denoise(v, 0.1)
    assert (out.shape, out.dtype) == (v.shape, dtype)
    assert not out.requires_grad
    assert float(out.min()) == 0.0
    assert float(NetworkDenoiser(small("gated_unet"), nonnegative=False)(v, 0.1).min()) < 0


def test_a_denoiser_puts_its_network_into_eval_mode():
    network = small("unet3d").train()
    denoise, v = NetworkDenoiser(network), noisy(2, 8, 8, 8)
    assert not network.training
    torch.testing.assert_close(denoise(v, 0.1)[:1], denoise(v[:1], 0.1), rtol=0, atol=1e-6)


def test_a_denoiser_takes_a_noise_level_per_image():
    denoise, v = NetworkDenoiser(small("gated_unet")), noisy(3, 8, 8, 8)
    assert denoise.takes_sigma_per_image
    levels = torch.tensor([0.01, 0.1, 0.2])
    each = torch.cat([denoise(v[i : i + 1], float(levels[i])) for i in range(3)])
    torch.testing.assert_close(denoise(v, levels), each, rtol=0, atol=1e-6)
    assert float((denoise(v, levels) - denoise(v, 0.1)).abs().max()) > 1e-4
    torch.testing.assert_close(denoise(v, torch.tensor(0.1)), denoise(v, 0.1), rtol=0, atol=0)


def test_images_do_not_know_each_other():
    denoise, v = NetworkDenoiser(small("gated_unet")), noisy(3, 8, 8, 8)
    loud = v.clone()
    loud[1] *= 100
    torch.testing.assert_close(denoise(v, 0.1)[::2], denoise(loud, 0.1)[::2], rtol=0, atol=1e-6)


def test_chunks_give_the_whole():
    network, v = small("gated_unet"), noisy(5, 8, 8, 8)
    sizes = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    levels = torch.linspace(0.0, 0.2, 5)
    whole, chunked = NetworkDenoiser(network)(v, levels), NetworkDenoiser(network, voxels_at_once=1100)(v, levels)
    assert sizes == [5, 2, 2, 1]
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6)


def test_tiles_give_the_whole(monkeypatch):
    """Exactly, since tiles see as far beyond what they give as the network looks."""
    monkeypatch.setattr(network_denoiser, "TILE", 16)
    network, v = small("dncnn"), noisy(2, 31, 40, 25)
    assert network.reach <= 8
    sizes = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    levels = torch.tensor([0.05, 0.2])
    whole = NetworkDenoiser(network)(v, levels)
    tiled = NetworkDenoiser(network, voxels_at_once=24**3)(v, levels)
    assert sizes[0] == (31, 40, 25)
    assert len(sizes) > 3
    assert max(max(s) for s in sizes[1:]) <= 32
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_tiles_keep_to_the_grid_of_the_poolings(monkeypatch):
    monkeypatch.setattr(network_denoiser, "TILE", 24)
    deep = build_network("gated_unet", {"channels": (2, 2, 2, 2), "blocks": (0, 0, 0, 0)})
    assert deep.multiple == 16
    denoise = NetworkDenoiser(deep, voxels_at_once=1000)
    assert (denoise._tiled.align, denoise._tiled.tile) == (16, 32)
    assert denoise(noisy(1, 40, 8, 8), 0.1).shape == (1, 40, 8, 8)


def test_a_2d_network_takes_a_volume_slice_by_slice():
    torch.manual_seed(0)
    denoise = NetworkDenoiser(DnCnn(2, 1, 4, noise_channel=True), n_dims=2)
    v, levels = noisy(2, 5, 9, 8), torch.tensor([0.05, 0.2])
    slices = torch.stack([denoise(v[:, i], levels) for i in range(5)], dim=1)
    torch.testing.assert_close(denoise(v, levels), slices, rtol=0, atol=1e-6)


def test_a_warning_outside_the_noise_range_comes_once():
    denoise, v = NetworkDenoiser(small("gated_unet"), noise_range=(0.02, 0.2)), noisy(1, 8, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for inside in (0.02, 0.1, 0.2):
            denoise(v, inside)
    with pytest.warns(NoiseLevelWarning, match=r"noise level 0.3 is outside 0.02 to 0.2") as caught:
        denoise(v, 0.3)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoise(v, 0.5)
    with pytest.warns(NoiseLevelWarning, match=r"noise level 0.01 is"):
        NetworkDenoiser(small("gated_unet"), noise_range=(0.02, 0.2))(v, torch.tensor([0.01]))


def test_bfloat16_is_close():
    """2^-8 is its precision; a percent of the peak after a few layers."""
    network, v = small("gated_unet"), noisy(2, 16, 16, 16)
    exact, fast = NetworkDenoiser(network)(v, 0.1), NetworkDenoiser(network, precision="bfloat16")(v, 0.1)
    assert fast.dtype == torch.float32
    assert 0 < float((fast - exact).abs().max()) < 0.02 * float(exact.max())


@pytest.mark.parametrize(
    ("v", "sigma", "words"),
    [
        (torch.zeros(1, 8, 8, 8, dtype=torch.complex64), 0.1, "real floating-point"),
        (torch.zeros(8, 8, 8), 0.1, r"expected \(batch, nz, ny, nx\)"),
        (torch.zeros(2, 8, 8, 8), torch.zeros(3), "one per image"),
        (torch.zeros(1, 8, 8, 8), -0.1, "expected finite and >= 0"),
        (torch.zeros(1, 8, 8, 8), math.nan, "expected finite and >= 0"),
    ],
)
def test_a_denoiser_refuses_in_a_sentence(v, sigma, words):
    with pytest.raises(DenoiserError, match=words):
        NetworkDenoiser(small("gated_unet"))(v, sigma)


def test_a_denoiser_takes_no_images_and_no_other_precision():
    assert NetworkDenoiser(small("gated_unet"))(torch.zeros(0, 8, 8, 8), 0.1).shape == (0, 8, 8, 8)
    with pytest.raises(ValueError, match="expected float32 or bfloat16"):
        NetworkDenoiser(small("gated_unet"), precision="float16")


def test_a_network_can_be_trained_by_sure_through_the_gate():
    """Two passes of one network in one loss reach all its weights."""
    network, v = small("gated_unet").train(), noisy(2, 1, 8, 8, 8)
    sure(network, v, v, torch.full((2,), 0.1), torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in network.parameters())


COMPLEX = {"n_dims": 2, "channels": (8, 8), "blocks": (1, 1), "fine": 4, "n_parts": 2}


def test_a_network_of_two_parts_denoises_complex_images_together():
    network = small("gated_unet", **COMPLEX)
    denoiser = NetworkDenoiser(network, n_dims=2)
    v = torch.complex(noisy(2, 3, 20, 24), noisy(2, 3, 20, 24, seed=1))
    out = denoiser(v, 0.1)
    assert denoiser.takes_complex
    assert (out.shape, out.dtype) == (v.shape, v.dtype)
    parts = torch.view_as_real(v.flatten(0, 1)).movedim(-1, 1)
    expected = torch.view_as_complex(network(parts, torch.full((6,), 0.1)).detach().movedim(1, -1).contiguous())
    torch.testing.assert_close(out.flatten(0, 1), expected, rtol=1e-5, atol=1e-6)
    turned = torch.complex(v.real, 0 * v.imag)
    assert not torch.allclose(denoiser(turned, 0.1).real, out.real)  # each part sees the other
    assert not NetworkDenoiser(small("gated_unet"), n_dims=3).takes_complex


def test_a_denoiser_refuses_images_of_the_other_kind_in_a_sentence():
    network = small("gated_unet", **COMPLEX)
    with pytest.raises(DenoiserError, match="expected complex images, as in training, got torch.float32"):
        NetworkDenoiser(network, n_dims=2)(noisy(1, 1, 16, 16), 0.1)
    with pytest.raises(ValueError, match="n_parts: expected 1, or 2 for complex images, got 3"):
        build_network("gated_unet", {"n_parts": 3})
