"""What the server of a RemoteStore is, and what it promises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Capabilities:
    """What `RemoteStore.capabilities` tells; as of the last connection that was made."""

    backend: Literal["pykv", "redis", "valkey"]
    """What answers.  What only speaks the protocol counts as "redis"."""
    version: str
    durable_writes: Literal["always", "interval", "never", "memory", "unknown"]
    """When a write that returned is on disk: as the sync modes of `pykv.open`; "memory": not, or
    with a snapshot now and then; "unknown": the server does not say."""
    sync_per_write: bool
    """Whether `put(..., sync=True)` and `sync()` can be promised."""
    compare_and_set: Literal["native", "watch"]
    """How `replace` is done: by one command, or by WATCH, MULTI and EXEC, again while others write
    the key.  Atomic both ways."""
    atomic_batches: bool = True
    """A batch is seen whole or not at all."""
    snapshot_iteration: bool = False
    """Whether iteration shows the store as it was at one moment."""


# The first one that INFO has a version of: what imitates Redis tells a redis_version, too.
BACKENDS: tuple[Literal["pykv", "valkey", "redis"], ...] = ("pykv", "valkey", "redis")
NATIVE_SINCE = {"pykv": (0,), "valkey": (8, 1), "redis": (8, 4)}  # SET ... IFEQ


def capabilities_of(info: Mapping[str, str], appendfsync: str | None) -> Capabilities:
    """From the fields of INFO, and the setting appendfsync where the server tells it."""
    backend: Literal["pykv", "redis", "valkey"] = "redis"
    for name in BACKENDS:
        if info.get(f"{name}_version"):
            backend = name
            break
    version = info.get(f"{backend}_version", "unknown")
    durable: Literal["always", "interval", "never", "memory", "unknown"] = "unknown"
    if info.get("aof_enabled") == "0":
        durable = "memory"
    elif info.get("aof_enabled") != "1":
        pass  # appendfsync has a value also where there is no log
    elif appendfsync == "always":
        durable = "always"
    elif appendfsync == "everysec":
        durable = "interval"
    elif appendfsync == "no":
        durable = "never"
    native = _numbers(version) >= NATIVE_SINCE[backend]
    return Capabilities(
        backend=backend,
        version=version,
        durable_writes=durable,
        sync_per_write=durable == "always",
        compare_and_set="native" if native else "watch",
    )


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def info_fields(reply: bytes) -> dict[str, str]:
    """INFO's lines `name:value`."""
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and line[:1] != "#")
