"""Eight threads on a few hot keys: whatever they are answered, some order of their calls explains it.

The calls are recorded with their times, and histories/checker.py looks for the order: through a Store, through the
server, and both at once; and over kills and power cuts, where what somebody has read is there afterwards.
`--histories N` records N of each kind, and four times as many over power cuts, which are short.
"""

import itertools
import os
import random
import shutil
import sys
import time

import pytest

import pykv
from conftest import MODES
from crash import journal
from crash.victim import Victim, clear_away
from histories import checker, worker
from histories.checker import Call, NotLinearizable, TooWide, check, check_key, run
from histories.clients import GROUP, KEYS, PARTS, THREADS, ByServer, ByStore, Memory, record
from shim import compiled

STEPS = 1000  # of each thread

# ---- The checker, on histories made by hand ----------------------------------------------------------


def history(*lines):
    """Calls of one key from lines: (start, end, kind, arguments..., answer); end None: it never returned."""
    return [
        Call(number, start, end, kind, "key", tuple(rest[:-1]), rest[-1])
        for number, (start, end, kind, *rest) in enumerate(lines)
    ]


LINEARIZABLE = {
    "one after the other": [
        (0, 1, "put", "a", None),
        (2, 3, "get", "a"),
        (4, 5, "delete", True),
        (6, 7, "get", None),
    ],
    "a read during a write sees it": [(0, 9, "put", "a", None), (1, 2, "get", "a"), (3, 4, "get", "a")],
    "a read during a write does not": [(0, 9, "put", "a", None), (1, 2, "get", None), (3, 4, "get", "a")],
    "writes in either order": [(0, 9, "put", "a", None), (0, 9, "put", "b", None), (10, 11, "get", "a")],
    "a read that begins when the write ends": [(0, 5, "put", "a", None), (5, 6, "get", None)],
    "one compare-and-set of two": [
        (0, 1, "put", "a", None),
        (2, 9, "replace", "b", "a", True),
        (2, 9, "replace", "c", "a", False),
        (10, 11, "get", "b"),
    ],
    "a failed one, before": [(0, 9, "replace", "b", "a", False), (1, 2, "put", "a", None), (3, 4, "get", "a")],
    "counted by two": [(0, 9, "incr", 2, 5), (0, 9, "incr", 3, 3), (10, 11, "get", "5")],
    "two pops, one value": [(0, 1, "put", "a", None), (2, 9, "pop", None), (3, 8, "pop", "a")],
    "setdefault loses": [(0, 9, "setdefault", "a", "b"), (0, 9, "setdefault", "b", "b"), (10, 11, "get", "b")],
    "a swap": [(0, 1, "put", "a", None), (2, 3, "swap", "b", "a"), (4, 5, "get", "b")],
    "no answer, no effect": [(0, None, "put", "a", None), (1, 2, "get", None), (3, 4, "get", None)],
    "no answer, a late effect": [(0, None, "put", "a", None), (1, 2, "get", None), (3, 4, "get", "a")],
    "no answer, before another": [(0, None, "delete", None), (1, 9, "put", "a", None), (10, 11, "get", "a")],
}

NOT_LINEARIZABLE = {
    "a stale read": [(0, 1, "put", "a", None), (2, 3, "put", "b", None), (4, 5, "get", "a")],
    "back in time": [(0, 9, "put", "a", None), (1, 2, "get", "a"), (3, 4, "get", None)],
    "readers of two orders": [
        (0, 1, "put", "a", None),
        (0, 1, "put", "b", None),
        (2, 3, "get", "a"),
        (4, 5, "get", "b"),
    ],
    "a lost update": [(0, 1, "put", "a", None), (2, 3, "get", None)],
    "an update lost to one that was decided before": [
        (0, 1, "put", "a", None),
        (2, 3, "put", "b", None),
        (4, 5, "replace", "c", "a", True),
    ],
    "read before it was written": [(0, 1, "get", "a"), (2, 3, "put", "a", None)],
    "two compare-and-sets succeed": [
        (0, 1, "put", "a", None),
        (2, 9, "replace", "b", "a", True),
        (2, 9, "replace", "c", "a", True),
    ],
    "a compare-and-set that fails for nothing": [(0, 1, "put", "a", None), (2, 3, "replace", "b", "a", False)],
    "an incr that is not atomic": [(0, 9, "incr", 1, 1), (0, 9, "incr", 1, 1)],
    "a number that was lost": [(0, 9, "incr", 1, 1), (0, 9, "incr", 1, 2), (10, 11, "get", "1")],
    "popped twice": [(0, 1, "put", "a", None), (2, 9, "pop", "a"), (3, 8, "pop", "a")],
    "deleted twice": [(0, 1, "put", "a", None), (2, 9, "delete", True), (3, 8, "delete", True)],
    "two defaults": [(0, 9, "setdefault", "a", "a"), (0, 9, "setdefault", "b", "b")],
    "two swaps with one before": [(0, 9, "swap", "a", None), (0, 9, "swap", "b", None)],
    "no answer, and undone": [(0, None, "put", "a", None), (1, 2, "get", "a"), (3, 4, "get", None)],
    "no answer, before it began": [(0, 1, "get", "a"), (2, None, "put", "a", None)],
}


