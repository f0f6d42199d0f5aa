"""The peers, each behind the same few methods, each at its own durable setting.

`durable` says what that setting is. A peer that is not installed says so in `missing()` and is left
out of the tables with that reason.
"""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .data import Pair
from .report import Report

_MAP_BYTES = 4 << 30  # LMDB wants its largest size in advance


class Peer:
    name: ClassVar[str]  # also the module's
    durable: ClassVar[str]
    load_limit: ClassVar[int] = 1_000_000  # more items would take minutes to load

    @classmethod
    def missing(cls) -> str | None:
        try:
            importlib.import_module(cls.name)
        except ImportError as error:
            return f"{cls.name} left out: {error}"
        return None

    def __init__(self, path: Path) -> None:
        """Opens, or makes, a store at `path`: every put is on disk before it returns."""
        raise NotImplementedError

    def put(self, key: bytes, value: bytes) -> None:
        raise NotImplementedError

    def load(self, pairs: Sequence[Pair]) -> None:
        """Puts all of them the fastest way there is; need not be durable."""
        raise NotImplementedError

    def getter(self) -> contextlib.AbstractContextManager[Callable[[bytes], Any]]:
        """The thinnest function that looks a key up, for as long as the context lasts."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Lmdb(Peer):
    name = "lmdb"
    durable = "default (sync=True, metasync=True), one write transaction a put"

    def __init__(self, path: Path) -> None:
        self._env = importlib.import_module("lmdb").open(str(path), map_size=_MAP_BYTES)

    def put(self, key: bytes, value: bytes) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.put(key, value)

    def load(self, pairs: Sequence[Pair]) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.cursor().putmulti(sorted(pairs))

    @contextlib.contextmanager
    def getter(self) -> Iterator[Callable[[bytes], Any]]:
        with self._env.begin() as transaction:
            yield transaction.get

    def close(self) -> None:
        self._env.close()


class Plyvel(Peer):
    name = "plyvel"
    durable = "sync=True"

    def __init__(self, path: Path) -> None:
        self._db = importlib.import_module("plyvel").DB(str(path), create_if_missing=True)

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value, sync=True)

    def load(self, pairs: Sequence[Pair]) -> None:
        with self._db.write_batch() as batch:
            for key, value in pairs:
                batch.put(key, value)
        self._db.compact_range()

    @contextlib.contextmanager
    def getter(self) -> Iterator[Callable[[bytes], Any]]:
        yield self._db.get

    def close(self) -> None:
        self._db.close()


class Rocksdict(Peer):
    name = "rocksdict"
    durable = "WriteOptions.sync=True, raw mode"

    def __init__(self, path: Path) -> None:
        module = importlib.import_module("rocksdict")
        self._batch = module.WriteBatch
        self._options = module.WriteOptions()
        self._options.sync = True
        self._db = module.Rdict(str(path), module.Options(raw_mode=True))

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value, self._options)

    def load(self, pairs: Sequence[Pair]) -> None:
        batch = self._batch(raw_mode=True)
        for key, value in pairs:
            batch.put(key, value)
        self._db.write(batch)
        self._db.flush()

    @contextlib.contextmanager
    def getter(self) -> Iterator[Callable[[bytes], Any]]:
        yield self._db.get

    def close(self) -> None:
        self._db.close()


class DiskCache(Peer):
    name = "diskcache"
    durable = "sqlite_synchronous=2 (FULL; its default, NORMAL, can lose commits), WAL"
    load_limit = 50_000

    def __init__(self, path: Path) -> None:
        self._cache = importlib.import_module("diskcache").Cache(
            str(path), sqlite_synchronous=2, eviction_policy="none", size_limit=_MAP_BYTES
        )

    def put(self, key: bytes, value: bytes) -> None:
        self._cache.set(key, value)

    def load(self, pairs: Sequence[Pair]) -> None:
        with self._cache.transact():
            for key, value in pairs:
                self._cache.set(key, value)

    @contextlib.contextmanager
    def getter(self) -> Iterator[Callable[[bytes], Any]]:
        yield self._cache.get

    def close(self) -> None:
        self._cache.close()


class Sqlite(Peer):
    name = "sqlite3"
    durable = "journal_mode=WAL, synchronous=FULL, one connection (threads share it under a lock)"

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    def put(self, key: bytes, value: bytes) -> None:
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, value))

    def load(self, pairs: Sequence[Pair]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", sorted(pairs))
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def getter(self) -> Iterator[Callable[[bytes], Any]]:
        execute = self._db.execute
        yield lambda key: execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()

    def close(self) -> None:
        self._db.close()


PEERS: list[type[Peer]] = [Lmdb, Plyvel, Rocksdict, DiskCache, Sqlite]


def installed(report: Report) -> list[type[Peer]]:
    """The peers that can run here; the report gets a note on each of the others."""
    reasons = {peer: peer.missing() for peer in PEERS}
    report.notes += [reason for reason in reasons.values() if reason]
    return [peer for peer in PEERS if not reasons[peer]]
