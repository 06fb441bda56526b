"""Foreign files to measurement files: what ``backcast convert`` does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pipelines.config import ConfigError

#: Options that are several numbers in one text.
_NUMBERS = {"field_of_view_m": (float, "z,y,x"), "matrix": (int, "z,y,x"), "pixel_size_m": (float, "row,column")}


def convert_file(
    source: Path,
    output: Path,
    *,
    kind: str | None = None,
    mapping: Path | None = None,
    overwrite: bool = False,
    **given: Any,
) -> list[str]:
    """Convert one file and check the result.

    Args:
        source: the foreign file.
        output: measurement file to write, atomically.
        kind: a name of `data.convert.FORMATS`; None looks at the file.
        mapping: a mapping file; None takes the one beside the source, if any.
        overwrite: replace an existing file.
        given: fields of `data.convert.ConvertOptions`; texts such as "0.3,0.2,0.2" where they are tuples.

    Returns:
        Sentences on what the result may still lack.

    Raises:
        ConfigError: an option that makes no sense, or a file in the way.
        DataFormatError: a source that cannot be converted.
    """
    from data import validate, write_measurement
    from data.convert import ConvertOptions, convert

    if output.exists() and not overwrite:
        raise ConfigError(f"{output}: expected no file there; use --overwrite or another -o")
    options = {name: value for name, value in given.items() if value is not None}
    for name in _NUMBERS.keys() & options:
        options[name] = _numbers(name, options[name])
    if "axes" in options:
        options["axes"] = tuple(word.strip() for word in options["axes"].split(","))
    measurement = convert(source, ConvertOptions(**options), kind=kind, mapping=mapping)
    notes = list(measurement.warnings)
    if notes:
        provenance = {**measurement.provenance, "notes": "\n".join(notes)}
        measurement = dataclasses.replace(measurement, provenance=provenance)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_measurement(output, measurement)
    return notes + [finding.sentence(output) for finding in validate(output, deep=True)]


def _numbers(name: str, text: str) -> tuple[Any, ...]:
    number, words = _NUMBERS[name]
    count = 1 + words.count(",")
    try:
        values = tuple(number(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        option = "--" + name.removesuffix("_m").replace("_", "-")
        raise ConfigError(f"{option} {text}: expected {'three' if count == 3 else 'two'} numbers {words}")
    return values
