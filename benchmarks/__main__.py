"""Command line of the benchmarks.

Prints the machine, the seed and one table for each benchmark; a target that is missed is printed
and changes nothing else. Exits with 1 only when a benchmark could not run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import machine
from .catalogue import BENCHMARKS, run
from .data import pykv
from .runner import Settings
from .worker import WorkerFailed

_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures pykv against the disk, dict and its peers, in turns.",
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which (default: all; see --list)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, about two minutes in all"
    )
    parser.add_argument("--dir", metavar="DIR", help="where stores are made: on a disk, not tmpfs")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns (default 5, --quick 3)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of keys and orders")
    parser.add_argument("--json", metavar="FILE", help="write all figures there, too")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and exit")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark is called {name!r}; --list lists them")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _default_folder() -> Path:
    """The system's folder for temporary files, unless that is in memory."""
    folder = Path(tempfile.gettempdir())
    return Path.cwd() if machine.file_system(folder) in _MEMORY_FILE_SYSTEMS else folder


def _print_head(about: dict[str, Any], settings: Settings) -> None:
    print(f"cpu          {about['cpu']}, {about['cores']} cores")
    print(f"memory       {about['memory_bytes'] >> 20} MiB, huge pages {about['huge_pages']}")
    print(f"kernel       {about['kernel']}, load average {about['load_average']}")
    print(f"file system  {about['file_system']} ({settings.folder})")
    print(f"python       {about['python']}, pykv {about['pykv']}")
    print(f"seed {settings.seed}, {settings.rounds} rounds{', quick' if settings.quick else ''}")
    print("figures: median [min..max]; ratio: how many times as good as 'against', round by round")
    if about["file_system"] in _MEMORY_FILE_SYSTEMS:
        print("! this file system is in memory: durable rows say nothing; use --dir")
    if settings.quick:
        print("! quick: small sizes; targets are meant for the full ones")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.list:
        for benchmark in BENCHMARKS.values():
            print(f"{benchmark.name:16} {benchmark.title}")
        return 0
    folder = Path(options.dir).resolve() if options.dir else _default_folder()
    rounds = options.rounds or (3 if options.quick else 5)
    settings = Settings(str(folder), rounds, options.seed, options.quick)
    about = machine.describe(folder) | {"pykv": getattr(pykv, "__version__", "unknown")}
    _print_head(about, settings)
    results, failed = _run_all(options.names or list(BENCHMARKS), settings)
    if options.json:
        head = {"machine": about, "seed": settings.seed, "rounds": rounds, "quick": options.quick}
        text = json.dumps(head | {"benchmarks": results}, indent=1, ensure_ascii=False)
        Path(options.json).write_text(text + "\n")
    return 1 if failed else 0


def _run_all(names: list[str], settings: Settings) -> tuple[list[dict[str, Any]], bool]:
    results, failed = [], False
    for name in names:
        title = BENCHMARKS[name].title
        start, neighbours = time.perf_counter(), machine.Neighbours()
        try:
            report = run(name, settings)
        except WorkerFailed as error:
            print(f"\n{name}: could not run: {error}", flush=True)
            failed = True
            continue
        took = time.perf_counter() - start
        others = neighbours.cores()
        print(f"\n{name}: {title}; sync: {report.sync}; {took:.0f} s, others used {others} cores")
        print(report.table(), flush=True)
        facts = {"name": name, "title": title, "seconds": took, "cores_used_by_others": others}
        results.append(facts | report.as_json())
    return results, failed


if __name__ == "__main__":
    sys.exit(main())
