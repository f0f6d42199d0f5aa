"""Recovery from the log alone: open() after a clean close, and after SIGKILL.

No checkpoint is made, neither while the store is filled nor at its close. A process of its own writes the log and closes
the store, or kills itself; every round opens a copy of its folder in a fresh process, the copy synced and read once before,
so the page cache is warm.

In a virtual machine the host may have to find the memory first, which takes longer than all else: "memory at hand" is an
open just behind a process that has touched as much and ended.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import floor
from .data import chunks, make_pairs, pykv
from .report import RATE, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns, progress
from .worker import call_fresh

_PART = 100_000
_AT_HAND = "pykv, memory at hand"
_ITEM_BYTES = 220  # of memory that an open takes, or more


def build(path: str, count: int, batch: int, sync: str, seed: int, kill: bool) -> int:
    """In a process of its own: writes `count` items in commits of `batch`; ends well or not."""
    rng = random.Random(seed)
    store = pykv.open(path, sync=sync, checkpoint_log_ratio=None)
    for start in range(0, count, _PART):
        for part in chunks(make_pairs(rng, min(_PART, count - start)), batch):
            if batch == 1:
                store.put(*part[0])
            else:
                store.put_many(part)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    store.close()
    return count


def reopen(path: str, count: int) -> dict[str, Any]:
    """In a process of its own: how long open() takes, and what it says of it."""
    start = time.perf_counter()
    store = pykv.open(path, sync="never", checkpoint_log_ratio=None)
    elapsed = time.perf_counter() - start
    assert len(store) == count, f"{len(store)} items found of {count}"
    found = {"elapsed": elapsed, **{k: v for k, v in store.recovery.items() if v is not None}}
    store.close()
    return found


def touch(size: int) -> float:
    """In a process of its own: how long it takes to write to `size` bytes of new memory, in s."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        ones = b"\1" * len(range(0, size, mmap.PAGESIZE))
        start = time.perf_counter()
        memory[:: mmap.PAGESIZE] = ones
        return time.perf_counter() - start


def copy_warm(source: Path, target: Path) -> list[Path]:
    """A copy of a store's folder that is on disk and in the page cache; its files."""
    shutil.copytree(source, target)
    return warm(target)


def warm(folder: Path) -> list[Path]:
    """Sees to it that a store's files are on disk and in the page cache; the files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            while file.read(1 << 20):
                pass
    return files


@dataclass(frozen=True)
class _Case:
    count: int
    batch: int
    sync: str
    kill: bool
    target: Target | None = None

    def __str__(self) -> str:
        ended = "killed" if self.kill else "closed"
        return f"{self.count:,} items in commits of {self.batch:,}, sync={self.sync}, {ended}"


def _measure(settings: Settings, report: Report, case: _Case) -> None:
    reads: dict[str, list[float]] = {}  # by side
    reason = floor.missing()
    with settings.scratch() as folder:
        progress(f"building: {case}")
        request = {"count": case.count, "batch": case.batch, "sync": case.sync}
        request |= {"path": str(folder / "built"), "seed": settings.seed, "kill": case.kill}
        call_fresh(__name__, "build", dies=case.kill, **request)
        found: dict[str, Any] = {}
        touched: list[float] = []

        def measure(side: str) -> float:
            files = copy_warm(folder / "built", folder / "copy")
            if not reason:
                read = case.count / floor.read_seconds(files)[0]
                reads.setdefault(side, []).append(read)
            if side == _AT_HAND:
                touched.append(call_fresh(__name__, "touch", size=case.count * _ITEM_BYTES))
            found.update(
                call_fresh(__name__, "reopen", path=str(folder / "copy"), count=case.count)
            )
            shutil.rmtree(folder / "copy")
            return case.count / float(found["elapsed"])

        sides = {"pykv": lambda: measure("pykv")}
        if case.target is not None:
            sides[_AT_HAND] = lambda: measure(_AT_HAND)
        figures = in_turns(sides, settings.rounds)
    for name, values in figures.items():
        mine = Series(name, values, RATE)
        reference = Series("reading the files", reads[name], RATE) if name in reads else None
        target = case.target if name == _AT_HAND else None
        report.rows.append(Row(f"open, {case}", mine, reference, target))
    facts = ", ".join(f"{key} {value}" for key, value in found.items() if key != "elapsed")
    report.notes.append(f"{case}: recovery says {facts}")
    if touched:
        report.notes.append(
            f"{case}: touching {case.count * _ITEM_BYTES / 1e6:,.0f} MB before took "
            f"{min(touched):.2f} to {max(touched):.2f} s"
        )


def from_log(settings: Settings) -> Report:
    report = Report("as stated")
    full = settings.scaled(5_000_000, 300_000)
    target = Target(4e6, of="figure")
    for case in (
        _Case(full, 1000, "never", False, target),
        _Case(full, 1000, "always", True, target),
        _Case(full // 5, 1000, "never", True),
        _Case(full // 5, 1, "never", False),
    ):
        _measure(settings, report, case)
    return report


BENCHMARKS = [Benchmark("recovery", "recovery from the log, page cache warm", from_log)]
