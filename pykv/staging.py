"""What a load wants to change, between the file that it reads and the store.

A record of the file is done with a `Stage`, which writes to the store.  Before that, a file that is
too large for one commit is tried out: with a `Scan`, which finds what does not parse, and with a
`Trial`, which finds what cannot be done, each without a change to the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykv import _core

if TYPE_CHECKING:
    from pykv.remote import RemoteStore
    from pykv.store import Store
    from pykv.types import Operation

BATCH_BYTES = 8 << 20  # what a load writes in one commit, when it takes several
BATCH_ITEMS = 20_000
ONE_COMMIT_BYTES = 512 << 20  # of keys and values: more are not tried in one commit


class Bad(Exception):
    """What is wrong with one record; who reads the file says where."""


class TooLarge(Exception):
    """More than fits into one commit."""


class Stage:
    """The store as the file makes it: what is not written yet, before what the store has."""

    def __init__(self, store: Store | RemoteStore, now: int, *, at_once: bool) -> None:
        self._store, self._now, self._at_once = store, now, at_once
        self._operations: dict[bytes, Operation] = {}
        self._bytes = 0  # of what was put since the last write, and a little for each
        self._cleared = False  # nothing is left of what the store has
        self._together = at_once  # ... and that is one commit with what follows
        self.items = self.expired = 0

    def put(self, key: bytes, value: bytes, expiry: int = 0) -> None:
        if expiry == 0:
            self._operations[key] = value
        elif expiry > self._now:
            self._operations[key] = (value, expiry)
        else:
            self._operations[key] = None
            self.expired += 1
            return
        self.items += 1
        self._bytes += len(key) + len(value) + 32

    def delete(self, key: bytes) -> None:
        self._operations[key] = None
        self._bytes += len(key) + 32

    def clear(self) -> None:
        self._operations = {}
        self._bytes = 0
        self._cleared, self._together = True, self._at_once

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        """The key's value and expiry (0: never)."""
        if key in self._operations:
            operation = self._operations[key]
            if isinstance(operation, bytes):
                return operation, 0
            return operation if isinstance(operation, tuple) else None
        if self._cleared:
            return None
        value = self._store.get(key)
        expiry = self._store._expiry_of(key)
        return None if value is None or expiry is None else (value, expiry)

    def need(self, key: bytes) -> tuple[bytes, int] | None:
        """`get` where the answer may make the command fail."""
        return self.get(key)

    def require(self, key: bytes) -> tuple[bytes, int]:
        found = self.need(key)
        if found is None:
            raise Bad("there is no such key")
        return found

    def set_expiry(self, key: bytes, expiry: int) -> None:
        found = self.get(key)
        if found is None:
            return
        if 0 < expiry <= self._now:
            self.delete(key)
            self.expired += 1
        else:
            self._operations[key] = (found[0], expiry) if expiry else found[0]
            self._bytes += len(key) + len(found[0]) + 32

    def part(self) -> Stage:
        """A stage for what is done together: `join` does it here, all of it."""
        return _Part(self)

    def join(self) -> None:
        pass

    def write_if_full(self) -> None:
        if self._at_once:
            if self._bytes > ONE_COMMIT_BYTES:
                raise TooLarge
        elif self._bytes >= BATCH_BYTES or len(self._operations) >= BATCH_ITEMS:
            self.write()

    def write(self) -> None:
        if self._cleared and self._together:
            operations: dict[bytes, Operation] = dict.fromkeys(self._store)
            self._operations = {**operations, **self._operations}
        elif self._cleared:
            self._store.clear()
        if self._operations:
            self._store._write(self._operations)
        self.forget()

    def forget(self) -> None:
        """What is not written yet."""
        self._operations, self._bytes, self._cleared = {}, 0, False


class _Part(Stage):
    """Before what a stage has, which it changes when all has been done."""

    def __init__(self, whole: Stage) -> None:
        super().__init__(whole._store, whole._now, at_once=whole._at_once)
        self._whole = whole

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        known = self._cleared or key in self._operations
        return super().get(key) if known else self._whole.get(key)

    def join(self) -> None:
        whole = self._whole
        apart = not whole._at_once and whole._bytes + self._bytes > BATCH_BYTES
        if apart:
            whole.write()  # so that no more than this has to fit into its commit
        if self._cleared:
            whole.clear()
            whole._together = True
        whole._operations.update(self._operations)
        whole._bytes += self._bytes
        if apart:
            try:
                whole.write()
            except _core.LimitError as error:
                whole.forget()
                raise Bad(str(error)) from None
        whole.items += self.items
        whole.expired += self.expired


class Scan(Stage):
    """Writes nothing and knows nothing: finds what is wrong with a record as such, and the keys
    whose values decide whether a command can be done."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.items = self.expired = 0

    def put(self, key: bytes, value: bytes, expiry: int = 0) -> None:
        pass

    def delete(self, key: bytes) -> None:
        pass

    def clear(self) -> None:
        pass

    def get(self, key: bytes) -> None:
        return None

    def need(self, key: bytes) -> None:
        self.keys.add(key)

    def require(self, key: bytes) -> tuple[bytes, int]:
        self.keys.add(key)
        return b"", 0

    def set_expiry(self, key: bytes, expiry: int) -> None:
        pass

    def part(self) -> Stage:
        return self

    def write_if_full(self) -> None:
        pass


class Trial(Stage):
    """Writes nothing: finds what is wrong with a command for the values that it meets, of which it
    keeps those of `keys` only."""

    def __init__(self, store: Store | RemoteStore, now: int, keys: set[bytes]) -> None:
        super().__init__(store, now, at_once=True)
        self._keys = keys

    def put(self, key: bytes, value: bytes, expiry: int = 0) -> None:
        if key in self._keys:
            super().put(key, value, expiry)

    def delete(self, key: bytes) -> None:
        if key in self._keys:
            super().delete(key)

    def set_expiry(self, key: bytes, expiry: int) -> None:
        if key in self._keys:
            super().set_expiry(key, expiry)

    def part(self) -> Stage:
        return self

    def write_if_full(self) -> None:
        pass
