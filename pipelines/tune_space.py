"""What `backcast tune` may change: ranges and choices for a method's parameters. Needs no torch."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import ConfigError, Key, _members, keys, resolve
from pipelines.methods import Method


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones for a key that takes whole numbers.

    Args:
        log: search the logarithm.
    """

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}" + (":log" if self.log else "")


@dataclass(frozen=True)
class Choices:
    """One of some values, which have no order."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ",".join("none" if v is None else json.dumps(v) for v in self.values)


Domain = Range | Choices
Space = dict[str, Domain]


@dataclass(frozen=True)
class Suggestion:
    """A domain that is searched when nothing else is asked for.

    Args:
        when: of the configuration to start from; whether the key then has an effect.
    """

    domain: Domain
    when: Callable[[Any], bool] = lambda config: True


_SOLVER = {
    "solver.alpha": Suggestion(Range(1e-3, 3e-1, log=True)),
    "solver.tol": Suggestion(Range(1e-3, 1e-1, log=True)),
    "solver.kappa_fraction": Suggestion(Range(1e-2, 3.0, log=True), when=lambda c: c.solver.kind == "csalsa"),
}

#: Per method. The defaults lie inside, so that the search knows them for what they are.
SUGGESTED: Mapping[str, Mapping[str, Suggestion]] = {
    "kirchhoff": {"kirchhoff.compensate": Suggestion(Choices((False, True)))},
    "l1": {**_SOLVER, "solver.max_iter": Suggestion(Range(5, 60))},
    "tv": {**_SOLVER, "tv.l1_weight": Suggestion(Range(0.0, 5.0))},
    "pnp": {
        **_SOLVER,
        "solver.alpha": Suggestion(Range(1e-4, 4e-2, log=True)),  # up to sigma = 0.2, where the weights were trained
        "solver.alpha_final": Suggestion(Range(1e-6, 4e-2, log=True)),
        "solver.tol": Suggestion(Range(1e-4, 1e-2, log=True)),
        "solver.max_iter": Suggestion(Range(5, 40)),
    },
}
_RED = {
    "solver.beta_fraction": Suggestion(Range(2e-3, 0.5, log=True)),
    "solver.weight_ratio": Suggestion(Range(1.0, 100.0, log=True)),
    "solver.sigma_final": Suggestion(Range(0.01, 0.1, log=True)),
}
SUGGESTED_TOMOGRAPHY: Mapping[str, Mapping[str, Suggestion]] = {
    "tv": {
        "solver.weight": Suggestion(Range(1e-5, 1e-2, log=True)),
        "solver.temporal_weight": Suggestion(Range(1e-5, 1e-1, log=True)),
    },
    "pnp": _RED,
    "redpsm": _RED,
}

SUGGESTED_MRI: Mapping[str, Mapping[str, Suggestion]] = {
    "sense": {"sense.weight": Suggestion(Range(1e-4, 0.1, log=True)), "sense.max_iter": Suggestion(Range(5, 60))},
    "l1wavelet": {"solver.weight": Suggestion(Range(1e-4, 2e-2, log=True))},
    "tv": {
        "solver.weight": Suggestion(Range(1e-4, 2e-2, log=True)),
        "solver.temporal_weight": Suggestion(Range(1e-4, 5e-2, log=True)),
    },
    "lps": {
        "solver.low_rank_fraction": Suggestion(Range(1e-4, 0.1, log=True)),
        "solver.sparse_weight": Suggestion(Range(1e-3, 0.1, log=True)),
    },
    "pnp": _RED,
    "redpsm": _RED,
}
_PRUNE = {"solver.prune": Suggestion(Range(1e-5, 1e-1, log=True), when=lambda c: isinstance(c.solver.prune, float))}
SUGGESTED_IRS: Mapping[str, Mapping[str, Suggestion]] = {
    "omp": {"omp.max_atoms": Suggestion(Range(5, 100))},
    "komp": {"komp.max_per_factor": Suggestion(Range(2, 15)), "komp.residual": Suggestion(Range(1e-3, 0.5, log=True))},
    "sbl": _PRUNE,
    "krosbl-svd": {**_PRUNE, "solver.width": Suggestion(Range(1.0, 1e4, log=True))},
    "krosbl-mm": {**_PRUNE, "solver.first": Suggestion(Range(0, 100))},
    "dsbl": _PRUNE,
}
SUGGESTED_BY_MODALITY = {
    "mimo_radar": SUGGESTED,
    "tomography": SUGGESTED_TOMOGRAPHY,
    "mri": SUGGESTED_MRI,
    "irs_mimo": SUGGESTED_IRS,
}


def space_of(
    method: Method,
    config: Any,
    parameters: Sequence[str] = (),
    *,
    fixed: Sequence[str] = (),
) -> Space:
    """The search space of a command line.

    Args:
        method: whose parameters.
        config: the configuration to start from.
        parameters: ``KEY=LOW:HIGH``, ``KEY=LOW:HIGH:log``, ``KEY=a,b,c``, or ``KEY`` alone for its suggested range;
            without any, everything that is suggested for the method.
        fixed: keys that were given a value, left out of what is suggested.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a value that the key does not take, an empty range.
    """
    tables = SUGGESTED_BY_MODALITY.get(method.modalities[0], {})
    suggested = {k: s.domain for k, s in tables.get(method.name, {}).items() if s.when(config)}
    known = keys(method.config)
    if not parameters:
        held = {_named(known, key) for key in fixed}
        space = {k: d for k, d in suggested.items() if k not in held}
        if not space:
            why = "all are fixed by --set" if suggested else "none is suggested"
            raise ConfigError(
                f"method {method.name}: expected parameters to tune, {why}; name some with --parameter "
                f"KEY=LOW:HIGH; known keys: {', '.join(key.name for key in known)}"
            )
        return space
    space = {}
    for text in parameters:
        name, equals, values = (part.strip() for part in text.partition("="))
        name = _named(known, name)
        if not equals and name in suggested:
            domain = suggested[name]
        else:
            domain = _domain(text, name, values, {k.name: k for k in known})
            check_domain(method, name, domain, source=f"--parameter {text}")
        if name in space:
            raise ConfigError(f"--parameter {text}: {name} is named twice; leave one out")
        space[name] = domain
    return space


def check_domain(method: Method, name: str, domain: Domain, *, source: str) -> None:
    """Whether a method's key takes the values of a domain.

    Args:
        source: where the domain comes from, for messages.

    Raises:
        ConfigError: it does not, or the range is empty.
    """
    values = domain.values if isinstance(domain, Choices) else (domain.low, domain.high)
    for value in values:
        tables: Any = "none" if value is None else list(value) if isinstance(value, tuple) else value
        for part in reversed(name.split(".")):
            tables = {part: tables}
        resolve(method.config, [(source, tables)], name=f"method {method.name}")
    if isinstance(domain, Choices):
        if len({json.dumps(v) for v in domain.values}) < 2:
            raise ConfigError(f"{source}: {name}: expected two different values or more, found one; use --set for it")
        return
    if not domain.low < domain.high:
        raise ConfigError(f"{source}: {name}: expected LOW below HIGH, found {domain.low:g} and {domain.high:g}")
    if domain.log and domain.low <= 0:
        raise ConfigError(f"{source}: {name}: expected LOW > 0 for a logarithmic range, found {domain.low:g}")


def is_whole(method: Method, name: str) -> bool:
    """Whether a key takes whole numbers only."""
    members = _members(_key(keys(method.config), name).annotation)
    return int in members and float not in members


def contains(domain: Domain, value: Any) -> bool:
    """Whether a value is one of a domain's."""
    if isinstance(domain, Choices):
        return json.dumps(value) in [json.dumps(v) for v in domain.values]
    return isinstance(value, int | float) and domain.low <= value <= domain.high


