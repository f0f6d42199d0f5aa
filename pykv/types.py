"""Names for annotations: what pykv's functions take and give.  Needs nothing at run time."""

from typing import TYPE_CHECKING, Literal, Optional, TypedDict

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Buffer

BytesLike: "TypeAlias" = "str | Buffer"
"""What a key or a value may be given as: bytes, bytearray, memoryview, ...; a str is its UTF-8."""

SyncMode: "TypeAlias" = Literal["always", "interval", "never"]
GilMode: "TypeAlias" = Literal["auto", "release"]


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
    seconds: float
