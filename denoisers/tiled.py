"""A denoiser on volumes larger than memory lets it see at once: overlapping tiles, cross-faded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from denoisers.errors import DenoiserError
from denoisers.wrappers import (
    Sigma,
    call,
    check_call,
    check_count,
    check_inner,
    is_per_image,
    reach_of,
    takes_sigma_per_image,
)
from imaging.priors.protocols import Denoiser

PerAxis = int | tuple[int, int, int]

#: Voxels that neighbours share when inner does not say how far it looks.
UNKNOWN_OVERLAP = 24


@dataclass(frozen=True)
class _Span:
    """A tile along one axis: it sees voxels [start, stop), and gives [first, last) of them with these weights."""

    start: int
    stop: int
    first: int
    last: int
    weight: Tensor  # (last - first,), float64

    @property
    def seen(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def given(self) -> slice:
        return slice(self.first, self.last)

    @property
    def given_in_tile(self) -> slice:
        return slice(self.first - self.start, self.last - self.start)


_Box = tuple[_Span, ...]


@dataclass(frozen=True)
class Tiled:
    """inner on overlapping tiles, blended; beside v and the result, memory holds `batch` tiles and inner's own.

    A tile gives `tile` voxels and sees more on each side, which its neighbours give. Of what two neighbours share,
    `margin` at each interior border, where inner lacks context, are dropped, and the rest is cross-faded linearly. The
    weights of all tiles add up to 1. An inner whose output depends on at most `margin` voxels in each direction gives
    the untiled result exactly; one that says how far it looks, as `reach`, is given that by default.

    Tiles start and end at multiples of `align`, so that the pooling grid of a network is that of the whole volume; the
    last one ends where the volume ends, and there inner pads what it would pad without tiles. A volume no larger than
    a tile goes to inner as it is, with its whole batch (Chunked bounds that); larger ones one by one. Gradients are not
    recorded.

    inner must not depend on the tile's content as a whole: one that divides by the peak of what it is given makes
    seams. Normalise outside: ``ScaleEquivariant(Tiled(network))``, never the other way round.

    Args:
        inner: a denoiser of volumes, or of images for 2D input.
        tile: voxels that a tile gives at most, a multiple of `align`; an integer, or one per axis (z, y, x). It sees
            half of `overlap` more on each side, to the next multiple of `align`.
        overlap: voxels that neighbours share at least; by default twice inner's `reach`, or 24 if it has none.
        align: tiles start at its multiples; the product of a network's pooling strides, or a multiple of it.
        margin: voxels dropped at interior borders, at most half of `overlap`; by default inner's `reach` as far as
            that goes, or 3/8 of `overlap` if it has none.
        batch: tiles of equal shape per call of inner; >= 1.
        device: where inner computes, if not where v lies; tiles go there and back one call at a time.

    v: real (batch, nz, ny, nx), or (batch, ny, nx), for which the last two of three values count; sigma: in v's
    units. The result lies on v's device.

    Raises:
        DenoiserError: of the arguments, or inner changed shape or dtype.
    """

    inner: Denoiser
    tile: PerAxis = 48
    overlap: PerAxis | None = None
    align: PerAxis = 8
    margin: PerAxis | None = None
    batch: int = 1
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_inner("Tiled", self.inner)
        check_count("Tiled", "batch", self.batch, 1, "it counts tiles per call")
        for tile, overlap, align, margin in self._per_axis():
            if tile % align or tile == 0:
                raise DenoiserError(f"Tiled tile: expected a multiple of align = {align}, got {tile}")
            if 2 * margin > overlap:
                raise DenoiserError(
                    f"Tiled margin: expected at most half of overlap = {overlap}, got {margin}; neighbours would leave "
                    "a gap"
                )

    @property
    def takes_sigma_per_image(self) -> bool:
        return takes_sigma_per_image(self.inner)

    @torch.no_grad()
    def __call__(self, v: Tensor, sigma: Sigma) -> Tensor:
        check_call("Tiled", v, sigma, per_image=self.takes_sigma_per_image)
        sizes = v.shape[1:]
        rules = self._per_axis()[-len(sizes) :]
        spans = [_cut(n, *rule) for n, rule in zip(sizes, rules, strict=True)]
        if all(len(parts) == 1 for parts in spans):
            return self._inner(v, sigma)
        out = torch.zeros_like(v)
        for i, boxes in itertools.product(range(len(v)), list(_equal_shapes(spans, self.batch))):
            tiles = torch.stack([v[i][tuple(span.seen for span in box)] for box in boxes])  # a copy, contiguous
            told = sigma[i].expand(len(boxes)) if is_per_image(sigma) else sigma
            for box, tile in zip(boxes, self._inner(tiles, told), strict=True):
                out[i][tuple(span.given for span in box)] += _faded(tile, box)
        return out

    def _inner(self, v: Tensor, sigma: Sigma) -> Tensor:
        device = v.device if self.device is None else self.device
        told = sigma.to(device) if is_per_image(sigma) else sigma
        return call("Tiled", self.inner, v.to(device), told).to(v.device)

    def _per_axis(self) -> list[tuple[int, int, int, int]]:
        """(tile, overlap, align, margin) for z, y, x."""
        align = _triple("align", self.align, 1)
        tile = _triple("tile", self.tile, 1)
        reach = reach_of(self.inner)
        default = UNKNOWN_OVERLAP if reach is None else 2 * reach
        overlap = _triple("overlap", default if self.overlap is None else self.overlap, 0)
        if self.margin is not None:
            margin = _triple("margin", self.margin, 0)
        else:
            margin = tuple(3 * o // 8 if reach is None else min(reach, o // 2) for o in overlap)
        return list(zip(tile, overlap, align, margin, strict=True))


def _triple(name: str, value: PerAxis, least: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * 3
    if len(values) != 3:
        raise DenoiserError(f"Tiled {name}: expected an integer or three, for z, y, x, got {value!r}")
    for one in values:
        check_count("Tiled", name, one, least, "it counts voxels along an axis")
    return values


def _cut(n: int, tile: int, overlap: int, align: int, margin: int) -> list[_Span]:
    """The fewest tiles for n voxels, evenly spread on the multiples of align."""
    n_tiles, n_steps = -(-n // tile), -(-n // align)
    turns = [i * n_steps // n_tiles * align for i in range(1, n_tiles)]  # where a tile takes over from its predecessor
    beyond, fade = -(-overlap // 2), overlap - 2 * margin
    x = torch.arange(n, dtype=torch.float64)
    begins = [turn - fade // 2 for turn in turns]
    rises = [torch.ones_like(x), *(((x - begin + 1) / (fade + 1)).clamp(0, 1) for begin in begins), torch.zeros_like(x)]
    spans = []
    for i in range(n_tiles):
        start = max(0, (turns[i - 1] - beyond) // align * align) if i > 0 else 0
        stop = min(n, -(-(turns[i] + beyond) // align) * align) if i < n_tiles - 1 else n
        first = max(0, begins[i - 1]) if i > 0 else 0
        last = min(n, begins[i] + fade) if i < n_tiles - 1 else n
        weight = (rises[i] - rises[i + 1])[first:last]  # telescopes: the sum over tiles is 1 everywhere
        spans.append(_Span(start, stop, first, last, weight))
    return spans


def _equal_shapes(spans: list[list[_Span]], count: int) -> Iterator[list[_Box]]:
    """All tiles, in groups of at most `count` of equal shape."""

    def shape(box: _Box) -> tuple[int, ...]:
        return tuple(span.stop - span.start for span in box)

    for _, group in itertools.groupby(sorted(itertools.product(*spans), key=shape), key=shape):
        boxes = list(group)
        for i in range(0, len(boxes), count):
            yield boxes[i : i + count]


def _faded(tile: Tensor, box: _Box) -> Tensor:
    """What a denoised tile gives, times its weights."""
    piece = tile[tuple(span.given_in_tile for span in box)]
    for axis, span in enumerate(box):
        piece = piece * span.weight.to(tile).view(-1, *(1,) * (len(box) - 1 - axis))
    return piece
