"""The control group: SQLite, which writes to the same file system while the power goes.

    python -m crash.control DATABASES FOLDER

One thread commits with `synchronous=OFF`, which promises nothing, one with FULL. Each notes in FOLDER/MODE,
outside of the machine, the number and the time of a commit that returned. What OFF keeps through a power cut
shows a test that proves nothing.
"""

import itertools
import os
import sqlite3
import sys
import threading
import time

OFF, FULL = MODES = ("OFF", "FULL")
PAYLOAD = b"x" * 100


def write(database, mode, noted):
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA synchronous={mode}")
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # without a file that is mapped into memory
    fd = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in itertools.count(1):
        try:
            connection.execute("INSERT INTO items VALUES (?, ?)", (number, PAYLOAD))
        except sqlite3.Error:  # the power is gone
            return
        os.write(fd, b"%d %d\n" % (number, time.monotonic_ns()))
        time.sleep(0.0002)  # the store that is tested needs the processor, too


def main():
    databases, folder = sys.argv[1:]
    for mode in MODES:
        threading.Thread(target=write, args=(f"{databases}/{mode}", mode, f"{folder}/{mode}"), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
