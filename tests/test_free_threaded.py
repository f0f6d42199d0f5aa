"""Threads in parallel, in the interpreter too: tests/stress.py here, and on a free-threaded CPython.

One is found by PYKV_FREE_THREADED_PYTHON, the path of its program, or as python3.13t on the PATH.
pykv is built for it in a temporary virtual environment.  If that interpreter was built with
ThreadSanitizer (configure --with-thread-sanitizer), so is the extension, and any report fails the
test but for those of tests/interpreter.supp.  The whole suite runs there as everywhere:

    python3.13t -m venv VENV && VENV/bin/pip install '.[test]' && VENV/bin/pytest
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from conftest import TESTS, python_environment

ROOT = TESTS.parent
HERE_IS_FREE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
ASK = """if True:
    import json, sysconfig
    names = "Py_GIL_DISABLED", "CONFIG_ARGS", "CC"
    print(json.dumps([sysconfig.get_config_var(name) for name in names]))
"""


def stress(python, options, environment, seed, *more):
    """Runs tests/stress.py to its end; what it did."""
    command = [python, "-m", "stress", "--seed", str(seed % 1_000_000), *more]
    command += ["--seconds", str(options.getoption("stress_seconds"))]
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr[-20_000:])
    assert done.returncode == 0, f"exit status {done.returncode}"
    assert "ThreadSanitizer" not in done.stderr
    return json.loads(done.stdout)


def test_stress(request, seed):
    done = stress(sys.executable, request.config, python_environment(), seed)
    assert done["gil"] is not HERE_IS_FREE, "pykv switched the GIL on"


@pytest.fixture(scope="module")
def free_python():
    """(program, built with ThreadSanitizer?, compiler)"""
    program = os.environ.get("PYKV_FREE_THREADED_PYTHON") or shutil.which("python3.13t")
    if program is None:
        pytest.skip("no free-threaded CPython: PYKV_FREE_THREADED_PYTHON is not set, no python3.13t on the PATH")
    free, arguments, compiler = json.loads(subprocess.check_output([program, "-c", ASK]))
    if not free:
        pytest.skip(f"{program} has a GIL")
    return program, "--with-thread-sanitizer" in arguments, compiler


@pytest.fixture(scope="module")
def built(free_python, tmp_path_factory):
    """(program of a virtual environment that has pykv, environment variables)"""
    program, tsan, compiler = free_python
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"the C compiler of that interpreter, {compiler}, is not there")
    folder = tmp_path_factory.mktemp("free-threaded")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"CC": compiler, "PYKV_CFLAGS": "-O1", "PYTHONPATH": str(TESTS)}
    if tsan:
        environment["PYKV_CFLAGS"] = "-O1 -g -fsanitize=thread"
        environment["PYKV_LDFLAGS"] = "-fsanitize=thread"
        environment["PYKV_SANITIZER"] = "thread"
        environment["TSAN_OPTIONS"] = f"suppressions={TESTS / 'interpreter.supp'}:second_deadlock_stack=1"

    def run(*command):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    run(program, "-m", "venv", "--without-pip", str(folder))
    python = str(folder / "bin" / "python")
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for name in ("setuptools", "_distutils_hack", "redis"):  # pure Python: ours will do
        spec = importlib.util.find_spec(name)
        if spec is not None:
            (packages / name).symlink_to(spec.submodule_search_locations[0])
    run(python, "setup.py", "-q", "build", "--build-base", str(folder / "build"), "--build-lib", str(packages))
    return python, environment


def test_stress_without_the_gil(built, request, seed):
    python, environment = built
    done = stress(python, request.config, environment, seed)
    assert done["gil"] is False, "pykv switched the GIL on"
