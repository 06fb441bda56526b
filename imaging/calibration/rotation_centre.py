"""Where the rotation axis lies on the detector, from the projections of a parallel beam alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.direct.filtered_backprojection import fbp
from imaging.errors import GeometryError, ShapeError
from imaging.operators.grid import Grid

#: Two views are opposite when their angles differ from π by less than this many mean steps.
PAIR_STEPS = 1.05
#: With so many pairs (a scan over 2π) they alone determine the axis.
ENOUGH_PAIRS = 8
MOST_PAIRS, MOST_VIEWS, MOST_ROWS, MOST_PIXELS = 256, 360, 3, 256
#: Mean value at the detector's ends, of the largest in the mean profile, above which projections count as truncated.
TRUNCATED = 0.1
#: Views over less than this leave the axis undetermined.
LEAST_RANGE = 0.85 * math.pi
#: Profiles are smoothed by a Gaussian of this standard deviation, in bins, before they are registered.
SMOOTH_BINS = 1.5


@dataclass(frozen=True)
class RotationCentre:
    """The rotation axis and how it was found.

    Args:
        axis_offset_m: detector coordinate of the axis, metres, as `ParallelBeam` and `fbp` take it.
        axis_column: the same as a column number, 0 for the centre of the first column.
        starts_m: detector coordinate by each direct estimate that could be made: "pairs", "moments".
        offsets_m, scores: of the last search, float64 (n,), least at the axis; empty where none was made.
        method: in words, for the log and the result file.
    """

    axis_offset_m: float
    axis_column: float
    starts_m: Mapping[str, float]
    offsets_m: Tensor
    scores: Tensor
    method: str


def find_rotation_centre(y: Tensor, angles_rad: Tensor, columns_m: Tensor) -> RotationCentre:
    """Find the rotation axis of a parallel scan over π or 2π.

    2π: opposite views are mirror images; the peak of their cross-correlation is the axis. π: the centres of mass of the
    views give a start, or the few nearly opposite views, or a search over the middle half of the detector; then
    the axis minimises ∫|f| of the filtered back-projection f, for attenuation is not negative and a wrong axis makes
    negative values (steps of a quarter bin and a parabola). Where the projections are truncated neither mass nor ∫|f|
    holds, and opposite views decide alone.

    Args:
        y: line integrals, real, (n_view, nz, n_bin); three rows, evenly spread, are used.
        angles_rad: (n_view,), any order. columns_m: (n_bin,), metres, evenly spaced.

    Returns:
        RotationCentre; `method` says how sure it is.

    Raises:
        ShapeError: y does not fit.
        GeometryError: the views cover much less than π; truncated projections without opposite views.

    Source: Donath, Beckmann and Schreyer (2006), J. Opt. Soc. Am. A 23, 1048: score Q_IA. Moments: the first
        Helgason-Ludwig condition, as in Azevedo et al. (1990), IEEE Trans. Nucl. Sci. 37, 1525.
    """
    angles, n = angles_rad.to("cpu", torch.float64), y.shape[-1]
    if y.ndim != 3 or y.shape[0] != len(angles_rad) or n != len(columns_m):
        raise ShapeError(
            f"find_rotation_centre y: expected ({len(angles_rad)}, nz, {len(columns_m)}), got {tuple(y.shape)}; axes "
            "are projection, detector_row, detector_column"
        )
    covered = _covered(angles, math.pi)
    if covered < LEAST_RANGE or n < 8:
        raise GeometryError(
            f"find_rotation_centre: expected views over about 180 degrees and 8 bins or more, found "
            f"{math.degrees(covered):.0f} degrees and {n} bins; give the axis by hand"
        )
    y = y.index_select(1, _spread(y.shape[1], MOST_ROWS).to(y.device)).to(torch.float32)  # scores need no more
    pairs, moments, truncated = axis_from_pairs(y, angles), axis_from_moments(y, angles), _truncated(y)
    starts = {"pairs": pairs, "moments": None if truncated else moments}
    known = {name: c for name, c in starts.items() if c is not None and 0 < c < n - 1}
    offsets = scores = torch.empty(0, dtype=torch.float64)

    n_pairs = len(_opposite(angles)[0])
    if pairs is not None and (truncated or n_pairs >= ENOUGH_PAIRS):
        best, words = pairs, f"cross-correlation of {n_pairs} pairs of opposite views"
        if n_pairs < ENOUGH_PAIRS:
            words += " alone, the projections being truncated; check the image"
    elif truncated:
        raise GeometryError(
            "find_rotation_centre: expected whole projections or opposite views, found projections cut off at the "
            "detector's ends over less than 180 degrees; give the axis by hand"
        )
    else:
        views = torch.argsort(angles)[_spread(len(angles), MOST_VIEWS)]
        some, at = y[views.to(y.device)], angles[views]
        start = known.get("moments", known.get("pairs"))
        words = "centres of mass" if "moments" in known else "opposite views"
        if start is None:
            start, words = _coarse(some, at), "a search over the middle half of the detector"
        best, offsets, scores = _refined(lambda c, radius: _negativity(some, at, c, radius), start, n)
        refined = len(scores) > 0
        words += ", refined by least ∫|f|" if refined else "; ∫|f| has no minimum near it, so check the image"
    first, step = float(columns_m[0]), float(columns_m[-1] - columns_m[0]) / (n - 1)
    known_m = {name: first + step * c for name, c in known.items()}
    return RotationCentre(first + step * best, best, known_m, first + step * offsets, scores, words)


def axis_from_pairs(y: Tensor, angles_rad: Tensor) -> float | None:
    """Axis column from views π apart, one being the mirror image of the other: peak of their cross-correlation.

    Args:
        y: (n_view, nz, n_bin). angles_rad: (n_view,).

    Returns:
        column number, to a fraction of a bin; None where no view has an opposite.
    """
    one_of, other_of = _opposite(angles_rad.to("cpu", torch.float64))
    if len(one_of) == 0:
        return None
    n = y.shape[-1]
    # The slope of the profiles: a constant background does not pull the peak to zero shift.
    one = torch.diff(y[one_of.to(y.device)].to("cpu", torch.float64))
    other = torch.diff(y[other_of.to(y.device)].to("cpu", torch.float64).flip(-1))
    length = 2 * n
    frequency = torch.fft.rfftfreq(length, dtype=torch.float64)
    low_pass = torch.exp(-((2 * math.pi * frequency * SMOOTH_BINS) ** 2))  # of both profiles together
    spectrum = (torch.fft.rfft(one, length) * torch.fft.rfft(other, length).conj()).sum((0, 1)) * low_pass
    peak = float(torch.fft.irfft(spectrum, length).argmax())
    for stride in (0.1, 0.01):  # the same correlation between the samples
        shifts = peak + stride * torch.arange(-12, 13, dtype=torch.float64)
        turn = torch.exp(2j * math.pi * frequency * shifts[:, None])
        peak = float(shifts[(turn * spectrum).real.sum(-1).argmax()])
    shift = peak if peak < n else peak - length
    return (shift + n - 1) / 2


def axis_from_moments(y: Tensor, angles_rad: Tensor) -> float | None:
    """Axis column from the centres of mass of the views, which follow c + a cos θ + b sin θ.

    Args:
        y: (n_view, nz, n_bin), not truncated. angles_rad: (n_view,), over more than about π / 2.

    Returns:
        column number; None where a view holds no mass or the centres do not follow the law.
    """
    profile = y.to("cpu", torch.float64).sum(1)
    mass = profile.sum(1)
    if len(mass) < 4 or float(mass.median()) <= 0 or bool((mass < 0.5 * mass.median()).any()):
        return None
    n = y.shape[-1]
    centre = profile @ torch.arange(n, dtype=torch.float64) / mass
    angles = angles_rad.to("cpu", torch.float64)
    law = torch.stack((torch.ones_like(angles), torch.cos(angles), torch.sin(angles)), dim=1)
    solution = torch.linalg.lstsq(law, centre[:, None]).solution
    error = float((law @ solution - centre[:, None]).square().mean().sqrt())
    return float(solution[0]) if error < 0.02 * n else None


def _opposite(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Views and their opposites, each pair once, best pairs first."""
    apart = (angles[None, :] - angles[:, None] - math.pi).remainder(2 * math.pi)
    error, opposite = torch.minimum(apart, 2 * math.pi - apart).min(dim=1)
    scanned = 2 * math.pi if _covered(angles, 2 * math.pi) > 1.5 * math.pi else math.pi
    found = torch.nonzero(error <= PAIR_STEPS * scanned / len(angles))[:, 0]
    mutual = opposite[opposite[found]] == found
    found = found[~mutual | (found < opposite[found])]
    found = found[torch.argsort(error[found], stable=True)][:MOST_PAIRS]
    return found, opposite[found]


