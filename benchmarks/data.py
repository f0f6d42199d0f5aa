"""What is stored and asked for: 16 B random keys, 100 B values, and key objects made afresh."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

KEY_BYTES, VALUE_BYTES = 16, 100
PAYLOAD_BYTES = KEY_BYTES + VALUE_BYTES
VALUE = b"v" * VALUE_BYTES

Pair = tuple[bytes, bytes]
_T = TypeVar("_T")


def _import_pykv() -> Any:
    """The repository's own pykv/ when it was built in place, else the installed package (the
    folder that `-m` puts first on the path would hide it)."""
    root = Path(__file__).resolve().parent.parent
    if not any(root.glob("pykv/_core*.so")) and not any(root.glob("pykv/_core*.pyd")):
        sys.path[:] = [path for path in sys.path if Path(path).resolve() != root]
    import pykv

    return pykv


pykv = _import_pykv()


def make_keys(rng: random.Random, count: int) -> list[bytes]:
    return [rng.randbytes(KEY_BYTES) for _ in range(count)]


def make_pairs(rng: random.Random, count: int) -> list[Pair]:
    return [(rng.randbytes(KEY_BYTES), rng.randbytes(VALUE_BYTES)) for _ in range(count)]


def fresh(items: Iterable[bytes]) -> list[bytes]:
    """New objects with the same bytes: no hash is cached in them, and nobody else holds them."""
    return [bytes(bytearray(item)) for item in items]


def fresh_probe(rng: random.Random, keys: Sequence[bytes], count: int | None = None) -> list[bytes]:
    """Keys in random order, without repetition, as new objects."""
    return fresh(rng.sample(keys, len(keys) if count is None else count))


def own_dict(pairs: Iterable[Pair]) -> dict[bytes, bytes]:
    """A dict whose objects nobody else holds, so that replacing one frees it."""
    return {bytes(bytearray(key)): bytes(bytearray(value)) for key, value in pairs}


def chunks(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


@contextlib.contextmanager
def opened(path: Path | None, **options: Any) -> Iterator[Any]:
    """A pykv store, closed at the end."""
    store = pykv.open(path, **options)
    try:
        yield store
    finally:
        store.close()


def load(store: Any, pairs: Sequence[Pair], batch: int = 10_000) -> None:
    for part in chunks(pairs, batch):
        store.put_many(part)


def fill(store: Any, rng: random.Random, count: int, batch: int = 1000) -> None:
    """So many new items, of which none stays here."""
    for start in range(0, count, batch):
        store.put_many(make_pairs(rng, min(batch, count - start)))


def disk_bytes(folder: Path) -> int:
    """What the files in a store's folder take on the disk."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # gone since
            total += path.stat().st_blocks * 512
    return total


def log_bytes(store: Any) -> int:
    """Bytes of log written in the store's life, as it counts them itself."""
    return int(store.stats()["lsn"])


def frame_bytes(store: Any) -> int:
    """How many bytes of log one put of 16 + 100 B takes, framing included."""
    sizes = []
    for _ in range(8):
        before = log_bytes(store)
        store.put(b"frame size probe"[:KEY_BYTES], VALUE)
        sizes.append(log_bytes(store) - before)
    return min(sizes)  # a mark may have come between
