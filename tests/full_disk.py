"""What happens to a store on a small disk that is really full. Each function here is one scenario:

    python -m full_disk FOLDER KIND NAME MODE

KIND is the file system, MODE the sync mode. A failed check is an exception, which test_full_disk.py shows.
"""

import contextlib
import errno
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pykv
from apart import SKIP
from conftest import python_environment
from crash.machine import make_ext4, run
from shim.scenarios import BEFORE, PATIENCE, WRITES, Call, close_failed, look, same, set_up, wait_until

KINDS = ("tmpfs", "ext4")
SIZE = 24 << 20
ASIDE = 3 << 20
SIZES = (300_000, 30_000, 3_000, 300, 30, 0)  # of what fills the last gaps


class Place:
    """A folder on a file system of its own, and a file there that takes the room away."""

    def __init__(self, folder, kind, mode):
        self.elsewhere, self.folder = folder / "elsewhere", folder / "disk"
        self.elsewhere.mkdir()
        self.folder.mkdir()
        if kind == "ext4":
            make_ext4(folder / "image", SIZE)
            run("mount", "-o", "loop", folder / "image", self.folder)
        else:
            run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "disk", self.folder)
        self.path, self.ballast = self.folder / "store", self.folder / "ballast"
        self.mode = mode

    def open(self, **options):
        return pykv.open(self.path, sync=self.mode, sync_interval=0.01, **options)

    def room(self):
        """Free bytes."""
        status = os.statvfs(self.folder)
        return status.f_bfree * status.f_frsize

    def fill(self, leave=0):
        with open(self.ballast, "ab", buffering=0) as file:
            for size in (1 << 20, 1 << 16, 1 << 12, 1):
                try:
                    while file.write(b"b" * size) == size:
                        pass
                except OSError as error:
                    same(error.errno, errno.ENOSPC)
            os.fsync(file.fileno())
            file.truncate(file.tell() - leave)

    def put_aside(self, size):
        """Room that `free` gives back."""
        self.ballast.write_bytes(b"b" * size)

    def free(self):
        self.ballast.unlink()


def refused(folder, call, *args, **options):
    """True: there was no room, and that is what the error says, with the name of the folder or of a file there."""
    try:
        call(*args, **options)
    except pykv.StorageError as error:
        same((type(error), error.errno), (pykv.StorageError, errno.ENOSPC))
        assert folder in (Path(error.filename), Path(error.filename).parent), error
        return True
    return False


