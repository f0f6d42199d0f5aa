"""Compares what a reopened store holds with the journals of the worker that was killed.

What must hold (a thread has at most one call that was not answered: its *open* one):

 1. Own keys: a thread's keys are as its answered calls left them, or as those and its open one did.
    So every acknowledged write is there, what is found is a prefix of the thread's calls, and a call
    on several keys is there whole or not at all.
 2. Group: the keys that batches write together hold one token. If a thread's own keys say that its
    open batch did not happen, that token is not found either.
 3. Shared keys: what is found was written by a call that happened, and no call that happened began
    after that one had ended: it would have overwritten it.
 4. Counters: an answer is given once, answers are in the order of the calls, and the counter has
    the number of calls that happened: all answered ones, and of the open ones some.
 5. A key expires when its last call said: a ttl after some moment of the call, or never. Whatever has expired is
    absent, and nothing else for that reason; opening the store moves no expiry.
 6. Nothing else is in the store.

The judge can see the store after each kill, or only after several: open calls then stay open.
"""

from . import journal

NEVER = float("inf")
CLOCKS_MS = 3  # how far two readings of clocks, each rounded, are apart


class Call:
    def __init__(self, thread, sequence, start, operation):
        self.thread = thread
        self.sequence = sequence
        self.start = start
        self.operation = operation
        self.end = NEVER
        self.result = None
        self.happened = False  # answered, or found in the store
        self.refuted = False  # open, and its own keys are as if it had not happened

    @property
    def kind(self):
        return self.operation[0]

    def own_changes(self, before):
        """What the call did to its thread's own keys: {key: value, or None for deleted}."""
        kind, *args = self.operation

        def value(key, size):
            return journal.value(self.thread, self.sequence, key, size)

        if kind in ("put", "replace"):
            return {args[0]: value(args[0], args[1])}
        if kind == "delete":
            return {args[0]: None}
        if kind == "many":
            return {key: value(key, size) for key, size in args[0]}
        if kind == "drop":
            return dict.fromkeys(args[0])
        if kind == "batch":
            return {key: value(key, size) for key, size in args[0]} | dict.fromkeys(args[1])
        if kind == "own_incr":
            key = journal.own_counter(self.thread)
            return {key: b"%d" % (int(before.get(key, b"0")) + 1)}
        return {}

    def own_expiries(self, before):
        """What it did to their expiry: {key: (earliest, latest), or None for never}."""
        kind, *args = self.operation
        if kind == "expire":
            return {args[0]: self.due(*args[1:])} if args[0] in before else {}
        if kind == "persist":
            return {args[0]: None}
        timed = args[3:] if kind == "put" else args[1:] if kind == "many" else []
        due = self.due(*timed) if timed else None
        return dict.fromkeys(self.own_changes(before), due) if kind != "own_incr" else {}

    def due(self, ttl, now):
        return now + ttl, now + ttl + (self.end - self.start) / 1e6 + CLOCKS_MS

    @property
    def token(self):
        return journal.token(self.thread, self.sequence, self.operation[-1])

    def expected_result(self, before):
        """(True, the only right answer), or (False, None) when the call's answer depends on others."""
        kind, *args = self.operation
        if kind in ("delete", "expire", "persist"):
            return True, args[0] in before
        if kind == "drop":
            return True, sum(key in before for key in args[0])
        if kind == "replace":
            return True, True
        if kind == "own_incr":
            return True, int(before.get(journal.own_counter(self.thread), b"0")) + 1
        if kind in ("put", "many", "batch", "last"):
            return True, None
        return False, None


class Violation(AssertionError):
    """What is found breaks the promise."""


class Register:
    """A key, or a group of keys written together, that any thread sets to its token."""

    def __init__(self, keys):
        self.keys = keys
        self.calls = {}  # token: call
        self.base = None  # the token found last time, before any of the calls

    def check(self, found):
        values = {found.get(key) for key in self.keys}
        if len(values) != 1:
            yield f"a batch is there by half: {self.keys} hold {[shorten(v) for v in values]}"
            return
        (value,) = values
        if value == self.base and value not in self.calls:
            end, what = -1, "what was there before"
        elif value in self.calls:
            call = self.calls[value]
            if call.refuted:
                yield f"half of a batch is there: the token of {describe(call)} without its own keys"
            call.happened = True
            end, what = call.end, describe(call)
        else:
            yield f"never written, or long overwritten: {self.keys[0]} = {shorten(value)}"
            return
        for call in self.calls.values():
            if call.happened and call.start > end:
                yield f"lost: {describe(call)} on {self.keys[0]}, which has the older {what}"
        self.base = value
        self.calls.clear()


