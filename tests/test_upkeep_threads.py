"""Checkpoints, backups, lazy loading and expiry while many threads, signals, forks and closes go on."""

import signal
import sys
import threading
import time

import pytest

import pykv
from conftest import MODES, assert_holds
from test_processes import in_child, needs_fork
from test_signals import beating
from test_threads import Crew

EAGER = {"checkpoint_log_min": 50_000, "checkpoint_log_ratio": 0.01}
CLOCKS_MS = 3  # how far two readings of clocks, each rounded, are apart

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def fast_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def item(i):
    return b"%d" % i, b"%d " % i * (i % 200)


ITEMS = dict(map(item, range(20_000)))


@pytest.fixture
def saved(path):
    """A checkpointed store with a tail of log behind it, closed; what it holds."""
    with pykv.open(path, sync="never", checkpoint_log_ratio=None) as store:
        store.put_many(ITEMS)
        store.checkpoint()
        tail = {b"%d" % i: b"later" for i in range(0, 20_000, 40)}
        store.put_many(tail)
        store.delete_many([b"%d" % i for i in range(1, 20_000, 40)])
    items = {**ITEMS, **tail}
    for i in range(1, 20_000, 40):
        del items[b"%d" % i]
    return items


class Expiring:
    """Keys that one thread writes, and when each may expire: (value, earliest, latest) in ms, or absent."""

    def __init__(self, store, number):
        self.store, self.number, self.round, self.keys = store, number, 0, {}
        self.seen = {"alive": 0, "expired": 0}

    def expiry(self, ttl, began):
        return (began + ttl, self.store._clock() + ttl + CLOCKS_MS) if ttl else (float("inf"), float("inf"))

    def alive(self, key, began):
        """Whether the key is there, as far as is certain: True, False, or None."""
        if key not in self.keys:
            return False
        _, low, high = self.keys[key]
        return True if self.store._clock() < low else False if began >= high else None

    def step(self):
        self.round += 1
        key = b"%d %d" % (self.number, self.round * 7 % 40)
        ttl = (None, 1, 15, 60, 100_000)[self.round % 5]
        began = self.store._clock()
        match self.round % 7:
            case 0 | 1 | 2:
                value = b"%d " % self.round * (self.round % 50)
                self.store.put(key, value, ttl=ttl and ttl / 1000)
                self.keys[key] = (value, *self.expiry(ttl, began))
            case 3:
                answer = self.store.expire(key, (ttl or 5) / 1000)
                assert self.alive(key, began) in (answer, None)
                if answer:
                    self.keys[key] = (self.keys[key][0], *self.expiry(ttl or 5, began))
                else:
                    self.keys.pop(key, None)
            case 4:
                answer = self.store.persist(key)
                assert self.alive(key, began) in (answer, None)
                if answer:
                    self.keys[key] = (self.keys[key][0], *self.expiry(None, began))
                else:
                    self.keys.pop(key, None)
            case 5:
                answer = self.store.delete(key)
                assert self.alive(key, began) in (answer, None)
                self.keys.pop(key, None)
            case 6:
                with self.store.batch() as batch:
                    batch.put(key, b"batched", ttl=ttl and ttl / 1000)
                    batch.put(b"%d group" % self.number, b"%d" % self.round)
                self.keys[key] = (b"batched", *self.expiry(ttl, began))
        self.look(self.store, b"%d %d" % (self.number, self.round * 11 % 40))

    def look(self, store, key):
        began = store._clock()
        found = store.get(key)
        alive = self.alive(key, began)
        if alive is not None:
            assert (found is not None) == alive, f"{key} is {'gone' if alive else 'there'}: {self.keys.get(key)}"
            self.seen["alive" if alive else "expired"] += key in self.keys
        if found is not None:
            assert found == self.keys[key][0]

    def look_at_all(self, store):
        for key in (b"%d %d" % (self.number, i) for i in range(40)):
            self.look(store, key)


