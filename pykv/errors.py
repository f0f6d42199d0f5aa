"""Exceptions of a store on a server, which the C core never raises."""

from __future__ import annotations

from pykv import _core


class UnsupportedError(_core.Error):
    """The server cannot do, or does not promise, what was asked; nothing was changed."""


class ConnectionLostError(_core.StorageError, ConnectionError):
    """The server cannot be reached, or went away, or did not answer in time."""

    maybe_done: bool = False
    """True: a write was sent and no answer came, so that it may have been done, whole, or not."""
