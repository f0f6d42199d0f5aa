"""Damaged files: what was acknowledged is served as it was written, or not at all.

Each damage is done to a copy. An open that is refused changes no byte of any file.
"""

import hashlib
import os
import shutil
import stat

import pytest

import pykv
from conftest import assert_holds
from test_format import CLOSE, COMMITS, FRAME_SIZE, HEADER_SIZE, MARK, Author, read_store


def fingerprint(folder):
    """Names, modes and contents of everything below the folder."""
    result = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        data = b""
        if stat.S_ISREG(info.st_mode):
            data = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(info.st_mode):
            data = os.readlink(path)
        result[str(path.relative_to(folder))] = (oct(info.st_mode), info.st_size, data)
    return result


def refused(folder, kind=pykv.CorruptionError, **options):
    """The exception of an open that must fail and change nothing: tried twice."""
    before = fingerprint(folder)
    for _ in range(2):
        with pytest.raises(kind) as caught:
            pykv.open(folder, **options).close()
        assert fingerprint(folder) == before, "a refused open changed something"
    return caught.value


def check_place(error, path, offset=None):
    assert error.path == str(path), error
    assert str(path) in str(error)
    if offset is not None:
        assert error.offset == offset, error
        assert str(offset) in str(error)


def change(path, offset, data=None):
    """Writes data there, or flips one bit."""
    with open(path, "r+b") as file:
        file.seek(offset)
        if data is None:
            data = bytes([file.read(1)[0] ^ 0x10])
            file.seek(offset)
        file.write(data)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store of three segments that was closed properly; (folder, what is in it, its segments)."""
    folder = tmp_path_factory.mktemp("damage") / "store"
    model = {}
    with pykv.open(folder) as store:
        for i in range(40):
            store[b"%d" % i] = model[b"%d" % i] = b"%d " % i * 1000
        store.put_many({b"many %d" % i: b"v" * 40 for i in range(100)})
        model.update({b"many %d" % i: b"v" * 40 for i in range(100)})
        for i in range(16):
            store[b"large %d" % (i % 3)] = model[b"large %d" % (i % 3)] = b"%d" % i * 250_000
        store.delete(b"7")
        del model[b"7"]
        store.incr(b"n")
        model[b"n"] = b"1"
    _, segments = read_store(folder)
    assert len(segments) >= 3 and segments[-1].frames[-1].kind == CLOSE
    return folder, model, segments


@pytest.fixture
def copy(original, tmp_path):
    folder = tmp_path / "store"
    shutil.copytree(original[0], folder)
    return folder


def log(folder, number):
    return folder / f"{number:08d}.log"


def test_the_original_opens(copy, original, open_store):
    store = open_store(copy)
    assert_holds(store, original[1])
    assert store.recovery["clean"]


def test_a_block_that_is_an_old_one_again(tmp_path):
    """A disk that has lost writes: the log seems to end where it was closed once, before what was acknowledged."""
    folder, manual = tmp_path / "store", {"checkpoint_log_ratio": None}
    with pykv.open(folder, **manual) as store:
        store[b"a"] = b"1"
    closed = log(folder, 1).read_bytes()
    (end,) = (frame for frame in read_store(folder)[1][0].frames if frame.kind == CLOSE)
    with pykv.open(folder, **manual) as store:
        for i in range(100):
            store[b"%d" % i] = b"acknowledged"
    change(log(folder, 1), 4096, closed[4096:8192])
    check_place(refused(folder, **manual), log(folder, 1), end.end)


def test_what_stands_behind_a_close_frame_is_not_reached(tmp_path, open_store):
    """As before, and the disk has lost the first frame behind the mark, too: nothing says that it was there."""
    folder, manual = tmp_path / "store", {"checkpoint_log_ratio": None, "sync": "never"}
    with pykv.open(folder, **manual) as store:
        store[b"a"] = b"1"
    closed = log(folder, 1).read_bytes()
    (end,) = (frame for frame in read_store(folder)[1][0].frames if frame.kind == CLOSE)
    with pykv.open(folder, **manual) as store:
        store[b"b"] = b"lost"
        store[b"c"] = b"a trace of it is left"
        shutil.copytree(folder, tmp_path / "killed")
    folder = tmp_path / "killed"
    lost, kept = read_store(folder)[1][0].frames[-2:]
    assert (lost.offset, kept.offset) == (end.end, lost.end), "two frames behind the mark"
    change(log(folder, 1), end.offset, closed[end.offset : lost.end])
    with open_store(folder, **manual) as store:
        assert store.recovery["bytes_cut"] > 0 and not store.recovery["clean"]
        assert dict(store) == {b"a": b"1"}
        store[b"d"] = b"kept"  # as long as what was lost
        shutil.copytree(folder, tmp_path / "again")
    with open_store(tmp_path / "again", **manual) as store:
        assert dict(store) == {b"a": b"1", b"d": b"kept"}


# ---- Flipped bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 7, 16, 31, 32, 47, 60, 63])
def test_the_identity_is_damaged(copy, offset):
    change(copy / "STORE", offset)
    check_place(refused(copy), copy / "STORE")


@pytest.mark.parametrize("what", ["cut", "empty", "longer"])
def test_the_identity_has_another_size(copy, what):
    data = (copy / "STORE").read_bytes()
    (copy / "STORE").write_bytes({"cut": data[:-1], "empty": b"", "longer": data + b"\0"}[what])
    check_place(refused(copy), copy / "STORE")


@pytest.mark.parametrize("offset", [0, 16, 32, 40, 48, 56, 64])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_segments_header_is_damaged(copy, original, which, offset):
    path = log(copy, original[2][which].sequence)
    change(path, offset)
    check_place(refused(copy), path)


# Every field of a frame's header, and its payload's first byte.
@pytest.mark.parametrize("field", [0, 4, 8, 16, 24, 32, 36, 40, 44, 48])
@pytest.mark.parametrize("which", ["first", "middle", "last of a segment", "last of all"])
def test_an_acknowledged_frame_is_damaged(copy, original, which, field):
    segments = original[2]
    commits = [[f for f in s.frames if f.kind == COMMITS] for s in segments]
    segment, frame = {
        "first": (segments[0], commits[0][0]),
        "middle": (segments[1], commits[1][len(commits[1]) // 2]),
        "last of a segment": (segments[0], commits[0][-1]),
        "last of all": (segments[-1], commits[-1][-1]),
    }[which]
    path = log(copy, segment.sequence)
    change(path, frame.offset + field)
    check_place(refused(copy), path, frame.offset)


def test_the_end_frame_of_a_segment_is_not_needed(copy, original, open_store):
    """The next segment's start says where this one ends: nothing is lost with it."""
    segment = original[2][0]
    change(log(copy, segment.sequence), segment.frames[-1].offset + 8)
    assert_holds(open_store(copy), original[1])


