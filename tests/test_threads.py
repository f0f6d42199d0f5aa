"""Many threads on one store: nothing half seen, nothing lost, nothing counted twice."""

import sys
import threading
import time

import pytest

import pykv
from conftest import kind_options

THREADS = 8


@pytest.fixture(params=["memory", "always", "interval", "never", "memory-release"])
def kind(request):
    return request.param


@pytest.fixture
def store(kind, tmp_path, open_store):
    return open_store(**kind_options(kind, tmp_path))


@pytest.fixture(autouse=True)
def fast_switching():
    """Threads change places as often as CPython allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Crew:
    """Threads that loop until they are told to stop; the first exception of any of them is raised."""

    def __init__(self):
        self.errors = []
        self.stop = threading.Event()
        self._threads = []

    def add(self, function, *args, loop=True):
        def body():
            try:
                while True:
                    function(*args)
                    if not loop or self.stop.is_set():
                        return
            except BaseException as error:
                self.errors.append(error)
                self.stop.set()

        self._threads.append(threading.Thread(target=body, daemon=True))

    def run(self, seconds=None, enough=lambda: True):
        """For so long, or to their end; longer until `enough` is true."""
        for thread in self._threads:
            thread.start()
        if seconds is not None:
            self.stop.wait(seconds)
            while not enough() and not self.stop.wait(0.01):
                pass
            self.stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread hangs"
        if self.errors:
            raise self.errors[0]


def test_batches_are_never_seen_half(store):
    """Writers set all of a group of keys to one token; no reader may ever find two tokens in it."""
    keys = [b"group %d" % i for i in range(64)]
    store.put_many({key: b"start" for key in keys})
    crew = Crew()
    seen = {"get_many": set(), "items": set(), "in order": 0}

    def write_many(name, count=[0]):
        count[0] += 1
        token = b"%d %d" % (name, count[0])
        store.put_many([(key, token) for key in keys])

    def write_batch(count=[0]):
        count[0] += 1
        token = b"batch %d" % count[0]
        with store.batch() as batch:
            for key in reversed(keys):
                batch.put(key, token)

    def read_many():
        values = set(store.get_many(keys))
        assert len(values) == 1, f"a batch was seen half: {values}"
        seen["get_many"] |= values

    def read_items():
        values = {value for key, value in store.items() if key.startswith(b"group")}
        assert len(values) == 1, f"a snapshot holds half a batch: {values}"
        seen["items"] |= values

    crew.add(write_many, 1)
    crew.add(write_many, 2)
    crew.add(write_batch)
    for _ in range(3):
        crew.add(read_many)
    crew.add(read_items)
    crew.run(1.2, lambda: len(seen["get_many"]) > 2 and len(seen["items"]) > 1)
    for key in keys:
        store.delete(key)


def test_two_gets_in_order_never_go_back_in_time(store):
    """One writer sets a and b to n in one commit; who reads b first and then a finds a at least as new."""
    crew = Crew()
    changes = [0]
    store.put_many({b"a": b"0", b"b": b"0"})

    def write(count=[0]):
        count[0] += 1
        store.put_many({b"a": b"%d" % count[0], b"b": b"%d" % count[0]})

    def read(first, second):
        before = int(store.get(first))
        after = int(store.get(second))
        assert after >= before, f"{second} is older ({after}) than {first} was ({before})"
        changes[0] += after > 0

    crew.add(write)
    for pair in ((b"a", b"b"), (b"b", b"a"), (b"a", b"b")):
        crew.add(read, *pair)
    crew.run(1, lambda: changes[0] > 0)


def test_batches_that_delete_and_bring_back(store):
    """Exactly one of two sets of keys is there at any moment; so is their number."""
    left = [b"left %d" % i for i in range(20)]
    right = [b"right %d" % i for i in range(20)]
    store.put_many({key: b"v" for key in left})
    crew = Crew()
    sides = set()

    def flip(now=[left, right]):
        with store.batch() as batch:
            for key in now[0]:
                batch.delete(key)
            for key in now[1]:
                batch.put(key, b"v")
        now.reverse()

    def look():
        found = [value is not None for value in store.get_many(left + right)]
        assert found in ([True] * 20 + [False] * 20, [False] * 20 + [True] * 20)
        sides.add(found[0])

    def count():
        assert len(store) == 20
        keys = set(store)
        assert keys == set(left) or keys == set(right)

    crew.add(flip)
    crew.add(look)
    crew.add(look)
    crew.add(count)
    crew.run(1, lambda: sides == {True, False})


def test_a_snapshot_stands_still(store):
    items = {b"%d" % i: b"0" for i in range(1000)}
    store.put_many(items)
    crew = Crew()

    def write(count=[0]):
        count[0] += 1
        for i in range(0, 1000, 50):
            store[b"%d" % ((i + count[0]) % 1000)] = b"%d" % count[0]
        store.put_many({b"%d" % i: b"many %d" % count[0] for i in range(0, 1000, 7)})
        store.delete_many([b"%d" % i for i in range(0, 1000, 11)])

    def read():
        snapshot = store.items()
        first = dict(snapshot)
        assert len(first) == len(snapshot)
        for _ in range(3):
            assert dict(snapshot) == first

    crew.add(write)
    crew.add(write)
    crew.add(read)
    crew.add(read)
    crew.run(1)


def test_incr_sums_exactly(store, kind):
    each = 100 if kind == "always" else 1000
    results = [[] for _ in range(THREADS)]
    crew = Crew()

    def count(mine):
        for _ in range(each):
            mine.append(store.incr(b"n"))
            store.incr(b"m", -2)

    for mine in results:
        crew.add(count, mine, loop=False)
    crew.run()
    assert store[b"n"] == b"%d" % (each * THREADS)
    assert store[b"m"] == b"%d" % (-2 * each * THREADS)
    assert sorted(n for mine in results for n in mine) == list(range(1, each * THREADS + 1))
    for mine in results:
        assert mine == sorted(mine)


def test_replace_as_a_lock_free_counter(store, kind):
    each = 40 if kind == "always" else 300
    store[b"n"] = b"0"
    crew = Crew()

    def count():
        for _ in range(each):
            while True:
                old = store.get(b"n")
                if store.replace(b"n", b"%d" % (int(old) + 1), expected=old):
                    break

    for _ in range(THREADS):
        crew.add(count, loop=False)
    crew.run()
    assert store[b"n"] == b"%d" % (each * THREADS)


def test_setdefault_has_one_winner(store):
    for round_ in range(30):
        barrier = threading.Barrier(THREADS)
        results = []
        crew = Crew()

        def race(name):
            barrier.wait()
            results.append(store.setdefault(b"%d" % round_, b"%d" % name))

        for name in range(THREADS):
            crew.add(race, name, loop=False)
        crew.run()
        assert len(results) == THREADS and set(results) == {store[b"%d" % round_]}


def test_pop_and_popitem_give_each_item_once(store):
    items = {b"%d" % i: b"v%d" % i for i in range(800)}
    store.put_many(items)
    taken = []
    crew = Crew()

    def pop():
        for i in range(0, 800, 2):
            value = store.pop(b"%d" % i, None)
            if value is not None:
                taken.append((b"%d" % i, value))

    def popitem():
        try:
            for _ in range(200):
                taken.append(store.popitem())
        except KeyError:
            pass

    for _ in range(3):
        crew.add(pop, loop=False)
        crew.add(popitem, loop=False)
    crew.run()
    assert len(taken) == len(set(taken))
    assert dict(taken) | dict(store.items()) == items
    assert len(taken) + len(store) == len(items)


def test_each_thread_finds_what_it_wrote(store):
    crew = Crew()

    def work(name):
        count = counters[name]
        counters[name] += 1
        key = b"%d %d" % (name, count % 20)
        value = b"%d" % count * (1 + count % 300)
        store[key] = value
        assert store[key] == value
        assert key in store
        assert store.get_many([key, b"none"]) == [value, None]
        if count % 5 == 0:
            assert store.pop(key) == value
            assert key not in store

    counters = dict.fromkeys(range(THREADS), 0)
    for name in range(THREADS):
        crew.add(work, name)
    crew.run(1)
    assert all(counters.values())


def test_clear_is_one_commit(store):
    keys = [b"%d" % i for i in range(200)]
    crew = Crew()

    def write():
        store.put_many({key: b"v" for key in keys})
        store.clear()

    def read():
        found = {value for value in store.get_many(keys)}
        assert len(found) == 1, "a clear was seen half"
        assert len(store) in (0, 200)
        assert len(dict(store.items())) in (0, 200)

    crew.add(write)
    crew.add(read)
    crew.add(read)
    crew.run(1)


def test_growing_under_readers(store, kind):
    """Shards split while others look keys up that were there all the time."""
    fixed = {b"fixed %d" % i: b"%d" % i for i in range(300)}
    store.put_many(fixed)
    keys, values = list(fixed), list(fixed.values())
    crew = Crew()

    def grow(name):
        start = counters[name]
        counters[name] += 100
        store.put_many({b"%d %d" % (name, i): b"x" * 30 for i in range(start, start + 100)})

    def read():
        assert store.get_many(keys) == values
        for key in keys[:30]:
            assert store[key] == fixed[key]

    counters = {1: 0, 2: 0}
    crew.add(grow, 1)
    crew.add(grow, 2)
    crew.add(read)
    crew.add(read)
    crew.run(1)
    assert len(store) == 300 + sum(counters.values())


@pytest.mark.parametrize("round_", range(5))
def test_close_under_load(store, round_):
    """Every call either works or is a ClosedError; close() waits for those inside."""
    store.put_many({b"%d" % i: b"v" * 3000 for i in range(50)})
    outcomes = []
    started = threading.Barrier(13)
    calls = [
        lambda: store.get(b"1"),
        lambda: store.put(b"2", b"w"),
        lambda: store.get_many([b"%d" % i for i in range(50)]),
        lambda: store.put_many({b"%d" % i: b"x" for i in range(10)}),
        lambda: list(store.items()),
        lambda: store.incr(b"n"),
        lambda: store.view(b"3").tobytes(),
        lambda: store.popitem(),
        lambda: store.stats(),
        lambda: store.sync(),
        lambda: store.delete(b"4"),
        lambda: len(store),
    ]

    def body(call):
        started.wait()
        count = 0
        while True:
            try:
                call()
                count += 1
            except pykv.ClosedError:
                outcomes.append(count)
                return
            except KeyError:
                store.put(b"again", b"v") if not store.closed else None
            except BaseException as error:
                outcomes.append(error)
                return

    def guarded(call):
        try:
            body(call)
        except pykv.ClosedError:
            outcomes.append(0)

    threads = [threading.Thread(target=guarded, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.02 * round_)
    store.close()
    assert store.closed
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a call on a closing store hangs"
    assert [outcome for outcome in outcomes if not isinstance(outcome, int)] == []
    assert len(outcomes) == len(calls)


def test_close_from_many_threads(store):
    store[b"k"] = b"v"
    barrier = threading.Barrier(THREADS)
    crew = Crew()

    def close():
        barrier.wait()
        store.close()
        assert store.closed

    for _ in range(THREADS):
        crew.add(close, loop=False)
    crew.run()


def test_what_was_acknowledged_before_a_close_under_load_is_there(disk):
    store = disk.open()
    written = {}
    crew = Crew()

    def write(name):
        i = 0
        try:
            while True:
                store.put(b"%d %d" % (name, i), b"v")
                written[name] = i = i + 1
        except pykv.ClosedError:
            pass

    for name in range(4):
        crew.add(write, name, loop=False)
    timer = threading.Timer(0.3, store.close)
    timer.start()
    crew.run()
    timer.join()
    with disk.open() as store:
        for name, count in written.items():
            assert store.get_many([b"%d %d" % (name, i) for i in range(count)]) == [b"v"] * count
            assert store.get(b"%d %d" % (name, count + 1)) is None


def test_opening_and_closing_handles_from_threads(disk):
    """Handles on one path come and go; the data is the same store's, whoever is last."""
    first = disk.open()
    total = [0] * THREADS
    crew = Crew()

    def visit(name):
        for _ in range(15):
            with pykv.open(disk.path, **disk.options) as handle:
                handle.incr(b"n")
                total[name] += 1

    for name in range(THREADS):
        crew.add(visit, name, loop=False)
    crew.run()
    assert first[b"n"] == b"%d" % sum(total) == b"120"
    assert first.stats()["handles"] == 1


