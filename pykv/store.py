"""Store: the mapping that users see, and how it is opened."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from pykv import _core
from pykv.arguments import pairs_of
from pykv.batch import Batch
from pykv.views import StoreItems, StoreKeys, StoreValues

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from pykv.types import BytesLike, GilMode, StorePath, SyncMode, WhenFull


class Store(_core.Store, MutableMapping[bytes, bytes]):
    """A durable mapping from bytes to bytes, in memory and on disk; made by `pykv.open`.

    A full `collections.abc.MutableMapping` and a context manager that closes.  Keys (up to 65535
    bytes) and values (up to 512 MiB) are given as bytes-like or str (UTF-8) and read as bytes.
    Threads share a store freely; every method is atomic.  A write is as durable as the store's
    sync mode says when it returns, and nobody reads it before:

        "always"     on disk
        "interval"   in the kernel, and on disk within sync_interval seconds
        "never"      in the kernel, and on disk when the system likes

    A process that is killed loses no write that had returned, in any mode; a power cut takes what
    was not on disk.  A key with a time to live is absent from the moment on when it has passed.
    Iteration and `keys()`, `values()`, `items()` show the moment when they were
    called.  A store that is dropped without close() closes itself with a ResourceWarning (none for
    a store in memory); those that are open when the interpreter exits are closed then.  After a
    fork, every call in the child raises ForkError.
    """

    __slots__ = ("__weakref__",)

    def __init__(
        self,
        path: StorePath | None = None,
        *,
        sync: SyncMode = "always",
        sync_interval: float = 0.1,
        read_only: bool = False,
        create: bool = True,
        preload: bool = False,
        max_memory: int | None = None,
        when_full: WhenFull = "refuse",
        checkpoint_log_min: int = 64 << 20,
        checkpoint_log_ratio: float | None = 1.0,
        gil: GilMode = "auto",
    ) -> None:
        """As `pykv.open`."""
        super().__init__(
            path,
            sync=sync,
            sync_interval=sync_interval,
            read_only=read_only,
            create=create,
            preload=preload,
            max_memory=max_memory,
            when_full=when_full,
            checkpoint_log_min=checkpoint_log_min,
            checkpoint_log_ratio=checkpoint_log_ratio,
            gil=gil,
        )
        _open_stores[id(self)] = self

    def __enter__(self) -> Self:
        if self.closed:
            raise _core.ClosedError("the store is closed")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def keys(self) -> StoreKeys:
        """The keys of this moment, as a set in no order.  Raises ClosedError, ForkError."""
        return StoreKeys(self._snapshot())

    def values(self) -> StoreValues:
        """The values of this moment, in the order of keys().  Raises ClosedError, ForkError."""
        return StoreValues(self._snapshot())

    def items(self) -> StoreItems:
        """The pairs (key, value) of this moment, as a set.  Raises ClosedError, ForkError."""
        return StoreItems(self._snapshot())

    def update(  # type: ignore[override]  # its keys and values may be str, too
        self,
        other: Mapping[Any, BytesLike] | Iterable[tuple[BytesLike, BytesLike]] = (),
        /,
        **keywords: BytesLike,
    ) -> None:
        """put_many(other) together with the keywords' values, in one atomic commit.

        Durability and exceptions as put_many().
        """
        if keywords:
            self.put_many([*pairs_of(other), *keywords.items()])
        else:
            self.put_many(other)

    def batch(self, *, sync: Literal[True] | None = None) -> Batch:
        """A context manager that collects writes and does them in one atomic commit.

            with store.batch() as batch:
                batch["a"] = "1"
                batch.delete("b")
                batch.put("c", "3", ttl=60)

        Nothing happens before the block ends, nor if it raises.  sync=True: on disk when the block
        is over, whatever the store's mode.  The commit raises what put_many() raises.
        """
        return Batch(self, sync=sync)


_core._own_methods(Store)


def open(
    path: StorePath | None = None,
    *,
    sync: SyncMode = "always",
    sync_interval: float = 0.1,
    read_only: bool = False,
    create: bool = True,
    preload: bool = False,
    max_memory: int | None = None,
    when_full: WhenFull = "refuse",
    checkpoint_log_min: int = 64 << 20,
    checkpoint_log_ratio: float | None = 1.0,
    gil: GilMode = "auto",
) -> Store:
    """Opens the store in the directory `path`, or a new one in memory only (None).

    sync           when a write that returned is on disk: "always" (before it returns), "interval"
                   (within sync_interval), "never" (when the system likes)
    sync_interval  seconds, above 0; used with sync="interval"
    read_only      writes raise ReadOnlyError, and no file is changed
    create         make the store (one directory) when there is none
    preload        return when everything is in memory (see `Store.preload`)
    max_memory     bytes that keys, values and what each item takes beside may take in memory
                   (`stats()["memory_charged"]`); None: no bound
    when_full      what happens at that bound: "refuse" (a write that needs more raises
                   MemoryLimitError), "evict" (other keys are deleted, those used least first)
    checkpoint_log_min, checkpoint_log_ratio
                   the store makes a checkpoint (see `Store.checkpoint`) when so many bytes of log
                   came since the last one, and so much of the data's size; it looks when a segment of
                   the log is full, and at close.  A ratio of None or 0: only when asked for
    gil            "auto": operations that neither wait nor take long keep Python's global lock;
                   "release": every operation gives it up; the same where Python has none

    Finds every write again that was on disk, however the last process ended; `Store.recovery` says
    what was found.  Takes time in proportion to the log since the last checkpoint, however large
    the store is.  The same path opened again in this process is another handle on the same store;
    the options must then be the same.

    Raises StorageError, an OSError, when it cannot be opened or made; LockedError when another
    process has it open; CorruptionError and VersionError when what is there cannot be read (nothing
    is changed then; without preload, damage in a part of a checkpoint may show only when that part
    is read); ValueError and TypeError for bad arguments.
    """
    return Store(
        path,
        sync=sync,
        sync_interval=sync_interval,
        read_only=read_only,
        create=create,
        preload=preload,
        max_memory=max_memory,
        when_full=when_full,
        checkpoint_log_min=checkpoint_log_min,
        checkpoint_log_ratio=checkpoint_log_ratio,
        gil=gil,
    )


# By id: a Mapping is not hashable.
_open_stores: WeakValueDictionary[int, Store] = WeakValueDictionary()


@atexit.register
def _close_open_stores() -> None:
    """At the interpreter's exit.  All of them, even if one fails; then the first failure."""
    failure: Exception | None = None
    for reference in _open_stores.valuerefs():  # a copy: daemon threads may open others meanwhile
        store = reference()
        try:
            if store is not None:
                store.close()
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure
