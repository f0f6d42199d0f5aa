"""pykv: the dict that survives a power cut.

    import pykv

    with pykv.open("data.kv") as store:
        store["greeting"] = "hello"      # on disk when this line is over
        print(store["greeting"])         # b'hello'

`open` gives a `Store`: a mutable mapping from bytes to bytes in memory, with a log on disk. Threads
may share it.  `check`, `repair` and `restore` work on the files of a store that is not open; `dump`
and `load` write and read its items as text; `serve` puts a store behind the Redis protocol.
Exceptions, beside Python's own (`KeyError` for a missing key, `TypeError` for what is neither
bytes-like nor str, `ValueError`, `OverflowError`, `MemoryError`):

    Error
     ├── ClosedError                   the store is closed
     ├── ForkError                     it was opened before this process was forked
     ├── ReadOnlyError                 a write, and it was opened with read_only=True
     ├── LimitError       ValueError   over KEY_MAX, VALUE_MAX or COMMIT_MAX bytes
     ├── MemoryLimitError MemoryError  the write needs more than max_memory
     ├── StorageError     OSError      a file operation failed, or the disk is full
     │    └── FailedError              one failed earlier: no writes until the store is reopened
     ├── LockedError      OSError      open in another process: .pid
     ├── CorruptionError               stored bytes are damaged: .path, .offset
     ├── VersionError                  a format that this version does not read: .path
     └── LoadError        ValueError   a file that cannot be loaded: .path, .line or .offset

and one warning, a RuntimeWarning: CheckpointWarning, a checkpoint failed and is tried again later.
"""

__version__ = "0.1.0"

try:
    from pykv._core import (
        COMMIT_MAX,
        KEY_MAX,
        VALUE_MAX,
        CheckpointWarning,
        ClosedError,
        CorruptionError,
        Error,
        FailedError,
        ForkError,
        LimitError,
        LockedError,
        MemoryLimitError,
        ReadOnlyError,
        StorageError,
        VersionError,
    )
except ModuleNotFoundError as error:
    if error.name != "pykv._core":
        raise
    raise ImportError(
        "pykv's C extension is not built here: run `pip install -e .` or leave this folder"
    ) from None

from pykv.batch import Batch
from pykv.dumping import LoadError, LoadReport, dump, load
from pykv.files import CheckReport, Problem, RepairReport, check, repair, restore
from pykv.server import Server, serve
from pykv.store import Store, open

__all__ = [
    "COMMIT_MAX",
    "KEY_MAX",
    "VALUE_MAX",
    "Batch",
    "CheckReport",
    "CheckpointWarning",
    "ClosedError",
    "CorruptionError",
    "Error",
    "FailedError",
    "ForkError",
    "LimitError",
    "LoadError",
    "LoadReport",
    "LockedError",
    "MemoryLimitError",
    "Problem",
    "ReadOnlyError",
    "RepairReport",
    "Server",
    "StorageError",
    "Store",
    "VersionError",
    "check",
    "dump",
    "load",
    "open",
    "repair",
    "restore",
    "serve",
]
