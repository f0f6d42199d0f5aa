"""All benchmarks, in the order in which they run, and how one of them is run by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from . import (
    checkpoints,
    churn,
    durable,
    eviction,
    expiry,
    growth,
    instant,
    memory,
    opening,
    parallel,
    protocol,
    reads,
    recovery,
    server,
    writes,
)
from .report import Report
from .runner import Benchmark, Settings
from .worker import call_fresh

_SUBJECTS = (
    durable,
    reads,
    writes,
    parallel,
    memory,
    recovery,
    growth,
    opening,
    instant,
    checkpoints,
    churn,
    expiry,
    eviction,
    server,
    protocol,
)
BENCHMARKS: dict[str, Benchmark] = {b.name: b for s in _SUBJECTS for b in s.BENCHMARKS}


def run(name: str, settings: Settings) -> Report:
    """In a fresh interpreter."""
    fields = dataclasses.asdict(settings)
    return Report.from_json(call_fresh(__name__, "run_here", name=name, settings=fields))


def run_here(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """In this interpreter, as JSON."""
    return BENCHMARKS[name].run(Settings(**settings)).as_json()
