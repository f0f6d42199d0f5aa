"""Backup and restore: a store of its own, whole or not there at all."""

import errno
import os
import threading

import pytest

import pykv
from conftest import assert_holds
from test_damage import fingerprint

ITEMS = {b"%d" % i: b"v" * (i % 300) for i in range(3000)}


@pytest.fixture(params=["memory", "log", "checkpoint", "checkpoint and log"])
def filled(request, path, open_store):
    """A store with ITEMS and a key that expires, at each place where they can be."""
    store = open_store(None if request.param == "memory" else path, checkpoint_log_ratio=None)
    store.put_many(ITEMS)
    store.put(b"expires", b"v", ttl=500)
    if "checkpoint" in request.param:
        store.checkpoint()
    if "and log" in request.param:
        store[b"1"] = b"after"
        del store[b"2"]
        store[b"1"] = ITEMS[b"1"]
        store[b"2"] = ITEMS[b"2"]
    return store


@pytest.fixture
def saved(tmp_path):
    """The path of a backup of ITEMS."""
    with pykv.open() as store:
        store.put_many(ITEMS)
        store.backup(tmp_path / "saved")
    return tmp_path / "saved"


def records(store):
    return sorted(store._snapshot()._records())


# ---- Backup ------------------------------------------------------------------------------------


def test_a_backup_is_a_store(filled, tmp_path, open_store):
    assert filled.backup(tmp_path / "backup") is None
    filled[b"later"] = b"v"
    copy = open_store(tmp_path / "backup")
    assert copy.recovery["clean"] and b"later" not in copy
    del filled[b"later"]
    assert records(copy) == records(filled)
    copy[b"own"] = b"life"
    copy.checkpoint()
    assert b"own" not in filled


@pytest.mark.parametrize("shape", [str, os.fsencode, lambda p: p], ids=["str", "bytes", "path"])
def test_destinations(filled, tmp_path, open_store, shape):
    filled.backup(shape(tmp_path / "bäckup"))
    (tmp_path / "empty").mkdir()
    filled.backup(dest=shape(tmp_path / "empty"))
    for name in ("bäckup", "empty"):
        assert records(open_store(tmp_path / name, read_only=True)) == records(filled)


def test_a_destination_that_is_in_use(filled, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "precious").write_bytes(b"data")
    (tmp_path / "file").write_bytes(b"data")
    before = fingerprint(place)
    for dest in (place, tmp_path / "file", tmp_path / "file" / "below", tmp_path / "no" / "such"):
        with pytest.raises(pykv.StorageError) as caught:
            filled.backup(dest)
        assert isinstance(caught.value, OSError) and caught.value.errno
        assert str(tmp_path) in str(caught.value)
    assert fingerprint(place) == before and (tmp_path / "file").read_bytes() == b"data"
    assert not (tmp_path / "no").exists()


def test_onto_itself_and_onto_another_store(path, saved, open_store):
    store = open_store(path)
    store.put_many(ITEMS)
    before = fingerprint(saved)
    for dest in (path, saved):
        with pytest.raises(pykv.StorageError):
            store.backup(dest)
    assert fingerprint(saved) == before
    assert_holds(store, ITEMS)


@pytest.mark.parametrize("dest", [None, 5, 1.5, [], object()])
def test_what_is_no_path(filled, dest):
    with pytest.raises(TypeError):
        filled.backup(dest)
    with pytest.raises(ValueError):
        filled.backup("a\0b")


