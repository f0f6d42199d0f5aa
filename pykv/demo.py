"""`pykv demo`: a real job, with its worker killed in the middle, and every promise checked.

The job: every word in the sources of this Python's own library, with its count and its places.
A worker process loads it from several threads into a new store:

    at/WORD/FILE  ->  SEQ COUNT LINE,LINE,...   all words of a file and ...
    file/FILE     ->  SEQ COUNT                 ... this are one commit
    word/WORD     ->  SEQ COUNT FILES           one put a word, from what `at/` holds
    commits       ->  an integer                raised by one after each commit, by all threads

The worker writes `begin SEQ KEY` into a pipe before each call and `done SEQ KEY RESULT` after it
returned; SEQ is used once. The parent kills the worker with SIGKILL, reads what is left in the
pipe, reopens the store and compares it with its `Ledger` (demo_ledger.py). Then the next worker
goes on from what it finds.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pykv
from pykv.demo_ledger import FILE_WEIGHT, TALLY, DemoError, Ledger, Text, shown
from pykv.progress import Progress

# The worker finds pykv where this process did, whatever folder either runs in.
WORKER = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pykv import demo
demo.worker_main(*sys.argv[2:])
"""
SEQUENCES_PER_WORKER = 10**9
POLL_SECONDS = 0.002
PIPE_BYTES = 16384  # small, so that the worker is never far ahead of what the parent has read
LINES_SHOWN = 5


# ---- The text ----------------------------------------------------------------------------------


def library_files(limit=None):
    """Paths below the library's folder, sorted, of every module; up to `limit` words in all."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in skipped)
        inside = Path(folder).relative_to(root)
        paths += [(inside / name).as_posix() for name in names if name.endswith(".py")]
    paths.sort()
    if limit is None:
        return root, paths
    words, kept = 0, []
    for path in paths:
        if words >= limit:
            break
        kept.append(path)
        words += sum(len(lines) for lines in places(root / path).values())
    return root, kept


def places(path):
    """The worker's count: the line of each occurrence of each word of a file."""
    found = {}
    for number, line in enumerate(path.read_bytes().lower().split(b"\n"), 1):
        for word in re.findall(rb"[a-z]+", line):
            found.setdefault(word, []).append(number)
    return found


def place_value(lines):
    """COUNT LINE,LINE,... of the ascending lines of a word's occurrences."""
    return b"%d %s" % (len(lines), b",".join(b"%d" % line for line in dict.fromkeys(lines)))


# ---- The worker --------------------------------------------------------------------------------


class Journal:
    """Tells the parent about each write, before and after. One pipe write a line: never torn."""

    def __init__(self, descriptor, first_sequence):
        self._descriptor = descriptor
        self._next = first_sequence
        self._lock = threading.Lock()

    def write(self, key, call):
        """Makes one write: `call(sequence)`, which returns when it is on disk."""
        with self._lock:
            sequence = self._next
            self._next += 1
        self._say(b"begin %d %s\n" % (sequence, key))
        result = call(sequence)
        self._say(b"done %d %s %d\n" % (sequence, key, result or 0))

    def fail(self, error):
        text = " ".join(f"{type(error).__name__}: {error}".split())
        self._say(b"error 0 %s\n" % text.encode(errors="replace")[:1000])

    def _say(self, line):
        os.write(self._descriptor, line)


def work(path, threads, limit, journal):
    """Does what is still to be done of the job; the store itself says what that is."""
    root, files = library_files(limit)
    with pykv.open(path, sync="always") as store, ThreadPoolExecutor(threads) as pool:

        def load_file(file):
            name = os.fsencode(file)
            if b"file/" + name in store:
                return
            found = places(root / file)

            def commit(sequence):
                batch = {
                    b"at/%s/%s" % (word, name): b"%d %s" % (sequence, place_value(lines))
                    for word, lines in found.items()
                }
                batch[b"file/" + name] = b"%d %d" % (sequence, sum(map(len, found.values())))
                store.put_many(batch)

            journal.write(b"file/" + name, commit)
            journal.write(TALLY, lambda sequence: store.incr(TALLY))

        def load_word(item):
            word, (count, files) = item
            key = b"word/" + word
            if key in store:
                return

            def put(sequence):
                store.put(key, b"%d %d %d" % (sequence, count, files))

            journal.write(key, put)
            journal.write(TALLY, lambda sequence: store.incr(TALLY))

        _each(pool, threads, load_file, files)
        totals = {}
        for key, value in store.items():
            if key.startswith(b"at/"):
                total = totals.setdefault(key.split(b"/", 2)[1], [0, 0])
                total[0] += int(value.split(b" ", 2)[1])
                total[1] += 1
        _each(pool, threads, load_word, sorted(totals.items()))


