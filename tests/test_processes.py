"""One store, several processes: the lock, fork, and multiprocessing."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest

import pykv

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

HOLD = """
    import sys, pykv
    store = pykv.open(sys.argv[1])
    store["k"] = "v"
    print("open", flush=True)
    sys.stdin.read()
    store.close()
"""

OPEN = """
    import sys, pykv
    try:
        pykv.open(sys.argv[1]).close()
    except pykv.LockedError as error:
        print(error.pid)
        print(error)
"""


def in_child(function):
    """Runs it in a forked child; (exit status, what it printed). The child never returns to pytest."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            result = function()
            os.write(write, str(result).encode())
            status = 0
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


# ---- The lock ---------------------------------------------------------------------------------


def test_a_store_that_is_open_elsewhere(script, path):
    holder = script.start(HOLD, path)
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(pykv.LockedError) as caught:
        pykv.open(path)
    assert caught.value.pid == holder.pid
    assert str(holder.pid) in str(caught.value)
    assert isinstance(caught.value, OSError) and isinstance(caught.value, pykv.Error)
    assert caught.value.errno
    assert str(path) in str(caught.value)
    holder.communicate("")
    assert holder.returncode == 0
    with pykv.open(path) as store:
        assert store == {b"k": b"v"}


def test_our_store_is_closed_to_others(script, path):
    with pykv.open(path) as store:
        store["k"] = "v"
        for _ in range(2):
            out, _ = script.run(OPEN, path)
            assert out.split("\n")[0] == str(os.getpid()) and str(os.getpid()) in out.split("\n")[1]
        store["l"] = "w"
    out, _ = script.run(OPEN, path)
    assert out == ""
    with pykv.open(path) as store:
        assert store == {b"k": b"v", b"l": b"w"}


def test_a_refused_open_does_not_free_the_lock(script, path):
    """Closing any descriptor of a file ends a process's POSIX locks on it: that must not happen here."""
    with pykv.open(path) as store:
        with pytest.raises(ValueError):
            pykv.open(path, sync="never")
        second = pykv.open(path)
        second.close()
        out, _ = script.run(OPEN, path)
        assert out.split("\n")[0] == str(os.getpid())
        store["k"] = "v"


def test_the_lock_is_freed_when_its_owner_is_killed(script, path):
    holder = script.start(HOLD, path)
    assert holder.stdout.readline() == "open\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with pykv.open(path) as store:
        assert store == {b"k": b"v"}
        assert store.recovery["clean"] is False


def test_the_lock_is_freed_by_close(script, path):
    store = pykv.open(path)
    store.close()
    holder = script.start(HOLD, path)
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(pykv.LockedError):
        store = pykv.open(path)
    holder.communicate("")


def test_a_lock_file_that_a_dead_process_left_is_no_obstacle(path):
    with pykv.open(path) as store:
        store["k"] = "v"
    lock = path / "LOCK"
    assert lock.exists()
    lock.write_bytes(b"999999\n")
    with pykv.open(path) as store:
        assert store == {b"k": b"v"}
    lock.write_bytes(b"")
    with pykv.open(path) as store:
        assert store == {b"k": b"v"}


def test_readers_of_a_store_that_is_open_elsewhere(script, path):
    """A read-only open is an open: two processes never have one store at a time, if one may write."""
    holder = script.start(HOLD, path)
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(pykv.LockedError):
        pykv.open(path, read_only=True)
    holder.communicate("")
    with pykv.open(path, read_only=True) as store:
        assert store == {b"k": b"v"}


# ---- fork -------------------------------------------------------------------------------------

CALLS = [
    lambda s: s.get(b"k"),
    lambda s: s[b"k"],
    lambda s: s.put(b"k", b"child"),
    lambda s: s.__setitem__(b"k", b"child"),
    lambda s: s.delete(b"k"),
    lambda s: s.__delitem__(b"k"),
    lambda s: b"k" in s,
    lambda s: len(s),
    lambda s: list(s),
    lambda s: s.get_many([b"k"]),
    lambda s: s.put_many({b"k": b"child"}),
    lambda s: s.update({b"k": b"child"}),
    lambda s: s.delete_many([b"k"]),
    lambda s: s.incr(b"n"),
    lambda s: s.replace(b"k", b"child", expected=b"v"),
    lambda s: s.setdefault(b"k", b"child"),
    lambda s: s.pop(b"k", None),
    lambda s: s.popitem(),
    lambda s: s.clear(),
    lambda s: list(s.keys()),
    lambda s: list(s.values()),
    lambda s: list(s.items()),
    lambda s: s.view(b"k"),
    lambda s: s.sync(),
    lambda s: s.stats(),
]


