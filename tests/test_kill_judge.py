"""The judge of the kill tests, judged: each kind of loss must be seen."""

import pytest

from crash import journal
from crash.judge import Judge, Violation

A, B, C = (journal.own_key(0, i) for i in range(3))
OTHER = journal.own_key(1, 0)


class Story:
    """Calls of some threads, their times one after the other unless a test sets them."""

    def __init__(self):
        self.judge = Judge()
        self.entries = [[] for _ in range(journal.THREADS)]
        self.clock = 0
        self.sequence = [0] * journal.THREADS

    def do(self, thread, *operation, result=None, answered=True, start=None, end=None):
        self.sequence[thread] += 1
        self.clock += 1
        self.entries[thread].append(["do", self.sequence[thread], start or self.clock, *operation])
        self.clock += 1
        if answered:
            self.entries[thread].append(["done", self.sequence[thread], end or self.clock, result])
        return self.sequence[thread]

    def find(self, **found):
        for thread, entries in enumerate(self.entries):
            self.judge.take(thread, entries, *found.get("cut", ()))
            entries.clear()
        items = {key.encode(): value for key, value in found["items"].items()}
        if "expiries" in found:
            expiries = dict.fromkeys(items, 0) | {key.encode(): ms for key, ms in found["expiries"].items()}
            found["when"] = (expiries, found["at"], found["at"])
        self.judge.look(items, *found.get("when", ()), lossy=found.get("lossy", False))

    def lost(self, items, match, **more):
        with pytest.raises(Violation, match=match):
            self.find(items=items, **more)


def value(sequence, key, size=50, thread=0):
    return journal.value(thread, sequence, key, size)


def group(thread, sequence, size=40):
    return dict.fromkeys(journal.GROUP, journal.token(thread, sequence, size))


@pytest.fixture
def story():
    return Story()


@pytest.fixture
def usual(story):
    """A put, b put and replaced, c put and deleted; then an open put of a."""
    story.do(0, "put", A, 50, None)
    story.do(0, "put", B, 50, None)
    story.do(0, "replace", B, 50, result=True)
    story.do(0, "put", C, 50, None)
    story.do(0, "delete", C, result=True)
    story.do(0, "put", A, 60, None, answered=False)
    return story


ANSWERED = {A: value(1, A), B: value(3, B)}


def test_all_is_well_without_the_open_call(usual):
    usual.find(items=ANSWERED)
    assert (usual.judge.open_there, usual.judge.open_absent) == (0, 1)


def test_all_is_well_with_the_open_call(usual):
    usual.find(items={**ANSWERED, A: value(6, A, 60)})
    assert (usual.judge.open_there, usual.judge.open_absent) == (1, 0)


def test_an_acknowledged_put_is_missing(usual):
    usual.lost({A: value(1, A)}, "found nothing, acknowledged")


def test_an_old_value_came_back(usual):
    usual.lost({**ANSWERED, B: value(2, B)}, "acknowledged")


def test_a_deleted_key_came_back(usual):
    usual.lost({**ANSWERED, C: value(4, C)}, "acknowledged nothing")


def test_one_byte_differs(usual):
    damaged = bytearray(ANSWERED[B])
    damaged[30] ^= 1
    usual.lost({**ANSWERED, B: bytes(damaged)}, "acknowledged")


def test_a_value_is_cut_short(usual):
    usual.lost({**ANSWERED, B: ANSWERED[B][:-1]}, "acknowledged")


def test_the_open_call_is_there_but_an_earlier_one_is_not(usual):
    usual.lost({A: value(6, A, 60)}, "acknowledged")


@pytest.mark.parametrize("key", ["stranger", "9/key 1", "0/key 29", "count/x"])
def test_something_was_never_written(usual, key):
    usual.lost({**ANSWERED, key: b"v"}, "never written|acknowledged nothing")


def test_a_wrong_answer(story):
    story.do(0, "delete", A, result=True)
    story.lost({}, "wrong answer")


def test_after_a_look_the_next_life_starts_from_what_was_found(usual):
    usual.find(items={**ANSWERED, A: value(6, A, 60)})
    usual.do(0, "delete", A, result=True)
    usual.find(items={B: value(3, B)})
    usual.do(0, "put", C, 50, None)
    usual.lost({B: value(3, B)}, "acknowledged")


def test_an_open_call_stays_absent_once_it_was(usual):
    usual.find(items=ANSWERED)
    usual.do(0, "put", C, 50, None)
    usual.lost({**ANSWERED, C: value(7, C), A: value(6, A, 60)}, "acknowledged")


