"""Signals: Ctrl-C reaches the main thread, any number of others break no write, and a stopped process goes on."""

import contextlib
import os
import signal
import threading
import time

import pytest

import pykv
from conftest import assert_holds

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="needs POSIX signals"
)


@contextlib.contextmanager
def beating(handler):
    """A thread sends the main thread a signal every half millisecond or so."""

    def beat():
        while not stop.wait(0.0005):
            signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.main_thread().ident
    stop = threading.Event()
    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def beats():
    """Signals come while the test runs; how many came."""
    count = [0]

    def handler(number, frame):
        count[0] += 1

    with beating(handler):
        yield count


def test_writes_under_many_signals(store, beats):
    model = {}
    deadline = time.monotonic() + 0.7
    i = 0
    while time.monotonic() < deadline or beats[0] < 20:
        i += 1
        store[b"%d" % (i % 100)] = model[b"%d" % (i % 100)] = b"v" * (i % 3000)
        if i % 10 == 0:
            store.put_many({b"many %d" % j: b"%d" % i for j in range(50)})
            model.update({b"many %d" % j: b"%d" % i for j in range(50)})
            assert store.incr(b"n") == i // 10
            model[b"n"] = b"%d" % (i // 10)
    assert beats[0] >= 20, "no signals came: nothing was tested"
    assert_holds(store, model)


def test_a_thousand_signals_a_second(script, disk):
    """From the system's clock, so that they come while threads are inside of the store, waiting for the disk."""
    out, _ = script.run(
        """
        import os, signal, sys, threading, time, pykv
        store, stop, done = pykv.open(sys.argv[1], sync=sys.argv[2], sync_interval=0.01), False, [0] * 4

        def work(name):
            while not stop:
                store[f"{name} {done[name]}"] = "v" * (done[name] * 97 % 5000)
                done[name] += 1
                if done[name] % 50 == 0:
                    store.sync()
                    store.checkpoint()

        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)  # gets a byte for each
        signal.signal(signal.SIGALRM, lambda number, frame: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        count = 0
        while count < 1000 or min(done) == 0:
            count += len(os.read(read, 10_000))
        stop = True
        for thread in threads:
            thread.join()
        store.close()
        signal.setitimer(signal.ITIMER_REAL, 0)  # at the end of the interpreter there is no handler
        print(count, *done)
        """,
        disk.path,
        disk.options["sync"],
    )
    signals, *done = map(int, out.split())
    print(f"{signals} signals, {sum(done)} writes")
    with disk.open() as store:
        assert_holds(store, {b"%d %d" % (n, i): b"v" * (i * 97 % 5000) for n in range(4) for i in range(done[n])})


STOPPED = """
    import sys, threading, pykv
    store = pykv.open(sys.argv[1], sync=sys.argv[2], sync_interval=0.01)
    said = threading.Lock()

    def work(name):
        i = 0
        while True:
            store[f"{name} {i}"] = "v"
            i += 1
            with said:
                print(name, flush=True)

    for name in range(4):
        threading.Thread(target=work, args=(name,), daemon=True).start()
    sys.stdin.readline()
    store.close()
"""


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_process_that_is_stopped_and_goes_on(script, disk, rng, end):
    """At any moment: it keeps the lock meanwhile, and loses nothing, also if it is killed while it is stopped."""
    child = script.start(STOPPED, disk.path, disk.options["sync"])
    counts = [0] * 4

    def listen():
        for line in child.stdout:
            counts[int(line)] += 1

    listener = threading.Thread(target=listen)
    listener.start()
    stops = 25
    for number in range(stops):
        before = sum(counts)
        while sum(counts) < before + 20:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.003)
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        with pytest.raises(pykv.LockedError) as caught:
            pykv.open(disk.path, **disk.options)
        assert caught.value.pid == child.pid
        if end == "killed" and number == stops - 1:
            child.kill()
        child.send_signal(signal.SIGCONT)
    if end == "closed":
        child.stdin.write("\n")
        child.stdin.flush()
    child.wait(30)
    listener.join()
    assert child.returncode == (0 if end == "closed" else -signal.SIGKILL)
    with disk.open() as store:
        for name, count in enumerate(counts):
            assert store.get_many([f"{name} {i}" for i in range(count)]) == [b"v"] * count
        assert store.recovery["clean"] == (end == "closed")
    print(f"stopped {stops} times during {sum(counts)} acknowledged writes")