@needs_fork
def test_every_call_in_a_forked_child_is_a_fork_error(store):
    store[b"k"] = b"v"
    walk = iter(store.items())

    def child():
        wrong = []
        for number, call in enumerate(CALLS):
            try:
                call(store)
                wrong.append(number)
            except pykv.ForkError as error:
                assert isinstance(error, pykv.Error)
        try:
            next(walk)
            wrong.append("iterator")
        except pykv.ForkError:
            pass
        store.close()
        repr(store)
        return wrong

    assert in_child(child) == (0, "[]")
    assert store == {b"k": b"v"}
    store[b"l"] = b"after"
    assert next(walk) == (b"k", b"v")


@needs_fork
def test_a_view_in_a_forked_child(store):
    """Memory is copied at a fork: a view still shows what it did."""
    store[b"k"] = b"v" * 5000
    view = store.view(b"k")
    assert in_child(lambda: bytes(view) == b"v" * 5000) == (0, "True")


@needs_fork
def test_the_child_does_not_disturb_the_parents_store(disk, script):
    store = disk.open()
    store[b"k"] = b"v"

    def child():
        store.close()
        with pytest.raises((pykv.LockedError, pykv.ForkError)):
            pykv.open(disk.path, **disk.options)
        return "done"

    assert in_child(child) == (0, "done")
    out, _ = script.run(OPEN, disk.path)
    assert out.split("\n")[0] == str(os.getpid()), "the parent's lock survives the child's exit"
    store[b"l"] = b"w"
    store.close()
    with disk.open() as store:
        assert store == {b"k": b"v", b"l": b"w"}


@needs_fork
def test_a_child_does_not_keep_the_store_locked(disk):
    """It outlives its parent's handle, and holds no descriptor that holds the lock."""
    store = disk.open()
    store[b"k"] = b"v"
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        store.close()
        with disk.open() as store:
            assert store[b"k"] == b"v"
    finally:
        os.close(write)
        os.waitpid(pid, 0)


@needs_fork
def test_a_child_opens_its_own_store(disk, tmp_path):
    store = disk.open()
    store[b"k"] = b"v"

    def child():
        with pykv.open(tmp_path / "child", **disk.options) as mine:
            mine.put_many({b"%d" % i: b"v" for i in range(1000)})
            mine._verify()
        with pykv.open(tmp_path / "child", **disk.options) as mine:
            return len(mine)

    assert in_child(child) == (0, "1000")
    assert store == {b"k": b"v"}


@needs_fork
def test_the_child_opens_the_store_after_the_parent_closed_it(disk):
    store = disk.open()
    store[b"k"] = b"v"
    store.close()

    def child():
        with pykv.open(disk.path, **disk.options) as mine:
            return mine.incr(b"n")

    assert in_child(child) == (0, "1")
    with disk.open() as store:
        assert store == {b"k": b"v", b"n": b"1"}


@needs_fork
def test_fork_under_load(store):
    """Children are made while threads are inside of the store: nobody hangs, nobody crashes."""
    stop = threading.Event()
    errors = []

    def work(name):
        i = 0
        try:
            while not stop.is_set():
                i += 1
                store[b"%d %d" % (name, i % 50)] = b"v" * (i % 700)
                store.get_many([b"%d %d" % (name, j) for j in range(50)])
                if i % 20 == 0:
                    dict(store.items())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in range(4)]
    for thread in threads:
        thread.start()

    def child():
        for call in CALLS[:6]:
            with pytest.raises(pykv.ForkError):
                call(store)
        store.close()
        with pykv.open() as mine:
            mine[b"k"] = b"v"
            assert mine[b"k"] == b"v"
        return "done"

    try:
        for _ in range(15):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not that of pytest-timeout
                    signal.alarm(20)
                    status = 0 if child() == "done" else 2
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    store._verify()


