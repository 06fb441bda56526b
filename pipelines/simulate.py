"""Synthetic measurement files: what ``backcast simulate`` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import ConfigError, read_toml, resolve

if TYPE_CHECKING:
    from data.measurement import Measurement


def configuration(modality: str) -> type:
    """The dataclass with the settings of a modality's simulation.

    Raises:
        ConfigError: nothing simulates that modality.
    """
    if modality == "mimo_radar":
        from data.simulate import MimoRadarSimulation

        return MimoRadarSimulation
    if modality == "tomography":
        from data.simulate import TomographySimulation

        return TomographySimulation
    if modality == "mri":
        from data.simulate import MriSimulation

        return MriSimulation
    if modality == "irs_mimo":
        from data.simulate import IrsMimoSimulation

        return IrsMimoSimulation
    known = "mimo_radar, tomography, mri, irs_mimo"
    raise ConfigError(f"unknown modality {modality}; modalities that can be simulated: {known}")


def simulate_files(
    modality: str,
    output: Path,
    *,
    count: int = 1,
    seed: int | None = None,
    config_files: Sequence[Path] = (),
    assignments: Sequence[str] = (),
    overwrite: bool = False,
) -> Iterator[Path]:
    """Write `count` files ``output/MODALITY_0000.h5`` and so on, of one series.

    File number i depends on configuration, seed and i alone. The configuration and the seed are in its provenance.

    Args:
        modality: what to simulate.
        output: folder; made when missing.
        count: files.
        seed: wins over the configuration's.
        config_files, assignments: settings of the simulation, later ones win.
        overwrite: replace existing files.

    Yields:
        Each file, once it is written.

    Raises:
        ConfigError: settings that cannot be simulated, or files in the way; before anything is written.
    """
    kind = configuration(modality)
    tables = [(str(path), read_toml(path)) for path in config_files]
    settings = [*assignments, *([] if seed is None else [f"seed={seed}"])]
    config: object = resolve(kind, tables, settings, name=f"the simulation of {modality}")
    paths = [output / f"{modality}_{index:04d}.h5" for index in range(count)]
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ConfigError(f"{existing[0]}{more}: expected no file there; use --overwrite or another -o")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output}: expected a folder, found a file; choose another")
    return _write(config, paths, output)


def _write(config: object, paths: Sequence[Path], output: Path) -> Iterator[Path]:
    from data import write_measurement
    from data.simulate import (
        IrsMimoSimulation,
        MimoRadarSimulation,
        MriSimulation,
        TomographySimulation,
        irs_mimo_series,
        mimo_radar_series,
        mri_series,
        tomography_series,
    )
    from pipelines.batch import make_folder

    make_folder(output)
    series: Iterator[Measurement]
    if isinstance(config, TomographySimulation):
        series = tomography_series(config, len(paths))
    elif isinstance(config, MriSimulation):
        series = mri_series(config, len(paths))
    elif isinstance(config, IrsMimoSimulation):
        series = irs_mimo_series(config, len(paths))
    else:
        assert isinstance(config, MimoRadarSimulation)
        series = mimo_radar_series(config, len(paths))
    for path, measurement in zip(paths, series, strict=True):
        write_measurement(path, measurement)
        yield path