@pytest.fixture
def batches(story):
    story.do(0, "batch", [[A, 50]], [], 40)
    story.do(1, "batch", [[OTHER, 50]], [], 40, answered=False)
    return story


FIRST = {A: value(1, A), **group(0, 1)}
SECOND = {OTHER: value(1, OTHER, thread=1), A: value(1, A), **group(1, 1)}


def test_batches_whole(batches):
    batches.find(items=FIRST)


def test_an_open_batch_whole(batches):
    batches.find(items=SECOND)


def test_a_batch_half_in_its_group(batches):
    batches.lost({**SECOND, journal.GROUP[3]: journal.token(0, 1, 40)}, "by half")


def test_a_group_key_missing(batches):
    items = dict(FIRST)
    del items[journal.GROUP[7]]
    batches.lost(items, "by half")


def test_a_group_without_its_own_keys(batches):
    batches.lost({A: value(1, A), **group(1, 1)}, "half of a batch")


def test_own_keys_without_their_group(batches):
    batches.lost({**FIRST, OTHER: value(1, OTHER, thread=1)}, "lost: call 1 of thread 1")


def test_an_answered_batch_is_missing(batches):
    batches.lost({A: value(1, A)}, "lost: call 1 of thread 0")


def test_two_own_keys_of_one_open_call_one_of_them_missing(story):
    story.do(0, "many", [[A, 50], [B, 50]], answered=False)
    story.lost({A: value(1, A)}, "this part of the open call is there")


LAST = journal.LAST[0]


def test_overlapping_puts_in_either_order(story):
    for winner in (0, 1):
        now = story.clock + 10
        story.do(0, "last", LAST, 40, start=now, end=now + 10)
        story.do(1, "last", LAST, 40, start=now + 5, end=now + 15)
        story.clock = now + 20
        story.find(items={LAST: journal.token(winner, winner and 2 or 1, 40) if winner == 0 else journal.token(1, 2, 40)})


def test_a_put_that_was_overwritten_came_back(story):
    story.do(0, "last", LAST, 40)
    story.do(1, "last", LAST, 40)
    story.lost({LAST: journal.token(0, 1, 40)}, "lost: call 1 of thread 1")


def test_a_value_of_an_earlier_life_came_back(story):
    story.do(0, "last", LAST, 40)
    story.find(items={LAST: journal.token(0, 1, 40)})
    story.do(0, "last", LAST, 40)
    story.find(items={LAST: journal.token(0, 2, 40)})
    story.lost({LAST: journal.token(0, 1, 40)}, "never written, or long overwritten")


def test_what_an_earlier_life_left_may_stay(story):
    story.do(0, "last", LAST, 40)
    story.find(items={LAST: journal.token(0, 1, 40)})
    story.do(1, "last", LAST, 40, answered=False)
    story.find(items={LAST: journal.token(0, 1, 40)})
    story.do(2, "last", LAST, 40)
    story.lost({LAST: journal.token(0, 1, 40)}, "lost")


def counts(story, results, still_open=0):
    for thread, result in enumerate(results):
        story.do(thread, "incr", result=result)
    for thread in range(still_open):
        story.do(7 - thread, "incr", answered=False)


@pytest.mark.parametrize("number", [3, 4, 5])
def test_counters(story, number):
    counts(story, [1, 2, 3], still_open=2)
    story.find(items={journal.COUNT: b"%d" % number})


@pytest.mark.parametrize("number", [2, 6])
def test_a_counter_that_lost_or_invented(story, number):
    counts(story, [1, 2, 3], still_open=2)
    story.lost({journal.COUNT: b"%d" % number}, "3 to 5")


def test_one_number_answered_twice(story):
    counts(story, [1, 2, 2])
    story.lost({journal.COUNT: b"3"}, "answered twice")


def test_an_answer_beyond_the_counter(story):
    counts(story, [1, 3], still_open=1)
    story.lost({journal.COUNT: b"2"}, "outside")


def test_answers_out_of_order(story):
    counts(story, [2, 1])
    story.lost({journal.COUNT: b"2"}, "out of order")


def test_a_replace_counter(story):
    story.do(0, "cas", result=True)
    story.do(1, "cas", result=False)
    story.do(2, "cas", answered=False)
    story.find(items={journal.CAS: b"1"})
    story.do(0, "cas", result=True)
    story.lost({journal.CAS: b"1"}, "2 to 2")


# ---- Expiry: times are in ms, and a call takes next to no time -------------------------------------


