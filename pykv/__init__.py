"""pykv: the dict that survives a power cut.

    import pykv

    with pykv.open("data.kv") as store:
        store["greeting"] = "hello"      # on disk when this line is over
        print(store["greeting"])         # b'hello'

`open` gives a `Store`: a mutable mapping from bytes to bytes in memory, with a log on disk. Threads
may share it.  `serve` puts a store behind the Redis protocol; `connect` gives a `RemoteStore`: the
same methods over a server that speaks it.  `check`, `repair` and `restore` work on the files of a
store that is not open; `dump` and `load` write and read its items as text.  Exceptions, beside
Python's own (`KeyError` for a missing key, `TypeError` for what is neither bytes-like nor str,
`ValueError`, `OverflowError`, `MemoryError`):

    Error
     ├── ClosedError                   the store is closed
     ├── ForkError                     it was opened before this process was forked
     ├── ReadOnlyError                 a write, and it was opened with read_only=True
     ├── UnsupportedError              a server cannot do, or does not promise, what was asked
     ├── LimitError       ValueError   over KEY_MAX, VALUE_MAX or COMMIT_MAX bytes
     ├── MemoryLimitError MemoryError  the write needs more than max_memory
     ├── StorageError     OSError      a file operation failed, the disk is full, a password is wrong
     │    ├── FailedError              one failed earlier: no writes until the store is reopened
     │    └── ConnectionLostError      no server, or it went away: .maybe_done; a ConnectionError
     ├── LockedError      OSError      open in another process: .pid
     ├── CorruptionError               stored bytes are damaged: .path, .offset
     ├── VersionError                  a format that this version does not read: .path
     └── LoadError        ValueError   a file that cannot be loaded: .path, .line or .offset

and one warning, a RuntimeWarning: CheckpointWarning, a checkpoint failed and is tried again later.
"""

from typing import TYPE_CHECKING

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
from pykv.errors import ConnectionLostError, UnsupportedError
from pykv.files import CheckReport, Problem, RepairReport, check, repair, restore
from pykv.server import Server, serve
from pykv.store import Store, open

if TYPE_CHECKING:
    from typing import Any

    from pykv.capabilities import Capabilities
    from pykv.remote import RemoteStore, connect

__all__ = [
    "COMMIT_MAX",
    "KEY_MAX",
    "VALUE_MAX",
    "Batch",
    "Capabilities",
    "CheckReport",
    "CheckpointWarning",
    "ClosedError",
    "ConnectionLostError",
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
    "RemoteStore",
    "RepairReport",
    "Server",
    "StorageError",
    "Store",
    "UnsupportedError",
    "VersionError",
    "check",
    "connect",
    "dump",
    "load",
    "open",
    "repair",
    "restore",
    "serve",
]


def __getattr__(name: str) -> "Any":
    """What a store on a server needs is imported when it is asked for."""
    if name not in ("Capabilities", "RemoteStore", "connect"):
        raise AttributeError(f"module 'pykv' has no attribute {name!r}")
    from pykv import remote

    return globals().setdefault(name, getattr(remote, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
