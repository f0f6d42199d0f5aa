"""The process that is killed: THREADS threads write to one store until the end comes.

    python -m crash.worker STORE FOLDER GENERATION SEED OPTIONS

Says "opening" and "running" on standard output. Before it writes, it leaves what it found in the
store in FOLDER/found.GENERATION, whole or not at all; its journals are FOLDER/GENERATION.THREAD.
"""

import json
import os
import pickle
import random
import sys
import threading
from pathlib import Path

import pykv

from . import journal


class Writer(threading.Thread):
    def __init__(self, store, folder, generation, number, seed, durable_calls):
        super().__init__(daemon=True)
        self.store = store
        self.number = number
        self.random = random.Random(f"{seed} {generation} {number}")
        self.sequence = generation * journal.GENERATION
        self.journal = journal.Journal(folder / f"{generation}.{number}")
        self.durable_calls = durable_calls

    def run(self):
        steps = [self.put] * 6 + [self.delete] * 2 + [self.many, self.drop, self.batch, self.batch]
        steps += [self.incr, self.own_incr, self.replace, self.replace, self.cas, self.last, self.last]
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


def main():
    path, folder, generation, seed, options = sys.argv[1:]
    folder, generation, options = Path(folder), int(generation), json.loads(options)
    print("opening", flush=True)
    store = pykv.open(path, **options)
    store._verify()
    found = folder / f"found.{generation}"
    with open(f"{found}.new", "wb") as file:
        pickle.dump((store.recovery, dict(store.items())), file)
    os.rename(f"{found}.new", found)
    durable_calls = options["sync"] != "always"
    for number in range(journal.THREADS):
        Writer(store, folder, generation, number, seed, durable_calls).start()
    print("running", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
