"""Makes golden stores, of the format version that a source tree writes. Once they are kept they are never
made again: test_golden.py opens them for ever.

    python tests/golden/make.py [SOURCE_TREE] [CASE ...]

A case is NAME.tar.gz, the store's directory, and NAME.json, what it holds:

    clean      it was closed properly
    cut        how many bytes at its end nobody was told of: an open cuts them off
    items      {key: [value, expiry]}: what it holds whenever it is opened
    expired    the same of what the log or the checkpoint still has, and no reader may see
    remaining  names of files that an open removes

Keys and values are text, one character a byte (Latin-1); a value may be [text, how often it is repeated].
What is expected is computed here, from the script alone; only the C program player.c knows the store.
"""

import gzip
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HEADER_SIZE, FRAME_SIZE = 4096, 48
MARK, CLOSE = 2, 3
YEAR_2100, YEAR_2200 = 4_102_444_800_000, 7_258_118_400_000
FOREVER = 3_600_000  # ms before a mark is written: none is


class Story:
    """What is done to a store, and what it then holds."""

    def __init__(self, sync="always", segment_max=8192, mark_ms=FOREVER):
        self.options = [sync, str(segment_max), str(mark_ms)]
        self.lines, self.items, self.expired = [], {}, {}
        self.clean, self.cut = False, 0
        self.after = []  # called with the folder, when the script has been played
        self.remaining = []
        self._batch = None

    def _say(self, line):
        (self.lines if self._batch is None else self._batch).append(line)

    def put(self, key, value, expiry=0):
        self._say(f"put {as_hex(key)} {as_hex(value)}" + (f" {expiry}" if expiry else ""))
        self.items[key] = [value, expiry]
        self.expired.pop(key, None)

    def put_soon_gone(self, key, value):
        """With an expiry that is past when anybody reads it, and not when it is written."""
        expiry = int(time.time() * 1000) + 5000
        self.put(key, value, expiry)
        self.expired[key] = self.items.pop(key)

    def delete(self, key):
        self._say(f"delete {as_hex(key)}")
        self.items.pop(key, None)
        self.expired.pop(key, None)

    def expire(self, key, expiry):
        self._say(f"expire {as_hex(key)} {expiry}")
        if key in self.items:
            self.items[key] = [self.items[key][0], expiry]

    def clear(self):
        self._say("clear")
        self.items.clear()
        self.expired.clear()

    def batch(self, *calls):
        self._batch = []
        for name, *arguments in calls:
            getattr(self, name)(*arguments)
        lines, self._batch = self._batch, None
        self.lines += [f"batch {len(lines)}", *lines]

    def say(self, *lines):
        self.lines += lines

    def close(self):
        self.say("close")
        self.clean = True

    def lose(self, key, value):
        """A put that is torn: its frame's header is on disk, the end of it is not."""
        self._say(f"put {as_hex(key)} {as_hex(value)}")
        self.after.append(self._tear)

    def _tear(self, folder):
        self.cut = tear(folder)


def as_hex(text):
    return text.encode("latin-1").hex() or "-"


# ---- What is done to the files ------------------------------------------------------------------


def segments(folder):
    return sorted(folder.glob("[0-9]*.log"))


def frames(data):
    """[(offset, size of the payload, kind)] of a segment."""
    found, at, salt = [], HEADER_SIZE, data[48:56]
    while data[at : at + 4] == b"PKVF" and data[at + 24 : at + 32] == salt:
        size, kind = struct.unpack_from("<4xI24xI", data, at)[:2]
        found.append((at, size, kind))
        at += (FRAME_SIZE + size + 15) & ~15
    return found


def tear(folder):
    """How many bytes are cut: up to the last that is not 0, or, in a recycled segment, the frame."""
    path = segments(folder)[-1]
    data = bytearray(path.read_bytes())
    at, size, _ = frames(data)[-1]
    half = at + FRAME_SIZE + size // 2
    # In a recycled segment older bytes stand there, elsewhere zeros.
    old = b"\xaa" if data[12] & 1 else b"\0"
    data[half : at + FRAME_SIZE + size] = old * (at + FRAME_SIZE + size - half)
    path.write_bytes(data)
    return ((FRAME_SIZE + size + 15) & ~15) if data[12] & 1 else len(data[at:].rstrip(b"\0"))