def test_any_flipped_bit_is_seen_or_means_nothing(original, tmp_path, rng):
    """Wherever it is: the open is refused with the place, or everything is there as it was written."""
    folder, model, segments = original
    refusals = 0
    places = []
    for segment in segments:
        for frame in segment.frames:
            places += [(segment, rng.randrange(frame.offset, frame.end)) for _ in range(2)]
        places += [(segment, rng.randrange(0, 68)), (segment, rng.randrange(68, HEADER_SIZE))]
        places += [(segment, rng.randrange(segment.used, segment.size)) for _ in range(3)]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = fingerprint(copy)
    for segment, offset in places:
        path = log(copy, segment.sequence)
        bit = 1 << rng.randrange(8)
        old = path.read_bytes()[offset]
        change(path, offset, bytes([old ^ bit]))
        damaged = fingerprint(copy)
        try:
            with pykv.open(copy) as store:
                assert_holds(store, model)
        except pykv.CorruptionError as error:
            refusals += 1
            check_place(error, path)
            assert fingerprint(copy) == damaged
            change(path, offset, bytes([old]))
        else:
            shutil.rmtree(copy)
            shutil.copytree(folder, copy)
        assert fingerprint(copy) == before
    assert refusals > len(places) // 3


def test_a_block_of_a_frame_is_zero(copy, original, rng):
    """As after a lost write of a sector."""
    segment = original[2][1]
    frame = max(segment.frames, key=lambda f: len(f.payload))
    change(log(copy, segment.sequence), (frame.offset + 4096) & ~511, bytes(512))
    check_place(refused(copy), log(copy, segment.sequence), frame.offset)


def test_a_read_only_open_refuses_damage_too(copy, original):
    frame = original[2][0].frames[0]
    change(log(copy, 1), frame.payload_offset)
    check_place(refused(copy, read_only=True), log(copy, 1), frame.offset)


