"""check, repair, restore: work on the files of a store that is not open."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from pykv import _core
from pykv.store import open as open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykv.store import Store
    from pykv.types import Progress, StorePath

    _Problem = tuple[str | None, int | None, str, str | None, int | None]


class Problem(NamedTuple):
    """Something wrong in a store's files."""

    path: str | None
    """The file, or the store's directory."""
    offset: int | None
    """The byte in it; None where that has no meaning."""
    message: str
    """What is wrong, in one line."""
    loss: str | None
    """What it costs, in one line."""
    errno: int | None = None
    """The system's error number, when the file cannot be read; None: what was read is wrong."""

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path is not None else ""
        if self.offset is not None:
            place += f"at byte {self.offset}: "
        return place + self.message + (f" ({self.loss})" if self.loss else "")


class CheckReport(NamedTuple):
    """What `check` found."""

    problems: list[Problem]
    """The first 10,000 problems, in the order in which they were met."""
    problem_count: int
    """How many there are in all."""
    files: int
    """How many were read."""
    bytes_read: int
    entries: int
    """Keys in the checkpoint."""
    frames: int
    """Whole ones, in the log."""
    records: int
    """Puts, deletes and other changes in those."""
    blocks_lost: int
    """Damaged parts of the checkpoint."""
    frames_lost: int
    """Damaged frames of the log."""
    bytes_lost: int
    """In them, and in what could not be read behind them."""

    @property
    def ok(self) -> bool:
        """True when there is no problem."""
        return self.problem_count == 0


class RepairReport(NamedTuple):
    """What `repair` found and saved; the fields up to `bytes_lost` are those of CheckReport."""

    problems: list[Problem]
    problem_count: int
    files: int
    bytes_read: int
    entries: int
    frames: int
    records: int
    blocks_lost: int
    frames_lost: int
    bytes_lost: int
    items: int
    """Keys in the new store."""
    suspects: list[bytes]
    """The first 10,000 of the keys whose value may be lost or outdated, as far as they are
    known."""
    suspect_count: int
    """How many of them there are in all."""

    @property
    def ok(self) -> bool:
        """True when there was no problem: the new store has everything."""
        return self.problem_count == 0


def check(path: StorePath, *, progress: Progress = None) -> CheckReport:
    """Reads every byte that the store in the directory `path` needs, and reports each problem.

    Changes nothing.  progress is called with (done, total), in bytes read, at most some 20 times a
    second; an exception that it raises ends the call.  Takes as long as reading the files does, and
    little memory; other threads run meanwhile.

    Problems are no exception: the report has them, also what the disk cannot read.  Raises
    LockedError when the store is open for writing, in this process or another; StorageError, an
    OSError, when there is no store, or no access to it or no file descriptor left; MemoryError;
    VersionError; TypeError.
    """
    problems: list[_Problem] = []
    counts = _core._check(path, problems, progress)
    return CheckReport(**_common(problems, counts))


def repair(
    source: StorePath, destination: StorePath, *, progress: Progress = None
) -> RepairReport:
    """Writes what is whole in the damaged store `source` into a new store, the directory
    `destination`.

    Nothing damaged is ever copied: each byte has passed its checksum.  What the report has in its
    problems is lost; the keys known to be concerned are its suspects (what the new store has for
    them may be an older value).  source is not changed, and destination, which must not be there or
    be an empty directory, is on disk when this returns.  The new store is in memory while it is
    made.

    progress as in `check`.  Raises what `check` raises, ValueError when one of the two directories
    is, or lies in, the other, StorageError when destination is there and not empty or has no room.
    What was made in destination is removed then.
    """
    _reject_overlap(source, destination)
    problems: list[_Problem] = []
    suspects: list[bytes] = []
    with _new_store(destination) as store:
        counts = _core._repair(source, store, problems, suspects, progress)
    return RepairReport(
        **_common(problems, counts),
        items=counts["items"],
        suspects=suspects,
        suspect_count=counts["suspects"],
    )


