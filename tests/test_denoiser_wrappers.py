"""Laws of the denoisers made of a denoiser: equivariance, independence of chunks, tiles that equal the whole."""

import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F

from denoisers import DenoiserError
from denoisers.tiled import Tiled, _cut
from denoisers.wrappers import Chunked, NonNegative, ScaleEquivariant, SelfEnsemble, SliceWise


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def soft(v, sigma):
    """Depends on sigma and on the scale of v; keeps every voxel to itself."""
    return torch.tanh(v) - sigma * v / (1 + v**2)


class PerImage:
    """soft, for a sigma per image; remembers what it was told."""

    takes_sigma_per_image = True

    def __init__(self):
        self.told = []

    def __call__(self, v, sigma):
        self.told.append(sigma)
        return soft(v, sigma.view(-1, *(1,) * (v.ndim - 1)) if isinstance(sigma, torch.Tensor) else sigma)


class Recorder:
    """A denoiser that remembers the shapes it was called with."""

    def __init__(self, denoiser=soft):
        self.denoiser = denoiser
        self.shapes = []

    def __call__(self, v, sigma):
        self.shapes.append(tuple(v.shape))
        return self.denoiser(v, sigma)


def blur_rows(v, sigma):
    """2D: each row with its neighbours along the last axis only."""
    return F.avg_pool1d(v, 3, stride=1, padding=1, count_include_pad=False) / (1 + sigma)


# ---- ScaleEquivariant


@pytest.mark.parametrize("inner", [soft, PerImage()], ids=["loop", "sigma per image"])
@pytest.mark.parametrize("c", [1e-6, 0.3, 1e6])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 5, 6)], ids=["3d", "2d"])
def test_scale_equivariance(inner, c, shape):
    D = ScaleEquivariant(inner)
    v = randn(*shape) * torch.tensor([1.0, 50.0, 1e-3]).view(-1, *(1,) * (len(shape) - 1))
    once, scaled = D(v, 0.2), D(c * v, c * 0.2)
    for a, b in zip(once, scaled, strict=True):
        assert (b - c * a).abs().max() <= 1e-5 * (c * a).abs().max()


def test_scale_equivariant_tells_each_image_its_sigma():
    inner = PerImage()
    v = torch.stack([torch.full((2, 2, 2), 4.0), torch.zeros(2, 2, 2), torch.full((2, 2, 2), -0.5)])
    out = ScaleEquivariant(inner)(v, 0.2)
    assert len(inner.told) == 1
    torch.testing.assert_close(inner.told[0], torch.tensor([0.05, 0.4]))
    torch.testing.assert_close(out[0], 4 * soft(v[0] / 4, 0.05))
    torch.testing.assert_close(out[2], 0.5 * soft(v[2] * 2, 0.4))
    torch.testing.assert_close(ScaleEquivariant(soft)(v, 0.2), out)


@pytest.mark.parametrize("inner", [soft, PerImage()], ids=["loop", "sigma per image"])
def test_zero_images_pass_unchanged(inner):
    D = ScaleEquivariant(inner)
    v = torch.zeros(2, 3, 3, 3)
    assert torch.equal(D(v, 0.1), v)
    assert torch.equal(D(v[:0], 0.1), v[:0])


def test_a_sigma_per_image_reaches_the_denoiser_through_the_wrappers():
    v, sigma = randn(3, 4, 5, 6), torch.tensor([0.1, 0.2, 0.3])
    want = torch.stack([soft(one, float(s)) for one, s in zip(v, sigma, strict=True)])
    for D in (
        Chunked(PerImage(), 2),
        SliceWise(PerImage(), 1),
        Tiled(PerImage(), tile=4, overlap=2, align=1),
        NonNegative(PerImage()),
    ):
        torch.testing.assert_close(D(v, sigma), want.clamp_min(0) if isinstance(D, NonNegative) else want)
        torch.testing.assert_close(
            ScaleEquivariant(D)(v, 0.1), ScaleEquivariant(D.__class__(**{**vars(D), "inner": soft}))(v, 0.1)
        )


# ---- NonNegative, Chunked, SliceWise


