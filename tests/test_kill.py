"""SIGKILL at any moment loses nothing that was acknowledged, in any sync mode.

`--kills N` says how often to kill in all; `crash/judge.py` says what must hold after each.
"""

import json
import pickle
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

import pykv
from conftest import MODES, python_environment
from crash.judge import Judge

# The share of --kills of each mode's carried-on store; the rest goes to fresh stores.
CARRIED_ON_SHARE = 0.22
# A carried-on store is begun anew after so many kills: without checkpoints its log only grows.
LIVES = 40


class Victim:
    """One worker process, from its start to its kill."""

    def __init__(self, store, folder, generation, seed, options):
        self.folder = folder
        self.generation = generation
        command = [sys.executable, "-m", "crash.worker", str(store), str(folder)]
        command += [str(generation), str(seed), json.dumps(options)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # `wait_for` selects: a line must not wait in a buffer of ours
            env=python_environment(),
            cwd=folder,
        )

    def wait_for(self, word):
        """Until the worker has said it; whatever it says instead is a failure to open."""
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if ready else b"nothing for 60 s"
        if line.strip() != word:
            self.process.kill()
            pytest.fail(f"worker {self.generation} said {line!r}: {self.process.communicate()[1].decode()}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        _, err = self.process.communicate()
        if self.process.returncode != -signal.SIGKILL or err:
            pytest.fail(f"worker {self.generation} ended by itself ({self.process.returncode}): {err.decode()}")

    def found(self):
        """(recovery, items) as this worker found them, or None when it had not got so far."""
        try:
            with open(self.folder / f"found.{self.generation}", "rb") as file:
                return pickle.load(file)
        except FileNotFoundError:
            return None


def live_and_die(victim, rng, opening_seconds):
    """Kills the worker at a random moment. Returns how long its opening took, when it came so far."""
    victim.wait_for(b"opening")
    begin = time.monotonic()
    if rng.random() < 0.3:
        time.sleep(rng.random() * 1.5 * opening_seconds)
        victim.kill()
        return opening_seconds
    victim.wait_for(b"running")
    opening_seconds = time.monotonic() - begin
    time.sleep(0.4 * rng.random() ** 2)
    victim.kill()
    return opening_seconds


def clear_away(folder, generation):
    """What the worker has written for the judge, who has read it: a thousand of them fill a disk."""
    for path in [*folder.glob(f"{generation}.*"), folder / f"found.{generation}"]:
        path.unlink(missing_ok=True)


def look(judge, store, options):
    """Opens the store in this process, judges it, and closes it properly. Returns its recovery."""
    with pykv.open(store, **options) as db:
        db._verify()
        judge.look(dict(db.items()))
        return db.recovery


def report(kills, during_opening, judges, recoveries):
    acknowledged = sum(judge.acknowledged for judge in judges)
    print(
        f"{kills} kills, {during_opening} of them while the store was being opened; "
        f"{acknowledged} calls acknowledged, 0 lost; of the calls that were not answered "
        f"{sum(j.open_there for j in judges)} were there and {sum(j.open_absent for j in judges)} were not; "
        f"{sum(r['bytes_cut'] > 0 for r in recoveries)} torn tails cut"
    )
    assert acknowledged > 0 or kills < 5, "nothing was tested: no call was acknowledged"


@pytest.mark.parametrize("mode", MODES)
def test_a_store_carried_on_over_kills(tmp_path, rng, seed, request, mode):
    kills = max(1, round(request.config.option.kills * CARRIED_ON_SHARE))
    options = {"sync": mode}
    during_opening, judges, recoveries = 0, [], []
    opening_seconds = 0.02
    for generation in range(1, kills + 1):
        if generation % LIVES == 1:
            judge = Judge()
            judges.append(judge)
            store = tmp_path / f"store.{len(judges)}"
        victim = Victim(store, tmp_path, generation, seed, options)
        opening_seconds = live_and_die(victim, rng, opening_seconds)
        found = victim.found()
        if found is None:
            during_opening += 1
        else:
            recoveries.append(found[0])
            judge.look(found[1])  # what the worker found: as the kill before this one left it
            judge.read(tmp_path, generation)
        clear_away(tmp_path, generation)
        if rng.random() < 0.25 or generation == kills or generation % LIVES == 0:
            recoveries.append(look(judge, store, options))
        if generation % LIVES == 0:
            shutil.rmtree(store)
    report(kills, during_opening, judges, recoveries)


def test_fresh_stores(tmp_path, rng, seed, request):
    """Killed in its first life, often while it is being created."""
    kills = request.config.option.kills
    kills = max(3, kills - 3 * round(kills * CARRIED_ON_SHARE))
    during_opening, judges, recoveries = 0, [], []
    opening_seconds = 0.02
    for generation in range(1, kills + 1):
        options = {"sync": MODES[generation % len(MODES)]}
        store = tmp_path / f"store.{generation}"
        judge = Judge()
        judges.append(judge)
        victim = Victim(store, tmp_path, generation, seed, options)
        opening_seconds = live_and_die(victim, rng, opening_seconds)
        during_opening += victim.found() is None
        judge.read(tmp_path, generation)
        recoveries.append(look(judge, store, options))
        # A second look finds the same, after a clean close and with nothing to cut.
        again = look(judge, store, options)
        assert again["clean"] and again["bytes_cut"] == 0
        clear_away(tmp_path, generation)
        shutil.rmtree(store)
    report(kills, during_opening, judges, recoveries)
