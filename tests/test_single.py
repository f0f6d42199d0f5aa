"""One key at a time: put, get, delete, contains, view, and the mapping's item syntax."""

import sys

import pytest

import pykv

pytestmark = pytest.mark.everywhere

VALUES = [b"", b"v", b"\x00", b"a\x00b", bytes(range(256)), b"x" * 495, b"x" * 496, b"x" * 497, b"y" * 100_000]


def test_a_new_store_is_empty(store):
    assert len(store) == 0
    assert not store
    assert list(store) == []
    assert store.get(b"k") is None
    assert b"k" not in store


@pytest.mark.parametrize("value", VALUES, ids=len)
def test_put_then_get(store, value):
    assert store.put(b"k", value) is None
    assert store.get(b"k") == value
    assert type(store.get(b"k")) is bytes
    assert store[b"k"] == value
    assert b"k" in store
    assert len(store) == 1


@pytest.mark.parametrize("key", [b"", b"\x00", b"\x00\x00", b"k" * 65_535, bytes(range(256))], ids=len)
def test_keys_of_every_shape(store, key):
    store.put(key, b"v")
    store.put(key + b"\x00" if len(key) < 65_535 else b"other", b"w")
    assert store.get(key) == b"v"
    assert sorted(store) == sorted([key, key + b"\x00" if len(key) < 65_535 else b"other"])
    assert store.delete(key) is True
    assert key not in store
    assert len(store) == 1


def test_put_replaces(store):
    for size in (3, 0, 5000, 1, 600, 3):
        store.put(b"k", b"x" * size)
        assert store.get(b"k") == b"x" * size
        assert len(store) == 1


def test_get_with_a_default(store):
    default = object()
    assert store.get(b"k", default) is default
    assert store.get(b"k", default=default) is default
    store.put(b"k", b"")
    assert store.get(b"k", default) == b""


def test_delete(store):
    assert store.delete(b"k") is False
    store.put(b"k", b"v")
    store.put(b"l", b"w")
    assert store.delete(b"k") is True
    assert store.delete(b"k") is False
    assert store.get(b"k") is None
    assert dict(store.items()) == {b"l": b"w"}


def test_item_syntax(store):
    store[b"k"] = b"v"
    assert store[b"k"] == b"v"
    store["k"] = "w"
    assert store[b"k"] == b"w"
    del store[b"k"]
    assert b"k" not in store


def test_a_missing_key_is_a_key_error_that_names_the_key(store):
    for key in (b"missing", "missing"):
        with pytest.raises(KeyError) as caught:
            store[key]
        assert caught.value.args == (key,)
        with pytest.raises(KeyError) as caught:
            del store[key]
        assert caught.value.args == (key,)
    with pytest.raises(KeyError):
        store.view(b"missing")
    assert len(store) == 0


def test_a_deleted_key_can_come_back(store):
    for i in range(200):
        store[b"k"] = b"%d" % i
        assert store[b"k"] == b"%d" % i
        del store[b"k"]
        assert b"k" not in store and len(store) == 0


def test_str_and_its_utf8_are_one_key(store):
    text = "schlüssel ☃ \U0001f511 \x00"
    store[text] = "wert ü"
    assert store[text.encode()] == "wert ü".encode()
    assert text in store and text.encode() in store
    assert store.delete(text.encode()) is True
    assert text not in store


@pytest.mark.parametrize("shape", [bytes, bytearray, memoryview])
def test_bytes_like_keys_and_values(store, shape):
    store.put(shape(b"key"), shape(b"value"))
    assert store.get(shape(b"key")) == b"value"
    assert shape(b"key") in store
    assert store.replace(shape(b"key"), shape(b"new"), expected=shape(b"value")) is True
    assert store[b"key"] == b"new"
    assert store.delete(shape(b"key")) is True


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes have no __buffer__ before Python 3.12")
def test_a_buffer_that_is_another_one_each_time(store):
    class Turning:
        turn = -1

        def __buffer__(self, flags):
            self.turn = -self.turn
            return memoryview(data)[:: self.turn]

    data = bytes(range(256)) * 1024  # large: read where it lies
    store["k"] = Turning()
    assert store["k"] in (data, data[::-1])