def restore(backup: StorePath, destination: StorePath, *, progress: Progress = None) -> None:
    """Checks the store in the directory `backup`, and copies it into the new directory
    `destination`.

    backup is what `Store.backup` made, or any store that is not open for writing; it is not
    changed. destination must not be there, or be an empty directory, and is on disk when this
    returns.

    progress is called with (done, total), in bytes checked and copied, as in `check`.  Raises
    CorruptionError for the first problem in the backup, or StorageError when it is that the disk
    cannot read a file, ValueError when one of the two directories is, or lies in, the other,
    StorageError when destination is there and not empty or has no room, and what `check` raises.
    What was made in destination is removed then.
    """
    _reject_overlap(backup, destination)
    with _new_directory(destination):
        halves = _halves(progress)
        report = check(backup, progress=halves[0])
        if not report.ok:
            raise _error(report.problems[0])
        with open_store(backup, read_only=True, create=False) as store:
            store.backup(destination, progress=halves[1])


def _error(problem: Problem) -> _core.Error:
    """The exception that opening a store with this problem would raise."""
    if problem.errno is not None:
        return _core.StorageError(problem.errno, problem.message, problem.path)
    error = _core.CorruptionError(str(problem))
    error.path, error.offset = problem.path, problem.offset
    return error


def _common(problems: list[_Problem], counts: dict[str, int]) -> dict[str, Any]:
    """The fields that both reports have."""
    names = ("files", "entries", "frames", "records", "blocks_lost", "frames_lost", "bytes_lost")
    return {
        "problems": [Problem(*problem) for problem in problems],
        "problem_count": counts["problems"],
        "bytes_read": counts["bytes"],
        **{name: counts[name] for name in names},
    }


def _halves(progress: Progress) -> tuple[Progress, Progress]:
    """Two progress functions for two calls in a row that are one for the caller."""
    if progress is None:
        return None, None
    if not callable(progress):
        raise TypeError(f"progress must be callable or None, not {type(progress).__name__}")
    tell: Callable[[int, int], object] = progress
    size = 0

    def first(done: int, total: int) -> None:
        nonlocal size
        size = total
        tell(done, 2 * total)

    def second(done: int, total: int) -> None:
        tell(size + done, size + total)

    return first, second


def _reject_overlap(source: StorePath, destination: StorePath) -> None:
    """Whatever is made in the destination must not be made in the source."""
    a, b = os.path.realpath(os.fsdecode(source)), os.path.realpath(os.fsdecode(destination))
    if a == b:
        raise ValueError(f"source and destination are the same directory: {a}")
    if os.path.commonpath([a, b]) in (a, b):
        raise ValueError(f"source and destination: one directory lies in the other: {a}, {b}")


@contextlib.contextmanager
def _new_directory(path: StorePath) -> Iterator[None]:
    """Demands that nothing is at `path`, or an empty directory.  After a failure it removes the
    directory that was made, if it is empty: files in it may be those of somebody who came
    meanwhile."""
    name = os.fsdecode(path)
    there = os.path.lexists(name)
    try:
        if there and os.listdir(name):
            raise _core.StorageError(errno.ENOTEMPTY, "the directory is not empty", name)
    except OSError as error:
        if isinstance(error, _core.StorageError):
            raise
        raise _core.StorageError(error.errno, error.strerror, name) from None
    try:
        yield
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                os.rmdir(name)
        raise


@contextlib.contextmanager
def _new_store(path: StorePath) -> Iterator[Store]:
    """A store in a new directory; after a failure its files are removed, but never those of a store
    that somebody else has made there meanwhile."""
    name = os.fsdecode(path)
    with _new_directory(path):
        ours = False
        try:
            try:
                store = open_store(path, sync="never")
            except BaseException as error:
                ours = not _is_of_others(name, error)
                raise
            ours = store.recovery["created"]
            with store:
                if not ours:
                    raise _core.StorageError(errno.ENOTEMPTY, "the directory is not empty", name)
                yield store
        except BaseException:
            if ours:
                _remove_store(name)
            raise


def _remove_store(name: str) -> None:
    """Not one that somebody has open: LOCK, which keeps others away meanwhile, goes last, and STORE
    first."""
    with contextlib.suppress(OSError), open(os.path.join(name, "LOCK"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in sorted(os.listdir(name), key=lambda file: (file != "STORE", file == "LOCK")):
            os.unlink(os.path.join(name, file))  # a store has no directories in it


def _is_of_others(name: str, error: BaseException) -> bool:
    """Whether a new store could not be made because something is there by now."""
    if isinstance(error, (_core.LockedError, _core.CorruptionError, _core.VersionError, ValueError)):
        return True  # a ValueError: it is open in this process, in another mode
    return os.path.lexists(os.path.join(name, "STORE"))
