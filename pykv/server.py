"""serve: a store behind the Redis protocol, for other processes and languages."""

from __future__ import annotations

import atexit
import ipaddress
import os
from typing import TYPE_CHECKING
from weakref import WeakSet

from pykv import _core

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from pykv.store import Store
    from pykv.types import FilePath


class Server(_core.Server):
    """A running server; made by `serve`.  A context manager that stops it.

    Its threads are C and do not need the interpreter.  It is stopped when the interpreter exits, before
    stores are closed.  In a forked child it is dead: `running` is False, and `stop` does nothing.
    """

    def __init__(
        self,
        store: Store,
        *,
        host: str | None = "127.0.0.1",
        port: int = 6379,
        unix: FilePath | None = None,
        threads: int = 1,
        password: str | None = None,
        tls_cert: FilePath | None = None,
        tls_key: FilePath | None = None,
        tls_ca: FilePath | None = None,
        debug_commands: bool = False,
        max_clients: int | None = None,
        max_arguments: int | None = None,
        max_bulk: int | None = None,
        max_query_buffer: int | None = None,
        max_query_buffers: int | None = None,
        max_output_buffer: int | None = None,
        idle_timeout: int | None = None,
        request_timeout: int | None = None,
    ) -> None:
        """As `serve`."""
        if password == "":
            raise ValueError("the password is empty")
        if host is not None and password is None and not _is_loopback(host):
            raise ValueError(
                f"{host} is not a loopback address: without a password everybody who reaches it "
                "could read and write everything"
            )
        super().__init__(
            store,
            host=host,
            port=port,
            unix=unix,
            threads=threads,
            password=password,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            debug_commands=debug_commands,
            max_clients=max_clients,
            max_arguments=max_arguments,
            max_bulk=max_bulk,
            max_query_buffer=max_query_buffer,
            max_query_buffers=max_query_buffers,
            max_output_buffer=max_output_buffer,
            idle_timeout=idle_timeout,
            request_timeout=request_timeout,
        )
        self.host = host
        self.unix = None if unix is None else os.fsdecode(unix)
        self._scheme = "redis" if tls_cert is None else "rediss"
        _running.add(self)

    @property
    def address(self) -> tuple[str, int] | str:
        """(host, port), or the path of the unix socket when there is no host."""
        if self.host is None:
            return self.unix or ""
        return self.host, self.port

    @property
    def url(self) -> str:
        """What clients connect to; without the password."""
        if self.host is None:
            return f"unix://{self.unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<pykv.Server at {self.url}{'' if self.running else ', stopped'}>"


def serve(
    store: Store,
    *,
    host: str | None = "127.0.0.1",
    port: int = 6379,
    unix: FilePath | None = None,
    threads: int = 1,
    password: str | None = None,
    tls_cert: FilePath | None = None,
    tls_key: FilePath | None = None,
    tls_ca: FilePath | None = None,
    debug_commands: bool = False,
    max_clients: int | None = None,
    max_arguments: int | None = None,
    max_bulk: int | None = None,
    max_query_buffer: int | None = None,
    max_query_buffers: int | None = None,
    max_output_buffer: int | None = None,
    idle_timeout: int | None = None,
    request_timeout: int | None = None,
) -> Server:
    """Puts `store` behind the Redis protocol, by threads of its own, and returns at once.

    host, port      where to listen; port 0: any free one (`Server.port`); host None: no TCP.  A host
                    that is not loopback needs a password
    unix            the path of a unix socket, which only this user may connect to
    threads         event loops; one serves some 100,000 requests a second and more
    password        what AUTH asks for
    tls_cert, tls_key
                    files with the certificate and its private key: TLS only, from version 1.2 on;
                    tls_ca: clients must show a certificate that one of these has signed
    debug_commands  allow DEBUG SLEEP, RELOAD, LOADAOF
    max_clients     connections; more are refused
    max_arguments, max_bulk, max_query_buffer, max_query_buffers
                    the longest request: in arguments, in bytes of one argument, in bytes of one
                    client, and of what all clients have sent and is not complete yet
    max_output_buffer
                    bytes of replies that a client does not read; then it is disconnected, as it is
                    when one request's answer is 16 MiB larger, which is not made to its end
    idle_timeout, request_timeout
                    seconds after which a client that neither sends nor reads anything, or a request
                    that is half sent, is disconnected; 0: never

    None: the default.  The store stays usable: both see the same keys, and a client gets no reply
    about a write before it is as durable as the store's sync mode says.  Closing the store does not
    end the server.

    Raises OSError when it cannot listen there, ValueError for bad arguments, and what reading the
    certificate tells.
    """
    return Server(
        store,
        host=host,
        port=port,
        unix=unix,
        threads=threads,
        password=password,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_ca=tls_ca,
        debug_commands=debug_commands,
        max_clients=max_clients,
        max_arguments=max_arguments,
        max_bulk=max_bulk,
        max_query_buffer=max_query_buffer,
        max_query_buffers=max_query_buffers,
        max_output_buffer=max_output_buffer,
        idle_timeout=idle_timeout,
        request_timeout=request_timeout,
    )


# What still runs when the interpreter exits.  This module is imported after pykv.store, and exit
# handlers run in the opposite order: servers first, then their stores.
_running: WeakSet[Server] = WeakSet()


@atexit.register
def _stop_running() -> None:
    for server in list(_running):
        server.stop(grace=1.0)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # a name: the server looks at its addresses
