"""MRI of measured scans: tables, and with `--figures` the pictures of docs/mri.md.

Every scan becomes a `Measurement` and goes through `pipelines.reconstruct` with the defaults of each method; what is
set beside them stands in the tables. The scans are looked for in $BACKCAST_SHARED, else in ../shared; a missing set is
skipped.

**brain**: 8 coils, fully sampled, thinned out to 2 x 2 and 3 x 2 lattices and Poisson discs of 6 and 8, centre 24 x 24.
**folded**: 8 coils, field of view smaller than the head: one and two sets of maps.
**spiral**: 8 coils, phantom, 60, 30 and 20 of 60 interleaves.
**cine**: complex short-axis series times the coil maps of the brain, the published mask, 8- and 12-fold, noise 1 %.
**echoes**: four-echo heart, complex, thinned out 4-fold.
**ways**: denoising real and imaginary parts, magnitudes, or demodulated parts, on the brain and on the cine.

    python benchmarks/real_mri.py [--part NAME] [--figures FOLDER] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from denoising import run_parts
from numpy.typing import NDArray
from real_tomography import Panel, save
from scipy.io import loadmat
from scipy.ndimage import zoom

from data import Reconstruction
from data.convert import ConvertOptions, convert
from data.measurement import Measurement, Scale, Volume
from data.simulate import mri_masks as masks
from data.simulate.mri_trajectories import radial
from imaging import metrics
from imaging.operators import CartesianMri
from imaging.solvers import cg
from pipelines.config import resolve
from pipelines.methods import Setting, find_method
from pipelines.mri_config import CoilsTable, MriConfig
from pipelines.mri_scan import Scan, read_scan
from pipelines.reconstruct import reconstruct

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("BACKCAST_SHARED", ROOT.parent / "shared")) / "data" / "mri"

Array = NDArray[Any]
#: The pixel sizes are not stated; 1 mm stands for them.
PIXEL_M = 1e-3
CENTRE = (24, 24)
NOISE = 0.01


# -- scans as measurements ----------------------------------------------------------------------------------


def index(n: int) -> Scale:
    return Scale(values=np.arange(n, dtype=np.int32), units="1")


def measurement(data: Array, axes: tuple[str, ...], shape: tuple[int, int, int], **more: Any) -> Measurement:
    """K-space of an image of 1 mm voxels; centred, orthonormal, exponent -1."""
    scales = {name: index(n) for name, n in zip(axes, data.shape, strict=True)}
    if axes[0] == "frame":
        scales["frame"] = Scale(values=np.arange(len(data), dtype=float) * more.pop("interval_s", 0.04), units="s")
    geometry = {"field_of_view": np.array(shape) * PIXEL_M, "recon_matrix": np.array(shape, np.int32)}
    acquisition = {"fft_norm": "ortho", "fft_centered": True, "fft_sign": -1.0} | more.pop("acquisition", {})
    return Measurement(
        modality="mri",
        data=np.ascontiguousarray(data, np.complex64),
        axes=axes,
        scales=scales,
        quantity="kspace",
        geometry=geometry,
        acquisition=acquisition,
        **more,
    )


def brain(mask: Array | None = None, name: str = "brain_8ch_full") -> Measurement:
    """(1, 8, ky, kx), with a mask (ky, kx) thinned out."""
    full = convert(SHARED / f"{name}.cfl", ConvertOptions())
    data = full.data if mask is None else full.data * mask
    more = {} if mask is None else {"mask": mask, "mask_axes": ("ky", "kx")}
    return measurement(data, full.axes, (1, *full.data.shape[2:]), **more)  # type: ignore[arg-type]


def thinned(kind: str, acceleration: int, shape: tuple[int, int]) -> Array:
    if kind == "lattice":
        return masks.uniform(shape, acceleration, CENTRE)
    return masks.poisson_disc(np.random.default_rng(0), shape, acceleration, CENTRE)


#: Pixels of the spiral scan along each side: 256 are shown, the bottles reach further.
SPIRAL_PIXELS, SPIRAL_SHOWN = 320, 256


def spiral(n_interleaves: int, maps: Array | None = None) -> Measurement:
    """Evenly spread interleaves of the 60."""
    scan = loadmat(SHARED / "phantom_spiral_8ch.mat")
    chosen = np.arange(0, 60, 60 // n_interleaves)
    points = scan["k"][:, chosen].T / PIXEL_M  # kx + j ky, cycles per pixel
    data = scan["data"][:, chosen].transpose(2, 1, 0)[None]
    trajectory = np.stack((points.imag, points.real), axis=-1).astype(np.float32)
    return measurement(
        data,
        ("frame", "coil", "readout", "sample"),
        (1, SPIRAL_PIXELS, SPIRAL_PIXELS),
        acquisition={"trajectory": trajectory, "order": ["ky", "kx"]},
        calibration={} if maps is None else {"coil_sensitivities": maps},
    )


def fourier(images: Array) -> Array:
    """Centred and orthonormal, over the last two axes."""
    shifted = np.fft.ifftshift(images, axes=(-2, -1))
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))


def cine_series() -> tuple[Array, Array]:
    """(frame, y, x) complex, bright parts 1, and the published mask (frame, y)."""
    stored = np.load(SHARED / "cardiac_cine_complex.npz")
    series = stored["seq"].transpose(2, 0, 1)
    top = np.sort(np.abs(series).ravel())[-120:].mean()
    mask = stored["mask_published"].transpose(2, 0, 1)
    return series / top, mask[:, :, 0]


def brain_maps(shape: tuple[int, int]) -> Array:
    """Coil maps of the brain, resampled: (coil, y, x), root sum of squares 1."""
    from pipelines.mri_scan import estimated_maps

    maps = estimated_maps(brain(), CoilsTable(sets=2))[:, 0]  # of two sets the first reaches further beyond the head
    y0 = (maps.shape[1] - maps.shape[2]) // 2
    square = maps[:, y0 : y0 + maps.shape[2]]
    factors = (1, shape[0] / square.shape[1], shape[1] / square.shape[2])
    resampled = zoom(square.real, factors, order=1) + 1j * zoom(square.imag, factors, order=1)
    return resampled / np.maximum(np.sqrt((np.abs(resampled) ** 2).sum(0)), 1e-3)


def truth_of(series: Array, interval_s: float = 0.04) -> Volume:
    n_frames, ny, nx = series.shape
    scales = {
        "frame": Scale(values=np.arange(n_frames) * interval_s, units="s"),
        "z": Scale(values=np.zeros(1), units="m"),
    }
    for name, n in (("y", ny), ("x", nx)):
        scales[name] = Scale(values=(np.arange(n) - n // 2) * PIXEL_M, units="m")
    return Volume(
        data=series[:, None].astype(np.complex64),
        axes=("frame", "z", "y", "x"),
        scales=scales,
        quantity="magnetisation",
    )


def movie(series: Array, maps: Array, mask: Array) -> Measurement:
    """Lines (frame, ky) of a series seen by coils, with noise of 1 % of the bright parts in every image pixel."""
    seen = fourier(maps * series[:, None])
    data = (seen + noise(seen.shape)) * mask[:, None, :, None]
    return measurement(
        data[:, :, None],
        ("frame", "coil", "kz", "ky", "kx"),
        (1, *series.shape[1:]),
        mask=mask.astype(np.uint8),
        mask_axes=("frame", "ky"),
        calibration={"coil_sensitivities": maps[:, None].astype(np.complex64)},
        ground_truth=truth_of(series),
    )


def radial_movie(series: Array, maps: Array, n_spokes: int) -> Measurement:
    """The same along golden-angle spokes, 2 N samples each."""
    from pipelines.mri_scan import operator_of

    n_frames, n, _ = series.shape
    points = radial(n_frames, n_spokes, 2 * n, 1 / (2 * PIXEL_M), golden=True).astype(np.float32)
    empty = measurement(
        np.ones((n_frames, len(maps), n_spokes, 2 * n)),
        ("frame", "coil", "readout", "sample"),
        (1, n, n),
        acquisition={"trajectory": points, "order": ["ky", "kx"]},
        calibration={"coil_sensitivities": maps[:, None].astype(np.complex64)},
        ground_truth=truth_of(series),
    )
    A = operator_of(empty)
    y = A(torch.as_tensor(series[:, None], dtype=torch.complex64))
    data = y.numpy() + noise(tuple(y.shape))
    return measurement(
        data,
        empty.axes,
        (1, n, n),
        acquisition={"trajectory": points, "order": ["ky", "kx"]},
        calibration=empty.calibration,
        ground_truth=empty.ground_truth,
    )


def noise(shape: tuple[int, ...]) -> Array:
    g = np.random.default_rng(0)
    return NOISE / math.sqrt(2) * (g.standard_normal(shape) + 1j * g.standard_normal(shape))


def random_lines(n_frames: int, n: int, acceleration: float) -> Array:
    """(frame, n): four lines in the centre, the others drawn anew for every frame."""
    g = np.random.default_rng(0)
    return np.stack([masks.variable_density(g, (1, n), acceleration, (1, 4))[0] for _ in range(n_frames)])


# -- reconstructing -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a method made of a scan.

    Attributes:
        image: complex (y, x), or (frame, y, x) of a movie.
    """

    image: Array
    residual: float
    seconds: float
    result: Reconstruction


