"""The worker, seen by who kills it."""

import json
import pickle
import re
import select
import signal
import subprocess
import sys

import pytest

import pykv
from conftest import python_environment

from . import worker


class Victim:
    """One worker process, from its start to its kill."""

    def __init__(self, store, folder, generation, seed, options, plan=None, environment=None, module="crash.worker"):
        self.folder = folder
        self.generation = generation
        command = [sys.executable, "-m", module, str(store), str(folder)]
        command += [str(generation), str(seed), json.dumps(options), json.dumps(plan or {})]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # `wait_for` selects: a line must not wait in a buffer of ours
            env=python_environment(**(environment or {})),
            cwd=folder,
        )

    def wait_for(self, word):
        """Until the worker has said it; whatever it says instead is a failure to open."""
        ready, _, _ = select.select([self.process.stdout], [], [], 300)
        line = self.process.stdout.readline() if ready else b"nothing for 300 s"
        if line.strip() != word:
            self.process.kill()
            pytest.fail(f"worker {self.generation} said {line!r}: {self.process.communicate()[1].decode()}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        _, err = self.process.communicate()
        if self.process.returncode != -signal.SIGKILL or err:
            pytest.fail(f"worker {self.generation} ended by itself ({self.process.returncode}): {err.decode()}")

    def end_without_power(self, running):
        """Kills it after its disk has gone: its calls fail, so it may have ended by itself, if it says nothing else."""
        self.process.kill()
        out, err = self.process.communicate()
        errors = set(re.findall(r"^[\w.]*(?:Error|Exception|Violation|Interrupt)(?=:|$)", err.decode(), re.MULTILINE))
        clean = errors <= {"pykv.StorageError", "pykv.FailedError"} and (errors or self.process.returncode < 0)
        if not running or not clean:
            pytest.fail(f"worker {self.generation} ended ({self.process.returncode}): {out.decode()}{err.decode()}")

    def ends_by_itself(self, seconds):
        """Waits for the moment that it was given to kill itself; False when it did not come so many seconds after the
        store was opened."""
        while self.process.stdout.readline() not in (b"running\n", b""):  # nothing more: it has ended
            pass
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        out, err = self.process.communicate()
        if self.process.returncode != -signal.SIGKILL or err:
            pytest.fail(f"worker {self.generation} ended ({self.process.returncode}): {out.decode()}{err.decode()}")
        return True

    def found(self):
        """(recovery, what `worker.look` answered) of this worker, or None when it had not got so far."""
        try:
            with open(self.folder / f"found.{self.generation}", "rb") as file:
                return pickle.load(file)
        except FileNotFoundError:
            return None


def clear_away(folder, generation):
    """What the worker has written for the judge, who has read it: a thousand of them fill a disk."""
    for pattern in (f"{generation}.*", f"found.{generation}", f"found.{generation}.new"):
        for path in folder.glob(pattern):
            path.unlink()


def look(judge, store, options, lossy=False):
    """Opens the store in this process, judges it, and closes it properly. Returns its recovery."""
    with pykv.open(store, **options) as db:
        db._verify()
        judge.look(*worker.look(db), lossy)
        return db.recovery
