"""Puts while a million other keys expire at once, and how long until their space is back.

The keys with a time to live all expire at one moment, T. One thread puts other keys, the same ones
again and again, each put with the clock around it: before T; from T until the last of the expired
keys is swept away; and after that. The store is as users have it, with checkpoints of its own; one
is made by hand before T.
"""

from __future__ import annotations

import itertools
import random
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .data import VALUE, Pair, chunks, disk_bytes, make_keys, make_pairs, opened
from .report import SECONDS, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns, quiet
from .worker import call_fresh

_KEYS = 100_000
_LOAD_BATCH = 10_000
_LOADED_PER_SECOND = 50_000  # at the least: T is fixed before the keys are loaded
_BURST_SECONDS = 0.01
_FIRST_LOOK_SECONDS = 0.1
_LOOK_EVERY = 9  # times what a look takes
_PATIENCE_SECONDS = 120.0
_PHASES = ("before", "during", "after")
_LIMIT_SECONDS = 1e-3


def _burst(put: Callable[[bytes, bytes], Any], keys: Iterator[bytes], times: array[int]) -> None:
    """Puts for a while, the clock around each."""
    clock, add, value = time.perf_counter_ns, times.append, VALUE
    end = clock() + int(_BURST_SECONDS * 1e9)
    for key in keys:
        start = clock()
        put(key, value)
        stop = clock()
        add(stop - start)
        if stop >= end:
            return


def _load_expiring(store: Any, pairs: list[Pair], moment: float) -> None:
    for part in chunks(pairs, _LOAD_BATCH):
        store.put_many(part, ttl=moment - time.time())


class _Looks:
    """How far the store is, asked so seldom that asking takes a tenth of the time: stats() counts
    the keys that are absent and still there."""

    def __init__(self, store: Any, count: int, deadline: float) -> None:
        self._store, self._count, self._deadline = store, count, deadline
        self._next = time.time() + _FIRST_LOOK_SECONDS

    def all_swept(self) -> bool:
        start = time.time()
        if start < self._next:
            return False
        stats = self._store.stats()
        if start > self._deadline:
            raise RuntimeError(f"not all swept away: {stats}")
        end = time.time()
        self._next = end + _LOOK_EVERY * (end - start)
        return bool(stats["expired"] >= self._count)


def _quantiles(times: array[int]) -> dict[str, float]:
    ordered = sorted(times)
    found = {
        str(share): ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e-9
        for share in (0.5, 0.99, 0.999, 1.0)
    }
    return found | {"puts": len(ordered)}


def run(path: str | None, count: int, margin: float, seed: int) -> dict[str, Any]:
    """In a process of its own: quantiles of each phase, and what the store says before and after."""
    rng = random.Random(seed)
    folder = Path(path) if path else None
    keys = make_keys(rng, _KEYS)
    pairs = make_pairs(rng, count)
    endless = itertools.cycle(keys)
    times = {phase: array("q") for phase in _PHASES}
    with opened(folder) as store, quiet():
        store.put_many([(key, VALUE) for key in keys])
        moment = time.time() + margin + 2 + count / _LOADED_PER_SECOND
        _load_expiring(store, pairs, moment)
        if folder:
            store.checkpoint()
        if time.time() > moment - margin:
            raise RuntimeError("loading took too long for the moment at which the keys expire")
        time.sleep(max(0.0, moment - margin - time.time()))
        assert len(store) == _KEYS + count
        facts = [_facts(store, folder)]
        while time.time() < moment:
            _burst(store.put, endless, times["before"])
        looks = _Looks(store, count, moment + _PATIENCE_SECONDS)
        while not looks.all_swept():
            _burst(store.put, endless, times["during"])
        swept = time.time() - moment
        end = time.time() + margin
        while time.time() < end:
            _burst(store.put, endless, times["after"])
        facts.append(_facts(store, folder))
        assert len(store) == _KEYS and store.get(pairs[0][0]) is None
    return {"swept": swept, "facts": facts} | {p: _quantiles(times[p]) for p in _PHASES}


def _facts(store: Any, folder: Path | None) -> dict[str, int]:
    stats = store.stats()
    on_disk = disk_bytes(folder) if folder else 0
    return {"data": stats["data_bytes"], "memory": stats["memory_bytes"], "disk": on_disk}


def expiring(settings: Settings) -> Report:
    report = Report("always, and memory only")
    count = settings.scaled(1_000_000, 100_000)
    margin = settings.scaled(3, 1)
    found: dict[str, list[dict[str, Any]]] = {"durable": [], "memory only": []}

    def side(name: str) -> Callable[[], float]:
        def measure() -> float:
            with settings.scratch() as folder:
                path = str(folder / "pykv") if name == "durable" else None
                request: dict[str, Any] = {"count": count, "margin": margin, "seed": settings.seed}
                found[name].append(call_fresh(__name__, "run", path=path, **request))
            return float(found[name][-1]["swept"])

        return measure

    in_turns({name: side(name) for name in found}, min(settings.rounds, settings.scaled(3, 1)))
    for name, runs in found.items():
        for label, share in (("p99.9", "0.999"), ("the slowest", "1.0")):
            sides = {
                phase: Series(phase, [run[phase][share] for run in runs], SECONDS)
                for phase in _PHASES
            }
            target = Target(_LIMIT_SECONDS, of="figure") if label == "p99.9" else None
            what = f"{name} put, {label}, {count:,} keys expire"
            report.rows.append(Row(what, sides["during"], sides["before"], target))
            report.rows.append(Row(what, sides["after"], sides["before"]))
        swept = Series("pykv", [run["swept"] for run in runs], SECONDS)
        report.rows.append(Row(f"{name}, until the last one is swept away", swept))
        report.notes.append(_space(name, runs[-1]))
    return report


def _space(name: str, run: dict[str, Any]) -> str:
    parts = [
        f"{what} {run['facts'][0][what] / 1e6:.0f} to {run['facts'][1][what] / 1e6:.0f} MB"
        for what in ("data", "memory", "disk")
        if run["facts"][0][what]
    ]
    puts = ", ".join(f"{run[phase]['puts']:,} {phase}" for phase in _PHASES)
    return f"{name}, the last run: {', '.join(parts)}; puts: {puts}"


BENCHMARKS = [Benchmark("ttl", "puts while a million keys expire at once", expiring)]
