"""Configurations: frozen dataclasses filled from TOML files and ``--set key=value``, checked before work.

A configuration is a frozen dataclass whose fields are values or further such dataclasses (one per table).
`resolve` merges files and assignments, later ones winning, and answers every mistake with one sentence that
says which key, where it was written, what was expected and what was found. Needs no torch.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import hashlib
import inspect
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import pydantic.fields  # not loaded by pydantic itself
from pydantic import ConfigDict, TypeAdapter
from pydantic_core import PydanticUndefined

C = TypeVar("C")

#: How the tables of our own configurations are declared: nothing unknown, nothing cast, nothing infinite.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    type(None): "none",
}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}


class ConfigError(ValueError):
    """A configuration that cannot be run: unknown key, wrong type, value out of range, unreadable file."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One settable value of a configuration: its place, type and documentation.

    Attributes:
        path: table names and the key, outermost first: ``("solver", "alpha")``.
        expected: the type and bounds in words.
        default: value when nothing is set; ``dataclasses.MISSING`` when it must be set.
        doc: what it means, with its unit.
    """

    path: tuple[str, ...]
    annotation: Any
    expected: str
    default: Any
    doc: str

    @property
    def name(self) -> str:
        return ".".join(self.path)


# -- reading ------------------------------------------------------------------------------------------------


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: the file is missing, unreadable or no TOML.
    """
    try:
        with path.open("rb") as f:
            return tomllib.load(f)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an existing TOML file") from error
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, tables in tables without end
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{path}: expected TOML, found a mistake: {reason}") from error


def resolve(
    kind: type[C],
    files: Sequence[tuple[str, Mapping[str, Any]]] = (),
    assignments: Sequence[str] = (),
    *,
    name: str = "the configuration",
) -> C:
    """Fill a configuration from tables and assignments; the later one wins.

    Args:
        kind: the configuration's dataclass.
        files: pairs of a name for messages and the tables as `read_toml` gives them.
        assignments: ``key=value`` strings; the key is dotted (``solver.alpha``), or its last part alone where
            only one table has it; the value is written as in TOML, quotes around a text may be left out.
        name: what is being configured, for messages.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, a value out of range.
    """
    known = {key.path: key for key in keys(kind)}
    values: dict[tuple[str, ...], Any] = {}
    origin: dict[tuple[str, ...], str] = {}
    for source, tables in files:
        for path, value in _leaves(tables, kind):
            if any(key[: len(path)] == path and key != path for key in known):
                raise ConfigError(f"{source}: {'.'.join(path)}: expected a table [{path[-1]}], found {_shown(value)}")
            if path not in known and not _is_open(known.get(path[:-1])):
                raise ConfigError(f"{source}: {_unknown('.'.join(path), known, name)}")
            values[path], origin[path] = _none_or(value, known.get(path)), source
    for text in assignments:
        path, value = _assignment(text, known, name)
        values[path], origin[path] = value, f"--set {text}"
    for path, value in values.items():
        if path in known:
            _check(known[path], value, origin[path])
    return _build(kind, (), {path: _tuples(value) for path, value in values.items()}, known, origin, name)


def keys(kind: type, prefix: tuple[str, ...] = (), default: Any = None) -> list[Key]:
    """Every settable key of a configuration's dataclass, tables opened, in the order of declaration.

    Args:
        kind: the dataclass.
        prefix: of the keys' paths.
        default: an instance whose values are the defaults, in place of the fields' own.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    docs = _documented(kind)
    found: list[Key] = []
    for field in dataclasses.fields(kind):
        annotation = hints[field.name]
        path = (*prefix, field.name)
        info = field.default if isinstance(field.default, pydantic.fields.FieldInfo) else None
        own = info.get_default(call_default_factory=True, validated_data={}) if info else _plain_default(field)
        own = dataclasses.MISSING if own is PydanticUndefined else own
        value = own if default is None else getattr(default, field.name)
        table = _table_of(annotation)
        if table is not None:
            found.extend(keys(table, path, None if value is dataclasses.MISSING else value))
            continue
        doc = (info.description if info is not None else None) or docs.get(field.name, "")
        found.append(Key(path, annotation, _expected(annotation, info), value, doc))
    return found


def parse_bytes(text: str) -> int:
    """A memory size as typed: ``12G``, ``500M``, ``1.5GiB``, ``4096`` (powers of 1024).

    Raises:
        ConfigError: something else, or nothing left of it.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?b)?", text.strip(), flags=re.IGNORECASE)
    size = 0 if match is None else int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
    if size < 1:
        raise ConfigError(f"memory size: expected a size such as 500M or 12G, found {text!r}")
    return size


