"""Laws of the classical denoisers: less error at every noise level, scale equivariance, batch = loop."""

import sys

import pytest
import torch

from denoisers import DenoiserError
from denoisers.classical import CLASSICAL, NonLocalMeans, TvChambolle, Wavelet
from denoisers.wrappers import ScaleEquivariant

NAMES = sorted(CLASSICAL)


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def blobs(*shape: int) -> torch.Tensor:
    """Six Gaussian blobs of peak 0.4 to 1."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij"), -1)
    x = torch.zeros(shape, dtype=torch.float64)
    for _ in range(6):
        centre = (0.2 + 0.6 * torch.rand(len(shape), generator=generator)) * torch.tensor(shape)
        width, peak = 1.5 + 2.5 * torch.rand(1, generator=generator), 0.4 + 0.6 * torch.rand(1, generator=generator)
        x = torch.maximum(x, peak * torch.exp(-(grid - centre).square().sum(-1) / (2 * width**2)))
    return x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("shape", [(24, 24, 24), (64, 64)], ids=["3d", "2d"])
def test_the_error_falls(name, sigma, shape):
    x = blobs(*shape)
    v = x + sigma * randn(*shape, seed=1)
    out = CLASSICAL[name]()(v[None], sigma)[0]
    assert (out - x).square().mean() <= (0.25 if len(shape) == 3 else 0.6) * (v - x).square().mean()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(2, 12, 10, 9), (2, 1, 12, 9), (1, 5, 1, 1), (1, 1, 1, 1), (2, 12, 9), (1, 2, 3, 20)], ids=str
)
def test_shape_dtype_input_and_batch(name, dtype, shape):
    D = CLASSICAL[name]()
    v = randn(*shape).to(dtype)
    kept = v.clone()
    out = D(v, 0.3)
    assert out.shape == v.shape
    assert out.dtype == dtype
    assert torch.isfinite(out).all()
    assert torch.equal(v, kept)
    assert torch.equal(out, torch.cat([D(one[None], 0.3) for one in v]))
    assert torch.equal(D(v, 0.0), v)


@pytest.mark.parametrize("name", NAMES)
def test_a_flat_volume_is_an_image(name):
    v = randn(1, 12, 9)
    D = CLASSICAL[name]()
    assert torch.equal(D(v[:, :, None], 0.3)[:, :, 0], D(v, 0.3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("c", [1e-9, 1e9])
def test_scale_equivariance(name, c):
    D = CLASSICAL[name]()
    v = randn(2, 8, 9, 10)
    torch.testing.assert_close(D(c * v, c * 0.3), c * D(v, 0.3), rtol=1e-6, atol=1e-6 * c)
    torch.testing.assert_close(ScaleEquivariant(D)(v, 0.3), D(v, 0.3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_sigma_may_differ_per_image(name):
    D = CLASSICAL[name]()
    v = randn(3, 8, 9, 10)
    out = D(v, torch.tensor([0.1, 0.0, 0.3], dtype=torch.float64))
    torch.testing.assert_close(out, torch.cat([D(v[:1], 0.1), v[1:2], D(v[2:], 0.3)]))


@pytest.mark.parametrize("name", NAMES)
def test_constants_stay(name):
    for value in (0.0, 0.7):
        v = torch.full((1, 8, 8, 8), value, dtype=torch.float64)
        torch.testing.assert_close(CLASSICAL[name]()(v, 0.1), v)


def test_parameters_smooth_as_documented():
    v = randn(1, 16, 16, 16)
    for less, more in (
        (NonLocalMeans(h=0.4), NonLocalMeans(h=1.0)),
        (TvChambolle(weight=0.4), TvChambolle(weight=1.0)),
        (Wavelet(shifts=0), Wavelet(shifts=1)),
    ):
        assert more(v, 1.0).square().mean() < less(v, 1.0).square().mean()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NonLocalMeans(patch=0), "NonLocalMeans patch: expected an integer >= 1, got 0"),
        (lambda: NonLocalMeans(h=0.0), "NonLocalMeans h: expected > 0, as a fraction of sigma, got 0.0"),
        (lambda: TvChambolle(weight=-1.0), "TvChambolle weight: expected > 0"),
        (lambda: Wavelet(wavelet="bior2.2"), "Wavelet wavelet: expected an orthogonal one, .* got 'bior2.2'"),
        (lambda: Wavelet(wavelet="nonsense"), "Wavelet wavelet: expected an orthogonal one, .* got 'nonsense'"),
        (lambda: Wavelet(shifts=-1), "Wavelet shifts: expected an integer >= 0, got -1"),
        (lambda: TvChambolle()(randn(4, 4), 0.1), r"TvChambolle input: expected .* got \(4, 4\)"),
        (lambda: TvChambolle()(randn(1, 4, 4), -1.0), "TvChambolle sigma: expected finite and >= 0, got -1.0"),
    ],
)
def test_bad_arguments(make, sentence):
    with pytest.raises(DenoiserError, match=sentence):
        make()


def test_without_pywavelets_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(DenoiserError, match=r"pip install 'backcast\[wavelet\]'"):
        CLASSICAL["wavelet"]()
