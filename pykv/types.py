"""Names for annotations: what pykv's functions take and give.  Needs nothing at run time."""

from typing import TYPE_CHECKING, Literal, Optional, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from os import PathLike
    from typing import TypeAlias

    from typing_extensions import Buffer

BytesLike: "TypeAlias" = "str | Buffer"
"""What a key or a value may be given as: bytes, bytearray, memoryview, ...; a str is its UTF-8."""

StorePath: "TypeAlias" = "str | bytes | PathLike[str] | PathLike[bytes]"

FilePath: "TypeAlias" = "str | bytes | PathLike[str] | PathLike[bytes]"

SyncMode: "TypeAlias" = Literal["always", "interval", "never"]
GilMode: "TypeAlias" = Literal["auto", "release"]
WhenFull: "TypeAlias" = Literal["refuse", "evict"]
DumpFormat: "TypeAlias" = Literal["jsonl", "redis"]

Ttl: "TypeAlias" = "int | float | timedelta"
"""A time to live: seconds, or a timedelta; above 0, rounded up to milliseconds."""

Progress: "TypeAlias" = "Callable[[int, int], object] | None"
"""Called with (done, total) while a long call works; an exception that it raises ends the call."""

Operation: "TypeAlias" = "bytes | tuple[bytes, int] | int | None"
"""Of a batch, on one key: put; put with an expiry; another expiry; delete.  An expiry is in ms
since 1970, 0: never."""


class Stats(TypedDict):
    """What `Store.stats()` gives."""

    path: Optional[str]
    sync: SyncMode
    entries: int  # visible keys
    data_bytes: int  # of their keys and values
    memory_bytes: int  # taken from the system for them
    shards: int
    undo_records: int  # held for snapshots and for commits in flight
    snapshots: int
    handles: int  # open on this store in this process
    lsn: int  # end of the log as appended, in bytes since the store's birth
    visible_lsn: int  # what readers see
    durable_lsn: int  # what is on disk
    commits: int  # since the open, as are frames and syncs
    frames: int
    syncs: int
    log_bytes: int  # on disk
    log_segments: int
    failed: bool  # a write or sync failed: writes raise FailedError
    shards_loaded: int  # of `shards`; the others are in the checkpoint only, so far
    checkpoints: int  # made since the open, as are checkpoint_failures, expired and evicted
    checkpoint_lsn: int  # of the last one: the log before it is not needed
    checkpoint_bytes: int  # its size on disk
    checkpoint_failures: int
    checkpoint_error: Optional[str]  # why the last one failed; None when it did not
    expired: int  # keys that were swept away
    evicted: int  # keys that were removed for want of memory
    memory_charged: int  # what max_memory bounds: keys, values, and what an item takes beside
    max_memory: int  # in bytes; 0: no bound
    load_error: Optional[str]  # why a part of the checkpoint cannot be read


class Recovery(TypedDict):
    """What `Store.recovery` gives: what the last open of the store found."""

    clean: bool  # it had been closed properly, or is new
    created: bool  # there was no store before
    segments: int  # of log that were read
    frames: int
    commits: int
    records: int
    bytes: int
    bytes_cut: int  # of a torn tail that was never acknowledged
    checkpoint_items: int  # in the checkpoint that the log goes on from; 0: there is none
    seconds: float
