"""The same requests to `pykv.serve` and to a real redis-server: replies are compared byte for byte.

Hypothesis makes sequences of requests over two connections to each server and shrinks those whose
replies differ; `--examples N` runs so many of each kind.  What is not compared, or not sent at all,
stands in NOT_EQUAL with the reason.
"""

import re
import subprocess

import hypothesis.strategies as st
import pytest

from hypothesis import HealthCheck, given, settings

import pykv
from servers import RedisServer
from serving import Raw, request

# Redis 7 is what the replies are those of; what stands here differs on purpose.
NOT_EQUAL = {
    "SET ... IFEQ, DELIFEQ": "Redis 7 has them not; Valkey and Redis 8 do",
    "moments past the year 10889": "more than an expiry of the store can say: `invalid expire time`, where Redis takes"
    " any that does not overflow",
    "keys of more than 65,535 bytes": "the store's limit",
    "WRONGTYPE": "every value is a string",
    "BITCOUNT, BITPOS of a key that is not there": "Redis looks at the arguments first since 7.2, and so does pykv; Redis"
    " 7.0 answers 0 or -1 to any",
    "SET with a moment that is past": "Redis counts such a key in DBSIZE until it comes upon it",
    "a message of one's own, in RESP3": "Redis sends the reply of PUBLISH first since 7.2, and so does pykv",
    "the empty text and a pattern of stars": "matches here; in Redis only where a command needs no pattern for `*`",
    "KEYS, SCAN, RANDOMKEY": "in no order: compared as sets, and by what is allowed",
    "TTL, PTTL, EXPIRETIME, PEXPIRETIME": "the servers' clocks are read one after the other: within two seconds",
    "DUMP": "may compress in another way: each server restores what the other one has dumped",
    "OBJECT, MEMORY, DEBUG, INFO, CONFIG, CLIENT, COMMAND, SLOWLOG, LATENCY, LOLWUT, HELP": "tell of the server itself",
    "HELLO": "has the server's name and version",
    "databases but 0": "there is one; the other server is told to have one, and has other words for numbers past 32 bits",
    "WAIT": "returns at once; Redis waits for the replicas",
    "READONLY, READWRITE": "accepted, so that clients of clusters need no special case",
    "other commands of Redis (lists, scripts, replication ...)": "are unknown here",
}


# ---- The two servers -----------------------------------------------------------------------------


class Wire(Raw):
    """A connection that gives replies as they came."""

    def reply(self):
        """One reply: its bytes, and the replies that an array has in it."""
        line = self.line()
        kind = line[:1]
        if kind in b"$=!" and int(line[1:]) >= 0:
            size = int(line[1:])
            while len(self.rest) < size + 2:
                self._more()
            data, self.rest = self.rest[: size + 2], self.rest[size + 2 :]
            return line + b"\r\n" + data, None
        if kind in b"*~>%":
            count = int(line[1:]) * (2 if kind == b"%" else 1)
            if count >= 0:
                parts = [self.reply() for _ in range(count)]
                return line + b"\r\n" + b"".join(data for data, _ in parts), parts
        assert kind in b"+-:$_#,(*", line
        return line + b"\r\n", None

    def until(self, end):
        """All that comes up to these bytes, and they."""
        while end not in self.rest:
            self._more()
        before, _, self.rest = self.rest.partition(end)
        return before + end


class Side:
    """One server and the connections to it."""

    def __init__(self, name, address):
        self.name = name
        self.address = address
        self.wires = [Wire(address), Wire(address)]

    def begin(self, protocols):
        """As on new connections to an empty server."""
        for wire, protocol in zip(self.wires, protocols, strict=True):
            assert wire.ask("RESET")[0] == b"+RESET\r\n"
            if protocol == 3:
                wire.ask("HELLO", "3")
        assert self.wires[0].ask("FLUSHALL")[0] == b"+OK\r\n"

    def end(self):
        for wire in self.wires:
            wire.close()


