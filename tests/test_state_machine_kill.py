"""A store in a process of its own against a dict, by Hypothesis, with SIGKILL as one of the rules.

There is one client, and it waits for each answer: after a kill the store holds exactly the model.
One rule kills while a call is on its way: then the store holds the model with or without that call.
"""

import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule
from hypothesis.stateful import run_state_machine_as_test

from conftest import MODES, python_environment
from test_state_machine import ITEMS, KEYS, OPERATIONS, SYNC, VALUES, integer

SERVER = """
import pickle, struct, sys
import pykv

store = pykv.open(sys.argv[1], sync=sys.argv[2])


def batch(operations):
    with store.batch() as batch:
        for key, value in operations:
            batch.delete(key) if value is None else batch.put(key, value)


own = {"batch": batch, "items": lambda: dict(store.items()), "recovery": lambda: store.recovery, "len": lambda: len(store)}
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
while header := read(4):
    name, args, options = pickle.loads(read(*struct.unpack("<I", header)))
    try:
        answer = True, (own.get(name) or getattr(store, name))(*args, **options)
    except Exception as error:
        answer = False, (type(error).__name__, str(error))
    data = pickle.dumps(answer)
    write(struct.pack("<I", len(data)) + data)
    sys.stdout.buffer.flush()
"""


class RemoteError(Exception):
    pass


class Server:
    """The process with the store."""

    def __init__(self, path, mode):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=python_environment(),
            cwd=path.parent,
        )

    def send(self, name, *args, **options):
        data = pickle.dumps((name, args, options))
        self.process.stdin.write(struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()

    def call(self, name, *args, **options):
        self.send(name, *args, **options)
        header = self.process.stdout.read(4)
        assert len(header) == 4, f"the process with the store ended: {self.process.wait()}"
        good, answer = pickle.loads(self.process.stdout.read(*struct.unpack("<I", header)))
        if not good:
            raise RemoteError(*answer)
        return answer

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.end()
        assert self.process.returncode == -signal.SIGKILL

    def end(self):
        """Ends it in order: the interpreter's exit closes the store."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait(60)
        self.process.stdout.close()


class KilledNowAndThen(RuleBasedStateMachine):
    mode = "always"

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model = {}
        self.server = None
        self.open()

    def open(self):
        self.server = Server(self.folder / "store", self.mode)

    def check(self):
        assert self.server.call("items") == self.model
        assert self.server.call("len") == len(self.model)
        self.server.call("_verify")

    def teardown(self):
        try:
            self.server.kill()
            self.open()
            self.check()
            self.server.end()
            assert self.server.process.returncode == 0
            self.open()
            self.check()
            assert self.server.call("recovery")["clean"]
        finally:
            self.server.process.kill()
            self.server.end()
            shutil.rmtree(self.folder)

    def change(self, name, *args, **options):
        """What the call does to the model; (answer, model afterwards)."""
        model = dict(self.model)
        if name == "put":
            model[args[0]] = args[1]
            return None, model
        if name == "put_many":
            model.update(args[0])
            return None, model
        if name == "delete":
            return model.pop(args[0], None) is not None, model
        if name == "delete_many":
            return sum(model.pop(key, None) is not None for key in args[0]), model
        if name == "pop":
            return model.pop(args[0], None), model
        if name == "setdefault":
            return model.setdefault(*args), model
        if name == "clear":
            return None, {}
        if name == "replace":
            if model.get(args[0]) != options["expected"]:
                return False, model
            model[args[0]] = args[1]
            return True, model
        if name == "incr":
            before = integer(model.get(args[0], b"0"))
            if before is None:
                return RemoteError, model
            model[args[0]] = b"%d" % (before + args[1])
            return before + args[1], model
        assert name == "batch"
        for key, value in args[0]:
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        return None, model

    CALLS = st.one_of(
        st.tuples(st.just("put"), st.tuples(KEYS, VALUES), st.fixed_dictionaries({"sync": SYNC})),
        st.tuples(st.just("put_many"), st.tuples(ITEMS), st.fixed_dictionaries({"sync": SYNC})),
        st.tuples(st.just("delete"), st.tuples(KEYS), st.just({})),
        st.tuples(st.just("delete_many"), st.tuples(st.lists(KEYS, max_size=8)), st.just({})),
        st.tuples(st.just("pop"), st.tuples(KEYS, st.none()), st.just({})),
        st.tuples(st.just("setdefault"), st.tuples(KEYS, VALUES), st.just({})),
        st.tuples(st.just("clear"), st.just(()), st.just({})),
        st.tuples(
            st.just("replace"),
            st.tuples(KEYS, VALUES),
            st.fixed_dictionaries({"expected": st.one_of(st.none(), VALUES)}),
        ),
        st.tuples(st.just("incr"), st.tuples(KEYS, st.integers(-100, 100)), st.just({})),
        st.tuples(st.just("batch"), st.tuples(OPERATIONS), st.just({})),
    )

    @rule(calls=st.lists(CALLS, min_size=1, max_size=6))
    def answered(self, calls):
        for name, args, options in calls:
            answer, model = self.change(name, *args, **options)
            if answer is RemoteError:
                with pytest.raises(RemoteError, match="ValueError"):
                    self.server.call(name, *args, **options)
            else:
                assert self.server.call(name, *args, **options) == answer
            self.model = model

    @rule()
    def kill(self):
        self.server.kill()
        self.open()
        self.check()

    @rule(delays=st.lists(st.integers(10, 90), min_size=1, max_size=3))
    def kill_while_opening(self, delays):
        self.server.kill()
        for delay in delays:
            self.open()
            time.sleep(delay / 1000)
            self.server.kill()
        self.open()
        self.check()

    @rule(call=CALLS)
    def kill_during(self, call):
        name, args, options = call
        _, after = self.change(name, *args, **options)
        self.server.send(name, *args, **options)
        self.server.kill()
        self.open()
        found = self.server.call("items")
        assert found in (self.model, after)
        self.model = found

    @rule()
    def close(self):
        self.server.end()
        assert self.server.process.returncode == 0
        self.open()
        self.check()


@pytest.mark.parametrize("mode", MODES)
def test_killed_now_and_then(mode, seed):
    class Machine(KilledNowAndThen):
        pass

    Machine.mode = mode
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=15,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
