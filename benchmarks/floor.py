"""The disk floor: compiles floor.c at run time and calls it.

The floor is the most that any durable store can do here: write the bytes, sync, again. It needs a C
compiler (the one that built Python, or `cc`); without one, its rows are left out with a note.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import time
from array import array
from collections.abc import Iterable
from pathlib import Path

from . import native

FILE_BYTES = 256 << 20

_SOURCE = Path(__file__).with_name("floor.c")


@functools.cache
def _library() -> ctypes.CDLL:
    return native.load(_SOURCE)


def missing() -> str | None:
    """Why there is no floor here, or None."""
    try:
        _library()
    except native.NoCompiler as error:
        return f"floor left out, no C compiler works: {error}"
    return None


def _sync_data(file: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(file)


def _call(name: str, *arguments: object) -> None:
    error = getattr(_library(), name)(*arguments)
    if error:
        raise OSError(error, f"{name}: {os.strerror(error)}")


class DiskFloor:
    """A preallocated, zero-filled, synced file in `folder`, written at advancing offsets."""

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES) -> None:
        self._path = folder / "floor"
        self._size = ctypes.c_int64(file_bytes)
        self._offset = ctypes.c_int64(0)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        _call("floor_prepare", self._file, self._size)

    def syncs_per_second(self, frame_bytes: int, seconds: float) -> float:
        """Frames of that size, each written and synced by itself."""
        frames, elapsed = ctypes.c_int64(), ctypes.c_double()
        _call(
            "floor_sync_loop",
            self._file,
            self._size,
            ctypes.c_int64(frame_bytes),
            ctypes.c_double(seconds),
            ctypes.byref(self._offset),
            ctypes.byref(frames),
            ctypes.byref(elapsed),
        )
        return frames.value / elapsed.value

    def sync_times(self, frame_bytes: int, seconds: float) -> array[int]:
        """The same by way of Python, each write and sync with its time, in nanoseconds."""
        times, frame, clock = array("q"), b"f" * frame_bytes, time.perf_counter_ns
        end = clock() + int(seconds * 1e9)
        while (start := clock()) < end:
            if self._offset.value + frame_bytes > self._size.value:
                self._offset.value = 0
            os.pwrite(self._file, frame, self._offset.value)
            _sync_data(self._file)
            self._offset.value += frame_bytes
            times.append(clock() - start)
        return times

    def close(self) -> None:
        os.close(self._file)
        self._path.unlink()


def write_bytes_per_second(folder: Path, size_bytes: int) -> float:
    """A new file written in chunks of 1 MiB, one sync at the end."""
    path, elapsed = folder / "floor-write", ctypes.c_double()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _call("floor_write_all", file, ctypes.c_int64(size_bytes), ctypes.byref(elapsed))
    finally:
        os.close(file)
        path.unlink()
    return size_bytes / elapsed.value


def read_seconds(paths: Iterable[Path]) -> tuple[float, int]:
    """Reads the files from end to end: seconds, and bytes read."""
    size, elapsed, total = ctypes.c_int64(0), ctypes.c_double(0), ctypes.c_uint64(0)
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            results = [ctypes.byref(x) for x in (size, elapsed, total)]
            _call("floor_read_all", file, *results)
        finally:
            os.close(file)
    return elapsed.value, size.value
