"""Your own physics: an operator is two methods; prior, solver and metrics come with it.

    python examples/your_own_operator.py

Here: one in four Fourier samples of a complex volume with random phase, as a sparse aperture in the far field sees.
"""

import numpy as np
import torch

from data.phantoms import sx
from imaging import metrics
from imaging.operators import Grid, LinearOperator, check_adjoint
from imaging.priors import L1, Magnitude
from imaging.solvers import admm, relative_change_below, run


class SparseFourier(LinearOperator):
    """Some samples of the unitary 3-D Fourier transform. x: (*batch, nz, ny, nx); y: (*batch, n_samples)."""

    def __init__(self, keep):
        super().__init__(keep.shape, (int(keep.sum()),))
        self.register_buffer("keep", keep)  # moves with A.to(device)

    def _forward(self, x):
        return torch.fft.fftn(x, dim=(-3, -2, -1), norm="ortho")[:, self.keep]

    def _adjoint(self, y):
        k = y.new_zeros(len(y), *self.in_shape)
        k[:, self.keep] = y
        return torch.fft.ifftn(k, dim=(-3, -2, -1), norm="ortho")


def main(shape=(24, 24, 24), max_iter=100):
    generator = torch.Generator().manual_seed(0)
    grid = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), shape)
    truth = sx(np.random.default_rng(0), 1, grid)[0]
    A = SparseFourier(torch.rand(shape, generator=generator) < 0.25)
    check_adjoint(A)
    y = A(truth) + 0.01 * torch.randn(A.out_shape, dtype=torch.complex64, generator=generator)

    prior = Magnitude(L1(weight=0.02))
    state, outcome = run(admm(A, y, prior, rho=0.2), stop=relative_change_below(1e-3), max_iter=max_iter)

    before, after = (float(metrics.psnr(x, truth, normalise="gain")) for x in (A.adjoint(y), state.x))
    print(f"{outcome}, {state.iteration} iterations: zero-filled {before:.1f} dB, l1 on the magnitude {after:.1f} dB")
    return before, after


if __name__ == "__main__":
    main()