class Counter:
    """A key that any thread counts up by one."""

    def __init__(self, key):
        self.key = key
        self.base = 0
        self.calls = []

    def check(self, found):
        answered = [call for call in self.calls if call.end != NEVER and call.result is not False]
        still_open = sum(call.end == NEVER for call in self.calls)
        number = int(found.get(self.key, b"0"))
        low, high = self.base + len(answered), self.base + len(answered) + still_open
        if not low <= number <= high:
            yield f"{self.key} is {number}; with every answered call, and no other, {low} to {high}"
        results = [call.result for call in answered if call.result is not True]
        if len(set(results)) != len(results):
            yield f"{self.key}: one number was answered twice"
        if any(not self.base < result <= number for result in results):
            yield f"{self.key}: an answer is outside of {self.base + 1} to {number}"
        latest = -1
        for call in sorted(answered, key=lambda c: c.result):
            if call.result is not True:
                if call.end < latest:
                    yield f"{self.key}: answers are out of order at {describe(call)}"
                latest = max(latest, call.start)
        self.base = number
        self.calls.clear()


class State:
    """A thread's own keys: {key: value}, and {key: (earliest, latest)} of those that expire."""

    def __init__(self, values=(), due=()):
        self.values = dict(values)
        self.due = dict(due)

    def apply(self, call):
        expiries = call.own_expiries(self.values)
        for key, value in call.own_changes(self.values).items():
            set_or_remove(self.values, key, value)
        for key, due in expiries.items():
            set_or_remove(self.due, key, due)

    def copy(self):
        return State(self.values, self.due)

    def __eq__(self, other):
        return self.values == other.values and self.due == other.due

    def without_expired(self, found, ended):
        """As it was when the look ended, which did not find what had expired."""
        gone = {key for key, due in self.due.items() if key not in found and due[0] <= ended}
        return {key: value for key, value in self.values.items() if key not in gone}

    def wrong_expiries(self, found, expiries):
        """Of the keys that are found with this state's values."""
        if expiries is None:
            return
        for key, value in found.items():
            if self.values.get(key) == value and expiries.get(key) is not None:
                low, high = self.due.get(key, (0, 0))
                if not low <= expiries[key] <= high:
                    yield f"{key} expires at {expiries[key]} and not at {low} to {high}"


