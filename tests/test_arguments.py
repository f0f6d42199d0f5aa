"""What is no key and no value: each refused with an exception that says what it was given."""

import mmap

import pytest

import pykv

pytestmark = pytest.mark.everywhere

KEY_MAX = 65_535
VALUE_MAX = 512 << 20


class Named:
    """No key: its type's name must be in the message."""


NO_KEYS = [None, 5, 1.5, (b"k",), [b"k"], object(), Named(), b"k".__len__]

CALLS_WITH_A_KEY = {
    "get": lambda s, k: s.get(k),
    "getitem": lambda s, k: s[k],
    "put": lambda s, k: s.put(k, b"v"),
    "setitem": lambda s, k: s.__setitem__(k, b"v"),
    "delete": lambda s, k: s.delete(k),
    "delitem": lambda s, k: s.__delitem__(k),
    "contains": lambda s, k: k in s,
    "get_many": lambda s, k: s.get_many([b"k", k]),
    "put_many": lambda s, k: s.put_many([(b"a", b"b"), (k, b"v")]),
    "update": lambda s, k: s.update([(b"a", b"b"), (k, b"v")]),
    "delete_many": lambda s, k: s.delete_many([b"k", k]),
    "incr": lambda s, k: s.incr(k),
    "replace": lambda s, k: s.replace(k, b"v", expected=None),
    "setdefault": lambda s, k: s.setdefault(k, b"v"),
    "pop": lambda s, k: s.pop(k, None),
    "view": lambda s, k: s.view(k),
    "batch": lambda s, k: s.batch().__enter__().put(k, b"v"),
}

CALLS_WITH_A_VALUE = {
    "put": lambda s, v: s.put(b"k", v),
    "setitem": lambda s, v: s.__setitem__(b"k", v),
    "put_many": lambda s, v: s.put_many([(b"a", b"b"), (b"k", v)]),
    "put_many of a mapping": lambda s, v: s.put_many({b"a": b"b", b"k": v}),
    "update": lambda s, v: s.update({b"a": b"b"}, k=v),
    "replace": lambda s, v: s.replace(b"k", v, expected=None),
    "setdefault": lambda s, v: s.setdefault(b"k", v),
    "batch": lambda s, v: s.batch().__enter__().put(b"k", v),
}


@pytest.mark.parametrize("call", CALLS_WITH_A_KEY.values(), ids=CALLS_WITH_A_KEY)
@pytest.mark.parametrize("key", NO_KEYS, ids=lambda k: type(k).__name__)
def test_no_key(any_store, call, key):
    with pytest.raises(TypeError, match=type(key).__name__) as caught:
        call(any_store, key)
    assert "key" in str(caught.value)
    assert len(any_store) == 0


@pytest.mark.parametrize("call", CALLS_WITH_A_VALUE.values(), ids=CALLS_WITH_A_VALUE)
@pytest.mark.parametrize("value", [None, 5, 1.5, (), [], Named()], ids=lambda v: type(v).__name__)
def test_no_value(any_store, call, value):
    with pytest.raises(TypeError, match=type(value).__name__) as caught:
        call(any_store, value)
    assert "value" in str(caught.value)
    assert len(any_store) == 0


@pytest.mark.parametrize("call", CALLS_WITH_A_KEY.values(), ids=CALLS_WITH_A_KEY)
@pytest.mark.parametrize("shape", [bytes, bytearray, memoryview, lambda k: k.decode()],
                         ids=["bytes", "bytearray", "memoryview", "str"])  # fmt: skip
def test_a_key_of_one_byte_too_many(any_store, call, shape):
    with pytest.raises(pykv.LimitError, match="65,?_?536") as caught:
        call(any_store, shape(b"k" * (KEY_MAX + 1)))
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, pykv.Error)
    assert len(any_store) == 0


@pytest.mark.parametrize("call", CALLS_WITH_A_KEY.values(), ids=CALLS_WITH_A_KEY)
def test_a_key_of_the_longest_size(store, call):
    try:
        call(store, b"k" * KEY_MAX)
    except KeyError:
        pass


def test_the_limit_counts_bytes_not_characters(store):
    with pytest.raises(pykv.LimitError):
        store.put("ü" * 32_768, b"v")
    store.put("ü" * 32_767, b"v")
    assert len(store) == 1


@pytest.mark.parametrize("call", CALLS_WITH_A_VALUE.values(), ids=CALLS_WITH_A_VALUE)
def test_a_value_of_one_byte_too_many(store, call):
    """The memory is mapped and never touched."""
    store[b"old"] = b"v"
    with mmap.mmap(-1, VALUE_MAX + 1, flags=mmap.MAP_PRIVATE) as area:
        with memoryview(area) as value, pytest.raises(pykv.LimitError, match="536870913|536,870,913"):
            call(store, value)
    assert store == {b"old": b"v"}


@pytest.mark.parametrize("kind", ["memory", "never"])
def test_a_batch_over_the_limit_of_one_commit(open_store, tmp_path, kind):
    """1 GiB in one commit: refused, whole, before anything is changed or copied to the log."""
    store = open_store(None if kind == "memory" else tmp_path / "store", sync="never")
    store[b"old"] = b"v"
    with mmap.mmap(-1, VALUE_MAX, flags=mmap.MAP_PRIVATE) as area, memoryview(area) as value:
        with pytest.raises(pykv.LimitError):
            store.put_many([(b"a", value), (b"b", value), (b"c", value)])
    assert store == {b"old": b"v"}
    store[b"old"] = b"w"


