"""Every operation of a store at once, from threads that start together.

    python -m stress --seconds 10 --threads 4 --seed 1

Rounds, each with a store of one kind.  First what has an exact outcome, from all threads at once: one
iterator, one batch, one str, one object that all initialize.  Then a mix: operations at random, on
the store and on things that the threads share, while some of these change.  Each checks what it can:
a value tells the key that it was written under.  Every second round ends with a close under the load.
Prints what was called, as JSON.  Meant for free-threaded CPython, and right on every other.
"""

import argparse
import collections
import contextlib
import copy
import faulthandler
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import pykv
from pykv import _core

KINDS = {
    "memory": {},
    "evict": {"max_memory": 3_000_000, "when_full": "evict"},
    "always": {"sync": "always"},
    "interval": {"sync": "interval", "sync_interval": 0.005},
    "never": {"sync": "never", "checkpoint_log_min": 100_000, "checkpoint_log_ratio": 0.1},
    "release": {"gil": "release"},
}
IN_MEMORY = ("memory", "evict", "release")
KEYS = [b"k%d" % i for i in range(300)]
COUNTERS = [b"n%d" % i for i in range(4)]
SIZES = (0, 3, 90, 600, 5000, 70_000)  # copied and pinned values, slabs and large blocks
TSAN = "thread" in os.environ.get("PYKV_SANITIZER", "")


def new_value(key, rng):
    return key + b"|" + b"v" * rng.choice(SIZES)


def check(key, value):
    right = value.lstrip(b"-").isdigit() if key in COUNTERS else value.startswith(key + b"|")
    assert right, f"{key!r} has {value[:40]!r}"


class Round:
    """A store, what the threads share, and the outcome."""

    def __init__(self, kind, folder, threads, seed):
        self.kind, self.folder, self.thread_count, self.seed = kind, folder, threads, seed
        self.path = None if kind in IN_MEMORY else folder / "store"
        self.options = KINDS[kind]
        self.store = pykv.open(self.path, **self.options)
        self.closing = False
        self.errors = []
        self.calls = collections.Counter()
        rng = random.Random(seed)
        for key in KEYS:
            self.store[key] = new_value(key, rng)
        self.keys = list(KEYS)  # these change while they are read
        self.pairs = [(key, new_value(key, rng)) for key in KEYS]
        self.dict = dict(self.pairs)
        self.snapshot = self.store._snapshot()
        self.frozen = dict(self.snapshot.items())
        self.walk = self.snapshot.items()
        self.store[KEYS[0]] = new_value(KEYS[0], rng)  # it may have been evicted
        self.view = self.store.view(KEYS[0])
        self.batch = self.store.batch().__enter__()

    def together(self, function, count=None):
        """Calls it with a number and a generator in so many threads, which a barrier lets go at once."""
        count = count or self.thread_count
        barrier = threading.Barrier(count)

        def body(number):
            barrier.wait()
            try:
                function(number, random.Random(f"{self.seed} {number}"))
            except BaseException as error:
                self.errors.append(error)

        threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


# ---- With an exact outcome --------------------------------------------------------------------------


def one_iterator(r):
    """Each item of an iterator goes to one thread."""
    snapshot = r.store._snapshot()
    whole = sorted(snapshot.items())
    for part in ("keys", "values", "items", "_records"):
        walk, taken = getattr(snapshot, part)(), []
        r.together(lambda number, rng: taken.extend(walk))
        found = sorted(taken)
        if part == "keys":
            assert found == [key for key, _ in whole]
        elif part == "values":
            assert found == sorted(value for _, value in whole)
        else:
            assert [item[:2] for item in found] == whole


def one_batch(r):
    def gather(number, rng):
        for i in range(200):
            batch.put(b"batch %d %d" % (number, i), b"%d" % i)
            batch.put(f"shared {i}", "v", ttl=1000)
            batch.delete(b"nothing %d" % i)

    with r.store.batch() as batch:
        r.together(gather)
    keys = [b"batch %d %d" % (n, i) for n in range(r.thread_count) for i in range(200)]
    assert r.store.get_many(keys) == [b"%d" % i for i in range(200)] * r.thread_count
    assert batch.deleted == 0
    r.store.delete_many(keys + [b"shared %d" % i for i in range(200)])


def one_text(r):
    """A str makes its UTF-8 when it is first asked for it: here, by all at once."""
    for i in range(20):
        text = "ключ " + "щ" * i
        r.together(lambda number, rng: r.store.put(text, text), 2)
        assert r.store.pop(text.encode()) == text.encode()


