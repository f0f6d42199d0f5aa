"""check and repair: every problem is told with its place, nothing damaged is copied, no source is changed."""

import os
import random
import shutil
import signal
import threading

import pytest

import pykv
from conftest import assert_holds
from test_damage import author_with_a_last_frame, change, fingerprint
from test_format import FRAME_SIZE

ITEMS = {b"%d" % i: b"v%d" % i * (i % 60) for i in range(3000)}
CHANGES = {b"%d" % i: b"new" for i in range(0, 3000, 7)}


@pytest.fixture
def stored(path):
    """A closed store: ITEMS in a checkpoint, CHANGES in the log."""
    with pykv.open(path, checkpoint_log_ratio=None) as store:
        store.put_many(ITEMS)
        store.checkpoint()
        for key, value in CHANGES.items():
            store[key] = value
        store.put(b"expires", b"v", ttl=500)
    return path


def checkpoint_of(path):
    (file,) = path.glob("*.ckpt")
    return file


def logs_of(path):
    return sorted(path.glob("*.log"))


def damage_value(file):
    """Flips bits of a value in the middle of a checkpoint (a block's header stands in it twice, and is not lost)."""
    content = file.read_bytes()
    change(file, content.index(b"v1", len(content) // 2))


def damage(file, place):
    """Flips bits at a part of the file's length."""
    change(file, int(file.stat().st_size * place))


def damage_log(path):
    """Flips a bit in the middle of what the log holds: of the last value that is there as it was written."""
    for file in logs_of(path):
        found = file.read_bytes().find(b"new", 2000)
        if found > 0:
            change(file, found)
            return file
    raise AssertionError("there is no such value in the log")


# ---- check -------------------------------------------------------------------------------------


def test_a_store_without_a_problem(stored):
    before = fingerprint(stored)
    report = pykv.check(stored)
    assert report.ok and report.problems == [] and report.problem_count == 0
    assert report.entries == len(ITEMS) and report.records >= len(CHANGES)
    assert report.files >= 3 and report.bytes_read > 1000 and report.frames > 0
    assert (report.blocks_lost, report.frames_lost, report.bytes_lost) == (0, 0, 0)
    assert fingerprint(stored) == before


@pytest.mark.parametrize("shape", [str, os.fsencode, lambda p: p], ids=["str", "bytes", "path"])
def test_paths(stored, shape):
    assert pykv.check(shape(stored)).ok


def test_an_empty_store(path):
    pykv.open(path).close()
    report = pykv.check(path)
    assert report.ok and report.entries == report.records == 0


def test_a_store_that_was_killed(script, path):
    script.run(
        """
        import os, sys, pykv
        store = pykv.open(sys.argv[1])
        store.put_many({str(i): "v" for i in range(100)})
        os._exit(0)
        """,
        path,
    )
    before = fingerprint(path)
    report = pykv.check(path)
    assert report.ok and report.records == 100 and fingerprint(path) == before


def test_a_torn_tail_is_no_problem(tmp_path):
    author, offset, _, _ = author_with_a_last_frame(tmp_path / "store")
    change(author.path(), offset + FRAME_SIZE + 20)
    assert pykv.check(author.folder).ok


def test_a_damaged_checkpoint(stored):
    file = checkpoint_of(stored)
    damage_value(file)
    before = fingerprint(stored)
    report = pykv.check(stored)
    assert not report.ok and report.problem_count == len(report.problems) >= 1
    assert report.blocks_lost == 1 and report.bytes_lost > 0
    problem = report.problems[0]
    assert problem.path == str(file) and 0 < problem.offset < file.stat().st_size
    assert problem.message and problem.loss
    assert str(problem) == f"{file}: at byte {problem.offset}: {problem.message} ({problem.loss})"
    assert fingerprint(stored) == before


def test_a_damaged_log(stored):
    file = damage_log(stored)
    report = pykv.check(stored)
    assert not report.ok and report.frames_lost >= 1
    assert report.problems[0].path == str(file) and report.problems[0].offset > 0


def test_all_problems_are_told(stored):
    file = checkpoint_of(stored)
    for place in (0.2, 0.4, 0.6):
        damage(file, place)
    log = damage_log(stored)
    report = pykv.check(stored)
    assert report.blocks_lost >= 2 and report.frames_lost >= 1
    assert {problem.path for problem in report.problems} == {str(file), str(log)}


def test_very_many_problems(path, tmp_path):
    """All are counted; the lists take 10,000."""
    count = 12_000
    with pykv.open(path, sync="never") as store:
        for i in range(count):
            store[b"%d" % i] = b"MARK"
    for file in logs_of(path):
        file.write_bytes(file.read_bytes().replace(b"MARK", b"MARX"))
    report = pykv.check(path)
    assert report.problem_count > 10_000 == len(report.problems)
    repaired = pykv.repair(path, tmp_path / "new")
    assert repaired.problem_count == report.problem_count and len(repaired.problems) == 10_000
    assert repaired.items == 0 and len(repaired.suspects) == min(repaired.suspect_count, 10_000)


@pytest.mark.parametrize("name", ["STORE", "log", "ckpt"])
def test_a_file_that_is_missing(stored, tmp_path, name):
    file = {"STORE": stored / "STORE", "log": logs_of(stored)[0], "ckpt": checkpoint_of(stored)}[name]
    file.unlink()
    before = fingerprint(stored)
    try:
        report = pykv.check(stored)
    except pykv.StorageError:
        assert name == "STORE"  # then it is no store
    else:
        assert not report.ok or name == "ckpt"
        if report.ok:  # the log goes back to the beginning
            shutil.copytree(stored, tmp_path / "copy")
            with pykv.open(tmp_path / "copy") as store:
                assert_holds(store, {**ITEMS, **CHANGES, b"expires": b"v"})
    assert fingerprint(stored) == before


def test_no_problem_is_missed(tmp_path):
    """A flipped bit anywhere in the checkpoint, or in the log up to its end."""
    path = tmp_path / "store"
    with pykv.open(path, checkpoint_log_ratio=None) as store:
        store.put_many({b"%d" % i: b"v" * 20 for i in range(40)})
        store.checkpoint()
    file = checkpoint_of(path)
    size = file.stat().st_size
    for offset in range(0, size, max(size // 300, 1)):
        change(file, offset)
        assert not pykv.check(path).ok, offset
        change(file, offset)
    assert pykv.check(path).ok


@pytest.mark.parametrize("call", [pykv.check, lambda p, **o: pykv.repair(p, str(p) + ".new", **o)], ids=["check", "repair"])
def test_where_no_store_is(tmp_path, call):
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(b"data")
    before = fingerprint(tmp_path)
    for name in ("none", "file", "empty", "other", "file/below"):
        with pytest.raises(pykv.StorageError) as caught:
            call(tmp_path / name)
        assert caught.value.errno and str(tmp_path / name) in str(caught.value)
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("call", [pykv.check, lambda p: pykv.repair(p, str(p) + ".new")], ids=["check", "repair"])
def test_a_store_that_is_open(path, open_store, script, call):
    store = open_store(path)
    store[b"k"] = b"v"
    with pytest.raises(pykv.LockedError) as caught:
        call(path)
    assert caught.value.pid == os.getpid()
    assert not os.path.exists(str(path) + ".new")
    store.close()
    assert call(path).ok


def test_a_store_that_is_open_elsewhere(path, open_store, script):
    open_store(path)
    _, err = script.run("import sys, pykv; pykv.check(sys.argv[1])", path, status=1)
    assert "LockedError" in err and str(os.getpid()) in err


def test_a_store_that_is_read(stored, open_store):
    store = open_store(stored, read_only=True)
    assert pykv.check(stored).ok
    assert len(store) == len(ITEMS) + 1


# ---- repair ------------------------------------------------------------------------------------


def test_repair_of_a_store_without_a_problem(stored, tmp_path, open_store):
    before = fingerprint(stored)
    report = pykv.repair(stored, tmp_path / "new")
    assert report.ok and report.items == len(ITEMS) + 1
    assert report.suspects == [] and report.suspect_count == 0 and report.problems == []
    assert fingerprint(stored) == before
    with pykv.open(tmp_path / "new") as new, pykv.open(stored) as old:
        assert sorted(new._snapshot()._records()) == sorted(old._snapshot()._records())
        assert new.recovery["clean"]
    assert pykv.check(tmp_path / "new").ok


def test_repair_of_a_damaged_checkpoint(stored, tmp_path):
    damage_value(checkpoint_of(stored))
    before = fingerprint(stored)
    report = pykv.repair(stored, tmp_path / "new")
    assert fingerprint(stored) == before
    assert not report.ok and report.blocks_lost == 1 and report.problems[0].path.endswith(".ckpt")
    with pykv.open(tmp_path / "new") as new:
        assert len(new) == report.items < len(ITEMS) + 1
        wanted = {**ITEMS, **CHANGES, b"expires": b"v"}
        found = dict(new.items())
        assert all(wanted[key] == value for key, value in found.items())
        assert found.keys() >= CHANGES.keys() and new.ttl(b"expires") is not None
        assert len(found) > len(wanted) * 0.8


def test_repair_of_a_damaged_log(stored, tmp_path):
    damage_log(stored)
    report = pykv.repair(stored, tmp_path / "new")
    assert not report.ok and report.frames_lost >= 1
    with pykv.open(tmp_path / "new") as new:
        found = dict(new.items())
    assert found.keys() >= ITEMS.keys() and len(found) == report.items
    wrong = {key for key in ITEMS if found[key] != CHANGES.get(key, ITEMS[key])}
    assert all(found[key] == ITEMS[key] for key in wrong) and len(wrong) <= 5
    assert report.suspect_count >= len(report.suspects)


def test_repair_never_copies_damage(stored, tmp_path):
    """Flipped bits at random: every value in the new store is one that its key had."""
    rng = random.Random(5)
    for i in range(25):
        place = tmp_path / f"damaged{i}"
        shutil.copytree(stored, place)
        for file in [checkpoint_of(place), *logs_of(place)]:
            for _ in range(rng.randrange(3)):
                change(file, rng.randrange(min(file.stat().st_size, 100_000)))
        try:
            report = pykv.repair(place, tmp_path / f"new{i}")
        except pykv.Error:
            assert not (tmp_path / f"new{i}").exists()
            continue
        with pykv.open(tmp_path / f"new{i}") as new:
            new._verify()
            found = dict(new.items())
        assert len(found) == report.items
        found.pop(b"expires", None)
        for key, value in found.items():
            assert value in (ITEMS[key], CHANGES.get(key))
        if report.ok:
            assert_holds(found, {**ITEMS, **CHANGES})
        shutil.rmtree(place)
        shutil.rmtree(tmp_path / f"new{i}")


def test_a_destination_that_is_in_use(stored, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "precious").write_bytes(b"data")
    before = fingerprint(place), fingerprint(stored)
    for dest in (place, place / "precious", place / "precious" / "below", tmp_path / "no" / "such"):
        with pytest.raises(pykv.StorageError) as caught:
            pykv.repair(stored, dest)
        assert caught.value.errno and str(dest) in str(caught.value)
    assert (fingerprint(place), fingerprint(stored)) == before


@pytest.mark.parametrize("is_open", [True, False])
def test_a_store_that_comes_meanwhile_is_not_removed(stored, tmp_path, open_store, monkeypatch, is_open):
    place, opener = tmp_path / "new", pykv.open

    def another_first(path, **options):
        if path == place:
            another = open_store(path)
            another[b"k"] = b"v"
            if not is_open:
                another.close()
        return opener(path, **options)

    monkeypatch.setattr(pykv.files, "open_store", another_first)
    with pytest.raises((pykv.StorageError, ValueError)):
        pykv.repair(stored, place)
    with opener(place, create=False) as store:
        assert store == {b"k": b"v"}


def test_a_store_that_is_opened_before_it_is_removed(stored, tmp_path, open_store, monkeypatch):
    """By somebody who finds one that failed, and has just been closed."""
    place, opener, found = tmp_path / "new", pykv.open, []

    class Opened:
        def __init__(self, path, **options):
            self.store = opener(path, **options)
            self.recovery = self.store.recovery

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.store.close()
            found.append(open_store(place))

    monkeypatch.setattr(pykv.files, "open_store", Opened)
    monkeypatch.setattr(pykv.files._core, "_repair", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pykv.repair(stored, place)
    found[0][b"k"] = b"v"
    found[0].close()
    with opener(place, create=False) as store:
        assert store == {b"k": b"v"}


def test_an_empty_destination(stored, tmp_path):
    (tmp_path / "empty").mkdir()
    assert pykv.repair(stored, tmp_path / "empty").ok
    assert pykv.check(tmp_path / "empty").ok


def test_onto_itself(stored, tmp_path):
    (tmp_path / "link").symlink_to(stored)
    before = fingerprint(stored)
    for destination in (stored, tmp_path / "link", stored / "below", tmp_path, str(stored) + "/../store"):
        with pytest.raises(ValueError, match="director"):
            pykv.repair(stored, destination)
    with pytest.raises(ValueError):
        pykv.repair(tmp_path / "link", stored)
    assert fingerprint(stored) == before


@pytest.mark.parametrize("arguments", [(), (5,), (None,), ("a", "b", "c"), (object,)], ids=repr)
def test_wrong_arguments(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    for call in (pykv.check, pykv.repair):
        if len(arguments) == 3 and call is pykv.check or len(arguments) != 1 or call is pykv.check:
            with pytest.raises(TypeError):
                call(*arguments)
    for call in (lambda: pykv.repair(5, "new"), lambda: pykv.repair("old", 5), lambda: pykv.repair("old", None)):
        with pytest.raises(TypeError):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("progress", [5, "text", True])
def test_progress_that_cannot_be_called(stored, tmp_path, progress):
    for call in (lambda: pykv.check(stored, progress=progress), lambda: pykv.repair(stored, tmp_path / "new", progress=progress)):
        with pytest.raises(TypeError, match="progress"):
            call()
    assert not (tmp_path / "new").exists()


# ---- Progress and interruption -----------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Some 40 MB."""
    path = tmp_path_factory.mktemp("large") / "store"
    with pykv.open(path, sync="never") as store:
        for i in range(40):
            store.put_many({b"%d %d" % (i, j): b"v" * 10_000 for j in range(100)})
        store.checkpoint()
    return path


def test_progress(large, tmp_path):
    for call in (lambda p: pykv.check(large, progress=p), lambda p: pykv.repair(large, tmp_path / "new", progress=p)):
        calls = []
        report = call(lambda *arguments: calls.append(arguments))
        assert report.ok and calls and [done for done, _ in calls] == sorted(done for done, _ in calls)
        assert all(type(done) is type(total) is int and 0 <= done <= total for done, total in calls)


def test_an_exception_of_progress(large, tmp_path):
    def progress(done, total):
        raise ZeroDivisionError("stop")

    (tmp_path / "empty").mkdir()
    for call in (
        lambda: pykv.check(large, progress=progress),
        lambda: pykv.repair(large, tmp_path / "new", progress=progress),
        lambda: pykv.repair(large, tmp_path / "empty", progress=progress),
    ):
        with pytest.raises(ZeroDivisionError, match="stop"):
            call()
    assert not (tmp_path / "new").exists() and list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("name", ["check", "repair"])
def test_ctrl_c(large, tmp_path, name):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    tick = threading.Thread(target=lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            tick.start()
            for i in range(1000):
                pykv.check(large) if name == "check" else pykv.repair(large, tmp_path / f"{i}")
                if name == "repair":
                    shutil.rmtree(tmp_path / f"{i}")
    finally:
        tick.join()
        signal.signal(signal.SIGINT, before)
    assert pykv.check(large).ok


# ---- The reports -------------------------------------------------------------------------------


def test_a_problem_says_what_it_knows():
    assert str(pykv.Problem("a", 5, "wrong", "all")) == "a: at byte 5: wrong (all)"
    assert str(pykv.Problem("a", None, "wrong", None)) == "a: wrong"
    assert str(pykv.Problem(None, None, "wrong", None)) == "wrong"
