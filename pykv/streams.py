"""The files that dump writes and load reads, and progress that is told now and then."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import time
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykv.types import Progress

BLOCK = 1 << 20  # bytes; what is copied at once


class Source(NamedTuple):
    """A file to load from, which can be read several times."""

    file: BinaryIO
    name: str | None
    start: int
    """Where in the file it begins, in bytes; size: how many there are from there."""
    size: int


class Ticker:
    """Calls a progress function at most some 20 times a second."""

    INTERVAL = 0.05  # s

    def __init__(self, progress: Progress) -> None:
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be callable or None, not {type(progress).__name__}")
        self._progress = progress
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if self._progress is not None and time.monotonic() >= self._next:
            self._progress(done, total)
            self._next = time.monotonic() + self.INTERVAL

    def end(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)


def _is_path(file: object) -> bool:
    return isinstance(file, (str, bytes, os.PathLike))


def _demand_binary(file: Any, method: str) -> None:
    if isinstance(file, io.TextIOBase) or not hasattr(file, method):
        raise TypeError(f"file must be a path or a binary file object, not {type(file).__name__}")


class _Collected:
    """Large writes to a raw file, whose write may write less.

    Not io.BufferedWriter: that one tries again when it is dropped, and complains, from Python 3.13 on.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._bytes = bytearray()

    def write(self, data: bytes) -> None:
        self._bytes += data
        if len(self._bytes) >= 1 << 16:
            self.flush()

    def flush(self) -> None:
        rest = memoryview(bytes(self._bytes))
        self._bytes.clear()
        while rest:
            written = self._file.write(rest)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, "the file does not take more now", 0)
            rest = rest[written:]


@contextlib.contextmanager
def output(file: Any) -> Iterator[Callable[[bytes], object]]:
    """What writes to the file."""
    if not _is_path(file):
        _demand_binary(file, "write")
        if not isinstance(file, io.RawIOBase):
            yield file.write
            return
        collected = _Collected(file)
        yield collected.write
        collected.flush()
        return
    path = os.path.realpath(os.fsdecode(file))
    mode = _mode_of(path)
    if mode is not None and not stat.S_ISREG(mode):  # a pipe, a device: written as it is
        with open(path, "wb") as out:
            yield out.write
        return
    with _replacement(path, mode) as replacement:

        def write(data: bytes) -> None:
            with _about(path):
                replacement.write(data)

        yield write


@contextlib.contextmanager
def _about(path: str) -> Iterator[None]:
    """An error of an open file does not say which; one in here does."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def _mode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _replacement(path: str, mode: int | None) -> Iterator[BinaryIO]:
    """A file that takes the place of `path`, whole and on disk, when the block ends well."""
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".pykv-dump-{os.getpid()}-{time.monotonic_ns()}.tmp")
    out = open(temporary, "xb")
    try:
        with out:
            if mode is not None:
                os.fchmod(out.fileno(), stat.S_IMODE(mode))
            yield out
            with _about(path):
                out.flush()
                os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def input_source(file: Any) -> Iterator[Source]:
    if _is_path(file):
        name = os.fsdecode(file)
        with open(name, "rb") as opened:
            if opened.seekable():
                yield Source(opened, name, 0, opened.seek(0, os.SEEK_END))
            else:
                with _copy(opened) as copy:
                    yield Source(copy, name, 0, copy.tell())
        return
    _demand_binary(file, "read")
    given = getattr(file, "name", None)
    label = os.fsdecode(given) if isinstance(given, (str, bytes)) else None
    if isinstance(file, io.BufferedIOBase) and file.seekable():
        start = file.tell()
        yield Source(cast("BinaryIO", file), label, start, file.seek(0, os.SEEK_END) - start)
    else:
        with _copy(file) as copy:
            yield Source(copy, label, 0, copy.tell())


@contextlib.contextmanager
def _copy(file: Any) -> Iterator[BinaryIO]:
    """The rest of a file that cannot be read twice, in a file that can."""
    import tempfile

    with tempfile.TemporaryFile() as copy:
        for block in blocks(file):
            copy.write(block)
        yield cast("BinaryIO", copy)


def blocks(file: Any) -> Iterator[bytes]:
    """All that is left in a file.  One that does not wait, and has nothing now, has not ended."""
    while block := file.read(BLOCK):
        if not isinstance(block, bytes):
            raise TypeError("file must be a binary file object")
        yield block
    if block is None:
        raise BlockingIOError(errno.EAGAIN, "the file has nothing more now, and does not wait", 0)
