"""dump and load: a store's items as text, and back.

Two formats.  JSON Lines, for people and tools: one object a line,

    {"key": "city", "value": "Paris"}
    {"key_base64": "//8=", "value": "text", "expiry": 1767225600000}

"key" and "value" are text where the bytes are valid UTF-8, else "key_base64" and "value_base64"
have them; "expiry", in ms since 1970, is there when the key expires.  And a stream of Redis
commands (see resp.py), which `redis-cli --pipe` accepts.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from pykv import _core
from pykv.staging import Bad, Scan, Stage, TooLarge, Trial
from pykv.streams import Source, Ticker, input_source, output

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import BinaryIO

    from pykv.remote import RemoteStore
    from pykv.store import Store
    from pykv.types import DumpFormat, Progress

CHUNK = 1 << 20  # bytes; what is written to a file at once
ONE_COMMIT_FILE = 128 << 20  # bytes; a file up to this is loaded in one commit
LINE_MAX = 6 * (_core.KEY_MAX + _core.VALUE_MAX) + 1000  # bytes; JSON takes up to six for one


class LoadReport(NamedTuple):
    """What `load` did."""

    format: DumpFormat
    records: int
    """Lines or commands that were read."""
    items: int
    """Values that were put, those included that a later record replaced or deleted."""
    expired: int
    """Items whose time had passed, so that they were not put."""


class LoadError(_core.Error, ValueError):
    """A file that cannot be loaded: it does not parse, or has what pykv cannot keep."""

    path: str | None = None
    """The file's name, if it has one."""
    line: int | None = None
    """In JSON Lines: the line, from 1 up."""
    offset: int | None = None
    """In Redis commands: the byte where the command begins."""
    report: LoadReport | None = None
    """What was loaded nevertheless; None: nothing."""


def dump(
    store: Store | RemoteStore,
    file: str | bytes | os.PathLike[str] | os.PathLike[bytes] | BinaryIO,
    *,
    format: DumpFormat = "jsonl",
    progress: Progress = None,
) -> int:
    """Writes every item of the store, as of this moment, to a file; the number of items.

    A RemoteStore is walked instead: what others write meanwhile is in the file, or is not.
    file is a path or a binary file object.  A path's file is replaced when all is written, and on
    disk then; after a failure it is as it was.  A file object is written to and left open. format
    is "jsonl" or "redis" (see the module pykv.dumping); both keep when keys expire.

    progress is called with (done, total), in items, at most some 20 times a second; an exception
    that it raises ends the call.  Values that are replaced meanwhile are kept in memory until the
    end.

    Raises OSError when the file cannot be written, ValueError for another format, TypeError for
    another kind of file, CorruptionError when a part of the store cannot be read, ClosedError,
    ForkError.
    """
    if format not in ("jsonl", "redis"):
        raise ValueError(f"format must be 'jsonl' or 'redis', not {format!r}")
    tick = Ticker(progress)
    snapshot = store._snapshot()
    encode = _json_encoder() if format == "jsonl" else _redis_item
    with output(file) as write:
        total = len(snapshot)
        count, size = 0, 0
        chunk: list[bytes] = []
        for key, value, expiry in snapshot._records():
            record = encode(key, value, expiry)
            chunk.append(record)
            size += len(record)
            count += 1
            if size >= CHUNK:
                write(b"".join(chunk))
                size, chunk = 0, []
            if count % 64 == 0:
                tick(count, total)
        write(b"".join(chunk))
        tick.end(count, total)
    return count


