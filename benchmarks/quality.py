"""Image quality of every method on the SX test volumes, beside the reference figures: `make bench-quality`.

Ten volumes (seed 2), 12 x 13 crossed antennas, 4 to 16 GHz, methods as `backcast reconstruct` runs them with their
defaults. Each cell is the mean over the volumes of

    PSNR, image divided by its peak / PSNR after the least-squares gain / 3-D SSIM / 2-D SSIM over range bins

Reference figures are those of an independent implementation (NF 8.2): direct methods over ten volumes, l1 and TV over
the first six of them, each at the best iteration that was published; ours stop by their own rule, which does not see
the truth, and are then averaged over the same volumes. The defaults were chosen on other volumes (seed 1).

    python benchmarks/quality.py [--markdown FILE] [--volumes N] [--method NAME]...
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from data.measurement import Measurement
from data.phantoms import sx
from data.simulate import MimoRadarSimulation, circular_noise, mimo_radar, noise_std
from imaging.metrics import psnr, ssim
from imaging.operators import Grid, NearFieldMimo
from pipelines.reconstruct import reconstruct

CUBE = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), (49, 25, 25))
SCENARIOS = [(5, 30.0), (10, 30.0), (20, 30.0), (40, 30.0), (20, 10.0), (20, 0.0)]
METHODS = ["backprojection", "kirchhoff", "l1", "tv", "pnp"]
REFERENCE = {  # NF 8.2, PSNR of the peak-normalised image in dB
    "backprojection": {(5, 30): 17.67, (10, 30): 20.04, (20, 30): 23.30, (20, 10): 23.14, (20, 0): 22.10},
    "kirchhoff": {(5, 30): 19.17, (10, 30): 20.92, (20, 30): 24.06, (20, 10): 23.74, (20, 0): 21.68},
    "l1": {(5, 30): 24.77, (10, 30): 26.04, (20, 30): 26.79, (20, 0): 26.44},
    "tv": {(5, 30): 19.20, (10, 30): 22.14, (20, 30): 25.74, (20, 0): 23.53},
}
FIRST = {"backprojection": 10, "kirchhoff": 10, "l1": 6, "tv": 6}  # volumes behind the reference


def measurements(n_freq: int, snr_db: float, n: int) -> list[Measurement]:
    """The test volumes as `sx` draws them in one go, seen by the simulated array."""
    base = mimo_radar(MimoRadarSimulation(n_frequencies=n_freq, snr_db=snr_db, seed=0))
    A = NearFieldMimo(
        torch.as_tensor(base.geometry["tx_positions"]),
        torch.as_tensor(base.geometry["rx_positions"]),
        torch.as_tensor(base.scale("frequency")),
        CUBE,
    )
    result = []
    for i, volume in enumerate(sx(np.random.default_rng(2), 10, CUBE)[:n]):
        clean = A(volume).numpy()
        sigma = noise_std(clean, snr_db)
        y = clean + sigma * circular_noise(np.random.default_rng([3, i]), clean.shape)
        assert base.ground_truth is not None
        truth = dataclasses.replace(base.ground_truth, data=volume.numpy().reshape(base.ground_truth.data.shape))
        result.append(dataclasses.replace(base, data=y[None].astype(np.complex64), noise_std=sigma, ground_truth=truth))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    parser.add_argument("--volumes", type=int, default=10)
    parser.add_argument("--method", action="append", choices=METHODS, help="repeatable; all without")
    given = parser.parse_args()
    lines = [
        "| frequencies | SNR dB | method | PSNR peak | PSNR gain | SSIM 3-D | SSIM 2-D "
        "| PSNR, first volumes | reference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for n_freq, snr_db in SCENARIOS:
        files = measurements(n_freq, snr_db, given.volumes)
        truth = torch.cat([torch.as_tensor(m.ground_truth.data).reshape(1, *CUBE.shape) for m in files])  # type: ignore[union-attr]
        for method in given.method or METHODS:
            images = torch.cat(
                [torch.as_tensor(reconstruct(m, method).volume.data).reshape(1, *CUBE.shape) for m in files]
            )
            peak = psnr(images, truth)
            figures = (
                float(peak.mean()),
                float(psnr(images, truth, normalise="gain").mean()),
                float(ssim(images, truth, dims=3).mean()),
                float(ssim(images, truth, dims=2).mean()),
            )
            reference = REFERENCE.get(method, {}).get((n_freq, int(snr_db)))
            same = f"{float(peak[: FIRST[method]].mean()):.2f}" if reference else ""
            lines.append(
                f"| {n_freq} | {snr_db:g} | {method} | {figures[0]:.2f} | {figures[1]:.2f} | {figures[2]:.3f} | "
                f"{figures[3]:.3f} | {same} | {reference or ''} |"
            )
            print(lines[-1], flush=True)
    if given.markdown:
        given.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
