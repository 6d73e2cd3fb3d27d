"""Answers that go on: what they hold is given back when the client leaves, however it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Stream(StreamingResponse):
    """Streams `parts`; `held` is closed at the end, even if not one part was asked for."""

    def __init__(self, parts: AsyncIterator[bytes], held: ExitStack, media_type: str) -> None:
        # A proxy that waits for more would hide what is new.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(parts, media_type=media_type, headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)
