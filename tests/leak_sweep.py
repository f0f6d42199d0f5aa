"""Every function of pykv/_core.pyi, called well and in every wrong way, on a store in every state: what stays behind?

    PYTHONMALLOC=malloc python -m leak_sweep FOLDER

CALLS has good arguments for each function; `test_leaks.py` demands an entry for each one of the stub. The wrong ways
follow from them: each argument left out, one too many, one that nobody knows, and each replaced by each of WRONG. What
they answer does not matter here; they must not leave memory, references, descriptors, threads or mappings.
"""

import ast
import contextlib
import ctypes
import gc
import os
import shutil
import sys
import warnings
from array import array
from pathlib import Path

import pykv
from pykv import _core

STUB = Path(pykv.__file__).with_name("_core.pyi")

# ---- What there is to call -------------------------------------------------------------------------


def stub():
    """{"Store.get": (names of positional parameters, of keyword-only ones), "Store.path": None: a property}."""
    found = {}

    def add(prefix, node):
        if any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
            found[prefix + node.name] = None
            return
        arguments = node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg != "self"]
        found[prefix + node.name] = names, [a.arg for a in arguments.kwonlyargs]

    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            add("", node)
        elif isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.FunctionDef):
                    add(f"{node.name}.", child)
    return found


class New:
    """An argument that is made anew for each call."""

    def __init__(self, make):
        self.make = make


def progress(done, total):
    pass


def failing(*arguments):
    raise ZeroDivisionError


class BadIterable:
    def __iter__(self):
        yield b"a", b"1"
        raise ZeroDivisionError


KEY, VALUE, DEFAULT, TTL = b"key" * 7, b"value" * 4000, object(), 12345.5
WRITE = {"sync": True}

CALLS = {
    "Store.__init__": {"path": None, "sync": "never", "sync_interval": 0.5, "read_only": False, "create": True}
    | {"preload": True, "max_memory": 1 << 30, "when_full": "evict", "checkpoint_log_min": 1 << 20}
    | {"checkpoint_log_ratio": 0.5, "gil": "auto"},
    "Store.get": {"key": KEY, "default": DEFAULT},
    "Store.put": {"key": KEY, "value": VALUE, "ttl": TTL} | WRITE,
    "Store.ttl": {"key": KEY},
    "Store.expire": {"key": KEY, "ttl": TTL} | WRITE,
    "Store.persist": {"key": KEY} | WRITE,
    "Store._expiry_of": {"key": KEY},
    "Store._expiry_after": {"ttl": TTL},
    "Store._clock": {},
    "Store.delete": {"key": KEY} | WRITE,
    "Store.get_many": {"keys": [KEY, "none", bytearray(KEY)]},
    "Store.put_many": {"items": {KEY: VALUE, "other": "v"}, "ttl": TTL} | WRITE,
    "Store.delete_many": {"keys": [KEY, "none"]} | WRITE,
    "Store._write": {"operations": {KEY: (VALUE, 2**45), b"n": None, b"small": 0, b"x": VALUE}} | WRITE,
    "Store.incr": {"key": b"n", "by": 2} | WRITE,
    "Store.replace": {"key": KEY, "value": VALUE, "expected": VALUE} | WRITE,
    "Store.setdefault": {"key": KEY, "default": VALUE},
    "Store.pop": {"key": KEY, "default": DEFAULT},
    "Store.popitem": {},
    "Store.clear": {},
    "Store.view": {"key": KEY},
    "Store.sync": {},
    "Store.checkpoint": {"progress": progress},
    "Store.backup": {"dest": "backup", "progress": progress},
    "Store.preload": {"progress": progress},
    "Store.stats": {},
    "Store._snapshot": {},
    "Store._verify": {},
    "Store.close": {},
    "Store.__len__": {},
    "Store.__contains__": {"key": KEY},
    "Store.__getitem__": {"key": KEY},
    "Store.__setitem__": {"key": KEY, "value": VALUE},
    "Store.__delitem__": {"key": KEY},
    "Store.__iter__": {},
    "Store.__reduce__": {},
    "Snapshot.get": {"key": KEY, "default": DEFAULT},
    "Snapshot.keys": {},
    "Snapshot.values": {},
    "Snapshot.items": {},
    "Snapshot._records": {},
    "Snapshot.__len__": {},
    "Snapshot.__contains__": {"key": KEY},
    "Snapshot.__getitem__": {"key": KEY},
    "Snapshot.__iter__": {},
    "_key_bytes": {"object": bytearray(KEY)},
    "_value_bytes": {"object": "value" * 100},
    "_check": {"path": "damaged", "problems": New(list), "progress": progress},
    "_repair": {"path": "damaged", "into": New(_core.Store), "problems": New(list), "suspects": New(list)}
    | {"progress": progress},
    "_own_methods": {"type": New(lambda: type("Own", (pykv.Store,), {}))},
    "Server.__init__": {"store": None, "host": "127.0.0.1", "port": 0, "unix": "socket", "threads": 1}
    | {"password": "secret", "tls_cert": None, "tls_key": None, "tls_ca": None, "debug_commands": True}
    | dict.fromkeys(("max_clients", "max_arguments", "idle_timeout", "request_timeout"), 1000)
    | dict.fromkeys(("max_bulk", "max_query_buffer", "max_query_buffers", "max_output_buffer"), 1 << 20)
    | dict.fromkeys(("max_unauthenticated_arguments", "max_unauthenticated_bulk"), 1000),
    "Server.stop": {"grace": 0.5},
    "Server.wait": {"timeout": 0.0},
    "Server._ask_to_stop": {},
    "Server._figures": {},
}

