"""SIGKILL, and power cuts, in the middle of a checkpoint, of a rotation, of a recycling, of an opening.

A shim in the worker (shim/moment.c) ends it in the chosen call, while its other threads write. Each worker goes on with
what the one before it left. crash/judge.py says what must hold. `--kills 2500` are 1,000 kills and 500 power cuts.
"""

import collections
import os
import shutil

import pytest

from conftest import MODES
from crash.judge import Judge
from crash.moments import KINDS, MOMENTS, OPENING, RECYCLING
from crash.victim import Victim, clear_away, look
from shim import compiled

LIVES = 30  # kills of one store; then it is begun anew
PATIENCE = 10  # seconds until a moment is not waited for any more, on a machine that has other things to do
MISSES = 2  # moments that may not come, beside one for every other kill
SMALL, LARGE = 300_000, 1_500_000  # of what fills segments


class Campaign:
    """One store after the other, each killed again and again."""

    def __init__(self, folder, library, rng, seed, power):
        self.folder, self.library, self.rng, self.seed, self.power = folder, library, rng, seed, power
        self.came, self.missed = collections.Counter(), collections.Counter()
        self.judges, self.recoveries = [], []
        self.generation = self.lives = 0
        self.store = None
        self.waiting = {kind: [] for kind in KINDS}

    def choose(self, kind):
        """A moment of that kind; each comes as often as the others, but for what the store has to be like."""
        if not self.waiting[kind]:
            self.waiting[kind] = [moment for moment in MOMENTS if moment.kind == kind]
            self.rng.shuffle(self.waiting[kind])
        there = [moment for moment in self.waiting[kind] if self.has(moment.needs)]
        if not there:
            there = [moment for moment in MOMENTS if moment.kind == kind and not moment.needs]
        moment = self.rng.choice(there)
        if moment in self.waiting[kind]:
            self.waiting[kind].remove(moment)
        return moment

    def has(self, name):
        return not name or (self.store is not None and (self.store / name).exists())

    def begin(self):
        self.judge = Judge()
        self.judges.append(self.judge)
        self.store = self.folder / f"store.{len(self.judges)}"
        self.lives = 0
        self.lossy = False  # what was acknowledged in other modes than "always" may be lost in a power cut

    def end(self):
        if self.store is not None:
            self.recoveries.append(look(self.judge, self.store, {"sync": "always"}, self.lossy))
            again = look(self.judge, self.store, {"sync": "always", "preload": True})
            assert again["clean"] and again["bytes_cut"] == 0
            shutil.rmtree(self.store)
            self.store = None

    def plan(self, moment):
        plan = {"checkpoint_pause": moment.pause or self.rng.choice((0.001, 0.01, 0.1))}
        if moment.filler:
            # A store's segments grow: those that are recycled have the size of those to come, 64 MiB.
            plan["filler"] = LARGE if self.lives > 1 or moment.kind == RECYCLING else SMALL
        elif self.rng.random() < 0.2:
            plan["filler"] = SMALL // 3
        if self.rng.random() < 0.5:
            plan["lazy"] = True  # nothing but what the threads do loads the shards
        return plan

    def kill_at(self, moment):
        if self.store is None:
            self.begin()
        self.lives += 1
        self.generation += 1
        rng, generation = self.rng, self.generation
        options = {"sync": rng.choice(("always", *MODES) if self.power else MODES)}
        options |= {"checkpoint_log_min": 1 << 20, "checkpoint_log_ratio": rng.choice((0.1, 1.0, 3.0))}
        if moment.pause:
            options["checkpoint_log_ratio"] = None  # none but those that are asked for
        options["preload"] = rng.random() < 0.2
        environment = {
            # Behind what is there: the sanitizer's library, say, must come first.
            "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {self.library}".strip(),
            "PYKV_MOMENT_UNDER": str(self.store),
            "PYKV_MOMENT": f"{moment.when} {rng.randint(0, moment.skip)} {moment.steps}",
        }
        if self.power:
            environment["PYKV_MOMENT_CUT"] = str(rng.getrandbits(60))
        victim = Victim(self.store, self.folder, generation, self.seed, options, self.plan(moment), environment)
        came = victim.ends_by_itself(PATIENCE / 3 if moment.kind == OPENING else PATIENCE)
        (self.came if came else self.missed)[moment] += 1
        shutil.rmtree(f"{self.store}.kept", ignore_errors=True)
        try:
            found = victim.found()
            if found is not None:
                self.recoveries.append(found[0])
                # What the worker found: as the end before this one left it.
                self.judge.look(*found[1], self.lossy)
                self.judge.read(self.folder, generation)
                self.lossy = self.power and came and options["sync"] != "always"
            if rng.random() < 0.1:
                self.recoveries.append(look(self.judge, self.store, {"sync": "always"}, self.lossy))
                self.lossy = False
        except BaseException:
            print(f"worker {generation}, life {self.lives} of {self.store}, ended at {moment}")
            raise
        clear_away(self.folder, generation)
        if self.lives == LIVES:
            self.end()

    def report(self):
        what = "power cuts" if self.power else "kills"
        print(f"{self.came.total()} {what} at chosen moments, {self.missed.total()} when the moment did not come")
        for kind in KINDS:
            here = {moment: count for moment, count in self.came.items() if moment.kind == kind}
            print(f"  in the middle of {kind}: {sum(here.values())}, at {len(here)} different moments")
            for moment in (moment for moment in MOMENTS if moment.kind == kind):
                missed = f", {self.missed[moment]} missed" if self.missed[moment] else ""
                print(f"    {self.came[moment]:4} {moment.when} {moment.steps}{missed}")
        print(
            f"  {sum(judge.acknowledged for judge in self.judges)} calls acknowledged, 0 lost, 0 refusals in "
            f"{len(self.recoveries)} openings, {sum(r['checkpoint_items'] > 0 for r in self.recoveries)} of them from "
            f"a checkpoint; {sum(r['bytes_cut'] > 0 for r in self.recoveries)} torn tails cut; of the calls that were "
            f"not answered {sum(j.open_there for j in self.judges)} were there and "
            f"{sum(j.open_absent for j in self.judges)} were not"
        )


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return compiled("moment.c", tmp_path_factory.mktemp("moment"))


@pytest.mark.parametrize("power, share", [(False, 0.4), (True, 0.2)], ids=["kill", "power cut"])
def test_the_end_comes_at_a_chosen_moment(tmp_path, library, rng, seed, request, power, share):
    kills = max(1, round(request.config.option.kills * share))
    campaign = Campaign(tmp_path.resolve(), library, rng, seed, power)
    # A moment that does not come is made up for by another; a few may always miss, however few kills there are.
    while campaign.came.total() < kills and campaign.missed.total() <= kills / 2 + MISSES:
        campaign.kill_at(campaign.choose(KINDS[campaign.generation % len(KINDS)]))
    campaign.end()
    campaign.report()
    assert campaign.came.total() == kills, "the moments do not come: what is tested is something else"
