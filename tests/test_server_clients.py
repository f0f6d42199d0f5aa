"""Clients that everybody has, unchanged, against `pykv.serve`: redis-cli, redis-benchmark, redis-py."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

import pykv
from serving import elsewhere, serving

try:
    import redis
except ImportError:
    redis = None

needs_redis_py = pytest.mark.skipif(redis is None, reason="redis-py is not installed")

KEYS = 300


@pytest.fixture(scope="module")
def store():
    with pykv.open() as store:
        yield store


@pytest.fixture(scope="module")
def running(store):
    with pykv.serve(store, port=0) as server:
        yield server


@pytest.fixture
def server(running, store):
    store.clear()
    return running


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command, status=0, **options):
    # A sanitizer that is loaded into this process is not for another's program.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environment = options.pop("env", environment)
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        capture_output=True,
        timeout=60,
        env=environment,
        **options,
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout


# ---- redis-cli -----------------------------------------------------------------------------------


@pytest.fixture
def cli(server):
    path = tool("redis-cli")

    def ask(*arguments, **options):
        return run(path, "-p", server.port, *arguments, **options)

    return ask


# What one command line prints when no terminal reads it.
LINES = {
    "SET k v": b"OK\n",
    "GET nothing": b"\n",
    "SET number 7": b"OK\n",
    "INCRBY number 3": b"10\n",
    "MGET k number nothing": b"v\n10\n\n",
    "GET": b"ERR wrong number of arguments for 'get' command\n\n",
    "NONSENSE 1": b"ERR unknown command 'NONSENSE', with args beginning with: '1' \n\n",
    "EXPIRE k 100": b"1\n",
    "PING": b"PONG\n",
    "DBSIZE": b"2\n",
    "OBJECT ENCODING number": b"int\n",
    "CONFIG GET maxclients": b"maxclients\n10000\n",
}


def test_cli_one_liners(cli):
    for line, printed in LINES.items():
        assert cli(*line.split()) == printed, line


@pytest.mark.parametrize("options", [[], ["-3"]])
def test_cli_reads_commands(cli, options):
    """As at the prompt: with its types, over RESP2 and RESP3."""
    script = ["SET k 'a b'", "GET k", "MULTI", "INCR n", "GET x", "EXEC", "DEL k"]
    printed = cli("--no-raw", *options, input="\n".join(script).encode())
    assert printed == b'OK\n"a b"\nOK\nQUEUED\nQUEUED\n1) (integer) 1\n2) (nil)\n(integer) 1\n'


def test_cli_values_from_standard_input(cli, store):
    data = bytes(range(256)) * 100
    cli("-x", "SET", "k", input=data)
    assert store["k"] == data
    assert cli("--raw", "GET", "k") == data + b"\n"


def test_cli_scan(cli, store):
    store.update({f"k{i}": "v" for i in range(KEYS)})
    store["other"] = "v"
    assert sorted(cli("--scan").split()) == sorted(store)
    assert len(cli("--scan", "--pattern", "k1*").split()) == 111


def test_cli_big_keys(cli, store):
    store.update({f"k{i}": "v" * i for i in range(KEYS)})
    printed = cli("--bigkeys").decode()
    assert f"Biggest string found '\"k{KEYS - 1}\"' has {KEYS - 1} bytes" in printed
    assert f"{KEYS} strings with {KEYS * (KEYS - 1) // 2} bytes" in printed


def test_cli_memory_keys(cli, store):
    store.update({f"k{i}": "v" * i for i in range(KEYS)})
    assert f"{KEYS} strings with" in cli("--memkeys").decode()


def test_cli_stat(server, store):
    """One line a second, as long as one looks."""
    store.update({"a": "1", "b": "2"})
    process = subprocess.Popen(
        [tool("redis-cli"), "-p", str(server.port), "--stat", "-i", "0.05"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline() for _ in range(4)]
    finally:
        process.kill()
        process.communicate()
    assert lines[1].split()[:2] == ["keys", "mem"]
    assert [line.split()[0] for line in lines[2:]] == ["2", "2"]


def test_cli_latency(cli):
    """A second of PINGs."""
    assert re.match(rb"\d+ \d+ [\d.]+ \d+", cli("--raw", "-i", "0.2", "--latency"))


def test_cli_pipe(server, store, cli, tmp_path):
    """What `pykv dump --format redis` writes, `redis-cli --pipe` loads."""
    with pykv.open(tmp_path / "source") as source:
        source.update({f"k{i}": os.urandom(i) for i in range(KEYS)})
        source.put("", "the empty key")
        source.put("expires", "v", ttl=10000)
        items = dict(source.items())
    dumped = run(
        sys.executable, "-m", "pykv", "dump", tmp_path / "source", "--format", "redis", **elsewhere()
    )
    printed = cli("--pipe", input=dumped)
    assert b"errors: 0" in printed
    assert dict(store.items()) == items
    assert 9000 < store.ttl("expires") <= 10000


def test_cli_pipe_counts_errors(cli, store):
    requests = (
        b"".join(b"*3\r\n$3\r\nSET\r\n$1\r\n%d\r\n$1\r\nv\r\n" % i for i in range(10))
        + b"*1\r\n$3\r\nGET\r\n"
    )
    printed = cli("--pipe", input=requests * 500, status=1)
    assert b"errors: 500, replies: 5500" in printed
    assert len(store) == 10


def test_cli_with_a_password(tmp_path):
    path = tool("redis-cli")
    with serving("--memory", env={"PYKV_PASSWORD": "s3cr3t"}) as process:
        port = process.address[1]
        assert b"NOAUTH" in run(path, "-p", port, "GET", "k")
        assert (
            run(path, "-p", port, "-a", "s3cr3t", "--no-auth-warning", "SET", "k", "v") == b"OK\n"
        )
        assert (
            run(
                path,
                "-u",
                f"redis://default:s3cr3t@127.0.0.1:{port}",
                "--no-auth-warning",
                "GET",
                "k",
            )
            == b"v\n"
        )


# ---- redis-benchmark -----------------------------------------------------------------------------


def test_benchmark(server, store):
    path = tool("redis-benchmark")
    printed = run(
        path, "-p", server.port, "-t", "ping,set,get,incr,mset", "-P", 16, "-n", 10000, "-q"
    ).decode()
    finished = re.findall(
        r"^(.*?): [\d.]+ requests per second", printed.replace("\r", "\n"), re.MULTILINE
    )
    assert finished == ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"]
    assert "rror" not in printed
    assert store["counter:__rand_int__"] == b"10000"


def test_benchmark_with_random_keys(server, store):
    path = tool("redis-benchmark")
    run(
        path,
        "-p",
        server.port,
        "-r",
        1000,
        "-n",
        20000,
        "-P",
        8,
        "--threads",
        2,
        "-q",
        "SET",
        "key:__rand_int__",
        "__rand_int__",
    )
    assert 900 < len(store) <= 1000
    assert all(re.fullmatch(rb"key:\d{12}", key) for key in store)


# ---- redis-py ------------------------------------------------------------------------------------


@pytest.fixture(params=[2, 3])
def client(request, server):
    if redis is None:
        pytest.skip("redis-py is not installed")
    with redis.Redis(port=server.port, protocol=request.param) as client:
        client.protocol = request.param
        yield client


def test_commands(client):
    assert client.set("k", "v", ex=1000, nx=True) is True
    assert client.set("k", "w", nx=True) is None
    assert client.set("k", "w", get=True, keepttl=True) == b"v"
    assert 900 < client.ttl("k") <= 1000
    assert client.mset({"a": 1, "b": 2}) and client.mget("a", "nothing", "b") == [b"1", None, b"2"]
    assert client.incrbyfloat("a", 0.5) == 1.5
    assert client.getex("k", persist=True) == b"w" and client.ttl("k") == -1
    assert client.setrange("k", 3, "x") == 4 and client.getrange("k", 0, -1) == b"w\x00\x00x"
    assert client.setbit("bits", 7, 1) == 0 and client.bitcount("bits") == 1
    assert client.bitfield("bits").incrby("u4", 4, 20).get("u8", 0).execute() == [5, 5]
    assert client.copy("k", "copied") and client.rename("copied", "renamed")
    assert client.restore("restored", 0, client.dump("k")) and client.get("restored") == client.get(
        "k"
    )
    assert client.lcs("k", "renamed", len=True) == 4
    assert sorted(client.keys("re*")) == [b"renamed", b"restored"]
    assert client.delete("k", "nothing") == 1 and client.exists("k") == 0
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.incr("bits")


def test_pipelines(client):
    with client.pipeline(transaction=False) as pipe:
        for i in range(1000):
            pipe.set(f"k{i}", i)
            pipe.get(f"k{i}")
        assert pipe.execute() == [x for i in range(1000) for x in (True, b"%d" % i)]
    with client.pipeline(transaction=False) as pipe:
        replies = pipe.set("k", "text").incr("k").get("k").execute(raise_on_error=False)
    assert (
        replies[0] is True and replies[2] == b"text" and isinstance(replies[1], redis.ResponseError)
    )


def test_transactions(client):
    with client.pipeline() as pipe:
        assert pipe.set("k", 1).incr("k").get("k").execute() == [True, 2, b"2"]
    with client.pipeline() as pipe:
        pipe.watch("k")
        client.set("k", "changed")
        with pytest.raises(redis.WatchError):
            pipe.multi()
            pipe.set("k", "lost").execute()
    # transaction() begins again until nobody came between.
    tries = []

    def add(pipe):
        n = int(pipe.get("n") or 0)
        if not tries:
            client.set("n", 41)
        tries.append(n)
        pipe.multi()
        pipe.set("n", n + 1)

    client.transaction(add, "n")
    assert tries == [0, 41] and client.get("n") == b"42"


def messages(listener, count):
    deadline, found = time.monotonic() + 30, []
    while len(found) < count:
        assert time.monotonic() < deadline
        message = listener.get_message(timeout=1)
        if message is not None:
            found.append((message["type"], message["channel"], message["data"]))
    return found


def test_publish_and_subscribe(client):
    with client.pubsub() as listener:
        listener.subscribe("news", "more")
        listener.psubscribe("n*")
        assert messages(listener, 3) == [
            ("subscribe", b"news", 1),
            ("subscribe", b"more", 2),
            ("psubscribe", b"n*", 3),
        ]
        assert client.publish("news", b"\x00\xff") == 2
        assert messages(listener, 2) == [
            ("message", b"news", b"\x00\xff"),
            ("pmessage", b"news", b"\x00\xff"),
        ]
        assert set(client.pubsub_channels()) == {b"more", b"news"}
        assert client.pubsub_numsub("news", "none") in (
            [(b"news", 1), (b"none", 0)],
            {b"news": 1, b"none": 0},
        )
        listener.ping("still there")
        assert messages(listener, 1)[0][0::2] == ("pong", b"still there")
        listener.unsubscribe()
        listener.punsubscribe()
        assert {kind for kind, _, _ in messages(listener, 3)} == {"unsubscribe", "punsubscribe"}
    assert client.publish("news", "to nobody") == 0


def test_handlers_in_a_thread(client):
    found = []
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(news=lambda message: found.append(message["data"]))
    thread = listener.run_in_thread(sleep_time=0.01)
    try:
        deadline = time.monotonic() + 30
        while not found:
            client.publish("news", "now")
            assert time.monotonic() < deadline
    finally:
        thread.stop()
        thread.join()
    assert found[0] == b"now"


def test_scan_iter(client):
    client.mset({f"k{i}": i for i in range(KEYS)})
    client.set("other", "v")
    found = list(client.scan_iter(count=10))
    assert len(found) == len(set(found)) == KEYS + 1
    assert len(set(client.scan_iter(match="k1*"))) == 111
    assert list(client.scan_iter(_type="hash")) == []


@needs_redis_py
@pytest.mark.parametrize("protocol", [2, 3])
def test_decoded_responses(server, protocol):
    with redis.Redis(port=server.port, decode_responses=True, protocol=protocol) as client:
        client.set("käse", "größe")
        assert client.get("käse") == "größe" and client.keys() == ["käse"]
        assert client.config_get("maxclients") == {"maxclients": "10000"}
        assert client.info("server")["redis_mode"] == "standalone"


def test_the_connection(client, server):
    assert client.ping() and client.echo("hi") == b"hi"
    assert client.client_setname("me") and client.client_getname() in (b"me", "me")
    assert client.client_id() > 0
    mine = [each for each in client.client_list() if each["name"] == "me"]
    assert len(mine) == 1 and mine[0]["resp"] == str(client.protocol)
    assert client.client_info()["name"] == "me"
    hello = client.execute_command("HELLO", client.protocol)
    hello = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
    assert (
        hello[b"proto"] == client.protocol
        and hello[b"mode"] == b"standalone"
        and hello[b"role"] == b"master"
    )


def test_a_connection_that_is_killed_comes_back(client, server):
    with redis.Redis(port=server.port) as other:
        client.set("k", "v")
        assert client.client_kill_filter(_id=other.client_id()) == 1
        assert other.get("k") == b"v"


def test_the_server(client, store):
    client.set("k", "v")
    assert client.dbsize() == 1 == client.info()["db0"]["keys"]
    assert "get" in client.command() and client.command_count() > 100
    assert (
        client.config_set("slowlog-max-len", 64)
        and client.config_get("slowlog*")["slowlog-max-len"] == "64"
    )
    assert client.slowlog_reset() and client.slowlog_get() == []
    assert client.memory_usage("k") > 0
    assert abs(client.time()[0] - time.time()) < 60
    assert client.flushall() and len(store) == 0


def test_in_asyncio(server):
    aredis = pytest.importorskip("redis.asyncio")

    async def main():
        async with aredis.Redis(port=server.port, protocol=3) as client:
            await asyncio.gather(*(client.incr("n") for _ in range(100)))
            async with client.pipeline() as pipe:
                assert await pipe.get("n").delete("n").execute() == [b"100", 1]
            return [key async for key in client.scan_iter()]

    assert asyncio.run(main()) == []
