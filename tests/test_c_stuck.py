"""A C test that does not end is told apart: which one, and what each of its threads was doing."""

import re
import shutil
import subprocess

import c_build
import c_stuck
import pytest

HANGS = """
#include "check.h"

#include <pthread.h>

static volatile bool spin = true;

static void *spin_for_ever(void *arg) {
    while (spin)
        ;
    return arg;
}

static void *nap_for_ever(void *arg) {
    while (spin)
        usleep(10000);
    return arg;
}

static void test_ends(void) {}

static void test_hangs(void) {
    pthread_t threads[2];
    CHECK_EQ(pthread_create(&threads[0], NULL, spin_for_ever, NULL), 0);
    CHECK_EQ(pthread_create(&threads[1], NULL, nap_for_ever, NULL), 0);
    printf("# hangs now\\n");
    pthread_join(threads[0], NULL);
}

CHECK_MAIN(TEST(test_ends), TEST(test_hangs))
"""


@pytest.fixture(scope="module")
def plain():
    variant = c_build.Variant("plain")
    if isinstance(variant.probe, str):
        pytest.skip(variant.probe)
    return variant


@pytest.fixture(scope="module")
def hangs(plain, tmp_path_factory):
    program = tmp_path_factory.mktemp("stuck") / "hangs"
    source = program.with_suffix(".c")
    source.write_text(HANGS)
    c_build.run_compiler(*plain.flags, source, "-o", program)
    return program


def test_a_program_that_hangs_is_ended_and_described(plain, hangs):
    for timeout in (1, 10, 100):  # until the machine is fast enough to come to it
        done = plain.run(hangs, timeout=timeout)
        assert done.returncode != 0
        if "# hangs now" in done.stdout:
            break
    assert "ok test_ends\n" in done.stdout
    assert "not ok test_hangs (signal 15)\n" in done.stdout
    assert f"# not done after {timeout} seconds\n" in done.stdout
    if not c_stuck.PROC.joinpath("self", "task").exists():
        return
    # The parent waits for its test; of that one's threads one joins, one spins, and one naps.
    doing = re.findall(r"^#   \d+ hangs: (.+?) \(", done.stdout, re.MULTILINE)
    assert len(doing) == 4, done.stdout
    assert doing.count("sleeps") >= 2, done.stdout
    assert "is busy" in doing, done.stdout
    if shutil.which("gdb") is not None and "no stacks" not in done.stdout:
        assert "spin_for_ever" in done.stdout
        assert "nap_for_ever" in done.stdout
        assert "check_run_forked" in done.stdout


def test_side_by_side_every_test_runs_and_one_failure_is_the_programs(plain, hangs):
    for timeout in (1, 10, 100):
        done = plain.run_side_by_side(hangs, "--seed", "5", timeout=timeout)
        if "# hangs now" in done.stdout and "ok test_ends\n" in done.stdout:
            break
    assert done.returncode != 0
    assert "ok test_ends\n" in done.stdout
    assert "not ok test_hangs (signal 15)\n" in done.stdout
    assert done.stdout.count("--seed 0x5\n") == 1


def test_nothing_of_it_is_left(hangs):
    with subprocess.Popen(
        [hangs], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        lines = iter(program.stdout.readline, "# hangs now\n")
        assert "ok test_ends\n" in list(lines)
        assert len(c_stuck.processes(program.pid)) == 2
        c_stuck.end(program.pid)
        program.stdout.read()  # ends when nobody has the pipe any more
    assert c_stuck.processes(program.pid) == []


@pytest.mark.parametrize(
    "before, after, doing",
    [
        (("S", 1.0, 5), ("S", 1.0, 5), "sleeps"),
        (("D", 1.0, 5), ("D", 1.0, 5), "sleeps"),
        (("S", 1.0, 5), ("S", 1.0, 9), "wakes and sleeps again"),
        (("R", 1.0, 5), ("R", 1.0, 5), "is busy"),  # it would like to be
        (("S", 1.0, 5), ("S", 1.5, 9), "is busy"),
    ],
)
def test_two_looks_tell_what_a_thread_does(before, after, doing):
    looks = [{7: c_stuck.Look("name", *look, "place")} for look in (before, after)]
    assert c_stuck.compare(*looks)[0].startswith(f"#   7 name: {doing} (")
    assert c_stuck.compare(looks[0], {}) == ["#   7 name: ended meanwhile"]


def test_what_is_not_there_is_no_error(tmp_path, monkeypatch):
    gone = subprocess.Popen(["true"], start_new_session=True)
    gone.wait()
    assert c_stuck.report(gone.pid) == ""
    c_stuck.end(gone.pid)
    monkeypatch.setattr(c_stuck, "GDB", [str(tmp_path / "no-gdb")])
    assert c_stuck.stacks(gone.pid) == "no gdb, so no stacks"
    monkeypatch.setattr(c_stuck, "PROC", tmp_path)
    assert "cannot be told" in c_stuck.report(gone.pid)
