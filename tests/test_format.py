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
PUT, DELETE, CLEAR = 1, 2, 3


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
        """[(kind, is the last of its commit, key, value)]"""
        result, at = [], 0
        while at < len(self.payload):
            kind, flags, key_size, value_size = struct.unpack_from("<BBHI", self.payload, at)
            at += 8
            key = self.payload[at : at + key_size]
            at += key_size
            value = self.payload[at : at + value_size]
            at += value_size
            assert kind in (PUT, DELETE, CLEAR) and flags in (0, 1)
            result.append((kind, flags == 1, key, value))
        assert at == len(self.payload)
        assert sum(last for _, last, _, _ in result) == self.commits
        assert not result or result[-1][1]
        return result


class Segment:
    def __init__(self, data):
        magic, self.version, zero, self.store_id, self.sequence, self.start_lsn, self.salt, self.size, crc = (
            struct.unpack_from("<8sII16sQQ8sQI", data)
        )
        assert magic == b"PYKVLOG\n" and zero == 0 and crc == crc32c(data[:64])
        assert not any(data[68:HEADER_SIZE])
        assert self.size == len(data)
        self.frames = []
        at, lsn = HEADER_SIZE, self.start_lsn
        while data[at : at + 4] == b"PKVF":
            frame = Frame(data, at, self.salt)
            assert frame.lsn == lsn and frame.durable_lsn <= lsn
            self.frames.append(frame)
            at = frame.end
            if frame.kind == END:
                break
            lsn += frame.end - frame.offset
        self.end_lsn = lsn
        self.used = at
        assert not any(data[at:]), "bytes after the last frame"


def read_store(folder):
    """(Identity, [Segment])"""
    identity = Identity((folder / "STORE").read_bytes())
    segments = [Segment(path.read_bytes()) for path in sorted(folder.glob("[0-9]*.log"))]
    lsn = 0
    for number, segment in enumerate(segments, 1):
        assert segment.sequence == number and segment.store_id == identity.store_id
        assert segment.start_lsn == lsn
        assert (segment.frames and segment.frames[-1].kind == END) == (number < len(segments))
        lsn = segment.end_lsn
    return identity, segments


def replay(segments):
    """What the log makes of an empty store."""
    items = {}
    for segment in segments:
        for frame in segment.frames:
            for kind, _, key, value in frame.records():
                if kind == PUT:
                    items[key] = value
                elif kind == DELETE:
                    items.pop(key, None)
                else:
                    items.clear()
    return items


# ---- Encoding -----------------------------------------------------------------------------------


def encode_identity(store_id, hash_key=bytes(16), version=1):
    data = struct.pack("<8sII16s16s12s", b"PYKVSTOR", version, 0, store_id, hash_key, bytes(12))
    return data + struct.pack("<I", crc32c(data))


def encode_segment_header(store_id, sequence, start_lsn, salt, size, version=1):
    data = struct.pack("<8sII16sQQ8sQ", b"PYKVLOG\n", version, 0, store_id, sequence, start_lsn, salt, size)
    return (data + struct.pack("<I", crc32c(data))).ljust(HEADER_SIZE, b"\0")


def encode_frame(lsn, durable_lsn, salt, kind, commits=()):
    payload = b"".join(
        struct.pack("<BBHI", record, i == len(commit) - 1, len(key), len(value)) + key + value
        for commit in commits
        for i, (record, key, value) in enumerate(commit)
    )
    data = struct.pack(
        "<4sIQQ8sIII", b"PKVF", len(payload), lsn, durable_lsn, salt, kind, len(commits), crc32c(payload)
    )
    data += struct.pack("<I", crc32c(data)) + payload
    return data.ljust(align(len(data)), b"\0")


