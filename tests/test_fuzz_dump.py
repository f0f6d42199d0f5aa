"""Fuzzing `load`: a file of any bytes is loaded whole, or refused with the place and nothing changes.

The files of tests/fuzz/corpus/dump are judged as they are, and a few hundred changed ones. With
``--fuzz-seconds N`` more are, for so long: those that reach something new in the loader are kept
and changed further. A file that it fails with is kept in build/c-tests/fuzz/dump.found.
"""

import base64
import contextlib
import hashlib
import io
import json
import re
import sys
import time
import warnings

import c_build
import pytest

import pykv
from pykv import _core, dumping, resp, staging

CORPUS = c_build.ROOT / "tests" / "fuzz" / "corpus" / "dump"
FOUND = c_build.ROOT / "build" / "c-tests" / "fuzz" / "dump.found"
TRACED = {module.__file__ for module in (dumping, resp, staging)}
SIZE_MAX = 4096
NOW = 1 << 47  # what the clock says, ms since 1970
BEFORE = {b"old": b"text", b"n": b"5", b"f": b"1.5", b"": b"\xff", b"expires": (b"5", NOW + 1)}

WORDS = [b"", b"old", b"n", b"f", b"new", b"\xff\0", b"0", b"1", b"-1", b"7", b"1.5", b"1e9", b"100000000000"]
WORDS += [b"9223372036854775807", b"-9223372036854775808", b"999999", b"281474976710656", b"x" * 300]
WORDS += [b"EX", b"px", b"EXAT", b"PXAT", b"NX", b"xx", b"KEEPTTL", b"GET", b"ASYNC"]
COMMANDS = [*resp._COMMANDS, b"MULTI", b"EXEC", b"DISCARD", b"HSET", b"set"]
PIECES = [b'{"key": "a", "value": "b"}\n', b'{"key_base64": "/w==", "value": "\\u00fc"}\n', b'"', b"{", b"}", b"\n"]
PIECES += [b'"key"', b'"value"', b'"value_base64": "', b', "expiry": 281474976710656', b', "expiry": 1', b"null"]
PIECES += [b"\\ud800", b"\\u0000", b"\xff", b"\r\n", b"*3\r\n", b"$3\r\n", b"$-1\r\n", b"#TS:1\r\n", b"1e5", b"[" * 2000]


