"""From a file to a Source, and from a Source to layers."""

from __future__ import annotations

import os
from pathlib import Path

from data import DataFormatError, open_kind
from data.convert.detect import foreign
from data.convert.read import read
from data.measurement import Measurement
from data.reconstruction import Reconstruction
from viewer.channels import channel_layers
from viewer.layers import layers_of, shared_limits, truth_layer
from viewer.lazy import MEMORY_BYTES, open_result
from viewer.overview import VOXELS_3D, notice
from viewer.sampled import sample_layers
from viewer.scene import scene_layers
from viewer.source import LayerData, Source, with_source


def load(path: str | os.PathLike[str]) -> Source:
    """Read a measurement (a foreign one too) or reconstruction file, and a reconstruction's input where it is found.

    Raises:
        DataFormatError: a file that cannot be read, in one sentence.
    """
    path = Path(path)
    if foreign(path) is not None or open_kind(path) == "measurement":
        m = read(path)
        return Source(name=path.stem, path=path, measurement=m, notes=m.warnings)
    result = open_result(path)
    measurement, note = _input_of(path, result)
    data = result.volume.data
    itemsize = data.dtype.itemsize
    in_file = not hasattr(data, "flags")
    notes = [*result.warnings, note, notice(path.stem, data.shape, itemsize, in_file=in_file)]
    return Source(
        name=path.stem.removesuffix("_recon"),
        path=path,
        measurement=measurement,
        result=result,
        notes=tuple(n for n in notes if n),
    )


def layers_from(source: Source, *, voxels_3d: int = VOXELS_3D) -> list[LayerData]:
    """All layers of a Source: of a measurement its samples; of a result its image, truth, antennas and box.

    Raises:
        ValueError: a grid that napari cannot show to scale.
    """
    result, m = source.result, source.measurement
    if result is None:
        return [] if m is None else with_source(sample_layers(m, name=source.name), source)
    try:
        if result.modality == "irs_mimo":
            return with_source(channel_layers(result, m, name=source.name), source)
        layers = layers_of(result, name=source.name, voxels_3d=voxels_3d)
        if source.truth is not None:
            if not layers[0][1]["multiscale"] and source.truth.data.shape == result.volume.data.shape:
                layers[0][1]["contrast_limits"] = shared_limits(result.volume, source.truth)[0]
            layers = [truth_layer(source.truth, name=source.name, voxels_3d=voxels_3d), *layers]
        if m is not None:
            layers += scene_layers(m, result.volume, name=source.name)
    except ValueError as error:
        where = str(source.path or source.name)
        raise error if where in str(error) else DataFormatError(f"{where}: {error}") from error
    return with_source(layers, source)


def _input_of(path: Path, result: Reconstruction) -> tuple[Measurement | None, str]:
    """The measurement that a result was made from, and a sentence when it is not there or another one."""
    named = str(result.provenance.get("input_file", ""))
    if not named:
        return None, ""
    source = path.parent / named
    if not source.is_file():
        return None, f"{path.name}: its measurement {named} is not there; truth and antennas are not shown"
    try:
        if source.stat().st_size > MEMORY_BYTES:
            return None, f"{path.name}: its measurement {named} is large; truth and antennas are not shown"
        m = read(source)
    except (DataFormatError, OSError) as error:
        return None, f"{path.name}: truth and antennas are not shown, since its measurement cannot be read: {error}"
    wanted = str(result.attrs.get("input_uuid", ""))
    if wanted and wanted != str(m.attrs.get("uuid", "")):
        return None, f"{path.name}: {named} is now another measurement; truth and antennas are not shown"
    return m, ""
