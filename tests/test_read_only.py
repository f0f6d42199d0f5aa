"""read_only=True: everything can be read, and no byte changes."""

import pytest

import pykv
from test_damage import author_with_a_last_frame, change, fingerprint
from test_format import FRAME_SIZE

ITEMS = {b"%d" % i: b"v" * i for i in range(100)}

WRITES = {
    "put": lambda s: s.put(b"k", b"v"),
    "put with sync": lambda s: s.put(b"k", b"v", sync=True),
    "setitem": lambda s: s.__setitem__(b"k", b"v"),
    "delete": lambda s: s.delete(b"1"),
    "delete of nothing": lambda s: s.delete(b"nothing"),
    "delitem": lambda s: s.__delitem__(b"1"),
    "put_many": lambda s: s.put_many({b"k": b"v"}),
    "update": lambda s: s.update({b"k": b"v"}),
    "delete_many": lambda s: s.delete_many([b"1"]),
    "incr": lambda s: s.incr(b"n"),
    "replace": lambda s: s.replace(b"1", b"v", expected=b"v"),
    "setdefault": lambda s: s.setdefault(b"k", b"v"),
    "pop": lambda s: s.pop(b"1"),
    "popitem": lambda s: s.popitem(),
    "clear": lambda s: s.clear(),
}


@pytest.fixture
def closed(path):
    with pykv.open(path) as store:
        store.put_many(ITEMS)
    return path


def test_reading(closed, open_store):
    before = fingerprint(closed)
    store = open_store(closed, read_only=True)
    assert store == ITEMS
    assert store[b"5"] == b"v" * 5 and b"5" in store and len(store) == 100
    assert store.get_many([b"5", b"none"]) == [b"v" * 5, None]
    assert store.view(b"99") == b"v" * 99
    assert sorted(store) == sorted(ITEMS)
    assert store.recovery["clean"] and store.stats()["entries"] == 100
    store.close()
    assert fingerprint(closed) == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writing(closed, open_store, write):
    before = fingerprint(closed)
    store = open_store(closed, read_only=True)
    with pytest.raises(pykv.ReadOnlyError) as caught:
        write(store)
    assert isinstance(caught.value, pykv.Error)
    assert store == ITEMS
    store.close()
    assert fingerprint(closed) == before


def test_a_batch(closed, open_store):
    store = open_store(closed, read_only=True)
    with pytest.raises(pykv.ReadOnlyError):
        with store.batch() as batch:
            batch.put(b"k", b"v")
    assert store == ITEMS


def test_sync_has_nothing_to_do(closed, open_store):
    open_store(closed, read_only=True).sync()


def test_no_store_is_made(path):
    with pytest.raises(pykv.StorageError):
        pykv.open(path, read_only=True)
    assert not path.exists()


def test_two_readers(closed, open_store):
    first, second = open_store(closed, read_only=True), open_store(closed, read_only=True)
    assert first == second == ITEMS


def test_a_reader_and_a_writer_in_one_process(closed, open_store):
    open_store(closed, read_only=True)
    with pytest.raises(ValueError):
        pykv.open(closed)


def test_readers_in_two_processes(closed, open_store, script):
    """Readers exclude writers, and may or may not exclude each other: never a crash, never a change."""
    open_store(closed, read_only=True)
    before = fingerprint(closed)
    script.run(
        """
        import sys, pykv
        try:
            with pykv.open(sys.argv[1], read_only=True) as store:
                assert len(store) == 100
        except pykv.LockedError:
            pass
        try:
            pykv.open(sys.argv[1])
        except pykv.LockedError:
            pass
        else:
            raise SystemExit("a writer beside a reader")
        """,
        closed,
    )
    assert fingerprint(closed) == before


def test_a_store_that_was_not_closed(tmp_path, open_store):
    author, _, _, model = author_with_a_last_frame(tmp_path / "store")
    before = fingerprint(author.folder)
    store = open_store(author.folder, read_only=True)
    assert store == {**model, b"last": b"l" * 700, b"and": b"more", b"many": b"m" * 300}
    assert store.recovery["clean"] is False
    store.close()
    assert fingerprint(author.folder) == before


def test_a_torn_tail_stays_as_it_is(tmp_path, open_store):
    author, offset, end, model = author_with_a_last_frame(tmp_path / "store")
    change(author.path(), offset + FRAME_SIZE + 20)
    before = fingerprint(author.folder)
    store = open_store(author.folder, read_only=True)
    assert store == model
    assert store.recovery["bytes_cut"] > 0
    store.close()
    assert fingerprint(author.folder) == before


def test_after_a_kill(script, path, open_store):
    script.run(
        """
        import os, sys, pykv
        store = pykv.open(sys.argv[1])
        store.put_many({str(i): "v" * i for i in range(100)})
        os._exit(0)
        """,
        path,
    )
    before = fingerprint(path)
    store = open_store(path, read_only=True)
    assert store == ITEMS
    store.close()
    assert fingerprint(path) == before


def test_in_memory(open_store):
    """A store that can hold nothing: allowed or a ValueError, and never written."""
    try:
        store = open_store(None, read_only=True)
    except ValueError:
        return
    assert len(store) == 0
    with pytest.raises(pykv.ReadOnlyError):
        store[b"k"] = b"v"
