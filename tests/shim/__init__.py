"""A disk that fails, waits and runs full: see shim.c.

`Control` is the control block, in the process under test and outside of it. `scenarios` has what
is done with it; each runs in a process of its own, with the shim preloaded.
"""

import mmap
import struct

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
