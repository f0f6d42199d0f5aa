"""csrc/FORMAT.md, taken at its word: a decoder and an encoder of its own, against its worked example
and against what the store writes."""

import re
import struct
from pathlib import Path

import pytest

import pykv

DOCUMENT = Path(__file__).resolve().parent.parent / "csrc" / "FORMAT.md"

HEADER_SIZE = 4096
FRAME_SIZE = 48
COMMITS, MARK, CLOSE, END = 1, 2, 3, 4
PUT, DELETE, CLEAR, EXPIRE = 1, 2, 3, 4
LAST, EXPIRES = 1, 2
VERSION = 2


def make_crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = make_crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def siphash13(hash_key, data):
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", hash_key)
    v0, v1, v2, v3 = (
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    )

    def turn(x, bits):
        return (x << bits | x >> 64 - bits) & mask

    def rounds(count):
        nonlocal v0, v1, v2, v3
        for _ in range(count):
            v0, v2 = v0 + v1 & mask, v2 + v3 & mask
            v1, v3 = turn(v1, 13) ^ v0, turn(v3, 16) ^ v2
            v0 = turn(v0, 32)
            v2, v0 = v2 + v1 & mask, v0 + v3 & mask
            v1, v3 = turn(v1, 17) ^ v2, turn(v3, 21) ^ v0
            v2 = turn(v2, 32)

    whole = len(data) & ~7
    tail = (data[whole:].ljust(7, b"\0")) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", data[:whole] + tail):
        v3 ^= word
        rounds(1)
        v0 ^= word
    v2 ^= 0xFF
    rounds(3)
    return v0 ^ v1 ^ v2 ^ v3


def align(size):
    return (size + 15) & ~15


# ---- Decoding -----------------------------------------------------------------------------------


class Identity:
    """The file STORE."""

    def __init__(self, data):
        assert len(data) == 64
        magic, self.version, zero, self.store_id, self.hash_key, more_zero, crc = struct.unpack(
            "<8sII16s16s12sI", data
        )
        assert magic == b"PYKVSTOR" and zero == 0 and more_zero == bytes(12)
        assert crc == crc32c(data[:60])
        assert self.version in (1, 2)


def decode_records(payload):
    """[(kind, flags, key, value, expiry)]"""
    result, at = [], 0
    while at < len(payload):
        kind, flags, key_size, value_size = struct.unpack_from("<BBHI", payload, at)
        at += 8
        key = payload[at : at + key_size]
        at += key_size
        value = payload[at : at + value_size]
        at += value_size
        expiry = 0
        if flags & EXPIRES:
            (expiry,) = struct.unpack_from("<Q", payload, at)
            at += 8
            assert 1 <= expiry <= 1 << 48 and kind in (PUT, EXPIRE)
        assert kind in (PUT, DELETE, CLEAR, EXPIRE) and flags <= LAST | EXPIRES
        assert kind == PUT or not value
        assert kind != CLEAR or not key
        result.append((kind, flags, key, value, expiry))
    assert at == len(payload)
    return result


class Frame:
    def __init__(self, data, offset, salt):
        head = data[offset : offset + FRAME_SIZE]
        magic, size, self.lsn, self.durable_lsn, self.salt, self.kind, self.commits, payload_crc, crc = (
            struct.unpack("<4sIQQ8sIIII", head)
        )
        assert magic == b"PKVF" and crc == crc32c(head[:44]) and self.salt == salt
        self.offset = offset
        self.payload_offset = offset + FRAME_SIZE
        self.payload = data[self.payload_offset : self.payload_offset + size]
        assert len(self.payload) == size and payload_crc == crc32c(self.payload)
        self.end = align(self.payload_offset + size)
        assert data[self.payload_offset + size : self.end].count(0) == self.end - self.payload_offset - size

    def records(self):
        """[(kind, is the last of its commit, key, value, expiry)]"""
        result = [(r[0], r[1] & LAST == LAST, *r[2:]) for r in decode_records(self.payload)]
        assert sum(last for _, last, *_ in result) == self.commits
        assert not result or result[-1][1]
        return result


