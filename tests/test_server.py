"""The life of a server: starting, stopping, where it listens, many clients, `pykv serve`."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest
from serving import PATIENCE, Raw, elsewhere, request, serving, wait_until
from shim import compiled

import pykv

redis = pytest.importorskip("redis")


@pytest.fixture
def memory():
    with pykv.open() as store:
        yield store


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def server(request, memory):
    with pykv.serve(memory, port=0, threads=request.param) as server:
        yield server


def test_get_and_set(server, memory):
    client = redis.Redis(port=server.port)
    assert client.set("key", "value") and client.get("key") == b"value"
    assert memory["key"] == b"value"
    memory["other"] = "from Python"
    assert client.get("other") == b"from Python"


def test_urls(memory, tmp_path):
    with pykv.serve(memory, port=0) as server:
        assert server.url == f"redis://127.0.0.1:{server.port}"
        assert server.address == ("127.0.0.1", server.port) and server.running
        assert server.url in repr(server)
        assert redis.Redis.from_url(server.url).ping()
    assert not server.running and "stopped" in repr(server)
    path = str(tmp_path / "socket")
    with pykv.serve(memory, host=None, unix=path) as server:
        assert server.url == f"unix://{path}" and server.address == path and server.port == 0
        assert redis.Redis.from_url(server.url).ping()


def test_ipv6(memory):
    try:
        server = pykv.serve(memory, host="::1", port=0)
    except OSError:
        pytest.skip("no IPv6 here")
    with server, Raw(("::1", server.port)) as raw:
        assert raw.ask("PING") == b"PONG" and server.url == f"redis://[::1]:{server.port}"


def test_port_in_use(memory):
    with pykv.serve(memory, port=0) as server:
        with pytest.raises(OSError, match="in use") as caught:
            pykv.serve(memory, port=server.port)
        assert caught.value.errno == errno.EADDRINUSE
    with pykv.serve(memory, port=server.port):  # and it is free again, whatever TIME_WAIT says
        pass


def test_not_loopback_needs_a_password(memory):
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ValueError, match="password"):
            pykv.serve(memory, host=host, port=0)
    with pykv.serve(memory, host="0.0.0.0", port=0, password="secret") as server:
        with Raw(("127.0.0.1", server.port)) as raw:
            assert "NOAUTH" in str(raw.ask("GET", "a"))
            assert raw.ask("AUTH", "secret") == b"OK"
            assert raw.ask("GET", "a") is None


def test_bad_arguments(memory):
    for options in ({"port": -1}, {"port": 65536}, {"threads": 0}, {"password": ""}, {"host": None}):
        with pytest.raises(ValueError):
            pykv.serve(memory, **{"port": 0, **options})
    with pytest.raises(ValueError):
        pykv.serve(memory, port=0, max_clients=-1)
    with pytest.raises(TypeError):
        pykv.serve(memory, port=0, max_clients="many")
    with pytest.raises(TypeError):
        pykv.serve("no store", port=0)


def test_stop_is_allowed_twice_and_from_many_threads(memory):
    server = pykv.serve(memory, port=0)
    threads = [threading.Thread(target=server.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_stop_with_clients(server):
    clients = [Raw(server.address) for _ in range(20)]
    for i, client in enumerate(clients):
        assert client.ask("SET", i, i) == b"OK"
    clients[0].send(b"*2\r\n$3\r\nGET")  # half of one
    server.stop()
    for client in clients:
        assert client.at_end()
        client.close()


def test_stop_sends_what_is_to_be_sent(memory):
    with pykv.serve(memory, port=0) as server, Raw(server.address) as raw:
        value = b"x" * 20_000_000
        memory["big"] = value
        raw.send(request("GET", "big"))
        assert raw.socket.recv(1, socket.MSG_PEEK)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert raw.reply() == value
        stopping.join(PATIENCE)
        assert not stopping.is_alive() and raw.at_end()


def test_stop_does_not_wait_for_one_that_does_not_read(memory):
    with pykv.serve(memory, port=0) as server, Raw(server.address) as raw:
        memory["big"] = b"x" * 50_000_000
        raw.send(request("GET", "big"))
        assert raw.socket.recv(1, socket.MSG_PEEK)
        server.stop(grace=0.1)
        assert not server.running


@pytest.mark.parametrize(("threads", "grace"), [(1, 0), (2, PATIENCE)])
def test_stop_under_writes_that_wait_for_no_sync(tmp_path, threads, grace):
    """The loop commits them by itself, so nobody rings it when the last is done."""
    with pykv.open(tmp_path / "s", sync="interval") as store:
        for _ in range(10):
            server = pykv.serve(store, port=0, threads=threads)

            def write(address):
                try:
                    with Raw(address) as raw:
                        while True:
                            raw.send(request("SET", "key", "value") * 200)
                            for _ in range(200):
                                raw.reply()
                except (EOFError, ConnectionError):
                    pass

            writers = [threading.Thread(target=write, args=(server.address,)) for _ in range(2)]
            for writer in writers:
                writer.start()
            time.sleep(0.1)
            stopping = threading.Thread(target=server.stop, args=(grace,), daemon=True)
            stopping.start()
            stopping.join(PATIENCE / 3)
            assert not stopping.is_alive()
            for writer in writers:
                writer.join()


def test_dropped_server_stops(memory):
    port = pykv.serve(memory, port=0).port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_closing_the_store_does_not_end_the_server():
    store = pykv.open()
    with pykv.serve(store, port=0) as server:
        store.close()
        assert redis.Redis(port=server.port).set("a", "b")


def test_shutdown_lets_wait_return(memory):
    with pykv.serve(memory, port=0) as server:
        assert server.wait(0.01) is False
        with Raw(server.address) as raw:
            raw.send(request("SHUTDOWN"))
            assert server.wait(PATIENCE) is True


def test_wait_ends_with_stop(memory):
    server = pykv.serve(memory, port=0)
    timer = threading.Timer(0.05, server.stop)
    timer.start()
    assert server.wait(PATIENCE) is True
    timer.join()


def test_wait_ends_in_time_whatever_signals_come(memory):
    with pykv.serve(memory, port=0) as server:
        count = 0

        def interrupt(*_):
            nonlocal count
            count += 1
            if count < 500:
                signal.setitimer(signal.ITIMER_REAL, 0.02)

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert server.wait(0.1) is False
            assert 0 < count < 500, "not before the signals had ended"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def test_wait_of_what_is_no_number(memory):
    with pykv.serve(memory, port=0) as server:
        with pytest.raises(ValueError, match="not a number"):
            server.wait(float("nan"))
        with pytest.raises(TypeError):
            server.wait("1")
        assert server.wait(-1) is False


def test_ctrl_c_ends_a_wait(memory):
    with pykv.serve(memory, port=0) as server:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            server.wait(PATIENCE)
        timer.join()
        assert server.running


def test_forked_child(memory):
    with pykv.serve(memory, port=0) as server, Raw(server.address) as raw:
        pid = os.fork()
        if pid == 0:
            try:
                ok = not server.running and server.wait() is True
                server.stop()
                del server
                os._exit(0 if ok else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert raw.ask("PING") == b"PONG" and server.running


def test_fork_under_load(tmp_path):
    """Children are made while the loops, the committer and the disk are at work: clients notice nothing."""
    stop, counts = threading.Event(), [0] * 4

    def ask(name):
        with Raw(server.address) as raw:
            while not stop.is_set():
                counts[name] = raw.ask("INCR", f"{name}")

    with pykv.open(tmp_path / "s") as store, pykv.serve(store, port=0, threads=2) as server:
        threads = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not that of pytest-timeout
                    signal.alarm(PATIENCE)
                    server.stop()
                    store.close()
                    with pykv.open() as mine, pykv.serve(mine, port=0) as other, Raw(other.address) as raw:
                        status = 0 if raw.ask("INCR", "n") == 1 and not server.running else 2
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        wait_until(lambda: min(counts) > 0)
        stop.set()
        for thread in threads:
            thread.join()
        assert store == {b"%d" % name: b"%d" % count for name, count in enumerate(counts)}


def test_a_server_that_is_stopped_and_goes_on(tmp_path):
    """By SIGSTOP and SIGCONT: replies come late, each once and in its order."""
    with serving(tmp_path / "s", "--threads", 2) as process:
        clients = [Raw(process.address) for _ in range(4)]
        for number in range(1, 21):
            for client in clients:
                client.send(request("INCR", "n") * 5)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            with pytest.raises(pykv.LockedError):
                pykv.open(tmp_path / "s")
            process.send_signal(signal.SIGCONT)
            replies = [[client.reply() for _ in range(5)] for client in clients]
            assert all(mine == sorted(mine) for mine in replies)
            assert sorted(sum(replies, [])) == list(range(20 * number - 19, 20 * number + 1))
        for client in clients:
            client.close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    with pykv.open(tmp_path / "s") as store:
        assert store == {b"n": b"400"} and store.recovery["clean"]


def test_child_that_lives_on(memory):
    """It has copies of all descriptors, and yet connections end and the port is free again."""
    with pykv.serve(memory, port=0) as server:
        clients = [Raw(server.address) for _ in range(20)]
        assert clients[-1].ask("PING") == b"PONG"
        pid = os.fork()
        if pid == 0:
            time.sleep(2 * PATIENCE)
            os._exit(0)
        try:
            for client in clients[:10]:
                client.send(request("SET", "a", "b") + request("QUIT"))
                assert client.reply() == b"OK" and client.reply() == b"OK" and client.at_end()
            for client in clients[10:15]:
                client.socket.shutdown(socket.SHUT_RDWR)  # of which the child has a copy, too
            wait_until(lambda: server._figures()["clients"] == 5)
            with Raw(server.address) as raw:
                assert raw.ask("GET", "a") == b"b"
            server.stop()
            assert all(client.at_end() for client in clients[15:])
            with pykv.serve(memory, port=server.port) as again, Raw(again.address) as raw:
                assert raw.ask("GET", "a") == b"b"
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_interpreter_exit(tmp_path):
    program = (
        "import pykv, sys\n"
        "store = pykv.open(sys.argv[1])\n"
        "server = pykv.serve(store, port=0, threads=2)\n"
        "import socket; s = socket.create_connection(server.address)\n"
        "s.sendall(b'SET a b\\r\\n'); assert s.recv(5) == b'+OK\\r\\n'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "s"], timeout=60, check=False, **elsewhere()
    )
    assert done.returncode == 0
    with pykv.open(tmp_path / "s") as store:
        assert store["a"] == b"b" and store.recovery["clean"]


# ---- The unix socket ------------------------------------------------------------------------------


def test_unix_socket_is_the_owners_alone(memory, tmp_path):
    path = tmp_path / "socket"
    before = os.umask(0)
    try:
        with pykv.serve(memory, host=None, unix=path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not path.exists()


def test_unix_socket_in_use(memory, tmp_path):
    path = tmp_path / "socket"
    with pykv.serve(memory, host=None, unix=path) as server:
        with pytest.raises(OSError, match="in use"):
            pykv.serve(memory, host=None, unix=path)
        with Raw(server.address) as raw:
            assert raw.ask("PING") == b"PONG"


def test_stale_unix_socket_is_replaced(memory, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pykv.serve(memory, host=None, unix=path) as server, Raw(server.address) as raw:
        assert raw.ask("PING") == b"PONG"


def test_unix_path_that_is_something_else(memory, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        pykv.serve(memory, host=None, unix=path)
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match="longer"):
        pykv.serve(memory, host=None, unix=tmp_path / ("x" * 120))
    with pytest.raises(OSError):
        pykv.serve(memory, host=None, unix=tmp_path / "missing" / "socket")


def test_another_servers_socket_is_not_removed(memory, tmp_path):
    path = tmp_path / "socket"
    server = pykv.serve(memory, host=None, unix=path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        server.stop()
        assert path.exists()


# ---- Many clients ---------------------------------------------------------------------------------


def test_transactions_across_clients(server):
    a, b = Raw(server.address), Raw(server.address)
    with a, b:
        assert a.ask("MULTI") == b"OK"
        assert a.ask("SET", "k", 1) == b"QUEUED" and a.ask("INCR", "k") == b"QUEUED"
        assert b.ask("GET", "k") is None
        assert a.ask("EXEC") == [b"OK", 2]
        assert b.ask("GET", "k") == b"2"
        assert a.ask("WATCH", "k") == b"OK"
        assert b.ask("SET", "k", 5) == b"OK"
        assert a.ask("MULTI") == b"OK" and a.ask("SET", "k", 6) == b"QUEUED"
        assert a.ask("EXEC") is None and b.ask("GET", "k") == b"5"


def test_python_threads_write_the_same_keys(server, memory):
    count = 2000

    def by_python():
        for _ in range(count):
            memory.incr("n")

    def by_client():
        with Raw(server.address) as raw:
            for _ in range(count // 100):
                raw.send(request("INCR", "n") * 100)
                for _ in range(100):
                    assert isinstance(raw.reply(), int)

    threads = [threading.Thread(target=f) for f in (by_python, by_client, by_python, by_client)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory["n"] == b"%d" % (4 * count)


def test_many_idle_connections(server):
    clients = [Raw(server.address) for _ in range(1000)]
    try:
        assert clients[-1].ask("PING") == b"PONG"
        for client in clients[::97]:
            assert client.ask("SET", "a", "b") == b"OK"
    finally:
        for client in clients:
            client.close()
    with Raw(server.address) as raw:
        wait_until(lambda: server._figures()["clients"] == 1)
        assert raw.ask("PING") == b"PONG"


def test_client_list_and_kill(server):
    clients = [Raw(server.address) for _ in range(6)]
    try:
        ids = [client.ask("CLIENT", "ID") for client in clients]
        assert len(set(ids)) == 6
        listing = clients[0].ask("CLIENT", "LIST").decode()
        assert all(f"id={i} " in listing for i in ids)
        for client, number in zip(clients[1:], ids[1:], strict=True):
            assert clients[0].ask("CLIENT", "KILL", "ID", number) == 1
            assert client.at_end()
        assert clients[0].ask("CLIENT", "KILL", "ID", 12345678) == 0
        assert clients[0].ask("PING") == b"PONG"
    finally:
        for client in clients:
            client.close()


def test_kill_many_at_once(server):
    clients = [Raw(server.address) for _ in range(600)]
    with Raw(server.address) as raw:
        assert all(client.ask("PING") == b"PONG" for client in clients)
        assert raw.ask("CLIENT", "KILL", "TYPE", "normal") == 600
        assert all(client.at_end() for client in clients)
        assert raw.ask("PING") == b"PONG"
    for client in clients:
        client.close()


def test_kill_by_age(server):
    with Raw(server.address) as raw, Raw(server.address) as other:
        assert other.ask("PING") == b"PONG"
        time.sleep(0.4)
        for age in (100, 18446744074, (1 << 63) - 1):  # times 10^9 the second is 0.29 * 10^9, in 64 bits
            assert raw.ask("CLIENT", "KILL", "MAXAGE", age) == 0
        assert other.ask("PING") == b"PONG"


LISTED_AT_ONCE = """
import sys, threading, time, pykv
from servers import free_port
from serving import PATIENCE, Raw

