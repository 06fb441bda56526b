"""Fast gradient projection for the total-variation prox, arranged for the memory system.

Volumes are flat arrays with a plane of zeros before the dual, so that a neighbour is a shift and every
operation runs over contiguous memory. Large volumes are swept in slabs of planes: all operations of one
iteration are done on a slab while it is in cache. The image runs one plane ahead of the dual, because a
plane's gradient needs the next plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SLAB = 65536  # voxels: a slab's arrays fit in the second-level caches of two cores, measured


@dataclass(frozen=True)
class _Slab:
    """Views of the working arrays for one slab, made once: making them costs as much as using them."""

    span: slice
    v: Tensor
    x: Tensor
    here: tuple[Tensor, Tensor, Tensor]  # dual of axis z, y, x at the image planes of this slab
    before: tuple[Tensor, Tensor, Tensor]  # and one voxel earlier along its axis
    q: Tensor
    q_z: Tensor
    q_y: Tensor
    q_x: Tensor
    size: Tensor
    z: tuple[Tensor, Tensor, Tensor]  # next voxel, voxel, their difference
    y: tuple[Tensor, Tensor, Tensor]
    x_: tuple[Tensor, Tensor, Tensor]
    gain_y: Tensor
    gain_x: Tensor


class Fgp:
    """min_x ½‖x - v‖² + TV(x), optionally x >= 0, for volumes of one shape.

    Args:
        shape: (nz, ny, nx); axes of length one have no differences.
        like: gives dtype and device.
        nonnegative: constrain x >= 0.

    Source: Beck, Teboulle (2009), algorithm GP/FGP of section 4, step 1 / (4 d) for d axes.
    """

    def __init__(self, shape: tuple[int, int, int], like: Tensor, nonnegative: bool) -> None:
        nz, ny, nx = shape
        self.n_planes, self.nx, self.plane = nz, nx, ny * nx
        self.nonnegative = nonnegative
        n = nz * self.plane
        self.step = 1 / (4 * max(sum(m > 1 for m in shape), 1))
        thick = max(1, SLAB // self.plane) if like.device.type == "cpu" else nz
        self.thick = min(thick, nz)

        self.q = like.new_zeros(3, self.plane + n)
        self.x = like.new_zeros(n + self.plane)
        self.spare = like.new_empty(3, n)
        self.size = like.new_empty(self.thick * self.plane)
        self.slope = like.new_empty(self.thick * self.plane)
        # the dual's step, 0 where the next voxel is across the border
        gain_y, gain_x = like.new_full((2, ny, nx), self.step)
        gain_y[-1], gain_x[:, -1] = 0, 0
        self.gain_y, self.gain_x = (g.reshape(-1).repeat(self.thick) for g in (gain_y, gain_x))

    def solve(self, v: Tensor, start: Tensor, dual: Tensor, x: Tensor, n_iter: int) -> None:
        """Overwrite dual and x.

        Args:
            v: (n,), contiguous.
            start: dual to start from, (3, n), vectors in the unit ball.
            dual: receives the dual, (3, n); must not be `start`.
            x: receives the image, (n,).
        """
        slabs = [self._slab(v, first) for first in range(0, self.n_planes, self.thick)]
        written = (dual, self.spare) if n_iter % 2 else (self.spare, dual)  # the last iteration writes `dual`
        targets = [[w[:, s.span] for s in slabs] for w in written]
        self.q[:, self.plane :].copy_(start)
        old = [start[:, s.span] for s in slabs]
        t = 1.0
        for k in range(n_iter):
            t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
            momentum, t = (t - 1) / t_next, t_next
            new = targets[k % 2]
            for slab, p_old, p_new in zip(slabs, old, new, strict=True):
                self._primal(slab)
                self._ascend(slab)
                torch.mul(slab.q, slab.size, out=p_new)
                torch.lerp(p_old, p_new, 1 + momentum, out=slab.q)
            old = new
        self.q[:, self.plane :].copy_(dual)
        for slab in slabs:
            self._primal(slab)
        x.copy_(self.x[: len(x)])

    def _primal(self, s: _Slab) -> None:
        """x = v - Dᵀq, at least 0 where asked for."""
        torch.add(s.v, s.here[0], out=s.x)
        s.x.add_(s.here[1]).add_(s.here[2])
        s.x.sub_(s.before[0]).sub_(s.before[1]).sub_(s.before[2])
        if self.nonnegative:
            s.x.clamp_min_(0)

    def _ascend(self, s: _Slab) -> None:
        """q += step D x, and size = 1 / max(1, ‖q_n‖)."""
        torch.sub(s.z[0], s.z[1], out=s.z[2])
        s.q_z.add_(s.z[2], alpha=self.step)
        torch.sub(s.y[0], s.y[1], out=s.y[2])
        s.q_y.addcmul_(s.y[2], s.gain_y)
        torch.sub(s.x_[0], s.x_[1], out=s.x_[2])
        s.q_x.addcmul_(s.x_[2], s.gain_x)
        torch.mul(s.q[0], s.q[0], out=s.size)
        s.size.addcmul_(s.q[1], s.q[1]).addcmul_(s.q[2], s.q[2])
        s.size.clamp_min_(1.0).rsqrt_()

    def _slab(self, v: Tensor, first: int) -> _Slab:
        plane, q, x = self.plane, self.q, self.x
        last = min(first + self.thick, self.n_planes)
        a, b, n = first * plane, last * plane, (last - first) * plane
        # the image is made one plane ahead; the dual it needs there is still that of the last iteration
        i = 0 if first == 0 else min(first + 1, self.n_planes) * plane
        j = min(last + 1, self.n_planes) * plane
        inner = min(last, self.n_planes - 1) * plane  # the very last plane has no successor
        slope = self.slope[:n]
        shifts = (plane, self.nx, 1)
        return _Slab(
            span=slice(a, b),
            v=v[i:j],
            x=x[i:j],
            here=(q[0, plane + i : plane + j], q[1, plane + i : plane + j], q[2, plane + i : plane + j]),
            before=(
                q[0, plane + i - shifts[0] : plane + j - shifts[0]],
                q[1, plane + i - shifts[1] : plane + j - shifts[1]],
                q[2, plane + i - shifts[2] : plane + j - shifts[2]],
            ),
            q=q[:, plane + a : plane + b],
            q_z=q[0, plane + a : plane + inner],
            q_y=q[1, plane + a : plane + b],
            q_x=q[2, plane + a : plane + b],
            size=self.size[:n],
            z=(x[a + plane : inner + plane], x[a:inner], slope[: inner - a]),
            y=(x[a + self.nx : b + self.nx], x[a:b], slope),
            x_=(x[a + 1 : b + 1], x[a:b], slope),
            gain_y=self.gain_y[:n],
            gain_x=self.gain_x[:n],
        )
