"""Where a store may be, where not, and what an open that fails leaves behind: nothing."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pykv
from conftest import python_environment
from test_damage import fingerprint

is_root = hasattr(os, "geteuid") and os.geteuid() == 0


def refused(path, number=None, kind=pykv.StorageError, **options):
    folder = Path(os.fsdecode(path)).parent
    before = fingerprint(folder) if folder.exists() else None
    with pytest.raises(kind) as caught:
        pykv.open(path, **options).close()
    error = caught.value
    assert os.fsdecode(path) in str(error), "the message names the path"
    if number is not None:
        assert error.errno == number and isinstance(error, OSError), error
    assert (fingerprint(folder) if folder.exists() else None) == before
    return error


@pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}])
def test_a_file(tmp_path, options):
    (tmp_path / "file").write_text("precious")
    refused(tmp_path / "file", errno.ENOTDIR, **options)
    assert (tmp_path / "file").read_text() == "precious"


def test_an_empty_file(tmp_path):
    (tmp_path / "file").touch()
    refused(tmp_path / "file", errno.ENOTDIR)


def test_a_missing_store_that_must_not_be_created(tmp_path):
    for options in ({"create": False}, {"read_only": True}, {"create": False, "read_only": True}):
        refused(tmp_path / "none", errno.ENOENT, **options)
        assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_that_must_not_become_a_store(path):
    path.mkdir()
    for options in ({"create": False}, {"read_only": True}):
        refused(path, **options)
        assert list(path.iterdir()) == []


def test_an_empty_directory_becomes_a_store(path, open_store):
    path.mkdir()
    with open_store(path) as store:
        assert store.recovery["created"]
        store[b"k"] = b"v"
    with open_store(path, create=False) as store:
        assert store == {b"k": b"v"} and not store.recovery["created"]


def test_a_missing_parent(tmp_path):
    refused(tmp_path / "no" / "such" / "place", errno.ENOENT)


def test_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "store", errno.ENOTDIR)


def test_the_empty_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((pykv.StorageError, ValueError)):
        pykv.open("")
    assert list(tmp_path.iterdir()) == []


def test_a_name_too_long_for_the_file_system(tmp_path):
    refused(tmp_path / ("x" * 300), errno.ENAMETOOLONG)


def test_a_path_longer_than_any(tmp_path):
    with pytest.raises((pykv.StorageError, ValueError)):
        pykv.open(f"{tmp_path}/" + "x/" * 5000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("foreign", [["notes.txt"], ["notes.txt", "data/x"], [".hidden"], ["STORE.bak"]])
def test_a_directory_of_other_peoples_files_is_no_store(path, foreign):
    for name in foreign:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("precious")
    for options in ({}, {"create": False}, {"read_only": True}):
        refused(path, **options)
    assert sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()) == sorted(foreign)


def test_a_directory_with_the_log_of_a_store_that_lost_its_identity(path):
    with pykv.open(path) as store:
        store[b"k"] = b"v"
    (path / "STORE").unlink()
    error = refused(path, kind=(pykv.CorruptionError, pykv.StorageError))
    assert str(path) in str(error)


def test_a_loop_of_links(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refused(tmp_path / "a", errno.ELOOP)


def test_a_link_to_a_store(tmp_path, open_store):
    """The user's own path may be a link; what it points to is the store."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with open_store(tmp_path / "link") as store:
        store[b"k"] = b"v"
    with open_store(tmp_path / "real") as store:
        assert store == {b"k": b"v"}


def test_a_device():
    with pytest.raises(pykv.StorageError):
        pykv.open("/dev/null")


def as_nobody(source, *args):
    """Runs the source as an unprivileged user, in a child of its own."""
    head = "import os, sys, pykv\nos.setegid(65534); os.seteuid(65534)\n"
    return subprocess.run(
        [sys.executable, "-c", head + source, *map(str, args)],
        env=python_environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def public():
    """A directory that other users may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


REFUSED = """
try:
    pykv.open(sys.argv[1], read_only=len(sys.argv) > 2).close()
except pykv.StorageError as error:
    print(error.errno, error)
"""


@pytest.mark.skipif(not is_root, reason="needs root, to become somebody else")
def test_a_directory_that_cannot_be_written(public):
    (public / "locked").mkdir(mode=0o755)
    before = fingerprint(public)
    for place in (public / "store", public / "locked"):
        done = as_nobody(REFUSED, place)
        assert done.stdout.startswith(f"{errno.EACCES} ") and str(place) in done.stdout, done
        assert done.stderr == ""
    assert fingerprint(public) == before


@pytest.mark.skipif(not is_root, reason="needs root, to become somebody else")
def test_a_store_of_another_user(public):
    """Mode 0700, files 0600: nobody else reads it, nor finds out what is in it."""
    with pykv.open(public / "store") as store:
        store[b"k"] = b"v"
    before = fingerprint(public)
    for options in ((), ("read-only",)):
        done = as_nobody(REFUSED, public / "store", *options)
        assert done.stdout.startswith(f"{errno.EACCES} "), done
    (public / "store").chmod(0o755)  # the directory can be entered now, the files not be read
    before = fingerprint(public)
    for options in ((), ("read-only",)):
        done = as_nobody(REFUSED, public / "store", *options)
        assert done.stdout.startswith(f"{errno.EACCES} "), done
    assert fingerprint(public) == before


@pytest.mark.skipif(is_root, reason="root may write anywhere; root's tests do this as another user")
def test_a_directory_that_we_cannot_write(path):
    path.mkdir()
    path.chmod(0o500)
    try:
        refused(path, errno.EACCES)
        refused(path / "below", errno.EACCES)
    finally:
        path.chmod(0o700)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(path, umask):
    before = os.umask(umask)
    try:
        with pykv.open(path) as store:
            for i in range(4):
                store[b"%d" % i] = b"v" * 500_000  # more than one segment
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [path, *path.iterdir()]}
        with pykv.open(path) as store:
            assert len(store) == 4
    finally:
        os.umask(before)
    assert modes.pop("store") == 0o700
    assert len(modes) >= 4 and set(modes.values()) == {0o600}


def test_a_directory_that_was_there_gets_its_mode_or_keeps_it(path):
    path.mkdir()
    path.chmod(0o755)
    with pykv.open(path) as store:
        store[b"k"] = b"v"
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.iterdir()} == {0o600}


def test_the_store_is_removed_while_it_is_open(path):
    """Not something to do; and no crash."""
    store = pykv.open(path)
    store[b"k"] = b"v"
    shutil.rmtree(path)
    assert store[b"k"] == b"v"
    try:
        for i in range(5):
            store[b"%d" % i] = b"w" * 500_000
    except pykv.StorageError:
        pass
    try:
        store.close()
    except pykv.StorageError:
        pass
    assert store.closed


def test_the_working_directory_is_gone(tmp_path, script):
    script.run(
        """
        import os, sys, pykv
        os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
        try:
            pykv.open("relative")
        except pykv.StorageError as error:
            assert error.errno, error
        else:
            raise SystemExit("opened nowhere?")
        store = pykv.open(sys.argv[2])
        store["k"] = "v"
        store.close()
        """,
        tmp_path / "gone",
        tmp_path / "store",
    )
