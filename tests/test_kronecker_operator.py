"""Kronecker operators against the product matrix: order of the axes, stacks, exact solves, bad factors."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from operator_cases import crandn

from imaging.errors import DtypeError, ShapeError
from imaging.operators import Kronecker, check_adjoint
from imaging.operators.kronecker import outer
from imaging.solvers import RegularisedSolver

SHAPES = [((4, 6),), ((3, 5), (6, 2)), ((4, 4), (2, 3), (5, 6)), ((2, 3), (3, 3), (4, 2), (2, 2))]


def factors(shapes, seed: int = 0, **options) -> list[torch.Tensor]:
    return [crandn(*shape, seed=seed + i, **options) for i, shape in enumerate(shapes)]


def matrix(parts) -> torch.Tensor:
    return functools.reduce(torch.kron, parts)


@pytest.mark.parametrize("shapes", SHAPES, ids=len)
@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64])
def test_it_is_the_product_matrix(shapes, dtype) -> None:
    parts = factors(shapes, dtype=dtype)
    A, dense = Kronecker(parts), matrix(parts)
    x, y = crandn(2, *A.in_shape, dtype=dtype), crandn(2, *A.out_shape, dtype=dtype)
    torch.testing.assert_close(A(x).flatten(1), x.flatten(1) @ dense.T)
    torch.testing.assert_close(A.adjoint(y).flatten(1), y.flatten(1) @ dense.conj())
    assert check_adjoint(A) <= 1e-12
    assert A.norm() == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)))
    assert A.mean_eigenvalue() == pytest.approx(float(dense.abs().square().sum()) / len(dense))


@pytest.mark.parametrize("shapes", SHAPES, ids=len)
@pytest.mark.parametrize("rho", [1e-6, 1.0, 1e4])
def test_regularised_solves_are_exact(shapes, rho) -> None:
    A = Kronecker(factors(shapes))
    solver = A.regularised_solver(rho)
    assert isinstance(solver, RegularisedSolver)
    assert solver.method == "eigen"
    x = crandn(3, 2, *A.in_shape)
    b = A.gram(x) + rho * x
    assert (solver(b) - x).norm() <= 1e-14 * (1 + A.norm() ** 2 / rho) * x.norm()
    u, w = crandn(2, *A.in_shape, seed=1), crandn(2, *A.out_shape, seed=2)
    best, image = solver.prox(u, w)
    gradient = rho * (best - u) + A.adjoint(A(best) - w)
    assert gradient.norm() <= 1e-10 * (rho * u.norm() + A.norm() * w.norm())
    torch.testing.assert_close(image, A(best))


def test_a_stack_gives_every_problem_its_own_factor() -> None:
    shared, own = crandn(3, 4), crandn(5, 2, 6, seed=1)
    A = Kronecker([shared, own])
    x = crandn(5, *A.in_shape)
    alone = torch.stack([Kronecker([shared, own[i]])(x[i]) for i in range(5)])
    torch.testing.assert_close(A(x), alone)
    index = torch.tensor([3, 1])
    torch.testing.assert_close(A.select(index)(x[index]), alone[index])
    gap = torch.vdot(A(x).flatten(), alone.flatten()) - torch.vdot(x.flatten(), A.adjoint(alone).flatten())
    assert gap.abs() <= 1e-12 * alone.norm() ** 2
    b = A.gram(x) + 0.3 * x
    torch.testing.assert_close(A.regularised_solver(0.3)(b), x)
    with pytest.raises(ShapeError, match="expected a batch of 5"):
        A(x[:2])
    assert Kronecker([shared]).select(index).n_problem is None


def test_repeated_columns_and_eigenvalues_are_no_obstacle() -> None:
    a = crandn(4, 3)
    A = Kronecker([torch.cat((a, a), dim=1), torch.eye(3, dtype=a.dtype)])  # rank 3 of 6; a triple eigenvalue
    x = crandn(1, *A.in_shape)
    b = A.gram(x) + 1e-3 * x
    assert (A.regularised_solver(1e-3)(b) - x).norm() <= 1e-10 * x.norm()


def test_single_precision_solves_are_set_up_in_double() -> None:
    parts = factors(((4, 6), (5, 3)), dtype=torch.complex64)
    A = Kronecker(parts)
    x = crandn(2, *A.in_shape, dtype=torch.complex64)
    assert (A.regularised_solver(0.5)(A.gram(x) + 0.5 * x) - x).norm() <= 1e-5 * A.norm() ** 2 * x.norm()


def test_outer_is_the_kronecker_product_of_vectors() -> None:
    vectors = [crandn(2, n, seed=n) for n in (3, 4, 2)]
    torch.testing.assert_close(outer(vectors).flatten(1)[1], matrix([v[1] for v in vectors]))


GOOD = crandn(2, 3)
BAD = {
    "none": ([], ShapeError, "at least one matrix"),
    "vector": ([crandn(3)], ShapeError, r"factor 1: expected a matrix \(M, N\).*got \(3,\)"),
    "array": ([[1.0]], ShapeError, "got list"),
    "empty": ([GOOD, crandn(0, 3)], ShapeError, r"factor 2: .*got \(0, 3\)"),
    "whole numbers": ([torch.ones(2, 2, dtype=torch.int64)], DtypeError, "int64"),
    "mixed": ([GOOD, GOOD.real], DtypeError, "factor 2: .*complex128.*got torch.float64"),
    "stacks": ([crandn(2, 2, 3), crandn(3, 2, 3)], ShapeError, "factor 2: expected 2 matrices .* got 3"),
    "nan": ([GOOD * torch.nan], ValueError, "factor 1: expected finite numbers"),
    "zero": ([GOOD, 0 * GOOD], ValueError, "factor 2: expected a matrix that is not 0"),
    "zero of a stack": ([torch.stack((GOOD, 0 * GOOD))], ValueError, "factor 1: expected a matrix that is not 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_factors_are_refused_in_one_sentence(name) -> None:
    parts, kind, sentence = BAD[name]
    with pytest.raises(kind, match=sentence) as caught:
        Kronecker(parts)
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_multiply_out_are_told() -> None:
    A = Kronecker(factors(((2, 3), (4, 5))))
    for shape in itertools.permutations((2, 3, 5)):
        if shape[1:] != (3, 5):
            with pytest.raises(ShapeError, match=r"expected \(\.\.\., 3, 5\)"):
                A(crandn(*shape))
    with pytest.raises(ValueError, match="rho: expected a finite number > 0"):
        A.regularised_solver(0.0)