# -- writing ------------------------------------------------------------------------------------------------


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain nested dictionaries, ready for JSON."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def as_json(values: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted keys, no spaces; equal values give equal text."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(values: Mapping[str, Any]) -> str:
    """The hash that decides whether a result belongs to a configuration."""
    return hashlib.sha256(as_json(values).encode()).hexdigest()


def to_toml(config: Any, *, head: Mapping[str, Any] | None = None, comments: bool = False) -> str:
    """The configuration as a TOML text that `read_toml` and `resolve` turn back into an equal one.

    Args:
        config: a configuration, or its class for the defaults.
        head: further top-level keys, written first.
        comments: put each key's documentation and expected values above it.

    TOML has no none: a key that is none by default is written as a comment, another as the text "none".
    """
    kind = config if isinstance(config, type) else type(config)
    lines = [f"{k} = {_toml_value(v)}" for k, v in (head or {}).items()]
    found = keys(kind)
    top = [key for key in found if len(key.path) == 1]
    tables: dict[tuple[str, ...], list[Key]] = {}
    for key in found:
        if len(key.path) > 1:
            tables.setdefault(key.path[:-1], []).append(key)
    for table, members in [((), top), *tables.items()]:
        if table:
            lines += ["", f"[{'.'.join(table)}]"]
        for key in members:
            if comments and key.doc:
                lines += [f"# {line}" for line in _wrapped(f"{key.doc} ({key.expected})")]
            value = _value_at(config, key) if config is not kind else key.default
            if value is None and key.default is not None:
                lines.append(f'{key.path[-1]} = "none"')
            elif value is None or value is dataclasses.MISSING:
                lines.append(f"# {key.path[-1]} =")
            elif _is_open(key):
                lines.append(f"{key.path[-1]} = {{{', '.join(f'{k} = {_toml_value(v)}' for k, v in value.items())}}}")
            else:
                lines.append(f"{key.path[-1]} = {_toml_value(value)}")
    return "\n".join(lines).strip() + "\n"


# -- inside -------------------------------------------------------------------------------------------------


def _build(
    kind: type[C],
    table: tuple[str, ...],
    values: Mapping[tuple[str, ...], Any],
    known: Mapping[tuple[str, ...], Key],
    origin: Mapping[tuple[str, ...], str],
    owner: str,
) -> C:
    """The dataclass of one table, inner tables first; each checks itself when it is made."""
    arguments: dict[str, Any] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        path, inner = (*table, field.name), _table_of(hints[field.name])
        opened = {p[-1]: v for p, v in values.items() if p[:-1] == path}
        if inner is not None:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required or any(p[: len(path)] == path for p in values):
                arguments[field.name] = _build(inner, path, values, known, origin, owner)
        elif opened:  # a table of free keys
            arguments[field.name] = opened
        elif path in values:
            arguments[field.name] = values[path]
        elif known[path].default is dataclasses.MISSING:
            raise ConfigError(f"{owner}: {known[path].name} must be given: expected {known[path].expected}")
        elif table:
            arguments[field.name] = known[path].default  # of the instance that is the table's default
    written = list(dict.fromkeys(origin[path] for path in values if path[: len(table)] == table))
    sources = ", ".join(written) if len(written) <= 3 else ""  # a long list helps nobody
    place = f"{sources or owner}: {f'[{table[-1]}] ' if table else ''}"
    try:
        return kind(**arguments)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = (*table, *(str(part) for part in first["loc"]))[: len(table) + 1]
        if path in known:
            cause = first.get("ctx", {}).get("error")
            found = _shown(values.get(path, first["input"]))
            reason = cause or f"expected {known[path].expected}, found {found}"
            raise ConfigError(f"{origin.get(path, owner)}: {known[path].name}: {reason}") from error
        raise ConfigError(f"{place}{first.get('ctx', {}).get('error', first['msg'])}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}{error}") from error


def _table_of(annotation: Any) -> type | None:
    return annotation if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else None


def _is_open(key: Key | None) -> bool:
    """Whether a key is a table with names of its own choosing."""
    return key is not None and typing.get_origin(key.annotation) in (dict, collections.abc.Mapping)


def _documented(kind: type) -> dict[str, str]:
    """What the Args section of a class's docstring says of each name."""
    found: dict[str, str] = {}
    names: list[str] = []
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")
    for line in section.splitlines():
        entry = re.match(r" {4}([A-Za-z_][\w, ]*): (.*)", line)
        if entry:
            names = [name.strip() for name in entry[1].split(",")]
            found |= dict.fromkeys(names, entry[2].strip())
        elif line.startswith(" " * 8):
            for name in names:
                found[name] += f" {line.strip()}"
        else:
            break
    return found


def _plain_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING


