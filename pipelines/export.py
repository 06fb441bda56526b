"""Results to files of other programs: what ``backcast export`` does."""

from __future__ import annotations

from pathlib import Path

from pipelines.config import ConfigError


def export_file(
    source: Path, output: Path, *, part: str | None = None, frame: int | None = None, overwrite: bool = False
) -> list[str]:
    """Export one result.

    Args:
        source: reconstruction file.
        output: file whose ending names the format.
        part, frame: as `data.export.export` takes them.
        overwrite: replace an existing file.

    Returns:
        Sentences on what had to be assumed.

    Raises:
        ConfigError: a file in the way.
        DataFormatError: no reconstruction, or one that the format cannot hold.
    """
    from data import read_reconstruction
    from data.export import export

    if output.exists() and not overwrite:
        raise ConfigError(f"{output}: expected no file there; use --overwrite or another -o")
    result = read_reconstruction(source)
    return list(export(result, output, part=part, frame=frame, title=source.stem))