@pytest.fixture(scope="module")
def redis():
    server = RedisServer("--databases", "1")
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    try:
        if not re.search(r"v=7\.", version):
            pytest.skip(f"not Redis 7: {version.strip()}")
        yield Side("Redis", str(server.folder / "socket"))
    finally:
        server.end()


@pytest.fixture(scope="module", params=["in memory", "durable"])
def ours(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pykv")
    with (
        pykv.open(None if request.param == "in memory" else folder / "store") as store,
        pykv.serve(store, port=0) as server,
    ):
        side = Side("pykv", ("127.0.0.1", server.port))
        yield side
        store._verify()
        side.end()


@pytest.fixture
def examples(request):
    return request.config.option.examples


def run(test, examples):
    """Runs what @given has made, so often, with the seed of this run."""
    settings(max_examples=examples, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))(
        test
    )()


# ---- What is sent --------------------------------------------------------------------------------

KEYS = [b"a", b"b", b"c", b"", b"k\x00\r\n\xff", b"{tag}" + b"long" * 30]
# None between 10,000 and 2**32: as an offset it would make a value of that size.
INTEGERS = [
    *(b"%d" % n for n in (0, 1, 2, 3, 7, 8, 9, 31, 64, 100, 9999, -1, -2, -3, -8, -100)),
    *(b"%d" % (sign * 2**63 + n) for sign in (1, -1) for n in (-2, -1, 0, 1)),
    *(b"%d" % n for n in (2**32, 2**32 + 7, 2**53 + 1, -(2**31) - 1, 2**62)),
]
ODD_NUMBERS = [
    b"",
    b" 1",
    b"1 ",
    b"+1",
    b"01",
    b"-0",
    b"-",
    b"1.0",
    b"1e3",
    b"0x10",
    b"abc",
    b"1\x00",
    b"9" * 30,
]
FLOATS = [
    *(
        b"0 1 -1 3.0e3 5.0e3 200 1.1 -1.1 0.1 .5 5. 1e-17 1e17 1.5e308 1e4000 -1e4000 1e4933 3.141592653589793238462643".split()
    ),
    *(
        b"inf -inf +inf nan -nan 0x1p3 1e 1,5 -0 -0.0 +1.5 infinity 17179869184 9007199254740993 99999999999999999999".split()
    ),
    *(b" 1.5", b"1.5 ", b"", b"1.5\x00", b"0." + b"0" * 40 + b"1"),
]
VALUES = [
    *(
        b"",
        b"x",
        b"hello world",
        b"foobar",
        b"\x00",
        b"\xff\xf0\x00",
        b"\xff" * 9,
        b"ohmytext",
        b"mynewtext",
        b"v" * 300,
    ),
    *INTEGERS[:24],
    *FLOATS[:12],
]

key = st.sampled_from(KEYS)
value = st.sampled_from(VALUES) | st.binary(max_size=20)
integer = st.sampled_from(INTEGERS) | st.integers(-20, 200).map(lambda n: b"%d" % n)
number = integer | st.sampled_from(ODD_NUMBERS)
decimal = st.sampled_from(FLOATS) | number
offset = st.integers(-12, 40).map(lambda n: b"%d" % n) | number
bit = st.sampled_from([b"0", b"1"]) | st.sampled_from([b"2", b"-1", b"", b"x"])