def encoded(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


# ---- The judgement -----------------------------------------------------------------------------


def records(store):
    return sorted(store._snapshot()._records())


@contextlib.contextmanager
def filled_store():
    with pykv.open() as store:
        store._write(BEFORE)
        yield store


def attempt(data, partial=False):
    """What the store has after it, and the error if there is one."""
    with filled_store() as store:
        error = None
        try:
            report = pykv.load(store, io.BytesIO(data), partial=partial)
            assert 0 <= report.items + report.expired and report.records <= len(data)
        except pykv.LoadError as caught:
            error = caught
        store._verify()
        return records(store), error


def place_of(error):
    return error and (error.line, error.offset)


def judge(data, monkeypatch):
    untouched = attempt(b"")[0]
    after, error = attempt(data)
    with monkeypatch.context() as patch:
        patch.setattr(dumping, "ONE_COMMIT_FILE", -1)
        patch.setattr(staging, "BATCH_ITEMS", 2)
        in_parts, error_in_parts = attempt(data)
    # Of several errors it may be another: what does not parse is found before what cannot be done.
    assert in_parts == after and (error_in_parts is None) == (error is None)
    if error is not None:
        assert after == untouched and error.report is None and str(error)
        assert (error.line is None) != (error.offset is None)
        judge_place(data, error)
        return
    for format in ("jsonl", "redis"):
        judge_round_trip(data, format)
    if data.lstrip()[:1] == b"{":
        assert after == sorted(items_after(untouched, data).values())


def judge_place(data, error):
    """Where the error is, it is; what stands before is loaded when a part is asked for, a transaction whole or not."""
    if error.line is not None:
        lines = data.split(b"\n")
        assert 1 <= error.line <= len(lines)
        before = b"".join(line + b"\n" for line in lines[: error.line - 1])
    else:
        assert 0 <= error.offset <= len(data)
        before = data[: error.offset]
    after, again = attempt(data, partial=True)
    assert place_of(again) == place_of(error)
    assert after == attempt(before, partial=True)[0]
    if not re.search(rb"(?i)multi|exec|discard", data):
        assert (after, None) == attempt(before)
        assert again.report is not None or before == b"" or dumping_refuses(data)


def dumping_refuses(data):
    """It is no file of either kind, which is told before anything is read."""
    return data.lstrip()[:1] != b"{" and data[:1] != b"*" and data[:4] != b"#TS:"


def judge_round_trip(data, format):
    with filled_store() as store, pykv.open() as other:
        pykv.load(store, io.BytesIO(data))
        file = io.BytesIO()
        pykv.dump(store, file, format=format)
        file.seek(0)
        pykv.load(other, file)
        assert records(other) == records(store)


def items_after(untouched, data):
    """What JSON Lines make of the items, by the json module alone."""
    items = {item[0]: item for item in untouched}
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        fields = json.loads(line)
        key, value = (
            fields[n].encode() if n in fields else base64.b64decode(fields[n + "_base64"])
            for n in ("key", "value")
        )
        expiry = fields.get("expiry") or 0
        items.pop(key, None)
        if expiry == 0 or expiry > NOW:
            items[key] = (key, value, expiry)
    return items


# ---- Changes -----------------------------------------------------------------------------------


def changed(rng, data, others):
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 30, 300))
        places = [m.start() for m in re.finditer(rb"\*\d|(?<=\n)\{", data)] + [len(data)]
        match rng.randrange(8):
            case 0:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[at + size :]
            case 2:
                data = data[:at] + data[at : at + size] * 2 + data[at + size :]
            case 3:
                data = data[:at] + rng.choice(PIECES) + data[at:]
            case 4:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                data = data[:at] + other[start : start + size] + data[at:]
            case 5 | 6:  # a command or line where one can be
                at = rng.choice(places)
                words = [rng.choice(COMMANDS)] + rng.choices(WORDS, k=rng.choice((1, 2, 2, 3, 4)))
                piece = encoded(*words) if data[:1] in (b"*", b"#", b"") else rng.choice(PIECES[:2])
                data = data[:at] + piece + data[at:]
            case 7:  # another number
                numbers = list(re.finditer(rb"\d+", data))
                if numbers:
                    m = rng.choice(numbers)
                    data = data[: m.start()] + b"%d" % rng.randrange(12) + data[m.end() :]
    return data[:SIZE_MAX]


class Reached:
    """Which steps from line to line the loader has made."""

    def __init__(self):
        self.steps = set()

    def __enter__(self):
        self._outer = sys.gettrace()
        self._before = len(self.steps)
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(self._outer)
        self.new = len(self.steps) > self._before

    def _call(self, frame, event, arg):
        if frame.f_code.co_filename not in TRACED:
            return None
        last = frame.f_lineno

        def line(frame, event, arg):
            nonlocal last
            self.steps.add((frame.f_code, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line


@pytest.fixture
def judged(monkeypatch):
    """Judges, and keeps what fails."""
    monkeypatch.setattr(pykv.Store, "_clock", lambda self: NOW)
    monkeypatch.setattr(_core, "VALUE_MAX", 1 << 16)  # or SETRANGE would make values of 512 MiB

    def run(data):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                judge(data, monkeypatch)
        except BaseException:
            FOUND.mkdir(parents=True, exist_ok=True)
            file = FOUND / hashlib.sha1(data).hexdigest()
            file.write_bytes(data)
            print(f"kept in {file}")
            raise

    return run


def corpus():
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def test_corpus(judged):
    for data in corpus():
        judged(data)
        for end in range(0, len(data), 7):
            judged(data[:end])


def test_changed_files(judged, rng):
    files = corpus()
    for _ in range(300):
        judged(changed(rng, rng.choice(files), files))


@pytest.mark.slow
def test_fuzz(judged, rng, request, capsys):
    seconds = request.config.option.fuzz_seconds
    if seconds == 0:
        pytest.skip("--fuzz-seconds was not given")
    files, reached, count = corpus(), Reached(), 0
    for data in files:
        with reached:
            judged(data)
    began, end, before = len(reached.steps), time.monotonic() + seconds, time.process_time()
    while time.monotonic() < end:
        data = changed(rng, rng.choice(files), files)
        with reached:
            judged(data)
        count += 1
        if reached.new:
            files.append(data)
    with capsys.disabled():
        used = time.process_time() - before
        print(f"\nload: {count} files in {used:.0f} s of the processor, --seed {request.config.option.seed}, no finding; steps "
              f"in the loader {began}, then {len(reached.steps)}; {len(files)} files kept")
