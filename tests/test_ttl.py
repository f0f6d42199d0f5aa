"""Keys that expire: how long they live, what changes that, and that they are gone for everybody."""

import datetime
import time

import pytest

import pykv

pytestmark = pytest.mark.everywhere

BAD_TTLS = [
    (0, ValueError),
    (0.0, ValueError),
    (-1, ValueError),
    (-0.5, ValueError),
    (-(2**70), ValueError),
    (float("nan"), ValueError),
    (float("inf"), ValueError),
    (float("-inf"), ValueError),
    (2**70, ValueError),
    (1e300, ValueError),
    (10**12, ValueError),
    (datetime.timedelta(0), ValueError),
    (datetime.timedelta(seconds=-1), ValueError),
    (datetime.timedelta.max, ValueError),
    (datetime.timedelta.min, ValueError),
    (True, TypeError),
    (False, TypeError),
    ("5", TypeError),
    (b"5", TypeError),
    ([], TypeError),
    (object, TypeError),
    (5j, TypeError),
    (datetime.datetime(2030, 1, 1), TypeError),
]

WAYS = {
    "put": lambda s, ttl: s.put(b"k", b"new", ttl=ttl),
    "put_many": lambda s, ttl: s.put_many({b"k": b"new"}, ttl=ttl),
    "expire": lambda s, ttl: s.expire(b"k", ttl),
    "batch.put": lambda s, ttl: in_batch(s, lambda b: b.put(b"k", b"new", ttl)),
    "batch.put keyword": lambda s, ttl: in_batch(s, lambda b: b.put(b"k", b"new", ttl=ttl)),
    "batch.expire": lambda s, ttl: in_batch(s, lambda b: b.expire(b"k", ttl)),
}


def in_batch(store, *calls):
    with store.batch() as batch:
        for call in calls:
            call(batch)


def wait_until_gone(store, key, seconds=20):
    deadline = time.monotonic() + seconds
    while key in store:
        assert time.monotonic() < deadline, "it does not expire"
        time.sleep(0.005)


# ---- How long ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "ttl, seconds",
    [
        (100, 100),
        (99.5, 99.5),
        (datetime.timedelta(minutes=1, seconds=40), 100),
        (datetime.timedelta(days=400), 400 * 86400),
        (10**9, 10**9),
    ],
    ids=str,
)
def test_what_is_left(store, way, ttl, seconds):
    store[b"k"] = b"old"
    way(store, ttl)
    assert seconds - 60 < store.ttl(b"k") <= seconds
    assert store[b"k"] in (b"old", b"new") and len(store) == 1


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("ttl, error", BAD_TTLS, ids=lambda t: repr(t)[:40])
def test_what_is_no_ttl(any_store, way, ttl, error):
    any_store[b"k"] = b"old"
    with pytest.raises(error, match="ttl"):
        way(any_store, ttl)
    assert any_store == {b"k": b"old"} and any_store.ttl(b"k") is None


def test_the_last_moment_there_is(any_store):
    """The year 10889: a ttl up to it is taken, a millisecond more is not."""
    left = (2**48 - any_store._clock()) / 1000
    any_store.put(b"k", b"v", ttl=left - 3600)
    assert any_store.ttl(b"k") > left - 7200
    with pytest.raises(ValueError, match="10889"):
        any_store.put(b"k", b"w", ttl=left + 1)
    assert any_store[b"k"] == b"v"


def test_a_ttl_is_rounded_up_to_milliseconds(any_store):
    for ttl, ms in [(0.0001, 1), (1.0001, 1001), (datetime.timedelta(microseconds=1), 1), (2, 2000),
                    (datetime.timedelta(milliseconds=7), 7)]:  # fmt: skip
        before = any_store._clock()
        expiry = any_store._expiry_after(ttl)
        assert before + ms <= expiry <= any_store._clock() + ms


def test_a_subclass_of_timedelta(any_store):
    class Mine(datetime.timedelta):
        pass

    any_store.put(b"k", b"v", ttl=Mine(seconds=50))
    assert 0 < any_store.ttl(b"k") <= 50


def test_none_is_for_ever(store):
    store.put(b"a", b"1", ttl=None)
    store.put_many({b"b": b"2"}, ttl=None)
    in_batch(store, lambda b: b.put(b"c", b"3", None))
    assert [store.ttl(key) for key in (b"a", b"b", b"c")] == [None, None, None]


