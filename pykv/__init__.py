"""pykv: the dict that survives a power cut.

    import pykv

    with pykv.open("data.kv") as store:
        store["greeting"] = "hello"      # on disk when this line is over
        print(store["greeting"])         # b'hello'

`open` gives a `Store`: a mutable mapping from bytes to bytes in memory, with a log on disk.
Threads may share it.  Exceptions, beside Python's own (`KeyError` for a missing key, `TypeError`
for what is neither bytes-like nor str, `ValueError`, `OverflowError`, `MemoryError`):

    Error
     ├── ClosedError                   the store is closed
     ├── ForkError                     it was opened before this process was forked
     ├── ReadOnlyError                 a write, and it was opened with read_only=True
     ├── LimitError       ValueError   over KEY_MAX, VALUE_MAX or COMMIT_MAX bytes
     ├── StorageError     OSError      a file operation failed, or the disk is full
     │    └── FailedError              one failed earlier: no writes until the store is reopened
     ├── LockedError      OSError      open in another process: .pid
     ├── CorruptionError               stored bytes are damaged: .path, .offset
     └── VersionError                  a format that this version does not read: .path
"""

__version__ = "0.1.0"

try:
    from pykv._core import (
        COMMIT_MAX,
        KEY_MAX,
        VALUE_MAX,
        ClosedError,
        CorruptionError,
        Error,
        FailedError,
        ForkError,
        LimitError,
        LockedError,
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
from pykv.store import Store, open

__all__ = [
    "COMMIT_MAX",
    "KEY_MAX",
    "VALUE_MAX",
    "Batch",
    "ClosedError",
    "CorruptionError",
    "Error",
    "FailedError",
    "ForkError",
    "LimitError",
    "LockedError",
    "ReadOnlyError",
    "StorageError",
    "Store",
    "VersionError",
    "open",
]
