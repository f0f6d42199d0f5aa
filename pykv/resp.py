r"""Redis commands on strings, as they stand in an append-only file or in what `redis-cli --pipe`
reads.

A command is a RESP array of bulk strings:

    *3\r\n$3\r\nSET\r\n$4\r\ncity\r\n$5\r\nParis\r\n

Between commands an append-only file may have annotations, lines like `#TS:1767225600\r\n`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO

from pykv import _core
from pykv.staging import Bad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykv.staging import Stage

ARGUMENTS_MAX = 1 << 20  # of one command, as in Redis
HEADER_MAX = 32  # bytes of a line like $5\r\n
ANNOTATION_MAX = 1024

Command = list[bytes]
Placed = tuple[int, Command]
"""Where a command begins in the file, and the command."""


class Malformed(Exception):
    """Bytes that are no command."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


# ---- Reading -----------------------------------------------------------------------------------


def transactions(file: BinaryIO) -> Iterator[tuple[int, list[Placed]]]:
    """What happens together: a command, or those between MULTI and EXEC; and where it begins."""
    began: int | None = None
    queue: list[Placed] = []
    for offset, command in _commands(file):
        name = command[0].upper()
        if name in (b"MULTI", b"EXEC", b"DISCARD"):
            if len(command) != 1:
                raise Malformed(f"{name.decode()} takes no arguments", offset)
            if (name == b"MULTI") == (began is not None):
                where = "without" if began is None else "inside"
                raise Malformed(f"{name.decode()} {where} MULTI", offset)
            if name == b"EXEC":
                yield offset, queue
            began, queue = (offset if name == b"MULTI" else None), []
        elif began is not None:
            queue.append((offset, command))
        else:
            yield offset, [(offset, command)]
    if began is not None:
        raise Malformed("the file ends in the middle of a transaction", began)


def _commands(file: BinaryIO) -> Iterator[Placed]:
    offset = file.tell()
    readline, read = file.readline, file.read
    while line := readline(HEADER_MAX):
        if line[:1] == b"#":
            size = len(line)
            if line[-1:] != b"\n":
                size += len(readline(ANNOTATION_MAX))
            offset += size
            continue
        count = _header(line, b"*", 1, ARGUMENTS_MAX, offset)
        place, command = offset + len(line), []
        for _ in range(count):
            line = readline(HEADER_MAX)
            size = _header(line, b"$", 0, _core.VALUE_MAX, offset)
            data = _exactly(read, size + 2, offset)
            if data[size:] != b"\r\n":
                raise Malformed("a string is longer than its length says", offset)
            command.append(data[:size])
            place += len(line) + size + 2
        yield offset, command
        offset = place


def _header(line: bytes, mark: bytes, least: int, most: int, offset: int) -> int:
    """The number in a line like `*3\r\n`."""
    if line[-1:] != b"\n" and len(line) < HEADER_MAX and mark.startswith(line[:1]):
        raise Malformed("the file ends in the middle of a command", offset)
    if line[:1] != mark or line[-2:] != b"\r\n" or not line[1:-2].isdigit():
        raise Malformed(f"{line[:20]!r} where {mark.decode()} and a number should be", offset)
    number = int(line[1:-2])
    if not least <= number <= most:
        raise Malformed(f"{line[:-2].decode()} is not within {least} and {most}", offset)
    return number


def _exactly(read: Callable[[int], bytes], size: int, offset: int) -> bytes:
    data = read(size)
    while len(data) < size:
        more = read(size - len(data))
        if not more:
            raise Malformed("the file ends in the middle of a command", offset)
        data += more
    return data


# ---- Doing -------------------------------------------------------------------------------------


