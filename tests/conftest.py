"""Shared options and fixtures.

Every store that a test opens through `open_store` (the `store` and `disk` fixtures do) is walked by
the engine's own consistency check, `_verify`, before it is closed at the end of the test.

Tests that are marked `everywhere` get a `store` on a server, too, after the embedded kinds: one test
says what an operation does, wherever the data is.  `embedded` takes single ones out, with the reason.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from pathlib import Path

import pytest

import pykv
from servers import RedisServer

MODES = ("always", "interval", "never")

# What the `store` fixture is parametrized with: a name, and the options of `pykv.open`; and servers.
KINDS = {
    "memory": {},
    "always": {"sync": "always"},
    "interval": {"sync": "interval", "sync_interval": 0.01},
    "never": {"sync": "never"},
    "memory-release": {"gil": "release"},
    "always-release": {"sync": "always", "gil": "release"},
}

SERVERS = ("redis-server", "pykv-server")

TESTS = Path(__file__).resolve().parent

# In the environment of a program whose every object is to come from the C library.  Without a GIL Python has one
# allocator, its own: figures are of the engine's memory only.
MALLOC = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"PYTHONMALLOC": "malloc"}

# What --long stands for, as options; an hour and a half on two processors.
LONG = {"kills": 1000, "histories": 20, "examples": 1000, "fuzz_seconds": 300, "mutations": True}
LONG |= {"power_cuts": 300, "every_error": True, "stress_seconds": 60.0}
LONG_CRASH = "3"  # PYKV_C_CRASH, see test_crash.c


class Long(argparse.Action):
    """Sets the options of LONG; those behind it on the command line count more."""

    def __call__(self, parser, namespace, values, option_string=None):
        vars(namespace).update(LONG, long=True)


def pytest_addoption(parser):
    group = parser.getgroup("pykv")
    group.addoption(
        "--kills", type=int, default=50, help="how often the kill tests kill in all (default: 50)"
    )
    group.addoption(
        "--histories", type=int, default=1, help="how many histories of each kind are recorded and checked (default: 1)"
    )
    group.addoption(
        "--power-cuts", type=int, default=0, help="how often the power goes on a real ext4 (default: 0; needs root)"
    )
    group.addoption(
        "--seed", type=int, default=None, help="seed of everything random (default: a fresh one)"
    )
    group.addoption(
        "--examples", type=int, default=80, help="sequences that servers are compared by, of each kind (default: 80)"
    )
    group.addoption(
        "--fuzz-seconds", type=int, default=0, help="how long each fuzz target runs under libFuzzer"
    )
    group.addoption(
        "--every-error", action="store_true", help="each system call fails with each error, not with one in turn"
    )
    group.addoption(
        "--stress-seconds", type=float, default=3, help="how long threads call everything at once (default: 3)"
    )
    group.addoption(
        "--mutations", action="store_true", help="break the store on purpose, too (tests/mutations.py)"
    )
    group.addoption(
        "--long", action=Long, nargs=0, default=False,
        help="the long part of all of these; with --kills 5, say, behind it: but for that one",
    )  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # A shell starts what it puts into the background with SIGINT ignored, and children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.seed is None:
        config.option.seed = int.from_bytes(os.urandom(4), "little")
    if config.option.long:
        os.environ.setdefault("PYKV_C_CRASH", LONG_CRASH)
    if config.option.long or config.option.kills > 50 or config.option.histories > 1:
        if config.getoption("timeout", None) is None:
            config.option.timeout = 0  # what takes hours does not hang
    # Hypothesis follows the same seed unless it was given its own.
    if getattr(config.option, "hypothesis_seed", 0) is None:
        config.option.hypothesis_seed = config.option.seed


def pytest_report_header(config):
    options = " ".join(f"--{name} {config.getoption('--' + name)}" for name in ("seed", "kills", "power-cuts", "histories"))
    return f"pykv: {pykv.__file__}, {options}"


def pytest_terminal_summary(terminalreporter):
    """The counts of the tests that sample: what they print beside their seed, and the C programs' comments."""
    counts = []
    for report in terminalreporter.getreports("passed"):
        lines = report.capstdout.splitlines()
        samples = any(line.startswith("seed: ") for line in lines)
        for line in lines:
            if line.startswith("# ") or (samples and not line.startswith("seed: ")):
                counts.append(f"{report.nodeid.rpartition('/')[2]}: {line}")
    if counts:
        terminalreporter.section("counts")
        terminalreporter.write("\n".join(counts) + "\n")


@pytest.fixture
def seed(request):
    """The seed of this run; printed, so that a failure's report has it."""
    print(f"seed: --seed {request.config.option.seed}")
    return request.config.option.seed


@pytest.fixture
def rng(request, seed):
    """A random generator of this test's own, the same for the same seed."""
    return random.Random(f"{seed} {request.node.nodeid}")


