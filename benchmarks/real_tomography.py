"""Tomography of measured scans: tables, and with `--figures` the pictures of docs/tomography_real_data.md.

Every scan becomes a `Measurement` and goes through `pipelines.reconstruct` with the defaults of each method; what is
set beside them stands in the tables. The scans are looked for in $BACKCAST_SHARED, else in ../shared; a missing set is
skipped.

**htc**: X-ray fan beam, discs with holes, Helsinki Tomography Challenge 2022, limited to 30 to 90 degrees.
**tooth**: synchrotron, raw counts with flat and dark fields, unknown rotation axis, every fourth view.
**haadf**: electron tilt series with a missing wedge.
**pet**: photon-starved transmission scan, statistical weights on and off.
**mouse**: four measured respiratory gates as a moving object, simulated fan-beam views of it.

    python benchmarks/real_tomography.py [--part NAME] [--figures FOLDER] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import matplotlib as mpl
import numpy as np
import torch
from denoising import run_parts
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu
from skimage.transform import resize

from data import Reconstruction
from data.measurement import GridSpec, Measurement, Scale, Volume
from imaging.metrics import psnr, ssim
from imaging.operators import FanBeam, Grid, TimeSequential
from pipelines.config import resolve
from pipelines.methods import Setting, find_method
from pipelines.reconstruct import reconstruct

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("BACKCAST_SHARED", ROOT.parent / "shared")) / "data" / "ct"

Array = NDArray[Any]
HTC_VIEWS = (61, 91, 121, 181)
HTC_PIXEL_M = 0.14832e-3
MOUSE_VIEWS_PER_GATE, MOUSE_NOISE, MOUSE_PEAK_PER_M = 30, 0.005, 100.0


# -- scans as measurements ----------------------------------------------------------------------------------


def square(n: int, pixel_m: float) -> GridSpec:
    edge = -(n - 1) / 2 * pixel_m
    return GridSpec(origin_m=(0.0, edge, edge), spacing_m=(pixel_m, pixel_m, pixel_m), shape=(1, n, n))


def scan(sinogram: Array, angles_rad: Array, pitch_m: float, grid: GridSpec, **more: Any) -> Measurement:
    """A slice's (view, column) sinogram whose detector is centred on the axis, unless `geometry` says otherwise."""
    n_views, n_columns = sinogram.shape
    more["geometry"] = {"type": "parallel", "rotation_axis_offset": 0.0} | more.get("geometry", {})
    more["acquisition"] = {"angle": np.asarray(angles_rad, float)} | more.get("acquisition", {})
    return Measurement(
        modality="tomography",
        data=sinogram.astype(np.float32)[:, None],
        axes=("projection", "detector_row", "detector_column"),
        scales={
            "projection": Scale(values=np.arange(n_views, dtype=np.int32), units="1"),
            "detector_row": Scale(values=np.zeros(1), units="m"),
            "detector_column": Scale(values=(np.arange(n_columns) - (n_columns - 1) / 2) * pitch_m, units="m"),
        },
        grid=grid,
        **({"quantity": "line_integral"} | more),
    )


def in_pairs(values: Array) -> Array:
    """Means of neighbouring columns."""
    return (values[..., ::2] + values[..., 1::2]) / 2


def right_handed(sinogram: Array, angles_deg: Array) -> tuple[Array, Array]:
    """From a fan beam with θ = -angle and the detector the other way round: columns flipped, θ = π - angle."""
    return sinogram[:, ::-1], np.pi - np.deg2rad(angles_deg)


def htc(name: str, n_views: int | None = None) -> Measurement:
    """A disc of the challenge; all views with 512 x 512 pixels, else the first `n_views`, 256 x 256, bins in pairs."""
    full = loadmat(SHARED / f"htc2022_{name}_full.mat", squeeze_me=True, struct_as_record=False)["CtDataFull"]
    angles = np.asarray(full.parameters.angles, float)[:-1]  # the last view repeats the first
    y, theta = right_handed(full.sinogram[:-1], angles)
    fan = {"type": "fan", "source_to_origin": 0.41066, "origin_to_detector": 0.55374 - 0.41066}
    if n_views is None:
        return scan(y, theta, 0.2e-3, square(512, HTC_PIXEL_M), geometry=fan)
    return scan(in_pairs(y[:n_views]), theta[:n_views], 0.4e-3, square(256, 2 * HTC_PIXEL_M), geometry=fan)


