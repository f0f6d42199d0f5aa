"""`pykv demo`: that it finds nothing where nothing is lost, and everything that is."""

import copy
import io
import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import python_environment

import pykv
from pykv import cli, demo, demo_ledger
from pykv.progress import Progress

FILES = {
    "a.py": b"def a(): return A\n\n# Return \xe9t\xe9, return\n",
    "b/c.py": b"return _x1y\r\nclass C: pass",
    "empty.py": b"",
}


# ---- the ledger --------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return demo_ledger.Text(tmp_path, sorted(FILES), Progress("", 1, io.StringIO()))


class Job:
    """Plays the worker on a store in memory: writes, and tells the ledger."""

    def __init__(self, text):
        self.text = text
        self.ledger = demo_ledger.Ledger(text)
        self.store = pykv.open(None)
        self.sequence = 0

    def begin(self, key):
        self.sequence += 1
        self.ledger.take(b"begin %d %s" % (self.sequence, key))

    def write(self, key):
        self.store.put_many(self.text.content(key, self.sequence))

    def done(self, key, result=0):
        self.ledger.take(b"done %d %s %d" % (self.sequence, key, result))

    def do(self, key):
        self.begin(key)
        self.write(key)
        self.done(key)
        self.begin(demo_ledger.TALLY)
        self.done(demo_ledger.TALLY, self.store.incr(demo_ledger.TALLY))

    def do_everything(self):
        for key in self.ledger.missing():
            self.do(key)

    def check(self):
        return self.ledger.check(self.store)


@pytest.fixture
def job(text):
    job = Job(text)
    yield job
    job.store.close()


def test_both_ways_of_counting_agree(text, tmp_path):
    for name in FILES:
        worker = {
            word: demo.place_value(lines) for word, lines in demo.places(tmp_path / name).items()
        }
        assert worker == text.at[name]
    assert text.at["a.py"][b"return"] == b"3 1,3"
    assert text.words[b"return"] == [4, 2]
    assert text.file_words == {"a.py": 7, "b/c.py": 6, "empty.py": 0}


def test_a_whole_job_is_confirmed(job):
    job.do_everything()
    findings = job.check()
    assert (findings.lost, findings.wrong, findings.recovered) == ([], [], 0)
    assert findings.confirmed == job.ledger.acknowledgements == 2 * len(job.ledger.held)
    assert job.ledger.missing() == []
    assert findings.reads == len(job.store) - 1
    again = job.check()
    assert (again.confirmed, again.lost, again.wrong) == (0, [], [])


@pytest.mark.parametrize(
    "key, part",
    [
        (b"word/return", b"word/return"),
        (b"file/a.py", b"file/a.py"),
        (b"file/a.py", b"at/return/a.py"),
        (b"file/empty.py", b"file/empty.py"),
    ],
)
def test_a_removed_key_is_a_loss(job, key, part):
    job.do_everything()
    assert job.store.delete(part)
    findings = job.check()
    assert findings.lost == [f"{key.decode()}: {part.decode()} is missing"]
    assert findings.confirmed == job.ledger.acknowledgements - 1
    assert job.check().lost == findings.lost


def test_an_older_value_is_a_loss(job):
    job.do_everything()
    job.store.put("word/return", b"0 4 2")
    assert job.check().lost == ["word/return: word/return is 0 4 2"]


def test_lost_increments_are_counted(job):
    job.do_everything()
    acknowledged = int(job.store[demo_ledger.TALLY])
    job.store.put(demo_ledger.TALLY, b"%d" % (acknowledged - 2))
    assert len(job.check().lost) == 2


def test_an_empty_store_has_lost_everything(job):
    job.do_everything()
    job.store.clear()
    assert len(job.check().lost) == job.ledger.acknowledgements


def test_what_nobody_wrote_is_wrong(job):
    job.do_everything()
    job.store.put("word/unheardof", b"1 1 1")
    assert job.check().wrong == [f"the store has {len(job.store)} keys, not {len(job.store) - 1}"]


def test_too_high_a_tally_is_wrong(job):
    job.do_everything()
    job.store.incr(demo_ledger.TALLY)
    findings = job.check()
    assert len(findings.wrong) == 1 and not findings.lost


def test_a_write_in_flight_may_be_absent(job):
    job.do(b"word/return")
    job.begin(b"file/a.py")
    job.begin(demo_ledger.TALLY)
    findings = job.check()
    assert (findings.confirmed, findings.recovered, findings.lost, findings.wrong) == (2, 0, [], [])


def test_a_write_in_flight_that_was_found_must_stay(job):
    job.begin(b"file/a.py")
    job.write(b"file/a.py")
    job.begin(demo_ledger.TALLY)
    job.store.incr(demo_ledger.TALLY)
    assert job.check().recovered == 2
    assert job.check().recovered == 0
    job.store.delete("at/return/a.py")
    assert len(job.check().lost) == 1


def test_half_a_batch_is_wrong(job):
    job.begin(b"file/a.py")
    job.write(b"file/a.py")
    job.store.delete("at/return/a.py")
    findings = job.check()
    assert findings.wrong == [
        "file/a.py, not acknowledged, is there in part: at/return/a.py is missing"
    ]


def test_a_line_the_ledger_does_not_know_is_an_error(job):
    with pytest.raises(demo_ledger.DemoError, match="disk is on fire"):
        job.ledger.take(b"error 0 OSError: disk is on fire")
    with pytest.raises(demo_ledger.DemoError, match="unknown"):
        job.ledger.take(b"hello 0 world")