def test_ttl_of_what_is_not_there(store):
    for key in (b"none", "none"):
        with pytest.raises(KeyError) as caught:
            store.ttl(key)
        assert caught.value.args == (key,)
    with pytest.raises(TypeError):
        store.ttl(5)
    with pytest.raises(TypeError):
        store.ttl()


def test_expire_and_persist_tell_whether_there_is_such_a_key(store):
    store[b"k"] = b"v"
    assert store.expire(b"none", 5) is False and store.persist(b"none") is False
    assert store.expire(b"k", 50) is True and store.ttl(b"k") <= 50
    assert store.expire("k", 500, sync=True) is True and 400 < store.ttl(b"k") <= 500
    assert store.persist(b"k") is True and store.ttl(b"k") is None
    assert store.persist("k", sync=True) is True
    assert store == {b"k": b"v"} and b"none" not in store


def test_expire_wants_a_ttl(store):
    store[b"k"] = b"v"
    with pytest.raises(TypeError, match="persist"):
        store.expire(b"k", None)
    with pytest.raises(TypeError):
        store.expire(b"k")
    with store.batch() as batch:
        with pytest.raises(TypeError):
            batch.expire(b"k", None)
    assert store.ttl(b"k") is None


def test_ttl_is_a_keyword(store):
    for call in (lambda: store.put(b"k", b"v", 5), lambda: store.put_many({b"k": b"v"}, 5)):
        with pytest.raises(TypeError):
            call()
    assert len(store) == 0


@pytest.mark.parametrize("sync", [False, 1, "always"])
def test_sync_is_true_or_none(any_store, sync):
    any_store[b"k"] = b"v"
    for call in (
        lambda: any_store.put(b"k", b"w", ttl=5, sync=sync),
        lambda: any_store.expire(b"k", 5, sync=sync),
        lambda: any_store.persist(b"k", sync=sync),
    ):
        with pytest.raises((TypeError, ValueError), match="sync"):
            call()
    assert any_store == {b"k": b"v"} and any_store.ttl(b"k") is None


def test_keys_of_every_kind(store):
    for key in ("text", bytearray(b"array"), memoryview(b"view")):
        store.put(key, "v", ttl=50)
        assert 0 < store.ttl(key) <= 50
        assert store.persist(key) and store.ttl(key) is None
        assert store.expire(key, 50) and store.ttl(key) <= 50
    for call in (store.ttl, store.persist, lambda key: store.expire(key, 5)):
        with pytest.raises(TypeError):
            call(None)


def test_a_key_that_is_too_long(store):
    for call in (
        lambda: store.put(b"k" * 65_536, b"", ttl=5),
        lambda: store.expire(b"k" * 65_536, 5),
        lambda: store.persist(b"k" * 65_536),
        lambda: in_batch(store, lambda b: b.expire(b"k" * 65_536, 5)),
    ):
        with pytest.raises(pykv.LimitError):
            call()
    assert len(store) == 0


# ---- Gone --------------------------------------------------------------------------------------


def gone(store, key=b"k", value=b"v"):
    """A key that was there and has expired."""
    store.put(key, value, ttl=0.01)
    wait_until_gone(store, key)


READS = {
    "get": lambda s: s.get(b"k") is None,
    "default": lambda s: s.get(b"k", b"d") == b"d",
    "in": lambda s: b"k" not in s,
    "len": lambda s: len(s) == 1,
    "get_many": lambda s: s.get_many([b"k", b"other"]) == [None, b"o"],
    "iter": lambda s: list(s) == [b"other"],
    "keys": lambda s: s.keys() == {b"other"} and len(s.keys()) == 1,
    "items": lambda s: dict(s.items()) == {b"other": b"o"},
    "values": lambda s: list(s.values()) == [b"o"],
    "==": lambda s: s == {b"other": b"o"},
    "delete": lambda s: s.delete(b"k") is False,
    "delete_many": lambda s: s.delete_many([b"k"]) == 0,
    "pop": lambda s: s.pop(b"k", None) is None,
    "popitem": lambda s: s.popitem() == (b"other", b"o"),
    "expire": lambda s: s.expire(b"k", 5) is False and b"k" not in s,
    "persist": lambda s: s.persist(b"k") is False and b"k" not in s,
    "replace": lambda s: s.replace(b"k", b"w", expected=b"v") is False,
}

