"""Operators as those of deepinv and PyLops, and back: the same numbers, and adjoint tests on both sides."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from operator_cases import DOUBLE, Dense, crandn, operators

from imaging import interchange
from imaging.errors import DtypeError, ShapeError
from imaging.interchange import from_deepinv, from_pylops, to_deepinv, to_pylops
from imaging.operators import check_adjoint

NAMES = ("Kronecker", "NearFieldMimo", "CartesianMri", "NonCartesianMri", "PlanarScan", "ConeBeam", "TimeSequential")
OPERATORS = {name: A for name, A in operators().items() if name in NAMES}
OPERATORS["real"] = Dense(crandn(5, 4, seed=3).real.contiguous())


@pytest.fixture(scope="module")
def deepinv():
    try:
        import deepinv
    except (ImportError, RuntimeError) as error:  # torchvision of another torch
        pytest.skip(f"deepinv is not installed, or not whole: {error}")
    return deepinv


@pytest.fixture(scope="module")
def pylops():
    return pytest.importorskip("pylops", reason="PyLops is not installed")


def random(shape, A, seed=0):
    return crandn(2, *shape, seed=seed) if A.dtype.is_complex else crandn(2, *shape, seed=seed).real.contiguous()


# -- deepinv -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("complex_as", ["channels", "complex"])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_as_physics_and_back(name, complex_as, deepinv):
    A = OPERATORS[name]
    physics = to_deepinv(A, complex_as=complex_as)
    assert isinstance(physics, deepinv.physics.LinearPhysics)
    kind = torch.float64 if complex_as == "channels" or not A.dtype.is_complex else DOUBLE
    assert physics.adjointness_test(dtype=kind, num_samples=3) < 1e-12

    x = random(A.in_shape, A)
    split = A.dtype.is_complex and complex_as == "channels"
    there = torch.view_as_real(x).movedim(-1, 1) if split else x[:, None]
    y = physics.A(there)
    assert y.dtype == kind
    expected = A(x)
    found = torch.view_as_complex(y.movedim(1, -1).contiguous()) if split else y[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

    back = from_deepinv(physics, tuple(there.shape[1:]), dtype=kind)
    assert check_adjoint(back) < 1e-12
    torch.testing.assert_close(back(there), y, rtol=0, atol=0)


def test_a_physics_of_deepinv_as_operator(deepinv):
    generator = torch.Generator().manual_seed(0)
    blur = deepinv.physics.Blur(torch.rand(1, 1, 3, 3, generator=generator), padding="circular")
    B = from_deepinv(blur, (1, 12, 10))
    assert (B.in_shape, B.out_shape, B.dtype) == ((1, 12, 10), (1, 12, 10), torch.float32)
    check_adjoint(B)
    x = torch.rand(3, 1, 12, 10, generator=generator, requires_grad=True)
    B(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * B.gram(x.detach()))
    physics = to_deepinv(B.H @ B)
    assert physics.adjointness_test(dtype=torch.float32) < 1e-5


def test_deepinv_solves_with_our_operator(deepinv):
    A = OPERATORS["real"]
    physics = to_deepinv(A)
    y = physics.A(random(A.in_shape, A)[:, None])
    found = physics.A_dagger(y, max_iter=100, tol=1e-10)
    assert (physics.A(found) - y).norm() < 1e-5 * y.norm()


def test_physics_that_are_none(deepinv):
    with pytest.raises(ShapeError, match="expected a LinearPhysics, got int"):
        from_deepinv(3, (1, 4))
    with pytest.raises(ShapeError, match="expected .batch, 2, ...., got"):
        to_deepinv(OPERATORS["Kronecker"]).A(torch.zeros(1, 1, 3))


# -- PyLops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_for_pylops_and_back(name, pylops):
    A = OPERATORS[name]
    op = to_pylops(A)
    assert (op.dims, op.dimsd, op.shape) == (A.in_shape, A.out_shape, (np.prod(A.out_shape), np.prod(A.in_shape)))
    assert pylops.utils.dottest(op, complexflag=3 if A.dtype.is_complex else 0, rtol=1e-10)
    x = random(A.in_shape, A)
    np.testing.assert_array_equal(op @ x[0].numpy().ravel(), A(x[0]).numpy().ravel())

    back = from_pylops(op)
    assert check_adjoint(back) < 1e-12
    torch.testing.assert_close(back(x), torch.stack([A(one) for one in x]), rtol=0, atol=0)


def test_an_operator_of_pylops(pylops):
    D = from_pylops(pylops.FirstDerivative((6, 5), axis=0, dtype="float64"))
    assert (D.in_shape, D.out_shape, D.dtype) == ((6, 5), (6, 5), torch.float64)
    check_adjoint(D)
    x = crandn(3, 2, 6, 5).real.contiguous().requires_grad_()
    (D(x).square().sum() / 2).backward()
    torch.testing.assert_close(x.grad, D.gram(x.detach()))
    assert D(torch.zeros(0, 6, 5, dtype=torch.float64)).shape == (0, 6, 5)


def test_pylops_solves_with_our_operator(pylops):
    A = OPERATORS["Kronecker"]
    x = random(A.in_shape, A)[0].numpy().ravel()
    y = to_pylops(A) @ x
    found = pylops.optimization.basic.cgls(to_pylops(A), y, np.zeros_like(x), niter=500, tol=1e-14)[0]
    np.testing.assert_allclose(to_pylops(A) @ found.ravel(), y, rtol=1e-6, atol=1e-6 * np.abs(y).max())


def test_pylops_operators_that_do_not_fit(pylops):
    with pytest.raises(ShapeError, match="expected a pylops.LinearOperator, got int"):
        from_pylops(3)
    with pytest.raises(DtypeError, match="got int64"):
        from_pylops(pylops.Identity(3, dtype="int64"))
    with pytest.raises(DtypeError, match="expected real vectors"):
        to_pylops(OPERATORS["real"]).matvec(np.ones(4, complex))


# -- neither -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "call"), [("deepinv", to_deepinv), ("pylops", to_pylops)])
def test_a_package_that_is_missing(package, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    interchange._physics_class.cache_clear()
    interchange._pylops_class.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'backcast\[interchange\]'"):
        call(OPERATORS["real"])
