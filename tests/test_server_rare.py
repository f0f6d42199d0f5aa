"""Requests that no client library makes: helps, what is always the same or refused, and malformed ones."""

import pytest
from serving import Raw, wait_until

import pykv

SYNTAX, INTEGER = "ERR syntax error", "ERR value is not an integer or out of range"

# A request, and its reply: an error by its text, or what is in it.
REQUESTS = {
    "ACL CAT": b"keyspace", "ACL CAT string": b"psetex", "ACL CAT none": "ERR Unknown category 'none'",
    "ACL LIST": b"user default on nopass ~* &* +@all", "ACL WHOAMI": b"default",
    "COMMAND LIST FILTERBY ACLCAT transaction": b"exec", "COMMAND LIST FILTERBY MODULE json": None,
    "COMMAND GETKEYS NONE x": "ERR Invalid command specified",
    "COMMAND GETKEYS GET": "ERR Invalid number of arguments specified for command",
    "COMMAND GETKEYS PING": "ERR The command has no key arguments", "COMMAND HELP": b"COUNT",
    "CLIENT NO-TOUCH ON": b"OK", "CLIENT NO-TOUCH maybe": SYNTAX, "CLIENT PAUSE 10 SOME": SYNTAX,
    "CLIENT PAUSE 10": "ERR CLIENT PAUSE is not supported", "CLIENT PAUSE x": "ERR timeout is not an integer or out of range",
    "CLIENT TRACKING ON": "ERR client side caching is not supported", "CLIENT TRACKING maybe": SYNTAX,
    "CLIENT UNBLOCK 1 maybe": "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR", "CLIENT UNBLOCK 1 ERROR": 0,
    "CLIENT KILL MAXAGE x": "ERR maxage is not an integer or out of range", "CLIENT KILL MAXAGE 1000000": 0,
    "CLIENT KILL USER nobody": "ERR No such user 'nobody'", "CLIENT KILL LADDR 1.2.3.4:5": 0, "CLIENT KILL TYPE replica": 0,
    "CLIENT HELP": b"GETNAME", "CLIENT LIST TYPE replica": b"",
    "SWAPDB 0 1": "ERR DB index is out of range", "MOVE k x": INTEGER,
    "COPY k l DB x": INTEGER, "COPY k l DB 5": "ERR DB index is out of range",
    "BITPOS k 1 0 1 NIBBLE": SYNTAX, "BITPOS k 1 x": INTEGER, "RESTORE r -1 x": "ERR Invalid TTL value, must be >= 0",
    "RESTORE r 1 x ABSTTL": "ERR DUMP payload version or checksum are wrong", "RESTORE r 1 x IDLETIME x": INTEGER,
    "MEMORY DOCTOR": b"Nothing to report.", "MEMORY HELP": b"DOCTOR", "MEMORY PURGE": b"OK",
    "MEMORY MALLOC-STATS": b"Stats not supported for the current allocator", "MEMORY STATS": b"keys.count",
    "OBJECT HELP": b"FREQ <key>", "OBJECT REFCOUNT k": 1, "OBJECT REFCOUNT none": None, "OBJECT ENCODING none": None,
    "DEBUG OBJECT k": b"encoding:int", "DEBUG OBJECT long": b"encoding:raw", "DEBUG OBJECT none": "ERR no such key",
    "DEBUG STRINGMATCH-LEN 1000 a*a": 1, "DEBUG STRINGMATCH-LEN x a": INTEGER, "DEBUG HELP": b"SLEEP <seconds>",
    "DEBUG SLEEP x": "ERR value is not a valid float", "LATENCY DOCTOR": b"No events are kept", "LATENCY HELP": b"DOCTOR",
    "CONFIG SET": "ERR wrong number of arguments for 'config|set' command", "CONFIG HELP": b"GET <pattern>",
    "CONFIG SET appendfsync always": b"OK", "CONFIG GET maxmemory": b"0", "INCRBYFLOAT none -1e-20": b"0",
    "CONFIG SET maxclients x": "ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument couldn't be parsed",
    "CONFIG SET maxclients 0": "ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument must be between 1",
    "CONFIG SET maxclients 9 maxclients 8": "ERR CONFIG SET failed (possibly related to argument 'maxclients') - duplicate",
    "CONFIG SET save x": "ERR CONFIG SET failed (possibly related to argument 'save') - can't set immutable config",
    "WAITAOF x 0 0": INTEGER, "WAITAOF 1 0 -1": "ERR timeout is negative", "WAITAOF 1 0 0": 1,
    "BGSAVE x": SYNTAX, "PSETEX p 100000 v": b"OK",
    "PSETEX p 0 v": "ERR invalid expire time in 'psetex' command", "INCRBY k 9223372036854775807": "ERR increment or decrement",
    "SCAN x": "ERR invalid cursor", "FLUSHALL x": SYNTAX, "INFO none": b"", "INFO commandstats": b"cmdstat_set:calls=",
    "SLOWLOG HELP": b"RESET", "PUBSUB HELP": b"NUMPAT", "XINFO HELP": "ERR unknown command",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pykv.open(tmp_path_factory.mktemp("rare") / "store") as store:
        with pykv.serve(store, port=0, debug_commands=True) as server:
            yield server


@pytest.fixture
def raw(server):
    with Raw(server.address) as raw:
        assert raw.ask("FLUSHALL") == b"OK"
        assert raw.ask("SET", "k", "12345") == raw.ask("SET", "long", "a" * 60) == b"OK"
        yield raw


@pytest.mark.parametrize("request_", REQUESTS)
def test_reply(raw, request_):
    reply, expected = raw.ask(*request_.split()), REQUESTS[request_]
    if isinstance(expected, str):
        assert isinstance(reply, RuntimeError) and str(reply).startswith(expected), reply
    elif isinstance(reply, bytes) and expected:
        assert expected in reply
    elif isinstance(reply, list):
        assert reply == [] if expected is None else expected in reply
    else:
        assert reply == expected
    assert raw.ask("PING") == b"PONG"


@pytest.mark.parametrize("request_", ["BGSAVE", "BGSAVE SCHEDULE", "BGREWRITEAOF", "SAVE"])
def test_saves(raw, request_):
    """One at a time: the one of the test before may still be under way."""
    wait_until(lambda: isinstance(raw.ask(*request_.split()), bytes))


def test_a_save_of_some_size(raw):
    assert raw.ask("SET", "large", b"x" * (9 << 20)) == b"OK"
    wait_until(lambda: isinstance(raw.ask("BGSAVE"), bytes))
    wait_until(lambda: b"rdb_bgsave_in_progress:0" in raw.ask("INFO", "persistence"))
    assert b"rdb_last_bgsave_status:ok" in raw.ask("INFO", "persistence")


def crc64(data):
    """As Redis ends a DUMP with it: Jones' polynomial, reflected."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
    return crc.to_bytes(8, "little")


def dumped(packed, size):
    body = bytes([0, 0xC3, len(packed), size]) + packed + b"\x09\x00"
    return body + crc64(body)


@pytest.mark.parametrize(
    "packed, value",
    [
        (b"\x01ab\xe0\x1e\x01", b"ab" * 20 + b"a"),  # a repeat that overlaps itself
        (b"\x02abc\x20\x02", b"abcabc"),
        (b"\x04hello", b"hello"),
    ],
)
def test_restore_of_a_packed_string(raw, packed, value):
    assert raw.ask("RESTORE", "r", 0, dumped(packed, len(value))) == b"OK"
    assert raw.ask("GET", "r") == value


@pytest.mark.parametrize("packed", [b"\x05ab", b"\x00a\x20\x05", b"\x00a\x20", b"\x00a\xe0", b"\x00a", b"\x02abc\xe0\xff\x00", b""])
def test_restore_of_a_damaged_string(raw, packed):
    """The checksum fits, the rest does not: nothing is read or written past an end."""
    reply = raw.ask("RESTORE", "r", 0, dumped(packed, 6))
    assert str(reply) == "ERR Bad data format" and raw.ask("EXISTS", "r") == 0


def test_many_channels(raw, server):
    """The tables of channels and of their listeners grow, and shrink in another order."""
    names = [b"channel %d" % i for i in range(600)]
    patterns = [b"channel %d*" % i for i in range(40)]
    with Raw(server.address) as listener, Raw(server.address) as other:
        for who, kind, what in ((listener, "SUBSCRIBE", names), (listener, "PSUBSCRIBE", patterns), (other, "SUBSCRIBE", names[:50])):
            assert who.ask(kind, *what) == [kind.lower().encode(), what[0], 1 if kind == "SUBSCRIBE" else 601]
            for each in what[1:]:
                assert who.reply()[1] == each
        assert len(raw.ask("PUBSUB", "CHANNELS")) == 600 and raw.ask("PUBSUB", "NUMPAT") == 40
        assert raw.ask("PUBLISH", names[599], "m") == 2 and raw.ask("PUBLISH", names[7], "m") == 3
        assert b"pubsub_channels:600" in raw.ask("INFO", "stats")
        assert listener.reply() == [b"message", names[599], b"m"] and listener.reply()[0] == b"pmessage"
        assert sorted(listener.reply()[0] for _ in range(2)) == [b"message", b"pmessage"]
        assert other.reply() == [b"message", names[7], b"m"]
        assert listener.ask("UNSUBSCRIBE", *names[300:], *names[:300:2])[:2] == [b"unsubscribe", names[300]]
        for _ in range(449):
            listener.reply()
        assert len(raw.ask("PUBSUB", "CHANNELS")) == 150 + 25
        assert raw.ask("PUBLISH", names[599], "m") == 1 and raw.ask("PUBLISH", names[0], "m") == 2


def test_a_read_only_store(tmp_path):
    pykv.open(tmp_path / "store").close()
    with pykv.open(tmp_path / "store", read_only=True) as store, pykv.serve(store, port=0) as server:
        with Raw(server.address) as raw:
            for words in (("SET", "k", "v"), ("DEL", "k"), ("INCR", "k"), ("FLUSHALL",)):
                assert str(raw.ask(*words)).startswith("READONLY"), words
            assert raw.ask("GET", "k") is None and raw.ask("DBSIZE") == 0


def test_in_a_transaction(raw):
    """What has a path of its own there."""
    assert raw.ask("MULTI") == b"OK"
    keys = [b"%d" % i for i in range(300)]
    requests = [("PSETEX", "p", 100000, "v"), ("PSETEX", "p", 0, "v"), ("MSET", *sum(([k, k] for k in keys), []))]
    requests += [("UNLINK", *keys), ("OBJECT", "REFCOUNT", "none"), ("INCRBYFLOAT", "f", "0.5")]
    requests += [("INCRBYFLOAT", "f", "-0.5"), ("BITPOS", "p", 1, 0, 1, "NIBBLE"), ("BITPOS", "p", 1, "x"), ("FLUSHALL", "x"), ("DBSIZE",)]
    for words in requests:
        assert raw.ask(*words) == b"QUEUED"
    replies = [str(r) if isinstance(r, RuntimeError) else r for r in raw.ask("EXEC")]
    assert replies == [b"OK", "ERR invalid expire time in 'psetex' command", b"OK", 300, None, b"0.5", b"0", SYNTAX, INTEGER, SYNTAX, 4]


def test_many_keys_and_long_ones(raw):
    assert raw.ask("MSET", *(word for i in range(40) for word in (i, "v"))) == b"OK"
    assert raw.ask("DEL", *range(20)) == raw.ask("UNLINK", *range(20, 40)) == 20
    assert str(raw.ask("OBJECT", "ENCODING", b"k" * 65_536)).startswith("ERR key exceeds maximum allowed size")
    assert raw.ask("MSET", "a", "ab", "b", "a") == b"OK" and raw.ask("LCS", "a", "b") == b"a"


@pytest.mark.parametrize("sync, appendfsync", [("always", b"always"), ("interval", b"everysec"), ("never", b"no")])
def test_how_often_it_syncs(tmp_path, open_store, sync, appendfsync):
    with pykv.serve(open_store(tmp_path / "store", sync=sync), port=0) as server, Raw(server.address) as raw:
        assert raw.ask("CONFIG", "GET", "appendfsync") == [b"appendfsync", appendfsync]
        assert raw.ask("CONFIG", "SET", "appendfsync", appendfsync) == b"OK"
        assert isinstance(raw.ask("CONFIG", "SET", "appendfsync", "sometimes"), RuntimeError)
        assert raw.ask("SET", "k", "v") == b"OK" and raw.ask("GET", "k") == b"v"


def test_all_commands_are_described(raw):
    count = raw.ask("COMMAND", "COUNT")
    info, unknown = raw.ask("COMMAND", "INFO", "get", "none")
    assert info[0] == b"get" and unknown is None
    assert raw.ask("COMMAND", "DOCS", "get", "none")[0] == b"get"
    assert len(raw.ask("COMMAND", "INFO")) == count == len(raw.ask("COMMAND")) and len(raw.ask("COMMAND", "DOCS")) == 2 * count
    raw.send(b"CLIENT REPLY SKIP\r\nPING\r\nCLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\n")
    assert raw.reply() == b"OK" and raw.ask("PING") == b"PONG"
