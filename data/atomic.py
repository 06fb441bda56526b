"""Writing a file that is either there, whole, or not there at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from data.errors import DataWriteError

_TABLE_BYTES = 2**16


class _Sink:
    """The file that HDF5 writes through.

    When the disk is full, HDF5 cannot close a file any more and takes the process down with it. So HDF5 never
    hears of a failing write: the failure is kept for the caller, and what is written later goes to memory
    (small pieces, HDF5's own tables, which it may want to read again) or nowhere (samples).
    """

    def __init__(self, path: Path) -> None:
        handle = _open_locked(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
        try:
            os.ftruncate(handle, 0)  # a part that a killed writer left behind
        except BaseException:
            os.close(handle)
            raise
        self._raw = os.fdopen(handle, "rb+", buffering=0)
        self._position = 0
        self._end = 0
        self._overlay: dict[int, bytes] = {}
        self.failure: OSError | None = None

    def write(self, data: memoryview | bytes) -> int:
        view = memoryview(data).cast("B")
        if self.failure is None:
            try:
                self._write_all(view)
            except OSError as e:
                self.failure = e
        if self.failure is not None and len(view) <= _TABLE_BYTES:
            self._overlay[self._position] = bytes(view)
        self._position += len(view)
        self._end = max(self._end, self._position)
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        self._raw.seek(self._position)
        while len(view):
            view = view[self._raw.write(view) or 0 :]

    def readinto(self, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        self._raw.seek(self._position)
        n = self._raw.readinto(view) or 0
        view[n:] = bytes(len(view) - n)
        for start, block in self._overlay.items():
            first, last = max(start, self._position), min(start + len(block), self._position + len(view))
            if first < last:
                view[first - self._position : last - self._position] = block[first - start : last - start]
        self._position += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = {0: 0, 1: self._position, 2: self._end}[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        size = self._position if size is None else size
        if self.failure is None:
            try:
                self._raw.truncate(size)
            except OSError as e:
                self.failure = e
        self._end = size
        return size

    def flush(self) -> None:
        """Nothing is buffered here; `sync` goes down to the disk."""

    def sync(self) -> None:
        os.fsync(self._raw.fileno())

    def share(self, path: Path) -> None:
        """Let readers in, no other writer: HDF5 wants a shared lock of its own to read."""
        _lock(self._raw.fileno(), path, shared=True)

    def close(self) -> None:
        self._raw.close()


def _open_locked(path: Path, flags: int) -> int:
    """A locked handle of the file that has the name `path` now.

    Raises:
        _BusyError: another writer holds it.
    """
    for _ in range(10):
        handle = os.open(path, flags, 0o666)
        try:
            _lock(handle, path)
            if _has_name(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its writer gave the part its final name between our open and our lock
    raise _BusyError(path)


def _has_name(handle: int, path: Path) -> bool:
    if sys.platform == "win32":  # pragma: no cover (open files cannot be renamed there)
        return True
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(handle: int, path: Path, *, shared: bool = False) -> None:
    """Two writers of one file must not share one part; the lock goes with its process."""
    if sys.platform == "win32":  # pragma: no cover (open files cannot be replaced there anyway)
        return
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise _BusyError(path) from e
    except OSError:
        return  # a file system without locks


class _BusyError(Exception):
    """Another writer holds the part."""


def remove_part(path: Path) -> None:
    """Remove what a killed writer of `path` left; the part of a writer still at work stays."""
    part = path.with_name(f".{path.name}.part")
    with contextlib.suppress(OSError, _BusyError):
        handle = _open_locked(part, os.O_RDWR)
        try:
            part.unlink()
        finally:
            os.close(handle)


def write_hdf5(
    path: str | os.PathLike[str],
    fill: Callable[[h5py.File], None],
    check: Callable[[Path], None] = lambda part: None,
) -> None:
    """Write an HDF5 file through `.NAME.part` in the same folder, fsync and rename.

    Args:
        path: the file to write; an old one of that name is replaced at the last moment.
        fill: writes the content.
        check: looks at the finished part; what it raises keeps the part from becoming the file.

    Raises:
        DataWriteError: folder missing or unwritable, disk full, ...; no part is left behind.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    if target.is_dir():
        raise DataWriteError(f"{target}: expected a file to write, found a folder; name a file inside it")
    try:
        sink = _Sink(part)
        try:
            _write_through(sink, part, target, fill, check)
        finally:
            sink.close()
    except _BusyError as e:
        raise DataWriteError(
            f"{target}: expected to be its only writer, found another process at work on {part.name}; "
            "wait for it, or write elsewhere"
        ) from e
    except DataWriteError:
        raise
    except OSError as e:
        raise _cannot_write(target, e) from e
    _sync_folder(target.parent)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside `path` for another library to write to; the file gets its own name when all went well.

    Raises:
        DataWriteError: folder missing or unwritable, disk full, ...; no part is left behind.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    if target.is_dir():
        raise DataWriteError(f"{target}: expected a file to write, found a folder; name a file inside it")
    try:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()  # that a killed writer left behind
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            _remove(part)
            raise
    except DataWriteError:
        raise
    except OSError as e:
        raise _cannot_write(target, e) from e
    _sync_folder(target.parent)


def _write_through(
    sink: _Sink, part: Path, target: Path, fill: Callable[[h5py.File], None], check: Callable[[Path], None]
) -> None:
    """Fill, check and rename the part; it stays locked until it has its final name."""
    try:
        _fill_through(sink, fill)
        sink.share(part)
        check(part)
        if sys.platform == "win32":  # pragma: no cover (an open file cannot be renamed there)
            sink.close()
        os.replace(part, target)
    except _BusyError:
        raise  # the part is another writer's now
    except BaseException:
        if sys.platform == "win32":  # pragma: no cover
            sink.close()
        _remove(part)
        raise


def _fill_through(sink: _Sink, fill: Callable[[h5py.File], None]) -> None:
    try:
        file = h5py.File(sink, "w")
        try:
            fill(file)
            file.flush()
        finally:
            file.close()
    except Exception as e:
        # HDF5 wraps the reason; the reason is what the user needs.
        raise (sink.failure or e) from e
    if sink.failure is not None:
        raise sink.failure
    sink.sync()


def _cannot_write(target: Path, e: OSError) -> DataWriteError:
    folder = target.parent
    if not folder.exists():
        return DataWriteError(f"{target}: expected an existing folder {folder}, found none; create it first")
    if not folder.is_dir():
        return DataWriteError(f"{target}: expected a folder {folder}, found a file; choose another output folder")
    reason = e.strerror or str(e)
    return DataWriteError(
        f"{target}: expected to write it, found: {reason}; free some space or choose a folder that you may write to"
    )


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
