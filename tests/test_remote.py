"""A store on a server: connections, what is promised, what fails.  What the operations do is tested
with those of the embedded store, in the tests that are marked `everywhere`."""

import contextlib
import copy
import errno
import pickle
import shutil
import signal
import subprocess
import threading
import time
import types

import pytest
from servers import RedisServer, free_port
from serving import wait_until
from stand_in import StandIn

import pykv
from pykv.capabilities import capabilities_of
from pykv.types import RemoteStats

redis = pytest.importorskip("redis", reason="redis-py is not installed")


@pytest.fixture
def server():
    """Gives a redis-server of the test's own, with these options."""
    servers = []

    def start(*options):
        servers.append(RedisServer(*options))
        return servers[-1]

    yield start
    for one in servers:
        one.end()


@pytest.fixture
def connect():
    """pykv.connect, and a close at the end of the test."""
    stores = []

    def opener(url, **options):
        stores.append(pykv.connect(url, **options))
        return stores[-1]

    yield opener
    for store in stores:
        store.close()


@pytest.fixture
def stand_in():
    with StandIn() as server:
        yield server


@pytest.fixture
def store(redis_server, connect):
    """An empty store on a redis-server that syncs each write."""
    store = connect(redis_server.url)
    store.clear()
    return store


# ---- Connecting --------------------------------------------------------------------------------


def test_every_way_to_a_server(server, connect):
    one = server()
    tcp = one.listen()
    for url in (one.url, tcp, tcp + "/", tcp + "/0", tcp + "?db=0", one.url + "?db=0"):
        connect(url)["k"] = url
        assert connect(one.url)["k"] == url.encode()
    for url in (tcp + "/3", tcp + "?db=3", one.url + "?db=3"):
        assert "k" not in connect(url)
        connect(url)["third"] = "v"
    assert connect(tcp + "/3") == {b"third": b"v"} and len(connect(tcp)) == 1
    connect(tcp + "/3").clear()
    assert len(connect(tcp)) == 1, "one database is cleared, not the others"


