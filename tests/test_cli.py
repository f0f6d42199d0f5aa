"""The `pykv` command, run as a person or a script runs it: in a process of its own."""

import base64
import fcntl
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
import time

import pytest
from conftest import python_environment

import pykv
from pykv import cli


class Command:
    """Runs `python -m pykv` in a folder without a pykv of its own."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, *args, **popen):
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": python_environment(),
        }
        command = [sys.executable, "-m", "pykv", *map(os.fspath, args)]
        return subprocess.Popen(command, cwd=self.folder, **{**options, **popen})

    def run(self, *args, stdin=b"", **popen):
        """Gives (exit code, standard output, standard error)."""
        child = self.start(*args, **{"stdin": subprocess.PIPE, **popen})
        out, err = child.communicate(stdin, timeout=120)
        return child.returncode, out, err

    def error(self, *args, code=2, **more):
        """Runs what must fail with nothing on standard output, and gives its one line."""
        got, out, err = self.run(*args, **more)
        assert got == code, err
        assert out == b""
        line = err.decode()
        assert line.startswith("pykv: ") and line.endswith("\n") and line.count("\n") == 1, line
        return line


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


@pytest.fixture
def stored(path):
    """The path of a store with a few keys."""
    with pykv.open(path) as store:
        store.put_many({"city": "Paris", "citizen": "Zoë", b"\xff\x00": b"\x80\n", "empty": b""})
    return path


def items(path):
    with pykv.open(path, create=False) as store:
        return dict(store.items())


# ---- put ---------------------------------------------------------------------------------------


def test_put_makes_the_store_and_stores(command, path):
    assert command.run("put", path, "key", "välue") == (0, b"", b"")
    assert items(path) == {b"key": "välue".encode()}


def test_put_reads_the_value_from_standard_input(command, path):
    value = bytes(range(256)) * 1000 + b"\r\n"
    assert command.run("put", path, "key", "-", stdin=value) == (0, b"", b"")
    assert items(path) == {b"key": value}


def test_put_keeps_arguments_that_are_not_text(command, path):
    assert command.run("put", path, b"\xff\xfe", b"\x80") == (0, b"", b"")
    assert items(path) == {b"\xff\xfe": b"\x80"}


def test_put_takes_keys_and_values_that_look_like_options(command, path):
    assert command.run("put", path, "--", "--key", "-1") == (0, b"", b"")
    assert items(path) == {b"--key": b"-1"}


@pytest.mark.parametrize("mode", ["always", "interval", "never"])
def test_put_in_each_sync_mode(command, path, mode):
    assert command.run("put", "--sync", mode, path, "key", mode) == (0, b"", b"")
    assert items(path) == {b"key": mode.encode()}


def test_put_of_an_over_long_key_changes_nothing(command, stored):
    before = items(stored)
    assert command.error("put", stored, "k" * 65536, "value")
    assert items(stored) == before


# ---- get ---------------------------------------------------------------------------------------


def test_get_prints_the_bytes_and_nothing_else(command, stored):
    assert command.run("get", stored, "city") == (0, b"Paris", b"")
    assert command.run("get", stored, b"\xff") == (1, b"", b"pykv: no such key: \\udcff\n")
    assert command.run("get", stored, "empty") == (0, b"", b"")


def test_get_ends_the_line_on_a_terminal(command, stored):
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        child = command.start("get", stored, "city", stdout=theirs)
        os.close(theirs)
        assert child.wait(timeout=120) == 0
        assert terminal.read(100) == b"Paris\r\n"
        child.communicate()


def test_get_as_json(command, stored, path):
    code, out, err = command.run("get", "--json", stored, "citizen")
    assert (code, err) == (0, b"")
    assert json.loads(out) == {"key": "citizen", "value": "Zoë"}
    with pykv.open(path) as store:
        store.put(b"\xfe", b"\xff\xff")
    code, out, _ = command.run("get", "--json", stored, b"\xfe")
    assert json.loads(out) == {"key": {"base64": "/g=="}, "value": {"base64": "//8="}}


def test_get_of_a_missing_key_is_1(command, stored):
    assert command.error("get", stored, "no such", code=1) == "pykv: no such key: no such\n"
    assert (
        command.error("get", "--json", stored, "line\nbreak", code=1)
        == "pykv: no such key: line\\nbreak\n"
    )


# ---- delete, keys, stats -----------------------------------------------------------------------


def test_delete(command, stored):
    assert command.run("delete", stored, "city") == (0, b"", b"")
    assert b"city" not in items(stored)
    assert command.error("delete", stored, "city", code=1) == "pykv: no such key: city\n"


def test_incr(command, path):
    assert command.run("incr", path, "n") == (0, b"1\n", b"")
    assert command.run("incr", path, "n", "--by", "-43") == (0, b"-42\n", b"")
    assert items(path) == {b"n": b"-42"}
    command.error("incr", path, "n", "--by", "1.5")
    command.error("incr", path, "n", "--by", str(2**63))
    assert command.run("put", path, "n", "text")[0] == 0
    command.error("incr", path, "n")
    assert items(path) == {b"n": b"text"}


def test_keys(command, stored):
    code, out, err = command.run("keys", stored)
    assert (code, err) == (0, b"")
    assert sorted(out.splitlines()) == sorted([b"city", b"citizen", b"empty", b"\xff\x00"])
    assert command.run("keys", stored, "--prefix", "none") == (0, b"", b"")


def test_keys_with_a_prefix_as_json(command, stored):
    _, out, _ = command.run("keys", "--json", "--prefix", "cit", stored)
    assert sorted(map(json.loads, out.splitlines())) == ["citizen", "city"]
    _, out, _ = command.run("keys", "--json", "--prefix", b"\xff", stored)
    assert base64.b64decode(json.loads(out)["base64"]) == b"\xff\x00"


def test_stats(command, stored):
    code, out, err = command.run("stats", stored)
    assert (code, err) == (0, b"")
    lines = dict(line.split(None, 1) for line in out.decode().splitlines())
    assert lines["entries"] == "4" and lines["path"] == str(stored)
    _, out, _ = command.run("stats", "--json", stored)
    figures = json.loads(out)
    assert figures["entries"] == 4 and isinstance(figures["recovery"], dict)


# ---- errors ------------------------------------------------------------------------------------

ON_ONE_STORE = {"get": ["key"], "keys": [], "stats": [], "delete": ["key"]}


@pytest.mark.parametrize("name", ON_ONE_STORE)
def test_a_store_that_is_not_there_is_an_error_and_stays_away(command, path, name):
    assert "store" in command.error(name, path, *ON_ONE_STORE[name])
    assert not path.exists()


@pytest.mark.parametrize("name", ["put", *ON_ONE_STORE])
def test_a_store_that_is_a_file(command, path, name):
    path.write_bytes(b"precious")
    assert str(path) in command.error(name, path, *ON_ONE_STORE.get(name, ["key", "value"]))
    assert path.read_bytes() == b"precious"


def test_a_store_that_is_open_elsewhere_names_the_process(command, stored):
    with pykv.open(stored):
        assert str(os.getpid()) in command.error("put", stored, "key", "value")
    assert b"key" not in items(stored)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["get"],
        ["get", "store"],
        ["get", "store", "key", "more"],
        ["put", "store", "key", "value", "--sync", "sometimes"],
        ["demo", "--threads", "0"],
        ["demo", "--limit", "many"],
        ["demo", "--dir", "no/such/folder"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_one_line(command, tmp_path, arguments):
    command.error(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_full_device_for_the_output(command, stored):
    with open("/dev/full", "wb") as full:
        child = command.start("get", stored, "city", stdout=full)
        _, err = child.communicate(timeout=120)
    assert child.returncode == 2
    assert err == b"pykv: No space left on device\n"


def test_an_output_that_takes_a_part(command, stored, tmp_path):
    """Also without a buffer, where a write may write less."""
    with pykv.open(stored) as store:
        store["big"] = b"v" * 300_000

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    for unbuffered in ("", "1"):
        environment = {**python_environment(), "PYTHONUNBUFFERED": unbuffered}
        with open(tmp_path / "out", "wb") as out:
            code, _, err = command.run("get", stored, "big", stdout=out, env=environment, preexec_fn=limit)
        assert code == 2 and b"too large" in err


def test_nobody_to_be_told_of_an_error(command, tmp_path):
    with open("/dev/full", "wb") as full:
        assert command.run("get", tmp_path / "none", "k", stderr=full)[0] == 2


def test_an_input_that_does_not_wait(command, path):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        os.write(writer, b"the beginning")
        child = command.start("put", path, "k", "-", stdin=reader)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 2 and b"nothing more now" in err
    finally:
        os.close(reader)
        os.close(writer)
    assert not path.exists()


def test_closed_standard_streams(command, stored):
    def close_output():
        os.close(1)

    child = command.start("get", stored, "city", stdout=None, preexec_fn=close_output)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 2
    assert err.startswith(b"pykv: ") and err.count(b"\n") == 1


def test_no_exception_of_pykv_escapes(monkeypatch, capsys, path):
    """Each class of error, thrown from inside, becomes one line and a 2."""
    kinds = [
        kind
        for kind in vars(pykv).values()
        if isinstance(kind, type) and issubclass(kind, pykv.Error)
    ]
    assert len(kinds) > 5
    for kind in [*kinds, OSError, ValueError, MemoryError]:

        def fail(*args, kind=kind, **options):
            raise kind("two\nlines")

        monkeypatch.setattr(pykv, "open", fail)
        assert cli.main(["get", str(path), "key"]) == 2
        assert capsys.readouterr() == ("", "pykv: two\\nlines\n")


# ---- signals and pipes -------------------------------------------------------------------------


def test_a_reader_that_goes_away(command, path):
    with pykv.open(path, sync="never") as store:
        store.put_many({b"%0100d" % number: b"" for number in range(20_000)})
    child = command.start("keys", path)
    assert len(child.stdout.read(10)) == 10
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait(timeout=120) == 141


def test_ctrl_c(command, path):
    """Interrupted while it waits for standard input: 130, silently, and nothing is stored."""
    child = command.start("put", path, "key", "-", stdin=subprocess.PIPE, bufsize=0)
    child.stdin.write(b"x")
    deadline = time.monotonic() + 60
    while unread(child.stdin):
        assert time.monotonic() < deadline, "the command never read its standard input"
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out, err) == (130, b"", b"")
    assert not path.exists()


def unread(pipe):
    """How many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


# ---- help and version --------------------------------------------------------------------------


def test_version(command):
    assert command.run("--version") == (0, f"pykv {pykv.__version__}\n".encode(), b"")


def test_help_names_every_command(command):
    code, out, err = command.run("--help")
    assert (code, err) == (0, b"")
    for name in ("put", "get", "delete", "keys", "stats", "demo"):
        assert f"\n    {name} ".encode() in out
        assert command.run(name, "--help")[0] == 0
