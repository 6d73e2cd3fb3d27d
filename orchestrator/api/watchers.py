"""Requests that wait for word of a job: bounded in number, woken from any thread, losing nothing.

Whoever waits begins to watch before it reads. So what is recorded after the reading wakes it, and
what was recorded before is in what it read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.api.problems import Refusal
from orchestrator.service.news import News


class Watchers:
    """All who wait, by job. Everything but `_hear` is called in the thread of the loop."""

    def __init__(self, news: News, most: int) -> None:
        self._news, self._most = news, most
        self._events: dict[str, set[asyncio.Event]] = {}
        self._count = 0
        self._unsubscribe: Callable[[], None] = lambda: None
        self.closed = False

    def open(self) -> None:
        """Listen from now on, for the running loop."""
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = self._news.subscribe(self._hear)

    def close(self) -> None:
        """Wake everybody for the last time: the server is going down."""
        if self.closed:
            return
        self.closed = True
        self._unsubscribe()
        for job in tuple(self._events):
            self._wake(job)

    @property
    def count(self) -> int:
        """How many wait now."""
        return self._count

    @contextmanager
    def watch(self, job: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something is recorded of the job. Raises Refusal."""
        if self._count >= self._most:
            raise Refusal(503, f"{self._most} requests wait for news already; ask without waiting")
        event = asyncio.Event()
        self._count += 1
        self._events.setdefault(job, set()).add(event)
        try:
            yield event
        finally:
            self._count -= 1
            others = self._events[job]
            others.discard(event)
            if not others:
                del self._events[job]

    def _hear(self, job: str, _: int) -> None:
        if job in self._events:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._wake, job)

    def _wake(self, job: str) -> None:
        for event in self._events.get(job, ()):
            event.set()


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event; whether it was set in time."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True
