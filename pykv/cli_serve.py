"""The command `pykv serve`: a store behind the Redis protocol until SIGTERM, SIGINT or SHUTDOWN."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pykv

if TYPE_CHECKING:
    import argparse

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "kb": 2**10, "mb": 2**20, "gb": 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("store", metavar="STORE", nargs="?", help="the store's directory")
    add("--memory", action="store_true", help="serve a store in memory only, instead of STORE")
    add("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1); none: no TCP")
    add("--port", type=_port, default=6379, help="(default: 6379); 0: any free one")
    add("--unix", metavar="PATH", help="listen on this unix socket, too")
    add("--threads", type=int, default=1, metavar="N", help="event loops (default: 1)")
    add(
        "--sync",
        choices=("always", "interval", "never"),
        default="always",
        help="when a write is acknowledged (default: always, when it is on disk)",
    )
    add("--sync-interval", type=float, default=0.1, metavar="SECONDS", help="(default: 0.1)")
    add("--max-memory", type=_size, metavar="SIZE", help="bytes, or 512mb, 2gb ...")
    add(
        "--when-full",
        choices=("refuse", "evict"),
        default="refuse",
        help="what happens at that bound: writes are refused, or other keys go (default: refuse)",
    )
    add("--password-file", metavar="FILE", help="its first line is the password; or set PYKV_PASSWORD")
    add("--tls-cert", metavar="FILE", help="serve TLS only, with this certificate (PEM) ...")
    add("--tls-key", metavar="FILE", help="... and its private key")
    add("--tls-ca", metavar="FILE", help="clients must show a certificate that this one has signed")
    add("--max-clients", type=int, metavar="N", help="connections (default: 10000)")
    add("--metrics", type=_port, metavar="PORT", help="figures for Prometheus on 127.0.0.1:PORT")
    add("--enable-debug-commands", action="store_true", help="allow DEBUG SLEEP and RELOAD")


def run(arguments: argparse.Namespace) -> int:
    a = arguments
    if (a.store is None) != a.memory:
        raise ValueError("give either STORE or --memory")
    password = _password(a.password_file)
    with _open(a) as store:
        server = pykv.serve(
            store,
            host=None if a.host == "none" else a.host,
            port=a.port,
            unix=a.unix,
            threads=a.threads,
            password=password,
            tls_cert=a.tls_cert,
            tls_key=a.tls_key,
            tls_ca=a.tls_ca,
            max_clients=a.max_clients,
            debug_commands=a.enable_debug_commands,
        )
        # The server has handles of its own; with ours closed it can reload the store.
    with server, _signals(server), _metrics(server, a.metrics):
        print(f"pykv: serving {a.store or 'memory'} at {server.url}", flush=True)
        _notify("READY=1")
        server.wait()
        _notify("STOPPING=1")
    return 0


def _open(a: argparse.Namespace) -> pykv.Store:
    return pykv.open(
        a.store,
        sync=a.sync,
        sync_interval=a.sync_interval,
        max_memory=a.max_memory,
        when_full=a.when_full,
    )


def _password(path: str | None) -> str | None:
    if path is None:
        return os.environ.get("PYKV_PASSWORD") or None
    with open(path, encoding="utf-8") as file:
        password = file.readline().rstrip("\r\n")
    if not password:
        raise ValueError(f"{path}: its first line is empty")
    return password


@contextlib.contextmanager
def _signals(server: pykv.Server) -> Iterator[None]:
    """SIGTERM and SIGINT let the wait end."""

    def ask(_number: int, _frame: object) -> None:
        server._ask_to_stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _metrics(server: pykv.Server, port: int | None) -> Iterator[None]:
    if port is None:
        yield
        return
    try:
        from pykv import metrics  # only here: it needs prometheus_client
    except ImportError:
        raise ValueError("--metrics needs prometheus_client: pip install prometheus_client") from None
    with metrics.exposed(server, port):
        yield


def _notify(text: str) -> None:
    """Tells the service manager (sd_notify), if one has asked for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), address)


def _size(text: str) -> int:
    digits = text.rstrip("kmgbKMGB")
    unit = _UNITS.get(text[len(digits) :].lower())
    if not digits.isdecimal() or unit is None or int(digits) == 0:
        raise _bad(f"{text!r} is not a size such as 1000000, 512mb or 2gb")
    return int(digits) * unit


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise _bad(f"{text!r} is not a port")
    return int(text)


def _bad(text: str) -> Exception:
    from argparse import ArgumentTypeError

    return ArgumentTypeError(text)


