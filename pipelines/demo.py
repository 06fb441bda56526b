"""The whole way in one go: simulate, reconstruct by several methods, evaluate, draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data import read_measurement, read_reconstruction
from pipelines import batch, evaluate
from pipelines.config import ConfigError
from pipelines.figures import projections_png
from pipelines.progress import Plain
from pipelines.simulate import simulate_files

METHODS = ("backprojection", "l1", "tv", "pnp")
SCENE = ("target=letters", "target_parameters.text=R", "target_parameters.thickness_m=0.03")
TITLES = {"backprojection": "back-projection", "l1": "l1", "tv": "TV", "pnp": "plug-and-play"}


def run_demo(modality: str, output: Path, *, seed: int, say: Callable[[str], None]) -> tuple[str, Path]:
    """Simulate a scene, image it by back-projection, l1, TV and plug-and-play, compare with the truth, draw.

    Args:
        modality: "mimo_radar".
        output: folder for scans/, volumes/METHOD/ and the picture; results that are current are kept.
        seed: of scene and noise.
        say: told what happens.

    Returns:
        The table of figures, and the picture: a letter at 0.5 m seen by the crossed linear arrays.

    Raises:
        ConfigError: a method failed, with its reason.
    """
    scan = output / "scans" / f"{modality}_0000.h5"
    say(f"simulating {scan}: a letter 0.5 m in front of two crossed linear arrays, 12 x 13 antennas, 4 to 16 GHz")
    list(simulate_files(modality, output / "scans", seed=seed, assignments=SCENE, overwrite=True))
    results = {}
    for name in METHODS:
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
    picture = output / f"{modality}.png"
    projections_png(
        picture,
        {"truth": truth, **{TITLES[name]: read_reconstruction(path).volume for name, path in results.items()}},
        title="One letter, 3120 samples, 30 625 voxels: maximum-intensity projections",
        captions={
            "truth": "30 dB signal-to-noise ratio",
            **{
                TITLES[name]: f"PSNR {e.value('psnr'):.1f} dB, SSIM {e.value('ssim'):.2f}"
                for name, e in figures.items()
            },
        },
    )
    return evaluate.table(list(figures.values())), picture
