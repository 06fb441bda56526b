"""What every operator is: two methods, and all that follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from imaging.errors import DtypeError, ShapeError


class LinearOperator(torch.nn.Module):
    """A linear map A between tensors; leading axes are batch.

    A subclass writes `_forward` and `_adjoint`, both for input (batch, *shape) with exactly one batch axis.
    ``A(x)``, ``A.adjoint(y)``, ``A.gram(x)``, ``A.norm()``, ``A @ B``, ``A + B``, ``2 * A`` and
    ``A.regularised_solver(rho)`` come with it. Gradients flow through both directions, and the vector-Jacobian
    product of one *is* the other.

    Args:
        in_shape, out_shape: shapes of x and y without batch axes.
        in_axes, out_axes: their axis names, for messages.
        dtype: of x and y; nothing is cast silently.

    Raises:
        ShapeError: the last axes of the input are not `in_shape` (`out_shape` for the adjoint).
        DtypeError: the input has another dtype.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        in_axes: Sequence[str] = (),
        out_axes: Sequence[str] = (),
        dtype: torch.dtype = torch.complex64,
    ) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.out_shape = tuple(out_shape)
        self.in_axes = tuple(in_axes)
        self.out_axes = tuple(out_axes)
        self.dtype = dtype
        self._norm: float | None = None

    # -- what a subclass writes -----------------------------------------------------------------

    def _forward(self, x: Tensor) -> Tensor:
        """A x for x (batch, *in_shape)."""
        raise NotImplementedError(f"{type(self).__name__} defines no _forward")

    def _adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ y for y (batch, *out_shape)."""
        raise NotImplementedError(f"{type(self).__name__} defines no _adjoint")

    def _gram(self, x: Tensor) -> Tensor:
        """AᴴA x for x (batch, *in_shape); override where it is cheaper than forward and adjoint."""
        return self._adjoint(self._forward(x))

    # -- what comes with it ---------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """A x: (*batch, *in_shape) -> (*batch, *out_shape)."""
        return self._apply_batched(x, self.in_shape, self.in_axes, "input", _Forward, self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ y: (*batch, *out_shape) -> (*batch, *in_shape)."""
        return self._apply_batched(y, self.out_shape, self.out_axes, "adjoint input", _Adjoint, self.in_shape)

    def gram(self, x: Tensor) -> Tensor:
        """AᴴA x: (*batch, *in_shape) -> (*batch, *in_shape)."""
        return self._apply_batched(x, self.in_shape, self.in_axes, "input", _Gram, self.in_shape)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """What `.to(device)` and its kin call; another dtype is refused, since phases would lose their precision."""
        for name, buffer in self.named_buffers(recurse=False):
            kind = fn(torch.empty(0, dtype=buffer.dtype, device=buffer.device)).dtype
            if kind != buffer.dtype:
                raise DtypeError(
                    f"{type(self).__name__} {name}: cannot turn {buffer.dtype} into {kind}; build a new operator with "
                    "the dtype you want, and move it with .to(device)"
                )
        super()._apply(fn, recurse)
        return self

    @property
    def device(self) -> torch.device:
        """Where the operator's buffers are."""
        return next((b.device for b in self.buffers()), torch.device("cpu"))

    def norm(self) -> float:
        """Largest singular value ‖A‖₂ by power iteration on AᴴA (relative change < 1e-6); computed once."""
        if self._norm is None:
            self._norm = self._power_iteration()
        return self._norm

    def _power_iteration(self, max_iter: int = 500, tol: float = 1e-6) -> float:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, *self.in_shape, dtype=self.dtype, generator=generator).to(self.device)
        squared = 0.0
        with torch.no_grad():
            for _ in range(max_iter):
                size = float(torch.linalg.vector_norm(x))
                if size == 0.0:
                    return 0.0
                y = self._forward(x / size)
                length = float(torch.linalg.vector_norm(y))
                if length == 0.0:
                    return 0.0
                x = self._adjoint(y / length)  # by way of ‖Ax‖: ‖A‖² of a weak operator leaves single precision
                previous, squared = squared, length * float(torch.linalg.vector_norm(x))
                if abs(squared - previous) <= tol * squared:
                    break
        return math.sqrt(squared)

    def mean_eigenvalue(self) -> float:
        """‖A‖_F² / M, the mean eigenvalue of AAᴴ; estimated with 16 random probes unless a subclass knows it."""
        generator = torch.Generator().manual_seed(0)
        y = torch.randn(16, *self.out_shape, dtype=self.dtype, generator=generator).to(self.device)
        with torch.no_grad():
            aty = self._adjoint(y)
        return float(torch.linalg.vector_norm(aty) ** 2 / torch.linalg.vector_norm(y) ** 2)

    def regularised_solver(self, rho: float, *, n_solves: int = 30) -> Any:
        """The cheapest way known to solve (AᴴA + rho I) x = b, as an object with `solve(b)` and `prox(u, w)`.

        The base class answers with batched, warm-started conjugate gradients. Operators with exploitable
        structure answer exactly, chosen by cost for `n_solves` solves. See `imaging.solvers.linear`.
        """
        from imaging.solvers.linear import CgSolver  # solvers build on operators, not the other way round

        return CgSolver(self, rho)

    def ellipsoid_projector(self, *, n_solves: int = 30) -> Any:
        """Projection on {x : ‖Ax - y‖ <= epsilon}; see `imaging.solvers.linear`."""
        from imaging.solvers.linear import CgEllipsoid

        return CgEllipsoid(self)

    # -- composition ----------------------------------------------------------------------------

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return Composition(self, other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other)

    def __mul__(self, factor: complex) -> LinearOperator:
        return Scaled(self, factor)

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        return Scaled(self, -1.0)

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, Scaled(other, -1.0))

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator of its own."""
        return Adjoint(self)

    def extra_repr(self) -> str:
        return f"{self.in_shape} -> {self.out_shape}, {self.dtype}"

    # -- inside ---------------------------------------------------------------------------------

    def _apply_batched(
        self,
        value: Tensor,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        role: str,
        function: Any,
        result_shape: tuple[int, ...],
    ) -> Tensor:
        rank = len(shape)
        if value.ndim < rank or tuple(value.shape[value.ndim - rank :]) != shape:
            named = f"; axes are {', '.join(axes)}" if axes else ""
            wanted = ", ".join(str(n) for n in shape)
            raise ShapeError(f"{type(self).__name__} {role}: expected (..., {wanted}), got {tuple(value.shape)}{named}")
        if value.dtype != self.dtype:
            raise DtypeError(
                f"{type(self).__name__} {role}: expected {self.dtype}, got {value.dtype}; "
                f"convert with .to({self.dtype})"
            )
        if value.device != self.device:
            raise DtypeError(
                f"{type(self).__name__} {role}: operator is on {self.device}, tensor on {value.device}; "
                "move one with .to(device)"
            )
        batch = value.shape[: value.ndim - rank]
        result: Tensor = function.apply(value.reshape(-1, *shape), self)
        return result.reshape(*batch, *result_shape)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, operator: LinearOperator) -> Tensor:
        return operator._forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LinearOperator], output: Tensor) -> None:
        ctx.operator = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Adjoint.apply(gradients[0], ctx.operator), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Forward.apply(tangents[0], ctx.operator)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, operator: LinearOperator) -> Tensor:
        return operator._adjoint(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LinearOperator], output: Tensor) -> None:
        ctx.operator = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Forward.apply(gradients[0], ctx.operator), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Adjoint.apply(tangents[0], ctx.operator)


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, operator: LinearOperator) -> Tensor:
        return operator._gram(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LinearOperator], output: Tensor) -> None:
        ctx.operator = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Gram.apply(gradients[0], ctx.operator), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Gram.apply(tangents[0], ctx.operator)


class Composition(LinearOperator):
    """(A @ B) x = A(B x)."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if left.in_shape != right.out_shape:
            raise ShapeError(
                f"{type(left).__name__} @ {type(right).__name__}: the right one gives {right.out_shape}, "
                f"the left one takes {left.in_shape}"
            )
        _same_dtype(left, right, "@")
        super().__init__(
            right.in_shape, left.out_shape, in_axes=right.in_axes, out_axes=left.out_axes, dtype=left.dtype
        )
        self.left, self.right = left, right

    def _forward(self, x: Tensor) -> Tensor:
        return self.left._forward(self.right._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.right._adjoint(self.left._adjoint(y))


class Sum(LinearOperator):
    """(A + B) x = A x + B x."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if (left.in_shape, left.out_shape) != (right.in_shape, right.out_shape):
            raise ShapeError(
                f"{type(left).__name__} + {type(right).__name__}: expected equal shapes, got "
                f"{left.in_shape} -> {left.out_shape} and {right.in_shape} -> {right.out_shape}"
            )
        _same_dtype(left, right, "+")
        super().__init__(left.in_shape, left.out_shape, in_axes=left.in_axes, out_axes=left.out_axes, dtype=left.dtype)
        self.left, self.right = left, right

    def _forward(self, x: Tensor) -> Tensor:
        return self.left._forward(x) + self.right._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.left._adjoint(y) + self.right._adjoint(y)


class Scaled(LinearOperator):
    """(c A) x = c (A x), c a real or complex number."""

    def __init__(self, operator: LinearOperator, factor: complex) -> None:
        if isinstance(factor, complex) and not operator.dtype.is_complex:
            raise DtypeError(f"{type(operator).__name__}: a real operator cannot be scaled by {factor}")
        super().__init__(
            operator.in_shape,
            operator.out_shape,
            in_axes=operator.in_axes,
            out_axes=operator.out_axes,
            dtype=operator.dtype,
        )
        self.operator, self.factor = operator, factor

    def _forward(self, x: Tensor) -> Tensor:
        return self.factor * self.operator._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        factor = self.factor.conjugate()
        return factor * self.operator._adjoint(y)


class Adjoint(LinearOperator):
    """Aᴴ as an operator."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(
            operator.out_shape,
            operator.in_shape,
            in_axes=operator.out_axes,
            out_axes=operator.in_axes,
            dtype=operator.dtype,
        )
        self.operator = operator

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._forward(y)


def _same_dtype(left: LinearOperator, right: LinearOperator, sign: str) -> None:
    if left.dtype != right.dtype:
        raise DtypeError(
            f"{type(left).__name__} {sign} {type(right).__name__}: dtypes differ, {left.dtype} and {right.dtype}"
        )