def test_after_a_refusal_the_file_can_be_put_back(copy, original, open_store):
    frame = original[2][0].frames[0]
    change(log(copy, 1), frame.payload_offset)
    refused(copy)
    change(log(copy, 1), frame.payload_offset)
    assert_holds(open_store(copy), original[1])


# ---- Files that are missing, cut, or another's ----------------------------------------------------


@pytest.mark.parametrize("which", ["first", "middle", "last", "all"])
def test_a_segment_is_missing(copy, original, which):
    count = len(original[2])
    gone = {"first": [1], "middle": [2], "last": [count], "all": range(1, count + 1)}[which]
    for number in gone:
        log(copy, number).unlink()
    error = refused(copy)
    assert error.path.startswith(str(copy)), error


def test_the_identity_is_missing(copy):
    (copy / "STORE").unlink()
    refused(copy, (pykv.CorruptionError, pykv.StorageError))


@pytest.mark.parametrize("size", ["empty", "in the header", "only the header", "in a frame", "less a byte", "a byte more"])
@pytest.mark.parametrize("which", [1, 2, -1])
def test_a_segment_has_another_size(copy, original, which, size):
    segment = original[2][which - 1] if which > 0 else original[2][-1]
    path = log(copy, segment.sequence)
    sizes = {
        "empty": 0,
        "in the header": 30,
        "only the header": HEADER_SIZE,
        "in a frame": segment.frames[0].payload_offset + 3,
        "less a byte": segment.size - 1,
        "a byte more": segment.size + 1,
    }
    os.truncate(path, sizes[size])
    check_place(refused(copy), path)


def test_segments_change_places(copy):
    log(copy, 1).rename(copy / "x")
    log(copy, 2).rename(log(copy, 1))
    (copy / "x").rename(log(copy, 2))
    refused(copy)


def test_a_segment_of_another_store(copy, original, tmp_path):
    other = tmp_path / "other"
    with pykv.open(other) as store:
        for i in range(16):
            store[b"%d" % i] = b"x" * 250_000
    for number in (1, 2):
        shutil.rmtree(copy)
        shutil.copytree(original[0], copy)
        shutil.copyfile(log(other, number), log(copy, number))
        check_place(refused(copy), log(copy, number))


def test_the_identity_of_another_store(copy, tmp_path):
    with pykv.open(tmp_path / "other") as store:
        store[b"k"] = b"v"
    shutil.copyfile(tmp_path / "other" / "STORE", copy / "STORE")
    refused(copy)


def test_an_older_copy_of_a_segment(tmp_path):
    """The last segment put back from a copy that was made before more was written to it: not seen if it is
    the very last and whole; but never a mixture."""
    folder = tmp_path / "store"
    with pykv.open(folder) as store:
        store[b"a"] = b"1"
    shutil.copyfile(log(folder, 1), tmp_path / "old")
    with pykv.open(folder) as store:
        store[b"b"] = b"2" * 700_000
        store[b"c"] = b"3" * 700_000
    assert log(folder, 2).exists()
    shutil.copyfile(tmp_path / "old", log(folder, 1))
    refused(folder)


def test_a_gap_in_the_numbers(copy, original):
    last = len(original[2])
    log(copy, last).rename(log(copy, last + 1))
    refused(copy)


def test_a_lock_file_is_not_missed(copy, original, open_store):
    (copy / "LOCK").unlink()
    assert_holds(open_store(copy), original[1])


def test_a_spare_segment_of_a_crash_is_removed(copy, original, open_store):
    (copy / "spare.log").write_bytes(b"garbage")
    store = open_store(copy)
    assert_holds(store, original[1])
    store.close()
    assert not (copy / "spare.log").exists()


# ---- Torn tails ---------------------------------------------------------------------------------


def author_with_a_last_frame(folder):
    """A store whose last frame nobody was told of: nothing knows it as durable."""
    author = Author(folder, segment_size=16_384)
    for i in range(10):
        author.put(b"%d" % i, b"v" * 50 * i)
    author.durable_lsn = author.lsn
    offset = author.frame(COMMITS, [(1, b"last", b"l" * 700)], [(1, b"and", b"more"), (1, b"many", b"m" * 300)])
    end = len(author.segment)
    author.save()
    return author, offset, end, {b"%d" % i: b"v" * 50 * i for i in range(10)}


def test_a_last_frame_that_is_whole_is_kept(tmp_path, open_store):
    author, _, _, model = author_with_a_last_frame(tmp_path / "store")
    store = open_store(author.folder)
    assert_holds(store, {**model, b"last": b"l" * 700, b"and": b"more", b"many": b"m" * 300})
    assert store.recovery["bytes_cut"] == 0 and store.recovery["clean"] is False


