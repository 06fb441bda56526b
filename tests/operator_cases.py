"""Small instances of every operator, for the laws that all must obey."""

from __future__ import annotations

import torch
from torch import Tensor

from imaging.operators import (
    CartesianMri,
    ConeBeam,
    FanBeam,
    Grid,
    Kronecker,
    LinearOperator,
    NearFieldMimo,
    NonCartesianMri,
    ParallelBeam,
    PlanarScan,
    TimeSequential,
    Weighted,
)

DOUBLE = torch.complex128


class Dense(LinearOperator):
    """A matrix, to test the base class and solvers against closed forms."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__((matrix.shape[1],), (matrix.shape[0],), dtype=matrix.dtype)
        self.register_buffer("matrix", matrix)

    def _forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix.conj()


def crandn(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def antennas(n: int, seed: int) -> Tensor:
    """n random positions on the plane z = 0 within ±0.15 m."""
    xy = 0.3 * torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.15
    return torch.cat((xy, torch.zeros(n, 1, dtype=torch.float64)), dim=1)


def frequencies(n: int) -> Tensor:
    return torch.linspace(4e9, 16e9, n, dtype=torch.float64)


SMALL = Grid((0.35, -0.06, -0.06), (0.02, 0.02, 0.02), (4, 7, 7))


def cross(n_freq: int, grid: Grid | None = None, **options: object) -> NearFieldMimo:
    """The simulated system of NF 3.1: 12 transmitters and 13 receivers on crossed diagonals."""
    t = torch.linspace(-0.15, 0.15, 12, dtype=torch.float64)
    r = torch.linspace(-0.15, 0.15, 13, dtype=torch.float64)
    tx = torch.stack((t, -t, 0 * t), dim=1)
    rx = torch.stack((r, r, 0 * r), dim=1)
    options.setdefault("dtype", DOUBLE)
    return NearFieldMimo(tx, rx, frequencies(n_freq), grid or CUBE, **options)  # type: ignore[arg-type]


CUBE = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), (49, 25, 25))


def frame_array(n: int) -> tuple[Tensor, Tensor]:
    """Transmitters on two opposite edges of a square, receivers on the other two: symmetric about x and y."""
    side = torch.linspace(-0.1, 0.1, n, dtype=torch.float64)
    edge = torch.full_like(side, 0.12)
    zero = torch.zeros(2 * n, dtype=torch.float64)
    tx = torch.stack((torch.cat((side, side)), torch.cat((-edge, edge)), zero), dim=1)
    return tx, tx[:, [1, 0, 2]]


def raster(n_x: int, n_y: int, step_m: float) -> Tensor:
    x, y = torch.meshgrid(
        step_m * torch.arange(n_x, dtype=torch.float64),
        step_m * torch.arange(n_y, dtype=torch.float64),
        indexing="ij",
    )
    return torch.stack((x.flatten(), y.flatten(), torch.zeros(n_x * n_y, dtype=torch.float64)), dim=1)


VOXEL = (3e-3, 2e-3, 2.5e-3)


def trajectory(n_frames: int, n_readouts: int, n_samples: int, n_dims: int) -> Tensor:
    """Points anywhere in the Nyquist box of `VOXEL`, 1/m: (frame, readout, sample, D)."""
    g = torch.Generator().manual_seed(9)
    turns = torch.rand(n_frames, n_readouts, n_samples, n_dims, dtype=torch.float64, generator=g) - 0.5
    return turns / torch.tensor(VOXEL[-n_dims:], dtype=torch.float64)


def lattice(n_frames: int, spatial: tuple[int, int, int], steps: tuple[int, int, int]) -> Tensor:
    """Every R-th sample of each axis, from another one in every frame: bool (frame, kz, ky, kx)."""
    mask = torch.zeros(n_frames, *spatial, dtype=torch.bool)
    for f in range(n_frames):
        mask[(f, *(slice(f % r, None, r) for r in steps))] = True
    return mask


def mri_operators() -> dict[str, LinearOperator]:
    """Rasters and trajectories, one and more coils and sets, complex128."""
    one, two = crandn(1, 3, 3, 6, 5, seed=1), crandn(2, 3, 3, 6, 5, seed=2)
    some = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(3)) > 0.4
    flat, even = crandn(1, 3, 1, 7, 6, seed=4), crandn(2, 4, 1, 8, 6, seed=5)
    phase = torch.polar(torch.full((1, 1, 1, 7, 6), 2.0, dtype=torch.float64), flat[:, :1].real)
    in_plane = {"accuracy": 1e-14, "shift_m": (0.0, 1e-3, 2e-3)}
    weights = torch.rand(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    return {
        "CartesianMri": CartesianMri(one, some),
        "CartesianMri-sets": CartesianMri(two, some),
        "CartesianMri-zero-first": CartesianMri(one, some, centered=False),
        "CartesianMri-slices": CartesianMri(two, some, by_slice=True),
        "CartesianMri-lines": CartesianMri(
            flat, some[:, :1, :1, :1].expand(2, 1, 7, 6) | (torch.arange(7) % 2 == 0)[:, None]
        ),
        "CartesianMri-folded": CartesianMri(even, lattice(3, (1, 8, 6), (1, 4, 2))),
        "CartesianMri-one-coil": CartesianMri(
            phase, torch.rand(3, 1, 7, 6, generator=torch.Generator().manual_seed(7)) > 0.5
        ),
        "NonCartesianMri": NonCartesianMri(flat, trajectory(2, 4, 5, 2), VOXEL, **in_plane),
        "NonCartesianMri-weights": NonCartesianMri(flat, trajectory(2, 4, 5, 2), VOXEL, weights=weights, **in_plane),
        "NonCartesianMri-3d-sets": NonCartesianMri(two, trajectory(2, 4, 5, 3), VOXEL, accuracy=1e-14),
    }


def operators() -> dict[str, LinearOperator]:
    """One of everything, complex128."""
    tx, rx, f = antennas(4, 1), antennas(5, 2), frequencies(3)
    few, many = torch.tensor([0, 3, 3, 1]), torch.arange(20)
    far = antennas(30, 3)
    options = {"dtype": DOUBLE}
    plain = NearFieldMimo(tx, rx, f, SMALL, dtype=DOUBLE)
    frame = NearFieldMimo(*frame_array(3), f, SMALL, dtype=DOUBLE)
    scan = raster(5, 4, 0.02)
    scan_grid = Grid((0.1, -0.01, 0.013), (0.02, 0.02, 0.02), (3, 6, 5))
    slices = Grid((0.0, -0.05, -0.06), (0.01, 0.01, 0.012), (2, 11, 9))
    angles = 6 * torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    bins = 0.011 * torch.arange(13, dtype=torch.float64) - 0.06
    parallel = ParallelBeam(angles, bins, slices, axis_offset_m=0.003, tilt_rad=0.1, **options)
    fan = {"source_to_origin_m": 0.2, "origin_to_detector_m": 0.1, **options}
    frames = torch.tensor([0, 2, 1, 1, 3, 0, 2])
    cone = (angles, 2 * bins, torch.tensor([-0.02, 0.0, 0.03], dtype=torch.float64))
    few_rays = (angles[:2], bins[::4], cone[2])
    return {
        "Kronecker": Kronecker([crandn(3, 4, seed=6), crandn(5, 5, seed=7), crandn(4, 2, seed=8)]),
        "Kronecker-one": Kronecker([crandn(4, 6, seed=6)]),
        "ParallelBeam": parallel,
        "ParallelBeam-not-stored": ParallelBeam(angles, bins, slices, memory_limit=0, **options),
        "FanBeam": FanBeam(angles, 2 * bins, slices, axis_offset_m=0.002, **fan),
        "FanBeam-tilted": FanBeam(angles, 2 * bins, slices, tilt_rad=0.2, **fan),
        "ConeBeam": ConeBeam(*cone, slices, axis_offset_m=0.002, tilt_rad=0.2, **fan),
        "ConeBeam-not-stored": ConeBeam(*few_rays, slices, split=2, memory_limit=0, **fan),
        "TimeSequential": TimeSequential(parallel, frames, 5),
        "TimeSequential-not-stored": TimeSequential(FanBeam(angles, bins, slices, memory_limit=0, **fan), frames),
        "TimeSequential-cone": TimeSequential(ConeBeam(*cone, slices, **fan), frames),
        "TimeSequential-cone-not-stored": TimeSequential(
            ConeBeam(*few_rays, slices, memory_limit=0, **fan), torch.tensor([1, 0])
        ),
        "Weighted": Weighted(parallel, torch.rand(2, 13, dtype=torch.float64)),
        "NearFieldMimo": plain,
        "NearFieldMimo-cross": cross(2, SMALL),
        "NearFieldMimo-frame": frame,
        "NearFieldMimo-conjugate": NearFieldMimo(tx, rx, f, SMALL, phase_convention="exp(+j*2*pi*f*tau)", **options),
        "NearFieldMimo-unweighted": NearFieldMimo(tx, rx, f, SMALL, amplitude="none", **options),
        "NearFieldMimo-spectrum": NearFieldMimo(tx, rx, f, SMALL, spectrum=crandn(3, seed=5), **options),
        "NearFieldMimo-kirchhoff": NearFieldMimo(tx, rx, f, SMALL, amplitude="kirchhoff", **options),
        "NearFieldMimo-compensated": NearFieldMimo(tx, rx, f, SMALL, amplitude="kirchhoff-compensated", **options),
        "NearFieldMimo-blocks": NearFieldMimo(tx, rx, f, SMALL, memory_limit=40_000, **options),
        "NearFieldMimo-channels": NearFieldMimo.from_channels(tx[few], rx[few], f, SMALL, **options),
        "NearFieldMimo-pairs": NearFieldMimo.from_channels(far, far, f, SMALL, **options),
        "NearFieldMimo-all-pairs": NearFieldMimo.from_channels(tx[many // 5], rx[many % 5], f, SMALL, **options),
        "PlanarScan": PlanarScan(scan, f, scan_grid, dtype=DOUBLE),
        "PlanarScan-gaps": PlanarScan(scan[[0, 3, 4, 5, 7, 8, 11, 12, 14, 16, 17, 19]], f, scan_grid, dtype=DOUBLE),
        **mri_operators(),
        "Composition": plain.H @ plain,
        "Sum": plain + NearFieldMimo(tx, rx, f, SMALL, amplitude="none", dtype=DOUBLE),
        "Scaled": (2 - 1j) * plain,
        "Adjoint": plain.H,
    }