class Segment:
    def __init__(self, data):
        magic, self.version, flags, self.store_id, self.sequence, self.start_lsn, self.salt, self.size, crc = (
            struct.unpack_from("<8sII16sQQ8sQI", data)
        )
        assert magic == b"PYKVLOG\n" and crc == crc32c(data[:64])
        assert self.version in (1, 2) and flags < self.version
        assert not any(data[68:HEADER_SIZE])
        assert self.size == len(data)
        self.recycled = flags == 1
        self.frames = []
        at, lsn = HEADER_SIZE, self.start_lsn
        while data[at : at + 4] == b"PKVF":
            if self.recycled and data[at + 24 : at + 32] != self.salt:
                break  # what the file held before
            frame = Frame(data, at, self.salt)
            assert frame.lsn == lsn and frame.durable_lsn <= lsn
            self.frames.append(frame)
            at = frame.end
            if frame.kind == END:
                break
            lsn += frame.end - frame.offset
        # In version 2 nothing follows a closing frame.
        assert self.version == 1 or all(frame.kind != CLOSE for frame in self.frames[:-1])
        self.end_lsn = lsn
        self.used = at
        assert self.recycled or not any(data[at:]), "bytes after the last frame"


class Checkpoint:
    def __init__(self, data, hash_key):
        magic, self.version, zero, self.store_id, self.sequence, self.lsn, self.made_ms, more_zero, crc = (
            struct.unpack_from("<8sII16sQQQII", data)
        )
        assert magic == b"PYKVCKP\n" and zero == more_zero == 0 and crc == crc32c(data[:60])
        assert self.version == 2
        footer = data[-64:]
        magic, count, index_offset, entries, data_bytes, expiring, index_crc, zero, crc = struct.unpack(
            "<8sQQQQQIQI", footer
        )
        assert magic == b"PYKVEND\n" and zero == 0 and crc == crc32c(footer[:60])
        index = data[index_offset:-64]
        assert len(index) == 48 * count and index_crc == crc32c(index)
        self.items = {}  # {key: (value, expiry)}
        self.blocks = []  # [(offset, depth, its first hash, records)]
        at, first_hash, headers = 64, 0, b""
        for _ in range(count):
            headers += data[at : at + 48]
            at, first_hash = self.take_block(data, at, first_hash, hash_key)
        assert first_hash == 1 << 64 and at == index_offset and headers == index
        assert len(self.items) == entries
        assert sum(len(key) + len(value) for key, (value, _) in self.items.items()) == data_bytes
        assert sum(expiry > 0 for _, expiry in self.items.values()) == expiring

    def take_block(self, data, at, first_hash, hash_key):
        head = data[at : at + 48]
        magic, depth, start, size, count, expiring, next_expiry, payload_crc, crc = struct.unpack(
            "<4sIQQIIQII", head
        )
        assert magic == b"PKVB" and crc == crc32c(head[:44]) and 4 <= depth <= 26
        assert start == first_hash and start % (1 << 64 - depth) == 0
        payload = data[at + 48 : at + 48 + size]
        assert len(payload) == size and payload_crc == crc32c(payload)
        records = decode_records(payload)
        expiries = [expiry for *_, expiry in records if expiry]
        assert (len(records), len(expiries), min(expiries, default=0)) == (count, expiring, next_expiry)
        for kind, flags, key, value, expiry in records:
            assert kind == PUT and not flags & LAST and key not in self.items
            assert siphash13(hash_key, key) >> 64 - depth == start >> 64 - depth
            self.items[key] = value, expiry
        self.blocks.append((at, depth, start, records))
        return at + 48 + size, start + (1 << 64 - depth)


def newest_checkpoint(folder):
    """The one that counts, or None."""
    paths = sorted(folder.glob("[0-9]*.ckpt"))
    if not paths:
        return None
    checkpoint = Checkpoint(paths[-1].read_bytes(), read_identity(folder).hash_key)
    assert checkpoint.sequence == int(paths[-1].stem)
    return checkpoint


def read_identity(folder):
    return Identity((folder / "STORE").read_bytes())


def read_store(folder):
    """(Identity, [Segment]): what an open reads of a store that has no torn tail."""
    identity, checkpoint = read_identity(folder), newest_checkpoint(folder)
    first = checkpoint.sequence if checkpoint else 1
    paths = [path for path in sorted(folder.glob("[0-9]*.log")) if int(path.stem) >= first]
    segments = [Segment(path.read_bytes()) for path in paths]
    lsn = segments[0].start_lsn if checkpoint else 0
    for number, segment in enumerate(segments, first):
        assert segment.sequence == number and segment.store_id == identity.store_id
        assert segment.start_lsn == lsn
        assert (segment.frames and segment.frames[-1].kind == END) == (segment is not segments[-1])
        lsn = segment.end_lsn
    if checkpoint:
        assert checkpoint.store_id == identity.store_id
        assert checkpoint.lsn in [f.lsn for f in segments[0].frames] + [segments[0].end_lsn]
    return identity, segments


def replay_all(segments, checkpoint=None):
    """{key: (value, expiry)}: what the log makes of the checkpoint, or of an empty store."""
    items = dict(checkpoint.items) if checkpoint else {}
    for segment in segments:
        for frame in segment.frames:
            if checkpoint and frame.lsn < checkpoint.lsn:
                continue
            for kind, _, key, value, expiry in frame.records():
                if kind == PUT:
                    items[key] = value, expiry
                elif kind == DELETE:
                    items.pop(key, None)
                elif kind == CLEAR:
                    items.clear()
                elif key in items:
                    items[key] = items[key][0], expiry
    return items


def replay(segments, checkpoint=None):
    """{key: value}"""
    return {key: value for key, (value, _) in replay_all(segments, checkpoint).items()}


# ---- Encoding -----------------------------------------------------------------------------------


def encode_identity(store_id, hash_key=bytes(16), version=VERSION):
    data = struct.pack("<8sII16s16s12s", b"PYKVSTOR", version, 0, store_id, hash_key, bytes(12))
    return data + struct.pack("<I", crc32c(data))


def encode_segment_header(store_id, sequence, start_lsn, salt, size, version=VERSION, flags=0):
    data = struct.pack("<8sII16sQQ8sQ", b"PYKVLOG\n", version, flags, store_id, sequence, start_lsn, salt, size)
    return (data + struct.pack("<I", crc32c(data))).ljust(HEADER_SIZE, b"\0")


def encode_record(last, kind, key, value, expiry=0):
    flags = (LAST if last else 0) | (EXPIRES if expiry else 0)
    data = struct.pack("<BBHI", kind, flags, len(key), len(value)) + key + value
    return data + struct.pack("<Q", expiry) if expiry else data


def encode_frame(lsn, durable_lsn, salt, kind, commits=()):
    payload = b"".join(
        encode_record(i == len(commit) - 1, *record) for commit in commits for i, record in enumerate(commit)
    )
    data = struct.pack(
        "<4sIQQ8sIII", b"PKVF", len(payload), lsn, durable_lsn, salt, kind, len(commits), crc32c(payload)
    )
    data += struct.pack("<I", crc32c(data)) + payload
    return data.ljust(align(len(data)), b"\0")


def encode_block(depth, start, items):
    """items: [(key, value, expiry)]"""
    payload = b"".join(encode_record(False, PUT, *item) for item in items)
    expiries = [expiry for *_, expiry in items if expiry]
    data = struct.pack(
        "<4sIQQIIQI",
        b"PKVB",
        depth,
        start,
        len(payload),
        len(items),
        len(expiries),
        min(expiries, default=0),
        crc32c(payload),
    )
    return data + struct.pack("<I", crc32c(data)) + payload


def encode_checkpoint(store_id, hash_key, sequence, lsn, made_ms, items, depth=4, version=VERSION):
    """items: {key: (value, expiry)}"""
    data = struct.pack("<8sII16sQQQI", b"PYKVCKP\n", version, 0, store_id, sequence, lsn, made_ms, 0)
    data += struct.pack("<I", crc32c(data))
    shards = [[] for _ in range(1 << depth)]
    for key, (value, expiry) in items.items():
        shards[siphash13(hash_key, key) >> 64 - depth].append((key, value, expiry))
    blocks = [encode_block(depth, i << 64 - depth, shard) for i, shard in enumerate(shards)]
    index = b"".join(block[:48] for block in blocks)
    data += b"".join(blocks)
    footer = struct.pack(
        "<8sQQQQQIQ",
        b"PYKVEND\n",
        len(blocks),
        len(data),
        len(items),
        sum(len(key) + len(value) for key, (value, _) in items.items()),
        sum(expiry > 0 for _, expiry in items.values()),
        crc32c(index),
        0,
    )
    return data + index + footer + struct.pack("<I", crc32c(footer))


class Author:
    """Writes a store without the engine: the same bytes that the engine would write."""

    STORE_ID = bytes(range(16))
    HASH_KEY = bytes(16)

    def __init__(self, folder, segment_size=65_536, version=VERSION):
        self.folder = folder
        self.segment_size = segment_size
        self.version = version
        folder.mkdir(mode=0o700)
        self.lsn = self.durable_lsn = self.sequence = 0
        self.segment = b""
        (folder / "STORE").write_bytes(encode_identity(self.STORE_ID, self.HASH_KEY, version))
        (folder / "LOCK").touch(mode=0o600)
        self.next_segment()

    def next_segment(self):
        if self.sequence:
            self.segment += encode_frame(self.lsn, self.lsn, self.salt, END)
            self.save()
        self.sequence += 1
        self.salt = b"salt%04d" % self.sequence
        self.segment = encode_segment_header(
            self.STORE_ID, self.sequence, self.lsn, self.salt, self.segment_size, self.version
        )

    def frame(self, kind, *commits):
        """Appends a frame. Returns its offset in the segment's file."""
        offset = len(self.segment)
        data = encode_frame(self.lsn, self.durable_lsn, self.salt, kind, commits)
        self.segment += data
        self.lsn += len(data)
        return offset

    def put(self, key, value, expiry=0):
        offset = self.frame(COMMITS, [(PUT, key, value, expiry)])
        self.durable_lsn = self.lsn
        return offset

    def checkpoint(self, items, depth=4):
        """A checkpoint of this moment, {key: (value, expiry)}; the segments before it go. Returns its path."""
        for path in self.folder.glob("[0-9]*.*"):
            if int(path.stem) < self.sequence or path.suffix == ".ckpt":
                path.unlink()
        path = self.folder / f"{self.sequence:08d}.ckpt"
        path.write_bytes(
            encode_checkpoint(self.STORE_ID, self.HASH_KEY, self.sequence, self.lsn, 0, items, depth)
        )
        return path

    def path(self, sequence=None):
        return self.folder / f"{sequence or self.sequence:08d}.log"

    def save(self):
        assert len(self.segment) <= self.segment_size
        self.path().write_bytes(self.segment.ljust(self.segment_size, b"\0"))

    def close(self):
        self.frame(CLOSE)
        self.save()


# ---- The worked example -------------------------------------------------------------------------

EXAMPLE_ID, EXAMPLE_HASH_KEY, EXAMPLE_SALT = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 40))
EXAMPLE_MADE_MS = 1_767_225_600_000  # 2026
EXAMPLE_EXPIRY = 4_102_444_800_000  # 2100
EXAMPLE_COMMITS = [
    [(PUT, b"apple", b"red", 0)],
    [(DELETE, b"apple", b"", 0), (PUT, b"pear", b"green", EXAMPLE_EXPIRY)],
    [(EXPIRE, b"pear", b"", 0)],
]
EXAMPLE_LSNS = [0, 64, 160, 224]


def encode_example():
    """{name: bytes}, from what the tables say."""
    log = encode_segment_header(EXAMPLE_ID, 1, 0, EXAMPLE_SALT, 8192)
    for lsn, commit in zip(EXAMPLE_LSNS, EXAMPLE_COMMITS):
        log += encode_frame(lsn, lsn, EXAMPLE_SALT, COMMITS, [commit])
    log += encode_frame(EXAMPLE_LSNS[3], EXAMPLE_LSNS[3], EXAMPLE_SALT, CLOSE)
    items = {b"pear": (b"green", EXAMPLE_EXPIRY)}
    return {
        "STORE": encode_identity(EXAMPLE_ID, EXAMPLE_HASH_KEY),
        "00000001.log": log.ljust(8192, b"\0"),
        "00000001.ckpt": encode_checkpoint(
            EXAMPLE_ID, EXAMPLE_HASH_KEY, 1, EXAMPLE_LSNS[2], EXAMPLE_MADE_MS, items
        ),
    }


