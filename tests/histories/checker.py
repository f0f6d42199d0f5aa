"""Is a history linearizable: is there an order of its calls that explains every answer and contradicts no clock?

Each key is a register with a history of its own: a history is linearizable when that of each key is. A group of keys
that batches alone write, all of them each time, is one register.

The search goes through calls and returns in the order of time. It keeps every *configuration* that explains what was
answered so far: the register's state, and which of the calls that are under way have taken effect. A call takes
effect only when it must: at its own return, or just before another that needs it then. So what was answered long ago
is no part of a configuration, there are few of them, and when none is left, this return is the first that cannot be
explained.

A call without an answer, because the process ended, took effect at some moment until that end, or never.
"""

import bisect
from typing import Any, NamedTuple

LIMIT = 200_000  # configurations at one return; beyond, the search gives up
UNANSWERED = object()
NO = object()  # the answer is not the one that this state would give
UNSEEN = "(any other)"
NOBODY = 1  # a bit of no call


class Call(NamedTuple):
    thread: Any
    start: int
    end: int | None  # None: it never returned
    kind: str
    key: str
    args: tuple
    result: Any


class NotLinearizable(AssertionError):
    pass


class TooWide(Exception):
    """Too many configurations: nothing is known about the history."""


def run(kind, args, state):
    """The specification: (the state after the call, its answer). A state is a str, or None for no such key."""
    if kind == "get":
        return state, state
    if kind == "put":
        return args[0], None
    if kind == "swap":
        return args[0], state
    if kind == "delete":
        return None, state is not None
    if kind == "pop":
        return None, state
    if kind == "setdefault":
        return (args[0], args[0]) if state is None else (state, state)
    if kind == "replace":
        value, expected = args
        return (value, True) if state == expected else (state, False)
    if kind == "incr":
        if state == UNSEEN:
            return state, NO
        number = int(state or 0) + args[0]
        return str(number), number
    raise ValueError(kind)


class Step:
    """A call under way: what it does to a state, and whether it is one that changes none."""

    def __init__(self, call, bit):
        self.kind, self.args, self.bit = call.kind, call.args, bit
        self.result = UNANSWERED if call.end is None else call.result
        # With such an answer; it can take effect in the first state that gives it.
        self.silent = (
            self.kind == "get"
            or self.result is False
            or (self.kind == "pop" and self.result is None)
            or (self.kind == "setdefault" and self.result not in (UNANSWERED, self.args[0]))
        )

    def after(self, state):
        state, result = run(self.kind, self.args, state)
        return state if self.result is UNANSWERED or self.result == result else NO


CALL, RETURN, CRASH = 0, 1, 2  # at equal times in this order: what may overlap does


def events_of(calls, crashes):
    """The moments of one key's history, in order: (time, what, number of the call)."""
    events = [(time, CRASH, -1) for time in crashes]
    for number, call in enumerate(calls):
        if call.end is not None:
            events.append((call.end, RETURN, number))
        elif call.kind == "get":
            continue  # it says nothing
        events.append((call.start, CALL, number))
    return sorted(events)


class Search:
    """Configurations, (state, mask of the calls under way that took effect), from one event to the next."""

    def __init__(self, calls, configurations, under_way=()):
        self.calls = calls
        self.configurations = set(configurations)
        self.steps = {}  # by number of the call
        self.free = [1 << i for i in range(1, 65)][::-1]
        self.widest = 0
        for number in under_way:  # with or without effect, who knows
            step = self.add(number)
            done = {(state, mask | step.bit) for state, mask in self.configurations}
            self.configurations = done if step.silent else self.configurations | done

    def add(self, number):
        step = self.steps[number] = Step(self.calls[number], self.free.pop())
        return step

    def take(self, what, number):
        """Goes past an event. False: nothing explains it."""
        if what == CALL:
            step = self.add(number)
            if step.silent:
                self.configurations = {
                    (state, mask if step.after(state) is NO else mask | step.bit)
                    for state, mask in self.configurations
                }
        elif what == RETURN:
            self.configurations, _ = self.past(self.steps[number].bit)
            self.free.append(self.steps.pop(number).bit)
        else:
            # Any of those under way may have taken effect: a bit that nobody has is never arrived at.
            self.configurations |= self.past(NOBODY)[1]
            self.configurations = {(state, 0) for state, _ in self.configurations}
            self.free += [step.bit for step in self.steps.values()]
            self.steps.clear()
        self.widest = max(self.widest, len(self.configurations))
        return bool(self.configurations)

    def past(self, bit):
        """Lets calls take effect until the one of that bit has: (the configurations then, those on the way)."""
        loud = [step for step in self.steps.values() if not step.silent]
        silent = [step for step in self.steps.values() if step.silent]
        arrived = {(state, mask ^ bit) for state, mask in self.configurations if mask & bit}
        todo = [(state, mask) for state, mask in self.configurations if not mask & bit]
        seen = set(todo)
        while todo:
            state, mask = todo.pop()
            for step in loud:
                if mask & step.bit or (new := step.after(state)) is NO:
                    continue
                there = mask | step.bit
                for other in silent:
                    if not there & other.bit and other.after(new) is not NO:
                        there |= other.bit
                if there & bit:
                    arrived.add((new, there ^ bit))
                elif (new, there) not in seen:
                    seen.add((new, there))
                    todo.append((new, there))
            if len(seen) + len(arrived) > LIMIT:
                raise TooWide(f"more than {LIMIT} configurations with {len(self.steps)} calls under way")
        return arrived, seen


