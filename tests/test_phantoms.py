"""Phantoms: the SX statistics, shapes that are where they should be, meshes from every file kind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.phantoms import (
    Box,
    Cylinder,
    SimulationError,
    Sphere,
    letters,
    mesh,
    points,
    read_mesh,
    solids,
    sx,
    voxelise_filled,
    voxelise_surface,
)
from data.phantoms.mesh import close_holes
from imaging.operators import Grid

CUBE = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), (49, 25, 25))
FINE = Grid.spanning((0.40, -0.10, -0.10), (0.60, 0.10, 0.10), (41, 41, 41))  # 5 mm


def rng(seed=0):
    return np.random.default_rng(seed)


BUILDERS = {
    "points": points,
    "letters": letters,
    "solids": solids,
    "mesh": lambda grid, generator=None: mesh(grid, tetrahedron(), generator=generator),
    "sx": lambda grid, generator=None: sx(generator or rng(), 1, grid, random_phase=generator is not None)[0],
}


def tetrahedron():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
    return vertices, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def ball(n=24, radius=1.0):
    """A closed latitude-longitude sphere."""
    theta, phi = np.linspace(0, np.pi, n + 1)[1:-1], np.arange(2 * n) * np.pi / n
    ring = [[np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)] for t in theta for p in phi]
    vertices = radius * np.array([*ring, [0, 0, 1], [0, 0, -1]])
    m, top, bottom = 2 * n, len(ring), len(ring) + 1
    faces = []
    for i in range(n - 2):
        for j in range(m):
            a, b, c, d = i * m + j, i * m + (j + 1) % m, (i + 1) * m + j, (i + 1) * m + (j + 1) % m
            faces += [[a, c, b], [b, c, d]]
    for j in range(m):
        faces += [[top, j, (j + 1) % m], [bottom, (n - 2) * m + (j + 1) % m, (n - 2) * m + j]]
    return vertices, np.array(faces)


# -- SX -----------------------------------------------------------------------------------------


def test_sx_has_the_published_statistics():  # T20
    magnitude = sx(rng(2), 100, CUBE, random_phase=False).abs()
    fraction = float((magnitude > 0.5).float().mean())
    zero_psnr = float((-10 * magnitude.square().mean((1, 2, 3)).log10()).mean())
    assert fraction == pytest.approx(0.0080, rel=0.10)
    assert zero_psnr == pytest.approx(22.3, abs=0.3)


def test_sx_is_the_reference_set():
    per_volume = (sx(rng(2), 100, CUBE).abs() > 0.5).float().mean((1, 2, 3))
    assert float(per_volume.mean()) == pytest.approx(0.00800, abs=1e-5)  # "0.80 %"
    assert (round(float(per_volume.min()), 3), round(float(per_volume.max()), 3)) == (
        0.001,
        0.019,
    )  # "0.1-1.9 %"


def test_sx_is_reproducible_and_its_magnitudes_do_not_depend_on_n():
    ten, three = sx(rng(5), 10, CUBE), sx(rng(5), 3, CUBE)
    assert torch.equal(ten, sx(rng(5), 10, CUBE))
    torch.testing.assert_close(ten[:3].abs(), three.abs())
    assert not torch.equal(ten, sx(rng(6), 10, CUBE))


def test_sx_scales_with_the_grid():
    tenth = Grid.spanning((0.035, -0.015, -0.015), (0.065, 0.015, 0.015), (49, 25, 25))
    torch.testing.assert_close(sx(rng(1), 2, tenth), sx(rng(1), 2, CUBE), rtol=0, atol=1e-4)


def test_sx_on_a_single_layer():
    flat = Grid((0.5, -0.15, -0.15), (0.01, 0.0125, 0.0125), (1, 25, 25))
    assert float(sx(rng(), 2, flat).abs().amax()) == pytest.approx(1.0)


# -- all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_peak_one_complex64_and_phase_on_request(name):
    plain, phased = BUILDERS[name](FINE), BUILDERS[name](FINE, generator=rng(1))
    for x in (plain, phased):
        assert x.dtype == torch.complex64
        assert tuple(x.shape) == FINE.shape
        assert float(x.abs().max()) == pytest.approx(1.0, abs=1e-6)
    assert float(plain.imag.abs().max()) == 0.0
    assert float(plain.real.min()) >= 0.0
    occupied = phased.abs() > 0.5
    spread = float((phased[occupied] / phased[occupied].abs()).mean().abs())
    assert spread < 3 / int(occupied.sum()) ** 0.5


# -- points, letters, solids --------------------------------------------------------------------


def test_points_land_in_the_nearest_voxel():
    x = points(FINE, [[0.0501, -0.02, 0.449], [0.0, 0.0, 0.5]], amplitudes=[1.0, 0.5])
    assert float(x[10, 16, 30].real) == 1.0  # z 0.45, y -0.02, x 0.05
    assert float(x[20, 20, 20].real) == 0.5
    assert int((x != 0).sum()) == 2


def test_random_points_are_distinct():
    assert int((points(FINE, n_points=200, generator=rng(3)) != 0).sum()) == 200


def test_letters_read_left_to_right_with_y_up():
    x = letters(FINE, "L", z_m=0.45).abs()
    assert int((x.amax((1, 2)) > 0).sum()) == 1
    rows, columns = torch.nonzero(x[10] > 0.5, as_tuple=True)
    bottom = columns[rows == rows.min()]
    top = columns[rows == rows.max()]
    assert bottom.max() > top.max() + 5  # the foot of an L is at its bottom and points right
    assert abs(int(bottom.min()) - int(top.min())) <= 1


def test_letters_have_holes_and_thickness():
    x = letters(FINE, "O", height_m=0.15, thickness_m=0.03).abs()
    assert int((x.amax((1, 2)) > 0).sum()) == 7  # 30 mm of 5 mm layers, both faces included
    assert float(x[20, 20, 20]) == 0.0
    rows = torch.nonzero(x[20].amax(1) > 0.4).flatten()
    assert (int(rows.max()) - int(rows.min()) + 1) * 0.005 == pytest.approx(0.15, abs=0.006)


def test_solids_have_their_volumes():
    voxel = 0.005**3
    sphere = solids(FINE, [Sphere(center_m=(0, 0, 0.5), diameter_m=0.1)])
    assert float(sphere.real.sum()) * voxel == pytest.approx(np.pi / 6 * 0.1**3, rel=0.02)
    box = solids(FINE, [{"shape": "box", "center_m": [0.0025, 0.0025, 0.5025], "size_m": [0.05, 0.06, 0.07]}])
    assert int((box != 0).sum()) == 10 * 12 * 14
    tube = solids(FINE, [Cylinder(center_m=(0, 0, 0.5), diameter_m=0.12, length_m=0.1, axis="x", shell_m=0.02)])
    assert float(tube[20, 20, 20].abs()) == 0.0  # hollow
    assert float(tube[20 + 10, 20, 20].abs()) == 1.0  # wall at 50 mm from the axis
    assert float(tube[20, 20, 20 + 9].abs()) == 1.0  # end cap at 45 mm


def test_overlapping_solids_keep_the_stronger():
    weak = Box(center_m=(0, 0, 0.5), size_m=(0.1, 0.1, 0.1), amplitude=0.5)
    strong = Sphere(center_m=(0, 0, 0.5), diameter_m=0.05)
    x = solids(FINE, [weak, strong]).real
    assert (float(x[20, 20, 20]), float(x[20, 20, 28])) == (1.0, 0.5)


# -- meshes -------------------------------------------------------------------------------------


def test_filled_ball_has_its_volume_and_surface_encloses_it():
    vertices, faces = ball()
    vertices = vertices * 0.07 + (0.003, -0.004, 0.501)
    inside, shell = voxelise_filled(vertices, faces, FINE), voxelise_surface(vertices, faces, FINE)
    assert inside.sum() * 0.005**3 == pytest.approx(4 / 3 * np.pi * 0.07**3, rel=0.02)
    distance = np.linalg.norm(FINE.points_m().numpy() - (0.003, -0.004, 0.501), axis=1).reshape(FINE.shape)
    assert inside[distance < 0.069].all()
    assert not inside[distance > 0.0701].any()
    assert shell[np.abs(distance - 0.0695) < 0.0005].all()
    assert (np.abs(distance[shell] - 0.07) < 0.006).all()


def test_filling_ignores_orientation_and_closes_holes():
    vertices, faces = ball(48)
    vertices = vertices * 0.07 + (0, 0, 0.5)
    closed = voxelise_filled(vertices, faces, FINE)
    flipped = faces.copy()
    flipped[::2] = flipped[::2, ::-1]
    assert np.array_equal(voxelise_filled(vertices, flipped, FINE), closed)
    holes = np.delete(faces, [10, 11, 12, 1000, len(faces) - 1], axis=0)
    assert (voxelise_filled(vertices, holes, FINE) != closed).sum() <= 4
    _, patched = close_holes(vertices, holes)
    edges = np.sort(patched[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all()


def test_filling_is_exact_on_round_coordinates():
    """Faces, edges and vertices through voxel centres: the ray must not count a crossing twice."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.05 + (0, 0, 0.5)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = np.array([t for a, b, c, d in quads for t in ([a, b, c], [a, c, d])])
    inside = voxelise_filled(corners, faces, FINE)
    assert inside.sum() == 20**3  # of 21 centres from face to face, one of the two faces counts
    assert (inside == inside[20][None] & inside[:, 20, 20][:, None, None]).all()


