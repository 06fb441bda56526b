"""Synthetic images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from data.phantoms.soften import smooth_field, soften
from data.training.sampling import Floats, Synthetic

IMAGE_KINDS: Mapping[str, int] = {"ellipses": 20, "polygons": 21, "texture": 22, "gradients": 23}


class SyntheticImages(Synthetic):
    """Random crops of synthetic images in [0, 1]: `SyntheticVolumes` in two dimensions.

    Any axis may be exchanged and flipped. Images are made when first needed and kept as float16.

    Args:
        mix: weight >= 0 of each kind: ellipses (overlapping, added or taken away, some shaded), polygons, texture (a
            smooth random field cut at several levels, like tissue or foam), gradients (slow changes).
        shape: of a crop, ny, nx.
        seed: >= 0.
        split: "train" or "validation"; their images differ.
        image_shape: of a whole image, ny, nx.
        n_images: per kind; also `len`, which limits no index.
        augment: exchanged axes, flips, amplitudes; no effect on validation.

    Returns:
        item: float32 of `shape`, in [0, 1], unitless.

    Raises:
        SimulationError: unknown kind or split, a negative weight or seed, or a shape without two counts >= 1.
    """

    code = IMAGE_KINDS
    tied = frozenset()

    def __init__(
        self,
        mix: Mapping[str, float],
        shape: Sequence[int],
        *,
        seed: int,
        split: str = "train",
        image_shape: Sequence[int] = (128, 128),
        n_images: int = 4096,
        augment: bool = True,
    ) -> None:
        super().__init__(
            mix, shape, seed=seed, split=split, full_shape=image_shape, n_targets=n_images, augment=augment
        )

    def make(self, kind: str, number: int) -> Mapping[int, Floats]:
        ny, nx = self.full_shape
        rng = self.rng(kind, number)
        image = soften(BUILDERS[kind]((ny, nx), rng), rng)
        peak = float(image.max())
        return {number: image / peak if peak > 0 else image}


def ellipses(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Three to twenty ellipses in an ellipse, contrast of either sign: float32 of `shape`, in [0, 1]."""
    y, x = _plane(shape)
    image = np.zeros(shape, dtype=np.float32)
    body = _ellipse(y, x, rng.uniform(-0.1, 0.1, 2), rng.uniform(0.5, 0.9, 2), rng.uniform(0, np.pi))
    if rng.random() < 0.7:
        image += rng.uniform(0.2, 0.8) * body
    for _ in range(rng.integers(3, 21)):
        radii = np.exp(rng.uniform(np.log(0.04), np.log(0.4), 2))
        part = _ellipse(y, x, rng.uniform(-0.7, 0.7, 2), radii, rng.uniform(0, np.pi))
        if rng.random() < 0.3:
            part = part * smooth_field(rng, shape, 3)
        image += rng.uniform(0.1, 0.6) * rng.choice([-1.0, 1.0]) * part
    return np.clip(image, 0.0, 1.0) if image.max() > 0 else body


def polygons(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """One to eight convex polygons, the later on top of the earlier: float32 of `shape`, in [0, 1]."""
    y, x = _plane(shape)
    image = np.full(shape, rng.uniform(0, 0.3) if rng.random() < 0.3 else 0.0, dtype=np.float32)
    for _ in range(rng.integers(1, 9)):
        n = int(rng.integers(3, 8))
        angle = 2 * np.pi * (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n + rng.uniform(0, 2 * np.pi)
        centre, radius = rng.uniform(-0.7, 0.7, 2), np.exp(rng.uniform(np.log(0.08), np.log(0.6)))
        sides = zip(angle, radius * rng.uniform(0.6, 1, n), strict=True)
        distance = np.max([np.cos(a) * (y - centre[0]) + np.sin(a) * (x - centre[1]) - d for a, d in sides], axis=0)
        inside = np.clip(0.5 - distance * max(shape) / 2, 0, 1)
        shade = rng.uniform(0.1, 1.0)
        image += (inside * (shade - image)).astype(np.float32)
    return image if image.max() > 0.05 else np.ones(shape, dtype=np.float32)


def texture(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """A smooth random field cut at one to four levels, or its ridges: float32 of `shape`, in [0, 1]."""
    field = sum(
        w * _normal(gaussian_filter(rng.normal(size=shape).astype(np.float32), s, mode="wrap"))
        for w, s in zip((1.0, rng.uniform(0, 0.6)), np.exp(rng.uniform(np.log(1.5), np.log(10), 2)), strict=True)
    )
    field = np.asarray(field, dtype=np.float32)
    if rng.random() < 0.35:
        field = -np.abs(field)  # ridges, foam walls and folds
    levels = np.sort(np.quantile(field, rng.uniform(0.1, 0.9, int(rng.integers(1, 5)))))
    grey = rng.permutation(np.linspace(rng.uniform(0, 0.3), 1.0, len(levels) + 1)).astype(np.float32)
    width = 0.02 + 0.2 * rng.random() ** 2
    image = np.full(shape, grey[0], dtype=np.float32)
    for level, before, after in zip(levels, grey[:-1], grey[1:], strict=True):
        image += (after - before) * np.clip(0.5 + (field - level) / width, 0, 1)
    if rng.random() < 0.5:
        y, x = _plane(shape)
        image *= _ellipse(y, x, rng.uniform(-0.2, 0.2, 2), rng.uniform(0.4, 0.95, 2), rng.uniform(0, np.pi))
    return image if image.max() > 0.05 else np.ones(shape, dtype=np.float32)


def gradients(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """A ramp and a slow random field: float32 of `shape`, in [0, 1]."""
    y, x = _plane(shape)
    a, b = rng.normal(size=2)
    ramp = a * y + b * x
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-12)
    share = rng.random()
    return np.asarray(share * ramp + (1 - share) * smooth_field(rng, shape, int(rng.integers(2, 7))), dtype=np.float32)


BUILDERS: Mapping[str, Callable[[tuple[int, int], np.random.Generator], Floats]] = {
    "ellipses": ellipses,
    "polygons": polygons,
    "texture": texture,
    "gradients": gradients,
}


def _plane(shape: tuple[int, int]) -> tuple[Floats, Floats]:
    ny, nx = shape
    return (
        np.linspace(-1, 1, ny, dtype=np.float32)[:, None],
        np.linspace(-1, 1, nx, dtype=np.float32)[None, :],
    )


def _ellipse(y: Floats, x: Floats, centre: np.ndarray, radii: np.ndarray, angle: float) -> Floats:
    """1 inside, 0 outside, an edge of about a pixel."""
    u = np.cos(angle) * (y - centre[0]) + np.sin(angle) * (x - centre[1])
    v = -np.sin(angle) * (y - centre[0]) + np.cos(angle) * (x - centre[1])
    pixels = min(radii) * max(y.size, x.size) / 2
    return np.clip(0.5 - (np.hypot(u / radii[0], v / radii[1]) - 1) * pixels, 0, 1).astype(np.float32)


def _normal(field: Floats) -> Floats:
    return (field - field.mean()) / max(float(field.std()), 1e-12)