# -- inside -------------------------------------------------------------------------------------------------


def _named(known: Sequence[Key], name: str) -> str:
    """The whole name of a key whose last part alone may be given; an unknown name as it is."""
    same = [k.name for k in known if k.path[-1] == name]
    return same[0] if len(same) == 1 and name not in [k.name for k in known] else name


def _key(known: Sequence[Key], name: str) -> Key:
    return next(k for k in known if k.name == name)


def _domain(text: str, name: str, values: str, known: Mapping[str, Key]) -> Domain:
    bounds = values.split(":")
    if len(bounds) in (2, 3) and not values.startswith(("[", '"', "'")):
        low, high = _number(bounds[0]), _number(bounds[1])
        if low is not None and high is not None and bounds[2:] in ([], ["log"]):
            return Range(low, high, log=len(bounds) == 3)
    elif values:
        return Choices(tuple(_choices(values, known.get(name))))
    elif name not in known:  # let the configuration say so
        return Choices((0, 1))
    raise ConfigError(
        f"--parameter {text}: expected KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=a,b,c, for example "
        "--parameter solver.alpha=0.001:0.3:log"
    )


def _number(text: str) -> float | int | None:
    """A whole number stays one: the key decides whether it takes it."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _choices(text: str, key: Key | None) -> list[Any]:
    """Values as TOML writes them; quotes around texts may be left out."""
    optional = key is not None and type(None) in _members(key.annotation)
    try:
        found = tomllib.loads(f"v = [{text}]")["v"]
    except (ValueError, RecursionError):
        found = [_choice(piece.strip()) for piece in text.split(",")]
    found = [tuple(v) if isinstance(v, list) else v for v in found]
    return [None if v == "none" and optional else v for v in found]


def _choice(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        return text
