"""dump and load as JSON Lines: a round trip for every byte, and all or nothing for what does not parse."""

import gzip
import io
import json
import os
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pykv
from pykv import dumping, staging

ITEMS = {
    b"": b"",
    b"city": b"Paris",
    "Zoë \u2028 \U0001f600".encode(): 'quote " backslash \\ tab \t zero \0 del \x7f'.encode(),
    b"\xff\xfe": b"\x80",
    b"text": bytes(range(256)),
    b"line\nbreak": b"\r\n",
    b"surrogate": b"\xed\xa0\x80",
    b"large": b"v" * 100_000,
}


@pytest.fixture
def filled(open_store):
    store = open_store()
    store.put_many(ITEMS)
    store.put(b"expires", b"v", ttl=500)
    return store


@pytest.fixture(params=["one commit", "many commits"])
def commits(request, monkeypatch):
    """Files of any size are loaded in one commit, or in as many as can be."""
    if request.param == "many commits":
        monkeypatch.setattr(dumping, "ONE_COMMIT_FILE", -1)
        monkeypatch.setattr(staging, "BATCH_ITEMS", 2)
    return request.param


def records(store):
    return sorted(store._snapshot()._records())


def line(**fields):
    return json.dumps(fields).encode() + b"\n"


def stream(*lines):
    return io.BytesIO(b"".join(lines))


# ---- Round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "redis"])
def test_a_round_trip(filled, open_store, tmp_path, commits, format):
    file = tmp_path / "dump"
    assert pykv.dump(filled, file, format=format) == len(filled)
    other = open_store()
    other[b"more"] = b"stays"
    other[b"city"] = b"Rome"
    report = pykv.load(other, file)
    assert report == (format, len(filled), len(filled), 0) and report.items == len(filled)
    assert other.pop(b"more") == b"stays"
    assert records(other) == records(filled)


@pytest.mark.parametrize("format", ["jsonl", "redis"])
def test_a_store_without_items(open_store, tmp_path, format):
    file = tmp_path / "dump"
    assert pykv.dump(open_store(), file, format=format) == 0
    assert file.read_bytes() == b""
    assert pykv.load(open_store(), file) == ("jsonl", 0, 0, 0)


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=50), max_size=20))
def test_any_bytes(items):
    with pykv.open() as store, pykv.open() as first, pykv.open() as second:
        store.put_many(items)
        for format, other in (("jsonl", first), ("redis", second)):
            file = io.BytesIO()
            pykv.dump(store, file, format=format)
            file.seek(0)
            pykv.load(other, file)
            assert other == items


def test_what_a_dump_looks_like(open_store):
    store = open_store()
    for key, value, lines in [
        ("city", "Zoë", '{"key": "city", "value": "Zoë"}'),
        (b"\xff", "v", '{"key_base64": "/w==", "value": "v"}'),
        ("k", b"\xff\n", '{"key": "k", "value_base64": "/wo="}'),
    ]:
        store.clear()
        store[key] = value
        file = io.BytesIO()
        pykv.dump(store, file)
        assert file.getvalue().decode() == lines + "\n"
    store.clear()
    store.put("k", "v", ttl=50)
    moment = store._expiry_of("k")
    file = io.BytesIO()
    pykv.dump(store, file)
    assert json.loads(file.getvalue()) == {"key": "k", "value": "v", "expiry": moment}
    file = io.BytesIO()
    pykv.dump(store, file, format="redis")
    assert file.getvalue() == b"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$4\r\nPXAT\r\n$13\r\n%d\r\n" % moment


def test_a_dump_shows_one_moment(open_store):
    """What is written while it is made does not appear in it."""
    store = open_store()
    before = {b"%d" % i: b"v" * 10_000 for i in range(1000)}
    store.put_many(before)
    calls = []

    def progress(done, total):
        calls.append((done, total))
        store.clear()
        store[b"new"] = b"w"

    file = io.BytesIO()
    assert pykv.dump(store, file, progress=progress) == 1000
    assert calls[-1] == (1000, 1000) and 0 < calls[0][0] < 1000
    assert all(0 <= done <= total == 1000 for done, total in calls)
    assert store == {b"new": b"w"}
    file.seek(0)
    with pykv.open() as other:
        pykv.load(other, file)
        assert other == before


# ---- Where a dump goes to ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [str, os.fsencode, lambda p: p], ids=["str", "bytes", "path"])
def test_paths_of_every_kind(filled, tmp_path, open_store, shape):
    name = shape(tmp_path / "dump ü")
    pykv.dump(filled, name)
    other = open_store()
    pykv.load(other, name)
    assert records(other) == records(filled)