YEAR_2100 = 4102444800
# A relative one that conditions compare must not be that of an earlier request: the placeholder says
# which request it is in.
relative = st.sampled_from([b"100", b"2000", b"1000000", b"@seconds"])
relative_ms = st.sampled_from([b"100000", b"2000000", b"1000000000", b"@milliseconds"])
unique, unique_ms = st.just(b"@seconds"), st.just(b"@milliseconds")
absolute = st.integers(YEAR_2100, YEAR_2100 + 5).map(lambda n: b"%d" % n)
absolute_ms = st.integers(YEAR_2100 * 1000, YEAR_2100 * 1000 + 5).map(lambda n: b"%d" % n)
# All of them are refused, or are long past.
no_time = st.sampled_from(
    [
        b"0",
        b"-1",
        b"-100",
        b"",
        b"x",
        b"1.5",
        *(b"%d" % (s * 2**63 + n) for s, n in ((1, 0), (-1, 0), (-1, -1))),
    ]
)
past = st.sampled_from([b"0", b"1", b"-1", b"1000", b"%d" % -(2**62 // 1000)])


def fill(words, index):
    stamp = 5000 + 7 * index
    return [
        b"%d" % stamp if w == b"@seconds" else b"%d" % (stamp * 1000) if w == b"@milliseconds" else w
        for w in words
    ]


def words(*parts):
    """A request: each part is a word, a strategy of one, or a strategy of a list of them."""

    def flat(drawn):
        out = []
        for part in drawn:
            out.extend(part if isinstance(part, (list, tuple)) else [part])
        return out

    return st.tuples(*(st.just(p.split()) if isinstance(p, bytes) else p for p in parts)).map(flat)


def options(*choices, most=3):
    """Some of these, in any order, also twice; each is bytes, or a tuple of what `words` takes."""
    each = [words(*(c if isinstance(c, tuple) else (c,))) for c in choices]
    return st.lists(st.one_of(each), max_size=most).map(lambda lists: [w for part in lists for w in part])


def many(*parts, least=1, most=4):
    return st.lists(words(*parts), min_size=least, max_size=most).map(
        lambda lists: [w for part in lists for w in part]
    )


expiry_options = [
    (b"EX", relative | no_time),
    (b"px", relative_ms | no_time),
    (b"EXAT", absolute | no_time),
    (b"pxat", absolute_ms | no_time),
]
past_options = [(b"exat", past), (b"PXAT", past)]
conditions = options(b"NX", b"xx", b"GT", b"lt", b"IF", most=2)
width = st.sampled_from(
    [b"i8", b"u8", b"u1", b"i1", b"i64", b"u63", b"u64", b"i65", b"u0", b"U8", b"i", b"8", b"i5", b"u17"]
)
place = st.sampled_from(
    [b"0", b"7", b"#1", b"#0", b"100", b"-1", b"#-1", b"x", b"", b"#", b"4294967296", b"#9223372036854775807"]
)
field = st.one_of(
    words(b"GET", width, place),
    words(b"set", width, place, number),
    words(b"INCRBY", width, place, number),
    words(b"OVERFLOW", st.sampled_from([b"WRAP", b"sat", b"FAIL", b"no"])),
)
pattern = st.sampled_from(
    [b"*", b"?", b"[a-b]", b"[^a]", b"*long*", b"k*", b"", b"\\a", b"[", b"[a", b"{tag}*", b"a**", b"[b-a]"]
)

STRINGS = [
    words(b"GET", key),
    words(b"SET", key, value),
    words(b"SET", key, value, options(b"NX", b"xx", b"GET", b"keepttl", b"NO", *expiry_options)),
    words(b"SET", key, value, options(*expiry_options, most=1)),
    words(b"SETNX", key, value),
    words(b"SETEX", key, relative | no_time, value),
    words(b"PSETEX", key, relative_ms | no_time, value),
    words(b"GETSET", key, value),
    words(b"GETDEL", key),
    words(b"GETEX", key, options(b"PERSIST", b"no", *expiry_options, *past_options, most=2)),
    words(b"MGET", many(key)),
    words(b"MSET", many(key, value)),
    words(b"MSETNX", many(key, value, most=3)),
    words(b"APPEND", key, value),
    words(b"STRLEN", key),
    words(b"GETRANGE", key, offset, offset),
    words(b"SUBSTR", key, offset, offset),
    words(b"SETRANGE", key, offset, value),
    words(b"INCR", key),
    words(b"DECR", key),
    words(b"INCRBY", key, number),
    words(b"DECRBY", key, number),
    words(b"INCRBYFLOAT", key, decimal),
    words(b"LCS", key, key, options(b"LEN", b"idx", b"WITHMATCHLEN", (b"MINMATCHLEN", number), b"no")),
]
BITS = [
    words(b"SETBIT", key, offset, bit),
    words(b"GETBIT", key, offset),
    words(
        b"BITCOUNT",
        key,
        st.one_of(
            st.just([]),
            words(offset),
            words(offset, offset),
            words(offset, offset, st.sampled_from([b"BIT", b"byte", b"x"])),
        ),
    ),
    words(
        b"BITPOS",
        key,
        bit,
        st.one_of(
            st.just([]),
            words(offset),
            words(offset, offset),
            words(offset, offset, st.sampled_from([b"BIT", b"byte", b"x"])),
        ),
    ),
    words(b"BITOP", st.sampled_from([b"AND", b"or", b"XOR", b"NAND"]), many(key, least=2)),
    words(b"BITOP NOT", many(key, least=2, most=3)),
    words(b"BITFIELD", key, st.lists(field, max_size=4).map(lambda f: [w for part in f for w in part])),
    words(b"BITFIELD_RO", key, st.lists(field, max_size=3).map(lambda f: [w for part in f for w in part])),
]
NAMESPACE = [
    words(st.sampled_from([b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"]), many(key)),
    words(b"TYPE", key),
    words(b"KEYS", pattern),
    words(b"RANDOMKEY"),
    words(b"DBSIZE"),
    words(st.sampled_from([b"RENAME", b"RENAMENX"]), key, key),
    words(
        b"COPY",
        key,
        key,
        options(b"REPLACE", (b"DB", st.sampled_from([b"0", b"1", b"-1", b"x"])), b"no", most=2),
    ),
    words(b"MOVE", key, st.sampled_from([b"0", b"1", b"x", b"-1"])),
    words(st.sampled_from([b"FLUSHDB", b"FLUSHALL"]), options(b"ASYNC", b"sync", b"no", most=1)),
    words(b"DUMP", key),
    words(
        b"RESTORE",
        key,
        st.sampled_from([b"0", b"100000", b"-1", b"x"]),
        value,
        options(b"REPLACE", b"no", most=1),
    ),
    words(b"SWAPDB", st.sampled_from([b"0", b"1", b"x"]), st.sampled_from([b"0", b"1", b"x"])),
]
EXPIRY = [
    words(b"EXPIRE", key, relative | no_time),
    words(b"PEXPIRE", key, relative_ms | no_time),
    words(b"EXPIRE", key, unique, conditions),
    words(b"PEXPIRE", key, unique_ms, conditions),
    words(b"EXPIREAT", key, absolute | past | no_time, conditions),
    words(b"PEXPIREAT", key, absolute_ms | past, conditions),
    words(st.sampled_from([b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME", b"PERSIST"]), key),
]
TRANSACTIONS = [
    words(b"MULTI"),
    words(b"EXEC"),
    words(b"DISCARD"),
    words(b"WATCH", many(key, most=2)),
    words(b"UNWATCH"),
]
CONNECTION = [
    words(b"PING"),
    words(b"PING", value),
    words(b"ECHO", value),
    words(b"SELECT", st.sampled_from([b"0", b"1", b"x", b"-1", b""])),
    words(b"WAIT 0", st.sampled_from([b"0", b"x", b"-1"])),
    words(b"PUBLISH", key, value),
    words(b"PUBSUB", st.sampled_from([[b"CHANNELS"], [b"NUMSUB", b"a", b"b"], [b"NUMPAT"]])),
]
# Any words behind any name: arity, syntax, what is refused first.
NAMES = (
    b"get set setnx setex psetex getset getdel getex mget mset msetnx append strlen getrange substr setrange incr decr"
    b" incrby decrby incrbyfloat lcs setbit getbit bitcount bitpos bitop bitfield bitfield_ro del unlink exists touch type"
    b" keys randomkey dbsize rename renamenx copy move flushdb flushall dump restore expire pexpire expireat pexpireat ttl"
    b" pttl expiretime pexpiretime persist multi exec discard watch unwatch ping echo select publish nonsense scan"
    b" pubsub swapdb auth time save quit2 client object config"
).split()
WORDS = (
    *KEYS,
    *VALUES[:8],
    *(b"0 1 2 -1 100 9223372036854775807 -9223372036854775808 9223372036854775808 x 1.5".split()),
    *(
        b"NX XX GT LT EX PX EXAT PXAT KEEPTTL PERSIST GET LEN IDX BIT BYTE NOT AND REPLACE DB ASYNC i8 #1 MATCH COUNT".split()
    ),
)


IN_OTHER_WORDS = b"expire pexpire expireat pexpireat getex set select swapdb move copy".split()


def has_meaning_of_its_own(words):
    """Is this one of what is not compared (NOT_EQUAL), or not comparable from one moment to the next?"""
    name = words[0].lower()
    many = len(words) > 1
    return (
        (name in (b"client", b"object", b"config", b"pubsub") and many)
        or (name == b"time" and not many)
        or (name == b"save" and not many)
        or (name == b"scan" and many)
        or (name in IN_OTHER_WORDS and {b"9223372036854775807", b"-9223372036854775808"} & {*words})
    )


ANY = (
    st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(WORDS), max_size=6))
    .map(lambda drawn: [drawn[0], *drawn[1]])
    .filter(lambda words: not has_meaning_of_its_own(words))
)

requests = st.one_of(
    st.one_of(STRINGS),
    st.one_of(STRINGS),
    st.one_of(BITS),
    st.one_of(NAMESPACE),
    st.one_of(EXPIRY),
    st.one_of(TRANSACTIONS),
    st.one_of(CONNECTION),
    ANY,
)


# ---- What is compared ----------------------------------------------------------------------------


def bytes_of(reply):
    return [data for data, _ in reply[1]]


def integer_of(reply):
    return int(reply[1:]) if reply[:1] == b":" else None


def alike(words, theirs, mine):
    """Do the two replies, (bytes, elements), say the same?"""
    if theirs[0] == mine[0]:
        return True
    name = words[0].upper()
    if name in (b"BITCOUNT", b"BITPOS") and theirs[0] in (b":0\r\n", b":-1\r\n"):
        return mine[0] in (b"-ERR syntax error\r\n", b"-ERR value is not an integer or out of range\r\n")
    if name in (b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME"):
        a, b = integer_of(theirs[0]), integer_of(mine[0])
        return (
            a is not None
            and b is not None
            and min(a, b) > 0
            and abs(a - b) <= (2000 if name[:1] == b"P" else 2)
        )
    if name == b"KEYS":
        return None not in (theirs[1], mine[1]) and sorted(bytes_of(theirs)) == sorted(bytes_of(mine))
    if name in (b"RANDOMKEY", b"DUMP"):
        return (
            theirs[0][:1] == mine[0][:1] == b"$"
            and not theirs[0].startswith(b"$-1")
            and not mine[0].startswith(b"$-1")
        )
    return False


def shown(words, protocol=""):
    return protocol + " ".join(repr(w)[1:] for w in words)


def compare(redis, ours, sequence, protocols):
    redis.begin(protocols)
    ours.begin(protocols)
    queued = [[], []]  # by MULTI, of each connection
    log = []
    for index, (which, words) in enumerate(sequence):
        words = fill(words, index)
        data = request(*words)
        for side in (redis, ours):
            side.wires[which].send(data)
        theirs, mine = redis.wires[which].reply(), ours.wires[which].reply()
        log.append(f"{which}> {shown(words)}\n   {theirs[0]!r}")
        name = words[0].upper()
        if name == b"EXEC" and theirs[1] is not None and mine[1] is not None and len(theirs[1]) == len(mine[1]):
            same = all(map(alike, queued[which], theirs[1], mine[1]))
        else:
            same = alike(words, theirs, mine)
        assert same, "\n".join([*log, f"Redis: {theirs[0]!r}", f"pykv:  {mine[0]!r}"])
        if theirs[0] == b"+QUEUED\r\n":
            queued[which].append(words)
        elif name == b"EXEC" or (name in (b"MULTI", b"DISCARD") and theirs[0][:1] != b"-"):
            queued[which] = []


# ---- The tests -----------------------------------------------------------------------------------

step = st.tuples(st.integers(0, 1), requests)
protocols = st.tuples(st.sampled_from([2, 3]), st.sampled_from([2, 3]))


def test_sequences(redis, ours, examples, seed):
    @given(st.lists(step, min_size=1, max_size=40), protocols)
    def sequences(steps, protocols):
        compare(redis, ours, steps, protocols)

    run(sequences, examples)


@pytest.mark.parametrize("subject", ["strings", "bits", "expiry", "any"])
def test_subject(redis, ours, examples, seed, subject):
    """One subject alone, on few keys: more of its cases follow one another."""
    choice = {
        "strings": STRINGS,
        "bits": [*BITS, STRINGS[1]],
        "expiry": [*EXPIRY, *STRINGS[2:4]],
        "any": [ANY],
    }[subject]

    @given(st.lists(st.tuples(st.just(0), st.one_of(choice)), min_size=1, max_size=40), protocols)
    def subjects(steps, protocols):
        compare(redis, ours, steps, protocols)

    run(subjects, examples)


def test_transactions(redis, ours, examples, seed):
    """Two connections that watch, queue and write the same three keys."""
    few = st.sampled_from(KEYS[:3])
    choice = st.one_of(
        st.one_of(TRANSACTIONS),
        words(b"WATCH", few),
        words(b"MULTI"),
        words(b"EXEC"),
        words(b"SET", few, value),
        words(st.sampled_from([b"GET", b"DEL", b"INCR", b"PERSIST", b"GETDEL", b"STRLEN", b"GETEX"]), few),
        words(b"EXPIRE", few, st.sampled_from([b"100", b"0"])),
        words(b"RENAME", few, few),
        words(b"SETRANGE", few, st.just(b"1"), st.sampled_from([b"", b"x"])),
        words(b"SETBIT", few, st.just(b"1"), bit),
        words(
            b"BITFIELD",
            few,
            words(
                st.sampled_from([b"SET", b"INCRBY"]),
                st.just(b"u2"),
                st.just(b"6"),
                st.sampled_from([b"0", b"1"]),
            ),
        ),
        words(b"MSETNX", many(few, value)),
        words(b"COPY", few, few),
        words(b"FLUSHALL"),
    )

    @given(st.lists(st.tuples(st.integers(0, 1), choice), min_size=1, max_size=40), protocols)
    def transactions(steps, protocols):
        compare(redis, ours, steps, protocols)

    run(transactions, examples)


def test_dump_and_restore(redis, ours, examples, seed):
    """Each restores what the other one has dumped, with the same expiry."""

    @given(
        value
        | st.binary(max_size=300)
        | st.builds(lambda b, n: b * n, st.binary(max_size=6), st.integers(0, 5000))
    )
    def dumps(value):
        for source, target in ((redis, ours), (ours, redis)):
            redis.begin((2, 2))
            ours.begin((2, 2))
            source.wires[0].ask("SET", "k", value)
            payload = source.wires[0].ask("DUMP", "k")[0].partition(b"\r\n")[2][:-2]
            assert target.wires[0].ask("RESTORE", "k", YEAR_2100 * 1000, payload, "ABSTTL")[0] == b"+OK\r\n"
            assert target.wires[0].ask("GET", "k")[0] == b"$%d\r\n%b\r\n" % (len(value), value)
            assert target.wires[0].ask("PEXPIRETIME", "k")[0] == b":%d\r\n" % (YEAR_2100 * 1000)
            damaged = payload[:-1] + bytes([payload[-1] ^ 1])
            for words in (
                ("RESTORE", "k", 0, payload),
                ("RESTORE", "other", 0, damaged),
                ("RESTORE", "k", 0, damaged),
            ):
                assert target.wires[0].ask(*words) == source.wires[0].ask(*words)

    run(dumps, examples)


def test_scan_to_completion(redis, ours, examples, seed):
    def scan(side, options):
        wire, cursor, found = side.wires[0], b"0", []
        while True:
            reply, parts = wire.ask("SCAN", cursor, *options)
            if parts is None:
                return reply
            cursor = parts[0][0].split(b"\r\n")[1]
            found.extend(bytes_of(parts[1]))
            if cursor == b"0":
                return set(found)

    scan_options = options(
        (b"MATCH", pattern),
        (b"count", st.sampled_from([b"1", b"3", b"1000", b"0", b"-1", b"x"])),
        (b"TYPE", st.sampled_from([b"string", b"list", b"x"])),
        b"no",
    )
    some_key = st.sampled_from(KEYS) | st.text("abk{}*", max_size=4).map(str.encode)

    @given(st.lists(some_key, max_size=40), scan_options)
    def scans(keys, options):
        for side in (redis, ours):
            side.begin((2, 2))
            for k in keys:
                side.wires[0].ask("SET", k, "v")
        assert scan(redis, options) == scan(ours, options)

    run(scans, examples // 2)


def test_publish_and_subscribe(redis, ours, examples, seed):
    """All that two connections get, subscribed or not."""
    channel = st.sampled_from([b"a", b"ab", b"c\r\n"])
    pattern = st.sampled_from([b"*", b"a*", b"?"])
    choice = st.one_of(
        words(b"SUBSCRIBE", many(channel, most=2)),
        words(b"PSUBSCRIBE", many(pattern, most=2)),
        words(b"UNSUBSCRIBE", many(channel, most=2)),
        words(b"PUNSUBSCRIBE", many(pattern, most=2)),
        words(st.sampled_from([b"UNSUBSCRIBE", b"PUNSUBSCRIBE"])),
        words(b"PUBLISH", channel, value),
        words(b"PUBLISH", channel, value),
        words(b"PUBSUB NUMSUB", many(channel)),
        words(b"PUBSUB NUMPAT"),
        words(st.sampled_from([b"GET a", b"PING", b"PING x"])),
        words(b"CLIENT REPLY", st.sampled_from([b"ON", b"off", b"SKIP", b"no"])),
    ).map(lambda words: words[0].split() + words[1:])

    @given(st.lists(st.tuples(st.integers(0, 1), choice), min_size=1, max_size=25), protocols)
    def messages(steps, protocols):
        redis.begin(protocols)
        ours.begin(protocols)
        log = []
        for which, words in steps:
            if words[0] == b"CLIENT" and protocols[which] == 2:
                continue  # one that listens could not be switched on again
            got = []
            for side in (redis, ours):
                side.wires[which].send(request(*words))
                replies = []
                for wire in (side.wires[which], side.wires[1 - which]):
                    wire.send(request("CLIENT", "REPLY", "ON") + request("PING", "here it ends"))
                    replies.append(canonical(words, wire.until(b"here it ends\r\n")))
                got.append(replies)
            log.append(f"{which}> {shown(words)}\n   {got[0]!r}")
            assert got[0] == got[1], "\n".join([*log, f"pykv: {got[1]!r}"])

    def canonical(words, data):
        # The channels of an UNSUBSCRIBE without arguments come in no order; for PUBLISH see NOT_EQUAL.
        is_ordered = words[0] != b"PUBLISH" and (len(words) > 1 or not words[0].endswith(b"UNSUBSCRIBE"))
        return data if is_ordered else sorted(data.split(b"\r\n"))

    run(messages, examples)
