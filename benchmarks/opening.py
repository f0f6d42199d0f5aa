"""Opening and closing a small store: what a short-lived script pays, next to peers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .data import make_pairs, opened
from .peers import installed
from .recovery import copy_warm
from .report import SECONDS, Report, Row, Series
from .runner import Benchmark, Settings, in_turns, seconds
from .worker import call_fresh

_ITEMS = 1000


def open_close(settings: Settings) -> Report:
    report = Report("always")
    pairs = make_pairs(settings.random(), _ITEMS)
    numbers = itertools.count()

    def reopen(path: Path) -> None:
        with opened(path, sync="always"):
            pass

    with settings.scratch() as folder:
        _build(folder, pairs, settings.seed)

        def after_kill() -> float:
            copy = folder / f"copy-{next(numbers)}"
            copy_warm(folder / "killed", copy)
            return seconds(reopen, copy)

        sides: dict[str, Callable[[], float]] = {
            "new": lambda: seconds(reopen, folder / f"new-{next(numbers)}"),
            "closed": lambda: seconds(reopen, folder / "closed"),
            "killed": after_kill,
        }
        peers = installed(report)
        for kind in peers:
            with contextlib.closing(kind(folder / kind.name)) as peer:
                peer.load(pairs)
            sides[kind.name] = _peer_side(kind, folder / kind.name)
        figures = in_turns(sides, 3 * settings.rounds)
    titles = {
        "new": "open and close, a new store",
        "closed": f"open and close, {_ITEMS} items, closed before",
        "killed": f"open and close, {_ITEMS} items, killed before",
    }
    mine = {name: Series("pykv", figures[name], SECONDS) for name in titles}
    report.rows += [Row(titles[name], mine[name]) for name in titles]
    for kind in peers:
        reference = Series(kind.name, figures[kind.name], SECONDS)
        report.rows.append(Row(titles["closed"], mine["closed"], reference))
    return report


def _peer_side(kind: Any, path: Path) -> Callable[[], float]:
    return lambda: seconds(lambda: kind(path).close())


def _build(folder: Path, pairs: list[tuple[bytes, bytes]], seed: int) -> None:
    with opened(folder / "closed", sync="always") as store:
        for pair in pairs:
            store.put(*pair)
    request = {"count": _ITEMS, "batch": 1, "sync": "always", "seed": seed, "kill": True}
    call_fresh("benchmarks.recovery", "build", path=str(folder / "killed"), dies=True, **request)


BENCHMARKS = [Benchmark("open-close", "opening and closing a small store", open_close)]
