"""Promises of the server about the disk: no reply before its write is there, none lost by a kill, errors and not lies."""

import errno
import os
import random
import subprocess
import sys
import threading
import time

import pytest
from serving import PATIENCE, Raw, elsewhere, request, serving, wait_until
from shim import Control, compiled

import pykv


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    return compiled("shim.c", tmp_path_factory.mktemp("shim"))


@pytest.fixture
def disk(shim, tmp_path):
    """(control, environment): the disk of a server whose store is below tmp_path."""
    control = Control(tmp_path / "control")
    return control, {
        "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {shim}".strip(),
        "PYKV_SHIM_CONTROL": str(tmp_path / "control"),
        "PYKV_SHIM_UNDER": str(tmp_path),
    }


def be_at_work(*clients):
    """A loop whose only client waits for the disk syncs by itself; with others about, it does not."""
    for client in clients:
        assert client.ask("PING") == b"PONG"


@pytest.mark.parametrize("threads", [1, 2])
def test_no_reply_before_the_disk(disk, tmp_path, threads):
    control, env = disk
    with serving(tmp_path / "s", "--threads", threads, env=env) as process:
        clients = [Raw(process.address) for _ in range(4)]
        writer, reader, other, pipeline = clients
        assert writer.ask("SET", "old", 1) == b"OK"
        be_at_work(*clients)
        control.gate = 1
        writer.send(request("SET", "new", 1))
        wait_until(lambda: control.waiting == 1)
        # What was written is held, and so is a read that has seen it; others go on.
        assert writer.silent()
        reader.send(request("GET", "new"))
        assert reader.silent()
        assert other.ask("GET", "old") == b"1" and other.ask("PING") == b"PONG"
        # What stands before the first write in a pipeline leaves, the rest does not.
        pipeline.send(request("GET", "old") + request("SET", "x", 1) + request("PING") + request("GET", "x"))
        assert pipeline.reply() == b"1" and pipeline.silent()
        control.gate = 0
        assert writer.reply() == b"OK" and reader.reply() == b"1"
        assert [pipeline.reply() for _ in range(3)] == [b"OK", b"PONG", b"1"]
        for client in clients:
            client.close()


def test_a_client_that_goes_while_its_reply_is_held(disk, tmp_path):
    control, env = disk
    with serving(tmp_path / "s", env=env) as process, Raw(process.address) as other:
        assert other.ask("SET", "old", 1) == b"OK"
        gone = Raw(process.address)
        be_at_work(gone, other)
        control.gate = 1
        gone.send(request("SET", "new", 1) + request("SET", "newer", 1))
        wait_until(lambda: control.waiting == 1)
        gone.close()
        assert other.ask("GET", "old") == b"1"
        control.gate = 0
        assert other.ask("GET", "new") == b"1" and other.ask("SET", "more", 1) == b"OK"


def test_a_failed_sync_is_an_error_for_each_reply(disk, tmp_path):
    control, env = disk
    with serving(tmp_path / "s", env=env) as process, Raw(process.address) as raw, Raw(process.address) as other:
        assert raw.ask("SET", "old", 1) == b"OK"
        be_at_work(raw, other)
        control.gate = 1
        raw.send(request("GET", "old") + request("SET", "first", 1))
        wait_until(lambda: control.waiting == 1)
        # In the next group: several replies of each, some that tell of no write between.
        raw.send(request("SET", "a", 1) + request("PING") + request("GET", "a") + request("GET", "old"))
        raw.send(request("MULTI") + request("SET", "b", 1) + request("INCR", "b") + request("EXEC"))
        other.send(request("GET", "a"))
        with Raw(process.address) as third:

            def have_run():  # the last of each
                clients = third.ask("CLIENT", "LIST")
                return b" cmd=exec " in clients and b" cmd=get " in clients

            wait_until(have_run)
        control.sync_fail = 1
        control.gate = 0
        assert raw.reply() == b"1"
        replies = [raw.reply() for _ in range(9)]
        for i in (0, 1, 3, 8):
            assert "MISCONF" in str(replies[i]) or "ERR" in str(replies[i]), replies
        assert replies[2] == b"PONG" and replies[4] == b"1"
        assert replies[5:8] == [b"OK", b"QUEUED", b"QUEUED"]
        assert isinstance(other.reply(), RuntimeError)
        # Reads go on, and tell of none of it.
        for key in ("first", "a", "b"):
            assert raw.ask("GET", key) is None
        assert raw.ask("GET", "old") == b"1"