@pytest.mark.parametrize("name", LINEARIZABLE)
def test_linearizable(name):
    check_key("key", history(*LINEARIZABLE[name]))


@pytest.mark.parametrize("name", NOT_LINEARIZABLE)
def test_not_linearizable(name):
    with pytest.raises(NotLinearizable, match="no order of these"):
        check_key("key", history(*NOT_LINEARIZABLE[name]))


def test_what_a_crash_leaves():
    calls = history((0, None, "put", "a", None), (20, 21, "get", None), (22, 23, "get", None))
    check_key("key", calls, crashes=[10])
    # What had no effect at the crash has none later.
    calls = history((0, None, "put", "a", None), (20, 21, "get", None), (22, 23, "get", "a"))
    with pytest.raises(NotLinearizable):
        check_key("key", calls, crashes=[10])
    # What was read before is there later.
    calls = history((0, None, "put", "a", None), (1, 2, "get", "a"), (20, 21, "get", None))
    with pytest.raises(NotLinearizable, match="the process ended"):
        check_key("key", calls, crashes=[10])
    # It may be followed by another of that time.
    both = (0, None, "put", "a", None), (0, None, "put", "b", None)
    calls = history(*both, (1, 2, "get", "a"), (20, 21, "get", "b"))
    check_key("key", calls, crashes=[10])


CRASH = 5.5


def brute_force(calls):
    """Tries every order, of all that were answered and any of the others."""
    answered = [call for call in calls if call.end is not None]
    others = [call for call in calls if call.end is None]
    for count in range(len(others) + 1):
        for some in itertools.combinations(others, count):
            if any(explains(order) for order in itertools.permutations((*answered, *some))):
                return True
    return False


def explains(order):
    if any((b.end or CRASH) < a.start for a, b in itertools.combinations(order, 2)):
        return False
    state = None
    for call in order:
        state, result = run(call.kind, call.args, state)
        if call.end is not None and result != call.result:
            return False
    return True


def random_history(rng):
    """Few calls with overlapping times, whose answers come from an order that may contradict the times. In some,
    those that are under way at CRASH have no answer. Gives (calls, crashes)."""
    crashes = [CRASH] if rng.random() < 0.4 else []
    times = []
    for _ in range(rng.randint(2, 5)):
        start = rng.randrange(12)
        times.append((start, start + rng.randint(1, 6)))
    times.sort(key=lambda time: rng.uniform(*time) if rng.random() < 0.6 else rng.random() * 12)
    counted = rng.random() < 0.3
    calls, state = [], None
    for number, (start, end) in enumerate(times):
        more = ("incr",) if counted else ("swap", "setdefault", "replace")
        kind = rng.choice(("get", "put", "delete", "pop", *more))
        args = ()
        if kind in ("put", "swap", "setdefault"):
            args = (f"{number + 1}0",)
        elif kind == "incr":
            args = (1,)
        elif kind == "replace":
            args = (f"{number}r", rng.choice([state, None, "10"]))
        state, result = run(kind, args, state)
        if kind == "get" and rng.random() < 0.1:
            result = rng.choice([None, "10", "20"])
        cut = bool(crashes) and start < CRASH < end
        calls.append(Call(number, start, None if cut else end, kind, "key", args, None if cut else result))
    rng.shuffle(calls)
    return calls, crashes