def test_a_mesh_outside_the_grid_says_so():
    with pytest.raises(SimulationError, match="move it into the grid"):
        mesh(FINE, ball(), center_m=(5.0, 0.0, 0.0), size_m=0.1, fill=True)


def test_mesh_is_placed_turned_and_scaled():
    stick = np.array([[0, 0, 0], [10.0, 0, 0], [5.0, 0, 0.01]]), np.array([[0, 1, 2]])
    x = mesh(FINE, stick, size_m=0.1, rotation_deg=(0, 0, 90)).abs()
    where = torch.nonzero(x)
    assert (where.amax(0) - where.amin(0)).tolist() == [0, 20, 0]  # 100 mm, turned from x to y


@pytest.mark.parametrize("kind", ["npz", "obj", "ascii.stl", "binary.stl", "ascii.ply", "little.ply", "big.ply"])
def test_mesh_files(tmp_path, kind):
    vertices, faces = tetrahedron()
    path = tmp_path / f"t.{kind}"
    WRITERS[kind](path, vertices, faces)
    v, f = read_mesh(path)
    assert v.dtype == np.float64
    assert {frozenset(map(tuple, v[t])) for t in f} == {frozenset(map(tuple, vertices[t])) for t in faces}
    assert len(v) == 4


def write_obj(path, v, f):
    path.write_text(
        "".join(f"v {a} {b} {c}\n" for a, b, c in v) + "".join(f"f {a + 1}/1 {b + 1} {c + 1}\n" for a, b, c in f)
    )


