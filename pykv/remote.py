"""RemoteStore: a store's methods over a server that speaks the Redis protocol."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast, overload

from pykv import _core, arguments
from pykv._core import _key_bytes, _value_bytes
from pykv.arguments import increment, item_dict, key_list, sync_flag, ttl_ms
from pykv.batch import Batch
from pykv.capabilities import Capabilities, info_fields
from pykv.views import StoreItems, StoreKeys, StoreValues

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from pykv.link import Link
    from pykv.types import BytesLike, Operation, Progress, RemoteStats, Ttl

    Command = tuple[bytes | str | int, ...]

_T = TypeVar("_T")

KEYS_AT_ONCE = 10_000  # of one MGET, MSET or DEL; more are several of them in one transaction
SCAN_COUNT = 500  # keys that a step of an iteration asks for, about
POLL_SECONDS = 0.05  # while a server writes a snapshot
_MISSING: Any = object()


class RemoteStore(MutableMapping[bytes, bytes]):
    """A mapping from bytes to bytes on a server; made by `pykv.connect`.

    The methods, arguments, results and exceptions of `pykv.Store`, one round trip to the server
    each unless they say otherwise, and two for a write that takes several commands.  Threads share
    a RemoteStore freely; every method is atomic, but iteration, which shows the keys of no single
    moment: what is there from its beginning to its end is shown once, what comes or goes meanwhile
    may be.  A write is as durable as the server makes it: see `capabilities`.  Keys expire by the
    server's clock.

    A call that finds the server away tries again a few times; a write is never sent twice.  When
    an answer to one is lost it raises ConnectionLostError with `maybe_done`.  A forked child goes
    on with connections of its own.
    """

    __slots__ = ("__weakref__", "_link")

    def __init__(self, link: Link) -> None:
        """Private: use `pykv.connect`."""
        self._link = link

    def __enter__(self) -> Self:
        self._link.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pykv.RemoteStore {self.url!r}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RemoteStore cannot be pickled or copied: connect again")

    # ---- Reading -------------------------------------------------------------------------------

    @overload
    def get(self, key: BytesLike, default: None = None) -> bytes | None: ...
    @overload
    def get(self, key: BytesLike, default: _T) -> bytes | _T: ...
    def get(self, key: BytesLike, default: Any = None) -> Any:
        """The key's value as bytes, or default when there is no such key."""
        value = self._link.call("GET", _key_bytes(key), repeat=True)
        return default if value is None else value

    def __getitem__(self, key: BytesLike) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        name = _key_bytes(cast("BytesLike", key))
        return cast("int", self._link.call("EXISTS", name, repeat=True)) == 1

    def __len__(self) -> int:
        """How many keys the server has; keys that have expired may count for a while."""
        return cast("int", self._link.call("DBSIZE", repeat=True))

    def get_many(self, keys: Iterable[BytesLike], /) -> list[bytes | None]:
        """A list with the value of each key, None where there is none, all as of one moment."""
        commands: list[Command] = [("MGET", *part) for part in _parts(key_list(keys))]
        self._link.check()
        if len(commands) > 1:
            replies = self._link.transaction(commands, repeat=True)
        else:
            replies = self._link.pipeline(commands, repeat=True) if commands else []
        return [value for reply in replies for value in reply]

    def view(self, key: BytesLike, /) -> memoryview:
        """The key's value as a read-only memoryview of a copy.  Raises KeyError."""
        return memoryview(self[key])

    def __iter__(self) -> Iterator[bytes]:
        return _Live(self).keys()

    def keys(self) -> StoreKeys:
        """The keys, as a set in no order; like a dict's, it shows later changes, too."""
        return StoreKeys(_Live(self))

    def values(self) -> StoreValues:
        """The values, in no order; like a dict's, it shows later changes, too."""
        return StoreValues(_Live(self))

    def items(self) -> StoreItems:
        """The pairs (key, value), as a set; like a dict's, it shows later changes, too."""
        return StoreItems(_Live(self))

    # ---- Writing -------------------------------------------------------------------------------

    def put(
        self,
        key: BytesLike,
        value: BytesLike,
        *,
        ttl: Ttl | None = None,
        sync: Literal[True] | None = None,
    ) -> None:
        """Sets the key's value; as store[key] = value.

        ttl and limits as in `Store.put`.  sync=True raises UnsupportedError, and changes nothing,
        where the server does not promise that the write is on disk then.
        """
        command: Command = ("SET", _key_bytes(key), _value_bytes(value))
        if ttl is not None:
            command += ("PX", ttl_ms(ttl, self._clock()))
        self._link.call(*command, durable=sync_flag(sync))

    def __setitem__(self, key: BytesLike, value: BytesLike) -> None:
        self.put(key, value)

    def delete(self, key: BytesLike, *, sync: Literal[True] | None = None) -> bool:
        """Deletes the key; True when it was there, False when not."""
        return cast("int", self._link.call("DEL", _key_bytes(key), durable=sync_flag(sync))) == 1

    def __delitem__(self, key: BytesLike) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def put_many(
        self,
        items: Mapping[Any, BytesLike] | Iterable[tuple[BytesLike, BytesLike]],
        *,
        ttl: Ttl | None = None,
        sync: Literal[True] | None = None,
    ) -> None:
        """Puts many keys at once: readers see all of it or nothing.

        As `Store.put_many`; LimitError when they are over 1 GiB together.
        """
        ms = None if ttl is None else ttl_ms(ttl, self._clock())
        puts = item_dict(items, _core.COMMIT_MAX)
        if ms is None:
            self._do(_puts(puts), sync)
        else:
            self._do([("SET", key, value, "PX", ms) for key, value in puts.items()], sync)

    def update(  # type: ignore[override]  # its keys and values may be str, too
        self,
        other: Mapping[Any, BytesLike] | Iterable[tuple[BytesLike, BytesLike]] = (),
        /,
        **keywords: BytesLike,
    ) -> None:
        """put_many(other) together with the keywords' values, at once."""
        puts = item_dict(other, _core.COMMIT_MAX)
        if keywords:
            puts = item_dict([*puts.items(), *keywords.items()], _core.COMMIT_MAX)
        self.put_many(puts)

    def delete_many(
        self, keys: Iterable[BytesLike], *, sync: Literal[True] | None = None
    ) -> int:
        """Deletes many keys at once; the number of those that were there."""
        return sum(self._do([("DEL", *part) for part in _parts(key_list(keys))], sync))

    def batch(self, *, sync: Literal[True] | None = None) -> Batch:
        """A context manager that collects writes and does them at once: see `Store.batch`."""
        return Batch(self, sync=sync)

    def clear(self) -> None:
        """Deletes every key of the server's database, at once."""
        self._link.call("FLUSHDB", patient=True)

    # ---- Looking and writing in one step -------------------------------------------------------

    def incr(self, key: BytesLike, by: int = 1, *, sync: Literal[True] | None = None) -> int:
        """Adds by to the integer stored under the key (0 when absent); the new value as int.

        The key keeps its ttl.  Raises ValueError when the value is not an integer of 64 bits,
        OverflowError when by or the result does not fit into 64 bits: nothing is changed then.
        """
        command = ("INCRBY", _key_bytes(key), increment(by))
        return cast("int", self._link.call(*command, durable=sync_flag(sync)))

    def replace(
        self,
        key: BytesLike,
        value: BytesLike,
        *,
        expected: BytesLike | None,
        sync: Literal[True] | None = None,
    ) -> bool:
        """Puts value if the key's value equals expected; True when it did.

        expected=None: only if there is no such key.  The key never expires then.  Two or three
        round trips where `capabilities.compare_and_set` is "watch", and more while others write
        the key.
        """
        name, data = _key_bytes(key), _value_bytes(value)
        durable = sync_flag(sync)
        if expected is None:
            return self._link.call("SET", name, data, "NX", durable=durable) is not None
        return self._link.compare_and_set(name, data, _value_bytes(expected), durable=durable)

    def setdefault(self, key: BytesLike, default: BytesLike = b"") -> bytes:
        """The key's value; when there is none, puts default, for ever, and returns it."""
        name, data = _key_bytes(key), _value_bytes(default)
        _, value = self._link.transaction([("SET", name, data, "NX"), ("GET", name)])
        return cast("bytes", value)

    @overload
    def pop(self, key: BytesLike) -> bytes: ...
    @overload
    def pop(self, key: BytesLike, default: _T) -> bytes | _T: ...
    def pop(self, key: BytesLike, default: Any = _MISSING) -> Any:
        """Deletes the key and returns its value; default, else KeyError, when there is none."""
        value = self._link.call("GETDEL", _key_bytes(key))
        if value is not None:
            return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[bytes, bytes]:
        """Deletes some key and returns (key, value).  Two round trips, or more."""
        while True:
            key = self._link.call("RANDOMKEY", repeat=True)
            if key is None:
                raise KeyError("popitem(): store is empty")
            value = self.pop(key, None)
            if value is not None:
                return key, value

    # ---- Expiry --------------------------------------------------------------------------------

    def ttl(self, key: BytesLike, /) -> float | None:
        """The seconds that the key has left, by the server's clock; None when it never expires.

        Raises KeyError when there is no such key.
        """
        ms = self._link.call("PTTL", _key_bytes(key), repeat=True)
        if ms == -2:
            raise KeyError(key)
        return None if ms == -1 else ms / 1000

    def expire(
        self, key: BytesLike, ttl: Ttl, *, sync: Literal[True] | None = None
    ) -> bool:
        """Lets the key expire when ttl has passed from now; True when it was there."""
        if ttl is None:
            raise TypeError(
                "ttl must be a number of seconds or a timedelta, not None: "
                "persist() takes the expiry away"
            )
        command = ("PEXPIRE", _key_bytes(key), ttl_ms(ttl, self._clock()))
        return cast("int", self._link.call(*command, durable=sync_flag(sync))) == 1

    def persist(self, key: BytesLike, *, sync: Literal[True] | None = None) -> bool:
        """Lets the key live for ever, whatever ttl it had; True when it was there."""
        name = _key_bytes(key)
        return cast("int", self._do([("PERSIST", name), ("EXISTS", name)], sync)[1]) == 1

    # ---- The store as a whole ------------------------------------------------------------------

    def sync(self) -> None:
        """Returns when everything written so far is on disk.

        Nothing to do where `capabilities.durable_writes` is "always"; pykv's server makes a
        checkpoint otherwise, and others raise UnsupportedError.
        """
        known = self.capabilities
        if known.durable_writes == "always":
            return
        if known.backend != "pykv" or known.durable_writes == "memory":
            self._link.demand_durable(known)
        self.checkpoint()

    def checkpoint(self, *, progress: Progress = None) -> None:
        """Lets the server write its whole state into one file; on disk when it returns.

        On pykv's server that is `Store.checkpoint`; on others an RDB snapshot.  progress is called
        with (done, total) now and then, if the server tells, and at the end; an exception that it
        raises ends the call.
        """
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be callable or None, not {type(progress).__name__}")
        if self.capabilities.backend == "pykv":
            self._link.call("SAVE", patient=True)
            done = 1
        else:
            done = self._save(progress)
        if progress is not None:
            progress(done, done)

    def _save(self, progress: Progress) -> int:
        """An RDB snapshot of now, made by a process beside the server: so it goes on meanwhile."""
        total = 0
        while True:  # one that is being made now may lack the last writes
            try:
                run, _ = self._link.call_of_run("BGSAVE", repeat=False)
                break
            except _core.Error as error:
                if "in progress" not in str(error):
                    raise
            time.sleep(POLL_SECONDS)
        while (fields := self._saving(run))["rdb_bgsave_in_progress"] != "0":
            total = int(fields.get("current_save_keys_total", 0)) or total
            if progress is not None and total:
                progress(min(int(fields.get("current_save_keys_processed", 0)), total), total)
            time.sleep(POLL_SECONDS)
        if fields.get("rdb_last_bgsave_status") != "ok":
            raise _core.StorageError(errno.EIO, "the server could not write its snapshot", self.url)
        return total or 1

    def _saving(self, run: str) -> dict[str, str]:
        now, reply = self._link.call_of_run("INFO", "persistence", repeat=True)
        if now != run:
            text = "the server was started anew while it wrote its snapshot"
            raise _core.StorageError(errno.EIO, text, self.url)
        return {"rdb_bgsave_in_progress": "0", **info_fields(reply)}

    def stats(self) -> RemoteStats:
        """Figures of the server as a dict, from its INFO; keys that mean what they mean in
        `Store.stats()` have the same name.  `info` has every field as the server gives it."""
        reply, entries = self._link.pipeline([("INFO",), ("DBSIZE",)], repeat=True)
        fields, known = info_fields(reply), self.capabilities

        def number(name: str) -> int:
            text = fields.get(name, "0")
            return int(text) if text.isdecimal() else 0

        return {
            "url": self.url,
            "backend": known.backend,
            "version": known.version,
            "sync": known.durable_writes,
            "entries": entries,
            "memory_bytes": number("used_memory"),
            "max_memory": number("maxmemory"),
            "expired": number("expired_keys"),
            "evicted": number("evicted_keys"),
            "clients": number("connected_clients"),
            "commands": number("total_commands_processed"),
            "uptime_seconds": number("uptime_in_seconds"),
            "info": fields,
        }

    @property
    def capabilities(self) -> Capabilities:
        """What the server is and promises; as of the last connection that was made."""
        return self._link.capabilities

    @property
    def url(self) -> str:
        """Where the server is; without the password."""
        return self._link.url

    @property
    def path(self) -> None:
        """None: the files are the server's."""
        return None

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._link.closed

    def close(self) -> None:
        """Waits for calls in flight and ends the connections.  Later calls raise ClosedError."""
        self._link.close()

    # ---- Inside --------------------------------------------------------------------------------

    def _do(self, commands: list[Command], sync: object) -> list[Any]:
        """The replies of commands that are done together."""
        durable = sync_flag(sync)
        self._link.check()
        if len(commands) > 1:
            return self._link.transaction(commands, durable=durable)
        if not commands and durable:
            self._link.demand_durable(self.capabilities)
        return [self._link.call(*command, durable=durable) for command in commands]

    def _write(
        self, operations: dict[bytes, Operation], *, sync: Literal[True] | None = None
    ) -> int:
        """One transaction of a dict as `Store._write` takes it: what Batch and load are made of."""
        now = self._clock()
        puts: dict[bytes, bytes] = {}
        deleted: list[bytes] = []
        rest: list[Command] = []
        size = 0
        for key, what in operations.items():
            size += len(key) + arguments.ITEM_BYTES
            if isinstance(what, bytes):
                puts[key] = what
                size += len(what)
            elif isinstance(what, tuple):
                size += len(what[0])
                if what[1] == 0:
                    puts[key] = what[0]
                elif what[1] > now:
                    rest.append(("SET", key, what[0], "PX", what[1] - now))
                else:
                    rest.append(("DEL", key))
            elif what is None:
                deleted.append(key)
            elif what == 0:
                rest.append(("PERSIST", key))
            else:  # of the past, too: the server deletes the key then
                rest.append(("PEXPIRE", key, what - now))
        if size > _core.COMMIT_MAX:
            raise arguments.too_large(size, _core.COMMIT_MAX)
        deletes: list[Command] = [("DEL", *part) for part in _parts(deleted)]
        replies = self._do([*deletes, *_puts(puts), *rest], sync)
        return sum(replies[: len(deletes)])

    def _clock(self) -> int:
        """This machine's, in ms since 1970: moments are counted by it, and sent as distances."""
        return time.time_ns() // 1_000_000

    def _expiry_after(self, ttl: Ttl | None, /) -> int:
        now = self._clock()
        self._link.check()
        return 0 if ttl is None else now + ttl_ms(ttl, now)

    def _expiry_of(self, key: BytesLike, /) -> int | None:
        ms = self._link.call("PTTL", _key_bytes(key), repeat=True)
        return None if ms == -2 else 0 if ms == -1 else self._clock() + cast("int", ms)

    def _snapshot(self) -> _Live:
        return _Live(self)


