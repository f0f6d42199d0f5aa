"""The worst single put while a store in memory grows from nothing.

The same loop, in turns of 50,000 puts, for pykv, for dict and for a function that does nothing. Nothing is subtracted.

A machine takes its processors away for moments, whatever runs there (timer ticks, the host's other guests). So after each
of pykv's turns a loop that only looks at the clock runs for as long as the turn took: "interruptions" are its longest
gaps, as many as the quantile leaves out. No put that runs for that long can do better.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from .data import VALUE, fresh, make_keys, opened
from .report import SECONDS, Report, Row, Series, Target
from .runner import Benchmark, Settings, own_copy, progress, quiet

_TURN = 50_000
_QUANTILES = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)]
_P9999_LIMIT_SECONDS = 50e-6


def _nothing(key: bytes, value: bytes) -> None:
    pass


def _time_each(put: Callable[[bytes, bytes], Any], keys: Sequence[bytes], times: Any) -> None:
    clock = time.perf_counter_ns
    value = VALUE
    for index, key in enumerate(keys):
        start = clock()
        put(key, value)
        times[index] = clock() - start


def _interruptions(duration_ns: int, gaps: array[int]) -> None:
    """Gaps of a microsecond or more, of so much time."""
    clock = time.perf_counter_ns
    before = clock()
    end = before + duration_ns
    while before < end:
        now = clock()
        if now - before >= 1000:
            gaps.append(now - before)
        before = now


def _clock_cost_seconds() -> float:
    clock = time.perf_counter_ns
    costs = sorted(-(clock() - clock()) for _ in range(100_000))
    return costs[len(costs) // 2] * 1e-9


def worst_put(settings: Settings) -> Report:
    report = Report("memory only")
    rng = settings.random()
    count = settings.scaled(5_000_000, 500_000)
    with opened(None) as store:
        puts = {"pykv": store.put, "dict": {}.__setitem__, "nothing": _nothing}
        loops = {name: own_copy(_time_each) for name in puts}
        times = {name: array("q") for name in puts}
        gaps = array("q")
        for start in range(0, count, _TURN):
            progress(f"{start:,} of {count:,}")
            keys = make_keys(rng, _TURN)
            for name, put in puts.items():
                own, turn = fresh(keys), array("q", bytes(8 * _TURN))
                with quiet():
                    loops[name](put, own, turn)
                times[name].extend(turn)
                if name == "pykv":
                    with quiet():
                        _interruptions(sum(turn), gaps)
    ordered = {name: sorted(values) for name, values in times.items()}
    ordered["interruptions"] = [0] * (count - len(gaps)) + sorted(gaps)
    for label, quantile in _QUANTILES:
        index = min(int(quantile * count), count - 1)
        found = {name: Series(name, [x[index] * 1e-9], SECONDS) for name, x in ordered.items()}
        target = Target(_P9999_LIMIT_SECONDS, of="figure") if label == "p99.99" else None
        what = f"{label} of a put, 0 to {count:,} items"
        for other in ("dict", "nothing", *(["interruptions"] if quantile > 0.999 else [])):
            report.rows.append(Row(what, found["pykv"], found[other], target))
            target = None
    for name, values in times.items():
        worst = sorted(range(count), key=values.__getitem__, reverse=True)[:5]
        text = ", ".join(f"{values[i] / 1000:.0f} µs at {i:,}" for i in worst)
        report.notes.append(f"{name}'s five slowest: {text}")
    cost = Series("", [_clock_cost_seconds()], SECONDS)
    report.notes.append(f"one run, no rounds; two readings of the clock by themselves: {cost}")
    return report


BENCHMARKS = [Benchmark("growth", "the worst single put while the table grows", worst_put)]
