"""Programs with mounts of their own: nobody else sees these, and they end with the program, however it ends.

A program that finds that it cannot mount what it needs says why and exits with SKIP.
"""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from conftest import TESTS, python_environment

SKIP = 77
TOOLS = ("unshare", "mount", "umount", "mkfs.ext4")


def run_apart(module, *args, timeout):
    """Runs the module; the test is skipped where that cannot be, and fails when the module does."""
    if not sys.platform.startswith("linux"):
        pytest.skip("mounts file systems, as Linux does it")
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount file systems")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, to mount file systems")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("this root may not have mounts of its own")
    command = ["unshare", "--mount", sys.executable, "-X", "faulthandler", "-m", module, *map(str, args)]
    program = subprocess.Popen(
        command,
        cwd=TESTS,  # not where the sources of pykv are: `-m` would find those
        env=python_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = program.communicate(timeout=timeout)
        late = ""
    except subprocess.TimeoutExpired:
        out, late = "", f" (not done after {timeout} s)"
    finally:
        # Whoever it has started, too: the mounts stay as long as anybody has them.
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if program.returncode is None:
            out, _ = program.communicate()
    if program.returncode == SKIP:
        pytest.skip(out.strip())
    print(out)
    if program.returncode != 0:
        pytest.fail(f"{module} ended with {program.returncode}{late}\n{out}", pytrace=False)
