"""The total-variation prox by splitting d = D x, with the exact inverse of I / rho + DᵀD in the cosine basis.

Gradient projection moves information by one voxel per iteration; the cosine solve moves it across the volume
at once. Where the smoothing is strong, ten iterations are 10 to 50 times more accurate than ten of gradient
projection, at four to five times the cost each; where it is weak both are good.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RELAXATION = 1.8
# Penalties of a call run geometrically from SPREAD * rho to rho / (2 * SPREAD): large ones move far, small
# ones
# refine. rho = CENTRE / sqrt(mean gradient of v, in units of the radius). All measured on near-field
# iterates.
CENTRE, SPREAD = 3.0, 4.0
GRADIENTS = (1e-3, 1e3)  # rho stays finite for constant and for barely smoothed images


class SplitTv:
    """min_x ½‖x - v‖² + TV(x) for volumes of one shape.

    Args:
        shape: (nz, ny, nx); axes of length one have no differences.
        like: gives dtype and device.

    The state between iterations is one tensor g (3, n): its projection on unit balls is the dual, the rest is
    d.

    Source: ADMM with over-relaxation and varying penalty, Boyd et al. (2011) 3.4; for TV: Goldstein, Osher
        (2009), The split Bregman method.
    """

    def __init__(self, shape: tuple[int, int, int], like: Tensor) -> None:
        nz, ny, nx = shape
        self.n, self.pad = nz * ny * nx, ny * nx
        self.shifts = (ny * nx, nx, 1)
        # flat arrays with a plane to spare: a neighbour is a shift, and everything is contiguous
        self.x = like.new_zeros(self.n + self.pad)
        self.s = like.new_zeros(3, self.pad + self.n)
        self.slope = like.new_empty(3, self.n)
        self.size, self.factor = like.new_empty(self.n), like.new_empty(self.n)
        inside = like.new_full((3, nz, ny, nx), RELAXATION)
        inside[0, -1], inside[1, :, -1], inside[2, :, :, -1] = 0, 0, 0  # the next voxel is across the border
        self.inside = inside.view(3, self.n)
        cosines = [_cosine(m, like) for m in shape]
        self.basis = [c for c, _ in cosines]
        self.transposed = [c.T.contiguous() for c in self.basis]
        z, y, x = (e for _, e in cosines)
        self.eigenvalues = (z[:, None, None] + y[:, None] + x).view(-1)
        self.buffers = (like.new_empty(self.n), like.new_empty(self.n))

    def solve(self, v: Tensor, start: Tensor, state: Tensor, x: Tensor, n_iter: int) -> None:
        """Overwrite state and x.

        Args:
            v: (n,), contiguous.
            start: state to start from, (3, n).
            state: receives the state, (3, n).
            x: receives the image, (n,).
        """
        centre = self._centre(v)
        g = state.copy_(start)
        s = self.s[:, self.pad :]
        previous = 1.0
        for k in range(n_iter):
            # the scaled dual is b = size g, the split gradient d = g - b; the penalty changes b by `change`
            rho = SPREAD * centre * (2 * SPREAD**2) ** (-k / max(n_iter - 1, 1))
            change, previous_rho, previous = previous / rho, previous, rho
            self._project(g, previous_rho)
            torch.mul(g, self._affine(1.0, -1.0 - change), out=s)  # d - change b
            self._image(v, rho)
            g.mul_(self._affine(1 - RELAXATION, change - 1 + RELAXATION))  # (1 - relaxation) d + change b
            self._differences()
            g.addcmul_(self.slope, self.inside)
        # the image that belongs to the dual, and the state at penalty 1
        self._project(g, previous)
        torch.mul(g, self._affine(0.0, -previous), out=s)
        self._add_divergence(x.copy_(v))
        g.mul_(self._affine(1.0, previous - 1))

    def _centre(self, v: Tensor) -> float:
        self.x[: self.n].copy_(v)
        self._differences()
        self.slope.mul_(self.inside)
        self._project(self.slope, 0.0)
        gradient = float(self.factor.sqrt_().mean()) / RELAXATION
        return CENTRE / math.sqrt(min(max(gradient, GRADIENTS[0]), GRADIENTS[1]))

    def _differences(self) -> None:
        """slope = next voxel - voxel; meaningless across a border, where `inside` is 0."""
        for axis, shift in enumerate(self.shifts):
            torch.sub(self.x[shift : shift + self.n], self.x[: self.n], out=self.slope[axis])

    def _project(self, g: Tensor, rho: float) -> None:
        """factor = |g|², size = what takes g into balls of radius 1 / rho."""
        torch.mul(g[0], g[0], out=self.factor)
        self.factor.addcmul_(g[1], g[1]).addcmul_(g[2], g[2])
        torch.mul(self.factor, rho * rho, out=self.size)
        self.size.clamp_min_(1.0).rsqrt_()

    def _affine(self, constant: float, slope: float) -> Tensor:
        """constant + slope size."""
        return torch.mul(self.size, slope, out=self.factor).add_(constant)

    def _image(self, v: Tensor, rho: float) -> None:
        """x = (I / rho + DᵀD)⁻¹ (v / rho + Dᵀs)."""
        x = torch.mul(v, 1 / rho, out=self.x[: self.n])
        self._add_divergence(x)
        one, two = self.buffers
        self._turn(x, self.transposed, (one, two, one))
        torch.add(self.eigenvalues, 1 / rho, out=two)
        one.div_(two)
        self._turn(one, self.basis, (two, one, x))

    def _turn(self, x: Tensor, matrices: list[Tensor], out: tuple[Tensor, Tensor, Tensor]) -> None:
        """Multiply all three axes. Each product takes the first axis and puts it last: plain GEMMs, no copies."""
        for matrix, target in zip(matrices, out, strict=True):
            n = len(matrix)
            torch.mm(x.view(n, -1).T, matrix, out=target.view(-1, n))
            x = target

    def _add_divergence(self, x: Tensor) -> None:
        """x += Dᵀs: s at the voxel before, minus s here."""
        for axis, shift in enumerate(self.shifts):
            x.sub_(self.s[axis, self.pad :])
            x.add_(self.s[axis, self.pad - shift : self.pad - shift + self.n])


def _cosine(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine basis (n, n), rows are modes, and the eigenvalues of -second differences
    (n,)."""
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * torch.outer(k, k + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.to(like), (2 - 2 * torch.cos(math.pi / n * k)).to(like)