@pytest.mark.parametrize("garbage", [b"\0", b"\xff", b"PKVF"])
def test_a_torn_last_frame_is_cut(tmp_path, garbage):
    """From each place on, the rest of the frame is not what was written."""
    template, offset, end, model = author_with_a_last_frame(tmp_path / "template")
    steps = [1, 2, 4, 5, 8, 15, 16, 17, 31, 32, 44, 47, 48, 49, 60, *range(64, end - offset, 97), end - offset - 30]
    for step in steps:
        folder = tmp_path / f"store {step}"
        shutil.copytree(template.folder, folder)
        path = log(folder, 1)
        rest = end - offset - step
        change(path, offset + step, (garbage * rest)[:rest])
        with pykv.open(folder) as store:
            assert_holds(store, model)
            assert 0 < store.recovery["bytes_cut"] <= end - offset
            assert store.recovery["clean"] is False
            assert (folder / "torn.bin").exists()
            store[b"after"] = b"a"
        with pykv.open(folder) as store:
            assert_holds(store, {**model, b"after": b"a"})
            assert store.recovery["bytes_cut"] == 0 and store.recovery["clean"]
        read_store(folder)


def test_what_was_cut_is_kept_aside(tmp_path):
    author, offset, end, model = author_with_a_last_frame(tmp_path / "store")
    change(author.path(), offset + 60)
    torn = author.path().read_bytes()[offset:end]
    with pykv.open(author.folder) as store:
        assert store.recovery["bytes_cut"] == len(torn.rstrip(b"\0"))
    assert torn.rstrip(b"\0") in (author.folder / "torn.bin").read_bytes()


def test_several_torn_frames(tmp_path, open_store):
    """The first of three frames that nobody was told of is torn: the others go with it."""
    author, offset, end, model = author_with_a_last_frame(tmp_path / "store")
    for i in range(2):
        author.frame(COMMITS, [(1, b"later %d" % i, b"v")])
    author.save()
    change(author.path(), offset + 60)
    store = open_store(author.folder)
    assert_holds(store, model)
    assert store.recovery["bytes_cut"] > end - offset


def test_a_frame_that_a_later_one_knows_is_no_torn_tail(tmp_path):
    """The rule's other side: the same damage, and one frame behind it that says it was on disk."""
    for kind in (COMMITS, MARK, CLOSE):
        author, offset, end, model = author_with_a_last_frame(tmp_path / f"store {kind}")
        author.durable_lsn = author.lsn
        author.frame(kind, *([[(1, b"k", b"v")]] if kind == COMMITS else []))
        author.save()
        change(author.path(), offset + 60)
        check_place(refused(author.folder), author.path(), offset)


def test_a_hidden_frame_of_another_place_proves_nothing(tmp_path, open_store):
    """What looks like a frame inside of a value, or with another salt or place, is no evidence."""
    from test_format import encode_frame

    author = Author(tmp_path / "store", segment_size=32_768)
    author.put(b"a", b"1")
    offset = len(author.segment)
    other_salt = encode_frame(author.lsn + 1024, author.lsn + 1024, b"othersal", MARK)
    other_place = encode_frame(author.lsn + 9999 * 16, author.lsn + 9999 * 16, author.salt, MARK)
    knows_less = encode_frame(author.lsn + 1024, author.lsn, author.salt, MARK)
    author.frame(COMMITS, [(1, b"b", b"2" * 300)])
    author.save()
    for fake in (other_salt, other_place, knows_less):
        change(author.path(), offset + 1024, fake)
        change(author.path(), offset + FRAME_SIZE + 20, b"\xee")
        store = open_store(author.folder)
        assert store == {b"a": b"1"}
        store.close()
        shutil.rmtree(author.folder)
        author = Author(tmp_path / "store", segment_size=32_768)
        author.put(b"a", b"1")
        author.frame(COMMITS, [(1, b"b", b"2" * 300)])
        author.save()


def test_garbage_behind_the_last_frame(tmp_path, open_store):
    author = Author(tmp_path / "store")
    author.put(b"a", b"1")
    author.save()
    change(author.path(), len(author.segment) + 160, b"garbage")
    store = open_store(author.folder)
    assert store == {b"a": b"1"}
    store[b"b"] = b"2"
    store.close()
    assert open_store(author.folder) == {b"a": b"1", b"b": b"2"}