# Each takes the place of each argument in turn: other types, other values, objects that fail.
WRONG = [object(), None, True, False, 5, -1, 2**200, 1.5, float("nan"), "", "\ud800", "x\0y", "k" * 65536, b"none", bytearray(b"b"),
         memoryview(bytearray(20))[::2], [5], (b"a",), [(b"a", b"1"), (b"b",)], {5: 5}, {KEY: 5}, BadIterable(), failing,
         "nowhere/at/all"]  # fmt: skip

SLOW = {"Store.__init__", "Store.checkpoint", "Store.backup", "Store._verify", "_check", "_repair", "_own_methods"}
SLOW |= {"Server.__init__", "Server.stop"}

# Only in these states: it would change the state for the others.
SKIPPED = {"close": ("closed", "never", "forked"), "stop": ("closed", "never", "forked"), "clear": ("memory", "disk")}
SKIPPED |= {"__init__": ("memory", "disk", "closed", "running", "forked")}

# ---- What is measured --------------------------------------------------------------------------------


class Info(ctypes.Structure):
    FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


libc = ctypes.CDLL(None)
if hasattr(libc, "mallinfo2"):
    libc.mallinfo2.restype = Info


def watched(calls):
    """The objects whose references are counted: all arguments, what is in them, and what has no end."""
    objects = [None, True, False, NotImplemented, int, bytes, str, pykv.Store, _core.Store, _core.Server, *WRONG]
    for arguments in calls:
        for value in arguments.values():
            objects.append(value)
            if isinstance(value, (list, tuple)):
                objects.extend(value)
            elif isinstance(value, dict):
                objects.extend([*value, *value.values()])
    return list({id(each): each for each in objects}.values())


def memory():
    gc.collect()
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def figures(objects):
    mappings = Path("/proc/self/maps").read_text().count("\n")
    descriptors, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
    # (An array holds no references to small numbers, of which one may be among the objects.)
    return array("q", map(sys.getrefcount, objects)), (descriptors, threads), mappings


