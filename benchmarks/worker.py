"""Runs one function in a fresh interpreter, so that no benchmark inherits another's heap.

`call_fresh` is the caller's side; `python -m benchmarks.worker` is the other: a request on standard
input, the result, as JSON, on standard output.
"""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent


class WorkerFailed(Exception):
    """The function raised (its traceback went to standard error), or its process died."""


def call_fresh(module: str, function: str, *, dies: bool = False, **arguments: Any) -> Any:
    """The result of `function(**arguments)`; `dies`: it is expected to kill itself by SIGKILL."""
    request = json.dumps([module, function, arguments])
    command = [sys.executable, "-m", "benchmarks.worker"]
    done = subprocess.run(
        command, check=False, input=request, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    expected = -signal.SIGKILL if dies else 0
    if done.returncode != expected:
        raise WorkerFailed(f"{module}.{function} ended with {done.returncode}, not {expected}")
    return None if dies else json.loads(done.stdout)


def main() -> None:
    module, function, arguments = json.load(sys.stdin)
    result = getattr(importlib.import_module(module), function)(**arguments)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
