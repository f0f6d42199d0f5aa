"""Checkpoints: asked for, made by the store itself, at close; progress; failures; and the open after them."""

import contextlib
import shutil
import signal
import threading
import time
import warnings

import pytest

import pykv
from conftest import assert_holds
from test_damage import change

MANUAL = {"checkpoint_log_ratio": None}
EAGER = {"checkpoint_log_min": 50_000, "checkpoint_log_ratio": 0.001}

ITEMS = {b"%d" % i: b"v" * (i % 300) for i in range(3000)}


def fill_segments(store):
    """The store looks at its log's size each time when a segment of the log is full."""
    for _ in range(12):
        store[b"filler"] = b"v" * 1_000_000
    del store[b"filler"]


def wait_for(condition, store, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition(store.stats()):
        assert time.monotonic() < deadline, store.stats()
        time.sleep(0.01)


# ---- Asked for ---------------------------------------------------------------------------------


def test_a_checkpoint_is_what_the_next_open_starts_from(disk):
    with disk.open(**MANUAL) as store:
        store.put_many(ITEMS)
        assert store.stats()["checkpoints"] == 0 and store.recovery["checkpoint_items"] == 0
        assert store.checkpoint() is None
        stats = store.stats()
        assert stats["checkpoints"] == 1 and stats["checkpoint_failures"] == 0
        assert stats["checkpoint_bytes"] > 100_000 and stats["checkpoint_lsn"] > 0
        assert stats["checkpoint_error"] is None and stats["load_error"] is None
        store[b"after"] = b"the checkpoint"
        del store[b"7"]
    with disk.open(**MANUAL) as store:
        assert store.recovery["checkpoint_items"] == len(ITEMS)
        assert store.recovery["records"] == 2
        wanted = {**ITEMS, b"after": b"the checkpoint"}
        del wanted[b"7"]
        assert len(store) == len(wanted)
        assert_holds(store, wanted)
        assert store.stats()["checkpoints"] == 0


def test_a_checkpoint_lets_the_log_go(path, open_store):
    store = open_store(path, sync="never", **MANUAL)
    for round in range(8):
        store.put_many({b"%d" % i: b"%d" % round * 4000 for i in range(2000)})
    store.sync()
    before = store.stats()["log_segments"]
    store.checkpoint()
    assert store.stats()["log_segments"] < before
    store.close()
    with pykv.open(path) as store:
        assert_holds(store, {b"%d" % i: b"7" * 4000 for i in range(2000)})


def test_several_in_a_row(disk):
    with disk.open(**MANUAL) as store:
        for i in range(5):
            store[b"%d" % i] = b"v"
            store.checkpoint()
            store.checkpoint()
        assert store == {b"%d" % i: b"v" for i in range(5)}
    with disk.open(**MANUAL) as store:
        assert store == {b"%d" % i: b"v" for i in range(5)}


def test_of_an_empty_store(disk):
    with disk.open(**MANUAL) as store:
        store.checkpoint()
        store[b"k"] = b"v"
        store.clear()
        store.checkpoint()
    with disk.open(**MANUAL) as store:
        assert len(store) == 0


def test_in_memory_there_is_nothing_to_do(open_store):
    store = open_store()
    store[b"k"] = b"v"
    assert store.checkpoint() is None and store.preload() is None
    assert store == {b"k": b"v"} and store.stats()["checkpoints"] == 0


def test_who_cannot(path, open_store):
    open_store(path).close()
    store = open_store(path, read_only=True)
    with pytest.raises(pykv.ReadOnlyError):
        store.checkpoint()
    store.close()
    for call in (store.checkpoint, store.preload):
        with pytest.raises(pykv.ClosedError):
            call()


def test_while_others_write(path, open_store):
    store = open_store(path, sync="never", **MANUAL)
    store.put_many(ITEMS)
    stop = threading.Event()
    written = [{} for _ in range(3)]

    def write(number):
        i = 0
        while not stop.is_set():
            i += 1
            store[b"%d of %d" % (i, number)] = written[number][b"%d of %d" % (i, number)] = b"%d" % i

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        store.checkpoint()
    stop.set()
    for thread in threads:
        thread.join()
    wanted = {**ITEMS, **written[0], **written[1], **written[2]}
    assert_holds(store, wanted)
    store.close()
    with pykv.open(path) as store:
        assert_holds(store, wanted)


# ---- Made by the store itself ------------------------------------------------------------------


def test_a_store_makes_checkpoints_by_itself(disk):
    with disk.open(**EAGER) as store:
        for i in range(20):
            store.put_many({b"%d" % j: b"%d" % i * 5000 for j in range(100)})
        wait_for(lambda stats: stats["checkpoints"] > 0, store)
        assert store.stats()["checkpoint_failures"] == 0
    with disk.open(**EAGER) as store:
        assert_holds(store, {b"%d" % j: b"19" * 5000 for j in range(100)})
        assert store.recovery["checkpoint_items"] > 0


@pytest.mark.parametrize("ratio", [None, 0, 0.0])
def test_or_only_when_asked_for(path, open_store, ratio):
    store = open_store(path, sync="never", checkpoint_log_min=0, checkpoint_log_ratio=ratio)
    for i in range(20):
        store.put_many({b"%d" % j: b"%d" % i * 5000 for j in range(100)})
    time.sleep(0.3)
    assert store.stats()["checkpoints"] == 0
    store.close()
    with pykv.open(path, checkpoint_log_ratio=ratio) as store:
        assert store.recovery["checkpoint_items"] == 0 and len(store) == 100


def test_a_long_log_is_let_go_at_close(path):
    with pykv.open(path, sync="never") as store:
        for i in range(10):
            store.put_many({b"%d" % j: b"%d" % i * 30_000 for j in range(100)})
        assert store.stats()["checkpoints"] == 0
    with pykv.open(path) as store:
        assert store.recovery["checkpoint_items"] == 100 and store.recovery["records"] == 0


@pytest.mark.parametrize("options", [
    {"checkpoint_log_min": -1},
    {"checkpoint_log_min": 2**63},
    {"checkpoint_log_min": 2**70},
    {"checkpoint_log_min": 1.5},
    {"checkpoint_log_min": None},
    {"checkpoint_log_min": True},
    {"checkpoint_log_min": "64"},
    {"checkpoint_log_ratio": -1},
    {"checkpoint_log_ratio": -0.0001},
    {"checkpoint_log_ratio": float("nan")},
    {"checkpoint_log_ratio": float("inf")},
    {"checkpoint_log_ratio": 1e7},
    {"checkpoint_log_ratio": 2**2000},
    {"checkpoint_log_ratio": "1"},
    {"checkpoint_log_ratio": True},
])  # fmt: skip
def test_wrong_options(tmp_path, options):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        pykv.open(tmp_path / "store", **options)
    assert list(tmp_path.iterdir()) == []


# ---- Preload -----------------------------------------------------------------------------------


def test_preload(path):
    with pykv.open(path) as store:
        store.put_many(ITEMS)
        store.checkpoint()
    with pykv.open(path, preload=True) as store:
        stats = store.stats()
        assert stats["shards_loaded"] == stats["shards"]
        assert_holds(store, ITEMS)
    with pykv.open(path) as store:
        assert store.preload() is None
        stats = store.stats()
        assert stats["shards_loaded"] == stats["shards"]
        store.preload(progress=lambda done, total: None)
        assert_holds(store, ITEMS)


def test_preload_tells_how_far_it_is(path):
    with pykv.open(path) as store:
        store.put_many((b"%d" % i, b"") for i in range(60_000))
        store.checkpoint()
    for _ in range(20):  # the store's own thread may have loaded everything before
        with pykv.open(path, read_only=True) as store, contextlib.suppress(ZeroDivisionError):
            store.preload(progress=lambda done, total: 1 / 0)
            continue
        break
    else:
        pytest.fail("the function was not called, or its error is not told")
    told = []
    for _ in range(20):
        with pykv.open(path, read_only=True) as store:
            store.preload(progress=lambda *parts: told.append(parts))
            assert len(store) == 60_000
        if told:
            break
    assert told and told == sorted(told) and all(0 <= done <= total for done, total in told)


def test_damage_shows_at_once_or_when_it_is_met(path):
    with pykv.open(path) as store:
        store.put_many(ITEMS)
        store.checkpoint()
    (file,) = path.glob("*.ckpt")
    change(file, file.stat().st_size // 2)
    with pytest.raises(pykv.CorruptionError) as caught:
        pykv.open(path, preload=True)
    assert caught.value.path == str(file) and caught.value.offset > 0
    with pykv.open(path, read_only=True) as store:
        with pytest.raises(pykv.CorruptionError, match="ckpt"):
            store.preload()
        wait_for(lambda stats: stats["load_error"] is not None, store)
        assert str(file) in store.stats()["load_error"]
        lost = 0
        for key, value in ITEMS.items():
            try:
                assert store[key] == value
            except pykv.CorruptionError:
                lost += 1
        assert 0 < lost < len(ITEMS)
        assert len(store) == len(ITEMS)


def test_everything_is_right_from_the_first_moment(path):
    with pykv.open(path) as store:
        store.put_many(ITEMS)
        store.checkpoint()
    for look in (
        lambda s: len(s) == len(ITEMS),
        lambda s: s[b"77"] == ITEMS[b"77"],
        lambda s: s.stats()["entries"] == len(ITEMS),
        lambda s: s.stats()["data_bytes"] == sum(len(k) + len(v) for k, v in ITEMS.items()),
        lambda s: s.get_many(ITEMS) == list(ITEMS.values()),
        lambda s: dict(s.items()) == ITEMS,
        lambda s: s.delete(b"77") is True and s.delete(b"none") is False,
        lambda s: s.replace(b"77", b"v", expected=None) is False,
        lambda s: s.clear() is None and len(s) == 0,
    ):
        with pykv.open(path) as store:
            assert look(store)
            store.put_many(ITEMS)


# ---- Progress ----------------------------------------------------------------------------------


@pytest.fixture
def large(path, open_store):
    """Some 40 MB."""
    store = open_store(path, sync="never", **MANUAL)
    for i in range(40):
        store.put_many({b"%d %d" % (i, j): b"v" * 10_000 for j in range(100)})
    return store


CALLS = {
    "checkpoint": lambda store, folder, **more: store.checkpoint(**more),
    "backup": lambda store, folder, **more: store.backup(folder / "backup", **more),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_progress(large, tmp_path, call):
    calls = []
    start = time.monotonic()
    call(large, tmp_path, progress=lambda *arguments: calls.append(arguments))
    taken = time.monotonic() - start
    assert calls and calls == sorted(calls)
    assert all(type(done) is type(total) is int and 0 <= done <= total for done, total in calls)
    assert all(total > 40_000_000 for _, total in calls)
    assert len(calls) <= 20 * taken + 2


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_exception_of_progress_ends_the_call(large, tmp_path, call):
    calls = []

    def progress(done, total):
        calls.append(done)
        raise ZeroDivisionError("stop")

    with pytest.raises(ZeroDivisionError, match="stop"):
        call(large, tmp_path, progress=progress)
    assert len(calls) == 1
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.glob("backup/*"))
    assert large.stats()["checkpoints"] == 0 and large.stats()["checkpoint_error"] is None
    large[b"more"] = b"v"
    call(large, tmp_path)
    assert len(large) == 4001


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_progress_may_use_the_store(large, tmp_path, call):
    def progress(done, total):
        large.incr(b"calls")
        assert large[b"1 1"] == b"v" * 10_000

    call(large, tmp_path, progress=progress)
    assert int(large[b"calls"]) >= 1


WAITING = {
    "checkpoint": lambda store, folder: store.checkpoint(),
    "backup": lambda store, folder: store.backup(folder / "another"),
    "close": lambda store, folder: store.close(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("inner", WAITING.values(), ids=WAITING)
def test_progress_may_not_wait_for_its_own_call(large, tmp_path, call, inner):
    refused = []

    def progress(done, total):
        if not refused:
            with pytest.raises(ValueError, match="from within") as caught:
                inner(large, tmp_path)
            refused.append(caught.value)

    call(large, tmp_path, progress=progress)
    assert refused and not isinstance(refused[0], pykv.Error) and not large.closed
    assert not (tmp_path / "another").exists() and len(large) == 4000
    large[b"more"] = b"v"
    inner(large, tmp_path)  # behind it, they are what they ever were


def test_a_signal_handler_may_not_wait_for_the_call_that_it_interrupts(script, path):
    script.run(
        """
        import os, signal, sys, pykv
        store = pykv.open(sys.argv[1], sync="never", checkpoint_log_ratio=None)
        for i in range(40):
            store.put_many({b"%d %d" % (i, j): b"v" * 10_000 for j in range(100)})
        def handler(*_):
            try:
                store.close()
            except ValueError:
                sys.exit(0)
        signal.signal(signal.SIGTERM, handler)
        def progress(done, total):
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            store.checkpoint(progress=progress)
        finally:
            store.close()
        """,
        path,
    )
    with pykv.open(path) as store:
        assert len(store) == 4000


def test_another_store_may_be_closed_by_progress(large, tmp_path):
    other = pykv.open(tmp_path / "other")

    def progress(done, total):
        other.close()

    large.checkpoint(progress=progress)
    assert other.closed


@pytest.mark.parametrize("call", [*CALLS.values(), lambda s, f, **more: s.preload(**more)], ids=[*CALLS, "preload"])
@pytest.mark.parametrize("progress", [5, "text", True, b""])
def test_what_cannot_be_called(large, tmp_path, call, progress):
    with pytest.raises(TypeError, match="progress"):
        call(large, tmp_path, progress=progress)
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("call", [
    lambda s: s.checkpoint(print),
    lambda s: s.checkpoint(other=1),
    lambda s: s.preload(print),
    lambda s: s.backup(),
    lambda s: s.backup("x", print),
    lambda s: s.backup("x", other=1),
])  # fmt: skip
def test_wrong_arguments(open_store, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError):
        call(open_store())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c(large, path, tmp_path, name):
    """Interrupts the work itself, also without a progress function."""
    begun = path / "checkpoint.tmp" if name == "checkpoint" else tmp_path / "backup" / "checkpoint.tmp"
    main = threading.main_thread().ident
    over = threading.Event()

    def interrupt():
        while not begun.exists() and not over.is_set():
            time.sleep(0.0005)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for attempt in range(50):
            large[b"more"] = b"%d" % attempt
            made = large.stats()["checkpoints"]
            over.clear()
            thread = threading.Thread(target=interrupt)
            try:
                thread.start()
                CALLS[name](large, tmp_path)
                over.set()
                thread.join()
                time.sleep(1)
            except KeyboardInterrupt:
                over.set()
                thread.join()
            if large.stats()["checkpoints"] == made and not list(tmp_path.glob("backup/*")):
                break
            shutil.rmtree(tmp_path / "backup", ignore_errors=True)  # it came too late: once more
        else:
            pytest.fail("the work always went on to its end")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(path.glob("*.tmp"))
    large.checkpoint()


def test_other_threads_run_meanwhile(large):
    """The GIL is free: a thread counts while a checkpoint is made."""
    count = 0
    stop = False

    def run():
        nonlocal count
        while not stop:
            count += 1
            time.sleep(0.0002)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.01)
    for _ in range(20):  # on a busy machine the thread may have no processor during one of them
        before = count
        large.checkpoint()
        during = count - before
        if during > 3:
            break
        large[b"0 0"] = b"v"
    stop = True
    thread.join()
    assert during > 3


def test_two_threads_ask_at_once(large):
    errors = []

    def ask():
        try:
            large.checkpoint(progress=lambda done, total: None)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and large.stats()["checkpoint_failures"] == 0


# ---- Failures ----------------------------------------------------------------------------------


def obstruct(path):
    """Something stands where a checkpoint is going to be written."""
    (path / "checkpoint.tmp" / "in the way").mkdir(parents=True)


def clear_away(path):
    (path / "checkpoint.tmp" / "in the way").rmdir()
    (path / "checkpoint.tmp").rmdir()


def test_a_checkpoint_that_was_asked_for_raises(path, open_store):
    store = open_store(path, **MANUAL)
    store.put_many(ITEMS)
    obstruct(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(pykv.StorageError, match="checkpoint.tmp") as caught:
            store.checkpoint()
        assert caught.value.errno and "checkpoint.tmp" in caught.value.filename
        stats = store.stats()
        assert stats["checkpoint_failures"] == 1 and stats["checkpoints"] == 0
        assert "checkpoint.tmp" in stats["checkpoint_error"]
        assert not stats["failed"]
        store[b"more"] = b"v"
    assert_holds(store, {**ITEMS, b"more": b"v"})
    clear_away(path)
    store.checkpoint()
    assert store.stats()["checkpoint_error"] is None
    store.close()
    with pykv.open(path) as store:
        assert_holds(store, {**ITEMS, b"more": b"v"})


WRITES = {
    "put": lambda s: s.put(b"k", b"v"),
    "put ttl": lambda s: s.put(b"k", b"v", ttl=50),
    "[]": lambda s: s.__setitem__(b"k", b"v"),
    "put_many": lambda s: s.put_many({b"k": b"v"}),
    "update": lambda s: s.update(k=b"v"),
    "delete": lambda s: (s.delete(b"1")),
    "del": lambda s: s.__delitem__(b"1"),
    "delete_many": lambda s: s.delete_many([b"1"]),
    "pop": lambda s: s.pop(b"1"),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault(b"k", b"v"),
    "replace": lambda s: s.replace(b"k", b"v", expected=None),
    "incr": lambda s: s.incr(b"k"),
    "expire": lambda s: s.expire(b"1", 50),
    "persist": lambda s: s.persist(b"1"),
    "clear": lambda s: s.clear(),
    "batch": lambda s: s._write({b"k": b"v"}),
    "close": lambda s: s.close(),
}


def fail_a_checkpoint(path, store):
    """Makes the store try one by itself, which fails.  Another handle is told of it, this one not yet."""
    obstruct(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pykv.CheckpointWarning)
        with pykv.open(path, sync="never", **EAGER) as other:
            other.put_many(ITEMS)
            fill_segments(other)
            wait_for(lambda stats: stats["checkpoint_failures"] > 0, other)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_checkpoint_that_failed_is_a_warning(path, open_store, write):
    store = open_store(path, sync="never", **EAGER)
    fail_a_checkpoint(path, store)
    with pytest.warns(pykv.CheckpointWarning, match="checkpoint.tmp") as caught:
        write(store)
    assert len(caught) == 1
    if write is not WRITES["update"]:  # which is Python code
        assert caught[0].filename == __file__
    clear_away(path)


def test_the_warning_is_a_runtime_warning_and_comes_once(path, open_store):
    assert issubclass(pykv.CheckpointWarning, RuntimeWarning)
    store = open_store(path, sync="never", **EAGER)
    fail_a_checkpoint(path, store)
    with pytest.warns(RuntimeWarning):
        store[b"a"] = b"1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store[b"b"] = b"2"
        assert store[b"a"] == b"1"
        clear_away(path)
        store.close()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_the_warning_as_an_error_comes_after_the_write(path, open_store, write):
    store = open_store(path, sync="never", **EAGER)
    fail_a_checkpoint(path, store)
    with pykv.open() as twin:
        twin.put_many(store.items())
        if write is not WRITES["popitem"]:
            write(twin)
            wanted = {} if twin.closed else dict(twin.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error", pykv.CheckpointWarning)
        with pytest.raises(pykv.CheckpointWarning):
            write(store)
    clear_away(path)
    if write is WRITES["close"]:
        assert store.closed
    elif write is WRITES["popitem"]:
        assert len(store) == len(ITEMS) - 1
    else:
        assert_holds(store, wanted)


def test_reads_do_not_warn(path, open_store):
    store = open_store(path, sync="never", **EAGER)
    fail_a_checkpoint(path, store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store[b"1"] == b"v" and store.get(b"none") is None and len(store) == len(ITEMS)
        assert store.ttl(b"1") is None and store.get_many([b"1"]) == [b"v"]
        assert dict(store.items()) == ITEMS and store.stats()["checkpoint_failures"] > 0
    clear_away(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.close()


@pytest.mark.slow
def test_it_is_tried_again(path, open_store):
    store = open_store(path, sync="never", **EAGER)
    fail_a_checkpoint(path, store)
    clear_away(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pykv.CheckpointWarning)
        deadline = time.monotonic() + 60
        i = 0
        while store.stats()["checkpoints"] == 0:
            assert time.monotonic() < deadline, store.stats()
            i += 1
            store[b"%d" % (i % 100)] = b"again" * 10_000
            time.sleep(0.01)
    assert store.stats()["checkpoint_error"] is None


def test_a_store_that_is_dropped_warns_too(path):
    store = pykv.open(path, sync="never", **EAGER)
    fail_a_checkpoint(path, store)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del store
    kinds = {warning.category for warning in caught}
    assert kinds == {pykv.CheckpointWarning, ResourceWarning}
    clear_away(path)
