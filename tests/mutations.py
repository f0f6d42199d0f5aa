"""Breaks the store on purpose, in known ways, and shows that the tests notice each.

    python tests/mutations.py                    all of them: a table, and "20 of 20 mutations caught"
    python tests/mutations.py --list             what there is
    python tests/mutations.py log-sync salt      some, by their names
    python tests/mutations.py --jobs 2           so many at the same time

A mutation replaces one piece of the source, which must occur exactly once: source that has moved on is
an error, not a mutation that nobody notices. It is made in a copy of the tree, in a temporary folder.
There the tests that are to notice it must pass before, and one of them must fail after, by itself: a
program that does not build, or does not come to its end in time, proves nothing.

The tests are C programs, by name or with the tests in them to run: most work on a simulated file
system, which tells within seconds what a power cut would have cost.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEED = "1"  # the same for all, so that a mutant meets what the unchanged program met
TIME_LIMIT = 120  # seconds, for one test of a program
VARIANT = "plain"
BUILT = Path("build/c-tests", VARIANT)


@dataclass(frozen=True)
class Mutation:
    name: str
    breaks: str  # in a few words, as what is done wrong
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # "PROGRAM [TEST ...]"; one of them has to notice

    def occurrences(self, root=ROOT):
        return (root / self.file).read_text().count(self.old)

    def apply(self, root):
        path = root / self.file
        path.write_text(path.read_text().replace(self.old, self.new))


MUTATIONS = (
    # ---- The log ------------------------------------------------------------------------------
    Mutation(
        "log-sync",
        "acknowledges commits without a sync of the log",
        "csrc/engine/log.c",
        "    kv_status status = kv_file_sync(&log->segment.file, err);\n",
        "    kv_status status = KV_OK;\n    (void)err;\n",
        ("test_crash test_power_cut_without_direct_io_1",),
    ),
    Mutation(
        "directory-sync",
        "gives a new segment its name, and does not sync the directory",
        "csrc/engine/segment.c",
        "    if (status == KV_OK)\n        status = kv_dir_sync(file->dir, err);\n",
        "",
        ("test_crash test_power_cut_without_direct_io_1",),
    ),
    Mutation(
        "name-again",
        "goes on in the old segment when the new one may have its name",
        "csrc/engine/log.c",
        "    status = kv_segment_publish(&next, err);\n",
        "    status = kv_segment_publish(&next, err);\n    *for_good = status >= 0;\n",
        ("test_log_faults test_rename_fails_but_is_done",),
    ),
    Mutation(
        "late-sync",
        "acknowledges every other commit before the sync that covers it",
        "csrc/engine/log.c",
        "    if ((g->sync || log->options->sync == KV_SYNC_ALWAYS) &&\n",
        "    static int turn;\n"
        "    if ((g->sync || log->options->sync == KV_SYNC_ALWAYS) && ++turn % 2 == 0 &&\n",
        ("test_crash test_power_cut_without_direct_io_1",),
    ),
    Mutation(
        "early-wake",
        "wakes those who wait for a commit before it is written and synced",
        "csrc/engine/log.c",
        "    if (!failed)\n        status = flush(log, g, &for_good, &err);\n",
        "    if (!failed) {\n"
        "        group_done(g, KV_OK, NULL);\n"
        "        kv_futex_wake(&g->word, KV_FUTEX_ALL);\n"
        "        status = flush(log, g, &for_good, &err);\n"
        "    }\n",
        ("test_concurrent test_reader_during_a_sync",),
    ),
    Mutation(
        "sync-again",
        "tries a failed sync once more, and goes on when that succeeds",
        "csrc/engine/log.c",
        "    if (status < 0)\n"
        "        return status;\n"
        "    atomic_fetch_add_explicit(&log->syncs, 1, memory_order_relaxed);\n",
        "    if (status < 0)\n"
        "        status = kv_file_sync(&log->segment.file, err);\n"
        "    if (status < 0)\n"
        "        return status;\n"
        "    atomic_fetch_add_explicit(&log->syncs, 1, memory_order_relaxed);\n",
        ("test_log_faults test_failed_syncs test_failed_sync_is_final",),
    ),
    Mutation(
        "early-visible",
        "shows readers what is appended, before it is durable",
        "csrc/engine/store.h",
        "    return store->log != NULL ? kv_log_committed(store->log) : atomic_load(&store->memory_lsn);\n",
        "    return store->log != NULL ? UINT64_MAX : atomic_load(&store->memory_lsn);\n",
        ("test_concurrent test_reader_during_a_sync test_reader_during_a_write",),
    ),
    Mutation(
        "no-undo",
        "leaves changes in memory whose commit failed",
        "csrc/engine/change.c",
        "        kv_status status = kv_undo_rollback(&store->table, shard, lsn, err);\n",
        "        kv_status status = KV_OK;\n        (void)lsn, (void)err;\n",
        ("test_log_faults test_no_space_rolls_back",),
    ),
    # ---- Recovery -----------------------------------------------------------------------------
    Mutation(
        "frame-checksum",
        "takes a frame without a look at its checksum",
        "csrc/engine/recover.c",
        "    if (kv_crc32c(0, *payload, header->payload_size) != header->payload_crc)\n"
        "        return KV_NOTFOUND;\n",
        "",
        ("test_corruption test_random_damage",),
    ),
    Mutation(
        "half-batch",
        "applies of each commit of many keys the last one only",
        "csrc/engine/recover.c",
        "        kv_status status = kv_applier_add(r->applier, &record, err);\n",
        "        kv_status status = record.last ? kv_applier_add(r->applier, &record, err) : KV_OK;\n",
        ("test_store_single test_batch",),
    ),
    Mutation(
        "salt",
        "takes frames that the segment's file has from an earlier life",
        "csrc/engine/recover.c",
        "    if (!kv_frame_header_decode(header, bytes) || header->lsn != lsn ||\n"
        "        header->salt != r->segment->header.salt ||\n",
        "    if (!kv_frame_header_decode(header, bytes) || header->lsn != lsn ||\n",
        ("test_corruption test_a_frame_of_an_earlier_life",),
    ),
    Mutation(
        "lsn",
        "takes frames that belong to another place of the log",
        "csrc/engine/recover.c",
        "    if (!kv_frame_header_decode(header, bytes) || header->lsn != lsn ||\n",
        "    if (!kv_frame_header_decode(header, bytes) ||\n",
        ("test_corruption test_a_frame_of_an_earlier_life",),
    ),
    Mutation(
        "stale-segment",
        "replays what a recycled segment's file had before",
        "csrc/engine/recover.c",
        "    if (!kv_frame_header_decode(header, bytes) || header->lsn != lsn ||\n"
        "        header->salt != r->segment->header.salt ||\n",
        "    if (!kv_frame_header_decode(header, bytes) ||\n",
        ("test_crash test_power_cut_without_direct_io_1",),
    ),
    Mutation(
        "killed-names",
        "opens after a kill without a sync of the directory, in which names may be new",
        "csrc/engine/open.c",
        "    if (contents->store_file && !store->options.read_only)\n"
        "        status = kv_dir_sync(&store->dir, err);\n",
        "",
        ("test_crash test_power_cut_without_direct_io_1",),
    ),
    # ---- Memory -------------------------------------------------------------------------------
    Mutation(
        "early-free",
        "frees an entry when one user is left",
        "csrc/engine/entry.h",
        "           atomic_fetch_sub_explicit(&e->references, 1, memory_order_acq_rel) == 1;\n",
        "           atomic_fetch_sub_explicit(&e->references, 1, memory_order_acq_rel) <= 2;\n",
        ("test_snapshot test_walk_while_it_changes",),
    ),
    # ---- Checkpoints and the worker -----------------------------------------------------------
    Mutation(
        "checkpoint-sync",
        "gives a checkpoint its name before it is on disk",
        "csrc/engine/checkpoint.c",
        "    if (status == KV_OK)\n"
        "        status = kv_file_sync(&w->file, err);\n"
        "    return status;\n"
        "}\n\n"
        "kv_status kv_checkpoint_publish(",
        "    return status;\n"
        "}\n\n"
        "kv_status kv_checkpoint_publish(",
        ("test_checkpoint test_power_cut_in_a_backup",),
    ),
    Mutation(
        "worker-word",
        "the worker looks whether it is to stop before it loads the word that tells so",
        "csrc/engine/worker.c",
        "        uint32_t word = atomic_load(&w->word);\n"
        "        if (atomic_load(&w->stopping))\n"
        "            return NULL;\n",
        "        if (atomic_load(&w->stopping))\n"
        "            return NULL;\n"
        "        uint32_t word = atomic_load(&w->word);\n",
        ("test_worker test_hears_of_the_end",),
    ),
    # ---- The server ---------------------------------------------------------------------------
    Mutation(
        "reply-early",
        "sends the reply to a write before the write is on disk",
        "csrc/server/conn.c",
        "    if (kv_take_noted(loop->db))\n        hold_back(conn, start);\n",
        "    if (kv_take_noted(loop->db) && conn->dead)\n        hold_back(conn, start);\n",
        ("test_server test_reply_waits_for_the_disk",),
    ),
    Mutation(
        "reply-kept",
        "sends the reply to a write whose commit failed as if it had not",
        "csrc/server/conn.c",
        "    if (wait->status < 0)\n        replace_replies(conn, hold, wait->failure);\n",
        "    if (wait->status < 0 && hold->replies == 0)\n"
        "        replace_replies(conn, hold, wait->failure);\n",
        ("test_server test_a_failed_sync_is_told",),
    ),
    Mutation(
        "undone-ticket",
        "forgets what a reply waits for when that is undone before the reply is held back",
        "csrc/engine/deferred.c",
        "        *ticket = *pending;\n        pending->group = NULL;\n",
        "        kv_log_forget(pending);\n",
        ("test_deferred test_undone_before_the_ticket_is_taken",),
    ),
)


# ---- Copies of the tree ---------------------------------------------------------------------------


def copy_tree(source, target):
    """What the C tests are made of, and what has been made of it (times are kept, so that stays fresh)."""
    target.mkdir()
    for part in ("csrc", "tests", BUILT):
        if (source / part).exists():
            shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))


@dataclass(frozen=True)
class Outcome:
    kind: str  # "pass", "fail", "build error", "hang"
    text: str

    @property
    def reason(self):
        """The line that tells most."""
        lines = self.text.splitlines()
        if self.kind == "build error":
            return next((line for line in lines if "error:" in line), lines[-1])
        failed = next((i for i, line in enumerate(lines) if line.startswith("not ok")), None)
        if failed is None:  # it did not get as far as that
            return lines[-1] if lines else "it ended without a word"
        told = failed > 0 and not lines[failed - 1].startswith("ok ")
        return lines[failed - 1].removeprefix("# ") if told else lines[failed]


def build(root, program):
    """Builds it in the tree; what went wrong, or None."""
    built = subprocess.run(
        [sys.executable, "tests/c_build.py", VARIANT, program],
        cwd=root, capture_output=True, text=True, check=False,
    )
    return None if built.returncode == 0 else built.stdout + built.stderr


def run(root, command):
    """Runs a command in the tree, where its program has been built."""
    program, *tests = command.split()
    path = root / BUILT / program
    # The program itself ends each of its tests that takes too long.
    done = subprocess.run(
        [path, "--seed", SEED, "--timeout", str(TIME_LIMIT), *tests],
        cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False,
    )
    if done.returncode == 0:
        return Outcome("pass", done.stdout)
    failed = [line for line in done.stdout.splitlines() if line.startswith("not ok")]
    hung = failed and all("(not done after" in line for line in failed)
    return Outcome("hang" if hung else "fail", done.stdout)


@dataclass(frozen=True)
class Result:
    mutation: Mutation
    verdict: str  # "caught", "NOT CAUGHT", "build error", "hang"
    command: str
    reason: str
    seconds: float


def try_mutation(mutation, base, folder):
    """Whether one of its tests notices it, in a copy of `base`."""
    root = folder / mutation.name
    started = time.monotonic()
    copy_tree(base, root)
    try:
        mutation.apply(root)
        for command in mutation.tests:
            error = build(root, command.split()[0])
            outcome = Outcome("build error", error) if error is not None else run(root, command)
            if outcome.kind != "pass":
                break
    finally:
        shutil.rmtree(root)
    verdict = {"pass": "NOT CAUGHT", "fail": "caught"}.get(outcome.kind, outcome.kind)
    reason = "" if outcome.kind == "pass" else outcome.reason
    return Result(mutation, verdict, command, reason, time.monotonic() - started)


def check(chosen, jobs):
    """Prints what became of each; the exit status."""
    moved = [m for m in chosen if m.occurrences() != 1]
    for m in moved:
        print(f"{m.name}: its piece of {m.file} occurs {m.occurrences()} times, not once: adapt tests/mutations.py")
    if moved:
        return 2
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(jobs) as pool:
        base = Path(folder) / "unchanged"
        copy_tree(ROOT, base)
        commands = sorted({command for m in chosen for command in m.tests})
        programs = sorted({command.split()[0] for command in commands})
        for program in programs:  # one after the other: each compiles with all processors
            if (error := build(base, program)) is not None:
                print(f"{program} does not build, unchanged as it is\n{error}")
                return 2
        for command, outcome in zip(commands, pool.map(lambda c: run(base, c), commands), strict=True):
            if outcome.kind != "pass":
                print(f"{command}: {outcome.kind} in the unchanged tree\n{outcome.text}")
                return 2
        print(f"{len(commands)} commands pass in the unchanged tree", flush=True)
        caught = 0
        print(f"{'mutation':16} {'verdict':12} {'time':>6}  noticed by")
        for result in pool.map(lambda m: try_mutation(m, base, Path(folder)), chosen):
            caught += result.verdict == "caught"
            print(f"{result.mutation.name:16} {result.verdict:12} {result.seconds:5.1f}s  {result.command}")
            if result.reason:
                print(f"{'':16} {result.reason[:100]}", flush=True)
    print(f"{caught} of {len(chosen)} mutations caught")
    return 0 if caught == len(chosen) else 1


def main():
    parser = argparse.ArgumentParser(description="Breaks the store on purpose; the tests must notice.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations; default: all")
    parser.add_argument("--list", action="store_true", help="what there is, and which tests notice it")
    parser.add_argument("--jobs", type=int, default=1, help="how many at the same time (default: 1)")
    args = parser.parse_args()
    known = {m.name: m for m in MUTATIONS}
    for name in args.names:
        if name not in known:
            parser.error(f"there is no mutation {name!r}; --list tells which there are")
    chosen = [known[name] for name in dict.fromkeys(args.names)] or list(MUTATIONS)
    if args.list:
        for m in chosen:
            print(f"{m.name:16} {m.breaks}\n{'':16} {m.file}; {', '.join(m.tests)}")
        return 0
    return check(chosen, args.jobs)


if __name__ == "__main__":
    sys.exit(main())
