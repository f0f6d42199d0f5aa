"""What the figures were measured on. A figure without this means nothing."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any


def describe(folder: Path) -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "kernel": f"{platform.system()} {platform.release()}",
        "huge_pages": _huge_pages(),
        "file_system": file_system(folder),
        "python": _python(),
        "load_average": _load_average(),
    }


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on."""
    folder = folder.resolve()
    best, kind = -1, "unknown"
    for line in _lines("/proc/self/mounts"):
        point, name = line.split()[1:3]
        mount = Path(point.replace("\\040", " "))
        if (mount == folder or mount in folder.parents) and len(mount.parts) >= best:
            best, kind = len(mount.parts), name
    return kind


class Neighbours:
    """How many cores others keep busy while this is alive: what a figure may owe to them."""

    def __init__(self) -> None:
        self._start = time.monotonic(), self._others()

    def cores(self) -> float | None:
        """On average, since the start; None where the system does not say."""
        (then, before), now, after = self._start, time.monotonic(), self._others()
        if before is None or after is None:
            return None
        return round(max(0.0, after - before) / max(now - then, 1e-9), 2)

    @staticmethod
    def _others() -> float | None:
        """Seconds of processor time that this process and its finished children did not use."""
        lines = _lines("/proc/stat")
        if not lines:
            return None
        user, nice, system, _idle, _waiting, irq, soft, steal = map(int, lines[0].split()[1:9])
        ticks = user + nice + system + irq + soft + steal
        return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _cpu_model() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _huge_pages() -> str:
    setting = " ".join(_lines("/sys/kernel/mm/transparent_hugepage/enabled"))
    return setting.partition("[")[2].partition("]")[0] or "unknown"


def _python() -> str:
    free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    build = "free-threaded" if free_threaded else "GIL"
    return (
        f"{platform.python_implementation()} {platform.python_version()} "
        f"({build} build{', GIL on' if free_threaded and gil else ''})"
    )


def _load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
