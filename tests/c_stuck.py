"""What the threads of a program that does not end are doing, for the report of its test.

Looks at them twice, a second apart: a thread that has used processor time in between spins, one
that was woken in between waits in a loop, and one that did neither sleeps. The kernel says where
(/proc), and gdb, if there is one, by which calls it came there. Never raises, never takes long.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
THREADS_MAX = 64  # of a process: more are counted only
STACKS_MAX = 20_000  # characters of a process
GDB_SECONDS = 30
GDB = ["gdb", "-nx", "-batch", "-ex", "set width 0", "-ex", "thread apply all backtrace 24", "-p"]


def read(path):
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # it has ended, or we may not look
        return ""


def stat_of(path):
    """(name, the numbers behind it) of a process or thread, None once it has gone."""
    name, end, rest = read(path / "stat").rpartition(")")
    return (name.partition("(")[2], rest.split()) if end else None


def processes(session):
    """The process ids of a session, its leader's first."""
    found = []
    for path in PROC.glob("[0-9]*"):
        stat = stat_of(path)
        if stat and int(stat[1][3]) == session and stat[1][0] not in "ZX":
            found.append(int(path.name))
    return sorted(found, key=lambda pid: (pid != session, pid))


@dataclass(frozen=True)
class Look:
    """One look at one thread."""

    name: str
    state: str  # the kernel's letter: R runs, S sleeps, D waits for a disk, t is traced
    seconds: float  # of processor time so far
    wakes: int  # how often it has slept so far
    place: str

    @classmethod
    def at(cls, path):
        stat = stat_of(path)
        if stat is None:
            return None
        name, numbers = stat
        ticks = int(numbers[11]) + int(numbers[12])
        status = dict(line.split(":", 1) for line in read(path / "status").splitlines())
        call = read(path / "syscall")
        return cls(
            name=name,
            state=numbers[0],
            seconds=ticks / os.sysconf("SC_CLK_TCK"),
            wakes=int(status.get("voluntary_ctxt_switches", 0)),
            place=f"{read(path / 'wchan') or '?'}, system call {call or '?'}",
        )


def threads(pid):
    """{thread id: Look}"""
    looks = {}
    for path in sorted((PROC / str(pid) / "task").glob("*"), key=lambda p: int(p.name)):
        look = Look.at(path)
        if look is not None:
            looks[int(path.name)] = look
    return looks


def compare(before, after):
    """A line a thread."""
    lines = []
    for number, old in list(before.items())[:THREADS_MAX]:
        new = after.get(number)
        if new is None:
            lines.append(f"#   {number} {old.name}: ended meanwhile")
            continue
        seconds, wakes = new.seconds - old.seconds, new.wakes - old.wakes
        doing = "sleeps"
        if seconds > 0 or old.state == new.state == "R":
            doing = "is busy"
        elif wakes > 0:
            doing = "wakes and sleeps again"
        lines.append(
            f"#   {number} {new.name}: {doing} ({old.state} {new.state}, +{seconds:.2f} s of "
            f"{new.seconds:.2f} s, +{wakes} sleeps); {new.place}"
        )
    if len(before) > THREADS_MAX:
        lines.append(f"#   and {len(before) - THREADS_MAX} more")
    return lines


def stacks(pid):
    if shutil.which(GDB[0]) is None:
        return "no gdb, so no stacks"
    try:
        done = subprocess.run(
            [*GDB, str(pid)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GDB_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no stacks: {error}"
    lines = [line for line in done.stdout.splitlines() if line.startswith(("Thread ", "#"))]
    return "\n".join(lines)[:STACKS_MAX] or f"no stacks: {done.stderr.strip()[-500:]}"


def report(session):
    """Everything about the processes of a session, as lines that begin with #."""
    if not PROC.joinpath("self", "task").exists():
        return "# what it was doing cannot be told on this system\n"
    pids = processes(session)
    before = {pid: threads(pid) for pid in pids}
    time.sleep(1)
    after = {pid: threads(pid) for pid in pids}
    lines = []
    for pid in pids:
        lines.append(f"# process {pid}, its threads now and a second before:")
        lines += compare(before[pid], after[pid])
    first = {pid: stacks(pid) for pid in pids}
    time.sleep(1)
    for pid in pids:
        lines += [f"# stacks of process {pid}:", *indented(first[pid])]
        again = stacks(pid)
        if again == first[pid]:
            lines.append("# and the same a second later")
        else:
            lines += ["# and a second later:", *indented(again)]
    return "".join(f"{line}\n" for line in lines)


def indented(text):
    return [f"#   {line}" for line in text.splitlines()]


def end(session):
    """Ends the processes of a session: first the tests, so that check.h says which one it was."""
    for pid in processes(session):
        if pid != session:
            send(pid, signal.SIGTERM)
    time.sleep(0.5)
    # The program may have begun its next test meanwhile.
    send(session, signal.SIGKILL)
    for pid in processes(session):
        send(pid, signal.SIGKILL)


def send(pid, number):
    with contextlib.suppress(OSError):
        os.kill(pid, number)
