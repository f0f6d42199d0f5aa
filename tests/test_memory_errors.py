"""Every request for memory fails, once or from then on, in every call of pykv: what the extension
asks Python for, and what the core asks for.

MemoryError, or the right answer; the store is as it was or as it should be; and nothing is left
behind. The calls are those of test_leaks.py and test_upkeep_leaks.py, the server's, and some with
objects that nobody else has.
"""

import os
import re

import pytest
import test_leaks
import test_upkeep_leaks

from conftest import MALLOC, python_environment
from shim import compiled, nth_environment, run_nth

DRIVER = """
import collections, errno, faulthandler, sysconfig, time

# Which key is taken; whether the time has come; nobody is told.
STATE_IS_OPEN = {"popitem", "expired", "thread"}

# CPython's own: a tuple that cannot grow forgets what it has.
LEAKS_IN_PYTHON = {"get_many generator", "delete_many generator"}

served = pykv.serve(store, port=0)


def fresh(i):
    # Objects that only the call has, of kinds that need memory to be converted.
    kinds = [f"k\u00e9{i}", bytearray(b"key %d" % i), memoryview(bytearray(b"k %d" % i * 50))]
    return kinds[i % 3]


def mixed(i):
    return [fresh(i), None, (fresh(i), 2**47), 2**47][i % 4]


def fresh_dict(what):
    return {f"k\u00e9{i}": what(i) for i in range(8)}


CALLS.update({
    "fresh pairs": lambda: store.put_many([(fresh(i), fresh(i + 1)) for i in range(6)]),
    "fresh dict": lambda: store.put_many(fresh_dict(fresh), ttl=50),
    "fresh mapping": lambda: store.put_many(collections.OrderedDict(fresh_dict(fresh))),
    "fresh deletes": lambda: store.delete_many([fresh(i) for i in range(6)]),
    "fresh keys": lambda: store.get_many([fresh(i) for i in range(40)]),
    "fresh _write": lambda: store._write(fresh_dict(mixed)),
    "fresh put": lambda: [store.put(fresh(i), fresh(i + 1), ttl=50) for i in range(3)],
    "fresh get": lambda: [(store.get(fresh(i)), fresh(i) in store) for i in range(3)],
    "fresh expiry": lambda: [store._expiry_of(fresh(i)) for i in range(3)],
    "fresh view": lambda: store.view(bytearray(b"big")).nbytes,
    "fresh replace": lambda: [store.replace(fresh(i), "v", expected=fresh(i)) for i in range(3)],
    "fresh setdefault": lambda: [store.setdefault(fresh(i), fresh(i + 1)) for i in range(3)],
    "fresh pop": lambda: [store.pop(fresh(i), None) for i in range(3)],
    "fresh incr": lambda: [store.incr(fresh(i), 2**40) for i in range(3)],
    "fresh expire": lambda: [store.expire(fresh(i), 5) for i in range(3)],
    "fresh persist": lambda: [store.persist(fresh(i)) for i in range(3)],
    "large popitem": lambda: (store.clear(), store.put("k", big), store.popitem()),
    "large walk": lambda: len(list(store.items())[0]),
    "serve": lambda: pykv.serve(store, port=0, threads=2, password="p").stop(),
    "serve at no place": lambda: raises(
        OSError, lambda: pykv.serve(store, host=None, unix="/none/s")
    ),
    "figures": lambda: (served._figures(), served.port, served.running, repr(served)),
})

watched = [big, store, closed, pykv_like, served]
if not sysconfig.get_config_var("Py_GIL_DISABLED"):  # there threads count references to types for themselves
    watched += [pykv.Store, pykv.Store.__base__, bytes, dict]
unraisable = []
sys.unraisablehook = lambda what: unraisable.append(repr(what.exc_value)[:200])


def references():
    return [sys.getrefcount(each) for each in watched]


def reset():
    store.clear()
    fill()


def state():
    return dict(store.items())


def attempt(call, n, onward):
    # (exception, result).  Nothing here needs memory while there is none.
    failure = result = None
    control[MEMORY_ONWARD] = onward
    control[MEMORY_LEFT] = n
    try:
        result = call()
    except BaseException as error:
        control[MEMORY_LEFT] = 0
        failure = error
    control[MEMORY_LEFT] = 0
    return failure, result


def is_of_memory(error):
    # EAGAIN is what the system says of a thread for which it has no memory.
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN):
        return True
    # CPython's own: there is no room for the frame of a function that is called back.
    text = str(error)
    return isinstance(error, SystemError) and text.startswith("<function ") and "NULL" in text


def tidy():
    reset()
    sys._clear_type_cache()  # it keeps names
    gc.collect()


def commits():
    return store.stats()["commits"]


class Sweep:
    def __init__(self, name, call, onward):
        self.name, self.call, self.onward, self.n = name, call, onward, 1
        self.attempts = 0
        self.result, self.before, self.after, self.is_one = self.undisturbed()
        time.sleep(0.002)
        if self.undisturbed()[0] != self.result or " at 0x" in self.result:
            self.result = None  # figures, times, objects: another each time

    def undisturbed(self):
        reset()
        before, made = state(), commits()
        failure, result = attempt(self.call, 0, 0)
        if failure is not None:
            raise failure
        is_one = path is not None and commits() - made <= 1
        return repr(result), before, state(), is_one and self.name not in STATE_IS_OPEN

    def complain(self, what):
        problems.append(f"{self.name}, request {self.n}{' and on' * self.onward}: {what}")

    def judge(self, failure, result, fired):
        if failure is not None and not (fired and is_of_memory(failure)):
            self.complain(repr(failure)[:300])
        if failure is None and self.result is not None and repr(result) != self.result:
            self.complain(f"{result!r:.100} instead of {self.result:.100}")
        store._verify()
        if self.is_one:
            now = state()
            if now != self.before and now != self.after:
                self.complain("the store is neither as before nor as after")
            elif failure is None and now != self.after:
                self.complain("nothing was said, and it is not done")

    def once(self):
        # Whether the request was made and failed.  More than once: caches fill, too, and what hangs does so again.
        hung = 0
        for _ in range(8):
            tidy()
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            clock, used = time.monotonic(), time.process_time()
            before, blocks, failed = references(), control[BLOCKS], control[MEMORY_FAILED]
            failure, result = attempt(self.call, self.n, self.onward)
            fired = control[MEMORY_FAILED] > failed
            late = has_hung(clock, used)
            hung += late
            self.attempts += 1
            self.judge(failure, result, fired)
            failure = result = None
            tidy()
            after, more = references(), control[BLOCKS] - blocks
            if hung == 3:
                break
            if not late and after == before and (more <= 0 or self.name in LEAKS_IN_PYTHON):
                return fired
        changes = [b - a for a, b in zip(before, after)]
        self.complain("hangs" if hung == 3 else f"{more} blocks more, references {changes}")
        return fired

    def run(self):
        while self.once() and len(problems) < 40:
            self.n += 1
        return self.n - 1


problems, attempts, requests, slowest = [], 0, 0, 0
gc.collect()
gc.freeze()
for name, call in CALLS.items():
    for onward in (0, 1):
        started = time.monotonic()
        sweep = Sweep(name, call, onward)
        requests += sweep.run()
        attempts += sweep.attempts
        slowest = max(slowest, (time.monotonic() - started) / sweep.attempts)
faulthandler.cancel_dump_traceback_later()
print(f"# {len(CALLS)} calls x 2 modes, {requests} requests, {attempts} attempts")
print(f"# the slowest call took {slowest * 1000:.1f} ms on the average")
problems += [what for what in unraisable if "MemoryError" not in what and "ENOMEM" not in what]
served.stop()
last = state()
store.close()
if path is not None:
    with pykv.open(path) as store:
        assert dict(store.items()) == last
        store._verify()
print(*problems, sep="\\n")
sys.exit(bool(problems))
"""


def source_of(calls):
    head = test_leaks.MEASURE.split("leaks = []")[0]
    if calls == "upkeep":
        upkeep = test_upkeep_leaks.CALLS
        head = re.sub(r"^CALLS = \{.*?^\}\n", lambda match: upkeep, head, flags=re.M | re.S)
    return head + DRIVER


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return compiled("nth.c", tmp_path_factory.mktemp("nth"))


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("calls", ["ordinary", "upkeep"])
def test_every_request_fails(library, tmp_path, quick_folder, calls, place):
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("the heap is somebody else's already")
    options = "{'sync': 'never', 'checkpoint_log_ratio': None}" if place == "disk" else "{}"
    arguments = [f"{quick_folder}/store" if place == "disk" else "", options, 1]
    environment = python_environment(
        **nth_environment(library, tmp_path / "control"),
        **MALLOC,
        TMPDIR=quick_folder,
    )
    run_nth(source_of(calls), [*map(str, arguments)], environment, tmp_path)
