"""Foreign files to measurement files: what ``backcast convert`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.config import ConfigError


def convert_file(
    source: Path, output: Path, *, kind: str | None = None, overwrite: bool = False, **given: Any
) -> list[str]:
    """Convert one file and check the result.

    Args:
        source: the foreign file.
        output: measurement file to write, atomically.
        kind: a name of `data.convert.FORMATS`; None looks at the file.
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
    for name, number in (("field_of_view_m", float), ("matrix", int)):
        if name in options:
            options[name] = _three(name, options[name], number)
    if "axes" in options:
        options["axes"] = tuple(word.strip() for word in options["axes"].split(","))
    measurement = convert(source, ConvertOptions(**options), kind=kind)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_measurement(output, measurement)
    findings = validate(output, deep=True)
    return [finding.sentence(output) for finding in findings]


def _three(name: str, text: str, number: type) -> tuple[Any, ...]:
    option = "--" + name.removesuffix("_m").replace("_", "-")
    try:
        values = tuple(number(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise ConfigError(f"{option} {text}: expected three numbers z,y,x")
    return values
