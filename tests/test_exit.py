"""The end of the interpreter, however it comes: an open store loses nothing, and nothing hangs."""

import signal

import pytest

import pykv
from conftest import MODES

WRITE = """
    import sys, pykv
    store = pykv.open(sys.argv[1], sync=sys.argv[2])
    for i in range(1000):
        store[str(i)] = "v" * i
"""


def check(path):
    with pykv.open(path) as store:
        assert store == {b"%d" % i: b"v" * i for i in range(1000)}
        return store.recovery


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "end, status",
    [
        ("", 0),
        ("store = None", 0),
        ("sys.exit(3)", 3),
        ("raise ZeroDivisionError", 1),
        ("import threading; threading.Thread(target=sys.exit).start()", 0),
        ("import gc; loop = [store]; loop.append(loop); del store, loop", 0),
        ("sys.modules['keep'] = store", 0),
        ("pykv.keep = store", 0),
        ("import atexit; atexit.register(store.get, '0')", 0),
    ],
    ids=["falls off the end", "dropped", "sys.exit", "exception", "thread", "cycle", "in sys.modules", "in the package", "atexit"],
)  # fmt: skip
def test_an_interpreter_that_ends_with_an_open_store(script, path, mode, end, status):
    script.run(WRITE + "\n    " + end, path, mode, status=status)
    recovery = check(path)
    assert recovery["clean"] is True, "it was closed properly at the exit"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)", "import os; os.abort()"])
def test_a_process_that_ends_without_its_interpreter(script, path, mode, end):
    child = script.start(WRITE + "\n    " + end, path, mode)
    child.communicate()
    recovery = check(path)
    assert recovery["clean"] is False


def test_sigterm_ends_it_at_once(script, path):
    child = script.start(WRITE + "\n    print('written', flush=True); import time; time.sleep(60)", path, "never")
    assert child.stdout.readline() == "written\n"
    child.terminate()
    assert child.wait(30) == -signal.SIGTERM
    check(path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("close", ["", "store.close()"])
def test_daemon_threads_that_write_at_the_end(script, path, mode, close):
    out, err = script.run(
        f"""
        import sys, threading, time, pykv
        store = pykv.open(sys.argv[1], sync=sys.argv[2])

        def work(name):
            i = 0
            while True:
                i += 1
                try:
                    store[f"{{name}} {{i}}"] = "v" * (i % 1000)
                    done[name] = i
                    store.get_many([f"{{name}} {{j}}" for j in range(i % 100)])
                    list(store.items()) if i % 30 == 0 else None
                except pykv.ClosedError:
                    time.sleep(0.001)

        done = [0] * 6
        for name in range(6):
            threading.Thread(target=work, args=(name,), daemon=True).start()
        time.sleep(0.3)
        while min(done) == 0:
            time.sleep(0.01)
        {close}
        print(*done, flush=True)
        """,
        path,
        mode,
    )
    assert err == ""
    with pykv.open(path) as store:
        for name, count in enumerate(map(int, out.split())):
            assert count > 0
            assert store.get_many([b"%d %d" % (name, i) for i in range(1, count + 1)]) == [
                b"v" * (i % 1000) for i in range(1, count + 1)
            ]
        assert store.recovery["clean"]


def test_threads_that_are_waited_for_at_the_end(script, path):
    """Not daemons: the interpreter waits for them, and they write to the last."""
    script.run(
        """
        import sys, threading, time, pykv
        store = pykv.open(sys.argv[1])

        def work(name):
            time.sleep(0.1)
            for i in range(100):
                store[f"{name} {i}"] = "v"

        for name in range(4):
            threading.Thread(target=work, args=(name,)).start()
        """,
        path,
    )
    with pykv.open(path) as store:
        assert len(store) == 400


def test_views_and_iterators_that_outlive_everything(script, path):
    _, err = script.run(
        """
        import sys, pykv
        store = pykv.open(sys.argv[1])
        store.put_many({str(i): "v" * 10_000 for i in range(100)})
        sys.modules["view"] = store.view("5")
        sys.modules["walk"] = iter(store.items())
        next(sys.modules["walk"])
        sys.modules["keys"] = store.keys()
        sys.modules["batch"] = store.batch()
        sys.modules["batch"].__enter__()
        sys.modules["method"] = store.put
        """,
        path,
    )
    assert err == ""


def test_in_memory_stores_at_the_end(script):
    _, err = script.run(
        """
        import pykv, sys
        store = sys.modules["x"] = pykv.open()
        store.put_many({str(i): "v" * 1000 for i in range(10_000)})
        view = store.view("3")
        """,
        options=("-X", "dev"),
    )
    assert "Error" not in err


def test_many_stores_are_all_closed(script, tmp_path):
    script.run(
        """
        import sys, pykv
        stores = [pykv.open(f"{sys.argv[1]}/{i}", sync="never") for i in range(20)]
        for store in stores:
            store["k"] = "v"
        """,
        tmp_path,
    )
    for i in range(20):
        with pykv.open(tmp_path / str(i)) as store:
            assert store == {b"k": b"v"} and store.recovery["clean"]


def test_others_are_opened_while_all_are_closed(script):
    script.run(
        """
        import sys, threading, pykv, pykv.store
        sys.setswitchinterval(1e-6)
        kept, over = [pykv.open() for _ in range(500)], threading.Event()

        def open_others():
            while not over.is_set() and len(kept) < 3000:
                kept.append(pykv.open())

        other = threading.Thread(target=open_others)
        other.start()
        try:
            for _ in range(300):
                pykv.store._close_open_stores()
        finally:
            over.set()
            other.join()
        """
    )