class Author:
    """Writes a store without the engine: the same bytes that the engine would write."""

    STORE_ID = bytes(range(16))

    def __init__(self, folder, segment_size=65_536):
        self.folder = folder
        self.segment_size = segment_size
        folder.mkdir(mode=0o700)
        self.lsn = self.durable_lsn = self.sequence = 0
        self.segment = b""
        (folder / "STORE").write_bytes(encode_identity(self.STORE_ID))
        (folder / "LOCK").touch(mode=0o600)
        self.next_segment()

    def next_segment(self):
        if self.sequence:
            self.segment += encode_frame(self.lsn, self.lsn, self.salt, END)
            self.save()
        self.sequence += 1
        self.salt = b"salt%04d" % self.sequence
        self.segment = encode_segment_header(self.STORE_ID, self.sequence, self.lsn, self.salt, self.segment_size)

    def frame(self, kind, *commits):
        """Appends a frame. Returns its offset in the segment's file."""
        offset = len(self.segment)
        data = encode_frame(self.lsn, self.durable_lsn, self.salt, kind, commits)
        self.segment += data
        self.lsn += len(data)
        return offset

    def put(self, key, value):
        offset = self.frame(COMMITS, [(PUT, key, value)])
        self.durable_lsn = self.lsn
        return offset

    def path(self, sequence=None):
        return self.folder / f"{sequence or self.sequence:08d}.log"

    def save(self):
        assert len(self.segment) <= self.segment_size
        self.path().write_bytes(self.segment.ljust(self.segment_size, b"\0"))

    def close(self):
        self.frame(CLOSE)
        self.save()


# ---- The worked example -------------------------------------------------------------------------


def example():
    """{name: bytes} of the files in the document's worked example."""
    if not DOCUMENT.exists():
        pytest.skip("csrc/FORMAT.md is not here: this is no checkout of the repository")
    files = {}
    for name, block in re.findall(r"```hex (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        data = bytearray()
        for line in block.splitlines():
            offset, _, digits = line.partition(":")
            data = data.ljust(int(offset, 16), b"\0")
            data += bytes.fromhex(digits)
        files[name] = bytes(data)
    assert set(files) == {"STORE", "00000001.log"}
    files["00000001.log"] = files["00000001.log"].ljust(8192, b"\0")
    return files


def test_the_checksum_is_the_one_that_is_named():
    assert crc32c(b"123456789") == 0xE3069283


def test_the_example_decodes():
    files = example()
    identity = Identity(files["STORE"])
    assert identity.version == 1
    assert identity.store_id == bytes(range(16)) and identity.hash_key == bytes(range(16, 32))
    segment = Segment(files["00000001.log"])
    assert segment.version == 1 and segment.sequence == 1 and segment.start_lsn == 0
    assert segment.store_id == identity.store_id and segment.salt == bytes(range(32, 40))
    assert [(f.kind, f.lsn, f.durable_lsn, f.commits) for f in segment.frames] == [
        (COMMITS, 0, 0, 1),
        (COMMITS, 64, 64, 1),
        (CLOSE, 144, 144, 0),
    ]
    assert [f.records() for f in segment.frames] == [
        [(PUT, True, b"apple", b"red")],
        [(DELETE, False, b"apple", b""), (PUT, True, b"pear", b"green")],
        [],
    ]
    assert replay([segment]) == {b"pear": b"green"}


def test_the_example_encodes():
    """Byte for byte, from what the tables say."""
    files = example()
    store_id, salt = bytes(range(16)), bytes(range(32, 40))
    assert encode_identity(store_id, bytes(range(16, 32))) == files["STORE"]
    segment = encode_segment_header(store_id, 1, 0, salt, 8192)
    segment += encode_frame(0, 0, salt, COMMITS, [[(PUT, b"apple", b"red")]])
    segment += encode_frame(64, 64, salt, COMMITS, [[(DELETE, b"apple", b""), (PUT, b"pear", b"green")]])
    segment += encode_frame(144, 144, salt, CLOSE)
    assert segment.ljust(8192, b"\0") == files["00000001.log"]


def test_the_example_opens(tmp_path, open_store):
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    for name, data in example().items():
        (folder / name).write_bytes(data)
    store = open_store(folder)
    assert store == {b"pear": b"green"}
    assert store.recovery["clean"] and not store.recovery["created"]
    assert store.recovery["commits"] == 2 and store.recovery["records"] == 3 and store.recovery["frames"] == 3
    store.put_many({b"%d" % i: b"v" * 100 for i in range(1000)})  # more than fits in the example's segment
    store.close()
    identity, segments = read_store(folder)
    assert identity.store_id == bytes(range(16))
    assert len(replay(segments)) == 1001


def write_example(folder):
    with pykv.open(folder) as store:
        store["apple"] = "red"
        with store.batch() as batch:
            batch.put("pear", "green")
            batch.delete("apple")


def test_a_fresh_store_has_the_examples_bytes(tmp_path):
    """All of them, once the random ones are put in their place and the checksums follow."""
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        write_example(folder)
        identity, (segment,) = read_store(folder)
        if all(frame.kind != MARK for frame in segment.frames):
            break  # on a slow machine an idle moment's mark may be among them
    files = example()
    assert encode_identity(bytes(range(16)), bytes(range(16, 32))) == files["STORE"]
    assert encode_identity(identity.store_id, identity.hash_key) == (folder / "STORE").read_bytes()
    wanted = Segment(files["00000001.log"])
    fresh = (folder / "00000001.log").read_bytes()
    again = encode_segment_header(identity.store_id, 1, 0, segment.salt, 1 << 20)
    for frame in wanted.frames:
        commits, records = [], []
        for kind, last, key, value in frame.records():
            records.append((kind, key, value))
            if last:
                commits.append(records)
                records = []
        again += encode_frame(frame.lsn, frame.durable_lsn, segment.salt, frame.kind, commits)
    # The order of a batch's records is that of their hashes: the only other freedom there is.
    assert len(fresh) == 1 << 20
    batch = segment.frames[1]
    if batch.records()[0][0] == PUT:
        assert sorted(r[2:] for r in batch.records()) == sorted(r[2:] for r in wanted.frames[1].records())
        assert fresh[: batch.offset] == again[: batch.offset]
        assert fresh[batch.end :] == again[batch.end :].ljust(len(fresh) - batch.end, b"\0")
    else:
        assert fresh == again.ljust(1 << 20, b"\0")


# ---- What the engine writes, read here; what is written here, read by the engine ------------------


def test_everything_the_store_writes_decodes(tmp_path, rng):
    folder = tmp_path / "store"
    model = {}
    with pykv.open(folder) as store:
        for i in range(60):
            key, value = b"%d" % rng.randrange(30), rng.randbytes(rng.choice((0, 10, 1000, 60_000)))
            store[key] = model[key] = value
        store.clear()
        model.clear()
        for i in range(300):
            key, value = b"%d" % rng.randrange(40), rng.randbytes(rng.randrange(200))
            store[key] = model[key] = value
            if i % 3 == 0:
                store.delete(key)
                del model[key]
            if i % 20 == 0:
                many = {b"many %d" % j: b"%d" % i for j in range(30)}
                store.put_many(many)
                model.update(many)
                model[b"n"] = b"%d" % store.incr(b"n")
    identity, segments = read_store(folder)
    assert replay(segments) == model
    assert segments[-1].frames[-1].kind == CLOSE
    assert (folder / "LOCK").read_bytes() == b""
    assert sorted(p.name for p in folder.iterdir()) == ["%08d.log" % s.sequence for s in segments] + ["LOCK", "STORE"]


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


def test_what_is_encoded_here_is_read_by_the_engine(tmp_path, open_store):
    author = Author(tmp_path / "store", segment_size=8192)
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


def test_a_newer_version(tmp_path):
    for number, (store_version, log_version) in enumerate([(2, 1), (1, 2), (2, 2), (0xFFFFFFFF, 1), (0, 1)]):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        (folder / "STORE").write_bytes(encode_identity(bytes(16), version=store_version))
        header = encode_segment_header(bytes(16), 1, 0, bytes(8), 8192, version=log_version)
        (folder / "00000001.log").write_bytes(header.ljust(8192, b"\0"))
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "LOCK"}
        with pytest.raises(pykv.VersionError) as caught:
            pykv.open(folder)
        assert str(folder) in caught.value.path and str(folder) in str(caught.value)
        assert isinstance(caught.value, pykv.Error)
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "LOCK"} == before
