"""The README's words, held against the package: the example runs, every name and link exists."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import python_environment

import pykv

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)


def section(title):
    return re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", TEXT, re.M | re.S)[1]


def run_example(source, names):
    """Runs it line by line; an expression with `# -> value` must give that value."""
    lines, compared = source.splitlines(), 0
    for statement in ast.parse(source).body:
        expected = lines[statement.end_lineno - 1].partition("# -> ")[2]
        code = "\n".join(lines[statement.lineno - 1 : statement.end_lineno])
        if expected:
            assert eval(code, names) == ast.literal_eval(expected), code
            compared += 1
        else:
            exec(code, names)
    assert compared == source.count("# ->") > 0


def test_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    run_example(blocks("python")[0], names)
    assert names["db"].closed
    with pykv.open("data.kv", create=False) as db:
        assert dict(db) == {b"a": b"3", b"city": b"Rome", b"session": b"s3cr3t", b"visits": b"5"}
        assert 3500 < db.ttl("session") <= 3600
    with pykv.open("copy.kv", create=False) as copy:
        assert len(copy) == 4


def test_example_of_serving(store, capsys):
    exec(blocks("python")[1], {"pykv": pykv, "db": store})
    assert re.fullmatch(r"redis://127\.0\.0\.1:\d+\n", capsys.readouterr().out)


def test_example_on_a_server(redis_server):
    source = blocks("python")[2]
    assert source.count("redis://127.0.0.1:6379") == 1 and len(blocks("python")) == 3
    with pykv.connect(redis_server.url) as db:
        db.clear()
        run_example(source.replace("redis://127.0.0.1:6379", redis_server.url), {"pykv": pykv})
        assert dict(db) == {b"session": b"s3cr3t", b"a": b"1", b"b": b"2"}


def test_the_differences_of_a_server_are_true():
    text = section("The same methods on a server")
    methods = {name for name in dir(pykv.Store) if not name.startswith("_")}
    missing = methods - set(dir(pykv.RemoteStore))
    assert missing == {"backup", "preload", "recovery"}
    assert all(f"`{name}`" in text for name in missing)
    fields = set(pykv.Capabilities.__dataclass_fields__) - {"backend", "version", "sync_per_write"}
    assert all(f"`{name}`" in text for name in fields)


def test_every_error_is_named():
    text = section("Errors")
    errors = {
        name
        for name, thing in vars(pykv).items()
        if isinstance(thing, type)
        and issubclass(thing, pykv.Error)
        and thing.__module__.split(".")[0] == "pykv"
    }
    assert set(re.findall(r"`(?:pykv\.)?(\w*Error)`", text)) == errors | {
        "ValueError",
        "MemoryError",
        "OSError",
        "KeyError",
        "TypeError",
    }


def test_the_table_of_operations_names_what_is_there():
    table = [line for line in section("What a store can do").splitlines() if line.startswith("| ")]
    names = set()
    for line in table:
        names |= {call.partition("(")[0] for call in re.findall(r"`(\w+(?:\([^`]*\))?)`", line)}
    names -= {"iter", "len", "use", "memoryview", "expected"}
    assert {"get", "put", "view", "incr", "recovery", "close"} <= names
    assert not [name for name in names if not hasattr(pykv.Store, name)]


def test_the_limits_are_true():
    assert "65,535 bytes" in TEXT and "512 MiB" in TEXT and "1 GiB" in TEXT
    store = pykv.open()
    store.put(b"k" * 65_535, b"")
    with pytest.raises(pykv.LimitError):
        store.put(b"k" * 65_536, b"")
    store.close()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links(target):
    assert (ROOT / target).is_file()


def test_every_command_of_the_command_line_is_there():
    commands = re.findall(r"^pykv (\w+)", "".join(blocks("text")), re.M)
    everything = subprocess.run(
        [sys.executable, "-m", "pykv", "--help"],
        env=python_environment(),
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert commands == re.findall(r"^    (\w+)(?: +\w.*)?$", everything, re.M)
    for command in commands:
        line = next(
            line for line in blocks("text")[0].splitlines() if line.startswith(f"pykv {command} ")
        )
        shown = subprocess.run(
            [sys.executable, "-m", "pykv", command, "--help"],
            env=python_environment(),
            cwd=ROOT / "tests",
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for option in re.findall(r"--\w+", line):
            assert option in shown


def test_the_two_set_up_commands():
    assert [block.strip() for block in blocks("sh")[:2]] == [
        "pip install . && pykv demo",
        "pip install '.[test]' && pytest",
    ]
