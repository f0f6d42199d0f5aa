"""What the tests of the server share: a client of raw bytes, and `pykv serve` in a process of its own."""

import contextlib
import socket
import subprocess
import sys
import time

from conftest import TESTS, python_environment

PATIENCE = 30  # seconds; nothing waits so long unless it hangs


def elsewhere(environment=None):
    """Where another interpreter is started, so that it finds the pykv that is tested: not in the folder of the sources."""
    return {"cwd": TESTS, "env": python_environment(**(environment or {}))}


class Raw:
    """A connection that sends bytes and reads replies."""

    def __init__(self, address, timeout=PATIENCE):
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, timeout)
        self.socket.settimeout(timeout)
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _more(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the server has closed the connection")
        self.rest += data

    def line(self):
        while b"\r\n" not in self.rest:
            self._more()
        line, _, self.rest = self.rest.partition(b"\r\n")
        return line

    def reply(self):
        """One reply: bytes, int, list, None, or an Exception."""
        line = self.line()
        kind, text = line[:1], line[1:]
        if kind == b"+":
            return text
        if kind == b"-":
            return RuntimeError(text.decode())
        if kind == b":":
            return int(text)
        if kind == b"$":
            size = int(text)
            if size < 0:
                return None
            while len(self.rest) < size + 2:
                self._more()
            data, self.rest = self.rest[:size], self.rest[size + 2 :]
            return data
        if kind in b"*>~":
            count = int(text)
            return None if count < 0 else [self.reply() for _ in range(count)]
        raise AssertionError(f"a reply that begins with {line!r}")

    def ask(self, *words):
        self.send(request(*words))
        return self.reply()

    def at_end(self):
        """Has the server closed the connection? Waits for it."""
        try:
            while True:
                self._more()
        except (EOFError, ConnectionError):
            return True

    def silent(self, seconds=0.2):
        """Nothing comes for a while."""
        self.socket.settimeout(seconds)
        try:
            self._more()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False


def request(*words):
    words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def wait_until(condition, message="it never came"):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.005)


@contextlib.contextmanager
def serving(*arguments, env=None, **options):
    """`pykv serve` in a process: gives it, with .address; killed at the end if it still runs."""
    command = [sys.executable, "-m", "pykv", "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **elsewhere(env),
        **options,
    )
    try:
        line = process.stdout.readline()
        if not line.startswith("pykv: serving "):
            raise AssertionError(f"it did not start: {line!r} {process.stderr.read()}")
        process.address = ("127.0.0.1", int(line.rsplit(":", 1)[1]))
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