def test_closed(open_store, tmp_path):
    store = open_store()
    store.close()
    with pytest.raises(pykv.ClosedError):
        store.backup(tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []


def test_of_a_read_only_store(path, tmp_path, open_store):
    with pykv.open(path) as store:
        store.put_many(ITEMS)
        store.checkpoint()
        store[b"more"] = b"v"
    before = fingerprint(path)
    store = open_store(path, read_only=True)
    store.backup(tmp_path / "backup")
    store.close()
    assert fingerprint(path) == before
    assert_holds(open_store(tmp_path / "backup"), {**ITEMS, b"more": b"v"})


def test_while_others_write(path, tmp_path, open_store):
    """The copy is one state: with each number all smaller ones are there."""
    store = open_store(path, sync="never")
    store.put_many(ITEMS)
    stop = threading.Event()
    last = 0

    def write():
        nonlocal last
        while not stop.is_set():
            last += 1
            store.put_many({b"a%d" % last: b"v", b"b%d" % last: b"v" * 500})

    thread = threading.Thread(target=write)
    thread.start()
    for i in range(4):
        begun = last
        store.backup(tmp_path / f"backup{i}")
        with pykv.open(tmp_path / f"backup{i}") as copy:
            new = len(copy) - len(ITEMS)
            assert new % 2 == 0 and new // 2 >= begun - 1
            wanted = {key: value for n in range(1, new // 2 + 1) for key, value in ((b"a%d" % n, b"v"), (b"b%d" % n, b"v" * 500))}
            assert_holds(copy, {**ITEMS, **wanted})
    stop.set()
    thread.join()


# ---- Restore -----------------------------------------------------------------------------------


def test_restore(saved, tmp_path, open_store):
    before = fingerprint(saved)
    calls = []
    assert pykv.restore(saved, tmp_path / "new", progress=lambda *a: calls.append(a)) is None
    assert fingerprint(saved) == before
    assert_holds(open_store(tmp_path / "new"), ITEMS)
    assert calls and all(0 <= done <= total for done, total in calls)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("shape", [str, os.fsencode], ids=["str", "bytes"])
def test_restore_to_an_empty_directory(saved, tmp_path, open_store, shape):
    (tmp_path / "new").mkdir()
    pykv.restore(shape(saved), shape(tmp_path / "new"))
    assert_holds(open_store(tmp_path / "new"), ITEMS)


def test_restore_of_a_store_that_is_no_backup(path, tmp_path, open_store):
    with pykv.open(path) as store:
        store.put_many(ITEMS)
    pykv.restore(path, tmp_path / "new")
    assert_holds(open_store(tmp_path / "new"), ITEMS)


def test_restore_where_something_is(saved, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "precious").write_bytes(b"data")
    with pytest.raises(pykv.StorageError, match="not empty") as caught:
        pykv.restore(saved, place)
    assert caught.value.filename == str(place)
    assert (place / "precious").read_bytes() == b"data" and len(list(place.iterdir())) == 1
    with pytest.raises(pykv.StorageError):
        pykv.restore(saved, place / "precious")
    with pytest.raises(pykv.StorageError):
        pykv.restore(saved, place / "precious" / "below")
    with pytest.raises(pykv.StorageError):
        pykv.restore(saved, tmp_path / "no" / "such")


def test_restore_removes_nothing_that_others_make_meanwhile(saved, tmp_path):
    place = tmp_path / "place"

    def progress(done, total):
        if not place.exists():
            pykv.open(place).close()

    with pytest.raises(pykv.StorageError, match="empty"):
        pykv.restore(saved, place, progress=progress)
    with pykv.open(place, create=False):
        pass


def test_restore_of_what_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(pykv.StorageError):
            pykv.restore(source, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_restore_into_itself(saved, tmp_path):
    before = fingerprint(saved)
    (tmp_path / "link").symlink_to(saved)
    for destination in (saved, saved / "below", tmp_path, tmp_path / "link", str(saved) + "/."):
        with pytest.raises(ValueError):
            pykv.restore(saved, destination)
    assert fingerprint(saved) == before


def test_restore_of_a_store_that_is_open(path, tmp_path, open_store):
    store = open_store(path)
    store[b"k"] = b"v"
    with pytest.raises(pykv.LockedError):
        pykv.restore(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_restore_of_a_damaged_backup(saved, tmp_path):
    (file,) = saved.glob("*.ckpt")
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)
    before = fingerprint(saved)
    with pytest.raises(pykv.CorruptionError) as caught:
        pykv.restore(saved, tmp_path / "new")
    assert caught.value.path == str(file) and caught.value.offset > 0
    assert str(caught.value) == str(pykv.check(saved).problems[0])
    assert not (tmp_path / "new").exists() and fingerprint(saved) == before


def test_restore_of_a_backup_that_the_disk_cannot_read(saved, tmp_path):
    """An error of the system, with its number and the file: what is on the disk is not known to be damaged."""
    (file,) = saved.glob("*.ckpt")
    file.unlink()
    file.symlink_to(tmp_path)  # the open fails: ELOOP
    with pytest.raises(pykv.StorageError) as caught:
        pykv.restore(saved, tmp_path / "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, str(file))
    assert [problem.errno for problem in pykv.check(saved).problems][0] == errno.ELOOP
    assert not (tmp_path / "new").exists()


def test_an_exception_of_progress(saved, tmp_path):
    def progress(done, total):
        raise ZeroDivisionError

    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(ZeroDivisionError):
            pykv.restore(saved, tmp_path / name, progress=progress)
    assert not (tmp_path / "new").exists() and list((tmp_path / "empty").iterdir()) == []


def test_a_store_that_is_made_in_the_destination_meanwhile(saved, tmp_path, open_store):
    """It stays, with what was acknowledged to its owner."""

    def progress(done, total):
        if not (tmp_path / "new").exists():
            with pykv.open(tmp_path / "new") as store:
                store[b"mine"] = b"v"

    with pytest.raises(pykv.StorageError, match="empty"):
        pykv.restore(saved, tmp_path / "new", progress=progress)
    assert_holds(open_store(tmp_path / "new"), {b"mine": b"v"})


@pytest.mark.parametrize("arguments", [(5, "new"), ("saved", 5), (None, None), ("saved",), ()], ids=repr)
def test_wrong_arguments(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError):
        pykv.restore(*arguments)
    with pytest.raises(TypeError, match="progress"):
        pykv.restore("saved", "new", progress=5)
    assert list(tmp_path.iterdir()) == []
