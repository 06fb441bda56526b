"""Measured scans, one command each: what is known of the objects is in the images."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("BACKCAST_SHARED", ROOT.parent / "shared")) / "data" / "radar"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not SHARED.is_dir(),
        reason=f"measured sets not found in {SHARED}; set BACKCAST_SHARED to the folder above data/",
    ),
]

TV_ON_A_DENSE_SCAN = (
    *("-s", "noise.snr_db=8", "-s", "solver.alpha=0.01"),
    *("-s", "tv.l1_weight=0.3", "-s", "solver.max_iter=6"),
)


def python(*arguments):
    """Run in a process of its own, as a user does; its standard output."""
    run = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def reconstruct(scan, method, *options, folder=None):
    """The result of the one command, its exit status 0 and its path on standard output."""
    folder = scan.parent / (folder or method)
    out = python("-m", "pipelines.cli", "reconstruct", scan, "-m", method, "-o", folder, *options)
    result = folder / f"{scan.stem}_recon.h5"
    assert out.split() == [str(result)]
    return result


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_m(path):
    """(x, y) of the brightest voxel."""
    with h5py.File(path) as f:
        size = np.abs(f["volume/data"][()])
        axes = [f[f"volume/{name}"][()] for name in ("z", "y", "x")]
    _, y, x = (float(a[i]) for a, i in zip(axes, np.unravel_index(size.argmax(), size.shape)[-3:], strict=True))
    return x, y


def residual(path):
    with h5py.File(path) as f:
        return float(np.mean(f["metrics/measurement_residual"][()]))


# -- foam panel with a square insert ------------------------------------------------------------


@pytest.fixture(scope="module")
def foam(tmp_path_factory):
    """(z, contrast, sharpness) of both methods, from the raw counts."""
    scan = tmp_path_factory.mktemp("foam") / "foam.h5"
    python("examples/puf_foam_scan.py", SHARED / "puf_planar_22-26GHz.npz", scan)
    results = {
        "rangemigration": reconstruct(scan, "rangemigration"),
        "tv": reconstruct(scan, "tv"),
        "weak tv": reconstruct(scan, "tv", *TV_ON_A_DENSE_SCAN, folder="weak"),
    }
    return results, {name: example("foam_insert").measure(path) for name, path in results.items()}


def test_insert_is_sharp_where_it_lies(foam):
    """Of all layers from 0.05 to 0.14 m the window around the insert is finest at 0.085 or 0.090 m."""
    _, measured = foam
    z, contrast, sharpness = measured["rangemigration"]
    best = sharpness.argmax()
    assert 0.0849 < z[best] < 0.0901
    assert contrast[best] > 4  # and it is the rim that is fine, not noise: four times the texture, on average


@pytest.mark.parametrize("tv", ["tv", "weak tv"])
def test_edges_stand_out_in_tv_as_in_range_migration(foam, tv):
    """With the defaults, and more so with the weaker prior that suits a dense scan."""
    _, measured = foam
    z = measured[tv][0]
    insert = (z > 0.0849) & (z < 0.0901)
    assert insert.sum() == 2
    edges = {name: contrast[insert] for name, (_, contrast, _) in measured.items()}
    assert np.all(edges[tv] >= edges["rangemigration"])
    assert np.all(edges["rangemigration"] > 4)  # four times the texture: not a comparison of nothing with nothing


def test_tv_explains_more_of_the_foam_data(foam):
    """It is fitted to them; range migration is not. 8 dB, the assumed noise, is a residual of 0.398."""
    results, _ = foam
    assert residual(results["weak tv"]) < residual(results["rangemigration"])
    assert residual(results["weak tv"]) == pytest.approx(10 ** (-8 / 20), rel=0.1)


# -- two dielectric cylinders -------------------------------------------------------------------


@pytest.fixture(scope="module", params=[("Ext", 0.056), ("Int", 0.007)], ids=["Ext", "Int"])
def cylinders(request, tmp_path_factory):
    name, x_m = request.param
    scan = tmp_path_factory.mktemp(name) / "cylinders.h5"
    python("examples/fresnel_cylinders.py", SHARED / f"fresnel_FoamDiel{name}TM.npz", scan)
    return scan, (x_m, 0.0)


def test_plastic_cylinder_is_where_it_stands(cylinders):
    scan, place = cylinders
    x, y = peak_m(reconstruct(scan, "backprojection"))
    assert np.hypot(x - place[0], y - place[1]) < 0.005


@pytest.mark.parametrize("method", ["l1", "tv"])
def test_plastic_cylinder_by_iterative_methods(cylinders, method):
    """Multiple scattering lies outside the model: the peak is inside the cylinder (radius 15.5 mm), no better."""
    scan, place = cylinders
    x, y = peak_m(reconstruct(scan, method))
    assert np.hypot(x - place[0], y - place[1]) < 0.0155
