"""batch(): all of it, or nothing."""

import pytest

import pykv

pytestmark = pytest.mark.everywhere


def test_a_batch_is_applied_at_its_end(store):
    store.update({b"a": b"1", b"b": b"2"})
    with store.batch() as batch:
        batch.put(b"c", b"3")
        batch[b"d"] = b"4"
        batch.delete(b"a")
        del batch["b"]
        assert store == {b"a": b"1", b"b": b"2"}
    assert store == {b"c": b"3", b"d": b"4"}


def test_an_exception_in_a_batch_drops_it_and_goes_on(store):
    store[b"a"] = b"1"
    with pytest.raises(ZeroDivisionError):
        with store.batch() as batch:
            batch.put(b"a", b"2")
            batch.put(b"b", b"3")
            raise ZeroDivisionError
    assert store == {b"a": b"1"}
    with store.batch() as batch:
        batch.put(b"b", b"3")
    assert store == {b"a": b"1", b"b": b"3"}


def test_of_several_operations_on_a_key_the_last_counts(store):
    store[b"gone"] = b"x"
    with store.batch() as batch:
        batch.put(b"k", b"1")
        batch.put("k", b"2")
        batch.delete(b"k")
        batch.put(b"k", b"3")
        batch.put(b"gone", b"y")
        batch.delete("gone")
        batch.put(b"never", b"z")
        batch.delete(b"never")
    assert store == {b"k": b"3"}


def test_an_empty_batch(store):
    with store.batch():
        pass
    assert len(store) == 0


def test_deleting_what_is_not_there(store):
    with store.batch() as batch:
        batch.delete(b"nothing")
        batch.put(b"k", b"v")
    assert store == {b"k": b"v"}


def test_a_bad_operation_is_refused_where_it_is_made(store):
    with store.batch() as batch:
        with pytest.raises(TypeError, match="int"):
            batch.put(b"k", 5)
        with pytest.raises(TypeError, match="NoneType"):
            batch.put(b"k", None)
        with pytest.raises(TypeError, match="float"):
            batch.delete(1.5)
        with pytest.raises(pykv.LimitError):
            batch.put(b"k" * 65_536, b"")
        with pytest.raises(pykv.LimitError):
            batch.delete(b"k" * 65_536)
        batch.put(b"good", b"v")
    assert store == {b"good": b"v"}


def test_put_many_takes_what_the_store_takes(store):
    class Keyed:
        def keys(self):
            return ["xy"]

        def __getitem__(self, key):
            return "v"

    with store.batch() as batch:
        for no_pairs in (["ab"], [b"ab"], [("a",)], ["ab", ("c", "d")]):
            with pytest.raises((TypeError, ValueError)):
                batch.put_many(no_pairs)
        batch.put_many(Keyed())
    assert store == {b"xy": b"v"}


def test_a_batch_keeps_copies(store):
    key, value = bytearray(b"key"), bytearray(b"value")
    with store.batch() as batch:
        batch.put(key, value)
        key[:] = b"KEY"
        value[:] = b"VALUE"
    assert store == {b"key": b"value"}


def test_a_batch_that_is_over_takes_no_more(store):
    with store.batch() as batch:
        batch.put(b"a", b"1")
    with pytest.raises((pykv.Error, ValueError, RuntimeError)):
        batch.put(b"b", b"2")
    assert store == {b"a": b"1"}


def test_a_large_batch(store):
    with store.batch() as batch:
        for i in range(10_000):
            batch.put(b"%d" % i, b"v%d" % i)
    assert len(store) == 10_000
    with store.batch() as batch:
        for i in range(0, 10_000, 2):
            batch.delete(b"%d" % i)
        for i in range(10_000, 11_000):
            batch.put(b"%d" % i, b"w")
    assert len(store) == 6000
    assert store.get_many([b"4", b"5", b"10999"]) == [None, b"v5", b"w"]


def test_two_batches_at_once_are_two_commits(store):
    with store.batch() as first, store.batch() as second:
        first.put(b"a", b"1")
        second.put(b"a", b"2")
        second.put(b"b", b"2")
    assert store == {b"a": b"1", b"b": b"2"}


def test_a_batch_on_a_store_that_was_closed_meanwhile(store):
    with pytest.raises(pykv.ClosedError):
        with store.batch() as batch:
            batch.put(b"a", b"1")
            store.close()


def test_a_batch_can_ask_for_a_sync(store):
    with store.batch(sync=True) as batch:
        batch.put(b"a", b"1")
    assert store == {b"a": b"1"}


def test_batches_survive_a_reopen(disk):
    with disk.open() as store:
        store.update({b"%d" % i: b"old" for i in range(100)})
        with store.batch() as batch:
            for i in range(50):
                batch.delete(b"%d" % i)
            for i in range(50, 150):
                batch.put(b"%d" % i, b"new")
    with disk.open() as store:
        assert store == {b"%d" % i: b"new" for i in range(50, 150)}