def write_ascii_stl(path, v, f):
    facets = "".join(
        "facet normal 0 0 0\nouter loop\n"
        + "".join("vertex {} {} {}\n".format(*v[i]) for i in t)
        + "endloop\nendfacet\n"
        for t in f
    )
    path.write_text(f"solid t\n{facets}endsolid t\n")


def write_binary_stl(path, v, f):
    record = np.zeros(len(f), dtype=[("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")])
    record["c"] = v[f]
    path.write_bytes(b"solid".ljust(80) + len(f).to_bytes(4, "little") + record.tobytes())


def ply_header(style, v, f):
    return (
        f"ply\nformat {style} 1.0\ncomment c\nelement vertex {len(v)}\nproperty float x\nproperty float y\n"
        f"property float z\nproperty uchar red\nelement face {len(f)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )


def write_ascii_ply(path, v, f):
    rows = "".join(f"{a} {b} {c} 7\n" for a, b, c in v) + "".join(f"3 {a} {b} {c}\n" for a, b, c in f)
    path.write_text(ply_header("ascii", v, f) + rows)


def write_binary_ply(path, v, f, order="<", style="binary_little_endian"):
    body = b"".join(np.asarray(p, dtype=order + "f4").tobytes() + b"\x07" for p in v)
    body += b"".join(b"\x03" + np.asarray(t, dtype=order + "i4").tobytes() for t in f)
    path.write_bytes(ply_header(style, v, f).encode() + body)


WRITERS = {
    "npz": lambda p, v, f: np.savez(p, t_v=v.astype("f4"), t_f=f.astype("i4")),
    "obj": write_obj,
    "ascii.stl": write_ascii_stl,
    "binary.stl": write_binary_stl,
    "ascii.ply": write_ascii_ply,
    "little.ply": write_binary_ply,
    "big.ply": lambda p, v, f: write_binary_ply(p, v, f, ">", "binary_big_endian"),
}


# -- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: points(FINE, [[0, 0, 0.1]]), r"\(0.0, 0.0, 0.1\) m \(x, y, z\) lies outside the grid"),
        (lambda: points(FINE, [0, 0, 0.5]), r"finite \(n, 3\)"),
        (lambda: points(FINE, [[0, 0, 0.5]], amplitudes=[-1]), "amplitudes: expected 1 numbers > 0"),
        (lambda: points(FINE, n_points=0), "n_points: expected 1 to"),
        (lambda: letters(FINE, "  "), "expected something to draw"),
        (lambda: letters(FINE, "A", z_m=2.0), "letters z_m: expected 0.4 to 0.6 m"),
        (lambda: letters(FINE, "A", height_m=-1.0), "height_m > 0"),
        (lambda: solids(FINE, [{"shape": "spere"}]), "did you mean 'sphere'"),
        (
            lambda: solids(FINE, [{"shape": "sphere", "center_m": [0, 0, 0.5], "diametr_m": 1}]),
            "'diameter_m'",
        ),
        (lambda: solids(FINE, [{"shape": "sphere", "center_m": [0, 0, 0.5]}]), "diameter_m missing"),
        (lambda: solids(FINE, [Sphere(center_m=(0, 0, 5.0), diameter_m=0.1)]), "at least one occupied voxel"),
        (lambda: Sphere(center_m=(0, 0, 0.5), diameter_m=-1.0), "Sphere diameter_m: expected > 0"),
        (
            lambda: Cylinder(center_m=(0, 0, 0.5), diameter_m=1.0, length_m=1.0, axis="w"),
            "expected x, y or z",
        ),
        (lambda: mesh(FINE), "mesh source: expected a"),
        (lambda: mesh(FINE, ball(), size_m=0.0), "size_m: expected > 0"),
        (lambda: read_mesh("a.step"), "expected a mesh file"),
        (lambda: read_mesh("none.ply"), "no such mesh file"),
    ],
)
def test_one_sentence(build, message):
    with pytest.raises(SimulationError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".npz", ".obj"])