def first_unexplained(calls, events, search):
    """The place of the first event that nothing explains; None when the history is linearizable."""
    for place, (_, what, number) in enumerate(events):
        if not search.take(what, number):
            return place
    return None


def any_state(calls):
    """Every state that these calls can tell from others."""
    states = {None, UNSEEN}
    for call in calls:
        states.update(value for value in (*call.args, call.result) if isinstance(value, str))
        if call.kind == "incr" and call.end is not None:
            states.update((str(call.result), str(call.result - call.args[0])))
    return states


def under_way_after(events):
    """The numbers of the calls that began and did not end."""
    under_way = {}
    for _, what, number in events:
        if what == CALL:
            under_way[number] = None
        elif what == RETURN:
            del under_way[number]
        else:
            under_way.clear()
    return list(under_way)


def smallest_window(calls, events):
    """The latest place from where on, whatever the state was there, the last event is not explained; None: nowhere.

    (An unanswered incr of a number that nobody names is not thought of: it can only make the window too small.)
    """
    states = any_state(calls)

    def explained(place):
        search = Search(calls, {(state, 0) for state in states}, under_way_after(events[:place]))
        return first_unexplained(calls, events[place:], search) is not None

    # From the front on it is not explained, then it is: the more is left out, the less is demanded.
    last = bisect.bisect_left(range(len(events)), True, key=lambda place: not explained(place)) - 1
    return None if last < 0 else last


class Report(NamedTuple):
    calls: int
    overlapping: int  # calls during which another one of the same key was under way
    widest: int  # the most configurations after one event


def check_key(key, calls, crashes=()):
    """For a key that was not there at first. Raises NotLinearizable, with the smallest window that is not."""
    events = events_of(calls, crashes)
    search = Search(calls, {(None, 0)})
    place = first_unexplained(calls, events, search)
    if place is None:
        return Report(len(calls), count_overlapping(events), search.widest)
    events = events[: place + 1]
    begin = smallest_window(calls, events)
    raise NotLinearizable(describe(key, calls, events, begin))


def count_overlapping(events):
    under_way, overlapping = set(), set()
    for _, what, number in events:
        if what == CALL:
            under_way.add(number)
            if len(under_way) > 1:
                overlapping |= under_way
        elif what == RETURN:
            under_way.discard(number)
        else:
            under_way.clear()
    return len(overlapping)


def describe(key, calls, events, begin):
    known = "whatever it held before" if begin is not None else "when it is not there at first"
    window = events[begin or 0 :]
    since = window[0][0]
    numbers = {number for _, what, number in window if what != CRASH}
    numbers.update(under_way_after(events[: begin or 0]))
    last = window[-1][2]
    lines = [f"{key}: no order of these {len(numbers)} calls explains their answers, {known}"]
    lines += ["         µs from           to   thread"]
    for number in sorted(numbers, key=lambda number: calls[number].start):
        call = calls[number]
        end = "never" if call.end is None else f"{(call.end - since) / 1000:.1f}"
        answer = "" if call.end is None else f" -> {call.result!r}"
        mark = "   <- not explained" if number == last else ""
        arguments = ", ".join(map(repr, call.args))
        what = f"{call.kind}({arguments}){answer}{mark}"
        lines.append(f"  {(call.start - since) / 1000:12.1f} {end:>12}   {call.thread}: {what}")
    lines += [f"  {(time - since) / 1000:12.1f} the process ended" for time, what, _ in window if what == CRASH]
    return "\n".join(lines)


def check(calls, crashes=()):
    """Checks each key. Returns a Report of all; raises NotLinearizable for the first that is not."""
    by_key = {}
    for call in calls:
        by_key.setdefault(call.key, []).append(call)
    reports = [check_key(key, its, crashes) for key, its in sorted(by_key.items())]
    return Report(sum(r.calls for r in reports), sum(r.overlapping for r in reports), max(r.widest for r in reports))
