"""Laws of the priors: each is the minimiser it claims to be, problem by problem."""

import math

import pytest
import torch

import imaging.priors
from imaging.errors import DtypeError, ShapeError
from imaging.priors import L1, Denoiser, Magnitude, Prior, TotalVariation, WaveletL1

SHAPE = (3, 4, 5)


def shrink(v: torch.Tensor, sigma: float) -> torch.Tensor:
    """A denoiser that is the prox of ½x² at step sigma²."""
    assert v.ndim == 4  # (batch, nz, ny, nx) is promised
    return v / (1 + sigma**2)


# name, prior with many iterations, is it for complex input, value(x) or None
PRIORS = [
    ("l1 real", L1(0.7), False),
    ("l1 complex", L1(0.7), True),
    ("tv", TotalVariation(0.5, n_iter=1000), False),
    ("tv fgp", TotalVariation(0.5, n_iter=1000, method="fgp"), False),
    ("tv + l1 >= 0", TotalVariation(0.5, n_iter=1000, nonnegative=True, l1_weight=0.2), False),
    ("wavelet real", WaveletL1(0.7, levels=2, moments=2, shifts=False), False),
    ("wavelet complex", WaveletL1(0.7, levels=2, moments=1, shifts=False), True),
    ("|tv|", Magnitude(TotalVariation(0.5, n_iter=1000)), True),
    ("|l1|", Magnitude(L1(0.5), weight=1.5), True),
    ("|tv + l1 >= 0|", Magnitude(TotalVariation(0.5, n_iter=1000, nonnegative=True, l1_weight=0.2)), True),
]
#: `Patches` is a denoiser: test_patches.py.
PROTOCOLS = {Denoiser, Prior, imaging.priors.Patches}
IDS = [name for name, _, _ in PRIORS]


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def kind(is_complex: bool) -> torch.dtype:
    return torch.complex128 if is_complex else torch.float64


def test_every_exported_prior_is_tested():
    exported = {getattr(imaging.priors, name) for name in imaging.priors.__all__} - PROTOCOLS
    assert exported == {type(prior) for _, prior, _ in PRIORS}


@pytest.mark.parametrize(("name", "prior", "is_complex"), PRIORS, ids=IDS)
def test_no_nearby_point_beats_the_prox(name, prior, is_complex):
    v = randn(*SHAPE, dtype=kind(is_complex))
    step = 0.3

    def objective(x):
        return prior.value(x) + (x - v).abs().square().sum((-3, -2, -1)) / (2 * step)

    x = prior.prox(v, step)
    best = float(objective(x))
    for size in (1e-1, 1e-2, 1e-3):
        nearby = x + size * randn(300, *SHAPE, dtype=kind(is_complex), seed=1)
        nearby = nearby.clamp_min(0) if getattr(prior, "nonnegative", False) else nearby
        assert float(objective(nearby).min()) >= best - 1e-9


@pytest.mark.parametrize(("name", "prior", "is_complex"), PRIORS, ids=IDS)
def test_step_zero_is_the_identity(name, prior, is_complex):
    v = randn(*SHAPE, dtype=kind(is_complex))
    v = v if is_complex else v.abs()  # a non-negative prior keeps non-negative images
    assert torch.allclose(prior.prox(v, 0.0), v, atol=1e-14)


@pytest.mark.parametrize(("name", "prior", "is_complex"), PRIORS, ids=IDS)
@pytest.mark.parametrize("single", [True, False])
def test_a_batch_is_a_loop_and_the_dtype_is_kept(name, prior, is_complex, single):
    dtype = {
        (True, True): torch.complex64,
        (True, False): torch.complex128,
        (False, True): torch.float32,
        (False, False): torch.float64,
    }[is_complex, single]
    v = randn(2, 3, *SHAPE, dtype=dtype)
    before = v.clone()
    x = prior.prox(v, 0.3)
    assert x.dtype == dtype
    assert x.shape == v.shape
    assert torch.equal(v, before)
    for i in range(2):
        for j in range(3):
            assert torch.allclose(x[i, j], prior.prox(v[i, j], 0.3), rtol=1e-5 if single else 1e-12)
    assert prior.value(x).shape == (2, 3)
    assert prior.value(x).dtype == torch.float64
    assert torch.allclose(prior.value(x)[1, 2], prior.value(x[1, 2]))