def shown_example():
    """{name: {offset: byte}}: what the document shows of the files in its worked example."""
    if not DOCUMENT.exists():
        pytest.skip("csrc/FORMAT.md is not here: this is no checkout of the repository")
    files = {}
    for name, block in re.findall(r"```hex (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        files[name] = shown = {}
        for line in block.splitlines():
            offset, _, digits = line.partition(":")
            shown.update(enumerate(bytes.fromhex(digits), int(offset, 16)))
    assert set(files) == {"STORE", "00000001.log", "00000001.ckpt"}
    return files


def show(data, *ranges):
    """The document's way of showing them: lines of 16 bytes."""
    lines = []
    for start, end in ranges:
        for at in range(start, end, 16):
            digits = data[at : min(at + 16, end)].hex()
            lines.append(f"{at:08x}: " + " ".join(digits[i : i + 4] for i in range(0, len(digits), 4)))
    return "\n".join(lines)


def example_hash():
    return siphash13(EXAMPLE_HASH_KEY, b"pear")


def example_block():
    """Offset and size of the block of `pear`, behind blocks without records."""
    return 64 + 48 * (example_hash() >> 60), 48 + 8 + len(b"peargreen") + 8


def test_the_checksum_and_the_hash_are_those_that_are_named():
    assert crc32c(b"123456789") == 0xE3069283
    # What CPython's hash() of these bytes is under PYTHONHASHSEED=0.
    assert siphash13(bytes(16), bytes(range(7))) == 0x2F098AB0C751325A
    assert siphash13(bytes(16), bytes(range(31))) == 0x169739443111D49B


def test_the_example_decodes():
    files = encode_example()
    identity = Identity(files["STORE"])
    assert identity.version == 2
    assert identity.store_id == EXAMPLE_ID and identity.hash_key == EXAMPLE_HASH_KEY
    segment = Segment(files["00000001.log"])
    assert segment.version == 2 and segment.sequence == 1 and segment.start_lsn == 0 and not segment.recycled
    assert segment.store_id == EXAMPLE_ID and segment.salt == EXAMPLE_SALT
    assert [(f.kind, f.lsn, f.durable_lsn, f.commits) for f in segment.frames] == [
        (COMMITS, 0, 0, 1),
        (COMMITS, 64, 64, 1),
        (COMMITS, 160, 160, 1),
        (CLOSE, 224, 224, 0),
    ]
    assert [f.records() for f in segment.frames] == [
        [(PUT, True, b"apple", b"red", 0)],
        [(DELETE, False, b"apple", b"", 0), (PUT, True, b"pear", b"green", EXAMPLE_EXPIRY)],
        [(EXPIRE, True, b"pear", b"", 0)],
        [],
    ]
    checkpoint = Checkpoint(files["00000001.ckpt"], identity.hash_key)
    assert checkpoint.store_id == EXAMPLE_ID and (checkpoint.sequence, checkpoint.lsn) == (1, 160)
    assert checkpoint.items == {b"pear": (b"green", EXAMPLE_EXPIRY)}
    assert [b for b in checkpoint.blocks if b[3]] == [
        (example_block()[0], 4, example_hash() >> 60 << 60, [(PUT, EXPIRES, b"pear", b"green", EXAMPLE_EXPIRY)])
    ]
    assert replay_all([segment], checkpoint) == {b"pear": (b"green", 0)} == replay_all([segment])


def test_the_example_is_shown():
    """Byte for byte, and everything that is not of one kind with what is."""
    files, shown = encode_example(), shown_example()
    for name, data in files.items():
        for offset, byte in shown[name].items():
            assert data[offset] == byte, f"{name}, offset {offset:#x}"
        hidden = [offset for offset in range(len(data)) if offset not in shown[name]]
        if name == "00000001.ckpt":
            block, size = example_block()
            assert set(shown[name]) == {*range(64), *range(block, block + size), *range(len(data) - 64, len(data))}
        else:
            assert not any(data[offset] for offset in hidden), f"{name} shows less than there is"
    assert f"(hash {example_hash():#018x})" in DOCUMENT.read_text()


def write_files(folder, files):
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_the_example_opens(tmp_path, open_store):
    folder = tmp_path / "store"
    write_files(folder, encode_example())
    store = open_store(folder)
    assert store == {b"pear": b"green"} and store.ttl("pear") is None
    assert store.recovery["clean"] and not store.recovery["created"]
    assert store.recovery["checkpoint_items"] == 1
    assert store.recovery["commits"] == 1 and store.recovery["records"] == 1 and store.recovery["frames"] == 2
    store.put_many({b"%d" % i: b"v" * 100 for i in range(1000)})  # more than fits in the example's segment
    store.close()
    identity, segments = read_store(folder)
    assert identity.store_id == bytes(range(16))
    assert len(replay(segments, newest_checkpoint(folder))) == 1001


def test_the_example_without_its_checkpoint_opens(tmp_path, open_store):
    """The log is there from its beginning: it says the same."""
    files = encode_example()
    del files["00000001.ckpt"]
    write_files(tmp_path / "store", files)
    store = open_store(tmp_path / "store")
    assert store == {b"pear": b"green"} and store.ttl("pear") is None
    assert store.recovery["checkpoint_items"] == 0 and store.recovery["commits"] == 3


def write_example(folder):
    with pykv.open(folder) as store:
        store["apple"] = "red"
        with store.batch() as batch:
            batch.put("pear", "green", ttl=3600)
            batch.delete("apple")
        store.checkpoint()
        store.persist("pear")


def test_a_fresh_store_has_the_examples_bytes(tmp_path):
    """All of them, once random bytes and moments are put in their place and the checksums follow."""
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        write_example(folder)
        identity, (segment,) = read_store(folder)
        if all(frame.kind != MARK for frame in segment.frames):
            break  # on a slow machine an idle moment's mark may be among them
    assert encode_identity(identity.store_id, identity.hash_key) == (folder / "STORE").read_bytes()
    (expiry,) = (r[4] for frame in segment.frames for r in frame.records() if r[4])
    checkpoint = newest_checkpoint(folder)
    assert expiry - 3_600_000 <= checkpoint.made_ms <= expiry
    assert encode_checkpoint(
        identity.store_id, identity.hash_key, 1, EXAMPLE_LSNS[2], checkpoint.made_ms, {b"pear": (b"green", expiry)}
    ) == (folder / "00000001.ckpt").read_bytes()

    again = encode_segment_header(identity.store_id, 1, 0, segment.salt, 1 << 20)
    for lsn, commit in zip(EXAMPLE_LSNS, EXAMPLE_COMMITS):
        commit = [(*record[:3], record[3] and expiry) for record in commit]
        if lsn == 64:  # the order of a batch's records is that of their hashes: the only other freedom there is
            commit.sort(key=lambda record: siphash13(identity.hash_key, record[1]))
        again += encode_frame(lsn, lsn, segment.salt, COMMITS, [commit])
    again += encode_frame(EXAMPLE_LSNS[3], EXAMPLE_LSNS[3], segment.salt, CLOSE)
    assert (folder / "00000001.log").read_bytes() == again.ljust(1 << 20, b"\0")


# ---- What the engine writes, read here; what is written here, read by the engine ------------------


def test_everything_the_store_writes_decodes(tmp_path, rng):
    folder = tmp_path / "store"
    model, expiring = {}, {}  # expiring: key -> seconds
    with pykv.open(folder) as store:
        for i in range(60):
            key, value = b"%d" % rng.randrange(30), rng.randbytes(rng.choice((0, 10, 1000, 60_000)))
            store[key] = model[key] = value
        store.clear()
        model.clear()
        for i in range(300):
            key, value = b"%d" % rng.randrange(40), rng.randbytes(rng.randrange(200))
            ttl = rng.choice((None, 1000, 2000))
            store.put(key, value, ttl=ttl)
            model[key], expiring[key] = value, ttl
            if i % 3 == 0:
                store.delete(key)
                del model[key]
            if i % 20 == 0:
                many = {b"many %d" % j: b"%d" % i for j in range(30)}
                store.put_many(many, ttl=ttl)
                model.update(many)
                expiring.update(dict.fromkeys(many, ttl))
                model[b"n"] = b"%d" % store.incr(b"n")
                store.expire(b"n", 3000)
                store.expire(b"many 1", 500)
                store.persist(b"many 2")
                expiring.update({b"n": 3000, b"many 1": 500, b"many 2": None})
            if i == 150:
                store.checkpoint()
            if i == 200:
                store.backup(tmp_path / "backup")
                at_backup = dict(model)
        now = store._clock()
    identity, segments = read_store(folder)
    checkpoint = newest_checkpoint(folder)
    items = replay_all(segments, checkpoint)
    assert replay(segments, checkpoint) == model
    for key, (_, expiry) in items.items():
        ttl = expiring.get(key)
        assert expiry == 0 if ttl is None else now + ttl * 1000 - 600_000 < expiry <= now + ttl * 1000
    assert segments[-1].frames[-1].kind == CLOSE
    assert (folder / "LOCK").read_bytes() == b""
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["%08d.ckpt" % checkpoint.sequence] + ["%08d.log" % s.sequence for s in segments] + ["LOCK", "STORE"]
    )

    copy, segments = read_store(tmp_path / "backup")
    checkpoint = newest_checkpoint(tmp_path / "backup")
    assert replay(segments, checkpoint) == at_backup
    assert copy.store_id != identity.store_id
    assert (checkpoint.sequence, checkpoint.lsn) == (1, segments[0].start_lsn)


