"""Reads: pykv against dict and against peers, one thread.

The store is an ordinary durable one (sync="always"), loaded and idle. It is opened twice, for
gil="auto" and gil="release": two handles on one table. dict holds the same pairs. A probe is a list
of keys in random order, made afresh for each side and round.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .data import chunks, fresh_probe, load, make_pairs, opened
from .peers import installed
from .report import SECONDS, Report, Row, Series, Target
from .runner import Benchmark, Settings, get_each, in_turns, own_copy, seconds

_HOT_KEYS = 1000
_MANY = 100
_PEER_PROBES = 100_000


def _dict_list_each(table: dict[bytes, bytes], parts: Sequence[Sequence[bytes]]) -> None:
    for keys in parts:
        [table[key] for key in keys]


@dataclass
class _Loaded:
    """The same pairs in a dict, and in a store behind two handles."""

    rng: random.Random
    keys: list[bytes]
    table: dict[bytes, bytes]
    auto: Any
    release: Any


@contextlib.contextmanager
def _loaded(settings: Settings) -> Iterator[_Loaded]:
    rng = settings.random()
    pairs = make_pairs(rng, settings.scaled(1_000_000, 200_000))
    with settings.scratch() as folder, contextlib.ExitStack() as stack:
        auto = stack.enter_context(opened(folder / "pykv", sync="always", gil="auto"))
        load(auto, pairs)
        auto.checkpoint()  # none is under way or due while it is read
        release = stack.enter_context(opened(folder / "pykv", sync="always", gil="release"))
        yield _Loaded(rng, [key for key, _ in pairs], dict(pairs), auto, release)


def _compare(
    settings: Settings, what: str, target: float, sides: dict[str, Callable[[], float]]
) -> Report:
    figures = in_turns(sides, settings.rounds)
    reference = Series("dict", figures["dict"], SECONDS)
    row = Row(what, Series("pykv", figures["pykv"], SECONDS), reference, Target(target))
    release = Row(what, Series("pykv, gil=release", figures["release"], SECONDS), reference)
    return Report("always (idle)", [row, release])


def get_random(settings: Settings) -> Report:
    with _loaded(settings) as data:
        count = len(data.keys)

        def side(get: Any) -> Callable[[], float]:
            loop = own_copy(get_each)
            return lambda: seconds(loop, get, fresh_probe(data.rng, data.keys)) / count

        sides = {
            "dict": side(data.table.get),
            "pykv": side(data.auto.get),
            "release": side(data.release.get),
        }
        return _compare(settings, f"get, {count:,} keys, random order", 1.3, sides)


def get_hot(settings: Settings) -> Report:
    with _loaded(settings) as data:
        count = len(data.keys)

        def side(get: Any) -> Callable[[], float]:
            loop = own_copy(get_each)

            def measure() -> float:
                hot = fresh_probe(data.rng, data.keys, _HOT_KEYS) * (count // _HOT_KEYS)
                return seconds(loop, get, hot) / len(hot)

            return measure

        sides = {
            "dict": side(data.table.get),
            "pykv": side(data.auto.get),
            "release": side(data.release.get),
        }
        report = _compare(settings, f"get, {_HOT_KEYS} hot keys of {count:,}", 0.8, sides)
    report.notes.append("the same 1,000 key objects again and again: dict has their hashes cached")
    return report


def get_many(settings: Settings) -> Report:
    with _loaded(settings) as data:
        count = len(data.keys)

        def side(loop: Any, source: Any) -> Callable[[], float]:
            def measure() -> float:
                parts = chunks(fresh_probe(data.rng, data.keys), _MANY)
                return seconds(loop, source, parts) / count

            return measure

        sides = {
            "dict": side(_dict_list_each, data.table),
            "pykv": side(own_copy(get_each), data.auto.get_many),
            "release": side(own_copy(get_each), data.release.get_many),
        }
        report = _compare(settings, f"get_many({_MANY}) of {count:,}, a key", 4.0, sides)
    report.notes.append("dict: [d[k] for k in keys]")
    return report


def get_peers(settings: Settings) -> Report:
    report = Report("always (idle)")
    rng = settings.random()
    pairs = make_pairs(rng, settings.scaled(1_000_000, 50_000))

    def side(get: Any, keys: list[bytes]) -> Callable[[], float]:
        loop = own_copy(get_each)
        count = min(len(keys), _PEER_PROBES)
        return lambda: seconds(loop, get, fresh_probe(rng, keys, count)) / count

    with settings.scratch() as folder, contextlib.ExitStack() as stack:
        store = stack.enter_context(opened(folder / "pykv", sync="always"))
        load(store, pairs)
        store.checkpoint()
        sides = {"pykv": side(store.get, [key for key, _ in pairs])}
        items = {}
        for kind in installed(report):
            peer = stack.enter_context(contextlib.closing(kind(folder / kind.name)))
            held = pairs[: kind.load_limit]
            peer.load(held)
            items[kind.name] = len(held)
            getter = stack.enter_context(peer.getter())
            sides[kind.name] = side(getter, [key for key, _ in held])
        figures = in_turns(sides, settings.rounds)
    mine = Series("pykv", figures["pykv"], SECONDS)
    for name, held_count in items.items():
        reference = Series(name, figures[name], SECONDS)
        report.rows.append(Row(f"get, random order, {name} of {held_count:,}", mine, reference))
    report.notes.append(f"pykv holds {len(pairs):,} keys; page cache warm; lmdb in one transaction")
    return report


BENCHMARKS = [
    Benchmark("get-random", "get, random order, key objects made afresh, against dict", get_random),
    Benchmark("get-hot", "get of 1,000 hot keys, against dict", get_hot),
    Benchmark("get-many", "get_many of 100 random keys, against dict", get_many),
    Benchmark("get-peers", "get, random order, against peers", get_peers),
]
