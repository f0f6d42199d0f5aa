"""A real redis-server for a test: its own process, folder and socket."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def free_port():
    """A port to listen on a moment later: below those that a system gives to whoever asks for any, as clients do."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """Runs until stop(); start() again finds what it had saved."""

    def __init__(self, *options):
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed")
        pytest.importorskip("redis", reason="redis-py is not installed")
        # Not tmp_path: the path of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="pykv-redis-"))
        self.options = options
        self.process = None
        self.port = 0
        self.start()

    @property
    def url(self):
        return f"unix://{self.folder}/socket"

    def listen(self):
        """Takes a free TCP port, too; gives its URL."""
        self.stop()
        self.port = free_port()
        self.start()
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        settings = {"port": self.port, "bind": "127.0.0.1", "unixsocket": self.folder / "socket", "dir": self.folder,
                    "save": "", "daemonize": "no"}  # fmt: skip
        command = ["redis-server"]
        for name, value in settings.items():
            command += [f"--{name}", str(value)]
        # A sanitizer that is loaded into this process is not for that one.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        self.process = subprocess.Popen(
            [*command, *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self.process.poll() is None, "redis-server did not start"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def _answers(self):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.folder / "socket"))
                probe.sendall(b"PING\r\n")
                return probe.recv(100)[:5] in (b"+PONG", b"-NOAU")
            except OSError:
                return False

    def stop(self, sign=signal.SIGTERM):
        """With the process that writes a snapshot, if there is one."""
        if self.process is not None:
            os.killpg(self.process.pid, sign)
            self.process.wait(timeout=60)
            self.process = None

    def end(self):
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
