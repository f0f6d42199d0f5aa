"""A disk that is really full: a clean error, nothing lost, and with room again the same store goes on.

What is checked is in full_disk.py; each scenario is a process of its own, with a small file system of its own.
"""

import inspect

import pytest

import full_disk
from apart import run_apart
from conftest import MODES

SCENARIOS = [
    name
    for name, function in vars(full_disk).items()
    if inspect.isfunction(function)
    and function.__module__ == full_disk.__name__
    and list(inspect.signature(function).parameters) == ["place"]
]


IN_EACH_MODE = ("each_kind_of_write", "growing_until_the_disk_is_full")


@pytest.mark.parametrize("kind", full_disk.KINDS)
@pytest.mark.parametrize(
    "name, mode", [(name, mode) for name in SCENARIOS for mode in (MODES if name in IN_EACH_MODE else ("always",))]
)
def test_scenario(tmp_path, name, mode, kind):
    run_apart("full_disk", tmp_path, kind, name, mode, timeout=120)
