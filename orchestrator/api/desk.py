"""What all operations share: the head, threads that may block, who waits, and how to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from orchestrator.api.watchers import Watchers
from orchestrator.service.head import Head
from orchestrator.service.tokens import Token

T = TypeVar("T")

CALLER = "muster.caller"
"""Under this key a request's scope has its `Token`."""


@dataclass(frozen=True)
class Limits:
    """How much at once, in what time (seconds). More of it is turned away, and told so."""

    requests: int = 512
    waiting: int = 256
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    keep_alive_comment: float = 15.0


@dataclass(frozen=True)
class Ending:
    """How the head is to end: leaving ranks running, or when no job runs any more."""

    keep_ranks: bool = False
    drain: bool = False


class Desk:
    """Made once a server. `end` is called when somebody orders the head to go down."""

    def __init__(
        self,
        head: Head,
        *,
        end: Callable[[Ending], None],
        warnings: tuple[str, ...] = (),
        limits: Limits | None = None,
    ) -> None:
        self.head = head
        self.limits = limits or Limits()
        self.end = end
        self.warnings = warnings
        self.watchers = Watchers(head.news, self.limits.waiting)
        self._readers = ThreadPoolExecutor(8, "api-reader")
        self._tools = ThreadPoolExecutor(2, "api-tools")

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call what reads the store or files, off the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)

    async def use_tools(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call what takes seconds or minutes: tools of devices, reading whole checkpoints."""
        return await asyncio.get_running_loop().run_in_executor(self._tools, function, *arguments)

    def close(self) -> None:
        """Wait for the threads that still read; nothing new is begun."""
        self._readers.shutdown(cancel_futures=True)
        self._tools.shutdown(wait=False, cancel_futures=True)


def caller(request: Request) -> Token:
    """Who asks."""
    token: Token = request.scope[CALLER]
    return token