def leak(todo, objects, count):
    """What grows by one each time that todo() is called, as text; None: nothing does."""
    before = figures(objects)
    taken = memory()
    todo(count)
    taken = memory() - taken
    after = figures(objects)
    if taken > 12 * count:
        return f"{taken} bytes"
    for each, one, other in zip(objects, before[0], after[0], strict=True):
        if abs(other - one) * 2 >= count:
            return f"{other - one} references to {each!r:.60}"
    if after[1] > before[1]:
        return f"descriptors and threads: {before[1]}, then {after[1]}"
    if (after[2] - before[2]) * 2 >= count:
        return f"{after[2] - before[2]} mappings"
    return None


# ---- The calls ----------------------------------------------------------------------------------------


def ways(name, parameters):
    """(positional arguments, keywords) of the good call, and then of all the wrong ones."""
    if parameters is None:
        return
    positional, keywords = parameters
    good = CALLS[name]

    def call(arguments):
        return [arguments[p] for p in positional if p in arguments], {p: arguments[p] for p in keywords if p in arguments}

    yield call(good)
    for missing in good:
        yield call({p: v for p, v in good.items() if p != missing})
    args, named = call(good)
    yield [*args, DEFAULT], named
    yield args, {**named, "unknown": DEFAULT}
    yield args, {**named, **{p: good[p] for p in positional[:1]}}
    for parameter in good:
        for wrong in WRONG:
            yield call({**good, parameter: wrong})


def attempt(function, args, named):
    """Calls it, goes through what it gives, and closes what it opens: whether it worked."""
    args = [a.make() if isinstance(a, New) else a[:] if type(a) is list else a for a in args]
    try:
        result = function(*args, **named)
        if hasattr(result, "__next__"):
            next(result, None)
            for _ in result:
                pass
        elif isinstance(result, _core.Store):
            result.close()
        elif isinstance(result, _core.Server):
            result.stop(0.0)
    except SystemError:
        raise
    except Exception:
        return False
    else:
        return True
    finally:
        for each in args:
            if type(each) is _core.Store:  # a new one
                each.close()


