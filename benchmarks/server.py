"""`pykv serve` against redis-server, asked by redis-benchmark: durable, without persistence, busy, idle, killed.

Both servers run all the time and only one is asked at a time, in turns; random keys of a million, values of 100 bytes.
Durable: `appendfsync always` and sync "always". Without: `--save "" --appendonly no` and `--memory`. The processor's time
is what the server's process took, by /proc, divided by the requests.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .data import VALUE_BYTES
from .report import BYTES, RATE, SECONDS, Report, Row, Series, Target
from .runner import Benchmark, Settings, in_turns, progress

_KEYS = 1_000_000
_IDLE = 10_000
_NAMES = ("pykv", "redis")
_PATIENCE = 30.0  # seconds until a server answers


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


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


def _pykv(folder: Path, durable: bool) -> list[str]:
    return [sys.executable, "-m", "pykv", "serve", str(folder / "store") if durable else "--memory"]


def _redis(folder: Path, durable: bool) -> list[str]:
    (folder / "redis").mkdir()
    command = ["redis-server", "--dir", str(folder / "redis"), "--save", ""]
    return [*command, "--appendonly", "yes" if durable else "no"]


@contextlib.contextmanager
def _both(
    settings: Settings, durable: bool, most_clients: int = 10_000
) -> Iterator[tuple[_Server, _Server]]:
    with settings.scratch() as folder, contextlib.ExitStack() as stack:
        redis = [*_redis(folder, durable), "--maxclients", str(most_clients)]
        redis += ["--appendfsync", "always"] if durable else []
        pykv = [*_pykv(folder, durable), "--max-clients", str(most_clients)]
        yield (
            stack.enter_context(_started(*pykv, port=_free_port(), folder=folder)),
            stack.enter_context(_started(*redis, port=_free_port(), folder=folder)),
        )


def _client(server: _Server, test: str, clients: int, pipeline: int, requests: int) -> list[str]:
    command = ["redis-benchmark", "-p", str(server.port), "-t", test, "-d", str(VALUE_BYTES), "-r", str(_KEYS)]
    return [*command, "-c", str(clients), "-P", str(pipeline), "-n", str(requests), "--csv"]


def _ask(
    server: _Server, test: str, clients: int, pipeline: int, requests: int, column: str = "rps"
) -> float:
    """Requests a second, or another column of redis-benchmark's table."""
    command = _client(server, test, clients, pipeline, requests)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(list(csv.DictReader(done.stdout.splitlines()))[-1][column])


def _compare(
    report: Report,
    settings: Settings,
    servers: tuple[_Server, _Server],
    shape: tuple[str, int, int, int],
    target: float | None,
    cpu_target: float | None,
) -> None:
    test, clients, pipeline, requests = shape
    cpu: dict[str, list[float]] = {name: [] for name in _NAMES}

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


def _benchmark(
    name: str, title: str, sync: str, measure: Callable[[Report, Settings], None]
) -> Benchmark:
    """`measure` fills the report, where both servers can be had."""

    def run(settings: Settings) -> Report:
        report = Report(sync)
        reason = _missing()
        if reason:
            report.notes.append(reason)
        else:
            measure(report, settings)
        return report

    return Benchmark(name, title, run)


