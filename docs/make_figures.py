"""The pictures of the documentation, from simulated and measured scans: `make docs-figures`.

    python docs/make_figures.py [demo] [mri] [channels] [foam] [cylinders]

Without arguments all of them. The measured scans are looked for in $BACKCAST_SHARED, else in ../shared; where they
are missing their pictures are left as they are. Prints the figures that the documentation quotes.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle
from matplotlib.ticker import MultipleLocator

from data import Reconstruction, read_reconstruction
from pipelines import batch
from pipelines.demo import run_demo
from pipelines.progress import Plain

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
SHARED = Path(os.environ.get("BACKCAST_SHARED", ROOT.parent / "shared")) / "data" / "radar"
TITLES = {
    "rangemigration": "range migration",
    "backprojection": "back-projection",
    "l1": "l1",
    "tv": "TV",
    "pnp": "plug-and-play",
}
#: A dense scan determines the image well: few iterations, a weak prior.
FOAM_TV = ("noise.snr_db=8", "solver.alpha=0.01", "tv.l1_weight=0.3", "solver.max_iter=6")
INSERT_X_M, INSERT_Y_M = (-0.155, 0.015), (-0.080, 0.090)
FOAM_RADIUS_M, PLASTIC_RADIUS_M = 0.040, 0.0155


def demo(folder: Path) -> None:
    """The first screen of the README: truth, back-projection, l1, TV and plug-and-play of a letter."""
    text, picture = run_demo("mimo_radar", folder / "demo", seed=0, say=say)
    say(text)
    shutil.copyfile(picture, IMAGES / "demo.png")


def channels(folder: Path) -> None:
    """demo_irs_mimo.png: what the demo of channels draws."""
    text, picture = run_demo("irs_mimo", folder / "demo_irs_mimo", seed=0, say=say)
    say(text)
    shutil.copyfile(picture, IMAGES / "demo_irs_mimo.png")


def mri(folder: Path) -> None:
    """demo_mri.png and demo_mri_heart.png: what the demo of MRI draws, still and moving."""
    text, picture = run_demo("mri", folder / "demo_mri", seed=0, say=say)
    say(text)
    shutil.copyfile(picture, IMAGES / "demo_mri.png")
    shutil.copyfile(picture.with_name("mri_heart.png"), IMAGES / "demo_mri_heart.png")


def foam(folder: Path) -> None:
    """The square insert by range migration and TV, and the whole panel; plug-and-play in figures only."""
    scan = folder / "foam.h5"
    write_scan("puf_foam_scan", measured("puf_planar_22-26GHz.npz"), scan)
    results = {"rangemigration": reconstruct(scan, "rangemigration"), "tv": reconstruct(scan, "tv", *FOAM_TV)}
    example("foam_insert").main(*results.values())
    volumes = {name: read_reconstruction(path) for name, path in results.items()}
    emptied = read_reconstruction(reconstruct(scan, "pnp", "noise.snr_db=8"))  # nothing to see, hence no picture
    for name, volume in {**volumes, "pnp": emptied}.items():
        say(f"foam {name}: residual {float(volume.metrics['measurement_residual'].value):.3f}")
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        _insert_picture(volumes)
        _panel_picture(volumes)


def _insert_picture(volumes: dict[str, Reconstruction]) -> None:
    figure = Figure(figsize=(8.2, 7.4), dpi=130, layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, (name, result) in zip(grid, volumes.items(), strict=True):
        for axes, z_m in zip(row, (0.085, 0.090), strict=True):
            shown = _show_foam(axes, name, result, z_m, limits=(0.3, 1.6))
            axes.set(xlim=INSERT_X_M, ylim=INSERT_Y_M)
            axes.xaxis.set_major_locator(MultipleLocator(0.05))
    label(grid)
    figure.colorbar(shown, ax=grid, shrink=0.6, extend="both", label="magnitude (1: median of what is shown)")
    save(figure, "foam_insert.png")


def _panel_picture(volumes: dict[str, Reconstruction]) -> None:
    figure = Figure(figsize=(9.4, 3.8), dpi=130, layout="constrained")
    row = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (name, result) in zip(row, volumes.items(), strict=True):
        shown = _show_foam(axes, name, result, 0.090, limits=(0, 3))
    label(row[None])
    figure.colorbar(shown, ax=row, shrink=0.8, extend="max", label="magnitude\n(1: median around the insert)")
    save(figure, "foam_panel.png")


def _show_foam(axes: Axes, name: str, result: Reconstruction, z_m: float, limits: tuple[float, float]) -> AxesImage:
    """One layer over its median around the insert: the methods' units differ, so that only ratios compare."""
    image, extent = layer(result, z_m)
    x, y = centres(image, extent)
    keep_x, keep_y = ((a > lo) & (a < hi) for a, (lo, hi) in ((x, INSERT_X_M), (y, INSERT_Y_M)))
    image = image / np.median(image[keep_y][:, keep_x])
    axes.set_title(f"{TITLES[name]}, z = {z_m:.3f} m")
    options: dict[str, Any] = {"origin": "lower", "cmap": "gray", "interpolation": "nearest"}
    return axes.imshow(image, extent=extent, vmin=limits[0], vmax=limits[1], **options)


