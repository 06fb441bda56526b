"""The whole way in one go: simulate, reconstruct by several methods, evaluate, draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data import read_measurement, read_reconstruction
from pipelines import batch, evaluate
from pipelines.channel_figures import channel_png
from pipelines.config import ConfigError
from pipelines.figures import projections_png
from pipelines.movie_figures import movie_gif, movie_png, slices_png
from pipelines.progress import Plain
from pipelines.simulate import simulate_files

METHODS = {
    "mimo_radar": ("backprojection", "l1", "tv", "pnp"),
    "tomography": ("fbp", "psm", "redpsm"),
    "mri": ("adjoint", "sense", "l1wavelet", "pnp"),
    "irs_mimo": ("ls", "omp", "sbl", "krosbl-svd", "krosbl-mm"),
}
MOVIE_METHODS = ("sense", "psm", "lps", "redpsm")
#: Poisson discs of a head, and every twelfth line of a heart that beats.
HEAD = ("n=192", "pixel_m=1.2e-3", "mask=poisson_disc", "phase_axes=2", "acceleration=6", "snr_db=26")
HEART = (
    "object=heart",
    "motion=beating",
    "n=96",
    "pixel_m=2.7e-3",
    "n_frames=12",
    "mask=kt",
    "acceleration=12",
    "calibration=8",
    "snr_db=30",
)
SCENE = ("target=letters", "target_parameters.text=R", "target_parameters.thickness_m=0.03")
TITLES = {
    "backprojection": "back-projection",
    "l1": "l1",
    "tv": "TV",
    "pnp": "plug-and-play",
    "fbp": "FBP",
    "psm": "PSM",
    "redpsm": "RED-PSM",
    "adjoint": "zero-filled",
    "sense": "SENSE",
    "l1wavelet": "l1-wavelet",
    "lps": "L + S",
    "ls": "least squares",
    "omp": "OMP",
    "sbl": "SBL",
    "krosbl-svd": "KroSBL, SVD",
    "krosbl-mm": "KroSBL, MM",
}


def run_demo(modality: str, output: Path, *, seed: int, say: Callable[[str], None]) -> tuple[str, Path]:
    """Simulate a scene, image it by several methods, compare with the truth, draw.

    Args:
        modality: "mimo_radar": a letter at 0.5 m seen by crossed linear arrays; "tomography": a slice that moves, one
            projection per instant; "mri": a slice of a head, and a heart that beats; "irs_mimo": pilots over a surface.
        output: folder for scans/, volumes/METHOD/ and the pictures.
        seed: of scene and noise.
        say: told what happens.

    Returns:
        The table of figures, and the picture; movies leave an animation beside it.

    Raises:
        ConfigError: a method failed, with its reason.
    """
    if modality == "mri":
        return _mri_demo(output, seed=seed, say=say)
    if modality == "irs_mimo":
        return _channel_demo(output, seed=seed, say=say)
    scan = output / "scans" / f"{modality}_0000.h5"
    if modality == "tomography":
        say(f"simulating {scan}: a slice that moves, 128 instants, one projection each")
        scene: tuple[str, ...] = ()
    else:
        say(f"simulating {scan}: a letter 0.5 m in front of two crossed linear arrays, 12 x 13 antennas, 4 to 16 GHz")
        scene = SCENE
    list(simulate_files(modality, output / "scans", seed=seed, assignments=scene, overwrite=True))
    results = _reconstructed(modality, scan, METHODS[modality], output / "volumes", say)
    finder = evaluate.TruthFinder(scan)
    figures = {name: evaluate.evaluate(path, finder) for name, path in results.items()}
    truth = read_measurement(scan).ground_truth
    assert truth is not None  # simulated files have one
    volumes = {"truth": truth, **{TITLES[name]: read_reconstruction(path).volume for name, path in results.items()}}
    captions = {TITLES[n]: f"PSNR {e.value('psnr'):.1f} dB" for n, e in figures.items()}
    picture = output / f"{modality}.png"
    if modality == "tomography":
        movie_png(
            picture,
            volumes,
            {TITLES[name]: np.asarray(e.metrics["psnr"].value) for name, e in figures.items()},
            title="A moving slice from one projection per instant: 128 views, noise 0.5 %",
            captions=captions,
        )
        movie_gif(picture.with_suffix(".gif"), volumes)
    else:
        projections_png(
            picture,
            volumes,
            title="One letter, 3120 samples, 30 625 voxels: maximum-intensity projections",
            captions={
                "truth": "30 dB signal-to-noise ratio",
                **{
                    t: f"{c}, SSIM {figures[n].value('ssim'):.2f}"
                    for (t, c), n in zip(captions.items(), figures, strict=True)
                },
            },
        )
    return evaluate.table(list(figures.values())), picture


def _reconstructed(
    modality: str, scan: Path, methods: Sequence[str], folder: Path, say: Callable[[str], None]
) -> dict[str, Path]:
    """Reconstruction files of a scan by method, FOLDER/METHOD/."""
    results = {}
    for name in methods:
        say(f"reconstructing by {name}")
        options = batch.Options(
            inputs=(str(scan),),
            output=folder / name,
            method=name,
            arguments=("demo", modality),
            overwrite=True,
        )
        planned = batch.plan(options)
        if batch.run(planned, options, Plain()):
            raise ConfigError(f"demo: {planned.entries[0].reason}")
        results[name] = planned.entries[0].result
    return results


def _channel_demo(output: Path, *, seed: int, say: Callable[[str], None]) -> tuple[str, Path]:
    """A channel of 5832 unknown coefficients from 384 samples."""
    scan = output / "scans" / "irs_mimo_0000.h5"
    say(f"simulating {scan}: 3 pilots under 8 patterns of a surface with 256 elements, 6 to 16 antennas, 8 dB")
    list(
        simulate_files("irs_mimo", output / "scans", seed=seed, assignments=("snr_db=8", "n_configs=8"), overwrite=True)
    )
    results = _reconstructed("irs_mimo", scan, METHODS["irs_mimo"], output / "channels", say)
    finder = evaluate.TruthFinder(scan)
    figures = {name: evaluate.evaluate(path, finder) for name, path in results.items()}
    picture = output / "irs_mimo.png"
    channel_png(
        picture,
        read_measurement(scan),
        {TITLES[name]: read_reconstruction(path) for name, path in results.items()},
        title="A channel over a reflecting surface: 384 samples at 8 dB, 5832 coefficients, 9 of them not 0",
        captions={
            "truth": "pattern of largest gain",
            **{TITLES[n]: f"NMSE {e.value('nmse_db'):.1f} dB" for n, e in figures.items()},
        },
        spectra=tuple(TITLES[n] for n in ("omp", "krosbl-svd", "krosbl-mm")),
    )
    return evaluate.table(list(figures.values())), picture


def _mri_demo(output: Path, *, seed: int, say: Callable[[str], None]) -> tuple[str, Path]:
    """A slice of a head and a heart that beats; the coils' sensitivities are estimated from both."""
    tables = []
    for kind, scene, words in (
        ("head", HEAD, "a slice of a head, 8 coils, a sixth of the samples"),
        ("heart", HEART, "a heart that beats, 12 frames, 8 coils, every twelfth line and 8 in the centre"),
    ):
        folder = output / "scans" / kind
        say(f"simulating {folder / 'mri_0000.h5'}: {words}")
        (scan,) = simulate_files("mri", folder, seed=seed, assignments=scene, overwrite=True)
        methods = METHODS["mri"] if kind == "head" else MOVIE_METHODS
        results = _reconstructed("mri", scan, methods, output / "volumes" / kind, say)
        finder = evaluate.TruthFinder(scan)
        figures = {name: evaluate.evaluate(path, finder) for name, path in results.items()}
        tables.append(evaluate.table(list(figures.values())))
        truth = read_measurement(scan).ground_truth
        assert truth is not None  # simulated files have one
        volumes = {"truth": truth, **{TITLES[n]: read_reconstruction(path).volume for n, path in results.items()}}
        captions = {TITLES[n]: f"PSNR {e.value('psnr_gain'):.1f} dB" for n, e in figures.items()}
        if kind == "head":
            title = "A slice from a sixth of the samples, 8 coils (below: difference)"
            slices_png(output / "mri.png", volumes, title=title, captions=captions)
            continue
        errors = {TITLES[n]: np.asarray(e.metrics["psnr_gain"].value) for n, e in figures.items()}
        title = "A beating heart, every twelfth line and 8 in the centre, 8 coils"
        movie_png(output / "mri_heart.png", volumes, errors, title=title, captions=captions)
        movie_gif(output / "mri_heart.gif", volumes)
    return "\n".join(tables), output / "mri.png"