def test_valid_frames_with_nonsense_inside(tmp_path):
    """Checksums fit, and what they cover is no list of records: damage, never a crash."""
    import struct

    from test_format import align, crc32c

    payloads = [
        b"\x01",
        b"\x09\x01\x01\x00\x01\x00\x00\x00kv",  # a kind that is none
        b"\x01\x01\xff\xff\x01\x00\x00\x00kv",  # a key longer than the payload
        b"\x01\x01\x01\x00\xff\xff\xff\xffkv",  # a value longer than the payload
        b"\x01\x01\x01\x00\x01\x00\x00\x20kv",  # a value over the limit
        b"\x01\x00\x01\x00\x01\x00\x00\x00kv",  # a commit without an end
        b"\x02\x01\x01\x00\x01\x00\x00\x00kv",  # a deletion with a value
        b"\x03\x01\x01\x00\x00\x00\x00\x00k",  # a clear with a key
        b"\x01\x81\x01\x00\x01\x00\x00\x00kv",  # an unknown flag
    ]
    for number, payload in enumerate(payloads):
        for durable in (False, True):
            author = Author(tmp_path / f"{number} {durable}")
            author.put(b"a", b"1")
            offset = len(author.segment)
            data = struct.pack("<4sIQQ8sIII", b"PKVF", len(payload), author.lsn, author.durable_lsn, author.salt, COMMITS, 1, crc32c(payload))  # fmt: skip
            data += struct.pack("<I", crc32c(data)) + payload
            author.segment += data.ljust(align(len(data)), b"\0")
            author.lsn += align(len(data))
            if durable:
                author.durable_lsn = author.lsn
                author.frame(CLOSE)
            author.save()
            try:
                with pykv.open(author.folder) as store:
                    store._verify()
                    assert {k: v for k, v in store.items() if k != b"k"} == {b"a": b"1"}, payload
            except pykv.CorruptionError as error:
                check_place(error, author.path())


def test_random_bytes_instead_of_a_log(tmp_path, rng):
    for size in (0, 10, 5000, 100_000):
        folder = tmp_path / str(size)
        with pykv.open(folder) as store:
            store[b"k"] = b"v"
        log(folder, 1).write_bytes(rng.randbytes(size))
        check_place(refused(folder), log(folder, 1))


# ---- What else may lie in a directory ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["STORE", "00000001.log", "LOCK"])
def test_a_symbolic_link_in_the_store_is_refused(copy, tmp_path, name):
    target = tmp_path / "elsewhere"
    (copy / name).rename(target)
    (copy / name).symlink_to(target)
    before = target.read_bytes()
    refused(copy, pykv.Error)
    assert target.read_bytes() == before


@pytest.mark.parametrize("name", ["spare.log", "torn.bin", "STORE.tmp"])
def test_a_symbolic_link_under_a_name_that_is_written(tmp_path, name, open_store):
    """Its target is neither cut, nor written, nor removed, whether the open is refused or not."""
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    author, offset, _, model = author_with_a_last_frame(tmp_path / "store")
    change(author.path(), offset + 60)
    (author.folder / name).symlink_to(target)
    try:
        store = pykv.open(author.folder)
    except pykv.Error:
        pass
    else:
        assert_holds(store, model)
        store.put_many({b"%d" % i: b"v" * 1000 for i in range(2000)})
        store.close()
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["STORE", "00000001.log", "LOCK", "spare.log", "torn.bin"])
def test_a_directory_instead_of_a_file(copy, name):
    path = copy / name
    if path.exists():
        path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")
    try:
        pykv.open(copy).close()
    except pykv.Error:
        pass
    assert (path / "inside").read_text() == "x"


def test_a_fifo_instead_of_a_file(copy):
    """Opening it must not wait for somebody to write into it."""
    for name in ("00000001.log", "STORE", "LOCK"):
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(pykv.Error):
            pykv.open(copy)
        (copy / name).unlink()
        (copy / name).write_bytes(b"")


def test_a_file_that_is_nothing_of_ours_is_left_alone(copy, original, open_store):
    (copy / "README").write_text("mine")
    (copy / "backup").mkdir()
    (copy / "backup" / "00000001.log").write_bytes(b"x")
    store = open_store(copy)
    assert_holds(store, original[1])
    store[b"k"] = b"v"
    store.close()
    assert (copy / "README").read_text() == "mine"
    assert (copy / "backup" / "00000001.log").read_bytes() == b"x"
