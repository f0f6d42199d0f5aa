"""A progress display for one task at a time, on standard error.

On a terminal it is one line, redrawn in place: bar, percentage, time left. Anywhere else
it is a plain line at most every few seconds, so that a log stays readable.
"""

import io
import shutil
import sys
import time

REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 2.0


class Progress:
    """Use as a context manager; `update()` as often as you like, it draws only when it is due."""

    def __init__(self, label, total, stream=None):
        self.label = label
        self.total = max(total, 1)
        self.note = ""
        self.stream = stream or sys.stderr or io.StringIO()
        self.terminal = self.stream.isatty()
        self.interval = REDRAW_SECONDS if self.terminal else PLAIN_SECONDS
        self.done = 0
        self.started = self.drawn = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if exc_info[0] is None:
            self._draw(time.monotonic())
        self._clear(keep=exc_info[0] is None)

    def update(self, done, note=""):
        self.done, self.note = done, note
        now = time.monotonic()
        if now - self.drawn >= self.interval:
            self._draw(now)

    def say(self, text):
        """Prints a line that stays, above the bar."""
        self._clear(keep=False)
        self.stream.write(text + "\n")
        if self.terminal:
            self._draw(time.monotonic())
        self.stream.flush()

    def _draw(self, now):
        self.drawn = now
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r" + self._line(now, width)[:width].ljust(width))
        else:
            self.stream.write(self._line(now) + "\n")
        self.stream.flush()

    def _clear(self, keep):
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\n" if keep else "\r" + " " * width + "\r")
            self.stream.flush()

    def _line(self, now, width=None):
        part = min(self.done / self.total, 1.0)
        seconds = now - self.started
        time_text = f"{seconds:.1f} s"
        if 0 < part < 1:
            time_text = f"{seconds * (1 - part) / part:.0f} s left"
        tail = "  ".join(filter(None, (f"{part:4.0%}", time_text, self.note)))
        head = f"{self.label:<10}"
        if width is None:
            return f"{head} {tail}"
        return f"{head} {self._bar(part, min(width - len(head) - len(tail) - 2, 30))} {tail}"

    def _bar(self, part, size):
        if size < 4:
            return ""
        unicode = (self.stream.encoding or "").lower().startswith("utf")
        full, empty = "█░" if unicode else "#."
        filled = int(part * size)
        return full * filled + empty * (size - filled)
