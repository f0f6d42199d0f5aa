"""What the store of `pykv demo` must hold, and what it lacks.

`Text` is the parent's own count of the words, made in another way than the worker's. `Ledger`
keeps what the worker's journal says, and compares a store with both: what was acknowledged must be
there to the byte; what was begun may be there, whole; nothing else may.

A write has a key: `file/FILE` stands for the whole commit of a file, `word/WORD` for one put,
`commits` for one increment. demo.py says what each leaves in the store.
"""

import os
import time
from dataclasses import dataclass, field

import pykv

TALLY = b"commits"
FILE_WEIGHT = 10  # a file takes about as long as so many words: only to show progress


class DemoError(pykv.Error):
    """The demo could not do its work; says nothing about the store."""


def _letters():
    """A translation table: letters in lower case, ends of lines as they are, the rest spaces."""
    table = bytearray(b" " * 256)
    table[ord("\n")] = ord("\n")
    for letter in b"abcdefghijklmnopqrstuvwxyz":
        table[letter] = table[letter - 32] = letter
    return bytes(table)


class Text:
    """The parent's count, made from whole files with a translation table instead of a pattern."""

    def __init__(self, root, files, progress):
        self.at = {}  # file -> {word: COUNT LINES}
        self.file_words = {}  # file -> number of words
        self.words = {}  # word -> [count, files]
        letters = _letters()
        for index, file in enumerate(files, 1):
            self._add(file, (root / file).read_bytes().translate(letters))
            progress.update(index)

    def _add(self, file, text):
        counts, lines = {}, {}
        for number, line in enumerate(text.split(b"\n"), 1):
            for word in line.split():
                counts[word] = counts.get(word, 0) + 1
                lines.setdefault(word, {})[number] = None
        self.at[file] = {
            word: b"%d %s" % (counts[word], ",".join(map(str, lines[word])).encode())
            for word in counts
        }
        self.file_words[file] = sum(counts.values())
        for word, count in counts.items():
            total = self.words.setdefault(word, [0, 0])
            total[0] += count
            total[1] += 1

    def content(self, key, sequence):
        """What the write `key` with this sequence number leaves in the store: key -> value."""
        kind, _, name = key.partition(b"/")
        if kind == b"word":
            return {key: b"%d %d %d" % (sequence, *self.words[name])}
        file = os.fsdecode(name)
        content = {
            b"at/%s/%s" % (word, name): b"%d %s" % (sequence, value)
            for word, value in self.at[file].items()
        }
        content[key] = b"%d %d" % (sequence, self.file_words[file])
        return content


@dataclass
class Findings:
    """What one comparison of the store with the ledger found."""

    confirmed: int = 0  # acknowledged writes compared for the first time, and found
    recovered: int = 0  # not acknowledged, but there, and whole
    lost: list = field(default_factory=list)  # acknowledged, but not there as acknowledged
    wrong: list = field(default_factory=list)  # anything else that must not be
    reads: int = 0
    read_seconds: float = 0.0


class Ledger:
    """What the store must hold: the journal's lines, with the contents from the parent's count."""

    def __init__(self, text):
        self.text = text
        self.acknowledgements = 0  # writes acknowledged in all
        self.steps = 0  # how far the job is
        self.held = {}  # key of a write that must be there -> its sequence number
        self._fresh = set()  # those of them acknowledged since the last check
        self._begun = {}  # as `held`: begun, not acknowledged
        self._tally = 0  # its value at the last check
        self._tally_begun = self._tally_done = self._tally_seen = 0  # since the last check

    def take(self, line):
        """Takes one line of the journal."""
        verb, sequence, rest = line.split(b" ", 2)
        if verb == b"begin":
            if rest == TALLY:
                self._tally_begun += 1
            else:
                self._begun[rest] = int(sequence)
        elif verb == b"done":
            key, result = rest.rsplit(b" ", 1)
            self.acknowledgements += 1
            if key == TALLY:
                self._tally_done += 1
                self._tally_seen = max(self._tally_seen, int(result))
            else:
                self._hold(key, self._begun.pop(key))
                self._fresh.add(key)
        elif verb == b"error":
            raise DemoError(f"the worker failed: {shown(rest)}")
        else:
            raise DemoError(f"the worker said something unknown: {shown(line)}")

    def check(self, store, progress=None):
        """Compares; what it finds of the writes only begun must be there from now on."""
        findings = Findings()
        keys = self._check_tally(store, findings)
        for index, (key, sequence) in enumerate(self.held.items(), 1):
            content = self.text.content(key, sequence)
            keys += len(content)
            differing = _differing(store, content, findings)
            if differing:
                findings.lost.append(f"{shown(key)}: {differing[0]}")
            elif key in self._fresh:
                findings.confirmed += 1
            if progress:
                progress.update(index)
        for key, sequence in self._begun.items():
            content = self.text.content(key, sequence)
            differing = _differing(store, content, findings)
            if not differing:
                findings.recovered += 1
                keys += len(content)
                self._hold(key, sequence)
            elif any(part in store for part in content):
                findings.wrong.append(
                    f"{shown(key)}, not acknowledged, is there in part: {differing[0]}"
                )
        if len(store) != keys and not findings.lost and not findings.wrong:
            findings.wrong.append(f"the store has {len(store)} keys, not {keys}")
        self._begun.clear()
        self._fresh.clear()
        return findings

    def missing(self):
        """Keys of the job's writes that were never made."""
        job = {b"file/" + os.fsencode(file) for file in self.text.at}
        job |= {b"word/" + word for word in self.text.words}
        return sorted(job - self.held.keys())

    def _hold(self, key, sequence):
        self.held[key] = sequence
        self.steps += FILE_WEIGHT if key.startswith(b"file/") else 1

    def _check_tally(self, store, findings):
        """An acknowledged increment counts, a begun one may: so the tally has two bounds."""
        value = store.get(TALLY)
        tally = int(value or 0)
        lowest = max(self._tally + self._tally_done, self._tally_seen)
        highest = self._tally + self._tally_begun
        if tally < lowest:
            problem = f"{shown(TALLY)} is {tally}, not at least {lowest}"
            findings.lost += [problem] * (lowest - tally)
        elif tally > highest:
            findings.wrong.append(f"{shown(TALLY)} is {tally}, not at most {highest}")
        else:
            findings.confirmed += self._tally_done
            findings.recovered += tally - self._tally - self._tally_done
        self._tally = tally
        self._tally_begun = self._tally_done = 0
        return value is not None


def _differing(store, content, findings):
    """Reads the keys of `content`; tells which have another value."""
    keys, get = list(content), store.get
    started = time.perf_counter()
    values = [get(key) for key in keys]
    findings.read_seconds += time.perf_counter() - started
    findings.reads += len(keys)
    if values == list(content.values()):
        return []
    return [
        f"{shown(key)} is {'missing' if value is None else shown(value)}"
        for key, value in zip(keys, values, strict=True)
        if value != content[key]
    ]


def shown(data):
    return data[:80].decode(errors="backslashreplace")
