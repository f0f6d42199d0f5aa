"""Libraries that stand between the store and the C library.

shim.c: a disk that fails, waits and runs full. `Control` is its control block, in the process under test and outside
of it. `scenarios` has what is done with it; each runs in a process of its own, with the shim preloaded.

nth.c: the n-th request for memory, or system call on files, fails.

late.c: a thread is at work before its start returns.

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


# nth.c's fields.  Who writes them must not need memory for it: so through a memoryview.
NTH = (
    "MEMORY_LEFT", "MEMORY_ONWARD", "MEMORY_FAILED", "CALL_LEFT", "CALL_ONWARD", "CALL_FAILED",
    "CALL_ERRNO", "BLOCKS",
)  # fmt: skip
NTH_SOURCE = f"""
import mmap, os, time
HANG_SECONDS = 300  # for ever
{", ".join(NTH)} = range({len(NTH)})
with open(os.environ["PYKV_NTH_CONTROL"], "r+b") as file:
    control = memoryview(mmap.mmap(file.fileno(), 8 * {len(NTH)})).cast("q")

def has_hung(clock, used):
    # Since time.monotonic() and time.process_time() said so, in what takes milliseconds: for 5 s more than a machine
    # explains that has other things to do.
    return time.monotonic() - clock > 5 + 20 * (time.process_time() - used)
"""


def nth_environment(library, control):
    """For a process under nth.c; `control` is where its fields are to be."""
    control.write_bytes(bytes(8 * len(NTH)))
    return {"LD_PRELOAD": str(library), "PYKV_NTH_CONTROL": str(control)}


def run_nth(source, arguments, environment, folder):
    """Runs Python source that uses the fields to its end, which must be a good one."""
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", NTH_SOURCE + source]
    options = {"env": environment, "cwd": folder, "capture_output": True, "text": True}
    ended = subprocess.run([*command, *arguments], timeout=3000, **options)
    print(ended.stdout)
    if ended.returncode != 0:
        output = f"{ended.stdout}\n{ended.stderr[-4000:]}"
        pytest.fail(f"exit status {ended.returncode}\n{output}", pytrace=False)


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