ERRORS = {
    "[]": lambda s: s[b"k"],
    "ttl": lambda s: s.ttl(b"k"),
    "view": lambda s: s.view(b"k"),
    "pop": lambda s: s.pop(b"k"),
    "del": lambda s: s.__delitem__(b"k"),
}

WRITES = {
    "put": (lambda s: s.put(b"k", b"w"), b"w"),
    "setdefault": (lambda s: s.setdefault(b"k", b"w"), b"w"),
    "replace": (lambda s: s.replace(b"k", b"w", expected=None), b"w"),
    "incr": (lambda s: s.incr(b"k", 3), b"3"),
    "batch": (lambda s: in_batch(s, lambda b: b.put(b"k", b"w")), b"w"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_expired_key_is_absent(store, read):
    store[b"other"] = b"o"
    gone(store)
    assert read(store)


@pytest.mark.parametrize("read", ERRORS.values(), ids=ERRORS)
def test_an_expired_key_is_a_key_error(store, read):
    gone(store)
    with pytest.raises(KeyError):
        read(store)


@pytest.mark.parametrize("write, value", WRITES.values(), ids=WRITES)
def test_writing_where_a_key_has_expired(store, write, value):
    gone(store, value=b"7")
    write(store)
    assert store[b"k"] == value and store.ttl(b"k") is None and len(store) == 1


def test_it_is_there_until_its_moment(open_store):
    """Never absent before, never there after, by the same clock."""
    store = open_store()
    for _ in range(20):
        store.put(b"k", b"v", ttl=0.02)
        expiry = store._expiry_of(b"k")
        while True:
            before = store._clock()
            there = b"k" in store
            after = store._clock()
            assert there or after >= expiry
            assert not there or before < expiry
            if not there:
                break


@pytest.mark.embedded("views are of one moment")
def test_a_snapshot_keeps_what_expires_later(store):
    store[b"other"] = b"o"
    for ttl in (0.2, 2, 20):  # where the two take longer, it has expired already
        began = store._clock()
        store.put(b"k", b"v", ttl=ttl)
        before = store.items()
        if store._clock() < began + ttl * 1000:
            break
    wait_until_gone(store, b"k", 60)
    assert dict(before) == {b"other": b"o", b"k": b"v"} and len(before) == 2
    assert (b"k", b"v") in before
    assert dict(store.items()) == {b"other": b"o"}


def test_an_expired_key_does_not_come_back(store):
    gone(store)
    assert store.expire(b"k", 100) is False
    in_batch(store, lambda b: b.expire(b"k", 100), lambda b: b.persist(b"k"))
    assert b"k" not in store


@pytest.mark.embedded("reads its own figures")
def test_many_keys_of_one_moment_are_swept_away(store):
    count = 3000
    store.put_many({b"%d" % i: b"v" * 50 for i in range(count)}, ttl=0.1)
    store[b"stays"] = b"v"
    deadline = time.monotonic() + 30
    while len(store) > 1 or store.stats()["expired"] < count:
        assert time.monotonic() < deadline, store.stats()
        time.sleep(0.02)
    stats = store.stats()
    assert stats["data_bytes"] == 6 and stats["entries"] == 1
    assert store == {b"stays": b"v"}


# ---- What changes it ---------------------------------------------------------------------------

FOR_EVER = {
    "put": lambda s: s.put(b"k", b"2"),
    "put sync": lambda s: s.put(b"k", b"2", sync=True),
    "[]": lambda s: s.__setitem__(b"k", b"2"),
    "put_many": lambda s: s.put_many({b"k": b"2"}),
    "update": lambda s: s.update({b"k": b"2"}),
    "replace": lambda s: s.replace(b"k", b"2", expected=b"1"),
    "batch": lambda s: in_batch(s, lambda b: b.put(b"k", b"2")),
    "batch []": lambda s: in_batch(s, lambda b: b.__setitem__(b"k", b"2")),
    "pop and setdefault": lambda s: (s.pop(b"k"), s.setdefault(b"k", b"2")),
}


@pytest.mark.parametrize("write", FOR_EVER.values(), ids=FOR_EVER)
def test_a_plain_write_makes_a_key_that_never_expires(store, write):
    store.put(b"k", b"1", ttl=50)
    write(store)
    assert store[b"k"] == b"2" and store.ttl(b"k") is None


def test_what_leaves_it_alone(store):
    store.put(b"n", b"1", ttl=50)
    assert store.incr(b"n", 5) == 6 and 0 < store.ttl(b"n") <= 50
    assert store.setdefault(b"n", b"9") == b"6" and 0 < store.ttl(b"n") <= 50
    assert store.replace(b"n", b"9", expected=b"other") is False and store.ttl(b"n") <= 50
    assert store.replace(b"n", b"9", expected=None) is False and store.ttl(b"n") <= 50


def test_one_ttl_takes_the_place_of_another(store):
    store.put(b"k", b"v", ttl=50)
    store.put(b"k", b"v", ttl=5000)
    assert 4000 < store.ttl(b"k") <= 5000
    store.expire(b"k", 50)
    assert store.ttl(b"k") <= 50
    store.put_many({b"k": b"v"}, ttl=5000)
    assert 4000 < store.ttl(b"k") <= 5000


# ---- Batches -----------------------------------------------------------------------------------

# What the store has before, what the batch does, and then: None (no such key), or the value and whether it expires.
IN_BATCHES = {
    "put": ({}, [("put", b"1", 50)], (b"1", True)),
    "put twice": ({}, [("put", b"1", 50), ("put", b"2", None)], (b"2", False)),
    "put and expire": ({}, [("put", b"1", None), ("expire", 50)], (b"1", True)),
    "put and persist": ({}, [("put", b"1", 50), ("persist",)], (b"1", False)),
    "put, expire, persist, expire": (
        {},
        [("put", b"1", None), ("expire", 50), ("persist",), ("expire", 60)],
        (b"1", True),
    ),
    "expire nothing": ({}, [("expire", 50)], None),
    "persist nothing": ({}, [("persist",)], None),
    "expire": ({"value": b"0"}, [("expire", 50)], (b"0", True)),
    "persist": ({"value": b"0", "ttl": 50}, [("persist",)], (b"0", False)),
    "expire and persist": ({"value": b"0"}, [("expire", 50), ("persist",)], (b"0", False)),
    "delete and expire": ({"value": b"0"}, [("delete",), ("expire", 50)], None),
    "delete and persist": ({"value": b"0"}, [("delete",), ("persist",)], None),
    "delete, put, expire": (
        {"value": b"0"},
        [("delete",), ("put", b"1", None), ("expire", 50)],
        (b"1", True),
    ),
    "expire and put": ({"value": b"0"}, [("expire", 50), ("put", b"1", None)], (b"1", False)),
    "expire and delete": ({"value": b"0"}, [("expire", 50), ("delete",)], None),
    "put and delete": ({"value": b"0"}, [("put", b"1", 50), ("delete",)], None),
}


@pytest.mark.parametrize("before, calls, after", IN_BATCHES.values(), ids=IN_BATCHES)
def test_a_batch(store, before, calls, after):
    if before:
        store.put(b"k", **before)
    with store.batch() as batch:
        for name, *arguments in calls:
            getattr(batch, name)(b"k", *arguments)
        assert len(batch) <= 1
    if after is None:
        assert b"k" not in store
    else:
        assert (store[b"k"], store.ttl(b"k") is not None) == after


def test_a_batch_of_all_kinds(store):
    store.put_many({b"a": b"1", b"b": b"2", b"c": b"3", b"d": b"4"})
    store.expire(b"d", 50)
    with store.batch() as batch:
        batch.delete(b"a")
        batch.expire(b"b", 50)
        batch.put(b"c", b"33", ttl=datetime.timedelta(seconds=50))
        batch.persist(b"d")
        batch.put("e", "5")
        batch.expire("none", 50)
        assert len(batch) == 6
    assert batch.deleted == 1
    assert store == {b"b": b"2", b"c": b"33", b"d": b"4", b"e": b"5"}
    assert [store.ttl(key) is not None for key in (b"b", b"c", b"d", b"e")] == [True, True, False, False]


def test_a_batch_that_ends_after_its_ttl_deletes(store):
    store[b"k"] = b"old"
    with store.batch() as batch:
        batch.put(b"k", b"new", ttl=0.001)
        batch.put(b"l", b"new", ttl=0.001)
        time.sleep(0.02)
    assert b"k" not in store and b"l" not in store and len(store) == 0


def test_a_batch_that_fails_changes_no_expiry(store):
    store[b"k"] = b"v"
    with pytest.raises(ZeroDivisionError):
        with store.batch() as batch:
            batch.expire(b"k", 50)
            raise ZeroDivisionError
    assert store.ttl(b"k") is None
    with pytest.raises(RuntimeError):
        batch.expire(b"k", 50)
    with pytest.raises(RuntimeError):
        batch.persist(b"k")


# ---- On disk -----------------------------------------------------------------------------------


def test_expiry_survives(disk):
    with disk.open() as store:
        store.put(b"a", b"1", ttl=500)
        store.put(b"b", b"2", ttl=500)
        store.persist(b"b")
        store.put_many({b"c": b"3", b"d": b"4"}, ttl=500)
        store[b"c"] = b"33"
        store[b"e"] = b"5"
        store.expire(b"e", 500)
        moments = {key: store._expiry_of(key) for key in store}
    for _ in range(2):
        with disk.open() as store:
            assert {key: store._expiry_of(key) for key in store} == moments
            assert [key for key, moment in sorted(moments.items()) if moment == 0] == [b"b", b"c"]
            assert store == {b"a": b"1", b"b": b"2", b"c": b"33", b"d": b"4", b"e": b"5"}
            store.checkpoint()


def test_keys_that_expire_while_the_store_is_closed(disk):
    with disk.open() as store:
        store.put(b"short", b"v", ttl=0.1)
        store.put(b"long", b"v", ttl=500)
        store[b"stays"] = b"v"
    time.sleep(0.15)
    with disk.open() as store:
        assert store == {b"long": b"v", b"stays": b"v"} and len(store) == 2
        store[b"short"] = b"new"
    with disk.open() as store:
        assert store[b"short"] == b"new" and store.ttl(b"short") is None


def test_expiry_after_a_kill(script, path, open_store):
    script.run(
        """
        import os, sys, pykv
        store = pykv.open(sys.argv[1])
        store.put("a", "1", ttl=500)
        with store.batch() as batch:
            batch.expire("a", 5000)
            batch.put("b", "2", ttl=0.001)
        os._exit(0)
        """,
        path,
    )
    store = open_store(path)
    assert store == {b"a": b"1"} and 4000 < store.ttl(b"a") <= 5000


def test_read_only(path, open_store):
    with pykv.open(path) as store:
        store.put(b"k", b"v", ttl=500)
    store = open_store(path, read_only=True)
    assert 0 < store.ttl(b"k") <= 500
    for call in (
        lambda: store.put(b"k", b"w", ttl=5),
        lambda: store.expire(b"k", 5),
        lambda: store.persist(b"k"),
        lambda: in_batch(store, lambda b: b.expire(b"k", 5)),
    ):
        with pytest.raises(pykv.ReadOnlyError):
            call()


def test_closed(any_store):
    any_store[b"k"] = b"v"
    any_store.close()
    for call in (
        lambda: any_store.put(b"k", b"w", ttl=5),
        lambda: any_store.ttl(b"k"),
        lambda: any_store.expire(b"k", 5),
        lambda: any_store.persist(b"k"),
        lambda: in_batch(any_store, lambda b: b.put(b"k", b"w", ttl=5)),
    ):
        with pytest.raises(pykv.ClosedError):
            call()


# ---- What the package uses inside --------------------------------------------------------------


@pytest.mark.embedded("its own _write")
def test_write_takes_every_kind_of_operation(store):
    moment = store._clock() + 50_000
    store.put_many({b"gone": b"v", b"expires": b"v", b"stays": b"v"})
    store.expire(b"stays", 5)
    deleted = store._write({b"put": b"v", b"both": (b"w", moment), b"plain": (b"x", 0), b"gone": None,
                            b"expires": moment, b"stays": 0, b"none": moment, b"past": (b"v", 1)})  # fmt: skip
    assert deleted == 1
    moments = {key: store._expiry_of(key) for key in store}
    assert moments == {b"put": 0, b"both": moment, b"plain": 0, b"expires": moment, b"stays": 0}
    assert store._expiry_of(b"none") is None
    assert {(key, expiry) for key, _, expiry in store._snapshot()._records()} == set(moments.items())
    assert {key: value for key, value, _ in store._snapshot()._records()} == store


@pytest.mark.embedded("its own _write")
@pytest.mark.parametrize(
    "what", [(b"v",), (b"v", 1, 2), (b"v", b"1"), (b"v", -1), (b"v", 2**64), (None, 5), (5, 5), -1, 2**64, 1.5]
)
def test_write_refuses_what_is_no_operation(store, what):
    store[b"k"] = b"old"
    with pytest.raises((TypeError, ValueError, OverflowError)):
        store._write({b"a": b"b", b"k": what})
    assert store == {b"k": b"old"}
