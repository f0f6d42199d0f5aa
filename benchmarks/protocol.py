"""What the two ends of the protocol cost: requests parsed and answered; no socket, no store."""

from __future__ import annotations

import ctypes
import functools
import os

from . import native
from .report import RATE, Report, Row, Series
from .runner import Benchmark, Settings, in_turns

_SOURCES = (
    native.ROOT / "benchmarks/protocol.c",
    native.ROOT / "csrc/server/resp.c",
    native.ROOT / "csrc/server/reply.c",
    native.ROOT / "csrc/base/mem.c",
)
_VALUE_BYTES = 100
_LOADS = (("GET", 0), ("SET", 100), ("GET and SET", 50))
_DEPTHS = (1, 16, 64)


@functools.cache
def _library() -> ctypes.CDLL:
    return native.load(*_SOURCES)


def _rate(depth: int, sets_percent: int, copies: bool, seconds: float) -> float:
    rate = ctypes.c_double()
    error = _library().protocol_run(
        depth,
        sets_percent,
        _VALUE_BYTES,
        int(copies),
        ctypes.c_double(seconds),
        ctypes.byref(rate),
    )
    if error:
        raise OSError(error, os.strerror(error))
    return rate.value


def protocol(settings: Settings) -> Report:
    report = Report("none: no store is opened")
    try:
        _library()
    except native.NoCompiler as error:
        report.notes.append(f"left out, no C compiler works: {error}")
        return report
    seconds = settings.slice_seconds
    for name, sets_percent in _LOADS:
        for depth in _DEPTHS:
            figures = in_turns(
                {
                    "pykv": lambda d=depth, s=sets_percent: _rate(d, s, False, seconds),
                    "copying": lambda d=depth, s=sets_percent: _rate(d, s, True, seconds),
                },
                settings.rounds,
            )
            ours, ruler = (Series(side, figures[side], RATE) for side in ("pykv", "copying"))
            report.rows.append(Row(f"{name}, {depth} in a pipeline", ours, ruler))
    report.notes += [
        f"keys of 16 bytes, values of {_VALUE_BYTES}; one core; requests parsed and answered",
        "copying: the bytes of requests and replies, once, and nothing else",
    ]
    return report


BENCHMARKS = [Benchmark("protocol", "the server's protocol: parsing and replying", protocol)]