@pytest.fixture
def expiring(story):
    """a expires at 6000 or a little later, b at 9000, c never any more."""
    story.do(0, "put", A, 50, None, 5000, 1000)
    story.do(0, "many", [[B, 50]], 100, 1000)
    story.do(0, "expire", B, 8000, 1000, result=True)
    story.do(0, "put", C, 50, None, 5000, 1000)
    story.do(0, "persist", C, result=True)
    return story


THREE = {A: value(1, A), B: value(2, B), C: value(4, C)}


def test_what_expires(expiring):
    expiring.find(items=THREE, expiries={A: 6000, B: 9002}, at=2000)
    expiring.find(items=THREE, expiries={A: 6000, B: 9002}, at=5999)
    expiring.find(items={B: THREE[B], C: THREE[C]}, expiries={B: 9002}, at=6001)
    expiring.find(items={C: THREE[C]}, expiries={}, at=9003)
    expiring.lost({B: THREE[B], C: THREE[C]}, "acknowledged nothing", expiries={B: 99_000}, at=9003)


@pytest.mark.parametrize(
    "expiries",
    [{A: 5999, B: 9000}, {A: 6004, B: 9000}, {A: 0, B: 9000}, {A: 6000, B: 1100}, {A: 6000, B: 9000, C: 6000}],
    ids=["early", "late", "never", "the one before", "persist is lost"],
)
def test_a_wrong_expiry(expiring, expiries):
    expiring.lost(THREE, "expires at", expiries=expiries, at=1050)


def test_an_expiry_that_moves_when_the_store_is_opened(expiring):
    expiring.find(items=THREE, expiries={A: 6001, B: 9000}, at=2000)
    expiring.lost(THREE, "expires at 6002", expiries={A: 6002, B: 9000}, at=2000)


def test_gone_before_its_time(expiring):
    expiring.lost({B: THREE[B], C: THREE[C]}, "found nothing", expiries={B: 9000}, at=5999)


def test_there_after_its_time(expiring):
    expiring.lost(THREE, "there all the same", expiries={A: 6000, B: 9000}, at=6000)


def test_gone_without_ever_having_expired(expiring):
    expiring.lost({B: THREE[B]}, "found nothing", expiries={B: 9000}, at=8000)


def test_a_key_that_expires_while_it_is_looked_at(expiring):
    expiring.find(items=THREE, expiries={A: None, B: 9000}, at=6000)
    expiring.find(items={B: THREE[B], C: THREE[C]}, expiries={B: 9000}, at=6000)


@pytest.mark.parametrize("there", [True, False])
def test_an_open_expire(expiring, there):
    expiring.do(0, "expire", B, 50_000, 2000, answered=False)
    expiring.find(items=THREE, expiries={A: 6000, B: 52_000 if there else 9000}, at=2500)
    assert (expiring.judge.open_there, expiring.judge.open_absent) == (there, not there)


def test_what_never_expires_by_itself(story):
    story.do(0, "last", LAST, 40)
    story.lost({LAST: journal.token(0, 1, 40)}, "never to expire", expiries={LAST: 5000}, at=1000)


def test_a_write_without_a_ttl_ends_the_one_before(expiring):
    expiring.do(0, "replace", A, 50, result=True)
    expiring.lost({**THREE, A: value(6, A)}, "expires at 6000", expiries={A: 6000, B: 9000}, at=2000)


# ---- After a power cut in another mode than "always" ----------------------------------------------------


PREFIXES = [
    {},
    {A: value(1, A)},
    {A: value(1, A), B: value(2, B)},
    {A: value(1, A), B: value(3, B)},
    {A: value(1, A), B: value(3, B), C: value(4, C)},
    {A: value(6, A, 60), B: value(3, B)},
]


@pytest.mark.parametrize("items", PREFIXES, ids=range(len(PREFIXES)))
def test_a_power_cut_leaves_a_prefix_and_nothing_is_lost_of_it_later(usual, items):
    usual.find(items=items, lossy=True)
    usual.do(0, "put", B, 70, None)
    usual.find(items={**items, B: value(7, B, 70)})
    usual.lost({**items, B: value(3, B)}, "acknowledged")


@pytest.mark.parametrize("items", [{B: value(3, B)}, {A: value(1, A), C: value(4, C)}, {**PREFIXES[2], C: b""}])
def test_what_is_no_prefix_of_a_thread(usual, items):
    usual.lost(items, "thread 0: its keys are not as after the first of its calls", lossy=True)


def test_how_many_are_lost(usual):
    usual.find(items=PREFIXES[2], lossy=True)
    assert usual.judge.lost == 3