def need(what, condition):
    """Some of it is a matter of threads: a story that came out otherwise is told again."""
    if not condition:
        raise Again(what)


class Again(Exception):
    pass


def is_recycled(path):
    return path.read_bytes()[12] == 1


# ---- The cases ----------------------------------------------------------------------------------


def fill(story, count, size=300, keys=5):
    """More log than data: some 22 of 300 bytes fill two segments."""
    for i in range(count):
        story.put(f"key {i % keys}", chr(ord("a") + i % 26) * size)


def everything(story):
    """Each kind of record that version 1 has, and each special size."""
    story.put("apple", "red")
    story.put("apple", "green")
    story.put("pear", "yellow")
    story.put("", "the empty key")
    story.put("the empty value", "")
    story.put("\x00\xff bytes", "\x00\n\x7f\x80\xff")
    story.put("long key " * 3, "x")
    story.delete("pear")
    story.delete("not there")
    story.batch(("put", "one", "1"), ("put", "two", "2"), ("delete", "apple"), ("put", "three", "3"))


def clean():
    story = Story()
    everything(story)
    story.close()
    return story


def cleared():
    story = Story()
    everything(story)
    story.clear()
    story.put("after", "the clear")
    story.batch(("put", "one", "again"), ("put", "two", "again"))
    story.close()
    return story


def reopened():
    """Marks, and what became of closing frames, in the middle of the log."""
    story = Story(mark_ms=5)
    story.put("first", "1")
    story.say("sleep 100", "close", "open")
    story.put("second", "2")
    story.say("sleep 100", "close", "open", "close", "open")
    story.put("third", "3")
    story.say("sleep 100")
    story.close()

    def look(folder):
        kinds = [kind for _, _, kind in frames(segments(folder)[0].read_bytes())]
        need("no marks", kinds.count(MARK) >= 2 and kinds[-1] == CLOSE)

    story.after.append(look)
    return story


def rotated():
    story = Story(segment_max=16384)
    fill(story, 70)
    everything(story)
    story.close()
    story.after.append(lambda folder: need("few segments", len(segments(folder)) >= 3))
    return story


def large():
    """A commit that is larger than a segment."""
    story = Story()
    story.put("before", "1")
    story.put("large", "0123456789" * 3000)
    story.put("after", "2")
    story.close()
    return story


def killed():
    story = Story()
    everything(story)
    story.put("last", "not closed")
    return story


def torn():
    """Killed; nothing was synced, and the last frame is not whole."""
    story = Story(sync="never")
    everything(story)
    story.lose("lost", "value " * 10)
    return story


def torn_synced():
    """The same where all but the last frame are known to be durable."""
    story = Story(segment_max=16384)
    fill(story, 40)
    story.lose("lost", "value " * 10)
    return story


def expiries():
    story = Story()
    everything(story)
    story.put("far", "2100", YEAR_2100)
    story.put("farther", "2200", YEAR_2200)
    story.put("the latest", "10889", 1 << 48)
    story.put("lasting", "once had an expiry", YEAR_2100)
    story.expire("lasting", 0)
    story.expire("one", YEAR_2200)
    story.expire("not there", YEAR_2200)
    story.put_soon_gone("gone", "expired")
    story.put_soon_gone("gone and back", "expired")
    story.put("gone and back", "put again")
    story.put("overwritten", "with an expiry", YEAR_2100)
    story.put("overwritten", "without")
    story.batch(
        ("put", "batch 1", "2100", YEAR_2100),
        ("expire", "two", YEAR_2100),
        ("put", "batch 2", "never"),
        ("expire", "the latest", YEAR_2100),
        ("put_soon_gone", "batch 3", "expired"),
        ("delete", "three"),
    )
    story.close()
    return story


