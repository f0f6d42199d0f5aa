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
 5. Nothing else is in the store.

The judge can see the store after each kill, or only after several: open calls then stay open.
"""

from . import journal

NEVER = float("inf")


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

    @property
    def token(self):
        return journal.token(self.thread, self.sequence, self.operation[-1])

    def expected_result(self, before):
        """(True, the only right answer), or (False, None) when the call's answer depends on others."""
        kind, *args = self.operation
        if kind == "delete":
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


class Judge:
    def __init__(self):
        self.own = [{} for _ in range(journal.THREADS)]
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
                own = self.own[thread]
                known, expected = call.expected_result(own)
                if known and call.result != expected:
                    raise Violation(f"wrong answer {call.result}, not {expected}: {describe(call)}")
                apply(own, call.own_changes(own))
                call = None
        if call is not None:
            self.open[thread].append(call)

    def look(self, found):
        """Judges what a reopened store holds; raises Violation."""
        found = {key.decode(): value for key, value in found.items()}
        wrong = []
        owned = [{} for _ in range(journal.THREADS)]
        known = {*journal.GROUP, *journal.LAST, journal.COUNT, journal.CAS}
        for key, value in found.items():
            thread, slash, _ = key.partition("/")
            if slash and thread.isdigit() and int(thread) < journal.THREADS:
                owned[int(thread)][key] = value
            elif key not in known:
                wrong.append(f"never written: {key} = {shorten(value)}")
        for thread in range(journal.THREADS):
            wrong += self._look_at_own(thread, owned[thread])
        for part in (*self.registers.values(), *self.counters.values()):
            wrong += part.check(found)
        if wrong:
            raise Violation("\n".join(wrong))

    def _look_at_own(self, thread, found):
        answered = self.own[thread]
        with_open = dict(answered)
        calls, self.open[thread] = self.open[thread], []
        for call in calls:
            apply(with_open, call.own_changes(with_open))
        if calls and found == with_open and with_open != answered:
            for call in calls:
                call.happened = True
                self.open_there += 1
        elif found == answered:
            for call in calls:
                call.refuted = with_open != answered
                self.open_absent += 1
        else:
            for key in sorted({*found, *answered}):
                have, want, other = found.get(key), answered.get(key), with_open.get(key)
                if have == want:
                    continue
                text = f"{key}: found {shorten(have)}, acknowledged {shorten(want)}"
                if other != want:
                    text += f", open {shorten(other)}"
                    if have == other:
                        text += " (this part of the open call is there, another is not)"
                yield text
        self.own[thread] = found


def apply(state, changes):
    for key, value in changes.items():
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
