"""Threads that do random calls on a few hot keys, through a Store or a socket of the server, and record them.

Every value is written once, so that an answer names the call that it comes from: "thread.number", some of them
padded, or for keys that are counted a large number of its own.
"""

import random
import threading
import time

from serving import Raw, request

from .checker import Call, NotLinearizable

THREADS = 8
PATIENCE = 600  # seconds: a machine that stands still is no violation
REGISTERS = ("r0", "r1", "r2")
NUMBERS = ("n0", "n1")
GROUP = "group"  # stands for PARTS, which only batches write, and all of them
PARTS = tuple(f"group/{i}" for i in range(24))
KEYS = (*REGISTERS, *NUMBERS, GROUP)

PADDING = "." * 3000  # a read of so much gives up Python's lock
CHOICES = {
    "r": "get " * 6 + "put put put swap delete pop setdefault setdefault replace replace replace replace",
    "n": "get get get put delete pop replace replace incr incr incr incr incr incr incr",
    "g": "get get get get get put put put swap delete",
}
CHOICES = {first: kinds.split() for first, kinds in CHOICES.items()}


def padded(name):
    """The value that is written for a name; names of numbers are not padded."""
    return f"{name}:{PADDING}" if name is not None and "." in name and name.endswith("0") else name


def name_of(value):
    """The name of a value that was read."""
    if value is None:
        return None
    text = value.decode()
    name = text.partition(":")[0]
    if padded(name) != text:
        raise NotLinearizable(f"nobody wrote {text[:80]!r} ({len(text)} characters)")
    return name


def one_of(names):
    """What the keys of the group hold."""
    if len(set(names)) != 1:
        raise NotLinearizable(f"a batch is seen by half: {sorted(set(map(str, names)))}")
    return names[0]


def whole(count):
    """Was the group there, when so many of its keys were deleted?"""
    if count not in (0, len(PARTS)):
        raise NotLinearizable(f"a batch is seen by half: {count} of {len(PARTS)} keys were deleted")
    return count > 0


class ByStore:
    """Calls through a Store's methods."""

    lacks = ("swap",)

    def __init__(self, store, rng):
        self.store, self.rng = store, rng

    def close(self):
        pass

    def call(self, kind, key, *args):
        if key == GROUP:
            return getattr(self, f"group_{kind}")(*map(padded, args))
        if kind == "incr":
            return self.store.incr(key, by=args[0])
        args = [padded(name) for name in args]
        if kind == "get":
            return name_of(self.store.get(key))
        if kind == "replace":
            return self.store.replace(key, args[0], expected=args[1])
        if kind == "setdefault":
            return name_of(self.store.setdefault(key, args[0]))
        if kind == "pop":
            return name_of(self.store.pop(key, None))
        return getattr(self.store, kind)(key, *args)

    def group_get(self):
        how = self.rng.randrange(4)
        if how == 0:
            return name_of(self.store.get(self.rng.choice(PARTS)))
        if how == 1:
            items = dict(self.store.items())
            return one_of([name_of(items.get(part.encode())) for part in PARTS])
        return one_of([name_of(value) for value in self.store.get_many(PARTS)])

    def group_put(self, value):
        if self.rng.random() < 0.5:
            self.store.put_many(dict.fromkeys(PARTS, value))
            return
        with self.store.batch() as batch:
            for part in self.rng.sample(PARTS, len(PARTS)):
                batch[part] = value

    def group_delete(self):
        return whole(self.store.delete_many(PARTS))


