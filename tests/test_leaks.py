"""Nothing is left behind: no memory, no reference, no descriptor, no thread, by any call or any error.

Memory is what the C library counts as in use, with Python's own allocations going there too: a
leak of one block per call stands out after a thousand calls.
"""

import os
import sys

import leak_sweep
import pytest

import pykv
from conftest import MALLOC

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the C library's and /proc's figures")

MEASURE = """
import ctypes, gc, os, sys, threading
import pykv

libc = ctypes.CDLL(None)
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


if not hasattr(libc, "mallinfo2"):
    sys.exit(77)
libc.mallinfo2.restype = Info


def in_use():
    gc.collect()
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def raises(kind, call, *args, **options):
    try:
        call(*args, **options)
    except kind:
        return
    raise SystemExit(f"no {kind}")


class Number:
    def __init__(self, count):
        self.count = count


class BadBuffer:
    pass


def bad_pairs():
    yield "a", "1"
    raise ZeroDivisionError


def batch(store):
    with store.batch() as batch:
        batch["a"] = "1"
        batch.put(b"b", b"2" * 1000)
        batch.delete("a")


def failing_batch(store):
    with store.batch() as batch:
        batch["a"] = "1"
        raise ZeroDivisionError


def unfinished_walk(store):
    walk = iter(store.items())
    next(walk)


def cycle(store):
    keep = [iter(store.items()), store.keys()]
    next(keep[0])
    keep.append(keep)


def thread(store):
    t = threading.Thread(target=store.put, args=("t", "v"))
    t.start()
    t.join()


big = b"x" * 20_000
store = None

CALLS = {
    "put": lambda: store.put("k", "v"),
    "put keywords": lambda: store.put(key=b"k", value=b"v"),
    "put sync": lambda: store.put("k", "v", sync=True),
    "put big": lambda: store.put(bytearray(b"k"), bytearray(big)),
    "put memoryview": lambda: store.put(memoryview(b"k"), memoryview(big)),
    "setitem": lambda: store.__setitem__("k", "v"),
    "get": lambda: store.get("k"),
    "get miss": lambda: store.get("none", object()),
    "get big": lambda: store.get("big"),
    "getitem": lambda: store["big"],
    "getitem miss": lambda: raises(KeyError, store.__getitem__, "none"),
    "view": lambda: store.view("big"),
    "view small": lambda: store.view("small"),
    "view slice": lambda: store.view("big")[5:10].tobytes(),
    "view miss": lambda: raises(KeyError, store.view, "none"),
    "contains": lambda: ("k" in store, "none" in store),
    "put and delete": lambda: (store.put("d", big), store.delete("d")),
    "delete miss": lambda: store.delete("none"),
    "delitem miss": lambda: raises(KeyError, store.__delitem__, "none"),
    "get_many": lambda: store.get_many(["k", b"none", bytearray(b"big")]),
    "get_many generator": lambda: store.get_many(str(i) for i in range(50)),
    "put_many": lambda: store.put_many({str(i): "v" * i for i in range(20)}),
    "put_many pairs": lambda: store.put_many([(b"a", "1"), ["b", memoryview(big)]]),
    "put_many mapping": lambda: store.put_many(pykv_like),
    "update": lambda: store.update({"a": "b"}, c="d"),
    "delete_many": lambda: (store.put_many({"x": "1", "y": big}), store.delete_many(["x", b"y", "z"])),
    "batch": lambda: batch(store),
    "failing batch": lambda: raises(ZeroDivisionError, failing_batch, store),
    "_write": lambda: store._write({b"a": b"1", b"b": None}),
    "incr": lambda: store.incr("n"),
    "replace": lambda: (store.replace("r", "1", expected=store.get("r")), store.replace("r", big, expected="x")),
    "setdefault": lambda: (store.setdefault("s", big), store.setdefault("s", big), store.delete("s")),
    "pop": lambda: (store.put("p", big), store.pop("p"), store.pop("p", None)),
    "pop miss": lambda: raises(KeyError, store.pop, "none"),
    "popitem": lambda: (store.put("q", "v"), store.popitem(), fill()),
    "popitem of nothing": lambda: (store.clear(), raises(KeyError, store.popitem), fill()),
    "setdefault keyword": lambda: store.setdefault("k", default="v"),
    "replace nothing": lambda: (store.delete("r"), store.replace("r", big, expected=None)),
    "clear": lambda: (store.clear(), fill()),
    "iter": lambda: list(store),
    "keys": lambda: list(store.keys()),
    "values": lambda: list(store.values()),
    "items": lambda: list(store.items()),
    "views": lambda: ("k" in store.keys(), len(store.items()), store.keys() & {b"k"}, b"v" in store.values()),
    "unfinished walk": lambda: unfinished_walk(store),
    "snapshot": lambda: (store._snapshot().get("k"), len(store._snapshot())),
    "snapshot and writes": lambda: (store.items(), store.put("k", big), store.items(), store.put("k", "v")),
    "snapshot miss": lambda: (store._snapshot().get("none", big), (b"none", b"v") in store.items()),
    "cycle": lambda: cycle(store),
    "eq": lambda: (store == {}, store == store, store != 5),
    "len and bool": lambda: (len(store), bool(store)),
    "repr": lambda: repr(store),
    "stats": lambda: store.stats(),
    "recovery": lambda: (store.recovery, store.path, store.closed),
    "sync": lambda: store.sync(),
    "verify": lambda: store._verify(),
    "context": lambda: store.__enter__(),
    "thread": lambda: thread(store),
    "second handle": lambda: pykv.open(store.path, **options).close() if store.path else pykv.open().close(),
    "dropped": lambda: pykv.open(),
    "subclass": lambda: type("Mine", (pykv.Store,), {})().close(),
    # Errors
    "put type": lambda: raises(TypeError, store.put, "k", Number(1)),
    "put key type": lambda: raises(TypeError, store.put, Number(1), "v"),
    "put arguments": lambda: raises(TypeError, store.put, "k"),
    "put keyword": lambda: raises(TypeError, lambda: store.put("k", "v", no=1)),
    "put sync wrong": lambda: raises((TypeError, ValueError), lambda: store.put("k", big, sync=5)),
    "put limit": lambda: raises(pykv.LimitError, store.put, "k" * 65536, big),
    "put surrogate": lambda: raises(UnicodeEncodeError, store.put, "\\ud800", "v"),
    "put surrogate value": lambda: raises(UnicodeEncodeError, store.put, bytearray(b"k"), "\\ud800"),
    "get type": lambda: raises(TypeError, store.get, None),
    "contains type": lambda: raises(TypeError, store.__contains__, 5),
    "get_many type": lambda: raises(TypeError, store.get_many, ["k", bytearray(b"x"), 5]),
    "get_many none": lambda: raises(TypeError, store.get_many, 5),
    "get_many generator error": lambda: raises(ZeroDivisionError, store.get_many, (1 / 0 for i in [1])),
    "put_many type": lambda: raises(TypeError, store.put_many, [("a", big), (bytearray(b"b"), None)]),
    "put_many shape": lambda: raises(ValueError, store.put_many, [("a", "b"), ("a", "b", "c")]),
    "put_many generator error": lambda: raises(ZeroDivisionError, store.put_many, bad_pairs()),
    "put_many limit": lambda: raises(pykv.LimitError, store.put_many, [("a", big), ("k" * 65536, "v")]),
    "delete_many type": lambda: raises(TypeError, store.delete_many, ["a", bytearray(b"b"), None]),
    "delete type": lambda: raises(TypeError, store.delete, 5),
    "incr value": lambda: raises(ValueError, store.incr, "small"),
    "incr range": lambda: raises(OverflowError, store.incr, "huge", 2**62),
    "incr by": lambda: raises(OverflowError, store.incr, "n", 2**80),
    "incr by type": lambda: raises(TypeError, store.incr, "n", "1"),
    "replace type": lambda: raises(TypeError, lambda: store.replace("k", big, expected=5)),
    "setdefault type": lambda: raises(TypeError, store.setdefault, "k", 5),
    "batch type": lambda: raises(TypeError, lambda: store.batch().__enter__().put("k", 5)),
    "open option": lambda: raises(ValueError, lambda: pykv.open(sync="no")),
    "open type": lambda: raises(TypeError, lambda: pykv.open(5)),
    "open missing": lambda: raises(pykv.StorageError, lambda: pykv.open("/none/none/none")),
    "open no store": lambda: raises(pykv.StorageError, lambda: pykv.open("/proc/self")),
    "closed": lambda: raises(pykv.ClosedError, lambda: closed.get("k")),
    "closed put": lambda: raises(pykv.ClosedError, lambda: closed.put("k", big)),
    "closed walk": lambda: raises(pykv.ClosedError, lambda: list(closed)),
}


def fill():
    store.put_many({"k": "v", "small": "s", "big": big, "n": "1", "huge": str(2**62)})


closed = pykv.open()
closed.close()
pykv_like = pykv.open()
pykv_like.put_many({"a": "1", "b": big})
options = eval(sys.argv[2])
path = sys.argv[1] or None
count = int(sys.argv[3])
store = pykv.open(path, **options)
fill()
leaks = []
for name, call in CALLS.items():
    fill()
    for _ in range(60):
        call()
    # What stays may grow for a while (a table, the interpreter's caches), but not for ever.
    for _ in range(40):
        fill()
        before = in_use(), store.stats()["memory_bytes"]
        for _ in range(count):
            call()
        fill()
        memory, tables = in_use() - before[0], store.stats()["memory_bytes"] - before[1]
        if memory <= 12 * count and tables <= (1 << 18):
            break
    else:
        leaks.append(f"{name}: {memory} bytes, in the store {tables}, after {count} calls")
stats = store.stats()
if stats["snapshots"] != 0 or stats["handles"] != 1:
    leaks.append(f"snapshots or handles are left: {stats}")
store.close()
print(*leaks, sep="\\n")
sys.exit(bool(leaks))
"""


