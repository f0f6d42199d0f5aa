"""Disk used while a few keys are overwritten again and again: old log has to go as new log comes."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from typing import Any

from .data import PAYLOAD_BYTES, VALUE, Pair, chunks, disk_bytes, make_keys, opened
from .report import BYTES, Report, Row, Series, Target
from .runner import Benchmark, Settings, progress, quiet

_KEYS = 100_000
_BATCH = 1000
_SEGMENT_BYTES = 64 << 20
_LOOK_SECONDS = 0.01


def _overwrite(store: Any, path: Path, pairs: list[Pair], total: int) -> int:
    """The most that the store took on the disk meanwhile."""
    parts = [list(part) for part in chunks(pairs, _BATCH)]
    most, looked = 0, 0.0
    with quiet():
        for number, part in enumerate(itertools.islice(itertools.cycle(parts), total // _BATCH)):
            store.put_many(part)
            now = time.perf_counter()
            if now - looked >= _LOOK_SECONDS:
                most, looked = max(most, disk_bytes(path)), now
                progress(f"{number * _BATCH:,} of {total:,}")
    progress("")
    return max(most, disk_bytes(path))


def disk_used(settings: Settings) -> Report:
    report = Report("never")
    total = settings.scaled(50_000_000, 3_000_000)
    rng = random.Random(settings.seed)
    pairs = [(key, VALUE) for key in make_keys(rng, _KEYS)]
    rng.shuffle(pairs)
    with settings.scratch() as folder:
        path = folder / "pykv"
        with opened(path, sync="never") as store:
            store.put_many(pairs)
            start = time.perf_counter()
            most = _overwrite(store, path, pairs, total)
            elapsed = time.perf_counter() - start
            end, stats = disk_bytes(path), store.stats()
        closed = disk_bytes(path)
        with opened(path) as store:
            assert len(store) == _KEYS
    data = _KEYS * PAYLOAD_BYTES
    limit = Target(4 * data + 4 * _SEGMENT_BYTES, of="figure")
    what = f"disk used, {total:,} overwrites of {_KEYS:,} keys"
    for moment, size in (("at the most", most), ("at the end", end), ("closed", closed)):
        report.rows.append(Row(f"{what}, {moment}", Series("pykv", [size], BYTES), None, limit))
    report.notes.append(f"the target: 4 times the data ({data / 1e6:.1f} MB), 4 segments of 64 MiB")
    report.notes.append(
        f"{stats['lsn'] / 1e6:.0f} MB of log written, {stats['checkpoints']} checkpoints made, "
        f"{stats['checkpoint_failures']} failed; {total / elapsed:,.0f} overwrites a second"
    )
    return report


BENCHMARKS = [Benchmark("churn", "disk used while keys are overwritten", disk_used)]