def _each(pool, threads, function, items):
    """Calls the function on every item, from all threads. Stops at the first that raises."""
    feed, lock = iter(items), threading.Lock()

    def drain():
        while True:
            with lock:
                item = next(feed, None)
            if item is None:
                return
            try:
                function(item)
            except BaseException:
                with lock:
                    list(feed)  # nothing is left for the others
                raise

    for future in [pool.submit(drain) for _ in range(threads)]:
        future.result()


def worker_main(path, threads, limit, first_sequence):
    """The whole life of a worker process; standard output is the pipe."""
    journal = Journal(1, int(first_sequence))
    try:
        work(path, int(threads), int(limit) or None, journal)
    except BrokenPipeError:
        sys.exit(1)  # the parent is gone
    except Exception as error:
        journal.fail(error)
        sys.exit(1)


# ---- The parent --------------------------------------------------------------------------------


class Run:
    """One run of the demo. Afterwards `result()` tells what happened."""

    def __init__(self, folder, threads=8, kills=3, limit=None, stream=None):
        self.path = os.path.join(folder, "library.kv")
        self.threads, self.kills, self.limit, self.stream = threads, kills, limit, stream
        self.checks = []  # Findings: after each kill, and at the end
        self.recovery_seconds = []
        self.finished = False
        self.example = None
        self.word_commits, self.word_seconds = 0, 0.0

    def run(self):
        """Counts, loads with kills, checks. Stops at the first loss."""
        self.started = time.monotonic()
        root, files = library_files(self.limit)
        if not files:
            raise DemoError(f"there are no sources in {root}")
        with Progress("counting", len(files), self.stream) as progress:
            progress.say(f"{'reading':<10} {root}")
            progress.say(f"{'writing':<10} {self.path}")
            self.text = Text(root, files, progress)
        self.ledger = Ledger(self.text)
        total = len(files) * FILE_WEIGHT + len(self.text.words)
        with Progress("loading", total, self.stream) as progress:
            for kill in range(1, self.kills + 1):
                self._load(kill, total * kill // (self.kills + 1), progress)
                if not self._check_after_kill(kill, progress):
                    return
            self._load(self.kills + 1, None, progress)
        with Progress("checking", len(self.ledger.held), self.stream) as progress:
            with self.reopen() as store:
                findings = self.ledger.check(store, progress)
                self.example = _example(store, self.text)
        findings.wrong += [f"{shown(key)} was never written" for key in self.ledger.missing()]
        self.checks.append(findings)
        self.finished = True

    def reopen(self):
        return pykv.open(self.path, create=False)

    def _check_after_kill(self, kill, progress):
        started = time.perf_counter()
        with self.reopen() as store:
            self.recovery_seconds.append(time.perf_counter() - started)
            findings = self.ledger.check(store)
        self.checks.append(findings)
        progress.say(
            f"kill {kill:<5} {self.ledger.acknowledgements:,} writes acknowledged so far, "
            f"reopened in {self.recovery_seconds[-1]:.2f} s, lost: {len(findings.lost)}"
        )
        return not findings.lost and not findings.wrong

    def _load(self, number, stop, progress):
        """Runs a worker until it has finished or, at `stop` steps, has been killed."""
        first_sequence = number * SEQUENCES_PER_WORKER
        arguments = [json.dumps(sys.path), self.path, self.threads, self.limit or 0, first_sequence]
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends the worker
        )
        try:
            killed = self._follow(worker, stop, progress)
            code = worker.wait()
        finally:
            worker.kill()
            worker.wait()
            worker.stdout.close()
        if code not in (0, -signal.SIGKILL) or (code != 0 and not killed):
            raise DemoError(f"the worker ended by itself, with exit code {code}")
        if stop is not None and code == 0:
            raise DemoError("the worker was done before it could be killed; give it more words")

    def _follow(self, worker, stop, progress):
        """Takes the worker's journal to its end; kills at `stop`, and tells whether it did."""
        ledger, pipe = self.ledger, worker.stdout.fileno()
        _shrink(pipe)
        rest, killed, words_since = b"", False, None
        while data := os.read(pipe, 1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            before = ledger.acknowledgements
            for line in lines:
                ledger.take(line)
            progress.update(ledger.steps, f"{ledger.acknowledgements:,} writes acknowledged")
            if killed:
                continue
            now = time.monotonic()
            if words_since is not None:
                self.word_commits += ledger.acknowledgements - before
                self.word_seconds += now - words_since
                words_since = now
            elif b" word/" in data:
                words_since = now
            if stop is not None and ledger.steps >= stop:
                os.kill(worker.pid, signal.SIGKILL)
                killed = True  # and go on with what it said until then
            else:
                time.sleep(POLL_SECONDS)  # else the worker would have to wake us for each line
        return killed

    def result(self):
        """What happened, as a dict. `lost` is None unless every acknowledged write was compared."""
        checks, text, final = self.checks, self.text, self.checks[-1]
        problems = [line for findings in checks for line in findings.lost + findings.wrong]
        confirmed = sum(findings.confirmed for findings in checks)
        lost = sum(len(findings.lost) for findings in checks)
        if not problems and (not self.finished or confirmed != self.ledger.acknowledgements):
            lost = None
        return {
            "files": len(text.at),
            "words": sum(text.file_words.values()),
            "different_words": len(text.words),
            "keys": final.reads,
            "threads": self.threads,
            "kills": len(self.recovery_seconds),
            "acknowledged": self.ledger.acknowledgements,
            "confirmed": confirmed,
            "lost": lost,
            "recovered": sum(findings.recovered for findings in checks),
            "problems": problems,
            "example": self.example,
            "recovery_seconds": [round(seconds, 4) for seconds in self.recovery_seconds],
            "writes_per_second": round(self.word_commits / (self.word_seconds or 1)),
            "gets_per_second": round(final.reads / (final.read_seconds or 1)),
            "disk_bytes": _disk_bytes(self.path),
            "seconds": round(time.monotonic() - self.started, 2),
        }


def _shrink(pipe):
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass  # not Linux: the worker may run further ahead, which only makes the kill later


def _example(store, text):
    """What the store says about one of the longer words, that of the most files."""
    word = max(text.words, key=lambda word: (len(word) > 5, text.words[word][1]))
    file = next(file for file, words in text.at.items() if word in words)
    entry = store.get(b"word/" + word)
    place = store.get(b"at/%s/%s" % (word, os.fsencode(file)))
    if entry is None or place is None:
        return None
    _, count, files = map(int, entry.split())
    line = int(place.split()[2].split(b",")[0])
    return f"{word.decode()!r} occurs {count:,} times in {files:,} files, first at {file}:{line}"


def _disk_bytes(path):
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(path) if entry.is_file())


