"""Operators of this package as those of deepinv and PyLops, and back. Both packages are optional.

Forward and adjoint go over as they are, so that adjoint tests hold on either side; what an operator knows of exact
solves stays behind. Autograd flows through operators that come from elsewhere: their adjoint is the vector-Jacobian
product.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from imaging.errors import DtypeError, ShapeError
from imaging.operators.base import LinearOperator

_NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.complex64: np.dtype(np.complex64),
    torch.complex128: np.dtype(np.complex128),
}
_TORCH = {numpy: torch_dtype for torch_dtype, numpy in _NUMPY.items()}


# -- deepinv -------------------------------------------------------------------------------------------------


def to_deepinv(A: LinearOperator, *, complex_as: Literal["channels", "complex"] = "channels") -> Any:
    """`A` as a `deepinv.physics.LinearPhysics`.

    Args:
        A: any operator.
        complex_as: how complex tensors look there: "channels", as deepinv's own MRI has them, real and imaginary part
            as two channels, so that its denoisers and losses take them; "complex", one channel of complex numbers. Of
            the two inner products the first is the real part of the second, and the adjoint is the same.

    Returns:
        physics with x (batch, channel, *A.in_shape) -> y (batch, channel, *A.out_shape), channel 1, or 2 for complex
        operators; A is a submodule of it and moves with it.

    Raises:
        ImportError: deepinv is not installed.
    """
    channels = 2 if A.dtype.is_complex and complex_as == "channels" else 1
    return _physics_class()(A, channels)


def from_deepinv(physics: Any, in_shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> LinearOperator:
    """A `deepinv.physics.LinearPhysics` as an operator.

    Args:
        physics: linear, its y a tensor.
        in_shape: of one x without batch, channels included, e.g. (1, 64, 64).
        dtype: of x and y.

    Raises:
        ImportError: deepinv is not installed.
        ShapeError, DtypeError: not linear, or y is something else than a tensor of this dtype.
    """
    linear = _deepinv().physics.LinearPhysics
    if not isinstance(physics, linear):
        raise ShapeError(f"from_deepinv: expected a LinearPhysics, got {type(physics).__name__}")
    return _FromDeepinv(physics, in_shape, dtype)


class _FromDeepinv(LinearOperator):
    """Forward and adjoint of a physics, without its noise."""

    def __init__(self, physics: Any, in_shape: Sequence[int], dtype: torch.dtype) -> None:
        device = next((t.device for t in (*physics.buffers(), *physics.parameters())), torch.device("cpu"))
        with torch.no_grad():
            y = physics.A(torch.zeros(1, *in_shape, dtype=dtype, device=device))
        if not isinstance(y, Tensor):
            raise ShapeError(f"from_deepinv: expected a physics whose y is a tensor, got {type(y).__name__}")
        if y.dtype != dtype:
            raise DtypeError(f"from_deepinv: expected y in {dtype} as x, got {y.dtype}; give another dtype")
        super().__init__(tuple(in_shape), tuple(y.shape[1:]), dtype=dtype)
        self.physics = physics

    def _forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.physics.A(x)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = self.physics.A_adjoint(y)
        return x


def _deepinv() -> Any:
    try:
        import deepinv
    except ImportError as error:
        raise ImportError(
            f"deepinv is not installed, or not whole ({error}): pip install 'backcast[interchange]'"
        ) from error
    return deepinv


@functools.cache
def _physics_class() -> type[Any]:
    """Made when first asked for: its base is in a package that need not be there."""
    linear: Any = _deepinv().physics.LinearPhysics

    class OperatorPhysics(linear):  # type: ignore[misc, unused-ignore]
        """An operator as a physics; x and y have a channel axis."""

        def __init__(self, operator: LinearOperator, channels: int) -> None:
            super().__init__(img_size=(channels, *operator.in_shape))
            self.operator = operator
            self.channels = channels

        def A(self, x: Tensor, **kwargs: Any) -> Tensor:
            return self._there(self.operator(self._here(x)))

        def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
            return self._there(self.operator.adjoint(self._here(y)))

        def _here(self, values: Tensor) -> Tensor:
            if values.ndim < 2 or values.shape[1] != self.channels:
                raise ShapeError(
                    f"{type(self.operator).__name__} as physics: expected (batch, {self.channels}, ...), got "
                    f"{tuple(values.shape)}"
                )
            if self.channels == 2:
                return torch.view_as_complex(values.movedim(1, -1).contiguous())
            return values[:, 0]

        def _there(self, values: Tensor) -> Tensor:
            return torch.view_as_real(values).movedim(-1, 1) if self.channels == 2 else values[:, None]

    return OperatorPhysics


# -- PyLops --------------------------------------------------------------------------------------------------


def to_pylops(A: LinearOperator) -> Any:
    """`A` as a `pylops.LinearOperator` on NumPy vectors, its dims A.in_shape and dimsd A.out_shape.

    Vectors of another precision are converted, as PyLops' own operators do; complex ones for a real operator are
    refused.

    Raises:
        ImportError: PyLops is not installed.
    """
    return _pylops_class()(A)


def from_pylops(operator: Any) -> LinearOperator:
    """A `pylops.LinearOperator` on NumPy vectors as an operator on the CPU, one vector of a batch after the other.

    x: (*batch, *operator.dims), y: (*batch, *operator.dimsd), in the torch dtype of operator.dtype.

    Raises:
        ImportError: PyLops is not installed.
        ShapeError, DtypeError: no such operator; a dtype that torch has not.
    """
    if not isinstance(operator, _pylops().LinearOperator):
        raise ShapeError(f"from_pylops: expected a pylops.LinearOperator, got {type(operator).__name__}")
    if np.dtype(operator.dtype) not in _TORCH:
        raise DtypeError(
            f"from_pylops: expected float32, float64, complex64 or complex128, got {np.dtype(operator.dtype)}"
        )
    return _FromPylops(operator)


class _FromPylops(LinearOperator):
    """Forward and adjoint of PyLops, by way of NumPy."""

    def __init__(self, operator: Any) -> None:
        dims, dimsd = (tuple(int(n) for n in np.atleast_1d(d)) for d in (operator.dims, operator.dimsd))
        super().__init__(dims, dimsd, dtype=_TORCH[np.dtype(operator.dtype)])
        self.operator = operator

    def _forward(self, x: Tensor) -> Tensor:
        return self._each(x, self.operator.matvec, self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._each(y, self.operator.rmatvec, self.in_shape)

    def _each(self, values: Tensor, apply: Any, shape: tuple[int, ...]) -> Tensor:
        vectors = values.detach().resolve_conj().numpy().reshape(len(values), math.prod(values.shape[1:]))
        found = [np.asarray(apply(v)).reshape(shape) for v in vectors]
        stacked = np.stack(found) if found else np.zeros((0, *shape))
        return torch.from_numpy(stacked.astype(_NUMPY[self.dtype], copy=False))


def _pylops() -> Any:
    try:
        import pylops
    except ImportError as error:
        raise ImportError(
            f"PyLops is not installed, or not whole ({error}): pip install 'backcast[interchange]'"
        ) from error
    return pylops


@functools.cache
def _pylops_class() -> type[Any]:
    """Made when first asked for: its base is in a package that need not be there."""
    base: Any = _pylops().LinearOperator

    class OperatorLops(base):  # type: ignore[misc, unused-ignore]
        """An operator on NumPy vectors."""

        def __init__(self, operator: LinearOperator) -> None:
            super().__init__(
                dtype=_NUMPY[operator.dtype],
                dims=operator.in_shape,
                dimsd=operator.out_shape,
                clinear=True,
                name=type(operator).__name__,
            )
            self.operator = operator

        def _matvec(self, x: Any) -> Any:
            return self._apply(x, self.operator, self.operator.in_shape)

        def _rmatvec(self, y: Any) -> Any:
            return self._apply(y, self.operator.adjoint, self.operator.out_shape)

        def _apply(self, values: Any, apply: Any, shape: tuple[int, ...]) -> Any:
            dtype = _NUMPY[self.operator.dtype]
            if np.iscomplexobj(values) and dtype.kind != "c":
                raise DtypeError(
                    f"{self.name}: expected real vectors, got {values.dtype}; split real and imaginary part"
                )
            tensor = torch.from_numpy(np.ascontiguousarray(values, dtype).reshape(shape)).to(self.operator.device)
            with torch.no_grad():
                return apply(tensor).resolve_conj().cpu().numpy().ravel()

    return OperatorLops