class _Live:
    """What a Snapshot has, for what the server has now."""

    def __init__(self, store: RemoteStore) -> None:
        store._link.check()
        self._store = store

    def get(self, key: BytesLike, default: Any = None) -> Any:
        return self._store.get(key, default)

    def __getitem__(self, key: BytesLike) -> bytes:
        return self._store[key]

    def __contains__(self, key: object) -> bool:
        return key in self._store

    def __len__(self) -> int:
        return len(self._store)

    def keys(self) -> Iterator[bytes]:
        for page in self._pages():
            yield from page

    __iter__ = keys

    def values(self) -> Iterator[bytes]:
        return (value for _, value in self.items())

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for page in self._pages():
            values = self._store.get_many(page)
            for key, value in zip(page, values, strict=True):
                if value is not None:  # gone meanwhile
                    yield key, value

    def _records(self) -> Iterator[tuple[bytes, bytes, int]]:
        """With the moment when each expires, as `Snapshot._records`."""
        for page in self._pages():
            commands: list[Command] = [("MGET", *page), *(("PTTL", key) for key in page)]
            values, *left = self._store._link.transaction(commands, repeat=True)
            now = self._store._clock()
            for key, value, ms in zip(page, values, left, strict=True):
                if value is not None and ms != -2:  # gone between the two
                    yield key, value, now + ms if ms >= 0 else 0

    def _pages(self) -> Iterator[list[bytes]]:
        """Lists of keys, never empty, none of which is shown twice.

        SCAN may show a key again, so every key is remembered: in 32 bytes at the most, which for
        a longer one are a hash that cannot collide in practice.  A server that was started anew, or
        another one in its place, has other cursors: the walk begins again, and shows the rest.
        """
        seen: set[bytes] = set()
        cursor: bytes | int = 0
        salt = os.urandom(16)
        run: str | None = None
        while True:
            now, (following, keys) = self._store._link.call_of_run(
                "SCAN", cursor, "COUNT", SCAN_COUNT, repeat=True
            )
            stale, run = run not in (None, now), now
            if stale and int(cursor) != 0:
                cursor = 0
                continue
            cursor = following
            page = []
            for key in keys:
                mark = key
                if len(key) >= 32:
                    mark = hashlib.blake2b(key, digest_size=32, key=salt).digest()
                if mark not in seen:
                    seen.add(mark)
                    page.append(key)
            if page:
                yield page
            if int(cursor) == 0:
                return


