"""Fuzz targets, tests/fuzz/fuzz_*.c: each runs on its corpus, under address and UB sanitizers.

With ``--fuzz-seconds N`` each also runs under libFuzzer (needs clang) for so long, from the corpus
on, and prints how many inputs it tried, in how many seconds of the processor, and how many branches
they reached. An input that ends it is kept in build/c-tests/fuzz/TARGET.found.
"""

import os
import re
import resource
import subprocess
from functools import cache

import c_build
import pytest

FOLDER = c_build.ROOT / "tests" / "fuzz"
TARGETS = sorted(FOLDER.glob("fuzz_*.c"))


@cache
def built(variant_name, target):
    variant = c_build.Variant(variant_name)
    if isinstance(variant.probe, str):
        pytest.skip(f"{variant_name}: {variant.probe}")
    more = [] if variant_name == "fuzz" else [FOLDER / "replay.c"]
    try:
        return variant, variant.program(target, *more)
    except c_build.BuildError as error:
        pytest.fail(str(error), pytrace=False)


def corpus_of(target):
    return FOLDER / "corpus" / target.stem.removeprefix("fuzz_")


@pytest.mark.parametrize("target", TARGETS, ids=lambda p: p.stem)
def test_corpus(target):
    variant, program = built("asan", target)
    done = variant.run(program, corpus_of(target))
    if done.returncode != 0:
        pytest.fail(f"exit code {done.returncode}\n{done.stdout}", pytrace=False)
    assert f"{len(list(corpus_of(target).iterdir()))} files" in done.stdout


def words_of(target):
    """What libFuzzer tries: what commands know, and what requests are made of; or what files are."""
    if target.stem not in ("fuzz_command", "fuzz_resp"):
        return ["PKVF", "PKVB", r"PYKVLOG\x0a", r"PYKVCKP\x0a", r"PYKVEND\x0a"]
    server = c_build.ROOT / "csrc" / "server"
    source = "".join(path.read_text() for path in sorted(server.glob("*.[ch]")))
    # Commands, subcommands, parameters, options.
    words = re.findall(r'(?:^ *X\(|\{|kv_word_is\([^"\n]*, )"([\w-]+)"', source, re.MULTILINE)
    words += [r"\x0d\x0a", r"\x0d\x0a\x0d\x0a", "*1", "*2", "*3", "$1", "$3", "$-1", r"\\x00", r"\\xc3"]
    words += ["-1", "0", "1", "65535", "70000", "9223372036854775807", "-9223372036854775808", "1e300", "#1", "u63", "i64"]
    return list(dict.fromkeys(words))


def processor_seconds():
    """Of all programs that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda p: p.stem)
def test_fuzz(target, request, capsys):
    seconds = request.config.option.fuzz_seconds
    if seconds == 0:
        pytest.skip("--fuzz-seconds was not given")
    variant, program = built("fuzz", target)
    found = variant.folder / f"{target.stem}.found"
    found.mkdir(exist_ok=True)
    grown = found / "corpus"  # what libFuzzer adds to; the repository's corpus is only read
    grown.mkdir(exist_ok=True)
    words = found / "words"
    words.write_text("".join(f'"{word}"\n' for word in words_of(target)))
    # Leaks are looked for at the end: in between, what a pool has mapped is not seen as in use.
    limits = ["-max_len=4096", "-malloc_limit_mb=256", "-timeout=20", "-detect_leaks=0"]
    before = processor_seconds()
    done = subprocess.run(
        [*variant.probe, program, f"-max_total_time={seconds}", "-print_final_stats=1", *limits]
        + [f"-dict={words}", f"-artifact_prefix={found}/", grown, corpus_of(target)],
        env={**os.environ, **c_build.RUN_ENV},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + 300,
        check=False,
    )
    used = processor_seconds() - before
    executed = re.search(r"number_of_executed_units:\s*(\d+)", done.stdout)
    count = executed.group(1) if executed else "an unknown number of"
    reached = re.findall(r"\bcov: (\d+)", done.stdout)[-1:]
    with capsys.disabled():
        outcome = "no finding" if done.returncode == 0 else "A FINDING"
        print(f"\n{target.stem}: {count} inputs in {used:.0f} s of the processor, {outcome}; branches: {reached}")
    if done.returncode != 0:
        pytest.fail(f"exit code {done.returncode}\n{done.stdout[-8000:]}", pytrace=False)