def test_non_negative_clamps_at_zero():
    v = randn(2, 3, 4, 5)
    assert torch.equal(NonNegative(soft)(v, 0.1), soft(v, 0.1).clamp_min(0))


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_chunks_equal_the_whole(size):
    inner, v = Recorder(), randn(5, 2, 3, 4)
    assert torch.equal(Chunked(inner, size)(v, 0.1), soft(v, 0.1))
    assert max(shape[0] for shape in inner.shapes) <= size


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slice_wise_equals_a_loop(axis):
    v = randn(2, 3, 4, 5)
    out = SliceWise(blur_rows, axis)(v, 0.1)
    assert out.is_contiguous()
    for i in range(v.shape[axis + 1]):
        torch.testing.assert_close(out.select(axis + 1, i), blur_rows(v.select(axis + 1, i), 0.1))


def test_slice_wise_averages_the_three_directions():
    v = randn(2, 3, 4, 5)
    want = sum(SliceWise(blur_rows, axis)(v, 0.1) for axis in range(3)) / 3
    torch.testing.assert_close(SliceWise(blur_rows, None)(v, 0.1), want)


def test_slice_wise_leaves_out_directions_of_thin_slices():
    inner = Recorder(blur_rows)
    v = randn(2, 4, 1, 5)
    torch.testing.assert_close(SliceWise(inner, None)(v, 0.1), SliceWise(blur_rows, 1)(v, 0.1))
    assert inner.shapes == [(2, 4, 5)]
    assert SliceWise(blur_rows, None)(randn(2, 1, 1, 5), 0.1).shape == (2, 1, 1, 5)


# ---- SelfEnsemble


def lopsided(v, sigma):
    """Each voxel takes from its neighbour at one corner."""
    return v + sigma * v.roll((1, 1, 1), (1, 2, 3)) ** 2


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_an_ensemble_is_equivariant_to_its_mirror_images(n):
    v = randn(2, 5, 6, 7, dtype=torch.float64)
    denoise = SelfEnsemble(lopsided, n)
    groups = {1: [], 2: [(1, 2, 3)], 4: [(1, 2), (1, 3), (2, 3)], 8: [(1,), (2,), (3,), (1, 2, 3), (2, 3)]}
    for axes in groups[n]:
        torch.testing.assert_close(denoise(v.flip(axes), 0.3), denoise(v, 0.3).flip(axes))
    if n < 8:  # not to one axis alone
        assert (denoise(v.flip(1), 0.3) - denoise(v, 0.3).flip(1)).abs().max() > 0.1
    torch.testing.assert_close(SelfEnsemble(lopsided, 1)(v, 0.3), lopsided(v, 0.3))


