"""The commands for expiry, checkpoints, copies, checks and dumps, each in a process of its own."""

import base64
import json
import os
import pty
import subprocess
import sys

import pytest
from test_cli import Command, items
from test_damage import change, fingerprint

import pykv
from pykv import cli


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


@pytest.fixture
def stored(path):
    """The path of a store with a few keys, in a checkpoint."""
    with pykv.open(path) as store:
        store.put_many({"city": "Paris", "citizen": "Zoë", b"\xff\x00": b"\x80\n", "empty": b""})
        store.checkpoint()
    return path


@pytest.fixture
def damaged(stored):
    (file,) = stored.glob("*.ckpt")
    change(file, 200)
    return stored


# ---- Expiry ------------------------------------------------------------------------------------


def test_put_with_a_ttl(command, path):
    assert command.run("put", path, "key", "value", "--ttl", "500.5") == (0, b"", b"")
    with pykv.open(path) as store:
        assert 400 < store.ttl("key") <= 500.5


def test_ttl_expire_persist(command, stored):
    assert command.run("ttl", stored, "city") == (0, b"never\n", b"")
    assert command.run("expire", stored, "city", "500") == (0, b"", b"")
    code, out, err = command.run("ttl", stored, "city")
    assert (code, err) == (0, b"") and 400 < float(out) <= 500
    code, out, _ = command.run("ttl", "--json", stored, "city")
    assert code == 0 and 400 < json.loads(out)["ttl"] <= 500
    assert command.run("persist", stored, "city") == (0, b"", b"")
    assert json.loads(command.run("ttl", stored, "city", "--json")[1]) == {"key": "city", "ttl": None}


@pytest.mark.parametrize("words", [["ttl"], ["expire", "5"], ["persist"]], ids=lambda words: words[0])
def test_of_a_missing_key(command, stored, words):
    name, *more = words
    assert command.error(name, stored, "no such", *more, code=1) == "pykv: no such key: no such\n"


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf", "", "1e99"])
def test_what_is_no_ttl(command, path, stored, seconds):
    command.error("expire", stored, "city", "--", seconds)
    command.error("put", f"--ttl={seconds}", stored, "new", "value")
    with pykv.open(stored) as store:
        assert store.ttl("city") is None and "new" not in store


# ---- Checkpoint, backup, restore ---------------------------------------------------------------


def test_checkpoint(command, path):
    with pykv.open(path) as store:
        store["k"] = "v"
    assert command.run("checkpoint", path) == (0, b"", b"")
    with pykv.open(path) as store:
        assert store.recovery["checkpoint_items"] == 1 and store == {b"k": b"v"}


def test_backup_and_restore(command, stored, tmp_path):
    before = fingerprint(stored)
    assert command.run("backup", stored, tmp_path / "copy") == (0, b"", b"")
    assert fingerprint(stored) == before
    assert command.run("restore", tmp_path / "copy", tmp_path / "new") == (0, b"", b"")
    assert items(tmp_path / "new") == items(stored) == items(tmp_path / "copy")
    for name, source in (("backup", stored), ("restore", tmp_path / "copy")):
        assert str(tmp_path / "new") in command.error(name, source, tmp_path / "new")
    assert "same directory" in command.error("restore", stored, stored)
    assert items(tmp_path / "new") == items(stored)


@pytest.mark.parametrize("words", [["checkpoint"], ["backup", "d"], ["restore", "d"], ["check"], ["repair", "d"], ["dump"],
                                   ["ttl", "k"], ["expire", "k", "5"], ["persist", "k"]], ids=lambda words: words[0])  # fmt: skip
def test_a_store_that_is_not_there(command, path, words):
    name, *more = words
    assert str(path) in command.error(name, path, *more)
    assert not path.exists() and not (path.parent / "d").exists()


# ---- Check, repair -----------------------------------------------------------------------------


