"""The mutations of mutations.py: each still has its piece of the source; and the tests notice each (slow)."""

import subprocess
import sys

import c_build
import mutations
import pytest


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda m: m.name)
def test_mutation_applies(mutation):
    assert mutation.occurrences() == 1, f"{mutation.file} has moved on: adapt tests/mutations.py"
    assert mutation.old != mutation.new
    for command in mutation.tests:
        program, *tests = command.split()
        source = c_build.test_source(program).read_text()
        assert all(f"TEST({test})" in source for test in tests), command


def test_names_are_unique():
    names = [m.name for m in mutations.MUTATIONS]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_mutations_are_caught(request):
    """The whole thing; only where it is asked for, since it builds the core for each of them."""
    if not request.config.option.mutations:
        pytest.skip("only with --mutations")
    done = subprocess.run(
        [sys.executable, mutations.__file__], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
