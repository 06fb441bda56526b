"""Methods and configurations in words: what ``backcast methods`` and ``backcast config`` print. No torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.config import ConfigError, keys, read_toml, resolve, to_toml
from pipelines.methods import DEFAULT_METHOD, METHODS, Method, find_method


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
        lines += ["", f"{m.name}:"]
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
        method = find_method(name)
    except ConfigError as error:
        raise ConfigError(f"{error}; simulations: {', '.join(DEFAULT_METHOD)}; trainings: train") from error
    text = to_toml(method.config, head={"method": name}, comments=True)
    return f"# backcast reconstruct INPUTS -o FOLDER -c THIS_FILE\n# {method.summary}\n\n{text}"


def method_of_files(method: str | None, files: Sequence[Path]) -> Method:
    """The method that is named, else that of the last file that names one, else the default."""
    for path in files:
        value = read_toml(path).get("method", "")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: method: expected a text, found {value!r}")
        if value and method is None:
            find_method(value)
    named = [str(t["method"]) for t in map(read_toml, files) if t.get("method")]
    return find_method(method or (named[-1] if named else None), next(iter(DEFAULT_METHOD)))


def resolved_config(method: str | None, files: Sequence[Path], assignments: Sequence[str]) -> str:
    """The values that a run would have, as TOML.

    Raises:
        ConfigError: whatever is wrong with them.
    """
    chosen = method_of_files(method, files)
    tables = [(str(p), {k: v for k, v in read_toml(p).items() if k != "method"}) for p in files]
    config: Any = resolve(chosen.config, tables, assignments, name=f"method {chosen.name}")
    return to_toml(config, head={"method": chosen.name})


def what_fits(method: str | None, file: Path) -> str:
    """The method whose configuration a TOML holds, or the simulation whose settings.

    Raises:
        ConfigError: it is neither; the sentence is that of the method.
    """
    try:
        resolved_config(method, [file], [])
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
    return f"method {method_of_files(method, [file]).name}"


def config_of_result(path: Path) -> str:
    """The configuration that made a reconstruction, as TOML that makes it again.

    Raises:
        DataFormatError: no reconstruction file.
        ConfigError: its provenance holds no configuration of a method that is known here.
    """
    from data import read_reconstruction

    text = str(read_reconstruction(path).provenance.get("config", ""))
    try:
        values = json.loads(text)
        method = find_method(values.pop("method"))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: /provenance/config: expected a configuration of Backcast, found none") from error
    values.pop("denoiser_sha256", None)
    config: Any = resolve(method.config, [(str(path), _none_as_text(values))], name=f"method {method.name}")
    return to_toml(config, head={"method": method.name})


def _none_as_text(values: dict[str, Any]) -> dict[str, Any]:
    """As TOML says it: a none that was left out would become the default."""
    return {k: _none_as_text(v) if isinstance(v, dict) else "none" if v is None else v for k, v in values.items()}


def _star(method: Method) -> str:
    return "*" if method.name in DEFAULT_METHOD.values() else ""


def _shown(default: Any) -> str:
    if default is None or default is dataclasses.MISSING:
        return "-"
    return json.dumps(default)
