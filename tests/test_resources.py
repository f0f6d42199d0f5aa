"""When the system has no more: disk, memory, descriptors, file size."""

import errno
import os
import subprocess
import sys

import pytest

import pykv
from conftest import assert_holds

resource = pytest.importorskip("resource", reason="this system has no resource limits")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", place], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(path):
    """Writes a file until nothing more fits."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)


@pytest.mark.parametrize("mode", ["always", "interval", "never"])
def test_a_full_disk(small_disk, mode):
    place = small_disk / "store"
    store = pykv.open(place, sync=mode)
    model, refused = {}, 0
    for i in range(200):
        try:
            store[b"%d" % i] = b"v" * 100_000
            model[b"%d" % i] = b"v" * 100_000
        except pykv.StorageError as error:
            assert error.errno == errno.ENOSPC and type(error) is pykv.StorageError
            refused += 1
            assert_holds(store, model)
    assert refused > 0 and model
    store._verify()
    # Small writes may still fit; whatever is acknowledged counts.
    for i in range(50):
        try:
            store[b"small %d" % i] = b"s"
            model[b"small %d" % i] = b"s"
        except pykv.StorageError as error:
            assert error.errno == errno.ENOSPC
    assert_holds(store, model)
    store.close()
    with pykv.open(place, sync=mode) as store:
        assert_holds(store, model)


def test_a_disk_that_is_full_and_then_is_not(small_disk):
    filler = small_disk / "filler"
    store = pykv.open(small_disk / "store")
    store[b"k"] = b"v"
    fill(filler)
    refused = 0
    model = {b"k": b"v"}
    for i in range(30):
        try:
            store[b"%d" % i] = b"v" * 200_000
            model[b"%d" % i] = b"v" * 200_000
        except pykv.StorageError as error:
            assert error.errno == errno.ENOSPC
            refused += 1
    assert refused > 0
    assert_holds(store, model)
    filler.unlink()
    store[b"after"] = model[b"after"] = b"v" * 200_000
    store._verify()
    store.close()
    with pykv.open(small_disk / "store") as store:
        assert_holds(store, model)


def test_making_a_store_on_a_full_disk(small_disk):
    fill(small_disk / "filler")
    with pytest.raises(pykv.StorageError) as caught:
        pykv.open(small_disk / "store")
    assert caught.value.errno == errno.ENOSPC and str(small_disk / "store") in str(caught.value)
    (small_disk / "filler").unlink()
    with pykv.open(small_disk / "store") as store:
        store[b"k"] = b"v"
    with pykv.open(small_disk / "store") as store:
        assert store == {b"k": b"v"}


def test_no_more_memory(script):
    """MemoryError, and the store is as it was; with memory again it goes on."""
    out, _ = script.run(
        """
        import resource, pykv
        pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        store = pykv.open()
        store.put_many({f"small {i}": "v" for i in range(1000)})
        resource.setrlimit(resource.RLIMIT_AS, (pages + (300 << 20), -1))
        model = 1000
        value = b"x" * (3 << 20)
        try:
            for i in range(1000):
                store[f"large {i}"] = value
                model += 1
        except MemoryError:
            print("full")
        assert len(store) == model, (len(store), model)
        for _ in range(5):
            try:
                store.put_many({f"more {i}": value for i in range(300)})
            except MemoryError:
                pass
            else:
                raise SystemExit("900 MiB fitted into 300 MiB?")
            try:
                store.get_many([f"large {i % (model - 1000)}" for i in range(2000)])
            except MemoryError:
                pass
            else:
                raise SystemExit("6 GiB fitted into 300 MiB?")
        assert len(store) == model
        store._verify()
        assert store["small 7"] == b"v"
        store.delete_many([f"large {i}" for i in range(20)])
        store["again"] = value[:1 << 20]
        assert store["again"] == value[:1 << 20]
        store._verify()
        store.close()
        """
    )
    assert out == "full\n"


def test_no_more_memory_with_a_log(script, path):
    out, _ = script.run(
        """
        import resource, sys, pykv
        store = pykv.open(sys.argv[1], sync="never")
        pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + (200 << 20), -1))
        value = b"x" * (3 << 20)
        count = 0
        try:
            for i in range(1000):
                store[f"large {i}"] = value
                count += 1
        except MemoryError:
            pass
        assert len(store) == count > 0
        store._verify()
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        store["after"] = b"v"
        store.close()
        print(count)
        """,
        path,
    )
    with pykv.open(path) as store:
        assert len(store) == int(out) + 1
        store._verify()


DESCRIPTORS = """
        import os, resource

        def use_up_descriptors():
            resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
            files = []
            try:
                while True:
                    files.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                return files
