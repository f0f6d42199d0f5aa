"""Figures of a server for Prometheus.  Needs prometheus_client (`pip install prometheus_client`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from pykv.server import Server

_GAUGES = {
    "clients": "Connections.",
    "entries": "Keys.",
    "data_bytes": "Bytes of keys and values.",
    "memory_bytes": "Bytes taken from the system for entries and tables.",
    "memory_charged": "Bytes that max_memory bounds.",
    "max_memory": "That bound; 0: none.",
    "query_buffer_bytes": "Bytes of requests that are not complete.",
    "log_bytes": "Bytes of the log's segments on disk.",
    "checkpoint_bytes": "Bytes of the last checkpoint.",
    "failed": "1 when a write or sync failed and writes are refused.",
}
_COUNTERS = {
    "connections": "Connections accepted.",
    "connections_refused": "Connections over the limit.",
    "commands": "Commands run.",
    "hits": "Reads that found their key.",
    "misses": "Reads that did not.",
    "bytes_in": "Bytes received.",
    "bytes_out": "Bytes sent.",
    "output_limit_closes": "Clients closed because they did not read.",
    "idle_closes": "Clients closed because they were silent.",
    "commits": "Commits of the store since it was opened.",
    "syncs": "Syncs of the log.",
    "checkpoints": "Checkpoints made.",
    "checkpoint_failures": "Checkpoints that failed.",
    "expired": "Keys that expired.",
    "evicted": "Keys removed for want of memory.",
}


class _Collector:
    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Any]:
        figures = self._server._figures()
        if not figures:  # stopped
            return
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"pykv_{name}", text, value=figures[name])
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"pykv_{name}", text, value=figures[name])
        lag = figures["lsn"] - figures["durable_lsn"]
        yield GaugeMetricFamily("pykv_durable_lag_bytes", "Bytes of log not on disk yet.", value=lag)
        yield from _latencies(figures["calls"])


def _latencies(calls: dict[str, tuple[int, float, int, tuple[int, ...]]]) -> Iterator[Any]:
    seconds = HistogramMetricFamily(
        "pykv_command_seconds", "Time that commands took, without waiting for the disk.", labels=["command"]
    )
    failed = CounterMetricFamily("pykv_command_failures", "Commands that failed.", labels=["command"])
    for name, (count, total, failures, latency) in calls.items():
        below, buckets = 0, []
        for i, more in enumerate(latency):
            below += more
            buckets.append((repr(2.0**i / 1e6), below))
        buckets.append(("+Inf", count))
        seconds.add_metric([name], buckets, total)
        failed.add_metric([name], failures)
    yield seconds
    yield failed


@contextlib.contextmanager
def exposed(server: Server, port: int) -> Iterator[int]:
    """Answers HTTP on 127.0.0.1:port; gives the port."""
    registry = CollectorRegistry()
    registry.register(_Collector(server))
    httpd, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        yield httpd.server_port
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