@needs_fork
def test_fork_while_others_open_and_close(disk, tmp_path):
    """A child is made at any moment of an open and of a close: what it inherits it can close, and it can open its own."""
    stop = threading.Event()
    handles, errors, rounds = [None] * 3, [], [0] * 3

    def visit(name):
        try:
            while not stop.is_set():
                handles[name] = pykv.open(tmp_path / f"{name}", **disk.options)
                rounds[name] = handles[name].incr(b"n")
                handles[name].close()
        except BaseException as error:
            errors.append(error)

    def child():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not that of pytest-timeout
        signal.alarm(30)
        for handle in handles:
            if handle is not None:
                with pytest.raises((pykv.ForkError, pykv.ClosedError)):
                    handle.get(b"n")
                handle.close()
        with pykv.open(tmp_path / "child", **disk.options) as mine:
            return mine.incr(b"n")

    threads = [threading.Thread(target=visit, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(15):
            assert in_child(child) == (0, str(number + 1))
        while min(rounds) == 0 and not errors:
            time.sleep(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    for name in range(3):
        with pykv.open(tmp_path / f"{name}", **disk.options) as store:
            assert store == {b"n": b"%d" % rounds[name]}
    print(f"15 forks during {sum(rounds)} opens and closes")


@needs_fork
def test_a_forked_child_that_exits_in_order(disk, script):
    """With atexit handlers and all: it says nothing, and changes nothing."""
    _, err = script.run(
        """
        import os, sys, pykv
        store = pykv.open(sys.argv[1], sync=sys.argv[2])
        store["k"] = "v"
        if os.fork() == 0:
            sys.exit(0)
        assert os.wait()[1] == 0
        store["l"] = "w"
        assert dict(store.items()) == {b"k": b"v", b"l": b"w"}
        store.close()
        """,
        disk.path,
        disk.options["sync"],
        options=("-W", "error"),
    )
    assert err == ""
    assert disk.open() == {b"k": b"v", b"l": b"w"}


# ---- multiprocessing --------------------------------------------------------------------------


def spawned(path, queue):
    try:
        pykv.open(path).close()
        queue.put("opened")
    except pykv.LockedError as error:
        queue.put(error.pid)
    with pykv.open(path.with_name("mine")) as mine:
        queue.put(mine.incr(b"n", 5))


def test_a_spawned_process(path, monkeypatch):
    from conftest import python_environment

    monkeypatch.setenv("PYTHONPATH", python_environment()["PYTHONPATH"])
    context = multiprocessing.get_context("spawn")
    with pykv.open(path) as store:
        store[b"k"] = b"v"
        queue = context.SimpleQueue()
        process = context.Process(target=spawned, args=(path, queue))
        process.start()
        assert queue.get() == os.getpid()
        assert queue.get() == 5
        process.join()
        assert process.exitcode == 0
        store[b"k"] = b"w"


inherited = None


def work_in_a_pool(number):
    """In a forked worker: the parent's store is dead there, one of its own works."""
    with pytest.raises(pykv.ForkError):
        inherited.put(b"k", b"worker")
    with pykv.open() as mine:
        mine.put_many({b"%d" % i: b"v" for i in range(number)})
        return len(mine)


def fail_in_a_pool(key):
    return inherited[key]


@needs_fork
def test_a_pool_of_forked_workers(disk, monkeypatch):
    """They use the store that they inherited, and the parent is told in the exception's own type."""
    store = disk.open()
    store[b"k"] = b"v"
    monkeypatch.setitem(globals(), "inherited", store)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work_in_a_pool, range(20)) == list(range(20))
        with pytest.raises(pykv.ForkError):
            pool.apply(fail_in_a_pool, (b"k",))
        store[b"l"] = b"w"
        pool.close()
        pool.join()
    assert store == {b"k": b"v", b"l": b"w"}


def test_a_store_cannot_be_pickled(store):
    import copy
    import pickle

    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(store)
    assert not store.closed


def test_an_exception_can_be_pickled():
    """They travel between processes, as those of concurrent.futures do."""
    import pickle

    for error in (pykv.ClosedError("closed"), pykv.StorageError(errno.ENOSPC, "full", "/x"), pykv.LimitError("x")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and again.args == error.args


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_descriptors_are_not_inherited(disk):
    """A program that is started while a store is open does not get its files."""
    import subprocess

    store = disk.open()
    store[b"k"] = b"v"
    code = "import os; print([os.readlink(f'/proc/self/fd/{f}') for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}')])"
    out = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, close_fds=False, check=True)
    assert str(disk.path) not in out.stdout