@pytest.mark.parametrize(("name", "prior", "is_complex"), PRIORS, ids=IDS)
def test_priors_fit_the_protocol_and_tell_bad_steps(name, prior, is_complex):
    assert isinstance(prior, Prior)
    v = randn(*SHAPE, dtype=kind(is_complex))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step: expected a finite number >= 0"):
            prior.prox(v, bad)


# -- l1 and magnitudes (NF 11: T13, T14) ----------------------------------------------------------


def test_l1_is_the_soft_threshold():
    z = randn(2, *SHAPE, dtype=torch.complex128)
    z[0, 0, 0, 0] = 0
    alpha = 0.8
    expected = z * torch.nan_to_num(1 - alpha / z.abs(), neginf=0.0).clamp_min(0)
    for prior in (L1(), Magnitude(L1())):
        assert torch.allclose(prior.prox(z, alpha), expected, atol=1e-15)
    real = randn(*SHAPE)
    assert torch.allclose(L1().prox(real, alpha), real.sign() * (real.abs() - alpha).clamp_min(0))


MAGNITUDES = [
    ("l1", Magnitude(L1())),
    ("tv", Magnitude(TotalVariation(n_iter=3000))),
    ("tv fgp", Magnitude(TotalVariation(n_iter=3000, method="fgp"))),
]


@pytest.mark.parametrize(("name", "prior"), MAGNITUDES)
def test_no_change_of_phase_or_magnitude_beats_the_magnitude_prox(name, prior):
    z, alpha = randn(*SHAPE, dtype=torch.complex128), 0.2
    v = prior.prox(z, alpha)

    def objective(x):
        return alpha * prior.value(x) + 0.5 * (x - z).abs().square().sum((-3, -2, -1))

    best = float(objective(v))
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        size = 10.0 ** float(-4 * torch.rand((), generator=generator))
        turn = size * torch.randn(1000, *SHAPE, dtype=torch.float64, generator=generator)
        grow = size * torch.randn(1000, *SHAPE, dtype=torch.float64, generator=generator)
        perturbed = (v.abs() + grow).clamp_min(0) * torch.exp(1j * (v.angle() + turn))
        assert float(objective(perturbed).min()) >= best - 1e-12


PHASE_KEEPERS = [*MAGNITUDES, ("denoiser", Magnitude(shrink)), ("relative", Magnitude(shrink, relative=True))]


@pytest.mark.parametrize(("name", "prior"), PHASE_KEEPERS)
def test_the_magnitude_prox_turns_with_the_phase(name, prior):
    z = randn(2, *SHAPE, dtype=torch.complex128)
    turn = torch.exp(1j * randn(2, *SHAPE, seed=1))
    v = prior.prox(z, 0.2)
    assert torch.allclose(prior.prox(turn * z, 0.2), turn * v, atol=1e-12)
    kept = v.abs() > 0
    gap = (v[kept] / v[kept].abs() - z[kept] / z[kept].abs()).abs()
    assert float(gap.max()) <= 1e-12


def test_a_negative_denoiser_output_is_clamped():
    v = randn(2, *SHAPE, dtype=torch.complex128)
    assert torch.equal(Magnitude(lambda m, sigma: m - 10.0).prox(v, 0.1), torch.zeros_like(v))


def test_zeros_stay_finite():
    zero = torch.zeros(2, *SHAPE, dtype=torch.complex64)
    for prior in (L1(), Magnitude(L1()), Magnitude(TotalVariation()), Magnitude(shrink, relative=True)):
        assert torch.equal(prior.prox(zero, 0.1), zero)
    # a denoiser may put something where nothing was; it has no phase to give it
    assert torch.equal(Magnitude(lambda m, sigma: m + 1).prox(zero, 0.1), zero)


def test_sigma_is_the_root_of_weight_times_step():
    heard = []

    def denoiser(v, sigma):
        heard.append(sigma)
        return v

    prior = Magnitude(denoiser, weight=4.0)
    prior.prox(randn(*SHAPE, dtype=torch.complex128), 0.09)
    assert heard == [pytest.approx(0.6)]
    assert prior.noise_level(0.09) == pytest.approx(0.6)
    assert prior.value(randn(*SHAPE)) is None
    assert Magnitude(L1()).noise_level(0.09) is None
    assert isinstance(shrink, Denoiser)


