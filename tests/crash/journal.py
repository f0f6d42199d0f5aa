"""A record of intents and acknowledgements that survives the SIGKILL of its writer.

One file per thread, opened with O_APPEND; one os.write per line, so that what was noted before the
kill is in the kernel. A line is JSON:

    ["do", sequence, time, operation...]     before the call
    ["done", sequence, time, result]         after it returned

The times are of the system-wide monotonic clock: they order calls of different threads. What is concluded
from them beside is how late a call may have looked at the wall clock, which was read (`now`) after the "do" time.

Operations name keys and sizes, not values: the value of a key is `value(thread, sequence, key, size)`.

    put key size sync [ttl now]          delete key           incr key
    many [[key, size]...] [ttl now]      drop [key...]        replace key size
    expire key ttl now                   persist key          cas key
    batch [[key, size]...] [deleted key...] size

`batch` also sets every key of GROUP to one token, and `put` of a key of LAST sets a shared key. A ttl is in ms.
"""

import json
import os
import time

THREADS = 8
GROUP = tuple(f"group/{i}" for i in range(8))  # always written together, by any thread
LAST = tuple(f"last/{i}" for i in range(4))  # written one by one, by any thread
COUNT = "count"  # counted up by incr, by any thread
CAS = "cas"  # counted up by replace, by any thread
GENERATION = 1_000_000  # sequences of the n-th worker start at n times this


def own_key(thread, number):
    """A key that only this thread writes."""
    return f"{thread}/key {number}"


def short_key(thread, number):
    """A key that only this thread puts, each time with a ttl that soon ends, and never touches otherwise."""
    return f"{thread}/short {number}"


def own_counter(thread):
    return f"{thread}/count"


def value(thread, sequence, key, size):
    """What this operation stores under the key: every byte of it is known to the judge."""
    head = f"{thread}:{sequence}:{key}:{size}:".encode()
    return (head * (size // len(head) + 1))[: max(size, len(head))]


def token(thread, sequence, size):
    """What this operation stores under the shared keys."""
    return value(thread, sequence, "token", size)


NOW = object()  # in an entry: the wall clock when it is noted


def wall_clock():
    """What expiry goes by: ms since 1970."""
    return time.time_ns() // 1_000_000


class Journal:
    """One thread's journal, while it is written."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, what, sequence, *rest):
        entry = [what, sequence, time.monotonic_ns()]  # this clock first, then the other
        entry += [wall_clock() if part is NOW else part for part in rest]
        data = (json.dumps(entry) + "\n").encode()
        if os.write(self._fd, data) != len(data):
            raise OSError("the journal was not written whole")


def read(path):
    """The entries of a journal. A line that the kill cut off is no entry."""
    try:
        with open(path) as file:
            lines = file.read().split("\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[:-1]]