def test_broken_mesh_files(tmp_path, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"\x00\x01ply not really\n" * 3)
    with pytest.raises(SimulationError, match=f"broken{suffix}"):
        read_mesh(path)


def test_several_meshes_in_one_npz(tmp_path):
    v, f = tetrahedron()
    np.savez(tmp_path / "m.npz", bunny_v=v, bunny_f=f, femur_v=v, femur_f=f)
    assert len(read_mesh(tmp_path / "m.npz", "femur")[0]) == 4
    with pytest.raises(SimulationError, match="set name to one of them"):
        read_mesh(tmp_path / "m.npz")
    with pytest.raises(SimulationError, match="did you mean 'bunny'"):
        read_mesh(tmp_path / "m.npz", "bunni")


def test_faces_must_name_vertices(tmp_path):
    v, f = tetrahedron()
    np.savez(tmp_path / "m.npz", t_v=v, t_f=f + 1)
    with pytest.raises(SimulationError, match="faces must name vertices 0 to 3"):
        read_mesh(tmp_path / "m.npz")


def test_import_data_leaves_torch_out():
    root = Path(__file__).resolve().parent.parent
    code = "import sys, data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_shell_of_a_mesh_misses_next_to_no_voxel():
    """Small triangles too: of the voxels that random points of the surface hit, at most 1 in 200 is left out."""
    generator = rng()
    corners = generator.normal(size=(4000, 1, 3)) * 0.04 + generator.normal(size=(4000, 3, 3)) * 0.005 + [0, 0, 0.5]
    occupied = voxelise_surface(corners.reshape(-1, 3), np.arange(12000).reshape(-1, 3), CUBE)
    weights = generator.dirichlet([1, 1, 1], size=(200, 4000))
    points = np.einsum("smc,mcx->smx", weights, corners).reshape(-1, 3)[:, ::-1]
    index = np.rint((points - CUBE.origin_m) / CUBE.spacing_m).astype(int)
    hit = np.zeros(CUBE.shape, bool)
    hit[tuple(index[((index >= 0) & (index < CUBE.shape)).all(1)].T)] = True
    assert hit.sum() > 2000
    assert (hit & ~occupied).sum() <= hit.sum() / 200