def test_a_password(server, connect):
    one = server("--requirepass", "secret@/:")
    tcp = one.listen().replace("redis://", "")
    shown = f"redis://:***@{tcp}"
    for store in (
        connect(f"redis://:secret%40%2F%3A@{tcp}"),
        connect(f"redis://{tcp}", password="secret@/:"),
        connect(f"redis://:wrong@{tcp}", password="secret@/:"),
        connect(f"redis://default:secret%40%2F%3A@{tcp}"),
        connect(f"redis://{tcp}", username="default", password="secret@/:"),
        connect(one.url, password="secret@/:"),
    ):
        store["k"] = "v"
        assert "secret" not in repr(store) + store.url + str(store.stats()["url"])
    assert connect(f"redis://:secret%40%2F%3A@{tcp}").url == shown
    for url in (f"redis://:secret@{tcp}", f"redis://{tcp}", f"redis://nobody:secret@{tcp}"):
        with pytest.raises(pykv.StorageError) as caught:
            pykv.connect(url)
        assert caught.value.errno == errno.EACCES
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url, secret", [
    ("http://localhost", ""), ("localhost", ""), ("", ""), ("redis", ""),
    ("redis://localhost/name", ""), ("redis://localhost:port", ""), ("redis://u:pw1/pw2@localhost:1", "pw"),
    ("redis://u:pw1@localhost:x", "pw1"), ("redis://localhost?timeout=5", ""),
    ("redis://:pw1@localhost?decode_responses=true", "pw1"), ("redis://localhost?password=pw1", "pw1"),
])  # fmt: skip
def test_what_is_no_url(url, secret):
    with pytest.raises(ValueError) as caught:
        pykv.connect(url)
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize("options", [
    {"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"connect_timeout": 0}, {"retries": -1},
    {"max_connections": 0},
], ids=str)  # fmt: skip
def test_wrong_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        pykv.connect("redis://localhost", **options)


def test_wrong_types():
    for url in (None, b"redis://localhost", 5):
        with pytest.raises(TypeError):
            pykv.connect(url)
    with pytest.raises(TypeError):
        pykv.connect("redis://localhost", 5)


def test_without_redis_py(script):
    out, _ = script.run(
        """
        import sys, pykv
        assert "redis" not in sys.modules, "importing pykv imports it"
        sys.modules["redis"] = None
        try:
            pykv.connect("redis://localhost")
        except ImportError as error:
            print(error)
        """
    )
    assert out == "pykv.connect needs redis-py: pip install 'redis>=5'\n"


def test_tls(server, connect, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "certificate.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    server("--tls-port", str(port), "--tls-cert-file", str(certificate),
           "--tls-key-file", str(key), "--tls-auth-clients", "no")  # fmt: skip
    store = connect(f"rediss://127.0.0.1:{port}/2?ssl_ca_certs={certificate}")
    store.put_many({"%d" % i: bytes(10_000) for i in range(1000)})
    assert len(store) == 1000 and store["7"] == bytes(10_000)
    with pytest.raises(pykv.ConnectionLostError, match="certificate"):
        pykv.connect(f"rediss://127.0.0.1:{port}", retries=0)


def test_what_a_url_shows():
    from pykv.link import without_password

    for url, shown in {
        "redis://h": "redis://h",
        "redis://u@h:1/2?db=3": "redis://u@h:1/2?db=3",
        "redis://:pw@h": "redis://:***@h",
        "redis://u:p@w/@h:1": "redis://u:***@h:1",
        "unix:///a/b?db=1": "unix:///a/b?db=1",
        "unix://u:pw@/a": "unix://u:***@/a",
        "rediss://h?ssl_password=pw&db=1": "rediss://h?ssl_password=***&db=1",
    }.items():
        assert without_password(url) == shown


def test_nobody_there(stand_in, tmp_path):
    url = stand_in.url
    stand_in.__exit__()
    for place, number in ((url, errno.ECONNREFUSED), (f"unix://{tmp_path}/none", errno.ENOENT)):
        with pytest.raises(pykv.ConnectionLostError) as caught:
            pykv.connect(place, retries=1)
        error = caught.value
        assert isinstance(error, pykv.StorageError) and isinstance(error, ConnectionError)
        assert error.errno == number and error.filename == place and error.maybe_done is False
    with pytest.raises(pykv.ConnectionLostError):
        pykv.connect("redis://no-such-host.invalid", retries=0)


def test_what_is_no_such_server():
    with StandIn() as other:
        other.faults["INFO"] = ["-NOAUTH Authentication required."]
        with pytest.raises(pykv.StorageError) as caught:
            pykv.connect(other.url)
        assert caught.value.errno == errno.EACCES


# ---- What is promised --------------------------------------------------------------------------


@pytest.mark.parametrize("options, durable", [
    (["--appendonly", "no"], "memory"),
    (["--appendonly", "yes", "--appendfsync", "always"], "always"),
    (["--appendonly", "yes", "--appendfsync", "everysec"], "interval"),
    (["--appendonly", "yes", "--appendfsync", "no"], "never"),
    (["--appendonly", "yes", "--rename-command", "CONFIG", ""], "unknown"),
], ids=["memory", "always", "interval", "never", "unknown"])  # fmt: skip
def test_how_durable_a_redis_server_is(server, connect, options, durable):
    store = connect(server(*options).url)
    known = store.capabilities
    assert known.backend == "redis" and known.version[0].isdecimal()
    assert known.durable_writes == store.stats()["sync"] == durable
    assert known.sync_per_write is (durable == "always")
    assert known.compare_and_set == "watch"
    assert known.atomic_batches is True and known.snapshot_iteration is False
    with pytest.raises(AttributeError):
        known.version = "9"
    store["k"] = "v"
    if durable == "always":
        store.sync()
        store.put("k", "w", sync=True)
        return
    for call in (
        lambda: store.put("k", "w", sync=True),
        lambda: store.put_many({"k": "w"}, sync=True),
        lambda: store.put_many({}, sync=True),
        lambda: store.delete("k", sync=True),
        lambda: store.delete_many(["k"], sync=True),
        lambda: store.incr("n", sync=True),
        lambda: store.replace("k", "w", expected="v", sync=True),
        lambda: store.expire("k", 5, sync=True),
        lambda: store.persist("k", sync=True),
        lambda: in_batch(store),
        store.sync,
    ):
        with pytest.raises(pykv.UnsupportedError, match="appendfsync"):
            call()
    assert store == {b"k": b"v"} and store.ttl("k") is None


def in_batch(store):
    with store.batch(sync=True) as batch:
        batch["k"] = "w"


@pytest.mark.parametrize("version, backend, how", [
    ("pykv_version:0.1.0\r\nredis_version:7.2.0", "pykv", "native"),
    ("redis_version:7.2.4\r\nvalkey_version:8.1.0", "valkey", "native"),
    ("redis_version:7.2.4\r\nvalkey_version:8.0.9", "valkey", "watch"),
    ("redis_version:8.4.0", "redis", "native"),
    ("redis_version:8.3.224", "redis", "watch"),
    ("redis_version:unstable", "redis", "watch"),
    ("other:1", "redis", "watch"),
])  # fmt: skip
def test_what_a_server_is(connect, version, backend, how):
    with StandIn(version) as server:
        known = connect(server.url).capabilities
    assert (known.backend, known.compare_and_set) == (backend, how)


def test_another_server_in_the_same_place_is_noticed(server, connect):
    one = server("--appendonly", "yes", "--appendfsync", "always")
    store = connect(one.url)
    store.put("k", "v", sync=True)
    one.stop()
    one.options = ("--appendonly", "no")
    one.start()
    with pytest.raises(pykv.UnsupportedError):
        store.put("k", "w", sync=True)
    assert store.get("k") is None


def test_what_is_promised_is_asked_of_the_server_that_does_it(stand_in, connect):
    """Connections to one address may lead to several servers."""
    stand_in.appendfsync = "no"
    store = connect(stand_in.url)
    stand_in.faults["GET"] = ["late"]
    late = threading.Thread(target=store.get, args=("k",))
    late.start()
    while not stand_in.count("GET"):
        time.sleep(0.01)
    stand_in.appendfsync = "always"
    store.put("k", "v", sync=True)  # by a second connection
    late.join()
    with pytest.raises(pykv.UnsupportedError):
        store.put("k", "w", sync=True)  # by the first
    assert len(stand_in.connections) == 2 and stand_in.count("SET") == 1


def test_a_setting_for_a_log_that_may_not_be_there_promises_nothing():
    assert capabilities_of({}, "always").durable_writes == "unknown"
    assert capabilities_of({"aof_enabled": "1"}, "always").sync_per_write


def test_what_is_acknowledged_survives_a_kill(server, connect):
    one = server("--appendonly", "yes", "--appendfsync", "always")
    store = connect(one.url)
    store.put("k", "v", ttl=500)
    with store.batch() as batch:
        batch.put_many({"%d" % i: "v" for i in range(100)})
    one.stop(signal.SIGKILL)
    one.start()
    assert len(store) == 101 and store["k"] == b"v" and 400 < store.ttl("k") <= 500
    store["again"] = "v"


# ---- Checkpoints -------------------------------------------------------------------------------


def test_a_checkpoint_is_a_snapshot_of_redis(server, connect):
    one = server()
    store = connect(one.url)
    store.put_many({"%d" % i: "v" for i in range(1000)})
    told = []
    assert store.checkpoint(progress=lambda done, total: told.append((done, total))) is None
    assert told and told[-1][0] == told[-1][1]
    one.stop(signal.SIGKILL)
    one.start()
    assert len(store) == 1000
    with pytest.raises(TypeError):
        store.checkpoint(progress=5)
    with pytest.raises(ZeroDivisionError):
        store.checkpoint(progress=lambda done, total: 1 / 0)


def test_checkpoints_at_once(server, connect):
    store = connect(server("--rdb-key-save-delay", "500").url)
    store.put_many({"%d" % i: "v" for i in range(200)})
    threads = [threading.Thread(target=store.checkpoint) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(store.stats()["info"]["rdb_saves"]) >= 2, "what began before the call does not count"


def test_a_checkpoint_that_fails_and_what_follows(server, connect):
    one = server("--save", "3600 1000000")
    store = connect(one.url)
    store["k"] = "v"
    shutil.rmtree(one.folder)
    with pytest.raises(pykv.StorageError):
        store.checkpoint()
    with pytest.raises(pykv.FailedError, match="MISCONF"):
        store["k"] = "w"
    with pytest.raises(pykv.FailedError):
        in_batch_of_two(store)
    assert store == {b"k": b"v"}
    one.folder.mkdir()


def in_batch_of_two(store):
    with store.batch() as batch:
        batch["k"] = "w"
        batch["l"] = "w"
        batch.delete("m")


def test_a_server_that_starts_anew_has_made_no_checkpoint(server, connect, monkeypatch):
    one = server("--rdb-key-save-delay", "1000000")
    store = connect(one.url)
    store["k"] = "v"

    def restart(seconds):
        one.stop(signal.SIGKILL)
        one.start()

    monkeypatch.setattr("pykv.remote.time", types.SimpleNamespace(sleep=restart))
    with pytest.raises(pykv.StorageError, match="anew"):
        store.checkpoint()
    assert len(store) == 0


def test_pykvs_server_makes_its_own(stand_in, connect):
    store = connect(stand_in.url)
    told = []
    store.checkpoint(progress=lambda *numbers: told.append(numbers))
    assert stand_in.count("SAVE") == 1 and told == [(1, 1)]
    store.sync()
    assert stand_in.count("SAVE") == 1, "every write is on disk already"


def test_sync_of_pykvs_server_in_another_mode(connect):
    with StandIn(appendfsync="everysec") as server:
        store = connect(server.url)
        assert store.capabilities.durable_writes == "interval"
        store.sync()
        assert server.count("SAVE") == 1
        with pytest.raises(pykv.UnsupportedError):
            store.put("k", "v", sync=True)
        assert server.count("SET") == 0


# ---- Errors of a server ------------------------------------------------------------------------


def test_a_full_server(server, connect):
    one = server("--maxmemory-policy", "noeviction")
    store = connect(one.url)
    store["k"] = "v"
    with redis.Redis(unix_socket_path=str(one.folder / "socket")) as other:
        other.config_set("maxmemory", 1)
    for write in (
        lambda: store.put("k", "w"),
        lambda: store.put_many({"k": "w", "l": "w"}, ttl=5),
        lambda: store.replace("k", "w", expected="v"),
        lambda: in_batch_of_two(store),
    ):
        with pytest.raises(pykv.MemoryLimitError):
            write()
    assert store == {b"k": b"v"} and store.stats()["max_memory"] == 1
    assert store.delete("k") is True


def test_a_replica(server, connect):
    store = connect(server("--replicaof", "127.0.0.1 1").url)
    assert store.get("k") is None
    for write in (lambda: store.put("k", "v"), lambda: in_batch_of_two(store), store.clear):
        with pytest.raises(pykv.ReadOnlyError):
            write()


def test_what_is_no_string(store, redis_server):
    with redis.Redis(unix_socket_path=str(redis_server.folder / "socket")) as other:
        other.rpush("list", "a", "b")
    for call in (lambda: store.get("list"), lambda: store.incr("list"), lambda: store.pop("list")):
        with pytest.raises(pykv.UnsupportedError, match="no string"):
            call()
    assert store.get_many(["list"]) == [None]
    store["list"] = "string"
    assert store == {b"list": b"string"}


def test_an_old_server(stand_in, connect):
    with pytest.raises(pykv.UnsupportedError) as caught:
        connect(stand_in.url).pop("secret")
    assert "GETDEL" in str(caught.value) and "secret" not in str(caught.value)


def test_any_other_error(stand_in, connect):
    store = connect(stand_in.url)
    for text, kind in {
        "-NOPERM no permissions to run 'get'": pykv.StorageError,
        "-ERR something else": pykv.Error,
        "-NEWCODE something else": pykv.Error,
        "-ERR string exceeds maximum allowed size (proto-max-bulk-len)": pykv.LimitError,
    }.items():
        stand_in.faults["GET"] = [text]
        with pytest.raises(kind):
            store.get("k")
        assert store.get("k") is None, "the connection goes on"
    assert len(stand_in.connections) == 1


# ---- Lost connections --------------------------------------------------------------------------

WRITES = {
    "SET": lambda s: s.put("k", "v"),
    "INCRBY": lambda s: s.incr("n"),
    "DEL": lambda s: s.delete("k"),
    "EXEC": in_batch_of_two,
}


def wait_for(store, seconds):
    """The server may take so long for an answer, on connections that are made from now on."""
    store._link._timeout = seconds


@pytest.mark.parametrize("fault", ["drop", "lost", "silent"])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_never_sent_twice(stand_in, connect, name, fault):
    store = connect(stand_in.url, timeout=0.5 if fault == "silent" else 30)
    wait_for(store, 30)
    stand_in.faults[name] = [fault]
    with pytest.raises(pykv.ConnectionLostError, match="may have been done") as caught:
        WRITES[name](store)
    assert caught.value.maybe_done is True
    assert caught.value.errno == (errno.ETIMEDOUT if fault == "silent" else errno.ECONNRESET)
    wait_until(lambda: stand_in.count(name) > 0)
    assert stand_in.count(name) == 1
    WRITES[name](store)
    assert stand_in.count(name) == 2


@pytest.mark.parametrize("fault", ["drop", "lost", "silent", "-LOADING still loading"])
def test_a_read_is_sent_again(stand_in, connect, fault):
    store = connect(stand_in.url, timeout=0.5 if fault == "silent" else 30, retries=30)
    stand_in.data[b"k"] = b"v"
    for name, read in {
        "GET": lambda: store["k"] == b"v",
        "MGET": lambda: store.get_many(["k", "x"]) == [b"v", None],
        "DBSIZE": lambda: len(store) == 1,
        "SCAN": lambda: list(store) == [b"k"],
    }.items():
        stand_in.received.clear()
        stand_in.faults[name] = [fault, fault]
        assert read()
        assert stand_in.count(name) >= 3


def test_a_read_is_not_sent_for_ever(stand_in, connect):
    store = connect(stand_in.url, retries=2)
    stand_in.faults["GET"] = ["drop"] * 10
    with pytest.raises(pykv.ConnectionLostError) as caught:
        store.get("k")
    assert stand_in.count("GET") == 3 and caught.value.maybe_done is False


def test_a_server_that_is_still_loading_did_nothing(stand_in, connect):
    store = connect(stand_in.url)
    stand_in.faults["INCRBY"] = ["-LOADING Redis is loading the dataset in memory"] * 2
    assert store.incr("n") == 1
    assert stand_in.count("INCRBY") == 3


def test_connections_that_died_while_they_were_idle(stand_in, connect):
    """A write finds that out before it is sent: so it does not fail."""
    store = connect(stand_in.url)
    for number in range(1, 4):
        stand_in.hang_up()
        time.sleep(0.05)
        assert store.incr("n") == number
    assert len(stand_in.connections) == 4


def test_a_write_waits_for_a_server_that_comes_back(server, connect):
    """It was not sent before."""
    one = server("--appendonly", "yes")
    store = connect(one.url, retries=100)
    one.stop()
    back = threading.Timer(0.2, one.start)
    back.start()
    assert store.incr("n") == 1
    back.join()


def test_a_call_that_may_take_long_has_a_connection_of_its_own(stand_in, connect):
    store = connect(stand_in.url, timeout=0.5)
    stand_in.delay = 1
    stand_in.faults["FLUSHDB"] = ["late"]
    store.clear()
    stand_in.faults["SET"] = ["silent"]
    with pytest.raises(pykv.ConnectionLostError):
        store.put("k", "v")


def test_an_answer_that_comes_late_is_nobody_elses(stand_in, connect):
    store = connect(stand_in.url, timeout=0.1, retries=0)
    stand_in.data.update({b"a": b"1", b"b": b"2"})
    stand_in.delay = 0.2
    stand_in.faults["GET"] = ["late"]
    with contextlib.suppress(pykv.ConnectionLostError):
        store.get("a")
    answers = []
    while len(answers) < 5:
        with contextlib.suppress(pykv.ConnectionLostError):  # its time is short for them, too
            answers.append(store.get("b"))
    assert answers == [b"2"] * 5


def test_a_call_that_is_interrupted_leaves_no_answer_behind(stand_in, connect, monkeypatch):
    from pykv import link

    store = connect(stand_in.url, max_connections=1)
    stand_in.data.update({b"a": b"1", b"b": b"2"})
    with monkeypatch.context() as patch:
        patch.setattr(link, "_reply", lambda connection: interrupt())
        with pytest.raises(KeyboardInterrupt):
            store.get("a")
    assert store.get("b") == b"2"


def interrupt():
    raise KeyboardInterrupt


# ---- Compare and set ---------------------------------------------------------------------------


def count_up(store, threads, rounds):
    """Each thread adds 1 by get and replace; gives how often a replace was refused."""
    refused = []

    def work():
        for _ in range(rounds):
            while True:
                value = store.get("n")
                after = str(int(value or 0) + 1)
                if store.replace("n", after, expected=value):
                    break
                refused.append(value)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert store["n"] == b"%d" % (threads * rounds)
    return len(refused)


def test_replace_from_many_threads(store):
    assert store.capabilities.compare_and_set == "watch"
    count_up(store, 6, 50)


def test_replace_in_one_command(stand_in, connect):
    store = connect(stand_in.url)
    count_up(store, 6, 50)
    assert stand_in.count("WATCH") == stand_in.count("MULTI") == 0


@pytest.mark.parametrize("between, done, at_last", [(b"other", False, b"other"), (b"old", True, b"new")])
def test_a_write_between_the_look_and_the_write(store, redis_server, connect, monkeypatch, between, done, at_last):
    """Another value: refused.  The same value again: the look is repeated."""
    from pykv import link

    other, transact, calls = connect(redis_server.url), link.transact, []

    def interfere(connection, commands):
        calls.append(commands)
        if len(calls) == 1:
            other["k"] = between
        return transact(connection, commands)

    store["k"] = "old"
    with monkeypatch.context() as patch:
        patch.setattr(link, "transact", interfere)
        assert store.replace("k", "new", expected="old") is done
    assert store["k"] == at_last and len(calls) == (2 if done else 1)


def test_a_refused_replace_watches_no_longer(redis_server, connect, store):
    store["k"] = "v"
    one = connect(redis_server.url, max_connections=1)
    assert one.replace("k", "w", expected="x") is False
    store["k"] = "changed"
    in_batch_of_two(one)
    assert store == {b"k": b"w", b"l": b"w"}
    with redis.Redis(unix_socket_path=str(redis_server.folder / "socket")) as other:
        other.rpush("list", "a")
    with pytest.raises(pykv.UnsupportedError):
        one.replace("list", "w", expected="x")
    store["list"] = "changed"
    in_batch_of_two(one)


@pytest.mark.parametrize("name", ["multi", "exec", "watch"])
def test_without_a_command_that_it_takes_nothing_is_half_done(redis_server, connect, store, name):
    with redis.Redis(unix_socket_path=str(redis_server.folder / "socket")) as admin:
        admin.execute_command("ACL", "SETUSER", "less", "on", ">pw", "~*", "+@all", "-" + name)
    one = connect(redis_server.url, username="less", password="pw")
    store["k"] = "old"
    if name != "watch":
        for write in (in_batch_of_two, lambda s: s.setdefault("new", "v"), lambda s: s.persist("k")):
            with pytest.raises(pykv.Error, match=name):
                write(one)
    with pytest.raises(pykv.Error, match=name):
        one.replace("k", "new", expected="old")
    assert store == {b"k": b"old"} and one.get("k") == b"old"


# ---- Many keys ---------------------------------------------------------------------------------


def test_more_keys_than_one_command_takes(store, monkeypatch):
    from pykv import remote

    monkeypatch.setattr(remote, "KEYS_AT_ONCE", 10)
    keys = ["%d" % i for i in range(95)]
    stop, torn = threading.Event(), []

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            store.put_many({key: b"%d" % number for key in keys})

    store.put_many(dict.fromkeys(keys, "0"))
    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(100):
        values = store.get_many(keys)
        if len(set(values)) != 1:
            torn.append(values)
    stop.set()
    writer.join()
    assert not torn
    assert store.delete_many([*keys, "none"]) == 95 and len(store) == 0
    with store.batch() as batch:
        batch.put_many(dict.fromkeys(keys, "1"))
    with store.batch() as batch:
        batch.delete_many([*keys, "none"])
        batch["k"] = "v"
    assert batch.deleted == 95 and store == {b"k": b"v"}


def test_many_keys_are_read_at_one_moment(stand_in, connect, monkeypatch):
    from pykv import remote

    monkeypatch.setattr(remote, "KEYS_AT_ONCE", 10)
    store = connect(stand_in.url)
    assert store.get_many(["%d" % i for i in range(25)]) == [None] * 25
    assert [stand_in.count(name) for name in ("MULTI", "MGET", "EXEC")] == [1, 3, 1]
    assert store.get_many(["a"]) == [None] and stand_in.count("MULTI") == 1


def test_a_commit_over_the_limit_sends_nothing(stand_in, connect, monkeypatch):
    store = connect(stand_in.url)
    monkeypatch.setattr(pykv._core, "COMMIT_MAX", 1000)
    large = {"a": bytes(600), "b": bytes(600)}
    for call in (
        lambda: store.put_many(large),
        lambda: store.put_many(large, ttl=5),
        lambda: store.update(a=bytes(600), b=bytes(600)),
        lambda: store._write({b"a": bytes(600), b"b": (bytes(600), store._clock() + 5000)}),
    ):
        with pytest.raises(pykv.LimitError, match="1000"):
            call()
    assert not {"MSET", "MULTI", "SET"} & {command[0] for command in stand_in.received}


def test_a_key_that_a_server_shows_twice_is_shown_once(stand_in, connect):
    store = connect(stand_in.url)
    stand_in.data.update({b"%d" % i: b"v" for i in range(10)})
    stand_in.data.update({b"%d" % i * 40: b"v" for i in range(10, 20)})
    assert sorted(store) == sorted(stand_in.data)
    assert dict(store.items()) == stand_in.data and len(list(store.values())) == 20
    assert stand_in.count("SCAN") == 6


def test_iterating_while_the_server_starts_anew(server, connect):
    """What its cursors meant before, they do not mean now."""
    one = server("--appendonly", "yes")
    store = connect(one.url)
    keys = {b"%d" % i for i in range(20_000)}
    store.put_many(dict.fromkeys(keys, b"v"))
    walk = iter(store)
    shown = [next(walk) for _ in range(8000)]
    one.stop()
    one.start()
    shown += walk
    assert len(shown) == len(keys) and set(shown) == keys


def test_a_key_that_goes_between_its_value_and_its_time(stand_in, connect, monkeypatch):
    store = connect(stand_in.url)
    store["k"] = "v"
    monkeypatch.setattr(store._link, "transaction", lambda *commands, **how: [[b"v"], -2])
    assert list(store._snapshot()._records()) == []


def test_iterating_while_others_write(store):
    stays = {b"stays %d" % i: b"v" for i in range(3000)}
    store.put_many(stays)
    store.put_many({b"goes %d" % i: b"v" for i in range(3000)})
    walk = iter(store.items())
    found = [next(walk) for _ in range(10)]
    store.delete_many([b"goes %d" % i for i in range(3000)])
    store.put_many({b"new %d" % i: b"v" for i in range(20_000)})
    found.extend(walk)
    assert len(found) == len(set(found))
    assert stays.items() <= set(found)


def test_views_show_what_is_there_now(store):
    keys, items = store.keys(), store.items()
    store["k"] = "v"
    assert len(keys) == 1 and keys == {b"k"} and set(items) == {(b"k", b"v")}
    assert list(store.values()) == [b"v"] and "keys" in repr(keys).lower()


# ---- Threads, processes, the end ---------------------------------------------------------------


def test_more_threads_than_connections(redis_server, connect, store):
    few = connect(redis_server.url, max_connections=2)

    def work():
        for _ in range(100):
            few.incr("n")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert few["n"] == b"800"
    # redis-server's own count, with the one that `store` has
    assert store.stats()["clients"] <= 3


@pytest.mark.parametrize("retries", [0, 5])
def test_no_connection_comes_free(stand_in, connect, retries):
    store = connect(stand_in.url, max_connections=1, retries=retries)
    wait_for(store, 0.5)
    release = threading.Event()
    thread = threading.Thread(target=lambda: store._link.run(lambda connection: release.wait()))
    thread.start()
    while not store._link._in_use:
        time.sleep(0.001)
    with pytest.raises(pykv.ConnectionLostError, match="in use") as caught:
        store.put("k", "v")
    assert caught.value.maybe_done is False and caught.value.errno == errno.ETIMEDOUT
    release.set()
    thread.join()
    assert store.get("k") is None


CALLS = {
    "get": lambda s: s.get("k"),
    "get_many": lambda s: s.get_many([]),
    "put": lambda s: s.put("k", "v"),
    "put_many": lambda s: s.put_many({}),
    "update": lambda s: s.update(),
    "delete": lambda s: s.delete("k"),
    "delete_many": lambda s: s.delete_many([]),
    "in": lambda s: "k" in s,
    "len": len,
    "iter": iter,
    "keys": lambda s: s.keys(),
    "values": lambda s: s.values(),
    "items": lambda s: s.items(),
    "incr": lambda s: s.incr("n"),
    "replace": lambda s: s.replace("k", "v", expected=None),
    "setdefault": lambda s: s.setdefault("k"),
    "pop": lambda s: s.pop("k"),
    "popitem": lambda s: s.popitem(),
    "clear": lambda s: s.clear(),
    "ttl": lambda s: s.ttl("k"),
    "expire": lambda s: s.expire("k", 5),
    "persist": lambda s: s.persist("k"),
    "sync": lambda s: s.sync(),
    "stats": lambda s: s.stats(),
    "checkpoint": lambda s: s.checkpoint(),
    "capabilities": lambda s: s.capabilities,
    "batch": in_batch_of_two,
    "view": lambda s: s.view("k"),
    "with": lambda s: s.__enter__(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_after_close(store, call):
    assert store.closed is False
    store["k"] = "v"
    with store as same:
        assert same is store
    assert store.closed is True and "closed" in repr(store)
    with pytest.raises(pykv.ClosedError):
        call(store)
    store.close()


def test_close_waits_for_calls_in_flight(stand_in, connect):
    store = connect(stand_in.url)
    stand_in.delay = 0.5
    stand_in.faults["INCRBY"] = ["late"]
    results = []
    thread = threading.Thread(target=lambda: results.append(store.incr("n")))
    thread.start()
    while not stand_in.count("INCRBY"):
        time.sleep(0.001)
    store.close()
    assert stand_in.data == {b"n": b"1"}, "closed before the call was over"
    thread.join()
    assert results == [1]


def test_a_forked_child_has_connections_of_its_own(redis_server, script):
    script.run(
        """
        import os, sys, threading, warnings, pykv
        warnings.simplefilter("ignore")
        store = pykv.connect(sys.argv[1])
        store.clear()
        store["a"] = "1"
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                assert store.get("a") == b"1"
        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(10):
            child = os.fork()
            if child == 0:
                try:
                    for _ in range(20):
                        assert store.get("a") == b"1"
                        store.incr("n")
                    store.close()
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
        stop.set()
        for thread in threads:
            thread.join()
        assert store["n"] == b"200"
        """,
        redis_server.url,
    )


def test_it_is_not_copied(store):
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            way(store)


def test_what_it_is(store, redis_server):
    assert store.url == redis_server.url and store.path is None
    assert redis_server.url in repr(store)
    store.put_many({"a": "1", "b": "2"})
    stats = store.stats()
    assert set(stats) == set(RemoteStats.__annotations__)
    assert stats["entries"] == 2 and stats["memory_bytes"] > 0 and stats["clients"] >= 1
    assert stats["info"]["redis_version"] == stats["version"] == store.capabilities.version
    store.put("k", "v", ttl=0.001)
    deadline = time.monotonic() + 20
    while store.stats()["expired"] == stats["expired"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- Dump and load -----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "redis"])
def test_items_go_from_store_to_store(store, open_store, tmp_path, format):
    embedded, back = open_store(), open_store()
    embedded.put_many({"%d" % i: "v" * 100 for i in range(2000)})
    embedded.put_many({b"\xff": b"\xfe", "empty": ""}, ttl=5000)
    pykv.dump(embedded, tmp_path / "file", format=format)
    assert pykv.load(store, tmp_path / "file").items == 2002
    assert store == embedded and 4000 < store.ttl(b"\xff") <= 5000 and store.ttl("1") is None
    assert pykv.dump(store, tmp_path / "again", format=format) == 2002
    pykv.load(back, tmp_path / "again")
    assert back == embedded and 4000 < back.ttl("empty") <= 5000 and back.ttl("1") is None


def test_a_load_that_fails_changes_nothing(store, tmp_path):
    store["k"] = "v"
    (tmp_path / "file").write_text('{"key": "a", "value": "1"}\nno JSON\n')
    with pytest.raises(pykv.LoadError):
        pykv.load(store, tmp_path / "file")
    assert store == {b"k": b"v"}


def test_commands_count_from_what_the_server_has(store, tmp_path):
    store.put("n", "5", ttl=5000)
    (tmp_path / "file").write_bytes(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n")
    pykv.load(store, tmp_path / "file")
    assert store["n"] == b"6" and 4000 < store.ttl("n") <= 5000
