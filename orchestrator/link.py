"""Messages between controller and supervisor: JSON lines over a stream socket, never blocking.

Standard library only (the supervisor uses it).
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

Message = dict[str, Any]

_CHUNK = 1 << 16
_LINE_LIMIT = 32 << 20
_BACKLOG_LIMIT = 1 << 20


class LinkError(RuntimeError):
    """The other end sent something that is no message."""


class Link:
    """One end of a conversation. Give `fileno()` to a selector, call `receive` when readable."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._incoming = b""
        self._outgoing = b""
        self.closed = False

    @classmethod
    def dial(cls, path: Path) -> Link:
        """Connect to a listening end. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def behind(self) -> bool:
        """True while the other end does not keep up: leave out what may be left out."""
        return len(self._outgoing) > _BACKLOG_LIMIT

    def send(self, message: Message) -> None:
        """Queue a message and send what the socket takes now."""
        self._outgoing += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        while self._outgoing and not self.closed:
            try:
                sent = self._socket.send(self._outgoing)
            except BlockingIOError:
                return
            except OSError:
                # Whether the peer is gone is learnt from reading, which also yields its last words.
                self._outgoing = b""
                return
            self._outgoing = self._outgoing[sent:]

    def receive(self) -> list[Message]:
        """The whole messages that have arrived; sets `closed` at the end of the conversation.

        Raises LinkError on a line that is too long or no JSON object.
        """
        while not self.closed:
            try:
                chunk = self._socket.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                chunk = b""
            if not chunk:
                self.closed = True
            self._incoming += chunk
            if len(self._incoming) > _LINE_LIMIT:
                raise LinkError(f"a message is longer than {_LINE_LIMIT} bytes")
        *lines, self._incoming = self._incoming.split(b"\n")
        return [_parse(line) for line in lines if line]

    def close(self) -> None:
        self.closed = True
        self._socket.close()


def listen(path: Path) -> socket.socket:
    """A listening Unix socket in a private directory, non-blocking.

    It takes the place of one that a killed predecessor left there.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(4)
    listener.setblocking(False)
    return listener


def _parse(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise LinkError(f"not a message: {line[:80]!r}: {error}") from error
    if not isinstance(message, dict):
        raise LinkError(f"not a message: {line[:80]!r}")
    return message
