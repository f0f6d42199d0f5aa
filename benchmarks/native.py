"""C helpers of the benchmarks: compiled at run time and called through ctypes.

They need a C compiler (the one that built Python, or `cc`).
"""

from __future__ import annotations

import ctypes
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class NoCompiler(Exception):
    """There is no C compiler, or the sources do not compile."""


def load(*sources: Path) -> ctypes.CDLL:
    """The library made of these sources, which may include pykv's headers."""
    configured = shlex.split(sysconfig.get_config_var("CC") or "")[:1]
    reasons = []
    for compiler in [*configured, "cc", "gcc", "clang"]:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "helper.so")
            command = [compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", "-pthread"]
            command += [f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(target), "-lm"]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
                return ctypes.CDLL(str(target))
            except subprocess.CalledProcessError as error:
                reasons.append(f"{compiler}: {error.stderr.strip().splitlines()[0]}")
            except OSError as error:
                reasons.append(f"{compiler}: {error.strerror}")
    raise NoCompiler("; ".join(reasons))