def test_buffers_that_are_not_bytes(store):
    import array

    numbers = array.array("I", [1, 2, 3])
    store.put(b"array", numbers)
    assert store[b"array"] == numbers.tobytes()
    store.put(memoryview(b"0123456789")[2:5], memoryview(b"0123456789")[5:])
    assert store[b"234"] == b"56789"


def test_a_value_is_copied_when_it_is_put(store):
    key, value = bytearray(b"key"), bytearray(b"v" * 1000)
    store.put(key, value)
    key[:] = b"KEY"
    value[:] = b"w" * 1000
    assert dict(store.items()) == {b"key": b"v" * 1000}
    value.append(0)  # and no buffer is still held


@pytest.mark.parametrize("size", [0, 1, 496, 497, 100_000])
def test_view(store, size):
    value = bytes(i % 251 for i in range(size))
    store[b"k"] = value
    view = store.view(b"k")
    assert isinstance(view, memoryview)
    assert view == value and view.nbytes == size
    assert view.readonly and view.contiguous and view.format == "B"
    with pytest.raises(TypeError):
        view[:] = value


@pytest.mark.embedded("a view shows the store's own memory")
@pytest.mark.parametrize("size", [3, 100_000])
def test_a_view_outlives_its_key_and_its_store(store, size):
    store[b"k"] = b"v" * size
    view = store.view("k")
    part = view[1:]
    store[b"k"] = b"w" * size
    assert view == b"v" * size
    del store[b"k"]
    for i in range(1000):  # would reuse the memory, if it had been given back
        store._write({b"%d" % n: b"x" * size for n in range(2)}) if i % 100 == 0 else None
    assert view == b"v" * size
    store.close()
    assert view == b"v" * size
    del view
    assert part == b"v" * (size - 1)


def test_sync_per_call_is_accepted_by_every_write(store):
    store.put(b"a", b"1", sync=True)
    store.put(b"a", b"1", sync=None)
    store.put_many({b"b": b"2"}, sync=True)
    assert store.incr(b"n", 2, sync=True) == 2
    assert store.replace(b"a", b"3", expected=b"1", sync=True)
    assert store.delete(b"b", sync=True) is True
    assert store.delete_many([b"a", b"x"], sync=True) == 1
    store.sync()
    assert dict(store.items()) == {b"n": b"2"}


def test_errors_leave_the_store_as_it_was(store):
    store[b"k"] = b"v"
    for bad in (
        lambda: store.put(b"k", None),
        lambda: store.put(None, b"w"),
        lambda: store.put(b"k" * 65_536, b"w"),
        lambda: store.put_many([(b"k", b"w"), (b"l", 3)]),
        lambda: store.incr(b"k"),
        lambda: store.replace(b"k", 3, expected=b"v"),
    ):
        with pytest.raises((TypeError, ValueError)):
            bad()
        assert dict(store.items()) == {b"k": b"v"}
    store[b"l"] = b"w"
    assert store[b"l"] == b"w"


def test_repr_names_the_class_and_the_place(store):
    text = repr(store)
    assert "Store" in text
    if store.path is not None:
        assert store.path in text
    store.close()
    assert "closed" in repr(store)


def test_equality_is_that_of_a_mapping(store, open_store):
    store.update({b"a": b"1", b"b": b"2"})
    other = open_store()
    assert store != other
    other.update(store)
    assert store == other
    assert store == {b"a": b"1", b"b": b"2"}
    assert {b"a": b"1", b"b": b"2"} == store
    assert store != {b"a": b"1"}
    assert store != 5 and not store == 5


def test_it_is_a_mutable_mapping(store):
    from collections.abc import MutableMapping

    assert isinstance(store, MutableMapping)
    assert isinstance(store, (pykv.Store, pykv.RemoteStore))
