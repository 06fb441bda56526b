"""What a solver yields: frozen states that can be selected, merged, saved and loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor

FORMAT = "backcast-state"
VERSION = 1


class StateFileError(ValueError):
    """A file is not a saved solver state, or is damaged."""


@dataclass(frozen=True, kw_only=True)
class State:
    """One iterate of a solver with its diagnostics; every tensor has the batch axes in front.

    Args:
        iteration: 1 after the first iteration; goes on counting when a state is continued.
        x: the estimate, (*batch, *A.in_shape), dtype of the operator.
        primal: relative primal residual (*batch,), float64, unitless.
        dual: relative dual residual (*batch,), float64, unitless.
        relative_change: ‖|x| - |x_previous|‖ / ‖|x_previous|‖ (*batch,), float64.
        data_fidelity: ‖A x - y‖ (*batch,), float64, units of y.
        objective: value that the solver reports as its objective (*batch,), float64; None where none is
            defined.
        rho: penalty that the next iteration will use (kappa in C-SALSA) (*batch,), float64; None without one.
        sigma: noise standard deviation handed to a denoiser, units of x; None without a denoiser.
        memory: what the prior keeps between iterations (*batch, ...); None when it keeps nothing.
    """

    iteration: int
    x: Tensor
    primal: Tensor
    dual: Tensor
    relative_change: Tensor
    data_fidelity: Tensor
    objective: Tensor | None = None
    rho: Tensor | None = None
    sigma: float | None = None
    memory: Tensor | None = None

    kinds: ClassVar[dict[str, type[State]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        State.kinds[cls.__name__] = cls  # load_state finds the class by its name, without pickle

    def select(self, index: Tensor) -> Self:
        """The states of some problems of a batch with one axis.

        Args:
            index: problems to keep, int64 (n,) or bool (batch,).
        """
        return self._with({name: value[index] for name, value in self._tensors().items()})

    def put(self, index: Tensor, part: Self) -> Self:
        """A copy in which the problems `index`, int64 (n,), are those of `part`, and so is the iteration."""
        changed: dict[str, Any] = {"iteration": part.iteration, "sigma": part.sigma}
        theirs = part._tensors()
        for name, value in self._tensors().items():
            changed[name] = value.index_copy(0, index, theirs[name])
        return self._with(changed)

    def with_batch(self, batch: tuple[int, ...]) -> Self:
        """The same state with its one batch axis as `batch`."""
        return self._with({name: value.reshape((*batch, *value.shape[1:])) for name, value in self._tensors().items()})

    def to(self, device: torch.device | str) -> Self:
        """The same state on another device."""
        return self._with({name: value.to(device) for name, value in self._tensors().items()})

    def is_finite(self) -> Tensor:
        """Which problems are still finite numbers: bool (*batch,)."""
        finite = torch.isfinite(self.primal) & torch.isfinite(self.data_fidelity)
        norm = torch.linalg.vector_norm(
            self.x.reshape(*self.primal.shape, math.prod(self.x.shape[self.primal.ndim :])), dim=-1
        )
        return finite & torch.isfinite(norm)

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its tensors, and its other values as JSON has them, by name: what `from_parts` makes it of again."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tensors = self._tensors()
        return tensors, {name: value for name, value in values.items() if name not in tensors}

    @staticmethod
    def from_parts(kind: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> State:
        """The state of the class named `kind`.

        Raises:
            StateFileError: no such class, or values that do not fit it.
        """
        if kind not in State.kinds:
            raise StateFileError(
                f"key 'class': expected one of {', '.join(sorted(State.kinds))}, found {kind!r}; import the module "
                "that defines it before loading"
            )
        given: dict[str, Any] = {**tensors, **values}
        try:
            return State.kinds[kind](**given)
        except TypeError as error:
            raise StateFileError(f"fields do not fit {kind} ({error}); start again without it") from None

    def _with(self, changed: dict[str, Any]) -> Self:
        return dataclasses.replace(self, **changed)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def save_state(state: State, path: str | os.PathLike[str]) -> None:
    """Write a state atomically as a safetensors file: the file is complete or is not there.

    Args:
        state: any state; tensors keep dtype and device name, numbers are kept to the last bit.
        path: the file; its folder must exist. An existing file is replaced.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    held, scalars = state.parts()
    complex_names = [name for name, value in held.items() if value.is_complex()]
    tensors: dict[str, Tensor] = {}
    for name, value in held.items():
        plain = (
            torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
        )  # no complex128 in safetensors
        tensors[name] = plain.detach().cpu().contiguous().clone()  # clone: z and x may share memory
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "class": type(state).__name__,
        "device": str(state.x.device),
        "complex": json.dumps(complex_names),
        "scalars": json.dumps(scalars),
        "sha256": _digest(tensors),
    }
    content = safetensors.torch.save(tensors, metadata=header)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(partial, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_state(path: str | os.PathLike[str], *, device: torch.device | str | None = None) -> State:
    """Read a state written by `save_state`.

    Args:
        path: the file.
        device: where the tensors go; None puts them where they were when saved.

    Returns:
        A state of the class that was saved, equal to it bit for bit.

    Raises:
        StateFileError: not such a file, damaged, written by a newer version, or for a device that is not
            here.
        FileNotFoundError: there is no file.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as f:
            header = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise StateFileError(
            f"{path}: expected a solver state (safetensors), found an unreadable file ({error}); start again without it"
        ) from None
    if header.get("format") != FORMAT:
        raise StateFileError(
            f"{path}: key 'format': expected '{FORMAT}', found {header.get('format')!r}; "
            "only files written by save_state can be continued"
        )
    if header.get("version") != str(VERSION):
        raise StateFileError(
            f"{path}: key 'version': expected {VERSION}, found {header.get('version')}; "
            "use the version of backcast that wrote it, or start again"
        )
    if header.get("sha256") != _digest(tensors):
        raise StateFileError(f"{path}: the checksum does not match, the file is damaged; start again without it")
    placed: dict[str, Tensor] = {}
    where = torch.device(header["device"] if device is None else device)
    try:
        for name, value in tensors.items():
            value = torch.view_as_complex(value) if name in json.loads(header["complex"]) else value
            placed[name] = value.to(where)
    except (RuntimeError, AssertionError) as error:
        raise StateFileError(
            f"{path}: the state was saved on {header['device']}, which cannot be used here "
            f'({str(error).splitlines()[0]}); pass device="cpu"'
        ) from None
    try:
        return State.from_parts(header.get("class", ""), placed, json.loads(header["scalars"]))
    except StateFileError as error:
        raise StateFileError(f"{path}: {error}") from None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