def ask():
    while True:
        try:
            with Raw(("127.0.0.1", port)) as raw:
                listings.append(raw.ask("CLIENT", "LIST"))
            return
        except ConnectionRefusedError:
            time.sleep(0.001)

port, listings = free_port(), []
thread = threading.Thread(target=ask)
thread.start()
with pykv.open() as store, pykv.serve(store, port=port):
    thread.join(PATIENCE)
    sys.stdout.write(f"{len(listings)}")
    sys.stdout.flush()
"""


def test_listed_before_the_start_has_returned(tmp_path):
    environment = {"LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {compiled('late.c', tmp_path)}".strip()}
    options = {"capture_output": True, "text": True, "timeout": 2 * PATIENCE, **elsewhere(environment)}
    ended = subprocess.run([sys.executable, "-c", LISTED_AT_ONCE], **options)
    assert ended.stdout == "1", ended.stderr


def test_clients_come_go_and_are_listed_at_once(server):
    """Lists and kills while others come and go: nobody is visited after his end."""
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            with Raw(server.address) as raw:
                raw.ask("SET", "a", "b")

    def listing():
        with Raw(server.address) as raw:
            while not stop.is_set():
                assert b"id=" in raw.ask("CLIENT", "LIST")

    threads = [threading.Thread(target=f) for f in (come_and_go, come_and_go, listing, listing)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# ---- Channels -------------------------------------------------------------------------------------


def test_channels_across_loops(server):
    listeners = [Raw(server.address) for _ in range(4)]
    with Raw(server.address) as publisher:
        for i, listener in enumerate(listeners):
            assert listener.ask("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
            assert listener.ask("PSUBSCRIBE", f"n*{'' if i % 2 else 'x'}")[0] == b"psubscribe"
        assert publisher.ask("PUBSUB", "NUMSUB", "news") == [b"news", 4]
        assert publisher.ask("PUBSUB", "CHANNELS") == [b"news"]
        assert publisher.ask("PUBSUB", "NUMPAT") == 2
        assert publisher.ask("PUBLISH", "news", "hello") == 6
        for i, listener in enumerate(listeners):
            assert listener.reply() == [b"message", b"news", b"hello"]
            if i % 2:
                assert listener.reply() == [b"pmessage", b"n*", b"news", b"hello"]
        for listener in listeners:
            listener.close()
        wait_until(lambda: publisher.ask("PUBLISH", "news", "x") == 0)
        assert publisher.ask("PUBSUB", "CHANNELS") == []


def test_messages_keep_their_order(server):
    count = 5000
    with Raw(server.address) as listener, Raw(server.address) as publisher:
        listener.ask("SUBSCRIBE", "c")
        publisher.send(b"".join(request("PUBLISH", "c", i) for i in range(count)))
        for i in range(count):
            assert listener.reply() == [b"message", b"c", b"%d" % i]
        assert [publisher.reply() for _ in range(count)] == [1] * count


def test_a_message_to_oneself_comes_behind_the_reply(server):
    with Raw(server.address) as raw:
        raw.send(request("HELLO", 3))
        line = raw.line()
        assert line.startswith(b"%")
        for _ in range(2 * int(line[1:])):
            raw.reply()
        assert raw.ask("SUBSCRIBE", "me") == [b"subscribe", b"me", 1]
        assert raw.ask("PUBLISH", "me", "hi") == 1
        assert raw.reply() == [b"message", b"me", b"hi"]


# ---- `pykv serve` ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_command(tmp_path, number):
    with serving(tmp_path / "s") as process, Raw(process.address) as raw:
        assert raw.ask("SET", "a", "b") == b"OK"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0 and raw.at_end()
        assert process.stderr.read() == ""
    with pykv.open(tmp_path / "s") as store:
        assert store["a"] == b"b" and store.recovery["clean"]


def test_shutdown_ends_the_command(tmp_path):
    with serving("--memory", "--threads", 2) as process, Raw(process.address) as raw:
        raw.send(request("SHUTDOWN"))
        assert process.wait(PATIENCE) == 0


def test_debug_reload(tmp_path):
    options = [tmp_path / "s", "--threads", 2, "--enable-debug-commands"]
    with serving(*options) as process:
        clients = [Raw(process.address) for _ in range(4)]
        listener = Raw(process.address)
        listener.ask("SUBSCRIBE", "c")
        for i in range(100):
            assert clients[i % 4].ask("SET", i, i) == b"OK"
        for client in clients:
            assert client.ask("DEBUG", "RELOAD") == b"OK"
        assert [clients[i % 4].ask("GET", i) for i in range(100)] == [b"%d" % i for i in range(100)]
        assert clients[0].ask("PUBLISH", "c", "still here") == 1
        assert listener.reply() == [b"message", b"c", b"still here"]
        assert clients[3].ask("SET", "after", 1) == b"OK"
        for client in (*clients, listener):
            client.close()


def test_reload_while_others_write(tmp_path):
    with serving(tmp_path / "s", "--threads", 2, "--enable-debug-commands") as process:
        stop = threading.Event()
        acknowledged = [0, 0, 0]

        def write(i):
            with Raw(process.address) as raw:
                while not stop.is_set():
                    assert raw.ask("SET", f"{i}:{acknowledged[i]}", "x") == b"OK"
                    acknowledged[i] += 1

        threads = [threading.Thread(target=write, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        with Raw(process.address) as raw:
            for _ in range(10):
                assert raw.ask("DEBUG", "RELOAD") == b"OK"
            wait_until(lambda: min(acknowledged) > 0)
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
            assert raw.ask("DBSIZE") == sum(acknowledged)


def run_serve(*arguments, **options):
    command = [sys.executable, "-m", "pykv", "serve", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **{**elsewhere(), **options}
    )


def test_errors_are_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            (["--memory", "--port", port], "in use"),
            (["--memory", "--host", "0.0.0.0"], "password"),
            (["--memory", "--password-file", tmp_path / "missing"], "No such file"),
            (["--memory", "--port", "70000"], "70000"),
            (["--memory", "--max-memory", "lots"], "lots"),
            ([], "STORE or --memory"),
            ([tmp_path / "s", "--memory"], "STORE or --memory"),
        ]
        for arguments, text in cases:
            done = run_serve(*arguments)
            assert done.returncode == 2, arguments
            assert text in done.stderr and done.stderr.count("\n") == 1, done.stderr
            assert done.stdout == ""


def test_password_from_file_and_environment(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\n")
    for options in (
        {"arguments": ["--password-file", file], "env": {}},
        {"arguments": [], "env": {"PYKV_PASSWORD": "secret"}},
    ):
        with serving("--memory", *options["arguments"], env=options["env"]) as process:
            with Raw(process.address) as raw:
                assert "NOAUTH" in str(raw.ask("GET", "a"))
                assert "WRONGPASS" in str(raw.ask("AUTH", "guess"))
                assert raw.ask("AUTH", "secret") == b"OK"


def test_service_manager_is_told(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)
        with serving("--memory", env={"NOTIFY_SOCKET": path}) as process:
            assert manager.recv(100) == b"READY=1"
            process.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert process.wait(PATIENCE) == 0


def test_metrics():
    pytest.importorskip("prometheus_client")
    from urllib.request import urlopen

    from pykv import metrics

    with pykv.open() as store, pykv.serve(store, port=0) as server:
        with metrics.exposed(server, 0) as port, Raw(server.address) as raw:
            raw.ask("SET", "a", "b")
            raw.ask("GET", "a")
            raw.ask("GET", "b")
            text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    for line in (
        "pykv_clients 1.0",
        "pykv_entries 1.0",
        "pykv_hits_total 1.0",
        "pykv_misses_total 1.0",
        'pykv_command_seconds_count{command="get"} 2.0',
    ):
        assert line in text


def test_a_loop_that_waits_can_be_looked_at(tmp_path):
    with serving(tmp_path / "s", "--threads", 2, "--enable-debug-commands") as process:
        clients = [Raw(process.address) for _ in range(4)]
        ids = [client.ask("CLIENT", "ID") for client in clients]
        clients[0].send(request("DEBUG", "SLEEP", PATIENCE))
        time.sleep(0.05)
        answered = 0
        for client in clients[1:]:
            client.send(request("CLIENT", "LIST"))
            client.socket.settimeout(5)
            try:
                listing = client.reply().decode()
                assert all(f"id={i} " in listing for i in ids)
                answered += 1
            except TimeoutError:
                pass  # of the same loop
        assert answered == 2
        for client in clients:
            client.close()


def test_a_remote_store_knows_what_it_talks_to():
    with pykv.open() as store, pykv.serve(store, port=0) as server, pykv.connect(server.url) as db:
        assert db.capabilities.backend == "pykv"
        assert db.capabilities.version == pykv.__version__
        assert db.capabilities.compare_and_set == "native"
        assert db.stats()["info"]["pykv_version"] == pykv.__version__
