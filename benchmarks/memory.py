"""Memory beyond payload: the growth of the resident set of a fresh process, an item, minus 116 B.

Keys and values are cut from chunks of random bytes and dropped at once, so that no Python object
stays alive; both readings come after a collection and malloc_trim, the first one after a rehearsal
of the chunks, so that Python's own arenas are there already.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .data import KEY_BYTES, PAYLOAD_BYTES, Pair, pykv
from .report import BYTES, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns
from .worker import call_fresh

_CHUNK = 1000


def _chunks_of_pairs(seed: int, count: int) -> Iterator[list[Pair]]:
    rng = random.Random(seed)
    for _ in range(count // _CHUNK):
        raw = rng.randbytes(_CHUNK * PAYLOAD_BYTES)
        items = [raw[at : at + PAYLOAD_BYTES] for at in range(0, len(raw), PAYLOAD_BYTES)]
        yield [(item[:KEY_BYTES], item[KEY_BYTES:]) for item in items]


def resident_bytes() -> int:
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    try:
        rollup = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
    return next(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Rss:")) * 1024


def grow(kind: str, count: int, seed: int) -> dict[str, Any]:
    """In a process of its own: fills a store of that kind and answers what it takes."""
    store: Any = {} if kind == "dict" else pykv.open(None)
    put = store.__setitem__ if kind == "dict" else store.put
    for part in _chunks_of_pairs(seed + 1, 20 * _CHUNK):
        len(part)
    before = resident_bytes()
    for part in _chunks_of_pairs(seed, count):
        if kind == "put_many":
            store.put_many(part)
        else:
            for key, value in part:
                put(key, value)
    del part
    grown = resident_bytes() - before
    assert len(store) == count, "two random keys were equal"
    taken = 0 if kind == "dict" else store.stats().get("memory_bytes", 0)
    return {"resident": grown, "own": taken}


def beyond_payload(settings: Settings) -> Report:
    report = Report("memory only")
    counts = [settings.scaled(1_000_000, 200_000), settings.scaled(5_000_000, 500_000)]
    rounds = min(settings.rounds, settings.scaled(3, 1))
    kinds = ("put", "put_many", "dict")
    own: dict[tuple[str, int], int] = {}

    def side(kind: str, count: int) -> Callable[[], float]:
        def measure() -> float:
            found = call_fresh(__name__, "grow", kind=kind, count=count, seed=settings.seed)
            own[kind, count] = found["own"]
            return float(found["resident"]) / count - PAYLOAD_BYTES

        return measure

    for count in counts:
        figures = in_turns({kind: side(kind, count) for kind in kinds}, rounds)
        reference = Series("dict", figures["dict"], BYTES)
        for kind in ("put", "put_many"):
            mine = Series(f"pykv, {kind}", figures[kind], BYTES)
            target = Target(36, of="figure")
            report.rows.append(Row(f"beyond payload, {count:,} items", mine, reference, target))
            taken = own[kind, count] / count - PAYLOAD_BYTES
            report.notes.append(f"{count:,} by {kind}: stats()['memory_bytes'] says {taken:.1f} B")
    return report


BENCHMARKS = [Benchmark("memory", "resident memory beyond payload, an item", beyond_payload)]