def _parts(keys: list[bytes]) -> list[list[bytes]]:
    return [keys[i : i + KEYS_AT_ONCE] for i in range(0, len(keys), KEYS_AT_ONCE)]


def _puts(items: dict[bytes, bytes]) -> list[Command]:
    """MSETs."""
    return [
        ("MSET", *(field for key in part for field in (key, items[key])))
        for part in _parts(list(items))
    ]


def connect(
    url: str,
    *,
    username: str | None = None,
    password: str | None = None,
    timeout: float | None = 30.0,
    connect_timeout: float | None = 5.0,
    retries: int = 5,
    max_connections: int = 64,
) -> RemoteStore:
    """Opens a store on a server that speaks the Redis protocol: Redis, Valkey, or pykv's own.

    url                   redis://HOST:PORT/DB, rediss:// for TLS, unix:///PATH?db=DB; with
                          USER:PASSWORD@ before the host if the server wants that.  In rediss:// the
                          options of redis-py may follow: ssl_ca_certs, ssl_certfile and so on
    username, password    take the place of those in the URL
    timeout               seconds that the server may take for an answer; None: any time (which
                          clear and checkpoint always have)
    connect_timeout       seconds until a connection must be there
    retries               how often a call tries again that finds the server away or still starting
    max_connections       at a time; a thread that needs one more waits

    Needs redis-py: `pip install 'redis>=5'`.  The database should have strings only, and nothing
    that other programs want to keep from `clear`.

    Raises ConnectionLostError, an OSError, when the server cannot be reached; StorageError when it
    refuses the password; ValueError and TypeError for bad arguments; ImportError without redis-py.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be str, not {type(url).__name__}")
    try:
        from pykv.link import Link
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ImportError("pykv.connect needs redis-py: pip install 'redis>=5'") from None
    _check_numbers(timeout, connect_timeout, retries, max_connections)
    link = Link(
        url,
        username=username,
        password=password,
        timeout=timeout,
        connect_timeout=connect_timeout,
        retries=retries,
        max_connections=max_connections,
    )
    link.capabilities  # noqa: B018  # connects, so that what is wrong shows here
    return RemoteStore(link)


def _check_numbers(
    timeout: float | None, connect_timeout: float | None, retries: int, max_connections: int
) -> None:
    for name, seconds in (("timeout", timeout), ("connect_timeout", connect_timeout)):
        if seconds is not None and not 0 < seconds < float("inf"):
            raise ValueError(f"{name} must be seconds above 0, or None, not {seconds!r}")
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, not {retries!r}")
    if max_connections < 1:
        raise ValueError(f"max_connections must be 1 or more, not {max_connections!r}")
