"""The shadowing guard: is the ``data`` that Python would import really ours?"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import TracebackType

PACKAGES = ("imaging", "denoisers", "data", "pipelines", "viewer")


class ShadowedNameError(ImportError):
    """A file of the user's hides one of backcast's packages."""


def shadowing_file(package: str) -> Path | None:
    """The file that Python would import as `package` instead of ours; None when it is ours.

    Nothing is imported: only the import system's finders are asked.
    """
    ours = Path(__file__).resolve().parent.parent / package
    if not ours.is_dir():
        return None
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    found = [Path(place).resolve() for place in places]
    if any(place == ours or ours in place.parents for place in found):
        return None
    return found[0] if found else None


def check_names() -> None:
    """Raise ShadowedNameError, one sentence, when a stranger's file hides one of our packages."""
    for package in PACKAGES:
        if package in sys.modules and getattr(sys.modules[package], "__spec__", None) is None:
            continue  # a test double or a notebook's own object: its owner knows
        hidden_by = shadowing_file(package)
        if hidden_by is not None:
            _print_without_traceback()
            raise ShadowedNameError(
                f"{hidden_by} hides backcast's package '{package}': rename that file or folder, or run your "
                f"script from another folder (backcast's own is {Path(__file__).resolve().parent.parent / package})"
            )


def _print_without_traceback() -> None:
    """Let an uncaught ShadowedNameError end a script with its sentence alone."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, ShadowedNameError):
            sys.stderr.write(f"backcast: {error}\n")
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
