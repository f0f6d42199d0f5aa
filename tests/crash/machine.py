"""A machine whose power can be cut: ext4 on a disk with a cache. Needs root, and mounts of its own (apart.py).

    FOLDER/medium     tmpfs: what is here survives a power cut
      disk.img        an ext4 image. Mounted, its page cache is the cache of the disk
    FOLDER/cache      there
      disk            what the disk holds; written through that cache, synced when the disk is told to flush
    FOLDER/root       the file system on the disk: where a store can be

A file system that is told to shut down (FS_IOC_SHUTDOWN) sends nothing more to its disk, so that there are three ways
to cut the power. What is lost:

    SYSTEM     what the file system had not sent to the disk
    JOURNAL    the same, but its journal is sent at the last moment: the names and sizes come through, the data do not
    DISK       what the disk had not been told to flush, too; but of that it has written some places, any of them
"""

import ctypes
import fcntl
import os
import subprocess
import time

SYSTEM, JOURNAL, DISK = CUTS = ("system", "journal", "disk")
DATA = ("ordered", "writeback")  # when ext4 writes data: before its journal names them, or at any time

FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
LOG_FLUSH, NO_LOG_FLUSH = 1, 2
SYNC_FILE_RANGE_WRITE_AND_WAIT = 7
DISK_SIZE = 320 << 20
CACHE_SIZE = DISK_SIZE + (24 << 20)
PATIENCE = 10  # seconds until a mount that is still in use is a failure

libc = ctypes.CDLL(None, use_errno=True)


def run(*command):
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if ended.returncode != 0:
        raise OSError(f"{' '.join(map(str, command))}: {ended.stderr.strip() or ended.returncode}")


def make_ext4(image, size, *options):
    """An empty file system in a file of that size, without work left for later."""
    with open(image, "ab") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", *options, image)


def sync_all(place):
    """Everything that is on the file system of this folder."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    if libc.syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), "syncfs")
    os.close(fd)


def unmount(place):
    """When those that used it have gone; their last work for it may still be under way."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return run("umount", place)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def shut_down(place, how):
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, how.to_bytes(4, "little"))
    finally:
        os.close(fd)


class Machine:
    def __init__(self, folder):
        self.medium, self.cache, self.root = (folder / name for name in ("medium", "cache", "root"))
        for place in (self.medium, self.cache, self.root):
            place.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={CACHE_SIZE + (8 << 20)}", "medium", self.medium)
        make_ext4(self.medium / "disk.img", CACHE_SIZE, "-N", "16", "-J", "size=8")
        run("mount", "-o", "loop", self.medium / "disk.img", self.cache)
        with open(self.cache / "disk", "wb") as disk:
            os.posix_fallocate(disk.fileno(), 0, DISK_SIZE)
        make_ext4(self.cache / "disk", DISK_SIZE)
        unmount(self.cache)

    def start(self, data="ordered"):
        run("mount", "-o", "loop", self.medium / "disk.img", self.cache)
        run("mount", "-o", f"loop,data={data}", self.cache / "disk", self.root)

    def stop(self):
        """Nothing may use it any more."""
        unmount(self.root)
        unmount(self.cache)

    def cut(self, how, rng):
        """Cuts the power. Returns the moment when it began to go, by the monotonic clock in ns.

        What processes are told later is not true to life, where they are gone by then; and not true at all when a sync
        that ext4 cannot finish any more succeeds."""
        moment = time.monotonic_ns()
        shut_down(self.root, LOG_FLUSH if how == JOURNAL else NO_LOG_FLUSH)
        if how == DISK:
            if rng.random() < 0.7:
                self._write_some(rng)
            shut_down(self.cache, NO_LOG_FLUSH)
        return moment

    def _write_some(self, rng):
        """The disk writes what its cache has, for some places and not for others."""
        fd, offset = os.open(self.cache / "disk", os.O_RDWR), 0
        while offset < DISK_SIZE:
            size = 4096 << rng.randrange(10)
            if rng.random() < 0.5:
                call = ctypes.c_int(fd), ctypes.c_int64(offset), ctypes.c_int64(size)
                if libc.sync_file_range(*call, SYNC_FILE_RANGE_WRITE_AND_WAIT) != 0:
                    raise OSError(ctypes.get_errno(), "sync_file_range")
            offset += size
        os.close(fd)