def test_threads_that_are_at_different_moments(story):
    story.do(0, "put", A, 50, None)
    story.do(1, "put", OTHER, 50, None)
    story.lost({OTHER: value(1, OTHER, thread=1)}, "different moments", lossy=True)
    story.find(items={A: value(1, A)}, lossy=True)


def test_threads_whose_calls_overlap(story):
    story.do(0, "put", A, 50, None, start=1, end=10)
    story.do(1, "put", OTHER, 50, None, start=5, end=15)
    story.find(items={OTHER: value(1, OTHER, thread=1)}, lossy=True)


def test_what_was_told_to_be_durable(usual):
    usual.entries[0][2][6] = True  # B, put by the second call
    usual.lost({A: value(1, A)}, "thread 0", lossy=True)
    usual.find(items=PREFIXES[2], lossy=True)


@pytest.mark.parametrize("cut, first", [(0, 0), (1.5, 0), (2, 1), (5, 2), (6, 3), (99, 5)])
def test_what_was_answered_before_the_power_went(usual, cut, first):
    """The n-th call was answered at the time 2n."""
    for items in PREFIXES[:first]:
        if items != ANSWERED:
            usual.lost(items, "thread 0", lossy=True, cut=(cut, True))
    usual.find(items=PREFIXES[first] if first < 5 else ANSWERED, lossy=True, cut=(cut, True))
    assert usual.judge.acknowledged == min(cut // 2, 5) and usual.judge.lost == 0


def test_half_a_batch_after_a_power_cut(batches):
    batches.lost({**SECOND, journal.GROUP[3]: journal.token(0, 1, 40)}, "by half", lossy=True)
    batches.lost({**FIRST, OTHER: value(1, OTHER, thread=1)}, "lost: call 1 of thread 1", lossy=True)
    batches.lost({A: value(1, A), **group(1, 1)}, "half of a batch", lossy=True)
    batches.find(items={}, lossy=True)


def test_a_shared_key_is_at_the_same_moment(story):
    story.do(0, "last", LAST, 40)
    story.do(1, "last", LAST, 40)
    story.do(1, "put", OTHER, 50, None)
    old, new = {LAST: journal.token(0, 1, 40)}, {LAST: journal.token(1, 1, 40)}
    story.lost({**old, OTHER: value(2, OTHER, thread=1)}, "lost: call 1 of thread 1", lossy=True)
    story.lost({OTHER: value(2, OTHER, thread=1)}, "lost|never written", lossy=True)
    story.find(items=new, lossy=True)
    story.find(items=new)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_counter_is_at_some_moment(story, number):
    counts(story, [1, 2, 3])
    story.find(items={journal.COUNT: b"%d" % number} if number else {}, lossy=True)
    story.do(0, "incr", result=number + 1)
    story.find(items={journal.COUNT: b"%d" % (number + 1)})


def test_a_counter_is_at_the_same_moment(story):
    counts(story, [1, 2, 3])
    story.do(1, "put", OTHER, 50, None)
    other = {OTHER: value(2, OTHER, thread=1)}
    story.lost({**other, journal.COUNT: b"2"}, "3 to 3", lossy=True)
    story.lost({journal.COUNT: b"4"}, "count is 4", lossy=True)
    story.find(items={**other, journal.COUNT: b"3"}, lossy=True)


def test_expiries_are_of_the_same_moment(expiring):
    two = {A: THREE[A], B: THREE[B]}
    expiring.lost(two, "thread 0", expiries={A: 6000, B: 20_000}, at=2000, lossy=True)
    expiring.lost(THREE, "thread 0", expiries={A: 6000, B: 1100, C: 6000}, at=1050, lossy=True)
    expiring.find(items=two, expiries={A: 6000, B: 1100}, at=1050, lossy=True)
    expiring.find(items={A: THREE[A]}, expiries={A: 6000}, at=1100)


def test_a_cut_off_line_of_a_journal_is_no_entry(tmp_path):
    (tmp_path / "j").write_text('["do", 1, 5, "incr"]\n["done", 1, 6')
    assert journal.read(tmp_path / "j") == [["do", 1, 5, "incr"]]
    assert journal.read(tmp_path / "missing") == []


def test_a_journal_reads_back(tmp_path):
    writer = journal.Journal(tmp_path / "j")
    writer.note("do", 1, "put", "key", 5, None)
    writer.note("done", 1, None)
    (first, second) = journal.read(tmp_path / "j")
    assert first[:2] == ["do", 1] and first[3:] == ["put", "key", 5, None]
    assert second[:2] == ["done", 1] and second[3:] == [None] and second[2] >= first[2]