def test_full_disk(disk, tmp_path):
    control, env = disk
    with serving(tmp_path / "s", env=env) as process, Raw(process.address) as raw:
        assert raw.ask("SET", "old", 1) == b"OK"
        control.room = 1
        for _ in range(3):
            raw.send(request("SET", "new", b"x" * 3_000_000) + request("GET", "old"))
            assert "MISCONF" in str(raw.reply())
            assert raw.reply() == b"1"
        with pykv.connect("redis://{}:{}".format(*process.address)) as store:
            with pytest.raises(pykv.StorageError) as refused:
                store["new"] = b"x" * 3_000_000
            assert refused.type is pykv.StorageError and refused.value.errno == errno.ENOSPC
        control.room = 0
        assert raw.ask("GET", "new") is None
        wait_until(lambda: raw.ask("SET", "new", 2) == b"OK")
        assert raw.ask("GET", "new") == b"2"
    with pykv.open(tmp_path / "s") as store:
        assert dict(store) == {b"old": b"1", b"new": b"2"}


@pytest.mark.parametrize("sync", ["interval", "never"])
def test_modes_that_do_not_wait(tmp_path, sync):
    with serving(tmp_path / "s", "--sync", sync) as process, Raw(process.address) as raw:
        raw.send(request("INCR", "n") * 1000)
        assert [raw.reply() for _ in range(1000)] == list(range(1, 1001))
        process.kill()
        process.wait()
    with pykv.open(tmp_path / "s", sync=sync) as store:
        assert store["n"] == b"1000"  # the kernel has what was acknowledged


def test_commands_that_wait_for_what_is_pending(tmp_path):
    """In a pipeline behind writes, beside others that write."""
    with serving(tmp_path / "s", "--enable-debug-commands") as process:
        stop = threading.Event()

        def write():
            with Raw(process.address) as raw:
                while not stop.is_set():
                    raw.send(request("INCR", "m") * 20)
                    for _ in range(20):
                        assert isinstance(raw.reply(), int)

        thread = threading.Thread(target=write)
        thread.start()
        with Raw(process.address) as raw:
            for i in range(10):
                raw.send(
                    request("SET", "a", i)
                    + request("SAVE")
                    + request("INCR", "n")
                    + b'"DE\\x42UG" "RELOAD"\r\n'  # unescaped in place, and run later
                    + request("GET", "a")
                    + request("SET", "a", "x")
                    + request("SAVE")
                )
            for i in range(10):
                expected = [b"OK", b"OK", i + 1, b"OK", b"%d" % i, b"OK", b"OK"]
                assert [raw.reply() for _ in range(7)] == expected
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("sync", ["always", "interval"])
def test_waitaof_in_a_transaction(tmp_path, sync):
    """It waits for nothing there, so it must not say that it has."""
    with (
        pykv.open(tmp_path / "s", sync=sync, sync_interval=60) as store,
        pykv.serve(store, port=0) as server,
        Raw(server.address) as raw,
    ):
        for _ in range(2):
            raw.send(request("MULTI") + request("SET", "key", "value") + request("WAITAOF", 1, 0, 0) + request("EXEC"))
            assert [raw.reply() for _ in range(4)][3] == [b"OK", [int(sync == "always"), 0]]
            assert raw.ask("WAITAOF", 1, 0, 0) == [1, 0]
        raw.send(request("MULTI") + request("WAITAOF", 1, 0, 0) + request("EXEC"))
        assert [raw.reply() for _ in range(3)][2] == [[1, 0]]


def test_part_of_a_request_behind_one_that_waits(tmp_path):
    with serving(tmp_path / "s") as process, Raw(process.address) as raw:
        behind = request("GET", "key")
        for at in range(1, len(behind)):
            raw.send(request("SET", "key", at) + request("SAVE") + behind[:at])
            time.sleep(0.02)
            raw.send(behind[at:])
            assert [raw.reply() for _ in range(3)] == [b"OK", b"OK", b"%d" % at]


