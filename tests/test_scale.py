"""Large values, many keys, and long churn."""

import random

import pytest

from conftest import assert_holds, kind_options


@pytest.mark.parametrize("size", [1 << 16, (1 << 20) + 1, 9_000_001])
def test_huge_values_survive_a_reopen(disk, rng, size):
    values = {b"%d" % i: rng.randbytes(size) for i in range(3)}
    with disk.open() as store:
        for key, value in values.items():
            store[key] = value
        assert_holds(store, values)
        store[b"0"] = values[b"0"] = values[b"1"]
        del store[b"1"], values[b"1"]
    with disk.open() as store:
        assert_holds(store, values)
        assert store.view(b"2") == values[b"2"]


def test_a_value_larger_than_any_segment(disk, rng):
    value = rng.randbytes(1 << 20) * 70
    with disk.open() as store:
        store[b"before"] = b"1"
        store[b"huge"] = value
        store[b"after"] = b"2"
    with disk.open() as store:
        assert store[b"huge"] == value
        assert store.get_many([b"before", b"after"]) == [b"1", b"2"]


def test_200_000_keys(disk):
    count = 200_000
    with disk.open() as store:
        for start in range(0, count, 1000):
            store.put_many({b"key:%d" % i: b"value:%d" % i for i in range(start, start + 1000)})
        assert len(store) == count
        assert store.stats()["shards"] >= 1
        store._verify()
    with disk.open() as store:
        assert len(store) == count
        assert store.get_many([b"key:%d" % i for i in range(count)]) == [b"value:%d" % i for i in range(count)]
        assert sum(1 for _ in store) == count


@pytest.mark.parametrize("kind, count", [("memory", 30_000), ("never", 30_000), ("always", 2000)])
def test_growing_one_put_at_a_time(open_store, tmp_path, kind, count):
    store = open_store(**kind_options(kind, tmp_path))
    for i in range(count):
        store[b"%d" % i] = b"v%d" % i
        assert len(store) == i + 1
    assert all(store[b"%d" % i] == b"v%d" % i for i in range(count))
    assert b"%d" % count not in store


def test_churn(store, rng):
    """Deletes and reinserts, sizes that change: the table and its memory are used again."""
    model = {}
    for _ in range(6000 if store.path is None else 1500):
        key = b"%d" % rng.randrange(300)
        if rng.random() < 0.4:
            assert store.delete(key) is (model.pop(key, None) is not None)
        else:
            store[key] = model[key] = rng.randbytes(rng.choice((0, 1, 20, 300, 2000, 40_000)))
    assert_holds(store, model)


def test_memory_is_given_back(open_store):
    """After the same keys have been replaced often, memory is near what it was at first."""
    store = open_store()
    keys = [b"key %d" % i for i in range(5000)]
    generator = random.Random(1)
    sizes = []
    for _ in range(12):
        for key in keys:
            store[key] = b"x" * generator.randrange(600)
        sizes.append(store.stats()["memory_bytes"])
    assert sizes[-1] <= sizes[1] * 1.5 + (4 << 20), sizes


def test_clear_then_reopen(disk):
    with disk.open() as store:
        store.put_many({b"%d" % i: b"v" for i in range(10_000)})
        store.clear()
        assert len(store) == 0
    with disk.open() as store:
        assert len(store) == 0
        store[b"1"] = b"after"
    with disk.open() as store:
        assert store == {b"1": b"after"}
        store.clear()
        store.put_many({b"%d" % i: b"w" for i in range(100)})
        store.clear()
        store[b"2"] = b"last"
    with disk.open() as store:
        assert store == {b"2": b"last"}


def test_many_segments(disk, rng):
    """Enough to rotate the log several times; every value is there afterwards."""
    model = {}
    with disk.open(checkpoint_log_ratio=None) as store:  # the log alone
        for i in range(120):
            key = b"%d" % (i % 40)
            store[key] = model[key] = rng.randbytes(400_000)
        segments = store.stats()["log_segments"]
    with disk.open() as store:
        assert_holds(store, model)
        assert store.recovery["segments"] >= min(segments, 2)
