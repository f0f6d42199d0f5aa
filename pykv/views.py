"""What `keys()`, `values()` and `items()` return: for a Store, views of it at one moment.

Each holds a snapshot, taken when it was made: it can be walked again and again and always tells
the same, whatever is written meanwhile.  The values that were replaced since are kept in memory
until the view is collected.  Those of a RemoteStore ask the server each time.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pykv._core import Snapshot
    from pykv.remote import _Live


class StoreKeys(KeysView[bytes]):
    """The keys, as a set: `in`, `len`, iteration, `&`, `|`, `-`, `^` and comparison."""

    __slots__ = ()
    _mapping: Any  # a Snapshot or _Live: what the base class keeps here needs no more

    def __init__(self, snapshot: Snapshot | _Live) -> None:
        super().__init__(cast("Mapping[bytes, Any]", snapshot))

    def __iter__(self) -> Iterator[bytes]:
        return cast("Iterator[bytes]", self._mapping.keys())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}>"


class StoreValues(ValuesView[bytes]):
    """The values: `len` and iteration; `in` looks at each of them."""

    __slots__ = ()
    _mapping: Any

    def __init__(self, snapshot: Snapshot | _Live) -> None:
        super().__init__(cast("Mapping[Any, bytes]", snapshot))

    def __contains__(self, value: object) -> bool:
        wanted = value.encode() if isinstance(value, str) else value
        return any(found == wanted for found in self)

    def __iter__(self) -> Iterator[bytes]:
        return cast("Iterator[bytes]", self._mapping.values())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}>"


class StoreItems(ItemsView[bytes, bytes]):
    """The pairs (key, value), as a set; `in` looks the key up."""

    __slots__ = ()
    _mapping: Any

    def __init__(self, snapshot: Snapshot | _Live) -> None:
        super().__init__(cast("Mapping[bytes, bytes]", snapshot))

    def __contains__(self, item: object) -> bool:
        key, value = cast("tuple[Any, object]", item)
        found = self._mapping.get(key)
        return found is not None and bool(
            found == (value.encode() if isinstance(value, str) else value)
        )

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return cast("Iterator[tuple[bytes, bytes]]", self._mapping.items())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}>"
