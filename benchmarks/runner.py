"""How things are measured: settings, turns, clocks and threads.

Rules that every subject keeps: the sides of a row take turns in one run (A B B A ...), each with
the same shape of loop and its bound method fetched before; data that a cache could remember is made
anew for each side and round, outside of the clock; the garbage collector is off while a clock runs.
"""

from __future__ import annotations

import functools
import gc
import itertools
import random
import shutil
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .report import Report

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Settings:
    folder: str  # where stores are made: on the disk that is to be measured
    rounds: int
    seed: int
    quick: bool

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @property
    def slice_seconds(self) -> float:
        """How long a side that waits for the disk runs before it is another's turn: short, because
        a disk changes its pace from second to second ..."""
        return 0.1 if self.quick else 0.25

    @property
    def slices(self) -> int:
        """... and often."""
        return self.rounds * (3 if self.quick else 4)

    def random(self) -> random.Random:
        return random.Random(self.seed)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new folder on the measured disk, gone afterwards."""
        path = Path(tempfile.mkdtemp(prefix="pykv-benchmark-", dir=self.folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Benchmark:
    name: str
    title: str
    run: Callable[[Settings], Report]


def in_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """One figure of each side for each round, the sides taking turns: A B, B A, A B ...  What a
    turn leaves behind (dirty pages, a journal) must not always fall on the same side."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds):
        for name in list(sides)[:: -1 if round_number % 2 else 1]:
            progress(f"round {round_number + 1} of {rounds}: {name}")
            figures[name].append(sides[name]())
    progress("")
    return figures


def progress(text: str) -> None:
    """A line that replaces itself, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:78]}", end="", file=sys.stderr, flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside: what there is, is collected before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    with quiet():
        start = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - start


def own_copy(function: _Function) -> _Function:
    """A copy with a code object of its own: the interpreter specializes the bytecode of a loop for
    what it has seen there, and one side's types must not spoil the other's."""
    code = function.__code__.replace()
    copy = types.FunctionType(code, function.__globals__, function.__name__)
    copy.__defaults__ = function.__defaults__
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy  # type: ignore[return-value]


def get_each(get: Callable[[Any], Any], probe: Sequence[Any]) -> None:
    """The loop of those who read."""
    for key in probe:
        get(key)


def calls_per_second(
    call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], duration: float
) -> float:
    """Calls with each of the arguments in turn, again and again, until the time is up.  The clock
    is read at each call: for calls that take microseconds."""
    clock, calls = time.perf_counter, 0
    with quiet():
        start = clock()
        for given in itertools.cycle(arguments):
            call(*given)
            calls += 1
            elapsed = clock() - start
            if elapsed >= duration:
                return calls / elapsed
    raise ValueError("no arguments")


def seconds_in_threads(bodies: Sequence[Callable[[], Any]]) -> float:
    """Runs each body in a thread; from the first that starts to the last that ends."""
    barrier = threading.Barrier(len(bodies))
    spans: list[tuple[float, float]] = []

    def work(body: Callable[[], Any]) -> None:
        barrier.wait()
        start = time.perf_counter()
        body()
        spans.append((start, time.perf_counter()))

    threads = [threading.Thread(target=work, args=(body,)) for body in bodies]
    with quiet():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(spans) != len(bodies):
        raise RuntimeError("a benchmark thread failed; its traceback is above")
    return max(end for _, end in spans) - min(start for start, _ in spans)


def calls_per_second_in_threads(
    call: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    threads: int,
    duration: float,
) -> float:
    """As calls_per_second, from several threads at once, each with a part of the arguments; all
    calls that returned, over the time from the first start to the last end."""
    stop = False
    counts = [0] * threads

    def body(index: int) -> None:
        calls = 0
        for given in itertools.cycle(arguments[index::threads]):
            call(*given)
            calls += 1
            if stop:
                break
        counts[index] = calls

    def ring() -> None:
        nonlocal stop
        stop = True

    alarm = threading.Timer(duration, ring)
    alarm.start()
    elapsed = seconds_in_threads([functools.partial(body, index) for index in range(threads)])
    alarm.join()
    return sum(counts) / elapsed
