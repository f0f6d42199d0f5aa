"""Durable writes: what a commit costs next to what the disk takes for the same bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import floor
from .data import VALUE, Pair, chunks, frame_bytes, log_bytes, make_keys, make_pairs, opened
from .peers import Peer, installed
from .report import RATE, Report, Row, Series, Target
from .runner import (
    Benchmark,
    Settings,
    calls_per_second,
    calls_per_second_in_threads,
    in_turns,
    seconds,
)

_KEYS = 100_000
_THREADS = (1, 2, 8, 64, 256)
_PEER_THREADS = (8, 64)
_BATCH = 1000


def _open_peers(stack: contextlib.ExitStack, report: Report, folder: Path) -> list[Peer]:
    peers = []
    for kind in installed(report):
        peers.append(stack.enter_context(contextlib.closing(kind(folder / kind.name))))
        report.notes.append(f"{kind.name}: {kind.durable}")
    return peers


def _open_floor(
    stack: contextlib.ExitStack, report: Report, folder: Path
) -> floor.DiskFloor | None:
    """The disk floor, or None and a note."""
    reason = floor.missing()
    if reason:
        report.notes.append(reason)
        return None
    return stack.enter_context(contextlib.closing(floor.DiskFloor(folder)))


def _rates(figures: dict[str, list[float]], name: str) -> Series:
    return Series(name, figures[name], RATE)


def put_one_thread(settings: Settings) -> Report:
    report = Report("always")
    arguments = [(key, VALUE) for key in make_keys(settings.random(), _KEYS)]
    duration = settings.slice_seconds
    with settings.scratch() as folder, contextlib.ExitStack() as stack:
        disk = _open_floor(stack, report, folder)
        store = stack.enter_context(opened(folder / "pykv", sync="always"))
        peers = _open_peers(stack, report, folder)
        size = frame_bytes(store)
        os.sync()
        sides: dict[str, Any] = {}
        if disk:
            sides["disk floor"] = lambda: disk.syncs_per_second(size, duration)
        sides["pykv"] = lambda: calls_per_second(store.put, arguments, duration)
        for peer in peers:
            sides[peer.name] = lambda put=peer.put: calls_per_second(put, arguments, duration)
        figures = in_turns(sides, settings.slices)
    mine = _rates(figures, "pykv")
    for name in sides:
        if name != "pykv":
            target = Target(0.90 if name == "disk floor" else 1.0)
            report.rows.append(Row("put, 1 thread", mine, _rates(figures, name), target))
    if disk:
        report.notes.append(f"the floor writes {size} B a sync, as pykv's log does for such a put")
    return report


def put_threads(settings: Settings) -> Report:
    report = Report("always")
    arguments = [(key, VALUE) for key in make_keys(settings.random(), _KEYS)]
    duration = settings.slice_seconds

    def side(call: Any, threads: int) -> Any:
        return lambda: calls_per_second_in_threads(call, arguments, threads, duration)

    with settings.scratch() as folder, contextlib.ExitStack() as stack:
        disk = _open_floor(stack, report, folder)
        store = stack.enter_context(opened(folder / "pykv", sync="always"))
        peers = _open_peers(stack, report, folder)
        size = frame_bytes(store)
        os.sync()
        sides: dict[str, Any] = {}
        if disk:
            sides["disk floor, 1 thread"] = lambda: disk.syncs_per_second(size, duration)
        for threads in _THREADS:
            sides[f"pykv, {threads} threads"] = side(store.put, threads)
        for peer in peers:
            for threads in _PEER_THREADS:
                sides[f"{peer.name}, {threads} threads"] = side(peer.put, threads)
        figures = in_turns(sides, settings.slices)
    report.rows = _thread_rows(figures, bool(disk), peers)
    return report


def _thread_rows(
    figures: dict[str, list[float]], floor_known: bool, peers: list[Peer]
) -> list[Row]:
    rows = []

    def add(threads: int, reference: Series, target: Target | None) -> None:
        mine = Series("pykv", figures[f"pykv, {threads} threads"], RATE)
        what = f"put, {threads} thread{'s' if threads > 1 else ''}"
        rows.append(Row(what, mine, reference, target))

    for threads in _THREADS if floor_known else ():
        reference = _rates(figures, "disk floor, 1 thread")
        add(threads, reference, Target(6.0) if threads == 64 else None)
    for peer in peers:
        for threads in _PEER_THREADS:
            theirs = figures[f"{peer.name}, {threads} threads"]
            add(threads, Series(peer.name, theirs, RATE), Target(1.0))
    return rows


def put_batches(settings: Settings) -> Report:
    report = Report("always")
    pairs = make_pairs(settings.random(), _KEYS)
    lists = [(part,) for part in chunks(pairs, _BATCH)]
    dicts = [(dict(part),) for part in chunks(pairs, _BATCH)]
    duration = settings.slice_seconds
    with settings.scratch() as folder, contextlib.ExitStack() as stack:
        disk = _open_floor(stack, report, folder)
        store = stack.enter_context(opened(folder / "pykv", sync="always"))
        small, large = frame_bytes(store), _batch_bytes(store, pairs[:_BATCH])
        os.sync()

        def batches(arguments: Any) -> Any:
            return lambda: _BATCH * calls_per_second(store.put_many, arguments, duration)

        sides = {"put_many(list)": batches(lists), "put_many(dict)": batches(dicts)}
        if disk:
            sides["floor syncs"] = lambda: disk.syncs_per_second(small, duration)
            sides["floor, same bytes"] = lambda: _BATCH * disk.syncs_per_second(large, duration)
            report.notes.append(
                f"floor syncs: of {small} B, the ratio is records per floor sync; same bytes: a "
                f"floor that writes {large} B a sync, in records"
            )
        figures = in_turns(sides, settings.slices)
    report.rows = _batch_rows(figures)
    return report


def _batch_bytes(store: Any, pairs: list[Pair]) -> int:
    before = log_bytes(store)
    store.put_many(pairs)
    return log_bytes(store) - before


def _batch_rows(figures: dict[str, list[float]]) -> list[Row]:
    rows = []
    for name in ("put_many(list)", "put_many(dict)"):
        what, mine = f"records, batches of {_BATCH:,}", _rates(figures, name)
        if "floor syncs" not in figures:
            rows.append(Row(what, mine))
            continue
        rows.append(Row(what, mine, _rates(figures, "floor syncs"), Target(400)))
        rows.append(Row(what, mine, _rates(figures, "floor, same bytes")))
    return rows


def bulk_load(settings: Settings) -> Report:
    """Everything in batches without waiting for the disk, one sync at the end."""
    report = Report("never, then sync()")
    pairs = make_pairs(settings.random(), settings.scaled(500_000, 100_000))
    parts = chunks(pairs, _BATCH)
    written, checkpointed = 0, False

    def fill(folder: Path, options: dict[str, Any]) -> None:
        nonlocal written, checkpointed
        with opened(folder, sync="never", **options) as store:
            for part in parts:
                store.put_many(part)
            store.sync()
            written = log_bytes(store)
        checkpointed |= any(folder.glob("*.ckpt"))

    def side(**options: Any) -> Callable[[], float]:
        def measure() -> float:
            with settings.scratch() as folder:
                return len(pairs) / seconds(fill, folder / "pykv", options)

        return measure

    def theirs() -> float:
        with settings.scratch() as folder:
            return floor.write_bytes_per_second(folder, written) / written * len(pairs)

    reason = floor.missing()
    report.notes += [reason] if reason else []
    names = ("pykv", "pykv, log only")
    sides = dict(zip(names, (side(), side(checkpoint_log_ratio=None)), strict=True))
    if not reason:
        sides["disk floor"] = theirs
    figures = in_turns(sides, settings.rounds)
    what = f"records, {len(pairs):,} in batches of {_BATCH:,}, open to close"
    reference = None if reason else _rates(figures, "disk floor")
    report.rows += [Row(what, _rates(figures, name), reference) for name in names]
    report.notes.append(
        f"{written / len(pairs):.0f} B of log a record, which the floor writes, too"
    )
    if checkpointed:
        report.notes.append("pykv as it is made a checkpoint besides, at the close")
    return report


BENCHMARKS = [
    Benchmark("durable-put", "durable put, 16 B key, 100 B value, 1 thread", put_one_thread),
    Benchmark("durable-threads", "durable put from many Python threads", put_threads),
    Benchmark("durable-batch", "batches of 1,000 in one durable commit", put_batches),
    Benchmark("bulk-load", "loading in batches, one sync at the end", bulk_load),
]
