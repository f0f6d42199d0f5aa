"""Link: connections to a server that speaks the Redis protocol; the one module with redis-py.

Of redis-py it uses the connections themselves: sockets, TLS, AUTH and SELECT, packing and parsing.
The pool and the retries are its own, for three reasons.  A write that was sent is never sent again:
the first may have been done, and between the two somebody else may have written.  close() waits for
the calls in flight.  And a forked child goes on with connections of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit
from weakref import WeakSet

import redis
import redis.connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from pykv import _core
from pykv.capabilities import Capabilities, capabilities_of, info_fields
from pykv.errors import ConnectionLostError, UnsupportedError

_T = TypeVar("_T")
Command = Sequence["bytes | str | int"]

PAUSE_MIN, PAUSE_MAX = 0.01, 1.0  # s; between attempts
AGAIN = (redis.BusyLoadingError,)  # the server did nothing: it is still starting
LOST = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse)
REFUSED = (redis.AuthenticationError, redis.exceptions.AuthorizationError)


class Connection(Protocol):
    """What is used of redis-py's connections, and what is noted there of the server behind each."""

    pykv_known: Capabilities
    pykv_run: str  # of the server's process; "": it does not say

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self) -> bool: ...
    def pack_commands(self, commands: Sequence[Command], /) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], /) -> None: ...
    def read_response(self) -> Any: ...


