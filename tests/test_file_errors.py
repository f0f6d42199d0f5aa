"""Every system call on files fails, once or from then on, through the life of a store in Python.

The C tests do the same at the seam above (test_log_faults.c); here it is what lies below it, and
the extension. After each life the store is opened undisturbed and holds what was acknowledged, and
of the one write that a store failed with nothing or all. A copy that was acknowledged is whole. No
descriptor is left.

Every third call, with the errors in turn, and the sync modes after all of them; with --every-error, each call with
each of both.
"""

import os

import pytest

from conftest import python_environment
from shim import compiled, nth_environment, run_nth

DRIVER = """
import errno, faulthandler, shutil, sys, time
import pykv

MODES = ["always", "never"]
ERRORS = [errno.EIO, errno.ENOSPC, errno.EINTR, errno.EMFILE, errno.EACCES, errno.EROFS]
OPTIONS = {"checkpoint_log_ratio": None}
BIG = bytes(300_000)  # so that the log has to go on in other segments


def batch(store):
    with store.batch() as batch:
        batch["batch"] = "1"
        batch.put("long", BIG)
        batch.delete("a")


OPERATIONS = [  # each one commit, and what it does to a dict
    (lambda store: store.put("a", "1"), lambda model: model.update(a=b"1")),
    (lambda store: store.put("b", BIG), lambda model: model.update(b=BIG)),
    (lambda store: store.put_many({"c": "3", "d": BIG}),
     lambda model: model.update(c=b"3", d=BIG)),
    (batch, lambda model: (model.pop("a", None), model.update(batch=b"1", long=BIG))),
    (lambda store: store.incr("n"), lambda model: model.update(n=b"1")),
    (lambda store: store.put("expiring", "1", ttl=10_000),
     lambda model: model.update(expiring=b"1")),
    (lambda store: store.checkpoint(), None),
    (lambda store: store.delete("d"), lambda model: model.pop("d", None)),
    (lambda store: store.persist("expiring"), lambda model: None),
    (lambda store: store.put("e", BIG), lambda model: model.update(e=BIG)),
    (lambda store: store.clear(), lambda model: model.clear()),
    (lambda store: store.put("f", BIG), lambda model: model.update(f=BIG)),
    (lambda store: store.sync(), None),
    (lambda store: store.checkpoint(), None),
    (lambda store: store.put("g", "7"), lambda model: model.update(g=b"7")),
]


class Life:
    def __init__(self, folder, number, n, onward, mode):
        self.folder, self.number = folder, number
        self.n, self.onward = n, onward
        self.model, self.maybe, self.copies = {}, None, []
        self.options = {**OPTIONS, "sync": mode}

    def complain(self, what):
        name, mode = errno.errorcode.get(self.number), self.options["sync"]
        raise SystemExit(f"call {self.n}{' and on' * self.onward}, {name}, {mode}: {what}")

    def tried(self, call):
        # Whether it was done.  If not, the error is that of the call that failed.
        try:
            call()
            return True
        except OSError as error:
            if error.errno != self.number:
                self.complain(f"another error: {error!r}")
            self.error = error
        return False

    def open(self):
        self.store = pykv.open(self.folder + "/store", **self.options)

    def operate(self, change, apply):
        before = dict(self.model)
        if self.tried(lambda: change(self.store)):
            if apply is not None:
                apply(self.model)
            if self.maybe is not None and self.model != before:
                self.complain("a store that had failed acknowledged a write")
        elif isinstance(self.error, pykv.FailedError) and self.maybe is None:
            self.maybe = dict(self.model)
            if apply is not None:
                apply(self.maybe)
        self.tried(self.read)  # what is still in the checkpoint may be out of reach

    def read(self):
        if self.found(self.store) != self.model:
            self.complain("reads do not show what was acknowledged")

    @staticmethod
    def found(store):
        store._verify()
        return {key.decode(): value for key, value in store.items()}

    def run(self):
        for run, half in enumerate((OPERATIONS[:8], OPERATIONS[8:])):
            if not self.tried(self.open):
                return
            for operation in half:
                self.operate(*operation)
            if run == 1:
                self.tried(self.backup)
            closed = self.tried(self.store.close)
            if closed and self.maybe is not None:
                self.complain("a store that had failed closed as if nothing had been")
            if self.maybe is not None:
                break
        self.tried(lambda: pykv.check(self.folder + "/store"))
        self.tried(self.repair)
        if "/backup" in self.copies:
            self.tried(self.restore)

    def backup(self):
        self.store.backup(self.folder + "/backup")
        self.copies.append("/backup")

    def restore(self):
        pykv.restore(self.folder + "/backup", self.folder + "/restored")
        self.copies.append("/restored")

    def repair(self):
        if pykv.repair(self.folder + "/store", self.folder + "/repaired").ok:
            self.copies.append("/repaired")

    def judge(self):
        for name in ["/store", *self.copies]:
            with pykv.open(self.folder + name) as store:
                if self.found(store) not in (self.model, self.maybe):
                    self.complain(f"other contents in {name}: {sorted(self.found(store))}")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def live(n, number, onward, mode):
    # Whether the n-th call was made, and failed.
    folder = sys.argv[1]
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    life, before, failed = Life(folder, number, n, onward, mode), descriptors(), control[CALL_FAILED]
    control[CALL_ERRNO] = number
    control[CALL_ONWARD] = onward
    control[CALL_LEFT] = n
    try:
        life.run()
    finally:
        control[CALL_LEFT] = 0
    failed = control[CALL_FAILED] > failed
    life.store = None
    life.judge()
    if descriptors() != before:
        life.complain(f"{descriptors() - before} descriptors are left")
    if not failed and (life.maybe is not None or len(life.copies) != 3):
        life.complain("it was not disturbed, and is not well")
    return failed


lives, calls, slowest, (seed, step, turns) = 0, 0, 0, map(int, sys.argv[2:])
for onward in (0, 1):
    for turn in range(turns):
        n, hung = 1 + seed % step, 0
        while True:
            which, more = divmod(n // step + turn + seed, len(ERRORS))
            if turns > 1:
                which = turn // len(ERRORS)  # each error in each mode
            case = n, ERRORS[more], onward, MODES[which % len(MODES)]
            started, used = time.monotonic(), time.process_time()
            failed = live(*case)
            slowest = max(slowest, time.monotonic() - started)
            hung = hung + 1 if has_hung(started, used) else 0
            if hung == 3:  # what hangs does so again
                raise SystemExit(f"hangs: {case}")
            if not failed:
                break
            if not hung:
                n, lives = n + step, lives + 1
        calls = max(calls, n - 1)
faulthandler.cancel_dump_traceback_later()
print(f"# {calls} calls, {lives} lives, the longest of {slowest * 1000:.0f} ms")
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return compiled("nth.c", tmp_path_factory.mktemp("nth"))


def test_every_call_fails(request, library, tmp_path, quick_folder, seed):
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("another library is preloaded already")
    step, turns = (1, 12) if request.config.option.every_error else (3, 1)
    environment = python_environment(**nth_environment(library, tmp_path / "control"))
    arguments = [f"{quick_folder}/lives", *map(str, (seed, step, turns))]
    run_nth(DRIVER, arguments, environment, tmp_path)
