"""Batch: many writes as one atomic commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pykv._core import _key_bytes, _value_bytes
from pykv.arguments import key_list, pairs_of

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from pykv import _core
    from pykv.remote import RemoteStore
    from pykv.types import BytesLike, Operation, Ttl


class Batch:
    """Writes that happen together or not at all; made by `Store.batch()`.

        with store.batch() as batch:
            batch["a"] = "1"
            batch.delete("b")
            batch.put("c", "3", ttl=60)

    They are collected, and change nothing, until the block ends: then they become one commit, which
    readers and a recovery see whole or not at all.  If the block raises, nothing happens.  Several
    operations on one key have the effect that they would have one after the other.  Reads of the
    store do not see them before.  Used once, by one thread.
    """

    __slots__ = ("_operations", "_state", "_store", "_sync", "deleted")

    deleted: int | None
    """After the commit: how many of the deleted keys there were; None before."""

    def __init__(
        self, store: _core.Store | RemoteStore, *, sync: Literal[True] | None = None
    ) -> None:
        self._store = store
        self._sync = sync
        self._operations: dict[bytes, Operation] = {}
        self._state = "new"
        self.deleted = None

    def __enter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a batch can be used only once")
        self._state = "open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        operations = self._take()
        self._state = "over"
        if kind is None:
            self.deleted = self._store._write(operations, sync=self._sync)

    def put(self, key: BytesLike, value: BytesLike, ttl: Ttl | None = None) -> None:
        """Sets the key's value, and how long it lives from now on (None: for ever).

        Raises TypeError, ValueError and LimitError as `Store.put` does, at once.  If its time to
        live has passed when the batch ends, the key is deleted then.
        """
        operations = self._operations_now()
        if ttl is None:
            operations[_key_bytes(key)] = _value_bytes(value)
        else:
            expiry = self._store._expiry_after(ttl)
            operations[_key_bytes(key)] = (_value_bytes(value), expiry)

    def delete(self, key: BytesLike) -> None:
        """Deletes the key if it is there.  Raises TypeError and LimitError at once."""
        self._operations_now()[_key_bytes(key)] = None

    def expire(self, key: BytesLike, ttl: Ttl) -> None:
        """Lets the key, if it is there, expire when ttl has passed from now.

        Raises TypeError, ValueError and LimitError as `Store.expire` does, at once.
        """
        if ttl is None:
            raise TypeError("ttl must be a number of seconds or a timedelta, not None")
        self._set_expiry(key, self._store._expiry_after(ttl))

    def persist(self, key: BytesLike) -> None:
        """Lets the key, if it is there, live for ever.  Raises TypeError and LimitError at once."""
        self._set_expiry(key, 0)

    def put_many(
        self, items: Mapping[Any, BytesLike] | Iterable[tuple[BytesLike, BytesLike]]
    ) -> None:
        """`put` for each item of a mapping or of an iterable of pairs: all of them, or none."""
        self._operations_now().update(
            [(_key_bytes(key), _value_bytes(value)) for key, value in pairs_of(items)]
        )

    def delete_many(self, keys: Iterable[BytesLike]) -> None:
        """`delete` for each key: all of them, or none."""
        self._operations_now().update(dict.fromkeys(key_list(keys)))

    def __setitem__(self, key: BytesLike, value: BytesLike) -> None:
        self.put(key, value)

    def __delitem__(self, key: BytesLike) -> None:
        self.delete(key)

    def __len__(self) -> int:
        """How many keys it writes so far."""
        return len(self._operations)

    def __repr__(self) -> str:
        return f"<pykv.Batch {self._state}, {len(self)} keys>"

    def _set_expiry(self, key: BytesLike, expiry: int) -> None:
        """An expiry for what the batch does with the key, or else for what the store has."""
        operations = self._operations_now()
        name = _key_bytes(key)
        now = operations.get(name, expiry)
        if isinstance(now, tuple):
            now = now[0]
        if isinstance(now, bytes):
            operations[name] = (now, expiry) if expiry else now
        elif now is not None:  # a deleted key has no expiry
            operations[name] = expiry

    def _operations_now(self) -> dict[bytes, Operation]:
        if self._state != "open":
            raise RuntimeError("a batch collects only inside its with block")
        return self._operations

    def _take(self) -> dict[bytes, Operation]:
        operations = self._operations_now()
        self._operations = {}
        return operations