def _leaves(
    tables: Mapping[str, Any], kind: type | None, prefix: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], Any]]:
    """Keys and values of nested tables; a table where a value belongs stays a value, to be refused as one."""
    hints = typing.get_type_hints(kind) if kind is not None else {}
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in tables.items():
        inner = _table_of(hints.get(name))
        free = typing.get_origin(hints.get(name)) in (dict, collections.abc.Mapping)
        if isinstance(value, Mapping) and (inner is not None or free or name not in hints) and value:
            found += _leaves(value, inner, (*prefix, name))
        elif isinstance(value, Mapping) and (inner is not None or free):
            continue  # an empty table sets nothing
        else:
            found.append(((*prefix, name), value))
    return found


def _assignment(text: str, known: Mapping[tuple[str, ...], Key], name: str) -> tuple[tuple[str, ...], Any]:
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key:
        raise ConfigError(f"--set {text}: expected key=value, for example --set {_example(known)}")
    path = tuple(key.split("."))
    if _is_open(known.get(path[:-1])):
        return path, _value(raw, Any)
    if path not in known:
        same_leaf = [p for p in known if p[-1] == key]
        if len(same_leaf) > 1:
            choices = " or ".join(".".join(p) for p in same_leaf)
            raise ConfigError(f"--set {text}: {key} could be {choices}; write it out")
        if not same_leaf:
            raise ConfigError(f"--set {text}: {_unknown(key, known, name)}")
        path = same_leaf[0]
    return path, _value(raw, known[path].annotation)


def _none_or(value: Any, key: Key | None) -> Any:
    """TOML has no none: the text "none" stands for it where a text means nothing else."""
    members = _members(key.annotation) if key is not None else set()
    return None if value == "none" and type(None) in members and str not in members else value


def _example(known: Mapping[tuple[str, ...], Key]) -> str:
    key = next((k for k in known.values() if isinstance(k.default, int | float)), None)
    return f"{key.name}={key.default}" if key else "key=value"


def _value(raw: str, annotation: Any) -> Any:
    """A value as TOML writes it; a bare word is a text."""
    if raw.lower() in ("none", "null") and type(None) in _members(annotation):
        return None
    if _members(annotation) - {type(None)} == {str} and not raw.startswith(('"', "'")):
        return raw
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        return raw


def _members(annotation: Any) -> set[Any]:
    """The types of a union, or the one type there is."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*(_members(a) for a in typing.get_args(annotation)))
    if origin is Literal:
        return {type(v) for v in typing.get_args(annotation)}
    return {annotation}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _check(key: Key, value: Any, source: str) -> None:
    """Refuse a value of the wrong type here, where its origin is known."""
    try:
        TypeAdapter(key.annotation, config=STRICT).validate_python(_tuples(value))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{source}: {key.name}: expected {key.expected}, found {_shown(value)}") from error


def _unknown(name: str, known: Mapping[tuple[str, ...], Key], owner: str) -> str:
    names = [key.name for key in known.values()]
    leaf = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not near:
        leaves = {path[-1]: ".".join(path) for path in known}
        near = [leaves[n] for n in difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.6)]
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key {name} for {owner}; {hint}known keys: {', '.join(names)}"


def _expected(annotation: Any, info: pydantic.fields.FieldInfo | None) -> str:
    words = _type_words(annotation)
    bounds = _bounds(info.metadata) if info is not None else ""
    if bounds:
        options = words.split(" or none")
        words = f"{options[0]} {bounds}" + (" or none" if len(options) > 1 else "")
    return words


def _type_words(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, collections.abc.Mapping):
        return "a table"
    if origin is typing.Annotated:
        return f"{_type_words(args[0])} {_bounds(args[1:])}".strip()
    if origin in (Union, types.UnionType):
        return " or ".join(_type_words(a) for a in sorted(args, key=lambda a: a is type(None)))
    if origin is Literal:
        return "one of " + ", ".join(repr(v) for v in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a list, each {_type_words(args[0])}"
        return f"a list of {len(args)}: " + ", ".join(dict.fromkeys(_type_words(a) for a in args))
    return _WORDS.get(annotation, str(getattr(annotation, "__dotted_", annotation)))


def _bounds(items: Sequence[Any]) -> str:
    found: list[str] = []
    for item in items:
        if isinstance(item, pydantic.fields.FieldInfo):
            found += [_bounds(item.metadata)]
        found += [f"{s} {getattr(item, k)}" for k, s in _BOUNDS.items() if getattr(item, k, None) is not None]
    return " and ".join(found)


def _shown(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def _value_at(config: Any, key: Key) -> Any:
    for part in key.path:
        config = getattr(config, part)
    return config


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)


def _wrapped(text: str, width: int = 100) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]