def one_object(r):
    """One of many calls of __init__ opens the store."""
    for i in range(5):
        outcomes = []

        def initialize(number, rng):
            try:
                store.__init__(r.path and r.folder / f"object {i}")
                outcomes.append("open")
            except RuntimeError:
                outcomes.append("refused")
            assert store.path in (None, str(r.folder / f"object {i}"))
            store["k"] = "v"
            repr(store)

        store = pykv.Store.__new__(pykv.Store)
        r.together(initialize)
        assert outcomes.count("open") == 1 and store == {b"k": b"v"}
        store.close()


def sums(r):
    def count(number, rng):
        for _ in range(100):
            r.store.incr("sum")
            while True:
                old = r.store.get("other sum")
                if r.store.replace("other sum", b"%d" % (int(old or 0) + 1), expected=old):
                    break

    r.together(count)
    assert r.store.pop("sum") == r.store.pop("other sum") == b"%d" % (100 * r.thread_count)


def once(r):
    """What is popped is popped by one."""
    keys = [b"once %d" % i for i in range(300)]
    r.store.put_many({key: key for key in keys})
    taken = []
    r.together(lambda number, rng: taken.extend(r.store.pop(key, None) for key in keys))
    assert sorted(value for value in taken if value is not None) == sorted(keys)


def one_server(r):
    """Started by one of many calls, asked by all, stopped by all."""
    try:
        import redis  # noqa: F401
    except ImportError:
        return
    if r.kind == "evict":
        return
    server = pykv.server.Server.__new__(pykv.server.Server)
    outcomes = []

    def use(number, rng):
        try:
            server.__init__(r.store, port=0, threads=2)
            outcomes.append("started")
        except RuntimeError:
            outcomes.append("refused")
        for _ in range(20):
            server._figures()
            assert server.running and server.port

    r.together(use)
    assert outcomes.count("started") == 1
    with pykv.connect(server.url) as remote:

        def ask(number, rng):
            for i in range(50):
                key = b"remote %d %d" % (number, i)
                remote[key] = key
                assert remote[key] == r.store[key] == key
                with remote.batch() as batch:
                    batch.delete(key)
                    batch.put("remote", "v")
                remote.incr("remote sum")

        r.together(ask)
        assert remote.pop("remote sum") == b"%d" % (50 * r.thread_count)
        assert r.store.pop("remote") == b"v"

    def stop(number, rng):
        with contextlib.suppress(pykv.ClosedError):
            server._figures()
        server.stop(grace=0)
        assert server.wait() is True and not server.running

    r.together(stop)


EXACT = [one_iterator, one_batch, one_text, one_object, sums, once, one_server]

# ---- The mix ----------------------------------------------------------------------------------------

MIX = []


def mixed(*methods, weight=10):
    """Operations of the mix, the names of Store's methods that each calls, and how often it comes."""

    def add(function):
        MIX.append((function, methods, weight))
        return function

    return add


@mixed("get", "__getitem__", "__contains__", weight=60)
def read(r, key, rng):
    value = r.store.get(key)
    if value is not None:
        check(key, value)
    with contextlib.suppress(KeyError):
        check(key, r.store[key])
    assert (key in r.store) in (True, False)
    assert r.store.get(b"never there", "default") == "default"


@mixed("put", "__setitem__", weight=60)
def write(r, key, rng):
    value = new_value(key, rng)
    what = rng.randrange(5)
    if what == 0:
        r.store[key] = value
    elif what == 1:
        r.store.put(key.decode(), bytearray(value))
    elif what == 2:
        r.store.put(key, value, ttl=rng.choice((0.001, 1000)))
    elif what == 3:
        r.store.put(memoryview(key), value.decode(), sync=True)
    else:
        r.store.put(key, value)


@mixed("delete", "__delitem__")
def delete(r, key, rng):
    r.store.delete(key)
    with contextlib.suppress(KeyError):
        del r.store[key]


@mixed("get_many", weight=30)
def read_many(r, key, rng):
    keys = rng.sample(KEYS, 20) + [key.decode()] * rng.randrange(2)
    for one, value in zip(keys, r.store.get_many(keys), strict=True):
        if value is not None:
            check(one if isinstance(one, bytes) else one.encode(), value)
    for value in r.store.get_many(r.keys):  # which others change
        assert value is None or value.startswith(b"k")


@mixed("put_many", "update", weight=20)
def write_many(r, key, rng):
    new = {one: new_value(one, rng) for one in rng.sample(KEYS, 5)}
    what = rng.randrange(6)
    if what == 0:
        r.store.put_many(new, ttl=rng.choice((None, 0.01)))
    elif what == 1:
        r.store.put_many(list(new.items()))
    elif what == 2:
        r.store.update((one.decode(), value) for one, value in new.items())
    elif what == 3:
        r.store.put_many([list(pair) for pair in new.items()])
    elif what == 4:
        r.store.put_many(r.pairs)
    else:
        with contextlib.suppress(RuntimeError):  # it changed its size meanwhile
            r.store.put_many(r.dict)


