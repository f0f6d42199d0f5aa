"""Batch: many puts and deletes as one atomic commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pykv._core import _key_bytes, _value_bytes

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from pykv import _core
    from pykv.types import BytesLike


class Batch:
    """Puts and deletes that happen together or not at all; made by `Store.batch()`.

        with store.batch() as batch:
            batch["a"] = "1"
            batch.delete("b")

    They are collected, and change nothing, until the block ends: then they become one commit, which
    readers and a recovery see whole or not at all.  If the block raises, nothing happens.  Of
    several operations on one key the last counts.  Reads of the store do not see them before.
    Used once, by one thread.
    """

    __slots__ = ("_operations", "_state", "_store", "_sync", "deleted")

    deleted: int | None
    """After the commit: how many of the deleted keys there were; None before."""

    def __init__(self, store: _core.Store, *, sync: Literal[True] | None = None) -> None:
        self._store = store
        self._sync = sync
        self._operations: dict[bytes, bytes | None] = {}
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

    def put(self, key: BytesLike, value: BytesLike) -> None:
        """Sets the key's value.  Raises TypeError and LimitError as `Store.put` does, at once."""
        operations = self._operations_now()
        operations[_key_bytes(key)] = _value_bytes(value)

    def delete(self, key: BytesLike) -> None:
        """Deletes the key if it is there.  Raises TypeError and LimitError at once."""
        self._operations_now()[_key_bytes(key)] = None

    def put_many(
        self, items: Mapping[Any, BytesLike] | Iterable[tuple[BytesLike, BytesLike]]
    ) -> None:
        """`put` for each item of a mapping or of an iterable of pairs: all of them, or none."""
        pairs = items.items() if isinstance(items, Mapping) else items
        self._operations_now().update(
            [(_key_bytes(key), _value_bytes(value)) for key, value in pairs]
        )

    def delete_many(self, keys: Iterable[BytesLike]) -> None:
        """`delete` for each key: all of them, or none."""
        if isinstance(keys, (str, bytes, bytearray)):
            raise TypeError(f"keys must be an iterable of keys, not one {type(keys).__name__}")
        self._operations_now().update({_key_bytes(key): None for key in keys})

    def __setitem__(self, key: BytesLike, value: BytesLike) -> None:
        self.put(key, value)

    def __delitem__(self, key: BytesLike) -> None:
        self.delete(key)

    def __len__(self) -> int:
        """How many keys it puts or deletes so far."""
        return len(self._operations)

    def __repr__(self) -> str:
        return f"<pykv.Batch {self._state}, {len(self)} keys>"

    def _operations_now(self) -> dict[bytes, bytes | None]:
        if self._state != "open":
            raise RuntimeError("a batch collects only inside its with block")
        return self._operations

    def _take(self) -> dict[bytes, bytes | None]:
        operations = self._operations_now()
        self._operations = {}
        return operations