def test_surrogates_are_no_utf8(store):
    for call in (lambda: store.put("\ud800", b"v"), lambda: store.put(b"k", "\ud800"), lambda: store.get("\ud800")):
        with pytest.raises(UnicodeEncodeError):
            call()
    assert len(store) == 0


def test_a_buffer_that_is_not_contiguous(store):
    for call in (
        lambda: store.put(memoryview(b"abcdef")[::2], b"v"),
        lambda: store.put(b"k", memoryview(b"abcdef")[::2]),
        lambda: store.get(memoryview(b"abcdef")[::2]),
    ):
        try:
            call()
        except (BufferError, TypeError, ValueError):
            assert len(store) == 0
        else:
            assert set(store) <= {b"ace", b"k"} and set(store.values()) <= {b"v", b"ace"}


def test_a_released_buffer(store):
    view = memoryview(b"key")
    view.release()
    with pytest.raises(ValueError):
        store.get(view)
    with pytest.raises(ValueError):
        store.put(b"k", view)
    assert len(store) == 0


@pytest.mark.parametrize("call", [
    lambda s: s.get(),
    lambda s: s.get(b"k", 1, 2),
    lambda s: s.get(b"k", other=1),
    lambda s: s.put(b"k"),
    lambda s: s.put(b"k", b"v", True),
    lambda s: s.put(b"k", b"v", fast=True),
    lambda s: s.put(),
    lambda s: s.delete(),
    lambda s: s.delete(b"k", b"l"),
    lambda s: s.get_many(),
    lambda s: s.get_many(5),
    lambda s: s.get_many(None),
    lambda s: s.put_many(),
    lambda s: s.put_many(None),
    lambda s: s.delete_many(),
    lambda s: s.delete_many(5),
    lambda s: s.incr(),
    lambda s: s.incr(b"k", 1, 2),
    lambda s: s.replace(b"k"),
    lambda s: s.setdefault(),
    lambda s: s.setdefault(b"k", b"v", b"w"),
    lambda s: s.pop(),
    lambda s: s.pop(b"k", 1, 2),
    lambda s: s.popitem(1),
    lambda s: s.clear(1),
    lambda s: s.keys(1),
    lambda s: s.values(1),
    lambda s: s.items(1),
    lambda s: s.view(),
    lambda s: s.sync(1),
    lambda s: s.stats(1),
    lambda s: s.close(1),
])  # fmt: skip
def test_wrong_numbers_of_arguments(any_store, call):
    with pytest.raises(TypeError):
        call(any_store)
    assert len(any_store) == 0 and not any_store.closed


@pytest.mark.parametrize("sync", [False, "always", 1, 0])
def test_sync_per_call_is_true_or_none(open_store, sync):
    """`sync=False` would promise less than the store's mode: there is no such thing."""
    store = open_store()
    store[b"k"] = b"0"
    for call in (
        lambda: store.put(b"k", b"v", sync=sync),
        lambda: store.put_many({b"k": b"v"}, sync=sync),
        lambda: store.incr(b"k", sync=sync),
        lambda: store.replace(b"k", b"1", expected=b"0", sync=sync),
        lambda: store.delete(b"k", sync=sync),
        lambda: store.delete_many([b"k"], sync=sync),
    ):
        with pytest.raises((TypeError, ValueError), match="sync"):
            call()
    assert store == {b"k": b"0"}


@pytest.mark.parametrize("options, error", [
    ({"sync": "sometimes"}, ValueError),
    ({"sync": None}, (TypeError, ValueError)),
    ({"sync": 1}, (TypeError, ValueError)),
    ({"sync_interval": 0}, ValueError),
    ({"sync_interval": -1}, ValueError),
    ({"sync_interval": float("nan")}, ValueError),
    ({"sync_interval": float("inf")}, (ValueError, OverflowError)),
    ({"sync_interval": 1e300}, (ValueError, OverflowError)),
    ({"sync_interval": "1"}, TypeError),
    ({"gil": "maybe"}, ValueError),
    ({"gil": None}, (TypeError, ValueError)),
    ({"speed": "fast"}, TypeError),
])  # fmt: skip
def test_wrong_options(tmp_path, options, error):
    with pytest.raises(error):
        pykv.open(tmp_path / "store", **{"sync": "interval", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [5, 1.5, [], object(), bytearray(b"x")])
def test_a_path_that_is_none(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError):
        pykv.open(path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_a_nul(tmp_path):
    for path in (str(tmp_path) + "/a\0b", str(tmp_path).encode() + b"/a\0b"):
        with pytest.raises((ValueError, TypeError)):
            pykv.open(path)
    assert list(tmp_path.iterdir()) == []


def test_the_limits_are_told():
    assert (pykv.KEY_MAX, pykv.VALUE_MAX, pykv.COMMIT_MAX) == (KEY_MAX, VALUE_MAX, 1 << 30)