def test_a_reply_beside_one_that_waits(tmp_path):
    """Nothing else wakes the loop; the first one, which has others, looks at the clock now and then."""
    with serving(tmp_path / "s", "--threads", 2, "--enable-debug-commands") as process:
        clients = [Raw(process.address) for _ in range(6)]
        be_at_work(*clients)
        for writer, saver, busy in (clients[::2], clients[1::2]):
            busy.send(request("DEBUG", "SLEEP", 0.2))
            time.sleep(0.1)  # so that both come at once
            writer.send(request("SET", "key", "value"))
            saver.send(request("SAVE"))
            for client in (writer, saver, busy):
                client.socket.settimeout(5)
                assert client.reply() == b"OK"
        for client in clients:
            client.close()


def set_until_killed(address, number, acknowledged, pipeline):
    """Sets keys of its own until the server is gone; notes what was acknowledged."""
    rng = random.Random(number)
    i = 0
    try:
        with Raw(address) as raw:
            while True:
                batch = [(f"{number}:{rng.randrange(200)}", f"{i + k}") for k in range(rng.randint(1, pipeline))]
                raw.send(b"".join(request("SET", key, value) for key, value in batch))
                for key, value in batch:
                    acknowledged.append(("asked", key, value))
                for key, value in batch:
                    assert raw.reply() == b"OK"
                    acknowledged.append(("done", key, value))
                i += len(batch)
    except (ConnectionError, EOFError):
        pass


@pytest.mark.parametrize("threads", [1, 2])
def test_kill_loses_nothing_acknowledged(tmp_path, threads, request):
    rng = random.Random(request.config.option.seed)
    journals = [[] for _ in range(8)]
    for _ in range(4):
        with serving(tmp_path / "s", "--threads", threads) as process:
            clients = [
                threading.Thread(target=set_until_killed, args=(process.address, n, journals[n], 1 + n % 3 * 8))
                for n in range(8)
            ]
            for client in clients:
                client.start()
            time.sleep(rng.uniform(0.1, 0.6))
            process.kill()
            for client in clients:
                client.join(PATIENCE)
                assert not client.is_alive()
        with pykv.open(tmp_path / "s") as store:
            found = {key.decode(): value.decode() for key, value in store.items()}
            store._verify()
        for journal in journals:
            check(journal, found)
    assert sum(len(j) for j in journals) > 100


def check(journal, found):
    """Each key has the value of its last acknowledged SET, or of one that was asked for behind it."""
    allowed = {}
    for what, key, value in journal:
        if what == "done":
            allowed[key] = [value, *allowed.get(key, [])[allowed.get(key, [value]).index(value) + 1 :]]
        else:
            allowed.setdefault(key, [None]).append(value)
    for key, values in allowed.items():
        assert found.get(key) in values, (key, found.get(key), values)
    # From here on, what was found is what is there.
    journal[:] = []
    for key in allowed:
        if key in found:
            journal.append(("asked", key, found[key]))
            journal.append(("done", key, found[key]))


def test_python_sees_the_same_promises(disk, tmp_path):
    """A Store beside the server, in one process: its reads wait for, or do not see, what a client's write has not on disk."""
    _, env = disk
    program = (
        "import sys, threading, time\n"
        "sys.path.insert(0, 'tests')\n"
        "import pykv\n"
        "from serving import Raw, request, wait_until\n"
        "from shim import Control\n"
        "control = Control(sys.argv[2])\n"
        "store = pykv.open(sys.argv[1])\n"
        "store['a'] = '1'\n"
        "with pykv.serve(store, port=0) as server, Raw(server.address) as raw:\n"
        "    control.gate = 1\n"
        "    raw.send(request('SET', 'a', 2))\n"
        "    wait_until(lambda: control.waiting == 1)\n"
        "    assert store['a'] == b'1'\n"
        "    control.gate = 0\n"
        "    assert raw.reply() == b'OK' and store['a'] == b'2'\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "s", tmp_path / "control"]
    done = subprocess.run(command, timeout=60, check=False, **elsewhere(env))
    assert done.returncode == 0
