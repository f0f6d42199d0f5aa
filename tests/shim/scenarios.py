"""What happens to a store on a bad disk. Each function is one scenario, in a process of its own:

    python -m shim.scenarios NAME FOLDER CONTROL GIL

A failed check is an exception, which test_disk_faults.py shows.
"""

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pykv

from . import Control

PATIENCE = 30  # seconds; nothing waits so long unless it hangs


class Place:
    """Where a scenario has its store, and the disk it is on."""

    def __init__(self, folder, control, gil):
        self.path = folder / "store"
        self.disk = control
        self.gil = gil

    def open(self, **options):
        return pykv.open(self.path, gil=self.gil, **options)


def same(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def raises(kind, call, *args, **options):
    """The exception, which must be of exactly this kind."""
    try:
        result = call(*args, **options)
    except pykv.Error as error:
        assert type(error) is kind, f"{error!r} is no {kind.__name__}"
        return error
    raise AssertionError(f"no {kind.__name__}; the call answered {result!r}")


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


class Call(threading.Thread):
    """One call in a thread of its own."""

    def __init__(self, function, *args, **options):
        super().__init__(daemon=True)
        self.function, self.args, self.options = function, args, options
        self.returned = False
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            self.result = self.function(*self.args, **self.options)
        except BaseException as error:
            self.error = error
        self.returned = True

    def end(self):
        """Its result; its exception is raised here."""
        self.join(PATIENCE)
        assert self.returned, f"{self.function} hangs"
        if self.error is not None:
            raise self.error
        return self.result


def idle(store):
    """Waits until the keeper thread has nothing more to write, so that what is counted is the test's."""
    quiet = time.monotonic()
    seen = None
    while time.monotonic() - quiet < 0.15:
        stats = store.stats()
        now = (stats["frames"], stats["syncs"], stats["log_segments"])
        if now != seen:
            seen, quiet = now, time.monotonic()
        time.sleep(0.01)


def look(store):
    """Everything that a reader can see, each way of reading compared with the others."""
    items = dict(store.items())
    keys = sorted(items)
    same(store.get_many(keys), [items[key] for key in keys])
    same(sorted(store.keys()), keys)
    same(sorted(store.values()), sorted(items.values()))
    same(sorted(store), keys)
    same(len(store), len(items))
    for key in keys:
        same(store.get(key), items[key])
        same(store[key], items[key])
        same(store.view(key), items[key])
        assert key in store
    for key in UNKNOWN:
        if key not in items:
            same(store.get(key), None)
            same(store.get_many([key]), [None])
            assert key not in store
    return items


UNKNOWN = [b"new", b"new 2", b"n", b"absent"]


def batch(store):
    with store.batch() as batch:
        batch.put(b"a", b"batched")
        batch.put(b"new", b"x" * 3000)
        batch.delete(b"b")
        batch.delete(b"absent")


BEFORE = {b"a": b"1", b"b": b"2" * 2000, b"c": b"3", b"count": b"41"}

# A write of each kind, and what it makes of BEFORE.
WRITES = {
    "put a new key": (lambda s: s.put(b"new", b"value"), {**BEFORE, b"new": b"value"}),
    "overwrite": (lambda s: s.put(b"a", b"other"), {**BEFORE, b"a": b"other"}),
    "overwrite with a large value": (lambda s: s.put(b"a", b"o" * 100_000), {**BEFORE, b"a": b"o" * 100_000}),
    "setitem": (lambda s: s.__setitem__("new", "value"), {**BEFORE, b"new": b"value"}),
    "delete": (lambda s: s.delete(b"b"), {k: v for k, v in BEFORE.items() if k != b"b"}),
    "delitem": (lambda s: s.__delitem__(b"b"), {k: v for k, v in BEFORE.items() if k != b"b"}),
    "put_many": (
        lambda s: s.put_many({b"a": b"x", b"new": b"y", b"new 2": b"z"}),
        {**BEFORE, b"a": b"x", b"new": b"y", b"new 2": b"z"},
    ),
    "update": (lambda s: s.update(new=b"y"), {**BEFORE, b"new": b"y"}),
    "delete_many": (lambda s: s.delete_many([b"a", b"b", b"absent"]), {b"c": b"3", b"count": b"41"}),
    "batch": (batch, {b"a": b"batched", b"new": b"x" * 3000, b"c": b"3", b"count": b"41"}),
    "incr": (lambda s: s.incr(b"count"), {**BEFORE, b"count": b"42"}),
    "incr from nothing": (lambda s: s.incr(b"n", 7), {**BEFORE, b"n": b"7"}),
    "replace": (lambda s: s.replace(b"a", b"other", expected=b"1"), {**BEFORE, b"a": b"other"}),
    "replace nothing": (lambda s: s.replace(b"new", b"v", expected=None), {**BEFORE, b"new": b"v"}),
    "setdefault": (lambda s: s.setdefault(b"new", b"v"), {**BEFORE, b"new": b"v"}),
    "pop": (lambda s: s.pop(b"b"), {k: v for k, v in BEFORE.items() if k != b"b"}),
    "popitem": (lambda s: s.popitem(), None),
    "clear": (lambda s: s.clear(), {}),
}  # fmt: skip


def set_up(store):
    store.clear()
    store.put_many(BEFORE)
    same(look(store), BEFORE)


def check_after(store, expected):
    if expected is None:  # popitem: any one is gone
        items = look(store)
        same(len(items), len(BEFORE) - 1)
        assert items.items() <= BEFORE.items()
    else:
        same(look(store), expected)


# ---- A sync that takes its time ------------------------------------------------------------------


def readers_during_a_delayed_sync(place):
    """No reader sees a write of any kind before the writer's call may return; and none waits."""
    store = place.open()
    for name, (write, expected) in WRITES.items():
        set_up(store)
        idle(store)
        place.disk.gate = 1
        call = Call(write, store)
        wait_until(lambda: place.disk.waiting > 0)
        for _ in range(3):
            same(look(store), BEFORE)
        snapshot = store.items()
        assert not call.returned, f"{name} returned before its sync"
        place.disk.gate = 0
        call.end()
        check_after(store, expected)
        same(dict(snapshot), BEFORE)
    store._verify()
    store.close()


def several_writers_during_a_delayed_sync(place):
    """Commits queue up behind a sync: none is seen, and none returns."""
    store = place.open()
    set_up(store)
    idle(store)
    place.disk.gate = 1
    calls = [Call(store.put, b"first", b"v")]
    wait_until(lambda: place.disk.waiting > 0)
    calls += [Call(store.put, b"later %d" % i, b"v") for i in range(8)]
    calls += [Call(store.put_many, {b"a": b"%d" % i, b"new": b"%d" % i}) for i in range(4)]
    calls += [Call(store.delete, b"c")]
    time.sleep(0.1)
    same(look(store), BEFORE)
    assert not any(call.returned for call in calls)
    place.disk.gate = 0
    for call in calls:
        call.end()
    items = look(store)
    same(items[b"a"], items[b"new"])
    assert b"c" not in items and b"first" in items and all(b"later %d" % i in items for i in range(8))
    store.close()
    same(dict(place.open().items()), items)


def conditional_writes_wait_for_what_they_saw(place):
    """They decide on the newest state, and answer when that can no longer be undone."""
    store = place.open()
    set_up(store)
    idle(store)
    place.disk.gate = 1
    put = Call(store.put, b"new", b"pending")
    wait_until(lambda: place.disk.waiting > 0)
    delete = Call(store.delete, b"b")
    incr = Call(store.incr, b"count", 1)
    changes = [put, delete, incr]
    time.sleep(0.05)  # so that these are the newest state; either order of what follows is right
    wait_until(lambda: store.stats()["lsn"] > store.stats()["visible_lsn"])
    answers = {
        "setdefault": Call(store.setdefault, b"new", b"mine"),
        "replace": Call(store.replace, b"new", b"mine", expected=b"other"),
        "replace nothing": Call(store.replace, b"new", b"mine", expected=None),
        "delete": Call(store.delete, b"b"),
        "pop": Call(store.pop, b"b", None),
        "incr": Call(store.incr, b"count", 1),
        "delete_many": Call(store.delete_many, [b"b"]),
    }
    time.sleep(0.2)
    for name, call in answers.items():
        assert not call.returned, f"{name} answered from what may still be undone"
    assert not any(call.returned for call in changes)
    same(look(store), BEFORE)
    place.disk.gate = 0
    same([call.end() for call in changes[:2]], [None, True])
    same(sorted([incr.end(), answers["incr"].end()]), [42, 43])
    same(answers["setdefault"].end(), b"pending")
    same(answers["replace"].end(), False)
    same(answers["replace nothing"].end(), False)
    same(answers["delete"].end(), False)
    same(answers["pop"].end(), None)
    same(answers["delete_many"].end(), 0)
    same(look(store), {b"a": b"1", b"c": b"3", b"count": b"43", b"new": b"pending"})
    store._verify()
    store.close()


def conditional_writes_on_a_change_that_is_undone(place):
    """What they saw is undone by a failed sync: they fail, too, or decide again; never answer from it."""
    store = place.open()
    set_up(store)
    idle(store)
    place.disk.gate = 1
    put = Call(store.put, b"new", b"pending")
    wait_until(lambda: place.disk.waiting > 0)
    calls = [
        Call(store.setdefault, b"new", b"mine"),
        Call(store.replace, b"new", b"mine", expected=b"pending"),
        Call(store.replace, b"new", b"mine", expected=b"other"),
    ]
    time.sleep(0.1)
    place.disk.sync_fail = 1
    place.disk.gate = 0
    raises(pykv.FailedError, put.end)
    for call in calls:
        raises(pykv.FailedError, call.end)
    same(look(store), BEFORE)


def close_during_a_delayed_sync(place):
    store = place.open()
    idle(store)
    place.disk.gate = 1
    put = Call(store.put, b"k", b"v")
    wait_until(lambda: place.disk.waiting > 0)
    close = Call(store.close)
    time.sleep(0.1)
    assert not put.returned and not close.returned
    place.disk.gate = 0
    put.end()
    close.end()
    assert store.closed
    with place.open() as store:
        same(look(store), {b"k": b"v"})


def a_fork_during_a_delayed_close(place):
    """The child inherits a handle that nobody there will finish closing: it is dead, and closed at once."""
    store = place.open()
    store[b"k"] = b"v"
    idle(store)
    place.disk.gate = 1
    close = Call(store.close)
    wait_until(lambda: place.disk.waiting > 0)
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE // 3)
        store.close()
        raises(pykv.ForkError, store.get, b"k")
        os._exit(0)
    place.disk.gate = 0
    same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    close.end()
    with place.open() as store:
        same(look(store), {b"k": b"v"})


def an_interrupt_during_a_delayed_sync(place):
    """Ctrl-C while the main thread waits for the disk: not lost, and the store goes on."""
    store = place.open()
    idle(store)
    place.disk.gate = 1

    def interrupt():
        wait_until(lambda: place.disk.waiting > 0)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        place.disk.gate = 0

    helper = Call(interrupt)
    interrupted = False
    try:
        store.put(b"k", b"v")
        time.sleep(PATIENCE)
    except KeyboardInterrupt:
        interrupted = True
    assert interrupted
    helper.end()
    store.put(b"l", b"w")
    assert dict(store.items()) in ({b"l": b"w"}, {b"k": b"v", b"l": b"w"})
    items = look(store)
    store._verify()
    store.close()
    with place.open() as store:
        same(look(store), items)


def exit_during_a_delayed_sync(place):
    """A daemon thread's put is on its way when the interpreter ends."""
    store = place.open()
    store[b"before"] = b"v"
    idle(store)
    place.disk.gate = 1
    Call(store.put, b"k", b"v")
    wait_until(lambda: place.disk.waiting > 0)

    def release():
        place.disk.gate = 0

    threading.Timer(0.2, release).start()


# ---- A sync that fails --------------------------------------------------------------------------


def check_failed(store, durable):
    """Reads go on at the durable state; no write does."""
    for name, (write, _) in WRITES.items():
        try:
            write(store)
        except pykv.FailedError as error:
            assert isinstance(error, pykv.StorageError) and isinstance(error, OSError)
            assert error.errno, name
        except KeyError:
            same(name in ("pop", "delitem", "popitem"), True)
        else:
            # What changes nothing may still answer.
            assert name in ("delete", "delete_many", "replace", "setdefault", "clear"), name
        same(look(store), durable)
    raises(pykv.FailedError, store.put, b"k", b"v", sync=True)
    raises(pykv.FailedError, store.sync)
    same(store.stats()["failed"], True)
    store._verify()


def close_failed(store):
    try:
        store.close()
    except pykv.StorageError:
        pass
    assert store.closed


def each_kind_of_write_with_a_failing_sync(place):
    for number, (name, (write, after)) in enumerate(WRITES.items()):
        place.path = place.path.with_name(f"store {number}")
        store = place.open()
        set_up(store)
        idle(store)
        snapshot = store.items()
        place.disk.sync_fail = 1
        error = raises(pykv.FailedError, write, store)
        same(error.errno, errno.EIO)
        assert isinstance(error, pykv.StorageError) and isinstance(error, OSError)
        same(dict(snapshot), BEFORE)
        check_failed(store, BEFORE)
        del snapshot
        close_failed(store)
        with place.open() as store:
            items = look(store)
            if items != BEFORE:
                check_after(store, after)
            store._verify()
            store[b"works"] = b"again"
        with place.open() as store:
            same(look(store), {**items, b"works": b"again"})


def many_writers_with_a_failing_sync(place):
    """All of a group get the error, and so do those behind them."""
    store = place.open()
    set_up(store)
    idle(store)
    place.disk.gate = 1
    calls = [Call(store.put, b"first", b"v")]
    wait_until(lambda: place.disk.waiting > 0)
    calls += [Call(store.put, b"%d" % i, b"v" * i) for i in range(20)]
    calls += [Call(store.put_many, {b"a": b"x", b"new": b"y"}), Call(store.clear), Call(store.incr, b"count")]
    time.sleep(0.1)
    place.disk.sync_fail = 1
    place.disk.gate = 0
    for call in calls:
        raises(pykv.FailedError, call.end)
    same(look(store), BEFORE)
    check_failed(store, BEFORE)
    close_failed(store)
    with place.open() as store:
        items = look(store)
        # After some prefix: the first call's record may be there; the rest was never written.
        assert BEFORE.items() <= items.items() or b"first" in items
        store._verify()


def a_failed_sync_among_acknowledged_writes(place):
    """Threads write until the disk fails: what they were told is what is found."""
    store = place.open()
    acknowledged = {}
    started = {}

    def write(name):
        for i in range(100_000):
            key = b"%d %d" % (name, i)
            started[key] = b"v" * (i % 300)
            try:
                store.put(key, started[key])
            except pykv.FailedError:
                return
            acknowledged[key] = started[key]

    calls = [Call(write, name) for name in range(6)]
    wait_until(lambda: len(acknowledged) > 200)
    place.disk.sync_fail = 1
    for call in calls:
        call.end()
    same(dict(store.items()), acknowledged)
    store._verify()
    close_failed(store)
    with place.open() as store:
        items = dict(store.items())
        assert acknowledged.items() <= items.items() <= started.items()
        store._verify()


def a_failed_sync_and_then_a_kill(place):
    store = place.open()
    set_up(store)
    place.disk.sync_fail = 1
    raises(pykv.FailedError, store.put, b"new", b"v")
    os._exit(0)


def after_a_kill(place):
    with place.open() as store:
        items = look(store)
        assert items == BEFORE or items == {**BEFORE, b"new": b"v"}, items
        store[b"more"] = b"v"
    with place.open() as store:
        same(look(store), {**items, b"more": b"v"})


def both_handles_of_a_failed_store(place):
    first, second = place.open(), place.open()
    set_up(first)
    place.disk.sync_fail = 1
    raises(pykv.FailedError, first.put, b"new", b"v")
    check_failed(second, BEFORE)
    third = place.open()  # the same store, as failed as before
    raises(pykv.FailedError, third.put, b"new", b"v")
    for store in (first, second, third):
        close_failed(store)
    with place.open() as store:
        store[b"works"] = b"again"


def a_failing_sync_at_close(place):
    store = place.open(sync="never")
    set_up(store)
    place.disk.sync_fail = 1
    error = raises(pykv.FailedError, store.close)
    same(error.errno, errno.EIO)
    assert store.closed
    store.close()
    with place.open() as store:
        same(look(store), BEFORE)


def a_failing_sync_in_the_background(place):
    """Mode interval: nobody waits for the sync that fails; the next writer hears of it."""
    store = place.open(sync="interval", sync_interval=0.01)
    set_up(store)
    store.sync()
    idle(store)
    place.disk.sync_fail = 1
    store.put(b"a", b"acknowledged, not yet on disk")
    wait_until(lambda: store.stats()["failed"])
    raises(pykv.FailedError, store.put, b"new", b"v")
    raises(pykv.FailedError, store.sync)
    look(store)
    store._verify()
    close_failed(store)
    with place.open() as store:
        same(look(store), {**BEFORE, b"a": b"acknowledged, not yet on disk"})


def a_write_that_fails_for_good(place):
    """EIO from a write is as a failed sync."""
    store = place.open()
    set_up(store)
    place.disk.write_errno = errno.EIO
    error = raises(pykv.FailedError, store.put, b"new", b"v")
    same(error.errno, errno.EIO)
    place.disk.clear()
    check_failed(store, BEFORE)
    close_failed(store)
    with place.open() as store:
        same(look(store), BEFORE)
        store[b"works"] = b"again"


# ---- A disk that is full ------------------------------------------------------------------------


def each_kind_of_write_on_a_full_disk(place):
    store = place.open()
    for name, (write, after) in WRITES.items():
        set_up(store)
        idle(store)
        snapshot = store.items()
        place.disk.write_errno = errno.ENOSPC
        for _ in range(3):
            error = raises(pykv.StorageError, write, store)
            same(error.errno, errno.ENOSPC)
            same(look(store), BEFORE)
        same(dict(snapshot), BEFORE)
        same(store.stats()["failed"], False)
        store._verify()
        place.disk.clear()
        write(store)
        check_after(store, after)
        store._verify()
    items = look(store)
    store.close()
    with place.open() as store:
        same(look(store), items)


def half_a_frame_on_a_full_disk(place):
    """Part of a frame fits: it must not come back, however often, and whatever is written after it."""
    store = place.open()
    model = {}
    for i in range(30):
        store[b"%d" % i] = model[b"%d" % i] = b"v" * 100 * i
        place.disk.room = 1 + 97 * i
        try:
            store.put(b"full %d" % i, b"x" * 5000)
        except pykv.StorageError as error:
            same(error.errno, errno.ENOSPC)
            same(type(error), pykv.StorageError)
        else:
            raise AssertionError("it fitted?")
        place.disk.room = 0
        same(dict(store.items()), model)
        if i % 7 == 0:
            store.close()
            store = place.open()
            same(dict(store.items()), model)
            same(store.recovery["bytes_cut"], 0)
    store._verify()
    place.disk.room = 1 + 3000
    raises(pykv.StorageError, store.put, b"full", b"x" * 5000)
    os._exit(0)


def after_half_a_frame(place):
    with place.open() as store:
        same(dict(store.items()), {b"%d" % i: b"v" * 100 * i for i in range(30)})


def many_writers_on_a_disk_that_is_full_now_and_then(place):
    store = place.open()
    models = [{} for _ in range(6)]
    refused = [0] * 6
    sums = [0] * 6
    stop = threading.Event()

    def write(name):
        model, i = models[name], 0
        while not stop.is_set():
            i += 1
            changes = {b"%d %d" % (name, (i * 7 + j) % 40): b"%d" % i * (i % 200) for j in range(i % 4 + 1)}
            try:
                if i % 3 == 0:
                    store.incr(b"sum")
                    sums[name] += 1
                elif i % 5 == 0:
                    key = b"%d %d" % (name, i % 40)
                    same(store.delete(key), key in model)
                    model.pop(key, None)
                else:
                    store.put_many(changes)
                    model.update(changes)
            except pykv.StorageError as error:
                same(error.errno, errno.ENOSPC)
                same(type(error), pykv.StorageError)
                refused[name] += 1

    calls = [Call(write, name) for name in range(6)]
    for round_ in range(40):
        time.sleep(0.01)
        if round_ % 2:
            place.disk.write_errno = errno.ENOSPC
        else:
            place.disk.room = 1 + round_ * 50
        time.sleep(0.005)
        place.disk.write_errno = place.disk.room = 0
    stop.set()
    for call in calls:
        call.end()
    assert all(refused), "nobody met a full disk: nothing was tested"
    model = {key: value for part in models for key, value in part.items()}
    model[b"sum"] = b"%d" % sum(sums)
    same(dict(store.items()), model)
    same(len(store), len(model))
    store._verify()
    store.close()
    with place.open() as store:
        same(dict(store.items()), model)
        store._verify()


def growing_into_a_full_disk(place):
    """The next segment does not fit: writes are refused, until there is room."""
    store = place.open(sync="never")
    place.disk.room = 5_000_000
    model = {}
    refused = 0
    for i in range(200):
        value = b"%d" % i * 20_000
        try:
            store.put(b"%d" % i, value)
            model[b"%d" % i] = value
        except pykv.StorageError as error:
            same(error.errno, errno.ENOSPC)
            refused += 1
    assert refused > 0 and model
    same(dict(store.items()), model)
    place.disk.clear()
    for i in range(200, 300):
        value = b"%d" % i * 20_000
        store.put(b"%d" % i, value)
        model[b"%d" % i] = value
    store._verify()
    store.close()
    with place.open() as store:
        same(dict(store.items()), model)


def a_full_disk_in_other_modes(place):
    for mode in ("interval", "never"):
        place.path = place.path.with_name(mode)
        store = place.open(sync=mode, sync_interval=0.01)
        set_up(store)
        idle(store)
        place.disk.write_errno = errno.ENOSPC
        for name, (write, _) in WRITES.items():
            same((name, raises(pykv.StorageError, write, store).errno), (name, errno.ENOSPC))
            same(look(store), BEFORE)
        place.disk.clear()
        store[b"works"] = b"again"
        store.close()
        with place.open() as store:
            same(look(store), {**BEFORE, b"works": b"again"})


def closing_on_a_full_disk(place):
    store = place.open()
    set_up(store)
    place.disk.write_errno = errno.ENOSPC
    close_failed(store)
    place.disk.clear()
    with place.open() as store:
        same(look(store), BEFORE)


def opening_on_a_full_disk(place):
    """A new store that cannot be made leaves nothing that stands in the way of the next try."""
    for number in (errno.ENOSPC, errno.EIO):
        place.disk.write_errno = number
        error = raises(pykv.StorageError, place.open)
        same(error.errno, number)
        assert str(place.path) in str(error)
        place.disk.clear()
    for room in range(1, 4000, 531):
        place.disk.room = room
        same(raises(pykv.StorageError, place.open).errno, errno.ENOSPC)
        place.disk.clear()
    store = place.open()
    same(store.recovery["created"], True)
    set_up(store)
    store.close()
    # And one that exists loses nothing by not being opened.
    for number in (errno.ENOSPC, errno.EIO):
        place.disk.write_errno = number
        try:
            store = place.open()
        except pykv.StorageError as error:
            same(error.errno, number)
        else:
            same(look(store), BEFORE)
            close_failed(store)
        place.disk.clear()
        with place.open() as store:
            same(look(store), BEFORE)


def opening_with_failing_syncs(place):
    """The n-th sync of an open fails, for each n there is; the next open finds everything."""
    for n in range(1, 100):
        place.disk.spare_too = 1
        place.disk.sync_fail = n
        try:
            store = place.open()
        except pykv.StorageError as error:
            same(error.errno, errno.EIO)
            place.disk.clear()
            continue
        done = place.disk.sync_fail > 0
        place.disk.clear()
        close_failed(store)
        if done:
            break
    assert 1 < n < 99, n
    with place.open() as store:
        set_up(store)
    for n in range(1, 100):
        place.disk.spare_too = 1
        place.disk.sync_fail = n
        try:
            place.open().close()
        except pykv.StorageError as error:
            same(error.errno, errno.EIO)
        done = place.disk.sync_fail > 0
        place.disk.clear()
        with place.open() as store:
            same(look(store), BEFORE)
        if done:
            break
    assert n < 99
    place.disk.dir_sync_errno = errno.EIO
    other = place.path
    place.path = place.path.with_name("another")
    same(raises(pykv.StorageError, place.open).errno, errno.EIO)
    place.disk.clear()
    with place.open() as store:
        store[b"k"] = b"v"
    place.path = other


def a_disk_that_cannot_be_read(place):
    with place.open() as store:
        set_up(store)
    place.disk.read_errno = errno.EIO
    error = raises(pykv.StorageError, place.open)
    same(error.errno, errno.EIO)
    assert str(place.path) in str(error)
    place.disk.clear()
    with place.open() as store:
        same(look(store), BEFORE)


# ---- A disk that takes little at a time ------------------------------------------------------------


def short_transfers(place):
    """Reads and writes that do less than asked, and interrupted calls."""
    for size in (1000, 4096, 37):
        place.disk.write_max = size
        model = {}
        with place.open() as store:
            same(dict(store.items()), {})
            for i in range(20):
                place.disk.interrupts = i % 4
                store[b"%d" % i] = model[b"%d" % i] = bytes([i]) * 500 * i
            store.put_many({b"many %d" % i: b"v" for i in range(500)})
            model.update({b"many %d" % i: b"v" for i in range(500)})
            store._verify()
        with place.open() as store:
            same(dict(store.items()), model)
            same(store.recovery["bytes_cut"], 0)
            store.clear()
        place.disk.clear()


def a_file_system_that_reserves_nothing(place):
    place.disk.no_reserve = 1
    with place.open() as store:
        set_up(store)
        for i in range(6):
            store[b"%d" % i] = b"v" * 700_000
    with place.open() as store:
        same(len(store), len(BEFORE) + 6)


# ---- How often it syncs -----------------------------------------------------------------------------


def each_acknowledgement_has_its_sync(place):
    store = place.open()
    disk = place.disk
    value = b"v" * 5000
    for i in range(100):
        syncs = disk.syncs
        store.put(b"%d" % (i % 7), value)
        assert disk.syncs > syncs, "put returned without a sync"
        assert disk.dirty < len(value), "what put wrote was not synced when it returned"
    for name, (write, _) in WRITES.items():
        set_up(store)
        syncs = disk.syncs
        write(store)
        assert disk.syncs > syncs, f"{name} returned without a sync"
        assert disk.dirty < 500, name
    store.close()
    assert disk.dirty < 500


def a_batch_has_one_sync(place):
    store = place.open()
    store[b"k"] = b"v"
    idle(store)
    counts = []
    for round_ in range(5):
        syncs = place.disk.syncs
        store.put_many({b"%d" % i: b"%d" % round_ for i in range(300)})
        counts.append(place.disk.syncs - syncs)
    same(min(counts), 1)
    assert max(counts) <= 3, counts  # the keeper may have written a mark in between


def mode_never_syncs_only_when_asked(place):
    store = place.open(sync="never")
    idle(store)
    syncs = place.disk.syncs
    for name, (write, _) in WRITES.items():
        set_up(store)
        write(store)
    for i in range(300):
        store[b"%d" % i] = b"v" * 100
    same(place.disk.syncs, syncs)
    idle(store)
    same(place.disk.syncs, syncs)
    store.put(b"k", b"v" * 5000, sync=True)
    assert place.disk.syncs > syncs and place.disk.dirty < 5000
    calls = {
        "delete": lambda: store.delete(b"k", sync=True),
        "put_many": lambda: store.put_many({b"k": b"v"}, sync=True),
        "incr": lambda: store.incr(b"i", sync=True),
        "replace": lambda: store.replace(b"k", b"w", expected=b"v", sync=True),
        "delete_many": lambda: store.delete_many([b"k"], sync=True),
        "sync": store.sync,
    }
    for name, call in calls.items():
        store.put(b"dirt", b"d" * 5000)
        assert place.disk.dirty >= 5000
        syncs = place.disk.syncs
        call()
        assert place.disk.syncs > syncs, f"{name} with sync=True did not sync"
        assert place.disk.dirty < 5000, name
    with store.batch(sync=True) as batch:
        batch.put(b"dirt", b"e" * 5000)
    assert place.disk.dirty < 5000
    same(store.stats()["durable_lsn"], store.stats()["lsn"])
    store.put(b"dirt", b"d" * 5000)
    store.close()
    assert place.disk.dirty < 5000, "close did not sync"


def mode_interval_syncs_by_itself(place):
    store = place.open(sync="interval", sync_interval=0.05)
    store.sync()
    for _ in range(3):
        store.put(b"k", b"v" * 5000)
        wait_until(lambda: place.disk.dirty < 5000)
    store.close()


def a_sync_that_had_nothing_to_do(place):
    """sync() answers at once when everything is on disk, and still tells of a failure."""
    store = place.open()
    set_up(store)
    for _ in range(5):
        store.sync()
    same(store.stats()["durable_lsn"], store.stats()["lsn"])
    store.close()


def main():
    name, folder, control, gil = sys.argv[1:]
    place = Place(Path(folder), Control(control), gil)
    try:
        globals()[name](place)
    except BaseException:
        place.disk.clear()  # so that nothing hangs at the gate when the interpreter ends
        raise


if __name__ == "__main__":
    main()