@pytest.mark.parametrize("inner", [TotalVariation(), L1(), shrink])
def test_a_relative_magnitude_scales_with_its_input(inner):
    prior = Magnitude(inner, relative=True)
    v = randn(3, *SHAPE, dtype=torch.complex128)
    scale = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64).reshape(3, 1, 1, 1)
    assert torch.allclose(prior.prox(scale * v, 0.05), scale * prior.prox(v, 0.05), rtol=1e-9)
    # ... and equals the plain one where the peak is 1
    unit = v / v.abs().amax((-3, -2, -1), keepdim=True)
    assert torch.allclose(prior.prox(unit, 0.05), Magnitude(inner).prox(unit, 0.05), rtol=1e-9)
    assert prior.value(v) is None


# -- total variation ------------------------------------------------------------------------------

METHODS = ["split", "fgp"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tv_lowers_a_step_by_its_closed_form(method, axis):
    # the two halves of a step move towards each other by weight * step / length of a half
    v = torch.zeros(8, dtype=torch.float64)
    v[4:] = 3.0
    shape = [1, 1, 1]
    shape[axis] = 8
    x = TotalVariation(2.0, n_iter=500, method=method).prox(v.reshape(shape), 0.6).flatten()
    expected = torch.where(v > 1, 3.0 - 1.2 / 4, 1.2 / 4).to(torch.float64)
    assert torch.allclose(x, expected, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_tv_of_two_voxels(method):
    prior = TotalVariation(1.0, n_iter=500, method=method)
    two = torch.tensor([[[1.0, 4.0]]], dtype=torch.float64)
    assert torch.allclose(prior.prox(two, 0.5), torch.tensor([[[1.5, 3.5]]], dtype=torch.float64))
    assert torch.allclose(prior.prox(two, 5.0), torch.tensor([[[2.5, 2.5]]], dtype=torch.float64))


def test_tv_value_is_its_definition():
    v = randn(3, 4, 5)
    expected = 0.0
    for i in range(3):
        for j in range(4):
            for k in range(5):
                d = [
                    v[min(i + 1, 2), j, k] - v[i, j, k],
                    v[i, min(j + 1, 3), k] - v[i, j, k],
                    v[i, j, min(k + 1, 4)] - v[i, j, k],
                ]
                expected += math.sqrt(sum(float(a) ** 2 for a in d))
    assert float(TotalVariation(2.0).value(v)) == pytest.approx(2 * expected)


SHAPES = [(12, 13, 14), (1, 20, 21), (1, 1, 30), (9, 1, 8), (9, 7, 1), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_methods_find_the_same_minimum(shape):
    v = randn(*shape)
    split = TotalVariation(0.4, n_iter=1000).prox(v, 0.5)
    fgp = TotalVariation(0.4, n_iter=2000, method="fgp").prox(v, 0.5)
    assert float((split - fgp).norm() / fgp.norm()) < 1e-3
    value = TotalVariation(0.4)

    def objective(x):
        return float(value.value(x) + (x - v).square().sum() / (2 * 0.5))

    assert objective(split) == pytest.approx(objective(fgp), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_tv_does_not_depend_on_slab_or_orientation(method, monkeypatch):
    prior = TotalVariation(0.4, n_iter=400, method=method)
    v = randn(9, 7, 8)
    x = prior.prox(v, 0.5)
    turned = prior.prox(v.permute(2, 0, 1), 0.5).permute(1, 2, 0)
    assert torch.allclose(turned, x, atol=1e-3)
    for slab in (1, 100, 150):
        monkeypatch.setattr("imaging.priors._fgp.SLAB", slab)
        assert torch.allclose(prior.prox(v, 0.5), x, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_tv_keeps_the_mean_and_ignores_an_offset(method):
    prior = TotalVariation(0.4, method=method)
    v = randn(2, 9, 7, 8)
    x = prior.prox(v, 0.5)
    assert torch.allclose(x.mean((-3, -2, -1)), v.mean((-3, -2, -1)), atol=1e-12)
    assert torch.allclose(prior.prox(v + 7, 0.5), x + 7, atol=1e-10)
    flat = torch.full((4, 4, 4), 3.0)
    assert torch.allclose(prior.prox(flat, 0.5), flat)


@pytest.mark.parametrize("method", METHODS)
def test_tv_of_a_nonnegative_image_stays_nonnegative(method):
    v = randn(9, 7, 8).clamp_min(0)
    x = TotalVariation(0.4, n_iter=1000, method=method).prox(v, 0.5)
    assert float(x.min()) > -1e-4
    assert float(x.max()) <= float(v.max())


@pytest.mark.parametrize("method", METHODS)
def test_warm_starts_go_on_and_leave_their_input_alone(method):
    v = randn(2, 12, 13, 14)
    exact = TotalVariation(0.4, n_iter=3000, method="fgp").prox(v, 0.5)
    prior = TotalVariation(0.4, n_iter=10, method=method)
    cold, memory = prior.prox_warm(v, 0.5, None)
    assert torch.equal(cold, prior.prox(v, 0.5))
    assert memory.shape == (2, 3, 12, 13, 14)
    errors = [float((cold - exact).norm())]
    for _ in range(10):
        kept = memory.clone()
        x, after = prior.prox_warm(v, 0.5, memory)
        assert torch.equal(memory, kept)
        memory = after
        errors.append(float((x - exact).norm()))
    assert errors[-1] < 0.2 * errors[0]
    # memory carries over to another step and to Magnitude
    y, _ = prior.prox_warm(v, 0.4, memory)
    assert torch.isfinite(y).all()
    z, _ = Magnitude(prior).prox_warm(v.to(torch.complex128), 0.5, memory)
    w, _ = prior.prox_warm(v.abs(), 0.5, memory)
    assert torch.allclose(z.abs(), w.clamp_min(0))


def test_nonnegative_tv_with_l1_is_not_a_soft_threshold_after_tv():
    # exact: a constant is taken off first, inside the constraint; what the docstring claims
    prior = TotalVariation(0.5, n_iter=4000, nonnegative=True, l1_weight=0.3)
    v = randn(3, 4, 5)
    x = prior.prox(v, 0.6)
    after = (TotalVariation(0.5, n_iter=4000, method="fgp").prox(v, 0.6) - 0.6 * 0.3).clamp_min(0)

    def objective(x):
        return float(prior.value(x) + (x - v).square().sum() / (2 * 0.6))

    assert float(x.min()) >= 0
    assert objective(x) < objective(after)
    lowered = TotalVariation(0.5, n_iter=4000, nonnegative=True).prox(v - 0.3 * 0.6, 0.6)
    assert torch.allclose(x, lowered)


def test_wrong_arguments_are_told():
    with pytest.raises(DtypeError, match=r"Magnitude\(TotalVariation\(...\)\) acts on \|v\|"):
        TotalVariation().prox(randn(*SHAPE, dtype=torch.complex64), 0.1)
    with pytest.raises(DtypeError, match="floating-point"):
        TotalVariation().prox(torch.ones(3, 3, 3, dtype=torch.int64), 0.1)
    with pytest.raises(ShapeError, match="a slice has nz = 1"):
        TotalVariation().prox(randn(4, 5), 0.1)
    with pytest.raises(ShapeError, match=r"memory: expected \(3, 3, 4, 5\)"):
        TotalVariation().prox_warm(randn(*SHAPE), 0.1, randn(3, 2, 2, 2))
    with pytest.raises(ValueError, match="n_iter: expected >= 1"):
        TotalVariation(n_iter=0)
    with pytest.raises(ValueError, match="needs nonnegative=True"):
        TotalVariation(l1_weight=0.1)
    with pytest.raises(ValueError, match="no nonnegative form"):
        TotalVariation(nonnegative=True, method="split")
    with pytest.raises(ValueError, match="expected split or fgp"):
        TotalVariation(method="newton")
    for make in (L1, TotalVariation, lambda weight: Magnitude(shrink, weight)):
        with pytest.raises(ValueError, match="weight: expected a finite number >= 0, got -1"):
            make(-1)
    with pytest.raises(TypeError, match="got float"):
        Magnitude(3.0)
