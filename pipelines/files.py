"""What ``backcast info``, ``backcast validate`` and ``backcast evaluate`` read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data import DataFormatError, render_findings, render_summary, summarise, validate
from pipelines.config import ConfigError
from pipelines.inputs import FOREIGN_SUFFIXES, RECONSTRUCTION, files_below, look, scans_below


def info_text(arguments: Sequence[str], *, as_json: bool) -> tuple[str, list[str]]:
    """What the files say, and a sentence on each that could not be read."""
    summaries: list[dict[str, Any]] = []
    texts: list[str] = []
    failures: list[str] = []
    for path in _expand(arguments):
        try:
            summary = summarise(path)
        except (DataFormatError, OSError) as error:
            failures.append(str(error))
            summaries.append({"file": str(path), "error": str(error)})
            continue
        summaries.append({"file": str(path), **summary})
        texts.append(render_summary(summary))
    return (json.dumps(summaries, indent=2) if as_json else "\n\n".join(texts)), failures


def validate_text(arguments: Sequence[str], *, deep: bool, as_json: bool) -> tuple[str, int]:
    """The findings of all files, and how many of them are errors."""
    texts, plain, n_errors = [], [], 0
    for path in _expand(arguments):
        findings = validate(path, deep=deep)
        n_errors += sum(f.severity == "error" for f in findings)
        plain.append({"file": str(path), "findings": [asdict(f) for f in findings]})
        texts.append(f"{path}: {render_findings(findings)}")
    return (json.dumps(plain, indent=2) if as_json else "\n\n".join(texts)), n_errors


def reconstructions(arguments: Sequence[str]) -> list[Path]:
    """Reconstruction files: those named, and those below the folders named.

    Raises:
        ConfigError: something named is not there, or a folder without any.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = [p for p in files_below(path) if look(p)[0] == RECONSTRUCTION]
            if not inside:
                raise ConfigError(f"{path}: expected reconstruction files below it, found none")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ConfigError(f"{path}: expected a reconstruction file or a folder, found nothing there")
    return list(dict.fromkeys(found))


def _expand(arguments: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        inside = scans_below(path) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"{path}: expected files {', '.join(FOREIGN_SUFFIXES)} below it, found none")
        found += inside
    return list(dict.fromkeys(found))
