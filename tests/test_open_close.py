"""Opening, closing and opening again: what a store says of itself, and what is there afterwards."""

import gc
import os
import warnings
from pathlib import Path

import pytest

import pykv


def test_what_was_written_is_there_after_a_reopen(disk):
    store = disk.open()
    store.update({b"a": b"1", b"b": b"", b"": b"empty key", b"\x00": b"\x00", b"gone": b"x"})
    store[b"a"] = b"2"
    del store[b"gone"]
    store.incr(b"n", 5)
    store.replace(b"b", b"replaced", expected=b"")
    store.setdefault(b"set", b"default")
    store.close()
    for _ in range(3):
        with disk.open() as store:
            assert store == {
                b"a": b"2", b"b": b"replaced", b"": b"empty key", b"\x00": b"\x00", b"n": b"5", b"set": b"default",
            }  # fmt: skip


def test_many_short_lives(disk):
    model = {}
    for life in range(12):
        with disk.open() as store:
            assert store == model
            model[b"%d" % life] = store[b"%d" % life] = b"v" * life
            if life % 3 == 2:
                del store[b"%d" % (life - 1)], model[b"%d" % (life - 1)]


def test_modes_can_change_from_open_to_open(tmp_path, open_store):
    model = {}
    for i, mode in enumerate(("never", "always", "interval", "never", "interval", "always")):
        with open_store(tmp_path / "s", sync=mode) as store:
            assert store == model
            store[b"%d" % i] = model[b"%d" % i] = mode.encode()


@pytest.mark.parametrize("shape", [str, os.fsencode, Path])
def test_paths_of_each_kind(tmp_path, open_store, shape):
    place = tmp_path / "store ü ☃"
    with open_store(shape(place)) as store:
        store[b"k"] = b"v"
        assert store.path == str(place)
        assert type(store.path) is str
    with open_store(place) as store:
        assert store[b"k"] == b"v"


