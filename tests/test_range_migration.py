"""Laws of range migration."""

import math

import pytest
import torch

from imaging.direct.range_migration import range_migration
from imaging.errors import DtypeError, GeometryError, ShapeError
from imaging.operators import Grid

C = 299_792_458.0
FREQUENCIES = torch.linspace(8e9, 16e9, 21, dtype=torch.float64)
GRID = Grid((0.25, -0.1, -0.1), (0.01, 0.01, 0.01), (21, 21, 21))
PLANE = 0.02


def raster(nx: int = 41, ny: int = 37, step: float = 0.0075, z: float = PLANE) -> torch.Tensor:
    x = (torch.arange(nx, dtype=torch.float64) - (nx - 1) / 2) * step
    y = (torch.arange(ny, dtype=torch.float64) - (ny - 1) / 2) * step
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((xx.flatten(), yy.flatten(), torch.full((nx * ny,), z, dtype=torch.float64)), -1)


def echo(positions, target, frequencies=FREQUENCIES, sign=-1, dtype=torch.complex128):
    distance = (positions - torch.tensor(target, dtype=torch.float64)).norm(dim=1)
    phase = sign * 4 * math.pi / C * distance[:, None] * frequencies[None]
    return torch.polar(torch.ones_like(phase), phase).to(dtype)


def peak(image):
    """(iz, iy, ix) of the brightest voxel."""
    index = int(image.abs().argmax())
    _, ny, nx = image.shape
    return index // (ny * nx), index // nx % ny, index % nx


def brute_force(y, positions, frequencies, grid):
    """Back-projection from its formula."""
    distance = torch.cdist(grid.points_m(), positions)
    image = torch.zeros(grid.n_voxels, dtype=torch.complex128)
    for k, column in zip(4 * math.pi / C * frequencies, y.T, strict=True):
        image += torch.exp(1j * k * distance) @ column
    return image.reshape(grid.shape)


TARGETS = [
    ((0.03, -0.02, 0.35), (10, 8, 13)),
    ((-0.06, 0.05, 0.29), (4, 15, 4)),
    ((0.0, 0.0, 0.43), (18, 10, 10)),
]


@pytest.mark.parametrize(("target", "voxel"), TARGETS)
@pytest.mark.parametrize("weight", ["wavenumber", "frequency"])
@pytest.mark.parametrize("transform", ["steps", "nufft"])
def test_a_point_is_focused_where_it_is(target, voxel, weight, transform):
    positions = raster()
    y = echo(positions, target)
    image = range_migration(y, positions, FREQUENCIES, GRID, weight=weight, transform=transform)
    assert peak(image) == voxel
    focused = image[voxel]
    assert abs(math.atan2(float(focused.imag), float(focused.real))) < 0.1  # real positive


def test_it_images_what_back_projection_images():
    positions = raster()
    y = echo(positions, TARGETS[0][0]) + 0.8j * echo(positions, TARGETS[1][0])
    image = range_migration(y, positions, FREQUENCIES, GRID, weight="frequency")
    exact = brute_force(y, positions, FREQUENCIES, GRID)
    assert peak(image) == peak(exact) == TARGETS[0][1]
    overlap = torch.vdot(image.flatten(), exact.flatten()).abs() / (image.norm() * exact.norm())
    assert float(overlap) > 0.95


def test_both_transforms_agree():
    positions = raster()
    y = torch.randn(len(positions), 21, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    steps = range_migration(y, positions, FREQUENCIES, GRID, transform="steps")
    nufft = range_migration(y, positions, FREQUENCIES, GRID, transform="nufft")
    assert float((steps - nufft).norm() / steps.norm()) < 1e-10
    single = range_migration(y.to(torch.complex64), positions, FREQUENCIES, GRID, transform="steps")
    assert single.dtype == torch.complex64
    assert float((single - steps).norm() / steps.norm()) < 1e-5


def test_the_grid_may_have_any_pitch_and_offset():
    positions = raster()
    y = echo(positions, (0.0312, -0.0188, 0.3517))
    coarse = range_migration(y, positions, FREQUENCIES, GRID)
    fine_grid = Grid((0.25, -0.03, 0.01), (0.01, 0.0025, 0.005), (21, 9, 9))
    for transform in ("steps", "nufft"):
        fine = range_migration(y, positions, FREQUENCIES, fine_grid, transform=transform)
        # where the two grids share points they share values: y = -0.03, -0.02, -0.01, x = 0.01, 0.02, ...
        expected = coarse[:, 7:10, 11:16]
        # not equal to rounding: the padding depends on the extent of the grid
        assert float((fine[:, ::4, ::2] - expected).norm() / expected.norm()) < 0.02
    assert abs(fine_grid.axis_m("y")[peak(fine)[1]] + 0.0188) <= 0.0025
    assert abs(fine_grid.axis_m("x")[peak(fine)[2]] - 0.0312) <= 0.005


def test_positions_may_come_in_any_order_and_slightly_off():
    positions = raster()
    y = echo(positions, TARGETS[0][0])
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))
    shuffled = range_migration(y[order], positions[order], FREQUENCIES, GRID)
    assert torch.allclose(shuffled, range_migration(y, positions, FREQUENCIES, GRID))
    jitter = 1e-6 * torch.randn(len(positions), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    near = range_migration(y, positions + jitter, FREQUENCIES, GRID)
    assert float((near - shuffled).norm() / shuffled.norm()) < 1e-3


def test_the_other_phase_convention_is_the_conjugate():
    positions = raster()
    y = 1j * echo(positions, TARGETS[0][0])
    image = range_migration(y, positions, FREQUENCIES, GRID)
    other = range_migration(
        y.conj().resolve_conj(), positions, FREQUENCIES, GRID, phase_convention="exp(+j*2*pi*f*tau)"
    )
    assert torch.allclose(other, image.conj())


def test_a_batch_is_a_loop_and_the_map_is_linear():
    positions = raster(15, 14)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, 3, len(positions), 21, dtype=torch.complex128, generator=generator)
    for transform in ("steps", "nufft"):
        image = range_migration(y, positions, FREQUENCIES, GRID, transform=transform)
        assert image.shape == (2, 3, *GRID.shape)
        alone = range_migration(y[1, 2], positions, FREQUENCIES, GRID, transform=transform)
        assert torch.allclose(image[1, 2], alone)
        both = range_migration(y[0, 0] + 2j * y[0, 1], positions, FREQUENCIES, GRID, transform=transform)
        assert torch.allclose(both, image[0, 0] + 2j * image[0, 1])


