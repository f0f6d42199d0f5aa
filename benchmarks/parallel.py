"""Reads from several threads: all keys answered over the time from first start to last end.

Each thread has a probe of its own, disjoint from the others', made before; each thread does the
same work, so more threads do more work. dict is the control: what the interpreter itself allows.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

from .data import chunks, fresh, load, make_pairs, opened
from .report import RATE, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns, own_copy, seconds_in_threads

_MANY = 1000
_MOST_THREADS = 4
_RELEASE = "pykv, gil=release"


def _get_each(get: Callable[[Any], Any], probe: Sequence[Any]) -> None:
    for key in probe:
        get(key)


def _dict_many(table: dict[bytes, bytes]) -> Callable[[Any], Any]:
    return lambda keys: [table[key] for key in keys]


def _side(
    rng: random.Random, keys: list[bytes], call: Any, threads: int, size: int
) -> Callable[[], float]:
    """Keys a second, `threads` threads asking for `size` keys in one call."""
    share = len(keys) // _MOST_THREADS
    loop = own_copy(_get_each)

    def measure() -> float:
        order = rng.sample(keys, threads * share)
        parts = [fresh(part) for part in chunks(order, share)]
        probes = [chunks(part, size) if size > 1 else part for part in parts]
        bodies = [functools.partial(loop, call, probe) for probe in probes]
        return threads * share / seconds_in_threads(bodies)

    return measure


def read_threads(settings: Settings) -> Report:
    rng = settings.random()
    pairs = make_pairs(rng, settings.scaled(1_000_000, 200_000))
    keys = [key for key, _ in pairs]
    table = dict(pairs)
    with opened(None, gil="auto") as auto, opened(None, gil="release") as release:
        load(auto, pairs)
        load(release, pairs)
        many = {"pykv": auto.get_many, _RELEASE: release.get_many, "dict": _dict_many(table)}
        single = {"pykv": auto.get, _RELEASE: release.get, "dict": table.get}
        sides = {}
        for name, call in many.items():
            for threads in (1, 2):
                sides[f"{name} many {threads}"] = _side(rng, keys, call, threads, _MANY)
            for threads in (1, 2, 4):
                sides[f"{name} get {threads}"] = _side(rng, keys, single[name], threads, 1)
        figures = in_turns(sides, settings.rounds)
    return Report("memory only", _rows(figures, list(many)))


def _rows(figures: dict[str, list[float]], names: list[str]) -> list[Row]:
    rows = []

    def add(what: str, name: str, kind: str, threads: int, target: float) -> None:
        mine = Series(f"{name}, {threads} threads", figures[f"{name} {kind} {threads}"], RATE)
        one = Series("1 thread", figures[f"{name} {kind} 1"], RATE)
        rows.append(Row(what, mine, one, Target(target) if target and name == "pykv" else None))

    for name in names:
        add(f"keys by get_many({_MANY}), in total", name, "many", 2, 1.6)
    for name in names:
        add("keys by get, in total", name, "get", 2, 0)
        add("keys by get, in total", name, "get", 4, 1.0)
    return rows


BENCHMARKS = [Benchmark("read-threads", "reads from 1, 2 and 4 threads, in total", read_threads)]
