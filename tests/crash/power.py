"""Cuts the power of a machine on which a store is written to, again and again; the judge looks each time.

    python -m crash.power FOLDER CUTS SEED

The worker's journals are outside of the machine, and so are those of the control group (control.py).
"""

import collections
import contextlib
import math
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from apart import SKIP
from conftest import python_environment

from .control import FULL, MODES, OFF
from .judge import Judge
from .machine import CUTS, DATA, DISK, Machine, sync_all
from .victim import Victim, clear_away, look

LIVES = 12  # power cuts of one store; then it is begun anew, with small segments
CONTROL_LOSES = 0.95  # of the cycles, at least, or nothing is shown
FILLER = 60_000


class Control:
    """The control group of one cycle."""

    def __init__(self, databases, folder):
        self.databases, self.folder = databases, folder
        for mode in MODES:
            for old in (*databases.glob(f"{mode}*"), *folder.glob(mode)):
                old.unlink()
            with contextlib.closing(sqlite3.connect(databases / mode)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("CREATE TABLE items (number INTEGER PRIMARY KEY, payload BLOB)")
        sync_all(databases)  # what both find when they begin is there in any case
        command = [sys.executable, "-m", "crash.control", str(databases), str(folder)]
        quiet = subprocess.DEVNULL  # whoever waits for the end of our output must not wait for it
        self.process = subprocess.Popen(command, env=python_environment(), stdout=quiet, stderr=quiet)

    def wait(self):
        """Until each has committed something."""
        deadline = time.monotonic() + 60
        while not all(self.acknowledged(mode) for mode in MODES):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("the control group does not commit anything")
            time.sleep(0.005)

    def end(self):
        self.process.kill()
        self.process.wait()

    def acknowledged(self, mode, moment=math.inf):
        """How many commits had returned at that moment."""
        try:
            lines = (self.folder / mode).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return 0
        return sum(int(line.split()[1]) < moment for line in lines)

    def lost(self, mode, moment):
        """(commits that had returned by then and are lost, those that are not)."""
        acknowledged = self.acknowledged(mode, moment)
        try:
            with contextlib.closing(sqlite3.connect(self.databases / mode)) as connection:
                ((kept,),) = connection.execute("SELECT coalesce(max(number), 0) FROM items")
        except sqlite3.DatabaseError:  # not even readable
            kept = 0
        return max(0, acknowledged - kept), min(acknowledged, kept)


class Campaign:
    def __init__(self, machine, folder, rng, seed):
        self.machine, self.folder, self.rng, self.seed = machine, folder, rng, seed
        self.cycles = collections.Counter()  # by what was cut, and what else there is to tell
        self.control_lost = {mode: collections.Counter() for mode in MODES}
        self.judges, self.recoveries = [], []
        self.generation = 0
        self.opening_seconds = 0.05

    def begin_store(self):
        self.store = self.machine.root / f"store.{len(self.judges)}"
        self.judge = Judge()
        self.judges.append(self.judge)

    def end_store(self):
        self.look()
        again = look(self.judge, self.store, {"sync": "always", "preload": True})
        assert again["clean"] and again["bytes_cut"] == 0
        shutil.rmtree(self.store)

    def look(self):
        self.recoveries.append(look(self.judge, self.store, {"sync": "always"}, lossy=True))

    def cycle(self):
        """From one power cut to the next; ends with the machine on."""
        self.generation += 1
        rng = self.rng
        options = {
            "sync": rng.choice(("always", "always", "always", "interval", "never")),
            "checkpoint_log_min": 1 << 20,
            "checkpoint_log_ratio": rng.choice((0.1, 1.0, 3.0)),
            "preload": rng.random() < 0.2,
        }
        plan = {"checkpoint_pause": rng.choice((0.001, 0.01, 0.1)), "lazy": rng.random() < 0.5}
        if rng.random() < 0.6:
            plan["filler"] = FILLER
        how, data = rng.choice(CUTS), rng.choice(DATA)
        control = Control(self.machine.root, self.folder)
        control.wait()
        victim = Victim(self.store, self.folder, self.generation, self.seed, options, plan)
        self.live(victim)
        running = victim.process.poll() is None
        moment = self.machine.cut(how, rng)
        victim.end_without_power(running)
        control.end()
        self.machine.stop()
        self.machine.start(data)
        self.cycles[how] += 1
        self.count_control(control, moment)
        self.count_store(victim, options["sync"] == "always", moment)
        clear_away(self.folder, self.generation)

    def live(self, victim):
        victim.wait_for(b"opening")
        begin = time.monotonic()
        if self.rng.random() < 0.25:
            time.sleep(self.rng.random() * 1.5 * self.opening_seconds)
            return
        victim.wait_for(b"running")
        self.opening_seconds = time.monotonic() - begin
        time.sleep(0.5 * self.rng.random() ** 2)

    def count_control(self, control, moment):
        for mode in MODES:
            lost, kept = control.lost(mode, moment)
            self.control_lost[mode].update(cycles=lost > 0, lost=lost, kept=kept)

    def count_store(self, victim, always, moment):
        found = victim.found()
        self.cycles["while the store was opened"] += found is None
        if found is not None:
            self.recoveries.append(found[0])
            self.judge.look(*found[1], lossy=True)  # as the cut before this one left it
            self.judge.read(self.folder, self.generation, moment, always)
        if self.generation % LIVES == 0:
            self.end_store()
            self.begin_store()
        elif self.rng.random() < 0.25:
            self.look()

    def report(self):
        cuts = sum(self.cycles[how] for how in CUTS)
        print(
            f"{cuts} power cuts ({', '.join(f'{self.cycles[how]} {how}' for how in CUTS)}), "
            f"{self.cycles['while the store was opened']} of them while the store was opened: "
            f"{sum(judge.acknowledged for judge in self.judges)} calls acknowledged, 0 lost; "
            f"{sum(judge.lost for judge in self.judges)} more lost in modes that allow it, the latest ones; 0 refusals "
            f"in {len(self.recoveries)} openings, {sum(r['checkpoint_items'] > 0 for r in self.recoveries)} of "
            f"them from a checkpoint; {sum(r['bytes_cut'] > 0 for r in self.recoveries)} torn tails cut"
        )
        for mode, count in self.control_lost.items():
            print(
                f"SQLite with synchronous={mode}: lost commits in {count['cycles']} of {cuts} power cuts, "
                f"{count['lost']} commits in all, and kept {count['kept']}"
            )
        if self.control_lost[FULL]["cycles"] > 0:
            sys.exit("SQLite lost what it had synced: not a machine that a store could be safe on")
        if self.control_lost[OFF]["cycles"] < CONTROL_LOSES * cuts:
            sys.exit("SQLite loses too little without syncs: these power cuts prove nothing")


def main():
    folder, cuts, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rng = random.Random(f"{seed} power")
    try:
        machine = Machine(folder)
        machine.start()
        machine.cut(DISK, rng)
        machine.stop()
        machine.start()
    except OSError as error:
        print(f"cannot cut the power here: {error}")
        sys.exit(SKIP)
    campaign = Campaign(machine, folder, rng, seed)
    campaign.begin_store()
    for _ in range(cuts):
        try:
            campaign.cycle()
        except BaseException:
            print(f"in cycle {campaign.generation}")
            raise
    campaign.end_store()
    campaign.report()
    machine.stop()


if __name__ == "__main__":
    main()