@pytest.mark.parametrize("kind", [None, "always", "never"])
def test_expiry_under_threads(path, open_store, kind, tmp_path):
    options = {} if kind is None else {"path": path, "sync": kind, **EAGER}
    store = open_store(**options)
    owners = [Expiring(store, number) for number in range(4)]
    crew = Crew()
    for owner in owners:
        crew.add(owner.step)
    crew.add(lambda: (len(store), dict(store.items()), time.sleep(0.002)))
    crew.add(lambda: (store.checkpoint(), time.sleep(0.001)))
    backups = []

    def back_up():
        backups.append(tmp_path / f"backup {len(backups)}")
        store.backup(backups[-1])
        time.sleep(0.1)

    crew.add(back_up)
    crew.run(0.6, lambda: all(all(owner.seen.values()) for owner in owners))
    for owner in owners:
        owner.look_at_all(store)
    deadline = time.monotonic() + 20
    while len(store) != len(dict(store.items())):  # nothing may expire between the two
        assert time.monotonic() < deadline
    store._verify()
    store.close()
    for backup in backups:
        with pykv.open(backup, read_only=True) as copy:
            copy._verify()
    if kind is not None:
        with pykv.open(path, sync=kind) as again:
            for owner in owners:
                owner.look_at_all(again)


@pytest.mark.parametrize("preload", [False, True])
def test_readers_and_writers_while_a_store_is_loaded(path, saved, preload):
    for round_ in range(3):
        store = pykv.open(path, preload=preload and round_ == 1, checkpoint_log_ratio=None)
        crew = Crew()
        count = len(saved)
        crew.add(lambda: assert_same(len(store), count), loop=False)
        mine = {}

        def read(first):
            for i in range(first, 20_000, 97):
                key = b"%d" % i
                assert store.get(key) == saved.get(key)
            keys = [b"%d" % i for i in range(first, 20_000, 31)]
            assert store.get_many(keys) == [saved.get(key) for key in keys]

        def walk():
            assert_holds({k: v for k, v in store.items() if not k.startswith(b"new")}, saved)

        def write(name):
            for i in range(60):
                key = b"new %d %d" % (name, i)
                assert store.replace(key, b"%d" % i, expected=None)
                mine[key] = b"%d" % i
                assert store.setdefault(b"%d" % (name + 40 * i + 2), b"x") == saved[b"%d" % (name + 40 * i + 2)]

        def load():
            store.preload()
            stats = store.stats()
            assert stats["load_error"] is None
            assert stats["shards_loaded"] == stats["shards"]

        for name in range(3):
            crew.add(read, name, loop=False)
            crew.add(write, name, loop=False)
        crew.add(walk, loop=False)
        crew.add(load, loop=False)
        if round_ == 2:
            crew.add(store.checkpoint, loop=False)
        crew.run()
        assert len(store) == len(saved) + len(mine)
        store._verify()
        store.delete_many(mine)
        assert len(store) == len(saved)
        store.close()


def assert_same(found, wanted):
    # Only upwards: the writers add keys meanwhile.
    assert found >= wanted


@pytest.mark.parametrize("mode", MODES)
def test_len_is_exact_while_checkpoints_are_made(path, mode):
    """Batches take one set of keys away and bring another: there are always as many."""
    left, right = ([b"%s %d" % (side, i) for i in range(300)] for side in (b"left", b"right"))
    with pykv.open(path, sync=mode) as store:
        store.put_many(dict.fromkeys(left, b"v"))
        store.checkpoint()
    store = pykv.open(path, sync=mode, **EAGER)
    crew = Crew()

    def flip(now=[left, right]):
        with store.batch() as batch:
            for key in now[0]:
                batch.delete(key)
            for key in now[1]:
                batch.put(key, b"v" * 100, ttl=1000)
        now.reverse()

    def count():
        assert len(store) == 300
        assert store.stats()["entries"] == 300

    crew.add(flip)
    crew.add(count)
    crew.add(count)
    crew.add(store.checkpoint)
    crew.add(lambda: assert_equal(len(dict(store.items())), 300))
    crew.run(0.4)
    assert store.stats()["checkpoints"] > 0
    store.close()