def run(m: Measurement, method: str, *settings: str) -> Run:
    entry = find_method(method, "mri")
    clock = time.perf_counter()
    result = reconstruct(m, entry, resolve(entry.config, assignments=settings))
    seconds = time.perf_counter() - clock
    image = result.volume.data[..., 0, :, :]
    return Run(image, float(np.mean(result.metrics["measurement_residual"].value)), seconds, result)


def nmse_db(image: Array, truth: Array) -> float:
    """Of magnitudes after the least-squares gain."""
    e, t = (torch.as_tensor(np.abs(v))[None] for v in (image, truth))
    return 10 * math.log10(float(metrics.nmse(e, t)))


def cell(image: Array, truth: Array) -> str:
    """NMSE in dB and SSIM."""
    if np.array_equal(image, truth):
        return "reference"
    return f"{nmse_db(image, truth):.2f} ({ssim(image, truth):.3f})"


def ssim(image: Array, truth: Array) -> float:
    e, t = (torch.as_tensor(np.abs(v))[None] for v in (image, truth))
    return float(metrics.ssim(e, t / t.max(), dims=2, normalise="gain"))


def psnr(image: Array, truth: Array) -> float:
    """Mean over frames, each after its least-squares gain, against the largest value of all."""
    e, t = (torch.as_tensor(np.abs(v))[:, None] for v in (image, truth))
    return float(metrics.psnr(e, t / t.max(), normalise="gain").mean())