def test_a_file_is_replaced_only_by_a_whole_dump(filled, tmp_path):
    file = tmp_path / "dump"
    file.write_bytes(b"precious")
    file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)

    def progress(done, total):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pykv.dump(filled, link, progress=progress)
    assert file.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["dump", "link"]
    pykv.dump(filled, link)
    assert file.read_bytes().count(b'{"key') == len(filled)
    assert link.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["dump", "link"]


def test_a_dump_is_on_disk_before_it_takes_the_place(filled, tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), replace(*a)))
    pykv.dump(filled, tmp_path / "dump")
    assert calls == ["sync", "replace", "sync"]


def test_a_pipe_is_written_as_it_is(filled, tmp_path):
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    pykv.dump(filled, pipe)
    reader.join()
    assert got[0].count(b"\n") == len(filled) and stat.S_ISFIFO(pipe.stat().st_mode)


def test_where_no_file_can_be(filled, tmp_path):
    for path in (tmp_path, tmp_path / "no" / "such", "", tmp_path / "a\0b"):
        with pytest.raises((OSError, ValueError)):
            pykv.dump(filled, path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError):
        pykv.dump(filled, "/dev/full")


def test_what_is_no_file(filled):
    for call in (pykv.dump, pykv.load):
        for file in (5, None, object(), io.StringIO(), sys.stdout, [b"x"]):
            with pytest.raises(TypeError):
                call(filled, file)
    assert len(filled) == len(ITEMS) + 1


def test_a_raw_file(filled, tmp_path, open_store):
    with open(tmp_path / "dump", "wb", buffering=0) as file:
        pykv.dump(filled, file)
        assert not file.closed
    other = open_store()
    with open(tmp_path / "dump", "rb", buffering=0) as file:
        pykv.load(other, file)
        assert not file.closed
    assert records(other) == records(filled)


def test_a_file_that_is_in_use_goes_on_where_it_is(open_store):
    store = open_store()
    store[b"k"] = b"v"
    file = io.BytesIO()
    file.write(b"head\n")
    pykv.dump(store, file)
    assert file.getvalue() == b'head\n{"key": "k", "value": "v"}\n' and not file.closed
    file.seek(5)
    other = open_store()
    pykv.load(other, file)
    assert other == {b"k": b"v"} and not file.closed
    file = io.BytesIO(b'head\n{"key": "k"}\n')
    file.seek(5)
    with pytest.raises(pykv.LoadError) as caught:
        pykv.load(other, file)
    assert caught.value.line == 1


def test_compressed(filled, tmp_path, open_store):
    with gzip.open(tmp_path / "dump.gz", "wb") as file:
        pykv.dump(filled, file)
    other = open_store()
    with gzip.open(tmp_path / "dump.gz", "rb") as file:
        pykv.load(other, file)
    assert records(other) == records(filled)


@pytest.mark.parametrize("partial", [False, True])
def test_from_a_pipe(open_store, commits, partial):
    """It cannot seek, and is read twice all the same."""
    ours, theirs = os.pipe()
    with open(theirs, "wb") as out:
        out.write(b"".join(line(key=str(i), value="v") for i in range(100)))
    store = open_store()
    with open(ours, "rb") as file:
        assert pykv.load(store, file, partial=partial).items == 100
    assert len(store) == 100


# ---- What a load takes -------------------------------------------------------------------------


