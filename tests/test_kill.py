"""SIGKILL at any moment loses nothing that was acknowledged, in any sync mode.

`--kills N` says how often to kill in all; `crash/judge.py` says what must hold after each.
"""

import shutil
import time

import pytest

from conftest import MODES
from crash.judge import Judge
from crash.victim import Victim, clear_away, look

# The share of --kills of each mode's carried-on store; the rest goes to fresh stores.
CARRIED_ON_SHARE = 0.22
# A carried-on store is begun anew after so many kills: these write too little for checkpoints, so its log only grows.
LIVES = 40


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
            judge.look(*found[1])  # what the worker found: as the kill before this one left it
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