class Interpreter:
    """Does commands on a stage.  Raises Bad for one that cannot be done, and does none of it."""

    def __init__(self, stage: Stage, now: int) -> None:
        self._stage = stage
        self._now = now  # ms since 1970: what relative times count from

    def __call__(self, command: Command) -> None:
        name = command[0].upper()
        known = _COMMANDS.get(name)
        if known is None:
            shown = name[:40].decode("ascii", "backslashreplace")
            raise Bad(f"{shown} is no command on strings, which is all that pykv can load")
        least, most, do = known
        if not least <= len(command) - 1 <= most:
            raise Bad(f"wrong number of arguments for {name.decode()}")
        do(self, *command[1:])

    # Puts

    def _put(self, key: bytes, value: bytes, expiry: int = 0) -> None:
        _check_key(key)
        if len(value) > _core.VALUE_MAX:
            raise Bad(f"the value would have {len(value)} bytes; the limit is {_core.VALUE_MAX}")
        self._stage.put(key, value, expiry)

    def set(self, key: bytes, value: bytes, *options: bytes) -> None:
        _check_key(key)
        seen = {}
        words = iter(options)
        for word in words:
            option = word.upper()
            if option not in _SET_OPTIONS:
                raise Bad(f"SET has no option {_shown(word)}")
            if option in seen:
                raise Bad(f"SET has {option.decode()} twice")
            seen[option] = b""
            if option in _EXPIRY_OPTIONS:
                seen[option] = next(words, b"")
        if len(seen.keys() & {b"NX", b"XX"}) == 2:
            raise Bad("SET has both NX and XX")
        if len(seen.keys() & {*_EXPIRY_OPTIONS, b"KEEPTTL"}) > 1:
            raise Bad("SET has more than one time to live")
        expiry = 0
        for option, (scale, absolute) in _EXPIRY_OPTIONS.items():
            if option in seen:
                expiry = self._moment(seen[option], scale, absolute, positive=True)
        if seen.keys() & {b"NX", b"XX", b"KEEPTTL"}:
            there = self._stage.get(key)
            if (b"NX" in seen and there) or (b"XX" in seen and not there):
                return
            if b"KEEPTTL" in seen and there:
                expiry = there[1]
        self._put(key, value, expiry)

    def setnx(self, key: bytes, value: bytes) -> None:
        self.set(key, value, b"NX")

    def setex(self, key: bytes, seconds: bytes, value: bytes) -> None:
        self._put(key, value, self._moment(seconds, 1000, False, positive=True))

    def psetex(self, key: bytes, ms: bytes, value: bytes) -> None:
        self._put(key, value, self._moment(ms, 1, False, positive=True))

    def getset(self, key: bytes, value: bytes) -> None:
        self._put(key, value)

    def mset(self, *pairs: bytes) -> None:
        _check_pairs(pairs)
        for key in pairs[::2]:
            _check_key(key)
        for key, value in zip(pairs[::2], pairs[1::2]):
            self._put(key, value)

    def msetnx(self, *pairs: bytes) -> None:
        _check_pairs(pairs)
        there = [self._need(key) for key in pairs[::2]]
        if not any(there):
            self.mset(*pairs)

    # Changes of a value, which keeps its time to live

    def append(self, key: bytes, more: bytes) -> None:
        value, expiry = self._need(key) or (b"", 0)
        self._put(key, value + more, expiry)

    def setrange(self, key: bytes, offset: bytes, part: bytes) -> None:
        start = _integer(offset)
        if start < 0:
            raise Bad("the offset of SETRANGE is below 0")
        if not part:
            return
        if start + len(part) > _core.VALUE_MAX:
            raise Bad(f"SETRANGE goes beyond {_core.VALUE_MAX} bytes")
        value, expiry = self._need(key) or (b"", 0)
        value = value[:start].ljust(start, b"\0") + part + value[start + len(part) :]
        self._put(key, value, expiry)

    def incr(self, key: bytes) -> None:
        self._add(key, 1)

    def decr(self, key: bytes) -> None:
        self._add(key, -1)

    def incrby(self, key: bytes, by: bytes) -> None:
        self._add(key, _integer(by))

    def decrby(self, key: bytes, by: bytes) -> None:
        self._add(key, -_integer(by))

    def _add(self, key: bytes, by: int) -> None:
        value, expiry = self._need(key) or (b"0", 0)
        number = _integer(value, "the value") + by
        if not -(2**63) <= number < 2**63:
            raise Bad("the result does not fit into 64 bits")
        self._put(key, b"%d" % number, expiry)

    def incrbyfloat(self, key: bytes, by: bytes) -> None:
        value, expiry = self._need(key) or (b"0", 0)
        self._put(key, _add_decimals(value, by), expiry)

    # Deletes, times to live

    def delete(self, *keys: bytes) -> None:
        for key in keys:
            _check_key(key)
        for key in keys:
            self._stage.delete(key)

    def expire(self, key: bytes, seconds: bytes) -> None:
        self._expire(key, seconds, 1000, False)

    def pexpire(self, key: bytes, ms: bytes) -> None:
        self._expire(key, ms, 1, False)

    def expireat(self, key: bytes, seconds: bytes) -> None:
        self._expire(key, seconds, 1000, True)

    def pexpireat(self, key: bytes, ms: bytes) -> None:
        self._expire(key, ms, 1, True)

    def _expire(self, key: bytes, number: bytes, scale: int, absolute: bool) -> None:
        _check_key(key)
        # A moment that is past, even before 1970, deletes; 0 would mean never.
        self._stage.set_expiry(key, max(self._moment(number, scale, absolute), 1))

    def persist(self, key: bytes) -> None:
        _check_key(key)
        self._stage.set_expiry(key, 0)

    def rename(self, old: bytes, new: bytes) -> None:
        _check_key(old)
        _check_key(new)
        value, expiry = self._stage.require(old)
        if old != new:
            self._stage.delete(old)
            self._put(new, value, expiry)

    def flush(self, mode: bytes = b"SYNC") -> None:
        if mode.upper() not in (b"SYNC", b"ASYNC"):
            raise Bad(f"FLUSHALL has no option {_shown(mode)}")
        self._stage.clear()

    def select(self, number: bytes) -> None:
        if _integer(number) != 0:
            raise Bad(f"data of database {_shown(number)}; only database 0 can be loaded")

    # Helpers

    def _need(self, key: bytes) -> tuple[bytes, int] | None:
        _check_key(key)
        return self._stage.need(key)

    def _moment(self, number: bytes, scale: int, absolute: bool, positive: bool = False) -> int:
        """In ms since 1970."""
        amount = _integer(number, "the time to live")
        if positive and amount <= 0:
            raise Bad("the time to live is not above 0")
        moment = amount * scale + (0 if absolute else self._now)
        if moment > _core._EXPIRY_MAX:
            raise Bad("the time to live ends after the year 10889")
        return moment


