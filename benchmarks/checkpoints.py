"""What a checkpoint costs: its speed, the writers beside it, and memory.

The stores make none by themselves (checkpoint_log_ratio=None): only those that are asked for count.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import floor
from .data import VALUE, chunks, fill, frame_bytes, make_keys, opened
from .memory import resident_bytes
from .report import EXTRA, RATE, SECONDS, SPEED, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns, progress, quiet, seconds, seconds_in_threads
from .worker import call_fresh

_THREADS = 8
_KEYS = 100_000
_BATCH = 1000


def _items(settings: Settings) -> int:
    return settings.scaled(5_000_000, 300_000)


# ---- Speed ---------------------------------------------------------------------------------------


def speed(settings: Settings) -> Report:
    report = Report("never")
    count = _items(settings)
    with settings.scratch() as folder, _filled(settings, folder, sync="never") as store:
        log_bytes = store.stats()["log_bytes"]
        first = seconds(store.checkpoint)
        size = store.stats()["checkpoint_bytes"]

        def mine() -> float:
            store.put(VALUE[:1], VALUE)  # a store that has not changed makes none
            return float(store.stats()["checkpoint_bytes"]) / seconds(store.checkpoint)

        sides = {"pykv": mine}
        reason = floor.missing()
        if reason:
            report.notes.append(reason)
        else:
            sides["disk"] = lambda: floor.write_bytes_per_second(folder, size)
        figures = in_turns(sides, settings.rounds)
    reference = None if reason else Series("disk, sequential", figures["disk"], SPEED)
    target = None if reason else Target(0.5)
    what = f"checkpoint of {count:,} items"
    report.rows.append(Row(what, Series("pykv", figures["pykv"], SPEED), reference, target))
    report.notes.append(
        f"the file has {size / 1e6:.0f} MB; disk: a new file of that size in pieces of 1 MiB, one sync"
    )
    alone = Series("", [size / first], SPEED)
    report.notes.append(f"the first one also let {log_bytes / 1e6:.0f} MB of log go: {alone}")
    return report


@contextlib.contextmanager
def _filled(settings: Settings, folder: Path, sync: str) -> Iterator[Any]:
    """A store with all the items, on disk."""
    rng = settings.random()
    path = folder / "pykv"
    with opened(path, sync="never", checkpoint_log_ratio=None) as store:
        progress(f"filling: {_items(settings):,} items")
        fill(store, rng, _items(settings))
        store.sync()
        if sync == "never":
            yield store
            return
        store.checkpoint()
    with opened(path, sync=sync, checkpoint_log_ratio=None, preload=True) as store:
        yield store


# ---- The writers beside it -----------------------------------------------------------------------


@contextlib.contextmanager
def _beside(work: Callable[[], object]) -> Iterator[list[float]]:
    """Does it again and again in a thread of its own while the block runs; the seconds of each."""
    times: list[float] = []
    stop = False

    def run() -> None:
        while not stop:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.01)  # it is under way
    try:
        yield times
    finally:
        stop = True
        thread.join()


def _puts_in_threads(put: Callable[[bytes, bytes], Any], keys: list[bytes], duration: float) -> Any:
    """Durable puts of all threads: how many a second, and the time of each in nanoseconds."""
    times = [array("q") for _ in range(_THREADS)]
    stop = False

    def body(index: int) -> None:
        clock, add = time.perf_counter_ns, times[index].append
        for key in itertools.cycle(keys[index::_THREADS]):
            start = clock()
            put(key, VALUE)
            add(clock() - start)
            if stop:
                return

    def ring() -> None:
        nonlocal stop
        stop = True

    alarm = threading.Timer(duration, ring)
    alarm.start()
    elapsed = seconds_in_threads([functools.partial(body, index) for index in range(_THREADS)])
    alarm.join()
    together = array("q")
    for part in times:
        together.extend(part)
    return len(together) / elapsed, together


def quantile(times: Sequence[int], share: float) -> float:
    """Of times in nanoseconds, in seconds."""
    ordered = sorted(times)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e-9


def puts_beside(settings: Settings) -> Report:
    report = Report("always")
    duration = settings.scaled(3, 1)
    keys = make_keys(random.Random(settings.seed + 1), _KEYS)
    p999: dict[str, list[float]] = {}
    checkpoints: list[float] = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(settings.scratch())
        store = stack.enter_context(_filled(settings, folder, sync="always"))
        store.put_many([(key, VALUE) for key in keys])
        size, frame = store.stats()["checkpoint_bytes"], frame_bytes(store)

        def puts(name: str) -> float:
            rate, times = _puts_in_threads(store.put, keys, duration)
            p999.setdefault(name, []).append(quantile(times, 0.999))
            return float(rate)

        def beside() -> float:
            with _beside(store.checkpoint) as times:
                rate = puts("with")
            checkpoints.extend(times)
            return rate

        sides: dict[str, Callable[[], float]] = {"without": lambda: puts("without"), "with": beside}
        reason = floor.missing()
        if reason:
            report.notes.append(reason)
        else:
            disk = stack.enter_context(contextlib.closing(floor.DiskFloor(folder)))
            sides |= _disk_sides(disk, folder, size, frame, duration, p999)
        os.sync()
        figures = in_turns(sides, settings.rounds)
    titles = {"": f"durable puts, {_THREADS} threads, {_items(settings):,} items"}
    if not reason:
        titles["disk, "] = f"the disk: {frame} B and a sync, 1 thread"
    for prefix, title in titles.items():
        own = not prefix
        labels = ("beside checkpoints", "without") if own else ("beside a writer", "without")
        for what, unit, found, target in (
            (title, RATE, figures, Target(0.7)),
            (f"{title}, p99.9", SECONDS, p999, Target(1 / 3)),
        ):
            sides_of = zip(labels, ("with", "without"), strict=True)
            mine, other = (Series(label, found[prefix + name], unit) for label, name in sides_of)
            report.rows.append(Row(what, mine, other, target if own else None))
    report.notes.append(
        f"checkpoints of {size / 1e6:.0f} MB, one after the other: {Series('', checkpoints, SECONDS)}"
    )
    if not reason:
        report.notes.append("a writer: writes a file of that size in pieces of 1 MiB, syncs, again")
    return report


def _disk_sides(
    disk: floor.DiskFloor,
    folder: Path,
    size: int,
    frame: int,
    duration: float,
    p999: dict[str, list[float]],
) -> dict[str, Callable[[], float]]:
    def syncs(name: str) -> float:
        times = disk.sync_times(frame, duration)
        p999.setdefault(name, []).append(quantile(times, 0.999))
        return len(times) / duration

    def beside() -> float:
        with _beside(lambda: floor.write_bytes_per_second(folder, size)):
            return syncs("disk, with")

    return {"disk, without": lambda: syncs("disk, without"), "disk, with": beside}


# ---- Memory --------------------------------------------------------------------------------------


def overwrite(path: str, count: int, changed: int, seed: int, beside: bool) -> dict[str, Any]:
    """In a process of its own: what overwriting takes, in shares of the data, a checkpoint beside it
    or not."""
    rng = random.Random(seed)
    ended: list[float] = []
    with opened(Path(path), sync="never", checkpoint_log_ratio=None) as store:
        keys = make_keys(rng, changed)
        parts = chunks([(key, VALUE) for key in keys], _BATCH)
        for part in parts:
            store.put_many(part)
        fill(store, rng, count - changed)
        store.sync()

        def checkpoint() -> None:
            store.checkpoint()
            ended.append(time.perf_counter())

        thread = threading.Thread(target=checkpoint if beside else lambda: None)
        levels, during = array("q", bytes(8 * len(parts))), 0
        before = resident_bytes()
        with quiet():
            _forget_peak()
            start = time.perf_counter()
            thread.start()
            for number, part in enumerate(parts):
                store.put_many(part)
                levels[number] = _resident_now()
                during += not ended
            puts_ended = time.perf_counter()
            thread.join()
            peak = max(_peak_resident(), *levels)
        assert len(store) == count, "two random keys were equal"
        data = store.stats()["data_bytes"]
    tenth = max(len(parts) // 10, 1)
    return {
        "extra": (peak - before) / data,
        "during": during / len(parts),
        "levels": [(level - before) / data for level in levels[tenth - 1 :: tenth]],
        "puts": puts_ended - start,
        "checkpoint": ended[0] - start if ended else 0.0,
    }


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_resident() -> int:
    """The most since _forget_peak(); 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _resident_now() -> int:
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def memory_beside(settings: Settings) -> Report:
    report = Report("never")
    count = _items(settings)
    changed = count // 5
    sides: dict[str, Callable[[], float]] = {}
    found: dict[str, Any] = {}

    def side(beside: bool) -> Callable[[], float]:
        def measure() -> float:
            request: dict[str, Any] = {"count": count, "changed": changed, "seed": settings.seed}
            with settings.scratch() as folder:
                path = str(folder / "pykv")
                answer = call_fresh(__name__, "overwrite", path=path, beside=beside, **request)
            if beside:
                found.update(answer)
            return float(answer["extra"])

        return measure

    sides = {"without": side(False), "with": side(True)}
    figures = in_turns(sides, min(settings.rounds, settings.scaled(3, 1)))
    mine = Series("beside a checkpoint", figures["with"], EXTRA)
    other = Series("without", figures["without"], EXTRA)
    what = f"extra memory, {changed:,} of {count:,} items overwritten, of the data"
    report.rows.append(Row(what, mine, other, Target(0.25, of="figure")))
    levels = ", ".join(f"{100 * level:.1f}" for level in found["levels"])
    report.notes.append(
        f"the last run: the puts took {found['puts']:.2f} s, the checkpoint "
        f"{found['checkpoint']:.2f} s; {100 * found['during']:.0f} % of the puts fell into it"
    )
    report.notes.append(f"the last run, after each tenth of the puts, in %: {levels}")
    return report


BENCHMARKS = [
    Benchmark("checkpoint", "writing a checkpoint, against the disk", speed),
    Benchmark("checkpoint-puts", "durable puts beside checkpoints", puts_beside),
    Benchmark("checkpoint-memory", "memory that a checkpoint takes", memory_beside),
]