# ---- a whole run -------------------------------------------------------------------------------

LIMIT = 40_000


def new_run(folder, **options):
    return demo.Run(str(folder), **{"kills": 2, "limit": LIMIT, "stream": io.StringIO(), **options})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = new_run(tmp_path_factory.mktemp("demo"))
    run.run()
    return run


def test_a_run_loses_nothing_and_stores_the_text(finished):
    result = finished.result()
    assert result["problems"] == [] and result["lost"] == 0
    assert result["kills"] == 2
    assert result["words"] >= LIMIT
    assert result["confirmed"] == result["acknowledged"]
    assert (
        result["acknowledged"] + result["recovered"] > result["files"] + result["different_words"]
    )
    root, files = demo.library_files(LIMIT)
    with pykv.open(finished.path, read_only=True, create=False) as store:
        for file in files:
            for word, lines in demo.places(root / file).items():
                place = store[b"at/%s/%s" % (word, file.encode())]
                assert place.split(b" ", 1)[1] == demo.place_value(lines)


@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_run_reports_a_removed_key(tmp_path, when, monkeypatch, capsys):
    """An acknowledged key removed before a check, after each kill in turn and at the end."""
    opened = 0

    def reopen(self):
        nonlocal opened
        opened += 1
        store = pykv.open(self.path, create=False)
        if opened == when:
            assert store.delete(next(iter(self.ledger.held)))
        return store

    monkeypatch.setattr(demo.Run, "reopen", reopen)
    arguments = ["demo", "--json", "--kills", "2", "--limit", str(LIMIT), "--dir", str(tmp_path)]
    assert cli.main(arguments) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["lost"] == 1 and len(result["problems"]) == 1
    assert "is missing" in result["problems"][0]
    assert opened == when


def test_a_run_that_lost_something_says_so_to_people(finished):
    result = {**finished.result(), "path": None}
    assert "\nlost       0; every" in demo.report(result)
    result.update(lost=7, problems=[f"word {number} is missing" for number in range(7)])
    report = demo.report(result)
    assert "\nlost       7" in report and "every acknowledged write was compared" not in report
    assert "word 4 is missing" in report and "and 2 more" in report


def test_nothing_is_claimed_without_a_check(finished):
    run = copy.copy(finished)
    run.checks = run.checks[1:]
    assert run.result()["lost"] is None
    assert "not known" in demo.report({**run.result(), "path": None})


def test_a_worker_that_cannot_be_killed_in_time_is_an_error(tmp_path, monkeypatch):
    run = new_run(tmp_path, kills=1)
    monkeypatch.setattr(demo.os, "kill", lambda pid, number: None)
    with pytest.raises(demo_ledger.DemoError, match="done before it could be killed"):
        run.run()


def test_a_worker_that_fails_is_an_error(tmp_path):
    (tmp_path / "library.kv").write_bytes(b"a file")
    with pytest.raises(demo_ledger.DemoError, match="the worker failed: "):
        new_run(tmp_path).run()


# ---- the command -------------------------------------------------------------------------------


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "pykv", "demo", *arguments],
        cwd=folder,
        env=python_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_leaves_nothing_behind(tmp_path):
    child = start(tmp_path, "--limit", str(LIMIT), "--threads", "3", "--kills", "1")
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert "lost       0" in out and "3 threads" in out and "kills      1" in out
    assert "\r" not in err and "kill 1" in err
    assert list(tmp_path.iterdir()) == []


def test_the_command_keeps_the_store_when_asked(tmp_path):
    child = start(tmp_path, "--limit", str(LIMIT), "--keep", "--json")
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    result = json.loads(out)
    with pykv.open(tmp_path / result["path"], read_only=True, create=False) as store:
        assert len(store) == result["keys"] + 1
        assert b"word/return" in store


def test_ctrl_c_ends_the_worker_too(tmp_path):
    child = start(tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("pykv-demo-*/library.kv")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)  # returns when the worker, too, has left the pipe
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# ---- the progress display ----------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [10, 40, 80, 300])
def test_progress_on_a_terminal_redraws_one_line(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    with Progress("loading", 200, stream) as progress:
        progress.drawn = 0
        progress.update(100, "half way")
        progress.say("a line that stays")
        progress.update(200)
    shown = stream.getvalue()
    assert shown.count("\n") == 2 and shown.endswith("\n")
    drawings = [part for line in shown.split("\n") for part in line.split("\r")]
    assert all(len(part) < columns or part == "a line that stays" for part in drawings)
    if columns >= 80:
        assert "█" in shown and " 50%" in shown and "half way" in shown and "100%" in shown


def test_progress_elsewhere_is_plain_lines():
    stream = io.StringIO()
    with Progress("loading", 200, stream) as progress:
        for done in range(200):
            progress.update(done)
        progress.say("a line that stays")
        progress.update(200)
    lines = stream.getvalue().splitlines()
    assert "a line that stays" in lines and "loading    100%" in lines[-1]
    assert "\r" not in stream.getvalue() and len(lines) < 10


def test_progress_of_an_interrupted_task_clears_its_line():
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress("loading", 2, stream) as progress:
        progress.say("started")
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("\r") and "100%" not in stream.getvalue()


def test_progress_without_a_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("loading", 0) as progress:
        progress.update(0)