def checkpoint():
    """A checkpoint, and log behind it."""
    story = expiries()
    story.lines.pop()
    fill(story, 30)
    story.say("checkpoint")
    story.put("apple", "of the log")
    story.delete("far")
    story.expire("farther", 0)
    story.expire("batch 2", YEAR_2200)
    story.batch(("put", "a", "1", YEAR_2100), ("put", "b", "2"), ("delete", "key 3"))
    story.close()
    return story


def checkpoint_alone():
    """No record behind the checkpoint; and the log was cleared once."""
    story = Story()
    fill(story, 30)
    story.clear()
    everything(story)
    story.put("far", "2100", YEAR_2100)
    story.put_soon_gone("gone", "expired")
    story.say("checkpoint")
    story.close()
    return story


def checkpoint_empty():
    story = Story()
    fill(story, 30)
    story.clear()
    story.say("checkpoint")
    story.close()
    return story


def recycled():
    """Killed in a recycled segment, whose last frame is torn; recycled.log or spare.log is there as well."""
    story = Story()
    for _ in range(4):
        fill(story, 26)
        story.say("checkpoint", "sleep 50")
    fill(story, 24)
    story.say("checkpoint")
    fill(story, 3)
    story.lose("lost", "value " * 10)

    def look(folder):
        last = segments(folder)[-1]
        need("nothing recycled", is_recycled(last))
        need("no stale frames", last.read_bytes().count(b"PKVF") > 8)
        story.remaining = [n for n in ("recycled.log", "spare.log") if (folder / n).exists()]
        need("nothing to be removed", story.remaining)

    story.after.append(look)
    return story


def recycled_clean():
    story = Story()
    for _ in range(4):
        fill(story, 26)
        story.say("checkpoint", "sleep 50")
    fill(story, 24)
    everything(story)
    story.close()
    story.after.append(lambda folder: need("nothing recycled", any(map(is_recycled, segments(folder)))))
    return story