def put_until_refused(store, model, prefix, size):
    """Different keys; the model is kept up."""
    for number in range(100_000):
        key, value = b"%s %d %d" % (prefix, size, number), b"%d" % number * (size // 4 + 1)
        if refused(Path(store.path), store.put, key, value):
            return
        model[key] = value
    raise AssertionError("the disk is not full")


def use_up(store, model, prefix=b"gap"):
    """Until there is no room for the least of writes."""
    for size in SIZES:
        put_until_refused(store, model, prefix, size)
        same(look(store), model)


def goes_on(place, store, model):
    """With room again, the store writes without being opened again; then it is, and has what it should have."""
    for number in range(20):
        key, value = b"after %d" % number, b"%d" % number * 50_000
        store.put(key, value)
        model[key] = value
    with store.batch() as batch:
        batch.put(b"batch", b"after")
        batch.delete(b"after 0")
    model |= {b"batch": b"after"}
    del model[b"after 0"]
    same(store.stats()["failed"], False)
    same(look(store), model)
    store._verify()
    store.close()
    with place.open() as store:
        same(look(store), model)
        store._verify()


def each_kind_of_write(place):
    store = place.open(checkpoint_log_ratio=None)
    set_up(store)
    model = dict(BEFORE)
    place.fill()
    use_up(store, model)
    for name, (write, _) in WRITES.items():
        assert refused(place.path, write, store), f"{name}: there was room?"
        same(look(store), model)
        store._verify()
    place.free()
    goes_on(place, store, model)


def growing_until_the_disk_is_full(place):
    """By the store itself. With some room for a checkpoint, what is deleted makes more."""
    store = place.open(checkpoint_log_ratio=None)
    model = {}
    place.put_aside(ASIDE)
    put_until_refused(store, model, b"many", 200_000)
    assert len(model) > 10
    room = place.room()
    assert refused(place.path, store.checkpoint)
    assert place.room() >= room
    place.free()
    doomed = sorted(model)[5:]
    same(store.delete_many(doomed), len(doomed))
    for key in doomed:
        del model[key]
    segments = store.stats()["log_bytes"]
    store.checkpoint()
    assert place.room() > room + ASIDE and store.stats()["log_bytes"] < segments
    same(look(store), model)
    goes_on(place, store, model)


def checkpoint_and_backup(place):
    store = place.open(checkpoint_log_ratio=None)
    model = {b"%d" % i: b"%d" % i * 20_000 for i in range(60)}
    store.put_many(model)
    place.fill(leave=300_000)
    refused(place.path, store.checkpoint)  # or not, with the room of the next segment; that is used up then
    place.fill(leave=300_000)
    store.put(b"small", b"write")
    assert refused(place.path, store.checkpoint)
    model[b"small"] = b"write"
    room, files = place.room(), sorted(os.listdir(place.path))
    copy = place.folder / "copy"
    for _ in range(3):
        assert refused(place.path, store.checkpoint)
        assert refused(copy, store.backup, copy)
        assert refused(copy, store.backup, copy)  # it may be there, and is empty
        same(os.listdir(copy), [])
        copy.rmdir()
        same((place.room(), sorted(os.listdir(place.path))), (room, files))
        store.put(b"small", b"write")
        model[b"small"] = b"write"
        same(look(store), model)
    place.free()
    store.checkpoint()
    wait_until(lambda: not refused(copy, store.backup, copy))
    with pykv.open(copy) as other:
        same(look(other), model)
        other._verify()
    goes_on(place, store, model)


def checkpoints_by_themselves(place):
    """One that finds no room is a warning; the writes beside it go on as long as the log has room."""
    warnings.simplefilter("error", pykv.CheckpointWarning)
    store = place.open(checkpoint_log_min=1 << 20, checkpoint_log_ratio=0.1)
    model, told = {}, []

    def put(number):
        key, value = b"%d" % (number % 60), b"%d" % number * 20_000
        try:
            store.put(key, value)
        except pykv.CheckpointWarning as warning:
            told.append(str(warning))
        model[key] = value

    put(0)
    place.fill(leave=6 << 20)
    try:
        for number in range(1, 1000):
            put(number)
    except pykv.StorageError as error:
        same((type(error), error.errno), (pykv.StorageError, errno.ENOSPC))
    same(look(store), model)
    wait_until(lambda: store.stats()["checkpoint_failures"] > 0 or place.room() > 1 << 20)
    place.free()
    store.checkpoint()
    assert all("No space left" in text and str(place.path) in text for text in told), told
    warnings.simplefilter("ignore", pykv.CheckpointWarning)
    goes_on(place, store, model)


def closing_and_opening(place):
    """What is full can be closed; if it cannot be opened, it says why, and opens when there is room."""
    store = place.open(checkpoint_log_ratio=None)
    set_up(store)
    model = dict(BEFORE)
    place.fill()
    use_up(store, model)
    close_failed(store)
    for _ in range(3):
        try:
            store = place.open()
        except pykv.StorageError as error:
            same((type(error), error.errno), (pykv.StorageError, errno.ENOSPC))
        else:
            same(look(store), model)
            close_failed(store)
    place.free()
    with place.open() as store:
        same(look(store), model)
        goes_on(place, store, model)


def a_new_store(place):
    """It cannot be made; nothing that it leaves is in the way of the next try."""
    place.folder.joinpath("folder").mkdir()
    for leave in (0, 4096, 100_000):
        place.fill(leave)
        for path in (place.path, place.folder / "folder"):
            place.path, before = path, place.path
            assert refused(path, place.open)
            place.path = before
        place.free()
    store = place.open()
    same(store.recovery["created"], True)
    goes_on(place, store, {})


def many_writers(place):
    """The disk is full now and then."""
    store = place.open(checkpoint_log_ratio=None)
    models, refusals, steps = [{} for _ in range(4)], [0] * 4, [0] * 4
    stop, turns = threading.Event(), [threading.Lock() for _ in range(4)]
    place.put_aside(ASIDE)  # for a checkpoint: the log alone fills the disk

    def write(name):
        model = models[name]
        while not stop.is_set():
            with turns[name]:
                number = steps[name] + refusals[name]
                changes = {b"%d %d" % (name, (number + i) % 10): b"%d" % number * 5000 for i in range(number % 4 + 1)}
                if refused(place.path, store.put_many, changes):
                    refusals[name] += 1
                else:
                    steps[name] += 1
                    model.update(changes)

    calls = [Call(write, name) for name in range(4)]

    def all_are(counts):
        start = list(counts)
        wait_until(lambda: all(now > then for now, then in zip(counts, start)) or any(c.error for c in calls))

    for _ in range(5):
        place.fill()
        all_are(refusals)
        with contextlib.ExitStack() as nobody_writes:
            for turn in turns:
                nobody_writes.enter_context(turn)
            place.free()
            store.checkpoint()
            place.put_aside(ASIDE)
        all_are(steps)
    stop.set()
    for call in calls:
        call.end()
    model = {key: value for part in models for key, value in part.items()}
    place.free()
    store.checkpoint()
    goes_on(place, store, model)


def pykv_command(*arguments):
    ended = subprocess.run(
        [sys.executable, "-m", "pykv", *map(str, arguments)],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return ended.returncode, ended.stderr


def load_and_dump(place):
    with place.open() as store:
        set_up(store)
    more = {b"%d" % i: b"%d" % i * 20_000 for i in range(700)}
    with pykv.open() as store:
        store.put_many(more)
        for name, items in (("large", more), ("small", {key: more[key] for key in sorted(more)[:20]})):
            store.clear()
            store.put_many(items)
            pykv.dump(store, place.elsewhere / name)

    def fails(*arguments):
        status, text = pykv_command(*arguments)
        same(status, 2)
        assert str(place.folder) in text and "No space left" in text, text
        assert all(line.startswith("pykv: ") for line in text.splitlines()), text

    place.put_aside(ASIDE)
    fails("load", place.path, place.elsewhere / "large")
    with place.open() as store:
        same(look(store), BEFORE)
    fails("load", "--partial", place.path, place.elsewhere / "large")
    with place.open() as store:
        found = look(store)
        for key in BEFORE:
            same(found.pop(key), BEFORE[key])
        assert found.items() <= more.items()
        place.free()
        store.delete_many(found)
        store.checkpoint()
        same(look(store), BEFORE)
    same(pykv_command("load", place.path, place.elsewhere / "small"), (0, ""))
    with place.open() as store:
        model = look(store)
        same(model, BEFORE | {key: more[key] for key in sorted(more)[:20]})
    place.fill(leave=100_000)
    room = place.room()
    fails("dump", place.path, place.folder / "dumped")
    assert not [name for name in os.listdir(place.folder) if "dump" in name]
    place.free()
    same(pykv_command("dump", place.path, place.folder / "dumped"), (0, ""))
    goes_on(place, place.open(), model)


def main():
    folder, kind, name, mode = sys.argv[1:]
    try:
        place = Place(Path(folder), kind, mode)
    except OSError as error:
        print(f"cannot have a small disk here: {error}")
        sys.exit(SKIP)
    globals()[name](place)


if __name__ == "__main__":
    main()