def main(directory, threads, kills, limit, keep, as_json):
    """The command; gives its exit code."""
    folder = tempfile.mkdtemp(prefix="pykv-demo-", dir=directory)
    try:
        run = Run(folder, threads, kills, limit)
        run.run()
        result = run.result()
        result["path"] = run.path if keep else None
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result) if as_json else report(result))
    return 0 if result["lost"] == 0 and not result["problems"] else 1


def report(result):
    """The result for people."""
    lost = "{lost:,}"
    if result["lost"] is None:
        lost = "not known: not every write was compared"
    elif result["lost"] == 0:
        lost = "0; every acknowledged write was compared"
    lines = {
        "text": "{words:,} words ({different_words:,} different) in {files:,} files",
        "writes": "{acknowledged:,} acknowledged to {threads} threads, each when it was on disk",
        "lost": lost,
        "example": "{example}",
        "kills": "{kills} by SIGKILL; {recovered} writes in flight were on disk already, whole",
        "recovery": ", ".join(f"{seconds:.2f} s" for seconds in result["recovery_seconds"]),
        "speed": "{writes_per_second:,} durable writes/s ({threads} threads), "
        "{gets_per_second:,} gets/s (1 thread)",
        "size": f"{{keys:,}} keys, {result['disk_bytes'] / 1e6:,.1f} MB on disk",
        "time": "{seconds:.1f} s",
    }
    if result["path"]:
        lines["store"] = "{path}"
    text = [f"{name:<10} {line.format(**result)}" for name, line in lines.items()]
    problems = result["problems"]
    text += [f"{'problem':<10} {problem}" for problem in problems[:LINES_SHOWN]]
    if len(problems) > LINES_SHOWN:
        text.append(f"{'':<10} and {len(problems) - LINES_SHOWN:,} more")
    return "\n".join(text)
