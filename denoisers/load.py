"""Load a denoiser: shipped or own weights, a classical one, a callable of a module or file, an exported network."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisers.card import file_sha256
from denoisers.classical import CLASSICAL
from denoisers.errors import DenoiserError
from denoisers.network_denoiser import NetworkDenoiser, Precision
from denoisers.shipped import shipped_file, shipped_names
from denoisers.weight_files import load_weights
from denoisers.wrappers import reach_of
from imaging import __version__


@dataclass(frozen=True)
class LoadedDenoiser:
    """A denoiser with what the provenance needs to name it.

    Attributes:
        function: called as ``function(v, sigma)``.
        name: what the user typed, without folders: typed again, it finds the same denoiser.
        version: its ``__version__``, or that of its module; "" when it has none.
        sha256: of the file it comes from; "" when it comes from no file.
        noise_range: noise levels that a network was trained on; None where nothing is known.
        n_dims: 2 for a network that takes a volume slice by slice; None where nothing is known.
    """

    function: Callable[..., Any]
    name: str
    version: str = ""
    sha256: str = ""
    noise_range: tuple[float, float] | None = None
    n_dims: int | None = None

    @property
    def reach(self) -> int | None:
        """How many voxels away in each direction it looks at most, if it says so."""
        return reach_of(self.function)

    @property
    def takes_sigma_per_image(self) -> bool:
        """Whether sigma may be a tensor (batch,)."""
        return bool(getattr(self.function, "takes_sigma_per_image", False))

    @property
    def takes_complex(self) -> bool:
        """Whether it denoises complex images, and those alone."""
        return bool(getattr(self.function, "takes_complex", False))

    def __call__(self, v: Tensor, sigma: float) -> Tensor:
        """Denoise volumes.

        Args:
            v: (batch, nz, ny, nx), real, or complex if `takes_complex`.
            sigma: noise standard deviation in v's units.

        Returns:
            Same shape and dtype.

        Raises:
            DenoiserError: the denoiser returned another shape, dtype or type, or numbers that are not finite.
        """
        with torch.no_grad():
            out = self.function(v, sigma)
        if not isinstance(out, Tensor):
            raise DenoiserError(f"denoiser {self.name}: expected a tensor back, got {type(out).__name__}")
        if out.shape != v.shape or out.dtype != v.dtype:
            raise DenoiserError(
                f"denoiser {self.name}: expected {tuple(v.shape)} {v.dtype} back, "
                f"got {tuple(out.shape)} {out.dtype}; it must keep shape and dtype of its first argument"
            )
        if not bool(torch.isfinite(out).all()):
            raise DenoiserError(f"denoiser {self.name}: expected finite numbers back, got NaN or Inf at {sigma=:g}")
        return out


def load_denoiser(spec: str, *, device: torch.device | str = "cpu", precision: Precision = "float32") -> LoadedDenoiser:
    """Load a denoiser.

    Args:
        spec: one of

            - a name of ``backcast denoisers``: shipped weights such as ``radar-3d``;
            - ``weights.safetensors`` with its card ``weights.json`` beside it;
            - ``nlm``, ``tv`` or ``wavelet``: classical ones, no training needed;
            - ``package.module:attribute`` or ``path/to/file.py:attribute``: a callable ``(v, sigma)``; a
              class is called without arguments first. This runs the module's code.
            - ``network.pt``, a TorchScript file, or ``network.pt2``, a `torch.export` file, whose forward
              takes ``(v, sigma)``, sigma being a number or a tensor of no dimensions in v's dtype.
        device: where a network's weights go.
        precision: of the convolutions of shipped and own weights; others compute as they like.

    Raises:
        DenoiserError: nothing is there, or it is no denoiser; the sentence says what was expected.
    """
    if spec in CLASSICAL:
        return LoadedDenoiser(CLASSICAL[spec](), spec, __version__)
    if spec in shipped_names() or spec.endswith(".safetensors"):
        network, card = load_weights(spec, device=device)
        function = NetworkDenoiser(network, n_dims=card.n_dims, noise_range=card.noise_range, precision=precision)
        sha256 = card.sha256 or file_sha256(shipped_file(spec) or Path(spec))
        name = spec if shipped_file(spec) else Path(spec).name
        return LoadedDenoiser(function, name, "", sha256, card.noise_range, card.n_dims)
    path, colon, attribute = spec.rpartition(":")
    if colon and attribute.isidentifier():
        found, file = (
            _from_file(Path(path), attribute, spec) if path.endswith(".py") else _from_module(path, attribute, spec)
        )
        made = _callable(found, spec, device)
        version = getattr(found, "__version__", getattr(sys.modules.get(_module_name(found)), "__version__", ""))
        name = f"{Path(path).name}:{attribute}" if path.endswith(".py") else spec
        return LoadedDenoiser(made, name, str(version), file_sha256(file) if file else "")
    file = Path(spec)
    if file.suffix not in (".pt", ".pt2"):
        raise DenoiserError(
            f"denoiser {spec}: expected module:attribute, path.py:attribute, a .safetensors, .pt or .pt2 file, or one "
            f"of {', '.join([*shipped_names(), *CLASSICAL])}"
        )
    if not file.is_file():
        raise DenoiserError(f"denoiser {spec}: expected a file, found none; check the path")
    call = _exported(file, device) if file.suffix == ".pt2" else _scripted(file, device)
    return LoadedDenoiser(call, file.name, "", file_sha256(file))


def _from_module(name: str, attribute: str, spec: str) -> tuple[Any, Path | None]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise DenoiserError(f"denoiser {spec}: no module {error.name}; is it installed, and spelled so?") from error
    except Exception as error:  # the module runs: anything may come
        raise DenoiserError(f"denoiser {spec}: importing {name!r} failed: {type(error).__name__}: {error}") from error
    file = getattr(module, "__file__", None)
    return _attribute(module, attribute, spec), Path(file) if file else None


def _from_file(path: Path, attribute: str, spec: str) -> tuple[Any, Path]:
    if not path.is_file():
        raise DenoiserError(f"denoiser {spec}: expected a file {path}, found none; check the path")
    name = f"_backcast_denoiser_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses and typing look their module up
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise DenoiserError(f"denoiser {spec}: running {path} failed: {type(error).__name__}: {error}") from error
    return _attribute(module, attribute, spec), path


def _attribute(module: Any, attribute: str, spec: str) -> Any:
    try:
        return getattr(module, attribute)
    except AttributeError:
        own = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        listed = f"; callables there: {', '.join(own[:20])}" if own else ""
        raise DenoiserError(f"denoiser {spec}: the module has no {attribute}{listed}") from None


def _module_name(found: Any) -> str:
    return str(getattr(found, "__module__", ""))


def _callable(found: Any, spec: str, device: torch.device | str) -> Callable[..., Any]:
    if inspect.isclass(found):
        try:
            found = found()
        except TypeError as error:
            raise DenoiserError(f"denoiser {spec}: the class needs arguments ({error}); give a made one") from error
    if isinstance(found, torch.nn.Module):
        found = found.to(device).eval()
    if not callable(found):
        raise DenoiserError(f"denoiser {spec}: expected a callable (v, sigma), found {type(found).__name__}")
    try:
        inspect.signature(found).bind(None, 0.1)
    except TypeError as error:
        raise DenoiserError(f"denoiser {spec}: expected a callable taking (v, sigma): {error}") from error
    except ValueError:
        pass  # a builtin without a signature: its call will tell
    function: Callable[..., Any] = found
    return function


def _scripted(file: Path, device: torch.device | str) -> Callable[..., Any]:
    wanted = f"denoiser {file}: expected a TorchScript file"
    if not zipfile.is_zipfile(file):
        raise DenoiserError(f"{wanted}, found something else; save the network with torch.export.save as .pt2")
    with zipfile.ZipFile(file) as archive:
        inside = {name.partition("/")[2] for name in archive.namelist()}
    if "constants.pkl" not in inside:
        raise DenoiserError(
            f"{wanted}, found weights alone; export the network with torch.export.save as .pt2, or give "
            "path.py:attribute of code that loads them"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch prefers .pt2; existing files must still load
        try:
            network: Any = torch.jit.load(str(file), map_location=device)
        except RuntimeError as error:
            raise DenoiserError(f"{wanted}, found a damaged one: {_first_line(error)}") from error
        network.eval()
    takes_number = [str(a.type) for a in network.forward.schema.arguments][2:3] == ["float"]
    return lambda v, sigma: network(v, sigma if takes_number else torch.as_tensor(sigma).to(v))


def _exported(file: Path, device: torch.device | str) -> Callable[..., Any]:
    try:
        program = torch.export.load(file)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise DenoiserError(f"denoiser {file}: expected a torch.export file: {_first_line(error)}") from error
    network = program.module().to(device)

    def function(v: Tensor, sigma: float) -> Any:
        try:
            return network(v, torch.as_tensor(sigma).to(v))
        except (RuntimeError, AssertionError, TypeError) as error:
            raise DenoiserError(
                f"denoiser {file}: the exported network refuses a volume of shape {tuple(v.shape)} "
                f"({_first_line(error)}); export it with dynamic shapes and the arguments (v, sigma)"
            ) from error

    return function


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