def tooth(step: int = 1) -> Measurement:
    """Raw counts of the first detector row, bins in pairs, every `step`-th view; pixel size not stated, 1 mm here."""
    with h5py.File(SHARED / "tooth.h5") as f:
        data, white, dark = (in_pairs(f[f"exchange/{k}"][:, 0]) for k in ("data", "data_white", "data_dark"))
        angles = np.deg2rad(f["exchange/theta"][:])
    fields = {"flat": white[:, None], "dark": dark[:, None]}
    pitch = 2e-3
    return scan(data[::step], angles[::step], pitch, square(320, pitch), quantity="counts", calibration=fields)


def haadf(index: int = 32) -> Measurement:
    """A slice of the needle; intensities over the brightest one stand for line integrals."""
    series = np.load(SHARED / "haadf_tilt_series_crop.npz")
    y = series["projections"][:, :, index].astype(float)
    pixel = float(series["pixel_nm"]) * 1e-9
    return scan(y / y.max(), np.deg2rad(series["tilt_deg"]), pixel, square(y.shape[1], pixel))


def pet() -> Measurement:
    """log(blank / scan) and its standard deviation 1 / sqrt(counts); bins without a count masked, 1 mm a bin.

    The sense of the angles is not stated; it is taken so that the bed lies below.
    """
    counts = loadmat(SHARED / "pet_transmission_thorax_scan.mat")["test"].astype(float).T
    blank = loadmat(SHARED / "pet_transmission_thorax_blank.mat")["test"].astype(float).T
    n_angles, n_bins = counts.shape
    return scan(
        np.log(blank / np.maximum(counts, 1)),
        -np.arange(n_angles) * np.pi / n_angles,
        1e-3,
        square(n_bins, 1e-3),
        mask=(counts > 0).astype(np.uint8)[:, None],
        mask_axes=("projection", "detector_row", "detector_column"),
        noise_std=1 / np.sqrt(np.maximum(counts, 1))[:, None],
        noise_std_axes=("projection", "detector_row", "detector_column"),
    )


