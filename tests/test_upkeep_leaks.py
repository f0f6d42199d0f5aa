"""The calls for expiry, checkpoints, copies, checks and dumps leave nothing behind: no memory, no reference, no
descriptor."""

import re
import sys

import pytest
from test_leaks import MALLOC, MEASURE, linux

import pykv

CALLS = """
import datetime, io, shutil, tempfile


def progress(done, total):
    pass


def failing(*arguments):
    raise ZeroDivisionError


class Ttl(datetime.timedelta):
    pass


def expiring_batch(store):
    with store.batch() as batch:
        batch.put("a", "1", 50)
        batch.expire("a", 60.5)
        batch.expire("b", datetime.timedelta(1))
        batch.persist("k")
        batch.put(b"c", bytearray(big), ttl=5)


def dumped(format):
    file = io.BytesIO()
    pykv.dump(store, file, format=format, progress=progress)
    file.seek(0)
    return file


def backup(**more):
    place = tempfile.mkdtemp(dir=folder)
    try:
        store.backup(place, **more)
    finally:
        shutil.rmtree(place)


def repair(source, **more):
    place = tempfile.mkdtemp(dir=folder)
    try:
        return pykv.repair(source, place, **more)
    finally:
        shutil.rmtree(place)


folder = tempfile.mkdtemp()
with pykv.open(folder + "/whole") as made:
    made.put_many({str(i): "v" * 50 for i in range(200)})
    made.checkpoint()
shutil.copytree(folder + "/whole", folder + "/damaged")
name = next(name for name in os.listdir(folder + "/damaged") if name.endswith(".ckpt"))
with open(folder + "/damaged/" + name, "r+b") as file:
    file.seek(300)
    file.write(b"????")

CALLS = {
    "put ttl": lambda: store.put("k", "v", ttl=50),
    "put float": lambda: store.put(bytearray(b"k"), big, ttl=50.5),
    "put timedelta": lambda: store.put("k", bytearray(big), ttl=datetime.timedelta(1)),
    "put subclass": lambda: store.put("k", "v", ttl=Ttl(seconds=5), sync=True),
    "put_many ttl": lambda: store.put_many({"k": "v", "l": big}, ttl=50),
    "ttl": lambda: (store.put("k", "v", ttl=50), store.ttl("k"), store.ttl(bytearray(b"k")), store.ttl("small")),
    "ttl miss": lambda: raises(KeyError, store.ttl, "none"),
    "expire": lambda: (store.expire("k", 50), store.expire(memoryview(b"k"), 5.5), store.expire("none", 5)),
    "persist": lambda: (store.persist("k"), store.persist("none")),
    "expired": lambda: (store.put("x", "v", ttl=0.001), store.get("x")),
    "batch": lambda: expiring_batch(store),
    "_write": lambda: store._write({b"a": (b"v", 2**47), b"b": 0, b"c": 2**47, b"d": (b"v", 5), b"e": None}),
    "private": lambda: (store._clock(), store._expiry_after(5), store._expiry_of("k"), store._expiry_of("none")),
    "records": lambda: (list(store._snapshot()._records()), next(store._snapshot()._records())),
    "checkpoint": lambda: (store.put("k", "v"), store.checkpoint(progress=progress)),
    "preload": lambda: store.preload(progress=progress),
    "stats": lambda: store.stats(),
    "backup": lambda: backup(progress=progress),
    "check": lambda: pykv.check(folder + "/whole", progress=progress),
    "check damaged": lambda: (pykv.check(folder + "/damaged"), 1),
    "repair": lambda: repair(folder + "/whole", progress=progress),
    "repair damaged": lambda: repair(folder + "/damaged"),
    "dump": lambda: (dumped("jsonl"), dumped("redis")),
    "load": lambda: (pykv.load(store, dumped("jsonl")), pykv.load(store, dumped("redis"), partial=True)),
    # Errors
    "ttl types": lambda: [raises(TypeError, lambda t=t: store.put("k", big, ttl=t)) for t in ("5", True, object(), b"")],
    "ttl values": lambda: [raises(ValueError, lambda t=t: store.put("k", big, ttl=t)) for t in (0, -1, 2**90, float("nan"), datetime.timedelta(0))],
    "expire wrong": lambda: (raises(TypeError, store.expire, "k", None), raises(TypeError, store.expire, 5, 5)),
    "_write wrong": lambda: [raises((TypeError, ValueError, OverflowError), store._write, {b"a": big, b"b": bad}) for bad in ((b"v",), (b"v", "x"), -1, 1.5, (5, 5))],
    "checkpoint wrong": lambda: raises(TypeError, lambda: store.checkpoint(progress=5)),
    "backup wrong": lambda: (raises(TypeError, store.backup, 5), raises(pykv.StorageError, store.backup, folder)),
    "check wrong": lambda: (raises(TypeError, pykv.check, 5), raises(pykv.StorageError, pykv.check, folder + "/none")),
    "check fails": lambda: raises(ZeroDivisionError, lambda: pykv.check(folder + "/whole", progress=failing)),
    "repair fails": lambda: raises(ZeroDivisionError, lambda: repair(folder + "/damaged", progress=failing)),
    "load wrong": lambda: [raises(pykv.LoadError, pykv.load, store, io.BytesIO(bad)) for bad in (b"x", b"{", b"*1", b"*1\\r\\n$4\\r\\nPING\\r\\n")],
    "dump fails": lambda: raises(ZeroDivisionError, lambda: pykv.dump(store, io.BytesIO(), progress=failing)),
    "full": lambda: raises(pykv.MemoryLimitError, lambda: full.put("k", big)),
    "options": lambda: [raises((TypeError, ValueError), lambda o=o: pykv.open(**o)) for o in ({"max_memory": 0}, {"when_full": 5}, {"checkpoint_log_min": -1}, {"checkpoint_log_ratio": "x"})],
}
full = pykv.open(max_memory=1000)
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("options", ["{}", "{'sync': 'never', 'checkpoint_log_ratio': None}"], ids=["memory", "disk"])
def test_no_call_leaks_memory(script, path, options):
    source = re.sub(r"^CALLS = \{.*?^\}\n", lambda match: CALLS, MEASURE, flags=re.M | re.S)
    assert "put ttl" in source and '"put big"' not in source
    # Fewer calls than there, which are slower; so a little more may stay by chance.
    source = source.replace("range(60)", "range(20)").replace("range(40)", "range(15)")
    source = source.replace("12 * count", "12 * count + 4096")
    child = script.start(source, path if "sync" in options else "", options, 80, env=MALLOC)
    out, err = child.communicate(timeout=300)
    if child.returncode == 77:
        pytest.skip("this C library has no mallinfo2")
    assert child.returncode == 0, out + err


@linux
def test_no_call_leaks_descriptors(path, tmp_path):
    import os
    import shutil

    with pykv.open(path) as store:
        store["k"] = "v"
        store.checkpoint()

    def visit():
        pykv.check(path)
        pykv.repair(path, tmp_path / "a")
        pykv.restore(path, tmp_path / "b")
        for call in (
            lambda: pykv.check(tmp_path / "none"),
            lambda: pykv.repair(path, tmp_path / "a"),
            lambda: pykv.restore(path, tmp_path / "a"),
            lambda: pykv.restore(tmp_path, tmp_path / "c"),
        ):
            with pytest.raises((pykv.Error, ValueError)):
                call()
        with pykv.open(path) as store:
            pykv.dump(store, tmp_path / "dump")
            pykv.load(store, tmp_path / "dump")
            with pytest.raises(pykv.StorageError):
                store.backup(tmp_path)
        shutil.rmtree(tmp_path / "a")
        shutil.rmtree(tmp_path / "b")
        return len(os.listdir("/proc/self/fd"))

    visit()
    assert visit() == visit()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_references(store, tmp_path):
    """Keys, values and functions are held no longer than the call."""
    import datetime

    key, value, ttl, span = b"key" * 7, b"value" * 900, 12345.5, datetime.timedelta(days=5)
    operation, operations = (value, 2**47), {}

    def progress(done, total):
        pass

    operations[key] = operation
    objects = [key, value, ttl, span, operation, operations, progress, store]
    before = [sys.getrefcount(each) for each in objects]
    for i in range(20):
        store.put(key, value, ttl=ttl)
        store.put(key, value, ttl=span)
        store.put_many({key: value}, ttl=ttl)
        store.ttl(key)
        store.expire(key, ttl)
        store.persist(key)
        store._write(operations)
        store.checkpoint(progress=progress)
        store.preload(progress=progress)
        store.backup(tmp_path / f"{i}", progress=progress)
        pykv.check(tmp_path / f"{i}", progress=progress)
        list(store._snapshot()._records())
        with store.batch() as batch:
            batch.put(key, value, ttl)
            batch.expire(key, span)
        del batch
        for wrong in (
            lambda: store.put(key, value, ttl=operation),
            lambda: store.expire(key, operation),
            lambda: store._write({key: (value, key)}),
            lambda: store.checkpoint(progress=operation),
        ):
            with pytest.raises(TypeError):
                wrong()
    del wrong
    assert [sys.getrefcount(each) for each in objects] == before
