"""What the methods that are written in Python take: as csrc/python takes it, with the same exceptions.

Everything is looked at, and turned into bytes and numbers, before anything is written or sent.
"""

from __future__ import annotations

import datetime
import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from pykv import _core
from pykv._core import _key_bytes, _value_bytes

INT64 = range(-(2**63), 2**63)
ITEM_BYTES = 32  # about what each item takes in a commit, beyond its key and value


def sync_flag(sync: object) -> bool:
    if sync is None or sync is True:
        return sync is True
    if sync is False:
        raise ValueError("sync=False would promise less than the server's own mode")
    raise TypeError(f"sync must be True or None, not {type(sync).__name__}")


def increment(by: Any) -> int:
    try:
        number: int = operator.index(by)
    except TypeError:
        raise TypeError(f"by must be an integer, not {type(by).__name__}") from None
    if number not in INT64:
        raise OverflowError("by does not fit into 64 bits")
    return number


def ttl_ms(ttl: object, now: int) -> int:
    """How many milliseconds, rounded up.  `now`, in ms since 1970, bounds them."""
    if isinstance(ttl, int) and not isinstance(ttl, bool):
        ms = ttl * 1000
    elif isinstance(ttl, float):
        if not ttl > 0:  # NaN, too
            ms = 0
        else:
            ms = math.ceil(ttl * 1e3) if ttl < _core._EXPIRY_MAX / 1e3 else _core._EXPIRY_MAX + 1
    elif isinstance(ttl, datetime.timedelta):
        ms = (ttl.days * 86_400 + ttl.seconds) * 1000 + (ttl.microseconds + 999) // 1000
    else:
        raise TypeError(
            f"ttl must be a number of seconds or a timedelta, not {type(ttl).__name__}"
        )
    if ms <= 0:
        raise ValueError(f"ttl must be above 0, not {ttl!r}")
    if ms > _core._EXPIRY_MAX - now:
        raise ValueError(f"ttl of {ttl!r} ends after the year 10889")
    return ms


def key_list(keys: Iterable[Any]) -> list[bytes]:
    if isinstance(keys, (str, bytes, bytearray)):
        raise TypeError(f"keys must be an iterable of keys, not one {type(keys).__name__}")
    return [_key_bytes(key) for key in keys]


def item_dict(items: Any, commit_max: int) -> dict[bytes, bytes]:
    """The items of a mapping or an iterable of pairs; of several on one key the last counts."""
    result: dict[bytes, bytes] = {}
    size = 0
    for key, value in pairs_of(items):
        name, data = _key_bytes(key), _value_bytes(value)
        size += len(name) + len(data) + ITEM_BYTES
        if name in result:
            size -= len(name) + len(result[name]) + ITEM_BYTES
        if size > commit_max:
            raise too_large(size, commit_max)
        result[name] = data
    return result


def too_large(size: int, commit_max: int) -> _core.LimitError:
    return _core.LimitError(f"the commit has {size} bytes or more; the limit is {commit_max}")


def pairs_of(items: Any) -> Iterable[tuple[Any, Any]]:
    """Of a mapping, by dict.update's measure, or of an iterable of pairs."""
    if isinstance(items, Mapping):
        return items.items()
    if hasattr(items, "keys"):
        return [(key, items[key]) for key in items.keys()]
    return (_pair(item, number) for number, item in enumerate(items))


def _pair(item: Any, number: int) -> tuple[Any, Any]:
    if isinstance(item, (str, bytes)) or not hasattr(item, "__getitem__"):
        raise TypeError(f"item {number} must be a pair (key, value), not {type(item).__name__}")
    pair = tuple(item)
    if len(pair) != 2:
        raise ValueError(f"item {number} has {len(pair)} elements; a pair (key, value) is required")
    return pair
