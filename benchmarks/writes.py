"""Overwrites in memory: pykv.open(None) against dict, one thread, every key once in random order.

Two forms. "fresh values": each put has a value object of its own, so both sides meet cold bytes,
and both free what they replace. "one value": the same value object every time, which costs dict
only a pointer. Probes and values are made afresh for each side and round, outside of the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .data import VALUE, VALUE_BYTES, fresh_probe, load, make_pairs, opened, own_dict
from .report import SECONDS, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns, own_copy, seconds


def _set_each(table: Any, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    for key, value in zip(keys, values, strict=True):
        table[key] = value


def _put_each(put: Any, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    for key, value in zip(keys, values, strict=True):
        put(key, value)


def overwrite(settings: Settings) -> Report:
    report = Report("memory only")
    rng = settings.random()
    count = settings.scaled(1_000_000, 200_000)
    pairs = make_pairs(rng, count)
    keys = [key for key, _ in pairs]

    def fresh_values() -> list[bytes]:
        return [rng.randbytes(VALUE_BYTES) for _ in range(count)]

    def one_value() -> list[bytes]:
        return [VALUE] * count

    def side(function: Any, target: Any, values: Callable[[], list[bytes]]) -> Callable[[], float]:
        loop = own_copy(function)
        return lambda: seconds(loop, target, fresh_probe(rng, keys), values()) / count

    with opened(None) as store:
        load(store, pairs)
        sides = {
            "fresh values: d[k] = v": side(_set_each, own_dict(pairs), fresh_values),
            "fresh values: db[k] = v": side(_set_each, store, fresh_values),
            "fresh values: db.put(k, v)": side(_put_each, store.put, fresh_values),
            "one value: d[k] = v": side(_set_each, own_dict(pairs), one_value),
            "one value: db[k] = v": side(_set_each, store, one_value),
            "one value: db.put(k, v)": side(_put_each, store.put, one_value),
        }
        del pairs
        figures = in_turns(sides, settings.rounds)
    for form in ("fresh values", "one value"):
        reference = Series("d[k] = v", figures[f"{form}: d[k] = v"], SECONDS)
        for call in ("db[k] = v", "db.put(k, v)"):
            mine = Series(call, figures[f"{form}: {call}"], SECONDS)
            what = f"overwrite, {count:,} keys, {form}"
            report.rows.append(Row(what, mine, reference, Target(1.0)))
    return report


BENCHMARKS = [Benchmark("put-overwrite", "put, overwrite, memory only, against dict", overwrite)]