class Link:
    """Connections to one server, made when they are needed, at most `max_connections` at a time.

    Threads share it.  `repeat` of a call says that it may be done twice without a difference, so
    that it is sent again when the connection is lost; `patient` that it may take any time;
    `durable` that it must be on disk when it returns: it is not sent to a server that does not
    promise that.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None,
        password: str | None,
        timeout: float | None,
        connect_timeout: float | None,
        retries: int,
        max_connections: int,
    ) -> None:
        self.url = without_password(url)
        self._options = _connection_options(url)
        self._kind: Callable[..., Connection] = self._options.pop(
            "connection_class", redis.connection.Connection
        )
        if username is not None:
            self._options["username"] = username
        if password is not None:
            self._options["password"] = password
        self._options.update(
            socket_timeout=timeout,
            socket_connect_timeout=connect_timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._timeout = timeout
        self._retries = retries
        self._max = max_connections
        self._capabilities: Capabilities | None = None
        self._closed = False
        self._renew()
        _links.add(self)

    def _renew(self) -> None:
        """As new: also in a forked child, where threads that are not there may hold the locks."""
        self._free = threading.Condition()
        self._idle: list[Connection] = []  # the last one used is the next one used
        self._in_use = 0

    # ---- Calls ---------------------------------------------------------------------------------

    def call(self, *command: bytes | str | int, **how: bool) -> Any:
        """The reply to one command."""
        return self.pipeline([command], **how)[0]

    def pipeline(self, commands: Sequence[Command], **how: bool) -> list[Any]:
        """The replies to commands that are sent together."""
        return self.run(lambda connection: ask(connection, commands), **how)

    def transaction(self, commands: Sequence[Command], **how: bool) -> list[Any]:
        """The replies to commands that are done together or not at all."""

        def work(connection: Connection) -> list[Any]:
            replies = transact(connection, commands, reads=how.get("repeat", False))
            assert replies is not None  # nothing is watched
            return replies

        return self.run(work, **how)

    def compare_and_set(self, key: bytes, value: bytes, expected: bytes, *, durable: bool) -> bool:
        """SET if the key's value is the expected one: by one command, or under WATCH."""

        def attempt(connection: Connection) -> bool | None:
            """None: somebody wrote the key between the look and the write."""
            if connection.pykv_known.compare_and_set == "native":
                return ask(connection, [("SET", key, value, "IFEQ", expected)])[0] is not None
            watched, found = ask(connection, [("WATCH", key), ("GET", key)], refusals=True)
            if isinstance(watched, Exception):  # a write between the look and ours would be lost
                raise watched
            if found != expected:
                ask(connection, [("UNWATCH",)])  # else the next transaction here would be refused
                if isinstance(found, Exception):
                    raise found
                return False
            return None if transact(connection, [("SET", key, value)]) is None else True

        while (replaced := self.run(attempt, durable=durable)) is None:
            pass
        return replaced

    def call_of_run(self, *command: bytes | str | int, repeat: bool) -> tuple[str, Any]:
        """Which run of the server answers, and the reply: what a server tells of a work that goes on
        has no meaning for another, nor for the same one after a restart."""
        return self.run(
            lambda connection: (connection.pykv_run, ask(connection, [command])[0]), repeat=repeat
        )

    def run(
        self,
        work: Callable[[Connection], _T],
        *,
        repeat: bool = False,
        patient: bool = False,
        durable: bool = False,
    ) -> _T:
        """What `work` gives with a connection; redis-py's exceptions become pykv's."""
        attempt = 0
        while True:
            sent = False
            try:
                with self._connection(patient) as connection:
                    if durable:
                        self.demand_durable(connection.pykv_known)
                    sent = True
                    return work(connection)
            except AGAIN + LOST as error:
                safe = repeat or not sent or isinstance(error, AGAIN)
                if isinstance(error, REFUSED) or not safe or attempt >= self._retries:
                    self._raise_lost(error, maybe_done=sent and not safe)
            except redis.ResponseError as error:
                raise_refused(error)
            attempt += 1
            time.sleep(min(PAUSE_MAX, PAUSE_MIN * 2**attempt) * random.uniform(0.5, 1.0))

    @property
    def capabilities(self) -> Capabilities:
        """Of the server that the last new connection led to."""
        self.check()
        if self._capabilities is None:
            self.run(lambda connection: None)
        assert self._capabilities is not None
        return self._capabilities

    def demand_durable(self, known: Capabilities) -> None:
        if not known.sync_per_write:
            raise UnsupportedError(
                f"{self.url} does not promise that a write is on disk (durable_writes is "
                f"{known.durable_writes!r}): its appendfsync must be always"
            )

    # ---- Connections ---------------------------------------------------------------------------

    def check(self) -> None:
        if self._closed:
            raise _core.ClosedError("the store is closed")

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Waits for the calls in flight."""
        with self._free:
            self._closed = True
            self._free.notify_all()
            while self._in_use:
                self._free.wait()
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    @contextlib.contextmanager
    def _connection(self, patient: bool) -> Iterator[Connection]:
        """A connection for one call: what fails in the block, but for an answer that is an error of
        the server, ends it, since its replies could not be told apart any more."""
        connection = self._take()
        keep = False
        try:
            if connection is not None and (patient or not _alive(connection)):
                connection.disconnect()
                connection = None
            if connection is None:
                connection = self._dial(None if patient else self._timeout)
            yield connection
            keep = not patient
        except (redis.ResponseError, UnsupportedError):
            keep = not patient
            raise
        finally:
            if connection is not None and not keep:
                connection.disconnect()
                connection = None
            self._give(connection)

    def _take(self) -> Connection | None:
        """The right to use a connection: one that is idle, or None for a new one."""
        with self._free:
            self.check()
            if self._in_use >= self._max:
                if not self._free.wait_for(
                    lambda: self._in_use < self._max or self._closed, self._timeout
                ):
                    text = f"all {self._max} connections are in use"
                    raise ConnectionLostError(errno.ETIMEDOUT, text, self.url)
                self.check()
            self._in_use += 1
            return self._idle.pop() if self._idle else None

    def _give(self, connection: Connection | None) -> None:
        with self._free:
            self._in_use -= 1
            if connection is not None:
                self._idle.append(connection)
            self._free.notify_all() if self._closed else self._free.notify()

    def _dial(self, timeout: float | None) -> Connection:
        connection = self._kind(**{**self._options, "socket_timeout": timeout})
        try:
            connection.connect()
            self._greet(connection)
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def _greet(self, connection: Connection) -> None:
        """Asks what the server is: each time, since another one may have taken its place."""
        server, persistence, setting = ask(
            connection,
            [("INFO", "server"), ("INFO", "persistence"), ("CONFIG", "GET", "appendfsync")],
            refusals=True,
        )
        info: dict[str, str] = {}
        for reply in (server, persistence):
            if isinstance(reply, bytes):
                info.update(info_fields(reply))
        given = isinstance(setting, list) and len(setting) == 2
        connection.pykv_known = capabilities_of(info, setting[1].decode() if given else None)
        connection.pykv_run = info.get("run_id", "")
        self._capabilities = connection.pykv_known

    def _raise_lost(self, error: Exception, maybe_done: bool) -> NoReturn:
        if isinstance(error, REFUSED):
            raise _core.StorageError(errno.EACCES, f"refused: {error}", self.url) from error
        cause = _os_error(error)
        if isinstance(error, redis.TimeoutError):
            number, text = errno.ETIMEDOUT, str(error)
        elif cause is not None:
            number, text = cause.errno or errno.EIO, cause.strerror or str(error)
        else:
            number, text = errno.ECONNRESET, str(error)
        if maybe_done:
            text += "; the write may have been done, or not"
        lost = ConnectionLostError(number, text, self.url)
        lost.maybe_done = maybe_done
        raise lost from error


# ---- Commands on one connection ----------------------------------------------------------------


def ask(
    connection: Connection, commands: Sequence[Command], *, refusals: bool = False
) -> list[Any]:
    """The replies; the first that is an error is raised when all are read.  With `refusals`, errors
    are among them."""
    connection.send_packed_command(connection.pack_commands(commands))
    replies = [_reply(connection) for _ in commands]
    if not refusals:
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
    return replies


def transact(
    connection: Connection, commands: Sequence[Command], *, reads: bool = False
) -> list[Any] | None:
    """MULTI, the commands, EXEC: their replies; None when a watched key was written meanwhile.

    MULTI is answered before a write is sent: where it is refused (by an access list, say), the
    commands behind it would be done one by one."""
    begin: list[Command] = [("MULTI",)]
    if not reads:
        ask(connection, begin)
        begin = []
    replies = ask(connection, [*begin, *commands, ("EXEC",)], refusals=True)
    for reply in replies:  # the first says why, EXEC only that it did nothing
        if isinstance(reply, redis.ResponseError):
            raise reply
    done: list[Any] | None = replies[-1]
    for reply in done or ():
        if isinstance(reply, Exception):
            raise reply
    return done


def _reply(connection: Connection) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _alive(connection: Connection) -> bool:
    """Not closed by the server, and without an answer that nobody read."""
    try:
        return not connection.can_read()
    except (redis.RedisError, OSError):
        return False


# ---- Errors ------------------------------------------------------------------------------------

# Where redis-py has no class for an error: what it begins with, or has in it.
BEGINNINGS: list[tuple[str, Callable[[str], Exception]]] = [
    ("MISCONF No space", lambda text: _core.StorageError(errno.ENOSPC, text)),  # of pykv's server
    ("MISCONF", lambda text: _core.FailedError(errno.EIO, text)),
    ("WRONGTYPE", lambda text: UnsupportedError("the key holds a Redis value that is no string")),
    ("increment or decrement would overflow", OverflowError),
    ("value is not an integer or out of range", ValueError),
    ("string exceeds maximum allowed size", _core.LimitError),
    ("unknown command", lambda text: UnsupportedError(f"the server has an {text}")),
    ("unknown subcommand", lambda text: UnsupportedError(f"the server has an {text}")),
]


def raise_refused(error: redis.ResponseError) -> NoReturn:
    """What a server's error is as an exception of pykv."""
    text = str(error)
    if isinstance(error, redis.OutOfMemoryError):
        raise _core.MemoryLimitError(text) from error
    if isinstance(error, redis.ReadOnlyError):
        raise _core.ReadOnlyError(text) from error
    if isinstance(error, redis.exceptions.NoPermissionError):
        raise _core.StorageError(errno.EACCES, text) from error
    for beginning, make in BEGINNINGS:
        if text.startswith(beginning):
            raise make(text.partition(", with args")[0]) from error
    raise _core.Error(f"the server refused: {text}") from error


