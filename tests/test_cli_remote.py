"""The `pykv` command with the URL of a server where it takes a store."""

import json

import pytest
from conftest import SERVERS, python_environment
from servers import RedisServer
from test_cli import Command

import pykv

ITEMS = {"city": "Paris", "citizen": "Zoë", b"\xff": b"\x80\n", "empty": b""}


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


@pytest.fixture(params=SERVERS)
def remote(request, connect_to):
    """A RemoteStore with a few keys."""
    store = connect_to(request.param)
    store.put_many(ITEMS)
    return store


def test_one_key(command, remote):
    url = remote.url
    value = '{"name": "Alice", "balance": 500}'
    assert command.run("put", url, "user:42", value) == (0, b"", b"")
    assert command.run("get", url, "user:42") == (0, value.encode(), b"")
    _, out, _ = command.run("get", "--json", url, b"\xff")
    assert json.loads(out) == {"key": {"base64": "/w=="}, "value": {"base64": "gAo="}}
    assert command.run("put", url, "key", "-", stdin=bytes(range(256)) * 1000) == (0, b"", b"")
    assert remote["key"] == bytes(range(256)) * 1000
    assert command.run("incr", url, "n", "--by", "5") == (0, b"5\n", b"")
    assert command.run("delete", url, "user:42") == (0, b"", b"")
    for name, *more in (("get",), ("delete",), ("ttl",), ("persist",), ("expire", "5")):
        assert command.error(name, url, "user:42", *more, code=1) == "pykv: no such key: user:42\n"


def test_expiry(command, remote):
    url = remote.url
    assert command.run("put", "--ttl", "500", url, "k", "v") == (0, b"", b"")
    _, out, _ = command.run("ttl", url, "k")
    assert 400 < float(out) <= 500
    assert command.run("expire", url, "k", "5000")[0] == 0 and remote.ttl("k") > 4000
    assert command.run("persist", url, "k")[0] == 0
    assert command.run("ttl", url, "k") == (0, b"never\n", b"")


def test_all_of_it(command, remote):
    _, out, _ = command.run("keys", remote.url)
    assert sorted(out.splitlines()) == sorted([b"city", b"citizen", b"empty", b"\xff"])
    _, out, _ = command.run("keys", "--json", "--prefix", "cit", remote.url)
    assert sorted(map(json.loads, out.splitlines())) == ["citizen", "city"]
    _, out, _ = command.run("stats", remote.url)
    lines = dict(line.split(None, 1) for line in out.decode().splitlines())
    assert lines["entries"] == "4" and lines["url"] == remote.url
    _, out, _ = command.run("stats", "--json", remote.url)
    assert json.loads(out)["entries"] == 4
    assert command.run("checkpoint", remote.url) == (0, b"", b"")


def test_from_store_to_store(command, remote, path):
    code, out, err = command.run("dump", remote.url)
    assert (code, err) == (0, b"")
    assert command.run("load", path, stdin=out)[0] == 0
    with pykv.open(path) as store:
        assert store == remote
        store["more"] = "v"
    _, out, _ = command.run("dump", "--format", "redis", path)
    remote.clear()
    assert command.run("load", "--json", remote.url, stdin=out)[0] == 0
    assert len(remote) == 5


@pytest.mark.parametrize("name, places", {
    "check": ["URL"], "backup": ["URL", "new"], "restore": ["URL", "new"], "repair": ["URL", "new"],
}.items())  # fmt: skip
@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///none"])
def test_what_needs_files(command, tmp_path, url, name, places):
    line = command.error(name, *[url if place == "URL" else place for place in places])
    assert line == f"pykv: {name} works on a store's directory, not on the URL of a server\n"
    if len(places) == 2:
        command.error(name, "store", url)
    assert list(tmp_path.iterdir()) == []


def test_sync(command, redis_server):
    assert command.run("put", "--sync", "always", redis_server.url, "k", "v") == (0, b"", b"")
    assert "never" in command.error("put", "--sync", "never", redis_server.url, "k", "v")
    other = RedisServer()
    try:
        assert "appendfsync" in command.error("put", "--sync", "always", other.url, "k", "v")
        assert command.error("get", other.url, "k", code=1)
    finally:
        other.end()


def test_passwords(command):
    server = RedisServer("--requirepass", "hidden")
    try:
        place = server.listen().replace("redis://", "")
        for url, variables in (
            (f"redis://:hidden@{place}", {}),
            (f"redis://:hidden@{place}", {"PYKV_PASSWORD": "wrong"}),
            (f"redis://{place}", {"PYKV_PASSWORD": "hidden", "REDISCLI_AUTH": "wrong"}),
            (f"redis://{place}", {"PYKV_PASSWORD": "", "REDISCLI_AUTH": "hidden"}),
            (f"redis://default@{place}", {"REDISCLI_AUTH": "hidden"}),
        ):
            environment = python_environment(**variables)
            assert command.run("put", url, "k", "v", env=environment) == (0, b"", b"")
            _, out, _ = command.run("stats", url, env=environment)
            assert b"hidden" not in out
        for url, variables in (
            (f"redis://{place}", {}),
            (f"redis://:hidden2@{place}", {"PYKV_PASSWORD": "hidden"}),
            (f"redis://hidden:hidden2@{place}/name", {}),
            (f"redis://{place}", {"PYKV_PASSWORD": "hidden2"}),
        ):
            environment = python_environment(**variables)
            assert "hidden2" not in command.error("get", url, "k", env=environment)
    finally:
        server.end()


def test_no_server(command):
    line = command.error("get", "redis://:hidden@127.0.0.1:1", "k")
    assert line == "pykv: redis://:***@127.0.0.1:1: Connection refused\n"


def test_without_redis_py(command, tmp_path):
    (tmp_path / "redis.py").write_text("raise ModuleNotFoundError('no redis', name='redis')\n")
    line = command.error("get", "redis://127.0.0.1:1", "k")
    assert line == "pykv: pykv.connect needs redis-py: pip install 'redis>=5'\n"