@linux
@pytest.mark.parametrize("options", ["{}", "{'gil': 'release'}", "{'sync': 'never'}"])
def test_no_call_leaks_memory(script, path, options):
    place = path if "sync" in options else ""
    count = 200 if "sync" in options else 400
    child = script.start(MEASURE, place, options, count, env=MALLOC)
    out, err = child.communicate(timeout=600)
    if child.returncode == 77:
        pytest.skip("this C library has no mallinfo2")
    assert child.returncode == 0, out + err


def test_the_sweep_knows_every_function():
    """A new function or parameter needs good arguments in leak_sweep.py; the wrong ones follow from them."""
    functions = {name: names for name, names in leak_sweep.stub().items() if names is not None}
    assert {name: {*positional, *keywords} for name, (positional, keywords) in functions.items()} == {
        name: set(arguments) for name, arguments in leak_sweep.CALLS.items()
    }


@linux
def test_no_error_leaks_here_or_in_a_child(script, quick_folder):
    """Every function, every wrong argument, every state of a store: see leak_sweep.py."""
    child = script.start("import leak_sweep; leak_sweep.main()", quick_folder, 12, env=MALLOC)
    out, err = child.communicate(timeout=600)
    if child.returncode == 77:
        pytest.skip("this C library has no mallinfo2")
    print(out)
    assert child.returncode == 0, out + err


