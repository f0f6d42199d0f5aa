"""Many keys in one call: get_many, put_many, update, delete_many, clear."""

from collections import OrderedDict, UserDict

import pytest

pytestmark = pytest.mark.everywhere


def test_get_many(store):
    store.update({b"a": b"1", b"b": b"", b"c": b"3" * 1000})
    assert store.get_many([b"a", b"x", b"b", "c", b"a"]) == [b"1", None, b"", b"3" * 1000, b"1"]
    assert type(store.get_many([b"a"])) is list
    assert store.get_many([]) == []


@pytest.mark.parametrize("shape", [list, tuple, set, iter, dict.fromkeys, lambda k: (x for x in k)])
def test_get_many_takes_any_iterable(store, shape):
    store[b"a"] = b"1"
    assert store.get_many(shape([b"a"])) == [b"1"]


def test_get_many_of_more_than_fits_in_one_piece(store):
    store.put_many({b"%d" % i: b"v%d" % i for i in range(5000)})
    keys = [b"%d" % i for i in range(-100, 5100)]
    assert store.get_many(keys) == [b"v%d" % i if 0 <= i < 5000 else None for i in range(-100, 5100)]


def test_get_many_of_large_values(store):
    values = [bytes([i]) * (1 << 20) for i in range(8)]
    store.put_many(zip([b"%d" % i for i in range(8)], values))
    assert store.get_many([b"%d" % i for i in range(8)]) == values


@pytest.mark.parametrize("method", ["put_many", "update"])
@pytest.mark.parametrize(
    "shape",
    [dict, OrderedDict, UserDict, lambda d: list(d.items()), lambda d: iter(d.items()),
     lambda d: [list(p) for p in d.items()], lambda d: (p for p in d.items())],
    ids=["dict", "OrderedDict", "UserDict", "pairs", "iterator", "lists", "generator"],
)  # fmt: skip
def test_put_many_takes_mappings_and_pairs(store, method, shape):
    items = {b"a": b"1", b"b": b"", b"c": b"3" * 1000}
    assert getattr(store, method)(shape(items)) is None
    assert dict(store.items()) == items


def test_put_many_takes_a_store(store, open_store):
    other = open_store()
    other.update({b"a": b"1"})
    store.put_many(other)
    store.update(store)
    assert store == {b"a": b"1"}


def test_update_takes_keywords(store):
    store.update(a=b"1", b="2")
    store.update({b"c": b"3"}, a="4")
    assert store == {b"a": b"4", b"b": b"2", b"c": b"3"}
    store.update()
    assert len(store) == 3


def test_of_several_values_for_one_key_the_last_counts(store):
    store.put_many([(b"k", b"1"), ("k", b"2"), (b"l", b""), (bytearray(b"k"), b"3")])
    assert store == {b"k": b"3", b"l": b""}


@pytest.mark.parametrize("method", ["put_many", "update"])
def test_put_many_is_all_or_nothing(store, method):
    def items():
        yield b"a", b"1"
        raise ZeroDivisionError

    many = getattr(store, method)
    with pytest.raises(ZeroDivisionError):
        many(items())
    with pytest.raises(TypeError, match="int"):
        many([(b"a", b"1"), (b"b", 2)])
    with pytest.raises(TypeError, match="float"):
        many([(b"a", b"1"), (1.5, b"2")])
    with pytest.raises(ValueError):
        many([(b"a", b"1"), (b"b", b"2", b"3")])
    with pytest.raises(ValueError):
        many([(b"a", b"1"), (b"b",)])
    with pytest.raises(ValueError):
        many([(b"a", b"1"), (b"b" * 65_536, b"2")])
    with pytest.raises(TypeError):
        many([(b"a", b"1"), 7])
    with pytest.raises(TypeError):
        many(7)
    assert len(store) == 0


def test_put_many_of_nothing(store):
    store.put_many({})
    store.put_many([])
    assert len(store) == 0


def test_put_many_of_many(store):
    items = {b"key %d" % i: b"value %d" % i for i in range(20_000)}
    store.put_many(items)
    assert len(store) == 20_000
    assert dict(store.items()) == items


def test_delete_many(store):
    store.put_many({b"%d" % i: b"v" for i in range(10)})
    assert store.delete_many([b"1", "2", b"x", b"1", bytearray(b"3")]) == 3
    assert store.delete_many([b"1"]) == 0
    assert store.delete_many([]) == 0
    assert store.delete_many(iter([b"4"])) == 1
    assert sorted(store) == [b"0", b"5", b"6", b"7", b"8", b"9"]
    with pytest.raises(TypeError, match="int"):
        store.delete_many([b"5", 6])
    assert len(store) == 6


def test_a_str_is_one_key_not_many(store):
    store.put_many({b"a": b"1", b"b": b"2"})
    for many in (store.get_many, store.delete_many):
        for keys in ("ab", b"ab"):
            with pytest.raises(TypeError):
                many(keys)
    assert len(store) == 2


def test_clear(store):
    store.clear()
    assert len(store) == 0
    store.put_many({b"%d" % i: b"v" for i in range(3000)})
    assert store.clear() is None
    assert len(store) == 0 and list(store) == [] and store.get(b"1") is None
    store[b"1"] = b"w"
    assert store == {b"1": b"w"}


def test_keys_that_write_to_the_store_while_they_are_collected(store):
    """The arguments are Python objects: turning them into bytes can run anything."""

    def keys():
        for i in range(100):
            store[b"%d" % i] = b"v"
            yield b"%d" % i
        store.clear()

    assert store.get_many(keys()) == [None] * 100

    def items():
        for i in range(100):
            store[b"%d" % i] = b"seen"
            yield b"%d" % i, b"put"

    store.put_many(items())
    assert set(store.values()) == {b"put"} and len(store) == 100


def test_lists_that_shrink_while_they_are_collected(store):
    class Evil:
        def __init__(self, victim):
            self.victim = victim

        def __len__(self):
            self.victim.clear()
            return 2

        def __iter__(self):
            self.victim.clear()
            return iter((b"k", b"v"))

    pairs = [[b"a", b"1"]]
    pairs.append(Evil(pairs))
    pairs.append([b"b", b"2"])
    try:
        store.put_many(pairs)
    except (TypeError, ValueError, RuntimeError):
        pass
    assert set(store) <= {b"a", b"k", b"b"}
