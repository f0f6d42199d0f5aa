"""Opening a store that has a checkpoint: until the first answer, and until all of it is in memory.

A process of its own fills the store, makes the checkpoint and closes. Each round opens it in a fresh
process; the files are in the page cache. Opening changes a few bytes of the log only, so all rounds
share one store of each size.
"""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import floor
from .data import VALUE_BYTES, fill, make_keys, opened, pykv
from .recovery import warm
from .report import RATE, SECONDS, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns, progress
from .worker import call_fresh

_SOME_KEYS = 100
_INDEX_ENTRY_BYTES = 48  # of each shard, at the checkpoint's end


def build(path: str, count: int, seed: int) -> dict[str, Any]:
    """In a process of its own: a checkpoint of `count` items; some of the keys, in hex."""
    rng = random.Random(seed)
    keys = make_keys(rng, _SOME_KEYS)
    with opened(Path(path), sync="never", checkpoint_log_ratio=None) as store:
        store.put_many([(key, key[:1] * VALUE_BYTES) for key in keys])
        fill(store, rng, count - len(keys))
        store.checkpoint()
        stats = store.stats()
    assert stats["entries"] == count, "two random keys were equal"
    shards, size = stats["shards"], stats["checkpoint_bytes"]
    return {"keys": [key.hex() for key in keys], "shards": shards, "bytes": size}


def first_get(path: str, key: str) -> dict[str, float]:
    """In a process of its own: seconds to the end of open(), and of the first get()."""
    wanted = bytes.fromhex(key)
    start = time.perf_counter()
    store = pykv.open(path)
    opened_at = time.perf_counter()
    value = store.get(wanted)
    answered_at = time.perf_counter()
    assert value == wanted[:1] * VALUE_BYTES
    store.close()
    return {"open": opened_at - start, "all": answered_at - start}


def load_all(path: str, count: int, one_core: bool) -> dict[str, float]:
    """In a process of its own: seconds until everything is in memory, by the clock and of
    processor time."""
    if one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    start, start_cpu = time.perf_counter(), time.process_time()
    store = pykv.open(path, preload=True)
    found = {"all": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}
    stats = store.stats()
    assert stats["entries"] == count and stats["shards_loaded"] == stats["shards"]
    store.close()
    return found


def _index_seconds(path: Path, shards: int) -> float:
    """What any open has to do: open the file, read its end."""
    name = next(path.glob("*.ckpt"))
    start = time.perf_counter()
    file = os.open(name, os.O_RDONLY)
    size = _INDEX_ENTRY_BYTES * shards
    os.pread(file, size, os.fstat(file).st_size - size)
    os.close(file)
    return time.perf_counter() - start


def open_first_get(settings: Settings) -> Report:
    report = Report("always")
    large = settings.scaled(5_000_000, 300_000)
    small = large // 10
    opens: dict[int, list[float]] = {large: [], small: []}
    sides: dict[str, Callable[[], float]] = {}

    def side(path: Path, count: int, keys: list[str]) -> Callable[[], float]:
        def measure() -> float:
            found = call_fresh(
                __name__, "first_get", path=str(path), key=keys[len(opens[count]) % _SOME_KEYS]
            )
            opens[count].append(found["open"])
            return float(found["all"])

        return measure

    with settings.scratch() as folder:
        for count in (large, small):
            progress(f"building: {count:,} items")
            path = folder / f"{count}"
            built = call_fresh(__name__, "build", path=str(path), count=count, seed=settings.seed)
            warm(path)
            sides[f"{count}"] = side(path, count, built["keys"])
            if count == large:
                sides["index"] = functools.partial(_index_seconds, path, built["shards"])
        figures = in_turns(sides, 3 * settings.rounds)
    mine = Series("pykv", figures[f"{large}"], SECONDS)
    index = Series("reading the index", figures["index"], SECONDS)
    smaller = Series(f"{small:,} items", figures[f"{small}"], SECONDS)
    what = f"open and first get, {large:,} items"
    report.rows.append(Row(what, mine, index, Target(0.05, of="figure")))
    report.rows.append(Row(what, mine, smaller, Target(0.5)))
    for count, values in opens.items():
        alone = Series("", values, SECONDS)
        report.notes.append(f"{count:,} items: of it open() alone {alone}")
    return report


def preload(settings: Settings) -> Report:
    report = Report("always")
    count = settings.scaled(5_000_000, 300_000)
    processor: list[float] = []
    with settings.scratch() as folder:
        path = folder / "pykv"
        progress(f"building: {count:,} items")
        call_fresh(__name__, "build", path=str(path), count=count, seed=settings.seed)
        files = warm(path)

        def side(one_core: bool) -> Callable[[], float]:
            def measure() -> float:
                request: dict[str, Any] = {"path": str(path), "count": count}
                found = call_fresh(__name__, "load_all", one_core=one_core, **request)
                if one_core:
                    processor.append(count / float(found["cpu"]))
                return count / float(found["all"])

            return measure

        sides = {"all": side(False)}
        if hasattr(os, "sched_setaffinity"):
            sides["one"] = side(True)
        else:
            report.notes.append("one core left out: this system cannot tie a process to one")
        reason = floor.missing()
        if reason:
            report.notes.append(reason)
        else:
            sides["read"] = lambda: count / floor.read_seconds(files)[0]
        figures = in_turns(sides, settings.rounds)
    reading = None if reason else Series("reading the files", figures["read"], RATE)
    what = f"open(preload=True), {count:,} items"
    if "one" in figures:
        mine = Series("pykv", figures["one"], RATE)
        report.rows.append(Row(f"{what}, one core", mine, reading, Target(5e6, of="figure")))
        own = Series("pykv", processor, RATE)
        report.rows.append(Row(f"{what}, a second of processor time", own))
    report.rows.append(Row(f"{what}, all cores", Series("pykv", figures["all"], RATE), reading))
    return report


BENCHMARKS = [
    Benchmark("open-first-get", "opening a checkpoint until the first answer", open_first_get),
    Benchmark("preload", "opening a checkpoint until everything is in memory", preload),
]