def cylinders(folder: Path) -> None:
    """The plastic cylinder outside and inside the foam one: back-projection, l1, TV and plug-and-play."""
    methods = ("backprojection", "l1", "tv", "pnp")
    sets = (("Ext", 0.056, 0.0), ("Int", 0.007, 0.0))
    volumes: dict[tuple[str, str], Reconstruction] = {}
    for name, *_ in sets:
        scan = folder / f"cylinders_{name}.h5"
        write_scan("fresnel_cylinders", measured(f"fresnel_FoamDiel{name}TM.npz"), scan)
        for method in methods:
            volumes[name, method] = read_reconstruction(reconstruct(scan, method))
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        figure = Figure(figsize=(12.6, 6.6), dpi=130, layout="constrained")
        grid = figure.subplots(2, len(methods), sharex=True, sharey=True)
        for row, (name, x, y) in zip(grid, sets, strict=True):
            for axes, method in zip(row, methods, strict=True):
                image, extent = layer(volumes[name, method], 0.0)
                level = 20 * np.log10(np.maximum(image / image.max(), 1e-6))
                shown = axes.imshow(
                    level, extent=extent, origin="lower", cmap="magma", interpolation="nearest", vmin=-25, vmax=0
                )
                axes.add_patch(Circle((0, 0), FOAM_RADIUS_M, fill=False, ls="--", lw=1, color="white"))
                axes.add_patch(Circle((x, y), PLASTIC_RADIUS_M, fill=False, lw=1, color="cyan"))
                px, py = peak_m(image, extent)
                axes.plot(px, py, "x", color="black", ms=5)
                axes.set_title(f"{name}, {TITLES[method]}\npeak at ({1e3 * px:.1f}, {1e3 * py:.1f}) mm")
                residual = float(volumes[name, method].metrics["measurement_residual"].value)
                say(
                    f"cylinders {name} {method}: brightest voxel at x = {px:.4f}, y = {py:.4f} m, "
                    f"residual {residual:.3f}"
                )
        label(grid)
        figure.colorbar(shown, ax=grid, shrink=0.8, label="magnitude (dB below each image's peak)")
        save(figure, "cylinders.png")


# -- tools ------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


class MissingScanError(Exception):
    """A measured scan that is not on this machine."""


def measured(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        raise MissingScanError(f"{name} not found in {SHARED}; set BACKCAST_SHARED to the folder above data/")
    return path


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_scan(name: str, source: Path, target: Path) -> None:
    """As `python examples/NAME.py SOURCE TARGET`."""
    before = sys.argv
    sys.argv = [name, str(source), str(target)]
    try:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv = before


def reconstruct(scan: Path, method: str, *assignments: str) -> Path:
    """As `backcast reconstruct SCAN -m METHOD -s ... -o FOLDER`."""
    options = batch.Options(
        inputs=(str(scan),), output=scan.parent / method, method=method, assignments=assignments, overwrite=True
    )
    planned = batch.plan(options)
    if batch.run(planned, options, Plain()):
        raise SystemExit(planned.entries[0].reason)
    return planned.entries[0].result


def layer(result: Reconstruction, z_m: float) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Magnitude (ny, nx) of the voxel layer at z_m, and its outer faces (left, right, bottom, top), metres."""
    z, y, x = (np.asarray(result.volume.scale(name), dtype=float) for name in ("z", "y", "x"))
    image = np.abs(result.volume.data).reshape(len(z), len(y), len(x))[np.abs(z - z_m).argmin()]
    dx, dy = x[1] - x[0], y[1] - y[0]
    return image, (x[0] - dx / 2, x[-1] + dx / 2, y[0] - dy / 2, y[-1] + dy / 2)


def centres(image: np.ndarray, extent: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    left, right, bottom, top = extent
    ny, nx = image.shape
    return left + (np.arange(nx) + 0.5) * (right - left) / nx, bottom + (np.arange(ny) + 0.5) * (top - bottom) / ny


def peak_m(image: np.ndarray, extent: tuple[float, float, float, float]) -> tuple[float, float]:
    i, j = np.unravel_index(image.argmax(), image.shape)
    x, y = centres(image, extent)
    return float(x[j]), float(y[i])


def label(grid: np.ndarray) -> None:
    axes: Axes
    for axes in grid[-1]:
        axes.set_xlabel("x (m)")
    for axes in grid[:, 0]:
        axes.set_ylabel("y (m)")


def save(figure: Figure, name: str) -> None:
    path = IMAGES / name
    figure.savefig(path, metadata={"Software": "backcast"})
    say(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


FIGURES: dict[str, Callable[[Path], None]] = {
    "demo": demo,
    "mri": mri,
    "channels": channels,
    "foam": foam,
    "cylinders": cylinders,
}


def main(*names: str) -> None:
    unknown = [n for n in names if n not in FIGURES]
    if unknown:
        raise SystemExit(f"{unknown[0]}: expected one of {', '.join(FIGURES)}")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names or FIGURES:
            try:
                FIGURES[name](Path(folder))
            except MissingScanError as error:
                say(f"{name}: left as it is, {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