class ByServer:
    """Calls through a connection to the server."""

    lacks = ()

    def __init__(self, address, rng):
        self.raw, self.rng = Raw(address, PATIENCE), rng

    def close(self):
        self.raw.close()

    def ask(self, *words):
        return checked(self.raw.ask(*words))

    def transaction(self, *commands):
        self.raw.send(b"".join(request(*words) for words in [("MULTI",), *commands, ("EXEC",)]))
        for _ in range(1 + len(commands)):
            checked(self.raw.reply())
        return [checked(reply) for reply in checked(self.raw.reply())]

    def call(self, kind, key, *args):
        if key == GROUP:
            return getattr(self, f"group_{kind}")(*map(padded, args))
        if kind == "incr":
            return self.ask("INCRBY", key, args[0])
        args = [padded(name) for name in args]
        if kind == "get":
            return name_of(self.ask("GET", key))
        if kind == "put":
            return self.ask("SET", key, args[0]) and None
        if kind == "swap":
            return name_of(self.ask("SET", key, args[0], "GET"))
        if kind == "delete":
            return bool(self.ask("DEL", key))
        if kind == "pop":
            return name_of(self.ask("GETDEL", key))
        if kind == "setdefault":
            there = self.ask("SET", key, args[0], "NX", "GET")
            return name_of(args[0].encode() if there is None else there)
        value, expected = args
        condition = ("NX",) if expected is None else ("IFEQ", expected)
        return self.ask("SET", key, value, *condition) is not None

    def group_get(self):
        how = self.rng.randrange(4)
        if how == 0:
            return name_of(self.ask("GET", self.rng.choice(PARTS)))
        if how == 1:
            return one_of([name_of(value) for value in self.transaction(*(("GET", part) for part in PARTS))])
        return one_of([name_of(value) for value in self.ask("MGET", *PARTS)])

    def group_put(self, value):
        if self.rng.random() < 0.5:
            self.ask("MSET", *(word for part in PARTS for word in (part, value)))
        else:
            self.transaction(*(("SET", part, value) for part in self.rng.sample(PARTS, len(PARTS))))

    def group_swap(self, value):
        """The reads of a transaction see the state that its writes change."""
        before = self.transaction(("MGET", *PARTS), *(("SET", part, value) for part in PARTS))[0]
        return one_of([name_of(value) for value in before])

    def group_delete(self):
        return whole(self.ask("DEL", *PARTS))


def checked(reply):
    if isinstance(reply, Exception):
        raise reply
    return reply


class Memory:
    """A thread's record in a list: what `checker.check` takes. Its clock is that of journals."""

    def __init__(self, thread):
        self.thread, self.calls = thread, []

    def do(self, client, kind, key, *args):
        start = time.monotonic_ns()
        result = client.call(kind, key, *args)
        self.calls.append(Call(self.thread, start, time.monotonic_ns(), kind, key, args, result))
        return result


class Caller:
    """Random calls of one thread."""

    def __init__(self, thread, record, client, rng, reads_only=False):
        self.thread, self.record, self.client, self.rng = thread, record, client, rng
        self.reads_only = reads_only
        self.number = 0
        self.last = dict.fromkeys(KEYS)  # seen by this thread

    def value(self, key):
        self.number += 1
        if key in NUMBERS:
            return str((self.thread + 1) * 10**12 + self.number * 10**6)
        return f"{self.thread}.{self.number}"

    def step(self):
        rng = self.rng
        key = rng.choice((*KEYS, REGISTERS[0], NUMBERS[0], GROUP))
        kind = "get" if self.reads_only else rng.choice(CHOICES[key[0]])
        if kind in self.client.lacks:
            kind = "put"
        args = ()
        if kind == "incr":
            args = (rng.randint(1, 9),)
        elif kind == "replace":
            if rng.random() < 0.5:
                self.last[key] = self.do("get", key)
            args = (self.value(key), self.last[key])
        elif kind in ("put", "swap", "setdefault"):
            args = (self.value(key),)
        result = self.do(kind, key, *args)
        if kind in ("get", "setdefault"):
            self.last[key] = result
        elif kind in ("put", "swap") or (kind == "replace" and result):
            self.last[key] = args[0]
        elif kind == "incr":
            self.last[key] = str(result)

    def do(self, kind, key, *args):
        return self.record.do(self.client, kind, key, *args)


def record(connect, steps, seed):
    """The history of THREADS threads: `connect(number, rng)` gives each its client."""
    barrier = threading.Barrier(THREADS)
    records = [Memory(number) for number in range(THREADS)]
    failures = []

    def live(number):
        rng = random.Random(f"{seed} {number}")
        try:
            client = connect(number, rng)
            try:
                caller = Caller(number, records[number], client, rng)
                barrier.wait()
                for _ in range(steps):
                    caller.step()
            finally:
                client.close()
        except BaseException as error:
            barrier.abort()
            failures.append(error)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    return [call for record in records for call in record.calls]