def test_the_checker_agrees_with_trying_every_order(rng):
    right = wrong = 0
    for _ in range(3000):
        calls, crashes = random_history(rng)
        if brute_force(calls):
            right += 1
            check_key("key", calls, crashes)
        else:
            wrong += 1
            with pytest.raises(NotLinearizable):
                check_key("key", calls, crashes)
    print(f"{right} linearizable, {wrong} not")
    assert right > 300 and wrong > 300


def test_the_report_is_the_smallest_window():
    calls = []
    for i in range(100):
        calls += [(10 * i, 10 * i + 9, "put", f"v{i}", None), (10 * i + 1, 10 * i + 5, "get", f"v{i}")]
    calls += [(2000, 2001, "put", "new", None), (2002, 2003, "get", "v99"), (2004, 2005, "get", "new")]
    with pytest.raises(NotLinearizable) as failure:
        check_key("key", history(*calls))
    lines = str(failure.value).splitlines()
    assert "these 2 calls" in lines[0] and "whatever it held before" in lines[0]
    assert "put('new')" in lines[2] and "get() -> 'v99'   <- not explained" in lines[3] and len(lines) == 4


def test_the_report_tells_when_it_takes_all_of_it():
    with pytest.raises(NotLinearizable, match="when it is not there at first"):
        check_key("key", history((0, 1, "get", "a")))


def test_the_search_is_bounded(monkeypatch):
    monkeypatch.setattr(checker, "LIMIT", 100)
    calls = [(0, 9, "put", f"v{i}", None) for i in range(12)]
    with pytest.raises(TooWide, match="12 calls under way"):
        check_key("key", history(*calls))


# ---- The recorder, on stores that break the promise ---------------------------------------------------


class CountsInTwoSteps(ByStore):
    def call(self, kind, key, *args):
        if kind != "incr":
            return super().call(kind, key, *args)
        number = int(self.store.get(key, b"0")) + args[0]
        time.sleep(0.0001)
        self.store.put(key, str(number))
        return number


class ReadsWhatWas(ByStore):
    before = None

    def call(self, kind, key, *args):
        result = super().call(kind, key, *args)
        if kind == "get" and key == "r0":
            result, self.before = self.before, result
        return result


class ComparesThenSets(ByStore):
    def call(self, kind, key, *args):
        if kind != "replace" or key == GROUP:
            return super().call(kind, key, *args)
        if super().call("get", key) != args[1]:
            return False
        time.sleep(0.0001)
        super().call("put", key, args[0])
        return True


class WritesOneByOne(ByStore):
    def group_put(self, value):
        for part in PARTS:
            self.store.put(part, value)
            time.sleep(0.0001)


@pytest.mark.parametrize("broken", [CountsInTwoSteps, ReadsWhatWas, ComparesThenSets, WritesOneByOne])
def test_a_broken_store_is_found(open_store, seed, broken):
    store = open_store()
    with pytest.raises(NotLinearizable, match="seen by half" if broken is WritesOneByOne else "no order of these"):
        check(record(lambda _, rng: broken(store, rng), 300, seed))


# ---- Real histories ------------------------------------------------------------------------------------