def _truncated(y: Tensor) -> bool:
    profile = y.mean((0, 1))
    edge = max(float(profile[:3].mean()), float(profile[-3:].mean()))
    return edge > TRUNCATED * float(profile.max())


def _refined(score: Callable[[float, float], float], start: float, n: int) -> tuple[float, Tensor, Tensor]:
    """The least score near `start`: (column, columns, scores); no scores and `start` where the least is at an end."""
    best = start
    for reach, stride in ((6.0, 1.5), (2.0, 0.5), (1.0, 0.25)):
        columns = best + torch.arange(-reach, reach + stride / 2, stride, dtype=torch.float64)
        radius = 0.95 * min(float(columns[0]), n - 1 - float(columns[-1]))
        if radius < 4:
            return start, torch.empty(0), torch.empty(0)
        scores = torch.tensor([score(float(c), radius) for c in columns], dtype=torch.float64)
        i = int(scores.argmin())
        if i in (0, len(scores) - 1):
            return start, torch.empty(0), torch.empty(0)
        best = float(columns[i])
    a, b, c = (float(v) for v in scores[i - 1 : i + 2])
    bend = a - 2 * b + c
    return best + (0.5 * (a - c) / bend * stride if bend > 0 else 0.0), columns, scores


def _coarse(y: Tensor, angles: Tensor) -> float:
    """Best column of the detector's middle half, on bins put together."""
    n = y.shape[-1]
    factor = max(1, n // 128)
    binned = y[..., : n // factor * factor].unflatten(-1, (-1, factor)).mean(-1)
    columns = torch.arange(n / 4, 3 * n / 4, factor, dtype=torch.float64).tolist()
    radius = binned.shape[-1] / 2
    return min(columns, key=lambda c: _negativity(binned, angles, (c - (factor - 1) / 2) / factor, radius))


def _negativity(y: Tensor, angles: Tensor, column: float, radius: float) -> float:
    """∫|f| over a disc around the axis, in bins; least where f has no negative values."""
    n = y.shape[-1]
    pixels = max(8, min(MOST_PIXELS, math.ceil(2 * radius)))
    spacing = 2 * radius / pixels
    edge = -(pixels - 1) / 2 * spacing
    grid = Grid((0.0, edge, edge), (1.0, spacing, spacing), (y.shape[1], pixels, pixels))
    f = fbp(y, angles, torch.arange(n, dtype=torch.float64), grid, axis_offset_m=column, window="hann")
    at = edge + spacing * torch.arange(pixels, dtype=f.dtype, device=f.device)
    return float(f[:, at[:, None] ** 2 + at**2 <= radius**2].abs().sum(dtype=torch.float64)) * spacing**2


def _covered(angles: Tensor, period: float) -> float:
    """The period less its largest gap, plus one mean step."""
    folded = angles.remainder(period).sort().values
    gaps = torch.cat((torch.diff(folded), folded[:1] + period - folded[-1:]))
    measured = period - float(gaps.max())
    return measured + measured / max(len(angles) - 1, 1)


def _spread(n: int, most: int) -> Tensor:
    return torch.linspace(0, n - 1, min(n, most), dtype=torch.float64).round().long()
