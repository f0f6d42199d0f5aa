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

After a power cut, calls that were answered may be lost, too: those of another mode than "always", and those that were
answered while it came. But what happened is a prefix of the order in which the calls were committed: there is a moment
that no call that happened began after, and no lost one had ended before. Calls that were to be durable, by the mode or
by `sync=True`, and were answered before the cut did happen; and all else holds of those that happened.

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
        self.number = 0  # of its thread's calls since the last look, from 1 up
        self.in_time = self.durable = False  # answered before the power went; and not to be lost
        self.happened = False  # answered and not lost, or found in the store
        self.refuted = False  # its thread's own keys are as if it had not happened

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

    def begin(self, found):
        """What is found is where the next calls start from."""
        self.base = found.get(self.keys[0])
        self.calls.clear()


class Counter:
    """A key that any thread counts up by one."""

    def __init__(self, key):
        self.key = key
        self.base = 0
        self.calls = []

    def check(self, found):
        calls = [call for call in self.calls if call.result is not False]
        number = int(found.get(self.key, b"0"))
        low = self.base + sum(call.happened for call in calls)
        high = self.base + sum(call.happened or not call.refuted for call in calls)
        if not low <= number <= high:
            yield f"{self.key} is {number}; with every call that happened, and no other, {low} to {high}"
        counts = [call for call in calls if call.result is not None and call.result is not True]
        if len({call.result for call in counts}) != len(counts):
            yield f"{self.key}: one number was answered twice"
        for call in counts:
            if call.result <= self.base or call.happened and call.result > number:
                yield f"{self.key}: an answer is outside of {self.base + 1} to {number}: {describe(call)}"
            if call.refuted and call.result <= number:
                yield f"{self.key} is {number}, with a call that is lost: {describe(call)}"
        latest = -1
        for call in sorted(counts, key=lambda c: c.result):
            if call.end < latest:
                yield f"{self.key}: answers are out of order at {describe(call)}"
            latest = max(latest, call.start)

    def begin(self, found):
        self.base = int(found.get(self.key, b"0"))
        self.calls.clear()