def test_large_writes_under_many_signals(disk, beats, rng):
    """A system call for many bytes is the one that a signal cuts short."""
    values = [rng.randbytes(3_000_000) for _ in range(6)]
    with disk.open() as store:
        for i in range(20):
            store[b"%d" % i] = values[i % 6]
        store.sync()
    with disk.open() as store:
        assert_holds(store, {b"%d" % i: values[i % 6] for i in range(20)})
        assert store.recovery["bytes_cut"] == 0
    assert beats[0] > 0


def test_opening_under_many_signals(disk, beats):
    with disk.open() as store:
        store.put_many({b"%d" % i: b"v" * 100 for i in range(50_000)})
    for _ in range(5):
        with disk.open() as store:
            assert len(store) == 50_000
    assert beats[0] > 0


def test_a_handler_that_uses_the_store(store):
    """Handlers run between the interpreter's steps, never inside of a call that holds a lock."""

    def handler(number, frame):
        store.incr(b"beats")
        seen.append(store.get(b"k"))

    seen = []
    with beating(handler):
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline or len(seen) < 20:
            store[b"k"] = b"v" * 2000
            store.get_many([b"k"] * 100)
            for _ in store.items():
                pass
    assert len(seen) >= 20 and store[b"beats"] == b"%d" % len(seen)
    assert set(seen) <= {None, b"v" * 2000}


def test_keyboard_interrupt_reaches_the_main_thread_while_others_write(script, path):
    out, err = script.run(
        """
        import os, signal, sys, threading, time, pykv
        store = pykv.open(sys.argv[1])
        done = [0] * 4
        stop = False

        def work(name):
            while not stop:
                store[f"{name} {done[name]}"] = "v"
                done[name] += 1

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
            try:
                i = 0
                while True:
                    i += 1
                    store["main"] = str(i)
                    if i == 1:
                        timer.start()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        before = sum(done)
        while sum(done) < before + 10:
            time.sleep(0.001)
        stop = True
        for thread in threads:
            thread.join()
        assert int(store["main"]) >= 1
        print(*done)
        """,
        path,
    )
    lines = out.split("\n")
    assert lines[:3] == ["interrupted"] * 3
    with pykv.open(path) as store:
        for name, count in enumerate(map(int, lines[3].split())):
            assert store.get_many([f"{name} {i}" for i in range(count)]) == [b"v"] * count


def test_ctrl_c_ends_a_program_and_loses_nothing(script, path):
    child = script.start(
        """
        import sys, pykv
        store = pykv.open(sys.argv[1])
        i = 0
        while True:
            store[str(i)] = "v"
            i += 1
            if i % 100 == 0:
                print(i, flush=True)
        """,
        path,
    )
    assert child.stdout.readline() == "100\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert child.returncode == -signal.SIGINT
    last = int(out.split()[-1]) if out else 100
    with pykv.open(path) as store:
        assert store.get_many([b"%d" % i for i in range(last)]) == [b"v"] * last
        assert store.recovery["clean"]


def test_an_interrupted_batch_is_dropped(store):
    timer = threading.Timer(0.05, signal.raise_signal, (signal.SIGINT,))
    with pytest.raises(KeyboardInterrupt):
        with store.batch() as batch:
            timer.start()
            while True:
                batch.put(b"k", b"v")
    assert len(store) == 0
    store[b"k"] = b"v"