_EXPIRY_OPTIONS = {
    b"EX": (1000, False),
    b"PX": (1, False),
    b"EXAT": (1000, True),
    b"PXAT": (1, True),
}
_SET_OPTIONS = {*_EXPIRY_OPTIONS, b"NX", b"XX", b"KEEPTTL", b"GET"}

# name: least and most arguments, what is done
_COMMANDS: dict[bytes, tuple[int, int, Callable[..., None]]] = {
    b"SET": (2, 12, Interpreter.set),
    b"SETNX": (2, 2, Interpreter.setnx),
    b"SETEX": (3, 3, Interpreter.setex),
    b"PSETEX": (3, 3, Interpreter.psetex),
    b"GETSET": (2, 2, Interpreter.getset),
    b"MSET": (2, ARGUMENTS_MAX, Interpreter.mset),
    b"MSETNX": (2, ARGUMENTS_MAX, Interpreter.msetnx),
    b"APPEND": (2, 2, Interpreter.append),
    b"SETRANGE": (3, 3, Interpreter.setrange),
    b"INCR": (1, 1, Interpreter.incr),
    b"DECR": (1, 1, Interpreter.decr),
    b"INCRBY": (2, 2, Interpreter.incrby),
    b"DECRBY": (2, 2, Interpreter.decrby),
    b"INCRBYFLOAT": (2, 2, Interpreter.incrbyfloat),
    b"DEL": (1, ARGUMENTS_MAX, Interpreter.delete),
    b"UNLINK": (1, ARGUMENTS_MAX, Interpreter.delete),
    b"GETDEL": (1, 1, Interpreter.delete),
    b"EXPIRE": (2, 2, Interpreter.expire),
    b"PEXPIRE": (2, 2, Interpreter.pexpire),
    b"EXPIREAT": (2, 2, Interpreter.expireat),
    b"PEXPIREAT": (2, 2, Interpreter.pexpireat),
    b"PERSIST": (1, 1, Interpreter.persist),
    b"RENAME": (2, 2, Interpreter.rename),
    b"FLUSHALL": (0, 1, Interpreter.flush),
    b"FLUSHDB": (0, 1, Interpreter.flush),
    b"SELECT": (1, 1, Interpreter.select),
}

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")

_FLOAT = re.compile(rb"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")


def _integer(text: bytes, what: str = "the argument") -> int:
    """As Redis reads integers: no sign +, no zeros before, no spaces, 64 bits."""
    number = int(text) if _INTEGER.fullmatch(text) else 2**63
    if not -(2**63) <= number < 2**63:
        raise Bad(f"{what} {_shown(text)} is not an integer of 64 bits")
    return number


def _add_decimals(value: bytes, by: bytes) -> bytes:
    """The sum, with up to 17 digits behind the point as in Redis, and exact: where Redis reckons in
    binary, the last digits may differ.  (Its append-only file has the result, as a SET.)"""
    import decimal

    with decimal.localcontext() as context:
        context.prec = 6000  # more than a long double has, before and behind the point
        try:
            a, b = (decimal.Decimal(text.decode()) for text in (value, by) if _is_float(text))
            text = format((a + b).quantize(decimal.Decimal("1e-17")), "f")
        except (ArithmeticError, ValueError):
            raise Bad(f"{_shown(value)} and {_shown(by)} cannot be added as floats") from None
    text = text.rstrip("0").rstrip(".")
    return b"0" if text == "-0" else text.encode()


def _is_float(text: bytes) -> bool:
    return len(text) < 5000 and _FLOAT.fullmatch(text) is not None


def _check_key(key: bytes) -> None:
    if len(key) > _core.KEY_MAX:
        raise Bad(f"a key has {len(key)} bytes; the limit is {_core.KEY_MAX}")


def _check_pairs(pairs: tuple[bytes, ...]) -> None:
    if len(pairs) % 2 != 0:
        raise Bad("a key without a value")


def _shown(text: bytes) -> str:
    return text[:40].decode("ascii", "backslashreplace")