def load(
    store: Store | RemoteStore,
    file: str | bytes | os.PathLike[str] | os.PathLike[bytes] | BinaryIO,
    *,
    partial: bool = False,
    progress: Progress = None,
) -> LoadReport:
    """Puts the items of a file into the store, in addition to what it has.

    file is a path or a binary file object, with JSON Lines or Redis commands as `dump` makes them;
    which, the first byte tells.  Redis commands may be a Redis append-only file, if it has only
    commands on strings and does not begin with an RDB snapshot; they have the effect on the store
    that they would have on Redis.  Items that have expired by now are not put, and counted.

    All or nothing: a file with an error in it changes nothing.  What comes from a file of up to 128
    MiB is one commit.  A larger one is read through first, and written in many commits then: what
    ends that (a crash, a full disk, MemoryLimitError, an exception of progress) leaves a part of
    it, but of a transaction (MULTI to EXEC) all or nothing.  With partial=True all that stands
    before an error is put, and the error raised all the same; its `report` says how much.  A
    transaction with an error in it, without an end, or too large for one commit is not put.  Other
    threads may write meanwhile; commands that change a value, like INCR, count from the one that
    they find.

    progress is called with (done, total), in bytes of the file, counted for each time that it is
    read, at most some 20 times a second; an exception that it raises ends the call.  Durable as the
    store's sync mode says.  A file object that cannot seek is copied to a temporary file first.

    Raises LoadError, a ValueError with `path`, and `line` or `offset`, for a line or command that
    does not parse or cannot be kept; OSError when the file cannot be read; TypeError; and what
    `Store.put_many` raises.
    """
    with input_source(file) as source:
        return _Load(store, source, Ticker(progress)).run(partial)


# ---- Loading -----------------------------------------------------------------------------------


class _Load:
    """One load: its passes over the file."""

    def __init__(self, store: Store | RemoteStore, source: Source, tick: Ticker) -> None:
        self.store, self.source, self.tick = store, source, tick
        self.now = store._clock()
        self.format = _format_of(source)
        self.records = 0

    def run(self, partial: bool) -> LoadReport:
        if partial:
            return self._write_batches(1, 1)
        if self.source.size <= ONE_COMMIT_FILE:
            with contextlib.suppress(TooLarge, _core.LimitError):
                return self._write_at_once()
        scan = Scan()
        self._pass(scan, 1, 3)
        if scan.keys:
            self._pass(Trial(self.store, self.now, scan.keys), 2, 3)
        return self._write_batches(3, 3)

    def _write_at_once(self) -> LoadReport:
        stage = Stage(self.store, self.now, at_once=True)
        self._pass(stage, 1, 1)
        stage.write()
        return self._report(stage)

    def _write_batches(self, number: int, passes: int) -> LoadReport:
        stage = Stage(self.store, self.now, at_once=False)
        try:
            self._pass(stage, number, passes)
        except LoadError as error:
            stage.write()
            error.report = self._report(stage)
            raise
        stage.write()
        return self._report(stage)

    def _error(
        self, message: str, *, line: int | None = None, offset: int | None = None
    ) -> LoadError:
        return _error(self.source, message, line=line, offset=offset)

    def _report(self, stage: Stage) -> LoadReport:
        return LoadReport(self.format, self.records, stage.items, stage.expired)

    def _pass(self, stage: Stage, number: int, passes: int) -> None:
        """Does with the stage what the file says."""
        file, _, start, size = self.source
        file.seek(start)
        before = (number - 1) * size

        def told(position: int) -> None:
            self.tick(before + position - start, passes * size)

        read = self._read_lines if self.format == "jsonl" else self._read_commands
        self.records = 0
        read(stage, told)
        if number == passes:
            self.tick.end(passes * size, passes * size)

    def _read_lines(self, stage: Stage, told: Callable[[int], None]) -> None:
        parse, file, number = _json_decoder(), self.source.file, 0
        position = self.source.start
        while line := file.readline(LINE_MAX + 1):
            number += 1
            position += len(line)
            if number % 64 == 0 or len(line) > CHUNK:
                told(position)
            try:
                if len(line) > LINE_MAX:
                    raise Bad(f"the line has more than {LINE_MAX} bytes")
                if line.isspace():
                    continue
                stage.put(*parse(line))
            except Bad as bad:
                raise self._error(str(bad), line=number) from None
            self.records += 1
            stage.write_if_full()

    def _read_commands(self, stage: Stage, told: Callable[[int], None]) -> None:
        from pykv import resp

        alone = resp.Interpreter(stage, self.now)
        offset = 0
        try:
            for offset, commands in resp.transactions(self.source.file):
                if len(commands) == 1:
                    offset, command = commands[0]
                    alone(command)
                else:
                    part = stage.part()
                    run = resp.Interpreter(part, self.now)
                    for offset, command in commands:
                        run(command)
                    part.join()
                self.records += len(commands)
                stage.write_if_full()
                told(offset)
        except resp.Malformed as bad:
            raise self._error(str(bad), offset=bad.offset - self.source.start) from None
        except Bad as bad:
            raise self._error(str(bad), offset=offset - self.source.start) from None


