"""Builds the C core and its tests, without Python, once per variant (plain, asan, tsan).

Objects live in build/c-tests/VARIANT and are made again when a file that went into them is newer.
A source of the core that does not compile is left out of the variant's archive, so that the tests
of the other modules still run; test_c.py reports it by its name.

    python tests/c_build.py plain test_file     builds one program and prints its path
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import c_stuck

ROOT = Path(__file__).resolve().parent.parent
TESTS = (ROOT / "tests" / "c", ROOT / "tests" / "sim")
BUILD = ROOT / "build" / "c-tests"
CORE_FOLDERS = ("base", "os", "engine", "server")

COMPILER = shlex.split(os.environ.get("CC", "cc"))
FLAGS = ["-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-DKV_DEBUG", "-Icsrc"]
FLAGS += ["-Wno-missing-field-initializers"]
FLAGS += ["-Itests/c", "-Itests/sim"]
if sys.platform != "darwin":
    FLAGS += ["-D_GNU_SOURCE"]

VARIANT_FLAGS = {
    "plain": ["-O2"],
    "asan": ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    + ["-fno-sanitize-recover=all"],
    "tsan": ["-O1", "-fno-omit-frame-pointer", "-fsanitize=thread"],
    "coverage": ["-O0", "--coverage"],  # c_coverage.py
    "fuzz": ["-O1", "-fno-omit-frame-pointer", "-fsanitize=fuzzer-no-link,address,undefined"]
    + ["-fno-sanitize-recover=all", "-Wno-error", "-DCHECK_ABORTS"],
}
FUZZ_COMPILER = "clang"  # the others have no libFuzzer

# A report must end the test as a failure, and must not be hidden by the tests' own exit code.
RUN_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


class BuildError(Exception):
    """A compiler or linker failed; the text is what it printed."""


def core_sources():
    return sorted(p for folder in CORE_FOLDERS for p in (ROOT / "csrc" / folder).glob("*.c"))


def headers():
    return sorted((ROOT / "csrc").rglob("*.h"))


def test_sources():
    return sorted(p for folder in TESTS for p in folder.glob("test_*.c"))


def support_sources():
    return sorted(p for folder in TESTS for p in folder.glob("*.c") if not p.name.startswith("test_"))


def test_source(program):
    """The source of the program of that name."""
    return next(source for source in test_sources() if source.stem == program)


def declares(source, what):
    """Does the program have the line ``/* what */`` near its top?"""
    with source.open() as lines:
        return any(line.strip() == f"/* {what} */" for line, _ in zip(lines, range(40), strict=False))


def wants_tsan(source):
    """Is it meant for the thread sanitizer?"""
    return declares(source, "tsan")


def processors():
    """How many of them are ours, when pytest-xdist shares them among several of us."""
    count = os.cpu_count() or 1
    return max(1, count // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))


def run_compiler(*args, compiler=COMPILER):
    done = subprocess.run(
        [*compiler, *map(str, args)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{' '.join(done.args)}\n{done.stdout}{done.stderr}")


def is_fresh(product, inputs):
    """Is `product` newer than everything it was made from?"""
    try:
        made = product.stat().st_mtime_ns
        return all(Path(ROOT, i).stat().st_mtime_ns < made for i in inputs)
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Variant:
    name: str

    @property
    def folder(self):
        return BUILD / self.name

    @property
    def compiler(self):
        return [FUZZ_COMPILER] if self.name == "fuzz" else COMPILER

    @property
    def flags(self):
        return FLAGS + VARIANT_FLAGS[self.name]

    @contextlib.contextmanager
    def locked(self):
        """One process at a time builds in the folder (pytest may run in several)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @cached_property
    def probe(self):
        """How to start a program of this variant, as a list; or the reason why none can run."""
        if shutil.which(self.compiler[0]) is None:
            return f"no C compiler ({self.compiler[0]})"
        with self.locked():
            source, program = self.folder / "probe.c", self.folder / "probe"
            source.write_text("int main(void) { return 0; }\n")
            try:
                run_compiler(*self.flags, source, "-o", program, compiler=self.compiler)
            except BuildError as error:
                return f"the compiler cannot build it: {str(error).splitlines()[-1]}"
        # Some kernels place mappings where a sanitizer wants its own; setarch -R avoids that.
        for prefix in ([], ["setarch", "-R"]):
            if prefix and shutil.which(prefix[0]) is None:
                continue
            if subprocess.run([*prefix, program], capture_output=True, check=False).returncode == 0:
                return prefix
        return "the compiler builds it, but the program does not run"

    def compile(self, source):
        """The object file of `source`; raises BuildError."""
        obj = self.folder / source.relative_to(ROOT).with_suffix(".o")
        command = obj.with_suffix(".cmd")
        depends = obj.with_suffix(".d")
        wanted = " ".join(self.compiler + self.flags)
        if (
            depends.exists()
            and command.exists()
            and command.read_text() == wanted
            and is_fresh(obj, depends.read_text().replace("\\\n", " ").split()[1:])
        ):
            return obj
        obj.parent.mkdir(parents=True, exist_ok=True)
        obj.unlink(missing_ok=True)
        source = source.relative_to(ROOT)
        run_compiler(*self.flags, "-MMD", "-c", source, "-o", obj, compiler=self.compiler)
        command.write_text(wanted)
        return obj

    def compile_all(self, sources):
        """[(source, object or BuildError)], in parallel."""

        def attempt(source):
            try:
                return source, self.compile(source)
            except BuildError as error:
                return source, error

        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            return list(pool.map(attempt, sources))

    @cached_property
    def archive(self):
        """(path, {source: BuildError}): everything that compiles, and what does not."""
        with self.locked():
            results = self.compile_all(core_sources() + support_sources())
            broken = {s: r for s, r in results if isinstance(r, BuildError)}
            objects = [r for _, r in results if not isinstance(r, BuildError)]
            path = self.folder / "core.a"
            path.unlink(missing_ok=True)
            subprocess.run(["ar", "rcs", path, *objects], check=True)
        return path, broken

    def program(self, source, *more):
        """The test program of `source` and of `more` sources; raises BuildError."""
        path, broken = self.archive
        program = self.folder / source.stem
        with self.locked():
            objects = [self.compile(s) for s in (source, *more)]
            link = ["-fsanitize=fuzzer"] if self.name == "fuzz" else []
            inputs = [*self.flags, *link, *objects, path]
            try:
                run_compiler(*inputs, "-o", program, compiler=self.compiler)
            except BuildError as error:
                missing = "".join(f"\nnot in the archive: {s.name}" for s in broken)
                raise BuildError(f"{error}{missing}") from None
        return program

    def run(self, program, *args, timeout=600):
        """Runs it to its end; when it has none, its output tells what it was doing instead."""
        with subprocess.Popen(
            [*self.probe, program, *args],
            env={**os.environ, **RUN_ENV},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # its tests have process groups of their own
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                doing = c_stuck.report(process.pid)
                c_stuck.end(process.pid)
                output, _ = process.communicate()
                output += f"# not done after {timeout} seconds\n{doing}"
            except BaseException:
                c_stuck.end(process.pid)
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def run_side_by_side(self, program, *args, timeout=600):
        """Each test of the program in one of its own, as many at once as there are processors."""
        names = self.run(program, "--list").stdout.split()
        with ThreadPoolExecutor(processors()) as pool:
            runs = [pool.submit(self.run, program, *args, name, timeout=timeout) for name in names]
            done = [run.result() for run in runs]
        failed = [one.returncode for one in done if one.returncode != 0]
        output = "".join(one.stdout for one in done)
        return subprocess.CompletedProcess([program, *args], failed[0] if failed else 0, output)


if __name__ == "__main__":
    print(Variant(sys.argv[1]).program(test_source(sys.argv[2])))