def test_check(command, stored):
    code, out, err = command.run("check", stored)
    assert (code, err) == (0, b"")
    assert out.startswith(b"0 problems; read ") and b"4 keys in the checkpoint" in out
    report = json.loads(command.run("check", "--json", stored)[1])
    assert report["ok"] is True and report["problems"] == [] and report["entries"] == 4


def test_check_of_a_damaged_store(command, damaged):
    before = fingerprint(damaged)
    code, out, err = command.run("check", damaged)
    assert (code, err) == (1, b"")
    *problems, last = out.decode().splitlines()
    assert problems and all(str(damaged) in line for line in problems)
    assert last.startswith(f"{len(problems)} problems; ")
    code, out, _ = command.run("check", damaged, "--json")
    report = json.loads(out)
    assert code == 1 and report["ok"] is False and len(report["problems"]) == len(problems)
    assert {"path", "offset", "message", "loss", "errno"} == set(report["problems"][0])
    assert fingerprint(damaged) == before


def test_repair(command, stored, damaged, tmp_path):
    before = fingerprint(damaged)
    code, out, err = command.run("repair", damaged, tmp_path / "new")
    assert (code, err) == (1, b"")
    assert b"problems; saved " in out.splitlines()[-1]
    assert fingerprint(damaged) == before
    assert items(tmp_path / "new").items() <= {b"city": b"Paris", b"citizen": "Zoë".encode(), b"\xff\x00": b"\x80\n", b"empty": b""}.items()
    code, out, _ = command.run("repair", "--json", damaged, tmp_path / "other")
    report = json.loads(out)
    assert code == 1 and report["items"] == len(items(tmp_path / "new")) and report["suspects"] == []
    assert command.run("repair", tmp_path / "new", tmp_path / "clean")[0] == 0
    assert "same directory" in command.error("repair", damaged, damaged)
    assert "not empty" in command.error("repair", damaged, tmp_path / "new")


