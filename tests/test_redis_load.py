"""Redis commands: what each does, what is refused and where, and against Redis itself where it is installed."""

import io
import shutil
import socket
import subprocess
import time

import pytest
from servers import free_port

import pykv
from pykv import dumping, staging


def command(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def commands(text):
    """One command a line, its words apart by spaces."""
    return b"".join(command(*line.split()) for line in text.strip().splitlines())


def load(store, text, **options):
    data = text if isinstance(text, bytes) else commands(text)
    return pykv.load(store, io.BytesIO(data), **options)


@pytest.fixture(params=["one commit", "many commits", "partial"])
def options(request, monkeypatch):
    if request.param == "one commit":
        return {}
    monkeypatch.setattr(staging, "BATCH_ITEMS", 2)
    if request.param == "partial":
        return {"partial": True}
    monkeypatch.setattr(dumping, "ONE_COMMIT_FILE", -1)
    return {}


# ---- What commands do --------------------------------------------------------------------------

# What the store has before, the commands, what it has then.
EFFECTS = {
    "SET": ({}, "SET a 1\nset b 2\nSeT a 3", {b"a": b"3", b"b": b"2"}),
    "SET NX": ({"a": "1"}, "SET a 2 NX\nSET b 2 nx", {b"a": b"1", b"b": b"2"}),
    "SET XX": ({"a": "1"}, "SET a 2 XX\nSET b 2 XX", {b"a": b"2"}),
    "SET GET": ({"a": "1"}, "SET a 2 GET\nSET a 3 NX GET", {b"a": b"2"}),
    "SETNX": ({"a": "1"}, "SETNX a 2\nSETNX b 2", {b"a": b"1", b"b": b"2"}),
    "SETEX": ({}, "SETEX a 100 1\nPSETEX b 100000 2", {b"a": b"1", b"b": b"2"}),
    "GETSET": ({"a": "1"}, "GETSET a 2\nGETSET b 3", {b"a": b"2", b"b": b"3"}),
    "MSET": ({"a": "1"}, "MSET a 2 b 3 a 4", {b"a": b"4", b"b": b"3"}),
    "MSETNX": (
        {"a": "1"},
        "MSETNX b 1 a 2\nMSETNX c 1 d 2",
        {b"a": b"1", b"c": b"1", b"d": b"2"},
    ),
    "APPEND": ({"a": "1"}, "APPEND a 2\nAPPEND b x\nAPPEND b y", {b"a": b"12", b"b": b"xy"}),
    "SETRANGE": (
        {"a": "hello world"},
        "SETRANGE a 6 Redis\nSETRANGE b 3 x\nSETRANGE a 11 !!",
        {b"a": b"hello Redis!!", b"b": b"\0\0\0x"},
    ),
    "INCR": ({"a": "9"}, "INCR a\nINCR b\nINCR b\nDECR c", {b"a": b"10", b"b": b"2", b"c": b"-1"}),
    "INCRBY": ({"a": "9"}, "INCRBY a -10\nDECRBY b 5\nDECRBY a -3", {b"a": b"2", b"b": b"-5"}),
    "INCRBY at the end": (
        {"a": str(2**63 - 2)},
        f"INCR a\nINCRBY b {-(2**63)}",
        {b"a": b"9223372036854775807", b"b": b"-9223372036854775808"},
    ),
    "INCRBYFLOAT": (
        {"a": "10.50", "b": "5.0e3"},
        "INCRBYFLOAT a 0.1\nINCRBYFLOAT a -5\nINCRBYFLOAT b 2.0e2\nINCRBYFLOAT c 0.1\nINCRBYFLOAT c 0.2\nINCRBYFLOAT d 3",
        {b"a": b"5.6", b"b": b"5200", b"c": b"0.3", b"d": b"3"},
    ),
    "INCRBYFLOAT to 0": ({"a": "-1.5"}, "INCRBYFLOAT a 1.5", {b"a": b"0"}),
    "DEL": ({"a": "1", "b": "2", "c": "3"}, "DEL a none\nUNLINK b\nGETDEL none", {b"c": b"3"}),
    "GETDEL": ({"a": "1"}, "GETDEL a", {}),
    "RENAME": ({"a": "1", "b": "2"}, "RENAME a b\nRENAME b b", {b"b": b"1"}),
    "FLUSHALL": ({"a": "1"}, "SET b 2\nFLUSHALL\nSET c 3", {b"c": b"3"}),
    "FLUSHDB": ({"a": "1"}, "FLUSHDB async\nSETNX a 2\nINCR b", {b"a": b"2", b"b": b"1"}),
    "FLUSHALL at the end": ({"a": "1"}, "SET b 2\nFLUSHALL SYNC", {}),
    "SELECT": ({}, "SELECT 0\nSET a 1", {b"a": b"1"}),
    "MULTI": (
        {"a": "1"},
        "MULTI\nSET b 2\nINCR a\nEXEC\nMULTI\nEXEC\nSET c 3",
        {b"a": b"2", b"b": b"2", b"c": b"3"},
    ),
    "DISCARD": ({}, "MULTI\nSET b 2\nDISCARD\nSET c 3", {b"c": b"3"}),
    "a chain": (
        {},
        "SET a 1\nRENAME a b\nINCR b\nAPPEND b 0\nRENAME b c\nINCRBY c 5\nSET c2 x\nDEL c2",
        {b"c": b"25"},
    ),
}


@pytest.mark.parametrize("before, text, after", EFFECTS.values(), ids=EFFECTS)
def test_a_command(store, options, before, text, after):
    store.put_many(before)
    report = load(store, text, **options)
    assert report.format == "redis"
    words = [line.split()[0].upper() for line in text.splitlines()]
    if "DISCARD" not in words:
        assert report.records == len([w for w in words if w not in ("MULTI", "EXEC")])
    assert store == after


def ttl_text(text, now):
    return text.replace("MS+", str(now + 100_000)).replace("S+", str(now // 1000 + 100))


# The commands, the key's time to live in seconds (None: never, "gone": no such key).  MS+ and S+ are moments.
TIMES = {
    "SET EX": ("SET k v EX 100", 100),
    "SET PX": ("SET k v px 100000", 100),
    "SET EXAT": ("SET k v EXAT S+", 100),
    "SET PXAT": ("SET k v PXAT MS+", 100),
    "SETEX": ("SETEX k 100 v", 100),
    "PSETEX": ("PSETEX k 100000 v", 100),
    "EXPIRE": ("SET k v\nEXPIRE k 100", 100),
    "PEXPIRE": ("SET k v\nPEXPIRE k 100000", 100),
    "EXPIREAT": ("SET k v\nEXPIREAT k S+", 100),
    "PEXPIREAT": ("SET k v\nPEXPIREAT k MS+", 100),
    "EXPIRE of what the store has": ("EXPIRE old 100\nRENAME old k", 100),
    "PERSIST": ("SET k v EX 100\nPERSIST k", None),
    "SET": ("SET k v EX 100\nSET k v", None),
    "KEEPTTL": ("SET k v EX 100\nSET k w KEEPTTL", 100),
    "KEEPTTL of nothing": ("SET k w KEEPTTL", None),
    "GETSET": ("SET k v EX 100\nGETSET k w", None),
    "INCR": ("SET k 1 EX 100\nINCR k", 100),
    "INCRBYFLOAT": ("SET k 1 EX 100\nINCRBYFLOAT k 1", 100),
    "APPEND": ("SET k 1 EX 100\nAPPEND k 1", 100),
    "SETRANGE": ("SET k 1 EX 100\nSETRANGE k 1 1", 100),
    "RENAME": ("SET a 1 EX 100\nRENAME a k", 100),
    "RENAME over": ("SET a 1\nSET k 1 EX 100\nRENAME a k", None),
    "SETNX that does nothing": ("SET k 1 EX 100\nSET k 2 EX 5 NX", 100),
    "PXAT past": ("SET k v PXAT 1000", "gone"),
    "EXPIREAT past": ("SET k v\nEXPIREAT k 1000", "gone"),
    "PEXPIREAT 0": ("SET k v\nPEXPIREAT k 0", "gone"),
    "EXPIRE below 0": ("SET k v\nEXPIRE k -100", "gone"),
    "EXPIREAT far below 0": ("SET k v\nEXPIREAT k -1000000000000", "gone"),
    "EXPIREAT past of what the store has": ("EXPIREAT old 5\nSETNX k v", None),
    "SET after a past": ("SET k v PXAT 1000\nSETNX k v", None),
    "EXPIRE of nothing": ("EXPIRE k 100", "gone"),
    "PERSIST of nothing": ("PERSIST k", "gone"),
}


@pytest.mark.parametrize("text, seconds", TIMES.values(), ids=TIMES)
def test_times_to_live(open_store, options, text, seconds):
    store = open_store()
    store[b"old"] = b"v"
    load(store, ttl_text(text, store._clock()), **options)
    if seconds == "gone":
        assert b"k" not in store
    elif seconds is None:
        assert store.ttl(b"k") is None
    else:
        assert seconds - 30 < store.ttl(b"k") <= seconds + 1
    assert (b"old" in store) == ("old" not in text)


def test_what_expired_is_counted(open_store, options):
    store = open_store()
    report = load(store, "SET a 1 PXAT 5\nSET b 2\nEXPIREAT b 7\nSET c 3\nEXPIREAT none 5", **options)
    assert (report.records, report.items, report.expired) == (5, 2, 2)
    assert store == {b"c": b"3"}


def test_any_bytes(open_store, options):
    store = open_store()
    load(store, command("SET", b"\r\n\0\xff", b"*3\r\n$3") + command("APPEND", b"", b""), **options)
    assert store == {b"\r\n\0\xff": b"*3\r\n$3", b"": b""}


def test_annotations(open_store, options):
    store = open_store()
    data = b"#TS:1767225600\r\n" + command("SELECT", "0") + b"#TS:1767225601\r\n#TS:5\r\n" + command("SET", "a", "1")
    load(store, data + b"#" + b"x" * 100 + b"\r\n" + command("INCR", "a"), **options)
    assert store == {b"a": b"2"}


# ---- What is refused ---------------------------------------------------------------------------

BAD_COMMANDS = {
    "of another type": ("LPUSH k v", "LPUSH is no command on strings"),
    "of no kind": ("\x01\xff k", "is no command"),
    "too few": ("SET k", "wrong number of arguments for SET"),
    "too many": ("GETDEL k l", "wrong number of arguments for GETDEL"),
    "SET option": ("SET k v FAST", "FAST"),
    "SET EX without a number": ("SET k v EX", "time to live"),
    "SET EX of no number": ("SET k v EX soon", "soon"),
    "SET EX 0": ("SET k v EX 0", "above 0"),
    "SET PX below 0": ("SET k v PX -1", "above 0"),
    "SET EX too late": (f"SET k v EX {2**50}", "10889"),
    "SET twice": ("SET k v NX NX", "twice"),
    "SET NX XX": ("SET k v NX XX", "NX and XX"),
    "SET EX PX": ("SET k v EX 1 PX 1", "more than one"),
    "SET KEEPTTL EX": ("SET k v KEEPTTL EX 1", "more than one"),
    "SETEX 0": ("SETEX k 0 v", "above 0"),
    "PSETEX of no number": ("PSETEX k x v", "integer"),
    "MSET": ("MSET a b c", "without a value"),
    "MSETNX": ("MSETNX a b c", "without a value"),
    "INCR of a text": ("INCR text", "not an integer"),
    "INCR of 01": ("SET n 01\nINCR n", "not an integer"),
    "INCR of +1": ("SET n +1\nINCR n", "not an integer"),
    "INCR too far": (f"SET n {2**63 - 1}\nINCR n", "64 bits"),
    "DECR too far": (f"SET n {-(2**63)}\nDECR n", "64 bits"),
    "INCR of too much": (f"SET n {2**63}\nINCR n", "64 bits"),
    "INCRBY of no number": ("INCRBY n 1.5", "not an integer"),
    "INCR after APPEND": ("SET n 1\nAPPEND n x\nINCR n", "not an integer"),
    "INCR after RENAME": ("SET n x\nRENAME n m\nINCR m", "not an integer"),
    "INCR after SETNX": ("SETNX text 5\nINCR text", "not an integer"),
    "INCR after MSETNX": ("SET n x\nMSETNX other 1 n 5\nINCR n", "not an integer"),
    "RENAME after MSETNX": ("SET other 1\nMSETNX other 2 n 5\nRENAME n m", "no such key"),
    "INCRBYFLOAT of a text": ("INCRBYFLOAT text 1", "floats"),
    "INCRBYFLOAT of nan": ("INCRBYFLOAT n nan", "floats"),
    "INCRBYFLOAT of inf": ("INCRBYFLOAT n inf", "floats"),
    "INCRBYFLOAT of 1_0": ("INCRBYFLOAT n 1_0", "floats"),
    "INCRBYFLOAT of 1e9999": ("INCRBYFLOAT n 1e9999", "floats"),
    "SETRANGE below 0": ("SETRANGE k -1 x", "below 0"),
    "SETRANGE too far": (f"SETRANGE k {512 << 20} x", "beyond"),
    "RENAME of nothing": ("RENAME none k", "no such key"),
    "RENAME after DEL": ("SET k v\nDEL k\nRENAME k l", "no such key"),
    "RENAME after FLUSHALL": ("SET k v\nFLUSHALL\nRENAME k l", "no such key"),
    "another database": ("SELECT 1", "database 1"),
    "FLUSHALL": ("FLUSHALL NOW", "NOW"),
    "MULTI twice": ("MULTI\nMULTI", "MULTI"),
    "EXEC alone": ("EXEC", "EXEC without MULTI"),
    "DISCARD alone": ("DISCARD", "DISCARD without MULTI"),
    "MULTI without an end": ("MULTI\nSET a b", "middle of a transaction"),
    "EXPIRE of no number": ("EXPIRE k x", "integer"),
    "EXPIRE with an option": ("EXPIRE k 5 NX", "wrong number"),
    "EXPIRE too late": (f"SET k v\nPEXPIREAT k {2**48 + 1}", "10889"),
    "a long key": ("SET " + "k" * 65_536 + " v", "65536"),
    "a long key of DEL": ("DEL " + "k" * 65_536, "65536"),
}  # fmt: skip


@pytest.mark.parametrize("text, message", BAD_COMMANDS.values(), ids=BAD_COMMANDS)
@pytest.mark.parametrize("many", [False, True], ids=["one commit", "many commits"])
def test_a_command_that_cannot_be_done(open_store, tmp_path, monkeypatch, text, message, many):
    if many:
        monkeypatch.setattr(dumping, "ONE_COMMIT_FILE", -1)
        monkeypatch.setattr(staging, "BATCH_ITEMS", 1)
    store = open_store()
    store[b"text"] = b"old"
    good = commands("SET first 1\nSET second 2")
    lines = text.splitlines()
    bad = command(*(part.encode("latin-1") for part in lines[0].split())) if "\xff" in text else commands(text)
    file = tmp_path / "aof"
    file.write_bytes(good + bad + commands("SET last 3"))
    with pytest.raises(pykv.LoadError, match=message) as caught:
        pykv.load(store, file)
    error = caught.value
    last = 0 if "\xff" in text or "middle" in message else len(commands("\n".join(lines[:-1]))) if lines[1:] else 0
    assert (error.path, error.line, error.offset) == (str(file), None, len(good) + last)
    assert f"{file}: at byte {len(good) + last}: " in str(error) and error.report is None
    assert store == {b"text": b"old"}

    with pytest.raises(pykv.LoadError, match=message) as caught:
        pykv.load(store, file, partial=True)
    assert caught.value.report.records >= 2
    if "FLUSHALL" not in text:
        assert store[b"first"] == b"1" and store[b"second"] == b"2"
    assert b"last" not in store


LONG_KEY = "k" * 65_536
UNDONE = {
    "a transaction": "MULTI\nSET new 1\nDEL first\nINCR second\nINCR text\nSET last 3\nEXEC",
    "a transaction with FLUSHALL": "MULTI\nFLUSHALL\nSET new 1\nEXPIRE new 5\nLPUSH list 1\nEXEC",
    "a transaction of one command": "MULTI\nINCR text\nEXEC",
    "a transaction without an end": "MULTI\nSET new 1\nDEL first",
    "a transaction in another": "MULTI\nSET new 1\nMULTI",
    "MSET": f"MSET new 1 {LONG_KEY} 1",
    "MSETNX": f"MSETNX new 1 {LONG_KEY} 1",
    "DEL": f"DEL first {LONG_KEY}",
    "RENAME": f"RENAME first {LONG_KEY}",
}


@pytest.mark.parametrize("text", UNDONE.values(), ids=UNDONE)
def test_what_is_done_together_is_loaded_whole_or_not(open_store, options, text):
    store = open_store()
    store[b"text"] = b"old"
    good = "SET first 1\nMULTI\nSET second 2\nSET third 3\nEXEC\n"
    with pytest.raises(pykv.LoadError) as caught:
        load(store, good + text, **options)
    if "partial" in options:
        assert caught.value.report == ("redis", 3, 3, 0)
        assert store == {b"text": b"old", b"first": b"1", b"second": b"2", b"third": b"3"}
    else:
        assert caught.value.report is None and store == {b"text": b"old"}


@pytest.fixture
def small_commits(monkeypatch):
    """Commits of up to 1,000 bytes, a batch of 500."""
    monkeypatch.setattr(dumping, "ONE_COMMIT_FILE", -1)
    monkeypatch.setattr(staging, "BATCH_BYTES", 500)
    write = pykv.Store._write

    def limited(self, operations, *more):
        if sum(len(key) + len(value or b"") + 32 for key, value in operations.items()) > 1000:
            raise pykv.LimitError("too much for one commit")
        return write(self, operations, *more)

    monkeypatch.setattr(pykv.Store, "_write", limited)


def transaction(items, size):
    sets = "\n".join(f"SET t{i} {'x' * size}" for i in range(items))
    return f"MULTI\n{sets}\nEXEC\n"


@pytest.mark.parametrize("partial", [False, True])
def test_a_transaction_need_not_share_its_commit(open_store, small_commits, partial):
    store = open_store()
    before = "SET a " + "x" * 400 + "\n"
    load(store, before + transaction(9, 60) + "SET z 1", partial=partial)
    assert len(store) == 11


@pytest.mark.parametrize("first", ["", "FLUSHALL\n"])
def test_a_transaction_too_large_for_one_commit(open_store, small_commits, first):
    store = open_store()
    store[b"old"] = b"1"
    good = f"{first}SET a 1\nSET b 2\n"
    with pytest.raises(pykv.LoadError, match="at byte .*: too much for one commit") as caught:
        load(store, good + transaction(20, 60) + "SET z 1", partial=True)
    assert caught.value.report == ("redis", 3 if first else 2, 2, 0)
    assert store == ({} if first else {b"old": b"1"}) | {b"a": b"1", b"b": b"2"}


def test_a_transaction_with_flushall_is_one_commit(open_store, monkeypatch, options):
    store = open_store()
    store.put_many({"old": "v", "kept": "v"})
    clears = []
    monkeypatch.setattr(pykv.Store, "clear", lambda self: clears.append(1))
    load(store, "SET a 1\nMULTI\nSET b 1\nFLUSHALL\nSET kept 2\nEXEC\nSET c 1", **options)
    assert store == {b"kept": b"2", b"c": b"1"} and not clears


def test_a_part_of_a_file_that_was_cut_anywhere(open_store):
    """Of a file whose end is missing, too, a part is loaded that is a state between two transactions."""
    steps = ["SET a 1", "MULTI\nSET b 1\nINCR a\nEXEC", "MSET c 1 d 1", "MULTI\nDEL a\nEXEC", "RENAME d e",
             "MULTI\nFLUSHALL\nSET f 1\nSET g 1\nEXEC", "DEL f g"]  # fmt: skip
    ends, states = [0], [{}]
    with open_store() as store:
        for step in steps:
            load(store, step)
            ends.append(ends[-1] + len(commands(step)))
            states.append(dict(store.items()))
    data = commands("\n".join(steps))
    for size in range(1, len(data) + 1):
        whole = sum(end <= size for end in ends) - 1
        with open_store() as store:
            if size in ends:
                load(store, data[:size], partial=True)
            else:
                with pytest.raises(pykv.LoadError, match="in the middle of a") as caught:
                    load(store, data[:size], partial=True)
                assert ends[whole] <= caught.value.offset <= size
            assert store == states[whole]


MALFORMED = {
    "a stray byte": b"x",
    "a line": b"SET a b\r\n",
    "no carriage return": b"*1\n$4\nPING\n",
    "no number": b"*x\r\n",
    "nothing": b"*\r\n",
    "no arguments": b"*0\r\n",
    "below 0": b"*-1\r\n",
    "many arguments": b"*1048577\r\n",
    "a long number": b"*00000000000000000000000000000000001\r\n",
    "a null": b"*2\r\n$3\r\nDEL\r\n$-1\r\n",
    "an integer": b"*2\r\n$3\r\nDEL\r\n:5\r\n",
    "a string too large": b"*2\r\n$3\r\nDEL\r\n$536870913\r\n",
    "a string that is longer": b"*2\r\n$3\r\nDEL\r\n$3\r\nabcd\r\n",
    "a string that is shorter": b"*2\r\n$3\r\nDEL\r\n$3\r\nab\r\n*1\r\n",
    "EXEC with an argument": command("EXEC", "now"),
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
def test_bytes_that_are_no_command(open_store, options, bad):
    store = open_store()
    good = commands("SET a 1\nSET b 2\nSET c 3")
    with pytest.raises(pykv.LoadError) as caught:
        load(store, good + bad, **options)
    assert caught.value.offset == len(good) and f"at byte {len(good)}: " in str(caught.value)
    assert len(store) == (3 if options else 0)


def test_a_file_that_was_cut_anywhere(open_store):
    """Every length is either the end of a command or an error that says where the cut one begins."""
    good = commands("SET a 1")
    data = good + command("SET", "b", "\r\n2" * 3) + commands("SET c 3")
    starts = [0, len(good), len(data) - len(commands("SET c 3")), len(data)]
    for size in range(1, len(data) + 1):
        store = open_store()
        if size in starts:
            load(store, data[:size])
            assert len(store) == starts.index(size)
            continue
        with pytest.raises(pykv.LoadError, match="middle of a command") as caught:
            load(store, data[:size])
        begun = max(start for start in starts if start < size)
        assert caught.value.offset == begun and len(store) == 0
        with pytest.raises(pykv.LoadError):
            load(store, data[:size], partial=True)
        assert len(store) == starts.index(begun)
        store.close()


@pytest.mark.slow
def test_a_value_that_grows_too_large(open_store):
    """Bounded before it is made."""
    store = open_store()
    store[b"k"] = b"v" * (300 << 20)
    for text in ("APPEND k x\nRENAME k l\nRENAME l k", f"SETRANGE k {(512 << 20) - 1} x"):
        load(store, text)
    assert len(store[b"k"]) == 512 << 20
    with pytest.raises(pykv.LoadError, match="limit"):
        load(store, "APPEND k x")


# ---- Against Redis -----------------------------------------------------------------------------

redis = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("redis-cli")), reason="Redis is not installed"
)


class Redis:
    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        options = ["--port", self.port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes",
                   "--aof-use-rdb-preamble", "no", "--appendfsync", "no", "--aof-timestamp-enabled", "yes"]  # fmt: skip
        self.process = subprocess.Popen(
            ["redis-server", *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        self.end()
        pytest.skip("redis-server does not start here")

    def run(self, *words, stdin=b""):
        done = subprocess.run(
            ["redis-cli", "-p", str(self.port), *words], input=stdin, capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def append_only_file(self):
        """The files as they are now, in the order in which Redis reads them."""
        folder = self.folder / "appendonlydir"
        return b"".join(path.read_bytes() for path in sorted(folder.glob("*.aof")))

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(tmp_path):
    server = Redis(tmp_path)
    yield server
    server.end()


@redis
def test_redis_accepts_a_dump(server, open_store):
    store = open_store()
    items = {b"%d" % i: b"v\r\n" * (i % 50) for i in range(2000)}
    store.put_many(items)
    store[b"\xff\x00"] = bytes(range(256))
    store.put("expires", "v", ttl=5000)
    store.put("large", "v" * 3_000_000)
    file = io.BytesIO()
    count = pykv.dump(store, file, format="redis")
    answer = server.run("--pipe", stdin=file.getvalue())
    assert f"errors: 0, replies: {count}".encode() in answer
    assert int(server.run("dbsize")) == count == len(store)
    assert int(server.run("pexpiretime", "expires")) == store._expiry_of("expires")
    other = open_store()
    report = pykv.load(other, io.BytesIO(server.append_only_file()))
    assert report.items == count
    assert sorted(other._snapshot()._records()) == sorted(store._snapshot()._records())


@redis
def test_an_append_only_file_of_redis(server, open_store):
    """What Redis makes of many commands is what pykv makes of its file."""
    script = []
    for i in range(300):
        k, m = f"k{i % 17}", f"k{(i * 7) % 23}"
        script += [
            f"SET {k} {i}", f"INCR {k}", f"APPEND {m} x{i}", f"SET {m} {i}.25 EX {1000 + i}", f"INCRBYFLOAT {m} 0.5",
            f"SETRANGE {m} 3 yy", f"SET {k} 5 KEEPTTL", f"INCRBY {k} {i}", f"DECRBY {k} 3", f"SETNX n{i % 5} {i}",
            f"MSET a{i % 9} 1 b{i % 9} 2", f"MSETNX a{i % 11} 3 c{i} 4", f"GETSET {k} {i}", f"EXPIRE a{i % 9} 5000",
            f"PERSIST a{i % 8}", f"RENAME b{i % 9} d{i % 4}", f"SETEX e{i % 6} 4000 v", f"PSETEX f{i % 6} 4000000 v",
            f"GETDEL e{i % 7}", f"DEL c{i // 2}", "MULTI", f"SET t{i % 3} {i}", f"DEL t{(i + 1) % 3}", "EXEC",
        ]  # fmt: skip
        if i == 100:
            script += ["FLUSHALL", "BGREWRITEAOF"]
    server.run(stdin="\n".join(script).encode() + b"\n")
    wanted = {}
    for key in server.run("keys", "*").split():
        value, moment = server.run("get", key), server.run("pexpiretime", key)
        wanted[key] = (value.rstrip(b"\n"), max(int(moment), 0))
    assert len(wanted) > 20
    # The same commands as they were sent, and the file that Redis made of them.
    for data in (commands("\n".join(line for line in script if line != "BGREWRITEAOF")), server.append_only_file()):
        store = open_store()
        pykv.load(store, io.BytesIO(data))
        found = {key: (value, expiry) for key, value, expiry in store._snapshot()._records()}
        assert found.keys() == wanted.keys()
        assert {key: value for key, (value, _) in found.items()} == {key: value for key, (value, _) in wanted.items()}
        for key, (_, moment) in wanted.items():
            assert abs(found[key][1] - moment) < 60_000, key


@redis
def test_an_append_only_file_with_other_types(server, open_store):
    server.run("set", "a", "1")
    server.run("lpush", "list", "x")
    store = open_store()
    with pytest.raises(pykv.LoadError, match="LPUSH"):
        pykv.load(store, io.BytesIO(server.append_only_file()))
    assert len(store) == 0