def assert_equal(found, wanted):
    assert found == wanted


@pytest.mark.parametrize("mode", MODES)
def test_checkpoints_and_backups_from_several_threads(path, tmp_path, mode):
    """What is acknowledged is there; each copy has of each writer's keys the first ones, and batches whole."""
    store = pykv.open(path, sync=mode, **EAGER)
    done, copies, checkpoints = [0] * 4, [], [0] * 3
    group = [b"group %d" % i for i in range(8)]
    crew = Crew()

    def write(name):
        i = done[name]
        with store.batch() as batch:
            batch.put(b"%d/%d" % (name, i), b"v" * (i * 37 % 3000))
            for key in group:
                batch.put(key, b"%d/%d" % (name, i))
        done[name] = i + 1

    def checkpoint(name):
        store.checkpoint()
        checkpoints[name] += 1

    def copy(name):
        before = list(done)
        target = tmp_path / f"copy {name} {len(copies)}"
        store.backup(target)
        copies.append((before, target, list(done)))
        time.sleep(0.1)

    def check(found, before, after):
        assert len({found.get(key) for key in group}) == 1
        for name in range(4):
            count = sum(key.startswith(b"%d/" % name) for key in found)
            assert before[name] <= count <= after[name] + 1
            for i in range(count):
                assert found[b"%d/%d" % (name, i)] == b"v" * (i * 37 % 3000)

    for name in range(4):
        crew.add(write, name)
    for name in range(3):
        crew.add(checkpoint, name)
    crew.add(copy, 0)
    crew.add(copy, 1)
    crew.run(0.4)
    assert all(done) and all(checkpoints) and len(copies) >= 2
    store._verify()
    store.close()
    for before, target, after in copies:
        with pykv.open(target, read_only=True) as copied:
            check(dict(copied.items()), before, after)
    with pykv.open(path, sync=mode) as store:
        check(dict(store.items()), done, done)
        store._verify()


