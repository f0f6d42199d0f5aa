"""max_memory: a write that needs more is refused with nothing changed, or others make room for it."""

import threading

import pytest

import pykv
from conftest import assert_holds

CHARGE = 36  # bytes; what an item takes beside its key and value, at the most


def cost(key, value, ttl=False):
    return len(key) + len(value) + CHARGE + (8 if ttl else 0)


@pytest.fixture(params=["memory", "always", "never"])
def bounded(request, path, open_store):
    """Opens a store with options."""

    def opener(**options):
        if request.param == "memory":
            return open_store(**options)
        return open_store(path, sync=request.param, **options)

    return opener


def test_no_bound_is_the_default(bounded):
    store = bounded()
    assert store.stats()["max_memory"] == 0
    store[b"k"] = b"v" * 1_000_000
    store.close()
    store = bounded(max_memory=None, when_full="evict")
    store[b"k"] = b"v" * 1_000_000
    assert store.stats()["max_memory"] == 0


def test_what_is_charged(bounded):
    store = bounded(max_memory=1_000_000)
    assert store.stats()["max_memory"] == 1_000_000 and store.stats()["memory_charged"] == 0
    store[b"key"] = b"value" * 100
    store.put(b"k", b"v", ttl=500)
    assert store.stats()["memory_charged"] == cost(b"key", b"value" * 100) + cost(b"k", b"v", True)
    store[b"key"] = b""
    store.persist(b"k")
    assert store.stats()["memory_charged"] == cost(b"key", b"") + cost(b"k", b"v")
    store.clear()
    assert store.stats()["memory_charged"] == 0