def test_an_ensemble_leaves_a_symmetric_denoiser_as_it_is():
    v = randn(1, 8, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(SelfEnsemble(box_blur, 8)(v, 0.1), box_blur(v, 0.1))
    torch.testing.assert_close(SelfEnsemble(lopsided, 8)(v, 0.1).mean(), lopsided(v, 0.1).mean())


# ---- Tiled


def box_blur(v, sigma, radius=6):
    """Linear, depends on `radius` voxels to each side; at the volume's border averages fewer."""
    padded = F.pad(torch.stack([v, torch.ones_like(v)], 1), [radius] * 6)
    for axis in range(3):
        size = [1, 1, 1]
        size[axis] = 2 * radius + 1
        padded = F.avg_pool3d(padded, size, stride=1)
    return padded[:, 0] / padded[:, 1] / (1 + sigma)


def pooled(v, sigma, stride=8):
    """The mean over the cells of a pooling grid that starts at the volume's first voxel."""
    pads = [pad for n in reversed(v.shape[1:]) for pad in (0, -n % stride)]
    small = F.avg_pool3d(F.pad(torch.stack([v, torch.ones_like(v)], 1), pads), stride)
    small = small[:, 0] / small[:, 1]
    for axis, n in enumerate(v.shape[1:], start=1):
        small = small.repeat_interleave(stride, axis).narrow(axis, 0, n)
    return small


class UNet(torch.nn.Module):
    """Random weights that decay away from the kernel's centre; three levels, pads to a multiple of 4 at the end."""

    def __init__(self, width=4):
        super().__init__()
        generator = torch.Generator().manual_seed(3)

        def conv(n_in, n_out):
            layer = torch.nn.Conv3d(n_in, n_out, 3, padding=1)
            offset = torch.stack(torch.meshgrid(*[torch.arange(-1.0, 2.0)] * 3, indexing="ij"))
            weight = torch.randn(n_out, n_in, 3, 3, 3, generator=generator) * torch.exp(-offset.square().sum(0))
            layer.weight.data = weight / weight.square().sum((1, 2, 3, 4), keepdim=True).sqrt()
            layer.bias.data.zero_()
            return layer

        self.down = torch.nn.ModuleList([conv(2, width), conv(width, width), conv(width, width)])
        self.up = torch.nn.ModuleList([conv(2 * width, width), conv(2 * width, width)])
        self.last = conv(width, 1)

    def forward(self, v, sigma):
        sizes = v.shape[1:]
        x = F.pad(v, [pad for n in reversed(sizes) for pad in (0, -n % 4)])[:, None]
        x = torch.cat([x, torch.full_like(x, sigma)], 1)
        fine = F.relu(self.down[0](x))
        middle = F.relu(self.down[1](F.avg_pool3d(fine, 2)))
        coarse = F.relu(self.down[2](F.avg_pool3d(middle, 2)))
        middle = F.relu(self.up[0](torch.cat([middle, F.interpolate(coarse, scale_factor=2)], 1)))
        fine = F.relu(self.up[1](torch.cat([fine, F.interpolate(middle, scale_factor=2)], 1)))
        return self.last(fine)[:, 0, : sizes[0], : sizes[1], : sizes[2]]


VOLUMES = [(96, 96, 96), (97, 61, 50), (1, 97, 50), (49, 20, 3)]


@pytest.mark.parametrize("shape", VOLUMES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_equal_the_whole_when_the_margin_covers_the_filter(shape, batch):
    v = randn(1, *shape)
    out = Tiled(box_blur, batch=batch)(v, 0.1)
    torch.testing.assert_close(out, box_blur(v, 0.1), rtol=0, atol=1e-6)


def test_tiles_of_unequal_sides_equal_the_whole():
    v = randn(2, 30, 41, 52, dtype=torch.float64)
    tiled = Tiled(
        lambda u, s: box_blur(u, s, radius=2), tile=(12, 10, 4), overlap=(4, 11, 20), align=(1, 5, 4), margin=2
    )
    torch.testing.assert_close(tiled(v, 0.1), tiled.inner(v, 0.1))


@pytest.mark.parametrize("shape", [(96, 50, 50), (97, 61, 50), (1, 97, 50)], ids=str)
def test_pooling_grids_of_tiles_and_whole_agree(shape):
    v = randn(1, *shape)
    torch.testing.assert_close(Tiled(pooled)(v, 0.1), pooled(v, 0.1), rtol=0, atol=1e-6)
    if shape[0] > 1:
        assert (Tiled(pooled, tile=20, align=4)(v, 0.1) - pooled(v, 0.1)).abs().max() > 1e-2


@pytest.mark.parametrize("shape", [(96, 96, 50), (97, 61, 50)], ids=str)
def test_a_network_shows_no_seam(shape):
    net = UNet().eval()  # it looks 12 voxels far and does not say so: the default margin is less
    v = randn(1, *shape)
    with torch.no_grad():
        whole = net(v, 0.1)
    off = Tiled(net)(v, 0.1) - whole
    assert off.abs().max() <= 4e-2 * whole.std()
    assert off.square().mean().sqrt() <= 1e-3 * whole.std()


def test_without_overlap_a_network_shows_seams():
    net = UNet().eval()
    v = randn(1, 96, 24, 24)
    with torch.no_grad():
        whole = net(v, 0.1)
    assert (Tiled(net, overlap=0)(v, 0.1) - whole).abs().max() >= whole.std()


def test_2d_images_are_tiled_too():
    v = randn(2, 70, 55)

    def blur(u, sigma):
        return F.avg_pool2d(u[:, None], 5, stride=1, padding=2, count_include_pad=False)[:, 0]

    torch.testing.assert_close(Tiled(blur, tile=(8, 32, 24), overlap=(0, 8, 8))(v, 0.1), blur(v, 0.1))


def test_an_inner_that_tells_its_reach_gives_the_whole():
    def blur(u, sigma):
        return box_blur(u, sigma, radius=11)

    v = randn(1, 96, 40, 61)
    assert (
        Tiled(blur, tile=24, overlap=16)(v, 0.1) - blur(v, 0.1)
    ).abs().max() > 1e-4  # it did not tell: 6 are dropped
    blur.reach = 11
    for inner in (blur, Chunked(blur, 1), NonNegative(blur)):
        torch.testing.assert_close(Tiled(inner, tile=24)(v, 0.1), inner(v, 0.1), rtol=0, atol=1e-6)
    assert (Tiled(blur, tile=24, overlap=8)(v, 0.1) - blur(v, 0.1)).abs().max() > 1e-4  # 4 of the 11 at each border


@pytest.mark.parametrize("n", [49, 50, 55, 56, 57, 80, 96, 97, 333])
@pytest.mark.parametrize(
    ("tile", "overlap", "align", "margin"),
    [(32, 16, 8, 6), (8, 40, 8, 3), (48, 0, 8, 0), (2, 5, 1, 2), (20, 4, 4, 2), (48, 66, 4, 33), (8, 15, 8, 7)],
)
def test_a_cut_is_a_partition_of_unity(n, tile, overlap, align, margin):
    spans = _cut(n, tile, overlap, align, margin)
    total = torch.zeros(n, dtype=torch.float64)
    for span in spans:
        total[span.given] += span.weight
        assert (span.weight >= 0).all()
        assert span.start % align == 0
        assert span.stop == n or span.stop % align == 0
        assert span.stop - span.start <= tile + overlap + 2 * align
        assert span.start == 0 or span.first >= span.start + margin
        assert span.stop == n or span.last <= span.stop - margin
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    assert spans[-1].stop == n
    for a, b in itertools.pairwise(spans):
        assert a.stop - b.start >= overlap or a.stop == n or b.start == 0
    assert len(spans) == -(-n // tile)  # none more than needed


def test_a_small_volume_goes_in_unchanged():
    seen = []
    v = randn(3, 48, 20, 1)
    Tiled(lambda u, sigma: seen.append((u, sigma)) or u)(v, 0.1)
    assert len(seen) == 1
    assert seen[0][0] is v
    assert seen[0][1] == 0.1


def test_memory_is_bounded_by_a_tile():
    """Never more than `batch` tiles go in, and no earlier result is kept when the next is made."""
    alive: list[weakref.ref] = []
    most = []

    def inner(v, sigma):
        assert v.shape[0] <= 2
        assert max(v.shape[1:]) <= 12 + 2 * 4
        most.append(sum(ref() is not None for ref in alive))
        out = v * 1.0
        alive.append(weakref.ref(out))
        return out

    network = torch.nn.Conv3d(1, 1, 1)  # its graph would keep every tile
    v = randn(2, 50, 33, 20)
    tiled = Tiled(lambda u, s: inner(network(u[:, None])[:, 0], s), tile=12, overlap=4, align=4, batch=2)
    out = tiled(v, 0.1)
    assert not out.requires_grad
    assert len(most) > 20
    assert max(most) <= 1


def test_an_inner_that_writes_into_its_input_harms_nothing():
    v = randn(1, 40, 8, 8)
    kept = v.clone()
    out = Tiled(lambda u, sigma: u.mul_(0.5), tile=16, overlap=4, align=4)(v, 0.1)
    assert torch.equal(v, kept)
    torch.testing.assert_close(out, 0.5 * kept)


def test_scale_equivariance_goes_outside_of_tiles():
    v = randn(1, 40, 8, 8) * torch.linspace(0.1, 1, 40)[:, None, None]
    tiled = {"tile": 12, "overlap": 4, "align": 4}
    whole = ScaleEquivariant(soft)(v, 0.1)
    torch.testing.assert_close(ScaleEquivariant(Tiled(soft, **tiled))(v, 0.1), whole)
    assert (Tiled(ScaleEquivariant(soft), **tiled)(v, 0.1) - whole).abs().max() > 1e-2  # seams


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tiles_on_the_gpu_from_volumes_in_memory():
    v = randn(1, 97, 61, 50)
    net = UNet().eval()
    want = Tiled(net)(v, 0.1)
    out = Tiled(net.cuda(), device="cuda", batch=2)(v, 0.1)
    assert out.device == v.device
    torch.testing.assert_close(out, want, rtol=0, atol=1e-3)


# ---- all


WRAPPED = [
    ScaleEquivariant(soft),
    NonNegative(soft),
    Chunked(soft, 2),
    SliceWise(soft, 1),
    SliceWise(soft, None),
    Tiled(soft, tile=8, overlap=4, align=2),
]


@pytest.mark.parametrize("D", WRAPPED, ids=lambda D: type(D).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_input_and_batch(D, dtype):
    v = randn(3, 10, 9, 12, dtype=dtype)
    kept = v.clone()
    out = D(v, 0.1)
    assert out.shape == v.shape
    assert out.dtype == dtype
    assert torch.equal(v, kept)
    torch.testing.assert_close(out, torch.cat([D(one[None], 0.1) for one in v]))  # batch = loop


@pytest.mark.parametrize("D", WRAPPED, ids=lambda D: type(D).__name__)
@pytest.mark.parametrize(
    ("v", "sigma", "sentence"),
    [
        (torch.ones(3, 3), 0.1, r"\w+ input: expected .*\(batch, nz, ny, nx\), got \(3, 3\)"),
        (
            torch.ones(1, 3, 3, 3, dtype=torch.complex64),
            0.1,
            "expected a real floating-point tensor, got torch.complex",
        ),
        (torch.ones(1, 3, 3, 3), -0.1, "sigma: expected finite and >= 0, got -0.1"),
        (torch.ones(1, 3, 3, 3), float("nan"), "sigma: expected finite and >= 0, got nan"),
    ],
)
def test_bad_calls(D, v, sigma, sentence):
    with pytest.raises(DenoiserError, match=sentence):
        D(v, sigma)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ScaleEquivariant(3), "ScaleEquivariant inner: expected a denoiser"),
        (lambda: Chunked(soft, 0), "Chunked size: expected an integer >= 1, got 0"),
        (lambda: SliceWise(soft, 3), "SliceWise axis: expected 0"),
        (lambda: Tiled(soft, tile=44), "Tiled tile: expected a multiple of align = 8, got 44"),
        (lambda: Tiled(soft, overlap=-1), "Tiled overlap: expected an integer >= 0, got -1"),
        (lambda: Tiled(soft, overlap=(8, 8)), "Tiled overlap: expected an integer or three"),
        (lambda: Tiled(soft, overlap=16, margin=9), "Tiled margin: expected at most half of overlap = 16, got 9"),
        (lambda: SelfEnsemble(soft, 3), "SelfEnsemble n: expected 1, 2, 4 or 8 mirror images, got 3"),
        (lambda: Tiled(soft, tile=48.0), "Tiled tile: expected an integer"),
        (lambda: Tiled(soft, batch=0), "Tiled batch: expected an integer >= 1, got 0"),
        (lambda: Chunked(soft, 2)(randn(3, 2, 2, 2), torch.ones(3)), "Chunked sigma: expected one number"),
        (lambda: ScaleEquivariant(soft)(randn(3, 2, 2), torch.ones(2)), r"expected \(3,\), one per image, got \(2,\)"),
        (lambda: NonNegative(lambda v, s: v[0])(randn(3, 2, 2), 0.1), "NonNegative inner: expected .* back, got"),
        (lambda: NonNegative(lambda v, s: None)(randn(3, 2, 2), 0.1), "expected a tensor back, got NoneType"),
        (lambda: Tiled(lambda v, s: v[..., 1:])(randn(1, 50, 2, 2), 0.1), "Tiled inner: expected .* back"),
        (lambda: SliceWise(soft, 0)(randn(3, 2, 2), 0.1), r"SliceWise input: expected \(batch, nz, ny, nx\), got"),
    ],
)
def test_bad_arguments(make, sentence):
    with pytest.raises(DenoiserError, match=sentence):
        make()
