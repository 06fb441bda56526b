"""Methods and configurations in words: what ``backcast methods`` and ``backcast config`` print. No torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.config import ConfigError, keys, read_toml, resolve, to_toml
from pipelines.methods import DEFAULT_METHOD, METHODS, Method, find_method, methods_named


def methods_text() -> str:
    """The table of methods, then every parameter with its default."""
    head = ("method", "modality", "kind", "what it does")
    rows = [(m.name + _star(m), ", ".join(m.modalities), m.kind, m.summary) for m in METHODS]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)), row[3]]) for row in (head, *rows)
    ]
    lines += ["", "* default of its modality"]
    for m in METHODS:
        lines += ["", f"{m.full_name}:"]
        found = keys(m.config)
        width = max(len(f"{k.name} = {_shown(k.default)}") for k in found)
        lines += [f"  {f'{k.name} = {_shown(k.default)}'.ljust(width)}  {k.doc}" for k in found]
    return "\n".join(lines)


def methods_json() -> str:
    """The same for programs."""
    return json.dumps(
        [
            {
                "name": m.name,
                "modalities": m.modalities,
                "kind": m.kind,
                "summary": m.summary,
                "default_for": [k for k, v in DEFAULT_METHOD.items() if v == m.name and k in m.modalities],
                "takes_denoiser": m.takes_denoiser,
                "parameters": [
                    {"key": k.name, "default": k.default, "expected": k.expected, "doc": k.doc} for k in keys(m.config)
                ],
            }
            for m in METHODS
        ],
        indent=2,
    )


def config_template(name: str) -> str:
    """A commented TOML of a method, of a modality's simulation, or of a training."""
    if name in DEFAULT_METHOD:
        from pipelines.simulate import configuration

        text = to_toml(configuration(name), comments=True)
        return f"# backcast simulate {name} -c THIS_FILE\n\n{text}"
    if name == "train":
        from pipelines.train_config import TrainConfig

        return f"# backcast train THIS_FILE -o FOLDER\n\n{to_toml(TrainConfig, comments=True)}"
    try:
        method, *others = methods_named(name)
    except ConfigError as error:
        raise ConfigError(f"{error}; simulations: {', '.join(DEFAULT_METHOD)}; trainings: train") from error
    head = ["backcast reconstruct INPUTS -o FOLDER -c THIS_FILE", method.summary]
    if others:
        inits = " and ".join(f"backcast config init {m.full_name}" for m in others)
        head.append(f"of {', '.join(method.modalities)}; the method of the same name elsewhere: {inits}")
    text = to_toml(method.config, head={"method": method.name}, comments=True)
    return "".join(f"# {line}\n" for line in head) + f"\n{text}"


def methods_of_files(method: str | None, files: Sequence[Path]) -> list[Method]:
    """The methods that are named, else those that the last file which names one names, else the default."""
    tables = [(path, read_toml(path).get("method", "")) for path in files]
    for path, value in tables:
        if not isinstance(value, str):
            raise ConfigError(f"{path}: method: expected a text, found {value!r}")
        if value and method is None:
            methods_named(value)
    named = [value for _, value in tables if value]
    name = method or (named[-1] if named else next(iter(DEFAULT_METHOD.values())))
    return methods_named(name, None if method or named else next(iter(DEFAULT_METHOD)))


def resolved_config(method: str | None, files: Sequence[Path], assignments: Sequence[str]) -> str:
    """The values that a run would have, as TOML; of a name that several modalities have, the first method they fit.

    Raises:
        ConfigError: whatever is wrong with them.
    """
    chosen, config = _fitting(method, files, assignments)[0]
    return to_toml(config, head={"method": chosen.name})


def _fitting(method: str | None, files: Sequence[Path], assignments: Sequence[str] = ()) -> list[tuple[Method, Any]]:
    """The methods, of those that a name may mean, whose configuration the values fit; at least one.

    Raises:
        ConfigError: they fit none; the sentence is that of the method which knows most of the keys.
    """
    named = methods_of_files(method, files)
    tables = [(str(p), {k: v for k, v in read_toml(p).items() if k != "method"}) for p in files]
    fitting: list[tuple[Method, Any]] = []
    errors = []
    for m in named:
        try:
            fitting.append((m, resolve(m.config, tables, assignments, name=f"method {m.full_name}")))
        except ConfigError as error:
            known = {key.path for key in keys(m.config)} | {(key.path[-1],) for key in keys(m.config)}
            given = [path for _, table in tables for path in _paths(table)]
            given += [tuple(text.partition("=")[0].strip().split(".")) for text in assignments]
            errors.append((sum(path in known for path in given), error))
    if not fitting:
        raise max(errors, key=lambda counted: counted[0])[1]
    return fitting


def _paths(table: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of the values in nested tables."""
    return [
        (name, *rest) for name, value in table.items() for rest in (_paths(value) if isinstance(value, dict) else [()])
    ]


def what_fits(method: str | None, file: Path) -> str:
    """The method whose configuration a TOML holds, or the simulation whose settings.

    Raises:
        ConfigError: it is neither; the sentence is that of the method.
    """
    try:
        fitting = _fitting(method, [file])
    except ConfigError:
        tables = read_toml(file)
        if method is None and "method" not in tables:
            from pipelines.simulate import configuration

            for modality in DEFAULT_METHOD:
                with contextlib.suppress(ConfigError):
                    resolve(configuration(modality), [(str(file), tables)], [], name=f"the simulation of {modality}")
                    return f"the simulation of {modality}"
            if {"network", "training"} & set(tables):
                from pipelines.train_config import TrainConfig

                resolve(TrainConfig, [(str(file), tables)], [], name="a training")
                return "a training"
        raise
    return f"method {' and '.join(m.full_name for m, _ in fitting)}"


def config_of_result(path: Path) -> str:
    """The configuration that made a reconstruction, as TOML that makes it again.

    Raises:
        DataFormatError: no reconstruction file.
        ConfigError: its provenance holds no configuration of a method that is known here.
    """
    from data import read_reconstruction

    result = read_reconstruction(path)
    try:
        values = json.loads(str(result.provenance.get("config", "")))
        method = find_method(values.pop("method"), result.modality)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: /provenance/config: expected a configuration of Backcast, found none") from error
    values.pop("denoiser_sha256", None)
    config: Any = resolve(method.config, [(str(path), _none_as_text(values))], name=f"method {method.full_name}")
    return to_toml(config, head={"method": method.name})


def _none_as_text(values: dict[str, Any]) -> dict[str, Any]:
    """As TOML says it: a none that was left out would become the default."""
    return {k: _none_as_text(v) if isinstance(v, dict) else "none" if v is None else v for k, v in values.items()}


def _star(method: Method) -> str:
    return "*" if any(DEFAULT_METHOD.get(modality) == method.name for modality in method.modalities) else ""


def _shown(default: Any) -> str:
    if default is None or default is dataclasses.MISSING:
        return "-"
    return json.dumps(default)