def durable(report: Report, settings: Settings) -> None:
    with _both(settings, durable=True) as servers:
        for clients, pipeline, requests, target in (
            (1, 1, 5_000, 1.5),
            (50, 1, 20_000, 1.3),
            (200, 1, 20_000, 1.2),
            (50, 16, 100_000, 1.5),
        ):
            shape = ("set", clients, pipeline, settings.scaled(requests, requests // 10))
            _compare(report, settings, servers, shape, target, None)


def memory(report: Report, settings: Settings) -> None:
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


def mixed(report: Report, settings: Settings) -> None:
    """A client that reads beside eight that write durably, one request at a time each."""

    def side(server: _Server) -> Callable[[], float]:
        def measure() -> float:
            writers = subprocess.Popen(_client(server, "set", 8, 1, 10_000_000), stdout=subprocess.DEVNULL)
            try:
                return _ask(server, "get", 1, 1, settings.scaled(20_000, 3_000), "p99_latency_ms") / 1000
            finally:
                writers.kill()
                writers.wait()

        return measure

    with _both(settings, durable=True) as servers:
        figures = in_turns(dict(zip(_NAMES, map(side, servers), strict=True)), settings.rounds)
    mine, theirs = (Series(name, figures[name], SECONDS) for name in _NAMES)
    report.rows.append(Row("p99 of GET, 1 client, beside 8 that SET", mine, theirs, Target(1.0)))


@contextlib.contextmanager
def _idlers(server: _Server, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(b"PING\r\n")
            client.recv(16)
        yield


def _ask_beside(server: _Server, idlers: int, ask: Callable[[], float]) -> float:
    with _idlers(server, idlers):
        return ask()


def idle(report: Report, settings: Settings) -> None:
    """What connections cost that do nothing: 200 fewer than this process may have files open, at the most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = settings.scaled(_IDLE, _IDLE // 10)
    count = count if hard == resource.RLIM_INFINITY else min(count, hard - 200)
    what = f"{count:,} idle connections"
    memory: list[Series] = []
    rows: list[Row] = []
    with _both(settings, durable=False, most_clients=count + 200) as servers:
        for name, server in zip(_NAMES, servers, strict=True):
            ask = functools.partial(_ask, server, "get", 50, 1, settings.scaled(50_000, 5_000))
            ask()  # what the first requests take is not theirs
            before = server.resident_bytes()
            with _idlers(server, count):
                memory.append(Series(name, [float(server.resident_bytes() - before)], BYTES))
            beside = functools.partial(_ask_beside, server, count, ask)
            figures = in_turns({"beside": beside, "without": ask}, settings.rounds)
            mine = Series(name, figures["beside"], RATE)
            without = Series("without them", figures["without"], RATE)
            rows.append(Row(f"GET, 50 clients, beside {what}", mine, without))
    report.rows = [Row(f"{what}: memory", memory[0], memory[1], Target(40e6, of="figure")), *rows]


def _first_answer_seconds(command: list[str], folder: Path, key: str, fill: Callable[[int], None]) -> float:
    """Starts it, lets it be filled, kills it; from starting it again until it answers a GET."""
    with _started(*command, port=_free_port(), folder=folder) as server:
        fill(server.port)
        server.process.kill()
        server.process.wait()
    port = _free_port()
    request = b"GET %s\r\n" % key.encode()
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, cwd=folder)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(request)
                if client.recv(1) == b"$":  # not -LOADING
                    return time.perf_counter() - start
            time.sleep(0.001)
        raise RuntimeError(f"{command[0]} ended")
    finally:
        process.kill()
        process.wait()


def _set_many(port: int, keys: range) -> None:
    """SETs through redis-cli --pipe."""
    command = ["redis-cli", "-p", str(port), "--pipe"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pipe:
        assert pipe.stdin is not None
        for start in range(keys.start, keys.stop, 10_000):
            part = keys[start - keys.start : start - keys.start + 10_000]
            pipe.stdin.write(
                b"".join(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$100\r\n%0100d\r\n" % (i, i) for i in part)
            )
    if pipe.returncode != 0:
        raise RuntimeError("redis-cli --pipe failed")


def restart(report: Report, settings: Settings) -> None:
    """Killed with its items, a checkpoint (Redis: a rewritten append-only file) and SETs behind it."""
    count = settings.scaled(5_000_000, 200_000)

    def fill(port: int, checkpoint: str) -> None:
        _set_many(port, range(count))
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"%s\r\n" % checkpoint.encode())
            client.recv(100)
            while checkpoint == "BGREWRITEAOF":
                client.sendall(b"INFO persistence\r\n")
                time.sleep(0.2)
                if b"aof_rewrite_in_progress:0" in client.recv(1 << 16):
                    break
        _set_many(port, range(count // 50))

    figures: dict[str, list[float]] = {}
    with settings.scratch() as folder:
        sides = {
            "pykv": (_pykv(folder, True), "SAVE"),
            "redis": (_redis(folder, True), "BGREWRITEAOF"),
        }
        for name, (command, checkpoint) in sides.items():
            progress(name)
            filling = functools.partial(fill, checkpoint=checkpoint)
            key = f"key:{count // 2:012d}"
            figures[name] = [_first_answer_seconds(command, folder, key, filling)]
            for _ in range(settings.rounds - 1):  # killed again, with what is there now
                figures[name].append(_first_answer_seconds(command, folder, key, lambda port: None))
    progress("")
    mine, theirs = (Series(name, figures[name], SECONDS) for name in _NAMES)
    what = f"killed with {count:,} items: from the start to the first answer"
    report.rows.append(Row(what, mine, theirs, Target(0.1, of="figure")))
    report.notes.append(f"the last checkpoint, or rewritten file, {count // 50:,} SETs before the kill")


BENCHMARKS = [
    _benchmark(
        "server-durable",
        "SET over sockets, on disk before the reply, against redis-server",
        "always",
        durable,
    ),
    _benchmark(
        "server-memory",
        "GET and SET over sockets without persistence, against redis-server",
        "none",
        memory,
    ),
    _benchmark("server-mixed", "GET over a socket beside clients that write durably", "always", mixed),
    _benchmark(
        "server-idle", "connections that do nothing: their memory, and others' speed", "none", idle
    ),
    _benchmark("server-restart", "a server that was killed, until its first answer", "always", restart),
]
