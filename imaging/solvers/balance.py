"""Residual balancing: a penalty that follows the ratio of primal and dual residual."""

from __future__ import annotations

import torch
from torch import Tensor

EVERY = 5  # iterations between two changes, so that the residuals answer to one before the next
RATIO = 10.0  # residuals within this factor of each other are balanced
RANGE = 1024.0  # farthest from the penalty that was asked for


def balanced_penalty(penalty: Tensor, primal: Tensor, dual: Tensor, iteration: int, asked: float) -> Tensor:
    """The penalty of the next iteration: doubled where primal > 10 dual, halved where dual > 10 primal.

    Only factors of two, and only every fifth iteration: few different penalties occur, which matters to
    solvers that set themselves up for one.

    Args:
        penalty: of this iteration, (*batch,), float64.
        primal, dual: relative residuals (*batch,).
        iteration: 1, 2, ...
        asked: what the caller asked for; the result stays within a factor 1024 of it.

    Source: Boyd et al. (2011) (3.13), with the relative residuals of Wohlberg (2017), ADMM penalty parameter
        selection by residual balancing, which do not depend on the units of x and y.
    """
    if iteration % EVERY:
        return penalty
    moving = torch.maximum(primal, dual) > 1e-9  # below, both are rounding
    up = moving & (primal > RATIO * dual) & (penalty * 2 <= RANGE * asked)
    down = moving & (dual > RATIO * primal) & (penalty / 2 >= asked / RANGE)
    return torch.where(up, penalty * 2, torch.where(down, penalty / 2, penalty))