CALLS = {
    "checkpoint": lambda store, folder: store.checkpoint(),
    "checkpoint with progress": lambda store, folder: store.checkpoint(progress=lambda done, total: None),
    "backup": lambda store, folder: store.backup(folder / f"copy {time.monotonic_ns()}"),
    "preload": lambda store, folder: store.preload(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("wait", [0.002, 0.03])
def test_close_during_a_call_of_another_thread(path, saved, tmp_path, call, wait):
    store = pykv.open(path, sync="never")
    outcomes = []
    ready = threading.Barrier(4)

    def body():
        ready.wait()
        try:
            for i in range(1_000_000):
                store[b"0"] = b"%d" % i
                call(store, tmp_path)
            outcomes.append("it never closed")
        except pykv.ClosedError:
            outcomes.append(None)
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=body, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    time.sleep(wait)
    store.close()
    assert store.closed
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a call on a closing store hangs"
    assert outcomes == [None] * 3
    assert not (path / "checkpoint.tmp").exists()
    with pykv.open(path) as store:
        assert store.recovery["clean"]
        saved[b"0"] = store[b"0"]
        assert_holds(store, saved)


def test_two_handles_on_one_path(path, saved):
    """One handle's end is not the store's; calls through both meet."""
    first = pykv.open(path, sync="never")
    crew = Crew()
    counts = [0, 0]

    def use(name):
        with pykv.open(path, sync="never") as handle:
            for _ in range(3):
                handle.incr(b"n")
                counts[name] += 1
                handle.checkpoint()
            assert len(handle) in (len(saved), len(saved) + 1)

    crew.add(use, 0)
    crew.add(use, 1)
    crew.add(first.checkpoint)
    crew.add(lambda: first.put(b"2", saved[b"2"]))
    crew.run(0.5)
    assert first[b"n"] == b"%d" % sum(counts) and first.stats()["handles"] == 1
    second = pykv.open(path, sync="never")
    first.close()
    second.checkpoint()
    second.close()
    with pykv.open(path, read_only=True) as store:
        assert_holds(store, {**saved, b"n": b"%d" % sum(counts)})


@needs_fork
def test_fork_during_checkpoints(path, saved):
    store = pykv.open(path, sync="never", **EAGER)
    stop = threading.Event()
    errors = []

    def work():
        try:
            while not stop.is_set():
                store.incr(b"n")
                store.checkpoint()
        except BaseException as error:
            errors.append(error)

    def child():
        said = []
        for call in (
            lambda: store.get(b"1"),
            lambda: store.put(b"k", b"child"),
            store.checkpoint,
            store.preload,
            store.stats,
            lambda: store.backup(path.with_name("copy")),
            lambda: store.ttl(b"1"),
        ):
            try:
                call()
                said.append("worked")
            except pykv.ForkError:
                said.append("ForkError")
        store.close()
        return sorted(set(said))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(12):
            time.sleep(0.005)
            assert in_child(child) == (0, "['ForkError']")
    finally:
        stop.set()
        thread.join()
    assert errors == []
    store._verify()
    number = store[b"n"]
    store.close()
    with pykv.open(path) as store:
        assert_holds(store, {**saved, b"n": number})


FILL = """
    import itertools, os, sys, threading, time, pykv
    eager = {"checkpoint_log_min": 50_000, "checkpoint_log_ratio": 0.01}
    store = pykv.open(sys.argv[1], sync="never", **eager)

    def write(name):
        for i in itertools.count():
            store[f"{name} {i % 50}"] = done[name] = "%d " % i * 5000

    def start(call, *args, **options):
        def body():
            try:
                call(*args, **options)
            except pykv.ClosedError:
                pass

        threading.Thread(target=body, daemon=True).start()

    done = {}
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "store.close()",
        "start(store.checkpoint)",
        "start(store.checkpoint, progress=lambda done, total: time.sleep(0.01))",
        "start(store.backup, sys.argv[1] + '.copy')",
        "start(store.preload)",
    ],
    ids=["falls off the end", "close", "checkpoint", "checkpoint with progress", "backup", "preload"],
)
def test_an_interpreter_that_ends_during_a_checkpoint(script, path, saved, end):
    out, err = script.run(
        FILL
        + f"""
    for name in range(3):
        start(write, name)
    while len(done) < 3 or store.stats()["checkpoints"] < 1:
        time.sleep(0.001)
    {end}
    """,
        path,
    )
    assert err == ""
    with pykv.open(path) as store:
        assert store.recovery["clean"]
        assert_holds({k: v for k, v in store.items() if b" " not in k}, saved)
        store._verify()


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "os._exit(0)", "store.close()"])
def test_an_interpreter_that_ends_while_a_store_is_loaded(script, path, saved, end):
    _, err = script.run(
        f"""
        import os, sys, pykv
        store = pykv.open(sys.argv[1])
        assert store["2"]
        {end}
        """,
        path,
    )
    assert err == ""
    with pykv.open(path) as store:
        assert_holds(store, saved)


@pytest.mark.parametrize("call", ["checkpoint", "backup", "preload"])
def test_signals_during_a_call(path, saved, tmp_path, call):
    """A handler runs between the calls of progress, and may use the store."""

    def handler(number, frame):
        try:
            beats.append(store.incr(b"beats"))
        except pykv.ClosedError:
            pass  # between two stores

    def progress(done, total):
        assert 0 <= done <= total
        calls.append(done)

    beats, calls = [], []
    store = pykv.open(path, sync="never")
    with beating(handler):
        deadline = time.monotonic() + 0.4
        rounds = 0
        while time.monotonic() < deadline or len(beats) < 5:
            rounds += 1
            store[b"0"] = b"%d" % rounds
            where = (tmp_path / f"copy {rounds}",) if call == "backup" else ()
            getattr(store, call)(*where, progress=progress)
            if call == "preload":
                store.close()
                store = pykv.open(path, sync="never")
    assert sorted(beats) == list(range(1, len(beats) + 1))  # handlers interrupt each other
    store.close()
    with pykv.open(path) as store:
        assert_holds(store, {**saved, b"0": b"%d" % rounds, b"beats": b"%d" % len(beats)})


def test_a_handler_that_raises_ends_the_call_and_nothing_else(path):
    """KeyboardInterrupt in the middle of a long checkpoint: the next one is as good as any."""
    with pykv.open(path, sync="never", checkpoint_log_ratio=None) as store:
        items = {b"%d" % i: b"v" * 1000 for i in range(30_000)}
        store.put_many(items)
        ended = 0
        for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
            timer = threading.Timer(delay, signal.raise_signal, (signal.SIGINT,))
            store[b"0"] = items[b"0"] = b"%f" % delay
            try:
                timer.start()
                store.checkpoint(progress=lambda done, total: None)
                timer.join()
                time.sleep(1)
            except KeyboardInterrupt:
                ended += 1
            timer.join()
        assert ended == 6
        store.checkpoint()
        assert store.stats()["checkpoint_failures"] == 0
    with pykv.open(path) as store:
        assert_holds(store, items)


# ---- Read-only -----------------------------------------------------------------------------------


def everything(folder):
    """Each file: bytes, size, times, inode, mode; and the directory's own time."""
    stats = {path.name: path.stat() for path in folder.iterdir()} | {".": folder.stat()}
    return {
        name: (st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_ino, st.st_mode, st.st_nlink,
               (folder / name).read_bytes() if name != "." else None)
        for name, st in stats.items()
    }  # fmt: skip


def use(path, items, **options):
    with pykv.open(path, read_only=True, **options) as store:
        crew = Crew()
        for call in (
            lambda: assert_holds(store, items),
            lambda: assert_equal(len(store), len(items)),
            lambda: assert_equal(store.get(b"2"), items.get(b"2")),
            store.preload,
            store.sync,
            store.stats,
            store._verify,
        ):
            crew.add(call, loop=False)
        crew.run()
        with pytest.raises(pykv.ReadOnlyError):
            store.checkpoint()
        time.sleep(0.15)  # a keeper or a sweep would come now


@pytest.mark.parametrize("preload", [False, True])
def test_a_checkpointed_store_is_read_without_a_trace(path, saved, preload):
    before = everything(path)
    assert any(name.endswith(".ckpt") for name in before)
    use(path, saved, preload=preload)
    assert everything(path) == before


def test_nor_does_what_expires_leave_one(path, saved):
    with pykv.open(path) as store:
        store.put_many({b"short %d" % i: b"v" for i in range(100)}, ttl=0.3)
        store.checkpoint()
    before = everything(path)
    time.sleep(0.4)
    use(path, saved)
    assert everything(path) == before


@pytest.mark.parametrize("leftovers", [False, True])
def test_nor_does_a_store_whose_process_was_killed(script, path, saved, leftovers):
    child = script.start(
        FILL
        + """
    for i in range(400):
        store[f"killed {i % 7}"] = "v" * 20_000
    store.checkpoint()
    store["last"] = "v"
    os.kill(os.getpid(), 9)
    """,
        path,
    )
    child.communicate()
    if leftovers:  # whatever a crash may leave half made, or not yet removed
        for name in ("checkpoint.tmp", "recycled.ckpt", "spare.log", "recycled.log", "STORE.tmp"):
            (path / name).write_bytes(b"half" * 1000)
        (path / "00000001.log").write_bytes(b"old")
    before = everything(path)
    items = {**saved, **{b"killed %d" % i: b"v" * 20_000 for i in range(7)}, b"last": b"v"}
    use(path, items)
    assert everything(path) == before
    with pykv.open(path) as store:
        assert_holds(store, items)
    assert not {"checkpoint.tmp", "recycled.ckpt", "spare.log", "recycled.log", "STORE.tmp"} & set(everything(path))
