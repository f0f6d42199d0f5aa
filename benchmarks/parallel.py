"""Reads from several threads: all keys answered over the time from first start to last end.

Each thread has a probe of its own, disjoint from the others', made before; each thread does the
same work, so more threads do more work. dict is the control: what the interpreter itself allows.

Where Python has no GIL, single calls are measured, too: get and put of one key.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .data import VALUE_BYTES, chunks, fresh, load, make_pairs, opened, own_dict
from .report import RATE, Report, Row, Series, Target
from .runner import Benchmark, Settings, get_each, in_turns, own_copy, seconds_in_threads

_MANY = 1000
_MOST_THREADS = 4
_RELEASE = "pykv, gil=release"


def _dict_many(table: dict[bytes, bytes]) -> Callable[[Any], Any]:
    return lambda keys: [table[key] for key in keys]


def _in_threads(
    rng: random.Random, keys: list[bytes], threads: int, body: Callable[[list[bytes]], Callable[[], Any]]
) -> Callable[[], float]:
    """Keys a second, in total; `body` makes what a thread does of its part of the keys, in an order of its own."""
    share = len(keys) // _MOST_THREADS

    def measure() -> float:
        order = rng.sample(keys, threads * share)
        bodies = [body(fresh(part)) for part in chunks(order, share)]
        return threads * share / seconds_in_threads(bodies)

    return measure


def _side(
    rng: random.Random, keys: list[bytes], call: Any, threads: int, size: int
) -> Callable[[], float]:
    """Keys a second, `threads` threads asking for `size` keys in one call."""
    loop = own_copy(get_each)
    return _in_threads(
        rng,
        keys,
        threads,
        lambda part: functools.partial(loop, call, chunks(part, size) if size > 1 else part),
    )


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


# ---- Without a GIL -----------------------------------------------------------------------------


def _put_each(put: Callable[[Any, Any], Any], items: Sequence[tuple[bytes, bytes]]) -> None:
    for key, value in items:
        put(key, value)


def _fetch_and_run(loop: Callable[..., None], table: Any, method: str, items: Any) -> None:
    """In the thread: those that call one bound method wait for each other at its count."""
    loop(getattr(table, method), items)


def _free_side(
    rng: random.Random, keys: list[bytes], table: Any, method: str, threads: int
) -> Callable[[], float]:
    """Calls a second, each with a key (and a value) of its own."""
    writes = method != "get"
    loop: Any = own_copy(_put_each if writes else get_each)

    def body(part: list[bytes]) -> Callable[[], Any]:
        items: Any = [(key, rng.randbytes(VALUE_BYTES)) for key in part] if writes else part
        return functools.partial(_fetch_and_run, loop, table, method, items)

    return _in_threads(rng, keys, threads, body)


def free_threads(settings: Settings) -> Report:
    rng = settings.random()
    pairs = make_pairs(rng, settings.scaled(1_000_000, 200_000))
    keys = [key for key, _ in pairs]
    with opened(None) as store:
        load(store, pairs)
        tables = {"pykv": store, "dict": own_dict(pairs)}
        del pairs
        calls = [("pykv", "get"), ("pykv", "put"), ("dict", "get"), ("dict", "__setitem__")]
        sides = {
            f"{name} {method} {threads}": _free_side(rng, keys, tables[name], method, threads)
            for name, method in calls
            for threads in (1, 2)
        }
        figures = in_turns(sides, settings.rounds)
    rows = []
    for name, method in calls:
        mine = Series(f"{name}, 2 threads", figures[f"{name} {method} 2"], RATE)
        one = Series("1 thread", figures[f"{name} {method} 1"], RATE)
        target = Target(1.7) if name == "pykv" else None
        rows.append(Row(f"keys by {method}, in total", mine, one, target))
    return Report("memory only", rows)


BENCHMARKS = [Benchmark("read-threads", "reads from 1, 2 and 4 threads, in total", read_threads)]
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    BENCHMARKS.append(Benchmark("free-threads", "get and put from 2 threads, no GIL", free_threads))
