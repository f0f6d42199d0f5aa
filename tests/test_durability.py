"""The table of csrc/DURABILITY.md: each fault has its promises, and tests that there are."""

import fnmatch
import re

import c_build
import pytest

TEXT = (c_build.ROOT / "csrc" / "DURABILITY.md").read_text()
TABLE = re.search(r"^## Fault by mode.*?\n(\|.*?\|)\n\n", TEXT, re.M | re.S)[1].splitlines()
HEADER, _, *ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE]


def functions_in(name):
    """The names of the tests in the file of that name; of the scenarios, where it is theirs."""
    [path] = (c_build.ROOT / "tests").rglob(name)
    if path.suffix == ".c":
        return re.findall(r"\bTEST\((\w+)\)", path.read_text())
    prefix = "test_" if name.startswith("test_") else "[a-z]"
    return re.findall(rf"^def ({prefix}\w+)\(", path.read_text(), re.M)


def test_the_table_is_complete():
    assert HEADER[1:4] == ["`always`", "`interval`", "`never`"] and len(ROWS) >= 15
    for fault, *promises, _, tests in ROWS:
        assert fault and all(promises) and tests, fault


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_its_tests_exist(row):
    for words in row[-1].split(", "):
        file, *patterns = re.findall(r"`([^`]+)`", words)
        if not file.endswith((".py", ".c")):  # another test of the file before
            patterns, file = [file], before
        assert patterns, f"{file}: which test?"
        for pattern in patterns:
            assert fnmatch.filter(functions_in(file), pattern), f"{file} has no {pattern}"
        before = file