def test_what_is_printed_stays_in_its_line(monkeypatch, capsys):
    problem = pykv.Problem("a\nb", 5, "wrong\x1b[0m", None)
    report = pykv.RepairReport([problem], 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, [b"k\n\xff"], 5)
    monkeypatch.setattr(pykv, "repair", lambda *a, **o: report)
    assert cli.main(["repair", "a", "b"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "a\\nb: at byte 5: wrong\\x1b[0m",
        "... and 2 more problems",
        "may be lost or outdated: k\\n\\udcff",
        "... and 4 more such keys",
        "3 problems; saved 9 keys",
    ]
    assert cli.main(["repair", "a", "b", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["suspects"] == [{"base64": base64.b64encode(b"k\n\xff").decode()}]


# ---- Dump, load --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "redis"])
def test_dump_and_load(command, stored, tmp_path, format):
    code, out, err = command.run("dump", stored, "--format", format)
    assert (code, err) == (0, b"") and (out[:1] == b"{") == (format == "jsonl")
    assert command.run("dump", stored, tmp_path / "file", "--format", format) == (0, b"", b"")
    assert (tmp_path / "file").read_bytes() == out
    assert command.run("load", tmp_path / "a", tmp_path / "file") == (0, b"4 items loaded, 0 had expired\n", b"")
    code, said, _ = command.run("load", "--json", tmp_path / "b", stdin=out)
    assert code == 0 and json.loads(said) == {"format": format, "records": 4, "items": 4, "expired": 0}
    command.run("load", tmp_path / "c", "-", stdin=out)
    assert items(tmp_path / "a") == items(tmp_path / "b") == items(tmp_path / "c") == items(stored)


def test_load_of_what_does_not_parse(command, stored):
    before = items(stored)
    text = b'{"key": "a", "value": "1"}\n\nhello\n'
    assert command.error("load", stored, stdin=text) == (
        "pykv: <stdin>: line 3: not JSON: Expecting value, at character 1\n"
    )
    assert items(stored) == before
    line = command.error("load", stored, "--partial", stdin=text)
    assert line.endswith("; 1 items before it are loaded\n")
    assert items(stored) == {**before, b"a": b"1"}
    assert "none" in command.error("load", stored, "none")


def test_dump_to_a_full_device(command, stored):
    assert command.error("dump", stored, "/dev/full") == "pykv: No space left on device\n"
    with open("/dev/full", "wb") as full:
        child = command.start("dump", stored, stdout=full)
        _, err = child.communicate(timeout=120)
    assert child.returncode == 2 and err == b"pykv: No space left on device\n"


def test_a_reader_that_goes_away(command, path):
    with pykv.open(path, sync="never") as store:
        store.put_many({b"%0100d" % number: b"" for number in range(20_000)})
    child = command.start("dump", path)
    assert len(child.stdout.read(10)) == 10
    child.stdout.close()
    with child.stderr:
        assert child.stderr.read() == b""
    assert child.wait(timeout=120) == 141


# ---- Progress, warnings, help ------------------------------------------------------------------


def test_a_bar_when_standard_error_is_a_terminal(command, stored, tmp_path):
    commands = {
        "checkpoint": [stored],
        "backup": [stored, tmp_path / "copy"],
        "restore": [tmp_path / "copy", tmp_path / "new"],
        "check": [stored],
        "repair": [stored, tmp_path / "repaired"],
        "dump": [stored, tmp_path / "dump"],
        "load": [tmp_path / "loaded", tmp_path / "dump"],
    }
    for name, arguments in commands.items():
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            child = command.start(name, *arguments, stderr=theirs)
            os.close(theirs)
            drawn = b""
            try:
                while block := terminal.read(1000):
                    drawn += block
            except OSError:  # the other end is closed
                pass
            assert child.wait(timeout=120) == 0, drawn
            child.communicate()
        assert name.encode() in drawn and b"100%" in drawn and drawn.endswith(b"\r\n")


def test_a_warning_is_one_line(monkeypatch, capsys, path):
    import warnings

    class Failing(pykv.Store):
        def close(self):
            if not self.closed:
                warnings.warn("a checkpoint failed\n", pykv.CheckpointWarning, stacklevel=2)
            super().close()

    monkeypatch.setattr(pykv, "open", Failing)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        before = warnings.showwarning
        assert cli.main(["put", str(path), "key", "value"]) == 0
        assert warnings.showwarning is before
    assert capsys.readouterr().err == "pykv: a checkpoint failed\\n\n"


@pytest.mark.parametrize(
    "words",
    [
        ["ttl", "store"],
        ["expire", "store", "key"],
        ["persist", "store"],
        ["checkpoint"],
        ["backup", "store"],
        ["restore", "store"],
        ["check"],
        ["check", "store", "more"],
        ["repair", "store"],
        ["dump"],
        ["dump", "store", "file", "--format", "xml"],
        ["load"],
        ["load", "store", "file", "more"],
    ],
    ids=" ".join,
)
def test_usage_errors(command, tmp_path, words):
    command.error(*words)
    assert list(tmp_path.iterdir()) == []


def test_help(command):
    _, out, _ = command.run("--help")
    for name in ("ttl", "expire", "persist", "checkpoint", "backup", "restore", "check", "repair", "dump", "load"):
        assert f"\n    {name}".encode() in out
        code, text, err = command.run(name, "--help")
        assert (code, err) == (0, b"") and text.count(b"\n") > 4


def test_nothing_new_is_imported_for_the_short_commands(tmp_path):
    """json and its like take longer to import than all of pykv."""
    code = "import sys; before = set(sys.modules); import pykv; print(*sorted(set(sys.modules) - before))"
    from conftest import python_environment

    done = subprocess.run(
        [sys.executable, "-c", code], env=python_environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not {"json", "base64", "tempfile", "shutil", "dataclasses", "decimal"} & set(done.stdout.split())
