"""Which lines of the C code the tests run: built with gcov's counters, run, counted a folder at a time.

    python tests/c_coverage.py [--keep] [--no-run] [--list] [pytest's arguments]

Runs pytest (all of it, or what its arguments name, in this folder) on an extension and on C tests that count; --keep adds
to what an earlier run has counted, --no-run only looks at that. COVERAGE.md says why lines are left that nothing ran, by
function or by what they say; --list shows all of them, otherwise those are shown that it does not explain. Exit status 1: too
little is covered, or something is left and not explained.
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import c_build

FOLDER = c_build.ROOT / "build" / "coverage"
OBJECTS = (FOLDER, c_build.BUILD / "coverage")
REASONS = Path(__file__).with_name("COVERAGE.md")
LEAST = {"engine": 95.0, "all": 90.0}  # percent of the lines


def build_extension():
    """The package with an extension that counts, in a folder of its own."""
    package = FOLDER / "lib" / "pykv"
    flags = {"PYKV_CFLAGS": " ".join(["-g", *c_build.VARIANT_FLAGS["coverage"]]), "PYKV_LDFLAGS": "--coverage"}
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", FOLDER, "--build-lib", package.parent]
    subprocess.run(command, cwd=c_build.ROOT, env={**os.environ, **flags}, check=True)
    return package.parent


def run_tests(library, arguments):
    found = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYKV_C_VARIANTS": "coverage",
        "PYTHONPATH": f"{library}{os.pathsep}{found}" if found else str(library),
    }
    tests = arguments or ["-q"]
    # Not in the folder of the sources, where Python would find those.
    return subprocess.run(
        ["pytest", "--timeout", "0", *tests], cwd=c_build.ROOT / "tests", env=environment, check=False
    ).returncode


def counted():
    """{source file: {line: (times run, function)}}, of all objects that there are."""
    lines = collections.defaultdict(dict)
    for data in sorted(path for folder in OBJECTS for path in folder.rglob("*.gcda")):
        done = subprocess.run(
            ["gcov", "--json-format", "--stdout", data], cwd=c_build.ROOT, capture_output=True, text=True, check=True
        )
        for text in done.stdout.splitlines():
            for source in json.loads(text)["files"]:
                if not source["file"].startswith("csrc/"):
                    continue
                found = lines[source["file"]]
                for line in source["lines"]:
                    number = line["line_number"]
                    before = found.get(number, (0, ""))[0]
                    found[number] = before + (line["count"] != 0), line.get("function_name", "")
    return lines


def reasons():
    """Of COVERAGE.md: {(file, function): reason}, [(pattern of a line, reason)]."""
    text = REASONS.read_text()
    functions = re.findall(r"^\| `(csrc/\S+)` \| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    patterns = re.findall(r"^\| ``(.+)`` \| (.+) \|$", text, re.MULTILINE)
    return (
        {(file, function): reason for file, function, reason in functions},
        [(re.compile(pattern.replace("\\|", "|")), reason) for pattern, reason in patterns],
    )


def explain(file, function, numbers, functions, patterns):
    """[(number, text, reason or None)]; a line without a reason of its own has that of the one before it."""
    source = (c_build.ROOT / file).read_text().splitlines()
    reason, explained = functions.get((file, function)), []
    for number in numbers:
        text = source[number - 1]
        if (file, function) not in functions:
            reason = next((why for pattern, why in patterns if pattern.search(f"{file}: {text}")), reason)
        explained.append((number, text, reason))
    return explained


def percent(counts):
    return 100 * sum(count > 0 for count in counts) / len(counts)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--no-run", action="store_true")
    parser.add_argument("--list", action="store_true")
    options, arguments = parser.parse_known_args()
    if not options.no_run:
        for folder in OBJECTS if not options.keep else ():
            for data in folder.rglob("*.gcda"):
                data.unlink()
        if run_tests(build_extension(), arguments) != 0:
            print("some tests failed")

    lines = counted()
    folders = collections.defaultdict(list)
    left = collections.defaultdict(list)
    for file, found in lines.items():
        for number, (count, function) in sorted(found.items()):
            folders[file.split("/")[1] if file.count("/") > 1 else "csrc"].append(count)
            folders["all"].append(count)
            if count == 0:
                left[file, function].append(number)
    functions, patterns = reasons()
    unexplained = 0
    for (file, function), numbers in sorted(left.items()):
        for number, text, reason in explain(file, function, numbers, functions, patterns):
            unexplained += reason is None
            if reason is None or options.list:
                print(f"{file}:{number}: {function}: {reason or 'NOT EXPLAINED'}\n    {text.strip()}")
    low = []
    for folder, counts in sorted(folders.items(), key=lambda item: (item[0] == "all", item[0])):
        share = percent(counts)
        low += [folder] if share < LEAST.get(folder, 0.0) else []
        print(f"{folder:<8} {share:6.2f} % of {len(counts)} lines, {counts.count(0)} left")
    print(f"{sum(map(len, left.values()))} lines of {len(left)} functions are left, {unexplained} lines not explained")
    for file, function in sorted(set(functions) - set(left)):
        print(f"explained in {REASONS.name}, but covered: {file}: {function}")
    return 1 if low or unexplained else 0


if __name__ == "__main__":
    if shutil.which("gcov") is None:
        sys.exit("gcov, which comes with gcc, is not here")
    sys.exit(main())