def half_checkpoint():
    """The power went while a second checkpoint was written."""
    story = Story()
    fill(story, 30)
    story.say("checkpoint")
    everything(story)
    fill(story, 20, keys=3)

    def add_half(folder):
        (data,) = (path.read_bytes() for path in folder.glob("*.ckpt"))
        (folder / "checkpoint.tmp").write_bytes(data[: len(data) // 2])

    story.after.append(add_half)
    story.remaining = ["checkpoint.tmp"]
    return story


def two_checkpoints():
    """The power went when the second checkpoint had its name, before anything else was removed."""
    story = Story()
    fill(story, 30)
    story.say("checkpoint")
    fill(story, 30)
    story.say("copy")
    story.put("far", "2100", YEAR_2100)
    story.say("checkpoint")
    story.put("last", "behind the second checkpoint")

    def put_back(folder):
        kept = folder.with_name("kept")
        newest = max(folder.glob("*.ckpt")).stem
        names = [path.name for path in kept.glob("[0-9]*.*") if not (folder / path.name).exists()]
        for name in names:
            shutil.copyfile(kept / name, folder / name)
        (folder / "recycled.log").unlink(missing_ok=True)
        need("nothing to be put back", {name[8:] for name in names} == {".log", ".ckpt"})
        need("not before the checkpoint", all(name[:8] < newest for name in names))
        story.remaining = names

    story.after.append(put_back)
    return story


def backup():
    """The copy of a store that had expiries and a checkpoint."""
    story = checkpoint()
    story.lines.pop()
    story.say("backup @")
    story.say("close")

    def take_copy(folder):
        shutil.rmtree(folder)
        folder.with_name("copy").rename(folder)

    story.after.append(take_copy)
    return story


def upgraded():
    """Version 1's store of several segments, written to by version 2."""
    story = Story(segment_max=16384)
    story.base = HERE / "v1" / "rotated"
    expected = json.loads(story.base.with_suffix(".json").read_text())
    story.items = {key: [unfolded(value), expiry] for key, (value, expiry) in expected["items"].items()}
    story.put("of version 2", "2100", YEAR_2100)
    story.expire("key 1", YEAR_2200)
    story.close()
    return story


CASES = {
    1: [clean, cleared, reopened, rotated, large, killed, torn, torn_synced],
    2: [clean, cleared, reopened, rotated, large, killed, torn, torn_synced]
    + [expiries, checkpoint, checkpoint_alone, checkpoint_empty]
    + [recycled, recycled_clean, half_checkpoint, two_checkpoints, backup, upgraded],
}


# ---- Making them --------------------------------------------------------------------------------


def compile_player(source, folder):
    program = folder / "player"
    core = [p for part in ("base", "os", "engine") for p in (source / "csrc" / part).glob("*.c")]
    command = ["cc", "-std=c11", "-O1", "-pthread", "-D_GNU_SOURCE", f"-I{source / 'csrc'}"]
    subprocess.run([*command, HERE / "player.c", *core, "-o", program], check=True)
    return program


def play(program, story, folder):
    """Plays the script; `copy` in it is the moment of which folder/../kept keeps a copy."""
    store, kept = folder / "store", folder / "kept"
    if hasattr(story, "base"):
        with tarfile.open(story.base.with_suffix(".tar.gz")) as archive:
            archive.extractall(store)
    script = "\n".join(story.lines).replace("backup @", f"backup {folder / 'copy'}")
    before, copied, after = script.partition("\ncopy\n")
    child = subprocess.Popen([program, store, *story.options], stdin=subprocess.PIPE, text=True)
    child.stdin.write(before)
    if copied:
        child.stdin.write("\nsleep 1000\n")
        child.stdin.flush()
        time.sleep(0.5)
        shutil.copytree(store, kept)
        child.stdin.write(after)
    child.stdin.close()
    if child.wait() != 0:
        sys.exit("the player failed")
    for step in story.after:
        step(store)
    return store


def pack(folder, path):
    """The same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in sorted(folder.iterdir()):
            member = tarfile.TarInfo(file.name)
            member.size, member.mode = file.stat().st_size, 0o600
            archive.addfile(member, io.BytesIO(file.read_bytes()))
    path.write_bytes(gzip.compress(buffer.getvalue(), 9, mtime=0))


def unfolded(value):
    return value if isinstance(value, str) else value[0] * value[1]


def shortened(items):
    """With long values that are repetitions written as such."""
    result = {}
    for key, (value, expiry) in items.items():
        unit = re.fullmatch(r"(.{1,10}?)\1{20,}", value, re.DOTALL)
        result[key] = [[unit[1], len(value) // len(unit[1])] if unit else value, expiry]
    return result


def make(case, program, target):
    if (target / f"{case.__name__}.json").exists():
        print(f"{case.__name__}: kept as it is")
        return
    for _ in range(20):
        with tempfile.TemporaryDirectory() as name:
            story = case()
            try:
                store = play(program, story, Path(name))
            except Again as reason:
                print(f"{case.__name__}: again ({reason})")
                continue
            pack(store, target / f"{case.__name__}.tar.gz")
            break
    else:
        sys.exit(f"{case.__name__}: never came out as it should")
    expected = {
        "about": " ".join((case.__doc__ or "").split()),
        "clean": story.clean,
        "cut": story.cut,
        "items": shortened(story.items),
        "expired": shortened(story.expired),
        "remaining": sorted(story.remaining),
    }
    text = json.dumps(expected, indent=1, sort_keys=True)
    for _ in range(2):  # a pair is one line, and so is a pair that has one
        text = re.sub(r"\[\n\s+(\S.*),\n\s+(\d+)\n\s+\]", r"[\1, \2]", text)
    (target / f"{case.__name__}.json").write_text(text + "\n")
    print(case.__name__)


def main(source=ROOT, *names):
    source = Path(source).resolve()
    header = (source / "csrc" / "engine" / "format.h").read_text()
    version = int(re.search(r"#define KV_FORMAT_VERSION (\d+)u", header)[1])
    target = HERE / f"v{version}"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        program = compile_player(source, Path(name))
        for case in CASES[version]:
            if not names or case.__name__ in names:
                make(case, program, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
