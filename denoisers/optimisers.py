"""Optimisers by name, and how the learning rate goes."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["constant", "cosine", "plateau"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine", "plateau")


def make_optimiser(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, options: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """An optimiser of torch, or of the package pytorch_optimizer.

    Args:
        name: in any case: Adam, AdamW, SGD, ... of torch; AdaBelief, Adan, Lion, DiffGrad, EXAdam, ... of
            pytorch_optimizer, which is only imported when torch has none of that name.
        parameters: what it moves.
        lr: learning rate.
        options: further keyword arguments.

    Raises:
        ValueError: no such optimiser (with the nearest name), one that needs a closure or sparse gradients, or an
            option that it does not take.
        ImportError: pytorch_optimizer would be needed and is not installed.
    """
    found = {n.lower(): c for n, c in vars(torch.optim).items() if inspect.isclass(c)}
    kind: Any = found.get(name.lower())
    if kind is None:
        kind = _from_package(name, [n for n, c in vars(torch.optim).items() if inspect.isclass(c)])
    if kind in (torch.optim.LBFGS, torch.optim.Optimizer, torch.optim.SparseAdam):
        raise ValueError(f"optimiser {name}: expected one that steps on a dense gradient alone; Adam or AdamW do")
    taken = inspect.signature(kind).parameters
    for key in options or {}:
        if key not in taken:
            raise ValueError(f"optimiser {name}: unknown option {key}; it takes {', '.join(list(taken)[1:])}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in (options or {}).items()}
    try:
        optimiser: torch.optim.Optimizer = kind(parameters, lr=lr, **settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optimiser {name}: {error}") from error
    return optimiser


def _from_package(name: str, known: list[str]) -> Any:
    try:
        import pytorch_optimizer
    except ImportError as error:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ImportError(
            f'optimiser {name}: not in torch; {hint}for more optimisers: pip install "backcast[optimizers]"'
        ) from error
    try:
        return pytorch_optimizer.load_optimizer(name.lower())
    except NotImplementedError as error:
        names = [*known, *map(str, pytorch_optimizer.get_supported_optimizers())]
        lower = {n.lower(): n for n in names}
        near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=1)]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"optimiser {name}: expected a name of torch.optim or pytorch_optimizer{hint}") from error


def rate_factor(schedule: Schedule, step: int, steps: int, *, warmup: int = 0, floor: float = 0.01) -> float:
    """What the learning rate is multiplied with at a step, 0 the first: a pure function, so that a resumed run agrees.

    Args:
        schedule: "cosine" falls from 1 to `floor` over `steps`; "constant" and "plateau" stay at 1 (the loop lowers
            a plateau's own factor).
        step, steps: where we are, and how many there are.
        warmup: steps over which it rises linearly to 1 first.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if schedule != "cosine":
        return rise
    done = min(1.0, step / max(1, steps))
    return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
