"""The process that is killed (crash/victim.py): its threads' calls, each in a journal before it begins and after it
returned. With {"serve": true} as its plan every other thread goes through a server in this process. Half of them
only read: they go on while all writers wait for the disk.
"""

import json
import os
import random
import sys
import threading
import time
import traceback
from pathlib import Path

import pykv
from crash import journal

from .checker import Call
from .clients import KEYS, THREADS, ByServer, ByStore, Caller

READERS = 4


class Noted:
    """A thread's record in a journal."""

    def __init__(self, path):
        self.journal = journal.Journal(path)
        self.sequence = 0

    def do(self, client, kind, key, *args):
        self.sequence += 1
        self.journal.note("do", self.sequence, kind, key, args)
        result = client.call(kind, key, *args)
        self.journal.note("done", self.sequence, result)
        return result


def read(path, thread):
    """The calls of such a journal; the last may be one without an answer."""
    calls = []
    for what, _, time, *rest in journal.read(path):
        if what == "do":
            kind, key, args = rest
            calls.append(Call(thread, time, None, kind, key, tuple(args), None))
        else:
            calls[-1] = calls[-1]._replace(end=time, result=rest[0])
    return calls


def main():
    path, folder, generation, seed, options, plan = sys.argv[1:]
    folder, generation = Path(folder), int(generation)
    sys.setswitchinterval(1e-4)
    print("opening", flush=True)
    store = pykv.open(path, **json.loads(options))
    server = pykv.serve(store, port=0) if json.loads(plan).get("serve") else None

    def connect(number, rng):
        return ByServer(server.address, rng) if server is not None and number % 2 else ByStore(store, rng)

    def live(number):
        try:
            rng = random.Random(f"{seed} {generation} {number}")
            # Its number is its own in all lives: no value is written twice.
            record = Noted(folder / f"{generation}.{number}")
            caller = Caller(generation * THREADS + number, record, connect(number, rng), rng, number < READERS)
            for key in KEYS if number == 0 else ():
                caller.do("get", key)  # what the life before left behind
            while True:
                caller.step()
                if caller.reads_only:
                    time.sleep(0.0002)  # it would only fill its journal
        except BaseException:
            traceback.print_exc()
            os._exit(3)

    for number in range(THREADS):
        threading.Thread(target=live, args=(number,), daemon=True).start()
    print("running", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