class Judge:
    def __init__(self):
        self.own = [State() for _ in range(journal.THREADS)]
        self.open = [[] for _ in range(journal.THREADS)]  # calls without an answer, by thread
        self.registers = {key: Register((key,)) for key in journal.LAST}
        self.registers["group"] = Register(journal.GROUP)
        self.counters = {"incr": Counter(journal.COUNT), "cas": Counter(journal.CAS)}
        self.acknowledged = 0
        self.open_there = 0
        self.open_absent = 0

    def read(self, folder, generation):
        """Takes in the journals of one worker. Returns the number of acknowledged calls."""
        before = self.acknowledged
        for thread in range(journal.THREADS):
            self.take(thread, journal.read(folder / f"{generation}.{thread}"))
        return self.acknowledged - before

    def take(self, thread, entries):
        call = None
        for what, sequence, time, *rest in entries:
            if what == "do":
                if call is not None or self.open[thread]:
                    raise ValueError("a thread's call began before its last one was judged")
                call = Call(thread, sequence, time, rest)
                if call.kind == "last":
                    self.registers[call.operation[1]].calls[call.token] = call
                elif call.kind == "batch":
                    self.registers["group"].calls[call.token] = call
                elif call.kind in self.counters:
                    self.counters[call.kind].calls.append(call)
            else:
                if call is None or call.sequence != sequence:
                    raise ValueError("an answer to no call")
                call.end, call.result, call.happened = time, rest[0], True
                self.acknowledged += 1
                known, expected = call.expected_result(self.own[thread].values)
                if known and call.result != expected:
                    raise Violation(f"wrong answer {call.result}, not {expected}: {describe(call)}")
                self.own[thread].apply(call)
                call = None
        if call is not None:
            self.open[thread].append(call)

    def accept(self, found, *more):
        """What is found is taken as it is, when a power cut may have lost what was acknowledged: only that the group
        of keys that are always written together is whole is demanded. Nothing may be lost of it later."""
        tokens = {found.get(key.encode()) for key in journal.GROUP}
        if len(tokens) != 1:
            raise Violation(f"a batch is there by half: {[shorten(token) for token in tokens]}")
        totals = self.acknowledged, self.open_there, self.open_absent
        self.__init__()
        self.acknowledged, self.open_there, self.open_absent = totals
        self.registers["group"].base = tokens.pop()
        for key in journal.LAST:
            self.registers[key].base = found.get(key.encode())
        for counter in self.counters.values():
            counter.base = int(found.get(counter.key.encode(), b"0"))
        for key, value in found.items():
            thread, slash, _ = key.decode().partition("/")
            if slash and thread.isdigit():
                self.own[int(thread)].values[key.decode()] = value
                if more and more[0][key] != 0:
                    self.own[int(thread)].due[key.decode()] = (more[0][key] or more[2],) * 2

    def look(self, found, expiries=None, began=0, ended=0):
        """Judges what a reopened store holds; raises Violation.

        expiries: {key: when it expires, or 0, or None when it did meanwhile}; began, ended: the wall clock when this
        was read. None: nobody looked at them.
        """
        found = {key.decode(): value for key, value in found.items()}
        if expiries is not None:
            expiries = {key.decode(): expiry for key, expiry in expiries.items()}
        wrong = []
        owned = [{} for _ in range(journal.THREADS)]
        known = {*journal.GROUP, *journal.LAST, journal.COUNT, journal.CAS}
        for key, value in found.items():
            thread, slash, _ = key.partition("/")
            if slash and thread.isdigit() and int(thread) < journal.THREADS:
                owned[int(thread)][key] = value
            elif key not in known:
                wrong.append(f"never written: {key} = {shorten(value)}")
            if expiries is not None and 0 < (expiries[key] or NEVER) <= began:
                wrong.append(f"expired, and there all the same: {key}, {began - expiries[key]} ms late")
            if expiries is not None and key in known and expiries[key]:
                wrong.append(f"it was never to expire: {key}, at {expiries[key]}")
        for thread in range(journal.THREADS):
            wrong += self._look_at_own(thread, owned[thread], expiries, ended)
        for part in (*self.registers.values(), *self.counters.values()):
            wrong += part.check(found)
        if wrong:
            raise Violation("\n".join(wrong))

    def _look_at_own(self, thread, found, expiries, ended):
        answered = self.own[thread]
        with_open = answered.copy()
        calls, self.open[thread] = self.open[thread], []
        for call in calls:
            with_open.apply(call)
        changed = with_open != answered
        now, then = (state.without_expired(found, ended) for state in (answered, with_open))
        late_now, late_then = (list(state.wrong_expiries(found, expiries)) for state in (answered, with_open))
        if calls and changed and found == then and not late_then and (found != now or late_now):
            for call in calls:
                call.happened = True
                self.open_there += 1
        elif found == now and not late_now:
            for call in calls:
                call.refuted = changed and (found != then or bool(late_then))
                self.open_absent += 1
        else:
            for key in sorted({*found, *now}):
                have, want, other = found.get(key), now.get(key), then.get(key)
                if have == want:
                    continue
                text = f"{key}: found {shorten(have)}, acknowledged {shorten(want)}"
                if key in answered.due:
                    text += f", which expires {answered.due[key][0] - ended:.0f} ms after the look"
                if other != want:
                    text += f", open {shorten(other)}"
                    if have == other:
                        text += " (this part of the open call is there, another is not)"
                yield text
            yield from late_now
        due = answered.due
        if expiries is not None: # None: it expired between the two readings
            due = {key: (expiries[key] or ended,) * 2 for key in found if expiries[key] != 0}
        self.own[thread] = State(found, due)


def set_or_remove(state, key, value):
    if value is None:
        state.pop(key, None)
    else:
        state[key] = value


def shorten(value):
    if value is None:
        return "nothing"
    return repr(value[:60]) + (f"... of {len(value)} bytes" if len(value) > 60 else "")


def describe(call):
    return f"call {call.sequence} of thread {call.thread} ({call.kind})"