def test_a_grid_on_the_other_side():
    positions = raster(z=0.6)
    for transform in ("steps", "nufft"):
        y = echo(positions, TARGETS[0][0])
        assert peak(range_migration(y, positions, FREQUENCIES, GRID, transform=transform)) == TARGETS[0][1]


def test_no_wrap_around():
    # without padding a target at the edge of the grid comes back on the opposite side
    positions = raster(21, 21)
    y = echo(positions, (0.1, 0.1, 0.3))
    image = range_migration(y, positions, FREQUENCIES, GRID).abs()
    assert peak(image) == (5, 20, 20)
    assert float(image[:, :5].max() / image.max()) < 0.1


def test_one_row_images_its_plane():
    positions = raster(61, 1)
    y = echo(positions, (0.03, 0.0, 0.35))
    grid = Grid((0.25, 0.0, -0.1), (0.01, 1.0, 0.01), (21, 1, 21))
    image = range_migration(y, positions, FREQUENCIES, grid)
    assert peak(image) == (10, 0, 13)
    assert abs(math.atan2(float(image[10, 0, 13].imag), float(image[10, 0, 13].real))) < 0.1


def test_one_frequency_focuses_across_range():
    positions = raster()
    frequency = torch.tensor([12e9], dtype=torch.float64)
    y = echo(positions, TARGETS[0][0], frequency)
    assert peak(range_migration(y, positions, frequency, GRID)[10:11]) == (0, 8, 13)


def test_missing_points_are_an_error_or_zero():
    positions = raster()
    y = echo(positions, TARGETS[0][0])
    measured = torch.rand(len(positions), generator=torch.Generator().manual_seed(0)) > 0.05
    with pytest.raises(GeometryError, match='raster points are missing; pass missing="zero"'):
        range_migration(y[measured], positions[measured], FREQUENCIES, GRID)
    holes = range_migration(y[measured], positions[measured], FREQUENCIES, GRID, missing="zero")
    assert torch.allclose(holes, range_migration(y * measured[:, None], positions, FREQUENCIES, GRID))


def test_bad_input_is_told():
    positions = raster(9, 8)
    y = echo(positions, TARGETS[0][0])

    def image(**changed):
        arguments = {"y": y, "positions_m": positions, "frequencies_hz": FREQUENCIES, "grid": GRID} | changed
        return range_migration(arguments.pop("y"), **arguments)

    tilted = positions.clone()
    tilted[:, 2] += 0.1 * positions[:, 0]
    with pytest.raises(GeometryError, match="one plane z = const, found a deviation"):
        image(positions_m=tilted)
    crooked = positions.clone()
    crooked[5, 0] += 0.002
    with pytest.raises(GeometryError, match="expected a regular raster, found x"):
        image(positions_m=crooked)
    twice = positions.clone()
    twice[5] = twice[6]
    with pytest.raises(GeometryError, match="occurs twice"):
        image(positions_m=twice)
    with pytest.raises(GeometryError, match="one side of the scan"):
        image(positions_m=raster(9, 8, z=0.3))
    with pytest.raises(GeometryError, match="one point along y"):
        image(positions_m=raster(72, 1))
    with pytest.raises(GeometryError, match="strictly increasing"):
        image(frequencies_hz=FREQUENCIES.flip(0))
    with pytest.raises(GeometryError, match="> 0 Hz"):
        image(frequencies_hz=-FREQUENCIES)
    with pytest.raises(GeometryError, match="NaN or Inf"):
        image(positions_m=positions * torch.nan)
    with pytest.raises(ShapeError, match=r"expected \(..., 72, 21\)"):
        image(y=y[:-1])
    with pytest.raises(ShapeError, match="columns x, y, z"):
        image(positions_m=positions[:, :2])
    with pytest.raises(DtypeError, match="complex64 or complex128"):
        image(y=y.real)
    with pytest.raises(ValueError, match="weight: expected one of"):
        image(weight="stolt")