def test_a_checkpoint_of_many_keys_decodes(tmp_path):
    """Shards that have been split, some deeper than others."""
    folder = tmp_path / "store"
    model = {b"%d" % i: b"v%d" % i for i in range(8000)}
    with pykv.open(folder) as store:
        store.put_many(model)
        store.checkpoint()
    checkpoint = newest_checkpoint(folder)
    assert {key: value for key, (value, _) in checkpoint.items.items()} == model
    assert max(depth for _, depth, _, _ in checkpoint.blocks) > 4


def test_segments_double(tmp_path):
    folder = tmp_path / "store"
    with pykv.open(folder, sync="never") as store:
        for i in range(40):
            store[b"%d" % i] = b"v" * 300_000
    _, segments = read_store(folder)
    sizes = [segment.size for segment in segments]
    assert sizes[:4] == [1 << 20, 2 << 20, 4 << 20, 8 << 20]


def test_a_commit_larger_than_a_segment_gets_its_own(tmp_path):
    folder = tmp_path / "store"
    with pykv.open(folder, sync="never") as store:
        store[b"before"] = b"1"
        store[b"large"] = bytes(5 << 20)
        store[b"after"] = b"2"
    identity, segments = read_store_without_checksums_of_large_frames(folder)
    assert sum(s >= 5 << 20 for s in segments) >= 1
    with pykv.open(folder) as store:
        assert len(store) == 3 and store[b"large"] == bytes(5 << 20)