# -- parts --------------------------------------------------------------------------------------------------

STATIC = ("sense", "l1wavelet", "tv", "pnp")
CASES = (("lattice", 4, "2 x 2"), ("lattice", 6, "3 x 2"), ("poisson", 6, "Poisson 6"), ("poisson", 8, "Poisson 8"))


def brain_part(given: argparse.Namespace) -> Iterator[str]:
    full = run(brain(), "adjoint")
    truth = full.image
    size = " x ".join(map(str, truth.shape))
    yield f"### Brain, 8 coils, {size}; NMSE in dB (SSIM) against the fully sampled combination"
    yield ""
    yield f"| samples | share | {' | '.join(STATIC)} | seconds |"
    yield "|---" * (len(STATIC) + 3) + "|"
    panels = [Panel("fully sampled", upright(truth), 0, top(truth), 0.23)]
    for kind, acceleration, words in CASES:
        mask = thinned(kind, acceleration, truth.shape)  # type: ignore[arg-type]
        cells, seconds = [], []
        for method in STATIC:
            r = run(brain(mask), method)
            cells.append(cell(r.image, truth))
            seconds.append(f"{r.seconds:.0f}")
            if words == "Poisson 8":
                panels.append(Panel(f"{method}, {words}", upright(r.image), 0, top(truth), 0.23))
        yield f"| {words} | {mask.mean():.3f} | {' | '.join(cells)} | {' / '.join(seconds)} |"
    yield ""
    if given.figures:
        closer = [dataclasses.replace(panel, title="", part=0.25, centre=(0.02, 0.02)) for panel in panels]
        save(given.figures / "mri_brain.png", panels + closer, 5, "mm", 1e3, "magnitude")


def solved(scan: Scan, weight: float) -> torch.Tensor:
    """What `sense` computes, before sets are combined."""
    ridge = weight * scan.A.norm() ** 2
    return cg(lambda v: scan.A.gram(v) + ridge * v, scan.A.adjoint(scan.y), tol=1e-4, max_iter=20)[0]