def test_from_a_pipe_that_does_not_wait(open_store):
    """What it has now is not all."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with open(reader, "rb") as source, open(writer, "wb", buffering=0) as sink:
        sink.write(b'{"key": "k", "value": "v"}\n')
        store = open_store()
        with pytest.raises(BlockingIOError):
            pykv.load(store, source)
    assert len(store) == 0


def test_what_a_person_may_write(open_store, commits):
    store = open_store()
    text = b'\n {"value":"1" ,"key":"a"}\r\n\n\t\n{"key":"b","value_base64":"/w=="}\n  {"key": "c", "value": "\\u00fc"}'
    assert pykv.load(store, io.BytesIO(text)) == ("jsonl", 3, 3, 0)
    assert store == {b"a": b"1", b"b": b"\xff", b"c": "ü".encode()}


def test_the_last_of_several_counts(open_store, commits):
    store = open_store()
    report = pykv.load(store, stream(*(line(key="k", value=str(i)) for i in range(7))))
    assert store == {b"k": b"6"} and report.items == 7


def test_items_that_have_expired(open_store, commits):
    store = open_store()
    store[b"old"] = b"v"
    moment = store._clock() + 100_000
    report = pykv.load(
        store,
        stream(
            line(key="a", value="1", expiry=1),
            line(key="b", value="2", expiry=moment),
            line(key="c", value="3", expiry=store._clock() - 1),
            line(key="old", value="4", expiry=5),
        ),
    )
    assert report == ("jsonl", 4, 1, 3)
    assert store._expiry_of(b"b") == moment and b"a" not in store and b"c" not in store
    assert b"old" not in store


BAD_LINES = {
    "no JSON": (b"hello\n", "not JSON"),
    "cut": (b'{"key": "k", "va', "not JSON"),
    "two objects": (b'{"key": "k", "value": "v"} {}\n', "not JSON"),
    "no object": (b'["key", "value"]\n', "not a JSON object"),
    "a number": (b"5\n", "not a JSON object"),
    "no key": (line(value="v"), '"key"'),
    "no value": (line(key="v"), '"value"'),
    "two keys": (line(key="v", key_base64="dg==", value="v"), '"key"'),
    "a name twice": (b'{"key": "k", "key": "l", "value": "v"}\n', "twice"),
    "a number as value": (line(key="k", value=5), '"value" must be a string'),
    "null": (line(key="k", value=None), '"value"'),
    "a list": (line(key=["k"], value="v"), '"key" must be a string'),
    "a number as base64": (line(key_base64=5, value="v"), '"key" must be a string'),
    "no base64": (line(key="k", value_base64="a"), "base64"),
    "bad base64": (line(key="k", value_base64="____"), "base64"),
    "no ASCII base64": (line(key="k", value_base64="ü"), "base64"),
    "half a surrogate": (b'{"key": "\\ud800", "value": "v"}\n', "surrogate"),
    "no UTF-8": (b'{"key": "\xff", "value": "v"}\n', "UTF-8"),
    "unknown field": (line(key="k", value="v", ttl=5), '"ttl"'),
    "expiry 0": (line(key="k", value="v", expiry=0), '"expiry"'),
    "expiry below 0": (line(key="k", value="v", expiry=-5), '"expiry"'),
    "expiry too late": (line(key="k", value="v", expiry=2**48 + 1), '"expiry"'),
    "expiry as text": (line(key="k", value="v", expiry="5"), '"expiry"'),
    "expiry as float": (line(key="k", value="v", expiry=5.5), '"expiry"'),
    "expiry as bool": (line(key="k", value="v", expiry=True), '"expiry"'),
    "long key": (line(key="k" * 65_536, value="v"), "65536"),
    "deep": (b"[" * 100_000 + b"\n", "not JSON"),
    "many digits": (b'{"key": "k", "value": "v", "expiry": ' + b"9" * 5000 + b"}\n", "JSON|expiry"),
}


@pytest.mark.parametrize("bad, message", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_does_not_parse(open_store, tmp_path, commits, bad, message):
    store = open_store()
    store[b"old"] = b"v"
    good = [line(key=str(i), value="v") for i in range(5)]
    file = tmp_path / "dump"
    file.write_bytes(b"".join(good[:4]) + b"\n" + bad.rstrip(b"\n") + b"\n" + good[4])
    with pytest.raises(pykv.LoadError, match=message) as caught:
        pykv.load(store, file)
    error = caught.value
    assert isinstance(error, ValueError) and isinstance(error, pykv.Error)
    assert (error.path, error.line, error.offset, error.report) == (str(file), 6, None, None)
    assert f"{file}: line 6: " in str(error)
    assert store == {b"old": b"v"}

    with pytest.raises(pykv.LoadError, match="line 6: ") as caught:
        pykv.load(store, file, partial=True)
    assert caught.value.report == ("jsonl", 4, 4, 0)
    assert store == {b"old": b"v", **{b"%d" % i: b"v" for i in range(4)}}


def test_a_line_without_an_end(open_store, monkeypatch, commits):
    monkeypatch.setattr(dumping, "LINE_MAX", 1000)
    store = open_store()
    with pytest.raises(pykv.LoadError, match="line 2: .*1000 bytes"):
        pykv.load(store, stream(line(key="a", value="b"), b'{"key": "' + b"k" * 5000))
    assert len(store) == 0


@pytest.mark.parametrize(
    "head, message",
    [
        (b"hello", "neither"),
        (b"SET a b\r\n", "neither"),
        (b"\xef\xbb\xbf{}", "neither"),
        (b"[]", "neither"),
        (b"\x00" * 100, "neither"),
        (b"REDIS0011\xfa", "aof-use-rdb-preamble no"),
        (b" " * 100 + b"x", "neither"),
    ],
)
def test_files_of_another_kind(open_store, head, message):
    store = open_store()
    with pytest.raises(pykv.LoadError, match=message):
        pykv.load(store, io.BytesIO(head))
    with pytest.raises(pykv.LoadError, match=message):
        pykv.load(store, io.BytesIO(head), partial=True)
    assert len(store) == 0


def test_a_file_that_is_not_there(open_store, tmp_path):
    store = open_store()
    with pytest.raises(FileNotFoundError):
        pykv.load(store, tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        pykv.load(store, tmp_path)


# ---- Arguments, progress, failures -------------------------------------------------------------


def test_wrong_arguments(filled, tmp_path):
    file = tmp_path / "dump"
    with pytest.raises(ValueError, match="format"):
        pykv.dump(filled, file, format="xml")
    with pytest.raises(TypeError, match="progress"):
        pykv.dump(filled, file, progress=5)
    with pytest.raises(TypeError):
        pykv.dump(filled, file, "jsonl")
    assert not file.exists()
    pykv.dump(filled, file)
    with pytest.raises(TypeError, match="progress"):
        pykv.load(filled, file, progress=5)
    with pytest.raises(TypeError):
        pykv.load(filled, file, True)


@pytest.mark.parametrize("format", ["jsonl", "redis"])
def test_progress_of_a_load(filled, open_store, tmp_path, commits, format):
    file = tmp_path / "dump"
    pykv.dump(filled, file, format=format)
    size, calls = file.stat().st_size, []
    pykv.load(open_store(), file, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls) and calls[-1][0] == calls[-1][1]
    assert {total for _, total in calls} == {size if commits == "one commit" else 3 * size}


def test_progress_is_not_called_too_often(open_store, tmp_path):
    import time

    store = open_store()
    store.put_many({b"%d" % i: b"v" * 50 for i in range(30_000)})
    for call in (
        lambda progress: pykv.dump(store, tmp_path / "dump", progress=progress),
        lambda progress: pykv.load(open_store(), tmp_path / "dump", progress=progress),
    ):
        calls, start = [], time.monotonic()
        call(lambda *_: calls.append(1))
        assert 1 <= len(calls) <= 20 * (time.monotonic() - start) + 3


def test_an_exception_of_progress(filled, open_store, tmp_path):
    file = tmp_path / "dump"
    pykv.dump(filled, file)

    def progress(done, total):
        raise ZeroDivisionError

    store = open_store()
    with pytest.raises(ZeroDivisionError):
        pykv.load(store, file, progress=progress)
    assert len(store) == 0


def test_closed_and_read_only(filled, open_store, path, tmp_path):
    file = tmp_path / "dump"
    pykv.dump(filled, file)
    pykv.open(path).close()
    store = open_store(path, read_only=True)
    assert pykv.dump(store, io.BytesIO()) == 0
    with pytest.raises(pykv.ReadOnlyError):
        pykv.load(store, file)
    store.close()
    with pytest.raises(pykv.ClosedError):
        pykv.load(store, file)
    before = file.read_bytes()
    with pytest.raises(pykv.ClosedError):
        pykv.dump(store, file)
    assert file.read_bytes() == before


def test_a_load_into_a_store_on_disk(filled, disk, tmp_path, commits):
    file = tmp_path / "dump"
    pykv.dump(filled, file)
    with disk.open() as store:
        before = store.stats()["commits"]
        pykv.load(store, file)
        assert (store.stats()["commits"] - before == 1) == (commits == "one commit")
    with disk.open() as store:
        assert records(store) == records(filled)


def test_more_than_one_commit_can_have(open_store, monkeypatch):
    """A small file that makes large values: found out on the way, and then loaded in several commits."""
    monkeypatch.setattr(dumping, "ONE_COMMIT_FILE", 1 << 30)
    monkeypatch.setattr(staging, "ONE_COMMIT_BYTES", 5000)
    store = open_store()
    lines = [line(key=str(i), value="v" * 1000) for i in range(20)]
    assert pykv.load(store, stream(*lines)).items == 20
    assert len(store) == 20
    store.clear()
    with pytest.raises(pykv.LoadError, match="line 21"):
        pykv.load(store, stream(*lines, b"x"))
    assert len(store) == 0
