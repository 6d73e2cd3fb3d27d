"""A connection of the server with bounds on what a client may send, hold and keep us waiting for.

uvicorn bounds neither the head of a request nor the time that it takes, nor that of reading an
answer. Refusals here are written past the application: it never saw a request.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchestrator.api.encoding import encoded
from orchestrator.api.problems import MEDIA_TYPE, document

CONNECTIONS = 1024
HEAD_BYTES = 32 << 10
HEADERS = 100
HEAD_SECONDS = 15.0
MESSAGE_BYTES = 16 << 20
"""After so much of one request the connection is cut: nobody reads beyond a body's limit."""
STALLED_SECONDS = 60.0
"""For so long a client may leave an answer unread."""


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head = self._message = self._headers = 0
        self._too_large = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self._refuse(503, f"{CONNECTIONS} connections are open already")
        else:
            self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._message += len(data)
        if self._message > MESSAGE_BYTES:
            self.transport.abort()
            return
        super().data_received(data)
        if not self._in_head and self.cycle.response_complete:
            # Bytes behind a request that begin no other one: they do not keep a connection.
            self._in_head = True
            self._time_head()
        if self._in_head and self._message > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the head of a request holds at most {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._in_head = True
            self._time_head()
        self._head = self._headers = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._headers += 1
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._message = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self._refuse(431, f"a head holds at most {HEAD_BYTES} bytes and {HEADERS} fields")
        else:
            self._refuse(400, "this is no HTTP request")

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES or self._headers > HEADERS:
            self._too_large = True
            raise ValueError("too large a head")  # the parser ends with `send_400_response`

    def _time_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _late(self) -> None:
        if not self.transport.is_closing():
            self._refuse(408, f"no request came within {HEAD_SECONDS:g} s")

    def _refuse(self, status: int, detail: str) -> None:
        body = encoded(document(status, detail))
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