@mixed("delete_many", "_write")
def delete_many(r, key, rng):
    r.store.delete_many(rng.sample(KEYS, 3))
    one, two, three, four = rng.sample(KEYS, 4)
    expiry = r.store._clock() + 1000
    r.store._write({one: new_value(one, rng), two: None, three: (new_value(three, rng), expiry), four: 0})
    with contextlib.suppress(RuntimeError):
        r.store._write(r.dict)


@mixed()
def change_what_is_shared(r, key, rng):
    what = rng.randrange(6)
    if what == 0:
        r.keys.append(rng.choice([key, key.decode()]))
    elif what == 1:
        del r.keys[: rng.randrange(20)]
    elif what == 2:
        r.keys[:] = rng.sample(KEYS, 200)
    elif what == 3:
        r.pairs[rng.randrange(100) :] = [(one, new_value(one, rng)) for one in rng.sample(KEYS, 60)]
    elif what == 4:
        r.dict[key] = rng.choice([bytes, bytearray])(new_value(key, rng))
    else:
        r.dict.pop(key, None)


@mixed("incr", "replace", "setdefault", weight=20)
def decide(r, key, rng):
    r.store.incr(rng.choice(COUNTERS), rng.choice((1, -3)))
    old = r.store.get(key)
    r.store.replace(key, new_value(key, rng), expected=old)
    check(key, r.store.setdefault(key, new_value(key, rng)))


@mixed("pop", "popitem")
def pop(r, key, rng):
    value = r.store.pop(key, None)
    if value is not None:
        check(key, value)
    with contextlib.suppress(KeyError):
        check(*r.store.popitem())


@mixed("clear", weight=1)
def clear(r, key, rng):
    r.store.clear()


@mixed("view", weight=20)
def view(r, key, rng):
    with contextlib.suppress(KeyError):
        with r.store.view(key) as own:
            check(key, bytes(own))
    with memoryview(r.view.obj) as again:  # of the same pin; one memoryview is not for several threads (3.13)
        check(KEYS[0], bytes(again))


@mixed("__iter__", "__len__", "keys", "values", "items", "__eq__", weight=5)
def look_at_all(r, key, rng):
    assert 0 <= len(r.store) <= len(KEYS) + len(COUNTERS)
    items = r.store.items()
    for one, value in items:
        check(one, value)
    found = dict(items)
    assert len(items) == len(found) == len(list(items))
    assert r.store.keys() | found.keys() <= {*KEYS, *COUNTERS}
    assert all(isinstance(value, bytes) for value in r.store.values())
    walk = iter(r.store)
    next(walk, None)  # and dropped half read
    assert (r.store == found) in (True, False)


@mixed("_snapshot", weight=20)
def snapshots(r, key, rng):
    assert r.snapshot.get(key) == r.frozen.get(key)
    assert (key in r.snapshot) == (key in r.frozen)
    with contextlib.suppress(KeyError):
        assert r.snapshot[key] == r.frozen[key]
    assert len(r.snapshot) == len(r.frozen)
    walk = r.walk
    for _ in range(10):
        item = next(walk, None)
        if item is None:
            r.walk = r.snapshot.items()
            break
        assert r.frozen[item[0]] == item[1]
    cycle = [iter(r.store._snapshot())]
    cycle.append(cycle)


@mixed("batch")
def batches(r, key, rng):
    with r.store.batch() as own:
        own[key] = new_value(key, rng)
        own.delete(KEYS[1])
        own.put(KEYS[2], new_value(KEYS[2], rng), ttl=10)
        own.expire(KEYS[3], 100)
        own.persist(KEYS[2])
        own.put_many({KEYS[4]: new_value(KEYS[4], rng)})
        own.delete_many([KEYS[5]])
    shared = r.batch
    with contextlib.suppress(RuntimeError):  # it is over, or changes while it is committed
        shared.put(key, new_value(key, rng))
        shared.expire(KEYS[3], 100)
        repr(shared)
        if rng.random() < 0.05:
            r.batch = r.store.batch().__enter__()
            shared.__exit__(None, None, None)


@mixed("ttl", "expire", "persist", "_expiry_of", "_expiry_after", "_clock")
def expiry(r, key, rng):
    r.store.expire(key, rng.choice((0.001, 0.01, 1000)))
    with contextlib.suppress(KeyError):
        left = r.store.ttl(key)
        assert left is None or 0 <= left <= 1000
    r.store.persist(rng.choice(KEYS))
    assert r.store._expiry_of(key) is None or r.store._expiry_of(key) != 1
    assert r.store._expiry_after(1) >= r.store._clock()


