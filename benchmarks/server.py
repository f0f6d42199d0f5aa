"""`pykv serve` against redis-server, both asked by redis-benchmark: durable, and without persistence.

Both servers run all the time and only one is asked at a time, in turns; random keys of a million, values of 100 bytes.
Durable: `appendfsync always` and sync "always". Without: `--save "" --appendonly no` and `--memory`. The processor's time
is what the server's process took, by /proc, divided by the requests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .data import VALUE_BYTES
from .report import RATE, SECONDS, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns

_KEYS = 1_000_000
_PATIENCE = 30.0  # seconds until a server answers


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _missing() -> str | None:
    if not sys.platform.startswith("linux"):
        return "left out: it reads /proc"
    for program in ("redis-server", "redis-benchmark"):
        if shutil.which(program) is None:
            return f"left out: {program} is not installed"
    return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


@contextlib.contextmanager
def _started(*command: str, port: int, folder: Path) -> Iterator[_Server]:
    # Not started where the sources are: the pykv that is measured is the one that is installed.
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, cwd=folder)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{command[0]} does not answer")
            time.sleep(0.02)
        yield _Server(process, port)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _both(settings: Settings, durable: bool) -> Iterator[tuple[_Server, _Server]]:
    with settings.scratch() as folder, contextlib.ExitStack() as stack:
        (folder / "redis").mkdir()
        redis = ["redis-server", "--dir", str(folder / "redis"), "--save", ""]
        redis += ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        pykv = [sys.executable, "-m", "pykv", "serve", str(folder / "pykv") if durable else "--memory"]
        yield (
            stack.enter_context(_started(*pykv, port=_free_port(), folder=folder)),
            stack.enter_context(_started(*redis, port=_free_port(), folder=folder)),
        )


def _ask(server: _Server, test: str, clients: int, pipeline: int, requests: int) -> float:
    """Requests a second."""
    command = ["redis-benchmark", "-p", str(server.port), "-t", test, "-d", str(VALUE_BYTES), "-r", str(_KEYS)]
    command += ["-c", str(clients), "-P", str(pipeline), "-n", str(requests), "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1].split(",")[1].strip('"'))


def _compare(
    report: Report,
    settings: Settings,
    servers: tuple[_Server, _Server],
    shape: tuple[str, int, int, int],
    target: float | None,
    cpu_target: float | None,
) -> None:
    test, clients, pipeline, requests = shape
    cpu: dict[str, list[float]] = {"pykv": [], "redis": []}

    def side(name: str, server: _Server) -> Callable[[], float]:
        def measure() -> float:
            before = server.cpu_seconds()
            rate = _ask(server, test, clients, pipeline, requests)
            cpu[name].append((server.cpu_seconds() - before) / requests)
            return rate

        return measure

    sides = {name: side(name, server) for name, server in zip(cpu, servers, strict=True)}
    figures = in_turns(sides, settings.rounds)
    what = f"{test.upper()}, {clients} clients, pipeline {pipeline}"
    mine, theirs = (Series(name, figures[name], RATE) for name in cpu)
    report.rows.append(Row(what, mine, theirs, None if target is None else Target(target)))
    mine, theirs = (Series(name, [max(s, 1e-9) for s in cpu[name]], SECONDS) for name in cpu)
    cpu_wanted = None if cpu_target is None else Target(cpu_target)
    report.rows.append(Row(f"{what}: processor a request", mine, theirs, cpu_wanted))


def durable(settings: Settings) -> Report:
    report = Report("always")
    reason = _missing()
    if reason:
        report.notes.append(reason)
        return report
    with _both(settings, durable=True) as servers:
        for clients, pipeline, requests, target in (
            (1, 1, 5_000, 1.5),
            (50, 1, 20_000, 1.3),
            (200, 1, 20_000, 1.2),
            (50, 16, 100_000, 1.5),
        ):
            shape = ("set", clients, pipeline, settings.scaled(requests, requests // 10))
            _compare(report, settings, servers, shape, target, None)
    return report


def memory(settings: Settings) -> Report:
    report = Report("none")
    reason = _missing()
    if reason:
        report.notes.append(reason)
        return report
    with _both(settings, durable=False) as servers:
        _ask(servers[0], "set", 50, 16, _KEYS // 2)  # so that GET finds something, on both sides
        _ask(servers[1], "set", 50, 16, _KEYS // 2)
        for test in ("get", "set"):
            for pipeline, requests, target, cpu_target in (
                (1, 50_000, 1.0, None),
                (16, 500_000, 1.6, 1 / 0.6),
                (64, 1_000_000, 2.5, 1 / 0.6),
            ):
                shape = (test, 50, pipeline, settings.scaled(requests, requests // 10))
                _compare(report, settings, servers, shape, target, cpu_target)
    return report


BENCHMARKS = [
    Benchmark("server-durable", "SET over sockets, on disk before the reply, against redis-server", durable),
    Benchmark("server-memory", "GET and SET over sockets without persistence, against redis-server", memory),
]