@pytest.fixture
def open_store():
    """pykv.open, with a consistency check and a close at the end of the test."""
    stores = []

    def opener(path=None, **options):
        store = pykv.open(path, **options)
        stores.append(store)
        return store

    yield opener
    try:
        for store in stores:
            if not store.closed:
                store._verify()
    finally:
        for store in stores:
            store.close()


def kind_options(kind, directory):
    """The arguments of `pykv.open` for one of KINDS, with its store in `directory`."""
    return {"path": None if kind.startswith("memory") else directory / "store", **KINDS[kind]}


def pytest_generate_tests(metafunc):
    if "store_kind" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker
        everywhere = marked("everywhere") and not marked("embedded")
        metafunc.parametrize("store_kind", [*KINDS, *SERVERS] if everywhere else [*KINDS])


@pytest.fixture
def store(request, store_kind, tmp_path, open_store):
    """A new, empty store, of each kind in turn."""
    if store_kind in SERVERS:
        return request.getfixturevalue("connect_to")(store_kind)
    return open_store(**kind_options(store_kind, tmp_path))


@pytest.fixture(params=["embedded", *SERVERS])
def any_store(request, open_store):
    """A new, empty store, embedded and on each server: where the embedded kinds do not differ."""
    if request.param in SERVERS:
        return request.getfixturevalue("connect_to")(request.param)
    return open_store()


@pytest.fixture(scope="session")
def redis_server():
    """A real one, with nothing but an append-only file that is synced for each write."""
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
    yield server
    server.end()


@pytest.fixture
def connect_to(request, tmp_path, open_store):
    """Gives a new, empty RemoteStore on a server of that kind."""
    with contextlib.ExitStack() as stack:

        def connect(kind):
            if kind == "redis-server":
                url = request.getfixturevalue("redis_server").url
            else:
                if not hasattr(pykv, "serve"):
                    pytest.skip("this build has no server")
                pytest.importorskip("redis", reason="redis-py is not installed")
                served = open_store(tmp_path / "served")  # durable, so that sync=True can be asked for
                url = stack.enter_context(pykv.serve(served, port=0)).url
            store = stack.enter_context(pykv.connect(url))
            store.clear()
            return store

        yield connect


class Disk:
    """A place for a store on disk, to open it as often as a test likes."""

    def __init__(self, path, open_store, options):
        self.path = path
        self.options = options
        self._open_store = open_store

    def open(self, **changes):
        return self._open_store(self.path, **{**self.options, **changes})


@pytest.fixture(params=MODES)
def disk(request, tmp_path, open_store):
    """A Disk for each sync mode in turn."""
    return Disk(tmp_path / "store", open_store, {"sync": request.param})


@pytest.fixture
def quick_folder():
    """A folder in memory where the system has such: a sync costs nothing there."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield folder


@pytest.fixture
def path(tmp_path):
    """Where a test may make a store."""
    return tmp_path / "store"


def assert_holds(store, items):
    """That the store has exactly these items; a failure names a few keys, not megabytes of values."""
    found, wanted = dict(store.items()), dict(items)
    if found == wanted:
        return
    wrong = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))

    def show(value):
        return "nothing" if value is None else f"{bytes(value[:40])!r} ({len(value)} bytes)"

    lines = [f"{key[:60]!r}: {show(found.get(key))} instead of {show(wanted.get(key))}" for key in wrong[:5]]
    pytest.fail("\n".join([f"{len(wrong)} of {len(wanted)} keys differ", *lines]), pytrace=True)


def python_environment(**changes):
    """The environment for a child interpreter: it finds the same pykv, and these tests' modules."""
    environment = {**os.environ, **changes}
    folders = [str(Path(pykv.__file__).resolve().parent.parent), str(TESTS)]
    if environment.get("PYTHONPATH"):
        folders.append(environment["PYTHONPATH"])
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    return environment


class Script:
    """Runs Python source in child interpreters; ends those that a failed test left behind."""

    def __init__(self, directory):
        self.directory = directory
        self._children = []

    def start(self, source, *args, options=(), env=None, **popen):
        command = [sys.executable, *options, "-c", textwrap.dedent(source), *map(str, args)]
        popen.setdefault("stdin", subprocess.PIPE)
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        child = subprocess.Popen(
            command, cwd=self.directory, env=python_environment(**(env or {})), text=True, **popen
        )
        self._children.append(child)
        return child

    def run(self, source, *args, timeout=300, status=0, **more):
        """Runs to the end, demands the exit status, and returns (standard output, error)."""
        child = self.start(source, *args, **more)
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            pytest.fail(f"still running after {timeout} s\n{out}\n{err}")
        assert child.returncode == status, f"exit status {child.returncode}\n{out}\n{err}"
        return out, err

    def end(self):
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.communicate()


@pytest.fixture
def script(tmp_path):
    scripts = Script(tmp_path)
    yield scripts
    scripts.end()
