"""A disk that waits, fails and runs full, with the shim between the store and the system.

What is checked is in shim/scenarios.py; each scenario is a process of its own.
"""

import inspect
import os
import subprocess
import sys

import pytest

from conftest import python_environment
from shim import Control, compiled

# Scenarios that need another process's life before or after them.
ENDINGS = {"a_failed_sync_and_then_a_kill": "after_a_kill", "half_a_frame_on_a_full_disk": "after_half_a_frame"}


def scenario_names():
    from shim import scenarios

    names = [
        name
        for name, function in vars(scenarios).items()
        if inspect.isfunction(function)
        and function.__module__ == scenarios.__name__
        and list(inspect.signature(function).parameters) == ["place"]
    ]
    assert len(names) > 20
    return [name for name in names if name not in ENDINGS.values()]


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The compiled shim."""
    return compiled("shim.c", tmp_path_factory.mktemp("shim"))


class Stage:
    """Runs scenarios in one folder."""

    def __init__(self, library, folder):
        self.folder = folder / "disk"
        self.folder.mkdir()
        self.control = folder / "control"
        Control(self.control)
        self.environment = python_environment(
            LD_PRELOAD=f"{os.environ.get('LD_PRELOAD', '')} {library}".strip(),
            PYKV_SHIM_CONTROL=str(self.control),
            PYKV_SHIM_UNDER=str(self.folder),
        )

    def play(self, name, gil):
        Control(self.control).clear()
        command = [sys.executable, "-X", "faulthandler", "-m", "shim.scenarios", name, self.folder, self.control, gil]
        try:
            ended = subprocess.run(
                list(map(str, command)), env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=180
            )
        except subprocess.TimeoutExpired as late:
            pytest.fail(f"{name} hangs\n{late.stdout}\n{late.stderr}", pytrace=False)
        if ended.returncode != 0:
            pytest.fail(f"{name}: exit status {ended.returncode}\n{ended.stdout}\n{ended.stderr}", pytrace=False)


@pytest.mark.parametrize("gil", ["auto", "release"])
@pytest.mark.parametrize("name", scenario_names())
def test_scenario(library, tmp_path, name, gil):
    stage = Stage(library, tmp_path)
    stage.play(name, gil)
    if name in ENDINGS:
        stage.play(ENDINGS[name], gil)


def test_the_shim_is_between(library, tmp_path):
    """The scenarios would all pass if the shim caught nothing."""
    stage = Stage(library, tmp_path)
    code = """
import sys
import pykv
from shim import Control
disk = Control(sys.argv[2])
with pykv.open(sys.argv[1] + "/store") as store:
    store["k"] = "v" * 10_000
    store.sync()
assert disk.syncs > 0 and disk.writes > 0 and disk.dir_syncs > 0, "the shim saw nothing"
syncs = disk.syncs
import os
fd = os.open(sys.argv[1] + "/../elsewhere", os.O_CREAT | os.O_RDWR)
os.pwrite(fd, b"x", 0)
os.fsync(fd)
assert disk.syncs == syncs, "the shim meddles with other files"
"""
    command = [sys.executable, "-c", code, str(stage.folder), str(stage.control)]
    subprocess.run(command, env=stage.environment, cwd=stage.folder, check=True, timeout=60)
