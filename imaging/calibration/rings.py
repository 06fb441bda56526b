"""Ring artefacts: stripes along the views of a sinogram, from columns whose response is a little off."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from imaging.errors import ShapeError

RingMethod = Literal["sorting", "offset"]
#: Samples of one block of windows.
BLOCK = 2**22


def damp_rings(y: Tensor, *, method: RingMethod = "offset", size: int | None = None, threshold: float = 3.0) -> Tensor:
    """Damp the stripes that become rings.

    "offset" subtracts one number per column, the median over the views of what stands out from the running median
    across columns, where that exceeds `threshold` robust standard deviations of all such numbers. Sharp features move
    from view to view and do not count, so ring-free data come back as they were. Stripes fainter than the slope of most
    views at their column, or changing with the signal, stay.

    "sorting" sorts each column by value over the views, takes the running median of the sorted values across columns,
    and puts them back in the order of measurement. It takes out more, stripes that change with the signal included, and
    changes every sample: on ring-free discs the image by some per cent, more the wider the window and the smaller the
    object.

    Args:
        y: line integrals, (*batch, n_view, nz, n_bin), real; all views of a scan together, 20 or more.
        method: "offset" or "sorting".
        size: columns of the running median, odd, >= 3: more than twice the widest stripe, less than what the object
            shows. None takes a hundredth of the detector, at least 5.
        threshold: of "offset".

    Returns:
        as y.

    Raises:
        ShapeError: fewer than three axes, or a window wider than the detector.
        ValueError: an unknown method, or a size that is even or below 3.

    Source: "sorting": Vo, Atwood and Drakopoulos (2018), Opt. Express 26, 28396, algorithm 3. "offset": Boin and Haibel
        (2006), Opt. Express 14, 12071; differences in place of their ratios, for line integrals, a median over views
        in place of their sum, and the threshold are ours.
    """
    size = max(5, round(y.shape[-1] / 200) * 2 + 1) if size is None else size
    if method not in get_args(RingMethod):
        raise ValueError(f"damp_rings method: expected one of {', '.join(get_args(RingMethod))}, got {method!r}")
    if size < 3 or size % 2 == 0:
        raise ValueError(f"damp_rings size: expected an odd number of columns >= 3, got {size}")
    if y.ndim < 3 or y.shape[-1] < size:
        raise ShapeError(
            f"damp_rings y: expected (..., n_view, nz, n_bin) with at least {size} bins, got {tuple(y.shape)}; "
            "a smaller size fits a smaller detector"
        )
    if method == "sorting":
        ordered, order = y.sort(dim=-3)
        return torch.empty_like(y).scatter_(-3, order, running_median(ordered, size))
    stripe = (y - running_median(y, size)).median(dim=-3, keepdim=True).values
    spread = 1.4826 * stripe.abs().median(dim=-1, keepdim=True).values
    return y - torch.where(stripe.abs() > threshold * spread, stripe, 0.0)


def running_median(y: Tensor, size: int) -> Tensor:
    """Median over `size` neighbours along the last axis, the ends mirrored.

    Args:
        y: (*batch, n), n >= size. size: odd.
    """
    flat = y.reshape(-1, y.shape[-1])
    half = size // 2
    rows = max(1, BLOCK // (y.shape[-1] * size))
    parts = [
        pad(block[None], (half, half), mode="reflect")[0].unfold(-1, size, 1).median(dim=-1).values
        for block in flat.split(rows)
    ]
    return torch.cat(parts).reshape(y.shape)
