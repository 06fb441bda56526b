"""How much each view, and each ray of a fan, counts: quadrature over irregular angles, redundancy of rays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imaging.errors import GeometryError

#: Angles closer than this are the same view.
SAME_RAD = 1e-7
#: A gap counts as unmeasured when it exceeds (ln n + 4) mean gaps, which random angles do in 2 % of scans.
GAP_EXCESS = 4.0
MOST_GAPS = 3


@dataclass(frozen=True)
class Coverage:
    """Which part of a period the views measure, and the weight of each.

    Args:
        weights_rad: quadrature weight of each view, float64 (n_view,), in the order given; their sum is the measured
            part of the period: π or 2π for a complete scan, less for a limited range.
        arcs_rad: (first, last) of each measured stretch, radians, last > first; empty for a complete period.
        period_rad: π or 2π.
    """

    weights_rad: Tensor
    arcs_rad: tuple[tuple[float, float], ...]
    period_rad: float

    @property
    def complete(self) -> bool:
        return not self.arcs_rad


def view_weights(angles_rad: Tensor, period_rad: float) -> Coverage:
    """Quadrature weights of views at any angles: half the way to either neighbour on the circle of length `period_rad`.

    Views at the same angle share one weight. A gap is left unmeasured, not shared out between its two ends, when it is
    among the three largest and exceeds (ln n + 4) times the mean of the smaller gaps: longer than random angles would
    leave. The views at its ends then count as far beyond their angle as the median gap reaches. What is unmeasured
    stays out of the image: a limited range gives the image of the measured directions, lower and streaked, which no
    weighting mends.

    Args:
        angles_rad: (n_view,), any order, repeated or not.
        period_rad: π for parallel rays (a view and its opposite see the same), 2π for a fan.

    Raises:
        GeometryError: no angle, or one that is not finite.

    Source: Voronoi weights on a circle, the midpoint rule for irregular nodes.
    """
    if angles_rad.ndim != 1 or len(angles_rad) == 0 or not bool(torch.isfinite(angles_rad).all()):
        raise GeometryError(f"angles_rad: expected finite numbers, one axis, got shape {tuple(angles_rad.shape)}")
    folded = angles_rad.detach().to("cpu", torch.float64).remainder(period_rad)
    order = torch.argsort(folded)
    ordered = folded[order]
    fresh = torch.cat((torch.ones(1, dtype=torch.bool), torch.diff(ordered) > SAME_RAD))
    group = fresh.cumsum(0) - 1
    nodes = ordered[fresh]
    if len(nodes) > 1 and float(nodes[0]) + period_rad - float(nodes[-1]) <= SAME_RAD:  # 0 and period - rounding
        group = torch.where(group == len(nodes) - 1, 0, group)
        nodes = nodes[:-1]
    n = len(nodes)
    gaps = torch.cat((torch.diff(nodes), nodes[:1] + period_rad - nodes[-1:]))  # after node i, cyclic
    unmeasured = _unmeasured(gaps)
    after = gaps.clone()
    after[unmeasured] = gaps[~unmeasured].median()
    node_weights = (after + after.roll(1)) / 2
    shared = node_weights / torch.bincount(group, minlength=n)
    weights = torch.empty_like(folded)
    weights[order] = shared[group]
    return Coverage(weights, _arcs(nodes, after, unmeasured, period_rad), period_rad)


def _unmeasured(gaps: Tensor) -> Tensor:
    """Which gaps are too long to be chance, bool (n,)."""
    n = len(gaps)
    found = torch.zeros(n, dtype=torch.bool)
    if n < 3:
        return found
    largest = torch.argsort(gaps, descending=True)
    for k in range(min(MOST_GAPS, n - 2), 0, -1):
        rest = float(gaps[largest[k:]].mean())
        if float(gaps[largest[k - 1]]) > (math.log(n) + GAP_EXCESS) * rest:
            found[largest[:k]] = True
            break
    return found


def _arcs(nodes: Tensor, after: Tensor, unmeasured: Tensor, period: float) -> tuple[tuple[float, float], ...]:
    ends = torch.nonzero(unmeasured)[:, 0].tolist()
    arcs = []
    for i, end in enumerate(ends):
        last = ends[i - 1]  # the gap before the stretch that ends here
        start = (last + 1) % len(nodes)
        first_rad = float(nodes[start]) - float(after[last]) / 2
        last_rad = float(nodes[end]) + float(after[end]) / 2
        if last_rad <= first_rad:
            last_rad += period
        arcs.append((first_rad, last_rad))
    return tuple(arcs)


def fan_redundancy(angles_rad: Tensor, fan_rad: Tensor, coverage: Coverage) -> Tensor:
    """Share of each ray of a fan in the line that it measures: a ray and its opposite sum to 1, a lonely one is 1.

    The ray at fan angle γ of view θ is seen again at view θ + π - 2γ, fan angle -γ. Its share is
    c(θ) / (c(θ) + c(θ + π - 2γ)), with c = 0 where nothing is measured, rising as sin² from the ends of each measured
    stretch over its excess above π (at least the fan's opening, at most half the stretch). A complete circle has c = 1
    and shares 1/2; π plus the fan's opening gives shares close to Parker's; every range between them, several
    stretches, and too short a range (some lines are then missing) are the same formula.

    Args:
        angles_rad: (n_view,). fan_rad: γ of each column, (n_bin,), positive towards larger columns.
        coverage: of the angles, period 2π.

    Returns:
        (n_view, n_bin), float64 in [0, 1].

    Source: Noo, Defrise, Clackdoyle and Kudo (2002), Phys. Med. Biol. 47, 2525, weighting m = c / Σ c; Parker (1982),
        Med. Phys. 9, 254, for the short scan. We taper over the whole excess, as Parker does, for Noo's filter bears
        steeper weights than the ramp filter does.
    """
    theta = angles_rad.to(torch.float64)[:, None]
    gamma = fan_rad.to(torch.float64)[None, :]
    if coverage.complete:
        return torch.full((theta.shape[0], gamma.shape[1]), 0.5, dtype=torch.float64)
    opening = 2 * float(gamma.abs().max())
    own = _confidence(theta, coverage, opening)
    other = _confidence(theta + math.pi - 2 * gamma, coverage, opening)
    total = own + other
    return torch.where(total > 0, own / total.clamp_min(torch.finfo(torch.float64).tiny), 1.0)


def _confidence(theta: Tensor, coverage: Coverage, opening: float) -> Tensor:
    c = torch.zeros_like(theta)
    for first, last in coverage.arcs_rad:
        length = last - first
        taper = min(max(length - math.pi, opening), length / 2)
        into = (theta - first).remainder(coverage.period_rad)
        edge = torch.minimum(into, length - into)
        c = torch.maximum(c, torch.sin(math.pi / 2 * (edge / taper).clamp(0, 1)) ** 2)
    return c


def offset_detector_shares(fan_rad: Tensor, overlap_rad: float) -> Tensor:
    """Share of each column of a detector that reaches farther to one side, in a scan over 2π.

    Within ± `overlap_rad` a line is seen twice, beyond it once: 0 to 1 as ½ (1 ± sin(π γ / 2 overlap)), 1 beyond on
    the long side. A parallel beam has column positions in place of angles (γ → u).

    Args:
        fan_rad: γ of each column, (n_bin,). overlap_rad: reach of the shorter side, > 0.

    Source: Wang (2002), Med. Phys. 29, 1634, (7), with the sign of the longer side.
    """
    gamma = fan_rad.to(torch.float64)
    long_side = 1.0 if float(gamma[-1]) > -float(gamma[0]) else -1.0
    inner = (gamma / overlap_rad).clamp(-1, 1)
    return 0.5 * (1 + long_side * torch.sin(math.pi / 2 * inner))