@pytest.fixture
def often():
    """Threads of Python take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


KINDS = {
    "always": {"sync": "always"},
    "interval": {"sync": "interval", "sync_interval": 0.01},
    "memory": {},
    "memory-release": {"gil": "release"},
}


def tell(name, reports):
    calls, overlapping = (sum(getattr(report, what) for report in reports) for what in ("calls", "overlapping"))
    print(
        f"{name}: {len(reports)} histories of {calls} calls, {overlapping} of them while another was under way on "
        f"their key; at most {max(report.widest for report in reports)} configurations"
    )
    assert overlapping > 0, "nothing was tested: no call overlapped another one"


@pytest.mark.parametrize("who", ["threads", "clients", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_histories(tmp_path, open_store, rng, seed, request, often, kind, who):
    if who != "threads" and not hasattr(pykv, "serve"):
        pytest.skip("this build has no server")
    if who == "clients" and kind == "memory-release":
        pytest.skip("no thread of Python uses the store")
    reports = []
    for number in range(request.config.option.histories):
        path = None if kind.startswith("memory") else tmp_path / f"store.{number}"
        store = open_store(path, **KINDS[kind])
        server = None if who == "threads" else pykv.serve(store, port=0, threads=rng.randint(1, 3))

        def connect(thread, rng, store=store, server=server):
            by_store = server is None or (who == "both" and thread % 2)
            return ByStore(store, rng) if by_store else ByServer(server.address, rng)

        try:
            calls = record(connect, STEPS, f"{seed} {kind} {who} {number}")
        finally:
            if server is not None:
                server.stop()
        reports.append(check(calls))
        store._verify()
        store.close()
    tell(f"{kind}, {who}", reports)


# ---- Over the ends of processes ------------------------------------------------------------------------

LIVES = 3  # of one store
MOMENTS = ("before write log", "half write log", "before sync log", "before sync log", "after sync log")
PATIENCE = 30  # seconds until a moment is not waited for any more


def last_look(store, options):
    """What is there in the end, as calls of one more thread."""
    with pykv.open(store, **options) as db:
        db._verify()
        memory = Memory("after")
        client = ByStore(db, random.Random(0))
        for key in KEYS:
            memory.do(client, "get", key)
        return memory.calls


def lives_of_a_store(folder, number, seed, options, serve, end, environment=None):
    """The history of a store over its LIVES: (calls, moments of the ends). `end` waits for the end of a victim."""
    store = folder / f"store.{number}"
    calls, crashes = [], []
    for generation in range(1, LIVES + 1):
        victim = Victim(
            store, folder, generation, f"{seed} {number}", options, {"serve": serve},
            environment and environment(store), module="histories.worker",
        )  # fmt: skip
        end(victim)
        crashes.append(time.monotonic_ns())
        for thread in range(THREADS):
            calls += worker.read(folder / f"{generation}.{thread}", f"{thread} of life {generation}")
        clear_away(folder, generation)
        shutil.rmtree(f"{store}.kept", ignore_errors=True)
    calls += last_look(store, options)
    shutil.rmtree(store)
    return calls, crashes


def tell_of_ends(name, reports, ends, unanswered):
    tell(name, reports)
    print(f"  over {ends} ends of a process; {unanswered} calls had no answer then")


@pytest.mark.parametrize("mode", MODES)
def test_histories_over_kills(tmp_path, rng, seed, request, mode):
    def kill(victim):
        victim.wait_for(b"opening")
        victim.wait_for(b"running")
        journals = [victim.folder / f"{victim.generation}.{thread}" for thread in range(THREADS)]
        while any(len(journal.read(path)) < 10 for path in journals) and victim.process.poll() is None:
            time.sleep(0.005)
        time.sleep(0.05 + 0.2 * rng.random() ** 2)
        victim.kill()

    reports, unanswered = [], 0
    for number in range(request.config.option.histories):
        serve = hasattr(pykv, "serve") and rng.random() < 0.5
        calls, crashes = lives_of_a_store(tmp_path, number, seed, {"sync": mode}, serve, kill)
        reports.append(check(calls, crashes))
        unanswered += sum(call.end is None for call in calls)
    tell_of_ends(f"{mode}, killed", reports, LIVES * len(reports), unanswered)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return compiled("moment.c", tmp_path_factory.mktemp("moment"))


@pytest.mark.parametrize("serve", [False, True], ids=["threads", "both"])
def test_histories_over_power_cuts(tmp_path, library, rng, seed, request, serve):
    """Writers wait for a slow disk, readers read, then the power goes: nobody had read what is lost."""
    if serve and not hasattr(pykv, "serve"):
        pytest.skip("this build has no server")
    folder = tmp_path.resolve()
    came = []

    def environment(store):
        when, step = rng.choice(MOMENTS).split(" ", 1)
        return {
            # Behind what is there: the sanitizer's library, say, must come first.
            "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {library}".strip(),
            "PYKV_MOMENT_UNDER": str(store),
            "PYKV_MOMENT": f"{when} {rng.randint(3, 25)} {step}",
            "PYKV_MOMENT_CUT": str(rng.getrandbits(60)),
            "PYKV_MOMENT_WAIT": "30",
        }

    def end(victim):
        came.append(victim.ends_by_itself(PATIENCE))

    reports, unanswered = [], 0
    for number in range(4 * request.config.option.histories):
        calls, crashes = lives_of_a_store(folder, number, seed, {"sync": "always"}, serve, end, environment)
        reports.append(check(calls, crashes))
        unanswered += sum(call.end is None for call in calls)
    name = f"always, {'both' if serve else 'threads'}, {sum(came)} power cuts"
    tell_of_ends(name, reports, LIVES * len(reports), unanswered)
    assert sum(came) >= len(came) / 2, "the moments do not come: what is tested is something else"