@linux
def test_opening_and_closing_leaves_nothing(script, path):
    out, _ = script.run(
        MEASURE.split("class Number")[0]
        + """
import time


def tasks():
    return len(os.listdir("/proc/self/task"))


def descriptors():
    deadline = time.monotonic() + 30
    while tasks() > at_first and time.monotonic() < deadline:
        time.sleep(0.001)  # a thread that was joined may still stand there
    return len(os.listdir("/proc/self/fd")), tasks()


def visit(i):
    with pykv.open(sys.argv[1], sync="never") as store:
        store[str(i % 10)] = "v" * 1000
        other = pykv.open(sys.argv[1], sync="never")
        raises(ValueError, lambda: pykv.open(sys.argv[1]))
        walk = iter(other.items())
        next(walk)
        other.close()
        view = store.view(str(i % 10))
    raises(pykv.ClosedError, lambda: store.get("k"))
    raises(pykv.StorageError, lambda: pykv.open("/none/none"))
    raises(pykv.StorageError, lambda: pykv.open("/proc/self/status"))
    memory = pykv.open()
    memory["k"] = "v"
    memory.close()


at_first = tasks()
for i in range(20):
    visit(i)
before = in_use(), descriptors()
for i in range(150):
    visit(i)
after = in_use(), descriptors()
print(after[0] - before[0], before[1], after[1])
assert after[1] == before[1], (before, after)
assert after[0] - before[0] < 150 * 16, (before, after)
""",
        path,
        env=MALLOC,
    )


