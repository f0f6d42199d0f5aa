"""Writes that look first: incr, replace, setdefault, pop, popitem."""

import pytest

import pykv

pytestmark = pytest.mark.everywhere

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)


def test_incr(store):
    assert store.incr(b"n") == 1
    assert store.incr("n") == 2
    assert store.incr(b"n", 40) == 42
    assert store.incr(b"n", by=-50) == -8
    assert store.incr(b"n", 0) == -8
    assert store[b"n"] == b"-8"
    assert type(store.incr(b"n")) is int


def test_incr_starts_from_a_stored_number(store):
    for text, number in ((b"0", 0), (b"-5", -5), (b"123456789012345678", 123456789012345678)):
        store[b"n"] = text
        assert store.incr(b"n", 3) == number + 3
        assert store[b"n"] == b"%d" % (number + 3)


@pytest.mark.parametrize("text", [b"", b"x", b"1.5", b" 1", b"1 ", b"1\x00", b"0x10", b"--1", b"-", b"1_0",
                                  b"\xd9\xa1", b"9" * 40])  # fmt: skip
def test_incr_of_what_is_no_integer(store, text):
    store[b"n"] = text
    with pytest.raises((ValueError, OverflowError)):
        store.incr(b"n")
    assert store[b"n"] == text


def test_incr_to_the_ends_of_64_bits(store):
    assert store.incr(b"n", INT64_MAX) == INT64_MAX
    with pytest.raises((OverflowError, ValueError)):
        store.incr(b"n")
    assert store[b"n"] == b"%d" % INT64_MAX
    assert store.incr(b"m", INT64_MIN) == INT64_MIN
    with pytest.raises((OverflowError, ValueError)):
        store.incr(b"m", -1)
    assert store[b"m"] == b"%d" % INT64_MIN
    assert store.incr(b"m", INT64_MAX) == -1
    for by in (2**63, -(2**63) - 1, 10**30):
        with pytest.raises((OverflowError, ValueError)):
            store.incr(b"m", by)
    assert store[b"m"] == b"-1"


def test_incr_by_something_else(store):
    for by in ("1", 1.0, None, b"1"):
        with pytest.raises(TypeError, match=type(by).__name__):
            store.incr(b"n", by)
    assert len(store) == 0


def test_replace(store):
    assert store.replace(b"k", b"1", expected=None) is True
    assert store.replace(b"k", b"2", expected=None) is False
    assert store[b"k"] == b"1"
    assert store.replace(b"k", b"2", expected=b"x") is False
    assert store.replace(b"k", "2", expected="1") is True
    assert store[b"k"] == b"2"
    assert store.replace(b"x", b"1", expected=b"") is False
    assert b"x" not in store


def test_replace_compares_whole_values(store):
    store[b"k"] = b"abc"
    for expected in (b"ab", b"abcd", b"abd", b"", b"ABC", b"abc\x00"):
        assert store.replace(b"k", b"new", expected=expected) is False
    store[b"k"] = b""
    assert store.replace(b"k", b"new", expected=None) is False
    assert store.replace(b"k", b"x" * 5000, expected=b"") is True
    assert store.replace(b"k", b"new", expected=b"x" * 4999 + b"y") is False
    assert store.replace(b"k", b"new", expected=b"x" * 5000) is True


def test_replace_needs_expected_by_name(store):
    with pytest.raises(TypeError):
        store.replace(b"k", b"v")
    with pytest.raises(TypeError):
        store.replace(b"k", b"v", b"w")
    with pytest.raises(TypeError, match="int"):
        store.replace(b"k", b"v", expected=1)


def test_setdefault(store):
    assert store.setdefault(b"k", b"1") == b"1"
    assert store.setdefault(b"k", b"2") == b"1"
    assert store.setdefault("k", "2") == b"1"
    assert store.setdefault(b"l", "text") == b"text"
    assert store.setdefault(b"m", bytearray(b"array")) == b"array"
    assert type(store.setdefault(b"o", bytearray(b"array"))) is bytes
    assert store.setdefault(b"p") == b""
    assert store.setdefault(b"q", b"z" * 5000) == b"z" * 5000
    assert store.setdefault(b"q", b"") == b"z" * 5000
    assert len(store) == 6


def test_pop(store):
    store.update({b"a": b"1", b"b": b"2" * 5000, b"c": b""})
    assert store.pop(b"a") == b"1"
    assert store.pop("b", None) == b"2" * 5000
    assert store.pop(b"c") == b""
    assert len(store) == 0
    with pytest.raises(KeyError) as caught:
        store.pop(b"a")
    assert caught.value.args == (b"a",)
    assert store.pop(b"a", None) is None
    assert store.pop(b"a", 5) == 5


def test_popitem(store):
    items = {b"%d" % i: b"v%d" % i for i in range(1000)}
    store.put_many(items)
    found = {}
    while store:
        key, value = store.popitem()
        assert key not in found
        found[key] = value
    assert found == items
    with pytest.raises(KeyError):
        store.popitem()


def test_popitem_of_a_table_with_one_key_left(store):
    """However large the table has been, one item is found again."""
    store.put_many({b"%d" % i: b"v" for i in range(20_000)})
    store.delete_many([b"%d" % i for i in range(19_999)])
    assert store.popitem() == (b"19999", b"v")
    assert len(store) == 0


def test_wrong_values_are_limit_errors(store):
    for call in (
        lambda: store.setdefault(b"k" * 65_536, b""),
        lambda: store.pop(b"k" * 65_536),
        lambda: store.incr(b"k" * 65_536),
        lambda: store.replace(b"k" * 65_536, b"", expected=None),
    ):
        with pytest.raises(pykv.LimitError):
            call()
    assert len(store) == 0
