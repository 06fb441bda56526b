"""What a window needs to run methods: their forms, and reconstructions step by step.

`viewer/napari.yaml` names `Live`; the viewer finds it there and imports nothing of this package. Needs no torch before
a reconstruction begins.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import Key, keys, resolve
from pipelines.methods import METHODS, Method, find_method

if TYPE_CHECKING:
    from data.measurement import Measurement
    from data.reconstruction import Reconstruction
    from pipelines.reconstruct import Steps


@dataclass(frozen=True)
class Field:
    """One line of a form.

    Attributes:
        name: the dotted key.
        value: the default, as ``-s`` takes it.
        choices: all that are allowed; () where others are too.
        expected: type and bounds in words.
        doc: what it means, with its unit.
    """

    name: str
    value: str
    choices: tuple[str, ...]
    expected: str
    doc: str


@dataclass(frozen=True)
class Form:
    """A method and its fields.

    Attributes:
        name: as typed after ``-m``.
        kind, summary: as `backcast methods` has them.
        default: whether the modality's default.
        fields: of its configuration, in the order of declaration.
    """

    name: str
    kind: str
    summary: str
    default: bool
    fields: tuple[Field, ...]


class Live:
    """The methods of this installation."""

    def forms(self, modality: str, *, moving: bool = False) -> list[Form]:
        """The methods for a modality, in the order of the registry; `moving`: the measurement has several frames."""
        default = find_method(None, modality, moving=moving)
        return [
            Form(m.name, m.kind, m.summary, m is default, tuple(_field(key) for key in keys(m.config)))
            for m in METHODS
            if modality in m.modalities
        ]

    def denoisers(self) -> list[str]:
        """The weights that come along."""
        from denoisers.shipped import shipped_names

        return list(shipped_names())

    def configuration(self, method: str, modality: str, assignments: Sequence[str]) -> Any:
        """The method's configuration with some values set.

        Args:
            method: a name of `forms`.
            modality: of the measurement.
            assignments: ``key=value``, as after ``-s``.

        Raises:
            ConfigError: a value that does not fit, in one sentence.
        """
        return resolve(find_method(method, modality).config, (), assignments, name=f"method {method}")

    def steps(
        self,
        measurement: Measurement,
        method: str,
        assignments: Sequence[str] = (),
        *,
        device: str = "auto",
        source: Path | None = None,
        program: str = "backcast",
    ) -> Steps:
        """`pipelines.reconstruct.reconstruct_steps` of a measurement, with what `backcast reconstruct` would record.

        Args:
            measurement: as read.
            method, assignments: as `configuration`.
            device: as ``--device``.
            source: the measurement's file, for the provenance; None for one in memory.
            program: what is written as the command line.

        Raises:
            ConfigError, DenoiserError, ValueError, MemoryError, ArithmeticError: in one sentence, at the first step.
        """
        from pipelines.methods import Setting
        from pipelines.reconstruct import reconstruct_steps, resolve_device

        chosen = find_method(method, measurement.modality)
        config = self.configuration(method, measurement.modality, assignments)
        place = resolve_device(device)
        denoiser, facts = _denoiser(chosen, config, str(place))
        facts["command_line"] = program
        if source is not None:
            from data import sha256

            facts |= {"input_file": source.name, "input_sha256": sha256(source)}
        setting = Setting(device=place, denoiser=denoiser)
        result = yield from reconstruct_steps(measurement, chosen, config, setting=setting, provenance=facts)
        return result

    def save(self, path: Path, result: Reconstruction, source: Path | None) -> Reconstruction:
        """Write a result of `steps`, its input named as seen from the file; returns what was written.

        Raises:
            DataFormatError, DataWriteError: as `data.write_reconstruction`.
        """
        from data import write_reconstruction
        from pipelines.reconstruct import reference_to

        if source is not None:
            named = {**result.provenance, "input_file": reference_to(source, path.parent)}
            result = dataclasses.replace(result, provenance=named)
        write_reconstruction(path, result)
        return result


def _denoiser(method: Method, config: Any, device: str) -> tuple[Any, dict[str, Any]]:
    if not method.takes_denoiser:
        return None, {}
    from denoisers.load import load_denoiser

    loaded = load_denoiser(config.denoiser.file, device=device, precision=config.denoiser.precision)
    about = {"denoiser": loaded.name, "denoiser_version": loaded.version, "denoiser_sha256": loaded.sha256}
    return loaded, about


def _field(key: Key) -> Field:
    values: tuple[str, ...] = ()
    if key.annotation is bool:
        values = ("true", "false")
    elif typing.get_origin(key.annotation) is typing.Literal:
        values = tuple(str(v) for v in typing.get_args(key.annotation))
    return Field(key.name, _text(key.default), values, key.expected, key.doc)


def _text(value: Any) -> str:
    if value is None or value is dataclasses.MISSING:
        return "none" if value is None else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(v) for v in value) + "]"
    return str(value)