def test_a_relative_path_stays_what_it_was(tmp_path, open_store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store("relative") as store:
        store[b"k"] = b"v"
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store[b"l"] = b"w"
        store.sync()
    with open_store(tmp_path / "relative") as store:
        assert store == {b"k": b"v", b"l": b"w"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "relative"]


def test_memory_only_is_no_path(open_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for store in (open_store(), open_store(None)):
        assert store.path is None
        store[b"k"] = b"v"
        store.sync()
        store.close()
    assert list(tmp_path.iterdir()) == []


def test_two_memory_only_stores_share_nothing(open_store):
    first, second = open_store(), open_store()
    first[b"k"] = b"v"
    assert len(second) == 0


CALLS = {
    "get": lambda s: s.get(b"k"),
    "getitem": lambda s: s[b"k"],
    "put": lambda s: s.put(b"k", b"v"),
    "setitem": lambda s: s.__setitem__(b"k", b"v"),
    "delete": lambda s: s.delete(b"k"),
    "delitem": lambda s: s.__delitem__(b"k"),
    "contains": lambda s: b"k" in s,
    "len": lambda s: len(s),
    "bool": lambda s: bool(s),
    "iter": lambda s: list(s),
    "get_many": lambda s: s.get_many([b"k"]),
    "get_many of none": lambda s: s.get_many([]),
    "put_many": lambda s: s.put_many({b"k": b"v"}),
    "put_many of none": lambda s: s.put_many({}),
    "update": lambda s: s.update({b"k": b"v"}),
    "delete_many": lambda s: s.delete_many([b"k"]),
    "incr": lambda s: s.incr(b"k"),
    "replace": lambda s: s.replace(b"k", b"v", expected=None),
    "setdefault": lambda s: s.setdefault(b"k", b"v"),
    "pop": lambda s: s.pop(b"k"),
    "pop with default": lambda s: s.pop(b"k", None),
    "popitem": lambda s: s.popitem(),
    "clear": lambda s: s.clear(),
    "keys": lambda s: list(s.keys()),
    "values": lambda s: list(s.values()),
    "items": lambda s: list(s.items()),
    "view": lambda s: s.view(b"k"),
    "sync": lambda s: s.sync(),
    "stats": lambda s: s.stats(),
    "enter": lambda s: s.__enter__(),
    "eq": lambda s: s == {},
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_on_a_closed_store_is_a_closed_error(store, call):
    store[b"k"] = b"v"
    store.close()
    with pytest.raises(pykv.ClosedError):
        call(store)


def test_what_a_closed_store_still_tells(store, disk):
    path = store.path
    assert store.closed is False
    assert store.close() is None
    assert store.closed is True
    store.close()
    store.close()
    assert store.path == path
    assert isinstance(store.recovery, dict)
    assert "closed" in repr(store)


def test_a_context_closes(store):
    with store as same:
        assert same is store
        store[b"k"] = b"v"
    assert store.closed
    with pytest.raises(pykv.ClosedError):
        store.get(b"k")


def test_a_context_closes_after_an_exception(disk):
    with pytest.raises(ZeroDivisionError):
        with disk.open() as store:
            store[b"k"] = b"v"
            raise ZeroDivisionError
    assert store.closed
    assert disk.open()[b"k"] == b"v"


def test_recovery_of_a_new_store(disk):
    recovery = disk.open().recovery
    assert recovery["created"] is True
    assert recovery["clean"] is True
    assert recovery["bytes_cut"] == 0
    assert recovery["records"] == 0 and recovery["commits"] == 0
    for name in ("frames", "segments", "bytes"):
        assert isinstance(recovery[name], int)
    assert isinstance(recovery["seconds"], float) and recovery["seconds"] >= 0


def test_recovery_counts_what_it_replayed(disk):
    with disk.open() as store:
        for i in range(10):
            store[b"%d" % i] = b"v"
        store.put_many({b"many %d" % i: b"v" for i in range(100)})
        store.delete(b"1")
    store = disk.open()
    recovery = store.recovery
    assert recovery["created"] is False
    assert recovery["clean"] is True
    assert recovery["commits"] == 12
    assert recovery["records"] == 111
    assert recovery["frames"] >= 1
    assert recovery["bytes"] > 0
    assert recovery["bytes_cut"] == 0
    recovery["records"] = "changed"
    assert store.recovery["records"] == 111, "what it gives is a copy"


def test_recovery_of_memory_only(open_store):
    assert isinstance(open_store().recovery, dict)


def test_stats(store):
    store.put_many({b"%03d" % i: b"v" * 10 for i in range(100)})
    store.sync()
    stats = store.stats()
    assert stats["entries"] == 100
    assert stats["data_bytes"] == 1300
    assert stats["handles"] == 1
    assert stats["failed"] is False
    assert stats["visible_lsn"] == stats["lsn"] or store.path is None
    for name in ("shards", "memory_bytes", "snapshots", "undo_records", "commits", "frames", "syncs"):
        assert isinstance(stats[name], int) and stats[name] >= 0
    if store.path is not None:
        assert stats["durable_lsn"] == stats["lsn"] > 0, "after sync() everything is durable"
        assert stats["log_bytes"] > 0 and stats["log_segments"] >= 1
    store.clear()
    assert store.stats()["entries"] == 0


def test_a_store_that_is_dropped_open_warns_and_loses_nothing(disk):
    store = pykv.open(disk.path, **disk.options)
    store[b"k"] = b"v"
    with pytest.warns(ResourceWarning):
        del store
        gc.collect()
    with disk.open() as store:
        assert store == {b"k": b"v"}


def test_a_store_that_was_closed_does_not_warn(disk):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = pykv.open(disk.path, **disk.options)
        store.close()
        del store
        gc.collect()


def test_two_opens_of_one_path_are_one_store(disk):
    first, second = disk.open(), disk.open()
    assert first is not second
    first[b"a"] = b"1"
    assert second[b"a"] == b"1"
    second.incr(b"n")
    first.incr(b"n")
    assert first == second == {b"a": b"1", b"n": b"2"}
    assert first.stats()["handles"] == 2
    first.close()
    with pytest.raises(pykv.ClosedError):
        first.get(b"a")
    assert second[b"a"] == b"1"
    second[b"b"] = b"2"
    second.close()
    assert disk.open() == {b"a": b"1", b"b": b"2", b"n": b"2"}


def test_the_same_place_by_another_name(disk, tmp_path):
    first = disk.open()
    first[b"k"] = b"v"
    (tmp_path / "link").symlink_to(disk.path)
    (tmp_path / "sub").mkdir()
    for other in (tmp_path / "link", tmp_path / "sub" / ".." / "store", Path(os.path.relpath(disk.path))):
        second = pykv.open(other, **disk.options)
        assert second[b"k"] == b"v"
        second[b"from"] = os.fsencode(other)
        assert first[b"from"] == os.fsencode(other)
        second.close()


def test_two_opens_with_other_options(tmp_path, open_store):
    store = open_store(tmp_path / "s", sync="interval", sync_interval=0.5)
    store[b"k"] = b"v"
    for options in ({"sync": "always"}, {"sync": "never"}, {"sync": "interval", "sync_interval": 0.25},
                    {"sync": "interval", "sync_interval": 0.5, "read_only": True}):  # fmt: skip
        with pytest.raises(ValueError):
            pykv.open(tmp_path / "s", **options)
    same = open_store(tmp_path / "s", sync="interval", sync_interval=0.5)
    assert same[b"k"] == b"v"
    store[b"k"] = b"w"
    assert same[b"k"] == b"w"


def test_open_again_at_once_many_times(disk):
    for i in range(20):
        store = disk.open()
        assert store.incr(b"n") == i + 1
        store.close()


def test_a_store_moves_with_its_directory(disk, tmp_path, open_store):
    with disk.open() as store:
        store[b"k"] = b"v"
    disk.path.rename(tmp_path / "moved")
    with open_store(tmp_path / "moved") as store:
        assert store == {b"k": b"v"}
    assert not disk.path.exists()


def test_init_again_is_refused_or_harmless(tmp_path):
    store = pykv.open(tmp_path / "s")
    store[b"k"] = b"v"
    try:
        store.__init__(tmp_path / "t")
    except Exception:
        assert store[b"k"] == b"v"
    store.close()


def test_a_store_that_was_never_opened():
    """Made with __new__ alone, or after a failed __init__: errors, not crashes."""
    for store in (pykv.Store.__new__(pykv.Store),):
        for call in CALLS.values():
            with pytest.raises((pykv.Error, TypeError, AttributeError, ValueError, KeyError)):
                call(store)
        repr(store)
        store.close()


class Named(bytes):
    pass


class Sub(pykv.Store):
    pass


def test_types_of_ones_own(open_store):
    store = open_store()
    store[Named(b"key")] = Named(b"value")
    assert store[b"key"] == b"value" and store.get(Named(b"key")) == b"value"
    with Sub() as sub:
        assert repr(sub).startswith(f"<{Sub.__module__}.Sub in memory")
    with pytest.raises(TypeError, match="multiple values for argument 'key'"):
        store.get(b"key", key=b"key")


def test_a_store_that_is_kept_by_its_finalizer(path):
    kept = []

    class Kept(pykv.Store):
        def __del__(self):
            kept.append(self)

    store = Kept(path)
    store[b"k"] = b"v"
    del store
    gc.collect()
    (store,) = kept
    store.close()
    assert store.closed


def test_what_the_package_never_asks_of_its_core(open_store):
    core, store = pykv._core, open_store()
    for call in (lambda: core._check("path", (), print), lambda: core._repair("path", None, [], [], print)):
        with pytest.raises(TypeError, match="takes a path"):
            call()
    with pytest.raises(TypeError, match="must be a dict"):
        store._write([(b"k", b"v")])
    store[b"k"] = b"v"
    snapshot = store._snapshot()
    assert list(snapshot) == [b"k"] and snapshot[b"k"] == b"v" and b"other" not in snapshot
    if hasattr(core, "Server"):
        with pytest.raises(RuntimeError, match="never started"):
            core.Server.__new__(core.Server).stop()
        server = core.Server(store, host="127.0.0.1")
        with pytest.raises(RuntimeError, match="started already"):
            server.__init__(store, host="127.0.0.1")
        with pytest.raises(ValueError, match="grace"):
            server.stop(-1)
        server.stop()