def _os_error(error: BaseException | None) -> OSError | None:
    """The system's error that a connection's error came from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        error = error.__cause__ or error.__context__
    return None


# ---- URLs --------------------------------------------------------------------------------------


def without_password(url: str) -> str:
    """For people to see.  Up to the last @, since a password may not have been quoted well."""
    scheme, colons, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    place = re.sub("(password=)[^&#]*", r"\1***", place)
    return f"{scheme}{colons}{name}{':***' if colon else ''}{at}{place}"


def _connection_options(url: str) -> dict[str, Any]:
    """What redis-py's connections take.  ValueError, without the password, for a bad URL."""
    parse: Callable[[str], dict[str, Any]] = redis.connection.parse_url
    try:
        parts = urlsplit(url)
        options = parse(url)
    except ValueError:
        raise ValueError(
            "not a URL redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB; in the "
            "name and the password of a user, special characters are written as %2F and so on"
        ) from None
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name != "db" and not name.startswith("ssl_"):
            raise ValueError(f"there is no option {name!r} in the URL of a server")
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ValueError("the database, in the URL of a server, must be a number")
    return options


# ---- Forks -------------------------------------------------------------------------------------

_links: WeakSet[Link] = WeakSet()


def _renew_links() -> None:
    for link in list(_links):
        link._renew()


os.register_at_fork(after_in_child=_renew_links)
