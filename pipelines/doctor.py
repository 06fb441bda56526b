"""What may be wrong with an installation: versions, devices, names, permissions. Never crashes. No torch needed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imaging import __version__
from imaging._guard import PACKAGES, shadowing_file

REQUIRED = {
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "h5py": "h5py",
    "scikit-image": "skimage",
    "safetensors": "safetensors",
    "typer": "typer",
    "rich": "rich",
    "pydantic": "pydantic",
    "finufft": "finufft",
    "matplotlib": "matplotlib",
}
OPTIONAL = {
    "hdf5plugin": "reads compressed measurement files of other programs",
    "napari": "backcast view",
}
QTS = ("PyQt6", "PySide6", "PyQt5", "PySide2")

Status = Literal["good", "note", "wrong"]


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what.
        status: "wrong" makes `backcast doctor` exit with 1.
        found: in words.
        fix: what to do; "" when nothing is to be done.
    """

    name: str
    status: Status
    found: str
    fix: str = ""

    def plain(self) -> dict[str, str]:
        """For JSON."""
        return {"name": self.name, "status": self.status, "found": self.found, "fix": self.fix}


def examine() -> list[Check]:
    """Look at everything; a check that fails unexpectedly is itself a finding."""
    found: list[Check] = []
    for check in (_python, _versions, _devices, _shadowing, _owners, _writing, _threads):
        found += _safely(check)
    return found


def report(checks: list[Check]) -> str:
    """The checks as text, one line each, fixes below."""
    width = max(len(c.name) for c in checks)
    lines = []
    for c in checks:
        lines.append(f"{c.status:5}  {c.name.ljust(width)}  {c.found}")
        if c.fix:
            lines.append(f"{'':5}  {'':{width}}  -> {c.fix}")
    wrong = sum(c.status == "wrong" for c in checks)
    lines += ["", "all is well" if not wrong else f"{wrong} wrong"]
    return "\n".join(lines)


def _safely(check: Callable[[], list[Check]]) -> list[Check]:
    name = check.__name__.strip("_")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return check()
    except Exception as error:  # a doctor that dies helps nobody
        return [Check(name, "wrong", f"could not be looked at: {type(error).__name__}: {error}", "report this")]


def _python() -> list[Check]:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    return [
        Check("backcast", "good", __version__),
        Check(
            "python",
            "good" if good else "wrong",
            f"{version} on {platform.system()} {platform.machine()}",
            "" if good else "install Python 3.11 or newer",
        ),
    ]


def _versions() -> list[Check]:
    found = []
    for distribution, module in REQUIRED.items():
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found.append(Check(distribution, "wrong", "not installed", f"pip install {distribution}"))
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken binary raises anything
            words = f"{version}, but importing it fails: {type(error).__name__}: {str(error).splitlines()[:1]}"
            found.append(Check(distribution, "wrong", words, f"pip install --force-reinstall {distribution}"))
            continue
        found.append(Check(distribution, "good", version))
    for distribution, purpose in OPTIONAL.items():
        try:
            found.append(Check(distribution, "good", importlib.metadata.version(distribution)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Check(distribution, "note", f"not installed (optional: {purpose})"))
    qt = next((name for name in QTS if importlib.util.find_spec(name)), None)
    words = f"{qt} {importlib.metadata.version(qt)}" if qt else "not installed (optional: windows of backcast view)"
    found.append(Check("Qt", "good" if qt else "note", words))
    return found


def _devices() -> list[Check]:
    import torch

    found = [Check("device cpu", "good", f"{torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(i)
            gib = torch.cuda.get_device_properties(i).total_memory / 2**30
            try:
                works = float(torch.ones(2, device=f"cuda:{i}").sum()) == 2.0
            except RuntimeError as error:
                fix = "update the driver, or use --device cpu"
                found.append(Check(f"device cuda:{i}", "wrong", f"{name}: {str(error).splitlines()[0]}", fix))
                continue
            found.append(Check(f"device cuda:{i}", "good" if works else "wrong", f"{name}, {gib:.0f} GiB"))
    elif torch.version.cuda is not None:
        found.append(
            Check("device cuda", "note", f"torch is built for CUDA {torch.version.cuda}, but no device answers")
        )
    else:
        found.append(Check("device cuda", "note", "torch is a CPU build"))
    if torch.backends.mps.is_available():
        found.append(Check("device mps", "good", "Apple GPU"))
    return found


def _shadowing() -> list[Check]:
    found = []
    for package in PACKAGES:
        stranger = shadowing_file(package)
        if stranger is not None:
            fix = "rename that file or folder, or run from another folder"
            found.append(Check(f"package {package}", "wrong", f"hidden by {stranger}", fix))
    return found or [Check("packages", "good", f"{', '.join(PACKAGES)} are ours, in {_root()}")]


def _owners() -> list[Check]:
    """Names that two installed distributions own: the later installed one has overwritten the other's files."""
    owners = importlib.metadata.packages_distributions()
    found = []
    for package in PACKAGES:
        names = sorted(set(owners.get(package, ())))
        strangers = [n for n in names if n.lower() != "backcast"]
        if not strangers:
            continue
        both = len(names) > 1
        words = f"owned by {' and '.join(names)}" if both else f"also the name of {strangers[0]}, which is installed"
        fix = f"pip uninstall {strangers[0]}" + (
            ", then pip install --force-reinstall --no-deps backcast" if both else ""
        )
        found.append(Check(f"name {package}", "wrong", words, fix))
    return found or [Check("names", "good", "no other installed distribution owns one")]


def _writing() -> list[Check]:
    found = []
    for name, folder in (("current folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".backcast-doctor-") as file:
                file.write(b"x" * 4096)
                file.flush()
        except OSError as error:
            fix = "give -o a folder you may write in" if name == "current folder" else "set TMPDIR to another"
            # results go where -o says: a read-only current folder alone breaks nothing
            status: Status = "note" if name == "current folder" else "wrong"
            found.append(Check(name, status, f"{folder} cannot be written: {error.strerror}", fix))
            continue
        found.append(Check(name, "good", f"{folder} can be written"))
    return found


def _threads() -> list[Check]:
    from pipelines.executors import cpu_count

    found = [Check("CPUs", "good", f"{cpu_count()} usable")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(Check("memory", "good", f"{int(line.split()[1]) / 2**20:.1f} GiB available"))
    return found


def _root() -> Path:
    return Path(__file__).resolve().parent.parent
