"""The process that is killed: THREADS threads write to one store until the end comes.

    python -m crash.worker STORE FOLDER GENERATION SEED OPTIONS [PLAN]

Says "opening" and "running" on standard output. Before it writes, it leaves what it found in the
store in FOLDER/found.GENERATION, whole or not at all; its journals are FOLDER/GENERATION.THREAD.

PLAN may have "checkpoint_pause", seconds: another thread makes checkpoints, with such pauses at the most; and
"filler", bytes: every other call puts a value of about that size, so that segments are soon full.
"""

import json
import os
import pickle
import random
import sys
import threading
import time
from pathlib import Path

import pykv

from . import journal


class Writer(threading.Thread):
    def __init__(self, store, folder, generation, number, seed, durable_calls, filler):
        super().__init__(daemon=True)
        self.store = store
        self.number = number
        self.random = random.Random(f"{seed} {generation} {number}")
        self.sequence = generation * journal.GENERATION
        self.journal = journal.Journal(folder / f"{generation}.{number}")
        self.durable_calls = durable_calls
        self.filler = filler

    def run(self):
        steps = [self.put] * 6 + [self.delete] * 2 + [self.many, self.drop, self.batch, self.batch]
        steps += [self.incr, self.own_incr, self.replace, self.replace, self.cas, self.last, self.last]
        steps += [self.put_expiring, self.many_expiring, self.expire, self.expire, self.persist, self.short]
        if self.filler:
            steps += [self.fill] * len(steps)
        try:
            while True:
                self.sequence += 1
                self.random.choice(steps)()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(3)

    def key(self):
        return journal.own_key(self.number, self.random.randrange(30))

    def size(self):
        return self.random.choice((0, 20, 20, 100, 100, 400, 600, 3000, self.random.choice((100, 20_000, 300_000))))

    def value(self, key, size):
        return journal.value(self.number, self.sequence, key, size)

    def call(self, operation, function, *args, **options):
        self.journal.note("do", self.sequence, *operation)
        result = function(*args, **options)
        self.journal.note("done", self.sequence, result)

    def put(self):
        key, size = self.key(), self.size()
        sync = True if self.durable_calls and self.random.random() < 0.05 else None
        self.call(("put", key, size, sync), self.store.put, key, self.value(key, size), sync=sync)

    def fill(self):
        key, size = journal.own_key(self.number, "filler"), self.random.randrange(self.filler // 2, self.filler)
        self.call(("put", key, size, None), self.store.put, key, self.value(key, size))

    def ttl(self):
        """In ms; nothing ends by it while the tests run."""
        return self.random.randrange(10_000_000, 2_000_000_000)

    def put_expiring(self):
        key, size, ttl = self.key(), self.size(), self.ttl()
        operation = ("put", key, size, None, ttl, journal.NOW)
        self.call(operation, self.store.put, key, self.value(key, size), ttl=ttl / 1000)

    def short(self):
        key, size = journal.short_key(self.number, self.random.randrange(10)), self.size()
        ttl = self.random.choice((1, 20, 300, 3000))
        operation = ("put", key, size, None, ttl, journal.NOW)
        self.call(operation, self.store.put, key, self.value(key, size), ttl=ttl / 1000)

    def many_expiring(self):
        items, ttl = self.some(10), self.ttl()
        operation = ("many", items, ttl, journal.NOW)
        self.call(operation, self.store.put_many, {key: self.value(key, size) for key, size in items}, ttl=ttl / 1000)

    def expire(self):
        key, ttl = self.key(), self.ttl()
        self.call(("expire", key, ttl, journal.NOW), self.store.expire, key, ttl / 1000)

    def persist(self):
        key = self.key()
        self.call(("persist", key), self.store.persist, key)

    def last(self):
        key, size = self.random.choice(journal.LAST), self.size()
        self.call(("last", key, size), self.store.put, key, journal.token(self.number, self.sequence, size))

    def delete(self):
        key = self.key()
        self.call(("delete", key), self.store.delete, key)

    def some(self, count):
        return [(key, self.size()) for key in {self.key() for _ in range(count)}]

    def many(self):
        items = self.some(10)
        self.call(("many", items), self.store.put_many, {key: self.value(key, size) for key, size in items})

    def drop(self):
        keys = list({self.key() for _ in range(5)})
        self.call(("drop", keys), self.store.delete_many, keys)

    def batch(self):
        puts = self.some(6)
        deletes = list({self.key() for _ in range(3)} - {key for key, _ in puts})
        size = self.size()
        token = journal.token(self.number, self.sequence, size)

        def write():
            with self.store.batch() as batch:
                for i, key in enumerate(journal.GROUP):
                    batch.put(key, token)
                    if i < len(puts):
                        batch.put(puts[i][0], self.value(*puts[i]))
                for key in deletes:
                    batch.delete(key)

        self.call(("batch", puts, deletes, size), write)

    def incr(self):
        self.call(("incr",), self.store.incr, journal.COUNT)

    def own_incr(self):
        self.call(("own_incr",), self.store.incr, journal.own_counter(self.number))

    def replace(self):
        key, size = self.key(), self.size()
        old = self.store.get(key)
        self.call(("replace", key, size), self.store.replace, key, self.value(key, size), expected=old)

    def cas(self):
        old = self.store.get(journal.CAS)
        new = b"%d" % (int(old or b"0") + 1)
        self.call(("cas",), self.store.replace, journal.CAS, new, expected=old)


class Checkpointer(threading.Thread):
    """Makes one checkpoint after the other, with random pauses."""

    def __init__(self, store, generation, seed, pause):
        super().__init__(daemon=True)
        self.store = store
        self.random = random.Random(f"{seed} {generation} checkpoints")
        self.pause = pause

    def run(self):
        try:
            while True:
                time.sleep(self.random.random() * self.pause)
                self.store.checkpoint()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(3)


def look(store):
    """What the judge wants to know: (items, expiries, the wall clock before and after it was read)."""
    began = journal.wall_clock()
    items = dict(store.items())
    expiries = {key: store._expiry_of(key) for key in items}
    return items, expiries, began, journal.wall_clock()


def main():
    path, folder, generation, seed, options, *plan = sys.argv[1:]
    folder, generation, options = Path(folder), int(generation), json.loads(options)
    plan = json.loads(plan[0]) if plan else {}
    print("opening", flush=True)
    store = pykv.open(path, **options)
    if not plan.get("lazy"):
        store._verify()
    found = folder / f"found.{generation}"
    with open(f"{found}.new", "wb") as file:
        pickle.dump((store.recovery, look(store)), file)
    os.rename(f"{found}.new", found)
    durable_calls = options["sync"] != "always"
    for number in range(journal.THREADS):
        Writer(store, folder, generation, number, seed, durable_calls, plan.get("filler", 0)).start()
    if "checkpoint_pause" in plan:
        Checkpointer(store, generation, seed, plan["checkpoint_pause"]).start()
    print("running", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