def mouse() -> Measurement:
    """Evenly spread views of the four gates in turn; line integrals of 350 x 350 pixels, reconstructed on 175 x 175."""
    gates = loadmat(SHARED / "mouse_4gate_highdose.mat")["uTarget"].astype(float).transpose(2, 0, 1)
    gates *= MOUSE_PEAK_PER_M / gates.max()
    n_gates, n, _ = gates.shape
    pixel, bins = 0.125e-3, 0.2e-3
    n_views = MOUSE_VIEWS_PER_GATE * n_gates
    angles, gate = np.arange(n_views) * 2 * np.pi / n_views, np.arange(n_views) % n_gates
    g = square(n, pixel)
    A = FanBeam(
        torch.as_tensor(angles),
        torch.as_tensor((np.arange(n) - (n - 1) / 2) * bins),
        Grid(g.origin_m, g.spacing_m, g.shape),
        source_to_origin_m=0.22,
        origin_to_detector_m=0.132,
    )
    movie = torch.as_tensor(gates[:, None], dtype=torch.float32)
    y = TimeSequential(A, torch.as_tensor(gate), n_gates)(movie).numpy()[:, 0].astype(float)
    y = in_pairs(y)
    sigma = MOUSE_NOISE * y.max()
    y += sigma * np.random.default_rng(0).standard_normal(y.shape)
    coarse = gates.reshape(n_gates, n // 2, 2, n // 2, 2).mean((2, 4))[:, None].astype(np.float32)
    grid = square(n // 2, 2 * pixel)
    scales = {"frame": Scale(values=np.arange(n_gates, dtype=float), units="s")}
    for axis, origin, spacing, length in zip("zyx", grid.origin_m, grid.spacing_m, grid.shape, strict=True):
        scales[axis] = Scale(values=origin + spacing * np.arange(length), units="m")
    return scan(
        y,
        angles,
        2 * bins,
        grid,
        geometry={"type": "fan", "source_to_origin": 0.22, "origin_to_detector": 0.132},
        acquisition={"time": np.arange(n_views, dtype=float), "frame_index": gate.astype(np.int32)},
        noise_std=sigma,
        ground_truth=Volume(
            data=coarse, axes=("frame", "z", "y", "x"), scales=scales, units="1/m", quantity="attenuation"
        ),
    )


# -- reconstructing -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a method made of a scan.

    Attributes:
        image: (y, x), or (frame, y, x) of a moving object; 1/m.
        residual: ‖Ax - y‖ / ‖y‖, weighted where the method weights.
    """

    image: Array
    residual: float
    seconds: float
    result: Reconstruction


def run(m: Measurement, method: str, *settings: str) -> Run:
    entry = find_method(method, "tomography")
    clock = time.perf_counter()
    result = reconstruct(m, entry, resolve(entry.config, assignments=settings))
    seconds = time.perf_counter() - clock
    image = result.volume.data[..., 0, :, :]
    return Run(image, float(np.mean(result.metrics["measurement_residual"].value)), seconds, result)


def residual(m: Measurement, image: Array, *settings: str, weights: Array | None = None) -> float:
    """‖Ax - y‖ / ‖y‖ over the measured line integrals, the same for every method; weighted where weights are given."""
    entry = find_method("fbp", "tomography")
    plan = entry.plan(m, resolve(entry.config, assignments=settings), Setting(device=torch.device("cpu")))
    part = next(iter(plan.parts))
    x = torch.as_tensor(image.reshape(1, *part.operator.in_shape))
    root = torch.ones(1) if weights is None else torch.as_tensor(weights, dtype=torch.float32)[:, None].sqrt()
    y = root * part.y
    return float((root * part.operator(x) - y).norm() / y.norm())


# -- parts --------------------------------------------------------------------------------------------------


def htc_part(given: argparse.Namespace) -> Iterator[str]:
    yield "### HTC 2022: discs with holes, fan beam"
    yield ""
    shown: dict[str, Array] = {}
    if (SHARED / "htc2022_ta_full_recon_fbp.mat").is_file():
        published = loadmat(SHARED / "htc2022_ta_full_recon_fbp.mat")["reconFullFbp"] / HTC_PIXEL_M
        full = run(htc("ta"), "fbp")
        shown["fbp, 720 views"] = full.image
        match = np.corrcoef(full.image.ravel(), published.ravel())[0, 1]
        yield (
            f"`ta`, all 720 views, 512 x 512 pixels, fbp: correlation with the published reconstruction {match:.5f} "
            f"({full.seconds:.0f} s)."
        )
        yield ""
    yield "Matthews correlation with the published segmentation; in brackets the residual."
    yield ""
    yield "| disc | views | degrees | fbp | tv | pnp | seconds fbp / tv / pnp |"
    yield "|---|---|---|---|---|---|---|"
    for disc in given.discs.split(","):
        truth = loadmat(SHARED / f"htc2022_{disc}_full_recon_fbp_seg.mat")["reconFullFbpSeg"] > 0
        for n_views in HTC_VIEWS:
            m = htc(disc, n_views)
            cells, times = [], []
            for method in ("fbp", "tv", "pnp"):
                r = run(m, method)
                cells.append(f"{matthews(segmented(r.image, truth.shape), truth):.3f} ({r.residual:.3f})")
                times.append(f"{r.seconds:.0f}")
                if disc == "ta" and n_views in (61, 181):
                    shown[f"{method}, {n_views} views"] = r.image
            yield f"| {disc} | {n_views} | {(n_views - 1) / 2:g} | {' | '.join(cells)} | {' / '.join(times)} |"
    yield ""
    if given.figures:
        order = ["fbp, 720 views", *(f"{k}, {n} views" for n in (61, 181) for k in ("fbp", "tv", "pnp"))]
        panels = [Panel(name, shown[name], 0, 45, HTC_PIXEL_M * 512) for name in order if name in shown]
        panels.insert(4, Panel(""))
        save(given.figures / "tomography_htc.png", panels, 4, "mm", 1e3, "attenuation, 1/m")


def segmented(image: Array, shape: tuple[int, ...]) -> Array:
    """Above Otsu's threshold, after linear interpolation to `shape`."""
    fine = resize(image, shape, order=1, mode="edge")
    return fine > threshold_otsu(fine)


def matthews(found: Array, truth: Array) -> float:
    return float(np.corrcoef(found.ravel(), truth.ravel())[0, 1])  # Pearson's of two binary images


def tooth_part(given: argparse.Namespace) -> Iterator[str]:
    yield "### Tooth: counts, rotation axis searched (`geometry.find_axis = true`), 320 x 320 pixels"
    yield ""
    yield "| views | method | axis at column | residual | residual of all 181 views | seconds |"
    yield "|---|---|---|---|---|---|"
    shown = []
    everything = tooth()
    for step, methods in ((1, ("fbp",)), (4, ("fbp", "tv", "pnp"))):
        m = tooth(step)
        for method in methods:
            r = run(m, method, "geometry.find_axis=true")
            found = next(re.finditer(r"rotation axis at (\S+) m, column ([\d.]+)", "\n".join(r.result.warnings)))
            axis, column = f"geometry.axis_offset_m={found[1]}", 2 * float(found[2]) + 0.5
            n_views, every = m.n("projection"), residual(everything, r.image, axis)
            yield (
                f"| {n_views} | {method} | {column:.2f} | {residual(m, r.image, axis):.4f} | {every:.4f} "
                f"| {r.seconds:.0f} |"
            )
            shown.append(Panel(f"{method}, {n_views} views", r.image, 0, 10, 640, 0.6))
    yield ""
    if given.figures:
        crack = [dataclasses.replace(panel, title="", part=0.17, centre=(-45.0, -75.0)) for panel in shown]
        save(given.figures / "tomography_tooth.png", shown + crack, 4, "detector bins", 1, "attenuation per 1000 bins")


def haadf_part(given: argparse.Namespace) -> Iterator[str]:
    m = haadf()
    yield "### HAADF tilt series: 77 tilts of -76 to 76 degrees, slice 32, 256 x 256 pixels"
    yield ""
    yield "| method | residual | seconds |"
    yield "|---|---|---|"
    shown = []
    for method in ("fbp", "tv", "pnp"):
        r = run(m, method)
        yield f"| {method} | {residual(m, r.image):.4f} | {r.seconds:.0f} |"
        shown.append(Panel(method, r.image * 1e-6, 0, 5, 256 * 3.36e-9, 0.4))
    yield ""
    if given.figures:
        save(given.figures / "tomography_haadf.png", shown, 3, "nm", 1e9, "mass thickness per µm, of the largest")


#: Parts of the mediastinum, of a lung, and of the bright insert near the back: rows, columns.
BODY, LUNG, INSERT = np.s_[72:88, 82:92], np.s_[75:85, 54:62], np.s_[54:58, 72:76]
#: Method, settings and weights: the defaults, and what a user would set for data this noisy.
PET_SMOOTHER = {"tv": ("solver.weight=3e-3",), "pnp": ("solver.beta_fraction=0.2", "solver.sigma_final=0.1")}
PET_CASES = [("fbp", (), "none")] + [
    (method, settings, weights)
    for method, smoother in PET_SMOOTHER.items()
    for settings in ((), smoother)
    for weights in ("none", "statistical")
]


def pet_part(given: argparse.Namespace) -> Iterator[str]:
    m = pet()
    counts = np.asarray(m.noise_std)[:, 0] ** -2.0 * m.mask[:, 0]  # type: ignore[index]
    yield "### PET transmission scan: 0.92 million counts, 160 x 160 pixels; mean ± std of parts of the image"
    yield ""
    yield "| method | settings | weights | residual | weighted residual | body | lung | insert | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    shown = []
    y, n = m.data[:, 0], float((counts > 0).sum())
    alone = math.sqrt((1 / counts[counts > 0]).sum() / (y[counts > 0] ** 2).sum()), math.sqrt(n / (counts * y**2).sum())
    yield f"| expected of noise alone | | | {alone[0]:.3f} | {alone[1]:.3f} | | | | |"
    for method, settings, weights in PET_CASES:
        r = run(m, method, f"data.weights={weights}", *settings)
        parts = [f"{r.image[at].mean():.1f} ± {r.image[at].std():.1f}" for at in (BODY, LUNG, INSERT)]
        yield (
            f"| {method} | {', '.join(settings) or 'defaults'} | {weights} | {residual(m, r.image):.3f} "
            f"| {residual(m, r.image, weights=counts):.3f} | {' | '.join(parts)} | {r.seconds:.0f} |"
        )
        words = {"none": "", "statistical": ", weights"}[weights]
        shown.append(Panel(f"{method}{words}{', smoother' if settings else ''}", r.image, 0, 50, 160))
    yield ""
    if given.figures:
        panels = [*shown[:5], Panel(""), *shown[5:]]
        save(given.figures / "tomography_pet.png", panels, 5, "detector bins", 1, "attenuation per 1000 bins")


def mouse_part(given: argparse.Namespace) -> Iterator[str]:
    m = mouse()
    assert m.ground_truth is not None
    truth = m.ground_truth.data[:, 0]
    yield (
        f"### Mouse: {len(truth)} gates, {MOUSE_VIEWS_PER_GATE} interleaved views each, noise {100 * MOUSE_NOISE:g} %, "
        f"{truth.shape[1]} x {truth.shape[2]} pixels"
    )
    yield ""
    yield "| method | PSNR of each gate, dB | mean | SSIM | residual | seconds |"
    yield "|---|---|---|---|---|---|"
    shown = {"truth": truth}
    for method in ("fbp", "tv", "pnp", "redpsm"):
        r = run(m, method)
        peak = float(truth.max())
        e, t = (torch.as_tensor(v[:, None] / peak) for v in (r.image, truth))
        each = psnr(e, t, normalise="none")
        alike = float(ssim(e, t, dims=2, normalise="none").mean())
        yield (
            f"| {method} | {', '.join(f'{v:.2f}' for v in each.tolist())} | {float(each.mean()):.2f} | {alike:.3f} "
            f"| {residual(m, r.image):.4f} | {r.seconds:.0f} |"
        )
        shown[method] = r.image
    yield ""
    if given.figures:
        first = [Panel(f"{k}, gate 1", v[0], 0, 60, 0.04375) for k, v in shown.items()]
        change = [Panel(f"{k}, gate 3 - gate 1", v[2] - v[0], -20, 20, 0.04375) for k, v in shown.items()]
        save(given.figures / "tomography_mouse.png", first + change, 5, "mm", 1e3, "attenuation, 1/m")


# -- figures ------------------------------------------------------------------------------------------------


GRAY, SIGNED = "gray", "RdBu_r"


@dataclass(frozen=True)
class Panel:
    """One image (y, x), `width` wide, from `low` to `high`: a `part` of it about `centre` (x, y); None leaves a gap."""

    title: str
    image: Array | None = None
    low: float = 0.0
    high: float = 1.0
    width: float = 1.0
    part: float = 1.0
    centre: tuple[float, float] = (0.0, 0.0)


def save(path: Path, panels: list[Panel], n_columns: int, unit: str, per_unit: float, value: str) -> None:
    """Panels in rows with x to the right and y upwards, a colour bar per row."""
    n_rows = math.ceil(len(panels) / n_columns)
    figure = Figure(figsize=(11, n_rows * (9.6 / n_columns + 0.55)), dpi=100, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for a in axes.flat:
        a.set_axis_off()
    for row in range(n_rows):
        drawn = None
        for a, panel in zip(axes[row], panels[row * n_columns : (row + 1) * n_columns], strict=False):
            if panel.image is not None:
                drawn = show(a, panel, per_unit)
                a.set_xlabel(f"x, {unit}")
        if axes[row, 0].axison:
            axes[row, 0].set_ylabel(f"y, {unit}")
        if drawn is not None:
            figure.colorbar(drawn, ax=axes[row].tolist(), label=value, shrink=0.8, pad=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    colours = np.concatenate([mpl.colormaps[name](np.linspace(0, 1, 128))[:, :3] for name in (GRAY, SIGNED)])
    nearest = cKDTree(255 * colours).query(pixels.reshape(-1, 3))[1]  # 128 grays and as many colours suffice
    small = Image.fromarray(nearest.reshape(pixels.shape[:2]).astype(np.uint8), "P")
    small.putpalette((255 * colours).round().astype(np.uint8).tobytes())
    small.save(path, optimize=True)


def show(a: Axes, panel: Panel, per_unit: float) -> Any:
    half = panel.width * per_unit / 2
    a.set_axis_on()
    a.set_title(panel.title, fontsize=10)
    x, y = (per_unit * c for c in panel.centre)
    around = half * panel.part
    a.set(xlim=(x - around, x + around), ylim=(y - around, y + around))
    signed = panel.low < 0
    return a.imshow(
        panel.image,
        origin="lower",
        extent=(-half, half, -half, half),
        vmin=panel.low,
        vmax=panel.high,
        cmap=SIGNED if signed else GRAY,
        interpolation="antialiased",
    )


# -- main ---------------------------------------------------------------------------------------------------

NEEDS = {
    "htc": "htc2022_ta_full.mat",
    "tooth": "tooth.h5",
    "haadf": "haadf_tilt_series_crop.npz",
    "pet": "pet_transmission_thorax_scan.mat",
    "mouse": "mouse_4gate_highdose.mat",
}


def where_present(name: str, part: Callable[[argparse.Namespace], Iterator[str]]) -> Any:
    def lines(given: argparse.Namespace) -> Iterator[str]:
        if (SHARED / NEEDS[name]).is_file():
            yield from part(given)
        else:
            yield f"{name} skipped: {NEEDS[name]} not found in {SHARED}; set BACKCAST_SHARED to the folder above data/"

    return lines


PARTS = {
    name: where_present(name, part)
    for name, part in {
        "htc": htc_part,
        "tooth": tooth_part,
        "haadf": haadf_part,
        "pet": pet_part,
        "mouse": mouse_part,
    }.items()
}


def main() -> None:
    mpl.use("Agg")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one of them; all without")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--figures", type=Path, help="folder to write pictures into; none without")
    parser.add_argument("--discs", default="ta,tb,solid_disc", help="htc: which, comma-separated")
    parser.add_argument("--threads", type=int)
    parser.set_defaults(radar_weights=None)
    run_parts(parser, PARTS)


if __name__ == "__main__":
    main()
