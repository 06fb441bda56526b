"""Opening HDF5 that a stranger wrote: every failure is a Finding, no link is followed unseen."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.findings import Finding, error
from data.heap import damaged_heap

# What h5py raises for damaged structure, depending on the byte that is wrong.
DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    IndexError,
    SystemError,
)

MAX_OBJECTS = 100_000
_PLAIN_TYPES = (h5py.h5t.TypeStringID, h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeEnumID)
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class FormatProblem(Exception):
    """Carries a Finding from where it is found to where it is collected; never leaves `data`."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.path)
        self.finding = finding


def problem(code: str, path: str, *, expected: str, found: str, fix: str) -> FormatProblem:
    """A FormatProblem with an error finding."""
    return FormatProblem(error(code, path, expected=expected, found=found, fix=fix))


# -- opening --------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_file(
    path: str | os.PathLike[str], *, allow_links: bool = False, links_looked_at: bool = True
) -> Iterator[h5py.File]:
    """Open for reading, with every link looked at before any is followed.

    Args:
        path: the file.
        allow_links: let links out of the file be followed.
        links_looked_at: False where nothing but attributes of the root is read: it takes a fifth of the time.

    Raises:
        FormatProblem: missing, a folder, unreadable, empty, not HDF5, truncated, damaged, or with links out
            of the file although `allow_links` is False.
    """
    _check_plain_file(Path(path))
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as e:
        raise _why_not_opened(Path(path), e) from e
    try:
        _check_heap(Path(path))  # opening alone reads no text
        if links_looked_at:
            _check_links(file, allow_links)
        yield file
    finally:
        with contextlib.suppress(*DAMAGE):  # reading only: nothing can be lost
            file.close()


def _check_plain_file(path: Path) -> None:
    def refuse(code: str, found: str, fix: str) -> FormatProblem:
        return problem(code, "/", expected="an HDF5 file", found=found, fix=fix)

    try:
        info = path.stat()
    except FileNotFoundError:
        raise refuse("BC101", "no such file", "check the path") from None
    except PermissionError:
        raise refuse("BC103", "a folder that may not be entered", "ask for permission to read it") from None
    except OSError as e:
        raise refuse("BC103", e.strerror or str(e), "check the path") from None
    except ValueError:
        raise refuse("BC101", "a path with a null character", "check the path") from None
    if stat.S_ISDIR(info.st_mode):
        raise refuse("BC102", "a folder", "name a file inside it")
    if not stat.S_ISREG(info.st_mode):
        raise refuse("BC102", "a device, pipe or socket", "name a regular file")
    try:
        with open(path, "rb"):
            pass
    except OSError as e:
        raise refuse("BC103", e.strerror or str(e), "ask for permission to read it") from None
    if info.st_size == 0:
        raise refuse("BC104", "an empty file", "copy it again from its source")


def _check_heap(path: Path) -> None:
    heap = damaged_heap(path)
    if heap is not None:
        raise problem(
            "BC107",
            "/",
            expected="an intact HDF5 file",
            found=f"damage in the text heap at byte {heap}",
            fix="copy the file again from its source",
        )


def _why_not_opened(path: Path, e: Exception) -> FormatProblem:
    text = str(e)
    with open(path, "rb") as f:
        start = f.read(8)
    if "truncated" in text or (len(start) < 8 and _HDF5_SIGNATURE.startswith(start)):
        return problem(
            "BC106",
            "/",
            expected="a complete HDF5 file",
            found=f"a truncated one of {path.stat().st_size} bytes",
            fix="copy it again from its source, or record it again",
        )
    if "lock" in text:
        return problem(
            "BC103",
            "/",
            expected="a file that no program is writing",
            found="a file locked by another program",
            fix="wait for the writer, or set HDF5_USE_FILE_LOCKING=FALSE where the file system cannot lock",
        )
    if not _is_hdf5(path):
        return problem(
            "BC105",
            "/",
            expected="an HDF5 file",
            found=f"something else, beginning with {start!r}",
            fix="write a measurement file (docs/formats.md shows a writer), or name another file",
        )
    return problem(
        "BC107",
        "/",
        expected="an intact HDF5 file",
        found=f"damage ({short(e)})",
        fix="copy it again from its source",
    )


def _is_hdf5(path: Path) -> bool:
    try:
        return bool(h5py.is_hdf5(path))
    except DAMAGE:
        return False


