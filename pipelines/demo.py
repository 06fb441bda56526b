"""The whole way in one go: simulate, reconstruct by several methods, evaluate, draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data import read_measurement, read_reconstruction
from pipelines import batch, evaluate
from pipelines.config import ConfigError
from pipelines.figures import projections_png
from pipelines.movie_figures import movie_gif, movie_png
from pipelines.progress import Plain
from pipelines.simulate import simulate_files

METHODS = {
    "mimo_radar": ("backprojection", "l1", "tv", "pnp"),
    "tomography": ("fbp", "psm", "redpsm"),
}
SCENE = ("target=letters", "target_parameters.text=R", "target_parameters.thickness_m=0.03")
TITLES = {
    "backprojection": "back-projection",
    "l1": "l1",
    "tv": "TV",
    "pnp": "plug-and-play",
    "fbp": "FBP",
    "psm": "PSM",
    "redpsm": "RED-PSM",
}


def run_demo(modality: str, output: Path, *, seed: int, say: Callable[[str], None]) -> tuple[str, Path]:
    """Simulate a scene, image it by several methods, compare with the truth, draw.

    Args:
        modality: "mimo_radar": a letter at 0.5 m seen by crossed linear arrays; "tomography": a slice that moves, one
            projection per instant.
        output: folder for scans/, volumes/METHOD/ and the pictures.
        seed: of scene and noise.
        say: told what happens.

    Returns:
        The table of figures, and the picture; tomography leaves an animation beside it.

    Raises:
        ConfigError: a method failed, with its reason.
    """
    scan = output / "scans" / f"{modality}_0000.h5"
    if modality == "tomography":
        say(f"simulating {scan}: a slice that moves, 128 instants, one projection each")
        scene: tuple[str, ...] = ()
    else:
        say(f"simulating {scan}: a letter 0.5 m in front of two crossed linear arrays, 12 x 13 antennas, 4 to 16 GHz")
        scene = SCENE
    list(simulate_files(modality, output / "scans", seed=seed, assignments=scene, overwrite=True))
    results = {}
    for name in METHODS[modality]:
        say(f"reconstructing by {name}")
        options = batch.Options(
            inputs=(str(scan),),
            output=output / "volumes" / name,
            method=name,
            arguments=("demo", modality),
            overwrite=True,
        )
        planned = batch.plan(options)
        if batch.run(planned, options, Plain()):
            raise ConfigError(f"demo: {planned.entries[0].reason}")
        results[name] = planned.entries[0].result
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