class Sweep:
    def __init__(self, rounds):
        self.functions = stub()
        self.rounds = rounds
        self.calls = 0
        self.worked = set()
        self.leaks = []

    def measure(self, name, state, todo, fill, more):
        """todo() makes so many calls; when each of some rounds takes something, that is a leak."""
        few = max(3, self.rounds // 4) if name in SLOW else self.rounds
        objects = [*watched([CALLS.get(name, {})]), *more]

        def rounds(count):
            for _ in range(count):
                todo()
            fill()

        rounds(3)
        # What stays may grow for a while (tables, the interpreter's caches), but not for ever; and not by as much for
        # many rounds as for few.
        for again in range(12):
            count = few * (1 + again // 4)
            found = leak(rounds, objects, count)
            if found is None:
                return
        self.leaks.append(f"{name}, {state}: {found} after {count} rounds")

    def run(self, owner, thing, fill, state):
        """All functions whose names begin with owner, of the thing."""
        for name, parameters in self.functions.items():
            if name.rpartition(".")[0] != owner:
                continue
            method = name.rpartition(".")[2]
            if method in SKIPPED and not state.startswith(SKIPPED[method]):
                continue
            calls = list(ways(name, parameters))
            self.calls += max(1, len(calls))

            def todo(name=name, method=method, calls=calls, parameters=parameters):
                if parameters is None:
                    attempt(getattr, (thing, method), {})
                    attempt(setattr, (thing, method, DEFAULT), {})
                for number, (args, named) in enumerate(calls):
                    if attempt(getattr(thing, method), args, named) and number == 0:
                        self.worked.add(name)
                    if method == "backup":
                        for made in ("backup", "none", "b"):
                            shutil.rmtree(made, ignore_errors=True)

            self.measure(name, state, todo, fill, [thing])


def fill(store):
    with contextlib.suppress(pykv.Error):
        store.clear()
        store.put_many({KEY: VALUE, b"small": b"s", b"n": b"1", **{b"%d" % i: VALUE for i in range(20)}})


def damaged(folder):
    """A store with a checkpoint of which a block has changed."""
    with pykv.open(folder) as store:
        fill(store)
        store.put_many({str(i): "v" * 50 for i in range(2000)})
        store.checkpoint()
    [checkpoint] = Path(folder).glob("*.ckpt")
    content = bytearray(checkpoint.read_bytes())
    content[300:304] = b"????"
    checkpoint.write_bytes(content)
    return folder


def states():
    """(name, a store, whether it is filled again) for everything that a store can be."""
    for gil in ("auto", "release"):
        yield f"memory, {gil}", pykv.open(gil=gil), True
        yield f"disk, {gil}", pykv.open(f"disk {gil}", sync="never", checkpoint_log_ratio=None, gil=gil), True
    with pykv.open("read only") as store:
        fill(store)
    yield "read only", pykv.open("read only", read_only=True), False
    yield "full", pykv.open(max_memory=1000), False
    yield "damaged", pykv.open("damaged copy", checkpoint_log_ratio=None), False
    yield "closed", pykv.open(), False
    yield "never opened", _core.Store.__new__(_core.Store), False


def sweep_state(sweep, state, store, refill):
    if refill:
        fill(store)
    if state != "never opened":
        snapshot = store._snapshot()
        if state == "closed":
            store.close()
        sweep.run("Snapshot", snapshot, lambda: None, state)
        del snapshot  # what it keeps grows with each change
    sweep.run("Store", store, lambda: fill(store) if refill else None, state)


def sweep_rest(sweep):
    """The functions of the module, the two constructors, and the server."""
    sweep.run("", _core, lambda: None, "module")
    store = pykv.open()
    CALLS["Server.__init__"]["store"] = store
    for kind in (_core.Store, _core.Server):
        name = f"{kind.__name__}.__init__"
        calls = list(ways(name, sweep.functions[name]))
        sweep.calls += len(calls)

        def todo(name=name, kind=kind, calls=calls):
            for number, (args, named) in enumerate(calls):
                if attempt(kind, args, named) and number == 0:
                    sweep.worked.add(name)

        sweep.measure(name, "new", todo, lambda: None, [store])
    running, closed = _core.Server(store, host="127.0.0.1"), _core.Server(store, host="127.0.0.1")
    running._ask_to_stop()  # so that nobody waits
    closed.stop()
    servers = {"running": running, "closed": closed, "never started": _core.Server.__new__(_core.Server)}
    for state, server in servers.items():
        sweep.run("Server", server, lambda: None, state)
    return running


def main():
    if not hasattr(libc, "mallinfo2"):
        sys.exit(77)
    warnings.simplefilter("ignore")
    os.chdir(sys.argv[1])
    damaged("damaged")
    damaged("damaged copy")
    sweep = Sweep(int(sys.argv[2]))
    inherited = []
    for state, store, refill in states():
        sweep_state(sweep, state, store, refill)
        with contextlib.suppress(pykv.Error):
            inherited.append((store, store._snapshot()))
    server = sweep_rest(sweep)
    sweep.leaks += [f"{name}: the good call fails" for name in set(CALLS) - sweep.worked - {"Store.__reduce__"}]
    pid = os.fork()
    if pid == 0:
        sweep = Sweep(sweep.rounds)
        for store, snapshot in inherited:
            sweep.run("Store", store, lambda: None, "forked")
            sweep.run("Snapshot", snapshot, lambda: None, "forked")
        sweep.run("Server", server, lambda: None, "forked")
    print(*sweep.leaks, sep="\n")
    print(f"{sweep.calls} calls of {len(sweep.functions)} functions, {sweep.rounds} rounds", flush=True)
    if pid == 0:
        os._exit(bool(sweep.leaks))
    child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.exit(bool(sweep.leaks) or child)


if __name__ == "__main__":
    main()