def short(e: BaseException) -> str:
    """The first line of h5py's message, which may be long."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:160]


def _check_links(file: h5py.File, allow_links: bool) -> None:
    seen: set[int] = set()
    try:
        todo: list[tuple[str, h5py.Group]] = [("/", file["/"])]
    except DAMAGE as e:
        raise damaged("/", e) from e
    while todo:
        path, group = todo.pop()
        for name in names_in(group, path):
            here = posixpath.join(path, name)
            try:
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    if not allow_links:
                        raise _leaves_file(here, f"an external link to {link.filename!r}")
                    continue
                if isinstance(link, h5py.SoftLink):
                    continue  # stays inside; its target is visited by its own name
                obj = group[name]
                if isinstance(obj, h5py.Dataset):
                    _check_storage_inside(obj, here, allow_links)
                elif isinstance(obj, h5py.Group):
                    token = hash(obj.id)
                    if token not in seen:
                        seen.add(token)
                        todo.append((here, obj))
            except DAMAGE as e:
                raise damaged(here, e) from e
            if len(seen) > MAX_OBJECTS:
                raise problem(
                    "BC107",
                    "/",
                    expected=f"at most {MAX_OBJECTS} groups",
                    found="more",
                    fix="write one measurement per file",
                )


def _check_storage_inside(dataset: h5py.Dataset, path: str, allow_links: bool) -> None:
    if allow_links:
        return
    if dataset.is_virtual:
        raise _leaves_file(path, "a virtual dataset")
    if dataset.external:
        raise _leaves_file(path, f"samples stored in the other file {dataset.external[0][0]!r}")


def _leaves_file(path: str, found: str) -> FormatProblem:
    return problem(
        "BC110",
        path,
        expected="everything inside this one file",
        found=found,
        fix="copy the samples into the file, or read it in Python with allow_links=True if you trust it",
    )


def damaged(path: str, e: BaseException) -> FormatProblem:
    """The finding for structure that h5py cannot read."""
    return problem(
        "BC107",
        path,
        expected="an intact HDF5 structure",
        found=f"damage ({short(e)})",
        fix="copy the file again from its source",
    )


def names_in(group: h5py.Group, path: str) -> list[str]:
    """Names of the members of `group`, sorted."""
    return _sorted_names(group, path)


def attribute_names(obj: h5py.Group | h5py.Dataset, path: str) -> list[str]:
    """Names of the attributes of `obj`, sorted."""
    return _sorted_names(obj.attrs, path)


def _sorted_names(names: Iterable[str], path: str) -> list[str]:
    try:
        found = list(names)
        for name in found:
            if not isinstance(name, str):  # h5py hands undecodable names over as bytes
                raise problem(
                    "BC107",
                    path,
                    expected="names in UTF-8",
                    found=repr(name),
                    fix="copy the file again from its source",
                )
        return sorted(found)
    except (*DAMAGE, UnicodeError) as e:
        raise damaged(path, e) from e


def attribute(obj: h5py.Group | h5py.Dataset, path: str, name: str) -> Any:
    """An attribute's value, or None when there is none: str, bool, int, float, list of these.

    Bytes are decoded, arrays of one element are unpacked (MATLAB writes such), an attribute without a value
    (MATLAB's empty text) is "", an array of no elements []; one of more than 64 KiB or of a type that is
    none of these raises.
    """
    try:
        if name not in obj.attrs:
            return None
        attr_id = obj.attrs.get_id(name)
        space = attr_id.get_space()
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            return ""
        if space.get_simple_extent_npoints() == 0:
            return []
        # Reading text whose type is damaged into a sequence of text would take the process down.
        if not isinstance(attr_id.get_type(), _PLAIN_TYPES):
            raise problem(
                "BC203",
                f"{path}@{name}",
                expected="text or numbers",
                found=str(attr_id.get_type().__class__.__name__).removeprefix("Type").removesuffix("ID").lower(),
                fix="write plain text, a number, or a list of these",
            )
        if attr_id.get_storage_size() > 2**16:
            raise problem(
                "BC203",
                f"{path}@{name}",
                expected="a short attribute",
                found=f"{attr_id.get_storage_size()} bytes",
                fix="store long values as a dataset",
            )
        return _plain(obj.attrs[name])
    except FormatProblem:
        raise
    except (*DAMAGE, UnicodeError, MemoryError) as e:
        raise damaged(f"{path}@{name}", e) from e


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8").rstrip("\x00")
    if isinstance(value, np.ndarray):
        values = [_plain(v) for v in value.ravel().tolist()]
        return values[0] if value.size == 1 else values
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value


def get_object(file: h5py.File, path: str) -> h5py.Group | h5py.Dataset | None:
    """What is at `path`, None where nothing is; a soft link into the void raises FormatProblem."""
    try:
        here: h5py.Group | h5py.Dataset = file["/"]
        for name in path.strip("/").split("/"):
            if not isinstance(here, h5py.Group) or here.get(name, getlink=True) is None:
                return None
            link = here.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink) and here.get(name) is None:
                raise problem(
                    "BC201",
                    path,
                    expected="a dataset or group",
                    found=f"a soft link to {link.path!r}, which is not there",
                    fix="write the target, or remove the link",
                )
            here = here[name]
        return here
    except FormatProblem:
        raise
    except (*DAMAGE, UnicodeError) as e:
        raise damaged(path, e) from e


def find_group(file: h5py.File, path: str) -> h5py.Group | None:
    """The group at `path`, None when there is none.

    Raises:
        FormatProblem: a dataset there.
    """
    found = get_object(file, path) if path.strip("/") else file["/"]
    if found is None or isinstance(found, h5py.Group):
        return found
    raise problem("BC204", path, expected="a group", found="a dataset", fix="store the arrays inside a group")