WRITES = {
    "put": lambda s: s.put(b"new", b"v" * 600),
    "put sync": lambda s: s.put(b"new", b"v" * 600, sync=True),
    "put ttl": lambda s: s.put(b"new", b"v" * 600, ttl=50),
    "[]": lambda s: s.__setitem__(b"new", b"v" * 600),
    "overwrite": lambda s: s.put(b"old", b"v" * 1500),
    "put_many": lambda s: s.put_many({b"small": b"v", b"new": b"v" * 600}),
    "update": lambda s: s.update({b"new": b"v" * 600}),
    "setdefault": lambda s: s.setdefault(b"new", b"v" * 600),
    "replace": lambda s: s.replace(b"old", b"v" * 1500, expected=b"o" * 1000),
    "replace nothing": lambda s: s.replace(b"new", b"v" * 600, expected=None),
    "_write": lambda s: s._write({b"small": (b"v", 0), b"new": b"v" * 600}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_refuse(bounded, write):
    """Nothing is changed, and what fits is taken."""
    store = bounded(max_memory=1500)
    store[b"old"] = b"o" * 1000
    charged = store.stats()["memory_charged"]
    for _ in range(3):
        with pytest.raises(pykv.MemoryLimitError, match="max_memory") as caught:
            write(store)
        assert isinstance(caught.value, MemoryError) and isinstance(caught.value, pykv.Error)
        assert store == {b"old": b"o" * 1000} and store.ttl(b"old") is None
        assert store.stats()["memory_charged"] == charged
    store[b"fits"] = b"v" * 300
    del store[b"old"]
    store[b"new"] = b"v" * 600
    assert len(store) == 2


def test_up_to_the_last_byte(bounded):
    store = bounded(max_memory=cost(b"k", b"v" * 100) + cost(b"l", b""))
    store[b"k"] = b"v" * 100
    with pytest.raises(pykv.MemoryLimitError):
        store[b"l"] = b"1"
    store[b"l"] = b""
    for call in (
        lambda: store.put(b"l", b"1"),
        lambda: store.put(b"m", b""),
        lambda: store.expire(b"l", 50),
        lambda: store.incr(b"m"),
    ):
        with pytest.raises(pykv.MemoryLimitError):
            call()
    store[b"k"] = b"w" * 100
    store[b"k"] = b"w" * 99
    store[b"l"] = b"1"
    assert store == {b"k": b"w" * 99, b"l": b"1"}


def test_a_batch_that_makes_its_own_room(bounded):
    store = bounded(max_memory=1000)
    store[b"a"] = b"v" * 800
    with store.batch() as batch:
        batch.delete(b"a")
        batch.put(b"b", b"v" * 800)
    assert store == {b"b": b"v" * 800}


def test_reads_and_deletes_of_a_full_store(bounded):
    store = bounded(max_memory=1000)
    store[b"a"] = b"v" * 960
    assert store[b"a"] == b"v" * 960 and list(store) == [b"a"]
    assert store.pop(b"a") == b"v" * 960
    store[b"a"] = b"v" * 960
    assert store.delete_many([b"a"]) == 1
    store[b"a"] = b"v" * 960
    store.clear()
    assert len(store) == 0


def test_a_refused_write_is_not_on_disk(path, open_store):
    store = open_store(path, max_memory=10_000)
    model = {}
    for i in range(200):
        try:
            store[b"%d" % i] = b"v" * 90
            model[b"%d" % i] = b"v" * 90
        except pykv.MemoryLimitError:
            pass
    assert 50 < len(model) < 100
    assert_holds(store, model)
    store.close()
    with pykv.open(path, max_memory=10_000) as store:
        assert_holds(store, model)
        with pytest.raises(pykv.MemoryLimitError):
            store[b"more"] = b"v" * 200


def test_evict(bounded):
    store = bounded(max_memory=100_000, when_full="evict")
    for i in range(5000):
        store[b"%d" % i] = b"v" * 60
        assert store[b"%d" % i] == b"v" * 60
    stats = store.stats()
    assert stats["memory_charged"] <= 100_000 and stats["evicted"] == 5000 - len(store)
    assert 700 < len(store) < 1100
    assert all(value == b"v" * 60 for value in store.values())


def test_what_is_used_stays(open_store):
    store = open_store(max_memory=200_000, when_full="evict")
    hot = [b"hot %d" % i for i in range(200)]
    store.put_many({key: b"v" * 60 for key in hot})
    for i in range(20_000):
        store[b"cold %d" % i] = b"v" * 60
        store.get(hot[i % 200])
        store.get(hot[(i * 7) % 200])
    assert sum(key in store for key in hot) > 150


def test_what_was_evicted_stays_so(path, open_store):
    store = open_store(path, sync="never", max_memory=100_000, when_full="evict")
    for i in range(3000):
        store[b"%d" % i] = b"v" * 60
    left = dict(store.items())
    store.close()
    store = open_store(path, sync="never")
    assert_holds(store, left)


def test_evict_for_a_large_batch(bounded):
    store = bounded(max_memory=100_000, when_full="evict")
    store.put_many({b"old %d" % i: b"v" * 60 for i in range(500)})
    new = {b"new %d" % i: b"w" * 60 for i in range(500)}
    store.put_many(new)
    assert store.get_many(new) == list(new.values())
    assert store.stats()["memory_charged"] <= 100_000


def test_what_is_larger_than_the_bound(bounded):
    store = bounded(max_memory=10_000, when_full="evict")
    store[b"k"] = b"v"
    with pytest.raises(pykv.MemoryLimitError):
        store[b"large"] = b"v" * 10_000
    assert b"large" not in store


def test_evict_from_several_threads(bounded):
    store = bounded(max_memory=100_000, when_full="evict")

    def write(number):
        for i in range(2000):
            store[b"%d %d" % (number, i)] = b"v" * 60

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.stats()["memory_charged"] <= 100_000 + 4 * 200


def test_a_store_that_has_more_than_the_bound(path, open_store):
    with pykv.open(path) as store:
        store.put_many({b"%d" % i: b"v" * 1000 for i in range(100)})
    store = open_store(path, max_memory=50_000)
    assert len(store) == 100
    with pytest.raises(pykv.MemoryLimitError):
        store[b"more"] = b"v"
    store.delete_many([b"%d" % i for i in range(60)])
    store[b"more"] = b"v"
    store.close()
    with pykv.open(path) as store:
        store.put_many({b"%d" % i: b"v" * 1000 for i in range(100)})
    store = open_store(path, max_memory=50_000, when_full="evict")
    store[b"more"] = b"v"
    assert store[b"more"] == b"v" and store.stats()["memory_charged"] <= 50_000


def test_a_load_that_does_not_fit(open_store, tmp_path):
    with pykv.open() as store:
        store.put_many({b"%d" % i: b"v" * 100 for i in range(1000)})
        pykv.dump(store, tmp_path / "dump")
    store = open_store(max_memory=50_000)
    with pytest.raises(pykv.MemoryLimitError):
        pykv.load(store, tmp_path / "dump")
    assert len(store) == 0


@pytest.mark.parametrize("options, error", [
    ({"max_memory": 0}, ValueError),
    ({"max_memory": -1}, ValueError),
    ({"max_memory": 2**63}, ValueError),
    ({"max_memory": -(2**70)}, ValueError),
    ({"max_memory": 1.5}, TypeError),
    ({"max_memory": True}, TypeError),
    ({"max_memory": "1 GiB"}, TypeError),
    ({"max_memory": 1000, "when_full": "panic"}, ValueError),
    ({"max_memory": 1000, "when_full": ""}, ValueError),
    ({"max_memory": 1000, "when_full": None}, TypeError),
    ({"max_memory": 1000, "when_full": 1}, TypeError),
    ({"when_full": "panic"}, ValueError),
])  # fmt: skip
def test_wrong_options(tmp_path, options, error):
    with pytest.raises(error):
        pykv.open(tmp_path / "store", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_second_handle_has_the_same_bound(path, open_store):
    open_store(path, max_memory=10_000)
    with pytest.raises(ValueError):
        pykv.open(path, max_memory=20_000)
    with pytest.raises(ValueError):
        pykv.open(path)
    with pykv.open(path, max_memory=10_000) as other:
        assert other.stats()["max_memory"] == 10_000
