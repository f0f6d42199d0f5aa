"""Libraries that stand between the store and the C library.

shim.c: a disk that fails, waits and runs full. `Control` is its control block, in the process under test and outside
of it. `scenarios` has what is done with it; each runs in a process of its own, with the shim preloaded.

moment.c: the end of the process, or of the power, at a chosen moment; crash/moments.py has them.
"""

import mmap
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest


def compiled(source, folder):
    """The library made of one of the sources here, to be preloaded."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the shims are for Linux: LD_PRELOAD and /proc")
    compiler = next(filter(shutil.which, (os.environ.get("CC", "cc").split()[0], "gcc", "clang")), None)
    if compiler is None:
        pytest.skip("no C compiler to build the shim with")
    target = (folder / source).with_suffix(".so")
    command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", target, Path(__file__).parent / source, "-ldl"], check=True)
    return target


FIELDS = 32
NAMES = (
    "gate", "waiting", "syncs", "sync_fail", "sync_errno", "writes", "write_errno", "room", "write_max",
    "interrupts", "dirty", "read_errno", "dir_syncs", "dir_sync_errno", "no_reserve",
    "spare_too",
)  # fmt: skip


class Control:
    """The fields of the control block as attributes: integers, shared with the shim."""

    def __init__(self, path):
        with open(path, "ab") as file:
            file.truncate(8 * FIELDS)
        with open(path, "r+b") as file:
            object.__setattr__(self, "_area", mmap.mmap(file.fileno(), 8 * FIELDS))

    def __getattr__(self, name):
        return struct.unpack_from("=q", self._area, 8 * NAMES.index(name))[0]

    def __setattr__(self, name, value):
        struct.pack_into("=q", self._area, 8 * NAMES.index(name), value)

    def clear(self):
        """The disk is well again."""
        for name in NAMES:
            setattr(self, name, 0)
