"""Which policy keeps what is asked for next: hit rates of the engine's eviction against others.

No store is opened: eviction.c runs made-up traces through pykv's table and its csrc/engine/evict.c, and
through other policies. The same seed gives the same figures on every machine.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from dataclasses import dataclass

from . import native
from .report import SHARE, Report, Row, Series
from .runner import Benchmark, Settings, progress

_SOURCES = (
    native.ROOT / "benchmarks/eviction.c",
    native.ROOT / "csrc/engine/evict.c",
    native.ROOT / "csrc/engine/table.c",
    *sorted(native.ROOT.glob("csrc/base/*.c")),
)
_OURS, _REFERENCE = "pykv", "LRU, exact"
_CACHE_PERCENTS = (1, 10)


@dataclass(frozen=True)
class _Load:
    name: str
    theta: float
    scan_times: int = 0  # a fifth of the requests: scans that read each cold key so many times
    shifts: bool = False


_LOADS = (
    _Load("Zipf 0.99", 0.99),
    _Load("Zipf 0.8", 0.8),
    _Load("0.99, scans", 0.99, scan_times=1),
    _Load("0.8, scans", 0.8, scan_times=1),
    _Load("0.99, scans twice", 0.99, scan_times=2),
    _Load("0.99, shifting", 0.99, shifts=True),
)


class _Trace(ctypes.Structure):
    _fields_ = (
        ("requests", ctypes.POINTER(ctypes.c_uint32)),
        ("count", ctypes.c_int64),
        ("keys", ctypes.c_uint32),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    library = native.load(*_SOURCES)
    library.eviction_policy.restype = ctypes.c_char_p
    return library


def _policies() -> list[str]:
    names = map(_library().eviction_policy, itertools.count())
    return [name.decode() for name in itertools.takewhile(lambda name: name is not None, names)]


def _fill(trace: _Trace, load: _Load, seed: int) -> None:
    scan_times, shifts = ctypes.c_int(load.scan_times), ctypes.c_int(load.shifts)
    theta, number = ctypes.c_double(load.theta), ctypes.c_uint64(seed)
    _library().eviction_trace(ctypes.byref(trace), theta, scan_times, shifts, number)


def _hit_rate(number: int, trace: _Trace, capacity: int) -> float:
    rate = ctypes.c_double()
    size = ctypes.c_uint32(capacity)
    error = _library().eviction_run(number, ctypes.byref(trace), size, ctypes.byref(rate))
    if error:
        raise OSError(error, os.strerror(error))
    return rate.value


def hit_rates(settings: Settings) -> Report:
    report = Report("none: no store is opened")
    try:
        policies = _policies()
    except native.NoCompiler as error:
        report.notes.append(f"left out, no C compiler works: {error}")
        return report
    keys, count = settings.scaled(1_000_000, 100_000), settings.scaled(4_000_000, 400_000)
    requests = (ctypes.c_uint32 * count)()
    trace = _Trace(ctypes.cast(requests, ctypes.POINTER(ctypes.c_uint32)), count, keys)
    lines = {name: [name] for name in policies}
    head = ["hit rate, %"]
    for load in _LOADS:
        _fill(trace, load, settings.seed)
        for percent in _CACHE_PERCENTS:
            rates = {}
            for number, name in enumerate(policies):
                progress(f"{load.name}, {percent} %: {name}")
                rates[name] = _hit_rate(number, trace, keys * percent // 100)
                lines[name].append(f"{100 * rates[name]:.1f}")
            head.append(f"{load.name}: {percent} %" if percent == 1 else f"{percent} %")
            ours, lru = (Series(x, [rates[x]], SHARE) for x in (_OURS, _REFERENCE))
            report.rows.append(Row(f"{load.name}, room for {percent} % of the keys", ours, lru))
    progress("")
    report.grid = [head, *lines.values()]
    report.notes += [
        f"{keys:,} keys, {count:,} requests, hits of the second half; keys and entries of one size",
        "exact: lists over the whole cache; the others work a shard at a time, as pykv does",
        "scans: a fifth of the requests, cold keys in turn, whose own hits are not counted",
        "scans twice: each of their keys comes again 8 requests later",
        "shifting: other keys become popular at the moment from which hits are counted",
    ]
    return report


BENCHMARKS = [Benchmark("eviction", "hit rates of policies of eviction", hit_rates)]