def folded_part(given: argparse.Namespace) -> Iterator[str]:
    m = brain(name="brain_8ch_smallfov")  # every second line of kx and a centre of 24; the file is zero elsewhere
    measured = (m.data[0] != 0).any(0)
    drawn = np.random.default_rng(0).random(measured.shape) < 0.05
    ny, nx = measured.shape
    drawn[ny // 2 - 12 : ny // 2 + 12, nx // 2 - 12 : nx // 2 + 12] = False  # the centre calibrates
    left_out = measured & drawn
    rss = run(m, "adjoint", "adjoint.combine=rss").image
    yield "### Brain in a field of view smaller than the head, every second line; sense with one and two sets of maps"
    yield ""
    yield "| sets | residual of all samples | error of 5 % left out, dB |"
    yield "|---|---|---|"
    panels = [Panel("root sum of squares", upright(rss), 0, top(rss), 0.32)]
    for sets in (1, 2):
        settings = (f"coils.sets={sets}", "sense.weight=1e-4")
        whole = run(m, "sense", *settings)
        part = brain((measured & ~left_out).astype(np.uint8), "brain_8ch_smallfov")
        scan = read_scan(part, MriConfig(coils=CoilsTable(sets=sets)), Setting(device=torch.device("cpu")))
        assert isinstance(scan.A, CartesianMri)
        A = CartesianMri(scan.A.maps, torch.as_tensor(left_out)[None, None])
        x = solved(scan, 1e-4)
        y = torch.as_tensor(np.where(left_out, m.data, 0))[None, :, :, None]
        error = 20 * math.log10(float((A(x) - y).norm() / y.norm()))
        yield f"| {sets} | {whole.residual:.4f} | {error:.2f} |"
        words = f"{sets} set{'s' if sets > 1 else ''} of maps"
        panels.append(Panel(words, upright(whole.image), 0, top(whole.image), 0.32))
    yield ""
    if given.figures:
        closer = [dataclasses.replace(panel, title="", part=0.3, centre=(0.0, 0.0)) for panel in panels]
        save(given.figures / "mri_folded.png", panels + closer, 3, "mm", 1e3, "magnitude")


def spiral_part(given: argparse.Namespace) -> Iterator[str]:
    """Sensitivities are those of all interleaves: a few have no fully sampled centre."""
    from pipelines.mri_scan import estimated_maps

    def shown(r: Run) -> Array:
        first = (SPIRAL_PIXELS - SPIRAL_SHOWN) // 2
        part = slice(first, first + SPIRAL_SHOWN)
        return r.image[part, part]

    yield "### Phantom, 8 coils, spiral; NMSE in dB (SSIM) of some interleaves against all 60 by the same method"
    yield ""
    yield "| method | 30 interleaves | 20 interleaves | seconds, 60 / 30 / 20 |"
    yield "|---|---|---|---|"
    maps = estimated_maps(spiral(60))
    panels = []
    for method in ("adjoint", "sense", "pnp"):
        found = [run(spiral(n, maps), method) for n in (60, 30, 20)]
        truth, *fewer = (shown(r) for r in found)
        cells = [cell(image, truth) for image in fewer]
        yield f"| {method} | {' | '.join(cells)} | {' / '.join(f'{r.seconds:.0f}' for r in found)} |"
        if method != "adjoint":
            for n_interleaves, image in ((60, truth), (20, fewer[-1])):
                panels.append(Panel(f"{method}, {n_interleaves} interleaves", np.abs(image), 0, top(truth), 0.256))
    yield ""
    if given.figures:
        save(given.figures / "mri_spiral.png", panels, 4, "mm", 1e3, "magnitude")


DYNAMIC = ("sense", "psm", "lps", "redpsm")


def cine_scans(n_coils: int = 8) -> Iterator[tuple[str, Measurement]]:
    series, published = cine_series()
    maps = brain_maps(series.shape[1:]) if n_coils > 1 else np.ones((1, *series.shape[1:]))  # type: ignore[arg-type]
    n = series.shape[1]
    yield "published mask, 24.5 %", movie(series, maps, published)
    for acceleration in (8, 12):
        yield f"Cartesian, {acceleration}-fold", movie(series, maps, random_lines(len(series), n, acceleration))
        yield f"radial, {round(n / acceleration)} spokes", radial_movie(series, maps, round(n / acceleration))


def cine_part(given: argparse.Namespace) -> Iterator[str]:
    series, _ = cine_series()
    n_frames, ny, nx = series.shape
    yield f"### Cine, {n_frames} frames of {ny} x {nx}, noise {100 * NOISE:g} %; PSNR in dB, mean of the frames"
    yield ""
    yield f"| coils | samples of a frame | {' | '.join(DYNAMIC)} | seconds |"
    yield "|---" * (len(DYNAMIC) + 3) + "|"
    for n_coils in (8, 1):
        for words, m in cine_scans(n_coils):
            cells, seconds = [], []
            panels = [Panel("truth, frame 4", series[4], 0, 1, 0.11)]
            errors = [Panel("")]
            for method in DYNAMIC:
                r = run(m, method)
                cells.append(f"{psnr(r.image, series):.2f}")
                seconds.append(f"{r.seconds:.0f}")
                panels.append(Panel(f"{method}, {cells[-1]} dB", r.image[4], 0, 1, 0.11))
                errors.append(Panel("difference", np.abs(r.image[4]) - np.abs(series[4]), -0.25, 0.25, 0.11))
            yield f"| {n_coils} | {words} | {' | '.join(cells)} | {' / '.join(seconds)} |"
            if given.figures and (n_coils, words) == (8, "Cartesian, 12-fold"):
                shown = [Panel(p.title, np.abs(p.image), p.low, p.high, p.width) for p in panels]  # type: ignore[arg-type]
                save(given.figures / "mri_cine.png", shown + errors, 5, "mm", 1e3, "magnitude")
    yield ""


def echoes_part(given: argparse.Namespace) -> Iterator[str]:
    stored = loadmat(SHARED / "cardiac_sax_multiecho.mat", squeeze_me=True, struct_as_record=False)["data"]
    series = np.moveaxis(stored.images, -1, 0)
    series = series / np.sort(np.abs(series).ravel())[-series.size // 1000 :].mean()
    maps = brain_maps(series.shape[1:])  # type: ignore[arg-type]
    times = ", ".join(f"{1e3 * t:g}" for t in np.ravel(stored.TE))  # stored in seconds
    yield f"### Heart at echo times {times} ms, {series.shape[1]} x {series.shape[2]}, 4-fold; PSNR in dB"
    yield ""
    yield f"| {' | '.join(('pnp', *DYNAMIC))} |"
    yield "|---" * (len(DYNAMIC) + 1) + "|"
    m = movie(series, maps, random_lines(len(series), series.shape[1], 4))
    panels, cells = [Panel("truth, echo 3", np.abs(series[2]), 0, 1, 0.192)], []
    for method in ("pnp", *DYNAMIC):
        r = run(m, method)
        cells.append(f"{psnr(r.image, series):.2f}")
        panels.append(Panel(f"{method}, {cells[-1]} dB", np.abs(r.image[2]), 0, 1, 0.192))
    yield f"| {' | '.join(cells)} |"
    yield ""
    if given.figures:
        save(given.figures / "mri_echoes.png", panels, 3, "mm", 1e3, "magnitude")


WAYS = {
    "parts": (),
    "magnitude": ("solver.on=magnitude",),
    "demodulated": ("solver.on=demodulated",),
    "joint": ("solver.on=joint", "denoiser.file=mri-2d-complex"),
    "parts, tomo-2d": ("denoiser.file=tomo-2d",),
}


def ways_part(given: argparse.Namespace) -> Iterator[str]:
    yield "### What is denoised (`solver.on`), and by what: brain by pnp, NMSE in dB; cine by redpsm, PSNR in dB"
    yield ""
    yield f"| scan | {' | '.join(WAYS)} |"
    yield "|---" * (len(WAYS) + 1) + "|"
    truth = run(brain(), "adjoint").image
    for kind, acceleration, words in CASES:
        m = brain(thinned(kind, acceleration, truth.shape))  # type: ignore[arg-type]
        cells = [f"{nmse_db(run(m, 'pnp', *settings).image, truth):.2f}" for settings in WAYS.values()]
        yield f"| brain, {words} | {' | '.join(cells)} |"
    series, _ = cine_series()
    for words, m in cine_scans():
        cells = [f"{psnr(run(m, 'redpsm', *settings).image, series):.2f}" for settings in WAYS.values()]
        yield f"| cine, {words} | {' | '.join(cells)} |"
    yield ""


def upright(image: Array) -> Array:
    """As drawn: magnitude, the first row at the top, square."""
    rows = np.abs(image)[::-1]
    side = max(rows.shape)
    edges = [((side - n) // 2, side - n - (side - n) // 2) for n in rows.shape]
    return np.pad(rows, edges)


def top(image: Array) -> float:
    """Grey level that stands for white."""
    return float(np.percentile(np.abs(image), 99.7))


# -- main ---------------------------------------------------------------------------------------------------

NEEDS = {
    "brain": "brain_8ch_full.cfl",
    "folded": "brain_8ch_smallfov.cfl",
    "spiral": "phantom_spiral_8ch.mat",
    "cine": "cardiac_cine_complex.npz",
    "echoes": "cardiac_sax_multiecho.mat",
    "ways": "cardiac_cine_complex.npz",
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
        "brain": brain_part,
        "folded": folded_part,
        "spiral": spiral_part,
        "cine": cine_part,
        "echoes": echoes_part,
        "ways": ways_part,
    }.items()
}


def main() -> None:
    mpl.use("Agg")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one of them; all without")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--figures", type=Path, help="folder to write pictures into; none without")
    parser.add_argument("--threads", type=int)
    parser.set_defaults(radar_weights=None)
    run_parts(parser, PARTS)


if __name__ == "__main__":
    main()