@mixed("sync", "stats", "recovery", "path", "closed", "__repr__", "__reduce__", weight=5)
def look_at_it(r, key, rng):
    stats = r.store.stats()
    assert stats["entries"] <= len(KEYS) + len(COUNTERS) and stats["path"] == r.store.path
    assert r.store.recovery["clean"] is True
    repr(r.store)
    r.store.sync()
    assert r.store.closed in (True, False)
    with contextlib.suppress(TypeError):
        copy.copy(r.store)
        raise AssertionError("it was copied")


@mixed("checkpoint", "preload", weight=2)
def upkeep(r, key, rng):
    told = []
    r.store.checkpoint(progress=lambda done, total: told.append(done))
    r.store.preload()


@mixed("backup", "_verify", "close", weight=1)
def copies(r, key, rng):
    r.store._verify()
    place = Path(tempfile.mkdtemp(dir=r.folder))
    r.store.backup(place)
    with pykv.open(place, sync="never") as other:
        for one, value in other.items():
            check(one, value)
    shutil.rmtree(place)
    if r.path is not None:  # another handle
        with pykv.open(r.path, **r.options) as handle:
            handle.get(key)


@mixed(weight=5)
def errors(r, key, rng):
    wrong = [
        (TypeError, lambda: r.store.get(1)),
        (TypeError, lambda: r.store.put(key, None)),
        (TypeError, lambda: r.store.put_many([(key, 1)])),
        (TypeError, lambda: r.store.get_many(key)),
        (ValueError, lambda: r.store.put(key, b"", sync=False)),
        (pykv.LimitError, lambda: r.store.put(b"k" * 70_000, b"")),
        (ValueError, lambda: r.store.put_many([(key, b"1", b"2")])),
        (UnicodeEncodeError, lambda: r.store.get("\ud800")),
    ]
    kind, call = rng.choice(wrong)
    with contextlib.suppress(kind):
        call()
        raise AssertionError("no error")


@mixed(weight=1)
def collect(r, key, rng):
    gc.collect()  # stops all threads


@mixed(weight=1)
def fork(r, key, rng):
    if TSAN or rng.random() < 0.8:
        return
    pid = os.fork()
    if pid == 0:
        try:
            r.store.get(key)
        except pykv.ForkError:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert r.closing or status == 0


def covered():
    """What of Store the mix does not call."""
    called = {name for _, methods, _ in MIX for name in methods}
    return {name for name in vars(_core.Store) if not name.startswith("__")} - called


def mix(r, seconds):
    functions, weights = [f for f, _, _ in MIX], [w for _, _, w in MIX]
    deadline = time.monotonic() + seconds
    closes = r.seed % 2 == 1

    def work(number, rng):
        calls = collections.Counter()
        while not r.errors and time.monotonic() < deadline + (5 if closes else 0):
            (function,) = rng.choices(functions, weights)
            try:
                function(r, rng.choice(KEYS), rng)
            except pykv.ClosedError:
                assert r.closing, "nobody closed it"
                break
            except pykv.MemoryLimitError:  # of a batch
                assert r.kind == "evict"
            calls[function.__name__] += 1
            if closes and time.monotonic() > deadline:
                r.closing = True
                r.store.close()
        for name, count in calls.items():
            with lock:
                r.calls[name] += count

    lock = threading.Lock()
    r.together(work)
    if not r.store.closed:
        for key, value in r.store.items():
            check(key, value)
        r.store._verify()
    r.view.release()
    r.store.close()


def run(seconds, threads, seed, kinds):
    calls, rounds = collections.Counter(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or rounds < len(kinds):
        kind = kinds[rounds % len(kinds)]
        folder = Path(tempfile.mkdtemp(prefix="pykv-stress-"))
        r = Round(kind, folder, threads, seed + rounds)
        try:
            for exact in EXACT:
                exact(r)
                calls[exact.__name__] += 1
            mix(r, max(0.3, seconds / len(kinds) / 3))
        except BaseException:
            print(f"round {rounds}: kind {kind}, seed {seed + rounds}", file=sys.stderr)
            raise
        finally:
            with contextlib.suppress(Exception):
                r.store.close()
            shutil.rmtree(folder, ignore_errors=True)
        calls += r.calls
        rounds += 1
    return {"rounds": rounds, "calls": sum(calls.values()), "by name": dict(calls)}


def main():
    parser = argparse.ArgumentParser(prog="python -m stress", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    assert not covered(), f"no operation calls {covered()}"
    faulthandler.dump_traceback_later(options.seconds * 20 + 600, exit=True)
    sys.setswitchinterval(1e-5)
    gil = sys._is_gil_enabled() if hasattr(sys, "_is_gil_enabled") else True
    print(f"seed {options.seed}, pykv {pykv.__file__}", file=sys.stderr)
    done = run(options.seconds, options.threads, options.seed, options.kinds)
    print(json.dumps({"gil": gil, "seed": options.seed, **done}))


if __name__ == "__main__":
    main()