"""


def test_no_more_descriptors(script, path):
    script.run(
        DESCRIPTORS
        + """
        import errno, os, resource, sys, pykv
        with pykv.open(sys.argv[1] + ".other") as store:
            store["k"] = "v"
        files = use_up_descriptors()
        for room in range(12):
            for name in (sys.argv[1], sys.argv[1] + ".other"):
                try:
                    store = pykv.open(name)
                except pykv.StorageError as error:
                    assert error.errno == errno.EMFILE, error
                else:
                    store["k"] = "v"
                    store.close()
            os.close(files.pop())
        with pykv.open(sys.argv[1]) as store:
            assert store["k"] == b"v"
        """,
        path,
    )


def test_no_descriptors_for_work_on_files(script, path):
    """Who has no descriptor left is told so, and not that a file is damaged; and nothing is left half made."""
    script.run(
        DESCRIPTORS
        + """
        import errno, io, os, resource, sys, pykv
        path = sys.argv[1]
        with pykv.open(path) as store:
            store.put_many({str(i): "v" * 1000 for i in range(5000)})
            store.checkpoint()
            store["last"] = "v"
            store.backup(path + ".backup")
            pykv.dump(store, path + ".dump")

        def checked():
            assert pykv.check(path).ok

        def repaired(new):
            assert pykv.repair(path, new).ok

        def backed_up(new):
            with pykv.open(path) as store:
                store.backup(new)

        def loaded():
            with pykv.open() as store:
                assert pykv.load(store, path + ".dump").items == 5001

        def dumped(new):
            with pykv.open(path) as store:
                assert pykv.dump(store, new) == 5001

        files = use_up_descriptors()
        made, refused = set(), 0
        for room in range(16):
            for call in (checked, repaired, backed_up, loaded, dumped, lambda new: pykv.restore(path + ".backup", new)):
                new = [f"{path}.{call.__name__}.{room}"] if call.__code__.co_argcount else []
                try:
                    call(*new)
                except OSError as error:
                    assert error.errno == errno.EMFILE, error
                    assert not isinstance(error, pykv.Error) or type(error) is pykv.StorageError, error
                    if call is backed_up and os.path.exists(*new):
                        os.rmdir(*new)  # it is empty
                    assert not new or not os.path.exists(new[0]), new
                    refused += 1
                else:
                    made.add(call.__name__)
            os.close(files.pop())
        assert len(made) == 6 and refused > 6, (made, refused)

        def no_more(done, total):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 40))

        for call in (pykv.check, pykv.repair, pykv.restore):
            new = [f"{path}.{call.__name__} in the middle"] if call is not pykv.check else []
            try:
                call(path, *new, progress=no_more)
            except pykv.StorageError as error:
                assert error.errno == errno.EMFILE and error.filename.startswith(path), error
            else:
                raise SystemExit(f"{call.__name__} was done without a descriptor")
            resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        """,
        path,
    )


def test_no_descriptor_for_the_next_segment(script, path):
    """Refused is what the log has no file for, and nothing else; with a descriptor again the store goes on."""
    script.run(
        DESCRIPTORS
        + """
        import errno, os, resource, sys, threading, pykv
        store = pykv.open(sys.argv[1])
        model, refused, lock = {}, [], threading.Lock()

        def write(thread):
            for i in range(20):
                key, value = b"%d %d" % (thread, i % 10), b"%d" % i * 50_000
                try:
                    store.put_many({key: value, b"and " + key: value})
                    model.update({key: value, b"and " + key: value})
                except pykv.StorageError as error:
                    with lock:
                        refused.append(error)

        def run():
            threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            store._verify()
            assert dict(store.items()) == model

        files = use_up_descriptors()
        run()
        assert refused and model and not store.stats()["failed"]
        for error in refused:
            assert type(error) is pykv.StorageError and error.errno == errno.EMFILE, error
            assert error.filename == os.path.join(sys.argv[1], "spare.log"), error
        for file in files:
            os.close(file)
        refused.clear()
        run()
        assert not refused
        store.close()
        with pykv.open(sys.argv[1]) as store:
            assert dict(store.items()) == model
        """,
        path,
    )


def test_a_limit_of_file_size(script, path):
    """EFBIG from the system refuses what is too large for one file, and nothing else."""
    script.run(
        """
        import errno, resource, sys, pykv
        store = pykv.open(sys.argv[1], checkpoint_log_ratio=None)
        store["k"] = "v"
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
        model = {b"k": b"v"}
        for i in range(60):
            store[str(i)] = "v" * 200_000
            model[str(i).encode()] = b"v" * 200_000
            if i % 10 == 0:
                try:
                    store["large"] = "v" * (4 << 20)
                except pykv.StorageError as error:
                    assert type(error) is pykv.StorageError and error.errno == errno.EFBIG, error
                else:
                    raise SystemExit("4 MiB fitted into files of 3?")
        assert dict(store.items()) == model
        store._verify()
        store.close()
        with pykv.open(sys.argv[1]) as store:
            assert dict(store.items()) == model
        """,
        path,
    )
