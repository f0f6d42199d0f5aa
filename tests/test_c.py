"""The tests of the C core, as pytest cases: one per program and variant.

A program is tests/c/test_*.c or tests/sim/test_*.c, linked with csrc/{base,os,engine,server}.
Variants: plain (debug assertions), asan (address and undefined-behaviour sanitizers), tsan (programs
with a line ``/* tsan */`` near the top). PYKV_C_VARIANTS=plain,asan chooses some; PYKV_C_SEED=N
repeats a run with the seed that a failure printed. The tests of a program with a line
``/* side by side */`` there run at the same time: several long ones, each at work in one thread at a
time. What the programs print is shown with -rA.
"""

import os
import re
from functools import cache

import c_build
import pytest

VARIANTS = os.environ.get("PYKV_C_VARIANTS", "plain,asan,tsan").split(",")
SLOW = "PYKV_C_CRASH" in os.environ or "coverage" in VARIANTS  # see tests/sim/test_crash.c; without optimization
TIMEOUT = None if SLOW else 600  # seconds


@cache
def variant(name):
    return c_build.Variant(name)


@pytest.fixture(scope="module", params=VARIANTS)
def c_variant(request):
    if request.param not in c_build.VARIANT_FLAGS:
        pytest.fail(f"PYKV_C_VARIANTS: there is no variant {request.param!r}")
    chosen = variant(request.param)
    if isinstance(chosen.probe, str):
        pytest.skip(f"{request.param}: {chosen.probe}")
    return chosen


def compiles(*args):
    try:
        c_build.run_compiler(*args)
    except c_build.BuildError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.mark.parametrize("source", c_build.core_sources(), ids=lambda p: p.name)
def test_source_compiles(source, tmp_path):
    """As shipped: without debug assertions, and with every warning an error."""
    flags = [f for f in c_build.FLAGS if f != "-DKV_DEBUG"]
    compiles(*flags, "-O2", "-c", source, "-o", tmp_path / "source.o")


@pytest.mark.parametrize(
    "header",
    [p for p in c_build.headers() if "python" not in p.parts],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_header_compiles_alone(header, tmp_path):
    """Whoever includes a header needs nothing before it, and twice does no harm."""
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{header}"\n#include "{header}"\n')
    compiles(*c_build.FLAGS, "-Wno-unused-function", "-fsyntax-only", source)


@pytest.mark.parametrize("source", c_build.test_sources(), ids=lambda p: p.stem)
def test_program(source, c_variant):
    if c_variant.name == "tsan" and not c_build.wants_tsan(source):
        pytest.skip("the program has no line /* tsan */")
    try:
        program = c_variant.program(source)
    except c_build.BuildError as error:
        pytest.fail(str(error), pytrace=False)
    seed = os.environ.get("PYKV_C_SEED")
    side_by_side = c_build.declares(source, "side by side")
    run = c_variant.run_side_by_side if side_by_side else c_variant.run
    args = [*(["--seed", seed] if seed else []), *(["--timeout", "0"] if SLOW else [])]
    done = run(program, *args, timeout=TIMEOUT)
    if done.returncode != 0:
        pytest.fail(f"exit code {done.returncode}\n{done.stdout}", pytrace=False)
    print(done.stdout)
    counts = [int(count) for count in re.findall(r"(\d+) distinct crash images", done.stdout)]
    if counts:
        print(f"{sum(counts)} distinct crash images in all")
        assert sum(counts) >= 10_000
