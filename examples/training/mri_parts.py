"""Images for mri-2d: slices of a head with other contrasts, as magnitudes and as parts of complex images.

    python examples/training/mri_parts.py HEAD.nii.gz runs/mri-parts
    python examples/training/mri_parts.py HEAD.nii.gz runs/mri-magnitudes --magnitudes

Writes .npy volumes (slice, y, x) of uint8, 0 to 255 standing for 0 to 1. Of every four one holds magnitudes, the others
real parts p of |x| exp(jφ) as (p + 1) / 2, φ a smooth random phase: what a denoiser of real and imaginary parts sees.
With --magnitudes all hold magnitudes, for mri-2d-complex, whose training adds the phase.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.training.read_volumes import read_volumes

VOLUMES = 24
#: Knots of a contrast curve, which maps 0 to 0 and is drawn anew for every volume.
KNOTS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path, help="a volume of a head, any format that training reads")
    parser.add_argument("output", type=Path, help="folder for the volumes")
    parser.add_argument("--magnitudes", action="store_true", help="no parts")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    head = np.asarray(read_volumes(given.head, None)[1][0], dtype=np.float32)
    head = np.clip(head / np.percentile(head, 99.9), 0, 1)
    given.output.mkdir(parents=True, exist_ok=True)
    for index in range(VOLUMES):
        g = np.random.default_rng((given.seed, index))
        image = contrast(head, g).transpose(np.roll((0, 1, 2), index % 3))
        if index % 4 and not given.magnitudes:
            image = (image * np.cos(phase(image.shape, g)) + 1) / 2
        np.save(given.output / f"parts_{index:02d}.npy", np.round(255 * image).astype(np.uint8))


def contrast(image: NDArray[np.float32], g: np.random.Generator) -> NDArray[np.float32]:
    """The image through a random piecewise linear curve, every third time through none; peak 1."""
    if g.random() < 1 / 3:
        return image
    values = np.concatenate(([0.0], g.uniform(0.05, 1.0, KNOTS)))
    curved = np.interp(image, np.linspace(0, 1, KNOTS + 1), values / values.max())
    return np.asarray(curved, dtype=np.float32)


def phase(shape: tuple[int, ...], g: np.random.Generator) -> NDArray[np.float32]:
    """Some waves of one or two periods, up to ±π and an offset."""
    axes = np.meshgrid(*(np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in shape), indexing="ij")
    total = np.zeros(shape, dtype=np.float32)
    for _ in range(4):
        k = g.uniform(-2, 2, 3)
        angle = sum(float(w) * a for w, a in zip(2 * np.pi * k, axes, strict=True))
        total += np.float32(g.normal()) * np.cos(angle + g.uniform(0, 2 * np.pi), dtype=np.float32)
    return np.asarray(total * np.pi / np.abs(total).max() + g.uniform(0, 2 * np.pi), dtype=np.float32)


if __name__ == "__main__":
    main()