def _error(
    source: Source, message: str, *, line: int | None = None, offset: int | None = None
) -> LoadError:
    place = f"line {line}" if line is not None else f"at byte {offset}"
    error = LoadError(f"{source.name or 'the file'}: {place}: {message}")
    error.path, error.line, error.offset = source.name, line, offset
    return error


def _format_of(source: Source) -> DumpFormat:
    """By the first byte that is no white space; an empty file is JSON Lines without a line."""
    source.file.seek(source.start)
    head = source.file.read(64)
    first = head.lstrip()[:1]
    if first == b"{" or (not first and source.size == len(head)):
        return "jsonl"
    if head[:1] == b"*" or head[:4] == b"#TS:":
        return "redis"
    if head[:5] == b"REDIS":
        raise _error(
            source,
            "an RDB snapshot, which pykv does not read; let Redis write the append-only file anew "
            "with `aof-use-rdb-preamble no`",
            offset=0,
        )
    raise _error(source, "neither JSON Lines nor Redis commands", line=1)


# ---- Records -----------------------------------------------------------------------------------


def _json_encoder() -> Callable[[bytes, bytes, int], bytes]:
    import base64
    import json

    quote = json.JSONEncoder(ensure_ascii=False).encode

    def field(name: str, data: bytes) -> str:
        try:
            return f'"{name}": {quote(data.decode())}'
        except UnicodeDecodeError:
            return f'"{name}_base64": "{base64.b64encode(data).decode()}"'

    def encode(key: bytes, value: bytes, expiry: int) -> bytes:
        end = f', "expiry": {expiry}}}\n' if expiry else "}\n"
        return f"{{{field('key', key)}, {field('value', value)}{end}".encode()

    return encode


def _json_decoder() -> Callable[[bytes], tuple[bytes, bytes, int]]:
    import base64
    import json

    decode = json.JSONDecoder(object_pairs_hook=_object).decode

    def field(fields: dict[str, Any], name: str, size_max: int) -> bytes:
        text, coded = fields.pop(name, None), fields.pop(name + "_base64", None)
        if (text is None) == (coded is None):
            raise Bad(f'one of "{name}" and "{name}_base64" is required')
        if not isinstance(text if coded is None else coded, str):
            raise Bad(f'"{name}" must be a string')
        try:
            data: bytes = text.encode() if coded is None else base64.b64decode(coded, validate=True)
        except UnicodeEncodeError:
            raise Bad(f'"{name}" has half of a surrogate pair, which is no text') from None
        except ValueError as error:
            raise Bad(f'"{name}_base64" is not base64: {error}') from None
        if len(data) > size_max:
            raise Bad(f"a {name} has {len(data)} bytes; the limit is {size_max}")
        return data

    def parse(line: bytes) -> tuple[bytes, bytes, int]:
        try:
            fields = decode(line.decode())
        except UnicodeDecodeError:
            raise Bad("not UTF-8") from None
        except json.JSONDecodeError as error:
            raise Bad(f"not JSON: {error.msg}, at character {error.pos + 1}") from None
        except (ValueError, RecursionError) as error:
            raise Bad(f"not JSON that pykv reads: {error}") from None
        if not isinstance(fields, dict):
            raise Bad("not a JSON object")
        key = field(fields, "key", _core.KEY_MAX)
        value = field(fields, "value", _core.VALUE_MAX)
        expiry = fields.pop("expiry", None)
        if expiry is None:
            expiry = 0
        elif type(expiry) is not int or not 0 < expiry <= _core._EXPIRY_MAX:
            raise Bad(f'"expiry" must be an integer from 1 to {_core._EXPIRY_MAX}: ms since 1970')
        if fields:
            raise Bad(f'unknown field "{next(iter(fields))}"')
        return key, value, expiry

    return parse


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name appears twice in an object")
    return fields


def _redis_item(key: bytes, value: bytes, expiry: int) -> bytes:
    item = b"%b\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        b"*5" if expiry else b"*3",
        len(key),
        key,
        len(value),
        value,
    )
    if not expiry:
        return item
    moment = b"%d" % expiry
    return item + b"$4\r\nPXAT\r\n$%d\r\n%b\r\n" % (len(moment), moment)
