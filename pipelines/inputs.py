"""Which files a command line means, and where their results go. Needs no torch."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import ConfigError

SUFFIXES = (".h5", ".hdf5")
#: HDF5 under the names that foreign programs give it, and files taken from a folder when a TOML lies beside them.
FOREIGN_SUFFIXES = (*SUFFIXES, ".hdf", ".nxs", ".nx", ".mrd")
MAPPED_SUFFIXES = (".mat", ".npy", ".npz", ".cfl")
MEASUREMENT, RECONSTRUCTION = "backcast-measurement", "backcast-reconstruction"


@dataclass(frozen=True)
class Input:
    """One measurement file, foreign ones included.

    Attributes:
        source: the file.
        relative: its place below the folder that was named; the bare name for a file named itself.
        modality: as its root says; None when the file cannot say.
        moving: whether its samples have several frames.
    """

    source: Path
    relative: Path
    modality: str | None
    moving: bool = False


@dataclass(frozen=True)
class Found:
    """What a command line means.

    Attributes:
        inputs: in the order given, folders sorted, no file twice.
        strangers: HDF5 files in the named folders that are neither measurements, foreign ones included, nor
            reconstructions.
    """

    inputs: tuple[Input, ...]
    strangers: tuple[Path, ...]


def find_inputs(arguments: Sequence[str]) -> Found:
    """Expand files, folders, quoted globs and @lists.

    Folders are searched below for HDF5 files, and for MATLAB, NumPy and BART files with a TOML beside them; hidden
    files, reconstructions and HDF5 files of kinds that are not known are passed over. A damaged file stays in: it is
    to be reported, not overlooked. A list names one file, folder or glob a line, seen from the current folder; blank
    lines and lines beginning with # are left out; a path in a list does not go up by ``..``.

    Raises:
        ConfigError: something named is not there, or nothing is left.
    """
    inputs: dict[Path, Input] = {}
    strangers: list[Path] = []
    for argument in arguments:
        for source, relative, named in _expand(argument, inside_list=False):
            key = source.resolve()
            if key in inputs:
                continue
            one = _input(source, relative)
            if one is None:
                kind, modality = look(source)
                if not named and kind != MEASUREMENT:
                    if kind == "other":
                        strangers.append(source)
                    if kind != "damaged":
                        continue
                one = Input(source, relative, modality, _moving(source) if modality == "mri" else False)
            inputs[key] = one
    if not inputs:
        raise ConfigError(
            f"{' '.join(arguments) or 'nothing'}: expected measurement files (.h5, .hdf5) or foreign ones "
            "(docs/formats.md), found none; backcast simulate makes some"
        )
    return Found(tuple(inputs.values()), tuple(strangers))


def _input(source: Path, relative: Path) -> Input | None:
    """A foreign file, also one whose TOML is wrong; None for any other."""
    from data.convert.detect import foreign
    from data.errors import DataFormatError

    try:
        found = foreign(source)
    except DataFormatError:  # of the TOML; reading tells
        return Input(source, relative, None)
    return None if found is None else Input(source, relative, found.modality, found.moving)


def targets(inputs: Sequence[Input], output: Path) -> list[Path]:
    """Where each result goes: ``a/b.h5`` gives ``output/a/b_recon.h5``.

    Raises:
        ConfigError: two inputs would write the same file, or one would be written over.
    """
    taken: dict[Path, Input] = {}
    sources = {i.source.resolve() for i in inputs}
    found = []
    for one in inputs:
        target = output / one.relative.parent / f"{one.relative.stem}_recon.h5"
        key = target.resolve()
        if key in taken:
            raise ConfigError(
                f"{taken[key].source} and {one.source} would both write {target}; rename one, or run them "
                "with different -o"
            )
        if key in sources:
            raise ConfigError(f"{target}: a result would be written over an input; choose another -o")
        taken[key] = one
        found.append(target)
    return found


def _expand(argument: str, *, inside_list: bool) -> Iterator[tuple[Path, Path, bool]]:
    """(file, its relative place, whether it was named itself)."""
    if argument in ("", "@"):
        raise ConfigError(f"inputs: expected a file, folder, 'quoted glob' or @list, found {argument!r}")
    if argument.startswith("@") and not Path(argument).exists():
        if inside_list:
            raise ConfigError(f"{argument}: a list names no other list; put its lines into one")
        yield from _from_list(Path(argument[1:]))
        return
    path = Path(argument)
    if path.is_dir():
        yield from ((file, file.relative_to(path), False) for file in scans_below(path))
    elif path.exists() or path.with_suffix(".cfl").is_file():
        yield path, Path(path.name), True
    elif glob.has_magic(argument):
        base = _fixed_part(path)
        matches = sorted(Path(p) for p in glob.glob(argument, recursive=True))
        for match in matches:
            if match.is_dir():
                yield from ((file, file.relative_to(base), False) for file in scans_below(match))
            elif match.suffix in (*FOREIGN_SUFFIXES, *MAPPED_SUFFIXES):
                yield match, match.relative_to(base), False
        if not matches:
            raise ConfigError(f"{argument}: expected files that match, found none; check the pattern")
    else:
        raise ConfigError(f"{argument}: expected a file, folder, 'quoted glob' or @list, found nothing there")


def _from_list(path: Path) -> Iterator[tuple[Path, Path, bool]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"@{path}: expected a text file of file names ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"@{path}: expected a text file of file names in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        try:
            if ".." in Path(name).parts:
                raise ConfigError(
                    f"{name[:200]}: expected a path that leads nowhere upwards in a list, found ..; write it from the "
                    "root, or start in the folder above"
                )
            yield from _expand(name, inside_list=True)
        except ConfigError as error:
            raise ConfigError(f"@{path} line {number}: {error}") from error


def files_below(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """HDF5 files below a folder, hidden files and folders left out, sorted."""
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        broken = path.is_symlink() and not path.exists()  # stays in, to be reported
        if path.suffix in suffixes and not hidden and (path.is_file() or broken):
            found.append(path)
    return sorted(found)


def scans_below(folder: Path) -> list[Path]:
    """What may be measurements: HDF5 files, and MATLAB, NumPy and BART files that say what they are, or a TOML does."""
    from data.convert.detect import foreign
    from data.convert.sidecar import sidecar_of
    from data.errors import DataFormatError

    def says(path: Path) -> bool:
        if path.suffix not in MAPPED_SUFFIXES or sidecar_of(path) is not None:
            return True
        try:
            found = foreign(path) if path.suffix == ".mat" else None
        except DataFormatError:
            return True
        return found is not None and found.kind == "radar_matlab"

    return [path for path in files_below(folder, (*FOREIGN_SUFFIXES, *MAPPED_SUFFIXES)) if says(path)]


def _fixed_part(pattern: Path) -> Path:
    """The folders in front of the first one with a wildcard."""
    fixed = []
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def look(path: Path) -> tuple[str, str | None]:
    """Format and modality of a file's root; "other" for none of ours, "damaged" when it will not open."""
    from data.hdf5 import FormatProblem, attribute, open_file

    try:
        with open_file(path, links_looked_at=False) as f:
            kind, modality = (attribute(f, "/", name) for name in ("format", "modality"))
    except FormatProblem:
        return "damaged", None
    known = kind if kind in (MEASUREMENT, RECONSTRUCTION) else "other"
    return known, modality if isinstance(modality, str) else None


def _moving(path: Path) -> bool:
    """Whether /measurement/data has an axis frame longer than one, as far as the file can say."""
    from data.hdf5 import FormatProblem, attribute, find_group, open_file
    from data.stored import find_dataset
    from data.values import as_names

    try:
        with open_file(path) as f:
            group, stored = find_group(f, "/measurement"), find_dataset(f, "/measurement/data")
            names = None if group is None else as_names(attribute(group, "/measurement", "axes"))
            shape = () if stored is None else stored.shape
    except FormatProblem:
        return False
    return names is not None and "frame" in names and dict(zip(names, shape, strict=False)).get("frame", 1) > 1