def read_store_without_checksums_of_large_frames(folder):
    """The Python checksum of megabytes takes its time: here only the files' sizes matter."""
    identity = Identity((folder / "STORE").read_bytes())
    return identity, [path.stat().st_size for path in sorted(folder.glob("[0-9]*.log"))]


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_encoded_here_is_read_by_the_engine(tmp_path, open_store, version):
    author = Author(tmp_path / "store", segment_size=8192, version=version)
    model = {}
    for i in range(100):
        if len(author.segment) > 7000:
            author.next_segment()
        author.put(b"%d" % i, b"v" * i)
        model[b"%d" % i] = b"v" * i
        if i % 10 == 0:
            author.frame(MARK)
        if i % 7 == 0:
            author.frame(COMMITS, [(DELETE, b"%d" % i, b"")], [(PUT, b"x", b"1"), (PUT, b"y", b"%d" % i)])
            model.pop(b"%d" % i)
            model.update({b"x": b"1", b"y": b"%d" % i})
        if i == 50:
            author.frame(COMMITS, [(CLEAR, b"", b"")])
            model.clear()
    author.close()
    assert author.sequence > 1
    _, segments = read_store(author.folder)
    assert replay(segments) == model
    store = open_store(author.folder)
    assert store == model
    assert store.recovery["clean"] and store.recovery["bytes_cut"] == 0
    assert store.recovery["segments"] == author.sequence
    store["new"] = "1"
    store.close()
    _, segments = read_store(author.folder)
    assert replay(segments) == {**model, b"new": b"1"}
    # Commits go into a segment of version 2, whatever the last one was.
    assert segments[-1].version == 2 and len(segments) == author.sequence + (version == 1)


def test_expiries_and_checkpoints_encoded_here_are_read_by_the_engine(tmp_path, open_store):
    past, soon, later = 1000, EXAMPLE_EXPIRY, EXAMPLE_EXPIRY + 1000
    author = Author(tmp_path / "store", segment_size=16_384)
    items = {b"%d" % i: (b"v" * i, (0, past, soon)[i % 3]) for i in range(100)}
    for key, (value, expiry) in items.items():
        author.put(key, value, expiry)
    author.next_segment()
    author.put(b"before", b"1")
    items[b"before"] = (b"1", 0)
    author.checkpoint(items, depth=5)
    author.frame(COMMITS, [(EXPIRE, b"0", b"", later), (EXPIRE, b"1", b""), (EXPIRE, b"none", b"", later)])
    author.frame(COMMITS, [(EXPIRE, b"3", b"", past)], [(DELETE, b"2", b""), (PUT, b"new", b"n", soon)])
    author.close()
    _, segments = read_store(author.folder)
    wanted = replay_all(segments, newest_checkpoint(author.folder))
    assert wanted[b"0"] == (b"", later) and wanted[b"1"] == (b"v", 0) and b"none" not in wanted
    store = open_store(author.folder)
    alive = {key: value for key, (value, expiry) in wanted.items() if expiry != past}
    assert len(store) == len(alive) and store == alive
    assert store.recovery["checkpoint_items"] == 101
    assert store.recovery["records"] == 6 and store.recovery["bytes_cut"] == 0
    now = store._clock()
    for key in alive:
        ttl = store.ttl(key)
        assert ttl is None if not wanted[key][1] else abs(ttl - (wanted[key][1] - now) / 1000) < 60


