"""What clients send, in pieces and in bad shape; limits and timeouts.  Others are never disturbed."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from serving import PATIENCE, Raw, elsewhere, request, wait_until

import pykv


@pytest.fixture
def store():
    with pykv.open() as store:
        yield store


@pytest.fixture
def serve(store):
    """Starts a server with options; it stops at the end of the test."""
    servers = []

    def start(**options):
        servers.append(pykv.serve(store, port=0, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop(grace=0)


PIPELINE = (
    request("SET", "key", "value")
    + request("GET", "key")
    + b"PING\r\n"
    + b'SET "quoted key" \'x\'\r\n'
    + b"\r\n"
    + request("MULTI")
    + request("INCR", "n")
    + request("SET", "big", b"\r\n" * 50)
    + request("EXEC")
    + request("GET", "big")
    + request("NOSUCH")
    + request("GET", "")
)
REPLIES = [b"OK", b"value", b"PONG", b"OK", b"OK", b"QUEUED", b"QUEUED", [1, b"OK"], b"\r\n" * 50]


def check_replies(raw):
    for expected in REPLIES:
        assert raw.reply() == expected
    assert "unknown command" in str(raw.reply())
    assert raw.reply() is None


def test_pipeline_split_at_every_byte(serve, store):
    server = serve(threads=2)
    with Raw(server.address) as raw:
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(PIPELINE) + 1):
            store.clear()
            raw.send(PIPELINE[:at])
            if at % 5 == 0:
                time.sleep(0.0005)  # more often than not it arrives by itself
            raw.send(PIPELINE[at:])
            check_replies(raw)


def test_one_byte_at_a_time(serve):
    server = serve()
    with Raw(server.address) as raw, Raw(server.address) as other:
        for i in range(len(PIPELINE)):
            raw.send(PIPELINE[i : i + 1])
            if i % 20 == 0:
                assert other.ask("PING") == b"PONG"
        check_replies(raw)


def test_long_pipelines(serve):
    server = serve()
    count = 50_000
    with Raw(server.address) as raw:
        raw.send(b"".join(request("SET", f"k{i}", i) + request("GET", f"k{i}") for i in range(count)))
        for i in range(count):
            assert raw.reply() == b"OK" and raw.reply() == b"%d" % i


def test_large_values_both_ways(serve):
    server = serve()
    value = os.urandom(1 << 20) * 100
    with Raw(server.address) as raw:
        raw.send(request("SET", "big", value) + request("STRLEN", "big"))
        assert raw.reply() == b"OK" and raw.reply() == len(value)
        assert raw.ask("GET", "big") == value
        assert raw.ask("APPEND", "big", b"!") == len(value) + 1
    wait_until(lambda: server._figures()["query_buffer_bytes"] == 0)


def test_end_of_input_behind_requests(serve):
    """As `printf ... | nc` does: everything sent is run and answered, then the connection ends."""
    server = serve()
    with Raw(server.address) as raw:
        raw.send(request("SET", "a", "b") * 1000 + request("GET", "a") + b"*1\r\n$4\r\nPI")
        raw.socket.shutdown(socket.SHUT_WR)
        for _ in range(1000):
            assert raw.reply() == b"OK"
        assert raw.reply() == b"b" and raw.at_end()


def test_quit_ends_behind_its_reply(serve):
    server = serve()
    with Raw(server.address) as raw:
        raw.send(request("SET", "a", 1) + request("QUIT") + request("SET", "a", 2))
        assert raw.reply() == b"OK" and raw.reply() == b"OK" and raw.at_end()
    with Raw(server.address) as raw:
        assert raw.ask("GET", "a") == b"1"


BAD = {
    "count is no number": b"*x\r\n",
    "count is too large": b"*99999999999\r\n",
    "many arguments": b"*2000000\r\n",
    "no dollar": b"*1\r\n+PING\r\n",
    "length is no number": b"*1\r\n$x\r\n",
    "length is negative": b"*1\r\n$-5\r\n",
    "length is huge": b"*1\r\n$9999999999999999999\r\n",
    "value is over the limit": b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$600000000\r\n",
    "endless inline": b"x" * 100_000,
    "endless count": b"*" + b"1" * 100_000,
    "quotes do not close": b'SET "a b\r\n',
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_requests(serve, name):
    server = serve()
    with Raw(server.address) as good, Raw(server.address) as bad:
        assert good.ask("SET", "a", "b") == b"OK"
        bad.send(request("PING") + BAD[name])
        assert bad.reply() == b"PONG"
        assert "Protocol error" in str(bad.reply())
        assert bad.at_end()
        assert good.ask("GET", "a") == b"b"
    assert server.running


def test_odd_bytes_do_no_harm(serve):
    server = serve()
    with Raw(server.address) as good:
        for data in (b"\0" * 100 + b"\r\n", b"*3\r\n$3\r\nSET\r\n$2\r\na\0\r\n$2\r\n\0b\r\n", os.urandom(5000) + b"\r\n"):
            with Raw(server.address) as bad:
                bad.send(data)
                bad.socket.shutdown(socket.SHUT_WR)
                assert bad.at_end()
        assert good.ask("GET", b"a\0") == b"\0b"


HTTP = [b"POST /x HTTP/1.1", b"GET / HTTP/1.1\r\nHost: localhost", request("Host:", "localhost")]


@pytest.mark.parametrize("line", HTTP)
def test_a_page_in_a_browser_cannot_write(serve, store, line):
    server = serve()
    with Raw(server.address) as raw:
        raw.send(line.removesuffix(b"\r\n") + b"\r\nContent-Type: text/plain\r\n\r\nSET key value\r\n")
        assert raw.at_end()
    assert "key" not in store


# ---- Limits ---------------------------------------------------------------------------------------


def test_max_clients(serve):
    server = serve(max_clients=3)
    clients = [Raw(server.address) for _ in range(3)]
    assert clients[2].ask("PING") == b"PONG"
    with Raw(server.address) as one_more:
        assert "max number of clients reached" in str(one_more.reply()) and one_more.at_end()
    clients[0].close()
    wait_until(lambda: server._figures()["clients"] == 2)
    with Raw(server.address) as raw:
        assert raw.ask("PING") == b"PONG"
    assert server._figures()["connections_refused"] == 1
    for client in clients:
        client.close()


def test_largest_argument(serve):
    server = serve(max_bulk=1 << 20)
    with Raw(server.address) as raw:
        assert raw.ask("SET", "a", b"x" * (1 << 20)) == b"OK"
        raw.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1048577\r\n")
        assert "bulk length" in str(raw.reply()) and raw.at_end()


def test_query_buffer_of_one_client(serve):
    server = serve(max_query_buffer=2 << 20)
    with Raw(server.address) as raw, Raw(server.address) as other:
        with pytest.raises((ConnectionError, EOFError)):
            raw.ask("SET", "a", b"x" * (3 << 20))
        assert other.ask("GET", "a") is None
    assert server._figures()["query_buffer_bytes"] == 0


def test_query_buffers_of_all_clients(serve):
    server = serve(max_query_buffers=4 << 20)
    half = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$3000000\r\n" + b"x" * 1_500_000
    clients = [Raw(server.address) for _ in range(6)]
    for client in clients:
        try:
            client.send(half)
        except ConnectionError:
            pass
    closed = 0
    for client in clients:
        try:
            client.send(b"x" * 1_500_000 + b"\r\n")
            assert client.reply() == b"OK"
        except (ConnectionError, EOFError):
            closed += 1
        client.close()
    assert 0 < closed < 6
    wait_until(lambda: server._figures()["query_buffer_bytes"] == 0)


def test_announcing_much_costs_nothing(serve):
    server = serve()
    clients = [Raw(server.address) for _ in range(50)]
    for client in clients:
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$500000000\r\n")
    assert Raw(server.address).ask("PING") == b"PONG"
    assert server._figures()["query_buffer_bytes"] < 100_000
    for client in clients:
        client.close()


def test_slow_reader_is_disconnected(serve, store):
    server = serve(max_output_buffer=2 << 20)
    store["value"] = b"x" * 8000
    with Raw(server.address) as slow, Raw(server.address) as good:
        try:
            for _ in range(100):
                slow.send(request("GET", "value") * 100)
        except ConnectionError:
            pass
        wait_until(lambda: server._figures()["output_limit_closes"] == 1)
        assert good.ask("GET", "value") == store["value"]


def test_slow_listener_is_disconnected(serve):
    server = serve(max_output_buffer=1 << 20, threads=2)
    with Raw(server.address) as a, Raw(server.address) as b, Raw(server.address) as publisher:
        for listener in (a, b):
            listener.ask("SUBSCRIBE", "c")
        for _ in range(2000):
            publisher.ask("PUBLISH", "c", b"x" * 20_000)
        wait_until(lambda: server._figures()["output_limit_closes"] == 2)
        wait_until(lambda: publisher.ask("PUBLISH", "c", "x") == 0)


def test_before_the_password(serve):
    server = serve(password="secret")
    with Raw(server.address) as raw:
        raw.send(b"*11\r\n")
        assert "unauthenticated multibulk length" in str(raw.reply()) and raw.at_end()
    with Raw(server.address) as raw:
        raw.send(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n")
        assert "unauthenticated bulk length" in str(raw.reply()) and raw.at_end()
    with Raw(server.address) as raw:  # the limits end with AUTH, in the middle of a pipeline
        words = ["MSET", *"abcdefghijklmnop"]
        raw.send(request("AUTH", "secret") + request(*words[:1], *words[1:]) + request("SET", "k", b"x" * 50_000))
        assert [raw.reply() for _ in range(3)] == [b"OK"] * 3


@pytest.fixture
def longer():
    """Runs a test with a time of one second; when the busy client was idle for that long, with more."""

    def run(test):
        for seconds in (1, 4):
            with contextlib.suppress(EOFError, ConnectionError):
                return test(seconds)
        return test(16)

    return run


def test_idle_timeout(serve, longer):
    @longer
    def _(seconds):
        server = serve(idle_timeout=seconds)
        with Raw(server.address) as idle, Raw(server.address) as busy, Raw(server.address) as listener:
            listener.ask("SUBSCRIBE", "c")
            assert idle.ask("PING") == b"PONG"
            wait_until(lambda: busy.ask("PING") == b"PONG" and server._figures()["idle_closes"] == 1)
            assert idle.at_end()
            assert busy.ask("PUBLISH", "c", "x") == 1  # who listens is not idle


def test_a_client_that_reads_slowly_is_not_idle(serve, store, longer):
    store["k"] = b"v" * (48 << 20)

    @longer
    def _(seconds):
        server = serve(idle_timeout=seconds)
        with Raw(server.address) as slow:
            slow.send(request("GET", "k"))
            assert slow.line() == b"$%d" % (48 << 20)
            left = (48 << 20) + 2 - len(slow.rest)
            while left > 0:
                data = slow.socket.recv(1 << 18)
                if not data:
                    raise EOFError("it was disconnected")
                left -= len(data)
                time.sleep(0.015 * seconds)


def test_idle_timeout_can_be_set_later(serve, longer):
    @longer
    def _(seconds):
        server = serve()
        with Raw(server.address) as idle, Raw(server.address) as busy:
            assert idle.ask("PING") == b"PONG"
            assert busy.ask("CONFIG", "SET", "timeout", seconds) == b"OK"
            wait_until(lambda: busy.ask("PING") == b"PONG" and server._figures()["idle_closes"] == 1)
            assert idle.at_end()


def test_half_a_request(serve):
    server = serve(request_timeout=1)
    with Raw(server.address) as idle, Raw(server.address) as slow:
        assert idle.ask("PING") == b"PONG"
        with contextlib.suppress(ConnectionError):  # where this takes long, it is closed meanwhile
            for byte in b"*2\r\n$3\r\nGET":
                slow.send(bytes([byte]))  # a byte now and then does not keep it alive
                time.sleep(0.05)
        assert slow.at_end()
        assert idle.ask("PING") == b"PONG"


def test_no_descriptors_left_for_clients_in_a_fork(tmp_path):
    """Connections that cannot be accepted wait, without a spin, and are served when others have gone."""
    program = textwrap.dedent(
        """
        import os, resource, socket, sys, time
        import pykv
        sys.path.insert(0, "tests")
        from serving import Raw, wait_until
        store = pykv.open()
        server = pykv.serve(store, port=0)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
        pid = os.fork()
        if pid == 0:  # the clients: descriptors of their own
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            clients = [Raw(server.address) for _ in range(100)]
            served = 0
            for client in clients:
                client.send(b"PING\\r\\n")
                assert client.reply() == b"PONG"
                client.close()
                served += 1
            os._exit(0 if served == 100 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        server.stop()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=PATIENCE * 2, check=False, **elsewhere()
    )
    assert done.returncode == 0


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer's allocator takes more")
def test_idle_connections_are_cheap(tmp_path):
    program = textwrap.dedent(
        """
        import socket, sys
        import pykv
        def resident():
            with open("/proc/self/statm") as f:
                return int(f.read().split()[1]) * 4096
        store = pykv.open()
        server = pykv.serve(store, port=0)
        def connect():
            s = socket.create_connection(server.address)
            s.sendall(b"*3\\r\\n$3\\r\\nSET\\r\\n$1\\r\\na\\r\\n$5000\\r\\n" + b"x" * 5000 + b"\\r\\n*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\na\\r\\n")
            want = 5 + 7 + 5002
            while want > 0:
                want -= len(s.recv(want))
            return s
        first = [connect() for _ in range(50)]
        before = resident()
        more = [connect() for _ in range(2000)]
        print((resident() - before) / 2000)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=PATIENCE * 2, check=True, stdout=subprocess.PIPE, **elsewhere()
    )
    assert float(done.stdout) < 4000  # bytes a connection, Python's own object and this end included
