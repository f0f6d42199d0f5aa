"""keys(), values(), items() and iteration: the store as it was at one moment."""

import gc

import pytest

import pykv

ITEMS = {b"key %d" % i: b"value %d" % i for i in range(3000)}


@pytest.mark.everywhere
def test_keys_values_items(store):
    store.put_many(ITEMS)
    assert sorted(store.keys()) == sorted(ITEMS)
    assert sorted(store.values()) == sorted(ITEMS.values())
    assert dict(store.items()) == ITEMS
    assert sorted(store) == sorted(ITEMS)
    for view in (store.keys(), store.values(), store.items()):
        assert len(view) == len(ITEMS)
        assert len(list(view)) == len(ITEMS)
        assert len(list(view)) == len(ITEMS), "a view can be walked more than once"


@pytest.mark.everywhere
def test_views_know_their_members(store):
    store.update({b"a": b"1", b"b": b""})
    assert b"a" in store.keys() and "a" in store.keys() and b"x" not in store.keys()
    assert (b"a", b"1") in store.items() and (b"a", b"2") not in store.items()
    assert (b"x", b"1") not in store.items()
    assert b"1" in store.values() and b"3" not in store.values()


@pytest.mark.everywhere
def test_keys_are_a_set(store):
    store.update({b"a": b"1", b"b": b"2"})
    assert store.keys() == {b"a", b"b"}
    assert store.keys() & {b"a", b"x"} == {b"a"}
    assert store.keys() - {b"a"} == {b"b"}
    assert store.items() == {(b"a", b"1"), (b"b", b"2")}


@pytest.mark.parametrize("what", ["keys", "values", "items", "__iter__"])
def test_writing_while_iterating(store, what):
    """The walk sees what was there when it began: nothing more, nothing less, nothing newer."""
    store.put_many(ITEMS)
    expected = {"keys": ITEMS.keys(), "values": ITEMS.values(), "items": ITEMS.items(), "__iter__": ITEMS}[what]
    walk = iter(getattr(store, what)())
    found = [next(walk) for _ in range(10)]
    store.delete_many([b"key %d" % i for i in range(0, 3000, 3)])
    store.put_many({b"key %d" % i: b"new" for i in range(1, 3000, 3)})
    store.put_many({b"new key %d" % i: b"new" for i in range(5000)})  # splits every shard
    found.extend(next(walk) for _ in range(1000))
    store.clear()
    store[b"key 5"] = b"after the clear"
    found.extend(walk)
    assert len(found) == len(ITEMS)
    assert set(found) == set(expected)
    assert store == {b"key 5": b"after the clear"}


def test_a_view_is_of_the_moment_it_was_made(store):
    store.put_many(ITEMS)
    keys, values, items = store.keys(), store.values(), store.items()
    store.clear()
    store[b"k"] = b"v"
    assert len(keys) == len(values) == len(items) == 3000
    assert set(keys) == set(ITEMS) and set(values) == set(ITEMS.values()) and dict(items) == ITEMS
    assert b"k" not in keys and b"key 7" in keys
    assert (b"key 7", b"value 7") in items


def test_many_snapshots_of_different_moments(store):
    model, snapshots = {}, []
    for round_ in range(40):
        snapshots.append((store.items(), dict(model)))
        for i in range(round_ % 7, 60, 7):
            key = b"%d" % i
            if (i + round_) % 3:
                store[key] = model[key] = b"%d %d" % (i, round_)
            else:
                store.delete(key)
                model.pop(key, None)
    for items, expected in reversed(snapshots):
        assert len(items) == len(expected)
        assert dict(items) == expected
    assert store == model


def test_a_snapshot_is_unaffected_by_others_that_end(store):
    store[b"k"] = b"1"
    first = store.items()
    store[b"k"] = b"2"
    second = store.items()
    store[b"k"] = b"3"
    del first
    gc.collect()
    store[b"l"] = b"4"
    assert dict(second) == {b"k": b"2"}
    del second
    gc.collect()
    store[b"m"] = b"5"
    assert store == {b"k": b"3", b"l": b"4", b"m": b"5"}


def test_snapshots_let_go_of_old_values(store):
    """What was kept for a snapshot is given up after it: `undo_records` comes back to nothing."""
    store.put_many({b"%d" % i: b"v" for i in range(500)})
    view = store.items()
    walk = iter(view)
    next(walk)
    for _ in range(3):
        for i in range(500):
            store[b"%d" % i] = b"w"
    assert store.stats()["snapshots"] >= 0
    del view, walk
    gc.collect()
    for i in range(500):
        store[b"%d" % i] = b"x"
    store.sync()
    assert store.stats()["snapshots"] == 0
    assert store.stats()["undo_records"] == 0


def test_an_iterator_of_a_closed_store(store):
    store.put_many(ITEMS)
    walk = iter(store.items())
    next(walk)
    store.close()
    with pytest.raises(pykv.ClosedError):
        for _ in walk:
            pass
    with pytest.raises(pykv.ClosedError):
        iter(store)
    for what in ("keys", "values", "items"):
        with pytest.raises(pykv.ClosedError):
            list(getattr(store, what)())


def test_an_iterator_keeps_its_store_alive(store, open_store):
    other = pykv.open()
    other[b"k"] = b"v"
    walk = iter(other.items())
    keep, other = other, None
    gc.collect()
    assert list(walk) == [(b"k", b"v")]
    keep.close()


def test_iterating_nothing(store):
    walk = iter(store)
    with pytest.raises(StopIteration):
        next(walk)
    store[b"k"] = b"v"
    with pytest.raises(StopIteration):
        next(walk)
    assert list(store) == [b"k"]