# ---- What the tables forbid -----------------------------------------------------------------------


def refused(folder, kind, **options):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "LOCK"}
    with pytest.raises(kind) as caught:
        pykv.open(folder, **options)
    assert str(folder) in caught.value.path and str(folder) in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "LOCK"} == before
    return caught.value


@pytest.mark.parametrize(
    "store, log, checkpoint",
    [(3, 2, 2), (2, 3, 2), (2, 2, 3), (3, 3, 3), (1, 3, None), (2**32 - 1, 1, 1), (0, 1, None), (1, 0, None)],
)
def test_a_newer_version(tmp_path, store, log, checkpoint):
    files = {
        "STORE": encode_identity(bytes(16), version=store),
        "00000001.log": encode_segment_header(bytes(16), 1, 0, bytes(8), 8192, version=log).ljust(8192, b"\0"),
    }
    if checkpoint is not None:
        files["00000001.ckpt"] = encode_checkpoint(bytes(16), bytes(16), 1, 0, 0, {}, version=checkpoint)
    write_files(tmp_path / "store", files)
    error = refused(tmp_path / "store", pykv.VersionError)
    assert isinstance(error, pykv.Error)
    bad = next(version for version in (store, checkpoint, log) if version not in (1, 2, None))
    assert f"format version {bad}; this pykv reads versions 1 to 2" in str(error)


def checkpointed(folder, **changes):
    """A store of a checkpoint and an empty log; changes: arguments of encode_checkpoint."""
    arguments = {
        "store_id": bytes(16),
        "hash_key": bytes(16),
        "sequence": 1,
        "lsn": 0,
        "made_ms": 0,
        "items": {b"key": (b"value", 0), b"other": (b"", EXAMPLE_EXPIRY)},
        **changes,
    }
    segment = encode_segment_header(bytes(16), 1, 0, bytes(8), 8192) + encode_frame(0, 0, bytes(8), CLOSE)
    files = {
        "STORE": encode_identity(bytes(16)),
        "00000001.ckpt": encode_checkpoint(**arguments),
        "00000001.log": segment.ljust(8192, b"\0"),
    }
    write_files(folder, files)
    return folder


def test_a_plain_checkpoint_opens(tmp_path, open_store):
    assert open_store(checkpointed(tmp_path / "store")) == {b"key": b"value", b"other": b""}


@pytest.mark.parametrize(
    "changes",
    [
        {"store_id": b"another store...", "lsn": 0},
        {"sequence": 2},
        {"lsn": 8192},  # behind the segment's end
        {"depth": 3},
        {"depth": 0},
    ],
)
def test_a_checkpoint_that_is_whole_and_wrong(tmp_path, changes):
    refused(checkpointed(tmp_path / "store", **changes), pykv.CorruptionError)


def test_a_checkpoint_under_another_hash_key(tmp_path):
    """So the records stand in the wrong blocks."""
    folder = checkpointed(tmp_path / "store", hash_key=b"another hash key")
    error = refused(folder, pykv.CorruptionError, preload=True)
    assert "record that does not belong" in str(error)


@pytest.mark.parametrize(
    "record",
    [
        encode_record(False, PUT, b"key", b"value", (1 << 48) + 1),
        encode_record(False, DELETE, b"key", b"", 1),
        encode_record(False, DELETE, b"key", b""),
        encode_record(False, EXPIRE, b"key", b"", 1),
        encode_record(False, CLEAR, b"", b""),
        encode_record(False, 5, b"key", b""),
        b"\1\2\0\0\0\0\0\0" + bytes(8),  # an expiry of 0
        b"\1\4\0\0\0\0\0\0",  # an unknown flag
        b"\1\0\0\0\1\0\0\0",  # a value longer than the block
        encode_record(False, PUT, b"key", b"value") + b"\1",
    ],
    ids=range(10),
)
def test_records_that_cannot_be_in_a_checkpoint(tmp_path, monkeypatch, record):
    """In a block whose checksum and numbers fit."""
    key = record[8 : 8 + record[2]]
    monkeypatch.setitem(globals(), "encode_record", lambda *_: record)
    expiry = 1 if record[1] & EXPIRES else 0
    folder = checkpointed(tmp_path / "store", items={key: (b"", expiry)})
    error = refused(folder, pykv.CorruptionError, preload=True)
    assert "record that does not belong" in str(error)
    with pykv.open(folder) as store, pytest.raises(pykv.CorruptionError):
        store.get(key)
