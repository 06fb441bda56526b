"""Laws that every operator obeys."""

from __future__ import annotations

import inspect

import pytest
import torch
from operator_cases import CUBE, DOUBLE, SMALL, Dense, antennas, crandn, cross, frequencies, operators

import imaging.operators
from imaging.errors import DtypeError, GeometryError, MemoryLimitError, ShapeError
from imaging.operators import Grid, LinearOperator, NearFieldMimo, check_adjoint

OPERATORS = operators()


@pytest.fixture(params=OPERATORS, ids=str)
def A(request: pytest.FixtureRequest) -> LinearOperator:
    return OPERATORS[request.param]


def test_every_exported_operator_is_tested() -> None:
    exported = {
        name
        for name in imaging.operators.__all__
        if inspect.isclass(value := getattr(imaging.operators, name)) and issubclass(value, LinearOperator)
    } - {"LinearOperator"}
    assert exported <= {type(A).__name__ for A in OPERATORS.values()}


def test_adjoint(A: LinearOperator) -> None:
    assert check_adjoint(A) <= 1e-12


def test_linear(A: LinearOperator) -> None:
    x, z = crandn(*A.in_shape, seed=1), crandn(*A.in_shape, seed=2)
    combined = A((2 - 3j) * x + z)
    assert (combined - (2 - 3j) * A(x) - A(z)).norm() <= 1e-13 * combined.norm()


def test_batch_equals_loop(A: LinearOperator) -> None:
    x, y = crandn(2, 3, *A.in_shape), crandn(2, 3, *A.out_shape)
    ax, aty, gram = A(x), A.adjoint(y), A.gram(x)
    for i in range(2):
        for j in range(3):
            assert (ax[i, j] - A(x[i, j])).norm() <= 1e-13 * ax[i, j].norm()
            assert (aty[i, j] - A.adjoint(y[i, j])).norm() <= 1e-13 * aty[i, j].norm()
            assert (gram[i, j] - A.adjoint(ax[i, j])).norm() <= 1e-13 * gram[i, j].norm()


def test_norm_is_the_largest_singular_value(A: LinearOperator) -> None:
    n = torch.Size(A.in_shape).numel()
    matrix = A(torch.eye(n, dtype=DOUBLE).reshape(n, *A.in_shape)).reshape(n, -1).T
    singular = torch.linalg.svdvals(matrix)
    assert abs(A.norm() - float(singular[0])) <= 1e-3 * float(singular[0])

    mean = float((matrix.abs() ** 2).sum()) / matrix.shape[0]
    tolerance = 1e-10 if "mean_eigenvalue" in vars(type(A)) else 0.3  # the base class estimates with 16 probes
    assert abs(A.mean_eigenvalue() - mean) <= tolerance * mean


def test_the_norm_of_a_weak_operator_does_not_underflow():
    weak = Dense(1e-22 * torch.eye(3, dtype=torch.complex64))
    assert weak.norm() == pytest.approx(1e-22, rel=1e-6)


def test_a_grid_holds_its_own_faces():
    z, y, x = (o - d / 2 for o, d in zip(CUBE.origin_m, CUBE.spacing_m, strict=True))
    far = [o + d / 2 for o, d in zip(CUBE.last_m, CUBE.spacing_m, strict=True)][::-1]
    points = torch.tensor([[x, y, z], far, [x - 1e-8, y, z], [0, 0, far[2] + 1e-8]], dtype=torch.float64)
    assert CUBE.contains_m(points).tolist() == [True, True, False, False]


def test_gradient_is_the_adjoint(A: LinearOperator) -> None:
    x = crandn(*A.in_shape, seed=3).requires_grad_()
    y = crandn(*A.out_shape, seed=4).requires_grad_()
    (through_forward,) = torch.autograd.grad(A(x), x, y.detach())
    assert (through_forward - A.adjoint(y.detach())).norm() <= 1e-13 * through_forward.norm()
    (through_adjoint,) = torch.autograd.grad(A.adjoint(y), y, x.detach())
    assert (through_adjoint - A(x.detach())).norm() <= 1e-13 * through_adjoint.norm()


