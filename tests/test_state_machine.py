"""A store against a dict, by Hypothesis: any sequence of calls, with reopening as one of them; also
on a server."""

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test

import pykv
from conftest import MODES, SERVERS

KEYS = st.one_of(
    st.sampled_from([b"", b"a", b"b", b"c", b"n", b"\x00", b"a\x00", b"k" * 300]), st.binary(max_size=3)
)
SIZES = st.sampled_from([0, 1, 10, 100, 495, 496, 497, 4000, 70_000])
VALUES = st.one_of(
    st.binary(max_size=20),
    st.integers(-20, 20).map(lambda n: b"%d" % n),
    st.builds(lambda size, byte: bytes([byte]) * size, SIZES, st.integers(0, 255)),
)
ITEMS = st.lists(st.tuples(KEYS, VALUES), max_size=12)
OPERATIONS = st.lists(st.tuples(KEYS, st.one_of(st.none(), VALUES)), max_size=12)
SYNC = st.sampled_from([None, None, None, True])


def integer(value):
    """What incr makes of a stored value, or None: 64 bits in decimal, without leading zeros."""
    try:
        number = int(value)
    except ValueError:
        return None
    return number if b"%d" % number == value and -(2**63) <= number < 2**63 else None


class AgainstADict(RuleBasedStateMachine):
    """`model` is what the store must hold, wherever that is."""

    def __init__(self):
        super().__init__()
        self.model = {}
        self.open()

    def open(self):
        """Sets `store`, an empty one."""
        raise NotImplementedError

    def teardown(self):
        assert self.store == self.model

    @rule(key=KEYS, value=VALUES, sync=SYNC)
    def put(self, key, value, sync):
        self.store.put(key, value, sync=sync)
        self.model[key] = value

    @rule(key=KEYS)
    def get(self, key):
        assert self.store.get(key) == self.model.get(key)
        assert (key in self.store) == (key in self.model)
        if key in self.model:
            assert self.store[key] == self.store.view(key) == self.model[key]
        else:
            with pytest.raises(KeyError):
                self.store[key]

    @rule(keys=st.lists(KEYS, max_size=10))
    def get_many(self, keys):
        assert self.store.get_many(keys) == [self.model.get(key) for key in keys]

    @rule(key=KEYS, sync=SYNC)
    def delete(self, key, sync):
        assert self.store.delete(key, sync=sync) is (self.model.pop(key, None) is not None)

    @rule(items=ITEMS, sync=SYNC)
    def put_many(self, items, sync):
        self.store.put_many(items, sync=sync)
        self.model.update(items)

    @rule(keys=st.lists(KEYS, max_size=10))
    def delete_many(self, keys):
        there = {key for key in keys if key in self.model}
        assert self.store.delete_many(keys) == len(there)
        for key in there:
            del self.model[key]

    @rule(operations=OPERATIONS, fail=st.booleans())
    def batch(self, operations, fail):
        try:
            with self.store.batch() as batch:
                for key, value in operations:
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
                if fail:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            return
        for key, value in operations:
            if value is None:
                self.model.pop(key, None)
            else:
                self.model[key] = value

    @rule(key=KEYS, by=st.one_of(st.integers(-5, 5), st.integers(-(2**63), 2**63 - 1)))
    def incr(self, key, by):
        before = integer(self.model.get(key, b"0"))
        if before is None:
            with pytest.raises((ValueError, OverflowError)):
                self.store.incr(key, by)
        elif not -(2**63) <= before + by < 2**63:
            with pytest.raises(OverflowError):
                self.store.incr(key, by)
        else:
            assert self.store.incr(key, by) == before + by
            self.model[key] = b"%d" % (before + by)

    @rule(key=KEYS, value=VALUES, other=st.one_of(st.none(), VALUES), right=st.booleans())
    def replace(self, key, value, other, right):
        expected = self.model.get(key) if right else other
        did = self.store.replace(key, value, expected=expected)
        assert did is (expected == self.model.get(key))
        if did:
            self.model[key] = value

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key, value):
        assert self.store.setdefault(key, value) == self.model.setdefault(key, value)

    @rule(key=KEYS)
    def pop(self, key):
        assert self.store.pop(key, None) == self.model.pop(key, None)

    @rule()
    def popitem(self):
        if self.model:
            key, value = self.store.popitem()
            assert self.model.pop(key) == value
        else:
            with pytest.raises(KeyError):
                self.store.popitem()

    @rule()
    def clear(self):
        self.store.clear()
        self.model.clear()

    @rule(start=st.integers(0, 1000), count=st.integers(100, 3000))
    def grow(self, start, count):
        items = {b"grown %d" % i: b"%d" % (i * 7) for i in range(start, start + count)}
        self.store.put_many(items)
        self.model.update(items)

    @rule()
    def walk(self):
        assert dict(self.store.items()) == self.model
        assert sorted(self.store) == sorted(self.model)
        assert sorted(self.store.values()) == sorted(self.model.values())

    @rule()
    def sync(self):
        self.store.sync()

    @invariant()
    def same_size(self):
        assert len(self.store) == len(self.model)


class Embedded(AgainstADict):
    """A snapshot is kept with the model of its moment."""

    snapshots = Bundle("snapshots")
    options = {}
    on_disk = False

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp()) if self.on_disk else None
        self.lives = 0
        super().__init__()

    def open(self):
        self.lives += 1
        self.store = pykv.open(self.folder / "store" if self.on_disk else None, **self.options)

    def teardown(self):
        try:
            self.store._verify()
            super().teardown()
            self.store.close()
            if self.on_disk:
                self.open()
                super().teardown()
                self.store.close()
        finally:
            self.store.close()
            if self.on_disk:
                shutil.rmtree(self.folder)

    @rule(target=snapshots)
    def take_snapshot(self):
        return self.store.items(), dict(self.model), self.lives

    def check_snapshot(self, snapshot):
        items, model, life = snapshot
        if life == self.lives:
            assert len(items) == len(model)
            assert dict(items) == model
        else:
            with pytest.raises(pykv.ClosedError):
                dict(items)

    @rule(snapshot=snapshots)
    def look_at_snapshot(self, snapshot):
        self.check_snapshot(snapshot)

    @rule(snapshot=consumes(snapshots))
    def drop_snapshot(self, snapshot):
        self.check_snapshot(snapshot)

    @rule()
    def verify(self):
        self.store._verify()

    @precondition(lambda self: self.on_disk)
    @rule()
    def reopen(self):
        self.store.close()
        self.open()
        assert self.store == self.model
        assert self.store.recovery["clean"] and self.store.recovery["bytes_cut"] == 0


def run(machine, examples):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("gil", ["auto", "release"])
def test_in_memory(gil, seed):
    class Machine(Embedded):
        options = {"gil": gil}

    run(Machine, 60)


@pytest.mark.parametrize("mode", MODES)
def test_on_disk(mode, seed):
    class Machine(Embedded):
        options = {"sync": mode}
        on_disk = True

    run(Machine, 40)


@pytest.mark.parametrize("kind", SERVERS)
def test_on_a_server(kind, connect_to, seed):
    store = connect_to(kind)

    class Machine(AgainstADict):
        def open(self):
            self.store = store
            store.clear()

    run(Machine, 40)