class State:
    """A thread's own keys: {key: value}, and {key: (earliest, latest)} of those that expire."""

    def __init__(self, values=(), due=()):
        self.values = dict(values)
        self.due = dict(due)

    def apply(self, call):
        """Returns the keys that the call was about."""
        expiries, changes = call.own_expiries(self.values), call.own_changes(self.values)
        for key, value in changes.items():
            set_or_remove(self.values, key, value)
        for key, due in expiries.items():
            set_or_remove(self.due, key, due)
        return {*changes, *expiries}

    def copy(self):
        return State(self.values, self.due)

    def __eq__(self, other):
        return self.values == other.values and self.due == other.due

    def without_expired(self, found, ended):
        """As it was when the look ended, which did not find what had expired."""
        gone = {key for key, due in self.due.items() if key not in found and due[0] <= ended}
        return {key: value for key, value in self.values.items() if key not in gone}

    def fits(self, key, found, expiries, ended):
        """Whether the key was found as it is here."""
        value, due = self.values.get(key), self.due.get(key, (0, 0))
        if key not in found:
            return value is None or 0 < due[0] <= ended
        in_time = expiries is None or expiries[key] is None or due[0] <= expiries[key] <= due[1]
        return found[key] == value and in_time

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
        self.before = [State() for _ in range(journal.THREADS)]  # at the last look
        self.own = [State() for _ in range(journal.THREADS)]  # with all answered calls since
        self.life = [[] for _ in range(journal.THREADS)]  # these, and those without an answer, by thread
        self.open = [[] for _ in range(journal.THREADS)]  # calls without an answer, by thread
        self.registers = {key: Register((key,)) for key in journal.LAST}
        self.registers["group"] = Register(journal.GROUP)
        self.counters = {"incr": Counter(journal.COUNT), "cas": Counter(journal.CAS)}
        self.acknowledged = 0
        self.open_there = 0
        self.open_absent = 0
        self.lost = 0  # acknowledged, where a power cut may lose it

    def read(self, folder, generation, cut=NEVER, always=False):
        """Takes in the journals of one worker. Returns the number of acknowledged calls.

        cut: when the power began to go. always: each call was to be durable, and not only those that asked for it.
        """
        before = self.acknowledged
        for thread in range(journal.THREADS):
            self.take(thread, journal.read(folder / f"{generation}.{thread}"), cut, always)
        return self.acknowledged - before

    def take(self, thread, entries, cut=NEVER, always=False):
        call = None
        for what, sequence, time, *rest in entries:
            if what == "do":
                if call is not None or self.open[thread]:
                    raise ValueError("a thread's call began before its last one was judged")
                call = Call(thread, sequence, time, rest)
                self.life[thread].append(call)
                call.number = len(self.life[thread])
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
                call.in_time = time <= cut
                call.durable = call.in_time and (always or call.kind == "put" and call.operation[3] is True)
                self.acknowledged += call.in_time
                known, expected = call.expected_result(self.own[thread].values)
                if known and call.result != expected:
                    raise Violation(f"wrong answer {call.result}, not {expected}: {describe(call)}")
                self.own[thread].apply(call)
                call = None
        if call is not None:
            self.open[thread].append(call)

    def look(self, found, expiries=None, began=0, ended=0, lossy=False):
        """Judges what a reopened store holds; raises Violation.

        expiries: {key: when it expires, or 0, or None when it did meanwhile}; began, ended: the wall clock when this
        was read. None: nobody looked at them. lossy: after a power cut, which may have cost the latest calls.
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
        if lossy:
            wrong += self._look_at_prefix(found, owned, expiries, ended)
        else:
            for thread in range(journal.THREADS):
                wrong += self._look_at_own(thread, owned[thread], expiries, ended)
            wrong += self._look_at_shared(found)
        if wrong:
            raise Violation("\n".join(wrong))
        for thread in range(journal.THREADS):
            self._begin(thread, owned[thread], expiries, ended)
        for part in self._shared():
            part.begin(found)

    def _shared(self):
        return (*self.registers.values(), *self.counters.values())

    def _look_at_shared(self, found):
        return [wrong for part in self._shared() for wrong in part.check(found)]

    def _begin(self, thread, found, expiries, ended):
        """What is found of a thread's own keys is where its next calls start from."""
        due = self.own[thread].due
        if expiries is not None:  # None: it expired between the two readings
            due = {key: (expiries[key] or ended,) * 2 for key in found if expiries[key] != 0}
        self.before[thread], self.own[thread] = State(found, due), State(found, due)
        self.life[thread], self.open[thread] = [], []

    def _look_at_prefix(self, found, owned, expiries, ended):
        """Looks for a moment up to which the calls happened; tells what is wrong with the best one."""
        kept = [list(self._prefixes(thread, owned[thread], expiries, ended)) for thread in range(journal.THREADS)]
        if not all(kept):
            nowhere = [thread for thread, prefixes in enumerate(kept) if not prefixes]
            return [f"thread {thread}: its keys are not as after the first of its calls" for thread in nowhere]
        best = ["the keys of different threads are as at different moments"]
        for moment in sorted({low for prefixes in kept for _, low, _ in prefixes}):
            counts = [[count for count, low, high in prefixes if low <= moment <= high] for prefixes in kept]
            if not all(counts):
                continue
            for life, possible in zip(self.life, counts):
                for call in life:
                    call.happened, call.refuted = call.number <= min(possible), call.number > max(possible)
            best = self._look_at_shared(found)
            if not best:
                self.lost += sum(call.refuted and call.in_time for life in self.life for call in life)
                break
        return best

    def _prefixes(self, thread, found, expiries, ended):
        """(count, earliest, latest moment) of each number of first calls after which a thread's keys are as found."""
        state, life = self.before[thread].copy(), self.life[thread]
        durable = max((call.number for call in life if call.durable), default=0)
        wrong = {key for key in {*found, *state.values} if not state.fits(key, found, expiries, ended)}
        for count in range(len(life) + 1):
            if count > 0:
                for key in state.apply(life[count - 1]):
                    (wrong.discard if state.fits(key, found, expiries, ended) else wrong.add)(key)
            if not wrong and count >= durable:
                yield (
                    count,
                    life[count - 1].start if count > 0 else -NEVER,
                    life[count].end if count < len(life) else NEVER,
                )

    def _look_at_own(self, thread, found, expiries, ended):
        answered = self.own[thread]
        with_open = answered.copy()
        calls = self.open[thread]
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