def test_derivatives_agree_with_finite_differences() -> None:
    A = Dense(crandn(4, 3))
    x = crandn(2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(A, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(A, x)
    assert torch.autograd.gradcheck(A.gram, x, check_forward_ad=True)


def test_a_wrong_adjoint_is_caught() -> None:
    class Wrong(Dense):
        def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
            return y @ self.matrix  # conjugate forgotten

    with pytest.raises(AssertionError, match="adjoint and forward disagree"):
        check_adjoint(Wrong(crandn(4, 3)))


def test_wrong_shape_and_dtype_are_refused() -> None:
    A = cross(2, SMALL)
    with pytest.raises(ShapeError, match=r"expected \(\.\.\., 4, 7, 7\), got \(7, 7, 4\); axes are z, y, x"):
        A(crandn(7, 7, 4))
    with pytest.raises(ShapeError, match="axes are tx, rx, frequency"):
        A.adjoint(crandn(13, 12, 2))
    with pytest.raises(DtypeError, match="expected torch.complex128, got torch.complex64"):
        A(crandn(4, 7, 7).to(torch.complex64))
    with pytest.raises(ShapeError, match="the right one gives"):
        A @ A
    with pytest.raises(ShapeError, match="expected equal shapes"):
        A + A.H


def test_moving_keeps_the_operator_and_another_dtype_is_refused(A: LinearOperator) -> None:
    x = crandn(*A.in_shape)
    before = A(x)
    assert torch.equal(A.to("cpu")(x), before)
    if any(b.is_floating_point() for b in A.buffers()):  # torch leaves complex ones alone
        with pytest.raises(DtypeError, match="build a new operator"):
            A.float()
    else:
        A.float()
    assert torch.equal(A(x), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu(A: LinearOperator) -> None:
    x, y = crandn(2, *A.in_shape), crandn(2, *A.out_shape)
    ax, aty = A(x), A.adjoint(y)
    A.to("cuda")
    try:
        assert (A(x.cuda()).cpu() - ax).norm() <= 1e-12 * ax.norm()
        assert (A.adjoint(y.cuda()).cpu() - aty).norm() <= 1e-12 * aty.norm()
    finally:
        A.to("cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tx": torch.zeros(0, 3)}, "aperture is empty"),
        ({"tx": torch.zeros(3, 2)}, r"expected \(n, 3\)"),
        ({"tx": torch.full((1, 3), torch.nan)}, "NaN"),
        ({"tx": torch.tensor([[0.0, 0.0, 0.37]])}, "transmitter 0 .* lies inside the voxel grid"),
        (
            {"rx": torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.37]])},
            "receiver 1 .* lies inside the voxel grid",
        ),
        ({"f": torch.tensor([5e9, 4e9])}, "strictly increasing"),
        ({"f": torch.tensor([4e9, 4e9])}, "strictly increasing"),
        ({"f": torch.tensor([0.0, 4e9])}, "> 0 Hz"),
        ({"amplitude": "1/R"}, "expected one of"),
        ({"phase_convention": "exp(j)"}, "expected one of"),
        ({"spectrum": torch.ones(7)}, "one value per frequency"),
        ({"propagation_speed": -1.0}, "propagation_speed"),
        ({"dtype": torch.float32}, "complex64 or complex128"),
    ],
)
def test_impossible_geometry_is_refused(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"tx": antennas(3, 1), "rx": antennas(3, 2), "f": frequencies(2)} | change
    tx, rx, f = given.pop("tx"), given.pop("rx"), given.pop("f")
    with pytest.raises(GeometryError, match=message):
        NearFieldMimo(tx, rx, f, SMALL, **given)  # type: ignore[arg-type]


def test_a_memory_limit_below_one_block_is_refused() -> None:
    with pytest.raises(MemoryLimitError, match="smallest block"):
        cross(20, memory_limit=1000)


@pytest.mark.parametrize(
    ("origin", "spacing", "shape", "message"),
    [
        ((0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (2, 2, 2), "spacing_m"),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (2, 0, 2), "shape"),
        ((0.0, 0.0), (1.0, 1.0, 1.0), (2, 2, 2), "origin_m"),
        ((0.0, float("nan"), 0.0), (1.0, 1.0, 1.0), (2, 2, 2), "origin_m"),
    ],
)
def test_impossible_grids_are_refused(origin: tuple, spacing: tuple, shape: tuple, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        Grid(origin, spacing, shape)


def test_grid_order_is_z_y_x_and_points_are_x_y_z() -> None:
    grid = Grid((1.0, 2.0, 3.0), (0.1, 0.2, 0.3), (2, 3, 4))
    points = grid.points_m().reshape(2, 3, 4, 3)
    assert torch.allclose(points[1, 2, 3], torch.tensor([3.9, 2.4, 1.1], dtype=torch.float64))
    assert torch.allclose(torch.tensor(grid.last_m), torch.tensor([1.1, 2.4, 3.9]))
    assert Grid.spanning(grid.origin_m, grid.last_m, grid.shape).last_m == pytest.approx(grid.last_m)