def test_opening_a_path_while_its_last_handle_closes(disk):
    crew = Crew()
    done = []

    def visit():
        for _ in range(15):
            with pykv.open(disk.path, **disk.options) as handle:
                done.append(handle.incr(b"n"))

    for _ in range(4):
        crew.add(visit, loop=False)
    crew.run()
    assert sorted(done) == list(range(1, 61))


def test_durable_writes_of_many_threads_share_their_syncs(tmp_path, open_store):
    """Group commit: 32 threads need far fewer syncs than commits."""
    store = open_store(tmp_path / "store", sync="always")
    crew, barrier = Crew(), threading.Barrier(32)

    def write(name):
        barrier.wait()  # who begins when others are done has nobody to share with
        for i in range(50):
            store.put(b"%d %d" % (name, i), b"v" * 100)

    before = store.stats()
    for name in range(32):
        crew.add(write, name, loop=False)
    crew.run()
    after = store.stats()
    assert after["commits"] - before["commits"] == 1600
    assert after["syncs"] - before["syncs"] < 1200
    assert len(store) == 1600


def test_one_object_is_opened_by_two_threads(tmp_path):
    """One of them opens it, the other is told; nothing stays open behind it."""
    both = 0
    for round_ in range(40):
        store = pykv.Store.__new__(pykv.Store)
        barrier, errors = threading.Barrier(2), []

        def open_it(path, store=store, barrier=barrier, errors=errors):
            barrier.wait()
            try:
                store.__init__(path, sync="never")
            except RuntimeError as error:
                errors.append(error)

        paths = [tmp_path / f"{round_} {name}" for name in "ab"]
        threads = [threading.Thread(target=open_it, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 1
        store[b"k"] = b"v"
        assert store.stats()["handles"] == 1
        store.close()
        for path in paths:
            if path.exists():
                both += 1
                with pykv.open(path) as other:
                    assert dict(other) in ({}, {b"k": b"v"})
    print(f"both opened in {both - 40} of 40 rounds")