def test_refused_opens_leave_nothing(path, tmp_path):
    """Descriptors and locks of an open that failed half-way are given back."""
    from test_damage import author_with_a_last_frame, change

    author, offset, _, _ = author_with_a_last_frame(tmp_path / "damaged")
    change(author.path(), author.segment.index(b"v" * 50))
    folder = "/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"
    before = len(os.listdir(folder))
    for _ in range(20):
        with pytest.raises(pykv.CorruptionError):
            pykv.open(author.folder)
    assert len(os.listdir(folder)) == before


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_references(store):
    """Keys, values, defaults and containers are held no longer than the call."""
    key, value, default = b"key" * 7, b"value" * 900, object()
    array, view = bytearray(b"array" * 10), memoryview(bytearray(b"view" * 10))
    text = "text" * 20
    keys, pairs, mapping = [key, text], [(key, value)], {key: value}
    objects = [key, value, default, array, view, text, keys, pairs, pairs[0], mapping, store]
    before = [sys.getrefcount(each) for each in objects]
    for _ in range(50):
        store.put(key, value)
        store.put(text, text)
        store.put(array, array)
        store.put(view, view)
        store.get(key, default)
        store.get(b"none", default)
        store.get_many(keys)
        store.put_many(pairs)
        store.put_many(mapping)
        store.update(mapping)
        store.setdefault(key, value)
        store.replace(key, value, expected=value)
        store.pop(b"none", default)
        store.delete_many(keys)
        with store.batch() as batch:
            batch.put(key, value)
            batch.put(text, view)
            batch.delete(array)
        del batch
        for wrong in (lambda: store.put(key, default), lambda: store.get_many([key, default]), lambda: store[default],
                      lambda: store.put_many([(key, value), (text, default)]), lambda: store.put(key, value, sync=default)):
            with pytest.raises((TypeError, ValueError)):
                wrong()
        list(store.items())
    assert [sys.getrefcount(each) for each in objects] == before
    array.append(1)  # no buffer is still exported
    view.release()


def test_a_store_in_a_cycle_is_collected(path):
    """With its iterators and views: the lock is free afterwards."""
    import gc

    store = pykv.open(path, sync="never")
    store["k"] = "v"
    loop = [store, iter(store.items()), store.keys(), store.batch()]
    loop.append(loop)
    with pytest.warns(ResourceWarning):
        del store, loop
        gc.collect()
    with pykv.open(path) as store:
        assert store == {b"k": b"v"}


def test_weak_references(store):
    import gc
    import weakref

    other = pykv.open()
    ref = weakref.ref(other)
    other.close()
    del other
    gc.collect()
    assert ref() is None
    assert weakref.ref(store)() is store
